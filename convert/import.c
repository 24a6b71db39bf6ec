/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/import.h"

#include "base/alloc.h"
#include "dinov/image.h"
#include "format/checkpoint.h"
#include "format/params.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NOTES = 5, NOTE = 512 };

struct dinov_import {
    dinov_reader       source;
    dinov_survey       survey; /* of foreign weights */
    dinov_weights      weights;
    dinov_provenance   provenance;
    const dinov_proof *proof;
    dinov_identity     identity; /* empty until it is found */
    char              *transforms;
    char               notes[NOTES][NOTE];
    size_t             note_count;
};

/* ---- What the source is ---- */

dinov_status dinov_survey_make(dinov_survey *out, const dinov_reader *source, const dinov_recognise_options *options,
                               dinov_error *err)
{
    dinov_recognise_options how = options ? *options : (dinov_recognise_options){0};
    *out                        = (dinov_survey){.has_model = false};
    DINOV_TRY(dinov_names_map(&out->names, source->tensors, source->count, source->where, err));
    dinov_weights weights = {.tensors = out->names.tensors.items, .count = out->names.tensors.count};
    if (source->checkpoint) {
        out->model     = dinov_checkpoint_weights(source->checkpoint)->model;
        out->has_model = true;
        return DINOV_OK;
    }
    dinov_fence fence = source->fence; /* as the weights were read */
    if (out->names.naming == DINOV_NAMING_HF && source->path)
        DINOV_TRY(dinov_hf_beside_read(&out->beside, source->path, &fence, err));

    /* The caller's word, then the file's, then the hub's rule. */
    const dinov_hf_config *config = &out->beside.config;
    if (!how.heads) how.heads = source->facts.heads ? source->facts.heads : config->heads;
    if (!(how.ln_eps > 0)) how.ln_eps = source->facts.ln_eps > 0 ? source->facts.ln_eps : config->ln_eps;
    if (!how.interp && !how.compat && source->facts.has_interp) how.interp = &source->facts.interp;
    if (weights.count == 0) weights.tensors = source->tensors, weights.count = source->count; /* to name what is there */
    DINOV_TRY(dinov_recognise_numbers(&out->model, weights.tensors, weights.count, &how, source->where, err));
    out->has_model = true;
    if (out->beside.has_config) DINOV_TRY(dinov_hf_config_check(config, &out->model, out->beside.where, err));
    weights.model = out->model;
    DINOV_TRY(dinov_weights_check(&weights, source->where, err));
    return dinov_names_check(&out->names, source->tensors, source->where, err);
}

bool dinov_survey_preprocess(dinov_preprocess *out, const dinov_survey *survey, const dinov_reader *source)
{
    const dinov_hf_beside *beside = &survey->beside;
    dinov_preset           preset;
    int64_t                w, h;

    dinov_preprocess_default(out, &survey->model);
    if (source->facts.has_preprocess) *out = source->facts.preprocess;
    if (!beside->has_preprocess) return true;
    if (!beside->said || dinov_preset_parse(&preset, beside->preprocess.preset, NULL) != DINOV_OK ||
        dinov_preset_size(&preset, survey->model.patch, 1, 1, &w, &h, NULL) != DINOV_OK)
        return false;
    *out = beside->preprocess;
    return true;
}

void dinov_survey_clear(dinov_survey *survey) { dinov_names_clear(&survey->names); }

/* ---- The import ---- */

/* Comma-separated, in order: what the source already had, then ours. */
static dinov_status add_transform(dinov_import *in, const char *what, dinov_error *err)
{
    const char *before = in->transforms ? in->transforms : "";
    size_t      size   = strlen(before) + strlen(what) + 2;
    char       *text   = dinov_alloc(size, 1);
    if (!text) return dinov_fail_nomem(err, in->source.where, "the list of transforms");
    snprintf(text, size, "%s%s%s", before, *before ? "," : "", what);
    dinov_free(in->transforms);
    in->transforms = text;
    return DINOV_OK;
}

