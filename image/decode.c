/* SPDX-License-Identifier: Apache-2.0
 *
 * Which format a file is, by its first bytes and never by its name; formats we know but do not read
 * are refused by name. Also what all pictures share: limits, EXIF orientation, turning.
 */
#include "image/internal.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <stdbool.h>
#include <string.h>

/* A format recognised by `size` bytes at `offset`; JPEG and PNG have a decoder, the rest only a name. */
static const struct signature {
    const char *format;
    bool        picture; /* long enough a signature to take an unknown file for a picture */
    size_t      offset, size;
    const char *bytes;
    dinov_status (*decode)(dinov_image *, const void *, size_t, const char *, dinov_error *);
} signatures[] = {
    {"JPEG", true, 0, 3, "\xff\xd8\xff", dinov_jpeg_decode},
    {"JPEG", false, 0, 2, "\xff\xd8", dinov_jpeg_decode},
    {"PNG", true, 0, 8, "\x89PNG\r\n\x1a\n", dinov_png_decode},
    {"WebP", true, 8, 4, "WEBP", NULL},
    {"GIF", true, 0, 4, "GIF8", NULL},
    {"TIFF", true, 0, 4, "II*\0", NULL},
    {"TIFF", true, 0, 4, "MM\0*", NULL},
    {"BigTIFF", true, 0, 4, "II+\0", NULL},
    {"BigTIFF", true, 0, 4, "MM\0+", NULL},
    {"AVIF", true, 4, 8, "ftypavif", NULL},
    {"AVIF", true, 4, 8, "ftypavis", NULL},
    {"HEIC", true, 4, 8, "ftypheic", NULL},
    {"HEIC", true, 4, 8, "ftypheix", NULL},
    {"HEIC", true, 4, 8, "ftyphevc", NULL},
    {"HEIF", true, 4, 8, "ftypmif1", NULL},
    {"HEIF", true, 4, 8, "ftypmsf1", NULL},
    {"JPEG 2000", true, 0, 8, "\0\0\0\x0cjP  ", NULL},
    {"JPEG 2000", true, 0, 4, "\xff\x4f\xff\x51", NULL},
    {"JPEG XL", true, 0, 8, "\0\0\0\x0cJXL ", NULL},
    {"JPEG XL", false, 0, 2, "\xff\x0a", NULL},
    {"Photoshop", true, 0, 4, "8BPS", NULL},
    {"OpenEXR", true, 0, 4, "\x76\x2f\x31\x01", NULL},
    {"Radiance HDR", true, 0, 10, "#?RADIANCE", NULL},
    {"QOI", true, 0, 4, "qoif", NULL},
    {"icon", false, 0, 4, "\0\0\1\0", NULL},
    {"JNG", true, 0, 4, "\x8bJNG", NULL},
    {"MNG", true, 0, 4, "\x8aMNG", NULL},
    {"PDF", false, 0, 5, "%PDF-", NULL},
    {"SVG", false, 0, 4, "<svg", NULL},
    {"XML or SVG", false, 0, 5, "<?xml", NULL},
    {"HTML", false, 0, 5, "<html", NULL},
    {"HTML", false, 0, 5, "<HTML", NULL},
    {"HTML", false, 0, 9, "<!DOCTYPE", NULL},
    {"HTML", false, 0, 9, "<!doctype", NULL},
    {"BMP", false, 0, 2, "BM", NULL},
};

static const struct signature *recognise(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
        const struct signature *s = &signatures[i];
        if (size >= s->offset + s->size && memcmp(bytes + s->offset, s->bytes, s->size) == 0) return s;
    }
    return NULL;
}

/* PBM, PGM, PPM, PAM, PFM: "P", a letter or digit, white space. */
static int is_pnm(const uint8_t *bytes, size_t size)
{
    return size >= 3 && bytes[0] == 'P' && bytes[1] != '\0' && strchr("1234567Ff", bytes[1]) &&
           (bytes[2] == ' ' || bytes[2] == '\n' || bytes[2] == '\r' || bytes[2] == '\t');
}

const char *dinov_image_format(const void *bytes, size_t size)
{
    const struct signature *s = recognise(bytes, size);
    return s ? s->format : is_pnm(bytes, size) ? "PNM" : NULL;
}

int dinov_image_is_picture(const void *bytes, size_t size)
{
    const struct signature *s = recognise(bytes, size);
    return s && s->picture;
}

