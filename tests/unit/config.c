/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "train/config.h"

static char notes[4096];

static void note(void *arg, const char *sentence)
{
    (void)arg;
    strncat(notes, sentence, sizeof notes - strlen(notes) - 2);
    strcat(notes, "\n");
}

static dinov_status read(dinov_config *c, const char *yaml, dinov_error *err)
{
    notes[0] = '\0';
    return dinov_config_read(c, yaml, strlen(yaml), "file.yaml", note, NULL, err);
}

static void upstreams_defaults(void **state)
{
    (void)state;
    dinov_config c;
    dinov_config_default(&c);
    assert_true(c.optim.base_lr == 0.004 && c.optim.layerwise_decay == 0.9 && c.student.layerscale == 1e-5 && c.optim.epochs == 100);
    assert_true(c.crops.global_crops_scale[0] == 0.32 && c.crops.local_crops_scale[1] == 0.32 && c.crops.local_crops_number == 8);
    assert_true(c.train.centering == DINOV_CENTERING && c.student.drop_path_uniform && !c.ibot.separate_head && c.student.patch_size == 16);
    assert_string_equal(c.student.arch, "vit_large");
}

static void the_long_recipe_is_read_as_it_is(void **state)
{
    (void)state;
    dinov_config c;
    dinov_model  m;
    dinov_error  err;
    dinov_config_default(&c);
    assert_int_equal(read(&c,
                          "dino:\n  head_n_prototypes: 131072\n  head_bottleneck_dim: 384\nibot:\n  separate_head: true\n  head_n_prototypes: 131072\n"
                          "  mask_ratio_min_max:\n  - 0.2\n  - 0.4\ntrain:\n  batch_size_per_gpu: 32\n  dataset_path: ImageNet22k\n"
                          "  centering: sinkhorn_knopp\nstudent:\n  arch: vit_large\n  patch_size: 14\n  drop_path_rate: 0.4\n"
                          "  ffn_layer: swiglufused\n  block_chunks: 4\noptim:\n  base_lr: 2.0e-04  # comment\n  layerwise_decay: 1.0\n"
                          "crops:\n  local_crops_size: 98\ncompute_precision:\n  teacher:\n    backbone:\n      sharding_strategy: SHARD_GRAD_OP\n",
                          &err),
                     DINOV_OK);
    assert_true(c.dino.head.head_bottleneck_dim == 384 && c.ibot.head.head_bottleneck_dim == 256 && c.ibot.separate_head);
    assert_true(c.ibot.mask_ratio_min_max[0] == 0.2 && c.ibot.mask_ratio_min_max[1] == 0.4 && c.optim.base_lr == 2e-4);
    assert_string_equal(notes, "file.yaml:19: student.block_chunks has no effect here: blocks are not grouped\n");
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_OK);
    assert_true(m.hidden == 2736 && m.ffn == DINOV_FFN_SWIGLU && m.grid_h == 16 && m.depth == 24);
}

static void what_is_printed_reads_back(void **state)
{
    (void)state;
    static const char *const presets[] = {"tiny-cpu", "small-1gpu"};
    for (int i = 0; i < 2; i++) {
        dinov_config a, b;
        dinov_model  m;
        dinov_error  err;
        dinov_text   text = {0}, diff = {0};
        dinov_config_default(&a);
        if (dinov_config_load(&a, presets[i], note, NULL, &err) != DINOV_OK) fail_msg("%s", err.msg);
        assert_int_equal(dinov_config_set(&a, "train.dataset_path=a \"b\" \\c", NULL, NULL, &err), DINOV_OK);
        assert_int_equal(dinov_config_model(&a, &m, &err), DINOV_OK);
        dinov_config_print(&a, &text);
        dinov_config_default(&b);
        if (read(&b, text.data, &err) != DINOV_OK) fail_msg("%s", err.msg);
        assert_false(dinov_config_diff(&a, &b, true, &diff));
        assert_int_equal(dinov_config_set(&b, "optim.base_lr=0.5", NULL, NULL, &err), DINOV_OK);
        assert_int_equal(dinov_config_set(&b, "train.num_workers=1", NULL, NULL, &err), DINOV_OK);
        assert_true(dinov_config_diff(&a, &b, false, &diff));
        assert_true(strstr(diff.data, "optim.base_lr: ") == diff.data && strstr(diff.data, " -> 0.5\n") && !strstr(diff.data, "num_workers"));
        dinov_text_clear(&text);
        dinov_text_clear(&diff);
    }
}

