/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/names.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "format/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The table ---- */

/* Which models a row is for, where timm's names alone do not tell. */
enum ffn { ANY, PLAIN, GATED };

/* A name, or the beginning of one in front of ".weight" and ".bias". `part` of `parts` equal runs of the hub tensor's rows; a
 * name that only reads is one that is not written. NULL: they have no such tensor of its own. */
struct row {
    const char *hub;
    int         part, parts;
    const char *hf, *timm;
    bool        reads;
    enum ffn    ffn;
};

#define WHOLE 0, 1

static const struct row outside[] = {
    {"cls_token", WHOLE, "embeddings.cls_token", "cls_token", 0, ANY},
    {"pos_embed", WHOLE, "embeddings.position_embeddings", "pos_embed", 0, ANY},
    {"register_tokens", WHOLE, "embeddings.register_tokens", "reg_token", 0, ANY},
    {"mask_token", WHOLE, "embeddings.mask_token", NULL, 0, ANY},
    {"patch_embed.proj", WHOLE, "embeddings.patch_embeddings.projection", "patch_embed.proj", 0, ANY},
    {"norm", WHOLE, "layernorm", "norm", 0, ANY},
};

static const struct row inside[] = {
    {"norm1", WHOLE, "norm1", "norm1", 0, ANY},
    {"attn.qkv", WHOLE, NULL, "attn.qkv", 0, ANY},
    {"attn.qkv", 0, 3, "attention.attention.query", NULL, 0, ANY},
    {"attn.qkv", 1, 3, "attention.attention.key", NULL, 0, ANY},
    {"attn.qkv", 2, 3, "attention.attention.value", NULL, 0, ANY},
    {"attn.qkv", 0, 3, "attention.q_proj", NULL, 1, ANY},
    {"attn.qkv", 1, 3, "attention.k_proj", NULL, 1, ANY},
    {"attn.qkv", 2, 3, "attention.v_proj", NULL, 1, ANY},
    {"attn.proj", WHOLE, "attention.output.dense", "attn.proj", 0, ANY},
    {"attn.proj", WHOLE, "attention.o_proj", NULL, 1, ANY},
    {"ls1.gamma", WHOLE, "layer_scale1.lambda1", "ls1.gamma", 0, ANY},
    {"norm2", WHOLE, "norm2", "norm2", 0, ANY},
    {"mlp.fc1", WHOLE, "mlp.fc1", "mlp.fc1", 0, PLAIN},
    {"mlp.fc2", WHOLE, "mlp.fc2", "mlp.fc2", 0, PLAIN},
    {"mlp.w12", WHOLE, "mlp.weights_in", "mlp.fc1", 0, GATED},
    {"mlp.w12", 0, 2, "mlp.gate_proj", NULL, 1, GATED},
    {"mlp.w12", 1, 2, "mlp.up_proj", NULL, 1, GATED},
    {"mlp.w3", WHOLE, "mlp.weights_out", "mlp.fc2", 0, GATED},
    {"mlp.w3", WHOLE, "mlp.down_proj", NULL, 1, GATED},
    {"ls2.gamma", WHOLE, "layer_scale2.lambda1", "ls2.gamma", 0, ANY},
};

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))

/* What training, wrapping and heads put in front of a backbone's names. "encoder." is also Hugging Face's own. */
static const char *const prefixes[] = {
    "teacher.",
    "student.",
    "model.",
    "module.",
    "backbone.",
    "state_dict.",
    "dinov2.",
    "_model.",
    "encoder.",
    "dinov2_with_registers.",
    "wrapped_model.",
    "teacher_embedding_model.",
    "student_embedding_model.",
};

/* Parts of a name that only say how a module was wrapped, wherever they stand. */
static const char *const wrappers[] = {"_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."};

/* Known, and no part of a backbone. */
static const struct {
    const char *begins, *what;
} others[] = {
    {"head.", "a head"},
    {"dino_head.", "a training head"},
    {"ibot_head.", "a training head"},
    {"student_head.", "a training head"},
    {"teacher_head.", "a training head"},
    {"embed_head.", "a head"},
    {"linear_head.", "a classifier"},
    {"classifier.", "a classifier"},
    {"decode_head.", "a head"},
    {"dino_loss.", "a loss's centre"},
    {"ibot_patch_loss.", "a loss's centre"},
    {"optimizer.", "the optimizer's"},
    {"precalculated_pos_embed", "a position table made for an export"},
};

