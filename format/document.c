/* SPDX-License-Identifier: Apache-2.0 */
#include "format/document.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "format/params.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Checks that hold for writing and reading ---- */

static bool hex_digits(const char *text, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f'))) return false;
    return true;
}

/* What a preset says, worked out: the document spells it so that no reader needs the grammar. */
struct geometry {
    const char *side;   /* which side `size` is for; "none": the picture keeps its size */
    int64_t     size;   /* 0: none */
    int64_t     crop;   /* 0: none */
    bool        orient; /* the EXIF orientation is applied */
};

static bool parse_preset(const char *preset, int64_t patch, struct geometry *g)
{
    static const struct {
        const char *kind, *side;
        bool        multiple; /* N must be a multiple of the patch */
    } kinds[] = {{"eval:", "shorter", true}, {"short:", "shorter", false}, {"long:", "longer", false}, {"square:", "both", true}};

    if (strcmp(preset, "full") == 0) {
        *g = (struct geometry){"none", 0, 0, true};
        return true;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t length = strlen(kinds[i].kind);
        if (strncmp(preset, kinds[i].kind, length) != 0) continue;
        const char *digits = preset + length;
        size_t      count  = strspn(digits, "0123456789");
        if (count < 1 || count > 5 || digits[count] != '\0' || digits[0] == '0') return false;
        int64_t n = atoi(digits);
        if (n > DINOV_CK_MAX_SIDE || (kinds[i].multiple && n % patch != 0)) return false;
        *g = (struct geometry){kinds[i].side, n, 0, true};
        if (i == 0) *g = (struct geometry){kinds[i].side, n * 256 / 224 / 2 * 2, n, false};
        return g->size >= g->crop;
    }
    return false;
}

static dinov_status check_text(const char *name, const char *text, const char *where, dinov_error *err)
{
    size_t size = strlen(text);
    if (size <= DINOV_CK_MAX_TEXT && dinov_text_printable(text, size)) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PROVENANCE", "%s: %s: expected at most %d bytes of printable UTF-8", where,
                      name, DINOV_CK_MAX_TEXT);
}

static dinov_status check_provenance(const dinov_provenance *p, const char *where, dinov_error *err)
{
    DINOV_TRY(check_text("source_format", p->source_format, where, err));
    DINOV_TRY(check_text("converter", p->converter, where, err));
    DINOV_TRY(check_text("transforms", p->transforms, where, err));
    DINOV_TRY(check_text("licence", p->licence, where, err));
    DINOV_TRY(check_text("origin", p->origin, where, err));
    size_t size = strlen(p->source_sha256);
    if (size != 0 && (size != DINOV_SHA_HEX || !hex_digits(p->source_sha256, size)))
        return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PROVENANCE", "%s: source_sha256: expected nothing or %d lowercase hex digits",
                          where, DINOV_SHA_HEX);
    return DINOV_OK;
}

static dinov_status check_preprocess(const dinov_document *doc, const char *where, dinov_error *err)
{
    const dinov_preprocess *p = &doc->preprocess;
    struct geometry         g;
    char                    name[DINOV_ESCAPED];
    if (!memchr(p->preset, '\0', sizeof p->preset) || !parse_preset(p->preset, doc->model.patch, &g))
        return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PREPROCESS",
                          "%s: preset \"%s\": expected eval:N, square:N (N a multiple of the patch, %lld), short:N, long:N "
                          "or full, N at most %d, and for eval none of 1, 3 and 5",
                          where, dinov_escape(name, sizeof name, p->preset, strnlen(p->preset, sizeof p->preset)),
                          (long long)doc->model.patch, DINOV_CK_MAX_SIDE);
    for (int i = 0; i < 3; i++)
        if (!isfinite(p->mean[i]) || !isfinite(p->std[i]) || !(p->std[i] > 0))
            return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PREPROCESS",
                              "%s: mean and std: expected finite numbers, std above 0", where);
    return DINOV_OK;
}

