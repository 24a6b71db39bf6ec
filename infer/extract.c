/* SPDX-License-Identifier: Apache-2.0
 *
 * A window is a run of consecutive inputs small enough to keep in memory: prepared in parallel,
 * grouped by equal size, run, written. Its length may depend on the number of threads; nothing that
 * is written does, because the engine's results do not depend on how pictures are batched.
 *
 * On a CPU a window goes through all of that before the next begins: preparing and running share the cores.
 * On devices windows follow each other: while some are run, the next is prepared and the one before is written.
 */
#include "infer/extract.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "base/bytes.h"
#include "base/pool.h"
#include "infer/prepare.h"
#include "infer/result.h"
#include "infer/settings.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { CLS, MEAN, REG, PATCH, FEATURES };

enum {
    WINDOW_BYTES   = 256 << 20, /* of inputs and features, beyond what one round of threads adds */
    ALL_BAD_INPUTS = 1000,
    CONVERT_VALUES = 1 << 14,
};

/* A file of one feature of one layer. */
struct output {
    dinov_npy_out file;
    int           layer, feature; /* index into layers; CLS..PATCH */
};

/* Inputs of one size that went through the engine together. */
struct group {
    float         *pixels;  /* [count, channels, height, width], or */
    dinov_decoded *decoded; /* [count] */
    float         *block;   /* all features */
    dinov_features features[DINOV_MAX_LAYERS];
    int64_t        from, count; /* the first of its items */
};

enum stage { FREE, PREPARED, RAN };

struct window {
    dinov_item   *items;       /* [room] */
    int64_t       first, held; /* index of items[0], how many are held */
    struct group *groups;
    int64_t       group_count;
    enum stage    stage;
};

struct run {
    const dinov_extract_options *options;
    const dinov_source          *source; /* NULL for .npy input */
    const char                  *array_path;
    dinov_engine                *engine;
    const dinov_model           *model;
    dinov_pool                  *pool;
    int                          layers[DINOV_MAX_LAYERS]; /* 0..depth-1 */
    bool                         fixed;                    /* all inputs have one size */
    int64_t                      fixed_w, fixed_h;

    dinov_map map;
    dinov_npy array;

    dinov_prepare  prepare;
    int            jpeg_count;
    int64_t        room;    /* of a window, in inputs */
    struct window *windows; /* [depth]: number k is windows[k % depth] */
    int            depth;
    int64_t        taken; /* inputs in windows so far */

    /* Where windows are, when several are under way. */
    pthread_mutex_t lock;
    pthread_cond_t  moved;
    int64_t         window_count; /* -1 until the last is prepared */
    dinov_status    status;       /* of the first failure, which ends all stages */
    dinov_error     why;

    dinov_result   result;
    struct output *outputs;
    int            output_count;
    dinov_npy_out  input, input_offsets, offsets, index;
    dinov_out     *keys;

    int64_t                rows, tokens, input_values, key_bytes, total;
    dinov_extract_report  *report;
    dinov_extract_progress progress;
    double                 started, busy_before; /* of the engine's devices */
    _Atomic int64_t        preparing;            /* nanoseconds of all threads */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool stopped(const struct run *r) { return r->options->stop && atomic_load(r->options->stop); }

static dinov_status fail_stopped(dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_LIMIT, "RUN-STOPPED", "stopped by a signal; nothing was kept, the same command starts again");
}

/* ---- Keys ---- */

/* The name of input i: its path, "SHARD:MEMBER", or for .npy input "FILE#i". Returns its size; `text` may be too small. */
static size_t key_of(const struct run *r, int64_t i, char *text, size_t size)
{
    const char *member;
    if (!r->source) return (size_t)snprintf(text, size, "%s#%lld", r->array_path, (long long)i);
    const char *path = dinov_source_path(r->source, i, &member);
    return (size_t)snprintf(text, size, "%s%s%s", path, member ? ":" : "", member ? member : "");
}

/* ---- Preparing ---- */

struct round {
    struct run    *run;
    struct window *window;
    int64_t        first; /* item */
};

static void prepare(void *arg, int64_t block, int worker)
{
    struct round *round = arg;
    struct run   *r     = round->run;
    double        begun = now();

    if (stopped(r)) return; /* whoever asked for the round looks too */
    dinov_item_prepare(&round->window->items[round->first + block], &r->prepare, round->window->first + round->first + block,
                       worker);
    atomic_fetch_add(&r->preparing, (int64_t)(1e9 * (now() - begun)));
}

/* ---- The model ---- */

