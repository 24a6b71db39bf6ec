/* SPDX-License-Identifier: Apache-2.0
 *
 * Every entry of a device's table against the reference in double, for float, bf16 and f16: odd shapes, row strides with
 * guards, rows and pictures computed apart. Linked with a real device or, with DINOV_SHIM, with tests/kernels/shim, where
 * everything runs in several orders of threads. Exit code 77 where there is no device.
 *
 * Inputs are rounded to the element type first, so that only arithmetic and the rounding of results differ.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "image/resize.h"
#include "kernels/device.h"

#ifdef DINOV_SHIM
#include "tests/kernels/shim/control.h"
#endif

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int              failures, checks;
static dinov_device    *device;
static dinov_queue     *queue;
static const dinov_ops *ops;
static dinov_dtype      real;
static dinov_stream     stream;  /* of the device */
static int              library; /* linear layers may come from one */
static uint64_t         state = 88172645463325252u;

static void report(int ok, const char *format, ...) DINOV_PRINTF(2, 3);
static void report(int ok, const char *format, ...)
{
    checks++;
    if (ok) return;
    failures++;
    va_list args;
    va_start(args, format);
    printf("FAILED %s: ", ops->name);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

static void *must(void *p)
{
    DINOV_ASSERT(p);
    return p;
}

static double uniform(void) /* -1..1 */
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(state >> 40) * 0x1p-23 - 1.0;
}

static void sync(void)
{
    dinov_error err = {0};
    if (dinov_queue_sync(queue, &err) == DINOV_OK) return;
    printf("FAILED %s: %s\n", ops->name, err.msg);
    exit(1);
}

/* ---- memory ---- */

/* The same bytes on the device and in pinned memory. */
struct twin {
    void  *device, *host;
    size_t size;
};

static struct twin twin_new(size_t size)
{
    return (struct twin){must(dinov_device_alloc(device, size)), must(dinov_pinned_alloc(device, size)), size};
}

static void twin_free(struct twin *t)
{
    dinov_device_free(device, t->device);
    dinov_pinned_free(device, t->host);
}

static void up(const struct twin *t) { dinov_queue_upload(queue, t->device, t->host, t->size); }
static void down(const struct twin *t) { dinov_queue_download(queue, t->host, t->device, t->size); }

static double element(const void *data, dinov_dtype type, int64_t i)
{
    dinov_tensor t = {.data = data, .dtype = type, .rank = 1, .dim = {i + 1}};
    return dinov_value_at(&t, i);
}

static double rounded(double value, dinov_dtype type)
{
    uint8_t bytes[4];
    dinov_put_real(bytes, type, (float)value);
    return element(bytes, type, 0);
}

/* A matrix on the device and the same in double. What lies between rows, and one row after the last, is GUARD, which in
 * every type is a number. */
enum { GUARD = 0x5a };

struct grid {
    struct twin memory;
    dinov_dtype type;
    dinov_mat   on, ref; /* the device's, the reference's */
    uint8_t    *begin;   /* what the device's memory is before every run */
};

static size_t size_of(dinov_dtype type) { return dinov_dtype_size(type); }

static int inside(const struct grid *g, int64_t i) { return i / g->on.ld < g->on.rows && i % g->on.ld < g->on.cols; }

static void grid_put(struct grid *g, int64_t row, int64_t column, double value)
{
    int64_t i = row * g->on.ld + column;
    dinov_put_real(g->begin + (size_t)i * size_of(g->type), g->type, (float)value);
    ((double *)g->ref.data)[i] = element(g->begin, g->type, i);
}

static void grid_upload(const struct grid *g)
{
    sync(); /* the last copy may still read or write there */
    memcpy(g->memory.host, g->begin, g->memory.size);
    up(&g->memory);
}

static struct grid grid_make(int64_t rows, int64_t cols, int64_t ld, dinov_dtype type, int random)
{
    int64_t     count = (rows + 1) * ld;
    struct grid g     = {.type = type, .memory = twin_new((size_t)count * size_of(type))};
    g.on              = (dinov_mat){g.memory.device, rows, cols, ld};
    g.ref             = (dinov_mat){must(dinov_calloc((size_t)count, sizeof(double))), rows, cols, ld};
    g.begin           = must(dinov_alloc(g.memory.size, 1));
    memset(g.begin, GUARD, g.memory.size);
    for (int64_t i = 0; i < rows * cols && random; i++) grid_put(&g, i / cols, i % cols, uniform());
    grid_upload(&g);
    return g;
}

static struct grid grid_new(int64_t rows, int64_t cols, dinov_dtype type, int random)
{
    return grid_make(rows, cols, ops->stride(cols) + 8, type, random);
}

/* No gap between rows; a vector is one row. */
static struct grid grid_packed(int64_t rows, int64_t cols, dinov_dtype type, int random)
{
    return grid_make(rows, cols, cols, type, random);
}

static void grid_free(struct grid *g)
{
    twin_free(&g->memory);
    dinov_free(g->ref.data);
    dinov_free(g->begin);
}

static dinov_mat rows_of(const struct grid *g, int64_t first, int64_t count)
{
    return (dinov_mat){(char *)g->on.data + (size_t)(first * g->on.ld) * size_of(g->type), count, g->on.cols, g->on.ld};
}

/* Of what was downloaded: ||device - reference|| / ||reference||; infinite when a guard was overwritten or an element is no
 * number. */
static double difference(const struct grid *g)
{
    double error = 0, norm = 0;
    for (int64_t i = 0; i < (g->on.rows + 1) * g->on.ld; i++) {
        size_t at = (size_t)i * size_of(g->type);
        if (!inside(g, i)) {
            if (memcmp((uint8_t *)g->memory.host + at, g->begin + at, size_of(g->type))) return (double)INFINITY;
            continue;
        }
        double d = element(g->memory.host, g->type, i), r = ((const double *)g->ref.data)[i];
        error += (d - r) * (d - r), norm += r * r;
    }
    double result = sqrt(norm > 0 ? error / norm : error);
    return result == result ? result : (double)INFINITY;
}

