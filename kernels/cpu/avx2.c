/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU kernels for AVX2: the templates over its vector words. Compiled with its own flags.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/math_tmpl.h"
#include "kernels/cpu/linear_tmpl.h"
#include "kernels/cpu/rows_tmpl.h"
#include "kernels/cpu/norm_tmpl.h"
#include "kernels/cpu/attention_tmpl.h"
#include "kernels/cpu/activation_tmpl.h"
#include "kernels/cpu/proto_tmpl.h"
#include "kernels/cpu/optim_tmpl.h"
#include "kernels/cpu/table_tmpl.h"

void dinov_ops_fill_avx2(dinov_ops *ops) { fill(ops, "avx2"); }
