/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers of any shape: 16-bit elements on tensor cores, float with fused multiply-adds. Both compute a tile of y
 * a block from tiles of x and of the weight that a ring of asynchronous copies brings to shared memory.
 *
 * An element of y is the same chain of sums over k whatever tile it lies in, so its bits depend on its row of x alone.
 * Rows of x or of the weight beyond the last are copies of the last, whose results nobody writes; k beyond K is zero.
 */
#include "kernels/cuda/cuda.cuh"

#include <math.h>

struct product {
    const void  *x, *weight; /* [m, k], [n, k] */
    const float *bias, *scale, *residual;
    void        *y;
    int64_t      x_ld, weight_ld, residual_ld, y_ld;
    int64_t      m;
    int          n, k;
    int          across; /* columns of y */
    bool         gelu, swiglu;
    bool         vectors; /* rows of y and of the residual are 16-byte aligned */
};

struct alignas(16) quad {
    float v[4];
};

struct alignas(8) pair {
    float v[2];
};

/* ---- The end of both kernels: from sums in shared memory to y ---- */

/* Row stride of sums [rows, 64]: eight rows apart by eight banks. */
enum { SUMS = 64, SUMS_LD = SUMS + 8 };

DINOV_DEVICE void                       put(float *to, const float v[4]) { *(quad *)to = quad{{v[0], v[1], v[2], v[3]}}; }
template <typename T> DINOV_DEVICE void put(T *to, const float v[8])
{
    *(vec16 *)to = vec16{{pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7])}};
}

/* A warp's sums become y of type Out from row row0 on; column0 is the first column of the product. A lane takes 16 bytes
 * of a row at a time, always the same columns. */
template <typename Out> DINOV_DEVICE void finish(const product &p, const float *sums, int rows, int64_t row0, int column0)
{
    enum { UNIT = 16 / sizeof(Out) };
    int   lane = (int)threadIdx.x % WARP, units = (p.swiglu ? SUMS / 2 : SUMS) / UNIT;
    int   column = lane % units * UNIT, first = (p.swiglu ? column0 / 2 : column0) + column;
    float bias[UNIT], value_bias[UNIT], scale[UNIT];

    if (first >= p.across) return;
    for (int e = 0; e < UNIT; e++) {
        int at        = first + e < p.across ? first + e : p.across - 1;
        bias[e]       = p.bias[p.swiglu ? 2 * at : at];
        value_bias[e] = p.swiglu ? p.bias[2 * at + 1] : 0.0f;
        scale[e]      = p.scale ? p.scale[at] : 1.0f;
    }
    for (int row = lane / units; row < rows && row0 + row < p.m; row += WARP / units) {
        const quad  *from     = (const quad *)(sums + row * SUMS_LD + (p.swiglu ? 2 * column : column));
        Out         *to       = (Out *)p.y + (row0 + row) * p.y_ld + first;
        const float *residual = p.residual ? p.residual + (row0 + row) * p.residual_ld + first : NULL;
        bool         whole    = p.vectors && first + UNIT <= p.across;
        float        v[UNIT];

        if (p.swiglu) {
            for (int e = 0; e < UNIT; e += 2) {
                quad sum = from[e / 2]; /* gate, value, gate, value */
                v[e]     = silu(sum.v[0] + bias[e]) * (sum.v[1] + value_bias[e]);
                v[e + 1] = silu(sum.v[2] + bias[e + 1]) * (sum.v[3] + value_bias[e + 1]);
            }
        } else {
            for (int e = 0; e < UNIT; e += 4) {
                quad sum = from[e / 4];
                for (int i = 0; i < 4; i++) {
                    float t  = sum.v[i] + bias[e + i];
                    v[e + i] = p.gelu ? gelu(t) : t;
                }
            }
        }
        if (whole) {
            if (residual)
                for (int e = 0; e < UNIT; e += 4) {
                    quad r = *(const quad *)(residual + e);
                    for (int i = 0; i < 4; i++) v[e + i] = r.v[i] + scale[e + i] * v[e + i];
                }
            put(to, v);
        } else {
            for (int e = 0; e < UNIT; e++)
                if (first + e < p.across) to[e] = from_float<Out>(residual ? residual[e] + scale[e] * v[e] : v[e]);
        }
    }
}

