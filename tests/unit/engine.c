/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine as its caller sees it: the same bits for any threads and batch, every legal size, every
 * kind of feature, golden vectors, and requests it must refuse.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "dinov/infer.h"
#include "kernels/ops.h"
#include "model/seeded.h"
#include "model/vit.h"

enum { DIM = 128, DEPTH = 3, IMAGES = 67 };

static dinov_model tiny(int registers, dinov_ffn ffn)
{
    return (dinov_model){.patch = 14, .dim = DIM, .depth = DEPTH, .heads = 2, .ffn = ffn, .hidden = 200, .registers = registers,
                         .channels = 3, .grid_h = 5, .grid_w = 5, .layerscale = 1, .qkv_bias = 1, .ln_eps = 1e-6,
                         .interp = {registers ? 0 : 0.1, registers > 0}};
}

static dinov_engine *open_with(const dinov_model *model, int threads, const char *isa)
{
    dinov_weights       *weights;
    dinov_engine        *engine;
    dinov_error          err;
    dinov_engine_options options = {.threads = threads, .isa = isa};
    assert_int_equal(dinov_seeded_new(&weights, model, 3, &err), DINOV_OK);
    assert_int_equal(dinov_engine_open_weights(&engine, weights, &options, &err), DINOV_OK);
    dinov_seeded_free(&weights);
    return engine;
}

static float *picture(int64_t images, int64_t height, int64_t width)
{
    float *pixels = malloc((size_t)(images * 3 * height * width) * sizeof *pixels);
    for (int64_t i = 0; i < images; i++) dinov_golden_input(pixels + i * 3 * height * width, 3, height, width, i);
    return pixels;
}

static void run(dinov_engine *e, const float *pixels, int64_t images, int64_t height, int64_t width, dinov_features *f, size_t n)
{
    dinov_error err;
    if (dinov_engine_run(e, pixels, images, height, width, f, n, &err) != DINOV_OK) fail_msg("%s", err.msg);
}

/* cls, mean, registers and patches of IMAGES pictures, computed `batch` at a time. */
static float *features_of(int threads, const char *isa, int64_t batch, int64_t height, int64_t width, size_t *bytes)
{
    dinov_model   model  = tiny(4, DINOV_FFN_MLP);
    dinov_engine *e      = open_with(&model, threads, isa);
    int64_t       N      = (height / 14) * (width / 14), each = (6 + N) * DIM;
    float        *pixels = picture(IMAGES, height, width), *all = malloc((size_t)(IMAGES * each) * sizeof *all);
    float        *cls = all, *mean = cls + IMAGES * DIM, *reg = mean + IMAGES * DIM, *patch = reg + IMAGES * 4 * DIM;

    for (int64_t i = 0; i < IMAGES; i += batch) {
        int64_t        n = IMAGES - i < batch ? IMAGES - i : batch;
        dinov_features f = {.layer = -1, .cls = cls + i * DIM, .mean = mean + i * DIM, .reg = reg + i * 4 * DIM,
                            .patch = patch + i * N * DIM};
        run(e, pixels + i * 3 * height * width, n, height, width, &f, 1);
    }
    free(pixels);
    dinov_engine_close(&e);
    *bytes = (size_t)(IMAGES * each) * sizeof *all;
    return all;
}

static void same_bits_for_any_threads_and_batch(void **state)
{
    (void)state;
    for (const char *const *isa = dinov_ops_cpu_names(); *isa; isa++) {
        size_t bytes, again_bytes;
        float *want = features_of(1, *isa, 1, 28, 28, &bytes);
        for (int threads = 1; threads <= 3; threads++)
            for (int64_t batch = 1; batch <= 64; batch = batch == 1 ? 7 : batch == 7 ? 64 : 65) {
                float *have = features_of(threads, *isa, batch, 28, 28, &again_bytes);
                assert_int_equal(bytes, again_bytes);
                assert_memory_equal(want, have, bytes);
                free(have);
            }
        free(want);
    }
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]), s += (double)b[i] * (double)b[i];
    return d / s;
}

