/* SPDX-License-Identifier: Apache-2.0
 *
 * Raising and passing errors. Bad input is a status; a bug in our own code is DINOV_ASSERT.
 */
#ifndef DINOV_BASE_FAIL_H
#define DINOV_BASE_FAIL_H

#include "dinov/base.h"

#if defined(__GNUC__)
#define DINOV_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define DINOV_PRINTF(fmt, args)
#endif

/* Fills *err (NULL allowed) and returns `status`: return dinov_fail(err, DINOV_ERR_CORRUPT, "CK-DIGEST", ...). */
#define dinov_fail(err, status, ...) (dinov_raise(err, status, __VA_ARGS__), (status)) /* so that compilers see it is not OK */
void dinov_raise(dinov_error *err, dinov_status status, const char *code, const char *format, ...) DINOV_PRINTF(4, 5);

/* The same for a failed system call: appends the reason for `errnum` to the sentence; ENOMEM becomes ERR_NOMEM. */
dinov_status dinov_fail_errno(dinov_error *err, int errnum, const char *code, const char *format, ...)
    DINOV_PRINTF(4, 5);

#define DINOV_TRY(call)                              \
    do {                                             \
        dinov_status try_status_ = (call);           \
        if (try_status_ != DINOV_OK) return try_status_; \
    } while (0)

/* For constructors with one `fail:` label and a local `dinov_status status`. */
#define DINOV_TRY_GOTO(call)                  \
    do {                                      \
        status = (call);                      \
        if (status != DINOV_OK) goto fail;    \
    } while (0)

/* Says where our own code broke its promise, then ends the process with exit code 70. */
__attribute__((noreturn)) void dinov_bug(const char *file, int line, const char *condition);

#define DINOV_ASSERT(cond) ((cond) ? (void)0 : dinov_bug(__FILE__, __LINE__, #cond))

/* Copies `size` bytes into `out` with everything but printable ASCII written as \xNN, so that a
 * name from a file cannot steer a terminal. Ends in "..." when it does not fit. Returns `out`. */
const char *dinov_escape(char *out, size_t out_size, const void *bytes, size_t size);

enum { DINOV_ESCAPED = 256 }; /* a fair size for such a buffer */

#endif
