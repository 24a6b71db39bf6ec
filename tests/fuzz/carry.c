/* SPDX-License-Identifier: Apache-2.0
 *
 * What a confined reader answers, from a reader that its file has turned: any bytes give tensors inside the regions,
 * under names that are printable and unique, or a status.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "convert/carry.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(64) const uint8_t first[4096], second[4096];
    const dinov_region                regions[] = {{first, sizeof first}, {second, sizeof second}};
    char                              where[]   = "fuzz", name[DINOV_FILES_NAME + 1];
    dinov_reader                      reader    = {.where = where, .layout = DINOV_LAYOUT_PTH};
    dinov_error                       err       = {0};
    dinov_carried                     what;

    if (dinov_carry_take(&what, &reader, name, data, size, regions, 2, &err) == DINOV_OK) {
        if (what == DINOV_CARRIED_WANTED) DINOV_ASSERT(name[0] && dinov_text_printable(name, strlen(name)));
        for (size_t i = 0; i < reader.plain.count; i++) {
            const dinov_tensor *t = &reader.plain.items[i].tensor;
            const uint8_t      *p = t->data;
            uint64_t            bytes;
            DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
            DINOV_ASSERT((p >= first && p + bytes <= first + sizeof first) || (p >= second && p + bytes <= second + sizeof second));
            DINOV_ASSERT(dinov_text_printable(reader.plain.items[i].name, strlen(reader.plain.items[i].name)));
        }
    } else {
        DINOV_ASSERT(err.status != DINOV_OK && err.code[0] && err.msg[0]);
    }
    dinov_tensors_clear(&reader.plain);

    dinov_hf_beside beside = {.has_config = true};
    if (dinov_carry_take_beside(&beside, data, size, where, &err) == DINOV_OK) {
        DINOV_ASSERT(beside.config.heads >= 0 && beside.config.heads <= 1 << 20 && beside.config.ln_eps >= 0);
        if (beside.said) DINOV_ASSERT(dinov_text_printable(beside.preprocess.preset, strlen(beside.preprocess.preset)));
    } else {
        DINOV_ASSERT(err.status != DINOV_OK && err.code[0] && err.msg[0]);
    }
    return 0;
}
