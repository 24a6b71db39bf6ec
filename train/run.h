/* SPDX-License-Identifier: Apache-2.0
 *
 * A run's folder: its checkpoints, its effective configuration, its metrics.
 *     RUN/config.yaml              the effective configuration
 *     RUN/metrics.jsonl            a line a logged step; lines of steps that a stop undid are cut off again
 *     RUN/step-000001250/          a checkpoint (format/training.h)
 *     RUN/.lock                    held by the process that writes
 *     RUN/.step-000001250.tmp/     a checkpoint under way: it gets its name when it is whole
 * Saving copies the state and writes it in the background. One process writes a run at a time, and one of
 * its threads makes these calls.
 */
#ifndef DINOV_TRAIN_RUN_H
#define DINOV_TRAIN_RUN_H

#include "format/training.h"
#include "train/trainer.h"

typedef struct dinov_run dinov_run;

/* Opens or makes the folder for writing, and removes what a killed process left half written. Sentences for people go to `note`
 * (NULL allowed), on the thread that makes the calls. ERR_IO: RUN-LOCK when another process has it, RUN-OPEN, and those of files. */
dinov_status dinov_run_open(dinov_run **out, const char *path, dinov_training_note note, void *arg, dinov_error *err);
/* Waits for a save under way; its error is reported. *run becomes NULL; NULL, or a pointer to NULL, is allowed. */
dinov_status dinov_run_close(dinov_run **run, dinov_error *err);

/* The newest checkpoint of which every byte is right; damaged ones are passed over with a note. *out NULL: nothing has been
 * committed. Errors: dinov_training_newest. */
dinov_status dinov_run_resume(dinov_run *run, dinov_training **out, int threads, dinov_error *err);

/* Everything a step reads, adam_step too, into a state laid out for the same parameters: the same bits as were saved.
 * ERR_SHAPE (STATE-TENSOR) when a tensor is missing, left over, or of another shape or dtype. */
dinov_status dinov_run_load(const dinov_training *from, dinov_train_state *state, dinov_error *err);
/* Only the averages, backbone and heads, into a block under `set`: a teacher. ERR_SHAPE (STATE-TENSOR). */
dinov_status dinov_run_load_average(const dinov_training *from, const dinov_paramset *set, size_t real_size, void *block,
                                    dinov_error *err);

/* ---- Saving ---- */

typedef struct dinov_run_saving {
    const dinov_model      *model;
    const dinov_preprocess *preprocess;
    const dinov_manifest   *info;       /* all but the files */
    int64_t                 keep_last;  /* newest checkpoints that are kept; less than 2 counts as 2 */
    int64_t                 keep_every; /* those of steps that divide by it are kept too; 0: none */
    int64_t                 parts;      /* files of state; 0: one */
    int                     threads;    /* for digests and golden vectors; 0: all cores */
} dinov_run_saving;

/* Takes the memory that saving such a state needs, so that a run ends before its first step and not at its first save. ERR_NOMEM. */
dinov_status dinov_run_reserve(dinov_run *run, const dinov_train_state *state, dinov_error *err);

/*
 * Copies state and info and returns; the checkpoint is written in the background. When it is committed, older ones are deleted,
 * after those that stay have been verified, and never so that fewer than two whole ones remain. Waits first for a save still under
 * way. A save that failed leaves earlier checkpoints as they were and is not tried again: its error is reported by the
 * next of these four calls, which then does nothing else. ERR_CONFIG (MAN-TEXT) for info that no manifest can hold.
 */
dinov_status dinov_run_save(dinov_run *run, const dinov_train_state *state, const dinov_run_saving *saving, dinov_error *err);
/* The error of a save that failed, if it is known by now; never waits. For every step. */
dinov_status dinov_run_poll(dinov_run *run, dinov_error *err);
/* Waits for the save under way. */
dinov_status dinov_run_flush(dinov_run *run, dinov_error *err);

/* ---- The files beside ---- */

dinov_status dinov_run_write_config(dinov_run *run, const dinov_text *yaml, dinov_error *err);
/* Cuts metrics.jsonl behind the last whole line of an iteration up to `iteration`; every line begins {"iteration": N. */
dinov_status dinov_run_cut_metrics(dinov_run *run, int64_t iteration, dinov_error *err);
/* Adds a line (without its end). A checkpoint is only committed when the lines before it are on the disk. */
dinov_status dinov_run_append_metrics(dinov_run *run, const char *line, dinov_error *err);

#endif
