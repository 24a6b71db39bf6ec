/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
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
    assert_true(c.optim.base_lr == 0.004 && c.optim.layerwise_decay == 0.9 && c.student.layerscale == 1e-5 &&
                c.optim.epochs == 100);
    assert_true(c.crops.global_crops_scale[0] == 0.32 && c.crops.local_crops_scale[1] == 0.32 && c.crops.local_crops_number == 8);
    assert_true(c.train.centering == DINOV_CENTERING && c.student.drop_path_uniform && !c.ibot.separate_head &&
                c.student.patch_size == 16);
    assert_string_equal(c.student.arch, "vit_large");
}

static void the_long_recipe_is_read_as_it_is(void **state)
{
    (void)state;
    dinov_config c;
    dinov_model  m;
    dinov_error  err;
    dinov_config_default(&c);
    assert_int_equal(
        read(&c,
             "dino:\n  head_n_prototypes: 131072\n  head_bottleneck_dim: 384\nibot:\n  separate_head: true\n  head_n_prototypes: "
             "131072\n"
             "  mask_ratio_min_max:\n  - 0.2\n  - 0.4\ntrain:\n  batch_size_per_gpu: 32\n  dataset_path: ImageNet22k\n"
             "  centering: sinkhorn_knopp\nstudent:\n  arch: vit_large\n  patch_size: 14\n  drop_path_rate: 0.4\n"
             "  ffn_layer: swiglufused\n  block_chunks: 4\noptim:\n  base_lr: 2.0e-04  # comment\n  layerwise_decay: 1.0\n"
             "crops:\n  local_crops_size: 98\ncompute_precision:\n  teacher:\n    backbone:\n      sharding_strategy: "
             "SHARD_GRAD_OP\n",
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
        assert_true(strstr(diff.data, "optim.base_lr: ") == diff.data && strstr(diff.data, " -> 0.5\n") &&
                    !strstr(diff.data, "num_workers"));
        dinov_text_clear(&diff);
        assert_true(dinov_config_diff(&a, &b, true, &diff));
        assert_non_null(strstr(diff.data, " -> 0.5\n"));
        assert_non_null(strstr(diff.data, "train.num_workers: 10 -> 1 (may change)\n"));
        assert_true(dinov_config_set(&a, "optim.base_lr=0.5", NULL, NULL, &err) == DINOV_OK &&
                    !dinov_config_diff(&a, &b, false, &diff));
        assert_memory_equal(&a.student, &b.student, sizeof a.student);
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
        {"optim:\n  epochs: many\n", "CFG-VALUE",
         "file.yaml:2: optim.epochs: expected a whole number from 1 to 2147483647, found \"many\""},
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
        {"a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}\n", "CFG-KEY", "file.yaml:1: there is no group a; the nearest is "},
        {"optim: {epochs: {}}\n", "CFG-VALUE", "optim.epochs: expected one value"},
        {"foo: {}\n", "CFG-KEY", "there is no group foo"},
        {"optimm:\n  epochs: 1\n", "CFG-KEY", "file.yaml:2: there is no group optimm; the nearest is optim"},
        {"compute_precision: {students: {backbone: {}}}\n", "CFG-KEY",
         "compute_precision.students; the nearest is compute_precision.student"},
        {"compute_precision: {student: {backbone: {mixed: {precision: {}}}}}\n", "CFG-KEY",
         "there is no group compute_precision.student.backbone.mixed"},
        {"depth: 1\n", "CFG-KEY", "there is no key depth; the nearest is student.depth"},
        {"optim: {weight_decay_en: 1}\n", "CFG-KEY", "the nearest is optim.weight_decay_end"},
        {"optim: {weight_decai: 1}\n", "CFG-KEY", "the nearest is optim.weight_decay"},
        {"optim: {x: {}}\n", "CFG-KEY", "there is no group optim.x; the nearest is optim.lr"},
        {"base_lr: 1\n", "CFG-KEY", "there is no key base_lr; the nearest is optim.base_lr"},
        {"optim: 3\n", "CFG-KEY", "optim is a group of keys such as optim.epochs"},
        {"optim: []\n", "CFG-KEY", "optim is a group"},
        {"optim:\n  epochs: 1\nteacher: {}\noptim:\n  min_lr: 0\n", "CFG-YAML", "file.yaml:4: a key that stands twice"},
        {"optim.epochs: 1\noptim: {epochs: 2}\n", "CFG-YAML", "stands twice"},
        {"? [optim]\n: 1\n", "CFG-YAML", "expected a key"},
        {"optim: {<<: {epochs: 1}}\n", "CFG-KEY", "<<"},
        {"optim: {epochs: !!int 1}\n", "CFG-YAML", "tags"},
        {"optim: !!map {epochs: 1}\n", "CFG-YAML", "tags"},
        {"!!map {optim: {epochs: 1}}\n", "CFG-YAML", "tags"},
        {"optim: {epochs: \"1\\0\"}\n", "CFG-YAML", "zero byte"},
        {"optim: {epochs: 010}\n", "CFG-VALUE", "found \"010\""},
        {"optim: {epochs: 0x10}\n", "CFG-VALUE", "found \"0x10\""},
        {"optim: {epochs: \" 7\"}\n", "CFG-VALUE", "found \" 7\""},
        {"optim: {epochs: 99999999999999999999}\n", "CFG-VALUE", "found \"99999999999999999999\""},
        {"optim: {epochs: 0}\n", "CFG-VALUE", "from 1"},
        {"optim: {epochs: }\n", "CFG-VALUE", "found \"\""},
        {"optim: {base_lr: 0x1p4}\n", "CFG-VALUE", "optim.base_lr"},
        {"optim: {base_lr: .inf}\n", "CFG-VALUE", "optim.base_lr"},
        {"optim: {base_lr: 1e999}\n", "CFG-VALUE", "optim.base_lr"},
        {"optim: {base_lr: -1}\n", "CFG-VALUE", "a number from 0"},
        {"optim: {base_lr: [1]}\n", "CFG-VALUE", "expected one value, found \"[1]\""},
        {"train: {dataset_path: [a, b]}\n", "CFG-VALUE", "expected one value, found \"[a, b]\""},
        {"student: {drop_path_uniform: yes}\n", "CFG-VALUE", "true or false"},
        {"student: {arch: vit_tiny}\n", "CFG-ARCH",
         "file.yaml:1: student.arch: expected vit_small, vit_base, vit_large, vit_giant2 or vit_custom, found \"vit_tiny\""},
        {"student: {ffn_bias: false}\n", "CFG-REFUSED", "student.ffn_bias"},
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
        if (strcmp(err.code, rows[i].code) != 0 || !strstr(err.msg, rows[i].says))
            fail_msg("%s [%s] for %s", err.msg, err.code, rows[i].yaml);
        assert_memory_equal(&c, &before, sizeof c);
    }
}

static void notes_name_what_has_no_effect(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *says;
    } rows[] = {
        /* upstream's values, in any spelling, and groups that are empty or commented out */
        {"optim: {lr: 0}\ntrain: {cache_dataset: True}\nstudent: {block_chunks: 0, proj_bias: True}\nMODEL: {WEIGHTS: ''}\n", ""},
        {"compute_precision: {grad_scaler: true, student: {dino_head: {mixed_precision: {reduce_dtype: fp32}}}}\n", ""},
        {"optim:\nteacher: ~\nstudent: null\ncrops: {}\n", ""},
        {"", ""},
        {"optim: {lr: 0.002}\n", "file.yaml:1: optim.lr has no effect here: computed from base_lr\n"},
        {"compute_precision:\n  student:\n    backbone:\n      mixed_precision: {param_dtype: bf16, reduce_dtype: fp16}\n",
         "file.yaml:4: compute_precision.student.backbone.mixed_precision.param_dtype has no effect here: everything is computed "
         "in f32\n"},
        {"evaluation: {eval_period_iterations: 5}\n",
         "file.yaml:1: evaluation.eval_period_iterations has no effect here: every checkpoint holds the backbone; see knn_every\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        dinov_config c, before;
        dinov_error  err;
        dinov_config_default(&c);
        before = c;
        if (read(&c, rows[i].yaml, &err) != DINOV_OK) fail_msg("%s", err.msg);
        assert_string_equal(notes, rows[i].says);
        assert_memory_equal(&c, &before, sizeof c);
    }
}

static void the_data_of_the_official_code_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        bool        ok;
    } rows[] = {{"ImageNet:split=TRAIN", false},
                {"ImageNet22k", false},
                {"ImageNet", false},
                {"ImageNet22k:root=/a:extra=/b", false},
                {"", false},
                {"./ImageNet", true},
                {"ImageNetV2", true},
                {"photos:more", true},
                {"@list", true}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        dinov_config c;
        dinov_error  err;
        dinov_config_default(&c);
        snprintf(c.train.dataset_path, sizeof c.train.dataset_path, "%s", rows[i].path);
        dinov_status status = dinov_config_check_data(&c, &err);
        assert_int_equal(status, rows[i].ok ? DINOV_OK : DINOV_ERR_CONFIG);
        if (rows[i].ok) continue;
        assert_string_equal(err.code, "CFG-DATA");
        assert_non_null(strstr(err.msg, "tar shards"));
    }
}

