/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward and backward of the training backbone. A branch works on the rows it keeps, a piece of them
 * at a time, so that what one op writes is still in the cache when the next one reads it; the pieces'
 * sizes are constants, so results do not depend on threads.
 */
#include "model/backbone.h"

#include "base/alloc.h"
#include "model/pos_embed.h"

#include <stdio.h>
#include <string.h>

enum { PIECE = 768 }; /* rows of a piece */

enum branch_kind { ATTENTION, FFN };

static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }
static size_t  larger(size_t a, size_t b) { return a > b ? a : b; }

/* ---- Places of the parameters ---- */

dinov_status dinov_backbone_bind(dinov_backbone *out, const dinov_paramset *set, const char *module, const dinov_model *model,
                                 void *block, size_t real_size, dinov_error *err)
{
#define AT(name) dinov_paramset_at(set, module, name, block, real_size)
    *out = (dinov_backbone){
        .cls          = AT("cls_token"),
        .pos          = AT("pos_embed"),
        .registers    = AT("register_tokens"),
        .mask_token   = AT("mask_token"),
        .patch_weight = AT("patch_embed.proj.weight"),
        .patch_bias   = AT("patch_embed.proj.bias"),
        .norm_weight  = AT("norm.weight"),
        .norm_bias    = AT("norm.bias"),
        .blocks       = dinov_calloc((size_t)model->depth, sizeof *out->blocks),
    };
    if (!out->blocks) return dinov_fail_nomem(err, "backbone", "its blocks");
    const char *up   = model->ffn == DINOV_FFN_SWIGLU ? "mlp.w12" : "mlp.fc1",
               *down = model->ffn == DINOV_FFN_SWIGLU ? "mlp.w3" : "mlp.fc2";
    for (int64_t i = 0; i < model->depth; i++) {
        char name[64];
#define BLOCK(...) (snprintf(name, sizeof name, "blocks.%lld." __VA_ARGS__), AT(name))
        long long n    = (long long)i;
        out->blocks[i] = (dinov_backbone_block){
            .norm1_weight = BLOCK("norm1.weight", n),
            .norm1_bias   = BLOCK("norm1.bias", n),
            .qkv_weight   = BLOCK("attn.qkv.weight", n),
            .qkv_bias     = BLOCK("attn.qkv.bias", n),
            .proj_weight  = BLOCK("attn.proj.weight", n),
            .proj_bias    = BLOCK("attn.proj.bias", n),
            .ls1          = BLOCK("ls1.gamma", n),
            .norm2_weight = BLOCK("norm2.weight", n),
            .norm2_bias   = BLOCK("norm2.bias", n),
            .up_weight    = BLOCK("%s.weight", n, up),
            .up_bias      = BLOCK("%s.bias", n, up),
            .down_weight  = BLOCK("%s.weight", n, down),
            .down_bias    = BLOCK("%s.bias", n, down),
            .ls2          = BLOCK("ls2.gamma", n),
        };
#undef BLOCK
    }
#undef AT
    return DINOV_OK;
}

void dinov_backbone_clear(dinov_backbone *backbone)
{
    dinov_free(backbone->blocks);
    *backbone = (dinov_backbone){0};
}

/* ---- Memory ---- */

/* What one block leaves for its gradient. Rows are those its branches keep. */
struct acts {
    dinov_mat normed1_in; /* [M', C] rows of the stream as they entered norm1 */
    dinov_mat qkv;        /* [M', 3C] */
    dinov_mat attended;   /* [M', C] attention's result */
    dinov_mat normed2_in; /* [M', C] */
    dinov_mat hidden;     /* [M', F or 2F] before the activation */
};

struct group {
    dinov_crops crops;
    int64_t     tokens;      /* of an image */
    int64_t     first;       /* row of the stream where the group begins */
    void       *pos, *dpos;  /* [1 + N, C] at its grid */
    double     *rows, *cols; /* [h, gh], [w, gw]: resampling; then their transposes for the gradient */
    double     *rows_back, *cols_back;
};

struct dinov_pass {
    dinov_model      model;
    const dinov_ops *ops;
    dinov_stream     stream;
    dinov_pass_plan  plan;
    dinov_arena      arena;