/* ---- runs ---- */

#ifdef DINOV_SHIM
enum { TURNS = 4 };
static void set_turn(int turn) { shim_set_order(turn == 0 ? SHIM_PLAIN : turn == 1 ? SHIM_REVERSED : SHIM_RANDOM, (uint64_t)turn); }
#else
enum { TURNS = 3 };
static void set_turn(int turn) { (void)turn; }
#endif

/* Runs TURNS times with `out` as it was made; true when all give the same bytes, which are then in out's host memory. */
static int run(const struct grid *out, void (*issue)(void *arg), void *arg)
{
    int      same  = 1;
    uint8_t *first = must(dinov_alloc(out->memory.size, 1));
    for (int turn = 0; turn < TURNS; turn++) {
        set_turn(turn);
        grid_upload(out);
        sync(); /* the download goes where the upload came from */
        issue(arg);
        down(&out->memory);
        sync();
        if (turn == 0) memcpy(first, out->memory.host, out->memory.size);
        else same &= !memcmp(first, out->memory.host, out->memory.size);
    }
    set_turn(0);
    dinov_free(first);
    return same;
}

/* One more run, otherwise cut: the same bytes? */
static int run_again(const struct grid *out, void (*issue)(void *arg), void *arg)
{
    uint8_t *first = must(dinov_alloc(out->memory.size, 1));
    memcpy(first, out->memory.host, out->memory.size);
    grid_upload(out);
    sync();
    issue(arg);
    down(&out->memory);
    sync();
    int same = !memcmp(first, out->memory.host, out->memory.size);
    dinov_free(first);
    return same;
}

/* The most that rounding moves an element, as a part of it. */
static double unit_of(dinov_dtype type) { return type == DINOV_BF16 ? 0x1p-8 : type == DINOV_F16 ? 0x1p-11 : 0; }

/* What a result may differ by. Rounding to 16 bits is the largest part: over many elements whose digits are spread 0.43
 * of its most, over a few large ones more. Sums in float are the other, here of at most a thousand terms; tensor cores cut off bits
 * where the CPU rounds. One to three values can be all that is left of terms that cancel. */
static double allowed(const struct grid *out, double sums)
{
    int64_t count = out->on.rows * out->on.cols;
    return unit_of(out->type) * (count < 16 ? 1.0 : 0.55) + (count < 4 ? 2 * sums : sums);
}

static double sums_limit(void) { return real == DINOV_F32 ? 2e-6 : 1e-5; }

/* ---- linear ---- */

struct layer {
    dinov_linear on, ref;
    struct twin  packed, bias;
    double      *weight_ref, *bias_ref;
};

static struct layer layer_new(int64_t n, int64_t k, dinov_activation act, int with_bias)
{
    struct layer l      = {.packed     = twin_new(ops->linear_size(n, k) * ops->real_size),
                           .bias       = twin_new(ops->linear_bias_size(n) * sizeof(float)),
                           .weight_ref = must(dinov_alloc((size_t)(n * k), sizeof(double))),
                           .bias_ref   = must(dinov_calloc((size_t)n, sizeof(double)))};
    float       *weight = must(dinov_alloc((size_t)(n * k), sizeof *weight));
    float       *bias   = must(dinov_alloc((size_t)n, sizeof *bias));
    for (int64_t i = 0; i < n * k; i++) l.weight_ref[i] = rounded(uniform(), real), weight[i] = (float)l.weight_ref[i];
    for (int64_t i = 0; i < n; i++) {
        bias[i] = (float)rounded(uniform(), real); /* a library may want it in 16 bits */
        if (with_bias) l.bias_ref[i] = (double)bias[i];
    }
    ops->linear_pack(&stream, l.packed.device, weight, n, k, act);
    ops->linear_pack_bias(&stream, l.bias.device, with_bias ? bias : NULL, n, act);
    memset(weight, 0xff, (size_t)(n * k) * sizeof *weight); /* packing has its own copy */
    sync();
    l.on  = (dinov_linear){n, k, act, l.packed.device, l.bias.device};
    l.ref = (dinov_linear){n, k, act, l.weight_ref, l.bias_ref};
    dinov_free(weight), dinov_free(bias);
    return l;
}

static void layer_free(struct layer *l)
{
    twin_free(&l->packed), twin_free(&l->bias);
    dinov_free(l->weight_ref), dinov_free(l->bias_ref);
}

/* As kernels/cuda/kernels.h has it, which libraries rely on: rows of stride(k), zeros beyond k, SwiGLU's gate and value in turn. */
static int packed_right(const struct layer *l)
{
    int64_t n = l->on.n, k = l->on.k, ld = ops->stride(k);
    int     ok = 1;
    down(&l->packed);
    sync();
    for (int64_t row = 0; row < n; row++) {
        int64_t from = l->on.act == DINOV_ACT_SWIGLU ? row % 2 * (n / 2) + row / 2 : row;
        for (int64_t i = 0; i < ld; i++)
            ok &= element(l->packed.host, real, row * ld + i) == (i < k ? l->weight_ref[from * k + i] : 0);
    }
    return ok;
}

struct linear_call {
    const struct layer *layer;
    const struct grid  *x, *y, *residual, *scale;
    int                 apart;
};

static void issue_linear(void *arg)
{
    const struct linear_call *c    = arg;
    int64_t                   rows = c->y->on.rows, cuts[3] = {0, c->apart ? rows - 1 : rows, rows};
    for (int i = c->apart; i >= 0; i--) { /* the last row first */
        if (cuts[i + 1] == cuts[i]) continue;
        int64_t   count = cuts[i + 1] - cuts[i];
        dinov_mat y = rows_of(c->y, cuts[i], count), x = rows_of(c->x, cuts[i], count), r = {0};
        if (c->residual) r = rows_of(c->residual, cuts[i], count);
        ops->linear(&stream, &y, &x, &c->layer->on, c->residual ? &r : NULL, c->scale ? c->scale->on.data : NULL);
    }
}