static void every_size_agrees_with_the_reference(void **state)
{
    static const int64_t sizes[][2] = {{14, 14}, {14, 70}, {70, 70}, {70, 14}, {84, 28}, {98, 98}, {14, 1022}};
    (void)state;
    for (int registers = 0; registers < 2; registers++) {
        dinov_model   model = tiny(registers, DINOV_FFN_SWIGLU);
        dinov_engine *ref = open_with(&model, 1, "ref"), *best = open_with(&model, 2, NULL);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            int64_t        N = sizes[i][0] / 14 * sizes[i][1] / 14;
            float         *pixels = picture(1, sizes[i][0], sizes[i][1]);
            float         *a = malloc((size_t)(N * DIM) * sizeof *a), *b = malloc((size_t)(N * DIM) * sizeof *b);
            dinov_features fa = {.layer = 1, .patch = a}, fb = {.layer = 1 - DEPTH, .patch = b};
            run(ref, pixels, 1, sizes[i][0], sizes[i][1], &fa, 1);
            run(best, pixels, 1, sizes[i][0], sizes[i][1], &fb, 1);
            assert_true(distance(a, b, N * DIM) < 1e-11);
            free(pixels), free(a), free(b);
        }
        dinov_engine_close(&ref);
        dinov_engine_close(&best);
    }
}

static void layers_norms_and_means(void **state)
{
    (void)state;
    dinov_model    model  = tiny(2, DINOV_FFN_MLP);
    dinov_engine  *e      = open_with(&model, 1, NULL);
    float         *pixels = picture(1, 28, 42), raw[DIM], normed[DIM], mean[DIM], patch[6 * DIM], first[DIM], reg[2 * DIM];
    dinov_features f[]    = {{.layer = -1, .no_norm = 1, .cls = raw},
                             {.layer = 2, .cls = normed, .mean = mean, .patch = patch, .reg = reg},
                             {.layer = 0, .cls = first}};
    run(e, pixels, 1, 28, 42, f, 3);
    assert_true(distance(raw, normed, DIM) > 1e-3);
    assert_true(distance(first, normed, DIM) > 1e-3);
    assert_true(distance(reg, reg + DIM, DIM) > 1e-3);
    for (int c = 0; c < DIM; c++) {
        double sum = 0;
        for (int t = 0; t < 6; t++) sum += (double)patch[t * DIM + c];
        assert_true(mean[c] == (float)(sum / 6));
    }
    free(pixels);
    dinov_engine_close(&e);
}

