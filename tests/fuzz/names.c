/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines "NAME DTYPE SIZE,SIZE.." as the tensors of a file: every name gets exactly one place, what is made
 * has the size its shape says, and what is recognised can be written under the other two namings.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "convert/names.h"
#include "convert/recognise.h"
#include "format/params.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROOM = 1 << 16 }; /* bytes of all tensors, which lie over each other */

static uint8_t bytes[ROOM];

static void add_line(dinov_tensors *list, char *line)
{
    dinov_tensor t  = {.data = bytes, .dtype = DINOV_F32};
    char        *at = strchr(line, ' ');
    uint64_t     total;
    if (!at) return;
    *at++ = '\0';
    if (*at == 'h') t.dtype = DINOV_F16, at++;
    while (*at && t.rank < DINOV_MAX_RANK) {
        t.dim[t.rank++] = (int64_t)strtoul(at, &at, 10) & 0xffff;
        if (*at) at++;
    }
    if (!dinov_tensor_bytes(&t, &total) || total > ROOM) return;
    dinov_tensors_add(list, line, strlen(line), &t, "fuzz", NULL);
}

static void rename_all(const dinov_weights *weights)
{
    for (int to = DINOV_NAMING_HF; to <= DINOV_NAMING_TIMM; to++) {
        dinov_tensors                 theirs;
        dinov_names                   back;
        dinov_model                   model;
        const dinov_recognise_options how = {.heads = weights->model.heads};
        DINOV_ASSERT(dinov_names_rename(&theirs, weights, (dinov_naming)to, "fuzz", NULL) == DINOV_OK);
        DINOV_ASSERT(dinov_names_map(&back, theirs.items, theirs.count, "fuzz", NULL) == DINOV_OK);
        DINOV_ASSERT(dinov_names_fill(&back, "fuzz", NULL) == DINOV_OK && back.leftover == 0);
        dinov_status status = dinov_recognise(&model, back.tensors.items, back.tensors.count, &how, "fuzz", NULL);
        /* timm's positions alone can be taken for a class token and a smaller square: 2 rows are 1 + 1. */
        DINOV_ASSERT(status == DINOV_OK || to == DINOV_NAMING_TIMM);
        if (status == DINOV_OK && to == DINOV_NAMING_HF)
            DINOV_ASSERT(model.dim == weights->model.dim && model.hidden == weights->model.hidden &&
                         model.depth == weights->model.depth);
        dinov_names_clear(&back);
        dinov_tensors_clear(&theirs);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_tensors list = {0};
    dinov_names   names;
    dinov_error   err    = {0};
    char         *text   = dinov_alloc(size + 1, 1), *next;
    size_t        pieces = 0;

    if (!text) return 0;
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    for (char *line = text; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        add_line(&list, line);
    }
    dinov_status status = dinov_names_map(&names, list.items, list.count, "fuzz", &err);
    if (status == DINOV_OK) {
        DINOV_ASSERT(dinov_names_fill(&names, "fuzz", NULL) == DINOV_OK);
        for (size_t i = 0; i < names.tensors.count; i++) {
            const dinov_made *made = &names.made[i];
            uint64_t          want, have = 0, part;
            DINOV_ASSERT(names.tensors.items[i].tensor.data && dinov_tensor_bytes(&names.tensors.items[i].tensor, &want));
            for (int p = 0; p < made->pieces; p++, have += part) DINOV_ASSERT(dinov_tensor_bytes(&made->piece[p]->tensor, &part));
            DINOV_ASSERT(have == want || (have < want && (made->zeros || made->pieces == 0)));
            pieces += (size_t)made->pieces;
        }
        DINOV_ASSERT(pieces + names.passed + names.leftover == list.count);
        const dinov_recognise_options how     = {.heads = 1};
        dinov_weights                 weights = {.tensors = names.tensors.items, .count = names.tensors.count};
        if (dinov_recognise(&weights.model, weights.tensors, weights.count, &how, "fuzz", &err) == DINOV_OK) rename_all(&weights);
    } else {
        DINOV_ASSERT(err.code[0]);
        for (const char *p = err.msg; *p; p++) DINOV_ASSERT(*p >= ' ' && *p < 127);
    }
    dinov_names_clear(&names);
    dinov_tensors_clear(&list);
    dinov_free(text);
    return 0;
}