static void models_have_upstreams_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        int64_t     dim, depth, heads, hidden, grid;
    } rows[] = {
        {"student.arch=vit_small", 384, 12, 6, 1536, 16},        {"student.arch=vit_base", 768, 12, 12, 3072, 16},
        {"student.arch=vit_large", 1024, 24, 16, 4096, 16},      {"student.arch=vit_giant2", 1536, 40, 24, 6144, 16},
        {"student.ffn_layer=swiglu", 1536, 40, 24, 4096, 16},    {"student.ffn_layer=swiglufused", 1536, 40, 24, 4096, 16},
        {"crops.global_crops_size=518", 1536, 40, 24, 4096, 37},
    };
    dinov_config c;
    dinov_model  m;
    dinov_error  err;
    dinov_config_default(&c);
    c.student.patch_size = 14, c.crops.local_crops_size = 98;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(dinov_config_set(&c, rows[i].set, NULL, NULL, &err), DINOV_OK);
        if (dinov_config_model(&c, &m, &err) != DINOV_OK) fail_msg("%s", err.msg);
        assert_true(m.dim == rows[i].dim && m.depth == rows[i].depth && m.heads == rows[i].heads && m.hidden == rows[i].hidden);
        assert_true(m.grid_h == rows[i].grid && m.grid_w == m.grid_h && m.layerscale && m.qkv_bias && m.registers == 0);
    }
    /* Sizes of vit_custom beside an architecture that has its own; with it they count. */
    c.student.embed_dim = 192, c.student.num_heads = 3, c.student.layerscale = 0;
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-ARCH");
    assert_non_null(strstr(err.msg, "embed_dim=1536 depth=40 num_heads=24"));
    assert_int_equal(dinov_config_set(&c, "student.arch=vit_custom", NULL, NULL, &err), DINOV_OK);
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_OK);
    assert_true(m.dim == 192 && m.depth == 12 && m.heads == 3 && m.hidden == 512 && !m.layerscale);
    /* Cases that only the whole shows. */
    static const char *const bad[] = {"crops.local_crops_size=100", "optim.warmup_epochs=200",
                                      "train.OFFICIAL_EPOCH_LENGTH=2147483647", "student.num_heads=7"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        dinov_config b = c;
        assert_int_equal(dinov_config_set(&b, bad[i], NULL, NULL, &err), DINOV_OK);
        assert_int_not_equal(dinov_config_model(&b, &m, &err), DINOV_OK);
    }
    /* No local crops: their size is nobody's concern. */
    c.crops.local_crops_number = 0, c.crops.local_crops_size = 100;
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_OK);
    c.dino.head.loss_weight = c.ibot.head.loss_weight = 0;
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-VALUE");
}

