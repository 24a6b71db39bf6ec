/* SPDX-License-Identifier: Apache-2.0 */
#include "format/container.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "format/header.h"

#include <string.h>

/* ---- Reading ---- */

dinov_span dinov_container_span(const dinov_container *c, size_t i)
{
    uint64_t bytes = 0;
    dinov_tensor_bytes(&c->table.tensors[i].tensor, &bytes);
    return (dinov_span){c->data + c->table.offsets[i], bytes};
}

/* The file ends where the table says. */
static dinov_status check_end(const dinov_container *c, size_t size, dinov_error *err)
{
    uint64_t want = 0;
    if (dinov_ck_add(c->data_at, c->table.bytes, &want) && want == size) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, want < size ? "CK-TRAILING" : "CK-TRUNCATED",
                      "%s: expected %llu bytes, found %zu: %s", c->name, (unsigned long long)want, size,
                      want < size ? "something was appended" : "the file was cut short");
}

static dinov_status check_digest_count(const dinov_container *c, dinov_error *err)
{
    uint64_t blocks = 0;
    for (size_t i = 0; i < c->table.count; i++) blocks += dinov_block_count(dinov_container_span(c, i).size);
    if (blocks == c->digest_count) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DIGEST-COUNT", "%s: expected %llu digests, one a block, found %zu", c->name,
                      (unsigned long long)blocks, c->digest_count);
}

/* Points tensors at the file. Offsets are aligned; where the bytes lie in memory is the caller's
 * choice, and what ends up unaligned is copied. */
static dinov_status set_views(dinov_container *c, dinov_error *err)
{
    uint64_t copied = 0, at = 0;

    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < c->table.count; i++) {
            dinov_tensor *t    = &c->table.tensors[i].tensor;
            dinov_span    span = dinov_container_span(c, i);
            bool          copy = (uintptr_t)span.data % dinov_dtype_size(t->dtype) != 0;
            if (pass == 0) {
                t->data = span.data;
                if (copy) copied += (span.size + DINOV_CK_ALIGN - 1) / DINOV_CK_ALIGN * DINOV_CK_ALIGN;
            } else if (copy) {
                t->data = memcpy((uint8_t *)c->copies + at, span.data, span.size);
                at += (span.size + DINOV_CK_ALIGN - 1) / DINOV_CK_ALIGN * DINOV_CK_ALIGN;
            }
        }
        if (copied == 0) break;
        if (pass == 0 && !(c->copies = dinov_alloc_aligned(copied, 1)))
            return dinov_fail_nomem(err, c->name, "tensors that lie unaligned");
    }
    return DINOV_OK;
}

static dinov_status read_header(dinov_container *c, const uint8_t *header, uint64_t length, size_t size,
                                dinov_container_reader read, void *arg, dinov_error *err)
{
    dinov_cursor at = dinov_cursor_make(header, length);

    memcpy(c->digest, header + DINOV_CK_DIGEST_AT, sizeof c->digest);
    DINOV_TRY(dinov_header_document(&c->json, &at, c->name, err));
    DINOV_TRY(read(arg, c, err));
    DINOV_TRY(dinov_table_scan(&c->table, &at, c->name, err));
    DINOV_TRY(dinov_header_padding(&at, c->name, err));
    DINOV_TRY(check_end(c, size, err));
    return check_digest_count(c, err);
}

dinov_status dinov_container_open(dinov_container *out, const void *data, size_t size, dinov_map map, const char *name,
                                  dinov_container_reader read, void *arg, dinov_error *err)
{
    uint8_t *header = NULL;
    uint64_t length;

    *out = (dinov_container){.map = map};
    dinov_escape(out->name, sizeof out->name, name, strlen(name));
    DINOV_TRY(dinov_header_load(&header, &length, data, size, out->name, err));
    out->data           = (const uint8_t *)data + length;
    out->data_at        = length;
    dinov_status status = read_header(out, header, length, size, read, arg, err);
    dinov_free(header);
    return status == DINOV_OK ? set_views(out, err) : status;
}

void dinov_container_close(dinov_container *c)
{
    dinov_text_clear(&c->json);
    dinov_table_clear(&c->table);
    dinov_free(c->copies);
    dinov_map_close(&c->map);
    *c = (dinov_container){0};
}

static dinov_status damaged(const dinov_container *c, const dinov_block *block, const dinov_digest *found,
                            const dinov_digest *stated, dinov_error *err)
{
    uint64_t at = c->data_at + (uint64_t)(block->data - c->data);
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DIGEST",
                      "%s: tensor %s is damaged between bytes %llu and %llu of the file: their digest is %.32s, expected %.32s",
                      c->name, c->table.tensors[block->tensor].name, (unsigned long long)at, (unsigned long long)(at + block->size),
                      found->hex, stated->hex);
}