static bool finite_all(const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

bool dinov_golden_legal(const dinov_golden *c, int64_t patch)
{
    return c->height >= patch && c->width >= patch && c->height <= DINOV_CK_MAX_SIDE && c->width <= DINOV_CK_MAX_SIDE &&
           c->height % patch == 0 && c->width % patch == 0 &&
           c->height / patch * (c->width / patch) <= DINOV_CK_MAX_CASE_PATCHES && c->seed >= 0 && c->seed <= INT32_MAX;
}

static dinov_status check_proof(const dinov_document *doc, const char *where, dinov_error *err)
{
    const dinov_proof *p     = &doc->proof;
    int64_t            patch = doc->model.patch;
    if (p->count == 0) return DINOV_OK;
    if (p->count > DINOV_CK_MAX_CASES)
        return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PROOF", "%s: proof: expected at most %d cases, found %zu", where,
                          DINOV_CK_MAX_CASES, p->count);
    size_t by = strnlen(p->computed_by, sizeof p->computed_by);
    if (by == 0 || by == sizeof p->computed_by || !dinov_text_printable(p->computed_by, by))
        return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PROOF", "%s: proof: computed_by: expected 1 to %zu bytes of printable UTF-8",
                          where, sizeof p->computed_by - 1);
    if (!(p->tolerance > 0 && p->tolerance < 1))
        return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PROOF", "%s: proof: tolerance: expected between 0 and 1, found %g", where,
                          p->tolerance);
    for (size_t i = 0; i < p->count; i++) {
        const dinov_golden *c = &p->cases[i];
        if (!dinov_golden_legal(c, patch))
            return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PROOF",
                              "%s: proof: case %zu: expected sides that are multiples of the patch (%lld) up to %d, at most %d "
                              "patches and a seed from 0 to 2147483647, found %lld x %lld, seed %lld",
                              where, i, (long long)patch, DINOV_CK_MAX_SIDE, DINOV_CK_MAX_CASE_PATCHES, (long long)c->height,
                              (long long)c->width, (long long)c->seed);
        if (!finite_all(c->cls, doc->model.dim) || !finite_all(c->patch, doc->model.dim))
            return dinov_fail(err, DINOV_ERR_CONFIG, "CK-PROOF", "%s: proof: case %zu: a value is not finite", where, i);
    }
    return DINOV_OK;
}

dinov_status dinov_document_check(const dinov_document *doc, const char *where, dinov_error *err)
{
    DINOV_TRY(dinov_model_check(&doc->model, where, err));
    DINOV_TRY(check_preprocess(doc, where, err));
    DINOV_TRY(check_provenance(&doc->provenance, where, err));
    return check_proof(doc, where, err);
}

/* ---- Writing ---- */

static void member_int(dinov_text *t, const char *before, int64_t value)
{
    dinov_text_puts(t, before);
    dinov_text_int(t, value);
}

static void member_double(dinov_text *t, const char *before, double value)
{
    dinov_text_puts(t, before);
    dinov_text_double(t, value);
}

static void member_bool(dinov_text *t, const char *before, bool value)
{
    dinov_text_puts(t, before);
    dinov_text_puts(t, value ? "true" : "false");
}

static void member_string(dinov_text *t, const char *before, const char *value)
{
    dinov_text_puts(t, before);
    dinov_text_puts(t, "\"");
    dinov_text_escaped(t, value, strlen(value));
    dinov_text_puts(t, "\"");
}

static void member_floats(dinov_text *t, const char *before, const float *values, int64_t count)
{
    dinov_text_puts(t, before);
    for (int64_t i = 0; i < count; i++) {
        dinov_text_puts(t, i ? "," : "[");
        dinov_text_float(t, values[i]);
    }
    dinov_text_puts(t, "]");
}

static void build_model(dinov_text *t, const dinov_model *m)
{
    member_int(t, ",\"model\":{\"patch\":", m->patch);
    member_int(t, ",\"dim\":", m->dim);
    member_int(t, ",\"depth\":", m->depth);
    member_int(t, ",\"heads\":", m->heads);
    member_string(t, ",\"ffn\":", m->ffn == DINOV_FFN_MLP ? "mlp" : "swiglu");
    member_int(t, ",\"hidden\":", m->hidden);
    member_int(t, ",\"registers\":", m->registers);
    member_int(t, ",\"channels\":", m->channels);
    member_bool(t, ",\"layerscale\":", m->layerscale);
    member_bool(t, ",\"qkv_bias\":", m->qkv_bias);
    member_double(t, ",\"ln_eps\":", m->ln_eps);
    member_int(t, ",\"position\":{\"kind\":\"learned\",\"grid\":[", m->grid_h);
    member_int(t, ",", m->grid_w);
    member_double(t, "],\"offset\":", m->interp.offset);
    member_bool(t, ",\"antialias\":", m->interp.antialias);
    dinov_text_puts(t, "}}");
}

