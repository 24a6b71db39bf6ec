/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/ort.h"

#include "base/alloc.h"

#include <dlfcn.h>
#include <string.h>

enum { TYPE_FLOAT = 1, TYPE_UINT8 = 2, NOT_IMPLEMENTED = 9, LOG_FATAL = 4, DEFAULT_ALLOCATOR = 1 /* arena */, DEFAULT_MEMORY = 0 };

typedef void *status;

/* OrtApi of version 1, by position; what is not used is a gap of as many pointers. */
struct api {
    void *gap0[1];
    int (*get_error_code)(status);                                  /* 1 */
    const char *(*get_error_message)(status);                       /* 2 */
    status (*create_env)(int severity, const char *id, void **env); /* 3 */
    void *gap4[3];
    status (*create_session)(void *env, const char *path, const void *options, void **session); /* 7 */
    void *gap8[1];
    status (*run)(void *session, const void *options, const char *const *input_names, const void *const *inputs, size_t input_count,
                  const char *const *output_names, size_t output_count, void **outputs); /* 9 */
    status (*create_session_options)(void **options);                                    /* 10 */
    void *gap11[13];
    status (*set_intra_op_num_threads)(void *options, int threads); /* 24 */
    void *gap25[6];
    status (*session_get_output_count)(const void *session, size_t *count); /* 31 */
    void *gap32[4];
    status (*session_get_input_name)(const void *session, size_t index, void *allocator, char **name);  /* 36 */
    status (*session_get_output_name)(const void *session, size_t index, void *allocator, char **name); /* 37 */
    void *gap38[11];
    status (*create_tensor_with_data)(const void *info, void *data, size_t bytes, const int64_t *shape, size_t rank, int type,
                                      void **value); /* 49 */
    void *gap50[1];
    status (*get_tensor_mutable_data)(void *value, void **data); /* 51 */
    void *gap52[8];
    status (*get_tensor_element_type)(const void *info, int *type);            /* 60 */
    status (*get_dimensions_count)(const void *info, size_t *count);           /* 61 */
    status (*get_dimensions)(const void *info, int64_t *values, size_t count); /* 62 */
    void *gap63[2];
    status (*get_tensor_type_and_shape)(const void *value, void **info); /* 65 */
    void *gap66[3];
    status (*create_cpu_memory_info)(int allocator, int memory, void **info); /* 69 */
    void *gap70[6];
    status (*allocator_free)(void *allocator, void *p); /* 76 */
    void *gap77[1];
    status (*get_allocator_with_default_options)(void **allocator); /* 78 */
    void *gap79[13];
    void (*release_env)(void *);         /* 92 */
    void (*release_status)(void *);      /* 93 */
    void (*release_memory_info)(void *); /* 94 */
    void (*release_session)(void *);     /* 95 */
    void (*release_value)(void *);       /* 96 */
    void *gap97[2];
    void (*release_tensor_type_and_shape_info)(void *); /* 99 */
    void (*release_session_options)(void *);            /* 100 */
};

struct api_base {
    const struct api *(*get_api)(uint32_t version);
    const char *(*get_version_string)(void);
};

struct dinov_ort {
    void                  *library, *env, *options, *session, *memory, *allocator;
    const struct api_base *base;
    const struct api      *api;
    char                  *where, *input;
    char                  *names[DINOV_ORT_OUTPUTS];
    void                  *values[DINOV_ORT_OUTPUTS];
    size_t                 count;
};

/* Takes over `s`; NULL is success. */
static dinov_status judge(const dinov_ort *ort, status s, const char *code, dinov_error *err)
{
    char text[700];
    if (!s) return DINOV_OK;
    const char  *words = ort->api->get_error_message(s);
    bool         lacks = ort->api->get_error_code(s) == NOT_IMPLEMENTED;
    dinov_status result =
        lacks ? dinov_fail(err, DINOV_ERR_UNSUPPORTED, "ORT-KERNEL", "%s: ONNX Runtime %s cannot run it here: %s", ort->where,
                           dinov_ort_version(ort), dinov_escape(text, sizeof text, words, strlen(words)))
              : dinov_fail(err, DINOV_ERR_CORRUPT, code, "%s: ONNX Runtime %s refuses it: %s", ort->where, dinov_ort_version(ort),
                           dinov_escape(text, sizeof text, words, strlen(words)));
    ort->api->release_status(s);
    return result;
}

