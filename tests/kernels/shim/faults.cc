/* SPDX-License-Identifier: Apache-2.0
 *
 * That the shim sees mistakes: small kernels, each sound and with one planted fault, run in a process of their own in
 * several orders. The sound one must pass, the faulty one must be told. And that the shim's arithmetic is right.
 * Linked without the real kernels.
 */
#include "kernels/cuda/cuda.cuh"

extern "C" {
uint16_t dinov_f16_of(float value); /* base/dtype.h, which is C alone */
uint16_t dinov_bf16_of(float value);
}

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

extern "C" void dinov_cuda_table(dinov_ops *ops, dinov_dtype real, const char *name)
{
    *ops      = dinov_ops{};
    ops->name = name, ops->real_size = real == DINOV_F32 ? 4 : 2, ops->wide_size = 4;
}

extern "C" {
void dinov_cuda_linear(dinov_stream *, dinov_mat *, const dinov_mat *, const dinov_linear *, const dinov_mat *, const void *) {}
void dinov_cuda_pack(dinov_stream *, void *, const float *, int64_t, int64_t, dinov_activation, int64_t, int64_t) {}
}

enum { THREADS = 128, BLOCKS = 3, COUNT = THREADS * BLOCKS };

/* What a kernel gets: in[i] = (i * 37 % 101) / 8 - 6 and out, both of COUNT, and whether it is to be wrong. */
struct arguments {
    float       *out;
    const float *in;
    bool         wrong;
};

static float value(int64_t i) { return (float)(i * 37 % 101) * 0.125f - 6.0f; }

/* ---- kernels ---- */

DINOV_KERNEL(THREADS) shared_store(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS + i;
    held[a.wrong ? i + 1 : i] = a.in[at];
    block_barrier();
    a.out[at] = held[THREADS - 1 - i];
}

DINOV_KERNEL(THREADS) global_store_after(arguments a)
{
    int at                       = (int)(blockIdx.x * THREADS + threadIdx.x);
    a.out[a.wrong ? at + 1 : at] = a.in[at];
}

DINOV_KERNEL(THREADS) global_store_before(arguments a)
{
    int at                       = (int)(blockIdx.x * THREADS + threadIdx.x);
    a.out[a.wrong ? at - 1 : at] = a.in[at];
}

/* Every element becomes the block's sum; wrong: nobody waits for the warps' sums. */
DINOV_KERNEL(THREADS) missing_barrier(arguments a)
{
    float *sums = (float *)dynamic_shared();
    int    at   = (int)(blockIdx.x * THREADS + threadIdx.x);
    float  v = warp_sum(a.in[at]), all = 0;
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = v;
    if (!a.wrong) block_barrier();
    for (int w = 0; w < THREADS / WARP; w++) all += sums[w];
    a.out[at] = all;
}

/* As before in a loop; wrong: the sums are overwritten while others still read them. */
DINOV_KERNEL(THREADS) overwritten_early(arguments a)
{
    float *sums = (float *)dynamic_shared();
    int    at   = (int)(blockIdx.x * THREADS + threadIdx.x);
    float  all  = 0;
    for (int turn = 0; turn < 3; turn++) {
        float v = warp_sum(a.in[at] * (float)(1 << turn));
        if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = v;
        block_barrier();
        for (int w = 0; w < THREADS / WARP; w++) all += sums[w];
        if (!a.wrong) block_barrier();
    }
    a.out[at] = all;
}

/* Lanes exchange through memory; wrong: without a barrier of the warp. */
DINOV_KERNEL(THREADS) missing_warp_barrier(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS + i;
    held[i] = a.in[at];
    if (!a.wrong) warp_barrier();
    a.out[at] = held[i ^ 5];
}

static_assert(THREADS % 4 == 0, "a copy brings four floats");

DINOV_KERNEL(THREADS) missing_wait(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    if (i < THREADS / 4) copy_async(held + 4 * i, a.in + at + 4 * i, 16);
    copy_commit();
    if (!a.wrong) copy_wait<0>();
    block_barrier();
    a.out[at + i] = held[i];
}

