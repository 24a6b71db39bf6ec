/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/constants.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"

enum {
    TILE       = 64,      /* of a transposed copy: rows and columns that stay in the first cache */
    COPY_MORE  = 8 << 20, /* bytes of copies beyond the files' size */
    MOST_PARTS = 8,       /* of a Split that is followed */
};

/* ---- Views ---- */

static dinov_onnx_view view_of_tensor(const dinov_onnx_tensor *t, const uint8_t *data)
{
    dinov_onnx_view v    = {.data = data, .dtype = t->dtype, .rank = t->rank};
    int64_t         step = 1;
    for (int i = t->rank; i-- > 0;) {
        v.dim[i]  = t->dim[i];
        v.step[i] = step;
        step *= t->dim[i] ? t->dim[i] : 1;
    }
    return v;
}

uint64_t dinov_onnx_view_count(const dinov_onnx_view *view)
{
    uint64_t count = 1;
    for (int i = 0; i < view->rank; i++) count *= (uint64_t)view->dim[i];
    return count;
}

bool dinov_onnx_view_plain(const dinov_onnx_view *v)
{
    int64_t step = 1;
    for (int i = v->rank; i-- > 0;) {
        if (v->dim[i] != 1 && v->step[i] != step) return false; /* one element steps nowhere */
        step *= v->dim[i];
    }
    return true;
}

dinov_onnx_view dinov_onnx_view_part(const dinov_onnx_view *view, int axis, int64_t from, int64_t count)
{
    dinov_onnx_view v = *view;
    DINOV_ASSERT(axis < v.rank && from >= 0 && count >= 0 && from <= v.dim[axis] && count <= v.dim[axis] - from);
    if (count) v.data += from * v.step[axis] * (int64_t)dinov_dtype_size(v.dtype);
    v.dim[axis] = count;
    return v;
}

dinov_onnx_view dinov_onnx_view_permute(const dinov_onnx_view *view, const int *perm)
{
    dinov_onnx_view v = *view;
    for (int i = 0; i < v.rank; i++) {
        v.dim[i]  = view->dim[perm[i]];
        v.step[i] = view->step[perm[i]];
    }
    return v;
}

static bool permute(const dinov_onnx_view *view, const int64_t *perm, int count, dinov_onnx_view *out)
{
    int  order[DINOV_MAX_RANK];
    bool seen[DINOV_MAX_RANK] = {false};
    if (count >= 0 && count != view->rank) return false;
    for (int i = 0; i < view->rank; i++) {
        int64_t p = count < 0 ? view->rank - 1 - i : perm[i];
        if (p < 0 || p >= view->rank || seen[p]) return false;
        seen[p]  = true;
        order[i] = (int)p;
    }
    *out = dinov_onnx_view_permute(view, order);
    return true;
}

static bool insert_axis(dinov_onnx_view *v, int64_t axis)
{
    if (axis < 0) axis += v->rank + 1;
    if (axis < 0 || axis > v->rank || v->rank == DINOV_MAX_RANK) return false;
    for (int i = v->rank++; i > axis; i--) v->dim[i] = v->dim[i - 1], v->step[i] = v->step[i - 1];
    v->dim[axis] = v->step[axis] = 1;
    return true;
}

static bool drop_axis(dinov_onnx_view *v, int64_t axis)
{
    if (axis < 0) axis += v->rank;
    if (axis < 0 || axis >= v->rank || v->dim[axis] != 1) return false;
    for (int i = (int)axis; i + 1 < v->rank; i++) v->dim[i] = v->dim[i + 1], v->step[i] = v->step[i + 1];
    v->rank--;
    return true;
}

