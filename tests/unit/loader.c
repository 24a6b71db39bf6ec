/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of samples and the loader: the same bytes for any number of workers and from any step,
 * pictures and shards that cannot be read, stopping at any time, memory running out.
 */
#include "base/alloc.h"
#include "base/hash.h"
#include "image/encode.h"
#include "train/data/preview.h"
#include "train/data/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/dinov-loader-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[8][4096];
    static int  turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* ---- The order ---- */

static void every_pass_is_a_permutation(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 64, 65, 1000};
    uint8_t              seen[1000];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int64_t pass = 0; pass < 20; pass++) {
            memset(seen, 0, sizeof seen);
            for (int64_t k = 0; k < sizes[i]; k++) seen[dinov_sampler_item(7, sizes[i], pass * sizes[i] + k)]++;
            for (int64_t k = 0; k < sizes[i]; k++) assert_int_equal(seen[k], 1);
        }
    int64_t large = DINOV_SAMPLER_MAX - 5, item = dinov_sampler_item(7, large, 3 * large + 12345);
    assert_in_range(item, 0, large - 1);
    assert_int_equal(dinov_sampler_item(7, 1, INT64_MAX), 0);
}

/* Sums of squared deviations, as many as `cells` and as free. */
static double deviation(const int *count, int cells, double expected)
{
    double sum = 0;
    for (int i = 0; i < cells; i++) sum += (count[i] - expected) * (count[i] - expected) / expected;
    return sum;
}

static void every_order_is_as_likely(void **state)
{
    (void)state;
    enum { PASSES = 24000 };
    int orders[24] = {0}, places[10][10] = {{0}}, follows[10][10] = {{0}}, pairs[90], n = 0;
    for (int64_t pass = 0; pass < PASSES; pass++) {
        int64_t p[4], q[10];
        for (int i = 0; i < 4; i++) p[i] = dinov_sampler_item(1, 4, pass * 4 + i);
        int64_t smaller = (p[1] > p[2]) + (p[1] > p[3]);
        orders[p[0] * 6 + smaller * 2 + (p[2] > p[3])]++;
        for (int i = 0; i < 10; i++) q[i] = dinov_sampler_item(2, 10, pass * 10 + i);
        for (int i = 0; i < 10; i++) places[i][q[i]]++;
        for (int i = 1; i < 10; i++) follows[q[i - 1]][q[i]]++;
    }
    /* Chi-square at p = 1e-4: 23, 99 (a little fewer are free) and 89 degrees of freedom. */
    assert_true(deviation(orders, 24, PASSES / 24.0) < 58.6);
    assert_true(deviation(&places[0][0], 100, PASSES / 10.0) < 157);
    for (int i = 0; i < 10; i++)
        for (int j = 0; j < 10; j++)
            if (i != j) pairs[n++] = follows[i][j];
    assert_true(deviation(pairs, 90, PASSES * 9 / 90.0) < 145);
}

/* The order of a run must not change from one version to the next. */
static void the_order_is_pinned(void **state)
{
    (void)state;
    static const int64_t expected[] = {703643, 857651, 463009, 726674, 567294, 403242, 967367, 702451};
    for (int64_t i = 0; i < 8; i++) assert_int_equal(dinov_sampler_item(0, 1000000, 999996 + i), expected[i]);
}

/* ---- Batches ---- */

enum { PICTURES = 11, IMAGES = 6, STEPS = 5 };

/* A folder of pictures, 20 to 60 pixels a side, under the names 00.png, 01.png, ... */
static void draw_pictures(const char *name, int count)
{
    static uint8_t pixels[3 * 60 * 60];
    assert_int_equal(mkdir(in_folder(name), 0777), 0);
    for (int i = 0; i < count; i++) {
        char    file[64];
        int64_t w = 20 + i * 7 % 41, h = 20 + i * 13 % 41;
        for (int64_t p = 0; p < 3 * w * h; p++) pixels[p] = (uint8_t)(p * (i + 3) + p / w * 5 + i * 20);
        snprintf(file, sizeof file, "%s/%02d.png", name, i);
        assert_int_equal(dinov_png_write(in_folder(file), pixels, w, h, 1, NULL), DINOV_OK);
    }
}

