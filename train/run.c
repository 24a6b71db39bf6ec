/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "train/run.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "dinov/infer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The state of the only rank there is; ranks each write one, under their number. */
#define STATE_FILE "state-00000.safetensors"

enum { DIGITS = 9, PATH = 4096 };

/* What the background thread works on: copies of all it needs. */
struct save {
    dinov_train_state state; /* blocks point into `memory` */
    void             *memory;
    size_t            size;
    dinov_model       model;
    dinov_preprocess  preprocess;
    dinov_manifest    info;
    char             *config, *teacher;
    char              isa[32], teacher_id[80];
    int64_t           keep_last, keep_every;
    int               threads;
    dinov_status      status;
    dinov_error       err;
};

struct dinov_run {
    char           path[PATH];
    int            lock, metrics; /* descriptors */
    dinov_run_note note;
    void          *arg;
    pthread_t      thread;
    bool           saving;
    struct save    save;
};

/* ---- Names ---- */

static bool join(char *out, size_t size, const char *folder, const char *name)
{
    size_t a = strlen(folder), b = strlen(name);
    if (a + b + 2 > size) return false;
    memmove(out, folder, a);
    out[a] = '/';
    memcpy(out + a + 1, name, b + 1);
    return true;
}

static bool step_name(const char *name, int64_t *iteration)
{
    if (strncmp(name, "step-", 5) != 0 || strlen(name) != 5 + DIGITS || strspn(name + 5, "0123456789") != DIGITS) return false;
    *iteration = strtoll(name + 5, NULL, 10);
    return true;
}

static dinov_status sync_folder(const char *path, dinov_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return dinov_fail_errno(err, errno, "IO-FSYNC", "%s: cannot open the folder", path);
    int failed = fsync(fd) ? errno : 0;
    close(fd);
    return failed ? dinov_fail_errno(err, failed, "IO-FSYNC", "%s: cannot sync the folder", path) : DINOV_OK;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The iterations of committed checkpoints (those with a manifest), newest first. *out is the caller's (dinov_free). */
static dinov_status list_steps(const char *folder, int64_t **out, int64_t *count, dinov_error *err)
{
    int64_t capacity = 0;
    DIR    *dir      = opendir(folder);
    *out             = NULL;
    *count           = 0;
    if (!dir) return dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot read the run's folder", folder);
    for (struct dirent *e; (e = readdir(dir));) {
        char    path[PATH];
        int64_t iteration;
        if (!step_name(e->d_name, &iteration)) continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s/" DINOV_MANIFEST, folder, e->d_name) >= sizeof path || access(path, F_OK) != 0) continue;
        if (*count == capacity) {
            capacity      = capacity ? 2 * capacity : 64;
            int64_t *more = dinov_realloc(*out, (size_t)capacity, sizeof *more);
            if (!more) {
                closedir(dir);
                dinov_free(*out);
                return dinov_fail_nomem(err, folder, "the list of checkpoints");
            }
            *out = more;
        }
        (*out)[(*count)++] = iteration;
    }
    closedir(dir);
    if (*count) qsort(*out, (size_t)*count, sizeof **out, descending);
    return DINOV_OK;
}

/* ---- Reading ---- */

static dinov_status read_step(const char *step, dinov_manifest *out, void **storage, dinov_error *err)
{
    char   path[PATH];
    void  *bytes;
    size_t size;
    *storage = NULL;
    if (!join(path, sizeof path, step, DINOV_MANIFEST)) return dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "%s: the path is too long", step);
    DINOV_TRY(dinov_file_read(&bytes, &size, path, DINOV_MANIFEST_BYTES, err));
    dinov_status status = dinov_manifest_parse(out, storage, bytes, size, path, err);
    dinov_free(bytes);
    if (status == DINOV_OK) status = dinov_manifest_check(out, step, err);
    if (status != DINOV_OK) {
        dinov_manifest_free(*storage);
        *storage = NULL;
    }
    return status;
}

