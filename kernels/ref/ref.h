/* SPDX-License-Identifier: Apache-2.0
 *
 * The portable reference is compiled twice, with `real` float and double; REF(name) gives each its
 * own symbol.
 */
#ifndef DINOV_KERNELS_REF_H
#define DINOV_KERNELS_REF_H

#include "kernels/ops.h"

#include <math.h>

#ifdef DINOV_REF_DOUBLE
typedef double real;
#define REF(name) dinov_ref_f64_##name
#define DINOV_REF_TABLE dinov_ops_ref_f64
#else
typedef float real;
#define REF(name) dinov_ref_f32_##name
#define DINOV_REF_TABLE dinov_ops_ref_f32
#endif

/* Sums run in parts of 64, so that rounding does not grow with their length. Loops over columns or over
 * a flat array are cut into blocks of these sizes, never by the number of threads. */
enum { PART = 64, STRIP = 64, CHUNK = 16384 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

static inline real *row_of(const dinov_mat *m, int64_t row) { return (real *)m->data + row * m->ld; }

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

/* to[c] += sum over rows r of weight[r * step] * x[r][c], for the columns of one strip. */
static inline void add_rows(real *to, const real *weight, int64_t step, const real *x, int64_t ld, int64_t rows, int64_t columns)
{
    real sum[STRIP] = {0};
    for (int64_t begin = 0; begin < rows; begin += PART) {
        real part[STRIP] = {0};
        for (int64_t r = begin; r < rows && r < begin + PART; r++)
            for (int64_t c = 0; c < columns; c++) part[c] += weight[r * step] * x[r * ld + c];
        for (int64_t c = 0; c < columns; c++) sum[c] += part[c];
    }
    for (int64_t c = 0; c < columns; c++) to[c] += sum[c];
}

static inline real gelu(real v) { return (real)0.5 * v * (1 + (real)erf(v * 0.70710678118654752440)); }

static inline real sigmoid(real v) { return 1 / (1 + (real)exp(-v)); }

static inline real silu(real v) { return v / (1 + (real)exp(-v)); }

size_t REF(linear_size)(int64_t n, int64_t k);
size_t REF(linear_bias_size)(int64_t n);
void   REF(linear_pack)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act);
size_t REF(linear_scratch)(int64_t m, int64_t n, dinov_activation act);
int64_t REF(stride)(int64_t cols);
void   REF(linear_pack_bias)(dinov_stream *s, void *packed, const void *bias, int64_t n, dinov_activation act);
void   REF(linear)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                 const void *scale);
void   REF(layernorm)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps);
void   REF(attention)(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads);
size_t REF(attention_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads);
void   REF(patchify)(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t images, int64_t channels, int64_t height,
                   int64_t width, int64_t patch);
void   REF(resample)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols, int64_t h,
                   int64_t w, int64_t gh, int64_t gw);
void   REF(features)(dinov_stream *s, float *out, const dinov_mat *x, int64_t images, int64_t first, int64_t count, bool mean,
                   const void *weight, const void *bias, double eps);
void   REF(pictures)(dinov_stream *s, float *pixels, const void *block, const dinov_picture *pictures, int64_t count,
                   int64_t width, int64_t height, int64_t widest, int64_t highest, const float *table);

void   REF(linear_pack_transposed)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, const void *scale);
void   REF(linear_backward)(dinov_stream *s, void *dweight, void *dbias, const dinov_mat *dy, const dinov_mat *x);
void   REF(layerscale_backward)(dinov_stream *s, void *dgamma, void *dweight, void *dbias, const void *dw, const void *db,
                              const void *gamma, const void *weight, const void *bias, int64_t n, int64_t k);
void   REF(layernorm_backward)(dinov_stream *s, dinov_mat *dx, void *dweight, void *dbias, const dinov_mat *dy, const dinov_mat *x,
                             const void *weight, double eps);
size_t REF(layernorm_backward_scratch)(int64_t rows, int64_t cols);
void   REF(attention_backward)(dinov_stream *s, dinov_mat *dqkv, const dinov_mat *dout, const dinov_mat *qkv, int64_t images,
                             int64_t heads);
size_t REF(attention_backward_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads);
void   REF(activation)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, dinov_activation act);
void   REF(activation_backward)(dinov_stream *s, dinov_mat *dx, dinov_mat *y, const dinov_mat *dy, const dinov_mat *x,
                              dinov_activation act);
void   REF(gather)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const int32_t *rows, double factor);
void   REF(scatter_add)(dinov_stream *s, dinov_mat *y, const int32_t *rows, const dinov_mat *x, const void *scale, double factor);
void   REF(column_sums)(dinov_stream *s, void *sums, const dinov_mat *x);
void   REF(embed)(dinov_stream *s, dinov_mat *x, const dinov_mat *patches, const void *cls, const void *registers,
                const void *mask_token, const void *pos, const uint8_t *mask, int64_t images, int64_t registers_count);
void   REF(embed_backward)(dinov_stream *s, dinov_mat *dpatches, void *dcls, void *dregisters, void *dmask_token, void *dpos,
                         const dinov_mat *dx, const uint8_t *mask, int64_t images, int64_t registers_count);
void   REF(normalize)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, double eps);
void   REF(normalize_backward)(dinov_stream *s, dinov_mat *dx, const dinov_mat *dy, const dinov_mat *x, double eps);
void   REF(weight_norm)(dinov_stream *s, void *w, const void *v, const void *g, int64_t n, int64_t k);
void   REF(weight_norm_backward)(dinov_stream *s, void *dv, void *dg, const void *dw, const void *v, const void *g, int64_t n,
                               int64_t k);
void   REF(softmax_stats)(dinov_stream *s, void *max, void *sum, const dinov_mat *z, const void *bias, double temperature);
void   REF(softmax_apply)(dinov_stream *s, dinov_mat *z, void *entropy, const void *bias, const void *lse, double temperature);
void   REF(exp_sums)(dinov_stream *s, void *sums, const dinov_mat *z, const void *offset, double temperature);
void   REF(cross_entropy)(dinov_stream *s, dinov_mat *z, void *loss, const void *lse, const dinov_mat *p, const int32_t *targets,
                        const void *weight, double temperature);
void   REF(koleo)(dinov_stream *s, void *distance, dinov_mat *dx, const dinov_mat *x, double weight);
size_t REF(koleo_scratch)(int64_t rows, int64_t cols);
void   REF(adamw)(dinov_stream *s, void *p, const void *g, void *m, void *v, int64_t count, double grad_scale, double lr, double wd,
                double beta1, double beta2, double eps, int64_t step);
void   REF(ema)(dinov_stream *s, void *average, const void *value, int64_t count, double momentum);
void   REF(sum_squares)(dinov_stream *s, double *out, const void *x, int64_t count);

#endif
