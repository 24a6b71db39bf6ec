/* SPDX-License-Identifier: Apache-2.0
 *
 * libarchive reads headers and unpacks; whether what it reports lies inside the archive is checked
 * here again. It tells where a member's bytes begin by how far it has read when a header is done.
 */
#include "image/shard.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "image/internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEPT = 64, CHUNK = 1 << 16, LABEL = 32 };

void dinov_problems_add(dinov_problems *problems, const dinov_error *problem)
{
    if (!problems->list) problems->list = dinov_alloc(KEPT, sizeof *problems->list);
    if (problems->list && problems->kept < KEPT) problems->list[problems->kept++] = *problem;
    problems->count++;
}

void dinov_problems_clear(dinov_problems *problems)
{
    dinov_free(problems->list);
    *problems = (dinov_problems){0};
}

/* What one pass over the headers knows. */
struct indexer {
    dinov_shard    *shard;
    int             fd;   /* of a plain shard file; -1 when shard->bytes has the tar */
    bool            cut;  /* the archive ended inside a member */
    uint64_t        next; /* where the next header should stand */
    struct archive *archive;
    dinov_problems *problems;
    char            shown[DINOV_ESCAPED]; /* the shard, in messages */
    dinov_error    *err;

    /* The sample whose members are passing. */
    char             key[DINOV_SHARD_PATH + 1];
    dinov_shard_item picture;
    int              rank; /* of `picture`; 0: none yet */
    int32_t          label;
};

/* Notes what is wrong at byte `at` of the unpacked tar. */
DINOV_PRINTF(5, 6)
static void problem(struct indexer *x, dinov_status status, const char *code, uint64_t at, const char *format, ...)
{
    char        text[512];
    dinov_error error;
    va_list     args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    dinov_raise(&error, status, code, "%s: at byte %llu: %s", x->shown, (unsigned long long)at, text);
    dinov_problems_add(x->problems, &error);
}

/* libarchive's account of what it met, escaped. */
static const char *said(struct archive *a, char out[DINOV_ESCAPED])
{
    const char *text = archive_error_string(a);
    return text ? dinov_escape(out, DINOV_ESCAPED, text, strlen(text)) : "no reason is known";
}

static uint64_t position(const struct indexer *x) { return (uint64_t)archive_filter_bytes(x->archive, 0); }

/* ---- Samples ---- */

/* How well a name after its first dot fits the picture of a sample: "jpg", any other picture, or only ending like one. */
static int picture_rank(const char *name, const char *extension)
{
    if (!dinov_image_named_picture(name)) return 0;
    if (strchr(extension, '.')) return 1;
    return strcasecmp(extension, "jpg") == 0 || strcasecmp(extension, "jpeg") == 0 ? 3 : 2;
}

static dinov_status sample_end(struct indexer *x)
{
    dinov_shard *s = x->shard;
    if (x->rank) {
        if (s->count == s->room) {
            int64_t           room  = s->room ? 2 * s->room : 64;
            dinov_shard_item *items = dinov_realloc(s->items, (size_t)room, sizeof *items);
            if (!items) return dinov_fail_nomem(x->err, x->shown, "its index");
            s->items = items;
            s->room  = room;
        }
        x->picture.label     = x->label;
        s->items[s->count++] = x->picture;
    }
    x->rank  = 0;
    x->label = -1;
    return DINOV_OK;
}

/* The name goes over that of a lesser picture of the same sample. */
static dinov_status sample_picture(struct indexer *x, const char *name, int rank, uint64_t offset, uint32_t size)
{
    dinov_shard *s      = x->shard;
    size_t       length = strlen(name) + 1, at = x->rank ? x->picture.name : s->names_size;
    if (at + length > s->names_room) {
        size_t room  = 2 * (at + length);
        char  *names = dinov_realloc(s->names, room, 1);
        if (!names) return dinov_fail_nomem(x->err, x->shown, "its index");
        s->names      = names;
        s->names_room = room;
    }
    memcpy(s->names + at, name, length);
    s->names_size = at + length;
    x->picture    = (dinov_shard_item){.offset = offset, .name = at, .size = size};
    x->rank       = rank;
    return DINOV_OK;
}

/* Digits, and white space after them. */
static void sample_label(struct indexer *x, uint64_t offset)
{
    char    text[LABEL + 1], shown[4 * LABEL + 4];
    ssize_t size  = archive_read_data(x->archive, text, sizeof text);
    int64_t value = 0, digits = 0;
    if (size < 0) return; /* the next header says what is wrong */
    while (digits < size && text[digits] >= '0' && text[digits] <= '9' && value <= INT32_MAX)
        value = 10 * value + (text[digits++] - '0');
    int64_t end = digits;
    while (end < size && strchr(" \t\r\n", text[end]) && text[end]) end++;
    if (digits == 0 || end < size || size > LABEL || value > INT32_MAX)
        problem(x, DINOV_ERR_FORMAT, "SHARD-LABEL", offset,
                "expected a class number from 0 to 2147483647, found \"%s\"; the sample has none",
                dinov_escape(shown, sizeof shown, text, (size_t)size));
    else
        x->label = (int32_t)value;
}