static void build_preprocess(dinov_text *t, const dinov_document *doc)
{
    const dinov_preprocess *p = &doc->preprocess;
    struct geometry         g = {0};

    DINOV_ASSERT(parse_preset(p->preset, doc->model.patch, &g));
    member_string(t, ",\"preprocess\":{\"preset\":", p->preset);
    member_string(t, ",\"resize\":{\"side\":", g.side);
    if (g.size) member_int(t, ",\"size\":", g.size);
    dinov_text_puts(t, ",\"filter\":\"bicubic\",\"antialias\":true}");
    if (g.crop) {
        member_int(t, ",\"crop\":[", g.crop);
        member_int(t, ",", g.crop);
        dinov_text_puts(t, "]");
    } else {
        dinov_text_puts(t, ",\"crop\":null");
    }
    member_string(t, ",\"orientation\":", g.orient ? "apply" : "ignore");
    dinov_text_puts(t, ",\"alpha\":\"drop\",\"colour\":\"rgb\"");
    member_floats(t, ",\"mean\":", p->mean, 3);
    member_floats(t, ",\"std\":", p->std, 3);
    dinov_text_puts(t, "}");
}

static void build_integrity(dinov_text *t, const dinov_document *doc)
{
    member_int(t, ",\"integrity\":{\"algorithm\":\"xxh3-128\",\"block\":", DINOV_CK_BLOCK);
    dinov_text_puts(t, ",\"digests\":[");
    for (size_t i = 0; i < doc->digest_count; i++) {
        dinov_text_puts(t, i ? ",\"" : "\"");
        dinov_text_add(t, doc->digests[i].hex, sizeof doc->digests[i].hex);
        dinov_text_puts(t, "\"");
    }
    dinov_text_puts(t, "]}");
}

static void build_identity(dinov_text *t, const dinov_document *doc)
{
    const dinov_provenance *p = &doc->provenance;
    member_string(t, ",\"identity\":{\"content_id\":", doc->content_id);
    member_string(t, ",\"provenance\":{\"source_format\":", p->source_format);
    member_string(t, ",\"source_sha256\":", p->source_sha256);
    member_string(t, ",\"converter\":", p->converter);
    member_string(t, ",\"transforms\":", p->transforms);
    member_string(t, ",\"licence\":", p->licence);
    member_string(t, ",\"origin\":", p->origin);
    dinov_text_puts(t, "}}");
}

static void build_proof(dinov_text *t, const dinov_document *doc)
{
    const dinov_proof *p = &doc->proof;
    if (p->count == 0) {
        dinov_text_puts(t, ",\"proof\":null");
        return;
    }
    member_string(t, ",\"proof\":{\"computed_by\":", p->computed_by);
    member_double(t, ",\"tolerance\":", p->tolerance);
    dinov_text_puts(t, ",\"cases\":[");
    for (size_t i = 0; i < p->count; i++) {
        const dinov_golden *c = &p->cases[i];
        member_int(t, i ? ",{\"height\":" : "{\"height\":", c->height);
        member_int(t, ",\"width\":", c->width);
        member_int(t, ",\"seed\":", c->seed);
        member_floats(t, ",\"cls\":", c->cls, doc->model.dim);
        member_floats(t, ",\"patch\":", c->patch, doc->model.dim);
        dinov_text_puts(t, "}");
    }
    dinov_text_puts(t, "]}");
}

void dinov_document_build(dinov_text *t, const dinov_document *doc)
{
    member_int(t, "{\"version\":{\"read\":", DINOV_CK_READ_VERSION);
    member_int(t, ",\"write\":", DINOV_CK_WRITE_VERSION);
    dinov_text_puts(t, ",\"safe_to_ignore\":[],\"safe_to_read\":[],\"must_understand\":[]},\"kind\":\"backbone\"");
    build_model(t, &doc->model);
    build_preprocess(t, doc);
    build_integrity(t, doc);
    build_identity(t, doc);
    build_proof(t, doc);
    dinov_text_puts(t, "}");
}