/* Two groups, of which the first is needed; wrong: as if there were three. */
DINOV_KERNEL(THREADS) short_wait(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    if (i < THREADS / 4) copy_async(held + 4 * i, a.in + at + 4 * i, 16);
    copy_commit();
    if (i < THREADS / 4) copy_async(held + THREADS + 4 * i, a.in + at + 4 * i, 8);
    copy_commit();
    if (a.wrong)
        copy_wait<2>();
    else
        copy_wait<1>();
    block_barrier();
    float v = held[i];
    copy_wait<0>();
    block_barrier();
    a.out[at + i] = v + held[THREADS + i]; /* 8 of 16 bytes came, the rest is zero */
}

/* What a thread waited for is there for itself alone; wrong: others do not wait for it. */
DINOV_KERNEL(THREADS) wait_without_barrier(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    if (i < THREADS / 4) copy_async(held + 4 * i, a.in + at + 4 * i, 16);
    copy_commit();
    copy_wait<0>();
    if (!a.wrong) block_barrier();
    a.out[at + i] = held[THREADS - 1 - i];
}

/* Two buffers in turn, the next copy begun early; wrong: into the one that is still read. */
DINOV_KERNEL(THREADS) copy_over_readers(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i    = (int)threadIdx.x;
    float  sum  = 0;
    for (int turn = -1; turn < BLOCKS; turn++) {
        int to = a.wrong ? 0 : (turn + 1) % 2;
        if (turn + 1 < BLOCKS && i < THREADS / 4) copy_async(held + to * THREADS + 4 * i, a.in + (turn + 1) * THREADS + 4 * i, 16);
        copy_commit();
        if (turn < 0) continue;
        copy_wait<1>();
        block_barrier();
        sum += held[(a.wrong ? 0 : turn % 2) * THREADS + (i + 40) % THREADS];
        block_barrier();
    }
    a.out[(int)blockIdx.x * THREADS + i] = sum;
}

/* A sum in shared memory; wrong: in whatever order threads come. */
DINOV_KERNEL(THREADS) order_of_threads(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    if (i == 0) held[0] = 0;
    block_barrier();
    if (a.wrong)
        held[0] = held[0] * 0.999f + a.in[at + i];
    else if (i == 0)
        for (int k = 0; k < THREADS; k++) held[0] = held[0] * 0.999f + a.in[at + k];
    block_barrier();
    a.out[at + i] = held[0];
}

/* Blocks write what the block before wrote already; wrong: they read it. */
DINOV_KERNEL(THREADS) order_of_blocks(arguments a)
{
    int at = (int)(blockIdx.x * THREADS + threadIdx.x), before = blockIdx.x ? at - THREADS : at;
    a.out[at] = a.wrong && blockIdx.x ? a.out[before] + a.in[at] : a.in[at];
}

DINOV_KERNEL(THREADS) divergent_shuffle(arguments a)
{
    int   at = (int)(blockIdx.x * THREADS + threadIdx.x);
    float v  = a.in[at];
    if (!a.wrong || threadIdx.x % WARP < 16) v += shuffle_xor(v, 8);
    a.out[at] = v;
}

DINOV_KERNEL(THREADS) other_collective(arguments a)
{
    int   at = (int)(blockIdx.x * THREADS + threadIdx.x);
    float v  = a.in[at];
    if (a.wrong && threadIdx.x % 2)
        warp_barrier();
    else
        v += shuffle_xor(v, 8);
    a.out[at] = v;
}

DINOV_KERNEL(THREADS) other_barrier(arguments a)
{
    int at = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (a.wrong && threadIdx.x >= WARP)
        block_barrier();
    else
        block_barrier();
    a.out[at] = a.in[at];
}

DINOV_KERNEL(THREADS) early_return(arguments a)
{
    int at = (int)(blockIdx.x * THREADS + threadIdx.x);
    if (a.wrong && threadIdx.x == THREADS - 1) return;
    block_barrier();
    a.out[at] = a.in[at];
}

/* Sums over a warp of which some threads have no element; wrong: those have left. */
DINOV_KERNEL(THREADS) early_return_of_lanes(arguments a)
{
    int at = (int)(blockIdx.x * THREADS + threadIdx.x), count = COUNT - 5;
    if (a.wrong && at >= count) return;
    a.out[at] = warp_sum(at < count ? a.in[at] : 0);
}

/* A product with zeros beyond its edge; wrong: with what memory held. */
DINOV_KERNEL(THREADS) edge_not_cleared(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    if (i < 100)
        held[i] = a.in[at + i];
    else if (!a.wrong)
        held[i] = 0;
    block_barrier();
    float sum = 0;
    for (int k = 0; k < THREADS; k++) sum += held[k] * (k < 100 ? 1.0f : 0.0f);
    a.out[at + i] = sum;
}

