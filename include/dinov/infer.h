/* SPDX-License-Identifier: Apache-2.0
 *
 * Features out of pixels: open a checkpoint, prepare images, run, close.
 *
 * Threads: an engine on the CPU runs one batch at a time and uses its own threads inside; one on GPUs takes
 * calls of dinov_engine_run from several threads (dinov_engine_lanes), whose copies and computing overlap.
 * Different engines are independent. Results are the same bits for any number of threads and any batch size
 * on one instruction set or kind of GPU (dinov_engine_isa).
 */
#ifndef DINOV_INFER_H
#define DINOV_INFER_H

#include "dinov/format.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dinov_engine dinov_engine;

typedef struct dinov_engine_options {
    int         threads; /* of the CPU (default 0: all cores this process may use) */
    const char *isa;     /* of the CPU: force "ref", "avx2" or "avx512" (default NULL: the best it has) */
    const char *device;  /* "cpu" (default, also NULL), "cuda" (the first GPU), "cuda:1", "cuda:0,1" (each gets the weights) */
    dinov_dtype compute; /* what products compute in: DINOV_F32 (default, also 0); on GPUs also DINOV_BF16, DINOV_F16 */
} dinov_engine_options;

/* Opens a checkpoint file of our format, verifies its checksums and prepares it to run.
 * `options` may be NULL. Errors: those of dinov_checkpoint_open and _verify, ERR_NOMEM, ERR_CONFIG,
 * ERR_UNSUPPORTED (an instruction set this CPU lacks, a GPU that is not there), ERR_DEVICE. */
dinov_status dinov_engine_open(dinov_engine **out, const char *path,
                               const dinov_engine_options *options, dinov_error *err);

/* The same for weights at hand, unverified. They are copied and not needed after the call. */
dinov_status dinov_engine_open_weights(dinov_engine **out, const dinov_weights *weights,
                                       const dinov_engine_options *options, dinov_error *err);

/* NULL, or a pointer to NULL, is allowed; *engine becomes NULL. */
void dinov_engine_close(dinov_engine **engine);

const dinov_model      *dinov_engine_model(const dinov_engine *engine);
const dinov_preprocess *dinov_engine_preprocess(const dinov_engine *engine);
/* "ref", "avx2", "avx512" or such as "cuda-sm90-bf16": what the results depend on, to the last bit. */
const char *dinov_engine_isa(const dinov_engine *engine);
/* Of the CPU; 0 for an engine on GPUs. */
int dinov_engine_threads(const dinov_engine *engine);
/* From how many threads at a time calls of dinov_engine_run make sense; on a CPU 1, and then no more may be made. */
int dinov_engine_lanes(const dinov_engine *engine);

/* One layer's output for a batch. A NULL pointer is not computed. All are written by the call. */
typedef struct dinov_features {
    int    layer;   /* block index 0..depth-1, or negative from the end: -1 is the last */
    int    no_norm; /* 1: before the final LayerNorm (default 0: after it) */
    float *cls;     /* [images, dim] */
    float *mean;    /* [images, dim], mean over patch tokens */
    float *reg;     /* [images, registers, dim] */
    float *patch;   /* [images, height / patch, width / patch, dim] */
} dinov_features;

/*
 * Runs `images` pictures of one size. `pixels` is [images, channels, height, width], normalised;
 * height and width are multiples of the patch, not necessarily equal. `features` has `count`
 * entries, one a layer.
 * Errors: ERR_SHAPE (size not a multiple, layer out of range), ERR_NOMEM, ERR_DEVICE; ERR_LIMIT DEV-RANGE: a
 * feature is not finite, because f16 is too small for this model.
 */
dinov_status dinov_engine_run(dinov_engine *engine, const float *pixels, int64_t images,
                              int64_t height, int64_t width, const dinov_features *features,
                              size_t count, dinov_error *err);

/* The input of a golden case (struct dinov_golden): pixels [channels, height, width]; seed >= 0. */
void dinov_golden_input(float *pixels, int64_t channels, int64_t height, int64_t width, int64_t seed);

enum { DINOV_GOLDEN_CASES = 3 };

/* Golden vectors of this engine's model: cases (of at least DINOV_GOLDEN_CASES) and their values are
 * filled, and *proof points to them. Release with dinov_engine_free_proof. ERR_NOMEM. */
dinov_status dinov_engine_make_proof(dinov_engine *engine, dinov_proof *proof, dinov_golden *cases,
                                     dinov_error *err);
void         dinov_engine_free_proof(dinov_proof *proof);

/* Recomputes golden vectors on this machine. *worst (may be NULL) receives the largest relative
 * difference met; ERR_CORRUPT when one exceeds the proof's tolerance. */
dinov_status dinov_engine_prove(dinov_engine *engine, const dinov_proof *proof, double *worst,
                                dinov_error *err);

#ifdef __cplusplus
}
#endif

#endif
