/* SPDX-License-Identifier: Apache-2.0
 *
 * The C API on one page: a checkpoint and a picture in, the CLS vector out.   dinov-example MODEL PICTURE
 */
#include "dinov/image.h"
#include "dinov/infer.h"

#include <stdio.h>
#include <stdlib.h>

#define TRY(call) \
    if ((call) != DINOV_OK) return fprintf(stderr, "%s [%s]\n", err.msg, err.code), 1

int main(int argc, char **argv)
{
    static unsigned char bytes[64 << 20];
    dinov_error          err;
    dinov_engine        *engine;
    dinov_preset         preset;
    dinov_image          image;
    int64_t              width, height;

    FILE  *file = argc == 3 ? fopen(argv[2], "rb") : NULL;
    size_t size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (!file || size == sizeof bytes) return fprintf(stderr, "usage: dinov-example MODEL PICTURE (below 64 MiB)\n"), 64;
    fclose(file);

    TRY(dinov_engine_open(&engine, argv[1], NULL, &err));
    const dinov_model      *model = dinov_engine_model(engine);
    const dinov_preprocess *rules = dinov_engine_preprocess(engine);
    TRY(dinov_image_decode(&image, bytes, size, argv[2], &err));
    TRY(dinov_preset_parse(&preset, rules->preset, &err));
    if (preset.kind != DINOV_PRESET_EVAL) TRY(dinov_image_turn(&image, &err)); /* all others apply the EXIF orientation */
    TRY(dinov_preset_size(&preset, model->patch, image.width, image.height, &width, &height, &err));

    float *pixels = malloc((size_t)(3 * width * height) * sizeof *pixels), *cls = malloc((size_t)model->dim * sizeof *cls);
    if (!pixels || !cls) return 3;
    TRY(dinov_preset_apply(&preset, model->patch, rules, &image, pixels, &err));
    dinov_features features = {.layer = -1, .cls = cls}; /* the last block, after the final norm */
    TRY(dinov_engine_run(engine, pixels, 1, height, width, &features, 1, &err));
    printf("%lld x %lld patches, CLS[%lld] = %.6f %.6f %.6f ...\n", (long long)(width / model->patch),
           (long long)(height / model->patch), (long long)model->dim, (double)cls[0], (double)cls[1], (double)cls[2]);

    dinov_image_clear(&image);
    dinov_engine_close(&engine);
    free(pixels), free(cls);
    return 0;
}