dinov_status dinov_image_decode(dinov_image *out, const void *bytes, size_t size, const char *name, dinov_error *err)
{
    char                    shown[DINOV_ESCAPED];
    const struct signature *s      = recognise(bytes, size);
    const char             *format = dinov_image_format(bytes, size);

    *out = (dinov_image){.orientation = 1};
    dinov_escape(shown, sizeof shown, name, strlen(name));
    if (size == 0) return dinov_fail(err, DINOV_ERR_CORRUPT, "IMG-TRUNCATED", "%s: the file is empty", shown);
    if (!format)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT", "%s: expected a JPEG or PNG picture, found neither", shown);
    if (!s || !s->decode)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT",
                          "%s: expected a JPEG or PNG picture, found %s; convert it to PNG first", shown, format);
    dinov_status status = s->decode(out, bytes, size, shown, err);
    if (status != DINOV_OK) dinov_image_clear(out);
    return status;
}

dinov_status dinov_image_check_size(uint64_t width, uint64_t height, const char *name, dinov_error *err)
{
    if (width == 0 || height == 0)
        return dinov_fail(err, DINOV_ERR_CORRUPT, "IMG-CORRUPT", "%s: expected a size of at least 1 x 1, found %llu x %llu", name,
                          (unsigned long long)width, (unsigned long long)height);
    if (width > DINOV_IMAGE_MAX_SIDE || height > DINOV_IMAGE_MAX_SIDE || width * height > DINOV_IMAGE_MAX_PIXELS)
        return dinov_fail(err, DINOV_ERR_LIMIT, "IMG-LARGE",
                          "%s: %llu x %llu pixels; expected sides of at most %d and at most %d pixels; shrink it first", name,
                          (unsigned long long)width, (unsigned long long)height, DINOV_IMAGE_MAX_SIDE, DINOV_IMAGE_MAX_PIXELS);
    return DINOV_OK;
}

/* A TIFF block: byte order, 42, offset of the first directory; there the entry 0x0112 of type SHORT. */
int dinov_exif_orientation(const void *tiff, size_t size)
{
    enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3 };
    dinov_cursor   c    = dinov_cursor_make(tiff, size);
    const uint8_t *head = dinov_cursor_take(&c, 8);

    if (!head) return 1;
    bool big = memcmp(head, "MM\0*", 4) == 0;
    if (!big && memcmp(head, "II*\0", 4) != 0) return 1;
    dinov_cursor_seek(&c, big ? dinov_be32(head + 4) : dinov_le32(head + 4));
    const uint8_t *p = dinov_cursor_take(&c, 2);
    for (int left = !p ? 0 : big ? dinov_be16(p) : dinov_le16(p); left > 0; left--) {
        const uint8_t *entry = dinov_cursor_take(&c, 12);
        if (!entry) return 1;
        if ((big ? dinov_be16(entry) : dinov_le16(entry)) != TAG_ORIENTATION) continue;
        if ((big ? dinov_be16(entry + 2) : dinov_le16(entry + 2)) != TYPE_SHORT) return 1;
        int value = big ? dinov_be16(entry + 8) : dinov_le16(entry + 8);
        return value >= 1 && value <= 8 ? value : 1;
    }
    return 1;
}

/* Where the picture's pixel (x, y) of a stored w x h lies after turning: EXIF 2..4 keep the sides, 5..8 swap them. */
static int64_t turned_index(int orientation, int64_t x, int64_t y, int64_t w, int64_t h)
{
    switch (orientation) {
    case 2:
        return y * w + (w - 1 - x);
    case 3:
        return (h - 1 - y) * w + (w - 1 - x);
    case 4:
        return (h - 1 - y) * w + x;
    case 5:
        return x * h + y;
    case 6:
        return x * h + (h - 1 - y);
    case 7:
        return (w - 1 - x) * h + (h - 1 - y);
    default:
        return (w - 1 - x) * h + y; /* 8 */
    }
}

dinov_status dinov_image_turn(dinov_image *image, dinov_error *err)
{
    int64_t w = image->width, h = image->height;

    if (image->orientation == 1) return DINOV_OK;
    DINOV_ASSERT(image->orientation >= 2 && image->orientation <= 8);
    uint8_t *turned = dinov_alloc((size_t)(w * h), 3);
    if (!turned) return dinov_fail_nomem(err, "image", "the turned picture");
    for (int64_t y = 0; y < h; y++) {
        const uint8_t *from  = image->pixels + 3 * y * w;
        uint8_t       *first = turned + 3 * turned_index(image->orientation, 0, y, w, h);
        int64_t        step  = 0; /* pixels from one x to the next: the same along a row */
        if (w > 1) step = turned_index(image->orientation, 1, y, w, h) - turned_index(image->orientation, 0, y, w, h);
        for (int64_t x = 0; x < w; x++) memcpy(first + 3 * step * x, from + 3 * x, 3);
    }
    dinov_free(image->pixels);
    image->pixels = turned;
    if (image->orientation >= 5) image->width = h, image->height = w;
    image->orientation = 1;
    return DINOV_OK;
}

void dinov_image_clear(dinov_image *image)
{
    dinov_free(image->pixels);
    *image = (dinov_image){.orientation = 1};
}
