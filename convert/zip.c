/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/zip.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

enum {
    LOCAL_SIZE        = 30,
    CENTRAL_SIZE      = 46,
    END_SIZE          = 22,
    LOCATOR_SIZE      = 20,
    END64_SIZE        = 56,
    DESCRIPTOR_SIZE   = 16,
    DESCRIPTOR64_SIZE = 24,
    MAX_ENTRIES       = 1 << 17,
    MAX_NAME          = 4096,
    /* Deflated entries: torch writes none, and weights hardly shrink. All together may unpack to this
     * many times the file and one MiB more. */
    MAX_INFLATE_RATIO = 4,
};

#define LOCAL_MAGIC 0x04034b50u
#define CENTRAL_MAGIC 0x02014b50u
#define END_MAGIC 0x06054b50u
#define LOCATOR_MAGIC 0x07064b50u
#define END64_MAGIC 0x06064b50u
#define DESCRIPTOR_MAGIC 0x08074b50u
#define SATURATED32 0xffffffffu
#define SATURATED16 0xffffu

/* Flags: 3 sizes follow in a descriptor, 11 the name is UTF-8; 1 and 2 are hints of deflate. */
#define FLAG_DESCRIPTOR 0x0008u
#define FLAGS_KNOWN 0x080eu

struct directory {
    uint64_t offset, size, count, end; /* `end`: where the first record behind the directory begins */
};

static dinov_status bad(const dinov_zip *zip, const char *code, dinov_error *err, const char *what)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: zip container: %s", zip->where, what);
}

static dinov_status bad_entry(const dinov_zip *zip, const char *code, const void *name, size_t name_size, dinov_error *err,
                              const char *what)
{
    char text[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: zip entry %s: %s", zip->where,
                      dinov_escape(text, sizeof text, name, name_size), what);
}

/* The end record, exactly at the end of the file, and its 64-bit form where one is announced. */
static dinov_status find_directory(const dinov_zip *zip, const uint8_t *data, uint64_t size, struct directory *dir,
                                   dinov_error *err)
{
    dinov_cursor c = dinov_cursor_make(data, size);

    if (size < END_SIZE || !dinov_cursor_seek(&c, size - END_SIZE) || dinov_cursor_le32(&c) != END_MAGIC)
        return bad(
            zip, "ZIP-END", err,
            "expected the end record in the last 22 bytes, found something else: the file is cut short or has bytes behind it");
    uint16_t disk = dinov_cursor_le16(&c), start_disk = dinov_cursor_le16(&c);
    uint16_t count_here = dinov_cursor_le16(&c), count = dinov_cursor_le16(&c);
    dir->size   = dinov_cursor_le32(&c);
    dir->offset = dinov_cursor_le32(&c);
    dir->count  = count;
    dir->end    = size - END_SIZE;
    if (dinov_cursor_le16(&c) != 0) return bad(zip, "ZIP-END", err, "expected no comment behind the end record, found one");
    if (disk != start_disk || (disk != 0 && disk != SATURATED16) || count_here != count)
        return bad(zip, "ZIP-END", err, "expected one volume, found parts of several");

    /* torch writes the 64-bit record always, also where nothing is saturated. */
    bool         saturated = count == SATURATED16 || dir->size == SATURATED32 || dir->offset == SATURATED32 || disk == SATURATED16;
    dinov_cursor l         = dinov_cursor_make(data, size);
    bool         has_locator = size >= END_SIZE + LOCATOR_SIZE && dinov_cursor_seek(&l, size - END_SIZE - LOCATOR_SIZE) &&
                       dinov_cursor_le32(&l) == LOCATOR_MAGIC;
    if (!has_locator) {
        if (saturated) return bad(zip, "ZIP-ZIP64", err, "expected a 64-bit end record locator, found none");
        return DINOV_OK;
    }
    uint32_t end64_disk   = dinov_cursor_le32(&l);
    uint64_t end64_offset = dinov_cursor_le64(&l);
    uint32_t disks        = dinov_cursor_le32(&l);
    uint64_t locator      = size - END_SIZE - LOCATOR_SIZE;
    if (end64_disk != 0 || disks > 1 || locator < END64_SIZE || end64_offset != locator - END64_SIZE)
        return bad(zip, "ZIP-ZIP64", err, "expected the 64-bit end record right before its locator, found it elsewhere");

    dinov_cursor e = dinov_cursor_make(data, size);
    dinov_cursor_seek(&e, end64_offset);
    if (dinov_cursor_le32(&e) != END64_MAGIC || dinov_cursor_le64(&e) != END64_SIZE - 12)
        return bad(zip, "ZIP-ZIP64", err, "expected a 64-bit end record of 56 bytes, found something else");
    dinov_cursor_take(&e, 4); /* versions */
    uint32_t disk64 = dinov_cursor_le32(&e), start64 = dinov_cursor_le32(&e);
    uint64_t here64 = dinov_cursor_le64(&e), count64 = dinov_cursor_le64(&e);
    uint64_t size64 = dinov_cursor_le64(&e), offset64 = dinov_cursor_le64(&e);
    if (disk64 != 0 || start64 != 0 || here64 != count64 || (count != SATURATED16 && count64 != count) ||
        (dir->size != SATURATED32 && size64 != dir->size) || (dir->offset != SATURATED32 && offset64 != dir->offset))
        return bad(zip, "ZIP-ZIP64", err, "expected both end records to agree, found them different");
    *dir = (struct directory){offset64, size64, count64, end64_offset};
    return DINOV_OK;
}

