/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "format/checkpoint.h"
#include "format/header.h"
#include "format/params.h"

dinov_span dinov_checkpoint_span(const dinov_checkpoint *ckpt, size_t i)
{
    uint64_t bytes = 0;
    dinov_tensor_bytes(&ckpt->table.tensors[i].tensor, &bytes);
    return (dinov_span){ckpt->data + ckpt->table.offsets[i], bytes};
}

/* The file ends where the table says. */
static dinov_status check_end(const dinov_checkpoint *ckpt, size_t size, dinov_error *err)
{
    uint64_t want = 0;
    if (dinov_ck_add(ckpt->data_at, ckpt->table.bytes, &want) && want == size) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, want < size ? "CK-TRAILING" : "CK-TRUNCATED",
                      "%s: expected %llu bytes, found %zu: %s", ckpt->name, (unsigned long long)want, size,
                      want < size ? "something was appended" : "the file was cut short");
}

static dinov_status check_digest_count(const dinov_checkpoint *ckpt, dinov_error *err)
{
    uint64_t blocks = 0;
    for (size_t i = 0; i < ckpt->table.count; i++) blocks += dinov_block_count(dinov_checkpoint_span(ckpt, i).size);
    if (blocks == ckpt->document.digest_count) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DIGEST-COUNT", "%s: expected %llu digests, one a block, found %zu", ckpt->name,
                      (unsigned long long)blocks, ckpt->document.digest_count);
}

/* Points tensors at the file. Offsets are aligned; where the bytes lie in memory is the caller's
 * choice, and what ends up unaligned is copied. */
static dinov_status set_views(dinov_checkpoint *ckpt, dinov_error *err)
{
    uint64_t copied = 0, at = 0;

    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < ckpt->table.count; i++) {
            dinov_tensor *t    = &ckpt->table.tensors[i].tensor;
            dinov_span    span = dinov_checkpoint_span(ckpt, i);
            bool          copy = (uintptr_t)span.data % dinov_dtype_size(t->dtype) != 0;
            if (pass == 0) {
                t->data = span.data;
                if (copy) copied += (span.size + DINOV_CK_ALIGN - 1) / DINOV_CK_ALIGN * DINOV_CK_ALIGN;
            } else if (copy) {
                t->data = memcpy((uint8_t *)ckpt->copies + at, span.data, span.size);
                at += (span.size + DINOV_CK_ALIGN - 1) / DINOV_CK_ALIGN * DINOV_CK_ALIGN;
            }
        }
        if (copied == 0) break;
        if (pass == 0 && !(ckpt->copies = dinov_alloc_aligned(copied, 1)))
            return dinov_fail_nomem(err, ckpt->name, "tensors that lie unaligned");
    }
    return DINOV_OK;
}

static dinov_status read_header(dinov_checkpoint *ckpt, const uint8_t *header, uint64_t length, size_t size,
                                dinov_error *err)
{
    dinov_cursor c = dinov_cursor_make(header, length);

    DINOV_TRY(dinov_header_document(&ckpt->json, &c, ckpt->name, err));
    DINOV_TRY(dinov_document_parse(&ckpt->document, &ckpt->store, ckpt->json.data, ckpt->json.size, ckpt->name, err));
    DINOV_TRY(dinov_table_scan(&ckpt->table, &c, ckpt->name, err));
    DINOV_TRY(dinov_header_padding(&c, ckpt->name, err));
    DINOV_TRY(check_end(ckpt, size, err));
    DINOV_TRY(check_digest_count(ckpt, err));
    ckpt->weights = (dinov_weights){
        .model      = ckpt->document.model,
        .preprocess = ckpt->document.preprocess,
        .tensors    = ckpt->table.tensors,
        .count      = ckpt->table.count,
        .map        = ckpt->map.data,
        .map_size   = ckpt->map.size,
    };
    return dinov_weights_check(&ckpt->weights, ckpt->name, err);
}

/* Takes over `map`. */
static dinov_status open_bytes(dinov_checkpoint **out, const void *data, size_t size, dinov_map map, const char *name,
                               dinov_error *err)
{
    dinov_status      status;
    uint8_t          *header = NULL;
    uint64_t          length;
    dinov_checkpoint *ckpt = dinov_calloc(1, sizeof *ckpt);

    *out = NULL;
    if (!ckpt) {
        dinov_map_close(&map);
        return dinov_fail_nomem(err, "checkpoint", "its handle");
    }
    ckpt->map = map;
    dinov_escape(ckpt->name, sizeof ckpt->name, name, strlen(name));
    DINOV_TRY_GOTO(dinov_header_load(&header, &length, data, size, ckpt->name, err));
    ckpt->data    = (const uint8_t *)data + length;
    ckpt->data_at = length;
    DINOV_TRY_GOTO(read_header(ckpt, header, length, size, err));
    DINOV_TRY_GOTO(set_views(ckpt, err));
    dinov_free(header);
    *out = ckpt;
    return DINOV_OK;
fail:
    dinov_free(header);
    dinov_checkpoint_close(&ckpt);
    return status;
}

dinov_status dinov_checkpoint_open(dinov_checkpoint **out, const char *path, dinov_error *err)
{
    dinov_map map;
    *out = NULL;
    DINOV_TRY(dinov_map_open(&map, path, err));
    return open_bytes(out, map.data, map.size, map, path, err);
}

dinov_status dinov_checkpoint_open_memory(dinov_checkpoint **out, const void *data, size_t size, const char *name,
                                          dinov_error *err)
{
    return open_bytes(out, data, size, (dinov_map){0}, name, err);
}

void dinov_checkpoint_close(dinov_checkpoint **ckpt)
{
    if (!ckpt || !*ckpt) return;
    dinov_checkpoint *c = *ckpt;
    *ckpt               = NULL;
    dinov_text_clear(&c->json);
    dinov_document_store_clear(&c->store);
    dinov_table_clear(&c->table);
    dinov_free(c->copies);
    dinov_map_close(&c->map);
    dinov_free(c);
}

const dinov_weights *dinov_checkpoint_weights(const dinov_checkpoint *ckpt) { return &ckpt->weights; }

const dinov_provenance *dinov_checkpoint_provenance(const dinov_checkpoint *ckpt) { return &ckpt->document.provenance; }

const dinov_proof *dinov_checkpoint_proof(const dinov_checkpoint *ckpt) { return &ckpt->document.proof; }

const char *dinov_checkpoint_content_id(const dinov_checkpoint *ckpt) { return ckpt->document.content_id; }

const char *dinov_checkpoint_metadata(const dinov_checkpoint *ckpt) { return ckpt->json.data; }
