/* SPDX-License-Identifier: Apache-2.0
 *
 * Training checkpoints (spec/checkpoint.md 11): a folder with the averaged backbone as an ordinary
 * checkpoint, files of state, and a manifest that is written last and holds their digests. Without its
 * manifest the folder is nothing; with it, it is whole.
 */
#ifndef DINOV_FORMAT_TRAINING_H
#define DINOV_FORMAT_TRAINING_H

#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include "dinov/format.h"

#define DINOV_MANIFEST "manifest.json"
#define DINOV_BACKBONE_FILE "backbone.safetensors"

enum { DINOV_MANIFEST_BYTES = 4 << 20, DINOV_MANIFEST_FILES = 4096, DINOV_FILE_NAME = 64 };

typedef struct dinov_manifest_file {
    char     name[DINOV_FILE_NAME]; /* plain: letters, digits, '.', '-', '_'; not beginning with '.' */
    uint64_t bytes;
    char     digest[DINOV_XXH_HEX + 1]; /* XXH3-128 of the file */
} dinov_manifest_file;

/* What a step needs besides tensors. Strings belong to the manifest that was parsed, or to the caller who writes. */
typedef struct dinov_manifest {
    int64_t                    iteration;  /* steps done */
    int64_t                    adam_step;  /* optimiser steps taken */
    int64_t                    samples;    /* drawn from the data: where the loader goes on */
    int64_t                    bad_steps;  /* in a row, up to here */
    const char                *isa;        /* instruction set: another one would round differently */
    const char                *config;     /* the effective configuration, YAML */
    const char                *teacher;    /* distillation: where the teacher was, else "" */
    const char                *teacher_id; /* and its content id, else "" */
    const dinov_manifest_file *files;
    size_t                     file_count;
} dinov_manifest;

/* Canonical bytes. text->failed when memory ran out. */
void dinov_manifest_build(dinov_text *text, const dinov_manifest *manifest);

/* Strict: the digest first, then the version, then what dinov_manifest_build would have written, byte for byte.
 * *storage (dinov_manifest_free) holds strings and files. ERR_FORMAT MAN-FORMAT, ERR_CORRUPT MAN-DIGEST, MAN-CONTENT; ERR_VERSION
 * MAN-NEWER; ERR_LIMIT MAN-LARGE. */
dinov_status dinov_manifest_parse(dinov_manifest *out, void **storage, const void *bytes, size_t size, const char *where,
                                  dinov_error *err);
void         dinov_manifest_free(void *storage); /* NULL allowed */

/* Size and digest of FOLDER/NAME, read back from the file. ERR_CORRUPT MAN-FILE when it is no plain file. */
dinov_status dinov_manifest_add(dinov_manifest_file *out, const char *folder, const char *name, dinov_error *err);

/* A file of state: safetensors in the one spelling of section 3, without the profile's metadata. It appears whole or not at
 * all; an existing one is replaced. */
dinov_status dinov_state_write(const char *folder, const char *name, const dinov_named_tensor *tensors, size_t count,
                               dinov_error *err);

/* A mapped file of state. */
typedef struct dinov_state_file {
    dinov_map                 map;
    void                     *table; /* of the names */
    const dinov_named_tensor *tensors;
    size_t                    count;
} dinov_state_file;

/* ERR_CORRUPT (STATE-HEADER, and section 3's codes) for whatever dinov_state_write would not have written. Damage to the tensors'
 * bytes is for dinov_manifest_check to find. */
dinov_status dinov_state_open(dinov_state_file *out, const char *path, dinov_error *err);
dinov_status dinov_state_parse(dinov_state_file *out, const void *bytes, size_t size, const char *where, dinov_error *err);
void         dinov_state_close(dinov_state_file *file);

/* Every file of the folder that the manifest names is there, plain, and has its size and digest. ERR_CORRUPT MAN-FILE. */
dinov_status dinov_manifest_check(const dinov_manifest *manifest, const char *folder, dinov_error *err);

#endif
