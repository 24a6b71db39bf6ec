/* SPDX-License-Identifier: Apache-2.0 */
#include "format/training.h"

#include "base/alloc.h"
#include "format/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIGITS = 9 };

struct dinov_training {
    char               path[DINOV_TRAINING_PATH];
    char               where[DINOV_ESCAPED]; /* the path, for messages */
    dinov_manifest     manifest;
    void              *storage;
    dinov_checkpoint  *backbone;
    dinov_state_file **parts; /* [file_count - 1] */
    dinov_named_tensor *state; /* of all parts, by name */
    size_t              count;
};

/* ---- The folder of a step ---- */

static dinov_status read_manifest(dinov_training *t, int folder, dinov_error *err)
{
    char   where[DINOV_ESCAPED + sizeof DINOV_MANIFEST];
    void  *bytes;
    size_t size;

    snprintf(where, sizeof where, "%s/" DINOV_MANIFEST, t->where);
    if (!dinov_folder_has(folder, DINOV_MANIFEST, false))
        return dinov_fail(err, DINOV_ERR_FORMAT, "MAN-NONE",
                          "%s: not a training checkpoint, or one that was never finished: expected a file " DINOV_MANIFEST " in it", t->where);
    dinov_status status = dinov_file_read_in(&bytes, &size, folder, DINOV_MANIFEST, DINOV_MANIFEST_BYTES, where, err);
    if (status == DINOV_ERR_LIMIT)
        return dinov_fail(err, status, "MAN-LARGE", "%s: expected a manifest of at most %d bytes", where, DINOV_MANIFEST_BYTES);
    DINOV_TRY(status);
    status = dinov_manifest_parse(&t->manifest, &t->storage, bytes, size, where, err);
    dinov_free(bytes);
    return status;
}

static dinov_status other_file(const char *where, const char *what, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-FILE", "%s: %s than the manifest says: damaged, or another file", where, what);
}

/* The file is the one the manifest names: size and header digest, and through that every byte. */
static dinov_status check_file(const dinov_container *file, const dinov_manifest_file *want, const char *where, dinov_error *err)
{
    if (memcmp(file->digest, want->header.hex, sizeof file->digest) == 0 && file->map.size == want->bytes) return DINOV_OK;
    return other_file(where, "another content", err);
}

static dinov_status open_file(dinov_training *t, int folder, size_t index, dinov_error *err)
{
    const dinov_manifest_file *want = &t->manifest.files[index];
    char                       name[DINOV_MANIFEST_NAME], where[DINOV_ESCAPED + DINOV_MANIFEST_NAME];
    dinov_map                  map;

    dinov_manifest_file_name(name, index);
    snprintf(where, sizeof where, "%s/%s", t->where, name);
    if (!dinov_folder_has(folder, name, false))
        return dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-FILE", "%s: expected a plain file, as the manifest says; it is missing or a link",
                          where);
    DINOV_TRY(dinov_map_open_in(&map, folder, name, where, err));
    if (map.size != want->bytes) {
        dinov_status status = other_file(where, map.size < want->bytes ? "smaller" : "larger", err);
        dinov_map_close(&map);
        return status;
    }
    if (index == 0) {
        DINOV_TRY(dinov_checkpoint_open_map(&t->backbone, map, where, err));
        return check_file(&t->backbone->file, want, where, err);
    }
    DINOV_TRY(dinov_state_open(&t->parts[index - 1], map, where, err));
    DINOV_TRY(check_file(dinov_state_container(t->parts[index - 1]), want, where, err));
    const dinov_state_info *i = dinov_state_get_info(t->parts[index - 1]);
    if (i->iteration != t->manifest.iteration || i->part != (int64_t)index - 1 || i->parts != (int64_t)t->manifest.file_count - 1)
        return other_file(where, "of another step or place", err);
    return DINOV_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const dinov_named_tensor *)a)->name, ((const dinov_named_tensor *)b)->name);
}

