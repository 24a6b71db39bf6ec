/* SPDX-License-Identifier: Apache-2.0
 *
 * A library with what we call of cuBLASLt, for tests without a GPU: it multiplies in the process's memory as the interface is
 * documented, and refuses what its mode says. An enumerator's value stands where the product's files have a name for it.
 */
#include "base/dtype.h"
#include "kernels/cuda/cublaslt.h"
#include "tests/kernels/fake_cublaslt.h"

#include <stdlib.h>
#include <string.h>

#pragma GCC visibility push(default)

struct fake_cublaslt fake_cublaslt;

struct algo {
    int32_t  id, tile, split, scheme, swizzle, custom, stages;
    uint16_t inner, cluster;
};
struct desc {
    int         compute, scale, transa, invariance;
    uint32_t    epilogue;
    const void *bias;
};
struct layout {
    int      type;
    uint64_t rows, cols;
    int64_t  ld;
};
struct pref {
    uint64_t workspace;
    uint32_t scheme, alignment[4];
};

static int make(void **out, const void *value, size_t size)
{
    *out = malloc(size);
    if (!*out) return LT_ALLOC_FAILED;
    memcpy(*out, value, size);
    fake_cublaslt.alive++;
    return LT_SUCCESS;
}

static int drop(void *p)
{
    free(p);
    fake_cublaslt.alive--;
    return LT_SUCCESS;
}

static int put(void *place, size_t place_size, const void *value, size_t size)
{
    if (size != place_size) return LT_INVALID_VALUE;
    memcpy(place, value, size);
    return LT_SUCCESS;
}
#define PUT(place) put(&(place), sizeof(place), value, size)

int cublasLtCreate(void **handle) { return fake_cublaslt.mode == FAKE_NO_DEVICE ? LT_NOT_INITIALIZED : make(handle, "", 1); }
int cublasLtDestroy(void *handle) { return drop(handle); }
size_t cublasLtGetVersion(void) { return 130100; }

int cublasLtMatmulDescCreate(void **desc, int compute, int scale)
{
    return make(desc, &(struct desc){compute, scale, 0, LT_BATCH_INVARIANCE_UNSET, 1, NULL}, sizeof(struct desc));
}
int cublasLtMatmulDescDestroy(void *desc) { return drop(desc); }
int cublasLtMatmulDescSetAttribute(void *desc, int attribute, const void *value, size_t size)
{
    struct desc *d = desc;
    switch (attribute) {
    case LT_DESC_TRANSA: return PUT(d->transa);
    case LT_DESC_EPILOGUE: return PUT(d->epilogue);
    case LT_DESC_BIAS_POINTER: return PUT(d->bias);
    case LT_DESC_BATCH_INVARIANCE_FLAGS: return fake_cublaslt.mode == FAKE_OLDER ? LT_INVALID_VALUE : PUT(d->invariance);
    default: return LT_INVALID_VALUE;
    }
}

int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    return make(layout, &(struct layout){type, rows, cols, ld}, sizeof(struct layout));
}
int cublasLtMatrixLayoutDestroy(void *layout) { return drop(layout); }
int cublasLtMatrixLayoutSetAttribute(void *layout, int attribute, const void *value, size_t size)
{
    struct layout *l = layout;
    switch (attribute) {
    case LT_LAYOUT_COLS: return PUT(l->cols);
    case LT_LAYOUT_LD: return PUT(l->ld);
    default: return LT_INVALID_VALUE;
    }
}

int cublasLtMatmulPreferenceCreate(void **pref)
{
    return make(pref, &(struct pref){.scheme = 7, .alignment = {256, 256, 256, 256}}, sizeof(struct pref));
}
int cublasLtMatmulPreferenceDestroy(void *pref) { return drop(pref); }
int cublasLtMatmulPreferenceSetAttribute(void *pref, int attribute, const void *value, size_t size)
{
    struct pref *p = pref;
    switch (attribute) {
    case LT_PREF_MAX_WORKSPACE_BYTES: return PUT(p->workspace);
    case LT_PREF_REDUCTION_SCHEME_MASK: return PUT(p->scheme);
    case LT_PREF_MIN_ALIGNMENT_A_BYTES:
    case LT_PREF_MIN_ALIGNMENT_A_BYTES + 1:
    case LT_PREF_MIN_ALIGNMENT_A_BYTES + 2:
    case LT_PREF_MIN_ALIGNMENT_D_BYTES: return PUT(p->alignment[attribute - LT_PREF_MIN_ALIGNMENT_A_BYTES]);
    default: return LT_INVALID_VALUE;
    }
}