/* Floats of feature f of one picture of that grid; 0 for a feature that was not asked for. */
static int64_t feature_size(const struct run *r, int feature, int64_t gw, int64_t gh)
{
    const dinov_extract_options *o = r->options;
    switch (feature) {
    case CLS:
        return o->cls ? r->model->dim : 0;
    case MEAN:
        return o->mean ? r->model->dim : 0;
    case REG:
        return o->reg ? r->model->registers * r->model->dim : 0;
    default:
        return o->patch ? gw * gh * r->model->dim : 0;
    }
}

static int64_t picture_floats(const struct run *r, const dinov_index_record *record)
{
    int64_t floats = 0;
    for (int f = 0; f < FEATURES; f++) floats += feature_size(r, f, record->grid_w, record->grid_h);
    return floats * r->options->layer_count + r->model->channels * record->input_width * record->input_height;
}

static float **feature_slot(dinov_features *features, int feature)
{
    float **slots[FEATURES] = {
        [CLS] = &features->cls, [MEAN] = &features->mean, [REG] = &features->reg, [PATCH] = &features->patch};
    return slots[feature];
}

/* Gathers up to a batch of items of the size of item `from` and makes room for their features. */
static dinov_status form_group(struct run *r, struct window *w, int64_t from, dinov_error *err)
{
    const dinov_index_record *size  = &w->items[from].record;
    struct group             *group = &w->groups[w->group_count++];
    int64_t                   block = 0;

    *group = (struct group){.from = from};
    for (int64_t i = from; i < w->held && group->count < r->options->batch; i++) {
        dinov_item *item = &w->items[i];
        if (!item->ready || item->group >= 0 || item->record.input_width != size->input_width ||
            item->record.input_height != size->input_height)
            continue;
        item->group = w->group_count - 1;
        item->place = group->count++;
    }
    for (int f = 0; f < FEATURES; f++) block += feature_size(r, f, size->grid_w, size->grid_h);
    block *= group->count;
    group->block = dinov_alloc((size_t)(block * r->options->layer_count), sizeof(float));
    if (!group->block) return dinov_fail_nomem(err, "batch", "its features");
    float *next = group->block;
    for (int l = 0; l < r->options->layer_count; l++) {
        group->features[l] = (dinov_features){.layer = r->layers[l], .no_norm = r->options->no_norm};
        for (int f = 0; f < FEATURES; f++) {
            int64_t floats = feature_size(r, f, size->grid_w, size->grid_h) * group->count;
            if (floats) *feature_slot(&group->features[l], f) = next;
            next += floats;
        }
    }
    return DINOV_OK;
}

/* The group's pixels side by side, moved out of its items. */
static dinov_status gather_pixels(const struct run *r, struct window *w, struct group *group, dinov_error *err)
{
    const dinov_index_record *size = &w->items[group->from].record;
    int64_t                   area = r->model->channels * size->input_width * size->input_height, g = group - w->groups;

    group->pixels = dinov_alloc((size_t)(area * group->count), sizeof(float));
    if (!group->pixels) return dinov_fail_nomem(err, "batch", "its pixels");
    for (int64_t i = group->from; i < w->held; i++) {
        dinov_item *item = &w->items[i];
        if (!item->ready || item->group != g) continue;
        memcpy(group->pixels + item->place * area, item->pixels, (size_t)area * sizeof(float));
        dinov_item_clear(item);
    }
    return DINOV_OK;
}

static dinov_status gather_decoded(struct window *w, struct group *group, dinov_error *err)
{
    group->decoded = dinov_alloc((size_t)group->count, sizeof *group->decoded);
    if (!group->decoded) return dinov_fail_nomem(err, "batch", "its pictures");
    for (int64_t i = group->from; i < w->held; i++) {
        const dinov_item *item = &w->items[i];
        if (item->ready && item->group == group - w->groups)
            group->decoded[item->place] = (dinov_decoded){item->image.pixels, item->image.width, &item->plan};
    }
    return DINOV_OK;
}

static dinov_status run_group(struct run *r, struct window *w, struct group *group, dinov_error *err)
{
    const dinov_index_record *size   = &w->items[group->from].record;
    size_t                    layers = (size_t)r->options->layer_count;
    if (!r->prepare.decoded) {
        DINOV_TRY(gather_pixels(r, w, group, err));
        return dinov_engine_run(r->engine, group->pixels, group->count, size->input_height, size->input_width, group->features,
                                layers, err);
    }
    DINOV_TRY(gather_decoded(w, group, err));
    DINOV_TRY(dinov_engine_run_decoded(r->engine, group->decoded, group->count, size->input_height, size->input_width,
                                       group->features, layers, err));
    for (int64_t i = group->from; i < w->held; i++)
        if (w->items[i].ready && w->items[i].group == group - w->groups) dinov_item_clear(&w->items[i]);
    return DINOV_OK;
}

