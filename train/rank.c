/* SPDX-License-Identifier: Apache-2.0 */
#include "train/rank.h"

#include <math.h>

/* One Jacobi rotation that clears a[p][q] of a symmetric matrix. */
static void rotate(double *a, int64_t n, int64_t p, int64_t q)
{
    double apq = a[p * n + q];
    if (apq == 0) return;
    double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq), t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
    double c = 1 / sqrt(t * t + 1), s = t * c;
    for (int64_t i = 0; i < n; i++) {
        double ip = a[i * n + p], iq = a[i * n + q];
        a[i * n + p] = c * ip - s * iq;
        a[i * n + q] = s * ip + c * iq;
    }
    for (int64_t i = 0; i < n; i++) {
        double pi = a[p * n + i], qi = a[q * n + i];
        a[p * n + i] = c * pi - s * qi;
        a[q * n + i] = s * pi + c * qi;
    }
}

double dinov_effective_rank(double *gram, int64_t n)
{
    enum { SWEEPS = 12 };
    double total = 0, entropy = 0;

    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        double off = 0, diagonal = 0;
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = 0; q < n; q++) *(p == q ? &diagonal : &off) += gram[p * n + q] * gram[p * n + q];
        if (!(off > 1e-20 * diagonal)) break;
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = p + 1; q < n; q++) rotate(gram, n, p, q);
    }
    for (int64_t i = 0; i < n; i++) total += sqrt(fmax(gram[i * n + i], 0));
    for (int64_t i = 0; i < n; i++) {
        double share = sqrt(fmax(gram[i * n + i], 0)) / total;
        if (share > 0) entropy -= share * log(share);
    }
    return exp(entropy);
}
