/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* clone's flags */
#include "convert/fence_filter.h"

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))

#include "base/fail.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#else
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

/* A new thread of this process, and no process or namespace. */
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NEW_FLAGS (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

enum { MOST_TESTS = 2, MOST_INSTRUCTIONS = 256 };

/* Allowed when for each test (low word of the argument & mask) == value. */
struct rule {
    long number;
    int  tests;
    struct {
        int      argument;
        uint32_t mask, value;
    } test[MOST_TESTS];
};

struct program {
    struct sock_filter code[MOST_INSTRUCTIONS];
    unsigned short     size;
};

static void put(struct program *p, int code, unsigned ok, unsigned otherwise, uint32_t k)
{
    DINOV_ASSERT(p->size < MOST_INSTRUCTIONS);
    p->code[p->size++] = (struct sock_filter){(uint16_t)code, (uint8_t)ok, (uint8_t)otherwise, k};
}

static void put_load(struct program *p, size_t offset) { put(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset); }
static void put_return(struct program *p, uint32_t what) { put(p, BPF_RET | BPF_K, 0, 0, what); }

static void put_rule(struct program *p, const struct rule *r)
{
    unsigned body = 3 * (unsigned)r->tests + 1 + (r->tests > 0);
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, body, (uint32_t)r->number);
    for (int i = 0; i < r->tests; i++) {
        unsigned to_refusal = 3 * (unsigned)(r->tests - 1 - i) + 1;
        put_load(p, offsetof(struct seccomp_data, args) + 8 * (size_t)r->test[i].argument); /* both machines are little-endian */
        put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, r->test[i].mask);
        put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, to_refusal, r->test[i].value);
    }
    put_return(p, SECCOMP_RET_ALLOW);
    if (r->tests) put_return(p, SECCOMP_RET_ERRNO | EPERM);
}

static void build(struct program *p, int pipe, int scratch)
{
    const struct rule rules[] = {
        {SYS_write, 1, {{0, UINT32_MAX, (uint32_t)pipe}}},
        {SYS_fallocate, 2, {{0, UINT32_MAX, (uint32_t)scratch}, {1, UINT32_MAX, 0}}},
        {SYS_mmap, 2, {{2, PROT_EXEC, 0}, {3, MAP_ANONYMOUS, MAP_ANONYMOUS}}},
        {SYS_mprotect, 1, {{2, PROT_EXEC, 0}}},
        {SYS_clone, 1, {{0, THREAD_FLAGS | NEW_FLAGS, THREAD_FLAGS}}},
        {SYS_munmap, 0, {{0}}},
        {SYS_mremap, 0, {{0}}},
        {SYS_brk, 0, {{0}}},
        {SYS_madvise, 0, {{0}}},
        {SYS_futex, 0, {{0}}},
        {SYS_sched_yield, 0, {{0}}},
        {SYS_sched_getaffinity, 0, {{0}}},
        {SYS_set_robust_list, 0, {{0}}},
#ifdef SYS_rseq
        {SYS_rseq, 0, {{0}}},
#endif
        {SYS_rt_sigprocmask, 0, {{0}}},
        {SYS_rt_sigreturn, 0, {{0}}},
        {SYS_restart_syscall, 0, {{0}}},
        {SYS_clock_gettime, 0, {{0}}},
        {SYS_gettid, 0, {{0}}},
        {SYS_getrandom, 0, {{0}}},
        {SYS_exit, 0, {{0}}},
        {SYS_exit_group, 0, {{0}}},
    };

    put_load(p, offsetof(struct seccomp_data, arch));
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCHITECTURE);
    put_return(p, SECCOMP_RET_KILL_PROCESS);
    put_load(p, offsetof(struct seccomp_data, nr));
#ifdef SYS_clone3
    /* Its flags lie in memory, where no filter can look: libraries then fall back on clone. */
    put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_clone3);
    put_return(p, SECCOMP_RET_ERRNO | ENOSYS);
#endif
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) put_rule(p, &rules[i]);
    put_return(p, SECCOMP_RET_ERRNO | EPERM);
}

bool dinov_fence_filter(int pipe, int scratch)
{
    struct program    p    = {.size = 0};
    struct sock_fprog prog = {.filter = p.code};

    build(&p, pipe, scratch);
    prog.len = p.size;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
    /* Nothing here runs code that a file brings, which is what the slower mode of older kernels is against. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog) == 0) return true;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0;
}

#else

bool dinov_fence_filter(int pipe, int scratch)
{
    (void)pipe, (void)scratch;
    return false;
}

#endif
