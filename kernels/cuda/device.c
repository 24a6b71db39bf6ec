/* SPDX-License-Identifier: Apache-2.0
 *
 * kernels/device.h over the CUDA runtime: all calls of it but kernel launches are here. The runtime is linked
 * statically and finds the driver by itself, so a program runs where there is none.
 */
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/products.h"

#include "base/alloc.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    SLOTS = 2,        /* of a queue's ring, */
    SLOT  = 16 << 20, /* bytes each */
    SPANS = 64,       /* begun and not yet counted */
};

struct dinov_device {
    int                    index;
    dinov_dtype            real;
    char                   name[300], table[96];
    dinov_ops              ops;
    struct dinov_products *products;
    struct dinov_cudnn    *cudnn;

    pthread_mutex_t lock; /* of what failed first */
    cudaError_t     error;
    const char     *what;
};

struct dinov_queue {
    dinov_device *device;
    cudaStream_t  stream;

    /* What is sent passes through these in turn; a slot is free again once its event has come. */
    void       *slot[SLOTS];
    cudaEvent_t free[SLOTS];
    int         next;
    void       *stage;
    cudaEvent_t here; /* for dinov_queue_after */

    cudaEvent_t begin[SPANS], end[SPANS];
    int64_t     begun, counted;
    double      busy;
};

struct dinov_graph {
    cudaGraphExec_t exec;
};

/* The runtime's current device belongs to the thread. */
static void use(const dinov_device *d) { cudaSetDevice(d->index); }

static void failed(dinov_device *d, cudaError_t error, const char *what)
{
    if (error == cudaSuccess) return;
    pthread_mutex_lock(&d->lock);
    if (d->error == cudaSuccess) d->error = error, d->what = what;
    pthread_mutex_unlock(&d->lock);
}

void dinov_queue_failed(dinov_queue *queue, int error, const char *what) { failed(queue->device, (cudaError_t)error, what); }

static dinov_status report(dinov_device *d, dinov_error *err)
{
    pthread_mutex_lock(&d->lock);
    cudaError_t error = d->error;
    const char *what  = d->what;
    pthread_mutex_unlock(&d->lock);
    if (error == cudaSuccess) return DINOV_OK;
    if (error == cudaErrorMemoryAllocation)
        return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "%s: out of memory in %s; a smaller batch (-b) needs less", d->name, what);
    return dinov_fail(err, DINOV_ERR_DEVICE, "DEV-FAULT", "%s: %s failed: %s (%s)", d->name, what, cudaGetErrorString(error),
                      cudaGetErrorName(error));
}

/* ---- Devices ---- */

static dinov_status check_device(int index, struct cudaDeviceProp *properties, dinov_error *err)
{
    int         count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-CUDA",
                          "device cuda:%d: no NVIDIA GPU can be used here: %s; run on the CPU (--device cpu), or install a driver "
                          "for CUDA %d.%d or newer",
                          index, error ? cudaGetErrorString(error) : "none is visible", CUDART_VERSION / 1000,
                          CUDART_VERSION % 1000 / 10);
    if (index < 0 || index >= count)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-CUDA", "device cuda:%d: expected 0 to %d, the GPUs visible here", index,
                          count - 1);
    error = cudaGetDeviceProperties(properties, index);
    if (error != cudaSuccess)
        return dinov_fail(err, DINOV_ERR_DEVICE, "DEV-FAULT", "device cuda:%d: %s", index, cudaGetErrorString(error));
    if (properties->major < 8)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-CUDA",
                          "device cuda:%d (%s): compute capability %d.%d; expected 8.0 (Ampere) or newer", index, properties->name,
                          properties->major, properties->minor);
    return DINOV_OK;
}

dinov_status dinov_device_open(dinov_device **out, int index, dinov_dtype real, dinov_error *err)
{
    struct cudaDeviceProp properties;

    *out = NULL;
    DINOV_ASSERT(real == DINOV_F32 || real == DINOV_BF16 || real == DINOV_F16);
    DINOV_TRY(check_device(index, &properties, err));
    dinov_device *d = dinov_calloc(1, sizeof *d);
    if (!d) return dinov_fail_nomem(err, "device", "itself");
    d->index = index;
    d->real  = real;
    pthread_mutex_init(&d->lock, NULL);
    snprintf(d->name, sizeof d->name, "cuda:%d %s", index, properties.name);
    int sm = 10 * properties.major + properties.minor;
    use(d);
    dinov_status status = dinov_products_open(&d->products, sm, real, err);
    if (status == DINOV_OK) status = dinov_cudnn_open(&d->cudnn, sm, real, err);
    if (status != DINOV_OK) {
        dinov_device_close(&d);
        return status;
    }
    snprintf(d->table, sizeof d->table, "cuda-sm%d-%s-%s-%s", sm,
             real == DINOV_F32    ? "f32"
             : real == DINOV_BF16 ? "bf16"
                                  : "f16",
             dinov_products_name(d->products), dinov_cudnn_name(d->cudnn));
    dinov_cuda_table(&d->ops, real, d->table);
    *out = d;
    return DINOV_OK;
}

