/* SPDX-License-Identifier: Apache-2.0
 *
 * A torch.save file (zip container, pickle of protocol 2) holding a flat state dict: a dict of names
 * to dense tensors. Tensors that lie in row-major order are views into the file's bytes; strided,
 * transposed or misaligned ones are copied, within twice the file's size.
 */
#ifndef DINOV_CONVERT_PTH_H
#define DINOV_CONVERT_PTH_H

#include "convert/pickle.h"
#include "convert/tensors.h"
#include "convert/zip.h"

typedef struct dinov_pth {
    dinov_zip     zip;
    dinov_pickle  pickle;
    dinov_tensors tensors; /* in the dict's order */
    size_t        copied;  /* tensors that were put into row-major order */
} dinov_pth;

/* `data` and `where` stay alive until close. Storage CRCs are checked with `threads` threads (0: all
 * cores). ERR_FORMAT: PTH-TORCHSCRIPT, PTH-NO-PICKLE, PTH-VERSION, PTH-BYTEORDER, PTH-LAYOUT,
 * PTH-STORAGE; ERR_LIMIT: PTH-LARGE; and those of zip.h, pickle.h, tensors.h. */
dinov_status dinov_pth_open(dinov_pth *pth, const void *data, size_t size, int threads, const char *where, dinov_error *err);

/* Also clears what a failed open left. */
void dinov_pth_close(dinov_pth *pth);

#endif
