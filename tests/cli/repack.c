/* SPDX-License-Identifier: Apache-2.0
 *
 * Any tensors, model or not, from a file of any layout to a .pth: what dinov-convert writes for models, open to
 * every dtype and shape.   repack IN OUT.pth
 */
#include "convert/pth_write.h"
#include "convert/source.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    dinov_reader reader;
    dinov_error  err;
    if (argc != 3) return 64;
    dinov_status status = dinov_reader_open(&reader, argv[1], NULL, &err);
    if (status == DINOV_OK) status = dinov_pth_write(argv[2], reader.tensors, reader.count, 1, &err);
    dinov_reader_close(&reader);
    if (status != DINOV_OK) fprintf(stderr, "repack: %s [%s]\n", err.msg, err.code);
    return status == DINOV_OK ? 0 : 2;
}
