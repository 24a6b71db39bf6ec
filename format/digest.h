/* SPDX-License-Identifier: Apache-2.0
 *
 * XXH3-128 over tensor bytes in blocks of 16 MiB, so that one huge tensor keeps every thread busy
 * (spec/checkpoint.md 4.4), and the part of a document that lists them.
 */
#ifndef DINOV_FORMAT_DIGEST_H
#define DINOV_FORMAT_DIGEST_H

#include "base/bytes.h"
#include "base/pool.h"
#include "format/json.h"
#include "format/layout.h"

typedef struct dinov_digest {
    char hex[DINOV_CK_DIGEST_SIZE]; /* no terminator */
} dinov_digest;

typedef struct dinov_block {
    const uint8_t *data;
    size_t         size; /* 1..DINOV_CK_BLOCK */
    size_t         tensor;
} dinov_block;

/* Blocks that `bytes` of one tensor make. */
uint64_t dinov_block_count(uint64_t bytes);

/* Cuts tensors into blocks, in order. *out is owned by the caller (dinov_free). ERR_NOMEM. */
dinov_status dinov_blocks_cut(dinov_block **out, size_t *count, const dinov_span *tensors, size_t tensor_count, const char *where,
                              dinov_error *err);

/* out[i] becomes the digest of blocks[i]. */
void dinov_blocks_digest(dinov_digest *out, const dinov_block *blocks, size_t count, dinov_pool *pool);

/* ,"integrity":{..} */
void dinov_integrity_build(dinov_text *text, const dinov_digest *digests, size_t count);
/* *digests is owned by the caller (dinov_free), also after a failure. ERR_CORRUPT (CK-DOCUMENT), ERR_NOMEM. */
dinov_status dinov_integrity_parse(json_t *root, dinov_digest **digests, size_t *count, const dinov_json *at, dinov_error *err);

#endif