/* The first two are none that may be taken: one splits k, one needs a workspace. */
static const struct algo named[] = {{.id = 7, .tile = 1, .split = 4},
                                    {.id = 8, .tile = 2, .split = 1},
                                    {FAKE_FIRST, 20, 1, 0, 1, 3, 36, 5, 4},
                                    {FAKE_SECOND, 15, 0, 0, 0, 0, 12, 0, 0}};

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref, int most,
                                          dinov_lt_result *results, int *count)
{
    const struct desc *e = desc;
    const struct pref *p = pref;
    (void)handle, (void)a, (void)b, (void)c, (void)d;
    *count = 0;
    if (p->workspace || p->scheme || p->alignment[0] != 16 || p->alignment[3] != 16 || !e->bias) return LT_NOT_SUPPORTED;
    if (fake_cublaslt.mode == FAKE_NOT_INVARIANT && e->invariance == LT_BATCH_INVARIANCE_ALIGN_16B) return LT_NOT_SUPPORTED;
    for (; *count < 4 && *count < most; ++*count) {
        results[*count] = (dinov_lt_result){.status = LT_SUCCESS};
        memcpy(&results[*count].algo, &named[*count], sizeof *named);
    }
    return LT_SUCCESS;
}

int cublasLtMatmulAlgoInit(void *handle, int compute, int scale, int a, int b, int c, int d, int id, dinov_lt_algo *algo)
{
    struct algo own = {.id = id, .split = 1};
    (void)handle, (void)compute, (void)scale;
    if (a != b || c != d) return LT_NOT_SUPPORTED;
    memset(algo, 0, sizeof *algo);
    memcpy(algo, &own, sizeof own);
    return id == FAKE_FIRST || id == FAKE_SECOND ? LT_SUCCESS : LT_NOT_SUPPORTED;
}

int cublasLtMatmulAlgoCheck(void *handle, void *desc, void *a, void *b, void *c, void *d, const dinov_lt_algo *algo,
                                   dinov_lt_result *result)
{
    const struct algo   *g = (const void *)algo;
    const struct layout *w = a, *x = b, *in = c, *out = d;
    (void)handle, (void)desc;
    if (w->rows != x->rows || out->rows != w->cols || out->cols != x->cols || in->cols != x->cols) return LT_INVALID_VALUE;
    if (fake_cublaslt.mode == FAKE_NOT_LARGE && x->cols == 65536) return LT_NOT_SUPPORTED;
    if (fake_cublaslt.mode == FAKE_FIRST_NOT_8 && x->cols == 8 && g->id == FAKE_FIRST) return LT_NOT_SUPPORTED;
    result->workspace = g->id == 8 ? 1 << 20 : 0;
    return LT_SUCCESS;
}

static int number(const struct algo *algo, int attribute, void **place, size_t *size)
{
    struct algo *g = (struct algo *)(uintptr_t)algo;
    *size          = 4;
    switch (attribute) {
    case LT_CONFIG_ID: *place = &g->id; break;
    case LT_CONFIG_TILE_ID: *place = &g->tile; break;
    case LT_CONFIG_SPLITK_NUM: *place = &g->split; break;
    case LT_CONFIG_REDUCTION_SCHEME: *place = &g->scheme; break;
    case LT_CONFIG_CTA_SWIZZLING: *place = &g->swizzle; break;
    case LT_CONFIG_CUSTOM_OPTION: *place = &g->custom; break;
    case LT_CONFIG_STAGES_ID: *place = &g->stages; break;
    case LT_CONFIG_INNER_SHAPE_ID: *place = &g->inner, *size = 2; break;
    case LT_CONFIG_CLUSTER_SHAPE_ID: *place = &g->cluster, *size = 2; break;
    default: return LT_INVALID_VALUE;
    }
    return LT_SUCCESS;
}

