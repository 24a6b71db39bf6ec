/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain safetensors reader: any bytes give tensors that cover the data exactly, or a refusal.
 */
#include "base/dtype.h"
#include "convert/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_tensors tensors = {0};
    dinov_error   err     = {0};
    if (dinov_safetensors_read(&tensors, data, size, "fuzz", &err) == DINOV_OK) {
        uint64_t covered = 0, bytes = 0;
        for (size_t i = 0; i < tensors.count; i++) {
            const dinov_tensor *t = &tensors.items[i].tensor;
            DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
            DINOV_ASSERT((uintptr_t)t->data % dinov_dtype_size(t->dtype) == 0);
            if (bytes) {
                const volatile uint8_t *p = t->data;
                (void)p[0];
                (void)p[bytes - 1];
            }
            covered += bytes;
        }
        DINOV_ASSERT(covered + 8 + dinov_le64(data) == size);
    } else {
        DINOV_ASSERT(err.code[0] && err.msg[0]);
    }
    dinov_tensors_clear(&tensors);
    return 0;
}
