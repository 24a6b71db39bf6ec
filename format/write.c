/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "base/file.h"
#include "format/header.h"
#include "format/params.h"

#include <string.h>

/* Absent texts are empty ones. */
static const char *text(const char *given) { return given ? given : ""; }

static void describe(dinov_document *doc, const dinov_weights *weights, const dinov_provenance *provenance,
                     const dinov_proof *proof)
{
    *doc = (dinov_document){.model = weights->model, .preprocess = weights->preprocess};
    if (proof) doc->proof = *proof;
    dinov_provenance none = {0};
    if (!provenance) provenance = &none;
    doc->provenance = (dinov_provenance){
        text(provenance->source_format), text(provenance->source_sha256), text(provenance->converter),
        text(provenance->transforms),    text(provenance->licence),       text(provenance->origin),
    };
}

/* Digests of every block and the content id. *digests is owned by the caller. */
static dinov_status digest_all(dinov_document *doc, dinov_digest **digests, const dinov_span *spans,
                               const dinov_weights *weights, int threads, const char *where, dinov_error *err)
{
    dinov_status status;
    dinov_block *blocks = NULL;
    dinov_pool  *pool   = NULL;

    DINOV_TRY_GOTO(dinov_content_id(doc->content_id, weights->tensors, weights->count, threads, err));
    DINOV_TRY_GOTO(dinov_blocks_cut(&blocks, &doc->digest_count, spans, weights->count, where, err));
    *digests = dinov_alloc(doc->digest_count, sizeof **digests);
    if (!*digests) {
        status = dinov_fail_nomem(err, where, "digests");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_pool_new(&pool, threads, err));
    dinov_blocks_digest(*digests, blocks, doc->digest_count, pool);
    doc->digests = *digests;
fail:
    dinov_pool_free(&pool);
    dinov_free(blocks);
    return status;
}

static dinov_status write_file(const char *path, int overwrite, const dinov_text *header, const dinov_span *spans,
                               size_t count, dinov_error *err)
{
    dinov_status status;
    dinov_out   *out = NULL;

    DINOV_TRY_GOTO(dinov_out_open(&out, path, overwrite, err));
    DINOV_TRY_GOTO(dinov_out_write(out, header->data, header->size, err));
    for (size_t i = 0; i < count; i++) DINOV_TRY_GOTO(dinov_out_write(out, spans[i].data, spans[i].size, err));
    return dinov_out_commit(&out, err);
fail:
    dinov_out_abort(&out);
    return status;
}

dinov_status dinov_checkpoint_write(const char *path, const dinov_weights *weights, const dinov_provenance *provenance,
                                    const dinov_proof *proof, const dinov_write_options *options, dinov_error *err)
{
    const dinov_write_options  defaults = {0};
    dinov_status               status;
    char                       where[DINOV_ESCAPED];
    dinov_document             doc;
    dinov_digest              *digests = NULL;
    dinov_text                 header  = {0};
    size_t                     count   = weights->count;
    dinov_span                *spans   = dinov_alloc(count, sizeof *spans);
    const dinov_named_tensor **sorted  = dinov_alloc(count, sizeof *sorted);

    if (!options) options = &defaults;
    dinov_escape(where, sizeof where, path, strlen(path));
    if (!spans || !sorted) {
        status = dinov_fail_nomem(err, where, "the list of tensors");
        goto fail;
    }
    describe(&doc, weights, provenance, proof);
    DINOV_TRY_GOTO(dinov_document_check(&doc, where, err));
    for (size_t i = 0; i < count; i++) sorted[i] = &weights->tensors[i];
    DINOV_TRY_GOTO(dinov_table_sort(sorted, count, where, err));
    DINOV_TRY_GOTO(dinov_weights_check(weights, where, err));

    for (size_t i = 0; i < count; i++) {
        spans[i].data = sorted[i]->tensor.data;
        dinov_tensor_bytes(&sorted[i]->tensor, &spans[i].size);
    }
    DINOV_TRY_GOTO(digest_all(&doc, &digests, spans, weights, options->threads, where, err));
    DINOV_TRY_GOTO(dinov_header_build(&header, &doc, sorted, count, where, err));
    DINOV_TRY_GOTO(write_file(path, options->overwrite, &header, spans, count, err));
fail:
    dinov_text_clear(&header);
    dinov_free(digests);
    dinov_free(sorted);
    dinov_free(spans);
    return status;
}