static void refuses_what_it_cannot_do(void **state)
{
    (void)state;
    dinov_error    err;
    dinov_model    model = tiny(0, DINOV_FFN_MLP);
    dinov_engine  *e     = open_with(&model, 1, NULL);
    float          out[DIM], *pixels = picture(1, 28, 28);
    dinov_features last = {.layer = -1, .cls = out}, beyond = {.layer = DEPTH, .cls = out}, below = {.layer = -DEPTH - 1, .cls = out};

    assert_int_equal(dinov_engine_run(e, pixels, 1, 27, 28, &last, 1, &err), DINOV_ERR_SHAPE);
    assert_string_equal(err.code, "INPUT-SIZE");
    assert_int_equal(dinov_engine_run(e, pixels, 1, 0, 28, &last, 1, &err), DINOV_ERR_SHAPE);
    assert_int_equal(dinov_engine_run(e, pixels, -1, 28, 28, &last, 1, &err), DINOV_ERR_SHAPE);
    assert_int_equal(dinov_engine_run(e, pixels, 1, 28, 28, &beyond, 1, &err), DINOV_ERR_SHAPE);
    assert_string_equal(err.code, "INPUT-LAYER");
    assert_int_equal(dinov_engine_run(e, pixels, 1, 28, 28, &below, 1, &err), DINOV_ERR_SHAPE);
    assert_int_equal(dinov_engine_run(e, pixels, 0, 28, 28, &last, 1, &err), DINOV_OK);
    free(pixels);
    dinov_engine_close(&e);

    dinov_weights       *weights;
    dinov_engine_options unknown = {.isa = "mmx"}, many = {.threads = -3};
    assert_int_equal(dinov_seeded_new(&weights, &model, 3, &err), DINOV_OK);
    assert_int_equal(dinov_engine_open_weights(&e, weights, &unknown, &err), DINOV_ERR_UNSUPPORTED);
    assert_string_equal(err.code, "DEV-ISA");
    assert_null(e);
    assert_int_equal(dinov_engine_open_weights(&e, weights, &many, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "OPT-THREADS");
    weights->count--;
    assert_int_equal(dinov_engine_open_weights(&e, weights, NULL, &err), DINOV_ERR_SHAPE);
    assert_string_equal(err.code, "MODEL-MISSING");
    weights->count++;
    weights->model.dim++;
    assert_int_equal(dinov_engine_open_weights(&e, weights, NULL, &err), DINOV_ERR_SHAPE);
    dinov_seeded_free(&weights);
    dinov_engine_close(&e);
    dinov_engine_close(NULL);
}

static void golden_vectors_prove_and_fail(void **state)
{
    (void)state;
    dinov_error   err;
    dinov_golden  cases[DINOV_GOLDEN_CASES];
    dinov_proof   proof;
    double        worst = -1;
    dinov_model   model = tiny(4, DINOV_FFN_SWIGLU);
    dinov_engine *e = open_with(&model, 2, NULL), *ref = open_with(&model, 1, "ref");

    assert_int_equal(dinov_engine_make_proof(e, &proof, cases, &err), DINOV_OK);
    assert_int_equal(dinov_engine_prove(e, &proof, &worst, &err), DINOV_OK);
    assert_true(worst == 0);
    assert_int_equal(dinov_engine_prove(ref, &proof, &worst, &err), DINOV_OK);
    assert_true(worst > 0 && worst < 2e-6);
    ((float *)(uintptr_t)cases[1].patch)[5] *= 1.01f;
    assert_int_equal(dinov_engine_prove(e, &proof, &worst, &err), DINOV_ERR_CORRUPT);
    assert_string_equal(err.code, "PROOF-FAILED");
    cases[0].height = 28 * 1000;
    assert_int_equal(dinov_engine_prove(e, &proof, &worst, &err), DINOV_ERR_LIMIT);
    assert_string_equal(err.code, "PROOF-SIZE");
    dinov_engine_free_proof(&proof);
    dinov_engine_close(&e);
    dinov_engine_close(&ref);
}

/* Half-precision weights: the same as the float they stand for. */
static void half_weights_are_widened(void **state)
{
    (void)state;
    dinov_error    err;
    dinov_weights *weights;
    dinov_engine  *e;
    dinov_model    model = tiny(0, DINOV_FFN_MLP);
    float          a[DIM], b[DIM], *pixels = picture(1, 28, 28);
    dinov_features fa = {.layer = -1, .cls = a}, fb = {.layer = -1, .cls = b};

    assert_int_equal(dinov_seeded_new(&weights, &model, 3, &err), DINOV_OK);
    dinov_named_tensor *copy = malloc(weights->count * sizeof *copy);
    memcpy(copy, weights->tensors, weights->count * sizeof *copy);
    for (size_t i = 0; i < weights->count; i++) { /* cut to bfloat16 in place, then store the upper halves */
        uint64_t  n = 1;
        uint32_t *words = (uint32_t *)(uintptr_t)copy[i].tensor.data;
        for (int d = 0; d < copy[i].tensor.rank; d++) n *= (uint64_t)copy[i].tensor.dim[d];
        uint16_t *halves = malloc(n * sizeof *halves);
        for (uint64_t j = 0; j < n; j++) words[j] &= 0xffff0000u, halves[j] = (uint16_t)(words[j] >> 16);
        copy[i].tensor.data  = halves;
        copy[i].tensor.dtype = DINOV_BF16;
    }
    assert_int_equal(dinov_engine_open_weights(&e, weights, NULL, &err), DINOV_OK);
    run(e, pixels, 1, 28, 28, &fa, 1);
    dinov_engine_close(&e);
    dinov_weights narrow = *weights;
    narrow.tensors       = copy;
    assert_int_equal(dinov_engine_open_weights(&e, &narrow, NULL, &err), DINOV_OK);
    run(e, pixels, 1, 28, 28, &fb, 1);
    dinov_engine_close(&e);
    assert_memory_equal(a, b, sizeof a);
    for (size_t i = 0; i < narrow.count; i++) free((void *)(uintptr_t)copy[i].tensor.data);
    free(copy), free(pixels);
    dinov_seeded_free(&weights);
}

/* Weights of the resampling, as torch has them. A coordinate near 37 is known to 2e-6 in float, and
 * a weight changes about as fast. */
static void position_weights_are_torchs(void **state)
{
    (void)state;
    static const struct {
        double  offset;
        int     antialias;
        int64_t out, row, tap;
        double  weights[6];
    } cases[] = {
        {0.1, 0, 16, 0, 0, {0.333954, 0.776929, -0.110883}}, /* the tap at -1 falls on 0 */
        {0.1, 0, 16, 15, 34, {-0.070167, 0.969214, 0.100952}}, /* the tap at 37 falls on 36 */
        {0.1, 0, 7, 0, 1, {-0.063372, 0.976367, 0.094490, -0.007485}},
        {0.1, 0, 7, 6, 32, {-0.109964, 0.751552, 0.423897, -0.065484}},
        {0, 0, 16, 0, 0, {0.326126, 0.784904, -0.111031}},
        {0, 1, 16, 0, 0, {0.387186, 0.441451, 0.209256, -0.003056, -0.031817, -0.003020}},
    };
    /* A grid of 37 x 37 one-hot vectors would be large; columns are resampled 37 -> 37 without change,
     * so channel a of the result at (row, 0) is the weight of tap a when x[a, b] = onehot(a). */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum { M = 37 };
        static float     pos[(1 + M * M) * M], out[(1 + M * M) * M];
        dinov_error      err;
        const dinov_ops *ops;
        memset(pos, 0, sizeof pos);
        for (int a = 0; a < M; a++)
            for (int b = 0; b < M; b++) pos[(1 + a * M + b) * M + a] = 1;
        assert_int_equal(dinov_ops_cpu(&ops, "ref", &err), DINOV_OK);
        dinov_vit vit = {.config = {.dim = M, .grid_h = M, .grid_w = M, .interp = {cases[i].offset, cases[i].antialias}},
                         .ops = ops, .pos = pos};
        assert_int_equal(dinov_vit_pos(&vit, NULL, out, cases[i].out, 1, &err), DINOV_OK);
        const float *row = out + (1 + cases[i].row) * M;
        for (int t = 0; t < 6; t++) {
            if (t > 0 && cases[i].weights[t] == 0) continue;
            double have = (double)row[cases[i].tap + t];
            if (have < cases[i].weights[t] - 5e-6 || have > cases[i].weights[t] + 5e-6)
                fail_msg("case %zu tap %d: %f, expected %f", i, t, have, cases[i].weights[t]);
        }
    }
}

