/* SPDX-License-Identifier: Apache-2.0 */
#include "format/table.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "format/layout.h"

#include <stdlib.h>

static bool legal_name(const char *name, size_t size)
{
    return size >= 1 && size <= DINOV_CK_MAX_NAME && !memchr(name, '"', size) && !memchr(name, '\\', size) &&
           dinov_text_printable(name, size);
}

/* ---- Order ---- */

static uint64_t bytes_of(const dinov_named_tensor *t)
{
    uint64_t bytes = 0;
    return dinov_tensor_bytes(&t->tensor, &bytes) ? bytes : 0;
}

/* Tensors that keep the next one on a 64-byte boundary first, the rest by element size. */
static int file_order(const dinov_named_tensor *a, const dinov_named_tensor *b)
{
    bool a_whole = bytes_of(a) % DINOV_CK_ALIGN == 0, b_whole = bytes_of(b) % DINOV_CK_ALIGN == 0;
    if (a_whole != b_whole) return a_whole ? -1 : 1;
    size_t a_size = dinov_dtype_size(a->tensor.dtype), b_size = dinov_dtype_size(b->tensor.dtype);
    if (!a_whole && a_size != b_size) return a_size > b_size ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int by_file_order(const void *a, const void *b)
{
    return file_order(*(const dinov_named_tensor *const *)a, *(const dinov_named_tensor *const *)b);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const dinov_named_tensor *const *)a)->name, (*(const dinov_named_tensor *const *)b)->name);
}

dinov_status dinov_table_sort_names(const dinov_named_tensor **tensors, size_t count, const char *where,
                                    dinov_error *err)
{
    char name[DINOV_ESCAPED];
    for (size_t i = 0; i < count; i++)
        if (!legal_name(tensors[i]->name, strlen(tensors[i]->name)))
            return dinov_fail(err, DINOV_ERR_SHAPE, "CK-NAME",
                              "%s: tensor name \"%s\": expected 1 to %d bytes of printable UTF-8 without \" and \\", where,
                              dinov_escape(name, sizeof name, tensors[i]->name, strlen(tensors[i]->name)),
                              DINOV_CK_MAX_NAME);
    qsort(tensors, count, sizeof *tensors, by_name);
    for (size_t i = 1; i < count; i++)
        if (strcmp(tensors[i - 1]->name, tensors[i]->name) == 0)
            return dinov_fail(err, DINOV_ERR_SHAPE, "CK-DUPLICATE", "%s: tensor %s: the name occurs twice", where,
                              dinov_escape(name, sizeof name, tensors[i]->name, strlen(tensors[i]->name)));
    return DINOV_OK;
}

dinov_status dinov_table_sort(const dinov_named_tensor **tensors, size_t count, const char *where, dinov_error *err)
{
    uint64_t total = 0, bytes;

    DINOV_TRY(dinov_table_sort_names(tensors, count, where, err));
    for (size_t i = 0; i < count; i++) {
        char name[DINOV_ESCAPED];
        if (!dinov_tensor_bytes(&tensors[i]->tensor, &bytes) || bytes == 0 || !dinov_ck_add(total, bytes, &total) ||
            total > INT64_MAX)
            return dinov_fail(err, DINOV_ERR_SHAPE, "CK-SIZE",
                              "%s: tensor %s: expected a known dtype and between 1 byte and what a file can hold", where,
                              dinov_escape(name, sizeof name, tensors[i]->name, strlen(tensors[i]->name)));
    }
    qsort(tensors, count, sizeof *tensors, by_file_order);
    return DINOV_OK;
}

/* ---- Writing ---- */

void dinov_table_entry(dinov_text *text, const dinov_named_tensor *tensor, uint64_t begin, uint64_t end)
{
    const dinov_tensor *t = &tensor->tensor;
    dinov_text_puts(text, ",\"");
    dinov_text_escaped(text, tensor->name, strlen(tensor->name));
    dinov_text_puts(text, "\":{\"dtype\":\"");
    dinov_text_puts(text, dinov_dtype_name(t->dtype));
    dinov_text_puts(text, "\",\"shape\":[");
    for (int d = 0; d < t->rank; d++) {
        if (d) dinov_text_puts(text, ",");
        dinov_text_int(text, t->dim[d]);
    }
    dinov_text_puts(text, "],\"data_offsets\":[");
    dinov_text_int(text, (int64_t)begin);
    dinov_text_puts(text, ",");
    dinov_text_int(text, (int64_t)end);
    dinov_text_puts(text, "]}");
}