    struct group           group[DINOV_MAX_GROUPS];
    const dinov_drop_plan *drop;
    const uint8_t         *needed;
    int64_t                up; /* width of the first FFN product: F, or 2F with SwiGLU */
    dinov_activation       act;

    dinov_mat    x, dx;                           /* [M, C] */
    dinov_mat   *inputs;                          /* RECOMPUTE: [depth] copies of x as it entered each block */
    dinov_mat    again;                           /* RECOMPUTE: x of the block that is computed again */
    struct acts *acts;                            /* [depth], or [1] when they are not kept */
    dinov_mat    normed, active, dactive, branch; /* a piece: [P, C], [P, F], [P, F], [P, C] */
    dinov_mat    dqkv, dattended;                 /* [M', 3C], [M', C] */
    dinov_mat    patches, embedded;               /* a piece of images: [P, channels*p*p], [P, C] */
    int32_t     *rows;                            /* [M'] of the branch at work */
    void        *packed[2], *packed_bias[2];      /* weights laid out for `linear`: two at a time */
    void        *dweight, *dbias;                 /* gradient of a product before LayerScale */
};

static int64_t piece_images(int64_t patches) { return largest(1, PIECE / patches); }

/* Everything that a pass holds, in one walk that runs twice (base/arena.h). */
static void lay_out(dinov_pass *p, int threads)
{
    const dinov_model *m    = &p->model;
    const dinov_ops   *ops  = p->ops;
    dinov_arena       *a    = &p->arena;
    size_t             real = ops->real_size, scratch = 0;
    int64_t            C = m->dim, F = m->hidden, in = m->channels * m->patch * m->patch, M = 0, kept = 0, piece_patches = 0;
    bool               backward = p->plan.kind != DINOV_PASS_FORWARD;

    for (int g = 0; g < p->plan.groups; g++) {
        int64_t N = p->plan.group[g].h * p->plan.group[g].w, T = 1 + m->registers + N, images = p->plan.group[g].images;
        p->group[g].tokens = T;
        p->group[g].first  = M;
        M += images * T;
        kept += p->plan.group[g].kept * T;
        piece_patches = largest(piece_patches, N * piece_images(N));
        scratch       = larger(scratch, ops->attention_scratch(images, T, m->heads, C / m->heads, threads));
        if (backward) scratch = larger(scratch, ops->attention_backward_scratch(images, T, m->heads, C / m->heads, threads));
        p->group[g].pos       = dinov_arena_take(a, (1 + N) * C, real);
        p->group[g].dpos      = backward ? dinov_arena_take(a, (1 + N) * C, real) : NULL;
        p->group[g].rows      = dinov_arena_take(a, p->plan.group[g].h * m->grid_h, sizeof(double));
        p->group[g].cols      = dinov_arena_take(a, p->plan.group[g].w * m->grid_w, sizeof(double));
        p->group[g].rows_back = dinov_arena_take(a, p->plan.group[g].h * m->grid_h, sizeof(double));
        p->group[g].cols_back = dinov_arena_take(a, p->plan.group[g].w * m->grid_w, sizeof(double));
    }
    if (backward) scratch = larger(scratch, ops->layernorm_backward_scratch(PIECE, C));

    p->x = dinov_mat_take(a, M, C, real);
    if (backward) p->dx = dinov_mat_take(a, M, C, real);
    if (p->plan.kind == DINOV_PASS_RECOMPUTE) {
        p->again = dinov_mat_take(a, M, C, real);
        for (int64_t i = 0; i < m->depth; i++) p->inputs[i] = dinov_mat_take(a, M, C, real);
    }
    for (int64_t i = 0; i < (p->plan.kind == DINOV_PASS_KEEP ? m->depth : 1); i++) {
        struct acts *acts = &p->acts[i];
        acts->normed1_in  = dinov_mat_take(a, kept, C, real);
        acts->qkv         = dinov_mat_take(a, kept, 3 * C, real);
        acts->attended    = dinov_mat_take(a, kept, C, real);
        acts->normed2_in  = backward ? dinov_mat_take(a, kept, C, real) : acts->normed1_in;
        acts->hidden      = dinov_mat_take(a, backward ? kept : PIECE, p->up, real);
    }
    p->normed   = dinov_mat_take(a, PIECE, C, real);
    p->active   = dinov_mat_take(a, PIECE, F, real);
    p->branch   = dinov_mat_take(a, PIECE, C, real);
    p->patches  = dinov_mat_take(a, piece_patches, in, real);
    p->embedded = dinov_mat_take(a, piece_patches, C, real);
    p->rows     = dinov_arena_take(a, kept, sizeof *p->rows);
    if (backward) {
        p->dactive   = dinov_mat_take(a, PIECE, F, real);
        p->dqkv      = dinov_mat_take(a, kept, 3 * C, real);
        p->dattended = dinov_mat_take(a, kept, C, real);
        p->dweight   = dinov_arena_take(a, C * largest(C, largest(F, m->grid_h * m->grid_w)), real);
        p->dbias     = dinov_arena_take(a, C, real);
    }
    int64_t widest = largest(3 * C, largest(p->up, in));
    size_t  packed = larger(ops->linear_size(widest, C), ops->linear_size(C, widest));
    for (int i = 0; i < 2; i++) {
        p->packed[i]      = dinov_arena_take(a, (int64_t)packed, real);
        p->packed_bias[i] = dinov_arena_take(a, (int64_t)ops->linear_bias_size(widest), real);
    }
    p->stream.scratch = dinov_arena_take(a, (int64_t)scratch, 1);
}