/* ---- One name ---- */

enum side { NEITHER, TEACHER, STUDENT };

struct plain {
    char      name[DINOV_TENSORS_NAME + 1]; /* without prefixes, wrappers and chunks */
    enum side side;
    bool      prefixed, chunked;
};

static const char *after(const char *name, const char *beginning)
{
    size_t size = strlen(beginning);
    return strncmp(name, beginning, size) == 0 ? name + size : NULL;
}

static const char *after_wrapper(const char *name)
{
    const char *rest = NULL;
    for (size_t i = 0; i < COUNT(wrappers) && !rest; i++) rest = after(name, wrappers[i]);
    return rest;
}

static const char *after_prefix(const char *name)
{
    const char *rest;
    for (size_t i = 0; i < COUNT(prefixes); i++)
        if ((rest = after(name, prefixes[i])) && !(strcmp(prefixes[i], "encoder.") == 0 && after(rest, "layer"))) return rest;
    return after_wrapper(name);
}

/* A block's number, and what follows its dot; or -1. */
static int64_t number(const char *text, const char **rest)
{
    int64_t n = 0;
    if (*text < '0' || *text > '9') return -1;
    for (; *text >= '0' && *text <= '9'; text++)
        if ((n = 10 * n + (*text - '0')) > 1 << 20) return -1;
    if (*text != '.') return -1;
    *rest = text + 1;
    return n;
}

static void make_plain(struct plain *out, const char *name)
{
    const char *rest, *inner;
    *out = (struct plain){.side = NEITHER};
    while ((rest = after_prefix(name))) {
        out->side     = after(name, "teacher") ? TEACHER : after(name, "student") ? STUDENT : out->side;
        out->prefixed = true;
        name          = rest;
    }
    /* Names are no longer than this buffer, and only become shorter. */
    char *to       = out->name;
    bool  at_start = true;
    while (*name) {
        if (at_start && (rest = after_wrapper(name))) {
            out->prefixed = true;
            name          = rest;
            continue;
        }
        at_start = *name == '.';
        *to++    = *name++;
    }
    *to = '\0';
    /* blocks.CHUNK.BLOCK.rest: the block's number already counts from the first chunk on. */
    if ((rest = after(out->name, "blocks.")) && number(rest, &rest) >= 0 && number(rest, &inner) >= 0) {
        memmove(out->name + 7, rest, strlen(rest) + 1);
        out->chunked = true;
    }
}

/* The block's number and its part of the name; -1: outside the blocks. */
static int64_t block_of(const char *name, bool hf, const char **rest)
{
    static const char *const begins[] = {"blocks.", "encoder.layer.", "encoder.layers."};
    const char              *tail;
    for (size_t i = hf ? 1 : 0; i < (hf ? COUNT(begins) : 1); i++)
        if ((tail = after(name, begins[i]))) return number(tail, rest);
    return -1;
}

/* `name` is `begins`, or goes on behind it with a dot; then *tail is what goes on. */
static bool is_row(const char *name, const char *begins, const char **tail)
{
    *tail = begins ? after(name, begins) : NULL;
    return *tail && (**tail == '\0' || **tail == '.');
}

static bool row_reads(const struct row *row, const char *name, dinov_naming naming, bool gated, const char **tail)
{
    if (naming == DINOV_NAMING_HF) return is_row(name, row->hf, tail);
    if (row->parts > 1 || row->reads || (row->ffn == PLAIN && gated)) return false;
    return is_row(name, row->hub, tail) || (!(row->ffn == GATED && !gated) && is_row(name, row->timm, tail));
}

/* The hub's name for a plain one; NULL when the table has none. */
static const struct row *translate(char hub[64], const char *name, dinov_naming naming, bool gated)
{
    const char       *rest  = name, *tail;
    int64_t           block = block_of(name, naming == DINOV_NAMING_HF, &rest);
    const struct row *rows  = block < 0 ? outside : inside;
    size_t            count = block < 0 ? COUNT(outside) : COUNT(inside);
    for (size_t i = 0; i < count; i++) {
        if (!row_reads(&rows[i], rest, naming, gated, &tail)) continue;
        int size = block < 0 ? snprintf(hub, 64, "%s%s", rows[i].hub, tail)
                             : snprintf(hub, 64, "blocks.%lld.%s%s", (long long)block, rows[i].hub, tail);
        if (size > 0 && size < 64) return &rows[i];
    }
    return NULL;
}

