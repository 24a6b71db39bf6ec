/* SPDX-License-Identifier: Apache-2.0
 *
 * One message of protobuf's wire format, field by field. A field that is cut, a group or a number without end
 * sets the cursor's `failed`; the caller looks once, after its loop.
 */
#ifndef DINOV_CONVERT_ONNX_PROTOBUF_H
#define DINOV_CONVERT_ONNX_PROTOBUF_H

#include "base/bytes.h"

enum { DINOV_PB_VARINT = 0, DINOV_PB_FIXED64 = 1, DINOV_PB_BYTES = 2, DINOV_PB_FIXED32 = 5 };

typedef struct dinov_pb_field {
    uint32_t       number;
    unsigned       wire;
    uint64_t       value; /* of a number */
    const uint8_t *data;  /* of bytes, and of a number of fixed width where it stands */
    uint64_t       size;
} dinov_pb_field;

static inline uint64_t dinov_pb_varint(dinov_cursor *c)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t byte = dinov_cursor_u8(c);
        if (shift == 63 && byte > 1) break;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return value;
    }
    c->failed = true;
    return 0;
}

/* False at the end, and after a failure. */
static inline bool dinov_pb_next(dinov_cursor *c, dinov_pb_field *f)
{
    if (c->failed || c->pos == c->size) return false;
    uint64_t tag = dinov_pb_varint(c);
    *f           = (dinov_pb_field){.number = (uint32_t)(tag >> 3), .wire = (unsigned)(tag & 7)};
    if (tag >> 32 || f->number == 0) c->failed = true;
    switch (f->wire) {
    case DINOV_PB_VARINT:
        f->value = dinov_pb_varint(c);
        break;
    case DINOV_PB_FIXED64:
        f->data  = dinov_cursor_take(c, 8);
        f->value = f->data ? dinov_le64(f->data) : 0;
        break;
    case DINOV_PB_FIXED32:
        f->data  = dinov_cursor_take(c, 4);
        f->value = f->data ? dinov_le32(f->data) : 0;
        break;
    case DINOV_PB_BYTES:
        f->size = dinov_pb_varint(c);
        f->data = dinov_cursor_take(c, f->size);
        break;
    default:
        c->failed = true;
    }
    return !c->failed;
}

static inline dinov_cursor dinov_pb_message(const dinov_pb_field *f) { return dinov_cursor_make(f->data, f->size); }

#endif
