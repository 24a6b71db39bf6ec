/* SPDX-License-Identifier: Apache-2.0 */
#include "eval/classes.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/file.h"
#include "infer/npy.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LABELS = 1 << 30 /* bytes of a file of labels */ };

static const char *shown(const void *bytes, size_t size)
{
    static _Thread_local char text[DINOV_ESCAPED];
    return dinov_escape(text, sizeof text, bytes, size);
}

static int compare(dinov_bytes a, dinov_bytes b)
{
    int order = memcmp(a.at, b.at, a.size < b.size ? a.size : b.size);
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

void dinov_classes_clear(dinov_classes *c)
{
    for (int64_t i = 0; c->name && i < c->name_count; i++) dinov_free(c->name[i]);
    dinov_free(c->name);
    dinov_free(c->label);
    *c = (dinov_classes){0};
}

/* "0", "17", "-1": as a number would be written, and small enough for one. */
static bool is_number(dinov_bytes text, int32_t *value)
{
    size_t sign = text.size > 1 && text.at[0] == '-', digits = text.size - sign;
    *value      = 0;
    if (digits < 1 || digits > 9 || (digits > 1 && text.at[sign] == '0')) return false;
    for (size_t i = sign; i < text.size; i++) {
        if (text.at[i] < '0' || text.at[i] > '9') return false;
        *value = *value * 10 + (text.at[i] - '0');
    }
    if (sign) *value = -*value;
    return true;
}

/* ---- Texts to labels ---- */

struct text {
    dinov_bytes bytes;
    int64_t     row;
};

static int by_bytes(const void *a, const void *b) { return compare(((const struct text *)a)->bytes, ((const struct text *)b)->bytes); }

static dinov_status name_classes(dinov_classes *out, struct text *sorted, int64_t count, dinov_error *err)
{
    int64_t classes = 0;
    for (int64_t i = 0; i < count; i++) classes += i == 0 || compare(sorted[i].bytes, sorted[i - 1].bytes) != 0;
    out->name = dinov_calloc((size_t)classes, sizeof *out->name);
    if (!out->name) return dinov_fail_nomem(err, "labels", "names of classes");
    for (int64_t i = 0; i < count; i++) {
        if (i == 0 || compare(sorted[i].bytes, sorted[i - 1].bytes) != 0) {
            char *name = dinov_calloc(sorted[i].bytes.size + 1, 1);
            if (!name) return dinov_fail_nomem(err, "labels", "names of classes");
            memcpy(name, sorted[i].bytes.at, sorted[i].bytes.size);
            out->name[out->name_count++] = name;
        }
        out->label[sorted[i].row] = (int32_t)(out->name_count - 1);
    }
    return DINOV_OK;
}

dinov_status dinov_classes_from_texts(dinov_classes *out, const dinov_bytes *texts, int64_t count, dinov_error *err)
{
    struct text *sorted  = dinov_alloc((size_t)count, sizeof *sorted);
    bool         numbers = true;
    dinov_status status  = DINOV_OK;

    *out       = (dinov_classes){.count = count};
    out->label = dinov_alloc((size_t)count, sizeof *out->label);
    if (!sorted || !out->label) {
        status = dinov_fail_nomem(err, "labels", "labels");
        goto fail;
    }
    for (int64_t i = 0; i < count && numbers; i++) numbers = is_number(texts[i], &out->label[i]);
    if (!numbers) {
        for (int64_t i = 0; i < count; i++) sorted[i] = (struct text){texts[i], i};
        qsort(sorted, (size_t)count, sizeof *sorted, by_bytes);
        DINOV_TRY_GOTO(name_classes(out, sorted, count, err));
    }
    dinov_free(sorted);
    return DINOV_OK;
fail:
    dinov_free(sorted);
    dinov_classes_clear(out);
    return status;
}

/* ---- Files of labels ---- */

/* Which entry of `entries` is a row's, when there is one a row or one an input. */
static dinov_status check_count(const dinov_rows *rows, int64_t entries, const char *path, dinov_error *err)
{
    if (entries == rows->count || (rows->input && entries == rows->inputs)) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-COUNT", "%s: %lld labels for the %lld rows of the %s; expected one a row%s",
                      shown(path, strlen(path)), (long long)entries, (long long)rows->count, rows->name,
                      rows->input ? ", or one for each input of the run, bad ones included" : "");
}

static int64_t entry_of(const dinov_rows *rows, int64_t entries, int64_t row)
{
    return entries == rows->count ? row : rows->input[row];
}

static int64_t load_integer(const uint8_t *p, char kind, int size)
{
    uint64_t v = size == 8 ? dinov_le64(p) : size == 4 ? dinov_le32(p) : size == 2 ? dinov_le16(p) : *p;
    if (kind == 'i' && size < 8 && v >> (8 * size - 1)) v |= ~(uint64_t)0 << 8 * size;
    return (int64_t)v;
}

