/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/match.h"

#include "base/alloc.h"

#include <string.h>

enum { LONGEST = 64 }; /* chain of nodes that change nothing */

/* ---- Steps of the walk ---- */

static const dinov_onnx_node *maker(const dinov_onnx_match *m, int32_t value)
{
    int32_t node = dinov_onnx_maker(m->model, value);
    return node == DINOV_ONNX_NONE ? NULL : &m->model->nodes[node];
}

bool dinov_onnx_made_by(const dinov_onnx_match *m, int32_t value, const char *op)
{
    const dinov_onnx_node *node = maker(m, value);
    return node && node->domain.size == 0 && dinov_onnx_is(node->op, op);
}

bool dinov_onnx_made_by_ort(const dinov_onnx_match *m, int32_t value, const char *op)
{
    const dinov_onnx_node *node = maker(m, value);
    return node && dinov_onnx_is(node->domain, "com.microsoft") && dinov_onnx_is(node->op, op);
}

static bool among(dinov_onnx_text op, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (dinov_onnx_is(op, words[i])) return true;
    return false;
}

int32_t dinov_onnx_past(const dinov_onnx_match *m, int32_t value, bool shapes)
{
    static const char *const casts[] = {"Identity", "Cast", "CastLike", "Dropout"};
    static const char *const moves[] = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"};
    for (int i = 0; i < LONGEST; i++) {
        const dinov_onnx_node *node = maker(m, value);
        if (!node || node->domain.size || m->model->values[value].output != 0) break;
        if (!among(node->op, casts, 4) && !(shapes && among(node->op, moves, 5))) break;
        value = dinov_onnx_in(m->model, dinov_onnx_maker(m->model, value), 0);
        if (value == DINOV_ONNX_NONE) break;
    }
    return value;
}

bool dinov_onnx_with_constant(const dinov_onnx_match *m, int32_t node, const dinov_onnx_view **constant, int32_t *other)
{
    for (uint32_t i = 0; i < 2; i++) {
        int32_t at = dinov_onnx_in(m->model, node, i);
        *constant  = dinov_onnx_view_of(m->constants, at);
        *other     = dinov_onnx_in(m->model, node, 1 - i);
        if (*constant && *other != DINOV_ONNX_NONE) return true;
    }
    return false;
}

bool dinov_onnx_with_number(const dinov_onnx_match *m, int32_t node, double *number, int32_t *other)
{
    const dinov_onnx_view *view;
    for (uint32_t i = 0; i < 2; i++)
        if (dinov_onnx_number(m->constants, dinov_onnx_in(m->model, node, i), number)) {
            *other = dinov_onnx_in(m->model, node, 1 - i);
            view   = dinov_onnx_view_of(m->constants, *other);
            return *other != DINOV_ONNX_NONE && !view;
        }
    return false;
}

dinov_onnx_stream dinov_onnx_stream_of(const dinov_onnx_match *m, int32_t value)
{
    value = dinov_onnx_past(m, value, false);
    if (dinov_onnx_made_by_ort(m, value, "SkipLayerNormalization") && m->model->values[value].output == 3)
        return (dinov_onnx_stream){DINOV_ONNX_NONE, m->model->values[value].node};
    return (dinov_onnx_stream){value, DINOV_ONNX_NONE};
}

bool dinov_onnx_sum(const dinov_onnx_match *m, dinov_onnx_stream s, int32_t *a, int32_t *b, int32_t *bias)
{
    int32_t node = s.node;
    if (node == DINOV_ONNX_NONE && dinov_onnx_made_by(m, s.value, "Add")) node = dinov_onnx_maker(m->model, s.value);
    if (node == DINOV_ONNX_NONE) return false;
    *a    = dinov_onnx_in(m->model, node, 0);
    *b    = dinov_onnx_in(m->model, node, 1);
    *bias = s.node == DINOV_ONNX_NONE ? DINOV_ONNX_NONE : dinov_onnx_in(m->model, node, 4);
    return *a != DINOV_ONNX_NONE && *b != DINOV_ONNX_NONE;
}

bool dinov_onnx_miss(dinov_onnx_match *m, int32_t value, int depth, const char *why)
{
    if (depth <= m->depth) return false;
    m->depth  = depth;
    m->missed = dinov_onnx_maker(m->model, value);
    m->why    = why;
    return false;
}

/* ---- Refusals ---- */

