/* SPDX-License-Identifier: Apache-2.0
 *
 * Golden inputs and outputs of a graph as raw files in a folder, for runtimes that are not here: what TensorRT's
 * trtexec loads, the lines that run it, and the verdict on what it exported.
 */
#ifndef DINOV_CONVERT_ONNX_GOLDEN_H
#define DINOV_CONVERT_ONNX_GOLDEN_H

#include "convert/onnx/case.h"

#define DINOV_ONNX_GOLDEN "golden.json"

/* Writes the new folder `path`, which appears whole or not at all: the input and each output as little-endian values ("image.bin", "cls.bin"), golden.json
 * (names, types, shapes, dtype, content id), trtexec.txt. `graph` is the ONNX file's path, `size` the pixels used where the
 * graph has any size. ERR_IO (IO-EXISTS: it is there already), ERR_NOMEM. */
dinov_status dinov_onnx_golden_write(const char *path, const char *graph, dinov_engine *engine, const dinov_onnx_options *options,
                                     const char *content_id, dinov_error *err);

/* What trtexec --exportOutput wrote (JSON), beside the folder's outputs; allowed as for the graph's own type.
 * ERR_FORMAT: GOLDEN-FOLDER, GOLDEN-EXPORT; ERR_CORRUPT GOLDEN-DIFFERS, after all were noted. */
dinov_status dinov_onnx_golden_compare(const char *path, const char *exported, dinov_agreement_note *note, void *arg,
                                       dinov_error *err);

#endif
