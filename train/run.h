/* SPDX-License-Identifier: Apache-2.0
 *
 * A run's folder: its checkpoints, its effective configuration, its metrics.
 *     RUN/config.yaml              the effective configuration
 *     RUN/metrics.jsonl            a line a logged step; lines of steps that a stop undid are cut off again
 *     RUN/step-000001250/          a checkpoint (format/training.h, spec/checkpoint.md 11)
 * Saving copies the state and writes it in the background; one process writes a run at a time.
 */
#ifndef DINOV_TRAIN_RUN_H
#define DINOV_TRAIN_RUN_H

#include "format/training.h"
#include "train/trainer.h"

typedef struct dinov_run dinov_run;

/* Sentences on the way: a damaged checkpoint that is passed over. */
typedef void (*dinov_run_note)(void *arg, const char *sentence);

/* Opens or makes the folder for writing. ERR_IO: RUN-LOCK when another process has it, RUN-OPEN, and those of files. note may be NULL. */
dinov_status dinov_run_open(dinov_run **out, const char *path, dinov_run_note note, void *arg, dinov_error *err);
/* Waits for a save under way; its error is reported. *run becomes NULL. */
dinov_status dinov_run_close(dinov_run **run, dinov_error *err);

/* The newest checkpoint that is whole; those that are not are named in a note and passed over. *found false: none. The caller frees
 * *storage (dinov_manifest_free). path, of `size` bytes, receives its folder. Also without a run: `folder` is RUN. */
dinov_status dinov_run_newest(const char *folder, dinov_manifest *out, void **storage, char *path, size_t size, bool *found,
                              dinov_run_note note, void *arg, dinov_error *err);
/* "RUN", "RUN@STEP" or a step's own folder: the checkpoint meant, checked. ERR_IO RUN-STEP when there is none. */
dinov_status dinov_run_find(const char *which, dinov_manifest *out, void **storage, char *path, size_t size, dinov_error *err);

/* Everything a step reads, from the folder of a checkpoint into a state laid out for the same parameters. ERR_SHAPE STATE-TENSOR when a tensor is missing, left over or of another shape. */
dinov_status dinov_run_load(const char *step_folder, dinov_train_state *state, dinov_error *err);

/* Only the averages, backbone and heads, into a block under `set`: a teacher. ERR_SHAPE STATE-TENSOR. */
dinov_status dinov_run_load_average(const char *step_folder, const dinov_paramset *set, void *block, dinov_error *err);

typedef struct dinov_run_saving {
    const dinov_model      *model;
    const dinov_preprocess *preprocess;
    const dinov_manifest   *info; /* all but the files */
    int64_t                 keep_last, keep_every;
    int                     threads;
} dinov_run_saving;

/* Copies state and info and returns; the checkpoint is written in the background, then old ones are deleted (never so that fewer
 * than two remain). Waits first for a save still under way, and reports its error. */
dinov_status dinov_run_save(dinov_run *run, const dinov_train_state *state, const dinov_run_saving *saving, dinov_error *err);
/* Waits for the save under way and reports its error. */
dinov_status dinov_run_flush(dinov_run *run, dinov_error *err);

/* RUN/config.yaml */
dinov_status dinov_run_write_config(dinov_run *run, const dinov_text *yaml, dinov_error *err);
/* Cuts metrics.jsonl behind the last line of an iteration up to `iteration`; every line begins {"iteration": N. */
dinov_status dinov_run_cut_metrics(dinov_run *run, int64_t iteration, dinov_error *err);
/* Adds a line (without its end). */
dinov_status dinov_run_append_metrics(dinov_run *run, const char *line, dinov_error *err);

#endif
