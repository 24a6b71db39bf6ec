/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures: presets and their sizes, turning, EXIF, limits, allocation failures. Bits are compared
 * with Pillow in tests/image.
 */
#include "base/alloc.h"
#include "base/bytes.h"
#include "image/internal.h"
#include "image/jpeg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jpeglib.h>
#include <png.h>

enum { W = 5, H = 3 };

static uint8_t pixels[W * H * 3];

static void draw(void)
{
    for (int i = 0; i < W * H * 3; i++) pixels[i] = (uint8_t)(i * 5);
}

static size_t png_of(uint8_t *out, size_t room)
{
    png_image        image = {.version = PNG_IMAGE_VERSION, .width = W, .height = H, .format = PNG_FORMAT_RGB};
    png_alloc_size_t size  = room;
    draw();
    assert_true(png_image_write_to_memory(&image, out, &size, 0, pixels, 0, NULL));
    return size;
}

typedef void jpeg_kind(struct jpeg_compress_struct *c);

/* Of a kind, with an APP1 marker of `exif` when it is not NULL. */
static size_t jpeg_like(uint8_t *out, size_t room, int w, int h, const uint8_t *exif, unsigned exif_size, jpeg_kind *kind)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr       e;
    unsigned char              *buffer      = out;
    unsigned long               size        = room;
    uint8_t                     row[3 * 64] = {0};

    assert_true(w <= 64);
    c.err = jpeg_std_error(&e);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &buffer, &size);
    c.image_width = (unsigned)w, c.image_height = (unsigned)h, c.input_components = 3, c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    kind(&c);
    jpeg_start_compress(&c, TRUE);
    if (exif) jpeg_write_marker(&c, JPEG_APP0 + 1, exif, exif_size);
    for (int y = 0; y < h; y++) {
        JSAMPROW r = row;
        for (int i = 0; i < 3 * w; i++) row[i] = (uint8_t)(i * 7 + y * 31);
        jpeg_write_scanlines(&c, &r, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    assert_ptr_equal(buffer, out);
    return size;
}

static void as_usual(struct jpeg_compress_struct *c) { (void)c; }
static void in_steps(struct jpeg_compress_struct *c) { jpeg_simple_progression(c); }

static size_t jpeg_of(uint8_t *out, size_t room, int w, int h, const uint8_t *exif, unsigned exif_size, int progressive)
{
    return jpeg_like(out, room, w, h, exif, exif_size, progressive ? in_steps : as_usual);
}

static void assert_refused(const void *bytes, size_t size, dinov_status status, const char *code)
{
    dinov_image image;
    dinov_error err = {0};
    assert_int_equal(dinov_image_decode(&image, bytes, size, "file", &err), status);
    assert_string_equal(err.code, code);
    assert_non_null(strstr(err.msg, "file"));
    assert_null(image.pixels);
}

static void preset_grammar(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "eval:",
                                      "eval:0",
                                      "eval:x",
                                      "eval:65536",
                                      "eval:1",
                                      "eval:3",
                                      "eval:5",
                                      "full:3",
                                      "short",
                                      "long:",
                                      "square:-1",
                                      "evals",
                                      "eval:224 ",
                                      "EVAL",
                                      "short:99999999999999999999"};
    dinov_preset             p;
    dinov_error              err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dinov_preset_parse(&p, bad[i], &err), DINOV_ERR_CONFIG);
        assert_string_equal(err.code, "OPT-PRESET");
    }
    assert_int_equal(dinov_preset_parse(&p, "eval", NULL), DINOV_OK);
    assert_int_equal(p.kind, DINOV_PRESET_EVAL);
    assert_int_equal(p.size, 224);
    assert_int_equal(dinov_preset_parse(&p, "long:630", NULL), DINOV_OK);
    assert_int_equal(p.kind, DINOV_PRESET_LONG);
    assert_int_equal(p.size, 630);
    assert_int_equal(dinov_preset_parse(&p, "full", NULL), DINOV_OK);
    assert_int_equal(dinov_preset_parse(&p, "short:65535", NULL), DINOV_OK); /* as far as checkpoints go */
    assert_int_equal(p.size, 65535);
}

static void size_is(const char *preset, int64_t w, int64_t h, int64_t want_w, int64_t want_h)
{
    dinov_preset p;
    int64_t      iw, ih;
    assert_int_equal(dinov_preset_parse(&p, preset, NULL), DINOV_OK);
    assert_int_equal(dinov_preset_size(&p, 14, w, h, &iw, &ih, NULL), DINOV_OK);
    assert_int_equal(iw, want_w);
    assert_int_equal(ih, want_h);
}

