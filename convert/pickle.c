/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/pickle.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    /* Bounds memory at some 40 bytes each, and is 25 times what the largest hub model needs. */
    MAX_OPCODES = 1 << 19,
    MAX_MEMO    = MAX_OPCODES,
    MAX_MARKS   = 1000,
    MAX_LINE    = 256, /* of a global's two lines */
};

/* ---- Globals: exact names, and what each stands for ---- */

enum global {
    ORDERED_DICT,
    COUNTER,
    REBUILD_TENSOR,
    REBUILD_TENSOR_V2,
    REBUILD_PARAMETER,
    REBUILD_PARAMETER_WITH_STATE,
    REBUILD_FROM_TYPE,
    TENSOR,
    SIZE,
    DEVICE,
    STORAGE,
};

static const struct global_name {
    const char *module, *name;
    enum global what;
    dinov_dtype dtype;
} globals[] = {
    {"collections", "OrderedDict", ORDERED_DICT, 0},
    {"collections", "Counter", COUNTER, 0},
    {"torch._utils", "_rebuild_tensor", REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR_V2, 0},
    {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", REBUILD_PARAMETER_WITH_STATE, 0},
    {"torch._tensor", "_rebuild_from_type_v2", REBUILD_FROM_TYPE, 0},
    {"torch", "Tensor", TENSOR, 0},
    {"torch", "Size", SIZE, 0},
    {"torch", "device", DEVICE, 0},
    {"torch", "FloatStorage", STORAGE, DINOV_F32},
    {"torch", "HalfStorage", STORAGE, DINOV_F16},
    {"torch", "BFloat16Storage", STORAGE, DINOV_BF16},
    {"torch", "DoubleStorage", STORAGE, DINOV_F64},
    {"torch", "LongStorage", STORAGE, DINOV_I64},
    {"torch", "IntStorage", STORAGE, DINOV_I32},
    {"torch", "ShortStorage", STORAGE, DINOV_I16},
    {"torch", "CharStorage", STORAGE, DINOV_I8},
    {"torch", "ByteStorage", STORAGE, DINOV_U8},
    {"torch", "BoolStorage", STORAGE, DINOV_BOOL},
};
enum { GLOBALS = sizeof globals / sizeof globals[0] };

/* dtypes appear by themselves, as settings beside the weights. */
static const char *const inert_dtypes[] = {"float32", "float16", "bfloat16", "float64", "int64",
                                           "int32",   "int16",   "int8",     "uint8",   "bool"};

/* ---- The machine ---- */

struct machine {
    dinov_pickle     *out;
    const char       *where;
    dinov_error      *err;
    dinov_cursor      c;
    dinov_pickle_form form;
    bool              cut; /* the cursor ends before the file does */
    uint32_t         *stack, stack_count, stack_room;
    uint32_t         *memo, memo_count, memo_room;
    uint32_t          marks[MAX_MARKS], mark_count;
};

static dinov_status refuse(struct machine *m, const char *code, const char *what)
{
    return dinov_fail(m->err, DINOV_ERR_FORMAT, code, "%s: pickle, byte %llu: %s", m->where, (unsigned long long)m->c.pos, what);
}

static dinov_status no_memory(struct machine *m) { return dinov_fail_nomem(m->err, m->where, "the pickle's objects"); }

/* Room for one more element of the array whose pointer lies at `array`; it doubles. */
static bool grow(void *array, uint32_t count, uint32_t *room, size_t size)
{
    void *p;
    if (count < *room) return true;
    uint32_t more = *room ? 2 * *room : 4;
    memcpy(&p, array, sizeof p);
    p = dinov_realloc(p, more, size);
    if (!p) return false;
    memcpy(array, &p, sizeof p);
    *room = more;
    return true;
}

static dinov_status push(struct machine *m, uint32_t node)
{
    if (!grow(&m->stack, m->stack_count, &m->stack_room, sizeof *m->stack)) return no_memory(m);
    m->stack[m->stack_count++] = node;
    return DINOV_OK;
}

static dinov_status push_new(struct machine *m, dinov_node node)
{
    dinov_pickle *p = m->out;
    if (!grow(&p->nodes, p->node_count, &p->node_room, sizeof *p->nodes)) return no_memory(m);
    p->nodes[p->node_count] = node;
    return push(m, p->node_count++);
}

/* Items above the last mark, or the whole stack where there is none, may be taken. */
static dinov_status pop(struct machine *m, uint32_t *node)
{
    uint32_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->stack_count <= floor) return refuse(m, "PKL-STACK", "expected an object on the stack, found none");
    *node = m->stack[--m->stack_count];
    return DINOV_OK;
}