DINOV_KERNEL(THREADS) crooked_rows(arguments a)
{
    unsigned char *held = dynamic_shared();
    uint32_t       r[4];
    int            i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    ((float *)held)[i] = a.in[at + i];
    block_barrier();
    load_matrices(r, held + 16 * (i % WARP) - (a.wrong && i == 9 ? 8 : 0));
    a.out[at + i] = (float)(r[0] ^ r[1] ^ r[2] ^ r[3]);
}

DINOV_KERNEL(THREADS) rows_outside(arguments a)
{
    unsigned char *held = dynamic_shared();
    uint32_t       r[4];
    int            i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    for (int k = i; k < 2 * THREADS; k += THREADS) ((float *)held)[k] = a.in[at + k % THREADS];
    block_barrier();
    load_matrices_transposed(r, held + 16 * (i % WARP + (a.wrong && i == 31 ? 60 : 0)));
    a.out[at + i] = (float)(r[0] ^ r[1] ^ r[2] ^ r[3]);
}

DINOV_KERNEL(THREADS) crooked_copy(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    if (i < THREADS / 4) copy_async(held + 4 * i, a.in + at + 4 * i + (a.wrong && i ? -1 : 0), 16);
    copy_commit();
    copy_wait<0>();
    block_barrier();
    a.out[at + i] = held[i];
}

DINOV_KERNEL(THREADS) copy_from_outside(arguments a)
{
    float *held = (float *)dynamic_shared();
    int    i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS;
    if (i < THREADS / 4) copy_async(held + 4 * i, a.in + (a.wrong && i == 3 ? COUNT : at + 4 * i), 16);
    copy_commit();
    copy_wait<0>();
    block_barrier();
    a.out[at + i] = held[i];
}

static const struct planted {
    const char *name;
    void (*kernel)(arguments);
    const char *told; /* part of what is said of the fault */
} all[] = {
    {"a store after shared memory", shared_store, "shared memory: the byte 0 after it"},
    {"a store after global memory", global_store_after, "device memory: the byte 0 after it"},
    {"a store before global memory", global_store_before, "device memory: the byte 1 before it"},
    {"no block barrier in a sum", missing_barrier, "results"},
    {"sums overwritten early", overwritten_early, "results"},
    {"no warp barrier", missing_warp_barrier, "results"},
    {"no wait for a copy", missing_wait, "results"},
    {"a wait for too few groups", short_wait, "results"},
    {"no barrier after a wait", wait_without_barrier, "results"},
    {"a copy over what is read", copy_over_readers, "results"},
    {"a sum in the order of threads", order_of_threads, "results"},
    {"blocks that need each other", order_of_blocks, "results"},
    {"half a warp at a shuffle", divergent_shuffle, "while thread"},
    {"lanes at different collectives", other_collective, "while thread"},
    {"threads at different barriers", other_barrier, "while thread"},
    {"a thread gone before a barrier", early_return, "has returned while thread"},
    {"lanes gone before a shuffle", early_return_of_lanes, "has returned while thread"},
    {"an edge that is not cleared", edge_not_cleared, "results"},
    {"rows of matrices off their 16 bytes", crooked_rows, "not a multiple of 16"},
    {"rows of matrices outside shared memory", rows_outside, "outside of shared memory"},
    {"a copy off its 16 bytes", crooked_copy, "not a multiple of 16"},
    {"a copy from outside of memory", copy_from_outside, "not in live device memory"},
};

/* ---- running them ---- */

static void expect(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "expected: %s\n", what);
    _exit(1);
}

struct bench {
    dinov_device *device;
    dinov_queue  *queue;
    dinov_stream  stream;
    float        *in, *out, *host; /* host: pinned */
};

static bench open_bench(void)
{
    bench b = {};
    expect(dinov_device_open(&b.device, 0, DINOV_F32, NULL) == DINOV_OK, "a device");
    expect(dinov_queue_new(&b.queue, b.device, NULL) == DINOV_OK, "a queue");
    b.stream.queue = b.queue;
    b.in           = (float *)dinov_device_alloc(b.device, COUNT * sizeof(float));
    b.out          = (float *)dinov_device_alloc(b.device, COUNT * sizeof(float));
    b.host         = (float *)dinov_pinned_alloc(b.device, COUNT * sizeof(float));
    for (int i = 0; i < COUNT; i++) b.host[i] = value(i);
    dinov_queue_upload(b.queue, b.in, b.host, COUNT * sizeof(float));
    expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
    return b;
}