enum residual { NO_RESIDUAL, RESIDUAL, IN_PLACE, SCALED };

static void check_linear(int64_t m, int64_t n, int64_t k, dinov_activation act, enum residual residual, int bias)
{
    int64_t      out   = act == DINOV_ACT_SWIGLU ? n / 2 : n;
    size_t       space = ops->linear_scratch(m, n, act);
    struct layer layer = layer_new(n, k, act, bias);
    struct grid  x = grid_new(m, k, real, 1), scale = grid_packed(1, out, DINOV_F32, 1), other = grid_new(m, out, DINOV_F32, 1);
    struct grid  y          = grid_new(m, out, residual ? DINOV_F32 : real, residual == IN_PLACE);
    struct twin  scratch    = twin_new(space + 1);
    struct linear_call call = {
        &layer, &x, &y, residual == IN_PLACE ? &y : residual ? &other : NULL, residual == SCALED ? &scale : NULL, 0};
    dinov_stream none = {0};

    report(packed_right(&layer), "linear_pack N=%lld K=%lld act=%d: a wrong element", (long long)n, (long long)k, act);
    stream.scratch = scratch.device;
    dinov_ops_ref_f64.linear(&none, &y.ref, &x.ref, &layer.ref, call.residual ? &call.residual->ref : NULL,
                             call.scale ? scale.ref.data : NULL);
    int    same  = run(&y, issue_linear, &call);
    double error = difference(&y), limit = allowed(&y, sums_limit());
    /* What enters the activation is rounded too, of SwiGLU both parts, where a library computes it. */
    if (library && act != DINOV_ACT_NONE) limit *= 2;
    report(error <= limit, "linear M=%lld N=%lld K=%lld act=%d residual=%d bias=%d: %.2e, expected at most %.1e", (long long)m,
           (long long)n, (long long)k, act, residual, bias, error, limit);
    report(same, "linear M=%lld N=%lld K=%lld act=%d residual=%d: bits differ between runs", (long long)m, (long long)n,
           (long long)k, act, residual);
    call.apart = 1;
    report(run_again(&y, issue_linear, &call),
           "linear M=%lld N=%lld K=%lld act=%d residual=%d: bits differ when rows are computed apart", (long long)m, (long long)n,
           (long long)k, act, residual);
    layer_free(&layer), twin_free(&scratch);
    grid_free(&x), grid_free(&y), grid_free(&scale), grid_free(&other);
}

static void check_linears(void)
{
    static const int64_t shapes[][3] = {{1, 1, 1},     {2, 3, 5},     {7, 65, 31},    {63, 64, 8},  {64, 63, 33},    {65, 127, 64},
                                        {1, 129, 129}, {127, 66, 96}, {128, 128, 32}, {129, 2, 65}, {130, 130, 160}, {5, 200, 257}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        int64_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        check_linear(m, n, k, DINOV_ACT_NONE, NO_RESIDUAL, 1);
        check_linear(m, n, k, DINOV_ACT_NONE, i % 2 ? IN_PLACE : RESIDUAL, i % 3 != 0);
        check_linear(m, n, k, DINOV_ACT_GELU, NO_RESIDUAL, 1);
        check_linear(m, n + n % 2, k, DINOV_ACT_SWIGLU, NO_RESIDUAL, 1);
        if (!ops->folds_scale) check_linear(m, n, k, DINOV_ACT_NONE, SCALED, 1);
    }
    check_linear(257, 72, 1030, DINOV_ACT_NONE, IN_PLACE, 1); /* long sums may have tiles of their own */
    check_linear(66, 130, 1024, DINOV_ACT_SWIGLU, NO_RESIDUAL, 0);
    check_linear(9, 136, 40, DINOV_ACT_GELU, RESIDUAL, 1);
    check_linear(9, 136, 40, DINOV_ACT_SWIGLU, IN_PLACE, 1);
}

/* The activations over the range that matters: K = 1 and weight 1 make the op a function. */
static void check_activation(dinov_activation act)
{
    enum { POINTS = 4001 };
    struct grid  x = grid_new(POINTS, 1, real, 0), y = grid_new(POINTS, 1, real, 0);
    struct twin  scratch = twin_new(ops->linear_scratch(POINTS, 2, act) + 1);
    struct layer l       = layer_new(act == DINOV_ACT_SWIGLU ? 2 : 1, 1, act, 0);
    float        ones[2] = {1, 1};
    double       worst = 0, unit = unit_of(real);

    stream.scratch = scratch.device;
    ops->linear_pack(&stream, l.packed.device, ones, l.on.n, 1, act);
    for (int i = 0; i < POINTS; i++) grid_put(&x, i, 0, (double)(i - POINTS / 2) * 5e-3);
    grid_upload(&x);
    struct linear_call call = {&l, &x, &y, NULL, NULL, 0};
    int                same = run(&y, issue_linear, &call);
    for (int i = 0; i < POINTS; i++) {
        double v = ((double *)x.ref.data)[i * x.ref.ld], got = element(y.memory.host, real, i * y.on.ld);
        double want = act == DINOV_ACT_GELU ? 0.5 * v * (1 + erf(v / sqrt(2.0))) : v / (1 + exp(-v)) * v;
        double part = fabs(got - want) / fmax(1, fabs(want));
        worst       = part == part ? fmax(worst, part) : (double)INFINITY;
    }
    report(worst <= unit * 1.01 + 4e-7, "activation %d: %.2e of max(1, |y|), expected at most %.2e", act, worst,
           unit * 1.01 + 4e-7);
    report(same, "activation %d: bits differ between runs", act);
    layer_free(&l), twin_free(&scratch), grid_free(&x), grid_free(&y);
}

