/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact GELU and SwiGLU for products whose library has neither, and weights into the layout products read.
 */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256, EACH = 8 }; /* outputs of a thread, neighbours */

/* A thread makes EACH outputs of a row, from as many inputs (GELU) or twice as many in pairs (SwiGLU). */
template <typename T, bool pairs>
DINOV_KERNEL(THREADS)
activate(T *y, int64_t y_ld, const T *x, int64_t x_ld, int64_t rows, int cols, unsigned pieces)
{
    unsigned piece = blockIdx.x * THREADS + threadIdx.x, row = piece / pieces; /* 32 bits, whose division is cheap */
    int      at = (int)(piece % pieces) * EACH;
    if (row >= rows) return;
    const T      *in  = x + row * x_ld + (pairs ? 2 * at : at);
    T            *out = y + row * y_ld + at;
    alignas(16) T u[pairs ? 2 * EACH : EACH], v[EACH];
    int           count = cols - at < EACH ? cols - at : EACH;
    if (count == EACH) {
        for (unsigned i = 0; i < sizeof u / 16; i++) ((vec16 *)u)[i] = ((const vec16 *)in)[i];
        for (int i = 0; i < EACH; i++)
            v[i] = from_float<T>(pairs ? silu(to_float(u[pairs ? 2 * i : i])) * to_float(u[pairs ? 2 * i + 1 : i])
                                       : gelu(to_float(u[i])));
        for (unsigned i = 0; i < sizeof v / 16; i++) ((vec16 *)out)[i] = ((const vec16 *)v)[i];
    } else {
        for (int i = 0; i < count; i++)
            out[i] = from_float<T>(pairs ? silu(to_float(in[2 * i])) * to_float(in[2 * i + 1]) : gelu(to_float(in[i])));
    }
}

/* A block lays out one row of the weight. */
template <typename T>
DINOV_KERNEL(THREADS)
pack(T *packed, int64_t ld, const float *weight, int64_t n, int64_t k, bool pairs, int64_t first)
{
    int64_t row = first + blockIdx.x, half = n / 2, to = !pairs ? row : row < half ? 2 * row : 2 * (row - half) + 1;
    for (int64_t i = threadIdx.x; i < ld; i += THREADS)
        packed[to * ld + i] = from_float<T>(i < k ? weight[blockIdx.x * k + i] : 0.0f);
}

template <typename T> static void launch_activate(dinov_stream *s, dinov_mat *y, const dinov_mat *x, dinov_activation act)
{
    unsigned pieces = blocks_of(y->cols, EACH);
    dim3     grid(blocks_of(y->rows * pieces, THREADS));
    DINOV_ASSERT(y->rows * pieces <= UINT32_MAX - THREADS);
    if (act == DINOV_ACT_SWIGLU)
        DINOV_LAUNCH(s, "activation", (activate<T, true>), grid, THREADS, 0, (T *)y->data, y->ld, (const T *)x->data, x->ld,
                     y->rows, (int)y->cols, pieces);
    else
        DINOV_LAUNCH(s, "activation", (activate<T, false>), grid, THREADS, 0, (T *)y->data, y->ld, (const T *)x->data, x->ld,
                     y->rows, (int)y->cols, pieces);
}

extern "C" void dinov_cuda_activate(dinov_stream *s, dinov_mat *y, const dinov_mat *x, dinov_activation act)
{
    DINOV_BY_REAL(s, launch_activate, y, x, act);
}

template <typename T>
static void launch_pack(dinov_stream *s, void *packed, const float *weight, int64_t n, int64_t k, dinov_activation act,
                        int64_t first, int64_t count)
{
    DINOV_LAUNCH(s, "pack", (pack<T>), dim3((unsigned)count), THREADS, 0, (T *)packed, dinov_cuda_stride(k), weight, n, k,
                 act == DINOV_ACT_SWIGLU, first);
}

extern "C" void dinov_cuda_pack(dinov_stream *s, void *packed, const float *weight, int64_t n, int64_t k, dinov_activation act,
                                int64_t first, int64_t count)
{
    DINOV_BY_REAL(s, launch_pack, packed, weight, n, k, act, first, count);
}
