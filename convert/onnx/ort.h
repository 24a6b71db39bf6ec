/* SPDX-License-Identifier: Apache-2.0
 *
 * ONNX Runtime, where its library is found when the program runs: a second opinion on a graph by code nobody
 * here wrote. Its C API is a table of functions whose order never changes; the handful used here is of version 1.
 */
#ifndef DINOV_CONVERT_ONNX_ORT_H
#define DINOV_CONVERT_ONNX_ORT_H

#include "base/fail.h"

#include <stdbool.h>

typedef struct dinov_ort dinov_ort;

/* One output of a run, owned by the session until the next run or close. */
typedef struct dinov_ort_output {
    const char  *name;
    const float *values;
    int          rank;
    int64_t      dim[4];
} dinov_ort_output;

enum { DINOV_ORT_OUTPUTS = 256 };

/* Loads the library (NULL: libonnxruntime.so.1, then libonnxruntime.so, where the system looks for libraries) and opens the
 * model on the CPU. ERR_UNSUPPORTED: ORT-ABSENT (no library), ORT-KERNEL (it has no kernels for this type on this CPU);
 * ERR_CORRUPT ORT-REFUSED: it refuses the model, with its own words. */
dinov_status dinov_ort_open(dinov_ort **out, const char *library, const char *model, int threads, dinov_error *err);
void         dinov_ort_close(dinov_ort **ort);

/* "1.32.0" */
const char *dinov_ort_version(const dinov_ort *ort);

/* Runs the model on its only input, float or (bytes) uint8, of four dimensions; outputs are float. ERR_CORRUPT ORT-RUN. */
dinov_status dinov_ort_run(dinov_ort *ort, const void *input, bool bytes, const int64_t dim[4], dinov_error *err);
size_t       dinov_ort_count(const dinov_ort *ort);
/* ERR_CORRUPT ORT-OUTPUT: it is no float tensor of at most four dimensions. */
dinov_status dinov_ort_output_at(dinov_ort *ort, size_t index, dinov_ort_output *out, dinov_error *err);

#endif
