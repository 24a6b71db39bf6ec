/* SPDX-License-Identifier: Apache-2.0 */
#include "format/document.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "format/json.h"
#include "format/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Checks that hold for writing and reading ---- */

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
    if (size != 0 && (size != DINOV_SHA_HEX || !dinov_json_hex(p->source_sha256, size)))
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
    dinov_json_put_int(t, ",\"model\":{\"patch\":", m->patch);
    dinov_json_put_int(t, ",\"dim\":", m->dim);
    dinov_json_put_int(t, ",\"depth\":", m->depth);
    dinov_json_put_int(t, ",\"heads\":", m->heads);
    dinov_json_put_string(t, ",\"ffn\":", m->ffn == DINOV_FFN_MLP ? "mlp" : "swiglu");
    dinov_json_put_int(t, ",\"hidden\":", m->hidden);
    dinov_json_put_int(t, ",\"registers\":", m->registers);
    dinov_json_put_int(t, ",\"channels\":", m->channels);
    member_bool(t, ",\"layerscale\":", m->layerscale);
    member_bool(t, ",\"qkv_bias\":", m->qkv_bias);
    member_double(t, ",\"ln_eps\":", m->ln_eps);
    dinov_json_put_int(t, ",\"position\":{\"kind\":\"learned\",\"grid\":[", m->grid_h);
    dinov_json_put_int(t, ",", m->grid_w);
    member_double(t, "],\"offset\":", m->interp.offset);
    member_bool(t, ",\"antialias\":", m->interp.antialias);
    dinov_text_puts(t, "}}");
}

static void build_preprocess(dinov_text *t, const dinov_document *doc)
{
    const dinov_preprocess *p = &doc->preprocess;
    struct geometry         g = {0};

    DINOV_ASSERT(parse_preset(p->preset, doc->model.patch, &g));
    dinov_json_put_string(t, ",\"preprocess\":{\"preset\":", p->preset);
    dinov_json_put_string(t, ",\"resize\":{\"side\":", g.side);
    if (g.size) dinov_json_put_int(t, ",\"size\":", g.size);
    dinov_text_puts(t, ",\"filter\":\"bicubic\",\"antialias\":true}");
    if (g.crop) {
        dinov_json_put_int(t, ",\"crop\":[", g.crop);
        dinov_json_put_int(t, ",", g.crop);
        dinov_text_puts(t, "]");
    } else {
        dinov_text_puts(t, ",\"crop\":null");
    }
    dinov_json_put_string(t, ",\"orientation\":", g.orient ? "apply" : "ignore");
    dinov_text_puts(t, ",\"alpha\":\"drop\",\"colour\":\"rgb\"");
    member_floats(t, ",\"mean\":", p->mean, 3);
    member_floats(t, ",\"std\":", p->std, 3);
    dinov_text_puts(t, "}");
}

static void build_identity(dinov_text *t, const dinov_document *doc)
{
    const dinov_provenance *p = &doc->provenance;
    dinov_json_put_string(t, ",\"identity\":{\"content_id\":", doc->content_id);
    dinov_json_put_string(t, ",\"provenance\":{\"source_format\":", p->source_format);
    dinov_json_put_string(t, ",\"source_sha256\":", p->source_sha256);
    dinov_json_put_string(t, ",\"converter\":", p->converter);
    dinov_json_put_string(t, ",\"transforms\":", p->transforms);
    dinov_json_put_string(t, ",\"licence\":", p->licence);
    dinov_json_put_string(t, ",\"origin\":", p->origin);
    dinov_text_puts(t, "}}");
}

static void build_proof(dinov_text *t, const dinov_document *doc)
{
    const dinov_proof *p = &doc->proof;
    if (p->count == 0) {
        dinov_text_puts(t, ",\"proof\":null");
        return;
    }
    dinov_json_put_string(t, ",\"proof\":{\"computed_by\":", p->computed_by);
    member_double(t, ",\"tolerance\":", p->tolerance);
    dinov_text_puts(t, ",\"cases\":[");
    for (size_t i = 0; i < p->count; i++) {
        const dinov_golden *c = &p->cases[i];
        dinov_json_put_int(t, i ? ",{\"height\":" : "{\"height\":", c->height);
        dinov_json_put_int(t, ",\"width\":", c->width);
        dinov_json_put_int(t, ",\"seed\":", c->seed);
        member_floats(t, ",\"cls\":", c->cls, doc->model.dim);
        member_floats(t, ",\"patch\":", c->patch, doc->model.dim);
        dinov_text_puts(t, "}");
    }
    dinov_text_puts(t, "]}");
}