static dinov_status load(dinov_ort *ort, const char *library, dinov_error *err)
{
    static const char *const usual[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
    char                     text[DINOV_ESCAPED];
    for (size_t i = 0; i < (library ? 1 : 2) && !ort->library; i++)
        ort->library = dlopen(library ? library : usual[i], RTLD_NOW | RTLD_LOCAL);
    const struct api_base *(*get)(void) = NULL;
    if (ort->library) *(void **)&get = dlsym(ort->library, "OrtGetApiBase");
    if (!get) {
        const char *why = dlerror();
        if (!library) why = "";
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "ORT-ABSENT",
                          "%s: expected the library of ONNX Runtime, found none%s%s; name it with --ort",
                          library ? dinov_escape(text, sizeof text, library, strlen(library)) : usual[0], why && *why ? ": " : "",
                          why ? why : "");
    }
    ort->base = get();
    ort->api  = ort->base->get_api(1);
    return ort->api
               ? DINOV_OK
               : dinov_fail(err, DINOV_ERR_UNSUPPORTED, "ORT-ABSENT",
                            "%s: ONNX Runtime %s: expected version 1 of its C API, found none", ort->where, dinov_ort_version(ort));
}

static dinov_status open_session(dinov_ort *ort, const char *model, int threads, dinov_error *err)
{
    const struct api *a = ort->api;
    DINOV_TRY(judge(ort, a->create_env(LOG_FATAL, "dinov", &ort->env), "ORT-REFUSED", err));
    DINOV_TRY(judge(ort, a->create_session_options(&ort->options), "ORT-REFUSED", err));
    DINOV_TRY(judge(ort, a->set_intra_op_num_threads(ort->options, threads), "ORT-REFUSED", err));
    DINOV_TRY(judge(ort, a->create_session(ort->env, model, ort->options, &ort->session), "ORT-REFUSED", err));
    DINOV_TRY(judge(ort, a->create_cpu_memory_info(DEFAULT_ALLOCATOR, DEFAULT_MEMORY, &ort->memory), "ORT-REFUSED", err));
    DINOV_TRY(judge(ort, a->get_allocator_with_default_options(&ort->allocator), "ORT-REFUSED", err));
    DINOV_TRY(judge(ort, a->session_get_input_name(ort->session, 0, ort->allocator, &ort->input), "ORT-REFUSED", err));
    size_t count;
    DINOV_TRY(judge(ort, a->session_get_output_count(ort->session, &count), "ORT-REFUSED", err));
    if (count > DINOV_ORT_OUTPUTS)
        return dinov_fail(err, DINOV_ERR_LIMIT, "ORT-OUTPUT", "%s: expected at most %d outputs, found %zu", ort->where,
                          DINOV_ORT_OUTPUTS, count);
    for (; ort->count < count; ort->count++)
        DINOV_TRY(judge(ort, a->session_get_output_name(ort->session, ort->count, ort->allocator, &ort->names[ort->count]),
                        "ORT-REFUSED", err));
    return DINOV_OK;
}

dinov_status dinov_ort_open(dinov_ort **out, const char *library, const char *model, int threads, dinov_error *err)
{
    char         text[DINOV_ESCAPED];
    dinov_status status;
    *out           = NULL;
    dinov_ort *ort = dinov_calloc(1, sizeof *ort);
    if (!ort) return dinov_fail_nomem(err, "ONNX Runtime", "a session");
    ort->where = dinov_strdup(dinov_escape(text, sizeof text, model, strlen(model)));
    if (!ort->where) {
        status = dinov_fail_nomem(err, "ONNX Runtime", "a name");
        goto fail;
    }
    DINOV_TRY_GOTO(load(ort, library, err));
    DINOV_TRY_GOTO(open_session(ort, model, threads, err));
    *out = ort;
    return DINOV_OK;
fail:
    dinov_ort_close(&ort);
    return status;
}