/* ---- layernorm and features ---- */

struct norm_call {
    const struct grid *x, *y, *weight, *bias;
    int64_t            images, first, count;
    int                plain, mean, apart;
};

static void issue_layernorm(void *arg)
{
    const struct norm_call *c    = arg;
    int64_t                 rows = c->y->on.rows;
    dinov_mat               y = rows_of(c->y, 0, c->apart ? rows - 1 : rows), x = rows_of(c->x, 0, y.rows);
    dinov_mat               last = rows_of(c->y, rows - 1, 1), last_x = rows_of(c->x, rows - 1, 1);
    if (c->apart) ops->layernorm(&stream, &last, &last_x, c->weight->on.data, c->bias->on.data, 1e-6);
    if (y.rows) ops->layernorm(&stream, &y, &x, c->weight->on.data, c->bias->on.data, 1e-6);
}

static void check_layernorm(int64_t m, int64_t n, double mean)
{
    struct grid      x = grid_new(m, n, DINOV_F32, 0), y = grid_new(m, n, real, 0);
    struct grid      weight = grid_packed(1, n, DINOV_F32, 1), bias = grid_packed(1, n, DINOV_F32, 1);
    struct norm_call call = {.x = &x, .y = &y, .weight = &weight, .bias = &bias};
    dinov_stream     none = {0};

    for (int64_t i = 0; i < m * n; i++) grid_put(&x, i / n, i % n, mean + uniform());
    grid_upload(&x);
    dinov_ops_ref_f64.layernorm(&none, &y.ref, &x.ref, weight.ref.data, bias.ref.data, 1e-6);
    int    same  = run(&y, issue_layernorm, &call);
    double error = difference(&y), limit = allowed(&y, 2e-6 + 2e-7 * fabs(mean)); /* the mean itself is known to 24 bits */
    report(error <= limit, "layernorm M=%lld C=%lld mean=%g: %.2e, expected at most %.1e", (long long)m, (long long)n, mean, error,
           limit);
    report(same, "layernorm M=%lld C=%lld: bits differ between runs", (long long)m, (long long)n);
    call.apart = 1;
    report(run_again(&y, issue_layernorm, &call), "layernorm M=%lld C=%lld: bits differ when rows are computed apart", (long long)m,
           (long long)n);
    grid_free(&x), grid_free(&y), grid_free(&weight), grid_free(&bias);
}

static void issue_features(void *arg)
{
    const struct norm_call *c      = arg;
    const void             *weight = c->plain ? NULL : c->weight->on.data, *bias = c->plain ? NULL : c->bias->on.data;
    int64_t                 tokens = c->x->on.rows / c->images, rows = c->mean ? 1 : c->count;
    dinov_mat               all = c->x->on, last = rows_of(c->x, (c->images - 1) * tokens, tokens);
    float                  *out = c->y->on.data;
    if (!c->apart) {
        ops->features(&stream, out, &all, c->images, c->first, c->count, c->mean, weight, bias, 1e-6);
        return;
    }
    ops->features(&stream, out + (c->images - 1) * rows * all.cols, &last, 1, c->first, c->count, c->mean, weight, bias, 1e-6);
    all.rows -= tokens;
    if (all.rows) ops->features(&stream, out, &all, c->images - 1, c->first, c->count, c->mean, weight, bias, 1e-6);
}

static void check_features(int64_t images, int64_t tokens, int64_t first, int64_t count, int64_t n, int mean, int plain)
{
    int64_t          rows = mean ? 1 : count;
    struct grid      x = grid_new(images * tokens, n, DINOV_F32, 1), y = grid_packed(images * rows, n, DINOV_F32, 0);
    struct grid      weight = grid_packed(1, n, DINOV_F32, 1), bias = grid_packed(1, n, DINOV_F32, 1);
    struct twin      scratch = twin_new((size_t)(images * count) * 2 * sizeof(float));
    float           *want    = must(dinov_alloc((size_t)(images * rows * n), sizeof *want));
    struct norm_call call    = {&x, &y, &weight, &bias, images, first, count, plain, mean, 0};
    dinov_stream     none    = {0};

    stream.scratch = scratch.device;
    dinov_ops_ref_f64.features(&none, want, &x.ref, images, first, count, mean, plain ? NULL : weight.ref.data,
                               plain ? NULL : bias.ref.data, 1e-6);
    for (int64_t i = 0; i < images * rows * n; i++) ((double *)y.ref.data)[i] = (double)want[i];
    int    same  = run(&y, issue_features, &call);
    double error = difference(&y), limit = plain ? 0 : 2e-6; /* without a norm there is nothing to round differently */
    report(error <= limit, "features B=%lld T=%lld [%lld, +%lld) C=%lld mean=%d plain=%d: %.2e, expected at most %.0e",
           (long long)images, (long long)tokens, (long long)first, (long long)count, (long long)n, mean, plain, error, limit);
    report(same, "features C=%lld mean=%d plain=%d: bits differ between runs", (long long)n, mean, plain);
    call.apart = 1;
    report(run_again(&y, issue_features, &call), "features C=%lld mean=%d plain=%d: bits differ when pictures are computed apart",
           (long long)n, mean, plain);
    dinov_free(want), twin_free(&scratch);
    grid_free(&x), grid_free(&y), grid_free(&weight), grid_free(&bias);
}

static void check_norms(void)
{
    for (int64_t n = 2; n < 140; n += 17) check_layernorm(n % 11 + 1, n, 0);
    check_layernorm(1, 384, 0);
    check_layernorm(9, 384, 30);
    check_layernorm(3, 1536, 0);
    check_layernorm(2, 2048, 0);
    check_layernorm(8, 2051, -1);
    for (int i = 0; i < 4; i++) {
        check_features(3, 6, 0, 1, 5, i / 2, i % 2);
        check_features(2, 12, 5, 7, 65, i / 2, i % 2);
        check_features(1, 140, 1, 139, 128, i / 2, i % 2);
    }
    check_features(2, 4, 1, 3, 2100, 1, 0);
}

