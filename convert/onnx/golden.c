/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/golden.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/folder.h"
#include "base/text.h"
#include "format/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, DEFAULT_PATCHES = 16, MAX_EXPORT = 1 << 29, MAX_OWN = 1 << 20 };

/* ---- Writing ---- */

struct golden {
    const char     *folder, *graph;
    dinov_onnx_case c;
    int64_t         batch;
    dinov_text      about, lines;
};

static dinov_status join(char out[PATH], const char *folder, const char *name, dinov_error *err)
{
    int size = snprintf(out, PATH, "%s/%s", folder, name);
    return size < PATH ? DINOV_OK : dinov_fail(err, DINOV_ERR_CONFIG, "GOLDEN-FOLDER", "%s: expected a shorter path", folder);
}

/* `times` copies of the bytes. */
static dinov_status write_file(const char *folder, const char *name, const void *bytes, size_t size, int64_t times,
                               dinov_error *err)
{
    char       path[PATH];
    dinov_out *out = NULL;
    DINOV_TRY(join(path, folder, name, err));
    dinov_status status = dinov_out_open(&out, path, 0, err);
    for (int64_t i = 0; i < times && status == DINOV_OK; i++) status = dinov_out_write(out, bytes, size, err);
    if (status == DINOV_OK) return dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    return status;
}

static void put_port(dinov_text *t, const char *name, const char *type, int rank, const int64_t *dim)
{
    dinov_json_put_string(t, "{\"name\":", name);
    dinov_json_put_string(t, ",\"type\":", type);
    dinov_text_puts(t, ",\"shape\":[");
    for (int i = 0; i < rank; i++) dinov_json_put_int(t, i ? "," : "", dim[i]);
    dinov_text_puts(t, "]}");
}

static dinov_status write_input(struct golden *g, const char *name, const int64_t dim[4], dinov_error *err)
{
    const dinov_onnx_case *c     = &g->c;
    size_t                 count = (size_t)(c->model->channels * c->height * c->width);
    char                   file[32];
    snprintf(file, sizeof file, "%s.bin", name);
    put_port(&g->about, name, c->bytes ? "u8" : "f32", 4, dim);
    return write_file(g->folder, file, c->bytes ? (const void *)c->bytes : c->pixels, c->bytes ? count : count * sizeof(float),
                      g->batch, err);
}

static dinov_status write_outputs(struct golden *g, dinov_error *err)
{
    const dinov_onnx_options *o = g->c.options;
    for (size_t i = 0; i < dinov_onnx_feature_count(o); i++) {
        dinov_onnx_feature port;
        int64_t            rows;
        char               file[32];
        dinov_onnx_feature_at(&port, o, g->c.model, i);
        const float  *values  = dinov_onnx_case_rows(&g->c, &port, &rows);
        const int64_t dim3[3] = {g->batch, rows, g->c.model->dim}, dim2[2] = {g->batch, g->c.model->dim};
        bool          flat = port.kind == DINOV_ONNX_CLS;
        snprintf(file, sizeof file, "%s.bin", port.name);
        DINOV_TRY(write_file(g->folder, file, values, (size_t)(rows * g->c.model->dim) * sizeof *values, g->batch, err));
        if (i) dinov_text_puts(&g->about, ",");
        put_port(&g->about, port.name, "f32", flat ? 2 : 3, flat ? dim2 : dim3);
    }
    return DINOV_OK;
}

static void put_shape(dinov_text *t, const char *before, const char *name, const int64_t dim[4])
{
    dinov_text_puts(t, before);
    dinov_text_puts(t, name);
    for (int i = 0; i < 4; i++) {
        dinov_text_puts(t, i ? "x" : ":");
        dinov_text_int(t, dim[i]);
    }
}

/* The lines for one shell, run in the folder. Precision lives in the graph: --stronglyTyped asks TensorRT 10 for what 11
 * always does. */
