/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/vit.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "model/pos_embed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { OPSET_BF16 = 22 };

/* The network in the making; x is [B, N, D], f32, everywhere between two blocks. */
struct net {
    dinov_onnx_graph         *g;
    const dinov_weights      *w;
    const dinov_model        *m;
    const dinov_onnx_options *o;
    int64_t                   tokens; /* of a picture; -1: known only when the graph runs */
    const char               *batch;  /* [1] of int64: pictures; NULL: one, known */
    dinov_status              status;
    dinov_error              *err;
};

static const char *op1(struct net *n, const char *name, const char *op, const char *x)
{
    return dinov_onnx_op(n->g, name, op, x, NULL);
}

static const char *op2(struct net *n, const char *name, const char *op, const char *x, const char *y)
{
    return dinov_onnx_op(n->g, name, op, x, y, NULL);
}

static const char *cast(struct net *n, const char *name, const char *x, dinov_dtype dtype)
{
    const char *y = op1(n, name, "Cast", x);
    dinov_onnx_set_int(n->g, "to", dinov_onnx_type(dtype));
    return y;
}

/* Between the f32 of the residual stream and the type of products. */
static const char *narrow(struct net *n, const char *name, const char *x)
{
    return n->o->dtype == DINOV_F32 ? x : cast(n, name, x, n->o->dtype);
}
static const char *widen(struct net *n, const char *name, const char *x)
{
    return n->o->dtype == DINOV_F32 ? x : cast(n, name, x, DINOV_F32);
}

static const char *reshape(struct net *n, const char *name, const char *x, const char *shape_name, int rank, const int64_t *shape)
{
    return op2(n, name, "Reshape", x, dinov_onnx_const_i64(n->g, shape_name, 1, rank, shape));
}

static const char *transpose(struct net *n, const char *name, const char *x, int rank, const int64_t *order)
{
    const char *y = op1(n, name, "Transpose", x);
    dinov_onnx_set_ints(n->g, "perm", rank, order);
    return y;
}

/* A tensor of the model as it is, as [dim]; its name is the hub's. */
static const char *weight_as(struct net *n, const char *name, dinov_dtype dtype, int rank, const int64_t *dim)
{
    const dinov_tensor *t = dinov_weights_find(n->w, name);
    dinov_onnx_weight   w = {.name = name, .dtype = dtype, .rank = rank, .source = t};
    for (int i = 0; i < rank; i++) w.dim[i] = dim[i];
    return dinov_onnx_weigh(n->g, &w);
}

static const char *vector(struct net *n, const char *name, dinov_dtype dtype)
{
    const dinov_tensor *t = dinov_weights_find(n->w, name);
    return weight_as(n, name, dtype, 1, &t->dim[0]);
}

static char *scoped(struct net *n, const char *name) { return dinov_onnx_print(n->g, "%s%s", n->g->scope, name); }

/* x W^T + b. The product wants [in, out], where the model stores [out, in]. */
static const char *linear(struct net *n, const char *name, const char *x, bool bias)
{
    char *full    = dinov_onnx_print(n->g, "%s%s.weight", n->g->scope, name);
    char *b       = dinov_onnx_print(n->g, "%s%s.bias", n->g->scope, name);
    char *turned  = dinov_onnx_print(n->g, "%s%s.weight.T", n->g->scope, name);
    char *product = dinov_onnx_print(n->g, "%s.product", name);
    if (n->g->failed) return "";
    const dinov_tensor *t = dinov_weights_find(n->w, full);
    dinov_onnx_weight   w = {turned, n->o->dtype, 2, {t->dim[1], t->dim[0]}, t, 0, true, NULL, NULL};
    const char         *y = op2(n, bias ? product : name, "MatMul", x, dinov_onnx_weigh(n->g, &w));
    return bias ? op2(n, name, "Add", y, vector(n, b, n->o->dtype)) : y;
}