/* Tiles that run at a time share rows of x and of the weight in the L2 cache: `group` tiles down, then across. */
DINOV_DEVICE void tile_of(const product &p, int rows, int columns, int group, int64_t *row0, int *column0)
{
    int down = (int)((p.m + rows - 1) / rows), across = (p.n + columns - 1) / columns;
    int begin = (int)blockIdx.x / (group * across) * group, within = (int)blockIdx.x % (group * across);
    int height = down - begin < group ? down - begin : group;
    *row0      = (int64_t)(begin + within % height) * rows;
    *column0   = within / height * columns;
}

/* ---- Loading: tiles of DEPTH values of k, in lines of 128 bytes ----
 * A line holds a row in float, two in 16 bits, in 16-byte pieces; they are permuted so that equal pieces of eight rows
 * lie in different banks. */

enum { DEPTH = 32 };

template <typename T> DINOV_DEVICE int place(int row, int piece)
{
    enum { PIECES = DEPTH * sizeof(T) / 16, LINE_ROWS = 8 / PIECES };
    int line = row / LINE_ROWS;
    return line * 128 + (row % LINE_ROWS * PIECES + (piece ^ line % PIECES)) * 16;
}

/* Values k to k + DEPTH of `count` in each of ROWS rows, by THREADS threads. */
template <typename T, int ROWS, int THREADS>
DINOV_DEVICE void copy_rows(unsigned char *to, const T *from, int64_t ld, int64_t last, int k, int count)
{
    enum { PIECES = DEPTH * sizeof(T) / 16, STRIDE = THREADS / PIECES };
    int row = (int)threadIdx.x / PIECES, piece = (int)threadIdx.x % PIECES;
    int begin = k + piece * (int)(16 / sizeof(T)), left = (count - begin) * (int)sizeof(T);
    int bytes = left >= 16 ? 16 : left > 0 ? left : 0;
#pragma unroll
    for (int i = 0; i < ROWS; i += STRIDE)
        copy_async(to + place<T>(row + i, piece), from + (row + i < last ? row + i : last) * ld + (bytes ? begin : 0), bytes);
}

/* A stage of the ring: ROWS rows of x, then COLUMNS of the weight. */
template <typename T, int ROWS, int COLUMNS, int THREADS>
DINOV_DEVICE void copy_stage(const product &p, unsigned char *stage, int64_t row0, int column0, int k)
{
    copy_rows<T, ROWS, THREADS>(stage, (const T *)p.x + row0 * p.x_ld, p.x_ld, p.m - 1 - row0, k, p.k);
    copy_rows<T, COLUMNS, THREADS>(stage + ROWS * DEPTH * sizeof(T), (const T *)p.weight + column0 * p.weight_ld, p.weight_ld,
                                   p.n - 1 - column0, k, p.k);
}

/* ---- Tensor cores ----
 * A block of ROWS threads computes [ROWS, 128] of y, a warp [64, 64] of it. */

enum { COLUMNS = 128, STEPS = DEPTH / 16, ROW_BYTES = DEPTH * 2 };

/* Two blocks of 128 rows, or one of 256, on a multiprocessor with 164 KiB of shared memory. */
template <int ROWS> struct ring {
    enum { STAGES = ROWS == 128 ? 5 : 6, STAGE = (ROWS + COLUMNS) * ROW_BYTES, BYTES = STAGES * STAGE };
};

/* Fragments of 16 values of k: of the warp's rows of x, and of its rows of the weight, two times 8 columns of y each. */
struct fragments {
    uint32_t x[4][4], w[4][4];
};

DINOV_DEVICE void load_fragments(fragments *f, const unsigned char *x, const unsigned char *w)
{
    for (int i = 0; i < 4; i++) load_matrices(f->x[i], x + i * 16 * ROW_BYTES);
    for (int i = 0; i < 4; i++) load_matrices(f->w[i], w + i * 16 * ROW_BYTES);
}

template <typename T> DINOV_DEVICE void multiply_fragments(float sums[4][8][4], const fragments *f)
{
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++) multiply<T>(sums[i][j], f->x[i], f->w[j / 2] + j % 2 * 2);
}