static dinov_status read_array(dinov_classes *out, const void *bytes, size_t size, const char *path, const dinov_rows *rows,
                               dinov_error *err)
{
    dinov_npy npy;
    DINOV_TRY(dinov_npy_parse(&npy, bytes, size, path, err));
    /* '<i8', '|u1': quote, order, kind, bytes, quote */
    char kind  = npy.descr_size == 5 ? npy.descr[2] : '?';
    int  width = npy.descr_size == 5 ? npy.descr[3] - '0' : 0;
    bool known = (kind == 'i' || kind == 'u') && (width == 1 || width == 2 || width == 4 || width == 8) &&
                 (npy.descr[1] == '<' || width == 1);
    bool flat  = npy.rank == 1 || (npy.rank == 2 && npy.dim[1] == 1);
    if (!known || !flat || (uint64_t)npy.dim[0] > npy.size || npy.size != (uint64_t)npy.dim[0] * (uint64_t)width)
        return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-LABELS",
                          "%s: expected a complete array of whole numbers with one dimension; save labels.astype(\"<i4\")",
                          shown(path, strlen(path)));
    DINOV_TRY(check_count(rows, npy.dim[0], path, err));
    out->label = dinov_alloc((size_t)rows->count, sizeof *out->label);
    if (!out->label) return dinov_fail_nomem(err, path, "labels");
    out->count = rows->count;
    for (int64_t i = 0; i < rows->count; i++) {
        int64_t value = load_integer(npy.data + entry_of(rows, npy.dim[0], i) * width, kind, width);
        if (value < INT32_MIN || value > INT32_MAX)
            return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-LABELS", "%s: label %lld is no number of a class",
                              shown(path, strlen(path)), (long long)value);
        out->label[i] = (int32_t)value;
    }
    return DINOV_OK;
}

struct line {
    dinov_bytes key, label;
};

static int by_key(const void *a, const void *b) { return compare(((const struct line *)a)->key, ((const struct line *)b)->key); }

/* Lines of a text; *keyed when each has a tab, of which the last counts. */
static dinov_status split_lines(struct line **out, int64_t *count, bool *keyed, const char *text, size_t size, const char *path,
                                dinov_error *err)
{
    int64_t room = 1;
    for (size_t i = 0; i < size; i++) room += text[i] == '\n';
    *out   = dinov_alloc((size_t)room, sizeof **out);
    *count = 0;
    if (!*out) return dinov_fail_nomem(err, path, "its lines");
    for (const char *p = text, *end = text + size; p < end;) {
        const char *newline = memchr(p, '\n', (size_t)(end - p)), *stop = newline ? newline : end, *next = newline ? stop + 1 : end;
        if (stop > p && stop[-1] == '\r') stop--;
        const char *tab = stop;
        while (tab > p && tab[-1] != '\t') tab--;
        bool has_tab = tab > p;
        if (*count == 0) *keyed = has_tab;
        if (stop == tab || has_tab != *keyed || memchr(p, 0, (size_t)(stop - p)))
            return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-LABELS", "%s: line %lld: expected %s as in the first line, found \"%s\"",
                              path, (long long)*count + 1, *keyed ? "a key, a tab and a label" : "a label and no tab",
                              shown(p, (size_t)(stop - p)));
        (*out)[(*count)++] = (struct line){{p, has_tab ? (size_t)(tab - 1 - p) : 0}, {tab, (size_t)(stop - tab)}};
        p                  = next;
    }
    return DINOV_OK;
}

static dinov_status find_keyed(dinov_bytes *texts, struct line *lines, int64_t count, const char *path, const dinov_rows *rows,
                               dinov_error *err)
{
    char key[DINOV_ESCAPED];
    if (!rows->key)
        return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-LABELS",
                          "%s: labels by key, but the rows of the %s have no keys; expected one label a line", path, rows->name);
    qsort(lines, (size_t)count, sizeof *lines, by_key);
    for (int64_t i = 1; i < count; i++)
        if (compare(lines[i].key, lines[i - 1].key) == 0)
            return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-LABELS", "%s: two lines for the key %s", path,
                              dinov_escape(key, sizeof key, lines[i].key.at, lines[i].key.size));
    for (int64_t i = 0; i < rows->count; i++) {
        struct line        want  = {rows->key[i], {NULL, 0}};
        const struct line *found = bsearch(&want, lines, (size_t)count, sizeof *lines, by_key);
        if (!found)
            return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-UNLABELLED", "%s: no label for %s, row %lld of the %s", path,
                              dinov_escape(key, sizeof key, want.key.at, want.key.size), (long long)i, rows->name);
        texts[i] = found->label;
    }
    return DINOV_OK;
}