/* Our own file says what it is; options may correct it, and then its golden vectors no longer hold. */
static dinov_status take_checkpoint(dinov_import *in, const dinov_import_options *o, dinov_error *err)
{
    const dinov_checkpoint *ckpt = in->source.checkpoint;
    in->weights                  = *dinov_checkpoint_weights(ckpt);
    in->provenance               = *dinov_checkpoint_provenance(ckpt);
    const dinov_proof *proof     = dinov_checkpoint_proof(ckpt);
    in->proof                    = proof && proof->count ? proof : NULL;
    if (*in->provenance.transforms) DINOV_TRY(add_transform(in, in->provenance.transforms, err));

    dinov_model *m = &in->weights.model;
    if (o->recognise.heads && o->recognise.heads != m->heads) {
        m->heads  = o->recognise.heads;
        in->proof = NULL;
        DINOV_TRY(add_transform(in, "heads", err));
    }
    const dinov_interp  rule   = dinov_compat_rule(o->recognise.compat, m->registers);
    const dinov_interp *interp = o->recognise.interp ? o->recognise.interp : o->recognise.compat ? &rule : NULL;
    if (interp && (interp->offset != m->interp.offset || interp->antialias != m->interp.antialias)) {
        m->interp = *interp;
        in->proof = NULL;
        DINOV_TRY(add_transform(in, "interp", err));
    }
    return dinov_weights_check(&in->weights, in->source.where, err);
}

static void note(dinov_import *in, const char *format, ...) DINOV_PRINTF(2, 3);
static void note(dinov_import *in, const char *format, ...)
{
    va_list args;
    DINOV_ASSERT(in->note_count < NOTES);
    va_start(args, format);
    vsnprintf(in->notes[in->note_count++], NOTE, format, args);
    va_end(args);
}

static void note_names(dinov_import *in)
{
    const dinov_names *names = &in->survey.names;
    const char        *where = in->source.where;
    char               text[DINOV_ESCAPED];
    if (names->passed) {
        const char *first = in->source.tensors[names->first_passed].name;
        note(in, "%s: %zu tensors that are no part of the backbone are left out, the first is %s (%s)", where, names->passed,
             dinov_escape(text, sizeof text, first, strlen(first)), names->fate[names->first_passed]);
    }
    if (!names->restored) note(in, "%s: has no mask_token, which only training uses: it becomes zeros", where);
}

static void note_positions(dinov_import *in)
{
    const dinov_model *m = &in->weights.model;
    if (!strstr(in->source.facts.transforms, "positions-resampled")) return;
    note(in,
         "%s: was made for pictures of one size, and has positions for %lldx%lld pixels in place of the trained ones: results at "
         "other sizes are not the original model's",
         in->source.where, (long long)(m->grid_h * m->patch), (long long)(m->grid_w * m->patch));
}

/* Weights of another library's, taken by the hub's rule: what that library computes at other sizes differs. */
static void note_compat(dinov_import *in, const dinov_recognise_options *options)
{
    dinov_naming naming = in->survey.names.naming;
    dinov_compat compat = naming == DINOV_NAMING_HF ? DINOV_COMPAT_HF : naming == DINOV_NAMING_TIMM ? DINOV_COMPAT_TIMM : 0;
    dinov_interp theirs = dinov_compat_rule(compat, in->weights.model.registers), taken = in->weights.model.interp;
    if (!compat || options->interp || options->compat || (theirs.offset == taken.offset && theirs.antialias == taken.antialias))
        return;
    note(in,
         "%s: other sizes than %lldx%lld follow the hub's rule of position interpolation; --compat %s is the other library's own",
         in->source.where, (long long)(in->weights.model.grid_h * in->weights.model.patch),
         (long long)(in->weights.model.grid_w * in->weights.model.patch), compat == DINOV_COMPAT_HF ? "hf" : "timm");
}

static dinov_status take_foreign(dinov_import *in, const dinov_import_options *o, dinov_error *err)
{
    const dinov_reader *s = &in->source;
    if (s->rewritten && !o->recognise.interp && !o->recognise.compat)
        return dinov_fail(
            err, DINOV_ERR_FORMAT, "SRC-REWRITTEN",
            "%s: was a dinov checkpoint and was written again by another tool, or its first bytes are damaged: its digests "
            "and settings no longer hold. Use the original, or take the tensors as they are with --interp RULE",
            s->where);
    DINOV_TRY(dinov_survey_make(&in->survey, s, &o->recognise, err));
    DINOV_TRY(dinov_names_fill(&in->survey.names, s->where, err));
    in->weights = (dinov_weights){.model    = in->survey.model,
                                  .tensors  = in->survey.names.tensors.items,
                                  .count    = in->survey.names.tensors.count,
                                  .map      = s->map.data,
                                  .map_size = s->map.size};
    note_names(in);
    note_positions(in);
    note_compat(in, &o->recognise);
    if (!dinov_survey_preprocess(&in->weights.preprocess, &in->survey, s))
        note(in, "%s: preprocessor_config.json beside it asks for what no preset does; %s is kept instead", s->where,
             in->weights.preprocess.preset);
    in->provenance = (dinov_provenance){.source_format = dinov_layout_name(s->layout),
                                        .source_sha256 = "",
                                        .converter     = "dinov-convert " DINOV_VERSION_STRING,
                                        .transforms    = "",
                                        .licence       = s->facts.licence,
                                        .origin        = s->facts.origin};
    if (*s->facts.transforms) DINOV_TRY(add_transform(in, s->facts.transforms, err));
    if (s->torch.copied) DINOV_TRY(add_transform(in, "row-major", err));
    if (*in->survey.names.transforms) DINOV_TRY(add_transform(in, in->survey.names.transforms, err));
    return DINOV_OK;
}

