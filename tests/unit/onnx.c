/* SPDX-License-Identifier: Apache-2.0
 *
 * ONNX graphs where memory runs out, and what no graph can be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "convert/onnx/write.h"
#include "folder.h"
#include "format_model.h"

static void square(tiny_model *t)
{
    tiny_make(t, 8, DINOV_F32);
    for (size_t i = 0; i < t->weights.count; i++)
        if (strcmp(t->tensors[i].name, "pos_embed") == 0) t->tensors[i].tensor.dim[1] = 1 + 2 * 2; /* the first rows of it */
    t->weights.model.grid_h = t->weights.model.grid_w = 2;
    t->weights.model.interp.antialias = 1;
}

static void a_grid_that_is_not_square_is_refused(void **state)
{
    tiny_model         t;
    dinov_onnx_options o = {0};
    dinov_error        err;
    (void)state;
    tiny_make(&t, 8, DINOV_F32);
    assert_int_equal(dinov_onnx_options_check(&o, &t.weights.model, "here", &err), DINOV_ERR_UNSUPPORTED);
    assert_string_equal(err.code, "GRAPH-MODEL");
    tiny_free(&t);
}

/* Every allocation in turn fails, once and from then on: a status, and nothing in the folder. */
static void writing_survives_every_failed_allocation(void **state)
{
    char        folder[PATH], path[PATH];
    tiny_model  t;
    dinov_error err;
    (void)state;
    square(&t);
    assert_int_equal(make_folder(folder, "onnx"), 0);
    print(path, "%s/m.onnx", folder);
    for (int forever = 0; forever < 2; forever++) {
        dinov_status status = DINOV_ERR_NOMEM;
        for (long n = 1; status != DINOV_OK; n++) {
            dinov_onnx_options o    = {.cls = true, .reg = true, .patch = true, .dtype = DINOV_F16};
            dinov_onnx_file    file = {.content_id = "sha256:0", .provenance = &t.provenance, .external = n % 2 == 0};
            assert_int_equal(dinov_onnx_options_check(&o, &t.weights.model, "here", &err), DINOV_OK);
            dinov_alloc_fail_at(n, forever);
            status = dinov_onnx_write(path, &t.weights, &o, &file, &err);
            dinov_alloc_fail_at(0, 0);
            if (status != DINOV_OK) assert_int_equal(status, DINOV_ERR_NOMEM);
            assert_true(n < 100000);
            if (status != DINOV_OK) assert_int_equal(access(path, F_OK), -1);
        }
        assert_int_equal(unlink(path), 0);
    }
    remove_all(folder);
    tiny_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_grid_that_is_not_square_is_refused),
        cmocka_unit_test(writing_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