static void close_bench(bench *b)
{
    dinov_device_free(b->device, b->in);
    dinov_device_free(b->device, b->out);
    dinov_pinned_free(b->device, b->host);
    dinov_queue_free(&b->queue);
    dinov_device_close(&b->device);
}

static void launch(bench *b, void (*kernel)(arguments), bool wrong)
{
    arguments a = {b->out, b->in, wrong};
    DINOV_LAUNCH(&b->stream, "planted", kernel, dim3(BLOCKS), THREADS,
                 2 * THREADS * sizeof(float) - (kernel == shared_store ? THREADS * sizeof(float) : 0), a);
}

static void run_planted(const planted *p, bool wrong)
{
    float first[COUNT];
    bench b = open_bench();
    for (int turn = 0; turn < 8; turn++) {
        shim_set_order(turn < 2 ? (enum shim_order)turn : SHIM_RANDOM, (uint64_t)turn);
        shim_spoil(b.host, COUNT * sizeof(float));
        dinov_queue_upload(b.queue, b.out, b.host, COUNT * sizeof(float));
        launch(&b, p->kernel, wrong);
        dinov_queue_download(b.queue, b.host, b.out, COUNT * sizeof(float));
        expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
        for (int i = 0; i < COUNT; i++) expect(b.host[i] == b.host[i], "results that are numbers");
        if (turn == 0) memcpy(first, b.host, sizeof first);
        expect(!memcmp(first, b.host, sizeof first), "results that are the same in every order");
    }
    close_bench(&b);
}

/* ---- the device ---- */

DINOV_KERNEL(THREADS) twice(arguments a)
{
    a.out[blockIdx.x * THREADS + threadIdx.x] = 2 * a.in[blockIdx.x * THREADS + threadIdx.x];
}
DINOV_KERNEL(THREADS) onwards(arguments a) { a.out[blockIdx.x * THREADS + threadIdx.x] += 1; }

static void early_read(bool wrong)
{
    bench b = open_bench();
    launch(&b, twice, false);
    dinov_queue_download(b.queue, b.host, b.out, COUNT * sizeof(float));
    if (!wrong) expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
    for (int i = 0; i < COUNT; i++) expect(b.host[i] == 2 * value(i), "results");
    close_bench(&b);
}

static void early_change(bool wrong)
{
    bench b = open_bench();
    for (int i = 0; i < COUNT; i++) b.host[i] = 3;
    dinov_queue_upload(b.queue, b.out, b.host, COUNT * sizeof(float));
    if (!wrong) expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
    for (int i = 0; i < COUNT; i++) b.host[i] = 4;
    dinov_queue_download(b.queue, b.host, b.out, COUNT * sizeof(float));
    expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
    for (int i = 0; i < COUNT; i++) expect(b.host[i] == 3, "results");
    close_bench(&b);
}

/* Down to where an upload came from, without a sync between: right, if the upload is issued first. */
static void up_and_down(bool wrong)
{
    bench b = open_bench();
    launch(&b, twice, false);
    for (int i = 0; i < COUNT; i++) b.host[i] = 5;
    if (!wrong) dinov_queue_upload(b.queue, b.in, b.host, COUNT * sizeof(float));
    dinov_queue_download(b.queue, b.host, b.out, COUNT * sizeof(float));
    if (wrong) dinov_queue_upload(b.queue, b.in, b.host, COUNT * sizeof(float));
    dinov_queue_download(b.queue, b.host, b.in, COUNT * sizeof(float));
    expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
    for (int i = 0; i < COUNT; i++) expect(b.host[i] == 5, "results");
    close_bench(&b);
}

/* Without lateness, what is early elsewhere is right. */
static void at_once(bool wrong)
{
    shim_late = wrong;
    early_read(true);
    early_change(true);
}

