/* SPDX-License-Identifier: Apache-2.0
 *
 * A row of a batch is [cls of the fourth last block, ..., cls of the last, mean]: every kind of
 * classifier reads a range of its columns. Those of one kind, at all rates, are one linear layer of
 * rates * classes outputs.
 */
#include "eval/linear.h"

#include "base/alloc.h"
#include "base/arena.h"
#include "base/rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
    KINDS         = 4,
    EVALUATE_ROWS = 256,     /* at a time, or a batch of training if that is more */
    SMALL_STEP    = 1 << 22, /* products of a step that are done before threads have woken */
};

/* What a random stream of the probe is for: bits of its item above any class or classifier. */
static const uint64_t for_order = (uint64_t)1 << 40, for_weights = (uint64_t)2 << 40;

static const double standard_rates[] = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1};
static const double momentum         = 0.9;

/* The classifiers of one kind. */
struct kind {
    int     blocks, avgpool;
    int64_t column, inputs;                /* of a batch's row */
    float  *weight, *bias;                 /* [rates * classes, inputs], [rates * classes] */
    float  *weight_momentum, *bias_momentum; /* likewise: what SGD keeps, into which gradients are added */
    void   *packed, *packed_bias;
};

struct dinov_probe {
    const dinov_labelled  *train;
    const dinov_ops       *ops;
    dinov_stream           stream;
    dinov_pool            *pool, *step_pool; /* of evaluation and of training */
    int64_t                classes, batch, width, rows; /* width of a batch's row; rows that fit into x and z */
    int64_t                done, total;
    uint64_t               seed;
    int                    rate_count, kind_count;
    double                 rate[DINOV_PROBE_RATES];
    struct kind            kind[KINDS];
    dinov_probe_classifier classifier[KINDS * DINOV_PROBE_RATES];
    dinov_arena            arena;
    float                 *x;     /* [rows, width] */
    float                 *z;     /* [rows, rates * classes] */
    float                 *max;   /* [batch * rates]: largest logit, then log of the sum of exponentials */
    float                 *sum;   /* [batch * rates] */
    uint8_t               *rank;  /* [rows, rates]: classes before the right one, 5 for more */
    int32_t               *order; /* [train->count]: the pass under way */
    int64_t                pass;  /* whose order it is; -1: none */
    int32_t               *next;  /* [batch] */
};

/* ---- Classifiers and their names ---- */

static void name_classifier(dinov_probe_classifier *c, int decimals)
{
    snprintf(c->name, sizeof c->name, "classifier_%d_blocks_avgpool_%s_lr_%.*f", c->blocks, c->avgpool ? "True" : "False", decimals,
             c->rate);
    for (char *p = c->name; *p; p++)
        if (*p == '.') *p = '_';
}

static bool name_taken(const dinov_probe_classifier *of, int from, int count, const char *name)
{
    for (int i = from; i < count; i++)
        if (strcmp(of[i].name, name) == 0) return true;
    return false;
}

/* From the largest rate down, so that the name goes to the one that upstream keeps. */
static void name_kind(dinov_probe_classifier *c, int count)
{
    for (int i = count - 1; i >= 0; i--) {
        int decimals = 5;
        do {
            name_classifier(&c[i], decimals++);
        } while (name_taken(c, i + 1, count, c[i].name) && decimals < 30);
    }
}

static dinov_status choose_rates(dinov_probe *p, const dinov_probe_options *o, dinov_error *err)
{
    const double *from = o->rate_count ? o->rates : standard_rates;
    p->rate_count      = o->rate_count ? o->rate_count : (int)(sizeof standard_rates / sizeof *standard_rates);
    DINOV_ASSERT(p->rate_count <= DINOV_PROBE_RATES);
    for (int r = 0; r < p->rate_count; r++) {
        if (!(from[r] >= 1e-12 && from[r] <= 1e6) || (r && from[r] <= from[r - 1]))
            return dinov_fail(err, DINOV_ERR_CONFIG, "EVAL-RATE",
                              "linear: expected learning rates from 1e-12 to 1e6, each larger than the one before, found %g", from[r]);
        p->rate[r] = from[r] * (double)p->batch / 256.0;
    }
    return DINOV_OK;
}

static void add_kind(dinov_probe *p, int blocks, int avgpool)
{
    int64_t                 dim = p->train->dim, all = p->train->cls[1] ? DINOV_LABELLED_BLOCKS : 1;
    struct kind            *k   = &p->kind[p->kind_count];
    dinov_probe_classifier *c   = &p->classifier[p->kind_count * p->rate_count];

    *k = (struct kind){.blocks = blocks, .avgpool = avgpool, .column = (all - blocks) * dim, .inputs = (blocks + avgpool) * dim};
    for (int r = 0; r < p->rate_count; r++) c[r] = (dinov_probe_classifier){.blocks = blocks, .avgpool = avgpool, .rate = p->rate[r]};
    name_kind(c, p->rate_count);
    p->kind_count++;
}