/* ---- Members ---- */

static const char *name_of(struct archive_entry *entry)
{
    const char *name = archive_entry_pathname(entry);
    return name ? name : archive_entry_pathname_utf8(entry); /* a pax name that this locale cannot spell */
}

/* One header. */
static dinov_status member(struct indexer *x, struct archive_entry *entry)
{
    uint64_t    offset = position(x);
    const char *name   = name_of(entry);
    int64_t     size   = archive_entry_size(entry); /* libarchive refuses negative ones */
    char        shown[DINOV_ESCAPED];

    if (!dinov_ck_add(offset, (uint64_t)size, &x->next) || !dinov_ck_align(x->next, 512, &x->next)) x->next = x->shard->size;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry)) return DINOV_OK;
    if (!name || strlen(name) > DINOV_SHARD_PATH) {
        problem(x, DINOV_ERR_LIMIT, "SHARD-MEMBER", offset,
                "a member with a name that cannot be read, or of more than %d bytes; it is left out", DINOV_SHARD_PATH);
        return DINOV_OK;
    }
    const char *base = strrchr(name, '/');
    base             = base ? base + 1 : name;
    const char *dot  = strchr(base, '.');
    if (!dot || dot == base) return DINOV_OK; /* no key, no kind */

    size_t key = (size_t)(dot - name);
    if (strncmp(x->key, name, key) != 0 || x->key[key]) {
        DINOV_TRY(sample_end(x));
        memcpy(x->key, name, key);
        x->key[key] = '\0';
    }
    int  rank  = picture_rank(name, dot + 1);
    bool label = strcasecmp(dot + 1, "cls") == 0;
    if (rank <= x->rank && !label) return DINOV_OK;
    dinov_escape(shown, sizeof shown, name, strlen(name));
    bool sparse = archive_entry_sparse_count(entry) > 0; /* then `size` is not what is stored */
    if (!sparse && (offset > x->shard->size || (uint64_t)size > x->shard->size - offset)) {
        problem(x, DINOV_ERR_CORRUPT, "SHARD-TRUNCATED", offset, "%s: expected %lld bytes, found %lld before the end", shown,
                (long long)size, (long long)(offset > x->shard->size ? 0 : x->shard->size - offset));
        x->cut = true;
        return DINOV_OK;
    }
    if (sparse || size > DINOV_SHARD_MEMBER) {
        problem(x, DINOV_ERR_LIMIT, "SHARD-MEMBER", offset,
                "%s: expected one piece of at most %d bytes, found %s%lld; it is left out", shown, DINOV_SHARD_MEMBER,
                sparse ? "a sparse file of " : "", (long long)size);
        return DINOV_OK;
    }
    if (label)
        sample_label(x, offset);
    else
        DINOV_TRY(sample_picture(x, name, rank, offset, (uint32_t)size));
    return DINOV_OK;
}

/* After the mark that ends an archive only zeros may stand. */
static void check_rest(struct indexer *x)
{
    uint8_t chunk[4096];
    for (uint64_t at = position(x), n; at < x->shard->size; at += n) {
        const uint8_t *p = chunk;
        n                = x->shard->size - at < sizeof chunk ? x->shard->size - at : sizeof chunk;
        if (x->fd < 0)
            p = x->shard->bytes + at;
        else if (pread(x->fd, chunk, n, (off_t)at) != (ssize_t)n)
            return;
        for (uint64_t i = 0; i < n; i++)
            if (p[i]) {
                problem(x, DINOV_ERR_CORRUPT, "SHARD-TRAILING", at + i,
                        "expected nothing after the end of the archive, found more data; it is not read");
                return;
            }
    }
}

static dinov_status index_members(struct indexer *x)
{
    char     text[DINOV_ESCAPED];
    uint64_t headers = 0;
    for (;; headers++) {
        struct archive_entry *entry;
        int                   result = archive_read_next_header(x->archive, &entry);
        if (result == ARCHIVE_EOF) break;
        if (result == ARCHIVE_OK || result == ARCHIVE_WARN) {
            DINOV_TRY(member(x, entry));
            if (x->cut) return sample_end(x);
            continue;
        }
        if (archive_errno(x->archive) == ENOMEM) return dinov_fail_nomem(x->err, x->shown, "its index");
        if (headers == 0)
            problem(x, DINOV_ERR_FORMAT, "SHARD-FORMAT", 0, "expected a tar archive: %s", said(x->archive, text));
        else
            problem(x, DINOV_ERR_CORRUPT, "SHARD-DAMAGED", x->next, "the archive cannot be read on: %s; what stands before is used",
                    said(x->archive, text));
        return sample_end(x);
    }
    if (headers) check_rest(x);
    return sample_end(x);
}

