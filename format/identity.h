/* SPDX-License-Identifier: Apache-2.0
 *
 * What weights are and where they come from, by SHA-256 (spec/checkpoint.md 7): the content id of the tensors, which
 * dinov_content_id finds alone, and the digest of the file they were read from.
 */
#ifndef DINOV_FORMAT_IDENTITY_H
#define DINOV_FORMAT_IDENTITY_H

#include "base/bytes.h"
#include "base/hash.h"
#include "dinov/format.h"

enum { DINOV_CK_ID = 72 }; /* "sha256:", 64 digits, terminator */

typedef struct dinov_identity {
    char content_id[DINOV_CK_ID];
    char source_sha256[DINOV_SHA_HEX + 1]; /* "" without a source */
} dinov_identity;

/* The right length, and the digit 0 throughout. */
void dinov_identity_zeros(dinov_identity *out, bool source);
/* Both at a time, for they read the same bytes; an empty `source` is none. ERR_NOMEM, ERR_CONFIG OPT-THREADS, and of tensors
 * as dinov_content_id. */
dinov_status dinov_identity_find(dinov_identity *out, const dinov_named_tensor *tensors, size_t count, dinov_span source,
                                 int threads, dinov_error *err);

#endif
