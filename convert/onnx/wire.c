/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/wire.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "convert/onnx/order.h"
#include "convert/onnx/protobuf.h"

#include <stdlib.h>

/* Field numbers of onnx.proto. */
enum { MODEL_GRAPH = 7, MODEL_METADATA = 14, MODEL_FUNCTIONS = 25 };
enum { GRAPH_NODE = 1, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_SPARSE = 15 };
enum { NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_NAME = 3, NODE_OP = 4, NODE_ATTRIBUTE = 5, NODE_DOMAIN = 7 };
enum { ATTR_NAME = 1, ATTR_F = 2, ATTR_I = 3, ATTR_S = 4, ATTR_T = 5, ATTR_FLOATS = 7, ATTR_INTS = 8 };
enum {
    TENSOR_DIMS     = 1,
    TENSOR_TYPE     = 2,
    TENSOR_FLOATS   = 4,
    TENSOR_INT32S   = 5,
    TENSOR_STRINGS  = 6,
    TENSOR_INT64S   = 7,
    TENSOR_NAME     = 8,
    TENSOR_RAW      = 9,
    TENSOR_DOUBLES  = 10,
    TENSOR_UINT64S  = 11,
    TENSOR_EXTERNAL = 13,
    TENSOR_LOCATION = 14,
};
enum { ENTRY_KEY = 1, ENTRY_VALUE = 2 };

static dinov_onnx_text text_of(const dinov_pb_field *f) { return (dinov_onnx_text){(const char *)f->data, (size_t)f->size}; }

static dinov_cursor read_text(dinov_onnx_text text) { return dinov_cursor_make(text.data, text.size); }

bool dinov_onnx_is(dinov_onnx_text text, const char *word)
{
    return text.size == strlen(word) && memcmp(text.data, word, text.size) == 0;
}

static dinov_status damaged(const dinov_onnx *m, const char *what, dinov_error *err)
{
    return dinov_fail(
        err, DINOV_ERR_FORMAT, "ONNX-WIRE",
        "%s: %s of this ONNX model is damaged or cut short: its fields do not end where they should; copy or download "
        "it again",
        m->where, what);
}

static dinov_status limit(const dinov_onnx *m, const char *what, int most, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_LIMIT, "ONNX-LIMIT", "%s: expected an ONNX model with at most %d %s, found more", m->where,
                      most, what);
}

/* ---- Tensors ---- */

static dinov_dtype dtype_of(int type)
{
    static const dinov_dtype known[] = {[1] = DINOV_F32, [2] = DINOV_U8,   [3] = DINOV_I8,   [5] = DINOV_I16,  [6] = DINOV_I32,
                                        [7] = DINOV_I64, [9] = DINOV_BOOL, [10] = DINOV_F16, [11] = DINOV_F64, [16] = DINOV_BF16};
    return type > 0 && type < (int)(sizeof known / sizeof known[0]) ? known[type] : 0;
}

/* What a TensorProto says, before anything is checked. */
struct spoken {
    uint64_t        fixed, spelled; /* bytes of values of fixed width, values spelled one by one */
    const uint8_t  *data;           /* the former, in one piece; NULL when in several */
    int             sources, field; /* of values: how many kinds, the last one's field */
    bool            external, many;
    dinov_onnx_text location, offset, length;
    bool            has_length;
};

static void hear_fixed(struct spoken *s, const dinov_pb_field *f)
{
    if (f->wire != DINOV_PB_BYTES) s->many = true; /* one value a field: nobody writes tensors so */
    if (s->field != (int)f->number)
        s->sources++;
    else
        s->many = true;
    s->field = (int)f->number;
    s->data  = f->data;
    s->fixed += f->size;
}

static void hear_spelled(struct spoken *s, const dinov_pb_field *f)
{
    if (s->field != (int)f->number) s->sources++;
    s->field = (int)f->number;
    if (f->wire != DINOV_PB_BYTES) s->spelled++;
    for (uint64_t i = 0; i < f->size; i++) s->spelled += f->data[i] < 128;
}

