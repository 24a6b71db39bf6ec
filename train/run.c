/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* memrchr */
#include "train/run.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "dinov/infer.h"
#include "format/checkpoint.h"
#include "model/real.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG "config.yaml"
#define METRICS "metrics.jsonl"

enum { TEMP_NAME = DINOV_STEP_NAME + 8, PATH = DINOV_TRAINING_PATH };

/* What the background thread works on: copies of all it needs. */
struct save {
    dinov_train_state state; /* blocks point into `memory` */
    void             *memory;
    size_t            size;
    dinov_model       model;
    dinov_preprocess  preprocess;
    dinov_manifest    info;
    char             *config, *teacher, *teacher_id, *isa;
    int64_t           keep_last, keep_every, parts;
    int               threads;
    atomic_bool       done; /* the fields below are the calling thread's to read */
    dinov_status      status;
    dinov_error       err;
};

struct dinov_run {
    char                path[PATH], where[DINOV_ESCAPED];
    int                 folder, lock, metrics; /* descriptors */
    dinov_training_note note;
    void               *arg;
    pthread_t           thread;
    bool                saving;
    struct save         save;
    int64_t            *whole; /* iterations of checkpoints that this process wrote or has verified */
    size_t              whole_count;
};

/* ---- Lists of tensors: a state's, by the names they have in files ---- */

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

static void list_add(struct list *l, const char *prefix, const char *name, size_t real_size, int rank, const int64_t *dim,
                     const void *data)
{
    dinov_named_tensor *t     = &l->tensors[l->count];
    dinov_dtype         dtype = real_size == sizeof(float) ? DINOV_F32 : DINOV_F64;
    snprintf(l->names[l->count], sizeof *l->names, "%s%s", prefix, name);
    *t = (dinov_named_tensor){.name = l->names[l->count], .tensor = {.data = data, .dtype = dtype, .rank = rank}};
    memcpy(t->tensor.dim, dim, (size_t)rank * sizeof *dim);
    l->count++;
}

/* The tensors of a block: all, or those of the backbone (under the hub's names), or those of the heads. */
enum which { ALL, BACKBONE, HEADS };

static void list_block(struct list *l, const char *prefix, const dinov_paramset *set, size_t real_size, const void *block,
                       enum which which)
{
    for (int64_t i = 0; i < set->count; i++) {
        const dinov_paramset_entry *e = &set->entries[i];
        if (which != ALL && (which == BACKBONE) != (strncmp(e->name, "backbone.", strlen("backbone.")) == 0)) continue;
        const char *name = which == BACKBONE ? e->name + strlen("backbone.") : e->name;
        list_add(l, prefix, name, real_size, e->rank, e->dim, (const char *)block + (size_t)e->offset * real_size);
    }
}

/* The state's files hold all but the backbone's average, which is a checkpoint of its own; that one is F32, so the average of
 * doubles is here too. */
static enum which averages(const dinov_train_state *s) { return s->real_size == sizeof(float) ? HEADS : ALL; }

static dinov_status list_state(struct list *l, const dinov_train_state *s, dinov_error *err)
{
    DINOV_TRY(list_new(l, 4 * (size_t)s->set->count + DINOV_TERMS, err));
    list_block(l, "student.", s->set, s->real_size, s->student, ALL);
    list_block(l, "average.", s->set, s->real_size, s->average, averages(s));
    list_block(l, "m.", s->set, s->real_size, s->m, ALL);
    list_block(l, "v.", s->set, s->real_size, s->v, ALL);
    for (int i = 0; i < DINOV_TERMS; i++)
        if (s->center[i])
            list_add(l, "center.", i == DINOV_TERM_DINO ? "dino" : "ibot", s->real_size, 1, &s->prototypes[i], s->center[i]);
    return DINOV_OK;
}

/* ---- Loading ---- */