static void spoil(const char *name)
{
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    fputs("no picture", f);
    fclose(f);
}

static dinov_source *source_of(const char *name)
{
    const char       *path = in_folder(name);
    dinov_source_spec spec = {.paths = &path, .path_count = 1};
    dinov_source     *s;
    dinov_error       err = {0};
    if (dinov_source_open(&s, &spec, &err) != DINOV_OK) fail_msg("%s", err.msg);
    return s;
}

static dinov_loader_config small(int64_t workers)
{
    dinov_loader_config c;
    dinov_loader_defaults(&c, 32, 8);
    c.augment.local_crops_size = 16, c.augment.local_crops_number = 3;
    c.batch = IMAGES, c.workers = workers, c.seed = 42;
    return c;
}

static dinov_loader *started(const dinov_source *s, const dinov_loader_config *c)
{
    dinov_loader *l;
    dinov_error   err = {0};
    if (dinov_loader_new(&l, s, c, &err) != DINOV_OK) fail_msg("%s", err.msg);
    return l;
}

static const dinov_batch *next(dinov_loader *l)
{
    const dinov_batch *b;
    dinov_error        err = {0};
    if (dinov_loader_next(l, &b, &err) != DINOV_OK) fail_msg("%s", err.msg);
    return b;
}

/* Every byte a trainer sees of a batch, bad pictures included. */
static void digest(char out[DINOV_SHA_HEX + 1], const dinov_batch *b)
{
    dinov_sha256 sha;
    assert_int_equal(dinov_sha256_init(&sha, NULL), DINOV_OK);
    size_t global = 3 * (size_t)(b->global_crops_size * b->global_crops_size),
           local  = 3 * (size_t)(b->local_crops_size * b->local_crops_size);
    size_t images = (size_t)b->images;
    dinov_sha256_add(&sha, &b->step, sizeof b->step);
    dinov_sha256_add(&sha, b->global_crops, 2 * images * global * sizeof(float));
    dinov_sha256_add(&sha, b->local_crops, (size_t)b->local_crops_number * images * local * sizeof(float));
    dinov_sha256_add(&sha, b->masks, 2 * images * (size_t)b->patches);
    dinov_sha256_add(&sha, b->mask_indices, (size_t)b->n_masked * sizeof(int32_t));
    dinov_sha256_add(&sha, b->masks_weight, (size_t)b->n_masked * sizeof(float));
    dinov_sha256_add(&sha, &b->upperbound, sizeof b->upperbound);
    dinov_sha256_add(&sha, b->items, images * sizeof *b->items);
    for (int64_t i = 0; i < b->bad_count; i++) dinov_sha256_add(&sha, &b->bad[i].item, sizeof b->bad[i].item);
    dinov_sha256_done(&sha, out);
}

typedef char digests[STEPS][DINOV_SHA_HEX + 1];

static void run(digests out, const dinov_source *s, const dinov_loader_config *c, int steps)
{
    dinov_loader *l = started(s, c);
    for (int i = 0; i < steps; i++) {
        const dinov_batch *b = next(l);
        assert_int_equal(b->step, c->first_step + i);
        digest(out[i], b);
        dinov_loader_release(l, b);
    }
    dinov_loader_free(&l);
    assert_null(l);
}