static bool hear_external(struct spoken *s, const dinov_pb_field *f)
{
    dinov_cursor    c   = dinov_pb_message(f);
    dinov_onnx_text key = {0}, value = {0};
    dinov_pb_field  g;
    while (dinov_pb_next(&c, &g)) {
        if (g.wire == DINOV_PB_BYTES && g.number == ENTRY_KEY) key = text_of(&g);
        if (g.wire == DINOV_PB_BYTES && g.number == ENTRY_VALUE) value = text_of(&g);
    }
    if (dinov_onnx_is(key, "location")) s->location = value;
    if (dinov_onnx_is(key, "offset")) s->offset = value;
    if (dinov_onnx_is(key, "length")) s->length = value, s->has_length = true;
    return !c.failed;
}

static bool add_dim(dinov_onnx_tensor *t, uint64_t dim)
{
    if (t->rank == DINOV_MAX_RANK || dim > INT64_MAX) return false;
    t->dim[t->rank++] = (int64_t)dim;
    return true;
}

/* False: no message. *fits: at most eight sizes, none of them negative. */
static bool hear_tensor(dinov_onnx_tensor *t, struct spoken *s, bool *fits)
{
    dinov_cursor   c = read_text(t->body);
    dinov_pb_field f;
    *fits = true;
    while (dinov_pb_next(&c, &f)) {
        dinov_cursor packed = dinov_pb_message(&f);
        switch (f.number) {
        case TENSOR_DIMS:
            if (f.wire == DINOV_PB_VARINT) *fits = add_dim(t, f.value) && *fits;
            while (f.wire == DINOV_PB_BYTES && packed.pos < packed.size && !packed.failed && *fits)
                *fits = add_dim(t, dinov_pb_varint(&packed));
            break;
        case TENSOR_TYPE:
            t->type = f.value < 1000 ? (int)f.value : 0;
            break;
        case TENSOR_NAME:
            if (f.wire == DINOV_PB_BYTES) t->name = text_of(&f);
            break;
        case TENSOR_RAW:
        case TENSOR_FLOATS:
        case TENSOR_DOUBLES:
            hear_fixed(s, &f);
            break;
        case TENSOR_INT32S:
        case TENSOR_INT64S:
        case TENSOR_UINT64S:
            hear_spelled(s, &f);
            break;
        case TENSOR_STRINGS:
            s->sources = 2;
            break;
        case TENSOR_LOCATION:
            s->external = f.value == 1;
            break;
        case TENSOR_EXTERNAL:
            if (f.wire != DINOV_PB_BYTES || !hear_external(s, &f)) return false;
            break;
        default:
            break;
        }
        if (packed.failed) return false;
    }
    return !c.failed;
}

static dinov_status bad_tensor(const dinov_onnx *m, const dinov_onnx_tensor *t, const char *code, const char *what,
                               dinov_error *err)
{
    char name[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: ONNX tensor \"%s\": %s", m->where,
                      dinov_escape(name, sizeof name, t->name.data, t->name.size), what);
}

/* A decimal number; an absent text is 0. */
static bool read_decimal(dinov_onnx_text text, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint64_t digit = (uint64_t)(text.data[i] - '0');
        if (text.data[i] < '0' || text.data[i] > '9' || !dinov_ck_mul(*out, 10, out) || !dinov_ck_add(*out, digit, out))
            return false;
    }
    return true;
}

static dinov_status find_external(dinov_onnx *m, dinov_onnx_tensor *t, const struct spoken *s, uint64_t bytes, dinov_files *files,
                                  dinov_error *err)
{
    uint64_t  offset, length;
    dinov_map map;
    if (s->sources || !read_decimal(s->offset, &offset) || !read_decimal(s->length, &length) || (s->has_length && length != bytes))
        return bad_tensor(
            m, t, "ONNX-EXTERNAL",
            "its values are said to lie in another file: expected offset and length as decimal numbers, the length its "
            "shape and type give, and no values here",
            err);
    DINOV_TRY(dinov_files_get(files, &map, s->location.data ? s->location.data : "", s->location.size, err));
    dinov_cursor c = dinov_cursor_make(map.data, map.size);
    dinov_cursor_seek(&c, offset);
    t->data = dinov_cursor_take(&c, bytes);
    return t->data
               ? DINOV_OK
               : bad_tensor(m, t, "ONNX-EXTERNAL", "its values are said to lie beyond the end of the file beside the model", err);
}

