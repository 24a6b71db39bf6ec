/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference in double against the definition of a derivative: every backward entry, at odd shapes, with
 * central differences. Where an official number is known (Sinkhorn-Knopp, cross-entropy, KoLeo, AdamW), it
 * stands here too. The fast tables are held to the reference by kernels_check.
 */
#include "base/alloc.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Central differences with step h err by h^2 f'''/6 ~ 1e-11 and by rounding, 1e-16 |loss| / h ~ 1e-10 for the
 * losses here (sums of up to some thousand terms of size 1), against gradients of size 1. */
#define STEP 1e-5
#define LIMIT 1e-7

enum { MAX_ARRAYS = 8, SAMPLES = 60 };

static int      failures, checks;
static double   largest;
static uint64_t state = 88172645463325252u;

static void report(int ok, const char *what, double found, double limit)
{
    checks++;
    if (ok) return;
    failures++;
    printf("FAILED %s: %.3e, expected at most %.0e\n", what, found, limit);
}

static double uniform(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(state >> 11) * 0x1p-52 - 1.0;
}

/* One argument of an op: its values, what backward says its gradient is, and whether that accumulates. */
struct array {
    dinov_mat value, grad;
    double   *before; /* of an accumulating gradient */
};

/* What is checked: loss is a sum over the outputs of forward, weighted with `out.grad`, or one number. */
struct fixture {
    const dinov_ops *ops;
    dinov_stream     s;
    struct array     a[MAX_ARRAYS];
    int              arrays;
    dinov_mat        out, dout;
    int64_t          n[6];
    dinov_activation act;
    const int32_t   *rows;
    const uint8_t   *mask;
    double (*loss)(struct fixture *f); /* NULL: forward, then the weighted sum of out */
    void (*forward)(struct fixture *f);
    void (*backward)(struct fixture *f);
};

static void *must(void *p)
{
    DINOV_ASSERT(p);
    return p;
}

static dinov_mat matrix(int64_t rows, int64_t cols, int64_t ld, int random)
{
    dinov_mat m = {must(dinov_calloc((size_t)(rows * ld + 1), sizeof(double))), rows, cols, ld};
    for (int64_t i = 0; i < rows * ld; i++) ((double *)m.data)[i] = random ? uniform() : 0;
    return m;
}

static double *at(const dinov_mat *m, int64_t r, int64_t c) { return (double *)m->data + r * m->ld + c; }

/* gap: elements between rows; packed arrays have none. An accumulating gradient starts from random numbers, another from nonsense.
 */
static dinov_mat *add(struct fixture *f, int64_t rows, int64_t cols, int64_t gap, int accumulates)
{
    struct array *a = &f->a[f->arrays++];
    a->value        = matrix(rows, cols, cols + gap, 1);
    a->grad         = matrix(rows, cols, cols + gap, 1);
    a->before       = accumulates ? matrix(rows, cols, cols + gap, 0).data : NULL;
    if (a->before) memcpy(a->before, a->grad.data, (size_t)(rows * (cols + gap)) * sizeof(double));
    return &a->value;
}

static void output(struct fixture *f, int64_t rows, int64_t cols)
{
    f->out  = matrix(rows, cols, cols + 2, 1);
    f->dout = matrix(rows, cols, cols + 2, 1);
}

static void scratch(struct fixture *f, size_t bytes) { f->s.scratch = must(dinov_alloc_aligned(bytes, 1)); }

static double loss(struct fixture *f)
{
    double sum = 0;
    if (f->loss) return f->loss(f);
    f->forward(f);
    for (int64_t r = 0; r < f->out.rows; r++)
        for (int64_t c = 0; c < f->out.cols; c++) sum += *at(&f->out, r, c) * *at(&f->dout, r, c);
    return sum;
}