static void preset_sizes(void **state)
{
    (void)state;
    dinov_preset p;
    dinov_error  err;
    int64_t      w, h;

    size_is("eval", 640, 480, 224, 224);
    size_is("square:98", 640, 480, 98, 98);
    size_is("short:224", 640, 480, 294, 224); /* 298.67 is nearer to 294 than to 308 */
    size_is("short:224", 480, 640, 224, 294);
    size_is("long:518", 640, 480, 518, 392); /* 388.5: 392 */
    size_is("full", 1, 1, 14, 14);
    size_is("full", 21, 20, 28, 14);     /* halves go up */
    size_is("full", 640, 483, 644, 490); /* 483 = 34.5 patches */
    size_is("short:100", 100, 100, 98, 98);
    assert_int_equal(dinov_preset_parse(&p, "eval:225", NULL), DINOV_OK);
    assert_int_equal(dinov_preset_size(&p, 14, 10, 10, &w, &h, &err), DINOV_ERR_CONFIG);
    for (int64_t n = 1; n <= 5; n += 2) { /* made without the parser */
        p = (dinov_preset){DINOV_PRESET_EVAL, n};
        assert_int_equal(dinov_preset_size(&p, 1, 10, 10, &w, &h, &err), DINOV_ERR_CONFIG);
        assert_string_equal(err.code, "OPT-PRESET");
    }
    p = (dinov_preset){DINOV_PRESET_EVAL, 2};
    assert_int_equal(dinov_preset_size(&p, 1, 10, 10, &w, &h, &err), DINOV_OK);
    assert_int_equal(dinov_preset_parse(&p, "short:518", NULL), DINOV_OK);
    assert_int_equal(dinov_preset_size(&p, 14, 1, 65535, &w, &h, &err), DINOV_ERR_LIMIT);
    assert_string_equal(err.code, "IMG-LARGE");
}

static void turning(void **state)
{
    (void)state;
    /* 2 x 1 picture of pixels a, b. */
    static const struct {
        int     orientation, w, h;
        uint8_t first; /* a or b comes first */
    } want[] = {{1, 2, 1, 'a'}, {2, 2, 1, 'b'}, {3, 2, 1, 'b'}, {4, 2, 1, 'a'},
                {5, 1, 2, 'a'}, {6, 1, 2, 'a'}, {7, 1, 2, 'b'}, {8, 1, 2, 'b'}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        dinov_image image = {.pixels = dinov_alloc(6, 1), .width = 2, .height = 1, .orientation = want[i].orientation};
        memcpy(image.pixels, "aaabbb", 6);
        assert_int_equal(dinov_image_turn(&image, NULL), DINOV_OK);
        assert_int_equal(image.width, want[i].w);
        assert_int_equal(image.height, want[i].h);
        assert_int_equal(image.pixels[0], want[i].first);
        assert_int_equal(image.pixels[3], want[i].first == 'a' ? 'b' : 'a');
        assert_int_equal(image.orientation, 1);
        dinov_image_clear(&image);
    }
}

static void exif(void **state)
{
    (void)state;
    uint8_t good[] = "Exif\0\0II*\0\10\0\0\0\2\0\x10\1\2\0\1\0\0\0\0\0\0\0\x12\1\3\0\1\0\0\0\6\0\0\0";
    uint8_t bytes[8192];

    assert_int_equal(dinov_exif_orientation(good + 6, sizeof good - 7), 6);
    for (size_t n = 0; n < sizeof good - 11; n++) assert_int_equal(dinov_exif_orientation(good + 6, n), 1);
    dinov_image image;
    size_t      size = jpeg_of(bytes, sizeof bytes, 9, 7, good, sizeof good - 1, 0);
    assert_int_equal(dinov_image_decode(&image, bytes, size, "j", NULL), DINOV_OK);
    assert_int_equal(image.orientation, 6);
    assert_int_equal(image.width, 9);
    dinov_image_clear(&image);
    good[10] = 0xff; /* the directory lies outside */
    good[13] = 0xff;
    assert_int_equal(dinov_exif_orientation(good + 6, sizeof good - 7), 1);
}

/* Every beginning of a picture is refused, and as one that ends early once the header is there. */
static void truncation(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    for (int kind = 0; kind < 3; kind++) {
        size_t      size = kind == 2 ? png_of(bytes, sizeof bytes) : jpeg_of(bytes, sizeof bytes, 40, 33, NULL, 0, kind);
        dinov_image image;
        assert_int_equal(dinov_image_decode(&image, bytes, size, "whole", NULL), DINOV_OK);
        dinov_image_clear(&image);
        for (size_t n = 8; n < size; n++) {
            uint8_t *copy = dinov_alloc(n, 1); /* so that a sanitizer sees a read past the end */
            memcpy(copy, bytes, n);
            assert_refused(copy, n, DINOV_ERR_CORRUPT, "IMG-TRUNCATED");
            dinov_free(copy);
        }
    }
}

