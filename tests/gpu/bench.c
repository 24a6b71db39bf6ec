/* SPDX-License-Identifier: Apache-2.0
 *
 * What tests/gpu/run asks of a device, one verb each; models have seeded weights.
 *
 *   gpu_bench facts                     the device and what computes on it; exits 77 where there is none
 *   gpu_bench parity MODEL...           features against the CPU's, and the same bits for any batch and run
 *   gpu_bench forward MODEL...          pictures a second from inputs that lie on the device, bf16
 *   gpu_bench ops MODEL...              each step of a block: time, rate, and part of what the device can do
 *   gpu_bench tune MODEL...             every way to compute each linear layer, as rows of products_table.h
 *
 * MODEL: S, B, L, g, or tiny, which the host shim can carry. Exits 1 when a check fails.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "infer/engine.h"
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/products.h"
#include "model/seeded.h"
#include "model/vit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct spec {
    const char *name;
    dinov_model model;
} specs[] = {
    {"tiny", {.patch = 14, .dim = 64, .depth = 2, .heads = 1, .ffn = DINOV_FFN_SWIGLU, .hidden = 96, .grid_h = 3, .grid_w = 3}},
    {"S", {.patch = 14, .dim = 384, .depth = 12, .heads = 6, .ffn = DINOV_FFN_MLP, .hidden = 1536, .grid_h = 37, .grid_w = 37}},
    {"B", {.patch = 14, .dim = 768, .depth = 12, .heads = 12, .ffn = DINOV_FFN_MLP, .hidden = 3072, .grid_h = 37, .grid_w = 37}},
    {"L", {.patch = 14, .dim = 1024, .depth = 24, .heads = 16, .ffn = DINOV_FFN_MLP, .hidden = 4096, .grid_h = 37, .grid_w = 37}},
    {"g",
     {.patch = 14, .dim = 1536, .depth = 40, .heads = 24, .ffn = DINOV_FFN_SWIGLU, .hidden = 4096, .grid_h = 37, .grid_w = 37}},
};

static int failures;

static void must(dinov_status status, const dinov_error *err)
{
    if (status == DINOV_OK) return;
    fprintf(stderr, "gpu_bench: %s [%s]\n", err->msg, err->code);
    exit(status == DINOV_ERR_UNSUPPORTED ? 77 : 1);
}

static void *room(void *p)
{
    if (p) return p;
    fprintf(stderr, "gpu_bench: out of memory\n");
    exit(1);
}

static dinov_model model_of(const char *name)
{
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++)
        if (strcmp(specs[i].name, name) == 0) {
            dinov_model m = specs[i].model;
            m.channels = 3, m.layerscale = m.qkv_bias = 1, m.ln_eps = 1e-6, m.interp.offset = 0.1;
            return m;
        }
    fprintf(stderr, "gpu_bench: model %s: expected tiny, S, B, L or g\n", name);
    exit(64);
}

static bool is_tiny(const char *name) { return strcmp(name, "tiny") == 0; }

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- A device at hand ---- */

struct bench {
    dinov_device    *device;
    dinov_queue     *queue;
    const dinov_ops *ops;
    dinov_stream     stream;
};

static struct bench open_device(dinov_dtype real)
{
    struct bench b;
    dinov_error  err;
    must(dinov_device_open(&b.device, 0, real, &err), &err);
    must(dinov_queue_new(&b.queue, b.device, &err), &err);
    b.ops    = dinov_device_ops(b.device);
    b.stream = (dinov_stream){.queue = b.queue};
    return b;
}

static void close_device(struct bench *b)
{
    dinov_queue_free(&b->queue);
    dinov_device_close(&b->device);
}

