/* SPDX-License-Identifier: Apache-2.0
 *
 * The device of the tests: its memory is the process's, between guards; a queue's work waits until somebody needs it done.
 * So who reads a result before a sync, or forgets that one queue waits for another, finds memory that
 * nobody wrote.
 */
#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/products.h"
}

#include <stdio.h>
#include <time.h>

#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

enum { MOST_THREADS = 1024, ERROR_MEMORY = 2, ERROR_LAUNCH = 719 };

typedef std::function<void()> work;

struct dinov_device {
    dinov_dtype                real;
    dinov_ops                  ops;
    int                        error; /* the first */
    const char                *what;
    int64_t                    memories;
    std::vector<dinov_queue *> queues;
};

struct line {
    dinov_device    *device;
    std::deque<work> waiting;
    int64_t          issued, done;
};

struct dinov_graph {
    std::shared_ptr<std::vector<work>> works;
};

struct dinov_queue {
    std::shared_ptr<line>   work_line;
    std::vector<work>      *recording;   /* or NULL */
    std::shared_ptr<double> busy, begun; /* seconds; begun < 0: no span is open */
    void                   *stage;
};

struct memory {
    size_t        size;
    bool          pinned;
    dinov_device *device;
};

bool                                     shim_late = true;
static std::recursive_mutex              lock; /* around all of this, and so around kernels */
static std::map<unsigned char *, memory> memories;
static int                               launches_to_failure, allocs_to_failure;

void shim_run(const char *what, dim3 grid, int threads, int64_t shared, const std::function<void()> &body);

void shim_fail_launch(int n) { launches_to_failure = n; }
void shim_fail_alloc(int n) { allocs_to_failure = n; }

/* ---- memory ---- */

static void *memory_new(dinov_device *device, size_t size, bool pinned)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (allocs_to_failure && --allocs_to_failure == 0) return NULL;
    unsigned char *p = shim_guarded_new(size);
    if (p) shim_spoil(p, size), memories[p] = {size, pinned, device}, device->memories++;
    return p;
}

/* Whoever frees memory waits for what was issued: so do CUDA's calls. */
static void finish_all(dinov_device *device);

static void memory_free(dinov_device *device, void *p, bool pinned)
{
    if (!p) return;
    std::lock_guard<std::recursive_mutex> hold(lock);
    finish_all(device);
    auto at = memories.find((unsigned char *)p);
    if (at == memories.end() || at->second.pinned != pinned || at->second.device != device)
        shim_fault("freed memory that this device did not give as %s memory", pinned ? "pinned" : "device");
    shim_guarded_free(at->first, at->second.size, pinned ? "pinned memory" : "device memory");
    memories.erase(at);
    device->memories--;
}

static void check_guards(const dinov_device *device, const char *after)
{
    char what[100];
    for (auto &m : memories) {
        snprintf(what, sizeof what, "after %s, %s memory", after, m.second.pinned ? "pinned" : "device");
        if (m.second.device == device) shim_guarded_check(m.first, m.second.size, what);
    }
}

/* A range in one live allocation of that kind, or the process ends. */
static void check_range(const void *p, size_t size, bool pinned, const char *what)
{
    auto at = memories.upper_bound((unsigned char *)(uintptr_t)p);
    if (size == 0) return;
    if (at != memories.begin()) {
        --at;
        size_t offset = (size_t)((const unsigned char *)p - at->first);
        if (at->second.pinned == pinned && offset <= at->second.size && size <= at->second.size - offset) return;
    }
    shim_fault("%s: %zu bytes at %p are not in live %s memory", what, size, p, pinned ? "pinned" : "device");
}

void shim_check_device(const void *p, size_t size, const char *what) { check_range(p, size, false, what); }

void *dinov_device_alloc(dinov_device *device, size_t size) { return memory_new(device, size, false); }
void  dinov_device_free(dinov_device *device, void *p) { memory_free(device, p, false); }
void *dinov_pinned_alloc(dinov_device *device, size_t size) { return memory_new(device, size, true); }
void  dinov_pinned_free(dinov_device *device, void *p) { memory_free(device, p, true); }

