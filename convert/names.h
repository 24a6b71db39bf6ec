/* SPDX-License-Identifier: Apache-2.0
 *
 * The names DINOv2 weights go by: the official hub's, Hugging Face's (4.x in files, 5.x in memory) and
 * timm's. One table for both directions: reading renames and joins rows, writing renames and splits
 * them. Training checkpoints have the hub's names behind prefixes, which are stripped.
 */
#ifndef DINOV_CONVERT_NAMES_H
#define DINOV_CONVERT_NAMES_H

#include "convert/tensors.h"

#include <stdbool.h>

typedef enum dinov_naming {
    DINOV_NAMING_HUB  = 1,
    DINOV_NAMING_HF   = 2,
    DINOV_NAMING_TIMM = 3,
} dinov_naming;

enum { DINOV_NAMES_PIECES = 3 };

/* What one hub tensor is made of: rows of zeros, then the pieces one below the other. Neither: all of it is zeros. */
typedef struct dinov_made {
    const dinov_named_tensor *piece[DINOV_NAMES_PIECES];
    int                       pieces;
    int64_t                   zeros; /* rows */
} dinov_made;

typedef struct dinov_names {
    dinov_naming  naming;
    dinov_tensors tensors; /* under hub names; `data` is NULL where dinov_names_fill has to make it */
    dinov_made   *made;    /* of each of them */
    /* Of each source tensor: NULL when it is taken, else why not, such as "a head"; "" when nobody knows it. */
    const char **fate;
    size_t       count; /* source tensors */
    size_t       passed, leftover, first_passed, first_leftover;
    bool         restored;        /* mask_token is in the source */
    char         transforms[128]; /* what becomes of the tensors, comma-separated: "hf-names,joined,mask_token-zeros" */
} dinov_names;

/* Finds for every source tensor its place. `tensors` stay alive until clear; also cleared by the caller after a failure. Of a
 * teacher and a student the teacher is taken. ERR_FORMAT: NAMES-FLAT, NAMES-TWICE, NAMES-PIECES. */
dinov_status dinov_names_map(dinov_names *out, const dinov_named_tensor *tensors, size_t count, const char *where,
                             dinov_error *err);
/* Nothing is left that nobody knows. ERR_FORMAT (NAMES-LEFTOVER). */
dinov_status dinov_names_check(const dinov_names *names, const dinov_named_tensor *tensors, const char *where, dinov_error *err);
/* Makes the data of joined and missing tensors, whose shapes the caller has checked. ERR_NOMEM. */
dinov_status dinov_names_fill(dinov_names *names, const char *where, dinov_error *err);
void         dinov_names_clear(dinov_names *names);

/* A whole model's tensors as `to` calls and splits them, in the hub's order: views, but for what timm adds up. *out is also
 * cleared by the caller after a failure. */
dinov_status dinov_names_rename(dinov_tensors *out, const dinov_weights *weights, dinov_naming to, const char *where,
                                dinov_error *err);

#endif
