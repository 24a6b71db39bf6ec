/* SPDX-License-Identifier: Apache-2.0
 *
 * Training items are the weight of a linear layer, a panel at a time; its results for a batch of
 * queries go straight into each query's heap of the best so far, so nothing of size items x queries
 * is ever kept.
 */
#include "eval/knn.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL   = 1024, /* items at a time, and */
    QUERIES = 512,  /* queries against them: their products stay in cache */
    LOOK    = 16,   /* products looked at together; nearly all are too small */
};

/* ---- Neighbours ---- */

struct search {
    const dinov_ops *ops;
    dinov_stream     stream;
    int64_t          dim, k;
    float           *query;        /* [queries, dim], unit vectors */
    float           *raw, *unit;   /* [PANEL, dim] */
    void            *packed, *zero;
    float           *products;     /* [QUERIES, PANEL] */
    int64_t          first, count; /* of the panel */
    int64_t          held;         /* in each heap before the panel */
    dinov_neighbour *heap;         /* [QUERIES, k] of the batch: the worst of each on top */
};

/* Whether `a` is the worse neighbour. No two are equal, since items differ. */
static bool worse(dinov_neighbour a, dinov_neighbour b)
{
    return a.similarity < b.similarity || (a.similarity == b.similarity && a.item > b.item);
}

/* Puts `n` into the place `at` of a heap of `count`, whose subtree below `at` is in order. */
static void sift_down(dinov_neighbour *heap, int64_t count, int64_t at, dinov_neighbour n)
{
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], n)) break;
        heap[at] = heap[child];
    }
    heap[at] = n;
}

static void push(dinov_neighbour *heap, int64_t at, dinov_neighbour n)
{
    for (int64_t parent; at > 0 && worse(n, heap[parent = (at - 1) / 2]); at = parent) heap[at] = heap[parent];
    heap[at] = n;
}

static void select_row(void *arg, int64_t row, int worker)
{
    const struct search *s     = arg;
    const float         *value = s->products + row * PANEL;
    dinov_neighbour     *heap  = s->heap + row * s->k;
    int64_t              held = s->held, j = 0;

    (void)worker;
    for (; j < s->count && held < s->k; j++) push(heap, held++, (dinov_neighbour){value[j], (int32_t)(s->first + j)});
    while (j < s->count) {
        if (j + LOOK <= s->count) {
            float limit = heap[0].similarity;
            int   any   = 0;
            for (int i = 0; i < LOOK; i++) any |= value[j + i] > limit;
            if (!any) {
                j += LOOK;
                continue;
            }
        }
        /* A later item never displaces an equal earlier one. */
        int64_t end = j + LOOK < s->count ? j + LOOK : s->count;
        for (; j < end; j++)
            if (value[j] > heap[0].similarity)
                sift_down(heap, s->k, 0, (dinov_neighbour){value[j], (int32_t)(s->first + j)});
    }
}

/* A heap whose worst is on top becomes a row, best first. */
static void sort_row(void *arg, int64_t row, int worker)
{
    const struct search *s    = arg;
    dinov_neighbour     *heap = s->heap + row * s->k;

    (void)worker;
    for (int64_t left = s->k - 1; left > 0; left--) {
        dinov_neighbour worst = heap[0];
        sift_down(heap, left, 0, heap[left]);
        heap[left] = worst;
    }
}

static void unit_rows(struct search *s, float *out, const float *in, int64_t rows)
{
    dinov_mat x = {(void *)(uintptr_t)in, rows, s->dim, s->dim}, y = {out, rows, s->dim, s->dim};
    s->ops->normalize(&s->stream, &y, &x, 1e-12); /* torch.nn.functional.normalize's eps */
}

/* Rows first..first+count of the items as a packed weight of unit vectors. */
static void prepare_panel(struct search *s, const float *item, const int32_t *rows)
{
    if (rows) {
        for (int64_t i = 0; i < s->count; i++)
            memcpy(s->raw + i * s->dim, item + rows[s->first + i] * s->dim, (size_t)s->dim * sizeof *item);
        unit_rows(s, s->unit, s->raw, s->count);
    } else {
        unit_rows(s, s->unit, item + s->first * s->dim, s->count);
    }
    s->ops->linear_pack(&s->stream, s->packed, s->unit, s->count, s->dim, DINOV_ACT_NONE);
}

static void search_panel(struct search *s, dinov_neighbour *out, int64_t queries)
{
    dinov_linear weight = {s->count, s->dim, DINOV_ACT_NONE, s->packed, s->zero};
    for (int64_t begin = 0; begin < queries; begin += QUERIES) {
        int64_t   n = queries - begin < QUERIES ? queries - begin : QUERIES;
        dinov_mat x = {s->query + begin * s->dim, n, s->dim, s->dim}, y = {s->products, n, s->count, PANEL};
        s->ops->linear(&s->stream, &y, &x, &weight, NULL, NULL);
        s->heap = out + begin * s->k;
        dinov_pool_run(s->stream.pool, n, select_row, s);
    }
}

