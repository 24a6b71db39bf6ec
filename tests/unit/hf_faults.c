/* SPDX-License-Identifier: Apache-2.0
 *
 * Folders of Hugging Face's, written and read when the machine fails: no memory, no space, a sudden end.
 * The folder is the old one, the new one, or none; a failure leaves no other thing behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/folder.h"
#include "convert/import.h"
#include "format/params.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TENSORS = 32, ROOM = 4096, SHARD = 4000, KILLS = 60 };

struct model {
    dinov_param        params[TENSORS];
    dinov_named_tensor tensors[TENSORS];
    dinov_weights      weights;
    uint8_t            bytes[ROOM]; /* under every tensor */
};

static char         parent[] = "/tmp/dinov-hf-XXXXXX";
static char         path[64], away[80];
static struct model one, other;

static void make(struct model *m, int value)
{
    m->weights.model      = (dinov_model){.patch      = 2,
                                          .dim        = 8,
                                          .depth      = 1,
                                          .heads      = 2,
                                          .ffn        = DINOV_FFN_MLP,
                                          .hidden     = 32,
                                          .channels   = 3,
                                          .grid_h     = 2,
                                          .grid_w     = 2,
                                          .layerscale = 1,
                                          .qkv_bias   = 1,
                                          .ln_eps     = 1e-6};
    m->weights.preprocess = (dinov_preprocess){"eval:224", {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};
    m->weights.tensors    = m->tensors;
    m->weights.count      = dinov_param_count(&m->weights.model);
    memset(m->bytes, value, sizeof m->bytes);
    for (size_t i = 0; i < m->weights.count; i++) {
        dinov_param_at(&m->weights.model, i, &m->params[i]);
        m->tensors[i] = (dinov_named_tensor){m->params[i].name, {.data = m->bytes, .dtype = DINOV_F32, .rank = m->params[i].rank}};
        memcpy(m->tensors[i].tensor.dim, m->params[i].dim, sizeof m->params[i].dim);
    }
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(parent)) return -1;
    snprintf(path, sizeof path, "%s/model", parent);
    make(&one, 1);
    make(&other, 2);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dinov_folder_remove(path, dinov_hf_is_written);
    return rmdir(parent);
}

/* What lies beside the folder is left from a kill. */
static int entries(void)
{
    int  count = 0;
    DIR *dir   = opendir(parent);
    for (struct dirent *e; (e = readdir(dir));) count += e->d_name[0] != '.';
    closedir(dir);
    return count;
}

static void sweep_away(void)
{
    DIR *dir = opendir(parent);
    for (struct dirent *e; (e = readdir(dir));) {
        if (!strstr(e->d_name, ".tmp-")) continue;
        snprintf(away, sizeof away, "%s/%.40s", parent, e->d_name);
        DIR *inner = opendir(away);
        for (struct dirent *f; (f = readdir(inner));) unlinkat(dirfd(inner), f->d_name, 0);
        closedir(inner);
        rmdir(away);
    }
    closedir(dir);
}

static dinov_status read_it(int *value, dinov_error *err)
{
    dinov_import *in;
    *value              = 0;
    dinov_status status = dinov_import_open(&in, path, NULL, err);
    if (status != DINOV_OK) return status;
    const dinov_weights *w = dinov_import_weights(in);
    assert_int_equal(w->count, one.weights.count);
    assert_int_equal(w->model.heads, 2);
    *value = *(const uint8_t *)w->tensors[0].tensor.data;
    for (size_t i = 0; i < w->count; i++) assert_int_equal(*(const uint8_t *)w->tensors[i].tensor.data, *value);
    dinov_import_close(&in);
    return DINOV_OK;
}

static void expect(int value)
{
    int         found;
    dinov_error err;
    if (read_it(&found, &err) != DINOV_OK) fail_msg("%s", err.msg);
    assert_int_equal(found, value);
    assert_int_equal(entries(), 1);
}

