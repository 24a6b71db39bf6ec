/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/pool.h"
#include "base/rng.h"

static void escapes_what_could_steer_a_terminal(void **state)
{
    (void)state;
    char out[32];
    assert_string_equal(dinov_escape(out, sizeof out, "a\x1b[31m\\\xe2\x80\xae", 10), "a\\x1b[31m\\x5c\\xe2\\x80\\xae");
    assert_string_equal(dinov_escape(out, 10, "0123456789", 10), "012345...");
    assert_string_equal(dinov_escape(out, 10, "012", 3), "012");
}

static void cursor_never_reads_past_the_end(void **state)
{
    (void)state;
    uint8_t      bytes[6] = {1, 0, 2, 0, 3, 0};
    dinov_cursor c        = dinov_cursor_make(bytes, sizeof bytes);
    assert_int_equal(dinov_cursor_le32(&c), 0x20001);
    assert_null(dinov_cursor_take(&c, UINT64_MAX));
    assert_true(c.failed);
    assert_int_equal(dinov_cursor_le16(&c), 0); /* sticky */
    assert_int_equal(dinov_cursor_left(&c), 0);
    uint64_t out;
    assert_false(dinov_ck_add(UINT64_MAX, 1, &out));
    assert_false(dinov_ck_mul(1ull << 63, 2, &out));
    assert_false(dinov_ck_align(UINT64_MAX - 3, 64, &out));
    assert_true(dinov_ck_align(65, 64, &out) && out == 128);
}

static void digests_are_the_published_ones(void **state)
{
    (void)state;
    char         xxh[DINOV_XXH_HEX], sha[DINOV_SHA_HEX + 1];
    dinov_sha256 s;
    dinov_xxh128_hex(xxh, "", 0);
    assert_memory_equal(xxh, "99aa06d3014798d86001c324468d497f", DINOV_XXH_HEX);
    assert_int_equal(dinov_sha256_init(&s, NULL), DINOV_OK);
    dinov_sha256_add(&s, "ab", 2);
    dinov_sha256_add(&s, "c", 1);
    dinov_sha256_done(&s, sha);
    assert_string_equal(sha, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void tensor_sizes_are_checked(void **state)
{
    (void)state;
    uint64_t     bytes;
    dinov_tensor t = {.dtype = DINOV_F64, .rank = 2, .dim = {3, 5}};
    assert_true(dinov_tensor_bytes(&t, &bytes) && bytes == 120);
    t.dim[0] = INT64_MAX, t.dim[1] = 4;
    assert_false(dinov_tensor_bytes(&t, &bytes));
    t.dim[0] = 7, t.dim[1] = 0;
    assert_true(dinov_tensor_bytes(&t, &bytes) && bytes == 0);
    t.dim[1] = -1;
    assert_false(dinov_tensor_bytes(&t, &bytes));
    assert_int_equal(dinov_dtype_from_name("BF16"), DINOV_BF16);
    assert_int_equal(dinov_dtype_from_name("F4"), 0);
    assert_int_equal(dinov_dtype_size((dinov_dtype)99), 0);
}

/* ---- Pool ---- */

static void count_block(void *arg, int64_t block, int worker)
{
    (void)worker;
    atomic_fetch_add(&((atomic_int *)arg)[block], 1);
}

static void every_block_runs_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        dinov_pool *pool;
        assert_int_equal(dinov_pool_new(&pool, threads, NULL), DINOV_OK);
        assert_int_equal(dinov_pool_threads(pool), threads);
        for (int round = 0; round < 2000; round++) {
            static atomic_int seen[97];
            int64_t           blocks = round % 97;
            for (int i = 0; i < 97; i++) atomic_store(&seen[i], 0);
            dinov_pool_run(pool, blocks, count_block, seen);
            for (int i = 0; i < 97; i++) assert_int_equal(atomic_load(&seen[i]), i < blocks);
            if (round % 500 == 0) usleep(3000); /* long enough for workers to fall asleep */
        }
        dinov_pool_free(&pool);
        assert_null(pool);
    }
    dinov_pool_free(NULL);
    dinov_pool *none;
    assert_int_equal(dinov_pool_new(&none, -1, NULL), DINOV_ERR_CONFIG);
}

/* ---- Files ---- */

static char folder[] = "/tmp/dinov-base-XXXXXX";