dinov_status dinov_neighbours(dinov_neighbour *out, int64_t k, const float *query, int64_t queries, const float *item,
                              const int32_t *rows, int64_t items, int64_t dim, const dinov_ops *ops, dinov_pool *pool,
                              dinov_error *err)
{
    struct search s      = {.ops = ops, .stream = {.pool = pool}, .dim = dim, .k = k};
    dinov_status  status = DINOV_OK;

    DINOV_ASSERT(k >= 1 && k <= items && items <= INT32_MAX && ops->real_size == sizeof(float));
    s.query    = dinov_alloc_aligned((size_t)queries, (size_t)dim * sizeof(float));
    s.raw      = dinov_alloc_aligned(PANEL, (size_t)dim * sizeof(float));
    s.unit     = dinov_alloc_aligned(PANEL, (size_t)dim * sizeof(float));
    s.packed   = dinov_alloc_aligned(ops->linear_size(PANEL, dim), sizeof(float));
    s.zero     = dinov_alloc_aligned(ops->linear_bias_size(PANEL), sizeof(float));
    s.products = dinov_alloc_aligned((size_t)QUERIES * PANEL, sizeof(float));
    if (!s.query || !s.raw || !s.unit || !s.packed || !s.zero || !s.products) {
        status = dinov_fail_nomem(err, "k-NN", "unit vectors and their products");
        goto fail;
    }
    ops->linear_pack_bias(&(dinov_stream){0}, s.zero, NULL, PANEL, DINOV_ACT_NONE);
    unit_rows(&s, s.query, query, queries);
    for (s.first = 0; s.first < items; s.first += PANEL) {
        s.count = items - s.first < PANEL ? items - s.first : PANEL;
        s.held  = s.first < k ? s.first : k;
        prepare_panel(&s, item, rows);
        search_panel(&s, out, queries);
    }
    s.heap = out;
    dinov_pool_run(pool, queries, sort_row, &s);
fail:
    dinov_free(s.query);
    dinov_free(s.raw);
    dinov_free(s.unit);
    dinov_free(s.packed);
    dinov_free(s.zero);
    dinov_free(s.products);
    return status;
}

/* ---- Votes ---- */

struct vote {
    const dinov_neighbour *near; /* [queries, nearest] */
    int64_t                nearest, classes;
    const int64_t         *k; /* [k_count], ascending */
    int                    k_count;
    double                 temperature;
    const int32_t         *label, *rows, *want; /* of the training items; which of them; of the queries */
    double                *weight;              /* [threads, classes], all zero between queries */
    int32_t               *voted;               /* [threads, nearest] */
    uint8_t               *rank;                /* [queries, k_count]: classes before the right one, 5 for more */
};

/* How many classes come before `want`: more votes, or as many and a lower number. */
static int64_t rank_of(const double *weight, const int32_t *voted, int64_t count, int32_t want)
{
    int64_t rank = weight[want] > 0 ? 0 : want;
    for (int64_t i = 0; i < count; i++) {
        int32_t c = voted[i];
        if (weight[want] == 0 && c < want) rank--; /* it was counted among those without a vote */
        rank += weight[c] > weight[want] || (weight[c] == weight[want] && c < want);
    }
    return rank;
}

static void vote_row(void *arg, int64_t query, int worker)
{
    const struct vote     *v      = arg;
    const dinov_neighbour *near   = v->near + query * v->nearest;
    double                *weight = v->weight + worker * v->classes;
    int32_t               *voted  = v->voted + worker * v->nearest;
    int64_t                count = 0, i = 0;

    for (int c = 0; c < v->k_count; c++) {
        for (; i < v->nearest && i < v->k[c]; i++) {
            int32_t item  = v->rows ? v->rows[near[i].item] : near[i].item;
            int32_t label = v->label[item];
            /* Weights in proportion to the softmax; the nearest has 1. */
            double votes = exp(((double)near[i].similarity - (double)near[0].similarity) / v->temperature);
            if (weight[label] == 0 && votes > 0) voted[count++] = label;
            weight[label] += votes;
        }
        int64_t rank                      = rank_of(weight, voted, count, v->want[query]);
        v->rank[query * v->k_count + c] = (uint8_t)(rank < 5 ? rank : 5);
    }
    for (i = 0; i < count; i++) weight[voted[i]] = 0;
}

