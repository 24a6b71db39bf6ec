/* SPDX-License-Identifier: Apache-2.0
 *
 * The checkpoint format: open, look up, verify, write. A dinov checkpoint is a safetensors file
 * under the strict profile of spec/checkpoint.md; section numbers below are of that document.
 *
 * Threads: a handle is used by one thread at a time; the views it hands out are read-only and may
 * be read by any number of threads until it is closed.
 */
#ifndef DINOV_FORMAT_H
#define DINOV_FORMAT_H

#include "dinov/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- What a model is, in numbers (section 5) ---- */

typedef enum dinov_ffn {
    DINOV_FFN_MLP    = 1, /* fc2(GELU(fc1(x))), exact erf */
    DINOV_FFN_SWIGLU = 2, /* w3(silu(a) * b), [a, b] = w12(x) */
} dinov_ffn;

/* How position embeddings reach a grid other than the trained one (the hub's two flags). */
typedef struct dinov_interp {
    double offset;    /* > 0: scale (out + offset) / grid is used for coordinates. Hub: 0.1, with registers 0 */
    int    antialias; /* hub: 0, with registers 1 */
} dinov_interp;

typedef struct dinov_model {
    int64_t      patch;     /* patch side, pixels */
    int64_t      dim;       /* embedding width D */
    int64_t      depth;     /* transformer blocks */
    int64_t      heads;     /* dim % heads == 0 */
    dinov_ffn    ffn;
    int64_t      hidden;    /* width between the two FFN products */
    int64_t      registers; /* register tokens, 0 or more */
    int64_t      channels;  /* input channels, 3 */
    int64_t      grid_h;    /* trained grid of position embeddings, rows (hub: 37) */
    int64_t      grid_w;    /* columns */
    int          layerscale; /* 1: ls1.gamma and ls2.gamma exist */
    int          qkv_bias;   /* 1: attn.qkv.bias exists */
    double       ln_eps;    /* LayerNorm epsilon (hub: 1e-6) */
    dinov_interp interp;
} dinov_model;

/* ---- What the model expects of its input (section 6) ---- */

typedef struct dinov_preprocess {
    char  preset[32];  /* the grammar of dinov-infer --preset; hub models: "eval:224" */
    float mean[3];     /* per channel R, G, B of pixels scaled to 0..1 (0.485 0.456 0.406) */
    float std[3];      /* (0.229 0.224 0.225) */
} dinov_preprocess;

/* ---- Named tensors, wherever they come from ---- */

typedef struct dinov_named_tensor {
    const char  *name;   /* hub name, "blocks.0.attn.qkv.weight" */
    dinov_tensor tensor; /* little-endian, contiguous; aligned to its element unless stated */
} dinov_named_tensor;

/* A backbone ready to run: from a checkpoint, or from a foreign file read by convert/. */
typedef struct dinov_weights {
    dinov_model               model;
    dinov_preprocess          preprocess;
    const dinov_named_tensor *tensors;
    size_t                    count;
    /* The read-only file mapping that tensors may lie in, or NULL. Whoever copies weights out may
     * give its pages back to the system as it goes; they are read again when touched. */
    const void *map;
    size_t      map_size;
} dinov_weights;

/* The tensor of that exact name, or NULL. */
const dinov_tensor *dinov_weights_find(const dinov_weights *weights, const char *name);

/* ---- Golden vectors: a proof any build on any machine can repeat (section 8) ---- */

/* Input of golden case: pixel c,y,x of an image height x width is
 * ((c * 31 + y * 17 + x * 7 + seed * 13) mod 64 - 32) / 16, already normalised. */
typedef struct dinov_golden {
    int64_t      height, width; /* pixels, multiples of the patch */
    int64_t      seed;
    const float *cls;           /* [dim] after the final norm */
    const float *patch;         /* [dim] of the last patch token after the final norm */
} dinov_golden;

typedef struct dinov_proof {
    char                computed_by[96]; /* who: "official" or build and instruction set, "dinov 0.1.0 avx2" */
    double              tolerance;       /* largest allowed ||a - b|| / ||b|| over each vector */
    const dinov_golden *cases;
    size_t              count;
} dinov_proof;

