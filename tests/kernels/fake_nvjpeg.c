/* SPDX-License-Identifier: Apache-2.0
 *
 * A library with what we call of nvJPEG, for tests without a GPU: libjpeg with a coarser transform and plain upsampling, so that
 * its pixels are not our decoder's, and strict about damage. The environment's FAKE_NVJPEG makes it fail: "absent" when a handle
 * is made, "broken" on the device.
 */
#include "kernels/cuda/nvjpeg.h"
#include "tests/kernels/fake_nvjpeg.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#pragma GCC visibility push(default)

struct fake_nvjpeg fake_nvjpeg;

enum stage { NOTHING, DECODED, SENT };

struct state {
    void          *pinned, *device; /* attached */
    enum stage     stage;
    unsigned char *rgb;
    unsigned       width, height;
};
struct stream {
    const unsigned char *data;
    size_t               size;
    unsigned             width, height;
};
struct params {
    int format;
};

static int call(void)
{
    int number = atomic_fetch_add(&fake_nvjpeg.calls, 1) + 1;
    return number == fake_nvjpeg.fail_at ? fake_nvjpeg.with : NJ_SUCCESS;
}

static int fails(const char *how)
{
    const char *asked = getenv("FAKE_NVJPEG");
    return asked && strcmp(asked, how) == 0;
}

static int make(void **out, size_t size)
{
    int status = call();
    if (status) return status;
    *out = calloc(1, size);
    if (!*out) return NJ_ALLOCATOR_FAILURE;
    fake_nvjpeg.alive++;
    return NJ_SUCCESS;
}

static int drop(void *p)
{
    free(p);
    fake_nvjpeg.alive--;
    return NJ_SUCCESS;
}

int nvjpegGetProperty(int type, int *value)
{
    *value = type == NJ_MAJOR_VERSION ? 13 : 0;
    return call();
}

int nvjpegCreateEx(int backend, void *device_allocator, void *pinned_allocator, unsigned flags, void **handle)
{
    if (fails("absent")) return NJ_ARCH_MISMATCH;
    if (backend != NJ_BACKEND_HYBRID || device_allocator || pinned_allocator || !(flags & NJ_FLAGS_BITSTREAM_STRICT))
        return NJ_INVALID_PARAMETER;
    return make(handle, 1);
}
int nvjpegDestroy(void *handle) { return drop(handle); }

int nvjpegDecoderCreate(void *handle, int backend, void **decoder)
{
    return handle && backend == NJ_BACKEND_HYBRID ? make(decoder, 1) : NJ_INVALID_PARAMETER;
}
int nvjpegDecoderDestroy(void *decoder) { return drop(decoder); }

int nvjpegDecoderStateCreate(void *handle, void *decoder, void **state)
{
    return handle && decoder ? make(state, sizeof(struct state)) : NJ_INVALID_PARAMETER;
}
int nvjpegJpegStateDestroy(void *state)
{
    free(((struct state *)state)->rgb);
    return drop(state);
}

int nvjpegBufferPinnedCreate(void *handle, void *allocator, void **buffer)
{
    return handle && !allocator ? make(buffer, 1) : NJ_INVALID_PARAMETER;
}
int nvjpegBufferPinnedDestroy(void *buffer) { return drop(buffer); }

int nvjpegBufferDeviceCreate(void *handle, void *allocator, void **buffer)
{
    return handle && !allocator ? make(buffer, 1) : NJ_INVALID_PARAMETER;
}
int nvjpegBufferDeviceDestroy(void *buffer) { return drop(buffer); }

int nvjpegStateAttachPinnedBuffer(void *state, void *buffer)
{
    ((struct state *)state)->pinned = buffer;
    return call();
}
int nvjpegStateAttachDeviceBuffer(void *state, void *buffer)
{
    ((struct state *)state)->device = buffer;
    return call();
}

int nvjpegJpegStreamCreate(void *handle, void **stream)
{
    return handle ? make(stream, sizeof(struct stream)) : NJ_INVALID_PARAMETER;
}
int nvjpegJpegStreamDestroy(void *stream) { return drop(stream); }

int nvjpegDecodeParamsCreate(void *handle, void **params)
{
    return handle ? make(params, sizeof(struct params)) : NJ_INVALID_PARAMETER;
}
int nvjpegDecodeParamsDestroy(void *params) { return drop(params); }
int nvjpegDecodeParamsSetOutputFormat(void *params, int format)
{
    ((struct params *)params)->format = format;
    return call();
}

