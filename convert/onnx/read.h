/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights out of an ONNX graph, under the hub's names: the file is walked where it lies (wire.h), what is constant is
 * found (constants.h), the model is found in it by structure (match.h), and its tensors are given the hub's shapes.
 */
#ifndef DINOV_CONVERT_ONNX_READ_H
#define DINOV_CONVERT_ONNX_READ_H

#include "convert/source.h"

/* Tensors are views into `data` and the files beside it where they lie as the hub has them, copies otherwise. `facts`
 * gets what the graph says of the model: heads, epsilon, how positions are resized; and in `transforms`
 *   mask_token-zeros   the graph has no mask token, and features do not depend on it
 *   layerscale-ones    some blocks have no LayerScale: theirs is 1
 *   class-position-zeros   the class token has no position of its own
 *   bias-zeros         q, k or v has no bias while another has: theirs is 0
 *   document-ignored  what the file says of itself under "dinov" does not fit the graph
 *   positions-resampled  the graph was made for one size of picture and holds positions of its grid, not the trained one
 *   input-nodes        nodes before the patch embedding were left out: they prepare pictures, as dinov-infer does
 * Errors: wire.h, constants.h, match.h, and ONNX-STRUCTURE, ONNX-GRID (ERR_SHAPE). Appends to *out, which is empty; it
 * is to be cleared also after a failure. */
dinov_status dinov_onnx_read(dinov_tensors *out, dinov_facts *facts, dinov_files *files, const void *data, size_t size,
                             const char *where, dinov_error *err);

#endif