static const char *layer_norm(struct net *n, const char *out, const char *x, const char *weight, const char *bias)
{
    const char *y =
        dinov_onnx_op(n->g, out, "LayerNormalization", x, vector(n, weight, DINOV_F32), vector(n, bias, DINOV_F32), NULL);
    dinov_onnx_set_int(n->g, "axis", -1);
    dinov_onnx_set_float(n->g, "epsilon", (float)n->m->ln_eps);
    return y;
}

static const char *block_norm(struct net *n, const char *name, const char *x)
{
    char *weight = dinov_onnx_print(n->g, "%s%s.weight", n->g->scope, name),
         *bias   = dinov_onnx_print(n->g, "%s%s.bias", n->g->scope, name);
    if (n->g->failed) return "";
    char *narrowed = dinov_onnx_print(n->g, "%s.cast", name);
    return narrow(n, narrowed, layer_norm(n, name, x, weight, bias));
}

/* x + gamma * y */
static const char *residual(struct net *n, const char *name, const char *x, const char *y, const char *gamma)
{
    char *wide = dinov_onnx_print(n->g, "%s.cast", name), *scaled = dinov_onnx_print(n->g, "%s.scaled", name);
    char *full = scoped(n, gamma);
    if (n->g->failed) return "";
    y = widen(n, wide, y);
    if (n->m->layerscale) y = op2(n, scaled, "Mul", y, vector(n, full, DINOV_F32));
    return op2(n, name, "Add", x, y);
}

static const char *constant(struct net *n, const char *name, double value)
{
    float v = (float)value;
    return dinov_onnx_const_f32(n->g, name, n->o->dtype, 1, &v, 0, NULL);
}

/* softmax(q k^T / sqrt(d)) v. The scale goes to q and k, by halves: their product stays within an f16 where the scores
 * themselves would not. */
static const char *attention(struct net *n, const char *x)
{
    const int64_t D = n->m->dim, H = n->m->heads, d = D / H;
    const int64_t parts[3] = {D, D, D}, apart[4] = {0, 0, H, d}, together[3] = {0, 0, D};
    const int64_t rows[4] = {0, 2, 1, 3}, columns[4] = {0, 2, 3, 1};
    const char   *scale, *y;

    const char *qkv = linear(n, "attn.qkv", x, n->m->qkv_bias);
    const char *q   = dinov_onnx_op(n->g, "attn.q_rows", "Split", qkv, dinov_onnx_const_i64(n->g, "attn.parts", 1, 3, parts), NULL);
    dinov_onnx_set_int(n->g, "axis", -1);
    const char *k = dinov_onnx_output(n->g, "attn.k_rows"), *v = dinov_onnx_output(n->g, "attn.v_rows");

    if (n->o->fuse) {
        y = dinov_onnx_op(n->g, "attn.rows", "MultiHeadAttention", q, k, v, NULL);
        dinov_onnx_domain(n->g, "com.microsoft");
        dinov_onnx_set_int(n->g, "num_heads", H);
        return linear(n, "attn.proj", y, true);
    }
    q     = transpose(n, "attn.q", reshape(n, "attn.q_heads", q, "attn.apart", 4, apart), 4, rows);
    k     = transpose(n, "attn.k", reshape(n, "attn.k_heads", k, "attn.apart", 4, apart), 4, columns);
    v     = transpose(n, "attn.v", reshape(n, "attn.v_heads", v, "attn.apart", 4, apart), 4, rows);
    scale = constant(n, "attn.scale", pow((double)d, -0.25));
    const char *score =
        op2(n, "attn.scores", "MatMul", op2(n, "attn.q_scaled", "Mul", q, scale), op2(n, "attn.k_scaled", "Mul", k, scale));
    const char *share = op1(n, "attn.softmax", "Softmax", widen(n, "attn.scores.cast", score));
    dinov_onnx_set_int(n->g, "axis", -1);
    y = op2(n, "attn.heads", "MatMul", narrow(n, "attn.softmax.cast", share), v);
    y = reshape(n, "attn.joined", transpose(n, "attn.rows", y, 4, rows), "attn.together", 3, together);
    return linear(n, "attn.proj", y, true);
}