/* Runs backward once and compares up to SAMPLES elements of each gradient; the error is relative to the gradient's rms. */
static void check(struct fixture *f, const char *what)
{
    double worst = 0;
    f->backward(f);
    for (int k = 0; k < f->arrays; k++) {
        struct array *a     = &f->a[k];
        int64_t       count = a->value.rows * a->value.cols, step = count / SAMPLES + 1;
        double        norm = 0, error = 0;
        for (int64_t i = 0; i < count; i++) {
            double *g = at(&a->grad, i / a->value.cols, i % a->value.cols);
            if (a->before) *g -= a->before[g - (double *)a->grad.data];
            norm += *g * *g;
        }
        norm = sqrt(norm / (double)count);
        for (int64_t i = 0; i < count; i += step) {
            double *x = at(&a->value, i / a->value.cols, i % a->value.cols), kept = *x, up, down;
            *x = kept + STEP, up = loss(f);
            *x = kept - STEP, down = loss(f);
            *x    = kept;
            error = fmax(error, fabs((up - down) / (2 * STEP) - *at(&a->grad, i / a->value.cols, i % a->value.cols)));
        }
        worst = fmax(worst, error / (norm > 1e-3 ? norm : 1e-3));
    }
    report(worst <= LIMIT, what, worst, LIMIT);
    if (worst > largest) largest = worst;
    for (int k = 0; k < f->arrays; k++) dinov_free(f->a[k].value.data), dinov_free(f->a[k].grad.data), dinov_free(f->a[k].before);
    dinov_free(f->out.data), dinov_free(f->dout.data), dinov_free(f->s.scratch);
}

static double *data(struct fixture *f, int k) { return f->a[k].value.data; }
static double *grad(struct fixture *f, int k) { return f->a[k].grad.data; }

static dinov_linear pack(struct fixture *f, int64_t n, int64_t k, const double *weight, const double *bias)
{
    void *packed = must(dinov_alloc(f->ops->linear_size(n, k), sizeof(double)));
    void *pbias  = must(dinov_alloc(f->ops->linear_bias_size(n), sizeof(double)));
    f->ops->linear_pack(&f->s, packed, weight, n, k, DINOV_ACT_NONE);
    f->ops->linear_pack_bias(&f->s, pbias, bias, n, DINOV_ACT_NONE);
    return (dinov_linear){n, k, DINOV_ACT_NONE, packed, pbias};
}

static void unpack(dinov_linear *l)
{
    dinov_free((void *)(uintptr_t)l->packed);
    dinov_free((void *)(uintptr_t)l->bias);
}

/* ---- linear: x, weight, bias, and with LayerScale gamma and a residual ---- */

static void linear_forward(struct fixture *f)
{
    dinov_linear l = pack(f, f->n[1], f->n[2], data(f, 1), data(f, 2));
    f->ops->linear(&f->s, &f->out, &f->a[0].value, &l, f->arrays > 3 ? &f->a[4].value : NULL, f->arrays > 3 ? data(f, 3) : NULL);
    unpack(&l);
}

static void linear_backward(struct fixture *f)
{
    int64_t      n = f->n[1], k = f->n[2];
    int          scaled = f->arrays > 3;
    dinov_linear l      = pack(f, k, n, data(f, 1), NULL);
    f->ops->linear_pack_transposed(&f->s, (void *)(uintptr_t)l.packed, data(f, 1), n, k, scaled ? data(f, 3) : NULL);
    f->ops->linear(&f->s, &f->a[0].grad, &f->dout, &l, NULL, NULL);
    unpack(&l);
    if (!scaled) {
        f->ops->linear_backward(&f->s, grad(f, 1), grad(f, 2), &f->dout, &f->a[0].value);
        return;
    }
    dinov_mat dw = matrix(n, k, k, 0), db = matrix(1, n, n, 0);
    f->ops->linear_backward(&f->s, dw.data, NULL, &f->dout, &f->a[0].value);
    f->ops->column_sums(&f->s, db.data, &f->dout);
    f->ops->layerscale_backward(&f->s, grad(f, 3), grad(f, 1), grad(f, 2), dw.data, db.data, data(f, 3), data(f, 1), data(f, 2), n,
                                k);
    for (int64_t r = 0; r < f->out.rows; r++) memcpy(at(&f->a[4].grad, r, 0), at(&f->dout, r, 0), (size_t)n * sizeof(double));
    dinov_free(dw.data), dinov_free(db.data);
}

