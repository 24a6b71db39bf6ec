/* SPDX-License-Identifier: Apache-2.0
 *
 * The files one model consists of: the one that was given, and those beside it that it names (shards,
 * config.json, an ONNX model's external data). Readers ask for them here by name and never open anything.
 */
#ifndef DINOV_CONVERT_FILES_H
#define DINOV_CONVERT_FILES_H

#include "base/file.h"

enum { DINOV_FILES_MAX = 1024, DINOV_FILES_NAME = 255 };

typedef struct dinov_beside {
    char      name[DINOV_FILES_NAME + 1];
    bool      absent; /* asked for, and not there */
    dinov_map map;
} dinov_beside;

typedef struct dinov_files {
    const char   *where;  /* the given file, for messages */
    int           folder; /* its folder, or -1: bytes in memory, with nothing beside them */
    dinov_beside *items;
    size_t        count;
    /* Reading happens in a confined process (fence.h), which opens nothing: the file that it misses is written here, and reading
     * starts anew when it is at hand. */
    bool confined;
    char wanted[DINOV_FILES_NAME + 1];
} dinov_files;

/* `path` is the given file; `where` stays alive until close. ERR_IO. */
dinov_status dinov_files_open(dinov_files *files, const char *path, const char *where, dinov_error *err);
/* Also clears what a failed open left. */
void dinov_files_close(dinov_files *files);

/* Maps the file `name` (1 to 255 bytes, as it stands in a foreign file) in the given file's folder; valid until close, once only
 * however often asked for. A plain name without '/', not a link, with no second hard link, is allowed: ERR_FORMAT FILES-NAME,
 * ERR_IO IO-OPEN; ERR_LIMIT FILES-COUNT. */
dinov_status dinov_files_get(dinov_files *files, dinov_map *out, const char *name, size_t size, dinov_error *err);
/* Puts the file that a confined reader wants at hand, or notes that it is not there. Errors as of dinov_files_get. */
dinov_status dinov_files_bring(dinov_files *files, const char *name, dinov_error *err);
/* True when such a file is there. */
bool dinov_files_has(dinov_files *files, const char *name);

#endif
