/* SPDX-License-Identifier: Apache-2.0
 *
 * The entries of an ops table that the templates replace.
 */

static void fill(dinov_ops *ops, const char *name)
{
    ops->name                   = name;
    ops->linear_size            = linear_size;
    ops->linear_bias_size       = linear_bias_size;
    ops->linear_pack            = linear_pack;
    ops->linear_pack_bias       = linear_pack_bias;
    ops->linear                 = linear;
    ops->linear_pack_transposed = linear_pack_transposed;
    ops->linear_backward        = linear_backward;
    ops->layernorm              = layernorm;
    ops->attention              = attention;
    ops->attention_scratch      = attention_scratch;
}
