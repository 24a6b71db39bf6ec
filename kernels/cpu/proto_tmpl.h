/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax, Sinkhorn-Knopp's sums and cross-entropy over a chunk of prototypes: each reads its chunk from
 * memory once.
 */

enum {
    PIECE       = 2048,    /* columns of a row that stay in the first-level cache between largest and sum */
    EXP_COLUMNS = 64 * VL, /* of a block of exp_sums */
};

struct softmax_job {
    const dinov_mat *z, *p;
    const float     *bias, *lse, *weight;
    const int32_t   *targets;
    float           *max, *sum; /* sum: also entropy, loss, or the sums of columns */
    float            sharpness; /* 1 / temperature */
};

static inline vf v_logit(const struct softmax_job *job, const float *z, int64_t j, int64_t n)
{
    vf t = v_mul(v_take(z + j, n - j), v_set1(job->sharpness));
    return job->bias ? v_add(t, v_take(job->bias + j, n - j)) : t;
}

/* The first n lanes of x, zeros after them. */
static inline vf v_first(vf x, int64_t n)
{
    float lanes[VL];
    if (n >= VL) return x;
    v_store(lanes, x);
    return v_load_n(lanes, n);
}

static void stats_row(void *arg, int64_t m, int worker)
{
    const struct softmax_job *job = arg;
    const float              *z   = (const float *)job->z->data + m * job->z->ld;
    int64_t                   n   = job->z->cols;
    float                     max = job->max[m], sum = job->sum[m];

    (void)worker;
    for (int64_t begin = 0; begin < n; begin += PIECE) {
        int64_t end = begin + PIECE < n ? begin + PIECE : n, whole = begin + (end - begin) / VL * VL;
        vf      most = v_set1(max), total = v_zero();
        float   before = max;
        for (int64_t j = begin; j < whole; j += VL) most = v_max(most, v_logit(job, z, j, n));
        max = v_largest(most);
        for (int64_t j = whole; j < end; j++) {
            float t = z[j] * job->sharpness + (job->bias ? job->bias[j] : 0);
            if (t > max) max = t;
        }
        for (int64_t j = begin; j < end; j += VL) {
            __builtin_prefetch(z + j + PIECE); /* the next piece comes while this one is computed with */
            total = v_add(total, v_first(v_exp(v_sub(v_logit(job, z, j, n), v_set1(max))), end - j));
        }
        sum = sum * v_largest(v_exp(v_set1(before - max))) + v_sum(total);
    }
    job->max[m] = max, job->sum[m] = sum;
}

static void softmax_stats(dinov_stream *s, void *max, void *sum, const dinov_mat *z, const void *bias, double temperature)
{
    struct softmax_job job = {.z = z, .bias = bias, .max = max, .sum = sum, .sharpness = (float)(1 / temperature)};
    dinov_pool_run(s->pool, z->rows, stats_row, &job);
}

static void apply_row(void *arg, int64_t m, int worker)
{
    const struct softmax_job *job = arg;
    float                    *z = (float *)job->z->data + m * job->z->ld, entropy = 0;
    int64_t                   n   = job->z->cols;
    vf                        lse = v_set1(job->lse[m]);

    (void)worker;
    for (int64_t begin = 0; begin < n; begin += PIECE) {
        int64_t end  = begin + PIECE < n ? begin + PIECE : n;
        vf      part = v_zero();
        for (int64_t j = begin; j < end; j += VL) {
            vf log_p = v_sub(v_logit(job, z, j, n), lse), p = v_exp(log_p);
            v_put(z + j, p, n - j);
            part = v_fma(v_first(p, n - j), log_p, part);
        }
        entropy += v_sum(part);
    }
    if (job->sum) job->sum[m] -= entropy;
}

static void softmax_apply(dinov_stream *s, dinov_mat *z, void *entropy, const void *bias, const void *lse, double temperature)
{
    struct softmax_job job = {.z = z, .bias = bias, .lse = lse, .sum = entropy, .sharpness = (float)(1 / temperature)};
    dinov_pool_run(s->pool, z->rows, apply_row, &job);
}