static void command_lines(void **state)
{
    (void)state;
    dinov_config c;
    dinov_model  m;
    dinov_error  err;
    dinov_config_default(&c);
    assert_int_equal(dinov_config_set(&c, "ibot.mask_ratio_min_max=[0.2, 0.3]", NULL, NULL, &err), DINOV_OK);
    assert_true(c.ibot.mask_ratio_min_max[0] == 0.2 && c.ibot.mask_ratio_min_max[1] == 0.3);
    /* Paths as the shell left them; quotes as YAML has them. */
    static const struct {
        const char *set, *is;
    } paths[] = {{"a b # c: d", "a b # c: d"},
                 {"'a b'", "a b"},
                 {"\"a \\\"b\\\"\"", "a \"b\""},
                 {"null", ""},
                 {"~", ""},
                 {"'~'", "~"},
                 {"~/x", "~/x"},
                 {"a=b", "a=b"}};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        char set[64];
        snprintf(set, sizeof set, "evaluation.knn_train=%s", paths[i].set);
        if (dinov_config_set(&c, set, NULL, NULL, &err) != DINOV_OK) fail_msg("%s", err.msg);
        assert_string_equal(c.evaluation.knn_train, paths[i].is);
    }
    static const struct {
        const char *set, *code, *says;
    } bad[] = {{"evaluation.knn_train='a", "CFG-YAML", "command line:1: "},
               {"evaluation.knn_train='a': b", "CFG-YAML", "one value in quotes"},
               {"evaluation.knn_train=[a, b]", "CFG-VALUE", "command line: evaluation.knn_train: expected one value"},
               {"ibot.mask_ratio_min_max=0.1", "CFG-VALUE", "command line: ibot.mask_ratio_min_max: expected two numbers"},
               {"ibot.mask_ratio_min_max=[0.1,0.5", "CFG-VALUE", "two numbers"},
               {"ibot.mask_ratio_min_max=[0.1,0.5]]", "CFG-VALUE", "two numbers"},
               {"optim=", "CFG-KEY", "is a group"},
               {"optim.epoch=3", "CFG-KEY", "the nearest is optim.epochs"},
               {"epochs=3", "CFG-KEY", "the nearest is optim.epochs"},
               {"optim.epochs= 3", "CFG-VALUE", "found \" 3\""}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dinov_config_set(&c, bad[i].set, NULL, NULL, &err), DINOV_ERR_CONFIG);
        if (strcmp(err.code, bad[i].code) != 0 || !strstr(err.msg, bad[i].says))
            fail_msg("%s [%s] for %s", err.msg, err.code, bad[i].set);
    }
    assert_int_equal(dinov_config_set(&c, "optim", NULL, NULL, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-KEY");
    assert_int_equal(dinov_config_set(&c, "optim.=3", NULL, NULL, &err), DINOV_ERR_CONFIG);
    assert_int_equal(dinov_config_set(&c, "student.arch=vit_tiny", NULL, NULL, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-ARCH");
    assert_string_equal(c.student.arch, "vit_large");
    assert_int_equal(dinov_config_set(&c, "student.arch=vit_small", NULL, NULL, &err), DINOV_OK);
    assert_int_equal(dinov_config_set(&c, "crops.global_crops_size=225", NULL, NULL, &err), DINOV_OK);
    assert_int_equal(dinov_config_model(&c, &m, &err), DINOV_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "crops.global_crops_size: expected a multiple of student.patch_size (16), found 225"));
}

/* As long as may be, it is still read at once; a byte more is not looked at. */
static void length_is_bounded(void **state)
{
    (void)state;
    enum { MOST = 65536 };
    static char  yaml[MOST + 2];
    size_t       used = 0;
    dinov_config c;
    dinov_error  err;
    dinov_config_default(&c);
    for (int i = 0; used < MOST - 64; i++) used += (size_t)snprintf(yaml + used, 64, "%%TAG !%d! t:\n", i);
    used += (size_t)snprintf(yaml + used, 64, "--- {optim: {epochs: 7}}\n#");
    memset(yaml + used, 'x', MOST + 1 - used);
    yaml[MOST] = '\0';
    if (read(&c, yaml, &err) != DINOV_OK) fail_msg("%s", err.msg);
    assert_int_equal(c.optim.epochs, 7);
    yaml[MOST] = 'x';
    assert_int_equal(read(&c, yaml, &err), DINOV_ERR_CONFIG);
    assert_string_equal(err.code, "CFG-YAML");
    assert_non_null(strstr(err.msg, "file.yaml: expected at most 64 KiB, found 65537 bytes"));
}

/* Texts that options hold: taken as they are, and only those that a printed configuration gives back. */
static void texts_are_put_as_they_are(void **state)
{
    (void)state;
    static const char *const good[] = {"null", "[a]", "'a", "a: b # c", "caf\xc3\xa9", "\"\\"};
    static const char *const bad[]  = {"a\nb", "a\xff", "a\xe2\x80\xae"};
    dinov_config             a, b;
    dinov_error              err;
    dinov_config_default(&a);
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        dinov_text text = {0};
        assert_int_equal(dinov_config_put(&a, "train.dataset_path", good[i], "DATA", &err), DINOV_OK);
        assert_string_equal(a.train.dataset_path, good[i]);
        dinov_config_print(&a, &text);
        dinov_config_default(&b);
        if (read(&b, text.data, &err) != DINOV_OK) fail_msg("%s", err.msg);
        assert_memory_equal(&a, &b, sizeof a);
        dinov_text_clear(&text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dinov_config_put(&a, "train.dataset_path", bad[i], "DATA", &err), DINOV_ERR_CONFIG);
        assert_string_equal(err.code, "CFG-VALUE");
        assert_true(strstr(err.msg, "DATA: train.dataset_path: expected less than 1,024 bytes of printable text") == err.msg);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

/* Wherever memory runs out: a status, or a text that says it failed; never a difference that is not seen. */
static void memory_runs_out(void **state)
{
    (void)state;
    dinov_config a, b, before;
    dinov_error  err;
    dinov_config_default(&a);
    b              = a;
    b.optim.epochs = 7;
    before         = a;
    long last      = 0;
    for (long n = 1; last == 0; n++) {
        dinov_text text = {0}, diff = {0}, page = {0};
        dinov_alloc_fail_at(n, 1);
        dinov_status status = dinov_config_load(&a, "tiny-cpu", NULL, NULL, &err);
        dinov_config_print(&a, &text);
        bool differs = dinov_config_diff(&before, &b, true, &diff);
        dinov_config_document(&page);
        dinov_alloc_fail_at(0, 0);
        if (status != DINOV_OK) {
            assert_int_equal(status, DINOV_ERR_NOMEM);
            assert_memory_equal(&a, &before, sizeof a);
        }
        assert_true(text.failed || strstr(text.data, "knn_test: "));
        assert_true(diff.failed || differs);
        assert_true(page.failed || strstr(page.data, "`MODEL.WEIGHTS`"));
        if (status == DINOV_OK && !text.failed && !diff.failed && !page.failed) last = n;
        dinov_text_clear(&text), dinov_text_clear(&diff), dinov_text_clear(&page);
        a = before;
    }
    assert_true(last > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(upstreams_defaults),
        cmocka_unit_test(the_long_recipe_is_read_as_it_is),
        cmocka_unit_test(what_is_printed_reads_back),
        cmocka_unit_test(refusals_say_where_and_what),
        cmocka_unit_test(notes_name_what_has_no_effect),
        cmocka_unit_test(the_data_of_the_official_code_is_refused),
        cmocka_unit_test(models_have_upstreams_numbers),
        cmocka_unit_test(command_lines),
        cmocka_unit_test(length_is_bounded),
        cmocka_unit_test(texts_are_put_as_they_are),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
