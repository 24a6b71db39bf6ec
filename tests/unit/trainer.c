/* SPDX-License-Identifier: Apache-2.0
 *
 * The step's promises that no other implementation can be asked about: the same bits however it is run,
 * the large batch out of small ones, and a state that bad numbers do not touch. Agreement with the
 * official code is tests/train/parity.py.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "train/rank.h"
#include "train/trainer.h"

enum { SIDE = 4, LOCALS = 2, GLOBAL_SIZE = 16, LOCAL_SIZE = 8 };

static dinov_model small_model(void)
{
    return (dinov_model){.patch      = 4,
                         .dim        = 16,
                         .depth      = 3,
                         .heads      = 2,
                         .ffn        = DINOV_FFN_SWIGLU,
                         .hidden     = 24,
                         .registers  = 1,
                         .channels   = 3,
                         .grid_h     = 5,
                         .grid_w     = 5,
                         .layerscale = 1,
                         .qkv_bias   = 1,
                         .ln_eps     = 1e-6,
                         .interp     = {0.1, 0}};
}

static dinov_config small_config(int64_t images, int64_t micros)
{
    dinov_head_config head = {
        .loss_weight = 1, .head_n_prototypes = 150, .head_bottleneck_dim = 8, .head_nlayers = 3, .head_hidden_dim = 20};
    dinov_config c = {0};
    c.dino.head = c.ibot.head      = head;
    c.dino.koleo_loss_weight       = 0.1;
    c.ibot.mask_sample_probability = 0.5;
    c.ibot.mask_ratio_min_max[0] = 0.1, c.ibot.mask_ratio_min_max[1] = 0.5;
    c.train.batch_size_per_gpu  = images;
    c.train.accumulation        = micros;
    c.train.centering           = DINOV_SINKHORN_KNOPP;
    c.train.seed                = 7;
    c.student.layerscale        = 0.5;
    c.student.drop_path_uniform = true;
    c.optim.clip_grad = 3, c.optim.layerwise_decay = 0.9, c.optim.patch_embed_lr_mult = 0.2;
    c.optim.adamw_beta1 = 0.9, c.optim.adamw_beta2 = 0.999;
    c.crops.local_crops_number = LOCALS, c.crops.global_crops_size = GLOBAL_SIZE, c.crops.local_crops_size = LOCAL_SIZE;
    return c;
}

static const dinov_rates rates = {.lr = 1e-2, .last_layer_lr = 1e-2, .weight_decay = 0.04, .momentum = 0.9, .teacher_temp = 0.05};

/* Images first .. first + count of an endless set, as crops; every third crop of the set is masked in part. */
static dinov_views views_new(int64_t first, int64_t count)
{
    int64_t G = 3 * GLOBAL_SIZE * GLOBAL_SIZE, L = 3 * LOCAL_SIZE * LOCAL_SIZE, N = SIDE * SIDE;
    float  *global      = dinov_alloc((size_t)(2 * count * G), sizeof *global),
          *local        = dinov_alloc((size_t)(LOCALS * count * L), sizeof *local);
    uint8_t    *masks   = dinov_calloc((size_t)(2 * count * N), 1);
    int32_t    *indices = dinov_alloc((size_t)(2 * count * N), sizeof *indices);
    dinov_views v       = {.images = count, .global = global, .local = local, .masks = masks, .mask_indices = indices};
    for (int64_t crop = 0; crop < 2 + LOCALS; crop++)
        for (int64_t i = 0; i < count; i++) {
            dinov_rng rng = dinov_rng_make(1, DINOV_RNG_AUGMENT, (uint64_t)crop, (uint64_t)(first + i));
            float    *to  = crop < 2 ? global + (crop * count + i) * G : local + ((crop - 2) * count + i) * L;
            for (int64_t j = 0; j < (crop < 2 ? G : L); j++) to[j] = (float)dinov_rng_normal(&rng);
            if (crop < 2 && (first + i + crop) % 3 == 0)
                for (int64_t j = 0; j < 3; j++) masks[(crop * count + i) * N + (5 * (first + i) + 4 * j) % N] = 1;
        }
    for (int64_t i = 0; i < 2 * count * N; i++)
        if (masks[i]) indices[v.masked++] = (int32_t)i;
    return v;
}