static void check_linear(const dinov_ops *ops, int64_t m, int64_t n, int64_t k, int scaled)
{
    struct fixture f = {.ops = ops, .n = {m, n, k}, .forward = linear_forward, .backward = linear_backward};
    add(&f, m, k, 3, 0), add(&f, n, k, 0, 1), add(&f, 1, n, 0, 1);
    if (scaled) add(&f, 1, n, 0, 1), add(&f, m, n, 1, 0);
    output(&f, m, n);
    check(&f, scaled ? "linear with LayerScale" : "linear");
}

/* ---- layernorm ---- */

static void layernorm_forward(struct fixture *f)
{
    f->ops->layernorm(&f->s, &f->out, &f->a[0].value, data(f, 1), data(f, 2), 1e-6);
}

static void layernorm_backward(struct fixture *f)
{
    f->ops->layernorm_backward(&f->s, &f->a[0].grad, grad(f, 1), grad(f, 2), &f->dout, &f->a[0].value, data(f, 1), 1e-6);
}

static void check_layernorm(const dinov_ops *ops, int64_t m, int64_t n)
{
    struct fixture f = {.ops = ops, .forward = layernorm_forward, .backward = layernorm_backward};
    add(&f, m, n, 1, 0), add(&f, 1, n, 0, 1), add(&f, 1, n, 0, 1);
    output(&f, m, n), scratch(&f, ops->layernorm_backward_scratch(m, n));
    check(&f, "layernorm");
}

/* ---- attention ---- */

static void attention_forward(struct fixture *f) { f->ops->attention(&f->s, &f->out, &f->a[0].value, f->n[0], f->n[2]); }

static void attention_backward(struct fixture *f)
{
    f->ops->attention_backward(&f->s, &f->a[0].grad, &f->dout, &f->a[0].value, f->n[0], f->n[2]);
}

static void check_attention(const dinov_ops *ops, int64_t images, int64_t tokens, int64_t heads, int64_t dim)
{
    struct fixture f = {.ops = ops, .n = {images, tokens, heads}, .forward = attention_forward, .backward = attention_backward};
    size_t         a = ops->attention_scratch(images, tokens, heads, dim, 1),
           b         = ops->attention_backward_scratch(images, tokens, heads, dim, 1);
    add(&f, images * tokens, 3 * heads * dim, 3, 0);
    output(&f, images * tokens, heads * dim), scratch(&f, a > b ? a : b);
    check(&f, "attention");
}

/* ---- activation: y comes out of backward too, and both may overwrite what they were made of ---- */

static void activation_forward(struct fixture *f) { f->ops->activation(&f->s, &f->out, &f->a[0].value, f->act); }

static void activation_backward(struct fixture *f)
{
    dinov_mat y = matrix(f->out.rows, f->out.cols, f->out.cols + 1, 0), *dx = &f->a[0].grad;
    double    worst = 0;

    f->ops->activation_backward(&f->s, dx, &y, &f->dout, &f->a[0].value, f->act);
    activation_forward(f);
    for (int64_t r = 0; r < y.rows; r++)
        for (int64_t c = 0; c < y.cols; c++) worst = fmax(worst, fabs(*at(&y, r, c) - *at(&f->out, r, c)));
    report(worst <= 4e-15, "activation beside its gradient", worst, 4e-15);
    dinov_free(y.data);
}

