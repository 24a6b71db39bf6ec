/* SPDX-License-Identifier: Apache-2.0
 *
 * The picture library behind a line protocol, for tests in other languages. Commands on stdin:
 *   decode IN OUT                          -> "ok WIDTH HEIGHT ORIENTATION", 8-bit RGB in OUT
 *   turn IN OUT                            -> the same after turning
 *   resize IN W H OW OH X Y CW CH OUT      -> "ok", raw RGB in and out
 *   preset TEXT PATCH IN OUT               -> "ok WIDTH HEIGHT", float32 [3, HEIGHT, WIDTH] in OUT
 *   size TEXT PATCH W H                    -> "ok WIDTH HEIGHT"
 *   source OUT PATH...                     -> "ok COUNT PROBLEMS", a line "NAME LABEL SHA-256" for each item in OUT
 * A refusal is "CODE sentence". Paths hold no white space. OUT may be "-" for nothing.
 */
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "image/internal.h"
#include "image/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const dinov_preprocess hub = {"eval:224", {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

static void write_file(const char *path, const void *data, size_t size)
{
    if (strcmp(path, "-") == 0) return;
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) {
        perror(path);
        exit(70);
    }
}

static dinov_status decode(dinov_image *image, const char *path, dinov_error *err)
{
    void  *bytes;
    size_t size;
    DINOV_TRY(dinov_file_read(&bytes, &size, path, SIZE_MAX, err));
    dinov_status status = dinov_image_decode(image, bytes, size, path, err);
    dinov_free(bytes);
    return status;
}

static dinov_status do_decode(const char *args, int turn, dinov_error *err)
{
    char        in[4096], out[4096];
    dinov_image image = {0};
    if (sscanf(args, "%4095s %4095s", in, out) != 2) exit(64);
    DINOV_TRY(decode(&image, in, err));
    dinov_status status = turn ? dinov_image_turn(&image, err) : DINOV_OK;
    if (status == DINOV_OK) {
        write_file(out, image.pixels, 3 * (size_t)(image.width * image.height));
        printf("ok %" PRId64 " %" PRId64 " %d\n", image.width, image.height, image.orientation);
    }
    dinov_image_clear(&image);
    return status;
}

static dinov_status do_resize(const char *args, dinov_error *err)
{
    char         in[4096], out[4096];
    int64_t      w, h, ow, oh;
    dinov_window c;
    void        *bytes;
    size_t       size;
    if (sscanf(args,
               "%4095s %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %4095s", in,
               &w, &h, &ow, &oh, &c.x, &c.y, &c.width, &c.height, out) != 10)
        exit(64);
    DINOV_TRY(dinov_file_read(&bytes, &size, in, SIZE_MAX, err));
    if (size != 3 * (size_t)(w * h)) exit(64);
    uint8_t     *result = dinov_alloc((size_t)(c.width * c.height), 3);
    dinov_status status = dinov_resize_bicubic(result, c, ow, oh, bytes, w, h, err);
    if (status == DINOV_OK) {
        write_file(out, result, 3 * (size_t)(c.width * c.height));
        puts("ok");
    }
    dinov_free(result);
    dinov_free(bytes);
    return status;
}

static dinov_status do_preset(const char *args, dinov_error *err)
{
    char         text[64], in[4096], out[4096];
    int64_t      patch, w, h;
    dinov_preset preset;
    dinov_image  image  = {0};
    float       *pixels = NULL;
    dinov_status status;
    if (sscanf(args, "%63s %" SCNd64 " %4095s %4095s", text, &patch, in, out) != 4) exit(64);
    DINOV_TRY(dinov_preset_parse(&preset, text, err));
    DINOV_TRY(decode(&image, in, err));
    if (preset.kind != DINOV_PRESET_EVAL) DINOV_TRY_GOTO(dinov_image_turn(&image, err));
    DINOV_TRY_GOTO(dinov_preset_size(&preset, patch, image.width, image.height, &w, &h, err));
    pixels = dinov_alloc((size_t)(w * h), 3 * sizeof *pixels);
    if (!pixels) exit(70);
    DINOV_TRY_GOTO(dinov_preset_apply(&preset, patch, &hub, &image, pixels, err));
    write_file(out, pixels, 3 * sizeof *pixels * (size_t)(w * h));
    printf("ok %" PRId64 " %" PRId64 "\n", w, h);
fail:
    dinov_free(pixels);
    dinov_image_clear(&image);
    return status;
}

static dinov_status do_size(const char *args, dinov_error *err)
{
    char         text[64];
    int64_t      patch, w, h, iw, ih;
    dinov_preset preset;
    if (sscanf(args, "%63s %" SCNd64 " %" SCNd64 " %" SCNd64, text, &patch, &w, &h) != 4) exit(64);
    DINOV_TRY(dinov_preset_parse(&preset, text, err));
    DINOV_TRY(dinov_preset_size(&preset, patch, w, h, &iw, &ih, err));
    printf("ok %" PRId64 " %" PRId64 "\n", iw, ih);
    return DINOV_OK;
}

static dinov_status do_source(char *args, dinov_error *err)
{
    enum { PATHS = 64 };
    const char       *path[PATHS];
    dinov_source_spec spec = {.paths = path};
    dinov_source     *source;
    dinov_status      status = DINOV_OK;
    const char       *out    = strtok(args, " \n");
    while (spec.path_count < PATHS && (path[spec.path_count] = strtok(NULL, " \n"))) spec.path_count++;
    DINOV_TRY(dinov_source_open(&source, &spec, err));
    FILE *f = fopen(out, "w");
    if (!f) exit(70);
    for (int64_t i = 0; i < dinov_source_count(source); i++) {
        char         name[DINOV_SOURCE_NAME], digest[DINOV_SHA_HEX + 1];
        void        *bytes;
        size_t       size;
        dinov_sha256 sha;
        DINOV_TRY_GOTO(dinov_source_read(source, i, &bytes, &size, err));
        if (dinov_sha256_init(&sha, err) != DINOV_OK) exit(70);
        dinov_sha256_add(&sha, bytes, size);
        dinov_sha256_done(&sha, digest);
        fprintf(f, "%s %" PRId64 " %s\n", dinov_source_name(source, i, name, sizeof name), dinov_source_label(source, i), digest);
        dinov_free(bytes);
    }
    printf("ok %" PRId64 " %" PRId64 "\n", dinov_source_count(source), dinov_source_problem_count(source));
fail:
    fclose(f);
    dinov_source_close(&source);
    return status;
}

int main(void)
{
    char line[16384];
    while (fgets(line, sizeof line, stdin)) {
        dinov_error  err = {0};
        dinov_status status;
        if (strncmp(line, "decode ", 7) == 0)
            status = do_decode(line + 7, 0, &err);
        else if (strncmp(line, "turn ", 5) == 0)
            status = do_decode(line + 5, 1, &err);
        else if (strncmp(line, "resize ", 7) == 0)
            status = do_resize(line + 7, &err);
        else if (strncmp(line, "preset ", 7) == 0)
            status = do_preset(line + 7, &err);
        else if (strncmp(line, "size ", 5) == 0)
            status = do_size(line + 5, &err);
        else if (strncmp(line, "source ", 7) == 0)
            status = do_source(line + 7, &err);
        else
            return 64;
        if (status != DINOV_OK) printf("%s %s\n", err.code, err.msg);
        fflush(stdout);
    }
    return 0;
}
