/* SPDX-License-Identifier: Apache-2.0
 *
 * The training entries of a float table against the reference in double. A trial is a list of matrices, some
 * of which an entry overwrites; all of them are compared afterwards, so a write into an input shows too.
 */
#include "tests/kernels/pairs.h"

enum { MAX_PAIRS = 8, MAX_ROWS = 140 };

struct trial {
    const char      *what;
    struct pair      p[MAX_PAIRS];
    int              count;
    double           limit; /* largest ||f - d|| / ||d|| of any of them */
    int64_t          n[4];
    dinov_activation act;
    const int32_t   *rows;
    const uint8_t   *mask;
    int              variant;
};

/* m: the matrices of the trial, all float or all double. */
typedef void (*entry)(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t);
typedef size_t (*scratch_of)(const dinov_ops *ops, const struct trial *t, int threads);

static void add(struct trial *t, struct pair p)
{
    DINOV_ASSERT(t->count < MAX_PAIRS);
    t->p[t->count++] = p;
}

static void *scratch_new(const dinov_ops *ops, const struct trial *t, scratch_of size, int threads)
{
    return size ? must(dinov_alloc_aligned(size(ops, t, threads), 1)) : NULL;
}

static void matrices(dinov_mat *m, const struct trial *t, const struct pair *p, int wide)
{
    for (int i = 0; i < t->count; i++) m[i] = wide ? p[i].d : p[i].f;
}

/* The reference, then one thread, then three. */
static void try(const dinov_ops *ops, dinov_pool *pool, struct trial *t, entry run, scratch_of size)
{
    dinov_mat    m[MAX_PAIRS];
    struct pair  again[MAX_PAIRS];
    dinov_stream wide = {.scratch = scratch_new(&dinov_ops_ref_f64, t, size, 1)}, one = {.scratch = scratch_new(ops, t, size, 1)};
    dinov_stream many = {.pool = pool, .scratch = scratch_new(ops, t, size, 3)};

    for (int i = 0; i < t->count; i++) again[i] = pair_copy(&t->p[i]);
    matrices(m, t, t->p, 1), run(&dinov_ops_ref_f64, &wide, m, t);
    matrices(m, t, t->p, 0), run(ops, &one, m, t);
    matrices(m, t, again, 0), run(ops, &many, m, t);
    for (int i = 0; i < t->count; i++) {
        const dinov_mat *f     = &t->p[i].f;
        double           error = difference(&t->p[i]), limit = allowed(&t->p[i], t->limit);
        memcpy(again[i].d.data, t->p[i].d.data, (size_t)((f->rows + 1) * f->ld) * sizeof(double));
        report(error <= limit, "%s (%lld %lld %lld %lld, %d), argument %d: %.2e, expected at most %.0e", t->what,
               (long long)t->n[0], (long long)t->n[1], (long long)t->n[2], (long long)t->n[3], t->variant, i, error, limit);
        report(same_bits(f, &again[i].f) && isfinite(difference(&again[i])),
               "%s (%lld %lld %lld %lld, %d), argument %d: bits differ with threads", t->what, (long long)t->n[0],
               (long long)t->n[1], (long long)t->n[2], (long long)t->n[3], t->variant, i);
        pair_free(&t->p[i]), pair_free(&again[i]);
    }
    dinov_free(wide.scratch), dinov_free(one.scratch), dinov_free(many.scratch);
    t->count = 0;
}

/* ---- linear ---- */

/* dx, dy, weight, scale */
static void run_transposed(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    int64_t n = t->n[1], k = t->n[2];
    void   *packed = must(dinov_alloc_aligned(ops->linear_size(k, n), ops->real_size));
    void   *bias   = must(dinov_alloc_aligned(ops->linear_bias_size(k), ops->real_size));
    ops->linear_pack_transposed(s, packed, m[2].data, n, k, t->variant ? m[3].data : NULL);
    ops->linear_pack_bias(s, bias, NULL, k, DINOV_ACT_NONE);
    ops->linear(s, &m[0], &m[1], &(dinov_linear){k, n, DINOV_ACT_NONE, packed, bias}, NULL, NULL);
    dinov_free(packed), dinov_free(bias);
}

/* dweight, dbias, dy, x */
static void run_linear_backward(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->linear_backward(s, m[0].data, t->variant ? m[1].data : NULL, &m[2], &m[3]);
}

/* dgamma, dweight, dbias, dw, db, gamma, weight, bias */
static void run_layerscale(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->layerscale_backward(s, m[0].data, m[1].data, m[2].data, m[3].data, m[4].data, m[5].data, m[6].data, m[7].data, t->n[1],
                             t->n[2]);
}

