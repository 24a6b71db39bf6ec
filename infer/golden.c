/* SPDX-License-Identifier: Apache-2.0
 *
 * Golden vectors: expected features of inputs given by a formula (spec/checkpoint.md section 8).
 */
#include "dinov/infer.h"

#include "base/alloc.h"
#include "format/document.h"
#include "format/layout.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void dinov_golden_input(float *pixels, int64_t channels, int64_t height, int64_t width, int64_t seed)
{
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++) *pixels++ = (float)((c * 31 + y * 17 + x * 7 + seed % 64 * 13) % 64 - 32) / 16;
}

/* The CLS vector and the last patch token of one case; `out` holds 2 * dim floats. */
static dinov_status features_of(dinov_engine *e, const dinov_golden *g, float *out, dinov_error *err)
{
    const dinov_model *m = dinov_engine_model(e);
    /* Attention is quadratic in the patches: the format's cap is what keeps a proof from a file cheap. */
    if (!dinov_golden_legal(g, m->patch))
        return dinov_fail(err, DINOV_ERR_LIMIT, "PROOF-SIZE",
                          "golden input of %lld x %lld, seed %lld: expected multiples of the patch (%lld), at most %d patches, and "
                          "a seed from 0 to 2147483647",
                          (long long)g->width, (long long)g->height, (long long)g->seed, (long long)m->patch,
                          DINOV_CK_MAX_CASE_PATCHES);
    int64_t      tokens = (g->height / m->patch) * (g->width / m->patch);
    float       *pixels = dinov_alloc((size_t)(m->channels * g->height * g->width), sizeof *pixels);
    float       *patch  = dinov_alloc((size_t)(tokens * m->dim), sizeof *patch);
    dinov_status status;
    if (!pixels || !patch) {
        status = dinov_fail_nomem(err, "golden vectors", "an input");
    } else {
        dinov_features f = {.layer = -1, .cls = out, .patch = patch};
        dinov_golden_input(pixels, m->channels, g->height, g->width, g->seed);
        status = dinov_engine_run(e, pixels, 1, g->height, g->width, &f, 1, err);
        if (status == DINOV_OK) memcpy(out + m->dim, patch + (tokens - 1) * m->dim, (size_t)m->dim * sizeof *out);
    }
    dinov_free(pixels);
    dinov_free(patch);
    return status;
}

/* ||have - want|| / ||want||; not a number counts as infinite. */
static double relative(const float *have, const float *want, int64_t n)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)have[i] - (double)want[i];
        difference += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    double ratio = difference == 0 ? 0 : sqrt(difference / norm);
    return isnan(ratio) ? (double)INFINITY : ratio;
}

dinov_status dinov_engine_prove(dinov_engine *e, const dinov_proof *proof, double *worst, dinov_error *err)
{
    int64_t      dim    = dinov_engine_model(e)->dim;
    float       *have   = dinov_alloc((size_t)(2 * dim), sizeof *have);
    double       most   = 0;
    dinov_status status = have ? DINOV_OK : dinov_fail_nomem(err, "golden vectors", "a result");

    for (size_t i = 0; i < proof->count && status == DINOV_OK; i++) {
        const dinov_golden *g = &proof->cases[i];
        status                = features_of(e, g, have, err);
        if (status != DINOV_OK) break;
        double difference = fmax(relative(have, g->cls, dim), relative(have + dim, g->patch, dim));
        most              = fmax(most, difference);
        if (difference > proof->tolerance)
            status = dinov_fail(err, DINOV_ERR_CORRUPT, "PROOF-FAILED",
                                "golden case %zu (%lld x %lld): difference %.3g, expected at most %.3g: features on this "
                                "machine are not those of %s",
                                i, (long long)g->width, (long long)g->height, difference, proof->tolerance, proof->computed_by);
    }
    dinov_free(have);
    if (status == DINOV_OK && worst) *worst = most;
    return status;
}

dinov_status dinov_engine_make_proof(dinov_engine *e, dinov_proof *proof, dinov_golden *cases, dinov_error *err)
{
    /* In patches: square, wide, tall; small, so that the largest model needs less than a second. */
    static const int64_t sides[DINOV_GOLDEN_CASES][2] = {{2, 2}, {2, 3}, {3, 1}};
    const dinov_model   *m      = dinov_engine_model(e);
    float               *values = dinov_alloc((size_t)(2 * DINOV_GOLDEN_CASES * m->dim), sizeof *values);

    *proof = (dinov_proof){.tolerance = 1e-5, .cases = cases};
    if (!values) return dinov_fail_nomem(err, "golden vectors", "their values");
    snprintf(proof->computed_by, sizeof proof->computed_by, "dinov %s %s", DINOV_VERSION_STRING, dinov_engine_isa(e));
    for (int i = 0; i < DINOV_GOLDEN_CASES; i++) {
        float *at = values + 2 * i * m->dim;
        cases[i]  = (dinov_golden){sides[i][0] * m->patch, sides[i][1] * m->patch, i, at, at + m->dim};
        dinov_status status = features_of(e, &cases[i], at, err);
        for (int64_t c = 0; status == DINOV_OK && c < 2 * m->dim; c++)
            if (!isfinite(at[c]))
                status = dinov_fail(err, DINOV_ERR_CORRUPT, "PROOF-FINITE",
                                    "its features are not finite numbers: the weights hold NaN, infinities or values out of range");
        if (status != DINOV_OK) {
            dinov_free(values);
            return status;
        }
    }
    proof->count = DINOV_GOLDEN_CASES;
    return DINOV_OK;
}

void dinov_engine_free_proof(dinov_proof *proof)
{
    if (proof->count) dinov_free((void *)(uintptr_t)proof->cases[0].cls); /* one block, the first case's start */
    *proof = (dinov_proof){0};
}
