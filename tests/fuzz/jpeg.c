/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a JPEG: refused, or a picture every byte of which can be read; and the size that dinov_jpeg_plain
 * tells another decoder is the picture's own. Sizes are capped here
 * so that a run spends its time on structure, not on large empty pictures.
 */
#include "base/bytes.h"
#include "image/internal.h"
#include "image/jpeg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink; /* every byte is read, so that a sanitizer sees one never written */

enum { MAX_PIXELS = 1 << 20 };

/* The size in the first frame header, as far as a plain walk over the markers finds it. */
static uint64_t promised_pixels(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 9 < size; i++)
        if (data[i] == 0xff && data[i + 1] >= 0xc0 && data[i + 1] <= 0xcf && data[i + 1] != 0xc4 && data[i + 1] != 0xcc) {
            uint64_t pixels = (uint64_t)dinov_be16(data + i + 5) * dinov_be16(data + i + 7);
            if (pixels > MAX_PIXELS) return pixels;
        }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_image image = {.orientation = 1}, plain;
    dinov_error err;

    if (promised_pixels(data, size) > MAX_PIXELS) return 0;
    bool is_plain = dinov_jpeg_plain(&plain, data, size);
    if (dinov_jpeg_decode(&image, data, size, "fuzz", &err) == DINOV_OK) {
        DINOV_ASSERT(!is_plain || (plain.width == image.width && plain.height == image.height));
        DINOV_ASSERT(dinov_image_turn(&image, &err) == DINOV_OK);
        for (int64_t i = 0; i < 3 * image.width * image.height; i++) sink += image.pixels[i];
    }
    dinov_image_clear(&image);
    return 0;
}
