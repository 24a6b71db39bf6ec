/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures written, for people to look at.
 */
#ifndef DINOV_IMAGE_ENCODE_H
#define DINOV_IMAGE_ENCODE_H

#include "base/fail.h"

/* An 8-bit RGB picture [height, width, 3] as a PNG file. Errors: those of dinov_out_open and _commit, ERR_NOMEM. */
dinov_status dinov_png_write(const char *path, const uint8_t *pixels, int64_t width, int64_t height, int overwrite,
                             dinov_error *err);

#endif
