/* SPDX-License-Identifier: Apache-2.0 */
#include "infer/prepare.h"

#include "base/alloc.h"
#include "image/jpeg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    RESIZED_BYTES = 1 << 20, /* decoded pictures larger than this are resized before they go to a device */
    JPEG_PIXELS   = 1 << 25, /* larger ones would take too much of a device's memory to decode there */
};

/* Attention costs the square of the tokens: one long picture could take longer than all the others. */
dinov_status dinov_check_tokens(const dinov_prepare *p, const char *shown, int64_t w, int64_t h, dinov_error *err)
{
    int64_t tokens = w / p->model->patch * (h / p->model->patch);
    if (tokens <= p->options->max_tokens) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_LIMIT, "RUN-TOKENS",
                      "%s: an input of %lld x %lld pixels makes %lld patch tokens; expected at most %lld; choose a smaller "
                      "preset, or raise --max-tokens (time grows with the square of the tokens)",
                      shown, (long long)w, (long long)h, (long long)tokens, (long long)p->options->max_tokens);
}

static dinov_input_status judge(const dinov_error *why)
{
    if (strcmp(why->code, "IMG-TRUNCATED") == 0) return DINOV_INPUT_TRUNCATED;
    switch (why->status) {
    case DINOV_ERR_UNSUPPORTED:
        return DINOV_INPUT_UNSUPPORTED;
    case DINOV_ERR_LIMIT:
        return DINOV_INPUT_TOO_LARGE;
    case DINOV_ERR_IO:
        return DINOV_INPUT_IO;
    default:
        return DINOV_INPUT_CORRUPT;
    }
}

/* What the preset makes of a picture, if that is not too much. */
static dinov_status input_size(const dinov_prepare *p, const char *shown, const dinov_image *image, int64_t *w, int64_t *h,
                               dinov_error *err)
{
    dinov_error  why;
    dinov_status status = dinov_preset_size(&p->options->preset, p->model->patch, image->width, image->height, w, h, &why);
    if (status != DINOV_OK) return dinov_fail(err, status, why.code, "%s: %s", shown, why.msg);
    return dinov_check_tokens(p, shown, *w, *h, err);
}

/* Hands the picture to the item, with its plan. A large one is resized here: to the same bytes, and fewer. */
static dinov_status plan_picture(const dinov_prepare *p, dinov_item *item, dinov_image *image, dinov_error *err)
{
    dinov_resize_plan whole = {0};
    dinov_image       small = {0};
    DINOV_TRY(dinov_preset_plan(&item->plan, &p->options->preset, p->model->patch, image, err));
    if (3 * item->plan.columns * item->plan.rows > RESIZED_BYTES && (item->plan.across.most || item->plan.down.most)) {
        int64_t w = item->plan.width, h = item->plan.height;
        small = (dinov_image){.width = w, .height = h, .pixels = dinov_alloc((size_t)(w * h), 3)};
        if (!small.pixels) return dinov_fail_nomem(err, "image", "the resized picture");
        dinov_status status = dinov_resize_run(small.pixels, &item->plan, image->pixels, image->width, err);
        if (status == DINOV_OK) status = dinov_resize_plan_init(&whole, (dinov_window){0, 0, w, h}, w, h, w, h, err);
        if (status != DINOV_OK) {
            dinov_image_clear(&small);
            return status;
        }
        dinov_resize_plan_clear(&item->plan);
        item->plan  = whole;
        item->image = small;
        return DINOV_OK;
    }
    item->image = *image;
    *image      = (dinov_image){0};
    return DINOV_OK;
}

/* By the device if it is a JPEG that it can have. */
static dinov_status decode_there(const dinov_prepare *p, int worker, const void *bytes, size_t size, dinov_image *out, bool *done,
                                 dinov_error *err)
{
    *done = false;
    if (!dinov_jpeg_plain(out, bytes, size) || out->width * out->height > JPEG_PIXELS) return DINOV_OK;
    out->pixels = dinov_alloc((size_t)(out->width * out->height), 3);
    if (!out->pixels) return dinov_fail_nomem(err, "image", "its pixels");
    dinov_status status = dinov_device_jpeg_decode(p->jpegs[worker], out->pixels, out->width, out->height, bytes, size, done, err);
    if (!*done) dinov_image_clear(out);
    return status;
}

