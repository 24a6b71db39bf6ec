/* SPDX-License-Identifier: Apache-2.0
 *
 * Products by cuBLASLt, opened at run time. The names and numbers of its interface that we use are written down here, so that
 * building needs no header of it; tests/kernels/plans.c compares them with its header where that is installed.
 *
 * A product is y = x W^T + bias (+ residual), one for each (n, k, residual), with one algorithm for every number of rows M.
 * An algorithm is taken only if
 *   - it sums every element in one place: no split of k, no reduction scheme, and no workspace that parts could lie in;
 *   - it does not accumulate in 16 bits, and for float inputs uses no tensor cores, which would round them to TF32;
 *   - the library accepts it for M = 1, 8, 257, 8192 and 65536.
 * So what it computes for a row should not depend on the rows beside it; that it does not is for a test on the device to show.
 * Where the library can be asked for algorithms that it calls batch-invariant itself (an experimental attribute), those come first.
 *
 * Its GELU epilogue is the tanh form and is not used. The bias of its epilogue has the type of y, hence the 16-bit copy.
 */
#ifndef DINOV_KERNELS_CUDA_CUBLASLT_H
#define DINOV_KERNELS_CUDA_CUBLASLT_H

#include "kernels/ops.h"

enum dinov_lt_number {
    LT_SUCCESS         = 0,
    LT_NOT_INITIALIZED = 1,
    LT_ALLOC_FAILED    = 3,
    LT_INVALID_VALUE   = 7,
    LT_NOT_SUPPORTED   = 15,

    LT_R_32F  = 0, /* element types */
    LT_R_16F  = 2,
    LT_R_16BF = 14,

    LT_COMPUTE_32F          = 68,
    LT_COMPUTE_32F_PEDANTIC = 69, /* no TF32, no emulation, whatever the environment says */

    LT_OP_T = 1,

    LT_DESC_TRANSA                 = 3,  /* int32 */
    LT_DESC_EPILOGUE               = 7,  /* uint32 */
    LT_DESC_BIAS_POINTER           = 8,  /* const void * */
    LT_DESC_BATCH_INVARIANCE_FLAGS = 41, /* int32; only newer libraries know it */
    LT_BATCH_INVARIANCE_ALIGN_16B  = 4,
    LT_BATCH_INVARIANCE_UNSET      = 0x8000,
    LT_EPILOGUE_BIAS               = 4,

    LT_LAYOUT_COLS = 3, /* uint64 */
    LT_LAYOUT_LD   = 4, /* int64 */

    LT_PREF_MAX_WORKSPACE_BYTES   = 1, /* uint64 */
    LT_PREF_REDUCTION_SCHEME_MASK = 3, /* uint32 */
    LT_PREF_MIN_ALIGNMENT_A_BYTES = 5, /* uint32; B, C, D follow */
    LT_PREF_MIN_ALIGNMENT_D_BYTES = 8,
    LT_REDUCTION_SCHEME_NONE      = 0,

    LT_CONFIG_ID               = 0, /* int32; set by AlgoInit */
    LT_CONFIG_TILE_ID          = 1, /* uint32 */
    LT_CONFIG_SPLITK_NUM       = 2, /* int32 */
    LT_CONFIG_REDUCTION_SCHEME = 3, /* uint32 */
    LT_CONFIG_CTA_SWIZZLING    = 4, /* uint32 */
    LT_CONFIG_CUSTOM_OPTION    = 5, /* uint32 */
    LT_CONFIG_STAGES_ID        = 6, /* uint32 */
    LT_CONFIG_INNER_SHAPE_ID   = 7, /* uint16 */
    LT_CONFIG_CLUSTER_SHAPE_ID = 8, /* uint16 */

    LT_CAP_NUMERICAL_IMPL_FLAGS = 15, /* uint64 of: */
    LT_IMPL_TENSOR_OP_MASK      = 0xfe,
    LT_IMPL_ACCUMULATOR_16F     = 0x100,
    LT_IMPL_INPUT_TF32          = 0x40000,
};

typedef struct dinov_lt_algo {
    uint64_t data[8];
} dinov_lt_algo;

typedef struct dinov_lt_result {
    dinov_lt_algo algo;
    size_t        workspace;
    int           status;
    float         waves;
    int           reserved[4];
} dinov_lt_result;

/* An algorithm in numbers that it can be made again from. */
typedef struct dinov_lt_config {
    int32_t id, tile, stages, swizzle, custom, inner, cluster;
} dinov_lt_config;

typedef struct dinov_cublaslt   dinov_cublaslt;   /* one thread at a time */
typedef struct dinov_lt_product dinov_lt_product;

enum { DINOV_LT_CANDIDATES = 16 };

/* For the calling thread's device, which is current in every later call. NULL: there is no such library, or no memory.
 * `library`: its file, or NULL for the usual names. */
dinov_cublaslt *dinov_cublaslt_open(const char *library, dinov_dtype real);
void            dinov_cublaslt_close(dinov_cublaslt **lt); /* after its products */
size_t          dinov_cublaslt_version(const dinov_cublaslt *lt); /* 130100 */

/* With that algorithm, or with NULL the first that its heuristic names for M = 8192 and that may be taken. NULL: none. */
dinov_lt_product *dinov_lt_product_new(dinov_cublaslt *lt, int64_t n, int64_t k, bool residual, const dinov_lt_config *config);
void              dinov_lt_product_free(dinov_cublaslt *lt, dinov_lt_product **product);

/* All that the heuristic names for M = 8192 and that may be taken, best guess first; returns how many. */
int dinov_lt_candidates(dinov_cublaslt *lt, int64_t n, int64_t k, bool residual, dinov_lt_config out[DINOV_LT_CANDIDATES]);

/* Issues it on `stream` (cudaStream_t). bias [n] has y's type; everything is aligned to 16 bytes, rows too. Returns LT_SUCCESS or
 * the library's status. */
int dinov_lt_product_run(dinov_cublaslt *lt, dinov_lt_product *product, void *stream, dinov_mat *y, const dinov_mat *x,
                         const void *weight, const void *bias, const dinov_mat *residual);

#endif
