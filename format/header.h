/* SPDX-License-Identifier: Apache-2.0
 *
 * The header as a whole: length, digest, document, table, padding (spec/checkpoint.md 3).
 */
#ifndef DINOV_FORMAT_HEADER_H
#define DINOV_FORMAT_HEADER_H

#include "format/json.h"
#include "format/layout.h"
#include "format/table.h"

/* Canonical bytes 0..8+N: a document, and tensors in file order. ERR_LIMIT, ERR_NOMEM. */
dinov_status dinov_header_build(dinov_text *out, const dinov_text *json, const dinov_named_tensor *const *tensors, size_t count,
                                const dinov_json *at, dinov_error *err);

/* Bytes 8 on are the prefix, as far as they go: a checkpoint, perhaps one cut short. */
bool dinov_header_ours(const uint8_t *data, size_t size);

/* Of bytes that are not ours: the header carries a checkpoint's metadata elsewhere, as it does after another
 * tool has written the file again, or when its first bytes are damaged. */
bool dinov_header_rewritten(const uint8_t *data, size_t size);

/*
 * Copies the header out of the first `size` bytes of a file and checks its digest, before a byte of
 * it is interpreted. *out (dinov_free) has *length bytes, 8+N.
 * ERR_FORMAT when the bytes are no checkpoint: the message names what they look like.
 */
dinov_status dinov_header_load(uint8_t **out, uint64_t *length, const uint8_t *data, size_t size, const char *where,
                               dinov_error *err);

/* Takes a loaded header apart. `c` stands at byte 0 before and at 8+N after. */
dinov_status dinov_header_document(dinov_text *json, dinov_cursor *c, const char *where, dinov_error *err);
dinov_status dinov_header_padding(dinov_cursor *c, const char *where, dinov_error *err);

#endif