/* ---- attention ---- */

struct attention_call {
    const struct grid *qkv, *out;
    int64_t            images, heads;
    int                apart;
};

static void issue_attention(void *arg)
{
    const struct attention_call *c      = arg;
    int64_t                      tokens = c->out->on.rows / c->images, rest = c->apart ? c->images - 1 : c->images;
    dinov_mat                    out = rows_of(c->out, 0, rest * tokens), qkv = rows_of(c->qkv, 0, rest * tokens);
    dinov_mat                    last     = rows_of(c->out, (c->images - 1) * tokens, tokens);
    dinov_mat                    last_qkv = rows_of(c->qkv, (c->images - 1) * tokens, tokens);
    if (c->apart) ops->attention(&stream, &last, &last_qkv, 1, c->heads);
    if (rest) ops->attention(&stream, &out, &qkv, rest, c->heads);
}

/* `sharp` makes scores large, so that the softmax is far from uniform and its exponentials underflow. */
static void check_attention(int64_t images, int64_t tokens, int64_t heads, int64_t dim, double sharp)
{
    int64_t               C = heads * dim, M = images * tokens;
    struct grid           qkv = grid_new(M, 3 * C, real, 1), out = grid_new(M, C, real, 0);
    struct twin           scratch = twin_new(ops->attention_scratch(images, tokens, heads, dim, 1) + 1);
    struct attention_call call    = {&qkv, &out, images, heads, 0};
    size_t                space   = dinov_ops_ref_f64.attention_scratch(images, tokens, heads, dim, 1);
    dinov_stream          none    = {.scratch = must(dinov_alloc_aligned(space, 1))};

    stream.scratch = scratch.device;
    for (int64_t i = 0; i < M * C && sharp > 1; i++) grid_put(&qkv, i / C, i % C, sharp * uniform());
    grid_upload(&qkv);
    dinov_ops_ref_f64.attention(&none, &out.ref, &qkv.ref, images, heads);
    int same = run(&out, issue_attention, &call);
    /* A score of 100 is known to 6e-6 in float. Weights that were rounded to 16 bits for the second product add as much as
     * rounding the result does when few of them matter. */
    double error = difference(&out), limit = allowed(&out, real == DINOV_F32 ? (sharp > 1 ? 5e-6 : 2e-6) : 3e-5);
    if (real != DINOV_F32) limit *= 1.5;
    report(error <= limit, "attention B=%lld T=%lld H=%lld D=%lld sharp=%g: %.2e, expected at most %.1e", (long long)images,
           (long long)tokens, (long long)heads, (long long)dim, sharp, error, limit);
    report(same, "attention B=%lld T=%lld H=%lld D=%lld sharp=%g: bits differ between runs", (long long)images, (long long)tokens,
           (long long)heads, (long long)dim, sharp);
    call.apart = 1;
    report(run_again(&out, issue_attention, &call),
           "attention B=%lld T=%lld H=%lld D=%lld: bits differ when pictures are computed apart", (long long)images,
           (long long)tokens, (long long)heads, (long long)dim);
    dinov_free(none.scratch), twin_free(&scratch);
    grid_free(&qkv), grid_free(&out);
}

static void check_attentions(void)
{
    static const int64_t tokens[] = {1, 2, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 97, 127, 128, 129, 140};
    static const int64_t dims[]   = {5, 8, 40, 96, 128};
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        check_attention((int64_t)(1 + i % 3), tokens[i], (int64_t)(1 + i % 2), 64, 1);
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        check_attention(1, 1, 2, dims[i], 1);
        check_attention(2, 33, 1 + (int64_t)i % 3, dims[i], 1);
        check_attention(1, 70, 1, dims[i], 20);
    }
    check_attention(1, 257, 2, 64, 1);
    check_attention(1, 261, 1, 40, 1);
    check_attention(2, 90, 1, 64, 40);
    check_attention(1, 257, 1, 64, 40);
}

/* ---- patchify, embed, resample ---- */

struct patch_call {
    const struct grid *rows, *pixels;
    int64_t            images, channels, height, width, patch;
};

static void issue_patchify(void *arg)
{
    const struct patch_call *c    = arg;
    dinov_mat                rows = c->rows->on;
    ops->patchify(&stream, &rows, c->pixels->on.data, c->images, c->channels, c->height, c->width, c->patch);
}

static void check_patchify(int64_t images, int64_t channels, int64_t height, int64_t width, int64_t patch)
{
    int64_t           N = (height / patch) * (width / patch), count = images * channels * height * width;
    struct grid       pixels = grid_packed(1, count, DINOV_F32, 1), rows = grid_new(images * N, channels * patch * patch, real, 0);
    float            *plain = must(dinov_alloc((size_t)count, sizeof *plain));
    struct patch_call call  = {&rows, &pixels, images, channels, height, width, patch};
    dinov_stream      none  = {0};
    for (int64_t i = 0; i < count; i++) plain[i] = (float)((double *)pixels.ref.data)[i];
    dinov_ops_ref_f64.patchify(&none, &rows.ref, plain, images, channels, height, width, patch);
    int same = run(&rows, issue_patchify, &call);
    for (int64_t i = 0; i < (rows.on.rows + 1) * rows.on.ld; i++)
        if (inside(&rows, i)) ((double *)rows.ref.data)[i] = rounded(((double *)rows.ref.data)[i], real);
    report(difference(&rows) == 0, "patchify %lldx%lld patch=%lld: a wrong element", (long long)height, (long long)width,
           (long long)patch);
    report(same, "patchify %lldx%lld patch=%lld: bits differ between runs", (long long)height, (long long)width, (long long)patch);
    dinov_free(plain), grid_free(&pixels), grid_free(&rows);
}

