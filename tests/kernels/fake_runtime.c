/* SPDX-License-Identifier: Apache-2.0
 *
 * As much of the CUDA runtime as kernels/cuda/device.c calls, on the CPU, and as late as it may be: work on a stream happens when
 * something waits for it. So what is reused too early is wrong here too.
 */
#include "tests/kernels/fake_runtime.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

struct fake_runtime fake_runtime = {.devices = 2};

enum kind { COPY, RECORD, WAIT };

struct work {
    struct work *next;
    enum kind    kind;
    void        *to;
    const void  *from;
    size_t       size;
    cudaEvent_t  event;
    long         mark; /* of the event, when it was recorded or waited for */
};

struct CUstream_st {
    struct work *first, **last, *recorded, **recorded_last;
    int          capturing;
};
struct CUevent_st {
    struct CUstream_st *stream; /* of the last record */
    long                mark, done;
    float               time; /* milliseconds */
};
struct CUgraph_st {
    struct work *first;
};
struct CUgraphExec_st {
    struct work *first;
};

static long  marks;
static float clock_ms; /* a millisecond a copy */

static cudaError_t outcome(void)
{
    fake_runtime.calls++;
    if (fake_runtime.fail_at && fake_runtime.calls == fake_runtime.fail_at) return (cudaError_t)fake_runtime.error;
    return cudaSuccess;
}
#define TRY                          \
    do {                             \
        cudaError_t e = outcome();   \
        if (e != cudaSuccess) return e; \
    } while (0)

static void finish(struct CUstream_st *s, const struct CUevent_st *until, long mark);

static void happen(struct work *w)
{
    if (w->kind == COPY) {
        memcpy(w->to, w->from, w->size);
        clock_ms += 1;
    } else if (w->kind == RECORD) {
        w->event->done = w->mark, w->event->time = clock_ms;
    } else if (w->event->done < w->mark) {
        finish(w->event->stream, w->event, w->mark);
    }
}

/* Everything on the stream, or up to the event's mark. */
static void finish(struct CUstream_st *s, const struct CUevent_st *until, long mark)
{
    while (s->first && !(until && until->done >= mark)) {
        struct work *w = s->first;
        s->first       = w->next;
        if (!s->first) s->last = &s->first;
        happen(w);
        free(w);
    }
}

static void put(struct CUstream_st *s, struct work w)
{
    struct work *p = malloc(sizeof *p);
    *p             = w;
    p->next        = NULL;
    if (s->capturing)
        *s->recorded_last = p, s->recorded_last = &p->next;
    else
        *s->last = p, s->last = &p->next;
}

static void *obtain(size_t size)
{
    void *p = malloc(size);
    memset(p, 0xee, size);
    fake_runtime.alive++;
    return p;
}
static void release(void *p)
{
    if (p) fake_runtime.alive--;
    free(p);
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = fake_runtime.devices;
    return fake_runtime.devices ? cudaSuccess : cudaErrorInsufficientDriver;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    memset(p, 0, sizeof *p);
    strcpy(p->name, "Fake GPU");
    p->major = device == 1 ? 7 : 9;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device)
{
    fake_runtime.current = device;
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t e) { return e == cudaErrorLaunchFailure ? "unspecified launch failure" : "something"; }
const char *cudaGetErrorName(cudaError_t e) { return e == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "cudaErrorSomething"; }

cudaError_t cudaMalloc(void **p, size_t size)
{
    TRY;
    *p = obtain(size);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    release(p);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags)
{
    (void)flags;
    TRY;
    *p = obtain(size);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p)
{
    release(p);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    (void)flags;
    TRY;
    *s = obtain(sizeof **s);
    memset(*s, 0, sizeof **s);
    (*s)->last = &(*s)->first, (*s)->recorded_last = &(*s)->recorded;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    finish(s, NULL, 0);
    release(s);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    TRY;
    finish(s, NULL, 0);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t s)
{
    (void)kind;
    TRY;
    put(s, (struct work){.kind = COPY, .to = to, .from = from, .size = size});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    (void)flags;
    TRY;
    *e = obtain(sizeof **e);
    memset(*e, 0, sizeof **e);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    release(e);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    TRY;
    e->stream = s, e->mark = ++marks;
    put(s, (struct work){.kind = RECORD, .event = e, .mark = e->mark});
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    (void)flags;
    TRY;
    put(s, (struct work){.kind = WAIT, .event = e, .mark = e->mark});
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    TRY;
    if (e->stream) finish(e->stream, e, e->mark);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) { return e->done >= e->mark ? cudaSuccess : cudaErrorNotReady; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = end->time - begin->time;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    (void)mode;
    TRY;
    s->capturing = 1;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    TRY;
    *graph           = obtain(sizeof **graph);
    (*graph)->first  = s->recorded;
    s->recorded      = NULL;
    s->recorded_last = &s->recorded;
    s->capturing     = 0;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    TRY;
    *exec          = obtain(sizeof **exec);
    (*exec)->first = graph->first;
    graph->first   = NULL;
    return cudaSuccess;
}
static void drop(struct work *w)
{
    while (w) {
        struct work *next = w->next;
        free(w);
        w = next;
    }
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    drop(graph->first);
    release(graph);
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    drop(exec->first);
    release(exec);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    TRY;
    for (struct work *w = exec->first; w; w = w->next) put(s, *w);
    return cudaSuccess;
}
