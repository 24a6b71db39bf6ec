/* SPDX-License-Identifier: Apache-2.0
 *
 * The arithmetic every input goes through, whether for inference or for training: PIL's resize and
 * torchvision's normalisation.
 */
#ifndef DINOV_IMAGE_RESIZE_H
#define DINOV_IMAGE_RESIZE_H

#include "base/fail.h"
#include "dinov/format.h"

/* Part of the output grid of a resize. */
typedef struct dinov_window {
    int64_t x, y, width, height;
} dinov_window;

/* PIL's resize of an 8-bit RGB picture with the antialiased bicubic filter, bit for bit. Of the
 * out_width x out_height result only `window` is computed: out is [window.height, window.width, 3]. */
dinov_status dinov_resize_bicubic(uint8_t *out, dinov_window window, int64_t out_width, int64_t out_height, const uint8_t *in,
                                  int64_t in_width, int64_t in_height, dinov_error *err);

/* ToTensor and Normalize in float32, in torchvision's order, for each value of a byte. */
void dinov_normalise_table(float out[3][256], const float mean[3], const float std[3]);

#endif
