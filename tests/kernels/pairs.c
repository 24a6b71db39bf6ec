/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/pairs.h"

#include <stdarg.h>

int             failures, checks;
const char     *table;
static uint64_t state = 88172645463325252u;

void report(int ok, const char *format, ...)
{
    checks++;
    if (ok) return;
    failures++;
    va_list args;
    va_start(args, format);
    printf("FAILED %s: ", table);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

float uniform(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (float)(state >> 40) * 0x1p-23f - 1.0f;
}

void *must(void *p)
{
    DINOV_ASSERT(p);
    return p;
}

static struct pair make(int64_t rows, int64_t cols, int64_t ld, int random)
{
    int64_t     count = (rows + 1) * ld;
    struct pair p     = {{must(dinov_alloc_aligned((size_t)count, sizeof(float))), rows, cols, ld},
                         {must(dinov_alloc_aligned((size_t)count, sizeof(double))), rows, cols, ld}};
    for (int64_t i = 0; i < count; i++) {
        int   inside           = i / ld < rows && i % ld < cols;
        float value            = inside && random ? uniform() : GUARD;
        ((float *)p.f.data)[i] = value, ((double *)p.d.data)[i] = (double)value;
    }
    return p;
}

struct pair pair_new(int64_t rows, int64_t cols, int random) { return make(rows, cols, cols + 5, random); }

struct pair pair_packed(int64_t rows, int64_t cols, int random) { return make(rows, cols, cols, random); }

struct pair pair_copy(const struct pair *p)
{
    struct pair copy  = make(p->f.rows, p->f.cols, p->f.ld, 0);
    size_t      count = (size_t)((p->f.rows + 1) * p->f.ld);
    memcpy(copy.f.data, p->f.data, count * sizeof(float));
    memcpy(copy.d.data, p->d.data, count * sizeof(double));
    return copy;
}

void pair_free(struct pair *p)
{
    dinov_free(p->f.data);
    dinov_free(p->d.data);
}

float *vector(int64_t n, double **wide)
{
    float *v = must(dinov_alloc_aligned((size_t)n, sizeof *v));
    *wide    = must(dinov_alloc_aligned((size_t)n, sizeof **wide));
    for (int64_t i = 0; i < n; i++) v[i] = uniform(), (*wide)[i] = (double)v[i];
    return v;
}

double difference(const struct pair *p)
{
    double error = 0, norm = 0;
    for (int64_t i = 0; i < (p->f.rows + 1) * p->f.ld; i++) {
        double f = (double)((const float *)p->f.data)[i], d = ((const double *)p->d.data)[i];
        if (i / p->f.ld >= p->f.rows || i % p->f.ld >= p->f.cols) {
            if (((const float *)p->f.data)[i] != GUARD) return (double)INFINITY;
        } else {
            error += (f - d) * (f - d), norm += d * d;
        }
    }
    return sqrt(norm > 0 ? error / norm : error);
}

double allowed(const struct pair *p, double limit) { return p->f.rows * p->f.cols < 4 ? 2 * limit : limit; }

int same_bits(const dinov_mat *a, const dinov_mat *b)
{
    for (int64_t r = 0; r < a->rows; r++)
        if (memcmp((const float *)a->data + r * a->ld, (const float *)b->data + r * b->ld, (size_t)a->cols * sizeof(float)))
            return 0;
    return 1;
}
