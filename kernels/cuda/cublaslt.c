/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cublaslt.h"

#include "base/alloc.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/library.h"

#include <string.h>

/* In the library's words: D = alpha op(A) op(B) + beta C, column-major. Our rows are its columns: A = W [k, n] transposed,
 * B = x [k, M], C = residual [n, M], D = y [n, M]. */
struct functions {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    size_t (*version)(void);
    int (*desc_create)(void **desc, int compute, int scale);
    int (*desc_destroy)(void *desc);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t size);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_destroy)(void *layout);
    int (*layout_set)(void *layout, int attribute, const void *value, size_t size);
    int (*pref_create)(void **pref);
    int (*pref_destroy)(void *pref);
    int (*pref_set)(void *pref, int attribute, const void *value, size_t size);
    int (*heuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref, int most, dinov_lt_result *results,
                     int *count);
    int (*algo_init)(void *handle, int compute, int scale, int a, int b, int c, int d, int id, dinov_lt_algo *algo);
    int (*algo_check)(void *handle, void *desc, void *a, void *b, void *c, void *d, const dinov_lt_algo *algo,
                      dinov_lt_result *result);
    int (*config_set)(dinov_lt_algo *algo, int attribute, const void *value, size_t size);
    int (*config_get)(const dinov_lt_algo *algo, int attribute, void *value, size_t size, size_t *written);
    int (*cap_get)(const dinov_lt_algo *algo, int attribute, void *value, size_t size, size_t *written);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a_data, void *a, const void *b_data, void *b,
                  const void *beta, const void *c_data, void *c, void *d_data, void *d, const dinov_lt_algo *algo,
                  void *workspace, size_t workspace_size, void *stream);
};

static const char *const symbols[] = {
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulAlgoInit",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoConfigSetAttribute",
    "cublasLtMatmulAlgoConfigGetAttribute",
    "cublasLtMatmulAlgoCapGetAttribute",
    "cublasLtMatmul",
};
enum { SYMBOLS = sizeof symbols / sizeof *symbols };
_Static_assert(sizeof(struct functions) == SYMBOLS * sizeof(void *), "a name for each function");

struct dinov_cublaslt {
    void            *library, *handle;
    struct functions f;
    dinov_dtype      real;
};

struct dinov_lt_product {
    void         *desc, *a, *b, *c, *d;
    int64_t       ldx, ldy; /* that algorithms are asked for; a call may have others */
    bool          residual;
    dinov_lt_algo algo;
};

enum { CANONICAL_M = 8192 };
static const int64_t every_m[] = {1, 8, 257, CANONICAL_M, 65536};

static int element(dinov_dtype real) { return real == DINOV_BF16 ? LT_R_16BF : real == DINOV_F16 ? LT_R_16F : LT_R_32F; }
static int compute(dinov_dtype real) { return real == DINOV_F32 ? LT_COMPUTE_32F_PEDANTIC : LT_COMPUTE_32F; }
static int result_element(dinov_dtype real, bool residual) { return residual ? LT_R_32F : element(real); }

