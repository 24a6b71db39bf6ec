/* SPDX-License-Identifier: Apache-2.0
 *
 * The confined process: each call that it must not make is refused, each way that it can end is a status of its parent,
 * and no answer is believed. Files beside the given one, as a confined reader asks for them.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/pool.h"
#include "convert/carry.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static dinov_fence fence_of(dinov_fence_fn run, void *arg, int scratch, dinov_text *answer)
{
    const dinov_fence_job job   = {.run = run, .arg = arg, .memory = 64 << 20, .scratch = scratch, .where = "test"};
    dinov_fence           fence = DINOV_FENCE_NONE;
    dinov_error           err;
    if (dinov_fence_run(answer, &fence, &job, &err) != DINOV_OK) fail_msg("%s", err.msg);
    return fence;
}

static void expect_end(dinov_fence_fn run, void *arg, dinov_status status, const char *code, const char *words)
{
    const dinov_fence_job job = {.run = run, .arg = arg, .memory = 512 << 20, .scratch = -1, .where = "test"};
    dinov_text            answer;
    dinov_fence           fence;
    dinov_error           err = {0};
    assert_int_equal(dinov_fence_run(&answer, &fence, &job, &err), status);
    assert_string_equal(err.code, code);
    if (words && !strstr(err.msg, words)) fail_msg("expected \"%s\" in: %s", words, err.msg);
    assert_null(answer.data);
}

/* ---- What it cannot do ---- */

static const char *names;

static void note(dinov_text *out, const char *call, long result, int want)
{
    if (result == -1 && errno == want) return;
    dinov_text_puts(out, call);
    dinov_text_puts(out, " ");
}

