"""Files that a thread writes: in their order, the newest one of those that may be replaced."""

import threading
import time

from lumbre.files.writer import Writer


class Slow:
    """Writes that last until they are let go."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.go = threading.Semaphore(0)

    def __call__(self, name: str) -> None:
        assert self.go.acquire(timeout=30)
        self.written.append(name)


def writer(slow: Slow, told: list[int] | None = None) -> Writer:
    return Writer(lambda: told.append(1) if told is not None else None)


def test_of_one_owner_only_the_newest_waits() -> None:
    slow, told = Slow(), []
    thread = writer(slow, told)
    mine, other = object(), object()
    thread.put(mine, "a", lambda: slow("a"), may_be_replaced=True)
    while not slow.written and threading.active_count() < 2:
        time.sleep(0.001)
    slow_down = threading.Event()
    slow_down.wait(0.05)  # "a" is under way
    thread.put(other, "other", lambda: slow("other"))
    for name in "bcd":
        thread.put(mine, name, lambda name=name: slow(name), may_be_replaced=True)
    slow.go.release(10)
    thread.join()
    assert slow.written == ["a", "other", "d"]
    assert [(done.path, done.error) for done in thread.done()] == [
        ("a", None),
        ("other", None),
        ("d", None),
    ]
    assert thread.done() == []
    thread.close()
    assert len(told) == 3


def test_of_those_that_must_all_be_written_one_waits_and_the_next_is_waited_for() -> None:
    slow, owner = Slow(), object()
    thread = writer(slow)
    entered: list[str] = []

    def put() -> None:
        for name in "abcd":
            thread.put(owner, name, lambda name=name: slow(name))
            entered.append(name)

    putting = threading.Thread(target=put)
    putting.start()
    putting.join(0.2)
    assert putting.is_alive()
    assert len(entered) < 4, "what is in memory has an end"
    slow.go.release(10)
    putting.join(30)
    thread.close()
    assert slow.written == ["a", "b", "c", "d"]


def test_what_goes_wrong_is_handed_on_and_ends_nothing() -> None:
    thread = Writer(lambda: None)
    errors = [OSError("full"), KeyError("odd")]

    def fail(error: Exception) -> None:
        raise error

    for error in errors:
        thread.put(object(), "x", lambda error=error: fail(error))
    written: list[int] = []
    thread.put(object(), "y", lambda: written.append(1))
    thread.close()
    assert [done.error for done in thread.done()] == [*errors, None]
    assert written == [1]


def test_nothing_is_begun_before_there_is_something_to_write() -> None:
    before = threading.active_count()
    thread = Writer(lambda: None)
    thread.join()
    assert threading.active_count() == before
    thread.close()