/* The end marker in the middle of the coded data: libjpeg would go on with grey. */
static void no_grey_filling(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    for (int progressive = 0; progressive < 2; progressive++) {
        size_t size = jpeg_of(bytes, sizeof bytes, 64, 64, NULL, 0, progressive);
        memcpy(bytes + size * 3 / 4, "\xff\xd9", 2);
        assert_refused(bytes, size * 3 / 4 + 2, DINOV_ERR_CORRUPT, "IMG-TRUNCATED");
    }
}

/* A header that promises more than the file can hold is refused before memory is asked for. */
static void lying_headers(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    for (int progressive = 0; progressive < 2; progressive++) {
        size_t size = jpeg_of(bytes, sizeof bytes, 16, 16, NULL, 0, progressive);
        for (size_t i = 0; i + 9 < size; i++)
            if (bytes[i] == 0xff && (bytes[i + 1] == 0xc0 || bytes[i + 1] == 0xc2)) {
                memcpy(bytes + i + 5, "\x34\x00\x34\x00", 4); /* 13312 x 13312 */
                break;
            }
        long before = dinov_alloc_count();
        assert_refused(bytes, size, DINOV_ERR_CORRUPT, "IMG-TRUNCATED");
        assert_int_equal(dinov_alloc_count(), before);
    }
    static const char *const named[] = {"GIF89a...", "BM......", "RIFF....WEBPVP8 ", "<!DOCTYPE html>", "P6 3 3 255\n", "8BPS...."};
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
        assert_refused(named[i], strlen(named[i]), DINOV_ERR_UNSUPPORTED, "IMG-FORMAT");
    assert_refused("", 0, DINOV_ERR_CORRUPT, "IMG-TRUNCATED");
}

