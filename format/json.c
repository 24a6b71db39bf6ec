/* SPDX-License-Identifier: Apache-2.0 */
#include "format/json.h"

#include "base/alloc.h"
#include "format/layout.h"

#include <string.h>

/* ---- Building ---- */

void dinov_json_put_int(dinov_text *t, const char *before, int64_t value)
{
    dinov_text_puts(t, before);
    dinov_text_int(t, value);
}

void dinov_json_put_string(dinov_text *t, const char *before, const char *value)
{
    dinov_text_puts(t, before);
    dinov_text_puts(t, "\"");
    dinov_text_escaped(t, value, strlen(value));
    dinov_text_puts(t, "\"");
}

void dinov_json_put_version(dinov_text *t, const char *before, const char *kind)
{
    dinov_text_puts(t, before);
    dinov_json_put_int(t, "\"version\":{\"read\":", DINOV_CK_READ_VERSION);
    dinov_json_put_int(t, ",\"write\":", DINOV_CK_WRITE_VERSION);
    dinov_text_puts(t, ",\"safe_to_ignore\":[],\"safe_to_read\":[],\"must_understand\":[]},");
    dinov_json_put_string(t, "\"kind\":", kind);
}

/* ---- Reading ---- */

bool dinov_json_hex(const char *text, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f'))) return false;
    return true;
}

dinov_status dinov_json_bad(const dinov_json *at, const char *what, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DOCUMENT", "%s: %s: %s", at->where, at->what, what);
}

dinov_status dinov_json_failed(const dinov_json *at, const json_error_t *e, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    if (json_error_code(e) == json_error_out_of_memory) return dinov_fail_nomem(err, at->where, at->what);
    return dinov_json_bad(at, dinov_escape(text, sizeof text, e->text, strlen(e->text)), err);
}

dinov_status dinov_json_limits(const char *json, size_t size, const dinov_json *at, dinov_error *err)
{
    size_t values = 0, depth = 0;
    bool   in_string = false;

    if (size > DINOV_CK_MAX_DOCUMENT)
        return dinov_fail(err, DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE", "%s: %s: expected at most %d bytes, found %zu", at->where,
                          at->what, DINOV_CK_MAX_DOCUMENT, size);
    for (size_t i = 0; i < size; i++) {
        char byte = json[i];
        if (in_string && byte == '\\') {
            if (++i == size || (json[i] != '"' && json[i] != '\\'))
                return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DOCUMENT", "%s: %s, byte %zu: an escape other than \\\" and \\\\",
                                  at->where, at->what, i);
        } else if (byte == '"') in_string = !in_string;
        else if (in_string) continue;
        else if (byte == ',') values++;
        else if (byte == '[' || byte == '{') values++, depth++;
        else if ((byte == ']' || byte == '}') && depth > 0) depth--;
        if (values > DINOV_CK_MAX_VALUES || depth > DINOV_CK_MAX_DEPTH)
            return dinov_fail(err, DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE", "%s: %s: expected at most %d values nested at most %d deep",
                              at->where, at->what, DINOV_CK_MAX_VALUES, DINOV_CK_MAX_DEPTH);
    }
    return DINOV_OK;
}

/* jansson loses data when an allocation fails under it, so it only starts when there is memory for
 * anything it may need: at worst a value of 64 bytes for every two bytes of text. */
dinov_status dinov_json_load(json_t **out, const char *json, size_t size, const dinov_json *at, dinov_error *err)
{
    json_error_t e;
    void        *probe = dinov_alloc(size, 32);
    dinov_free(probe);
    if (!probe) return dinov_fail_nomem(err, at->where, at->what);
    *out = json_loadb(json, size, JSON_REJECT_DUPLICATES, &e);
    return *out ? DINOV_OK : dinov_json_failed(at, &e, err);
}

static bool legal_feature(const char *name, size_t size)
{
    return size >= 1 && size <= DINOV_CK_MAX_FEATURE && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == size;
}

static dinov_status check_features(const json_t *list, const dinov_json *at, dinov_error *err)
{
    if (!json_is_array(list) || json_array_size(list) > DINOV_CK_MAX_FEATURES)
        return dinov_json_bad(at, "a feature list is no array or too long", err);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *name = json_array_get(list, i);
        if (!json_is_string(name) || !legal_feature(json_string_value(name), json_string_length(name)))
            return dinov_json_bad(at, "a feature name is not made of a-z, 0-9 and -", err);
    }
    return DINOV_OK;
}

