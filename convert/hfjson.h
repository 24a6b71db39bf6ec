/* SPDX-License-Identifier: Apache-2.0
 *
 * The three JSON documents Hugging Face keeps beside tensors: config.json (the model in numbers),
 * preprocessor_config.json (its input) and model.safetensors.index.json (which shard holds what).
 */
#ifndef DINOV_CONVERT_HFJSON_H
#define DINOV_CONVERT_HFJSON_H

#include "base/fail.h"
#include "dinov/format.h"

#include <jansson.h>
#include <stdbool.h>

enum { DINOV_HF_JSON_MAX = 4 << 20 }; /* bytes of a document */

/* What config.json says; 0 where it says nothing. */
typedef struct dinov_hf_config {
    int64_t dim, depth, heads, patch, image, channels, registers;
    double  ln_eps;
} dinov_hf_config;

/* All three: ERR_FORMAT HF-JSON; ERR_LIMIT HF-LARGE; ERR_NOMEM. `where` is the document. */

/* Also ERR_FORMAT HF-CONFIG: not a DINOv2, or one that computes what we do not. */
dinov_status dinov_hf_config_read(dinov_hf_config *out, const void *json, size_t size, const char *where, dinov_error *err);
/* The tensors' model is the one config.json describes. ERR_FORMAT HF-CONFIG. */
dinov_status dinov_hf_config_check(const dinov_hf_config *config, const dinov_model *model, const char *where, dinov_error *err);

/* *said: it asks for something a preset can do; *out is only set then. */
dinov_status dinov_hf_preprocess_read(dinov_preprocess *out, bool *said, const void *json, size_t size, const char *where,
                                      dinov_error *err);

/* *map: an object of tensor names and file names, the caller's to json_decref. Also ERR_FORMAT HF-INDEX. */
dinov_status dinov_hf_index_read(json_t **map, const void *json, size_t size, const char *where, dinov_error *err);

#endif
