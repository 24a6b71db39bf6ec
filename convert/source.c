/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/source.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "convert/safetensors.h"
#include "format/layout.h"

#include <stdbool.h>
#include <string.h>

const char *dinov_layout_name(dinov_layout layout)
{
    switch (layout) {
    case DINOV_LAYOUT_DINOV:
        return "dinov";
    case DINOV_LAYOUT_PTH:
        return "pth";
    case DINOV_LAYOUT_SAFETENSORS:
        return "safetensors";
    }
    return "?";
}

/* ---- Known, and refused ---- */

static const struct {
    size_t      at, size;
    const char *magic, *code, *what;
} foreign[] = {
    {0, 15, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", "SRC-LEGACY",
     "this is torch.save's layout from before PyTorch 1.6; load it there and save it again: torch.save(torch.load(FILE), OUT)"},
    {0, 8, "PYTORCH1", "SRC-PREVIEW", "this is a container of the PyTorch 1.0 preview, which PyTorch itself no longer reads"},
    {0, 4, "GGUF", "SRC-GGUF",
     "this is a GGUF file, which this version does not read yet; convert the original hub weights instead"},
    {257, 5, "ustar", "SRC-TAR",
     "this is a tar archive (PyTorch before 0.1.10, or packed by hand); unpack it and give the weights inside"},
    {0, 6, "\x93NUMPY", "SRC-NUMPY", "this is a NumPy array, not weights"},
    {0, 8, "\x89HDF\r\n\x1a\n", "SRC-HDF5",
     "this is an HDF5 file (Keras), which is not read; convert the original hub weights instead"},
    {0, 2, "\x1f\x8b", "SRC-ARCHIVE", "this is a gzip file; unpack it first"},
    {0, 4, "\x28\xb5\x2f\xfd", "SRC-ARCHIVE", "this is a zstd file; unpack it first"},
    {0, 6, "\xfd\x37zXZ\0", "SRC-ARCHIVE", "this is an xz file; unpack it first"},
    {0, 6, "7z\xbc\xaf\x27\x1c", "SRC-ARCHIVE", "this is a 7z archive; unpack it first"},
    {0, 24, "version https://git-lfs.", "SRC-LFS", "this is a Git LFS pointer, not the weights; fetch them with git lfs pull"},
    {0, 9, "<!DOCTYPE", "SRC-WEBPAGE", "this is a web page, not the weights; the download went wrong"},
    {0, 5, "<html", "SRC-WEBPAGE", "this is a web page, not the weights; the download went wrong"},
};

/* An ONNX model is a protobuf message without a magic: ir_version, then the producer's name. */
static bool looks_like_onnx(const uint8_t *p, size_t size)
{
    return size > 4 && p[0] == 0x08 && p[1] > 0 && p[1] < 0x20 && (p[2] == 0x12 || p[2] == 0x1a || p[2] == 0x3a || p[2] == 0x42);
}

static dinov_status refuse_foreign(const uint8_t *data, size_t size, const char *where, dinov_error *err)
{
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        if (size >= foreign[i].at + foreign[i].size && memcmp(data + foreign[i].at, foreign[i].magic, foreign[i].size) == 0)
            return dinov_fail(err, DINOV_ERR_FORMAT, foreign[i].code, "%s: %s", where, foreign[i].what);
    if (size >= 2 && data[0] == 0x80 && data[1] <= 5)
        return dinov_fail(
            err, DINOV_ERR_FORMAT, "SRC-PICKLE",
            "%s: this is a bare pickle, which is never executed here; save it with torch.save in PyTorch 1.6 or newer", where);
    if (looks_like_onnx(data, size))
        return dinov_fail(
            err, DINOV_ERR_FORMAT, "SRC-ONNX",
            "%s: this is an ONNX model, which this version does not read yet; convert the original hub weights instead", where);
    char text[64];
    return dinov_fail(
        err, DINOV_ERR_FORMAT, "SRC-UNKNOWN",
        "%s: expected a dinov checkpoint, a .pth written by torch.save or a safetensors file, found %zu bytes that begin \"%s\"",
        where, size, dinov_escape(text, sizeof text, data, size < 12 ? size : 12));
}

