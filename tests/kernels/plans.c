/* SPDX-License-Identifier: Apache-2.0
 *
 * What can be known of cuDNN, cuBLASLt and nvJPEG without a GPU: that our numbers are those of their headers, where these are
 * installed when this is compiled; that cuBLASLt knows the attributes we set, in their sizes; that nvJPEG has the functions we call;
 * and that cuDNN takes our attention for the devices and shapes we mean, compiling its kernels.
 *
 *   plans DRIVER [CUDNN [OTHERS]]    DRIVER: fake_driver.c as a library; the folders that libcudnn.so.9 and
 *                                    the two others lie in, else the loader's usual ones
 *
 * Exits 77 where there is no cuDNN. Compiled with the files of kernels/cuda it tests, beside stand-ins for the rest of that folder.
 */
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/nvjpeg.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The headers ---- */

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours " is " #theirs)

/* That a call with such arguments is one of theirs; it is not made. */
#define CALL(call) (void)sizeof(call)

#if __has_include(<cublasLt.h>) && __has_include(<cuda_runtime_api.h>)
#include <cublasLt.h>
#define HAS_CUBLASLT 1
SAME(LT_SUCCESS, CUBLAS_STATUS_SUCCESS);
SAME(LT_NOT_INITIALIZED, CUBLAS_STATUS_NOT_INITIALIZED);
SAME(LT_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED);
SAME(LT_INVALID_VALUE, CUBLAS_STATUS_INVALID_VALUE);
SAME(LT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(LT_R_32F, CUDA_R_32F);
SAME(LT_R_16F, CUDA_R_16F);
SAME(LT_R_16BF, CUDA_R_16BF);
SAME(LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(LT_COMPUTE_32F_PEDANTIC, CUBLAS_COMPUTE_32F_PEDANTIC);
SAME(LT_OP_T, CUBLAS_OP_T);
SAME(LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(LT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(LT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(LT_LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_COLS);
SAME(LT_LAYOUT_LD, CUBLASLT_MATRIX_LAYOUT_LD);
SAME(LT_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(LT_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(LT_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(LT_PREF_MIN_ALIGNMENT_A_BYTES + 1, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(LT_PREF_MIN_ALIGNMENT_A_BYTES + 2, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(LT_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(LT_REDUCTION_SCHEME_NONE, CUBLASLT_REDUCTION_SCHEME_NONE);
SAME(LT_CONFIG_ID, CUBLASLT_ALGO_CONFIG_ID);
SAME(LT_CONFIG_TILE_ID, CUBLASLT_ALGO_CONFIG_TILE_ID);
SAME(LT_CONFIG_SPLITK_NUM, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
SAME(LT_CONFIG_REDUCTION_SCHEME, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
SAME(LT_CONFIG_CTA_SWIZZLING, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING);
SAME(LT_CONFIG_CUSTOM_OPTION, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION);
SAME(LT_CONFIG_STAGES_ID, CUBLASLT_ALGO_CONFIG_STAGES_ID);
SAME(LT_CONFIG_INNER_SHAPE_ID, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID);
SAME(LT_CONFIG_CLUSTER_SHAPE_ID, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);
SAME(LT_CAP_NUMERICAL_IMPL_FLAGS, CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS);
SAME(LT_IMPL_TENSOR_OP_MASK, CUBLASLT_NUMERICAL_IMPL_FLAGS_TENSOR_OP_MASK);
SAME(LT_IMPL_ACCUMULATOR_16F, CUBLASLT_NUMERICAL_IMPL_FLAGS_ACCUMULATOR_16F);
SAME(LT_IMPL_INPUT_TF32, CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_TF32);
SAME(sizeof(dinov_lt_algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(dinov_lt_result), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(dinov_lt_result, algo), offsetof(cublasLtMatmulHeuristicResult_t, algo));
SAME(offsetof(dinov_lt_result, workspace), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(dinov_lt_result, status), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(offsetof(dinov_lt_result, waves), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));
/* 13.10 has it; an older header may lack it. */
#if CUBLAS_VER_MAJOR * 100 + CUBLAS_VER_MINOR >= 1310
SAME(LT_DESC_BATCH_INVARIANCE_FLAGS, CUBLASLT_MATMUL_DESC_BATCH_INVARIANCE_FLAGS);
SAME(LT_BATCH_INVARIANCE_ALIGN_16B, CUBLASLT_BATCH_INVARIANCE_ALIGN_16B);
SAME(LT_BATCH_INVARIANCE_UNSET, CUBLASLT_BATCH_INVARIANCE_UNSET);
#endif

static inline void calls_of_cublaslt(void *p, const void *q, int i, uint64_t u, int64_t l, size_t z, size_t *w, int *n, void **h,
                                     cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result)
{
    CALL(cublasLtCreate((cublasLtHandle_t *)h));
    CALL(cublasLtDestroy(p));
    CALL(w[0] = cublasLtGetVersion());
    CALL(cublasLtMatmulDescCreate((cublasLtMatmulDesc_t *)h, i, i));
    CALL(cublasLtMatmulDescDestroy(p));
    CALL(cublasLtMatmulDescSetAttribute(p, i, q, z));
    CALL(cublasLtMatrixLayoutCreate((cublasLtMatrixLayout_t *)h, i, u, u, l));
    CALL(cublasLtMatrixLayoutDestroy(p));
    CALL(cublasLtMatrixLayoutSetAttribute(p, i, q, z));
    CALL(cublasLtMatmulPreferenceCreate((cublasLtMatmulPreference_t *)h));
    CALL(cublasLtMatmulPreferenceDestroy(p));
    CALL(cublasLtMatmulPreferenceSetAttribute(p, i, q, z));
    CALL(cublasLtMatmulAlgoGetHeuristic(p, p, p, p, p, p, p, i, result, n));
    CALL(cublasLtMatmulAlgoInit(p, i, i, i, i, i, i, i, algo));
    CALL(cublasLtMatmulAlgoCheck(p, p, p, p, p, p, algo, result));
    CALL(cublasLtMatmulAlgoConfigSetAttribute(algo, i, q, z));
    CALL(cublasLtMatmulAlgoConfigGetAttribute(algo, i, p, z, w));
    CALL(cublasLtMatmulAlgoCapGetAttribute(algo, i, p, z, w));
    CALL(cublasLtMatmul(p, p, q, q, p, q, p, q, q, p, p, p, algo, p, z, p));
}
#else
#define HAS_CUBLASLT 0
#endif

#if __has_include(<nvjpeg.h>) && __has_include(<cuda_runtime_api.h>)
#include <nvjpeg.h>
#define HAS_NVJPEG 1
SAME(NJ_SUCCESS, NVJPEG_STATUS_SUCCESS);
SAME(NJ_INVALID_PARAMETER, NVJPEG_STATUS_INVALID_PARAMETER);
SAME(NJ_BAD_JPEG, NVJPEG_STATUS_BAD_JPEG);
SAME(NJ_JPEG_NOT_SUPPORTED, NVJPEG_STATUS_JPEG_NOT_SUPPORTED);
SAME(NJ_ALLOCATOR_FAILURE, NVJPEG_STATUS_ALLOCATOR_FAILURE);
SAME(NJ_EXECUTION_FAILED, NVJPEG_STATUS_EXECUTION_FAILED);
SAME(NJ_ARCH_MISMATCH, NVJPEG_STATUS_ARCH_MISMATCH);
SAME(NJ_INTERNAL_ERROR, NVJPEG_STATUS_INTERNAL_ERROR);
SAME(NJ_IMPLEMENTATION_NOT_SUPPORTED, NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED);
SAME(NJ_INCOMPLETE_BITSTREAM, NVJPEG_STATUS_INCOMPLETE_BITSTREAM);
SAME(NJ_BACKEND_HYBRID, NVJPEG_BACKEND_HYBRID);
SAME(NJ_OUTPUT_RGBI, NVJPEG_OUTPUT_RGBI);
SAME(NJ_FLAGS_BITSTREAM_STRICT, NVJPEG_FLAGS_BITSTREAM_STRICT);
SAME(NJ_FLAGS_UPSAMPLING_INTERPOLATED, NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION);
SAME(NJ_MAJOR_VERSION, MAJOR_VERSION);
SAME(NJ_MINOR_VERSION, MINOR_VERSION);
SAME(NJ_PATCH_LEVEL, PATCH_LEVEL);
SAME(sizeof(dinov_nj_image), sizeof(nvjpegImage_t));
SAME(offsetof(dinov_nj_image, pitch), offsetof(nvjpegImage_t, pitch));

static inline void calls_of_nvjpeg(void *p, void **h, const unsigned char *data, size_t z, int i, int *n, unsigned u, unsigned *w)
{
    CALL(nvjpegGetProperty(i, n));
    CALL(nvjpegCreateEx(i, p, p, u, (nvjpegHandle_t *)h));
    CALL(nvjpegDestroy(p));
    CALL(nvjpegDecoderCreate(p, i, (nvjpegJpegDecoder_t *)h));
    CALL(nvjpegDecoderDestroy(p));
    CALL(nvjpegDecoderStateCreate(p, p, (nvjpegJpegState_t *)h));
    CALL(nvjpegJpegStateDestroy(p));
    CALL(nvjpegBufferPinnedCreate(p, p, (nvjpegBufferPinned_t *)h));
    CALL(nvjpegBufferPinnedDestroy(p));
    CALL(nvjpegBufferDeviceCreate(p, p, (nvjpegBufferDevice_t *)h));
    CALL(nvjpegBufferDeviceDestroy(p));
    CALL(nvjpegStateAttachPinnedBuffer(p, p));
    CALL(nvjpegStateAttachDeviceBuffer(p, p));
    CALL(nvjpegJpegStreamCreate(p, (nvjpegJpegStream_t *)h));
    CALL(nvjpegJpegStreamDestroy(p));
    CALL(nvjpegJpegStreamParse(p, data, z, i, i, p));
    CALL(nvjpegJpegStreamGetFrameDimensions(p, w, w));
    CALL(nvjpegDecodeParamsCreate(p, (nvjpegDecodeParams_t *)h));
    CALL(nvjpegDecodeParamsDestroy(p));
    CALL(nvjpegDecodeParamsSetOutputFormat(p, i));
    CALL(nvjpegDecoderJpegSupported(p, p, p, n));
    CALL(nvjpegDecodeJpegHost(p, p, p, p, p));
    CALL(nvjpegDecodeJpegTransferToDevice(p, p, p, p, p));
    CALL(nvjpegDecodeJpegDevice(p, p, p, p, p));
}
#else
#define HAS_NVJPEG 0
#endif

#if __has_include(<cudnn_graph.h>) && __has_include(<cuda_runtime_api.h>)
#include <cudnn_graph.h>
#define HAS_CUDNN 1
SAME(DNN_SUCCESS, CUDNN_STATUS_SUCCESS);
SAME(DNN_DATA_FLOAT, CUDNN_DATA_FLOAT);
SAME(DNN_DATA_HALF, CUDNN_DATA_HALF);
SAME(DNN_DATA_BFLOAT16, CUDNN_DATA_BFLOAT16);
SAME(DNN_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
SAME(DNN_ENGINECFG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
SAME(DNN_ENGINEHEUR, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
SAME(DNN_PLAN, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
SAME(DNN_KNOB_CHOICE, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
SAME(DNN_OPERATIONGRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
SAME(DNN_VARIANT_PACK, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
SAME(DNN_TENSOR, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
SAME(DNN_DEVICEPROP, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
SAME(DNN_SDPA_FWD, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
SAME(DNN_TYPE_HANDLE, CUDNN_TYPE_HANDLE);
SAME(DNN_TYPE_DATA_TYPE, CUDNN_TYPE_DATA_TYPE);
SAME(DNN_TYPE_BOOLEAN, CUDNN_TYPE_BOOLEAN);
SAME(DNN_TYPE_INT64, CUDNN_TYPE_INT64);
SAME(DNN_TYPE_VOID_PTR, CUDNN_TYPE_VOID_PTR);
SAME(DNN_TYPE_HEUR_MODE, CUDNN_TYPE_HEUR_MODE);
SAME(DNN_TYPE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE);
SAME(DNN_TYPE_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR);
SAME(DNN_TYPE_CHAR, CUDNN_TYPE_CHAR);
SAME(DNN_HEUR_MODE_A, CUDNN_HEUR_MODE_A);
SAME(DNN_ENGINEHEUR_MODE, CUDNN_ATTR_ENGINEHEUR_MODE);
SAME(DNN_ENGINEHEUR_OPERATION_GRAPH, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
SAME(DNN_ENGINEHEUR_RESULTS, CUDNN_ATTR_ENGINEHEUR_RESULTS);
SAME(DNN_ENGINEHEUR_DEVICEPROP, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
SAME(DNN_ENGINECFG_ENGINE, CUDNN_ATTR_ENGINECFG_ENGINE);
SAME(DNN_ENGINECFG_KNOB_CHOICES, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES);
SAME(DNN_ENGINECFG_WORKSPACE_SIZE, CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE);
SAME(DNN_PLAN_HANDLE, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
SAME(DNN_PLAN_ENGINE_CONFIG, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
SAME(DNN_PLAN_WORKSPACE_SIZE, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
SAME(DNN_PLAN_DEVICEPROP, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP);
SAME(DNN_KNOB_CHOICE_TYPE, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE);
SAME(DNN_KNOB_CHOICE_VALUE, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE);
SAME(DNN_OPERATIONGRAPH_HANDLE, CUDNN_ATTR_OPERATIONGRAPH_HANDLE);
SAME(DNN_OPERATIONGRAPH_OPS, CUDNN_ATTR_OPERATIONGRAPH_OPS);
SAME(DNN_TENSOR_BYTE_ALIGNMENT, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
SAME(DNN_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DATA_TYPE);
SAME(DNN_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_DIMENSIONS);
SAME(DNN_TENSOR_STRIDES, CUDNN_ATTR_TENSOR_STRIDES);
SAME(DNN_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_UNIQUE_ID);
SAME(DNN_TENSOR_IS_BY_VALUE, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
SAME(DNN_VARIANT_PACK_UNIQUE_IDS, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
SAME(DNN_VARIANT_PACK_DATA_POINTERS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
SAME(DNN_VARIANT_PACK_WORKSPACE, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
SAME(DNN_ENGINE_OPERATION_GRAPH, CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
SAME(DNN_ENGINE_GLOBAL_INDEX, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
SAME(DNN_ENGINE_DEVICEPROP, CUDNN_ATTR_ENGINE_DEVICEPROP);
SAME(DNN_DEVICEPROP_JSON, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION);
SAME(DNN_SDPA_FWD_Q, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC);
SAME(DNN_SDPA_FWD_K, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC);
SAME(DNN_SDPA_FWD_V, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC);
SAME(DNN_SDPA_FWD_O, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC);
SAME(DNN_SDPA_FWD_SCALE, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC);

static inline void calls_of_cudnn(void *p, const void *q, int i, int64_t l, int64_t *n, void **h, char *text, size_t z)
{
    CALL(cudnnCreate((cudnnHandle_t *)h));
    CALL(cudnnDestroy(p));
    CALL(cudnnSetStream(p, p));
    CALL(z = cudnnGetVersion());
    CALL((cudnnGetLastErrorString(text, z), 0));
    CALL(cudnnBackendCreateDescriptor(i, h));
    CALL(cudnnBackendDestroyDescriptor(p));
    CALL(cudnnBackendFinalize(p));
    CALL(cudnnBackendSetAttribute(p, i, i, l, q));
    CALL(cudnnBackendGetAttribute(p, i, i, l, n, p));
    CALL(cudnnBackendExecute(p, p, p));
}
#else
#define HAS_CUDNN 0
#endif

/* ---- Stand-ins ---- */

void *dinov_queue_stream(dinov_queue *queue)
{
    (void)queue;
    return NULL;
}

dinov_dtype dinov_queue_real(const dinov_queue *queue)
{
    (void)queue;
    return DINOV_BF16;
}

void dinov_queue_failed(dinov_queue *queue, int error, const char *what)
{
    (void)queue;
    fprintf(stderr, "%s: %d\n", what, error);
    exit(1);
}

void dinov_cuda_pack(dinov_stream *s, void *packed, const float *weight, int64_t n, int64_t k, dinov_activation act, int64_t first,
                     int64_t count)
{
    (void)s, (void)packed, (void)weight, (void)n, (void)k, (void)act, (void)first, (void)count;
}

/* ---- Plans ---- */

static const struct {
    const char *name;
    int         sm, processors, shared, l2;
} devices[] = {{"A100", 800, 108, 166912, 41943040}, {"H200", 900, 132, 232448, 62914560}, {"B200", 1000, 148, 232448, 132644864}};

static const char *describe(char *out, size_t size, int i)
{
    snprintf(out, size,
             "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
             "\"multiProcessorCount\":%d,\"smCountOrigin\":0,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,\"oversizedSharedMemoryPerBlock\":0,\"reservedSharedMemoryPerBlock\":1024,"
             "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
             "\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,\"totalGlobalMem\":85899345920,"
             "\"smClockRateKHz\":1410000,\"memClockRateKHz\":1593000,\"memoryBusWidth\":5120,\"l2CacheSize\":%d,"
             "\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,\"deviceName\":\"%s\"}",
             devices[i].processors, devices[i].shared, devices[i].l2, devices[i].sm, devices[i].name);
    return out;
}

static int failures, plans;

static void check_device(const char *library, int i, dinov_dtype real)
{
    static const int64_t tokens[] = {50, 257, 261, 1370}, heads[] = {6, 12, 16, 24}, images[] = {1, 7, 300};
    char                 description[1500];
    dinov_error          err;
    dinov_cudnn         *c;
    if (dinov_cudnn_open_described(&c, library, describe(description, sizeof description, i), real, &err) != DINOV_OK) {
        printf("FAIL: %s: %s\n", devices[i].name, err.msg);
        failures++;
        return;
    }
    if (i == 0 && real == DINOV_BF16) printf("%s\n", dinov_cudnn_name(c));
    for (int t = 0; t < 4; t++)
        for (int h = 0; h < 4; h++) {
            int64_t width = heads[h] * 64, b = images[(t + h) % 3];
            plans++;
            if (dinov_cudnn_plan(c, b, heads[h], tokens[t], 3 * width, width, &err) == DINOV_OK) continue;
            printf("FAIL: %s, %s: %s\n", devices[i].name, dinov_dtype_name(real), err.msg);
            failures++;
        }
    /* A check that cannot refuse shows nothing. */
    if (dinov_cudnn_plan(c, 2, 6, 0, 3 * 384, 384, &err) == DINOV_OK) {
        printf("FAIL: %s, %s: a plan without tokens was taken\n", devices[i].name, dinov_dtype_name(real));
        failures++;
    }
    dinov_cudnn_close(&c);
}

/* ---- Attributes ---- */

static void check_attributes(const char *library)
{
    union {
        void *address;
        int (*desc)(void **, int, int);
        int (*layout)(void **, int, uint64_t, uint64_t, int64_t);
        int (*pref)(void **);
        int (*set)(void *, int, const void *, size_t);
        int (*get)(const void *, int, void *, size_t, size_t *);
    } make, set, get;
    static const int     configs[] = {LT_CONFIG_ID,        LT_CONFIG_TILE_ID,      LT_CONFIG_SPLITK_NUM,
                                      LT_CONFIG_STAGES_ID, LT_CONFIG_CTA_SWIZZLING, LT_CONFIG_CUSTOM_OPTION,
                                      LT_CONFIG_REDUCTION_SCHEME, LT_CONFIG_INNER_SHAPE_ID, LT_CONFIG_CLUSTER_SHAPE_ID};
    static const uint8_t zeros[8];
    void                *l = dlopen(library, RTLD_NOW | RTLD_LOCAL), *thing = NULL;
    int                  bad = 0;
    if (!l) {
        printf("no cuBLASLt here (%s)\n", dlerror());
        return;
    }
    make.address = dlsym(l, "cublasLtMatmulDescCreate");
    set.address  = dlsym(l, "cublasLtMatmulDescSetAttribute");
    bad += make.desc(&thing, LT_COMPUTE_32F_PEDANTIC, LT_R_32F) != LT_SUCCESS;
    bad += make.desc(&thing, LT_COMPUTE_32F, LT_R_32F) != LT_SUCCESS;
    bad += set.set(thing, LT_DESC_TRANSA, zeros, 4) != LT_SUCCESS;
    bad += set.set(thing, LT_DESC_EPILOGUE, &(uint32_t){LT_EPILOGUE_BIAS}, 4) != LT_SUCCESS;
    bad += set.set(thing, LT_DESC_BIAS_POINTER, zeros, sizeof(void *)) != LT_SUCCESS;
    bool invariant = set.set(thing, LT_DESC_BATCH_INVARIANCE_FLAGS, &(int32_t){LT_BATCH_INVARIANCE_ALIGN_16B}, 4) == LT_SUCCESS;
    bad += invariant && set.set(thing, LT_DESC_BATCH_INVARIANCE_FLAGS, &(int32_t){LT_BATCH_INVARIANCE_UNSET}, 4) != LT_SUCCESS;
    bad += set.set(thing, LT_DESC_EPILOGUE, zeros, 2) == LT_SUCCESS; /* so that sizes are known to matter */

    make.address = dlsym(l, "cublasLtMatrixLayoutCreate");
    set.address  = dlsym(l, "cublasLtMatrixLayoutSetAttribute");
    bad += make.layout(&thing, LT_R_16BF, 384, 1536, 384) != LT_SUCCESS;
    bad += set.set(thing, LT_LAYOUT_COLS, &(uint64_t){65536}, 8) != LT_SUCCESS;
    bad += set.set(thing, LT_LAYOUT_LD, &(int64_t){392}, 8) != LT_SUCCESS;

    make.address = dlsym(l, "cublasLtMatmulPreferenceCreate");
    set.address  = dlsym(l, "cublasLtMatmulPreferenceSetAttribute");
    bad += make.pref(&thing) != LT_SUCCESS;
    bad += set.set(thing, LT_PREF_MAX_WORKSPACE_BYTES, zeros, 8) != LT_SUCCESS;
    bad += set.set(thing, LT_PREF_REDUCTION_SCHEME_MASK, zeros, 4) != LT_SUCCESS;
    for (int i = LT_PREF_MIN_ALIGNMENT_A_BYTES; i <= LT_PREF_MIN_ALIGNMENT_D_BYTES; i++)
        bad += set.set(thing, i, &(uint32_t){16}, 4) != LT_SUCCESS;

    set.address = dlsym(l, "cublasLtMatmulAlgoConfigSetAttribute");
    get.address = dlsym(l, "cublasLtMatmulAlgoConfigGetAttribute");
    for (int i = 0; i < (int)(sizeof configs / sizeof *configs); i++) {
        dinov_lt_algo algo = {{0}};
        uint8_t       value[4];
        bool          half = configs[i] == LT_CONFIG_INNER_SHAPE_ID || configs[i] == LT_CONFIG_CLUSTER_SHAPE_ID;
        size_t        size = half ? 2 : 4, written = 0;
        bad += get.get(&algo, configs[i], value, size, &written) != LT_SUCCESS || written != size;
        bad += configs[i] != LT_CONFIG_ID && set.set(&algo, configs[i], zeros, size) != LT_SUCCESS;
    }
    printf("attributes of cuBLASLt: %d failures; batch invariance is %s\n", bad, invariant ? "known" : "not known");
    failures += bad;
}

/* The functions we call are in it, and it says a version. */
static void check_nvjpeg(const char *library)
{
    union {
        void *address;
        int (*property)(int, int *);
    } get;
    void *l   = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    int   bad = 0, major = 0;
    if (!l) {
        printf("no nvJPEG here (%s)\n", dlerror());
        return;
    }
    for (size_t i = 0; i < sizeof dinov_nj_symbols / sizeof *dinov_nj_symbols; i++) bad += !dlsym(l, dinov_nj_symbols[i]);
    get.address = dlsym(l, "nvjpegGetProperty");
    bad += !get.address || get.property(NJ_MAJOR_VERSION, &major) || major < 12;
    printf("functions of nvJPEG %d: %d failures\n", major, bad);
    failures += bad;
}

static const char *in_folder(char *out, size_t size, const char *folder, const char *name)
{
    snprintf(out, size, "%s%s%s", folder, *folder ? "/" : "", name);
    return out;
}

int main(int argc, char **argv)
{
    char library[4096];
    if (argc < 2 || argc > 4) return fprintf(stderr, "usage: plans DRIVER [FOLDER OF cuDNN [FOLDER OF cuBLASLt AND nvJPEG]]\n"), 64;
    printf("numbers compared with the headers of: %s%s%s%s\n", HAS_CUBLASLT ? "cuBLASLt " : "", HAS_CUDNN ? "cuDNN " : "",
           HAS_NVJPEG ? "nvJPEG" : "", HAS_CUBLASLT || HAS_CUDNN || HAS_NVJPEG ? "" : "none, they are not installed");
    check_attributes(in_folder(library, sizeof library, argc > 3 ? argv[3] : "", "libcublasLt.so.13"));
    check_nvjpeg(in_folder(library, sizeof library, argc > 3 ? argv[3] : "", "libnvjpeg.so.13"));
    if (!dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL)) return fprintf(stderr, "%s\n", dlerror()), 1;
    in_folder(library, sizeof library, argc > 2 ? argv[2] : "", "libcudnn.so.9");
    void *found = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!found) {
        printf("skipped: no cuDNN here (%s)\n", dlerror());
        return failures ? 1 : 77;
    }
    dlclose(found);
    dinov_cudnn *none;
    dinov_error  err;
    if (dinov_cudnn_open_described(&none, "/no/such/library.so", "{}", DINOV_BF16, &err) == DINOV_OK || strcmp(err.code, "DEV-CUDNN")) {
        printf("FAIL: a library that is not there was opened\n");
        failures++;
    }
    for (int i = 0; i < (int)(sizeof devices / sizeof *devices); i++) {
        check_device(library, i, DINOV_BF16);
        check_device(library, i, DINOV_F16);
    }
    printf("%d plans of attention, %d failures\n", plans, failures);
    return failures != 0;
}