static int files_in_folder(void)
{
    char command[64];
    int  n = 0;
    snprintf(command, sizeof command, "ls -A %s | wc -l", folder);
    FILE *p = popen(command, "r");
    assert_int_equal(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

static void a_file_appears_whole_or_not_at_all(void **state)
{
    (void)state;
    char        path[64];
    dinov_out  *out;
    dinov_error err;
    dinov_map   map;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);

    assert_int_equal(dinov_out_open(&out, path, 0, &err), DINOV_OK);
    assert_int_equal(dinov_out_write(out, "hello", 5, &err), DINOV_OK);
    assert_int_not_equal(access(path, F_OK), 0);
    dinov_out_abort(&out);
    assert_int_equal(files_in_folder(), 0);

    assert_int_equal(dinov_out_open(&out, path, 0, &err), DINOV_OK);
    assert_int_equal(dinov_out_write(out, "hello", 5, &err), DINOV_OK);
    assert_int_equal(dinov_out_patch(out, 1, "E", 1, &err), DINOV_OK);
    assert_int_equal(dinov_out_size(out), 5);
    assert_int_equal(dinov_out_commit(&out, &err), DINOV_OK);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(dinov_map_open(&map, path, &err), DINOV_OK);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hEllo", 5);
    dinov_map_close(&map);

    /* Without overwrite an existing file is refused at open, and at commit when it came meanwhile. */
    assert_int_equal(dinov_out_open(&out, path, 0, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-EXISTS");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(dinov_out_open(&out, path, 0, &err), DINOV_OK);
    FILE *other = fopen(path, "w");
    fputs("other", other);
    fclose(other);
    assert_int_equal(dinov_out_commit(&out, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-EXISTS");
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(dinov_out_open(&out, path, 1, &err), DINOV_OK);
    assert_int_equal(dinov_out_commit(&out, &err), DINOV_OK);
    assert_int_equal(dinov_map_open(&map, path, &err), DINOV_OK);
    assert_int_equal(map.size, 0);
    dinov_map_close(&map);
    assert_int_equal(unlink(path), 0);

    assert_int_equal(dinov_out_open(&out, folder, 1, &err), DINOV_ERR_IO);
    assert_non_null(strstr(err.msg, "found a folder"));
    snprintf(path, sizeof path, "%s/none/file", folder);
    assert_int_equal(dinov_out_open(&out, path, 0, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-CREATE");
    assert_int_equal(dinov_map_open(&map, path, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-OPEN");
    assert_int_equal(dinov_map_open(&map, folder, &err), DINOV_ERR_IO);
    assert_non_null(strstr(err.msg, "folder"));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: opening it must not wait */
    assert_int_equal(dinov_map_open(&map, path, &err), DINOV_ERR_IO);
    assert_non_null(strstr(err.msg, "pipe"));
    unlink(path);

    void  *data;
    size_t size;
    snprintf(path, sizeof path, "%s/small", folder);
    FILE *f = fopen(path, "w");
    fputs("12345", f);
    fclose(f);
    assert_int_equal(dinov_file_read(&data, &size, path, 4, &err), DINOV_ERR_LIMIT);
    assert_string_equal(err.code, "IO-LARGE");
    assert_int_equal(dinov_file_read(&data, &size, path, 5, &err), DINOV_OK);
    assert_memory_equal(data, "12345", size);
    dinov_free(data);
    unlink(path);
    rmdir(folder);
}

static void stored_reals_are_exact(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const uint8_t half[] = {(uint8_t)bits, (uint8_t)(bits >> 8)};
        int           exponent = bits >> 10 & 31, fraction = bits & 1023;
        double        want = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                                            : ldexp(exponent ? 1024 + fraction : fraction, exponent ? exponent - 25 : -24);
        float         have = dinov_le_f16(half);
        assert_true(isnan(want) ? isnan(have) : (double)have == (bits & 0x8000 ? -want : want));
        assert_int_equal(!!signbit(have), bits >> 15);
    }
    assert_true(dinov_le_f32((const uint8_t *)"\0\0\xc8\xc2") == -100 && dinov_le_bf16((const uint8_t *)"\xc8\xc2") == -100);
}

/* Known answers from the Random123 distribution (kat_vectors, philox4x32 10 rounds). */
static void philox_is_the_published_one(void **state)
{
    (void)state;
    static const uint32_t rows[][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t out[4];
        dinov_philox(out, rows[i], rows[i] + 4);
        assert_memory_equal(out, rows[i] + 6, sizeof out);
    }
}

static void draws_have_their_distributions(void **state)
{
    (void)state;
    enum { N = 200000 };
    dinov_rng rng  = dinov_rng_make(1, DINOV_RNG_MASK, 2, 3), again = rng, other = dinov_rng_make(1, DINOV_RNG_MASK, 3, 3);
    double    mean = 0, square = 0, uniform = 0;
    int       count[7] = {0}, seen[100] = {0};
    int32_t   order[100];

    assert_int_equal(dinov_rng_u32(&rng), dinov_rng_u32(&again));
    assert_int_not_equal(dinov_rng_u32(&rng), dinov_rng_u32(&other));
    for (int i = 0; i < N; i++) {
        double z = dinov_rng_normal(&rng);
        mean += z / N, square += z * z / N, uniform += dinov_rng_range(&rng, 3, 1) / N;
        count[dinov_rng_below(&rng, 7)]++;
    }
    assert_true(fabs(mean) < 0.01 && fabs(square - 1) < 0.015 && fabs(uniform - 2) < 0.006); /* about 4 deviations */
    for (int i = 0; i < 7; i++) assert_true(abs(count[i] - N / 7) < 700);
    dinov_rng_permutation(&rng, order, 100);
    for (int i = 0; i < 100; i++) seen[order[i]]++;
    for (int i = 0; i < 100; i++) assert_int_equal(seen[i], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes_what_could_steer_a_terminal), cmocka_unit_test(cursor_never_reads_past_the_end),
        cmocka_unit_test(digests_are_the_published_ones),      cmocka_unit_test(tensor_sizes_are_checked),
        cmocka_unit_test(every_block_runs_once),               cmocka_unit_test(a_file_appears_whole_or_not_at_all),
        cmocka_unit_test(stored_reals_are_exact),              cmocka_unit_test(philox_is_the_published_one),
        cmocka_unit_test(draws_have_their_distributions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
