/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-demo-model: writes a checkpoint with seeded random weights, so that everything can be tried
 * and tested where no trained file is at hand. Not installed; its features mean nothing.
 */
#include "base/fail.h"
#include "cli/tool.h"
#include "dinov/infer.h"
#include "model/seeded.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

static const char *output, *preset;
static int64_t     patch = 14, dim = 384, depth = 12, heads, registers, grid = 37, hidden, seed = 1, threads;
static bool        swiglu, no_layerscale, overwrite, no_proof;

static const dinov_opt options[] = {
    {'o', "output", DINOV_OPT_TEXT, &output, "FILE", "the checkpoint to write", .common = true},
    {'f', "force", DINOV_OPT_FLAG, &overwrite, NULL, "replace an existing file", .common = true},
    {'t', "threads", DINOV_OPT_INT, &threads, "N", "threads (default 0: all cores)", 0, 1024, true},
    {0, "dim", DINOV_OPT_INT, &dim, "C", "width (default 384)", 1, 65536, true},
    {0, "depth", DINOV_OPT_INT, &depth, "N", "blocks (default 12)", 1, 4096, true},
    {0, "heads", DINOV_OPT_INT, &heads, "H", "heads (default 0: width / 64)", 0, 4096, false},
    {0, "patch", DINOV_OPT_INT, &patch, "P", "patch side (default 14)", 1, 1024, false},
    {0, "grid", DINOV_OPT_INT, &grid, "M", "trained grid side (default 37)", 1, 4096, false},
    {0, "registers", DINOV_OPT_INT, &registers, "R", "register tokens (default 0)", 0, 4096, true},
    {0, "hidden", DINOV_OPT_INT, &hidden, "F", "FFN width (default 0: 4 C, or upstream's rule for SwiGLU)", 0, 1 << 20, false},
    {0, "swiglu", DINOV_OPT_FLAG, &swiglu, NULL, "SwiGLU in place of the MLP", .common = true},
    {0, "no-layerscale", DINOV_OPT_FLAG, &no_layerscale, NULL, "no LayerScale", .common = false},
    {0, "no-proof", DINOV_OPT_FLAG, &no_proof, NULL, "no golden vectors: the file depends on no instruction set", .common = false},
    {0, "preset", DINOV_OPT_TEXT, &preset, "PRESET", "the preset it asks for (default eval:224)", .common = false},
    {0, "seed", DINOV_OPT_INT, &seed, "N", "seed (default 1)", 0, INT64_MAX, true},
    {0},
};

static dinov_status prove(const dinov_weights *weights, dinov_proof *proof, dinov_golden *golden, dinov_error *err)
{
    dinov_engine_options how = {.threads = (int)threads};
    dinov_engine        *engine;
    DINOV_TRY(dinov_engine_open_weights(&engine, weights, &how, err));
    dinov_status status = dinov_engine_make_proof(engine, proof, golden, err);
    dinov_engine_close(&engine);
    return status;
}

static int run(const dinov_tool *tool, int argc, char **argv)
{
    dinov_error   err;
    dinov_golden  golden[DINOV_GOLDEN_CASES];
    dinov_proof   proof = {0};
    dinov_weights *weights;

    (void)argv;
    if (argc || !output) return dinov_tool_usage(tool, "expected -o FILE and nothing else");
    if (!heads) heads = dim / 64 ? dim / 64 : 1;
    if (!hidden) hidden = swiglu ? (4 * dim * 2 / 3 + 7) / 8 * 8 : 4 * dim;
    dinov_model model = {.patch = patch, .dim = dim, .depth = depth, .heads = heads, .hidden = hidden, .registers = registers,
                         .ffn = swiglu ? DINOV_FFN_SWIGLU : DINOV_FFN_MLP, .channels = 3, .grid_h = grid, .grid_w = grid,
                         .layerscale = !no_layerscale, .qkv_bias = 1, .ln_eps = 1e-6,
                         .interp = {registers ? 0 : 0.1, registers > 0}};
    if (dinov_seeded_new(&weights, &model, (uint64_t)seed, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
    if (preset) snprintf(weights->preprocess.preset, sizeof weights->preprocess.preset, "%s", preset);
    dinov_status status = no_proof ? DINOV_OK : prove(weights, &proof, golden, &err);
    if (status == DINOV_OK) {
        dinov_provenance    from = {.source_format = "code", .source_sha256 = "", .converter = "dinov-demo-model " DINOV_VERSION_STRING,
                                    .transforms = "", .licence = "", .origin = "seeded random weights: features mean nothing"};
        dinov_write_options how  = {.threads = (int)threads, .overwrite = overwrite};
        status = dinov_checkpoint_write(output, weights, &from, no_proof ? NULL : &proof, &how, &err);
    }
    if (!no_proof) dinov_engine_free_proof(&proof);
    dinov_seeded_free(&weights);
    return status == DINOV_OK ? 0 : dinov_tool_fail(tool, &err);
}

int main(int argc, char **argv)
{
    static const dinov_tool tool = {
        .name     = "dinov-demo-model",
        .usage    = "-o FILE [options]",
        .summary  = "write a checkpoint with seeded random weights",
        .examples = "  dinov-demo-model -o s.safetensors                   ViT-S/14\n"
                    "  dinov-demo-model --dim 768 --registers 4 -o b.safetensors   ViT-B/14 with registers\n",
        .options  = options,
        .run      = run,
    };
    return dinov_tool_main(&tool, argc, argv);
}
