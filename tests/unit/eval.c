/* SPDX-License-Identifier: Apache-2.0
 *
 * k-NN and the linear probe as their caller sees them: a plain recount of the neighbours and votes, ties,
 * sets smaller than k, subsets, the same bits for any number of threads, names of classifiers, and what is
 * refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "eval/knn.h"
#include "eval/linear.h"

enum { DIM = 20, CLASSES = 7, TRAIN = 2500, TEST = 530 }; /* more than two panels, more than a batch of queries */

static float   train_x[TRAIN * DIM], test_x[TEST * DIM];
static int32_t train_y[TRAIN], test_y[TEST];

static uint64_t noise_state;

static float noise(void)
{
    noise_state ^= noise_state << 13, noise_state ^= noise_state >> 7, noise_state ^= noise_state << 17;
    return (float)(noise_state >> 40) * 0x1p-23f - 1.0f;
}

static void cloud(float *x, int32_t *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        y[i] = (int32_t)((noise_state >> 20) % CLASSES);
        for (int64_t d = 0; d < DIM; d++) x[i * DIM + d] = noise() + (d == y[i] ? 0.8f : 0);
    }
}

static int make_sets(void **state)
{
    (void)state;
    noise_state = 88172645463325252u;
    cloud(train_x, train_y, TRAIN);
    cloud(test_x, test_y, TEST);
    return 0;
}

static dinov_labelled train_set(int64_t count)
{
    return (dinov_labelled){.cls = {train_x}, .labels = train_y, .count = count, .dim = DIM, .name = "training set"};
}

static dinov_labelled test_set(int64_t count)
{
    return (dinov_labelled){.cls = {test_x}, .labels = test_y, .count = count, .dim = DIM, .name = "test set"};
}

static const dinov_ops *fastest(void)
{
    const dinov_ops *ops;
    assert_int_equal(dinov_ops_cpu(&ops, NULL, NULL), DINOV_OK);
    return ops;
}

static dinov_pool *threads(int count)
{
    dinov_pool *pool;
    assert_int_equal(dinov_pool_new(&pool, count, NULL), DINOV_OK);
    return pool;
}

#define assert_refused(call, want_status, want_code)      \
    do {                                                  \
        dinov_error refused = {0};                        \
        dinov_error *err    = &refused;                   \
        assert_int_equal(call, want_status);              \
        assert_string_equal(refused.code, want_code);     \
    } while (0)

/* ---- k-NN ---- */

/* The k nearest of one query, by looking at all. */
static void plain_neighbours(int64_t *out, int64_t k, const float *query, int64_t items)
{
    static double similarity[TRAIN];
    for (int64_t i = 0; i < items; i++) {
        double dot = 0, q = 0, n = 0;
        for (int64_t d = 0; d < DIM; d++) {
            double a = (double)query[d], b = (double)train_x[i * DIM + d];
            dot += a * b, q += a * a, n += b * b;
        }
        similarity[i] = dot / sqrt(q * n);
    }
    for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < items; i++)
            if (similarity[i] > -2 && (best < 0 || similarity[i] > similarity[best])) best = i;
        out[j]           = best;
        similarity[best] = -3;
    }
}

static void neighbours_are_the_nearest(void **state)
{
    (void)state;
    enum { K = 30 };
    for (const char *const *isa = dinov_ops_cpu_names(); *isa; isa++) {
        const dinov_ops *ops;
        int64_t          want[K];
        dinov_neighbour *got = malloc(TEST * K * sizeof *got);
        assert_int_equal(dinov_ops_cpu(&ops, *isa, NULL), DINOV_OK);
        assert_int_equal(dinov_neighbours(got, K, test_x, TEST, train_x, NULL, TRAIN, DIM, ops, NULL, NULL), DINOV_OK);
        for (int64_t q = 0; q < TEST; q += 7) {
            plain_neighbours(want, K, test_x + q * DIM, TRAIN);
            for (int64_t j = 0; j < K; j++) assert_int_equal(got[q * K + j].item, want[j]);
        }
        free(got);
    }
}

static void equal_items_come_in_their_order(void **state)
{
    (void)state;
    enum { COUNT = 2100, K = 12 };
    float           *item  = calloc(COUNT * 2, sizeof *item), query[] = {1, 0};
    dinov_neighbour  got[K];
    const int64_t    nearest[] = {3, 900, 1023, 1024, 2099};
    for (int64_t i = 0; i < COUNT; i++) item[2 * i + 1] = 1; /* all equal, at a right angle */
    for (int i = 0; i < 5; i++) item[2 * nearest[i]] = 1, item[2 * nearest[i] + 1] = 0;
    assert_int_equal(dinov_neighbours(got, K, query, 1, item, NULL, COUNT, 2, fastest(), NULL, NULL), DINOV_OK);
    for (int i = 0; i < 5; i++) assert_int_equal(got[i].item, nearest[i]);
    const int32_t rest[] = {0, 1, 2, 4, 5, 6, 7};
    for (int i = 5; i < K; i++) assert_int_equal(got[i].item, rest[i - 5]);
    free(item);
}