static void check_activation(const dinov_ops *ops, int64_t m, int64_t n, dinov_activation act)
{
    struct fixture f = {.ops = ops, .act = act, .forward = activation_forward, .backward = activation_backward};
    add(&f, m, act == DINOV_ACT_SWIGLU ? 2 * n : n, 3, 0);
    for (int64_t i = 0; i < m * f.a[0].value.ld; i++) data(&f, 0)[i] *= 3;
    output(&f, m, n);
    check(&f, act == DINOV_ACT_SWIGLU ? "swiglu" : "gelu");
}

/* ---- rows chosen by a list: each is the other's gradient ---- */

static void gather_forward(struct fixture *f) { f->ops->gather(&f->s, &f->out, &f->a[0].value, f->rows, 1.75); }
static void gather_backward(struct fixture *f) { f->ops->scatter_add(&f->s, &f->a[0].grad, f->rows, &f->dout, NULL, 1.75); }

static void check_gather(const dinov_ops *ops, const int32_t *rows, int64_t m, int64_t all, int64_t n)
{
    struct fixture f = {.ops = ops, .rows = rows, .forward = gather_forward, .backward = gather_backward};
    add(&f, all, n, 2, 1);
    output(&f, m, n);
    check(&f, "gather, scatter_add");
}

/* ---- embed: patches, cls, registers, mask token, positions ---- */

static void embed_forward(struct fixture *f)
{
    f->ops->embed(&f->s, &f->out, &f->a[0].value, data(f, 1), data(f, 2), data(f, 3), data(f, 4), f->mask, f->n[0], f->n[1]);
}

static void embed_backward(struct fixture *f)
{
    f->ops->embed_backward(&f->s, &f->a[0].grad, grad(f, 1), grad(f, 2), grad(f, 3), grad(f, 4), &f->dout, f->mask, f->n[0],
                           f->n[1]);
}

static void check_embed(const dinov_ops *ops, int64_t images, int64_t patches, int64_t registers, int64_t width, int masked)
{
    uint8_t        mask[1024];
    struct fixture f = {.ops = ops, .n = {images, registers}, .forward = embed_forward, .backward = embed_backward};
    for (int i = 0; i < 1024; i++) mask[i] = uniform() > 0.3;
    f.mask = masked ? mask : NULL;
    add(&f, images * patches, width, 1, 0), add(&f, 1, width, 0, 1), add(&f, registers, width, 0, 1);
    add(&f, 1, width, 0, 1), add(&f, 1 + patches, width, 0, 1);
    output(&f, images * (1 + registers + patches), width);
    check(&f, masked ? "embed with a mask" : "embed");
}

/* ---- rows to unit length ---- */

static void normalize_forward(struct fixture *f) { f->ops->normalize(&f->s, &f->out, &f->a[0].value, 1e-3); }
static void normalize_backward(struct fixture *f)
{
    f->ops->normalize_backward(&f->s, &f->a[0].grad, &f->dout, &f->a[0].value, 1e-3);
}

static void check_normalize(const dinov_ops *ops, int64_t m, int64_t n)
{
    struct fixture f = {.ops = ops, .forward = normalize_forward, .backward = normalize_backward};
    add(&f, m, n, 2, 0), output(&f, m, n);
    check(&f, "normalize");
    f.arrays = 0;
    add(&f, 1, n, 2, 0), output(&f, 1, n);
    for (int64_t i = 0; i < n; i++) data(&f, 0)[i] *= 1e-4 / (double)n;
    for (int64_t i = 0; i < n; i++) *at(&f.dout, 0, i) *= 1e-3; /* the gradient is divided by eps */
    f.s.scratch = NULL;
    check(&f, "normalize below eps");
}

static void weight_norm_forward(struct fixture *f)
{
    f->ops->weight_norm(&f->s, f->out.data, data(f, 0), data(f, 1), f->n[0], f->n[1]);
}

static void weight_norm_backward(struct fixture *f)
{
    f->ops->weight_norm_backward(&f->s, grad(f, 0), grad(f, 1), f->dout.data, data(f, 0), data(f, 1), f->n[0], f->n[1]);
}

