/* SPDX-License-Identifier: Apache-2.0
 *
 * The inputs, cut into parts: a run of files, or one shard. An item is found by searching the parts.
 */
#include "image/source.h"

#include "base/alloc.h"
#include "base/file.h"
#include "image/inputs.h"
#include "image/internal.h"
#include "image/shard.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RAW_NAME = 2 * DINOV_SHARD_PATH };

struct part {
    int64_t     first, count; /* items of the source */
    int64_t     input;        /* the first item's place among the inputs */
    dinov_shard shard;        /* of one shard; `path` is NULL for files */
};

struct dinov_source {
    dinov_inputs  *inputs;
    struct part   *parts;
    int64_t        part_count, part_room, count;
    int32_t       *folder_label; /* [inputs] with label_folders */
    char         **class_name;
    int64_t        class_count;
    dinov_problems problems;
};

/* Where the inputs that one named path led to begin, and whether it named a file. */
struct root {
    int64_t     first;
    const char *path; /* NULL: a list */
};

static bool is_shard(const char *path, bool look_inside)
{
    uint8_t head[512];
    if (dinov_image_named_shard(path)) return true;
    if (!look_inside || dinov_image_named_picture(path)) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return false;
    ssize_t n = read(fd, head, sizeof head);
    close(fd);
    return n > 0 && dinov_shard_recognise(head, (size_t)n);
}

static dinov_status add_part(dinov_source *s, int64_t input, dinov_error *err)
{
    if (s->part_count == s->part_room) {
        int64_t      room  = s->part_room ? 2 * s->part_room : 16;
        struct part *parts = dinov_realloc(s->parts, (size_t)room, sizeof *parts);
        if (!parts) return dinov_fail_nomem(err, "inputs", "their index");
        s->parts     = parts;
        s->part_room = room;
    }
    s->parts[s->part_count++] = (struct part){.first = s->count, .input = input};
    return DINOV_OK;
}

/* The part of input `i`: a new one for a shard, the last one for a file when that has files. */
static dinov_status add_input(dinov_source *s, int64_t i, bool named, size_t *unpack_left, dinov_error *err)
{
    const char  *path  = dinov_inputs_path(s->inputs, i);
    struct part *last  = s->part_count ? &s->parts[s->part_count - 1] : NULL;
    bool         shard = is_shard(path, named);
    if (shard || !last || last->shard.path) {
        DINOV_TRY(add_part(s, i, err));
        last = &s->parts[s->part_count - 1];
    }
    if (shard) {
        DINOV_TRY(dinov_shard_open(&last->shard, path, *unpack_left, &s->problems, err));
        last->count = last->shard.count;
        if (last->shard.unpacked) *unpack_left -= (size_t)last->shard.size;
    } else {
        last->count++;
    }
    s->count = last->first + last->count;
    return DINOV_OK;
}

/* ---- Folders as labels ---- */

