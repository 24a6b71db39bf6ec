/* SPDX-License-Identifier: Apache-2.0
 *
 * The beginning of the stream: patch embedding, class token, positions, which the graph may resize, and registers.
 */
#include "convert/onnx/match.h"

enum { LONGEST = 64, AT_TOKENS = 2, AT_PATCHES = 3 };

static int32_t input(const dinov_onnx_match *m, int32_t value, uint32_t i)
{
    return dinov_onnx_in(m->model, dinov_onnx_maker(m->model, value), i);
}

static const dinov_onnx_node *maker(const dinov_onnx_match *m, int32_t value)
{
    return &m->model->nodes[dinov_onnx_maker(m->model, value)];
}

/* A Concat of `count` along the tokens. */
static bool joins(const dinov_onnx_match *m, int32_t value, uint32_t count)
{
    if (!dinov_onnx_made_by(m, value, "Concat") || maker(m, value)->ins != count) return false;
    int64_t axis = dinov_onnx_int(maker(m, value), "axis", 0);
    return axis == 1 || axis == -2;
}

/* Of a constant that was repeated for a batch when the graph was made, one copy. */
static bool take_once(const dinov_onnx_match *m, int32_t value, dinov_onnx_view *out)
{
    const dinov_onnx_view *v = dinov_onnx_view_of(m->constants, dinov_onnx_past(m, value, false));
    if (!v || v->rank < 2 || v->rank > 3 || v->dim[v->rank - 1] != m->dim || dinov_onnx_view_count(v) == 0) return false;
    *out = v->rank == 3 ? dinov_onnx_view_part(v, 0, 0, 1) : *v;
    return true;
}

/* All values that the attribute has are `wanted`. */
static bool all_are(const dinov_onnx_node *node, const char *name, int64_t wanted)
{
    int64_t items[4];
    int     count = dinov_onnx_ints(node, name, items, 4);
    for (int i = 0; i < count && i < 4; i++)
        if (items[i] != wanted) return false;
    return true;
}

/* A Conv whose windows lie side by side. */
static bool match_patches(dinov_onnx_match *m, int32_t value)
{
    dinov_onnx_tokens *t = &m->tokens;
    value                = dinov_onnx_past(m, value, true);
    if (!dinov_onnx_made_by(m, value, "Conv")) return dinov_onnx_miss(m, value, AT_PATCHES, "expected the patch embedding, a Conv");
    const dinov_onnx_node *node   = maker(m, value);
    const dinov_onnx_view *weight = dinov_onnx_view_of(m->constants, input(m, value, 1));
    const dinov_onnx_view *bias   = dinov_onnx_view_of(m->constants, input(m, value, 2));
    if (!weight || weight->rank != 4 || !bias)
        return dinov_onnx_miss(m, value, AT_PATCHES,
                               "expected a patch embedding with a stored weight of four sizes and a stored bias");
    int64_t strides[2];
    if (dinov_onnx_ints(node, "strides", strides, 2) != 2 || strides[0] != weight->dim[2] || strides[1] != weight->dim[3] ||
        !all_are(node, "pads", 0) || !all_are(node, "dilations", 1) || dinov_onnx_int(node, "group", 1) != 1)
        return dinov_onnx_miss(m, value, AT_PATCHES, "expected a patch embedding whose windows lie side by side, without padding");
    t->patch_weight = *weight;
    t->patch_bias   = *bias;
    int32_t from    = dinov_onnx_past(m, input(m, value, 0), false);
    t->input_nodes  = from != DINOV_ONNX_NONE && dinov_onnx_maker(m->model, from) != DINOV_ONNX_NONE;
    return true;
}

/* ---- Positions ---- */

static bool holds_table(const dinov_onnx_match *m, int32_t value)
{
    const dinov_onnx_view *v = dinov_onnx_view_of(m->constants, dinov_onnx_past(m, value, true));
    return v && dinov_onnx_view_count(v) % (uint64_t)m->dim == 0 && dinov_onnx_view_count(v) > (uint64_t)m->dim;
}

