/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products. One tile routine serves linear layers and attention: MR rows of x, read in place
 * and broadcast, times a panel of NR columns stored k-major, over the whole of K at once. Weights
 * are laid out in such panels when the model is opened, so nothing is packed per call. A tile is
 * finished (bias, activation, scale, residual) while it is in the first-level cache.
 *
 * Partial sums are folded every FOLD steps: a chain of 4096 additions in float would double the
 * rounding error. The fold depends on K alone.
 */

enum {
    NR      = NV * VL,
    FOLD    = 256,
    COLUMNS = 64,       /* of a block: one panel or more */
    ROWS    = 22 * MR,  /* of a block: about half of 257 tokens */
    GROUP   = 8,        /* blocks of rows */
    AHEAD   = 128 / NR, /* steps of a tile between lines it asks for ahead */
};

/* Lines of a cache that a tile asks for on the way, for whoever comes next. */
struct ahead {
    const float *at; /* NULL: none */
    int64_t      step;
};

/* c[mr][nv*VL] = a b, or += when `add`; a[i * row + p * step] is element (i, p) of [mr][k], b [k][nv*VL] a panel. */
static inline __attribute__((always_inline)) void tile(const int mr, const int nv, const int add, int64_t k, const float *a,
                                                       int64_t row, int64_t step, const float *b, float *c, int64_t ldc,
                                                       struct ahead ahead)
{
    for (int64_t begin = 0; begin < k || begin == 0; begin += FOLD) {
        int64_t end = begin + FOLD < k ? begin + FOLD : k;
        vf      acc[MR][NV];
#pragma GCC unroll 8
        for (int i = 0; i < mr; i++)
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) acc[i][j] = v_zero();
        for (int64_t p = begin; p < end; p++) {
            vf w[NV];
            if (ahead.at && p % AHEAD == 0) {
                __builtin_prefetch(ahead.at, 0, 2);
                ahead.at += ahead.step;
            }
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) w[j] = v_load(b + p * NR + j * VL);
#pragma GCC unroll 8
            for (int i = 0; i < mr; i++) {
                vf x = v_set1(a[i * row + p * step]);
#pragma GCC unroll 8
                for (int j = 0; j < nv; j++) acc[i][j] = v_fma(x, w[j], acc[i][j]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < mr; i++)
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) {
                float *at = c + i * ldc + j * VL;
                v_store(at, begin == 0 && !add ? acc[i][j] : v_add(v_load(at), acc[i][j]));
            }
    }
}

/* The tile for `mr` rows and the first `columns` columns of a panel: all of it, or its first vector
 * where that is enough (257 tokens are four panels of 64 and one token). */