static dinov_status refuse_node(const dinov_onnx *model, int32_t index, dinov_status status, const char *code, const char *what,
                                dinov_error *err)
{
    const dinov_onnx_node *node = &model->nodes[index];
    int32_t                out  = dinov_onnx_out(model, index, 0);
    dinov_onnx_text        made = out == DINOV_ONNX_NONE ? (dinov_onnx_text){"", 0} : model->values[out].name;
    char                   name[DINOV_ESCAPED], op[80], domain[80], output[DINOV_ESCAPED];
    dinov_escape(name, sizeof name, node->name.data, node->name.size);
    dinov_escape(op, sizeof op, node->op.data, node->op.size);
    dinov_escape(domain, sizeof domain, node->domain.data, node->domain.size);
    dinov_escape(output, sizeof output, made.data, made.size);
    return dinov_fail(err, status, code, "%s: ONNX node \"%s\" (%s%s%s, which makes \"%s\"): %s", model->where, name, domain,
                      *domain ? "." : "", op, output, what);
}

static dinov_status refuse_quantised(const dinov_onnx *model, dinov_error *err)
{
    static const struct {
        const char *op, *what;
    } known[] = {
        {"DequantizeLinear",
         "the weights are quantised; their exact values are lost, so take the float model this one was made from"},
        {"QuantizeLinear", "the model is quantised with stored scales; take the float model this one was made from"},
        {"DynamicQuantizeLinear",
         "the model is quantised as it runs, and its weights are; take the float model this one was made from"},
        {"MatMulInteger", "the weights are 8-bit integers; take the float model this one was made from"},
        {"ConvInteger", "the weights are 8-bit integers; take the float model this one was made from"},
        {"QLinearMatMul", "the weights are 8-bit integers; take the float model this one was made from"},
        {"QLinearConv", "the weights are 8-bit integers; take the float model this one was made from"},
        {"MatMulNBits", "the weights are packed into a few bits each; take the float model this one was made from"},
        {"MatMulBnb4", "the weights are packed into 4 bits each; take the float model this one was made from"},
        {"MatMulFpQ4", "the weights are packed into 4 bits each; take the float model this one was made from"},
        {"DynamicQuantizeMatMul", "the weights are 8-bit integers; take the float model this one was made from"},
        {"MatMulIntegerToFloat", "the weights are 8-bit integers; take the float model this one was made from"},
        {"QAttention", "the weights are 8-bit integers; take the float model this one was made from"},
    };
    for (size_t i = 0; i < model->node_count; i++)
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
            if (dinov_onnx_is(model->nodes[i].op, known[k].op))
                return refuse_node(model, (int32_t)i, DINOV_ERR_UNSUPPORTED, "ONNX-QUANTISED", known[k].what, err);
    return DINOV_OK;
}

static dinov_status refuse_structure(const dinov_onnx_match *m, const char *what, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, "ONNX-STRUCTURE",
                      "%s: expected the graph of a DINOv2 model, found %zu nodes that %s%s; give the ONNX file of the backbone",
                      m->model->where, m->model->node_count, what,
                      m->model->functions ? " (it also has functions of its own, which are not followed: inline them first)" : "");
}

static dinov_status refuse_miss(const dinov_onnx_match *m, dinov_error *err)
{
    if (m->missed == DINOV_ONNX_NONE) return refuse_structure(m, m->why ? m->why : "do not follow each other as expected", err);
    return refuse_node(m->model, m->missed, DINOV_ERR_FORMAT, "ONNX-NODE", m->why, err);
}

/* ---- The walk ---- */

static bool same_view(const dinov_onnx_view *a, const dinov_onnx_view *b) { return a->data == b->data && a->dtype == b->dtype; }

static bool same_stream(dinov_onnx_stream a, dinov_onnx_stream b) { return a.value == b.value && a.node == b.node; }

/* How far along the graph a place in the stream is. */
static int64_t place(const dinov_onnx_match *m, dinov_onnx_stream s)
{
    return s.node != DINOV_ONNX_NONE ? s.node : dinov_onnx_maker(m->model, s.value);
}

/* A graph may apply the final norm to several layers: it is that of the last norm, and the layer is the last it is applied to. */
static dinov_status find_final(dinov_onnx_match *m, dinov_error *err)
{
    bool found = false;
    for (size_t i = m->model->node_count; i-- > 0;) {
        dinov_onnx_norm norm;
        int32_t         out = dinov_onnx_out(m->model, (int32_t)i, 0);
        if (out == DINOV_ONNX_NONE || !dinov_onnx_match_norm(m, out, &norm) || norm.node != (int32_t)i) continue;
        if (!found || (same_view(&norm.weight, &m->final.weight) && same_view(&norm.bias, &m->final.bias) &&
                       place(m, norm.x) > place(m, m->final.x)))
            m->final = norm;
        found = true;
    }
    if (!found) return refuse_structure(m, "hold no layer norm with a stored weight and bias", err);
    m->dim = (int64_t)dinov_onnx_view_count(&m->final.weight);
    return DINOV_OK;
}

