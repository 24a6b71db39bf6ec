/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a checkpoint: opened, verified, every value walked. What opens under this version
 * without unknown features has exactly one spelling: its header, built again from what was read, is the
 * same bytes.
 *
 * The mutator keeps the digest of the header right, so that the fuzzer reaches what lies behind it. It
 * changes the document as the text it is, the table, the data, or bytes anywhere.
 */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/hash.h"
#include "format/checkpoint.h"
#include "format/header.h"

#include <stdlib.h>

int    LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak)); /* absent in a replay */

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

/* ---- Mutator ---- */

enum { ROOM = 1 << 16 };

struct parts {
    uint8_t document[ROOM], table[ROOM], data[ROOM]; /* the table with its leading commas and closing brace */
    size_t  document_size, table_size, data_size;
};

static int take_apart(struct parts *p, const uint8_t *data, size_t size)
{
    dinov_text json = {0};
    if (size < DINOV_CK_DOCUMENT_AT || size > ROOM || dinov_le64(data) > size - 8) return 0;
    size_t       header = (size_t)dinov_le64(data) + 8;
    dinov_cursor c      = dinov_cursor_make(data, header);
    int          ok     = dinov_header_document(&json, &c, "fuzz", NULL) == DINOV_OK;
    if (ok) {
        while (header > c.pos && data[header - 1] == ' ') header--;
        p->document_size = json.size;
        p->table_size    = header - (size_t)c.pos;
        p->data_size     = size - ((size_t)dinov_le64(data) + 8);
        if (json.size) memcpy(p->document, json.data, json.size);
        memcpy(p->table, data + c.pos, p->table_size);
        memcpy(p->data, data + size - p->data_size, p->data_size);
    }
    dinov_text_clear(&json);
    return ok;
}

static void seal(uint8_t *data, size_t header)
{
    char digest[DINOV_CK_DIGEST_SIZE];
    memset(data + DINOV_CK_DIGEST_AT, '0', sizeof digest);
    dinov_xxh128_hex(digest, data, header);
    memcpy(data + DINOV_CK_DIGEST_AT, digest, sizeof digest);
}

static size_t put_together(const struct parts *p, uint8_t *out, size_t max)
{
    dinov_text t = {0};
    dinov_text_add(&t, "\0\0\0\0\0\0\0\0" DINOV_CK_PREFIX "00000000000000000000000000000000" DINOV_CK_MIDDLE, DINOV_CK_DOCUMENT_AT);
    dinov_text_escaped(&t, (const char *)p->document, p->document_size);
    dinov_text_puts(&t, "\"}");
    dinov_text_add(&t, p->table, p->table_size);
    while (t.size % DINOV_CK_ALIGN) dinov_text_puts(&t, " ");
    size_t header = t.size;
    dinov_put_le64((uint8_t *)t.data, header - 8);
    seal((uint8_t *)t.data, header);
    dinov_text_add(&t, p->data, p->data_size);
    size_t size = t.size <= max ? t.size : 0;
    memcpy(out, t.data, size);
    dinov_text_clear(&t);
    return size;
}

/* Replaces one digit, word or member boundary by another: what text needs and bit flips rarely find. */
static size_t mutate_text(uint8_t *text, size_t size, unsigned seed)
{
    static const char *const pieces[] = {"0", "1", "-1", "9223372036854775807", "9223372036854775808", "18446744073709551616",
                                         "1e999", "0.1", "null", "true", "[]", "{}", "\"\"", ",", "[", "]", "{", "}", "\"", " ",
                                         "\\\"", "\\\\", "safe-feature", "F64", "BOOL", "full", "square:2", "\x7f", "\xc2\x80"};
    const char *piece = pieces[seed / 7 % (sizeof pieces / sizeof pieces[0])];
    size_t      length = strlen(piece), at = size ? seed / 1009 % size : 0, cut = seed % 5;
    if (cut > size - at) cut = size - at;
    if (size + length > ROOM) return size;
    memmove(text + at + length, text + at + cut, size - at - cut);
    memcpy(text + at, piece, length);
    return size + length - cut;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    static struct parts p;
    if (!take_apart(&p, data, size) || seed % 16 == 0) {
        size = LLVMFuzzerMutate(data, size, max);
        if (seed % 32 != 0 && size >= DINOV_CK_DOCUMENT_AT && dinov_le64(data) <= size - 8 &&
            dinov_le64(data) >= DINOV_CK_DOCUMENT_AT)
            seal(data, (size_t)dinov_le64(data) + 8);
        return size;
    }
    switch (seed / 16 % 8) {
    case 0: p.document_size = LLVMFuzzerMutate(p.document, p.document_size, ROOM); break;
    case 1: p.table_size = LLVMFuzzerMutate(p.table, p.table_size, ROOM); break;
    case 2: p.data_size = LLVMFuzzerMutate(p.data, p.data_size, ROOM); break;
    case 3:
    case 4:
    case 5: p.document_size = mutate_text(p.document, p.document_size, seed / 128); break;
    default: p.table_size = mutate_text(p.table, p.table_size, seed / 128); break;
    }
    size_t made = put_together(&p, data, max);
    return made ? made : size;
}
