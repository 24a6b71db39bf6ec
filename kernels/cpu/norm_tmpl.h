/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm and unit length of rows, a few rows a block, and their gradients.
 */

enum { NORM_ROWS = 16 };

struct norm_job {
    dinov_mat       *y;
    const dinov_mat *x;
    const float     *weight, *bias;
    float            eps;
};

static void norm_row(const struct norm_job *job, int64_t row)
{
    const float *x    = (const float *)job->x->data + row * job->x->ld;
    float       *y    = (float *)job->y->data + row * job->y->ld;
    int64_t      n    = job->x->cols, whole = n / VL * VL, rest = n - whole;
    vf           sum  = v_zero(), squares = v_zero();

    for (int64_t i = 0; i < whole; i += VL) sum = v_add(sum, v_load(x + i));
    if (rest) sum = v_add(sum, v_load_n(x + whole, rest));
    float mean = v_sum(sum) / (float)n;
    vf    m    = v_set1(mean);
    for (int64_t i = 0; i < whole; i += VL) {
        vf d    = v_sub(v_load(x + i), m);
        squares = v_fma(d, d, squares);
    }
    float total = v_sum(squares);
    for (int64_t i = whole; i < n; i++) total += (x[i] - mean) * (x[i] - mean);
    vf scale = v_div(v_set1(1.0f), v_sqrt(v_set1(total / (float)n + job->eps)));
    for (int64_t i = 0; i < whole; i += VL)
        v_store(y + i, v_fma(v_mul(v_sub(v_load(x + i), m), scale), v_load(job->weight + i), v_load(job->bias + i)));
    if (rest)
        v_store_n(y + whole,
                  v_fma(v_mul(v_sub(v_load_n(x + whole, rest), m), scale), v_load_n(job->weight + whole, rest),
                        v_load_n(job->bias + whole, rest)),
                  rest);
}

static void norm_block(void *arg, int64_t block, int worker)
{
    const struct norm_job *job = arg;
    int64_t                end = (block + 1) * NORM_ROWS;
    (void)worker;
    if (end > job->x->rows) end = job->x->rows;
    for (int64_t row = block * NORM_ROWS; row < end; row++) norm_row(job, row);
}

static void layernorm(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const void *weight, const void *bias, double eps)
{
    struct norm_job job = {y, x, weight, bias, (float)eps};
    DINOV_ASSERT(x->rows == y->rows && x->cols == y->cols);
    dinov_pool_run(s->pool, (x->rows + NORM_ROWS - 1) / NORM_ROWS, norm_block, &job);
}

/* ---- backward ---- */

enum { SUM_ROWS = 64 }; /* of a block: their share of dweight and dbias is one row of the scratch */

struct norm_backward_job {
    dinov_mat       *dx;
    const dinov_mat *dy, *x;
    const float     *weight;
    float           *parts; /* [blocks][2][cols] */
    float            eps;
};

static void norm_backward_row(const struct norm_backward_job *job, int64_t row, float *dweight, float *dbias)
{
    const float *x = (const float *)job->x->data + row * job->x->ld, *dy = (const float *)job->dy->data + row * job->dy->ld;
    float       *dx  = (float *)job->dx->data + row * job->dx->ld;
    int64_t      n   = job->x->cols;
    vf           sum = v_zero(), product = v_zero(), squares = v_zero();

    for (int64_t i = 0; i < n; i += VL) sum = v_add(sum, v_take(x + i, n - i));
    float mean = v_sum(sum) / (float)n;
    vf    m    = v_set1(mean);
    for (int64_t i = 0; i + VL <= n; i += VL) {
        vf d    = v_sub(v_load(x + i), m);
        squares = v_fma(d, d, squares);
    }
    float total = v_sum(squares);
    for (int64_t i = n / VL * VL; i < n; i++) total += (x[i] - mean) * (x[i] - mean);
    vf scale = v_div(v_set1(1.0f), v_sqrt(v_set1(total / (float)n + job->eps)));

    sum = v_zero();
    for (int64_t i = 0; i < n; i += VL) {
        vf g = v_take(dy + i, n - i), normal = v_mul(v_sub(v_take(x + i, n - i), m), scale);
        vf gw = v_mul(g, v_take(job->weight + i, n - i));
        v_put(dweight + i, v_fma(g, normal, v_take(dweight + i, n - i)), n - i);
        v_put(dbias + i, v_add(g, v_take(dbias + i, n - i)), n - i);
        sum     = v_add(sum, gw); /* beyond n both factors are zero */
        product = v_fma(gw, normal, product);
    }
    vf a = v_set1(v_sum(sum) / (float)n), b = v_set1(v_sum(product) / (float)n);
    for (int64_t i = 0; i < n; i += VL) {
        vf gw     = v_mul(v_take(dy + i, n - i), v_take(job->weight + i, n - i));
        vf normal = v_mul(v_sub(v_take(x + i, n - i), m), scale);
        v_put(dx + i, v_mul(scale, v_sub(v_sub(gw, a), v_mul(normal, b))), n - i);
    }
}