/* What the device does not take, or finds damaged, is for our decoder to judge. */
static dinov_status decode(const dinov_prepare *p, dinov_item *item, int64_t i, int worker, dinov_image *out, dinov_error *err)
{
    void        *bytes;
    size_t       size;
    dinov_status status;

    if (!p->jpegs) return dinov_source_decode(p->source, i, out, err);
    DINOV_TRY(dinov_source_read(p->source, i, &bytes, &size, err));
    status = decode_there(p, worker, bytes, size, out, &item->by_device, err);
    if (status == DINOV_OK && !item->by_device) status = dinov_source_decode_bytes(p->source, i, bytes, size, out, err);
    dinov_free(bytes);
    return status;
}

static dinov_status prepare_picture(const dinov_prepare *p, dinov_item *item, int64_t i, int worker, dinov_error *err)
{
    char         shown[DINOV_SOURCE_NAME];
    dinov_image  image = {0};
    int64_t      w, h;
    dinov_status status;
    bool         turns = p->options->preset.kind != DINOV_PRESET_EVAL;

    dinov_source_name(p->source, i, shown, sizeof shown);
    DINOV_TRY_GOTO(decode(p, item, i, worker, &image, err));
    item->record.width  = (uint32_t)image.width;
    item->record.height = (uint32_t)image.height;
    if (turns) DINOV_TRY_GOTO(dinov_image_turn(&image, err));
    DINOV_TRY_GOTO(input_size(p, shown, &image, &w, &h, err));
    item->record.input_width  = (uint32_t)w;
    item->record.input_height = (uint32_t)h;
    if (p->decoded) {
        status = plan_picture(p, item, &image, err);
        goto fail;
    }
    item->pixels = dinov_alloc((size_t)(3 * w * h), sizeof *item->pixels);
    if (!item->pixels) {
        status = dinov_fail_nomem(err, shown, "its pixels");
        goto fail;
    }
    status =
        dinov_preset_apply(&p->options->preset, p->model->patch, dinov_engine_preprocess(p->engine), &image, item->pixels, err);
fail:
    dinov_image_clear(&image);
    return status;
}

static dinov_status prepare_row(const dinov_prepare *p, dinov_item *item, int64_t row, dinov_error *err)
{
    const dinov_npy *a    = p->array;
    const char      *path = p->array_path;
    char             shown[DINOV_ESCAPED];
    size_t           values = (size_t)(a->dim[1] * a->dim[2] * a->dim[3]);
    size_t           offset = (size_t)row * values * sizeof(float);

    item->pixels = dinov_alloc(values, sizeof(float));
    if (!item->pixels) return dinov_fail_nomem(err, "input array", "a row");
    memcpy(item->pixels, a->data + offset, values * sizeof(float));
    item->record.width = item->record.input_width = (uint32_t)a->dim[3];
    item->record.height = item->record.input_height = (uint32_t)a->dim[2];
    for (size_t i = 0; i < values; i++)
        if (!isfinite(item->pixels[i]))
            return dinov_fail(err, DINOV_ERR_CORRUPT, "NPY-FINITE", "%s: row %lld: value %zu is not a finite number",
                              dinov_escape(shown, sizeof shown, path, strlen(path)), (long long)row, i);
    return DINOV_OK;
}

void dinov_item_clear(dinov_item *item)
{
    dinov_free(item->pixels);
    dinov_image_clear(&item->image);
    dinov_resize_plan_clear(&item->plan);
    item->pixels = NULL;
    item->ready  = false;
}

void dinov_item_prepare(dinov_item *item, const dinov_prepare *p, int64_t i, int worker)
{
    *item        = (dinov_item){.record.row = -1, .group = -1};
    item->status = p->source ? prepare_picture(p, item, i, worker, &item->why) : prepare_row(p, item, i, &item->why);
    item->ready  = item->status == DINOV_OK;
    if (item->ready) {
        item->record.grid_w = item->record.input_width / (uint32_t)p->model->patch;
        item->record.grid_h = item->record.input_height / (uint32_t)p->model->patch;
        return;
    }
    dinov_item_clear(item);
    item->record.status      = judge(&item->why);
    item->record.input_width = item->record.input_height = 0;
}