/* Says which calls were not refused. */
static void try_everything(void *arg, dinov_text *out)
{
    int   scratch = *(int *)arg;
    char  byte    = 'x';
    long  page    = sysconf(_SC_PAGESIZE);
    void *own     = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *none[]  = {NULL};

#define TRY(...) note(out, #__VA_ARGS__, (long)(__VA_ARGS__), EPERM)
    TRY(syscall(SYS_openat, AT_FDCWD, names, O_RDONLY));
    TRY(syscall(SYS_openat, AT_FDCWD, "/tmp/dinov-fence-probe", O_CREAT | O_WRONLY, 0600));
#ifdef SYS_open
    TRY(syscall(SYS_open, names, O_RDONLY));
    TRY(syscall(SYS_creat, "/tmp/dinov-fence-probe", 0600));
    TRY(syscall(SYS_fork));
    TRY(syscall(SYS_vfork));
    TRY(syscall(SYS_unlink, names));
    TRY(syscall(SYS_rename, names, "/tmp/dinov-fence-probe"));
#endif
#ifdef SYS_openat2
    TRY(syscall(SYS_openat2, AT_FDCWD, names, NULL, 0));
#endif
    TRY(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    TRY(syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0));
    TRY(syscall(SYS_clone, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_NEWUSER, 0, 0, 0, 0));
#ifdef SYS_clone3
    note(out, "clone3", syscall(SYS_clone3, NULL, 0), ENOSYS);
#endif
    TRY(syscall(SYS_execve, "/bin/true", none, none));
    TRY(syscall(SYS_execveat, AT_FDCWD, "/bin/true", none, none, 0));
    TRY(syscall(SYS_socket, 2, 1, 0));
    TRY(syscall(SYS_socketpair, 1, 1, 0, NULL));
    TRY(syscall(SYS_connect, 0, NULL, 0));
    TRY(syscall(SYS_kill, getppid(), 0));
    TRY(syscall(SYS_tgkill, 1, 1, 0));
    TRY(syscall(SYS_pidfd_open, 1, 0));
    TRY(syscall(SYS_ptrace, 0, 0, 0, 0));
    TRY(syscall(SYS_process_vm_writev, 1, NULL, 0, NULL, 0, 0));
    TRY(syscall(SYS_read, scratch, &byte, 1));
    TRY(syscall(SYS_pread64, scratch, &byte, 1, 0));
    TRY(syscall(SYS_write, STDIN_FILENO, &byte, 1));
    TRY(syscall(SYS_write, scratch, &byte, 1));
    TRY(syscall(SYS_writev, STDERR_FILENO, NULL, 0));
    TRY(syscall(SYS_pwrite64, scratch, &byte, 1, 0));
    TRY(syscall(SYS_sendfile, STDERR_FILENO, scratch, NULL, 1));
    TRY(syscall(SYS_fallocate, scratch, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1));
    TRY(syscall(SYS_fallocate, STDERR_FILENO, 0, 0, 1));
    TRY(syscall(SYS_ftruncate, scratch, 0));
    TRY(syscall(SYS_mmap, NULL, page, PROT_READ, MAP_PRIVATE, scratch, 0));
    TRY(syscall(SYS_mmap, NULL, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    TRY(syscall(SYS_mprotect, own, page, PROT_READ | PROT_EXEC));
    TRY(syscall(SYS_dup, scratch));
    TRY(syscall(SYS_dup3, scratch, 9, 0));
    TRY(syscall(SYS_pipe2, NULL, 0));
    TRY(syscall(SYS_ioctl, STDERR_FILENO, 0, 0));
    TRY(syscall(SYS_fcntl, STDERR_FILENO, F_DUPFD, 0));
    TRY(syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0));
    TRY(syscall(SYS_seccomp, 0, 0, NULL));
    TRY(syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, NULL));
    TRY(syscall(SYS_memfd_create, "x", 0));
    TRY(syscall(SYS_unshare, CLONE_NEWUSER));
    TRY(syscall(SYS_mount, NULL, NULL, NULL, 0, NULL));
    TRY(syscall(SYS_chroot, "/"));
    TRY(syscall(SYS_unlinkat, AT_FDCWD, names, 0));
    TRY(syscall(SYS_renameat2, AT_FDCWD, names, AT_FDCWD, "/tmp/dinov-fence-probe", 0));
    TRY(syscall(SYS_fchmodat, AT_FDCWD, names, 0));
    TRY(syscall(SYS_setuid, 1));
    TRY(syscall(SYS_shmget, 1, 1, 0));
    TRY(syscall(SYS_mq_open, "/x", 0, 0, NULL));
    TRY(syscall(SYS_bpf, 0, NULL, 0));
    TRY(syscall(SYS_userfaultfd, 0));
    TRY(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
#ifdef SYS_io_uring_setup
    TRY(syscall(SYS_io_uring_setup, 1, NULL));
#endif
    TRY(syscall(SYS_keyctl, 0));
    TRY(syscall(SYS_reboot, 0, 0, 0, NULL));
    TRY(syscall(10000));
#if defined(__x86_64__)
    TRY(syscall(0x40000000 | SYS_write, STDERR_FILENO, &byte, 1)); /* x32's number for it */
#endif
    dinov_text_puts(out, "all tried");
}

static void add_index(void *arg, int64_t block, int worker)
{
    (void)worker;
    ((int64_t *)arg)[block] = block + 1;
}

/* What it needs works: memory up to its limit, threads, its file's room. */
static void try_allowed(void *arg, dinov_text *out)
{
    dinov_scratch *scratch      = arg;
    int64_t        blocks[1000] = {0}, sum = 0;
    dinov_pool    *pool;
    void          *room;
    uint8_t       *own  = dinov_alloc(24 << 20, 1);
    void          *much = dinov_alloc((size_t)4 << 30, 1);
    bool           ok   = own && dinov_pool_new(&pool, 3, NULL) == DINOV_OK;
    if (own) memset(own, 1, 24 << 20);
    if (ok) {
        dinov_pool_run(pool, 1000, add_index, blocks);
        dinov_pool_free(&pool);
    }
    for (int i = 0; i < 1000; i++) sum += blocks[i];
    ok = ok && sum == 500500 && dinov_scratch_take(scratch, &room, 40 << 20, "test", NULL) == DINOV_OK;
    if (ok) memset(room, 7, 40 << 20);
    dinov_text_puts(out, ok ? "ok" : "not ok");
    if (much) dinov_text_puts(out, ", 4 GiB of memory");
    dinov_free(much);
    dinov_free(own);
}

static void refuses_what_is_not_needed(void **state)
{
    char          path[] = "/tmp/dinov-unit-XXXXXX";
    dinov_scratch scratch;
    dinov_text    answer;
    (void)state;
    close(mkstemp(path));
    names = path;
    assert_int_equal(dinov_scratch_open(&scratch, 64 << 20, "test", NULL), DINOV_OK);
    dinov_fence fence = fence_of(try_allowed, &scratch, scratch.fd, &answer);
    dinov_text_add(&answer, "", 1);
    assert_string_equal(answer.data, fence == DINOV_FENCE_FULL ? "ok" : "ok, 4 GiB of memory");
    dinov_text_clear(&answer);
    uint64_t size = dinov_scratch_seal(&scratch);
    assert_true(size >= 40 << 20);
    assert_int_equal(scratch.memory[(40 << 20) - 1], 7);
    dinov_scratch_close(&scratch);
    if (fence == DINOV_FENCE_FULL) { /* a sanitizer's build has no filter */
        assert_int_equal(dinov_scratch_open(&scratch, 1 << 20, "test", NULL), DINOV_OK);
        fence_of(try_everything, &scratch.fd, scratch.fd, &answer);
        dinov_text_add(&answer, "", 1);
        assert_string_equal(answer.data, "all tried");
        dinov_text_clear(&answer);
        dinov_scratch_close(&scratch);
    }
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(access("/tmp/dinov-fence-probe", F_OK), -1);
    unlink(path);
}

/* ---- How it can end ---- */

static void fall(void *arg, dinov_text *out)
{
    (void)out;
    *(volatile int *)arg = 1;
}
static void break_a_promise(void *arg, dinov_text *out)
{
    (void)out;
    DINOV_ASSERT(arg != NULL);
}
static void say_nothing(void *arg, dinov_text *out)
{
    (void)arg, (void)out;
    _exit(3);
}
static void say_too_much(void *arg, dinov_text *out)
{
    (void)arg;
    while (out->size <= DINOV_FENCE_ANSWER && !out->failed) dinov_text_add(out, arg, 1 << 20);
    out->failed = false;
}
static void run_out(void *arg, dinov_text *out)
{
    (void)arg;
    out->failed = true;
}
static void never_end(void *arg, dinov_text *out)
{
    (void)out;
    for (;;) ++*(volatile int *)arg;
}
static void touch_it(void *arg, dinov_text *out)
{
    (void)out;
    (void)*(const volatile uint8_t *)arg;
}

/* Kills the other child of its parent. */
static void kill_sibling(pid_t parent)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
    for (int i = 0; i < 5000; i++) {
        FILE *list = fopen(path, "r");
        int   pid;
        while (list && fscanf(list, "%d", &pid) == 1)
            if (pid != getpid()) {
                kill(pid, SIGKILL);
                _exit(0);
            }
        if (list) fclose(list);
        usleep(1000);
    }
    _exit(1);
}

