/* SPDX-License-Identifier: Apache-2.0
 *
 * The constants of the file, each with the section of spec/checkpoint.md that states it.
 */
#ifndef DINOV_FORMAT_LAYOUT_H
#define DINOV_FORMAT_LAYOUT_H

/* 3.2: the bytes from 8 on by which a checkpoint is known; 32 digits follow, then the second part. */
#define DINOV_CK_PREFIX "{\"__metadata__\":{\"dinov_header\":\"xxh3-128:"
#define DINOV_CK_MIDDLE "\",\"format\":\"pt\",\"dinov\":\""

enum {
    DINOV_CK_LENGTH_BYTES = 8,                                                      /* 3.1 */
    DINOV_CK_DIGEST_AT    = DINOV_CK_LENGTH_BYTES + sizeof DINOV_CK_PREFIX - 1,     /* 3.2 */
    DINOV_CK_DIGEST_SIZE  = 32,                                                     /* 3.2 */
    DINOV_CK_DOCUMENT_AT  = DINOV_CK_DIGEST_AT + DINOV_CK_DIGEST_SIZE + sizeof DINOV_CK_MIDDLE - 1, /* 3.3 */
    DINOV_CK_ALIGN        = 64,                                                     /* 3.5 */
    DINOV_CK_BLOCK        = 16 << 20,                                               /* 4.4 */

    DINOV_CK_READ_VERSION  = 1, /* 4.2 */
    DINOV_CK_WRITE_VERSION = 1, /* 4.2 */

    /* 10: limits */
    DINOV_CK_MAX_HEADER       = 100000000,
    DINOV_CK_MAX_DOCUMENT     = 16 << 20,
    DINOV_CK_MAX_VALUES       = 262144,
    DINOV_CK_MAX_DEPTH        = 8,
    DINOV_CK_MAX_TENSORS      = 100000,
    DINOV_CK_MAX_NAME         = 1024,
    DINOV_CK_MAX_TEXT         = 4096,
    DINOV_CK_MAX_FEATURES     = 64,
    DINOV_CK_MAX_FEATURE      = 64,
    DINOV_CK_MAX_CASES        = 16,
    DINOV_CK_MAX_SIDE         = 65535,
    DINOV_CK_MAX_CASE_PATCHES = 1024, /* 8 */
};

#endif