template <typename T, int ROWS> DINOV_KERNEL(ROWS) product_mma(product p)
{
    enum { STAGES = ring<ROWS>::STAGES, STAGE = ring<ROWS>::STAGE };
    static_assert(ROWS / WARP * 64 * SUMS_LD * 4 <= ring<ROWS>::BYTES, "the sums of all warps fit the ring");
    unsigned char *shared = dynamic_shared();
    int            lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int            down = warp / 2 * 64, right = warp % 2 * 64; /* the warp's part of the tile */
    int64_t        row0;
    int            column0, tiles = (p.k + DEPTH - 1) / DEPTH;

    tile_of(p, ROWS, COLUMNS, 1024 / ROWS, &row0, &column0);

    /* Where the lane's row of each 8x8 matrix lies in a stage, in the first step; a step on flips bits of the piece. */
    int x_at = place<T>(down + lane % 16, lane / 16);
    int w_at = ROWS * ROW_BYTES + place<T>(right + lane / 16 * 8 + lane % 8, lane / 8 % 2);

    float sums[4][8][4];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++)
            for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;

    for (int t = 0; t < STAGES - 1; t++) {
        if (t < tiles) copy_stage<T, ROWS, COLUMNS, ROWS>(p, shared + t * STAGE, row0, column0, t * DEPTH);
        copy_commit();
    }
    copy_wait<STAGES - 2>();
    block_barrier();

    /* Fragments are loaded a step ahead, the first of the next tile (after the last: of nothing) too; a tile's stage
     * is free once all warps have passed the barrier in its last step. */
    fragments      f[2];
    unsigned char *stage = shared;
    load_fragments(&f[0], stage + x_at, stage + w_at);
    for (int t = 0; t < tiles; t++) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if (step == STEPS - 1) {
                copy_wait<STAGES - 2>();
                block_barrier();
                stage = shared + (t + 1) % STAGES * STAGE;
            }
            int flip = (step + 1) % STEPS * 32;
            load_fragments(&f[(step + 1) % 2], stage + (x_at ^ flip), stage + (w_at ^ flip));
            if (step == 0) {
                int next = t + STAGES - 1;
                if (next < tiles)
                    copy_stage<T, ROWS, COLUMNS, ROWS>(p, shared + next % STAGES * STAGE, row0, column0, next * DEPTH);
                copy_commit();
            }
            multiply_fragments<T>(sums, &f[step % 2]);
        }
    }
    block_barrier(); /* until no warp loads fragments any more */

    float *out = (float *)shared + warp * 64 * SUMS_LD;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 8; j++)
            for (int half = 0; half < 2; half++)
                *(pair *)(out + (i * 16 + half * 8 + lane / 4) * SUMS_LD + j * 8 + lane % 4 * 2) =
                    pair{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}};
    warp_barrier();
    if (p.residual)
        finish<float>(p, out, 64, row0 + down, column0 + right);
    else
        finish<T>(p, out, 64, row0 + down, column0 + right);
}

/* ---- Float ----
 * A block computes [128, 64], a warp [32, 64] of it, a thread 8 rows by 8 columns. Sums run in parts of 128 values of k,
 * so that rounding does not grow with K. */

enum { F32_THREADS = 128, F32_ROWS = 128, F32_STAGES = 3, F32_STAGE = (F32_ROWS + SUMS) * DEPTH * 4, F32_PART = 128 / DEPTH };

