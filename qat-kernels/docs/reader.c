/* A reader of .piq files, version 1, packed portably: written from format.md alone, to show that it suffices, and in the
 * plainest way. It checks what it needs not to read beyond the file, not everything that a reader of foreign files has to.
 *
 *   cc -std=c99 -O1 -o reader reader.c
 *   ./reader model.piq < inputs > outputs      any number of inputs, one int8 a value, back to back
 *
 * The known answers of the file are recomputed first. The tests compare its outputs with the engine's.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { uint32_t h, w, c; int32_t zero; } Tensor;
enum { LINEAR = 1, CONV, DEPTHWISE, MAX_POOL, AVG_POOL, ADD, ARGMAX, TABLE, SOFTMAX, HADAMARD };

static uint8_t *file;
static uint32_t file_length;

static void need(int fine, const char *what)
{
    if (!fine) { fprintf(stderr, "%s\n", what); exit(1); }
}

/* Little-endian numbers at an offset of the file. */
static const uint8_t *at(uint64_t offset, uint64_t length)
{
    need(offset + length <= file_length, "something lies outside of the file");
    return file + offset;
}
static uint8_t u8(uint64_t o) { return at(o, 1)[0]; }
static int8_t s8(uint64_t o) { return (int8_t)u8(o); }
static uint16_t u16(uint64_t o) { const uint8_t *p = at(o, 2); return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t u32(uint64_t o) { return u16(o) | (uint32_t)u16(o + 2) << 16; }
static int32_t s32(uint64_t o) { return (int32_t)u32(o); }
static uint64_t u64(uint64_t o) { return u32(o) | (uint64_t)u32(o + 4) << 32; }

static uint32_t crc32(const uint8_t *bytes, uint32_t length)
{
    uint32_t r = 0xFFFFFFFF;
    for (uint32_t i = 0; i < length; i++) {
        r ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) r = r & 1 ? r >> 1 ^ 0xEDB88320 : r >> 1;
    }
    return ~r;
}

/* Offsets and lengths of the sections by their kinds, 0 where there is none. */
static uint32_t section[6], section_length[6];

static void open_file(const char *path)
{
    FILE *stream = fopen(path, "rb");
    need(stream != NULL, "the file cannot be opened");
    fseek(stream, 0, SEEK_END);
    file_length = (uint32_t)ftell(stream);
    rewind(stream);
    file = malloc(file_length ? file_length : 1);
    need(file && fread(file, 1, file_length, stream) == file_length, "the file cannot be read");
    fclose(stream);
    need(file_length >= 20 && memcmp(file, "\x89PIQ", 4) == 0, "not a .piq file");
    need(u16(4) == 1, "another version");
    need(u32(8) == file_length, "another length");
    need(crc32(file, file_length - 4) == u32(file_length - 4), "a wrong checksum");
    for (uint32_t i = 0, kind; i < u16(6); i++) {
        kind = u16(16 + 12 * i);
        need(kind >= 1 && kind <= 5, "an unknown section");
        section[kind] = u32(16 + 12 * i + 4);
        section_length[kind] = u32(16 + 12 * i + 8);
    }
    need(section[1] && section[2], "no program or no parameters");
}

static int clamp(int64_t y, int lo, int hi) { return y < lo ? lo : y > hi ? hi : (int)y; }

/* One rounding: y = clamp(z + ((sum * m + 2^(n-1)) >> n), lo, hi). Shifts of negative numbers are arithmetic here. */
static int8_t requantise(uint64_t op, int64_t sum, int32_t m)
{
    int n = u8(op + 5);
    int64_t rounded = (sum * m + ((int64_t)1 << (n - 1))) >> n;
    return (int8_t)clamp(s8(op + 46) + rounded, s8(op + 6), s8(op + 7));
}