/* x * (1 + erf(x / sqrt(2))) / 2 */
static const char *gelu(struct net *n, const char *x)
{
    if (n->o->opset >= 20) return op1(n, "mlp.gelu", "Gelu", x);
    const char *y = op1(n, "mlp.erf", "Erf", op2(n, "mlp.erf_in", "Div", x, constant(n, "mlp.sqrt2", sqrt(2))));
    y             = op2(n, "mlp.gate", "Mul", x, op2(n, "mlp.erf_1", "Add", y, constant(n, "mlp.one", 1)));
    return op2(n, "mlp.gelu", "Mul", y, constant(n, "mlp.half", 0.5));
}

static const char *mlp(struct net *n, const char *x)
{
    const int64_t parts[2] = {n->m->hidden, n->m->hidden};
    if (n->m->ffn == DINOV_FFN_MLP) return linear(n, "mlp.fc2", gelu(n, linear(n, "mlp.fc1", x, true)), true);
    const char *both = linear(n, "mlp.w12", x, true);
    const char *a    = dinov_onnx_op(n->g, "mlp.a", "Split", both, dinov_onnx_const_i64(n->g, "mlp.parts", 1, 2, parts), NULL);
    dinov_onnx_set_int(n->g, "axis", -1);
    const char *b    = dinov_onnx_output(n->g, "mlp.b");
    const char *silu = op2(n, "mlp.silu", "Mul", a, op1(n, "mlp.sigmoid", "Sigmoid", a));
    return linear(n, "mlp.w3", op2(n, "mlp.hidden", "Mul", silu, b), true);
}

static const char *block(struct net *n, const char *x, int64_t index)
{
    snprintf(n->g->scope, sizeof n->g->scope, "blocks.%lld.", (long long)index);
    x            = residual(n, "attn", x, attention(n, block_norm(n, "norm1", x)), "ls1.gamma");
    x            = residual(n, "mlp", x, mlp(n, block_norm(n, "norm2", x)), "ls2.gamma");
    *n->g->scope = '\0';
    return x;
}

/* ---- Pixels to tokens ---- */

/* uint8 [B, H, W, 3] as torchvision's ToTensor and Normalize take it. */
static const char *prepare(struct net *n, const char *image)
{
    const dinov_preprocess *p       = &n->w->preprocess;
    const int64_t           last[4] = {1, 1, 1, 3}, order[4] = {0, 3, 1, 2};
    float                   full = 255;
    snprintf(n->g->scope, sizeof n->g->scope, "preprocess.");
    const char *x = cast(n, "pixels", image, DINOV_F32);
    x             = op2(n, "unit", "Div", x, dinov_onnx_const_f32(n->g, "255", DINOV_F32, 1, &full, 0, NULL));
    x             = op2(n, "centred", "Sub", x, dinov_onnx_const_f32(n->g, "mean", DINOV_F32, 3, p->mean, 4, last));
    x             = op2(n, "normal", "Div", x, dinov_onnx_const_f32(n->g, "std", DINOV_F32, 3, p->std, 4, last));
    x             = transpose(n, "planes", x, 4, order);
    *n->g->scope  = '\0';
    return x;
}

/* [1, rows, D] of the model's, for every picture of the batch. */
static const char *for_all(struct net *n, const char *name, const char *x, int64_t rows)
{
    const int64_t shape[3] = {n->o->batch, rows, n->m->dim};
    if (n->o->batch == 1) return x;
    if (n->o->batch > 1)
        return op2(n, name, "Expand", x, dinov_onnx_const_i64(n->g, dinov_onnx_print(n->g, "%s.shape", name), 1, 3, shape));
    const char *size = dinov_onnx_op(n->g, dinov_onnx_print(n->g, "%s.size", name), "Concat", n->batch,
                                     dinov_onnx_const_i64(n->g, dinov_onnx_print(n->g, "%s.one", name), 1, 2, shape + 1), NULL);
    dinov_onnx_set_int(n->g, "axis", 0);
    return op2(n, name, "Expand", x, size);
}

