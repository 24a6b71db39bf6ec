/* SPDX-License-Identifier: Apache-2.0
 *
 * The training data library behind a line protocol, for tests in other languages (tests/image/probe.py
 * speaks it). Commands on stdin:
 *   crop KIND IN W H SIZE X Y WIDTH HEIGHT FLIP JITTER O O O O F F F F GREY SIGMA SOLARIZE OUT -> "ok"
 *        raw RGB [H, W, 3] in; out [3, SIZE, SIZE], KIND "bytes" or "floats"
 *   draws CROP W H PUBLISHED SEED N [KEY VALUE]... OUT  -> "ok"
 *        N draws of crop 0, 1 or 2, doubles [N, 16]; KEY VALUE changes the configuration
 *   masks SIZE PATCH TARGET SEED N [KEY VALUE]... OUT  -> "ok GRID"
 *        N masks of TARGET patches, bytes [N, GRID, GRID]
 *   schedule SIZE PATCH CROPS SEED N [KEY VALUE]... OUT  -> "ok GRID UPPERBOUND"
 *        N batches: masks [CROPS, GRID * GRID], n as int64, n indices as int32, n weights as float32
 * A refusal is "CODE sentence". Paths hold no white space.
 */
#include "base/alloc.h"
#include "base/file.h"
#include "train/data/augment.h"
#include "train/data/mask.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = 64 };

static char *word[WORDS];
static int   words;

static int64_t integer(int i) { return strtoll(i < words ? word[i] : "0", NULL, 10); }
static double  real(int i) { return strtod(i < words ? word[i] : "0", NULL); }

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) {
        perror(path);
        exit(70);
    }
}

static dinov_status do_crop(dinov_error *err)
{
    dinov_image        image   = {.orientation = 1, .width = integer(3), .height = integer(4)};
    dinov_crop         c       = {.size = integer(5), .x = integer(6), .y = integer(7), .width = integer(8), .height = integer(9)};
    dinov_crop_scratch scratch = {0};
    void              *bytes;
    size_t             size, n = 3 * (size_t)(c.size * c.size);
    c.flip = integer(10), c.jitter = integer(11);
    for (int i = 0; i < 4; i++) c.order[i] = (int32_t)integer(12 + i), c.factor[i] = real(16 + i);
    c.grey = integer(20), c.sigma = real(21), c.solarize = integer(22);
    DINOV_TRY(dinov_file_read(&bytes, &size, word[2], SIZE_MAX, err));
    if (size != 3 * (size_t)(image.width * image.height)) exit(64);
    image.pixels        = bytes;
    bool         floats = strcmp(word[1], "floats") == 0;
    void        *out    = dinov_alloc(n, floats ? sizeof(float) : 1);
    dinov_status status =
        floats ? dinov_crop_apply(out, &c, &image, &scratch, err) : dinov_crop_apply_bytes(out, &c, &image, &scratch, err);
    if (status == DINOV_OK) write_file(word[23], out, n * (floats ? sizeof(float) : 1));
    if (status == DINOV_OK) puts("ok");
    dinov_crop_scratch_clear(&scratch);
    dinov_free(out);
    dinov_free(bytes);
    return status;
}

struct key {
    const char *name;
    size_t      offset; /* of a double */
};

/* The words from `first` on, but for the last: KEY VALUE KEY VALUE ... */
static void change(void *config, const struct key *keys, int first)
{
    for (int i = first; i + 2 < words; i += 2) {
        const struct key *k     = keys;
        double            value = real(i + 1);
        while (k->name && strcmp(k->name, word[i]) != 0) k++;
        if (!k->name) exit(64);
        memcpy((char *)config + k->offset, &value, sizeof value);
    }
}

#define AT(type, field, i)                                                                                                         \
    {                                                                                                                              \
#field #i, offsetof(type, field) + i * sizeof(double)                                                                      \
    }

static const struct key augment_keys[] = {
    AT(dinov_augment_config, global_crops_scale, 0),
    AT(dinov_augment_config, global_crops_scale, 1),
    AT(dinov_augment_config, local_crops_scale, 0),
    AT(dinov_augment_config, local_crops_scale, 1),
    AT(dinov_augment_config, ratio, 0),
    AT(dinov_augment_config, ratio, 1),
    AT(dinov_augment_config, flip_p, 0),
    AT(dinov_augment_config, jitter_p, 0),
    AT(dinov_augment_config, brightness, 0),
    AT(dinov_augment_config, contrast, 0),
    AT(dinov_augment_config, saturation, 0),
    AT(dinov_augment_config, hue, 0),
    AT(dinov_augment_config, grey_p, 0),
    AT(dinov_augment_config, blur_p, 0),
    AT(dinov_augment_config, blur_p, 1),
    AT(dinov_augment_config, blur_p, 2),
    AT(dinov_augment_config, sigma, 0),
    AT(dinov_augment_config, sigma, 1),
    AT(dinov_augment_config, solarize_p, 0),
    {0},
};

static const struct key mask_keys[] = {
    AT(dinov_mask_config, min_num_patches, 0),
    AT(dinov_mask_config, max_num_patches, 0),
    AT(dinov_mask_config, min_aspect, 0),
    AT(dinov_mask_config, max_aspect, 0),
    AT(dinov_mask_config, mask_ratio_min_max, 0),
    AT(dinov_mask_config, mask_ratio_min_max, 1),
    AT(dinov_mask_config, mask_sample_probability, 0),
    {0},
};

