/* SPDX-License-Identifier: Apache-2.0
 *
 * The pieces of a block: layer norms, linear layers, and the two kinds of branch that are made of them.
 */
#include "base/bytes.h"
#include "convert/onnx/match.h"

#include <math.h>

enum { LONGEST = 64, FACTORS = 4 };

/* How far a branch was matched, for what a refusal says: the deepest miss is the one that tells something. */
enum { AT_OUT = 2, AT_INSIDE = 3, AT_NORM = 4 };

static int32_t input(const dinov_onnx_match *m, int32_t value, uint32_t i)
{
    return dinov_onnx_in(m->model, dinov_onnx_maker(m->model, value), i);
}

static const dinov_onnx_node *maker(const dinov_onnx_match *m, int32_t value)
{
    return &m->model->nodes[dinov_onnx_maker(m->model, value)];
}

static bool near(double a, double b) { return fabs(a - b) <= 2e-3 * fabs(b); /* numbers of half-precision graphs */ }

/* ---- Layer norm ---- */

static bool same_size(const dinov_onnx_view *a, const dinov_onnx_view *b)
{
    return a && b && dinov_onnx_view_count(a) == dinov_onnx_view_count(b);
}

static bool fused_norm(const dinov_onnx_match *m, int32_t value, dinov_onnx_norm *out)
{
    bool skip  = dinov_onnx_made_by_ort(m, value, "SkipLayerNormalization"),
         plain = dinov_onnx_made_by(m, value, "LayerNormalization");
    if ((!skip && !plain) || m->model->values[value].output != 0) return false;
    const dinov_onnx_view *weight = dinov_onnx_view_of(m->constants, input(m, value, skip ? 2 : 1));
    const dinov_onnx_view *bias   = dinov_onnx_view_of(m->constants, input(m, value, skip ? 3 : 2));
    int64_t                axis   = dinov_onnx_int(maker(m, value), "axis", -1);
    if (!same_size(weight, bias) || (axis != -1 && axis != 2) || input(m, value, 0) == DINOV_ONNX_NONE) return false;
    int32_t node = dinov_onnx_maker(m->model, value);
    *out         = (dinov_onnx_norm){.weight = *weight,
                                     .bias   = *bias,
                                     .eps    = (double)dinov_onnx_float(maker(m, value), "epsilon", skip ? 1e-12f : 1e-5f),
                                     .node   = node,
                                     .x      = {DINOV_ONNX_NONE, node}};
    if (plain) out->x = dinov_onnx_stream_of(m, input(m, value, 0));
    return true;
}

/* x - mean(x): *x, or false. */
static bool centred(const dinov_onnx_match *m, int32_t value, int32_t *x)
{
    value = dinov_onnx_past(m, value, false);
    if (!dinov_onnx_made_by(m, value, "Sub")) return false;
    int32_t mean = dinov_onnx_past(m, input(m, value, 1), false);
    *x           = dinov_onnx_past(m, input(m, value, 0), false);
    return dinov_onnx_made_by(m, mean, "ReduceMean") && dinov_onnx_past(m, input(m, mean, 0), false) == *x;
}

/* mean((x - mean(x))^2) */
static bool variance(const dinov_onnx_match *m, int32_t value, int32_t x)
{
    int32_t again, twice;
    value = dinov_onnx_past(m, value, false);
    if (!dinov_onnx_made_by(m, value, "ReduceMean")) return false;
    int32_t square = dinov_onnx_past(m, input(m, value, 0), false);
    bool    power  = dinov_onnx_made_by(m, square, "Pow");
    if (!power && !dinov_onnx_made_by(m, square, "Mul")) return false;
    return centred(m, input(m, square, 0), &again) && again == x &&
           (power || (centred(m, input(m, square, 1), &twice) && twice == x));
}

/* sqrt(variance + eps) */
static bool deviation(const dinov_onnx_match *m, int32_t value, int32_t x, double *eps)
{
    int32_t sum, other;
    value = dinov_onnx_past(m, value, false);
    if (!dinov_onnx_made_by(m, value, "Sqrt")) return false;
    sum = dinov_onnx_past(m, input(m, value, 0), false);
    return dinov_onnx_made_by(m, sum, "Add") && dinov_onnx_with_number(m, dinov_onnx_maker(m->model, sum), eps, &other) &&
           variance(m, other, x);
}

