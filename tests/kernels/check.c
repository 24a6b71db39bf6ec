/* SPDX-License-Identifier: Apache-2.0
 *
 * Every entry of every float table this CPU runs, against the reference in double: odd shapes, row
 * strides with guard values, one and three threads, whole and partial batches. training.c has the entries
 * of training. `--bench` times the costly ones instead, against what the machine can do at most.
 */
#include "tests/kernels/pairs.h"

static dinov_linear prepare(const dinov_ops *ops, int64_t n, int64_t k, dinov_activation act, const void *weight, const void *bias)
{
    dinov_stream s      = {0};
    void        *packed = must(dinov_alloc_aligned(ops->linear_size(n, k), ops->real_size));
    void        *pbias  = must(dinov_alloc_aligned(ops->linear_bias_size(n), ops->real_size));
    ops->linear_pack(&s, packed, weight, n, k, act);
    ops->linear_pack_bias(&s, pbias, bias, n, act);
    return (dinov_linear){n, k, act, packed, pbias};
}

static void linear_free(dinov_linear *l)
{
    dinov_free((void *)(uintptr_t)l->packed);
    dinov_free((void *)(uintptr_t)l->bias);
}

static void check_linear(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t n, int64_t k, dinov_activation act, int residual,
                         int bias)
{
    const dinov_ops *ref = &dinov_ops_ref_f64;
    int64_t          out = act == DINOV_ACT_SWIGLU ? n / 2 : n;
    double          *wd, *bd, *sd;
    float           *w = vector(n * k, &wd), *b = vector(n, &bd), *scale = vector(out, &sd);
    struct pair      x = pair_new(m, k, 1), y = pair_new(m, out, residual != 0), again = pair_new(m, out, 0);
    dinov_linear     lf = prepare(ops, n, k, act, w, bias ? b : NULL), ld = prepare(ref, n, k, act, wd, bias ? bd : NULL);
    dinov_stream     one = {0}, many = {.pool = pool};

    for (int64_t r = 0; r < m; r++)
        memcpy((float *)again.f.data + r * again.f.ld, (float *)y.f.data + r * y.f.ld, (size_t)out * sizeof(float));
    ref->linear(&one, &y.d, &x.d, &ld, residual ? &y.d : NULL, residual > 1 ? sd : NULL);
    ops->linear(&one, &y.f, &x.f, &lf, residual ? &y.f : NULL, residual > 1 ? scale : NULL);
    double error = difference(&y), limit = allowed(&y, 1e-6);
    report(error <= limit, "linear M=%lld N=%lld K=%lld act=%d residual=%d: %.2e, expected at most %.0e", (long long)m,
           (long long)n, (long long)k, act, residual, error, limit);

    /* The last row alone and the rest with threads give the same bits. */
    dinov_mat tail = {(float *)again.f.data + (m - 1) * again.f.ld, 1, out, again.f.ld};
    dinov_mat tail_x = {(float *)x.f.data + (m - 1) * x.f.ld, 1, k, x.f.ld};
    dinov_mat head = {again.f.data, m - 1, out, again.f.ld}, head_x = {x.f.data, m - 1, k, x.f.ld};
    ops->linear(&many, &tail, &tail_x, &lf, residual ? &tail : NULL, residual > 1 ? scale : NULL);
    ops->linear(&many, &head, &head_x, &lf, residual ? &head : NULL, residual > 1 ? scale : NULL);
    report(same_bits(&y.f, &again.f), "linear M=%lld N=%lld K=%lld act=%d: bits differ when rows are computed apart",
           (long long)m, (long long)n, (long long)k, act);

    linear_free(&lf), linear_free(&ld);
    pair_free(&x), pair_free(&y), pair_free(&again);
    dinov_free(w), dinov_free(wd), dinov_free(b), dinov_free(bd), dinov_free(scale), dinov_free(sd);
}

