/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* pipe2 */
#include "convert/fence.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "convert/fence_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* Sanitizers call the system as they like, and report on the real stderr. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum {
    /* What a library says before it ends the process arrives like an answer that is none. */
    PIPE  = SANITIZED ? STDOUT_FILENO : STDERR_FILENO,
    FRAME = 16, /* magic, fence, state, bytes that follow */
};

enum state { ANSWERED = 1, NO_MEMORY = 2 };

static const char magic[] = "dinv"; /* no text begins so */

/* ---- The child ---- */

static void limit(unsigned what, uint64_t most)
{
    struct rlimit r;
    if (getrlimit(what, &r) != 0) return;
    if (r.rlim_cur == RLIM_INFINITY || r.rlim_cur > most) r.rlim_cur = most;
    if (r.rlim_max == RLIM_INFINITY || r.rlim_max > r.rlim_cur) r.rlim_max = r.rlim_cur;
    (void)setrlimit(what, &r);
}

/* Writable memory of this process, in bytes; 0 where the system does not say. */
static uint64_t writable_now(void)
{
    char               text[256] = {0};
    unsigned long long pages     = 0;
    int                fd        = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    /* size resident shared text lib data */
    if (size <= 0 || sscanf(text, "%*s %*s %*s %*s %*s %llu", &pages) != 1) return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void close_others(int scratch)
{
#ifdef SYS_close_range
    struct rlimit r;
    unsigned      first = STDERR_FILENO + 1, last = ~0u;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_max < last) last = (unsigned)r.rlim_max; /* some look at each number */
    if (scratch >= (int)first) {
        if ((unsigned)scratch > first) (void)syscall(SYS_close_range, first, (unsigned)scratch - 1, 0);
        first = (unsigned)scratch + 1;
    }
    (void)syscall(SYS_close_range, first, last, 0);
#else
    (void)scratch;
#endif
}

/* The program's handlers are not for this process; what it ignores stays ignored, as for a program that is started. */
static void reset_signals(void)
{
    struct sigaction was;
    for (int i = 1; i < NSIG && !SANITIZED; i++)
        if (sigaction(i, NULL, &was) == 0 && ((was.sa_flags & SA_SIGINFO) || was.sa_handler != SIG_IGN)) (void)signal(i, SIG_DFL);
    (void)signal(SIGXFSZ, SIG_IGN); /* a limit on files comes back as an error */
}

static dinov_fence confine(const dinov_fence_job *job, int pipe, pid_t parent)
{
    uint64_t before = writable_now(), most;

    (void)dup2(pipe, STDOUT_FILENO);
    if (!SANITIZED) (void)dup2(pipe, STDERR_FILENO);
    close(STDIN_FILENO);
    close_others(job->scratch);
#if defined(__linux__)
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent) _exit(0);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#else
    (void)parent;
#endif
    reset_signals();
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, 0);
    if (SANITIZED) return DINOV_FENCE_PROCESS;
    if (before && dinov_ck_add(before, job->memory, &most)) limit(RLIMIT_DATA, most);
    return dinov_fence_filter(PIPE, job->scratch) ? DINOV_FENCE_FULL : DINOV_FENCE_PROCESS;
}

