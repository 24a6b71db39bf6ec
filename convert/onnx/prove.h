/* SPDX-License-Identifier: Apache-2.0
 *
 * Is a written graph right? Its outputs beside those of the source's weights in our own engine, size by size.
 */
#ifndef DINOV_CONVERT_ONNX_PROVE_H
#define DINOV_CONVERT_ONNX_PROVE_H

#include "convert/onnx/case.h"
#include "convert/onnx/ort.h"

/* Runs `graph` on cases at its size, or at several where it has none, and calls `note` for each output. ERR_CORRUPT GRAPH-PROOF
 * when one is further away than dinov_agreement_allowed, after all were noted. `engine` has the source's weights. */
dinov_status dinov_onnx_prove(dinov_ort *graph, dinov_engine *engine, const dinov_onnx_options *options, const char *where,
                              dinov_agreement_note *note, void *arg, dinov_error *err);

/* The same with the weights that come back from the graph, in our own engine. Where a size was baked in, `again` has that grid. */
dinov_status dinov_onnx_prove_weights(dinov_engine *again, dinov_engine *engine, const dinov_onnx_options *options,
                                      const char *where, dinov_agreement_note *note, void *arg, dinov_error *err);

#endif
