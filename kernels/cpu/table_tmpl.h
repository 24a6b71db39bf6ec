/* SPDX-License-Identifier: Apache-2.0
 *
 * The entries of an ops table that the templates replace.
 */

static void fill(dinov_ops *ops, const char *name)
{
    ops->name                       = name;
    ops->linear_size                = linear_size;
    ops->linear_bias_size           = linear_bias_size;
    ops->linear_pack                = linear_pack;
    ops->linear_pack_bias           = linear_pack_bias;
    ops->linear                     = linear;
    ops->linear_pack_transposed     = linear_pack_transposed;
    ops->linear_backward            = linear_backward;
    ops->layerscale_backward        = layerscale_backward;
    ops->layernorm                  = layernorm;
    ops->layernorm_backward         = layernorm_backward;
    ops->layernorm_backward_scratch = layernorm_backward_scratch;
    ops->attention                  = attention;
    ops->attention_scratch          = attention_scratch;
    ops->attention_backward         = attention_backward;
    ops->attention_backward_scratch = attention_backward_scratch;
    ops->activation                 = activation;
    ops->activation_backward        = activation_backward;
    ops->gather                     = gather;
    ops->scatter_add                = scatter_add;
    ops->column_sums                = column_sums;
    ops->normalize                  = normalize;
    ops->normalize_backward         = normalize_backward;
    ops->weight_norm                = weight_norm;
    ops->weight_norm_backward       = weight_norm_backward;
    ops->softmax_stats              = softmax_stats;
    ops->softmax_apply              = softmax_apply;
    ops->exp_sums                   = exp_sums;
    ops->cross_entropy              = cross_entropy;
    ops->koleo                      = koleo;
    ops->koleo_scratch              = koleo_scratch;
    ops->adamw                      = adamw;
    ops->ema                        = ema;
    ops->sum_squares                = sum_squares;
}