dinov_status dinov_run_newest(const char *folder, dinov_manifest *out, void **storage, char *path, size_t size, bool *found,
                              dinov_run_note note, void *arg, dinov_error *err)
{
    int64_t    *steps, count;
    dinov_error why;
    *found   = false;
    *storage = NULL;
    DINOV_TRY(list_steps(folder, &steps, &count, err));
    dinov_status status = DINOV_OK;
    for (int64_t i = 0; i < count && !*found && status == DINOV_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "step-%0*" PRId64, DIGITS, steps[i]);
        if (!join(path, size, folder, name)) {
            status = dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "%s: the path is too long", folder);
            break;
        }
        dinov_status whole = read_step(path, out, storage, &why);
        *found             = whole == DINOV_OK;
        /* Only damage is passed over: a newer version, or a disk that cannot be read, is for the user to know. */
        if (whole != DINOV_OK && whole != DINOV_ERR_CORRUPT && whole != DINOV_ERR_FORMAT) {
            if (err) *err = why;
            status = whole;
        } else if (!*found && note) {
            char sentence[1200];
            snprintf(sentence, sizeof sentence, "passing over a damaged checkpoint: %s", why.msg);
            note(arg, sentence);
        }
    }
    dinov_free(steps);
    return status;
}

dinov_status dinov_run_find(const char *which, dinov_manifest *out, void **storage, char *path, size_t size, dinov_error *err)
{
    char        folder[PATH];
    const char *at    = strrchr(which, '@');
    bool        found = false;
    struct stat st;

    *storage = NULL;
    if (strlen(which) >= sizeof folder) return dinov_fail(err, DINOV_ERR_IO, "RUN-STEP", "the run's path is too long");
    snprintf(folder, sizeof folder, "%s", which);
    if (stat(which, &st) != 0 && at && at[1] && strspn(at + 1, "0123456789") == strlen(at + 1) && strlen(at + 1) <= DIGITS) {
        snprintf(folder, sizeof folder, "%.*s/step-%0*lld", (int)(at - which), which, DIGITS, strtoll(at + 1, NULL, 10));
        if (stat(folder, &st) != 0) return dinov_fail(err, DINOV_ERR_IO, "RUN-STEP", "%s: there is no checkpoint %s", which, folder);
    }
    char manifest[PATH + 32];
    snprintf(manifest, sizeof manifest, "%s/" DINOV_MANIFEST, folder);
    if (access(manifest, F_OK) == 0) {
        if ((size_t)snprintf(path, size, "%s", folder) >= size) return dinov_fail(err, DINOV_ERR_IO, "RUN-STEP", "the run's path is too long");
        return read_step(folder, out, storage, err);
    }
    DINOV_TRY(dinov_run_newest(folder, out, storage, path, size, &found, NULL, NULL, err));
    return found ? DINOV_OK : dinov_fail(err, DINOV_ERR_IO, "RUN-STEP", "%s: no whole checkpoint in this folder", which);
}

/* Tensors of a state, by the names they have in files. */
struct list {
    dinov_named_tensor *tensors;
    char (*names)[DINOV_PARAMSET_NAME + 16];
    size_t count;
};

static dinov_status list_new(struct list *l, size_t most, dinov_error *err)
{
    *l = (struct list){.tensors = dinov_calloc(most, sizeof *l->tensors), .names = dinov_calloc(most, sizeof *l->names)};
    if (l->tensors && l->names) return DINOV_OK;
    dinov_free(l->tensors);
    dinov_free(l->names);
    return dinov_fail_nomem(err, "checkpoint", "the list of tensors");
}

static void list_clear(struct list *l)
{
    dinov_free(l->tensors);
    dinov_free(l->names);
}

static void list_add(struct list *l, const char *prefix, const char *name, int rank, const int64_t *dim, const void *data)
{
    snprintf(l->names[l->count], sizeof *l->names, "%s%s", prefix, name);
    dinov_named_tensor *t = &l->tensors[l->count];
    *t = (dinov_named_tensor){.name = l->names[l->count], .tensor = {.data = data, .dtype = DINOV_F32, .rank = rank}};
    memcpy(t->tensor.dim, dim, (size_t)rank * sizeof *dim);
    l->count++;
}

/* The tensors of a block: all, or those of the backbone (under the hub's names), or those of the heads. */
enum which { ALL, BACKBONE, HEADS };