static dinov_status do_draws(dinov_error *err)
{
    enum { COLUMNS = 16 };
    dinov_augment_config config;
    int64_t              n = integer(6);
    dinov_augment_defaults(&config, integer(4) != 0);
    change(&config, augment_keys, 7);
    DINOV_TRY(dinov_augment_check(&config, err));
    double *out = dinov_alloc((size_t)n, COLUMNS * sizeof *out);
    if (!out) exit(70);
    for (int64_t i = 0; i < n; i++) {
        dinov_crop c;
        dinov_rng  rng = dinov_rng_make((uint64_t)integer(5), DINOV_RNG_AUGMENT, 0, (uint64_t)i);
        dinov_crop_draw(&c, &rng, &config, (dinov_crop_kind)integer(1), integer(2), integer(3));
        int    order        = ((c.order[0] * 4 + c.order[1]) * 4 + c.order[2]) * 4 + c.order[3];
        double row[COLUMNS] = {(double)c.x, (double)c.y, (double)c.width, (double)c.height, c.flip,      c.jitter,
                               order,       c.factor[0], c.factor[1],     c.factor[2],      c.factor[3], c.grey,
                               c.sigma > 0, c.sigma,     c.solarize,      (double)c.size};
        memcpy(out + COLUMNS * i, row, sizeof row);
    }
    write_file(word[words - 1], out, (size_t)n * COLUMNS * sizeof *out);
    dinov_free(out);
    puts("ok");
    return DINOV_OK;
}

static dinov_status do_masks(dinov_error *err)
{
    dinov_mask_config config;
    int64_t           n = integer(5);
    dinov_mask_defaults(&config, integer(1), integer(2));
    change(&config, mask_keys, 6);
    DINOV_TRY(dinov_mask_check(&config, 1, err));
    size_t   patches = (size_t)(config.height * config.width);
    uint8_t *out     = dinov_alloc((size_t)n, patches);
    if (!out) exit(70);
    for (int64_t i = 0; i < n; i++) {
        dinov_rng rng = dinov_rng_make((uint64_t)integer(4), DINOV_RNG_MASK, 0, (uint64_t)i);
        dinov_mask_draw(out + (size_t)i * patches, &rng, &config, integer(3));
    }
    write_file(word[words - 1], out, (size_t)n * patches);
    dinov_free(out);
    printf("ok %" PRId64 "\n", config.height);
    return DINOV_OK;
}

static dinov_status do_schedule(dinov_error *err)
{
    dinov_mask_config config;
    int64_t           crops = integer(3), n = integer(5), upperbound = -1;
    dinov_mask_defaults(&config, integer(1), integer(2));
    change(&config, mask_keys, 6);
    DINOV_TRY(dinov_mask_check(&config, crops, err));
    size_t      room  = (size_t)(crops * config.height * config.width);
    dinov_masks m     = {.masks        = dinov_alloc(room, 1),
                         .mask_indices = dinov_alloc(room, sizeof *m.mask_indices),
                         .masks_weight = dinov_alloc(room, sizeof *m.masks_weight)};
    int32_t    *order = dinov_alloc((size_t)crops, sizeof *order);
    FILE       *f     = fopen(word[words - 1], "wb");
    if (!m.masks || !m.mask_indices || !m.masks_weight || !order || !f) exit(70);
    for (int64_t i = 0; i < n; i++) {
        dinov_rng rng = dinov_rng_make((uint64_t)integer(4), DINOV_RNG_MASK, (uint64_t)i, 0);
        dinov_masks_draw(&m, &rng, &config, crops, order);
        if (upperbound >= 0 && m.upperbound != upperbound) exit(70);
        upperbound = m.upperbound;
        fwrite(m.masks, 1, room, f);
        fwrite(&m.n_masked, sizeof m.n_masked, 1, f);
        fwrite(m.mask_indices, sizeof *m.mask_indices, (size_t)m.n_masked, f);
        fwrite(m.masks_weight, sizeof *m.masks_weight, (size_t)m.n_masked, f);
    }
    if (fclose(f) != 0) exit(70);
    dinov_free(m.masks), dinov_free(m.mask_indices), dinov_free(m.masks_weight), dinov_free(order);
    printf("ok %" PRId64 " %" PRId64 "\n", config.height, upperbound);
    return DINOV_OK;
}

int main(void)
{
    static char line[16384];
    while (fgets(line, sizeof line, stdin)) {
        dinov_error  err = {0};
        dinov_status status;
        words = 0;
        for (char *w = strtok(line, " \n"); w && words < WORDS; w = strtok(NULL, " \n")) word[words++] = w;
        if (words == 24 && strcmp(word[0], "crop") == 0)
            status = do_crop(&err);
        else if (words >= 8 && strcmp(word[0], "draws") == 0)
            status = do_draws(&err);
        else if (words >= 7 && strcmp(word[0], "masks") == 0)
            status = do_masks(&err);
        else if (words >= 7 && strcmp(word[0], "schedule") == 0)
            status = do_schedule(&err);
        else
            return 64;
        if (status != DINOV_OK) printf("%s %s\n", err.code, err.msg);
        fflush(stdout);
    }
    return 0;
}
