/* SPDX-License-Identifier: Apache-2.0
 *
 * Pillow's colour arithmetic on planes of bytes: what ColorJitter, RandomGrayscale, GaussianBlur and
 * RandomSolarize of torchvision do to a Pillow picture. Each works in place on `n` pixels of three
 * planes, [3, n].
 */
#ifndef DINOV_TRAIN_DATA_COLOUR_H
#define DINOV_TRAIN_DATA_COLOUR_H

#include <stdint.h>

void dinov_colour_brightness(uint8_t *rgb, int64_t n, double factor);
void dinov_colour_contrast(uint8_t *rgb, int64_t n, double factor);
void dinov_colour_saturation(uint8_t *rgb, int64_t n, double factor);
void dinov_colour_hue(uint8_t *rgb, int64_t n, double shift); /* of the full circle, -0.5..0.5 */
void dinov_colour_grey(uint8_t *rgb, int64_t n);
void dinov_colour_solarize(uint8_t *rgb, int64_t n);

/* A 9 x 9 Gaussian, the border mirrored without its outermost row; width and height at least 5. */
void dinov_colour_blur(uint8_t *rgb, int64_t width, int64_t height, double sigma, float *scratch);
/* Floats that `scratch` must hold. */
int64_t dinov_colour_blur_scratch(int64_t width);

#endif