static void put_lines(struct golden *g, const char *input, const int64_t dim[4])
{
    const dinov_onnx_options *o          = g->c.options;
    dinov_text               *t          = &g->lines;
    const char               *slash      = strrchr(g->graph, '/');
    bool                      open_ended = !o->batch || !o->height;
    for (int version = 10; version <= 11; version++) {
        dinov_text_puts(t, version == 10 ? "# Run in this folder, the model one level up. TensorRT 10:\n"
                                         : "\n# TensorRT 11, whose networks are always strongly typed:\n");
        dinov_text_puts(t, "trtexec --onnx=../");
        dinov_text_puts(t, slash ? slash + 1 : g->graph);
        if (version == 10) dinov_text_puts(t, " --stronglyTyped");
        if (o->dtype == DINOV_F32) dinov_text_puts(t, " --noTF32"); /* which keeps 10 bits of f32's 23 */
        if (open_ended) {
            put_shape(t, " --minShapes=", input, dim);
            put_shape(t, " --optShapes=", input, dim);
            put_shape(t, " --maxShapes=", input, dim);
        }
        dinov_text_puts(t, " --saveEngine=model.plan --skipInference\ntrtexec --loadEngine=model.plan");
        if (open_ended) put_shape(t, " --shapes=", input, dim);
        dinov_text_puts(t, " --loadInputs=");
        dinov_text_puts(t, input);
        dinov_text_puts(t, ":");
        dinov_text_puts(t, input);
        dinov_text_puts(t, ".bin --exportOutput=trt.json\ndinov-ckpt diff . trt.json\n");
    }
}

static dinov_status write_all(struct golden *g, const char *content_id, dinov_error *err)
{
    const dinov_onnx_case    *c         = &g->c;
    const dinov_onnx_options *o         = c->options;
    const int64_t             planes[4] = {g->batch, c->model->channels, c->height, c->width};
    const int64_t             pixels[4] = {g->batch, c->height, c->width, c->model->channels};
    const int64_t            *dim       = o->preprocess ? pixels : planes;
    const char               *input     = o->hf_names ? "pixel_values" : "image";

    dinov_json_put_string(&g->about, "{\"content_id\":", content_id);
    dinov_json_put_string(&g->about, ",\"dtype\":", dinov_dtype_name(o->dtype));
    dinov_text_puts(&g->about, ",\"input\":");
    DINOV_TRY(write_input(g, input, dim, err));
    dinov_text_puts(&g->about, ",\"outputs\":[");
    DINOV_TRY(write_outputs(g, err));
    dinov_text_puts(&g->about, "]}\n");
    put_lines(g, input, dim);
    if (g->about.failed || g->lines.failed) return dinov_fail_nomem(err, g->folder, "its description");
    DINOV_TRY(write_file(g->folder, "trtexec.txt", g->lines.data, g->lines.size, 1, err));
    return write_file(g->folder, DINOV_ONNX_GOLDEN, g->about.data, g->about.size, 1, err);
}

static bool replaces_nothing(const char *name)
{
    (void)name;
    return false;
}

dinov_status dinov_onnx_golden_write(const char *path, const char *graph, dinov_engine *engine, const dinov_onnx_options *o,
                                     const char *content_id, dinov_error *err)
{
    int64_t           side = DEFAULT_PATCHES * dinov_engine_model(engine)->patch;
    struct golden     g    = {.graph = graph, .batch = o->batch ? o->batch : 1};
    dinov_new_folder *out  = NULL;
    DINOV_TRY(dinov_new_folder_open(&out, path, replaces_nothing, err));
    g.folder            = dinov_new_folder_path(out);
    dinov_status status = dinov_onnx_case_open(&g.c, engine, o, o->height ? o->height : side, o->width ? o->width : side, err);
    if (status == DINOV_OK) status = write_all(&g, content_id, err);
    if (status == DINOV_OK) status = dinov_new_folder_commit(&out, err);
    dinov_new_folder_abort(&out);
    dinov_onnx_case_close(&g.c);
    dinov_text_clear(&g.about);
    dinov_text_clear(&g.lines);
    return status;
}

/* ---- Reading what a runtime exported ---- */

static dinov_status load_json(json_t **out, const char *path, size_t limit, const char *code, dinov_error *err)
{
    char         where[DINOV_ESCAPED];
    void        *bytes;
    size_t       size;
    json_error_t e;
    dinov_escape(where, sizeof where, path, strlen(path));
    DINOV_TRY(dinov_file_read(&bytes, &size, path, limit, err));
    *out = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &e);
    dinov_free(bytes);
    if (*out) return DINOV_OK;
    char text[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: expected JSON, found at line %d: %s", where, e.line,
                      dinov_escape(text, sizeof text, e.text, strlen(e.text)));
}

static const json_t *find_export(const json_t *exported, const char *name)
{
    size_t  i;
    json_t *one;
    json_array_foreach(exported, i, one)
    {
        const char *found = json_string_value(json_object_get(one, "name"));
        if (found && strcmp(found, name) == 0) return json_object_get(one, "values");
    }
    return NULL;
}

