/* SPDX-License-Identifier: Apache-2.0
 *
 * An ONNX graph in the making: nodes and values by name, weights as descriptions that are read, turned and
 * rounded only while the file is written, one at a time. Running out of memory sets `failed`; later calls do
 * nothing, and the caller looks once, at the end.
 */
#ifndef DINOV_CONVERT_ONNX_GRAPH_H
#define DINOV_CONVERT_ONNX_GRAPH_H

#include "dinov/base.h"

#include <onnx.pb-c.h>
#include <stdbool.h>

/* The bytes of one initializer: rows of a tensor, as they are or transposed, rounded to `dtype`. */
typedef struct dinov_onnx_weight {
    const char         *name;
    dinov_dtype         dtype;
    int                 rank;
    int64_t             dim[4];    /* in the graph */
    const dinov_tensor *source;    /* NULL: `bytes` are the values as they are */
    int64_t             first_row; /* of the source, whose first dimension counts rows */
    bool                transpose; /* of rows x the rest */
    const dinov_tensor *scale;     /* NULL, or [rows]: row r is multiplied by scale[r] */
    const void         *bytes;
} dinov_onnx_weight;

typedef struct dinov_onnx_graph {
    Onnx__GraphProto   proto; /* initializers apart */
    dinov_onnx_weight *weights;
    size_t             weight_count, weight_room, node_room;
    char               scope[64]; /* goes before every name given to a node */
    struct block      *blocks;    /* memory of all the rest */
    bool               failed;
} dinov_onnx_graph; /* starts as {0}, then dinov_onnx_graph_init */

void dinov_onnx_graph_init(dinov_onnx_graph *g);
void dinov_onnx_graph_clear(dinov_onnx_graph *g);

/* Values are names, valid until clear. `name` without the scope; inputs end in NULL, and "" is an input left out. */
const char *dinov_onnx_op(dinov_onnx_graph *g, const char *name, const char *op, ...) __attribute__((sentinel));
/* Of the node made last: attributes, a further output, a domain other than ONNX's own. */
void        dinov_onnx_set_int(dinov_onnx_graph *g, const char *attribute, int64_t value);
void        dinov_onnx_set_float(dinov_onnx_graph *g, const char *attribute, float value);
void        dinov_onnx_set_ints(dinov_onnx_graph *g, const char *attribute, int count, const int64_t *values);
const char *dinov_onnx_output(dinov_onnx_graph *g, const char *name);
void        dinov_onnx_domain(dinov_onnx_graph *g, const char *domain);

/* Initializers. One of a name that exists already is that one. Constants are copied and named within the scope. */
const char *dinov_onnx_const_f32(dinov_onnx_graph *g, const char *name, dinov_dtype dtype, int count, const float *values, int rank,
                                 const int64_t *dim);
const char *dinov_onnx_const_i64(dinov_onnx_graph *g, const char *name, int rank, int count, const int64_t *values);
const char *dinov_onnx_weigh(dinov_onnx_graph *g, const dinov_onnx_weight *weight);

/* The graph's own inputs and outputs. dim[i] < 0: named by dim_name[i]. */
void dinov_onnx_port(dinov_onnx_graph *g, bool input, const char *name, int type, int rank, const int64_t *dim,
                     const char *const *dim_name);

/* Bytes of a weight, and the bytes themselves; `out` holds as many. */
uint64_t dinov_onnx_weight_size(const dinov_onnx_weight *weight);
void     dinov_onnx_weight_fill(const dinov_onnx_weight *weight, void *out);
/* ONNX's number for an element type. */
int dinov_onnx_type(dinov_dtype dtype);

/* Memory of the graph's, cleared; NULL when out of it. */
void *dinov_onnx_take(dinov_onnx_graph *g, size_t size);
char *dinov_onnx_print(dinov_onnx_graph *g, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
