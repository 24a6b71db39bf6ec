/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers by a library: which algorithm is taken and which never, that every number of rows gets the same one, and that
 * what we tell it means y = x W^T + bias + residual. The library is fake_cublaslt.c, found as cuBLASLt would be.
 *
 *   products FAKE    the fake as a library
 *
 * Compiled with the files of kernels/cuda it tests, beside stand-ins for the rest of that folder.
 */
#include "base/dtype.h"
#include "kernels/cuda/products.h"
#include "tests/kernels/fake_cublaslt.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static struct fake_cublaslt *fake;
static int                   checks, failures;
static dinov_dtype           real;
static int                   kept_error;
static const char           *kept;

static void report(bool fine, const char *what, int64_t a, int64_t b)
{
    checks++;
    if (fine) return;
    failures++;
    printf("FAIL: %s: %s (%lld, %lld)\n", dinov_dtype_name(real), what, (long long)a, (long long)b);
}

/* ---- Stand-ins ---- */

void *dinov_queue_stream(dinov_queue *queue)
{
    (void)queue;
    return NULL;
}

dinov_dtype dinov_queue_real(const dinov_queue *queue)
{
    (void)queue;
    return real;
}

void dinov_queue_failed(dinov_queue *queue, int error, const char *what)
{
    (void)queue;
    if (error && !kept_error) kept_error = error, kept = what;
}

static void store(void *data, int64_t at, float v)
{
    if (real == DINOV_F32) ((float *)data)[at] = v;
    if (real == DINOV_F16) ((uint16_t *)data)[at] = dinov_f16_of(v);
    if (real == DINOV_BF16) ((uint16_t *)data)[at] = dinov_bf16_of(v);
}

static float load(const void *data, int64_t at)
{
    if (real == DINOV_F32) return ((const float *)data)[at];
    if (real == DINOV_F16) return dinov_le_f16((const uint8_t *)data + 2 * at);
    return dinov_le_bf16((const uint8_t *)data + 2 * at);
}

void dinov_cuda_pack(dinov_stream *s, void *packed, const float *weight, int64_t n, int64_t k, dinov_activation act, int64_t first,
                     int64_t count)
{
    (void)s, (void)n, (void)act;
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < dinov_cuda_stride(k); j++)
            store(packed, (first + i) * dinov_cuda_stride(k) + j, j < k ? weight[i * k + j] : 0);
}

/* ---- A layer ---- */

enum { M_MOST = 9, N_ = 20, K_ = 12, LD_X = 24, LD_Y = 32, LD_R = 40 };

static _Alignas(64) unsigned char weight[4 * N_ * 16], x_data[4 * M_MOST * LD_X], y_data[4 * M_MOST * LD_Y], r_data[4 * M_MOST * LD_R];
static _Alignas(64) float         bias[64];
static dinov_linear               layer = {N_, K_, DINOV_ACT_NONE, weight, bias};
static dinov_stream               stream;

static float some(int64_t i, int64_t j) { return (float)((i * 37 + j * 11) % 17 - 8) / 8; }

static void fill(void)
{
    float w[N_ * K_];
    for (int i = 0; i < N_; i++)
        for (int j = 0; j < K_; j++) w[i * K_ + j] = some(i, j);
    dinov_cuda_pack(&stream, weight, w, N_, K_, DINOV_ACT_NONE, 0, N_);
    for (int i = 0; i < N_; i++) bias[i] = some(i, 5);
    if ((int)dinov_products_bias_size(N_) > 64) report(false, "the bias's room", (int64_t)dinov_products_bias_size(N_), 64);
    dinov_products_bias_copy(&stream, bias, N_);
    for (int i = 0; i < M_MOST; i++) {
        for (int j = 0; j < LD_X; j++) store(x_data, i * LD_X + j, j < K_ ? some(i, j + 3) : NAN); /* none but k columns are read */
        for (int j = 0; j < LD_R; j++) ((float *)r_data)[i * LD_R + j] = j < N_ ? some(i, j + 7) : NAN;
    }
}

