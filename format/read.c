/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"
#include "format/checkpoint.h"
#include "format/params.h"

static dinov_status read_document(void *arg, dinov_container *file, dinov_error *err)
{
    dinov_checkpoint *ckpt = arg;
    DINOV_TRY(dinov_document_parse(&ckpt->document, &ckpt->store, file->json.data, file->json.size, file->name, err));
    file->digests      = ckpt->document.digests;
    file->digest_count = ckpt->document.digest_count;
    return DINOV_OK;
}

/* Takes over `map`. */
static dinov_status open_bytes(dinov_checkpoint **out, const void *data, size_t size, dinov_map map, const char *name,
                               dinov_error *err)
{
    dinov_status      status;
    dinov_checkpoint *ckpt = dinov_calloc(1, sizeof *ckpt);

    *out = NULL;
    if (!ckpt) {
        dinov_map_close(&map);
        return dinov_fail_nomem(err, "checkpoint", "its handle");
    }
    DINOV_TRY_GOTO(dinov_container_open(&ckpt->file, data, size, map, name, read_document, ckpt, err));
    ckpt->weights = (dinov_weights){
        .model      = ckpt->document.model,
        .preprocess = ckpt->document.preprocess,
        .tensors    = ckpt->file.table.tensors,
        .count      = ckpt->file.table.count,
        .map        = map.data,
        .map_size   = map.size,
    };
    DINOV_TRY_GOTO(dinov_weights_check(&ckpt->weights, ckpt->file.name, err));
    *out = ckpt;
    return DINOV_OK;
fail:
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

dinov_status dinov_checkpoint_open_map(dinov_checkpoint **out, dinov_map map, const char *name, dinov_error *err)
{
    return open_bytes(out, map.data, map.size, map, name, err);
}

void dinov_checkpoint_close(dinov_checkpoint **ckpt)
{
    if (!ckpt || !*ckpt) return;
    dinov_checkpoint *c = *ckpt;
    *ckpt               = NULL;
    dinov_document_store_clear(&c->store);
    dinov_container_close(&c->file);
    dinov_free(c);
}

const dinov_weights *dinov_checkpoint_weights(const dinov_checkpoint *ckpt) { return &ckpt->weights; }

const dinov_provenance *dinov_checkpoint_provenance(const dinov_checkpoint *ckpt) { return &ckpt->document.provenance; }

const dinov_proof *dinov_checkpoint_proof(const dinov_checkpoint *ckpt) { return &ckpt->document.proof; }

const char *dinov_checkpoint_content_id(const dinov_checkpoint *ckpt) { return ckpt->document.content_id; }

const char *dinov_checkpoint_metadata(const dinov_checkpoint *ckpt) { return ckpt->file.json.data; }

/* ---- Verifying ---- */

dinov_status dinov_checkpoint_verify(const dinov_checkpoint *ckpt, int threads, dinov_error *err)
{
    return dinov_container_verify(&ckpt->file, threads, err);
}

dinov_status dinov_checkpoint_verify_id(const dinov_checkpoint *ckpt, int threads, dinov_error *err)
{
    char id[DINOV_CK_ID];
    DINOV_TRY(dinov_content_id(id, ckpt->weights.tensors, ckpt->weights.count, threads, err));
    if (strcmp(id, ckpt->document.content_id) == 0) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-ID", "%s: the content id of its tensors is %s, the file says %s", ckpt->file.name,
                      id, ckpt->document.content_id);
}
