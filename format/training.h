/* SPDX-License-Identifier: Apache-2.0
 *
 * Training checkpoints: a folder with the averaged backbone, files of state, and the manifest that
 * vouches for them; and the folder of a run, which holds one such folder for each step that was saved
 * (spec/checkpoint.md 12).
 *     RUN/step-000001250/manifest.json
 *                        backbone.safetensors      an ordinary checkpoint
 *                        state-00000.safetensors   student, moments, ..: format/state.h
 * Files are reached beneath the open folder by names that follow from their place, never through a link.
 */
#ifndef DINOV_FORMAT_TRAINING_H
#define DINOV_FORMAT_TRAINING_H

#include "format/manifest.h"

enum { DINOV_STEP_NAME = 16, DINOV_TRAINING_PATH = 4096 };

typedef struct dinov_training dinov_training;

/* Opens the folder of a step. Structure is proven and every file is the one that the manifest names; tensor bytes are not read.
 * ERR_FORMAT (MAN-NONE: no manifest; MAN-FORMAT), ERR_VERSION, ERR_CORRUPT (MAN-FILE: a file is missing, a link, or another one;
 * and those of the files), ERR_LIMIT, ERR_IO, ERR_NOMEM. */
dinov_status dinov_training_open(dinov_training **out, const char *path, dinov_error *err);
/* Recomputes every digest with `threads` threads (0: all cores). ERR_CORRUPT names file, tensor and bytes. */
dinov_status dinov_training_verify(const dinov_training *training, int threads, dinov_error *err);
/* NULL, or a pointer to NULL, is allowed. */
void dinov_training_close(dinov_training **training);

/* Valid until close. */
const char             *dinov_training_path(const dinov_training *training); /* the step's folder */
const dinov_manifest   *dinov_training_manifest(const dinov_training *training);
const dinov_checkpoint *dinov_training_backbone(const dinov_training *training);
/* The tensors of the state, of all files together, sorted by name. */
const dinov_named_tensor *dinov_training_state(const dinov_training *training, size_t *count);
/* One of them, by name; NULL when there is none. */
const dinov_tensor *dinov_training_find_tensor(const dinov_training *training, const char *name);

/* ---- Runs ---- */

/* "step-000001250", and back. False for a name that is none. */
const char *dinov_step_name(char out[DINOV_STEP_NAME], int64_t iteration);
bool        dinov_step_parse(const char *name, int64_t *iteration);

/* The iterations of a run's committed steps (those with a manifest), newest first; the caller's (dinov_free). ERR_IO (RUN-OPEN). */
dinov_status dinov_steps_list(int64_t **out, size_t *count, const char *run, dinov_error *err);

/* Sentences on the way: a damaged checkpoint that is passed over. */
typedef void (*dinov_training_note)(void *arg, const char *sentence);

typedef struct dinov_find_options {
    int                 verify;  /* 1: tensor bytes are checked too, so that what is found is whole (default 0) */
    int                 threads; /* for that; 0: all cores */
    dinov_training_note note;    /* NULL: nobody is told */
    void               *arg;
} dinov_find_options;

/* The newest step of a run that is not damaged; damaged ones are named in a note and passed over. *out NULL: nothing has been
 * committed. ERR_CORRUPT (RUN-BROKEN) when all are damaged; other failures than damage are the caller's to know. `options` may be NULL. */
dinov_status dinov_training_newest(dinov_training **out, const char *run, const dinov_find_options *options, dinov_error *err);

/* "RUN", "RUN@STEP" or a step's own folder. ERR_IO (RUN-STEP) when there is no such step. */
dinov_status dinov_training_find(dinov_training **out, const char *which, const dinov_find_options *options, dinov_error *err);

#endif
