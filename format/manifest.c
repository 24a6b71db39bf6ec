/* SPDX-License-Identifier: Apache-2.0 */
#include "format/manifest.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <stdio.h>
#include <string.h>

/* The digest comes first, so that it is found without a parser. */
#define PREFIX "{\"dinov_training\":\"xxh3-128:"
#define KIND   "training"
#define DIGEST "xxh3-128:"

enum { DIGEST_AT = sizeof PREFIX - 1, MOST_TEXT = 4096 };

const char *dinov_manifest_file_name(char out[DINOV_MANIFEST_NAME], size_t index)
{
    if (index == 0) snprintf(out, DINOV_MANIFEST_NAME, "%s", DINOV_BACKBONE_FILE);
    else snprintf(out, DINOV_MANIFEST_NAME, "state-%05zu.safetensors", index - 1);
    return out;
}

static bool legal_numbers(const dinov_manifest *m)
{
    return m->iteration >= 0 && m->iteration <= DINOV_STATE_MAX_ITERATION && m->adam_step >= 0 && m->samples >= 0 && m->bad_steps >= 0;
}

static bool legal_text(const char *text)
{
    size_t size = strlen(text);
    return size <= MOST_TEXT && dinov_text_printable(text, size);
}

/* Lines of printable text, each with its end. */
static bool legal_lines(const char *text, size_t size)
{
    while (size > 0) {
        const char *end = memchr(text, '\n', size);
        if (!end || !dinov_text_printable(text, (size_t)(end - text))) return false;
        size -= (size_t)(end + 1 - text);
        text = end + 1;
    }
    return true;
}

dinov_status dinov_manifest_check(const dinov_manifest *m, const char *where, dinov_error *err)
{
    if (legal_numbers(m) && legal_text(m->isa) && legal_text(m->teacher) && legal_text(m->teacher_id) &&
        legal_lines(m->config, strlen(m->config)))
        return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CONFIG, "MAN-TEXT",
                      "%s: what a manifest holds: expected printable text of at most %d bytes for the instruction set, the teacher's "
                      "path and its id, whole printable lines for the configuration, and up to %d steps",
                      where, MOST_TEXT, DINOV_STATE_MAX_ITERATION);
}

/* ---- Building ---- */

static void put_config(dinov_text *t, const char *config)
{
    dinov_text_puts(t, ",\n\"config\":[");
    for (const char *line = config; *line;) {
        size_t size = strcspn(line, "\n");
        dinov_text_puts(t, line == config ? "\n\"" : ",\n\"");
        dinov_text_escaped(t, line, size);
        dinov_text_puts(t, "\"");
        line += size + 1;
    }
    dinov_text_puts(t, "]");
}

static void put_files(dinov_text *t, const dinov_manifest *m)
{
    char name[DINOV_MANIFEST_NAME];
    dinov_text_puts(t, ",\n\"files\":[");
    for (size_t i = 0; i < m->file_count; i++) {
        dinov_json_put_string(t, i ? ",\n{\"name\":" : "\n{\"name\":", dinov_manifest_file_name(name, i));
        dinov_json_put_int(t, ",\"bytes\":", (int64_t)m->files[i].bytes);
        dinov_text_puts(t, ",\"header\":\"" DIGEST);
        dinov_text_add(t, m->files[i].header.hex, sizeof m->files[i].header.hex);
        dinov_text_puts(t, "\"}");
    }
    dinov_text_puts(t, "]");
}

void dinov_manifest_build(dinov_text *t, const dinov_manifest *m)
{
    char hex[DINOV_XXH_HEX];
    dinov_text_puts(t, PREFIX "00000000000000000000000000000000\"");
    dinov_json_put_version(t, ",\n", KIND);
    dinov_json_put_int(t, ",\n\"iteration\":", m->iteration);
    dinov_json_put_int(t, ",\n\"adam_step\":", m->adam_step);
    dinov_json_put_int(t, ",\n\"samples\":", m->samples);
    dinov_json_put_int(t, ",\n\"bad_steps\":", m->bad_steps);
    dinov_json_put_string(t, ",\n\"isa\":", m->isa);
    dinov_json_put_string(t, ",\n\"teacher\":", m->teacher);
    dinov_json_put_string(t, ",\n\"teacher_id\":", m->teacher_id);
    put_config(t, m->config);
    put_files(t, m);
    dinov_text_puts(t, "}\n");
    if (t->failed) return;
    dinov_xxh128_hex(hex, t->data, t->size);
    memcpy(t->data + DIGEST_AT, hex, sizeof hex);
}