/* To the sizes of a Reshape: 0 keeps one, -1 is what is left. */
static bool reshape(const dinov_onnx_view *v, const dinov_onnx_list *shape, dinov_onnx_view *out)
{
    dinov_onnx_tensor t    = {.dtype = v->dtype, .rank = shape->count};
    uint64_t          have = dinov_onnx_view_count(v), product = 1;
    int               rest = -1;
    if (!shape->whole || !dinov_onnx_view_plain(v) || have == 0) return false;
    for (int i = 0; i < shape->count; i++) {
        int64_t dim = shape->item[i];
        if (dim == 0) dim = i < v->rank ? v->dim[i] : 0;
        if (dim == -1 && rest < 0) {
            rest = i;
            continue;
        }
        if (dim <= 0 || !dinov_ck_mul(product, (uint64_t)dim, &product)) return false;
        t.dim[i] = dim;
    }
    if (have % product || (rest < 0 && have != product)) return false;
    if (rest >= 0) t.dim[rest] = (int64_t)(have / product);
    *out = view_of_tensor(&t, v->data);
    return true;
}

/* ---- Copies ---- */

dinov_status dinov_onnx_room(dinov_onnx_constants *k, void **out, uint64_t bytes, dinov_error *err)
{
    if (bytes > k->left)
        return dinov_fail(
            err, DINOV_ERR_LIMIT, "ONNX-COPY",
            "%s: this ONNX graph uses the same stored values so often that its weights would take more memory than the "
            "file; no model of this family does",
            k->model->where);
    k->left -= bytes;
    return dinov_tensors_room(k->out, out, bytes, k->model->where, err);
}

static void copy_tile(uint8_t *out, int64_t out_step, const uint8_t *in, int64_t in_step, int64_t rows, int64_t cols, size_t size)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            memcpy(out + (r * out_step + c) * (int64_t)size, in + (c * in_step + r) * (int64_t)size, size);
}

/* rows x cols out of a matrix that lies column by column, `step` elements apart: tile by tile, so that neither side is
 * read or written one element a cache line. */
static void copy_transposed(uint8_t *out, const uint8_t *in, int64_t step, int64_t rows, int64_t cols, size_t size)
{
    for (int64_t r = 0; r < rows; r += TILE)
        for (int64_t c = 0; c < cols; c += TILE) {
            int64_t        height = rows - r < TILE ? rows - r : TILE, width = cols - c < TILE ? cols - c : TILE;
            uint8_t       *to   = out + (r * cols + c) * (int64_t)size;
            const uint8_t *from = in + (c * step + r) * (int64_t)size;
            if (size == 4)
                copy_tile(to, cols, from, step, height, width, 4); /* a constant size becomes one load and one store */
            else if (size == 2)
                copy_tile(to, cols, from, step, height, width, 2);
            else
                copy_tile(to, cols, from, step, height, width, size);
        }
}

void dinov_onnx_copy(void *out, const dinov_onnx_view *view)
{
    size_t   size  = dinov_dtype_size(view->dtype);
    uint64_t count = dinov_onnx_view_count(view);
    if (count == 0) return;
    if (dinov_onnx_view_plain(view)) {
        memcpy(out, view->data, count * size);
        return;
    }
    int            outer = view->rank > 2 ? view->rank - 2 : 0; /* the last two axes are a matrix */
    int64_t        cols = view->dim[view->rank - 1], rows = view->rank > 1 ? view->dim[view->rank - 2] : 1;
    int64_t        across = view->step[view->rank - 1], down = view->rank > 1 ? view->step[view->rank - 2] : 0;
    int64_t        index[DINOV_MAX_RANK] = {0};
    uint8_t       *to                    = out;
    const uint8_t *from                  = view->data;
    for (uint64_t done = 0; done < count; done += (uint64_t)(rows * cols)) {
        if (down == 1 && across != 1) {
            copy_transposed(to, from, across, rows, cols, size);
        } else {
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < cols; c++)
                    memcpy(to + (r * cols + c) * (int64_t)size, from + (r * down + c * across) * (int64_t)size, size);
        }
        to += rows * cols * (int64_t)size;
        for (int i = outer; i-- > 0;) {
            from += view->step[i] * (int64_t)size;
            if (++index[i] < view->dim[i]) break;
            from -= view->step[i] * view->dim[i] * (int64_t)size;
            index[i] = 0;
        }
    }
}