/* Removes the last mark; *first is where the items above it begin. They stay on the stack. */
static dinov_status pop_mark(struct machine *m, uint32_t *first)
{
    if (m->mark_count == 0) return refuse(m, "PKL-STACK", "expected a mark on the stack, found none");
    *first = m->marks[--m->mark_count];
    return DINOV_OK;
}

static dinov_node *node_at(struct machine *m, uint32_t index) { return &m->out->nodes[index]; }

static dinov_status append_items(struct machine *m, uint32_t container, uint32_t first)
{
    for (uint32_t i = first; i < m->stack_count; i++) {
        dinov_node *n = node_at(m, container);
        if (!grow(&n->items, n->count, &n->room, sizeof *n->items)) return no_memory(m);
        n->items[n->count++] = m->stack[i];
    }
    m->stack_count = first;
    return DINOV_OK;
}

/* ---- Values ---- */

static dinov_status push_int(struct machine *m, int64_t value)
{
    return push_new(m, (dinov_node){.kind = DINOV_NODE_INT, .integer = value});
}

static dinov_status push_long1(struct machine *m)
{
    uint8_t        size  = dinov_cursor_u8(&m->c);
    const uint8_t *p     = dinov_cursor_take(&m->c, size);
    uint64_t       value = 0;
    if (!p) return DINOV_OK; /* truncation is reported by the loop */
    if (size > 8) return refuse(m, "PKL-LONG", "expected an integer of at most 64 bits, found a longer one");
    if (size && p[size - 1] & 0x80) value = UINT64_MAX;
    for (int i = size - 1; i >= 0; i--) value = value << 8 | p[i];
    return push_int(m, (int64_t)value);
}

static dinov_status push_float(struct machine *m)
{
    const uint8_t *p = dinov_cursor_take(&m->c, 8);
    double         number;
    if (!p) return DINOV_OK;
    uint64_t bits = (uint64_t)dinov_be32(p) << 32 | dinov_be32(p + 4);
    memcpy(&number, &bits, sizeof number);
    return push_new(m, (dinov_node){.kind = DINOV_NODE_FLOAT, .number = number});
}

static dinov_status push_string(struct machine *m)
{
    uint32_t       size = dinov_cursor_le32(&m->c);
    const uint8_t *p    = dinov_cursor_take(&m->c, size);
    if (!p) return DINOV_OK;
    /* Settings beside the weights may have line ends; names of tensors are held to more later. */
    if (!dinov_text_utf8((const char *)p, size)) return refuse(m, "PKL-UTF8", "expected a string of UTF-8, found other bytes");
    return push_new(m, (dinov_node){.kind = DINOV_NODE_STRING, .text = (const char *)p, .size = size});
}

/* One line of a GLOBAL, without its end. */
static bool take_line(dinov_cursor *c, const char **line, size_t *size)
{
    uint64_t       left = dinov_cursor_left(c);
    uint64_t       most = left < MAX_LINE ? left : MAX_LINE;
    const uint8_t *end  = most ? memchr(c->data + c->pos, '\n', most) : NULL;
    if (!end) return false;
    *line = (const char *)c->data + c->pos;
    *size = (size_t)(end - (c->data + c->pos));
    return dinov_cursor_take(c, *size + 1) != NULL;
}

static bool text_is(const char *text, size_t size, const char *word)
{
    return strlen(word) == size && memcmp(text, word, size) == 0;
}

