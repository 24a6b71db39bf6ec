/* SPDX-License-Identifier: Apache-2.0
 *
 * Which JPEGs another decoder than ours can be trusted with.
 */
#ifndef DINOV_IMAGE_JPEG_H
#define DINOV_IMAGE_JPEG_H

#include "dinov/image.h"

#include <stdbool.h>

/* Whether the bytes are a JPEG of the common kind that looks whole: 8 bits, Huffman-coded in one sequential scan, grey, or YCbCr
 * with luma sampled once or twice as finely as chroma; its restart markers in order and complete, and an end marker. Then *out has
 * its width, height and orientation, and no pixels. Damaged bits within the scan are not seen. Any thread. */
bool dinov_jpeg_plain(dinov_image *out, const void *bytes, size_t size);

#endif
