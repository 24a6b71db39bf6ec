/* SPDX-License-Identifier: Apache-2.0
 *
 * JPEG on the device by nvJPEG, opened at run time. One picture at a time, Huffman codes on the calling thread: so a picture's
 * pixels do not depend on those beside it, and what is damaged is found before anything runs on the GPU, and costs only itself.
 */
#include "kernels/cuda/nvjpeg.h"

#include "base/alloc.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/library.h"

#include <stdio.h>
#include <string.h>

struct functions {
    int (*property)(int type, int *value);
    int (*create)(int backend, void *device_allocator, void *pinned_allocator, unsigned flags, void **handle);
    int (*destroy)(void *handle);
    int (*decoder_create)(void *handle, int backend, void **decoder);
    int (*decoder_destroy)(void *decoder);
    int (*state_create)(void *handle, void *decoder, void **state);
    int (*state_destroy)(void *state);
    int (*pinned_create)(void *handle, void *allocator, void **buffer);
    int (*pinned_destroy)(void *buffer);
    int (*device_create)(void *handle, void *allocator, void **buffer);
    int (*device_destroy)(void *buffer);
    int (*attach_pinned)(void *state, void *buffer);
    int (*attach_device)(void *state, void *buffer);
    int (*stream_create)(void *handle, void **stream);
    int (*stream_destroy)(void *stream);
    int (*parse)(void *handle, const unsigned char *data, size_t size, int save_metadata, int save_stream, void *stream);
    int (*dimensions)(void *stream, unsigned *width, unsigned *height);
    int (*params_create)(void *handle, void **params);
    int (*params_destroy)(void *params);
    int (*params_format)(void *params, int format);
    int (*supported)(void *decoder, void *stream, void *params, int *no);
    int (*host)(void *handle, void *decoder, void *state, void *params, void *stream);
    int (*transfer)(void *handle, void *decoder, void *state, void *stream, void *queue);
    int (*device)(void *handle, void *decoder, void *state, dinov_nj_image *image, void *queue);
};

enum { SYMBOLS = sizeof dinov_nj_symbols / sizeof *dinov_nj_symbols };
_Static_assert(sizeof(struct functions) == SYMBOLS * sizeof(void *), "a name for each function");

struct dinov_device_jpeg {
    dinov_device    *device;
    dinov_queue     *queue;
    void            *library;
    struct functions f;
    char             name[32];

    void *handle, *decoder, *state, *pinned_buffer, *device_buffer, *stream, *params; /* nvJPEG's */

    void  *decoded, *pinned; /* the pixels, there and here; `room` bytes each */
    size_t room;
};

/* Statuses that speak of the picture; others, of the device. */
static bool about_picture(int status)
{
    return status == NJ_INVALID_PARAMETER || status == NJ_BAD_JPEG || status == NJ_JPEG_NOT_SUPPORTED ||
           status == NJ_INTERNAL_ERROR || status == NJ_IMPLEMENTATION_NOT_SUPPORTED || status == NJ_INCOMPLETE_BITSTREAM;
}

static dinov_status fail_status(const dinov_device_jpeg *j, int status, dinov_error *err)
{
    if (status == NJ_ALLOCATOR_FAILURE)
        return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "%s: out of memory in nvJPEG; fewer threads (-t) need less",
                          dinov_device_name(j->device));
    return dinov_fail(err, DINOV_ERR_DEVICE, "DEV-FAULT", "%s: nvJPEG failed with its status %d", dinov_device_name(j->device),
                      status);
}

static int make(dinov_device_jpeg *j)
{
    const struct functions *f = &j->f;
    int status = f->create(NJ_BACKEND_HYBRID, NULL, NULL, NJ_FLAGS_BITSTREAM_STRICT | NJ_FLAGS_UPSAMPLING_INTERPOLATED, &j->handle);
    if (!status) status = f->decoder_create(j->handle, NJ_BACKEND_HYBRID, &j->decoder);
    if (!status) status = f->state_create(j->handle, j->decoder, &j->state);
    if (!status) status = f->pinned_create(j->handle, NULL, &j->pinned_buffer);
    if (!status) status = f->device_create(j->handle, NULL, &j->device_buffer);
    if (!status) status = f->attach_pinned(j->state, j->pinned_buffer);
    if (!status) status = f->attach_device(j->state, j->device_buffer);
    if (!status) status = f->stream_create(j->handle, &j->stream);
    if (!status) status = f->params_create(j->handle, &j->params);
    return status ? status : f->params_format(j->params, NJ_OUTPUT_RGBI);
}

