/* SPDX-License-Identifier: Apache-2.0
 *
 * The frame every program shares: an option table, help printed from it, messages, exit codes.
 * A program is a table, a run function that calls the library, and one call of dinov_tool_main.
 */
#ifndef DINOV_CLI_TOOL_H
#define DINOV_CLI_TOOL_H

#include "base/fail.h"

#include <stdbool.h>

enum { DINOV_EXIT_OK = 0, DINOV_EXIT_INPUT = 2, DINOV_EXIT_SYSTEM = 3, DINOV_EXIT_LIMIT = 4, DINOV_EXIT_USAGE = 64,
       DINOV_EXIT_BUG = 70, DINOV_EXIT_TERM = 143 };

typedef enum dinov_opt_kind {
    DINOV_OPT_FLAG, /* bool *       set to true */
    DINOV_OPT_TEXT, /* const char ** points into argv */
    DINOV_OPT_INT,  /* int64_t *    decimal, within [min, max] */
    DINOV_OPT_LIST, /* dinov_opt_list *  may be given again; points into argv */
} dinov_opt_kind;

enum { DINOV_OPT_LIST_MAX = 256 };

typedef struct dinov_opt_list {
    const char *value[DINOV_OPT_LIST_MAX];
    int         count;
} dinov_opt_list;

typedef struct dinov_opt {
    char           letter;  /* 0: none */
    const char    *name;    /* long name without dashes; NULL ends the table */
    dinov_opt_kind kind;
    void          *value;
    const char    *operand; /* how help names the value: "FILE", "N"; NULL for a flag */
    const char    *help;    /* one line, ends with the default: "threads (default 0: all cores)" */
    int64_t        min, max;
    bool           common;  /* shown by -h; the rest only by --help */
} dinov_opt;

/* The row of every program that reads foreign weights. */
#define DINOV_OPT_NO_FENCE(value)                                                                                                   \
    {                                                                                                                               \
        0, "no-fence", DINOV_OPT_FLAG, value, NULL, "read foreign weights in this process, not in a confined one", .common = false \
    }

typedef struct dinov_tool {
    const char      *name;     /* "dinov-infer" */
    const char      *usage;    /* after the name: "-m MODEL -o OUT INPUT..." */
    const char      *summary;  /* one sentence */
    const char      *examples; /* two real commands with a line on each */
    const char      *details;  /* further text for --help, or NULL */
    const dinov_opt *options;  /* -h, --help, --version are added by the frame */
    /* Positional arguments only; returns the exit code. */
    int (*run)(const struct dinov_tool *tool, int argc, char **argv);
} dinov_tool;

/* Parses, handles help and version, runs. Returns the exit code. */
int dinov_tool_main(const dinov_tool *tool, int argc, char **argv);

/* A program of several verbs: `dinov-ckpt show FILE`. `verbs` ends in NULL; each is a tool of its own,
 * named "dinov-ckpt show", and argv[1] picks it by its last word. Returns the exit code. */
int dinov_tool_verbs(const char *name, const char *summary, const dinov_tool *const *verbs, int argc, char **argv);

/* Prints "NAME: message [CODE]" and returns the exit code its status maps to. */
int dinov_tool_fail(const dinov_tool *tool, const dinov_error *err);

/* Prints a usage sentence and returns 64. */
int dinov_tool_usage(const dinov_tool *tool, const char *format, ...) DINOV_PRINTF(2, 3);

/* The operand of --max-bad: a whole number, or a percentage. 0, or prints a usage sentence and returns 64. */
int dinov_tool_max_bad(const dinov_tool *tool, const char *text, double *max_bad, bool *percent);

/* The operand of --layers: up to `most` block indices, "-1,-4". 0, or prints a usage sentence and returns 64. */
int dinov_tool_layers(const dinov_tool *tool, const char *text, int *layers, int most, int *count);

/* A line on stderr: "NAME: ...". */
void dinov_tool_note(const dinov_tool *tool, const char *format, ...) DINOV_PRINTF(2, 3);
/* The same, as libraries call it: `tool` is the program's dinov_tool. */
void dinov_tool_pass_on(void *tool, const char *sentence);

/* Results on stdout reach their destination or the program fails: call before returning success. */
int dinov_tool_flush(const dinov_tool *tool);

/* An operand that stands for training checkpoints: a run's folder, a step's, or RUN@STEP. */
bool dinov_tool_is_run(const char *operand);

#endif