static void every_end_is_a_status(void **state)
{
    static char million[1 << 20];
    char        path[] = "/tmp/dinov-unit-XXXXXX";
    int         fd = mkstemp(path), count = 0;
    pid_t       self = getpid();
    dinov_map   map;
    (void)state;

    /* A sanitizer reports on stderr what it stops at, and ends with a code of its own. */
    expect_end(break_a_promise, NULL, DINOV_ERR_INTERNAL, "FENCE-DIED", "exit code 70");
    expect_end(say_nothing, NULL, DINOV_ERR_INTERNAL, "FENCE-DIED", "exit code 3 and said nothing");
    expect_end(say_too_much, million, DINOV_ERR_INTERNAL, "FENCE-ANSWER", NULL);
    expect_end(run_out, NULL, DINOV_ERR_NOMEM, "MEM", NULL);
#if !UNIT_SANITIZED
    expect_end(fall, NULL, DINOV_ERR_INTERNAL, "FENCE-DIED", "signal 11");
    expect_end(break_a_promise, NULL, DINOV_ERR_INTERNAL, "FENCE-DIED", "internal error at");
    assert_int_equal(write(fd, million, 10000), 10000);
    assert_int_equal(dinov_map_open(&map, path, NULL), DINOV_OK);
    assert_int_equal(ftruncate(fd, 0), 0);
    expect_end(touch_it, (void *)(uintptr_t)(map.data + 9000), DINOV_ERR_IO, "FENCE-CHANGED", NULL);
    dinov_map_close(&map);
#else
    (void)fall, (void)touch_it, (void)map;
#endif
    pid_t killer = fork();
    if (killer == 0) kill_sibling(self);
    expect_end(never_end, &count, DINOV_ERR_NOMEM, "FENCE-KILLED", NULL);
    waitpid(killer, NULL, 0);
    close(fd);
    unlink(path);
}

