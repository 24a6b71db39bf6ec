/* SPDX-License-Identifier: Apache-2.0
 *
 * What every part of dinov shares: status codes, the error record, element types, tensor views.
 * Compiles alone as C11 and as C++.
 */
#ifndef DINOV_BASE_H
#define DINOV_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DINOV_VERSION_MAJOR 0
#define DINOV_VERSION_MINOR 1
#define DINOV_VERSION_PATCH 0
#define DINOV_VERSION_STRING "0.1.0"

/* Values are stable. The last column is the exit code a program ends with. */
#define DINOV_STATUS_MAP(X)                                                         \
    X(OK, 0, "done", 0)                                                             \
    X(ERR_NOMEM, -1, "out of memory", 3)                                            \
    X(ERR_IO, -2, "the system refused a file operation", 3)                         \
    X(ERR_FORMAT, -3, "not a file of this format", 2)                               \
    X(ERR_VERSION, -4, "sound, but newer than this program", 2)                     \
    X(ERR_CORRUPT, -5, "this format, but damaged", 2)                               \
    X(ERR_CONFIG, -6, "bad option or configuration value", 64)                      \
    X(ERR_SHAPE, -7, "weights or inputs do not fit the model", 2)                   \
    X(ERR_UNSUPPORTED, -8, "not in this build or on this device", 2)                \
    X(ERR_DEVICE, -9, "the accelerator or the network failed", 3)                   \
    X(ERR_LIMIT, -10, "a limit was exceeded", 4)                                    \
    X(ERR_INTERNAL, -11, "an error of this program", 70)

typedef enum dinov_status {
#define X(name, value, text, exit_code) DINOV_##name = value,
    DINOV_STATUS_MAP(X)
#undef X
} dinov_status;

/* One line for a status ("this format, but damaged"). Never NULL. */
const char *dinov_status_text(dinov_status status);

/*
 * Filled when a call fails, untouched when it succeeds; every call accepts NULL.
 * `msg` is a finished sentence: the file, the thing in it, what was expected, what was found.
 * Bytes that came from a file are escaped. `code` is a stable word for scripts, such as
 * "CK-OVERLAP"; docs/errors.md lists them all.
 */
typedef struct dinov_error {
    dinov_status status;
    char         code[24];
    char         msg[1000];
} dinov_error;

/* Values are stable: bindings and sidecars store them. Files store the names. */
typedef enum dinov_dtype {
    DINOV_F32  = 1,
    DINOV_F16  = 2,
    DINOV_BF16 = 3,
    DINOV_F64  = 4,
    DINOV_I64  = 5,
    DINOV_I32  = 6,
    DINOV_I16  = 7,
    DINOV_I8   = 8,
    DINOV_U8   = 9,
    DINOV_BOOL = 10,
} dinov_dtype;

/* Bytes of one element; 0 for a value that is no dtype. */
size_t dinov_dtype_size(dinov_dtype dtype);

/* The name safetensors uses ("F32"); "?" for a value that is no dtype. */
const char *dinov_dtype_name(dinov_dtype dtype);

enum { DINOV_MAX_RANK = 8 };

/* A view: whoever made it says who owns the bytes. Row-major, outermost dimension first. */
typedef struct dinov_tensor {
    const void *data;
    dinov_dtype dtype;
    int         rank;
    int64_t     dim[DINOV_MAX_RANK];
} dinov_tensor;

#ifdef __cplusplus
}
#endif

#endif