struct embed_call {
    const struct grid *x, *patches, *cls, *registers, *mask_token, *pos;
    const uint8_t     *mask;
    int64_t            images, registers_count;
};

static void issue_embed(void *arg)
{
    const struct embed_call *c = arg;
    dinov_mat                x = c->x->on;
    ops->embed(&stream, &x, &c->patches->on, c->cls->on.data, c->registers_count ? c->registers->on.data : NULL,
               c->mask ? c->mask_token->on.data : NULL, c->pos->on.data, c->mask, c->images, c->registers_count);
}

static void check_embed(int64_t images, int64_t N, int64_t R, int64_t C, int masked)
{
    struct grid       x = grid_new(images * (1 + R + N), C, DINOV_F32, 0), patches = grid_new(images * N, C, real, 1);
    struct grid       cls = grid_packed(1, C, DINOV_F32, 1), registers = grid_packed(R + 1, C, DINOV_F32, 1);
    struct grid       token = grid_packed(1, C, DINOV_F32, 1), pos = grid_packed(1 + N, C, DINOV_F32, 1);
    struct twin       mask = twin_new((size_t)(images * N));
    uint8_t          *hide = must(dinov_alloc((size_t)(images * N), 1));
    struct embed_call call = {&x, &patches, &cls, &registers, &token, &pos, masked ? mask.device : NULL, images, R};
    dinov_stream      none = {0};
    for (int64_t i = 0; i < images * N; i++) hide[i] = i % 3 == 1;
    memcpy(mask.host, hide, mask.size);
    up(&mask);
    dinov_ops_ref_f64.embed(&none, &x.ref, &patches.ref, cls.ref.data, registers.ref.data, token.ref.data, pos.ref.data,
                            masked ? hide : NULL, images, R);
    int    same  = run(&x, issue_embed, &call);
    double error = difference(&x);
    report(error <= 6e-8, "embed B=%lld N=%lld R=%lld C=%lld mask=%d: %.2e, expected at most 6e-8", (long long)images, (long long)N,
           (long long)R, (long long)C, masked, error); /* one sum in float */
    report(same, "embed B=%lld N=%lld C=%lld: bits differ between runs", (long long)images, (long long)N, (long long)C);
    dinov_free(hide), twin_free(&mask);
    grid_free(&x), grid_free(&patches), grid_free(&cls), grid_free(&registers), grid_free(&token), grid_free(&pos);
}

struct resample_call {
    const struct grid *y, *x;
    const struct twin *rows, *cols;
    int64_t            h, w, gh, gw;
};

static void issue_resample(void *arg)
{
    const struct resample_call *c = arg;
    dinov_mat                   y = c->y->on;
    ops->resample(&stream, &y, &c->x->on, c->rows->device, c->cols->device, c->h, c->w, c->gh, c->gw);
}

/* Four taps of each row, as cubic weights have, some of them zero. */
static double *taps(struct twin *t, int64_t n, int64_t inputs)
{
    double *w = must(dinov_calloc((size_t)(n * inputs), sizeof *w));
    *t        = twin_new((size_t)(n * inputs) * sizeof *w);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < 4; j++) w[i * inputs + (i * inputs / n + j) % inputs] = j == 2 && i % 2 ? 0 : uniform();
    memcpy(t->host, w, t->size);
    up(t);
    return w;
}

static void check_resample(int64_t h, int64_t w, int64_t gh, int64_t gw, int64_t C)
{
    struct grid          y = grid_new(h * w, C, DINOV_F32, 0), x = grid_new(gh * gw, C, DINOV_F32, 1);
    struct twin          rows, cols;
    double              *rows_ref = taps(&rows, h, gh), *cols_ref = taps(&cols, w, gw);
    struct resample_call call = {&y, &x, &rows, &cols, h, w, gh, gw};
    dinov_stream         none = {0};
    dinov_ops_ref_f64.resample(&none, &y.ref, &x.ref, rows_ref, cols_ref, h, w, gh, gw);
    int    same  = run(&y, issue_resample, &call);
    double error = difference(&y);
    report(error <= 1e-6, "resample %lldx%lld of %lldx%lld C=%lld: %.2e, expected at most 1e-6", (long long)h, (long long)w,
           (long long)gh, (long long)gw, (long long)C, error);
    report(same, "resample C=%lld: bits differ between runs", (long long)C);
    dinov_free(rows_ref), dinov_free(cols_ref), twin_free(&rows), twin_free(&cols);
    grid_free(&y), grid_free(&x);
}

static void check_embeds(void)
{
    check_patchify(1, 3, 14, 14, 14);
    check_patchify(2, 3, 42, 28, 14);
    check_patchify(3, 2, 9, 6, 3);
    check_patchify(1, 1, 17, 23, 5); /* pixels beyond the last patch */
    for (int masked = 0; masked < 2; masked++) {
        check_embed(1, 1, 0, 1, masked);
        check_embed(2, 6, 4, 65, masked);
        check_embed(3, 4, 1, 384, masked);
    }
    check_resample(5, 3, 4, 7, 9);
    check_resample(16, 16, 37, 37, 5);
    check_resample(1, 1, 2, 2, 300);
    check_resample(7, 9, 1, 1, 64);
}

/* ---- pictures ---- */

enum { BATCH = 7 };

struct picture_call {
    const struct grid   *pixels;
    const struct twin   *block, *table;
    const dinov_picture *pictures;
    int64_t              width, height;
    int                  apart;
};

static void issue_pictures(void *arg)
{
    const struct picture_call *c  = arg;
    const dinov_picture       *on = c->block->device;
    for (int i = 0, step = c->apart ? 1 : BATCH; i < BATCH; i += step) {
        int64_t widest = 0, highest = 0;
        for (int k = i; k < i + step; k++) {
            if (c->pictures[k].columns > widest) widest = c->pictures[k].columns;
            if (c->pictures[k].rows > highest) highest = c->pictures[k].rows;
        }
        ops->pictures(&stream, (float *)c->pixels->on.data + i * 3 * c->width * c->height, c->block->device, on + i, step, c->width,
                      c->height, widest, highest, c->table->device);
    }
}