static void clear_window(struct window *w)
{
    for (int64_t i = 0; i < w->held; i++) dinov_item_clear(&w->items[i]);
    for (int64_t g = 0; g < w->group_count; g++) {
        dinov_free(w->groups[g].pixels);
        dinov_free(w->groups[g].decoded);
        dinov_free(w->groups[g].block);
    }
    w->held = w->group_count = 0;
}

/* ---- Writing ---- */

/* `key` is the name of the input, for a message. */
static dinov_status append_floats(struct run *r, dinov_npy_out *file, const float *values, int64_t count, int64_t rows,
                                  const char *key, dinov_error *err)
{
    char shown[DINOV_ESCAPED];
    if (!r->options->f16) return dinov_npy_append(file, values, (size_t)count * sizeof *values, rows, err);
    for (int64_t i = 0; i < count; i += CONVERT_VALUES) {
        uint8_t half[2 * CONVERT_VALUES];
        int64_t n = count - i < CONVERT_VALUES ? count - i : CONVERT_VALUES;
        for (int64_t j = 0; j < n; j++) {
            uint16_t h = dinov_f16_of(values[i + j]);
            if ((h & 0x7fff) == 0x7c00 && isfinite(values[i + j]))
                return dinov_fail(err, DINOV_ERR_LIMIT, "RUN-F16",
                                  "%s: a feature of %g does not fit into f16, whose largest value is 65504; use --store f32",
                                  dinov_escape(shown, sizeof shown, key, strlen(key)), (double)values[i + j]);
            dinov_put_le16(half + 2 * j, h);
        }
        DINOV_TRY(dinov_npy_append(file, half, (size_t)n * 2, 0, err));
    }
    return dinov_npy_append(file, values, 0, rows, err);
}

static dinov_status append_offset(dinov_npy_out *file, int64_t value, dinov_error *err)
{
    uint8_t bytes[8];
    dinov_put_le64(bytes, (uint64_t)value);
    return dinov_npy_append(file, bytes, sizeof bytes, 1, err);
}

static dinov_status write_features(struct run *r, const struct window *w, const dinov_item *item, const char *key, dinov_error *err)
{
    const struct group *group = &w->groups[item->group];
    int64_t             grid  = (int64_t)item->record.grid_w * item->record.grid_h;

    for (int i = 0; i < r->output_count; i++) {
        struct output *o      = &r->outputs[i];
        dinov_features slots  = group->features[o->layer];
        int64_t        floats = feature_size(r, o->feature, item->record.grid_w, item->record.grid_h);
        int64_t        rows   = o->feature == PATCH && !r->fixed ? grid : 1;
        DINOV_TRY(append_floats(r, &o->file, *feature_slot(&slots, o->feature) + item->place * floats, floats, rows, key, err));
    }
    if (r->offsets.file) DINOV_TRY(append_offset(&r->offsets, r->tokens += grid, err));
    if (r->input.file) {
        int64_t values = r->model->channels * item->record.input_width * item->record.input_height;
        DINOV_TRY(dinov_npy_append(&r->input, group->pixels + item->place * values, (size_t)values * sizeof(float),
                                   r->fixed ? 1 : values, err));
        if (r->input_offsets.file) DINOV_TRY(append_offset(&r->input_offsets, r->input_values += values, err));
    }
    return DINOV_OK;
}

static dinov_status write_item(struct run *r, const struct window *w, dinov_item *item, int64_t index, dinov_error *err)
{
    uint8_t      record[DINOV_INDEX_RECORD];
    size_t       size = key_of(r, index, NULL, 0);
    char        *key  = dinov_alloc(size + 2, 1);
    dinov_status status;

    if (!key) return dinov_fail_nomem(err, "index", "a key");
    key_of(r, index, key, size + 1);
    if (item->status != DINOV_OK && r->options->bad) r->options->bad(r->options->arg, key, item->record.status, &item->why);
    item->record.key_offset = (uint64_t)r->key_bytes;
    item->record.key_size   = (uint32_t)size;
    r->key_bytes += (int64_t)size + 1;
    if (item->status == DINOV_OK) {
        item->record.row = r->rows++;
        DINOV_TRY_GOTO(write_features(r, w, item, key, err));
    }
    r->report->count[item->record.status]++;
    r->report->by_device += item->by_device;
    dinov_index_put(record, &item->record);
    DINOV_TRY_GOTO(dinov_npy_append(&r->index, record, sizeof record, 1, err));
    key[size] = '\n';
    status    = dinov_out_write(r->keys, key, size + 1, err);
fail:
    dinov_free(key);
    return status;
}

