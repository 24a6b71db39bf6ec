/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/read.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/text.h"
#include "convert/onnx/document.h"
#include "convert/onnx/match.h"
#include "format/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reading {
    dinov_tensors        *out;
    dinov_facts          *facts;
    dinov_onnx_constants *constants;
    dinov_onnx_match     *match;
    const char           *where;
    bool                  ones, zeros; /* gammas, biases that were filled in */
};

static dinov_status refuse(const struct reading *r, const char *name, const char *what, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, "ONNX-STRUCTURE", "%s: tensor %s: %s", r->where, name, what);
}

static dinov_status add(struct reading *r, const char *name, const dinov_tensor *t, dinov_error *err)
{
    return dinov_tensors_add(r->out, name, strlen(name), t, r->where, err);
}

static dinov_tensor shaped(const void *data, dinov_dtype dtype, int rank, int64_t a, int64_t b, int64_t c)
{
    return (dinov_tensor){.data = data, .dtype = dtype, .rank = rank, .dim = {a, b, c}};
}

/* A view under its own shape. */
static dinov_status add_view(struct reading *r, const char *name, const dinov_onnx_view *view, dinov_error *err)
{
    dinov_tensor t;
    DINOV_TRY(dinov_onnx_view_tensor(r->constants, &t, view, err));
    return add(r, name, &t, err);
}

/* A vector, however many sizes of 1 it has before. */
static dinov_status add_vector(struct reading *r, const char *name, const dinov_onnx_view *view, dinov_error *err)
{
    dinov_tensor t;
    DINOV_TRY(dinov_onnx_view_tensor(r->constants, &t, view, err));
    t = shaped(t.data, t.dtype, 1, (int64_t)dinov_onnx_view_count(view), 0, 0);
    return add(r, name, &t, err);
}

/* [1, rows, dim] */
static dinov_status add_rows(struct reading *r, const char *name, const dinov_onnx_view *view, dinov_error *err)
{
    dinov_tensor t;
    DINOV_TRY(dinov_onnx_view_tensor(r->constants, &t, view, err));
    t = shaped(t.data, t.dtype, 3, 1, (int64_t)dinov_onnx_view_count(view) / r->match->dim, r->match->dim);
    return add(r, name, &t, err);
}

/* All bytes 0 give zeros in every dtype we have; ones are spelled out. */
static dinov_status fill(struct reading *r, void **out, uint64_t count, dinov_dtype dtype, bool ones, dinov_error *err)
{
    size_t size = dinov_dtype_size(dtype);
    DINOV_TRY(dinov_onnx_room(r->constants, out, count * size, err));
    memset(*out, 0, count * size);
    for (uint64_t i = 0; ones && i < count; i++) {
        uint8_t *at = (uint8_t *)*out + i * size;
        if (dtype == DINOV_F32)
            dinov_put_le32(at, 0x3f800000);
        else
            dinov_put_le16(at, dtype == DINOV_F16 ? 0x3c00 : 0x3f80);
    }
    return DINOV_OK;
}

/* Only dtypes that weights have: everything else would be refused later, but not before it is filled and joined. */
static dinov_status check_dtype(const struct reading *r, dinov_error *err)
{
    dinov_dtype d = r->match->final.weight.dtype;
    return d == DINOV_F32 || d == DINOV_F16 || d == DINOV_BF16
               ? DINOV_OK
               : dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-DTYPE", "%s: tensor norm.weight: expected F32, F16 or BF16, found %s",
                            r->where, dinov_dtype_name(d));
}

/* ---- Embeddings ---- */

/* Of the square table of patch positions; 0 when it is none. */
static int64_t side_of(const struct reading *r)
{
    int64_t cells = (int64_t)dinov_onnx_view_count(&r->match->tokens.grid) / r->match->dim - r->match->tokens.whole, side = 1;
    while (side * side < cells && side < 1 << 15) side++;
    return side * side == cells ? side : 0;
}

