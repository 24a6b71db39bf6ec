/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a tar shard, plain or packed: whatever the index names lies inside the archive, and what
 * cannot be indexed is a problem with a code.
 */
#include "base/alloc.h"
#include "image/shard.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink; /* every byte is read, so that a sanitizer sees one never written */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_shard    shard;
    dinov_problems problems = {0};
    dinov_error    err      = {0};
    if (dinov_shard_index(&shard, data, size, "fuzz", 1 << 20, &problems, &err) == DINOV_OK) {
        uint64_t last = 0;
        for (int64_t i = 0; i < shard.count; i++) {
            void                   *bytes;
            size_t                  read;
            const dinov_shard_item *item = &shard.items[i];
            DINOV_ASSERT(item->offset >= last && item->size <= shard.size - item->offset && item->label >= -1);
            DINOV_ASSERT(item->name < shard.names_size && strchr(shard.names + item->name, '.'));
            last = item->offset;
            DINOV_ASSERT(dinov_shard_read(&shard, i, &bytes, &read, &err) == DINOV_OK && read == item->size);
            for (size_t k = 0; k < read; k++) sink += ((uint8_t *)bytes)[k];
            dinov_free(bytes);
        }
    } else {
        DINOV_ASSERT(err.status == DINOV_ERR_LIMIT && err.code[0] && err.msg[0]);
    }
    for (int64_t i = 0; i < problems.kept; i++) DINOV_ASSERT(problems.list[i].code[0] && problems.list[i].status != DINOV_OK);
    dinov_shard_close(&shard);
    dinov_problems_clear(&problems);
    return 0;
}
