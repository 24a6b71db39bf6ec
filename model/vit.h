/* SPDX-License-Identifier: Apache-2.0
 *
 * The vision transformer of DINOv2 (paper section 4; facebookresearch/dinov2
 * dinov2/models/vision_transformer.py): weights laid out for one ops table, and the forward pass
 * as a line of op calls.
 */
#ifndef DINOV_MODEL_VIT_H
#define DINOV_MODEL_VIT_H

#include "dinov/format.h"
#include "kernels/device.h"

/* Vectors are `wide` of the table; linear weights are packed by it. */
typedef struct dinov_vit_block {
    const void  *norm1_weight, *norm1_bias; /* [C] */
    dinov_linear qkv;                       /* [3C, C] */
    dinov_linear proj;                      /* [C, C] */
    const void  *ls1;                       /* gamma [C], or NULL: no LayerScale, or it is in the weights */
    const void  *norm2_weight, *norm2_bias; /* [C] */
    dinov_linear up;                        /* mlp.fc1 [F, C] with GELU, or mlp.w12 [2F, C] with SwiGLU */
    dinov_linear down;                      /* mlp.fc2 or mlp.w3 [C, F] */
    const void  *ls2;
} dinov_vit_block;

typedef struct dinov_vit {
    dinov_model      config;
    const dinov_ops *ops;
    dinov_linear     patch;                   /* [C, channels * p * p] */
    const void      *cls, *pos, *registers;   /* [C], [1 + grid, C], [R, C] or NULL */
    const void      *norm_weight, *norm_bias; /* [C] */
    dinov_vit_block *blocks;                  /* [depth] */
    dinov_device    *device;                  /* or NULL */
    void            *memory;                  /* every number above lies in here: of the device, or of the process */
} dinov_vit;

/* Checks and copies `weights`, which are not needed afterwards, to where `ops` works: the process, or `device` by `queue`. */
dinov_status dinov_vit_init(dinov_vit *vit, const dinov_weights *weights, const dinov_ops *ops, dinov_pool *pool,
                            dinov_device *device, dinov_queue *queue, dinov_error *err);
void         dinov_vit_clear(dinov_vit *vit); /* of a zeroed or initialised one */

/* Position embeddings for a grid of h x w patches: out is wide [1 + h*w, C] packed, where `ops` works. The trained grid
 * is copied, any other resampled by the model's rule (model/pos_embed.c). Done on return. ERR_NOMEM, ERR_DEVICE. */
dinov_status dinov_vit_pos(const dinov_vit *vit, dinov_queue *queue, void *out, int64_t h, int64_t w, dinov_error *err);

/* Called after each block with the residual stream x [B*T, C] (tokens: cls, registers, patches) and
 * a free matrix `spare` of the same shape. */
typedef void (*dinov_vit_tap)(void *arg, int64_t block, dinov_stream *s, const dinov_mat *x, dinov_mat *spare);

/* Bytes that dinov_vit_forward needs for `images` of h x w patches and that many threads. */
size_t dinov_vit_memory(const dinov_vit *vit, int64_t images, int64_t h, int64_t w, int threads);

/* pixels: [images, channels, h*p, w*p], normalised; pos: of dinov_vit_pos; memory: of dinov_vit_memory, 64-byte aligned (on a
 * device 256); all where `ops` works. Runs on the stream's pool or queue; its scratch is not used. Blocks after `last`
 * (0-based) are not computed. */
void dinov_vit_forward(const dinov_vit *vit, const dinov_stream *stream, void *memory, const float *pixels, const void *pos,
                       int64_t images, int64_t h, int64_t w, int64_t last, dinov_vit_tap tap, void *arg);

#endif
