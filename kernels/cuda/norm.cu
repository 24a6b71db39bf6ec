/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm over rows of the residual stream, and rows of it as features. A warp takes a row: it reads it once into
 * registers, in vectors of four, and makes two passes over those, mean first, so that no digits cancel. How many vectors
 * a lane holds is a matter of the row's width: kernels for HELD = 4, 8 and 16 of them, that is 512, 1024 and 2048 columns;
 * the last reads the rest of longer rows again.
 */
#include "kernels/cuda/cuda.cuh"

enum {
    ROWS    = 8,  /* a block, a warp each */
    COLUMNS = 64, /* a block of the mean */
};

struct __attribute__((may_alias, aligned(16))) four {
    float f[4];
};

struct statistics {
    float mean, scale;
};

/* Columns of lane l: 4 (l + 32 i) to + 3, those below `cols`. Row starts are 16-byte aligned. */
DINOV_DEVICE void load4(float v[4], const float *x, int64_t at, int64_t cols)
{
    if (at + 4 <= cols) {
        four raw = *(const four *)(x + at);
        for (int i = 0; i < 4; i++) v[i] = raw.f[i];
    } else {
        for (int i = 0; i < 4; i++) v[i] = at + i < cols ? x[at + i] : 0.0f;
    }
}

template <int HELD>
DINOV_DEVICE statistics row_statistics(const float *x, int64_t cols, float eps, int lane, float (&held)[HELD][4])
{
    float sum = 0, squares = 0, v[4];
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int64_t at = 4 * (lane + WARP * i);
        for (int k = 0; k < 4; k++) held[i][k] = 0;
        if (at < cols) load4(held[i], x, at, cols);
        sum += (held[i][0] + held[i][1]) + (held[i][2] + held[i][3]);
    }
    for (int64_t at = 4 * (lane + WARP * HELD); at < cols; at += 4 * WARP) {
        load4(v, x, at, cols);
        sum += (v[0] + v[1]) + (v[2] + v[3]);
    }
    float mean = warp_sum(sum) / (float)cols;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int64_t at = 4 * (lane + WARP * i);
        for (int k = 0; k < 4; k++) squares += at + k < cols ? (held[i][k] - mean) * (held[i][k] - mean) : 0.0f;
    }
    for (int64_t at = 4 * (lane + WARP * HELD); at < cols; at += 4 * WARP) {
        load4(v, x, at, cols);
        for (int k = 0; k < 4; k++) squares += at + k < cols ? (v[k] - mean) * (v[k] - mean) : 0.0f;
    }
    float variance = warp_sum(squares) / (float)cols;
    return statistics{mean, 1.0f / sqrtf(variance + eps)};
}

DINOV_DEVICE float normal(float x, statistics s, float weight, float bias) { return (x - s.mean) * s.scale * weight + bias; }

template <typename T> DINOV_DEVICE void store4(T *y, int64_t at, int64_t cols, const float v[4])
{
    if (sizeof(T) == 2 && at + 4 <= cols) {
        uint64_t pair = (uint64_t)from_float<T>(v[0]).bits | (uint64_t)from_float<T>(v[1]).bits << 16 |
                        (uint64_t)from_float<T>(v[2]).bits << 32 | (uint64_t)from_float<T>(v[3]).bits << 48;
        *(vec8 *)(y + at) = pair;
    } else {
        for (int k = 0; k < 4; k++)
            if (at + k < cols) y[at + k] = from_float<T>(v[k]);
    }
}
/* Features lie packed, at any multiple of 4 bytes. */
template <> DINOV_DEVICE void store4<float>(float *y, int64_t at, int64_t cols, const float v[4])
{
    if (at + 4 <= cols && (uintptr_t)y % sizeof(four) == 0) {
        *(four *)(y + at) = four{{v[0], v[1], v[2], v[3]}};
    } else {
        for (int k = 0; k < 4; k++)
            if (at + k < cols) y[at + k] = v[k];
    }
}

/* weight NULL: the row as it is. */
template <typename T, int HELD>
DINOV_DEVICE void norm_row(T *y, const float *x, const float *weight, const float *bias, int64_t cols, float eps, int lane)
{
    float      held[HELD][4], v[4], w[4], b[4];
    statistics s = row_statistics(x, cols, eps, lane, held);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int64_t at = 4 * (lane + WARP * i);
        if (at >= cols) continue;
        for (int k = 0; k < 4; k++) v[k] = held[i][k];
        if (weight) {
            load4(w, weight, at, cols), load4(b, bias, at, cols);
            for (int k = 0; k < 4; k++) v[k] = normal(v[k], s, w[k], b[k]);
        }
        store4<T>(y, at, cols, v);
    }
    for (int64_t at = 4 * (lane + WARP * HELD); at < cols; at += 4 * WARP) {
        load4(v, x, at, cols);
        if (weight) {
            load4(w, weight, at, cols), load4(b, bias, at, cols);
            for (int k = 0; k < 4; k++) v[k] = normal(v[k], s, w[k], b[k]);
        }
        store4<T>(y, at, cols, v);
    }
}