static void check_weight_norm(const dinov_ops *ops, int64_t n, int64_t k)
{
    struct fixture f = {.ops = ops, .n = {n, k}, .forward = weight_norm_forward, .backward = weight_norm_backward};
    add(&f, n, k, 0, 1), add(&f, 1, n, 0, 1);
    f.out = matrix(n, k, k, 0), f.dout = matrix(n, k, k, 1);
    check(&f, "weight_norm");
}

/* ---- cross-entropy: prototypes come in two chunks; the teacher is a constant ---- */

static dinov_mat columns(const dinov_mat *m, int64_t begin, int64_t end)
{
    return (dinov_mat){(double *)m->data + begin, m->rows, end - begin, m->ld};
}

static void log_sums(const dinov_ops *ops, dinov_stream *s, double *lse, const dinov_mat *z, const double *bias, double temperature)
{
    dinov_mat max = matrix(1, z->rows, z->rows, 0), sum = matrix(1, z->rows, z->rows, 0);
    int64_t   middle = z->cols / 3;
    for (int64_t m = 0; m < z->rows; m++) *at(&max, 0, m) = -INFINITY;
    for (int half = 0; half < 2; half++) {
        dinov_mat part = columns(z, half ? middle : 0, half ? z->cols : middle);
        ops->softmax_stats(s, max.data, sum.data, &part, bias ? bias + (half ? middle : 0) : NULL, temperature);
    }
    for (int64_t m = 0; m < z->rows; m++) lse[m] = *at(&max, 0, m) + log(*at(&sum, 0, m));
    dinov_free(max.data), dinov_free(sum.data);
}

/* out is the teacher p, dout the weights (first row); rows are the targets. grad: where the gradient goes, or NULL. */
static double cross_entropy(struct fixture *f, dinov_mat *to)
{
    int64_t   M = f->a[0].value.rows, cols = f->a[0].value.cols;
    dinov_mat z = matrix(M, cols, cols, 0), lse = matrix(1, M, M, 0), rows = matrix(1, M, M, 0);
    double    sum = 0;

    for (int64_t m = 0; m < M; m++) memcpy(at(&z, m, 0), at(&f->a[0].value, m, 0), (size_t)cols * sizeof(double));
    log_sums(f->ops, &f->s, lse.data, &z, NULL, 0.3);
    f->ops->cross_entropy(&f->s, &z, rows.data, lse.data, &f->out, f->rows, f->dout.data, 0.3);
    for (int64_t m = 0; m < M; m++) {
        int targets = (f->rows[2 * m] >= 0) + (f->rows[2 * m + 1] >= 0);
        sum += *at(&rows, 0, m) + targets * *at(&f->dout, 0, m) * *at(&lse, 0, m);
        if (to) memcpy(at(to, m, 0), at(&z, m, 0), (size_t)cols * sizeof(double));
    }
    dinov_free(z.data), dinov_free(lse.data), dinov_free(rows.data);
    return sum;
}

static double cross_entropy_loss(struct fixture *f) { return cross_entropy(f, NULL); }
static void   cross_entropy_backward(struct fixture *f) { cross_entropy(f, &f->a[0].grad); }

static void check_cross_entropy(const dinov_ops *ops, int64_t m, int64_t cols)
{
    int32_t        targets[2 * 65];
    struct fixture f = {.ops = ops, .rows = targets, .loss = cross_entropy_loss, .backward = cross_entropy_backward};
    for (int64_t i = 0; i < 2 * m; i++) targets[i] = (int32_t)(i % 5) - 1;
    add(&f, m, cols, 2, 0);
    f.out  = matrix(4, cols, cols + 1, 1);
    f.dout = matrix(1, m, m, 1);
    for (int64_t r = 0; r < 4; r++) {
        double sum = 0;
        for (int64_t c = 0; c < cols; c++) sum += fabs(*at(&f.out, r, c));
        for (int64_t c = 0; c < cols; c++) *at(&f.out, r, c) = fabs(*at(&f.out, r, c)) / sum;
    }
    check(&f, "cross_entropy");
}