static dinov_status push_global(struct machine *m)
{
    const char *module, *name;
    size_t      module_size, name_size;
    if (!take_line(&m->c, &module, &module_size) || !take_line(&m->c, &name, &name_size))
        return refuse(m, "PKL-GLOBAL", "expected a module and a name, a line each of at most 255 bytes, found something else");
    for (uint32_t i = 0; i < GLOBALS; i++)
        if (text_is(module, module_size, globals[i].module) && text_is(name, name_size, globals[i].name))
            return push_new(m, (dinov_node){.kind = DINOV_NODE_GLOBAL, .integer = i});
    for (size_t i = 0; i < sizeof inert_dtypes / sizeof inert_dtypes[0]; i++)
        if (text_is(module, module_size, "torch") && text_is(name, name_size, inert_dtypes[i]))
            return push_new(m, (dinov_node){.kind = DINOV_NODE_INERT});

    char              module_text[DINOV_ESCAPED], name_text[DINOV_ESCAPED];
    static const char distributed[] = "torch.distributed.";
    bool              sharded = module_size >= sizeof distributed - 1 && memcmp(module, distributed, sizeof distributed - 1) == 0;
    if (sharded || (text_is(module, module_size, "torch._utils") && text_is(name, name_size, "_rebuild_wrapper_subclass")))
        return dinov_fail(
            m->err, DINOV_ERR_FORMAT, "PKL-SHARD",
            "%s: pickle, byte %llu: it names %s.%s: this is one rank's part of a training checkpoint (FSDP), which is no "
            "whole model. Give the teacher that the official code saves beside it: eval/*/teacher_checkpoint.pth",
            m->where, (unsigned long long)m->c.pos, dinov_escape(module_text, sizeof module_text, module, module_size),
            dinov_escape(name_text, sizeof name_text, name, name_size));
    return dinov_fail(m->err, DINOV_ERR_FORMAT, "PKL-GLOBAL",
                      "%s: pickle, byte %llu: it names %s.%s, which a plain state dict never needs; nothing is executed. "
                      "Save the state dict alone: torch.save(model.state_dict(), ...)",
                      m->where, (unsigned long long)m->c.pos, dinov_escape(module_text, sizeof module_text, module, module_size),
                      dinov_escape(name_text, sizeof name_text, name, name_size));
}

/* ---- Calls ---- */

static bool is_global(const dinov_node *n, enum global what)
{
    return n->kind == DINOV_NODE_GLOBAL && globals[n->integer].what == what;
}

/* A view of a storage as PyTorch made it before 0.4: None, or (key, first element, elements). */
static bool take_view(struct machine *m, const dinov_node *view, dinov_pickle_storage *s)
{
    if (view->kind == DINOV_NODE_NONE) return true;
    if (view->kind != DINOV_NODE_TUPLE || view->count != 3) return false;
    const dinov_node *first = node_at(m, view->items[1]), *numel = node_at(m, view->items[2]);
    if (node_at(m, view->items[0])->kind != DINOV_NODE_STRING || first->kind != DINOV_NODE_INT || numel->kind != DINOV_NODE_INT ||
        first->integer < 0 || first->integer > s->numel || numel->integer < 0 || numel->integer > s->numel - first->integer)
        return false;
    s->begin = first->integer;
    s->end   = first->integer + numel->integer;
    return true;
}

static dinov_status persistent_storage(struct machine *m)
{
    static const char shape[] = "expected a storage as ('storage', type, key, location, count), found something else";
    uint32_t          id = 0, parts = m->form == DINOV_PICKLE_LEGACY ? 6 : 5;
    DINOV_TRY(pop(m, &id));
    const dinov_node *tuple = node_at(m, id);
    if (tuple->kind != DINOV_NODE_TUPLE || tuple->count != parts) return refuse(m, "PKL-STORAGE", shape);
    const dinov_node *tag = node_at(m, tuple->items[0]), *type = node_at(m, tuple->items[1]);
    const dinov_node *key = node_at(m, tuple->items[2]), *location = node_at(m, tuple->items[3]);
    const dinov_node *numel = node_at(m, tuple->items[4]);
    if (tag->kind != DINOV_NODE_STRING || !text_is(tag->text, tag->size, "storage") || !is_global(type, STORAGE) ||
        key->kind != DINOV_NODE_STRING || location->kind != DINOV_NODE_STRING || numel->kind != DINOV_NODE_INT ||
        numel->integer < 0)
        return refuse(m, "PKL-STORAGE", shape);

    dinov_pickle        *p       = m->out;
    dinov_pickle_storage storage = {.dtype = globals[type->integer].dtype, .numel = numel->integer, .end = numel->integer};
    bool                 digits  = key->size > 0 && key->size < sizeof storage.key && (key->text[0] != '0' || key->size == 1);
    for (uint32_t i = 0; digits && i < key->size; i++) digits = key->text[i] >= '0' && key->text[i] <= '9';
    if (!digits) return refuse(m, "PKL-STORAGE", "expected a storage key of at most 19 digits, found something else");
    memcpy(storage.key, key->text, key->size);
    if (parts == 6 && !take_view(m, node_at(m, tuple->items[5]), &storage))
        return refuse(m, "PKL-STORAGE", "expected a view inside its storage, found another");
    if (!grow(&p->storages, p->storage_count, &p->storage_room, sizeof *p->storages)) return no_memory(m);
    p->storages[p->storage_count] = storage;
    return push_new(m, (dinov_node){.kind = DINOV_NODE_STORAGE, .integer = p->storage_count++});
}