static void check_linear(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t n, int64_t k)
{
    for (int variant = 0; variant < 2; variant++) {
        struct trial t = {.what = "linear_pack_transposed", .limit = 1e-6, .n = {m, n, k}, .variant = variant};
        add(&t, pair_new(m, k, 0)), add(&t, pair_new(m, n, 1)), add(&t, pair_packed(n, k, 1)), add(&t, pair_packed(1, n, 1));
        try(ops, pool, &t, run_transposed, NULL);
        t.what = "linear_backward";
        add(&t, pair_packed(n, k, 1)), add(&t, pair_packed(1, n, 1)), add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, k, 1));
        try(ops, pool, &t, run_linear_backward, NULL);
    }
    struct trial t = {.what = "layerscale_backward", .limit = 1e-6, .n = {0, n, k}};
    add(&t, pair_packed(1, n, 1)), add(&t, pair_packed(n, k, 1)), add(&t, pair_packed(1, n, 1)), add(&t, pair_packed(n, k, 1));
    add(&t, pair_packed(1, n, 1)), add(&t, pair_packed(1, n, 1)), add(&t, pair_packed(n, k, 1)), add(&t, pair_packed(1, n, 1));
    try(ops, pool, &t, run_layerscale, NULL);
}

/* ---- norms; variant 1: dx overwrites dy ---- */

/* dx, dy, x, weight, dweight, dbias */
static void run_layernorm(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->layernorm_backward(s, &m[0], m[4].data, m[5].data, &m[t->variant ? 0 : 1], &m[2], m[3].data, 1e-6);
}

static size_t layernorm_scratch(const dinov_ops *ops, const struct trial *t, int threads)
{
    (void)threads;
    return ops->layernorm_backward_scratch(t->n[0], t->n[1]);
}

/* y, x; then dx, dy, x */
static void run_normalize(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->normalize(s, &m[0], &m[t->variant ? 0 : 1], 1e-12);
}
static void run_normalize_backward(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->normalize_backward(s, &m[0], &m[t->variant ? 0 : 1], &m[2], 1e-12);
}

/* w, v, g, dw, dv, dg */
static void run_weight_norm(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->weight_norm(s, m[0].data, m[1].data, m[2].data, t->n[0], t->n[1]);
    ops->weight_norm_backward(s, m[4].data, m[5].data, m[3].data, m[1].data, m[2].data, t->n[0], t->n[1]);
}

/* Three columns are sometimes almost equal: then their deviations are known badly. */
static void check_norms(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t n)
{
    for (int variant = 0; variant < 2; variant++) {
        /* Of three values the mean and one more direction are taken away: a difference is left. */
        struct trial t = {.what = "layernorm_backward", .limit = n == 3 ? 2e-5 : 1e-6, .n = {m, n}, .variant = variant};
        add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, n, 1)), add(&t, pair_packed(1, n, 1));
        add(&t, pair_packed(1, n, 1)), add(&t, pair_packed(1, n, 1));
        try(ops, pool, &t, run_layernorm, layernorm_scratch);
        t.what = "normalize";
        add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, n, 1));
        try(ops, pool, &t, run_normalize, NULL);
        t.what = "normalize_backward";
        add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, n, 1));
        try(ops, pool, &t, run_normalize_backward, NULL);
    }
    struct trial t = {.what = "weight_norm", .limit = 1e-6, .n = {m, n}};
    add(&t, pair_packed(m, n, 0)), add(&t, pair_packed(m, n, 1)), add(&t, pair_packed(1, m, 1)), add(&t, pair_packed(m, n, 1));
    add(&t, pair_packed(m, n, 1)), add(&t, pair_packed(1, m, 1));
    try(ops, pool, &t, run_weight_norm, NULL);
}

/* ---- attention ---- */

/* dqkv, dout, qkv */
static void run_attention(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->attention_backward(s, &m[0], &m[1], &m[2], t->n[0], t->n[2]);
}

static size_t attention_scratch(const dinov_ops *ops, const struct trial *t, int threads)
{
    return ops->attention_backward_scratch(t->n[0], t->n[1], t->n[2], t->n[3], threads);
}

/* `sharp` makes scores large: a softmax far from uniform. */
static void check_attention(const dinov_ops *ops, dinov_pool *pool, int64_t images, int64_t tokens, int64_t heads, int64_t dim,
                            int sharp)
{
    struct trial t = {
        .what = "attention_backward", .limit = sharp > 1 ? 1e-5 : 1e-6, .n = {images, tokens, heads, dim}, .variant = sharp};
    int64_t C = heads * dim;
    add(&t, pair_new(images * tokens, 3 * C, 0)), add(&t, pair_new(images * tokens, C, 1)),
        add(&t, pair_new(images * tokens, 3 * C, 1));
    for (int64_t r = 0; r < images * tokens; r++)
        for (int64_t c = 0; c < C; c++) {
            float *q = (float *)t.p[2].f.data + r * t.p[2].f.ld + c;
            *q *= (float)sharp, ((double *)t.p[2].d.data)[r * t.p[2].d.ld + c] = (double)*q;
        }
    try(ops, pool, &t, run_attention, attention_scratch);
}

