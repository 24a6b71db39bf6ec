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
    for (int64_t first_token = 0; first_token < T; first_token += NR, keys += NR * D)
        for (int64_t i = 0; i < D; i++)
            for (int64_t j = 0; j < NR; j++)
                keys[i * NR + j] = first_token + j < T ? q[(first_token + j) * ld + C + i] : 0;
    for (int64_t first_column = 0; first_column < D; first_column += NR)
        for (int64_t t = 0; t < T; t++, values += NR)
            for (int64_t j = 0; j < NR; j++) values[j] = first_column + j < D ? q[t * ld + 2 * C + first_column + j] : 0;
}

/* scores[T] become exp(scale * (score - largest)); returns their sum. */
static float softmax_row(float *row, int64_t tokens, float scale)
{
    int64_t width = (tokens + VL - 1) / VL * VL;
    vf      max, sum = v_zero(), s = v_set1(scale);

    for (int64_t j = tokens; j < width; j++) row[j] = -__builtin_inff();
    max = v_load(row);
    for (int64_t j = VL; j < width; j += VL) max = v_max(max, v_load(row + j));
    vf largest = v_set1(v_largest(max));
    for (int64_t j = 0; j < width; j += VL) {
        vf p = v_exp(v_mul(v_sub(v_load(row + j), largest), s));
        v_store(row + j, p);
        if (j + VL > tokens) p = v_load_n(row + j, tokens - j);
        sum = v_add(sum, p);
    }
    return v_sum(sum);
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
        for (int i = 0; i < mr; i++) sum[i] = softmax_row(scores + i * width, T, scale);
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