/* A tuple of non-negative ints, at most DINOV_MAX_RANK of them. */
static bool read_ints(struct machine *m, const dinov_node *tuple, int64_t *out, int *count)
{
    if (tuple->kind != DINOV_NODE_TUPLE || tuple->count > DINOV_MAX_RANK) return false;
    for (uint32_t i = 0; i < tuple->count; i++) {
        const dinov_node *n = node_at(m, tuple->items[i]);
        if (n->kind != DINOV_NODE_INT || n->integer < 0) return false;
        out[i] = n->integer;
    }
    *count = (int)tuple->count;
    return true;
}

/* The element farthest from the start of the storage lies inside it. */
static bool inside_storage(const dinov_pickle_tensor *t, const dinov_pickle_storage *s)
{
    uint64_t last = (uint64_t)t->offset, elements = 1;
    bool     empty = false;
    for (int i = 0; i < t->rank; i++) {
        uint64_t step;
        if (t->dim[i] == 0) {
            empty = true;
            continue;
        }
        if (!dinov_ck_mul(elements, (uint64_t)t->dim[i], &elements) || elements > INT64_MAX / 8) return false;
        if (!dinov_ck_mul((uint64_t)t->dim[i] - 1, (uint64_t)t->stride[i], &step) || !dinov_ck_add(last, step, &last)) return false;
    }
    uint64_t numel = (uint64_t)(s->end - s->begin);
    return empty ? (uint64_t)t->offset <= numel : last < numel;
}

static dinov_status rebuild_tensor(struct machine *m, const dinov_node *args, enum global what)
{
    dinov_pickle       *p = m->out;
    dinov_pickle_tensor t = {0};
    int                 strides;
    uint32_t            least = what == REBUILD_TENSOR ? 4 : 6, most = what == REBUILD_TENSOR ? 4 : 7;

    if (args->count < least || args->count > most)
        return refuse(m, "PKL-CALL", "a tensor's description has the wrong number of parts");
    const dinov_node *storage = node_at(m, args->items[0]), *offset = node_at(m, args->items[1]);
    if (storage->kind != DINOV_NODE_STORAGE || offset->kind != DINOV_NODE_INT || offset->integer < 0 ||
        !read_ints(m, node_at(m, args->items[2]), t.dim, &t.rank) ||
        !read_ints(m, node_at(m, args->items[3]), t.stride, &strides) || strides != t.rank)
        return refuse(m, "PKL-TENSOR",
                      "expected a tensor's storage, offset, shape and strides (at most 8 of each), found other values");
    if (what == REBUILD_TENSOR_V2) {
        const dinov_node *grad = node_at(m, args->items[4]), *hooks = node_at(m, args->items[5]);
        if (grad->kind != DINOV_NODE_BOOL || hooks->kind != DINOV_NODE_DICT || hooks->count != 0)
            return refuse(m, "PKL-CALL", "expected a tensor with a gradient flag and no hooks, found other values");
        /* A seventh part says that values are to be conjugated or negated. */
        const dinov_node *bits = args->count == 7 ? node_at(m, args->items[6]) : NULL;
        if (bits && bits->kind != DINOV_NODE_NONE && (bits->kind != DINOV_NODE_DICT || bits->count != 0))
            return refuse(m, "PKL-CALL", "a tensor carries a conjugate or negative bit; resolve it before saving");
    }
    t.storage = (uint32_t)storage->integer;
    t.offset  = offset->integer;
    if (!inside_storage(&t, &p->storages[t.storage]))
        return refuse(m, "PKL-TENSOR", "a tensor's shape and strides reach beyond its storage");
    t.offset += p->storages[t.storage].begin;
    if (!grow(&p->tensors, p->tensor_count, &p->tensor_room, sizeof *p->tensors)) return no_memory(m);
    p->tensors[p->tensor_count] = t;
    return push_new(m, (dinov_node){.kind = DINOV_NODE_TENSOR, .integer = p->tensor_count++});
}

