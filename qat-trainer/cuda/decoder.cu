// What lies between a decoder's matrices, on a GPU: root mean square norms, rotary positions, gated activations, and the
// cross-entropy of logits. Each is one pass over its operands where torch's operators make several.
//
// Follows quantise.cu in one source: its types and rules hold here as well. T is float or bf16; all is computed in float,
// and rounded to T where a result is stored. No atomic operation is used.

// x as T holds it.
template <typename T>
QAT_FUNCTION float rounded(float x) {
  T kept;
  store(&kept, x);
  return load(kept);
}

// What lane `lane` of 32 adds to Σ x².
template <typename T, int V>
QAT_FUNCTION float squares_lane(const T* x, int width, int lane) {
  float sum = 0.0f;
  for (int i = lane * V; i < width; i += 32 * V) {
    Pack<T, V> in = *(const Pack<T, V>*)(x + i);
    QAT_UNROLL
    for (int j = 0; j < V; j++) sum += load(in.x[j]) * load(in.x[j]);
  }
  return sum;
}

// 1/√(mean(x²) + ε).
QAT_FUNCTION float norm_scale(float squares, int width, float eps) {
  return quotient(1.0f, root(quotient(squares, (float)width) + eps));
}

// y = w·(x·scale), both products rounded to T, as is w.
template <typename T, int V>
QAT_FUNCTION void norm_lane(const T* x, const float* w, float scale, T* y, int width, int lane) {
  for (int i = lane * V; i < width; i += 32 * V) {
    Pack<T, V> in = *(const Pack<T, V>*)(x + i), out;
    Pack<float, V> weights = *(const Pack<float, V>*)(w + i);
    QAT_UNROLL
    for (int j = 0; j < V; j++)
      store(&out.x[j], rounded<T>(load(in.x[j]) * scale) * rounded<T>(weights.x[j]));
    *(Pack<T, V>*)(y + i) = out;
  }
}

// What a lane adds to Σ g·w·x.
template <typename T, int V>
QAT_FUNCTION float norm_dot_lane(const T* x, const float* w, const T* grad, int width, int lane) {
  float sum = 0.0f;
  for (int i = lane * V; i < width; i += 32 * V) {
    Pack<T, V> in = *(const Pack<T, V>*)(x + i), g = *(const Pack<T, V>*)(grad + i);
    Pack<float, V> weights = *(const Pack<float, V>*)(w + i);
    QAT_UNROLL
    for (int j = 0; j < V; j++) sum += load(g.x[j]) * rounded<T>(weights.x[j]) * load(in.x[j]);
  }
  return sum;
}

// ∂/∂x = scale·g·w − x·scale³·dot/width.
template <typename T, int V>
QAT_FUNCTION void norm_gradient_lane(const T* x, const float* w, float scale, float dot, const T* grad, T* of_x,
                                     int width, int lane) {
  float pull = quotient(scale * scale * scale * dot, (float)width);
  for (int i = lane * V; i < width; i += 32 * V) {
    Pack<T, V> in = *(const Pack<T, V>*)(x + i), g = *(const Pack<T, V>*)(grad + i), out;
    Pack<float, V> weights = *(const Pack<float, V>*)(w + i);
    QAT_UNROLL
    for (int j = 0; j < V; j++)
      store(&out.x[j], scale * (load(g.x[j]) * rounded<T>(weights.x[j])) - load(in.x[j]) * pull);
    *(Pack<T, V>*)(of_x + i) = out;
  }
}

// V pairs of a head, rotated: numbers x and x[half], by the angles whose cosines and sines are given.
template <typename T, int V>
QAT_FUNCTION void rotate_pairs(const T* x, const float* cosines, const float* sines, float sign, T* y, int half) {
  Pack<T, V> first = *(const Pack<T, V>*)x, second = *(const Pack<T, V>*)(x + half), a, b;
  Pack<float, V> c = *(const Pack<float, V>*)cosines, s = *(const Pack<float, V>*)sines;
  QAT_UNROLL
  for (int j = 0; j < V; j++) {
    float turn = sign * s.x[j];
    store(&a.x[j], load(first.x[j]) * c.x[j] - load(second.x[j]) * turn);
    store(&b.x[j], load(second.x[j]) * c.x[j] + load(first.x[j]) * turn);
  }
  *(Pack<T, V>*)y = a;
  *(Pack<T, V>*)(y + half) = b;
}

QAT_FUNCTION float logistic(float x) { return quotient(1.0f, 1.0f + exponential(-x)); }