static void views_free(dinov_views *v)
{
    dinov_free((void *)(uintptr_t)v->global);
    dinov_free((void *)(uintptr_t)v->local);
    dinov_free((void *)(uintptr_t)v->masks);
    dinov_free((void *)(uintptr_t)v->mask_indices);
}

static dinov_trainer *trainer_new(const dinov_config *c, const dinov_ops *ops, dinov_pool *pool, size_t budget)
{
    dinov_trainer        *t;
    dinov_model           m = small_model();
    dinov_error           err;
    dinov_trainer_options o = {.config = c, .model = &m, .ops = ops, .pool = pool, .logits_budget = budget};
    size_t                bytes;
    int64_t                parameters;
    if (dinov_trainer_new(&t, &o, &err) != DINOV_OK) fail_msg("%s", err.msg);
    assert_int_equal(dinov_trainer_memory(&bytes, &parameters, &o, &err), DINOV_OK);
    assert_true(bytes > 0 && parameters > 0);
    return t;
}

static dinov_step_result step(dinov_trainer *t, int64_t iteration, const dinov_views *micro)
{
    dinov_step_result r;
    dinov_error       err;
    if (dinov_trainer_step(t, iteration, micro, &rates, NULL, &r, &err) != DINOV_OK) fail_msg("%s", err.msg);
    return r;
}

static size_t block_bytes(const dinov_trainer *t)
{
    const dinov_train_state *s = dinov_trainer_state((dinov_trainer *)(uintptr_t)t);
    return (size_t)s->set->total * s->real_size;
}

static double worst_difference(const dinov_trainer *a, const dinov_trainer *b, bool gradients)
{
    const dinov_train_state *x = dinov_trainer_state((dinov_trainer *)(uintptr_t)a),
                            *y = dinov_trainer_state((dinov_trainer *)(uintptr_t)b);
    const double *p = gradients ? x->grads : x->average, *q = gradients ? y->grads : y->average;
    double        worst = 0;
    for (int64_t i = 0; i < x->set->count; i++) {
        double                      error = 0, norm = 0;
        const dinov_paramset_entry *e = &x->set->entries[i];
        for (int64_t j = e->offset; j < e->offset + e->count; j++) error += (p[j] - q[j]) * (p[j] - q[j]), norm += p[j] * p[j];
        if (norm > 0 && sqrt(error / norm) > worst) worst = sqrt(error / norm);
    }
    return worst;
}

/* Two steps of one configuration; the average afterwards. */
static dinov_trainer *two_steps(const dinov_config *c, const dinov_ops *ops, int threads, size_t budget)
{
    dinov_pool *pool;
    dinov_error err;
    assert_int_equal(dinov_pool_new(&pool, threads, &err), DINOV_OK);
    dinov_trainer *t = trainer_new(c, ops, pool, budget);
    for (int64_t i = 0; i < 2; i++) {
        dinov_views v = views_new(100 * i, c->train.batch_size_per_gpu);
        assert_true(step(t, i, &v).finite);
        views_free(&v);
    }
    dinov_pool_free(&pool);
    return t;
}

static void the_same_bits_for_any_number_of_threads(void **state)
{
    (void)state;
    const dinov_ops *ops;
    dinov_config     c       = small_config(5, 1);
    c.student.drop_path_rate = 0.4;
    for (const char *const *name = dinov_ops_cpu_names(); *name; name++) {
        dinov_trainer *t[3];
        assert_int_equal(dinov_ops_cpu(&ops, *name, NULL), DINOV_OK);
        for (int i = 0; i < 3; i++) t[i] = two_steps(&c, ops, i + 1, 0);
        for (int i = 1; i < 3; i++)
            assert_memory_equal(dinov_trainer_state(t[0])->average, dinov_trainer_state(t[i])->average, block_bytes(t[0]));
        for (int i = 0; i < 3; i++) dinov_trainer_free(&t[i]);
    }
}

