/* SPDX-License-Identifier: Apache-2.0
 *
 * The message is written from the outside in: sizes are known from the descriptions of the weights, so that only one
 * tensor is ever in memory.
 */
#include "convert/onnx/write.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/hash.h"
#include "format/document.h"

#include <stdio.h>
#include <string.h>

enum {
    MAX_MESSAGE = 0x7fffffff, /* protobuf's own */
    SMALL       = 1024,       /* bytes of a tensor that stays in the model */
    ALIGN       = 4096,       /* ExternalData: so that readers can map */

    /* Keys of length-delimited fields (ONNX's schema). */
    GRAPH_OF_MODEL       = 7 << 3 | 2,
    INITIALIZER_OF_GRAPH = 5 << 3 | 2,
    RAW_DATA_OF_TENSOR   = 9 << 3 | 2,
};

struct writer {
    const char        *path, *where;
    dinov_onnx_graph   graph;
    dinov_out         *out, *data;
    Onnx__TensorProto *tensors;  /* one of each weight, without its bytes */
    uint64_t          *offsets;  /* in the data file; UINT64_MAX: within the model */
    char              *location; /* NULL: no data file */
    dinov_text         document;
};

static size_t varint_size(uint64_t value)
{
    size_t n = 1;
    while (value >>= 7) n++;
    return n;
}

static dinov_status put_varint(struct writer *w, uint64_t value, dinov_error *err)
{
    uint8_t bytes[10];
    size_t  n = 0;
    do {
        bytes[n] = (uint8_t)(value & 127);
        value >>= 7;
        if (value) bytes[n] |= 128;
        n++;
    } while (value);
    return dinov_out_write(w->out, bytes, n, err);
}

static dinov_status put_message(struct writer *w, const ProtobufCMessage *message, dinov_error *err)
{
    size_t   size  = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = dinov_alloc(size, 1);
    if (!bytes) return dinov_fail_nomem(err, w->where, "a part of the model");
    protobuf_c_message_pack(message, bytes);
    dinov_status status = dinov_out_write(w->out, bytes, size, err);
    dinov_free(bytes);
    return status;
}

/* ---- Tensors ---- */

static bool inside(const struct writer *w, size_t i) { return w->offsets[i] == UINT64_MAX; }

static uint64_t tensor_size(const struct writer *w, size_t i)
{
    uint64_t size = protobuf_c_message_get_packed_size(&w->tensors[i].base), raw = dinov_onnx_weight_size(&w->graph.weights[i]);
    return inside(w, i) ? size + 1 + varint_size(raw) + raw : size;
}

static dinov_status put_tensor(struct writer *w, size_t i, void *buffer, dinov_error *err)
{
    const dinov_onnx_weight *weight = &w->graph.weights[i];
    uint64_t                 raw    = dinov_onnx_weight_size(weight);
    DINOV_TRY(put_varint(w, INITIALIZER_OF_GRAPH, err));
    DINOV_TRY(put_varint(w, tensor_size(w, i), err));
    DINOV_TRY(put_message(w, &w->tensors[i].base, err));
    if (!inside(w, i)) return DINOV_OK;
    DINOV_TRY(put_varint(w, RAW_DATA_OF_TENSOR, err));
    DINOV_TRY(put_varint(w, raw, err));
    dinov_onnx_weight_fill(weight, buffer);
    return dinov_out_write(w->out, buffer, raw, err);
}

static Onnx__StringStringEntryProto *entry(dinov_onnx_graph *g, const char *key, const char *value)
{
    Onnx__StringStringEntryProto *e = dinov_onnx_take(g, sizeof *e);
    if (!e) return NULL;
    onnx__string_string_entry_proto__init(e);
    e->key   = dinov_onnx_print(g, "%s", key);
    e->value = dinov_onnx_print(g, "%s", value);
    return e;
}

/* Where the data of a tensor lie. */
static void point_outside(struct writer *w, size_t i)
{
    dinov_onnx_graph              *g      = &w->graph;
    Onnx__TensorProto             *t      = &w->tensors[i];
    Onnx__StringStringEntryProto **list   = dinov_onnx_take(g, 3 * sizeof *list);
    char                          *offset = dinov_onnx_print(g, "%llu", (unsigned long long)w->offsets[i]);
    char                          *length = dinov_onnx_print(g, "%llu", (unsigned long long)dinov_onnx_weight_size(&g->weights[i]));
    if (g->failed) return;
    list[0]              = entry(g, "location", w->location);
    list[1]              = entry(g, "offset", offset);
    list[2]              = entry(g, "length", length);
    t->external_data     = list;
    t->n_external_data   = 3;
    t->has_data_location = 1;
    t->data_location     = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
}

