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
    char *path, *temp, *parent;
    char  name[DINOV_ESCAPED]; /* path for messages */
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
    dinov_free(f->parent);
    dinov_free(f);
}

/* Nothing is in the way, or what may be replaced. */
static dinov_status check_free(const dinov_new_folder *f, bool *there, dinov_error *err)
{
    struct stat st;
    *there = lstat(f->path, &st) == 0;
    if (!*there) return DINOV_OK;
    if (!f->replaces) return dinov_fail(err, DINOV_ERR_IO, "IO-EXISTS", "%s: already exists; give -f to replace it", f->name);
    if (S_ISDIR(st.st_mode) && each_name(f->path, is_ours, f->replaces)) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_IO, "IO-EXISTS",
                      "%s: already exists and holds other things than what would be written; give another name", f->name);
}

dinov_status dinov_new_folder_open(dinov_new_folder **out, const char *path, bool (*replaces)(const char *name), dinov_error *err)
{
    dinov_status      status;
    bool              there;
    size_t            length = strlen(path);
    dinov_new_folder *f      = dinov_calloc(1, sizeof *f);

    *out = NULL;
    if (!f) return dinov_fail_nomem(err, "output", "a folder handle");
    f->replaces = replaces;
    dinov_escape(f->name, sizeof f->name, path, length);
    f->path    = dinov_strdup(path);
    f->parent  = dinov_strdup(path);
    char *temp = dinov_alloc(length + 40, 1);
    if (!f->path || !f->parent || !temp) {
        dinov_free(temp);
        status = dinov_fail_nomem(err, f->name, "its name");
        goto fail;
    }
    while (length > 1 && f->path[length - 1] == '/') length--;
    f->path[length] = f->parent[length] = '\0';
    char *slash                         = strrchr(f->parent, '/');
    if (!slash)
        snprintf(f->parent, length + 1, ".");
    else if (slash == f->parent)
        slash[1] = '\0';
    else
        *slash = '\0';
    status     = check_free(f, &there, err);
    int reason = EEXIST;
    /* A leftover of a killed process has another pid or is passed by with the next number. */
    for (int i = 0; status == DINOV_OK && reason == EEXIST && i < 100; i++) {
        snprintf(temp, length + 40, "%s.tmp-%ld-%d", f->path, (long)getpid(), i);
        reason = mkdir(temp, 0777) == 0 ? 0 : errno;
    }
    if (status == DINOV_OK && reason) status = dinov_fail_errno(err, reason, "IO-CREATE", "%s: cannot create it", f->name);
    if (status != DINOV_OK) {
        dinov_free(temp);
        goto fail;
    }
    f->temp = temp;
    *out    = f;
    return DINOV_OK;
fail:
    folder_free(&f);
    return status;
}

const char *dinov_new_folder_path(const dinov_new_folder *folder) { return folder->temp; }

static dinov_status commit(dinov_new_folder *f, dinov_error *err)
{
    bool there;
    DINOV_TRY(dinov_folder_sync(f->temp, err));
    DINOV_TRY(check_free(f, &there, err));
    /* An exchange leaves no moment without a folder; the old one then has the temporary name and goes. */
    int flags  = there ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    int reason = renameat2(AT_FDCWD, f->temp, AT_FDCWD, f->path, (unsigned)flags) == 0 ? 0 : errno;
    if (reason == EINVAL || reason == ENOSYS) { /* a file system that knows neither */
        if (there) dinov_folder_remove(f->path, f->replaces);
        reason = rename(f->temp, f->path) == 0 ? 0 : errno;
        there  = false;
    }
    if (reason) return dinov_fail_errno(err, reason, "IO-RENAME", "%s: cannot give it its name", f->name);
    if (there) dinov_folder_remove(f->temp, f->replaces);
    dinov_free(f->temp);
    f->temp = NULL;
    return dinov_folder_sync(f->parent, err);
}

dinov_status dinov_new_folder_commit(dinov_new_folder **folder, dinov_error *err)
{
    dinov_status status = commit(*folder, err);
    folder_free(folder);
    return status;
}

void dinov_new_folder_abort(dinov_new_folder **folder)
{
    if (folder && *folder) folder_free(folder);
}