/* The place of its values, of a length that its shape and type give. */
static dinov_status take_tensor(dinov_onnx *m, dinov_onnx_tensor *t, dinov_files *files, dinov_error *err)
{
    struct spoken s = {0};
    bool          fits;
    uint64_t      bytes;
    if (!hear_tensor(t, &s, &fits)) return damaged(m, "a tensor", err);
    dinov_tensor shape = {.dtype = dtype_of(t->type), .rank = t->rank};
    memcpy(shape.dim, t->dim, sizeof shape.dim);
    t->dtype = shape.dtype;
    if (!t->dtype && fits) return DINOV_OK; /* refused where it is used */
    if (!fits || !dinov_tensor_bytes(&shape, &bytes))
        return bad_tensor(m, t, "ONNX-TENSOR", "expected at most 8 sizes, none negative, and a product that fits 64 bits", err);
    t->count = bytes / dinov_dtype_size(t->dtype);
    if (s.external) return find_external(m, t, &s, bytes, files, err);
    bool wide = s.field == TENSOR_RAW || (s.field == TENSOR_FLOATS && t->dtype == DINOV_F32) ||
                (s.field == TENSOR_DOUBLES && t->dtype == DINOV_F64);
    bool narrow = (s.field == TENSOR_INT64S && t->dtype == DINOV_I64) ||
                  (s.field == TENSOR_INT32S && t->dtype != DINOV_F32 && t->dtype != DINOV_F64 && t->dtype != DINOV_I64);
    if (bytes == 0 && s.sources <= 1 && s.fixed == 0 && s.spelled == 0) {
        t->data = (const uint8_t *)t->body.data; /* some address; nothing is read from it */
        return DINOV_OK;
    }
    if (s.sources != 1 || s.many || (wide ? s.fixed != bytes : !narrow || s.spelled != t->count))
        return bad_tensor(m, t, "ONNX-TENSOR", "expected its values once, as many as its shape and type give", err);
    t->data    = wide ? s.data : NULL;
    t->spelled = wide ? 0 : s.field;
    return DINOV_OK;
}

/* The next value of the field; the caller knows there is one. */
struct values {
    dinov_cursor   message, packed;
    dinov_pb_field f;
    uint32_t       field;
};

static bool next_value(struct values *v, uint64_t *out)
{
    for (;;) {
        if (v->packed.pos < v->packed.size) {
            *out = dinov_pb_varint(&v->packed);
            return !v->packed.failed;
        }
        if (!dinov_pb_next(&v->message, &v->f)) return false;
        if (v->f.number != v->field) continue;
        *out = v->f.value;
        if (v->f.wire != DINOV_PB_BYTES) return true;
        v->packed = dinov_pb_message(&v->f);
    }
}

static void put_value(uint8_t *at, size_t size, uint64_t value)
{
    for (size_t i = 0; i < size; i++) at[i] = (uint8_t)(value >> 8 * i);
}

void dinov_onnx_unspell(const dinov_onnx_tensor *t, void *out)
{
    struct values v    = {.message = read_text(t->body), .field = (uint32_t)t->spelled};
    size_t        size = dinov_dtype_size(t->dtype);
    uint64_t      value;
    for (uint64_t i = 0; i < t->count && next_value(&v, &value); i++) put_value((uint8_t *)out + i * size, size, value);
}

static int64_t integer_at(const uint8_t *p, dinov_dtype dtype)
{
    switch (dtype) {
    case DINOV_I64:
        return (int64_t)dinov_le64(p);
    case DINOV_I32:
        return (int32_t)dinov_le32(p);
    default:
        return 0;
    }
}

bool dinov_onnx_tail(const dinov_onnx_tensor *t, int64_t *out, int most, int *count)
{
    bool     whole = t->count <= (uint64_t)most;
    uint64_t from  = whole ? 0 : t->count - (uint64_t)most;
    *count         = 0;
    if (t->dtype != DINOV_I64 && t->dtype != DINOV_I32) return false;
    if (t->data) {
        size_t size = dinov_dtype_size(t->dtype);
        for (uint64_t i = from; i < t->count; i++) out[(*count)++] = integer_at(t->data + i * size, t->dtype);
        return whole;
    }
    struct values v = {.message = read_text(t->body), .field = (uint32_t)t->spelled};
    uint64_t      value;
    for (uint64_t i = 0; i < t->count && next_value(&v, &value); i++)
        if (i >= from) out[(*count)++] = t->dtype == DINOV_I32 ? (int32_t)(uint32_t)value : (int64_t)value;
    return whole;
}

