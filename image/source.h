/* SPDX-License-Identifier: Apache-2.0
 *
 * A set of pictures that can be read in any order: files, folders, lists of files and tar shards, as
 * inference, training and evaluation share it. The index is built once, at open; bytes are read when
 * asked for. Items stand in the order of the inputs; a folder's in the order of the bytes of their
 * paths, a shard's as in the archive.
 *
 * A source does not change after it is opened: every other call may be made from any thread.
 */
#ifndef DINOV_IMAGE_SOURCE_H
#define DINOV_IMAGE_SOURCE_H

#include "base/fail.h"
#include "dinov/image.h"

typedef struct dinov_source dinov_source;

enum { DINOV_SOURCE_UNPACK = 1 << 30, DINOV_SOURCE_NAME = 512 };

typedef struct dinov_source_spec {
    const char *const *paths; /* files, folders, shards. A shard is known by its ending (.tar, .tar.gz, .tgz,
                                 .tar.zst, .tzst), one named here also by its first bytes */
    int64_t            path_count;
    const char *const *lists; /* files of paths, one a line; "-" is standard input. After the paths */
    int64_t            list_count;
    int    label_folders; /* a file's label is the place of the folder below its input among all such folders, by bytes */
    size_t unpack_limit;  /* bytes that all packed shards together may take in memory; 0: DINOV_SOURCE_UNPACK */
} dinov_source_spec;

/* Errors: those of dinov_inputs_add and _add_list, ERR_IO (SHARD-OPEN), ERR_LIMIT (SHARD-LARGE),
 * ERR_FORMAT (INPUT-EMPTY: no picture found, with what is wrong with the first shard when one is),
 * ERR_NOMEM. Damage in a shard is no error: see dinov_source_problem. */
dinov_status dinov_source_open(dinov_source **out, const dinov_source_spec *spec, dinov_error *err);
void         dinov_source_close(dinov_source **source);

int64_t dinov_source_count(const dinov_source *source);

/* For people: "shard.tar:KEY.jpg" or the path, escaped, cut to `size` (DINOV_SOURCE_NAME is fair). Returns `out`. */
const char *dinov_source_name(const dinov_source *source, int64_t index, char *out, size_t size);

/* The path of the file, or of the shard with the member's name in *member (else NULL): bytes as they
 * are, valid until close. */
const char *dinov_source_path(const dinov_source *source, int64_t index, const char **member);

/* KEY.cls of a shard, or the folder's number with label_folders; -1 when there is none. */
int64_t dinov_source_label(const dinov_source *source, int64_t index);
/* With label_folders: the folders, by label. */
int64_t     dinov_source_class_count(const dinov_source *source);
const char *dinov_source_class_name(const dinov_source *source, int64_t label);

/* The bytes of the file or member (dinov_free). ERR_IO (IO-OPEN, IO-READ, SHARD-READ), ERR_LIMIT (IO-LARGE: over 1 GiB), ERR_NOMEM.
 */
dinov_status dinov_source_read(const dinov_source *source, int64_t index, void **bytes, size_t *size, dinov_error *err);
/* The picture; those errors and dinov_image_decode's. EXIF orientation is kept, not applied. */
dinov_status dinov_source_decode(const dinov_source *source, int64_t index, dinov_image *out, dinov_error *err);
/* The same from the bytes that dinov_source_read gave. */
dinov_status dinov_source_decode_bytes(const dinov_source *source, int64_t index, const void *bytes, size_t size, dinov_image *out,
                                       dinov_error *err);

/* What is wrong with shards whose sound part is in use: how much, and a sentence for each of the first few (else NULL). */
int64_t            dinov_source_problem_count(const dinov_source *source);
const dinov_error *dinov_source_problem(const dinov_source *source, int64_t index);

#endif