/* ---- Reading ---- */

dinov_status dinov_document_limits(const char *json, size_t size, const char *where, dinov_error *err)
{
    size_t values = 0, depth = 0;
    bool   in_string = false;

    if (size > DINOV_CK_MAX_DOCUMENT)
        return dinov_fail(err, DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE", "%s: the dinov document: expected at most %d bytes, found %zu",
                          where, DINOV_CK_MAX_DOCUMENT, size);
    for (size_t i = 0; i < size; i++) {
        char byte = json[i];
        if (in_string && byte == '\\') {
            if (++i == size || (json[i] != '"' && json[i] != '\\'))
                return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DOCUMENT",
                                  "%s: the dinov document, byte %zu: an escape other than \\\" and \\\\", where, i);
        } else if (byte == '"') in_string = !in_string;
        else if (in_string) continue;
        else if (byte == ',') values++;
        else if (byte == '[' || byte == '{') values++, depth++;
        else if ((byte == ']' || byte == '}') && depth > 0) depth--;
        if (values > DINOV_CK_MAX_VALUES || depth > DINOV_CK_MAX_DEPTH)
            return dinov_fail(err, DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE",
                              "%s: the dinov document: expected at most %d values nested at most %d deep", where,
                              DINOV_CK_MAX_VALUES, DINOV_CK_MAX_DEPTH);
    }
    return DINOV_OK;
}

/* A failed jansson call: memory, or a document that does not have the shape it must have. */
static dinov_status json_failed(const json_error_t *e, const char *where, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    if (json_error_code(e) == json_error_out_of_memory) return dinov_fail_nomem(err, where, "the dinov document");
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DOCUMENT", "%s: the dinov document: %s", where,
                      dinov_escape(text, sizeof text, e->text, strlen(e->text)));
}

/* jansson loses data when an allocation fails under it, so it only starts when there is memory for
 * anything it may need: at worst a value of 64 bytes for every two bytes of text. */
static dinov_status load(json_t **out, const char *json, size_t size, const char *where, dinov_error *err)
{
    json_error_t e;
    void        *probe = dinov_alloc(size, 32);
    dinov_free(probe);
    if (!probe) return dinov_fail_nomem(err, where, "the dinov document");
    *out = json_loadb(json, size, JSON_REJECT_DUPLICATES, &e);
    return *out ? DINOV_OK : json_failed(&e, where, err);
}

static dinov_status bad_document(const char *what, const char *where, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DOCUMENT", "%s: the dinov document: %s", where, what);
}

static bool legal_feature(const char *name, size_t size)
{
    return size >= 1 && size <= DINOV_CK_MAX_FEATURE && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == size;
}

static dinov_status check_features(const json_t *list, const char *where, dinov_error *err)
{
    if (!json_is_array(list) || json_array_size(list) > DINOV_CK_MAX_FEATURES)
        return bad_document("a feature list is no array or too long", where, err);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *name = json_array_get(list, i);
        if (!json_is_string(name) || !legal_feature(json_string_value(name), json_string_length(name)))
            return bad_document("a feature name is not made of a-z, 0-9 and -", where, err);
    }
    return DINOV_OK;
}

/* Looked at before anything else, so that a newer file is called newer and not damaged.
 * *exact: nothing in the file is unknown to this reader. */
