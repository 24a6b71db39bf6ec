/* SPDX-License-Identifier: Apache-2.0
 *
 * Any file we read, as a list of named tensors: what it is is told from its bytes, never from its
 * name, and one reader is chosen once. Files that are known but not read are refused by name with
 * what to do.
 */
#ifndef DINOV_CONVERT_SOURCE_H
#define DINOV_CONVERT_SOURCE_H

#include "convert/fence.h"
#include "convert/files.h"
#include "convert/hf.h"
#include "convert/torch.h"
#include "dinov/format.h"

typedef enum dinov_layout {
    DINOV_LAYOUT_DINOV       = 1, /* our checkpoint */
    DINOV_LAYOUT_PTH         = 2,
    DINOV_LAYOUT_SAFETENSORS = 3,
    DINOV_LAYOUT_LEGACY      = 4, /* pth as of before PyTorch 1.6 */
    DINOV_LAYOUT_SHARDS      = 5, /* the index of a model in several safetensors files */
    DINOV_LAYOUT_ONNX        = 6,
} dinov_layout;

/* "dinov", "pth" for both kinds of it, "safetensors" for shards too, "onnx" */
const char *dinov_layout_name(dinov_layout layout);

/* Which reader the bytes are for. *rewritten: plain safetensors that carries a checkpoint's metadata, because
 * another tool wrote it again or its first bytes are damaged. ERR_FORMAT: SRC-EMPTY, SRC-TAR, SRC-PICKLE, SRC-PREVIEW,
 * SRC-GGUF, SRC-ARCHIVE, SRC-LFS, SRC-WEBPAGE, SRC-HDF5, SRC-NUMPY, SRC-UNKNOWN. */
dinov_status dinov_layout_detect(dinov_layout *out, bool *rewritten, const void *data, size_t size, const char *where,
                                 dinov_error *err);

/* What a file says of its model beside the tensors; what it does not say is 0. */
typedef struct dinov_facts {
    int64_t          heads;
    double           ln_eps;
    int              has_interp;
    dinov_interp     interp;
    int              has_preprocess;
    dinov_preprocess preprocess;
    char             transforms[128]; /* what reading did to them, comma-separated: "unfolded,joined" */
    char             licence[256];    /* as of dinov_provenance; what is longer is not kept */
    char             origin[256];
} dinov_facts;

typedef struct dinov_reader {
    char                     *path;  /* NULL: bytes in memory */
    char                     *where; /* the path, escaped */
    dinov_map                 map;
    dinov_files               files; /* beside it */
    dinov_facts               facts;
    dinov_layout              layout;
    bool                      rewritten;
    const dinov_named_tensor *tensors; /* valid until close */
    size_t                    count;
    dinov_torch_notes         torch;
    dinov_fence               fence;
    dinov_scratch             scratch;
    dinov_tensors             plain;
    dinov_shards              shards;
    dinov_checkpoint         *checkpoint; /* NULL unless ours */
} dinov_reader;

typedef struct dinov_reader_options {
    int threads;  /* that check what the layout protects with CRCs; 0 (default): all cores */
    int unfenced; /* 1: foreign files are read in this process (default 0: in a confined one, fence.h) */
} dinov_reader_options;

/* Maps and reads `path`; a folder of Hugging Face's, or the config.json in it, stands for the weights in it (ERR_FORMAT:
 * HF-FOLDER). `options` may be NULL. Our own checkpoints need no fence. Errors of fence.h and: ERR_INTERNAL FENCE-ANSWER. */
dinov_status dinov_reader_open(dinov_reader *out, const char *path, const dinov_reader_options *options, dinov_error *err);

/* The same for bytes in memory, which stay alive until close; without a fence. */
dinov_status dinov_reader_open_memory(dinov_reader *out, const void *data, size_t size, const char *name, int threads,
                                      dinov_error *err);

/* Also clears what a failed open left. */
void dinov_reader_close(dinov_reader *source);

#endif
