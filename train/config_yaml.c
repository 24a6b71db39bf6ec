/* SPDX-License-Identifier: Apache-2.0
 *
 * Configurations out of YAML and command lines. Only what upstream's files are made of is read: mappings
 * of mappings, with scalars or lists of scalars as values. Anything else YAML can do is refused.
 */
#include "base/alloc.h"
#include "base/file.h"
#include "train/config_rows.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

/* static const struct preset { const char *name, *yaml; } presets[]: made from configs/ when building. */
#include "dinov_presets.inc"

enum { MOST_BYTES = 1 << 20, NAME = 256, DEPTH = 8, SEEN = 512 };

struct reader {
    dinov_config     *config;
    dinov_config_note note;
    void             *arg;
    const char       *name; /* of the file */
    dinov_error      *err;
    char              path[NAME]; /* "optim.base_lr" */
    char              seen[SEEN][NAME];
    int               seen_count;
};

/* ---- One key ---- */

/* Edits between two names, in one row. */
static int distance(const char *a, const char *b)
{
    int row[NAME], n = (int)strlen(b);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0]       = i;
        for (int j = 1; j <= n; j++) {
            int above = row[j], change = diagonal + (a[i - 1] != b[j - 1]);
            row[j]   = above + 1 < row[j - 1] + 1 ? above + 1 : row[j - 1] + 1;
            if (change < row[j]) row[j] = change;
            diagonal = above;
        }
    }
    return row[n];
}

static dinov_status unknown_key(const char *where, const char *key, dinov_error *err)
{
    int64_t           count;
    const struct row *rows = dinov_config_rows(&count), *nearest = rows;
    char              shown[DINOV_ESCAPED];
    for (int64_t i = 1; i < count; i++)
        if (distance(key, rows[i].name) < distance(key, nearest->name)) nearest = &rows[i];
    return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-KEY", "%s: there is no key %s; the nearest is %s", where,
                      dinov_escape(shown, sizeof shown, key, strlen(key)), nearest->name);
}

/* The row of a key, or of a group above it that is understood as a whole. */
static const struct row *find(const char *key)
{
    int64_t           count;
    const struct row *rows = dinov_config_rows(&count);
    for (int64_t i = 0; i < count; i++) {
        size_t n = strlen(rows[i].name);
        if (strncmp(key, rows[i].name, n) == 0 && (key[n] == '\0' || (key[n] == '.' && rows[i].kind == DINOV_CFG_IGNORED))) return &rows[i];
    }
    return NULL;
}

static dinov_status set(struct reader *r, const char *key, const char *text, const char *where)
{
    const struct row *row = find(key);
    char              sentence[512];
    if (!row) return unknown_key(where, key, r->err);
    if (row->kind == DINOV_CFG_IGNORED && strcmp(row->text, text) != 0 && r->note && strcmp(key, row->name) == 0) {
        snprintf(sentence, sizeof sentence, "%s: %s has no effect here: %s", where, row->name, row->help);
        r->note(r->arg, sentence);
    }
    return dinov_config_set_row(r->config, row, text, where, r->err);
}

/* ---- YAML ---- */

static dinov_status refuse(struct reader *r, const yaml_mark_t *mark, const char *why)
{
    return dinov_fail(r->err, DINOV_ERR_CONFIG, "CFG-YAML", "%s:%zu: %s", r->name, mark->line + 1, why);
}

static dinov_status next(struct reader *r, yaml_parser_t *parser, yaml_event_t *event)
{
    if (yaml_parser_parse(parser, event)) return DINOV_OK;
    memset(event, 0, sizeof *event);
    if (parser->error == YAML_MEMORY_ERROR) return dinov_fail_nomem(r->err, r->name, "its YAML");
    return refuse(r, &parser->problem_mark, parser->problem ? parser->problem : "not YAML");
}

