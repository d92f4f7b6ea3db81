// What torch offers to C++ only: an autograd node whose backward is a closure in Rust, reference counts, and what its
// allocator and its streams say of a GPU.
//
// Nothing is thrown across the border in either direction. Every function returns 0, or -1 with the message in
// qat_last_error(); the callback returns 0, or -1 with the message handed over by qat_set_callback_error().

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using at::Tensor;
using torch::autograd::variable_list;

namespace {

thread_local std::string last_error;
thread_local std::string callback_error;

template <typename F>
int guarded(F&& f) noexcept {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    try {
      last_error = e.what();
    } catch (...) {
      last_error.clear();
    }
  } catch (...) {
    last_error.clear();
  }
  return -1;
}

}  // namespace

extern "C" {
// Reads `saved`, takes the tensors of `grads_out` (null for an output that nothing depended on) on every path, writes
// owned tensors or null to `grad_in` (preset to null).
using qat_backward_fn = int (*)(void* closure, Tensor* const* saved, size_t n_saved, Tensor* const* grads_out,
                                size_t n_out, Tensor** grad_in, size_t n_in);
using qat_drop_fn = void (*)(void* closure);
}

namespace {

// Owns the closure from the moment it crosses the border, so that it is dropped once on every path.
struct Closure {
  void* data;
  qat_backward_fn backward;
  qat_drop_fn drop;

  Closure(void* data, qat_backward_fn backward, qat_drop_fn drop) : data(data), backward(backward), drop(drop) {}
  Closure(const Closure&) = delete;
  Closure& operator=(const Closure&) = delete;
  ~Closure() { drop(data); }
};

struct ClosureNode : torch::autograd::Node {
  std::unique_ptr<Closure> closure;
  std::vector<torch::autograd::SavedVariable> saved;
  size_t n_in = 0;
  bool released = false;

  variable_list apply(variable_list&& grads) override {
    TORCH_CHECK(!released, "the graph was freed by an earlier backward; keep it to go through it twice");
    // Nothing downstream depended on any output: no gradient is a zero gradient.
    bool any = false;
    for (auto& grad : grads) any |= grad.defined();
    if (!any) return variable_list(n_in);
    std::vector<Tensor> unpacked;
    unpacked.reserve(saved.size());
    for (auto& s : saved) unpacked.push_back(s.unpack());
    std::vector<Tensor*> pointers;
    for (auto& t : unpacked) pointers.push_back(&t);
    std::vector<Tensor*> raw(n_in, nullptr);
    // Moved, not copied: where nothing else holds a gradient, the closure may write to it.
    std::vector<std::unique_ptr<Tensor>> handed(grads.size());
    for (size_t i = 0; i < grads.size(); i++)
      if (grads[i].defined()) handed[i] = std::make_unique<Tensor>(std::move(grads[i]));
    std::vector<Tensor*> of_outputs(handed.size());
    for (size_t i = 0; i < handed.size(); i++) of_outputs[i] = handed[i].release();
    int rc;
    {
      at::AutoGradMode no_grad(false);
      rc = closure->backward(closure->data, pointers.data(), pointers.size(), of_outputs.data(), of_outputs.size(),
                             raw.data(), n_in);
    }
    variable_list out(n_in);
    for (size_t i = 0; i < n_in; i++) {
      std::unique_ptr<Tensor> owned(raw[i]);
      if (owned) out[i] = std::move(*owned);
    }
    if (rc != 0) throw std::runtime_error("backward closure: " + std::exchange(callback_error, {}));
    return out;
  }

  void release_variables() override {
    saved.clear();
    released = true;
  }

  std::string name() const override { return "QatClosure"; }
};

}  // namespace

extern "C" {

const char* qat_last_error() { return last_error.c_str(); }

// Called by the callback, on its own thread, just before it returns -1.
void qat_set_callback_error(const char* text, size_t len) {
  guarded([&] { callback_error.assign(text, len); });
}

// Makes all `outputs` depend on `inputs` through the closure. Takes the closure on every path.
int qat_attach(Tensor* const* outputs, size_t n_out, Tensor* const* inputs, size_t n_in, Tensor* const* saved,
               size_t n_saved, void* data, qat_backward_fn backward, qat_drop_fn drop) {
  std::unique_ptr<Closure> closure;
  try {
    closure = std::make_unique<Closure>(data, backward, drop);
  } catch (...) {
    drop(data);
    last_error = "out of memory";
    return -1;
  }
  return guarded([&] {
    bool any = false;
    for (size_t i = 0; i < n_in; i++) any |= inputs[i]->requires_grad();
    for (size_t o = 0; o < n_out; o++)
      TORCH_CHECK(!outputs[o]->requires_grad(), "the output of a closure node already has a history");
    if (!any || !at::GradMode::is_enabled()) return;
    torch::autograd::edge_list edges;
    for (size_t i = 0; i < n_in; i++) {
      // An output that is an input would make the node its own predecessor, and could never be freed.
      for (size_t o = 0; o < n_out; o++)
        TORCH_CHECK(!inputs[i]->is_same(*outputs[o]), "the output of a closure node is its input ", i);
      edges.push_back(torch::autograd::impl::gradient_edge(*inputs[i]));
    }
    auto node = std::shared_ptr<ClosureNode>(new ClosureNode(), torch::autograd::deleteNode);
    node->closure = std::move(closure);
    node->n_in = n_in;
    node->set_next_edges(std::move(edges));
    for (size_t i = 0; i < n_saved; i++) {
      for (size_t o = 0; o < n_out; o++)
        TORCH_CHECK(!saved[i]->is_same(*outputs[o]), "a closure node cannot save its own output");
      node->saved.emplace_back(*saved[i], /*is_output=*/false);
    }
    for (size_t o = 0; o < n_out; o++) {
      auto nr = node->add_input_metadata(*outputs[o]);
      torch::autograd::impl::set_gradient_edge(*outputs[o], torch::autograd::Edge(node, nr));
    }
  });
}

// How many tensors share this one's identity or its memory, whichever is more.
int qat_owners(Tensor* t, size_t* count) {
  return guarded([&] {
    size_t identity = t->use_count();
    size_t memory = t->has_storage() ? t->storage().use_count() : 0;
    *count = identity > memory ? identity : memory;
  });
}

// Bytes of GPU `index` in torch's allocator: of tensors now, of tensors at most, and taken from the driver at most, the
// latter two since the last reset. Through the interface that all of torch's devices share: no header or library of
// CUDA is needed to build this.
int qat_gpu_memory(int index, int64_t* now, int64_t* peak, int64_t* reserved) {
  return guarded([&] {
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(index));
    *now = stats.allocated_bytes[all].current;
    *peak = stats.allocated_bytes[all].peak;
    *reserved = stats.reserved_bytes[all].peak;
  });
}

int qat_gpu_reset_peak(int index) {
  return guarded([&] {
    c10::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(index));
  });
}

// Gives back what torch's allocator keeps for later.
int qat_gpu_empty_cache() {
  return guarded([&] { c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); });
}

// The stream that torch gives GPU `index` work on.
int qat_gpu_stream(int index, void** stream) {
  return guarded([&] {
    *stream = at::accelerator::getCurrentStream(static_cast<c10::DeviceIndex>(index)).native_handle();
  });
}

// Waits until the GPU has done all that it was given.
int qat_gpu_synchronize(int index) {
  return guarded([&] { at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(index)); });
}
}