/* ---- One window ---- */

/* Rounds are wide enough that threads seldom wait for the slowest picture of one. */
static dinov_status prepare_window(struct run *r, struct window *w, dinov_error *err)
{
    int64_t wide = (r->prepare.decoded ? 32 : 2) * dinov_pool_threads(r->pool), bytes = 0;

    w->first = r->taken;
    while (w->held < r->room && w->first + w->held < r->total && bytes < WINDOW_BYTES) {
        struct round round = {r, w, w->held};
        int64_t      count = r->total - w->first - w->held;
        if (count > wide) count = wide;
        if (count > r->room - w->held) count = r->room - w->held;
        dinov_pool_run(r->pool, count, prepare, &round);
        w->held += count;
        for (int64_t i = w->held - count; i < w->held; i++) {
            dinov_item *item = &w->items[i];
            /* Out of memory, an option the model refuses or a broken device is no fault of the picture. */
            if (item->status == DINOV_ERR_NOMEM || item->status == DINOV_ERR_CONFIG || item->status == DINOV_ERR_DEVICE) {
                if (err) *err = item->why;
                return item->status;
            }
            if (!item->ready) continue;
            bytes += picture_floats(r, &item->record) * (int64_t)sizeof(float) + 3 * item->image.width * item->image.height;
        }
        if (stopped(r)) return fail_stopped(err);
    }
    r->taken += w->held;
    return DINOV_OK;
}

static dinov_status run_window(struct run *r, struct window *w, dinov_error *err)
{
    for (int64_t i = 0; i < w->held; i++) {
        if (!w->items[i].ready || w->items[i].group >= 0) continue;
        DINOV_TRY(form_group(r, w, i, err));
        DINOV_TRY(run_group(r, w, &w->groups[w->group_count - 1], err));
        if (stopped(r)) return fail_stopped(err);
    }
    return DINOV_OK;
}

static bool too_many(const dinov_extract_options *o, int64_t bad, int64_t total)
{
    return (double)bad > (o->percent ? o->max_bad * (double)total / 100.0 : o->max_bad);
}

static dinov_status write_window(struct run *r, struct window *w, dinov_error *err)
{
    const dinov_extract_options *o     = r->options;
    double                       begun = now();

    for (int64_t i = 0; i < w->held; i++) DINOV_TRY(write_item(r, w, &w->items[i], w->first + i, err));
    if (!r->source) {
        size_t row = r->array.size / (size_t)r->total;
        dinov_map_forget(r->map.data, r->map.size, r->array.data + (size_t)w->first * row, (size_t)w->held * row);
    }
    r->progress.done    = w->first + w->held;
    r->progress.bad     = r->progress.done - r->rows;
    r->progress.seconds = now() - r->started;
    r->progress.write += now() - begun;
    r->progress.decode = 1e-9 * (double)atomic_load(&r->preparing) / dinov_pool_threads(r->pool);
    if (dinov_engine_devices(r->engine))
        r->progress.model = (dinov_engine_busy(r->engine) - r->busy_before) / dinov_engine_devices(r->engine);
    clear_window(w);
    if (o->progress) o->progress(o->arg, &r->progress);
    if (r->rows == 0 && r->progress.done >= ALL_BAD_INPUTS && too_many(o, r->progress.done, r->progress.done))
        return dinov_fail(err, DINOV_ERR_LIMIT, "RUN-ALL-BAD",
                          "the first %lld inputs are all bad; nothing was kept (--max-bad 100%% goes on regardless)",
                          (long long)r->progress.done);
    return DINOV_OK;
}

static dinov_status process_in_turn(struct run *r, dinov_error *err)
{
    struct window *w = &r->windows[0];
    while (r->taken < r->total) {
        DINOV_TRY(prepare_window(r, w, err));
        double begun = now();
        DINOV_TRY(run_window(r, w, err));
        r->progress.model += now() - begun;
        DINOV_TRY(write_window(r, w, err));
    }
    return DINOV_OK;
}

/* ---- Several windows ---- */

