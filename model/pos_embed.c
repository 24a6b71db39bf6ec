/* SPDX-License-Identifier: Apache-2.0
 *
 * Position embeddings at other grids than the trained one: bicubic, separable, by one of two rules
 * (facebookresearch/dinov2, interpolate_pos_encoding; torch's two bicubic kernels).
 *   plain      a = -0.75, four taps, indices clamped to the border, no low-pass when shrinking;
 *              the step is grid / (out + offset), so an offset shifts every coordinate
 *   antialias  a = -0.5, support grows with the step, taps outside are dropped and the rest rescaled
 * Coordinates are computed in float: upstream resamples in float32 whatever the model computes in,
 * and the rounding of a coordinate exceeds all other rounding of a forward pass. Training in double
 * asks for exact ones, so that its gradients can be compared beyond float.
 */
#include "model/pos_embed.h"

#include "base/alloc.h"
#include "model/vit.h"

#include <math.h>
#include <string.h>

static double cubic(double x, double a)
{
    x = fabs(x);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return 0;
}

/* Rounds a coordinate to what it is computed in. */
static double as(bool exact, double x) { return exact ? x : (double)(float)x; }

/* Upstream passes a scale when there is an offset, and the size otherwise. */
static double step_of(int64_t out, int64_t grid, double offset, bool exact)
{
    return as(exact, offset > 0 ? 1.0 / (((double)out + offset) / (double)grid) : (double)grid / (double)out);
}

/* weights: [out, grid], row o holds the taps of output o. */
static void fill_plain(double *weights, int64_t out, int64_t grid, double step, bool exact)
{
    for (int64_t o = 0; o < out; o++) {
        double  src = as(exact, as(exact, step * ((double)o + 0.5)) - 0.5);
        int64_t f   = (int64_t)floor(src);
        for (int64_t tap = f - 1; tap <= f + 2; tap++) {
            int64_t at = tap < 0 ? 0 : tap >= grid ? grid - 1 : tap;
            weights[o * grid + at] += cubic(src - (double)tap, -0.75);
        }
    }
}

static void fill_antialias(double *weights, int64_t out, int64_t grid, double step, bool exact)
{
    double support = 2 * fmax(step, 1), inverse = step >= 1 ? as(exact, 1 / step) : 1;
    for (int64_t o = 0; o < out; o++) {
        double  centre = as(exact, step * ((double)o + 0.5)), sum = 0;
        int64_t lo = (int64_t)as(exact, as(exact, centre - support) + 0.5),
                hi = (int64_t)as(exact, as(exact, centre + support) + 0.5);
        if (lo < 0) lo = 0;
        if (hi > grid) hi = grid;
        for (int64_t j = lo; j < hi; j++) {
            double distance              = as(exact, as(exact, as(exact, (double)j - centre) + 0.5) * inverse);
            sum += weights[o * grid + j] = cubic(distance, -0.5);
        }
        for (int64_t j = lo; j < hi; j++) weights[o * grid + j] /= sum;
    }
}

bool dinov_pos_is_trained_grid(const dinov_model *m, int64_t h, int64_t w)
{
    /* Upstream's early return: equal counts and a square image. */
    return h * w == m->grid_h * m->grid_w && h == w;
}

void dinov_pos_weights(double *weights, int64_t out, int64_t grid, const dinov_interp *rule, bool exact)
{
    double step = step_of(out, grid, rule->offset, exact);
    memset(weights, 0, (size_t)(out * grid) * sizeof *weights);
    if (rule->antialias)
        fill_antialias(weights, out, grid, step, exact);
    else
        fill_plain(weights, out, grid, step, exact);
}

dinov_status dinov_vit_pos(const dinov_vit *vit, void *out, int64_t h, int64_t w, dinov_error *err)
{
    const dinov_model *m = &vit->config;
    int64_t            C = m->dim, gh = m->grid_h, gw = m->grid_w;
    size_t             row = (size_t)C * vit->ops->real_size;

    if (dinov_pos_is_trained_grid(m, h, w)) {
        memcpy(out, vit->pos, row * (size_t)(1 + h * w));
        return DINOV_OK;
    }
    double *rows = dinov_alloc((size_t)(h * gh), sizeof *rows), *cols = dinov_alloc((size_t)(w * gw), sizeof *cols);
    if (!rows || !cols) {
        dinov_free(rows);
        dinov_free(cols);
        return dinov_fail_nomem(err, "position embeddings", "resampling weights");
    }
    dinov_pos_weights(rows, h, gh, &m->interp, false);
    dinov_pos_weights(cols, w, gw, &m->interp, false);
    memcpy(out, vit->pos, row);
    dinov_mat y = {(char *)out + row, h * w, C, C}, x = {(char *)(uintptr_t)vit->pos + row, gh * gw, C, C};
    vit->ops->resample(&y, &x, rows, cols, h, w, gh, gw);
    dinov_free(rows);
    dinov_free(cols);
    return DINOV_OK;
}