dinov_status dinov_onnx_view_tensor(dinov_onnx_constants *k, dinov_tensor *out, const dinov_onnx_view *view, dinov_error *err)
{
    size_t size = dinov_dtype_size(view->dtype);
    *out        = (dinov_tensor){.data = view->data, .dtype = view->dtype, .rank = view->rank};
    memcpy(out->dim, view->dim, sizeof out->dim);
    if (dinov_onnx_view_plain(view) && (uintptr_t)view->data % size == 0) return DINOV_OK;
    void *copy;
    DINOV_TRY(dinov_onnx_room(k, &copy, dinov_onnx_view_count(view) * size, err));
    dinov_onnx_copy(copy, view);
    out->data = copy;
    return DINOV_OK;
}

/* ---- What is constant ---- */

const dinov_onnx_view *dinov_onnx_view_of(const dinov_onnx_constants *k, int32_t value)
{
    return value == DINOV_ONNX_NONE || k->view_of[value] == DINOV_ONNX_NONE ? NULL : &k->views[k->view_of[value]];
}

const dinov_onnx_list *dinov_onnx_list_of(const dinov_onnx_constants *k, int32_t value)
{
    return value == DINOV_ONNX_NONE || k->list_of[value] == DINOV_ONNX_NONE ? NULL : &k->lists[k->list_of[value]];
}

bool dinov_onnx_number(const dinov_onnx_constants *k, int32_t value, double *out)
{
    const dinov_onnx_view *v    = dinov_onnx_view_of(k, value);
    const dinov_onnx_list *list = dinov_onnx_list_of(k, value);
    if (list && list->whole && list->count == 1 && list->item[0] != DINOV_ONNX_UNKNOWN) {
        *out = (double)list->item[0];
        return true;
    }
    if (!v || dinov_onnx_view_count(v) != 1) return false;
    switch (v->dtype) {
    case DINOV_F32:
        *out = (double)dinov_le_f32(v->data);
        return true;
    case DINOV_F16:
        *out = (double)dinov_le_f16(v->data);
        return true;
    case DINOV_BF16:
        *out = (double)dinov_le_bf16(v->data);
        return true;
    case DINOV_F64:
        memcpy(out, v->data, sizeof *out);
        return true;
    default:
        return false;
    }
}

static bool grow(void **items, size_t *room, size_t count, size_t size)
{
    if (count < *room) return true;
    size_t wanted = *room ? *room + *room / 2 : 256;
    void  *more   = dinov_realloc(*items, wanted, size);
    if (!more) return false;
    *items = more;
    *room  = wanted;
    return true;
}

static dinov_status put_view(dinov_onnx_constants *k, int32_t value, dinov_onnx_view view, dinov_error *err)
{
    void *items = k->views;
    if (value == DINOV_ONNX_NONE) return DINOV_OK;
    if (!grow(&items, &k->view_room, k->view_count, sizeof view)) return dinov_fail_nomem(err, k->model->where, "the constants");
    k->views                = items;
    k->views[k->view_count] = view;
    k->view_of[value]       = (int32_t)k->view_count++;
    return DINOV_OK;
}

static dinov_status put_list(dinov_onnx_constants *k, int32_t value, dinov_onnx_list list, dinov_error *err)
{
    void *items = k->lists;
    if (value == DINOV_ONNX_NONE) return DINOV_OK;
    if (!grow(&items, &k->list_room, k->list_count, sizeof list)) return dinov_fail_nomem(err, k->model->where, "the constants");
    k->lists                = items;
    k->lists[k->list_count] = list;
    k->list_of[value]       = (int32_t)k->list_count++;
    return DINOV_OK;
}

static bool is_float(dinov_dtype dtype)
{
    return dtype == DINOV_F32 || dtype == DINOV_F16 || dtype == DINOV_BF16 || dtype == DINOV_F64;
}

