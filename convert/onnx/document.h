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

/* `found`: what the graph says; numbers it does not say are 0. True: the document agrees, and *facts has what it adds. *resampled:
 * the graph holds positions of another grid than the trained one, so it was made for one size of picture. False, *facts untouched:
 * it does not, or it is none. ERR_NOMEM counts as none. */
bool dinov_onnx_document(dinov_facts *facts, bool *resampled, const dinov_model *found, const char *json, size_t size);

#endif