static bool write_all(const void *data, size_t size)
{
    const uint8_t *p = data;
    while (size > 0) {
        ssize_t n = write(PIPE, p, size < (1u << 30) ? size : 1u << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n, size -= (size_t)n;
    }
    return true;
}

static _Noreturn void work(const dinov_fence_job *job, int pipe, pid_t parent)
{
    dinov_text answer       = {0};
    uint8_t    frame[FRAME] = {0};

    dinov_fence fence = confine(job, pipe, parent);
    job->run(job->arg, &answer);
    memcpy(frame, magic, sizeof magic - 1);
    frame[4] = (uint8_t)fence;
    frame[5] = answer.failed ? NO_MEMORY : ANSWERED;
    dinov_put_le64(frame + 8, answer.failed ? 0 : answer.size);
    if (write_all(frame, sizeof frame) && !answer.failed) (void)write_all(answer.data, answer.size);
    dinov_text_clear(&answer);
    _exit(0);
}

/* ---- The parent ---- */

/* Everything the child writes, until it ends; false when it writes too much, which ends it. */
static bool collect(dinov_text *out, int pipe, pid_t child)
{
    bool     fits = true;
    uint8_t *part = dinov_alloc(1 << 16, 1);
    while (part) {
        ssize_t n = read(pipe, part, 1 << 16);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        fits = out->size <= DINOV_FENCE_ANSWER;
        if (!fits) {
            (void)kill(child, SIGKILL);
            break;
        }
        dinov_text_add(out, part, (size_t)n);
    }
    if (!part) out->failed = true;
    dinov_free(part);
    return fits;
}

/* Why there is no answer: how the child ended, and what it said. */
static dinov_status explain(const dinov_text *said, int ended, const char *where, dinov_error *err)
{
    char text[2 * DINOV_ESCAPED] = "nothing";
    int  signal                  = WIFSIGNALED(ended) ? WTERMSIG(ended) : 0;
    if (said->size && (said->size < 4 || memcmp(said->data, magic, 4) != 0))
        dinov_escape(text, sizeof text, said->data, said->size);
    if (signal == SIGBUS)
        return dinov_fail(
            err, DINOV_ERR_IO, "FENCE-CHANGED",
            "%s: a file changed while it was read, or its disk fails: expected all of its bytes, found fewer; try again", where);
    if (signal == SIGKILL)
        return dinov_fail(err, DINOV_ERR_NOMEM, "FENCE-KILLED",
                          "%s: the process that reads it was killed, as systems do when memory runs out", where);
    return dinov_fail(err, DINOV_ERR_INTERNAL, "FENCE-DIED",
                      "%s: the process that reads it ended with %s %d and said %s: this is a bug; please report it with the file",
                      where, signal ? "signal" : "exit code",
                      signal             ? signal
                      : WIFEXITED(ended) ? WEXITSTATUS(ended)
                                         : -1,
                      text);
}

static dinov_status take_answer(dinov_text *said, dinov_fence *fence, int ended, const char *where, dinov_error *err)
{
    const uint8_t *p = (const uint8_t *)said->data;
    if (said->failed) return dinov_fail_nomem(err, where, "what was read");
    if (said->size < FRAME || memcmp(p, magic, sizeof magic - 1) != 0 || dinov_le64(p + 8) != said->size - FRAME)
        return explain(said, ended, where, err);
    if (p[5] != ANSWERED) return dinov_fail_nomem(err, where, "what was read");
    *fence = p[4] == DINOV_FENCE_FULL ? DINOV_FENCE_FULL : DINOV_FENCE_PROCESS;
    said->size -= FRAME;
    memmove(said->data, said->data + FRAME, said->size);
    return DINOV_OK;
}

dinov_status dinov_fence_run(dinov_text *answer, dinov_fence *fence, const dinov_fence_job *job, dinov_error *err)
{
    pid_t parent = getpid();
    int   ends[2], ended = 0;

    *answer = (dinov_text){0};
    if (pipe2(ends, O_CLOEXEC) != 0) return dinov_fail_errno(err, errno, "FENCE-START", "%s: cannot start its reader", job->where);
    pid_t child = fork();
    if (child < 0) {
        int reason = errno;
        close(ends[0]);
        close(ends[1]);
        return dinov_fail_errno(err, reason, "FENCE-START", "%s: cannot start its reader", job->where);
    }
    if (child == 0) work(job, ends[1], parent);
    close(ends[1]);
    bool fits = collect(answer, ends[0], child);
    close(ends[0]);
    while (waitpid(child, &ended, 0) < 0 && errno == EINTR) continue;
    dinov_status status =
        fits ? take_answer(answer, fence, ended, job->where, err)
             : dinov_fail(err, DINOV_ERR_INTERNAL, "FENCE-ANSWER",
                          "%s: the process that reads it answered with over %d bytes: this is a bug, or the file is "
                          "an attack; please report it",
                          job->where, DINOV_FENCE_ANSWER);
    if (status != DINOV_OK) dinov_text_clear(answer);
    return status;
}