/* Before opset 17: (x - mean) / sqrt(var + eps) * weight + bias, node by node. */
static bool spelled_norm(const dinov_onnx_match *m, int32_t value, dinov_onnx_norm *out)
{
    const dinov_onnx_view *weight, *bias;
    int32_t                scaled, ratio, x;
    if (!dinov_onnx_made_by(m, value, "Add") || !dinov_onnx_with_constant(m, dinov_onnx_maker(m->model, value), &bias, &scaled))
        return false;
    scaled = dinov_onnx_past(m, scaled, false);
    if (!dinov_onnx_made_by(m, scaled, "Mul") || !dinov_onnx_with_constant(m, dinov_onnx_maker(m->model, scaled), &weight, &ratio))
        return false;
    ratio = dinov_onnx_past(m, ratio, false);
    if (!dinov_onnx_made_by(m, ratio, "Div") || !same_size(weight, bias) || !centred(m, input(m, ratio, 0), &x)) return false;
    *out = (dinov_onnx_norm){.weight = *weight, .bias = *bias, .node = dinov_onnx_maker(m->model, value)};
    if (!deviation(m, input(m, ratio, 1), x, &out->eps)) return false;
    out->x = dinov_onnx_stream_of(m, x);
    return true;
}

bool dinov_onnx_match_norm(dinov_onnx_match *m, int32_t value, dinov_onnx_norm *out)
{
    if (dinov_onnx_maker(m->model, value) == DINOV_ONNX_NONE) return false;
    return fused_norm(m, value, out) || spelled_norm(m, value, out);
}

/* ---- Linear layers ---- */

static bool take_weight(dinov_onnx_linear *out, const dinov_onnx_view *stored, bool transposed)
{
    static const int swapped[] = {1, 0};
    if (!stored || stored->rank != 2) return false;
    out->weight = transposed ? *stored : dinov_onnx_view_permute(stored, swapped);
    return true;
}

static bool take_bias(dinov_onnx_linear *out, const dinov_onnx_view *bias)
{
    if (!bias || dinov_onnx_view_count(bias) != (uint64_t)out->weight.dim[0]) return false;
    out->bias = *bias;
    return true;
}

/* The product alone: MatMul, Gemm and onnxruntime's FusedMatMul. */
static bool product(const dinov_onnx_match *m, int32_t value, dinov_onnx_linear *out)
{
    bool plain = dinov_onnx_made_by(m, value, "MatMul"), gemm = dinov_onnx_made_by(m, value, "Gemm");
    if (!plain && !gemm && !dinov_onnx_made_by_ort(m, value, "FusedMatMul")) return false;
    const dinov_onnx_node *node = maker(m, value);
    *out                        = (dinov_onnx_linear){.input = input(m, value, 0)};
    if (out->input == DINOV_ONNX_NONE ||
        !take_weight(out, dinov_onnx_view_of(m->constants, input(m, value, 1)), !plain && dinov_onnx_int(node, "transB", 0)))
        return false;
    if (plain) return true;
    if (dinov_onnx_int(node, "transA", 0) || dinov_onnx_int(node, "transBatchA", 0) || dinov_onnx_int(node, "transBatchB", 0) ||
        dinov_onnx_float(node, "alpha", 1) != 1)
        return false;
    if (!gemm || input(m, value, 2) == DINOV_ONNX_NONE) return true;
    return dinov_onnx_float(node, "beta", 1) == 1 && take_bias(out, dinov_onnx_view_of(m->constants, input(m, value, 2)));
}

/* `value` itself is what the layer makes: nothing is stepped over before it. */
static bool linear_at(const dinov_onnx_match *m, int32_t value, dinov_onnx_linear *out)
{
    const dinov_onnx_view *bias;
    int32_t                other;
    if (product(m, value, out)) return true;
    if (!dinov_onnx_made_by(m, value, "Add") || !dinov_onnx_with_constant(m, dinov_onnx_maker(m->model, value), &bias, &other))
        return false;
    return product(m, dinov_onnx_past(m, other, true), out) && !out->bias.data && take_bias(out, bias);
}

bool dinov_onnx_match_linear(const dinov_onnx_match *m, int32_t value, dinov_onnx_linear *out)
{
    return linear_at(m, dinov_onnx_past(m, value, true), out);
}

/* ---- From an operand back to the layer it is a part of ---- */

enum selector { WHOLE, BY_SPLIT, BY_SLICE, BY_INDEX };