/* Waits until window k is at `stage`; NULL: there is none, or a stage has failed. */
static struct window *await(struct run *r, int64_t k, enum stage stage)
{
    struct window *w = &r->windows[k % r->depth];
    pthread_mutex_lock(&r->lock);
    while (r->status == DINOV_OK && (r->window_count < 0 || k < r->window_count) && w->stage != stage)
        pthread_cond_wait(&r->moved, &r->lock);
    bool there = r->status == DINOV_OK && (r->window_count < 0 || k < r->window_count);
    pthread_mutex_unlock(&r->lock);
    return there ? w : NULL;
}

/* Hands a window on, or ends everything. */
static void hand_on(struct run *r, struct window *w, enum stage stage, dinov_status status, const dinov_error *why)
{
    pthread_mutex_lock(&r->lock);
    w->stage = stage;
    if (status != DINOV_OK && r->status == DINOV_OK) r->status = status, r->why = *why;
    pthread_cond_broadcast(&r->moved);
    pthread_mutex_unlock(&r->lock);
}

static void *prepare_all(void *arg)
{
    struct run    *r = arg;
    struct window *w;
    dinov_error    why;
    int64_t        k = 0;
    for (; r->taken < r->total && (w = await(r, k, FREE)); k++) hand_on(r, w, PREPARED, prepare_window(r, w, &why), &why);
    pthread_mutex_lock(&r->lock);
    r->window_count = k;
    pthread_cond_broadcast(&r->moved);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

struct runner {
    struct run *run;
    int         index, step; /* windows index, index + step, ... */
    pthread_t   thread;
};

static void *run_some(void *arg)
{
    struct runner *runner = arg;
    struct run    *r      = runner->run;
    struct window *w;
    dinov_error    why;
    for (int64_t k = runner->index; (w = await(r, k, PREPARED)); k += runner->step)
        hand_on(r, w, RAN, run_window(r, w, &why), &why);
    return NULL;
}

/* This thread writes. */
static dinov_status process_in_parallel(struct run *r, int lanes, dinov_error *err)
{
    struct runner *runners = dinov_calloc((size_t)lanes, sizeof *runners);
    struct window *w;
    dinov_error    why;
    pthread_t      preparer;
    int            started = 0, failed;
    bool           prepares;

    if (!runners) return dinov_fail_nomem(err, "extraction", "its threads");
    failed   = pthread_create(&preparer, NULL, prepare_all, r);
    prepares = !failed;
    for (; !failed && started < lanes; started++) {
        runners[started] = (struct runner){.run = r, .index = started, .step = lanes};
        failed           = pthread_create(&runners[started].thread, NULL, run_some, &runners[started]);
        if (failed) break;
    }
    if (failed) {
        dinov_fail_errno(&why, failed, "SYS-THREAD", "extraction: could not start a thread");
        hand_on(r, &r->windows[0], FREE, why.status, &why);
    }
    for (int64_t k = 0; (w = await(r, k, RAN)); k++) hand_on(r, w, FREE, write_window(r, w, &why), &why);
    if (prepares) pthread_join(preparer, NULL);
    for (int i = 0; i < started; i++) pthread_join(runners[i].thread, NULL);
    dinov_free(runners);
    if (r->status != DINOV_OK && err) *err = r->why;
    return r->status;
}

/* ---- Files ---- */

static dinov_status create(struct run *r, dinov_npy_out *file, const char *name, const char *descr, int rank, const int64_t *dim,
                           dinov_error *err)
{
    char *path = dinov_result_path(&r->result, name);
    if (!path) return dinov_fail_nomem(err, "output folder", "a path");
    dinov_status status = dinov_npy_create(file, path, descr, rank, dim, r->options->overwrite, err);
    dinov_free(path);
    return status;
}

static dinov_status create_outputs(struct run *r, dinov_error *err)
{
    static const char *const     names[FEATURES] = {[CLS] = "cls", [MEAN] = "mean", [REG] = "reg", [PATCH] = "patch"};
    const dinov_extract_options *o               = r->options;
    const char                  *type            = o->f16 ? "'<f2'" : "'<f4'";
    int64_t                      dim = r->model->dim, patch = r->model->patch;

    r->outputs = dinov_calloc((size_t)o->layer_count * FEATURES, sizeof *r->outputs);
    if (!r->outputs) return dinov_fail_nomem(err, "output folder", "its files");
    for (int l = 0; l < o->layer_count; l++)
        for (int f = 0; f < FEATURES; f++) {
            if (!feature_size(r, f, 1, 1)) continue;
            char    name[64], layer[16] = "";
            int64_t flat[] = {0, dim}, reg[] = {0, r->model->registers, dim};
            int64_t map[] = {0, r->fixed_h / patch, r->fixed_w / patch, dim};
            bool    maps  = f == PATCH && r->fixed;
            if (r->layers[l] != r->model->depth - 1) snprintf(layer, sizeof layer, "L%02d.", r->layers[l]);
            snprintf(name, sizeof name, "part-000000.%s%s.npy", layer, names[f]);
            struct output *out = &r->outputs[r->output_count];
            *out               = (struct output){.layer = l, .feature = f};
            DINOV_TRY(create(r, &out->file, name, type, maps ? 4 : f == REG ? 3 : 2, maps ? map : f == REG ? reg : flat, err));
            r->output_count++;
        }
    int64_t one[] = {0}, input[] = {0, r->model->channels, r->fixed_h, r->fixed_w};
    if (o->patch && !r->fixed) {
        DINOV_TRY(create(r, &r->offsets, "part-000000.offsets.npy", "'<i8'", 1, one, err));
        DINOV_TRY(append_offset(&r->offsets, 0, err));
    }
    if (o->dump_input) {
        DINOV_TRY(create(r, &r->input, "part-000000.input.npy", "'<f4'", r->fixed ? 4 : 1, r->fixed ? input : one, err));
        if (!r->fixed) {
            DINOV_TRY(create(r, &r->input_offsets, "part-000000.input-offsets.npy", "'<i8'", 1, one, err));
            DINOV_TRY(append_offset(&r->input_offsets, 0, err));
        }
    }
    DINOV_TRY(create(r, &r->index, "part-000000.index.npy", dinov_index_descr, 1, one, err));
    char *path = dinov_result_path(&r->result, "part-000000.keys.txt");
    if (!path) return dinov_fail_nomem(err, "output folder", "a path");
    dinov_status status = dinov_out_open(&r->keys, path, o->overwrite, err);
    dinov_free(path);
    return status;
}

static dinov_status commit_outputs(struct run *r, dinov_error *err)
{
    DINOV_TRY(dinov_result_clean(&r->result, err));
    for (int i = 0; i < r->output_count; i++) DINOV_TRY(dinov_npy_commit(&r->outputs[i].file, err));
    dinov_npy_out *others[] = {&r->offsets, &r->input, &r->input_offsets, &r->index};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i]->file) DINOV_TRY(dinov_npy_commit(others[i], err));
    return dinov_out_commit(&r->keys, err);
}

