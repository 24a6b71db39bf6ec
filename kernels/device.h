/* SPDX-License-Identifier: Apache-2.0
 *
 * A device beside the CPU: its ops table, its memory, queues of work, and a decoder of JPEGs. One implementation is linked:
 * kernels/cuda/device.c, kernels/cuda/none.c in a build without CUDA, or the host shim of the tests.
 *
 * Work on a queue runs in order, perhaps after the call. A failure of issued work is kept and comes out
 * of dinov_queue_sync. A device may be used by several threads, a queue by one at a time.
 */
#ifndef DINOV_KERNELS_DEVICE_H
#define DINOV_KERNELS_DEVICE_H

#include "kernels/ops.h"

typedef struct dinov_device      dinov_device;
typedef struct dinov_queue       dinov_queue;
typedef struct dinov_graph       dinov_graph; /* recorded work */
typedef struct dinov_device_jpeg dinov_device_jpeg;

/* real: DINOV_BF16, DINOV_F16 or DINOV_F32, which is true float, not TF32. ERR_UNSUPPORTED DEV-NONE: this build has no CUDA;
 * DEV-CUDA: no driver, no such device, or one too old; ERR_NOMEM. */
dinov_status dinov_device_open(dinov_device **out, int index, dinov_dtype real, dinov_error *err);
void         dinov_device_close(dinov_device **device); /* after everything made from it */

const dinov_ops *dinov_device_ops(const dinov_device *device);
const char      *dinov_device_name(const dinov_device *device); /* "cuda:0 NVIDIA H200" */

/* Memory of the device, 256-byte aligned, and pinned memory of the process that copies are fast from. NULL: there is none left. */
void *dinov_device_alloc(dinov_device *device, size_t size);
void  dinov_device_free(dinov_device *device, void *memory);
void *dinov_pinned_alloc(dinov_device *device, size_t size);
void  dinov_pinned_free(dinov_device *device, void *memory);

dinov_status dinov_queue_new(dinov_queue **out, dinov_device *device, dinov_error *err);
void         dinov_queue_free(dinov_queue **queue);
/* The process's side is pinned memory, untouched until the copy is done. */
void dinov_queue_upload(dinov_queue *queue, void *device, const void *host, size_t size);
void dinov_queue_download(dinov_queue *queue, void *host, const void *device, size_t size);
/* From memory of any kind, which may be reused at once: through pinned memory of the queue's own. */
void dinov_queue_send(dinov_queue *queue, void *device, const void *host, size_t size);
/* From one place on the device to another. */
void dinov_queue_copy(dinov_queue *queue, void *to, const void *from, size_t size);
/* What is issued on `queue` from now on runs after all that is on `other` by now. */
void dinov_queue_after(dinov_queue *queue, dinov_queue *other);
/* Waits until all is done; ERR_NOMEM or ERR_DEVICE DEV-FAULT: the first failure of anything issued on the device. */
dinov_status dinov_queue_sync(dinov_queue *queue, dinov_error *err);

/* Runs issue(arg), which issues on `queue` alone, recording instead of running it; to be replayed any number of times. */
dinov_status dinov_queue_record(dinov_graph **out, dinov_queue *queue, void (*issue)(void *arg), void *arg, dinov_error *err);
void         dinov_queue_replay(dinov_queue *queue, dinov_graph *graph);
void         dinov_graph_free(dinov_graph **graph);

/* Seconds that the device spent between begin and end on `queue`, added up; spans of a queue follow each other and are
 * counted when they are over. Begin, end and busy are one thread's at a time. */
void   dinov_queue_begin(dinov_queue *queue);
void   dinov_queue_end(dinov_queue *queue);
double dinov_queue_busy(dinov_queue *queue);

/* A decoder of JPEGs on the device, which is an optional library: one picture at a time, and one thread at a time. Its pixels are
 * not those of other decoders; `name`, "nvjpeg-13.2.3", says whose they are. ERR_UNSUPPORTED DEV-NVJPEG: it is not here. */
dinov_status dinov_device_jpeg_open(dinov_device_jpeg **out, dinov_device *device, dinov_error *err);
void         dinov_device_jpeg_close(dinov_device_jpeg **jpeg);
const char  *dinov_device_jpeg_name(const dinov_device_jpeg *jpeg);
/* rgb [height, width, 3], memory of the process of any kind. Not *done, and no error: the picture is damaged or not of a kind that
 * the library knows; rgb is then undefined. ERR_NOMEM, ERR_DEVICE DEV-FAULT: no fault of the picture. */
dinov_status dinov_device_jpeg_decode(dinov_device_jpeg *jpeg, uint8_t *rgb, int64_t width, int64_t height, const void *bytes,
                                      size_t size, bool *done, dinov_error *err);

#endif
