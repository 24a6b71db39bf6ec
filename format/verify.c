/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"
#include "format/checkpoint.h"

static dinov_status damaged(const dinov_checkpoint *ckpt, const dinov_block *block, const dinov_digest *found,
                            const dinov_digest *stated, dinov_error *err)
{
    uint64_t at = ckpt->data_at + (uint64_t)(block->data - ckpt->data);
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DIGEST",
                      "%s: tensor %s is damaged between bytes %llu and %llu of the file: their digest is %.32s, expected %.32s",
                      ckpt->name, ckpt->table.tensors[block->tensor].name, (unsigned long long)at,
                      (unsigned long long)(at + block->size), found->hex, stated->hex);
}

dinov_status dinov_checkpoint_verify(const dinov_checkpoint *ckpt, int threads, dinov_error *err)
{
    dinov_status  status;
    size_t        count  = ckpt->table.count, block_count;
    dinov_block  *blocks = NULL;
    dinov_digest *found  = NULL;
    dinov_pool   *pool   = NULL;
    dinov_span   *spans  = dinov_alloc(count, sizeof *spans);

    if (!spans) return dinov_fail_nomem(err, ckpt->name, "the list of tensors");
    for (size_t i = 0; i < count; i++) spans[i] = dinov_checkpoint_span(ckpt, i);
    DINOV_TRY_GOTO(dinov_blocks_cut(&blocks, &block_count, spans, count, ckpt->name, err));
    found = dinov_alloc(block_count, sizeof *found);
    if (!found) {
        status = dinov_fail_nomem(err, ckpt->name, "digests");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_pool_new(&pool, threads, err));
    dinov_blocks_digest(found, blocks, block_count, pool);
    DINOV_ASSERT(block_count == ckpt->document.digest_count); /* checked when it was opened */
    for (size_t i = 0; i < block_count && status == DINOV_OK; i++)
        if (memcmp(&found[i], &ckpt->document.digests[i], sizeof found[i]) != 0)
            status = damaged(ckpt, &blocks[i], &found[i], &ckpt->document.digests[i], err);
fail:
    dinov_pool_free(&pool);
    dinov_free(found);
    dinov_free(blocks);
    dinov_free(spans);
    return status;
}

dinov_status dinov_checkpoint_verify_id(const dinov_checkpoint *ckpt, int threads, dinov_error *err)
{
    char id[DINOV_CK_ID];
    DINOV_TRY(dinov_content_id(id, ckpt->table.tensors, ckpt->table.count, threads, err));
    if (strcmp(id, ckpt->document.content_id) == 0) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-ID", "%s: the content id of its tensors is %s, the file says %s", ckpt->name, id,
                      ckpt->document.content_id);
}