void dinov_device_close(dinov_device **device)
{
    if (!device || !*device) return;
    dinov_device *d = *device;
    *device         = NULL;
    use(d);
    dinov_cudnn_close(&d->cudnn);
    dinov_products_close(&d->products);
    pthread_mutex_destroy(&d->lock);
    dinov_free(d);
}

const dinov_ops *dinov_device_ops(const dinov_device *device) { return &device->ops; }
const char      *dinov_device_name(const dinov_device *device) { return device->name; }

/* ---- Memory ---- */

void *dinov_device_alloc(dinov_device *device, size_t size)
{
    void *memory = NULL;
    use(device);
    if (cudaMalloc(&memory, size ? size : 1) == cudaSuccess) return memory;
    cudaGetLastError(); /* forgotten: the caller knows */
    return NULL;
}

void dinov_device_free(dinov_device *device, void *memory)
{
    use(device);
    cudaFree(memory);
}

void *dinov_pinned_alloc(dinov_device *device, size_t size)
{
    void *memory = NULL;
    use(device);
    if (cudaHostAlloc(&memory, size ? size : 1, cudaHostAllocPortable) == cudaSuccess) return memory;
    cudaGetLastError();
    return NULL;
}

void dinov_pinned_free(dinov_device *device, void *memory)
{
    use(device);
    cudaFreeHost(memory);
}

/* ---- Queues ---- */

dinov_status dinov_queue_new(dinov_queue **out, dinov_device *device, dinov_error *err)
{
    dinov_queue *q = *out = dinov_calloc(1, sizeof *q);
    if (!q) return dinov_fail_nomem(err, device->name, "a queue");
    q->device = device;
    use(device);
    failed(device, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "making a stream");
    failed(device, cudaEventCreateWithFlags(&q->here, cudaEventDisableTiming), "making an event");
    for (int i = 0; i < SLOTS; i++)
        failed(device, cudaEventCreateWithFlags(&q->free[i], cudaEventDisableTiming), "making an event");
    for (int i = 0; i < SPANS; i++) {
        failed(device, cudaEventCreate(&q->begin[i]), "making an event");
        failed(device, cudaEventCreate(&q->end[i]), "making an event");
    }
    dinov_status status = report(device, err);
    if (status != DINOV_OK) dinov_queue_free(out);
    return status;
}

void dinov_queue_free(dinov_queue **queue)
{
    if (!queue || !*queue) return;
    dinov_queue *q = *queue;
    *queue         = NULL;
    use(q->device);
    if (q->stream) cudaStreamSynchronize(q->stream);
    for (int i = 0; i < SLOTS; i++) {
        if (q->slot[i]) cudaFreeHost(q->slot[i]);
        if (q->free[i]) cudaEventDestroy(q->free[i]);
    }
    for (int i = 0; i < SPANS; i++) {
        if (q->begin[i]) cudaEventDestroy(q->begin[i]);
        if (q->end[i]) cudaEventDestroy(q->end[i]);
    }
    if (q->here) cudaEventDestroy(q->here);
    if (q->stage) cudaFree(q->stage);
    if (q->stream) cudaStreamDestroy(q->stream);
    dinov_free(q);
}

void *dinov_queue_stream(dinov_queue *queue)
{
    use(queue->device);
    return queue->stream;
}

dinov_dtype            dinov_queue_real(const dinov_queue *queue) { return queue->device->real; }
struct dinov_products *dinov_queue_products(const dinov_queue *queue) { return queue->device->products; }
struct dinov_cudnn    *dinov_queue_cudnn(const dinov_queue *queue) { return queue->device->cudnn; }

void dinov_queue_upload(dinov_queue *queue, void *device, const void *host, size_t size)
{
    use(queue->device);
    failed(queue->device, cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, queue->stream), "a copy to the device");
}

void dinov_queue_download(dinov_queue *queue, void *host, const void *device, size_t size)
{
    use(queue->device);
    failed(queue->device, cudaMemcpyAsync(host, device, size, cudaMemcpyDeviceToHost, queue->stream), "a copy from the device");
}

