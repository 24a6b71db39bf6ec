/* SPDX-License-Identifier: Apache-2.0
 *
 * Configurations out of YAML and command lines. Only what upstream's files are made of is read: mappings
 * of mappings, with scalars or lists of scalars as values. Anything else YAML can do is refused.
 */
#include "base/alloc.h"
#include "base/file.h"
#include "train/config_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* static const struct preset { const char *name, *yaml; } presets[]: made from configs/ when building. */
#include "train/presets.inc"

/* Upstream's longest file has 3 KB. libyaml compares %TAG lines with each other, which takes the square of the size. */
enum { MOST_BYTES = 1 << 16, NAME = 256, DEPTH = 8, SEEN = 512 };

struct reader {
    dinov_config     *config;
    dinov_config_note note;
    void             *arg;
    const char       *name; /* of the file */
    dinov_error      *err;
    char              path[NAME];   /* "optim.base_lr" */
    size_t            outer[DEPTH]; /* what of path stands for each open group */
    int               depth;        /* of the innermost open group; -1 behind the outermost */
    bool              in_key;       /* path has a key whose value comes next */
    char (*seen)[NAME];             /* of SEEN: the paths so far */
    int seen_count;
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
            row[j] = above + 1 < row[j - 1] + 1 ? above + 1 : row[j - 1] + 1;
            if (change < row[j]) row[j] = change;
            diagonal = above;
        }
    }
    return row[n];
}

/* Length of the first `parts` parts of a name, all of it when it has fewer. */
static size_t parts_length(const char *name, int parts)
{
    size_t n = strcspn(name, ".");
    for (; --parts > 0 && name[n]; n += strcspn(name + n, ".")) n++;
    return n;
}

static int parts_of(const char *name)
{
    int parts = 1;
    for (; *name; name++) parts += *name == '.';
    return parts;
}

/* A key is compared with whole names, or with their last parts when it has no group; a group with names cut to its depth. */
static dinov_status unknown_key(const char *where, const char *key, bool group, dinov_error *err)
{
    int64_t           count;
    const struct row *rows = dinov_config_rows(&count), *nearest = rows;
    char              shown[DINOV_ESCAPED], name[NAME];
    int               parts = parts_of(key), least = NAME;
    size_t            length = 0;
    for (int64_t i = 0; i < count; i++) {
        size_t      n    = group ? parts_length(rows[i].name, parts) : strlen(rows[i].name);
        const char *from = !group && parts == 1 ? strrchr(rows[i].name, '.') + 1 : rows[i].name;
        snprintf(name, sizeof name, "%.*s", (int)(rows[i].name + n - from), from);
        int apart = abs((int)strlen(key) - (int)strlen(name)); /* no fewer edits than that */
        int edits = apart < least ? distance(key, name) : least;
        if (edits < least) nearest = &rows[i], least = edits, length = n;
    }
    return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-KEY", "%s: there is no %s %s; the nearest is %.*s", where,
                      group ? "group" : "key", dinov_escape(shown, sizeof shown, key, strlen(key)), (int)length, nearest->name);
}

static const struct row *find(const char *key)
{
    int64_t           count;
    const struct row *rows = dinov_config_rows(&count);
    for (int64_t i = 0; i < count; i++)
        if (strcmp(key, rows[i].name) == 0) return &rows[i];
    return NULL;
}

/* The first key of a group. */
static const struct row *find_group(const char *group)
{
    int64_t           count;
    const struct row *rows = dinov_config_rows(&count);
    size_t            n    = strlen(group);
    for (int64_t i = 0; i < count; i++)
        if (strncmp(group, rows[i].name, n) == 0 && rows[i].name[n] == '.') return &rows[i];
    return NULL;
}

enum form { NOTHING, ONE, LIST }; /* "null", a value, a list of values */