/* Of a product, the operand with the table, or the next product on the way to it. */
static int32_t table_side(const dinov_onnx_match *m, int32_t value)
{
    int32_t a = input(m, value, 0), b = input(m, value, 1);
    if (holds_table(m, b) || holds_table(m, a)) return holds_table(m, b) ? b : a;
    return b != DINOV_ONNX_NONE && dinov_onnx_made_by(m, dinov_onnx_past(m, b, true), "MatMul") ? b : a;
}

static bool see_resize(dinov_onnx_match *m, int32_t value)
{
    dinov_onnx_tokens     *t    = &m->tokens;
    const dinov_onnx_node *node = maker(m, value);
    if (!dinov_onnx_is(dinov_onnx_string(node, "mode"), "cubic"))
        return dinov_onnx_miss(m, value, AT_TOKENS, "expected positions to be resized bicubically");
    t->resized   = true;
    t->antialias = dinov_onnx_int(node, "antialias", 0) != 0;
    t->factor    = input(m, value, 3) == DINOV_ONNX_NONE;
    return true;
}

/* The table of patch positions behind what the graph does to give it another size. */
static bool find_grid(dinov_onnx_match *m, int32_t value)
{
    static const int channels_last[] = {0, 2, 3, 1};
    bool             turned          = false; /* a Transpose stands between the table and a Resize */
    for (int i = 0; i < LONGEST && value != DINOV_ONNX_NONE; i++) {
        const dinov_onnx_view *v = dinov_onnx_view_of(m->constants, value);
        if (v) {
            if (dinov_onnx_view_count(v) == 0 || dinov_onnx_view_count(v) % (uint64_t)m->dim) return false;
            bool first     = m->tokens.resized && !turned && v->rank == 4 && v->dim[1] == m->dim;
            m->tokens.grid = first ? dinov_onnx_view_permute(v, channels_last) : *v;
            return true;
        }
        if (dinov_onnx_maker(m->model, value) == DINOV_ONNX_NONE) return false;
        if (dinov_onnx_made_by(m, value, "Resize")) {
            if (!see_resize(m, value)) return false;
            turned = false;
            value  = input(m, value, 0);
        } else if (dinov_onnx_made_by(m, value, "MatMul")) {
            value = table_side(m, value);
        } else {
            static const char *const moves[] = {"Reshape",  "Transpose", "Squeeze",  "Unsqueeze",
                                                "Identity", "Cast",      "CastLike", "Expand"};
            size_t                   k       = 0;
            while (k < sizeof moves / sizeof moves[0] && !dinov_onnx_made_by(m, value, moves[k])) k++;
            if (k == sizeof moves / sizeof moves[0])
                return dinov_onnx_miss(m, value, AT_TOKENS, "expected the table of positions behind this");
            turned = turned || dinov_onnx_made_by(m, value, "Transpose");
            value  = input(m, value, 0);
        }
    }
    return false;
}

static bool match_positions(dinov_onnx_match *m, int32_t value)
{
    dinov_onnx_tokens *t     = &m->tokens;
    value                    = dinov_onnx_past(m, value, false);
    const dinov_onnx_view *v = dinov_onnx_view_of(m->constants, value);
    t->whole                 = v != NULL;
    if (v) {
        if (v->rank < 2 || v->rank > 3 || v->dim[v->rank - 1] != m->dim || v->dim[v->rank - 2] < 2) return false;
        t->grid = v->rank == 3 ? dinov_onnx_view_part(v, 0, 0, v->dim[0] ? 1 : 0) : *v;
        return dinov_onnx_view_count(v) > 0;
    }
    return joins(m, value, 2) && take_once(m, input(m, value, 0), &t->class_pos) && find_grid(m, input(m, value, 1));
}

/* ---- Tokens ---- */

