/* SPDX-License-Identifier: Apache-2.0
 *
 * JPEG through libjpeg-turbo: baseline and progressive, grey, YCbCr, RGB, CMYK and YCCK, the last
 * two turned into RGB as Pillow does. Its errors come back by longjmp into decode().
 *
 * A picture for which libjpeg would have to invent pixels is refused, never filled with grey: data
 * that ends early (IMG-TRUNCATED), bits that are no code, lost restart markers (IMG-CORRUPT).
 * Warnings that leave every pixel as it was coded (stray bytes between segments, odd versions, scans
 * in an odd order) pass.
 */
#include "image/internal.h"
#include "image/jpeg.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

struct decoder {
    struct jpeg_error_mgr         errors; /* first: libjpeg hands it back as cinfo->err */
    struct jpeg_decompress_struct cinfo;
    struct jpeg_source_mgr        source;
    struct jpeg_progress_mgr      progress;
    jmp_buf                       stop;
    dinov_status                  status;
    const char                   *name;
    dinov_error                  *err;
};

_Noreturn static void give_up(struct decoder *d, dinov_status status)
{
    d->status = status;
    longjmp(d->stop, 1);
}

_Noreturn static void truncated(struct decoder *d)
{
    give_up(d, dinov_fail(d->err, DINOV_ERR_CORRUPT, "IMG-TRUNCATED", "%s: the JPEG data ends before the picture is complete",
                          d->name));
}

_Noreturn static void corrupt(struct decoder *d)
{
    char text[JMSG_LENGTH_MAX];
    d->errors.format_message((j_common_ptr)&d->cinfo, text);
    give_up(d, dinov_fail(d->err, DINOV_ERR_CORRUPT, "IMG-CORRUPT", "%s: damaged JPEG: %s", d->name, text));
}

/* A kind of JPEG that may well be sound: lossless, hierarchical, arithmetic, other than 8 bits, odd sampling. */
static int unsupported(const struct jpeg_decompress_struct *cinfo)
{
    switch (cinfo->err->msg_code) {
    case JERR_ARITH_NOTIMPL:
    case JERR_CCIR601_NOTIMPL:
    case JERR_CONVERSION_NOTIMPL:
    case JERR_FRACT_SAMPLE_NOTIMPL:
    case JERR_NOT_COMPILED:
    case JERR_SOF_UNSUPPORTED:
        return 1;
    case JERR_BAD_PRECISION:
        return cinfo->data_precision >= 2 && cinfo->data_precision <= 16; /* others are in no JPEG */
    default:
        return 0;
    }
}

_Noreturn static void error_exit(j_common_ptr cinfo)
{
    struct decoder *d = (struct decoder *)cinfo->err;
    if (cinfo->err->msg_code == JERR_OUT_OF_MEMORY) give_up(d, dinov_fail_nomem(d->err, d->name, "decoding"));
    if (cinfo->err->msg_code == JERR_IMAGE_TOO_BIG)
        give_up(d, dinov_fail(d->err, DINOV_ERR_LIMIT, "IMG-LARGE",
                              "%s: %u x %u pixels; expected sides of at most %ld in a JPEG; shrink it first", d->name,
                              d->cinfo.image_width, d->cinfo.image_height, JPEG_MAX_DIMENSION));
    if (unsupported(&d->cinfo)) {
        char text[JMSG_LENGTH_MAX];
        d->errors.format_message(cinfo, text);
        give_up(d,
                dinov_fail(d->err, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT",
                           "%s: expected a baseline or progressive JPEG of 8 bits a sample: %s; convert it first", d->name, text));
    }
    corrupt(d);
}

/* Level -1 is a warning about damaged data; higher levels are traces. */
static void emit_message(j_common_ptr cinfo, int level)
{
    struct decoder *d = (struct decoder *)cinfo->err;
    if (level >= 0) return;
    switch (cinfo->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
        truncated(d);
    case JWRN_ADOBE_XFORM:
    case JWRN_BOGUS_PROGRESSION:
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
    case JWRN_NOT_SEQUENTIAL:
    case JWRN_TOO_MUCH_DATA:
        return;
    default:
        corrupt(d);
    }
}

static void init_source(j_decompress_ptr cinfo) { (void)cinfo; }
static void term_source(j_decompress_ptr cinfo) { (void)cinfo; }

static boolean fill_input_buffer(j_decompress_ptr cinfo)
{
    truncated((struct decoder *)cinfo->err);
    return FALSE;
}

static void skip_input_data(j_decompress_ptr cinfo, long count)
{
    struct jpeg_source_mgr *source = cinfo->src;
    if (count <= 0) return;
    if ((size_t)count > source->bytes_in_buffer) truncated((struct decoder *)cinfo->err);
    source->next_input_byte += count;
    source->bytes_in_buffer -= (size_t)count;
}

