/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/prove.h"

#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What the engine gives for one picture: per layer CLS, registers and patches, one after the other. */
struct expected {
    float   *pixels;
    uint8_t *bytes;  /* [height, width, channels], where the graph takes bytes */
    float   *values; /* [layers, tokens, dim] */
    int64_t  tokens, patches;
};

struct proving {
    dinov_ort                *graph;
    dinov_engine             *engine;
    const dinov_onnx_options *options;
    const dinov_model        *model;
    const char               *where;
    dinov_agreement_note     *note;
    void                     *arg;
    int                       bad;
};

static float *layer_values(const struct expected *e, int index, int64_t dim) { return e->values + index * e->tokens * dim; }

/* Pixels as bytes that use their whole range, and what ToTensor and Normalize make of them. */
static void fill_bytes(struct expected *e, const dinov_preprocess *p, int64_t channels, int64_t height, int64_t width)
{
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            for (int64_t c = 0; c < channels; c++) {
                uint8_t v                                = (uint8_t)((c * 31 + y * 17 + x * 7) % 256);
                e->bytes[(y * width + x) * channels + c] = v;
                e->pixels[(c * height + y) * width + x]  = ((float)v / 255 - p->mean[c]) / p->std[c];
            }
}

static void clear(struct expected *e)
{
    dinov_free(e->pixels);
    dinov_free(e->bytes);
    dinov_free(e->values);
}

static dinov_status expect(struct expected *e, const struct proving *p, int64_t height, int64_t width, dinov_error *err)
{
    const dinov_model        *m = p->model;
    const dinov_onnx_options *o = p->options;
    dinov_features            features[DINOV_ONNX_LAYERS];
    size_t                    area = (size_t)(m->channels * height * width);

    *e        = (struct expected){.patches = height / m->patch * (width / m->patch)};
    e->tokens = 1 + m->registers + e->patches;
    e->pixels = dinov_alloc(area, sizeof *e->pixels);
    e->values = dinov_alloc((size_t)(o->layer_count * e->tokens * m->dim), sizeof *e->values);
    if (o->preprocess) e->bytes = dinov_alloc(area, 1);
    if (!e->pixels || !e->values || (o->preprocess && !e->bytes)) return dinov_fail_nomem(err, p->where, "the proof");
    if (o->preprocess)
        fill_bytes(e, dinov_engine_preprocess(p->engine), m->channels, height, width);
    else
        dinov_golden_input(e->pixels, m->channels, height, width, 0);
    for (int i = 0; i < o->layer_count; i++) {
        float *at   = layer_values(e, i, m->dim);
        features[i] = (dinov_features){.layer = o->layers[i], .cls = at, .patch = at + (1 + m->registers) * m->dim};
        if (m->registers) features[i].reg = at + m->dim;
    }
    return dinov_engine_run(p->engine, e->pixels, 1, height, width, features, (size_t)o->layer_count, err);
}

/* Which rows an output stands for: "patch.L03" are the patches of layer 3. False: it is none of ours. */
static bool rows_of(const struct proving *p, const struct expected *e, const char *name, const float **want, int64_t *rows)
{
    const dinov_model *m    = p->model;
    int                at   = 0, layer;
    size_t             size = strcspn(name, ".");
    if (p->options->hf_names) {
        *want = e->values;
        *rows = strcmp(name, "pooler_output") == 0 ? 1 : e->tokens;
        return true;
    }
    if (name[size]) {
        if (sscanf(name + size, ".L%d", &layer) != 1) return false;
        while (at < p->options->layer_count && p->options->layers[at] != layer) at++;
    } else {
        while (at < p->options->layer_count && p->options->layers[at] != m->depth - 1) at++;
    }
    if (at == p->options->layer_count) return false;
    *want = layer_values(e, at, m->dim);
    *rows = 1;
    if (size == 3 && !memcmp(name, "reg", 3)) *want += m->dim, *rows = m->registers;
    if (size == 5 && !memcmp(name, "patch", 5)) *want += (1 + m->registers) * m->dim, *rows = e->patches;
    return true;
}

static void compare(dinov_agreement *a, const float *have, const float *want, int64_t rows, int64_t dim)
{
    double all_d = 0, all_w = 0;
    a->cosine = 1;
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
    a->relative = all_d == 0 ? 0 : sqrt(all_d / all_w);
}