static void workers_depth_and_cache_change_nothing(void **state)
{
    (void)state;
    digests one, other;
    spoil("some/03.png");
    dinov_source *s = source_of("some");
    for (int bad = 0; bad < 2; bad++) {
        dinov_source       *from = bad ? s : source_of("all");
        dinov_loader_config c    = small(1);
        run(one, from, &c, STEPS);
        for (int i = 1; i < STEPS; i++) assert_string_not_equal(one[i], one[0]);
        static const int64_t settings[][3] = {{2, 2, 1 << 20}, {5, 3, 0}, {5, 1, 10000}, {1, 1, 0}, {13, 7, 1 << 20}};
        for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
            c             = small(settings[i][0]);
            c.depth       = settings[i][1];
            c.cache_limit = (size_t)settings[i][2];
            run(other, from, &c, STEPS);
            assert_memory_equal(one, other, sizeof one);
        }
        c      = small(2);
        c.seed = 43;
        run(other, from, &c, 1);
        assert_string_not_equal(one[0], other[0]);
        if (!bad) dinov_source_close(&from);
    }
    dinov_source_close(&s);
}

static void a_run_can_begin_at_any_step(void **state)
{
    (void)state;
    digests             whole, rest;
    dinov_source       *s = source_of("all");
    dinov_loader_config c = small(3);
    run(whole, s, &c, STEPS);
    for (int first = 1; first < STEPS; first++) {
        c.first_step = first;
        run(rest, s, &c, STEPS - first);
        assert_memory_equal(rest, whole[first], sizeof whole[0] * (size_t)(STEPS - first));
    }
    dinov_source_close(&s);
}

static void ranks_share_one_stream(void **state)
{
    (void)state;
    dinov_source       *s   = source_of("all");
    dinov_loader_config c   = small(2);
    dinov_loader       *one = started(s, &c);
    c.batch                 = IMAGES / 2;
    c.world                 = 2;
    dinov_loader *zero      = started(s, &c);
    c.rank                  = 1;
    dinov_loader *last      = started(s, &c);
    for (int step = 0; step < STEPS; step++) {
        const dinov_batch *whole = next(one), *first = next(zero), *second = next(last);
        size_t             crop = 3 * 32 * 32, half = IMAGES / 2;
        assert_memory_equal(whole->items, first->items, half * sizeof(int64_t));
        assert_memory_equal(whole->items + half, second->items, half * sizeof(int64_t));
        /* The same draws too, crop 2 of the batch's last image for one. */
        assert_memory_equal(whole->global_crops + (2 * IMAGES - 1) * crop, second->global_crops + (IMAGES - 1) * crop,
                            crop * sizeof(float));
        dinov_loader_release(one, whole), dinov_loader_release(zero, first), dinov_loader_release(last, second);
    }
    dinov_loader_free(&one), dinov_loader_free(&zero), dinov_loader_free(&last);
    dinov_source_close(&s);
}

static void shapes_and_numbers_of_a_batch(void **state)
{
    (void)state;
    dinov_source       *s = source_of("all");
    dinov_loader_config c = small(2);
    dinov_loader       *l = started(s, &c);
    const dinov_batch  *b = next(l);
    assert_int_equal(b->images, IMAGES);
    assert_int_equal(b->patches, 16);
    assert_int_equal(b->local_crops_number, 3);
    assert_int_equal((uintptr_t)b->global_crops % 64, 0);
    assert_in_range(b->n_masked, 1, b->upperbound);
    int64_t ones = 0;
    for (int i = 0; i < 2 * IMAGES * 16; i++) ones += b->masks[i];
    assert_int_equal(ones, b->n_masked);
    for (int64_t i = 0; i < 2 * IMAGES * 3 * 32 * 32; i++) assert_true(b->global_crops[i] > -2.2f && b->global_crops[i] < 2.7f);
    for (int64_t i = 0; i < 3 * IMAGES * 3 * 16 * 16; i++) assert_true(b->local_crops[i] > -2.2f && b->local_crops[i] < 2.7f);
    dinov_loader_stats stats = dinov_loader_get_stats(l);
    assert_true(stats.waited_s >= 0 && stats.batches == 1 && stats.bad == 0 && stats.replaced == 0 && stats.cached > 0);
    dinov_loader_free(&l); /* with a batch out */
    c.augment.local_crops_number = 0;
    l                            = started(s, &c);
    assert_int_equal(next(l)->local_crops_number, 0);
    dinov_loader_free(&l);
    dinov_source_close(&s);
}