dinov_cublaslt *dinov_cublaslt_open(const char *library, dinov_dtype real)
{
    static const char *const usual[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    for (int i = 0; i < (library ? 1 : 2); i++) {
        const char *const names[] = {library ? library : usual[i], NULL};
        void             *found[SYMBOLS];
        dinov_cublaslt   *lt = dinov_calloc(1, sizeof *lt);
        if (!lt) return NULL;
        lt->real    = real;
        lt->library = dinov_library_open(names, symbols, found, SYMBOLS);
        if (lt->library) {
            memcpy(&lt->f, found, sizeof found);
            if (lt->f.create(&lt->handle) == LT_SUCCESS) return lt; /* it refuses drivers older than itself */
            lt->handle = NULL;
        }
        dinov_cublaslt_close(&lt);
    }
    return NULL;
}

void dinov_cublaslt_close(dinov_cublaslt **lt)
{
    if (!*lt) return;
    if ((*lt)->handle) (*lt)->f.destroy((*lt)->handle);
    dinov_library_close((*lt)->library);
    dinov_free(*lt);
    *lt = NULL;
}

size_t dinov_cublaslt_version(const dinov_cublaslt *lt) { return lt->f.version(); }

static int set_rows(dinov_cublaslt *lt, void *layout, int64_t rows, int64_t ld)
{
    uint64_t cols   = (uint64_t)rows;
    int      status = lt->f.layout_set(layout, LT_LAYOUT_COLS, &cols, sizeof cols);
    return status ? status : lt->f.layout_set(layout, LT_LAYOUT_LD, &ld, sizeof ld);
}

void dinov_lt_product_free(dinov_cublaslt *lt, dinov_lt_product **product)
{
    dinov_lt_product *p = *product;
    if (!p) return;
    if (p->desc) lt->f.desc_destroy(p->desc);
    if (p->a) lt->f.layout_destroy(p->a);
    if (p->b) lt->f.layout_destroy(p->b);
    if (p->c) lt->f.layout_destroy(p->c);
    if (p->d) lt->f.layout_destroy(p->d);
    dinov_free(p);
    *product = NULL;
}

/* A product without an algorithm. */
static dinov_lt_product *describe(dinov_cublaslt *lt, int64_t n, int64_t k, bool residual)
{
    const struct functions *f = &lt->f;
    dinov_lt_product       *p = dinov_calloc(1, sizeof *p);
    if (!p) return NULL;
    int32_t     transposed = LT_OP_T;
    uint32_t    epilogue   = LT_EPILOGUE_BIAS;
    const void *aligned    = (const void *)256; /* not read: how a bias is aligned matters to the heuristic */
    int         in = element(lt->real), out = result_element(lt->real, residual);

    p->ldx      = dinov_cuda_stride(k);
    p->ldy      = dinov_cuda_stride(n);
    p->residual = residual;
    if (f->desc_create(&p->desc, compute(lt->real), LT_R_32F) || f->desc_set(p->desc, LT_DESC_TRANSA, &transposed, sizeof transposed) ||
        f->desc_set(p->desc, LT_DESC_EPILOGUE, &epilogue, sizeof epilogue) ||
        f->desc_set(p->desc, LT_DESC_BIAS_POINTER, &aligned, sizeof aligned) ||
        f->layout_create(&p->a, in, (uint64_t)k, (uint64_t)n, p->ldx) ||
        f->layout_create(&p->b, in, (uint64_t)k, CANONICAL_M, p->ldx) ||
        f->layout_create(&p->c, out, (uint64_t)n, CANONICAL_M, p->ldy) ||
        f->layout_create(&p->d, out, (uint64_t)n, CANONICAL_M, p->ldy))
        dinov_lt_product_free(lt, &p);
    return p;
}

static bool config_is(dinov_cublaslt *lt, const dinov_lt_algo *algo, int attribute, int32_t most)
{
    int32_t value = -1;
    size_t  written;
    return !lt->f.config_get(algo, attribute, &value, sizeof value, &written) && value >= 0 && value <= most;
}

/* What the top of cublaslt.h says. */
static bool may_take(dinov_cublaslt *lt, dinov_lt_product *p, const dinov_lt_algo *algo)
{
    uint64_t how;
    size_t   written;
    if (!config_is(lt, algo, LT_CONFIG_SPLITK_NUM, 1) || !config_is(lt, algo, LT_CONFIG_REDUCTION_SCHEME, LT_REDUCTION_SCHEME_NONE))
        return false;
    if (lt->f.cap_get(algo, LT_CAP_NUMERICAL_IMPL_FLAGS, &how, sizeof how, &written)) return false;
    if (how & LT_IMPL_ACCUMULATOR_16F) return false;
    if (lt->real == DINOV_F32 && (how & (LT_IMPL_TENSOR_OP_MASK | LT_IMPL_INPUT_TF32))) return false;
    for (size_t i = 0; i < sizeof every_m / sizeof *every_m; i++) {
        dinov_lt_result result = {.workspace = 1};
        if (set_rows(lt, p->b, every_m[i], p->ldx) || set_rows(lt, p->c, every_m[i], p->ldy) ||
            set_rows(lt, p->d, every_m[i], p->ldy) ||
            lt->f.algo_check(lt->handle, p->desc, p->a, p->b, p->c, p->d, algo, &result) || result.workspace)
            return false;
    }
    return true;
}

/* What it names, best guess first; returns how many. `invariant`: only what the library calls batch-invariant. */
static int heuristic(dinov_cublaslt *lt, dinov_lt_product *p, bool invariant, dinov_lt_result results[DINOV_LT_CANDIDATES])
{
    const struct functions *f         = &lt->f;
    void                   *pref      = NULL;
    uint64_t                workspace = 0;
    uint32_t                none = LT_REDUCTION_SCHEME_NONE, alignment = 16;
    int32_t                 on = LT_BATCH_INVARIANCE_ALIGN_16B, unset = LT_BATCH_INVARIANCE_UNSET;
    int                     count = 0, good = 0;

    if (invariant && f->desc_set(p->desc, LT_DESC_BATCH_INVARIANCE_FLAGS, &on, sizeof on)) return 0;
    bool fine = !f->pref_create(&pref) && !f->pref_set(pref, LT_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace) &&
                !f->pref_set(pref, LT_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none);
    for (int i = LT_PREF_MIN_ALIGNMENT_A_BYTES; fine && i <= LT_PREF_MIN_ALIGNMENT_D_BYTES; i++)
        fine = !f->pref_set(pref, i, &alignment, sizeof alignment);
    fine = fine && set_rows(lt, p->b, CANONICAL_M, p->ldx) == 0 && set_rows(lt, p->c, CANONICAL_M, p->ldy) == 0 &&
           set_rows(lt, p->d, CANONICAL_M, p->ldy) == 0 &&
           !f->heuristic(lt->handle, p->desc, p->a, p->b, p->c, p->d, pref, DINOV_LT_CANDIDATES, results, &count);
    if (pref) f->pref_destroy(pref);
    if (invariant && f->desc_set(p->desc, LT_DESC_BATCH_INVARIANCE_FLAGS, &unset, sizeof unset)) fine = false;
    for (int i = 0; fine && i < count; i++)
        if (results[i].status == LT_SUCCESS && may_take(lt, p, &results[i].algo)) results[good++] = results[i];
    return good;
}

/* What may be taken. */
static int search(dinov_cublaslt *lt, dinov_lt_product *p, dinov_lt_result results[DINOV_LT_CANDIDATES])
{
    int count = heuristic(lt, p, true, results);
    return count ? count : heuristic(lt, p, false, results);
}

static bool set_number(dinov_cublaslt *lt, dinov_lt_algo *algo, int attribute, int32_t value, size_t size)
{
    uint16_t    half  = (uint16_t)value;
    const void *bytes = &value;
    if (size == sizeof half) bytes = &half;
    return !value || !lt->f.config_set(algo, attribute, bytes, size); /* 0 is what AlgoInit leaves */
}

static bool make_again(dinov_cublaslt *lt, dinov_lt_algo *algo, bool residual, const dinov_lt_config *c)
{
    int in = element(lt->real), out = result_element(lt->real, residual);
    return !lt->f.algo_init(lt->handle, compute(lt->real), LT_R_32F, in, in, out, out, c->id, algo) &&
           set_number(lt, algo, LT_CONFIG_TILE_ID, c->tile, sizeof(uint32_t)) &&
           set_number(lt, algo, LT_CONFIG_STAGES_ID, c->stages, sizeof(uint32_t)) &&
           set_number(lt, algo, LT_CONFIG_CTA_SWIZZLING, c->swizzle, sizeof(uint32_t)) &&
           set_number(lt, algo, LT_CONFIG_CUSTOM_OPTION, c->custom, sizeof(uint32_t)) &&
           set_number(lt, algo, LT_CONFIG_INNER_SHAPE_ID, c->inner, sizeof(uint16_t)) &&
           set_number(lt, algo, LT_CONFIG_CLUSTER_SHAPE_ID, c->cluster, sizeof(uint16_t));
}

static bool in_numbers(dinov_cublaslt *lt, const dinov_lt_algo *algo, dinov_lt_config *c)
{
    const struct functions *f = &lt->f;
    size_t                  written;
    uint16_t                inner, cluster;
    if (f->config_get(algo, LT_CONFIG_ID, &c->id, sizeof c->id, &written) ||
        f->config_get(algo, LT_CONFIG_TILE_ID, &c->tile, sizeof c->tile, &written) ||
        f->config_get(algo, LT_CONFIG_STAGES_ID, &c->stages, sizeof c->stages, &written) ||
        f->config_get(algo, LT_CONFIG_CTA_SWIZZLING, &c->swizzle, sizeof c->swizzle, &written) ||
        f->config_get(algo, LT_CONFIG_CUSTOM_OPTION, &c->custom, sizeof c->custom, &written) ||
        f->config_get(algo, LT_CONFIG_INNER_SHAPE_ID, &inner, sizeof inner, &written) ||
        f->config_get(algo, LT_CONFIG_CLUSTER_SHAPE_ID, &cluster, sizeof cluster, &written))
        return false;
    c->inner   = inner;
    c->cluster = cluster;
    return true;
}

dinov_lt_product *dinov_lt_product_new(dinov_cublaslt *lt, int64_t n, int64_t k, bool residual, const dinov_lt_config *config)
{
    dinov_lt_result   results[DINOV_LT_CANDIDATES];
    dinov_lt_product *p = describe(lt, n, k, residual);
    if (!p) return NULL;
    bool found = config ? make_again(lt, &results[0].algo, residual, config) && may_take(lt, p, &results[0].algo)
                        : search(lt, p, results) > 0;
    if (found)
        p->algo = results[0].algo;
    else
        dinov_lt_product_free(lt, &p);
    return p;
}

int dinov_lt_candidates(dinov_cublaslt *lt, int64_t n, int64_t k, bool residual, dinov_lt_config out[DINOV_LT_CANDIDATES])
{
    dinov_lt_result   results[DINOV_LT_CANDIDATES];
    int               count = 0;
    dinov_lt_product *p     = describe(lt, n, k, residual);
    if (!p) return 0;
    int found = search(lt, p, results);
    for (int i = 0; i < found; i++) {
        dinov_lt_algo    again;
        dinov_lt_config *c     = &out[count];
        bool             fresh = in_numbers(lt, &results[i].algo, c) && make_again(lt, &again, residual, c) && may_take(lt, p, &again);
        for (int j = 0; j < count; j++) fresh = fresh && memcmp(&out[j], c, sizeof *c);
        if (fresh) count++;
    }
    dinov_lt_product_free(lt, &p);
    return count;
}

int dinov_lt_product_run(dinov_cublaslt *lt, dinov_lt_product *p, void *stream, dinov_mat *y, const dinov_mat *x,
                         const void *weight, const void *bias, const dinov_mat *residual)
{
    const float      one = 1, beta = p->residual ? 1 : 0;
    const dinov_mat *c      = p->residual ? residual : y;
    int              status = lt->f.desc_set(p->desc, LT_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (!status) status = set_rows(lt, p->b, x->rows, x->ld);
    if (!status) status = set_rows(lt, p->c, y->rows, c->ld);
    if (!status) status = set_rows(lt, p->d, y->rows, y->ld);
    if (status) return status;
    return lt->f.matmul(lt->handle, p->desc, &one, weight, p->a, x->data, p->b, &beta, c->data, p->c, y->data, p->d, &p->algo, NULL,
                        0, stream);
}
