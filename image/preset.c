/* SPDX-License-Identifier: Apache-2.0
 *
 * From a decoded picture to the model's input: the preset grammar, the sizes it leads to (integer
 * arithmetic only), and the pixels, as torchvision's Resize, CenterCrop, ToTensor and Normalize give
 * them on a PIL picture.
 */
#include "image/internal.h"

#include "base/alloc.h"

#include <stdbool.h>
#include <string.h>

static const struct {
    const char       *name;
    dinov_preset_kind kind;
} kinds[] = {
    {"eval", DINOV_PRESET_EVAL},     {"short", DINOV_PRESET_SHORT}, {"long", DINOV_PRESET_LONG},
    {"square", DINOV_PRESET_SQUARE}, {"full", DINOV_PRESET_FULL},
};

/* Digits only, 1..DINOV_IMAGE_MAX_SIDE, which is also what checkpoints may ask for; 0 when it is not that. */
static int64_t parse_size(const char *text)
{
    int64_t n = 0;
    if (!*text) return 0;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return 0;
        n = 10 * n + (*text - '0');
        if (n > DINOV_IMAGE_MAX_SIDE) return 0;
    }
    return n;
}

/* Less than N, which leaves nothing to crop, for N = 1, 3, 5 only. */
int64_t dinov_preset_shorter(int64_t n) { return n * 256 / 224 / 2 * 2; }

static bool parse(dinov_preset *out, const char *text)
{
    size_t length = strcspn(text, ":");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strlen(kinds[i].name) != length || memcmp(kinds[i].name, text, length) != 0) continue;
        out->kind = kinds[i].kind;
        out->size = text[length] ? parse_size(text + length + 1) : out->kind == DINOV_PRESET_EVAL ? 224 : 0;
        if (out->kind == DINOV_PRESET_FULL) return text[length] == '\0';
        return out->size > 0 && (out->kind != DINOV_PRESET_EVAL || dinov_preset_shorter(out->size) >= out->size);
    }
    return false;
}

dinov_status dinov_preset_parse(dinov_preset *out, const char *text, dinov_error *err)
{
    dinov_preset preset;
    char         shown[64];
    if (!parse(&preset, text))
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-PRESET",
                          "preset: expected eval, eval:N, short:N, long:N, square:N (N from 1 to %d; for eval not 1, 3 or 5) "
                          "or full, found \"%s\"",
                          DINOV_IMAGE_MAX_SIDE, dinov_escape(shown, sizeof shown, text, strlen(text)));
    *out = preset;
    return DINOV_OK;
}

/* numerator / denominator to the nearest multiple of `patch`, halves up, at least one patch. */
static int64_t nearest_multiple(int64_t numerator, int64_t denominator, int64_t patch)
{
    int64_t n = (2 * numerator + patch * denominator) / (2 * patch * denominator);
    return patch * (n > 0 ? n : 1);
}

dinov_status dinov_preset_size(const dinov_preset *preset, int64_t patch, int64_t width, int64_t height, int64_t *input_width,
                               int64_t *input_height, dinov_error *err)
{
    int64_t n = preset->size, w = n, h = n;
    bool    wide = width > height;

    DINOV_ASSERT(patch > 0 && width > 0 && height > 0 && width <= DINOV_IMAGE_MAX_SIDE && height <= DINOV_IMAGE_MAX_SIDE);
    switch (preset->kind) {
    case DINOV_PRESET_EVAL:
        if (dinov_preset_shorter(n) < n)
            return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-PRESET", "preset: eval:%lld would crop more than it resizes to, %lld",
                              (long long)n, (long long)dinov_preset_shorter(n));
    /* fall through */
    case DINOV_PRESET_SQUARE:
        if (n % patch != 0)
            return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-PRESET",
                              "preset: expected a size that is a multiple of the model's patch %lld, found %lld; "
                              "the nearest is %lld",
                              (long long)patch, (long long)n, (long long)nearest_multiple(n, 1, patch));
        break;
    case DINOV_PRESET_SHORT:
    case DINOV_PRESET_LONG:
        /* The side that becomes N, and the other in proportion. */
        if ((preset->kind == DINOV_PRESET_SHORT) == wide) {
            h = nearest_multiple(n, 1, patch);
            w = nearest_multiple(n * width, height, patch);
        } else {
            w = nearest_multiple(n, 1, patch);
            h = nearest_multiple(n * height, width, patch);
        }
        break;
    case DINOV_PRESET_FULL:
        w = nearest_multiple(width, 1, patch);
        h = nearest_multiple(height, 1, patch);
        break;
    }
    if (w > DINOV_IMAGE_MAX_SIDE + patch || h > DINOV_IMAGE_MAX_SIDE + patch || w * h > DINOV_IMAGE_MAX_PIXELS)
        return dinov_fail(err, DINOV_ERR_LIMIT, "IMG-LARGE",
                          "a picture of %lld x %lld pixels leads to an input of %lld x %lld; expected at most %d pixels; "
                          "choose a smaller preset",
                          (long long)width, (long long)height, (long long)w, (long long)h, DINOV_IMAGE_MAX_PIXELS);
    *input_width  = w;
    *input_height = h;
    return DINOV_OK;
}

