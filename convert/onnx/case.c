/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/case.h"

#include "base/alloc.h"

#include <math.h>

/* Pixels as bytes that use their whole range, and what ToTensor and Normalize make of them. */
static void fill_bytes(dinov_onnx_case *k, const dinov_preprocess *p)
{
    int64_t channels = k->model->channels;
    for (int64_t y = 0; y < k->height; y++)
        for (int64_t x = 0; x < k->width; x++)
            for (int64_t c = 0; c < channels; c++) {
                uint8_t v                                     = (uint8_t)((c * 31 + y * 17 + x * 7) % 256);
                k->bytes[(y * k->width + x) * channels + c]   = v;
                k->pixels[(c * k->height + y) * k->width + x] = ((float)v / 255 - p->mean[c]) / p->std[c];
            }
}

void dinov_onnx_case_close(dinov_onnx_case *c)
{
    dinov_free(c->pixels);
    dinov_free(c->bytes);
    dinov_free(c->values);
    *c = (dinov_onnx_case){0};
}

dinov_status dinov_onnx_case_open(dinov_onnx_case *c, dinov_engine *engine, const dinov_onnx_options *o, int64_t height,
                                  int64_t width, dinov_error *err)
{
    const dinov_model *m = dinov_engine_model(engine);
    dinov_features     features[DINOV_ONNX_LAYERS];
    size_t             area = (size_t)(m->channels * height * width);

    *c        = (dinov_onnx_case){.options = o, .model = m, .height = height, .width = width};
    c->tokens = 1 + m->registers + height / m->patch * (width / m->patch);
    c->pixels = dinov_alloc(area, sizeof *c->pixels);
    c->values = dinov_alloc((size_t)(o->layer_count * c->tokens * m->dim), sizeof *c->values);
    if (o->preprocess) c->bytes = dinov_alloc(area, 1);
    if (!c->pixels || !c->values || (o->preprocess && !c->bytes)) return dinov_fail_nomem(err, "ONNX", "the proof");
    if (o->preprocess)
        fill_bytes(c, dinov_engine_preprocess(engine));
    else
        dinov_golden_input(c->pixels, m->channels, height, width, 0);
    for (int i = 0; i < o->layer_count; i++) {
        float *at   = c->values + i * c->tokens * m->dim;
        features[i] = (dinov_features){.layer = o->layers[i], .cls = at, .patch = at + (1 + m->registers) * m->dim};
        if (m->registers) features[i].reg = at + m->dim;
    }
    return dinov_engine_run(engine, c->pixels, 1, height, width, features, (size_t)o->layer_count, err);
}

const float *dinov_onnx_case_rows(const dinov_onnx_case *c, const dinov_onnx_feature *output, int64_t *rows)
{
    const dinov_model *m  = c->model;
    const float       *at = c->values + output->index * c->tokens * m->dim;
    switch (output->kind) {
    case DINOV_ONNX_TOKENS:
        *rows = c->tokens;
        return at;
    case DINOV_ONNX_CLS:
        *rows = 1;
        return at;
    case DINOV_ONNX_REG:
        *rows = m->registers;
        return at + m->dim;
    case DINOV_ONNX_PATCH:
        *rows = c->tokens - 1 - m->registers;
        return at + (1 + m->registers) * m->dim;
    }
    *rows = 0;
    return NULL;
}

void dinov_agreement_add(dinov_agreement *a, const float *have, const float *want, int64_t rows, int64_t dim)
{
    double all_d = 0, all_w = 0;
    for (int64_t r = 0; r < rows; r++) {
        double d = 0, hh = 0, ww = 0, hw = 0;
        for (int64_t c = 0; c < dim; c++) {
            double h = (double)have[r * dim + c], w = (double)want[r * dim + c], delta = fabs(h - w);
            if (!(delta <= a->max_abs)) a->max_abs = delta;
            d += delta * delta, hh += h * h, ww += w * w, hw += h * w;
        }
        double token = d == 0 ? 0 : sqrt(d / ww), cosine = d == 0 ? 1 : hw / sqrt(hh * ww);
        if (!(token <= a->worst)) a->worst = token;
        if (!(cosine >= a->cosine)) a->cosine = cosine;
        all_d += d, all_w += ww;
    }
    double relative = all_d == 0 ? 0 : sqrt(all_d / all_w);
    if (!(relative <= a->relative)) a->relative = relative;
}

bool dinov_agreement_allowed(const dinov_agreement *a, dinov_dtype dtype)
{
    if (dtype == DINOV_F32) return a->relative <= 1e-5 && a->worst <= 1e-4;
    return a->cosine >= (dtype == DINOV_F16 ? 0.9999 : 0.999);
}