static dinov_status begin(dinov_pass *p, const dinov_model *model, const dinov_ops *ops, const dinov_pass_plan *plan,
                          dinov_error *err)
{
    *p        = (dinov_pass){.model = *model, .ops = ops, .plan = *plan};
    p->up     = model->ffn == DINOV_FFN_SWIGLU ? 2 * model->hidden : model->hidden;
    p->act    = model->ffn == DINOV_FFN_SWIGLU ? DINOV_ACT_SWIGLU : DINOV_ACT_GELU;
    p->inputs = dinov_calloc((size_t)model->depth, sizeof *p->inputs);
    p->acts   = dinov_calloc((size_t)model->depth, sizeof *p->acts);
    if (!p->inputs || !p->acts) return dinov_fail_nomem(err, "backbone", "its activations");
    return DINOV_OK;
}

static void end(dinov_pass *p)
{
    dinov_arena_clear(&p->arena);
    dinov_free(p->inputs);
    dinov_free(p->acts);
}

size_t dinov_pass_memory(const dinov_model *model, const dinov_ops *ops, const dinov_pass_plan *plan, int threads)
{
    dinov_pass p;
    if (begin(&p, model, ops, plan, NULL) == DINOV_OK) lay_out(&p, threads);
    size_t used = p.arena.used;
    end(&p);
    return used;
}

/* The position weights of each group, and their transposes, which carry its gradient back. */
static void fill_pos_weights(dinov_pass *p)
{
    const dinov_model *m     = &p->model;
    bool               exact = p->ops->real_size == sizeof(double);
    for (int g = 0; g < p->plan.groups; g++) {
        struct group *group = &p->group[g];
        int64_t       h = p->plan.group[g].h, w = p->plan.group[g].w;
        dinov_pos_weights(group->rows, h, m->grid_h, &m->interp, exact);
        dinov_pos_weights(group->cols, w, m->grid_w, &m->interp, exact);
        for (int64_t i = 0; i < h; i++)
            for (int64_t a = 0; a < m->grid_h; a++) group->rows_back[a * h + i] = group->rows[i * m->grid_h + a];
        for (int64_t j = 0; j < w; j++)
            for (int64_t b = 0; b < m->grid_w; b++) group->cols_back[b * w + j] = group->cols[j * m->grid_w + b];
    }
}

dinov_status dinov_pass_new(dinov_pass **out, const dinov_model *model, const dinov_ops *ops, dinov_pool *pool,
                            const dinov_pass_plan *plan, dinov_error *err)
{
    *out          = NULL;
    dinov_pass *p = dinov_calloc(1, sizeof *p);
    if (!p) return dinov_fail_nomem(err, "backbone", "a pass");
    dinov_status status = begin(p, model, ops, plan, err);
    if (status == DINOV_OK) {
        lay_out(p, dinov_pool_threads(pool));
        status = dinov_arena_allocate(&p->arena, "backbone activations", err);
    }
    if (status != DINOV_OK) {
        dinov_pass_free(&p);
        return status;
    }
    lay_out(p, dinov_pool_threads(pool));
    p->stream.pool = pool;
    fill_pos_weights(p);
    *out = p;
    return DINOV_OK;
}

