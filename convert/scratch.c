/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* O_TMPFILE, fallocate, memfd_create */
#include "convert/scratch.h"

#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEP = 16 << 20, ALIGNMENT = 64 };

/* A file without a name that takes at least one step, or -1. */
static int open_in(const char *folder)
{
    int fd = folder ? open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : memfd_create("dinov-tensors", MFD_CLOEXEC);
    if (fd < 0) return -1;
    if (fallocate(fd, 0, 0, 1) != 0) { /* not every file system can */
        close(fd);
        return -1;
    }
    if (fd > STDERR_FILENO) return fd;
    int above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1); /* the reader's process has its own use for the low ones */
    close(fd);
    return above;
}

dinov_status dinov_scratch_open(dinov_scratch *scratch, uint64_t span, const char *where, dinov_error *err)
{
    static const char *const folders[] = {"/var/tmp", "/tmp", NULL};

    *scratch = (dinov_scratch){.fd = -1};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0] && scratch->fd < 0; i++) scratch->fd = open_in(folders[i]);
    if (scratch->fd < 0)
        return dinov_fail_errno(err, errno, "FENCE-START", "%s: cannot make a file for copied tensors in /var/tmp, /tmp or memory",
                                where);
    void *memory = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_SHARED, scratch->fd, 0);
    if (memory == MAP_FAILED) {
        int reason = errno;
        dinov_scratch_close(scratch);
        return dinov_fail_errno(err, reason, "FENCE-START", "%s: cannot map room for copied tensors", where);
    }
    scratch->memory = memory;
    scratch->span   = span;
    return DINOV_OK;
}

dinov_status dinov_scratch_take(dinov_scratch *scratch, void **out, uint64_t bytes, const char *where, dinov_error *err)
{
    uint64_t begin, end;
    if (!dinov_ck_align(scratch->used, ALIGNMENT, &begin) || !dinov_ck_add(begin, bytes, &end) || end > scratch->span)
        return dinov_fail(err, DINOV_ERR_LIMIT, "FENCE-LARGE",
                          "%s: expected at most %llu bytes of tensors that must be copied, found more", where,
                          (unsigned long long)scratch->span);
    while (scratch->room < end) {
        uint64_t step = scratch->span - scratch->room < STEP ? scratch->span - scratch->room : STEP;
        int      done;
        do done = fallocate(scratch->fd, 0, (off_t)scratch->room, (off_t)step);
        while (done != 0 && errno == EINTR);
        if (done != 0)
            return dinov_fail_errno(err, errno, "FENCE-SPACE",
                                    "%s: no room for another %llu MiB of copied tensors beside %llu MiB in /var/tmp or /tmp; "
                                    "make room there",
                                    where, (unsigned long long)(step >> 20), (unsigned long long)(scratch->room >> 20));
        scratch->room += step;
    }
    *out          = scratch->memory + begin;
    scratch->used = end;
    return DINOV_OK;
}

uint64_t dinov_scratch_seal(dinov_scratch *scratch)
{
    struct stat st;
    uint64_t    size = fstat(scratch->fd, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
    if (size > scratch->span) size = scratch->span;
    /* Behind the file's end nothing may be touched, so nothing stays mapped there. */
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), keep = (size + page - 1) / page * page;
    if (keep < scratch->span) munmap(scratch->memory + keep, scratch->span - keep);
    if (keep) (void)mprotect(scratch->memory, keep < scratch->span ? keep : scratch->span, PROT_READ);
    if (keep < scratch->span) scratch->span = keep;
    if (keep == 0) scratch->memory = NULL;
    close(scratch->fd);
    scratch->fd   = -1;
    scratch->room = size;
    return size;
}

void dinov_scratch_close(dinov_scratch *scratch)
{
    if (scratch->memory) munmap(scratch->memory, scratch->span);
    if (scratch->fd >= 0) close(scratch->fd);
    *scratch = (dinov_scratch){.fd = -1};
}
