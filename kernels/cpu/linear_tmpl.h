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
    COLUMNS = 64,      /* of a block: one panel or more */
    ROWS    = 22 * MR, /* of a block: about half of 257 tokens */
};

/* c[mr][nv*VL] = a[mr][k] b[k][nv*VL]; b is a panel. */
static inline __attribute__((always_inline)) void tile(const int mr, const int nv, int64_t k, const float *a, int64_t lda,
                                                       const float *b, float *c, int64_t ldc)
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
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) w[j] = v_load(b + p * NR + j * VL);
#pragma GCC unroll 8
            for (int i = 0; i < mr; i++) {
                vf x = v_set1(a[i * lda + p]);
#pragma GCC unroll 8
                for (int j = 0; j < nv; j++) acc[i][j] = v_fma(x, w[j], acc[i][j]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < mr; i++)
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) {
                float *at = c + i * ldc + j * VL;
                v_store(at, begin == 0 ? acc[i][j] : v_add(v_load(at), acc[i][j]));
            }
    }
}

/* The tile for `mr` rows and the first `columns` columns of a panel: all of it, or its first vector
 * where that is enough (257 tokens are four panels of 64 and one token). */
static void tile_edge(int mr, int64_t columns, int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc)
{
    if (columns > VL) {
        switch (mr) {
        case 1: tile(1, NV, k, a, lda, b, c, ldc); break;
        case 2: tile(2, NV, k, a, lda, b, c, ldc); break;
        case 3: tile(3, NV, k, a, lda, b, c, ldc); break;
        case 4: tile(4, NV, k, a, lda, b, c, ldc); break;
        case 5: tile(5, NV, k, a, lda, b, c, ldc); break;
        default: tile(6, NV, k, a, lda, b, c, ldc); break;
        }
    } else {
        switch (mr) {
        case 1: tile(1, 1, k, a, lda, b, c, ldc); break;
        case 2: tile(2, 1, k, a, lda, b, c, ldc); break;
        case 3: tile(3, 1, k, a, lda, b, c, ldc); break;
        case 4: tile(4, 1, k, a, lda, b, c, ldc); break;
        case 5: tile(5, 1, k, a, lda, b, c, ldc); break;
        default: tile(6, 1, k, a, lda, b, c, ldc); break;
        }
    }
}

static int64_t panels(int64_t n) { return (n + NR - 1) / NR; }

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

static void linear_pack_bias(void *packed, const void *bias, int64_t n, dinov_activation act)
{
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
    int64_t             row_blocks;
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

/* Consecutive blocks share their columns, so threads meet the same weights at the same time. */
static void linear_block(void *arg, int64_t block, int worker)
{
    const struct linear_job *job   = arg;
    int64_t                  k     = job->w->k, total = panels(job->w->n);
    int64_t                  begin = block % job->row_blocks * ROWS, end = begin + ROWS;
    int64_t                  panel = block / job->row_blocks * (COLUMNS / NR), last = panel + COLUMNS / NR;
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
            tile_edge(mr, columns, k, x + row * job->x->ld, job->x->ld, (const float *)job->w->packed + panel * NR * k, c, NR);
            finish_tile(job, row, mr, panel, c);
        }
    }
}

static void linear(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                   const void *scale)
{
    struct linear_job job = {y, x, residual, w, scale, (y->rows + ROWS - 1) / ROWS};
    DINOV_ASSERT(x->cols == w->k && x->rows == y->rows && y->cols == (w->act == DINOV_ACT_SWIGLU ? w->n / 2 : w->n));
    dinov_pool_run(s->pool, job.row_blocks * ((panels(w->n) * NR + COLUMNS - 1) / COLUMNS), linear_block, &job);
}