/* ---- the device ---- */

bool shim_unlike;

dinov_status dinov_device_open(dinov_device **out, int index, dinov_dtype real, dinov_error *err)
{
    if (index < 0 || index > 1)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-CUDA", "device cuda:%d: the shim has 0 and 1", index);
    DINOV_ASSERT(real == DINOV_F32 || real == DINOV_BF16 || real == DINOV_F16);
    dinov_device *device = new dinov_device();
    device->real         = real;
    const char *name     = real == DINOV_F32 ? "shim-f32" : real == DINOV_BF16 ? "shim-bf16" : "shim-f16";
    dinov_cuda_table(&device->ops, real, index == 1 && shim_unlike ? "shim-unlike" : name);
    *out = device;
    return DINOV_OK;
}

void dinov_device_close(dinov_device **device)
{
    if (!device || !*device) return;
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (!(*device)->queues.empty()) shim_fault("the device is closed while %zu of its queues live", (*device)->queues.size());
    if ((*device)->memories)
        shim_fault("the device is closed while %lld pieces of its memory live", (long long)(*device)->memories);
    delete *device;
    *device = NULL;
}

const dinov_ops *dinov_device_ops(const dinov_device *device) { return &device->ops; }

const char *dinov_device_name(const dinov_device *device)
{
    (void)device;
    return "cuda:0 host shim";
}

/* ---- queues ---- */

static void finish(const std::shared_ptr<line> &l, int64_t until)
{
    while (l->done < until && !l->waiting.empty()) {
        work w = std::move(l->waiting.front());
        l->waiting.pop_front();
        l->done++;
        if (!l->device->error) w();
    }
}

static void finish_all(dinov_device *device)
{
    for (dinov_queue *queue : device->queues) {
        if (queue->recording) shim_fault("memory is freed while work is recorded");
        finish(queue->work_line, queue->work_line->issued);
    }
}

static void issue_work(dinov_queue *queue, work w)
{
    line *l = queue->work_line.get();
    if (queue->recording) {
        queue->recording->push_back(std::move(w));
        return;
    }
    l->waiting.push_back(std::move(w));
    l->issued++;
    if (!shim_late) finish(queue->work_line, l->issued);
}

static void refuse_recording(const dinov_queue *queue, const char *what)
{
    if (queue->recording) shim_fault("%s while work is recorded", what);
}

static void keep_failure(dinov_device *device, int error, const char *what)
{
    if (error && !device->error) device->error = error, device->what = what;
}

void *dinov_queue_stage(dinov_queue *queue)
{
    dinov_device *device = queue->work_line->device;
    if (!queue->stage) queue->stage = dinov_device_alloc(device, DINOV_STAGE);
    if (!queue->stage) dinov_queue_failed(queue, ERROR_MEMORY, "room for weights under way");
    return queue->stage;
}

void *dinov_queue_stream(dinov_queue *queue) { return queue; }

dinov_dtype dinov_queue_real(const dinov_queue *queue) { return queue->work_line->device->real; }

/* A library of products that is our own kernel without the activation. */
bool                   shim_products;
struct dinov_products *dinov_queue_products(const dinov_queue *queue)
{
    return shim_products ? (struct dinov_products *)(uintptr_t)queue : NULL;
}

void dinov_products_prepare(dinov_products *products, int64_t n, int64_t k, dinov_activation act)
{
    (void)products, (void)n, (void)k, (void)act;
}

void dinov_products_bias_copy(dinov_stream *s, float *packed, int64_t n)
{
    if (dinov_queue_real(s->queue) != DINOV_F32)
        dinov_cuda_pack(s, packed + dinov_cuda_stride(n), packed, 1, n, DINOV_ACT_NONE, 0, 1);
}

bool dinov_products_run(dinov_products *products, dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w,
                        const dinov_mat *residual)
{
    dinov_linear plain = *w;
    (void)products;
    plain.act = DINOV_ACT_NONE;
    dinov_cuda_linear(s, y, x, &plain, residual, NULL);
    return true;
}

