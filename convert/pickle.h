/* SPDX-License-Identifier: Apache-2.0
 *
 * The pickle of torch.save as data. A fixed set of opcodes and of global names is known, each by its
 * exact bytes; a name becomes an enum value, never code, and a "call" is one of a few shapes that
 * describe a tensor. Everything else is refused by name. The result is a tree without cycles.
 */
#ifndef DINOV_CONVERT_PICKLE_H
#define DINOV_CONVERT_PICKLE_H

#include "base/bytes.h"
#include "base/fail.h"
#include "dinov/base.h"

enum { DINOV_PICKLE_MAX = 64 << 20, DINOV_PICKLE_DEPTH = 64 };

typedef enum dinov_node_kind {
    DINOV_NODE_NONE = 1,
    DINOV_NODE_BOOL, /* integer */
    DINOV_NODE_INT,  /* integer */
    DINOV_NODE_FLOAT,
    DINOV_NODE_STRING,  /* text, size: UTF-8, not terminated */
    DINOV_NODE_TUPLE,   /* items */
    DINOV_NODE_LIST,    /* items */
    DINOV_NODE_DICT,    /* items: key, value, key, value; keys are strings or ints, unique */
    DINOV_NODE_GLOBAL,  /* integer: which */
    DINOV_NODE_STORAGE, /* integer: index into storages */
    DINOV_NODE_TENSOR,  /* integer: index into tensors */
    DINOV_NODE_INERT,   /* a torch dtype or device: of no use to us */
} dinov_node_kind;

typedef struct dinov_node {
    dinov_node_kind kind;
    uint8_t         ordered; /* a dict that is an OrderedDict */
    uint8_t         state;   /* of the last walk */
    uint8_t         height;  /* levels below and with this one */
    uint32_t        count, room;
    union {
        int64_t     integer;
        double      number;
        const char *text;
        uint32_t   *items; /* node indices */
    };
    uint32_t size; /* bytes of text */
} dinov_node;

typedef struct dinov_pickle_storage {
    char        key[20]; /* decimal digits */
    dinov_dtype dtype;
    int64_t     numel;
    int64_t     begin, end; /* elements that tensors over it may have: all, but in views that PyTorch made before 0.4 */
} dinov_pickle_storage;

/* Shape and strides fit each other and the storage: offset and every reachable element lie inside it. */
typedef struct dinov_pickle_tensor {
    uint32_t storage;
    int      rank;
    int64_t  offset; /* elements */
    int64_t  dim[DINOV_MAX_RANK], stride[DINOV_MAX_RANK];
} dinov_pickle_tensor;

typedef struct dinov_pickle {
    dinov_node           *nodes;
    dinov_pickle_storage *storages;
    dinov_pickle_tensor  *tensors;
    uint32_t              node_count, node_room, storage_count, storage_room, tensor_count, tensor_room;
    uint32_t              root;
} dinov_pickle;

/* How storages are described: torch.save writes 5 parts in a zip container, and wrote 6 before that. */
typedef enum dinov_pickle_form { DINOV_PICKLE_ZIP, DINOV_PICKLE_LEGACY } dinov_pickle_form;

/* Strings are views into `data`. `where` is the file, for messages.
 * ERR_FORMAT: PKL-PROTO, PKL-OPCODE, PKL-GLOBAL, PKL-SHARD, PKL-CALL, PKL-STACK, PKL-TYPE, PKL-TRUNCATED, PKL-TRAILING,
 * PKL-MEMO, PKL-LONG, PKL-UTF8, PKL-CYCLE, PKL-KEY, PKL-DUPLICATE, PKL-STORAGE, PKL-TENSOR.
 * ERR_LIMIT: PKL-LARGE, PKL-DEPTH. */
dinov_status dinov_pickle_read(dinov_pickle *pickle, const void *data, size_t size, const char *where, dinov_error *err);

/* The same for one of several pickles: from the cursor's place up to its STOP, behind which the cursor then stands. */
dinov_status dinov_pickle_next(dinov_pickle *pickle, dinov_cursor *c, dinov_pickle_form form, const char *where, dinov_error *err);

/* Also clears what a failed read left. */
void dinov_pickle_clear(dinov_pickle *pickle);

#endif
