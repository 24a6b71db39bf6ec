/* SPDX-License-Identifier: Apache-2.0
 *
 * The arithmetic every input goes through, whether for inference or for training: PIL's resize and
 * torchvision's normalisation.
 */
#ifndef DINOV_IMAGE_RESIZE_H
#define DINOV_IMAGE_RESIZE_H

#include "base/fail.h"
#include "dinov/format.h"
#include "dinov/image.h"

#include <stdbool.h>

/* Part of the output grid of a resize. */
typedef struct dinov_window {
    int64_t x, y, width, height;
} dinov_window;

enum { DINOV_TAP_BITS = 22 }; /* fractional bits of a coefficient */

/* One direction of a resize: output i is clamp(sum of weight[i * most + j] * in[first[i] + j] + half >> DINOV_TAP_BITS) over
 * j < count[i]; unused coefficients are zero. most 0: the direction is kept as it is. */
typedef struct dinov_taps {
    int64_t  most;
    int32_t *first, *count; /* [outputs] */
    int32_t *weight;        /* [outputs, most] */
} dinov_taps;

/* How a picture is resized: which part of it is needed, and the two passes over that part. */
typedef struct dinov_resize_plan {
    int64_t    width, height;       /* of the result */
    int64_t    x, y, columns, rows; /* of the picture: what any output needs */
    dinov_taps across, down;
    bool       down_first;
} dinov_resize_plan; /* starts as {0} */

/* PIL's resize of a picture to out_width x out_height with the antialiased bicubic filter, of which only `window` is wanted.
 * Clear it also after a failure. ERR_NOMEM. */
dinov_status dinov_resize_plan_init(dinov_resize_plan *plan, dinov_window window, int64_t out_width, int64_t out_height,
                                    int64_t in_width, int64_t in_height, dinov_error *err);
void         dinov_resize_plan_clear(dinov_resize_plan *plan);

/* Runs a plan, bit for bit as PIL does: out is [height, width, 3]; in: the whole picture, 8-bit RGB, in_width wide. ERR_NOMEM. */
dinov_status dinov_resize_run(uint8_t *out, const dinov_resize_plan *plan, const uint8_t *in, int64_t in_width, dinov_error *err);

/* Both: out is [window.height, window.width, 3]. */
dinov_status dinov_resize_bicubic(uint8_t *out, dinov_window window, int64_t out_width, int64_t out_height, const uint8_t *in,
                                  int64_t in_width, int64_t in_height, dinov_error *err);

/* The plan of a preset for a picture, which has been turned as it asks for. Errors as dinov_preset_size, ERR_NOMEM. */
dinov_status dinov_preset_plan(dinov_resize_plan *plan, const dinov_preset *preset, int64_t patch, const dinov_image *image,
                               dinov_error *err);

/* ToTensor and Normalize in float32, in torchvision's order, for each value of a byte. */
void dinov_normalise_table(float out[3][256], const float mean[3], const float std[3]);

#endif
