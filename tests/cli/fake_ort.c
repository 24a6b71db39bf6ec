/* SPDX-License-Identifier: Apache-2.0
 *
 * A library with ONNX Runtime's C API that fails as the model's name asks, so that every refusal can be met: "refuse",
 * "kernel", "run", "kind", "wrong", "names". Positions are those of OrtApi, version 1.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FLOATS = 1 << 20, GENERIC = 1, LACKING = 9 };

static char  mode[4096];
static float zeros[FLOATS];

typedef struct failure {
    int code;
} failure;

static failure *fail(int code)
{
    failure *f = malloc(sizeof *f);
    if (f) f->code = code;
    return f;
}

static int         code_of(failure *f) { return f->code; }
static const char *words_of(failure *f) { return f->code == LACKING ? "no kernel\n" : "no, \x1b[31mthanks"; }
static void        drop(void *p) { free(p); }
static void        keep(void *p) { (void)p; }
static failure    *give(void **out) { *out = zeros; return NULL; }
static failure    *create_env(int severity, const char *id, void **env) { (void)severity, (void)id; return give(env); }
static failure    *set_threads(void *options, int n) { (void)options, (void)n; return NULL; }
static failure    *memory_info(int a, int b, void **out) { (void)a, (void)b; return give(out); }

static failure *create_session(void *env, const char *path, const void *options, void **session)
{
    (void)env, (void)options;
    const char *base = strrchr(path, '/');
    strncpy(mode, base ? base + 1 : path, sizeof mode - 1);
    if (strstr(mode, "refuse")) return fail(GENERIC);
    if (strstr(mode, "kernel")) return fail(LACKING);
    return give(session);
}

static failure *count(const void *session, size_t *n) { (void)session; *n = strstr(mode, "fewer") ? 1 : 2; return NULL; }
static char    *copy(const char *text) { char *c = malloc(strlen(text) + 1); return c ? strcpy(c, text) : NULL; }

static failure *input_name(const void *s, size_t i, void *a, char **name) { (void)s, (void)i, (void)a; *name = copy("image"); return NULL; }
static failure *output_name(const void *s, size_t i, void *a, char **name)
{
    (void)s, (void)a;
    *name = copy(strstr(mode, "names") ? "other" : i ? "patch" : "cls");
    return NULL;
}
static failure *free_name(void *a, void *p) { (void)a; free(p); return NULL; }
static failure *create_tensor(const void *info, void *data, size_t bytes, const int64_t *shape, size_t rank, int type, void **value)
{
    (void)info, (void)data, (void)bytes, (void)shape, (void)rank, (void)type;
    *value = NULL;
    return NULL;
}

/* Values are 1 for the CLS vector [1, 64] and 2 for the patches [1, 25, 64]. */
static failure *run(void *s, const void *o, const char *const *in, const void *const *v, size_t n, const char *const *out, size_t m, void **values)
{
    (void)s, (void)o, (void)in, (void)v, (void)n, (void)out;
    if (strstr(mode, "run")) return fail(GENERIC);
    for (size_t i = 0; i < m; i++) values[i] = (void *)(uintptr_t)(i + 1);
    return NULL;
}
static failure *data_of(void *value, void **data) { (void)value; return give(data); }
static failure *shape_of(const void *value, void **info) { *info = (void *)(uintptr_t)value; return NULL; }
static failure *type_of(const void *info, int *type) { (void)info; *type = strstr(mode, "kind") ? 7 : 1; return NULL; }
static failure *rank_of(const void *info, size_t *rank) { *rank = (uintptr_t)info == 1 ? 2 : 3; return NULL; }
static failure *dims_of(const void *info, int64_t *dims, size_t rank)
{
    dims[0] = 1, dims[rank - 1] = 64;
    if ((uintptr_t)info != 1) dims[1] = 25;
    return NULL;
}

static const void *table[101];
static const void *get_api(uint32_t version) { return version == 1 ? table : NULL; }
static const char *version(void) { return "0.fake"; }

const void *OrtGetApiBase(void);
const void *OrtGetApiBase(void)
{
    static const void *base[2];
    for (size_t i = 0; i < 101; i++) table[i] = (const void *)abort;
    table[1] = (const void *)code_of, table[2] = (const void *)words_of, table[3] = (const void *)create_env;
    table[7] = (const void *)create_session, table[9] = (const void *)run, table[10] = (const void *)give, table[24] = (const void *)set_threads;
    table[31] = (const void *)count, table[36] = (const void *)input_name, table[37] = (const void *)output_name;
    table[49] = (const void *)create_tensor, table[51] = (const void *)data_of, table[60] = (const void *)type_of;
    table[61] = (const void *)rank_of, table[62] = (const void *)dims_of, table[65] = (const void *)shape_of, table[69] = (const void *)memory_info;
    table[76] = (const void *)free_name, table[78] = (const void *)give, table[93] = (const void *)drop;
    for (size_t i = 92; i < 101; i++)
        if (i != 93) table[i] = (const void *)keep;
    base[0] = (const void *)get_api, base[1] = (const void *)version;
    return base;
}
