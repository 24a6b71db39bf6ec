/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights ready to run or to convert, out of any file we read: the source's tensors, the model
 * recognised from them, and where they come from. Nothing is copied that lies well in the file.
 */
#ifndef DINOV_CONVERT_IMPORT_H
#define DINOV_CONVERT_IMPORT_H

#include "convert/names.h"
#include "convert/recognise.h"
#include "convert/source.h"

/* What a source is, as far as it can be told: every name's place, then the model, then the proof that nothing is missing or left.
 * Nothing is copied yet. */
typedef struct dinov_survey {
    dinov_names     names;
    dinov_hf_beside beside; /* of Hugging Face's weights */
    dinov_model     model;
    bool            has_model; /* also while tensors are missing or left over */
} dinov_survey;

/* After a failure *out holds what was found until then, and is also cleared by the caller. `options` may be NULL. Errors:
 * convert/names.h, recognise.h, hfjson.h, ERR_SHAPE MODEL-*. */
dinov_status dinov_survey_make(dinov_survey *out, const dinov_reader *source, const dinov_recognise_options *options,
                               dinov_error *err);
void         dinov_survey_clear(dinov_survey *survey);
/* What the model, which is known, expects of its input: as the source says, else the official evaluation transform. False: the
 * source asks for something that no preset does. */
bool dinov_survey_preprocess(dinov_preprocess *out, const dinov_survey *survey, const dinov_reader *source);

typedef struct dinov_import dinov_import;

typedef struct dinov_import_options {
    dinov_recognise_options recognise; /* also override what our own file says of itself */
    int                     threads;   /* 0 (default): all cores */
    int                     unfenced; /* 1: a foreign file is read in this process (default 0: in a confined one, fence.h) */
    const char             *licence;   /* NULL (default): as the source says, or unknown */
    const char             *origin;    /* likewise */
    const char             *preset;    /* dinov_preset_parse; NULL (default): as the source says, or the official eval:224 */
} dinov_import_options;

/* `options` may be NULL. On success *out is owned by the caller. Errors: source.h, recognise.h,
 * and ERR_FORMAT SRC-REWRITTEN unless an interpolation rule is given; ERR_CONFIG OPT-PRESET for a preset that is none, or that this
 * model's patch cannot have. */
dinov_status dinov_import_open(dinov_import **out, const char *path, const dinov_import_options *options, dinov_error *err);
/* NULL, or a pointer to NULL, is allowed; *import becomes NULL. */
void dinov_import_close(dinov_import **import);

/* All valid until close. */
const dinov_weights    *dinov_import_weights(const dinov_import *import);
const dinov_provenance *dinov_import_provenance(const dinov_import *import);
const dinov_reader     *dinov_import_source(const dinov_import *import);
/* What its owner should know of how it was read, a sentence each; NULL after the last. */
const char *dinov_import_note(const dinov_import *import, size_t index);
/* Finds the content id, and for the provenance the SHA-256 of a foreign file. `threads` 0: all cores. */
dinov_status dinov_import_identify(dinov_import *import, int threads, dinov_error *err);
/* The same while a checkpoint is written, as dinov_checkpoint_write does. */
dinov_status dinov_import_write(dinov_import *import, const char *path, const dinov_proof *proof,
                                const dinov_write_options *options, dinov_error *err);
/* NULL until one of these has found it. */
const char *dinov_import_content_id(const dinov_import *import);
/* The golden vectors our own file carries, while its model is taken as it says; NULL otherwise. */
const dinov_proof *dinov_import_proof(const dinov_import *import);

#endif