static dinov_status parse_version(json_t *root, bool *exact, const char *where, dinov_error *err)
{
    json_error_t e;
    json_int_t   read, write;
    json_t      *ignore, *safe, *must;
    const char  *kind;

    if (json_unpack_ex(root, &e, 0, "{s:{s:I,s:I}}", "version", "read", &read, "write", &write) != 0)
        return json_failed(&e, where, err);
    if (read < 1 || write < read) return bad_document("its version numbers contradict each other", where, err);
    if (read > DINOV_CK_READ_VERSION)
        return dinov_fail(err, DINOV_ERR_VERSION, "CK-NEWER",
                          "%s: a sound file of format version %lld; this program reads up to %d: use a newer dinov", where,
                          (long long)read, DINOV_CK_READ_VERSION);
    if (json_unpack_ex(root, &e, 0, "{s:{s:I,s:I,s:o,s:o,s:o!},s:s}", "version", "read", &read, "write", &write,
                       "safe_to_ignore", &ignore, "safe_to_read", &safe, "must_understand", &must, "kind", &kind) != 0)
        return json_failed(&e, where, err);
    DINOV_TRY(check_features(ignore, where, err));
    DINOV_TRY(check_features(safe, where, err));
    DINOV_TRY(check_features(must, where, err));
    if (json_array_size(must) > 0)
        return dinov_fail(err, DINOV_ERR_VERSION, "CK-FEATURE",
                          "%s: a sound file that needs \"%s\", which this program does not know: use a newer dinov", where,
                          json_string_value(json_array_get(must, 0)));
    if (strcmp(kind, "backbone") != 0) {
        char name[DINOV_ESCAPED];
        return dinov_fail(err, DINOV_ERR_VERSION, "CK-KIND", "%s: expected kind backbone, found \"%s\"", where,
                          dinov_escape(name, sizeof name, kind, strlen(kind)));
    }
    *exact = write == DINOV_CK_WRITE_VERSION && json_array_size(ignore) == 0 && json_array_size(safe) == 0;
    return DINOV_OK;
}

static dinov_status parse_model(json_t *root, dinov_model *m, const char *where, dinov_error *err)
{
    json_error_t e;
    json_int_t   patch, dim, depth, heads, hidden, registers, channels, grid_h, grid_w;
    const char  *ffn;

    if (json_unpack_ex(root, &e, 0, "{s:{s:I,s:I,s:I,s:I,s:s,s:I,s:I,s:I,s:b,s:b,s:f,s:{s:[II!],s:f,s:b}}}", "model",
                       "patch", &patch, "dim", &dim, "depth", &depth, "heads", &heads, "ffn", &ffn, "hidden", &hidden,
                       "registers", &registers, "channels", &channels, "layerscale", &m->layerscale, "qkv_bias",
                       &m->qkv_bias, "ln_eps", &m->ln_eps, "position", "grid", &grid_h, &grid_w, "offset",
                       &m->interp.offset, "antialias", &m->interp.antialias) != 0)
        return json_failed(&e, where, err);
    m->patch = patch, m->dim = dim, m->depth = depth, m->heads = heads, m->hidden = hidden;
    m->registers = registers, m->channels = channels, m->grid_h = grid_h, m->grid_w = grid_w;
    if (strcmp(ffn, "mlp") == 0) m->ffn = DINOV_FFN_MLP;
    else if (strcmp(ffn, "swiglu") == 0) m->ffn = DINOV_FFN_SWIGLU;
    else return bad_document("model.ffn is neither mlp nor swiglu", where, err);
    return DINOV_OK;
}

static dinov_status parse_preprocess(json_t *root, dinov_preprocess *p, const char *where, dinov_error *err)
{
    json_error_t e;
    const char  *preset;
    double       mean[3], std[3];

    if (json_unpack_ex(root, &e, 0, "{s:{s:s,s:[fff!],s:[fff!]}}", "preprocess", "preset", &preset, "mean", &mean[0],
                       &mean[1], &mean[2], "std", &std[0], &std[1], &std[2]) != 0)
        return json_failed(&e, where, err);
    if (strlen(preset) >= sizeof p->preset) return bad_document("preprocess.preset is too long", where, err);
    snprintf(p->preset, sizeof p->preset, "%s", preset);
    for (int i = 0; i < 3; i++) p->mean[i] = (float)mean[i], p->std[i] = (float)std[i];
    return DINOV_OK;
}

static dinov_status parse_integrity(json_t *root, dinov_document *doc, dinov_document_store *store, const char *where,
                                    dinov_error *err)
{
    json_error_t e;
    json_t      *list;

    if (json_unpack_ex(root, &e, 0, "{s:{s:o}}", "integrity", "digests", &list) != 0) return json_failed(&e, where, err);
    if (!json_is_array(list)) return bad_document("integrity.digests is no array", where, err);
    doc->digest_count = json_array_size(list);
    doc->digests = store->digests = dinov_alloc(doc->digest_count, sizeof *store->digests);
    if (!store->digests) return dinov_fail_nomem(err, where, "its digests");
    for (size_t i = 0; i < doc->digest_count; i++) {
        const json_t *digest = json_array_get(list, i);
        if (!json_is_string(digest) || json_string_length(digest) != DINOV_CK_DIGEST_SIZE ||
            !hex_digits(json_string_value(digest), DINOV_CK_DIGEST_SIZE))
            return bad_document("a digest is not 32 lowercase hex digits", where, err);
        memcpy(store->digests[i].hex, json_string_value(digest), DINOV_CK_DIGEST_SIZE);
    }
    return DINOV_OK;
}

