/* SPDX-License-Identifier: Apache-2.0 */
#include "image/encode.h"

#include "base/alloc.h"
#include "base/file.h"

#include <png.h>

dinov_status dinov_png_write(const char *path, const uint8_t *pixels, int64_t width, int64_t height, int overwrite,
                             dinov_error *err)
{
    png_image image = {
        .version = PNG_IMAGE_VERSION, .width = (png_uint_32)width, .height = (png_uint_32)height, .format = PNG_FORMAT_RGB};
    png_alloc_size_t size   = PNG_IMAGE_PNG_SIZE_MAX(image); /* before packing, which can only go a little above */
    dinov_out       *out    = NULL;
    dinov_status     status = DINOV_OK;
    void            *bytes  = dinov_alloc(size, 1);

    if (!bytes || !png_image_write_to_memory(&image, bytes, &size, 0, pixels, 0, NULL)) {
        status = dinov_fail_nomem(err, "picture", "packing it");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_out_open(&out, path, overwrite, err));
    DINOV_TRY_GOTO(dinov_out_write(out, bytes, size, err));
    status = dinov_out_commit(&out, err);
fail:
    dinov_out_abort(&out);
    dinov_free(bytes);
    return status;
}
