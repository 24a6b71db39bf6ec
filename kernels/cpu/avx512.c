/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU kernels for AVX512: the templates over its vector words. Compiled with its own flags.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/math_tmpl.h"
#include "kernels/cpu/linear_tmpl.h"
#include "kernels/cpu/norm_tmpl.h"
#include "kernels/cpu/attention_tmpl.h"

void dinov_ops_fill_avx512(dinov_ops *ops)
{
    ops->name              = "avx512";
    ops->linear_size       = linear_size;
    ops->linear_bias_size  = linear_bias_size;
    ops->linear_pack       = linear_pack;
    ops->linear_pack_bias  = linear_pack_bias;
    ops->linear            = linear;
    ops->layernorm         = layernorm;
    ops->attention         = attention;
    ops->attention_scratch = attention_scratch;
}
