/* SPDX-License-Identifier: Apache-2.0
 *
 * A model as Hugging Face keeps it: a folder of one safetensors file or several shards (or an older
 * pytorch_model.bin), with config.json and preprocessor_config.json beside them. In and out.
 */
#ifndef DINOV_CONVERT_HF_H
#define DINOV_CONVERT_HF_H

#include "convert/fence.h"
#include "convert/files.h"
#include "convert/hfjson.h"
#include "convert/tensors.h"

/* ---- In ---- */

/* The file that holds the weights of a folder, or of the folder whose config.json is given; any other path stands for itself.
 * *out is the caller's (dinov_free). ERR_FORMAT (HF-FOLDER), ERR_NOMEM. */
dinov_status dinov_hf_find(char **out, const char *path, dinov_error *err);
/* A folder that holds such a file, or config.json. */
bool dinov_hf_is_folder(const char *path);

typedef struct dinov_shards {
    dinov_tensors tensors; /* those of the index */
    struct dinov_shard {
        dinov_tensors              tensors; /* all there are */
        const dinov_named_tensor **sorted;
    } * items;
    size_t count;
} dinov_shards;

/* The tensors of a sharded model by its index, `json`; the shards stay mapped in `files`. Also cleared by the caller after a
 * failure. As convert/hfjson.h, convert/files.h and convert/safetensors.h; ERR_FORMAT HF-INDEX: a shard lacks a tensor. */
dinov_status dinov_shards_read(dinov_shards *out, dinov_files *files, const void *json, size_t size, const char *where,
                               dinov_error *err);
void         dinov_shards_clear(dinov_shards *shards);

/* What the two documents beside the weights `path` say. Links are followed, as the cache of Hugging Face's programs has them.
 * *fence: NONE (0) parses them in this process, anything else in a confined one, and becomes how it was confined. As
 * convert/hfjson.h and fence.h, ERR_IO; ERR_INTERNAL FENCE-ANSWER. */
typedef struct dinov_hf_beside {
    bool             has_config;
    dinov_hf_config  config;
    bool             has_preprocess; /* the document is there; `said`: and it asks for what a preset can do */
    bool             said;
    dinov_preprocess preprocess;
    char             where[DINOV_ESCAPED + 16]; /* config.json, for messages */
} dinov_hf_beside;
dinov_status dinov_hf_beside_read(dinov_hf_beside *out, const char *path, dinov_fence *fence, dinov_error *err);

/* ---- Out ---- */

/* Writes the folder `path`: config.json, preprocessor_config.json and model.safetensors, or an index and shards of at most
 * `shard_bytes` each (0: one file), under the names of transformers 4.x. The folder appears whole or not at all; with `overwrite`
 * one that holds such files and no others is replaced. ERR_SHAPE (HF-MODEL: numbers that config.json cannot say), ERR_IO. */
dinov_status dinov_hf_write(const char *path, const dinov_weights *weights, uint64_t shard_bytes, int overwrite, dinov_error *err);
/* True of the names of such files. */
bool dinov_hf_is_written(const char *name);

#endif
