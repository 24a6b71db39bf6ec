/* SPDX-License-Identifier: Apache-2.0
 *
 * Position embeddings at a size known only when the graph runs: what model/pos_embed.c computes, by plain
 * operators. The stored table is multiplied from both sides by small matrices of resampling weights, which are
 * polynomials of coordinates. Coordinates are rounded as upstream rounds them (float32, in its order).
 */
#include "convert/onnx/vit.h"

#include <math.h>
#include <stdio.h>

static const char *scalar(dinov_onnx_graph *g, const char *name, double value)
{
    float v = (float)value;
    return dinov_onnx_const_f32(g, name, DINOV_F32, 1, &v, 0, NULL);
}

static const char *whole(dinov_onnx_graph *g, const char *name, int64_t value)
{
    return dinov_onnx_const_i64(g, name, 1, 1, &value);
}

static const char *to_float(dinov_onnx_graph *g, const char *name, const char *x)
{
    const char *y = dinov_onnx_op(g, name, "Cast", x, NULL);
    dinov_onnx_set_int(g, "to", ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT);
    return y;
}

/* grid / (out + offset), rounded once: both are scaled to whole numbers, as in 370 / (10 * out + 1). */
static const char *step_of(dinov_onnx_graph *g, const char *out, int64_t grid, double offset, const char *trained)
{
    double scale = 1;
    while (scale < 1e4 && offset * scale != floor(offset * scale)) scale *= 10;
    const char *number = to_float(g, "count", out);
    if (offset > 0)
        number = dinov_onnx_op(g, "stretched", "Add", dinov_onnx_op(g, "tens", "Mul", number, scalar(g, "scale", scale), NULL),
                               scalar(g, "offset", offset * scale), NULL);
    const char *step = dinov_onnx_op(g, "rule", "Div", scalar(g, "grid", (double)grid * (offset > 0 ? scale : 1)), number, NULL);
    return trained ? dinov_onnx_op(g, "step", "Where", trained, scalar(g, "one", 1), step, NULL) : step;
}

/* Keys' cubic of |d|, zero from 2 on. */
static const char *cubic(dinov_onnx_graph *g, const char *d, double a)
{
    const char *x  = dinov_onnx_op(g, "distance", "Abs", d, NULL);
    const char *xx = dinov_onnx_op(g, "square", "Mul", x, x, NULL);
    /* ((a + 2) x - (a + 3)) x x + 1 */
    const char *near = dinov_onnx_op(g, "near_0", "Mul", x, scalar(g, "a+2", a + 2), NULL);
    near             = dinov_onnx_op(g, "near_1", "Sub", near, scalar(g, "a+3", a + 3), NULL);
    near             = dinov_onnx_op(g, "near_2", "Mul", near, xx, NULL);
    near             = dinov_onnx_op(g, "near", "Add", near, scalar(g, "one", 1), NULL);
    /* ((a x - 5 a) x + 8 a) x - 4 a */
    const char *far = dinov_onnx_op(g, "far_0", "Mul", x, scalar(g, "a", a), NULL);
    far             = dinov_onnx_op(g, "far_1", "Sub", far, scalar(g, "5a", 5 * a), NULL);
    far             = dinov_onnx_op(g, "far_2", "Mul", far, x, NULL);
    far             = dinov_onnx_op(g, "far_3", "Add", far, scalar(g, "8a", 8 * a), NULL);
    far             = dinov_onnx_op(g, "far_4", "Mul", far, x, NULL);
    far             = dinov_onnx_op(g, "far", "Sub", far, scalar(g, "4a", 4 * a), NULL);

    const char *inside = dinov_onnx_op(g, "inside", "Less", x, scalar(g, "two", 2), NULL);
    const char *outer  = dinov_onnx_op(g, "outer", "Where", inside, far, scalar(g, "zero", 0), NULL);
    const char *close  = dinov_onnx_op(g, "close", "LessOrEqual", x, scalar(g, "one", 1), NULL);
    return dinov_onnx_op(g, "cubic", "Where", close, near, outer, NULL);
}

/* [1, count]: first, first + 1, ... */
static const char *ramp(dinov_onnx_graph *g, const char *name, double first, int64_t count)
{
    const int64_t dim[2] = {1, count};
    float        *values = dinov_onnx_take(g, (size_t)count * sizeof *values);
    if (!values) return "";
    for (int64_t i = 0; i < count; i++) values[i] = (float)(first + (double)i);
    return dinov_onnx_const_f32(g, name, DINOV_F32, (int)count, values, 2, dim);
}

/* Four taps reach up to two past the border and are clamped to it: column j of the graph's weights, which stands for tap
 * j - 2, belongs to stored position clamp(j - 2). [grid + 4, grid] of zeros and ones. */