/* Twice the level of a weight, times its group's factor. */
static int32_t weight(uint64_t op, uint32_t columns, uint32_t row, uint32_t column)
{
    uint32_t bits = u8(op + 1), group = u8(op + 4), code = 0;
    uint64_t bit = (uint64_t)column * bits, codes = section[2] + u32(op + 20);
    codes += (uint64_t)row * (((uint64_t)columns * bits + 7) / 8);
    for (uint32_t i = 0; i < bits; i++, bit++) code |= (uint32_t)(u8(codes + bit / 8) >> bit % 8 & 1) << i;
    int32_t q = (int32_t)code - (code >> (bits - 1) ? 1 << bits : 0), level = 2 * q + u8(op + 2);
    if (group == 0) return level;
    uint64_t field = column / group, divisors = section[2] + u32(op + 24);
    divisors += (uint64_t)row * ((columns / group + 3) / 4);
    return level * (60 / ((u8(divisors + field / 4) >> 2 * (field % 4) & 3) + 2));
}

static void windowed(uint64_t op, int kind, const Tensor *in, const int8_t *x, const Tensor *out, int8_t *y)
{
    uint32_t kh = u16(op + 12), kw = u16(op + 14), channel = section[2] + u32(op + 28);
    for (uint32_t oy = 0; oy < out->h; oy++) for (uint32_t ox = 0; ox < out->w; ox++)
    for (uint32_t o = 0; o < out->c; o++) {
        int64_t sum = 0, most = -128;
        for (uint32_t i = 0; i < kh; i++) for (uint32_t j = 0; j < kw; j++) {
            int64_t row = (int64_t)oy * u8(op + 16) + i - u8(op + 18), line = (int64_t)ox * u8(op + 17) + j - u8(op + 19);
            int inside = row >= 0 && row < in->h && line >= 0 && line < in->w;
            const int8_t *pixel = inside ? x + (row * in->w + line) * in->c : NULL;
            uint32_t tap = i * kw + j;
            if (kind == CONV)
                for (uint32_t c = 0; c < in->c; c++)
                    sum += (int64_t)weight(op, kh * kw * in->c, o, tap * in->c + c) * (pixel ? pixel[c] : in->zero);
            else if (kind == DEPTHWISE)
                sum += (int64_t)weight(op, in->c, tap, o) * (pixel ? pixel[o] : in->zero);
            else if (pixel) {
                sum += pixel[o] - in->zero;
                if (pixel[o] > most) most = pixel[o];
            }
        }
        int8_t *to = y + (oy * out->w + ox) * out->c + o;
        if (kind == MAX_POOL) *to = (int8_t)clamp(most, s8(op + 6), s8(op + 7));
        else if (kind == AVG_POOL) *to = requantise(op, sum, s32(op + 32));
        else *to = requantise(op, sum + s32(channel + 8 * o), s32(channel + 8 * o + 4));
    }
}