/* ---- activations; variant 1: dx overwrites x, y overwrites dy ---- */

static void run_activation(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->activation(s, &m[0], &m[1], t->act);
}

/* dx, y, dy, x */
static void run_activation_backward(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->activation_backward(s, &m[0], &m[1], &m[t->variant ? 1 : 2], &m[t->variant ? 0 : 3], t->act);
}

static void check_activation(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t n, dinov_activation act)
{
    int64_t in = act == DINOV_ACT_SWIGLU ? 2 * n : n;
    for (int variant = 0; variant < 2; variant++) {
        struct trial t = {.what = "activation", .limit = 1e-6, .n = {m, n, act}, .act = act, .variant = variant};
        add(&t, pair_new(m, n, 0)), add(&t, pair_new(m, in, 1));
        try(ops, pool, &t, run_activation, NULL);
        t.what = "activation_backward";
        add(&t, pair_new(m, in, 1)), add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, n, 1)), add(&t, pair_new(m, in, 1));
        for (int i = 0; i < 4; i += 3) /* reach the tails */
            for (int64_t j = 0; j < m * t.p[i].f.ld; j++)
                if (((float *)t.p[i].f.data)[j] != GUARD) ((float *)t.p[i].f.data)[j] *= 8, ((double *)t.p[i].d.data)[j] *= 8;
        try(ops, pool, &t, run_activation_backward, NULL);
    }
}

/* The derivatives element by element, where relative errors of a whole would hide them. */
static void check_derivatives(const dinov_ops *ops)
{
    enum { POINTS = 40001 };
    dinov_stream s = {0};
    struct pair  x = pair_new(POINTS, 2, 0), y = pair_new(POINTS, 2, 0), dx = pair_new(POINTS, 2, 0), dy = pair_new(POINTS, 2, 0);
    double       worst[2] = {0};

    for (int i = 0; i < POINTS; i++) {
        float *xi = (float *)x.f.data + i * x.f.ld, *g = (float *)dy.f.data + i * dy.f.ld;
        xi[0] = (float)(i - POINTS / 2) * 5e-4f, xi[1] = 1, g[0] = g[1] = 1;
    }
    ops->activation_backward(&s, &dx.f, &y.f, &dy.f, &x.f, DINOV_ACT_GELU);
    for (int i = 0; i < POINTS; i++) {
        double v    = (double)((float *)x.f.data)[i * x.f.ld];
        double want = 0.5 * (1 + erf(v / sqrt(2.0))) + v * exp(-0.5 * v * v) / sqrt(6.283185307179586);
        worst[0]    = fmax(worst[0], fabs((double)((float *)dx.f.data)[i * dx.f.ld] - want));
    }
    dinov_mat narrow = {y.f.data, POINTS, 1, y.f.ld}, one = {dy.f.data, POINTS, 1, dy.f.ld};
    ops->activation_backward(&s, &dx.f, &narrow, &one, &x.f, DINOV_ACT_SWIGLU);
    for (int i = 0; i < POINTS; i++) {
        double v = (double)((float *)x.f.data)[i * x.f.ld], gate = 1 / (1 + exp(-v)), want = gate * (1 + v * (1 - gate));
        worst[1] = fmax(worst[1], fabs((double)((float *)dx.f.data)[i * dx.f.ld] - want));
        worst[1] = fmax(worst[1], fabs((double)((float *)dx.f.data)[i * dx.f.ld + 1] - v * gate) / fmax(1, fabs(v)));
    }
    report(worst[0] <= 3e-7, "GELU derivative: %.2e, expected at most 3e-7", worst[0]);
    report(worst[1] <= 5e-7, "SwiGLU derivative: %.2e, expected at most 5e-7", worst[1]);
    pair_free(&x), pair_free(&y), pair_free(&dx), pair_free(&dy);
}

/* ---- rows ---- */

/* y, x, scale, sums */
static void run_gather(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->gather(s, &m[0], &m[1], t->rows, t->variant ? 0.3 : 1);
    ops->column_sums(s, m[3].data, &m[0]);
}
static void run_scatter(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->scatter_add(s, &m[1], t->rows, &m[0], t->variant ? m[2].data : NULL, t->variant ? 0.3 : 1);
}

