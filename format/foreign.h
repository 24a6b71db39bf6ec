/* SPDX-License-Identifier: Apache-2.0
 *
 * Files that are known and that no part of dinov reads as weights: what they are, told from their
 * first bytes, and what their owner can do.
 */
#ifndef DINOV_FORMAT_FOREIGN_H
#define DINOV_FORMAT_FOREIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct dinov_foreign {
    const char *code;   /* SRC-GGUF */
    const char *what;   /* "a GGUF file" */
    const char *advice; /* "convert the original hub weights instead" */
} dinov_foreign;

/* NULL: none of them. */
const dinov_foreign *dinov_foreign_find(const uint8_t *data, size_t size);

/* It begins as ONNX models do, which have no magic. */
bool dinov_foreign_onnx(const uint8_t *data, size_t size);

#endif
