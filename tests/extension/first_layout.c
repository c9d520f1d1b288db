/* A callback against the very first layout of the ABI, 1.0 up to `drop`, as it was on the day of its
 * release. It includes no header of the project and is never brought up to date: what it builds must
 * load in every later 1.x.
 *
 * It counts the training batches, logs the count as "first_batches" at the end of each, and stops the
 * run after `most` of them. */

#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct text {
    const char *start;
    size_t length;
};

struct list {
    const void *start;
    size_t length;
};

struct filter {
    uint32_t hook, once;
    uint64_t every, first_epoch, last_epoch;
};

struct call {
    uint32_t abi_major, abi_minor;
    size_t size;
    uint32_t hook, training;
    uint64_t epoch, iter, step_count;
    uint32_t (*batch_size)(const struct call *, uint64_t *);
    uint32_t (*loss)(const struct call *, double *);
    uint32_t (*metric)(const struct call *, uint32_t, struct text, uint64_t, double *);
    uint32_t (*tensor)(const struct call *, uint32_t, void *);
    uint32_t (*log)(const struct call *, uint32_t, struct text, double);
    void (*stop)(const struct call *, struct text);
    void (*skip_batch)(const struct call *);
    void (*skip_epoch)(const struct call *);
    void (*fail)(const struct call *, struct text);
    void *(*python)(const struct call *);
};

struct handle;

struct table {
    uint32_t abi_major, abi_minor;
    size_t size;
    uint64_t hooks;
    double weight;
    struct text name, crate_name, crate_version;
    struct list filters, after, before;
    uint32_t (*call)(void *, const struct call *);
    void (*drop)(struct handle *);
};

struct handle {
    const struct table *table;
    void *state;
};

struct counter {
    uint64_t batches, most;
};

enum { TRAIN_BATCH_END = 9 };
enum { OK = 0, FAILED = 1, HOST = 0x100 };
enum { GIVEN = 1 };

_Static_assert(sizeof(struct table) == 144, "the first table");
_Static_assert(sizeof(struct call) == 128, "the first call");
_Static_assert(sizeof(struct filter) == 32, "the first filter");

static struct text text(const char *start) {
    return (struct text){start, strlen(start)};
}

static int drops;

static uint32_t call(void *state, const struct call *call) {
    struct counter *counter = state;
    uint64_t samples;
    double loss;
    if (call->abi_major != 1 || call->size < sizeof(struct call)) {
        return FAILED;
    }
    if (call->hook != TRAIN_BATCH_END) {
        call->fail(call, text("this breakpoint was not asked for"));
        return FAILED;
    }
    if (call->batch_size(call, &samples) != GIVEN || call->loss(call, &loss) != GIVEN) {
        call->fail(call, text("a batch has a size and a loss"));
        return FAILED;
    }
    counter->batches += 1;
    if (call->log(call, 0, text("first_batches"), (double)counter->batches) != GIVEN) {
        return HOST;
    }
    if (counter->batches == counter->most) {
        call->stop(call, text("the first layout has had enough"));
    }
    return OK;
}

static void drop(struct handle *handle) {
    free(handle->state);
    handle->state = NULL;
    drops += 1;
}

/* The table lies at the very end of a page, and the one behind it cannot be read: a host that reads
 * more than the 144 bytes that there are does not survive it. */
static const struct table *at_the_end_of_a_page(const struct table *table) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, page, PROT_NONE) != 0) {
        return NULL;
    }
    return memcpy(pages + page - sizeof *table, table, sizeof *table);
}

/* A handle on a callback that stops after `most` batches; NULL when there is no memory. The table
 * stays as long as the process, as the ABI wants it. */
struct handle *first_new(uint64_t most) {
    static const struct table *kept;
    if (kept == NULL) {
        /* Every second batch, by a filter. */
        static const struct filter filters[] = {{TRAIN_BATCH_END, 0, 2, 1, UINT64_MAX}};
        static struct text after[1];
        after[0] = text("Metrics");
        const struct table table = {
            .abi_major = 1,
            .abi_minor = 0,
            .size = sizeof table,
            .hooks = UINT64_C(1) << TRAIN_BATCH_END,
            .weight = -1.5,
            .name = text("FirstLayout"),
            .crate_name = text("first-layout"),
            .crate_version = text("1.0.0"),
            .filters = {filters, 1},
            .after = {after, 1},
            .call = call,
            .drop = drop,
        };
        kept = at_the_end_of_a_page(&table);
    }
    struct handle *handle = malloc(sizeof *handle);
    struct counter *counter = malloc(sizeof *counter);
    if (kept == NULL || handle == NULL || counter == NULL) {
        free(handle);
        free(counter);
        return NULL;
    }
    *counter = (struct counter){0, most};
    *handle = (struct handle){kept, counter};
    return handle;
}

void first_free(struct handle *handle) {
    handle->table->drop(handle);
    free(handle);
}

int first_drops(void) {
    return drops;
}