static dinov_status call(struct machine *m, enum global what, const dinov_node *args)
{
    switch (what) {
    case ORDERED_DICT:
        if (args->count != 0) break;
        return push_new(m, (dinov_node){.kind = DINOV_NODE_DICT, .ordered = 1});
    case COUNTER: /* a scheduler's milestones */
        if (args->count != 1 || node_at(m, args->items[0])->kind != DINOV_NODE_DICT) break;
        return push(m, args->items[0]);
    case REBUILD_TENSOR:
    case REBUILD_TENSOR_V2:
        return rebuild_tensor(m, args, what);
    case REBUILD_PARAMETER:
    case REBUILD_PARAMETER_WITH_STATE:
        /* A parameter is its tensor; flag, hooks and state say nothing about values. */
        if (args->count != (what == REBUILD_PARAMETER ? 3u : 4u)) break;
        if (node_at(m, args->items[0])->kind != DINOV_NODE_TENSOR) break;
        return push(m, args->items[0]);
    case REBUILD_FROM_TYPE: {
        /* (function, type, its parts, state): a tensor with attributes, which say nothing about values. */
        if (args->count != 4) break;
        const dinov_node *f = node_at(m, args->items[0]), *parts = node_at(m, args->items[2]);
        if (!is_global(node_at(m, args->items[1]), TENSOR) || parts->kind != DINOV_NODE_TUPLE) break;
        if (!is_global(f, REBUILD_TENSOR) && !is_global(f, REBUILD_TENSOR_V2)) break;
        return rebuild_tensor(m, parts, globals[f->integer].what);
    }
    case SIZE:
        if (args->count != 1) break;
        if (node_at(m, args->items[0])->kind != DINOV_NODE_TUPLE) break;
        return push(m, args->items[0]);
    case DEVICE:
        if (args->count < 1 || args->count > 2 || node_at(m, args->items[0])->kind != DINOV_NODE_STRING) break;
        if (args->count == 2 && node_at(m, args->items[1])->kind != DINOV_NODE_INT) break;
        return push_new(m, (dinov_node){.kind = DINOV_NODE_INERT});
    case TENSOR:
    case STORAGE:
        break;
    }
    return refuse(m, "PKL-CALL", "a known name is called with parts it never has");
}

static dinov_status reduce(struct machine *m)
{
    uint32_t args_index = 0, function = 0;
    DINOV_TRY(pop(m, &args_index));
    DINOV_TRY(pop(m, &function));
    const dinov_node *f = node_at(m, function), *args = node_at(m, args_index);
    if (f->kind != DINOV_NODE_GLOBAL || args->kind != DINOV_NODE_TUPLE)
        return refuse(m, "PKL-CALL", "expected one of the known names with a tuple, found something else");
    return call(m, globals[f->integer].what, args);
}

/* torch attaches {'_metadata': ...} to a state dict, which is an OrderedDict. It is dropped. */
static dinov_status build(struct machine *m)
{
    uint32_t state = 0, target = 0;
    DINOV_TRY(pop(m, &state));
    DINOV_TRY(pop(m, &target));
    const dinov_node *s = node_at(m, state), *t = node_at(m, target);
    bool              ok = t->kind == DINOV_NODE_DICT && t->ordered && s->kind == DINOV_NODE_DICT && s->count == 2;
    if (ok) {
        const dinov_node *key = node_at(m, s->items[0]);
        ok                    = key->kind == DINOV_NODE_STRING && text_is(key->text, key->size, "_metadata");
    }
    if (!ok) return refuse(m, "PKL-CALL", "expected the _metadata of a state dict, found the state of another object");
    return push(m, target);
}

/* ---- Containers ---- */

static dinov_status tuple_of(struct machine *m, uint32_t first)
{
    dinov_pickle *p     = m->out;
    uint32_t      count = m->stack_count - first;
    uint32_t     *items = count ? dinov_alloc(count, sizeof *items) : NULL;
    if (count && !items) return no_memory(m);
    if (count) memcpy(items, m->stack + first, count * sizeof *items);
    if (!grow(&p->nodes, p->node_count, &p->node_room, sizeof *p->nodes)) {
        dinov_free(items);
        return no_memory(m);
    }
    m->stack_count = first;
    return push_new(m, (dinov_node){.kind = DINOV_NODE_TUPLE, .items = items, .count = count, .room = count});
}

static dinov_status tuple_of_last(struct machine *m, uint32_t count)
{
    uint32_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->stack_count - floor < count) return refuse(m, "PKL-STACK", "expected more objects on the stack, found too few");
    return tuple_of(m, m->stack_count - count);
}

