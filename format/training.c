/* SPDX-License-Identifier: Apache-2.0 */
#include "format/training.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "format/table.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Section 11.3: the digest comes first, so that it is found without a parser. */
#define PREFIX "{\"dinov_training\":\"xxh3-128:"

enum { DIGEST_AT = sizeof PREFIX - 1, VERSION = 1 };

/* ---- The manifest ---- */

static void string(dinov_text *text, const char *key, const char *value)
{
    dinov_text_puts(text, ",\n\"");
    dinov_text_puts(text, key);
    dinov_text_puts(text, "\":\"");
    /* Printable text but for the line ends of the configuration, which JSON spells \n. */
    for (const char *line = value; *line;) {
        size_t n = strcspn(line, "\n");
        dinov_text_escaped(text, line, n);
        line += n;
        if (*line) {
            dinov_text_puts(text, "\\n");
            line++;
        }
    }
    dinov_text_puts(text, "\"");
}

static void integer(dinov_text *text, const char *key, int64_t value)
{
    dinov_text_puts(text, ",\n\"");
    dinov_text_puts(text, key);
    dinov_text_puts(text, "\":");
    dinov_text_int(text, value);
}

static void put_digest(dinov_text *text)
{
    char hex[DINOV_XXH_HEX];
    if (text->failed) return;
    dinov_xxh128_hex(hex, text->data, text->size);
    memcpy(text->data + DIGEST_AT, hex, sizeof hex);
}

void dinov_manifest_build(dinov_text *text, const dinov_manifest *m)
{
    dinov_text_puts(text, PREFIX "00000000000000000000000000000000\"");
    integer(text, "version", VERSION);
    integer(text, "iteration", m->iteration);
    integer(text, "adam_step", m->adam_step);
    integer(text, "samples", m->samples);
    integer(text, "bad_steps", m->bad_steps);
    string(text, "isa", m->isa);
    string(text, "teacher", m->teacher);
    string(text, "teacher_id", m->teacher_id);
    string(text, "config", m->config);
    dinov_text_puts(text, ",\n\"files\":[");
    for (size_t i = 0; i < m->file_count; i++) {
        dinov_text_puts(text, i ? ",\n{\"name\":\"" : "\n{\"name\":\"");
        dinov_text_puts(text, m->files[i].name);
        dinov_text_puts(text, "\",\"bytes\":");
        dinov_text_int(text, (int64_t)m->files[i].bytes);
        dinov_text_puts(text, ",\"digest\":\"xxh3-128:");
        dinov_text_puts(text, m->files[i].digest);
        dinov_text_puts(text, "\"}");
    }
    dinov_text_puts(text, "\n]}\n");
    put_digest(text);
}

static bool plain_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n < DINOV_FILE_NAME && name[0] != '.' && strcmp(name, DINOV_MANIFEST) != 0 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == n;
}

/* What the parser keeps: the JSON, whose strings are handed out, and the files. */
struct storage {
    json_t             *root;
    dinov_manifest_file files[];
};

void dinov_manifest_free(void *storage)
{
    if (!storage) return;
    json_decref(((struct storage *)storage)->root);
    dinov_free(storage);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static bool read_file(dinov_manifest_file *out, const json_t *j)
{
    const char *name = text_of(j, "name"), *digest = text_of(j, "digest");
    json_int_t  bytes = json_integer_value(json_object_get(j, "bytes"));
    if (!plain_name(name) || strlen(digest) != strlen("xxh3-128:") + DINOV_XXH_HEX || bytes < 0) return false;
    *out = (dinov_manifest_file){.bytes = (uint64_t)bytes};
    memcpy(out->name, name, strlen(name) + 1);
    memcpy(out->digest, digest + strlen("xxh3-128:"), DINOV_XXH_HEX);
    return true;
}

static dinov_status check_digest(const char *bytes, size_t size, const char *where, dinov_error *err)
{
    char  hex[DINOV_XXH_HEX];
    char *copy = dinov_alloc(size, 1);
    if (!copy) return dinov_fail_nomem(err, where, "its digest");
    memcpy(copy, bytes, size);
    memset(copy + DIGEST_AT, '0', DINOV_XXH_HEX);
    dinov_xxh128_hex(hex, copy, size);
    dinov_free(copy);
    if (memcmp(hex, bytes + DIGEST_AT, sizeof hex) == 0) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-DIGEST",
                      "%s: the manifest is damaged: its digest is %.32s, its bytes give %.32s", where, bytes + DIGEST_AT, hex);
}

