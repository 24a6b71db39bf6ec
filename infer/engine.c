/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: a model ready to run, memory for its activations, and features out of the residual
 * stream. A batch runs as groups of a few hundred tokens. While there are at least as many groups as
 * threads, each thread takes whole groups (no waiting for one another); what is left runs with all
 * threads on one group. Both give the same bits, because every op does.
 */
#include "dinov/infer.h"

#include "base/alloc.h"
#include "base/pool.h"
#include "model/vit.h"

#include <stdbool.h>
#include <string.h>

enum { GROUP_TOKENS = 256 };

struct dinov_engine {
    dinov_vit        vit;
    dinov_preprocess preprocess;
    dinov_pool      *pool;

    struct lane {
        void  *memory;
        size_t size;
    } *lanes; /* [threads] activations */

    float  *pos; /* position embeddings of the last grid used */
    int64_t pos_h, pos_w;
};

static int threads_of(const dinov_engine *e) { return dinov_pool_threads(e->pool); }

dinov_status dinov_engine_open_weights(dinov_engine **out, const dinov_weights *weights,
                                       const dinov_engine_options *options, dinov_error *err)
{
    const dinov_ops *ops;
    dinov_status     status;

    *out = NULL;
    DINOV_TRY(dinov_ops_cpu(&ops, options ? options->isa : NULL, err));
    dinov_engine *e = dinov_calloc(1, sizeof *e);
    if (!e) return dinov_fail_nomem(err, "engine", "itself");
    DINOV_TRY_GOTO(dinov_pool_new(&e->pool, options ? options->threads : 0, err));
    e->lanes = dinov_calloc((size_t)threads_of(e), sizeof *e->lanes);
    if (!e->lanes) {
        status = dinov_fail_nomem(err, "engine", "its lanes");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_vit_init(&e->vit, weights, ops, e->pool, err));
    e->preprocess = weights->preprocess;
    *out          = e;
    return DINOV_OK;
fail:
    dinov_engine_close(&e);
    return status;
}

dinov_status dinov_engine_open(dinov_engine **out, const char *path, const dinov_engine_options *options, dinov_error *err)
{
    dinov_checkpoint *ckpt;

    *out = NULL;
    DINOV_TRY(dinov_checkpoint_open(&ckpt, path, err));
    dinov_status status = dinov_checkpoint_verify(ckpt, options ? options->threads : 0, err);
    if (status == DINOV_OK) status = dinov_engine_open_weights(out, dinov_checkpoint_weights(ckpt), options, err);
    dinov_checkpoint_close(&ckpt);
    return status;
}

void dinov_engine_close(dinov_engine **engine)
{
    if (!engine || !*engine) return;
    dinov_engine *e = *engine;
    *engine         = NULL;
    for (int i = 0; e->lanes && i < threads_of(e); i++) dinov_free(e->lanes[i].memory);
    dinov_free(e->lanes);
    dinov_free(e->pos);
    dinov_vit_clear(&e->vit);
    dinov_pool_free(&e->pool);
    dinov_free(e);
}

const dinov_model      *dinov_engine_model(const dinov_engine *e) { return &e->vit.config; }
const dinov_preprocess *dinov_engine_preprocess(const dinov_engine *e) { return &e->preprocess; }
const char             *dinov_engine_isa(const dinov_engine *e) { return e->vit.ops->name; }
int                     dinov_engine_threads(const dinov_engine *e) { return threads_of(e); }

/* ---- One call of dinov_engine_run ---- */

struct run {
    dinov_engine         *engine;
    const float          *pixels;
    int64_t               images, h, w, group, last;
    const dinov_features *features;
    size_t                count;
};

/* What a tap needs to put a group's rows in place. */
struct group {
    const struct run *run;
    int64_t           first, images;
};

static int64_t block_of(const dinov_features *f, int64_t depth) { return f->layer < 0 ? depth + f->layer : f->layer; }

static void mean_of_rows(float *out, const dinov_mat *x, int64_t first, int64_t rows)
{
    for (int64_t c = 0; c < x->cols; c++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++) sum += (double)((const float *)x->data)[(first + r) * x->ld + c];
        out[c] = (float)(sum / (double)rows);
    }
}

static void copy_rows(float *out, const dinov_mat *x, int64_t first, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * x->cols, (const float *)x->data + (first + r) * x->ld, (size_t)x->cols * sizeof(float));
}

static void take_features(const struct group *g, const dinov_features *f, const dinov_mat *x)
{
    int64_t C = x->cols, N = g->run->h * g->run->w, R = g->run->engine->vit.config.registers, T = 1 + R + N;
    for (int64_t i = 0; i < g->images; i++) {
        int64_t image = g->first + i, row = i * T;
        if (f->cls) copy_rows(f->cls + image * C, x, row, 1);
        if (f->reg) copy_rows(f->reg + image * R * C, x, row + 1, R);
        if (f->patch) copy_rows(f->patch + image * N * C, x, row + 1 + R, N);
        if (f->mean) mean_of_rows(f->mean + image * C, x, row + 1 + R, N);
    }
}