static void list_block(struct list *l, const char *prefix, const dinov_paramset *set, const void *block, enum which which)
{
    for (int64_t i = 0; i < set->count; i++) {
        const dinov_paramset_entry *e = &set->entries[i];
        if (which != ALL && (which == BACKBONE) != (e->module == 0)) continue;
        list_add(l, prefix, which == BACKBONE ? e->name + strlen("backbone.") : e->name, e->rank, e->dim, (const float *)block + e->offset);
    }
}

/* The file of state: all but the backbone's average, which is a checkpoint of its own. */
static dinov_status list_state(struct list *l, const dinov_train_state *s, dinov_error *err)
{
    DINOV_ASSERT(s->real_size == sizeof(float));
    DINOV_TRY(list_new(l, 4 * (size_t)s->set->count + DINOV_TERMS, err));
    list_block(l, "student.", s->set, s->student, ALL);
    list_block(l, "average.", s->set, s->average, HEADS);
    list_block(l, "m.", s->set, s->m, ALL);
    list_block(l, "v.", s->set, s->v, ALL);
    for (int i = 0; i < DINOV_TERMS; i++)
        if (s->center[i]) list_add(l, "center.", i == DINOV_TERM_DINO ? "dino" : "ibot", 1, &s->prototypes[i], s->center[i]);
    return DINOV_OK;
}

static dinov_status list_backbone(struct list *l, const dinov_paramset *set, const void *average, dinov_error *err)
{
    DINOV_TRY(list_new(l, (size_t)set->count, err));
    list_block(l, "", set, average, BACKBONE);
    return DINOV_OK;
}

/* Copies the tensors of a file to where `want` says; with `all`, the file has no others. */
static dinov_status fill(const struct list *want, bool all, const dinov_named_tensor *have, size_t count, const char *where, dinov_error *err)
{
    if (all && count != want->count)
        return dinov_fail(err, DINOV_ERR_SHAPE, "STATE-TENSOR", "%s: expected %zu tensors, found %zu: it is the state of another configuration", where,
                          want->count, count);
    for (size_t i = 0; i < want->count; i++) {
        const dinov_tensor *to = &want->tensors[i].tensor, *from = NULL;
        uint64_t            bytes = 0;
        for (size_t j = 0; j < count && !from; j++)
            if (strcmp(have[j].name, want->tensors[i].name) == 0) from = &have[j].tensor;
        if (!from || from->dtype != to->dtype || from->rank != to->rank || memcmp(from->dim, to->dim, (size_t)to->rank * sizeof *to->dim) != 0)
            return dinov_fail(err, DINOV_ERR_SHAPE, "STATE-TENSOR", "%s: tensor %s is missing or of another shape: it is the state of another configuration",
                              where, want->tensors[i].name);
        dinov_tensor_bytes(to, &bytes);
        memcpy((void *)(uintptr_t)to->data, from->data, bytes);
    }
    return DINOV_OK;
}

static dinov_status fill_from_state(const char *step, const struct list *want, bool all, dinov_error *err)
{
    char             path[PATH];
    dinov_state_file file;
    if (!join(path, sizeof path, step, STATE_FILE)) return dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "%s: the path is too long", step);
    DINOV_TRY(dinov_state_open(&file, path, err));
    dinov_status status = fill(want, all, file.tensors, file.count, path, err);
    dinov_state_close(&file);
    return status;
}

static dinov_status load_backbone(const char *step, const dinov_paramset *set, void *average, dinov_error *err)
{
    char              path[PATH];
    dinov_checkpoint *backbone;
    struct list       want;
    if (!join(path, sizeof path, step, DINOV_BACKBONE_FILE)) return dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "%s: the path is too long", step);
    DINOV_TRY(list_backbone(&want, set, average, err));
    dinov_status status = dinov_checkpoint_open(&backbone, path, err);
    if (status == DINOV_OK) {
        const dinov_weights *have = dinov_checkpoint_weights(backbone);
        status                    = fill(&want, true, have->tensors, have->count, path, err);
        dinov_checkpoint_close(&backbone);
    }
    list_clear(&want);
    return status;
}

dinov_status dinov_run_load(const char *step, dinov_train_state *s, dinov_error *err)
{
    struct list want;
    DINOV_TRY(list_state(&want, s, err));
    dinov_status status = fill_from_state(step, &want, true, err);
    list_clear(&want);
    return status == DINOV_OK ? load_backbone(step, s->set, s->average, err) : status;
}

