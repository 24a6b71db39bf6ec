/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/graph.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "convert/onnx/constants.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- Memory: blocks that are given back together ---- */

struct block {
    struct block *next;
    size_t        used, size;
    char          bytes[];
};

enum { BLOCK = 64 << 10 };

void *dinov_onnx_take(dinov_onnx_graph *g, size_t size)
{
    size = (size + 15) / 16 * 16;
    if (g->failed) return NULL;
    if (!g->blocks || g->blocks->size - g->blocks->used < size) {
        size_t        room = size > BLOCK ? size : BLOCK;
        struct block *b    = dinov_calloc(1, sizeof *b + room);
        if (!b) {
            g->failed = true;
            return NULL;
        }
        *b        = (struct block){.next = g->blocks, .size = room};
        g->blocks = b;
    }
    void *at = g->blocks->bytes + g->blocks->used;
    g->blocks->used += size;
    return at;
}

char *dinov_onnx_print(dinov_onnx_graph *g, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = dinov_onnx_take(g, (size_t)size + 1);
    if (!text) return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)size + 1, format, args);
    va_end(args);
    return text;
}

void dinov_onnx_graph_init(dinov_onnx_graph *g)
{
    *g = (dinov_onnx_graph){0};
    onnx__graph_proto__init(&g->proto);
}

void dinov_onnx_graph_clear(dinov_onnx_graph *g)
{
    while (g->blocks) {
        struct block *next = g->blocks->next;
        dinov_free(g->blocks);
        g->blocks = next;
    }
    dinov_free(g->weights);
    dinov_free(g->proto.node);
    *g = (dinov_onnx_graph){0};
}

/* A copy of a short pointer list with one more. */
static void *append(dinov_onnx_graph *g, void *list, size_t count, void *item)
{
    void **longer = dinov_onnx_take(g, (count + 1) * sizeof *longer);
    if (!longer) return list;
    if (count) memcpy(longer, list, count * sizeof *longer);
    longer[count] = item;
    return longer;
}

/* ---- Nodes ---- */

static Onnx__NodeProto *last(dinov_onnx_graph *g) { return g->failed ? NULL : g->proto.node[g->proto.n_node - 1]; }

static bool add_node(dinov_onnx_graph *g, Onnx__NodeProto *node)
{
    if (g->proto.n_node == g->node_room) {
        size_t            room  = g->node_room ? 2 * g->node_room : 256;
        Onnx__NodeProto **nodes = dinov_realloc(g->proto.node, room, sizeof *nodes);
        if (!nodes) {
            g->failed = true;
            return false;
        }
        g->proto.node = nodes;
        g->node_room  = room;
    }
    g->proto.node[g->proto.n_node++] = node;
    return true;
}

const char *dinov_onnx_op(dinov_onnx_graph *g, const char *name, const char *op, ...)
{
    Onnx__NodeProto *node = dinov_onnx_take(g, sizeof *node);
    char            *full = dinov_onnx_print(g, "%s%s", g->scope, name);
    va_list          args;
    const char      *input;

    if (!node || !full || !add_node(g, node)) return "";
    onnx__node_proto__init(node);
    node->name    = full;
    node->op_type = dinov_onnx_print(g, "%s", op);
    va_start(args, op);
    while ((input = va_arg(args, const char *))) {
        node->input = append(g, node->input, node->n_input, (void *)(uintptr_t)input);
        node->n_input++;
    }
    va_end(args);
    node->output = append(g, NULL, 0, full);
    node->n_output++;
    return full;
}

const char *dinov_onnx_output(dinov_onnx_graph *g, const char *name)
{
    char            *full = dinov_onnx_print(g, "%s%s", g->scope, name);
    Onnx__NodeProto *node = last(g);
    if (!node) return "";
    node->output = append(g, node->output, node->n_output, full);
    node->n_output++;
    return full;
}

void dinov_onnx_domain(dinov_onnx_graph *g, const char *domain)
{
    char *text = dinov_onnx_print(g, "%s", domain);
    if (last(g)) last(g)->domain = text;
}