/* ---- Attributes: a node's bytes have been walked once, so what is found is sound ---- */

/* The last field `number` of the attribute `name`. */
static bool find_attribute(const dinov_onnx_node *node, const char *name, uint32_t number, dinov_pb_field *out,
                           dinov_onnx_text *body)
{
    dinov_cursor   c = read_text(node->body);
    dinov_pb_field f, g;
    while (dinov_pb_next(&c, &f)) {
        if (f.number != NODE_ATTRIBUTE) continue;
        dinov_cursor a     = dinov_pb_message(&f);
        bool         named = false, found = false;
        while (dinov_pb_next(&a, &g)) {
            if (g.number == ATTR_NAME && g.wire == DINOV_PB_BYTES) named = dinov_onnx_is(text_of(&g), name);
            if (g.number == number) *out = g, found = true;
        }
        if (named) {
            *body = text_of(&f);
            return found;
        }
    }
    return false;
}

int64_t dinov_onnx_int(const dinov_onnx_node *node, const char *name, int64_t other)
{
    dinov_pb_field  f;
    dinov_onnx_text body;
    return find_attribute(node, name, ATTR_I, &f, &body) && f.wire == DINOV_PB_VARINT ? (int64_t)f.value : other;
}

float dinov_onnx_float(const dinov_onnx_node *node, const char *name, float other)
{
    dinov_pb_field  f;
    dinov_onnx_text body;
    return find_attribute(node, name, ATTR_F, &f, &body) && f.wire == DINOV_PB_FIXED32 ? dinov_float_of((uint32_t)f.value) : other;
}

dinov_onnx_text dinov_onnx_string(const dinov_onnx_node *node, const char *name)
{
    dinov_pb_field  f;
    dinov_onnx_text body;
    return find_attribute(node, name, ATTR_S, &f, &body) && f.wire == DINOV_PB_BYTES ? text_of(&f) : (dinov_onnx_text){"", 0};
}

int dinov_onnx_ints(const dinov_onnx_node *node, const char *name, int64_t *out, int most)
{
    dinov_pb_field  f;
    dinov_onnx_text body;
    uint64_t        value;
    int             count = 0;
    if (!find_attribute(node, name, ATTR_INTS, &f, &body)) return -1;
    struct values v = {.message = read_text(body), .field = ATTR_INTS};
    while (count < INT32_MAX && next_value(&v, &value)) {
        if (count < most) out[count] = (int64_t)value;
        count++;
    }
    return count;
}

bool dinov_onnx_attribute_tensor(const dinov_onnx_node *node, const char *name, dinov_onnx_tensor *out)
{
    dinov_pb_field  f;
    dinov_onnx_text body;
    dinov_onnx      quiet = {.where = ""};
    dinov_files     none  = {.folder = -1, .where = ""};
    if (find_attribute(node, name, ATTR_F, &f, &body) && f.wire == DINOV_PB_FIXED32) {
        *out = (dinov_onnx_tensor){.dtype = DINOV_F32, .count = 1, .data = f.data};
        return true;
    }
    if (!find_attribute(node, name, ATTR_T, &f, &body) || f.wire != DINOV_PB_BYTES) return false;
    *out = (dinov_onnx_tensor){.body = text_of(&f)};
    return take_tensor(&quiet, out, &none, NULL) == DINOV_OK;
}

/* ---- The graph ---- */

struct counts {
    size_t nodes, tensors, inputs, slots;
};

