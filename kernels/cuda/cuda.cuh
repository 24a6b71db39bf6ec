/* SPDX-License-Identifier: Apache-2.0
 *
 * What every kernel file stands on. The same files are compiled by nvcc for GPUs and, with DINOV_SHIM, as C++ for
 * the tests, where a block's threads are fibers on the CPU; so a kernel keeps to what is here:
 *   - launches go through DINOV_LAUNCH, block sizes are constants, shared memory is dynamic_shared() alone;
 *   - warp functions are called by all 32 threads of a warp;
 *   - sums have a fixed order: no float atomics; results depend on a row's own inputs.
 * Compiled without contraction (-fmad=false): fmaf where it is meant.
 */
#ifndef DINOV_KERNELS_CUDA_CUDA_CUH
#define DINOV_KERNELS_CUDA_CUDA_CUH

extern "C" {
#include "kernels/cuda/kernels.h"
}

/* 16-bit elements are storage; arithmetic is in float. */
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

/* 16 bytes that travel as one, and 8, whatever they are. */
struct __attribute__((may_alias, aligned(16))) vec16 {
    uint32_t w[4];
};
typedef uint64_t __attribute__((may_alias)) vec8;

#ifdef DINOV_SHIM
#include <shim.h> /* tests/kernels/shim: every name below, on the CPU */
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math_constants.h>

#define DINOV_DEVICE __device__ __forceinline__
/* `threads`: of a block, a constant. */
#define DINOV_KERNEL(threads) static __global__ void __launch_bounds__(threads)

/* DINOV_LAUNCH(s, "layernorm", (layernorm<T>), dim3(...), THREADS, bytes of shared memory, arguments...) */
#define DINOV_LAUNCH(s, what, kernel, grid, threads, shared, ...)                                                         \
    do {                                                                                                                  \
        if ((shared) > 48 * 1024)                                                                                         \
            dinov_queue_failed((s)->queue,                                                                                \
                               cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared)),  \
                               what);                                                                                     \
        kernel<<<grid, threads, shared, (cudaStream_t)dinov_queue_stream((s)->queue)>>>(__VA_ARGS__);                     \
        dinov_queue_failed((s)->queue, cudaGetLastError(), what);                                                         \
    } while (0)

DINOV_DEVICE unsigned char *dynamic_shared()
{
    extern __shared__ __align__(128) unsigned char dinov_shared_memory[];
    return dinov_shared_memory;
}

/* All threads of the block, of the warp. */
DINOV_DEVICE void block_barrier() { __syncthreads(); }
DINOV_DEVICE void warp_barrier() { __syncwarp(); }

DINOV_DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }

DINOV_DEVICE float to_float(float v) { return v; }
DINOV_DEVICE float to_float(bf16 v) { return __uint_as_float((uint32_t)v.bits << 16); }
DINOV_DEVICE float to_float(f16 v) { return __half2float(__ushort_as_half(v.bits)); }

/* To the nearest, ties to even; not a number stays one. */
template <typename T> DINOV_DEVICE T from_float(float v);
template <> DINOV_DEVICE float from_float<float>(float v) { return v; }
template <> DINOV_DEVICE bf16 from_float<bf16>(float v) { return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(v))}; }
template <> DINOV_DEVICE f16 from_float<f16>(float v) { return f16{__half_as_ushort(__float2half_rn(v))}; }

/* Two elements in a register, the first in the low half. */
template <typename T> DINOV_DEVICE uint32_t pack2(float low, float high)
{
    return (uint32_t)from_float<T>(low).bits | (uint32_t)from_float<T>(high).bits << 16;
}
template <> DINOV_DEVICE uint32_t pack2<bf16>(float low, float high)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return (uint32_t)__bfloat16_as_ushort(v.x) | (uint32_t)__bfloat16_as_ushort(v.y) << 16;
}
template <> DINOV_DEVICE uint32_t pack2<f16>(float low, float high)
{
    __half2 v = __floats2half2_rn(low, high);
    return (uint32_t)__half_as_ushort(v.x) | (uint32_t)__half_as_ushort(v.y) << 16;
}

/* 2^v, within 2 ulp; 0 for -infinity. */
DINOV_DEVICE float exp2_fast(float v)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(v));
    return y;
}

/* `bytes` (0 to 16) of 16 from global to shared memory, both 16-byte aligned, the rest zero; done after the wait. A group is what was
 * begun since the last commit; wait<N>: until at most N newest groups are under way, for this thread's own copies. */
DINOV_DEVICE void copy_async(void *shared, const void *global, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global),
                 "r"(bytes)
                 : "memory");
}
DINOV_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DINOV_DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

/* Four 8x8 matrices of 16-bit elements from shared memory: lane 8i + j gives the address of row j of matrix i (16 bytes,
 * aligned). r[i] of lane l: elements 2(l % 4), 2(l % 4) + 1 of row l / 4 of matrix i; transposed: of column l / 4. */
DINOV_DEVICE void load_matrices(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
DINOV_DEVICE void load_matrices_transposed(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* d [16, 8] += a [16, 16] b [16, 8] on tensor cores, sums in float; fragments as PTX's mma.m16n8k16 has them. */
template <typename T> DINOV_DEVICE void multiply(float d[4], const uint32_t a[4], const uint32_t b[2]);
template <> DINOV_DEVICE void multiply<bf16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> DINOV_DEVICE void multiply<f16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

enum { WARP = 32 };

/* Over the warp, the same bits in every lane. */
DINOV_DEVICE float warp_sum(float v)
{
    for (int mask = WARP / 2; mask; mask /= 2) v += shuffle_xor(v, mask);
    return v;
}
DINOV_DEVICE float warp_max(float v)
{
    for (int mask = WARP / 2; mask; mask /= 2) v = fmaxf(v, shuffle_xor(v, mask));
    return v;
}

/* v (1 + erf(v / sqrt 2)) / 2, and v / (1 + exp(-v)). */
DINOV_DEVICE float gelu(float v) { return 0.5f * v * (1.0f + erff(v * 0.70710678118654752440f)); }
DINOV_DEVICE float silu(float v) { return v / (1.0f + expf(-v)); }

static inline unsigned blocks_of(int64_t count, int64_t size) { return (unsigned)((count + size - 1) / size); }

/* Calls name<T>(s, ...) for the queue's real. */
#define DINOV_BY_REAL(s, name, ...)                                                \
    do {                                                                           \
        switch (dinov_queue_real((s)->queue)) {                                    \
        case DINOV_BF16: name<bf16>(s, __VA_ARGS__); break;                        \
        case DINOV_F16: name<f16>(s, __VA_ARGS__); break;                          \
        default: name<float>(s, __VA_ARGS__); break;                               \
        }                                                                          \
    } while (0)

#endif