/* ---- What cannot be read ---- */

static void a_bad_picture_costs_one_picture(void **state)
{
    (void)state;
    spoil("some/03.png");
    spoil("some/07.png");
    dinov_source       *s    = source_of("some");
    dinov_loader_config c    = small(3);
    dinov_loader       *l    = started(s, &c);
    int64_t             told = 0, replaced = 0;
    char                name[DINOV_SOURCE_NAME];
    for (int64_t step = 0; step < 40; step++) {
        const dinov_batch *b = next(l);
        for (int64_t i = 0; i < b->images; i++) {
            assert_true(b->items[i] != 3 && b->items[i] != 7);
            int64_t drawn = step * IMAGES + i, first = dinov_sampler_item(c.seed, PICTURES, drawn);
            if (first != b->items[i]) {
                replaced++;
                assert_true(first == 3 || first == 7);
            }
        }
        for (int64_t i = 0; i < b->bad_count; i++, told++) {
            assert_true(b->bad[i].item == 3 || b->bad[i].item == 7);
            assert_string_equal(b->bad[i].why->code, "IMG-FORMAT");
            assert_non_null(strstr(b->bad[i].why->msg, dinov_source_name(s, b->bad[i].item, name, sizeof name)));
        }
        dinov_loader_release(l, b);
    }
    assert_int_equal(told, 2);
    dinov_loader_stats stats = dinov_loader_get_stats(l);
    assert_int_equal(stats.bad, 2);
    assert_int_equal(stats.replaced, replaced);
    assert_in_range(replaced, 40, 46); /* 2 of 11 in 21.8 passes */
    dinov_loader_free(&l);
    dinov_source_close(&s);
}

static void nothing_readable_is_an_error(void **state)
{
    (void)state;
    draw_pictures("none", 3);
    spoil("none/00.png"), spoil("none/01.png"), spoil("none/02.png");
    dinov_source       *s = source_of("none");
    dinov_loader_config c = small(4);
    dinov_loader       *l = started(s, &c);
    for (int i = 0; i < 2; i++) {
        const dinov_batch *b;
        dinov_error        err = {0};
        assert_int_equal(dinov_loader_next(l, &b, &err), DINOV_ERR_CORRUPT);
        assert_string_equal(err.code, "DATA-UNREADABLE");
        assert_non_null(strstr(err.msg, "step 0, image 0: none of 3 pictures tried can be read: "));
        assert_non_null(strstr(err.msg, ".png"));
    }
    dinov_loader_free(&l);
    dinov_source_close(&s);
}

static void one_picture_and_large_batches(void **state)
{
    (void)state;
    draw_pictures("single", 1);
    dinov_source       *s = source_of("single");
    dinov_loader_config c = small(3);
    c.batch               = 50;
    dinov_loader *l       = started(s, &c);
    size_t        crop    = 3 * 32 * 32;
    for (int step = 0; step < 3; step++) {
        const dinov_batch *b = next(l);
        for (int i = 0; i < 50; i++) assert_int_equal(b->items[i], 0);
        assert_memory_not_equal(b->global_crops, b->global_crops + crop, crop * sizeof(float)); /* but other draws */
        dinov_loader_release(l, b);
    }
    dinov_loader_free(&l);
    dinov_source_close(&s);
}

