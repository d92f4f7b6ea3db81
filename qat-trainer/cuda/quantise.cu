// The quantisers and AdamW on a GPU: fused kernels, compiled at run time by NVRTC for the GPU that is there.
//
// The arithmetic is that of qat-kernels (`grid.rs`, `ste.rs`, `ste/simd/adamw.rs`), operation by operation: no
// multiply-add is fused (the launcher compiles with --fmad=false), divisions and roots are rounded correctly. Everything
// that computes a number is a QAT_FUNCTION, and is plain C++ where QAT_HOST is defined: a test compiles this file for the
// CPU and compares every result with qat-kernels bit for bit.
//
// Each α belongs to a block of `length` consecutive weights, and `lanes` threads (32 or 256) work on a block. Lane l
// takes the weights l·V .. l·V+V−1 of every lanes·V (V is 4, or 1 where addresses do not allow it) and adds its terms of
// the gradient of log α in that order; the lanes of a warp meet in a tree, the upper half onto the lower half, and the
// warps' sums are added in order. No atomic operation is used: the same inputs give the same bits on every run and card.

#ifdef QAT_HOST
#define QAT_FUNCTION inline
#define QAT_UNROLL
#define QAT_NO_UNROLL
#else
#define QAT_FUNCTION __device__ __forceinline__
#define QAT_UNROLL _Pragma("unroll")
#define QAT_NO_UNROLL _Pragma("unroll 1")
#endif

typedef unsigned short bf16;

// What the launcher passes, in the order and with the types of its own `#[repr(C)]` structs.
struct Quantiser {
  // Codes reach from lo to hi; a code's level is code + offset.
  float lo, hi, offset;
  // The estimator: 0 standard, 1 clipped, 2 LSQ, 3 EWGS; and its clip value or λ.
  int estimator;
  float parameter;
  // What LSQ scales the gradient of a step by.
  float scale;
  // Δ: 0 is α, 1 is α·π/k for one k, 2 is α·π/k for the k of each group.
  int rule;
  float k;
  // Weights of a block, blocks, weights of a group.
  int length, blocks, group;
  // Threads of a block of weights.
  int lanes;
};

struct AdamW {
  float decay, beta1, rest1, beta2, rest2, rate, scale, eps;
  // The gradient is multiplied by it first.
  float factor;
};

QAT_FUNCTION unsigned bits_of(float x) {
#ifdef QAT_HOST
  unsigned bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
#else
  return __float_as_uint(x);
#endif
}

QAT_FUNCTION float of_bits(unsigned bits) {
#ifdef QAT_HOST
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
#else
  return __uint_as_float(bits);
#endif
}

QAT_FUNCTION float root(float x) {
#ifdef QAT_HOST
  return __builtin_sqrtf(x);
#else
  return __fsqrt_rn(x);
#endif
}

QAT_FUNCTION float quotient(float a, float b) {
#ifdef QAT_HOST
  return a / b;
#else
  return __fdiv_rn(a, b);
#endif
}

QAT_FUNCTION float exponential(float x) {
#ifdef QAT_HOST
  return __builtin_expf(x);
#else
  return expf(x);
#endif
}

QAT_FUNCTION float absolute(float x) { return of_bits(bits_of(x) & 0x7fffffffu); }

QAT_FUNCTION bool finite(float x) { return (bits_of(x) & 0x7f800000u) != 0x7f800000u; }

QAT_FUNCTION void store(float* to, float x) { *to = x; }