static int by_size(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

/* Seconds of one issue(arg): the median of seven times of some replays of its graph, after a warm-up. */
static double seconds_of(struct bench *b, void (*issue)(void *arg), void *arg)
{
    enum { TIMES = 7 };
    dinov_graph *graph;
    dinov_error  err;
    double       times[TIMES];
    int          replays = 1;

    issue(arg); /* libraries load their code now */
    must(dinov_queue_sync(b->queue, &err), &err);
    must(dinov_queue_record(&graph, b->queue, issue, arg, &err), &err);
    for (int i = -1; i < TIMES; i++) {
        double before = dinov_queue_busy(b->queue);
        dinov_queue_begin(b->queue);
        for (int r = 0; r < replays; r++) dinov_queue_replay(b->queue, graph);
        dinov_queue_end(b->queue);
        must(dinov_queue_sync(b->queue, &err), &err);
        double each = (dinov_queue_busy(b->queue) - before) / replays;
        if (i >= 0)
            times[i] = each;
        else
            replays = each > 0.02 ? 1 : each > 0 ? (int)(0.02 / each) + 1 : 100;
    }
    dinov_graph_free(&graph);
    qsort(times, TIMES, sizeof times[0], by_size);
    return times[TIMES / 2];
}

/* ---- facts ---- */

struct copying {
    struct bench *b;
    void         *to, *from;
    size_t        size;
};

static void copy(void *arg)
{
    struct copying *c = arg;
    dinov_queue_copy(c->b->queue, c->to, c->from, c->size);
}

static void facts(void)
{
    struct bench b = open_device(DINOV_BF16);
    printf("device: %s\ntable: %s\n", dinov_device_name(b.device), b.ops->name);
    close_device(&b);
}

/* Bytes a second, read and written, of a copy on the device. */
static double copy_rate(struct bench *b, size_t size)
{
    struct copying c = {b, room(dinov_device_alloc(b->device, size)), room(dinov_device_alloc(b->device, size)), size};
    double         s = seconds_of(b, copy, &c);
    dinov_device_free(b->device, c.to);
    dinov_device_free(b->device, c.from);
    return 2 * (double)size / s;
}

/* ---- parity ---- */

struct features {
    float *cls, *patch;
};

static struct features run_engine(dinov_engine *e, int64_t images, int64_t side)
{
    const dinov_model *m = dinov_engine_model(e);
    int64_t            N = side / m->patch * (side / m->patch), image = 3 * side * side;
    float             *pixels = room(malloc((size_t)(images * image) * sizeof *pixels));
    struct features    out    = {room(malloc((size_t)(images * m->dim) * sizeof(float))),
                                 room(malloc((size_t)(images * N * m->dim) * sizeof(float)))};
    dinov_features     f      = {.layer = -1, .cls = out.cls, .patch = out.patch};
    dinov_error        err;
    for (int64_t i = 0; i < images; i++) dinov_golden_input(pixels + i * image, 3, side, side, i % 2);
    must(dinov_engine_run(e, pixels, images, side, side, &f, 1, &err), &err);
    free(pixels);
    return out;
}

static void drop(struct features *f) { free(f->cls), free(f->patch); }

/* Over tokens: the largest relative distance and the smallest cosine. */
static void compare(const float *have, const float *want, int64_t tokens, int64_t dim, double *distance, double *cosine)
{
    for (int64_t t = 0; t < tokens; t++) {
        double difference = 0, a = 0, b = 0, product = 0;
        for (int64_t i = t * dim; i < (t + 1) * dim; i++) {
            double x = (double)have[i], y = (double)want[i];
            difference += (x - y) * (x - y), a += x * x, b += y * y, product += x * y;
        }
        *distance = fmax(*distance, sqrt(difference / b));
        *cosine   = fmin(*cosine, product / sqrt(a * b));
        if (isnan(difference)) *distance = (double)INFINITY, *cosine = -1;
    }
}

static dinov_engine *open_engine(const dinov_weights *weights, const char *device, dinov_dtype real)
{
    dinov_engine        *e;
    dinov_error          err;
    dinov_engine_options o = {.device = device, .compute = real};
    must(dinov_engine_open_weights(&e, weights, &o, &err), &err);
    return e;
}

static void parity(const char *name)
{
    static const struct {
        dinov_dtype real;
        double      distance, cosine; /* of the worst token */
    } types[]            = {{DINOV_F32, 1e-5, 0.99999999}, {DINOV_BF16, 1, 0.999}, {DINOV_F16, 1, 0.9999}};
    dinov_model    model = model_of(name);
    int64_t        side = is_tiny(name) ? 28 : 224, N = side / 14 * (side / 14), D = model.dim, many = is_tiny(name) ? 3 : 37;
    dinov_weights *weights;
    dinov_error    err;

    must(dinov_seeded_new(&weights, &model, 1, &err), &err);
    dinov_engine   *cpu  = open_engine(weights, "cpu", DINOV_F32);
    struct features want = run_engine(cpu, 2, side);
    dinov_engine_close(&cpu);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        double          begun = now(), distance = 0, cosine = 1;
        dinov_engine   *e      = open_engine(weights, "cuda", types[t].real);
        double          opened = now() - begun;
        struct features two = run_engine(e, 2, side), again = run_engine(e, 2, side), more = run_engine(e, many, side);
        compare(two.cls, want.cls, 2, D, &distance, &cosine);
        compare(two.patch, want.patch, 2 * N, D, &distance, &cosine);
        bool repeats = !memcmp(two.cls, again.cls, (size_t)(2 * D) * 4) && !memcmp(two.patch, again.patch, (size_t)(2 * N * D) * 4);
        bool batches = true;
        for (int64_t i = 0; i < many; i++)
            batches = batches && !memcmp(more.cls + i * D, two.cls + i % 2 * D, (size_t)D * 4) &&
                      !memcmp(more.patch + i * N * D, two.patch + i % 2 * N * D, (size_t)(N * D) * 4);
        bool good = distance <= types[t].distance && cosine >= types[t].cosine && repeats && batches;
        failures += !good;
        printf("parity %-4s %-4s  worst token: distance %.1e, 1 - cosine %.1e; run to run %s, batch 2 and %lld %s; opened in %.1f "
               "s  %s\n",
               name, dinov_dtype_name(types[t].real), distance, 1 - cosine, repeats ? "same bits" : "DIFFERS", (long long)many,
               batches ? "same bits" : "DIFFER", opened, good ? "ok" : "FAILED");
        fflush(stdout);
        drop(&two), drop(&again), drop(&more);
        dinov_engine_close(&e);
    }
    drop(&want);
    dinov_seeded_free(&weights);
}

