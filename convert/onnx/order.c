/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/order.h"

#include "base/alloc.h"

#include <string.h>

/* The node that makes the k-th input, or NONE. */
static int32_t needed(const dinov_onnx *m, size_t node, uint32_t k)
{
    return dinov_onnx_maker(m, dinov_onnx_in(m, (int32_t)node, k));
}

static bool in_order(const dinov_onnx *m)
{
    for (size_t i = 0; i < m->node_count; i++)
        for (uint32_t k = 0; k < m->nodes[i].ins; k++)
            if (needed(m, i, k) >= (int32_t)i) return false;
    return true;
}

/* Of each node: how many inputs are not made yet, and the list of slots that use what it makes; of each such slot, whose input it
 * is and the next in the list. */
struct sorting {
    uint32_t        *waits, *user, *order;
    int32_t         *first_use, *next_use, *place;
    dinov_onnx_node *nodes;
};

static void list_uses(const dinov_onnx *m, const struct sorting *s)
{
    for (size_t i = 0; i < m->node_count; i++) s->first_use[i] = DINOV_ONNX_NONE;
    for (size_t i = 0; i < m->node_count; i++) {
        s->waits[i] = 0;
        for (uint32_t k = 0; k < m->nodes[i].ins; k++) {
            int32_t maker = needed(m, i, k), slot = (int32_t)(m->nodes[i].first_in + k);
            if (maker == DINOV_ONNX_NONE) continue;
            s->waits[i]++;
            s->user[slot]       = (uint32_t)i;
            s->next_use[slot]   = s->first_use[maker];
            s->first_use[maker] = slot;
        }
    }
}

/* False when some wait for each other. */
static bool sort_nodes(dinov_onnx *m, const struct sorting *s)
{
    size_t n = m->node_count, ready = 0;
    list_uses(m, s);
    for (size_t i = 0; i < n; i++)
        if (s->waits[i] == 0) s->order[ready++] = (uint32_t)i;
    for (size_t done = 0; done < ready; done++)
        for (int32_t slot = s->first_use[s->order[done]]; slot != DINOV_ONNX_NONE; slot = s->next_use[slot])
            if (--s->waits[s->user[slot]] == 0) s->order[ready++] = s->user[slot];
    if (ready < n) return false;

    for (size_t i = 0; i < n; i++) {
        s->nodes[i]           = m->nodes[s->order[i]];
        s->place[s->order[i]] = (int32_t)i;
    }
    memcpy(m->nodes, s->nodes, n * sizeof *m->nodes);
    for (size_t i = 0; i < m->value_count; i++)
        if (m->values[i].node != DINOV_ONNX_NONE) m->values[i].node = s->place[m->values[i].node];
    return true;
}

dinov_status dinov_onnx_order(dinov_onnx *m, dinov_error *err)
{
    if (in_order(m)) return DINOV_OK;
    size_t         n = m->node_count, slots = m->slot_count;
    struct sorting s      = {.waits     = dinov_alloc(n, sizeof *s.waits),
                             .user      = dinov_alloc(slots, sizeof *s.user),
                             .order     = dinov_alloc(n, sizeof *s.order),
                             .first_use = dinov_alloc(n, sizeof *s.first_use),
                             .next_use  = dinov_alloc(slots, sizeof *s.next_use),
                             .place     = dinov_alloc(n, sizeof *s.place),
                             .nodes     = dinov_alloc(n, sizeof *s.nodes)};
    dinov_status   status = DINOV_OK;
    if (!s.waits || !s.user || !s.order || !s.first_use || !s.next_use || !s.place || !s.nodes)
        status = dinov_fail_nomem(err, m->where, "the order of nodes");
    else if (!sort_nodes(m, &s))
        status = dinov_fail(err, DINOV_ERR_FORMAT, "ONNX-NAME",
                            "%s: some nodes of this ONNX model wait for each other's values in a circle; run onnx.checker on it",
                            m->where);
    dinov_free(s.waits);
    dinov_free(s.user);
    dinov_free(s.order);
    dinov_free(s.first_use);
    dinov_free(s.next_use);
    dinov_free(s.place);
    dinov_free(s.nodes);
    return status;
}