/* ---- Reading ---- */

/* What a parsed manifest points into. */
struct storage {
    dinov_text           isa, teacher, teacher_id, config;
    dinov_manifest_file *files;
};

void dinov_manifest_free(void *storage)
{
    struct storage *s = storage;
    if (!s) return;
    dinov_text_clear(&s->isa);
    dinov_text_clear(&s->teacher);
    dinov_text_clear(&s->teacher_id);
    dinov_text_clear(&s->config);
    dinov_free(s->files);
    dinov_free(s);
}

static dinov_status check_digest(const char *bytes, size_t size, const char *where, dinov_error *err)
{
    char   hex[DINOV_XXH_HEX], found[DINOV_ESCAPED];
    size_t part = size < DIGEST_AT ? size : DIGEST_AT;
    if (size == 0 || memcmp(bytes, PREFIX, part) != 0)
        return dinov_fail(err, DINOV_ERR_FORMAT, "MAN-FORMAT", "%s: %s", where,
                          size == 0 ? "an empty file, not the manifest of a training checkpoint"
                                    : "not the manifest of a training checkpoint, or its first bytes are damaged");
    if (size < DIGEST_AT + sizeof hex)
        return dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-DIGEST", "%s: the manifest was cut short: it ends inside its digest", where);
    char *copy = dinov_alloc(size, 1);
    if (!copy) return dinov_fail_nomem(err, where, "the manifest");
    memcpy(copy, bytes, size);
    memset(copy + DIGEST_AT, '0', sizeof hex);
    dinov_xxh128_hex(hex, copy, size);
    dinov_free(copy);
    if (memcmp(hex, bytes + DIGEST_AT, sizeof hex) == 0) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "MAN-DIGEST", "%s: the manifest is damaged: its digest is %.32s, the file says %s", where, hex,
                      dinov_escape(found, sizeof found, bytes + DIGEST_AT, sizeof hex));
}

static dinov_status parse_config(json_t *lines, struct storage *s, const dinov_json *at, dinov_error *err)
{
    if (!json_is_array(lines)) return dinov_json_bad(at, "config is no list of lines", err);
    dinov_text_add(&s->config, "", 0);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        if (!json_is_string(line)) return dinov_json_bad(at, "a line of config is no string", err);
        dinov_text_add(&s->config, json_string_value(line), json_string_length(line));
        dinov_text_puts(&s->config, "\n");
    }
    return DINOV_OK;
}

static dinov_status parse_files(json_t *files, struct storage *s, size_t *count, const dinov_json *at, dinov_error *err)
{
    char         expected[DINOV_MANIFEST_NAME];
    json_error_t e;

    *count = json_array_size(files); /* 0 for what is no array */
    if (*count < 2 || *count > DINOV_MANIFEST_FILES) return dinov_json_bad(at, "files is no list of a backbone and parts of a state", err);
    s->files = dinov_calloc(*count, sizeof *s->files);
    if (!s->files) return dinov_fail_nomem(err, at->where, "its files");
    for (size_t i = 0; i < *count; i++) {
        const char *name, *header;
        json_int_t  bytes;
        if (json_unpack_ex(json_array_get(files, i), &e, 0, "{s:s,s:I,s:s}", "name", &name, "bytes", &bytes, "header", &header) != 0)
            return dinov_json_failed(at, &e, err);
        if (strcmp(name, dinov_manifest_file_name(expected, i)) != 0)
            return dinov_json_bad(at, "files are not named backbone.safetensors, state-00000.safetensors and so on", err);
        if (bytes < 0 || strlen(header) != sizeof DIGEST - 1 + DINOV_XXH_HEX || strncmp(header, DIGEST, sizeof DIGEST - 1) != 0 ||
            !dinov_json_hex(header + sizeof DIGEST - 1, DINOV_XXH_HEX))
            return dinov_json_bad(at, "a file's size or digest is none", err);
        s->files[i].bytes = (uint64_t)bytes;
        memcpy(s->files[i].header.hex, header + sizeof DIGEST - 1, DINOV_XXH_HEX);
    }
    return DINOV_OK;
}