/* ---- forward ---- */

struct passing {
    struct bench *b;
    dinov_vit     vit;
    void         *memory;
    float        *pixels, *pos, *cls;
    int64_t       images, h;
};

static void tap(void *arg, int64_t block, dinov_stream *s, const dinov_mat *x, dinov_mat *spare)
{
    struct passing *p = arg;
    (void)spare;
    if (block == p->vit.config.depth - 1)
        p->b->ops->features(s, p->cls, x, p->images, 0, 1, false, p->vit.norm_weight, p->vit.norm_bias, p->vit.config.ln_eps);
}

static void pass(void *arg)
{
    struct passing *p = arg;
    dinov_vit_forward(&p->vit, &p->b->stream, p->memory, p->pixels, p->pos, p->images, p->h, p->h, p->vit.config.depth - 1, tap, p);
}

/* Of one token in one block, and of one picture; 2 a multiply-add. */
static double token_flops(const dinov_model *m, double tokens)
{
    double D = (double)m->dim, F = (double)m->hidden;
    return 8 * D * D + (m->ffn == DINOV_FFN_SWIGLU ? 6 : 4) * D * F + 4 * tokens * D;
}
static double flops_of(const dinov_model *m, int64_t side)
{
    double N = (double)(side / 14 * (side / 14));
    return 2 * 588 * (double)m->dim * N + (double)m->depth * (N + 1) * token_flops(m, N + 1);
}

