/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches for pretraining, made ahead by threads of their own. A batch depends on the configuration,
 * the data and its step alone: not on the number of workers, nor on the step the loader began with.
 * Global batch `step` is the samples [step * world * batch, ...) of the sampler's stream; rank r takes
 * the r-th run of `batch` of them.
 *
 * A picture that cannot be read costs one picture: the next readable one in the order of the same pass
 * takes its place, with the draws of that sample.
 *
 * Threads: one consumer. The source is borrowed and must outlive the loader.
 */
#ifndef DINOV_TRAIN_DATA_LOADER_H
#define DINOV_TRAIN_DATA_LOADER_H

#include "image/source.h"
#include "train/data/augment.h"
#include "train/data/mask.h"

typedef struct dinov_loader dinov_loader;

enum { DINOV_LOADER_CACHE = 256 << 20, DINOV_LOADER_TRIES = 1000 };

typedef struct dinov_loader_config {
    dinov_augment_config augment;
    dinov_mask_config    mask; /* its grid is that of the global crops */
    uint64_t             seed;
    int64_t              batch;       /* images of a batch on this rank */
    int64_t              rank, world; /* 0 and 1 for a run of one process */
    int64_t              first_step;  /* where to begin: the steps done so far; below 2^32 */
    int64_t              workers;     /* threads; 1 to 256 */
    int64_t              depth;       /* batches held at a time, the consumer's included; 0: 2 */
    size_t               cache_limit; /* bytes of decoded pictures to remember, such as DINOV_LOADER_CACHE; 0: none */
} dinov_loader_config;

/* Upstream's defaults for crops of that size and patch, one process, one worker. */
void dinov_loader_defaults(dinov_loader_config *out, int64_t global_crops_size, int64_t patch);

/* A picture that could not be read, told once for a loader, with the first batch it is missing from. */
typedef struct dinov_bad_picture {
    int64_t            item; /* of the source */
    const dinov_error *why;
} dinov_bad_picture;

/* B images, 2 B global crops, n B local ones of B; crop-major: all first crops, then all second ones. */
typedef struct dinov_batch {
    int64_t step, images, global_crops_size, local_crops_size, local_crops_number, patches; /* patches: N, of a global crop */

    float   *global_crops; /* [2 B, 3, S, S] */
    float   *local_crops;  /* [n B, 3, s, s] */
    uint8_t *masks;        /* [2 B, N] of 0 and 1 */
    int32_t *mask_indices; /* [n_masked]; room for 2 B N */
    float   *masks_weight; /* [n_masked]; the same room */
    int64_t  n_masked, upperbound;
    int64_t *items; /* [B] which picture of the source each image is, replacements included */

    const dinov_bad_picture *bad; /* [bad_count] */
    int64_t                  bad_count;
} dinov_batch;

/* Starts the workers. ERR_CONFIG (DATA-CONFIG), ERR_IO (SYS-THREAD), ERR_NOMEM. */
dinov_status dinov_loader_new(dinov_loader **out, const dinov_source *source, const dinov_loader_config *config, dinov_error *err);
/* At any time, also while workers are busy: waits for the pictures they are at, not for their batches. */
void dinov_loader_free(dinov_loader **loader);

/* The next batch in the order of steps, valid until it is released. Waits for it when it is not ready.
 * ERR_CORRUPT (DATA-UNREADABLE) when DINOV_LOADER_TRIES pictures in a row, or all there are, cannot be
 * read, ERR_NOMEM; every later call fails alike. */
dinov_status dinov_loader_next(dinov_loader *loader, const dinov_batch **out, dinov_error *err);
/* Gives the oldest batch not yet released back to the workers. */
void dinov_loader_release(dinov_loader *loader, const dinov_batch *batch);

typedef struct dinov_loader_stats {
    double  waited_s; /* the consumer's time in dinov_loader_next, in total: large when the data is the bottleneck */
    int64_t batches;  /* handed out */
    int64_t replaced; /* images in them that took the place of an unreadable one */
    int64_t bad;      /* pictures told as unreadable */
    size_t  cached;   /* bytes of decoded pictures remembered */
} dinov_loader_stats;

dinov_loader_stats dinov_loader_get_stats(dinov_loader *loader);

#endif
