/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes in an order in which each value is made before it is used.
 */
#ifndef DINOV_CONVERT_ONNX_ORDER_H
#define DINOV_CONVERT_ONNX_ORDER_H

#include "convert/onnx/wire.h"

/* ONNX demands this order and some tools do not keep it. With it, no walk back along makers can turn in a circle. Makers are known;
 * nodes are moved, and values follow. ERR_FORMAT ONNX-NAME: some nodes wait for each other; ERR_NOMEM. */
dinov_status dinov_onnx_order(dinov_onnx *model, dinov_error *err);

#endif
