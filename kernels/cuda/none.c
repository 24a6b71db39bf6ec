/* SPDX-License-Identifier: Apache-2.0
 *
 * kernels/device.h in a build without CUDA: no device opens, so the rest is never reached.
 */
#include "kernels/device.h"

dinov_status dinov_device_open(dinov_device **out, int index, dinov_dtype real, dinov_error *err)
{
    (void)real;
    *out = NULL;
    return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-NONE",
                      "device cuda:%d: this build has no CUDA; build with -DDINOV_CUDA=ON, or run on the CPU", index);
}

void dinov_device_close(dinov_device **device) { *device = NULL; }
void dinov_queue_free(dinov_queue **queue) { *queue = NULL; }
void dinov_graph_free(dinov_graph **graph) { *graph = NULL; }
void dinov_device_jpeg_close(dinov_device_jpeg **jpeg) { *jpeg = NULL; }

#define UNREACHED(type, name, ...) \
    type name(__VA_ARGS__) { dinov_bug(__FILE__, __LINE__, #name " without a device"); }

#pragma GCC diagnostic ignored "-Wunused-parameter"
UNREACHED(const dinov_ops *, dinov_device_ops, const dinov_device *device)
UNREACHED(const char *, dinov_device_name, const dinov_device *device)
UNREACHED(void *, dinov_device_alloc, dinov_device *device, size_t size)
UNREACHED(void, dinov_device_free, dinov_device *device, void *memory)
UNREACHED(void *, dinov_pinned_alloc, dinov_device *device, size_t size)
UNREACHED(void, dinov_pinned_free, dinov_device *device, void *memory)
UNREACHED(dinov_status, dinov_queue_new, dinov_queue **out, dinov_device *device, dinov_error *err)
UNREACHED(void, dinov_queue_upload, dinov_queue *queue, void *device, const void *host, size_t size)
UNREACHED(void, dinov_queue_download, dinov_queue *queue, void *host, const void *device, size_t size)
UNREACHED(void, dinov_queue_send, dinov_queue *queue, void *device, const void *host, size_t size)
UNREACHED(void, dinov_queue_copy, dinov_queue *queue, void *to, const void *from, size_t size)
UNREACHED(void, dinov_queue_after, dinov_queue *queue, dinov_queue *other)
UNREACHED(dinov_status, dinov_queue_sync, dinov_queue *queue, dinov_error *err)
UNREACHED(dinov_status, dinov_queue_record, dinov_graph **out, dinov_queue *queue, void (*issue)(void *arg), void *arg, dinov_error *err)
UNREACHED(void, dinov_queue_replay, dinov_queue *queue, dinov_graph *graph)
UNREACHED(void, dinov_queue_begin, dinov_queue *queue)
UNREACHED(void, dinov_queue_end, dinov_queue *queue)
UNREACHED(double, dinov_queue_busy, dinov_queue *queue)
UNREACHED(dinov_status, dinov_device_jpeg_open, dinov_device_jpeg **out, dinov_device *device, dinov_error *err)
UNREACHED(const char *, dinov_device_jpeg_name, const dinov_device_jpeg *jpeg)
UNREACHED(dinov_status, dinov_device_jpeg_decode, dinov_device_jpeg *jpeg, uint8_t *rgb, int64_t width, int64_t height, const void *bytes,
          size_t size, bool *done, dinov_error *err)
