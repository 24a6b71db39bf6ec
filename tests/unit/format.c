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
    assert_memory_equal(&w->model, &t->weights.model, sizeof w->model);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(any_alignment_in_memory),
        cmocka_unit_test(same_bytes_twice),
        cmocka_unit_test(existing_file_is_kept),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