static dinov_status set_preset(dinov_import *in, const char *text, dinov_error *err)
{
    dinov_preset preset;
    int64_t      w, h;
    DINOV_TRY(dinov_preset_parse(&preset, text, err));
    DINOV_TRY(dinov_preset_size(&preset, in->weights.model.patch, 1, 1, &w, &h, err));
    int size = snprintf(in->weights.preprocess.preset, sizeof in->weights.preprocess.preset, "%s", text);
    if (size >= (int)sizeof in->weights.preprocess.preset)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-PRESET", "preset: expected at most %zu bytes, found %d",
                          sizeof in->weights.preprocess.preset - 1, size);
    return DINOV_OK;
}

dinov_status dinov_import_open(dinov_import **out, const char *path, const dinov_import_options *options, dinov_error *err)
{
    static const dinov_import_options defaults = {0};
    const dinov_import_options       *o        = options ? options : &defaults;
    const dinov_reader_options        reading  = {.threads = o->threads, .unfenced = o->unfenced};
    dinov_status                      status;

    *out             = NULL;
    dinov_import *in = dinov_calloc(1, sizeof *in);
    if (!in) return dinov_fail_nomem(err, path, "the import");
    DINOV_TRY_GOTO(dinov_reader_open(&in->source, path, &reading, err));
    DINOV_TRY_GOTO(in->source.checkpoint ? take_checkpoint(in, o, err) : take_foreign(in, o, err));
    if (in->transforms) in->provenance.transforms = in->transforms;
    if (o->licence) in->provenance.licence = o->licence;
    if (o->origin) in->provenance.origin = o->origin;
    if (o->preset) DINOV_TRY_GOTO(set_preset(in, o->preset, err));
    *out = in;
    return DINOV_OK;
fail:
    dinov_import_close(&in);
    return status;
}

/* ---- What it is, by SHA-256 ---- */

/* The file whose digest the provenance gets: not our own, which says where its weights come from, and not an index of shards,
 * which is not the weights. */
static dinov_span source_file(const dinov_import *in)
{
    if (in->source.checkpoint || in->source.layout == DINOV_LAYOUT_SHARDS) return (dinov_span){0};
    return (dinov_span){in->source.map.data, in->source.map.size};
}

static void take_identity(dinov_import *in, const dinov_identity *found)
{
    in->identity = *found;
    if (*found->source_sha256) in->provenance.source_sha256 = in->identity.source_sha256;
}

dinov_status dinov_import_identify(dinov_import *in, int threads, dinov_error *err)
{
    dinov_identity found;
    DINOV_TRY(dinov_identity_find(&found, in->weights.tensors, in->weights.count, source_file(in), threads, err));
    take_identity(in, &found);
    return DINOV_OK;
}

dinov_status dinov_import_write(dinov_import *in, const char *path, const dinov_proof *proof, const dinov_write_options *options,
                                dinov_error *err)
{
    dinov_checkpoint_made made = {.source = source_file(in)};
    DINOV_TRY(dinov_checkpoint_make(path, &in->weights, &in->provenance, proof, options, &made, err));
    take_identity(in, &made.identity);
    return DINOV_OK;
}

void dinov_import_close(dinov_import **import)
{
    if (!import || !*import) return;
    dinov_survey_clear(&(*import)->survey);
    dinov_reader_close(&(*import)->source);
    dinov_free((*import)->transforms);
    dinov_free(*import);
    *import = NULL;
}

const dinov_weights    *dinov_import_weights(const dinov_import *import) { return &import->weights; }
const dinov_provenance *dinov_import_provenance(const dinov_import *import) { return &import->provenance; }
const dinov_reader     *dinov_import_source(const dinov_import *import) { return &import->source; }
const char             *dinov_import_note(const dinov_import *import, size_t index)
{
    return index < import->note_count ? import->notes[index] : NULL;
}
const char *dinov_import_content_id(const dinov_import *import)
{
    return *import->identity.content_id ? import->identity.content_id : NULL;
}
const dinov_proof *dinov_import_proof(const dinov_import *import) { return import->proof; }