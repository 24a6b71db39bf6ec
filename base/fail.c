/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *dinov_status_text(dinov_status status)
{
    switch (status) {
#define X(name, value, text, exit_code) \
    case DINOV_##name: return text;
        DINOV_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

static void fill(dinov_error *err, dinov_status status, const char *code, const char *format, va_list args)
{
    err->status = status;
    snprintf(err->code, sizeof err->code, "%s", code);
    vsnprintf(err->msg, sizeof err->msg, format, args);
}

void dinov_raise(dinov_error *err, dinov_status status, const char *code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        fill(err, status, code, format, args);
        va_end(args);
    }
}

dinov_status dinov_fail_errno(dinov_error *err, int errnum, const char *code, const char *format, ...)
{
    dinov_status status = errnum == ENOMEM ? DINOV_ERR_NOMEM : DINOV_ERR_IO;
    if (err) {
        char    reason[96];
        va_list args;
        va_start(args, format);
        fill(err, status, code, format, args);
        va_end(args);
        size_t length = strlen(err->msg);
        if (strerror_r(errnum, reason, sizeof reason) != 0) snprintf(reason, sizeof reason, "error %d", errnum);
        snprintf(err->msg + length, sizeof err->msg - length, ": %s", reason);
    }
    return status;
}

void dinov_bug(const char *file, int line, const char *condition)
{
    fprintf(stderr, "dinov: internal error at %s:%d: expected %s. This is a bug; please report it.\n", file, line,
            condition);
    _Exit(70);
}

const char *dinov_escape(char *out, size_t out_size, const void *bytes, size_t size)
{
    static const char    hex[] = "0123456789abcdef";
    const unsigned char *in    = bytes;
    size_t               used  = 0;

    DINOV_ASSERT(out_size >= 8);
    for (size_t i = 0; i < size; i++) {
        int    plain = in[i] >= 0x20 && in[i] < 0x7f && in[i] != '\\';
        size_t need  = plain ? 1 : 4;
        if (used + need + 4 > out_size) {
            memcpy(out + used, "...", 3);
            used += 3;
            break;
        }
        if (plain) {
            out[used++] = (char)in[i];
        } else {
            out[used++] = '\\';
            out[used++] = 'x';
            out[used++] = hex[in[i] >> 4];
            out[used++] = hex[in[i] & 15];
        }
    }
    out[used] = '\0';
    return out;
}
