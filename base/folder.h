/* SPDX-License-Identifier: Apache-2.0
 *
 * A folder of files that appears whole or not at all: filled under a temporary name beside its own,
 * synced, renamed, its parent synced.
 */
#ifndef DINOV_BASE_FOLDER_H
#define DINOV_BASE_FOLDER_H

#include "base/fail.h"

#include <stdbool.h>

typedef struct dinov_new_folder dinov_new_folder;

/* Starts `path`. An existing one is refused (ERR_IO: IO-EXISTS), here and again at commit, unless `replaces` is given and
 * says true of every name in it, all of them plain files. */
dinov_status dinov_new_folder_open(dinov_new_folder **out, const char *path, bool (*replaces)(const char *name), dinov_error *err);
/* Where files are put until then: "PATH.tmp-PID-N". */
const char *dinov_new_folder_path(const dinov_new_folder *folder);
/* Makes it appear, durably; frees *folder either way. */
dinov_status dinov_new_folder_commit(dinov_new_folder **folder, dinov_error *err);
/* Leaves nothing behind; NULL, or a pointer to NULL, is allowed. */
void dinov_new_folder_abort(dinov_new_folder **folder);

/* A folder may be put at `path`, as at the start of a new one. */
dinov_status dinov_folder_check_free(const char *path, bool (*replaces)(const char *name), dinov_error *err);
/* Gives a whole folder of synced files its name `to` on the same disk, durably, as at commit. */
dinov_status dinov_folder_move(const char *from, const char *to, bool (*replaces)(const char *name), dinov_error *err);
/* Makes the folder "PATH.tmp-PID-N" and gives its name, the caller's to dinov_free. ERR_IO IO-CREATE. */
dinov_status dinov_folder_make_temp(char **out, const char *path, dinov_error *err);

/* Removes a folder of plain files of which `owns` says true; anything else in it stays, and then the folder too. */
void dinov_folder_remove(const char *path, bool (*owns)(const char *name));

#endif
