/* SPDX-License-Identifier: Apache-2.0
 *
 * Features of labelled pictures, kept in memory: decoded by all threads a window at a time, run through
 * the engine in batches of equal size. The model's numbers come from the model alone.
 */
#include "eval/set.h"

#include "base/alloc.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

struct item {
    float       *pixels; /* NULL: bad, or run already */
    int64_t      width, height, row;
    dinov_status status;
    dinov_error  why;
};

struct extraction {
    const dinov_source      *source;
    const dinov_set_options *options;
    dinov_engine            *engine;
    const dinov_model       *model;
    dinov_set               *set;
    int                      blocks;
    bool                     mean;
    dinov_pool              *pool;
    struct item             *items; /* [window] */
    int64_t                  window, first, held;
    float                   *input, *output; /* of a batch: pixels; [blocks + mean][batch, dim] */
    int64_t                  input_room;
    int64_t                 *place; /* [batch]: rows of the set */
    int64_t                  bad;
    double                   started;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Labels ---- */

static dinov_status label_pictures(dinov_classes *out, const char *set, const dinov_source *source, dinov_error *err)
{
    char         name[DINOV_SOURCE_NAME];
    int64_t      count   = dinov_source_count(source);
    bool         folders = dinov_source_class_count(source) > 0;
    dinov_bytes *texts   = dinov_alloc((size_t)count, sizeof *texts);
    char        *digits  = dinov_alloc((size_t)count, 12);
    dinov_status status  = DINOV_OK;

    if (!texts || !digits) {
        status = dinov_fail_nomem(err, "labels", "labels");
        goto fail;
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t     label = dinov_source_label(source, i);
        const char *member, *text = digits + 12 * i;
        dinov_source_path(source, i, &member);
        if (label < 0 || (!member && !folders)) {
            status = dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-UNLABELLED",
                                "%s: %s has no label; expected a sub-folder for each class, or KEY.cls beside each picture of a shard",
                                set, dinov_source_name(source, i, name, sizeof name));
            goto fail;
        }
        if (member && folders) {
            status = dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-CLASS",
                                "%s: classes are folders for some pictures and numbers in shards for others; expected one of both", set);
            goto fail;
        }
        if (member)
            snprintf(digits + 12 * i, 12, "%d", (int32_t)label);
        else
            text = dinov_source_class_name(source, label);
        texts[i] = (dinov_bytes){text, strlen(text)};
    }
    status = dinov_classes_from_texts(out, texts, count, err);
fail:
    dinov_free(texts);
    dinov_free(digits);
    return status;
}

/* ---- Pictures ---- */

static dinov_status input_size(const struct extraction *x, const char *name, const dinov_image *image, struct item *item,
                               dinov_error *err)
{
    dinov_error  why;
    dinov_status status =
        dinov_preset_size(&x->options->preset, x->model->patch, image->width, image->height, &item->width, &item->height, &why);
    if (status != DINOV_OK) return dinov_fail(err, status, why.code, "%s: %s", name, why.msg);
    int64_t tokens = item->width / x->model->patch * (item->height / x->model->patch);
    if (tokens <= x->options->max_tokens) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_LIMIT, "RUN-TOKENS",
                      "%s: makes %lld patch tokens; expected at most %lld; choose a smaller preset, or raise --max-tokens", name,
                      (long long)tokens, (long long)x->options->max_tokens);
}

static dinov_status prepare_picture(const struct extraction *x, struct item *item, int64_t index, dinov_error *err)
{
    char         name[DINOV_SOURCE_NAME];
    dinov_image  image = {0};
    dinov_status status;

    dinov_source_name(x->source, index, name, sizeof name);
    DINOV_TRY_GOTO(dinov_source_decode(x->source, index, &image, err));
    if (x->options->preset.kind != DINOV_PRESET_EVAL) DINOV_TRY_GOTO(dinov_image_turn(&image, err));
    DINOV_TRY_GOTO(input_size(x, name, &image, item, err));
    item->pixels = dinov_alloc((size_t)(3 * item->width * item->height), sizeof *item->pixels);
    if (!item->pixels) {
        status = dinov_fail_nomem(err, name, "its pixels");
        goto fail;
    }
    status = dinov_preset_apply(&x->options->preset, x->model->patch, dinov_engine_preprocess(x->engine), &image, item->pixels, err);
fail:
    dinov_image_clear(&image);
    return status;
}