static void missing_after(bool wrong)
{
    bench        b     = open_bench();
    dinov_queue *other = NULL;
    expect(dinov_queue_new(&other, b.device, NULL) == DINOV_OK, "a queue");
    launch(&b, twice, false);
    if (!wrong) dinov_queue_after(other, b.queue);
    dinov_queue_download(other, b.host, b.out, COUNT * sizeof(float));
    expect(dinov_queue_sync(other, NULL) == DINOV_OK, "a sync");
    for (int i = 0; i < COUNT; i++) expect(b.host[i] == 2 * value(i), "results");
    dinov_queue_free(&other);
    close_bench(&b);
}

static void unpinned(bool wrong)
{
    bench b          = open_bench();
    float own[COUNT] = {0};
    dinov_queue_upload(b.queue, b.in, wrong ? own : b.host, sizeof own);
    close_bench(&b);
}

static void long_upload(bool wrong)
{
    bench b = open_bench();
    dinov_queue_upload(b.queue, b.in + (wrong ? 1 : 0), b.host, COUNT * sizeof(float));
    close_bench(&b);
}

static void freed_twice(bool wrong)
{
    bench b    = open_bench();
    void *more = dinov_device_alloc(b.device, 100);
    dinov_device_free(b.device, more);
    if (wrong) dinov_device_free(b.device, more);
    close_bench(&b);
}

static void leak(bool wrong)
{
    bench b    = open_bench();
    void *more = dinov_device_alloc(b.device, 100);
    if (!wrong) dinov_device_free(b.device, more);
    close_bench(&b);
}

static void much_shared(bool wrong)
{
    bench     b = open_bench();
    arguments a = {b.out, b.in, false};
    DINOV_LAUNCH(&b.stream, "planted", twice, BLOCKS, THREADS, (wrong ? 164 : 163) * 1024, a);
    close_bench(&b);
}

static void high_grid(bool wrong)
{
    bench     b = open_bench();
    arguments a = {b.out, b.in, false};
    DINOV_LAUNCH(&b.stream, "planted", twice, dim3(BLOCKS, wrong ? 65536 : 1), THREADS, 0, a);
    close_bench(&b);
}

static void empty_grid(bool wrong)
{
    bench     b = open_bench();
    arguments a = {b.out, b.in, false};
    DINOV_LAUNCH(&b.stream, "planted", twice, dim3(wrong ? 0 : BLOCKS), THREADS, 0, a);
    close_bench(&b);
}

static void failed_launch(bool wrong)
{
    bench       b   = open_bench();
    dinov_error err = {};
    if (wrong) shim_fail_launch(2);
    launch(&b, twice, false);
    launch(&b, onwards, false);
    dinov_status status = dinov_queue_sync(b.queue, &err);
    if (status == DINOV_ERR_DEVICE && !strcmp(err.code, "DEV-FAULT")) expect(false, err.msg);
    expect(status == DINOV_OK, "a sync");
    close_bench(&b);
}

static void failed_alloc(bool wrong)
{
    bench b = open_bench();
    if (wrong) shim_fail_alloc(1);
    void *more = dinov_device_alloc(b.device, 100);
    expect(more, "memory");
    dinov_device_free(b.device, more);
    close_bench(&b);
}

struct recorded {
    bench *b;
    bool   wrong;
};

static void issue(void *arg)
{
    recorded *r = (recorded *)arg;
    launch(r->b, onwards, false);
    if (r->wrong) dinov_queue_sync(r->b->queue, NULL);
}

/* Recorded work does nothing yet; each replay does it once, in its place. */
static void recording(bool wrong)
{
    bench        b     = open_bench();
    recorded     r     = {&b, wrong};
    dinov_graph *graph = NULL;
    launch(&b, twice, false);
    expect(dinov_queue_record(&graph, b.queue, issue, &r, NULL) == DINOV_OK, "a recording");
    r = recorded{};
    for (int turn = 0; turn < 3; turn++) {
        dinov_queue_download(b.queue, b.host, b.out, COUNT * sizeof(float));
        dinov_queue_begin(b.queue);
        dinov_queue_replay(b.queue, graph);
        dinov_queue_end(b.queue);
        expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
        for (int i = 0; i < COUNT; i++) expect(b.host[i] == 2 * value(i) + (float)turn, "results");
    }
    expect(dinov_queue_busy(b.queue) > 0, "time of the device");
    dinov_graph_free(&graph);
    close_bench(&b);
}