/* The folder right below `root` on the way to `path`; its length is 0 when there is none. */
static const char *folder_below(const char *path, const char *root, size_t *size)
{
    const char *p = path + strlen(root);
    while (*p == '/') p++;
    const char *slash = strchr(p, '/');
    *size             = slash ? (size_t)(slash - p) : 0;
    return p;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Sorted, each once. */
static void unique(char **names, int64_t *count)
{
    int64_t kept = 0;
    if (*count == 0) return;
    qsort(names, (size_t)*count, sizeof *names, by_text);
    for (int64_t i = 0; i < *count; i++)
        if (kept && strcmp(names[i], names[kept - 1]) == 0)
            dinov_free(names[i]);
        else
            names[kept++] = names[i];
    *count = kept;
}

static dinov_status label_folders(dinov_source *s, const struct root *roots, int64_t root_count, dinov_error *err)
{
    int64_t inputs = dinov_inputs_count(s->inputs), room = 0;
    s->folder_label = dinov_alloc((size_t)inputs, sizeof *s->folder_label);
    if (!s->folder_label) return dinov_fail_nomem(err, "inputs", "their labels");
    /* Twice over the inputs: first the names, then the place of each among them. */
    for (int pass = 0; pass < 2; pass++) {
        int64_t     root     = -1;
        const char *previous = NULL;
        for (int64_t i = 0; i < inputs; i++) {
            size_t size = 0;
            while (root + 1 < root_count && roots[root + 1].first <= i) root++, previous = NULL;
            const char *name   = roots[root].path ? folder_below(dinov_inputs_path(s->inputs, i), roots[root].path, &size) : NULL;
            s->folder_label[i] = -1;
            if (size == 0) continue;
            char *copy = dinov_calloc(size + 1, 1);
            if (!copy) return dinov_fail_nomem(err, "inputs", "their labels");
            memcpy(copy, name, size);
            if (pass == 1) {
                char **found       = bsearch(&copy, s->class_name, (size_t)s->class_count, sizeof copy, by_text);
                s->folder_label[i] = (int32_t)(found - s->class_name);
            }
            if (pass == 1 || (previous && strcmp(previous, copy) == 0)) {
                dinov_free(copy);
                continue;
            }
            if (s->class_count == room) {
                room        = room ? 2 * room : 64;
                char **more = dinov_realloc(s->class_name, (size_t)room, sizeof *more);
                if (!more) {
                    dinov_free(copy);
                    return dinov_fail_nomem(err, "inputs", "their labels");
                }
                s->class_name = more;
            }
            previous = s->class_name[s->class_count++] = copy;
        }
        if (pass == 0) unique(s->class_name, &s->class_count);
    }
    return DINOV_OK;
}

/* ---- The public calls ---- */

static dinov_status gather(dinov_source *s, const dinov_source_spec *spec, struct root *roots, dinov_error *err)
{
    for (int64_t i = 0; i < spec->path_count; i++) {
        roots[i] = (struct root){dinov_inputs_count(s->inputs), spec->paths[i]};
        DINOV_TRY(dinov_inputs_add(s->inputs, spec->paths[i], err));
    }
    for (int64_t i = 0; i < spec->list_count; i++) {
        roots[spec->path_count + i] = (struct root){dinov_inputs_count(s->inputs), NULL};
        DINOV_TRY(dinov_inputs_add_list(s->inputs, spec->lists[i], err));
    }
    return DINOV_OK;
}

static dinov_status index_all(dinov_source *s, const dinov_source_spec *spec, dinov_error *err)
{
    int64_t      root_count = spec->path_count + spec->list_count;
    size_t       left       = spec->unpack_limit ? spec->unpack_limit : DINOV_SOURCE_UNPACK;
    dinov_status status     = DINOV_OK;
    struct root *roots      = dinov_calloc((size_t)root_count, sizeof *roots);
    if (!roots) return dinov_fail_nomem(err, "inputs", "their index");
    DINOV_TRY_GOTO(gather(s, spec, roots, err));
    for (int64_t i = 0, root = -1; i < dinov_inputs_count(s->inputs); i++) {
        while (root + 1 < root_count && roots[root + 1].first <= i) root++;
        bool named = roots[root].path && strcmp(roots[root].path, dinov_inputs_path(s->inputs, i)) == 0;
        DINOV_TRY_GOTO(add_input(s, i, named, &left, err));
    }
    if (spec->label_folders) DINOV_TRY_GOTO(label_folders(s, roots, root_count, err));
    if (s->count == 0 && s->problems.kept)
        status = dinov_fail(err, DINOV_ERR_FORMAT, "INPUT-EMPTY", "no pictures found: %s", s->problems.list[0].msg);
    else if (s->count == 0)
        status = dinov_fail(err, DINOV_ERR_FORMAT, "INPUT-EMPTY",
                            "no pictures found: the inputs name no file, and the folders and shards hold none");
fail:
    dinov_free(roots);
    return status;
}

dinov_status dinov_source_open(dinov_source **out, const dinov_source_spec *spec, dinov_error *err)
{
    dinov_status  status = DINOV_OK;
    dinov_source *s      = dinov_calloc(1, sizeof *s);
    *out                 = NULL;
    if (!s) return dinov_fail_nomem(err, "inputs", "their index");
    DINOV_TRY_GOTO(dinov_inputs_new(&s->inputs, err));
    DINOV_TRY_GOTO(index_all(s, spec, err));
    *out = s;
    return DINOV_OK;
fail:
    dinov_source_close(&s);
    return status;
}

void dinov_source_close(dinov_source **source)
{
    if (!source || !*source) return;
    dinov_source *s = *source;
    for (int64_t i = 0; i < s->part_count; i++) dinov_shard_close(&s->parts[i].shard);
    for (int64_t i = 0; i < s->class_count; i++) dinov_free(s->class_name[i]);
    dinov_free(s->class_name);
    dinov_free(s->folder_label);
    dinov_free(s->parts);
    dinov_problems_clear(&s->problems);
    dinov_inputs_free(&s->inputs);
    dinov_free(s);
    *source = NULL;
}

int64_t dinov_source_count(const dinov_source *source) { return source->count; }

/* The part of an item, and its place in it. */
static const struct part *part_of(const dinov_source *s, int64_t index, int64_t *within)
{
    int64_t low = 0, high = s->part_count - 1;
    DINOV_ASSERT(index >= 0 && index < s->count);
    while (low < high) { /* the last part that begins at or before it */
        int64_t middle = (low + high + 1) / 2;
        if (s->parts[middle].first <= index)
            low = middle;
        else
            high = middle - 1;
    }
    *within = index - s->parts[low].first;
    return &s->parts[low];
}

const char *dinov_source_path(const dinov_source *source, int64_t index, const char **member)
{
    int64_t            i;
    const struct part *p     = part_of(source, index, &i);
    const char        *inner = p->shard.path ? p->shard.names + p->shard.items[i].name : NULL;
    if (member) *member = inner;
    return inner ? p->shard.path : dinov_inputs_path(source->inputs, p->input + i);
}

/* "PATH:MEMBER" or "PATH", unescaped, cut when absurdly long. */
static size_t raw_name(const dinov_source *s, int64_t index, char out[RAW_NAME])
{
    const char *member, *path = dinov_source_path(s, index, &member);
    int         size = snprintf(out, RAW_NAME, "%s%s%s", path, member ? ":" : "", member ? member : "");
    return size < RAW_NAME ? (size_t)size : RAW_NAME - 1;
}

const char *dinov_source_name(const dinov_source *source, int64_t index, char *out, size_t size)
{
    char   raw[RAW_NAME];
    size_t length = raw_name(source, index, raw);
    return dinov_escape(out, size, raw, length);
}

int64_t dinov_source_label(const dinov_source *source, int64_t index)
{
    int64_t            i;
    const struct part *p = part_of(source, index, &i);
    if (p->shard.path) return p->shard.items[i].label;
    return source->folder_label ? source->folder_label[p->input + i] : -1;
}

int64_t dinov_source_class_count(const dinov_source *source) { return source->class_count; }

const char *dinov_source_class_name(const dinov_source *source, int64_t label)
{
    DINOV_ASSERT(label >= 0 && label < source->class_count);
    return source->class_name[label];
}

dinov_status dinov_source_read(const dinov_source *source, int64_t index, void **bytes, size_t *size, dinov_error *err)
{
    int64_t            i;
    const struct part *p = part_of(source, index, &i);
    if (p->shard.path) return dinov_shard_read(&p->shard, i, bytes, size, err);
    return dinov_file_read(bytes, size, dinov_inputs_path(source->inputs, p->input + i), DINOV_SHARD_MEMBER, err);
}

dinov_status dinov_source_decode_bytes(const dinov_source *source, int64_t index, const void *bytes, size_t size, dinov_image *out,
                                       dinov_error *err)
{
    char name[RAW_NAME];
    raw_name(source, index, name);
    return dinov_image_decode(out, bytes, size, name, err);
}

dinov_status dinov_source_decode(const dinov_source *source, int64_t index, dinov_image *out, dinov_error *err)
{
    void  *bytes;
    size_t size;
    DINOV_TRY(dinov_source_read(source, index, &bytes, &size, err));
    dinov_status status = dinov_source_decode_bytes(source, index, bytes, size, out, err);
    dinov_free(bytes);
    return status;
}

int64_t dinov_source_problem_count(const dinov_source *source) { return source->problems.count; }

const dinov_error *dinov_source_problem(const dinov_source *source, int64_t index)
{
    return index >= 0 && index < source->problems.kept ? &source->problems.list[index] : NULL;
}