dinov_status dinov_run_load_average(const char *step, const dinov_paramset *set, void *block, dinov_error *err)
{
    struct list want;
    DINOV_TRY(list_new(&want, (size_t)set->count, err));
    list_block(&want, "average.", set, block, HEADS);
    dinov_status status = fill_from_state(step, &want, false, err);
    list_clear(&want);
    return status == DINOV_OK ? load_backbone(step, set, block, err) : status;
}

/* ---- Writing ---- */

static dinov_status remove_tree(const char *path, dinov_error *err)
{
    char manifest[PATH], name[PATH + 300];
    DIR *dir = opendir(path);
    if (!dir) return errno == ENOENT ? DINOV_OK : dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot read the folder", path);
    /* The manifest goes first, for good: what is left of the folder is nothing. */
    if (join(manifest, sizeof manifest, path, DINOV_MANIFEST) && unlink(manifest) == 0) {
        dinov_status status = sync_folder(path, err);
        if (status != DINOV_OK) {
            closedir(dir);
            return status;
        }
    }
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && join(name, sizeof name, path, e->d_name)) unlink(name);
    closedir(dir);
    return rmdir(path) == 0 || errno == ENOENT ? DINOV_OK : dinov_fail_errno(err, errno, "RUN-REMOVE", "%s: cannot remove an old checkpoint", path);
}

static dinov_status prune(const char *folder, int64_t keep_last, int64_t keep_every, dinov_error *err)
{
    int64_t *steps, count;
    DINOV_TRY(list_steps(folder, &steps, &count, err));
    dinov_status status = DINOV_OK;
    for (int64_t i = keep_last < 2 ? 2 : keep_last; i < count && status == DINOV_OK; i++) {
        char path[PATH], name[32];
        if (keep_every > 0 && steps[i] % keep_every == 0) continue;
        snprintf(name, sizeof name, "step-%0*" PRId64, DIGITS, steps[i]);
        if (join(path, sizeof path, folder, name)) status = remove_tree(path, err);
    }
    dinov_free(steps);
    return status;
}

/* The averaged backbone, with golden vectors of its own, as any converted model has them. */
static dinov_status write_backbone(const struct save *save, const char *step, dinov_error *err)
{
    char          path[PATH];
    struct list   list;
    dinov_engine *engine = NULL;
    dinov_proof   proof  = {0};
    dinov_golden  cases[DINOV_GOLDEN_CASES];
    DINOV_TRY(list_backbone(&list, save->state.set, save->state.average, err));
    dinov_weights    weights    = {.model = save->model, .preprocess = save->preprocess, .tensors = list.tensors, .count = list.count};
    dinov_provenance provenance = {.source_format = "code", .converter = "dinov-train " DINOV_VERSION_STRING, .transforms = ""};
    dinov_write_options options = {.threads = save->threads, .overwrite = 1};
    join(path, sizeof path, step, DINOV_BACKBONE_FILE);
    dinov_status status = dinov_engine_open_weights(&engine, &weights, &(dinov_engine_options){.threads = 1, .isa = save->isa}, err);
    if (status == DINOV_OK) status = dinov_engine_make_proof(engine, &proof, cases, err);
    if (status == DINOV_OK) status = dinov_checkpoint_write(path, &weights, &provenance, &proof, &options, err);
    dinov_engine_free_proof(&proof);
    dinov_engine_close(&engine);
    list_clear(&list);
    return status;
}