/* Called between rows and scans; a legal file may otherwise ask for almost unlimited work. */
static void watch_scans(j_common_ptr cinfo)
{
    struct decoder *d = (struct decoder *)cinfo->err;
    if (d->cinfo.input_scan_number > DINOV_IMAGE_MAX_SCANS)
        give_up(d, dinov_fail(d->err, DINOV_ERR_LIMIT, "IMG-LARGE", "%s: expected at most %d JPEG scans, found more", d->name,
                              DINOV_IMAGE_MAX_SCANS));
}

/*
 * Whether a file of `size` bytes can hold the picture its header promises. Every 8 x 8 block costs
 * at least one bit in a progressive file (its DC code) and two in a sequential one (DC, end of block).
 */
static int can_hold(const struct jpeg_decompress_struct *cinfo, size_t size)
{
    uint64_t blocks = 0;
    for (int i = 0; i < cinfo->num_components; i++) {
        const jpeg_component_info *c = &cinfo->comp_info[i];
        uint64_t cell_w = 8u * (unsigned)cinfo->max_h_samp_factor, cell_h = 8u * (unsigned)cinfo->max_v_samp_factor;
        uint64_t across = ((uint64_t)cinfo->image_width * (unsigned)c->h_samp_factor + cell_w - 1) / cell_w;
        uint64_t down   = ((uint64_t)cinfo->image_height * (unsigned)c->v_samp_factor + cell_h - 1) / cell_h;
        blocks += across * down;
    }
    return blocks * (cinfo->progressive_mode ? 1 : 2) <= (uint64_t)size * 8;
}

static int orientation(const struct jpeg_decompress_struct *cinfo)
{
    for (jpeg_saved_marker_ptr m = cinfo->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length >= 6 && memcmp(m->data, "Exif\0\0", 6) == 0)
            return dinov_exif_orientation(m->data + 6, m->data_length - 6);
    return 1;
}

/* x * y / 255, rounded, for bytes. */
static uint8_t times(unsigned x, unsigned y)
{
    unsigned t = x * y + 128;
    return (uint8_t)((t + (t >> 8)) >> 8);
}

/* Stored inverted, as Adobe does and Pillow assumes: s = 255 - ink. In place, 4 bytes to 3. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int64_t width)
{
    for (int64_t x = 0; x < width; x++) {
        unsigned white = cmyk[4 * x + 3];
        for (int c = 0; c < 3; c++) rgb[3 * x + c] = (uint8_t)(white - times(255u - cmyk[4 * x + c], white));
    }
}

static dinov_status read_header(struct decoder *d, size_t size)
{
    struct jpeg_decompress_struct *cinfo = &d->cinfo;

    jpeg_save_markers(cinfo, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(cinfo, TRUE);
    DINOV_TRY(dinov_image_check_size(cinfo->image_width, cinfo->image_height, d->name, d->err));
    if (cinfo->arith_code)
        return dinov_fail(d->err, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT",
                          "%s: expected Huffman-coded JPEG, found arithmetic coding; convert it first", d->name);
    switch (cinfo->num_components) {
    case 1:
        cinfo->out_color_space = JCS_GRAYSCALE;
        break;
    case 3:
        cinfo->out_color_space = JCS_RGB;
        break;
    case 4:
        cinfo->out_color_space = JCS_CMYK;
        break;
    default:
        return dinov_fail(d->err, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT", "%s: expected a JPEG of 1, 3 or 4 components, found %d",
                          d->name, cinfo->num_components);
    }
    if (!can_hold(cinfo, size))
        return dinov_fail(d->err, DINOV_ERR_CORRUPT, "IMG-TRUNCATED",
                          "%s: %zu bytes cannot hold the %u x %u pixels its header promises", d->name, size, cinfo->image_width,
                          cinfo->image_height);
    return DINOV_OK;
}

/* Reads every row into out->pixels, each through its own last bytes so that no second buffer is
 * needed for the narrower stored forms; CMYK, which is wider, goes through `row`. */
static void read_rows(struct decoder *d, dinov_image *out, uint8_t *row)
{
    struct jpeg_decompress_struct *cinfo = &d->cinfo;
    int64_t                        width = out->width;

    while (cinfo->output_scanline < cinfo->output_height) {
        uint8_t *rgb  = out->pixels + 3 * width * cinfo->output_scanline;
        JSAMPROW into = row ? row : cinfo->num_components == 1 ? rgb + 2 * width : rgb;
        if (jpeg_read_scanlines(cinfo, &into, 1) != 1) truncated(d);
        if (cinfo->num_components == 4) cmyk_to_rgb(rgb, row, width);
        if (cinfo->num_components == 1)
            for (int64_t x = 0; x < width; x++) {
                uint8_t grey   = into[x];
                rgb[3 * x]     = grey;
                rgb[3 * x + 1] = grey;
                rgb[3 * x + 2] = grey;
            }
    }
}