// silu(gate)·up.
QAT_FUNCTION float gated(float gate, float up) { return gate * logistic(gate) * up; }

struct GatedGradients {
  float of_gate, of_up;
};

QAT_FUNCTION GatedGradients gated_gradients(float gate, float up, float g) {
  float share = logistic(gate);
  return {g * up * share * (1.0f + gate * (1.0f - share)), g * (gate * share)};
}

// The largest of some logits, and Σ exp(x − largest).
struct Peak {
  float largest, sum;
};

#define QAT_LOWEST (-3.402823466e38f)

QAT_FUNCTION Peak joined(Peak a, Peak b) {
  float largest = a.largest > b.largest ? a.largest : b.largest;
  return {largest, a.sum * exponential(a.largest - largest) + b.sum * exponential(b.largest - largest)};
}

// The peak of the logits of lane `lane` of `lanes`. NaN and +∞ make the sum NaN.
template <typename T, int V>
QAT_FUNCTION Peak peak_lane(const T* logits, int width, int lane, int lanes) {
  Peak peak = {QAT_LOWEST, 0.0f};
  for (int i = lane * V; i < width; i += lanes * V) {
    Pack<T, V> in = *(const Pack<T, V>*)(logits + i);
    float largest = peak.largest;
    QAT_UNROLL
    for (int j = 0; j < V; j++) largest = load(in.x[j]) > largest ? load(in.x[j]) : largest;
    if (largest > peak.largest) peak = {largest, peak.sum * exponential(peak.largest - largest)};
    QAT_UNROLL
    for (int j = 0; j < V; j++) peak.sum += exponential(load(in.x[j]) - largest);
  }
  return peak;
}

// (softmax − the target's 1)·factor in place of the logits; zero where there is no target.
template <typename T, int V>
QAT_FUNCTION void cross_entropy_gradient_lane(T* logits, long long target, float log_sum, float factor, int width,
                                              int lane, int lanes) {
  for (int i = lane * V; i < width; i += lanes * V) {
    Pack<T, V> x = *(const Pack<T, V>*)(logits + i);
    QAT_UNROLL
    for (int j = 0; j < V; j++) {
      float share = exponential(load(x.x[j]) - log_sum);
      store(&x.x[j], target < 0 ? 0.0f : (i + j == target ? share - 1.0f : share) * factor);
    }
    *(Pack<T, V>*)(logits + i) = x;
  }
}

#ifndef QAT_HOST