static void full_disk_is_a_status(void **state)
{
    struct rlimit was, small = {1 << 20, RLIM_INFINITY};
    dinov_scratch scratch;
    dinov_error   err;
    void         *room;
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(dinov_scratch_open(&scratch, (uint64_t)1 << 62, "test", &err), DINOV_ERR_NOMEM);
    assert_string_equal(err.code, "FENCE-START");
    assert_int_equal(dinov_scratch_open(&scratch, 64 << 20, "test", NULL), DINOV_OK);
    assert_int_equal(dinov_scratch_take(&scratch, &room, (64 << 20) + 1, "test", &err), DINOV_ERR_LIMIT);
    assert_string_equal(err.code, "FENCE-LARGE");
    assert_int_equal(dinov_scratch_take(&scratch, &room, UINT64_MAX, "test", &err), DINOV_ERR_LIMIT);
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    setrlimit(RLIMIT_FSIZE, &small);
    dinov_status status = dinov_scratch_take(&scratch, &room, 32 << 20, "test", &err);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_int_equal(status, DINOV_ERR_IO);
    assert_string_equal(err.code, "FENCE-SPACE");
    assert_int_equal(dinov_scratch_take(&scratch, &room, 64 << 20, "test", &err), DINOV_OK);
    dinov_scratch_close(&scratch);
}

/* ---- Answers ---- */

static _Alignas(64) uint8_t first[4096], second[4096];
static const dinov_region regions[] = {{first, sizeof first}, {second, sizeof second}};

static dinov_reader new_reader(void)
{
    static char where[] = "test";
    return (dinov_reader){.where = where, .layout = DINOV_LAYOUT_PTH, .files = {.folder = -1}, .scratch = {.fd = -1}};
}

static dinov_status take(const dinov_text *answer, dinov_reader *reader, dinov_error *err)
{
    dinov_carried what;
    char          name[DINOV_FILES_NAME + 1];
    uint8_t      *exact = dinov_alloc(answer->size, 1); /* a sanitizer then sees the byte behind */
    assert_non_null(exact);
    memcpy(exact, answer->data, answer->size);
    *reader             = new_reader();
    dinov_status status = dinov_carry_take(&what, reader, name, exact, answer->size, regions, 2, err);
    for (size_t i = 0; status == DINOV_OK && i < reader->plain.count; i++) {
        const dinov_tensor *t = &reader->plain.items[i].tensor;
        uint64_t            bytes;
        assert_true(dinov_tensor_bytes(t, &bytes));
        const uint8_t *p = t->data;
        assert_true((p >= first && p + bytes <= first + sizeof first) || (p >= second && p + bytes <= second + sizeof second));
    }
    dinov_free(exact);
    return status;
}