/* Extra fields tile their space: id, length, that many bytes. Returns the payload of `id`, or NULL. */
static bool find_extra(const uint8_t *extra, uint16_t size, uint16_t id, const uint8_t **payload, uint16_t *length)
{
    dinov_cursor c = dinov_cursor_make(extra, size);
    *payload       = NULL;
    while (dinov_cursor_left(&c) > 0) {
        uint16_t       this_id = dinov_cursor_le16(&c), this_length = dinov_cursor_le16(&c);
        const uint8_t *p = dinov_cursor_take(&c, this_length);
        if (c.failed) return false;
        if (this_id != id) continue;
        if (*payload) return false;
        *payload = p;
        *length  = this_length;
    }
    return true;
}

struct central {
    const uint8_t *name;
    uint64_t       size, packed, header;
    uint32_t       crc;
    uint16_t       flags, method, name_size;
};

static dinov_status read_central(const dinov_zip *zip, dinov_cursor *c, struct central *out, dinov_error *err)
{
    if (dinov_cursor_le32(c) != CENTRAL_MAGIC)
        return bad(zip, "ZIP-DIRECTORY", err, "expected a directory entry, found other bytes");
    dinov_cursor_take(c, 4); /* versions */
    out->flags  = dinov_cursor_le16(c);
    out->method = dinov_cursor_le16(c);
    dinov_cursor_take(c, 4); /* time and date */
    out->crc            = dinov_cursor_le32(c);
    out->packed         = dinov_cursor_le32(c);
    out->size           = dinov_cursor_le32(c);
    out->name_size      = dinov_cursor_le16(c);
    uint16_t extra_size = dinov_cursor_le16(c);
    uint16_t comment    = dinov_cursor_le16(c);
    uint16_t disk       = dinov_cursor_le16(c);
    dinov_cursor_take(c, 6); /* attributes */
    out->header          = dinov_cursor_le32(c);
    out->name            = dinov_cursor_take(c, out->name_size);
    const uint8_t *extra = dinov_cursor_take(c, extra_size);
    dinov_cursor_take(c, comment);
    if (c->failed) return bad(zip, "ZIP-DIRECTORY", err, "expected a whole directory entry, found its end");
    if (out->name_size == 0 || out->name_size > MAX_NAME || memchr(out->name, 0, out->name_size))
        return bad_entry(zip, "ZIP-NAME", out->name, out->name_size, err, "expected a name of 1 to 4096 bytes without NUL");
    if (disk != 0)
        return bad_entry(zip, "ZIP-DIRECTORY", out->name, out->name_size, err, "expected it on this volume, found another");
    if (out->flags & ~FLAGS_KNOWN)
        return bad_entry(zip, "ZIP-FLAGS", out->name, out->name_size, err,
                         out->flags & 1 ? "it is encrypted; decrypt it first" : "expected flags that torch writes, found others");
    if (out->method != 0 && out->method != 8)
        return bad_entry(zip, "ZIP-METHOD", out->name, out->name_size, err,
                         "expected it stored or deflated, found another compression; save it with torch.save again");

    const uint8_t *wide;
    uint16_t       wide_size = 0;
    if (!find_extra(extra, extra_size, 1, &wide, &wide_size))
        return bad_entry(zip, "ZIP-DIRECTORY", out->name, out->name_size, err, "its extra fields do not fit their space");
    /* Holds the saturated values only, in this order. */
    dinov_cursor w         = dinov_cursor_make(wide ? wide : extra, wide ? wide_size : 0);
    uint64_t    *values[3] = {&out->size, &out->packed, &out->header};
    for (int i = 0; i < 3; i++)
        if (*values[i] == SATURATED32) *values[i] = dinov_cursor_le64(&w);
    if (w.failed || dinov_cursor_left(&w) != 0)
        return bad_entry(zip, "ZIP-ZIP64", out->name, out->name_size, err,
                         "expected exactly the values its 64-bit field stands for, found another length");
    if (out->method == 0 && out->packed != out->size)
        return bad_entry(zip, "ZIP-DIRECTORY", out->name, out->name_size, err, "stored, yet its two sizes differ");
    return DINOV_OK;
}

