/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows chosen by a list, sums over rows, and gradients of weights that are taken row by row: LayerScale, weight
 * normalisation.
 */

struct rows_job {
    dinov_mat       *y;
    const dinov_mat *x;
    const int32_t   *rows;
    const float     *scale;
    float            factor;
    int64_t          height; /* of a block */
};

static void gather_block(void *arg, int64_t block, int worker)
{
    const struct rows_job *job = arg;
    int64_t                n = job->y->cols, end = (block + 1) * job->height;
    vf                     factor = v_set1(job->factor);

    (void)worker;
    if (end > job->y->rows) end = job->y->rows;
    for (int64_t row = block * job->height; row < end; row++) {
        const float *x = (const float *)job->x->data + (job->rows ? job->rows[row] : row) * job->x->ld;
        float       *y = (float *)job->y->data + row * job->y->ld;
        for (int64_t j = 0; j < n; j += VL) v_put(y + j, v_mul(factor, v_take(x + j, n - j)), n - j);
    }
}

static void gather(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const int32_t *rows, double factor)
{
    struct rows_job job = {y, x, rows, NULL, (float)factor, rows_of(ELEMENTS, y->cols)};
    DINOV_ASSERT(x->cols == y->cols && (rows || x->rows >= y->rows));
    dinov_pool_run(s->pool, (y->rows + job.height - 1) / job.height, gather_block, &job);
}

static void scatter_block(void *arg, int64_t block, int worker)
{
    const struct rows_job *job = arg;
    int64_t                n = job->x->cols, end = (block + 1) * job->height;
    vf                     factor = v_set1(job->factor);

    (void)worker;
    if (end > job->x->rows) end = job->x->rows;
    for (int64_t row = block * job->height; row < end; row++) {
        const float *x = (const float *)job->x->data + row * job->x->ld;
        float       *y = (float *)job->y->data + (job->rows ? job->rows[row] : row) * job->y->ld;
        for (int64_t j = 0; j < n; j += VL) {
            vf by = job->scale ? v_mul(factor, v_take(job->scale + j, n - j)) : factor;
            v_put(y + j, v_fma(by, v_take(x + j, n - j), v_take(y + j, n - j)), n - j);
        }
    }
}

static void scatter_add(dinov_stream *s, dinov_mat *y, const int32_t *rows, const dinov_mat *x, const void *scale, double factor)
{
    struct rows_job job = {y, x, rows, scale, (float)factor, rows_of(ELEMENTS, y->cols)};
    DINOV_ASSERT(x->cols == y->cols && (rows || y->rows >= x->rows));
    dinov_pool_run(s->pool, (x->rows + job.height - 1) / job.height, scatter_block, &job);
}

enum { SUM_COLUMNS = 32 * VL, PART = 64 };

struct sum_job {
    float           *sums;
    const dinov_mat *x;
};

/* Some columns: PART rows, and then the parts, are added up in order. */
static void sum_columns(void *arg, int64_t block, int worker)
{
    const struct sum_job *job   = arg;
    int64_t               first = block * SUM_COLUMNS, n = job->x->cols - first < SUM_COLUMNS ? job->x->cols - first : SUM_COLUMNS;
    float                 sum[SUM_COLUMNS] = {0}, part[SUM_COLUMNS];

    (void)worker;
    for (int64_t begin = 0; begin < job->x->rows; begin += PART) {
        int64_t end = begin + PART < job->x->rows ? begin + PART : job->x->rows;
        __builtin_memset(part, 0, sizeof part);
        for (int64_t row = begin; row < end; row++) {
            const float *x = (const float *)job->x->data + row * job->x->ld + first;
            for (int64_t j = 0; j < n; j += VL) v_store(part + j, v_add(v_load(part + j), v_take(x + j, n - j)));
        }
        for (int64_t j = 0; j < n; j += VL) v_store(sum + j, v_add(v_load(sum + j), v_load(part + j)));
    }
    for (int64_t j = 0; j < n; j++) job->sums[first + j] += sum[j];
}

