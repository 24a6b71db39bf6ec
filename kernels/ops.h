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
 * A device's table (kernels/device.h) works on memory of the device, in the order of its queue, perhaps
 * later. Its `real` may be bf16, f16 or float; what is called `wide` is float there: the residual stream,
 * vectors (biases, norm weights, embeddings) and position grids. On a CPU wide is real.
 *
 * Bits: a result element depends on its own inputs and on K, T or C alone, never on how many rows
 * are computed together, nor on the number of threads.
 */
#ifndef DINOV_KERNELS_OPS_H
#define DINOV_KERNELS_OPS_H

#include "base/pool.h"

#include <stdbool.h>

typedef struct dinov_mat {
    void   *data; /* real or wide [rows, cols] */
    int64_t rows, cols, ld;
} dinov_mat;

/* Where ops run: the threads or a device's queue, and memory they may overwrite. One op at a time. */
typedef struct dinov_stream {
    dinov_pool         *pool;    /* NULL: on the calling thread */
    void               *scratch; /* at least the bytes that the op's ..._scratch(...) asks for, 64-byte aligned */
    struct dinov_queue *queue;   /* of a device's table */
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
    const void      *bias;   /* wide, packed likewise by linear_pack_bias; never NULL */
} dinov_linear;

/* One decoded picture and how it becomes an input, as image/resize.h plans it: places in the block of bytes that a batch
 * travels in, and PIL's two passes. A pass makes sample i of `count[i]` samples from first[i] on:
 * clamp(sum of weight[i * most + j] * in[first[i] + j] + 2^21 >> 22). A direction that is kept has one weight of 2^22. */
typedef struct dinov_picture {
    int64_t rgb;           /* offset of uint8 [rows, columns, 3] */
    int64_t middle;        /* offset in the scratch of uint8: what lies between the passes */
    int64_t across, down;  /* offsets of int32 first [n], count [n], weight [n, most]; n: the input's width, height */
    int32_t across_most, down_most;
    int32_t columns, rows; /* of rgb */
    int32_t down_first;    /* which pass comes first */
    int32_t reserved;      /* 0 */
} dinov_picture;

