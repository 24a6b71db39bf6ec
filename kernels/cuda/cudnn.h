/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention by cuDNN's graph interface, opened at run time; 16 bits, head dim 64. The names and numbers that we use are written down
 * here, so that building needs no header of it; tests/kernels/plans.c compares them with its headers where those are installed.
 *
 * A plan is made for one (images, heads, tokens, strides) and kept. Its engine and the engine's settings are chosen for
 * (heads, tokens) alone, and only if the library accepts them for 1, 64 and 1024 images: so a picture's bits do not depend on how
 * many there are beside it.
 */
#ifndef DINOV_KERNELS_CUDA_CUDNN_H
#define DINOV_KERNELS_CUDA_CUDNN_H

#include "kernels/ops.h"

enum dinov_dnn_number {
    DNN_SUCCESS = 0,

    DNN_DATA_FLOAT    = 0,
    DNN_DATA_HALF     = 2,
    DNN_DATA_BFLOAT16 = 9,

    DNN_ENGINE         = 2, /* kinds of descriptor */
    DNN_ENGINECFG      = 3,
    DNN_ENGINEHEUR     = 4,
    DNN_PLAN           = 5,
    DNN_KNOB_CHOICE    = 7,
    DNN_OPERATIONGRAPH = 15,
    DNN_VARIANT_PACK   = 16,
    DNN_TENSOR         = 17,
    DNN_DEVICEPROP     = 38,
    DNN_SDPA_FWD       = 41,

    DNN_TYPE_HANDLE     = 0, /* of attributes */
    DNN_TYPE_DATA_TYPE  = 1,
    DNN_TYPE_BOOLEAN    = 2,
    DNN_TYPE_INT64      = 3,
    DNN_TYPE_VOID_PTR   = 6,
    DNN_TYPE_HEUR_MODE  = 8,
    DNN_TYPE_KNOB_TYPE  = 9,
    DNN_TYPE_DESCRIPTOR = 15,
    DNN_TYPE_CHAR       = 24,

    DNN_HEUR_MODE_A = 3,

    DNN_ENGINEHEUR_MODE            = 200,
    DNN_ENGINEHEUR_OPERATION_GRAPH = 201,
    DNN_ENGINEHEUR_RESULTS         = 202,
    DNN_ENGINEHEUR_DEVICEPROP      = 204,
    DNN_ENGINECFG_ENGINE           = 300,
    DNN_ENGINECFG_KNOB_CHOICES     = 302,
    DNN_ENGINECFG_WORKSPACE_SIZE   = 303,
    DNN_PLAN_HANDLE                = 400,
    DNN_PLAN_ENGINE_CONFIG         = 401,
    DNN_PLAN_WORKSPACE_SIZE        = 402,
    DNN_PLAN_DEVICEPROP            = 407,
    DNN_KNOB_CHOICE_TYPE           = 600,
    DNN_KNOB_CHOICE_VALUE          = 601,
    DNN_OPERATIONGRAPH_HANDLE      = 800,
    DNN_OPERATIONGRAPH_OPS         = 801,
    DNN_TENSOR_BYTE_ALIGNMENT      = 900,
    DNN_TENSOR_DATA_TYPE           = 901,
    DNN_TENSOR_DIMENSIONS          = 902,
    DNN_TENSOR_STRIDES             = 903,
    DNN_TENSOR_UNIQUE_ID           = 906,
    DNN_TENSOR_IS_BY_VALUE         = 908,
    DNN_VARIANT_PACK_UNIQUE_IDS    = 1000,
    DNN_VARIANT_PACK_DATA_POINTERS = 1001,
    DNN_VARIANT_PACK_WORKSPACE     = 1003,
    DNN_ENGINE_OPERATION_GRAPH     = 1300,
    DNN_ENGINE_GLOBAL_INDEX        = 1301,
    DNN_ENGINE_DEVICEPROP          = 1307,
    DNN_DEVICEPROP_JSON            = 2702,
    DNN_SDPA_FWD_Q                 = 2800, /* K, V, O follow */
    DNN_SDPA_FWD_K                 = 2801,
    DNN_SDPA_FWD_V                 = 2802,
    DNN_SDPA_FWD_O                 = 2803,
    DNN_SDPA_FWD_SCALE             = 2805,
};

typedef struct dinov_cudnn dinov_cudnn; /* may be used by several threads at once */

/* What an attention_scratch must hold where dinov_cudnn_attention is called: plans that need more are not taken. */
enum { DINOV_CUDNN_SCRATCH = 4096 };

/* For the calling thread's device, which is current in every later call. The library is opened only if products_table.h gives it
 * something to do; that it is absent, older than 9.16 or without a device is no error: attention is then never its. ERR_NOMEM. */
dinov_status dinov_cudnn_open(dinov_cudnn **out, int sm, dinov_dtype real, dinov_error *err);
/* Plans without a GPU, for the device that `description` names in the library's own JSON; `library` is its file. Nothing can be
 * run. ERR_UNSUPPORTED DEV-CUDNN. */
dinov_status dinov_cudnn_open_described(dinov_cudnn **out, const char *library, const char *description, dinov_dtype real,
                                        dinov_error *err);
/* When the device is idle and graphs recorded from it are freed. */
void        dinov_cudnn_close(dinov_cudnn **cudnn);
const char *dinov_cudnn_name(const dinov_cudnn *cudnn); /* "none", "cudnn-92801" */

/* Attention of at least `tokens` tokens is its from now on, instead of what products_table.h says; for benches. */
void dinov_cudnn_from(dinov_cudnn *cudnn, int64_t tokens);

/* true: contract of ops.attention, issued, or failed and the queue keeps that. false: nothing was issued, the caller runs
 * dinov_cuda_attention: so it is for every number of images of these heads, tokens and strides.
 * The first call for a number of images takes some tenths of a second and is made before one is recorded into a graph. */
bool dinov_cudnn_attention(dinov_cudnn *cudnn, dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads);

/* Makes that plan if there is none. ERR_UNSUPPORTED DEV-CUDNN with the library's own words; ERR_NOMEM. */
dinov_status dinov_cudnn_plan(dinov_cudnn *cudnn, int64_t images, int64_t heads, int64_t tokens, int64_t qkv_ld, int64_t out_ld,
                              dinov_error *err);

#endif
