/* SPDX-License-Identifier: Apache-2.0
 *
 * The names of kernels/cuda/cuda.cuh on the CPU, so that kernels are tested without a GPU. shim.cc runs a block's
 * threads as fibers on one thread of the process, blocks one after another; device.cc is the device around it.
 *
 * The order is chosen to show mistakes: a thread runs until it must wait, asynchronous copies arrive only
 * when waited for, memory nobody wrote is not a number, and what a GPU would leave undefined ends the
 * process with a sentence and exit code 70. Not covered: real races, speed, and whether hardware agrees.
 */
#ifndef DINOV_TESTS_KERNELS_SHIM_H
#define DINOV_TESTS_KERNELS_SHIM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>

#include "control.h"

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned columns = 1, unsigned rows = 1, unsigned layers = 1) : x(columns), y(rows), z(layers) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

#define CUDART_INF_F ((float)INFINITY)
#define CUDART_NAN_F ((float)NAN)

/* Never a function of its own: files may have different ones of the same name. */
#define DINOV_DEVICE inline __attribute__((always_inline))
#define DINOV_KERNEL(threads) static void
#define DINOV_LAUNCH(s, what, kernel, grid, threads, shared, ...)                                                                  \
    shim_launch((s)->queue, what, grid, threads, (int64_t)(shared), shim_bind(kernel, std::make_tuple(__VA_ARGS__)))

void shim_launch(dinov_queue *queue, const char *what, dim3 grid, dim3 block, int64_t shared, std::function<void()> body);

/* A kernel with its arguments: copies, as a launch makes them. */
template <typename... P, typename... A> std::function<void()> shim_bind(void (*kernel)(P...), const std::tuple<A...> &arguments)
{
    static_assert((std::is_trivially_copyable_v<P> && ...), "an argument of a kernel is plain bytes");
    static_assert((sizeof(P) + ... + 0) <= 4096, "arguments of a kernel have at most 4 KiB");
    std::tuple<P...> copies(arguments);
    return [kernel, copies] { std::apply(kernel, copies); };
}

/* What a thread may wait at, as an index of names in shim.cc. */
enum shim_wait {
    SHIM_NOTHING,
    SHIM_BLOCK,
    SHIM_WARP,
    SHIM_SHUFFLE,
    SHIM_LOAD,
    SHIM_LOAD_TRANSPOSED,
    SHIM_MULTIPLY_BF16,
    SHIM_MULTIPLY_F16
};

/* Until all threads of the block or the warp are at this line; what a warp does together is then done for all lanes. */
void           shim_meet(shim_wait kind, void *argument, const char *file, int line);
unsigned char *shim_shared();
void           shim_copy(void *shared, const void *global, int bytes);
void           shim_copy_commit();
void           shim_copy_wait(int newest);

/* Says what went wrong, and where when a kernel runs; ends the process with exit code 70. */
[[noreturn]] void shim_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Guarded memory: what nobody wrote, and what lies around it, is no number in any element type. */
unsigned char *shim_guarded_new(size_t size);
void           shim_guarded_check(const unsigned char *memory, size_t size, const char *what);
void           shim_guarded_free(unsigned char *memory, size_t size, const char *what);
void           shim_spoil(void *memory, size_t size);

/* Of the launch that runs: ends the process unless [memory, memory + size) lies in memory of the device. In device.cc. */
void shim_check_device(const void *memory, size_t size, const char *what);

#define SHIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

DINOV_DEVICE unsigned char *dynamic_shared() { return shim_shared(); }

DINOV_DEVICE void block_barrier(SHIM_HERE) { shim_meet(SHIM_BLOCK, NULL, file, line); }
DINOV_DEVICE void warp_barrier(SHIM_HERE) { shim_meet(SHIM_WARP, NULL, file, line); }

struct shim_shuffle {
    float value, result;
    int   mask;
};

DINOV_DEVICE float shuffle_xor(float v, int mask, SHIM_HERE)
{
    shim_shuffle s = {v, 0, mask};
    shim_meet(SHIM_SHUFFLE, &s, file, line);
    return s.result;
}

static inline float shim_float(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static inline uint32_t shim_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static inline float to_float(float v) { return v; }
static inline float to_float(bf16 v) { return shim_float((uint32_t)v.bits << 16); }
/* The exponent moves by a product, which makes subnormal halves normal; infinities and what is no number are set. */
static inline float to_float(f16 v)
{
    uint32_t bits = shim_bits(shim_float((v.bits & 0x7fffu) << 13) * 0x1p112f);
    if ((v.bits & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
    return shim_float(bits | (v.bits & 0x8000u) << 16);
}

template <typename T> DINOV_DEVICE T from_float(float v);
template <> DINOV_DEVICE float       from_float<float>(float v) { return v; }
template <> DINOV_DEVICE bf16        from_float<bf16>(float v)
{
    uint32_t bits = shim_bits(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{0x7fff};
    return bf16{(uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
template <> DINOV_DEVICE f16 from_float<f16>(float v)
{
    uint32_t bits = shim_bits(v), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return f16{0x7fff};
    if (bits >= 0x477ff000u) return f16{(uint16_t)(sign | 0x7c00u)}; /* 65520 and more round to infinity */
    if (bits < 0x38800000u) /* subnormal: in a sum with 0.5 a bit is worth as much as in the half */
        return f16{(uint16_t)(sign | (shim_bits(shim_float(bits) + 0.5f) - shim_bits(0.5f)))};
    return f16{(uint16_t)(sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13)};
}

template <typename T> DINOV_DEVICE uint32_t pack2(float low, float high)
{
    return (uint32_t)from_float<T>(low).bits | (uint32_t)from_float<T>(high).bits << 16;
}

DINOV_DEVICE float exp2_fast(float v)
{
    float y = exp2f(v);
    return fabsf(y) < 0x1p-126f ? 0.0f : y; /* as on the GPU: no subnormal results */
}

DINOV_DEVICE void                  copy_async(void *shared, const void *global, int bytes) { shim_copy(shared, global, bytes); }
DINOV_DEVICE void                  copy_commit() { shim_copy_commit(); }
template <int N> DINOV_DEVICE void copy_wait() { shim_copy_wait(N); }

struct shim_load {
    uint32_t   *r;
    const void *row;
};

DINOV_DEVICE void load_matrices(uint32_t r[4], const void *row, SHIM_HERE)
{
    shim_load load = {r, row};
    shim_meet(SHIM_LOAD, &load, file, line);
}
DINOV_DEVICE void load_matrices_transposed(uint32_t r[4], const void *row, SHIM_HERE)
{
    shim_load load = {r, row};
    shim_meet(SHIM_LOAD_TRANSPOSED, &load, file, line);
}

struct shim_multiply {
    float          *d;
    const uint32_t *a, *b;
};

template <typename T> DINOV_DEVICE void multiply(float d[4], const uint32_t a[4], const uint32_t b[2], SHIM_HERE)
{
    static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>, "tensor cores are used in 16 bits");
    shim_multiply m = {d, a, b};
    shim_meet(std::is_same_v<T, bf16> ? SHIM_MULTIPLY_BF16 : SHIM_MULTIPLY_F16, &m, file, line);
}

#endif