/* Half of an even or odd surplus, halves to even, as Python's round(d / 2.0). */
static int64_t half_to_even(int64_t d) { return d / 2 + (d & (d / 2) & 1); }

/* The size after Resize and the part of it the crop keeps. */
static dinov_window resized_window(const dinov_preset *preset, const dinov_image *image, int64_t w, int64_t h, int64_t *resized_w,
                                   int64_t *resized_h)
{
    *resized_w = w;
    *resized_h = h;
    if (preset->kind != DINOV_PRESET_EVAL) return (dinov_window){0, 0, w, h};
    int64_t shorter = dinov_preset_shorter(preset->size);
    bool    wide    = image->width > image->height;
    *resized_w      = wide ? shorter * image->width / image->height : shorter;
    *resized_h      = wide ? shorter : shorter * image->height / image->width;
    return (dinov_window){half_to_even(*resized_w - w), half_to_even(*resized_h - h), w, h};
}

void dinov_normalise_table(float out[3][256], const float mean[3], const float std[3])
{
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) out[c][v] = ((float)v / 255.0f - mean[c]) / std[c];
}

static void normalise(float *out, const uint8_t *rgb, int64_t pixels, const dinov_preprocess *preprocess)
{
    float value[3][256];
    dinov_normalise_table(value, preprocess->mean, preprocess->std);
    for (int c = 0; c < 3; c++)
        for (int64_t i = 0; i < pixels; i++) out[c * pixels + i] = value[c][rgb[3 * i + c]];
}

dinov_status dinov_preset_plan(dinov_resize_plan *plan, const dinov_preset *preset, int64_t patch, const dinov_image *image,
                               dinov_error *err)
{
    int64_t w, h, resized_w, resized_h;
    DINOV_TRY(dinov_preset_size(preset, patch, image->width, image->height, &w, &h, err));
    dinov_window window = resized_window(preset, image, w, h, &resized_w, &resized_h);
    return dinov_resize_plan_init(plan, window, resized_w, resized_h, image->width, image->height, err);
}

dinov_status dinov_preset_apply(const dinov_preset *preset, int64_t patch, const dinov_preprocess *preprocess, dinov_image *image,
                                float *pixels, dinov_error *err)
{
    dinov_resize_plan plan = {0};
    uint8_t          *rgb  = NULL;
    dinov_status      status;

    if (preset->kind != DINOV_PRESET_EVAL) DINOV_TRY(dinov_image_turn(image, err));
    DINOV_TRY_GOTO(dinov_preset_plan(&plan, preset, patch, image, err));
    rgb = dinov_alloc((size_t)(plan.width * plan.height), 3);
    if (!rgb) {
        status = dinov_fail_nomem(err, "image", "the resized picture");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_resize_run(rgb, &plan, image->pixels, image->width, err));
    normalise(pixels, rgb, plan.width * plan.height, preprocess);
fail:
    dinov_resize_plan_clear(&plan);
    dinov_free(rgb);
    return status;
}
