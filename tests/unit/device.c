/* SPDX-License-Identifier: Apache-2.0
 *
 * kernels/cuda/device.c on a fake runtime: copies of any size, order between queues, recorded work, busy time, failures at every
 * call, and that nothing is left behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/products.h"
#include "tests/kernels/fake_runtime.h"

#include <cuda_runtime_api.h>
#include <math.h>

/* What stands beside device.c. */
void         dinov_cuda_table(dinov_ops *ops, dinov_dtype real, const char *name) { *ops = (dinov_ops){.name = name, .real_size = real}; }
dinov_status dinov_products_open(dinov_products **out, int sm, dinov_dtype real, dinov_error *err)
{
    (void)sm, (void)real, (void)err;
    *out = NULL;
    return DINOV_OK;
}
void         dinov_products_close(dinov_products **products) { *products = NULL; }
const char  *dinov_products_name(const dinov_products *products) { return products ? "" : "own"; }
dinov_status dinov_cudnn_open(dinov_cudnn **out, int sm, dinov_dtype real, dinov_error *err)
{
    (void)sm, (void)real, (void)err;
    *out = NULL;
    return DINOV_OK;
}
void        dinov_cudnn_close(dinov_cudnn **cudnn) { *cudnn = NULL; }
const char *dinov_cudnn_name(const dinov_cudnn *cudnn) { return cudnn ? "" : "none"; }

struct fixture {
    dinov_device *device;
    dinov_queue  *queue, *other;
};

static struct fixture open_all(void)
{
    struct fixture f;
    fake_runtime = (struct fake_runtime){.devices = 2};
    assert_int_equal(dinov_device_open(&f.device, 0, DINOV_BF16, NULL), DINOV_OK);
    assert_int_equal(dinov_queue_new(&f.queue, f.device, NULL), DINOV_OK);
    assert_int_equal(dinov_queue_new(&f.other, f.device, NULL), DINOV_OK);
    return f;
}

static void close_all(struct fixture *f)
{
    dinov_queue_free(&f->queue);
    dinov_queue_free(&f->other);
    dinov_device_close(&f->device);
    assert_int_equal(fake_runtime.alive, 0);
}

static void devices_are_found_and_named(void **state)
{
    (void)state;
    struct fixture f = open_all();
    dinov_device  *none;
    dinov_error    err;
    assert_string_equal(dinov_device_name(f.device), "cuda:0 Fake GPU");
    assert_string_equal(dinov_device_ops(f.device)->name, "cuda-sm90-bf16-own-none");
    assert_int_equal(dinov_device_open(&none, 1, DINOV_F32, &err), DINOV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "compute capability 7.0"));
    assert_int_equal(dinov_device_open(&none, 2, DINOV_F32, &err), DINOV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "expected 0 to 1"));
    fake_runtime.devices = 0;
    assert_int_equal(dinov_device_open(&none, 0, DINOV_F32, &err), DINOV_ERR_UNSUPPORTED);
    assert_string_equal(err.code, "DEV-CUDA");
    assert_null(none);
    close_all(&f);
}

/* More than the ring holds, from memory that is reused at once. */
static void what_is_sent_arrives(void **state)
{
    (void)state;
    enum { MOST = (16 << 20) * 5 + 12345 };
    struct fixture f    = open_all();
    unsigned char *from = malloc(MOST), *there = dinov_device_alloc(f.device, MOST), *back = dinov_pinned_alloc(f.device, MOST);
    for (size_t i = 0; i < MOST; i++) from[i] = (unsigned char)(i * 2654435761u >> 13);
    dinov_queue_send(f.queue, there, from, MOST);
    memset(from, 0, MOST);
    for (int i = 0; i < 9; i++) { /* small ones take slots too */
        unsigned char value = (unsigned char)i;
        dinov_queue_send(f.queue, there + i, &value, 1);
    }
    dinov_queue_download(f.queue, back, there, MOST);
    assert_int_equal(dinov_queue_sync(f.queue, NULL), DINOV_OK);
    for (size_t i = 0; i < MOST; i++)
        if (back[i] != (i < 9 ? (unsigned char)i : (unsigned char)(i * 2654435761u >> 13))) fail_msg("byte %zu", i);
    assert_non_null(dinov_queue_stage(f.queue));
    assert_ptr_equal(dinov_queue_stage(f.queue), dinov_queue_stage(f.queue));
    free(from);
    dinov_device_free(f.device, there);
    dinov_pinned_free(f.device, back);
    close_all(&f);
}

static void queues_wait_for_each_other(void **state)
{
    (void)state;
    struct fixture f = open_all();
    int *there = dinov_device_alloc(f.device, 8), *host = dinov_pinned_alloc(f.device, 16);
    for (int round = 0; round < 3; round++) {
        host[0] = 100 + round, host[1] = -1;
        dinov_queue_upload(f.other, there, host, 4);
        dinov_queue_after(f.queue, f.other);
        dinov_queue_copy(f.queue, there + 1, there, 4);
        dinov_queue_after(f.other, f.queue);
        dinov_queue_download(f.other, host + 1, there + 1, 4);
        assert_int_equal(dinov_queue_sync(f.other, NULL), DINOV_OK);
        assert_int_equal(host[1], 100 + round);
    }
    dinov_device_free(f.device, there);
    dinov_pinned_free(f.device, host);
    close_all(&f);
}

struct issue {
    dinov_queue *queue;
    int         *to, *from;
    int          times;
};