static dinov_status bad_tensor(const char *where, const char *name, const char *what, dinov_error *err)
{
    char path[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_SHAPE, "STATE-TENSOR", "%s: tensor %s %s: it is the state of another configuration",
                      dinov_escape(path, sizeof path, where, strlen(where)), name, what);
}

static bool same_shape(const dinov_tensor *a, const dinov_tensor *b)
{
    return a->rank == b->rank && memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim) == 0;
}

/* Fills the tensors of `want`, of reals of real_size, from those that `find` gives; floats become doubles unless `exact`. */
static dinov_status fill(const struct list *want, const dinov_tensor *(*find)(const void *from, const char *name), const void *from,
                         bool exact, size_t real_size, const char *where, dinov_error *err)
{
    for (size_t i = 0; i < want->count; i++) {
        const dinov_tensor *to = &want->tensors[i].tensor, *have = find(from, want->tensors[i].name);
        uint64_t            bytes = 0;
        if (!have) return bad_tensor(where, want->tensors[i].name, "is missing", err);
        if (!same_shape(have, to)) return bad_tensor(where, want->tensors[i].name, "has another shape", err);
        if (have->dtype != to->dtype && (exact || have->dtype != DINOV_F32))
            return bad_tensor(where, want->tensors[i].name, "has another dtype", err);
        dinov_tensor_bytes(to, &bytes);
        if (have->dtype == to->dtype)
            memcpy((void *)(uintptr_t)to->data, have->data, bytes);
        else
            dinov_to_real((void *)(uintptr_t)to->data, real_size, have->data, have->dtype, bytes / real_size);
    }
    return DINOV_OK;
}

static const dinov_tensor *find_state(const void *from, const char *name) { return dinov_training_find_tensor(from, name); }

static const dinov_tensor *find_backbone(const void *from, const char *name) { return dinov_weights_find(from, name); }

static dinov_status load_backbone(const dinov_training *from, const dinov_paramset *set, size_t real_size, void *average,
                                  bool exact, dinov_error *err)
{
    const dinov_weights *have = dinov_checkpoint_weights(dinov_training_backbone(from));
    struct list          want;
    DINOV_TRY(list_new(&want, (size_t)set->count, err));
    list_block(&want, "", set, real_size, average, BACKBONE);
    dinov_status status = fill(&want, find_backbone, have, exact, real_size, dinov_training_path(from), err);
    if (status == DINOV_OK && have->count != want.count) /* names are distinct: one is left over */
        status = bad_tensor(dinov_training_path(from), DINOV_BACKBONE_FILE, "has tensors too many", err);
    list_clear(&want);
    return status;
}

dinov_status dinov_run_load(const dinov_training *from, dinov_train_state *s, dinov_error *err)
{
    const char *where = dinov_training_path(from);
    struct list want;
    size_t      count;

    dinov_training_state(from, &count);
    DINOV_TRY(list_state(&want, s, err));
    dinov_status status = fill(&want, find_state, from, true, s->real_size, where, err);
    if (status == DINOV_OK && count != want.count) status = bad_tensor(where, "state-*", "has tensors too many", err);
    list_clear(&want);
    DINOV_TRY(status);
    s->adam_step = dinov_training_manifest(from)->adam_step;
    return averages(s) == ALL ? DINOV_OK : load_backbone(from, s->set, s->real_size, s->average, true, err);
}

dinov_status dinov_run_load_average(const dinov_training *from, const dinov_paramset *set, size_t real_size, void *block,
                                    dinov_error *err)
{
    struct list want;
    DINOV_TRY(list_new(&want, (size_t)set->count, err));
    list_block(&want, "average.", set, real_size, block, HEADS);
    dinov_status status = fill(&want, find_state, from, false, real_size, dinov_training_path(from), err);
    list_clear(&want);
    return status == DINOV_OK ? load_backbone(from, set, real_size, block, false, err) : status;
}

/* ---- Names of ours ---- */