static dinov_status parse_identity(json_t *root, dinov_document *doc, dinov_document_store *store, const char *where,
                                   dinov_error *err)
{
    static const char prefix[] = "sha256:";
    json_error_t      e;
    const char       *id, *text[6];

    if (json_unpack_ex(root, &e, 0, "{s:{s:s,s:{s:s,s:s,s:s,s:s,s:s,s:s}}}", "identity", "content_id", &id, "provenance",
                       "source_format", &text[0], "source_sha256", &text[1], "converter", &text[2], "transforms",
                       &text[3], "licence", &text[4], "origin", &text[5]) != 0)
        return json_failed(&e, where, err);
    if (strlen(id) != DINOV_CK_ID - 1 || memcmp(id, prefix, sizeof prefix - 1) != 0 ||
        !hex_digits(id + sizeof prefix - 1, DINOV_SHA_HEX))
        return bad_document("identity.content_id is not sha256: and 64 lowercase hex digits", where, err);
    memcpy(doc->content_id, id, DINOV_CK_ID);
    for (int i = 0; i < 6; i++)
        if (!(store->strings[i] = dinov_strdup(text[i]))) return dinov_fail_nomem(err, where, "its provenance");
    doc->provenance = (dinov_provenance){store->strings[0], store->strings[1], store->strings[2],
                                         store->strings[3], store->strings[4], store->strings[5]};
    return DINOV_OK;
}

/* `count` reals into out; false when the list is anything else. */
static bool parse_floats(float *out, const json_t *list, int64_t count)
{
    if (!json_is_array(list) || json_array_size(list) != (size_t)count) return false;
    for (int64_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        if (!json_is_real(value)) return false;
        out[i] = (float)json_real_value(value);
    }
    return true;
}

static dinov_status parse_proof(json_t *root, dinov_document *doc, dinov_document_store *store, const char *where,
                                dinov_error *err)
{
    json_error_t  e;
    const char   *by;
    json_t       *cases;
    json_t       *proof = json_object_get(root, "proof");
    const int64_t dim   = doc->model.dim;

    if (json_is_null(proof)) return DINOV_OK;
    if (!proof) return bad_document("proof is missing", where, err);
    if (json_unpack_ex(proof, &e, 0, "{s:s,s:f,s:o}", "computed_by", &by, "tolerance", &doc->proof.tolerance, "cases",
                       &cases) != 0)
        return json_failed(&e, where, err);
    size_t count = json_array_size(cases);
    if (count < 1 || count > DINOV_CK_MAX_CASES || strlen(by) >= sizeof doc->proof.computed_by)
        return bad_document("proof.cases or proof.computed_by is empty or too long", where, err);
    snprintf(doc->proof.computed_by, sizeof doc->proof.computed_by, "%s", by);

    /* The values really are in the document before memory is asked for them. */
    for (size_t i = 0; i < count; i++) {
        json_t *one = json_array_get(cases, i);
        if (json_array_size(json_object_get(one, "cls")) != (size_t)dim ||
            json_array_size(json_object_get(one, "patch")) != (size_t)dim)
            return bad_document("a proof case does not have model.dim values", where, err);
    }
    store->cases  = dinov_calloc(count, sizeof *store->cases);
    store->values = dinov_alloc(count * 2 * (size_t)dim, sizeof *store->values);
    if (!store->cases || !store->values) return dinov_fail_nomem(err, where, "its proof");
    float *values = store->values;
    for (size_t i = 0; i < count; i++, values += 2 * dim) {
        json_int_t height, width, seed;
        json_t    *cls, *patch;
        if (json_unpack_ex(json_array_get(cases, i), &e, 0, "{s:I,s:I,s:I,s:o,s:o}", "height", &height, "width", &width,
                           "seed", &seed, "cls", &cls, "patch", &patch) != 0)
            return json_failed(&e, where, err);
        if (!parse_floats(values, cls, dim) || !parse_floats(values + dim, patch, dim))
            return bad_document("a proof value is no real number", where, err);
        store->cases[i] = (dinov_golden){height, width, seed, values, values + dim};
    }
    doc->proof.cases = store->cases;
    doc->proof.count = count;
    return DINOV_OK;
}