/* Three pictures, then damage: trained on are the three. */
static void what_stands_before_damage_in_a_shard_is_used(void **state)
{
    (void)state;
    static uint8_t tar[1 << 16];
    size_t         at = 0;
    for (int i = 0; i < 3; i++) {
        char  name[16];
        FILE *f = fopen(in_folder((snprintf(name, sizeof name, "all/%02d.png", i), name)), "rb");
        assert_non_null(f);
        size_t   size = fread(tar + at + 512, 1, 20000, f);
        unsigned sum  = 0;
        fclose(f);
        snprintf((char *)tar + at, 100, "%d.png", i);
        memcpy(tar + at + 257, "ustar\00000", 8);
        snprintf((char *)tar + at + 124, 12, "%011o", (unsigned)size);
        tar[at + 156] = '0';
        memset(tar + at + 148, ' ', 8);
        for (int k = 0; k < 512; k++) sum += tar[at + (size_t)k];
        snprintf((char *)tar + at + 148, 8, "%06o", sum);
        at += 512 + (size + 511) / 512 * 512;
    }
    memset(tar + at, 'x', 2000);
    FILE *f = fopen(in_folder("damaged.tar"), "wb");
    assert_int_equal(fwrite(tar, 1, at + 2000, f), at + 2000);
    fclose(f);
    dinov_source *s = source_of("damaged.tar");
    assert_int_equal(dinov_source_problem_count(s), 1);
    assert_string_equal(dinov_source_problem(s, 0)->code, "SHARD-DAMAGED");
    dinov_loader_config c       = small(2);
    dinov_loader       *l       = started(s, &c);
    uint8_t             seen[3] = {0};
    const dinov_batch  *b       = next(l);
    for (int i = 0; i < 3; i++) seen[b->items[i]]++;
    assert_true(seen[0] == 1 && seen[1] == 1 && seen[2] == 1);
    dinov_loader_free(&l);
    dinov_source_close(&s);
}

/* ---- Starting and stopping ---- */

static void refused(const dinov_source *s, const dinov_loader_config *c, const char *part)
{
    dinov_loader *l   = (dinov_loader *)1;
    dinov_error   err = {0};
    assert_int_equal(dinov_loader_new(&l, s, c, &err), DINOV_ERR_CONFIG);
    assert_null(l);
    assert_string_equal(err.code, "DATA-CONFIG");
    if (!strstr(err.msg, part)) fail_msg("%s", err.msg);
}

static void configurations_out_of_range(void **state)
{
    (void)state;
    dinov_source       *s = source_of("all");
    dinov_loader_config d = small(1), c;
    c = d, c.batch = 0, refused(s, &c, "train.batch_size_per_gpu");
    c = d, c.workers = 0, refused(s, &c, "train.num_workers");
    c = d, c.rank = 1, refused(s, &c, "number of this process");
    c = d, c.first_step = -1, refused(s, &c, "first step");
    c = d, c.first_step = (int64_t)1 << 32, refused(s, &c, "first step");
    c = d, c.batch = 65536, c.world = 1 << 20, refused(s, &c, "all processes");
    c = d, c.augment.global_crops_size = 34, refused(s, &c, "crops.global_crops_size");
    c = d, c.mask.mask_sample_probability = 2, refused(s, &c, "ibot.mask_sample_probability");
    dinov_source_close(&s);
}

static void a_loader_stops_at_any_time(void **state)
{
    (void)state;
    dinov_source *s = source_of("all");
    for (int i = 0; i < 60; i++) {
        dinov_loader_config c = small(1 + i % 4);
        c.depth               = 1 + i % 3;
        dinov_loader *l       = started(s, &c);
        if (i % 4 == 1) nanosleep(&(struct timespec){.tv_nsec = i * 30000L}, NULL);
        if (i % 4 == 2) next(l);
        if (i % 4 == 3) dinov_loader_release(l, next(l));
        dinov_loader_free(&l);
    }
    dinov_loader_free(NULL);
    dinov_source_close(&s);
}