static dinov_text honest(void)
{
    dinov_reader reader = new_reader();
    dinov_text   answer = {0};
    dinov_tensor t      = {.data = first + 256, .dtype = DINOV_F32, .rank = 2, .dim = {2, 3}};
    dinov_tensor u      = {.data = second + 8, .dtype = DINOV_I64, .rank = 0};
    dinov_tensor empty  = {.data = NULL, .dtype = DINOV_F16, .rank = 1};
    reader.facts        = (dinov_facts){.heads = 6, .ln_eps = 1e-6, .has_interp = 1, .interp = {0.1, 1}, .transforms = "joined"};
    reader.torch.copied = 1;
    assert_int_equal(dinov_tensors_add(&reader.plain, "a", 1, &t, "test", NULL), DINOV_OK);
    assert_int_equal(dinov_tensors_add(&reader.plain, "b.c", 3, &u, "test", NULL), DINOV_OK);
    assert_int_equal(dinov_tensors_add(&reader.plain, "e", 1, &empty, "test", NULL), DINOV_OK);
    reader.tensors = reader.plain.items;
    reader.count   = reader.plain.count;
    assert_int_equal(dinov_carry_reader(&answer, &reader, regions, 2, NULL), DINOV_OK);
    dinov_tensors_clear(&reader.plain);
    return answer;
}

static void takes_an_honest_answer(void **state)
{
    dinov_text    answer = honest();
    dinov_reader  reader;
    dinov_error   err, why = {DINOV_ERR_CORRUPT, "ZIP-CRC", "in.pth: damaged"};
    dinov_carried what;
    char          name[DINOV_FILES_NAME + 1];
    (void)state;
    if (take(&answer, &reader, &err) != DINOV_OK) fail_msg("%s", err.msg);
    assert_int_equal(reader.plain.count, 3);
    assert_string_equal(reader.plain.items[1].name, "b.c");
    assert_ptr_equal(reader.plain.items[0].tensor.data, first + 256);
    assert_ptr_equal(reader.plain.items[1].tensor.data, second + 8);
    assert_true(reader.facts.heads == 6 && reader.facts.interp.antialias == 1 && reader.torch.copied == 1);
    dinov_tensors_clear(&reader.plain);
    dinov_text_clear(&answer);

    dinov_carry_error(&answer, &why);
    assert_int_equal(take(&answer, &reader, &err), DINOV_ERR_CORRUPT);
    assert_string_equal(err.code, "ZIP-CRC");
    assert_string_equal(err.msg, "in.pth: damaged");
    dinov_text_clear(&answer);

    dinov_carry_wanted(&answer, "model-1.safetensors");
    reader = new_reader();
    assert_int_equal(dinov_carry_take(&what, &reader, name, answer.data, answer.size, regions, 2, &err), DINOV_OK);
    assert_int_equal(what, DINOV_CARRIED_WANTED);
    assert_string_equal(name, "model-1.safetensors");
    dinov_text_clear(&answer);
}

/* Every byte of an answer with each of its bits flipped, and every length: taken only if sound. */
static void believes_no_answer(void **state)
{
    dinov_text   answer = honest();
    dinov_reader reader;
    dinov_error  err;
    long         refused = 0, limits = 0;
    (void)state;
    for (size_t at = 0; at < answer.size; at++)
        for (int bit = 0; bit < 8; bit++) {
            answer.data[at] ^= (char)(1 << bit);
            dinov_status status = take(&answer, &reader, &err);
            answer.data[at] ^= (char)(1 << bit);
            refused += status != DINOV_OK;
            limits += status == DINOV_ERR_LIMIT;
            dinov_tensors_clear(&reader.plain);
        }
    assert_true(refused > 1000 && limits == 0);
    for (size_t size = answer.size; size-- > 0;) {
        dinov_text cut = {.data = answer.data, .size = size};
        assert_int_equal(take(&cut, &reader, &err), DINOV_ERR_INTERNAL);
        assert_string_equal(err.code, "FENCE-ANSWER");
        dinov_tensors_clear(&reader.plain);
    }
    dinov_text_add(&answer, "x", 1);
    assert_int_equal(take(&answer, &reader, &err), DINOV_ERR_INTERNAL);
    dinov_tensors_clear(&reader.plain);
    dinov_text_clear(&answer);
}

