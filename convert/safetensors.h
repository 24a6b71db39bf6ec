/* SPDX-License-Identifier: Apache-2.0
 *
 * Plain safetensors files, in and out. The reader holds to every rule of the reference reader
 * (no hole, no overlap, exact end) and refuses duplicate names; tensors are views into the file,
 * misaligned ones are copied.
 */
#ifndef DINOV_CONVERT_SAFETENSORS_H
#define DINOV_CONVERT_SAFETENSORS_H

#include "convert/tensors.h"

/* Appends to *out, which is empty; `data` stays alive until it is cleared, also after a failure.
 * In file order. ERR_FORMAT: ST-HEADER, ST-JSON, ST-ENTRY, ST-DTYPE, ST-OFFSETS, ST-SIZE, ST-END;
 * ERR_LIMIT: ST-LARGE, ST-DEPTH. */
dinov_status dinov_safetensors_read(dinov_tensors *out, const void *data, size_t size, const char *where, dinov_error *err);

/* Writes tensors alone, widest element first, then by name; data begins at a multiple of 64.
 * __metadata__ is {"format": "pt"}. Equal tensors give equal bytes. */
dinov_status dinov_safetensors_write(const char *path, const dinov_named_tensor *tensors, size_t count, int overwrite,
                                     dinov_error *err);

#endif
