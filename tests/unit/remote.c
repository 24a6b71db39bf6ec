/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine on a device, which here is the host shim: the features of the CPU's engine within what each type can hold, the
 * same bits for any batch, lane and replay, pictures as decoded, several callers at once, and failures of the device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "infer/engine.h"
#include "model/seeded.h"
#include "tests/kernels/shim/control.h"

#include <math.h>
#include <pthread.h>

/* Where threads are watched everything is slow, and what only one thread does needs no watching. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WATCHED 1
#endif
#endif
#ifndef WATCHED
#define WATCHED 0
#endif

enum { DIM = 128, DEPTH = 2, IMAGES = 5, SIDE = 28, GRID = SIDE / 14 * (SIDE / 14), EACH = (1 + 1 + 2 + GRID) * DIM };

static dinov_model tiny(int registers, dinov_ffn ffn)
{
    return (dinov_model){.patch = 14, .dim = DIM, .depth = DEPTH, .heads = 2, .ffn = ffn, .hidden = 200, .registers = registers,
                         .channels = 3, .grid_h = 3, .grid_w = 3, .layerscale = 1, .qkv_bias = 1, .ln_eps = 1e-6,
                         .interp = {registers ? 0 : 0.1, registers > 0}};
}

static dinov_engine *open_on(const dinov_model *model, const char *device, dinov_dtype compute)
{
    dinov_weights       *weights;
    dinov_engine        *engine;
    dinov_error          err;
    dinov_engine_options options = {.threads = 1, .device = device, .compute = compute};
    assert_int_equal(dinov_seeded_new(&weights, model, 3, &err), DINOV_OK);
    if (dinov_engine_open_weights(&engine, weights, &options, &err) != DINOV_OK) fail_msg("%s", err.msg);
    dinov_seeded_free(&weights);
    return engine;
}

static float *pictures(int64_t images, int64_t height, int64_t width)
{
    float *pixels = malloc((size_t)(images * 3 * height * width) * sizeof *pixels);
    for (int64_t i = 0; i < images; i++) dinov_golden_input(pixels + i * 3 * height * width, 3, height, width, i);
    return pixels;
}

/* All features of IMAGES pictures, `batch` at a time: [IMAGES][cls mean reg patch] but by kind. */
static float *features_of(dinov_engine *e, int64_t batch)
{
    int64_t R      = dinov_engine_model(e)->registers;
    float  *pixels = pictures(IMAGES, SIDE, SIDE), *all = calloc((size_t)(IMAGES * EACH), sizeof *all);
    float  *cls = all, *mean = cls + IMAGES * DIM, *reg = mean + IMAGES * DIM, *patch = reg + IMAGES * 2 * DIM;
    for (int64_t i = 0; i < IMAGES; i += batch) {
        int64_t        n = IMAGES - i < batch ? IMAGES - i : batch;
        dinov_error    err;
        dinov_features f[] = {{.layer = -1, .cls = cls + i * DIM, .mean = mean + i * DIM, .reg = R ? reg + i * R * DIM : NULL},
                              {.layer = 0, .no_norm = 1, .patch = patch + i * GRID * DIM}};
        if (dinov_engine_run(e, pixels + i * 3 * SIDE * SIDE, n, SIDE, SIDE, f, 2, &err) != DINOV_OK) fail_msg("%s", err.msg);
    }
    free(pixels);
    return all;
}

/* The worst over vectors of DIM of ||a - b|| / ||b||. */
static double worst(const float *a, const float *b, int64_t vectors)
{
    double most = 0;
    for (int64_t v = 0; v < vectors; v++) {
        double difference = 0, norm = 0;
        for (int64_t i = v * DIM; i < (v + 1) * DIM; i++) {
            difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
            norm += (double)b[i] * (double)b[i];
        }
        if (norm > 0) most = fmax(most, sqrt(difference / norm));
    }
    return most;
}

