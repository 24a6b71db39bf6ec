/* SPDX-License-Identifier: Apache-2.0
 *
 * Multi-head self-attention. Keys (transposed) and values of each head are laid out in panels once;
 * then every MR query rows make their whole rows of scores, which stay in the first-level cache,
 * take the softmax and meet the values. No score ever goes to memory, and no rescaling is needed.
 */

enum { QUERY_ROWS = 8 * MR }; /* of a block */

struct attention_job {
    dinov_mat       *out;
    const dinov_mat *qkv;
    float           *keys, *values, *scores;
    int64_t          tokens, heads, dim, row_blocks;
};

/* Floats of one head's key panels [panels(T)][D][NR], and value panels [panels(D)][T][NR]. */
static int64_t keys_size(int64_t tokens, int64_t dim) { return panels(tokens) * NR * dim; }
static int64_t values_size(int64_t tokens, int64_t dim) { return panels(dim) * NR * tokens; }
static int64_t scores_size(int64_t tokens) { return MR * panels(tokens) * NR; }

static size_t attention_scratch(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads)
{
    int64_t floats = images * heads * (keys_size(tokens, head_dim) + values_size(tokens, head_dim)) + threads * scores_size(tokens);
    return (size_t)floats * sizeof(float);
}

static void pack_head(void *arg, int64_t block, int worker)
{
    const struct attention_job *job = arg;
    int64_t                     T = job->tokens, D = job->dim, C = job->out->cols, ld = job->qkv->ld;
    const float                *q = (const float *)job->qkv->data + block / job->heads * T * ld + block % job->heads * D;
    float                      *keys   = job->keys + block * keys_size(T, D);
    float                      *values = job->values + block * values_size(T, D);

    (void)worker;
    pack_columns(keys, q + C, ld, T, D);
    pack_rows(values, T, q + 2 * C, ld, T, D);
}

/* The largest score of each of mr rows, which get -inf up to a whole vector. The softmax takes each of its steps for all
 * rows before the next, because a row's own steps wait for each other. */
static void largest_scores(float *largest, float *scores, int64_t ld, int mr, int64_t tokens)
{
    int64_t width = (tokens + VL - 1) / VL * VL;
    for (int i = 0; i < mr; i++, scores += ld) {
        for (int64_t j = tokens; j < width; j++) scores[j] = -__builtin_inff();
        vf max = v_load(scores);
        for (int64_t j = VL; j < width; j += VL) max = v_max(max, v_load(scores + j));
        largest[i] = v_largest(max);
    }
}

/* Scores become exp(scale * (score - largest)); sums[mr] of them. */
static void softmax_rows(float *sums, float *scores, int64_t ld, int mr, int64_t tokens, float scale)
{
    float largest[MR];
    largest_scores(largest, scores, ld, mr, tokens);
    for (int i = 0; i < mr; i++, scores += ld) {
        vf sum = v_zero(), most = v_set1(largest[i]), s = v_set1(scale);
        for (int64_t j = 0; j < tokens; j += VL) {
            vf p = v_exp(v_mul(v_sub(v_load(scores + j), most), s));
            v_store(scores + j, p);
            if (j + VL > tokens) p = v_load_n(scores + j, tokens - j);
            sum = v_add(sum, p);
        }
        sums[i] = v_sum(sum);
    }
}

static void attend_block(void *arg, int64_t block, int worker)
{
    const struct attention_job *job  = arg;
    int64_t                     T    = job->tokens, D = job->dim;
    int64_t                     pair = block / job->row_blocks, image = pair / job->heads, head = pair % job->heads;
    int64_t                     begin = block % job->row_blocks * QUERY_ROWS, end = begin + QUERY_ROWS;
    const float                *keys   = job->keys + pair * keys_size(T, D);
    const float                *values = job->values + pair * values_size(T, D);
    const float                *q      = (const float *)job->qkv->data + image * T * job->qkv->ld + head * D;
    float                      *out    = (float *)job->out->data + image * T * job->out->ld + head * D;
    int64_t                     width  = panels(T) * NR;
    float                      *scores = job->scores + worker * scores_size(T);
    float                       scale  = 1.0f / __builtin_sqrtf((float)D);
    float                       c[MR * NR] __attribute__((aligned(64)));

    if (end > T) end = T;
    for (int64_t t = begin; t < end; t += MR) {
        int   mr = end - t < MR ? (int)(end - t) : MR;
        float sum[MR];
        for (int64_t panel = 0; panel < panels(T); panel++)
            tile_edge(mr, T - panel * NR, D, q + t * job->qkv->ld, job->qkv->ld, keys + panel * NR * D, scores + panel * NR, width);
        softmax_rows(sum, scores, width, mr, T, scale);
        for (int64_t panel = 0; panel < panels(D); panel++) {
            int64_t columns = D - panel * NR < NR ? D - panel * NR : NR;
            tile_edge(mr, columns, T, scores, width, values + panel * T * NR, c, NR);
            for (int i = 0; i < mr; i++) {
                float *to      = out + (t + i) * job->out->ld + panel * NR;
                vf     inverse = v_set1(1.0f / sum[i]);
                for (int64_t j = 0; j < columns; j += VL) {
                    vf v = v_mul(v_load(c + i * NR + j), inverse);
                    if (columns - j < VL) v_store_n(to + j, v, columns - j);
                    else v_store(to + j, v);
                }
            }
        }
    }
}