int cublasLtMatmulAlgoConfigSetAttribute(dinov_lt_algo *algo, int attribute, const void *value, size_t size)
{
    void  *place;
    size_t wanted;
    if (attribute == LT_CONFIG_ID || number((const void *)algo, attribute, &place, &wanted)) return LT_INVALID_VALUE;
    return put(place, wanted, value, size);
}

int cublasLtMatmulAlgoConfigGetAttribute(const dinov_lt_algo *algo, int attribute, void *value, size_t size, size_t *written)
{
    void  *place;
    size_t wanted;
    if (number((const void *)algo, attribute, &place, &wanted) || size != wanted) return LT_INVALID_VALUE;
    memcpy(value, place, *written = size);
    return LT_SUCCESS;
}

int cublasLtMatmulAlgoCapGetAttribute(const dinov_lt_algo *algo, int attribute, void *value, size_t size, size_t *written)
{
    uint64_t how = 0x200; /* sums in float */
    (void)algo;
    if (attribute != LT_CAP_NUMERICAL_IMPL_FLAGS || size != sizeof how) return LT_INVALID_VALUE;
    if (fake_cublaslt.mode == FAKE_TF32) how |= 2 | LT_IMPL_INPUT_TF32;
    if (fake_cublaslt.mode == FAKE_SHORT_SUMS) how = 2 | LT_IMPL_ACCUMULATOR_16F;
    memcpy(value, &how, *written = size);
    return LT_SUCCESS;
}

static double load(const void *data, int type, int64_t at)
{
    switch (type) {
    case LT_R_32F: return (double)((const float *)data)[at];
    case LT_R_16F: return (double)dinov_le_f16((const uint8_t *)data + 2 * at);
    default: return (double)dinov_le_bf16((const uint8_t *)data + 2 * at);
    }
}

static void store(void *data, int type, int64_t at, double v)
{
    float f = (float)v;
    switch (type) {
    case LT_R_32F: ((float *)data)[at] = f; break;
    case LT_R_16F: ((uint16_t *)data)[at] = dinov_f16_of(f); break;
    default: ((uint16_t *)data)[at] = dinov_bf16_of(f);
    }
}

int cublasLtMatmul(void *handle, void *desc, const void *alpha, const void *a_data, void *a, const void *b_data, void *b,
                          const void *beta, const void *c_data, void *c, void *d_data, void *d, const dinov_lt_algo *algo,
                          void *workspace, size_t workspace_size, void *stream)
{
    const struct desc   *e = desc;
    const struct layout *w = a, *x = b, *in = c, *out = d;
    (void)handle, (void)stream;
    fake_cublaslt.calls++;
    memcpy(&fake_cublaslt.id, algo, sizeof fake_cublaslt.id);
    fake_cublaslt.exact = !memcmp(algo, &named[2], sizeof *named);
    if (fake_cublaslt.mode == FAKE_REFUSES) return LT_NOT_SUPPORTED;
    if (fake_cublaslt.mode == FAKE_NO_MEMORY) return LT_ALLOC_FAILED;
    if (workspace || workspace_size || e->invariance != LT_BATCH_INVARIANCE_UNSET || e->scale != LT_R_32F ||
        e->transa != LT_OP_T || e->epilogue != LT_EPILOGUE_BIAS ||
        w->type != x->type || in->type != out->type || w->rows != x->rows || out->rows != w->cols || out->cols != x->cols ||
        in->cols != x->cols || in->rows != out->rows || (w->type == LT_R_32F) != (e->compute == LT_COMPUTE_32F_PEDANTIC))
        return LT_INVALID_VALUE;
    for (int64_t j = 0; j < (int64_t)out->cols; j++)
        for (int64_t i = 0; i < (int64_t)out->rows; i++) {
            double sum = 0, was = (double)*(const float *)beta;
            for (int64_t l = 0; l < (int64_t)w->rows; l++)
                sum += load(a_data, w->type, i * w->ld + l) * load(b_data, x->type, j * x->ld + l);
            sum *= (double)*(const float *)alpha;
            if (was != 0) sum += was * load(c_data, in->type, j * in->ld + i);
            store(d_data, out->type, j * out->ld + i, sum + load(e->bias, out->type, i)); /* a bias has the result's type */
        }
    return LT_SUCCESS;
}
