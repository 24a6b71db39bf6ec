/* SPDX-License-Identifier: Apache-2.0
 *
 * What each instruction-set file offers: it replaces the entries of a table that starts as the reference.
 */
#ifndef DINOV_KERNELS_CPU_H
#define DINOV_KERNELS_CPU_H

#include "kernels/ops.h"

void dinov_ops_fill_avx2(dinov_ops *ops);
void dinov_ops_fill_avx512(dinov_ops *ops);

#endif
