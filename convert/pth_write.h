/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a flat state dict as a torch.save file: to the byte the layout torch.save gives it, except that the
 * pickle remembers nothing and dates are fixed. Any PyTorch since 1.6 opens it with weights_only=True, newer
 * ones also with mmap=True. The reader is pth.h.
 */
#ifndef DINOV_CONVERT_PTH_WRITE_H
#define DINOV_CONVERT_PTH_WRITE_H

#include "base/fail.h"
#include "dinov/format.h"

/* In the order given, one storage per tensor, each at a multiple of 64. Equal tensors in equal order give
 * equal bytes, whatever the file's name. ERR_IO as of base/file.h. */
dinov_status dinov_pth_write(const char *path, const dinov_named_tensor *tensors, size_t count, int overwrite, dinov_error *err);

#endif