static dinov_status add_positions(struct reading *r, dinov_error *err)
{
    const dinov_onnx_tokens *t = &r->match->tokens;
    if (t->whole) return add_rows(r, "pos_embed", &t->grid, err);
    uint64_t row  = (uint64_t)r->match->dim * dinov_dtype_size(t->grid.dtype),
             rows = dinov_onnx_view_count(&t->grid) / (uint64_t)r->match->dim;
    uint8_t *all;
    void    *room;
    if (t->class_pos.data && t->class_pos.dtype != t->grid.dtype)
        return refuse(r, "pos_embed", "expected the position of the class token and those of patches in one dtype", err);
    DINOV_TRY(dinov_onnx_room(r->constants, &room, (1 + rows) * row, err));
    all = room;
    memset(all, 0, row);
    if (t->class_pos.data) dinov_onnx_copy(all, &t->class_pos);
    dinov_onnx_copy(all + row, &t->grid);
    dinov_tensor tensor = shaped(all, t->grid.dtype, 3, 1, 1 + (int64_t)rows, r->match->dim);
    return add(r, "pos_embed", &tensor, err);
}

static dinov_status add_embeddings(struct reading *r, dinov_error *err)
{
    const dinov_onnx_tokens *t   = &r->match->tokens;
    int64_t                  dim = r->match->dim;
    if (dinov_onnx_view_count(&t->cls) != (uint64_t)dim) return refuse(r, "cls_token", "expected one class token", err);
    if (!t->whole && t->class_pos.data && dinov_onnx_view_count(&t->class_pos) != (uint64_t)dim)
        return refuse(r, "pos_embed", "expected one position for the class token", err);
    if (!side_of(r)) /* an exporter resized positions to one size of picture: they are the trained ones no more */
        return dinov_fail(
            err, DINOV_ERR_SHAPE, "ONNX-GRID",
            "%s: expected the square table of positions the model was trained with, found %lld positions, resized when the "
            "graph was exported for another size of picture; export it at the trained size",
            r->where, (long long)(dinov_onnx_view_count(&t->grid) / (uint64_t)dim - t->whole));
    DINOV_TRY(add_rows(r, "cls_token", &t->cls, err));
    DINOV_TRY(add_positions(r, err));
    if (t->registers.data) DINOV_TRY(add_rows(r, "register_tokens", &t->registers, err));
    DINOV_TRY(add_view(r, "patch_embed.proj.weight", &t->patch_weight, err));
    return add_vector(r, "patch_embed.proj.bias", &t->patch_bias, err);
}

/* ---- Blocks ---- */

/* "blocks.3." and a name. */
struct name {
    char text[DINOV_PARAM_NAME];
};

static const char *name_of(struct name *name, size_t block, const char *rest)
{
    snprintf(name->text, sizeof name->text, "blocks.%zu.%s", block, rest);
    return name->text;
}

/* Layers that the hub has as one: rows of the first, then of the second, and so on. */
static dinov_status join_weights(struct reading *r, const char *name, const dinov_onnx_linear *l, int count, dinov_error *err)
{
    if (count == 1) return add_view(r, name, &l->weight, err);
    uint64_t bytes = dinov_onnx_view_count(&l->weight) * dinov_dtype_size(l->weight.dtype);
    void    *room;
    for (int i = 1; i < count; i++)
        if (l[i].weight.dtype != l->weight.dtype || l[i].weight.dim[0] != l->weight.dim[0] ||
            l[i].weight.dim[1] != l->weight.dim[1])
            return refuse(r, name, "expected its parts to have one shape and dtype", err);
    DINOV_TRY(dinov_onnx_room(r->constants, &room, bytes * (uint64_t)count, err));
    for (int i = 0; i < count; i++) dinov_onnx_copy((uint8_t *)room + bytes * (uint64_t)i, &l[i].weight);
    dinov_tensor t = shaped(room, l->weight.dtype, 2, l->weight.dim[0] * count, l->weight.dim[1], 0);
    return add(r, name, &t, err);
}