/* Sound files of kinds that are not read are no damaged ones. */
static void other_jpegs(void **state)
{
    (void)state;
    static const struct {
        uint8_t      marker, bits;
        dinov_status status;
        const char  *code;
    } kinds[] = {
        {0xc3, 8, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT"},  /* lossless */
        {0xc5, 8, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT"},  /* hierarchical */
        {0xc9, 8, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT"},  /* arithmetic */
        {0xc1, 12, DINOV_ERR_UNSUPPORTED, "IMG-FORMAT"}, /* 12 bits */
        {0xc0, 77, DINOV_ERR_CORRUPT, "IMG-CORRUPT"},    /* no JPEG has that */
    };
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        uint8_t bytes[8192];
        size_t  size = jpeg_of(bytes, sizeof bytes, 16, 16, NULL, 0, 0), at = 0;
        while (bytes[at] != 0xff || bytes[at + 1] != 0xc0) assert_true(++at + 4 < size);
        bytes[at + 1] = kinds[k].marker;
        bytes[at + 4] = kinds[k].bits;
        assert_refused(bytes, size, kinds[k].status, kinds[k].code);
    }
}

static void sample(struct jpeg_compress_struct *c, int component, int h, int v)
{
    c->comp_info[component].h_samp_factor = h;
    c->comp_info[component].v_samp_factor = v;
}
static void grey(struct jpeg_compress_struct *c) { jpeg_set_colorspace(c, JCS_GRAYSCALE); }
static void yuv444(struct jpeg_compress_struct *c) { sample(c, 0, 1, 1); }
static void yuv422(struct jpeg_compress_struct *c) { sample(c, 0, 2, 1); }
static void yuv440(struct jpeg_compress_struct *c) { sample(c, 0, 1, 2); }
static void restarts(struct jpeg_compress_struct *c) { c->restart_interval = 1; }
static void grey_restarts(struct jpeg_compress_struct *c) { grey(c), sample(c, 0, 2, 2), c->restart_interval = 2; }
static void rgb(struct jpeg_compress_struct *c) { jpeg_set_colorspace(c, JCS_RGB); }
static void yuv411(struct jpeg_compress_struct *c) { sample(c, 0, 4, 1); }
static void finer_chroma(struct jpeg_compress_struct *c) { sample(c, 0, 1, 1), sample(c, 1, 2, 1); }
static void arithmetic(struct jpeg_compress_struct *c) { c->arith_code = TRUE; }
static void scan_each(struct jpeg_compress_struct *c)
{
    static const jpeg_scan_info scans[] = {{1, {0}, 0, 63, 0, 0}, {1, {1}, 0, 63, 0, 0}, {1, {2}, 0, 63, 0, 0}};
    c->scan_info = scans, c->num_scans = 3;
}
/* The means of blocks alone: progressive in one scan. */
static void means(struct jpeg_compress_struct *c)
{
    static const jpeg_scan_info scans[] = {{3, {0, 1, 2}, 0, 0, 0, 0}};
    c->scan_info = scans, c->num_scans = 1;
}

/* Of another kind, no picture, or not whole: our own decoder is to judge. */
static void assert_not_plain(const uint8_t *bytes, size_t size)
{
    dinov_image image;
    uint8_t    *copy = dinov_alloc(size, 1); /* so that a sanitizer sees a read past the end */
    memcpy(copy, bytes, size);
    assert_false(dinov_jpeg_plain(&image, copy, size));
    assert_null(image.pixels);
    dinov_free(copy);
}

static void plain_jpegs(void **state)
{
    static const uint8_t exif[] = "Exif\0\0MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\6\0\0\0\0\0\0";
    jpeg_kind *const     plain[] = {as_usual, grey, yuv444, yuv422, yuv440, restarts, grey_restarts};
    jpeg_kind *const     other[] = {in_steps, rgb, yuv411, finer_chroma, arithmetic, scan_each, means};
    uint8_t              bytes[8192];
    dinov_image          image;
    (void)state;
    for (size_t k = 0; k < sizeof other / sizeof other[0]; k++)
        assert_not_plain(bytes, jpeg_like(bytes, sizeof bytes, 45, 37, NULL, 0, other[k]));
    assert_not_plain(bytes, png_of(bytes, sizeof bytes));
    assert_not_plain(bytes, 0);
    for (size_t k = 0; k < sizeof plain / sizeof plain[0]; k++) {
        size_t size = jpeg_like(bytes, sizeof bytes, 45, 37, k ? NULL : exif, sizeof exif - 1, plain[k]);
        memset(bytes + size, 7, 5);
        for (size_t more = 0; more <= 5; more += 5) { /* bytes after the end are no damage */
            assert_true(dinov_jpeg_plain(&image, bytes, size + more));
            assert_int_equal(image.width, 45);
            assert_int_equal(image.height, 37);
            assert_int_equal(image.orientation, k ? 1 : 6);
            assert_null(image.pixels);
        }
        for (size_t n = 1; n < size; n++) assert_not_plain(bytes, n);
        int found = 0;
        for (size_t i = 4; i + 1 < size; i++) { /* each restart marker: another number, or none */
            if (bytes[i] != 0xff || bytes[i + 1] < 0xd0 || bytes[i + 1] > 0xd7) continue;
            uint8_t was = bytes[i + 1];
            found++;
            bytes[i + 1] = (uint8_t)(0xd0 + (was + 1) % 8);
            assert_not_plain(bytes, size);
            bytes[i + 1] = 0;
            assert_not_plain(bytes, size);
            bytes[i + 1] = was;
        }
        assert_int_equal(found, plain[k] == restarts ? 8 : plain[k] == grey_restarts ? 14 : 0);
    }
}

static void allocation_failures(void **state)
{
    (void)state;
    uint8_t          bytes[8192];
    float            out[3 * 14 * 14];
    dinov_preset     preset = {DINOV_PRESET_SQUARE, 14};
    dinov_preprocess pre    = {"", {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}};
    for (int kind = 0; kind < 2; kind++) {
        size_t size = kind ? jpeg_of(bytes, sizeof bytes, 30, 20, NULL, 0, 0) : png_of(bytes, sizeof bytes);
        for (long n = 1;; n++) {
            dinov_image image;
            dinov_alloc_fail_at(n, 0);
            dinov_status status = dinov_image_decode(&image, bytes, size, "p", NULL);
            image.orientation   = status == DINOV_OK ? 6 : 1;
            if (status == DINOV_OK) status = dinov_preset_apply(&preset, 14, &pre, &image, out, NULL);
            dinov_alloc_fail_at(0, 0);
            dinov_image_clear(&image);
            if (status == DINOV_OK) break;
            assert_int_equal(status, DINOV_ERR_NOMEM);
            assert_true(n < 200);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preset_grammar), cmocka_unit_test(preset_sizes),        cmocka_unit_test(turning),
        cmocka_unit_test(exif),           cmocka_unit_test(truncation),          cmocka_unit_test(no_grey_filling),
        cmocka_unit_test(lying_headers),  cmocka_unit_test(allocation_failures),
        cmocka_unit_test(other_jpegs),    cmocka_unit_test(plain_jpegs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