static dinov_status describe_tensors(struct writer *w, dinov_error *err)
{
    dinov_onnx_graph *g  = &w->graph;
    uint64_t          at = 0;
    w->tensors           = dinov_calloc(g->weight_count, sizeof *w->tensors);
    w->offsets           = dinov_calloc(g->weight_count, sizeof *w->offsets);
    if (!w->tensors || !w->offsets) return dinov_fail_nomem(err, w->where, "the list of weights");
    for (size_t i = 0; i < g->weight_count; i++) {
        const dinov_onnx_weight *weight = &g->weights[i];
        uint64_t                 bytes  = dinov_onnx_weight_size(weight);
        Onnx__TensorProto       *t      = &w->tensors[i];
        onnx__tensor_proto__init(t);
        t->name          = (char *)(uintptr_t)weight->name;
        t->has_data_type = 1;
        t->data_type     = dinov_onnx_type(weight->dtype);
        t->n_dims        = (size_t)weight->rank;
        t->dims          = (int64_t *)(uintptr_t)weight->dim;
        w->offsets[i]    = UINT64_MAX;
        if (!w->location || bytes < SMALL) continue;
        at            = (at + ALIGN - 1) / ALIGN * ALIGN;
        w->offsets[i] = at;
        at += bytes;
        point_outside(w, i);
    }
    return g->failed ? dinov_fail_nomem(err, w->where, "the list of weights") : DINOV_OK;
}

/* The size of the whole graph as a message. */
static uint64_t graph_size(const struct writer *w)
{
    uint64_t size = protobuf_c_message_get_packed_size(&w->graph.proto.base);
    for (size_t i = 0; i < w->graph.weight_count; i++) {
        uint64_t tensor = tensor_size(w, i);
        size += 1 + varint_size(tensor) + tensor;
    }
    return size;
}

/* ---- The model ---- */

/* The lowest version of the file format that has the opset (ONNX docs/Versioning.md). */
static int ir_version(int opset) { return opset <= 18 ? 8 : opset <= 20 ? 9 : opset <= 22 ? 10 : 11; }

static dinov_status build_document(struct writer *w, const dinov_weights *weights, const dinov_onnx_file *file, dinov_error *err)
{
    dinov_document doc = {.model = weights->model, .preprocess = weights->preprocess, .provenance = *file->provenance};
    if (file->proof) doc.proof = *file->proof;
    snprintf(doc.content_id, sizeof doc.content_id, "%s", file->content_id);
    DINOV_TRY(dinov_document_check(&doc, w->where, err));
    dinov_document_build(&w->document, &doc);
    return w->document.failed ? dinov_fail_nomem(err, w->where, "its metadata") : DINOV_OK;
}

static dinov_status put_model(struct writer *w, const dinov_onnx_options *o, dinov_error *err)
{
    Onnx__ModelProto             model = ONNX__MODEL_PROTO__INIT;
    Onnx__OperatorSetIdProto     own = ONNX__OPERATOR_SET_ID_PROTO__INIT, ort = ONNX__OPERATOR_SET_ID_PROTO__INIT;
    Onnx__OperatorSetIdProto    *sets[] = {&own, &ort};
    Onnx__StringStringEntryProto about = ONNX__STRING_STRING_ENTRY_PROTO__INIT, *props[] = {&about};
    static char producer[] = "dinov", version[] = DINOV_VERSION_STRING, key[] = "dinov", none[] = "", microsoft[] = "com.microsoft";

    model.has_ir_version   = 1;
    model.ir_version       = ir_version(o->opset);
    model.producer_name    = producer;
    model.producer_version = version;
    own.domain             = none;
    own.has_version        = 1;
    own.version            = o->opset;
    ort.domain             = microsoft;
    ort.has_version        = 1;
    ort.version            = 1;
    model.opset_import     = sets;
    model.n_opset_import   = o->fuse ? 2 : 1;
    about.key              = key;
    about.value            = w->document.data;
    model.metadata_props   = props;
    model.n_metadata_props = 1;
    DINOV_TRY(put_message(w, &model.base, err));
    DINOV_TRY(put_varint(w, GRAPH_OF_MODEL, err));
    DINOV_TRY(put_varint(w, graph_size(w), err));
    return put_message(w, &w->graph.proto.base, err);
}

static dinov_status put_data(struct writer *w, size_t i, void *buffer, dinov_error *err)
{
    static const uint8_t zeros[ALIGN];
    uint64_t             gap = w->offsets[i] - dinov_out_size(w->data);
    DINOV_TRY(dinov_out_write(w->data, zeros, (size_t)gap, err));
    dinov_onnx_weight_fill(&w->graph.weights[i], buffer);
    return dinov_out_write(w->data, buffer, dinov_onnx_weight_size(&w->graph.weights[i]), err);
}

