/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the manifest of a training checkpoint. What is read under this version without unknown features has
 * exactly one spelling: built again, it is the same bytes.
 *
 * The mutator keeps the digest right, so that the fuzzer reaches what lies behind it.
 */
#include "base/hash.h"
#include "format/manifest.h"
#include "tests/fuzz/text.h"

#include <stdlib.h>
#include <string.h>

enum { DIGEST_AT = 28, BODY_AT = DIGEST_AT + DINOV_XXH_HEX };

int    LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak)); /* absent in a replay */

static void walk(const dinov_manifest *m)
{
    const char *texts[] = {m->isa, m->config, m->teacher, m->teacher_id};
    DINOV_ASSERT(dinov_manifest_check(m, "fuzz", NULL) == DINOV_OK);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        for (const char *p = texts[i]; *p; p++) DINOV_ASSERT((uint8_t)*p >= ' ' || (*p == '\n' && texts[i] == m->config));
    DINOV_ASSERT(m->file_count >= 2 && m->file_count <= DINOV_MANIFEST_FILES);
    for (size_t i = 0; i < m->file_count; i++)
        for (size_t k = 0; k < sizeof m->files[i].header.hex; k++) DINOV_ASSERT(strchr("0123456789abcdef", m->files[i].header.hex[k]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char plain[] = "\",\n\"version\":{\"read\":1,\"write\":1,\"safe_to_ignore\":[],\"safe_to_read\":[],";
    dinov_manifest    m;
    dinov_text        again = {0};
    void             *storage;
    dinov_error       e      = {0};
    dinov_status      status = dinov_manifest_parse(&m, &storage, data, size, "fuzz", &e);
    if (status != DINOV_OK) {
        DINOV_ASSERT(!storage && e.status == status && e.code[0] && e.msg[0] && memchr(e.msg, '\0', sizeof e.msg));
        for (const char *p = e.msg; *p; p++) DINOV_ASSERT(*p >= ' ' && *p < 127); /* nothing for a terminal to obey */
        return 0;
    }
    walk(&m);
    if (memcmp(data + BODY_AT, plain, sizeof plain - 1) == 0) {
        dinov_manifest_build(&again, &m);
        DINOV_ASSERT(again.size == size && memcmp(again.data, data, size) == 0);
    }
    dinov_text_clear(&again);
    dinov_manifest_free(storage);
    return 0;
}

static void seal(uint8_t *data, size_t size)
{
    char digest[DINOV_XXH_HEX];
    if (size < BODY_AT) return;
    memset(data + DIGEST_AT, '0', sizeof digest);
    dinov_xxh128_hex(digest, data, size);
    memcpy(data + DIGEST_AT, digest, sizeof digest);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    if (size <= BODY_AT || seed % 16 == 0) return LLVMFuzzerMutate(data, size, max);
    if (seed % 4 == 1) size = BODY_AT + LLVMFuzzerMutate(data + BODY_AT, size - BODY_AT, max - BODY_AT);
    else size = BODY_AT + mutate_text(data + BODY_AT, size - BODY_AT, max - BODY_AT, seed / 16);
    seal(data, size);
    return size;
}
