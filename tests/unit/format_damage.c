/* SPDX-License-Identifier: Apache-2.0
 *
 * Every single flipped bit, every shorter length and every appended byte of a 64 KiB checkpoint is
 * found. Exhaustive without sanitizers; with them, every 29th case.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/file.h"
#include "format_model.h"

#include <stdio.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 29 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
enum { STEP = 29 };
#else
enum { STEP = 1 };
#endif
#else
enum { STEP = 1 };
#endif

static uint8_t *bytes; /* the file */
static size_t   size, header;

static int setup(void **state)
{
    char       path[64], folder[] = "/tmp/dinov-damage-XXXXXX";
    tiny_model t;
    void      *data;
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/a", folder);
    tiny_make(&t, 42, DINOV_F16);
    dinov_status status = dinov_checkpoint_write(path, &t.weights, &t.provenance, &t.proof, NULL, NULL);
    if (status == DINOV_OK) status = dinov_file_read(&data, &size, path, 1 << 20, NULL);
    tiny_free(&t);
    unlink(path);
    rmdir(folder);
    if (status != DINOV_OK) return -1;
    bytes  = data;
    header = (size_t)dinov_le64(bytes) + 8;
    printf("%zu bytes, %zu of them header\n", size, header);
    return size > 60000 && size < 70000 ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    dinov_free(bytes);
    return 0;
}

/* Opens and verifies; the message of a refusal must be one. */
static dinov_status judge(const uint8_t *data, size_t count)
{
    dinov_checkpoint *c;
    dinov_error       e      = {0};
    dinov_status      status = dinov_checkpoint_open_memory(&c, data, count, "memory", &e);
    if (status == DINOV_OK) status = dinov_checkpoint_verify(c, 1, &e);
    dinov_checkpoint_close(&c);
    assert_true(status == DINOV_OK || (e.status == status && e.code[0] && e.msg[0]));
    return status;
}

static void the_file_is_good(void **state)
{
    (void)state;
    assert_int_equal(judge(bytes, size), DINOV_OK);
}

static void every_bit_of_the_header(void **state)
{
    (void)state;
    for (size_t bit = 0; bit < 8 * header; bit += STEP) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        dinov_status status = judge(bytes, size);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        /* Only a damaged prefix makes the file unknown; everything else is called damage. */
        if (bit / 8 >= 8 && bit / 8 < 50) assert_int_equal(status, DINOV_ERR_FORMAT);
        else assert_int_equal(status, DINOV_ERR_CORRUPT);
    }
}

/* Opening does not read the data, so a handle opened once sees each flip when it verifies. Now and
 * then the file is opened afresh, to show that this makes no difference. */
static void every_bit_of_the_data(void **state)
{
    dinov_checkpoint *c;
    (void)state;
    /* At an address where nothing is copied, and at an odd one, where everything is. */
    uint8_t *moved = malloc(size + 1);
    for (size_t odd = 0; odd < 2; odd++) {
        uint8_t *at = moved + odd;
        memcpy(at, bytes, size);
        assert_int_equal(dinov_checkpoint_open_memory(&c, at, size, "memory", NULL), DINOV_OK);
        for (size_t bit = 8 * header; bit < 8 * size; bit += odd ? 29 : STEP) {
            dinov_error e = {0};
            at[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(dinov_checkpoint_verify(c, 1, &e), DINOV_ERR_CORRUPT);
            assert_string_equal(e.code, "CK-DIGEST");
            if (bit % 997 == 0) assert_int_equal(judge(at, size), DINOV_ERR_CORRUPT);
            at[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_int_equal(dinov_checkpoint_verify(c, 1, NULL), DINOV_OK);
        dinov_checkpoint_close(&c);
    }
    free(moved);
}

/* Each piece ends where its memory ends, so that a sanitizer sees a read beyond it. */
static void every_length(void **state)
{
    (void)state;
    uint8_t *end = (uint8_t *)malloc(size) + size;
    for (size_t count = 0; count < size; count += count < 200 ? 1 : STEP) {
        memcpy(end - count, bytes, count);
        dinov_status status = judge(end - count, count);
        assert_int_equal(status, count <= 8 ? DINOV_ERR_FORMAT : DINOV_ERR_CORRUPT);
    }
    free(end - size);
}

static void every_byte_appended(void **state)
{
    (void)state;
    uint8_t *longer = malloc(size + 1);
    memcpy(longer, bytes, size);
    for (int value = 0; value < 256; value++) {
        longer[size] = (uint8_t)value;
        assert_int_equal(judge(longer, size + 1), DINOV_ERR_CORRUPT);
    }
    free(longer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_is_good), cmocka_unit_test(every_bit_of_the_header), cmocka_unit_test(every_bit_of_the_data),
        cmocka_unit_test(every_length),     cmocka_unit_test(every_byte_appended),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