static dinov_status put_all(struct writer *w, const dinov_onnx_options *o, bool overwrite, dinov_error *err)
{
    uint64_t largest = 0;
    for (size_t i = 0; i < w->graph.weight_count; i++) {
        uint64_t bytes = dinov_onnx_weight_size(&w->graph.weights[i]);
        if (bytes > largest) largest = bytes;
    }
    void        *buffer = dinov_alloc_aligned(largest, 1);
    dinov_status status = buffer ? DINOV_OK : dinov_fail_nomem(err, w->where, "its largest tensor");
    if (status == DINOV_OK) status = dinov_out_open(&w->out, w->path, overwrite, err);
    if (status == DINOV_OK) status = put_model(w, o, err);
    for (size_t i = 0; i < w->graph.weight_count && status == DINOV_OK; i++) {
        status = put_tensor(w, i, buffer, err);
        if (status == DINOV_OK && !inside(w, i)) status = put_data(w, i, buffer, err);
    }
    dinov_free(buffer);
    return status;
}

/* ---- The file beside it ---- */

/* "vits14-1a2b3c4d.data" for "folder/vits14.onnx": other content has another name, so that no model ever meets data that
 * are not its own. */
static char *data_name(struct writer *w, const dinov_onnx_options *o, const char *content_id)
{
    const char  *slash = strrchr(w->path, '/'), *base = slash ? slash + 1 : w->path, *dot = strrchr(base, '.');
    int          size = dot && dot != base ? (int)(dot - base) : (int)strlen(base);
    char         hex[DINOV_SHA_HEX + 1], what[160];
    dinov_sha256 sha;
    snprintf(what, sizeof what, "%s %s %d %d %s", content_id, dinov_dtype_name(o->dtype), o->fuse, o->hf_names,
             DINOV_VERSION_STRING);
    if (dinov_sha256_init(&sha, NULL) != DINOV_OK) return NULL;
    dinov_sha256_add(&sha, what, strlen(what));
    dinov_sha256_done(&sha, hex);
    return dinov_onnx_print(&w->graph, "%.*s-%.8s.data", size, base, hex);
}

static dinov_status open_data(struct writer *w, bool overwrite, dinov_error *err)
{
    const char *slash  = strrchr(w->path, '/');
    int         folder = slash ? (int)(slash + 1 - w->path) : 0;
    char       *path   = dinov_onnx_print(&w->graph, "%.*s%s", folder, w->path, w->location);
    if (!path) return dinov_fail_nomem(err, w->where, "the name of its data");
    return dinov_out_open(&w->data, path, overwrite, err);
}

static void clear(struct writer *w)
{
    dinov_out_abort(&w->out);
    dinov_out_abort(&w->data);
    dinov_text_clear(&w->document);
    dinov_free(w->tensors);
    dinov_free(w->offsets);
    dinov_onnx_graph_clear(&w->graph);
}

static dinov_status write_parts(struct writer *w, const dinov_weights *weights, const dinov_onnx_options *o,
                                const dinov_onnx_file *file, dinov_error *err)
{
    uint64_t total = 1 << 20;
    DINOV_TRY(build_document(w, weights, file, err));
    DINOV_TRY(dinov_onnx_vit(&w->graph, weights, o, err));
    for (size_t i = 0; i < w->graph.weight_count; i++) total += dinov_onnx_weight_size(&w->graph.weights[i]) + 256;
    total += w->document.size + protobuf_c_message_get_packed_size(&w->graph.proto.base);
    if (file->external || total > MAX_MESSAGE) {
        w->location = data_name(w, o, file->content_id);
        if (!w->location) return dinov_fail_nomem(err, w->where, "the name of its data");
        DINOV_TRY(open_data(w, file->overwrite, err));
    }
    DINOV_TRY(describe_tensors(w, err));
    DINOV_TRY(put_all(w, o, file->overwrite, err));
    if (w->data) DINOV_TRY(dinov_out_commit(&w->data, err));
    return dinov_out_commit(&w->out, err);
}

dinov_status dinov_onnx_write(const char *path, const dinov_weights *weights, const dinov_onnx_options *options,
                              const dinov_onnx_file *file, dinov_error *err)
{
    char          where[DINOV_ESCAPED];
    struct writer w = {.path = path, .where = dinov_escape(where, sizeof where, path, strlen(path))};
    dinov_onnx_graph_init(&w.graph);
    dinov_status status = write_parts(&w, weights, options, file, err);
    clear(&w);
    return status;
}