/* ---- Reading: every name's place ---- */

struct entry {
    char        hub[64];
    int         part, parts;
    enum side   side;
    const char *fate; /* as in dinov_names */
    size_t      at;   /* in the source */
};

struct map {
    dinov_names              *out;
    const dinov_named_tensor *tensors;
    size_t                    count;
    const char               *where;
    struct entry             *entries;
    bool                      gated, prefixed, chunked, joined, class_row;
};

static dinov_status refuse_pair(const struct map *m, dinov_error *err, const char *code, const char *hub, const char *a,
                                const char *b, const char *what)
{
    char one[DINOV_ESCAPED], two[DINOV_ESCAPED], both[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: tensors %s and %s, both of %s: %s", m->where,
                      dinov_escape(one, sizeof one, a, strlen(a)), dinov_escape(two, sizeof two, b, strlen(b)),
                      dinov_escape(both, sizeof both, hub, strlen(hub)), what);
}

/* timm keeps the two halves of a gated FFN in an fc1 of twice fc2's width. */
static bool is_gated(const struct map *m)
{
    static const char fc1[] = "blocks.0.mlp.fc1.weight", fc2[] = "blocks.0.mlp.fc2.weight";
    int64_t           rows = -1, columns = -1;
    for (size_t i = 0; i < m->count; i++) {
        const dinov_tensor *t = &m->tensors[i].tensor;
        struct plain        p;
        if (t->rank != 2 || !strstr(m->tensors[i].name, ".mlp.fc")) continue;
        make_plain(&p, m->tensors[i].name);
        if (strcmp(p.name, fc1) == 0) rows = t->dim[0];
        if (strcmp(p.name, fc2) == 0) columns = t->dim[1];
    }
    return columns > 0 && rows % 2 == 0 && rows / 2 == columns;
}

static dinov_status look(struct map *m, dinov_error *err)
{
    bool hf = false, timm = false;
    for (size_t i = 0; i < m->count; i++) {
        const char  *name = m->tensors[i].name;
        struct plain p;
        char         text[DINOV_ESCAPED];
        if (strstr(name, "flat_param"))
            return dinov_fail(err, DINOV_ERR_FORMAT, "NAMES-FLAT",
                              "%s: tensor %s: one rank's shard of an FSDP training state, which is no model; expected the whole "
                              "teacher: give eval/.../teacher_checkpoint.pth of the same run",
                              m->where, dinov_escape(text, sizeof text, name, strlen(name)));
        make_plain(&p, name);
        hf   = hf || after(p.name, "embeddings.") || after(p.name, "encoder.layer");
        timm = timm || strcmp(p.name, "reg_token") == 0;
        m->prefixed |= p.prefixed;
        m->chunked |= p.chunked;
    }
    m->gated       = !hf && is_gated(m);
    m->out->naming = hf ? DINOV_NAMING_HF : timm || m->gated ? DINOV_NAMING_TIMM : DINOV_NAMING_HUB;
    return DINOV_OK;
}

static const char *known_other(const char *name)
{
    for (size_t i = 0; i < COUNT(others); i++)
        if (after(name, others[i].begins)) return others[i].what;
    return "";
}

/* Entries that are taken first, in the order of what they become. */
static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (!x->fate != !y->fate) return x->fate ? 1 : -1;
    if (x->fate) return x->at < y->at ? -1 : 1;
    int order = strcmp(x->hub, y->hub);
    if (order) return order;
    if (x->part != y->part) return x->part - y->part;
    return x->at < y->at ? -1 : 1;
}

static void place_names(struct map *m)
{
    bool teacher = false;
    for (size_t i = 0; i < m->count; i++) {
        struct entry *e = &m->entries[i];
        struct plain  p;
        make_plain(&p, m->tensors[i].name);
        const struct row *row = translate(e->hub, p.name, m->out->naming, m->gated);
        e->at                 = i;
        e->side               = p.side;
        e->fate               = row ? NULL : known_other(p.name);
        if (row) e->part = row->part, e->parts = row->parts;
        teacher = teacher || (row && p.side == TEACHER);
    }
    for (size_t i = 0; i < m->count; i++) {
        struct entry *e = &m->entries[i];
        if (teacher && e->side == STUDENT && !e->fate) e->fate = "the student's, beside the teacher's";
        m->out->fate[i] = e->fate;
        if (!e->fate) continue;
        size_t *first = *e->fate ? &m->out->first_passed : &m->out->first_leftover;
        size_t *many  = *e->fate ? &m->out->passed : &m->out->leftover;
        if ((*many)++ == 0) *first = i;
    }
    qsort(m->entries, m->count, sizeof *m->entries, by_place);
}