static void recomputed_activations_give_the_same_bits(void **state)
{
    (void)state;
    dinov_config c           = small_config(4, 1);
    c.student.drop_path_rate = 0.3;
    dinov_trainer *kept      = two_steps(&c, &dinov_ops_ref_f32, 2, 0);
    c.train.recompute        = true;
    dinov_trainer *again     = two_steps(&c, &dinov_ops_ref_f32, 2, 0);
    assert_memory_equal(dinov_trainer_state(kept)->grads, dinov_trainer_state(again)->grads, block_bytes(kept));
    dinov_trainer_free(&kept);
    dinov_trainer_free(&again);
}

static void chunks_of_prototypes_give_the_same_gradient(void **state)
{
    (void)state;
    for (int centering = DINOV_CENTERING; centering <= DINOV_SINKHORN_KNOPP; centering++) {
        dinov_config c                = small_config(4, 1);
        c.dino.head.head_n_prototypes = c.ibot.head.head_n_prototypes = 2100; /* more than are at hand at a time */
        c.train.centering                                             = (dinov_centering)centering;
        dinov_trainer *all = two_steps(&c, &dinov_ops_ref_f64, 2, 0), *chunks = two_steps(&c, &dinov_ops_ref_f64, 2, 1);
        assert_true(worst_difference(all, chunks, true) < 1e-12);
        assert_true(worst_difference(all, chunks, false) < 1e-11);
        dinov_trainer_free(&all);
        dinov_trainer_free(&chunks);
    }
}

/* Sinkhorn-Knopp, centres and KoLeo see all the images of a step, however they are cut. */
static void accumulation_is_the_large_batch(void **state)
{
    (void)state;
    for (int centering = DINOV_CENTERING; centering <= DINOV_SINKHORN_KNOPP; centering++) {
        dinov_config whole = small_config(6, 1), parts = small_config(2, 3);
        whole.train.centering = parts.train.centering = (dinov_centering)centering;
        dinov_trainer *a = trainer_new(&whole, &dinov_ops_ref_f64, NULL, 0), *b = trainer_new(&parts, &dinov_ops_ref_f64, NULL, 0);
        dinov_views    v = views_new(0, 6), micro[3] = {views_new(0, 2), views_new(2, 2), views_new(4, 2)};
        for (int i = 0; i < 2; i++) {
            dinov_step_result r = step(a, i, &v), s = step(b, i, micro);
            assert_true(fabs(r.dino_local_crops_loss - s.dino_local_crops_loss) < 1e-11);
            assert_true(fabs(r.dino_global_crops_loss - s.dino_global_crops_loss) < 1e-11);
            assert_true(fabs(r.koleo_loss - s.koleo_loss) < 1e-11);
            assert_true(fabs(r.ibot_loss - s.ibot_loss) < 1e-11);
            assert_true(worst_difference(a, b, true) < 1e-9);
        }
        dinov_trainer_free(&a);
        dinov_trainer_free(&b);
        views_free(&v);
        for (int i = 0; i < 3; i++) views_free(&micro[i]);
    }
}

/* Everything a step reads and writes, as bytes. */
static char *snapshot(dinov_trainer *t)
{
    const dinov_train_state *s = dinov_trainer_state(t);
    size_t                   n = block_bytes(t), k = (size_t)s->prototypes[0] * s->real_size;
    char                    *all = dinov_calloc(4 * n + 2 * k + sizeof s->adam_step, 1);
    memcpy(all, s->student, n), memcpy(all + n, s->average, n), memcpy(all + 2 * n, s->m, n), memcpy(all + 3 * n, s->v, n);
    for (int i = 0; i < 2; i++)
        if (s->center[i]) memcpy(all + 4 * n + (size_t)i * k, s->center[i], k);
    memcpy(all + 4 * n + 2 * k, &s->adam_step, sizeof s->adam_step);
    return all;
}