void dinov_pass_free(dinov_pass **pass)
{
    if (!pass || !*pass) return;
    end(*pass);
    dinov_free(*pass);
    *pass = NULL;
}

/* ---- Branches: which rows they keep, a piece at a time ---- */

struct branch {
    const int32_t *rows;                        /* of the stream, group after group; NULL for all of them */
    int64_t        count;                       /* M' */
    int64_t        first[DINOV_MAX_GROUPS + 1]; /* of each group, in the kept rows */
    int64_t        images[DINOV_MAX_GROUPS];    /* kept */
    double         factor[DINOV_MAX_GROUPS];    /* images / kept */
};

static struct branch choose(dinov_pass *p, int64_t block, enum branch_kind kind)
{
    struct branch b      = {0};
    bool          sparse = p->needed && kind == FFN && block + 1 == p->model.depth;
    for (int g = 0; g < p->plan.groups; g++) {
        const struct group *group = &p->group[g];
        int64_t             all   = group->crops.images;
        b.images[g]               = p->drop ? p->drop->kept[g][block] : all;
        b.factor[g]               = b.images[g] ? (double)all / (double)b.images[g] : 1;
        for (int64_t i = 0; i < b.images[g] && (p->drop || sparse); i++) {
            int64_t image = p->drop ? p->drop->keep[g][(2 * block + kind) * all + i] : i,
                    row   = group->first + image * group->tokens;
            for (int64_t t = 0; t < group->tokens; t++)
                if (!sparse || p->needed[row + t]) p->rows[b.count++] = (int32_t)(row + t);
        }
        if (!p->drop && !sparse) b.count += b.images[g] * group->tokens;
        b.first[g + 1] = b.count;
    }
    if (p->drop || sparse) b.rows = p->rows;
    return b;
}

struct piece {
    int            group;
    int64_t        first, count; /* in the kept rows */
    const int32_t *rows;
};

/* The next piece of at most PIECE rows of one group; starts with {0}. */
static bool next_piece(const dinov_pass *p, const struct branch *b, struct piece *piece)
{
    piece->first += piece->count;
    while (piece->group < p->plan.groups && piece->first == b->first[piece->group + 1]) piece->group++;
    if (piece->group == p->plan.groups) return false;
    int64_t left = b->first[piece->group + 1] - piece->first;
    piece->count = left < PIECE ? left : PIECE;
    piece->rows  = b->rows ? b->rows + piece->first : NULL;
    return true;
}

static dinov_mat part(const dinov_pass *p, const dinov_mat *m, const struct piece *piece)
{
    return dinov_mat_rows(m, p->ops->real_size, piece->first, piece->count);
}

static dinov_mat top(const dinov_pass *p, const dinov_mat *m, const struct piece *piece)
{
    return dinov_mat_rows(m, p->ops->real_size, 0, piece->count);
}

/* The rows of the stream that a piece stands for: all of them under `rows`, or a window of it. */
static dinov_mat stream_of(const dinov_pass *p, const dinov_mat *x, const struct piece *piece)
{
    return piece->rows ? *x : part(p, x, piece);
}

static dinov_linear pack(dinov_pass *p, int slot, const void *weight, const void *bias, int64_t n, int64_t k)
{
    p->ops->linear_pack(&p->stream, p->packed[slot], weight, n, k, DINOV_ACT_NONE);
    p->ops->linear_pack_bias(&p->stream, p->packed_bias[slot], bias, n, DINOV_ACT_NONE);
    return (dinov_linear){.n = n, .k = k, .packed = p->packed[slot], .bias = p->packed_bias[slot]};
}

/* For dx = (dy diag(scale)) W. */
static dinov_linear pack_transposed(dinov_pass *p, int slot, const void *weight, int64_t n, int64_t k, const void *scale)
{
    p->ops->linear_pack_transposed(&p->stream, p->packed[slot], weight, n, k, scale);
    p->ops->linear_pack_bias(&p->stream, p->packed_bias[slot], NULL, k, DINOV_ACT_NONE);
    return (dinov_linear){.n = k, .k = n, .packed = p->packed[slot], .bias = p->packed_bias[slot]};
}