static void agrees_with_the_cpu(void **state)
{
    static const struct {
        dinov_dtype type;
        double      limit;
    } types[] = {{DINOV_F32, 1e-5}, {DINOV_BF16, 2e-2}, {DINOV_F16, 3e-3}}; /* of a token; 2e-2 is a cosine of 0.9998 */
    (void)state;
    for (int registers = 0; registers <= 2; registers += 2)
        for (int swiglu = 0; swiglu < 2; swiglu++) {
            dinov_model   model = tiny(registers, swiglu ? DINOV_FFN_SWIGLU : DINOV_FFN_MLP);
            dinov_engine *cpu   = open_on(&model, "cpu", DINOV_F32);
            float        *want  = features_of(cpu, IMAGES);
            dinov_engine_close(&cpu);
            for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
                dinov_engine *e    = open_on(&model, "cuda", types[t].type);
                float        *have = features_of(e, IMAGES);
                double        most = worst(have, want, IMAGES * EACH / DIM);
                if (most > types[t].limit)
                    fail_msg("%s, registers %d, swiglu %d: %.2e, expected at most %.0e", dinov_engine_isa(e), registers, swiglu, most,
                             types[t].limit);
                free(have);
                dinov_engine_close(&e);
            }
            free(want);
        }
}

static void same_bits_for_any_batch_and_replay(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        dinov_model   model = tiny(2, DINOV_FFN_SWIGLU);
        dinov_engine *e     = open_on(&model, "cuda:0", t ? DINOV_BF16 : DINOV_F32);
        float        *want  = features_of(e, 1);
        for (int64_t batch = 1; batch <= IMAGES; batch += 2)
            for (int again = 0; again < 3; again++) { /* issued, recorded, replayed */
                float *have = features_of(e, batch);
                assert_memory_equal(want, have, IMAGES * EACH * sizeof *want);
                free(have);
            }
        free(want);
        dinov_engine_close(&e);
    }
}

struct caller {
    dinov_engine *engine;
    const float  *want;
    bool          same;
    pthread_t     thread;
};

static void *call(void *arg)
{
    struct caller *c = arg;
    c->same          = true;
    for (int64_t batch = WATCHED ? IMAGES : 1; batch <= IMAGES; batch += 4) {
        float *have = features_of(c->engine, batch);
        c->same &= memcmp(c->want, have, IMAGES * EACH * sizeof *have) == 0;
        free(have);
    }
    return NULL;
}

