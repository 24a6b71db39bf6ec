/* SPDX-License-Identifier: Apache-2.0
 *
 * Self-attention: softmax(Q K^T / sqrt(D)) V for each image and head, never with more of the scores than a tile in hand.
 * Keys come 64 at a time; each query keeps the largest score so far, the sum of exponentials over it, and the
 * weighted sum of values, and corrects the latter two when the largest grows.
 */
#include "kernels/cuda/cuda.cuh"

#include <math.h>

struct attention {
    const void *qkv; /* [images * tokens, 3 * heads * dim] */
    void       *out; /* [images * tokens, heads * dim] */
    int64_t     qkv_ld, out_ld;
    int         tokens, heads, dim;
    int         tiles, slabs; /* of queries, of a head's columns: blocks of a head */
};

enum { KEYS = 64, DIM = 64 }; /* a tile of keys; columns of a head that a block computes */

struct alignas(16) quad {
    float v[4];
};

/* ---- 16 bits, head dim 64: tensor cores ----
 * A warp has 32 queries. A tile in shared memory is a row of a head, 128 bytes, after the other; its eight 16-byte
 * pieces are permuted so that eight rows' equal pieces lie in different banks. */

enum { ROW = DIM * 2, TILE = KEYS * ROW, STAGE = 2 * TILE, WARP_ROWS = 32 }; /* a stage: keys, values */

DINOV_DEVICE int place(int row, int piece) { return row * ROW + (piece ^ row % 8) * 16; }

/* Rows of a head to shared memory; zeros from row `count` on. */
template <typename T, int THREADS> DINOV_DEVICE void copy_rows(unsigned char *to, const T *from, int64_t ld, int rows, int count)
{
    for (int i = (int)threadIdx.x; i < rows * 8; i += THREADS) {
        int row = i / 8, piece = i % 8;
        copy_async(to + place(row, piece), from + (row < count ? row * ld + piece * 8 : 0), row < count ? 16 : 0);
    }
}

template <typename T, int THREADS>
DINOV_DEVICE void copy_tile(unsigned char *to, const T *keys, const T *values, int64_t ld, int count)
{
    copy_rows<T, THREADS>(to, keys, ld, KEYS, count);
    copy_rows<T, THREADS>(to + TILE, values, ld, KEYS, count);
    copy_commit();
}

/* Of a warp's queries, in fragments of 16 rows; [half]: rows lane / 4 and lane / 4 + 8 of one. */
struct state {
    float out[2][8][4];
    float max[2][2], sum[2][2]; /* the sum is of the lane's own columns */
};

