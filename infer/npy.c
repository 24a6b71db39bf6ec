/* SPDX-License-Identifier: Apache-2.0
 *
 * The .npy header is a Python dictionary with the keys descr, fortran_order and shape, padded with
 * spaces. It is read by a small parser for just that, through a cursor, and written with room for the
 * largest number of rows so that the true one can be put in at the end.
 */
#include "infer/npy.h"

#include "base/bytes.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const uint8_t magic[6] = "\x93NUMPY";

enum { MAX_HEADER = 65535 };

bool dinov_npy_is(const void *bytes, size_t size) { return size >= sizeof magic && memcmp(bytes, magic, sizeof magic) == 0; }

/* ---- The dictionary ---- */

static int peek(const dinov_cursor *c) { return dinov_cursor_left(c) ? c->data[c->pos] : -1; }

static void spaces(dinov_cursor *c)
{
    while (peek(c) == ' ' || peek(c) == '\t' || peek(c) == '\n') dinov_cursor_take(c, 1);
}

/* Spaces, then this character, or the cursor fails. */
static bool expect(dinov_cursor *c, int character)
{
    spaces(c);
    if (peek(c) != character) c->failed = true;
    return dinov_cursor_take(c, 1) != NULL;
}

static bool accept(dinov_cursor *c, int character)
{
    spaces(c);
    return peek(c) == character && dinov_cursor_take(c, 1);
}

static bool word(dinov_cursor *c, const char *text)
{
    size_t size = strlen(text);
    spaces(c);
    if (dinov_cursor_left(c) < size || memcmp(c->data + c->pos, text, size) != 0) return false;
    return dinov_cursor_take(c, size) != NULL;
}

/* A quoted string without escapes; the bytes between the quotes. */
static const char *string(dinov_cursor *c, size_t *size)
{
    spaces(c);
    int quote = peek(c);
    if (quote != '\'' && quote != '"') c->failed = true;
    dinov_cursor_take(c, 1);
    uint64_t begin = c->pos;
    while (peek(c) != quote && peek(c) != -1 && peek(c) != '\\') dinov_cursor_take(c, 1);
    *size = (size_t)(c->pos - begin);
    expect(c, quote);
    return (const char *)c->data + begin;
}

/* A string, or a list with brackets and parentheses in any balanced nesting: a structured type. */
static void read_descr(dinov_cursor *c, dinov_npy *out)
{
    int    depth = 0;
    size_t ignored;
    spaces(c);
    uint64_t begin = c->pos;
    do {
        int next = peek(c);
        if (next == '\'' || next == '"')
            string(c, &ignored);
        else
            dinov_cursor_take(c, 1);
        if (next == '[' || next == '(') depth++;
        if (next == ']' || next == ')') depth--;
    } while (depth > 0 && !c->failed);
    out->descr      = (const char *)c->data + begin;
    out->descr_size = (size_t)(c->pos - begin);
}

static void read_shape(dinov_cursor *c, dinov_npy *out)
{
    out->rank = 0;
    expect(c, '(');
    while (!c->failed && !accept(c, ')')) {
        uint64_t value = 0;
        bool     digit = false;
        spaces(c);
        while (peek(c) >= '0' && peek(c) <= '9') {
            uint64_t next = (uint64_t)(dinov_cursor_u8(c) - '0');
            if (!dinov_ck_mul(value, 10, &value) || !dinov_ck_add(value, next, &value) || value > INT64_MAX) c->failed = true;
            digit = true;
        }
        if (!digit || out->rank == DINOV_MAX_RANK) c->failed = true;
        if (c->failed) return;
        out->dim[out->rank++] = (int64_t)value;
        if (!accept(c, ',') && peek(c) != ')') c->failed = true;
    }
}

/* False when the text is not such a dictionary; `fortran` may be set either way. */
static bool read_dictionary(dinov_cursor *c, dinov_npy *out, bool *fortran)
{
    enum { DESCR = 1, ORDER = 2, SHAPE = 4 };
    int seen = 0;

    expect(c, '{');
    while (!c->failed && !accept(c, '}')) {
        size_t      size;
        const char *key  = string(c, &size);
        int         what = 0;
        expect(c, ':');
        if (c->failed) return false;
        if (size == 5 && memcmp(key, "descr", 5) == 0) {
            what = DESCR;
            read_descr(c, out);
        } else if (size == 13 && memcmp(key, "fortran_order", 13) == 0) {
            what     = ORDER;
            *fortran = word(c, "True");
            if (!*fortran && !word(c, "False")) c->failed = true;
        } else if (size == 5 && memcmp(key, "shape", 5) == 0) {
            what = SHAPE;
            read_shape(c, out);
        }
        if (!what || (seen & what)) c->failed = true;
        seen |= what;
        if (!accept(c, ',') && peek(c) != '}') c->failed = true;
    }
    spaces(c);
    return seen == (DESCR | ORDER | SHAPE) && !c->failed && dinov_cursor_left(c) == 0;
}

