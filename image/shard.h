/* SPDX-License-Identifier: Apache-2.0
 *
 * One tar shard in the WebDataset layout: members that follow each other and share a key (the path up
 * to the first dot of its last part) are one sample, "KEY.jpg" its picture, "KEY.cls" its label in
 * ASCII. ustar, pax and GNU archives; plain, gzip or zstd.
 *
 * Opening reads the headers once, in order, and remembers where each picture lies. Nothing is ever
 * extracted by name. A packed shard is unpacked into memory, once. What stands before damage is used;
 * the damage is a problem on a list, not a failure.
 */
#ifndef DINOV_IMAGE_SHARD_H
#define DINOV_IMAGE_SHARD_H

#include "base/fail.h"

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

enum { DINOV_SHARD_MEMBER = 1 << 30, DINOV_SHARD_PATH = 4096 }; /* largest member and longest name, in bytes */

/* What was wrong with data that could be used all the same. Starts as {0}. */
typedef struct dinov_problems {
    dinov_error *list;
    int64_t      kept, count; /* the first few are kept, all are counted */
} dinov_problems;

/* Adds one; it is only counted when memory is out. */
void dinov_problems_add(dinov_problems *problems, const dinov_error *problem);
void dinov_problems_clear(dinov_problems *problems);

typedef struct dinov_shard_item {
    uint64_t offset; /* of its bytes in the tar, unpacked */
    size_t   name;   /* offset in dinov_shard.names */
    uint32_t size;
    int32_t  label; /* -1: none */
} dinov_shard_item;

typedef struct dinov_shard {
    char             *path;
    dinov_shard_item *items; /* in the order of the archive */
    int64_t           count, room;
    char             *names; /* zero-terminated, as they stand in the archive */
    size_t            names_size, names_room;
    const uint8_t    *bytes;    /* the tar when it is in memory; else NULL, and the file is read again for each item */
    uint64_t          size;     /* of the tar */
    uint8_t          *unpacked; /* owns `bytes` of a packed shard */
    dev_t             device;   /* with the next three, the file that was indexed */
    ino_t             inode;
    off_t             file_size;
    struct timespec   changed;
} dinov_shard;

/* Indexes a shard file. `unpack_limit` bounds the bytes of a packed one. `out` is empty before;
 * dinov_shard_close after, also after a failure. Problems: SHARD-FORMAT (no tar), SHARD-DAMAGED,
 * SHARD-TRUNCATED, SHARD-TRAILING, SHARD-UNPACK, SHARD-MEMBER, SHARD-LABEL.
 * Errors: ERR_IO (SHARD-OPEN), ERR_LIMIT (SHARD-LARGE: a packed shard over the limit), ERR_NOMEM. */
dinov_status dinov_shard_open(dinov_shard *out, const char *path, size_t unpack_limit, dinov_problems *problems, dinov_error *err);

/* The same for bytes in memory, which must outlive `out`; `name` stands for the file. */
dinov_status dinov_shard_index(dinov_shard *out, const void *bytes, size_t size, const char *name, size_t unpack_limit,
                               dinov_problems *problems, dinov_error *err);
void         dinov_shard_close(dinov_shard *shard);

/* The bytes of one picture (dinov_free); any thread. ERR_IO (SHARD-READ) when the file is gone, cannot
 * be read or is no longer the one that was indexed, ERR_NOMEM. */
dinov_status dinov_shard_read(const dinov_shard *shard, int64_t index, void **bytes, size_t *size, dinov_error *err);

/* Whether the first bytes say that it is a tar, or packed by gzip or zstd. */
bool dinov_shard_recognise(const void *bytes, size_t size);

#endif