/* Everything between create and destroy; leaves by d->stop when libjpeg gives up. */
static dinov_status decode(struct decoder *d, dinov_image *out, size_t size)
{
    struct jpeg_decompress_struct *cinfo = &d->cinfo;
    uint8_t                       *row   = NULL;

    DINOV_TRY(read_header(d, size));
    out->width       = cinfo->image_width;
    out->height      = cinfo->image_height;
    out->orientation = orientation(cinfo);
    /* Pages of this buffer become resident only as rows really arrive. */
    out->pixels = dinov_alloc((size_t)(out->width * out->height), 3);
    if (!out->pixels) return dinov_fail_nomem(d->err, d->name, "its pixels");
    if (cinfo->num_components == 4) row = cinfo->mem->alloc_small((j_common_ptr)cinfo, JPOOL_IMAGE, 4 * (size_t)out->width);
    jpeg_start_decompress(cinfo);
    read_rows(d, out, row);
    jpeg_finish_decompress(cinfo); /* reads on to the end marker */
    return DINOV_OK;
}

/* After the headers of a picture coded in one scan: whether its data goes on to the end marker with all restart markers. */
static bool is_whole(const struct jpeg_decompress_struct *cinfo)
{
    unsigned       side_w = cinfo->num_components > 1 ? 8u * (unsigned)cinfo->max_h_samp_factor : 8;
    unsigned       side_h = cinfo->num_components > 1 ? 8u * (unsigned)cinfo->max_v_samp_factor : 8;
    uint64_t       units  = (uint64_t)((cinfo->image_width + side_w - 1) / side_w) * ((cinfo->image_height + side_h - 1) / side_h);
    uint64_t       wanted = cinfo->restart_interval ? (units - 1) / cinfo->restart_interval : 0, restarts = 0;
    const uint8_t *p = cinfo->src->next_input_byte, *end = p + cinfo->src->bytes_in_buffer;
    while ((p = memchr(p, 0xff, (size_t)(end - p)))) {
        while (p < end && *p == 0xff) p++;
        if (p == end) return false;
        if (*p == 0xd9) return restarts == wanted;
        if (*p >= 0xd0 && *p <= 0xd7) {
            if (*p != 0xd0 + restarts++ % 8) return false;
        } else if (*p != 0) {
            return false;
        }
    }
    return false;
}

/* The contract of dinov_jpeg_plain, as a status. */
static dinov_status look(struct decoder *d, dinov_image *out, size_t size)
{
    const struct jpeg_decompress_struct *cinfo = &d->cinfo;

    DINOV_TRY(read_header(d, size));
    const jpeg_component_info *c    = cinfo->comp_info;
    bool                       grey = cinfo->num_components == 1 && cinfo->jpeg_color_space == JCS_GRAYSCALE;
    bool colour = cinfo->num_components == 3 && cinfo->jpeg_color_space == JCS_YCbCr && c[0].h_samp_factor <= 2 &&
                  c[0].v_samp_factor <= 2;
    for (int i = 1; colour && i < 3; i++) colour = c[i].h_samp_factor == 1 && c[i].v_samp_factor == 1;
    if (cinfo->progressive_mode || cinfo->data_precision != 8 || cinfo->comps_in_scan != cinfo->num_components ||
        !(grey || colour) || !is_whole(cinfo))
        return DINOV_ERR_UNSUPPORTED;
    out->width       = cinfo->image_width;
    out->height      = cinfo->image_height;
    out->orientation = orientation(cinfo);
    return DINOV_OK;
}

/* What is done with a picture once libjpeg is set up for it. */
typedef dinov_status work(struct decoder *d, dinov_image *out, size_t size);

/* Apart from its caller, whose variables a longjmp could leave undefined. */
static void run(struct decoder *d, work *todo, dinov_image *out, size_t size)
{
    if (setjmp(d->stop) != 0) return;
    jpeg_create_decompress(&d->cinfo);
    d->cinfo.src      = &d->source;
    d->cinfo.progress = &d->progress;
    d->status         = todo(d, out, size);
}

static dinov_status with_decoder(work *todo, dinov_image *out, const void *bytes, size_t size, const char *name, dinov_error *err)
{
    struct decoder d = {.name = name, .err = err};

    d.cinfo.err                 = jpeg_std_error(&d.errors);
    d.errors.error_exit         = error_exit;
    d.errors.emit_message       = emit_message;
    d.progress.progress_monitor = watch_scans;
    d.source                    = (struct jpeg_source_mgr){.next_input_byte   = bytes,
                                                           .bytes_in_buffer   = size,
                                                           .init_source       = init_source,
                                                           .fill_input_buffer = fill_input_buffer,
                                                           .skip_input_data   = skip_input_data,
                                                           .resync_to_restart = jpeg_resync_to_restart,
                                                           .term_source       = term_source};
    run(&d, todo, out, size);
    jpeg_destroy_decompress(&d.cinfo);
    return d.status;
}

dinov_status dinov_jpeg_decode(dinov_image *out, const void *bytes, size_t size, const char *name, dinov_error *err)
{
    return with_decoder(decode, out, bytes, size, name, err);
}

bool dinov_jpeg_plain(dinov_image *out, const void *bytes, size_t size)
{
    *out = (dinov_image){.orientation = 1};
    return size >= 2 && memcmp(bytes, "\xff\xd8", 2) == 0 && with_decoder(look, out, bytes, size, "", NULL) == DINOV_OK;
}
