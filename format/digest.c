/* SPDX-License-Identifier: Apache-2.0 */
#include "format/digest.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <string.h>

_Static_assert(sizeof(dinov_digest) == DINOV_XXH_HEX, "a digest is the hex of one XXH3-128");

uint64_t dinov_block_count(uint64_t bytes) { return bytes / DINOV_CK_BLOCK + (bytes % DINOV_CK_BLOCK != 0); }

dinov_status dinov_blocks_cut(dinov_block **out, size_t *count, const dinov_span *tensors, size_t tensor_count,
                              const char *where, dinov_error *err)
{
    size_t total = 0, next = 0;
    for (size_t i = 0; i < tensor_count; i++) total += dinov_block_count(tensors[i].size);

    dinov_block *blocks = dinov_alloc(total, sizeof *blocks);
    if (!blocks) return dinov_fail_nomem(err, where, "the list of blocks");
    for (size_t i = 0; i < tensor_count; i++) {
        for (uint64_t at = 0; at < tensors[i].size; at += DINOV_CK_BLOCK) {
            uint64_t left  = tensors[i].size - at;
            blocks[next++] = (dinov_block){tensors[i].data + at, left < DINOV_CK_BLOCK ? left : DINOV_CK_BLOCK, i};
        }
    }
    *out   = blocks;
    *count = total;
    return DINOV_OK;
}

struct job {
    dinov_digest      *out;
    const dinov_block *blocks;
};

static void digest_one(void *arg, int64_t i, int worker)
{
    const struct job *job = arg;
    (void)worker;
    dinov_xxh128_hex(job->out[i].hex, job->blocks[i].data, job->blocks[i].size);
}

void dinov_blocks_digest(dinov_digest *out, const dinov_block *blocks, size_t count, dinov_pool *pool)
{
    struct job job = {out, blocks};
    dinov_pool_run(pool, (int64_t)count, digest_one, &job);
}

void dinov_integrity_build(dinov_text *t, const dinov_digest *digests, size_t count)
{
    dinov_json_put_int(t, ",\"integrity\":{\"algorithm\":\"xxh3-128\",\"block\":", DINOV_CK_BLOCK);
    dinov_text_puts(t, ",\"digests\":[");
    for (size_t i = 0; i < count; i++) {
        dinov_text_puts(t, i ? ",\"" : "\"");
        dinov_text_add(t, digests[i].hex, sizeof digests[i].hex);
        dinov_text_puts(t, "\"");
    }
    dinov_text_puts(t, "]}");
}

dinov_status dinov_integrity_parse(json_t *root, dinov_digest **digests, size_t *count, const dinov_json *at, dinov_error *err)
{
    json_error_t e;
    json_t      *list;

    *digests = NULL;
    if (json_unpack_ex(root, &e, 0, "{s:{s:o}}", "integrity", "digests", &list) != 0) return dinov_json_failed(at, &e, err);
    if (!json_is_array(list)) return dinov_json_bad(at, "integrity.digests is no array", err);
    *count   = json_array_size(list);
    *digests = dinov_alloc(*count, sizeof **digests);
    if (!*digests) return dinov_fail_nomem(err, at->where, "its digests");
    for (size_t i = 0; i < *count; i++) {
        const json_t *digest = json_array_get(list, i);
        if (!json_is_string(digest) || json_string_length(digest) != DINOV_CK_DIGEST_SIZE ||
            !dinov_json_hex(json_string_value(digest), DINOV_CK_DIGEST_SIZE))
            return dinov_json_bad(at, "a digest is not 32 lowercase hex digits", err);
        memcpy((*digests)[i].hex, json_string_value(digest), DINOV_CK_DIGEST_SIZE);
    }
    return DINOV_OK;
}
