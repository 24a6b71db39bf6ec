/* SPDX-License-Identifier: Apache-2.0
 *
 * The draws follow torchvision's get_params; the picture goes to planes once it is resized, because
 * everything after works on one channel at a time.
 */
#include "train/data/augment.h"

#include "base/alloc.h"
#include "image/resize.h"
#include "train/data/check.h"
#include "train/data/colour.h"

#include <math.h>
#include <string.h>

const float dinov_augment_mean[3] = {0.485f, 0.456f, 0.406f}, dinov_augment_std[3] = {0.229f, 0.224f, 0.225f};

void dinov_augment_defaults(dinov_augment_config *out, bool blur_as_published)
{
    *out = (dinov_augment_config){
        .global_crops_scale = {0.32, 1.0},
        .local_crops_scale  = {0.05, 0.32},
        .local_crops_number = 8,
        .global_crops_size  = 224,
        .local_crops_size   = 96,
        .ratio              = {3.0 / 4.0, 4.0 / 3.0},
        .flip_p             = 0.5,
        .jitter_p           = 0.8,
        .brightness         = 0.4,
        .contrast           = 0.4,
        .saturation         = 0.2,
        .hue                = 0.1,
        .grey_p             = 0.2,
        .blur_p             = {0.0, 0.9, 0.5},
        .sigma              = {0.1, 2.0},
        .solarize_p         = 0.2,
    };
    if (blur_as_published) out->blur_p[DINOV_CROP_GLOBAL_1] = 1.0, out->blur_p[DINOV_CROP_GLOBAL_2] = 0.1;
}

/* ---- Checking ---- */

static dinov_status range_within(const char *key, const double value[2], double least, double most, dinov_error *err)
{
    DINOV_TRY(dinov_data_within(key, value[0], least, most, err));
    return dinov_data_within(key, value[1], value[0], most, err);
}

dinov_status dinov_augment_check(const dinov_augment_config *c, dinov_error *err)
{
    enum { SMALLEST = 5 }; /* what the blur can mirror */
    DINOV_TRY(range_within("crops.global_crops_scale", c->global_crops_scale, 1e-6, 1.0, err));
    DINOV_TRY(range_within("crops.local_crops_scale", c->local_crops_scale, 1e-6, 1.0, err));
    DINOV_TRY(dinov_data_within("crops.local_crops_number", (double)c->local_crops_number, 0, DINOV_MAX_LOCAL_CROPS, err));
    DINOV_TRY(dinov_data_within("crops.global_crops_size", (double)c->global_crops_size, SMALLEST, DINOV_MAX_CROP_SIZE, err));
    DINOV_TRY(dinov_data_within("crops.local_crops_size", (double)c->local_crops_size, SMALLEST, DINOV_MAX_CROP_SIZE, err));
    DINOV_TRY(range_within("ratio of a crop", c->ratio, 1e-3, 1e3, err));
    DINOV_TRY(dinov_data_within("probability of a flip", c->flip_p, 0, 1, err));
    DINOV_TRY(dinov_data_within("probability of colour jitter", c->jitter_p, 0, 1, err));
    DINOV_TRY(dinov_data_within("brightness", c->brightness, 0, 10, err));
    DINOV_TRY(dinov_data_within("contrast", c->contrast, 0, 10, err));
    DINOV_TRY(dinov_data_within("saturation", c->saturation, 0, 10, err));
    DINOV_TRY(dinov_data_within("hue", c->hue, 0, 0.5, err));
    DINOV_TRY(dinov_data_within("probability of greyscale", c->grey_p, 0, 1, err));
    for (int k = 0; k < DINOV_CROP_KINDS; k++) DINOV_TRY(dinov_data_within("probability of a blur", c->blur_p[k], 0, 1, err));
    DINOV_TRY(range_within("sigma of the blur", c->sigma, 1e-3, 100, err));
    return dinov_data_within("probability of solarising", c->solarize_p, 0, 1, err);
}