static dinov_status content(dinov_manifest *out, struct storage *s, const char *bytes, size_t size, const char *where,
                            dinov_error *err)
{
    json_t    *files = json_object_get(s->root, "files");
    dinov_text again = {0};
    *out             = (dinov_manifest){
                    .iteration  = json_integer_value(json_object_get(s->root, "iteration")),
                    .adam_step  = json_integer_value(json_object_get(s->root, "adam_step")),
                    .samples    = json_integer_value(json_object_get(s->root, "samples")),
                    .bad_steps  = json_integer_value(json_object_get(s->root, "bad_steps")),
                    .isa        = text_of(s->root, "isa"),
                    .teacher    = text_of(s->root, "teacher"),
                    .teacher_id = text_of(s->root, "teacher_id"),
                    .config     = text_of(s->root, "config"),
                    .files      = s->files,
                    .file_count = json_array_size(files),
    };
    bool ok = out->iteration >= 0 && out->adam_step >= 0 && out->samples >= 0 && out->bad_steps >= 0;
    for (size_t i = 0; i < out->file_count && ok; i++) {
        ok = read_file(&s->files[i], json_array_get(files, i));
        for (size_t j = 0; j < i && ok; j++) ok = strcmp(s->files[i].name, s->files[j].name) != 0;
    }
    /* What a writer would have written again is what was meant. */
    if (ok) dinov_manifest_build(&again, out);
    if (again.failed) return dinov_fail_nomem(err, where, "its manifest");
    ok = ok && again.size == size && memcmp(again.data, bytes, size) == 0;
    dinov_text_clear(&again);
    if (ok) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-CONTENT",
                      "%s: the manifest does not say what a training checkpoint's must; it was not written by dinov", where);
}

dinov_status dinov_manifest_parse(dinov_manifest *out, void **storage, const void *data, size_t size, const char *where,
                                  dinov_error *err)
{
    const char *bytes = data;
    *storage          = NULL;
    if (size > DINOV_MANIFEST_BYTES)
        return dinov_fail(err, DINOV_ERR_LIMIT, "MAN-LARGE", "%s: expected a manifest of at most %d bytes, found %zu", where,
                          DINOV_MANIFEST_BYTES, size);
    if (size < DIGEST_AT + DINOV_XXH_HEX || memcmp(bytes, PREFIX, DIGEST_AT) != 0)
        return dinov_fail(err, DINOV_ERR_FORMAT, "MAN-FORMAT", "%s: not the manifest of a training checkpoint", where);
    DINOV_TRY(check_digest(bytes, size, where, err));

    json_t         *root    = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, NULL);
    size_t          files   = json_array_size(json_object_get(root, "files"));
    struct storage *s       = files <= DINOV_MANIFEST_FILES ? dinov_calloc(1, sizeof *s + files * sizeof *s->files) : NULL;
    json_int_t      version = json_integer_value(json_object_get(root, "version"));
    dinov_status    status  = DINOV_OK;
    if (!root || files > DINOV_MANIFEST_FILES)
        status = dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-CONTENT", "%s: the manifest is no JSON that dinov writes", where);
    else if (!s)
        status = dinov_fail_nomem(err, where, "its manifest");
    else if (version > VERSION)
        status = dinov_fail(err, DINOV_ERR_VERSION, "MAN-NEWER", "%s: sound, but of version %lld; this program reads %d", where,
                            (long long)version, VERSION);
    else {
        s->root = root;
        status  = content(out, s, bytes, size, where, err);
    }
    if (status != DINOV_OK) {
        json_decref(root);
        dinov_free(s);
        return status;
    }
    *storage = s;
    return DINOV_OK;
}

/* ---- Files of state ---- */

/* The header up to the table, and the padding that puts the data on a multiple of 64 (sections 3.1, 3.5). */
#define STATE_PREFIX "{\"__metadata__\":{\"format\":\"pt\"}"

dinov_status dinov_state_write(const char *folder, const char *name, const dinov_named_tensor *tensors, size_t count,
                               dinov_error *err)
{
    dinov_status               status;
    dinov_text                 header = {0}, path = {0};
    dinov_out                 *out    = NULL;
    const dinov_named_tensor **sorted = dinov_alloc(count, sizeof *sorted);
    uint8_t                    length[8];

    dinov_text_puts(&path, folder);
    dinov_text_puts(&path, "/");
    dinov_text_puts(&path, name);
    if (!sorted || path.failed) {
        status = dinov_fail_nomem(err, name, "the list of tensors");
        goto fail;
    }
    for (size_t i = 0; i < count; i++) sorted[i] = &tensors[i];
    DINOV_TRY_GOTO(dinov_table_sort(sorted, count, path.data, err));
    dinov_text_puts(&header, STATE_PREFIX);
    dinov_table_build(&header, sorted, count);
    while (!header.failed && (header.size + sizeof length) % 64 != 0) dinov_text_puts(&header, " ");
    if (header.failed) {
        status = dinov_fail_nomem(err, path.data, "its header");
        goto fail;
    }
    dinov_put_le64(length, header.size);
    DINOV_TRY_GOTO(dinov_out_open(&out, path.data, 1, err));
    DINOV_TRY_GOTO(dinov_out_write(out, length, sizeof length, err));
    DINOV_TRY_GOTO(dinov_out_write(out, header.data, header.size, err));
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        dinov_tensor_bytes(&sorted[i]->tensor, &bytes);
        DINOV_TRY_GOTO(dinov_out_write(out, sorted[i]->tensor.data, bytes, err));
    }
    status = dinov_out_commit(&out, err);