static void check_rows(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t n)
{
    int32_t rows[MAX_ROWS];
    for (int64_t i = 0; i < m; i++) rows[i] = (int32_t)((i * 7 + 2) % (2 * m + 1));
    if (2 * m % 7 == 6) rows[0] = 0; /* 2m + 1 a multiple of 7: repeats */
    for (int variant = 0; variant < 3; variant++) {
        struct trial t = {.what = "gather", .limit = 1e-6, .n = {m, n}, .variant = variant, .rows = variant == 1 ? NULL : rows};
        add(&t, pair_new(m, n, 0)), add(&t, pair_new(2 * m + 1, n, 1)), add(&t, pair_packed(1, n, 1)),
            add(&t, pair_packed(1, n, 1));
        try(ops, pool, &t, run_gather, NULL);
        t.what = "scatter_add";
        add(&t, pair_new(m, n, 1)), add(&t, pair_new(2 * m + 1, n, 1)), add(&t, pair_packed(1, n, 1)),
            add(&t, pair_packed(1, n, 1));
        try(ops, pool, &t, run_scatter, NULL);
    }
}

/* x, patches, cls, registers, mask token, pos */
static void run_embed(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->embed(s, &m[0], &m[1], m[2].data, m[3].data, m[4].data, m[5].data, t->mask, t->n[0], t->n[2]);
}
static void run_embed_backward(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->embed_backward(s, &m[1], m[2].data, m[3].data, m[4].data, m[5].data, &m[0], t->mask, t->n[0], t->n[2]);
}

static void check_embed(const dinov_ops *ops, dinov_pool *pool, int64_t images, int64_t patches, int64_t registers, int64_t width)
{
    uint8_t mask[1024];
    DINOV_ASSERT(images * patches <= 1024);
    for (int i = 0; i < 1024; i++) mask[i] = uniform() > 0.2f;
    for (int backward = 0; backward < 2; backward++)
        for (int masked = 0; masked < 2; masked++) {
            struct trial t = {.what    = backward ? "embed_backward" : "embed",
                              .limit   = 1e-6,
                              .n       = {images, patches, registers, width},
                              .variant = masked,
                              .mask    = masked ? mask : NULL};
            add(&t, pair_new(images * (1 + registers + patches), width, backward)),
                add(&t, pair_new(images * patches, width, !backward));
            add(&t, pair_packed(1, width, 1)), add(&t, pair_packed(registers, width, 1)), add(&t, pair_packed(1, width, 1));
            add(&t, pair_packed(1 + patches, width, 1));
            try(ops, pool, &t, backward ? run_embed_backward : run_embed, NULL);
        }
}

/* ---- losses ---- */

/* z, bias, max, sum */
static void run_stats(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->softmax_stats(s, m[2].data, m[3].data, &m[0], t->variant ? m[1].data : NULL, 0.07);
}
/* z, bias, lse, entropy */
static void run_apply(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->softmax_apply(s, &m[0], t->variant ? m[3].data : NULL, t->variant ? m[1].data : NULL, m[2].data, 0.07);
}
/* sums, z, offset */
static void run_exp_sums(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    (void)t;
    ops->exp_sums(s, m[0].data, &m[1], m[2].data, 0.07);
}
/* z, loss, lse, p, weight */
static void run_cross_entropy(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->cross_entropy(s, &m[0], m[1].data, m[2].data, &m[3], t->rows, m[4].data, 0.1);
}
/* distance, dx, x */
static void run_koleo(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    (void)t;
    ops->koleo(s, m[0].data, &m[1], &m[2], 0.1);
}
static size_t koleo_scratch(const dinov_ops *ops, const struct trial *t, int threads)
{
    (void)threads;
    return ops->koleo_scratch(t->n[0], t->n[1]);
}

static void fill(struct pair *p, float value)
{
    for (int64_t r = 0; r < p->f.rows; r++)
        for (int64_t c = 0; c < p->f.cols; c++)
            ((float *)p->f.data)[r * p->f.ld + c] = value, ((double *)p->d.data)[r * p->d.ld + c] = (double)value;
}

/* Temperatures make the exponents reach 15, where a float knows them to 1e-6: so does its exponential. A loss is a
 * difference of larger numbers. */