/* Paths in a run fit: dinov_run_open has seen to it. */
static bool join(char *out, size_t size, const char *folder, const char *name)
{
    size_t a = strlen(folder), b = strlen(name);
    if (a + b + 2 > size) return false;
    memcpy(out, folder, a);
    out[a] = '/';
    memcpy(out + a + 1, name, b + 1);
    return true;
}

static const char *temporary_name(char out[TEMP_NAME], int64_t iteration)
{
    char step[DINOV_STEP_NAME];
    snprintf(out, TEMP_NAME, ".%s.tmp", dinov_step_name(step, iteration));
    return out;
}

static bool is_temporary_step(const char *name)
{
    char    step[DINOV_STEP_NAME];
    int64_t iteration;
    size_t  length = strlen("step-000000000");
    if (name[0] != '.' || strlen(name) != 1 + length + strlen(".tmp")) return false;
    snprintf(step, sizeof step, "%.*s", (int)length, name + 1);
    return dinov_step_parse(step, &iteration) && strcmp(name + 1 + length, ".tmp") == 0;
}

/* STEM of what base/file.c writes before it renames, "STEM.tmp-PID-COUNT"; the whole name otherwise. */
static size_t stem_of(const char *name)
{
    const char *end = strstr(name, ".tmp-");
    int         all = 0;
    if (!end || sscanf(end, ".tmp-%*[0-9]-%*[0-9]%n", &all) != 0 || all == 0 || end[all]) return strlen(name);
    return (size_t)(end - name);
}

static bool is_named(const char *name, size_t size, const char *what)
{
    return strlen(what) == size && memcmp(name, what, size) == 0;
}

/* The files a checkpoint is made of, finished or not. */
static bool is_file_of_step(const char *name)
{
    size_t size = stem_of(name);
    return is_named(name, size, DINOV_MANIFEST) || is_named(name, size, DINOV_BACKBONE_FILE) ||
           (size > 18 && strncmp(name, "state-", 6) == 0 && is_named(name + size - 12, 12, ".safetensors"));
}

/* ---- Removing ---- */

/* Removes the folder of a step that is to be no more, the manifest first and for good: what is left of it then is nothing. Files
 * that are not ours stay, and the folder with them. */
static void remove_step(int run, const char *name)
{
    int fd = openat(run, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return;
    if (unlinkat(fd, DINOV_MANIFEST, 0) == 0 && fsync(fd) != 0) {
        close(fd);
        return;
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));)
        if (is_file_of_step(e->d_name)) unlinkat(fd, e->d_name, 0);
    closedir(dir);
    unlinkat(run, name, AT_REMOVEDIR);
}

