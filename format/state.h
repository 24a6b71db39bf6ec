/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of training state: whole tensors under the digests of section 3 and 4.4, with a document that
 * says which step they are of and which part of its state they are (spec/checkpoint.md 12.2).
 */
#ifndef DINOV_FORMAT_STATE_H
#define DINOV_FORMAT_STATE_H

#include "format/container.h"

enum { DINOV_STATE_MAX_ITERATION = 999999999, DINOV_STATE_MAX_PARTS = 4096 };

typedef struct dinov_state_info {
    int64_t iteration;   /* steps done, 0..DINOV_STATE_MAX_ITERATION */
    int64_t part, parts; /* part 0..parts-1 of the step's state, parts up to DINOV_STATE_MAX_PARTS */
} dinov_state_info;

typedef struct dinov_state_file dinov_state_file;

/* Takes over `map` and hands out views into it until close. ERR_CORRUPT (CK-..), ERR_FORMAT, ERR_VERSION, ERR_LIMIT, ERR_NOMEM as
 * dinov_checkpoint_open. */
dinov_status dinov_state_open(dinov_state_file **out, dinov_map map, const char *name, dinov_error *err);
/* The same for bytes that stay the caller's. */
dinov_status dinov_state_open_memory(dinov_state_file **out, const void *data, size_t size, const char *name, dinov_error *err);
/* NULL, or a pointer to NULL, is allowed. */
void dinov_state_close(dinov_state_file **file);

const dinov_state_info *dinov_state_get_info(const dinov_state_file *file);
const dinov_container  *dinov_state_container(const dinov_state_file *file);

/* Writes a file durably, whole or not at all; an existing one is refused. digest (NULL allowed) becomes that of its header.
 * ERR_SHAPE (CK-NAME, CK-DUPLICATE, CK-SIZE), ERR_LIMIT, ERR_IO, ERR_NOMEM. */
dinov_status dinov_state_write(const char *path, const dinov_state_info *info, const dinov_named_tensor *tensors, size_t count,
                               int threads, dinov_digest *digest, dinov_error *err);

/* The tensors of part `part` of `parts`: runs of the list sorted by name, of about equal bytes, so that ranks agree without
 * talking. `sorted` by dinov_table_sort_names; *first and *count receive the run. */
void dinov_state_share(const dinov_named_tensor *const *sorted, size_t total, int64_t part, int64_t parts, size_t *first, size_t *count);

/* The canonical document of a file, for tests. */
void dinov_state_document(dinov_text *text, const dinov_state_info *info, const dinov_digest *digests, size_t count);

#endif