/* torch's 64-bit local field is outside the zip rules: 16 bytes are size and 0, 8 bytes are the
 * entry's own offset. Other writers repeat the two sizes. */
static bool local_wide_agrees(const uint8_t *wide, uint16_t wide_size, const struct central *entry)
{
    if (wide_size == 8) return dinov_le64(wide) == entry->header || dinov_le64(wide) == entry->size;
    if (wide_size != 16) return false;
    uint64_t size = dinov_le64(wide), packed = dinov_le64(wide + 8);
    return (size == entry->size || size == 0) && (packed == entry->packed || packed == 0);
}

/* Proves the local header and the descriptor say what the directory says, and finds the data. */
static dinov_status read_local(const dinov_zip *zip, const uint8_t *data, uint64_t limit, const struct central *entry,
                               dinov_zip_entry *out, dinov_error *err)
{
    dinov_cursor c = dinov_cursor_make(data, limit);
    dinov_cursor_seek(&c, entry->header);
    uint32_t magic = dinov_cursor_le32(&c);
    dinov_cursor_take(&c, 2);
    uint16_t flags = dinov_cursor_le16(&c), method = dinov_cursor_le16(&c);
    dinov_cursor_take(&c, 4);
    uint32_t       crc = dinov_cursor_le32(&c), packed = dinov_cursor_le32(&c), size = dinov_cursor_le32(&c);
    uint16_t       name_size = dinov_cursor_le16(&c), extra_size = dinov_cursor_le16(&c);
    const uint8_t *name  = dinov_cursor_take(&c, name_size);
    const uint8_t *extra = dinov_cursor_take(&c, extra_size);
    out->packed          = dinov_cursor_take(&c, entry->packed);
    if (c.failed || magic != LOCAL_MAGIC)
        return bad_entry(zip, "ZIP-LOCAL", entry->name, entry->name_size, err,
                         "expected its header and bytes where the directory says, found neither or not all");

    const uint8_t *wide;
    uint16_t       wide_size = 0;
    bool           follows   = flags & FLAG_DESCRIPTOR;
    bool           extra_ok  = find_extra(extra, extra_size, 1, &wide, &wide_size);
    if (!extra_ok || (wide && !local_wide_agrees(wide, wide_size, entry)))
        return bad_entry(zip, "ZIP-LOCAL", entry->name, entry->name_size, err,
                         "the extra fields of its local header do not agree with the directory");
    bool size_ok   = size == entry->size || (follows && size == 0) || (wide && size == SATURATED32);
    bool packed_ok = packed == entry->packed || (follows && packed == 0) || (wide && packed == SATURATED32);
    bool crc_ok    = crc == entry->crc || (follows && crc == 0);
    if (flags != entry->flags || method != entry->method || name_size != entry->name_size ||
        memcmp(name, entry->name, name_size) != 0 || !size_ok || !packed_ok || !crc_ok)
        return bad_entry(zip, "ZIP-LOCAL", entry->name, entry->name_size, err,
                         "its local header and the directory disagree on name, flags, method, size or CRC");
    out->begin = entry->header;
    out->end   = c.pos;
    return DINOV_OK;
}

