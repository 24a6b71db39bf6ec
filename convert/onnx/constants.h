/* SPDX-License-Identifier: Apache-2.0
 *
 * What is constant in an ONNX graph. Exporters leave weights behind Identity, Transpose, Cast, Reshape and the like,
 * and shapes as small sums of parts: one pass over the nodes, in order, gives each constant value as a strided view of
 * stored bytes, and each list of integers as far as it is known. Nothing is computed on weights.
 */
#ifndef DINOV_CONVERT_ONNX_CONSTANTS_H
#define DINOV_CONVERT_ONNX_CONSTANTS_H

#include "convert/onnx/wire.h"
#include "convert/tensors.h"

/* Elements of stored bytes, in steps of elements. */
typedef struct dinov_onnx_view {
    const uint8_t *data;
    dinov_dtype    dtype;
    int            rank;
    int64_t        dim[DINOV_MAX_RANK], step[DINOV_MAX_RANK];
} dinov_onnx_view;

/* The last items of a list of integers; UNKNOWN for one that depends on the input. */
typedef struct dinov_onnx_list {
    bool    whole; /* there are no others before them */
    int     count;
    int64_t item[DINOV_MAX_RANK];
} dinov_onnx_list;

#define DINOV_ONNX_UNKNOWN (INT64_MIN + 1)

typedef struct dinov_onnx_constants {
    const dinov_onnx *model;
    int32_t          *view_of, *list_of; /* by value; NONE */
    dinov_onnx_view  *views;
    dinov_onnx_list  *lists;
    size_t            view_count, view_room, list_count, list_room;
    dinov_tensors    *out;  /* owns what had to be copied */
    uint64_t          left; /* bytes that may still be copied */
} dinov_onnx_constants;

/* ERR_NOMEM; ERR_LIMIT ONNX-COPY: copies beyond the size of the files, which no model needs. */
dinov_status dinov_onnx_constants_open(dinov_onnx_constants *k, const dinov_onnx *model, dinov_tensors *out, dinov_error *err);
void         dinov_onnx_constants_close(dinov_onnx_constants *k);

/* NULL when `value` is not constant, or its integers not known. */
const dinov_onnx_view *dinov_onnx_view_of(const dinov_onnx_constants *k, int32_t value);
const dinov_onnx_list *dinov_onnx_list_of(const dinov_onnx_constants *k, int32_t value);
/* True for a constant of one floating or integer element. */
bool dinov_onnx_number(const dinov_onnx_constants *k, int32_t value, double *out);

uint64_t dinov_onnx_view_count(const dinov_onnx_view *view);
/* Row-major without gaps. */
bool dinov_onnx_view_plain(const dinov_onnx_view *view);
/* Rows [from, from + count) along `axis`; other axes in the order `perm`. Both are within the view. */
dinov_onnx_view dinov_onnx_view_part(const dinov_onnx_view *view, int axis, int64_t from, int64_t count);
dinov_onnx_view dinov_onnx_view_permute(const dinov_onnx_view *view, const int *perm);

/* Room for copies, counted. */
dinov_status dinov_onnx_room(dinov_onnx_constants *k, void **out, uint64_t bytes, dinov_error *err);
/* The elements in row-major order. */
void dinov_onnx_copy(void *out, const dinov_onnx_view *view);
/* The view as a tensor of its shape: as it lies, or a copy where it lies otherwise. */
dinov_status dinov_onnx_view_tensor(dinov_onnx_constants *k, dinov_tensor *out, const dinov_onnx_view *view, dinov_error *err);

#endif