struct dinov_cudnn *dinov_queue_cudnn(const dinov_queue *queue)
{
    (void)queue;
    return NULL;
}

bool dinov_cudnn_attention(dinov_cudnn *cudnn, dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads)
{
    (void)cudnn, (void)s, (void)out, (void)qkv, (void)images, (void)heads;
    return false;
}

void dinov_queue_failed(dinov_queue *queue, int error, const char *what)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    keep_failure(queue->work_line->device, error, what);
}

dinov_status dinov_queue_new(dinov_queue **out, dinov_device *device, dinov_error *err)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    (void)err;
    dinov_queue *queue       = new dinov_queue();
    queue->work_line         = std::make_shared<line>();
    queue->busy              = std::make_shared<double>(0.0);
    queue->begun             = std::make_shared<double>(-1.0);
    queue->work_line->device = device;
    device->queues.push_back(queue);
    *out = queue;
    return DINOV_OK;
}

void dinov_queue_free(dinov_queue **queue)
{
    if (!queue || !*queue) return;
    std::lock_guard<std::recursive_mutex> hold(lock);
    refuse_recording(*queue, "a queue is freed");
    finish((*queue)->work_line, (*queue)->work_line->issued);
    dinov_device_free((*queue)->work_line->device, (*queue)->stage);
    std::vector<dinov_queue *> &all = (*queue)->work_line->device->queues;
    for (size_t i = 0; i < all.size(); i++)
        if (all[i] == *queue) all.erase(all.begin() + (std::ptrdiff_t)i--);
    delete *queue;
    *queue = NULL;
}

struct end {
    const void *memory;
    bool        pinned;
};

static void issue_copy(dinov_queue *queue, end to, end from, size_t size, const char *what, work after)
{
    check_range(to.memory, size, to.pinned, what);
    check_range(from.memory, size, from.pinned, what);
    issue_work(queue, [=] {
        check_range(to.memory, size, to.pinned, what);
        check_range(from.memory, size, from.pinned, what);
        memcpy((void *)(uintptr_t)to.memory, from.memory, size);
        if (after) after();
    });
}

/* What uploads that wait will read: until then, a download to there spoils nothing. Of recorded uploads, for good. */
struct piece {
    const unsigned char *memory;
    size_t               size;
};
static std::list<piece> unread;

void dinov_queue_upload(dinov_queue *queue, void *device, const void *host, size_t size)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    std::list<piece>::iterator            at = unread.insert(unread.end(), piece{(const unsigned char *)host, size});
    work                                  read;
    if (!queue->recording) read = [=] { unread.erase(at); };
    issue_copy(queue, end{device, false}, end{host, true}, size, "upload", read);
}

void dinov_queue_download(dinov_queue *queue, void *host, const void *device, size_t size)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    const unsigned char                  *to    = (const unsigned char *)host;
    bool                                  spoil = !queue->recording;
    for (const piece &p : unread) spoil &= to + size <= p.memory || p.memory + p.size <= to;
    check_range(host, size, true, "download");
    if (spoil) shim_spoil(host, size); /* whoever reads it now is too early */
    issue_copy(queue, end{host, true}, end{device, false}, size, "download", work());
}

void dinov_queue_send(dinov_queue *queue, void *device, const void *host, size_t size)
{
    std::lock_guard<std::recursive_mutex>       hold(lock);
    const unsigned char                        *from  = (const unsigned char *)host;
    std::shared_ptr<std::vector<unsigned char>> bytes = std::make_shared<std::vector<unsigned char>>(from, from + size);
    refuse_recording(queue, "dinov_queue_send");
    check_range(device, size, false, "send");
    issue_work(queue, [=] {
        check_range(device, size, false, "send");
        memcpy(device, bytes->data(), size);
    });
}

void dinov_queue_copy(dinov_queue *queue, void *to, const void *from, size_t size)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (to < (const unsigned char *)from + size && from < (const unsigned char *)to + size)
        shim_fault("a copy on the device from %p to %p, of %zu bytes: they overlap", from, to, size);
    issue_copy(queue, end{to, false}, end{from, false}, size, "copy", work());
}

