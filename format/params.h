/* SPDX-License-Identifier: Apache-2.0
 *
 * The parameter list: every tensor a model has, with its hub name and shape, from the model's
 * numbers alone. Format, converters, engine and trainer all walk this one list.
 */
#ifndef DINOV_FORMAT_PARAMS_H
#define DINOV_FORMAT_PARAMS_H

#include "base/fail.h"
#include "dinov/format.h"

enum { DINOV_PARAM_NAME = 64 };

typedef struct dinov_param {
    char    name[DINOV_PARAM_NAME]; /* "blocks.3.mlp.fc1.weight" */
    int     rank;
    int64_t dim[4];
} dinov_param;

/* Refuses numbers no model of this family has (dim % heads, sizes below 1 or beyond the caps of
 * spec/checkpoint.md). ERR_SHAPE, code MODEL-NUMBERS. `where` is the file for the message. */
dinov_status dinov_model_check(const dinov_model *model, const char *where, dinov_error *err);

/* The official evaluation transform, for a checked model. */
void dinov_preprocess_default(dinov_preprocess *out, const dinov_model *model);

/* Of a checked model. Index order is the hub's state_dict order. */
size_t dinov_param_count(const dinov_model *model);
void   dinov_param_at(const dinov_model *model, size_t index, dinov_param *out);

/* The tensors are exactly the model's: none missing (MODEL-MISSING), none left over (MODEL-LEFTOVER),
 * shapes equal (MODEL-SHAPE), all of one floating dtype each reader knows (MODEL-DTYPE: F32, F16, BF16).
 * ERR_SHAPE. Order does not matter; names are unique (the caller has checked). */
dinov_status dinov_weights_check(const dinov_weights *weights, const char *where, dinov_error *err);

#endif