dinov_status dinov_json_version(json_t *root, bool *exact, const dinov_json *at, dinov_error *err)
{
    json_error_t e;
    json_int_t   read, write;
    json_t      *ignore, *safe, *must;
    const char  *kind;

    if (json_unpack_ex(root, &e, 0, "{s:{s:I,s:I}}", "version", "read", &read, "write", &write) != 0)
        return dinov_json_failed(at, &e, err);
    if (read < 1 || write < read) return dinov_json_bad(at, "its version numbers contradict each other", err);
    if (read > DINOV_CK_READ_VERSION)
        return dinov_fail(err, DINOV_ERR_VERSION, "CK-NEWER",
                          "%s: a sound file of format version %lld; this program reads up to %d: use a newer dinov", at->where,
                          (long long)read, DINOV_CK_READ_VERSION);
    if (json_unpack_ex(root, &e, 0, "{s:{s:I,s:I,s:o,s:o,s:o!},s:s}", "version", "read", &read, "write", &write,
                       "safe_to_ignore", &ignore, "safe_to_read", &safe, "must_understand", &must, "kind", &kind) != 0)
        return dinov_json_failed(at, &e, err);
    DINOV_TRY(check_features(ignore, at, err));
    DINOV_TRY(check_features(safe, at, err));
    DINOV_TRY(check_features(must, at, err));
    if (json_array_size(must) > 0)
        return dinov_fail(err, DINOV_ERR_VERSION, "CK-FEATURE",
                          "%s: a sound file that needs \"%s\", which this program does not know: use a newer dinov", at->where,
                          json_string_value(json_array_get(must, 0)));
    if (strcmp(kind, at->kind) != 0) {
        char name[DINOV_ESCAPED];
        return dinov_fail(err, DINOV_ERR_VERSION, "CK-KIND", "%s: expected kind %s, found \"%s\"", at->where, at->kind,
                          dinov_escape(name, sizeof name, kind, strlen(kind)));
    }
    *exact = write == DINOV_CK_WRITE_VERSION && json_array_size(ignore) == 0 && json_array_size(safe) == 0;
    return DINOV_OK;
}

/* Every member of `ours` is in `theirs` with the same value; objects may have more. `ours` was built
 * here: its depth is known. */
static bool contains(const json_t *theirs, json_t *ours)
{
    const char *key;
    json_t     *value;
    if (json_is_array(ours)) {
        bool same = json_is_array(theirs) && json_array_size(theirs) == json_array_size(ours);
        for (size_t i = 0; same && i < json_array_size(ours); i++) same = contains(json_array_get(theirs, i), json_array_get(ours, i));
        return same;
    }
    if (!json_is_object(ours)) return json_equal(theirs, ours);
    if (!json_is_object(theirs)) return false;
    json_object_foreach(ours, key, value) {
        const json_t *other = json_object_get(theirs, key);
        if (!other || !contains(other, value)) return false;
    }
    return true;
}

/* The version object itself may differ: it is what says that there is more. */
static dinov_status compare_values(json_t *root, const dinov_text *canonical, const dinov_json *at, dinov_error *err)
{
    json_t *ours;
    DINOV_TRY(dinov_json_load(&ours, canonical->data, canonical->size, at, err));
    json_object_del(ours, "version");
    bool same = contains(root, ours);
    json_decref(ours);
    return same ? DINOV_OK : dinov_json_bad(at, "two of its members contradict each other", err);
}

dinov_status dinov_json_confirm(json_t *root, const char *json, size_t size, const dinov_text *canonical, bool exact,
                                const dinov_json *at, dinov_error *err)
{
    size_t i = 0;
    if (canonical->failed) return dinov_fail_nomem(err, at->where, at->what);
    if (!exact) return compare_values(root, canonical, at, err);
    while (i < size && i < canonical->size && json[i] == canonical->data[i]) i++;
    if (i == size && i == canonical->size) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-CANONICAL",
                      "%s: %s, byte %zu: not what its values are spelled as in format version %d", at->where, at->what, i,
                      DINOV_CK_WRITE_VERSION);
}