/* The text of a scalar without anchors or tags. */
static dinov_status scalar(struct reader *r, const yaml_event_t *event, const char **out)
{
    if (event->data.scalar.anchor || event->data.scalar.tag) return refuse(r, &event->start_mark, "anchors and tags are not read");
    if (strlen((const char *)event->data.scalar.value) != event->data.scalar.length) return refuse(r, &event->start_mark, "a zero byte in a value");
    *out = (const char *)event->data.scalar.value;
    return DINOV_OK;
}

/* "[a, b]" out of a list of scalars. */
static dinov_status list(struct reader *r, yaml_parser_t *parser, char *text, size_t size)
{
    size_t       used   = (size_t)snprintf(text, size, "[");
    dinov_status status = DINOV_OK;
    for (bool first = true, more = true; more && status == DINOV_OK; first = false) {
        yaml_event_t event;
        const char  *item = NULL;
        status            = next(r, parser, &event);
        if (status == DINOV_OK && event.type == YAML_SEQUENCE_END_EVENT) more = false;
        else if (status == DINOV_OK && event.type != YAML_SCALAR_EVENT) status = refuse(r, &event.start_mark, "expected a list of plain values");
        else if (status == DINOV_OK) status = scalar(r, &event, &item);
        if (item) {
            used += (size_t)snprintf(text + used, size - used, "%s%s", first ? "" : ", ", item);
            if (used >= size) status = refuse(r, &event.start_mark, "a list that is too long");
        }
        yaml_event_delete(&event);
    }
    if (status == DINOV_OK) snprintf(text + used, size - used, "]");
    return status;
}

static dinov_status enter(struct reader *r, const yaml_mark_t *mark, const char *key)
{
    size_t used = strlen(r->path);
    if (used + strlen(key) + 2 > NAME) return refuse(r, mark, "a key that is too long");
    snprintf(r->path + used, NAME - used, "%s%s", used ? "." : "", key);
    for (int i = 0; i < r->seen_count; i++)
        if (strcmp(r->seen[i], r->path) == 0) return refuse(r, mark, "a key that stands twice");
    if (r->seen_count == SEEN) return refuse(r, mark, "too many keys");
    memcpy(r->seen[r->seen_count++], r->path, NAME);
    return DINOV_OK;
}

static dinov_status set_here(struct reader *r, const yaml_mark_t *mark, const char *text)
{
    char where[DINOV_ESCAPED + 32];
    snprintf(where, sizeof where, "%s:%zu", r->name, mark->line + 1);
    return set(r, r->path, text, where);
}

/* The inside of a mapping; `depth` bounds the recursion. */
static dinov_status mapping(struct reader *r, yaml_parser_t *parser, int depth);

static dinov_status value(struct reader *r, yaml_parser_t *parser, yaml_event_t *event, int depth)
{
    char        text[2 * DINOV_CONFIG_TEXT];
    const char *plain;
    bool named = (event->type == YAML_MAPPING_START_EVENT && event->data.mapping_start.anchor) ||
                 (event->type == YAML_SEQUENCE_START_EVENT && event->data.sequence_start.anchor);
    if (named || event->type == YAML_ALIAS_EVENT) return refuse(r, &event->start_mark, "anchors and aliases are not read");
    switch (event->type) {
    case YAML_SCALAR_EVENT: DINOV_TRY(scalar(r, event, &plain)); return set_here(r, &event->start_mark, plain);
    case YAML_SEQUENCE_START_EVENT:
        DINOV_TRY(list(r, parser, text, sizeof text - 2));
        return set_here(r, &event->start_mark, text);
    case YAML_MAPPING_START_EVENT:
        if (depth == DEPTH) return refuse(r, &event->start_mark, "groups within groups within groups");
        return mapping(r, parser, depth + 1);
    default: return refuse(r, &event->start_mark, "expected a plain value, a list or a group");
    }
}

