/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/import.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "dinov/image.h"
#include "format/params.h"

#include <stdio.h>
#include <string.h>

struct dinov_import {
    dinov_reader       source;
    dinov_weights      weights;
    dinov_provenance   provenance;
    const dinov_proof *proof;
    char               sha256[DINOV_SHA_HEX + 1];
    char              *transforms;
};

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
    const dinov_interp *interp = o->recognise.interp;
    if (interp && (interp->offset != m->interp.offset || interp->antialias != m->interp.antialias)) {
        m->interp = *interp;
        in->proof = NULL;
        DINOV_TRY(add_transform(in, "interp", err));
    }
    return dinov_weights_check(&in->weights, in->source.where, err);
}

static dinov_status take_foreign(dinov_import *in, const dinov_import_options *o, dinov_error *err)
{
    const dinov_reader *s = &in->source;
    if (s->rewritten && !o->recognise.interp)
        return dinov_fail(
            err, DINOV_ERR_FORMAT, "SRC-REWRITTEN",
            "%s: was a dinov checkpoint and was written again by another tool, or its first bytes are damaged: its digests "
            "and settings no longer hold. Use the original, or take the tensors as they are with --interp RULE",
            s->where);
    in->weights = (dinov_weights){.tensors = s->tensors, .count = s->count, .map = s->map.data, .map_size = s->map.size};
    /* The caller's word, then the file's, then the hub's rule. */
    dinov_recognise_options how = o->recognise;
    if (!how.heads) how.heads = s->facts.heads;
    if (!(how.ln_eps > 0)) how.ln_eps = s->facts.ln_eps;
    if (!how.interp && s->facts.has_interp) how.interp = &s->facts.interp;
    DINOV_TRY(dinov_recognise(&in->weights.model, s->tensors, s->count, &how, s->where, err));
    if (s->facts.has_preprocess)
        in->weights.preprocess = s->facts.preprocess;
    else
        dinov_preprocess_default(&in->weights.preprocess, &in->weights.model);
    in->provenance = (dinov_provenance){.source_format = dinov_layout_name(s->layout),
                                        .source_sha256 = "",
                                        .converter     = "dinov-convert " DINOV_VERSION_STRING,
                                        .transforms    = "",
                                        .licence       = "",
                                        .origin        = ""};
    if (*s->facts.transforms) DINOV_TRY(add_transform(in, s->facts.transforms, err));
    if (s->torch.copied) DINOV_TRY(add_transform(in, "row-major", err));
    if (o->digest) {
        dinov_sha256 sha;
        DINOV_TRY(dinov_sha256_init(&sha, err));
        dinov_sha256_add(&sha, s->map.data, s->map.size);
        dinov_sha256_done(&sha, in->sha256);
        in->provenance.source_sha256 = in->sha256;
    }
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

void dinov_import_close(dinov_import **import)
{
    if (!import || !*import) return;
    dinov_reader_close(&(*import)->source);
    dinov_free((*import)->transforms);
    dinov_free(*import);
    *import = NULL;
}

const dinov_weights    *dinov_import_weights(const dinov_import *import) { return &import->weights; }
const dinov_provenance *dinov_import_provenance(const dinov_import *import) { return &import->provenance; }
const dinov_reader     *dinov_import_source(const dinov_import *import) { return &import->source; }
const dinov_proof      *dinov_import_proof(const dinov_import *import) { return import->proof; }