static void results_do_not_depend_on_threads(void **state)
{
    (void)state;
    dinov_labelled    train = train_set(TRAIN), test = test_set(TEST);
    dinov_knn_options o   = {.k = {1, 5, 50}, .k_count = 3, .per_class = {-1, 20}, .per_class_count = 2, .tries = 3, .seed = 4};
    dinov_knn_result *one, *three;
    dinov_pool       *pool = threads(3);
    int64_t           count, count3;
    enum { K = 40 };
    static dinov_neighbour a[TEST * K], b[TEST * K];

    assert_int_equal(dinov_knn(&one, &count, &train, &test, &o, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(dinov_knn(&three, &count3, &train, &test, &o, fastest(), pool, NULL), DINOV_OK);
    assert_int_equal(count, 6); /* 1, 5, 50; 1, 5, 20 */
    assert_int_equal(count3, count);
    assert_memory_equal(one, three, (size_t)count * sizeof *one);
    assert_int_equal(one[5].k, 20);
    assert_int_equal(one[5].per_class, 20);
    assert_true(one[2].top1 > 0.4 && one[2].top1 < 1 && one[2].top5 > one[2].top1);
    assert_int_equal(dinov_neighbours(a, K, test_x, TEST, train_x, NULL, TRAIN, DIM, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(dinov_neighbours(b, K, test_x, TEST, train_x, NULL, TRAIN, DIM, fastest(), pool, NULL), DINOV_OK);
    assert_memory_equal(a, b, sizeof a);
    dinov_pool_free(&pool);
    dinov_free(one), dinov_free(three);
}

static void votes_are_counted_as_defined(void **state)
{
    (void)state;
    enum { K = 15, COUNT = 400 };
    dinov_labelled    train = train_set(COUNT), test = test_set(TEST);
    dinov_knn_options o = {.k = {K}, .k_count = 1, .temperature = 0.2};
    dinov_knn_result *r;
    int64_t           count, near[K], first = 0, five = 0;
    static dinov_neighbour n[TEST * K];

    assert_int_equal(dinov_neighbours(n, K, test_x, TEST, train_x, NULL, COUNT, DIM, fastest(), NULL, NULL), DINOV_OK);
    for (int64_t q = 0; q < TEST; q++) {
        double votes[CLASSES] = {0};
        int    before         = 0;
        plain_neighbours(near, K, test_x + q * DIM, COUNT);
        for (int64_t j = 0; j < K; j++) votes[train_y[near[j]]] += exp((double)n[q * K + j].similarity / 0.2);
        for (int c = 0; c < CLASSES; c++)
            before += votes[c] > votes[test_y[q]] || (votes[c] == votes[test_y[q]] && c < test_y[q]);
        first += before == 0, five += before < 5;
    }
    assert_int_equal(dinov_knn(&r, &count, &train, &test, &o, fastest(), NULL, NULL), DINOV_OK);
    assert_true(r->top1 == (double)first / TEST);
    assert_true(r->top5 == (double)five / TEST);
    dinov_free(r);
}

static void fewer_items_than_k_all_vote(void **state)
{
    (void)state;
    /* Four items, three of class 2 and the nearest of class 5; for k above 1 the three outvote it. */
    float             x[] = {1, 0, 0.9f, 0.1f, 0.9f, 0.1f, 0.9f, 0.1f}, query[] = {1, 0};
    int32_t           y[] = {5, 2, 2, 2}, want[] = {2};
    dinov_labelled    train = {.cls = {x}, .labels = y, .count = 4, .dim = 2, .name = "a"};
    dinov_labelled    test  = {.cls = {query}, .labels = want, .count = 1, .dim = 2, .name = "b"};
    dinov_knn_options o     = {.k = {1, 4, 1000}, .k_count = 3};
    dinov_knn_result *r;
    int64_t           count;
    assert_int_equal(dinov_knn(&r, &count, &train, &test, &o, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(count, 3);
    assert_true(r[0].top1 == 0 && r[1].top1 == 1 && r[2].top1 == 1);
    /* With one neighbour of class 5, classes 0 to 3 are the others of the first five: lower classes go first. */
    assert_true(r[0].top5 == 1);
    want[0] = 4;
    dinov_free(r);
    assert_int_equal(dinov_knn(&r, &count, &train, &test, &o, fastest(), NULL, NULL), DINOV_OK);
    assert_true(r[0].top5 == 0);
    dinov_free(r);
}

static void defaults_are_upstreams(void **state)
{
    (void)state;
    dinov_labelled    train = train_set(TRAIN), test = test_set(TEST);
    dinov_knn_result *r;
    int64_t           count;
    const int64_t     k[] = {10, 20, 100, 200};
    assert_int_equal(dinov_knn(&r, &count, &train, &test, NULL, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(count, 4);
    for (int i = 0; i < 4; i++) assert_int_equal(r[i].k, k[i]), assert_int_equal(r[i].per_class, -1);
    dinov_free(r);
}

static void subsets_depend_on_seed_alone(void **state)
{
    (void)state;
    dinov_labelled    train = train_set(TRAIN), test = test_set(TEST);
    dinov_knn_options o = {.k = {5}, .k_count = 1, .per_class = {5}, .per_class_count = 1};
    dinov_knn_result *r;
    int64_t           count;
    double            got[3];
    for (uint64_t i = 0; i < 3; i++) {
        o.seed = i / 2; /* 0 0 1 */
        assert_int_equal(dinov_knn(&r, &count, &train, &test, &o, fastest(), NULL, NULL), DINOV_OK);
        got[i] = r->top1;
        dinov_free(r);
    }
    assert_true(got[0] == got[1]);
    assert_true(got[0] != got[2]);
    /* More a class than there are is the whole set. */
    o.per_class[0] = 100000;
    dinov_knn_result *all;
    dinov_knn_options whole = {.k = {5}, .k_count = 1};
    assert_int_equal(dinov_knn(&r, &count, &train, &test, &o, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(dinov_knn(&all, &count, &train, &test, &whole, fastest(), NULL, NULL), DINOV_OK);
    assert_true(r[0].k == 5 && r[0].top1 == all->top1 && r[0].top5 == all->top5);
    dinov_free(r), dinov_free(all);
}

static void bad_sets_are_refused(void **state)
{
    (void)state;
    dinov_labelled    train = train_set(TRAIN), test = test_set(TEST), odd;
    dinov_knn_options o = {0};
    dinov_knn_result *r;
    int64_t           count, classes;
    const dinov_ops  *ops = fastest();

    odd = test, odd.dim = DIM - 1;
    assert_refused(dinov_knn(&r, &count, &train, &odd, NULL, ops, NULL, err), DINOV_ERR_SHAPE, "EVAL-DIM");
    odd = train, odd.count = 0;
    assert_refused(dinov_knn(&r, &count, &odd, &test, NULL, ops, NULL, err), DINOV_ERR_SHAPE, "EVAL-EMPTY");
    odd = train, odd.count = (int64_t)1 << 31;
    assert_refused(dinov_labelled_check(&odd, &test, &classes, ops, NULL, err), DINOV_ERR_LIMIT, "EVAL-LARGE");

    const int32_t bad_labels[] = {-1, CLASSES, INT32_MAX};
    for (int i = 0; i < 3; i++) {
        int32_t kept = test_y[3];
        test_y[3]    = bad_labels[i];
        assert_refused(dinov_knn(&r, &count, &train, &test, NULL, ops, NULL, err), DINOV_ERR_SHAPE, "EVAL-LABEL");
        test_y[3] = kept;
    }
    const float bad_values[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float kept     = train_x[DIM + 2];
        train_x[DIM + 2] = bad_values[i];
        dinov_error why;
        assert_int_equal(dinov_knn(&r, &count, &train, &test, NULL, ops, NULL, &why), DINOV_ERR_CORRUPT);
        assert_string_equal(why.code, "EVAL-FINITE");
        assert_non_null(strstr(why.msg, "training set: CLS vectors: row 1, value 2 "));
        train_x[DIM + 2] = kept;
    }
    o = (dinov_knn_options){.k = {0}, .k_count = 1};
    assert_refused(dinov_knn(&r, &count, &train, &test, &o, ops, NULL, err), DINOV_ERR_CONFIG, "EVAL-K");
    o = (dinov_knn_options){.per_class = {0}, .per_class_count = 1};
    assert_refused(dinov_knn(&r, &count, &train, &test, &o, ops, NULL, err), DINOV_ERR_CONFIG, "EVAL-K");
    o = (dinov_knn_options){.temperature = -1};
    assert_refused(dinov_knn(&r, &count, &train, &test, &o, ops, NULL, err), DINOV_ERR_CONFIG, "EVAL-TEMPERATURE");
}

static void zero_and_huge_vectors_are_no_trouble(void **state)
{
    (void)state;
    float             x[] = {0, 0, 3e38f, 3e38f, 1e-38f, 0}, query[] = {0, 0, 1e38f, 1e38f};
    int32_t           y[] = {0, 1, 1}, want[] = {0, 1};
    dinov_labelled    train = {.cls = {x}, .labels = y, .count = 3, .dim = 2, .name = "a"};
    dinov_labelled    test  = {.cls = {query}, .labels = want, .count = 2, .dim = 2, .name = "b"};
    dinov_knn_result *r;
    int64_t           count;
    assert_int_equal(dinov_knn(&r, &count, &train, &test, NULL, fastest(), NULL, NULL), DINOV_OK);
    assert_true(r[0].top5 == 1);
    dinov_free(r);
}

/* ---- Linear probe ---- */

static dinov_labelled with_blocks(dinov_labelled set)
{
    /* Shifted by rows: other features of as many rows. */
    for (int b = 1; b < DINOV_LABELLED_BLOCKS; b++) set.cls[b] = set.cls[0];
    set.mean = set.cls[0];
    return set;
}

static void probe_names_are_upstreams(void **state)
{
    (void)state;
    dinov_labelled      train = with_blocks(train_set(100));
    dinov_probe_options o     = {.batch = 1024}; /* upstream's own eight times 128 */
    dinov_probe        *p;
    assert_int_equal(dinov_probe_new(&p, &train, CLASSES, &o, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(dinov_probe_count(p), 52);
    assert_string_equal(dinov_probe_get(p, 0)->name, "classifier_1_blocks_avgpool_False_lr_0_00004");
    assert_string_equal(dinov_probe_get(p, 13)->name, "classifier_1_blocks_avgpool_True_lr_0_00004");
    assert_string_equal(dinov_probe_get(p, 26 + 5)->name, "classifier_4_blocks_avgpool_False_lr_0_00200");
    assert_string_equal(dinov_probe_get(p, 51)->name, "classifier_4_blocks_avgpool_True_lr_0_40000");
    dinov_probe_free(&p);
    /* On one device the two smallest rates share a name: upstream keeps the larger. */
    assert_int_equal(dinov_probe_new(&p, &train, CLASSES, NULL, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(dinov_probe_total(p), 12500);
    assert_string_equal(dinov_probe_get(p, 0)->name, "classifier_1_blocks_avgpool_False_lr_0_000005");
    assert_string_equal(dinov_probe_get(p, 1)->name, "classifier_1_blocks_avgpool_False_lr_0_00001");
    assert_string_equal(dinov_probe_get(p, 12)->name, "classifier_1_blocks_avgpool_False_lr_0_05000");
    dinov_probe_free(&p);
    train.cls[1] = NULL;
    assert_int_equal(dinov_probe_new(&p, &train, CLASSES, NULL, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(dinov_probe_count(p), 26);
    dinov_probe_free(&p);
    train.mean = NULL;
    assert_int_equal(dinov_probe_new(&p, &train, CLASSES, NULL, fastest(), NULL, NULL), DINOV_OK);
    assert_int_equal(dinov_probe_count(p), 13);
    dinov_probe_free(&p);
}

static void probe_learns_the_same_bits_with_any_threads(void **state)
{
    (void)state;
    dinov_labelled      train = with_blocks(train_set(1000)), test = with_blocks(test_set(TEST));
    /* Steps large enough for threads. */
    dinov_probe_options o    = {.rates = {0.002, 0.02, 0.2}, .rate_count = 3, .batch = 1024, .iterations = 90, .seed = 9};
    dinov_pool         *pool = threads(3);
    dinov_probe_score   score[2][12];
    dinov_probe        *p[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dinov_probe_new(&p[i], &train, CLASSES, &o, fastest(), i ? pool : NULL, NULL), DINOV_OK);
        /* In one go, and in pieces. */
        if (i == 0) dinov_probe_train(p[i], 1000);
        for (int k = 0; i == 1 && k < 10; k++) dinov_probe_train(p[i], 11);
        assert_int_equal(dinov_probe_done(p[i]), 90);
        assert_int_equal(dinov_probe_evaluate(p[i], &test, score[i], NULL), DINOV_OK);
    }
    assert_memory_equal(score[0], score[1], sizeof score[0]);
    for (int c = 0; c < 12; c++) {
        float  *w[2], *b[2];
        int64_t inputs = dinov_probe_weights(p[0], c, &w[0], &b[0]);
        dinov_probe_weights(p[1], c, &w[1], &b[1]);
        assert_memory_equal(w[0], w[1], (size_t)(CLASSES * inputs) * sizeof **w);
        assert_memory_equal(b[0], b[1], CLASSES * sizeof **b);
    }
    int best = dinov_probe_best(p[0], score[0]);
    assert_true(score[0][best].top1 > 0.4 && score[0][best].top5 > 0.85);
    for (int c = 0; c < 12; c++) assert_true(score[0][c].top1 < score[0][best].top1 || c >= best);
    dinov_probe_free(&p[0]), dinov_probe_free(&p[1]);
    dinov_pool_free(&pool);
}

static void a_diverged_classifier_is_wrong(void **state)
{
    (void)state;
    dinov_labelled      train = train_set(200), test = test_set(TEST);
    dinov_probe_options o = {.rates = {0.5}, .rate_count = 1, .batch = 16, .iterations = 5};
    dinov_probe_score   score;
    dinov_probe        *p;
    float              *w, *b;
    assert_int_equal(dinov_probe_new(&p, &train, CLASSES, &o, fastest(), NULL, NULL), DINOV_OK);
    dinov_probe_weights(p, 0, &w, &b);
    b[0] = NAN;
    assert_int_equal(dinov_probe_evaluate(p, &test, &score, NULL), DINOV_OK);
    assert_true(score.top1 == 0 && score.top5 == 0);
    dinov_probe_free(&p);
}

static void bad_probes_are_refused(void **state)
{
    (void)state;
    dinov_labelled      train = train_set(200), test = with_blocks(test_set(TEST));
    const double        rates[][2] = {{0, 1}, {-1, 1}, {NAN, 1}, {0.1, 0.1}, {0.2, 0.1}, {1, INFINITY}};
    dinov_probe_options o          = {.rate_count = 2};
    dinov_probe_score   score[52];
    dinov_probe        *p;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        memcpy(o.rates, rates[i], sizeof rates[i]);
        assert_refused(dinov_probe_new(&p, &train, CLASSES, &o, fastest(), NULL, err), DINOV_ERR_CONFIG, "EVAL-RATE");
    }
    assert_int_equal(dinov_probe_new(&p, &train, CLASSES, NULL, fastest(), NULL, NULL), DINOV_OK);
    assert_refused(dinov_probe_evaluate(p, &test, score, err), DINOV_ERR_SHAPE, "EVAL-KINDS");
    dinov_probe_free(&p);
    dinov_probe_free(&p);
}

/* Every allocation fails once: a status, nothing lost (under a sanitizer). */
static void memory_may_run_out(void **state)
{
    (void)state;
    dinov_labelled    train = train_set(300), test = test_set(40);
    dinov_knn_options o = {.k = {3}, .k_count = 1, .per_class = {-1, 3}, .per_class_count = 2};
    dinov_knn_result *r;
    int64_t           count;
    for (long n = 1;; n++) {
        dinov_error err;
        dinov_alloc_fail_at(n, 0);
        dinov_status status = dinov_knn(&r, &count, &train, &test, &o, fastest(), NULL, &err);
        dinov_alloc_fail_at(0, 0);
        if (status == DINOV_OK) break;
        assert_int_equal(status, DINOV_ERR_NOMEM);
        assert_true(n < 100);
    }
    dinov_free(r);
    for (long n = 1;; n++) {
        dinov_probe *p = NULL;
        dinov_alloc_fail_at(n, 0);
        dinov_status status = dinov_probe_new(&p, &train, CLASSES, NULL, fastest(), NULL, NULL);
        dinov_alloc_fail_at(0, 0);
        dinov_probe_free(&p);
        if (status == DINOV_OK) break;
        assert_int_equal(status, DINOV_ERR_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_are_the_nearest),
        cmocka_unit_test(equal_items_come_in_their_order),
        cmocka_unit_test(results_do_not_depend_on_threads),
        cmocka_unit_test(votes_are_counted_as_defined),
        cmocka_unit_test(fewer_items_than_k_all_vote),
        cmocka_unit_test(defaults_are_upstreams),
        cmocka_unit_test(subsets_depend_on_seed_alone),
        cmocka_unit_test(bad_sets_are_refused),
        cmocka_unit_test(zero_and_huge_vectors_are_no_trouble),
        cmocka_unit_test(probe_names_are_upstreams),
        cmocka_unit_test(probe_learns_the_same_bits_with_any_threads),
        cmocka_unit_test(a_diverged_classifier_is_wrong),
        cmocka_unit_test(bad_probes_are_refused),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, make_sets, NULL);
}