static void abort_outputs(struct run *r)
{
    for (int i = 0; i < r->output_count; i++) dinov_npy_abort(&r->outputs[i].file);
    dinov_npy_abort(&r->offsets);
    dinov_npy_abort(&r->input);
    dinov_npy_abort(&r->input_offsets);
    dinov_npy_abort(&r->index);
    dinov_out_abort(&r->keys);
}

static dinov_status commit_run(struct run *r, const dinov_facts *facts, json_t *settings, dinov_error *err)
{
    json_t      *run    = NULL;
    dinov_status status = dinov_run_json(&run, facts, settings, r->report, r->rows, now() - r->started, err);
    if (status == DINOV_OK) status = dinov_result_commit(&r->result, run, err);
    json_decref(run);
    return status;
}

/* ---- Before the run ---- */

static dinov_status open_array(struct run *r, dinov_error *err)
{
    const char *path = r->array_path;
    char        shown[DINOV_ESCAPED];

    DINOV_TRY(dinov_map_open(&r->map, path, err));
    DINOV_TRY(dinov_npy_parse_f32(&r->array, r->map.data, r->map.size, path, err));
    const int64_t *d = r->array.dim;
    dinov_escape(shown, sizeof shown, path, strlen(path));
    if (r->array.rank != 4 || d[1] != r->model->channels)
        return dinov_fail(err, DINOV_ERR_SHAPE, "NPY-SHAPE", "%s: expected [N, %lld, height, width], found %d dimensions%s", shown,
                          (long long)r->model->channels, r->array.rank,
                          r->array.rank == 4 ? " with another number of channels" : "");
    if (d[0] < 1 || d[2] < 1 || d[3] < 1 || d[2] % r->model->patch || d[3] % r->model->patch || d[2] > INT32_MAX ||
        d[3] > INT32_MAX)
        return dinov_fail(err, DINOV_ERR_SHAPE, "NPY-SHAPE",
                          "%s: expected at least one row, height and width multiples of the patch %lld; found %lld x %lld x %lld",
                          shown, (long long)r->model->patch, (long long)d[0], (long long)d[2], (long long)d[3]);
    r->total   = d[0];
    r->fixed_h = d[2];
    r->fixed_w = d[3];
    return dinov_check_tokens(&r->prepare, shown, r->fixed_w, r->fixed_h, err);
}