static bool contains(const uint8_t *data, size_t size, const char *word)
{
    size_t length = strlen(word);
    for (size_t i = 0; i + length <= size; i++) {
        const uint8_t *hit = memchr(data + i, word[0], size - length - i + 1);
        if (!hit) return false;
        i = (size_t)(hit - data);
        if (memcmp(hit, word, length) == 0) return true;
    }
    return false;
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
    /* safetensors: a length that fits an 8-byte number with zeros on top, then JSON, perhaps after spaces. */
    size_t at = 8;
    while (at < size && at < 8 + 4096 && (data[at] == ' ' || data[at] == '\t' || data[at] == '\r' || data[at] == '\n')) at++;
    if (at < size && data[at] == '{' && data[7] == 0 && data[6] == 0) {
        uint64_t length = dinov_le64(data);
        size_t   header = length < size - 8 ? (size_t)length : size - 8;
        bool     ours = header >= sizeof DINOV_CK_PREFIX - 1 && memcmp(data + 8, DINOV_CK_PREFIX, sizeof DINOV_CK_PREFIX - 1) == 0;
        *rewritten    = !ours && (contains(data + 8, header, "\"dinov_header\":") || contains(data + 8, header, "\"dinov\":"));
        *out          = ours ? DINOV_LAYOUT_DINOV : DINOV_LAYOUT_SAFETENSORS;
        return DINOV_OK;
    }
    return refuse_foreign(data, size, where, err);
}

static dinov_status read_tensors(dinov_source *s, const void *data, size_t size, int threads, dinov_error *err)
{
    DINOV_TRY(dinov_layout_detect(&s->layout, &s->rewritten, data, size, s->where, err));
    switch (s->layout) {
    case DINOV_LAYOUT_DINOV:
        DINOV_TRY(dinov_checkpoint_open_memory(&s->checkpoint, data, size, s->where, err));
        s->tensors = dinov_checkpoint_weights(s->checkpoint)->tensors;
        s->count   = dinov_checkpoint_weights(s->checkpoint)->count;
        return DINOV_OK;
    case DINOV_LAYOUT_PTH:
        DINOV_TRY(dinov_pth_open(&s->pth, data, size, threads, s->where, err));
        s->tensors = s->pth.tensors.items;
        s->count   = s->pth.tensors.count;
        return DINOV_OK;
    case DINOV_LAYOUT_SAFETENSORS:
        DINOV_TRY(dinov_safetensors_read(&s->plain, data, size, s->where, err));
        s->tensors = s->plain.items;
        s->count   = s->plain.count;
        return DINOV_OK;
    }
    return DINOV_OK;
}

static dinov_status name_source(dinov_source *out, const char *path, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    *out       = (dinov_source){0};
    out->where = dinov_strdup(dinov_escape(text, sizeof text, path, strlen(path)));
    return out->where ? DINOV_OK : dinov_fail_nomem(err, text, "its name");
}

dinov_status dinov_source_open(dinov_source *out, const char *path, int threads, dinov_error *err)
{
    DINOV_TRY(name_source(out, path, err));
    DINOV_TRY(dinov_map_open(&out->map, path, err));
    return read_tensors(out, out->map.data, out->map.size, threads, err);
}

dinov_status dinov_source_open_memory(dinov_source *out, const void *data, size_t size, const char *name, int threads,
                                      dinov_error *err)
{
    DINOV_TRY(name_source(out, name, err));
    return read_tensors(out, data, size, threads, err);
}

void dinov_source_close(dinov_source *source)
{
    dinov_checkpoint_close(&source->checkpoint);
    dinov_tensors_clear(&source->plain);
    dinov_pth_close(&source->pth);
    if (source->map.data) dinov_map_close(&source->map);
    dinov_free(source->where);
    *source = (dinov_source){0};
}
