/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pickle of torch.save says, as named tensors, whichever container it and the storages came in
 * (pth.h, legacy.h). Dicts within dicts give dotted names; what is no tensor is passed over. Tensors in
 * row-major order are views into their storages; strided, transposed or misaligned ones are copied.
 */
#ifndef DINOV_CONVERT_TORCH_H
#define DINOV_CONVERT_TORCH_H

#include "convert/pickle.h"
#include "convert/tensors.h"

#include <stdbool.h>

/* What reading a torch.save file has met. */
typedef struct dinov_torch_notes {
    size_t copied; /* tensors that were put into row-major order */
    bool   no_crc; /* the writer had switched CRCs off: damage cannot be seen */
} dinov_torch_notes;

/* Appends every tensor that is reached through string keys alone, without its bytes; (*which)[i] (dinov_free) is the index of
 * item i in pickle->tensors. Optimizer states are keyed by numbers and so have no names.
 * ERR_FORMAT: PTH-LAYOUT, PTH-DUPLICATE, NAME-BAD; ERR_LIMIT: NAME-COUNT, PKL-LARGE. */
dinov_status dinov_torch_names(dinov_tensors *out, uint32_t **which, const dinov_pickle *pickle, const char *where,
                               dinov_error *err);

/* Gives each tensor its bytes: storages[i] are those of pickle->storages[i], NULL where no tensor of `which` needs them.
 * Copies take at most twice `file_size`. ERR_LIMIT: PTH-LARGE. */
dinov_status dinov_torch_fill(dinov_tensors *out, const uint32_t *which, const dinov_pickle *pickle, const uint8_t *const *storages,
                              uint64_t file_size, size_t *copied, const char *where, dinov_error *err);

/* Pointers to the storages (dinov_free), sorted by key, each key once: a storage may be described many times, always alike
 * (ERR_FORMAT: PTH-STORAGE). */
dinov_status dinov_torch_storages(const dinov_pickle_storage ***sorted, uint32_t *count, const dinov_pickle *pickle,
                                  const char *where, dinov_error *err);

#endif
