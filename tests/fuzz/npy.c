/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as an .npy file: refused, or an array whose every byte can be read.
 */
#include "infer/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink; /* every byte is read, so that a sanitizer sees one never written */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_npy   a;
    dinov_error err;

    if (dinov_npy_parse_f32(&a, data, size, "fuzz.npy", &err) == DINOV_OK) {
        DINOV_ASSERT(a.data + a.size == data + size && a.size % 4 == 0);
        for (uint64_t i = 0; i < a.size; i++) sink += a.data[i];
    }
    return 0;
}