void dinov_queue_after(dinov_queue *queue, dinov_queue *other)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    std::shared_ptr<line>                 l     = other->work_line;
    int64_t                               until = l->issued;
    refuse_recording(queue, "dinov_queue_after");
    refuse_recording(other, "dinov_queue_after");
    issue_work(queue, [=] { finish(l, until); });
}

dinov_status dinov_queue_sync(dinov_queue *queue, dinov_error *err)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    dinov_device                         *device = queue->work_line->device;
    refuse_recording(queue, "dinov_queue_sync");
    finish(queue->work_line, queue->work_line->issued);
    check_guards(device, "a sync");
    if (device->error == ERROR_MEMORY)
        return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "%s: out of memory in %s", dinov_device_name(device), device->what);
    if (device->error)
        return dinov_fail(err, DINOV_ERR_DEVICE, "DEV-FAULT", "%s: %s failed: error %d", dinov_device_name(device), device->what,
                          device->error);
    return DINOV_OK;
}

dinov_status dinov_queue_record(dinov_graph **out, dinov_queue *queue, void (*issue)(void *arg), void *arg, dinov_error *err)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    auto                                  works = std::make_shared<std::vector<work>>();
    (void)err;
    refuse_recording(queue, "dinov_queue_record");
    queue->recording = works.get();
    issue(arg);
    queue->recording = NULL;
    *out             = new dinov_graph{works};
    return DINOV_OK;
}

void dinov_queue_replay(dinov_queue *queue, dinov_graph *graph)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    std::shared_ptr<std::vector<work>>    works  = graph->works;
    dinov_device                         *device = queue->work_line->device;
    refuse_recording(queue, "dinov_queue_replay");
    issue_work(queue, [=] {
        for (const work &w : *works)
            if (!device->error) w();
    });
}

void dinov_graph_free(dinov_graph **graph)
{
    if (!graph) return;
    delete *graph;
    *graph = NULL;
}

static double now()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void dinov_queue_begin(dinov_queue *queue)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    std::shared_ptr<double>               begun = queue->begun;
    refuse_recording(queue, "dinov_queue_begin");
    issue_work(queue, [=] {
        if (*begun >= 0) shim_fault("a span begins in another");
        *begun = now();
    });
}

void dinov_queue_end(dinov_queue *queue)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    std::shared_ptr<double>               begun = queue->begun, busy = queue->busy;
    refuse_recording(queue, "dinov_queue_end");
    issue_work(queue, [=] {
        if (*begun < 0) shim_fault("a span ends that did not begin");
        *busy += now() - *begun;
        *begun = -1;
    });
}

double dinov_queue_busy(dinov_queue *queue)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    return *queue->busy;
}

/* ---- launches ---- */

void shim_launch(dinov_queue *queue, const char *what, dim3 grid, dim3 block, int64_t shared, std::function<void()> body)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    dinov_device                         *device  = queue->work_line->device;
    int                                   threads = (int)block.x;
    if (threads < 32 || threads > MOST_THREADS || threads % 32 || block.y != 1 || block.z != 1)
        shim_fault("kernel %s is launched with %u x %u x %u threads; expected 32 to 1024 x 1 x 1, whole warps", what, block.x,
                   block.y, block.z);
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        shim_fault("kernel %s is launched with %u x %u x %u blocks; expected 1 x 1 x 1 to 2147483647 x 65535 x 65535", what, grid.x,
                   grid.y, grid.z);
    if (shared < 0 || shared > shim_shared_limit)
        shim_fault("kernel %s is launched with %lld bytes of shared memory; a block has at most %lld", what, (long long)shared,
                   (long long)shim_shared_limit);
    issue_work(queue, [=] {
        if (launches_to_failure && --launches_to_failure == 0)
            keep_failure(device, ERROR_LAUNCH, what);
        else
            shim_run(what, grid, threads, shared, body), check_guards(device, what);
    });
}