static void refusals_say_where_and_what(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *code, *says;
    } rows[] = {
        {"optim:\n  base_lrr: 1\n", "CFG-KEY", "file.yaml:2: there is no key optim.base_lrr; the nearest is optim.base_lr"},
        {"optim:\n  epochs: many\n", "CFG-VALUE", "file.yaml:2: optim.epochs: expected a whole number from 1 to 1000000000000, found \"many\""},
        {"optim:\n  epochs: 1e3\n", "CFG-VALUE", "optim.epochs"},
        {"optim:\n  adamw_beta1: nan\n", "CFG-VALUE", "optim.adamw_beta1"},
        {"ibot:\n  mask_ratio_min_max: [0.5, 0.1]\n", "CFG-VALUE", "ascending"},
        {"ibot:\n  mask_ratio_min_max: [0.5]\n", "CFG-VALUE", "two numbers"},
        {"ibot:\n  mask_ratio_min_max: [[0.1, 0.5]]\n", "CFG-YAML", "a list of plain values"},
        {"train:\n  centering: softmax\n", "CFG-VALUE", "centering or sinkhorn_knopp"},
        {"student:\n  ffn_layer: identity\n", "CFG-VALUE", "mlp, swiglu or swiglufused"},
        {"student:\n  proj_bias: false\n", "CFG-REFUSED", "would change what is trained"},
        {"optim:\n  scaling_rule: linear\n", "CFG-REFUSED", "sqrt_wrt_1024"},
        {"optim: &a\n  epochs: 1\n", "CFG-YAML", "aliases"},
        {"optim:\n  epochs: &a 1\n", "CFG-YAML", "anchors"},
        {"optim: *a\n", "CFG-YAML", "alias"},
        {"optim:\n  epochs: 1\n  epochs: 2\n", "CFG-YAML", "stands twice"},
        {"- a\n- b\n", "CFG-YAML", "one mapping"},
        {"a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}\n", "CFG-YAML", "groups within groups"},
        {"optim: {epochs: 1\n", "CFG-YAML", "file.yaml:"},
        {"train:\n  output_dir: \"a\\u202eb\"\n", "CFG-VALUE", "printable"},
        {"optim:\n  epochs: 1\n---\noptim:\n  epochs: 2\n", "CFG-YAML", "one mapping"},
        {"\xff\xfe\x41", "CFG-YAML", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        dinov_config c, before;
        dinov_error  err;
        dinov_config_default(&c);
        before = c;
        if (read(&c, rows[i].yaml, &err) == DINOV_OK) fail_msg("accepted: %s", rows[i].yaml);
        if (strcmp(err.code, rows[i].code) != 0 || !strstr(err.msg, rows[i].says)) fail_msg("%s [%s] for %s", err.msg, err.code, rows[i].yaml);
        assert_memory_equal(&c, &before, sizeof c);
    }
}

static void command_lines(void **state)
{
    (void)state;
    dinov_config c;
    dinov_model  m;
    dinov_error  err;
    dinov_config_default(&c);
    assert_int_equal(dinov_config_set(&c, "ibot.mask_ratio_min_max=[0.2, 0.3]", NULL, NULL, &err), DINOV_OK);
    assert_int_equal(dinov_config_set(&c, "optim", NULL, NULL, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-KEY");
    assert_int_equal(dinov_config_set(&c, "optim.=3", NULL, NULL, &err), DINOV_ERR_CONFIG);
    assert_int_equal(dinov_config_set(&c, "student.arch=vit_tiny", NULL, NULL, &err), DINOV_OK);
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-ARCH");
    assert_int_equal(dinov_config_set(&c, "student.arch=vit_small", NULL, NULL, &err), DINOV_OK);
    assert_int_equal(dinov_config_set(&c, "crops.global_crops_size=225", NULL, NULL, &err), DINOV_OK);
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "crops.global_crops_size: expected a multiple of student.patch_size (16), found 225"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(upstreams_defaults),          cmocka_unit_test(the_long_recipe_is_read_as_it_is),
        cmocka_unit_test(what_is_printed_reads_back),  cmocka_unit_test(refusals_say_where_and_what),
        cmocka_unit_test(command_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
