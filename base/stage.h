/* SPDX-License-Identifier: Apache-2.0
 *
 * An output that is checked before it gets its name. It is written, with whatever belongs beside it, into a folder of its own
 * next to its place, where it already goes by its last name; what was in its place stays until all of it moves there.
 */
#ifndef DINOV_BASE_STAGE_H
#define DINOV_BASE_STAGE_H

#include "base/fail.h"

#include <stdbool.h>

typedef struct dinov_stage dinov_stage;

typedef struct dinov_stage_options {
    int overwrite;                      /* of files; as dinov_file_move (default 0) */
    int folder;                         /* 1: the output is a folder (default 0: a file) */
    bool (*replaces)(const char *name); /* of a folder, as dinov_new_folder_open */
} dinov_stage_options;

/* Starts `path`; refuses what stands in its place as dinov_file_check_free or dinov_folder_check_free, here and again at commit. */
dinov_status dinov_stage_open(dinov_stage **out, const char *path, const dinov_stage_options *options, dinov_error *err);
/* Where the output is written until then: "PATH.tmp-PID-N/NAME". */
const char *dinov_stage_path(const dinov_stage *stage);
/* A message about that is made one about the output. */
void dinov_stage_reword(const dinov_stage *stage, dinov_error *err);
/* Moves what lies beside the output, then the output, each whole and durably; frees *stage either way. */
dinov_status dinov_stage_commit(dinov_stage **stage, dinov_error *err);
/* Leaves nothing behind; NULL, or a pointer to NULL, is allowed. */
void dinov_stage_abort(dinov_stage **stage);

#endif