/* One list of the tensors of all parts; none may be in two of them. */
static dinov_status join_parts(dinov_training *t, dinov_error *err)
{
    char   name[DINOV_ESCAPED];
    size_t parts = t->manifest.file_count - 1, at = 0;

    for (size_t i = 0; i < parts; i++) t->count += dinov_state_container(t->parts[i])->table.count;
    t->state = dinov_alloc(t->count, sizeof *t->state);
    if (!t->state) return dinov_fail_nomem(err, t->where, "the list of tensors");
    for (size_t i = 0; i < parts; i++) {
        const dinov_table *table = &dinov_state_container(t->parts[i])->table;
        if (table->count) memcpy(t->state + at, table->tensors, table->count * sizeof *t->state);
        at += table->count;
    }
    if (t->count) qsort(t->state, t->count, sizeof *t->state, by_name);
    for (size_t i = 1; i < t->count; i++)
        if (strcmp(t->state[i - 1].name, t->state[i].name) == 0)
            return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DUPLICATE", "%s: tensor %s is in two files of state", t->where,
                              dinov_escape(name, sizeof name, t->state[i].name, strlen(t->state[i].name)));
    return DINOV_OK;
}

dinov_status dinov_training_open(dinov_training **out, const char *path, dinov_error *err)
{
    dinov_status    status;
    int             folder = -1;
    dinov_training *t      = dinov_calloc(1, sizeof *t);

    *out = NULL;
    if (!t) return dinov_fail_nomem(err, "training checkpoint", "its handle");
    dinov_escape(t->where, sizeof t->where, path, strlen(path));
    if ((size_t)snprintf(t->path, sizeof t->path, "%s", path) >= sizeof t->path) {
        status = dinov_fail(err, DINOV_ERR_IO, "IO-OPEN", "%s: the path is too long", t->where);
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_folder_open(&folder, path, err));
    DINOV_TRY_GOTO(read_manifest(t, folder, err));
    t->parts = dinov_calloc(t->manifest.file_count - 1, sizeof *t->parts);
    if (!t->parts) {
        status = dinov_fail_nomem(err, t->where, "its files");
        goto fail;
    }
    for (size_t i = 0; i < t->manifest.file_count; i++) DINOV_TRY_GOTO(open_file(t, folder, i, err));
    DINOV_TRY_GOTO(join_parts(t, err));
    close(folder);
    *out = t;
    return DINOV_OK;
fail:
    if (folder >= 0) close(folder);
    dinov_training_close(&t);
    return status;
}

dinov_status dinov_training_verify(const dinov_training *t, int threads, dinov_error *err)
{
    DINOV_TRY(dinov_checkpoint_verify(t->backbone, threads, err));
    for (size_t i = 0; i + 1 < t->manifest.file_count; i++)
        DINOV_TRY(dinov_container_verify(dinov_state_container(t->parts[i]), threads, err));
    return DINOV_OK;
}

void dinov_training_close(dinov_training **training)
{
    if (!training || !*training) return;
    dinov_training *t = *training;
    *training         = NULL;
    dinov_checkpoint_close(&t->backbone);
    for (size_t i = 0; t->parts && i + 1 < t->manifest.file_count; i++) dinov_state_close(&t->parts[i]);
    dinov_free(t->parts);
    dinov_free(t->state);
    dinov_manifest_free(t->storage);
    dinov_free(t);
}

const char *dinov_training_path(const dinov_training *t) { return t->path; }

const dinov_manifest *dinov_training_manifest(const dinov_training *t) { return &t->manifest; }

const dinov_checkpoint *dinov_training_backbone(const dinov_training *t) { return t->backbone; }

const dinov_named_tensor *dinov_training_state(const dinov_training *t, size_t *count)
{
    *count = t->count;
    return t->state;
}

const dinov_tensor *dinov_training_find_tensor(const dinov_training *t, const char *name)
{
    const dinov_named_tensor key = {.name = name}, *hit = t->count ? bsearch(&key, t->state, t->count, sizeof *t->state, by_name) : NULL;
    return hit ? &hit->tensor : NULL;
}