static void lay_out(dinov_probe *p)
{
    int64_t outputs = p->rate_count * p->classes;
    for (struct kind *k = p->kind; k < p->kind + p->kind_count; k++) {
        k->weight          = dinov_arena_take(&p->arena, outputs * k->inputs, sizeof(float));
        k->bias            = dinov_arena_take(&p->arena, outputs, sizeof(float));
        k->weight_momentum = dinov_arena_take(&p->arena, outputs * k->inputs, sizeof(float));
        k->bias_momentum   = dinov_arena_take(&p->arena, outputs, sizeof(float));
        k->packed          = dinov_arena_take(&p->arena, (int64_t)p->ops->linear_size(outputs, k->inputs), sizeof(float));
        k->packed_bias     = dinov_arena_take(&p->arena, (int64_t)p->ops->linear_bias_size(outputs), sizeof(float));
    }
    p->x     = dinov_arena_take(&p->arena, p->rows * p->width, sizeof(float));
    p->z     = dinov_arena_take(&p->arena, p->rows * outputs, sizeof(float));
    p->max   = dinov_arena_take(&p->arena, p->batch * p->rate_count, sizeof(float));
    p->sum   = dinov_arena_take(&p->arena, p->batch * p->rate_count, sizeof(float));
    p->rank  = dinov_arena_take(&p->arena, p->rows * p->rate_count, 1);
    p->order = dinov_arena_take(&p->arena, p->train->count, sizeof *p->order);
    p->next  = dinov_arena_take(&p->arena, p->batch, sizeof *p->next);
}

static void draw_weights(void *arg, int64_t classifier, int worker)
{
    dinov_probe *p   = arg;
    dinov_rng    rng = dinov_rng_make(p->seed, DINOV_RNG_PROBE, 0, for_weights | (uint64_t)classifier);
    float       *weight, *bias;
    int64_t      inputs = dinov_probe_weights(p, (int)classifier, &weight, &bias);

    (void)worker;
    for (int64_t i = 0; i < p->classes * inputs; i++) weight[i] = (float)(0.01 * dinov_rng_normal(&rng));
}

dinov_status dinov_probe_new(dinov_probe **out, const dinov_labelled *train, int64_t classes, const dinov_probe_options *options,
                             const dinov_ops *ops, dinov_pool *pool, dinov_error *err)
{
    static const dinov_probe_options standard;
    const dinov_probe_options       *o = options ? options : &standard;
    dinov_probe                     *p = dinov_calloc(1, sizeof *p);
    dinov_status                     status;

    if (!p) return dinov_fail_nomem(err, "linear probe", "its classifiers");
    DINOV_ASSERT(ops->real_size == sizeof(float) && o->batch >= 0 && o->iterations >= 0);
    p->train   = train;
    p->ops     = ops;
    p->pool    = pool;
    p->classes = classes;
    p->batch   = o->batch ? o->batch : 128;
    p->total   = o->iterations ? o->iterations : 12500;
    p->seed    = o->seed;
    p->width   = ((train->cls[1] ? DINOV_LABELLED_BLOCKS : 1) + (train->mean != NULL)) * train->dim;
    p->rows    = p->batch > EVALUATE_ROWS ? p->batch : EVALUATE_ROWS;
    p->pass    = -1;
    DINOV_TRY_GOTO(choose_rates(p, o, err));
    for (int blocks = 1; blocks <= (train->cls[1] ? DINOV_LABELLED_BLOCKS : 1); blocks += DINOV_LABELLED_BLOCKS - 1)
        for (int avgpool = 0; avgpool <= (train->mean != NULL); avgpool++) add_kind(p, blocks, avgpool);
    lay_out(p);
    DINOV_TRY_GOTO(dinov_arena_allocate(&p->arena, "linear probe", err));
    lay_out(p);
    int64_t products = 0;
    for (int k = 0; k < p->kind_count; k++) products += p->batch * p->rate_count * classes * p->kind[k].inputs;
    p->step_pool = products < SMALL_STEP ? NULL : pool;
    dinov_pool_run(pool, dinov_probe_count(p), draw_weights, p);
    *out = p;
    return DINOV_OK;
fail:
    dinov_probe_free(&p);
    return status;
}

void dinov_probe_free(dinov_probe **probe)
{
    if (!probe || !*probe) return;
    dinov_arena_clear(&(*probe)->arena);
    dinov_free(*probe);
    *probe = NULL;
}

int dinov_probe_count(const dinov_probe *p) { return p->kind_count * p->rate_count; }

