/* SPDX-License-Identifier: Apache-2.0
 *
 * The pictures a run works on, in order: named files, folders walked recursively and sorted by the
 * bytes of the path, lists of paths. Only names are gathered here; nothing is decoded.
 */
#ifndef DINOV_IMAGE_SOURCE_H
#define DINOV_IMAGE_SOURCE_H

#include "base/fail.h"

typedef struct dinov_sources dinov_sources;

dinov_status dinov_sources_new(dinov_sources **out, dinov_error *err);
void         dinov_sources_free(dinov_sources **sources);

/* A file, taken whatever it is, or a folder, of which the files that are pictures by name or by
 * content are taken. Links are followed; a link back to a folder above is not.
 * ERR_IO (SRC-OPEN) when it does not exist or a folder cannot be read. */
dinov_status dinov_sources_add(dinov_sources *sources, const char *path, dinov_error *err);

/* One path a line ("-" for standard input); empty lines are skipped. Nothing is opened.
 * ERR_IO (SRC-LIST), ERR_FORMAT (SRC-LIST) for a zero byte. */
dinov_status dinov_sources_add_list(dinov_sources *sources, const char *path, dinov_error *err);

int64_t dinov_sources_count(const dinov_sources *sources);
/* Valid until the next add. */
const char *dinov_sources_path(const dinov_sources *sources, int64_t index);

#endif
