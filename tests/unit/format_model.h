/* SPDX-License-Identifier: Apache-2.0
 *
 * A small complete backbone with reproducible contents, for the tests of the format.
 */
#ifndef DINOV_TESTS_FORMAT_MODEL_H
#define DINOV_TESTS_FORMAT_MODEL_H

#include "base/dtype.h"
#include "format/params.h"

#include <stdlib.h>
#include <string.h>

enum { TINY_MAX_TENSORS = 64 };

typedef struct tiny_model {
    dinov_param        params[TINY_MAX_TENSORS];
    dinov_named_tensor tensors[TINY_MAX_TENSORS];
    dinov_weights      weights;
    dinov_provenance   provenance;
    dinov_golden       cases[2];
    float             *golden; /* [2, 2, dim] */
    dinov_proof        proof;
} tiny_model;

/* One block of width `dim`; biases of `odd_dtype` make tensors that are no multiple of 64 bytes. */
static inline void tiny_make(tiny_model *t, int64_t dim, dinov_dtype vectors)
{
    memset(t, 0, sizeof *t);
    t->weights.model = (dinov_model){.patch = 2, .dim = dim, .depth = 1, .heads = 2, .ffn = DINOV_FFN_MLP,
                                     .hidden = 2 * dim, .registers = 1, .channels = 3, .grid_h = 3, .grid_w = 2,
                                     .layerscale = 1, .qkv_bias = 1, .ln_eps = 1e-6, .interp = {0.1, 0}};
    t->weights.preprocess = (dinov_preprocess){"eval:224", {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};
    t->weights.tensors    = t->tensors;
    t->weights.count      = dinov_param_count(&t->weights.model);
    uint32_t seed = 1;
    for (size_t i = 0; i < t->weights.count; i++) {
        dinov_tensor *v = &t->tensors[i].tensor;
        uint64_t      bytes;
        dinov_param_at(&t->weights.model, i, &t->params[i]);
        t->tensors[i].name = t->params[i].name;
        v->rank            = t->params[i].rank;
        v->dtype           = v->rank == 1 ? vectors : DINOV_F32;
        memcpy(v->dim, t->params[i].dim, sizeof t->params[i].dim);
        if (!dinov_tensor_bytes(v, &bytes)) abort();
        uint8_t *data = malloc(bytes);
        for (uint64_t j = 0; j < bytes; j++) data[j] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
        v->data = data;
    }
    t->provenance = (dinov_provenance){.source_format = "code", .source_sha256 = "", .converter = "test", .transforms = "",
                                       .licence = "CC0-1.0", .origin = "a \"quoted\" back\\slash, \xc3\xa9t\xc3\xa9"};
    t->golden = calloc(4 * (size_t)dim, sizeof *t->golden);
    for (int64_t i = 0; i < 4 * dim; i++) t->golden[i] = (float)(i - dim) / 7.0f;
    t->golden[0] = -0.0f;
    t->golden[1] = 1e-42f;
    t->golden[2] = 3.4028235e38f;
    t->cases[0] = (dinov_golden){4, 6, 0, t->golden, t->golden + dim};
    t->cases[1] = (dinov_golden){2, 2, 7, t->golden + 2 * dim, t->golden + 3 * dim};
    t->proof    = (dinov_proof){.computed_by = "test", .tolerance = 5e-6, .cases = t->cases, .count = 2};
}

static inline void tiny_free(tiny_model *t)
{
    for (size_t i = 0; i < t->weights.count; i++) free((void *)(uintptr_t)t->tensors[i].tensor.data);
    free(t->golden);
}

#endif