struct part {
    dinov_onnx_linear      linear;
    double                 scale;    /* product of the numbers on the way */
    bool                   computed; /* there were numbers that the graph works out itself */
    enum selector          selector;
    bool                   known; /* `at` is */
    int64_t                at;    /* which output, element or index */
    uint32_t               outputs;
    const dinov_onnx_list *reshape;  /* into heads: the nearest to the layer; NULL: none */
    bool                   reshaped; /* there was one between selection and layer */
    int32_t                layer;    /* what the layer makes */
};

/* A number that the graph works out from shapes, such as 1 / sqrt(head size). */
static bool computed_number(const dinov_onnx_match *m, int32_t value)
{
    value = dinov_onnx_past(m, value, true);
    return dinov_onnx_made_by(m, value, "Sqrt") || dinov_onnx_made_by(m, value, "Div") || dinov_onnx_made_by(m, value, "Pow") ||
           dinov_onnx_made_by(m, value, "Reciprocal");
}

/* One Mul or Div by a number: *value moves to the other operand. */
static bool step_scale(const dinov_onnx_match *m, int32_t *value, double *scale, bool *computed)
{
    bool    divides = dinov_onnx_made_by(m, *value, "Div");
    double  number;
    int32_t other;
    if (!divides && !dinov_onnx_made_by(m, *value, "Mul")) return false;
    int32_t a = input(m, *value, 0), b = input(m, *value, 1);
    if (dinov_onnx_with_number(m, dinov_onnx_maker(m->model, *value), &number, &other) && (!divides || other == a)) {
        *scale = divides ? *scale / number : *scale * number;
        *value = other;
        return true;
    }
    if (a == DINOV_ONNX_NONE || b == DINOV_ONNX_NONE) return false;
    if (computed_number(m, b))
        *value = a;
    else if (!divides && computed_number(m, a))
        *value = b;
    else
        return false;
    *computed = true;
    return true;
}

static bool select_slice(const dinov_onnx_match *m, int32_t value, struct part *p)
{
    const dinov_onnx_list *from = dinov_onnx_list_of(m->constants, input(m, value, 1));
    const dinov_onnx_list *axes = dinov_onnx_list_of(m->constants, input(m, value, 3));
    if (axes && axes->count != 1) return false;
    p->selector = BY_SLICE;
    p->known    = from && from->whole && from->count == 1 && from->item[0] != DINOV_ONNX_UNKNOWN;
    p->at       = p->known ? from->item[0] : 0;
    return true;
}

static bool select_index(const dinov_onnx_match *m, int32_t value, struct part *p)
{
    const dinov_onnx_list *index = dinov_onnx_list_of(m->constants, input(m, value, 1));
    p->selector                  = BY_INDEX;
    p->known                     = index && index->whole && index->count == 1 && index->item[0] != DINOV_ONNX_UNKNOWN;
    p->at                        = p->known ? index->item[0] : 0;
    return p->known;
}

static bool select_split(const dinov_onnx_match *m, int32_t value, struct part *p)
{
    const dinov_onnx_list *sizes = dinov_onnx_list_of(m->constants, input(m, value, 1));
    p->selector                  = BY_SPLIT;
    p->known                     = true;
    p->at                        = m->model->values[value].output;
    p->outputs                   = maker(m, value)->outs;
    for (int i = 1; sizes && i < sizes->count; i++)
        if (sizes->item[i] != sizes->item[0]) return false;
    return true;
}

static void see_reshape(const dinov_onnx_match *m, int32_t value, struct part *p)
{
    const dinov_onnx_list *shape = dinov_onnx_list_of(m->constants, input(m, value, 1));
    if (shape && shape->count >= 2 && (!shape->whole || shape->count >= 4)) p->reshape = shape, p->reshaped = true;
}

static bool find_part(const dinov_onnx_match *m, int32_t value, struct part *p)
{
    *p = (struct part){.scale = 1};
    for (int i = 0; i < LONGEST && value != DINOV_ONNX_NONE; i++) {
        int32_t moved = value;
        if (dinov_onnx_maker(m->model, value) == DINOV_ONNX_NONE) return false;
        p->layer = value;
        if (linear_at(m, value, &p->linear)) return true;
        bool slice = dinov_onnx_made_by(m, value, "Slice"), split = dinov_onnx_made_by(m, value, "Split");
        if (slice || split || dinov_onnx_made_by(m, value, "Gather")) {
            if (p->selector != WHOLE || !(slice   ? select_slice(m, value, p)
                                          : split ? select_split(m, value, p)
                                                  : select_index(m, value, p)))
                return false;
            p->reshaped = false;
            value       = input(m, value, 0);
        } else if (step_scale(m, &moved, &p->scale, &p->computed)) {
            value = moved;
        } else {
            if (dinov_onnx_made_by(m, value, "Reshape")) see_reshape(m, value, p);
            moved = dinov_onnx_past(m, value, false);
            if (moved == value) {
                static const char *const moves[] = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"};
                for (int k = 0; k < 5 && moved == value; k++)
                    if (dinov_onnx_made_by(m, value, moves[k])) moved = input(m, value, 0);
            }
            if (moved == value) return false;
            value = moved;
        }
    }
    return false;
}