static void forward_at(struct bench *b, struct passing *p, const char *name, int64_t side, int64_t images)
{
    const dinov_model *m = &p->vit.config;
    dinov_error        err;
    p->images = images, p->h = side / 14;
    p->pixels  = room(dinov_device_alloc(b->device, (size_t)(images * 3 * side * side) * sizeof(float)));
    p->pos     = room(dinov_device_alloc(b->device, (size_t)((1 + p->h * p->h) * m->dim) * sizeof(float)));
    p->cls     = room(dinov_device_alloc(b->device, (size_t)(images * m->dim) * sizeof(float)));
    p->memory  = room(dinov_device_alloc(b->device, dinov_vit_memory(&p->vit, images, p->h, p->h, 1)));
    float *one = room(malloc((size_t)(3 * side * side) * sizeof *one));
    dinov_golden_input(one, 3, side, side, 1);
    for (int64_t i = 0; i < images; i++)
        dinov_queue_send(b->queue, p->pixels + i * 3 * side * side, one, (size_t)(3 * side * side) * sizeof *one);
    free(one);
    must(dinov_vit_pos(&p->vit, b->queue, p->pos, p->h, p->h, &err), &err);
    double s = seconds_of(b, pass, p), rate = (double)images / s;
    printf("forward %-4s %lld  batch %-4lld %8.2f ms  %9.1f img/s  %6.1f TFLOP/s\n", name, (long long)side, (long long)images,
           1e3 * s, rate, rate * flops_of(m, side) * 1e-12);
    fflush(stdout);
    dinov_device_free(b->device, p->pixels), dinov_device_free(b->device, p->pos);
    dinov_device_free(b->device, p->cls), dinov_device_free(b->device, p->memory);
}

static void forward(const char *name)
{
    dinov_model    model = model_of(name);
    dinov_weights *weights;
    dinov_error    err;
    struct bench   b = open_device(DINOV_BF16);
    struct passing p = {.b = &b};

    must(dinov_seeded_new(&weights, &model, 1, &err), &err);
    must(dinov_vit_init(&p.vit, weights, b.ops, NULL, b.device, b.queue, &err), &err);
    dinov_seeded_free(&weights);
    if (is_tiny(name)) {
        forward_at(&b, &p, name, 28, 2);
    } else {
        /* Small ones may stay in the GPU's cache, large ones fill its multiprocessors. */
        for (int64_t images = 32; images <= 256; images *= 2) forward_at(&b, &p, name, 224, images);
        for (int64_t images = 8; images <= 32; images *= 2) forward_at(&b, &p, name, 518, images);
    }
    dinov_vit_clear(&p.vit);
    close_device(&b);
}

/* ---- ops ---- */

struct step {
    struct bench *b;
    const char   *what;
    dinov_mat     x, wide, y; /* x: real, of any step's width; wide: the residual stream */
    dinov_linear  w;
    bool          residual;
    void         *weight, *bias; /* [C] for norms */
    int64_t       images, heads;
    void (*run)(struct step *s);
};

static void issue_step(void *arg)
{
    struct step *s = arg;
    s->run(s);
}

static void step_linear(struct step *s)
{
    dinov_mat x = {s->x.data, s->x.rows, s->w.k, dinov_cuda_stride(s->w.k)};
    int64_t   n = s->w.act == DINOV_ACT_SWIGLU ? s->w.n / 2 : s->w.n;
    dinov_mat y = {s->y.data, s->x.rows, n, dinov_cuda_stride(n)};
    s->b->ops->linear(&s->b->stream, s->residual ? &s->wide : &y, &x, &s->w, s->residual ? &s->wide : NULL, NULL);
}

static void step_norm(struct step *s)
{
    dinov_mat y = {s->y.data, s->wide.rows, s->wide.cols, s->wide.ld};
    s->b->ops->layernorm(&s->b->stream, &y, &s->wide, s->weight, s->bias, 1e-6);
}

static void step_attention(struct step *s)
{
    int64_t   C   = s->wide.cols;
    dinov_mat qkv = {s->x.data, s->x.rows, 3 * C, dinov_cuda_stride(3 * C)}, y = {s->y.data, s->x.rows, C, dinov_cuda_stride(C)};
    s->b->ops->attention(&s->b->stream, &y, &qkv, s->images, s->heads);
}