/* GELU and SiLU over the whole range that matters, element by element: K = 1 and weight 1 make the op a function. */
static void check_activations(const dinov_ops *ops)
{
    enum { POINTS = 40001 };
    float        ones[2] = {1, 1};
    dinov_stream s       = {0};
    struct pair  x = pair_new(POINTS, 1, 0), y = pair_new(POINTS, 1, 0);
    double       worst_gelu = 0, worst_silu = 0;

    for (int i = 0; i < POINTS; i++) ((float *)x.f.data)[i * x.f.ld] = (float)(i - POINTS / 2) * 5e-4f;
    dinov_linear gelu = prepare(ops, 1, 1, DINOV_ACT_GELU, ones, NULL);
    ops->linear(&s, &y.f, &x.f, &gelu, NULL, NULL);
    for (int i = 0; i < POINTS; i++) {
        double v = (double)((float *)x.f.data)[i * x.f.ld], want = 0.5 * v * (1 + erf(v / sqrt(2.0)));
        worst_gelu = fmax(worst_gelu, fabs((double)((float *)y.f.data)[i * y.f.ld] - want) / fmax(1, fabs(v)));
    }
    dinov_linear swiglu = prepare(ops, 2, 1, DINOV_ACT_SWIGLU, ones, NULL); /* silu(v) * v */
    ops->linear(&s, &y.f, &x.f, &swiglu, NULL, NULL);
    for (int i = 0; i < POINTS; i++) {
        double v = (double)((float *)x.f.data)[i * x.f.ld], want = v / (1 + exp(-v)) * v;
        worst_silu = fmax(worst_silu, fabs((double)((float *)y.f.data)[i * y.f.ld] - want) / fmax(1, fabs(want)));
    }
    report(worst_gelu <= 1.5e-7, "GELU: %.2e of max(1, |x|), expected at most 1.5e-7", worst_gelu);
    report(worst_silu <= 3e-7, "SwiGLU: %.2e of max(1, |y|), expected at most 3e-7", worst_silu);
    linear_free(&gelu), linear_free(&swiglu);
    pair_free(&x), pair_free(&y);
}

static void check_layernorm(const dinov_ops *ops, dinov_pool *pool, int64_t m, int64_t n)
{
    double      *wd, *bd;
    float       *w = vector(n, &wd), *b = vector(n, &bd);
    struct pair  x = pair_new(m, n, 1), y = pair_new(m, n, 0), again = pair_new(m, n, 0);
    dinov_stream one = {0}, many = {.pool = pool};

    dinov_ops_ref_f64.layernorm(&one, &y.d, &x.d, wd, bd, 1e-6);
    ops->layernorm(&one, &y.f, &x.f, w, b, 1e-6);
    double error = difference(&y);
    report(error <= 1e-6, "layernorm M=%lld C=%lld: %.2e, expected at most 1e-6", (long long)m, (long long)n, error);
    ops->layernorm(&many, &again.f, &x.f, w, b, 1e-6);
    report(same_bits(&y.f, &again.f), "layernorm M=%lld C=%lld: bits differ with threads", (long long)m, (long long)n);
    pair_free(&x), pair_free(&y), pair_free(&again);
    dinov_free(w), dinov_free(wd), dinov_free(b), dinov_free(bd);
}

/* `sharp` makes scores large, so that the softmax is far from uniform and its exponentials underflow. */
static void check_attention(const dinov_ops *ops, dinov_pool *pool, int64_t images, int64_t tokens, int64_t heads, int64_t dim,
                            float sharp)
{
    int64_t      C   = heads * dim, M = images * tokens;
    struct pair  qkv = pair_new(M, 3 * C, 1), out = pair_new(M, C, 0), again = pair_new(M, C, 0);
    dinov_stream one  = {.scratch = must(dinov_alloc_aligned(ops->attention_scratch(images, tokens, heads, dim, 1), 1))};
    dinov_stream wide = {.scratch = must(dinov_alloc_aligned(dinov_ops_ref_f64.attention_scratch(images, tokens, heads, dim, 1), 1))};
    dinov_stream many = {.pool = pool, .scratch = must(dinov_alloc_aligned(ops->attention_scratch(images, tokens, heads, dim, 3), 1))};

    for (int64_t r = 0; r < M; r++)
        for (int64_t c = 0; c < C; c++) {
            float *q = (float *)qkv.f.data + r * qkv.f.ld + c;
            *q *= sharp;
            ((double *)qkv.d.data)[r * qkv.d.ld + c] = (double)*q;
        }
    dinov_ops_ref_f64.attention(&wide, &out.d, &qkv.d, images, heads);
    ops->attention(&one, &out.f, &qkv.f, images, heads);
    double error = difference(&out), limit = sharp > 1 ? 5e-6 : 1e-6; /* a score of 100 is known to 6e-6 */
    report(error <= limit, "attention B=%lld T=%lld H=%lld D=%lld sharp=%g: %.2e, expected at most %.0e", (long long)images,
           (long long)tokens, (long long)heads, (long long)dim, (double)sharp, error, limit);
    ops->attention(&many, &again.f, &qkv.f, images, heads);
    report(same_bits(&out.f, &again.f), "attention B=%lld T=%lld H=%lld D=%lld: bits differ with threads", (long long)images,
           (long long)tokens, (long long)heads, (long long)dim);

    /* The last image alone. */
    dinov_mat last = {(float *)qkv.f.data + (M - tokens) * qkv.f.ld, tokens, 3 * C, qkv.f.ld};
    dinov_mat to   = {(float *)again.f.data + (M - tokens) * again.f.ld, tokens, C, again.f.ld};
    ops->attention(&one, &to, &last, 1, heads);
    report(same_bits(&out.f, &again.f), "attention B=%lld T=%lld: bits differ for an image alone", (long long)images, (long long)tokens);
    dinov_free(one.scratch), dinov_free(wide.scratch), dinov_free(many.scratch);
    pair_free(&qkv), pair_free(&out), pair_free(&again);
}