/* Which of `parts` equal parts of the layer's rows it is; -1 when the graph works that out itself, -2 when it is none. */
static int part_number(const struct part *p, int64_t parts)
{
    if (p->selector == WHOLE) return -2;
    const dinov_onnx_list *r = p->reshape;
    /* Into [.., parts, heads, head size]: anything else would take rows of each head. */
    if (p->reshaped && (r->count < 3 || r->item[r->count - 3] != parts)) return -2;
    if (p->selector == BY_INDEX && !p->reshaped) return -2;
    if (p->selector == BY_SPLIT) return p->outputs == parts ? (int)p->at : -2;
    if (!p->known) return -1;
    int64_t rows = p->linear.weight.dim[0], unit = p->reshaped ? 1 : rows / parts;
    if (rows % parts || unit == 0 || p->at < 0 || p->at % unit || p->at / unit >= parts) return -2;
    return (int)(p->at / unit);
}

/* ---- Attention ---- */

static int64_t heads_of(const dinov_onnx_match *m, const dinov_onnx_list *shape)
{
    if (!shape) return 0;
    int64_t size = shape->item[shape->count - 1], heads = shape->item[shape->count - 2];
    if (size > 0 && size <= m->dim && m->dim % size == 0) return m->dim / size;
    return heads > 0 && heads <= m->dim && m->dim % heads == 0 ? heads : 0;
}

/* q, k, v as one layer or as three. */
static bool take_layers(dinov_onnx_match *m, int32_t value, const struct part parts[3], dinov_onnx_branch *out)
{
    bool one = parts[0].layer == parts[1].layer && parts[1].layer == parts[2].layer;
    for (int i = 0; i < 3; i++) {
        if (one ? part_number(&parts[i], 3) != i : parts[i].selector != WHOLE)
            return dinov_onnx_miss(m, value, AT_INSIDE, "expected q, k and v as three layers or as thirds of one, in this order");
        out->in[i] = parts[i].linear;
    }
    if (!one && (parts[0].layer == parts[1].layer || parts[0].layer == parts[2].layer || parts[1].layer == parts[2].layer))
        return dinov_onnx_miss(m, value, AT_INSIDE, "expected q, k and v as three layers or as thirds of one, in this order");
    out->ins   = one ? 1 : 3;
    out->heads = heads_of(m, parts[0].reshape);
    return true;
}

/* Scores are divided by sqrt(head size), wherever the graph does so; where it does not, the weights hold it already. */
static bool check_scale(dinov_onnx_match *m, int32_t value, double scale, bool computed, int64_t heads)
{
    /* Its halves on q and on k may both have been rounded to bf16. */
    double wanted = 1 / sqrt((double)m->dim / (double)(heads > 0 ? heads : 1));
    if (computed || heads <= 0 || fabs(scale - wanted) <= 8e-3 * wanted) return true;
    return dinov_onnx_miss(
        m, value, AT_INSIDE,
        "expected scores to be divided by the square root of the head size, found another factor (it may have been "
        "folded into the weights, and cannot be taken out again exactly)");
}

/* A constant of zeros, or one of truth values that are all true. */
static bool lets_pass(const dinov_onnx_match *m, int32_t value, bool truth)
{
    const dinov_onnx_view *v    = dinov_onnx_view_of(m->constants, value);
    bool                   real = v && (v->dtype == DINOV_F32 || v->dtype == DINOV_F16 || v->dtype == DINOV_BF16);
    if (!v || (truth ? v->dtype != DINOV_BOOL : !real) || !dinov_onnx_view_plain(v)) return false;
    uint64_t bytes = dinov_onnx_view_count(v) * dinov_dtype_size(v->dtype), i = 0;
    while (i < bytes && v->data[i] == truth) i++;
    return i == bytes;
}

/* A mask that lets everything pass: all zeros, all true, or zero where positions 0, 1, 2.. are not negative, as an exporter leaves
 * it. */