static dinov_status put_tensor(dinov_onnx_constants *k, int32_t value, const dinov_onnx_tensor *t, dinov_error *err)
{
    dinov_onnx_list list = {0};
    if (!t->dtype) return DINOV_OK;
    if (!is_float(t->dtype)) {
        list.whole = dinov_onnx_tail(t, list.item, DINOV_MAX_RANK, &list.count);
        if (list.count) DINOV_TRY(put_list(k, value, list, err));
    }
    if (!is_float(t->dtype) && (t->spelled || (t->dtype != DINOV_I64 && t->dtype != DINOV_BOOL))) return DINOV_OK;
    const uint8_t *data = t->data;
    if (t->spelled) {
        void *copy;
        DINOV_TRY(dinov_onnx_room(k, &copy, t->count * dinov_dtype_size(t->dtype), err));
        dinov_onnx_unspell(t, copy);
        data = copy;
    }
    return put_view(k, value, view_of_tensor(t, data), err);
}

/* ---- Nodes ---- */

struct folding {
    dinov_onnx_constants  *k;
    const dinov_onnx_node *node;
    int32_t                index, in, out; /* the node's number, its first input and output */
    const dinov_onnx_view *view;           /* of the first input */
    const dinov_onnx_list *list;
};

/* An argument that was an attribute once and is an input now: all of it, or false. */
static bool argument(const struct folding *f, const char *name, uint32_t input, dinov_onnx_list *out)
{
    const dinov_onnx_list *list = dinov_onnx_list_of(f->k, dinov_onnx_in(f->k->model, f->index, input));
    if (list) {
        *out = *list;
        for (int i = 0; i < out->count; i++)
            if (out->item[i] == DINOV_ONNX_UNKNOWN) return false;
        return out->whole;
    }
    out->count = dinov_onnx_ints(f->node, name, out->item, DINOV_MAX_RANK);
    out->whole = true;
    return out->count >= 0 && out->count <= DINOV_MAX_RANK;
}

static dinov_status fold_constant(struct folding *f, dinov_error *err)
{
    dinov_onnx_tensor t;
    dinov_onnx_list   list = {.whole = true};
    if (dinov_onnx_attribute_tensor(f->node, "value", &t) || dinov_onnx_attribute_tensor(f->node, "value_float", &t))
        return put_tensor(f->k, f->out, &t, err);
    list.count = dinov_onnx_ints(f->node, "value_ints", list.item, DINOV_MAX_RANK);
    if (list.count < 0) {
        list.count   = 1;
        list.item[0] = dinov_onnx_int(f->node, "value_int", DINOV_ONNX_UNKNOWN);
    }
    if (list.count > DINOV_MAX_RANK || list.item[0] == DINOV_ONNX_UNKNOWN) return DINOV_OK;
    return put_list(f->k, f->out, list, err);
}

static dinov_status fold_reshape(struct folding *f, dinov_error *err)
{
    const dinov_onnx_list *shape = dinov_onnx_list_of(f->k, dinov_onnx_in(f->k->model, f->index, 1));
    dinov_onnx_view        v;
    if (f->list) DINOV_TRY(put_list(f->k, f->out, *f->list, err)); /* lists stay flat */
    return f->view && shape && reshape(f->view, shape, &v) ? put_view(f->k, f->out, v, err) : DINOV_OK;
}

static dinov_status fold_axes(struct folding *f, bool insert, dinov_error *err)
{
    dinov_onnx_list axes;
    bool            ok = argument(f, "axes", 1, &axes);
    if (f->list) return put_list(f->k, f->out, *f->list, err);
    if (!f->view) {
        /* A number that depends on the input, made a list of one. */
        dinov_onnx_list one = {.whole = true, .count = 1, .item = {DINOV_ONNX_UNKNOWN}};
        return insert && ok && axes.count == 1 && axes.item[0] == 0 ? put_list(f->k, f->out, one, err) : DINOV_OK;
    }
    dinov_onnx_view v = *f->view;
    for (int i = 0; ok && i < axes.count; i++) {
        /* Axes are numbers of the result when inserted, and of the input when dropped, here from the last on. */
        int64_t axis = axes.item[insert ? i : axes.count - 1 - i];
        ok           = insert ? insert_axis(&v, axis) : drop_axis(&v, axis < 0 ? axis + f->view->rank : axis);
    }
    return ok ? put_view(f->k, f->out, v, err) : DINOV_OK;
}

