/* SPDX-License-Identifier: Apache-2.0
 *
 * The model in an ONNX graph, found by its structure. Names say nothing (exporters rename, merge and transpose), so
 * the walk starts at the final norm and goes back along the residual stream, one branch after the other, to the
 * patch embedding. What does not fit is refused with the node that does not.
 */
#ifndef DINOV_CONVERT_ONNX_MATCH_H
#define DINOV_CONVERT_ONNX_MATCH_H

#include "convert/onnx/constants.h"

/* y = x W^T + b */
typedef struct dinov_onnx_linear {
    dinov_onnx_view weight, bias; /* [out, in], [out]; bias.data NULL: none */
    int32_t         input;        /* x */
} dinov_onnx_linear;

/* A place in the residual stream: a value, or a sum that only a SkipLayerNormalization computes. */
typedef struct dinov_onnx_stream {
    int32_t value, node; /* one of them is NONE */
} dinov_onnx_stream;

typedef struct dinov_onnx_norm {
    dinov_onnx_view   weight, bias;
    double            eps;
    int32_t           node; /* its last one */
    dinov_onnx_stream x;
} dinov_onnx_norm;

enum { DINOV_ONNX_ATTENTION = 1, DINOV_ONNX_MLP = 2, DINOV_ONNX_SWIGLU = 3 };

/* x + gamma * out(f(in(norm(x)))) */
typedef struct dinov_onnx_branch {
    int               kind;
    dinov_onnx_norm   norm;
    dinov_onnx_linear in[3], out; /* q, k, v or gate, up; or one for all */
    int               ins;
    dinov_onnx_view   gamma; /* data NULL: none */
    int64_t           heads; /* 0: the graph does not say */
} dinov_onnx_branch;

/* How the patch embedding becomes the stream. */
typedef struct dinov_onnx_tokens {
    dinov_onnx_view patch_weight, patch_bias;
    dinov_onnx_view cls, registers;      /* registers.data NULL: none */
    dinov_onnx_view class_pos, grid;     /* grid: all positions when class_pos.data is NULL and `whole` */
    bool            whole;               /* grid begins with the class token's */
    bool            resized, antialias;  /* the graph resizes positions: to a size, or with `factor` by a scale */
    bool            factor, input_nodes; /* the latter: nodes stand between the graph's input and the embedding */
} dinov_onnx_tokens;

typedef struct dinov_onnx_match {
    const dinov_onnx           *model;
    const dinov_onnx_constants *constants;
    dinov_onnx_tokens           tokens;
    dinov_onnx_branch          *branches; /* from the last to the first */
    size_t                      count, room;
    dinov_onnx_norm             final;
    int64_t                     dim;
    int32_t                     missed; /* the node that does not fit, and why, and how far the walk had come */
    const char                 *why;
    int                         depth;
} dinov_onnx_match;

/* ERR_UNSUPPORTED ONNX-QUANTISED; ERR_FORMAT ONNX-NODE, ONNX-STRUCTURE. Views last as long as `constants`. */
dinov_status dinov_onnx_match_open(dinov_onnx_match *out, const dinov_onnx_constants *constants, dinov_error *err);
/* Also clears what a failed open left. */
void dinov_onnx_match_close(dinov_onnx_match *match);

/* ---- Between the files of the matcher ---- */

/* The node that makes `value` is this op of ONNX's own domain, or with `microsoft` of onnxruntime's. */
bool dinov_onnx_made_by(const dinov_onnx_match *m, int32_t value, const char *op);
bool dinov_onnx_made_by_ort(const dinov_onnx_match *m, int32_t value, const char *op);
/* Back past nodes that change no element: casts; and with `shapes` those that only move elements. */
int32_t dinov_onnx_past(const dinov_onnx_match *m, int32_t value, bool shapes);
/* A node's two operands, of which one is a constant. */
bool dinov_onnx_with_constant(const dinov_onnx_match *m, int32_t node, const dinov_onnx_view **constant, int32_t *other);
/* One that is a single number. */
bool              dinov_onnx_with_number(const dinov_onnx_match *m, int32_t node, double *number, int32_t *other);
dinov_onnx_stream dinov_onnx_stream_of(const dinov_onnx_match *m, int32_t value);
/* The two summands of a place in the stream, and the bias that a fused node adds (NONE). */
bool dinov_onnx_sum(const dinov_onnx_match *m, dinov_onnx_stream s, int32_t *a, int32_t *b, int32_t *bias);
/* False, with the node remembered if the walk has come further (`depth`) than at what was remembered before. */
bool dinov_onnx_miss(dinov_onnx_match *m, int32_t value, int depth, const char *why);

bool dinov_onnx_match_norm(dinov_onnx_match *m, int32_t value, dinov_onnx_norm *out);
bool dinov_onnx_match_linear(const dinov_onnx_match *m, int32_t value, dinov_onnx_linear *out);
/* The branch that makes `value`; with its bias when a fused node adds that. */
bool dinov_onnx_match_branch(dinov_onnx_match *m, int32_t value, int32_t bias, dinov_onnx_branch *out);
bool dinov_onnx_match_tokens(dinov_onnx_match *m, dinov_onnx_stream s);

#endif
