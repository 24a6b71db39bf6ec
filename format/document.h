/* SPDX-License-Identifier: Apache-2.0
 *
 * The "dinov" document: what a checkpoint says about itself, as a struct and as canonical JSON
 * (spec/checkpoint.md 4 to 8).
 */
#ifndef DINOV_FORMAT_DOCUMENT_H
#define DINOV_FORMAT_DOCUMENT_H

#include "base/text.h"
#include "dinov/format.h"
#include "format/digest.h"
#include "format/identity.h"

/* Views only. A parsed document points into storage of its dinov_document_store. */
typedef struct dinov_document {
    dinov_model         model;
    dinov_preprocess    preprocess;
    dinov_provenance    provenance;
    dinov_proof         proof; /* count 0: none */
    char                content_id[DINOV_CK_ID];
    const dinov_digest *digests; /* of every block, in file order */
    size_t              digest_count;
} dinov_document;

typedef struct dinov_document_store {
    char         *strings[6]; /* of the provenance */
    dinov_golden *cases;
    float        *values; /* of the golden cases */
    dinov_digest *digests;
} dinov_document_store;

/* Every rule on values but those on tensors: printable text, preset grammar, digests' alphabet,
 * golden cases. ERR_SHAPE for the model's numbers, ERR_CONFIG (CK-PREPROCESS, CK-PROVENANCE, CK-PROOF). */
dinov_status dinov_document_check(const dinov_document *doc, const char *where, dinov_error *err);

/* Sides and seed of a golden case are those of section 8. */
bool dinov_golden_legal(const dinov_golden *golden, int64_t patch);

/* Canonical JSON of a checked document. */
void dinov_document_build(dinov_text *text, const dinov_document *doc);

/*
 * Parses, checks, and refuses what dinov_document_build would not have written: byte for byte where
 * the file uses no feature unknown here, value for value otherwise.
 * ERR_VERSION (CK-NEWER, CK-FEATURE, CK-KIND), ERR_CORRUPT, ERR_SHAPE, ERR_LIMIT, ERR_NOMEM.
 */
dinov_status dinov_document_parse(dinov_document *doc, dinov_document_store *store, const char *json, size_t size,
                                  const char *where, dinov_error *err);
void         dinov_document_store_clear(dinov_document_store *store);

#endif