/* Two devices (the shim's are alike), and more callers than lanes. */
static void several_callers_on_several_devices(void **state)
{
    (void)state;
    dinov_model   model = tiny(0, DINOV_FFN_MLP);
    dinov_engine *e     = open_on(&model, "cuda:0,1", DINOV_BF16);
    struct caller callers[8];
    float        *want = features_of(e, 2);
    assert_int_equal(dinov_engine_devices(e), 2);
    assert_true(dinov_engine_lanes(e) > 2);
    for (int i = 0; i < 8; i++) {
        callers[i] = (struct caller){.engine = e, .want = want};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, call, &callers[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_true(callers[i].same);
    }
    assert_true(dinov_engine_busy(e) > 0);
    free(want);
    dinov_engine_close(&e);
}

/* Sizes that come and go: more grids than are kept, and back again. */
static void many_sizes(void **state)
{
    (void)state;
    dinov_model   model = tiny(0, DINOV_FFN_MLP);
    dinov_engine *e     = open_on(&model, "cuda", DINOV_F32), *cpu = open_on(&model, "cpu", DINOV_F32);
    for (int round = 0; round < 2; round++)
        for (int64_t w = 1; w <= 36; w += round ? 7 : 1) {
            float          have[DIM], want[DIM], *pixels = pictures(1, 14, 14 * w);
            dinov_features a = {.layer = -1, .cls = have}, b = {.layer = -1, .cls = want};
            assert_int_equal(dinov_engine_run(e, pixels, 1, 14, 14 * w, &a, 1, NULL), DINOV_OK);
            assert_int_equal(dinov_engine_run(cpu, pixels, 1, 14, 14 * w, &b, 1, NULL), DINOV_OK);
            assert_true(worst(have, want, 1) < 1e-5);
            free(pixels);
        }
    dinov_engine_close(&e);
    dinov_engine_close(&cpu);
}

/* A picture as decoded gives the very features of its prepared pixels. */
static void pictures_as_decoded(void **state)
{
    static const int64_t sizes[][2] = {{40, 60}, {28, 28}, {9, 300}, {200, 31}, {1, 1}};
    static const char   *presets[]  = {"square:28", "eval:28"};
    (void)state;
    dinov_model   model = tiny(0, DINOV_FFN_MLP);
    dinov_engine *e     = open_on(&model, "cuda", DINOV_BF16);
    for (size_t p = 0; p < sizeof presets / sizeof presets[0]; p++) {
        enum { N = sizeof sizes / sizeof sizes[0] };
        dinov_preset      preset;
        dinov_resize_plan plans[N];
        dinov_decoded     decoded[N];
        dinov_image       images[N];
        float             pixels[N * 3 * SIDE * SIDE], want[N * DIM], have[N * DIM];
        dinov_features    a = {.layer = -1, .cls = have}, b = {.layer = -1, .cls = want};
        assert_int_equal(dinov_preset_parse(&preset, presets[p], NULL), DINOV_OK);
        for (int i = 0; i < N; i++) {
            int64_t h = sizes[i][0], w = sizes[i][1];
            images[i] = (dinov_image){.pixels = dinov_alloc((size_t)(3 * h * w), 1), .width = w, .height = h, .orientation = 1};
            for (int64_t k = 0; k < 3 * h * w; k++) images[i].pixels[k] = (uint8_t)(k * k * 31 + k * 7 + i);
            assert_int_equal(dinov_preset_plan(&plans[i], &preset, 14, &images[i], NULL), DINOV_OK);
            decoded[i] = (dinov_decoded){images[i].pixels, w, &plans[i]};
            assert_int_equal(dinov_preset_apply(&preset, 14, dinov_engine_preprocess(e), &images[i], pixels + i * 3 * SIDE * SIDE, NULL),
                             DINOV_OK);
        }
        assert_true(dinov_engine_resizes(e));
        assert_int_equal(dinov_engine_run(e, pixels, N, SIDE, SIDE, &b, 1, NULL), DINOV_OK);
        for (int again = 0; again < 3; again++) {
            memset(have, 0, sizeof have);
            assert_int_equal(dinov_engine_run_decoded(e, decoded, N, SIDE, SIDE, &a, 1, NULL), DINOV_OK);
            assert_memory_equal(have, want, sizeof want);
        }
        for (int i = 0; i < N; i++) {
            dinov_resize_plan_clear(&plans[i]);
            dinov_image_clear(&images[i]);
        }
    }
    dinov_engine_close(&e);
}

static void failures_are_errors(void **state)
{
    (void)state;
    dinov_model    model = tiny(0, DINOV_FFN_MLP);
    float         *pixels = pictures(1, SIDE, SIDE), cls[DIM];
    dinov_features f = {.layer = -1, .cls = cls};
    dinov_error    err;

    for (int n = 1; n < 30; n += 3) {
        dinov_engine *e = open_on(&model, "cuda", DINOV_BF16);
        shim_fail_launch(n);
        dinov_status status = dinov_engine_run(e, pixels, 1, SIDE, SIDE, &f, 1, &err);
        shim_fail_launch(0);
        if (status != DINOV_OK) {
            assert_int_equal(status, DINOV_ERR_DEVICE);
            assert_string_equal(err.code, "DEV-FAULT");
        } else {
            assert_true(n > 15); /* no run of this model has so many launches */
        }
        dinov_engine_close(&e);
    }
    for (int n = 1; n < 20; n++) {
        dinov_engine *e = open_on(&model, "cuda", DINOV_F32);
        shim_fail_alloc(n);
        dinov_status status = dinov_engine_run(e, pixels, 1, SIDE, SIDE, &f, 1, &err);
        shim_fail_alloc(0);
        assert_true(status == DINOV_OK || status == DINOV_ERR_NOMEM);
        /* and what follows works */
        assert_int_equal(dinov_engine_run(e, pixels, 1, SIDE, SIDE, &f, 1, &err), DINOV_OK);
        dinov_engine_close(&e);
    }
    free(pixels);
}

static void what_is_not_finite_is_refused(void **state)
{
    (void)state;
    dinov_model    model = tiny(0, DINOV_FFN_MLP);
    dinov_engine  *e     = open_on(&model, "cuda", DINOV_F16);
    float         *pixels = pictures(1, SIDE, SIDE), cls[DIM];
    dinov_features f = {.layer = -1, .cls = cls};
    dinov_error    err;
    for (int64_t i = 0; i < 3 * SIDE * SIDE; i++) pixels[i] *= 1e6f; /* past 65504 */
    assert_int_equal(dinov_engine_run(e, pixels, 1, SIDE, SIDE, &f, 1, &err), DINOV_ERR_LIMIT);
    assert_string_equal(err.code, "DEV-RANGE");
    free(pixels);
    dinov_engine_close(&e);
}

static void options_that_make_no_sense(void **state)
{
    static const struct {
        const char *device;
        dinov_dtype compute;
        const char *code;
    } cases[] = {{"gpu", DINOV_F32, "OPT-DEVICE"},      {"cuda:", DINOV_F32, "OPT-DEVICE"},    {"cuda:x", DINOV_F32, "OPT-DEVICE"},
                 {"cuda:0,", DINOV_F32, "OPT-DEVICE"},  {"cuda:0,0", DINOV_F32, "OPT-DEVICE"}, {"cuda:0;1", DINOV_F32, "OPT-DEVICE"},
                 {"cpu", DINOV_BF16, "OPT-COMPUTE"},    {NULL, DINOV_F16, "OPT-COMPUTE"},      {"cuda", DINOV_I8, "OPT-COMPUTE"},
                 {"cuda:99", DINOV_F32, "DEV-CUDA"}};
    (void)state;
    dinov_model    model = tiny(0, DINOV_FFN_MLP);
    dinov_weights *weights;
    assert_int_equal(dinov_seeded_new(&weights, &model, 3, NULL), DINOV_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dinov_engine        *e;
        dinov_error          err;
        dinov_engine_options options = {.device = cases[i].device, .compute = cases[i].compute};
        assert_int_not_equal(dinov_engine_open_weights(&e, weights, &options, &err), DINOV_OK);
        assert_string_equal(err.code, cases[i].code);
        assert_null(e);
    }
    shim_unlike = true;
    dinov_engine        *e;
    dinov_error          err;
    dinov_engine_options two = {.device = "cuda:0,1"};
    assert_int_equal(dinov_engine_open_weights(&e, weights, &two, &err), DINOV_ERR_CONFIG);
    shim_unlike = false;
    assert_non_null(strstr(err.msg, "GPUs of one kind"));
    assert_null(e);
    dinov_seeded_free(&weights);
}

int main(void)
{
    const struct CMUnitTest threads[] = {cmocka_unit_test(several_callers_on_several_devices)};
    if (WATCHED) return cmocka_run_group_tests(threads, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_cpu),
        cmocka_unit_test(same_bits_for_any_batch_and_replay),
        cmocka_unit_test(several_callers_on_several_devices),
        cmocka_unit_test(many_sizes),
        cmocka_unit_test(pictures_as_decoded),
        cmocka_unit_test(failures_are_errors),
        cmocka_unit_test(what_is_not_finite_is_refused),
        cmocka_unit_test(options_that_make_no_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
