/* SPDX-License-Identifier: Apache-2.0
 *
 * An ONNX model as it lies in a mapped file: protobuf's wire format walked with our own cursor, nothing copied,
 * no recursion. Every message down to a tensor has a level of its own; graphs inside attributes are stepped over.
 * What stands here is sound: tensors fit their bytes, each value is made once, and nodes stand in an order in which it is
 * made before it is used.
 */
#ifndef DINOV_CONVERT_ONNX_WIRE_H
#define DINOV_CONVERT_ONNX_WIRE_H

#include "convert/files.h"
#include "dinov/base.h"

#include <stdbool.h>

enum {
    DINOV_ONNX_NODES   = 1 << 15, /* five times what the largest model takes when nothing is folded */
    DINOV_ONNX_NAMES   = 1 << 17, /* inputs and outputs of all nodes together */
    DINOV_ONNX_TENSORS = 1 << 13,
    DINOV_ONNX_NAME    = 1024, /* bytes in one name */
    DINOV_ONNX_NONE    = -1,
};

typedef struct dinov_onnx_text {
    const char *data;
    size_t      size;
} dinov_onnx_text;

bool dinov_onnx_is(dinov_onnx_text text, const char *word);

/* TensorProto. `data` is NULL for types we do not read and for values spelled one by one (`spelled`). */
typedef struct dinov_onnx_tensor {
    dinov_onnx_text name, body;
    dinov_dtype     dtype; /* 0: a type we do not read */
    int             type;  /* ONNX's number of it */
    int             rank;
    int64_t         dim[DINOV_MAX_RANK];
    uint64_t        count; /* of elements */
    const uint8_t  *data;
    int             spelled; /* the field with one varint a value: int32_data or int64_data; 0: none */
} dinov_onnx_tensor;

typedef struct dinov_onnx_node {
    dinov_onnx_text name, op, domain, body; /* domain "" is ONNX's own */
    uint32_t        first_in, ins, first_out, outs;
} dinov_onnx_node;

/* Who makes a value: a node (its number), an initializer, or the caller of the graph (both NONE). */
typedef struct dinov_onnx_value {
    dinov_onnx_text name;
    int32_t         node, tensor;
    uint32_t        output; /* which of the node's */
    bool            input;  /* of the graph */
} dinov_onnx_value;

typedef struct dinov_onnx {
    const char        *where;
    dinov_onnx_node   *nodes;
    dinov_onnx_tensor *tensors; /* initializers */
    dinov_onnx_value  *values;
    int32_t           *slots; /* inputs and outputs of nodes as numbers of values, NONE for an absent one */
    size_t             node_count, tensor_count, value_count, slot_count;
    dinov_onnx_text    document; /* metadata_props "dinov"; data NULL when there is none */
    size_t             functions;
    uint64_t           bytes; /* of the file and the files beside it */
} dinov_onnx;

/* ERR_FORMAT: ONNX-WIRE (damaged or cut), ONNX-TENSOR, ONNX-EXTERNAL, ONNX-NAME (a value made twice, never, or out of
 * itself), FILES-*; ERR_LIMIT: ONNX-LIMIT; ERR_IO, ERR_NOMEM. `files` gives external data and owns its mappings. */
dinov_status dinov_onnx_open(dinov_onnx *out, dinov_files *files, const void *data, size_t size, const char *where,
                             dinov_error *err);
/* Also clears what a failed open left. */
void dinov_onnx_close(dinov_onnx *model);

/* The i-th input or output of a node as a number of a value; NONE when absent, and for no node. */
int32_t dinov_onnx_in(const dinov_onnx *model, int32_t node, uint32_t i);
int32_t dinov_onnx_out(const dinov_onnx *model, int32_t node, uint32_t i);
/* The node that makes `value`, or NONE. */
int32_t dinov_onnx_maker(const dinov_onnx *model, int32_t value);

/* Attributes by name. The first two give `other` when there is none. Lists: the number of items, of which at most `most`
 * are stored; -1 when there is none. */
int64_t         dinov_onnx_int(const dinov_onnx_node *node, const char *name, int64_t other);
float           dinov_onnx_float(const dinov_onnx_node *node, const char *name, float other);
int             dinov_onnx_ints(const dinov_onnx_node *node, const char *name, int64_t *out, int most);
dinov_onnx_text dinov_onnx_string(const dinov_onnx_node *node, const char *name);
/* A tensor, or a float as a tensor without sizes. False when there is none. */
bool dinov_onnx_attribute_tensor(const dinov_onnx_node *node, const char *name, dinov_onnx_tensor *out);

/* The last `most` or fewer values of a tensor of integers; true when that is all of them. *count: how many were stored. */
bool dinov_onnx_tail(const dinov_onnx_tensor *tensor, int64_t *out, int most, int *count);
/* Values spelled one by one, as the bytes they stand for: `out` has room for all. */
void dinov_onnx_unspell(const dinov_onnx_tensor *tensor, void *out);

#endif