static void prepare(void *arg, int64_t block, int worker)
{
    const struct extraction *x    = arg;
    struct item             *item = &x->items[block];

    (void)worker;
    *item        = (struct item){0};
    item->status = prepare_picture(x, item, x->first + block, &item->why);
    if (item->status == DINOV_OK) return;
    dinov_free(item->pixels);
    item->pixels = NULL;
}

/* Gives good pictures their rows, in order, and tells of the bad ones. */
static dinov_status number_rows(struct extraction *x, dinov_error *err)
{
    for (int64_t i = 0; i < x->held; i++) {
        struct item *item = &x->items[i];
        if (item->status == DINOV_ERR_NOMEM || item->status == DINOV_ERR_CONFIG) {
            if (err) *err = item->why;
            return item->status;
        }
        if (item->status != DINOV_OK) {
            x->bad++;
            if (x->options->bad) x->options->bad(x->options->arg, &item->why);
            continue;
        }
        item->row                           = x->set->view.count++;
        x->set->classes.label[item->row] = x->set->classes.label[x->first + i];
    }
    return DINOV_OK;
}

/* ---- The model ---- */

/* Up to a batch of pictures of the size of item `from`. */
static dinov_status run_batch(struct extraction *x, int64_t from, dinov_error *err)
{
    int64_t        width = x->items[from].width, height = x->items[from].height, area = 3 * width * height, n = 0;
    int64_t        dim = x->model->dim, batch = x->options->batch;
    dinov_features f[DINOV_LABELLED_BLOCKS];

    if (area * batch > x->input_room) {
        dinov_free(x->input);
        x->input_room = area * batch;
        x->input      = dinov_alloc((size_t)x->input_room, sizeof *x->input);
        if (!x->input) return dinov_fail_nomem(err, "batch", "its pixels");
    }
    for (int64_t i = from; i < x->held && n < batch; i++) {
        struct item *item = &x->items[i];
        if (!item->pixels || item->width != width || item->height != height) continue;
        memcpy(x->input + n * area, item->pixels, (size_t)area * sizeof(float));
        dinov_free(item->pixels);
        item->pixels  = NULL;
        x->place[n++] = item->row;
    }
    for (int b = 0; b < x->blocks; b++) f[b] = (dinov_features){.layer = -1 - b, .cls = x->output + b * batch * dim};
    if (x->mean) f[0].mean = x->output + x->blocks * batch * dim;
    DINOV_TRY(dinov_engine_run(x->engine, x->input, n, height, width, f, (size_t)x->blocks, err));
    for (int64_t i = 0; i < n; i++) {
        for (int b = 0; b < x->blocks; b++)
            memcpy((float *)x->set->memory[b] + x->place[i] * dim, f[b].cls + i * dim, (size_t)dim * sizeof(float));
        if (x->mean)
            memcpy((float *)x->set->memory[DINOV_LABELLED_BLOCKS] + x->place[i] * dim, f[0].mean + i * dim, (size_t)dim * sizeof(float));
    }
    return DINOV_OK;
}

static void clear_window(struct extraction *x)
{
    for (int64_t i = 0; i < x->held; i++) dinov_free(x->items[i].pixels);
    x->held = 0;
}

