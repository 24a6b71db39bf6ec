/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* renameat2 */
#include "base/file.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_retrying(int folder, const char *path, int flags, mode_t mode)
{
    int fd;
    do fd = openat(folder, path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* A regular file opened for reading and its size; `name` is for messages. */
static dinov_status open_regular(int *fd, size_t *size, int folder, const char *path, int flags, const char *name, dinov_error *err)
{
    struct stat st;

    /* A pipe without a writer would wait for ever; nothing changes for regular files. */
    *fd = open_retrying(folder, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | flags, 0);
    if (*fd < 0) return dinov_fail_errno(err, errno, "IO-OPEN", "%s: cannot open", name);
    if (fstat(*fd, &st) != 0) {
        int reason = errno;
        close(*fd);
        return dinov_fail_errno(err, reason, "IO-OPEN", "%s: cannot read its size", name);
    }
    if (!S_ISREG(st.st_mode)) {
        close(*fd);
        return dinov_fail(err, DINOV_ERR_IO, "IO-OPEN", "%s: expected a regular file, found a %s", name,
                          S_ISDIR(st.st_mode) ? "folder" : "device or pipe");
    }
    *size = (size_t)st.st_size;
    return DINOV_OK;
}

/* Closes fd. */
static dinov_status map_file(dinov_map *out, int fd, size_t size, const char *name, dinov_error *err)
{
    static const uint8_t nothing[1];
    if (size == 0) {
        close(fd);
        *out = (dinov_map){nothing, 0};
        return DINOV_OK;
    }
    void *data   = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    int   reason = errno;
    close(fd);
    if (data == MAP_FAILED) return dinov_fail_errno(err, reason, "IO-MAP", "%s: cannot map %zu bytes", name, size);
    *out = (dinov_map){data, size};
    return DINOV_OK;
}

dinov_status dinov_map_open(dinov_map *out, const char *path, dinov_error *err)
{
    char   name[DINOV_ESCAPED];
    int    fd;
    size_t size;
    dinov_escape(name, sizeof name, path, strlen(path));
    DINOV_TRY(open_regular(&fd, &size, AT_FDCWD, path, 0, name, err));
    return map_file(out, fd, size, name, err);
}

dinov_status dinov_map_open_in(dinov_map *out, int folder, const char *name, const char *where, dinov_error *err)
{
    int    fd;
    size_t size;
    DINOV_TRY(open_regular(&fd, &size, folder, name, O_NOFOLLOW, where, err));
    return map_file(out, fd, size, where, err);
}

void dinov_map_forget(const void *map, size_t map_size, const void *data, size_t size)
{
    uintptr_t start = (uintptr_t)map, at = (uintptr_t)data, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (!map || at < start || size > map_size || at - start > map_size - size) return;
    uintptr_t begin = (at + page - 1) / page * page, end = (at + size) / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void dinov_map_close(dinov_map *map)
{
    if (map->size) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (dinov_map){0};
}

/* Closes fd. */
static dinov_status read_file(void **out, size_t *size, int fd, size_t total, size_t limit, const char *name, dinov_error *err)
{
    size_t       have = 0;
    uint8_t     *data = NULL;
    dinov_status status;

    if (total > limit) {
        status = dinov_fail(err, DINOV_ERR_LIMIT, "IO-LARGE", "%s: %zu bytes, expected at most %zu", name, total, limit);
        goto fail;
    }
    data = dinov_alloc(total, 1);
    if (!data) {
        status = dinov_fail_nomem(err, name, "its bytes");
        goto fail;
    }
    while (have < total) {
        ssize_t n = read(fd, data + have, total - have);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            status = dinov_fail_errno(err, errno, "IO-READ", "%s: cannot read at byte %zu", name, have);
            goto fail;
        }
        if (n == 0) break; /* it shrank: the parser judges what is there */
        have += (size_t)n;
    }
    close(fd);
    *out  = data;
    *size = have;
    return DINOV_OK;
fail:
    dinov_free(data);
    close(fd);
    return status;
}

dinov_status dinov_file_read(void **out, size_t *size, const char *path, size_t limit, dinov_error *err)
{
    char   name[DINOV_ESCAPED];
    int    fd;
    size_t total;
    dinov_escape(name, sizeof name, path, strlen(path));
    DINOV_TRY(open_regular(&fd, &total, AT_FDCWD, path, 0, name, err));
    return read_file(out, size, fd, total, limit, name, err);
}

dinov_status dinov_file_read_in(void **out, size_t *size, int folder, const char *name, size_t limit, const char *where, dinov_error *err)
{
    int    fd;
    size_t total;
    DINOV_TRY(open_regular(&fd, &total, folder, name, O_NOFOLLOW, where, err));
    return read_file(out, size, fd, total, limit, where, err);
}

/* ---- Folders ---- */

char *dinov_folder_of(const char *path)
{
    char *folder = dinov_alloc(strlen(path) + 2, 1);
    if (!folder) return NULL;
    memcpy(folder, path, strlen(path) + 1);
    char *slash = strrchr(folder, '/');
    if (!slash) memcpy(folder, *path ? "." : "", *path ? 2 : 1);
    else if (slash == folder) slash[1] = '\0';
    else *slash = '\0';
    return folder;
}

dinov_status dinov_folder_open(int *fd, const char *path, dinov_error *err)
{
    char name[DINOV_ESCAPED];
    *fd = open_retrying(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    if (*fd >= 0) return DINOV_OK;
    return dinov_fail_errno(err, errno, "IO-OPEN", "%s: cannot open the folder", dinov_escape(name, sizeof name, path, strlen(path)));
}

bool dinov_folder_has(int fd, const char *name, bool folder)
{
    struct stat st;
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) return false;
    return folder ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode);
}

/* `name` is for messages. */
static dinov_status sync_folder(const char *path, const char *name, dinov_error *err)
{
    int fd = open_retrying(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return dinov_fail_errno(err, errno, "IO-SYNC", "%s: cannot open its folder", name);
    int reason = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    if (reason && reason != EINVAL) /* some file systems cannot sync a folder */
        return dinov_fail_errno(err, reason, "IO-SYNC", "%s: cannot sync its folder", name);
    return DINOV_OK;
}

dinov_status dinov_folder_sync(const char *path, dinov_error *err)
{
    char name[DINOV_ESCAPED];
    return sync_folder(path, dinov_escape(name, sizeof name, path, strlen(path)), err);
}

/* ---- Writing ---- */

struct dinov_out {
    int      fd;
    int      overwrite;
    uint64_t size;
    char    *path, *temp;
    char     name[DINOV_ESCAPED]; /* path for messages */

    /* Writing behind: while `thread` runs, all above is its own. */
    bool              running;
    pthread_t         thread;
    atomic_bool       stop;
    const dinov_span *spans;
    size_t            span_count;
    dinov_status      status;
    dinov_error       err;
};

static void out_free(dinov_out **out)
{
    dinov_out *o = *out;
    *out         = NULL;
    atomic_store(&o->stop, true);
    if (o->running) pthread_join(o->thread, NULL);
    if (o->fd >= 0) close(o->fd);
    if (o->temp) unlink(o->temp);
    dinov_free(o->path);
    dinov_free(o->temp);
    dinov_free(o);
}

static dinov_status exists(dinov_error *err, const char *path)
{
    char name[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_IO, "IO-EXISTS", "%s: already exists; give -f to replace it",
                      dinov_escape(name, sizeof name, path, strlen(path)));
}

dinov_status dinov_file_check_free(const char *path, int overwrite, dinov_error *err)
{
    struct stat st;
    char        name[DINOV_ESCAPED];
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return dinov_fail(err, DINOV_ERR_IO, "IO-CREATE", "%s: expected a file name, found a folder",
                          dinov_escape(name, sizeof name, path, strlen(path)));
    return !overwrite && access(path, F_OK) == 0 ? exists(err, path) : DINOV_OK;
}

dinov_status dinov_out_open(dinov_out **out, const char *path, int overwrite, dinov_error *err)
{
    dinov_status status;
    size_t       length = strlen(path);
    dinov_out   *o      = dinov_calloc(1, sizeof *o);

    *out = NULL;
    if (!o) return dinov_fail_nomem(err, "output", "a file handle");
    o->fd        = -1;
    o->overwrite = overwrite;
    dinov_escape(o->name, sizeof o->name, path, length);
    o->path    = dinov_strdup(path);
    char *temp = dinov_alloc(length + 40, 1);
    if (!o->path || !temp) {
        dinov_free(temp);
        status = dinov_fail_nomem(err, o->name, "its name");
        goto fail;
    }
    status = dinov_file_check_free(path, overwrite, err);
    if (status != DINOV_OK) {
        dinov_free(temp);
        goto fail;
    }
    /* A leftover of a killed process has another pid or is taken over by trying the next number. */
    for (int i = 0; o->fd < 0 && i < 100; i++) {
        snprintf(temp, length + 40, "%s.tmp-%ld-%d", path, (long)getpid(), i);
        o->fd = open_retrying(AT_FDCWD, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
        if (o->fd < 0 && errno != EEXIST) break;
    }
    if (o->fd < 0) {
        int reason = errno;
        dinov_free(temp);
        status = dinov_fail_errno(err, reason, "IO-CREATE", "%s: cannot create it", o->name);
        goto fail;
    }
    o->temp = temp;
    *out    = o;
    return DINOV_OK;
fail:
    out_free(&o);
    return status;
}

static dinov_status write_at(dinov_out *o, uint64_t offset, const void *data, size_t size, dinov_error *err)
{
    const uint8_t *p = data;
    while (size > 0) {
        size_t  part = size < ((size_t)1 << 30) ? size : (size_t)1 << 30;
        ssize_t n    = pwrite(o->fd, p, part, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return dinov_fail_errno(err, n < 0 ? errno : ENOSPC, "IO-WRITE", "%s: cannot write at byte %llu", o->name,
                                    (unsigned long long)offset);
        p += n, size -= (size_t)n, offset += (uint64_t)n;
    }
    return DINOV_OK;
}

dinov_status dinov_out_write(dinov_out *out, const void *data, size_t size, dinov_error *err)
{
    DINOV_TRY(write_at(out, out->size, data, size, err));
    out->size += size;
    return DINOV_OK;
}

/* In parts, to stop soon when told to. */
static dinov_status write_spans(dinov_out *o)
{
    for (size_t i = 0; i < o->span_count; i++) {
        dinov_span left = o->spans[i];
        while (left.size > 0 && !atomic_load(&o->stop)) {
            size_t part = left.size < ((size_t)1 << 24) ? (size_t)left.size : (size_t)1 << 24;
            DINOV_TRY(dinov_out_write(o, left.data, part, &o->err));
            left.data += part, left.size -= part;
        }
    }
    return DINOV_OK;
}

static void *write_behind(void *arg)
{
    dinov_out *o = arg;
    o->status    = write_spans(o);
    return NULL;
}

void dinov_out_write_behind(dinov_out *out, const dinov_span *spans, size_t count)
{
    out->spans      = spans;
    out->span_count = count;
    out->running    = pthread_create(&out->thread, NULL, write_behind, out) == 0;
    if (!out->running) write_behind(out);
}

dinov_status dinov_out_settle(dinov_out *out, dinov_error *err)
{
    if (out->running) pthread_join(out->thread, NULL);
    out->running = false;
    if (out->status != DINOV_OK && err) *err = out->err;
    return out->status;
}

dinov_status dinov_out_patch(dinov_out *out, uint64_t offset, const void *data, size_t size, dinov_error *err)
{
    DINOV_ASSERT(offset <= out->size && size <= out->size - offset);
    return write_at(out, offset, data, size, err);
}

uint64_t dinov_out_size(const dinov_out *out) { return out->size; }

/* 0 or an errno. */
static int rename_file(const char *from, const char *to, int overwrite)
{
    if (overwrite) return rename(from, to) == 0 ? 0 : errno;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return errno;
    /* A file system that cannot refuse to replace: the window between look and rename stays. */
    if (access(to, F_OK) == 0) return EEXIST;
    return rename(from, to) == 0 ? 0 : errno;
}

dinov_status dinov_file_move(const char *from, const char *to, int overwrite, dinov_error *err)
{
    char name[DINOV_ESCAPED], *folder = dinov_folder_of(to);
    dinov_escape(name, sizeof name, to, strlen(to));
    if (!folder) return dinov_fail_nomem(err, name, "its folder's name");
    int          reason = rename_file(from, to, overwrite);
    dinov_status status = reason == 0        ? sync_folder(folder, name, err)
                          : reason == EEXIST ? exists(err, to)
                                             : dinov_fail_errno(err, reason, "IO-RENAME", "%s: cannot give it its name", name);
    dinov_free(folder);
    return status;
}

static dinov_status commit(dinov_out *o, dinov_error *err)
{
    if (fsync(o->fd) != 0) return dinov_fail_errno(err, errno, "IO-SYNC", "%s: cannot sync", o->name);
    int closed = close(o->fd);
    o->fd      = -1;
    if (closed != 0 && errno != EINTR) return dinov_fail_errno(err, errno, "IO-SYNC", "%s: cannot close", o->name);
    DINOV_TRY(dinov_file_move(o->temp, o->path, o->overwrite, err));
    dinov_free(o->temp);
    o->temp = NULL;
    return DINOV_OK;
}

dinov_status dinov_out_commit(dinov_out **out, dinov_error *err)
{
    dinov_status status = commit(*out, err);
    out_free(out);
    return status;
}

void dinov_out_abort(dinov_out **out)
{
    if (out && *out) out_free(out);
}