/* Nodes, and inputs and outputs of each, so that room is made once. */
static dinov_status count_node(dinov_onnx *m, struct counts *n, dinov_cursor c, dinov_error *err)
{
    dinov_pb_field f, g;
    while (dinov_pb_next(&c, &f)) {
        bool name = f.number == NODE_INPUT || f.number == NODE_OUTPUT;
        n->slots += name;
        if ((name || f.number == NODE_NAME || f.number == NODE_OP || f.number == NODE_DOMAIN || f.number == NODE_ATTRIBUTE) &&
            f.wire != DINOV_PB_BYTES)
            return damaged(m, "a node", err);
        if (name && f.size > DINOV_ONNX_NAME) return limit(m, "bytes in a name", DINOV_ONNX_NAME, err);
        dinov_cursor a = dinov_pb_message(&f);
        if (f.number == NODE_ATTRIBUTE)
            while (dinov_pb_next(&a, &g))
                ;
        if (a.failed) return damaged(m, "an attribute", err);
    }
    return c.failed ? damaged(m, "a node", err) : DINOV_OK;
}

static dinov_status count_graph(dinov_onnx *m, struct counts *n, dinov_cursor c, dinov_error *err)
{
    dinov_pb_field f;
    while (dinov_pb_next(&c, &f)) {
        if (f.number > GRAPH_SPARSE || f.wire != DINOV_PB_BYTES) continue;
        n->nodes += f.number == GRAPH_NODE;
        n->tensors += f.number == GRAPH_INITIALIZER;
        n->inputs += f.number == GRAPH_INPUT;
        if (n->nodes > DINOV_ONNX_NODES) return limit(m, "nodes", DINOV_ONNX_NODES, err);
        if (n->tensors > DINOV_ONNX_TENSORS) return limit(m, "initializers", DINOV_ONNX_TENSORS, err);
        if (n->inputs > DINOV_ONNX_TENSORS) return limit(m, "inputs", DINOV_ONNX_TENSORS, err);
        if (f.number == GRAPH_NODE) DINOV_TRY(count_node(m, n, dinov_pb_message(&f), err));
        if (n->slots > DINOV_ONNX_NAMES) return limit(m, "names in all nodes", DINOV_ONNX_NAMES, err);
    }
    return c.failed ? damaged(m, "the graph", err) : DINOV_OK;
}

/* A name where it stands; all of them are sorted, and equal ones become one value. */
struct mention {
    dinov_onnx_text name;
    uint32_t        at; /* slot, or behind them initializer, or behind them input */
};

