/* SPDX-License-Identifier: Apache-2.0
 *
 * The pictures a run works on, in order: named files, folders walked recursively and sorted by the
 * bytes of the path, lists of paths. Only names are gathered here; nothing is decoded.
 */
#ifndef DINOV_IMAGE_INPUTS_H
#define DINOV_IMAGE_INPUTS_H

#include "base/fail.h"

typedef struct dinov_inputs dinov_inputs;

dinov_status dinov_inputs_new(dinov_inputs **out, dinov_error *err);
void         dinov_inputs_free(dinov_inputs **inputs);

/* A file, taken whatever it is, or a folder, of which the files that are pictures by name or by
 * content are taken, and tar shards by name (.tar, .tar.gz, .tgz, .tar.zst, .tzst). Links are followed; a link back to a folder
 * above is not. ERR_IO (INPUT-OPEN) when it does not exist or a folder cannot be read. */
dinov_status dinov_inputs_add(dinov_inputs *inputs, const char *path, dinov_error *err);

/* One path a line ("-" for standard input); empty lines are skipped. Nothing is opened.
 * ERR_IO (INPUT-LIST), ERR_FORMAT (INPUT-LIST) for a zero byte. */
dinov_status dinov_inputs_add_list(dinov_inputs *inputs, const char *path, dinov_error *err);

int64_t dinov_inputs_count(const dinov_inputs *inputs);
/* Valid until the next add. */
const char *dinov_inputs_path(const dinov_inputs *inputs, int64_t index);

#endif