dinov_status dinov_device_jpeg_open(dinov_device_jpeg **out, dinov_device *device, dinov_error *err)
{
    static const char *const names[] = {"libnvjpeg.so.13", "libnvjpeg.so.12", NULL};
    int                      version[3];
    void                    *found[SYMBOLS];

    *out                 = NULL;
    dinov_device_jpeg *j = dinov_calloc(1, sizeof *j);
    if (!j) return dinov_fail_nomem(err, dinov_device_name(device), "a decoder");
    j->device           = device;
    dinov_status status = dinov_queue_new(&j->queue, device, err);
    if (status != DINOV_OK) goto fail;
    j->library = dinov_library_open(names, dinov_nj_symbols, found, SYMBOLS);
    if (!j->library) {
        status = dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-NVJPEG",
                            "nvJPEG cannot be opened (libnvjpeg.so.13 or .12): install it, or name its folder in LD_LIBRARY_PATH, "
                            "or decode on the CPU (--decode cpu)");
        goto fail;
    }
    memcpy(&j->f, found, sizeof found);
    dinov_queue_stream(j->queue); /* for the current device */
    int failed = make(j);
    for (int i = NJ_MAJOR_VERSION; !failed && i <= NJ_PATCH_LEVEL; i++) failed = j->f.property(i, &version[i]);
    if (failed) {
        status = dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-NVJPEG",
                            "%s: nvJPEG is here but does not start (its status %d); decode on the CPU (--decode cpu)",
                            dinov_device_name(device), failed);
        goto fail;
    }
    snprintf(j->name, sizeof j->name, "nvjpeg-%d.%d.%d", version[NJ_MAJOR_VERSION], version[NJ_MINOR_VERSION],
             version[NJ_PATCH_LEVEL]);
    *out = j;
    return DINOV_OK;
fail:
    dinov_device_jpeg_close(&j);
    return status;
}

void dinov_device_jpeg_close(dinov_device_jpeg **jpeg)
{
    if (!jpeg || !*jpeg) return;
    dinov_device_jpeg *j = *jpeg;
    *jpeg                = NULL;
    if (j->queue) dinov_queue_stream(j->queue); /* for the current device */
    if (j->params) j->f.params_destroy(j->params);
    if (j->stream) j->f.stream_destroy(j->stream);
    if (j->state) j->f.state_destroy(j->state);
    if (j->pinned_buffer) j->f.pinned_destroy(j->pinned_buffer);
    if (j->device_buffer) j->f.device_destroy(j->device_buffer);
    if (j->decoder) j->f.decoder_destroy(j->decoder);
    if (j->handle) j->f.destroy(j->handle);
    dinov_library_close(j->library);
    dinov_queue_free(&j->queue);
    dinov_device_free(j->device, j->decoded);
    dinov_pinned_free(j->device, j->pinned);
    dinov_free(j);
}

const char *dinov_device_jpeg_name(const dinov_device_jpeg *jpeg) { return jpeg->name; }

static dinov_status grow(dinov_device_jpeg *j, size_t size, dinov_error *err)
{
    if (size <= j->room) return DINOV_OK;
    dinov_device_free(j->device, j->decoded);
    dinov_pinned_free(j->device, j->pinned);
    j->room    = 0;
    j->decoded = dinov_device_alloc(j->device, size);
    j->pinned  = dinov_pinned_alloc(j->device, size);
    if (!j->decoded || !j->pinned) return fail_status(j, NJ_ALLOCATOR_FAILURE, err);
    j->room = size;
    return DINOV_OK;
}

/* On the calling thread: headers and Huffman codes. */
static int decode_codes(dinov_device_jpeg *j, int64_t width, int64_t height, const void *bytes, size_t size)
{
    unsigned w = 0, h = 0;
    int      no = 1, status = j->f.parse(j->handle, bytes, size, 0, 0, j->stream);
    if (!status) status = j->f.dimensions(j->stream, &w, &h);
    if (!status && (w != width || h != height)) status = NJ_JPEG_NOT_SUPPORTED;
    if (!status) status = j->f.supported(j->decoder, j->stream, j->params, &no);
    if (!status && no) status = NJ_JPEG_NOT_SUPPORTED;
    return status ? status : j->f.host(j->handle, j->decoder, j->state, j->params, j->stream);
}

dinov_status dinov_device_jpeg_decode(dinov_device_jpeg *j, uint8_t *rgb, int64_t width, int64_t height, const void *bytes,
                                      size_t size, bool *done, dinov_error *err)
{
    size_t         row = 3 * (size_t)width, all = row * (size_t)height;
    void          *queue = dinov_queue_stream(j->queue);
    dinov_nj_image image = {.pitch = {row}};

    *done = false;
    DINOV_TRY(grow(j, all, err));
    image.channel[0] = j->decoded;
    int failed       = decode_codes(j, width, height, bytes, size);
    if (!failed) {
        failed = j->f.transfer(j->handle, j->decoder, j->state, j->stream, queue);
        if (!failed) failed = j->f.device(j->handle, j->decoder, j->state, &image, queue);
        if (!failed) dinov_queue_download(j->queue, j->pinned, j->decoded, all);
        DINOV_TRY(dinov_queue_sync(j->queue, err)); /* also after a failure: what was issued reads nvJPEG's buffers */
    }
    if (failed) return about_picture(failed) ? DINOV_OK : fail_status(j, failed, err);
    memcpy(rgb, j->pinned, all);
    *done = true;
    return DINOV_OK;
}