static bool empty_mask(const dinov_onnx_match *m, int32_t value)
{
    double number;
    value = dinov_onnx_past(m, value, true);
    if (lets_pass(m, value, false) || lets_pass(m, value, true)) return true;
    if (!dinov_onnx_made_by(m, value, "Where") || !lets_pass(m, input(m, value, 1), false)) return false;
    int32_t test = dinov_onnx_past(m, input(m, value, 0), true);
    if (lets_pass(m, test, true)) return true;
    if (dinov_onnx_made_by(m, test, "Expand")) test = dinov_onnx_past(m, input(m, test, 0), true);
    if (!dinov_onnx_made_by(m, test, "GreaterOrEqual") || !dinov_onnx_number(m->constants, input(m, test, 1), &number) ||
        number != 0)
        return false;
    int32_t positions = dinov_onnx_past(m, input(m, test, 0), true), other;
    if (dinov_onnx_made_by(m, positions, "Add") &&
        dinov_onnx_with_number(m, dinov_onnx_maker(m->model, positions), &number, &other) && number == 0)
        positions = other;
    return dinov_onnx_made_by(m, positions, "Range") && dinov_onnx_number(m->constants, input(m, positions, 0), &number) &&
           number == 0;
}

/* From the softmax back to the product of q and k. */
static bool find_scores(dinov_onnx_match *m, int32_t value, int32_t *scores, double *scale, bool *computed)
{
    for (int i = 0; i < LONGEST; i++) {
        value = dinov_onnx_past(m, value, true);
        if (value == DINOV_ONNX_NONE || dinov_onnx_maker(m->model, value) == DINOV_ONNX_NONE) return false;
        *scores = value;
        if (dinov_onnx_made_by(m, value, "MatMul")) return true;
        if (dinov_onnx_made_by_ort(m, value, "FusedMatMul")) {
            *scale *= (double)dinov_onnx_float(maker(m, value), "alpha", 1);
            return true;
        }
        if (dinov_onnx_made_by(m, value, "Add")) {
            int32_t a = input(m, value, 0), b = input(m, value, 1);
            if (a == DINOV_ONNX_NONE || b == DINOV_ONNX_NONE || (!empty_mask(m, a) && !empty_mask(m, b)))
                return dinov_onnx_miss(m, value, AT_INSIDE,
                                       "something is added to the scores: this model has no mask and no bias there");
            value = empty_mask(m, b) ? a : b;
        } else if (!step_scale(m, &value, scale, computed)) {
            return dinov_onnx_miss(m, value, AT_INSIDE, "this is not part of the attention of this model");
        }
    }
    return false;
}

/* Where(IsNaN(x), 0, x), which one exporter puts around a softmax: x. */
static int32_t past_guard(const dinov_onnx_match *m, int32_t value)
{
    if (!dinov_onnx_made_by(m, value, "Where")) return value;
    int32_t test = input(m, value, 0), inner = input(m, value, 2);
    return dinov_onnx_made_by(m, test, "IsNaN") && input(m, test, 0) == inner ? inner : value;
}

/* softmax(q k^T) v, node by node. */
static bool spelled_attention(dinov_onnx_match *m, int32_t value, dinov_onnx_branch *out)
{
    struct part parts[3];
    double      scale    = 1;
    bool        computed = false;
    int32_t     softmax  = past_guard(m, dinov_onnx_past(m, input(m, value, 0), true)), scores;
    if (!dinov_onnx_made_by(m, softmax, "Softmax"))
        return dinov_onnx_miss(m, value, AT_INSIDE, "expected the product of a softmax and v");
    if (!find_scores(m, input(m, softmax, 0), &scores, &scale, &computed)) return false;
    if (!find_part(m, input(m, scores, 0), &parts[0]) || !find_part(m, input(m, scores, 1), &parts[1]))
        return dinov_onnx_miss(m, scores, AT_INSIDE, "expected q and k^T as parts of linear layers");
    if (!find_part(m, input(m, value, 1), &parts[2]) || parts[2].scale != 1 || parts[2].computed)
        return dinov_onnx_miss(m, value, AT_INSIDE, "expected v as part of a linear layer");
    return take_layers(m, value, parts, out) && check_scale(m, scores, scale * parts[0].scale * parts[1].scale,
                                                            computed || parts[0].computed || parts[1].computed, out->heads);
}