static dinov_linear pack(struct bench *b, int64_t n, int64_t k, dinov_activation act)
{
    float *weight = room(malloc((size_t)(n * k) * sizeof *weight)), *bias = room(malloc((size_t)n * sizeof *bias));
    void  *packed = room(dinov_device_alloc(b->device, b->ops->linear_size(n, k) * b->ops->real_size));
    void  *pbias  = room(dinov_device_alloc(b->device, b->ops->linear_bias_size(n) * b->ops->wide_size));
    for (int64_t i = 0; i < n * k; i++) weight[i] = (float)(((uint64_t)i * 2654435761u >> 8) % 2048) / 1024.0f - 1.0f;
    for (int64_t i = 0; i < n; i++) bias[i] = 0.5f;
    b->ops->linear_pack(&b->stream, packed, weight, n, k, act);
    b->ops->linear_pack_bias(&b->stream, pbias, bias, n, act);
    free(weight), free(bias);
    return (dinov_linear){n, k, act, packed, pbias};
}

static void unpack(struct bench *b, dinov_linear *w)
{
    dinov_device_free(b->device, (void *)(uintptr_t)w->packed);
    dinov_device_free(b->device, (void *)(uintptr_t)w->bias);
}

enum { PIECE = 1 << 20 };

static void fill(struct bench *b, void *to, size_t size, const void *piece)
{
    for (size_t at = 0; at < size; at += PIECE)
        dinov_queue_send(b->queue, (char *)to + at, piece, size - at < PIECE ? size - at : PIECE);
}

/* Matrices large enough for any step of the model over `rows` tokens, with numbers of a usual size in them. */
static struct step new_step(struct bench *b, const dinov_model *m, int64_t rows, int64_t images)
{
    int64_t     widest = 2 * m->hidden > 3 * m->dim ? 2 * m->hidden : 3 * m->dim, ld = dinov_cuda_stride(m->dim);
    size_t      size   = (size_t)(rows * dinov_cuda_stride(widest)) * 4;
    struct step s      = {.b = b, .images = images, .heads = m->heads};
    float      *values = room(malloc(PIECE));
    s.x                = (dinov_mat){room(dinov_device_alloc(b->device, size)), rows, m->dim, ld};
    s.y                = (dinov_mat){room(dinov_device_alloc(b->device, size)), rows, m->dim, ld};
    s.wide             = (dinov_mat){room(dinov_device_alloc(b->device, (size_t)(rows * ld) * 4)), rows, m->dim, ld};
    s.weight           = room(dinov_device_alloc(b->device, (size_t)m->dim * 4)),
    s.bias             = room(dinov_device_alloc(b->device, (size_t)m->dim * 4));
    b->stream.scratch  = room(dinov_device_alloc(b->device, b->ops->linear_scratch(rows, 2 * m->hidden, DINOV_ACT_SWIGLU) + 4096));
    for (int i = 0; i < PIECE / 2; i++)
        ((uint16_t *)(void *)values)[i] = dinov_bf16_of((float)((uint32_t)i * 2654435761u >> 8 & 2047) / 1024.0f - 1.0f);
    fill(b, s.x.data, size, values);
    for (int i = 0; i < PIECE / 4; i++) values[i] = (float)(i % 1999) / 1000.0f - 1.0f;
    fill(b, s.wide.data, (size_t)(rows * ld) * 4, values);
    dinov_queue_send(b->queue, s.weight, values, (size_t)m->dim * 4);
    dinov_queue_send(b->queue, s.bias, values, (size_t)m->dim * 4);
    free(values);
    return s;
}

static void free_step(struct step *s)
{
    dinov_device *d = s->b->device;
    dinov_device_free(d, s->x.data), dinov_device_free(d, s->y.data), dinov_device_free(d, s->wide.data);
    dinov_device_free(d, s->weight), dinov_device_free(d, s->bias), dinov_device_free(d, s->b->stream.scratch);
    s->b->stream.scratch = NULL;
}

static double peak_flops, peak_bytes;

static double show(struct step *s, const char *what, double flops, double bytes)
{
    double t = seconds_of(s->b, issue_step, s);
    printf("  %-10s %9.1f us", what, 1e6 * t);
    if (flops > 0) printf("  %7.1f TFLOP/s (%3.0f%% of the largest product's)", 1e-12 * flops / t, 100 * flops / t / peak_flops);
    printf("  %7.1f GB/s (%3.0f%% of a copy's)\n", 1e-9 * bytes / t, 100 * bytes / t / peak_bytes);
    fflush(stdout);
    return t;
}

