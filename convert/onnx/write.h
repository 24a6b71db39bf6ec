/* SPDX-License-Identifier: Apache-2.0
 *
 * A model as an ONNX file, and its large weights in a file beside it where protobuf's limit of 2 GiB asks for it.
 */
#ifndef DINOV_CONVERT_ONNX_WRITE_H
#define DINOV_CONVERT_ONNX_WRITE_H

#include "convert/onnx/vit.h"

typedef struct dinov_onnx_file {
    const char             *content_id; /* of the weights */
    const dinov_provenance *provenance;
    const dinov_proof      *proof;    /* NULL: none */
    bool                    external; /* also below the limit */
    bool                    overwrite;
} dinov_onnx_file;

/* Checked options (vit.h). The data file, if any, is named after the model and what it holds, "vits14-1a2b3c4d.data", and
 * appears first: a model that is there has its data. Its metadata hold the checkpoint's document (spec/checkpoint.md 4) under
 * "dinov". ERR_IO, ERR_NOMEM, ERR_CONFIG; ERR_LIMIT ONNX-LARGE. */
dinov_status dinov_onnx_write(const char *path, const dinov_weights *weights, const dinov_onnx_options *options,
                              const dinov_onnx_file *file, dinov_error *err);

#endif
