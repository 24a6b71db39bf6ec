/* SPDX-License-Identifier: Apache-2.0
 *
 * kernels/cuda/nvjpeg.c on the host shim and a stand-in for nvJPEG: pixels come back as they were decoded, a call that fails costs
 * the picture or is an error of the device, and nothing is left behind. Run with the stand-in's folder in LD_LIBRARY_PATH.
 */
#include "kernels/device.h"

#include "kernels/cuda/nvjpeg.h"
#include "tests/kernels/fake_nvjpeg.h"
#include "tests/kernels/shim/control.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jpeglib.h>

enum { ROOM = 1 << 16, SIDE = 96 };

static struct fake_nvjpeg *fake;

static uint8_t colour(int x, int y, int c) { return (uint8_t)(c == 0 ? 2 * x : c == 1 ? 255 - 2 * y : x + y); }

/* A smooth picture, which any decoder gives back almost as it was. */
static size_t jpeg_of(uint8_t *out, int w, int h, int channels)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr       e;
    unsigned char              *buffer = out;
    unsigned long               size   = ROOM;
    uint8_t                     row[3 * SIDE];

    c.err = jpeg_std_error(&e);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &buffer, &size);
    c.image_width = (unsigned)w, c.image_height = (unsigned)h, c.input_components = channels;
    c.in_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 95, TRUE);
    jpeg_start_compress(&c, TRUE);
    for (int y = 0; y < h; y++) {
        JSAMPROW r = row;
        for (int i = 0; i < channels * w; i++) row[i] = colour(i / channels, y, channels == 3 ? i % 3 : 0);
        jpeg_write_scanlines(&c, &r, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    assert_ptr_equal(buffer, out);
    return size;
}

static void check_pixels(const uint8_t *rgb, int w, int h, int channels)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) {
                int have = rgb[3 * (y * w + x) + c], want = colour(x, y, channels == 3 ? c : 0);
                if (abs(have - want) > 12)
                    fail_msg("%d x %d, pixel %d %d, channel %d: %d, expected about %d", w, h, x, y, c, have, want);
            }
}

static dinov_device *open_device(void)
{
    dinov_device *device;
    assert_int_equal(dinov_device_open(&device, 0, DINOV_F32, NULL), DINOV_OK);
    return device;
}

static void pixels_come_back(void **state)
{
    static const int   sizes[][3] = {{17, 9, 3}, {96, 96, 3}, {1, 1, 3}, {33, 96, 1}, {96, 1, 3}, {5, 80, 1}};
    dinov_device      *device     = open_device();
    dinov_device_jpeg *jpeg;
    uint8_t            bytes[ROOM], rgb[3 * SIDE * SIDE];
    dinov_error        err;
    bool               done;
    (void)state;
    if (dinov_device_jpeg_open(&jpeg, device, &err) != DINOV_OK) fail_msg("%s", err.msg);
    assert_string_equal(dinov_device_jpeg_name(jpeg), "nvjpeg-13.0.0");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int    w = sizes[i][0], h = sizes[i][1];
        size_t size = jpeg_of(bytes, w, h, sizes[i][2]);
        assert_int_equal(dinov_device_jpeg_decode(jpeg, rgb, w, h, bytes, size, &done, &err), DINOV_OK);
        assert_true(done);
        check_pixels(rgb, w, h, sizes[i][2]);
        assert_int_equal(dinov_device_jpeg_decode(jpeg, rgb, w + 1, h, bytes, size, &done, &err), DINOV_OK);
        assert_false(done); /* the library sees another size */
        assert_int_equal(dinov_device_jpeg_decode(jpeg, rgb, w, h, bytes, size / 2, &done, &err), DINOV_OK);
        assert_false(done);
    }
    dinov_device_jpeg_close(&jpeg);
    dinov_device_close(&device);
    assert_int_equal(fake->alive, 0);
}

