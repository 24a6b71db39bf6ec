/* SPDX-License-Identifier: Apache-2.0
 *
 * What an ONNX model says of itself in metadata_props under "dinov": a JSON document whose `model` and `preprocess` are
 * those of a checkpoint (spec/checkpoint.md 5 and 6). Anyone may have written it, and the graph may have been changed
 * since, so it is believed only where it agrees with the graph.
 */
#ifndef DINOV_CONVERT_ONNX_DOCUMENT_H
#define DINOV_CONVERT_ONNX_DOCUMENT_H

#include "convert/source.h"

#include <stdbool.h>

/* `found`: what the graph says; numbers it does not say are 0. *agrees: the document fits, and *facts has what it adds; otherwise
 * *facts is untouched. *resampled: the graph holds positions of another grid than the trained one, so it was made for one
 * size of picture. ERR_NOMEM alone: a document that is none is no failure. */
dinov_status dinov_onnx_document(dinov_facts *facts, bool *agrees, bool *resampled, const dinov_model *found, const char *json,
                                 size_t size, const char *where, dinov_error *err);

#endif