/* ---- Decoding ---- */

struct errors {
    struct jpeg_error_mgr own;
    jmp_buf               stop;
};

static void stop(j_common_ptr c) { longjmp(((struct errors *)c->err)->stop, 1); }

static void warn(j_common_ptr c, int level)
{
    if (level < 0) stop(c);
}

/* The whole picture, or with `rgb` NULL its size alone. */
static int decode(const unsigned char *data, size_t size, unsigned *width, unsigned *height, unsigned char **rgb)
{
    struct jpeg_decompress_struct c;
    struct errors                 e;
    unsigned char *volatile pixels = NULL;

    c.err              = jpeg_std_error(&e.own);
    e.own.error_exit   = stop;
    e.own.emit_message = warn;
    jpeg_create_decompress(&c);
    if (setjmp(e.stop)) {
        jpeg_destroy_decompress(&c);
        free(pixels);
        return NJ_BAD_JPEG;
    }
    jpeg_mem_src(&c, data, size);
    jpeg_read_header(&c, TRUE);
    *width  = c.image_width;
    *height = c.image_height;
    if (rgb) {
        c.out_color_space     = JCS_RGB;
        c.dct_method          = JDCT_IFAST;
        c.do_fancy_upsampling = FALSE;
        pixels                = malloc(3 * (size_t)c.image_width * c.image_height);
        if (!pixels) abort();
        jpeg_start_decompress(&c);
        while (c.output_scanline < c.output_height) {
            JSAMPROW row = pixels + 3 * (size_t)c.image_width * c.output_scanline;
            jpeg_read_scanlines(&c, &row, 1);
        }
        jpeg_finish_decompress(&c);
        *rgb = pixels;
    }
    jpeg_destroy_decompress(&c);
    return NJ_SUCCESS;
}

int nvjpegJpegStreamParse(void *handle, const unsigned char *data, size_t size, int save_metadata, int save_stream, void *stream)
{
    struct stream *s      = stream;
    int            status = call();
    if (!handle || save_metadata || save_stream) return NJ_INVALID_PARAMETER;
    s->data = data;
    s->size = size;
    return status ? status : decode(data, size, &s->width, &s->height, NULL);
}

int nvjpegJpegStreamGetFrameDimensions(void *stream, unsigned *width, unsigned *height)
{
    *width  = ((struct stream *)stream)->width;
    *height = ((struct stream *)stream)->height;
    return call();
}

int nvjpegDecoderJpegSupported(void *decoder, void *stream, void *params, int *no)
{
    (void)stream;
    *no = !decoder || ((struct params *)params)->format != NJ_OUTPUT_RGBI;
    return call();
}

int nvjpegDecodeJpegHost(void *handle, void *decoder, void *state, void *params, void *stream)
{
    struct state  *s      = state;
    struct stream *from   = stream;
    int            status = call();
    if (!handle || !decoder || !params || !s->pinned) return NJ_INVALID_PARAMETER;
    s->stage = NOTHING;
    free(s->rgb);
    s->rgb = NULL;
    if (!status) status = decode(from->data, from->size, &s->width, &s->height, &s->rgb);
    if (!status) s->stage = DECODED;
    return status;
}

int nvjpegDecodeJpegTransferToDevice(void *handle, void *decoder, void *state, void *stream, void *queue)
{
    struct state *s = state;
    if (!handle || !decoder || !stream || !queue || !s->device || s->stage != DECODED) return NJ_INVALID_PARAMETER;
    s->stage = SENT;
    return call();
}

int nvjpegDecodeJpegDevice(void *handle, void *decoder, void *state, dinov_nj_image *image, void *queue)
{
    struct state *s      = state;
    int           status = fails("broken") ? NJ_EXECUTION_FAILED : call();
    if (status) return status;
    if (!handle || !decoder || !queue || s->stage != SENT || image->pitch[0] < 3 * (size_t)s->width) return NJ_INVALID_PARAMETER;
    for (unsigned y = 0; y < s->height; y++)
        memcpy(image->channel[0] + y * image->pitch[0], s->rgb + 3 * (size_t)s->width * y, 3 * (size_t)s->width);
    return NJ_SUCCESS;
}