static void check_losses(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t cols)
{
    int32_t targets[2 * MAX_ROWS];
    for (int64_t i = 0; i < 2 * m; i++) targets[i] = (int32_t)(i % 5) - 1;
    for (int variant = 0; variant < 3; variant++) {
        struct trial t = {.what = "softmax_stats", .limit = 5e-6, .n = {m, cols}, .variant = variant, .rows = targets};
        add(&t, pair_new(m, cols, 1)), add(&t, pair_packed(1, cols, 1)), add(&t, pair_packed(1, m, 1)),
            add(&t, pair_packed(1, m, 1));
        if (variant != 1) fill(&t.p[2], -INFINITY), fill(&t.p[3], 0);
        try(ops, pool, &t, run_stats, NULL);
        t.what = "softmax_apply";
        add(&t, pair_new(m, cols, 1)), add(&t, pair_packed(1, cols, 1)), add(&t, pair_packed(1, m, 1)),
            add(&t, pair_packed(1, m, 1));
        fill(&t.p[2], 15);
        try(ops, pool, &t, run_apply, NULL);
        t.what = "exp_sums";
        add(&t, pair_packed(1, cols, 0)), add(&t, pair_new(m, cols, 1)), add(&t, pair_packed(1, m, 1));
        try(ops, pool, &t, run_exp_sums, NULL);
        t.what = "cross_entropy";
        add(&t, pair_new(m, cols, 1)), add(&t, pair_packed(1, m, 1)), add(&t, pair_packed(1, m, 1)), add(&t, pair_new(4, cols, 1));
        add(&t, pair_packed(1, m, 1)), fill(&t.p[2], 10);
        try(ops, pool, &t, run_cross_entropy, NULL);
    }
    if (m < 2) return;
    struct trial t = {.what = "koleo", .limit = 3e-6, .n = {m, cols}};
    add(&t, pair_packed(1, m, 0)), add(&t, pair_new(m, cols, 1)), add(&t, pair_new(m, cols, 1));
    try(ops, pool, &t, run_koleo, koleo_scratch);
}

/* Equal rows: nearest to each other, 1e-8 apart by definition; nothing may become infinite. */
static void check_equal_rows(const dinov_ops *ops)
{
    struct pair  x = pair_new(3, 20, 1), dx = pair_new(3, 20, 1), distance = pair_packed(1, 3, 0);
    dinov_stream s      = {.scratch = must(dinov_alloc_aligned(ops->koleo_scratch(3, 20), 1))};
    int          finite = 1;
    memcpy((float *)x.f.data + x.f.ld, x.f.data, 20 * sizeof(float));
    ops->koleo(&s, distance.f.data, &dx.f, &x.f, 0.1);
    for (int i = 0; i < 60; i++)
        finite &= isfinite(((float *)dx.f.data)[i / 20 * dx.f.ld + i % 20]) && isfinite(((float *)distance.f.data)[i / 20]);
    report(finite, "koleo of equal rows: not finite");
    report(((float *)distance.f.data)[0] < 1e-6f, "koleo of equal rows: distance %g", (double)((float *)distance.f.data)[0]);
    pair_free(&x), pair_free(&dx), pair_free(&distance), dinov_free(s.scratch);
}

/* What went wrong has to look like it: exp of NaN is not a small number. */
static void check_nan(const dinov_ops *ops)
{
    dinov_stream s = {.scratch = must(dinov_alloc_aligned(1 << 16, 1))};
    float        z[2 * 40], y[2 * 40], max[2] = {0, 0}, sum[2] = {0, 0}, loss[2] = {0, 0}, lse[2] = {3, 3}, sums[40];
    int32_t      targets[4] = {0, -1, 0, -1};
    dinov_mat    x = {z, 2, 40, 40}, to = {y, 2, 40, 40}, teacher = {y, 1, 40, 40}, qkv = {z, 2, 39, 40}, out = {y, 2, 13, 40};

    for (int bad = 40; bad < 79; bad += 13) { /* in q, in k, in v */
        for (int i = 0; i < 80; i++) z[i] = i == bad ? NAN : uniform(), y[i] = 0.1f;
        ops->softmax_stats(&s, max, sum, &x, NULL, 0.1);
        report(isfinite(sum[0]) && isnan(sum[1]), "softmax_stats of NaN: %g", (double)sum[1]);
        sum[1] = 0, max[1] = 0;
        ops->exp_sums(&s, sums, &x, lse, 0.1);
        report(isnan(sums[bad - 40]), "exp_sums of NaN: %g", (double)sums[bad - 40]);
        ops->attention(&s, &out, &qkv, 1, 1);
        report(isnan(y[40]), "attention of NaN: %g", (double)y[40]);
        ops->activation(&s, &to, &x, DINOV_ACT_GELU);
        report(isnan(y[bad]), "GELU of NaN: %g", (double)y[bad]);
        for (int i = 0; i < 80; i++) y[i] = 0.1f;
        ops->cross_entropy(&s, &x, loss, lse, &teacher, targets, lse, 0.1);
        report(isfinite(loss[0]) && isnan(loss[1]) && isnan(z[bad]), "cross_entropy of NaN: %g", (double)loss[1]);
        loss[1] = 0;
    }
    dinov_free(s.scratch);
}