void dinov_queue_copy(dinov_queue *queue, void *to, const void *from, size_t size)
{
    use(queue->device);
    failed(queue->device, cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, queue->stream), "a copy on the device");
}

void dinov_queue_send(dinov_queue *queue, void *device, const void *host, size_t size)
{
    use(queue->device);
    for (size_t at = 0; at < size; at += SLOT) {
        size_t count = size - at < SLOT ? size - at : SLOT;
        int    i     = queue->next;
        queue->next  = (i + 1) % SLOTS;
        if (!queue->slot[i]) {
            cudaError_t error = cudaHostAlloc(&queue->slot[i], SLOT, cudaHostAllocDefault);
            failed(queue->device, error, "a ring of pinned memory");
            if (error != cudaSuccess) return;
        } else {
            failed(queue->device, cudaEventSynchronize(queue->free[i]), "a copy to the device");
        }
        memcpy(queue->slot[i], (const char *)host + at, count);
        dinov_queue_upload(queue, (char *)device + at, queue->slot[i], count);
        failed(queue->device, cudaEventRecord(queue->free[i], queue->stream), "a copy to the device");
    }
}

void *dinov_queue_stage(dinov_queue *queue)
{
    use(queue->device);
    if (!queue->stage) failed(queue->device, cudaMalloc(&queue->stage, DINOV_STAGE), "room for weights under way");
    return queue->stage;
}

void dinov_queue_after(dinov_queue *queue, dinov_queue *other)
{
    use(queue->device);
    failed(queue->device, cudaEventRecord(other->here, other->stream), "an event");
    failed(queue->device, cudaStreamWaitEvent(queue->stream, other->here, 0), "an event");
}

dinov_status dinov_queue_sync(dinov_queue *queue, dinov_error *err)
{
    use(queue->device);
    failed(queue->device, cudaStreamSynchronize(queue->stream), "work on the device");
    return report(queue->device, err);
}

/* ---- Recorded work ---- */

dinov_status dinov_queue_record(dinov_graph **out, dinov_queue *queue, void (*issue)(void *arg), void *arg, dinov_error *err)
{
    dinov_device *d     = queue->device;
    cudaGraph_t   graph = NULL;
    dinov_graph  *g = *out = dinov_calloc(1, sizeof *g);
    if (!g) return dinov_fail_nomem(err, d->name, "a graph");
    use(d);
    failed(d, cudaStreamBeginCapture(queue->stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
    issue(arg);
    failed(d, cudaStreamEndCapture(queue->stream, &graph), "recording a graph");
    if (graph) {
        failed(d, cudaGraphInstantiate(&g->exec, graph, 0), "making a graph");
        cudaGraphDestroy(graph);
    }
    dinov_status status = report(d, err);
    if (status != DINOV_OK) dinov_graph_free(out);
    return status;
}

void dinov_queue_replay(dinov_queue *queue, dinov_graph *graph)
{
    use(queue->device);
    failed(queue->device, cudaGraphLaunch(graph->exec, queue->stream), "a graph");
}

void dinov_graph_free(dinov_graph **graph)
{
    if (!graph || !*graph) return;
    if ((*graph)->exec) cudaGraphExecDestroy((*graph)->exec);
    dinov_free(*graph);
    *graph = NULL;
}

/* ---- How long it was busy ---- */

static void count_span(dinov_queue *q)
{
    float milliseconds = 0;
    int   i            = (int)(q->counted++ % SPANS);
    failed(q->device, cudaEventSynchronize(q->end[i]), "work on the device");
    if (cudaEventElapsedTime(&milliseconds, q->begin[i], q->end[i]) == cudaSuccess) q->busy += 1e-3 * (double)milliseconds;
}

void dinov_queue_begin(dinov_queue *queue)
{
    use(queue->device);
    if (queue->begun - queue->counted == SPANS) count_span(queue);
    failed(queue->device, cudaEventRecord(queue->begin[queue->begun % SPANS], queue->stream), "an event");
}

void dinov_queue_end(dinov_queue *queue)
{
    use(queue->device);
    failed(queue->device, cudaEventRecord(queue->end[queue->begun++ % SPANS], queue->stream), "an event");
}

double dinov_queue_busy(dinov_queue *queue)
{
    use(queue->device);
    while (queue->counted < queue->begun && cudaEventQuery(queue->end[queue->counted % SPANS]) == cudaSuccess) count_span(queue);
    return queue->busy;
}
