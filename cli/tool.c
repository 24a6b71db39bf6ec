/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void print_options(const dinov_tool *tool, bool all)
{
    for (const dinov_opt *o = tool->options; o->name; o++) {
        char left[64];
        if (!all && !o->common) continue;
        snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->letter ? "," : " ", o->name, o->operand ? " " : "", o->operand ? o->operand : "");
        printf("  %-28s %s\n", left, o->help);
    }
    printf("  %-28s %s\n", "-h, --help", all ? "-h: the short help; --help: this" : "this; --help: everything");
    printf("  %-28s %s\n", "    --version", "print the version");
}

static int print_help(const dinov_tool *tool, bool all)
{
    printf("%s: %s\n\nusage: %s %s\n\n", tool->name, tool->summary, tool->name, tool->usage);
    print_options(tool, all);
    if (all && tool->details) printf("\n%s", tool->details);
    printf("\nexamples:\n%s", tool->examples);
    if (all)
        printf("\nexit codes: 0 done, 2 input refused, 3 the environment failed, 4 a limit was exceeded,\n"
               "64 wrong usage, 70 internal error, 143 stopped by SIGTERM\n");
    return dinov_tool_flush(tool);
}

int dinov_tool_layers(const dinov_tool *tool, const char *text, int *layers, int most, int *count)
{
    *count = 0;
    for (const char *p = text;;) {
        char *end;
        long  layer = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || layer < -4096 || layer > 4096 || *count == most)
            return dinov_tool_usage(tool, "--layers: expected up to %d block indices like -1,-4, found \"%s\"", most, text);
        layers[(*count)++] = (int)layer;
        if (!*end) return 0;
        p = end + 1;
    }
}

void dinov_tool_note(const dinov_tool *tool, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", tool->name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

void dinov_tool_pass_on(void *tool, const char *sentence) { dinov_tool_note(tool, "%s", sentence); }

int dinov_tool_usage(const dinov_tool *tool, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", tool->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, "; see %s -h\n", tool->name);
    va_end(args);
    return DINOV_EXIT_USAGE;
}

int dinov_tool_fail(const dinov_tool *tool, const dinov_error *err)
{
    fprintf(stderr, "%s: %s [%s]\n", tool->name, err->msg, err->code);
    switch (err->status) {
#define X(name, value, text, exit_code) \
    case DINOV_##name: return exit_code;
        DINOV_STATUS_MAP(X)
#undef X
    }
    return DINOV_EXIT_BUG;
}

int dinov_tool_flush(const dinov_tool *tool)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return DINOV_EXIT_OK;
    dinov_tool_note(tool, "cannot write the results to standard output: %s", strerror(errno));
    return DINOV_EXIT_SYSTEM;
}

static const dinov_opt *find_option(const dinov_tool *tool, const char *name, size_t length, char letter)
{
    for (const dinov_opt *o = tool->options; o->name; o++)
        if (letter ? o->letter == letter : strlen(o->name) == length && memcmp(o->name, name, length) == 0) return o;
    return NULL;
}

static int set_option(const dinov_tool *tool, const dinov_opt *o, const char *text)
{
    if (o->kind == DINOV_OPT_TEXT) {
        *(const char **)o->value = text;
        return 0;
    }
    if (o->kind == DINOV_OPT_LIST) {
        dinov_opt_list *list = o->value;
        if (list->count == DINOV_OPT_LIST_MAX)
            return dinov_tool_usage(tool, "--%s: expected at most %d of them", o->name, DINOV_OPT_LIST_MAX);
        list->value[list->count++] = text;
        return 0;
    }
    char *end;
    errno             = 0;
    long long number = strtoll(text, &end, 10);
    if (errno || end == text || *end || number < o->min || number > o->max)
        return dinov_tool_usage(tool, "--%s: expected a whole number from %lld to %lld, found \"%s\"", o->name,
                                (long long)o->min, (long long)o->max, text);
    *(int64_t *)o->value = number;
    return 0;
}