/* Puts the items from `first` on into the list or dict below them. */
static dinov_status extend(struct machine *m, uint32_t first, dinov_node_kind kind)
{
    uint32_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (first <= floor) return refuse(m, "PKL-STACK", "expected a container on the stack, found none");
    uint32_t container = m->stack[first - 1];
    if (node_at(m, container)->kind != kind)
        return refuse(m, "PKL-TYPE", "items are added to something that is not their container");
    if (kind == DINOV_NODE_DICT) {
        if ((m->stack_count - first) % 2 != 0)
            return refuse(m, "PKL-STACK", "expected keys and values in pairs, found an odd number");
        for (uint32_t i = first; i < m->stack_count; i += 2) {
            dinov_node_kind key = node_at(m, m->stack[i])->kind;
            if (key != DINOV_NODE_STRING && key != DINOV_NODE_INT)
                return refuse(m, "PKL-KEY", "expected a string or an integer as dict key, found another type");
        }
    }
    return append_items(m, container, first);
}

static dinov_status extend_by_mark(struct machine *m, dinov_node_kind kind)
{
    uint32_t first = 0;
    DINOV_TRY(pop_mark(m, &first));
    return extend(m, first, kind);
}

static dinov_status extend_by(struct machine *m, uint32_t count, dinov_node_kind kind)
{
    uint32_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->stack_count - floor < count + 1) return refuse(m, "PKL-STACK", "expected more objects on the stack, found too few");
    return extend(m, m->stack_count - count, kind);
}

/* ---- Memo: written in order, as every pickler does, so that an index never sizes anything ---- */

static dinov_status memo_put(struct machine *m, uint32_t index)
{
    uint32_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->c.failed) return DINOV_OK;
    if (m->stack_count <= floor) return refuse(m, "PKL-STACK", "expected an object to remember, found none");
    if (index > m->memo_count || index >= MAX_MEMO) return refuse(m, "PKL-MEMO", "expected memo numbers in order, found a gap");
    if (index == m->memo_count) {
        if (!grow(&m->memo, m->memo_count, &m->memo_room, sizeof *m->memo)) return no_memory(m);
        m->memo_count++;
    }
    m->memo[index] = m->stack[m->stack_count - 1];
    return DINOV_OK;
}

static dinov_status memo_get(struct machine *m, uint32_t index)
{
    if (m->c.failed) return DINOV_OK;
    if (index >= m->memo_count) return refuse(m, "PKL-MEMO", "expected a memo number that was set before, found another");
    return push(m, m->memo[index]);
}

/* ---- Opcodes ---- */

static const char *refused_name(uint8_t op)
{
    static const struct {
        uint8_t     op;
        const char *name;
    } names[] = {
        {'0', "POP"},
        {'1', "POP_MARK"},
        {'2', "DUP"},
        {'F', "FLOAT"},
        {'I', "INT"},
        {'L', "LONG"},
        {'P', "PERSID"},
        {'S', "STRING"},
        {'T', "BINSTRING"},
        {'U', "SHORT_BINSTRING"},
        {'V', "UNICODE"},
        {'B', "BINBYTES"},
        {'C', "SHORT_BINBYTES"},
        {'d', "DICT"},
        {'l', "LIST"},
        {'g', "GET"},
        {'p', "PUT"},
        {'i', "INST"},
        {'o', "OBJ"},
        {0x81, "NEWOBJ"},
        {0x82, "EXT1"},
        {0x83, "EXT2"},
        {0x84, "EXT4"},
        {0x8b, "LONG4"},
        {0x8c, "SHORT_BINUNICODE"},
        {0x8d, "BINUNICODE8"},
        {0x8e, "BINBYTES8"},
        {0x8f, "EMPTY_SET"},
        {0x90, "ADDITEMS"},
        {0x91, "FROZENSET"},
        {0x92, "NEWOBJ_EX"},
        {0x93, "STACK_GLOBAL"},
        {0x94, "MEMOIZE"},
        {0x95, "FRAME"},
        {0x96, "BYTEARRAY8"},
        {0x97, "NEXT_BUFFER"},
        {0x98, "READONLY_BUFFER"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].op == op) return names[i].name;
    return "unknown";
}

