/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole file of any layout, as dinov-convert reads it: detection, reader, recognition. Each input is
 * read twice, the second time with its CRCs set to zero, as torch writes them with its CRC switch off:
 * a fuzzer cannot guess them.
 */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "convert/recognise.h"
#include "convert/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Zeroes the CRC of every directory entry and every descriptor. */
static void blank_crcs(uint8_t *p, size_t size)
{
    for (size_t i = 0; i + 20 <= size; i++) {
        if (p[i] != 'P' || p[i + 1] != 'K') continue;
        if (p[i + 2] == 1 && p[i + 3] == 2) dinov_put_le32(p + i + 16, 0);
        if (p[i + 2] == 7 && p[i + 3] == 8) dinov_put_le32(p + i + 4, 0);
    }
}

static void read_one(const uint8_t *data, size_t size)
{
    dinov_reader source;
    dinov_error  err = {0};
    if (dinov_reader_open_memory(&source, data, size, "fuzz", 1, &err) == DINOV_OK) {
        dinov_model model;
        for (size_t i = 0; i < source.count; i++) {
            uint64_t bytes;
            DINOV_ASSERT(dinov_tensor_bytes(&source.tensors[i].tensor, &bytes));
            if (bytes) {
                const volatile uint8_t *p = source.tensors[i].tensor.data;
                (void)p[0];
                (void)p[bytes - 1];
            }
        }
        dinov_recognise(&model, source.tensors, source.count, NULL, "fuzz", &err);
    } else {
        DINOV_ASSERT(err.code[0] && err.msg[0]);
    }
    dinov_reader_close(&source);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_one(data, size);
    uint8_t *copy = dinov_alloc(size, 1);
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    blank_crcs(copy, size);
    read_one(copy, size);
    dinov_free(copy);
    return 0;
}