static void column_sums(dinov_stream *s, void *sums, const dinov_mat *x)
{
    struct sum_job job = {sums, x};
    dinov_pool_run(s->pool, (x->cols + SUM_COLUMNS - 1) / SUM_COLUMNS, sum_columns, &job);
}

struct layerscale_job {
    float       *dgamma, *dweight, *dbias;
    const float *dw, *db, *gamma, *weight, *bias;
    int64_t      n, k, rows;
};

static void layerscale_block(void *arg, int64_t block, int worker)
{
    const struct layerscale_job *job = arg;
    int64_t                      k = job->k, end = (block + 1) * job->rows;

    (void)worker;
    if (end > job->n) end = job->n;
    for (int64_t i = block * job->rows; i < end; i++) {
        const float *dw    = job->dw + i * k;
        float       *to    = job->dweight + i * k;
        vf           gamma = v_set1(job->gamma[i]);
        job->dgamma[i] += row_dot(dw, job->weight + i * k, k) + job->db[i] * job->bias[i];
        job->dbias[i] += job->gamma[i] * job->db[i];
        for (int64_t j = 0; j < k; j += VL) v_put(to + j, v_fma(gamma, v_take(dw + j, k - j), v_take(to + j, k - j)), k - j);
    }
}

static void layerscale_backward(dinov_stream *s, void *dgamma, void *dweight, void *dbias, const void *dw, const void *db,
                                const void *gamma, const void *weight, const void *bias, int64_t n, int64_t k)
{
    struct layerscale_job job = {dgamma, dweight, dbias, dw, db, gamma, weight, bias, n, k, rows_of(ELEMENTS, k)};
    dinov_pool_run(s->pool, (n + job.rows - 1) / job.rows, layerscale_block, &job);
}

struct weight_norm_job {
    float       *w, *dv, *dg;
    const float *dw, *v, *g;
    int64_t      n, k, rows;
};

static void weight_norm_row(const struct weight_norm_job *job, int64_t row)
{
    int64_t      k      = job->k;
    const float *v      = job->v + row * k;
    float        length = __builtin_sqrtf(row_dot(v, v, k)), factor = job->g[row] / length;

    if (job->w) {
        for (int64_t i = 0; i < k; i += VL) v_put(job->w + row * k + i, v_mul(v_set1(factor), v_take(v + i, k - i)), k - i);
        return;
    }
    const float *dw    = job->dw + row * k;
    float       *dv    = job->dv + row * k;
    float        along = row_dot(v, dw, k) / length;
    vf           part  = v_set1(along / length);
    job->dg[row] += along;
    for (int64_t i = 0; i < k; i += VL) {
        vf across = v_sub(v_take(dw + i, k - i), v_mul(v_take(v + i, k - i), part));
        v_put(dv + i, v_fma(v_set1(factor), across, v_take(dv + i, k - i)), k - i);
    }
}

static void weight_norm_block(void *arg, int64_t block, int worker)
{
    const struct weight_norm_job *job = arg;
    int64_t                       end = (block + 1) * job->rows;
    (void)worker;
    if (end > job->n) end = job->n;
    for (int64_t row = block * job->rows; row < end; row++) weight_norm_row(job, row);
}

static void weight_norm(dinov_stream *s, void *w, const void *v, const void *g, int64_t n, int64_t k)
{
    struct weight_norm_job job = {.w = w, .v = v, .g = g, .n = n, .k = k, .rows = rows_of(ELEMENTS, k)};
    dinov_pool_run(s->pool, (n + job.rows - 1) / job.rows, weight_norm_block, &job);
}

static void weight_norm_backward(dinov_stream *s, void *dv, void *dg, const void *dw, const void *v, const void *g, int64_t n,
                                 int64_t k)
{
    struct weight_norm_job job = {.dv = dv, .dg = dg, .dw = dw, .v = v, .g = g, .n = n, .k = k, .rows = rows_of(ELEMENTS, k)};
    dinov_pool_run(s->pool, (n + job.rows - 1) / job.rows, weight_norm_block, &job);
}