typedef struct dinov_ops {
    const char *name; /* "ref", "avx2", "avx512", "cuda-sm90-bf16-...": recorded in outputs */
    size_t      real_size, wide_size;
    bool        folds_scale; /* whoever packs weights multiplies them by LayerScale; linear then takes no scale */

    /* The row stride that suits the table, in elements, at least cols. */
    int64_t (*stride)(int64_t cols);

    /* Elements that linear_pack writes, and linear_pack_bias. */
    size_t (*linear_size)(int64_t n, int64_t k);
    size_t (*linear_bias_size)(int64_t n);
    /* weight: wide [n, k], rows packed; bias: wide [n] or NULL for zeros; both in the process's memory. */
    void (*linear_pack)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act);
    void (*linear_pack_bias)(dinov_stream *s, void *packed, const void *bias, int64_t n, dinov_activation act);

    /* v = x W^T + bias, then act. y = v, or with a residual: y = residual + scale * v, where scale
     * (wide [y->cols], NULL for ones) multiplies columns. residual may be y itself.
     * x [M, k]; y and residual [M, n] (SwiGLU: [M, n/2]); with a residual both are wide. */
    void (*linear)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                   const void *scale);
    /* Bytes of scratch for it. */
    size_t (*linear_scratch)(int64_t m, int64_t n, dinov_activation act);

    /* Over each row: (x - mean) / sqrt(variance + eps) * weight + bias, biased variance. x is wide. */
    void (*layernorm)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps);

    /* For each image and head: softmax(Q K^T / sqrt(D)) V. qkv [B*T, 3C], columns (which, head, D);
     * out [B*T, C]. */
    void (*attention)(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads);
    /* Bytes of scratch for it with that many threads. */
    size_t (*attention_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads);

    /* rows [B*N, channels*p*p]: row (b, i, j) holds the patch at i*p, j*p as (channel, y, x).
     * pixels: float [B, channels, height, width]. */
    void (*patchify)(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t images, int64_t channels, int64_t height,
                     int64_t width, int64_t patch);

    /* Tokens of `images` pictures: x [B*T, C], wide, = cls + pos[0]; registers [R, C]; patch n: (mask[b, n] ? mask_token :
     * patches[b*N + n]) + pos[1 + n]. pos: wide [1 + N, C]; mask: uint8 [B, N] or NULL. */
    void (*embed)(dinov_stream *s, dinov_mat *x, const dinov_mat *patches, const void *cls, const void *registers,
                  const void *mask_token, const void *pos, const uint8_t *mask, int64_t images, int64_t registers_count);

    /* Separable resampling of a grid of C-vectors: y[i, j] = sum_a sum_b rows[i, a] cols[j, b] x[a, b].
     * y [h*w, C], x [gh*gw, C], wide; rows: double [h, gh], cols: double [w, gw]. */
    void (*resample)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols, int64_t h, int64_t w,
                     int64_t gh, int64_t gw);

    /* Rows of x [B*T, C] as features: rows [first, first + count) of each picture, through layernorm (weight NULL: as they are).
     * out: float [B, count, C], or [B, C] with `mean`: their mean, the float results summed in double in their order.
     * Scratch: 8 bytes a row with `mean`. */
    void (*features)(dinov_stream *s, float *out, const dinov_mat *x, int64_t images, int64_t first, int64_t count, bool mean,
                     const void *weight, const void *bias, double eps);

    /* Decoded pictures to inputs: pixels, float [count, 3, height, width], are table[c][v] of the resized values v.
     * pictures [count] lies in `block`; scratch: as far as the pictures' `middle` reach. `widest` and `highest`: the
     * largest columns and rows among them. */
    void (*pictures)(dinov_stream *s, float *pixels, const void *block, const dinov_picture *pictures, int64_t count,
                     int64_t width, int64_t height, int64_t widest, int64_t highest, const float *table);

    /* ---- Training; a device's table has none of it. dx is the gradient of x. Gradients of parameters accumulate (+=);
     * everything else is overwritten unless it says otherwise. Row lists are int32 [M], NULL for 0..M-1. Sums over rows depend on
     * M alone. What is not a number in an input shows in the results. ---- */

    /* The transpose of `weight` [n, k] for `linear`: with w = {.n = k, .k = n, .packed, .bias = zeros},
     * linear(dx, dy, w) is dx = (dy diag(scale)) W. scale: real [n], NULL for ones. linear_size(k, n) elements. */
    void (*linear_pack_transposed)(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, const void *scale);
    /* dweight += dy^T x, dbias += column sums of dy (NULL: not wanted). dy [M, n], x [M, k]; dweight [n, k] packed rows.
     * No scratch; a thread needs some 300 KiB of stack. */
    void (*linear_backward)(dinov_stream *s, void *dweight, void *dbias, const dinov_mat *dy, const dinov_mat *x);
    /* LayerScale in weight space: `dw` [n, k] and `db` [n] are the gradients of the product diag(gamma) (W x + b) taken
     * without gamma. dgamma_i += sum_j dw_ij W_ij + db_i b_i; dweight += diag(gamma) dw; dbias += gamma db. */
    void (*layerscale_backward)(dinov_stream *s, void *dgamma, void *dweight, void *dbias, const void *dw, const void *db,
                                const void *gamma, const void *weight, const void *bias, int64_t n, int64_t k);

    /* x as it entered layernorm. dx may be dy. */
    void (*layernorm_backward)(dinov_stream *s, dinov_mat *dx, void *dweight, void *dbias, const dinov_mat *dy,
                               const dinov_mat *x, const void *weight, double eps);
    size_t (*layernorm_backward_scratch)(int64_t rows, int64_t cols);

    /* qkv as it entered attention; dqkv [B*T, 3C], dout [B*T, C]. The scores are computed again. */
    void (*attention_backward)(dinov_stream *s, dinov_mat *dqkv, const dinov_mat *dout, const dinov_mat *qkv, int64_t images,
                               int64_t heads);
    size_t (*attention_backward_scratch)(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads);

    /* y = act(x): GELU [M, n] -> [M, n]; SwiGLU [M, n] -> [M, n/2]. */
    void (*activation)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, dinov_activation act);
    /* dx = gradient through act at x, and y = act(x) once more. dx may be x; y may be dy. */
    void (*activation_backward)(dinov_stream *s, dinov_mat *dx, dinov_mat *y, const dinov_mat *dy, const dinov_mat *x,
                                dinov_activation act);

    /* y[i] = factor x[rows[i]], for the rows of y. */
    void (*gather)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const int32_t *rows, double factor);
    /* y[rows[i]] += factor scale x[i], for the rows of x; rows are distinct; scale: real [cols], NULL for ones. */
    void (*scatter_add)(dinov_stream *s, dinov_mat *y, const int32_t *rows, const dinov_mat *x, const void *scale, double factor);

    /* Of embed. dpatches is zero where masked; dpos [1 + N, C]. dmask_token may be NULL when mask is. */
    void (*embed_backward)(dinov_stream *s, dinov_mat *dpatches, void *dcls, void *dregisters, void *dmask_token, void *dpos,
                           const dinov_mat *dx, const uint8_t *mask, int64_t images, int64_t registers_count);

    /* Rows to unit length: y = x / max(|x|, eps). y may be x, dx may be dy. Shorter than eps, the length is a constant. */
    void (*normalize)(dinov_stream *s, dinov_mat *y, const dinov_mat *x, double eps);
    void (*normalize_backward)(dinov_stream *s, dinov_mat *dx, const dinov_mat *dy, const dinov_mat *x, double eps);
    /* Weight normalisation by rows: w[k] = g[k] v[k] / |v[k]|; v, w: real [n, k] packed, g: real [n]. */
    void (*weight_norm)(dinov_stream *s, void *w, const void *v, const void *g, int64_t n, int64_t k);
    void (*weight_norm_backward)(dinov_stream *s, void *dv, void *dg, const void *dw, const void *v, const void *g, int64_t n,
                                 int64_t k);

    /* Softmax over prototypes that come a chunk of columns at a time; max, sum, lse, entropy, offset, loss and weight are
     * real [M]. With t = z / temperature + bias (real [cols], NULL for zeros): max[m], sum[m] become those of
     * sum exp(t - max) over the columns so far; start with -inf and 0. */
    void (*softmax_stats)(dinov_stream *s, void *max, void *sum, const dinov_mat *z, const void *bias, double temperature);
    /* z becomes exp(z / temperature + bias - lse[m]); entropy[m] -= sum of p log p (NULL: not wanted). */
    void (*softmax_apply)(dinov_stream *s, dinov_mat *z, void *entropy, const void *bias, const void *lse, double temperature);
    /* sums[k] = sum_m exp(z_mk / temperature - offset[m]): a Sinkhorn-Knopp step over samples. */
    void (*exp_sums)(dinov_stream *s, void *sums, const dinov_mat *z, const void *offset, double temperature);
    /* Cross-entropy of student rows z [M, cols] with the teacher rows p[targets[2m]] and p[targets[2m + 1]] (-1: none), each
     * with weight[m]: loss[m] -= weight sum_k p_k z_k / temperature, and z becomes the gradient
     * (weight (targets of m) softmax(z / temperature) - weight p) / temperature, softmax by lse[m]. The caller adds weight lse. */
    void (*cross_entropy)(dinov_stream *s, dinov_mat *z, void *loss, const void *lse, const dinov_mat *p, const int32_t *targets,
                          const void *weight, double temperature);
    /* sums [cols] += column sums. */
    void (*column_sums)(dinov_stream *s, void *sums, const dinov_mat *x);

    /* KoLeo over one view, x [B, C], B >= 2: distance [B], distance[i] = | x_i/|x_i| - x_j/|x_j| + 1e-8 | to the nearest other row
     * j (largest product, first of equals); the loss is -mean log(distance + 1e-8). dx += weight times its gradient. */
    void (*koleo)(dinov_stream *s, void *distance, dinov_mat *dx, const dinov_mat *x, double weight);
    size_t (*koleo_scratch)(int64_t rows, int64_t cols);

    /* torch.optim.AdamW on `count` elements; g is used times grad_scale; step counts from 1. */
    void (*adamw)(dinov_stream *s, void *p, const void *g, void *m, void *v, int64_t count, double grad_scale, double lr, double wd,
                  double beta1, double beta2, double eps, int64_t step);
    /* average = momentum average + (1 - momentum) value. */
    void (*ema)(dinov_stream *s, void *average, const void *value, int64_t count, double momentum);
    /* Sum of squares in double: finite only when every element is. Also for norms. */
    void (*sum_squares)(dinov_stream *s, double *out, const void *x, int64_t count);
} dinov_ops;

/* The reference tables. */
extern const dinov_ops dinov_ops_ref_f32, dinov_ops_ref_f64;

/* The float table of that name, or for NULL the fastest this CPU runs. ERR_UNSUPPORTED (DEV-ISA)
 * when the name is unknown or the CPU lacks it. */
dinov_status dinov_ops_cpu(const dinov_ops **out, const char *name, dinov_error *err);

/* The names dinov_ops_cpu accepts on this CPU, best last, NULL-terminated: tests run them all. */
const char *const *dinov_ops_cpu_names(void);

#endif