/* One tile of keys and values, of which `count` exist: all of them, or with LAST perhaps fewer. */
template <typename T, bool LAST>
DINOV_DEVICE void attend(state *s, const unsigned char *queries, const unsigned char *keys, const unsigned char *values, int count)
{
    const float scale  = 0.125f * 1.44269504088896340736f; /* exponentials are powers of two */
    int         lane   = (int)threadIdx.x % WARP;
    int         key_at = place(lane / 16 * 8 + lane % 8, lane / 8 % 2), at = place(lane % 16, lane / 16);
    float       p[2][8][4];

    for (int m = 0; m < 2; m++)
        for (int n = 0; n < 8; n++)
            for (int e = 0; e < 4; e++) p[m][n][e] = 0.0f;
    for (int k = 0; k < 4; k++) {
        uint32_t a[2][4], b[4];
        for (int m = 0; m < 2; m++) load_matrices(a[m], queries + m * 16 * ROW + (at ^ k * 32));
        for (int n = 0; n < 4; n++) {
            if (LAST && n * 16 >= count) continue;
            load_matrices(b, keys + n * 16 * ROW + (key_at ^ k * 32));
            for (int m = 0; m < 2; m++) {
                multiply<T>(p[m][2 * n], a[m], b);
                multiply<T>(p[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
    if (LAST)
        for (int m = 0; m < 2; m++)
            for (int n = 0; n < 8; n++)
                for (int e = 0; e < 4; e++)
                    if (n * 8 + lane % 4 * 2 + e % 2 >= count) p[m][n][e] = -INFINITY;

    for (int m = 0; m < 2; m++)
        for (int half = 0; half < 2; half++) {
            float max = s->max[m][half], sum = 0.0f;
            for (int n = 0; n < 8; n++) max = fmaxf(max, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
            max          = fmaxf(max, shuffle_xor(max, 1));
            max          = fmaxf(max, shuffle_xor(max, 2));
            float factor = exp2_fast((s->max[m][half] - max) * scale), shift = max * scale;
            for (int n = 0; n < 8; n++)
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    p[m][n][e] = exp2_fast(fmaf(p[m][n][e], scale, -shift));
                    sum += p[m][n][e];
                    s->out[m][n][e] *= factor;
                }
            s->sum[m][half] = fmaf(s->sum[m][half], factor, sum);
            s->max[m][half] = max;
        }

    for (int k = 0; k < 4; k++) {
        if (LAST && k * 16 >= count) continue;
        uint32_t a[2][4];
        for (int m = 0; m < 2; m++)
            for (int e = 0; e < 4; e++) a[m][e] = pack2<T>(p[m][2 * k + e / 2][e % 2 * 2], p[m][2 * k + e / 2][e % 2 * 2 + 1]);
        for (int n = 0; n < 4; n++) {
            uint32_t b[4];
            load_matrices_transposed(b, values + k * 16 * ROW + (at ^ n * 32));
            for (int m = 0; m < 2; m++) {
                multiply<T>(s->out[m][2 * n], a[m], b);
                multiply<T>(s->out[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

template <typename T, int WARPS> DINOV_KERNEL(WARPS *WARP) attention_mma(attention p)
{
    enum { THREADS = WARPS * WARP, ROWS = WARPS * WARP_ROWS };
    unsigned char *queries = dynamic_shared(), *stages = queries + ROWS * ROW;
    int            lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int            head = (int)blockIdx.x / p.tiles % p.heads, first = (int)blockIdx.x % p.tiles * ROWS;
    int64_t        image = (int)blockIdx.x / p.tiles / p.heads;
    const T       *qkv   = (const T *)p.qkv + image * p.tokens * p.qkv_ld + head * DIM;
    const T       *keys = qkv + p.heads * DIM, *values = keys + p.heads * DIM;
    bool           busy = first + warp * WARP_ROWS < p.tokens; /* else the warp only copies */
    unsigned char *own  = queries + warp * WARP_ROWS * ROW;

    state s;
    for (int m = 0; m < 2; m++) {
        for (int half = 0; half < 2; half++) s.max[m][half] = -INFINITY, s.sum[m][half] = 0.0f;
        for (int n = 0; n < 8; n++)
            for (int e = 0; e < 4; e++) s.out[m][n][e] = 0.0f;
    }

    copy_rows<T, THREADS>(queries, qkv + first * p.qkv_ld, p.qkv_ld, ROWS, p.tokens - first);
    copy_tile<T, THREADS>(stages, keys, values, p.qkv_ld, p.tokens);
    for (int key = 0; key < p.tokens; key += KEYS) {
        unsigned char *stage = stages + key / KEYS % 2 * STAGE, *other = stages + (key / KEYS + 1) % 2 * STAGE;
        int            left = p.tokens - key;
        copy_wait<0>();
        block_barrier();
        if (left > KEYS) {
            keys += KEYS * p.qkv_ld, values += KEYS * p.qkv_ld;
            copy_tile<T, THREADS>(other, keys, values, p.qkv_ld, left - KEYS);
        }
        if (!busy) continue;
        if (left > KEYS)
            attend<T, false>(&s, own, stage, stage + TILE, KEYS);
        else
            attend<T, true>(&s, own, stage, stage + TILE, left);
    }
    if (!busy) return;

    /* Through the place of the warp's own queries, to store rows in vectors. */
    warp_barrier();
    for (int m = 0; m < 2; m++)
        for (int half = 0; half < 2; half++) {
            float sum = s.sum[m][half];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            float part = 1.0f / sum;
            for (int n = 0; n < 8; n++)
                *(uint32_t *)(own + place(m * 16 + half * 8 + lane / 4, n) + lane % 4 * 4) =
                    pack2<T>(s.out[m][n][2 * half] * part, s.out[m][n][2 * half + 1] * part);
        }
    warp_barrier();
    T *out = (T *)p.out + image * p.tokens * p.out_ld + head * DIM;
    for (int i = lane; i < WARP_ROWS * 8; i += WARP) {
        int token = first + warp * WARP_ROWS + i / 8;
        if (token < p.tokens) *(vec16 *)(out + token * p.out_ld + i % 8 * 8) = *(const vec16 *)(own + place(i / 8, i % 8));
    }
}

/* ---- Any element, any head dim ----
 * A block has 64 queries of a head and computes a slab of 64 columns of their output; scores are sums over all the
 * head's columns, a slab at a time. A thread has 8 queries, every second of its warp's 16, and of each 4 scores,
 * columns lane % 16 + 16 j, or 4 columns of output, from lane % 16 * 4 on. Tiles are float, rows in 16 pieces of
 * four; piece i lies at i ^ twist, so that the rows that lanes read at a time (two of queries, eight of keys) lie in
 * different banks. Probabilities take the place of the keys, with the twist of queries. */

enum { PLAIN_THREADS = 128, QUERIES = 64, PLAIN_TILE = KEYS * DIM };

DINOV_DEVICE int place_float(int row, int column, int twist) { return row * DIM + (column / 4 ^ twist) * 4 + column % 4; }
DINOV_DEVICE int query_twist(int row) { return row % 2 * 4; }
DINOV_DEVICE int key_twist(int row) { return row % 8; }
DINOV_DEVICE int no_twist(int) { return 0; }

/* [64, 64] of a matrix whose first element is `from`, with zeros beyond `rows` and `columns`. */
template <typename T, int TWIST(int)> DINOV_DEVICE void load_tile(float *to, const T *from, int64_t ld, int rows, int columns)
{
    int column = (int)threadIdx.x % DIM, row = (int)threadIdx.x / DIM;
#pragma unroll 8
    for (int i = 0; i < KEYS * DIM / PLAIN_THREADS; i++, row += PLAIN_THREADS / DIM)
        to[place_float(row, column, TWIST(row))] = row < rows && column < columns ? to_float(from[row * ld + column]) : 0.0f;
}

/* sums[i][j] += the product of row a + 2 i of queries and row b + 16 j of keys. */
DINOV_DEVICE void add_scores(float sums[8][4], const float *queries, const float *keys, int a, int b)
{
#pragma unroll 1
    for (int column = 0; column < DIM; column += 4) {
        const float *query = queries + place_float(a, column, query_twist(a)), *key = keys + place_float(b, column, key_twist(b));
        quad         k[4];
        for (int j = 0; j < 4; j++) k[j] = *(const quad *)(key + j * 16 * DIM);
        for (int i = 0; i < 8; i++) {
            quad q = *(const quad *)(query + i * 2 * DIM);
            for (int e = 0; e < 4; e++)
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(q.v[e], k[j].v[e], sums[i][j]);
        }
    }
}

template <typename T> DINOV_KERNEL(PLAIN_THREADS) attention_plain(attention p)
{
    float  *queries = (float *)dynamic_shared(), *keys = queries + PLAIN_TILE, *values = keys + PLAIN_TILE;
    int     lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int     row = warp * 16 + lane / 16, column = lane % 16; /* the thread's first */
    int     slab = (int)blockIdx.x % p.slabs * DIM, block = (int)blockIdx.x / p.slabs;
    int     first = block % p.tiles * QUERIES, head = block / p.tiles % p.heads;
    int64_t image = block / p.tiles / p.heads, width = (int64_t)p.heads * p.dim;
    bool    busy  = first + warp * 16 < p.tokens;
    float   scale = 1.0f / sqrtf((float)p.dim);
    float   out[8][4], max[8], sum[8];

    const T *qkv = (const T *)p.qkv + image * p.tokens * p.qkv_ld + (int64_t)head * p.dim;
    for (int i = 0; i < 8; i++) {
        max[i] = -INFINITY, sum[i] = 0.0f;
        for (int e = 0; e < 4; e++) out[i][e] = 0.0f;
    }
    for (int key = 0; key < p.tokens; key += KEYS) {
        const T *tile  = qkv + width + key * p.qkv_ld;
        int      count = p.tokens - key;
        float    scores[8][4], part[8][4];

        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 4; j++) scores[i][j] = 0.0f;
        for (int c = 0; c < p.dim; c += DIM) {
            block_barrier();
            if (key == 0 || p.dim > DIM)
                load_tile<T, query_twist>(queries, qkv + first * p.qkv_ld + c, p.qkv_ld, p.tokens - first, p.dim - c);
            load_tile<T, key_twist>(keys, tile + c, p.qkv_ld, count, p.dim - c);
            if (c == 0) load_tile<T, no_twist>(values, tile + width + slab, p.qkv_ld, count, p.dim - slab);
            block_barrier();
            if (busy) add_scores(scores, queries, keys, row, column);
        }
        block_barrier();
        if (!busy) continue;

        for (int i = 0; i < 8; i++) {
            float largest = max[i], total = 0.0f;
            for (int j = 0; j < 4; j++) {
                if (column + 16 * j >= count) scores[i][j] = -INFINITY;
                largest = fmaxf(largest, scores[i][j]);
            }
            for (int mask = 8; mask; mask /= 2) largest = fmaxf(largest, shuffle_xor(largest, mask));
            float factor = expf((max[i] - largest) * scale);
            for (int j = 0; j < 4; j++) {
                float e                                                           = expf((scores[i][j] - largest) * scale);
                keys[place_float(row + 2 * i, column + 16 * j, query_twist(row))] = e;
                total += e;
            }
            max[i] = largest, sum[i] = fmaf(sum[i], factor, total);
            for (int e = 0; e < 4; e++) out[i][e] *= factor, part[i][e] = 0.0f;
        }
        warp_barrier();
#pragma unroll 1
        for (int k = 0; k < KEYS && k < count; k += 4) {
            quad v[4];
            for (int e = 0; e < 4; e++) v[e] = *(const quad *)(values + (k + e) * DIM + column * 4);
            for (int i = 0; i < 8; i++) {
                quad weight = *(const quad *)(keys + place_float(row + 2 * i, k, query_twist(row)));
                for (int e = 0; e < 4; e++)
                    for (int j = 0; j < 4; j++) part[i][j] = fmaf(weight.v[e], v[e].v[j], part[i][j]);
            }
        }
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 4; j++) out[i][j] += part[i][j];
    }
    if (!busy) return;

    for (int i = 0; i < 8; i++) {
        int   token = first + row + 2 * i;
        float total = sum[i];
        for (int mask = 8; mask; mask /= 2) total += shuffle_xor(total, mask);
        float part = 1.0f / total;
        T    *to   = (T *)p.out + (image * p.tokens + token) * p.out_ld + (int64_t)head * p.dim + slab + column * 4;
        for (int e = 0; e < 4; e++)
            if (token < p.tokens && slab + column * 4 + e < p.dim) to[e] = from_float<T>(out[i][e] * part);
    }
}

/* ---- Launching ---- */

template <typename T, int WARPS> static void launch_mma(dinov_stream *s, attention *p, int64_t heads)
{
    p->tiles = (int)blocks_of(p->tokens, WARPS * WARP_ROWS);
    DINOV_LAUNCH(s, "attention", (attention_mma<T, WARPS>), dim3((unsigned)(heads * p->tiles)), WARPS * WARP,
                 WARPS * WARP_ROWS * ROW + 2 * STAGE, *p);
}

/* A multiprocessor has registers for 8 warps: four blocks of 2 or two of 4. The larger read keys and values less often;
 * the smaller are taken where they save an eighth of the warps, as with 257 tokens. */
template <typename T> static void run_mma(dinov_stream *s, attention *p, int64_t heads)
{
    unsigned small = 2 * blocks_of(p->tokens, 2 * WARP_ROWS), large = 4 * blocks_of(p->tokens, 4 * WARP_ROWS);
    if (large - small >= (large + 7) / 8)
        launch_mma<T, 2>(s, p, heads);
    else
        launch_mma<T, 4>(s, p, heads);
}
template <> void run_mma<float>(dinov_stream *, attention *, int64_t) {}

static bool vectors(const dinov_mat *m) { return (uintptr_t)m->data % 16 == 0 && m->ld % 8 == 0; }

template <typename T> static void run(dinov_stream *s, attention *p, int64_t heads, bool mma)
{
    if (mma) {
        run_mma<T>(s, p, heads);
        return;
    }
    p->tiles = (int)blocks_of(p->tokens, QUERIES), p->slabs = (int)blocks_of(p->dim, DIM);
    DINOV_LAUNCH(s, "attention", attention_plain<T>, dim3((unsigned)(heads * p->tiles * p->slabs)), PLAIN_THREADS,
                 3 * PLAIN_TILE * (int)sizeof(float), *p);
}

void dinov_cuda_attention(dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads)
{
    attention p = {};

    DINOV_ASSERT(qkv->cols == 3 * out->cols && qkv->rows == out->rows && out->rows % images == 0 && out->cols % heads == 0);
    if (out->rows == 0) return;
    p.qkv = qkv->data, p.qkv_ld = qkv->ld, p.out = out->data, p.out_ld = out->ld;
    p.tokens = (int)(out->rows / images), p.heads = (int)heads, p.dim = (int)(out->cols / heads);
    DINOV_BY_REAL(s, run, &p, images * heads,
                  dinov_queue_real(s->queue) != DINOV_F32 && p.dim == DIM && vectors(qkv) && vectors(out));
}
