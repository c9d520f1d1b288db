// The loop that is the limit of what a library on torch can reach: libtorch's own C++ frontend.
//
// rows_limit.py builds it against the torch that is installed and calls it inside of its own
// process, so that allocator, threads and kernels are the same on both sides.

#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/loss.h>
#include <torch/optim/sgd.h>

#include <time.h>

#include <cstdint>
#include <exception>
#include <iostream>
#include <vector>

namespace {

struct Batch {
  torch::Tensor x, y;
};

// What Python's time.process_time reads, too.
double process_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double train(torch::nn::Linear& model, const std::vector<Batch>& batches, int64_t steps,
             double lr) {
  torch::nn::CrossEntropyLoss criterion;
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(lr));
  model->train();
  size_t next = 0;
  const double start = process_seconds();
  for (int64_t step = 0; step < steps; ++step) {
    const Batch& batch = batches[next];
    optimizer.zero_grad();
    torch::Tensor loss = criterion(model(batch.x), batch.y);
    loss.backward();
    optimizer.step();
    if (++next == batches.size()) {
      next = 0;
    }
  }
  return process_seconds() - start;
}

}  // namespace

// Trains a linear layer on `count` batches of `size` samples, which come round until all of the
// steps are taken. `weight` and `bias` are where it begins, and in the end what it has come to.
// Returns the processor time of the loop alone, or a negative number where it has failed: no
// exception may reach the caller, which is not C++.
extern "C" double limit_train(float** xs, int64_t** ys, int64_t count, int64_t size,
                              int64_t features, int64_t classes, float* weight, float* bias,
                              int64_t steps, double lr) {
  try {
    // The batches are ready before the clock starts, as they are for the other sides.
    std::vector<Batch> batches;
    for (int64_t i = 0; i < count; ++i) {
      batches.push_back({torch::from_blob(xs[i], {size, features}, torch::kFloat32),
                         torch::from_blob(ys[i], {size}, torch::kInt64)});
    }
    torch::Tensor outer_weight = torch::from_blob(weight, {classes, features}, torch::kFloat32);
    torch::Tensor outer_bias = torch::from_blob(bias, {classes}, torch::kFloat32);

    torch::nn::Linear model(features, classes);
    {
      torch::NoGradGuard no_grad;
      model->weight.copy_(outer_weight);
      model->bias.copy_(outer_bias);
    }
    const double seconds = train(model, batches, steps, lr);
    outer_weight.copy_(model->weight.detach());
    outer_bias.copy_(model->bias.detach());
    return seconds;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return -1.0;
  }
}
