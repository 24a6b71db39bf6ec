/* SPDX-License-Identifier: Apache-2.0
 *
 * .npy: what is written reads back; headers of other shapes of the same dictionary are read; everything
 * else is refused with its code.
 */
#include "base/alloc.h"
#include "base/bytes.h"
#include "infer/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static size_t build(uint8_t *out, int major, const char *header, size_t data)
{
    size_t n = strlen(header), prefix = major == 1 ? 10 : 12;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (uint8_t)major, out[7] = 0;
    if (major == 1)
        dinov_put_le16(out + 8, (uint16_t)n);
    else
        dinov_put_le32(out + 8, (uint32_t)n);
    memcpy(out + prefix, header, n);
    memset(out + prefix + n, 0, data);
    return prefix + n + data;
}

static void check(int major, const char *header, size_t data, const char *code)
{
    uint8_t      bytes[1024];
    dinov_npy    a;
    dinov_error  err    = {0};
    size_t       size   = build(bytes, major, header, data);
    dinov_status status = dinov_npy_parse_f32(&a, bytes, size, "x.npy", &err);
    assert_string_equal(err.code, code);
    assert_int_equal(status == DINOV_OK, code[0] == '\0');
    for (size_t n = 0; n < size - data && status == DINOV_OK; n++) { /* every truncation of the header */
        uint8_t *copy = dinov_alloc(n, 1);
        memcpy(copy, bytes, n);
        assert_int_not_equal(dinov_npy_parse_f32(&a, copy, n, "x.npy", NULL), DINOV_OK);
        dinov_free(copy);
    }
}

static void headers(void **state)
{
    (void)state;
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", 24, "");
    check(2, "{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}", 24, "");
    check(3, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4, "");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 24, "");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999), }", 0, "");
    check(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (6,), }", 24, "NPY-ORDER");
    check(1, "{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }", 24, "NPY-DTYPE");
    check(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (6,), }", 48, "NPY-DTYPE");
    check(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", 24, "NPY-DTYPE");
    check(1, "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }", 24, "NPY-DTYPE");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 23, "NPY-SIZE");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 25, "NPY-SIZE");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 0, "NPY-SIZE");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }", 0, "NPY-HEADER");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,), }", 0, "NPY-HEADER");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 0, "NPY-HEADER");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4, "NPY-HEADER");
    check(1, "{'descr': '<f4', 'fortran_order': False}", 4, "NPY-HEADER");
    check(1, "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, "NPY-HEADER");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", 4, "NPY-HEADER");
    check(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} junk", 4, "NPY-HEADER");
    check(1, "{'descr': [[[[, 'fortran_order': False, 'shape': (1,)}", 4, "NPY-HEADER");
    check(1, "", 4, "NPY-HEADER");
    check(4, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4, "NPY-VERSION");
    uint8_t     other[16] = "not an array";
    dinov_npy   a;
    dinov_error err;
    assert_int_equal(dinov_npy_parse(&a, other, sizeof other, "x", &err), DINOV_ERR_FORMAT);
    assert_string_equal(err.code, "NPY-MAGIC");
}

static void round_trip(void **state)
{
    (void)state;
    char          folder[] = "/tmp/dinov-npy-XXXXXX", path[64];
    float         row[6]   = {1, 2, 3, 4, 5, 6};
    dinov_npy_out out;
    dinov_npy     a;
    void         *bytes;
    size_t        size;

    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.npy", folder);
    const int64_t dim[] = {0, 2, 3};
    assert_int_equal(dinov_npy_create(&out, path, "'<f4'", 3, dim, 0, NULL), DINOV_OK);
    for (int i = 0; i < 1000; i++) assert_int_equal(dinov_npy_append(&out, row, sizeof row, 1, NULL), DINOV_OK);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(dinov_npy_commit(&out, NULL), DINOV_OK);
    assert_int_equal(dinov_file_read(&bytes, &size, path, 1 << 20, NULL), DINOV_OK);
    assert_int_equal(dinov_npy_parse_f32(&a, bytes, size, path, NULL), DINOV_OK);
    assert_int_equal(a.rank, 3);
    assert_int_equal(a.dim[0], 1000);
    assert_int_equal(a.dim[2], 3);
    assert_int_equal((a.data - (uint8_t *)bytes) % 64, 0);
    assert_memory_equal(a.data + 24 * 999, row, sizeof row);
    dinov_free(bytes);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(headers), cmocka_unit_test(round_trip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
