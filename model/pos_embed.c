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

static void copy(const dinov_vit *vit, dinov_queue *queue, void *to, const void *from, size_t size)
{
    if (vit->device)
        dinov_queue_copy(queue, to, from, size);
    else
        memcpy(to, from, size);
}

/* `rows` and `cols` lie where the table works. */
static void resample(const dinov_vit *vit, dinov_queue *queue, void *out, int64_t h, int64_t w, const double *rows,
                     const double *cols)
{
    const dinov_model *m = &vit->config;
    int64_t            C = m->dim, gh = m->grid_h, gw = m->grid_w;
    size_t             row = (size_t)C * vit->ops->wide_size;
    dinov_stream       s   = {.queue = queue};
    dinov_mat          y = {(char *)out + row, h * w, C, C}, x = {(char *)(uintptr_t)vit->pos + row, gh * gw, C, C};

    copy(vit, queue, out, vit->pos, row);
    vit->ops->resample(&s, &y, &x, rows, cols, h, w, gh, gw);
}

/* The same with weights that lie in the process: they are brought to the device. */
static dinov_status resample_there(const dinov_vit *vit, dinov_queue *queue, void *out, int64_t h, int64_t w, const double *rows,
                                   const double *cols, dinov_error *err)
{
    int64_t row_count = h * vit->config.grid_h, col_count = w * vit->config.grid_w;
    double *there = dinov_device_alloc(vit->device, (size_t)(row_count + col_count) * sizeof *there);
    if (!there) return dinov_fail_nomem(err, dinov_device_name(vit->device), "resampling weights");
    dinov_queue_send(queue, there, rows, (size_t)row_count * sizeof *there);
    dinov_queue_send(queue, there + row_count, cols, (size_t)col_count * sizeof *there);
    resample(vit, queue, out, h, w, there, there + row_count);
    dinov_status status = dinov_queue_sync(queue, err);
    dinov_device_free(vit->device, there);
    return status;
}

dinov_status dinov_vit_pos(const dinov_vit *vit, dinov_queue *queue, void *out, int64_t h, int64_t w, dinov_error *err)
{
    const dinov_model *m  = &vit->config;
    int64_t            gh = m->grid_h, gw = m->grid_w;

    if (dinov_pos_is_trained_grid(m, h, w)) {
        copy(vit, queue, out, vit->pos, (size_t)((1 + h * w) * m->dim) * vit->ops->wide_size);
        return vit->device ? dinov_queue_sync(queue, err) : DINOV_OK;
    }
    double      *rows = dinov_alloc((size_t)(h * gh), sizeof *rows), *cols = dinov_alloc((size_t)(w * gw), sizeof *cols);
    dinov_status status = DINOV_OK;
    if (!rows || !cols) {
        status = dinov_fail_nomem(err, "position embeddings", "resampling weights");
    } else {
        dinov_pos_weights(rows, h, gh, &m->interp, false);
        dinov_pos_weights(cols, w, gw, &m->interp, false);
        if (vit->device)
            status = resample_there(vit, queue, out, h, w, rows, cols, err);
        else
            resample(vit, queue, out, h, w, rows, cols);
    }
    dinov_free(rows);
    dinov_free(cols);
    return status;
}
