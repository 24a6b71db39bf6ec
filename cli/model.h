/* SPDX-License-Identifier: Apache-2.0
 *
 * The operand of -m, as every program takes it: our file as it is, the averaged model of a training run, any other layout
 * converted in memory.
 */
#ifndef DINOV_CLI_MODEL_H
#define DINOV_CLI_MODEL_H

#include "cli/tool.h"
#include "convert/import.h"
#include "dinov/image.h"
#include "dinov/infer.h"
#include "format/training.h"

typedef struct dinov_tool_model {
    const char       *path;
    dinov_checkpoint *checkpoint;
    dinov_training   *training;
    dinov_import     *import;
    dinov_engine     *engine;
    char              id[72]; /* content id */
    bool              unfenced; /* as --no-fence says */
} dinov_tool_model; /* starts as {0}, but for `unfenced` */

/* The rows of programs that run a model where the user says: where, and in what. */
#define DINOV_OPT_DEVICE(device, compute)                                                                                           \
    {0, "device", DINOV_OPT_TEXT, device, "D", "cpu, cuda, cuda:N or cuda:N,M,... (default cpu)", .common = true},                   \
        {0, "compute", DINOV_OPT_TEXT, compute, "TYPE", "f32, on a GPU also bf16 or f16, which are faster (default f32)", .common = true}

/* What those and -t, --isa ask for. 0, or prints a usage sentence and returns 64. */
int dinov_tool_engine_options(dinov_engine_options *out, const dinov_tool *tool, int threads, const char *isa, const char *device,
                              const char *compute);

/* Verified, and ready to run. Close it also after a failure. `quiet`: no note on a conversion. */
dinov_status dinov_tool_model_open(dinov_tool_model *m, const dinov_tool *tool, const char *path, const dinov_engine_options *how,
                                   bool quiet, dinov_error *err);
void         dinov_tool_model_close(dinov_tool_model *m);

/* Says so where this system could not confine the reader of a foreign file. */
void dinov_tool_note_fence(const dinov_tool *tool, const dinov_reader *reader);

/* The preset the checkpoint asks for. ERR_UNSUPPORTED RUN-PRESET: it cannot be used, which is no fault of the command line. */
dinov_status dinov_tool_model_preset(dinov_preset *out, const dinov_tool_model *m, dinov_error *err);

#endif