/* The table resampled now, for one size. */
static const char *baked_positions(struct net *n, const dinov_tensor *table)
{
    const dinov_model *m = n->m;
    int64_t            h = n->o->height / m->patch, w = n->o->width / m->patch, D = m->dim, gh = m->grid_h, gw = m->grid_w;
    const int64_t      dim[3] = {1, h * w, D};
    float             *out    = dinov_onnx_take(n->g, (size_t)(h * w * D) * sizeof *out);
    double            *rows   = dinov_onnx_take(n->g, (size_t)(h * gh) * sizeof *rows),
           *columns           = dinov_onnx_take(n->g, (size_t)(w * gw) * sizeof *columns);
    double *line              = dinov_onnx_take(n->g, (size_t)(gw * D) * sizeof *line);
    if (n->g->failed) return "";
    dinov_pos_weights(rows, h, gh, &m->interp, false);
    dinov_pos_weights(columns, w, gw, &m->interp, false);
    for (int64_t y = 0; y < h; y++) {
        for (int64_t i = 0; i < gw * D; i++) {
            line[i] = 0;
            for (int64_t j = 0; j < gh; j++)
                if (rows[y * gh + j] != 0) line[i] += rows[y * gh + j] * dinov_value_at(table, (1 + j * gw) * D + i);
        }
        for (int64_t x = 0; x < w; x++)
            for (int64_t c = 0; c < D; c++) {
                double sum = 0;
                for (int64_t j = 0; j < gw; j++)
                    if (columns[x * gw + j] != 0) sum += columns[x * gw + j] * line[j * D + c];
                out[(y * w + x) * D + c] = (float)sum;
            }
    }
    dinov_onnx_weight baked = {
        .name = "pos_embed.resampled", .dtype = DINOV_F32, .rank = 3, .dim = {dim[0], dim[1], dim[2]}, .bytes = out};
    return dinov_onnx_weigh(n->g, &baked);
}

/* Position embeddings of the patches, f32 [1, h * w, D]. `patches` is [B, D, h, w]. */
static const char *positions(struct net *n, const char *patches)
{
    const dinov_model  *m      = n->m;
    const dinov_tensor *table  = dinov_weights_find(n->w, "pos_embed");
    const int64_t       dim[3] = {1, m->grid_h * m->grid_w, m->dim}, two = 2, three = 3;
    dinov_tensor       *grid  = dinov_onnx_take(n->g, sizeof *grid);
    bool                fixed = n->o->height > 0;

    if (fixed && !dinov_pos_is_trained_grid(m, n->o->height / m->patch, n->o->width / m->patch)) return baked_positions(n, table);
    if (!grid) return "";
    /* Rows from the second on: those of the patches. */
    *grid               = (dinov_tensor){table->data, table->dtype, 2, {1 + m->grid_h * m->grid_w, m->dim}};
    dinov_onnx_weight w = {.name = "pos_embed.patches", .dtype = DINOV_F32, .rank = 3, .source = grid, .first_row = 1};
    for (int i = 0; i < 3; i++) w.dim[i] = dim[i];
    const char *name = dinov_onnx_weigh(n->g, &w);
    if (fixed) return name;
    const char *shape = op1(n, "positions.shape", "Shape", patches);
    const char *rows  = op2(n, "positions.grid_rows", "Gather", shape, dinov_onnx_const_i64(n->g, "positions.second", 0, 1, &two));
    const char *cols =
        op2(n, "positions.grid_columns", "Gather", shape, dinov_onnx_const_i64(n->g, "positions.third", 0, 1, &three));
    return dinov_onnx_positions(n->g, n->w, name, rows, cols);
}