static dinov_status fold_transpose(struct folding *f, dinov_error *err)
{
    int64_t         perm[DINOV_MAX_RANK];
    dinov_onnx_view v;
    int             count = dinov_onnx_ints(f->node, "perm", perm, DINOV_MAX_RANK);
    return f->view && count <= DINOV_MAX_RANK && permute(f->view, perm, count, &v) ? put_view(f->k, f->out, v, err) : DINOV_OK;
}

static int64_t clamp(int64_t x, int64_t size)
{
    if (x < 0) x = x < -size ? 0 : x + size;
    return x > size ? size : x;
}

static dinov_status fold_slice(struct folding *f, dinov_error *err)
{
    dinov_onnx_list from, to, axes, steps;
    if (!f->view || !argument(f, "starts", 1, &from) || !argument(f, "ends", 2, &to) || from.count != to.count) return DINOV_OK;
    bool            given = argument(f, "axes", 3, &axes), stepped = argument(f, "steps", 4, &steps);
    dinov_onnx_view v = *f->view;
    for (int i = 0; i < from.count; i++) {
        int64_t axis = !given ? i : i < axes.count ? axes.item[i] : -1;
        if (given && axis < 0) axis += v.rank;
        if (axis < 0 || axis >= v.rank || (stepped && (i >= steps.count || steps.item[i] != 1))) return DINOV_OK;
        int64_t begin = clamp(from.item[i], v.dim[axis]), end = clamp(to.item[i], v.dim[axis]);
        v = dinov_onnx_view_part(&v, (int)axis, begin, end > begin ? end - begin : 0);
    }
    return put_view(f->k, f->out, v, err);
}

static dinov_status fold_split(struct folding *f, dinov_error *err)
{
    dinov_onnx_list sizes;
    bool            given = argument(f, "split", 1, &sizes);
    int64_t         axis = dinov_onnx_int(f->node, "axis", 0), at = 0;
    if (!f->view || f->node->outs > MOST_PARTS) return DINOV_OK;
    if (axis < 0) axis += f->view->rank;
    if (axis < 0 || axis >= f->view->rank) return DINOV_OK;
    int64_t size = f->view->dim[axis];
    for (uint32_t i = 0; i < f->node->outs; i++) {
        int64_t part = !given ? size / f->node->outs : (int)i < sizes.count ? sizes.item[i] : -1;
        if (part < 0 || part > size - at) return DINOV_OK;
        DINOV_TRY(
            put_view(f->k, dinov_onnx_out(f->k->model, f->index, i), dinov_onnx_view_part(f->view, (int)axis, at, part), err));
        at += part;
    }
    return DINOV_OK;
}

static dinov_status fold_gather(struct folding *f, dinov_error *err)
{
    const dinov_onnx      *m     = f->k->model;
    int32_t                which = dinov_onnx_in(m, f->index, 1);
    const dinov_onnx_list *index = dinov_onnx_list_of(f->k, which);
    const dinov_onnx_view *shape = dinov_onnx_view_of(f->k, which);
    int64_t                axis  = dinov_onnx_int(f->node, "axis", 0);
    if (!f->view || !index || !index->whole || index->count != 1 || !shape || index->item[0] == DINOV_ONNX_UNKNOWN) return DINOV_OK;
    if (axis < 0) axis += f->view->rank;
    if (axis < 0 || axis >= f->view->rank) return DINOV_OK;
    int64_t at = index->item[0] < 0 ? index->item[0] + f->view->dim[axis] : index->item[0];
    if (at < 0 || at >= f->view->dim[axis] || shape->rank > 1) return DINOV_OK;
    dinov_onnx_view v = dinov_onnx_view_part(f->view, (int)axis, at, 1);
    if (shape->rank == 0) drop_axis(&v, axis);
    return put_view(f->k, f->out, v, err);
}