/* ---- Runs ---- */

const char *dinov_step_name(char out[DINOV_STEP_NAME], int64_t iteration)
{
    DINOV_ASSERT(iteration >= 0 && iteration <= DINOV_STATE_MAX_ITERATION);
    snprintf(out, DINOV_STEP_NAME, "step-%0*" PRId32, DIGITS, (int32_t)iteration);
    return out;
}

bool dinov_step_parse(const char *name, int64_t *iteration)
{
    if (strncmp(name, "step-", 5) != 0 || strlen(name) != 5 + DIGITS || strspn(name + 5, "0123456789") != DIGITS) return false;
    *iteration = strtoll(name + 5, NULL, 10);
    return true;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* A real folder with a manifest in it. */
static bool committed(int run, const char *step)
{
    char path[DINOV_STEP_NAME + sizeof DINOV_MANIFEST];
    snprintf(path, sizeof path, "%.*s/" DINOV_MANIFEST, DINOV_STEP_NAME - 1, step);
    return dinov_folder_has(run, step, true) && dinov_folder_has(run, path, false);
}

dinov_status dinov_steps_list(int64_t **out, size_t *count, const char *run, dinov_error *err)
{
    char   where[DINOV_ESCAPED];
    size_t capacity = 0;
    DIR   *dir      = opendir(run);
    *out            = NULL;
    *count          = 0;
    dinov_escape(where, sizeof where, run, strlen(run));
    if (!dir) return dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot read the run's folder", where);
    for (struct dirent *e; (e = readdir(dir));) {
        int64_t iteration;
        if (!dinov_step_parse(e->d_name, &iteration) || !committed(dirfd(dir), e->d_name)) continue;
        if (*count == capacity) {
            capacity      = capacity ? 2 * capacity : 64;
            int64_t *more = dinov_realloc(*out, capacity, sizeof *more);
            if (!more) {
                closedir(dir);
                dinov_free(*out);
                *out = NULL;
                return dinov_fail_nomem(err, where, "the list of checkpoints");
            }
            *out = more;
        }
        (*out)[(*count)++] = iteration;
    }
    closedir(dir);
    if (*count) qsort(*out, *count, sizeof **out, descending);
    return DINOV_OK;
}

/* A step's folder, sound as far as `o` asks. */
static dinov_status open_folder(dinov_training **out, const char *path, const dinov_find_options *o, dinov_error *err)
{
    DINOV_TRY(dinov_training_open(out, path, err));
    dinov_status status = o->verify ? dinov_training_verify(*out, o->threads, err) : DINOV_OK;
    if (status != DINOV_OK) dinov_training_close(out);
    return status;
}

static dinov_status open_step(dinov_training **out, const char *run, int64_t iteration, const dinov_find_options *o, dinov_error *err)
{
    char path[DINOV_TRAINING_PATH], name[DINOV_STEP_NAME], where[DINOV_ESCAPED];

    *out = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", run, dinov_step_name(name, iteration)) >= sizeof path)
        return dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "%s: the run's path is too long", dinov_escape(where, sizeof where, run, strlen(run)));
    DINOV_TRY(open_folder(out, path, o, err));
    if ((*out)->manifest.iteration == iteration) return DINOV_OK;
    dinov_status status = other_file((*out)->where, "another step", err);
    dinov_training_close(out);
    return status;
}

static bool is_damage(dinov_status status)
{
    return status == DINOV_ERR_CORRUPT || status == DINOV_ERR_FORMAT || status == DINOV_ERR_SHAPE || status == DINOV_ERR_LIMIT;
}

