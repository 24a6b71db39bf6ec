/* SPDX-License-Identifier: Apache-2.0 */
#include "infer/block.h"

#include <string.h>

static size_t aligned(size_t size) { return (size + 15) / 16 * 16; }

/* A direction that is kept has one coefficient an output. */
static int64_t most_of(const dinov_taps *t) { return t->most ? t->most : 1; }

static size_t taps_bytes(const dinov_taps *t, int64_t outputs) { return (size_t)(outputs * (2 + most_of(t))) * sizeof(int32_t); }

static void put_taps(void *to, const dinov_taps *t, int64_t outputs)
{
    int32_t *first = to, *count = first + outputs, *weight = count + outputs;
    if (t->most) {
        memcpy(first, t->first, (size_t)outputs * sizeof *first);
        memcpy(count, t->count, (size_t)outputs * sizeof *count);
        memcpy(weight, t->weight, (size_t)(outputs * t->most) * sizeof *weight);
        return;
    }
    for (int64_t i = 0; i < outputs; i++) {
        first[i]  = (int32_t)i;
        count[i]  = 1;
        weight[i] = 1 << DINOV_TAP_BITS;
    }
}

/* Where each picture lies; `out` NULL: only how large it all is. */
static dinov_block lay_out(const dinov_decoded *pictures, int64_t count, dinov_picture *out)
{
    dinov_block at = {.size = aligned((size_t)count * sizeof *out)};
    for (int64_t i = 0; i < count; i++) {
        const dinov_resize_plan *p    = pictures[i].plan;
        dinov_picture            here = {.columns     = (int32_t)p->columns,
                                         .rows        = (int32_t)p->rows,
                                         .down_first  = p->down_first,
                                         .across_most = (int32_t)most_of(&p->across),
                                         .down_most   = (int32_t)most_of(&p->down),
                                         .middle      = (int64_t)at.middle};
        here.across                   = (int64_t)at.size, at.size += aligned(taps_bytes(&p->across, p->width));
        here.down                     = (int64_t)at.size, at.size += aligned(taps_bytes(&p->down, p->height));
        here.rgb                      = (int64_t)at.size, at.size += aligned((size_t)(3 * p->columns * p->rows));
        at.middle += aligned((size_t)(3 * (p->down_first ? p->columns * p->height : p->width * p->rows)));
        if (p->columns > at.widest) at.widest = p->columns;
        if (p->rows > at.highest) at.highest = p->rows;
        if (out) out[i] = here;
    }
    return at;
}

dinov_block dinov_block_measure(const dinov_decoded *pictures, int64_t count) { return lay_out(pictures, count, NULL); }

void dinov_block_fill(char *to, const dinov_decoded *pictures, int64_t count)
{
    dinov_picture *at = (dinov_picture *)(void *)to;
    lay_out(pictures, count, at);
    for (int64_t i = 0; i < count; i++) {
        const dinov_decoded     *d = &pictures[i];
        const dinov_resize_plan *p = d->plan;
        put_taps(to + at[i].across, &p->across, p->width);
        put_taps(to + at[i].down, &p->down, p->height);
        for (int64_t y = 0; y < p->rows; y++)
            memcpy(to + at[i].rgb + 3 * y * p->columns, d->rgb + 3 * ((p->y + y) * d->width + p->x), 3 * (size_t)p->columns);
    }
}