void dinov_document_build(dinov_text *t, const dinov_document *doc)
{
    dinov_json_put_version(t, "{", "backbone");
    build_model(t, &doc->model);
    build_preprocess(t, doc);
    dinov_integrity_build(t, doc->digests, doc->digest_count);
    build_identity(t, doc);
    build_proof(t, doc);
    dinov_text_puts(t, "}");
}

/* ---- Reading ---- */

static dinov_status parse_model(json_t *root, dinov_model *m, const dinov_json *at, dinov_error *err)
{
    json_error_t e;
    json_int_t   patch, dim, depth, heads, hidden, registers, channels, grid_h, grid_w;
    const char  *ffn;

    if (json_unpack_ex(root, &e, 0, "{s:{s:I,s:I,s:I,s:I,s:s,s:I,s:I,s:I,s:b,s:b,s:f,s:{s:[II!],s:f,s:b}}}", "model",
                       "patch", &patch, "dim", &dim, "depth", &depth, "heads", &heads, "ffn", &ffn, "hidden", &hidden,
                       "registers", &registers, "channels", &channels, "layerscale", &m->layerscale, "qkv_bias",
                       &m->qkv_bias, "ln_eps", &m->ln_eps, "position", "grid", &grid_h, &grid_w, "offset",
                       &m->interp.offset, "antialias", &m->interp.antialias) != 0)
        return dinov_json_failed(at, &e, err);
    m->patch = patch, m->dim = dim, m->depth = depth, m->heads = heads, m->hidden = hidden;
    m->registers = registers, m->channels = channels, m->grid_h = grid_h, m->grid_w = grid_w;
    if (strcmp(ffn, "mlp") == 0) m->ffn = DINOV_FFN_MLP;
    else if (strcmp(ffn, "swiglu") == 0) m->ffn = DINOV_FFN_SWIGLU;
    else return dinov_json_bad(at, "model.ffn is neither mlp nor swiglu", err);
    return DINOV_OK;
}

static dinov_status parse_preprocess(json_t *root, dinov_preprocess *p, const dinov_json *at, dinov_error *err)
{
    json_error_t e;
    const char  *preset;
    double       mean[3], std[3];

    if (json_unpack_ex(root, &e, 0, "{s:{s:s,s:[fff!],s:[fff!]}}", "preprocess", "preset", &preset, "mean", &mean[0],
                       &mean[1], &mean[2], "std", &std[0], &std[1], &std[2]) != 0)
        return dinov_json_failed(at, &e, err);
    if (strlen(preset) >= sizeof p->preset) return dinov_json_bad(at, "preprocess.preset is too long", err);
    snprintf(p->preset, sizeof p->preset, "%s", preset);
    for (int i = 0; i < 3; i++) p->mean[i] = (float)mean[i], p->std[i] = (float)std[i];
    return DINOV_OK;
}