static void attend(dinov_pass *p, const struct branch *b, dinov_mat *out, const dinov_mat *qkv)
{
    for (int g = 0; g < p->plan.groups; g++) {
        if (b->images[g] == 0) continue;
        int64_t   rows = b->first[g + 1] - b->first[g];
        dinov_mat o    = dinov_mat_rows(out, p->ops->real_size, b->first[g], rows),
                  q    = dinov_mat_rows(qkv, p->ops->real_size, b->first[g], rows);
        p->ops->attention(&p->stream, &o, &q, b->images[g], p->model.heads);
    }
}

static void attend_backward(dinov_pass *p, const struct branch *b, dinov_mat *dqkv, const dinov_mat *dout, const dinov_mat *qkv)
{
    for (int g = 0; g < p->plan.groups; g++) {
        if (b->images[g] == 0) continue;
        size_t    real  = p->ops->real_size;
        int64_t   first = b->first[g], rows = b->first[g + 1] - first;
        dinov_mat dq = dinov_mat_rows(dqkv, real, first, rows), d = dinov_mat_rows(dout, real, first, rows);
        dinov_mat q = dinov_mat_rows(qkv, real, first, rows);
        p->ops->attention_backward(&p->stream, &dq, &d, &q, b->images[g], p->model.heads);
    }
}

/* ---- Forward ---- */

static void attention_forward(dinov_pass *p, const dinov_backbone_block *w, int64_t block, struct acts *acts, dinov_mat *x)
{
    const dinov_ops *ops = p->ops;
    dinov_stream    *s   = &p->stream;
    int64_t          C   = p->model.dim;
    struct branch    b   = choose(p, block, ATTENTION);
    dinov_linear     qkv = pack(p, 0, w->qkv_weight, w->qkv_bias, 3 * C, C), proj = pack(p, 1, w->proj_weight, w->proj_bias, C, C);

    for (struct piece piece = {0}; next_piece(p, &b, &piece);) {
        dinov_mat in = part(p, &acts->normed1_in, &piece), normed = top(p, &p->normed, &piece), out = part(p, &acts->qkv, &piece);
        dinov_mat from = stream_of(p, x, &piece);
        ops->gather(s, &in, &from, piece.rows, 1);
        ops->layernorm(s, &normed, &in, w->norm1_weight, w->norm1_bias, p->model.ln_eps);
        ops->linear(s, &out, &normed, &qkv, NULL, NULL);
    }
    attend(p, &b, &acts->attended, &acts->qkv);
    for (struct piece piece = {0}; next_piece(p, &b, &piece);) {
        dinov_mat in = part(p, &acts->attended, &piece), out = top(p, &p->branch, &piece), to = stream_of(p, x, &piece);
        ops->linear(s, &out, &in, &proj, NULL, NULL);
        ops->scatter_add(s, &to, piece.rows, &out, w->ls1, b.factor[piece.group]);
    }
}

static void ffn_forward(dinov_pass *p, const dinov_backbone_block *w, int64_t block, struct acts *acts, dinov_mat *x)
{
    const dinov_ops *ops = p->ops;
    dinov_stream    *s   = &p->stream;
    int64_t          C = p->model.dim, F = p->model.hidden;
    struct branch    b  = choose(p, block, FFN);
    dinov_linear     up = pack(p, 0, w->up_weight, w->up_bias, p->up, C), down = pack(p, 1, w->down_weight, w->down_bias, C, F);

    for (struct piece piece = {0}; next_piece(p, &b, &piece);) {
        dinov_mat in = part(p, &acts->normed2_in, &piece), normed = top(p, &p->normed, &piece), to = stream_of(p, x, &piece);
        dinov_mat hidden = p->plan.kind == DINOV_PASS_FORWARD ? top(p, &acts->hidden, &piece) : part(p, &acts->hidden, &piece);
        dinov_mat active = top(p, &p->active, &piece), out = top(p, &p->branch, &piece);
        ops->gather(s, &in, &to, piece.rows, 1);
        ops->layernorm(s, &normed, &in, w->norm2_weight, w->norm2_bias, p->model.ln_eps);
        ops->linear(s, &hidden, &normed, &up, NULL, NULL);
        ops->activation(s, &active, &hidden, p->act);
        ops->linear(s, &out, &active, &down, NULL, NULL);
        ops->scatter_add(s, &to, piece.rows, &out, w->ls2, b.factor[piece.group]);
    }
}

