/* SPDX-License-Identifier: Apache-2.0
 *
 * The two digests of the format: XXH3-128 against damage, SHA-256 for identity. Both as lowercase hex.
 */
#ifndef DINOV_BASE_HASH_H
#define DINOV_BASE_HASH_H

#include "base/fail.h"

enum { DINOV_XXH_HEX = 32, DINOV_SHA_HEX = 64 };

/* `out` gets exactly DINOV_XXH_HEX digits, no terminator: canonical (big-endian) XXH3-128, seed 0. */
void dinov_xxh128_hex(char out[DINOV_XXH_HEX], const void *data, size_t size);

/* A running SHA-256. _init fails only when the library cannot give a context (ERR_NOMEM). */
typedef struct dinov_sha256 {
    void *context;
} dinov_sha256;

dinov_status dinov_sha256_init(dinov_sha256 *sha, dinov_error *err);
void         dinov_sha256_add(dinov_sha256 *sha, const void *data, size_t size);
/* Writes DINOV_SHA_HEX digits and a terminator, and releases the context. */
void dinov_sha256_done(dinov_sha256 *sha, char out[DINOV_SHA_HEX + 1]);

#endif