void dinov_table_build(dinov_text *text, const dinov_named_tensor *const *tensors, size_t count)
{
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t end = at + bytes_of(tensors[i]);
        dinov_table_entry(text, tensors[i], at, end);
        at = end;
    }
    dinov_text_puts(text, "}");
}

/* ---- Reading ---- */

/* The next bytes are exactly `text`. */
static bool literal(dinov_cursor *c, const char *text)
{
    size_t         size = strlen(text);
    const uint8_t *p    = dinov_cursor_take(c, size);
    if (p && memcmp(p, text, size) == 0) return true;
    c->failed = true;
    return false;
}

static bool next_is(const dinov_cursor *c, char byte)
{
    return dinov_cursor_left(c) > 0 && c->data[c->pos] == (uint8_t)byte;
}

/* Bytes up to the next quote, which is consumed. */
static const char *quoted(dinov_cursor *c, size_t *size)
{
    uint64_t       left  = dinov_cursor_left(c);
    const uint8_t *start = c->data + c->pos;
    const uint8_t *end   = left ? memchr(start, '"', left) : NULL;
    if (!end) {
        c->failed = true;
        return NULL;
    }
    *size = (size_t)(end - start);
    dinov_cursor_take(c, *size + 1);
    return (const char *)start;
}

/* Plain decimal without sign or leading zero, at most 2^63 - 1. */
static int64_t integer(dinov_cursor *c)
{
    uint64_t value = 0;
    int      count = 0;
    bool     zero  = next_is(c, '0');
    while (dinov_cursor_left(c) > 0 && c->data[c->pos] >= '0' && c->data[c->pos] <= '9') {
        uint8_t digit = (uint8_t)(dinov_cursor_u8(c) - '0');
        if (!dinov_ck_mul(value, 10, &value) || !dinov_ck_add(value, digit, &value) || value > INT64_MAX) c->failed = true;
        count++;
    }
    if (count == 0 || (zero && count > 1)) c->failed = true;
    return c->failed ? 0 : (int64_t)value;
}

struct entry {
    const char  *name;
    size_t       name_size;
    char         dtype[16];
    dinov_tensor tensor;
    int64_t      begin, end;
};

/* One `"name":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}`; false when it is spelled otherwise. */
static bool scan_entry(dinov_cursor *c, struct entry *e)
{
    size_t      size = 0;
    const char *dtype;

    *e = (struct entry){0};
    if (!literal(c, "\"") || !(e->name = quoted(c, &e->name_size))) return false;
    if (!literal(c, ":{\"dtype\":\"") || !(dtype = quoted(c, &size)) || size >= sizeof e->dtype) return false;
    memcpy(e->dtype, dtype, size);
    e->tensor.dtype = dinov_dtype_from_name(e->dtype);
    if (!literal(c, ",\"shape\":[")) return false;
    if (!next_is(c, ']')) {
        do {
            if (e->tensor.rank == DINOV_MAX_RANK) return false;
            e->tensor.dim[e->tensor.rank++] = integer(c);
        } while (next_is(c, ',') && dinov_cursor_take(c, 1));
    }
    if (!literal(c, "],\"data_offsets\":[")) return false;
    e->begin = integer(c);
    if (!literal(c, ",")) return false;
    e->end = integer(c);
    return literal(c, "]}");
}

#define CORRUPT(code, ...) dinov_fail(err, DINOV_ERR_CORRUPT, code, __VA_ARGS__)

/* The entry follows one that ended at `at`. */
static dinov_status check_entry(const struct entry *e, uint64_t at, const char *where, dinov_error *err)
{
    char     name[DINOV_ESCAPED], dtype[64];
    uint64_t bytes;

    dinov_escape(name, sizeof name, e->name, e->name_size);
    if (!legal_name(e->name, e->name_size))
        return CORRUPT("CK-NAME", "%s: tensor name \"%s\": expected 1 to %d bytes of printable UTF-8 without \" and \\",
                       where, name, DINOV_CK_MAX_NAME);
    if (!e->tensor.dtype)
        return CORRUPT("CK-DTYPE", "%s: tensor %s: \"%s\" is no dtype of this format version", where, name,
                       dinov_escape(dtype, sizeof dtype, e->dtype, strlen(e->dtype)));
    if ((uint64_t)e->begin != at)
        return CORRUPT((uint64_t)e->begin < at ? "CK-OVERLAP" : "CK-HOLE",
                       "%s: tensor %s: expected to begin at data byte %llu, where the one before ends, found %llu", where,
                       name, (unsigned long long)at, (unsigned long long)e->begin);
    if (!dinov_tensor_bytes(&e->tensor, &bytes) || bytes == 0 || e->end < e->begin ||
        (uint64_t)(e->end - e->begin) != bytes)
        return CORRUPT("CK-SIZE", "%s: tensor %s: its offsets [%lld, %lld) are not the size of its shape and dtype, or it is empty",
                       where, name, (long long)e->begin, (long long)e->end);
    return DINOV_OK;
}