static void issue(void *arg)
{
    struct issue *i = arg;
    i->times++;
    dinov_queue_copy(i->queue, i->to, i->from, 4);
}

static void recorded_work_is_replayed(void **state)
{
    (void)state;
    struct fixture f = open_all();
    dinov_graph   *graph;
    int           *there = dinov_device_alloc(f.device, 8), *host = dinov_pinned_alloc(f.device, 8);
    struct issue   i = {f.queue, there + 1, there, 0};
    host[0]          = 1, host[1] = 0;
    dinov_queue_upload(f.queue, there, host, 8);
    assert_int_equal(dinov_queue_record(&graph, f.queue, issue, &i, NULL), DINOV_OK);
    dinov_queue_download(f.queue, host, there, 8);
    assert_int_equal(dinov_queue_sync(f.queue, NULL), DINOV_OK);
    assert_int_equal(host[1], 0); /* it was not run */
    for (int v = 5; v < 8; v++) {
        host[0] = v;
        dinov_queue_upload(f.queue, there, host, 4);
        dinov_queue_replay(f.queue, graph);
        dinov_queue_download(f.queue, host, there, 8);
        assert_int_equal(dinov_queue_sync(f.queue, NULL), DINOV_OK);
        assert_int_equal(host[1], v);
    }
    assert_int_equal(i.times, 1);
    dinov_graph_free(&graph);
    dinov_graph_free(&graph);
    dinov_device_free(f.device, there);
    dinov_pinned_free(f.device, host);
    close_all(&f);
}

/* A copy takes the fake a millisecond; more spans than are kept at a time. */
static void busy_time_is_that_between_begin_and_end(void **state)
{
    (void)state;
    struct fixture f = open_all();
    int           *there = dinov_device_alloc(f.device, 8);
    assert_true(dinov_queue_busy(f.queue) == 0);
    for (int i = 0; i < 150; i++) {
        dinov_queue_copy(f.queue, there + 1, there, 4); /* outside */
        dinov_queue_begin(f.queue);
        for (int k = 0; k < i + 1; k++) dinov_queue_copy(f.queue, there + 1, there, 4);
        dinov_queue_end(f.queue);
    }
    assert_true(dinov_queue_busy(f.queue) < 11);
    assert_int_equal(dinov_queue_sync(f.queue, NULL), DINOV_OK);
    assert_true(fabs(dinov_queue_busy(f.queue) - 11.325) < 0.001); /* 1 + 2 + ... + 150 ms */
    dinov_device_free(f.device, there);
    close_all(&f);
}

/* Everything above in short; its first failure. */
static dinov_status use_all(dinov_error *err)
{
    dinov_device *device = NULL;
    dinov_queue  *queue = NULL, *other = NULL;
    dinov_graph  *graph = NULL;
    int          *there = NULL, value = 3;
    dinov_status  status = dinov_device_open(&device, 0, DINOV_F32, err);
    if (status == DINOV_OK) status = dinov_queue_new(&queue, device, err);
    if (status == DINOV_OK) status = dinov_queue_new(&other, device, err);
    if (status == DINOV_OK && !(there = dinov_device_alloc(device, 8))) status = DINOV_ERR_NOMEM;
    if (status == DINOV_OK) {
        struct issue i = {queue, there + 1, there, 0};
        dinov_queue_send(queue, there, &value, 4);
        dinov_queue_send(queue, there, &value, 4);
        dinov_queue_send(queue, there, &value, 4);
        dinov_queue_after(other, queue);
        dinov_queue_begin(queue);
        dinov_queue_end(queue);
        dinov_queue_stage(queue);
        status = dinov_queue_record(&graph, queue, issue, &i, err);
        if (status == DINOV_OK) dinov_queue_replay(queue, graph);
        dinov_status synced = dinov_queue_sync(queue, status == DINOV_OK ? err : NULL);
        if (status == DINOV_OK) status = synced;
    }
    dinov_graph_free(&graph);
    dinov_queue_free(&queue);
    dinov_queue_free(&other);
    if (device) dinov_device_free(device, there);
    dinov_device_close(&device);
    return status;
}

static void a_failure_of_any_call_is_kept_and_told(void **state)
{
    (void)state;
    dinov_error err;
    fake_runtime = (struct fake_runtime){.devices = 1};
    assert_int_equal(use_all(NULL), DINOV_OK);
    assert_int_equal(fake_runtime.alive, 0);
    long calls = fake_runtime.calls, told = 0;
    assert_true(calls > 250); /* most are events of the spans */
    for (long n = 1; n <= calls; n++)
        for (int kind = 0; kind < 2; kind++) {
            fake_runtime = (struct fake_runtime){
                .devices = 1, .fail_at = n, .error = kind ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure};
            memset(&err, 0, sizeof err);
            dinov_status status = use_all(&err);
            if (status == DINOV_OK) continue; /* the last syncs of closing have nobody to tell */
            told++;
            assert_true(status == DINOV_ERR_NOMEM || (status == DINOV_ERR_DEVICE && strstr(err.msg, "cuda:0 Fake GPU")));
            assert_int_equal(fake_runtime.alive, 0);
        }
    assert_true(told >= 2 * calls - 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_are_found_and_named),
        cmocka_unit_test(what_is_sent_arrives),
        cmocka_unit_test(queues_wait_for_each_other),
        cmocka_unit_test(recorded_work_is_replayed),
        cmocka_unit_test(busy_time_is_that_between_begin_and_end),
        cmocka_unit_test(a_failure_of_any_call_is_kept_and_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
