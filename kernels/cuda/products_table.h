/* SPDX-License-Identifier: Apache-2.0
 *
 * What was measured to be fastest. A row of products:
 *   {sm, real, n, k, activation, residual, provider, {id, tile, stages, swizzle, custom, inner, cluster}},
 *   sm        80, 90, 100: of the device
 *   real      DINOV_BF16, DINOV_F16, DINOV_F32
 *   n, k      of the weight; with SwiGLU n counts gates and values
 *   activation, residual (true, false)   of the layer
 *   provider  DINOV_PRODUCT_OWN, or DINOV_PRODUCT_CUBLASLT with an algorithm in its numbers; where the library at hand
 *             does not take those, the row counts as absent
 * A row of attention: {sm, real, tokens}, from so many tokens on by cuDNN.
 *
 * Both are empty: nothing has been measured.
 */
static const dinov_product_row product_rows[] = {
    {0}, /* ends the table */
};

static const struct {
    int         sm;
    dinov_dtype real;
    int64_t     tokens;
} attention_rows[] = {
    {0}, /* ends the table */
};