/* Runs it and compares every element, and that nothing else was written. */
static void check_result(dinov_products *p, int64_t m, bool residual, bool in_place)
{
    dinov_mat x = {x_data, m, K_, LD_X}, y = {y_data, m, N_, LD_Y}, r = {r_data, m, N_, LD_R};
    bool      wide = residual || real == DINOV_F32;
    double    worst = 0, off = 0;

    for (int64_t i = 0; i < M_MOST * LD_Y; i++) {
        float v = residual && in_place && i % LD_Y < N_ ? ((float *)r_data)[i / LD_Y * LD_R + i % LD_Y] : 123;
        if (wide)
            ((float *)y_data)[i] = v;
        else
            store(y_data, i, v);
    }
    bool taken = dinov_products_run(p, &stream, &y, &x, &layer, !residual ? NULL : in_place ? &y : &r);
    report(taken && !kept_error, "a product is refused", m, residual);
    for (int64_t i = 0; i < M_MOST; i++)
        for (int64_t j = 0; j < LD_Y; j++) {
            float  got  = wide ? ((float *)y_data)[i * LD_Y + j] : load(y_data, i * LD_Y + j);
            double want = 123;
            if (i < m && j < N_) {
                want = (double)some(j, 5) + (residual ? (double)some(i, j + 7) : 0);
                for (int l = 0; l < K_; l++) want += (double)some(i, l + 3) * (double)some(j, l);
                worst = fmax(worst, fabs((double)got - want) / fmax(1, fabs(want)));
            } else if (residual && in_place && j < N_) {
                want = (double)some(i, j + 7);
            }
            if (i >= m || j >= N_) off += fabs((double)got - want);
        }
    report(worst <= (wide ? 1e-6 : real == DINOV_F16 ? 6e-4 : 5e-3), "a result is off", m, residual);
    report(off == 0, "something beside the result was written", m, residual);
}

static dinov_products *open_products(enum fake_mode mode)
{
    dinov_products *p;
    fake->mode  = mode;
    fake->calls = fake->id = kept_error = 0;
    if (dinov_products_open(&p, 90, real, NULL) != DINOV_OK) printf("no memory\n");
    return p;
}

static bool run(dinov_products *p, int64_t m)
{
    dinov_mat x = {x_data, m, K_, LD_X}, y = {y_data, m, N_, LD_Y};
    return dinov_products_run(p, &stream, &y, &x, &layer, NULL);
}

static void check_results(void)
{
    dinov_products *p = open_products(FAKE_FINE);
    report(!strcmp(dinov_products_name(p), "cublaslt-130100"), dinov_products_name(p), 0, 0);
    dinov_products_prepare(p, N_, K_, DINOV_ACT_NONE);
    report(fake->calls == 0, "preparing issues something", fake->calls, 0);
    for (int64_t m = 1; m <= M_MOST; m += 4) {
        check_result(p, m, false, false);
        check_result(p, m, true, false);
        check_result(p, m, true, true);
        report(fake->id == FAKE_FIRST, "the algorithm", fake->id, m);
    }
    int calls = fake->calls;
    report(run(p, 0) && fake->calls == calls, "no rows", fake->calls, calls);

    /* What is not aligned runs elsewhere, and an activation before a residual. */
    dinov_mat x = {x_data + 8, 1, K_, LD_X}, y = {y_data, 1, N_, LD_Y}, r = {r_data, 1, N_, LD_R};
    report(!dinov_products_run(p, &stream, &y, &x, &layer, NULL) && fake->calls == calls, "what is not aligned", fake->calls, calls);
    x = (dinov_mat){x_data, 1, K_, LD_X};
    dinov_linear gelu = layer;
    gelu.act          = DINOV_ACT_GELU;
    report(!dinov_products_run(p, &stream, &y, &x, &gelu, &r) && fake->calls == calls, "GELU and a residual", fake->calls, calls);
    report(dinov_products_run(p, &stream, &y, &x, &gelu, NULL), "GELU", 0, 0);
    dinov_products_close(&p);
    report(fake->alive == 0, "something is left", fake->alive, 0);
}