static void group_pos(dinov_pass *p, const dinov_backbone *params, struct group *group)
{
    int64_t   C = p->model.dim, h = group->crops.h, w = group->crops.w;
    size_t    row  = (size_t)C * p->ops->real_size;
    dinov_mat to   = {(char *)group->pos + row, h * w, C, C};
    dinov_mat from = {(char *)params->pos + row, p->model.grid_h * p->model.grid_w, C, C};

    memcpy(group->pos, params->pos, row);
    if (dinov_pos_is_trained_grid(&p->model, h, w))
        p->ops->gather(&p->stream, &to, &from, NULL, 1);
    else
        p->ops->resample(&p->stream, &to, &from, group->rows, group->cols, h, w, p->model.grid_h, p->model.grid_w);
}

/* The patches of images [first, first + images) of a group, as rows. */
static dinov_mat patch_rows(dinov_pass *p, const struct group *group, int64_t first, int64_t images)
{
    const dinov_model *m = &p->model;
    int64_t            h = group->crops.h * m->patch, w = group->crops.w * m->patch, N = group->crops.h * group->crops.w;
    dinov_mat          rows = dinov_mat_rows(&p->patches, p->ops->real_size, 0, images * N);
    p->ops->patchify(&p->stream, &rows, group->crops.pixels + first * m->channels * h * w, images, m->channels, h, w, m->patch);
    return rows;
}

static void embed_forward(dinov_pass *p, const dinov_backbone *params, struct group *group)
{
    const dinov_model *m = &p->model;
    int64_t            N = group->crops.h * group->crops.w, step = piece_images(N);
    dinov_linear       patch = pack(p, 0, params->patch_weight, params->patch_bias, m->dim, m->channels * m->patch * m->patch);

    group_pos(p, params, group);
    for (int64_t first = 0; first < group->crops.images; first += step) {
        int64_t   images   = group->crops.images - first < step ? group->crops.images - first : step;
        dinov_mat rows     = patch_rows(p, group, first, images),
                  embedded = dinov_mat_rows(&p->embedded, p->ops->real_size, 0, images * N);
        dinov_mat x        = dinov_mat_rows(&p->x, p->ops->real_size, group->first + first * group->tokens, images * group->tokens);
        p->ops->linear(&p->stream, &embedded, &rows, &patch, NULL, NULL);
        p->ops->embed(&p->stream, &x, &embedded, params->cls, params->registers, params->mask_token, group->pos,
                      group->crops.mask ? group->crops.mask + first * N : NULL, images, m->registers);
    }
}

const dinov_mat *dinov_pass_forward(dinov_pass *p, const dinov_backbone *params, const dinov_crops *crops, const uint8_t *needed,
                                    const dinov_drop_plan *drop)
{
    p->drop   = drop;
    p->needed = needed;
    for (int g = 0; g < p->plan.groups; g++) {
        DINOV_ASSERT(crops[g].images == p->plan.group[g].images && crops[g].h == p->plan.group[g].h &&
                     crops[g].w == p->plan.group[g].w);
        p->group[g].crops = crops[g];
        embed_forward(p, params, &p->group[g]);
    }
    for (int64_t i = 0; i < p->model.depth; i++) {
        struct acts *acts = &p->acts[p->plan.kind == DINOV_PASS_KEEP ? i : 0];
        if (p->plan.kind == DINOV_PASS_RECOMPUTE) p->ops->gather(&p->stream, &p->inputs[i], &p->x, NULL, 1);
        attention_forward(p, &params->blocks[i], i, acts, &p->x);
        ffn_forward(p, &params->blocks[i], i, acts, &p->x);
    }
    return &p->x;
}

int64_t dinov_pass_row(const dinov_pass *p, int group, int64_t image, int64_t token)
{
    return p->group[group].first + image * p->group[group].tokens + token;
}

int64_t dinov_pass_rows(const dinov_pass *p) { return p->x.rows; }

/* ---- Backward ---- */

static void clear_product(dinov_pass *p, int64_t n, int64_t k)
{
    memset(p->dweight, 0, (size_t)(n * k) * p->ops->real_size);
    memset(p->dbias, 0, (size_t)n * p->ops->real_size);
}

