/* SPDX-License-Identifier: Apache-2.0
 *
 * Who computes a linear layer on a GPU: our own kernel (linear.cu) or cuBLASLt. The choice depends on the device, n, k, the
 * activation and whether there is a residual, never on the number of rows M, so that a row's bits do not depend on the batch.
 * It comes from products_table.h; without a row there it is cuBLASLt if that can be had under the conditions of cublaslt.h
 * (for all M or for none), else our own kernel.
 *
 * cuDNN could fuse the exact GELU into the product, but is left out: its plans are made for one shape, M included, and nothing
 * that it documents lets a plan for one M promise the bits of another; and every new M costs a compilation.
 *
 * The bits therefore depend on the version of cuBLASLt: dinov_products_name belongs into what records them.
 */
#ifndef DINOV_KERNELS_CUDA_PRODUCTS_H
#define DINOV_KERNELS_CUDA_PRODUCTS_H

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/kernels.h"

typedef struct dinov_products dinov_products;

typedef enum dinov_provider {
    DINOV_PRODUCT_OWN      = 1,
    DINOV_PRODUCT_CUBLASLT = 2,
} dinov_provider;

/* A choice. sm: 80, 90, 100. */
typedef struct dinov_product_row {
    int              sm;
    dinov_dtype      real;
    int64_t          n, k;
    dinov_activation act;
    bool             residual;
    dinov_provider   provider;
    dinov_lt_config  config; /* of cuBLASLt */
} dinov_product_row;

/* For the calling thread's device, which is current in every later call. A library that is absent or refuses the device is no
 * error. ERR_NOMEM. May be used by several threads at once. Closed when the device is idle. */
dinov_status dinov_products_open(dinov_products **out, int sm, dinov_dtype real, dinov_error *err);
void         dinov_products_close(dinov_products **products);
const char  *dinov_products_name(const dinov_products *products); /* "own", "cublaslt-130100" */

/* A packed bias is float [n] and, where real has 16 bits, after dinov_cuda_stride(n) of them the same in real, which cuBLASLt needs
 * for a y of 16 bits: dinov_products_bias_size(n) floats of the device's memory, 16-byte aligned. The second part is made of the
 * first by dinov_products_bias_copy. */
static inline size_t dinov_products_bias_size(int64_t n) { return (size_t)(dinov_cuda_stride(n) / 2 * 3); }
void dinov_products_bias_copy(dinov_stream *s, float *packed, int64_t n);

/* Chooses for (n, k, act), with and without residual, if that was not done. Takes a while and may load code, so it is called
 * when weights are packed, not while a graph is recorded; otherwise the first run does it. Issues nothing. */
void dinov_products_prepare(dinov_products *products, int64_t n, int64_t k, dinov_activation act);

/* true: y = x W^T + bias, with a residual y = residual + x W^T + bias, was issued, or has failed and the queue keeps that.
 * The activation is the caller's: dinov_cuda_activate, in place for GELU; for SwiGLU y is a scratch matrix [M, n].
 * false: nothing was issued, the caller runs dinov_cuda_linear: so it is for every M of this layer.
 * x and y are real, except y and residual with a residual, which are float; W by dinov_cuda_pack, bias as above.
 * May be recorded into a graph. */
bool dinov_products_run(dinov_products *products, dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w,
                        const dinov_mat *residual);

/* For the bench that fills the table: the rows that could be, `row` gives the layer; our own kernel is the first. Returns how many. */
int dinov_products_candidates(dinov_products *products, const dinov_product_row *row, dinov_product_row out[DINOV_LT_CANDIDATES + 1]);
/* Chooses that from now on, when nothing of the layer is under way. false: not possible here; the choice stays. */
bool dinov_products_choose(dinov_products *products, const dinov_product_row *row);
/* The row as products_table.h has it. Returns `out`. */
const char *dinov_product_text(char *out, size_t size, const dinov_product_row *row);

/* From how many tokens on cuDNN computes attention; INT64_MAX: never. */
int64_t dinov_products_attention_from(int sm, dinov_dtype real);

#endif