static const char *clamping(dinov_onnx_graph *g, int64_t grid)
{
    const int64_t dim[2] = {grid + 4, grid};
    float        *values = dinov_onnx_take(g, (size_t)(dim[0] * dim[1]) * sizeof *values);
    if (!values) return "";
    for (int64_t j = 0; j < grid + 4; j++) {
        int64_t at            = j - 2 < 0 ? 0 : j - 2 >= grid ? grid - 1 : j - 2;
        values[j * grid + at] = 1;
    }
    return dinov_onnx_const_f32(g, "clamp", DINOV_F32, (int)(dim[0] * dim[1]), values, 2, dim);
}

/* f32 [out, grid]: what each stored row gives to each output. */
static const char *weights_of(dinov_onnx_graph *g, const char *out, int64_t grid, const dinov_interp *rule, const char *trained)
{
    const int64_t minus  = -1;
    const char   *step   = step_of(g, out, grid, rule->offset, trained);
    const char   *index  = dinov_onnx_op(g, "index", "Range", dinov_onnx_const_i64(g, "from", 0, 1, (int64_t[]){0}), out,
                                         dinov_onnx_const_i64(g, "by", 0, 1, (int64_t[]){1}), NULL);
    const char   *half   = dinov_onnx_op(g, "half", "Add", to_float(g, "index_f", index), scalar(g, "0.5", 0.5), NULL);
    const char   *centre = dinov_onnx_op(g, "centre", "Mul", half, step, NULL);
    centre               = dinov_onnx_op(g, "centre_c", "Unsqueeze", centre, dinov_onnx_const_i64(g, "last", 1, 1, &minus), NULL);
    if (!rule->antialias) {
        const char *source = dinov_onnx_op(g, "source", "Sub", centre, scalar(g, "0.5", 0.5), NULL);
        const char *weight = cubic(g, dinov_onnx_op(g, "away", "Sub", source, ramp(g, "taps", -2, grid + 4), NULL), -0.75);
        return dinov_onnx_op(g, "weights", "MatMul", weight, clamping(g, grid), NULL);
    }
    /* (j - centre + 0.5) / max(step, 1) */
    const char *away   = dinov_onnx_op(g, "away_0", "Sub", ramp(g, "taps", 0, grid), centre, NULL);
    const char *spread = dinov_onnx_op(g, "spread", "Max", step, scalar(g, "one", 1), NULL);
    away               = dinov_onnx_op(g, "away_1", "Add", away, scalar(g, "0.5", 0.5), NULL);
    away = dinov_onnx_op(g, "away", "Mul", away, dinov_onnx_op(g, "inverse", "Div", scalar(g, "one", 1), spread, NULL), NULL);
    const char *weight = cubic(g, away, -0.5);
    const char *sum    = dinov_onnx_op(g, "sum", "ReduceSum", weight, whole(g, "axis", 1), NULL);
    return dinov_onnx_op(g, "weights", "Div", weight, sum, NULL);
}

const char *dinov_onnx_positions(dinov_onnx_graph *g, const dinov_weights *weights, const char *table, const char *rows,
                                 const char *columns)
{
    const dinov_model *m         = &weights->model;
    const int64_t      wide[2]   = {m->grid_h, m->grid_w * m->dim};
    const int64_t      narrow[3] = {-1, m->grid_w, m->dim}, flat[3] = {1, -1, m->dim};
    const char        *trained = NULL;

    snprintf(g->scope, sizeof g->scope, "positions.");
    /* Upstream leaves the table alone on the trained grid; its rule would move it where there is an offset. */
    if (m->interp.offset > 0)
        trained = dinov_onnx_op(
            g, "trained", "And",
            dinov_onnx_op(g, "trained_rows", "Equal", rows, dinov_onnx_const_i64(g, "grid", 0, 1, &m->grid_h), NULL),
            dinov_onnx_op(g, "trained_columns", "Equal", columns, dinov_onnx_const_i64(g, "grid", 0, 1, &m->grid_h), NULL), NULL);
    snprintf(g->scope, sizeof g->scope, "positions.rows.");
    const char *down = weights_of(g, rows, m->grid_h, &m->interp, trained);
    snprintf(g->scope, sizeof g->scope, "positions.columns.");
    const char *across = weights_of(g, columns, m->grid_w, &m->interp, trained);
    snprintf(g->scope, sizeof g->scope, "positions.");
    const char *y = dinov_onnx_op(g, "table", "Reshape", table, dinov_onnx_const_i64(g, "wide", 1, 2, wide), NULL);
    y             = dinov_onnx_op(g, "resampled_rows", "MatMul", down, y, NULL);
    y             = dinov_onnx_op(g, "lines", "Reshape", y, dinov_onnx_const_i64(g, "narrow", 1, 3, narrow), NULL);
    y             = dinov_onnx_op(g, "resampled", "MatMul", across, y, NULL);
    y             = dinov_onnx_op(g, "flat", "Reshape", y, dinov_onnx_const_i64(g, "tokens", 1, 3, flat), NULL);
    *g->scope     = '\0';
    return y;
}
