/* SPDX-License-Identifier: Apache-2.0
 *
 * The zip container of torch.save, read from bytes in memory. The central directory says what is
 * there; every local header must agree with it, entries must tile the file from its first byte to
 * the directory, and nothing may follow the end record. Nothing is ever extracted to disk.
 */
#ifndef DINOV_CONVERT_ZIP_H
#define DINOV_CONVERT_ZIP_H

#include "base/fail.h"

#include <stdbool.h>

typedef struct dinov_zip_entry {
    const char    *name;   /* below the archive's one prefix: "data.pkl", "data/0" */
    const uint8_t *packed; /* the bytes as stored */
    uint64_t       packed_size;
    uint64_t       size;       /* unpacked */
    uint64_t       begin, end; /* from local header to the end of the descriptor, in the file */
    uint32_t       crc;
    uint16_t       method;  /* 0 stored, 8 deflated */
    bool           checked; /* dinov_zip_bytes has succeeded once */
    void          *room;    /* the caller may give `size` bytes for what is deflated; they stay the caller's */
    uint8_t       *inflated;
} dinov_zip_entry;

typedef struct dinov_zip {
    const char      *where; /* the file, for messages; the caller's */
    char            *prefix;
    char            *names;   /* storage of all entry names */
    dinov_zip_entry *entries; /* sorted by name */
    size_t           count;
    bool             no_crc; /* the writer switched CRCs off: every field of the archive is 0 */
} dinov_zip;

/* `data` stays alive and unchanged until close. No entry's bytes are read.
 * ERR_FORMAT: ZIP-MAGIC, ZIP-END, ZIP-DIRECTORY, ZIP-LOCAL, ZIP-NAME, ZIP-PREFIX, ZIP-DUPLICATE, ZIP-OVERLAP,
 * ZIP-ZIP64, ZIP-METHOD, ZIP-FLAGS, ZIP-DESCRIPTOR. ERR_LIMIT: ZIP-COUNT, ZIP-BOMB. */
dinov_status dinov_zip_open(dinov_zip *zip, const void *data, size_t size, const char *where, dinov_error *err);

/* NULL when there is none. */
dinov_zip_entry *dinov_zip_find(const dinov_zip *zip, const char *name);

/* The entry's bytes: a view when stored, inflated into `room` or owned memory otherwise. The CRC is proven at
 * the first call. Calls for different entries may run in parallel.
 * ERR_CORRUPT: ZIP-CRC, ZIP-INFLATE. A CRC that differs is refused though torch.load ignores it: a
 * damaged weight is a wrong result. Only archives written with torch's CRC switch off (every field 0)
 * are taken without the check. */
dinov_status dinov_zip_bytes(const dinov_zip *zip, dinov_zip_entry *entry, const uint8_t **bytes, dinov_error *err);

/* Also clears what a failed open left. */
void dinov_zip_close(dinov_zip *zip);

#endif
