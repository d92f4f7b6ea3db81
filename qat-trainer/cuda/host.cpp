// Runs the arithmetic of the kernels on a CPU, for the test that compares it with qat-kernels and with formulas. Reads one
// job from the standard input and writes the results to the standard output, as 32-bit numbers (16-bit for bf16) of this
// machine. `scales` are α's moments beside it: m, v.
//
//   0, Quantiser, groups; w, alpha, k, gradients        ->  ŵ; ŵ in bf16; gradients of w; the same from bf16 gradients;
//                                                           gradients of log α
//   1, AdamW, count; w, m, v, gradients                 ->  w, m, v
//   2, Quantiser, groups, AdamW; w, alpha, k, gradients,
//      m, v, scales' m, v                               ->  w, alpha, m, v, scales' m, v, ŵ
//   3, rows, width, ε; x, w, gradients                  ->  a norm's y; gradients of x
//   4, tokens, heads, half; x, cosines, sines           ->  heads turned; and turned back
//   5, count; gate, up, gradients                       ->  the gate's y; gradients of gate, up
//   6, rows, width, factor; logits, targets             ->  ln Σ exp of the rows; gradients of the logits
//   7, Quantiser, groups, bits, row; alpha, k, codes    ->  weights of packed codes; weights in bf16

#define QAT_HOST
#include "quantise.cu"
#include "learn.cu"
#include "packed.cu"
#include "decoder.cu"

#include <cmath>

#include <cstdio>
#include <cstdlib>
#include <cstring>
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

template <int V>
static void learn(const Quantiser& q, int groups, const AdamW& a) {
  size_t count = (size_t)q.length * q.blocks;
  auto w = read<float>(count), alpha = read<float>(q.blocks), divisors = read<float>(groups);
  auto grad = read<float>(count), m = read<float>(count), v = read<float>(count);
  auto alpha_m = read<float>(q.blocks), alpha_v = read<float>(q.blocks);
  std::vector<float> w_hat(count);
  int flag = 0;
  for (int b = 0; b < q.blocks; b++) {
    std::vector<float> parts(q.lanes);
    for (int l = 0; l < q.lanes; l++)
      parts[l] = learn_lane<float, V>(q, a, w.data(), alpha.data(), divisors.data(), grad.data(), m.data(), v.data(),
                                      &flag, b, l);
    learn_alpha(q, a, alpha.data(), alpha_m.data(), alpha_v.data(), sum(parts), &flag, b);
    for (int l = 0; l < q.lanes; l++)
      fake_quantise_lane<float, V>(q, w.data(), alpha.data(), divisors.data(), w_hat.data(), b, l);
  }
  if (flag) exit(4);
  for (auto* x : {&w, &alpha, &m, &v, &alpha_m, &alpha_v, &w_hat}) write(*x);
}

static void quantisers(bool learns) {
  auto q = read<Quantiser>(1)[0];
  int groups = read<int>(1)[0];
  bool whole = q.length % 4 == 0 && q.group % 4 == 0;
  if (learns) {
    auto a = read<AdamW>(1)[0];
    whole ? learn<4>(q, groups, a) : learn<1>(q, groups, a);
  } else {
    whole ? quantiser<4>(q, groups) : quantiser<1>(q, groups);
  }
}

static void adamw() {
  auto a = read<AdamW>(1)[0];
  int count = read<int>(1)[0];
  auto w = read<float>(count), m = read<float>(count), v = read<float>(count), grad = read<float>(count);
  for (int i = 0; i < count; i++) adamw_update(a, w[i], grad[i] * a.factor, m[i], v[i]);
  write(w);
  write(m);
  write(v);
}

template <int V>
static void norm(int rows, int width, float eps) {
  size_t count = (size_t)rows * width;
  auto x = read<float>(count), w = read<float>(width), grad = read<float>(count);
  std::vector<float> y(count), of_x(count);
  for (size_t start = 0; start < count; start += width) {
    std::vector<float> squares(32), dots(32);
    for (int l = 0; l < 32; l++) {
      squares[l] = squares_lane<float, V>(&x[start], width, l);
      dots[l] = norm_dot_lane<float, V>(&x[start], w.data(), &grad[start], width, l);
    }
    float scale = norm_scale(sum(squares), width, eps), dot = sum(dots);
    for (int l = 0; l < 32; l++) {
      norm_lane<float, V>(&x[start], w.data(), scale, &y[start], width, l);
      norm_gradient_lane<float, V>(&x[start], w.data(), scale, dot, &grad[start], &of_x[start], width, l);
    }
  }
  write(y);
  write(of_x);
}

