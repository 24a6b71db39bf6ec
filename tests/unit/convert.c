/* SPDX-License-Identifier: Apache-2.0
 *
 * convert/ on what needs no file written by others: models recognised from shapes with the hub's own
 * counts, interpolation rules, comparisons with known answers, and out-of-memory at every allocation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/dtype.h"
#include "convert/compare.h"
#include "convert/import.h"
#include "convert/safetensors.h"
#include "format/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A model's tensors without bytes, in the order that is not the hub's: last first. */
static dinov_tensors shapes_of(const dinov_model *m)
{
    dinov_tensors list = {0};
    size_t        n    = dinov_param_count(m);
    for (size_t i = 0; i < n; i++) {
        dinov_param  p;
        dinov_tensor t = {.dtype = DINOV_F32};
        dinov_param_at(m, n - 1 - i, &p);
        t.rank = p.rank;
        memcpy(t.dim, p.dim, sizeof p.dim);
        assert_int_equal(dinov_tensors_add(&list, p.name, strlen(p.name), &t, "test", NULL), DINOV_OK);
    }
    return list;
}

static void recognises_every_hub_model(void **state)
{
    /* Tensors and values as counted on the official models. */
    static const struct {
        const char *name;
        int64_t     dim, depth, heads, hidden, registers;
        dinov_ffn   ffn;
        size_t      tensors;
        uint64_t    values;
    } hub[] = {
        {"dinov2_vits14", 384, 12, 6, 1536, 0, DINOV_FFN_MLP, 175, 22056576},
        {"dinov2_vits14_reg", 384, 12, 6, 1536, 4, DINOV_FFN_MLP, 176, 22058112},
        {"dinov2_vitb14", 768, 12, 12, 3072, 0, DINOV_FFN_MLP, 175, 86580480},
        {"dinov2_vitb14_reg", 768, 12, 12, 3072, 4, DINOV_FFN_MLP, 176, 86583552},
        {"dinov2_vitl14", 1024, 24, 16, 4096, 0, DINOV_FFN_MLP, 343, 304368640},
        {"dinov2_vitl14_reg", 1024, 24, 16, 4096, 4, DINOV_FFN_MLP, 344, 304372736},
        {"dinov2_vitg14", 1536, 40, 24, 4096, 0, DINOV_FFN_SWIGLU, 567, 1136480768},
        {"dinov2_vitg14_reg", 1536, 40, 24, 4096, 4, DINOV_FFN_SWIGLU, 568, 1136486912},
    };
    (void)state;
    for (size_t i = 0; i < sizeof hub / sizeof hub[0]; i++) {
        dinov_model   want = {.patch      = 14,
                              .dim        = hub[i].dim,
                              .depth      = hub[i].depth,
                              .heads      = hub[i].heads,
                              .ffn        = hub[i].ffn,
                              .hidden     = hub[i].hidden,
                              .registers  = hub[i].registers,
                              .channels   = 3,
                              .grid_h     = 37,
                              .grid_w     = 37,
                              .layerscale = 1,
                              .qkv_bias   = 1,
                              .ln_eps     = 1e-6,
                              .interp     = {hub[i].registers ? 0 : 0.1, hub[i].registers != 0}};
        dinov_tensors list = shapes_of(&want);
        dinov_model   found;
        dinov_error   err;
        char          name[64];
        uint64_t      values = 0, bytes;
        if (dinov_recognise(&found, list.items, list.count, NULL, "test", &err) != DINOV_OK) fail_msg("%s", err.msg);
        for (size_t k = 0; k < list.count; k++) {
            assert_true(dinov_tensor_bytes(&list.items[k].tensor, &bytes));
            values += bytes / 4;
        }
        assert_string_equal(dinov_model_name(name, sizeof name, &found), hub[i].name);
        assert_int_equal(list.count, hub[i].tensors);
        assert_int_equal(values, hub[i].values);
        assert_int_equal(found.heads, hub[i].heads);
        assert_int_equal(found.hidden, hub[i].hidden);
        assert_int_equal(found.ffn, hub[i].ffn);
        assert_int_equal(found.grid_h, 37);
        assert_true(found.interp.offset == want.interp.offset && found.interp.antialias == want.interp.antialias);
        dinov_tensors_clear(&list);
    }
}