static void softmax(uint64_t op, const Tensor *in, const int8_t *x, int8_t *y)
{
    uint32_t table = section[2] + u32(op + 28);
    for (uint32_t p = 0; p < in->h * in->w; p++, x += in->c, y += in->c) {
        int most = -128;
        int64_t sum = 0;
        for (uint32_t c = 0; c < in->c; c++) if (x[c] > most) most = x[c];
        for (uint32_t c = 0; c < in->c; c++) sum += u16(table + 2 * (most - x[c]));
        for (uint32_t c = 0; c < in->c; c++)
            y[c] = (int8_t)clamp(-128 + (256 * (int64_t)u16(table + 2 * (most - x[c])) + sum / 2) / sum, s8(op + 6), s8(op + 7));
    }
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void hadamard(uint64_t op, uint32_t length, int32_t zero, const int8_t *x, int8_t *y)
{
    uint32_t constants = section[2] + u32(op + 28), block = u32(constants + 8);
    uint64_t seed = u64(constants);
    need(block && !(block & (block - 1)) && length % block == 0, "a block that does not fit");
    int32_t *v = malloc(block * sizeof *v);
    need(v != NULL, "no memory");
    for (uint32_t start = 0; start < length; start += block) {
        for (uint32_t i = 0; i < block; i++) {
            uint64_t at = start + i, word = mix(seed + (at / 64 + 1) * 0x9E3779B97F4A7C15u);
            v[i] = word >> at % 64 & 1 ? zero - x[at] : x[at] - zero;
        }
        for (uint32_t half = 1; half < block; half *= 2)
            for (uint32_t i = 0; i < block; i++) if (!(i & half)) {
                int32_t a = v[i], b = v[i + half];
                v[i] = a + b;
                v[i + half] = a - b;
            }
        for (uint32_t i = 0; i < block; i++) y[start + i] = requantise(op, v[i], s32(op + 32));
    }
    free(v);
}

static uint32_t size(const Tensor *t) { return t->h * t->w * t->c; }

/* Tensor 0, or what operator i - 1 makes. */
static Tensor tensor(uint32_t i)
{
    uint64_t program = section[1], op = program + 32 + 64 * (uint64_t)(i - 1);
    if (i == 0) return (Tensor){ u16(program), u16(program + 2), u16(program + 4), s8(program + 6) };
    return (Tensor){ u16(op + 40), u16(op + 42), u16(op + 44), s8(op + 46) };
}

/* Every tensor has memory of its own here; a device would use the offsets in the arena instead. */
static void run(int8_t **values, uint32_t operators)
{
    for (uint32_t i = 0; i < operators; i++) {
        uint64_t op = section[1] + 32 + 64 * (uint64_t)i;
        uint32_t first = u16(op + 8), second = u16(op + 10), channel = section[2] + u32(op + 28);
        need(first <= i && second <= i, "a tensor before it is made");
        need(u8(op + 3) == 0, "packed for another core");
        Tensor in = tensor(first), out = tensor(i + 1);
        int8_t *x = values[first], *y = values[i + 1];
        switch (u8(op)) {
        case LINEAR:
            for (uint32_t o = 0; o < out.c; o++) {
                int64_t sum = s32(channel + 8 * o);
                for (uint32_t c = 0; c < size(&in); c++) sum += (int64_t)weight(op, size(&in), o, c) * x[c];
                y[o] = requantise(op, sum, s32(channel + 8 * o + 4));
            }
            break;
        case CONV: case DEPTHWISE: case MAX_POOL: case AVG_POOL:
            windowed(op, u8(op), &in, x, &out, y);
            break;
        case ADD:
            for (uint32_t c = 0; c < size(&in); c++) {
                int64_t a = (int64_t)(x[c] - in.zero) * s32(op + 32);
                int64_t b = (int64_t)(values[second][c] - tensor(second).zero) * s32(op + 36);
                y[c] = requantise(op, a + b, 1);
            }
            break;
        case ARGMAX: {
            uint32_t best = 0;
            for (uint32_t c = 1; c < size(&in); c++) if (x[c] > x[best]) best = c;
            y[0] = (int8_t)(best & 255);
            y[1] = (int8_t)(best >> 8);
            break;
        }
        case TABLE:
            for (uint32_t c = 0; c < size(&in); c++) y[c] = s8(channel + x[c] + 128);
            break;
        case SOFTMAX:
            softmax(op, &in, x, y);
            break;
        case HADAMARD:
            hadamard(op, size(&in), in.zero, x, y);
            break;
        default:
            need(0, "an unknown operator");
        }
    }
}

int main(int count, char **words)
{
    need(count == 2, "usage: reader FILE.piq < inputs > outputs");
    open_file(words[1]);
    uint32_t operators = u16(section[1] + 12);
    int8_t **values = calloc(operators + 1, sizeof *values);
    need(values != NULL, "no memory");
    for (uint32_t i = 0; i <= operators; i++) {
        Tensor t = tensor(i);
        values[i] = malloc(size(&t) ? size(&t) : 1);
        need(values[i] != NULL, "no memory");
    }
    Tensor first = tensor(0), last = tensor(operators);
    uint32_t inputs = size(&first), outputs = size(&last);
    for (uint32_t o = 0; section[4] && o + inputs + outputs <= section_length[4]; o += inputs + outputs) {
        memcpy(values[0], at(section[4] + o, inputs), inputs);
        run(values, operators);
        need(memcmp(values[operators], at(section[4] + o + inputs, outputs), outputs) == 0, "a known answer is not met");
    }
    while (fread(values[0], 1, inputs, stdin) == inputs) {
        run(values, operators);
        fwrite(values[operators], 1, outputs, stdout);
    }
    return 0;
}
