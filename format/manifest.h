/* SPDX-License-Identifier: Apache-2.0
 *
 * manifest.json: what makes a folder a training checkpoint. It is written last and holds the digests of
 * all other files (spec/checkpoint.md 12.1).
 */
#ifndef DINOV_FORMAT_MANIFEST_H
#define DINOV_FORMAT_MANIFEST_H

#include "format/state.h"

#define DINOV_MANIFEST      "manifest.json"
#define DINOV_BACKBONE_FILE "backbone.safetensors"

enum { DINOV_MANIFEST_BYTES = 4 << 20, DINOV_MANIFEST_NAME = 48, DINOV_MANIFEST_FILES = 1 + DINOV_STATE_MAX_PARTS };

/* The backbone, then the parts of the state in order. */
typedef struct dinov_manifest_file {
    uint64_t     bytes;
    dinov_digest header;
} dinov_manifest_file;

/* What a step needs besides tensors. Strings belong to the manifest that was parsed, or to the caller who writes. */
typedef struct dinov_manifest {
    int64_t     iteration;  /* steps done, 0..DINOV_STATE_MAX_ITERATION */
    int64_t     adam_step;  /* optimiser steps taken */
    int64_t     samples;    /* drawn from the data: where the loader goes on */
    int64_t     bad_steps;  /* in a row, up to here */
    const char *isa;        /* instruction set: another one would round differently */
    const char *teacher;    /* distillation: where the teacher was, else "" */
    const char *teacher_id; /* and its content id, else "" */
    const char *config;     /* the effective configuration, YAML: whole lines of printable text */

    const dinov_manifest_file *files;
    size_t                     file_count; /* 2..DINOV_MANIFEST_FILES */
} dinov_manifest;

/* "backbone.safetensors", "state-00000.safetensors", .. */
const char *dinov_manifest_file_name(char out[DINOV_MANIFEST_NAME], size_t index);

/* All that a reader would refuse of the texts and numbers (the files apart). ERR_CONFIG (MAN-TEXT). */
dinov_status dinov_manifest_check(const dinov_manifest *manifest, const char *where, dinov_error *err);

/* Canonical bytes of a manifest that was checked. */
void dinov_manifest_build(dinov_text *text, const dinov_manifest *manifest);

/* Strict: the digest first, then the version, then what dinov_manifest_build would have written. *storage (dinov_manifest_free)
 * holds strings and files. ERR_FORMAT (MAN-FORMAT), ERR_CORRUPT (MAN-TRUNCATED, MAN-DIGEST, and CK-.. of documents), ERR_VERSION,
 * ERR_LIMIT (MAN-LARGE), ERR_NOMEM. */
dinov_status dinov_manifest_parse(dinov_manifest *out, void **storage, const void *bytes, size_t size, const char *where,
                                  dinov_error *err);
void         dinov_manifest_free(void *storage); /* NULL allowed */

#endif
