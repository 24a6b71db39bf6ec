/* SPDX-License-Identifier: Apache-2.0
 *
 * Draws the seeds of the jpeg, png and npy fuzz targets: tiny pictures of every variant.
 * usage: seeds FOLDER   (writes FOLDER/jpeg, FOLDER/png, FOLDER/npy)
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jpeglib.h>
#include <png.h>

enum { SIDE = 19 };

static const uint8_t exif[] = "Exif\0\0MM\0*\0\0\0\10\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0";
static const char   *folder;

static FILE *create(const char *kind, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, kind);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", folder, kind, name);
    FILE *f = fopen(path, "wb");
    if (!f) exit(3);
    return f;
}

static void draw(uint8_t *row, size_t size, int y)
{
    for (size_t i = 0; i < size; i++) row[i] = (uint8_t)(i * 13 + (unsigned)y * 29 + (i * (unsigned)y) % 7 * 20);
}

static void jpeg(const char *name, J_COLOR_SPACE in, J_COLOR_SPACE stored, int progressive, int restart, int sampling,
                 int with_exif)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr       e;
    uint8_t                     row[4 * SIDE];
    FILE                       *f = create("jpeg", name);

    c.err = jpeg_std_error(&e);
    jpeg_create_compress(&c);
    jpeg_stdio_dest(&c, f);
    c.image_width = c.image_height = SIDE;
    c.in_color_space               = in;
    c.input_components             = in == JCS_GRAYSCALE ? 1 : in == JCS_CMYK ? 4 : 3;
    jpeg_set_defaults(&c);
    jpeg_set_colorspace(&c, stored);
    jpeg_set_quality(&c, 60, TRUE);
    c.comp_info[0].h_samp_factor = sampling & 3;
    c.comp_info[0].v_samp_factor = sampling >> 2;
    c.restart_interval           = (unsigned)restart;
    if (progressive) jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    if (with_exif) jpeg_write_marker(&c, JPEG_APP0 + 1, exif, sizeof exif - 1);
    for (int y = 0; y < SIDE; y++) {
        JSAMPROW r = row;
        draw(row, sizeof row, y);
        jpeg_write_scanlines(&c, &r, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    fclose(f);
}

static void one_png(int colour, int depth, int interlaced)
{
    char         name[64];
    uint8_t      row[8 * SIDE];
    png_color    palette[16];
    png_byte     alpha[3] = {0, 128, 255};
    png_color_16 key      = {.gray = 1, .red = 1, .green = 2, .blue = 3};
    snprintf(name, sizeof name, "colour%d-depth%d%s", colour, depth, interlaced ? "-adam7" : "");
    FILE       *f    = create("png", name);
    png_structp png  = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop   info = png_create_info_struct(png);

    png_init_io(png, f);
    png_set_IHDR(png, info, SIDE, SIDE, depth, colour, interlaced, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_filter(png, 0, PNG_ALL_FILTERS);
    png_set_compression_buffer_size(png, 200);
    draw((uint8_t *)palette, sizeof palette, 3);
    if (colour == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(png, info, palette, depth == 1 ? 2 : depth == 2 ? 4 : 16);
    if (depth == 8 && colour == PNG_COLOR_TYPE_PALETTE) png_set_tRNS(png, info, alpha, 3, NULL);
    if (depth == 8 && (colour == PNG_COLOR_TYPE_GRAY || colour == PNG_COLOR_TYPE_RGB)) png_set_tRNS(png, info, NULL, 0, &key);
    if (depth == 8) png_set_eXIf_1(png, info, sizeof exif - 7, (png_bytep)(uintptr_t)(exif + 6));
    png_write_info(png, info);
    for (int pass = png_set_interlace_handling(png); pass > 0; pass--)
        for (int y = 0; y < SIDE; y++) {
            draw(row, sizeof row, y);
            if (colour == PNG_COLOR_TYPE_PALETTE)
                for (size_t i = 0; i < sizeof row; i++) row[i] = depth == 8 ? row[i] % 16 : row[i];
            png_write_row(png, row);
        }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    fclose(f);
}

static void npy(const char *name, int major, const char *header, size_t data)
{
    FILE *f = create("npy", name);
    fprintf(f, "\x93NUMPY%c%c%c%c", major, 0, (int)(strlen(header) & 255), (int)(strlen(header) >> 8));
    if (major > 1) fprintf(f, "%c%c", 0, 0);
    fputs(header, f);
    for (size_t i = 0; i < data; i++) fputc((int)(i & 255), f);
    fclose(f);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 64;
    folder = argv[1];
    mkdir(folder, 0777);
    for (int progressive = 0; progressive < 2; progressive++) {
        char        name[64];
        const char *kind = progressive ? "progressive" : "baseline";
#define NAMED(text) (snprintf(name, sizeof name, "%s-%s", kind, text), name)
        jpeg(NAMED("444"), JCS_RGB, JCS_YCbCr, progressive, 0, 5, 0);
        jpeg(NAMED("422-restart"), JCS_RGB, JCS_YCbCr, progressive, 2, 6, 0);
        jpeg(NAMED("420-exif"), JCS_RGB, JCS_YCbCr, progressive, 0, 10, 1);
        jpeg(NAMED("rgb"), JCS_RGB, JCS_RGB, progressive, 0, 5, 0);
        jpeg(NAMED("grey"), JCS_GRAYSCALE, JCS_GRAYSCALE, progressive, 0, 5, 0);
        jpeg(NAMED("cmyk"), JCS_CMYK, JCS_CMYK, progressive, 0, 5, 0);
        jpeg(NAMED("ycck"), JCS_CMYK, JCS_YCCK, progressive, 3, 10, 0);
    }
    static const struct {
        int colour, depth[5];
    } kinds[] = {{0, {1, 2, 4, 8, 16}}, {2, {8, 16}}, {3, {1, 2, 4, 8}}, {4, {8, 16}}, {6, {8, 16}}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (int d = 0; d < 5 && kinds[k].depth[d]; d++)
            for (int i = 0; i < 2; i++) one_png(kinds[k].colour, kinds[k].depth[d], i);
    npy("v1", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4), }    \n", 96);
    npy("v2", 2, "{\"shape\":(6,),\"fortran_order\":False,\"descr\":\"<f4\"}\n", 24);
    npy("v3-scalar", 3, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", 4);
    npy("structured", 1, "{'descr': [('a', '<f4'), ('b', '|S2', (2,))], 'fortran_order': False, 'shape': (0,), }\n", 0);
    npy("fortran", 1, "{'descr': '<f8', 'fortran_order': True, 'shape': (1, 1), }\n", 8);
    return 0;
}