extern "C" {

// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_total(float x) {
  QAT_UNROLL
  for (int half = 16; half > 0; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
  return x;
}

#define EACH_ROW(row, rows)                                                                       \
  for (long long row = (long long)blockIdx.x * (THREADS / 32) + threadIdx.x / 32; row < (rows); \
       row += (long long)gridDim.x * (THREADS / 32))

// A warp for each row; `scales` is kept for the backward pass.
#define NORM(name, T, V)                                                                             \
  __global__ void __launch_bounds__(THREADS)                                                         \
      name(long long rows, int width, float eps, const T* x, const float* w, T* y, float* scales) {  \
    int lane = threadIdx.x % 32;                                                                     \
    EACH_ROW(row, rows) {                                                                            \
      const T* own = x + row * width;                                                                \
      float scale = norm_scale(warp_total(squares_lane<T, V>(own, width, lane)), width, eps);        \
      norm_lane<T, V>(own, w, scale, y + row * width, width, lane);                                  \
      if (lane == 0) scales[row] = scale;                                                            \
    }                                                                                                \
  }

NORM(norm_f32_1, float, 1)
NORM(norm_f32_4, float, 4)
NORM(norm_bf16_1, bf16, 1)
NORM(norm_bf16_4, bf16, 4)

#define NORM_GRADIENT(name, T, V)                                                                          \
  __global__ void __launch_bounds__(THREADS) name(long long rows, int width, const T* x, const float* w,   \
                                                  const float* scales, const T* grad, T* of_x) {           \
    int lane = threadIdx.x % 32;                                                                           \
    EACH_ROW(row, rows) {                                                                                  \
      const T *own = x + row * width, *g = grad + row * width;                                             \
      float dot = warp_total(norm_dot_lane<T, V>(own, w, g, width, lane));                                 \
      norm_gradient_lane<T, V>(own, w, scales[row], dot, g, of_x + row * width, width, lane);              \
    }                                                                                                      \
  }

NORM_GRADIENT(norm_gradient_f32_1, float, 1)
NORM_GRADIENT(norm_gradient_f32_4, float, 4)
NORM_GRADIENT(norm_gradient_bf16_1, bf16, 1)
NORM_GRADIENT(norm_gradient_bf16_4, bf16, 4)

// The gradient of a norm's weights, over `parts` parts of the rows: part p of `of_w`, [parts, width], is the sum over its rows.
// A block of threads takes 32·V columns of a part; its eight warps share the rows.
#define NORM_WEIGHTS(name, T, V)                                                                           \
  __global__ void __launch_bounds__(THREADS) name(long long rows, int width, int parts, const T* x,        \
                                                  const float* scales, const T* grad, float* of_w) {       \
    __shared__ float sums[THREADS / 32][32 * V];                                                           \
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;                                                  \
    int columns = (width + 32 * V - 1) / (32 * V);                                                         \
    for (int task = blockIdx.x; task < columns * parts; task += gridDim.x) {                               \
      int part = task / columns, column = (task % columns * 32 + lane) * V;                                \
      long long end = rows * (part + 1) / parts;                                                           \
      float sum[V] = {};                                                                                   \
      if (column < width) {                                                                                \
        for (long long row = rows * part / parts + warp; row < end; row += THREADS / 32) {                 \
          Pack<T, V> in = *(const Pack<T, V>*)(x + row * width + column);                                  \
          Pack<T, V> g = *(const Pack<T, V>*)(grad + row * width + column);                                \
          float scale = scales[row];                                                                       \
          QAT_UNROLL                                                                                       \
          for (int j = 0; j < V; j++) sum[j] += load(g.x[j]) * rounded<T>(load(in.x[j]) * scale);          \
        }                                                                                                  \
      }                                                                                                    \
      QAT_UNROLL                                                                                           \
      for (int j = 0; j < V; j++) sums[warp][lane * V + j] = sum[j];                                       \
      __syncthreads();                                                                                     \
      int own = task % columns * 32 * V + threadIdx.x;                                                     \
      if (threadIdx.x < 32 * V && own < width) {                                                           \
        float all = 0.0f;                                                                                  \
        for (int i = 0; i < THREADS / 32; i++) all += sums[i][threadIdx.x];                                \
        of_w[(long long)part * width + own] = all;                                                         \
      }                                                                                                    \
      __syncthreads();                                                                                     \
    }                                                                                                      \
  }

NORM_WEIGHTS(norm_weights_f32_1, float, 1)
NORM_WEIGHTS(norm_weights_f32_4, float, 4)
NORM_WEIGHTS(norm_weights_bf16_1, bf16, 1)
NORM_WEIGHTS(norm_weights_bf16_4, bf16, 4)

// x and y: [tokens, heads, 2·half], tokens of `time` consecutive positions; the tables: [positions, 2·half].
#define ROTATE(name, T, V)                                                                                    \
  __global__ void __launch_bounds__(THREADS)                                                                  \
      name(long long tokens, int heads, int time, int half, float sign, const T* x, const float* cosines,     \
           const float* sines, T* y) {                                                                        \
    int units = half / V;                                                                                     \
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < tokens * heads * units;             \
         i += (long long)gridDim.x * THREADS) {                                                               \
      long long head = i / units;                                                                             \
      int at = (int)(i % units) * V;                                                                          \
      long long angle = (head / heads % time) * 2 * half + at, place = head * 2 * half + at;                  \
      rotate_pairs<T, V>(x + place, cosines + angle, sines + angle, sign, y + place, half);                   \
    }                                                                                                         \
  }

ROTATE(rotate_f32_1, float, 1)
ROTATE(rotate_f32_4, float, 4)
ROTATE(rotate_bf16_1, bf16, 1)
ROTATE(rotate_bf16_4, bf16, 4)

#define GATED(name, T, V)                                                                                  \
  __global__ void __launch_bounds__(THREADS) name(long long count, const T* gate, const T* up, T* y) {     \
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * V; i < count;                     \
         i += (long long)gridDim.x * THREADS * V) {                                                        \
      Pack<T, V> a = *(const Pack<T, V>*)(gate + i), b = *(const Pack<T, V>*)(up + i), out;                \
      QAT_UNROLL                                                                                           \
      for (int j = 0; j < V; j++) store(&out.x[j], gated(load(a.x[j]), load(b.x[j])));                     \
      *(Pack<T, V>*)(y + i) = out;                                                                         \
    }                                                                                                      \
  }