static dinov_status bad_spelling(const dinov_cursor *c, const char *where, dinov_error *err)
{
    return CORRUPT("CK-TABLE", "%s: the tensor table, near byte %llu, is not spelled as the format requires", where,
                   (unsigned long long)c->pos);
}

/* Counts entries and the bytes of their names, proving spelling and sizes. */
static dinov_status measure(dinov_cursor c, size_t *count, size_t *name_bytes, const char *where, dinov_error *err)
{
    uint64_t at = 0;
    *count = *name_bytes = 0;
    while (next_is(&c, ',')) {
        struct entry e;
        dinov_cursor_take(&c, 1);
        if (!scan_entry(&c, &e)) return bad_spelling(&c, where, err);
        DINOV_TRY(check_entry(&e, at, where, err));
        if (*count == DINOV_CK_MAX_TENSORS)
            return dinov_fail(err, DINOV_ERR_LIMIT, "CK-TENSORS", "%s: more than %d tensors", where, DINOV_CK_MAX_TENSORS);
        at = (uint64_t)e.end;
        *count += 1;
        *name_bytes += e.name_size + 1;
    }
    return literal(&c, "}") ? DINOV_OK : bad_spelling(&c, where, err);
}

/* Distinct names in canonical order; the second follows from the first only within a group. */
static dinov_status check_order(const dinov_table *table, const char *where, dinov_error *err)
{
    char name[DINOV_ESCAPED];
    for (size_t i = 1; i < table->count; i++) {
        const dinov_named_tensor *a = &table->tensors[i - 1], *b = &table->tensors[i];
        int                       order = file_order(a, b);
        if (order < 0) continue;
        dinov_escape(name, sizeof name, b->name, strlen(b->name));
        return order == 0 ? CORRUPT("CK-DUPLICATE", "%s: tensor %s: the name occurs twice", where, name)
                          : CORRUPT("CK-ORDER", "%s: tensor %s does not stand where the format's order puts it", where, name);
    }
    const dinov_named_tensor **sorted = dinov_alloc(table->count, sizeof *sorted);
    if (!sorted) return dinov_fail_nomem(err, where, "the list of names");
    for (size_t i = 0; i < table->count; i++) sorted[i] = &table->tensors[i];
    dinov_status status = dinov_table_sort_names(sorted, table->count, where, err);
    dinov_free(sorted);
    if (status == DINOV_OK) return DINOV_OK;
    if (err) err->status = DINOV_ERR_CORRUPT;
    return DINOV_ERR_CORRUPT;
}

dinov_status dinov_table_scan(dinov_table *out, dinov_cursor *c, const char *where, dinov_error *err)
{
    dinov_status status;
    size_t       count, name_bytes;
    dinov_table  t = {0};

    DINOV_TRY(measure(*c, &count, &name_bytes, where, err));
    t.tensors = dinov_calloc(count, sizeof *t.tensors);
    t.offsets = dinov_calloc(count, sizeof *t.offsets);
    t.names   = dinov_alloc(name_bytes, 1);
    if (!t.tensors || !t.offsets || !t.names) {
        status = dinov_fail_nomem(err, where, "the tensor table");
        goto fail;
    }
    char *next = t.names;
    for (; t.count < count; t.count++) {
        struct entry e;
        dinov_cursor_take(c, 1);
        DINOV_ASSERT(scan_entry(c, &e)); /* measure has seen these same bytes */
        memcpy(next, e.name, e.name_size);
        next[e.name_size]   = '\0';
        t.tensors[t.count]  = (dinov_named_tensor){next, e.tensor};
        t.offsets[t.count]  = (uint64_t)e.begin;
        t.bytes             = (uint64_t)e.end;
        next += e.name_size + 1;
    }
    dinov_cursor_take(c, 1); /* the brace */
    DINOV_TRY_GOTO(check_order(&t, where, err));
    *out = t;
    return DINOV_OK;
fail:
    dinov_table_clear(&t);
    return status;
}

void dinov_table_clear(dinov_table *table)
{
    dinov_free(table->tensors);
    dinov_free(table->offsets);
    dinov_free(table->names);
    *table = (dinov_table){0};
}
