// One update of a quantised matrix on a GPU: from the gradient of ŵ to the next ŵ in one pass over memory. Per weight, w and its
// moments are read and written, the gradient is read and ŵ is written; what the kernels of quantise.cu would keep in between is not.
//
// Follows quantise.cu in one source, and does what its kernels do one after the other: the gradients, AdamW on w and on the
// logarithm of α, and ŵ of the new w and α. Lanes and sums are the same ones.

// What lane `lane` does of the update of the weights of a block; returns its part of the sum for log α.
template <typename T, int V>
QAT_FUNCTION float learn_lane(const Quantiser& q, const AdamW& a, float* w, const float* alpha, const float* divisors,
                              const T* grad, float* m, float* v, int* flag, int block, int lane) {
  long long start = (long long)block * q.length;
  float sum = 0.0f;
  QAT_NO_UNROLL
  for (int i = lane * V; i < q.length; i += q.lanes * V) {
    float step = step_of(q, alpha, divisors, block, i);
    Pack<float, V> ws = *(Pack<float, V>*)(w + start + i);
    Pack<float, V> ms = *(Pack<float, V>*)(m + start + i), vs = *(Pack<float, V>*)(v + start + i);
    Pack<T, V> g = *(const Pack<T, V>*)(grad + start + i);
    QAT_UNROLL
    for (int j = 0; j < V; j++) {
      Gradients both = gradients_of(q, ws.x[j], step, load(g.x[j]));
      sum += both.of_step * step;
      float of_weight = both.of_weight * a.factor;
      if (finite(of_weight))
        adamw_update(a, ws.x[j], of_weight, ms.x[j], vs.x[j]);
      else
        *flag = 1;
    }
    *(Pack<float, V>*)(w + start + i) = ws;
    *(Pack<float, V>*)(m + start + i) = ms;
    *(Pack<float, V>*)(v + start + i) = vs;
  }
  return sum;
}

// The step of a block's α, given the sum over its lanes.
QAT_FUNCTION void learn_alpha(const Quantiser& q, const AdamW& a, float* alpha, float* m, float* v, float sum, int* flag,
                              int block) {
  float g = sum * q.scale * a.factor;
  if (finite(g))
    adamw_log_update(a, alpha[block], g, m[block], v[block]);
  else
    *flag = 1;
}

#ifndef QAT_HOST

extern "C" {

// `steps_learn` is 0 for estimators without a gradient of α.
#define LEARN(name, T, V)                                                                                          \
  __global__ void __launch_bounds__(THREADS)                                                                       \
      name(Quantiser q, AdamW a, AdamW of_steps, int steps_learn, float* w, float* m, float* v, float* alpha,      \
           float* alpha_m, float* alpha_v, const float* divisors, const T* grad, T* w_hat, int* flag) {            \
    __shared__ float sums[THREADS / 32];                                                                           \
    int at_once = THREADS / q.lanes, own = threadIdx.x / q.lanes, lane = threadIdx.x % q.lanes;                    \
    /* All threads take as many turns, since they meet at barriers. */                                             \
    for (long long first = (long long)blockIdx.x * at_once; first < q.blocks;                                      \
         first += (long long)gridDim.x * at_once) {                                                                \
      int b = (int)(first + own);                                                                                  \
      float sum = 0.0f;                                                                                            \
      if (b < q.blocks) sum = learn_lane<T, V>(q, a, w, alpha, divisors, grad, m, v, flag, b, lane);               \
      sum = warp_sum(sum);                                                                                         \
      if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;                                                     \
      __syncthreads();                                                                                             \
      if (lane == 0 && b < q.blocks && steps_learn) {                                                              \
        float all = q.lanes == 32 ? sum : 0.0f;                                                                    \
        for (int i = 0; q.lanes != 32 && i < THREADS / 32; i++) all += sums[i];                                    \
        learn_alpha(q, of_steps, alpha, alpha_m, alpha_v, all, flag, b);                                           \
      }                                                                                                            \
      /* Behind the barrier every lane sees the new α; the weights are those that it has written itself. */        \
      __syncthreads();                                                                                             \
      if (b < q.blocks) fake_quantise_lane<T, V>(q, w, alpha, divisors, w_hat, b, lane);                           \
    }                                                                                                              \
  }

LEARN(learn_f32_1, float, 1)
LEARN(learn_f32_4, float, 4)
LEARN(learn_bf16_1, bf16, 1)
LEARN(learn_bf16_4, bf16, 4)
}
#endif
