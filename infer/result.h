/* SPDX-License-Identifier: Apache-2.0
 *
 * The output folder of a run. Every file is written under a temporary name; run.json, written last,
 * is the commit point: a folder without it holds leftovers, which the next run removes. run.json
 * keeps the settings everything depends on, so that the same command again finds its work done and
 * another one is refused with the difference.
 */
#ifndef DINOV_INFER_RESULT_H
#define DINOV_INFER_RESULT_H

#include "base/fail.h"

#include <jansson.h>
#include <stdbool.h>

typedef struct dinov_result {
    char   *folder;
    int     lock; /* descriptor of the folder, held to the end */
    bool    created, overwrite;
    json_t *previous; /* run.json of a finished run with the same settings, or NULL */
    json_t *files;    /* name: bytes of what this run committed, for run.json */
} dinov_result;

/* Creates or takes over `folder`. `settings` is a JSON object, compared with the one in run.json.
 * `overwrite`: a finished run is replaced. Errors: ERR_CONFIG (RUN-DIFFERS), ERR_CORRUPT (RUN-DAMAGED: a finished
 * run lost a file), ERR_IO (RUN-FOLDER, RUN-BUSY). */
dinov_status dinov_result_open(dinov_result *out, const char *folder, json_t *settings, bool overwrite, dinov_error *err);

/* Removes what earlier runs left beside the files of this one, and the old commit point. */
dinov_status dinov_result_clean(dinov_result *result, dinov_error *err);

/* Writes run.json, with the sizes of all files of the run added; the run counts from here. */
dinov_status dinov_result_commit(dinov_result *result, json_t *run, dinov_error *err);

/* Also removes the folder when this run made it and it is empty. */
void dinov_result_close(dinov_result *result);

/* "FOLDER/NAME" for dinov_free, or NULL. */
char *dinov_result_path(const dinov_result *result, const char *name);

#endif