static void refuses_unsound_facts(void **state)
{
    static const dinov_facts bad[] = {
        {.heads = -1},
        {.ln_eps = -1},
        {.ln_eps = INFINITY},
        {.has_interp = 2},
        {.has_interp = 1, .interp = {2, 0}},
        {.has_interp = 1, .interp = {0, 7}},
        {.has_preprocess = 1, .preprocess = {.preset = "eval:224"}},
        {.has_preprocess = 1, .preprocess = {.preset = "a\x1b", .std = {1, 1, 1}}},
        {.transforms = "\n"},
        {.licence = "\n"},
        {.origin = "\x1b[2J"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        dinov_reader reader = new_reader();
        dinov_text   answer = {0};
        dinov_error  err    = {0};
        reader.facts        = bad[i];
        assert_int_equal(dinov_carry_reader(&answer, &reader, regions, 2, NULL), DINOV_OK);
        assert_int_equal(take(&answer, &reader, &err), DINOV_ERR_INTERNAL);
        assert_string_equal(err.code, "FENCE-ANSWER");
        dinov_text_clear(&answer);
    }
    /* A name twice, and a success called an error. */
    dinov_reader reader = new_reader(), back;
    dinov_text   answer = {0};
    dinov_tensor t      = {.data = first, .dtype = DINOV_U8, .rank = 1, .dim = {1}};
    for (int i = 0; i < 2; i++) assert_int_equal(dinov_tensors_add(&reader.plain, "a", 1, &t, "test", NULL), DINOV_OK);
    reader.tensors = reader.plain.items, reader.count = 2;
    assert_int_equal(dinov_carry_reader(&answer, &reader, regions, 2, NULL), DINOV_OK);
    assert_int_equal(take(&answer, &back, NULL), DINOV_ERR_INTERNAL);
    dinov_tensors_clear(&back.plain);
    dinov_tensors_clear(&reader.plain);
    dinov_text_clear(&answer);
    dinov_carry_error(&answer, &(dinov_error){DINOV_OK, "X", "fine"});
    assert_int_equal(take(&answer, &back, NULL), DINOV_ERR_INTERNAL);
    dinov_text_clear(&answer);
}

/* ---- Files beside the given one ---- */

static void brings_files(void **state)
{
    char        folder[] = "/tmp/dinov-unit-XXXXXX", path[64], other[64];
    dinov_files files;
    dinov_map   map;
    dinov_error err;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    snprintf(other, sizeof other, "%s/linked", folder);
    FILE *f = fopen(path, "w");
    fputs("{}", f);
    fclose(f);

    assert_int_equal(dinov_files_open(&files, path, "test", NULL), DINOV_OK);
    files.confined = true;
    assert_int_equal(dinov_files_get(&files, &map, "config.json", 11, &err), DINOV_ERR_IO);
    assert_string_equal(files.wanted, "config.json");
    assert_false(dinov_files_has(&files, "absent"));
    assert_string_equal(files.wanted, "absent");
    files.confined  = false;
    files.wanted[0] = '\0';
    assert_int_equal(dinov_files_bring(&files, "config.json", NULL), DINOV_OK);
    assert_int_equal(dinov_files_bring(&files, "absent", NULL), DINOV_OK);
    files.confined = true;
    assert_true(dinov_files_has(&files, "config.json"));
    assert_false(dinov_files_has(&files, "absent"));
    assert_int_equal(dinov_files_get(&files, &map, "config.json", 11, &err), DINOV_OK);
    assert_true(map.size == 2 && memcmp(map.data, "{}", 2) == 0);
    assert_int_equal(dinov_files_get(&files, &map, "absent", 6, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-OPEN");
    assert_string_equal(files.wanted, "");
    files.confined = false;

    static const char *const bad[] = {"", "..", ".hidden", "a/b", "/etc/passwd", "a\\b"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dinov_files_bring(&files, bad[i], &err), DINOV_ERR_FORMAT);
        assert_string_equal(err.code, "FILES-NAME");
        assert_false(dinov_files_has(&files, bad[i]));
    }
    assert_int_equal(link(path, other), 0);
    assert_int_equal(dinov_files_bring(&files, "linked", &err), DINOV_ERR_FORMAT);
    assert_string_equal(err.code, "FILES-NAME");
    unlink(other);
    assert_int_equal(symlink(path, other), 0);
    assert_int_equal(dinov_files_bring(&files, "linked", &err), DINOV_OK);
    assert_int_equal(dinov_files_get(&files, &map, "linked", 6, &err), DINOV_ERR_IO);
    dinov_status status = DINOV_OK;
    for (int i = 0; i < DINOV_FILES_MAX && status == DINOV_OK; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        status = dinov_files_bring(&files, name, &err);
    }
    assert_int_equal(status, DINOV_ERR_LIMIT);
    assert_string_equal(err.code, "FILES-COUNT");
    dinov_files_close(&files);
    unlink(other);
    unlink(path);
    rmdir(folder);
}

/* ---- A whole reader ---- */

static void reads_the_same(void **state)
{
    const dinov_reader_options how[2] = {{.threads = 2}, {.threads = 2, .unfenced = 1}};
    dinov_reader               r[2];
    dinov_error                err;
    (void)state;
    for (int i = 0; i < 2; i++)
        if (dinov_reader_open(&r[i], DINOV_UNIT_PTH, &how[i], &err) != DINOV_OK) fail_msg("%s", err.msg);
    assert_true(r[0].fence != DINOV_FENCE_NONE && r[1].fence == DINOV_FENCE_NONE);
    assert_int_equal(r[0].count, r[1].count);
    assert_true(r[0].torch.copied == r[1].torch.copied && r[0].torch.copied > 0);
    for (size_t i = 0; i < r[0].count; i++) {
        const dinov_named_tensor *a = &r[0].tensors[i], *b = &r[1].tensors[i];
        uint64_t                  bytes;
        assert_string_equal(a->name, b->name);
        assert_true(a->tensor.dtype == b->tensor.dtype && a->tensor.rank == b->tensor.rank);
        assert_memory_equal(a->tensor.dim, b->tensor.dim, sizeof a->tensor.dim);
        assert_true(dinov_tensor_bytes(&a->tensor, &bytes));
        if (bytes) assert_memory_equal(a->tensor.data, b->tensor.data, bytes);
    }
    for (int i = 0; i < 2; i++) dinov_reader_close(&r[i]);
}

/* ---- The documents beside Hugging Face's weights ---- */

static void put_document(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void documents_are_read_the_same(void **state)
{
    static const struct {
        const char *config, *preprocess, *code; /* NULL: not there; NULL: read */
    } cases[] = {
        {"{\"model_type\": \"dinov2\", \"num_attention_heads\": 6, \"layer_norm_eps\": 1e-6, \"patch_size\": [14, 14]}", NULL,
         NULL},
        {NULL,
         "{\"do_resize\": true, \"size\": {\"shortest_edge\": 256}, \"do_center_crop\": true, \"crop_size\": 224, \"resample\": 3, "
         "\"do_rescale\": true, \"rescale_factor\": 0.00392156862745098, \"do_normalize\": true, \"image_mean\": [0.5, 0.25, 0], "
         "\"image_std\": [0.5, 0.25, 1]}",
         NULL},
        {NULL, "{\"size\": 3}", NULL},
        {NULL, NULL, NULL},
        {"{\"model_type\": \"dinov2\", \"patch_size\": -1}", NULL, "HF-CONFIG"},
        {"{\"model_type\": \"dinov2\"}", "{]", "HF-JSON"},
    };
    char folder[] = "/tmp/dinov-beside-XXXXXX", weights[64], config[64], preprocess[64];
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(preprocess, sizeof preprocess, "%s/preprocessor_config.json", folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dinov_hf_beside said[2];
        dinov_error     why[2] = {{0}, {0}};
        if (cases[i].config) put_document(config, cases[i].config);
        if (cases[i].preprocess) put_document(preprocess, cases[i].preprocess);
        for (int k = 0; k < 2; k++) {
            dinov_fence  fence  = k ? DINOV_FENCE_PROCESS : DINOV_FENCE_NONE;
            dinov_status status = dinov_hf_beside_read(&said[k], weights, &fence, &why[k]);
            assert_int_equal(status, cases[i].code ? DINOV_ERR_FORMAT : DINOV_OK);
            if (k && (cases[i].config || cases[i].preprocess))
                assert_int_equal(fence, UNIT_SANITIZED ? DINOV_FENCE_PROCESS : DINOV_FENCE_FULL);
        }
        assert_string_equal(why[0].msg, why[1].msg);
        assert_string_equal(why[1].code, cases[i].code ? cases[i].code : "");
        assert_int_equal(said[1].has_config, cases[i].config != NULL);
        assert_int_equal(said[1].has_preprocess, cases[i].preprocess != NULL);
        assert_int_equal(said[1].said, i == 1);
        if (!cases[i].code) {
            assert_memory_equal(&said[0].config, &said[1].config, sizeof said[0].config);
            assert_memory_equal(&said[0].preprocess, &said[1].preprocess, sizeof said[0].preprocess);
        }
        if (i == 0) assert_true(said[1].config.heads == 6 && said[1].config.patch == 14 && said[1].config.ln_eps > 0);
        if (i == 1) assert_string_equal(said[1].preprocess.preset, "eval:224");
        unlink(config);
        unlink(preprocess);
    }
    rmdir(folder);
}

static void refuses_unsound_documents(void **state)
{
    static const struct {
        dinov_hf_beside said;
        bool            sound;
    } cases[] = {
        {{.config = {.dim = 384, .ln_eps = 1e-6}, .said = true, .preprocess = {.preset = "eval:224", .std = {1, 1, 1}}}, true},
        {{.preprocess = {.preset = "\x1b"}}, true}, /* of no interest while unsaid */
        {{.config = {.heads = -1}}, false},
        {{.config = {.registers = (1 << 20) + 1}}, false},
        {{.config = {.ln_eps = (double)NAN}}, false},
        {{.config = {.ln_eps = -1}}, false},
        {{.said = true, .preprocess = {.preset = "eval:224"}}, false},
        {{.said = true, .preprocess = {.preset = "\x1b", .std = {1, 1, 1}}}, false},
        {{.said = true, .preprocess = {.mean = {(float)INFINITY}, .std = {1, 1, 1}}}, false},
    };
    dinov_text      answer = {0};
    dinov_hf_beside out    = {.has_config = true};
    dinov_error     err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dinov_carry_beside(&answer, &cases[i].said);
        dinov_status status = dinov_carry_take_beside(&out, answer.data, answer.size, "config.json", &err);
        assert_int_equal(status, cases[i].sound ? DINOV_OK : DINOV_ERR_INTERNAL);
        if (!cases[i].sound) assert_string_equal(err.code, "FENCE-ANSWER");
        assert_true(out.has_config);
        for (size_t size = 0; size < answer.size; size++)
            assert_int_equal(dinov_carry_take_beside(&out, answer.data, size, "config.json", &err), DINOV_ERR_INTERNAL);
        dinov_text_add(&answer, "x", 1);
        assert_int_equal(dinov_carry_take_beside(&out, answer.data, answer.size, "config.json", &err), DINOV_ERR_INTERNAL);
        dinov_text_clear(&answer);
    }
    dinov_carry_wanted(&answer, "a");
    assert_int_equal(dinov_carry_take_beside(&out, answer.data, answer.size, "config.json", &err), DINOV_ERR_INTERNAL);
    dinov_text_clear(&answer);
    dinov_carry_beside(&answer, &cases[0].said);
    answer.data[4 + sizeof out.config] = 2; /* said */
    assert_int_equal(dinov_carry_take_beside(&out, answer.data, answer.size, "config.json", &err), DINOV_ERR_INTERNAL);
    dinov_text_clear(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_is_not_needed),
        cmocka_unit_test(every_end_is_a_status),
        cmocka_unit_test(full_disk_is_a_status),
        cmocka_unit_test(takes_an_honest_answer),
        cmocka_unit_test(believes_no_answer),
        cmocka_unit_test(refuses_unsound_facts),
        cmocka_unit_test(brings_files),
        cmocka_unit_test(reads_the_same),
        cmocka_unit_test(documents_are_read_the_same),
        cmocka_unit_test(refuses_unsound_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