/* Of the inputs of an attention node from `first` on there is at most the one that is added to scores, an empty mask. */
static bool nothing_more(dinov_onnx_match *m, int32_t value, uint32_t first, uint32_t mask)
{
    for (uint32_t i = first; i < maker(m, value)->ins; i++)
        if (input(m, value, i) != DINOV_ONNX_NONE && (i != mask || !empty_mask(m, input(m, value, i))))
            return dinov_onnx_miss(m, value, AT_INSIDE, "expected attention without mask and past");
    return true;
}

/* A node that has q, k and v as inputs: ONNX's Attention, onnxruntime's MultiHeadAttention. */
static bool fused_attention(dinov_onnx_match *m, int32_t value, bool ort, dinov_onnx_branch *out)
{
    struct part            parts[3];
    const dinov_onnx_node *node = maker(m, value);
    if (!nothing_more(m, value, ort ? 4 : 3, ort ? 5 : 3)) return false;
    if (dinov_onnx_int(node, ort ? "unidirectional" : "is_causal", 0) || dinov_onnx_float(node, "softcap", 0) != 0)
        return dinov_onnx_miss(m, value, AT_INSIDE, "expected attention from every token to every token");
    for (uint32_t i = 0; i < 3; i++)
        if (!find_part(m, input(m, value, i), &parts[i]) || parts[i].scale != 1 || parts[i].computed)
            return dinov_onnx_miss(m, value, AT_INSIDE, "expected q, k and v as parts of linear layers");
    if (!take_layers(m, value, parts, out)) return false;
    int64_t heads = dinov_onnx_int(node, ort ? "num_heads" : "q_num_heads", 0);
    if (heads > 0) out->heads = heads;
    const dinov_onnx_view *bias = ort ? dinov_onnx_view_of(m->constants, input(m, value, 3)) : NULL;
    if (bias) {
        bool fits = bias->rank == 1 && bias->dim[0] == 3 * m->dim;
        for (int i = 0; i < out->ins; i++) {
            if (!fits || out->in[i].bias.data || out->in[i].weight.dim[0] * out->ins != 3 * m->dim)
                return dinov_onnx_miss(m, value, AT_INSIDE, "expected one bias of 3 x width values for q, k and v");
            out->in[i].bias = dinov_onnx_view_part(bias, 0, i * m->dim, out->ins == 1 ? 3 * m->dim : m->dim);
        }
    }
    float scale = dinov_onnx_float(node, "scale", 0);
    return scale == 0 || check_scale(m, value, (double)scale, false, out->heads);
}

/* onnxruntime's Attention: the layer is inside. */
static bool packed_attention(dinov_onnx_match *m, int32_t value, dinov_onnx_branch *out)
{
    const dinov_onnx_node *node = maker(m, value);
    int64_t                sizes[3];
    int                    count = dinov_onnx_ints(node, "qkv_hidden_sizes", sizes, 3);
    dinov_onnx_linear     *l     = &out->in[0];
    *l                           = (dinov_onnx_linear){.input = input(m, value, 0)};
    if (!nothing_more(m, value, 3, 5)) return false;
    if (l->input == DINOV_ONNX_NONE || !take_weight(l, dinov_onnx_view_of(m->constants, input(m, value, 1)), false) ||
        !take_bias(l, dinov_onnx_view_of(m->constants, input(m, value, 2))) || dinov_onnx_int(node, "unidirectional", 0) ||
        (count >= 0 && (count != 3 || sizes[0] != m->dim || sizes[1] != m->dim || sizes[2] != m->dim)))
        return dinov_onnx_miss(m, value, AT_INSIDE, "expected q, k and v of the model's width, with a stored weight and bias");
    out->ins    = 1;
    out->heads  = dinov_onnx_int(node, "num_heads", 0);
    float scale = dinov_onnx_float(node, "scale", 0);
    return scale == 0 || check_scale(m, value, (double)scale, false, out->heads);
}

/* ---- Feed-forward ---- */

/* One factor of a product: what it is a function of. */
struct factor {
    enum { PLAIN, GELU, ERF, SIGMOID, SILU } kind;
    int32_t         of;
    dinov_onnx_view bias; /* BiasGelu's */
};