static size_t snapshot_bytes(dinov_trainer *t)
{
    const dinov_train_state *s = dinov_trainer_state(t);
    return 4 * block_bytes(t) + 2 * (size_t)s->prototypes[0] * s->real_size + sizeof s->adam_step;
}

static void a_step_that_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int where = 0; where < 7; where++)
        for (size_t kind = 0; kind < 3; kind++) {
            dinov_config c       = small_config(3, 1);
            c.train.centering    = DINOV_CENTERING;
            dinov_trainer     *t = trainer_new(&c, &dinov_ops_ref_f32, NULL, 0);
            dinov_train_state *s = dinov_trainer_state(t);
            dinov_views        v = views_new(0, 3), good = views_new(9, 3);
            float             *poisoned = NULL, kept;
            assert_true(step(t, 0, &good).finite);
            switch (where) {
            case 0:
                poisoned = (float *)(uintptr_t)v.global + 5;
                break; /* loss */
            case 1:
                poisoned = (float *)(uintptr_t)v.local + 5;
                break;
            case 2:
                poisoned = dinov_paramset_at(s->set, "backbone", "blocks.1.norm2.bias", s->student, 4);
                break; /* activations */
            case 3:
                poisoned = dinov_paramset_at(s->set, "dino_head", "last_layer.weight_v", s->student, 4);
                break; /* gradients */
            case 4:
                poisoned = dinov_paramset_at(s->set, "backbone", "norm.weight", s->average, 4);
                break; /* teacher, centring */
            case 5:
                poisoned = s->center[DINOV_TERM_DINO];
                break;
            case 6:
                poisoned = s->center[DINOV_TERM_IBOT];
                break;
            }
            kept                     = *poisoned;
            *poisoned                = bad[kind];
            char             *before = snapshot(t);
            dinov_step_result r      = step(t, 1, &v);
            char             *after  = snapshot(t);
            if (r.finite) fail_msg("place %d, value %zu: the step took it", where, kind);
            assert_true(r.why[0]);
            assert_memory_equal(before, after, snapshot_bytes(t));
            *poisoned = kept;
            assert_true(step(t, 1, &v).finite);
            dinov_free(before), dinov_free(after);
            dinov_trainer_free(&t);
            views_free(&v), views_free(&good);
        }
}

static void copies_in_a_batch_and_a_batch_of_one_are_defined(void **state)
{
    (void)state;
    dinov_config      one = small_config(1, 1), four = small_config(4, 1);
    dinov_trainer    *t = trainer_new(&one, &dinov_ops_ref_f32, NULL, 0);
    dinov_views       v = views_new(0, 1);
    dinov_step_result r = step(t, 0, &v);
    assert_true(r.finite && r.koleo_loss == 0 && r.duplicates == 0);
    dinov_trainer_free(&t);
    views_free(&v);

    t           = trainer_new(&four, &dinov_ops_ref_f32, NULL, 0);
    v           = views_new(0, 4);
    size_t crop = 3 * GLOBAL_SIZE * GLOBAL_SIZE;
    memcpy((float *)(uintptr_t)v.global + 2 * crop, v.global + crop,
           crop * sizeof(float)); /* images 1 and 2 of the first view, neither masked */
    r = step(t, 0, &v);
    assert_true(r.finite && r.duplicates >= 2);
    dinov_trainer_free(&t);
    views_free(&v);
}

static void a_steady_state_allocates_nothing(void **state)
{
    (void)state;
    dinov_config   c      = small_config(3, 1);
    dinov_trainer *t      = trainer_new(&c, &dinov_ops_ref_f32, NULL, 0);
    dinov_views    v      = views_new(0, 3);
    long           before = dinov_alloc_count();
    step(t, 0, &v);
    assert_int_equal(dinov_alloc_count(), before);
    dinov_trainer_free(&t);
    views_free(&v);
}

