/* SPDX-License-Identifier: Apache-2.0
 *
 * What we use of nvJPEG's interface, written down so that building needs no header of it; tests/kernels/plans.c compares this
 * with its header and library where they are installed.
 */
#ifndef DINOV_KERNELS_CUDA_NVJPEG_H
#define DINOV_KERNELS_CUDA_NVJPEG_H

#include <stddef.h>

enum {
    NJ_SUCCESS                      = 0,
    NJ_INVALID_PARAMETER            = 2,
    NJ_BAD_JPEG                     = 3,
    NJ_JPEG_NOT_SUPPORTED           = 4,
    NJ_ALLOCATOR_FAILURE            = 5,
    NJ_EXECUTION_FAILED             = 6,
    NJ_ARCH_MISMATCH                = 7,
    NJ_INTERNAL_ERROR               = 8,
    NJ_IMPLEMENTATION_NOT_SUPPORTED = 9,
    NJ_INCOMPLETE_BITSTREAM         = 10,

    NJ_BACKEND_HYBRID                = 1, /* Huffman codes on the CPU, the rest on the GPU */
    NJ_OUTPUT_RGBI                   = 5, /* interleaved, in channel 0 */
    NJ_FLAGS_BITSTREAM_STRICT        = 4,
    NJ_FLAGS_UPSAMPLING_INTERPOLATED = 32,

    NJ_MAJOR_VERSION = 0,
    NJ_MINOR_VERSION = 1,
    NJ_PATCH_LEVEL   = 2,
};

typedef struct dinov_nj_image {
    unsigned char *channel[4];
    size_t         pitch[4]; /* bytes a row */
} dinov_nj_image;

/* What we call, in the order of nvjpeg.c's struct functions. */
static const char *const dinov_nj_symbols[] = {
    "nvjpegGetProperty",
    "nvjpegCreateEx",
    "nvjpegDestroy",
    "nvjpegDecoderCreate",
    "nvjpegDecoderDestroy",
    "nvjpegDecoderStateCreate",
    "nvjpegJpegStateDestroy",
    "nvjpegBufferPinnedCreate",
    "nvjpegBufferPinnedDestroy",
    "nvjpegBufferDeviceCreate",
    "nvjpegBufferDeviceDestroy",
    "nvjpegStateAttachPinnedBuffer",
    "nvjpegStateAttachDeviceBuffer",
    "nvjpegJpegStreamCreate",
    "nvjpegJpegStreamDestroy",
    "nvjpegJpegStreamParse",
    "nvjpegJpegStreamGetFrameDimensions",
    "nvjpegDecodeParamsCreate",
    "nvjpegDecodeParamsDestroy",
    "nvjpegDecodeParamsSetOutputFormat",
    "nvjpegDecoderJpegSupported",
    "nvjpegDecodeJpegHost",
    "nvjpegDecodeJpegTransferToDevice",
    "nvjpegDecodeJpegDevice",
};

#endif
