/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: what is written is read back, twice the same bytes, wrong arguments refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "format/document.h"
#include "format/table.h"
#include "format_model.h"

#include <stdio.h>
#include <unistd.h>

static char folder[] = "/tmp/dinov-format-XXXXXX";
static char path_a[64], path_b[64];

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path_a, sizeof path_a, "%s/a.safetensors", folder);
    snprintf(path_b, sizeof path_b, "%s/b.safetensors", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path_a);
    unlink(path_b);
    return rmdir(folder); /* fails, and so does the test, when something else was left behind */
}

#define OK(call)                                                           \
    do {                                                                   \
        dinov_error  e_ = {0};                                             \
        dinov_error *err = &e_;                                            \
        if ((call) != DINOV_OK) fail_msg("%s: %s: %s", #call, e_.code, e_.msg); \
    } while (0)

static void expect_error(dinov_status got, const dinov_error *e, dinov_status status, const char *code)
{
    if (got != status || strcmp(e->code, code) != 0)
        fail_msg("expected %d %s, found %d %s (%s)", status, code, got, e->code, e->msg);
    assert_int_equal(e->status, status);
    assert_true(strlen(e->msg) > 10);
}

static void write_tiny(const char *path, const tiny_model *t)
{
    dinov_write_options options = {.threads = 1, .overwrite = 1};
    OK(dinov_checkpoint_write(path, &t->weights, &t->provenance, &t->proof, &options, err));
}

static void compare(const dinov_checkpoint *c, const tiny_model *t)
{
    const dinov_weights *w = dinov_checkpoint_weights(c);
    const dinov_model *a = &w->model, *b = &t->weights.model;
    assert_true(a->patch == b->patch && a->dim == b->dim && a->depth == b->depth && a->heads == b->heads);
    assert_true(a->ffn == b->ffn && a->hidden == b->hidden && a->registers == b->registers && a->channels == b->channels);
    assert_true(a->grid_h == b->grid_h && a->grid_w == b->grid_w && a->layerscale == b->layerscale);
    assert_true(a->qkv_bias == b->qkv_bias && a->ln_eps == b->ln_eps);
    assert_true(a->interp.offset == b->interp.offset && a->interp.antialias == b->interp.antialias);
    assert_string_equal(w->preprocess.preset, t->weights.preprocess.preset);
    assert_memory_equal(w->preprocess.mean, t->weights.preprocess.mean, sizeof w->preprocess.mean);
    assert_memory_equal(w->preprocess.std, t->weights.preprocess.std, sizeof w->preprocess.std);
    assert_int_equal(w->count, t->weights.count);
    for (size_t i = 0; i < w->count; i++) {
        const dinov_tensor *have = dinov_weights_find(w, t->tensors[i].name), *want = &t->tensors[i].tensor;
        uint64_t            bytes;
        assert_non_null(have);
        assert_int_equal(have->dtype, want->dtype);
        assert_int_equal(have->rank, want->rank);
        assert_memory_equal(have->dim, want->dim, sizeof have->dim);
        assert_int_equal((uintptr_t)have->data % dinov_dtype_size(have->dtype), 0);
        assert_true(dinov_tensor_bytes(want, &bytes));
        assert_memory_equal(have->data, want->data, bytes);
    }
    assert_null(dinov_weights_find(w, "no such tensor"));
    assert_string_equal(dinov_checkpoint_provenance(c)->origin, t->provenance.origin);
    assert_string_equal(dinov_checkpoint_provenance(c)->licence, t->provenance.licence);
    const dinov_proof *p = dinov_checkpoint_proof(c);
    assert_int_equal(p->count, t->proof.count);
    assert_string_equal(p->computed_by, t->proof.computed_by);
    assert_true(p->tolerance == t->proof.tolerance);
    for (size_t i = 0; i < p->count; i++) {
        assert_int_equal(p->cases[i].seed, t->cases[i].seed);
        assert_memory_equal(p->cases[i].cls, t->cases[i].cls, (size_t)t->weights.model.dim * sizeof(float));
        assert_memory_equal(p->cases[i].patch, t->cases[i].patch, (size_t)t->weights.model.dim * sizeof(float));
    }
}

static void round_trip(void **state)
{
    const struct {
        int64_t     dim;
        dinov_dtype vectors;
    } cases[] = {{32, DINOV_F32}, {6, DINOV_F32}, {6, DINOV_F16}, {10, DINOV_BF16}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tiny_model        t;
        dinov_checkpoint *c;
        char              id[72];
        tiny_make(&t, cases[i].dim, cases[i].vectors);
        write_tiny(path_a, &t);
        OK(dinov_checkpoint_open(&c, path_a, err));
        compare(c, &t);
        for (int threads = 0; threads < 3; threads++) {
            OK(dinov_checkpoint_verify(c, threads, err));
            OK(dinov_checkpoint_verify_id(c, threads, err));
        }
        OK(dinov_content_id(id, t.tensors, t.weights.count, 1, err));
        assert_string_equal(id, dinov_checkpoint_content_id(c));
        dinov_checkpoint_close(&c);
        assert_null(c);
        tiny_free(&t);
    }
}

static void any_alignment_in_memory(void **state)
{
    tiny_model t;
    void      *bytes;
    size_t     size;
    (void)state;
    tiny_make(&t, 6, DINOV_F16);
    write_tiny(path_a, &t);
    OK(dinov_file_read(&bytes, &size, path_a, 1 << 20, err));
    uint8_t *moved = malloc(size + 64);
    for (size_t shift = 0; shift < 64; shift++) {
        dinov_checkpoint *c;
        memcpy(moved + shift, bytes, size);
        OK(dinov_checkpoint_open_memory(&c, moved + shift, size, "memory", err));
        compare(c, &t);
        OK(dinov_checkpoint_verify(c, 1, err));
        dinov_checkpoint_close(&c);
    }
    free(moved);
    dinov_free(bytes);
    tiny_free(&t);
}

static void same_bytes_twice(void **state)
{
    tiny_model t, back;
    void      *a, *b;
    size_t     a_size, b_size;
    (void)state;
    tiny_make(&t, 6, DINOV_F32);
    write_tiny(path_a, &t);
    /* The order tensors are given in does not matter. */
    back = t;
    for (size_t i = 0; i < t.weights.count; i++) back.tensors[i] = t.tensors[t.weights.count - 1 - i];
    back.weights.tensors = back.tensors;
    write_tiny(path_b, &back);
    OK(dinov_file_read(&a, &a_size, path_a, 1 << 20, err));
    OK(dinov_file_read(&b, &b_size, path_b, 1 << 20, err));
    assert_int_equal(a_size, b_size);
    assert_memory_equal(a, b, a_size);
    dinov_free(a);
    dinov_free(b);
    tiny_free(&t);
}

static void existing_file_is_kept(void **state)
{
    tiny_model  t;
    dinov_error e = {0};
    (void)state;
    tiny_make(&t, 6, DINOV_F32);
    FILE *f = fopen(path_b, "w");
    fputs("precious", f);
    fclose(f);
    dinov_status status = dinov_checkpoint_write(path_b, &t.weights, NULL, NULL, NULL, &e);
    expect_error(status, &e, DINOV_ERR_IO, "IO-EXISTS");
    char text[16] = {0};
    f = fopen(path_b, "r");
    assert_int_equal(fread(text, 1, sizeof text, f), 8);
    fclose(f);
    assert_string_equal(text, "precious");
    tiny_free(&t);
}

/* ---- What the writer refuses, before it creates anything ---- */

static void refused(const tiny_model *t, dinov_status status, const char *code)
{
    dinov_error  e    = {0};
    dinov_status have = dinov_checkpoint_write(path_a, &t->weights, &t->provenance, &t->proof, NULL, &e);
    expect_error(have, &e, status, code);
    assert_int_not_equal(access(path_a, F_OK), 0);
}

static void writer_refuses(void **state)
{
    static char long_text[5000];
    tiny_model  good, t;
    (void)state;
    unlink(path_a);
    memset(long_text, 'x', sizeof long_text - 1);
    tiny_make(&good, 6, DINOV_F32);
    dinov_golden cases[17];
    for (int i = 0; i < 17; i++) cases[i] = good.cases[0];

#define REFUSED(change, status, code)             \
    do {                                          \
        t                 = good;                 \
        t.weights.tensors = t.tensors;            \
        t.proof.cases     = t.cases;              \
        change;                                   \
        refused(&t, DINOV_##status, code);        \
    } while (0)

    REFUSED(t.weights.model.dim = 0, ERR_SHAPE, "MODEL-NUMBERS");
    REFUSED(t.weights.model.depth = 2, ERR_SHAPE, "MODEL-MISSING");
    REFUSED(t.weights.count--, ERR_SHAPE, "MODEL-MISSING");
    REFUSED(t.tensors[0].name = "other", ERR_SHAPE, "MODEL-MISSING");
    REFUSED(t.weights.model.layerscale = 0, ERR_SHAPE, "MODEL-LEFTOVER");
    REFUSED(t.weights.model.grid_h = 4, ERR_SHAPE, "MODEL-SHAPE");
    REFUSED(t.tensors[0].tensor.dtype = DINOV_I32, ERR_SHAPE, "MODEL-DTYPE");
    REFUSED(t.tensors[1].name = t.tensors[0].name, ERR_SHAPE, "CK-DUPLICATE");
    REFUSED(t.tensors[1].name = "", ERR_SHAPE, "CK-NAME");
    REFUSED(t.tensors[1].name = long_text, ERR_SHAPE, "CK-NAME");
    REFUSED(t.tensors[1].name = "a\xe2\x80\xae", ERR_SHAPE, "CK-NAME");
    REFUSED(t.tensors[1].tensor.dim[0] = -1, ERR_SHAPE, "CK-SIZE");
    REFUSED(t.tensors[1].tensor.dim[0] = INT64_MAX, ERR_SHAPE, "CK-SIZE");
    REFUSED(t.tensors[1].tensor.dtype = (dinov_dtype)99, ERR_SHAPE, "CK-SIZE");
    REFUSED(strcpy(t.weights.preprocess.preset, "eval"), ERR_CONFIG, "CK-PREPROCESS");
    REFUSED(strcpy(t.weights.preprocess.preset, "eval:99999"), ERR_CONFIG, "CK-PREPROCESS");
    REFUSED(memset(t.weights.preprocess.preset, 'f', 32), ERR_CONFIG, "CK-PREPROCESS");
    REFUSED(t.weights.preprocess.std[2] = 0, ERR_CONFIG, "CK-PREPROCESS");
    REFUSED(t.provenance.origin = "line\nline", ERR_CONFIG, "CK-PROVENANCE");
    REFUSED(t.provenance.licence = long_text, ERR_CONFIG, "CK-PROVENANCE");
    REFUSED(t.provenance.source_sha256 = "ABCD", ERR_CONFIG, "CK-PROVENANCE");
    REFUSED(t.proof.computed_by[0] = '\0', ERR_CONFIG, "CK-PROOF");
    REFUSED(memset(t.proof.computed_by, 'x', sizeof t.proof.computed_by), ERR_CONFIG, "CK-PROOF");
    REFUSED(t.proof.tolerance = 0, ERR_CONFIG, "CK-PROOF");
    REFUSED((t.proof.count = 17, t.proof.cases = cases), ERR_CONFIG, "CK-PROOF");
    REFUSED(t.cases[1].width = 3, ERR_CONFIG, "CK-PROOF");
    good.golden[3] = 0.0f / 0.0f;
    REFUSED((void)0, ERR_CONFIG, "CK-PROOF");
    tiny_free(&good);
}

/* ---- Limits whose files would be too large to keep as vectors ---- */

/* Writes `size` bytes that begin with a checkpoint's prefix; N counts `header` bytes. */
static void sparse(const char *path, uint64_t header, uint64_t size)
{
    uint8_t length[8];
    FILE   *f = fopen(path, "wb");
    dinov_put_le64(length, header);
    fwrite(length, 1, 8, f);
    fputs(DINOV_CK_PREFIX, f);
    fclose(f);
    assert_int_equal(truncate(path, (off_t)size), 0);
}

static void large_headers(void **state)
{
    const struct {
        uint64_t     header, size;
        dinov_status status;
        const char  *code;
    } cases[] = {
        {100000000, 100000008, DINOV_ERR_CORRUPT, "CK-HEADER-DIGEST"}, /* the most there may be: it is looked at */
        {100000001, 100000009, DINOV_ERR_LIMIT, "CK-HEADER-LARGE"},
        {100000001, 100000008, DINOV_ERR_CORRUPT, "CK-TRUNCATED"},
        {UINT64_MAX, 4096, DINOV_ERR_CORRUPT, "CK-TRUNCATED"},
        {UINT64_MAX - 7, 4096, DINOV_ERR_CORRUPT, "CK-TRUNCATED"}, /* 8 + N wraps to 0 */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dinov_checkpoint *c;
        dinov_error       e = {0};
        sparse(path_a, cases[i].header, cases[i].size);
        dinov_status status = dinov_checkpoint_open(&c, path_a, &e);
        assert_null(c);
        expect_error(status, &e, cases[i].status, cases[i].code);
    }
}

/* Another tool may write the metadata last, behind any number of tensors. */
static void rewritten_is_seen_anywhere_in_the_header(void **state)
{
    (void)state;
    for (size_t at = 9; at < 200000; at += 49991) {
        static char       bytes[200100];
        dinov_checkpoint *c;
        dinov_error       e = {0};
        memset(bytes, ' ', sizeof bytes);
        dinov_put_le64((uint8_t *)bytes, sizeof bytes - 8);
        bytes[8] = '{';
        memcpy(bytes + at, "\"dinov\":\"\"", 10);
        expect_error(dinov_checkpoint_open_memory(&c, bytes, sizeof bytes, "memory", &e), &e, DINOV_ERR_FORMAT, "CK-REWRITTEN");
        dinov_put_le64((uint8_t *)bytes, at - 8); /* now it is data */
        expect_error(dinov_checkpoint_open_memory(&c, bytes, sizeof bytes, "memory", &e), &e, DINOV_ERR_FORMAT,
                     at < 12 ? "CK-REWRITTEN" : "CK-FORMAT");
    }
}

static void other_files_are_named(void **state)
{
    static const struct {
        const char *bytes, *what;
    } files[] = {
        {"GGUF0000", "GGUF"},         {"\x08\x08\x42\x07pytorch", "ONNX"}, {"\xfd\x37zXZ\0\0\0", "xz"},
        {"\x80\2}q\0.......", "pickle"}, {"<html></html>", "web page"},     {"PK\3\4........", "zip"},
        {"hello, world", "nothing this program knows"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        dinov_checkpoint *c;
        dinov_error       e = {0};
        expect_error(dinov_checkpoint_open_memory(&c, files[i].bytes, 8, "memory", &e), &e, DINOV_ERR_FORMAT, "CK-FORMAT");
        assert_non_null(strstr(e.msg, files[i].what));
    }
}

static void document_limits(void **state)
{
    const dinov_json at   = {"test", "the document", "backbone"};
    dinov_error      e    = {0};
    dinov_text       json = {0};
    (void)state;
    dinov_text_puts(&json, "[0");
    for (int i = 2; i <= DINOV_CK_MAX_VALUES; i++) dinov_text_puts(&json, ",0");
    OK(dinov_json_limits(json.data, json.size, &at, err));
    dinov_text_puts(&json, ",");
    expect_error(dinov_json_limits(json.data, json.size, &at, &e), &e, DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE");
    dinov_text_clear(&json);
    dinov_text_puts(&json, "\"[[[[[[[[[[\\\"[[[\"[[[[[[[["); /* brackets in strings do not count */
    OK(dinov_json_limits(json.data, json.size, &at, err));
    dinov_text_puts(&json, "[");
    expect_error(dinov_json_limits(json.data, json.size, &at, &e), &e, DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE");
    dinov_text_clear(&json);
    expect_error(dinov_json_limits("", DINOV_CK_MAX_DOCUMENT + 1, &at, &e), &e, DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE");
}

static void tensor_limit(void **state)
{
    dinov_text  text = {0};
    dinov_table table;
    dinov_error e = {0};
    char        entry[128];
    (void)state;
    for (int i = 0; i <= DINOV_CK_MAX_TENSORS; i++) {
        snprintf(entry, sizeof entry, ",\"t%07d\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i, 4 * i, 4 * i + 4);
        if (i == DINOV_CK_MAX_TENSORS) {
            size_t size = text.size;
            dinov_text_puts(&text, "}");
            dinov_cursor c = dinov_cursor_make(text.data, text.size);
            OK(dinov_table_scan(&table, &c, "test", err));
            assert_int_equal(table.count, DINOV_CK_MAX_TENSORS);
            dinov_table_clear(&table);
            text.size = size;
        }
        dinov_text_puts(&text, entry);
    }
    dinov_text_puts(&text, "}");
    dinov_cursor c = dinov_cursor_make(text.data, text.size);
    expect_error(dinov_table_scan(&table, &c, "test", &e), &e, DINOV_ERR_LIMIT, "CK-TENSORS");
    dinov_text_clear(&text);
}

/* ---- Blocks ---- */

static void blocks_of_16_mib(void **state)
{
    const uint64_t sizes[]  = {1, DINOV_CK_BLOCK - 1, DINOV_CK_BLOCK, DINOV_CK_BLOCK + 1, 3 * (uint64_t)DINOV_CK_BLOCK};
    const uint64_t counts[] = {1, 1, 1, 2, 3};
    uint8_t       *data     = calloc(3, DINOV_CK_BLOCK);
    dinov_block   *blocks;
    size_t         count;
    (void)state;
    for (int i = 0; i < 5; i++) {
        const dinov_span span = {data, sizes[i]};
        assert_int_equal(dinov_block_count(sizes[i]), counts[i]);
        OK(dinov_blocks_cut(&blocks, &count, &span, 1, "test", err));
        assert_int_equal(count, counts[i]);
        uint64_t total = 0;
        for (size_t j = 0; j < count; j++) {
            assert_ptr_equal(blocks[j].data, data + total);
            total += blocks[j].size;
        }
        assert_int_equal(total, sizes[i]);
        dinov_free(blocks);
    }
    free(data);
}

/* ---- Numbers ---- */

static void numbers(void **state)
{
    const struct {
        double      value;
        const char *text;
    } cases[] = {{0, "0.0"}, {-0.0, "-0.0"}, {1, "1.0"}, {-350, "-350.0"}, {0.1, "0.1"}, {1e-6, "1e-06"}, {0.0001, "0.0001"},
                 {0.00012, "0.00012"}, {0.00001, "1e-05"}, {1.5e-7, "1.5e-07"}, {123456789.125, "123456789.125"},
                 {9999999999999998.0, "9999999999999998.0"}, {1e16, "1e+16"}, {1.25e100, "1.25e+100"}, {5e-324, "5e-324"},
                 {1.7976931348623157e308, "1.7976931348623157e+308"}, {1.0 / 3, "0.3333333333333333"}};
    const struct {
        float       value;
        const char *text;
    } floats[] = {{0.1f, "0.1"}, {0.485f, "0.485"}, {16777216.0f, "16777216.0"}, {1e-45f, "1e-45"}, {1.0f / 3, "0.33333334"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dinov_text t = {0};
        dinov_text_double(&t, cases[i].value);
        assert_string_equal(t.data, cases[i].text);
        dinov_text_clear(&t);
    }
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        dinov_text t = {0};
        dinov_text_float(&t, floats[i].value);
        assert_string_equal(t.data, floats[i].text);
        dinov_text_clear(&t);
    }
}

/* Every bit pattern with a stride that meets all exponents reads back. */
static void floats_read_back(void **state)
{
    (void)state;
    for (uint64_t bits = 0; bits < 0x100000000; bits += 60013) {
        uint32_t   pattern = (uint32_t)bits;
        float      value, back;
        dinov_text t = {0};
        memcpy(&value, &pattern, sizeof value);
        if (value - value != 0) continue; /* infinite or no number */
        dinov_text_float(&t, value);
        back = (float)strtod(t.data, NULL);
        assert_memory_equal(&back, &value, sizeof value);
        dinov_text_clear(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(any_alignment_in_memory),
        cmocka_unit_test(same_bytes_twice),
        cmocka_unit_test(existing_file_is_kept),
        cmocka_unit_test(writer_refuses),
        cmocka_unit_test(large_headers),
        cmocka_unit_test(rewritten_is_seen_anywhere_in_the_header),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(document_limits),
        cmocka_unit_test(tensor_limit),
        cmocka_unit_test(blocks_of_16_mib),
        cmocka_unit_test(numbers),
        cmocka_unit_test(floats_read_back),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