static dinov_status step(struct machine *m, uint8_t op)
{
    uint32_t first = 0;
    switch (op) {
    case '(':
        if (m->mark_count == MAX_MARKS)
            return dinov_fail(m->err, DINOV_ERR_LIMIT, "PKL-DEPTH", "%s: pickle: expected at most %d open marks, found more",
                              m->where, MAX_MARKS);
        m->marks[m->mark_count++] = m->stack_count;
        return DINOV_OK;
    case 'N':
        return push_new(m, (dinov_node){.kind = DINOV_NODE_NONE});
    case 0x88:
        return push_new(m, (dinov_node){.kind = DINOV_NODE_BOOL, .integer = 1});
    case 0x89:
        return push_new(m, (dinov_node){.kind = DINOV_NODE_BOOL});
    case 'K':
        return push_int(m, dinov_cursor_u8(&m->c));
    case 'M':
        return push_int(m, dinov_cursor_le16(&m->c));
    case 'J':
        return push_int(m, (int32_t)dinov_cursor_le32(&m->c));
    case 0x8a:
        return push_long1(m);
    case 'G':
        return push_float(m);
    case 'X':
        return push_string(m);
    case 'c':
        return push_global(m);
    case ')':
        return tuple_of(m, m->stack_count);
    case '}':
        return push_new(m, (dinov_node){.kind = DINOV_NODE_DICT});
    case ']':
        return push_new(m, (dinov_node){.kind = DINOV_NODE_LIST});
    case 0x85:
        return tuple_of_last(m, 1);
    case 0x86:
        return tuple_of_last(m, 2);
    case 0x87:
        return tuple_of_last(m, 3);
    case 't':
        DINOV_TRY(pop_mark(m, &first));
        return tuple_of(m, first);
    case 's':
        return extend_by(m, 2, DINOV_NODE_DICT);
    case 'u':
        return extend_by_mark(m, DINOV_NODE_DICT);
    case 'a':
        return extend_by(m, 1, DINOV_NODE_LIST);
    case 'e':
        return extend_by_mark(m, DINOV_NODE_LIST);
    case 'q':
        return memo_put(m, dinov_cursor_u8(&m->c));
    case 'r':
        return memo_put(m, dinov_cursor_le32(&m->c));
    case 'h':
        return memo_get(m, dinov_cursor_u8(&m->c));
    case 'j':
        return memo_get(m, dinov_cursor_le32(&m->c));
    case 'Q':
        return persistent_storage(m);
    case 'R':
        return reduce(m);
    case 'b':
        return build(m);
    case 0x80:
        return refuse(m, "PKL-PROTO", "expected the protocol once, at the start, found it again");
    default:
        break;
    }
    char text[160];
    snprintf(text, sizeof text, "opcode 0x%02x (%s) is not among those that torch.save writes for a state dict", op,
             refused_name(op));
    return refuse(m, "PKL-OPCODE", text);
}

static dinov_status run(struct machine *m)
{
    uint8_t first = dinov_cursor_u8(&m->c), protocol = dinov_cursor_u8(&m->c);
    if (m->c.failed || first != 0x80 || protocol != 2) {
        char text[160];
        if (!m->c.failed && first == 0x80)
            snprintf(text, sizeof text, "expected protocol 2, found %u; save again without pickle_protocol", protocol);
        else
            snprintf(text, sizeof text, "expected a pickle of protocol 2, found other bytes");
        return refuse(m, "PKL-PROTO", text);
    }
    for (long count = 0;; count++) {
        uint8_t op = dinov_cursor_u8(&m->c);
        if (m->c.failed) break;
        if (op == '.') {
            if (m->mark_count != 0 || m->stack_count != 1)
                return refuse(m, "PKL-STACK", "expected one object at the end, found another number");
            m->out->root = m->stack[0];
            return DINOV_OK;
        }
        if (count == MAX_OPCODES)
            return dinov_fail(m->err, DINOV_ERR_LIMIT, "PKL-LARGE", "%s: pickle: expected at most %d opcodes, found more", m->where,
                              MAX_OPCODES);
        DINOV_TRY(step(m, op));
        if (m->c.failed) break;
    }
    if (m->cut)
        return dinov_fail(m->err, DINOV_ERR_LIMIT, "PKL-LARGE", "%s: pickle: expected at most %d bytes, found more", m->where,
                          DINOV_PICKLE_MAX);
    return refuse(m, "PKL-TRUNCATED", "expected more bytes, found the end");
}

/* ---- After STOP: no cycles, limited depth, unique keys ---- */

static int by_key(const void *a, const void *b)
{
    const dinov_node *x = *(const dinov_node *const *)a, *y = *(const dinov_node *const *)b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    if (x->kind == DINOV_NODE_INT) return x->integer < y->integer ? -1 : x->integer > y->integer;
    int order = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);
    return order ? order : x->size < y->size ? -1 : x->size > y->size;
}