static const struct layer {
    const char *what;
    int         act, residual; /* act 1: the model's own */
} layers[] = {{"qkv", 0, 0}, {"proj", 0, 1}, {"up", 1, 0}, {"down", 0, 1}};

static void layer_shape(const dinov_model *m, size_t i, int64_t *n, int64_t *k, dinov_activation *act)
{
    bool swiglu = m->ffn == DINOV_FFN_SWIGLU;
    *n          = i == 0 ? 3 * m->dim : i == 2 ? (swiglu ? 2 * m->hidden : m->hidden) : m->dim;
    *k          = i == 3 ? m->hidden : m->dim;
    *act        = i != 2 ? DINOV_ACT_NONE : swiglu ? DINOV_ACT_SWIGLU : DINOV_ACT_GELU;
}

static void ops_at(struct bench *b, const char *name, const dinov_model *m, int64_t tokens, int64_t images)
{
    int64_t     M = tokens * images, C = m->dim;
    struct step s     = new_step(b, m, M, images);
    double      total = 0, real = (double)b->ops->real_size;

    printf("ops %s, %lld tokens, %lld pictures, %s; one block\n", name, (long long)tokens, (long long)images, b->ops->name);
    s.run = step_norm;
    total += 2 * show(&s, "layernorm", 0, (double)(M * C) * (4 + real));
    s.run = step_attention;
    total += show(&s, "attention", 4.0 * (double)M * (double)tokens * (double)C, (double)(M * C) * 4 * real);
    s.run = step_linear;
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        int64_t          n, k;
        dinov_activation act;
        layer_shape(m, i, &n, &k, &act);
        s.w        = pack(b, n, k, act);
        s.residual = layers[i].residual;
        double out = (double)(act == DINOV_ACT_SWIGLU ? n / 2 : n) * (s.residual ? 8 : real);
        total += show(&s, layers[i].what, 2.0 * (double)M * (double)n * (double)k,
                      (double)M * ((double)k * real + out) + (double)(n * k) * real);
        unpack(b, &s.w);
    }
    printf("  block      %9.1f us, %.1f TFLOP/s\n", 1e6 * total, 1e-12 * (double)M * token_flops(m, (double)tokens) / total);
    free_step(&s);
}

static void measure_peaks(struct bench *b, bool tiny)
{
    dinov_model m = {.dim = tiny ? 64 : 8192, .hidden = tiny ? 64 : 8192, .heads = 1};
    struct step s = new_step(b, &m, tiny ? 64 : 8192, 1);
    s.w           = pack(b, m.dim, m.dim, DINOV_ACT_NONE);
    s.run         = step_linear;
    peak_flops    = 2.0 * (double)s.x.rows * (double)(m.dim * m.dim) / seconds_of(b, issue_step, &s);
    peak_bytes    = copy_rate(b, tiny ? 1 << 16 : (size_t)1 << 30);
    printf("peaks: product of %lld^3 %.1f TFLOP/s, copy %.0f GB/s read and written\n", (long long)m.dim, 1e-12 * peak_flops,
           1e-9 * peak_bytes);
    unpack(b, &s.w);
    free_step(&s);
}

static void ops(const char *name)
{
    dinov_model  m = model_of(name);
    struct bench b = open_device(DINOV_BF16);
    measure_peaks(&b, is_tiny(name));
    if (is_tiny(name)) {
        ops_at(&b, name, &m, 5, 2);
    } else {
        ops_at(&b, name, &m, 257, 128);
        ops_at(&b, name, &m, 1370, 24);
    }
    close_device(&b);
}

/* ---- tune: the shim has no library to choose from ---- */

#ifndef DINOV_SHIM