static void attention(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads)
{
    int64_t              T = out->rows / images, D = out->cols / heads;
    struct attention_job job = {out, qkv, .tokens = T, .heads = heads, .dim = D};

    DINOV_ASSERT(qkv->cols == 3 * out->cols && qkv->rows == out->rows && out->rows % images == 0 && out->cols % heads == 0);
    job.row_blocks = (T + QUERY_ROWS - 1) / QUERY_ROWS;
    job.keys       = s->scratch;
    job.values     = job.keys + images * heads * keys_size(T, D);
    job.scores     = job.values + images * heads * values_size(T, D);
    dinov_pool_run(s->pool, images * heads, pack_head, &job);
    dinov_pool_run(s->pool, images * heads * job.row_blocks, attend_block, &job);
}

/* ---- backward: one thread works on a head, a block of queries at a time ---- */

struct attention_backward_job {
    dinov_mat       *dqkv;
    const dinov_mat *dout, *qkv;
    float           *scratch;
    int64_t          tokens, heads, dim;
};

/* Queries of a block. P and dS of a block are read down their columns: too many rows are too many pages. */
static int64_t query_rows(int64_t tokens) { return tokens > 512 ? 8 * MR : 16 * MR; }

/* One thread's scratch. */
struct head {
    float *keys, *values; /* K^T and V^T in panels [panels(T)][D][NR] */
    float *key_rows;      /* K in panels [panels(D)][T][NR] */
    float *q, *dout;      /* of a block, in panels [panels(D)][query_rows][NR] */
    float *p, *ds;        /* of a block, [query_rows][panels(T) * NR]; ds is dP first */
    float *dk, *dv;       /* [T][panels(D) * NR] */
};

static int64_t head_size(int64_t tokens, int64_t dim)
{
    int64_t rows = query_rows(tokens), width = panels(tokens) * NR, wide = panels(dim) * NR;
    return 2 * width * dim + wide * tokens + 2 * wide * rows + 2 * rows * width + 2 * tokens * wide;
}

static struct head head_layout(float *at, int64_t tokens, int64_t dim)
{
    struct head h;
    int64_t     rows = query_rows(tokens), width = panels(tokens) * NR, wide = panels(dim) * NR;
    h.keys     = at;
    h.values   = h.keys + width * dim;
    h.key_rows = h.values + width * dim;
    h.q        = h.key_rows + wide * tokens;
    h.dout     = h.q + wide * rows;
    h.p        = h.dout + wide * rows;
    h.ds       = h.p + rows * width;
    h.dk       = h.ds + rows * width;
    h.dv       = h.dk + tokens * wide;
    return h;
}

static size_t attention_backward_scratch(int64_t images, int64_t tokens, int64_t heads, int64_t head_dim, int threads)
{
    (void)images, (void)heads;
    return (size_t)(threads * head_size(tokens, head_dim)) * sizeof(float);
}

/* Scores become probabilities, and their gradients dp those of the scores, both with the scale of Q K^T in. */
static void softmax_backward(float *p, float *dp, int64_t ld, int mr, int64_t tokens, float scale)
{
    float factor[MR], mean[MR];
    vf    s = v_set1(scale);

    largest_scores(mean, p, ld, mr, tokens);
    for (int i = 0; i < mr; i++) {
        float *row = p + i * ld;
        vf     sum = v_zero(), product = v_zero(), most = v_set1(mean[i]);
        for (int64_t j = 0; j < tokens; j += VL) {
            vf e = v_exp(v_mul(v_sub(v_load(row + j), most), s));
            v_store(row + j, e);
            if (j + VL > tokens) e = v_load_n(row + j, tokens - j);
            sum     = v_add(sum, e);
            product = v_fma(e, v_load(dp + i * ld + j), product);
        }
        factor[i] = 1.0f / v_sum(sum);
        mean[i]   = v_sum(product) * factor[i];
    }
    for (int i = 0; i < mr; i++, p += ld, dp += ld)
        for (int64_t j = 0; j < tokens; j += VL) {
            vf e = v_mul(v_load(p + j), v_set1(factor[i]));
            v_store(p + j, e);
            v_store(dp + j, v_mul(v_mul(e, s), v_sub(v_load(dp + j), v_set1(mean[i]))));
        }
}

/* `rows` rows of `from`, as wide as whole panels, to the columns of a head. */
static void store_rows(float *to, int64_t ld, const float *from, int64_t rows, int64_t columns)
{
    int64_t wide = panels(columns) * NR;
    for (int64_t t = 0; t < rows; t++)
        for (int64_t j = 0; j < columns; j += VL) {
            if (columns - j < VL)
                v_store_n(to + t * ld + j, v_load(from + t * wide + j), columns - j);
            else
                v_store(to + t * ld + j, v_load(from + t * wide + j));
        }
}