const dinov_probe_classifier *dinov_probe_get(const dinov_probe *p, int classifier) { return &p->classifier[classifier]; }

int64_t dinov_probe_done(const dinov_probe *p) { return p->done; }
int64_t dinov_probe_total(const dinov_probe *p) { return p->total; }

int64_t dinov_probe_weights(dinov_probe *p, int classifier, float **weight, float **bias)
{
    struct kind *k     = &p->kind[classifier / p->rate_count];
    int64_t      first = classifier % p->rate_count * p->classes;
    *weight            = k->weight + first * k->inputs;
    *bias              = k->bias + first;
    return k->inputs;
}

/* ---- Forward ---- */

struct gather {
    float                *x;
    int64_t               width;
    const dinov_labelled *set;
    const int32_t        *rows; /* NULL: those from `first` on */
    int64_t               first;
};

static void gather_row(void *arg, int64_t i, int worker)
{
    const struct gather *g   = arg;
    int64_t              row = g->rows ? g->rows[i] : g->first + i, dim = g->set->dim;
    float               *to  = g->x + i * g->width;

    (void)worker;
    for (int b = DINOV_LABELLED_BLOCKS - 1; b >= 0; b--) {
        if (!g->set->cls[b]) continue;
        memcpy(to, g->set->cls[b] + row * dim, (size_t)dim * sizeof *to);
        to += dim;
    }
    if (g->set->mean) memcpy(to, g->set->mean + row * dim, (size_t)dim * sizeof *to);
}

static dinov_mat inputs_of(const dinov_probe *p, const struct kind *k, int64_t rows)
{
    return (dinov_mat){p->x + k->column, rows, k->inputs, p->width};
}

static dinov_mat outputs_of(const dinov_probe *p, int64_t rows)
{
    int64_t outputs = p->rate_count * p->classes;
    return (dinov_mat){p->z, rows, outputs, outputs};
}

static void pack_kind(dinov_probe *p, const struct kind *k)
{
    p->ops->linear_pack(&p->stream, k->packed, k->weight, p->rate_count * p->classes, k->inputs, DINOV_ACT_NONE);
    p->ops->linear_pack_bias(&p->stream, k->packed_bias, k->bias, p->rate_count * p->classes, DINOV_ACT_NONE);
}

static void forward_kind(dinov_probe *p, const struct kind *k, int64_t rows)
{
    dinov_mat    x = inputs_of(p, k, rows), z = outputs_of(p, rows);
    dinov_linear w = {z.cols, k->inputs, DINOV_ACT_NONE, k->packed, k->packed_bias};
    p->ops->linear(&p->stream, &z, &x, &w, NULL, NULL);
}

/* ---- Training ---- */

struct loss {
    const dinov_probe *p;
    const int32_t     *rows;
};

/* Probabilities of one row become the gradient of the mean cross-entropy: (softmax - one hot) / batch. */
static void loss_row(void *arg, int64_t i, int worker)
{
    const struct loss *job   = arg;
    const dinov_probe *p     = job->p;
    int32_t            want  = p->train->labels[job->rows[i]];
    float              share = 1 / (float)p->batch;

    (void)worker;
    for (int r = 0; r < p->rate_count; r++) {
        float *z = p->z + (i * p->rate_count + r) * p->classes;
        z[want] -= 1;
        for (int64_t c = 0; c < p->classes; c++) z[c] *= share;
    }
}

/* Logits of a batch become gradients. */
static void loss_of(dinov_probe *p, const int32_t *rows)
{
    struct loss loss   = {p, rows};
    int64_t     groups = p->batch * p->rate_count;
    dinov_mat   z      = {p->z, groups, p->classes, p->classes}; /* a row for each classifier */

    for (int64_t g = 0; g < groups; g++) p->max[g] = -INFINITY, p->sum[g] = 0;
    p->ops->softmax_stats(&p->stream, p->max, p->sum, &z, NULL, 1);
    for (int64_t g = 0; g < groups; g++) p->max[g] += logf(p->sum[g]);
    p->ops->softmax_apply(&p->stream, &z, NULL, NULL, p->max, 1);
    dinov_pool_run(p->stream.pool, p->batch, loss_row, &loss);
}

struct update {
    const dinov_probe *p;
    const struct kind *k;
    double             cosine;
};

/* One class of one classifier: momentum holds this step's value, and is left as the next one adds to it. */
static void update_row(void *arg, int64_t row, int worker)
{
    const struct update *u    = arg;
    const struct kind   *k    = u->k;
    float                rate = (float)(u->p->rate[row / u->p->classes] * u->cosine), keep = (float)momentum;
    float               *w = k->weight + row * k->inputs, *m = k->weight_momentum + row * k->inputs;

    (void)worker;
    for (int64_t i = 0; i < k->inputs; i++) {
        w[i] -= rate * m[i];
        m[i] *= keep;
    }
    k->bias[row] -= rate * k->bias_momentum[row];
    k->bias_momentum[row] *= keep;
}