/* ---- KoLeo ---- */

static double koleo_loss(struct fixture *f)
{
    dinov_mat distance = matrix(1, f->a[0].value.rows, f->a[0].value.rows, 0),
              ignored  = matrix(f->a[0].value.rows, f->a[0].value.cols, f->a[0].value.cols, 0);
    double sum         = 0;
    f->ops->koleo(&f->s, distance.data, &ignored, &f->a[0].value, 0);
    for (int64_t i = 0; i < f->a[0].value.rows; i++) sum -= 2.5 * log(*at(&distance, 0, i) + 1e-8) / (double)f->a[0].value.rows;
    dinov_free(distance.data), dinov_free(ignored.data);
    return sum;
}

static void koleo_backward(struct fixture *f)
{
    dinov_mat distance = matrix(1, f->a[0].value.rows, f->a[0].value.rows, 0);
    f->ops->koleo(&f->s, distance.data, &f->a[0].grad, &f->a[0].value, 2.5);
    dinov_free(distance.data);
}

static void check_koleo(const dinov_ops *ops, int64_t rows, int64_t cols)
{
    struct fixture f = {.ops = ops, .loss = koleo_loss, .backward = koleo_backward};
    add(&f, rows, cols, 2, 1);
    scratch(&f, ops->koleo_scratch(rows, cols));
    check(&f, "koleo");
}

/* ---- official numbers ---- */

static void near(const char *what, const double *found, const double *want, int count, double limit)
{
    double worst = 0;
    for (int i = 0; i < count; i++) worst = fmax(worst, fabs(found[i] - want[i]));
    report(worst <= limit, what, worst, limit);
}

/* Three Sinkhorn-Knopp iterations on four samples of three prototypes, and the cross-entropy of 0.3 z with the result. */
static void official_sinkhorn(const dinov_ops *ops)
{
    double z[12] = {1, 0, 0, 0, 1, 0, .5, .5, 0, 0, 0, .25}, student[12], offset[4] = {0}, bias[3] = {0}, loss[4] = {0}, lse[4];
    double entropy[4] = {0}, entropy_want[4] = {0};
    const double weight[4] = {.25, .25, .25, .25}, mean = 1.0375620;
    int32_t      targets[8] = {0, -1, 1, -1, 2, -1, -1, 3};
    const double want[12]   = {.700041, .094740, .205219, .094740, .700041, .205219,
                               .357543, .357543, .284915, .179491, .179491, .641019};
    dinov_mat    teacher = {z, 4, 3, 3}, q = {student, 4, 3, 3};
    dinov_stream s = {0};

    for (int i = 0; i < 12; i++) student[i] = 0.3 * z[i];
    for (int i = 0; i < 3; i++) {
        ops->exp_sums(&s, bias, &teacher, offset, 0.5);
        for (int k = 0; k < 3; k++) bias[k] = -log(bias[k]);
        log_sums(ops, &s, offset, &teacher, bias, 0.5);
    }
    ops->softmax_apply(&s, &teacher, entropy, bias, offset, 0.5);
    near("Sinkhorn-Knopp, official", z, want, 12, 1e-6);
    for (int i = 0; i < 12; i++) entropy_want[i / 3] -= z[i] * log(z[i]);
    near("entropy", entropy, entropy_want, 4, 1e-14);

    log_sums(ops, &s, lse, &q, NULL, 0.1);
    ops->cross_entropy(&s, &q, loss, lse, &teacher, targets, weight, 0.1);
    double found = 0;
    for (int i = 0; i < 4; i++) found += loss[i] + weight[i] * lse[i];
    near("cross-entropy, official", &found, &mean, 1, 1e-6);
}

