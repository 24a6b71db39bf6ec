/* SPDX-License-Identifier: Apache-2.0
 *
 * Paths lie one after the other in one piece of memory, so that millions of them cost little more
 * than their bytes. Folders are walked with a list of pending folders, not by recursion.
 */
#include "image/inputs.h"

#include "base/alloc.h"
#include "image/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

struct names {
    char   *bytes; /* zero-terminated paths */
    size_t  size, capacity;
    size_t *offset; /* [count] */
    int64_t count, room;
};

struct dinov_inputs {
    struct names names;
};

/* A folder met during a walk and the chain of those above it, to recognise a loop of links. */
struct folder {
    int64_t parent;
    dev_t   device;
    ino_t   inode;
};

static dinov_status names_add(struct names *n, const char *folder, const char *name, dinov_error *err)
{
    size_t size = strlen(name) + 1 + (folder ? strlen(folder) + 1 : 0);
    if (n->size + size > n->capacity) {
        size_t capacity = (n->size + size) * 2;
        char  *bytes    = dinov_realloc(n->bytes, capacity, 1);
        if (!bytes) return dinov_fail_nomem(err, "inputs", "their paths");
        n->bytes    = bytes;
        n->capacity = capacity;
    }
    if (n->count == n->room) {
        int64_t room   = n->room ? 2 * n->room : 64;
        size_t *offset = dinov_realloc(n->offset, (size_t)room, sizeof *offset);
        if (!offset) return dinov_fail_nomem(err, "inputs", "their paths");
        n->offset = offset;
        n->room   = room;
    }
    size_t trailing = folder ? strlen(folder) : 0;
    while (trailing > 1 && folder[trailing - 1] == '/') trailing--;
    char *to              = n->bytes + n->size;
    n->offset[n->count++] = n->size;
    if (folder) {
        memcpy(to, folder, trailing);
        to += trailing;
        if (to[-1] != '/') *to++ = '/';
    }
    strcpy(to, name);
    n->size = (size_t)(to - n->bytes) + strlen(name) + 1;
    return DINOV_OK;
}

static const char *name_at(const struct names *n, int64_t i) { return n->bytes + n->offset[i]; }

static void names_clear(struct names *n)
{
    dinov_free(n->bytes);
    dinov_free(n->offset);
    *n = (struct names){0};
}

dinov_status dinov_inputs_new(dinov_inputs **out, dinov_error *err)
{
    *out = dinov_calloc(1, sizeof **out);
    return *out ? DINOV_OK : dinov_fail_nomem(err, "inputs", "their list");
}

void dinov_inputs_free(dinov_inputs **inputs)
{
    if (!inputs || !*inputs) return;
    names_clear(&(*inputs)->names);
    dinov_free(*inputs);
    *inputs = NULL;
}

int64_t     dinov_inputs_count(const dinov_inputs *inputs) { return inputs->names.count; }
const char *dinov_inputs_path(const dinov_inputs *inputs, int64_t index) { return name_at(&inputs->names, index); }

int dinov_image_named_picture(const char *path)
{
    static const char *const endings[] = {"jpg", "jpeg", "jpe", "jfif", "png",  "webp", "gif", "bmp", "tif", "tiff", "ppm",
                                          "pgm", "pbm",  "pnm", "heic", "heif", "avif", "jxl", "jp2", "j2k", "psd",  "exr"};
    const char              *dot       = strrchr(path, '.');
    if (!dot || strchr(dot, '/')) return false;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (strcasecmp(dot + 1, endings[i]) == 0) return true;
    return false;
}

int dinov_image_named_shard(const char *path)
{
    static const char *const endings[] = {".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"};
    size_t                   size      = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t length = strlen(endings[i]);
        if (size > length && path[size - length - 1] != '/' && strcasecmp(path + size - length, endings[i]) == 0) return true;
    }
    return false;
}

static bool picture_by_content(const char *path)
{
    uint8_t head[32];
    int     fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t n = read(fd, head, sizeof head);
    close(fd);
    return n > 0 && dinov_image_is_picture(head, (size_t)n);
}

static dinov_status fail_path(dinov_error *err, int reason, const char *path, const char *what)
{
    char shown[DINOV_ESCAPED];
    return dinov_fail_errno(err, reason, "INPUT-OPEN", "%s: cannot %s", dinov_escape(shown, sizeof shown, path, strlen(path)),
                            what);
}

struct walk {
    struct names   pending; /* folders, in the order they were met */
    struct folder *folders; /* [pending.count] */
    int64_t        room;
    struct names   found;
};