static void tap(void *arg, int64_t block, dinov_stream *s, const dinov_mat *x, dinov_mat *spare)
{
    const struct group *g   = arg;
    const dinov_vit    *vit = &g->run->engine->vit;
    bool                normed = false;

    for (size_t i = 0; i < g->run->count; i++) {
        const dinov_features *f = &g->run->features[i];
        if (block_of(f, vit->config.depth) != block) continue;
        if (!f->no_norm && !normed) {
            vit->ops->layernorm(s, spare, x, vit->norm_weight, vit->norm_bias, vit->config.ln_eps);
            normed = true;
        }
        take_features(g, f, f->no_norm ? x : spare);
    }
}

static void run_group(const struct run *run, int64_t index, dinov_pool *pool, struct lane *lane)
{
    const dinov_vit *vit   = &run->engine->vit;
    int64_t          first = index * run->group;
    struct group     g     = {run, first, run->images - first < run->group ? run->images - first : run->group};
    int64_t          image = vit->config.channels * run->h * run->w * vit->config.patch * vit->config.patch;

    dinov_vit_forward(vit, pool, lane->memory, run->pixels + first * image, run->engine->pos, g.images, run->h, run->w,
                      run->last, tap, &g);
}

static void run_alone(void *arg, int64_t block, int worker)
{
    const struct run *run = arg;
    run_group(run, block, NULL, &run->engine->lanes[worker]);
}

static dinov_status grow(struct lane *lane, size_t size, dinov_error *err)
{
    if (size <= lane->size) return DINOV_OK;
    dinov_free(lane->memory);
    lane->size   = 0;
    lane->memory = dinov_alloc_aligned(size, 1);
    if (!lane->memory)
        return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "engine: out of memory for %zu MiB of activations; a smaller picture or batch needs less", size >> 20);
    lane->size = size;
    return DINOV_OK;
}

static dinov_status prepare_pos(dinov_engine *e, int64_t h, int64_t w, dinov_error *err)
{
    if (e->pos && e->pos_h == h && e->pos_w == w) return DINOV_OK;
    dinov_free(e->pos);
    e->pos = dinov_alloc_aligned((size_t)(1 + h * w), (size_t)e->vit.config.dim * sizeof(float));
    if (!e->pos) return dinov_fail_nomem(err, "engine", "position embeddings");
    dinov_status status = dinov_vit_pos(&e->vit, e->pos, h, w, err);
    if (status != DINOV_OK) {
        dinov_free(e->pos);
        e->pos = NULL;
        return status;
    }
    e->pos_h = h, e->pos_w = w;
    return DINOV_OK;
}

static dinov_status check_request(const dinov_model *m, int64_t images, int64_t height, int64_t width,
                                  const dinov_features *features, size_t count, dinov_error *err)
{
    if (images < 0 || height < m->patch || width < m->patch || height % m->patch || width % m->patch || height > 1 << 20 ||
        width > 1 << 20)
        return dinov_fail(err, DINOV_ERR_SHAPE, "INPUT-SIZE",
                          "input of %lld images of %lld x %lld (width x height): expected sides that are multiples of the patch, %lld",
                          (long long)images, (long long)width, (long long)height, (long long)m->patch);
    for (size_t i = 0; i < count; i++)
        if (features[i].layer < -m->depth || features[i].layer >= m->depth)
            return dinov_fail(err, DINOV_ERR_SHAPE, "INPUT-LAYER", "layer %d: expected %lld to %lld", features[i].layer,
                              (long long)-m->depth, (long long)m->depth - 1);
    return DINOV_OK;
}

dinov_status dinov_engine_run(dinov_engine *e, const float *pixels, int64_t images, int64_t height, int64_t width,
                              const dinov_features *features, size_t count, dinov_error *err)
{
    const dinov_model *m = &e->vit.config;
    DINOV_TRY(check_request(m, images, height, width, features, count, err));

    struct run run = {.engine = e, .pixels = pixels, .images = images, .features = features, .count = count};
    run.h = height / m->patch, run.w = width / m->patch, run.last = -1;
    for (size_t i = 0; i < count; i++)
        if (block_of(&features[i], m->depth) > run.last) run.last = block_of(&features[i], m->depth);
    if (run.last < 0 || images == 0) return DINOV_OK;
    int64_t T = 1 + m->registers + run.h * run.w;
    run.group = T < GROUP_TOKENS ? GROUP_TOKENS / T : 1;
    if (run.group > images) run.group = images;
    int64_t groups = (images + run.group - 1) / run.group, threads = threads_of(e);
    int64_t alone  = threads > 1 ? groups - groups % threads : 0;

    DINOV_TRY(prepare_pos(e, run.h, run.w, err));
    DINOV_TRY(grow(&e->lanes[0], dinov_vit_memory(&e->vit, run.group, run.h, run.w, (int)threads), err));
    for (int64_t i = 1; alone && i < threads; i++)
        DINOV_TRY(grow(&e->lanes[i], dinov_vit_memory(&e->vit, run.group, run.h, run.w, 1), err));
    if (alone) dinov_pool_run(e->pool, alone, run_alone, &run);
    for (int64_t i = alone; i < groups; i++) run_group(&run, i, e->pool, &e->lanes[0]);
    return DINOV_OK;
}