/* ---- the optimiser ---- */

/* p, g, m, v */
static void run_adamw(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->adamw(s, m[0].data, m[1].data, m[2].data, m[3].data, t->n[0], 0.5, 1e-2, 0.05, 0.9, 0.999, 1e-8, t->n[1]);
    ops->ema(s, m[2].data, m[0].data, t->n[0], 0.992);
}

static void check_optimiser(const dinov_ops *ops, dinov_pool *pool, int64_t count)
{
    struct trial t = {.what = "adamw, ema", .limit = 1e-6, .n = {count, 1}};
    for (; t.n[1] < 400; t.n[1] += 199) {
        for (int i = 0; i < 4; i++) add(&t, pair_packed(1, count, 1));
        for (int64_t i = 0; i < count; i++) /* the second moment is a square */
            ((float *)t.p[3].f.data)[i]          = fabsf(((float *)t.p[3].f.data)[i]),
                    ((double *)t.p[3].d.data)[i] = fabs(((double *)t.p[3].d.data)[i]);
        try(ops, pool, &t, run_adamw, NULL);
    }

    dinov_stream one = {0}, many = {.pool = pool};
    struct pair  x = pair_packed(1, count, 1);
    double       want, found, again;
    dinov_ops_ref_f64.sum_squares(&one, &want, x.d.data, count);
    ops->sum_squares(&one, &found, x.f.data, count), ops->sum_squares(&many, &again, x.f.data, count);
    report(fabs(found - want) <= 1e-13 * want, "sum_squares of %lld: %.2e, expected at most 1e-13", (long long)count,
           fabs(found / want - 1));
    report(memcmp(&found, &again, sizeof found) == 0, "sum_squares of %lld: bits differ with threads", (long long)count);
    for (int i = 0; i < 3; i++) {
        float *at = (float *)x.f.data + (i == 0 ? 0 : i == 1 ? count / 2 : count - 1), kept = *at;
        *at = i == 1 ? NAN : -INFINITY;
        ops->sum_squares(&many, &found, x.f.data, count);
        report(!isfinite(found), "sum_squares of %lld: element %d is not finite, the sum is", (long long)count, i);
        *at = 3e38f; /* its square is no float */
        ops->sum_squares(&many, &found, x.f.data, count);
        report(found > 8.9e76 && found < 9.1e76, "sum_squares of %lld: squares overflow", (long long)count);
        *at = kept;
    }
    pair_free(&x);
}

void check_training(const dinov_ops *ops, dinov_pool *pool)
{
    static const int64_t rows[]      = {1, 7, 65, 133};
    static const int64_t shapes[][3] = {{1, 1, 1},      {7, 3, 5},     {65, 17, 33},    {256, 64, 64},   {257, 13, 130},
                                        {700, 100, 70}, {1030, 7, 49}, {133, 200, 230}, {300, 400, 700}, {2100, 9, 20}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) check_linear(ops, pool, shapes[i][0], shapes[i][1], shapes[i][2]);
    for (int i = 0; i < 4; i++)
        for (int64_t n = 3; n < 150; n = n * 2 + 1) {
            check_norms(ops, pool, rows[i], n);
            check_activation(ops, pool, rows[i], n, DINOV_ACT_GELU);
            check_activation(ops, pool, rows[i], n, DINOV_ACT_SWIGLU);
            check_rows(ops, pool, rows[i], n);
            check_losses(ops, pool, rows[i], n);
        }
    check_rows(ops, pool, 65, 300);
    check_losses(ops, pool, 65, 2500);
    check_derivatives(ops);
    check_equal_rows(ops);
    check_nan(ops);
    for (int64_t tokens = 1; tokens < 140; tokens += 23) {
        check_attention(ops, pool, 1, tokens, 2, 64, 1);
        check_attention(ops, pool, 3, tokens, 1, 40, 1);
        check_attention(ops, pool, 2, tokens, 3, 5, 1);
    }
    check_attention(ops, pool, 2, 257, 2, 16, 1);
    check_attention(ops, pool, 1, 300, 1, 64, 40);
    check_attention(ops, pool, 1, 530, 1, 20, 1);
    check_embed(ops, pool, 1, 4, 0, 8);
    check_embed(ops, pool, 7, 6, 4, 70);
    check_embed(ops, pool, 66, 9, 1, 13);
    check_optimiser(ops, pool, 1);
    check_optimiser(ops, pool, 1003);
    check_optimiser(ops, pool, 70001);
}

/* ---- --bench ---- */

struct timed {
    const dinov_ops *ops;
    dinov_stream     s;
    struct trial     t;
    dinov_mat        m[MAX_PAIRS];
    entry            run;
};