/* With a library in that state: the algorithm that runs, or 0 for our own kernel, whatever the number of rows. */
static void check_choice(enum fake_mode mode, int want)
{
    dinov_products *p = open_products(mode);
    for (int64_t m = 1; m <= M_MOST; m += 4) {
        fake->id = 0;
        report(run(p, m) == (want != 0) && fake->id == want, "the choice in mode", mode, fake->id);
    }
    dinov_products_close(&p);
    report(fake->alive == 0, "something is left in mode", mode, fake->alive);
}

static void check_failure(enum fake_mode mode, int error)
{
    dinov_products *p = open_products(mode);
    report(run(p, 3) && kept_error == error && kept, "a failure is not kept in mode", mode, kept_error);
    dinov_products_close(&p);
}

static void check_rows(void)
{
    char              text[300], want[300];
    dinov_product_row rows[DINOV_LT_CANDIDATES + 1], key = {.n = N_, .k = K_};
    dinov_products   *p     = open_products(FAKE_FINE);
    int               count = dinov_products_candidates(p, &key, rows);
    report(count == 3 && rows[0].provider == DINOV_PRODUCT_OWN && rows[1].config.id == FAKE_FIRST && rows[2].config.id == FAKE_SECOND,
           "the candidates", count, rows[1].config.id);
    snprintf(want, sizeof want, "{90, DINOV_%s, 20, 12, DINOV_ACT_NONE, false, DINOV_PRODUCT_CUBLASLT, {66, 20, 36, 1, 3, 5, 4}},",
             dinov_dtype_name(real));
    report(!strcmp(dinov_product_text(text, sizeof text, &rows[1]), want), text, 0, 0);
    report(dinov_products_choose(p, &rows[1]) && run(p, 1) && fake->exact, "an algorithm made again from its numbers", fake->id, 0);
    report(dinov_products_choose(p, &rows[2]) && run(p, 1) && fake->id == FAKE_SECOND, "a chosen algorithm", fake->id, 0);
    report(dinov_products_choose(p, &rows[0]) && !run(p, 1), "our own kernel, chosen", 0, 0);
    rows[1].config.id = 99;
    report(!dinov_products_choose(p, &rows[1]) && !run(p, 1), "an algorithm that is none", 0, 0);
    dinov_products_close(&p);
    report(fake->alive == 0, "something is left", fake->alive, 0);
}

int main(int argc, char **argv)
{
    static const dinov_dtype reals[] = {DINOV_F32, DINOV_BF16, DINOV_F16};
    void                    *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    if (!library) return fprintf(stderr, "usage: products FAKE\n"), 64;
    fake = dlsym(library, "fake_cublaslt");
    if (!fake) return fprintf(stderr, "%s\n", dlerror()), 64;
    for (int i = 0; i < 3; i++) {
        real = reals[i];
        fill();
        check_results();
        check_choice(FAKE_FINE, FAKE_FIRST);
        check_choice(FAKE_NO_DEVICE, 0);
        check_choice(FAKE_NOT_LARGE, 0);
        check_choice(FAKE_FIRST_NOT_8, FAKE_SECOND);
        check_choice(FAKE_TF32, real == DINOV_F32 ? 0 : FAKE_FIRST);
        check_choice(FAKE_SHORT_SUMS, 0);
        check_choice(FAKE_OLDER, FAKE_FIRST);
        check_choice(FAKE_NOT_INVARIANT, FAKE_FIRST);
        check_failure(FAKE_REFUSES, 719);
        check_failure(FAKE_NO_MEMORY, 2);
        check_rows();
    }
    report(dinov_products_attention_from(90, DINOV_BF16) == INT64_MAX, "attention by cuDNN that was never measured", 0, 0);
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
