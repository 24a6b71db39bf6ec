/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a checkpoint: opened, verified, every value walked. What opens under this version
 * without unknown features has exactly one spelling: its header, built again from what was read, is the
 * same bytes.
 */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/hash.h"
#include "format/checkpoint.h"
#include "format/header.h"
#include "tests/fuzz/mutator.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void touch(const void *bytes, size_t size)
{
    const uint8_t *p   = bytes;
    unsigned       sum = 0;
    for (size_t i = 0; i < size; i++) sum += p[i];
    sink = sum;
}

static void walk(const dinov_checkpoint *c)
{
    const dinov_weights    *w = dinov_checkpoint_weights(c);
    const dinov_provenance *p = dinov_checkpoint_provenance(c);
    const dinov_proof      *g = dinov_checkpoint_proof(c);
    const char             *texts[] = {p->source_format, p->source_sha256, p->converter, p->transforms,
                                       p->licence,       p->origin,        g->computed_by, dinov_checkpoint_content_id(c),
                                       dinov_checkpoint_metadata(c)};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) touch(texts[i], strlen(texts[i]));
    for (size_t i = 0; i < w->count; i++) {
        const dinov_tensor *t = &w->tensors[i].tensor;
        uint64_t            bytes;
        DINOV_ASSERT(dinov_tensor_bytes(t, &bytes) && (uintptr_t)t->data % dinov_dtype_size(t->dtype) == 0);
        touch(t->data, bytes);
        DINOV_ASSERT(dinov_weights_find(w, w->tensors[i].name) == t);
    }
    for (size_t i = 0; i < g->count; i++) {
        touch(g->cases[i].cls, (size_t)w->model.dim * sizeof(float));
        touch(g->cases[i].patch, (size_t)w->model.dim * sizeof(float));
    }
}

/* The one legal header for what the file holds. */
static void rebuild(const dinov_checkpoint *c, const uint8_t *data)
{
    const dinov_json           at      = {"fuzz", "the document", "backbone"};
    const dinov_table         *table   = &c->file.table;
    const dinov_named_tensor **tensors = calloc(table->count + 1, sizeof *tensors);
    dinov_text                 json = {0}, header = {0};
    for (size_t i = 0; i < table->count; i++) tensors[i] = &table->tensors[i];
    DINOV_ASSERT(dinov_table_sort(tensors, table->count, "fuzz", NULL) == DINOV_OK);
    for (size_t i = 0; i < table->count; i++) DINOV_ASSERT(tensors[i] == &table->tensors[i]);
    dinov_document_build(&json, &c->document);
    DINOV_ASSERT(dinov_header_build(&header, &json, tensors, table->count, &at, NULL) == DINOV_OK);
    DINOV_ASSERT(header.size == c->file.data_at && memcmp(header.data, data, header.size) == 0);
    dinov_text_clear(&header);
    dinov_text_clear(&json);
    free(tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char plain[] = "{\"version\":{\"read\":1,\"write\":1,\"safe_to_ignore\":[],\"safe_to_read\":[],";
    dinov_checkpoint *c;
    dinov_error       e      = {0};
    dinov_status      status = dinov_checkpoint_open_memory(&c, data, size, "fuzz", &e);
    if (status != DINOV_OK) {
        DINOV_ASSERT(!c && e.status == status && e.code[0] && e.msg[0] && memchr(e.msg, '\0', sizeof e.msg));
        for (const char *p = e.msg; *p; p++) DINOV_ASSERT(*p >= ' ' && *p < 127); /* nothing for a terminal to obey */
        return 0;
    }
    walk(c);
    if (strncmp(dinov_checkpoint_metadata(c), plain, sizeof plain - 1) == 0) rebuild(c, data);
    status = dinov_checkpoint_verify(c, 1, &e);
    DINOV_ASSERT(status == DINOV_OK || status == DINOV_ERR_CORRUPT);
    status = dinov_checkpoint_verify_id(c, 1, &e);
    DINOV_ASSERT(status == DINOV_OK || status == DINOV_ERR_CORRUPT);
    dinov_checkpoint_close(&c);
    return 0;
}