dinov_status dinov_training_newest(dinov_training **out, const char *run, const dinov_find_options *options, dinov_error *err)
{
    const dinov_find_options none = {0}, *o = options ? options : &none;
    char                     where[DINOV_ESCAPED];
    int64_t                 *steps;
    size_t                   count;
    dinov_error              why, newest = {0};

    *out = NULL;
    DINOV_TRY(dinov_steps_list(&steps, &count, run, err));
    dinov_status status = DINOV_OK;
    for (size_t i = 0; i < count; i++) {
        status = open_step(out, run, steps[i], o, &why);
        if (!is_damage(status)) break;
        if (i == 0) newest = why;
        if (o->note) {
            char sentence[sizeof why.msg + 64];
            snprintf(sentence, sizeof sentence, "passing over a damaged checkpoint: %s [%s]", why.msg, why.code);
            o->note(o->arg, sentence);
        }
    }
    dinov_free(steps);
    if (is_damage(status))
        return dinov_fail(err, DINOV_ERR_CORRUPT, "RUN-BROKEN", "%s: all of its %zu checkpoints are damaged, the newest because: %.600s [%s]",
                          dinov_escape(where, sizeof where, run, strlen(run)), count, newest.msg, newest.code);
    if (status != DINOV_OK && err) *err = why;
    return status;
}

/* RUN of "RUN@STEP" and the step; false when it is not of that form. */
static bool split(const char *which, char *run, size_t size, int64_t *iteration)
{
    const char *at = strrchr(which, '@');
    if (!at || at == which || !at[1] || strspn(at + 1, "0123456789") != strlen(at + 1) || strlen(at + 1) > DIGITS) return false;
    *iteration = strtoll(at + 1, NULL, 10);
    return (size_t)snprintf(run, size, "%.*s", (int)(at - which), which) < size;
}

/* There is no such step: which ones there are. */
static dinov_status no_step(const char *run, const char *where, dinov_error *err)
{
    enum { SHOWN = 8 };
    dinov_text list = {0};
    int64_t   *steps;
    size_t     count;
    DINOV_TRY(dinov_steps_list(&steps, &count, run, err));
    dinov_text_puts(&list, count ? "those of steps" : "none yet");
    for (size_t i = 0; i < count && i < SHOWN; i++) {
        dinov_text_puts(&list, i ? ", " : " ");
        dinov_text_int(&list, steps[i]);
    }
    if (count > SHOWN) dinov_text_puts(&list, " and older ones");
    dinov_free(steps);
    dinov_status status = list.failed ? dinov_fail_nomem(err, where, "the list of checkpoints")
                                      : dinov_fail(err, DINOV_ERR_IO, "RUN-STEP", "%s: no such checkpoint; the run has %s", where, list.data);
    dinov_text_clear(&list);
    return status;
}

dinov_status dinov_training_find(dinov_training **out, const char *which, const dinov_find_options *options, dinov_error *err)
{
    const dinov_find_options none = {0}, *o = options ? options : &none;
    char                     run[DINOV_TRAINING_PATH], where[DINOV_ESCAPED], name[DINOV_STEP_NAME];
    int64_t                  iteration;
    struct stat              st;
    int                      folder;

    *out = NULL;
    dinov_escape(where, sizeof where, which, strlen(which));
    if (stat(which, &st) == 0) {
        DINOV_TRY(dinov_folder_open(&folder, which, err));
        bool is_step = dinov_folder_has(folder, DINOV_MANIFEST, false);
        close(folder);
        if (is_step) return open_folder(out, which, o, err);
        DINOV_TRY(dinov_training_newest(out, which, o, err));
        return *out ? DINOV_OK : dinov_fail(err, DINOV_ERR_IO, "RUN-STEP", "%s: no checkpoint in this folder", where);
    }
    if (!split(which, run, sizeof run, &iteration) || dinov_folder_open(&folder, run, NULL) != DINOV_OK)
        return dinov_fail(err, DINOV_ERR_IO, "RUN-STEP", "%s: expected a run's folder, RUN@STEP, or a step's folder; there is none", where);
    bool there = committed(folder, dinov_step_name(name, iteration));
    close(folder);
    return there ? open_step(out, run, iteration, o, err) : no_step(run, where, err);
}