/* 1 + erf(x / sqrt 2) */
static bool erf_factor(const dinov_onnx_match *m, int32_t value, struct factor *f)
{
    double  one, root;
    int32_t erf, inner;
    if (!dinov_onnx_made_by(m, value, "Add") || !dinov_onnx_with_number(m, dinov_onnx_maker(m->model, value), &one, &erf) ||
        one != 1)
        return false;
    erf = dinov_onnx_past(m, erf, false);
    if (!dinov_onnx_made_by(m, erf, "Erf")) return false;
    inner        = dinov_onnx_past(m, input(m, erf, 0), false);
    bool divides = dinov_onnx_made_by(m, inner, "Div");
    if (!divides && !dinov_onnx_made_by(m, inner, "Mul")) return false;
    if (!dinov_onnx_with_number(m, dinov_onnx_maker(m->model, inner), &root, &f->of)) return false;
    f->kind = ERF;
    f->of   = dinov_onnx_past(m, f->of, false);
    return near(divides ? root : 1 / root, sqrt(2.0));
}

static bool read_factor(dinov_onnx_match *m, int32_t value, struct factor *f)
{
    *f = (struct factor){.kind = PLAIN, .of = value};
    if (dinov_onnx_maker(m->model, value) == DINOV_ONNX_NONE) return false;
    const dinov_onnx_node *node = maker(m, value);
    int32_t                in   = dinov_onnx_past(m, input(m, value, 0), false);
    bool                   tanh = dinov_onnx_is(dinov_onnx_string(node, "approximate"), "tanh");
    if (tanh || dinov_onnx_made_by_ort(m, value, "FastGelu"))
        return dinov_onnx_miss(m, value, AT_INSIDE,
                               "expected the exact GELU, found its approximation by tanh, which gives other features");
    if (dinov_onnx_made_by(m, value, "Gelu") || dinov_onnx_made_by_ort(m, value, "Gelu"))
        *f = (struct factor){.kind = GELU, .of = in};
    if (dinov_onnx_made_by_ort(m, value, "BiasGelu")) {
        const dinov_onnx_view *bias = dinov_onnx_view_of(m->constants, input(m, value, 1));
        if (!bias) return dinov_onnx_miss(m, value, AT_INSIDE, "expected a stored bias");
        *f = (struct factor){.kind = GELU, .of = in, .bias = *bias};
    }
    if (dinov_onnx_made_by(m, value, "Sigmoid")) *f = (struct factor){.kind = SIGMOID, .of = in};
    if (dinov_onnx_made_by(m, value, "Swish") || dinov_onnx_made_by_ort(m, value, "QuickGelu")) {
        if (!near((double)dinov_onnx_float(node, "alpha", dinov_onnx_made_by(m, value, "Swish") ? 1 : 1.702f), 1))
            return dinov_onnx_miss(m, value, AT_INSIDE, "expected GELU or SiLU, found another activation");
        *f = (struct factor){.kind = SILU, .of = in};
    }
    if (f->kind == PLAIN) erf_factor(m, value, f);
    return true;
}

/* A product of products, taken apart into what is multiplied. */
static int read_factors(dinov_onnx_match *m, int32_t value, struct factor factors[FACTORS], double *scale)
{
    int32_t open[FACTORS] = {value};
    int     count = 0, left = 1;
    *scale = 1;
    while (left) {
        double  number;
        int32_t other, at = dinov_onnx_past(m, open[--left], false);
        if (!dinov_onnx_made_by(m, at, "Mul")) {
            if (count == FACTORS || !read_factor(m, at, &factors[count++])) return 0;
        } else if (dinov_onnx_with_number(m, dinov_onnx_maker(m->model, at), &number, &other)) {
            *scale *= number;
            open[left++] = other;
        } else {
            int32_t a = input(m, at, 0), b = input(m, at, 1);
            if (left + 2 > FACTORS || a == DINOV_ONNX_NONE || b == DINOV_ONNX_NONE) return 0;
            open[left++] = b;
            open[left++] = a;
        }
    }
    return count;
}

static bool gelu_mlp(dinov_onnx_match *m, int32_t value, const struct factor *f, dinov_onnx_branch *out)
{
    if (!dinov_onnx_match_linear(m, f->of, &out->in[0]) ||
        (f->bias.data && (out->in[0].bias.data || !take_bias(&out->in[0], &f->bias))))
        return dinov_onnx_miss(m, value, AT_INSIDE, "expected GELU of a linear layer");
    out->kind = DINOV_ONNX_MLP;
    out->ins  = 1;
    return true;
}