/* ---- Where the weights come from (section 7) ---- */

typedef struct dinov_provenance {
    const char *source_format; /* "pth", "safetensors", "dinov", "code" */
    const char *source_sha256; /* lowercase hex of the whole source file, or "" */
    const char *converter;     /* "dinov-convert 0.1.0" */
    const char *transforms;    /* comma-separated, in order; "" for none */
    const char *licence;       /* SPDX expression, or "" when unknown */
    const char *origin;        /* free text from the user, or "" */
} dinov_provenance;

/* ---- Reading ---- */

typedef struct dinov_checkpoint dinov_checkpoint;

/*
 * Maps `path`, checks the header digest and then every rule on the header; tensor bytes are not
 * touched. Cost is linear in the header. On success *out is owned by the caller.
 * Errors: ERR_IO, ERR_FORMAT (not ours: the message names dinov-convert when another tool's file
 * is recognised), ERR_VERSION (sound but newer), ERR_CORRUPT, ERR_LIMIT, ERR_NOMEM.
 */
dinov_status dinov_checkpoint_open(dinov_checkpoint **out, const char *path, dinov_error *err);

/* The same for bytes in memory, which the caller keeps alive and unchanged until close.
 * `name` stands for the path in messages. Any alignment of `data`. */
dinov_status dinov_checkpoint_open_memory(dinov_checkpoint **out, const void *data, size_t size,
                                          const char *name, dinov_error *err);

/* NULL, or a pointer to NULL, is allowed; *ckpt becomes NULL. */
void dinov_checkpoint_close(dinov_checkpoint **ckpt);

/* Views into the handle, valid until close. Tensors come in file order. */
const dinov_weights    *dinov_checkpoint_weights(const dinov_checkpoint *ckpt);
const dinov_provenance *dinov_checkpoint_provenance(const dinov_checkpoint *ckpt);
const dinov_proof      *dinov_checkpoint_proof(const dinov_checkpoint *ckpt); /* count 0: it holds none */
/* "sha256:<64 hex>" as stored; dinov_checkpoint_verify_id recomputes it. */
const char *dinov_checkpoint_content_id(const dinov_checkpoint *ckpt);
/* The "dinov" metadata document as JSON text. */
const char *dinov_checkpoint_metadata(const dinov_checkpoint *ckpt);

/* Recomputes every tensor checksum with `threads` threads (0: all cores).
 * ERR_CORRUPT names the first damaged tensor in file order and its byte range. */
dinov_status dinov_checkpoint_verify(const dinov_checkpoint *ckpt, int threads, dinov_error *err);

/* Recomputes the content id. */
dinov_status dinov_checkpoint_verify_id(const dinov_checkpoint *ckpt, int threads, dinov_error *err);

/* ---- Writing ---- */

typedef struct dinov_write_options {
    int threads;   /* for digests (default 0: all cores); unless it is 1, one more copies to the file meanwhile */
    int overwrite; /* 1: an existing file is replaced (default 0: refused) */
} dinov_write_options;

/*
 * Writes a whole checkpoint under a temporary name in the folder of `path`, syncs it, renames it
 * and syncs the folder: the file appears whole or not at all. Canonical: equal content and
 * metadata give equal bytes. `provenance`, its members, `proof` and `options` may be NULL. Nothing is
 * kept of the arguments.
 * Errors: ERR_SHAPE (weights that are not the model's), ERR_CONFIG (preprocess, provenance, proof),
 * ERR_LIMIT, ERR_IO, ERR_NOMEM.
 */
dinov_status dinov_checkpoint_write(const char *path, const dinov_weights *weights,
                                    const dinov_provenance *provenance, const dinov_proof *proof,
                                    const dinov_write_options *options, dinov_error *err);

/* The content id of tensors, as a string of at least 72 bytes (section 7). */
dinov_status dinov_content_id(char out[72], const dinov_named_tensor *tensors, size_t count,
                              int threads, dinov_error *err);

#ifdef __cplusplus
}
#endif

#endif
