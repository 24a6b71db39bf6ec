/* SPDX-License-Identifier: Apache-2.0
 *
 * Mutates files of the format, whatever kind they are: the digest of the header is kept right, so that the fuzzer
 * reaches what lies behind it. The document changes as the text it is, or the table, the data, or bytes anywhere.
 */
#ifndef DINOV_TESTS_MUTATOR_H
#define DINOV_TESTS_MUTATOR_H

#include "base/hash.h"
#include "format/header.h"
#include "tests/fuzz/text.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak)); /* absent in a replay */

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
    case 5: p.document_size = mutate_text(p.document, p.document_size, ROOM, seed / 128); break;
    default: p.table_size = mutate_text(p.table, p.table_size, ROOM, seed / 128); break;
    }
    size_t made = put_together(&p, data, max);
    return made ? made : size;
}

#endif
