/* SPDX-License-Identifier: Apache-2.0
 *
 * A batch as one picture, to see what a configuration makes of the data before anything is trained on
 * it: a row for each image, its two global crops with masked patches darkened, then its local crops.
 */
#ifndef DINOV_TRAIN_DATA_PREVIEW_H
#define DINOV_TRAIN_DATA_PREVIEW_H

#include "train/data/loader.h"

enum { DINOV_PREVIEW_ROWS = 16 }; /* a fair number of images to show */

/* The first `rows` images as a PNG file. Errors: those of dinov_png_write. */
dinov_status dinov_preview_write(const char *path, const dinov_batch *batch, int64_t rows, int overwrite, dinov_error *err);

#endif
