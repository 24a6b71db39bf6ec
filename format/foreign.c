/* SPDX-License-Identifier: Apache-2.0 */
#include "format/foreign.h"

#include <string.h>

static const struct {
    size_t        at, size;
    const char   *magic;
    dinov_foreign foreign;
} known[] = {
    {0, 8, "PYTORCH1", {"SRC-PREVIEW", "a container of the PyTorch 1.0 preview", "PyTorch itself no longer reads it"}},
    {0, 4, "GGUF", {"SRC-GGUF", "a GGUF file, which this version does not read yet", "convert the original hub weights instead"}},
    {257, 5, "ustar",
     {"SRC-TAR", "a tar archive (PyTorch before 0.1.10, or packed by hand)", "unpack it and give the weights inside"}},
    {0, 6, "\x93NUMPY", {"SRC-NUMPY", "a NumPy array, not weights", "dinov-infer takes it as input"}},
    {0, 8, "\x89HDF\r\n\x1a\n", {"SRC-HDF5", "an HDF5 file (Keras), which is not read", "convert the original hub weights instead"}},
    {0, 2, "\x1f\x8b", {"SRC-ARCHIVE", "a gzip file", "unpack it first"}},
    {0, 4, "\x28\xb5\x2f\xfd", {"SRC-ARCHIVE", "a zstd file", "unpack it first"}},
    {0, 6, "\xfd\x37zXZ\0", {"SRC-ARCHIVE", "an xz file", "unpack it first"}},
    {0, 6, "7z\xbc\xaf\x27\x1c", {"SRC-ARCHIVE", "a 7z archive", "unpack it first"}},
    {0, 24, "version https://git-lfs.", {"SRC-LFS", "a Git LFS pointer, not the weights", "fetch them with git lfs pull"}},
    {0, 9, "<!DOCTYPE", {"SRC-WEBPAGE", "a web page, not the weights", "the download went wrong"}},
    {0, 5, "<html", {"SRC-WEBPAGE", "a web page, not the weights", "the download went wrong"}},
};

static const dinov_foreign pickle = {"SRC-PICKLE", "a bare pickle, which is never executed here",
                                     "save it with torch.save in PyTorch 1.6 or newer"};
static const dinov_foreign onnx   = {"CK-FORMAT", "an ONNX model", "dinov-convert makes a checkpoint of it"};

/* An ONNX model is a protobuf message without a magic: ir_version, then one of its string or graph fields. */
bool dinov_foreign_onnx(const uint8_t *p, size_t size)
{
    return size > 4 && p[0] == 0x08 && p[1] > 0 && p[1] < 0x20 && (p[2] == 0x12 || p[2] == 0x1a || p[2] == 0x3a || p[2] == 0x42);
}

const dinov_foreign *dinov_foreign_find(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (size >= known[i].at + known[i].size && memcmp(data + known[i].at, known[i].magic, known[i].size) == 0)
            return &known[i].foreign;
    if (size >= 2 && data[0] == 0x80 && data[1] <= 5) return &pickle;
    return dinov_foreign_onnx(data, size) ? &onnx : NULL;
}