static dinov_status write_step(const struct save *save, const char *run, dinov_error *err)
{
    char                step[PATH], name[32], path[PATH];
    dinov_manifest_file files[2];
    dinov_manifest      manifest = save->info;
    dinov_text          text     = {0};
    dinov_out          *out      = NULL;
    struct list         list;

    snprintf(name, sizeof name, "step-%0*" PRId64, DIGITS, save->info.iteration);
    if (!join(step, sizeof step, run, name) || !join(path, sizeof path, step, DINOV_MANIFEST))
        return dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "%s: the path is too long", run);
    DINOV_TRY(remove_tree(step, err)); /* what an earlier attempt left, or a damaged one */
    if (mkdir(step, 0777) != 0) return dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot make the checkpoint's folder", step);
    DINOV_TRY(write_backbone(save, step, err));
    DINOV_TRY(list_state(&list, &save->state, err));
    dinov_status status = dinov_state_write(step, STATE_FILE, list.tensors, list.count, err);
    list_clear(&list);
    DINOV_TRY(status);
    DINOV_TRY(dinov_manifest_add(&files[0], step, DINOV_BACKBONE_FILE, err));
    DINOV_TRY(dinov_manifest_add(&files[1], step, STATE_FILE, err));
    manifest.files      = files;
    manifest.file_count = 2;
    DINOV_TRY(sync_folder(run, err));
    dinov_manifest_build(&text, &manifest);
    if (text.failed) return dinov_fail_nomem(err, step, "its manifest");
    status = dinov_out_open(&out, path, 0, err);
    if (status == DINOV_OK) status = dinov_out_write(out, text.data, text.size, err);
    if (status == DINOV_OK) status = dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    dinov_text_clear(&text);
    return status;
}

static void *background(void *arg)
{
    dinov_run *run    = arg;
    run->save.status = write_step(&run->save, run->path, &run->save.err);
    if (run->save.status == DINOV_OK) run->save.status = prune(run->path, run->save.keep_last, run->save.keep_every, &run->save.err);
    return NULL;
}

dinov_status dinov_run_flush(dinov_run *run, dinov_error *err)
{
    if (!run->saving) return DINOV_OK;
    pthread_join(run->thread, NULL);
    run->saving = false;
    if (run->save.status != DINOV_OK && err) *err = run->save.err;
    return run->save.status;
}

/* Copies of everything, in memory that is kept for the next time. */
static dinov_status copy_state(struct save *save, const dinov_train_state *s, dinov_error *err)
{
    size_t block = (size_t)s->set->total * s->real_size, size = 4 * block;
    for (int i = 0; i < DINOV_TERMS; i++) size += s->center[i] ? (size_t)s->prototypes[i] * s->real_size : 0;
    if (save->size != size) {
        dinov_free(save->memory);
        save->memory = dinov_alloc_aligned(size, 1);
        save->size   = save->memory ? size : 0;
        if (!save->memory) return dinov_fail_nomem(err, "checkpoint", "a copy of the state");
    }
    char *to       = save->memory;
    save->state    = *s;
    save->state.student = memcpy(to, s->student, block);
    save->state.average = memcpy(to + block, s->average, block);
    save->state.m       = memcpy(to + 2 * block, s->m, block);
    save->state.v       = memcpy(to + 3 * block, s->v, block);
    to += 4 * block;
    for (int i = 0; i < DINOV_TERMS; i++)
        if (s->center[i]) {
            save->state.center[i] = memcpy(to, s->center[i], (size_t)s->prototypes[i] * s->real_size);
            to += (size_t)s->prototypes[i] * s->real_size;
        }
    return DINOV_OK;
}

dinov_status dinov_run_save(dinov_run *run, const dinov_train_state *state, const dinov_run_saving *saving, dinov_error *err)
{
    struct save *save = &run->save;
    DINOV_TRY(dinov_run_flush(run, err));
    DINOV_TRY(copy_state(save, state, err));
    dinov_free(save->config);
    dinov_free(save->teacher);
    save->config  = dinov_strdup(saving->info->config);
    save->teacher = dinov_strdup(saving->info->teacher);
    if (!save->config || !save->teacher) return dinov_fail_nomem(err, "checkpoint", "its configuration");
    snprintf(save->isa, sizeof save->isa, "%s", saving->info->isa);
    snprintf(save->teacher_id, sizeof save->teacher_id, "%s", saving->info->teacher_id);
    save->info = *saving->info;
    save->info.config = save->config, save->info.teacher = save->teacher, save->info.isa = save->isa, save->info.teacher_id = save->teacher_id;
    save->model      = *saving->model;
    save->preprocess = *saving->preprocess;
    save->keep_last = saving->keep_last, save->keep_every = saving->keep_every, save->threads = saving->threads;
    int reason = pthread_create(&run->thread, NULL, background, run);
    if (reason) return dinov_fail_errno(err, reason, "SYS-THREAD", "checkpoint: cannot start a thread");
    run->saving = true;
    return DINOV_OK;
}