/* Attention by our kernel and by cuDNN: times, how far apart, and whether cuDNN's bits depend on the batch. */
static void tune_attention(struct bench *b, const char *name, const dinov_model *m, int64_t tokens, int64_t images)
{
    int64_t     C = m->dim, rows = tokens * images, ld = dinov_cuda_stride(C);
    struct step s    = new_step(b, m, rows, images);
    size_t      size = (size_t)(rows * ld) * 2, one = (size_t)(tokens * ld) * 2;
    uint16_t   *out[3];
    double      seconds[2], difference = 0, norm = 0;
    dinov_error err;

    s.run = step_attention;
    for (int who = 0; who < 3; who++) { /* ours; cuDNN; cuDNN on the first picture alone */
        out[who] = room(dinov_pinned_alloc(b->device, size));
        dinov_cudnn_from(dinov_queue_cudnn(b->queue), who ? 1 : INT64_MAX);
        if (who == 2) s.images = 1, s.x.rows = s.wide.rows = tokens;
        if (who < 2)
            seconds[who] = seconds_of(b, issue_step, &s);
        else
            issue_step(&s);
        dinov_queue_download(b->queue, out[who], s.y.data, size);
        must(dinov_queue_sync(b->queue, &err), &err);
    }
    dinov_cudnn_from(dinov_queue_cudnn(b->queue), INT64_MAX);
    for (int64_t i = 0; i < rows * ld; i++) {
        double x = (double)dinov_le_bf16((const uint8_t *)&out[0][i]), y = (double)dinov_le_bf16((const uint8_t *)&out[1][i]);
        difference += (x - y) * (x - y), norm += x * x;
    }
    printf("tune %-4s attention of %lld tokens, %lld pictures: ours %.1f us, %s %.1f us, apart by %.1e; one picture alone: %s\n",
           name, (long long)tokens, (long long)images, 1e6 * seconds[0], dinov_cudnn_name(dinov_queue_cudnn(b->queue)),
           1e6 * seconds[1], sqrt(difference / norm), memcmp(out[1], out[2], one) ? "OTHER bits" : "same bits");
    for (int who = 0; who < 3; who++) dinov_pinned_free(b->device, out[who]);
    free_step(&s);
}

static void tune(const char *name)
{
    dinov_model            m = model_of(name);
    struct bench           b = open_device(DINOV_BF16);
    struct dinov_products *p = dinov_queue_products(b.queue);
    struct step            s = new_step(&b, &m, 257 * 128, 128);
    s.run                    = step_linear;
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        dinov_product_row row = {.sm = atoi(b.ops->name + strlen("cuda-sm")), .real = DINOV_BF16, .residual = layers[i].residual},
                          rows[DINOV_LT_CANDIDATES + 1];
        char text[512];
        layer_shape(&m, i, &row.n, &row.k, &row.act);
        s.w          = pack(&b, row.n, row.k, row.act);
        s.residual   = row.residual;
        int    count = dinov_products_candidates(p, &row, rows), best = -1;
        double least = 0;
        for (int c = 0; c < count; c++) {
            if (!dinov_products_choose(p, &rows[c])) continue;
            double t = seconds_of(&b, issue_step, &s);
            printf("tune %-4s %-5s %9.1f us  %s\n", name, layers[i].what, 1e6 * t, dinov_product_text(text, sizeof text, &rows[c]));
            if (best < 0 || t < least) best = c, least = t;
        }
        if (best >= 0)
            printf("best %-4s %-5s %9.1f us  %s\n", name, layers[i].what, 1e6 * least,
                   dinov_product_text(text, sizeof text, &rows[best]));
        fflush(stdout);
        unpack(&b, &s.w);
    }
    free_step(&s);
    tune_attention(&b, name, &m, 257, 128);
    tune_attention(&b, name, &m, 1370, 24);
    close_device(&b);
}

#endif

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(const char *model);
    } verbs[] = {
        {"parity", parity},
        {"forward", forward},
        {"ops", ops},
#ifndef DINOV_SHIM
        {"tune", tune},
#endif
    };
    if (argc == 2 && strcmp(argv[1], "facts") == 0) return facts(), 0;
    for (size_t v = 0; argc > 2 && v < sizeof verbs / sizeof verbs[0]; v++) {
        if (strcmp(argv[1], verbs[v].name)) continue;
        for (int i = 2; i < argc; i++) verbs[v].run(argv[i]);
        if (failures) printf("%d failed\n", failures);
        return failures != 0;
    }
    fprintf(stderr, "usage: gpu_bench facts | parity|forward|ops|tune MODEL...\n");
    return 64;
}
