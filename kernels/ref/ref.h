/* SPDX-License-Identifier: Apache-2.0
 *
 * The portable reference is compiled twice, with `real` float and double; REF(name) gives each its
 * own symbol.
 */
#ifndef DINOV_KERNELS_REF_H
#define DINOV_KERNELS_REF_H

#include "kernels/ops.h"

#ifdef DINOV_REF_DOUBLE
typedef double real;
#define REF(name) dinov_ref_f64_##name
#define DINOV_REF_TABLE dinov_ops_ref_f64
#else
typedef float real;
#define REF(name) dinov_ref_f32_##name
#define DINOV_REF_TABLE dinov_ops_ref_f32
#endif

/* Sums run in parts of 64, so that rounding does not grow with their length. */
enum { PART = 64 };

static inline real dot(const real *x, const real *w, int64_t ld, int64_t n)
{
    real sum = 0;
    for (int64_t begin = 0; begin < n; begin += PART) {
        real part = 0;
        for (int64_t i = begin; i < n && i < begin + PART; i++) part += x[i] * w[i * ld];
        sum += part;
    }
    return sum;
}

static inline real total(const real *x, int64_t n)
{
    const real one = 1;
    return dot(x, &one, 0, n);
}

size_t REF(linear_size)(int64_t n, int64_t k);
size_t REF(linear_bias_size)(int64_t n);
void   REF(linear_pack)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act);
void   REF(linear_pack_bias)(void *packed, const void *bias, int64_t n, dinov_activation act);
void   REF(linear)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                 const void *scale);
void   REF(layernorm)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps);
void   REF(attention)(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads);
size_t REF(attention_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads);
void   REF(patchify)(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t channels, int64_t height, int64_t width,
                   int64_t patch);
void   REF(resample)(dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols, int64_t h, int64_t w, int64_t gh,
                   int64_t gw);

#endif