/* One hub tensor out of the entries [0, parts). */
static dinov_status join(const struct map *m, const struct entry *e, size_t count, dinov_tensor *shape, dinov_made *made,
                         dinov_error *err)
{
    const dinov_named_tensor *first = &m->tensors[e[0].at];
    *shape                          = first->tensor;
    *made                           = (dinov_made){.pieces = e[0].parts};
    for (size_t i = 0; i + 1 < count; i++)
        if (e[i].part == e[i + 1].part)
            return refuse_pair(m, err, "NAMES-TWICE", e->hub, m->tensors[e[i].at].name, m->tensors[e[i + 1].at].name,
                               "expected one source for it, found two; save the one model that is meant");
    if (count != (size_t)e[0].parts || e[count - 1].parts != e[0].parts) {
        char text[DINOV_ESCAPED], name[DINOV_ESCAPED];
        return dinov_fail(err, DINOV_ERR_FORMAT, "NAMES-PIECES",
                          "%s: tensor %s: expected %d tensors whose rows make it, %s among them, found %zu", m->where,
                          dinov_escape(text, sizeof text, e->hub, strlen(e->hub)), e[0].parts,
                          dinov_escape(name, sizeof name, first->name, strlen(first->name)), count);
    }
    for (size_t i = 0; i < count; i++) {
        const dinov_named_tensor *piece = made->piece[i] = &m->tensors[e[i].at];
        const dinov_tensor       *t                      = &piece->tensor;
        uint64_t                  rows                   = 0;
        bool                      fits = t->dtype == shape->dtype && t->rank == shape->rank && (count == 1 || t->rank > 0);
        for (int d = 1; fits && d < t->rank; d++) fits = t->dim[d] == shape->dim[d];
        if (fits && i > 0) {
            fits = dinov_ck_add((uint64_t)shape->dim[0], (uint64_t)t->dim[0], &rows) && rows <= INT64_MAX &&
                   t->dim[0] == first->tensor.dim[0];
            shape->dim[0] = (int64_t)rows;
        }
        if (!fits)
            return refuse_pair(m, err, "NAMES-PIECES", e->hub, first->name, piece->name,
                               "expected one shape and one dtype, found others");
    }
    if (count > 1) shape->data = NULL;
    return DINOV_OK;
}

static bool is_square(int64_t n)
{
    int64_t side = (int64_t)(sqrt((double)n) + 0.5);
    return n > 0 && side < 1 << 20 && side * side == n;
}

/* timm with registers keeps positions of patches alone: the class token has its own added already. */
static bool lacks_class_row(const dinov_tensor *pos)
{
    return pos->rank == 3 && pos->dim[0] == 1 && is_square(pos->dim[1]) && !is_square(pos->dim[1] - 1);
}

static dinov_status add_made(struct map *m, const char *hub, const dinov_tensor *shape, const dinov_made *made, dinov_error *err)
{
    DINOV_TRY(dinov_tensors_add(&m->out->tensors, hub, strlen(hub), shape, m->where, err));
    m->out->made[m->out->tensors.count - 1] = *made;
    return DINOV_OK;
}