static void exp_sums_block(void *arg, int64_t block, int worker)
{
    const struct softmax_job *job = arg;
    int64_t first = block * EXP_COLUMNS, n = job->z->cols - first < EXP_COLUMNS ? job->z->cols - first : EXP_COLUMNS;
    float   sum[EXP_COLUMNS] = {0}, part[EXP_COLUMNS];
    vf      sharpness        = v_set1(job->sharpness);

    (void)worker;
    for (int64_t begin = 0; begin < job->z->rows; begin += PART) {
        int64_t end = begin + PART < job->z->rows ? begin + PART : job->z->rows;
        __builtin_memset(part, 0, sizeof part);
        for (int64_t m = begin; m < end; m++) {
            const float *z      = (const float *)job->z->data + m * job->z->ld + first;
            vf           offset = v_set1(job->lse[m]);
            for (int64_t j = 0; j < n; j += VL) {
                __builtin_prefetch(z + j + job->z->ld); /* the next row is elsewhere */
                v_store(part + j, v_add(v_load(part + j), v_exp(v_sub(v_mul(v_take(z + j, n - j), sharpness), offset))));
            }
        }
        for (int64_t j = 0; j < n; j += VL) v_store(sum + j, v_add(v_load(sum + j), v_load(part + j)));
    }
    for (int64_t j = 0; j < n; j++) job->sum[first + j] = sum[j];
}

static void exp_sums(dinov_stream *s, void *sums, const dinov_mat *z, const void *offset, double temperature)
{
    struct softmax_job job = {.z = z, .lse = offset, .sum = sums, .sharpness = (float)(1 / temperature)};
    dinov_pool_run(s->pool, (z->cols + EXP_COLUMNS - 1) / EXP_COLUMNS, exp_sums_block, &job);
}

/* z becomes weight (count exp(t - lse) - p) / temperature with t = z / temperature; p comes from one teacher row or two. */
static void cross_entropy_row(void *arg, int64_t m, int worker)
{
    const struct softmax_job *job = arg;
    float                    *z = (float *)job->z->data + m * job->z->ld, product = 0, weight = job->weight[m] * job->sharpness;
    const int32_t            *to   = job->targets + 2 * m;
    const float              *p    = to[0] < 0 ? NULL : (const float *)job->p->data + to[0] * job->p->ld;
    const float              *more = to[1] < 0 ? NULL : (const float *)job->p->data + to[1] * job->p->ld;
    int64_t                   n    = job->z->cols;
    vf                        w = v_set1(weight), many = v_set1(weight * (float)((p != NULL) + (more != NULL)));
    vf                        lse = v_set1(job->lse[m]), sharpness = v_set1(job->sharpness);

    (void)worker;
    for (int64_t begin = 0; begin < n; begin += PIECE) {
        int64_t end  = begin + PIECE < n ? begin + PIECE : n;
        vf      part = v_zero();
        for (int64_t j = begin; j < end; j += VL) {
            vf t = v_mul(v_take(z + j, n - j), sharpness), q = p ? v_take(p + j, n - j) : v_zero();
            if (more) q = v_add(q, v_take(more + j, n - j));
            part = v_fma(q, t, part);
            v_put(z + j, v_sub(v_mul(many, v_exp(v_sub(t, lse))), v_mul(w, q)), n - j);
        }
        product += v_sum(part);
    }
    job->sum[m] -= job->weight[m] * product;
}

static void cross_entropy(dinov_stream *s, dinov_mat *z, void *loss, const void *lse, const dinov_mat *p, const int32_t *targets,
                          const void *weight, double temperature)
{
    struct softmax_job job = {
        .z = z, .p = p, .lse = lse, .weight = weight, .targets = targets, .sum = loss, .sharpness = (float)(1 / temperature)};
    DINOV_ASSERT(p->cols == z->cols);
    dinov_pool_run(s->pool, z->rows, cross_entropy_row, &job);
}

/* ---- KoLeo ---- */

struct koleo_job {
    dinov_mat       *dx;
    const dinov_mat *x;
    float           *distance, *length;
    float           *unit, *pull; /* [B, C]; pull is the gradient of the difference to the nearest row */
    float           *columns;     /* unit transposed in panels [panels(B)][C][NR] */
    float           *products;    /* [B][panels(B) * NR] */
    int64_t         *nearest;
    float            weight;
};

static void koleo_unit(void *arg, int64_t i, int worker)
{
    const struct koleo_job *job    = arg;
    int64_t                 C      = job->x->cols;
    const float            *x      = (const float *)job->x->data + i * job->x->ld;
    float                   length = __builtin_sqrtf(row_dot(x, x, C));

    (void)worker;
    job->length[i] = length < 1e-8f ? 1e-8f : length;
    for (int64_t c = 0; c < C; c += VL) v_put(job->unit + i * C + c, v_div(v_take(x + c, C - c), v_set1(job->length[i])), C - c);
}

