/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a file of training state: opened, verified, every tensor walked. What opens under this version without
 * unknown features has exactly one spelling: its header, built again from what was read, is the same bytes.
 */
#include "base/dtype.h"
#include "format/state.h"
#include "tests/fuzz/mutator.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void walk(const dinov_state_file *file)
{
    const dinov_container  *c    = dinov_state_container(file);
    const dinov_state_info *info = dinov_state_get_info(file);
    DINOV_ASSERT(info->iteration >= 0 && info->iteration <= DINOV_STATE_MAX_ITERATION);
    DINOV_ASSERT(info->part >= 0 && info->part < info->parts && info->parts <= DINOV_STATE_MAX_PARTS);
    for (size_t i = 0; i < c->table.count; i++) {
        const dinov_tensor *t   = &c->table.tensors[i].tensor;
        uint64_t            bytes;
        unsigned            sum = 0;
        DINOV_ASSERT(dinov_tensor_bytes(t, &bytes) && (uintptr_t)t->data % dinov_dtype_size(t->dtype) == 0);
        for (uint64_t k = 0; k < bytes; k++) sum += ((const uint8_t *)t->data)[k];
        sink = sum + (unsigned)strlen(c->table.tensors[i].name);
    }
}

/* The one legal header for what the file holds. */
static void rebuild(const dinov_state_file *file, const uint8_t *data)
{
    const dinov_json           at      = {"fuzz", "the document", "training-state"};
    const dinov_container     *c       = dinov_state_container(file);
    const dinov_named_tensor **tensors = calloc(c->table.count + 1, sizeof *tensors);
    dinov_text                 json = {0}, header = {0};
    for (size_t i = 0; i < c->table.count; i++) tensors[i] = &c->table.tensors[i];
    DINOV_ASSERT(dinov_table_sort(tensors, c->table.count, "fuzz", NULL) == DINOV_OK);
    for (size_t i = 0; i < c->table.count; i++) DINOV_ASSERT(tensors[i] == &c->table.tensors[i]);
    dinov_state_document(&json, dinov_state_get_info(file), c->digests, c->digest_count);
    DINOV_ASSERT(dinov_header_build(&header, &json, tensors, c->table.count, &at, NULL) == DINOV_OK);
    DINOV_ASSERT(header.size == c->data_at && memcmp(header.data, data, header.size) == 0);
    dinov_text_clear(&header);
    dinov_text_clear(&json);
    free(tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char plain[] = "{\"version\":{\"read\":1,\"write\":1,\"safe_to_ignore\":[],\"safe_to_read\":[],";
    dinov_state_file *file;
    dinov_error       e      = {0};
    dinov_status      status = dinov_state_open_memory(&file, data, size, "fuzz", &e);
    if (status != DINOV_OK) {
        DINOV_ASSERT(!file && e.status == status && e.code[0] && e.msg[0] && memchr(e.msg, '\0', sizeof e.msg));
        for (const char *p = e.msg; *p; p++) DINOV_ASSERT(*p >= ' ' && *p < 127); /* nothing for a terminal to obey */
        return 0;
    }
    walk(file);
    if (strncmp(dinov_state_container(file)->json.data, plain, sizeof plain - 1) == 0) rebuild(file, data);
    status = dinov_container_verify(dinov_state_container(file), 1, &e);
    DINOV_ASSERT(status == DINOV_OK || status == DINOV_ERR_CORRUPT);
    dinov_state_close(&file);
    return 0;
}