/* Between an entry's bytes and `next` lies its descriptor, or nothing. */
static dinov_status check_gap(const dinov_zip *zip, const uint8_t *data, dinov_zip_entry *entry, bool follows, uint64_t next,
                              dinov_error *err)
{
    const char *name = entry->name;
    if (entry->end > next) return bad_entry(zip, "ZIP-OVERLAP", name, strlen(name), err, "it overlaps what follows");
    uint64_t gap = next - entry->end;
    if (!follows) {
        if (gap != 0) return bad_entry(zip, "ZIP-OVERLAP", name, strlen(name), err, "bytes that belong to no entry follow it");
        return DINOV_OK;
    }
    const uint8_t *p  = data + entry->end;
    bool           ok = false;
    if (gap == DESCRIPTOR_SIZE)
        ok = dinov_le32(p) == DESCRIPTOR_MAGIC && dinov_le32(p + 4) == entry->crc && dinov_le32(p + 8) == entry->packed_size &&
             dinov_le32(p + 12) == entry->size;
    else if (gap == DESCRIPTOR64_SIZE)
        ok = dinov_le32(p) == DESCRIPTOR_MAGIC && dinov_le32(p + 4) == entry->crc && dinov_le64(p + 8) == entry->packed_size &&
             dinov_le64(p + 16) == entry->size;
    if (!ok)
        return bad_entry(zip, "ZIP-DESCRIPTOR", name, strlen(name), err,
                         "expected its CRC and sizes again behind its bytes, found something else");
    entry->end = next;
    return DINOV_OK;
}

static int by_begin(const void *a, const void *b)
{
    const dinov_zip_entry *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const dinov_zip_entry *)a)->name, ((const dinov_zip_entry *)b)->name);
}

/* Entries, sorted by place, cover the file from its first byte to the directory. */
static dinov_status check_tiling(const dinov_zip *zip, const uint8_t *data, uint64_t directory, dinov_error *err)
{
    for (size_t i = 0; i < zip->count; i++) {
        dinov_zip_entry *e = &zip->entries[i];
        if (i == 0 && e->begin != 0) return bad(zip, "ZIP-MAGIC", err, "expected the first entry at byte 0, found it later");
        uint64_t next    = i + 1 < zip->count ? zip->entries[i + 1].begin : directory;
        bool     follows = dinov_le16(data + e->begin + 6) & FLAG_DESCRIPTOR;
        DINOV_TRY(check_gap(zip, data, e, follows, next, err));
    }
    return DINOV_OK;
}

