/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/files.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

dinov_status dinov_files_open(dinov_files *files, const char *path, const char *where, dinov_error *err)
{
    const char *slash = strrchr(path, '/');
    *files            = (dinov_files){.where = where, .folder = -1};
    if (!slash) return dinov_folder_open(&files->folder, ".", err);
    size_t size   = (size_t)(slash - path) + 1;
    char  *folder = dinov_alloc(size + 1, 1);
    if (!folder) return dinov_fail_nomem(err, where, "its folder's name");
    memcpy(folder, path, size);
    folder[size]        = '\0';
    dinov_status status = dinov_folder_open(&files->folder, folder, err);
    dinov_free(folder);
    return status;
}

void dinov_files_close(dinov_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        if (!files->items[i].absent) dinov_map_close(&files->items[i].map);
    dinov_free(files->items);
    if (files->folder > 0) close(files->folder);
    *files = (dinov_files){.folder = -1};
}

static dinov_status check_name(const dinov_files *files, char out[DINOV_FILES_NAME + 1], const char *name, size_t size,
                               dinov_error *err)
{
    char text[DINOV_ESCAPED];
    if (size == 0 || size > DINOV_FILES_NAME || memchr(name, '/', size) || memchr(name, '\\', size) || memchr(name, '\0', size) ||
        name[0] == '.')
        return dinov_fail(
            err, DINOV_ERR_FORMAT, "FILES-NAME",
            "%s: names the file \"%s\": expected a plain name in the same folder, found a path, a hidden file or nothing",
            files->where, dinov_escape(text, sizeof text, name, size));
    memcpy(out, name, size);
    out[size] = '\0';
    return DINOV_OK;
}

static const dinov_beside *find(const dinov_files *files, const char *name)
{
    for (size_t i = 0; i < files->count; i++)
        if (strcmp(files->items[i].name, name) == 0) return &files->items[i];
    return NULL;
}

static dinov_status add(dinov_files *files, const dinov_beside *item, dinov_error *err)
{
    if (files->count == DINOV_FILES_MAX)
        return dinov_fail(err, DINOV_ERR_LIMIT, "FILES-COUNT", "%s: expected at most %d files beside it, found more", files->where,
                          DINOV_FILES_MAX);
    dinov_beside *items = dinov_realloc(files->items, files->count + 1, sizeof *items);
    if (!items) return dinov_fail_nomem(err, files->where, "the list of files");
    files->items                 = items;
    files->items[files->count++] = *item;
    return DINOV_OK;
}

dinov_status dinov_files_get(dinov_files *files, dinov_map *out, const char *name, size_t size, dinov_error *err)
{
    char         shown[DINOV_ESCAPED], where[2 * DINOV_ESCAPED + 16];
    dinov_beside item = {.absent = false};
    struct stat  st;

    DINOV_TRY(check_name(files, item.name, name, size, err));
    const dinov_beside *known = find(files, item.name);
    if (known && !known->absent) {
        *out = known->map;
        return DINOV_OK;
    }
    snprintf(where, sizeof where, "%s: the file %s beside it", files->where, dinov_escape(shown, sizeof shown, item.name, size));
    if (files->folder < 0) return dinov_fail(err, DINOV_ERR_IO, "IO-OPEN", "%s: it is not at hand", where);
    if (files->confined) {
        if (!known) memcpy(files->wanted, item.name, sizeof files->wanted);
        return dinov_fail_errno(err, ENOENT, "IO-OPEN", "%s: cannot open", where);
    }
    /* A second hard link lets another folder's file be read under this one's name. */
    if (fstatat(files->folder, item.name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_nlink != 1)
        return dinov_fail(err, DINOV_ERR_FORMAT, "FILES-NAME", "%s: expected a file of its own, found one with %lu hard links",
                          where, (unsigned long)st.st_nlink);
    DINOV_TRY(dinov_map_open_in(&item.map, files->folder, item.name, where, err));
    dinov_status status = add(files, &item, err);
    if (status != DINOV_OK) dinov_map_close(&item.map);
    *out = item.map;
    return status;
}

dinov_status dinov_files_bring(dinov_files *files, const char *name, dinov_error *err)
{
    dinov_beside item = {.absent = true};
    dinov_map    map;
    DINOV_TRY(check_name(files, item.name, name, strlen(name), err));
    if (files->folder >= 0 && dinov_folder_has(files->folder, name, false))
        return dinov_files_get(files, &map, name, strlen(name), err);
    return add(files, &item, err);
}

bool dinov_files_has(dinov_files *files, const char *name)
{
    char plain[DINOV_FILES_NAME + 1] = {0};
    if (files->folder < 0 || check_name(files, plain, name, strlen(name), NULL) != DINOV_OK) return false;
    if (!files->confined) return dinov_folder_has(files->folder, plain, false);
    const dinov_beside *known = find(files, plain);
    if (!known) memcpy(files->wanted, plain, sizeof files->wanted);
    return known && !known->absent;
}