/* Asks for `rows` rows of a head: they are far apart, and processors do not guess them. */
static void ask_rows(const float *x, int64_t ld, int64_t rows, int64_t columns)
{
    for (int64_t t = 0; t < rows; t++)
        for (int64_t j = 0; j < columns; j += 16) __builtin_prefetch(x + t * ld + j);
}

/* dV += P^T dO and dK += dS^T Q over the `rows` queries of a block. */
static void backward_keys(const struct head *h, int64_t tokens, int64_t dim, int64_t rows)
{
    int64_t width = panels(tokens) * NR, wide = panels(dim) * NR, room = query_rows(tokens);
    for (int64_t t = 0; t < tokens; t += MR) {
        int mr = tokens - t < MR ? (int)(tokens - t) : MR;
        for (int64_t j = 0; j < dim; j += NR) {
            tile_transposed(mr, dim - j, rows, h->p + t, width, h->dout + j * room, h->dv + t * wide + j, wide);
            tile_transposed(mr, dim - j, rows, h->ds + t, width, h->q + j * room, h->dk + t * wide + j, wide);
        }
    }
}

static void attention_backward_head(void *arg, int64_t block, int worker)
{
    const struct attention_backward_job *job = arg;
    int64_t                              T = job->tokens, D = job->dim, C = job->dout->cols, row = block / job->heads * T;
    int64_t                              ld = job->qkv->ld, dout_ld = job->dout->ld, dqkv_ld = job->dqkv->ld;
    int64_t                              column = block % job->heads * D, width = panels(T) * NR, wide = panels(D) * NR;
    int64_t                              block_rows = query_rows(T);
    const float                         *q     = (const float *)job->qkv->data + row * ld + column;
    const float                         *dout  = (const float *)job->dout->data + row * dout_ld + column;
    float                               *dq    = (float *)job->dqkv->data + row * dqkv_ld + column;
    struct head                          h     = head_layout(job->scratch + worker * head_size(T, D), T, D);
    float                                scale = 1.0f / __builtin_sqrtf((float)D);
    float                                c[MR * NR] __attribute__((aligned(64)));

    ask_rows(q, ld, block_rows < T ? block_rows : T, D);
    ask_rows(dout, dout_ld, block_rows < T ? block_rows : T, D);
    pack_columns(h.keys, q + C, ld, T, D);
    pack_columns(h.values, q + 2 * C, ld, T, D);
    pack_rows(h.key_rows, T, q + C, ld, T, D);
    __builtin_memset(h.dk, 0, (size_t)(2 * T * wide) * sizeof(float)); /* dv follows */
    for (int64_t begin = 0; begin < T; begin += block_rows) {
        int64_t rows = T - begin < block_rows ? T - begin : block_rows;
        for (int64_t t = 0; t < rows; t += MR) {
            int    mr = rows - t < MR ? (int)(rows - t) : MR;
            float *p = h.p + t * width, *ds = h.ds + t * width;
            for (int64_t j = 0; j < T; j += NR) {
                tile_edge(mr, T - j, D, q + (begin + t) * ld, ld, h.keys + j * D, p + j, width);
                tile_edge(mr, T - j, D, dout + (begin + t) * dout_ld, dout_ld, h.values + j * D, ds + j, width);
            }
            softmax_backward(p, ds, width, mr, T, scale);
            for (int64_t j = 0; j < D; j += NR) {
                tile_edge(mr, D - j, T, ds, width, h.key_rows + j * T, c, NR);
                store_rows(dq + (begin + t) * dqkv_ld + j, dqkv_ld, c, mr, D - j < NR ? D - j : NR);
            }
        }
        if (begin + rows == T) {
            ask_rows(dq + C, dqkv_ld, T, D);
            ask_rows(dq + 2 * C, dqkv_ld, T, D);
        }
        pack_rows(h.q, block_rows, q + begin * ld, ld, rows, D);
        pack_rows(h.dout, block_rows, dout + begin * dout_ld, dout_ld, rows, D);
        backward_keys(&h, T, D, rows);
    }
    store_rows(dq + C, dqkv_ld, h.dk, T, D);
    store_rows(dq + 2 * C, dqkv_ld, h.dv, T, D);
}

static void attention_backward(dinov_stream *s, dinov_mat *dqkv, const dinov_mat *dout, const dinov_mat *qkv, int64_t images,
                               int64_t heads)
{
    struct attention_backward_job job = {dqkv, dout, qkv, s->scratch, dout->rows / images, heads, dout->cols / heads};
    DINOV_ASSERT(qkv->cols == 3 * dout->cols && qkv->rows == dout->rows && dqkv->cols == qkv->cols && dqkv->rows == qkv->rows);
    DINOV_ASSERT(dout->rows % images == 0 && dout->cols % heads == 0);
    dinov_pool_run(s->pool, images * heads, attention_backward_head, &job);
}
