/* SPDX-License-Identifier: Apache-2.0
 *
 * What documents of every kind share: how they are spelled, how large they may be, and how a newer one
 * is told from a damaged one (spec/checkpoint.md 4.1, 4.2, 10).
 */
#ifndef DINOV_FORMAT_JSON_H
#define DINOV_FORMAT_JSON_H

#include "base/fail.h"
#include "base/text.h"

#include <jansson.h>

/* A document in messages. */
typedef struct dinov_json {
    const char *where; /* the file */
    const char *what;  /* "the dinov document" */
    const char *kind;  /* the member `kind` that is expected */
} dinov_json;

/* Building: `before` is everything up to the value, such as ",\"dim\":". */
void dinov_json_put_int(dinov_text *text, const char *before, int64_t value);
void dinov_json_put_string(dinov_text *text, const char *before, const char *value);
/* {"version":{..},"kind":".." of version 1 without features. */
void dinov_json_put_version(dinov_text *text, const char *before, const char *kind);

/* Size, depth and number of values, without a parser: ERR_LIMIT (CK-DOCUMENT-LARGE). Escapes other
 * than those of section 3.3: ERR_CORRUPT (CK-DOCUMENT). */
dinov_status dinov_json_limits(const char *json, size_t size, const dinov_json *at, dinov_error *err);

/* Parses a text that has passed the limits. ERR_CORRUPT (CK-DOCUMENT), ERR_NOMEM. */
dinov_status dinov_json_load(json_t **out, const char *json, size_t size, const dinov_json *at, dinov_error *err);

/* Looked at before anything else, so that a newer file is called newer and not damaged. *exact: nothing in the file is
 * unknown to this reader. ERR_VERSION (CK-NEWER, CK-FEATURE, CK-KIND), ERR_CORRUPT. */
dinov_status dinov_json_version(json_t *root, bool *exact, const dinov_json *at, dinov_error *err);

/* The text is what its values are spelled as: byte for byte when `exact`, value for value otherwise. ERR_CORRUPT
 * (CK-CANONICAL, CK-DOCUMENT), ERR_NOMEM. */
dinov_status dinov_json_confirm(json_t *root, const char *json, size_t size, const dinov_text *canonical, bool exact,
                                const dinov_json *at, dinov_error *err);

/* CK-DOCUMENT: a sentence of our own, or jansson's. */
dinov_status dinov_json_bad(const dinov_json *at, const char *what, dinov_error *err);
dinov_status dinov_json_failed(const dinov_json *at, const json_error_t *e, dinov_error *err);

bool dinov_json_hex(const char *text, size_t count);

#endif