static void out_of_memory_is_an_error(void **state)
{
    (void)state;
    dinov_model    model = tiny(1, DINOV_FFN_MLP);
    dinov_weights *weights;
    dinov_error    err;
    float          out[DIM], *pixels = picture(1, 28, 28);
    assert_int_equal(dinov_seeded_new(&weights, &model, 3, &err), DINOV_OK);
    for (int forever = 0; forever < 2; forever++)
        for (long n = 1;; n++) {
            dinov_engine        *e       = NULL;
            dinov_engine_options options = {.threads = 2};
            dinov_features       f       = {.layer = -1, .cls = out};
            dinov_alloc_fail_at(n, forever);
            dinov_status status = dinov_engine_open_weights(&e, weights, &options, &err);
            if (status == DINOV_OK) status = dinov_engine_run(e, pixels, 1, 28, 28, &f, 1, &err);
            dinov_alloc_fail_at(0, 0);
            dinov_engine_close(&e);
            if (status == DINOV_OK) {
                assert_true(n > 5);
                break;
            }
            assert_int_equal(status, DINOV_ERR_NOMEM);
        }
    free(pixels);
    dinov_seeded_free(&weights);
}

static void steady_state_allocates_nothing(void **state)
{
    (void)state;
    dinov_model    model  = tiny(0, DINOV_FFN_MLP);
    dinov_engine  *e      = open_with(&model, 2, NULL);
    float          out[8 * DIM], *pixels = picture(8, 28, 28);
    dinov_features f = {.layer = -1, .cls = out};
    run(e, pixels, 8, 28, 28, &f, 1);
    long before = dinov_alloc_count();
    for (int i = 0; i < 10; i++) run(e, pixels, 8, 28, 28, &f, 1);
    assert_int_equal(dinov_alloc_count(), before);
    free(pixels);
    dinov_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_for_any_threads_and_batch), cmocka_unit_test(every_size_agrees_with_the_reference),
        cmocka_unit_test(layers_norms_and_means),              cmocka_unit_test(refuses_what_it_cannot_do),
        cmocka_unit_test(golden_vectors_prove_and_fail),       cmocka_unit_test(half_weights_are_widened),
        cmocka_unit_test(position_weights_are_torchs),         cmocka_unit_test(out_of_memory_is_an_error),
        cmocka_unit_test(steady_state_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
