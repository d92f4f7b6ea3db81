// Weights of packed codes on a GPU: matrices that are kept in 2 to 8 bits are unpacked whenever a product needs them.
//
// Follows quantise.cu in one source. The codes lie as `pack.rs` of qat-kernels says, every row on whole bytes, and a weight is
// level·Δ in f32, rounded once where bf16 is wanted.

// The lowest `bits` of a field as a signed number.
QAT_FUNCTION float signed_field(unsigned field, int bits) {
  return (float)((int)(field << (32 - bits)) >> (32 - bits));
}

// Eight packed codes: as many bytes as a code has bits, from an address that is a multiple of 2, 4 or 8 if that number is.
QAT_FUNCTION unsigned long long eight_fields(const unsigned char* at, int bits) {
  if (bits == 2) return *(const unsigned short*)at;
  if (bits == 4) return *(const unsigned*)at;
  if (bits == 8) return *(const unsigned long long*)at;
  unsigned long long fields = 0;
  QAT_NO_UNROLL
  for (int i = 0; i < bits; i++) fields |= (unsigned long long)at[i] << (8 * i);
  return fields;
}

// Writes the weights level·Δ of eight codes, where rows, blocks and groups are whole eights: number `eight` of the matrix.
template <typename Out>
QAT_FUNCTION void dequantise_eight(const Quantiser& q, int bits, const unsigned char* codes, const float* alpha,
                                   const float* divisors, Out* out, unsigned eight) {
  unsigned first = 8 * eight, block = first / (unsigned)q.length;
  float step = step_of(q, alpha, divisors, (int)block, (int)(first - block * q.length));
  unsigned long long fields = eight_fields(codes + (long long)eight * bits, bits);
  // Pieces of 16 bytes are the widest that a GPU writes.
  constexpr int V = 16 / sizeof(Out);
  Pack<Out, V> made[8 / V];
  QAT_UNROLL
  for (int half = 0; half < 2; half++) {
    // Four codes, which fit 32 bits.
    unsigned four = (unsigned)(fields >> (4 * bits * half));
    QAT_UNROLL
    for (int j = 0; j < 4; j++) {
      int at = 4 * half + j;
      store(&made[at / V].x[at % V], (signed_field(four >> (bits * j), bits) + q.offset) * step);
    }
  }
  QAT_UNROLL
  for (int i = 0; i < 8 / V; i++) ((Pack<Out, V>*)(out + first))[i] = made[i];
}

// Writes weight `index` of a matrix with any rows of `row` codes.
template <typename Out>
QAT_FUNCTION void dequantise_one(const Quantiser& q, int bits, int row, const unsigned char* codes, const float* alpha,
                                 const float* divisors, Out* out, unsigned index) {
  unsigned block = index / (unsigned)q.length, r = index / (unsigned)row;
  float step = step_of(q, alpha, divisors, (int)block, (int)(index - block * q.length));
  long long bytes = ((long long)row * bits + 7) / 8, bit = (long long)(index - r * row) * bits;
  const unsigned char* at = codes + r * bytes + bit / 8;
  // A code touches two bytes at most; behind the row's last one nothing is read.
  unsigned next = bit / 8 + 1 < bytes ? at[1] : 0;
  store(out + index, (signed_field((at[0] | next << 8) >> (bit % 8), bits) + q.offset) * step);
}

#ifndef QAT_HOST

extern "C" {

// Weights of packed codes, rows of `row` codes on whole bytes. Memory bounds it, and nearly all of that is the output:
// neighbouring threads write neighbouring 16 bytes.
#define DEQUANTISE(name, Out, V, weights)                                                                     \
  __global__ void __launch_bounds__(THREADS)                                                                  \
      name(Quantiser q, int bits, int row, const unsigned char* codes, const float* alpha,                    \
           const float* divisors, Out* out) {                                                                 \
    long long count = (long long)q.length * q.blocks / V;                                                     \
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < count;                              \
         i += (long long)gridDim.x * THREADS)                                                                 \
      weights;                                                                                                \
  }

DEQUANTISE(dequantise_f32_1, float, 1, dequantise_one(q, bits, row, codes, alpha, divisors, out, (unsigned)i))
DEQUANTISE(dequantise_f32_8, float, 8, dequantise_eight(q, bits, codes, alpha, divisors, out, (unsigned)i))
DEQUANTISE(dequantise_bf16_1, bf16, 1, dequantise_one(q, bits, row, codes, alpha, divisors, out, (unsigned)i))
DEQUANTISE(dequantise_bf16_8, bf16, 8, dequantise_eight(q, bits, codes, alpha, divisors, out, (unsigned)i))
}
#endif
