/* SPDX-License-Identifier: Apache-2.0
 *
 * torch.save's layout from before PyTorch 1.6: pickles one after the other (a magic number, a version, a
 * description of the machine, the object, the keys of its storages), then the storages, with nothing between
 * them and no checksum. What tensors it gives, and under what names, is torch.h's.
 */
#ifndef DINOV_CONVERT_LEGACY_H
#define DINOV_CONVERT_LEGACY_H

#include "convert/torch.h"

/* True when the bytes begin with that magic number, which is 15 bytes long. */
bool dinov_legacy_is(const void *data, size_t size);

/* Appends to *out, which is empty; `data` stays alive until it is cleared, also after a failure. ERR_FORMAT: PTH-HEADER,
 * PTH-BYTEORDER, PTH-KEYS, PTH-STORAGE, PTH-END; and those of pickle.h, torch.h. */
dinov_status dinov_legacy_read(dinov_tensors *out, dinov_torch_notes *notes, const void *data, size_t size, const char *where,
                               dinov_error *err);

#endif