/* A product's gradient goes straight to the parameters, or, with LayerScale after it, by way of p->dweight. */
static void product_gradient(dinov_pass *p, const void *gamma, void *dgamma, void *dweight, void *dbias, const void *weight,
                             const void *bias, int64_t n, int64_t k)
{
    if (gamma) p->ops->layerscale_backward(&p->stream, dgamma, dweight, dbias, p->dweight, p->dbias, gamma, weight, bias, n, k);
}

static void ffn_backward(dinov_pass *p, const dinov_backbone_block *w, const dinov_backbone_block *d, int64_t block,
                         struct acts *acts)
{
    const dinov_ops *ops = p->ops;
    dinov_stream    *s   = &p->stream;
    int64_t          C = p->model.dim, F = p->model.hidden;
    struct branch    b    = choose(p, block, FFN);
    dinov_linear     down = pack_transposed(p, 0, w->down_weight, C, F, w->ls2),
                 up       = pack_transposed(p, 1, w->up_weight, p->up, C, NULL);

    clear_product(p, C, F);
    for (struct piece piece = {0}; next_piece(p, &b, &piece);) {
        dinov_mat hidden = part(p, &acts->hidden, &piece), in = part(p, &acts->normed2_in, &piece),
                  dstream = stream_of(p, &p->dx, &piece);
        dinov_mat dout = top(p, &p->branch, &piece), active = top(p, &p->active, &piece), dactive = top(p, &p->dactive, &piece);
        dinov_mat normed = top(p, &p->normed, &piece);
        ops->gather(s, &dout, &dstream, piece.rows, b.factor[piece.group]);
        ops->linear(s, &dactive, &dout, &down, NULL, NULL);
        ops->activation_backward(s, &hidden, &active, &dactive, &hidden, p->act);
        ops->linear_backward(s, w->ls2 ? p->dweight : d->down_weight, w->ls2 ? p->dbias : d->down_bias, &dout, &active);
        ops->layernorm(s, &normed, &in, w->norm2_weight, w->norm2_bias, p->model.ln_eps);
        ops->linear_backward(s, d->up_weight, d->up_bias, &hidden, &normed);
        ops->linear(s, &dout, &hidden, &up, NULL, NULL);
        ops->layernorm_backward(s, &dout, d->norm2_weight, d->norm2_bias, &dout, &in, w->norm2_weight, p->model.ln_eps);
        ops->scatter_add(s, &dstream, piece.rows, &dout, NULL, 1);
    }
    product_gradient(p, w->ls2, d->ls2, d->down_weight, d->down_bias, w->down_weight, w->down_bias, C, F);
}

static void attention_backward(dinov_pass *p, const dinov_backbone_block *w, const dinov_backbone_block *d, int64_t block,
                               struct acts *acts)
{
    const dinov_ops *ops  = p->ops;
    dinov_stream    *s    = &p->stream;
    int64_t          C    = p->model.dim;
    struct branch    b    = choose(p, block, ATTENTION);
    dinov_linear     proj = pack_transposed(p, 0, w->proj_weight, C, C, w->ls1),
                 qkv      = pack_transposed(p, 1, w->qkv_weight, 3 * C, C, NULL);

    clear_product(p, C, C);
    for (struct piece piece = {0}; next_piece(p, &b, &piece);) {
        dinov_mat attended = part(p, &acts->attended, &piece), dattended = part(p, &p->dattended, &piece);
        dinov_mat dout = top(p, &p->branch, &piece), dstream = stream_of(p, &p->dx, &piece);
        ops->gather(s, &dout, &dstream, piece.rows, b.factor[piece.group]);
        ops->linear(s, &dattended, &dout, &proj, NULL, NULL);
        ops->linear_backward(s, w->ls1 ? p->dweight : d->proj_weight, w->ls1 ? p->dbias : d->proj_bias, &dout, &attended);
    }
    product_gradient(p, w->ls1, d->ls1, d->proj_weight, d->proj_bias, w->proj_weight, w->proj_bias, C, C);
    attend_backward(p, &b, &p->dqkv, &p->dattended, &acts->qkv);
    for (struct piece piece = {0}; next_piece(p, &b, &piece);) {
        dinov_mat in = part(p, &acts->normed1_in, &piece), dqkv = part(p, &p->dqkv, &piece), dstream = stream_of(p, &p->dx, &piece);
        dinov_mat normed = top(p, &p->normed, &piece), dout = top(p, &p->branch, &piece);
        ops->layernorm(s, &normed, &in, w->norm1_weight, w->norm1_bias, p->model.ln_eps);
        ops->linear_backward(s, d->qkv_weight, d->qkv_bias, &dqkv, &normed);
        ops->linear(s, &dout, &dqkv, &qkv, NULL, NULL);
        ops->layernorm_backward(s, &dout, d->norm1_weight, d->norm1_bias, &dout, &in, w->norm1_weight, p->model.ln_eps);
        ops->scatter_add(s, &dstream, piece.rows, &dout, NULL, 1);
    }
}