static dinov_status check_keys(struct machine *m, const dinov_node *dict)
{
    dinov_status       status = DINOV_OK;
    uint32_t           count  = dict->count / 2;
    const dinov_node **keys   = dinov_alloc(count, sizeof *keys);
    if (!keys) return no_memory(m);
    for (uint32_t i = 0; i < count; i++) keys[i] = node_at(m, dict->items[2 * i]);
    qsort(keys, count, sizeof *keys, by_key);
    for (uint32_t i = 1; i < count && status == DINOV_OK; i++)
        if (by_key(&keys[i - 1], &keys[i]) == 0) status = refuse(m, "PKL-DUPLICATE", "a dict has one key twice");
    dinov_free(keys);
    return status;
}

enum { UNSEEN, OPEN, DONE };

static bool has_items(const dinov_node *n)
{
    return n->kind == DINOV_NODE_TUPLE || n->kind == DINOV_NODE_LIST || n->kind == DINOV_NODE_DICT;
}

/* Depth first with the path as the only stack; a node reached twice by different paths is walked once. */
static dinov_status check_tree(struct machine *m)
{
    struct frame {
        uint32_t node, next;
    } path[DINOV_PICKLE_DEPTH] = {{m->out->root, 0}};
    int depth                  = 1;

    node_at(m, m->out->root)->state = OPEN;
    while (depth > 0) {
        dinov_node *n = node_at(m, path[depth - 1].node);
        if (has_items(n) && path[depth - 1].next < n->count) {
            uint32_t    child_index = n->items[path[depth - 1].next++];
            dinov_node *child       = node_at(m, child_index);
            if (child->state == OPEN) return refuse(m, "PKL-CYCLE", "an object contains itself");
            if (depth + (child->state == DONE ? child->height : 1) > DINOV_PICKLE_DEPTH)
                return dinov_fail(m->err, DINOV_ERR_LIMIT, "PKL-DEPTH",
                                  "%s: pickle: expected at most %d levels of nesting, found more", m->where, DINOV_PICKLE_DEPTH);
            if (child->state == UNSEEN) {
                child->state  = OPEN;
                path[depth++] = (struct frame){child_index, 0};
            } else if (n->height < child->height) {
                n->height = child->height;
            }
            continue;
        }
        if (n->kind == DINOV_NODE_DICT) DINOV_TRY(check_keys(m, n));
        n->state = DONE;
        n->height++;
        depth--;
        if (depth > 0) {
            dinov_node *parent = node_at(m, path[depth - 1].node);
            if (parent->height < n->height) parent->height = n->height;
        }
    }
    return DINOV_OK;
}

dinov_status dinov_pickle_next(dinov_pickle *pickle, dinov_cursor *c, dinov_pickle_form form, const char *where, dinov_error *err)
{
    struct machine m = {.out = pickle, .where = where, .err = err, .c = *c, .form = form};

    *pickle = (dinov_pickle){0};
    if (dinov_cursor_left(c) > DINOV_PICKLE_MAX) {
        m.c.size = c->pos + DINOV_PICKLE_MAX;
        m.cut    = true;
    }
    dinov_status status = run(&m);
    if (status == DINOV_OK) status = check_tree(&m);
    if (status == DINOV_OK) dinov_cursor_seek(c, m.c.pos);
    dinov_free(m.stack);
    dinov_free(m.memo);
    return status;
}

dinov_status dinov_pickle_read(dinov_pickle *pickle, const void *data, size_t size, const char *where, dinov_error *err)
{
    dinov_cursor c = dinov_cursor_make(data, size);
    DINOV_TRY(dinov_pickle_next(pickle, &c, DINOV_PICKLE_ZIP, where, err));
    if (dinov_cursor_left(&c) != 0)
        return dinov_fail(err, DINOV_ERR_FORMAT, "PKL-TRAILING",
                          "%s: pickle, byte %llu: expected the pickle to end with STOP, found more bytes", where,
                          (unsigned long long)c.pos);
    return DINOV_OK;
}

void dinov_pickle_clear(dinov_pickle *pickle)
{
    for (uint32_t i = 0; i < pickle->node_count; i++)
        if (has_items(&pickle->nodes[i])) dinov_free(pickle->nodes[i].items);
    dinov_free(pickle->nodes);
    dinov_free(pickle->storages);
    dinov_free(pickle->tensors);
    *pickle = (dinov_pickle){0};
}