static void recognises_upstreams_training_models(void **state)
{
    /* ViT-L with SwiGLU of 2736, trained at 224 with patch 16. */
    dinov_model   want = {.patch      = 16,
                          .dim        = 1024,
                          .depth      = 24,
                          .heads      = 16,
                          .ffn        = DINOV_FFN_SWIGLU,
                          .hidden     = 2736,
                          .channels   = 3,
                          .grid_h     = 14,
                          .grid_w     = 14,
                          .layerscale = 1,
                          .qkv_bias   = 1,
                          .ln_eps     = 1e-6,
                          .interp     = {0.1, 0}};
    dinov_tensors list = shapes_of(&want);
    dinov_model   found;
    char          name[64];
    (void)state;
    assert_int_equal(dinov_recognise(&found, list.items, list.count, NULL, "test", NULL), DINOV_OK);
    assert_int_equal(found.hidden, 2736);
    assert_int_equal(found.grid_w, 14);
    assert_string_equal(dinov_model_name(name, sizeof name, &found), "vit d1024 l24 h16 p16");
    dinov_tensors_clear(&list);
}

static void reads_interpolation_rules(void **state)
{
    static const char *const bad[] = {"", ",antialias", "1", "-0.1", "nan", "0.1x", "0.1,anti", "0.1, antialias"};
    dinov_interp             interp;
    dinov_error              err;
    (void)state;
    assert_int_equal(dinov_interp_parse(&interp, "0.1", NULL), DINOV_OK);
    assert_true(interp.offset == 0.1 && interp.antialias == 0);
    assert_int_equal(dinov_interp_parse(&interp, "0,antialias", NULL), DINOV_OK);
    assert_true(interp.offset == 0 && interp.antialias == 1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dinov_interp_parse(&interp, bad[i], &err), DINOV_ERR_CONFIG);
        assert_string_equal(err.code, "INTERP");
    }
}

static dinov_tensor vector(dinov_dtype dtype, const void *data, int64_t count)
{
    return (dinov_tensor){.data = data, .dtype = dtype, .rank = 1, .dim = {count}};
}

static void compares_with_known_answers(void **state)
{
    static const float    a[] = {3, 4, 0}, b[] = {3, 4, 1}, zero[3] = {0}, with_nan[] = {3, 4, NAN};
    static const uint16_t half[]    = {0x4200, 0x4400, 0x0000}; /* 3, 4, 0 */
    static const uint16_t brain[]   = {0x4040, 0x4080, 0x0000};
    static const uint16_t small[]   = {0x0001, 0x8001, 0x7c00}; /* the smallest halves, and infinity */
    static const float    small_f[] = {5.9604644775390625e-8f, -5.9604644775390625e-8f, INFINITY};
    static const int64_t  wide[]    = {3, 4, 0};
    dinov_tensor          ta = vector(DINOV_F32, a, 3), tb = vector(DINOV_F32, b, 3), tz = vector(DINOV_F32, zero, 3);
    dinov_tensor          tn = vector(DINOV_F32, with_nan, 3), t2 = vector(DINOV_F32, a, 2);
    (void)state;

    dinov_difference d = dinov_tensor_compare(&ta, &ta);
    assert_true(d.equal && d.same_shape && d.max_abs == 0 && d.relative == 0 && d.cosine == 1);
    d = dinov_tensor_compare(&ta, &tb);
    assert_true(!d.equal && d.max_abs == 1 && fabs(d.relative - 0.2) < 1e-15 && fabs(d.cosine - 25 / (5 * sqrt(26))) < 1e-15);
    d = dinov_tensor_compare(&tz, &ta);
    assert_true(isinf(d.relative) && d.max_abs == 4);
    d = dinov_tensor_compare(&ta, &tn);
    assert_true(!d.equal && isnan(d.max_abs));
    assert_false(dinov_tensor_compare(&ta, &t2).same_shape);

    const dinov_tensor same[] = {vector(DINOV_F16, half, 3), vector(DINOV_BF16, brain, 3), vector(DINOV_I64, wide, 3)};
    for (size_t i = 0; i < 3; i++) {
        d = dinov_tensor_compare(&ta, &same[i]);
        assert_true(!d.equal && d.max_abs == 0 && d.relative == 0 && d.cosine == 1);
    }
    dinov_tensor ts = vector(DINOV_F16, small, 3), tf = vector(DINOV_F32, small_f, 3);
    assert_true(dinov_tensor_compare(&ts, &tf).max_abs == 0);
}

