/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests that work in a folder of their own: its place, paths in it, and calls that must succeed or be refused.
 */
#ifndef DINOV_TESTS_FOLDER_H
#define DINOV_TESTS_FOLDER_H

#include "base/fail.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH = 512 };

/* Into a buffer of PATH bytes. */
static void print(char *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void print(char *out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    assert_true(vsnprintf(out, PATH, format, args) < PATH);
    va_end(args);
}

/* A new folder, in memory where that is possible: what reaches a disk is looked at elsewhere (tests/reliability). */
static int make_folder(char out[PATH], const char *name)
{
    print(out, "%s/dinov-%s-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", name);
    return mkdtemp(out) ? 0 : -1;
}

static void remove_all(const char *path)
{
    char command[PATH];
    print(command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

/* The call sees an `err` of its own. */
#define OK(call)                                                                                                                   \
    do {                                                                                                                           \
        dinov_error  e_  = {0};                                                                                                    \
        dinov_error *err = &e_;                                                                                                    \
        if ((call) != DINOV_OK) fail_msg("%s: %s: %s", #call, e_.code, e_.msg);                                                    \
    } while (0)

/* The call is refused with that status and code, and says why. */
#define REFUSED(call, want, name)                                                                                                  \
    do {                                                                                                                           \
        dinov_error  e_   = {0};                                                                                                   \
        dinov_error *err  = &e_;                                                                                                   \
        dinov_status got_ = (call);                                                                                                \
        if (got_ != DINOV_##want || strcmp(e_.code, name) != 0)                                                                    \
            fail_msg("%s: expected %s %s, found %d %s (%s)", #call, #want, name, got_, e_.code, e_.msg);                           \
        assert_true(e_.status == got_ && strlen(e_.msg) > 10);                                                                     \
    } while (0)

#endif
