/* SPDX-License-Identifier: Apache-2.0 */
#include "format/checkpoint.h"
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

static void identify(dinov_document *doc, const dinov_identity *identity)
{
    memcpy(doc->content_id, identity->content_id, sizeof doc->content_id);
    if (*identity->source_sha256) doc->provenance.source_sha256 = identity->source_sha256;
}

dinov_status dinov_checkpoint_make(const char *path, const dinov_weights *weights, const dinov_provenance *provenance,
                                   const dinov_proof *proof, const dinov_write_options *options, dinov_checkpoint_made *made,
                                   dinov_error *err)
{
    const dinov_write_options defaults = {0};
    dinov_status              status;
    char                      where[DINOV_ESCAPED];
    const dinov_json          at = {where, "the dinov document", "backbone"};
    dinov_document            doc;
    dinov_text                json   = {0};
    dinov_making              making = {0};

    if (!options) options = &defaults;
    dinov_escape(where, sizeof where, path, strlen(path));
    describe(&doc, weights, provenance, proof);
    DINOV_TRY_GOTO(dinov_document_check(&doc, where, err));
    DINOV_TRY_GOTO(dinov_making_sort(&making, weights->tensors, weights->count, where, err));
    DINOV_TRY_GOTO(dinov_weights_check(weights, where, err));
    doc.digests      = making.digests;
    doc.digest_count = making.digest_count;
    dinov_identity_zeros(&made->identity, made->source.size > 0);
    identify(&doc, &made->identity);
    dinov_document_build(&json, &doc);
    DINOV_TRY_GOTO(dinov_making_start(&making, &json, path, options->overwrite, options->threads, &at, err));

    DINOV_TRY_GOTO(dinov_identity_find(&made->identity, weights->tensors, weights->count, made->source, options->threads, err));
    DINOV_TRY_GOTO(dinov_making_digest(&making, options->threads, where, err));
    identify(&doc, &made->identity);
    dinov_text_clear(&json);
    dinov_document_build(&json, &doc);
    DINOV_TRY_GOTO(dinov_making_finish(&making, &json, &made->header, &at, err));
fail:
    dinov_text_clear(&json);
    dinov_making_clear(&making);
    return status;
}

dinov_status dinov_checkpoint_write(const char *path, const dinov_weights *weights, const dinov_provenance *provenance,
                                    const dinov_proof *proof, const dinov_write_options *options, dinov_error *err)
{
    dinov_checkpoint_made made = {0};
    return dinov_checkpoint_make(path, weights, provenance, proof, options, &made, err);
}
