/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/source.h"

#include "base/alloc.h"
#include "convert/legacy.h"
#include "convert/onnx/read.h"
#include "convert/pth.h"
#include "convert/safetensors.h"
#include "format/foreign.h"
#include "format/header.h"

#include <stdbool.h>
#include <string.h>

const char *dinov_layout_name(dinov_layout layout)
{
    switch (layout) {
    case DINOV_LAYOUT_DINOV:
        return "dinov";
    case DINOV_LAYOUT_PTH:
    case DINOV_LAYOUT_LEGACY:
        return "pth";
    case DINOV_LAYOUT_SAFETENSORS:
    case DINOV_LAYOUT_SHARDS:
        return "safetensors";
    case DINOV_LAYOUT_ONNX:
        return "onnx";
    }
    return "?";
}

static dinov_status refuse_foreign(const uint8_t *data, size_t size, const char *where, dinov_error *err)
{
    const dinov_foreign *f = dinov_foreign_find(data, size);
    char                 text[64];
    if (f) return dinov_fail(err, DINOV_ERR_FORMAT, f->code, "%s: this is %s; %s", where, f->what, f->advice);
    return dinov_fail(
        err, DINOV_ERR_FORMAT, "SRC-UNKNOWN",
        "%s: expected a dinov checkpoint, a .pth written by torch.save, a safetensors file or an ONNX model, found %zu bytes that begin \"%s\"",
        where, size, dinov_escape(text, sizeof text, data, size < 12 ? size : 12));
}

/* An object as text. */
static bool is_json(const uint8_t *data, size_t size)
{
    size_t at = 0;
    while (at < size && at < 4096 && (data[at] == ' ' || data[at] == '\t' || data[at] == '\r' || data[at] == '\n')) at++;
    return at < size && data[at] == '{';
}

dinov_status dinov_layout_detect(dinov_layout *out, bool *rewritten, const void *bytes, size_t size, const char *where,
                                 dinov_error *err)
{
    const uint8_t *data = bytes;
    *rewritten          = false;
    if (size == 0) return dinov_fail(err, DINOV_ERR_FORMAT, "SRC-EMPTY", "%s: expected weights, found an empty file", where);
    if (size >= 4 && memcmp(data, "PK\3\4", 4) == 0) {
        *out = DINOV_LAYOUT_PTH;
        return DINOV_OK;
    }
    if (dinov_legacy_is(data, size)) {
        *out = DINOV_LAYOUT_LEGACY;
        return DINOV_OK;
    }
    /* safetensors: a length that fits an 8-byte number with zeros on top, then JSON, perhaps after spaces. */
    size_t at = 8;
    while (at < size && at < 8 + 4096 && (data[at] == ' ' || data[at] == '\t' || data[at] == '\r' || data[at] == '\n')) at++;
    if (at < size && data[at] == '{' && data[7] == 0 && data[6] == 0) {
        bool ours  = dinov_header_ours(data, size);
        *rewritten = !ours && dinov_header_rewritten(data, size);
        *out       = ours ? DINOV_LAYOUT_DINOV : DINOV_LAYOUT_SAFETENSORS;
        return DINOV_OK;
    }
    if (is_json(data, size)) {
        *out = DINOV_LAYOUT_SHARDS;
        return DINOV_OK;
    }
    if (dinov_foreign_onnx(data, size)) {
        *out = DINOV_LAYOUT_ONNX;
        return DINOV_OK;
    }
    return refuse_foreign(data, size, where, err);
}

static dinov_status read_tensors(dinov_reader *s, const void *data, size_t size, int threads, dinov_error *err)
{
    DINOV_TRY(dinov_layout_detect(&s->layout, &s->rewritten, data, size, s->where, err));
    switch (s->layout) {
    case DINOV_LAYOUT_DINOV:
        DINOV_TRY(dinov_checkpoint_open_memory(&s->checkpoint, data, size, s->where, err));
        s->tensors = dinov_checkpoint_weights(s->checkpoint)->tensors;
        s->count   = dinov_checkpoint_weights(s->checkpoint)->count;
        return DINOV_OK;
    case DINOV_LAYOUT_PTH:
        DINOV_TRY(dinov_pth_read(&s->plain, &s->torch, data, size, threads, s->where, err));
        break;
    case DINOV_LAYOUT_LEGACY:
        DINOV_TRY(dinov_legacy_read(&s->plain, &s->torch, data, size, s->where, err));
        break;
    case DINOV_LAYOUT_SAFETENSORS:
        DINOV_TRY(dinov_safetensors_read(&s->plain, data, size, s->where, err));
        break;
    case DINOV_LAYOUT_SHARDS:
        DINOV_TRY(dinov_shards_read(&s->shards, &s->files, data, size, s->where, err));
        s->tensors = s->shards.tensors.items;
        s->count   = s->shards.tensors.count;
        return DINOV_OK;
    case DINOV_LAYOUT_ONNX:
        s->files.where = s->where;
        DINOV_TRY(dinov_onnx_read(&s->plain, &s->facts, &s->files, data, size, s->where, err));
        break;
    }
    s->tensors = s->plain.items;
    s->count   = s->plain.count;
    return DINOV_OK;
}

static dinov_status name_source(dinov_reader *out, const char *path, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    *out       = (dinov_reader){.files = {.folder = -1}};
    out->where = dinov_strdup(dinov_escape(text, sizeof text, path, strlen(path)));
    return out->where ? DINOV_OK : dinov_fail_nomem(err, text, "its name");
}

dinov_status dinov_reader_open(dinov_reader *out, const char *path, int threads, dinov_error *err)
{
    char *file;
    *out = (dinov_reader){.files = {.folder = -1}};
    DINOV_TRY(dinov_hf_find(&file, path, err));
    dinov_status named = name_source(out, file, err);
    out->path          = file;
    DINOV_TRY(named);
    DINOV_TRY(dinov_map_open(&out->map, file, err));
    DINOV_TRY(dinov_files_open(&out->files, file, out->where, err));
    return read_tensors(out, out->map.data, out->map.size, threads, err);
}

dinov_status dinov_reader_open_memory(dinov_reader *out, const void *data, size_t size, const char *name, int threads,
                                      dinov_error *err)
{
    DINOV_TRY(name_source(out, name, err));
    return read_tensors(out, data, size, threads, err);
}

void dinov_reader_close(dinov_reader *source)
{
    dinov_checkpoint_close(&source->checkpoint);
    dinov_tensors_clear(&source->plain);
    dinov_shards_clear(&source->shards);
    dinov_files_close(&source->files);
    if (source->map.data) dinov_map_close(&source->map);
    dinov_free(source->where);
    dinov_free(source->path);
    *source = (dinov_reader){.files = {.folder = -1}};
}
