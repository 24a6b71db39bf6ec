/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoded pictures of a source, remembered up to a number of bytes, because small data sets are
 * read thousands of times; and which of them cannot be read, and why. What is remembered stays: when
 * the memory is full, further pictures are decoded anew each time.
 *
 * Any thread may call.
 */
#ifndef DINOV_TRAIN_DATA_PICTURES_H
#define DINOV_TRAIN_DATA_PICTURES_H

#include "image/source.h"

#include <stdbool.h>

typedef struct dinov_pictures dinov_pictures;

/* The source is borrowed. ERR_NOMEM. */
dinov_status dinov_pictures_new(dinov_pictures **out, const dinov_source *source, size_t limit, dinov_error *err);
void         dinov_pictures_free(dinov_pictures **pictures);

/* A picture: the caller's to clear when *owned. When it cannot be read, *why says so, valid until free,
 * and the call still succeeds. ERR_NOMEM. */
dinov_status dinov_pictures_get(dinov_pictures *pictures, int64_t item, dinov_image *out, bool *owned, const dinov_error **why,
                                dinov_error *err);

/* Of an unreadable item: why, the first time it is asked; NULL after that, and for other items. */
const dinov_error *dinov_pictures_tell(dinov_pictures *pictures, int64_t item);

/* Bytes of pictures remembered. */
size_t dinov_pictures_bytes(dinov_pictures *pictures);

#endif