/* Every call in turn, with every status. */
static void each_call_fails(void **state)
{
    static const struct {
        int          status;
        dinov_status meaning; /* while a picture is decoded */
    } kinds[] = {{NJ_INVALID_PARAMETER, DINOV_OK},        {NJ_BAD_JPEG, DINOV_OK},
                 {NJ_JPEG_NOT_SUPPORTED, DINOV_OK},       {NJ_ALLOCATOR_FAILURE, DINOV_ERR_NOMEM},
                 {NJ_EXECUTION_FAILED, DINOV_ERR_DEVICE}, {NJ_ARCH_MISMATCH, DINOV_ERR_DEVICE},
                 {NJ_INTERNAL_ERROR, DINOV_OK},           {NJ_IMPLEMENTATION_NOT_SUPPORTED, DINOV_OK},
                 {NJ_INCOMPLETE_BITSTREAM, DINOV_OK}};
    uint8_t bytes[ROOM], rgb[3 * SIDE * SIDE];
    size_t  size = jpeg_of(bytes, 40, 30, 3);
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        int decoded = 0, refused = 0;
        for (int n = 1;; n++) {
            dinov_device      *device = open_device();
            dinov_device_jpeg *jpeg;
            dinov_error        err;
            bool               done;
            atomic_store(&fake->calls, 0);
            fake->fail_at       = n;
            fake->with          = kinds[k].status;
            dinov_status status = dinov_device_jpeg_open(&jpeg, device, &err);
            if (status != DINOV_OK) {
                assert_int_equal(status, DINOV_ERR_UNSUPPORTED);
                assert_string_equal(err.code, "DEV-NVJPEG");
                assert_null(jpeg);
                refused++;
            } else {
                status = dinov_device_jpeg_decode(jpeg, rgb, 40, 30, bytes, size, &done, &err);
                decoded += fake->calls >= n;
                if (fake->calls >= n) {
                    assert_false(done);
                    assert_int_equal(status, kinds[k].meaning);
                    if (status == DINOV_ERR_DEVICE) assert_string_equal(err.code, "DEV-FAULT");
                }
                fake->fail_at = 0; /* the next picture has nothing to do with it */
                memset(rgb, 0, sizeof rgb);
                assert_int_equal(dinov_device_jpeg_decode(jpeg, rgb, 40, 30, bytes, size, &done, &err), DINOV_OK);
                assert_true(done);
                check_pixels(rgb, 40, 30, 3);
                dinov_device_jpeg_close(&jpeg);
            }
            bool over = fake->fail_at == 0 && refused + decoded < n;
            dinov_device_close(&device);
            assert_int_equal(fake->alive, 0);
            if (over) break;
        }
        assert_int_equal(refused, 13); /* calls of an open, three of them for the version */
        assert_int_equal(decoded, 6);  /* and of a decode */
    }
    fake->fail_at = 0;
}

static void memory_runs_out(void **state)
{
    uint8_t            bytes[ROOM], rgb[3 * SIDE * SIDE];
    size_t             size   = jpeg_of(bytes, 40, 30, 3);
    dinov_device      *device = open_device();
    dinov_device_jpeg *jpeg;
    dinov_error        err;
    bool               done;
    (void)state;
    assert_int_equal(dinov_device_jpeg_open(&jpeg, device, &err), DINOV_OK);
    for (int n = 1; n <= 2; n++) {
        shim_fail_alloc(n);
        assert_int_equal(dinov_device_jpeg_decode(jpeg, rgb, 40, 30, bytes, size, &done, &err), DINOV_ERR_NOMEM);
        assert_false(done);
    }
    shim_fail_alloc(0);
    assert_int_equal(dinov_device_jpeg_decode(jpeg, rgb, 40, 30, bytes, size, &done, &err), DINOV_OK);
    assert_true(done);
    dinov_device_jpeg_close(&jpeg);
    dinov_device_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pixels_come_back), cmocka_unit_test(each_call_fails),
                                       cmocka_unit_test(memory_runs_out)};
    void                   *library = dlopen("libnvjpeg.so.13", RTLD_NOW);
    fake                            = library ? dlsym(library, "fake_nvjpeg") : NULL;
    if (!fake) return fprintf(stderr, "the stand-in for nvJPEG is not what the loader finds: %s\n", dlerror()), 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
