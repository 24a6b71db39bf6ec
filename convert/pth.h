/* SPDX-License-Identifier: Apache-2.0
 *
 * A torch.save file of today: a zip container with a pickle of protocol 2 and one entry per storage. What
 * tensors it gives, and under what names, is torch.h's. Only storages of named tensors are looked at.
 */
#ifndef DINOV_CONVERT_PTH_H
#define DINOV_CONVERT_PTH_H

#include "convert/torch.h"

/* Appends to *out, which is empty; `data` stays alive until it is cleared, also after a failure. Storage CRCs are checked with
 * `threads` threads (0: all cores). ERR_FORMAT: PTH-TORCHSCRIPT, PTH-NO-PICKLE, PTH-VERSION, PTH-BYTEORDER, PTH-STORAGE;
 * and those of zip.h, pickle.h, torch.h. */
dinov_status dinov_pth_read(dinov_tensors *out, dinov_torch_notes *notes, const void *data, size_t size, int threads,
                            const char *where, dinov_error *err);

#endif
