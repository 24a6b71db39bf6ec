/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/safetensors.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/text.h"
#include "convert/json.h"
#include "format/table.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    MAX_HEADER = 100000000, /* the reference reader's */
    MAX_DEPTH  = 4,         /* header, tensor, shape; one to spare */
    MAX_VALUES = 1 << 17,   /* about 8 a tensor */
    ALIGNMENT  = 64,
};

static dinov_status refuse(const char *where, dinov_error *err, const char *code, const char *what)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: safetensors header: %s", where, what);
}

static dinov_status refuse_entry(const char *where, dinov_error *err, const char *code, const char *name, const char *what)
{
    char text[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: tensor %s: %s", where, dinov_escape(text, sizeof text, name, strlen(name)),
                      what);
}

static dinov_status check_limits(const char *json, size_t size, const char *where, dinov_error *err)
{
    dinov_json_extent extent = dinov_json_measure(json, size);
    if (extent.depth > MAX_DEPTH)
        return dinov_fail(err, DINOV_ERR_LIMIT, "ST-DEPTH", "%s: safetensors header: expected at most %d levels, found more", where,
                          MAX_DEPTH);
    if (extent.values > MAX_VALUES)
        return dinov_fail(err, DINOV_ERR_LIMIT, "ST-LARGE", "%s: safetensors header: expected at most %d values, found more", where,
                          MAX_VALUES);
    return DINOV_OK;
}

struct span {
    const char  *name;
    dinov_tensor tensor;
    uint64_t     begin, end;
};

static bool read_numbers(const json_t *array, uint64_t *out, size_t most, size_t *count)
{
    if (!json_is_array(array) || json_array_size(array) > most) return false;
    *count = json_array_size(array);
    for (size_t i = 0; i < *count; i++) {
        const json_t *n = json_array_get(array, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0) return false;
        out[i] = (uint64_t)json_integer_value(n);
    }
    return true;
}

static dinov_status read_entry(struct span *out, const char *name, const json_t *entry, const char *where, dinov_error *err)
{
    const json_t *dtype = json_object_get(entry, "dtype");
    uint64_t      dim[DINOV_MAX_RANK], offsets[2], bytes;
    size_t        rank, two;
    *out = (struct span){.name = name};
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !json_is_string(dtype) ||
        !read_numbers(json_object_get(entry, "shape"), dim, DINOV_MAX_RANK, &rank) ||
        !read_numbers(json_object_get(entry, "data_offsets"), offsets, 2, &two) || two != 2)
        return refuse_entry(where, err, "ST-ENTRY", name,
                            "expected dtype, shape (at most 8 sizes) and two data_offsets, and nothing else");
    out->tensor.dtype = dinov_dtype_from_name(json_string_value(dtype));
    if (!out->tensor.dtype) {
        char text[40], what[120];
        snprintf(what, sizeof what, "expected a dtype of F64, F32, F16, BF16, I64 to I8, U8 or BOOL, found %s",
                 dinov_escape(text, sizeof text, json_string_value(dtype), json_string_length(dtype)));
        return refuse_entry(where, err, "ST-DTYPE", name, what);
    }
    out->tensor.rank = (int)rank;
    for (size_t i = 0; i < rank; i++) out->tensor.dim[i] = (int64_t)dim[i];
    out->begin = offsets[0];
    out->end   = offsets[1];
    if (out->end < out->begin) return refuse_entry(where, err, "ST-OFFSETS", name, "its end lies before its beginning");
    if (!dinov_tensor_bytes(&out->tensor, &bytes) || bytes != out->end - out->begin)
        return refuse_entry(where, err, "ST-SIZE", name, "its shape and dtype do not give the size its offsets span");
    return DINOV_OK;
}