static dinov_status mapping(struct reader *r, yaml_parser_t *parser, int depth)
{
    dinov_status status = DINOV_OK;
    size_t       outer  = strlen(r->path);
    for (bool more = true; more && status == DINOV_OK;) {
        yaml_event_t key = {0}, event = {0};
        const char  *name = NULL;
        status            = next(r, parser, &key);
        if (status == DINOV_OK && key.type == YAML_MAPPING_END_EVENT) more = false;
        else if (status == DINOV_OK && key.type != YAML_SCALAR_EVENT) status = refuse(r, &key.start_mark, "expected a key");
        else if (status == DINOV_OK) status = scalar(r, &key, &name);
        if (status == DINOV_OK && name) status = enter(r, &key.start_mark, name);
        if (status == DINOV_OK && name) status = next(r, parser, &event);
        if (status == DINOV_OK && name) status = value(r, parser, &event, depth);
        r->path[outer] = '\0';
        yaml_event_delete(&key);
        yaml_event_delete(&event);
    }
    return status;
}

static dinov_status document(struct reader *r, yaml_parser_t *parser)
{
    bool any = false;
    for (;;) {
        yaml_event_t event;
        dinov_status status = next(r, parser, &event);
        yaml_event_type_t type = event.type;
        if (status == DINOV_OK && type == YAML_MAPPING_START_EVENT && !any) {
            any    = true;
            status = mapping(r, parser, 1);
        } else if (status == DINOV_OK && type == YAML_SCALAR_EVENT && !any && event.data.scalar.length == 0)
            any = true; /* an empty file */
        else if (status == DINOV_OK && type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT && type != YAML_DOCUMENT_END_EVENT &&
                 type != YAML_STREAM_END_EVENT)
            status = refuse(r, &event.start_mark, "expected one mapping of keys to values");
        yaml_event_delete(&event);
        if (status != DINOV_OK || type == YAML_STREAM_END_EVENT) return status;
    }
}

dinov_status dinov_config_read(dinov_config *config, const void *yaml, size_t size, const char *name, dinov_config_note note, void *arg,
                               dinov_error *err)
{
    yaml_parser_t  parser;
    char           shown[DINOV_ESCAPED];
    dinov_config   copy = *config;
    dinov_error    local;
    struct reader *r = dinov_calloc(1, sizeof *r);

    if (!r) return dinov_fail_nomem(err, name, "its keys");
    *r = (struct reader){.config = &copy, .note = note, .arg = arg, .name = dinov_escape(shown, sizeof shown, name, strlen(name)),
                         .err = err ? err : &local};
    dinov_status status = DINOV_OK;
    if (size > MOST_BYTES) status = dinov_fail(err, DINOV_ERR_CONFIG, "CFG-YAML", "%s: expected at most 1 MiB, found %zu bytes", r->name, size);
    else if (!yaml_parser_initialize(&parser)) status = dinov_fail_nomem(err, r->name, "its YAML");
    else {
        yaml_parser_set_input_string(&parser, yaml, size);
        status = document(r, &parser);
        yaml_parser_delete(&parser);
    }
    if (status == DINOV_OK) *config = copy;
    dinov_free(r);
    return status;
}

dinov_status dinov_config_set(dinov_config *config, const char *assignment, dinov_config_note note, void *arg, dinov_error *err)
{
    const char   *equals = strchr(assignment, '=');
    char          key[NAME];
    struct reader r = {.config = config, .note = note, .arg = arg, .err = err};
    if (!equals || equals == assignment || (size_t)(equals - assignment) >= sizeof key) {
        char shown[DINOV_ESCAPED];
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-KEY", "expected KEY=VALUE as in optim.epochs=10, found %s",
                          dinov_escape(shown, sizeof shown, assignment, strlen(assignment)));
    }
    snprintf(key, sizeof key, "%.*s", (int)(equals - assignment), assignment);
    return set(&r, key, equals + 1, "command line");
}

dinov_status dinov_config_load(dinov_config *config, const char *path, dinov_config_note note, void *arg, dinov_error *err)
{
    void  *yaml;
    size_t size;
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(path, presets[i].name) == 0)
            return dinov_config_read(config, presets[i].yaml, strlen(presets[i].yaml), presets[i].name, note, arg, err);
    DINOV_TRY(dinov_file_read(&yaml, &size, path, MOST_BYTES, err));
    dinov_status status = dinov_config_read(config, yaml, size, path, note, arg, err);
    dinov_free(yaml);
    return status;
}