static int by_name(const void *a, const void *b)
{
    const struct mention *x = a, *y = b;
    size_t                n = x->name.size < y->name.size ? x->name.size : y->name.size;
    int                   c = n ? memcmp(x->name.data, y->name.data, n) : 0;
    if (c) return c;
    if (x->name.size != y->name.size) return x->name.size < y->name.size ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static bool same_name(dinov_onnx_text a, dinov_onnx_text b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Room was made for what was counted; someone may have written to the file meanwhile. */
static bool take_node(dinov_onnx *m, const struct counts *n, const dinov_pb_field *message, struct mention *mentions)
{
    if (m->node_count == n->nodes) return false;
    dinov_onnx_node *node = &m->nodes[m->node_count++];
    *node                 = (dinov_onnx_node){.name = {"", 0}, .op = {"", 0}, .domain = {"", 0}, .body = text_of(message)};
    for (int outputs = 0; outputs < 2; outputs++) {
        dinov_cursor   c = dinov_pb_message(message);
        dinov_pb_field f;
        *(outputs ? &node->first_out : &node->first_in) = (uint32_t)m->slot_count;
        while (dinov_pb_next(&c, &f)) {
            if (f.number == NODE_NAME) node->name = text_of(&f);
            if (f.number == NODE_OP) node->op = text_of(&f);
            if (f.number == NODE_DOMAIN) node->domain = text_of(&f);
            if (f.number != (outputs ? NODE_OUTPUT : NODE_INPUT)) continue;
            if (m->slot_count == n->slots) return false;
            mentions[m->slot_count] = (struct mention){text_of(&f), (uint32_t)m->slot_count};
            m->slot_count++;
            *(outputs ? &node->outs : &node->ins) += 1;
        }
    }
    if (dinov_onnx_is(node->domain, "ai.onnx")) node->domain.size = 0;
    return true;
}

static dinov_status take_input(dinov_onnx *m, dinov_cursor c, dinov_onnx_text *name, dinov_error *err)
{
    dinov_pb_field f;
    *name = (dinov_onnx_text){"", 0};
    while (dinov_pb_next(&c, &f))
        if (f.number == 1 && f.wire == DINOV_PB_BYTES) *name = text_of(&f);
    return c.failed ? damaged(m, "an input", err) : DINOV_OK;
}

static dinov_status take_graph(dinov_onnx *m, const struct counts *n, dinov_cursor c, struct mention *mentions, dinov_files *files,
                               dinov_error *err)
{
    size_t         input = n->slots + n->tensors, end = input + n->inputs;
    dinov_pb_field f;
    while (dinov_pb_next(&c, &f)) {
        if (f.wire != DINOV_PB_BYTES) continue;
        if (f.number == GRAPH_NODE && !take_node(m, n, &f, mentions)) return damaged(m, "the graph", err);
        if (f.number == GRAPH_INITIALIZER) {
            if (m->tensor_count == n->tensors) return damaged(m, "the graph", err);
            dinov_onnx_tensor *t = &m->tensors[m->tensor_count];
            *t                   = (dinov_onnx_tensor){.name = {"", 0}, .body = text_of(&f)};
            DINOV_TRY(take_tensor(m, t, files, err));
            mentions[n->slots + m->tensor_count] = (struct mention){t->name, (uint32_t)(n->slots + m->tensor_count)};
            m->tensor_count++;
        }
        if (f.number == GRAPH_INPUT) {
            if (input == end) return damaged(m, "the graph", err);
            mentions[input].at = (uint32_t)input;
            DINOV_TRY(take_input(m, dinov_pb_message(&f), &mentions[input].name, err));
            input++;
        }
    }
    return m->node_count == n->nodes && m->slot_count == n->slots && m->tensor_count == n->tensors && input == end
               ? DINOV_OK
               : damaged(m, "the graph", err);
}

static dinov_status bad_name(const dinov_onnx *m, dinov_onnx_text name, const char *what, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_FORMAT, "ONNX-NAME", "%s: the value \"%s\" of this ONNX model %s; run onnx.checker on it",
                      m->where, dinov_escape(text, sizeof text, name.data, name.size), what);
}

/* Numbers for names. An initializer may also be listed as an input, as old files do; nothing else is made twice. */
static dinov_status number_values(dinov_onnx *m, const struct counts *n, struct mention *mentions, dinov_error *err)
{
    size_t total = n->slots + n->tensors + n->inputs;
    qsort(mentions, total, sizeof *mentions, by_name);
    for (size_t i = 0; i < total; i++) {
        const struct mention *x = &mentions[i];
        if (x->name.size == 0) {
            if (x->at < n->slots) m->slots[x->at] = DINOV_ONNX_NONE;
            continue;
        }
        bool fresh = i == 0 || !same_name(x->name, mentions[i - 1].name);
        if (fresh) m->values[m->value_count++] = (dinov_onnx_value){x->name, DINOV_ONNX_NONE, DINOV_ONNX_NONE, 0, false};
        dinov_onnx_value *v = &m->values[m->value_count - 1];
        if (x->at < n->slots) {
            m->slots[x->at] = (int32_t)m->value_count - 1;
        } else if (x->at < n->slots + n->tensors) {
            if (v->tensor != DINOV_ONNX_NONE) return bad_name(m, x->name, "is stored twice", err);
            v->tensor = (int32_t)(x->at - n->slots);
        } else {
            v->input = true;
        }
    }
    return DINOV_OK;
}

/* Each value is made once, by a node, an initializer or the graph's caller. */
static dinov_status find_makers(dinov_onnx *m, dinov_error *err)
{
    for (size_t i = 0; i < m->node_count; i++)
        for (uint32_t k = 0; k < m->nodes[i].outs; k++) {
            int32_t at = dinov_onnx_out(m, (int32_t)i, k);
            if (at == DINOV_ONNX_NONE) continue;
            dinov_onnx_value *v = &m->values[at];
            if (v->node != DINOV_ONNX_NONE || v->tensor != DINOV_ONNX_NONE || v->input)
                return bad_name(m, v->name, "is made twice", err);
            v->node   = (int32_t)i;
            v->output = k;
        }
    for (size_t i = 0; i < m->node_count; i++)
        for (uint32_t k = 0; k < m->nodes[i].ins; k++) {
            int32_t at = dinov_onnx_in(m, (int32_t)i, k);
            if (at == DINOV_ONNX_NONE) continue;
            const dinov_onnx_value *v = &m->values[at];
            if (v->node == DINOV_ONNX_NONE && v->tensor == DINOV_ONNX_NONE && !v->input)
                return bad_name(m, v->name, "is used and nothing makes it", err);
        }
    return DINOV_OK;
}

static dinov_status find_graph(dinov_onnx *m, dinov_cursor c, dinov_pb_field *graph, dinov_error *err)
{
    dinov_pb_field f, g;
    *graph = (dinov_pb_field){0};
    while (dinov_pb_next(&c, &f)) {
        if (f.wire != DINOV_PB_BYTES) continue;
        if (f.number == MODEL_FUNCTIONS) m->functions++;
        if (f.number == MODEL_GRAPH) {
            if (graph->data) return damaged(m, "the second graph", err);
            *graph = f;
        }
        if (f.number == MODEL_METADATA) {
            dinov_cursor    e   = dinov_pb_message(&f);
            dinov_onnx_text key = {0}, value = {0};
            while (dinov_pb_next(&e, &g)) {
                if (g.number == ENTRY_KEY && g.wire == DINOV_PB_BYTES) key = text_of(&g);
                if (g.number == ENTRY_VALUE && g.wire == DINOV_PB_BYTES) value = text_of(&g);
            }
            if (e.failed) return damaged(m, "the metadata", err);
            if (dinov_onnx_is(key, "dinov")) m->document = value;
        }
    }
    return c.failed || !graph->data ? damaged(m, c.failed ? "the outermost message" : "the absent graph", err) : DINOV_OK;
}

static dinov_status read_graph(dinov_onnx *m, const dinov_pb_field *graph, dinov_files *files, dinov_error *err)
{
    struct counts n = {0};
    DINOV_TRY(count_graph(m, &n, dinov_pb_message(graph), err));
    size_t          total    = n.slots + n.tensors + n.inputs;
    struct mention *mentions = dinov_alloc(total, sizeof *mentions);
    m->nodes                 = dinov_alloc(n.nodes, sizeof *m->nodes);
    m->tensors               = dinov_alloc(n.tensors, sizeof *m->tensors);
    m->slots                 = dinov_alloc(n.slots, sizeof *m->slots);
    m->values                = dinov_alloc(total, sizeof *m->values);
    dinov_status status      = mentions && m->nodes && m->tensors && m->slots && m->values
                                   ? take_graph(m, &n, dinov_pb_message(graph), mentions, files, err)
                                   : dinov_fail_nomem(err, m->where, "the graph");
    if (status == DINOV_OK) status = number_values(m, &n, mentions, err);
    dinov_free(mentions);
    if (status == DINOV_OK) status = find_makers(m, err);
    return status == DINOV_OK ? dinov_onnx_order(m, err) : status;
}

dinov_status dinov_onnx_open(dinov_onnx *out, dinov_files *files, const void *data, size_t size, const char *where,
                             dinov_error *err)
{
    dinov_pb_field graph;
    *out = (dinov_onnx){.where = where, .bytes = size};
    DINOV_TRY(find_graph(out, dinov_cursor_make(data, size), &graph, err));
    DINOV_TRY(read_graph(out, &graph, files, err));
    for (size_t i = 0; i < files->count; i++) out->bytes += files->items[i].map.size;
    return DINOV_OK;
}

void dinov_onnx_close(dinov_onnx *m)
{
    dinov_free(m->nodes);
    dinov_free(m->tensors);
    dinov_free(m->slots);
    dinov_free(m->values);
    *m = (dinov_onnx){0};
}

int32_t dinov_onnx_in(const dinov_onnx *m, int32_t node, uint32_t i)
{
    return node != DINOV_ONNX_NONE && i < m->nodes[node].ins ? m->slots[m->nodes[node].first_in + i] : DINOV_ONNX_NONE;
}

int32_t dinov_onnx_out(const dinov_onnx *m, int32_t node, uint32_t i)
{
    return node != DINOV_ONNX_NONE && i < m->nodes[node].outs ? m->slots[m->nodes[node].first_out + i] : DINOV_ONNX_NONE;
}

int32_t dinov_onnx_maker(const dinov_onnx *m, int32_t value)
{
    return value == DINOV_ONNX_NONE ? DINOV_ONNX_NONE : m->values[value].node;
}