/* The headers of the tar in shard->bytes, or in `fd`. */
static dinov_status index_tar(struct indexer *x)
{
    dinov_shard *s = x->shard;
    x->label       = -1;
    x->archive     = archive_read_new();
    if (!x->archive) return dinov_fail_nomem(x->err, x->shown, "its index");
    archive_read_support_format_tar(x->archive);
    archive_read_support_format_empty(x->archive);
    int          result = x->fd < 0 ? archive_read_open_memory(x->archive, s->bytes, (size_t)s->size)
                                    : archive_read_open_fd(x->archive, x->fd, CHUNK);
    dinov_status status = DINOV_OK;
    char         text[DINOV_ESCAPED];
    if (result == ARCHIVE_OK)
        status = index_members(x);
    else
        problem(x, DINOV_ERR_FORMAT, "SHARD-FORMAT", 0, "expected a tar archive: %s", said(x->archive, text));
    archive_read_free(x->archive);
    return status;
}

/* ---- Packed shards ---- */

static bool is_packed(const uint8_t *bytes, size_t size)
{
    return size >= 4 && (memcmp(bytes, "\x1f\x8b", 2) == 0 || memcmp(bytes, "\x28\xb5\x2f\xfd", 4) == 0);
}

bool dinov_shard_recognise(const void *bytes, size_t size)
{
    return is_packed(bytes, size) || (size >= 263 && memcmp((const uint8_t *)bytes + 257, "ustar", 5) == 0);
}

static dinov_status unpack_all(struct indexer *x, struct archive *a, size_t limit)
{
    dinov_shard *s    = x->shard;
    size_t       room = 0;
    char         text[DINOV_ESCAPED];
    for (;;) {
        if (s->size > limit)
            return dinov_fail(x->err, DINOV_ERR_LIMIT, "SHARD-LARGE",
                              "%s: unpacked it takes more than the %zu bytes left for packed shards, which are kept in memory; "
                              "unpack it to a .tar first",
                              x->shown, limit);
        if (s->size == room) {
            size_t   more     = !room ? CHUNK : room <= limit / 2 ? 2 * room : limit + 1;
            uint8_t *unpacked = dinov_realloc(s->unpacked, more, 1);
            if (!unpacked) return dinov_fail_nomem(x->err, x->shown, "its unpacked bytes");
            s->unpacked = unpacked;
            room        = more;
        }
        ssize_t n = archive_read_data(a, s->unpacked + s->size, room - (size_t)s->size);
        if (n == 0) break;
        if (n < 0) {
            if (archive_errno(a) == ENOMEM) return dinov_fail_nomem(x->err, x->shown, "its unpacked bytes");
            problem(x, DINOV_ERR_CORRUPT, "SHARD-UNPACK", s->size,
                    "the packed data cannot be unpacked on: %s; what stands before is used", said(a, text));
            break;
        }
        s->size += (size_t)n;
    }
    uint8_t *fitting = s->size ? dinov_realloc(s->unpacked, (size_t)s->size, 1) : NULL;
    if (fitting) s->unpacked = fitting;
    return DINOV_OK;
}

/* From shard->bytes, or from x->fd, which is left at its end. */
static dinov_status unpack(struct indexer *x, size_t limit)
{
    dinov_shard    *s      = x->shard;
    struct archive *a      = archive_read_new();
    dinov_status    status = DINOV_OK;
    char            text[DINOV_ESCAPED];
    if (!a) return dinov_fail_nomem(x->err, x->shown, "unpacking");
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_zstd(a);
    archive_read_support_format_raw(a);
    archive_read_support_format_empty(a);
    struct archive_entry *entry;
    int result = x->fd < 0 ? archive_read_open_memory(a, s->bytes, (size_t)s->size) : archive_read_open_fd(a, x->fd, CHUNK);
    if (result == ARCHIVE_OK) result = archive_read_next_header(a, &entry);
    s->size = 0;
    if (result == ARCHIVE_OK)
        status = unpack_all(x, a, limit);
    else if (result != ARCHIVE_EOF)
        problem(x, DINOV_ERR_CORRUPT, "SHARD-UNPACK", 0, "the packed data cannot be unpacked: %s", said(a, text));
    archive_read_free(a);
    x->fd    = -1;
    s->bytes = s->unpacked ? s->unpacked : (const uint8_t *)"";
    return status;
}