static dinov_status parse_all(json_t *root, dinov_document *doc, dinov_document_store *store, bool *exact,
                              const char *where, dinov_error *err)
{
    DINOV_TRY(parse_version(root, exact, where, err));
    DINOV_TRY(parse_model(root, &doc->model, where, err));
    DINOV_TRY(dinov_model_check(&doc->model, where, err));
    DINOV_TRY(parse_preprocess(root, &doc->preprocess, where, err));
    DINOV_TRY(parse_integrity(root, doc, store, where, err));
    DINOV_TRY(parse_identity(root, doc, store, where, err));
    DINOV_TRY(parse_proof(root, doc, store, where, err));

    dinov_status status = dinov_document_check(doc, where, err);
    if (status != DINOV_ERR_CONFIG) return status;
    if (err) err->status = DINOV_ERR_CORRUPT; /* the option at fault is the file's, not the user's */
    return DINOV_ERR_CORRUPT;
}

/* Every member of `ours` is in `theirs` with the same value; objects may have more. `ours` was built
 * here: its depth is known. */
static bool contains(const json_t *theirs, json_t *ours)
{
    const char *key;
    json_t     *value;
    if (!json_is_object(ours)) return json_equal(theirs, ours);
    if (!json_is_object(theirs)) return false;
    json_object_foreach(ours, key, value) {
        const json_t *other = json_object_get(theirs, key);
        if (!other || !contains(other, value)) return false;
    }
    return true;
}

/* The version object itself may differ: it is what says that there is more. */
static dinov_status compare_values(json_t *root, const dinov_text *canonical, const char *where, dinov_error *err)
{
    json_t *ours;
    DINOV_TRY(load(&ours, canonical->data, canonical->size, where, err));
    json_object_del(ours, "version");
    bool same = contains(root, ours);
    json_decref(ours);
    return same ? DINOV_OK : bad_document("two of its members contradict each other", where, err);
}

static dinov_status compare_bytes(const char *json, size_t size, const dinov_text *canonical, const char *where,
                                  dinov_error *err)
{
    size_t i = 0;
    while (i < size && i < canonical->size && json[i] == canonical->data[i]) i++;
    if (i == size && i == canonical->size) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-CANONICAL",
                      "%s: the dinov document, byte %zu: not what its values are spelled as in format version %d", where, i,
                      DINOV_CK_WRITE_VERSION);
}

dinov_status dinov_document_parse(dinov_document *doc, dinov_document_store *store, const char *json, size_t size,
                                  const char *where, dinov_error *err)
{
    dinov_status status;
    bool         exact     = false;
    json_t      *root      = NULL;
    dinov_text   canonical = {0};

    *doc   = (dinov_document){0};
    *store = (dinov_document_store){0};
    DINOV_TRY_GOTO(dinov_document_limits(json, size, where, err));
    DINOV_TRY_GOTO(load(&root, json, size, where, err));
    DINOV_TRY_GOTO(parse_all(root, doc, store, &exact, where, err));
    dinov_document_build(&canonical, doc);
    if (canonical.failed) {
        status = dinov_fail_nomem(err, where, "the dinov document");
        goto fail;
    }
    DINOV_TRY_GOTO(exact ? compare_bytes(json, size, &canonical, where, err)
                         : compare_values(root, &canonical, where, err));
    dinov_text_clear(&canonical);
    json_decref(root);
    return DINOV_OK;
fail:
    dinov_text_clear(&canonical);
    json_decref(root);
    dinov_document_store_clear(store);
    return status;
}

void dinov_document_store_clear(dinov_document_store *store)
{
    for (size_t i = 0; i < sizeof store->strings / sizeof store->strings[0]; i++) dinov_free(store->strings[i]);
    dinov_free(store->cases);
    dinov_free(store->values);
    dinov_free(store->digests);
    *store = (dinov_document_store){0};
}