fail:
    dinov_out_abort(&out);
    dinov_text_clear(&header);
    dinov_text_clear(&path);
    dinov_free(sorted);
    return status;
}

static dinov_status bad_state(const char *where, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_CORRUPT, "STATE-HEADER", "%s: not a file of training state as dinov writes it", where);
}

dinov_status dinov_state_parse(dinov_state_file *out, const void *bytes, size_t size, const char *where, dinov_error *err)
{
    dinov_cursor c      = dinov_cursor_make(bytes, size);
    uint64_t     length = dinov_cursor_le64(&c), data = 0;
    const void  *prefix;
    dinov_table *table = dinov_calloc(1, sizeof *table);

    *out = (dinov_state_file){.table = table};
    if (!table) return dinov_fail_nomem(err, where, "its table");
    if (c.failed || length > DINOV_MANIFEST_BYTES * 16 || !dinov_ck_add(length, 8, &data) || data > size || data % 64 != 0 ||
        !(prefix = dinov_cursor_take(&c, sizeof STATE_PREFIX - 1)) || memcmp(prefix, STATE_PREFIX, sizeof STATE_PREFIX - 1) != 0)
        return bad_state(where, err);
    c.size = data;
    DINOV_TRY(dinov_table_scan(table, &c, where, err));
    for (uint64_t left = dinov_cursor_left(&c); left > 0; left--)
        if (dinov_cursor_u8(&c) != ' ') return bad_state(where, err);
    if (c.failed || size - data != table->bytes) return bad_state(where, err);
    for (size_t i = 0; i < table->count; i++) table->tensors[i].tensor.data = (const uint8_t *)bytes + data + table->offsets[i];
    out->tensors = table->tensors;
    out->count   = table->count;
    return DINOV_OK;
}

dinov_status dinov_state_open(dinov_state_file *out, const char *path, dinov_error *err)
{
    dinov_map map;
    char      where[DINOV_ESCAPED];
    *out = (dinov_state_file){0};
    DINOV_TRY(dinov_map_open(&map, path, err));
    dinov_status status = dinov_state_parse(out, map.data, map.size, dinov_escape(where, sizeof where, path, strlen(path)), err);
    out->map            = map;
    if (status != DINOV_OK) dinov_state_close(out);
    return status;
}

void dinov_state_close(dinov_state_file *file)
{
    if (file->table) dinov_table_clear(file->table);
    dinov_free(file->table);
    if (file->map.data) dinov_map_close(&file->map);
    *file = (dinov_state_file){0};
}

/* Maps FOLDER/NAME, which must be a plain file, and takes its size and digest. */
dinov_status dinov_manifest_add(dinov_manifest_file *out, const char *folder, const char *name, dinov_error *err)
{
    char         where[DINOV_ESCAPED];
    dinov_text   path = {0};
    dinov_map    map;
    struct stat  st;
    dinov_status status;

    *out = (dinov_manifest_file){0};
    snprintf(out->name, sizeof out->name, "%s", name);
    dinov_text_puts(&path, folder);
    dinov_text_puts(&path, "/");
    dinov_text_puts(&path, name);
    if (path.failed) return dinov_fail_nomem(err, folder, "a path");
    dinov_escape(where, sizeof where, path.data, path.size);
    if (lstat(path.data, &st) != 0 || !S_ISREG(st.st_mode))
        status = dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-FILE", "%s: expected a plain file, as the manifest says", where);
    else
        status = dinov_map_open(&map, path.data, err);
    dinov_text_clear(&path);
    DINOV_TRY(status);
    out->bytes = map.size;
    dinov_xxh128_hex(out->digest, map.data, map.size);
    dinov_map_close(&map);
    return DINOV_OK;
}

dinov_status dinov_manifest_check(const dinov_manifest *m, const char *folder, dinov_error *err)
{
    for (size_t i = 0; i < m->file_count; i++) {
        char                       where[DINOV_ESCAPED];
        dinov_manifest_file        have;
        const dinov_manifest_file *want = &m->files[i];
        DINOV_TRY(dinov_manifest_add(&have, folder, want->name, err));
        if (have.bytes != want->bytes || memcmp(have.digest, want->digest, DINOV_XXH_HEX) != 0)
            return dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-FILE",
                              "%s/%s: damaged: the manifest has %llu bytes of digest %s, the file %llu of %s",
                              dinov_escape(where, sizeof where, folder, strlen(folder)), want->name,
                              (unsigned long long)want->bytes, want->digest, (unsigned long long)have.bytes, have.digest);
    }
    return DINOV_OK;
}