int dinov_tool_max_bad(const dinov_tool *tool, const char *text, double *max_bad, bool *percent)
{
    char *end;
    *max_bad      = strtod(text, &end);
    *percent      = *end == '%';
    bool in_range = *max_bad >= 0 && *max_bad <= (*percent ? 100 : 1e15); /* before the conversion; false for NaN */
    bool whole    = in_range && (*percent || *max_bad == (double)(int64_t)*max_bad);
    if (end != text && !end[*percent] && whole) return 0;
    return dinov_tool_usage(tool, "--max-bad: expected a whole number or a percentage up to 100%%, found \"%s\"", text);
}

int dinov_tool_main(const dinov_tool *tool, int argc, char **argv)
{
    int  positional = 0;
    bool only_names = false;

    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (only_names || arg[0] != '-' || arg[1] == '\0') {
            argv[positional++] = argv[i];
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_names = true;
            continue;
        }
        if (strcmp(arg, "-h") == 0) return print_help(tool, false);
        if (strcmp(arg, "--help") == 0) return print_help(tool, true);
        if (strcmp(arg, "--version") == 0) {
            printf("%s %s\n", tool->name, DINOV_VERSION_STRING);
            return dinov_tool_flush(tool);
        }
        bool             is_long = arg[1] == '-';
        const char      *equals  = is_long ? strchr(arg, '=') : NULL;
        size_t           length  = is_long ? (equals ? (size_t)(equals - arg) : strlen(arg)) - 2 : 0;
        const dinov_opt *o       = is_long ? find_option(tool, arg + 2, length, 0) : find_option(tool, NULL, 0, arg[1]);
        if (!o) return dinov_tool_usage(tool, "unknown option %s", arg);
        if (o->kind == DINOV_OPT_FLAG) {
            if (equals || (!is_long && arg[2])) return dinov_tool_usage(tool, "%s: this option takes no value", arg);
            *(bool *)o->value = true;
            continue;
        }
        const char *text = equals ? equals + 1 : !is_long && arg[2] ? arg + 2 : i + 1 < argc ? argv[++i] : NULL;
        if (!text) return dinov_tool_usage(tool, "--%s: expected %s after it", o->name, o->operand);
        int code = set_option(tool, o, text);
        if (code) return code;
    }
    return tool->run(tool, positional, argv);
}

static int print_verbs(const char *name, const char *summary, const dinov_tool *const *verbs)
{
    printf("%s: %s\n\n", name, summary);
    for (const dinov_tool *const *v = verbs; *v; v++) printf("  %s %s\n      %s\n", (*v)->name, (*v)->usage, (*v)->summary);
    printf("\nexamples:\n%s\nEach verb has its own -h and --help.\n", verbs[0]->examples);
    return dinov_tool_flush(verbs[0]);
}

int dinov_tool_verbs(const char *name, const char *summary, const dinov_tool *const *verbs, int argc, char **argv)
{
    const dinov_tool self = {.name = name};
    if (argc < 2) return dinov_tool_usage(&self, "expected a verb");
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0) return print_verbs(name, summary, verbs);
    if (strcmp(argv[1], "--version") == 0) {
        printf("%s %s\n", name, DINOV_VERSION_STRING);
        return dinov_tool_flush(&self);
    }
    for (const dinov_tool *const *v = verbs; *v; v++) {
        const char *verb = strrchr((*v)->name, ' ');
        DINOV_ASSERT(verb);
        if (strcmp(argv[1], verb + 1) == 0) return dinov_tool_main(*v, argc - 1, argv + 1);
    }
    return dinov_tool_usage(&self, "unknown verb \"%s\"", argv[1]);
}

bool dinov_tool_is_run(const char *operand)
{
    struct stat s;
    return stat(operand, &s) == 0 ? S_ISDIR(s.st_mode) : strchr(operand, '@') != NULL;
}