/* Copies a name without the archive's prefix, which the first entry sets. */
static dinov_status take_name(dinov_zip *zip, const struct central *entry, char **room, dinov_zip_entry *out, dinov_error *err)
{
    const uint8_t *slash  = memchr(entry->name, '/', entry->name_size);
    size_t         length = slash ? (size_t)(slash - entry->name) + 1 : 0;
    if (!zip->prefix) {
        if (length < 2)
            return bad_entry(zip, "ZIP-PREFIX", entry->name, entry->name_size, err,
                             "expected a folder in front of its name, as torch.save writes: this zip holds something else");
        zip->prefix = dinov_alloc(length + 1, 1);
        if (!zip->prefix) return dinov_fail_nomem(err, zip->where, "the zip directory");
        memcpy(zip->prefix, entry->name, length);
        zip->prefix[length] = '\0';
    }
    if (length != strlen(zip->prefix) || memcmp(entry->name, zip->prefix, length) != 0)
        return bad_entry(zip, "ZIP-PREFIX", entry->name, entry->name_size, err,
                         "expected it in the same folder as the first entry");
    size_t rest = entry->name_size - length;
    memcpy(*room, entry->name + length, rest);
    (*room)[rest] = '\0';
    out->name     = *room;
    *room += rest + 1;
    return DINOV_OK;
}

static dinov_status read_entries(dinov_zip *zip, const uint8_t *data, uint64_t size, const struct directory *dir, dinov_error *err)
{
    dinov_cursor c        = dinov_cursor_make(data + dir->offset, dir->size);
    char        *room     = zip->names;
    uint64_t     inflated = 0, most;
    bool         any_crc  = false;

    if (!dinov_ck_mul(size, MAX_INFLATE_RATIO, &most) || !dinov_ck_add(most, 1 << 20, &most)) most = UINT64_MAX;
    for (; zip->count < dir->count; zip->count++) {
        struct central   central;
        dinov_zip_entry *e = &zip->entries[zip->count];
        DINOV_TRY(read_central(zip, &c, &central, err));
        DINOV_TRY(take_name(zip, &central, &room, e, err));
        e->size        = central.size;
        e->packed_size = central.packed;
        e->crc         = central.crc;
        e->method      = central.method;
        any_crc |= central.crc != 0;
        DINOV_TRY(read_local(zip, data, dir->offset, &central, e, err));
        if (e->method == 8 && (!dinov_ck_add(inflated, e->size, &inflated) || inflated > most || inflated > SIZE_MAX / 2))
            return dinov_fail(err, DINOV_ERR_LIMIT, "ZIP-BOMB",
                              "%s: zip entry %s: expected at most %d times the file's size after unpacking, found more", zip->where,
                              e->name, MAX_INFLATE_RATIO);
    }
    if (dinov_cursor_left(&c) != 0)
        return bad(zip, "ZIP-DIRECTORY", err, "expected the directory to end with its last entry, found more");
    zip->no_crc = !any_crc;
    return DINOV_OK;
}

dinov_status dinov_zip_open(dinov_zip *zip, const void *bytes, size_t size, const char *where, dinov_error *err)
{
    const uint8_t   *data = bytes;
    struct directory dir  = {0};
    uint64_t         end;

    *zip = (dinov_zip){.where = where};
    if (size < 4 || dinov_le32(data) != LOCAL_MAGIC)
        return bad(zip, "ZIP-MAGIC", err, "expected the first entry at byte 0, found other bytes");
    DINOV_TRY(find_directory(zip, data, size, &dir, err));
    if (!dinov_ck_add(dir.offset, dir.size, &end) || end != dir.end)
        return bad(zip, "ZIP-DIRECTORY", err,
                   "expected the directory to end where the end record begins, found a gap or an overlap");
    if (dir.count == 0 || dir.count > dir.size / CENTRAL_SIZE)
        return bad(zip, "ZIP-DIRECTORY", err, "expected as many entries as the directory has room for, found another count");
    if (dir.count > MAX_ENTRIES)
        return dinov_fail(err, DINOV_ERR_LIMIT, "ZIP-COUNT", "%s: zip container: expected at most %d entries, found %llu", where,
                          MAX_ENTRIES, (unsigned long long)dir.count);
    zip->entries = dinov_calloc(dir.count, sizeof *zip->entries);
    zip->names   = dinov_alloc(dir.size, 1); /* names and their ends need less than the entries' fixed parts */
    if (!zip->entries || !zip->names) return dinov_fail_nomem(err, where, "the zip directory");
    DINOV_TRY(read_entries(zip, data, size, &dir, err));

    qsort(zip->entries, zip->count, sizeof *zip->entries, by_begin);
    DINOV_TRY(check_tiling(zip, data, dir.offset, err));
    qsort(zip->entries, zip->count, sizeof *zip->entries, by_name);
    for (size_t i = 1; i < zip->count; i++)
        if (strcmp(zip->entries[i - 1].name, zip->entries[i].name) == 0)
            return bad_entry(zip, "ZIP-DUPLICATE", zip->entries[i].name, strlen(zip->entries[i].name), err,
                             "expected once, found twice");
    return DINOV_OK;
}

