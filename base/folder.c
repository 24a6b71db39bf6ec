/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* renameat2 */
#include "base/folder.h"

#include "base/alloc.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct dinov_new_folder {
    bool (*replaces)(const char *name);
    char *path, *temp;
};

static bool any_name(const char *name)
{
    (void)name;
    return true;
}

/* Calls `see` on every name; false when it, or the system, says so. */
static bool each_name(const char *path, bool (*see)(int fd, const char *name, bool (*arg)(const char *)), bool (*arg)(const char *))
{
    DIR *dir = opendir(path);
    bool ok  = dir != NULL;
    for (struct dirent *e; ok && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) ok = see(dirfd(dir), e->d_name, arg);
    if (dir) closedir(dir);
    return ok;
}

static bool is_ours(int fd, const char *name, bool (*owns)(const char *))
{
    return dinov_folder_has(fd, name, false) && owns(name);
}

static bool remove_ours(int fd, const char *name, bool (*owns)(const char *))
{
    if (is_ours(fd, name, owns)) unlinkat(fd, name, 0);
    return true;
}

void dinov_folder_remove(const char *path, bool (*owns)(const char *name))
{
    each_name(path, remove_ours, owns);
    rmdir(path);
}

static void folder_free(dinov_new_folder **folder)
{
    dinov_new_folder *f = *folder;
    *folder             = NULL;
    if (f->temp) dinov_folder_remove(f->temp, any_name);
    dinov_free(f->path);
    dinov_free(f->temp);
    dinov_free(f);
}

/* *there: something that may be replaced is in the way. */
static dinov_status check_free(bool *there, const char *path, bool (*replaces)(const char *), dinov_error *err)
{
    struct stat st;
    char        name[DINOV_ESCAPED];
    *there = lstat(path, &st) == 0;
    if (!*there) return DINOV_OK;
    dinov_escape(name, sizeof name, path, strlen(path));
    if (!replaces) return dinov_fail(err, DINOV_ERR_IO, "IO-EXISTS", "%s: already exists; give -f to replace it", name);
    if (S_ISDIR(st.st_mode) && each_name(path, is_ours, replaces)) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_IO, "IO-EXISTS",
                      "%s: already exists and holds other things than what would be written; give another name", name);
}

dinov_status dinov_folder_check_free(const char *path, bool (*replaces)(const char *name), dinov_error *err)
{
    bool there;
    return check_free(&there, path, replaces, err);
}

dinov_status dinov_folder_make_temp(char **out, const char *path, dinov_error *err)
{
    char   name[DINOV_ESCAPED];
    int    reason = EEXIST;
    size_t room   = strlen(path) + 40;

    dinov_escape(name, sizeof name, path, strlen(path));
    *out = dinov_alloc(room, 1);
    if (!*out) return dinov_fail_nomem(err, name, "its name");
    /* A leftover of a killed process has another pid or is passed by with the next number. */
    for (int i = 0; reason == EEXIST && i < 100; i++) {
        snprintf(*out, room, "%s.tmp-%ld-%d", path, (long)getpid(), i);
        reason = mkdir(*out, 0777) == 0 ? 0 : errno;
    }
    if (reason == 0) return DINOV_OK;
    dinov_free(*out);
    *out = NULL;
    return dinov_fail_errno(err, reason, "IO-CREATE", "%s: cannot create it", name);
}

dinov_status dinov_new_folder_open(dinov_new_folder **out, const char *path, bool (*replaces)(const char *name), dinov_error *err)
{
    dinov_status      status;
    size_t            length = strlen(path);
    dinov_new_folder *f      = dinov_calloc(1, sizeof *f);

    *out = NULL;
    if (!f) return dinov_fail_nomem(err, "output", "a folder handle");
    f->replaces = replaces;
    f->path     = dinov_strdup(path);
    if (!f->path) DINOV_TRY_GOTO(dinov_fail_nomem(err, "output", "its name"));
    while (length > 1 && f->path[length - 1] == '/') length--;
    f->path[length] = '\0';
    DINOV_TRY_GOTO(dinov_folder_check_free(f->path, replaces, err));
    DINOV_TRY_GOTO(dinov_folder_make_temp(&f->temp, f->path, err));
    *out = f;
    return DINOV_OK;
fail:
    folder_free(&f);
    return status;
}

const char *dinov_new_folder_path(const dinov_new_folder *folder) { return folder->temp; }

/* 0 or an errno. */
static int rename_folder(const char *from, const char *to, bool there, bool (*replaces)(const char *))
{
    /* An exchange leaves no moment without a folder; the old one then has the other's name and goes. */
    unsigned flags = there ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) == 0) {
        if (there) dinov_folder_remove(from, replaces);
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) return errno;
    /* A file system that knows neither. */
    if (there) dinov_folder_remove(to, replaces);
    return rename(from, to) == 0 ? 0 : errno;
}

dinov_status dinov_folder_move(const char *from, const char *to, bool (*replaces)(const char *name), dinov_error *err)
{
    bool  there;
    char  name[DINOV_ESCAPED];
    char *parent = NULL;

    dinov_escape(name, sizeof name, to, strlen(to));
    dinov_status status = dinov_folder_sync(from, err);
    if (status == DINOV_OK) status = check_free(&there, to, replaces, err);
    if (status == DINOV_OK && !(parent = dinov_folder_of(to))) status = dinov_fail_nomem(err, name, "its folder's name");
    if (status == DINOV_OK) {
        int reason = rename_folder(from, to, there, replaces);
        status     = reason ? dinov_fail_errno(err, reason, "IO-RENAME", "%s: cannot give it its name", name)
                            : dinov_folder_sync(parent, err);
    }
    dinov_free(parent);
    return status;
}

dinov_status dinov_new_folder_commit(dinov_new_folder **folder, dinov_error *err)
{
    /* What still has the temporary name then is removed: all of it after a failure. */
    dinov_status status = dinov_folder_move((*folder)->temp, (*folder)->path, (*folder)->replaces, err);
    folder_free(folder);
    return status;
}

void dinov_new_folder_abort(dinov_new_folder **folder)
{
    if (folder && *folder) folder_free(folder);
}