static dinov_status resolve_layers(struct run *r, dinov_error *err)
{
    const dinov_extract_options *o = r->options;
    for (int l = 0; l < o->layer_count; l++) {
        int64_t layer = o->layers[l] < 0 ? r->model->depth + o->layers[l] : o->layers[l];
        if (layer < 0 || layer >= r->model->depth)
            return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-LAYERS", "layers: expected %lld to %lld, found %d",
                              -(long long)r->model->depth, (long long)r->model->depth - 1, o->layers[l]);
        r->layers[l] = (int)layer;
        for (int k = 0; k < l; k++)
            if (r->layers[k] == layer)
                return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-LAYERS", "layers: layer %lld is asked for twice", (long long)layer);
    }
    return DINOV_OK;
}

static dinov_status check(struct run *r, dinov_error *err)
{
    const dinov_extract_options *o = r->options;
    DINOV_TRY(resolve_layers(r, err));
    if (o->reg && r->model->registers == 0)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-FEATURES", "features: this model has no register tokens");
    if (!r->source && o->nvjpeg)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-DECODE",
                          "an .npy input is taken as it is: there is nothing to decode by nvJPEG");
    if (!r->source) return open_array(r, err);
    r->total = dinov_source_count(r->source);
    if (r->model->channels != 3)
        return dinov_fail(err, DINOV_ERR_SHAPE, "RUN-CHANNELS", "this model takes %lld channels; pictures have 3",
                          (long long)r->model->channels);
    r->fixed = o->preset.kind == DINOV_PRESET_EVAL || o->preset.kind == DINOV_PRESET_SQUARE;
    /* Any size tells whether the preset fits the patch, and what a fixed one gives. */
    DINOV_TRY(dinov_preset_size(&o->preset, r->model->patch, 1, 1, &r->fixed_w, &r->fixed_h, err));
    return r->fixed ? dinov_check_tokens(&r->prepare, "preset", r->fixed_w, r->fixed_h, err) : DINOV_OK;
}

static dinov_status judge_total(const struct run *r, dinov_error *err)
{
    int64_t bad     = r->report->total - r->report->count[DINOV_INPUT_OK],
            damage  = r->source ? dinov_source_problem_count(r->source) : 0;
    char shards[64] = "";
    if (!too_many(r->options, bad + damage, r->report->total)) return DINOV_OK;
    if (damage > 0)
        snprintf(shards, sizeof shards, ", and shards are damaged in %lld place%s", (long long)damage, damage > 1 ? "s" : "");
    return dinov_fail(err, DINOV_ERR_LIMIT, "RUN-MAX-BAD",
                      "%lld of %lld inputs are bad%s, more than --max-bad %g%s allows; everything else was processed and kept",
                      (long long)bad, (long long)r->report->total, shards, r->options->max_bad, r->options->percent ? "%" : "");
}

/* The counts a finished run recorded. */
static void read_counts(struct run *r)
{
    const json_t *counts = json_object_get(r->result.previous, "counts");
    for (int i = 0; i < DINOV_INPUT_STATUSES; i++)
        r->report->count[i] = json_integer_value(json_object_get(counts, dinov_input_status_name((dinov_input_status)i)));
    r->report->already = true;
}

/* ---- Decoders on devices ---- */

static dinov_status open_jpegs(struct run *r, int count, dinov_error *err)
{
    dinov_device_jpeg **more = dinov_realloc(r->prepare.jpegs, (size_t)count, sizeof *more);
    if (!more) return dinov_fail_nomem(err, "extraction", "its decoders");
    r->prepare.jpegs = more;
    for (; r->jpeg_count < count; r->jpeg_count++)
        DINOV_TRY(dinov_engine_jpeg(&more[r->jpeg_count], r->engine, r->jpeg_count, err));
    return DINOV_OK;
}

static void close_jpegs(struct run *r)
{
    while (r->jpeg_count) dinov_device_jpeg_close(&r->prepare.jpegs[--r->jpeg_count]);
    dinov_free(r->prepare.jpegs);
}

/* ---- The run ---- */