/* Distances and gradient by PyTorch 2.13 in double; then two equal rows. */
static void official_koleo(const dinov_ops *ops)
{
    double       x[8] = {1, 0, 0, 1, .6, .8, -1, 0}, dx[8] = {0}, distance[4];
    const double loss        = 0.1703222205942757;
    const double gradient[8] = {0, 0.24999999657991498, 0.6249999877753422, 0, -0.39999999024923516, 0.29999999268692634,
                                0, 0.12500000036611653};
    dinov_mat    rows = {x, 4, 2, 2}, to = {dx, 4, 2, 2};
    dinov_stream s     = {.scratch = must(dinov_alloc_aligned(ops->koleo_scratch(4, 2), 1))};
    double       found = 0;

    ops->koleo(&s, distance, &to, &rows, 1);
    for (int i = 0; i < 4; i++) found -= log(distance[i] + 1e-8) / 4;
    near("KoLeo, official loss", &found, &loss, 1, 1e-14);
    near("KoLeo, official gradient", dx, gradient, 8, 1e-14);

    x[2] = 2, x[3] = 0, rows.rows = to.rows = 2;
    ops->koleo(&s, distance, &to, &rows, 1);
    int finite = 1;
    for (int i = 0; i < 4; i++) finite &= isfinite(dx[i]) && isfinite(distance[i / 2]);
    report(finite, "KoLeo of two equal rows: not finite", 1, 0);
    dinov_free(s.scratch);
}

/* Three steps of torch.optim.AdamW (PyTorch 2.13, double); gradients are given four times too large. */
static void official_adamw(const dinov_ops *ops)
{
    double       p[4] = {1, -0.5, 0.25, 3}, m[4] = {0}, v[4] = {0};
    const double g[3][4]   = {{2, -5, 0, 4e-6}, {1, 8, -0.5, -12e-6}, {-16, 2, 3, 8e-6}};
    const double want[4]   = {0.9845239076772992, -0.4954336712388627, 0.2517067261709435, 2.990341587019623};
    const double moment[4] = {0.016311937750000016, 0.005805376562500005, 0.0005781093750000005, 1.3989001000000013e-14};
    dinov_stream s         = {0};

    for (int i = 0; i < 3; i++) ops->adamw(&s, p, g[i], m, v, 4, 0.25, 1e-2, 0.05, 0.9, 0.999, 1e-8, i + 1);
    near("AdamW, official", p, want, 4, 1e-14);
    near("AdamW, official second moment", v, moment, 4, 1e-17);
}

int main(void)
{
    const dinov_ops     *ops    = &dinov_ops_ref_f64;
    static const int64_t rows[] = {1, 7, 65};
    static const int32_t few[]  = {6, 0, 3, 64, 9};

    for (int i = 0; i < 3; i++) {
        check_linear(ops, rows[i], 5, 3, 0);
        check_linear(ops, rows[i], 67, 31, 0);
        check_linear(ops, rows[i], 13, 70, 1);
        check_layernorm(ops, rows[i], 5);
        check_layernorm(ops, rows[i], 131);
        check_activation(ops, rows[i], 37, DINOV_ACT_GELU);
        check_activation(ops, rows[i], 37, DINOV_ACT_SWIGLU);
        check_gather(ops, NULL, rows[i], 65, 9);
        check_normalize(ops, rows[i], 19);
        check_weight_norm(ops, rows[i], 66);
        check_cross_entropy(ops, rows[i], 71);
    }
    check_gather(ops, few, 5, 65, 71);
    check_attention(ops, 1, 1, 1, 3);
    check_attention(ops, 2, 7, 3, 5);
    check_attention(ops, 1, 70, 2, 16);
    check_embed(ops, 3, 5, 0, 7, 0);
    check_embed(ops, 7, 6, 2, 70, 1);
    check_koleo(ops, 2, 3);
    check_koleo(ops, 7, 33);
    check_koleo(ops, 31, 5);
    official_sinkhorn(ops);
    official_koleo(ops);
    official_adamw(ops);
    printf("%d checks, %d failed, largest relative error of a gradient %.1e\n", checks, failures, largest);
    return failures != 0;
}