static void check_embed(const dinov_ops *ops)
{
    enum { H = 6, W = 9, P = 3, CH = 2 };
    float        pixels[CH * H * W];
    dinov_stream s    = {0};
    struct pair  rows = pair_new(H / P * (W / P), CH * P * P, 0);
    int          ok   = 1;
    for (int i = 0; i < CH * H * W; i++) pixels[i] = (float)i;
    ops->patchify(&s, &rows.f, pixels, 1, CH, H, W, P);
    for (int i = 0; i < H / P; i++)
        for (int j = 0; j < W / P; j++)
            for (int c = 0; c < CH; c++)
                for (int y = 0; y < P; y++)
                    for (int x = 0; x < P; x++)
                        ok &= ((float *)rows.f.data)[(i * (W / P) + j) * rows.f.ld + (c * P + y) * P + x] ==
                              (float)((c * H + i * P + y) * W + j * P + x);
    report(ok, "patchify: wrong element");
    pair_free(&rows);

    double      wr[2 * 3] = {0.25, 0.75, 0, 0, -0.5, 1.5}, wc[1 * 2] = {2, -1};
    struct pair in = pair_new(3 * 2, 7, 1), out = pair_new(2 * 1, 7, 0);
    dinov_ops_ref_f64.resample(&s, &out.d, &in.d, wr, wc, 2, 1, 3, 2);
    ops->resample(&s, &out.f, &in.f, wr, wc, 2, 1, 3, 2);
    double want = 2 * (0.25 * ((double *)in.d.data)[0] + 0.75 * ((double *)in.d.data)[2 * in.d.ld]) -
                  (0.25 * ((double *)in.d.data)[in.d.ld] + 0.75 * ((double *)in.d.data)[3 * in.d.ld]);
    report(fabs(((double *)out.d.data)[0] - want) < 1e-12, "resample: wrong element");
    report(difference(&out) <= 1e-6, "resample: float differs from double");
    pair_free(&in), pair_free(&out);
}

static void check_table(const dinov_ops *ops, dinov_pool *pool)
{
    static const int64_t shapes[][3] = {{1, 1, 1},   {2, 3, 5},    {5, 64, 64},   {6, 17, 33},  {7, 65, 257},
                                        {13, 96, 7}, {133, 70, 300}, {265, 130, 520}, {31, 192, 1100}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        check_linear(ops, pool, m, n, k, DINOV_ACT_NONE, 0, 1);
        check_linear(ops, pool, m, n, k, DINOV_ACT_NONE, 1, 0);
        check_linear(ops, pool, m, n, k, DINOV_ACT_NONE, 2, 1);
        check_linear(ops, pool, m, n, k, DINOV_ACT_GELU, 0, 1);
        check_linear(ops, pool, m, n + n % 2, k, DINOV_ACT_SWIGLU, 0, 1);
    }
    check_activations(ops);
    for (int64_t n = 1; n < 70; n += 3) check_layernorm(ops, pool, n, n + (n == 1)); /* one column has no variance */
    check_layernorm(ops, pool, 33, 1536);
    for (int64_t t = 1; t < 140; t += 23) {
        check_attention(ops, pool, 1, t, 2, 64, 1);
        check_attention(ops, pool, 3, t, 1, 40, 1);
        check_attention(ops, pool, 2, t, 3, 5, 1);
    }
    check_attention(ops, pool, 2, 257, 2, 64, 1);
    check_attention(ops, pool, 1, 300, 2, 96, 1);
    check_attention(ops, pool, 1, 261, 2, 64, 40);
    check_embed(ops);
}

