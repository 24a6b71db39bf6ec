/* SPDX-License-Identifier: Apache-2.0
 *
 * Pixels to patch rows, patch rows to tokens, and resampling of the position grid.
 */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 128 };

/* A block has a piece of a row of patches, a thread a column of its pixels; indices have 32 bits, whose division is cheap. */
template <typename T>
DINOV_KERNEL(THREADS)
patchify(T *rows, int64_t ld, const float *pixels, int channels, int height, int width, int patch)
{
    int down = height / patch, across = width / patch, image = (int)blockIdx.x / down, i = (int)blockIdx.x % down;
    int column = (int)(blockIdx.y * THREADS + threadIdx.x), j = column / patch, x = column % patch;
    if (j >= across) return;
    T           *out = rows + ((int64_t)blockIdx.x * across + j) * ld + x;
    const float *in  = pixels + ((int64_t)image * channels * height + i * patch) * width + column;
    for (int c = 0; c < channels; c++, in += (int64_t)height * width)
        for (int y = 0; y < patch; y++, out += patch) *out = from_float<T>(in[(int64_t)y * width]);
}

/* A block makes a token. */
template <typename T>
DINOV_KERNEL(THREADS)
embed(float *x, int64_t ld, const T *patches, int64_t patches_ld, const float *cls, const float *registers, const float *mask_token,
      const float *pos, const uint8_t *mask, int cols, int count, int registers_count)
{
    int     first = 1 + registers_count, tokens = first + count, image = (int)blockIdx.x / tokens, t = (int)blockIdx.x % tokens;
    int64_t patch  = (int64_t)image * count + t - first;
    bool    hidden = t >= first && mask && mask[patch];
    for (int c = (int)threadIdx.x; c < cols; c += THREADS) {
        float v;
        if (t >= first)
            v = (hidden ? mask_token[c] : to_float(patches[patch * patches_ld + c])) + pos[(int64_t)(1 + t - first) * cols + c];
        else
            v = t > 0 ? registers[(t - 1) * cols + c] : cls[c] + pos[c];
        x[blockIdx.x * ld + c] = v;
    }
}

/* A block makes a position. All but a few weights are zero. */
DINOV_KERNEL(THREADS)
resample(float *y, int64_t y_ld, const float *x, int64_t x_ld, const double *rows, const double *cols, int64_t channels, int64_t w,
         int64_t gh, int64_t gw)
{
    int64_t i = blockIdx.x / w, j = blockIdx.x % w;
    for (int64_t c = threadIdx.x; c < channels; c += THREADS) {
        float sum = 0;
        for (int64_t a = 0; a < gh; a++) {
            if (rows[i * gh + a] == 0) continue;
            for (int64_t b = 0; b < gw; b++) {
                float weight = (float)(rows[i * gh + a] * cols[j * gw + b]);
                if (weight != 0) sum += weight * x[(a * gw + b) * x_ld + c];
            }
        }
        y[blockIdx.x * y_ld + c] = sum;
    }
}

template <typename T>
static void launch_patchify(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t channels, int64_t height, int64_t width,
                            int64_t patch)
{
    int64_t across = width / patch;
    DINOV_LAUNCH(s, "patchify", (patchify<T>), dim3((unsigned)(rows->rows / across), blocks_of(across * patch, THREADS)), THREADS,
                 0, (T *)rows->data, rows->ld, pixels, (int)channels, (int)height, (int)width, (int)patch);
}

extern "C" void dinov_cuda_patchify(dinov_stream *s, dinov_mat *rows, const float *pixels, int64_t images, int64_t channels,
                                    int64_t height, int64_t width, int64_t patch)
{
    (void)images;
    DINOV_BY_REAL(s, launch_patchify, rows, pixels, channels, height, width, patch);
}

template <typename T>
static void launch_embed(dinov_stream *s, dinov_mat *x, const dinov_mat *patches, const void *cls, const void *registers,
                         const void *mask_token, const void *pos, const uint8_t *mask, int64_t images, int64_t registers_count)
{
    DINOV_LAUNCH(s, "embed", (embed<T>), dim3((unsigned)x->rows), THREADS, 0, (float *)x->data, x->ld, (const T *)patches->data,
                 patches->ld, (const float *)cls, (const float *)registers, (const float *)mask_token, (const float *)pos, mask,
                 (int)x->cols, (int)(patches->rows / images), (int)registers_count);
}

extern "C" void dinov_cuda_embed(dinov_stream *s, dinov_mat *x, const dinov_mat *patches, const void *cls, const void *registers,
                                 const void *mask_token, const void *pos, const uint8_t *mask, int64_t images,
                                 int64_t registers_count)
{
    DINOV_BY_REAL(s, launch_embed, x, patches, cls, registers, mask_token, pos, mask, images, registers_count);
}

extern "C" void dinov_cuda_resample(dinov_stream *s, dinov_mat *y, const dinov_mat *x, const double *rows, const double *cols,
                                    int64_t h, int64_t w, int64_t gh, int64_t gw)
{
    DINOV_LAUNCH(s, "resample", resample, dim3((unsigned)(h * w)), THREADS, 0, (float *)y->data, y->ld, (const float *)x->data,
                 x->ld, rows, cols, y->cols, w, gh, gw);
}