static dinov_status place_tensors(struct map *m, dinov_error *err)
{
    const dinov_tensor *cls = NULL;
    size_t              used;
    for (size_t i = 0; i < m->count && !m->entries[i].fate; i += used) {
        const struct entry *e = &m->entries[i];
        dinov_tensor        shape;
        dinov_made          made;
        for (used = 1; i + used < m->count && !e[used].fate && strcmp(e[used].hub, e->hub) == 0;) used++;
        DINOV_TRY(join(m, e, used, &shape, &made, err));
        m->joined |= made.pieces > 1;
        if (m->out->naming == DINOV_NAMING_TIMM && strcmp(e->hub, "pos_embed") == 0 && lacks_class_row(&shape)) {
            made.zeros = 1;
            shape.data = NULL;
            shape.dim[1] += 1;
            m->class_row = true;
        }
        if (strcmp(e->hub, "cls_token") == 0) cls = &made.piece[0]->tensor;
        m->out->restored |= strcmp(e->hub, "mask_token") == 0;
        DINOV_TRY(add_made(m, e->hub, &shape, &made, err));
    }
    if (!m->out->restored && cls && cls->rank == 3) {
        /* Only training uses it; whoever leaves it out means the backbone all the same. */
        const dinov_tensor shape = {.dtype = cls->dtype, .rank = 2, .dim = {1, cls->dim[2]}};
        const dinov_made   zeros = {.pieces = 0};
        return add_made(m, "mask_token", &shape, &zeros, err);
    }
    m->out->restored = true;
    return DINOV_OK;
}

static void say_transforms(const struct map *m)
{
    const struct {
        bool        holds;
        const char *word;
    } words[] = {
        {m->out->naming == DINOV_NAMING_HF, "hf-names"},
        {m->out->naming == DINOV_NAMING_TIMM, "timm-names"},
        {m->prefixed, "prefix-stripped"},
        {m->chunked, "unchunked"},
        {m->out->passed > 0, "backbone-only"},
        {m->joined, "joined"},
        {m->class_row, "class-position-zeros"},
        {!m->out->restored, "mask_token-zeros"},
    };
    size_t used = 0;
    for (size_t i = 0; i < COUNT(words); i++)
        if (words[i].holds)
            used += (size_t)snprintf(m->out->transforms + used, sizeof m->out->transforms - used, "%s%s", used ? "," : "",
                                     words[i].word);
    DINOV_ASSERT(used < sizeof m->out->transforms);
}

dinov_status dinov_names_map(dinov_names *out, const dinov_named_tensor *tensors, size_t count, const char *where, dinov_error *err)
{
    *out         = (dinov_names){.count = count};
    struct map m = {.out = out, .tensors = tensors, .count = count, .where = where};
    out->fate    = dinov_calloc(count, sizeof *out->fate);
    out->made    = dinov_calloc(count + 1, sizeof *out->made);
    m.entries    = dinov_calloc(count, sizeof *m.entries);

    dinov_status status = out->fate && out->made && m.entries ? DINOV_OK : dinov_fail_nomem(err, where, "the list of names");
    if (status == DINOV_OK) status = look(&m, err);
    if (status == DINOV_OK) {
        place_names(&m);
        status = place_tensors(&m, err);
    }
    if (status == DINOV_OK) say_transforms(&m);
    dinov_free(m.entries);
    return status;
}

dinov_status dinov_names_check(const dinov_names *names, const dinov_named_tensor *tensors, const char *where, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    if (names->leftover == 0) return DINOV_OK;
    const char *name = tensors[names->first_leftover].name;
    return dinov_fail(err, DINOV_ERR_FORMAT, "NAMES-LEFTOVER",
                      "%s: tensor %s: expected a tensor of the backbone, a head or a loss, found another (%zu such in all); "
                      "dinov-ckpt explain lists them",
                      where, dinov_escape(text, sizeof text, name, strlen(name)), names->leftover);
}

dinov_status dinov_names_fill(dinov_names *names, const char *where, dinov_error *err)
{
    for (size_t i = 0; i < names->tensors.count; i++) {
        dinov_tensor     *t    = &names->tensors.items[i].tensor;
        const dinov_made *made = &names->made[i];
        uint64_t          bytes, piece;
        void             *room;
        if (made->pieces == 1 && made->zeros == 0) continue;
        DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
        DINOV_TRY(dinov_tensors_room(&names->tensors, &room, bytes, where, err));
        uint8_t *to = room;
        for (int p = made->pieces; p-- > 0; bytes -= piece) { /* from the end: what remains in front is zeros */
            DINOV_ASSERT(dinov_tensor_bytes(&made->piece[p]->tensor, &piece) && piece <= bytes);
            if (piece) memcpy(to + bytes - piece, made->piece[p]->tensor.data, piece);
        }
        memset(to, 0, bytes);
        t->data = room;
    }
    return DINOV_OK;
}

void dinov_names_clear(dinov_names *names)
{
    dinov_tensors_clear(&names->tensors);
    dinov_free(names->made);
    dinov_free(names->fate);
    *names = (dinov_names){0};
}