// To the nearest bf16, ties to even.
QAT_FUNCTION void store(bf16* to, float x) {
  unsigned bits = bits_of(x);
  *to = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0 : (bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

QAT_FUNCTION float load(float x) { return x; }

QAT_FUNCTION float load(bf16 x) { return of_bits((unsigned)x << 16); }

// Levels::round: the code as a float, ties to even, clamped; NaN becomes lo.
QAT_FUNCTION float code_of(const Quantiser& q, float v) {
  const float magic = 12582912.0f;
  float x = v - q.offset;
  x = x > q.lo ? x : q.lo;
  x = x < q.hi ? x : q.hi;
  return (x + magic) - magic;
}

// Δ of the weight at `index` of block `block`.
QAT_FUNCTION float step_of(const Quantiser& q, const float* alpha, const float* divisors, int block, int index) {
  const float pi = 3.14159274101257324f;
  float a = alpha[block];
  if (q.rule == 0) return a;
  float k = q.rule == 1 ? q.k : divisors[(long long)block * (q.length / q.group) + index / q.group];
  return quotient(a * pi, k);
}

QAT_FUNCTION float fake_quantised(const Quantiser& q, float w, float step) {
  return (code_of(q, quotient(w, step)) + q.offset) * step;
}

struct Gradients {
  float of_weight, of_step;
};

// The gradients of a weight and of its step, given that of its quantised value: SteVariant::backward_in_range with LSQ's
// exact mask, and lsq_step_gradient.
QAT_FUNCTION Gradients gradients_of(const Quantiser& q, float w, float step, float g) {
  float v = quotient(w, step);
  float level = code_of(q, v) + q.offset;
  float x = v - q.offset;
  bool inside = x >= q.lo && x <= q.hi;
  Gradients out;
  if (q.estimator == 0) {
    out.of_weight = g;
  } else if (q.estimator == 1) {
    out.of_weight = absolute(w) <= q.parameter ? g : 0.0f;
  } else if (!inside) {
    out.of_weight = 0.0f;
  } else if (q.estimator == 2) {
    out.of_weight = g;
  } else {
    float sign = (float)((g > 0.0f) - (g < 0.0f));
    out.of_weight = g * (1.0f + q.parameter * sign * (v - level));
  }
  out.of_step = inside ? g * (level - v) : g * level;
  return out;
}

// +0 in place of subnormal numbers and −0.
QAT_FUNCTION float normal(float x) { return absolute(x) >= 1.17549435e-38f ? x : 0.0f; }

// One update of w, m and v; w may be a logarithm's change that begins at 0.
QAT_FUNCTION void adamw_update(const AdamW& a, float& w, float g, float& m, float& v) {
  m = normal(a.beta1 * m + a.rest1 * g);
  v = normal(a.beta2 * v + (a.rest2 * g) * g);
  w = w * a.decay - quotient(a.rate * m, root(v) * a.scale + a.eps);
}

// One update of a positive number with its moments, given the gradient of its logarithm: α ← α·exp(δ).
QAT_FUNCTION void adamw_log_update(const AdamW& a, float& alpha, float g, float& m, float& v) {
  float change = 0.0f;
  adamw_update(a, change, g, m, v);
  alpha = alpha * exponential(change);
  alpha = alpha > 1e-20f ? alpha : 1e-20f;
  alpha = alpha < 1e20f ? alpha : 1e20f;
}

// V numbers that are read or written at once.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T x[V];
};

// What lane `lane` does of ŵ of a block.
template <typename Out, int V>
QAT_FUNCTION void fake_quantise_lane(const Quantiser& q, const float* w, const float* alpha, const float* divisors,
                                     Out* out, int block, int lane) {
  long long start = (long long)block * q.length;
  QAT_NO_UNROLL
  for (int i = lane * V; i < q.length; i += q.lanes * V) {
    float step = step_of(q, alpha, divisors, block, i);
    Pack<float, V> in = *(const Pack<float, V>*)(w + start + i);
    Pack<Out, V> made;
    QAT_UNROLL
    for (int j = 0; j < V; j++) store(&made.x[j], fake_quantised(q, in.x[j], step));
    *(Pack<Out, V>*)(out + start + i) = made;
  }
}

// What lane `lane` does of the gradients of a block; returns its part of the sum for log α.
template <typename In, int V>
QAT_FUNCTION float gradients_lane(const Quantiser& q, const float* w, const float* alpha, const float* divisors,
                                  const In* grad, float* of_w, int block, int lane) {
  long long start = (long long)block * q.length;
  float sum = 0.0f;
  QAT_NO_UNROLL
  for (int i = lane * V; i < q.length; i += q.lanes * V) {
    float step = step_of(q, alpha, divisors, block, i);
    Pack<float, V> in = *(const Pack<float, V>*)(w + start + i);
    Pack<In, V> g = *(const Pack<In, V>*)(grad + start + i);
    Pack<float, V> made;
    QAT_UNROLL
    for (int j = 0; j < V; j++) {
      Gradients both = gradients_of(q, in.x[j], step, load(g.x[j]));
      made.x[j] = both.of_weight;
      sum += both.of_step * step;
    }
    *(Pack<float, V>*)(of_w + start + i) = made;
  }
  return sum;
}

#ifndef QAT_HOST

extern "C" {

// Threads of a block of threads; those of a block of weights divide it.
#define THREADS 256

#define FAKE_QUANTISE(name, Out, V)                                                                              \
  __global__ void __launch_bounds__(THREADS)                                                                     \
      name(Quantiser q, const float* w, const float* alpha, const float* divisors, Out* out) {                   \
    int at_once = THREADS / q.lanes, own = threadIdx.x / q.lanes, lane = threadIdx.x % q.lanes;                  \
    for (long long b = (long long)blockIdx.x * at_once + own; b < q.blocks; b += (long long)gridDim.x * at_once) \
      fake_quantise_lane<Out, V>(q, w, alpha, divisors, out, (int)b, lane);                                      \
  }

FAKE_QUANTISE(fake_quantise_f32_1, float, 1)
FAKE_QUANTISE(fake_quantise_f32_4, float, 4)
FAKE_QUANTISE(fake_quantise_bf16_1, bf16, 1)
FAKE_QUANTISE(fake_quantise_bf16_4, bf16, 4)

// The sum over the warp's lanes, in lane 0.
__device__ __forceinline__ float warp_sum(float x) {
  QAT_UNROLL
  for (int half = 16; half > 0; half /= 2) x += __shfl_down_sync(0xffffffffu, x, half);
  return x;
}

#define GRADIENTS(name, In, V)                                                                               \
  __global__ void __launch_bounds__(THREADS)                                                                 \
      name(Quantiser q, const float* w, const float* alpha, const float* divisors, const In* grad,           \
           float* of_w, float* of_log_alpha) {                                                               \
    __shared__ float sums[THREADS / 32];                                                                     \
    int at_once = THREADS / q.lanes, own = threadIdx.x / q.lanes, lane = threadIdx.x % q.lanes;              \
    /* All threads take as many turns, since they meet at barriers. */                                       \
    for (long long first = (long long)blockIdx.x * at_once; first < q.blocks;                                \
         first += (long long)gridDim.x * at_once) {                                                          \
      long long b = first + own;                                                                             \
      float sum = 0.0f;                                                                                      \
      if (b < q.blocks) sum = gradients_lane<In, V>(q, w, alpha, divisors, grad, of_w, (int)b, lane);        \
      sum = warp_sum(sum);                                                                                   \
      if (q.lanes == 32) {                                                                                   \
        if (lane == 0 && b < q.blocks) of_log_alpha[b] = sum * q.scale;                                      \
      } else {                                                                                               \
        if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;                                             \
        __syncthreads();                                                                                     \
        if (threadIdx.x == 0) {                                                                              \
          float all = 0.0f;                                                                                  \
          for (int i = 0; i < THREADS / 32; i++) all += sums[i];                                             \
          of_log_alpha[first] = all * q.scale;                                                               \
        }                                                                                                    \
        __syncthreads();                                                                                     \
      }                                                                                                      \
    }                                                                                                        \
  }

GRADIENTS(gradients_f32_1, float, 1)
GRADIENTS(gradients_f32_4, float, 4)
GRADIENTS(gradients_bf16_1, bf16, 1)
GRADIENTS(gradients_bf16_4, bf16, 4)

// A number whose gradient is not finite keeps its value and its moments, and `flag` becomes 1.
#define ADAMW(name, In, V)                                                                                 \
  __global__ void __launch_bounds__(THREADS)                                                               \
      name(AdamW a, long long count, float* w, float* m, float* v, const In* grad, int* flag) {            \
    for (long long i = ((long long)blockIdx.x * THREADS + threadIdx.x) * V; i < count;                     \
         i += (long long)gridDim.x * THREADS * V) {                                                        \
      Pack<float, V> ws = *(Pack<float, V>*)(w + i), ms = *(Pack<float, V>*)(m + i);                       \
      Pack<float, V> vs = *(Pack<float, V>*)(v + i);                                                       \
      Pack<In, V> gs = *(const Pack<In, V>*)(grad + i);                                                    \
      QAT_UNROLL                                                                                           \
      for (int j = 0; j < V; j++) {                                                                        \
        float g = load(gs.x[j]) * a.factor;                                                                \
        if (finite(g))                                                                                     \
          adamw_update(a, ws.x[j], g, ms.x[j], vs.x[j]);                                                   \
        else                                                                                               \
          *flag = 1;                                                                                       \
      }                                                                                                    \
      *(Pack<float, V>*)(w + i) = ws;                                                                      \
      *(Pack<float, V>*)(m + i) = ms;                                                                      \
      *(Pack<float, V>*)(v + i) = vs;                                                                      \
    }                                                                                                      \
  }

ADAMW(adamw_f32_1, float, 1)
ADAMW(adamw_f32_4, float, 4)
ADAMW(adamw_bf16_1, bf16, 1)
ADAMW(adamw_bf16_4, bf16, 4)

// The same on the logarithm of `alpha`, given its gradient: α ← α·exp(δ).
__global__ void __launch_bounds__(THREADS)
    adamw_log(AdamW a, long long count, float* alpha, float* m, float* v, const float* grad, int* flag) {
  for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count;
       i += (long long)gridDim.x * THREADS) {
    float g = grad[i] * a.factor;
    if (finite(g))
      adamw_log_update(a, alpha[i], g, m[i], v[i]);
    else
      *flag = 1;
  }
}
}
#endif