/* Remembers a folder to walk, unless it is one of those above it. */
static dinov_status push_folder(struct walk *w, const char *folder, const char *name, int64_t parent, const struct stat *st,
                                dinov_error *err)
{
    for (int64_t i = parent; i >= 0; i = w->folders[i].parent)
        if (w->folders[i].device == st->st_dev && w->folders[i].inode == st->st_ino) return DINOV_OK;
    if (w->pending.count == w->room) {
        int64_t        room = w->room ? 2 * w->room : 16;
        struct folder *more = dinov_realloc(w->folders, (size_t)room, sizeof *more);
        if (!more) return dinov_fail_nomem(err, "inputs", "their folders");
        w->folders = more;
        w->room    = room;
    }
    w->folders[w->pending.count] = (struct folder){.parent = parent, .device = st->st_dev, .inode = st->st_ino};
    return names_add(&w->pending, folder, name, err);
}

static dinov_status walk_folder(struct walk *w, int64_t index, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    char        *folder = dinov_strdup(name_at(&w->pending, index)); /* `pending` grows below */
    if (!folder) return dinov_fail_nomem(err, "inputs", "a path");
    DIR *dir = opendir(folder);
    if (!dir) {
        status = fail_path(err, errno, folder, "read this folder");
        goto fail;
    }
    for (;;) {
        struct stat st;
        errno            = 0;
        struct dirent *e = readdir(dir);
        if (!e && errno) {
            status = fail_path(err, errno, folder, "read this folder");
            goto fail;
        }
        if (!e) break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (fstatat(dirfd(dir), e->d_name, &st, 0) != 0) {
            /* A link to nothing, or gone meanwhile: an input that will be listed as unreadable, if its name says picture. */
            if (dinov_image_named_picture(e->d_name)) DINOV_TRY_GOTO(names_add(&w->found, folder, e->d_name, err));
            continue;
        }
        if (S_ISDIR(st.st_mode)) {
            DINOV_TRY_GOTO(push_folder(w, folder, e->d_name, index, &st, err));
        } else if (S_ISREG(st.st_mode)) {
            DINOV_TRY_GOTO(names_add(&w->found, folder, e->d_name, err));
            const char *path = name_at(&w->found, w->found.count - 1);
            if (!dinov_image_named_picture(path) && !dinov_image_named_shard(path) && !picture_by_content(path))
                w->found.size = w->found.offset[--w->found.count];
        }
    }
fail:
    if (dir) closedir(dir);
    dinov_free(folder);
    return status;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Everything found, sorted, at the end of `to`. */
static dinov_status add_sorted(struct names *to, const struct names *found, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    const char **sorted = dinov_alloc((size_t)found->count, sizeof *sorted);
    if (!sorted) return dinov_fail_nomem(err, "inputs", "sorting them");
    for (int64_t i = 0; i < found->count; i++) sorted[i] = name_at(found, i);
    qsort(sorted, (size_t)found->count, sizeof *sorted, by_bytes);
    for (int64_t i = 0; i < found->count && status == DINOV_OK; i++) status = names_add(to, NULL, sorted[i], err);
    dinov_free(sorted);
    return status;
}

dinov_status dinov_inputs_add(dinov_inputs *inputs, const char *path, dinov_error *err)
{
    struct stat  st;
    struct walk  w      = {0};
    dinov_status status = DINOV_OK;

    if (stat(path, &st) != 0) return fail_path(err, errno, path, "open this input");
    if (!S_ISDIR(st.st_mode)) return names_add(&inputs->names, NULL, path, err);
    DINOV_TRY_GOTO(push_folder(&w, NULL, path, -1, &st, err));
    for (int64_t i = 0; i < w.pending.count; i++) DINOV_TRY_GOTO(walk_folder(&w, i, err));
    DINOV_TRY_GOTO(add_sorted(&inputs->names, &w.found, err));
fail:
    names_clear(&w.pending);
    names_clear(&w.found);
    dinov_free(w.folders);
    return status;
}

dinov_status dinov_inputs_add_list(dinov_inputs *inputs, const char *path, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    char         shown[DINOV_ESCAPED];
    bool         standard = strcmp(path, "-") == 0;
    FILE        *f        = standard ? stdin : fopen(path, "re");
    char        *line     = NULL;
    size_t       room     = 0;

    dinov_escape(shown, sizeof shown, path, strlen(path));
    if (!f) return dinov_fail_errno(err, errno, "INPUT-LIST", "%s: cannot open this list of inputs", shown);
    for (;;) {
        ssize_t size = getline(&line, &room, f);
        if (size < 0) break;
        if (strlen(line) != (size_t)size) {
            status = dinov_fail(err, DINOV_ERR_FORMAT, "INPUT-LIST", "%s: expected one path a line, found a zero byte", shown);
            break;
        }
        if (size && line[size - 1] == '\n') line[--size] = '\0';
        if (size && line[size - 1] == '\r') line[--size] = '\0';
        if (size && (status = names_add(&inputs->names, NULL, line, err)) != DINOV_OK) break;
    }
    if (status == DINOV_OK && ferror(f)) status = dinov_fail_errno(err, errno, "INPUT-LIST", "%s: cannot read", shown);
    dinov_free(line);
    if (!standard) fclose(f);
    return status;
}