DINOV_KERNEL(F32_THREADS) product_f32(product p)
{
    static_assert(F32_ROWS * SUMS_LD * 4 <= F32_STAGES * F32_STAGE, "the sums of all warps fit the ring");
    unsigned char *shared = dynamic_shared();
    int            lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int            x_row = warp * 32 + lane / 8, w_row = lane % 8; /* the first of the thread's, every 4th and 8th */
    int64_t        row0;
    int            column0, tiles = (p.k + DEPTH - 1) / DEPTH;

    tile_of(p, F32_ROWS, SUMS, 8, &row0, &column0);

    float sums[8][8], part[8][8];
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) sums[i][j] = part[i][j] = 0.0f;

    for (int t = 0; t < F32_STAGES - 1; t++) {
        if (t < tiles) copy_stage<float, F32_ROWS, SUMS, F32_THREADS>(p, shared + t * F32_STAGE, row0, column0, t * DEPTH);
        copy_commit();
    }
    for (int t = 0; t < tiles; t++) {
        const unsigned char *stage = shared + t % F32_STAGES * F32_STAGE;
        int                  next  = t + F32_STAGES - 1;
        copy_wait<F32_STAGES - 2>();
        block_barrier();
        if (next < tiles)
            copy_stage<float, F32_ROWS, SUMS, F32_THREADS>(p, shared + next % F32_STAGES * F32_STAGE, row0, column0, next * DEPTH);
        copy_commit();
        for (int k = 0; k < 8; k++) {
            quad b[8];
            for (int j = 0; j < 8; j++) b[j] = *(const quad *)(stage + place<float>(F32_ROWS + w_row + 8 * j, k));
            for (int i = 0; i < 8; i++) {
                quad a = *(const quad *)(stage + place<float>(x_row + 4 * i, k));
                for (int e = 0; e < 4; e++)
                    for (int j = 0; j < 8; j++) part[i][j] = fmaf(a.v[e], b[j].v[e], part[i][j]);
            }
        }
        if (t % F32_PART == F32_PART - 1 || t == tiles - 1)
            for (int i = 0; i < 8; i++)
                for (int j = 0; j < 8; j++) sums[i][j] += part[i][j], part[i][j] = 0.0f;
    }
    block_barrier();

    float *out = (float *)shared + warp * 32 * SUMS_LD;
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) out[(lane / 8 + 4 * i) * SUMS_LD + w_row + 8 * j] = sums[i][j];
    warp_barrier();
    finish<float>(p, out, 32, row0 + warp * 32, column0);
}

/* ---- Launching ---- */

/* How the work is cut never depends on the number of rows. Long products take the larger tile, which reads x and the
 * weight less often; in short ones a second block hides the beginning and end of the first. */
template <typename T> static void linear(dinov_stream *s, const product *p)
{
    if (p->k >= 1024)
        DINOV_LAUNCH(s, "linear", (product_mma<T, 256>), dim3(blocks_of(p->m, 256) * blocks_of(p->n, COLUMNS)), 256,
                     ring<256>::BYTES, *p);
    else
        DINOV_LAUNCH(s, "linear", (product_mma<T, 128>), dim3(blocks_of(p->m, 128) * blocks_of(p->n, COLUMNS)), 128,
                     ring<128>::BYTES, *p);
}

template <> void linear<float>(dinov_stream *s, const product *p)
{
    DINOV_LAUNCH(s, "linear", product_f32, dim3(blocks_of(p->m, F32_ROWS) * blocks_of(p->n, SUMS)), F32_THREADS,
                 F32_STAGES * F32_STAGE, *p);
}

static bool vectors(const void *data, int64_t ld, size_t size) { return (uintptr_t)data % 16 == 0 && (size_t)ld * size % 16 == 0; }

void dinov_cuda_linear(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w, const dinov_mat *residual,
                       const void *scale)
{
    size_t  size = residual || dinov_queue_real(s->queue) == DINOV_F32 ? sizeof(float) : 2;
    product p    = {};

    DINOV_ASSERT(x->cols == w->k && x->rows == y->rows && y->cols == (w->act == DINOV_ACT_SWIGLU ? w->n / 2 : w->n));
    if (y->rows == 0) return;
    p.x = x->data, p.x_ld = x->ld, p.m = x->rows, p.k = (int)w->k;
    p.weight = w->packed, p.weight_ld = dinov_cuda_stride(w->k), p.n = (int)w->n;
    p.bias = (const float *)w->bias, p.scale = (const float *)scale;
    p.y = y->data, p.y_ld = y->ld, p.across = (int)y->cols;
    p.gelu = w->act == DINOV_ACT_GELU, p.swiglu = w->act == DINOV_ACT_SWIGLU;
    DINOV_ASSERT(vectors(x->data, x->ld, dinov_queue_real(s->queue) == DINOV_F32 ? sizeof(float) : 2));
    p.vectors = vectors(y->data, y->ld, size);
    if (residual) {
        p.residual = (const float *)residual->data, p.residual_ld = residual->ld;
        p.vectors &= vectors(residual->data, residual->ld, sizeof(float));
    }
    DINOV_BY_REAL(s, linear, &p);
}
