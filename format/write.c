/* SPDX-License-Identifier: Apache-2.0 */
#include "format/checkpoint.h"
#include "format/params.h"

#include <stdio.h>
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

dinov_status dinov_checkpoint_make(const char *path, const dinov_weights *weights, const dinov_provenance *provenance,
                                   const dinov_proof *proof, const dinov_write_options *options, dinov_digest *digest,
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
    if (options->content_id)
        snprintf(doc.content_id, sizeof doc.content_id, "%s", options->content_id);
    else
        DINOV_TRY_GOTO(dinov_content_id(doc.content_id, weights->tensors, weights->count, options->threads, err));
    DINOV_TRY_GOTO(dinov_making_digest(&making, options->threads, where, err));
    doc.digests      = making.digests;
    doc.digest_count = making.digest_count;
    dinov_document_build(&json, &doc);
    DINOV_TRY_GOTO(dinov_making_write(&making, &json, path, options->overwrite, digest, &at, err));
fail:
    dinov_text_clear(&json);
    dinov_making_clear(&making);
    return status;
}

dinov_status dinov_checkpoint_write(const char *path, const dinov_weights *weights, const dinov_provenance *provenance,
                                    const dinov_proof *proof, const dinov_write_options *options, dinov_error *err)
{
    return dinov_checkpoint_make(path, weights, provenance, proof, options, NULL, err);
}