static int name_is(const void *key, const void *entry) { return strcmp(key, ((const dinov_zip_entry *)entry)->name); }

dinov_zip_entry *dinov_zip_find(const dinov_zip *zip, const char *name)
{
    return bsearch(name, zip->entries, zip->count, sizeof *zip->entries, name_is);
}

/* The whole stream becomes exactly `size` bytes, or nothing does. */
static bool inflate_exactly(const dinov_zip_entry *entry, uint8_t *out)
{
    z_stream z       = {0};
    uint64_t in_left = entry->packed_size, out_left = entry->size;
    int      code = Z_OK;

    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return false;
    z.next_in  = (z_const Bytef *)entry->packed;
    z.next_out = out;
    while (code == Z_OK) {
        uInt in = in_left > UINT_MAX ? UINT_MAX : (uInt)in_left, room = out_left > UINT_MAX ? UINT_MAX : (uInt)out_left;
        z.avail_in  = in;
        z.avail_out = room;
        code        = inflate(&z, Z_NO_FLUSH);
        in_left -= in - z.avail_in;
        out_left -= room - z.avail_out;
    }
    inflateEnd(&z);
    return code == Z_STREAM_END && in_left == 0 && out_left == 0;
}

static uint32_t crc_of(const uint8_t *bytes, uint64_t size)
{
    uLong crc = crc32(0, NULL, 0);
    for (uint64_t done = 0; done < size;) {
        uInt step = size - done > UINT_MAX ? UINT_MAX : (uInt)(size - done);
        crc       = crc32(crc, bytes + done, step);
        done += step;
    }
    return (uint32_t)crc;
}

dinov_status dinov_zip_bytes(const dinov_zip *zip, dinov_zip_entry *entry, const uint8_t **bytes, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    dinov_escape(text, sizeof text, entry->name, strlen(entry->name));
    if (entry->method == 8 && !entry->checked) {
        if (!entry->inflated) entry->inflated = entry->room ? entry->room : dinov_alloc_aligned(entry->size, 1);
        if (!entry->inflated) return dinov_fail_nomem(err, zip->where, "a compressed entry");
        if (!inflate_exactly(entry, entry->inflated))
            return dinov_fail(err, DINOV_ERR_CORRUPT, "ZIP-INFLATE",
                              "%s: zip entry %s: expected %llu bytes from its compressed form, found damage or another size",
                              zip->where, text, (unsigned long long)entry->size);
    }
    const uint8_t *found = entry->method == 8 ? entry->inflated : entry->packed;
    if (!entry->checked && !zip->no_crc) {
        uint32_t crc = crc_of(found, entry->size);
        if (crc != entry->crc)
            return dinov_fail(err, DINOV_ERR_CORRUPT, "ZIP-CRC",
                              "%s: zip entry %s: expected CRC %08x, found %08x: the file is damaged; fetch it again", zip->where,
                              text, entry->crc, crc);
    }
    entry->checked = true;
    *bytes         = found;
    return DINOV_OK;
}

void dinov_zip_close(dinov_zip *zip)
{
    /* `count` covers every entry that could have been inflated. */
    for (size_t i = 0; i < zip->count; i++)
        if (zip->entries[i].inflated != zip->entries[i].room) dinov_free(zip->entries[i].inflated);
    dinov_free(zip->entries);
    dinov_free(zip->names);
    dinov_free(zip->prefix);
    *zip = (dinov_zip){0};
}