/* [class, patches] + positions */
static bool match_sum(dinov_onnx_match *m, dinov_onnx_stream s)
{
    int32_t a, b, bias;
    if (!dinov_onnx_sum(m, s, &a, &b, &bias) || bias != DINOV_ONNX_NONE) return false;
    for (int swap = 0; swap < 2; swap++) {
        int32_t tokens = dinov_onnx_past(m, swap ? b : a, false);
        if (!joins(m, tokens, 2) || !dinov_onnx_made_by(m, dinov_onnx_past(m, input(m, tokens, 1), true), "Conv")) continue;
        if (!take_once(m, input(m, tokens, 0), &m->tokens.cls))
            return dinov_onnx_miss(m, tokens, AT_PATCHES, "expected a stored class token before the patches");
        if (!match_positions(m, swap ? a : b))
            return dinov_onnx_miss(m, swap ? a : b, AT_PATCHES, "expected the stored positions of all tokens");
        return match_patches(m, input(m, tokens, 1));
    }
    return false;
}

/* The first and the last input of the Concat are slices of one sum. */
static bool around_registers(dinov_onnx_match *m, int32_t value)
{
    int32_t first = dinov_onnx_past(m, input(m, value, 0), false), last = dinov_onnx_past(m, input(m, value, 2), false);
    if (!dinov_onnx_made_by(m, first, "Slice") && !dinov_onnx_made_by(m, first, "Split")) return false;
    if (!dinov_onnx_made_by(m, last, "Slice") && !dinov_onnx_made_by(m, last, "Split")) return false;
    dinov_onnx_stream s = dinov_onnx_stream_of(m, input(m, first, 0)), again = dinov_onnx_stream_of(m, input(m, last, 0));
    return s.value == again.value && s.node == again.node && take_once(m, input(m, value, 1), &m->tokens.registers) &&
           match_sum(m, s);
}

/* What the graph repeats for a batch of any size. */
static int32_t before_expand(const dinov_onnx_match *m, int32_t value)
{
    value = dinov_onnx_past(m, value, false);
    return dinov_onnx_made_by(m, value, "Expand") ? input(m, value, 0) : value;
}

/* The class token, perhaps with its position: a sum of two constants, the token first. */
static bool take_class(dinov_onnx_match *m, int32_t value)
{
    value = before_expand(m, value);
    if (take_once(m, value, &m->tokens.cls)) return true;
    return dinov_onnx_made_by(m, value, "Add") && take_once(m, input(m, value, 0), &m->tokens.cls) &&
           take_once(m, input(m, value, 1), &m->tokens.class_pos);
}

/* [class, registers, patches + positions]: the class token has its position already, or none. */
static bool match_patches_alone(dinov_onnx_match *m, int32_t value, uint32_t count)
{
    dinov_onnx_tokens *t = &m->tokens;
    int32_t            a, b, bias;
    if (!take_class(m, input(m, value, 0)) || (count == 3 && !take_once(m, before_expand(m, input(m, value, 1)), &t->registers)))
        return false;
    if (!dinov_onnx_sum(m, dinov_onnx_stream_of(m, input(m, value, count - 1)), &a, &b, &bias) || bias != DINOV_ONNX_NONE)
        return false;
    bool first = dinov_onnx_made_by(m, dinov_onnx_past(m, a, true), "Conv");
    t->whole   = false;
    return match_patches(m, first ? a : b) && find_grid(m, first ? b : a);
}

bool dinov_onnx_match_tokens(dinov_onnx_match *m, dinov_onnx_stream s)
{
    m->tokens = (dinov_onnx_tokens){0};
    if (match_sum(m, s)) return true;
    if (s.value != DINOV_ONNX_NONE && joins(m, s.value, 3) && around_registers(m, s.value)) return true;
    for (uint32_t count = 2; count <= 3 && s.value != DINOV_ONNX_NONE; count++) {
        m->tokens = (dinov_onnx_tokens){0};
        if (joins(m, s.value, count) && match_patches_alone(m, s.value, count)) return true;
    }
    if (s.value != DINOV_ONNX_NONE)
        dinov_onnx_miss(m, s.value, AT_TOKENS, "expected a residual sum of a block, or the class token, patches and positions");
    return false;
}
