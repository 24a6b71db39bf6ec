/* SPDX-License-Identifier: Apache-2.0
 *
 * The zip directory and every entry it names: any bytes give entries that lie inside the file, or a refusal.
 */
#include "convert/zip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_zip   zip;
    dinov_error err = {0};
    if (dinov_zip_open(&zip, data, size, "fuzz", &err) == DINOV_OK) {
        uint64_t covered = 0;
        for (size_t i = 0; i < zip.count; i++) {
            dinov_zip_entry *e = &zip.entries[i];
            const uint8_t   *bytes;
            DINOV_ASSERT(e->packed >= data && e->packed_size <= (size_t)(data + size - e->packed));
            DINOV_ASSERT(dinov_zip_find(&zip, e->name) == e);
            covered += e->end - e->begin;
            if (dinov_zip_bytes(&zip, e, &bytes, &err) == DINOV_OK && e->size) {
                volatile uint8_t last = bytes[e->size - 1];
                (void)last;
            }
        }
        DINOV_ASSERT(covered < size);
    } else {
        DINOV_ASSERT(err.code[0] && err.msg[0]);
    }
    dinov_zip_close(&zip);
    return 0;
}