static Onnx__AttributeProto *attribute(dinov_onnx_graph *g, const char *name, Onnx__AttributeProto__AttributeType type)
{
    Onnx__NodeProto      *node = last(g);
    Onnx__AttributeProto *a    = dinov_onnx_take(g, sizeof *a);
    char                 *text = dinov_onnx_print(g, "%s", name);
    if (!a || !text) return NULL;
    onnx__attribute_proto__init(a);
    a->name         = text;
    a->has_type     = 1;
    a->type         = type;
    node->attribute = append(g, node->attribute, node->n_attribute, a);
    node->n_attribute++;
    return g->failed ? NULL : a;
}

void dinov_onnx_set_int(dinov_onnx_graph *g, const char *name, int64_t value)
{
    Onnx__AttributeProto *a = attribute(g, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    if (a) a->has_i = 1, a->i = value;
}

void dinov_onnx_set_float(dinov_onnx_graph *g, const char *name, float value)
{
    Onnx__AttributeProto *a = attribute(g, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT);
    if (a) a->has_f = 1, a->f = value;
}

void dinov_onnx_set_ints(dinov_onnx_graph *g, const char *name, int count, const int64_t *values)
{
    Onnx__AttributeProto *a    = attribute(g, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    int64_t              *copy = dinov_onnx_take(g, (size_t)count * sizeof *copy);
    if (!a || !copy) return;
    memcpy(copy, values, (size_t)count * sizeof *copy);
    a->ints   = copy;
    a->n_ints = (size_t)count;
}

/* ---- Initializers ---- */

/* The initializer of that name made before, or NULL. */
static const char *known(const dinov_onnx_graph *g, const char *name)
{
    for (size_t i = 0; i < g->weight_count; i++)
        if (strcmp(g->weights[i].name, name) == 0) return g->weights[i].name;
    return NULL;
}

const char *dinov_onnx_weigh(dinov_onnx_graph *g, const dinov_onnx_weight *weight)
{
    if (g->failed) return "";
    const char *before = known(g, weight->name);
    if (before) return before;
    if (g->weight_count == g->weight_room) {
        size_t             room = g->weight_room ? 2 * g->weight_room : 256;
        dinov_onnx_weight *more = dinov_realloc(g->weights, room, sizeof *more);
        if (!more) {
            g->failed = true;
            return "";
        }
        g->weights     = more;
        g->weight_room = room;
    }
    dinov_onnx_weight *w = &g->weights[g->weight_count];
    *w                   = *weight;
    w->name              = dinov_onnx_print(g, "%s", weight->name);
    if (g->failed) return "";
    g->weight_count++;
    return w->name;
}

static const char *constant(dinov_onnx_graph *g, const char *name, dinov_onnx_weight *w, const void *values, size_t size)
{
    char *full = dinov_onnx_print(g, "%s%s", g->scope, name);
    if (!full) return "";
    void *copy = dinov_onnx_take(g, size);
    if (!copy) return "";
    memcpy(copy, values, size);
    w->name  = full;
    w->bytes = copy;
    return dinov_onnx_weigh(g, w);
}

const char *dinov_onnx_const_f32(dinov_onnx_graph *g, const char *name, dinov_dtype dtype, int count, const float *values, int rank,
                                 const int64_t *dim)
{
    dinov_onnx_weight w     = {.dtype = dtype, .rank = rank};
    uint8_t          *bytes = dinov_onnx_take(g, (size_t)count * sizeof(float));
    size_t            size  = dinov_dtype_size(dtype);
    if (!bytes) return "";
    for (int i = 0; i < rank; i++) w.dim[i] = dim[i];
    for (int i = 0; i < count; i++) dinov_put_real(bytes + (size_t)i * size, dtype, values[i]);
    return constant(g, name, &w, bytes, (size_t)count * size);
}

const char *dinov_onnx_const_i64(dinov_onnx_graph *g, const char *name, int rank, int count, const int64_t *values)
{
    dinov_onnx_weight w = {.dtype = DINOV_I64, .rank = rank, .dim = {count}};
    return constant(g, name, &w, values, (size_t)count * sizeof *values);
}

/* ---- Inputs and outputs ---- */

void dinov_onnx_port(dinov_onnx_graph *g, bool input, const char *name, int type, int rank, const int64_t *dim,
                     const char *const *dim_name)
{
    Onnx__ValueInfoProto    *value  = dinov_onnx_take(g, sizeof *value);
    Onnx__TypeProto         *kind   = dinov_onnx_take(g, sizeof *kind);
    Onnx__TypeProto__Tensor *tensor = dinov_onnx_take(g, sizeof *tensor);
    Onnx__TensorShapeProto  *shape  = dinov_onnx_take(g, sizeof *shape);
    char                    *text   = dinov_onnx_print(g, "%s", name);
    if (g->failed) return;
    onnx__value_info_proto__init(value);
    onnx__type_proto__init(kind);
    onnx__type_proto__tensor__init(tensor);
    onnx__tensor_shape_proto__init(shape);
    value->name           = text;
    value->type           = kind;
    kind->value_case      = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    kind->tensor_type     = tensor;
    tensor->has_elem_type = 1;
    tensor->elem_type     = type;
    tensor->shape         = shape;
    for (int i = 0; i < rank; i++) {
        Onnx__TensorShapeProto__Dimension *d = dinov_onnx_take(g, sizeof *d);
        if (!d) return;
        onnx__tensor_shape_proto__dimension__init(d);
        d->value_case = dim[i] < 0 ? ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM
                                   : ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
        if (dim[i] < 0)
            d->dim_param = dinov_onnx_print(g, "%s", dim_name[i]);
        else
            d->dim_value = dim[i];
        shape->dim = append(g, shape->dim, shape->n_dim, d);
        shape->n_dim++;
    }
    if (input) {
        g->proto.input = append(g, g->proto.input, g->proto.n_input, value);
        g->proto.n_input++;
    } else {
        g->proto.output = append(g, g->proto.output, g->proto.n_output, value);
        g->proto.n_output++;
    }
}

/* ---- Bytes of a weight ---- */

int dinov_onnx_type(dinov_dtype dtype)
{
    switch (dtype) {
    case DINOV_F16:
        return ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT16;
    case DINOV_BF16:
        return ONNX__TENSOR_PROTO__DATA_TYPE__BFLOAT16;
    case DINOV_I64:
        return ONNX__TENSOR_PROTO__DATA_TYPE__INT64;
    case DINOV_U8:
        return ONNX__TENSOR_PROTO__DATA_TYPE__UINT8;
    default:
        return ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT;
    }
}

uint64_t dinov_onnx_weight_size(const dinov_onnx_weight *w)
{
    uint64_t count = 1;
    for (int i = 0; i < w->rank; i++) count *= (uint64_t)w->dim[i];
    return count * dinov_dtype_size(w->dtype);
}

void dinov_onnx_weight_fill(const dinov_onnx_weight *w, void *out)
{
    uint64_t bytes = dinov_onnx_weight_size(w);
    if (!w->source) {
        memcpy(out, w->bytes, bytes);
        return;
    }
    const dinov_tensor *s    = w->source;
    size_t              size = dinov_dtype_size(w->dtype), from = dinov_dtype_size(s->dtype);
    int64_t             count = (int64_t)(bytes / size), columns = 1;
    for (int i = 1; i < s->rank; i++) columns *= s->dim[i];
    int64_t        rows = count / columns;
    const uint8_t *in   = (const uint8_t *)s->data + (size_t)(w->first_row * columns) * from;
    if (s->dtype == w->dtype && !w->scale) {
        dinov_onnx_view view = {in, s->dtype, 2, {rows, columns}, {columns, 1}};
        if (w->transpose) view = (dinov_onnx_view){in, s->dtype, 2, {columns, rows}, {1, columns}};
        dinov_onnx_copy(out, &view);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        float scale = w->scale ? (float)dinov_value_at(w->scale, w->first_row + r) : 1;
        for (int64_t c = 0; c < columns; c++) {
            int64_t at = w->transpose ? c * rows + r : r * columns + c;
            dinov_put_real((uint8_t *)out + (size_t)at * size, w->dtype,
                           scale * (float)dinov_value_at(s, (w->first_row + r) * columns + c));
        }
    }
}
