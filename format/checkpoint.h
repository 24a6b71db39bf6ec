/* SPDX-License-Identifier: Apache-2.0
 *
 * What an open checkpoint is made of. Private to format/.
 */
#ifndef DINOV_FORMAT_CHECKPOINT_H
#define DINOV_FORMAT_CHECKPOINT_H

#include "format/container.h"
#include "format/document.h"

struct dinov_checkpoint {
    dinov_container      file;
    dinov_document       document;
    dinov_document_store store;
    dinov_weights        weights;
};

/* As dinov_checkpoint_open, of a file that is mapped already; takes over `map`. */
dinov_status dinov_checkpoint_open_map(dinov_checkpoint **out, dinov_map map, const char *name, dinov_error *err);

/* What dinov_checkpoint_make takes and gives beyond dinov_checkpoint_write. */
typedef struct dinov_checkpoint_made {
    dinov_span     source;   /* in: the file the weights come from, whose SHA-256 the provenance gets; empty: it says so itself */
    dinov_identity identity; /* out */
    dinov_digest   header;   /* out: the digest of the header */
} dinov_checkpoint_made;

dinov_status dinov_checkpoint_make(const char *path, const dinov_weights *weights, const dinov_provenance *provenance,
                                   const dinov_proof *proof, const dinov_write_options *options, dinov_checkpoint_made *made,
                                   dinov_error *err);

#endif