static inline __attribute__((always_inline)) void tile_any(int mr, int64_t columns, const int add, int64_t k, const float *a,
                                                           int64_t row, int64_t step, const float *b, float *c, int64_t ldc,
                                                           struct ahead ahead)
{
    if (columns > VL) {
        switch (mr) {
        case 1:
            tile(1, NV, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 2:
            tile(2, NV, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 3:
            tile(3, NV, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 4:
            tile(4, NV, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 5:
            tile(5, NV, add, k, a, row, step, b, c, ldc, ahead);
            break;
        default:
            tile(6, NV, add, k, a, row, step, b, c, ldc, ahead);
            break;
        }
    } else {
        switch (mr) {
        case 1:
            tile(1, 1, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 2:
            tile(2, 1, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 3:
            tile(3, 1, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 4:
            tile(4, 1, add, k, a, row, step, b, c, ldc, ahead);
            break;
        case 5:
            tile(5, 1, add, k, a, row, step, b, c, ldc, ahead);
            break;
        default:
            tile(6, 1, add, k, a, row, step, b, c, ldc, ahead);
            break;
        }
    }
}

/* c = a b, a [mr][k] with rows lda apart. */
static void tile_edge(int mr, int64_t columns, int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc)
{
    tile_any(mr, columns, 0, k, a, lda, 1, b, c, ldc, (struct ahead){0});
}

/* c += a^T b, a [k][mr] with rows lda apart. */
static void tile_transposed(int mr, int64_t columns, int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc)
{
    tile_any(mr, columns, 1, k, a, 1, lda, b, c, ldc, (struct ahead){0});
}

static int64_t panels(int64_t n) { return (n + NR - 1) / NR; }

/* out[panels][room][NR] = `columns` columns of `rows` rows, and zeros up to the end of a panel. */
static void pack_rows(float *out, int64_t room, const float *x, int64_t ld, int64_t rows, int64_t columns)
{
    for (int64_t column = 0; column < columns; column += NR, out += room * NR)
        for (int64_t p = 0; p < rows; p++)
            for (int64_t j = 0; j < NR; j += VL) {
                int64_t n = columns - column - j;
                v_store(out + p * NR + j, n >= VL ? v_load(x + p * ld + column + j)
                                          : n > 0 ? v_load_n(x + p * ld + column + j, n)
                                                  : v_zero());
            }
}

/* out[panels][columns][NR] = the transpose of `columns` columns of `rows` rows, and zeros up to the end of a panel. */
static void pack_columns(float *out, const float *x, int64_t ld, int64_t rows, int64_t columns)
{
    for (int64_t row = 0; row < rows; row += NR, out += NR * columns) {
        int64_t      height = rows - row < NR ? rows - row : NR, j = 0;
        const float *from = x + row * ld;
        if (height < NR) __builtin_memset(out, 0, (size_t)(NR * columns) * sizeof(float));
        for (; j + 8 <= height; j += 8) {
            int64_t i = 0;
            for (; i + 8 <= columns; i += 8) transpose8(out + i * NR + j, NR, from + j * ld + i, ld);
            for (; i < columns; i++)
                for (int64_t l = j; l < j + 8; l++) out[i * NR + l] = from[l * ld + i];
        }
        for (; j < height; j++)
            for (int64_t i = 0; i < columns; i++) out[i * NR + j] = from[j * ld + i];
    }
}

static size_t linear_size(int64_t n, int64_t k) { return (size_t)(panels(n) * NR * k); }

static size_t linear_bias_size(int64_t n) { return (size_t)(panels(n) * NR); }

/* Which row of the weight stands in a packed column, -1 for padding. SwiGLU panels hold NR/2 gate
 * columns and then their NR/2 partners, so that a finished tile has both. */
static int64_t source_row(int64_t column, int64_t n, dinov_activation act)
{
    if (act != DINOV_ACT_SWIGLU) return column < n ? column : -1;
    int64_t at = column / NR * (NR / 2) + column % (NR / 2);
    if (at >= n / 2) return -1;
    return column % NR < NR / 2 ? at : at + n / 2;
}

struct pack_job {
    float           *packed;
    const float     *weight;
    int64_t          n, k;
    dinov_activation act;
};

static void pack_panel(void *arg, int64_t panel, int worker)
{
    const struct pack_job *job = arg;
    float                 *out = job->packed + panel * NR * job->k;
    const float           *from[NR];

    (void)worker;
    for (int j = 0; j < NR; j++) {
        int64_t row = source_row(panel * NR + j, job->n, job->act);
        from[j]     = row < 0 ? NULL : job->weight + row * job->k;
    }
    /* Steps of 16 along k read a cache line of each row at a time. */
    for (int64_t begin = 0; begin < job->k; begin += 16) {
        int64_t end = begin + 16 < job->k ? begin + 16 : job->k;
        for (int j = 0; j < NR; j++)
            for (int64_t p = begin; p < end; p++) out[p * NR + j] = from[j] ? from[j][p] : 0;
    }
}

static void linear_pack(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, dinov_activation act)
{
    struct pack_job job = {packed, weight, n, k, act};
    dinov_pool_run(s->pool, panels(n), pack_panel, &job);
}

static void linear_pack_bias(dinov_stream *s, void *packed, const void *bias, int64_t n, dinov_activation act)
{
    (void)s;
    for (int64_t column = 0; column < panels(n) * NR; column++) {
        int64_t row              = source_row(column, n, act);
        ((float *)packed)[column] = bias && row >= 0 ? ((const float *)bias)[row] : 0;
    }
}

struct transpose_job {
    float       *packed;
    const float *weight, *scale;
    int64_t      n, k;
};

/* A panel of NR columns of the weight, which are contiguous in each of its rows. */
static void pack_transposed_panel(void *arg, int64_t panel, int worker)
{
    const struct transpose_job *job     = arg;
    float                      *out     = job->packed + panel * NR * job->n;
    int64_t                     columns = job->k - panel * NR < NR ? job->k - panel * NR : NR;

    (void)worker;
    for (int64_t p = 0; p < job->n; p++, out += NR) {
        const float *from  = job->weight + p * job->k + panel * NR;
        float        scale = job->scale ? job->scale[p] : 1;
        if (columns == NR)
            for (int j = 0; j < NR; j += VL) v_store(out + j, v_mul(v_set1(scale), v_load(from + j)));
        else
            for (int j = 0; j < NR; j++) out[j] = j < columns ? scale * from[j] : 0;
    }
}

static void linear_pack_transposed(dinov_stream *s, void *packed, const void *weight, int64_t n, int64_t k, const void *scale)
{
    struct transpose_job job = {packed, weight, scale, n, k};
    dinov_pool_run(s->pool, panels(k), pack_transposed_panel, &job);
}

struct linear_job {
    dinov_mat          *y;
    const dinov_mat    *x, *residual;
    const dinov_linear *w;
    const float        *scale;
    int64_t             row_blocks, column_blocks;
};

/* One vector of a finished row: n (1..VL) results v for column `column` of row `row`. */
static inline void finish(const struct linear_job *job, int64_t row, int64_t column, vf v, int64_t n)
{
    float *y = (float *)job->y->data + row * job->y->ld + column;
    if (job->residual) {
        const float *residual = (const float *)job->residual->data + row * job->residual->ld + column;
        if (job->scale) v = v_mul(v, n == VL ? v_load(job->scale + column) : v_load_n(job->scale + column, n));
        v = v_add(n == VL ? v_load(residual) : v_load_n(residual, n), v);
    }
    if (n == VL) v_store(y, v);
    else v_store_n(y, v, n);
}

static void finish_tile(const struct linear_job *job, int64_t row, int mr, int64_t panel, const float *c)
{
    const float *bias    = (const float *)job->w->bias + panel * NR;
    int          swiglu  = job->w->act == DINOV_ACT_SWIGLU;
    int64_t      width   = swiglu ? NR / 2 : NR, column = panel * width;
    int64_t      columns = job->y->cols - column < width ? job->y->cols - column : width;

    for (int i = 0; i < mr; i++, c += NR)
        for (int64_t j = 0; j < columns; j += VL) {
            vf v = v_add(v_load(c + j), v_load(bias + j));
            if (job->w->act == DINOV_ACT_GELU) v = v_gelu(v);
            if (swiglu) v = v_mul(v_silu(v), v_add(v_load(c + NR / 2 + j), v_load(bias + NR / 2 + j)));
            finish(job, row + i, column + j, v, columns - j < VL ? columns - j : VL);
        }
}

/* Consecutive blocks share their columns, so threads meet the same weights at the same time; after GROUP blocks of rows
 * come the next columns, so that the last-level cache still has these rows. */
static void linear_block(void *arg, int64_t block, int worker)
{
    const struct linear_job *job = arg;
    int64_t                  k = job->w->k, total = panels(job->w->n), x_ld = job->x->ld;
    int64_t                  first  = block / (GROUP * job->column_blocks) * GROUP;
    int64_t                  height = job->row_blocks - first < GROUP ? job->row_blocks - first : GROUP;
    int64_t                  inside = block - first * job->column_blocks;
    int64_t                  begin = (first + inside % height) * ROWS, end = begin + ROWS;
    int64_t                  panel = inside / height * (COLUMNS / NR), last = panel + COLUMNS / NR;
    const float             *x     = job->x->data;
    float                    c[MR * NR] __attribute__((aligned(64)));

    (void)worker;
    if (end > job->y->rows) end = job->y->rows;
    if (last > total) last = total;
    for (; panel < last; panel++) {
        /* A SwiGLU panel's columns are its two halves' beginnings: all of it is needed. */
        int64_t columns = job->w->act == DINOV_ACT_SWIGLU ? NR : job->w->n - panel * NR;
        for (int64_t row = begin; row < end; row += MR) {
            int mr = end - row < MR ? (int)(end - row) : MR;
            tile_edge(mr, columns, k, x + row * x_ld, x_ld, (const float *)job->w->packed + panel * NR * k, c, NR);
            finish_tile(job, row, mr, panel, c);
        }
    }
}

static void linear(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                   const void *scale)
{
    struct linear_job job = {y, x, residual, w, scale, (y->rows + ROWS - 1) / ROWS, (panels(w->n) * NR + COLUMNS - 1) / COLUMNS};
    DINOV_ASSERT(x->cols == w->k && x->rows == y->rows && y->cols == (w->act == DINOV_ACT_SWIGLU ? w->n / 2 : w->n));
    dinov_pool_run(s->pool, job.row_blocks * job.column_blocks, linear_block, &job);
}

/* ---- the weight's gradient ---- */

/* dW = dy^T x in blocks of dW, STEPS rows of dy and x at a time. Columns of a matrix meet in few lines of a cache, so both
 * are laid out on the way: a block of x in panels, which stay in the second-level cache, and columns of dy in two strips,
 * which stay in the first. The next STEPS rows are asked for meanwhile. Blocks walk down SLAB rows before the next blocks
 * do, so that all of them find these in the last-level cache. */
enum {
    STEPS            = FOLD,
    SLAB             = 2048,
    GRADIENT_ROWS    = 16 * MR, /* of a block: as many, or twice that where it leaves MANY blocks */
    GRADIENT_COLUMNS = 192,
    MANY             = 8,
    STRIP            = 8, /* floats of a strip's row: MR and two that follow */
};

struct gradient_job {
    float           *dweight, *dbias;
    const dinov_mat *dy, *x;
    int64_t          begin, end; /* of the slab */
    int64_t          height, row_blocks;
};

/* out[2][STEPS][STRIP] = the first 2 MR columns of those that are left, and whatever follows them. */
static void pack_strips(float *out, const float *dy, int64_t ld, int64_t rows, int64_t columns)
{
    if (columns >= MR + STRIP)
        for (int64_t p = 0; p < rows; p++) {
            __builtin_memcpy(out + p * STRIP, dy + p * ld, STRIP * sizeof(float));
            __builtin_memcpy(out + (STEPS + p) * STRIP, dy + p * ld + MR, STRIP * sizeof(float));
        }
    else
        for (int64_t p = 0; p < rows; p++)
            for (int64_t i = 0; i < 2 * MR; i++) out[(i / MR * STEPS + p) * STRIP + i % MR] = i < columns ? dy[p * ld + i] : 0;
}

/* to[0..mr) += sums over the rows of a strip. */
static void add_strip(float *to, const float *strip, int64_t rows, int mr)
{
    float   part[4 * VL];
    vf      sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    int64_t i      = 0;

    for (; i + 4 * VL <= rows * STRIP; i += 4 * VL)
        for (int j = 0; j < 4; j++) sum[j] = v_add(sum[j], v_load(strip + i + j * VL));
    for (int j = 0; j < 4; j++) v_store(part + j * VL, sum[j]);
    for (; i < rows * STRIP; i++) part[i % STRIP] += strip[i];
    for (int j = 0; j < mr; j++) {
        float total = 0;
        for (int lane = j; lane < 4 * VL; lane += STRIP) total += part[lane];
        to[j] += total;
    }
}

/* The lines of the next STEPS rows for the `index`-th of `count` tiles: STEPS / AHEAD rows of one line of dy or x. */
static struct ahead gradient_ahead(const float *dy, int64_t dy_ld, int64_t rows, const float *x, int64_t x_ld, int64_t columns,
                                   int64_t index, int64_t count)
{
    int64_t dy_lines = (rows + 15) / 16, lines = dy_lines + (columns + 15) / 16;
    int64_t at = index * lines * AHEAD / count, line = at % lines, first = at / lines * (STEPS / AHEAD);
    if (line < dy_lines) return (struct ahead){dy + (STEPS + first) * dy_ld + line * 16, dy_ld};
    return (struct ahead){x + (STEPS + first) * x_ld + (line - dy_lines) * 16, x_ld};
}

static void gradient_tile(int mr, int64_t columns, int64_t steps, const float *strip, const float *panel, float *c, int64_t ldc,
                          struct ahead ahead)
{
    float edge[MR * NR] __attribute__((aligned(64)));
    if (columns >= NR) {
        tile_any(mr, NR, 1, steps, strip, 1, STRIP, panel, c, ldc, ahead);
        return;
    }
    tile_any(mr, NR, 0, steps, strip, 1, STRIP, panel, edge, NR, ahead);
    for (int i = 0; i < mr; i++)
        for (int64_t j = 0; j < columns; j++) c[i * ldc + j] += edge[i * NR + j];
}

static void gradient_block(void *arg, int64_t block, int worker)
{
    const struct gradient_job *job = arg;
    int64_t                    n = job->dy->cols, k = job->x->cols, dy_ld = job->dy->ld, x_ld = job->x->ld;
    int64_t                    top = block % job->row_blocks * job->height, left = block / job->row_blocks * GRADIENT_COLUMNS;
    int64_t                    rows    = n - top < job->height ? n - top : job->height;
    int64_t                    columns = k - left < GRADIENT_COLUMNS ? k - left : GRADIENT_COLUMNS;
    int64_t                    tiles   = (rows + MR - 1) / MR * ((columns + NR - 1) / NR);
    float                      panel[STEPS * GRADIENT_COLUMNS] __attribute__((aligned(64)));
    float                      strips[2 * STEPS * STRIP] __attribute__((aligned(64)));

    (void)worker;
    for (int64_t m = job->begin; m < job->end; m += STEPS) {
        const float *dy = (const float *)job->dy->data + m * dy_ld + top, *x = (const float *)job->x->data + m * x_ld + left;
        int64_t      steps = job->end - m < STEPS ? job->end - m : STEPS, index = 0;

        pack_rows(panel, STEPS, x, x_ld, steps, columns);
        for (int64_t i = 0; i < rows; i += MR) {
            int          mr    = rows - i < MR ? (int)(rows - i) : MR;
            const float *strip = strips + i / MR % 2 * STEPS * STRIP;
            if (i / MR % 2 == 0) pack_strips(strips, dy + i, dy_ld, steps, n - top - i);
            if (job->dbias && left == 0) add_strip(job->dbias + top + i, strip, steps, mr);
            for (int64_t j = 0; j < columns; j += NR, index++) {
                struct ahead ahead = {strip, 0};
                if (m + 2 * STEPS <= job->x->rows) ahead = gradient_ahead(dy, dy_ld, rows, x, x_ld, columns, index, tiles);
                gradient_tile(mr, columns - j, steps, strip, panel + j * STEPS, job->dweight + (top + i) * k + left + j, k, ahead);
            }
        }
    }
}

static void linear_backward(dinov_stream *s, void *dweight, void *dbias, const dinov_mat *dy, const dinov_mat *x)
{
    int64_t column_blocks = (x->cols + GRADIENT_COLUMNS - 1) / GRADIENT_COLUMNS, n = dy->cols;
    int64_t height = (n + 2 * GRADIENT_ROWS - 1) / (2 * GRADIENT_ROWS) * column_blocks >= MANY ? 2 * GRADIENT_ROWS : GRADIENT_ROWS;
    struct gradient_job job = {dweight, dbias, dy, x, .height = height, .row_blocks = (n + height - 1) / height};
    DINOV_ASSERT(dy->rows == x->rows);
    for (; job.begin < x->rows; job.begin += SLAB) {
        job.end = job.begin + SLAB < x->rows ? job.begin + SLAB : x->rows;
        dinov_pool_run(s->pool, job.row_blocks * column_blocks, gradient_block, &job);
    }
}