template <int V>
static void rotate(int tokens, int heads, int half) {
  size_t width = 2 * half, count = tokens * heads * width;
  auto x = read<float>(count), cosines = read<float>(tokens * width), sines = read<float>(tokens * width);
  std::vector<float> turned(count), back(count);
  for (float sign : {1.0f, -1.0f})
    for (size_t head = 0; head < (size_t)tokens * heads; head++)
      for (int i = 0; i < half; i += V) {
        size_t at = head * width + i, angle = head / heads * width + i;
        rotate_pairs<float, V>(&(sign > 0 ? x : turned)[at], &cosines[angle], &sines[angle], sign,
                               &(sign > 0 ? turned : back)[at], half);
      }
  write(turned);
  write(back);
}

static void gates(int count) {
  auto gate = read<float>(count), up = read<float>(count), grad = read<float>(count);
  std::vector<float> y, of_gate, of_up;
  for (int i = 0; i < count; i++) {
    GatedGradients both = gated_gradients(gate[i], up[i], grad[i]);
    y.push_back(gated(gate[i], up[i]));
    of_gate.push_back(both.of_gate);
    of_up.push_back(both.of_up);
  }
  write(y);
  write(of_gate);
  write(of_up);
}

template <int V>
static void cross_entropy(int rows, int width, float factor) {
  const int lanes = 256;
  auto logits = read<float>((size_t)rows * width);
  auto targets = read<int>(rows);
  std::vector<float> log_sums;
  for (int row = 0; row < rows; row++) {
    float* own = &logits[(size_t)row * width];
    Peak all = peak_lane<float, V>(own, width, 0, lanes);
    for (int l = 1; l < lanes; l++) all = joined(all, peak_lane<float, V>(own, width, l, lanes));
    log_sums.push_back(all.largest + std::log(all.sum));
    for (int l = 0; l < lanes; l++)
      cross_entropy_gradient_lane<float, V>(own, targets[row], log_sums[row], factor, width, l, lanes);
  }
  write(log_sums);
  write(logits);
}

template <typename T>
static std::vector<T> dequantised(const Quantiser& q, int bits, int row, const std::vector<unsigned char>& codes,
                                  const std::vector<float>& alpha, const std::vector<float>& divisors) {
  unsigned count = (unsigned)q.length * q.blocks;
  // Room in whole 16 bytes, as the GPU's allocator gives it.
  std::vector<Pack<T, 16 / sizeof(T)>> room(count * sizeof(T) / 16 + 1);
  T* out = room[0].x;
  for (unsigned i = 0; i < count; i++)
    dequantise_one(q, bits, row, codes.data(), alpha.data(), divisors.data(), out, i);
  std::vector<T> one(out, out + count);
  if (row % 8 != 0 || q.length % 8 != 0 || q.group % 8 != 0) return one;
  for (unsigned i = 0; i < count / 8; i++)
    dequantise_eight(q, bits, codes.data(), alpha.data(), divisors.data(), out, i);
  std::vector<T> eights(out, out + count);
  if (memcmp(eights.data(), one.data(), count * sizeof(T)) != 0) exit(5);
  return eights;
}

static void packed() {
  auto q = read<Quantiser>(1)[0];
  int groups = read<int>(1)[0], bits = read<int>(1)[0], row = read<int>(1)[0];
  auto alpha = read<float>(q.blocks), divisors = read<float>(groups);
  size_t rows = (size_t)q.length * q.blocks / row;
  auto codes = read<unsigned char>(rows * (((size_t)row * bits + 7) / 8));
  write(dequantised<float>(q, bits, row, codes, alpha, divisors));
  write(dequantised<bf16>(q, bits, row, codes, alpha, divisors));
}

int main() {
  int job = read<int>(1)[0];
  if (job == 0 || job == 2) {
    quantisers(job == 2);
  } else if (job == 1) {
    adamw();
  } else if (job == 3) {
    int rows = read<int>(1)[0], width = read<int>(1)[0];
    float eps = read<float>(1)[0];
    width % 4 == 0 ? norm<4>(rows, width, eps) : norm<1>(rows, width, eps);
  } else if (job == 4) {
    int tokens = read<int>(1)[0], heads = read<int>(1)[0], half = read<int>(1)[0];
    half % 4 == 0 ? rotate<4>(tokens, heads, half) : rotate<1>(tokens, heads, half);
  } else if (job == 5) {
    gates(read<int>(1)[0]);
  } else if (job == 7) {
    packed();
  } else {
    int rows = read<int>(1)[0], width = read<int>(1)[0];
    float factor = read<float>(1)[0];
    width % 4 == 0 ? cross_entropy<4>(rows, width, factor) : cross_entropy<1>(rows, width, factor);
  }
}