/* By place; a tensor without bytes comes before the one that begins there. */
static int by_place(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Spans, sorted by place, cover the data exactly. */
static dinov_status take_spans(dinov_tensors *out, const struct span *spans, size_t count, const uint8_t *data, uint64_t size,
                               const char *where, dinov_error *err)
{
    uint64_t next = 0;
    for (size_t i = 0; i < count; i++) {
        dinov_tensor tensor = spans[i].tensor;
        if (spans[i].begin != next)
            return refuse_entry(where, err, "ST-OFFSETS", spans[i].name,
                                spans[i].begin < next ? "it overlaps another tensor"
                                                      : "bytes that belong to no tensor lie before it");
        next = spans[i].end;
        if (next > size)
            return refuse_entry(where, err, "ST-END", spans[i].name, "it reaches beyond the end of the file, which is cut short");
        tensor.data = data + spans[i].begin;
        if ((uintptr_t)tensor.data % dinov_dtype_size(tensor.dtype) != 0) {
            uint64_t bytes = spans[i].end - spans[i].begin; /* all copies together are no larger than the file */
            void    *copy;
            DINOV_TRY(dinov_tensors_room(out, &copy, bytes, where, err));
            memcpy(copy, tensor.data, bytes);
            tensor.data = copy;
        }
        DINOV_TRY(dinov_tensors_add(out, spans[i].name, strlen(spans[i].name), &tensor, where, err));
    }
    if (next != size) return refuse(where, err, "ST-END", "bytes that belong to no tensor follow the last one");
    return DINOV_OK;
}

static dinov_status check_metadata(const json_t *metadata, const char *where, dinov_error *err)
{
    const char *key;
    json_t     *value;
    bool        ok = json_is_object(metadata);
    if (ok) json_object_foreach((json_t *)(uintptr_t)metadata, key, value) ok = ok && json_is_string(value);
    return ok ? DINOV_OK : refuse(where, err, "ST-ENTRY", "expected __metadata__ to map strings to strings, found other values");
}

static dinov_status read_object(dinov_tensors *out, json_t *root, const uint8_t *data, uint64_t size, const char *where,
                                dinov_error *err)
{
    dinov_status status = DINOV_OK;
    size_t       count  = 0;
    const char  *name;
    json_t      *entry;

    if (!json_is_object(root)) return refuse(where, err, "ST-JSON", "expected an object, found another value");
    struct span *spans = dinov_alloc(json_object_size(root), sizeof *spans);
    if (!spans) return dinov_fail_nomem(err, where, "the list of tensors");
    json_object_foreach(root, name, entry)
    {
        if (status != DINOV_OK) break;
        if (strcmp(name, "__metadata__") == 0)
            status = check_metadata(entry, where, err);
        else
            status = read_entry(&spans[count++], name, entry, where, err);
    }
    if (status == DINOV_OK) {
        qsort(spans, count, sizeof *spans, by_place);
        status = take_spans(out, spans, count, data, size, where, err);
    }
    dinov_free(spans);
    return status;
}

dinov_status dinov_safetensors_read(dinov_tensors *out, const void *data, size_t size, const char *where, dinov_error *err)
{
    dinov_cursor c      = dinov_cursor_make(data, size);
    uint64_t     length = dinov_cursor_le64(&c);

    if (c.failed || length > dinov_cursor_left(&c))
        return refuse(where, err, "ST-HEADER", "expected its length in the first 8 bytes and all of it in the file, found less");
    if (length > MAX_HEADER)
        return dinov_fail(err, DINOV_ERR_LIMIT, "ST-LARGE", "%s: safetensors header: expected at most %d bytes, found %llu", where,
                          MAX_HEADER, (unsigned long long)length);
    /* A copy: what was counted is what is parsed, also when someone writes to the file meanwhile. */
    char *json = dinov_alloc(length, 1);
    if (!json) return dinov_fail_nomem(err, where, "the header");
    const uint8_t *bytes = dinov_cursor_take(&c, length);
    if (length) memcpy(json, bytes, length);

    json_t      *root   = NULL;
    dinov_status status = check_limits(json, length, where, err);
    if (status == DINOV_OK) {
        json_error_t e;
        root = json_loadb(json, length, JSON_REJECT_DUPLICATES, &e);
        if (!root && !e.text[0]) { /* the parser says nothing when memory is out */
            status = dinov_fail_nomem(err, where, "the header");
        } else if (!root) {
            char text[DINOV_ESCAPED], what[DINOV_ESCAPED + 64];
            snprintf(what, sizeof what, "expected JSON, found at byte %d: %s", e.position,
                     dinov_escape(text, sizeof text, e.text, strlen(e.text)));
            status = refuse(where, err, "ST-JSON", what);
        }
    }
    if (root) status = read_object(out, root, (const uint8_t *)data + c.pos, dinov_cursor_left(&c), where, err);
    json_decref(root);
    dinov_free(json);
    return status;
}

/* ---- Writing ---- */

static int by_width(const void *a, const void *b)
{
    const dinov_named_tensor *x = *(const dinov_named_tensor *const *)a, *y = *(const dinov_named_tensor *const *)b;
    size_t                    wx = dinov_dtype_size(x->tensor.dtype), wy = dinov_dtype_size(y->tensor.dtype);
    return wx != wy ? (wx > wy ? -1 : 1) : strcmp(x->name, y->name);
}

static dinov_status build_header(dinov_text *text, const dinov_named_tensor *const *sorted, size_t count, const char *where,
                                 dinov_error *err)
{
    uint64_t at = 0;
    dinov_text_puts(text, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < count; i++) {
        const dinov_tensor *t = &sorted[i]->tensor;
        uint64_t            bytes, end;
        if (!dinov_tensor_bytes(t, &bytes) || !dinov_ck_add(at, bytes, &end) || end > INT64_MAX)
            return refuse_entry(where, err, "ST-SIZE", sorted[i]->name, "its size does not fit the file");
        dinov_table_entry(text, sorted[i], at, end);
        at = end;
    }
    dinov_text_puts(text, "}");
    while (!text->failed && (8 + text->size) % ALIGNMENT != 0) dinov_text_puts(text, " ");
    return text->failed ? dinov_fail_nomem(err, where, "the header") : DINOV_OK;
}

dinov_status dinov_safetensors_write(const char *path, const dinov_named_tensor *tensors, size_t count, int overwrite,
                                     dinov_error *err)
{
    char         where[DINOV_ESCAPED];
    dinov_text   header = {0};
    dinov_out   *out    = NULL;
    dinov_status status;
    uint8_t      length[8];

    dinov_escape(where, sizeof where, path, strlen(path));
    const dinov_named_tensor **sorted = dinov_alloc(count, sizeof *sorted);
    if (!sorted) return dinov_fail_nomem(err, where, "the list of tensors");
    for (size_t i = 0; i < count; i++) sorted[i] = &tensors[i];
    qsort(sorted, count, sizeof *sorted, by_width);

    DINOV_TRY_GOTO(build_header(&header, sorted, count, where, err));
    DINOV_TRY_GOTO(dinov_out_open(&out, path, overwrite, err));
    dinov_put_le64(length, header.size);
    DINOV_TRY_GOTO(dinov_out_write(out, length, sizeof length, err));
    DINOV_TRY_GOTO(dinov_out_write(out, header.data, header.size, err));
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        dinov_tensor_bytes(&sorted[i]->tensor, &bytes);
        DINOV_TRY_GOTO(dinov_out_write(out, sorted[i]->tensor.data, bytes, err));
    }
    DINOV_TRY_GOTO(dinov_out_commit(&out, err));
fail:
    dinov_out_abort(&out);
    dinov_text_clear(&header);
    dinov_free(sorted);
    return status;
}
