/* SPDX-License-Identifier: Apache-2.0
 *
 * Where an ONNX tensor says its values lie: any entries lead to bytes of the one file beside the model, or to a refusal,
 * and to no file elsewhere.
 */
#include "convert/onnx/wire.h"

#include "base/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LENGTH = 64, MOST = 4096 };

static char folder[] = "/tmp/dinov-fuzz-XXXXXX", values[64], model[64], secret[64];

static void remove_folder(void)
{
    unlink(values);
    unlink(secret);
    unlink(model);
    rmdir(folder);
}

/* "values", and "secret" of other bytes behind a link. */
static void make_folder(void)
{
    DINOV_ASSERT(mkdtemp(folder));
    snprintf(values, sizeof values, "%s/values", folder);
    snprintf(secret, sizeof secret, "%s/secret", folder);
    snprintf(model, sizeof model, "%s/model.onnx", folder);
    FILE *f = fopen(values, "wb");
    DINOV_ASSERT(f);
    for (int i = 0; i < LENGTH; i++) fputc(i, f);
    fclose(f);
    DINOV_ASSERT(symlink("/proc/self/environ", secret) == 0);
    atexit(remove_folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* A graph with one initializer: sizes [4], floats, values elsewhere, and what the fuzzer says of it. */
    uint8_t     file[MOST + 64] = {0x08, 0x08, 0x3a}, tensor[MOST + 16] = {0x08, 0x04, 0x10, 0x01, 0x70, 0x01};
    dinov_files files;
    dinov_onnx  onnx;
    dinov_error err = {0};
    if (!values[0]) make_folder();
    if (size > MOST) return 0;
    memcpy(tensor + 6, data, size);
    size_t length = size + 6, at = 3;
    size_t outer = length + 4; /* lengths are written in three bytes each: allowed, and fixed */
    for (int i = 0; i < 3; i++) file[at++] = (uint8_t)((outer >> 7 * i & 127) | (i < 2 ? 128 : 0));
    file[at++] = 0x2a;
    for (int i = 0; i < 3; i++) file[at++] = (uint8_t)((length >> 7 * i & 127) | (i < 2 ? 128 : 0));
    memcpy(file + at, tensor, length);

    DINOV_ASSERT(dinov_files_open(&files, model, "fuzz", &err) == DINOV_OK);
    if (dinov_onnx_open(&onnx, &files, file, at + length, "fuzz", &err) == DINOV_OK) {
        const dinov_onnx_tensor *t = &onnx.tensors[0];
        DINOV_ASSERT(onnx.tensor_count == 1);
        if (files.count) {
            DINOV_ASSERT(files.count == 1 && strcmp(files.items[0].name, "values") == 0);
            const uint8_t *begin = files.items[0].map.data;
            DINOV_ASSERT(t->data >= begin && t->data + t->count * 4 <= begin + LENGTH);
            for (uint64_t i = 0; i < t->count * 4; i++) DINOV_ASSERT(t->data[i] == (uint8_t)(t->data - begin) + i);
        }
    } else {
        DINOV_ASSERT(err.code[0] && err.msg[0]);
    }
    dinov_onnx_close(&onnx);
    dinov_files_close(&files);
    return 0;
}