/* ---- Drawing ---- */

static bool happens(dinov_rng *rng, double p) { return dinov_rng_uniform(rng) < p; }

/* RandomResizedCrop.get_params */
static void draw_box(dinov_crop *out, dinov_rng *rng, const double scale[2], const double ratio[2], int64_t width, int64_t height)
{
    enum { TRIES = 10 };
    double area = (double)width * (double)height, low = log(ratio[0]), high = log(ratio[1]);
    for (int i = 0; i < TRIES; i++) {
        double target = area * dinov_rng_range(rng, scale[0], scale[1]), aspect = exp(dinov_rng_range(rng, low, high));
        double w = rint(sqrt(target * aspect)), h = rint(sqrt(target / aspect)); /* halves to even, as Python's round */
        if (!(w > 0 && w <= (double)width && h > 0 && h <= (double)height)) continue;
        out->width  = (int64_t)w;
        out->height = (int64_t)h;
        out->y      = dinov_rng_below(rng, height - out->height + 1);
        out->x      = dinov_rng_below(rng, width - out->width + 1);
        return;
    }
    double in   = (double)width / (double)height;
    out->width  = in > ratio[1] ? (int64_t)rint((double)height * ratio[1]) : width;
    out->height = in < ratio[0] ? (int64_t)rint((double)width / ratio[0]) : height;
    out->x      = (width - out->width) / 2;
    out->y      = (height - out->height) / 2;
}

static void draw_jitter(dinov_crop *out, dinov_rng *rng, const dinov_augment_config *c)
{
    const double reach[3] = {c->brightness, c->contrast, c->saturation};
    dinov_rng_permutation(rng, out->order, 4);
    for (int i = 0; i < 3; i++) out->factor[i] = dinov_rng_range(rng, fmax(0, 1 - reach[i]), 1 + reach[i]);
    out->factor[DINOV_JITTER_HUE] = dinov_rng_range(rng, -c->hue, c->hue);
}

void dinov_crop_draw(dinov_crop *out, dinov_rng *rng, const dinov_augment_config *config, dinov_crop_kind kind, int64_t width,
                     int64_t height)
{
    bool local = kind == DINOV_CROP_LOCAL;
    DINOV_ASSERT(width > 0 && height > 0);
    *out = (dinov_crop){.size = local ? config->local_crops_size : config->global_crops_size};
    draw_box(out, rng, local ? config->local_crops_scale : config->global_crops_scale, config->ratio, width, height);
    out->flip   = happens(rng, config->flip_p);
    out->jitter = happens(rng, config->jitter_p);
    draw_jitter(out, rng, config);
    out->grey = happens(rng, config->grey_p);
    if (happens(rng, config->blur_p[kind])) out->sigma = dinov_rng_range(rng, config->sigma[0], config->sigma[1]);
    if (kind == DINOV_CROP_GLOBAL_2) out->solarize = happens(rng, config->solarize_p);
}

/* ---- Applying ---- */

void dinov_crop_scratch_clear(dinov_crop_scratch *scratch)
{
    dinov_free(scratch->bytes);
    dinov_free(scratch->floats);
    *scratch = (dinov_crop_scratch){0};
}

static dinov_status scratch_room(dinov_crop_scratch *s, size_t bytes, size_t floats, dinov_error *err)
{
    if (s->bytes_room < bytes) {
        dinov_free(s->bytes);
        s->bytes      = dinov_alloc(bytes, 1);
        s->bytes_room = s->bytes ? bytes : 0;
    }
    if (s->floats_room < floats) {
        dinov_free(s->floats);
        s->floats      = dinov_alloc(floats, sizeof *s->floats);
        s->floats_room = s->floats ? floats : 0;
    }
    return s->bytes && s->floats ? DINOV_OK : dinov_fail_nomem(err, "augmentation", "a crop");
}