static void norm_backward_block(void *arg, int64_t block, int worker)
{
    const struct norm_backward_job *job = arg;
    int64_t                         n = job->x->cols, end = (block + 1) * SUM_ROWS;
    float                          *dweight = job->parts + block * 2 * n;

    (void)worker;
    if (end > job->x->rows) end = job->x->rows;
    __builtin_memset(dweight, 0, (size_t)(2 * n) * sizeof(float));
    for (int64_t row = block * SUM_ROWS; row < end; row++) norm_backward_row(job, row, dweight, dweight + n);
}

static size_t layernorm_backward_scratch(int64_t rows, int64_t cols)
{
    return (size_t)((rows + SUM_ROWS - 1) / SUM_ROWS * 2 * cols) * sizeof(float);
}

static void layernorm_backward(dinov_stream *s, dinov_mat *dx, void *dweight, void *dbias, const dinov_mat *dy, const dinov_mat *x,
                               const void *weight, double eps)
{
    struct norm_backward_job job    = {dx, dy, x, weight, s->scratch, (float)eps};
    int64_t                  blocks = (x->rows + SUM_ROWS - 1) / SUM_ROWS, n = x->cols;
    DINOV_ASSERT(dy->rows == x->rows && dy->cols == n && dx->rows == x->rows && dx->cols == n);
    dinov_pool_run(s->pool, blocks, norm_backward_block, &job);
    column_sums(s, dweight, &(dinov_mat){job.parts, blocks, n, 2 * n});
    column_sums(s, dbias, &(dinov_mat){job.parts + n, blocks, n, 2 * n});
}

/* ---- unit length: y = x / max(|x|, eps); with dy its gradient instead ---- */

struct unit_job {
    dinov_mat       *y;
    const dinov_mat *dy, *x;
    float            eps;
    int64_t          rows; /* of a block */
};

/* Shorter than eps, the length is a constant and has no gradient. */
static void unit_row(const struct unit_job *job, int64_t row)
{
    const float *x       = (const float *)job->x->data + row * job->x->ld;
    float       *y       = (float *)job->y->data + row * job->y->ld;
    int64_t      n       = job->x->cols;
    float        length  = __builtin_sqrtf(row_dot(x, x, n));
    vf           divisor = v_set1(length < job->eps ? job->eps : length);

    if (!job->dy) {
        for (int64_t i = 0; i < n; i += VL) v_put(y + i, v_div(v_take(x + i, n - i), divisor), n - i);
        return;
    }
    const float *dy    = (const float *)job->dy->data + row * job->dy->ld;
    vf           along = length < job->eps ? v_zero() : v_set1(row_dot(x, dy, n) / length / length);
    for (int64_t i = 0; i < n; i += VL)
        v_put(y + i, v_div(v_sub(v_take(dy + i, n - i), v_mul(v_take(x + i, n - i), along)), divisor), n - i);
}

static void unit_block(void *arg, int64_t block, int worker)
{
    const struct unit_job *job = arg;
    int64_t                end = (block + 1) * job->rows;
    (void)worker;
    if (end > job->x->rows) end = job->x->rows;
    for (int64_t row = block * job->rows; row < end; row++) unit_row(job, row);
}

static void normalize(dinov_stream *s, dinov_mat *y, const dinov_mat *x, double eps)
{
    struct unit_job job = {y, NULL, x, (float)eps, rows_of(ELEMENTS, x->cols)};
    DINOV_ASSERT(x->rows == y->rows && x->cols == y->cols);
    dinov_pool_run(s->pool, (x->rows + job.rows - 1) / job.rows, unit_block, &job);
}

static void normalize_backward(dinov_stream *s, dinov_mat *dx, const dinov_mat *dy, const dinov_mat *x, double eps)
{
    struct unit_job job = {dx, dy, x, (float)eps, rows_of(ELEMENTS, x->cols)};
    DINOV_ASSERT(x->rows == dy->rows && x->cols == dy->cols && dx->rows == x->rows && dx->cols == x->cols);
    dinov_pool_run(s->pool, (x->rows + job.rows - 1) / job.rows, unit_block, &job);
}