dinov_status dinov_npy_parse(dinov_npy *out, const void *bytes, size_t size, const char *name, dinov_error *err)
{
    char         shown[DINOV_ESCAPED];
    dinov_cursor c       = dinov_cursor_make(bytes, size);
    bool         fortran = false;

    *out = (dinov_npy){0};
    dinov_escape(shown, sizeof shown, name, strlen(name));
    if (!dinov_npy_is(bytes, size)) return dinov_fail(err, DINOV_ERR_FORMAT, "NPY-MAGIC", "%s: expected a NumPy .npy file", shown);
    dinov_cursor_take(&c, sizeof magic);
    int major = dinov_cursor_u8(&c), minor = dinov_cursor_u8(&c);
    if (!c.failed && (major < 1 || major > 3 || minor != 0))
        return dinov_fail(err, DINOV_ERR_VERSION, "NPY-VERSION", "%s: expected .npy version 1.0, 2.0 or 3.0, found %d.%d", shown,
                          major, minor);
    uint32_t       length = major == 1 ? dinov_cursor_le16(&c) : dinov_cursor_le32(&c);
    const uint8_t *text   = length <= MAX_HEADER ? dinov_cursor_take(&c, length) : NULL;
    dinov_cursor   header = dinov_cursor_make(text, length);
    if (!text || !read_dictionary(&header, out, &fortran))
        return dinov_fail(err, DINOV_ERR_FORMAT, "NPY-HEADER",
                          "%s: expected an .npy header with descr, fortran_order and shape (at most %d dimensions), found "
                          "something else",
                          shown, DINOV_MAX_RANK);
    if (fortran)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "NPY-ORDER",
                          "%s: expected C order, found Fortran order; save numpy.ascontiguousarray(a)", shown);
    out->size = dinov_cursor_left(&c);
    out->data = dinov_cursor_take(&c, out->size);
    return DINOV_OK;
}

dinov_status dinov_npy_parse_f32(dinov_npy *out, const void *bytes, size_t size, const char *name, dinov_error *err)
{
    char     shown[DINOV_ESCAPED], type[64];
    uint64_t need = 4;
    bool     fits = true, empty = false;

    DINOV_TRY(dinov_npy_parse(out, bytes, size, name, err));
    dinov_escape(shown, sizeof shown, name, strlen(name));
    if (out->descr_size != 5 || memcmp(out->descr + 1, "<f4", 3) != 0)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "NPY-DTYPE",
                          "%s: expected little-endian float32 ('<f4'), found %s; save a.astype(\"<f4\")", shown,
                          dinov_escape(type, sizeof type, out->descr, out->descr_size));
    for (int i = 0; i < out->rank; i++) {
        if (out->dim[i] == 0)
            empty = true;
        else if (!dinov_ck_mul(need, (uint64_t)out->dim[i], &need))
            fits = false;
    }
    if (empty) need = 0;
    if (!fits || need != out->size)
        return dinov_fail(err, DINOV_ERR_CORRUPT, "NPY-SIZE", "%s: expected %s%" PRIu64 " bytes after the header, found %" PRIu64,
                          shown, fits ? "" : "more than ", fits ? need : UINT64_MAX, out->size);
    return DINOV_OK;
}

/* ---- Writing ---- */

enum { HEADER_ROOM = 1024, PREFIX = 10 };

/* The header text for dim[0] = rows, without padding. */
static size_t header_text(char text[HEADER_ROOM], const dinov_npy_out *out, int64_t rows)
{
    int n = snprintf(text, HEADER_ROOM, "{'descr': %s, 'fortran_order': False, 'shape': (%" PRId64, out->descr, rows);
    for (int i = 1; i < out->rank; i++) n += snprintf(text + n, (size_t)(HEADER_ROOM - n), ", %" PRId64, out->dim[i]);
    n += snprintf(text + n, (size_t)(HEADER_ROOM - n), "%s), }", out->rank == 1 ? "," : "");
    DINOV_ASSERT(n < HEADER_ROOM);
    return (size_t)n;
}

/* Version 1.0: magic, version, length, text, spaces, newline; data starts at a multiple of 64. */
static void header_bytes(uint8_t bytes[HEADER_ROOM + 64], const dinov_npy_out *out)
{
    char   text[HEADER_ROOM];
    size_t n = header_text(text, out, out->dim[0]);
    memcpy(bytes, magic, sizeof magic);
    bytes[6] = 1, bytes[7] = 0;
    dinov_put_le16(bytes + 8, (uint16_t)(out->header - PREFIX));
    memset(bytes + PREFIX, ' ', out->header - PREFIX);
    memcpy(bytes + PREFIX, text, n);
    bytes[out->header - 1] = '\n';
}

dinov_status dinov_npy_create(dinov_npy_out *out, const char *path, const char *descr, int rank, const int64_t *dim, int overwrite,
                              dinov_error *err)
{
    char    text[HEADER_ROOM];
    uint8_t bytes[HEADER_ROOM + 64];

    DINOV_ASSERT(rank >= 1 && rank <= DINOV_MAX_RANK);
    *out = (dinov_npy_out){.descr = descr, .rank = rank};
    memcpy(out->dim, dim, (size_t)rank * sizeof *dim);
    out->dim[0] = 0;
    out->header = (PREFIX + header_text(text, out, INT64_MAX) + 1 + 63) / 64 * 64;
    header_bytes(bytes, out);
    DINOV_TRY(dinov_out_open(&out->file, path, overwrite, err));
    dinov_status status = dinov_out_write(out->file, bytes, out->header, err);
    if (status != DINOV_OK) dinov_npy_abort(out);
    return status;
}

dinov_status dinov_npy_append(dinov_npy_out *out, const void *data, size_t bytes, int64_t rows, dinov_error *err)
{
    out->dim[0] += rows;
    return dinov_out_write(out->file, data, bytes, err);
}

dinov_status dinov_npy_commit(dinov_npy_out *out, dinov_error *err)
{
    uint8_t bytes[HEADER_ROOM + 64];
    header_bytes(bytes, out);
    dinov_status status = dinov_out_patch(out->file, 0, bytes, out->header, err);
    if (status != DINOV_OK)
        dinov_npy_abort(out);
    else
        status = dinov_out_commit(&out->file, err);
    return status;
}

void dinov_npy_abort(dinov_npy_out *out) { dinov_out_abort(&out->file); }
