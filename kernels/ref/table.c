/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

const dinov_ops DINOV_REF_TABLE = {
    .name              = "ref",
    .real_size         = sizeof(real),
    .linear_size       = REF(linear_size),
    .linear_bias_size  = REF(linear_bias_size),
    .linear_pack       = REF(linear_pack),
    .linear_pack_bias  = REF(linear_pack_bias),
    .linear            = REF(linear),
    .layernorm         = REF(layernorm),
    .attention         = REF(attention),
    .attention_scratch = REF(attention_scratch),
    .patchify          = REF(patchify),
    .resample          = REF(resample),
};
