/* SPDX-License-Identifier: Apache-2.0
 *
 * Is a written graph right? Its outputs beside those of the source's weights in our own engine, size by size.
 */
#ifndef DINOV_CONVERT_ONNX_PROVE_H
#define DINOV_CONVERT_ONNX_PROVE_H

#include "convert/onnx/ort.h"
#include "convert/onnx/vit.h"
#include "dinov/infer.h"

/* One output at one size. */
typedef struct dinov_agreement {
    const char *output;
    int64_t     height, width;
    double      max_abs, relative; /* over the output, in norm */
    double      worst;             /* relative, of the worst token */
    double      cosine;            /* of the worst token */
    bool        ok;
} dinov_agreement;

typedef void dinov_agreement_note(void *arg, const dinov_agreement *a);

/* Runs `graph` on golden inputs (dinov_golden_input; bytes where it takes bytes) at its size, or at several where it has
 * none, and calls `note` for each output. Allowed: f32 1e-5 over an output and 1e-4 for its worst token; f16 a cosine of 0.9999,
 * bf16 of 0.999 for the worst token. ERR_CORRUPT ONNX-PROOF when one exceeds it, after all were noted. `engine` has the
 * source's weights. */
dinov_status dinov_onnx_prove(dinov_ort *graph, dinov_engine *engine, const dinov_onnx_options *options, const char *where,
                              dinov_agreement_note *note, void *arg, dinov_error *err);

#endif