/* The teacher is another, wider model with its own heads; it does not move, and the student sees no mask. */
static void distillation_moves_the_student_and_not_the_teacher(void **state)
{
    (void)state;
    dinov_config  c       = small_config(3, 1);
    dinov_model   m       = small_model();
    dinov_teacher teacher = {.model = m};
    dinov_error   err;
    teacher.model.dim = 32, teacher.model.registers = 0, teacher.model.ffn = DINOV_FFN_MLP;
    teacher.head[0] = teacher.head[1] = (dinov_head_dims){.in = 32, .hidden = 24, .bottleneck = 12, .prototypes = 150, .layers = 2};
    dinov_trainer        *t;
    dinov_trainer_options o = {.config = &c, .model = &m, .teacher = &teacher, .ops = &dinov_ops_ref_f32};
    assert_int_equal(dinov_trainer_new(&t, &o, &err), DINOV_OK);
    dinov_train_state *s = dinov_trainer_state(t);
    dinov_paramset_init(s->teacher_set, s->teacher, 4, 5, 0.3);
    size_t bytes  = (size_t)s->teacher_set->total * 4;
    char  *before = dinov_alloc(bytes, 1), *average = dinov_alloc(block_bytes(t), 1);
    memcpy(before, s->teacher, bytes), memcpy(average, s->average, block_bytes(t));
    dinov_views v     = views_new(0, 3);
    double      first = 0, last = 0;
    for (int i = 0; i < 30; i++) {
        dinov_step_result r = step(t, i, &v);
        last                = r.total_loss;
        if (i == 0) first = r.total_loss;
    }
    assert_true(last < first);
    assert_memory_equal(before, s->teacher, bytes);
    assert_memory_not_equal(average, s->average, block_bytes(t));
    const float *mask = dinov_paramset_at(s->set, "backbone", "mask_token", s->grads, 4);
    for (int64_t i = 0; i < m.dim; i++) assert_true(mask[i] == 0);
    dinov_free(before), dinov_free(average);
    dinov_trainer_free(&t);

    teacher.head[1].prototypes = 10;
    assert_int_equal(dinov_trainer_new(&t, &o, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-TEACHER");
    views_free(&v);
}

/* Vectors (3, 0), (0, 4), (3, 4): the squares of their singular values are the eigenvalues of [[18, 12], [12, 32]], 25 -+
 * sqrt(193). */
static void effective_rank_is_that_of_the_singular_values(void **state)
{
    (void)state;
    double gram[] = {9, 0, 9, 0, 16, 16, 9, 16, 25}, a = sqrt(25 + sqrt(193)), b = sqrt(25 - sqrt(193)), p = a / (a + b);
    assert_true(fabs(dinov_effective_rank(gram, 3) - exp(-p * log(p) - (1 - p) * log(1 - p))) < 1e-9);
    double same[] = {4, 4, 4, 4}, apart[] = {2, 0, 0, 2};
    assert_true(fabs(dinov_effective_rank(same, 2) - 1) < 1e-6 && fabs(dinov_effective_rank(apart, 2) - 2) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bits_for_any_number_of_threads),
        cmocka_unit_test(recomputed_activations_give_the_same_bits),
        cmocka_unit_test(chunks_of_prototypes_give_the_same_gradient),
        cmocka_unit_test(accumulation_is_the_large_batch),
        cmocka_unit_test(a_step_that_is_not_finite_changes_nothing),
        cmocka_unit_test(copies_in_a_batch_and_a_batch_of_one_are_defined),
        cmocka_unit_test(a_steady_state_allocates_nothing),
        cmocka_unit_test(distillation_moves_the_student_and_not_the_teacher),
        cmocka_unit_test(effective_rank_is_that_of_the_singular_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