dinov_status dinov_run_open(dinov_run **out, const char *path, dinov_run_note note, void *arg, dinov_error *err)
{
    char         name[PATH];
    dinov_status status;
    dinov_run   *run = dinov_calloc(1, sizeof *run);

    *out = NULL;
    if (!run) return dinov_fail_nomem(err, "run", "itself");
    *run = (dinov_run){.lock = -1, .metrics = -1, .note = note, .arg = arg};
    if ((size_t)snprintf(run->path, sizeof run->path, "%s", path) >= sizeof run->path - 64) {
        status = dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "the run's path is too long");
        goto fail;
    }
    if (mkdir(path, 0777) != 0 && errno != EEXIST) {
        status = dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot make the run's folder", path);
        goto fail;
    }
    join(name, sizeof name, path, ".lock");
    run->lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (run->lock < 0) {
        status = dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot write to the run's folder", path);
        goto fail;
    }
    if (flock(run->lock, LOCK_EX | LOCK_NB) != 0) {
        status = dinov_fail(err, DINOV_ERR_IO, "RUN-LOCK", "%s: another process is working on this run", path);
        goto fail;
    }
    join(name, sizeof name, path, "metrics.jsonl");
    run->metrics = open(name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (run->metrics < 0) {
        status = dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot open it", name);
        goto fail;
    }
    *out = run;
    return DINOV_OK;
fail:
    dinov_run_close(&run, NULL);
    return status;
}

dinov_status dinov_run_close(dinov_run **run, dinov_error *err)
{
    if (!run || !*run) return DINOV_OK;
    dinov_run   *r      = *run;
    dinov_status status = dinov_run_flush(r, err);
    if (r->metrics >= 0) close(r->metrics);
    if (r->lock >= 0) close(r->lock);
    dinov_free(r->save.memory);
    dinov_free(r->save.config);
    dinov_free(r->save.teacher);
    dinov_free(r);
    *run = NULL;
    return status;
}

dinov_status dinov_run_write_config(dinov_run *run, const dinov_text *yaml, dinov_error *err)
{
    char       path[PATH];
    dinov_out *out = NULL;
    if (yaml->failed) return dinov_fail_nomem(err, run->path, "its configuration");
    join(path, sizeof path, run->path, "config.yaml");
    DINOV_TRY(dinov_out_open(&out, path, 1, err));
    dinov_status status = dinov_out_write(out, yaml->data, yaml->size, err);
    if (status == DINOV_OK) status = dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    return status;
}

dinov_status dinov_run_cut_metrics(dinov_run *run, int64_t iteration, dinov_error *err)
{
    char  path[PATH], line[64];
    off_t keep = 0;
    join(path, sizeof path, run->path, "metrics.jsonl");
    FILE *f = fopen(path, "re");
    if (!f) return dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot read it", path);
    for (off_t at = 0; fgets(line, sizeof line, f);) {
        long long of;
        bool      ours = sscanf(line, "{\"iteration\": %lld", &of) == 1 && of <= iteration, ended = strchr(line, '\n') != NULL;
        at += (off_t)strlen(line);
        while (!ended && fgets(line, sizeof line, f)) {
            at += (off_t)strlen(line);
            ended = strchr(line, '\n') != NULL;
        }
        if (!ours || !ended) break;
        keep = at;
    }
    fclose(f);
    if (ftruncate(run->metrics, keep) != 0) return dinov_fail_errno(err, errno, "IO-WRITE", "%s: cannot cut it", path);
    return DINOV_OK;
}

dinov_status dinov_run_append_metrics(dinov_run *run, const char *line, dinov_error *err)
{
    size_t size = strlen(line);
    char  *copy = dinov_alloc(size + 1, 1);
    if (!copy) return dinov_fail_nomem(err, run->path, "a line of metrics");
    memcpy(copy, line, size);
    copy[size++]    = '\n';
    ssize_t written = write(run->metrics, copy, size); /* one call: a line is there or not */
    dinov_free(copy);
    if (written == (ssize_t)size) return DINOV_OK;
    return dinov_fail_errno(err, written < 0 ? errno : ENOSPC, "IO-WRITE", "%s/metrics.jsonl: cannot write", run->path);
}
