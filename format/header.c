/* SPDX-License-Identifier: Apache-2.0 */
#include "format/header.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "format/foreign.h"

static const char prefix[] = DINOV_CK_PREFIX;
static const char middle[] = DINOV_CK_MIDDLE;

/* ---- Writing ---- */

dinov_status dinov_header_build(dinov_text *out, const dinov_text *json, const dinov_named_tensor *const *tensors, size_t count,
                                const dinov_json *at, dinov_error *err)
{
    static const char zeros[DINOV_CK_DIGEST_SIZE + 1] = "00000000000000000000000000000000";
    char              digest[DINOV_CK_DIGEST_SIZE];

    if (json->failed) return dinov_fail_nomem(err, at->where, at->what);
    DINOV_TRY(dinov_json_limits(json->data, json->size, at, err));
    dinov_text_add(out, "\0\0\0\0\0\0\0\0", DINOV_CK_LENGTH_BYTES);
    dinov_text_puts(out, prefix);
    dinov_text_puts(out, zeros);
    dinov_text_puts(out, middle);
    dinov_text_escaped(out, json->data, json->size);
    dinov_text_puts(out, "\"}");
    dinov_table_build(out, tensors, count);
    while (!out->failed && out->size % DINOV_CK_ALIGN != 0) dinov_text_puts(out, " ");
    if (out->failed) return dinov_fail_nomem(err, at->where, "its header");
    if (out->size - DINOV_CK_LENGTH_BYTES > DINOV_CK_MAX_HEADER)
        return dinov_fail(err, DINOV_ERR_LIMIT, "CK-HEADER-LARGE", "%s: the header would have %zu bytes, expected at most %d", at->where,
                          out->size - DINOV_CK_LENGTH_BYTES, DINOV_CK_MAX_HEADER);
    dinov_put_le64((uint8_t *)out->data, out->size - DINOV_CK_LENGTH_BYTES);
    dinov_xxh128_hex(digest, out->data, out->size);
    memcpy(out->data + DINOV_CK_DIGEST_AT, digest, sizeof digest);
    return DINOV_OK;
}

/* ---- What a file that is not ours looks like ---- */

static const char *guess(const uint8_t *data, size_t size)
{
    const dinov_foreign *foreign = dinov_foreign_find(data, size);
    if (size == 0) return "an empty file";
    if (foreign) return foreign->what;
    if (size >= 4 && memcmp(data, "PK\3\4", 4) == 0) return "a zip archive, as torch.save writes (.pth)";
    if (size > 9 && dinov_le64(data) <= size - 8 && data[8] == '{') return "a safetensors file without dinov's header";
    return "nothing this program knows";
}

static bool contains(const uint8_t *data, size_t size, const char *word)
{
    const size_t   length = strlen(word);
    const uint8_t *hit    = data, *end = data + size;
    for (; (size_t)(end - hit) >= length && (hit = memchr(hit, word[0], (size_t)(end - hit) - length + 1)); hit++)
        if (memcmp(hit, word, length) == 0) return true;
    return false;
}

bool dinov_header_ours(const uint8_t *data, size_t size)
{
    size_t have = size > DINOV_CK_LENGTH_BYTES ? size - DINOV_CK_LENGTH_BYTES : 0;
    size_t part = have < sizeof prefix - 1 ? have : sizeof prefix - 1;
    return part > 0 && memcmp(data + DINOV_CK_LENGTH_BYTES, prefix, part) == 0;
}

bool dinov_header_rewritten(const uint8_t *data, size_t size)
{
    if (size <= DINOV_CK_LENGTH_BYTES) return false;
    size_t   left = size - DINOV_CK_LENGTH_BYTES;
    uint64_t n    = dinov_le64(data);
    if (n < 2 || n > left || n > DINOV_CK_MAX_HEADER) n = left < 65536 ? left : 65536; /* the length may be what is damaged */
    data += DINOV_CK_LENGTH_BYTES;
    return contains(data, (size_t)n, "\"dinov_header\":") || contains(data, (size_t)n, "\"dinov\":");
}

static dinov_status recognise(const uint8_t *data, size_t size, const char *where, dinov_error *err)
{
    if (dinov_header_ours(data, size)) return DINOV_OK;
    if (dinov_header_rewritten(data, size))
        return dinov_fail(err, DINOV_ERR_FORMAT, "CK-REWRITTEN",
                          "%s: expected dinov's header at byte 8: damaged, or written again by another safetensors tool, which voids "
                          "its digests; dinov-convert makes a checkpoint of the tensors",
                          where);
    return dinov_fail(err, DINOV_ERR_FORMAT, "CK-FORMAT",
                      "%s: expected a dinov checkpoint, found %s; dinov-convert makes checkpoints from other files", where,
                      guess(data, size));
}