static void release_values(dinov_ort *ort)
{
    for (size_t i = 0; i < ort->count; i++) {
        if (ort->values[i]) ort->api->release_value(ort->values[i]);
        ort->values[i] = NULL;
    }
}

void dinov_ort_close(dinov_ort **pointer)
{
    dinov_ort *ort = pointer ? *pointer : NULL;
    if (!ort) return;
    const struct api *a = ort->api;
    if (a) {
        release_values(ort);
        for (size_t i = 0; i < ort->count; i++) a->allocator_free(ort->allocator, ort->names[i]);
        if (ort->input) a->allocator_free(ort->allocator, ort->input);
        if (ort->memory) a->release_memory_info(ort->memory);
        if (ort->session) a->release_session(ort->session);
        if (ort->options) a->release_session_options(ort->options);
        if (ort->env) a->release_env(ort->env);
    }
    /* The library stays loaded: it keeps threads and handlers of its own. */
    dinov_free(ort->where);
    dinov_free(ort);
    *pointer = NULL;
}

const char *dinov_ort_version(const dinov_ort *ort) { return ort->base->get_version_string(); }

dinov_status dinov_ort_run(dinov_ort *ort, const void *input, bool bytes, const int64_t dim[4], dinov_error *err)
{
    size_t      size = (size_t)(dim[0] * dim[1] * dim[2] * dim[3]) * (bytes ? 1 : sizeof(float));
    void       *value;
    const char *names[1] = {ort->input};
    release_values(ort);
    DINOV_TRY(judge(ort,
                    ort->api->create_tensor_with_data(ort->memory, (void *)(uintptr_t)input, size, dim, 4,
                                                      bytes ? TYPE_UINT8 : TYPE_FLOAT, &value),
                    "ORT-RUN", err));
    const void  *values[1] = {value};
    dinov_status status =
        judge(ort, ort->api->run(ort->session, NULL, names, values, 1, (const char *const *)ort->names, ort->count, ort->values),
              "ORT-RUN", err);
    ort->api->release_value(value);
    return status;
}

size_t dinov_ort_count(const dinov_ort *ort) { return ort->count; }

dinov_status dinov_ort_output_at(dinov_ort *ort, size_t index, dinov_ort_output *out, dinov_error *err)
{
    const struct api *a    = ort->api;
    void             *info = NULL, *data = NULL;
    int               type = 0;
    size_t            rank = 0;
    *out                   = (dinov_ort_output){.name = ort->names[index]};
    DINOV_TRY(judge(ort, a->get_tensor_type_and_shape(ort->values[index], &info), "ORT-OUTPUT", err));
    dinov_status status = judge(ort, a->get_tensor_element_type(info, &type), "ORT-OUTPUT", err);
    if (status == DINOV_OK) status = judge(ort, a->get_dimensions_count(info, &rank), "ORT-OUTPUT", err);
    if (status == DINOV_OK && (type != TYPE_FLOAT || rank > 4))
        status = dinov_fail(err, DINOV_ERR_CORRUPT, "ORT-OUTPUT",
                            "%s: output %s: expected f32 of at most 4 dimensions, found another tensor", ort->where, out->name);
    if (status == DINOV_OK) status = judge(ort, a->get_dimensions(info, out->dim, rank), "ORT-OUTPUT", err);
    if (status == DINOV_OK) status = judge(ort, a->get_tensor_mutable_data(ort->values[index], &data), "ORT-OUTPUT", err);
    a->release_tensor_type_and_shape_info(info);
    out->rank   = (int)rank;
    out->values = data;
    return status;
}