static dinov_status parse(dinov_manifest *m, json_t *root, struct storage *s, bool *exact, const dinov_json *at, dinov_error *err)
{
    json_error_t e;
    json_int_t   iteration, adam_step, samples, bad_steps;
    const char  *isa, *teacher, *teacher_id;
    json_t      *config, *files;

    DINOV_TRY(dinov_json_version(root, exact, at, err));
    if (json_unpack_ex(root, &e, 0, "{s:I,s:I,s:I,s:I,s:s,s:s,s:s,s:o,s:o}", "iteration", &iteration, "adam_step", &adam_step, "samples",
                       &samples, "bad_steps", &bad_steps, "isa", &isa, "teacher", &teacher, "teacher_id", &teacher_id, "config", &config,
                       "files", &files) != 0)
        return dinov_json_failed(at, &e, err);
    dinov_text_puts(&s->isa, isa);
    dinov_text_puts(&s->teacher, teacher);
    dinov_text_puts(&s->teacher_id, teacher_id);
    DINOV_TRY(parse_config(config, s, at, err));
    if (s->isa.failed || s->teacher.failed || s->teacher_id.failed || s->config.failed) return dinov_fail_nomem(err, at->where, at->what);
    *m = (dinov_manifest){.iteration = iteration, .adam_step = adam_step, .samples = samples, .bad_steps = bad_steps, .isa = s->isa.data,
                          .teacher = s->teacher.data, .teacher_id = s->teacher_id.data, .config = s->config.data};
    DINOV_TRY(parse_files(files, s, &m->file_count, at, err));
    m->files = s->files;
    if (dinov_manifest_check(m, at->where, NULL) != DINOV_OK) return dinov_json_bad(at, "a number is out of range, or a text not printable", err);
    return DINOV_OK;
}

dinov_status dinov_manifest_parse(dinov_manifest *out, void **storage, const void *data, size_t size, const char *where, dinov_error *err)
{
    const dinov_json at    = {where, "the manifest", KIND};
    const char      *bytes = data;
    dinov_status     status;
    bool             exact     = false;
    json_t          *root      = NULL;
    struct storage  *s         = NULL;
    dinov_text       canonical = {0};

    *storage = NULL;
    *out     = (dinov_manifest){0};
    if (size > DINOV_MANIFEST_BYTES)
        return dinov_fail(err, DINOV_ERR_LIMIT, "MAN-LARGE", "%s: expected a manifest of at most %d bytes, found %zu", where,
                          DINOV_MANIFEST_BYTES, size);
    DINOV_TRY_GOTO(check_digest(bytes, size, where, err));
    if (!legal_lines(bytes, size)) {
        status = dinov_json_bad(&at, "not lines of printable UTF-8", err);
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_json_limits(bytes, size, &at, err));
    DINOV_TRY_GOTO(dinov_json_load(&root, bytes, size, &at, err));
    s = dinov_calloc(1, sizeof *s);
    if (!s) {
        status = dinov_fail_nomem(err, where, "the manifest");
        goto fail;
    }
    DINOV_TRY_GOTO(parse(out, root, s, &exact, &at, err));
    dinov_manifest_build(&canonical, out);
    /* Where the spelling is free the digest is another: it was checked above. */
    if (!canonical.failed) memcpy(canonical.data + DIGEST_AT, bytes + DIGEST_AT, DINOV_XXH_HEX);
    DINOV_TRY_GOTO(dinov_json_confirm(root, bytes, size, &canonical, exact, &at, err));
    *storage = s;
    s        = NULL;
fail:
    dinov_text_clear(&canonical);
    json_decref(root);
    dinov_manifest_free(s);
    return status;
}