static bool allowed(const dinov_agreement *a, dinov_dtype dtype)
{
    if (dtype == DINOV_F32) return a->relative <= 1e-5 && a->worst <= 1e-4;
    return a->cosine >= (dtype == DINOV_F16 ? 0.9999 : 0.999);
}

/* Every picture of the batch is the same one. */
static dinov_status compare_outputs(struct proving *p, const struct expected *e, int64_t height, int64_t width, dinov_error *err)
{
    int64_t batch = p->options->batch ? p->options->batch : 1;
    for (size_t i = 0; i < dinov_ort_count(p->graph); i++) {
        dinov_ort_output out;
        const float     *want;
        int64_t          rows;
        DINOV_TRY(dinov_ort_output_at(p->graph, i, &out, err));
        bool ours = rows_of(p, e, out.name, &want, &rows);
        if (!ours || out.rank < 2 || out.dim[0] != batch || out.dim[out.rank - 1] != p->model->dim ||
            (out.rank == 2 ? rows != 1 : out.dim[1] != rows))
            return dinov_fail(err, DINOV_ERR_CORRUPT, "ONNX-PROOF",
                              "%s: output %s: expected [%lld, %lld, %lld], found another shape", p->where, out.name,
                              (long long)batch, ours ? (long long)rows : 0, (long long)p->model->dim);
        dinov_agreement a = {.output = out.name, .height = height, .width = width, .cosine = 1};
        for (int64_t b = 0; b < batch; b++) compare(&a, out.values + b * rows * p->model->dim, want, rows, p->model->dim);
        a.ok = allowed(&a, p->options->dtype);
        p->bad += !a.ok;
        p->note(p->arg, &a);
    }
    return DINOV_OK;
}

static dinov_status run_graph(struct proving *p, const struct expected *e, int64_t height, int64_t width, dinov_error *err)
{
    const dinov_onnx_options *o     = p->options;
    int64_t                   batch = o->batch ? o->batch : 1, channels = p->model->channels;
    const int64_t             planes[4] = {batch, channels, height, width}, pixels[4] = {batch, height, width, channels};
    size_t                    one   = (size_t)(channels * height * width) * (o->preprocess ? 1 : sizeof(float));
    const void               *image = o->preprocess ? (const void *)e->bytes : e->pixels;
    char                     *all   = dinov_alloc((size_t)batch, one);
    if (!all) return dinov_fail_nomem(err, p->where, "the proof");
    for (int64_t b = 0; b < batch; b++) memcpy(all + (size_t)b * one, image, one);
    dinov_status status = dinov_ort_run(p->graph, all, o->preprocess, o->preprocess ? pixels : planes, err);
    dinov_free(all);
    return status;
}

static dinov_status prove_size(struct proving *p, int64_t height, int64_t width, dinov_error *err)
{
    struct expected e;
    dinov_status    status = expect(&e, p, height, width, err);
    if (status == DINOV_OK) status = run_graph(p, &e, height, width, err);
    if (status == DINOV_OK) status = compare_outputs(p, &e, height, width, err);
    clear(&e);
    return status;
}

dinov_status dinov_onnx_prove(dinov_ort *graph, dinov_engine *engine, const dinov_onnx_options *o, const char *where,
                              dinov_agreement_note *note, void *arg, dinov_error *err)
{
    /* In patches, for a graph of any size: one patch, wide, tall, and the size most pictures have. */
    static const int64_t sides[][2] = {{1, 1}, {2, 5}, {4, 3}, {16, 16}};
    const dinov_model   *m          = dinov_engine_model(engine);
    struct proving       p          = {graph, engine, o, m, where, note, arg, 0};
    if (o->height) {
        DINOV_TRY(prove_size(&p, o->height, o->width, err));
    } else {
        for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++)
            DINOV_TRY(prove_size(&p, sides[i][0] * m->patch, sides[i][1] * m->patch, err));
    }
    return p.bad == 0 ? DINOV_OK
                      : dinov_fail(err, DINOV_ERR_CORRUPT, "ONNX-PROOF",
                                   "%s: %d outputs in ONNX Runtime are further from the source's than is allowed", where, p.bad);
}