/* Appends a direction at a multiple of 8; its offset. */
static int64_t append_taps(uint8_t *block, int64_t *used, const dinov_taps *t, int64_t n, int32_t *most)
{
    const int32_t one = 1 << DINOV_TAP_BITS, single = 1;
    int64_t       at = (*used + 7) / 8 * 8;
    *most            = t->most ? (int32_t)t->most : 1;
    *used            = at;
    for (int part = 0; part < 3; part++)
        for (int64_t i = 0; i < n * (part == 2 ? *most : 1); i++) {
            int32_t kept = part == 0 ? (int32_t)i : part == 1 ? single : one;
            int32_t v    = !t->most ? kept : part == 0 ? t->first[i] : part == 1 ? t->count[i] : t->weight[i];
            memcpy(block + *used, &v, sizeof v);
            *used += (int64_t)sizeof v;
        }
    return at;
}

/* Pictures of several sizes become width x height: from what a preset asks for, windows of a larger result among them. */
static void check_pictures(int64_t width, int64_t height)
{
    /* of the picture; of the whole result, 0: the window itself; where the window lies in it */
    const int64_t sizes[BATCH][6] = {{31, 45, 0, 0, 0, 0},
                                     {5, 3, 0, 0, 0, 0},
                                     {1, 70, 0, 0, 0, 0},
                                     {90, 1, 0, 0, 0, 0},
                                     {width, height, 0, 0, 0, 0},
                                     {64, 40, width + 9, height + 5, 4, 3},
                                     {width, 203, width, height + 8, 0, 8}};
    enum { MOST = 1 << 20 };
    dinov_picture pictures[BATCH] = {{0}};
    int64_t       used = (int64_t)sizeof pictures, middle = 0, size = 3 * width * height;
    uint8_t      *block = must(dinov_calloc(MOST, 1)), *small = must(dinov_alloc((size_t)size, 1));
    struct twin   table  = twin_new(3 * 256 * sizeof(float));
    struct grid   pixels = grid_packed(1, BATCH * size, DINOV_F32, 0);
    float         values[3][256];
    const float   mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};

    dinov_normalise_table(values, mean, std);
    memcpy(table.host, values, sizeof values);
    up(&table);
    for (int i = 0; i < BATCH; i++) {
        const int64_t    *s           = sizes[i];
        int64_t           whole_width = s[2] ? s[2] : width, whole_height = s[3] ? s[3] : height;
        dinov_window      window = {s[4], s[5], width, height};
        dinov_resize_plan plan   = {0};
        dinov_picture    *p      = &pictures[i];
        uint8_t          *rgb    = must(dinov_alloc((size_t)(3 * s[0] * s[1]), 1));
        for (int64_t k = 0; k < 3 * s[0] * s[1]; k++) {
            double v = 127.5 + 127.5 * uniform();
            rgb[k]   = (uint8_t)(k % 7 == 0 ? (v > 127 ? 255 : 0) : v); /* edges that overshoot */
        }
        DINOV_ASSERT(dinov_resize_plan_init(&plan, window, whole_width, whole_height, s[0], s[1], NULL) == DINOV_OK);
        DINOV_ASSERT(dinov_resize_bicubic(small, window, whole_width, whole_height, rgb, s[0], s[1], NULL) == DINOV_OK);
        for (int64_t k = 0; k < size; k++) {
            int64_t c = k / (width * height), at = k % (width * height);
            ((double *)pixels.ref.data)[i * size + k] = (double)values[c][small[3 * at + c]];
        }
        p->columns = (int32_t)plan.columns, p->rows = (int32_t)plan.rows, p->down_first = plan.down_first;
        p->rgb = (used + 7) / 8 * 8;
        for (int64_t y = 0; y < plan.rows; y++)
            memcpy(block + p->rgb + 3 * y * plan.columns, rgb + 3 * ((plan.y + y) * s[0] + plan.x), (size_t)(3 * plan.columns));
        used      = p->rgb + 3 * plan.rows * plan.columns;
        p->across = append_taps(block, &used, &plan.across, width, &p->across_most);
        p->down   = append_taps(block, &used, &plan.down, height, &p->down_most);
        p->middle = middle;
        middle += 3 * (plan.down_first ? plan.columns * height : width * plan.rows);
        dinov_resize_plan_clear(&plan);
        dinov_free(rgb);
        DINOV_ASSERT(used < MOST);
    }
    memcpy(block, pictures, sizeof pictures);
    struct twin on = twin_new((size_t)used), scratch = twin_new((size_t)middle);
    memcpy(on.host, block, on.size);
    up(&on);
    stream.scratch           = scratch.device;
    struct picture_call call = {&pixels, &on, &table, pictures, width, height, 0};
    int                 same = run(&pixels, issue_pictures, &call);
    report(difference(&pixels) == 0, "pictures %lldx%lld: a pixel differs from PIL's", (long long)width, (long long)height);
    report(same, "pictures %lldx%lld: bits differ between runs", (long long)width, (long long)height);
    call.apart = 1;
    report(run_again(&pixels, issue_pictures, &call), "pictures %lldx%lld: bits differ when pictures are made apart",
           (long long)width, (long long)height);
    dinov_free(block), dinov_free(small);
    twin_free(&on), twin_free(&scratch), twin_free(&table), grid_free(&pixels);
}

/* ---- the queue ---- */

static void issue_row(void *arg)
{
    dinov_mat *x = arg;
    ops->layernorm(&stream, &x[0], &x[1], x[2].data, x[3].data, 1e-6);
}