static dinov_status parse_identity(json_t *root, dinov_document *doc, dinov_document_store *store, const dinov_json *at,
                                   dinov_error *err)
{
    static const char prefix[] = "sha256:";
    json_error_t      e;
    const char       *id, *text[6];

    if (json_unpack_ex(root, &e, 0, "{s:{s:s,s:{s:s,s:s,s:s,s:s,s:s,s:s}}}", "identity", "content_id", &id, "provenance",
                       "source_format", &text[0], "source_sha256", &text[1], "converter", &text[2], "transforms",
                       &text[3], "licence", &text[4], "origin", &text[5]) != 0)
        return dinov_json_failed(at, &e, err);
    if (strlen(id) != DINOV_CK_ID - 1 || memcmp(id, prefix, sizeof prefix - 1) != 0 ||
        !dinov_json_hex(id + sizeof prefix - 1, DINOV_SHA_HEX))
        return dinov_json_bad(at, "identity.content_id is not sha256: and 64 lowercase hex digits", err);
    memcpy(doc->content_id, id, DINOV_CK_ID);
    for (int i = 0; i < 6; i++)
        if (!(store->strings[i] = dinov_strdup(text[i]))) return dinov_fail_nomem(err, at->where, "its provenance");
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

static dinov_status parse_proof(json_t *root, dinov_document *doc, dinov_document_store *store, const dinov_json *at,
                                dinov_error *err)
{
    json_error_t  e;
    const char   *by;
    json_t       *cases;
    json_t       *proof = json_object_get(root, "proof");
    const int64_t dim   = doc->model.dim;

    if (json_is_null(proof)) return DINOV_OK;
    if (!proof) return dinov_json_bad(at, "proof is missing", err);
    if (json_unpack_ex(proof, &e, 0, "{s:s,s:f,s:o}", "computed_by", &by, "tolerance", &doc->proof.tolerance, "cases",
                       &cases) != 0)
        return dinov_json_failed(at, &e, err);
    size_t count = json_array_size(cases);
    if (count < 1 || count > DINOV_CK_MAX_CASES || strlen(by) >= sizeof doc->proof.computed_by)
        return dinov_json_bad(at, "proof.cases or proof.computed_by is empty or too long", err);
    snprintf(doc->proof.computed_by, sizeof doc->proof.computed_by, "%s", by);

    /* The values really are in the document before memory is asked for them. */
    for (size_t i = 0; i < count; i++) {
        json_t *one = json_array_get(cases, i);
        if (json_array_size(json_object_get(one, "cls")) != (size_t)dim ||
            json_array_size(json_object_get(one, "patch")) != (size_t)dim)
            return dinov_json_bad(at, "a proof case does not have model.dim values", err);
    }
    store->cases  = dinov_calloc(count, sizeof *store->cases);
    store->values = dinov_alloc(count * 2 * (size_t)dim, sizeof *store->values);
    if (!store->cases || !store->values) return dinov_fail_nomem(err, at->where, "its proof");
    float *values = store->values;
    for (size_t i = 0; i < count; i++, values += 2 * dim) {
        json_int_t height, width, seed;
        json_t    *cls, *patch;
        if (json_unpack_ex(json_array_get(cases, i), &e, 0, "{s:I,s:I,s:I,s:o,s:o}", "height", &height, "width", &width,
                           "seed", &seed, "cls", &cls, "patch", &patch) != 0)
            return dinov_json_failed(at, &e, err);
        if (!parse_floats(values, cls, dim) || !parse_floats(values + dim, patch, dim))
            return dinov_json_bad(at, "a proof value is no real number", err);
        store->cases[i] = (dinov_golden){height, width, seed, values, values + dim};
    }
    doc->proof.cases = store->cases;
    doc->proof.count = count;
    return DINOV_OK;
}

static dinov_status parse_all(json_t *root, dinov_document *doc, dinov_document_store *store, bool *exact,
                              const dinov_json *at, dinov_error *err)
{
    DINOV_TRY(dinov_json_version(root, exact, at, err));
    DINOV_TRY(parse_model(root, &doc->model, at, err));
    DINOV_TRY(dinov_model_check(&doc->model, at->where, err));
    DINOV_TRY(parse_preprocess(root, &doc->preprocess, at, err));
    DINOV_TRY(dinov_integrity_parse(root, &store->digests, &doc->digest_count, at, err));
    doc->digests = store->digests;
    DINOV_TRY(parse_identity(root, doc, store, at, err));
    DINOV_TRY(parse_proof(root, doc, store, at, err));

    dinov_status status = dinov_document_check(doc, at->where, err);
    if (status != DINOV_ERR_CONFIG) return status;
    if (err) err->status = DINOV_ERR_CORRUPT; /* the option at fault is the file's, not the user's */
    return DINOV_ERR_CORRUPT;
}

dinov_status dinov_document_parse(dinov_document *doc, dinov_document_store *store, const char *json, size_t size,
                                  const char *where, dinov_error *err)
{
    const dinov_json at = {where, "the dinov document", "backbone"};
    dinov_status     status;
    bool             exact     = false;
    json_t          *root      = NULL;
    dinov_text       canonical = {0};

    *doc   = (dinov_document){0};
    *store = (dinov_document_store){0};
    DINOV_TRY_GOTO(dinov_json_limits(json, size, &at, err));
    DINOV_TRY_GOTO(dinov_json_load(&root, json, size, &at, err));
    DINOV_TRY_GOTO(parse_all(root, doc, store, &exact, &at, err));
    dinov_document_build(&canonical, doc);
    DINOV_TRY_GOTO(dinov_json_confirm(root, json, size, &canonical, exact, &at, err));
fail:
    dinov_text_clear(&canonical);
    json_decref(root);
    if (status != DINOV_OK) dinov_document_store_clear(store);
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