static const struct misuse {
    const char *name;
    void (*run)(bool wrong);
    const char *told;
} misuses[] = {
    {"a result read before a sync", early_read, "results"},
    {"an upload's source changed before a sync", early_change, "results"},
    {"an upload of what a download changes", up_and_down, "results"},
    {"work at once", at_once, "results"},
    {"a queue that does not wait for another", missing_after, "results"},
    {"an upload from memory that is not pinned", unpinned, "not in live pinned memory"},
    {"an upload longer than its place", long_upload, "not in live device memory"},
    {"memory freed twice", freed_twice, "freed memory"},
    {"memory that outlives the device", leak, "of its memory live"},
    {"more shared memory than sm_80 has", much_shared, "bytes of shared memory"},
    {"a grid higher than 65535", high_grid, "blocks; expected"},
    {"an empty grid", empty_grid, "blocks; expected"},
    {"a launch that fails", failed_launch, "planted failed: error 719"},
    {"an allocation that fails", failed_alloc, "memory"},
    {"a sync while work is recorded", recording, "while work is recorded"},
};

/* ---- arithmetic ---- */

/* Matrices [16, 16] and [8, 16] through the fragments, the second once as rows and once, turned, as columns. */
template <typename T> DINOV_KERNEL(WARP) product(float *d, const T *a, const T *b, const T *turned)
{
    T       *held = (T *)dynamic_shared(), *mine = held + 16 * 16, *other = mine + 8 * 16;
    uint32_t fa[4], fb[4], ft[4];
    float    sum[4] = {0}, again[4] = {0};
    int      l = (int)threadIdx.x;
    for (int i = l; i < 256; i += WARP) held[i] = a[i];
    for (int i = l; i < 128; i += WARP) mine[i] = b[i], other[i] = turned[i];
    warp_barrier();
    load_matrices(fa, held + (l % 16) * 16 + l / 16 * 8);
    load_matrices(fb, mine + (l % 8) * 16 + l / 8 % 2 * 8);
    load_matrices_transposed(ft, other + (l % 16) * 8);
    multiply<T>(sum, fa, fb);
    multiply<T>(again, fa, ft);
    for (int i = 0; i < 4; i++) {
        int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        d[row * 8 + column] = sum[i], d[128 + row * 8 + column] = again[i];
    }
}

template <typename T> static void check_product()
{
    bench b    = open_bench();
    T    *a    = (T *)dinov_device_alloc(b.device, 256 * sizeof(T));
    T    *rows = (T *)dinov_device_alloc(b.device, 128 * sizeof(T)), *turned = (T *)dinov_device_alloc(b.device, 128 * sizeof(T));
    T    *host = (T *)dinov_pinned_alloc(b.device, 512 * sizeof(T));
    for (int i = 0; i < 256; i++) host[i] = from_float<T>((float)(i * 7 % 23 - 11));
    for (int n = 0; n < 8; n++)
        for (int k = 0; k < 16; k++) {
            T v                    = from_float<T>((float)((n * 5 + k * 3) % 17 - 8));
            host[256 + n * 16 + k] = v, host[384 + k * 8 + n] = v;
        }
    dinov_queue_upload(b.queue, a, host, 256 * sizeof(T));
    dinov_queue_upload(b.queue, rows, host + 256, 128 * sizeof(T));
    dinov_queue_upload(b.queue, turned, host + 384, 128 * sizeof(T));
    DINOV_LAUNCH(&b.stream, "product", (product<T>), 1, WARP, 512 * sizeof(T), b.out, a, rows, turned);
    dinov_queue_download(b.queue, b.host, b.out, 256 * sizeof(float));
    expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            float want = 0;
            for (int k = 0; k < 16; k++) want += to_float(host[m * 16 + k]) * to_float(host[256 + n * 16 + k]);
            expect(b.host[m * 8 + n] == want && b.host[128 + m * 8 + n] == want, "the product");
        }
    dinov_device_free(b.device, a), dinov_device_free(b.device, rows), dinov_device_free(b.device, turned);
    dinov_pinned_free(b.device, host);
    close_bench(&b);
}

static void products(bool wrong)
{
    (void)wrong;
    check_product<bf16>();
    check_product<f16>();
}

