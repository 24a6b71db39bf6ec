/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/prove.h"

#include "base/alloc.h"

#include <string.h>

struct proving {
    dinov_ort                *graph; /* or */
    dinov_engine             *again;
    const dinov_onnx_options *options;
    const char               *where;
    dinov_agreement_note     *note;
    void                     *arg;
    int                       bad;
};

static void judge(struct proving *p, dinov_agreement *a)
{
    a->ok = dinov_agreement_allowed(a, p->options->dtype);
    p->bad += !a->ok;
    p->note(p->arg, a);
}

/* Every picture of the batch is the same one. */
static dinov_status compare_outputs(struct proving *p, const dinov_onnx_case *c, dinov_error *err)
{
    const int64_t batch = p->options->batch ? p->options->batch : 1, dim = c->model->dim;
    size_t        count = dinov_onnx_feature_count(p->options);
    if (dinov_ort_count(p->graph) != count)
        return dinov_fail(err, DINOV_ERR_CORRUPT, "GRAPH-PROOF", "%s: expected %zu outputs, found %zu", p->where, count,
                          dinov_ort_count(p->graph));
    for (size_t i = 0; i < count; i++) {
        dinov_ort_output   out;
        dinov_onnx_feature port;
        int64_t            rows;
        dinov_onnx_feature_at(&port, p->options, c->model, i);
        const float *want = dinov_onnx_case_rows(c, &port, &rows);
        DINOV_TRY(dinov_ort_output_at(p->graph, i, &out, err));
        bool single = port.kind == DINOV_ONNX_CLS;
        if (strcmp(out.name, port.name) != 0 || out.rank != (single ? 2 : 3) || out.dim[0] != batch ||
            out.dim[out.rank - 1] != dim || (!single && out.dim[1] != rows))
            return dinov_fail(err, DINOV_ERR_CORRUPT, "GRAPH-PROOF",
                              "%s: expected the output %s of %lld x %lld rows, found %s of another shape", p->where, port.name,
                              (long long)batch, (long long)rows, out.name);
        dinov_agreement a = {.output = port.name, .height = c->height, .width = c->width, .cosine = 1};
        for (int64_t b = 0; b < batch; b++) dinov_agreement_add(&a, out.values + b * rows * dim, want, rows, dim);
        judge(p, &a);
    }
    return DINOV_OK;
}

static dinov_status run_graph(struct proving *p, const dinov_onnx_case *c, dinov_error *err)
{
    const dinov_onnx_options *o     = p->options;
    int64_t                   batch = o->batch ? o->batch : 1, channels = c->model->channels;
    const int64_t planes[4] = {batch, channels, c->height, c->width}, pixels[4] = {batch, c->height, c->width, channels};
    size_t        one   = (size_t)(channels * c->height * c->width) * (o->preprocess ? 1 : sizeof(float));
    const void   *image = o->preprocess ? (const void *)c->bytes : c->pixels;
    char         *all   = dinov_alloc((size_t)batch, one);
    if (!all) return dinov_fail_nomem(err, p->where, "the proof");
    for (int64_t b = 0; b < batch; b++) memcpy(all + (size_t)b * one, image, one);
    dinov_status status = dinov_ort_run(p->graph, all, o->preprocess, o->preprocess ? pixels : planes, err);
    dinov_free(all);
    return status;
}

static dinov_status prove_in_runtime(struct proving *p, const dinov_onnx_case *c, dinov_error *err)
{
    DINOV_TRY(run_graph(p, c, err));
    return compare_outputs(p, c, err);
}

static dinov_status prove_in_engine(struct proving *p, const dinov_onnx_case *c, dinov_error *err)
{
    dinov_onnx_case again;
    dinov_status    status = dinov_onnx_case_open(&again, p->again, p->options, c->height, c->width, err);
    for (size_t i = 0; i < dinov_onnx_feature_count(p->options) && status == DINOV_OK; i++) {
        dinov_onnx_feature port;
        int64_t            rows;
        dinov_onnx_feature_at(&port, p->options, c->model, i);
        dinov_agreement a    = {.output = port.name, .height = c->height, .width = c->width, .cosine = 1};
        const float    *have = dinov_onnx_case_rows(&again, &port, &rows), *want = dinov_onnx_case_rows(c, &port, &rows);
        dinov_agreement_add(&a, have, want, rows, c->model->dim);
        judge(p, &a);
    }
    dinov_onnx_case_close(&again);
    return status;
}

static dinov_status prove_size(struct proving *p, dinov_engine *engine, int64_t height, int64_t width, dinov_error *err)
{
    dinov_onnx_case c;
    dinov_status    status = dinov_onnx_case_open(&c, engine, p->options, height, width, err);
    if (status == DINOV_OK) status = p->graph ? prove_in_runtime(p, &c, err) : prove_in_engine(p, &c, err);
    dinov_onnx_case_close(&c);
    return status;
}

static dinov_status prove(struct proving *p, dinov_engine *engine, const char *whose, dinov_error *err)
{
    /* In patches, for a graph of any size: one patch, wide, tall, and the size most pictures have. */
    static const int64_t      sides[][2] = {{1, 1}, {2, 5}, {4, 3}, {16, 16}};
    const int64_t             patch      = dinov_engine_model(engine)->patch;
    const dinov_onnx_options *o          = p->options;
    if (o->height) {
        DINOV_TRY(prove_size(p, engine, o->height, o->width, err));
    } else {
        for (size_t i = 0; i < sizeof sides / sizeof sides[0]; i++)
            DINOV_TRY(prove_size(p, engine, sides[i][0] * patch, sides[i][1] * patch, err));
    }
    return p->bad == 0 ? DINOV_OK
                       : dinov_fail(err, DINOV_ERR_CORRUPT, "GRAPH-PROOF",
                                    "%s: %d outputs %s are further from the source's than is allowed", p->where, p->bad, whose);
}

dinov_status dinov_onnx_prove(dinov_ort *graph, dinov_engine *engine, const dinov_onnx_options *options, const char *where,
                              dinov_agreement_note *note, void *arg, dinov_error *err)
{
    struct proving p = {.graph = graph, .options = options, .where = where, .note = note, .arg = arg};
    return prove(&p, engine, "in ONNX Runtime", err);
}

dinov_status dinov_onnx_prove_weights(dinov_engine *again, dinov_engine *engine, const dinov_onnx_options *options,
                                      const char *where, dinov_agreement_note *note, void *arg, dinov_error *err)
{
    struct proving p = {.again = again, .options = options, .where = where, .note = note, .arg = arg};
    return prove(&p, engine, "of the weights read back", err);
}