static dinov_status run_all(struct extraction *x, dinov_error *err)
{
    const dinov_set_options *o     = x->options;
    int64_t                  total = dinov_source_count(x->source);

    for (; x->first < total; x->first += x->held) {
        clear_window(x);
        x->held = total - x->first < x->window ? total - x->first : x->window;
        dinov_pool_run(x->pool, x->held, prepare, x);
        DINOV_TRY(number_rows(x, err));
        for (int64_t i = 0; i < x->held; i++)
            if (x->items[i].pixels) DINOV_TRY(run_batch(x, i, err));
        if (o->progress) o->progress(o->arg, x->first + x->held, total, now() - x->started);
    }
    if ((double)x->bad <= (o->percent ? o->max_bad * (double)total / 100.0 : o->max_bad)) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_LIMIT, "EVAL-MAX-BAD", "%s: %lld of %lld pictures are bad, more than --max-bad %g%s allows",
                      x->set->view.name, (long long)x->bad, (long long)total, o->max_bad, o->percent ? "%" : "");
}

static dinov_status extract(struct extraction *x, dinov_error *err)
{
    const dinov_set_options *o     = x->options;
    int64_t                  count = dinov_source_count(x->source), dim = x->model->dim, wide, w, h;
    bool                     fixed = o->preset.kind == DINOV_PRESET_EVAL || o->preset.kind == DINOV_PRESET_SQUARE;

    if (x->model->channels != 3)
        return dinov_fail(err, DINOV_ERR_SHAPE, "RUN-CHANNELS", "this model takes %lld channels; pictures have 3",
                          (long long)x->model->channels);
    DINOV_TRY(dinov_preset_size(&o->preset, x->model->patch, 1, 1, &w, &h, err));
    DINOV_TRY(label_pictures(&x->set->classes, x->set->view.name, x->source, err));
    DINOV_TRY(dinov_pool_new(&x->pool, o->threads, err));
    wide      = 4 * dinov_pool_threads(x->pool);
    x->window = (wide > o->batch ? wide : o->batch) * (fixed ? 1 : 4);
    x->items  = dinov_calloc((size_t)x->window, sizeof *x->items);
    x->place  = dinov_alloc((size_t)o->batch, sizeof *x->place);
    x->output = dinov_alloc((size_t)(o->batch * (x->blocks + x->mean)), (size_t)dim * sizeof *x->output);
    for (int i = 0; i < x->blocks; i++) x->set->memory[i] = dinov_alloc((size_t)count, (size_t)dim * sizeof(float));
    if (x->mean) x->set->memory[DINOV_LABELLED_BLOCKS] = dinov_alloc((size_t)count, (size_t)dim * sizeof(float));
    bool memory = x->items && x->place && x->output && (!x->mean || x->set->memory[DINOV_LABELLED_BLOCKS]);
    for (int i = 0; i < x->blocks; i++) memory = memory && x->set->memory[i];
    if (!memory) return dinov_fail_nomem(err, x->set->view.name, "its features");
    x->set->view.dim = dim;
    return run_all(x, err);
}

dinov_status dinov_set_extract(dinov_set *out, const char *name, dinov_engine *engine, const dinov_source *source,
                               const dinov_set_options *options, dinov_error *err)
{
    const dinov_model *model = dinov_engine_model(engine);
    bool               four  = options->all && model->depth >= DINOV_LABELLED_BLOCKS;
    struct extraction  x     = {.source  = source,
                                .options = options,
                                .engine  = engine,
                                .model   = model,
                                .set     = out,
                                .blocks  = four ? DINOV_LABELLED_BLOCKS : 1,
                                .mean    = options->all,
                                .started = now()};

    *out                = (dinov_set){.view.name = name};
    dinov_status status = extract(&x, err);
    clear_window(&x);
    dinov_pool_free(&x.pool);
    dinov_free(x.items);
    dinov_free(x.place);
    dinov_free(x.input);
    dinov_free(x.output);
    if (status != DINOV_OK) {
        dinov_set_close(out);
        return status;
    }
    out->classes.count = out->view.count;
    for (int b = 0; b < x.blocks; b++) out->view.cls[b] = out->memory[b];
    out->view.mean = out->memory[DINOV_LABELLED_BLOCKS];
    return DINOV_OK;
}