void dinov_probe_step(dinov_probe *p, const int32_t *rows)
{
    const double  pi     = 3.141592653589793238463;
    struct gather gather = {p->x, p->width, p->train, rows, 0};
    struct update update = {.p = p, .cosine = (1 + cos(pi * (double)p->done / (double)p->total)) / 2};

    DINOV_ASSERT(p->done < p->total);
    p->stream.pool = p->step_pool;
    dinov_pool_run(p->stream.pool, p->batch, gather_row, &gather);
    for (struct kind *k = p->kind; k < p->kind + p->kind_count; k++) {
        dinov_mat x = inputs_of(p, k, p->batch), z = outputs_of(p, p->batch);
        pack_kind(p, k);
        forward_kind(p, k, p->batch);
        loss_of(p, rows);
        p->ops->linear_backward(&p->stream, k->weight_momentum, k->bias_momentum, &z, &x);
        update.k = k;
        dinov_pool_run(p->stream.pool, z.cols, update_row, &update);
    }
    p->done++;
}

/* The `n`-th sample of an endless row of passes. */
static int32_t sample_at(dinov_probe *p, int64_t n)
{
    int64_t count = p->train->count;
    if (p->pass != n / count) {
        p->pass       = n / count;
        dinov_rng rng = dinov_rng_make(p->seed, DINOV_RNG_PROBE, (uint64_t)p->pass & UINT32_MAX, for_order);
        dinov_rng_permutation(&rng, p->order, count);
    }
    return p->order[n % count];
}

void dinov_probe_train(dinov_probe *p, int64_t iterations)
{
    for (int64_t i = 0; i < iterations && p->done < p->total; i++) {
        for (int64_t b = 0; b < p->batch; b++) p->next[b] = sample_at(p, p->done * p->batch + b);
        dinov_probe_step(p, p->next);
    }
}

/* ---- Evaluation ---- */

struct judge {
    const dinov_probe    *p;
    const dinov_labelled *set;
    int64_t               first;
};

static void judge_row(void *arg, int64_t i, int worker)
{
    const struct judge *job  = arg;
    const dinov_probe  *p    = job->p;
    int32_t             want = job->set->labels[job->first + i];

    (void)worker;
    for (int r = 0; r < p->rate_count; r++) {
        const float *z    = p->z + (i * p->rate_count + r) * p->classes;
        int64_t      rank = 0;
        bool         sane = true;
        for (int64_t c = 0; c < p->classes; c++) {
            rank += z[c] > z[want] || (z[c] == z[want] && c < want);
            sane &= !isnan(z[c]);
        }
        p->rank[i * p->rate_count + r] = (uint8_t)(sane && rank < 5 ? rank : 5);
    }
}

dinov_status dinov_probe_evaluate(dinov_probe *p, const dinov_labelled *test, dinov_probe_score *scores, dinov_error *err)
{
    for (int b = 0; b < DINOV_LABELLED_BLOCKS; b++)
        if (!test->cls[b] != !p->train->cls[b] || !test->mean != !p->train->mean)
            return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-KINDS", "%s: has other kinds of features than the %s", test->name,
                              p->train->name);
    p->stream.pool = p->pool;
    for (int i = 0; i < dinov_probe_count(p); i++) scores[i] = (dinov_probe_score){0};
    for (int k = 0; k < p->kind_count; k++) pack_kind(p, &p->kind[k]);
    for (int64_t first = 0; first < test->count; first += p->rows) {
        int64_t       n      = test->count - first < p->rows ? test->count - first : p->rows;
        struct gather gather = {p->x, p->width, test, NULL, first};
        struct judge  judge  = {p, test, first};
        dinov_pool_run(p->stream.pool, n, gather_row, &gather);
        for (int k = 0; k < p->kind_count; k++) {
            forward_kind(p, &p->kind[k], n);
            dinov_pool_run(p->stream.pool, n, judge_row, &judge);
            for (int64_t i = 0; i < n * p->rate_count; i++) {
                dinov_probe_score *score = &scores[k * p->rate_count + i % p->rate_count];
                score->top1 += p->rank[i] == 0;
                score->top5 += p->rank[i] < 5;
            }
        }
    }
    for (int i = 0; i < dinov_probe_count(p); i++) {
        scores[i].top1 /= (double)test->count;
        scores[i].top5 /= (double)test->count;
    }
    return DINOV_OK;
}

int dinov_probe_best(const dinov_probe *p, const dinov_probe_score *scores)
{
    int best = 0;
    for (int i = 1; i < dinov_probe_count(p); i++)
        if (scores[i].top1 > scores[best].top1) best = i;
    return best;
}