/* ---- Out of memory at the n-th allocation, once and for good: a clean error, nothing leaked ---- */

static void survives_no_memory(const char *path)
{
    for (int forever = 0; forever < 2; forever++) {
        dinov_status status = DINOV_ERR_NOMEM;
        long         n;
        for (n = 1; status != DINOV_OK; n++) {
            const dinov_import_options how = {.recognise.heads = 1, .threads = 1};
            dinov_import              *in;
            dinov_error                err = {0};
            assert_true(n < 20000);
            dinov_alloc_fail_at(n, forever);
            status = dinov_import_open(&in, path, &how, &err);
            if (status != DINOV_OK)
                assert_null(in);
            else
                status = dinov_import_identify(in, 1, &err);
            dinov_alloc_fail_at(0, 0);
            if (status != DINOV_OK) {
                assert_int_equal(status, DINOV_ERR_NOMEM);
                assert_int_equal(err.status, DINOV_ERR_NOMEM);
            }
            dinov_import_close(&in);
        }
        assert_true(n > 20);
    }
}

static void survives_no_memory_safetensors(void **state)
{
    dinov_model   m      = {.patch      = 2,
                            .dim        = 64,
                            .depth      = 1,
                            .heads      = 1,
                            .ffn        = DINOV_FFN_MLP,
                            .hidden     = 8,
                            .channels   = 3,
                            .grid_h     = 2,
                            .grid_w     = 2,
                            .layerscale = 1,
                            .qkv_bias   = 1,
                            .ln_eps     = 1e-6};
    char          path[] = "/tmp/dinov-unit-XXXXXX";
    dinov_tensors list   = shapes_of(&m);
    static char   zeros[1 << 20];
    (void)state;
    for (size_t i = 0; i < list.count; i++) list.items[i].tensor.data = zeros;
    close(mkstemp(path));

    dinov_status status = DINOV_ERR_NOMEM;
    for (long n = 1; status != DINOV_OK; n++) {
        dinov_alloc_fail_at(n, 0);
        status = dinov_safetensors_write(path, list.items, list.count, 1, NULL);
        dinov_alloc_fail_at(0, 0);
        assert_true(status == DINOV_OK || status == DINOV_ERR_NOMEM);
    }
    survives_no_memory(path);
    unlink(path);
    dinov_tensors_clear(&list);
}

static void survives_no_memory_pth(void **state)
{
    (void)state;
    survives_no_memory(DINOV_UNIT_PTH); /* strided, shared and deflated storages */
}

static void survives_no_memory_onnx(void **state)
{
    (void)state;
    survives_no_memory(DINOV_UNIT_ONNX "/script-spelled.onnx");
    survives_no_memory(DINOV_UNIT_ONNX "/half.onnx"); /* nodes out of order */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recognises_every_hub_model),     cmocka_unit_test(recognises_upstreams_training_models),
        cmocka_unit_test(reads_interpolation_rules),      cmocka_unit_test(compares_with_known_answers),
        cmocka_unit_test(survives_no_memory_safetensors), cmocka_unit_test(survives_no_memory_pth),
        cmocka_unit_test(survives_no_memory_onnx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
