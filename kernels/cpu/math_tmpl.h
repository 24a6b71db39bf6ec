/* SPDX-License-Identifier: Apache-2.0
 *
 * exp, erf, GELU and SiLU on vectors. The polynomials are minimax fits made for these intervals
 * (weighted least squares, Lawson's iteration); errors are stated beside them and held by
 * tests/kernels/check.c.
 */

static inline float v_sum(vf a)
{
    __m128 q = fold_add(a);
    q        = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static inline float v_largest(vf a)
{
    __m128 q = fold_max(a);
    q        = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

/* A vector of which n elements are left, all of them or fewer. */
static inline vf   v_take(const float *p, int64_t n) { return n >= VL ? v_load(p) : v_load_n(p, n); }
static inline void v_put(float *p, vf x, int64_t n)
{
    if (n >= VL)
        v_store(p, x);
    else
        v_store_n(p, x, n);
}

enum { ELEMENTS = 16384 }; /* of a block of work that is little for each, about */

/* Rows of a block that does about `work` elements. */
static inline int64_t rows_of(int64_t work, int64_t cols) { return cols >= work ? 1 : work / cols; }

/* Four chains, added up in pairs; the order depends on n alone. */
static inline float row_dot(const float *x, const float *y, int64_t n)
{
    vf      a = v_zero(), b = v_zero(), c = v_zero(), d = v_zero();
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL) {
        a = v_fma(v_load(x + i), v_load(y + i), a);
        b = v_fma(v_load(x + i + VL), v_load(y + i + VL), b);
        c = v_fma(v_load(x + i + 2 * VL), v_load(y + i + 2 * VL), c);
        d = v_fma(v_load(x + i + 3 * VL), v_load(y + i + 3 * VL), d);
    }
    for (; i < n; i += VL) a = v_fma(v_take(x + i, n - i), v_take(y + i, n - i), a);
    return v_sum(v_add(v_add(a, b), v_add(c, d)));
}

/* exp for x <= 88; below -87 it stays at e^-87; of NaN, NaN. x = n ln 2 + r, |r| <= ln 2 / 2, error 3.3e-9 before rounding. */
static inline vf v_exp(vf x)
{
    x    = v_min(v_set1(88.0f), v_max(v_set1(-87.0f), x)); /* of two, NaN where the second is */
    vf n = v_round(v_mul(x, v_set1(1.44269504088896341f)));
    vf r = v_fma(n, v_set1(-0.693145751953125f), x); /* ln 2 in two parts, the first exact in n * part */
    r    = v_fma(n, v_set1(-1.42860682030941723e-6f), r);
    vf p = v_set1(1.381314236e-03f);
    p    = v_fma(p, r, v_set1(8.369419043e-03f));
    p    = v_fma(p, r, v_set1(4.166845683e-02f));
    p    = v_fma(p, r, v_set1(1.666651479e-01f));
    p    = v_fma(p, r, v_set1(4.999999305e-01f));
    p    = v_fma(v_mul(r, r), p, r);
    return v_scale2(v_add(p, v_set1(1.0f)), n);
}

/* erf for z >= 0: z + z P(z^2) below 1 (error 1.2e-9), 1 - exp(-z Q(z)) above (3.6e-10), 1 from 4 on. */
static inline vf v_erf_abs(vf z)
{
    vf s = v_mul(z, z), p = v_set1(7.853857704e-05f);
    p    = v_fma(p, s, v_set1(-8.010192520e-04f));
    p    = v_fma(p, s, v_set1(5.188327560e-03f));
    p    = v_fma(p, s, v_set1(-2.685381187e-02f));
    p    = v_fma(p, s, v_set1(1.128358515e-01f));
    p    = v_fma(p, s, v_set1(-3.761262582e-01f));
    p    = v_fma(p, s, v_set1(1.283791657e-01f));
    p    = v_fma(p, z, z);

    vf t = v_min(z, v_set1(4.0f)), q = v_set1(1.413383829e-05f);
    q    = v_fma(q, t, v_set1(-3.523321674e-04f));
    q    = v_fma(q, t, v_set1(3.764660230e-03f));
    q    = v_fma(q, t, v_set1(-2.402550910e-02f));
    q    = v_fma(q, t, v_set1(1.065491037e-01f));
    q    = v_fma(q, t, v_set1(6.349582970e-01f));
    q    = v_fma(q, t, v_set1(1.128697159e+00f));
    q    = v_sub(v_set1(1.0f), v_exp(v_mul(v_sub(v_zero(), t), q)));
    return v_select_lt(z, v_set1(1.0f), p, q);
}

/* 0.5 x (1 + erf(x / sqrt 2)) = (x + |x| erf(|x| / sqrt 2)) / 2, since erf is odd. */
static inline vf v_gelu(vf x)
{
    vf a = v_abs(x);
    return v_mul(v_set1(0.5f), v_fma(a, v_erf_abs(v_mul(a, v_set1(0.70710678118654752f))), x));
}

/* The derivative of v_gelu, F(x) + x f(x) with the normal distribution and its density; *value is v_gelu(x). */
static inline vf v_gelu_derivative(vf x, vf *value)
{
    vf a = v_abs(x), erf = v_erf_abs(v_mul(a, v_set1(0.70710678118654752f)));
    vf half = v_mul(v_set1(0.5f), x), density = v_exp(v_mul(v_sub(v_zero(), half), x));
    vf below = v_mul(v_set1(0.5f), v_add(v_set1(1.0f), v_select_lt(x, v_zero(), v_sub(v_zero(), erf), erf)));
    *value   = v_mul(v_set1(0.5f), v_fma(a, erf, x));
    return v_fma(v_mul(v_set1(0.39894228040143268f), x), density, below);
}

static inline vf v_silu(vf x) { return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), x)))); }

/* out[i][j] = in[j][i] for eight rows and columns. */
static inline void transpose8(float *out, int64_t ldo, const float *in, int64_t ldi)
{
    __m256 r[8], s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(in + i * ldi);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        s[i]     = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i]     = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + i * ldo, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(out + (i + 4) * ldo, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
