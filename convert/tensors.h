/* SPDX-License-Identifier: Apache-2.0
 *
 * A list of named tensors read from a foreign file. Names are owned by the list; tensor bytes are
 * views into the mapped file, or copies, owned by the list or in the scratch it was given, where the
 * file's layout is not ours (strided, misaligned).
 */
#ifndef DINOV_CONVERT_TENSORS_H
#define DINOV_CONVERT_TENSORS_H

#include "base/fail.h"
#include "convert/scratch.h"
#include "dinov/format.h"

enum {
    DINOV_TENSORS_MAX  = 16000, /* tensors in one file */
    DINOV_TENSORS_NAME = 1024,  /* bytes in one name */
};

typedef struct dinov_tensors {
    dinov_named_tensor *items;
    size_t              count, room;
    void              **owned; /* names and copies */
    size_t              owned_count, owned_room;
    dinov_scratch      *scratch; /* NULL: copies lie in memory */
} dinov_tensors;

/* Keeps `p` until the list is cleared; frees it at once when that fails. */
dinov_status dinov_tensors_own(dinov_tensors *list, void *p, const char *where, dinov_error *err);

/* Room for a tensor that cannot stay a view: 64-byte aligned, not cleared, alive until the list is cleared. */
dinov_status dinov_tensors_room(dinov_tensors *list, void **out, uint64_t bytes, const char *where, dinov_error *err);

/* Appends. The name is copied; it must be 1 to 1,024 bytes of printable UTF-8 (NAME-BAD).
 * At most DINOV_TENSORS_MAX tensors (ERR_LIMIT, NAME-COUNT). */
dinov_status dinov_tensors_add(dinov_tensors *list, const char *name, size_t size, const dinov_tensor *tensor, const char *where,
                               dinov_error *err);

void dinov_tensors_clear(dinov_tensors *list);

/* Pointers to `count` tensors sorted by name (dinov_free), and the one of that name or NULL. */
const dinov_named_tensor **dinov_tensors_sort(const dinov_named_tensor *tensors, size_t count);
const dinov_named_tensor  *dinov_tensors_find(const dinov_named_tensor *const *sorted, size_t count, const char *name);

/* "[384, 3, 14, 14]" */
enum { DINOV_SHAPE_TEXT = 192 };
const char *dinov_shape_text(char out[DINOV_SHAPE_TEXT], const dinov_tensor *tensor);

#endif