/* Every half there and back, and floats as base/dtype.c rounds them. */
static void conversions(bool wrong)
{
    uint64_t state = 88172645463325252u;
    (void)wrong;
    for (uint32_t i = 0; i < 65536; i++) {
        float h = to_float(f16{(uint16_t)i}), v = to_float(bf16{(uint16_t)i});
        if (h == h) expect(from_float<f16>(h).bits == i, "halves there and back");
        if (v == v) expect(from_float<bf16>(v).bits == i, "bf16 there and back");
        int    exponent = (int)(i >> 10 & 31), fraction = (int)(i & 1023);
        double want = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        if (exponent < 31)
            expect((double)fabsf(h) == want, "the value of a half");
        else
            expect(fraction ? h != h : isinf(h), "the value of a half");
    }
    for (int i = 0; i < 4000000; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        uint32_t bits = (uint32_t)(state >> 32);
        if (i % 4 == 1) bits = (bits & 0x8fffffff) | 0x30000000; /* where halves are subnormal or small */
        if (i % 4 == 2) bits &= 0xfffff000;                      /* ties */
        float v = shim_float(bits);
        if (v != v) {
            expect(from_float<f16>(v).bits == 0x7fff && from_float<bf16>(v).bits == 0x7fff, "what is no number");
            continue;
        }
        expect(from_float<f16>(v).bits == dinov_f16_of(v), "halves as dinov_f16_of");
        expect(from_float<bf16>(v).bits == dinov_bf16_of(v), "bf16 as dinov_bf16_of");
        expect(pack2<bf16>(v, 1.0f) == (0x3f800000u | dinov_bf16_of(v)), "two elements in a register");
    }
    expect(exp2_fast(-CUDART_INF_F) == 0 && exp2_fast(3.0f) == 8 && exp2_fast(-140.0f) == 0, "powers of two");
}

/* Two threads, each with its own queue. */
static void use_device(void)
{
    float first[COUNT];
    bench b = open_bench();
    for (int turn = 0; turn < 30; turn++) {
        launch(&b, overwritten_early, false);
        dinov_queue_download(b.queue, b.host, b.out, COUNT * sizeof(float));
        expect(dinov_queue_sync(b.queue, NULL) == DINOV_OK, "a sync");
        if (turn == 0) memcpy(first, b.host, sizeof first);
        expect(!memcmp(first, b.host, sizeof first), "the same results at every turn");
    }
    close_bench(&b);
}

static void two_threads(bool wrong)
{
    (void)wrong;
    std::thread other(use_device);
    use_device();
    other.join();
}

/* ---- processes ---- */

struct result {
    int  code; /* the child's exit code; 1000 and a signal */
    char said[8000];
};

static result in_child(const planted *p, void (*run)(bool), bool wrong)
{
    result r = {};
    int    ends[2];
    size_t had = 0;
    fflush(stdout);
    if (pipe(ends)) exit(1);
    pid_t child = fork();
    if (child < 0) exit(1);
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]), close(ends[1]);
        alarm(60);
        if (p)
            run_planted(p, wrong);
        else
            run(wrong);
        _exit(0);
    }
    close(ends[1]);
    for (;;) {
        char    some[512];
        ssize_t n = read(ends[0], some, sizeof some);
        if (n <= 0) break;
        size_t fits = sizeof r.said - 1 - had < (size_t)n ? sizeof r.said - 1 - had : (size_t)n;
        memcpy(r.said + had, some, fits);
        had += fits;
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return r;
}

static int checks, failures;

static void check(const char *name, const planted *p, void (*run)(bool), bool wrong, const char *told)
{
    result r = in_child(p, run, wrong);
    bool ok  = !wrong ? r.code == 0 : (r.code == 70 || r.code == 1) && (strstr(r.said, told) || strstr(r.said, "AddressSanitizer"));
    checks++;
    if (ok) return;
    failures++;
    printf("FAILED %s, %s: exit code %d, expected %s%s; it said:\n%s\n", name, wrong ? "with the fault" : "sound", r.code,
           wrong ? "a word on " : "0", wrong ? told : "", r.said);
}

int main(void)
{
    for (const planted &p : all) check(p.name, &p, NULL, false, ""), check(p.name, &p, NULL, true, p.told);
    for (const misuse &m : misuses) check(m.name, NULL, m.run, false, ""), check(m.name, NULL, m.run, true, m.told);
    check("products", NULL, products, false, "");
    check("two threads", NULL, two_threads, false, "");
    check("conversions", NULL, conversions, false, "");
    printf("%d checks, %d failed\n", checks, failures);
    return failures != 0;
}
