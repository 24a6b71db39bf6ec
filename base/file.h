/* SPDX-License-Identifier: Apache-2.0
 *
 * Files: mapping for reading, and the one way a file is written. A written file appears whole or
 * not at all: temporary name in the same folder (O_EXCL), write, fsync, rename, fsync the folder.
 * An error from write, fsync or close voids the temporary; the call is never retried.
 */
#ifndef DINOV_BASE_FILE_H
#define DINOV_BASE_FILE_H

#include "base/bytes.h"
#include "base/fail.h"

typedef struct dinov_map {
    const uint8_t *data; /* never NULL after a successful open, even for an empty file */
    size_t         size;
} dinov_map;

/* Maps a regular file read-only. ERR_IO: IO-OPEN, IO-MAP. */
dinov_status dinov_map_open(dinov_map *out, const char *path, dinov_error *err);
/* Gives the pages of [data, data + size) back, if they lie in the read-only file mapping `map`: they
 * stop counting against this process and are read again when touched. Whole pages only. */
void dinov_map_forget(const void *map, size_t map_size, const void *data, size_t size);
void dinov_map_close(dinov_map *map);

/* Reads a whole file of at most `limit` bytes into memory (dinov_free). ERR_IO, ERR_LIMIT (IO-LARGE), ERR_NOMEM. */
dinov_status dinov_file_read(void **out, size_t *size, const char *path, size_t limit, dinov_error *err);

/* The folder `path` lies in, the caller's to dinov_free; NULL without memory. */
char *dinov_folder_of(const char *path);

/* ---- Folders: what lies in one is reached by a plain name (without '/'), and never through a link ---- */

/* *fd is the caller's to close. ERR_IO: IO-OPEN, also for what is no folder. */
dinov_status dinov_folder_open(int *fd, const char *path, dinov_error *err);
/* True when `name` is a plain file, or with `folder` a folder, in the open folder `fd`. */
bool dinov_folder_has(int fd, const char *name, bool folder);
/* Brings names in a folder to the disk. ERR_IO: IO-SYNC. */
dinov_status dinov_folder_sync(const char *path, dinov_error *err);
/* As dinov_map_open and dinov_file_read; `where` stands for the path in messages. */
dinov_status dinov_map_open_in(dinov_map *out, int fd, const char *name, const char *where, dinov_error *err);
dinov_status dinov_file_read_in(void **out, size_t *size, int fd, const char *name, size_t limit, const char *where,
                                dinov_error *err);

/* ---- Writing ---- */

/* A file may be put at `path`: nothing is there, or with `overwrite` another file. ERR_IO: IO-EXISTS (the message says -f), IO-CREATE. */
dinov_status dinov_file_check_free(const char *path, int overwrite, dinov_error *err);
/* Gives a whole, synced file its name `to` on the same disk, durably. As above, refused where the system can as it moves; IO-RENAME,
 * IO-SYNC. */
dinov_status dinov_file_move(const char *from, const char *to, int overwrite, dinov_error *err);

typedef struct dinov_out dinov_out;

/* Starts `path`. What dinov_file_check_free refuses is refused here and again at commit. */
dinov_status dinov_out_open(dinov_out **out, const char *path, int overwrite, dinov_error *err);
dinov_status dinov_out_write(dinov_out *out, const void *data, size_t size, dinov_error *err);
/* Writes `spans` one after another from a thread of its own (or before it returns, when none can be had). They stay as they are,
 * and nothing else is done with *out, until dinov_out_settle or dinov_out_abort. */
void dinov_out_write_behind(dinov_out *out, const dinov_span *spans, size_t count);
/* Waits for it, and says how it went. */
dinov_status dinov_out_settle(dinov_out *out, dinov_error *err);
/* Replaces bytes already written. */
dinov_status dinov_out_patch(dinov_out *out, uint64_t offset, const void *data, size_t size, dinov_error *err);
/* Bytes written so far. */
uint64_t dinov_out_size(const dinov_out *out);
/* Makes the file appear, durably; frees *out either way. */
dinov_status dinov_out_commit(dinov_out **out, dinov_error *err);
/* Leaves nothing behind; NULL, or a pointer to NULL, is allowed. */
void dinov_out_abort(dinov_out **out);

#endif