static void memory_runs_out_anywhere(void **state)
{
    (void)state;
    spoil("some/03.png");
    dinov_source       *s    = source_of("some");
    dinov_loader_config c    = small(1);
    int                 fine = 0;
    c.depth                  = 1;
    for (long n = 1; !fine; n += 1 + n / 20) {
        dinov_loader *l;
        dinov_error   err = {0};
        dinov_alloc_fail_at(n, 1);
        dinov_status status = dinov_loader_new(&l, s, &c, &err);
        for (int step = 0; step < 3 && status == DINOV_OK; step++) {
            const dinov_batch *b;
            status = dinov_loader_next(l, &b, &err);
            if (status == DINOV_OK) dinov_loader_release(l, b);
        }
        fine = status == DINOV_OK;
        if (!fine) assert_int_equal(status, DINOV_ERR_NOMEM);
        dinov_loader_free(&l);
        dinov_alloc_fail_at(0, 0);
        assert_true(n < 100000);
    }
    dinov_source_close(&s);
}

/* ---- The preview ---- */

static void a_preview_shows_crops_and_masks(void **state)
{
    (void)state;
    dinov_source       *s    = source_of("all");
    dinov_loader_config c    = small(2);
    dinov_loader       *l    = started(s, &c);
    const dinov_batch  *b    = next(l);
    const char         *path = in_folder("preview.png");
    dinov_error         err  = {0};
    assert_int_equal(dinov_preview_write(path, b, 4, 0, NULL), DINOV_OK);
    assert_int_equal(dinov_preview_write(path, b, 4, 0, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-EXISTS");
    assert_int_equal(dinov_preview_write(path, b, 100, 1, NULL), DINOV_OK);
    dinov_source *back = source_of("preview.png");
    dinov_image   sheet;
    assert_int_equal(dinov_source_decode(back, 0, &sheet, NULL), DINOV_OK);
    assert_int_equal(sheet.height, 4 + IMAGES * (32 + 4));
    assert_int_equal(sheet.width, 4 + 2 * (32 + 4) + 3 * (16 + 4)); /* 16 + 4 + 16 is more than 32: no two below each other */
    for (int64_t i = 0; i < IMAGES; i++)
        for (int64_t k = 0; k < 2; k++)
            for (int64_t y = 0; y < 32; y++)
                for (int64_t x = 0; x < 32; x++) {
                    int64_t crop = k * IMAGES + i, row = 4 + i * 36 + y, column = 4 + k * 36 + x;
                    float   v    = b->global_crops[(crop * 3 * 32 + y) * 32 + x] * 0.229f + 0.485f; /* red */
                    int     want = (int)lrintf(v * 255), masked = b->masks[crop * 16 + y / 8 * 4 + x / 8];
                    assert_int_equal(sheet.pixels[3 * (row * sheet.width + column)], masked ? want / 4 : want);
                }
    dinov_image_clear(&sheet);
    dinov_source_close(&back);
    dinov_loader_free(&l);
    dinov_source_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pass_is_a_permutation),
        cmocka_unit_test(every_order_is_as_likely),
        cmocka_unit_test(the_order_is_pinned),
        cmocka_unit_test(workers_depth_and_cache_change_nothing),
        cmocka_unit_test(a_run_can_begin_at_any_step),
        cmocka_unit_test(ranks_share_one_stream),
        cmocka_unit_test(shapes_and_numbers_of_a_batch),
        cmocka_unit_test(a_bad_picture_costs_one_picture),
        cmocka_unit_test(nothing_readable_is_an_error),
        cmocka_unit_test(one_picture_and_large_batches),
        cmocka_unit_test(what_stands_before_damage_in_a_shard_is_used),
        cmocka_unit_test(configurations_out_of_range),
        cmocka_unit_test(a_loader_stops_at_any_time),
        cmocka_unit_test(memory_runs_out_anywhere),
        cmocka_unit_test(a_preview_shows_crops_and_masks),
    };
    char command[128];
    if (!mkdtemp(folder)) return 3;
    draw_pictures("all", PICTURES);
    draw_pictures("some", PICTURES);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) != 0 || failed;
}
