/* SPDX-License-Identifier: Apache-2.0
 *
 * The ops table: every arithmetic step of a vision transformer, one entry each. model/, train/ and
 * infer/ are written once against it; a backend is a filled table. The portable reference
 * (kernels/ref) is the specification of every entry and is built in float and in double.
 *
 * Dims: B images, N patch tokens, T = 1 + registers + N tokens, C width, H heads, D = C / H.
 * Elements are `real`: float or double, by the table's dtype. Matrices are row-major with a row
 * stride `ld` in elements, ld >= cols. Outputs come first, then inputs. No entry allocates or fails.
 *
 * Bits: a result element depends on its own inputs and on K, T or C alone, never on how many rows
 * are computed together, nor on the number of threads.
 */
#ifndef DINOV_KERNELS_OPS_H
#define DINOV_KERNELS_OPS_H

#include "base/pool.h"

typedef struct dinov_mat {
    void   *data; /* real [rows, cols] */
    int64_t rows, cols, ld;
} dinov_mat;

/* Where ops run: the threads, and memory they may overwrite. One op at a time. */
typedef struct dinov_stream {
    dinov_pool *pool;    /* NULL: on the calling thread */
    void       *scratch; /* at least ops->attention_scratch(...) bytes, 64-byte aligned */
} dinov_stream;

typedef enum dinov_activation {
    DINOV_ACT_NONE   = 0,
    DINOV_ACT_GELU   = 1, /* 0.5 v (1 + erf(v / sqrt 2)) */
    DINOV_ACT_SWIGLU = 2, /* rows 0..n/2-1 of the weight are the gate: silu(v[j]) * v[j + n/2]; n/2 columns come out */
} dinov_activation;

/* A weight [n, k] laid out by linear_pack for this table and activation, with its bias. */
typedef struct dinov_linear {
    int64_t          n, k;
    dinov_activation act;
    const void      *packed; /* linear_size elements */
    const void      *bias;   /* packed likewise by linear_pack_bias; never NULL */
} dinov_linear;

typedef struct dinov_ops {
    const char *name; /* "ref", "avx2", "avx512": recorded in outputs */
    size_t      real_size;

    /* Elements that linear_pack writes, and linear_pack_bias. */
    size_t (*linear_size)(int64_t n, int64_t k);
    size_t (*linear_bias_size)(int64_t n);
    /* weight: real [n, k], rows packed; bias: real [n] or NULL for zeros. */
    void (*linear_pack)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act);
    void (*linear_pack_bias)(void *packed, const void *bias, int64_t n, dinov_activation act);

    /* v = x W^T + bias, then act. y = v, or with a residual: y = residual + scale * v, where scale
     * (real [y->cols], NULL for ones) multiplies columns. residual may be y itself.
     * x [M, k]; y and residual [M, n] (SwiGLU: [M, n/2]). */
    void (*linear)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                   const void *scale);

    /* Over each row: (x - mean) / sqrt(variance + eps) * weight + bias, biased variance. */
    void (*layernorm)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps);

    /* For each image and head: softmax(Q K^T / sqrt(D)) V. qkv [B*T, 3C], columns (which, head, D);
     * out [B*T, C]. */
    void (*attention)(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads);
    /* Bytes of scratch for it with that many threads. */
    size_t (*attention_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads);

    /* rows [N, channels*p*p] of one image: row (i, j) holds the patch at i*p, j*p as (channel, y, x).
     * pixels: float [channels, height, width]. */
    void (*patchify)(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t channels, int64_t height, int64_t width,
                     int64_t patch);

    /* Separable resampling of a grid of C-vectors: y[i, j] = sum_a sum_b rows[i, a] cols[j, b] x[a, b].
     * y [h*w, C], x [gh*gw, C]; rows: double [h, gh], cols: double [w, gw]. */
    void (*resample)(dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols, int64_t h, int64_t w,
                     int64_t gh, int64_t gw);
} dinov_ops;

/* The reference tables. */
extern const dinov_ops dinov_ops_ref_f32, dinov_ops_ref_f64;

/* The float table of that name, or for NULL the fastest this CPU runs. ERR_UNSUPPORTED (DEV-ISA)
 * when the name is unknown or the CPU lacks it. */
dinov_status dinov_ops_cpu(const dinov_ops **out, const char *name, dinov_error *err);

/* The names dinov_ops_cpu accepts on this CPU, best last, NULL-terminated: tests run them all. */
const char *const *dinov_ops_cpu_names(void);

#endif