static const char *embed(struct net *n, const char *image)
{
    const dinov_model *m         = n->m;
    const int64_t      kernel[2] = {m->patch, m->patch}, flat[3] = {0, m->dim, -1}, order[3] = {0, 2, 1}, one[3] = {1, 1, m->dim};
    const int64_t      patch[4] = {m->dim, m->channels, m->patch, m->patch}, zero = 0;

    if (n->o->preprocess) image = prepare(n, image);
    const char *x = dinov_onnx_op(n->g, "patch_embed.proj", "Conv", narrow(n, "patch_embed.cast", image),
                                  weight_as(n, "patch_embed.proj.weight", n->o->dtype, 4, patch),
                                  vector(n, "patch_embed.proj.bias", n->o->dtype), NULL);
    dinov_onnx_set_ints(n->g, "kernel_shape", 2, kernel);
    dinov_onnx_set_ints(n->g, "strides", 2, kernel);
    if (n->o->batch == 0) {
        const char *shape = op1(n, "patch_embed.shape", "Shape", x);
        n->batch = op2(n, "patch_embed.batch", "Gather", shape, dinov_onnx_const_i64(n->g, "patch_embed.first", 1, 1, &zero));
    }
    const char *table = positions(n, x);
    x = transpose(n, "patch_embed.tokens", reshape(n, "patch_embed.flat", x, "patch_embed.rows", 3, flat), 3, order);
    x = op2(n, "tokens.patches", "Add", widen(n, "tokens.cast", x), table);

    /* The class token has the table's first row; registers have no position. */
    dinov_onnx_weight row = {
        .name = "pos_embed.cls", .dtype = DINOV_F32, .rank = 3, .source = dinov_weights_find(n->w, "pos_embed")};
    dinov_tensor *first = dinov_onnx_take(n->g, sizeof *first);
    if (!first) return "";
    *first     = (dinov_tensor){row.source->data, row.source->dtype, 2, {1, m->dim}};
    row.source = first;
    for (int i = 0; i < 3; i++) row.dim[i] = one[i];
    const char *cls = op2(n, "tokens.cls", "Add", weight_as(n, "cls_token", DINOV_F32, 3, one), dinov_onnx_weigh(n->g, &row));
    cls             = for_all(n, "tokens.cls.all", cls, 1);
    if (m->registers) {
        const int64_t some[3] = {1, m->registers, m->dim};
        const char   *reg     = for_all(n, "tokens.reg.all", weight_as(n, "register_tokens", DINOV_F32, 3, some), m->registers);
        x                     = dinov_onnx_op(n->g, "tokens", "Concat", cls, reg, x, NULL);
    } else {
        x = dinov_onnx_op(n->g, "tokens", "Concat", cls, x, NULL);
    }
    dinov_onnx_set_int(n->g, "axis", 1);
    return x;
}

/* ---- Outputs ---- */

static size_t ports_of_layer(const dinov_onnx_options *o) { return o->hf_names ? 2 : (size_t)(o->cls + o->reg + o->patch); }

size_t dinov_onnx_feature_count(const dinov_onnx_options *o) { return (size_t)o->layer_count * ports_of_layer(o); }

void dinov_onnx_feature_at(dinov_onnx_feature *out, const dinov_onnx_options *o, const dinov_model *m, size_t i)
{
    static const char *const names[]  = {"cls", "reg", "patch"};
    const bool               wanted[] = {o->cls, o->reg, o->patch};
    int                      kind     = -1, layer;
    *out                              = (dinov_onnx_feature){.index = (int)(i / ports_of_layer(o))};
    layer                             = o->layers[out->index];
    i %= ports_of_layer(o);
    if (o->hf_names) {
        out->kind = i == 0 ? DINOV_ONNX_TOKENS : DINOV_ONNX_CLS;
        snprintf(out->name, sizeof out->name, "%s", i == 0 ? "last_hidden_state" : "pooler_output");
        return;
    }
    do kind++;
    while (!wanted[kind] || i-- > 0);
    out->kind = (dinov_onnx_kind)kind;
    if (layer == m->depth - 1)
        snprintf(out->name, sizeof out->name, "%s", names[kind]);
    else
        snprintf(out->name, sizeof out->name, "%s.L%02d", names[kind], layer);
}

