/* SPDX-License-Identifier: Apache-2.0
 *
 * The pickle decoder on its own: any bytes give a sound tree or a refusal.
 */
#include "convert/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_pickle pickle;
    dinov_error  err = {0};
    if (dinov_pickle_read(&pickle, data, size, "fuzz", &err) == DINOV_OK) {
        /* What a tree promises: every index inside its array, every string inside the input. */
        DINOV_ASSERT(pickle.root < pickle.node_count);
        for (uint32_t i = 0; i < pickle.node_count; i++) {
            const dinov_node *n = &pickle.nodes[i];
            if (n->kind == DINOV_NODE_STRING)
                DINOV_ASSERT((const uint8_t *)n->text >= data && n->size <= (size_t)(data + size - (const uint8_t *)n->text));
            if (n->kind == DINOV_NODE_STORAGE) DINOV_ASSERT(n->integer < pickle.storage_count);
            if (n->kind == DINOV_NODE_TENSOR) DINOV_ASSERT(n->integer < pickle.tensor_count);
            if (n->kind == DINOV_NODE_TUPLE || n->kind == DINOV_NODE_LIST || n->kind == DINOV_NODE_DICT)
                for (uint32_t k = 0; k < n->count; k++) DINOV_ASSERT(n->items[k] < pickle.node_count);
        }
        for (uint32_t i = 0; i < pickle.tensor_count; i++) DINOV_ASSERT(pickle.tensors[i].storage < pickle.storage_count);
    } else {
        DINOV_ASSERT(err.code[0] && err.msg[0]);
    }
    dinov_pickle_clear(&pickle);
    return 0;
}