static dinov_status read_text(dinov_classes *out, const void *bytes, size_t size, const char *path, const dinov_rows *rows,
                              dinov_error *err)
{
    char         name[DINOV_ESCAPED];
    struct line *lines  = NULL;
    dinov_bytes *texts  = dinov_alloc((size_t)rows->count, sizeof *texts);
    int64_t      count  = 0;
    bool         keyed  = false;
    dinov_status status = DINOV_OK;

    dinov_escape(name, sizeof name, path, strlen(path));
    if (!texts) return dinov_fail_nomem(err, path, "labels");
    DINOV_TRY_GOTO(split_lines(&lines, &count, &keyed, bytes, size, name, err));
    if (keyed)
        DINOV_TRY_GOTO(find_keyed(texts, lines, count, name, rows, err));
    else {
        DINOV_TRY_GOTO(check_count(rows, count, path, err));
        for (int64_t i = 0; i < rows->count; i++) texts[i] = lines[entry_of(rows, count, i)].label;
    }
    status = dinov_classes_from_texts(out, texts, rows->count, err);
fail:
    dinov_free(lines);
    dinov_free(texts);
    return status;
}

dinov_status dinov_classes_read(dinov_classes *out, const char *path, const dinov_rows *rows, dinov_error *err)
{
    void  *bytes;
    size_t size;

    *out = (dinov_classes){0};
    DINOV_TRY(dinov_file_read(&bytes, &size, path, MAX_LABELS, err));
    dinov_status status = (dinov_npy_is(bytes, size) ? read_array : read_text)(out, bytes, size, path, rows, err);
    if (status != DINOV_OK) dinov_classes_clear(out);
    dinov_free(bytes);
    return status;
}

/* ---- Folders ---- */

/* "photos/cat/1.jpg": "cat"; empty when there is none. */
static dinov_bytes last_folder(dinov_bytes key)
{
    size_t end = key.size, begin;
    while (end > 0 && key.at[end - 1] != '/') end--;
    while (end > 0 && key.at[end - 1] == '/') end--;
    for (begin = end; begin > 0 && key.at[begin - 1] != '/';) begin--;
    return (dinov_bytes){key.at + begin, end - begin};
}

dinov_status dinov_classes_from_folders(dinov_classes *out, const dinov_rows *rows, dinov_error *err)
{
    dinov_bytes *texts  = dinov_alloc((size_t)rows->count, sizeof *texts);
    bool         all_in = true;
    dinov_status status = DINOV_OK;

    *out = (dinov_classes){0};
    if (!texts) return dinov_fail_nomem(err, "labels", "names of folders");
    for (int64_t i = 0; i < rows->count; i++) {
        texts[i] = last_folder(rows->key[i]);
        all_in &= compare(texts[i], texts[0]) == 0;
        if (texts[i].size) continue;
        status = dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-UNLABELLED",
                            "%s: %s lies in no folder to take its class from; give a file of labels", rows->name,
                            shown(rows->key[i].at, rows->key[i].size));
        goto fail;
    }
    if (all_in && rows->count > 0) {
        status = dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-UNLABELLED",
                            "%s: all pictures lie in the one folder %s, so folders are not their classes; give a file of labels",
                            rows->name, shown(texts[0].at, texts[0].size));
        goto fail;
    }
    status = dinov_classes_from_texts(out, texts, rows->count, err);
fail:
    dinov_free(texts);
    return status;
}

/* ---- Two sets ---- */

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

dinov_status dinov_classes_match(dinov_classes *test, const char *test_name, const dinov_classes *train, const char *train_name,
                                 dinov_error *err)
{
    if (!test->name != !train->name)
        return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-CLASS", "classes are %s in the %s and %s in the %s; expected the same in both",
                          train->name ? "names" : "numbers", train_name, test->name ? "names" : "numbers", test_name);
    for (int64_t i = 0; test->name && i < test->name_count; i++) {
        if (!bsearch(&test->name[i], train->name, (size_t)train->name_count, sizeof *train->name, by_name))
            return dinov_fail(err, DINOV_ERR_SHAPE, "EVAL-CLASS", "%s: class %s does not occur in the %s", test_name,
                              shown(test->name[i], strlen(test->name[i])), train_name);
    }
    for (int64_t i = 0; test->name && i < test->count; i++) {
        char **found = bsearch(&test->name[test->label[i]], train->name, (size_t)train->name_count, sizeof *train->name, by_name);
        test->label[i] = (int32_t)(found - train->name);
    }
    return DINOV_OK;
}
