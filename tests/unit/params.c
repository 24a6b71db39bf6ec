/* SPDX-License-Identifier: Apache-2.0
 *
 * The parameter list against the official code: names, shapes and order of the eight hub models, as one
 * digest each of the lines "name dim dim ...\n" of its state_dict. Equal lists load with strict=True.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "format/params.h"

/* Rows printed by: DINOV_UPSTREAM=... tests/parity/parity.py shapes */
static const struct {
    const char *name;
    int64_t     dim, depth, heads;
    int         swiglu;
    int64_t     registers;
    size_t      tensors;
    int64_t     parameters;
    const char *sha256;
} hub[] = {
    {"S", 384, 12, 6, 0, 0, 175, 22056576,
     "d684967f0a4d951744ded3e3b8e20687ccb510da2a2fd5c19dbf90b376df3df9"},
    {"S", 384, 12, 6, 0, 4, 176, 22058112,
     "aaebb8149e51e412e846670d0828a68ef1117436bdf356502382f19c761d2fee"},
    {"B", 768, 12, 12, 0, 0, 175, 86580480,
     "2e35c728c1d42e5f2339f9094de08e1cc2455e0dd59cc311d391fd6bc00811a2"},
    {"B", 768, 12, 12, 0, 4, 176, 86583552,
     "033820def094bbe271a61d33196f62d8ff1edb251e799bc48623dd93fa5cb4dd"},
    {"L", 1024, 24, 16, 0, 0, 343, 304368640,
     "a6af256077571fc96fea203536e90d226b045c821b3b2d2e84b5292c90168e15"},
    {"L", 1024, 24, 16, 0, 4, 344, 304372736,
     "1b611341a347411ef7c8e06bf9f41bc7e6f1430836d0994eec185f62149e14f6"},
    {"g", 1536, 40, 24, 1, 0, 567, 1136480768,
     "45563f9539d3c3f07d432082a2ba1034b3747ec342f2f5b286e7e0d49e5f6673"},
    {"g", 1536, 40, 24, 1, 4, 568, 1136486912,
     "f247d3d3abf29d451ac7c5b5945ad3f57554a111c931cced731e6e402c2836a6"},
};

static void lists_are_the_hubs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hub / sizeof hub[0]; i++) {
        int64_t     hidden = hub[i].swiglu ? (4 * hub[i].dim * 2 / 3 + 7) / 8 * 8 : 4 * hub[i].dim;
        dinov_model model  = {.patch = 14, .dim = hub[i].dim, .depth = hub[i].depth, .heads = hub[i].heads, .hidden = hidden,
                              .ffn = hub[i].swiglu ? DINOV_FFN_SWIGLU : DINOV_FFN_MLP, .registers = hub[i].registers,
                              .channels = 3, .grid_h = 37, .grid_w = 37, .layerscale = 1, .qkv_bias = 1, .ln_eps = 1e-6};
        dinov_sha256 sha;
        char         digest[DINOV_SHA_HEX + 1];
        int64_t      parameters = 0;

        assert_int_equal(dinov_model_check(&model, hub[i].name, NULL), DINOV_OK);
        assert_int_equal(dinov_param_count(&model), hub[i].tensors);
        assert_int_equal(dinov_sha256_init(&sha, NULL), DINOV_OK);
        for (size_t p = 0; p < hub[i].tensors; p++) {
            dinov_param param;
            char        line[160];
            int64_t     elements = 1;
            dinov_param_at(&model, p, &param);
            int used = snprintf(line, sizeof line, "%s", param.name);
            for (int d = 0; d < param.rank; d++) {
                used += snprintf(line + used, sizeof line - (size_t)used, " %lld", (long long)param.dim[d]);
                elements *= param.dim[d];
            }
            line[used++] = '\n';
            dinov_sha256_add(&sha, line, (size_t)used);
            parameters += elements;
        }
        dinov_sha256_done(&sha, digest);
        assert_int_equal(parameters, hub[i].parameters);
        assert_string_equal(digest, hub[i].sha256);
    }
}

/* 224 where the patch divides it, else the multiple below, else one patch. */
static void every_patch_has_a_preset(void **state)
{
    static const struct {
        int64_t     patch;
        const char *preset;
    } cases[] = {{14, "eval:224"}, {16, "eval:224"}, {1, "eval:224"}, {13, "eval:221"}, {225, "eval:225"}, {1024, "eval:1024"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dinov_preprocess p;
        dinov_model      model = {.patch = cases[i].patch};
        dinov_preprocess_default(&p, &model);
        assert_string_equal(p.preset, cases[i].preset);
        assert_true(p.mean[0] == 0.485f && p.std[2] == 0.225f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lists_are_the_hubs), cmocka_unit_test(every_patch_has_a_preset)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