static dinov_status join_biases(struct reading *r, const char *name, const dinov_onnx_linear *l, int count, dinov_error *err)
{
    const dinov_onnx_view *some = NULL;
    void                  *room;
    int                    have = 0;
    for (int i = 0; i < count; i++)
        if (l[i].bias.data) some = &l[i].bias, have++;
    if (!some) return DINOV_OK; /* whether a model may have none is not for here */
    if (count == 1) return add_vector(r, name, some, err);
    uint64_t size = dinov_onnx_view_count(some), bytes = size * dinov_dtype_size(some->dtype);
    for (int i = 0; i < count; i++)
        if (l[i].bias.data && (l[i].bias.dtype != some->dtype || dinov_onnx_view_count(&l[i].bias) != size))
            return refuse(r, name, "expected its parts to have one size and dtype", err);
    DINOV_TRY(dinov_onnx_room(r->constants, &room, bytes * (uint64_t)count, err));
    memset(room, 0, bytes * (uint64_t)count);
    for (int i = 0; i < count; i++)
        if (l[i].bias.data) dinov_onnx_copy((uint8_t *)room + bytes * (uint64_t)i, &l[i].bias);
    r->zeros       = r->zeros || have < count;
    dinov_tensor t = shaped(room, some->dtype, 1, (int64_t)size * count, 0, 0);
    return add(r, name, &t, err);
}

static dinov_status add_branch(struct reading *r, size_t block, const dinov_onnx_branch *b, bool layerscale, dinov_error *err)
{
    static const struct {
        const char *norm_weight, *norm_bias, *in_weight, *in_bias, *out_weight, *out_bias, *gamma;
    } names[] = {
        [DINOV_ONNX_ATTENTION] = {"norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight",
                                  "attn.proj.bias", "ls1.gamma"},
        [DINOV_ONNX_MLP]       = {"norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
                                  "ls2.gamma"},
        [DINOV_ONNX_SWIGLU]    = {"norm2.weight", "norm2.bias", "mlp.w12.weight", "mlp.w12.bias", "mlp.w3.weight", "mlp.w3.bias",
                                  "ls2.gamma"},
    };
    struct name n;
    void       *ones;
    DINOV_TRY(add_vector(r, name_of(&n, block, names[b->kind].norm_weight), &b->norm.weight, err));
    DINOV_TRY(add_vector(r, name_of(&n, block, names[b->kind].norm_bias), &b->norm.bias, err));
    DINOV_TRY(join_weights(r, name_of(&n, block, names[b->kind].in_weight), b->in, b->ins, err));
    DINOV_TRY(join_biases(r, name_of(&n, block, names[b->kind].in_bias), b->in, b->ins, err));
    DINOV_TRY(add_view(r, name_of(&n, block, names[b->kind].out_weight), &b->out.weight, err));
    if (b->out.bias.data) DINOV_TRY(add_vector(r, name_of(&n, block, names[b->kind].out_bias), &b->out.bias, err));
    if (!layerscale) return DINOV_OK;
    if (b->gamma.data) return add_vector(r, name_of(&n, block, names[b->kind].gamma), &b->gamma, err);
    DINOV_TRY(fill(r, &ones, (uint64_t)r->match->dim, r->match->final.weight.dtype, true, err));
    r->ones        = true;
    dinov_tensor t = shaped(ones, r->match->final.weight.dtype, 1, r->match->dim, 0, 0);
    return add(r, name_of(&n, block, names[b->kind].gamma), &t, err);
}

static dinov_status add_blocks(struct reading *r, dinov_error *err)
{
    const dinov_onnx_match *m          = r->match;
    bool                    layerscale = false;
    for (size_t i = 0; i < m->count; i++) layerscale = layerscale || m->branches[i].gamma.data;
    for (size_t i = m->count; i-- > 0;) {
        const dinov_onnx_branch *b = &m->branches[i];
        DINOV_TRY(add_branch(r, (m->count - 1 - i) / 2, b, layerscale, err));
        if (!r->facts->heads) r->facts->heads = b->heads;
        if (b->heads && b->heads != r->facts->heads)
            return dinov_fail(err, DINOV_ERR_FORMAT, "ONNX-STRUCTURE",
                              "%s: block %zu: expected %lld heads as in earlier blocks, found %lld", r->where,
                              (m->count - 1 - i) / 2, (long long)r->facts->heads, (long long)b->heads);
    }
    return DINOV_OK;
}