static void run_timed(void *arg)
{
    struct timed *timed = arg;
    timed->run(timed->ops, &timed->s, timed->m, &timed->t);
}

/* Operations, or bytes read and written. */
static void measure(const dinov_ops *ops, dinov_pool *pool, struct trial *t, entry run, scratch_of size, double flops, double bytes)
{
    char         name[80];
    struct timed timed = {ops, {.pool = pool, .scratch = scratch_new(ops, t, size, dinov_pool_threads(pool))}, *t, .run = run};
    matrices(timed.m, t, t->p, 0);
    snprintf(name, sizeof name, "%s %lld %lld %lld %lld", t->what, (long long)t->n[0], (long long)t->n[1], (long long)t->n[2],
             (long long)t->n[3]);
    bench(pool, name, flops, bytes, run_timed, &timed);
    for (int i = 0; i < t->count; i++) pair_free(&t->p[i]);
    t->count = 0;
    dinov_free(timed.s.scratch);
}

/* dx, dy, packed, bias */
static void run_dx(const dinov_ops *ops, dinov_stream *s, dinov_mat *m, const struct trial *t)
{
    ops->linear(s, &m[0], &m[1], &(dinov_linear){t->n[2], t->n[1], DINOV_ACT_NONE, m[2].data, m[3].data}, NULL, NULL);
}

static void bench_linear(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t n, int64_t k)
{
    struct trial t = {.what = "linear_backward", .n = {m, n, k}, .variant = 1};
    add(&t, pair_packed(n, k, 1)), add(&t, pair_packed(1, n, 1)), add(&t, pair_packed(m, n, 1)), add(&t, pair_packed(m, k, 1));
    measure(ops, pool, &t, run_linear_backward, NULL, 2.0 * (double)(m * n * k), 0);
    t.what = "linear dx";
    add(&t, pair_packed(m, k, 0)), add(&t, pair_packed(m, n, 1)), add(&t, pair_packed(1, (int64_t)ops->linear_size(k, n), 1));
    add(&t, pair_packed(1, (int64_t)ops->linear_bias_size(k), 1));
    measure(ops, pool, &t, run_dx, NULL, 2.0 * (double)(m * n * k), 0);
}

static void bench_attention(const dinov_ops *ops, dinov_pool *pool, int64_t images, int64_t tokens, int64_t heads, int64_t dim)
{
    struct trial t = {.what = "attention_backward", .n = {images, tokens, heads, dim}};
    int64_t      C = heads * dim;
    add(&t, pair_packed(images * tokens, 3 * C, 0)), add(&t, pair_packed(images * tokens, C, 1)),
        add(&t, pair_packed(images * tokens, 3 * C, 1));
    measure(ops, pool, &t, run_attention, attention_scratch, 10.0 * (double)(images * tokens * tokens * C), 0);
}

