// Runs the arithmetic of quantise.cu on a CPU, for the test that compares it with qat-kernels. Reads one job from the
// standard input and writes the results to the standard output, as 32-bit numbers (16-bit for bf16) of this machine.
//
//   0, Quantiser, groups; w, alpha, k, gradients  ->  ŵ; ŵ in bf16; gradients of w; the same from bf16 gradients;
//                                                     gradients of log α
//   1, AdamW, count; w, m, v, gradients           ->  w, m, v

#define QAT_HOST
#include "quantise.cu"

#include <cstdio>
#include <cstdlib>
#include <vector>

template <typename T>
static std::vector<T> read(size_t count) {
  std::vector<T> x(count);
  if (fread(x.data(), sizeof(T), count, stdin) != count) exit(2);
  return x;
}

template <typename T>
static void write(const std::vector<T>& x) {
  if (fwrite(x.data(), sizeof(T), x.size(), stdout) != x.size()) exit(3);
}

// The sum of the lanes as the kernel adds it: a tree in each warp, the warps in order.
static float sum(std::vector<float> lanes) {
  float all = 0.0f;
  for (size_t warp = 0; warp < lanes.size(); warp += 32) {
    float* x = &lanes[warp];
    for (int half = 16; half > 0; half /= 2)
      for (int l = 0; l < half; l++) x[l] += x[l + half];
    all = lanes.size() == 32 ? x[0] : all + x[0];
  }
  return all;
}

template <int V>
static void quantiser(const Quantiser& q, int groups) {
  size_t count = (size_t)q.length * q.blocks;
  auto w = read<float>(count), alpha = read<float>(q.blocks), divisors = read<float>(groups);
  auto grad = read<float>(count);
  std::vector<float> w_hat(count), of_w(count), of_w_16(count), of_alpha;
  std::vector<bf16> w_hat_16(count), grad_16(count);
  for (size_t i = 0; i < count; i++) store(&grad_16[i], grad[i]);
  for (int b = 0; b < q.blocks; b++) {
    std::vector<float> parts(q.lanes);
    for (int l = 0; l < q.lanes; l++) {
      fake_quantise_lane<float, V>(q, w.data(), alpha.data(), divisors.data(), w_hat.data(), b, l);
      fake_quantise_lane<bf16, V>(q, w.data(), alpha.data(), divisors.data(), w_hat_16.data(), b, l);
      gradients_lane<bf16, V>(q, w.data(), alpha.data(), divisors.data(), grad_16.data(), of_w_16.data(), b, l);
      parts[l] =
          gradients_lane<float, V>(q, w.data(), alpha.data(), divisors.data(), grad.data(), of_w.data(), b, l);
    }
    of_alpha.push_back(sum(parts) * q.scale);
  }
  write(w_hat);
  write(w_hat_16);
  write(of_w);
  write(of_w_16);
  write(of_alpha);
}

int main() {
  if (read<int>(1)[0] == 0) {
    auto q = read<Quantiser>(1)[0];
    int groups = read<int>(1)[0];
    bool whole = q.length % 4 == 0 && q.group % 4 == 0;
    if (whole) {
      quantiser<4>(q, groups);
    } else {
      quantiser<1>(q, groups);
    }
  } else {
    auto a = read<AdamW>(1)[0];
    int count = read<int>(1)[0];
    auto w = read<float>(count), m = read<float>(count), v = read<float>(count), grad = read<float>(count);
    for (int i = 0; i < count; i++) adamw_update(a, w[i], grad[i] * a.factor, m[i], v[i]);
    write(w);
    write(m);
    write(v);
  }
}
