/* SPDX-License-Identifier: Apache-2.0
 *
 * Multi-crop augmentation as DINOv2 was trained with it (facebookresearch/dinov2,
 * dinov2/data/augmentations.py): from one decoded picture, two global and some local crops.
 *
 * What is drawn and what is done with it are apart: dinov_crop_draw makes a crop's numbers from a
 * random stream, dinov_crop_apply does them to a picture, in 8-bit arithmetic as torchvision does on
 * Pillow pictures, in this order: crop and resize, flip, colour jitter, greyscale, blur, solarise,
 * normalise. EXIF orientation is not applied, as upstream.
 *
 * Threads: no shared state; a scratch belongs to one thread at a time.
 */
#ifndef DINOV_TRAIN_DATA_AUGMENT_H
#define DINOV_TRAIN_DATA_AUGMENT_H

#include "base/fail.h"
#include "base/rng.h"
#include "dinov/image.h"

#include <stdbool.h>

typedef enum dinov_crop_kind {
    DINOV_CROP_GLOBAL_1 = 0,
    DINOV_CROP_GLOBAL_2 = 1,
    DINOV_CROP_LOCAL    = 2,
} dinov_crop_kind;

enum { DINOV_CROP_KINDS = 3, DINOV_MAX_LOCAL_CROPS = 256, DINOV_MAX_CROP_SIZE = 4096 };

/* The first five are upstream's crops.*, under upstream's names. */
typedef struct dinov_augment_config {
    double  global_crops_scale[2], local_crops_scale[2]; /* share of the picture's area */
    int64_t local_crops_number, global_crops_size, local_crops_size;

    double ratio[2]; /* width / height of a crop */
    double flip_p;
    double jitter_p, brightness, contrast, saturation, hue;
    double grey_p;
    double blur_p[DINOV_CROP_KINDS], sigma[2];
    double solarize_p; /* of the second global crop */
} dinov_augment_config;

/* Upstream's defaults: 2 crops of 224 with scale 0.32..1, 8 of 96 with 0.05..0.32. The probability of a
 * blur is 0, 0.9 and 0.5 for the three kinds, which is what upstream's code does and the released
 * models were trained with (it hands 1 - p to a class that takes p), or, as published, 1, 0.1 and 0.5. */
void dinov_augment_defaults(dinov_augment_config *out, bool blur_as_published);

/* ERR_CONFIG (DATA-CONFIG) names what is out of range. */
dinov_status dinov_augment_check(const dinov_augment_config *config, dinov_error *err);

enum { DINOV_JITTER_BRIGHTNESS = 0, DINOV_JITTER_CONTRAST = 1, DINOV_JITTER_SATURATION = 2, DINOV_JITTER_HUE = 3 };

/* The numbers of one crop. */
typedef struct dinov_crop {
    int64_t size;                /* side of the result in pixels */
    int64_t x, y, width, height; /* of the box in the picture that is resized to it */
    bool    flip, jitter, grey, solarize;
    int32_t order[4];  /* DINOV_JITTER_*, in the order they are done */
    double  factor[4]; /* of each DINOV_JITTER_*: 1 changes nothing, for hue 0 */
    double  sigma;     /* of the blur in pixels; 0: none */
} dinov_crop;

/* The draws of the next crop of a picture of width x height. */
void dinov_crop_draw(dinov_crop *out, dinov_rng *rng, const dinov_augment_config *config, dinov_crop_kind kind, int64_t width,
                     int64_t height);

/* Working memory, kept from one crop to the next. Starts as {0}. */
typedef struct dinov_crop_scratch {
    uint8_t *bytes;
    float   *floats;
    size_t   bytes_room, floats_room;
} dinov_crop_scratch;

void dinov_crop_scratch_clear(dinov_crop_scratch *scratch);

/* out: [3, size, size], the normalised crop. ERR_NOMEM. */
dinov_status dinov_crop_apply(float *out, const dinov_crop *crop, const dinov_image *image, dinov_crop_scratch *scratch,
                              dinov_error *err);
/* The same without the last step: 8-bit, [3, size, size]. */
dinov_status dinov_crop_apply_bytes(uint8_t *out, const dinov_crop *crop, const dinov_image *image, dinov_crop_scratch *scratch,
                                    dinov_error *err);

/* ImageNet's, which the crops are normalised with. */
extern const float dinov_augment_mean[3], dinov_augment_std[3];

#endif
