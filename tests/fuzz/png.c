/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a PNG: refused, or a picture every byte of which can be read. Checksums are made right
 * first, so that the fuzzer gets past them; a copy with its own checksums is tried as well.
 */
#include "base/bytes.h"
#include "image/internal.h"

#include <stdlib.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink; /* every byte is read, so that a sanitizer sees one never written */

enum { MAX_PIXELS = 1 << 20 };

static void decode(const uint8_t *data, size_t size)
{
    dinov_image image = {.orientation = 1};
    dinov_error err;

    if (size >= 24 && (uint64_t)dinov_be32(data + 16) * dinov_be32(data + 20) > MAX_PIXELS) return;
    if (dinov_png_decode(&image, data, size, "fuzz", &err) == DINOV_OK) {
        DINOV_ASSERT(dinov_image_turn(&image, &err) == DINOV_OK);
        for (int64_t i = 0; i < 3 * image.width * image.height; i++) sink += image.pixels[i];
    }
    dinov_image_clear(&image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) return 0;
    memcpy(copy, data, size);
    for (uint64_t at = 8; at + 12 <= size;) {
        uint64_t length = dinov_be32(copy + at);
        if (length > size - at - 12) break;
        uint32_t crc   = (uint32_t)crc32(0, copy + at + 4, (uInt)length + 4);
        uint8_t *store = copy + at + 8 + length;
        for (int i = 0; i < 4; i++) store[i] = (uint8_t)(crc >> (24 - 8 * i));
        at += 12 + length;
    }
    decode(copy, size);
    if (memcmp(copy, data, size) != 0) decode(data, size);
    free(copy);
    return 0;
}