dinov_status dinov_container_verify(const dinov_container *c, int threads, dinov_error *err)
{
    dinov_status  status;
    size_t        count  = c->table.count, block_count;
    dinov_block  *blocks = NULL;
    dinov_digest *found  = NULL;
    dinov_pool   *pool   = NULL;
    dinov_span   *spans  = dinov_alloc(count, sizeof *spans);

    if (!spans) return dinov_fail_nomem(err, c->name, "the list of tensors");
    for (size_t i = 0; i < count; i++) spans[i] = dinov_container_span(c, i);
    DINOV_TRY_GOTO(dinov_blocks_cut(&blocks, &block_count, spans, count, c->name, err));
    found = dinov_alloc(block_count, sizeof *found);
    if (!found) {
        status = dinov_fail_nomem(err, c->name, "digests");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_pool_new(&pool, threads, err));
    dinov_blocks_digest(found, blocks, block_count, pool);
    DINOV_ASSERT(block_count == c->digest_count); /* checked when it was opened */
    for (size_t i = 0; i < block_count && status == DINOV_OK; i++)
        if (memcmp(&found[i], &c->digests[i], sizeof found[i]) != 0)
            status = damaged(c, &blocks[i], &found[i], &c->digests[i], err);
fail:
    dinov_pool_free(&pool);
    dinov_free(found);
    dinov_free(blocks);
    dinov_free(spans);
    return status;
}

/* ---- Writing ---- */

dinov_status dinov_making_sort(dinov_making *m, const dinov_named_tensor *tensors, size_t count, const char *where,
                               dinov_error *err)
{
    *m = (dinov_making){
        .tensors = dinov_alloc(count, sizeof *m->tensors), .spans = dinov_alloc(count, sizeof *m->spans), .count = count};
    if (!m->tensors || !m->spans) return dinov_fail_nomem(err, where, "the list of tensors");
    for (size_t i = 0; i < count; i++) m->tensors[i] = &tensors[i];
    DINOV_TRY(dinov_table_sort(m->tensors, count, where, err));
    for (size_t i = 0; i < count; i++) {
        m->spans[i].data = m->tensors[i]->tensor.data;
        dinov_tensor_bytes(&m->tensors[i]->tensor, &m->spans[i].size);
        m->digest_count += dinov_block_count(m->spans[i].size);
    }
    m->digests = dinov_alloc(m->digest_count, sizeof *m->digests);
    if (!m->digests) return dinov_fail_nomem(err, where, "digests");
    memset(m->digests, '0', m->digest_count * sizeof *m->digests);
    return DINOV_OK;
}

dinov_status dinov_making_start(dinov_making *m, const dinov_text *zeros, const char *path, int overwrite, int threads,
                                const dinov_json *at, dinov_error *err)
{
    dinov_status status;
    dinov_text   header = {0};

    DINOV_TRY_GOTO(dinov_header_build(&header, zeros, m->tensors, m->count, at, err));
    DINOV_TRY_GOTO(dinov_out_open(&m->out, path, overwrite, err));
    DINOV_TRY_GOTO(dinov_out_write(m->out, header.data, header.size, err));
    m->header_size = header.size;
    if (threads != 1)
        dinov_out_write_behind(m->out, m->spans, m->count);
    else
        for (size_t i = 0; i < m->count; i++) DINOV_TRY_GOTO(dinov_out_write(m->out, m->spans[i].data, m->spans[i].size, err));
fail:
    dinov_text_clear(&header);
    return status;
}

dinov_status dinov_making_digest(dinov_making *m, int threads, const char *where, dinov_error *err)
{
    dinov_status status;
    size_t       count;
    dinov_block *blocks = NULL;
    dinov_pool  *pool   = NULL;

    DINOV_TRY_GOTO(dinov_blocks_cut(&blocks, &count, m->spans, m->count, where, err));
    DINOV_ASSERT(count == m->digest_count);
    DINOV_TRY_GOTO(dinov_pool_new(&pool, threads, err));
    dinov_blocks_digest(m->digests, blocks, count, pool);
fail:
    dinov_pool_free(&pool);
    dinov_free(blocks);
    return status;
}

dinov_status dinov_making_finish(dinov_making *m, const dinov_text *json, dinov_digest *digest, const dinov_json *at,
                                 dinov_error *err)
{
    dinov_status status;
    dinov_text   header = {0};

    DINOV_TRY_GOTO(dinov_header_build(&header, json, m->tensors, m->count, at, err));
    DINOV_ASSERT(header.size == m->header_size);
    DINOV_TRY_GOTO(dinov_out_settle(m->out, err));
    DINOV_TRY_GOTO(dinov_out_patch(m->out, 0, header.data, header.size, err));
    DINOV_TRY_GOTO(dinov_out_commit(&m->out, err));
    if (digest) memcpy(digest->hex, header.data + DINOV_CK_DIGEST_AT, sizeof digest->hex);
fail:
    dinov_text_clear(&header);
    return status;
}

void dinov_making_clear(dinov_making *m)
{
    dinov_out_abort(&m->out);
    dinov_free(m->digests);
    dinov_free(m->spans);
    dinov_free(m->tensors);
    *m = (dinov_making){0};
}
