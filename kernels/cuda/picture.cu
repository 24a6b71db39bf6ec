/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoded pictures to inputs: PIL's two-pass resize in integers, bit for bit, then the table of normalised values.
 */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 128 };

/* One sample of a pass; `in` is the first of its line, `step` bytes to the next. */
DINOV_DEVICE int resized(const uint8_t *in, int64_t step, const int32_t *taps, int64_t most, int64_t n, int64_t i)
{
    const int32_t *weight = taps + 2 * n + i * most;
    int32_t        sum = 1 << 21, count = taps[n + i];
    in += taps[i] * step;
    for (int32_t j = 0; j < count; j++, in += step) sum += *in * weight[j];
    sum >>= 22;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

/* Grid (pieces of a line, lines, pictures); a grid has fewer lines than a picture may. What lies between the passes. */
DINOV_KERNEL(THREADS)
first_pass(uint8_t *scratch, const uint8_t *block, const dinov_picture *pictures, int64_t width, int64_t height, int64_t from)
{
    dinov_picture p    = pictures[from + blockIdx.z];
    int64_t       wide = p.down_first ? p.columns : width, high = p.down_first ? height : p.rows;
    int64_t       x = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (x >= wide) return;
    const uint8_t *rgb  = block + p.rgb;
    const int32_t *taps = (const int32_t *)(block + (p.down_first ? p.down : p.across));
    for (int64_t y = blockIdx.y; y < high; y += gridDim.y)
        for (int c = 0; c < 3; c++)
            scratch[p.middle + 3 * (y * wide + x) + c] =
                (uint8_t)(p.down_first ? resized(rgb + 3 * x + c, 3 * (int64_t)p.columns, taps, p.down_most, height, y)
                                       : resized(rgb + 3 * y * p.columns + c, 3, taps, p.across_most, width, x));
}

/* Grid (pieces of a line, lines, pictures) of the input. */
DINOV_KERNEL(THREADS)
second_pass(float *pixels, const uint8_t *scratch, const uint8_t *block, const dinov_picture *pictures, int64_t width,
            int64_t height, const float *table, int64_t from)
{
    dinov_picture p    = pictures[from + blockIdx.z];
    int64_t       wide = p.down_first ? p.columns : width;
    int64_t       x    = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (x >= width) return;
    const uint8_t *middle = scratch + p.middle;
    const int32_t *taps   = (const int32_t *)(block + (p.down_first ? p.across : p.down));
    for (int64_t y = blockIdx.y; y < height; y += gridDim.y)
        for (int c = 0; c < 3; c++) {
            int v = p.down_first ? resized(middle + 3 * y * wide + c, 3, taps, p.across_most, width, x)
                                 : resized(middle + 3 * x + c, 3 * wide, taps, p.down_most, height, y);
            pixels[(((from + blockIdx.z) * 3 + c) * height + y) * width + x] = table[c * 256 + v];
        }
}

static unsigned lines(int64_t count, int64_t most) { return (unsigned)(count < most ? count : most); }

extern "C" void dinov_cuda_pictures(dinov_stream *s, float *pixels, const void *block, const dinov_picture *pictures, int64_t count,
                                    int64_t width, int64_t height, int64_t widest, int64_t highest, const float *table)
{
    const int64_t most = 32768; /* pictures or lines a launch: those sides of a grid have 16 bits */
    int64_t       wide = widest > width ? widest : width, high = highest > height ? highest : height;
    for (int64_t from = 0; from < count; from += most) {
        unsigned depth = (unsigned)(count - from < most ? count - from : most);
        DINOV_LAUNCH(s, "pictures", first_pass, dim3(blocks_of(wide, THREADS), lines(high, most), depth), THREADS, 0,
                     (uint8_t *)s->scratch, (const uint8_t *)block, pictures, width, height, from);
        DINOV_LAUNCH(s, "pictures", second_pass, dim3(blocks_of(width, THREADS), lines(height, most), depth), THREADS, 0, pixels,
                     (const uint8_t *)s->scratch, (const uint8_t *)block, pictures, width, height, table, from);
    }
}