static dinov_status compare_output(const char *folder, const json_t *output, const json_t *exported, dinov_dtype dtype,
                                   dinov_agreement *a, const char *where, dinov_error *err)
{
    const char *name  = json_string_value(json_object_get(output, "name"));
    json_t     *shape = json_object_get(output, "shape");
    char        file[PATH], text[DINOV_ESCAPED], base[64];
    dinov_map   map;
    size_t      rank = json_array_size(shape);
    if (!name || strlen(name) > 32 || strchr(name, '/') || rank < 2)
        return dinov_fail(err, DINOV_ERR_FORMAT, "GOLDEN-FOLDER", "%s: golden.json: expected outputs with a name and a shape",
                          folder);
    snprintf(base, sizeof base, "%s.bin", name);
    const json_t *values = find_export(exported, name);
    if (!json_is_array(values))
        return dinov_fail(err, DINOV_ERR_FORMAT, "GOLDEN-EXPORT",
                          "%s: expected the output %s with its values, as trtexec --exportOutput writes them, found none", where,
                          dinov_escape(text, sizeof text, name, strlen(name)));
    DINOV_TRY(join(file, folder, base, err));
    DINOV_TRY(dinov_map_open(&map, file, err));
    size_t       count = json_array_size(values), dim = (size_t)json_integer_value(json_array_get(shape, rank - 1));
    float       *have   = dinov_alloc(count, sizeof *have);
    dinov_status status = have ? DINOV_OK : dinov_fail_nomem(err, where, "its values");
    if (status == DINOV_OK && (dim == 0 || count % dim != 0 || map.size != count * sizeof(float)))
        status = dinov_fail(err, DINOV_ERR_FORMAT, "GOLDEN-EXPORT", "%s: output %s: expected %zu values, found %zu", where, name,
                            map.size / sizeof(float), count);
    for (size_t i = 0; i < count && status == DINOV_OK; i++) have[i] = (float)json_number_value(json_array_get(values, i));
    if (status == DINOV_OK) {
        *a = (dinov_agreement){.output = name, .cosine = 1};
        dinov_agreement_add(a, have, (const float *)(const void *)map.data, (int64_t)(count / dim), (int64_t)dim);
        a->ok = dinov_agreement_allowed(a, dtype);
    }
    dinov_free(have);
    dinov_map_close(&map);
    return status;
}

static dinov_status compare_all(const char *folder, const json_t *own, const json_t *exported, dinov_agreement_note *note,
                                void *arg, const char *where, dinov_error *err)
{
    const char *name  = json_string_value(json_object_get(own, "dtype"));
    dinov_dtype dtype = name ? dinov_dtype_from_name(name) : 0;
    json_t     *shape = json_object_get(json_object_get(own, "input"), "shape"), *outputs = json_object_get(own, "outputs"), *one;
    size_t      i;
    int         bad         = 0;
    bool        pixels_last = json_integer_value(json_array_get(shape, 3)) <= 4;
    if (!dtype || !json_is_array(outputs) || json_array_size(shape) != 4)
        return dinov_fail(err, DINOV_ERR_FORMAT, "GOLDEN-FOLDER", "%s: golden.json: expected dtype, input and outputs", folder);
    if (!json_is_array(exported))
        return dinov_fail(err, DINOV_ERR_FORMAT, "GOLDEN-EXPORT",
                          "%s: expected a list of outputs, as trtexec --exportOutput writes it", where);
    json_array_foreach(outputs, i, one)
    {
        dinov_agreement a;
        DINOV_TRY(compare_output(folder, one, exported, dtype, &a, where, err));
        a.height = json_integer_value(json_array_get(shape, pixels_last ? 1 : 2));
        a.width  = json_integer_value(json_array_get(shape, pixels_last ? 2 : 3));
        bad += !a.ok;
        note(arg, &a);
    }
    return bad == 0 ? DINOV_OK
                    : dinov_fail(err, DINOV_ERR_CORRUPT, "GOLDEN-DIFFERS",
                                 "%s: %d outputs are further from the golden ones than is allowed", where, bad);
}

dinov_status dinov_onnx_golden_compare(const char *path, const char *exported, dinov_agreement_note *note, void *arg,
                                       dinov_error *err)
{
    char         file[PATH], where[DINOV_ESCAPED];
    json_t      *own = NULL, *other = NULL;
    dinov_status status = join(file, path, DINOV_ONNX_GOLDEN, err);
    if (status == DINOV_OK) status = load_json(&own, file, MAX_OWN, "GOLDEN-FOLDER", err);
    if (status == DINOV_OK) status = load_json(&other, exported, MAX_EXPORT, "GOLDEN-EXPORT", err);
    if (status == DINOV_OK)
        status = compare_all(path, own, other, note, arg, dinov_escape(where, sizeof where, exported, strlen(exported)), err);
    json_decref(own);
    json_decref(other);
    return status;
}