/* Adds the accuracy of each k to `results`. */
static dinov_status vote(dinov_knn_result *results, struct vote *v, int64_t queries, dinov_pool *pool, dinov_error *err)
{
    size_t       threads = (size_t)dinov_pool_threads(pool);
    dinov_status status  = DINOV_OK;

    v->weight = dinov_calloc(threads * (size_t)v->classes, sizeof *v->weight);
    v->voted  = dinov_alloc(threads * (size_t)v->nearest, sizeof *v->voted);
    v->rank   = dinov_alloc((size_t)queries, (size_t)v->k_count);
    if (!v->weight || !v->voted || !v->rank) {
        status = dinov_fail_nomem(err, "k-NN", "votes");
        goto fail;
    }
    dinov_pool_run(pool, queries, vote_row, v);
    for (int c = 0; c < v->k_count; c++) {
        int64_t first = 0, five = 0;
        for (int64_t q = 0; q < queries; q++) {
            first += v->rank[q * v->k_count + c] == 0;
            five += v->rank[q * v->k_count + c] < 5;
        }
        results[c].top1 += (double)first / (double)queries;
        results[c].top5 += (double)five / (double)queries;
    }
fail:
    dinov_free(v->weight);
    dinov_free(v->voted);
    dinov_free(v->rank);
    return status;
}

/* ---- One evaluation ---- */

struct knn {
    const dinov_labelled    *train, *test;
    const dinov_knn_options *options;
    const dinov_ops         *ops;
    dinov_pool              *pool;
    int64_t                  classes;
    double                   temperature;
    int64_t                  k[DINOV_KNN_CHOICES + 1]; /* ascending */
    int                      k_count;
};

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The values of k for subsets of that size, -1 for the whole set. */
static void choose_k(struct knn *knn, int64_t per_class)
{
    static const int64_t     standard[] = {10, 20, 100, 200};
    const dinov_knn_options *o          = knn->options;
    const int64_t           *from       = o->k_count ? o->k : standard;
    int                      count      = o->k_count ? o->k_count : 4, kept = 0;

    for (int i = 0; i < count; i++) knn->k[i] = from[i];
    if (per_class > 0) knn->k[count++] = per_class;
    qsort(knn->k, (size_t)count, sizeof *knn->k, by_value);
    for (int i = 0; i < count; i++)
        if ((per_class < 0 || knn->k[i] <= per_class) && (kept == 0 || knn->k[i] != knn->k[kept - 1])) knn->k[kept++] = knn->k[i];
    knn->k_count = kept;
}

/* Against the `items` training rows named in `rows`, or all of them. Adds to `results` [k_count]. */
static dinov_status classify(dinov_knn_result *results, struct knn *knn, const int32_t *rows, int64_t items, dinov_error *err)
{
    const dinov_labelled *train = knn->train, *test = knn->test;
    int64_t               largest = knn->k[knn->k_count - 1], nearest = largest < items ? largest : items;
    dinov_neighbour      *near = dinov_alloc((size_t)test->count, (size_t)nearest * sizeof *near);
    dinov_status          status;

    if (!near) return dinov_fail_nomem(err, "k-NN", "neighbours");
    DINOV_TRY_GOTO(dinov_neighbours(near, nearest, test->cls[0], test->count, train->cls[0], rows, items, train->dim, knn->ops,
                                    knn->pool, err));
    struct vote v = {.near = near, .nearest = nearest, .classes = knn->classes, .k = knn->k, .k_count = knn->k_count,
                     .temperature = knn->temperature, .label = train->labels, .rows = rows, .want = test->labels};
    status        = vote(results, &v, test->count, knn->pool, err);
fail:
    dinov_free(near);
    return status;
}

/* Marks `per_class` items of every class, and lists the marked ones in their own order: rows [train->count]. */
static dinov_status draw_subset(int32_t *rows, int64_t *count, const struct knn *knn, int64_t per_class, int attempt,
                                dinov_error *err)
{
    const dinov_labelled *train  = knn->train;
    int32_t              *member = dinov_alloc((size_t)train->count, sizeof *member); /* items, class by class */
    int32_t              *order  = dinov_alloc((size_t)train->count, sizeof *order);
    int64_t              *begin  = dinov_calloc((size_t)knn->classes + 2, sizeof *begin);
    uint8_t              *marked = dinov_calloc((size_t)train->count, 1);
    dinov_status          status = DINOV_OK;

    if (!member || !order || !begin || !marked) {
        status = dinov_fail_nomem(err, "k-NN", "a subset");
        goto fail;
    }
    for (int64_t i = 0; i < train->count; i++) begin[train->labels[i] + 2]++;
    for (int64_t c = 0; c < knn->classes; c++) begin[c + 2] += begin[c + 1];
    for (int64_t i = 0; i < train->count; i++) member[begin[train->labels[i] + 1]++] = (int32_t)i;
    for (int64_t c = 0; c < knn->classes; c++) {
        int64_t   of  = begin[c + 1] - begin[c];
        dinov_rng rng = dinov_rng_make(knn->options->seed, DINOV_RNG_PROBE, (uint64_t)attempt, (uint64_t)c);
        dinov_rng_permutation(&rng, order, of);
        for (int64_t i = 0; i < of && i < per_class; i++) marked[member[begin[c] + order[i]]] = 1;
    }
    *count = 0;
    for (int64_t i = 0; i < train->count; i++)
        if (marked[i]) rows[(*count)++] = (int32_t)i;
fail:
    dinov_free(member);
    dinov_free(order);
    dinov_free(begin);
    dinov_free(marked);
    return status;
}