/* silu(gate) * up */
static bool swiglu(dinov_onnx_match *m, int32_t value, int32_t gate, int32_t up, dinov_onnx_branch *out)
{
    struct part a, b;
    out->kind = DINOV_ONNX_SWIGLU;
    if (!find_part(m, gate, &a) || !find_part(m, up, &b) || a.scale != 1 || b.scale != 1 || a.computed || b.computed)
        return dinov_onnx_miss(m, value, AT_INSIDE, "expected SwiGLU of linear layers");
    out->in[0] = a.linear;
    out->in[1] = b.linear;
    out->ins   = 2;
    if (a.layer != b.layer && a.selector == WHOLE && b.selector == WHOLE) return true;
    out->ins = 1;
    int x = part_number(&a, 2), y = part_number(&b, 2);
    if (a.layer == b.layer && x == 0 && (y == 1 || y == -1)) return true;
    return dinov_onnx_miss(m, value, AT_INSIDE, "expected SwiGLU to gate with the first half of its layer");
}

static bool feed_forward(dinov_onnx_match *m, int32_t value, dinov_onnx_branch *out)
{
    struct factor f[FACTORS];
    double        scale;
    int           count = read_factors(m, value, f, &scale);
    if (count == 1 && f[0].kind == GELU && scale == 1) return gelu_mlp(m, value, &f[0], out);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < count; k++) {
            if (i == k) continue;
            bool same = f[i].kind == PLAIN && dinov_onnx_past(m, f[i].of, false) == f[k].of;
            if (count == 2 && same && f[k].kind == ERF && near(scale, 0.5)) return gelu_mlp(m, value, &f[k], out);
            if (count == 2 && f[i].kind == SILU && f[k].kind == PLAIN && scale == 1) return swiglu(m, value, f[i].of, f[k].of, out);
            if (count == 3 && same && f[k].kind == SIGMOID && f[3 - i - k].kind == PLAIN && scale == 1)
                return swiglu(m, value, f[i].of, f[3 - i - k].of, out);
        }
    return dinov_onnx_miss(m, value, AT_INSIDE, "expected GELU or SwiGLU before the second layer of the feed-forward part");
}

/* ---- The branch ---- */

static bool match_inside(dinov_onnx_match *m, int32_t value, dinov_onnx_branch *out)
{
    value = dinov_onnx_past(m, value, true);
    if (dinov_onnx_maker(m->model, value) == DINOV_ONNX_NONE) return false;
    bool multi = dinov_onnx_made_by_ort(m, value, "MultiHeadAttention");
    out->kind  = DINOV_ONNX_ATTENTION;
    if (multi || dinov_onnx_made_by(m, value, "Attention")) return fused_attention(m, value, multi, out);
    if (dinov_onnx_made_by_ort(m, value, "Attention")) return packed_attention(m, value, out);
    if (dinov_onnx_made_by(m, value, "MatMul") || dinov_onnx_made_by_ort(m, value, "FusedMatMul"))
        return spelled_attention(m, value, out);
    return feed_forward(m, value, out);
}

bool dinov_onnx_match_branch(dinov_onnx_match *m, int32_t value, int32_t bias, dinov_onnx_branch *out)
{
    const dinov_onnx_view *gamma;
    int32_t                other;
    *out  = (dinov_onnx_branch){0};
    value = dinov_onnx_past(m, value, true);
    if (dinov_onnx_made_by(m, value, "Mul") && dinov_onnx_with_constant(m, dinov_onnx_maker(m->model, value), &gamma, &other) &&
        dinov_onnx_view_count(gamma) == (uint64_t)m->dim && bias == DINOV_ONNX_NONE) {
        out->gamma = *gamma;
        value      = other;
    }
    if (!dinov_onnx_match_linear(m, value, &out->out)) return dinov_onnx_miss(m, value, 1, "expected a linear layer");
    if (bias != DINOV_ONNX_NONE && (out->out.bias.data || !take_bias(&out->out, dinov_onnx_view_of(m->constants, bias))))
        return dinov_onnx_miss(m, value, AT_OUT, "expected a stored bias");
    if (!match_inside(m, out->out.input, out)) return false;
    for (int i = 0; i < out->ins; i++) {
        dinov_onnx_norm norm;
        int32_t         from = dinov_onnx_past(m, out->in[i].input, true);
        if (!dinov_onnx_match_norm(m, from, &norm))
            return dinov_onnx_miss(m, from, AT_NORM, "expected a layer norm before the layers of a block");
        if (i && norm.node != out->norm.node)
            return dinov_onnx_miss(m, from, AT_NORM, "expected the layers to share their layer norm");
        out->norm = norm;
    }
    return true;
}
