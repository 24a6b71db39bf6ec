/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm, a few rows a block.
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
