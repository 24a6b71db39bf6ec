/* SPDX-License-Identifier: Apache-2.0
 *
 * An ONNX model, from its wire format to the tensors found in it: any bytes give tensors that can be read, or a refusal.
 * Mutations keep the lengths around what they change right, so that the fuzzer reaches what lies inside.
 */
#include "base/dtype.h"
#include "convert/onnx/protobuf.h"
#include "convert/onnx/read.h"

#include <stdlib.h>

int    LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak)); /* absent in a replay */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_tensors tensors = {0};
    dinov_facts   facts = {0};
    dinov_files   files = {.where = "fuzz", .folder = -1};
    dinov_error   err   = {0};
    if (dinov_onnx_read(&tensors, &facts, &files, data, size, "fuzz", &err) == DINOV_OK) {
        for (size_t i = 0; i < tensors.count; i++) {
            const dinov_tensor     *t = &tensors.items[i].tensor;
            const volatile uint8_t *p = t->data;
            uint64_t                bytes;
            DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
            DINOV_ASSERT((uintptr_t)t->data % dinov_dtype_size(t->dtype) == 0);
            for (uint64_t k = 0; k < bytes; k++) (void)p[k];
        }
        DINOV_ASSERT(facts.ln_eps > 0 && facts.ln_eps < 1 && facts.heads >= 0);
    } else {
        DINOV_ASSERT(err.code[0] && err.msg[0]);
    }
    dinov_tensors_clear(&tensors);
    dinov_files_close(&files);
    return 0;
}

enum { ROOM = 1 << 16, DEEPEST = 8 };

static size_t put_varint(uint8_t *out, uint64_t value)
{
    size_t n = 0;
    for (; value > 127; value >>= 7) out[n++] = (uint8_t)(value | 128);
    out[n++] = (uint8_t)value;
    return n;
}

/* One field of the message, or of a message in it, is changed, taken out or doubled. 0: no message. */
static size_t mutate(uint8_t *out, const uint8_t *data, size_t size, size_t max, int depth)
{
    dinov_cursor   c     = dinov_cursor_make(data, size);
    dinov_pb_field f     = {0};
    size_t         count = 0, begin = 0;
    while (dinov_pb_next(&c, &f)) count++;
    if (c.failed || count == 0 || size + 64 > max) return 0;
    size_t which = (size_t)rand() % count;
    c            = dinov_cursor_make(data, size);
    for (size_t i = 0; i <= which; i++) {
        begin = c.pos;
        dinov_pb_next(&c, &f);
    }
    int    how  = rand() % 16;
    size_t used = begin, end = c.pos, field = end - begin;
    memcpy(out, data, how == 0 ? begin : end);
    if (how == 1 && size + field <= max) {
        memcpy(out + end, data + begin, field);
        used = end + field;
    } else if (how > 1 && f.wire == DINOV_PB_BYTES) {
        static uint8_t inside[DEEPEST][ROOM];
        uint8_t       *to   = inside[depth];
        size_t         most = max - size < 4096 ? f.size + (max - size) - 32 : f.size + 4096, length = 0;
        if (most > ROOM) most = ROOM;
        if (f.size > ROOM) return 0;
        if (how > 3 && depth + 1 < DEEPEST) length = mutate(to, f.data, f.size, most, depth + 1);
        if (!length) {
            memcpy(to, f.data, f.size);
            length = LLVMFuzzerMutate(to, f.size, most);
        }
        used += put_varint(out + used, (uint64_t)f.number << 3 | DINOV_PB_BYTES);
        used += put_varint(out + used, length);
        memcpy(out + used, to, length);
        used += length;
    } else if (how > 1 && f.wire == DINOV_PB_VARINT) {
        static const uint64_t values[] = {0, 1, 2, 3, 7, 10, 16, 1u << 31, UINT64_MAX, INT64_MAX};
        used += put_varint(out + used, (uint64_t)f.number << 3);
        used += put_varint(out + used, values[rand() % 10]);
    } else if (how > 0) {
        used = end;
    }
    memcpy(out + used, data + end, size - end);
    return used + size - end;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    static uint8_t out[2 * ROOM];
    srand(seed);
    size_t length = size <= ROOM && rand() % 16 ? mutate(out, data, size, max < ROOM ? max : ROOM, 0) : 0;
    if (!length || length > max) return LLVMFuzzerMutate(data, size, max);
    memcpy(data, out, length);
    return length;
}