/* From a group's position gradient at its own grid to the stored one. */
static void pos_backward(dinov_pass *p, const dinov_backbone *grads, struct group *group)
{
    int64_t   C = p->model.dim, h = group->crops.h, w = group->crops.w, stored = p->model.grid_h * p->model.grid_w;
    size_t    row = (size_t)C * p->ops->real_size;
    dinov_mat cls = {grads->pos, 1, C, C}, dcls = {group->dpos, 1, C, C};
    dinov_mat to = {(char *)grads->pos + row, stored, C, C}, from = {(char *)group->dpos + row, h * w, C, C};

    p->ops->scatter_add(&p->stream, &cls, NULL, &dcls, NULL, 1);
    if (!dinov_pos_is_trained_grid(&p->model, h, w)) {
        dinov_mat resampled = {p->dweight, stored, C, C};
        p->ops->resample(&p->stream, &resampled, &from, group->rows_back, group->cols_back, p->model.grid_h, p->model.grid_w, h, w);
        from = resampled;
    }
    p->ops->scatter_add(&p->stream, &to, NULL, &from, NULL, 1);
}

static void embed_backward(dinov_pass *p, const dinov_backbone *grads, struct group *group)
{
    const dinov_model *m = &p->model;
    int64_t            N = group->crops.h * group->crops.w, step = piece_images(N);

    memset(group->dpos, 0, (size_t)((1 + N) * m->dim) * p->ops->real_size);
    for (int64_t first = 0; first < group->crops.images; first += step) {
        int64_t   images    = group->crops.images - first < step ? group->crops.images - first : step;
        dinov_mat rows      = patch_rows(p, group, first, images),
                  dembedded = dinov_mat_rows(&p->embedded, p->ops->real_size, 0, images * N);
        dinov_mat dx = dinov_mat_rows(&p->dx, p->ops->real_size, group->first + first * group->tokens, images * group->tokens);
        p->ops->embed_backward(&p->stream, &dembedded, grads->cls, grads->registers, grads->mask_token, group->dpos, &dx,
                               group->crops.mask ? group->crops.mask + first * N : NULL, images, m->registers);
        p->ops->linear_backward(&p->stream, grads->patch_weight, grads->patch_bias, &dembedded, &rows);
    }
    pos_backward(p, grads, group);
}

dinov_mat *dinov_pass_gradient(dinov_pass *p)
{
    DINOV_ASSERT(p->plan.kind != DINOV_PASS_FORWARD);
    memset(p->dx.data, 0, (size_t)(p->dx.rows * p->dx.ld) * p->ops->real_size);
    return &p->dx;
}

void dinov_pass_backward(dinov_pass *p, const dinov_backbone *params, const dinov_backbone *grads)
{
    for (int64_t i = p->model.depth - 1; i >= 0; i--) {
        struct acts *acts = &p->acts[p->plan.kind == DINOV_PASS_KEEP ? i : 0];
        if (p->plan.kind == DINOV_PASS_RECOMPUTE) {
            p->ops->gather(&p->stream, &p->again, &p->inputs[i], NULL, 1);
            attention_forward(p, &params->blocks[i], i, acts, &p->again);
            ffn_forward(p, &params->blocks[i], i, acts, &p->again);
        }
        ffn_backward(p, &params->blocks[i], &grads->blocks[i], i, acts);
        attention_backward(p, &params->blocks[i], &grads->blocks[i], i, acts);
    }
    for (int g = 0; g < p->plan.groups; g++) embed_backward(p, grads, &p->group[g]);
}