/* On devices one more than their lanes is under way in each of the other two stages. */
static dinov_status make_windows(struct run *r, dinov_error *err)
{
    int     lanes = dinov_engine_lanes(r->engine);
    int64_t wide = 4 * dinov_pool_threads(r->pool), batch = r->options->batch;

    r->busy_before = dinov_engine_busy(r->engine);
    r->depth       = lanes == 1 ? 1 : lanes + 2;
    r->room        = (wide > batch ? wide + batch - 1 : batch) / batch * batch * (r->fixed && lanes == 1 ? 1 : 4);
    r->windows     = dinov_calloc((size_t)r->depth, sizeof *r->windows);
    if (!r->windows) return dinov_fail_nomem(err, "extraction", "its windows");
    for (int i = 0; i < r->depth; i++) {
        r->windows[i].items  = dinov_calloc((size_t)r->room, sizeof *r->windows[i].items);
        r->windows[i].groups = dinov_calloc((size_t)r->room, sizeof *r->windows[i].groups);
        if (!r->windows[i].items || !r->windows[i].groups) return dinov_fail_nomem(err, "extraction", "its windows");
    }
    return DINOV_OK;
}

static void free_windows(struct run *r)
{
    for (int i = 0; r->windows && i < r->depth; i++) {
        clear_window(&r->windows[i]);
        dinov_free(r->windows[i].items);
        dinov_free(r->windows[i].groups);
    }
    dinov_free(r->windows);
}

static dinov_status extract(struct run *r, const dinov_facts *facts, json_t *settings, dinov_error *err)
{
    DINOV_TRY(dinov_result_open(&r->result, r->options->out, settings, r->options->overwrite, err));
    if (r->result.previous) {
        read_counts(r);
        return judge_total(r, err);
    }
    DINOV_TRY(dinov_pool_new(&r->pool, r->options->threads, err));
    if (r->options->nvjpeg) DINOV_TRY(open_jpegs(r, dinov_pool_threads(r->pool), err));
    DINOV_TRY(make_windows(r, err));
    DINOV_TRY(create_outputs(r, err));
    int lanes = dinov_engine_lanes(r->engine);
    DINOV_TRY(lanes == 1 ? process_in_turn(r, err) : process_in_parallel(r, lanes, err));
    DINOV_TRY(commit_outputs(r, err));
    DINOV_TRY(commit_run(r, facts, settings, err));
    return judge_total(r, err);
}

dinov_status dinov_extract(dinov_engine *engine, const dinov_source *source, const char *array,
                           const dinov_extract_options *options, dinov_extract_report *report, dinov_error *err)
{
    json_t               *settings = NULL;
    dinov_extract_options resolved = *options;
    struct run            r        = {.options      = &resolved,
                                      .source       = source,
                                      .array_path   = array,
                                      .engine       = engine,
                                      .model        = dinov_engine_model(engine),
                                      .fixed        = !source,
                                      .report       = report,
                                      .result.lock  = -1,
                                      .window_count = -1,
                                      .started      = now()};
    r.prepare                      = (dinov_prepare){.options    = &resolved,
                                                     .source     = source,
                                                     .array_path = array,
                                                     .array      = &r.array,
                                                     .engine     = engine,
                                                     .model      = r.model,
                                                     .decoded    = source && !options->dump_input && dinov_engine_resizes(engine)};

    DINOV_ASSERT(!source != !array && options->layer_count >= 1 && options->batch >= 0 && options->max_tokens >= 1);
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.moved, NULL);
    *report             = (dinov_extract_report){0};
    dinov_status status = check(&r, err);
    report->total       = r.total;
    r.progress.total    = r.total;
    if (!resolved.batch) resolved.batch = dinov_engine_batch(engine, r.fixed ? r.fixed_h : 518, r.fixed ? r.fixed_w : 518);
    /* The first tells whether it is there, and its name. */
    if (status == DINOV_OK && options->nvjpeg) status = open_jpegs(&r, 1, err);
    dinov_facts facts = {&resolved, source, array, engine, r.layers, r.total, NULL};
    if (r.jpeg_count) facts.jpegs = dinov_device_jpeg_name(r.prepare.jpegs[0]);
    if (status == DINOV_OK) status = dinov_settings_new(&settings, &facts, err);
    if (status == DINOV_OK) status = extract(&r, &facts, settings, err);
    free_windows(&r);
    abort_outputs(&r); /* what was committed is no longer open */
    dinov_result_close(&r.result);
    dinov_pool_free(&r.pool);
    close_jpegs(&r);
    dinov_map_close(&r.map);
    pthread_cond_destroy(&r.moved);
    pthread_mutex_destroy(&r.lock);
    dinov_free(r.outputs);
    json_decref(settings);
    return status;
}
