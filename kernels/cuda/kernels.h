/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share: the entries of the device's table, one family a .cu file, and what
 * launching them needs to know of a queue. Entries have the signatures and contracts of kernels/ops.h.
 */
#ifndef DINOV_KERNELS_CUDA_KERNELS_H
#define DINOV_KERNELS_CUDA_KERNELS_H

#include "kernels/device.h"

/* device.c */
void       *dinov_queue_stream(dinov_queue *queue); /* cudaStream_t, whose device is then the calling thread's current one */
dinov_dtype dinov_queue_real(const dinov_queue *queue);
/* Keeps the first failure on this device: `error` is a cudaError_t (0: nothing happens), `what` a constant string. */
void dinov_queue_failed(dinov_queue *queue, int error, const char *what);
/* DINOV_STAGE bytes of the device's memory that belong to the queue, for what is sent and used once; NULL: there is none. */
enum { DINOV_STAGE = 32 << 20 };
void *dinov_queue_stage(dinov_queue *queue);

/* What computes linear layers beside our own kernel (products.h); NULL: nothing does. */
struct dinov_products *dinov_queue_products(const dinov_queue *queue);
/* The same for attention (cudnn.h). */
struct dinov_cudnn *dinov_queue_cudnn(const dinov_queue *queue);

/* table.c: the device's table for real BF16, F16 or F32; `name` is kept. */
void dinov_cuda_table(dinov_ops *ops, dinov_dtype real, const char *name);

/* norm.cu */
void dinov_cuda_layernorm(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps);
void dinov_cuda_features(dinov_stream *s, float *out, const dinov_mat *x, int64_t images, int64_t first, int64_t count, bool mean,
                         const void *weight, const void *bias, double eps);

/* embed.cu */
void dinov_cuda_patchify(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t images, int64_t channels, int64_t height,
                         int64_t width, int64_t patch);
void dinov_cuda_embed(dinov_stream *s, dinov_mat *x, const dinov_mat *patches, const void *cls, const void *registers,
                      const void *mask_token, const void *pos, const uint8_t *mask, int64_t images, int64_t registers_count);
void dinov_cuda_resample(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols, int64_t h,
                         int64_t w, int64_t gh, int64_t gw);

/* picture.cu */
void dinov_cuda_pictures(dinov_stream *s, float *pixels, const void *block, const dinov_picture *pictures, int64_t count,
                         int64_t width, int64_t height, int64_t widest, int64_t highest, const float *table);

/* activation.cu: y = act(x) for a product whose library knows no exact activation; SwiGLU: columns 2j, 2j + 1 of x are gate and
 * value. y may be x with GELU. */
void dinov_cuda_activate(dinov_stream *s, dinov_mat *y, const dinov_mat *x, dinov_activation act);
/* Weights into the layout that every product reads: real [n, k], row stride dinov_cuda_stride(k), zeros beyond k; with SwiGLU rows
 * 2j, 2j + 1 are gate j and value j. `weight` is float [count, k] in the device's memory: rows [first, first + count) of n. */
void dinov_cuda_pack(dinov_stream *s, void *packed, const float *weight, int64_t n, int64_t k, dinov_activation act, int64_t first,
                     int64_t count);

/* linear.cu: our own product, for any shape; what a library does not take runs here. Contract of ops.linear; takes a scale. */
void dinov_cuda_linear(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                       const void *scale);

/* attention.cu: tensor cores at head dim 64 in 16 bits; otherwise a plain kernel. */
void dinov_cuda_attention(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads);

/* Row strides are whole 16-byte units of 16-bit elements, so that rows can be read as vectors: a multiple of 8, at least cols. */
static inline int64_t dinov_cuda_stride(int64_t cols) { return (cols + 7) / 8 * 8; }

#endif