/* ---- Opening, reading ---- */

dinov_status dinov_shard_index(dinov_shard *out, const void *bytes, size_t size, const char *name, size_t unpack_limit,
                               dinov_problems *problems, dinov_error *err)
{
    struct indexer x = {.shard = out, .fd = -1, .problems = problems, .err = err};
    dinov_escape(x.shown, sizeof x.shown, name, strlen(name));
    *out      = (dinov_shard){.bytes = bytes, .size = size};
    out->path = dinov_strdup(name);
    if (!out->path) return dinov_fail_nomem(err, x.shown, "its name");
    if (is_packed(bytes, size)) DINOV_TRY(unpack(&x, unpack_limit));
    return index_tar(&x);
}

static int open_file(const char *path, struct stat *st)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && (fstat(fd, st) != 0 || !S_ISREG(st->st_mode))) {
        int reason = S_ISREG(st->st_mode) ? errno : EINVAL;
        close(fd);
        errno = reason;
        return -1;
    }
    return fd;
}

dinov_status dinov_shard_open(dinov_shard *out, const char *path, size_t unpack_limit, dinov_problems *problems, dinov_error *err)
{
    struct indexer x = {.shard = out, .problems = problems, .err = err};
    struct stat    st;
    uint8_t        head[4];
    dinov_status   status = DINOV_OK;

    dinov_escape(x.shown, sizeof x.shown, path, strlen(path));
    *out   = (dinov_shard){0};
    int fd = x.fd = open_file(path, &st);
    if (fd < 0) return dinov_fail_errno(err, errno, "SHARD-OPEN", "%s: cannot open this shard", x.shown);
    out->path = dinov_strdup(path);
    if (!out->path) {
        status = dinov_fail_nomem(err, x.shown, "its name");
        goto fail;
    }
    out->device    = st.st_dev;
    out->inode     = st.st_ino;
    out->file_size = st.st_size;
    out->changed   = st.st_mtim;
    out->size      = (uint64_t)st.st_size;
    ssize_t n      = pread(fd, head, sizeof head, 0);
    if (n < 0) {
        status = dinov_fail_errno(err, errno, "SHARD-OPEN", "%s: cannot read this shard", x.shown);
        goto fail;
    }
    if (is_packed(head, (size_t)n)) DINOV_TRY_GOTO(unpack(&x, unpack_limit));
    status = index_tar(&x);
fail:
    close(fd);
    return status;
}

void dinov_shard_close(dinov_shard *shard)
{
    dinov_free(shard->path);
    dinov_free(shard->items);
    dinov_free(shard->names);
    dinov_free(shard->unpacked);
    *shard = (dinov_shard){0};
}

static dinov_status read_file(const dinov_shard *s, const dinov_shard_item *item, uint8_t *out, dinov_error *err)
{
    char        shown[DINOV_ESCAPED];
    struct stat st;
    size_t      have = 0;
    int         fd   = open_file(s->path, &st);

    dinov_escape(shown, sizeof shown, s->path, strlen(s->path));
    if (fd < 0) return dinov_fail_errno(err, errno, "SHARD-READ", "%s: cannot open this shard", shown);
    if (st.st_dev != s->device || st.st_ino != s->inode || st.st_size != s->file_size || st.st_mtim.tv_sec != s->changed.tv_sec ||
        st.st_mtim.tv_nsec != s->changed.tv_nsec) {
        close(fd);
        return dinov_fail(err, DINOV_ERR_IO, "SHARD-READ",
                          "%s: expected the shard that was indexed, found it changed since; start again", shown);
    }
    while (have < item->size) {
        ssize_t n = pread(fd, out + have, item->size - have, (off_t)(item->offset + have));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            dinov_status status = dinov_fail_errno(err, n < 0 ? errno : EIO, "SHARD-READ", "%s: cannot read at byte %llu", shown,
                                                   (unsigned long long)(item->offset + have));
            close(fd);
            return status;
        }
        have += (size_t)n;
    }
    close(fd);
    return DINOV_OK;
}

dinov_status dinov_shard_read(const dinov_shard *shard, int64_t index, void **bytes, size_t *size, dinov_error *err)
{
    DINOV_ASSERT(index >= 0 && index < shard->count);
    const dinov_shard_item *item = &shard->items[index];
    uint8_t                *data = dinov_alloc(item->size, 1);
    if (!data) return dinov_fail_nomem(err, "shard", "a picture");
    if (shard->bytes) {
        memcpy(data, shard->bytes + item->offset, item->size);
    } else {
        dinov_status status = read_file(shard, item, data, err);
        if (status != DINOV_OK) {
            dinov_free(data);
            return status;
        }
    }
    *bytes = data;
    *size  = item->size;
    return DINOV_OK;
}