static dinov_status add_branch(dinov_onnx_match *m, const dinov_onnx_branch *branch, dinov_error *err)
{
    if (m->count == m->room) {
        size_t             room  = m->room ? 2 * m->room : 32;
        dinov_onnx_branch *items = dinov_realloc(m->branches, room, sizeof *items);
        if (!items) return dinov_fail_nomem(err, m->model->where, "the blocks");
        m->branches = items;
        m->room     = room;
    }
    m->branches[m->count++] = *branch;
    return DINOV_OK;
}

/* Which of the two summands is the branch shows: its norm is applied to the other one. */
static bool split_sum(dinov_onnx_match *m, dinov_onnx_stream *s, dinov_onnx_branch *out)
{
    int32_t a, b, bias;
    if (!dinov_onnx_sum(m, *s, &a, &b, &bias)) return dinov_onnx_miss(m, s->value, 1, "expected a residual sum here");
    for (int swap = 0; swap < 2; swap++) {
        dinov_onnx_stream skip = dinov_onnx_stream_of(m, swap ? a : b);
        if (!dinov_onnx_match_branch(m, swap ? b : a, bias, out)) continue;
        if (!same_stream(out->norm.x, skip)) {
            dinov_onnx_miss(m, swap ? b : a, 4, "expected the branch to begin at what it is added to");
            continue;
        }
        *s = skip;
        return true;
    }
    return false;
}

/* Every norm belongs to a block or is the final one: nothing was passed by. */
static dinov_status check_norms(dinov_onnx_match *m, dinov_error *err)
{
    for (size_t i = 0; i < m->model->node_count; i++) {
        dinov_onnx_norm norm;
        int32_t         out   = dinov_onnx_out(m->model, (int32_t)i, 0);
        bool            known = false;
        if (out == DINOV_ONNX_NONE || !dinov_onnx_match_norm(m, out, &norm) || norm.node != (int32_t)i) continue;
        if (same_view(&norm.weight, &m->final.weight)) continue;
        for (size_t k = 0; k < m->count && !known; k++) known = same_view(&norm.weight, &m->branches[k].norm.weight);
        if (!known)
            return refuse_node(
                m->model, (int32_t)i, DINOV_ERR_FORMAT, "ONNX-NODE",
                "this layer norm belongs to none of the blocks that lead to the final norm, so the graph holds more than "
                "one model of this family",
                err);
    }
    return DINOV_OK;
}

static dinov_status check_order(dinov_onnx_match *m, dinov_error *err)
{
    for (size_t i = 0; i < m->count; i++) {
        bool attention = m->branches[i].kind == DINOV_ONNX_ATTENTION;
        if (attention != (i % 2 == 1) || (m->count % 2 == 1 && i + 1 == m->count))
            return refuse_node(m->model, m->branches[i].norm.node, DINOV_ERR_FORMAT, "ONNX-NODE",
                               "expected attention and feed-forward to take turns in the blocks", err);
        if (!(m->branches[i].norm.eps > 0 && m->branches[i].norm.eps < 1))
            return refuse_node(m->model, m->branches[i].norm.node, DINOV_ERR_FORMAT, "ONNX-NODE",
                               "expected an epsilon between 0 and 1", err);
        if (m->branches[i].norm.eps != m->final.eps)
            return refuse_node(m->model, m->branches[i].norm.node, DINOV_ERR_FORMAT, "ONNX-NODE",
                               "expected the epsilon of the final norm, found another", err);
    }
    return DINOV_OK;
}

static dinov_status walk(dinov_onnx_match *m, dinov_error *err)
{
    DINOV_TRY(find_final(m, err));
    dinov_onnx_stream s = m->final.x;
    for (;;) {
        dinov_onnx_branch branch;
        m->depth  = 0;
        m->missed = DINOV_ONNX_NONE;
        m->why    = NULL;
        if (!split_sum(m, &s, &branch)) break;
        DINOV_TRY(add_branch(m, &branch, err));
    }
    if (!dinov_onnx_match_tokens(m, s)) return refuse_miss(m, err);
    if (m->count == 0) return refuse_structure(m, "hold no block between the patch embedding and the final norm", err);
    DINOV_TRY(check_order(m, err));
    return check_norms(m, err);
}

dinov_status dinov_onnx_match_open(dinov_onnx_match *out, const dinov_onnx_constants *constants, dinov_error *err)
{
    *out = (dinov_onnx_match){.model = constants->model, .constants = constants};
    DINOV_TRY(refuse_quantised(constants->model, err));
    return walk(out, err);
}

void dinov_onnx_match_close(dinov_onnx_match *m)
{
    dinov_free(m->branches);
    *m = (dinov_onnx_match){0};
}
