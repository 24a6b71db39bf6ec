/* SPDX-License-Identifier: Apache-2.0
 *
 * From tensors under the hub's names to a model in numbers. Everything is read off names and shapes,
 * never off a file name; what shapes cannot say (heads, interpolation) follows the hub's rule or the
 * caller's word.
 */
#ifndef DINOV_CONVERT_RECOGNISE_H
#define DINOV_CONVERT_RECOGNISE_H

#include "base/fail.h"
#include "dinov/format.h"

/* Whose code is to be agreed with where the weights say nothing: the rule of position interpolation. */
typedef enum dinov_compat {
    DINOV_COMPAT_HUB  = 1, /* offset 0.1; with registers 0 and antialias */
    DINOV_COMPAT_HF   = 2, /* transformers: offset 0; with registers antialias too */
    DINOV_COMPAT_TIMM = 3, /* offset 0 and antialias */
} dinov_compat;

dinov_interp dinov_compat_rule(dinov_compat compat, int64_t registers); /* 0: the hub's */
/* "hub", "hf", "timm"; 0 for another word. */
dinov_compat dinov_compat_parse(const char *text);

typedef struct dinov_recognise_options {
    int64_t             heads;  /* 0 (default): dim / 64, as in every hub model */
    double              ln_eps; /* 0 (default): 1e-6, as in every hub model */
    const dinov_interp *interp; /* NULL (default): as `compat` has it */
    dinov_compat        compat; /* 0 (default): the hub's */
} dinov_recognise_options;

/* The model's numbers alone, from the few tensors that tell them; others may be missing or left over.
 * ERR_FORMAT: NAMES-UNKNOWN; ERR_SHAPE: MODEL-GRID, MODEL-HEADS, MODEL-FFN, MODEL-SHAPE. `options` may be NULL. */
dinov_status dinov_recognise_numbers(dinov_model *out, const dinov_named_tensor *tensors, size_t count,
                                     const dinov_recognise_options *options, const char *where, dinov_error *err);

/* The same, and proves that the tensors are exactly the model's (format/params.h: MODEL-*). */
dinov_status dinov_recognise(dinov_model *out, const dinov_named_tensor *tensors, size_t count,
                             const dinov_recognise_options *options, const char *where, dinov_error *err);

/* What the hub calls such a model, "dinov2_vitb14_reg", or its numbers: "vit d192 l4 h3 p16 r2". */
const char *dinov_model_name(char *out, size_t size, const dinov_model *model);

/* "0.1", "0,antialias", "0.1,antialias". ERR_CONFIG (INTERP) says what is allowed. */
dinov_status dinov_interp_parse(dinov_interp *out, const char *text, dinov_error *err);

#endif
