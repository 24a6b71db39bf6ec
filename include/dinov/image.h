/* SPDX-License-Identifier: Apache-2.0
 *
 * From the bytes of a picture to what the model expects: decode, turn, resize, crop, normalise,
 * exactly as PIL and torchvision compute it.
 *
 * Threads: no shared state; every function may be called from any thread.
 */
#ifndef DINOV_IMAGE_H
#define DINOV_IMAGE_H

#include "dinov/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a picture becomes an input; P is the model's patch side.
 *   eval:N    shorter side to N*256/224 (rounded down to an even number), centre crop N x N
 *             (eval:224 -> 256 and 224, eval:518 -> 592 and 518); N a multiple of P, and not
 *             1, 3 or 5, which the rounding leaves larger than what it crops from; orientation ignored
 *   short:N   shorter side to N, the longer in proportion, both then to the nearest multiple of P
 *   long:N    longer side to N, likewise
 *   square:N  N x N whatever the aspect; N a multiple of P
 *   full      the picture's own size, each side to the nearest multiple of P (at least P)
 * All but eval apply the EXIF orientation. "eval" alone means eval:224. */
typedef enum dinov_preset_kind {
    DINOV_PRESET_EVAL   = 1,
    DINOV_PRESET_SHORT  = 2,
    DINOV_PRESET_LONG   = 3,
    DINOV_PRESET_SQUARE = 4,
    DINOV_PRESET_FULL   = 5,
} dinov_preset_kind;

typedef struct dinov_preset {
    dinov_preset_kind kind;
    int64_t           size; /* N; 0 for full */
} dinov_preset;

/* Reads the grammar above. ERR_CONFIG says what is allowed. */
dinov_status dinov_preset_parse(dinov_preset *out, const char *text, dinov_error *err);

/* What eval:N resizes the shorter side to. */
int64_t dinov_preset_shorter(int64_t n);

/* 8-bit RGB, rows top to bottom, no padding. `pixels` is owned; release with dinov_image_clear. */
typedef struct dinov_image {
    uint8_t *pixels; /* [height, width, 3] */
    int64_t  width, height;
    int      orientation; /* EXIF 1..8; 1 when absent. Not applied to `pixels` by the decoder. */
} dinov_image;

/* JPEG or PNG by content. `name` stands for the file in messages. Greyscale is repeated, alpha
 * dropped, 16-bit samples keep their high byte, CMYK is turned as Pillow does; ICC is ignored.
 * Errors: ERR_UNSUPPORTED (code IMG-FORMAT; the message names the format when it is known),
 * ERR_CORRUPT (IMG-TRUNCATED when the picture ends early, IMG-CORRUPT otherwise),
 * ERR_LIMIT (IMG-LARGE: more than 178,956,970 pixels, a side over 65,535, or over 100 scans), ERR_NOMEM. */
dinov_status dinov_image_decode(dinov_image *out, const void *bytes, size_t size, const char *name,
                                dinov_error *err);

/* Turns the pixels by `orientation`, which becomes 1. */
dinov_status dinov_image_turn(dinov_image *image, dinov_error *err);

void dinov_image_clear(dinov_image *image);

/* The input size a stored width x height (after turning, where the preset turns) leads to. */
dinov_status dinov_preset_size(const dinov_preset *preset, int64_t patch, int64_t width, int64_t height,
                               int64_t *input_width, int64_t *input_height, dinov_error *err);

/* Turns (where the preset does), resizes, crops and normalises. `image` is changed. `pixels` holds
 * 3 * input_height * input_width floats, [3, input_height, input_width], as dinov_preset_size says. */
dinov_status dinov_preset_apply(const dinov_preset *preset, int64_t patch,
                                const dinov_preprocess *preprocess, dinov_image *image, float *pixels,
                                dinov_error *err);

#ifdef __cplusplus
}
#endif

#endif
