/* SPDX-License-Identifier: Apache-2.0
 *
 * PNG through libpng: every colour type and depth, interlaced or not, turned into 8-bit RGB. Alpha and
 * transparency are dropped, 16-bit samples keep their high byte, colour profiles and texts are not
 * even unpacked. Its errors come back by longjmp. Checksums are checked, on every chunk.
 */
#include "image/internal.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <setjmp.h>
#include <string.h>

#include <png.h>

struct decoder {
    dinov_cursor bytes;
    bool         no_memory;
    jmp_buf      stop;
    dinov_status status;
    const char  *name;
    dinov_error *err;
};

static void on_error(png_structp png, png_const_charp text)
{
    struct decoder *d = png_get_error_ptr(png);
    char            shown[DINOV_ESCAPED];
    if (d->no_memory)
        d->status = dinov_fail_nomem(d->err, d->name, "decoding");
    else if (d->bytes.failed)
        d->status =
            dinov_fail(d->err, DINOV_ERR_CORRUPT, "IMG-TRUNCATED", "%s: the PNG data ends before the picture is complete", d->name);
    else
        d->status = dinov_fail(d->err, DINOV_ERR_CORRUPT, "IMG-CORRUPT", "%s: damaged PNG: %s", d->name,
                               dinov_escape(shown, sizeof shown, text, strlen(text)));
    longjmp(d->stop, 1);
}

static void on_warning(png_structp png, png_const_charp text) { (void)png, (void)text; }

static void read_bytes(png_structp png, png_bytep out, size_t size)
{
    struct decoder *d = png_get_io_ptr(png);
    const uint8_t  *p = dinov_cursor_take(&d->bytes, size);
    if (!p) png_error(png, "end of data");
    memcpy(out, p, size);
}

/* libpng needs a few rows and a window of zlib's; more is a chunk lying about its length. */
static png_voidp png_alloc(png_structp png, png_alloc_size_t size)
{
    enum { MOST = 16 << 20 };
    struct decoder *d = png_get_mem_ptr(png);
    void           *p = size <= MOST ? dinov_alloc(size, 1) : NULL;
    if (!p && size <= MOST) d->no_memory = true;
    return p;
}

static void png_release(png_structp png, png_voidp p) { (void)png, dinov_free(p); }

/* The orientation in the eXIf chunk, wherever it stands. libpng checks its checksum in passing, but
 * would allocate whatever length it claims. */
static int orientation(const void *bytes, size_t size)
{
    dinov_cursor c = dinov_cursor_make(bytes, size);
    dinov_cursor_take(&c, 8);
    for (;;) {
        const uint8_t *head = dinov_cursor_take(&c, 8);
        const uint8_t *data = head ? dinov_cursor_take(&c, dinov_be32(head)) : NULL;
        if (!data || !dinov_cursor_take(&c, 4)) return 1;
        if (memcmp(head + 4, "eXIf", 4) == 0) return dinov_exif_orientation(data, dinov_be32(head));
    }
}

/* Bytes of the unpacked rows with their filter bytes, over all passes. */
static uint64_t raw_size(uint64_t width, uint64_t height, unsigned bits, int interlaced)
{
    uint64_t total = 0;
    if (!interlaced) return height * (1 + (width * bits + 7) / 8);
    for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; pass++) {
        uint64_t w = (uint64_t)PNG_PASS_COLS((int64_t)width, pass), h = (uint64_t)PNG_PASS_ROWS((int64_t)height, pass);
        if (w && h) total += h * (1 + (w * bits + 7) / 8);
    }
    return total;
}

static dinov_status read_header(struct decoder *d, png_structp png, png_infop info, dinov_image *out)
{
    enum { DEFLATE_RATIO = 1032 }; /* the most deflate can unpack from one byte */
    png_uint_32 width, height;
    int         depth, colour, interlace;

    png_read_info(png, info);
    png_get_IHDR(png, info, &width, &height, &depth, &colour, &interlace, NULL, NULL);
    DINOV_TRY(dinov_image_check_size(width, height, d->name, d->err));
    uint64_t raw = raw_size(width, height, (unsigned)depth * png_get_channels(png, info), interlace);
    if (raw / DEFLATE_RATIO > d->bytes.size)
        return dinov_fail(d->err, DINOV_ERR_CORRUPT, "IMG-TRUNCATED",
                          "%s: %llu bytes cannot hold the %u x %u pixels its header promises", d->name,
                          (unsigned long long)d->bytes.size, width, height);
    out->width  = width;
    out->height = height;
    if (depth == 16) png_set_strip_16(png);
    if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (!(colour & PNG_COLOR_MASK_COLOR)) {
        png_set_expand_gray_1_2_4_to_8(png);
        png_set_gray_to_rgb(png);
    }
    png_set_strip_alpha(png);
    return DINOV_OK;
}

/* Everything between create and destroy; leaves by d->stop when libpng gives up. */
static dinov_status decode(struct decoder *d, png_structp png, png_infop info, dinov_image *out)
{
    static const uint8_t ignored[] = "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0"
                                     "sTER\0tEXt\0tIME\0zTXt";

    png_set_read_fn(png, d, read_bytes);
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* ours are checked in read_header */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, ignored, sizeof ignored / 5);
    DINOV_TRY(read_header(d, png, info, out));
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != 3 * (size_t)out->width) png_error(png, "unexpected row layout");

    /* Pages of this buffer become resident only as rows really arrive. */
    out->pixels = dinov_alloc((size_t)(out->width * out->height), 3);
    if (!out->pixels) return dinov_fail_nomem(d->err, d->name, "its pixels");
    for (int pass = 0; pass < passes; pass++)
        for (int64_t y = 0; y < out->height; y++) png_read_row(png, out->pixels + 3 * out->width * y, NULL);
    png_read_end(png, info); /* checks what follows the rows */
    out->orientation = orientation(d->bytes.data, d->bytes.size);
    return DINOV_OK;
}

/* Apart from its caller, whose variables a longjmp could leave undefined. */
static void run(struct decoder *d, png_structp png, png_infop info, dinov_image *out)
{
    if (setjmp(d->stop) == 0) d->status = decode(d, png, info, out);
}

dinov_status dinov_png_decode(dinov_image *out, const void *bytes, size_t size, const char *name, dinov_error *err)
{
    struct decoder d    = {.bytes = dinov_cursor_make(bytes, size), .name = name, .err = err};
    png_infop      info = NULL;
    png_structp    png  = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &d, on_error, on_warning, &d, png_alloc, png_release);
    if (png) info = png_create_info_struct(png);
    if (!png || !info)
        d.status = dinov_fail_nomem(err, name, "decoding");
    else
        run(&d, png, info, out);
    png_destroy_read_struct(&png, &info, NULL);
    return d.status;
}