/* Products of MR rows with all rows, and what is nearest to each. */
static void koleo_rows(void *arg, int64_t block, int worker)
{
    const struct koleo_job *job = arg;
    int64_t                 B = job->x->rows, C = job->x->cols, width = panels(B) * NR, first = block * MR;
    int                     mr = B - first < MR ? (int)(B - first) : MR;

    (void)worker;
    for (int64_t j = 0; j < B; j += NR)
        tile_edge(mr, B - j, C, job->unit + first * C, C, job->columns + j * C, job->products + first * width + j, width);
    for (int64_t i = first; i < first + mr; i++) {
        const float *product = job->products + i * width, *unit = job->unit + i * C;
        float       *pull    = job->pull + i * C;
        int64_t      nearest = i == 0;
        for (int64_t j = nearest + 1; j < B; j++)
            if (j != i && product[j] > product[nearest]) nearest = j;
        for (int64_t c = 0; c < C; c += VL)
            v_put(pull + c, v_add(v_sub(v_take(unit + c, C - c), v_take(job->unit + nearest * C + c, C - c)), v_set1(1e-8f)),
                  C - c);
        float distance = __builtin_sqrtf(row_dot(pull, pull, C));
        float factor   = distance > 0 ? -job->weight / ((float)B * (distance + 1e-8f)) : 0;
        vf    divisor  = v_set1(distance > 0 ? distance : 1);
        for (int64_t c = 0; c < C; c += VL) v_put(pull + c, v_mul(v_set1(factor), v_div(v_take(pull + c, C - c), divisor)), C - c);
        job->nearest[i] = nearest, job->distance[i] = distance;
    }
}

/* A row is moved by its own difference, and by those of all rows it is nearest to. Its product row holds the sum. */
static void koleo_gradient(void *arg, int64_t i, int worker)
{
    const struct koleo_job *job = arg;
    int64_t                 B = job->x->rows, C = job->x->cols;
    const float            *unit = job->unit + i * C;
    float                  *g = job->products + i * C, *dx = (float *)job->dx->data + i * job->dx->ld;

    (void)worker;
    __builtin_memcpy(g, job->pull + i * C, (size_t)C * sizeof(float));
    for (int64_t j = 0; j < B; j++)
        for (int64_t c = 0; c < C && job->nearest[j] == i; c += VL)
            v_put(g + c, v_sub(v_take(g + c, C - c), v_take(job->pull + j * C + c, C - c)), C - c);
    vf along = v_set1(job->length[i] > 1e-8f ? row_dot(g, unit, C) : 0), length = v_set1(job->length[i]);
    for (int64_t c = 0; c < C; c += VL) {
        vf across = v_sub(v_take(g + c, C - c), v_mul(along, v_take(unit + c, C - c)));
        v_put(dx + c, v_add(v_take(dx + c, C - c), v_div(across, length)), C - c);
    }
}

/* Floats of the products, which become a gradient [B, C] after them. */
static int64_t products_size(int64_t rows, int64_t cols)
{
    int64_t width = panels(rows) * NR;
    return rows * (width > cols ? width : cols);
}

static size_t koleo_scratch(int64_t rows, int64_t cols)
{
    int64_t floats = 2 * rows * cols + panels(rows) * NR * cols + products_size(rows, cols) + rows;
    return (size_t)rows * sizeof(int64_t) + (size_t)floats * sizeof(float);
}

static void koleo(dinov_stream *s, void *distance, dinov_mat *dx, const dinov_mat *x, double weight)
{
    int64_t          B = x->rows, C = x->cols;
    struct koleo_job job = {.dx = dx, .x = x, .distance = distance, .weight = (float)weight, .nearest = s->scratch};
    DINOV_ASSERT(B >= 2 && dx->rows == B && dx->cols == C);
    job.unit     = (float *)(void *)(job.nearest + B);
    job.pull     = job.unit + B * C;
    job.columns  = job.pull + B * C;
    job.products = job.columns + panels(B) * NR * C;
    job.length   = job.products + products_size(B, C);
    dinov_pool_run(s->pool, B, koleo_unit, &job);
    pack_columns(job.columns, job.unit, C, B, C);
    dinov_pool_run(s->pool, (B + MR - 1) / MR, koleo_rows, &job);
    dinov_pool_run(s->pool, B, koleo_gradient, &job);
}
