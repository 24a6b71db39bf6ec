/* SPDX-License-Identifier: Apache-2.0
 *
 * What a graph ought to give: one input of a formula, and every output of it as our own engine computes it from
 * the source's weights.
 */
#ifndef DINOV_CONVERT_ONNX_CASE_H
#define DINOV_CONVERT_ONNX_CASE_H

#include "convert/onnx/vit.h"
#include "dinov/infer.h"

typedef struct dinov_onnx_case {
    const dinov_onnx_options *options;
    const dinov_model        *model;
    int64_t                   height, width;
    float                    *pixels; /* [channels, height, width]: dinov_golden_input, seed 0 */
    uint8_t                  *bytes;  /* [height, width, channels], where the graph takes bytes; pixels are these, normalised */
    float                    *values; /* [layers, tokens, dim]: CLS, registers, patches */
    int64_t                   tokens;
} dinov_onnx_case;

/* `engine` and `options` stay alive. Close it also after a failure. ERR_NOMEM. */
dinov_status dinov_onnx_case_open(dinov_onnx_case *c, dinov_engine *engine, const dinov_onnx_options *options, int64_t height,
                                  int64_t width, dinov_error *err);
void         dinov_onnx_case_close(dinov_onnx_case *c);

/* The rows, of `dim` values, that an output of the graph stands for. */
const float *dinov_onnx_case_rows(const dinov_onnx_case *c, const dinov_onnx_feature *output, int64_t *rows);

/* How far an output is from what it ought to be. */
typedef struct dinov_agreement {
    const char *output;
    int64_t     height, width;
    double      max_abs, relative; /* over the output, in norm */
    double      worst;             /* relative, of the worst token */
    double      cosine;            /* of the worst token */
    bool        ok;
} dinov_agreement;

typedef void dinov_agreement_note(void *arg, const dinov_agreement *a);

/* Adds rows to an agreement that began with a cosine of 1. */
void dinov_agreement_add(dinov_agreement *a, const float *have, const float *want, int64_t rows, int64_t dim);

/* Allowed: f32 1e-5 over an output and 1e-4 for its worst token; f16 a cosine of 0.9999, bf16 of 0.999, for the worst token. */
bool dinov_agreement_allowed(const dinov_agreement *a, dinov_dtype dtype);

#endif