/* Recorded work runs when it is replayed, on what its inputs then are, and makes the same bits as without recording. */
static void check_recording(void)
{
    enum { M = 5, C = 70 };
    struct grid x = grid_new(M, C, DINOV_F32, 1), other = grid_new(M, C, DINOV_F32, 1), y = grid_new(M, C, real, 0),
                z       = grid_new(M, C, real, 0);
    struct grid  weight = grid_packed(1, C, DINOV_F32, 1), bias = grid_packed(1, C, DINOV_F32, 1);
    dinov_mat    args[4] = {y.on, x.on, weight.on, bias.on};
    dinov_graph *graph   = NULL;
    dinov_error  err     = {0};
    double       before  = dinov_queue_busy(queue);

    sync();
    report(dinov_queue_record(&graph, queue, issue_row, args, &err) == DINOV_OK, "recording: %s", err.msg);
    down(&y.memory);
    sync();
    report(!memcmp(y.memory.host, y.begin, y.memory.size), "recording: recorded work was done");
    args[0] = z.on;
    for (int turn = 0; turn < 2; turn++) {
        if (turn) dinov_queue_copy(queue, x.on.data, other.on.data, x.memory.size);
        dinov_queue_begin(queue);
        dinov_queue_replay(queue, graph);
        dinov_queue_end(queue);
        issue_row(args);
        down(&y.memory), down(&z.memory);
        sync();
        report(memcmp(y.memory.host, y.begin, y.memory.size) != 0 && !memcmp(y.memory.host, z.memory.host, y.memory.size),
               "recording: replay %d makes other bits", turn);
    }
    report(dinov_queue_busy(queue) > before, "the queue was never busy");
    dinov_graph_free(&graph);
    grid_free(&x), grid_free(&other), grid_free(&y), grid_free(&z), grid_free(&weight), grid_free(&bias);
}

/* A second queue sends what the first one waits for. Sent memory may change at once. */
static void check_queues(void)
{
    enum { SIZE = (40 << 20) + 12345 };
    dinov_queue *second = NULL;
    uint8_t     *bytes  = must(dinov_alloc(SIZE, 1));
    void        *there = must(dinov_device_alloc(device, SIZE)), *copy = must(dinov_device_alloc(device, SIZE));
    uint8_t     *back = must(dinov_pinned_alloc(device, SIZE));
    int          ok   = 1;
    DINOV_ASSERT(dinov_queue_new(&second, device, NULL) == DINOV_OK);
    for (int i = 0; i < SIZE; i++) bytes[i] = (uint8_t)(i * 31 + i / 999);
    dinov_queue_send(second, there, bytes, SIZE);
    memset(bytes, 0, SIZE);
    dinov_queue_copy(second, copy, there, SIZE);
    dinov_queue_after(queue, second);
    dinov_queue_download(queue, back, copy, SIZE);
    sync();
    for (int i = 0; i < SIZE; i++) ok &= back[i] == (uint8_t)(i * 31 + i / 999);
    report(ok, "queues: what one sent, the other did not get");
    DINOV_ASSERT(dinov_queue_sync(second, NULL) == DINOV_OK);
    dinov_queue_free(&second);
    dinov_device_free(device, there), dinov_device_free(device, copy), dinov_pinned_free(device, back);
    dinov_free(bytes);
}

#ifdef DINOV_SHIM
static void check_failure(void)
{
    struct grid x = grid_new(2, 8, DINOV_F32, 1), y = grid_new(2, 8, DINOV_F32, 0);
    dinov_mat   args[4] = {y.on, x.on, x.on, x.on};
    dinov_error err     = {0};
    sync();
    shim_fail_launch(1);
    issue_row(args);
    issue_row(args);
    report(dinov_queue_sync(queue, &err) == DINOV_ERR_DEVICE && !strcmp(err.code, "DEV-FAULT"), "a failed launch was not told");
    grid_free(&x), grid_free(&y);
}
#endif

static void check_layers(void)
{
    library = strstr(ops->name, "cublaslt") != NULL;
    check_linears();
    check_activation(DINOV_ACT_GELU);
    check_activation(DINOV_ACT_SWIGLU);
#ifdef DINOV_SHIM
    shim_products = true, library = 1;
    check_linears();
    shim_products = false;
#endif
}

static void check_inputs(void)
{
    check_pictures(28, 14);
    check_pictures(56, 70);
    check_pictures(1, 1);
}

static void check_queue(void)
{
    check_recording();
    check_queues();
#ifdef DINOV_SHIM
    check_failure(); /* after it, nothing works */
#endif
}

/* kernels_device [F32|BF16|F16 [part]]: everything, or one type, or one part of it. */
int main(int argc, char **argv)
{
    static const dinov_dtype reals[] = {DINOV_F32, DINOV_BF16, DINOV_F16};
    static const struct {
        const char *name;
        void (*check)(void);
    } parts[] = {{"linear", check_layers}, {"norm", check_norms},      {"attention", check_attentions},
                 {"embed", check_embeds},  {"pictures", check_inputs}, {"queue", check_queue}};

    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        dinov_error err = {0};
        if (argc > 1 && strcmp(argv[1], dinov_dtype_name(reals[i]))) continue;
        real                = reals[i];
        dinov_status status = dinov_device_open(&device, 0, real, &err);
        if (status == DINOV_OK) status = dinov_queue_new(&queue, device, &err);
        if (status != DINOV_OK) {
            printf("%s\n", err.msg);
            return status == DINOV_ERR_UNSUPPORTED ? 77 : 1;
        }
        ops          = dinov_device_ops(device);
        stream.queue = queue;
        for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++)
            if (argc < 3 || !strcmp(argv[2], parts[k].name)) parts[k].check();
        dinov_queue_free(&queue);
        dinov_device_close(&device);
    }
    printf("%d checks, %d failed\n", checks, failures);
    return failures != 0 || checks == 0;
}
