/* SPDX-License-Identifier: Apache-2.0 */
#include "format/state.h"

#include "base/alloc.h"
#include "base/dtype.h"

#include <string.h>

#define KIND "training-state"

struct dinov_state_file {
    dinov_container  file;
    dinov_state_info info;
    dinov_digest    *digests;
};

static bool legal(const dinov_state_info *i)
{
    return i->iteration >= 0 && i->iteration <= DINOV_STATE_MAX_ITERATION && i->part >= 0 && i->part < i->parts &&
           i->parts <= DINOV_STATE_MAX_PARTS;
}

void dinov_state_document(dinov_text *t, const dinov_state_info *info, const dinov_digest *digests, size_t count)
{
    dinov_json_put_version(t, "{", KIND);
    dinov_json_put_int(t, ",\"state\":{\"iteration\":", info->iteration);
    dinov_json_put_int(t, ",\"part\":", info->part);
    dinov_json_put_int(t, ",\"parts\":", info->parts);
    dinov_text_puts(t, "}");
    dinov_integrity_build(t, digests, count);
    dinov_text_puts(t, "}");
}

/* ---- Reading ---- */

static dinov_status parse(json_t *root, dinov_state_file *s, bool *exact, const dinov_json *at, dinov_error *err)
{
    json_error_t e;
    json_int_t   iteration, part, parts;
    DINOV_TRY(dinov_json_version(root, exact, at, err));
    if (json_unpack_ex(root, &e, 0, "{s:{s:I,s:I,s:I}}", "state", "iteration", &iteration, "part", &part, "parts", &parts) != 0)
        return dinov_json_failed(at, &e, err);
    s->info = (dinov_state_info){iteration, part, parts};
    if (!legal(&s->info)) return dinov_json_bad(at, "state: a number is out of range", err);
    return dinov_integrity_parse(root, &s->digests, &s->file.digest_count, at, err);
}

static dinov_status read_document(void *arg, dinov_container *file, dinov_error *err)
{
    const dinov_json  at = {file->name, "the dinov document", KIND};
    dinov_state_file *s  = arg;
    dinov_status      status;
    bool              exact     = false;
    json_t           *root      = NULL;
    dinov_text        canonical = {0};

    DINOV_TRY_GOTO(dinov_json_limits(file->json.data, file->json.size, &at, err));
    DINOV_TRY_GOTO(dinov_json_load(&root, file->json.data, file->json.size, &at, err));
    DINOV_TRY_GOTO(parse(root, s, &exact, &at, err));
    file->digests = s->digests;
    dinov_state_document(&canonical, &s->info, s->digests, file->digest_count);
    DINOV_TRY_GOTO(dinov_json_confirm(root, file->json.data, file->json.size, &canonical, exact, &at, err));
fail:
    dinov_text_clear(&canonical);
    json_decref(root);
    return status;
}

static dinov_status open_bytes(dinov_state_file **out, const void *data, size_t size, dinov_map map, const char *name,
                               dinov_error *err)
{
    dinov_state_file *s = dinov_calloc(1, sizeof *s);
    *out                = NULL;
    if (!s) {
        dinov_map_close(&map);
        return dinov_fail_nomem(err, "training state", "its handle");
    }
    dinov_status status = dinov_container_open(&s->file, data, size, map, name, read_document, s, err);
    if (status != DINOV_OK) dinov_state_close(&s);
    *out = s;
    return status;
}

dinov_status dinov_state_open(dinov_state_file **out, dinov_map map, const char *name, dinov_error *err)
{
    return open_bytes(out, map.data, map.size, map, name, err);
}

dinov_status dinov_state_open_memory(dinov_state_file **out, const void *data, size_t size, const char *name, dinov_error *err)
{
    return open_bytes(out, data, size, (dinov_map){0}, name, err);
}

void dinov_state_close(dinov_state_file **file)
{
    if (!file || !*file) return;
    dinov_container_close(&(*file)->file);
    dinov_free((*file)->digests);
    dinov_free(*file);
    *file = NULL;
}

const dinov_state_info *dinov_state_get_info(const dinov_state_file *file) { return &file->info; }

const dinov_container *dinov_state_container(const dinov_state_file *file) { return &file->file; }

/* ---- Writing ---- */

dinov_status dinov_state_write(const char *path, const dinov_state_info *info, const dinov_named_tensor *tensors, size_t count,
                               int threads, dinov_digest *digest, dinov_error *err)
{
    char             where[DINOV_ESCAPED];
    const dinov_json at     = {where, "the dinov document", KIND};
    dinov_text       json   = {0};
    dinov_making     making = {0};
    dinov_status     status;

    DINOV_ASSERT(legal(info));
    dinov_escape(where, sizeof where, path, strlen(path));
    DINOV_TRY_GOTO(dinov_making_sort(&making, tensors, count, where, err));
    dinov_state_document(&json, info, making.digests, making.digest_count);
    DINOV_TRY_GOTO(dinov_making_start(&making, &json, path, 0, threads, &at, err));
    DINOV_TRY_GOTO(dinov_making_digest(&making, threads, where, err));
    dinov_text_clear(&json);
    dinov_state_document(&json, info, making.digests, making.digest_count);
    DINOV_TRY_GOTO(dinov_making_finish(&making, &json, digest, &at, err));
fail:
    dinov_text_clear(&json);
    dinov_making_clear(&making);
    return status;
}

void dinov_state_share(const dinov_named_tensor *const *sorted, size_t total, int64_t part, int64_t parts, size_t *first,
                       size_t *count)
{
    uint64_t all = 0, at = 0, bytes = 0;
    for (size_t i = 0; i < total; i++) {
        dinov_tensor_bytes(&sorted[i]->tensor, &bytes);
        all += bytes;
    }
    /* A tensor belongs to the part that its middle falls into. */
    uint64_t share = all / (uint64_t)parts + 1;
    *first = *count = 0;
    for (size_t i = 0; i < total; i++) {
        dinov_tensor_bytes(&sorted[i]->tensor, &bytes);
        uint64_t owner = (at + bytes / 2) / share;
        if (owner < (uint64_t)part) *first = i + 1;
        if (owner == (uint64_t)part) *count += 1;
        at += bytes;
    }
}