/* ---- Reading ---- */

dinov_status dinov_header_load(uint8_t **out, uint64_t *length, const uint8_t *data, size_t size, const char *where,
                               dinov_error *err)
{
    char digest[DINOV_CK_DIGEST_SIZE];

    DINOV_TRY(recognise(data, size, where, err));
    uint64_t n = size < DINOV_CK_DOCUMENT_AT ? UINT64_MAX : dinov_le64(data);
    if (size < DINOV_CK_DOCUMENT_AT || n > size - DINOV_CK_LENGTH_BYTES || n < DINOV_CK_DOCUMENT_AT - DINOV_CK_LENGTH_BYTES)
        return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-TRUNCATED",
                          "%s: the file ends inside its header, at byte %zu: cut short, or its length field is damaged", where,
                          size);
    if (n > DINOV_CK_MAX_HEADER)
        return dinov_fail(err, DINOV_ERR_LIMIT, "CK-HEADER-LARGE", "%s: the header has %llu bytes, expected at most %d", where,
                          (unsigned long long)n, DINOV_CK_MAX_HEADER);

    /* From here on only the copy is looked at: the file may change under its mapping. */
    *length         = DINOV_CK_LENGTH_BYTES + n;
    uint8_t *header = dinov_alloc(*length, 1);
    if (!header) return dinov_fail_nomem(err, where, "its header");
    memcpy(header, data, *length);
    char stated[DINOV_CK_DIGEST_SIZE];
    memcpy(stated, header + DINOV_CK_DIGEST_AT, sizeof stated);
    memset(header + DINOV_CK_DIGEST_AT, '0', sizeof stated);
    dinov_xxh128_hex(digest, header, *length);
    if (memcmp(stated, digest, sizeof digest) != 0) {
        char found[DINOV_ESCAPED];
        dinov_escape(found, sizeof found, stated, sizeof stated);
        dinov_free(header);
        return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-HEADER-DIGEST",
                          "%s: the header is damaged: its digest is %.32s, the file says %s", where, digest, found);
    }
    memcpy(header + DINOV_CK_DIGEST_AT, digest, sizeof digest);
    *out = header;
    return DINOV_OK;
}

static dinov_status bad_metadata(const dinov_cursor *c, const char *where, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-METADATA",
                      "%s: byte %llu: the metadata does not begin and end as the format requires", where,
                      (unsigned long long)c->pos);
}

dinov_status dinov_header_document(dinov_text *json, dinov_cursor *c, const char *where, dinov_error *err)
{
    dinov_cursor_seek(c, DINOV_CK_DIGEST_AT + DINOV_CK_DIGEST_SIZE);
    const uint8_t *p = dinov_cursor_take(c, sizeof middle - 1);
    if (!p || memcmp(p, middle, sizeof middle - 1) != 0) return bad_metadata(c, where, err);

    /* Only \" and \\ occur: the document is printable and escapes its own strings by the same rule. */
    const uint8_t *run = c->data + c->pos;
    for (;;) {
        uint8_t byte = dinov_cursor_u8(c);
        if (c->failed) return bad_metadata(c, where, err);
        if (byte != '"' && byte != '\\') continue;
        dinov_text_add(json, run, (size_t)(c->data + c->pos - 1 - run));
        if (json->failed) return dinov_fail_nomem(err, where, "the dinov document");
        if (byte == '"') break;
        run  = c->data + c->pos;
        byte = dinov_cursor_u8(c);
        if (byte != '"' && byte != '\\') return bad_metadata(c, where, err);
    }
    p = dinov_cursor_take(c, 1);
    if (!p || *p != '}') return bad_metadata(c, where, err);
    if (!dinov_text_printable(json->data, json->size))
        return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DOCUMENT", "%s: the dinov document is not printable UTF-8", where);
    return DINOV_OK;
}

dinov_status dinov_header_padding(dinov_cursor *c, const char *where, dinov_error *err)
{
    uint64_t       left = dinov_cursor_left(c);
    const uint8_t *p    = dinov_cursor_take(c, left);
    bool           good = c->size % DINOV_CK_ALIGN == 0 && left < DINOV_CK_ALIGN;
    for (uint64_t i = 0; good && i < left; i++) good = p[i] == ' ';
    if (good) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-PADDING",
                      "%s: expected the header to end in fewer than %d spaces, at a multiple of %d; it ends at byte %llu", where,
                      DINOV_CK_ALIGN, DINOV_CK_ALIGN, (unsigned long long)c->size);
}