/* What a process that was killed left: folders without a manifest, temporary files. Nothing else. */
static void clean(int run)
{
    int  fd  = openat(run, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0) close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        const char *name = e->d_name;
        char        manifest[PATH];
        int64_t     iteration;
        size_t      stem = stem_of(name);
        if (is_temporary_step(name))
            remove_step(run, name);
        else if (dinov_step_parse(name, &iteration) && join(manifest, sizeof manifest, name, DINOV_MANIFEST) &&
                 faccessat(run, manifest, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
            remove_step(run, name);
        else if (stem < strlen(name) && (is_named(name, stem, CONFIG) || strncmp(name, "replay-", 7) == 0) &&
                 dinov_folder_has(run, name, false))
            unlinkat(run, name, 0);
    }
    closedir(dir);
}

static bool is_whole(const dinov_run *run, int64_t iteration)
{
    for (size_t i = 0; i < run->whole_count; i++)
        if (run->whole[i] == iteration) return true;
    return false;
}

/* Without memory it is verified again another time. */
static void remember_whole(dinov_run *run, int64_t iteration)
{
    int64_t *more = is_whole(run, iteration) ? NULL : dinov_realloc(run->whole, run->whole_count + 1, sizeof *more);
    if (!more) return;
    run->whole                     = more;
    run->whole[run->whole_count++] = iteration;
}

/* Whether a checkpoint that is to stay is whole. */
static bool prove_whole(dinov_run *run, int64_t iteration)
{
    char            path[PATH], name[DINOV_STEP_NAME];
    dinov_training *t;
    if (is_whole(run, iteration)) return true;
    if (!join(path, sizeof path, run->path, dinov_step_name(name, iteration)) || dinov_training_open(&t, path, NULL) != DINOV_OK)
        return false;
    bool whole =
        dinov_training_manifest(t)->iteration == iteration && dinov_training_verify(t, run->save.threads, NULL) == DINOV_OK;
    dinov_training_close(&t);
    if (whole) remember_whole(run, iteration);
    return whole;
}

/* Deletes checkpoints that are older than enough whole ones. Damaged ones among those do not count, and stay to be looked at.
 * What cannot be done now is done after the next save. */
static void prune(dinov_run *run)
{
    const struct save *save = &run->save;
    int64_t            keep = save->keep_last < 2 ? 2 : save->keep_last, kept = 0;
    int64_t           *steps;
    size_t             count;
    if (dinov_steps_list(&steps, &count, run->path, NULL) != DINOV_OK) return;
    for (size_t i = 0; i < count && (int64_t)count > keep; i++) {
        char name[DINOV_STEP_NAME];
        if (kept < keep)
            kept += prove_whole(run, steps[i]);
        else if (save->keep_every <= 0 || steps[i] % save->keep_every != 0)
            remove_step(run->folder, dinov_step_name(name, steps[i]));
    }
    dinov_free(steps);
}

/* ---- Writing ---- */

/* The averaged backbone, with golden vectors of its own, as any converted model has them. */
static dinov_status write_backbone(const struct save *save, const dinov_weights *weights, const char *path,
                                   dinov_manifest_file *file, dinov_error *err)
{
    char                  origin[64];
    dinov_error           why;
    dinov_engine         *engine = NULL;
    dinov_proof           proof  = {0};
    dinov_checkpoint_made made   = {0};
    dinov_golden          cases[DINOV_GOLDEN_CASES];
    bool                  floats = save->state.real_size == sizeof(float);

    dinov_engine_options how        = {.threads = save->threads, .isa = floats ? save->isa : NULL};
    dinov_write_options  options    = {.threads = save->threads};
    dinov_provenance     provenance = {
            .source_format = "training", .converter = "dinov-train " DINOV_VERSION_STRING, .transforms = "average", .origin = origin};
    snprintf(origin, sizeof origin, "step %" PRId64, save->info.iteration);
    DINOV_TRY(dinov_engine_open_weights(&engine, weights, &how, err));
    dinov_status status = dinov_engine_make_proof(engine, &proof, cases, &why);
    dinov_engine_close(&engine);
    /* A state is worth keeping also when the model of this moment computes nonsense. */
    if (status == DINOV_OK || status == DINOV_ERR_CORRUPT)
        status = dinov_checkpoint_make(path, weights, &provenance, &proof, &options, &made, err);
    else if (err)
        *err = why;
    dinov_engine_free_proof(&proof);
    file->header = made.header;
    return status;
}

static dinov_status make_backbone(const struct save *save, const char *path, dinov_manifest_file *file, dinov_error *err)
{
    const dinov_paramset *set    = save->state.set;
    const void           *block  = save->state.average;
    float                *floats = NULL;
    struct list           list;

    if (save->state.real_size != sizeof(float)) {
        floats = dinov_alloc_aligned((size_t)set->total, sizeof *floats);
        if (!floats) return dinov_fail_nomem(err, "checkpoint", "its backbone");
        for (int64_t i = 0; i < set->total; i++) floats[i] = (float)((const double *)block)[i];
        block = floats;
    }
    dinov_status status = list_new(&list, (size_t)set->count, err);
    if (status == DINOV_OK) {
        list_block(&list, "", set, sizeof(float), block, BACKBONE);
        dinov_weights weights = {
            .model = save->model, .preprocess = save->preprocess, .tensors = list.tensors, .count = list.count};
        status = write_backbone(save, &weights, path, file, err);
        list_clear(&list);
    }
    dinov_free(floats);
    return status;
}

/* Part by part, so that a rank could write its own. */
static dinov_status make_state(const struct save *save, const char *step, dinov_manifest_file *files, dinov_error *err)
{
    struct list                list;
    const dinov_named_tensor **sorted;
    dinov_named_tensor        *share;

    DINOV_TRY(list_state(&list, &save->state, err));
    sorted              = dinov_alloc(list.count, sizeof *sorted);
    share               = dinov_alloc(list.count, sizeof *share);
    dinov_status status = sorted && share ? DINOV_OK : dinov_fail_nomem(err, "checkpoint", "the list of tensors");
    for (size_t i = 0; i < list.count && status == DINOV_OK; i++) sorted[i] = &list.tensors[i];
    if (status == DINOV_OK) status = dinov_table_sort_names(sorted, list.count, "checkpoint", err);
    for (int64_t part = 0; part < save->parts && status == DINOV_OK; part++) {
        dinov_state_info info = {save->info.iteration, part, save->parts};
        char             path[PATH], name[DINOV_MANIFEST_NAME];
        size_t           first, count;
        dinov_state_share(sorted, list.count, part, save->parts, &first, &count);
        for (size_t i = 0; i < count; i++) share[i] = *sorted[first + i];
        join(path, sizeof path, step, dinov_manifest_file_name(name, (size_t)part + 1));
        status = dinov_state_write(path, &info, share, count, save->threads, &files[part].header, err);
    }
    dinov_free(sorted);
    dinov_free(share);
    list_clear(&list);
    return status;
}

static dinov_status make_manifest(const dinov_manifest *manifest, const char *path, dinov_error *err)
{
    dinov_text text = {0};
    dinov_out *out  = NULL;
    dinov_manifest_build(&text, manifest);
    dinov_status status = text.failed ? dinov_fail_nomem(err, path, "its manifest") : dinov_out_open(&out, path, 0, err);
    if (status == DINOV_OK) status = dinov_out_write(out, text.data, text.size, err);
    if (status == DINOV_OK) status = dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    dinov_text_clear(&text);
    return status;
}

/* Everything of a checkpoint into the folder `step`, the manifest last. */
static dinov_status fill_step(dinov_run *run, const char *step, dinov_manifest_file *files, dinov_error *err)
{
    const struct save *save     = &run->save;
    dinov_manifest     manifest = save->info;
    char               path[PATH], name[DINOV_MANIFEST_NAME];
    struct stat        st;

    join(path, sizeof path, step, dinov_manifest_file_name(name, 0));
    DINOV_TRY(make_backbone(save, path, &files[0], err));
    DINOV_TRY(make_state(save, step, files + 1, err));
    for (size_t i = 0; i < (size_t)save->parts + 1; i++) {
        join(path, sizeof path, step, dinov_manifest_file_name(name, i));
        if (stat(path, &st) != 0) return dinov_fail_errno(err, errno, "IO-OPEN", "%s: cannot read its size", run->where);
        files[i].bytes = (uint64_t)st.st_size;
    }
    /* Lines up to this step are to be there when it is. */
    if (fdatasync(run->metrics) != 0) return dinov_fail_errno(err, errno, "IO-SYNC", "%s/" METRICS ": cannot sync", run->where);
    manifest.files      = files;
    manifest.file_count = (size_t)save->parts + 1;
    join(path, sizeof path, step, DINOV_MANIFEST);
    return make_manifest(&manifest, path, err);
}

/* Under a temporary name, which it loses when it is whole and on the disk. */
static dinov_status write_step(dinov_run *run, dinov_error *err)
{
    char                 temporary[TEMP_NAME], step[DINOV_STEP_NAME], path[PATH];
    int64_t              iteration = run->save.info.iteration;
    dinov_manifest_file *files     = dinov_calloc((size_t)run->save.parts + 1, sizeof *files);

    if (!files) return dinov_fail_nomem(err, run->where, "the list of files");
    dinov_step_name(step, iteration);
    join(path, sizeof path, run->path, temporary_name(temporary, iteration));
    remove_step(run->folder, temporary); /* of an earlier save that failed */
    dinov_status status = DINOV_OK;
    if (mkdirat(run->folder, temporary, 0777) != 0)
        status = dinov_fail_errno(err, errno, "IO-CREATE", "%s/%s: cannot make the checkpoint's folder", run->where, temporary);
    if (status == DINOV_OK) status = fill_step(run, path, files, err);
    dinov_free(files);
    if (status == DINOV_OK) {
        remove_step(run->folder, step); /* a damaged one that was passed over, or this very one */
        if (renameat(run->folder, temporary, run->folder, step) != 0)
            status = dinov_fail_errno(err, errno, "IO-RENAME", "%s/%s: cannot give the checkpoint its name", run->where, step);
    }
    if (status == DINOV_OK) status = dinov_folder_sync(run->path, err);
    if (status != DINOV_OK) remove_step(run->folder, temporary);
    return status;
}

static void *background(void *arg)
{
    dinov_run   *run  = arg;
    struct save *save = &run->save;
    save->status      = write_step(run, &save->err);
    if (save->status == DINOV_OK) {
        remember_whole(run, save->info.iteration);
        prune(run);
    }
    atomic_store(&save->done, true);
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

dinov_status dinov_run_poll(dinov_run *run, dinov_error *err)
{
    return run->saving && atomic_load(&run->save.done) ? dinov_run_flush(run, err) : DINOV_OK;
}

/* ---- Copying ---- */

static size_t state_size(const dinov_train_state *s)
{
    size_t size = 4 * (size_t)s->set->total * s->real_size;
    for (int i = 0; i < DINOV_TERMS; i++) size += s->center[i] ? (size_t)s->prototypes[i] * s->real_size : 0;
    return size;
}

dinov_status dinov_run_reserve(dinov_run *run, const dinov_train_state *state, dinov_error *err)
{
    struct save *save = &run->save;
    size_t       size = state_size(state);
    DINOV_ASSERT(!run->saving);
    if (save->size == size) return DINOV_OK;
    dinov_free(save->memory);
    save->memory = dinov_alloc_aligned(size, 1);
    save->size   = save->memory ? size : 0;
    if (save->memory) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "checkpoint: out of memory for a copy of the state, %zu MiB", size >> 20);
}

static void *copy_block(char **to, const void *block, size_t size)
{
    void *copy = memcpy(*to, block, size);
    *to += size;
    return copy;
}

static void copy_state(struct save *save, const dinov_train_state *s)
{
    char  *to           = save->memory;
    size_t block        = (size_t)s->set->total * s->real_size;
    save->state         = *s;
    save->state.student = copy_block(&to, s->student, block);
    save->state.average = copy_block(&to, s->average, block);
    save->state.m       = copy_block(&to, s->m, block);
    save->state.v       = copy_block(&to, s->v, block);
    for (int i = 0; i < DINOV_TERMS; i++)
        if (s->center[i]) save->state.center[i] = copy_block(&to, s->center[i], (size_t)s->prototypes[i] * s->real_size);
}

static dinov_status copy_text(char **out, const char **view, const char *text, dinov_error *err)
{
    dinov_free(*out);
    *view = *out = dinov_strdup(text);
    return *out ? DINOV_OK : dinov_fail_nomem(err, "checkpoint", "what its manifest holds");
}

dinov_status dinov_run_save(dinov_run *run, const dinov_train_state *state, const dinov_run_saving *saving, dinov_error *err)
{
    struct save *save = &run->save;
    sigset_t     all, before;

    DINOV_TRY(dinov_run_flush(run, err));
    DINOV_TRY(dinov_manifest_check(saving->info, run->where, err));
    DINOV_TRY(dinov_run_reserve(run, state, err));
    save->info = *saving->info;
    DINOV_TRY(copy_text(&save->config, &save->info.config, saving->info->config, err));
    DINOV_TRY(copy_text(&save->teacher, &save->info.teacher, saving->info->teacher, err));
    DINOV_TRY(copy_text(&save->teacher_id, &save->info.teacher_id, saving->info->teacher_id, err));
    DINOV_TRY(copy_text(&save->isa, &save->info.isa, saving->info->isa, err));
    copy_state(save, state);
    save->model      = *saving->model;
    save->preprocess = *saving->preprocess;
    save->keep_last = saving->keep_last, save->keep_every = saving->keep_every, save->threads = saving->threads;
    save->parts = saving->parts ? saving->parts : 1;
    atomic_store(&save->done, false);

    /* Signals are for the threads that the program knows of. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int reason = pthread_create(&run->thread, NULL, background, run);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (reason) return dinov_fail_errno(err, reason, "SYS-THREAD", "checkpoint: cannot start a thread");
    run->saving = true;
    return DINOV_OK;
}

/* ---- The run ---- */

static dinov_status take_lock(dinov_run *run, dinov_error *err)
{
    char    owner[64] = "";
    ssize_t size;
    run->lock = openat(run->folder, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (run->lock < 0) return dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot write to the run's folder", run->where);
    if (flock(run->lock, LOCK_EX | LOCK_NB) == 0) {
        int length = snprintf(owner, sizeof owner, "%ld\n", (long)getpid());
        if (ftruncate(run->lock, 0) != 0 || pwrite(run->lock, owner, (size_t)length, 0) != length) errno = 0; /* for people only */
        return DINOV_OK;
    }
    if (errno != EWOULDBLOCK) return dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot lock the run", run->where);
    size     = pread(run->lock, owner, sizeof owner - 1, 0);
    long pid = size > 0 ? strtol(owner, NULL, 10) : 0;
    return dinov_fail(err, DINOV_ERR_IO, "RUN-LOCK",
                      "%s: another process (%ld) is working on this run; wait for it, or give another folder", run->where, pid);
}

/* A folder that was made is there after a power cut too. */
static dinov_status make_folder(const char *path, const char *where, dinov_error *err)
{
    char parent[PATH];
    if (mkdir(path, 0777) != 0)
        return errno == EEXIST ? DINOV_OK : dinov_fail_errno(err, errno, "RUN-OPEN", "%s: cannot make the run's folder", where);
    if (!join(parent, sizeof parent, path, "..")) return DINOV_OK;
    return dinov_folder_sync(parent, err);
}

dinov_status dinov_run_open(dinov_run **out, const char *path, dinov_training_note note, void *arg, dinov_error *err)
{
    dinov_status status;
    dinov_run   *run = dinov_calloc(1, sizeof *run);

    *out = NULL;
    if (!run) return dinov_fail_nomem(err, "run", "itself");
    *run = (dinov_run){.folder = -1, .lock = -1, .metrics = -1, .note = note, .arg = arg};
    dinov_escape(run->where, sizeof run->where, path, strlen(path));
    if ((size_t)snprintf(run->path, sizeof run->path, "%s", path) >= sizeof run->path - 128) { /* room for names in it */
        status = dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "%s: the run's path is too long", run->where);
        goto fail;
    }
    DINOV_TRY_GOTO(make_folder(path, run->where, err));
    DINOV_TRY_GOTO(dinov_folder_open(&run->folder, path, err));
    DINOV_TRY_GOTO(take_lock(run, err));
    clean(run->folder);
    run->metrics = openat(run->folder, METRICS, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (run->metrics < 0) {
        status = dinov_fail_errno(err, errno, "RUN-OPEN", "%s/" METRICS ": cannot open it", run->where);
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
    if (r->folder >= 0) close(r->folder);
    dinov_free(r->save.memory);
    dinov_free(r->save.config);
    dinov_free(r->save.teacher);
    dinov_free(r->save.teacher_id);
    dinov_free(r->save.isa);
    dinov_free(r->whole);
    dinov_free(r);
    *run = NULL;
    return status;
}

dinov_status dinov_run_resume(dinov_run *run, dinov_training **out, int threads, dinov_error *err)
{
    const dinov_find_options how = {.verify = 1, .threads = threads, .note = run->note, .arg = run->arg};
    DINOV_TRY(dinov_training_newest(out, run->path, &how, err));
    if (*out) remember_whole(run, dinov_training_manifest(*out)->iteration);
    return DINOV_OK;
}

/* ---- The files beside ---- */

dinov_status dinov_run_write_config(dinov_run *run, const dinov_text *yaml, dinov_error *err)
{
    char       path[PATH];
    dinov_out *out = NULL;
    if (yaml->failed) return dinov_fail_nomem(err, run->where, "its configuration");
    join(path, sizeof path, run->path, CONFIG);
    DINOV_TRY(dinov_out_open(&out, path, 1, err));
    dinov_status status = dinov_out_write(out, yaml->data, yaml->size, err);
    if (status == DINOV_OK) status = dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    return status;
}

/* The iteration of a line, or a negative number for what is none. */
static int64_t iteration_of(const char *line, size_t size)
{
    static const char begin[] = "{\"iteration\": ";
    char              digits[20];
    size_t            at = sizeof begin - 1, count = 0;
    if (size < at || memcmp(line, begin, at) != 0) return -1;
    while (at < size && count + 1 < sizeof digits && line[at] >= '0' && line[at] <= '9') digits[count++] = line[at++];
    digits[count] = '\0';
    return count ? strtoll(digits, NULL, 10) : -1;
}

dinov_status dinov_run_cut_metrics(dinov_run *run, int64_t iteration, dinov_error *err)
{
    char      where[DINOV_ESCAPED + sizeof METRICS];
    dinov_map map;
    size_t    keep;

    snprintf(where, sizeof where, "%s/" METRICS, run->where);
    DINOV_TRY(dinov_map_open_in(&map, run->folder, METRICS, where, err));
    /* Lines come in order, so those to cut are the last ones: a line without an end, one that a power cut left empty, later steps.
     */
    for (keep = map.size; keep > 0;) {
        const char *text = (const char *)map.data, *before = memrchr(text, '\n', keep - 1);
        size_t      begin = before ? (size_t)(before - text) + 1 : 0;
        int64_t     of    = iteration_of(text + begin, keep - begin);
        if (text[keep - 1] == '\n' && of >= 0 && of <= iteration) break;
        keep = begin;
    }
    bool longer = keep < map.size;
    dinov_map_close(&map);
    if (longer && ftruncate(run->metrics, (off_t)keep) != 0)
        return dinov_fail_errno(err, errno, "IO-WRITE", "%s: cannot cut it", where);
    return DINOV_OK;
}

dinov_status dinov_run_append_metrics(dinov_run *run, const char *line, dinov_error *err)
{
    size_t size = strlen(line);
    off_t  end  = lseek(run->metrics, 0, SEEK_END);
    char  *copy = dinov_alloc(size + 1, 1);
    if (!copy) return dinov_fail_nomem(err, run->where, "a line of metrics");
    memcpy(copy, line, size);
    copy[size++]    = '\n';
    ssize_t written = write(run->metrics, copy, size);
    int     reason  = written < 0 ? errno : ENOSPC;
    dinov_free(copy);
    if (written == (ssize_t)size) return DINOV_OK;
    if (end < 0 || ftruncate(run->metrics, end) != 0) end = 0; /* half a line would be cut at the next start too */
    return dinov_fail_errno(err, reason, "IO-WRITE", "%s/" METRICS ": cannot write", run->where);
}