/* ---- Writing ---- */

/* The rows of `t` that are `row`'s. */
static dinov_tensor rows_of(const dinov_tensor *t, const struct row *row)
{
    dinov_tensor view = *t;
    uint64_t     bytes;
    DINOV_ASSERT(dinov_tensor_bytes(t, &bytes) && (row->parts == 1 || (t->rank > 0 && t->dim[0] % row->parts == 0)));
    if (row->parts > 1) view.dim[0] /= row->parts;
    view.data = (const uint8_t *)t->data + bytes / (uint64_t)row->parts * (uint64_t)row->part;
    return view;
}

/* Adds one hub tensor under each name that `to` has for its rows; there may be none. */
static dinov_status add_renamed(dinov_tensors *out, const char *hub, const dinov_tensor *t, dinov_naming to, const char *where,
                                dinov_error *err)
{
    const char       *rest  = hub, *tail;
    int64_t           block = block_of(hub, false, &rest);
    const struct row *rows  = block < 0 ? outside : inside;
    size_t            count = block < 0 ? COUNT(outside) : COUNT(inside);
    for (size_t i = 0; i < count; i++) {
        const char  *theirs = to == DINOV_NAMING_HF ? rows[i].hf : rows[i].timm;
        char         name[96];
        dinov_tensor view;
        if (!theirs || rows[i].reads || !is_row(rest, rows[i].hub, &tail)) continue;
        if (block < 0)
            snprintf(name, sizeof name, "%s%s", theirs, tail);
        else
            snprintf(name, sizeof name, "%s.%lld.%s%s", to == DINOV_NAMING_HF ? "encoder.layer" : "blocks", (long long)block,
                     theirs, tail);
        view = rows_of(t, &rows[i]);
        DINOV_TRY(dinov_tensors_add(out, name, strlen(name), &view, where, err));
    }
    return DINOV_OK;
}

static float real_at(const dinov_tensor *t, int64_t i)
{
    const uint8_t *p = (const uint8_t *)t->data + (size_t)i * dinov_dtype_size(t->dtype);
    return t->dtype == DINOV_F16 ? dinov_le_f16(p) : t->dtype == DINOV_BF16 ? dinov_le_bf16(p) : dinov_le_f32(p);
}

/* The class token with its position added, in float whatever the two are stored in, so that nothing is rounded away; and the
 * positions of the patches alone. */
static dinov_status fold_class(dinov_tensors *out, dinov_tensor *cls, dinov_tensor *pos, const char *where, dinov_error *err)
{
    int64_t  dim = pos->dim[2];
    void    *room;
    uint8_t *sum;
    DINOV_TRY(dinov_tensors_room(out, &room, (uint64_t)dim * sizeof(float), where, err));
    sum = room;
    for (int64_t i = 0; i < dim; i++) {
        float    value = real_at(cls, i) + real_at(pos, i);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        dinov_put_le32(sum + 4 * i, bits);
    }
    cls->data  = sum;
    cls->dtype = DINOV_F32;
    pos->data  = (const uint8_t *)pos->data + (size_t)dim * dinov_dtype_size(pos->dtype);
    pos->dim[1] -= 1;
    return DINOV_OK;
}

dinov_status dinov_names_rename(dinov_tensors *out, const dinov_weights *weights, dinov_naming to, const char *where,
                                dinov_error *err)
{
    const dinov_model *m    = &weights->model;
    bool               fold = to == DINOV_NAMING_TIMM && m->registers > 0;
    dinov_tensor       cls, pos;

    *out = (dinov_tensors){0};
    DINOV_TRY(dinov_weights_check(weights, where, err));
    cls = *dinov_weights_find(weights, "cls_token");
    pos = *dinov_weights_find(weights, "pos_embed");
    if (fold) DINOV_TRY(fold_class(out, &cls, &pos, where, err));
    for (size_t i = 0; i < dinov_param_count(m); i++) {
        dinov_param p;
        dinov_param_at(m, i, &p);
        const dinov_tensor *t = strcmp(p.name, "cls_token") == 0   ? &cls
                                : strcmp(p.name, "pos_embed") == 0 ? &pos
                                                                   : dinov_weights_find(weights, p.name);
        DINOV_TRY(add_renamed(out, p.name, t, to, where, err));
    }
    return DINOV_OK;
}