static void take(struct net *n, const dinov_onnx_feature *port, const char *y)
{
    static const char *const names[3] = {"batch", "tokens", NULL}, *const patches[3] = {"batch", "patches", NULL};
    const int64_t R = n->m->registers, zero = 0, axis = 1, before = 1 + R, batch = n->o->batch ? n->o->batch : -1;
    const int64_t from = port->kind == DINOV_ONNX_REG ? 1 : before, to = port->kind == DINOV_ONNX_REG ? before : INT64_MAX;
    int64_t       dim[3] = {batch, n->tokens < 0 ? -1 : n->tokens - before, n->m->dim};

    if (port->kind == DINOV_ONNX_CLS) {
        op2(n, port->name, "Gather", y, dinov_onnx_const_i64(n->g, "outputs.first", 0, 1, &zero));
        dinov_onnx_set_int(n->g, "axis", 1);
        dim[1] = n->m->dim;
        dinov_onnx_port(n->g, false, port->name, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, 2, dim, names);
        return;
    }
    if (port->kind == DINOV_ONNX_TOKENS) {
        dim[1] = n->tokens;
    } else {
        const char *first =
            dinov_onnx_const_i64(n->g, port->kind == DINOV_ONNX_REG ? "outputs.second" : "outputs.patches", 1, 1, &from);
        const char *end = dinov_onnx_const_i64(n->g, port->kind == DINOV_ONNX_REG ? "outputs.reg_end" : "outputs.end", 1, 1, &to);
        dinov_onnx_op(n->g, port->name, "Slice", y, first, end, dinov_onnx_const_i64(n->g, "outputs.axis", 1, 1, &axis), NULL);
        if (port->kind == DINOV_ONNX_REG) dim[1] = R;
    }
    dinov_onnx_port(n->g, false, port->name, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, 3, dim,
                    port->kind == DINOV_ONNX_TOKENS ? names : patches);
}

/* The outputs of one layer, after the final norm. */
static void give(struct net *n, const char *x, int index)
{
    dinov_onnx_feature port;
    char              *name = dinov_onnx_print(n->g, "norm.L%02d", n->o->layers[index]);
    if (n->g->failed) return;
    const char *y = layer_norm(n, n->o->hf_names ? "last_hidden_state" : name, x, "norm.weight", "norm.bias");
    for (size_t i = 0; i < ports_of_layer(n->o); i++) {
        dinov_onnx_feature_at(&port, n->o, n->m, (size_t)index * ports_of_layer(n->o) + i);
        take(n, &port, y);
    }
}

static const char *input(struct net *n)
{
    static const char *const planes[4] = {"batch", NULL, "height", "width"}, *const pixels[4] = {"batch", "height", "width", NULL};
    const dinov_onnx_options *o    = n->o;
    const char               *name = o->hf_names ? "pixel_values" : "image";
    int64_t                   B = o->batch ? o->batch : -1, h = o->height ? o->height : -1, w = o->width ? o->width : -1;
    const int64_t             chw[4] = {B, n->m->channels, h, w}, hwc[4] = {B, h, w, n->m->channels};
    if (o->preprocess)
        dinov_onnx_port(n->g, true, name, ONNX__TENSOR_PROTO__DATA_TYPE__UINT8, 4, hwc, pixels);
    else
        dinov_onnx_port(n->g, true, name, ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT, 4, chw, planes);
    return name;
}