static dinov_status classify_subsets(dinov_knn_result *results, struct knn *knn, int64_t per_class, dinov_error *err)
{
    int          tries  = knn->options->tries ? knn->options->tries : 1;
    int32_t     *rows   = dinov_alloc((size_t)knn->train->count, sizeof *rows);
    dinov_status status = rows ? DINOV_OK : dinov_fail_nomem(err, "k-NN", "a subset");

    for (int t = 0; t < tries && status == DINOV_OK; t++) {
        int64_t count = 0;
        status        = draw_subset(rows, &count, knn, per_class, t, err);
        if (status == DINOV_OK) status = classify(results, knn, rows, count, err);
    }
    for (int c = 0; c < knn->k_count; c++) results[c].top1 /= tries, results[c].top5 /= tries;
    dinov_free(rows);
    return status;
}

static dinov_status check_options(const dinov_knn_options *o, dinov_error *err)
{
    DINOV_ASSERT(o->k_count >= 0 && o->k_count <= DINOV_KNN_CHOICES && o->tries >= 0);
    DINOV_ASSERT(o->per_class_count >= 0 && o->per_class_count <= DINOV_KNN_CHOICES);
    for (int i = 0; i < o->k_count; i++)
        if (o->k[i] < 1)
            return dinov_fail(err, DINOV_ERR_CONFIG, "EVAL-K", "k-NN: expected a number of neighbours of at least 1, found %lld",
                              (long long)o->k[i]);
    for (int i = 0; i < o->per_class_count; i++)
        if (o->per_class[i] == 0 || o->per_class[i] < -1)
            return dinov_fail(err, DINOV_ERR_CONFIG, "EVAL-K",
                              "k-NN: expected at least 1 item a class, or -1 for all of them, found %lld", (long long)o->per_class[i]);
    if (!(o->temperature >= 0) || !isfinite(o->temperature))
        return dinov_fail(err, DINOV_ERR_CONFIG, "EVAL-TEMPERATURE", "k-NN: expected a temperature above 0, found %g",
                          o->temperature);
    return DINOV_OK;
}

dinov_status dinov_knn(dinov_knn_result **out, int64_t *count, const dinov_labelled *train, const dinov_labelled *test,
                       const dinov_knn_options *options, const dinov_ops *ops, dinov_pool *pool, dinov_error *err)
{
    static const dinov_knn_options standard;
    const dinov_knn_options       *o      = options ? options : &standard;
    struct knn                     knn    = {.train = train, .test = test, .options = o, .ops = ops, .pool = pool};
    int                            groups = o->per_class_count ? o->per_class_count : 1;
    dinov_status                   status = DINOV_OK;

    DINOV_TRY(check_options(o, err));
    DINOV_TRY(dinov_labelled_check(train, test, &knn.classes, ops, pool, err));
    knn.temperature           = o->temperature > 0 ? o->temperature : 0.07;
    dinov_knn_result *results = dinov_calloc((size_t)groups * (DINOV_KNN_CHOICES + 1), sizeof *results);
    if (!results) return dinov_fail_nomem(err, "k-NN", "results");
    *count = 0;
    for (int g = 0; g < groups && status == DINOV_OK; g++) {
        int64_t           per_class = o->per_class_count ? o->per_class[g] : -1;
        dinov_knn_result *here      = results + *count;
        choose_k(&knn, per_class);
        for (int c = 0; c < knn.k_count; c++) here[c].per_class = per_class, here[c].k = knn.k[c];
        *count += knn.k_count;
        status = per_class < 0 ? classify(here, &knn, NULL, train->count, err) : classify_subsets(here, &knn, per_class, err);
    }
    if (status != DINOV_OK) {
        dinov_free(results);
        return status;
    }
    *out = results;
    return DINOV_OK;
}