void bench_training(const dinov_ops *ops, dinov_pool *pool)
{
    static const int64_t shapes[][3] = {{8704, 576, 192},  {8704, 192, 192}, {8704, 768, 192},  {8704, 192, 768}, {17024, 768, 192},
                                        {3656, 1152, 384}, {3656, 384, 384}, {3656, 1536, 384}, {3656, 384, 1536}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) bench_linear(ops, pool, shapes[i][0], shapes[i][1], shapes[i][2]);
    bench_attention(ops, pool, 32, 65, 3, 64);
    bench_attention(ops, pool, 64, 17, 3, 64);
    bench_attention(ops, pool, 4, 257, 6, 64);
    bench_attention(ops, pool, 16, 50, 6, 64);
    bench_attention(ops, pool, 1, 1370, 6, 64);

    const int64_t m = 8704, n = 768, c = 192, K = 16384, B = 256;
    struct trial  t    = {.what = "activation GELU", .n = {m, n}, .act = DINOV_ACT_GELU, .variant = 0};
    double        size = (double)(m * n) * sizeof(float), narrow = (double)(m * c) * sizeof(float),
           chunk = (double)(B * K) * sizeof(float);
    add(&t, pair_packed(m, n, 0)), add(&t, pair_packed(m, n, 1));
    measure(ops, pool, &t, run_activation, NULL, 0, 2 * size);
    t.what = "activation_backward GELU";
    for (int i = 0; i < 4; i++) add(&t, pair_packed(m, n, 1));
    measure(ops, pool, &t, run_activation_backward, NULL, 0, 4 * size);
    t.what = "activation_backward SwiGLU", t.act = DINOV_ACT_SWIGLU;
    for (int i = 0; i < 4; i++) add(&t, pair_packed(m, i % 3 ? n : 2 * n, 1));
    measure(ops, pool, &t, run_activation_backward, NULL, 0, 6 * size);

    t = (struct trial){.what = "layernorm_backward", .n = {m, c}};
    for (int i = 0; i < 3; i++) add(&t, pair_packed(m, c, 1));
    for (int i = 0; i < 3; i++) add(&t, pair_packed(1, c, 1));
    measure(ops, pool, &t, run_layernorm, layernorm_scratch, 0, 3 * narrow);
    t.what = "normalize_backward";
    for (int i = 0; i < 3; i++) add(&t, pair_packed(m, c, 1));
    measure(ops, pool, &t, run_normalize_backward, NULL, 0, 3 * narrow);

    int32_t *rows = must(dinov_alloc((size_t)m, sizeof *rows));
    for (int64_t i = 0; i < m; i++) rows[i] = (int32_t)i;
    t = (struct trial){.what = "gather and column_sums", .n = {m, c}, .rows = rows};
    add(&t, pair_packed(m, c, 0)), add(&t, pair_packed(m, c, 1)), add(&t, pair_packed(1, c, 1)), add(&t, pair_packed(1, c, 1));
    measure(ops, pool, &t, run_gather, NULL, 0, 3 * narrow);
    t.what = "scatter_add", t.variant = 1;
    add(&t, pair_packed(m, c, 1)), add(&t, pair_packed(m, c, 1)), add(&t, pair_packed(1, c, 1));
    measure(ops, pool, &t, run_scatter, NULL, 0, 3 * narrow);
    dinov_free(rows);

    uint8_t *mask = must(dinov_calloc(128, 64));
    for (int i = 0; i < 128 * 64; i++) mask[i] = i % 3 == 0;
    for (int backward = 0; backward < 2; backward++) {
        t = (struct trial){.what = backward ? "embed_backward" : "embed", .n = {128, 64, 0}, .mask = mask};
        add(&t, pair_packed(128 * 65, c, 1)), add(&t, pair_packed(128 * 64, c, 1)), add(&t, pair_packed(1, c, 1));
        add(&t, pair_packed(1, c, 1)), add(&t, pair_packed(1, c, 1)), add(&t, pair_packed(65, c, 1));
        measure(ops, pool, &t, backward ? run_embed_backward : run_embed, NULL, 0, 2.0 * 128 * 64 * (double)c * sizeof(float));
    }
    dinov_free(mask);

    int32_t targets[512];
    for (int i = 0; i < 512; i++) targets[i] = i % 2 ? -1 : i / 16;
    t = (struct trial){.what = "softmax_stats", .n = {B, K}, .rows = targets, .variant = 1};
    add(&t, pair_packed(B, K, 1)), add(&t, pair_packed(1, K, 1)), add(&t, pair_packed(1, B, 1)), add(&t, pair_packed(1, B, 1));
    measure(ops, pool, &t, run_stats, NULL, 0, chunk);
    t.what = "softmax_apply";
    add(&t, pair_packed(B, K, 1)), add(&t, pair_packed(1, K, 1)), add(&t, pair_packed(1, B, 1)), add(&t, pair_packed(1, B, 1));
    measure(ops, pool, &t, run_apply, NULL, 0, 2 * chunk);
    t.what = "exp_sums";
    add(&t, pair_packed(1, K, 0)), add(&t, pair_packed(B, K, 1)), add(&t, pair_packed(1, B, 1));
    measure(ops, pool, &t, run_exp_sums, NULL, 0, chunk);
    t.what = "cross_entropy";
    add(&t, pair_packed(B, K, 1)), add(&t, pair_packed(1, B, 1)), add(&t, pair_packed(1, B, 1)), add(&t, pair_packed(32, K, 1));
    add(&t, pair_packed(1, B, 1));
    measure(ops, pool, &t, run_cross_entropy, NULL, 0, 3 * chunk);
    t = (struct trial){.what = "weight_norm and backward", .n = {K, 256}};
    add(&t, pair_packed(K, 256, 0)), add(&t, pair_packed(K, 256, 1)), add(&t, pair_packed(1, K, 1)),
        add(&t, pair_packed(K, 256, 1));
    add(&t, pair_packed(K, 256, 1)), add(&t, pair_packed(1, K, 1));
    measure(ops, pool, &t, run_weight_norm, NULL, 0, 6.0 * (double)(K * 256) * sizeof(float));

    t = (struct trial){.what = "adamw and ema", .n = {1 << 23, 10}};
    for (int i = 0; i < 4; i++) add(&t, pair_packed(1, 1 << 23, 1));
    fill(&t.p[3], 1);
    measure(ops, pool, &t, run_adamw, NULL, 0, 10.0 * (1 << 23) * sizeof(float));
}