/* ---- Facts ---- */

static void note(struct reading *r, bool happened, const char *what)
{
    size_t used = strlen(r->facts->transforms);
    if (happened) snprintf(r->facts->transforms + used, sizeof r->facts->transforms - used, "%s%s", used ? "," : "", what);
}

/* The decimal number that was meant: a graph stores 1e-6 as a float, which as a double is 9.99999997e-07. */
static dinov_status meant(double *out, double stored, const char *where, dinov_error *err)
{
    dinov_text text = {0};
    dinov_text_float(&text, (float)stored);
    if (!text.failed) *out = strtod(text.data, NULL);
    dinov_status status = text.failed ? dinov_fail_nomem(err, where, "a number") : DINOV_OK;
    dinov_text_clear(&text);
    return status;
}

static dinov_status take_facts(struct reading *r, dinov_error *err)
{
    const dinov_onnx_tokens *t        = &r->match->tokens;
    dinov_onnx_text          document = r->match->model->document;
    bool                     heard = false, resampled = false;
    DINOV_TRY(meant(&r->facts->ln_eps, r->match->final.eps, r->where, err));
    if (t->resized) {
        /* To a size, or by a factor that the hub's code makes a tenth of a patch too large. */
        r->facts->has_interp = 1;
        r->facts->interp     = (dinov_interp){t->factor ? 0.1 : 0, t->antialias};
    }
    dinov_model found = {.patch     = t->patch_weight.dim[2],
                         .dim       = r->match->dim,
                         .depth     = (int64_t)r->match->count / 2,
                         .heads     = r->facts->heads,
                         .registers = t->registers.data ? (int64_t)dinov_onnx_view_count(&t->registers) / r->match->dim : 0,
                         .grid_h    = side_of(r),
                         .grid_w    = side_of(r),
                         .ln_eps    = r->facts->ln_eps};
    if (document.data)
        DINOV_TRY(dinov_onnx_document(r->facts, &heard, &resampled, &found, document.data, document.size, r->where, err));
    note(r, heard && resampled, "positions-resampled");
    note(r, document.data && !heard, "document-ignored");
    note(r, !t->whole && !t->class_pos.data, "class-position-zeros");
    note(r, r->ones, "layerscale-ones");
    note(r, r->zeros, "bias-zeros");
    note(r, t->input_nodes, "input-nodes");
    return DINOV_OK;
}

static dinov_status read_model(struct reading *r, dinov_error *err)
{
    DINOV_TRY(check_dtype(r, err));
    DINOV_TRY(add_embeddings(r, err));
    DINOV_TRY(add_blocks(r, err));
    DINOV_TRY(add_vector(r, "norm.weight", &r->match->final.weight, err));
    DINOV_TRY(add_vector(r, "norm.bias", &r->match->final.bias, err));
    return take_facts(r, err);
}

dinov_status dinov_onnx_read(dinov_tensors *out, dinov_facts *facts, dinov_files *files, const void *data, size_t size,
                             const char *where, dinov_error *err)
{
    dinov_onnx           model;
    dinov_onnx_constants constants = {0};
    dinov_onnx_match     match     = {0};
    struct reading       r         = {out, facts, &constants, &match, where, false, false};
    dinov_status status            = dinov_onnx_open(&model, files, data, size, where, err);
    if (status == DINOV_OK) status = dinov_onnx_constants_open(&constants, &model, out, err);
    if (status == DINOV_OK) status = dinov_onnx_match_open(&match, &constants, err);
    if (status == DINOV_OK) status = read_model(&r, err);
    dinov_onnx_match_close(&match);
    dinov_onnx_constants_close(&constants);
    dinov_onnx_close(&model);
    return status;
}
