/* SPDX-License-Identifier: Apache-2.0
 *
 * A model on the CPU. A batch runs as groups of a few hundred tokens. While there are at least as many groups as
 * threads, each thread takes whole groups (no waiting for one another); what is left runs with all
 * threads on one group. Both give the same bits, because every op does.
 */
#include "infer/engine.h"

#include "base/alloc.h"
#include "base/pool.h"

#include <string.h>

enum { GROUP_TOKENS = 256 };

struct dinov_host {
    dinov_vit   vit;
    dinov_pool *pool;

    struct lane {
        void  *memory;
        size_t size;
    } * lanes; /* [threads] activations */

    float  *pos; /* position embeddings of the last grid used */
    int64_t pos_h, pos_w;
};

dinov_status dinov_host_open(dinov_host **out, const dinov_weights *weights, int threads, const char *isa, dinov_error *err)
{
    const dinov_ops *ops;
    dinov_status     status;

    *out = NULL;
    DINOV_TRY(dinov_ops_cpu(&ops, isa, err));
    dinov_host *e = dinov_calloc(1, sizeof *e);
    if (!e) return dinov_fail_nomem(err, "engine", "itself");
    DINOV_TRY_GOTO(dinov_pool_new(&e->pool, threads, err));
    e->lanes = dinov_calloc((size_t)dinov_pool_threads(e->pool), sizeof *e->lanes);
    if (!e->lanes) {
        status = dinov_fail_nomem(err, "engine", "its lanes");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_vit_init(&e->vit, weights, ops, e->pool, NULL, NULL, err));
    *out = e;
    return DINOV_OK;
fail:
    dinov_host_close(&e);
    return status;
}

void dinov_host_close(dinov_host **host)
{
    if (!*host) return;
    dinov_host *e = *host;
    *host         = NULL;
    for (int i = 0; e->lanes && i < dinov_pool_threads(e->pool); i++) dinov_free(e->lanes[i].memory);
    dinov_free(e->lanes);
    dinov_free(e->pos);
    dinov_vit_clear(&e->vit);
    dinov_pool_free(&e->pool);
    dinov_free(e);
}

const char *dinov_host_isa(const dinov_host *e) { return e->vit.ops->name; }
int         dinov_host_threads(const dinov_host *e) { return dinov_pool_threads(e->pool); }

struct run {
    dinov_host          *engine;
    const dinov_request *request;
    int64_t              group; /* pictures of one */
};

/* What a tap needs to put a group's rows in place. */
struct group {
    const struct run *run;
    int64_t           first, images;
};

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
    int64_t C = x->cols, N = g->run->request->h * g->run->request->w, R = g->run->engine->vit.config.registers, T = 1 + R + N;
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
    const struct group *g      = arg;
    const dinov_vit    *vit    = &g->run->engine->vit;
    bool                normed = false;

    for (size_t i = 0; i < g->run->request->count; i++) {
        const dinov_features *f = &g->run->request->features[i];
        if (dinov_block_of(f, vit->config.depth) != block) continue;
        if (!f->no_norm && !normed) {
            vit->ops->layernorm(s, spare, x, vit->norm_weight, vit->norm_bias, vit->config.ln_eps);
            normed = true;
        }
        take_features(g, f, f->no_norm ? x : spare);
    }
}

static void run_group(const struct run *run, int64_t index, dinov_pool *pool, struct lane *lane)
{
    const dinov_vit     *vit   = &run->engine->vit;
    const dinov_request *q     = run->request;
    int64_t              first = index * run->group;
    struct group         g     = {run, first, q->images - first < run->group ? q->images - first : run->group};
    int64_t              image = vit->config.channels * q->h * q->w * vit->config.patch * vit->config.patch;

    dinov_vit_forward(vit, &(dinov_stream){.pool = pool}, lane->memory, q->pixels + first * image, run->engine->pos, g.images, q->h,
                      q->w, q->last, tap, &g);
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
        return dinov_fail(err, DINOV_ERR_NOMEM, "MEM",
                          "engine: out of memory for %zu MiB of activations; a smaller picture or batch needs less", size >> 20);
    lane->size = size;
    return DINOV_OK;
}

static dinov_status prepare_pos(dinov_host *e, int64_t h, int64_t w, dinov_error *err)
{
    if (e->pos && e->pos_h == h && e->pos_w == w) return DINOV_OK;
    dinov_free(e->pos);
    e->pos = dinov_alloc_aligned((size_t)(1 + h * w), (size_t)e->vit.config.dim * sizeof(float));
    if (!e->pos) return dinov_fail_nomem(err, "engine", "position embeddings");
    dinov_status status = dinov_vit_pos(&e->vit, NULL, e->pos, h, w, err);
    if (status != DINOV_OK) {
        dinov_free(e->pos);
        e->pos = NULL;
        return status;
    }
    e->pos_h = h, e->pos_w = w;
    return DINOV_OK;
}

dinov_status dinov_host_run(dinov_host *e, const dinov_request *q, dinov_error *err)
{
    struct run run = {.engine = e, .request = q};
    int64_t    T   = 1 + e->vit.config.registers + q->h * q->w;
    run.group      = T < GROUP_TOKENS ? GROUP_TOKENS / T : 1;
    if (run.group > q->images) run.group = q->images;
    int64_t groups = (q->images + run.group - 1) / run.group, threads = dinov_host_threads(e);
    int64_t alone = threads > 1 ? groups - groups % threads : 0;

    DINOV_TRY(prepare_pos(e, q->h, q->w, err));
    DINOV_TRY(grow(&e->lanes[0], dinov_vit_memory(&e->vit, run.group, q->h, q->w, (int)threads), err));
    for (int64_t i = 1; alone && i < threads; i++)
        DINOV_TRY(grow(&e->lanes[i], dinov_vit_memory(&e->vit, run.group, q->h, q->w, 1), err));
    if (alone) dinov_pool_run(e->pool, alone, run_alone, &run);
    for (int64_t i = alone; i < groups; i++) run_group(&run, i, e->pool, &e->lanes[0]);
    return DINOV_OK;
}