/* [size, size, 3] to [3, size, size], mirrored or not. */
static void to_planes(uint8_t *out, const uint8_t *in, int64_t size, bool flip)
{
    int64_t n = size * size;
    for (int64_t y = 0; y < size; y++)
        for (int64_t x = 0; x < size; x++)
            for (int c = 0; c < 3; c++) out[c * n + y * size + (flip ? size - 1 - x : x)] = in[3 * (y * size + x) + c];
}

static void jitter(uint8_t *rgb, int64_t n, const dinov_crop *crop)
{
    for (int i = 0; i < 4; i++) {
        double factor = crop->factor[crop->order[i]];
        switch (crop->order[i]) {
        case DINOV_JITTER_BRIGHTNESS:
            dinov_colour_brightness(rgb, n, factor);
            break;
        case DINOV_JITTER_CONTRAST:
            dinov_colour_contrast(rgb, n, factor);
            break;
        case DINOV_JITTER_SATURATION:
            dinov_colour_saturation(rgb, n, factor);
            break;
        default:
            dinov_colour_hue(rgb, n, factor);
            break;
        }
    }
}

/* Cuts the box out and resizes it. */
static dinov_status resized(uint8_t *out, uint8_t *box, const dinov_crop *crop, const dinov_image *image, dinov_error *err)
{
    size_t row = 3 * (size_t)crop->width;
    for (int64_t y = 0; y < crop->height; y++)
        memcpy(box + row * (size_t)y, image->pixels + 3 * ((crop->y + y) * image->width + crop->x), row);
    return dinov_resize_bicubic(out, (dinov_window){0, 0, crop->size, crop->size}, crop->size, crop->size, box, crop->width,
                                crop->height, err);
}

/* *planes: [3, size, size] in the scratch. */
static dinov_status apply(uint8_t **planes, const dinov_crop *crop, const dinov_image *image, dinov_crop_scratch *scratch,
                          dinov_error *err)
{
    int64_t n = crop->size * crop->size;
    DINOV_ASSERT(crop->x >= 0 && crop->y >= 0 && crop->width > 0 && crop->height > 0 && crop->x + crop->width <= image->width &&
                 crop->y + crop->height <= image->height);
    size_t square = 3 * (size_t)n, box = 3 * (size_t)(crop->width * crop->height);
    DINOV_TRY(scratch_room(scratch, 2 * square + box, (size_t)dinov_colour_blur_scratch(crop->size), err));
    uint8_t *rgb = *planes = scratch->bytes, *packed = rgb + square;
    DINOV_TRY(resized(packed, packed + square, crop, image, err));
    to_planes(rgb, packed, crop->size, crop->flip);
    if (crop->jitter) jitter(rgb, n, crop);
    if (crop->grey) dinov_colour_grey(rgb, n);
    if (crop->sigma > 0) dinov_colour_blur(rgb, crop->size, crop->size, crop->sigma, scratch->floats);
    if (crop->solarize) dinov_colour_solarize(rgb, n);
    return DINOV_OK;
}

dinov_status dinov_crop_apply_bytes(uint8_t *out, const dinov_crop *crop, const dinov_image *image, dinov_crop_scratch *scratch,
                                    dinov_error *err)
{
    uint8_t *rgb;
    DINOV_TRY(apply(&rgb, crop, image, scratch, err));
    memcpy(out, rgb, 3 * (size_t)(crop->size * crop->size));
    return DINOV_OK;
}

dinov_status dinov_crop_apply(float *out, const dinov_crop *crop, const dinov_image *image, dinov_crop_scratch *scratch,
                              dinov_error *err)
{
    int64_t  n = crop->size * crop->size;
    float    value[3][256];
    uint8_t *rgb;
    DINOV_TRY(apply(&rgb, crop, image, scratch, err));
    dinov_normalise_table(value, dinov_augment_mean, dinov_augment_std);
    for (int c = 0; c < 3; c++)
        for (int64_t i = 0; i < n; i++) out[c * n + i] = value[c][rgb[c * n + i]];
    return DINOV_OK;
}