static void writing_without_memory(void **state)
{
    (void)state;
    for (int replace = 0; replace < 2; replace++)
        for (int forever = 0; forever < 2; forever++) {
            dinov_status status = DINOV_ERR_NOMEM;
            long         n;
            dinov_folder_remove(path, dinov_hf_is_written);
            if (replace) assert_int_equal(dinov_hf_write(path, &one.weights, SHARD, 0, NULL), DINOV_OK);
            for (n = 1; status != DINOV_OK; n++) {
                dinov_error err = {0};
                dinov_alloc_fail_at(n, forever);
                status = dinov_hf_write(path, &other.weights, SHARD, replace, &err);
                dinov_alloc_fail_at(0, 0);
                assert_true(n < 5000);
                if (status == DINOV_OK) continue;
                assert_int_equal(status, DINOV_ERR_NOMEM);
                if (replace) expect(1);
                assert_int_equal(entries(), replace);
            }
            assert_true(n > 50);
            expect(2);
        }
}

static void reading_without_memory(void **state)
{
    (void)state;
    for (uint64_t shard = 0; shard <= SHARD; shard += SHARD) {
        assert_int_equal(dinov_hf_write(path, &one.weights, shard, 1, NULL), DINOV_OK);
        for (int forever = 0; forever < 2; forever++) {
            dinov_status status = DINOV_ERR_NOMEM;
            long         n;
            for (n = 1; status != DINOV_OK; n++) {
                dinov_error err = {0};
                int         value;
                dinov_alloc_fail_at(n, forever);
                status = read_it(&value, &err);
                dinov_alloc_fail_at(0, 0);
                assert_true(n < 5000);
                if (status != DINOV_OK && status != DINOV_ERR_NOMEM) fail_msg("allocation %ld: %s [%s]", n, err.msg, err.code);
            }
            assert_true(n > 50);
        }
    }
}

static void file_size_limit(void **state)
{
    struct rlimit old;
    int           refused = 0;
    (void)state;
    assert_int_equal(dinov_hf_write(path, &one.weights, 0, 1, NULL), DINOV_OK);
    getrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < 6000; limit += 307) {
        dinov_error         err   = {0};
        const struct rlimit small = {limit, old.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        dinov_status status = dinov_hf_write(path, &one.weights, 0, 1, &err);
        setrlimit(RLIMIT_FSIZE, &old);
        if (status != DINOV_OK) {
            assert_string_equal(err.code, "IO-WRITE");
            refused++;
        }
        expect(1);
    }
    assert_true(refused > 5);
}

/* Killed at some moment of replacing: the old folder or the new one, whole. */
static void killed(void **state)
{
    int             now = 1, kept = 0, replaced = 0;
    struct timespec from, to;
    (void)state;
    assert_int_equal(dinov_hf_write(path, &one.weights, SHARD, 1, NULL), DINOV_OK);
    /* One writing in a process of its own, microseconds. */
    clock_gettime(CLOCK_MONOTONIC, &from);
    pid_t whole_child = fork();
    if (whole_child == 0) _exit(dinov_hf_write(path, &one.weights, SHARD, 1, NULL) != DINOV_OK);
    waitpid(whole_child, NULL, 0);
    clock_gettime(CLOCK_MONOTONIC, &to);
    long whole = (to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
    for (int i = 0; i < KILLS; i++) {
        int   next  = 3 - now, found;
        pid_t child = fork();
        if (child == 0) _exit(dinov_hf_write(path, next == 1 ? &one.weights : &other.weights, SHARD, 1, NULL) != DINOV_OK);
        usleep((useconds_t)(i * whole * 2 / KILLS));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        dinov_error err;
        if (read_it(&found, &err) != DINOV_OK) fail_msg("after kill %d: %s", i, err.msg);
        assert_true(found == now || found == next);
        kept += found == now;
        replaced += found == next;
        now = found;
        sweep_away();
    }
    printf("kept %d, replaced %d\n", kept, replaced);
    assert_true(kept > 0 && replaced > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writing_without_memory),
        cmocka_unit_test(reading_without_memory),
        cmocka_unit_test(file_size_limit),
        cmocka_unit_test(killed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