dinov_status dinov_onnx_vit(dinov_onnx_graph *g, const dinov_weights *weights, const dinov_onnx_options *o, dinov_error *err)
{
    const dinov_model *m = &weights->model;
    struct net         n = {.g = g, .w = weights, .m = m, .o = o, .tokens = -1};
    if (o->height) n.tokens = 1 + m->registers + o->height / m->patch * (o->width / m->patch);

    g->proto.name = dinov_onnx_print(g, "%s", "dinov2");
    const char *x = embed(&n, input(&n));
    for (int64_t i = 0; i < m->depth && !g->failed; i++) {
        x = block(&n, x, i);
        for (int j = 0; j < o->layer_count; j++)
            if (o->layers[j] == i) give(&n, x, j);
    }
    return g->failed ? dinov_fail_nomem(err, "ONNX", "the graph") : DINOV_OK;
}

static int ascending(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return x < y ? -1 : x > y;
}

dinov_status dinov_onnx_options_check(dinov_onnx_options *o, const dinov_model *m, const char *where, dinov_error *err)
{
    if (!o->dtype) o->dtype = DINOV_F32;
    if (!o->opset) o->opset = o->dtype == DINOV_BF16 ? OPSET_BF16 : DINOV_ONNX_OPSET_MIN;
    if (!o->hf_names && !o->cls && !o->patch && !o->reg) o->cls = o->patch = true;
    if (!o->layer_count) o->layers[o->layer_count++] = (int)m->depth - 1;
    if (o->opset < DINOV_ONNX_OPSET_MIN || o->opset > DINOV_ONNX_OPSET_MAX)
        return dinov_fail(err, DINOV_ERR_CONFIG, "GRAPH-OPSET", "opset: expected %d to %d, found %d", DINOV_ONNX_OPSET_MIN,
                          DINOV_ONNX_OPSET_MAX, o->opset);
    if (o->dtype == DINOV_BF16 && o->opset < OPSET_BF16)
        return dinov_fail(err, DINOV_ERR_CONFIG, "GRAPH-OPSET",
                          "opset: expected at least %d for bf16, whose Conv older ones lack, found %d", OPSET_BF16, o->opset);
    if (o->height % m->patch || o->width % m->patch || !o->height != !o->width || o->height > 65535 || o->width > 65535)
        return dinov_fail(err, DINOV_ERR_CONFIG, "GRAPH-SIZE",
                          "%s: size: expected multiples of the patch, %lld, up to 65535, found %lldx%lld", where,
                          (long long)m->patch, (long long)o->height, (long long)o->width);
    if (o->reg && !m->registers)
        return dinov_fail(err, DINOV_ERR_CONFIG, "GRAPH-OUTPUT", "%s: output reg: this model has no register tokens", where);
    if (o->hf_names && (o->cls || o->patch || o->reg || o->layer_count > 1 || o->layers[0] != m->depth - 1))
        return dinov_fail(
            err, DINOV_ERR_CONFIG, "GRAPH-OUTPUT",
            "names hf: the outputs are last_hidden_state and pooler_output; expected no features and no layers beside it");
    for (int i = 0; i < o->layer_count; i++) {
        if (o->layers[i] < 0) o->layers[i] += (int)m->depth;
        bool again = false;
        for (int j = 0; j < i; j++) again = again || o->layers[j] == o->layers[i];
        if (o->layers[i] < 0 || o->layers[i] >= m->depth || again)
            return dinov_fail(err, DINOV_ERR_CONFIG, "GRAPH-LAYER",
                              "%s: layers: expected different ones of %lld blocks, found another", where, (long long)m->depth);
    }
    qsort(o->layers, (size_t)o->layer_count, sizeof o->layers[0], ascending);
    if (m->grid_h != m->grid_w)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "GRAPH-MODEL", "%s: expected a square trained grid, found %lld x %lld", where,
                          (long long)m->grid_h, (long long)m->grid_w);
    return DINOV_OK;
}
