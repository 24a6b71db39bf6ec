/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of image/ share: the two decoders behind dinov_image_decode, the EXIF parser, and the
 * limits every picture is held to.
 */
#ifndef DINOV_IMAGE_INTERNAL_H
#define DINOV_IMAGE_INTERNAL_H

#include "base/fail.h"
#include "dinov/image.h"
#include "image/resize.h"

enum { DINOV_IMAGE_MAX_SIDE = 65535, DINOV_IMAGE_MAX_PIXELS = 178956970, DINOV_IMAGE_MAX_SCANS = 100 };

/* One picture of that format from its bytes; `out` is empty before and owned by the caller after.
 * `name` is printable. */
dinov_status dinov_jpeg_decode(dinov_image *out, const void *bytes, size_t size, const char *name, dinov_error *err);
dinov_status dinov_png_decode(dinov_image *out, const void *bytes, size_t size, const char *name, dinov_error *err);

/* The format the first bytes say ("JPEG", "WebP", ...), whether we read it or not; NULL when unknown. */
const char *dinov_image_format(const void *bytes, size_t size);

/* Whether the first bytes alone make it a picture, of any format. */
int dinov_image_is_picture(const void *bytes, size_t size);

/* Whether the ending of a name says picture, of any format. */
int dinov_image_named_picture(const char *path);
/* Whether it says tar shard, packed or not. */
int dinov_image_named_shard(const char *path);

/* ERR_LIMIT (IMG-LARGE) for a picture past the limits above, ERR_CORRUPT for one without pixels. */
dinov_status dinov_image_check_size(uint64_t width, uint64_t height, const char *name, dinov_error *err);

/* The orientation 1..8 in a TIFF-structured EXIF block; 1 when there is none or it makes no sense. */
int dinov_exif_orientation(const void *tiff, size_t size);

#endif
