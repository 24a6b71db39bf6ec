/* SPDX-License-Identifier: Apache-2.0
 *
 * The ViT as an ONNX graph, written down and not traced: right at every size it declares.
 */
#ifndef DINOV_CONVERT_ONNX_VIT_H
#define DINOV_CONVERT_ONNX_VIT_H

#include "base/fail.h"
#include "convert/onnx/graph.h"
#include "dinov/format.h"

enum { DINOV_ONNX_OPSET_MIN = 17, DINOV_ONNX_OPSET_MAX = 23, DINOV_ONNX_LAYERS = 64 };

typedef struct dinov_onnx_options {
    int64_t     height, width; /* pixels; 0 (default): any multiples of the patch */
    int64_t     batch;         /* pictures a run; 0 (default): any number */
    dinov_dtype dtype;    /* of weights and products: F32 (default 0), F16, BF16. Residual stream, LayerNorm and softmax are f32 */
    int         opset;    /* 0 (default): 17, for bf16 22 */
    bool        hf_names; /* pixel_values, last_hidden_state, pooler_output; default image, cls, patch, reg */
    bool        cls, patch, reg;                        /* which outputs, under the default names */
    int         layers[DINOV_ONNX_LAYERS], layer_count; /* block indices from 0; none (default): the last */
    bool        preprocess;                             /* uint8 [B, H, W, 3] in instead of normalised f32 [B, 3, H, W] */
    bool        fuse;                                   /* operators of ONNX Runtime's own domain */
} dinov_onnx_options;

/* Fills in defaults and refuses what no graph can be: ERR_CONFIG (GRAPH-SIZE, GRAPH-LAYER, GRAPH-OPSET, GRAPH-OUTPUT);
 * ERR_UNSUPPORTED (GRAPH-MODEL). `where` is the model, for messages. */
dinov_status dinov_onnx_options_check(dinov_onnx_options *o, const dinov_model *model, const char *where, dinov_error *err);

typedef enum dinov_onnx_kind {
    DINOV_ONNX_CLS    = 0,
    DINOV_ONNX_REG    = 1,
    DINOV_ONNX_PATCH  = 2,
    DINOV_ONNX_TOKENS = 3, /* all of them */
} dinov_onnx_kind;

/* Outputs in the graph's order. */
typedef struct dinov_onnx_feature {
    char            name[24]; /* as dinov-infer names its files: "patch", "patch.L03" */
    dinov_onnx_kind kind;
    int             index; /* of options->layers */
} dinov_onnx_feature;

size_t dinov_onnx_feature_count(const dinov_onnx_options *o);
void   dinov_onnx_feature_at(dinov_onnx_feature *out, const dinov_onnx_options *o, const dinov_model *model, size_t i);

/* Checked options. `weights` stay alive as long as the graph. ERR_NOMEM. */
dinov_status dinov_onnx_vit(dinov_onnx_graph *g, const dinov_weights *weights, const dinov_onnx_options *o, dinov_error *err);

/* The position embeddings of a grid of `grid` ([2] of int64: rows, columns, from the graph) as f32 [1, rows * columns, dim]. */
const char *dinov_onnx_positions(dinov_onnx_graph *g, const dinov_weights *weights, const char *table, const char *rows,
                                 const char *columns);

#endif