static dinov_status set(struct reader *r, const char *key, const char *text, enum form form, const char *where)
{
    const struct row *row = find(key), *inside = find_group(key);
    char              sentence[512];
    if (inside && form == NOTHING) return DINOV_OK; /* a group whose lines are all commented out */
    if (inside)
        return dinov_fail(r->err, DINOV_ERR_CONFIG, "CFG-KEY", "%s: %s is a group of keys such as %s and takes no value", where,
                          key, inside->name);
    if (!row) return unknown_key(where, key, false, r->err);
    if (form == LIST && row->kind != DINOV_CFG_PAIR) return dinov_config_refuse(row, where, "one value", text, r->err);
    if (row->kind == DINOV_CFG_IGNORED && r->note && !dinov_config_row_is_default(row, text)) {
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
static dinov_status scalar(struct reader *r, const yaml_event_t *event, const char **out, enum form *form)
{
    const char *text = (const char *)event->data.scalar.value;
    if (event->data.scalar.anchor || event->data.scalar.tag) return refuse(r, &event->start_mark, "anchors and tags are not read");
    if (strlen(text) != event->data.scalar.length) return refuse(r, &event->start_mark, "a zero byte in a value");
    bool null =
        event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
    *out  = null ? "" : text;
    *form = null ? NOTHING : ONE;
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
        enum form    form;
        status = next(r, parser, &event);
        if (status == DINOV_OK && event.type == YAML_SEQUENCE_END_EVENT)
            more = false;
        else if (status == DINOV_OK && event.type != YAML_SCALAR_EVENT)
            status = refuse(r, &event.start_mark, "expected a list of plain values");
        else if (status == DINOV_OK)
            status = scalar(r, &event, &item, &form);
        if (item) {
            used += (size_t)snprintf(text + used, size - used, "%s%s", first ? "" : ", ", item);
            if (used >= size - 1) status = refuse(r, &event.start_mark, "a list that is too long");
        }
        yaml_event_delete(&event);
    }
    if (status == DINOV_OK) snprintf(text + used, size - used, "]");
    return status;
}

/* The key of a value that comes next, or the end of a group. */
static dinov_status key(struct reader *r, const yaml_event_t *event)
{
    const char *name;
    enum form   form;
    if (event->type == YAML_MAPPING_END_EVENT) {
        r->depth--;
        return DINOV_OK;
    }
    if (event->type != YAML_SCALAR_EVENT) return refuse(r, &event->start_mark, "expected a key");
    DINOV_TRY(scalar(r, event, &name, &form));
    size_t used = r->outer[r->depth];
    if (used + strlen(name) + 2 > NAME) return refuse(r, &event->start_mark, "a key that is too long");
    snprintf(r->path + used, NAME - used, "%s%s", used ? "." : "", name);
    for (int i = 0; i < r->seen_count; i++)
        if (strcmp(r->seen[i], r->path) == 0) return refuse(r, &event->start_mark, "a key that stands twice");
    if (r->seen_count == SEEN) return refuse(r, &event->start_mark, "too many keys");
    memcpy(r->seen[r->seen_count++], r->path, NAME);
    r->in_key = true;
    return DINOV_OK;
}

static dinov_status value(struct reader *r, yaml_parser_t *parser, const yaml_event_t *event)
{
    char        items[2 * DINOV_CONFIG_TEXT], where[DINOV_ESCAPED + 32];
    const char *text = items;
    enum form   form = LIST;
    bool        named =
        (event->type == YAML_MAPPING_START_EVENT && (event->data.mapping_start.anchor || event->data.mapping_start.tag)) ||
        (event->type == YAML_SEQUENCE_START_EVENT && (event->data.sequence_start.anchor || event->data.sequence_start.tag));
    if (named || event->type == YAML_ALIAS_EVENT) return refuse(r, &event->start_mark, "anchors, aliases and tags are not read");
    snprintf(where, sizeof where, "%s:%zu", r->name, event->start_mark.line + 1);
    r->in_key = false;
    if (event->type == YAML_MAPPING_START_EVENT) {
        if (r->depth + 1 == DEPTH) return refuse(r, &event->start_mark, "groups within groups within groups");
        if (find(r->path))
            return dinov_fail(r->err, DINOV_ERR_CONFIG, "CFG-VALUE", "%s: %s: expected one value, found a group of keys", where,
                              r->path);
        if (!find_group(r->path)) return unknown_key(where, r->path, true, r->err);
        r->outer[++r->depth] = strlen(r->path);
        return DINOV_OK;
    }
    DINOV_ASSERT(event->type == YAML_SCALAR_EVENT || event->type == YAML_SEQUENCE_START_EVENT);
    if (event->type == YAML_SEQUENCE_START_EVENT)
        DINOV_TRY(list(r, parser, items, sizeof items));
    else
        DINOV_TRY(scalar(r, event, &text, &form));
    return set(r, r->path, text, form, where);
}

/* The inside of the outermost group. */
static dinov_status groups(struct reader *r, yaml_parser_t *parser)
{
    dinov_status status = DINOV_OK;
    while (r->depth >= 0 && status == DINOV_OK) {
        yaml_event_t event;
        status = next(r, parser, &event);
        if (status == DINOV_OK) status = r->in_key ? value(r, parser, &event) : key(r, &event);
        yaml_event_delete(&event);
    }
    return status;
}

static dinov_status document(struct reader *r, yaml_parser_t *parser)
{
    bool any = false;
    for (;;) {
        yaml_event_t      event;
        dinov_status      status = next(r, parser, &event);
        yaml_event_type_t type   = event.type;
        bool frame = type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_START_EVENT || type == YAML_DOCUMENT_END_EVENT;
        if (status == DINOV_OK && type == YAML_MAPPING_START_EVENT && !any) {
            any    = true;
            status = event.data.mapping_start.anchor || event.data.mapping_start.tag
                         ? refuse(r, &event.start_mark, "anchors and tags are not read")
                         : groups(r, parser);
        } else if (status == DINOV_OK && type == YAML_SCALAR_EVENT && !any && event.data.scalar.length == 0)
            any = true; /* an empty file */
        else if (status == DINOV_OK && !frame && type != YAML_STREAM_END_EVENT)
            status = refuse(r, &event.start_mark, "expected one mapping of keys to values");
        yaml_event_delete(&event);
        if (status != DINOV_OK || type == YAML_STREAM_END_EVENT) return status;
    }
}

/* A value in quotes on the command line: the text inside them, in `out`. */
static dinov_status unquote(struct reader *r, const char *quoted, char *out, size_t size)
{
    yaml_parser_t parser;
    bool          done = false;
    if (!yaml_parser_initialize(&parser)) return dinov_fail_nomem(r->err, r->name, "its YAML");
    yaml_parser_set_input_string(&parser, (const unsigned char *)quoted, strlen(quoted));
    dinov_status status = DINOV_OK;
    for (bool any = false; !done && status == DINOV_OK;) {
        yaml_event_t event;
        const char  *text;
        enum form    form;
        status = next(r, &parser, &event);
        if (status == DINOV_OK && event.type == YAML_SCALAR_EVENT && !any) {
            any    = true;
            status = scalar(r, &event, &text, &form);
            if (status == DINOV_OK && (size_t)snprintf(out, size, "%s", text) >= size)
                status = refuse(r, &event.start_mark, "a value that is too long");
        } else if (status == DINOV_OK && (event.type == YAML_SCALAR_EVENT || event.type == YAML_MAPPING_START_EVENT))
            status = refuse(r, &event.start_mark, "expected one value in quotes");
        done = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return status;
}

dinov_status dinov_config_read(dinov_config *config, const void *yaml, size_t size, const char *name, dinov_config_note note,
                               void *arg, dinov_error *err)
{
    yaml_parser_t parser;
    char          shown[DINOV_ESCAPED];
    dinov_config  copy   = *config;
    struct reader r      = {.config = &copy, .note = note, .arg = arg, .err = err};
    dinov_status  status = DINOV_OK;

    r.name = dinov_escape(shown, sizeof shown, name, strlen(name));
    r.seen = dinov_calloc(SEEN, sizeof *r.seen);
    if (!r.seen) return dinov_fail_nomem(err, r.name, "its keys");
    if (size > MOST_BYTES)
        status = dinov_fail(err, DINOV_ERR_CONFIG, "CFG-YAML", "%s: expected at most 64 KiB, found %zu bytes", r.name, size);
    else if (!yaml_parser_initialize(&parser))
        status = dinov_fail_nomem(err, r.name, "its YAML");
    else {
        yaml_parser_set_input_string(&parser, yaml, size);
        status = document(&r, &parser);
        yaml_parser_delete(&parser);
    }
    if (status == DINOV_OK) *config = copy;
    dinov_free(r.seen);
    return status;
}

dinov_status dinov_config_set(dinov_config *config, const char *assignment, dinov_config_note note, void *arg, dinov_error *err)
{
    const char   *equals = strchr(assignment, '=');
    char          name[NAME], inside[DINOV_CONFIG_TEXT + 1];
    struct reader r = {.config = config, .note = note, .arg = arg, .name = "command line", .err = err};
    if (!equals || equals == assignment || (size_t)(equals - assignment) >= sizeof name) {
        char shown[DINOV_ESCAPED];
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-KEY", "expected KEY=VALUE as in optim.epochs=10, found %s",
                          dinov_escape(shown, sizeof shown, assignment, strlen(assignment)));
    }
    const char *text = equals + 1;
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    /* The shell has taken one layer of quotes; what stands without any is taken as it is, so that paths need no thought. */
    if (*text == '"' || *text == '\'') {
        DINOV_TRY(unquote(&r, text, inside, sizeof inside));
        return set(&r, name, inside, ONE, r.name);
    }
    bool null = strcmp(text, "null") == 0 || strcmp(text, "~") == 0;
    return set(&r, name, null ? "" : text, *text == '[' ? LIST : ONE, r.name);
}

dinov_status dinov_config_put(dinov_config *config, const char *key, const char *text, const char *where, dinov_error *err)
{
    const struct row *row = find(key);
    DINOV_ASSERT(row);
    return dinov_config_set_row(config, row, text, where, err);
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
