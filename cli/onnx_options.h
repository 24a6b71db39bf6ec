/* SPDX-License-Identifier: Apache-2.0
 *
 * The options of dinov-convert that shape an ONNX graph, as they stand on the command line.
 */
#ifndef DINOV_CLI_ONNX_OPTIONS_H
#define DINOV_CLI_ONNX_OPTIONS_H

#include "cli/tool.h"
#include "convert/onnx/vit.h"

typedef struct dinov_tool_onnx {
    const char *size, *features, *layers, *dtype, *names, *fuse; /* NULL: not given */
    int64_t     batch, opset;
    bool        dynamic_batch, dynamic_size, preprocess, external;
} dinov_tool_onnx;

/* True when any of them was given. */
bool dinov_tool_onnx_given(const dinov_tool_onnx *text);

/* 0, or prints a usage sentence and returns 64. Without --size and --dynamic-size the graph has the size the model's preset
 * gives every picture, or any if it gives several. */
int dinov_tool_onnx_read(const dinov_tool *tool, dinov_onnx_options *out, const dinov_tool_onnx *text,
                         const dinov_weights *weights);

#endif