GATED(gated_f32_1, float, 1)
GATED(gated_f32_4, float, 4)
GATED(gated_bf16_1, bf16, 1)
GATED(gated_bf16_4, bf16, 4)

#define GATED_GRADIENTS(name, T, V)                                                                        \
  __global__ void __launch_bounds__(THREADS)                                                               \
      name(long long count, const T* gate, const T* up, const T* grad, T* of_gate, T* of_up) {             \
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * V; i < count;                     \
         i += (long long)gridDim.x * THREADS * V) {                                                        \
      Pack<T, V> a = *(const Pack<T, V>*)(gate + i), b = *(const Pack<T, V>*)(up + i);                     \
      Pack<T, V> g = *(const Pack<T, V>*)(grad + i), of_a, of_b;                                           \
      QAT_UNROLL                                                                                           \
      for (int j = 0; j < V; j++) {                                                                        \
        GatedGradients both = gated_gradients(load(a.x[j]), load(b.x[j]), load(g.x[j]));                   \
        store(&of_a.x[j], both.of_gate);                                                                   \
        store(&of_b.x[j], both.of_up);                                                                     \
      }                                                                                                    \
      *(Pack<T, V>*)(of_gate + i) = of_a;                                                                  \
      *(Pack<T, V>*)(of_up + i) = of_b;                                                                    \
    }                                                                                                      \
  }

GATED_GRADIENTS(gated_gradients_f32_1, float, 1)
GATED_GRADIENTS(gated_gradients_f32_4, float, 4)
GATED_GRADIENTS(gated_gradients_bf16_1, bf16, 1)
GATED_GRADIENTS(gated_gradients_bf16_4, bf16, 4)

// −ln p(target) of each row, 0 where the target is negative, NaN where it is none of the row; and ln Σ exp of the row. A block
// of threads takes a row.
#define CROSS_ENTROPY(name, T, V)                                                                              \
  __global__ void __launch_bounds__(THREADS) name(long long rows, int width, const T* logits,                  \
                                                  const long long* targets, float* losses, float* log_sums) {  \
    __shared__ Peak peaks[THREADS / 32];                                                                       \
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {                                           \
      const T* own = logits + row * width;                                                                     \
      Peak peak = peak_lane<T, V>(own, width, threadIdx.x, THREADS);                                           \
      QAT_UNROLL                                                                                               \
      for (int half = 16; half > 0; half /= 2) {                                                               \
        Peak other = {__shfl_down_sync(0xffffffffu, peak.largest, half),                                       \
                      __shfl_down_sync(0xffffffffu, peak.sum, half)};                                          \
        peak = joined(peak, other);                                                                            \
      }                                                                                                        \
      if (threadIdx.x % 32 == 0) peaks[threadIdx.x / 32] = peak;                                               \
      __syncthreads();                                                                                         \
      if (threadIdx.x == 0) {                                                                                  \
        Peak all = peaks[0];                                                                                   \
        for (int i = 1; i < THREADS / 32; i++) all = joined(all, peaks[i]);                                    \
        float log_sum = all.largest + logf(all.sum);                                                           \
        long long target = targets[row];                                                                       \
        float loss = target < 0 ? 0.0f : of_bits(0x7fc00000u);                                                 \
        if (target >= 0 && target < width) loss = log_sum - load(own[target]);                                 \
        losses[row] = loss;                                                                                    \
        log_sums[row] = log_sum;                                                                               \
      }                                                                                                        \
      __syncthreads();                                                                                         \
    }                                                                                                          \
  }

CROSS_ENTROPY(cross_entropy_f32_1, float, 1)
CROSS_ENTROPY(cross_entropy_f32_4, float, 4)
CROSS_ENTROPY(cross_entropy_bf16_1, bf16, 1)
CROSS_ENTROPY(cross_entropy_bf16_4, bf16, 8)

#define CROSS_ENTROPY_GRADIENT(name, T, V)                                                                       \
  __global__ void __launch_bounds__(THREADS) name(long long rows, int width, T* logits, const long long* targets, \
                                                  const float* log_sums, const float* factor) {                  \
    for (long long row = blockIdx.x; row < rows; row += gridDim.x)                                               \
      cross_entropy_gradient_lane<T, V>(logits + row * width, targets[row], log_sums[row], *factor, width,       \
                                        threadIdx.x, THREADS);                                                   \
  }

CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_f32_1, float, 1)
CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_f32_4, float, 4)
CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_bf16_1, bf16, 1)
CROSS_ENTROPY_GRADIENT(cross_entropy_gradient_bf16_4, bf16, 8)
}
#endif