template <typename T, int HELD>
DINOV_KERNEL(ROWS *WARP)
layernorm(T *y, int64_t y_ld, const float *x, int64_t x_ld, const float *weight, const float *bias, int64_t rows, int64_t cols,
          float eps)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (row < rows) norm_row<T, HELD>(y + row * y_ld, x + row * x_ld, weight, bias, cols, eps, (int)threadIdx.x % WARP);
}

/* Row r of the output is token first + r % count of picture r / count. */
template <int HELD>
DINOV_KERNEL(ROWS *WARP)
feature_rows(float *out, const float *x, int64_t x_ld, const float *weight, const float *bias, int64_t rows, int64_t tokens,
             int64_t first, int64_t count, int64_t cols, float eps)
{
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (row >= rows) return;
    const float *in = x + (row / count * tokens + first + row % count) * x_ld;
    norm_row<float, HELD>(out + row * cols, in, weight, bias, cols, eps, (int)threadIdx.x % WARP);
}

/* Mean and scale of the rows that a mean is taken over: statistics [pictures * count]. */
template <int HELD>
DINOV_KERNEL(ROWS *WARP)
mean_statistics(statistics *out, const float *x, int64_t x_ld, int64_t rows, int64_t tokens, int64_t first, int64_t count,
                int64_t cols, float eps)
{
    float   held[HELD][4];
    int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (row >= rows) return;
    statistics s =
        row_statistics(x + (row / count * tokens + first + row % count) * x_ld, cols, eps, (int)threadIdx.x % WARP, held);
    if (threadIdx.x % WARP == 0) out[row] = s;
}

/* A thread sums a column of a picture, row by row. */
DINOV_KERNEL(COLUMNS)
mean_columns(float *out, const float *x, int64_t x_ld, const statistics *stats, const float *weight, const float *bias,
             int64_t tokens, int64_t first, int64_t count, int64_t cols)
{
    int64_t image = blockIdx.x, c = (int64_t)blockIdx.y * COLUMNS + threadIdx.x;
    if (c >= cols) return;
    const float *in  = x + (image * tokens + first) * x_ld + c;
    double       sum = 0;
    for (int64_t r = 0; r < count; r++) {
        float v = in[r * x_ld];
        if (weight) v = normal(v, stats[image * count + r], weight[c], bias[c]);
        sum += (double)v;
    }
    out[image * cols + c] = (float)(sum / (double)count);
}

/* Runs `launch` with HELD as wide as rows of `cols` need. */
#define BY_WIDTH(cols, launch)                                                                                                     \
    do {                                                                                                                           \
        if ((cols) <= 4 * 4 * WARP)                                                                                                \
            launch(4);                                                                                                             \
        else if ((cols) <= 8 * 4 * WARP)                                                                                           \
            launch(8);                                                                                                             \
        else                                                                                                                       \
            launch(16);                                                                                                            \
    } while (0)

template <typename T>
static void launch_layernorm(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps)
{
#define LAUNCH(held)                                                                                                               \
    DINOV_LAUNCH(s, "layernorm", (layernorm<T, held>), dim3(blocks_of(x->rows, ROWS)), ROWS *WARP, 0, (T *)y->data, y->ld,         \
                 (const float *)x->data, x->ld, (const float *)weight, (const float *)bias, x->rows, x->cols, (float)eps)
    BY_WIDTH(x->cols, LAUNCH);
#undef LAUNCH
}

extern "C" void dinov_cuda_layernorm(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias,
                                     double eps)
{
    DINOV_BY_REAL(s, launch_layernorm, y, x, weight, bias, eps);
}

extern "C" void dinov_cuda_features(dinov_stream *s, float *out, const dinov_mat *x, int64_t images, int64_t first, int64_t count,
                                    bool mean, const void *weight, const void *bias, double eps)
{
    int64_t      rows = images * count, tokens = x->rows / images, cols = x->cols;
    statistics  *stats = (statistics *)s->scratch;
    const float *in = (const float *)x->data, *w = (const float *)weight, *b = (const float *)bias;
#define ROWS_OUT(held)                                                                                                             \
    DINOV_LAUNCH(s, "features", (feature_rows<held>), dim3(blocks_of(rows, ROWS)), ROWS *WARP, 0, out, in, x->ld, w, b, rows,      \
                 tokens, first, count, cols, (float)eps)
#define STATISTICS(held)                                                                                                           \
    DINOV_LAUNCH(s, "features", (mean_statistics<held>), dim3(blocks_of(rows, ROWS)), ROWS *WARP, 0, stats, in, x->ld, rows,       \
                 tokens, first, count, cols, (float)eps)
    if (!mean) {
        BY_WIDTH(cols, ROWS_OUT);
        return;
    }
    if (weight) BY_WIDTH(cols, STATISTICS);
    DINOV_LAUNCH(s, "features", mean_columns, dim3((unsigned)images, blocks_of(cols, COLUMNS)), COLUMNS, 0, out, in, x->ld, stats,
                 w, b, tokens, first, count, cols);
}
