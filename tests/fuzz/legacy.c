/* SPDX-License-Identifier: Apache-2.0
 *
 * torch.save's layout from before PyTorch 1.6: any bytes behind its magic number give tensors that lie inside the
 * file or its copies, or a refusal.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "convert/legacy.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_tensors     tensors = {0};
    dinov_torch_notes notes   = {0};
    dinov_error       err     = {0};
    if (dinov_legacy_read(&tensors, &notes, data, size, "fuzz", &err) == DINOV_OK) {
        DINOV_ASSERT(tensors.count > 0 && notes.copied <= tensors.count);
        for (size_t i = 0; i < tensors.count; i++) {
            const dinov_tensor *t = &tensors.items[i].tensor;
            uint64_t            bytes;
            DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
            DINOV_ASSERT((uintptr_t)t->data % dinov_dtype_size(t->dtype) == 0);
            if (bytes) {
                const volatile uint8_t *p = t->data;
                (void)p[0];
                (void)p[bytes - 1];
            }
        }
    } else {
        DINOV_ASSERT(err.code[0] && err.msg[0]);
    }
    dinov_tensors_clear(&tensors);
    return 0;
}