/* Lists only: their last items, as far back as every part is known. */
static dinov_status fold_concat(struct folding *f, dinov_error *err)
{
    dinov_onnx_list out = {.whole = true};
    int64_t         reversed[DINOV_MAX_RANK];
    for (uint32_t i = f->node->ins; i-- > 0 && out.whole;) {
        const dinov_onnx_list *part = dinov_onnx_list_of(f->k, dinov_onnx_in(f->k->model, f->index, i));
        out.whole                   = part && part->whole;
        for (int j = part ? part->count : 0; j-- > 0;) {
            if (out.count == DINOV_MAX_RANK) {
                out.whole = false;
                break;
            }
            reversed[out.count++] = part->item[j];
        }
    }
    for (int i = 0; i < out.count; i++) out.item[i] = reversed[out.count - 1 - i];
    return out.count ? put_list(f->k, f->out, out, err) : DINOV_OK;
}

static dinov_status fold_same(struct folding *f, dinov_error *err)
{
    if (f->list) DINOV_TRY(put_list(f->k, f->out, *f->list, err));
    return f->view ? put_view(f->k, f->out, *f->view, err) : DINOV_OK;
}

static dinov_status fold(dinov_onnx_constants *k, int32_t index, dinov_error *err)
{
    const dinov_onnx_node *node = &k->model->nodes[index];
    if (node->domain.size || node->outs == 0) return DINOV_OK;
    int32_t        in = dinov_onnx_in(k->model, index, 0);
    struct folding f  = {k, node, index, in, dinov_onnx_out(k->model, index, 0), NULL, NULL};
    /* Copies: the pools move when they grow. */
    dinov_onnx_view view;
    dinov_onnx_list list;
    if (dinov_onnx_view_of(k, in)) view = *dinov_onnx_view_of(k, in), f.view = &view;
    if (dinov_onnx_list_of(k, in)) list = *dinov_onnx_list_of(k, in), f.list = &list;
    dinov_onnx_text op = node->op;
    if (dinov_onnx_is(op, "Constant")) return fold_constant(&f, err);
    if (dinov_onnx_is(op, "Unsqueeze")) return fold_axes(&f, true, err);
    if (dinov_onnx_is(op, "Concat")) return fold_concat(&f, err);
    if (!f.view && !f.list) return DINOV_OK;
    if (dinov_onnx_is(op, "Identity") || dinov_onnx_is(op, "Cast") || dinov_onnx_is(op, "CastLike") || dinov_onnx_is(op, "Dropout"))
        return fold_same(&f, err);
    if (dinov_onnx_is(op, "Expand")) return fold_same(&f, err); /* repeats are the same weights again */
    if (dinov_onnx_is(op, "Reshape")) return fold_reshape(&f, err);
    if (dinov_onnx_is(op, "Squeeze")) return fold_axes(&f, false, err);
    if (dinov_onnx_is(op, "Transpose")) return fold_transpose(&f, err);
    if (dinov_onnx_is(op, "Slice")) return fold_slice(&f, err);
    if (dinov_onnx_is(op, "Split")) return fold_split(&f, err);
    if (dinov_onnx_is(op, "Gather")) return fold_gather(&f, err);
    return DINOV_OK;
}

dinov_status dinov_onnx_constants_open(dinov_onnx_constants *k, const dinov_onnx *model, dinov_tensors *out, dinov_error *err)
{
    size_t count = model->value_count;
    *k           = (dinov_onnx_constants){.model = model, .out = out, .left = model->bytes + COPY_MORE};
    k->view_of   = dinov_alloc(count, sizeof *k->view_of);
    k->list_of   = dinov_alloc(count, sizeof *k->list_of);
    if (!k->view_of || !k->list_of) return dinov_fail_nomem(err, model->where, "the constants");
    for (size_t i = 0; i < count; i++) k->view_of[i] = k->list_of[i] = DINOV_ONNX_NONE;
    for (size_t i = 0; i < count; i++)
        if (model->values[i].tensor != DINOV_ONNX_NONE)
            DINOV_TRY(put_tensor(k, (int32_t)i, &model->tensors[model->values[i].tensor], err));
    for (size_t i = 0; i < model->node_count; i++) DINOV_TRY(fold(k, (int32_t)i, err));
    return DINOV_OK;
}

void dinov_onnx_constants_close(dinov_onnx_constants *k)
{
    dinov_free(k->view_of);
    dinov_free(k->list_of);
    dinov_free(k->views);
    dinov_free(k->lists);
    *k = (dinov_onnx_constants){0};
}