/* ---- --bench ---- */

struct linear_call {
    const dinov_ops *ops;
    dinov_stream     s;
    dinov_mat        y, x;
    dinov_linear     l;
};

static void run_linear(void *arg)
{
    struct linear_call *call = arg;
    call->ops->linear(&call->s, &call->y, &call->x, &call->l, NULL, NULL);
}

static void bench_linear(const dinov_ops *ops, dinov_pool *pool, const char *what, int64_t m, int64_t n, int64_t k, dinov_activation act)
{
    char               name[80];
    double            *wd, *bd;
    float             *w = vector(n * k, &wd), *b = vector(n, &bd);
    struct pair        x = pair_new(m, k, 1), y = pair_new(m, act == DINOV_ACT_SWIGLU ? n / 2 : n, 0);
    struct linear_call call = {ops, {.pool = pool}, y.f, x.f, prepare(ops, n, k, act, w, b)};

    snprintf(name, sizeof name, "linear %s M=%lld N=%lld K=%lld", what, (long long)m, (long long)n, (long long)k);
    bench(pool, name, 2.0 * (double)(m * n * k), 0, run_linear, &call);
    linear_free(&call.l), pair_free(&x), pair_free(&y);
    dinov_free(w), dinov_free(wd), dinov_free(b), dinov_free(bd);
}

struct attention_call {
    const dinov_ops *ops;
    dinov_stream     s;
    dinov_mat        out, qkv;
    int64_t          heads;
};

static void run_attention(void *arg)
{
    struct attention_call *call = arg;
    call->ops->attention(&call->s, &call->out, &call->qkv, 1, call->heads);
}

static void bench_attention(const dinov_ops *ops, dinov_pool *pool, int64_t tokens, int64_t heads)
{
    char                  name[80];
    int64_t               C   = heads * 64;
    struct pair           qkv = pair_new(tokens, 3 * C, 1), out = pair_new(tokens, C, 0);
    size_t                size = ops->attention_scratch(1, tokens, heads, 64, dinov_pool_threads(pool));
    struct attention_call call = {ops, {.pool = pool, .scratch = must(dinov_alloc_aligned(size, 1))}, out.f, qkv.f, heads};

    snprintf(name, sizeof name, "attention T=%lld H=%lld D=64", (long long)tokens, (long long)heads);
    bench(pool, name, 4.0 * (double)(tokens * tokens * C), 0, run_attention, &call);
    dinov_free(call.s.scratch), pair_free(&qkv), pair_free(&out);
}

static void bench_table(const dinov_ops *ops, dinov_pool *pool)
{
    bench_linear(ops, pool, "S qkv", 257, 1152, 384, DINOV_ACT_NONE);
    bench_linear(ops, pool, "S proj", 257, 384, 384, DINOV_ACT_NONE);
    bench_linear(ops, pool, "S fc1", 257, 1536, 384, DINOV_ACT_GELU);
    bench_linear(ops, pool, "S fc2", 257, 384, 1536, DINOV_ACT_NONE);
    bench_linear(ops, pool, "B fc2", 257, 768, 3072, DINOV_ACT_NONE);
    bench_linear(ops, pool, "g w12", 257, 8192, 1536, DINOV_ACT_SWIGLU);
    bench_attention(ops, pool, 257, 6);
    bench_attention(ops, pool, 1370, 6);
    bench_training(ops, pool);
}

int main(int argc, char **argv)
{
    int         timing = argc > 1 && strcmp(argv[1], "--bench") == 0; /* a second word: only the rows that begin with it */
    dinov_pool *pool;
    dinov_error err;
    bench_only = argc > 2 ? argv[2] : "";
    DINOV_ASSERT(dinov_pool_new(&pool, timing ? 0 : 3, &err) == DINOV_OK);
    for (const char *const *name = dinov_ops_cpu_names(); *name; name++) {
        const dinov_ops *ops;
        table = *name;
        DINOV_ASSERT(dinov_ops_cpu(&ops, *name, &err) == DINOV_OK);
        if (!timing)
            check_table(ops, pool), check_training(ops, pool);
        else if (strcmp(*name, "ref") != 0) bench_table(ops, pool);
    }
    dinov_pool_free(&pool);
    if (!timing) printf("%d checks, %d failed\n", checks, failures);
    return failures != 0;
}
