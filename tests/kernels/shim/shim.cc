/* SPDX-License-Identifier: Apache-2.0
 *
 * A block's threads as fibers, and what they do together. A thread runs until it waits, then the next one of its warp;
 * when all lanes wait, what they wait for is done and they go on; a warp runs until all its lanes wait
 * for the block, then the next warp. So without a barrier one thread is far ahead of another, and which of them
 * is turned round by the other orders.
 */
#include "kernels/cuda/cuda.cuh"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#if defined(__has_feature)
#define SHIM_HAS(feature) __has_feature(feature)
#else
#define SHIM_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || SHIM_HAS(address_sanitizer)
#define SHIM_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define SHIM_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || SHIM_HAS(thread_sanitizer)
#define SHIM_TSAN 1
#include <sanitizer/tsan_interface.h>
#else
#define SHIM_TSAN 0
#endif
/* A switch of our own takes 5 ns; that of ucontext, for other CPUs, makes system calls. */
#if defined(__x86_64__) && !defined(SHIM_UCONTEXT)
#define SHIM_OWN_SWITCH 1
#else
#define SHIM_OWN_SWITCH 0
#include <ucontext.h>
#endif

enum { LANES = 32, MOST_THREADS = 1024, STACK = (SHIM_ASAN || SHIM_TSAN ? 512 : 128) * 1024, ALIGN = 256, ZONE = 4096 };

dim3    threadIdx, blockIdx, blockDim, gridDim;
int64_t shim_shared_limit = 163 * 1024;
int64_t shim_launches, shim_switches;

/* ---- guarded memory ---- */

/* In bf16, f16 and float alike not a number, and not the one that arithmetic makes. */
static const unsigned char pattern[2] = {0xee, 0xff};

void shim_spoil(void *memory, size_t size)
{
    unsigned char *p = (unsigned char *)memory;
    for (size_t i = 0; i < size && i < sizeof pattern; i++) p[i] = pattern[i];
    for (size_t done = sizeof pattern; done < size; done *= 2) memcpy(p + done, p, done < size - done ? done : size - done);
}

static size_t rounded(size_t size) { return (size + ALIGN - 1) / ALIGN * ALIGN; }

unsigned char *shim_guarded_new(size_t size)
{
    unsigned char *base = (unsigned char *)aligned_alloc(ALIGN, rounded(size) + 2 * ZONE);
    if (!base) return NULL;
    shim_spoil(base, rounded(size) + 2 * ZONE);
#if SHIM_ASAN
    ASAN_POISON_MEMORY_REGION(base, ZONE);
    ASAN_POISON_MEMORY_REGION(base + ZONE + size, rounded(size) - size + ZONE);
#endif
    return base + ZONE;
}

void shim_guarded_check(const unsigned char *memory, size_t size, const char *what)
{
#if SHIM_ASAN
    (void)memory, (void)size, (void)what; /* the sanitizer stops whoever touches a guard */
#else
    static const struct guard {
        guard() { shim_spoil(bytes, sizeof bytes); }
        unsigned char bytes[ZONE + ALIGN + 2];
    } want;
    size_t rest = rounded(size) - size + ZONE;
    if (memcmp(memory - ZONE, want.bytes, ZONE))
        for (int64_t i = 1; i <= ZONE; i++)
            if (memory[-i] != pattern[i & 1]) shim_fault("%s: the byte %lld before it was overwritten", what, (long long)i);
    if (memcmp(memory + size, want.bytes + (size & 1), rest))
        for (size_t i = size; i < size + rest; i++)
            if (memory[i] != pattern[i & 1]) shim_fault("%s: the byte %lld after it was overwritten", what, (long long)(i - size));
#endif
}

void shim_guarded_free(unsigned char *memory, size_t size, const char *what)
{
    shim_guarded_check(memory, size, what);
#if SHIM_ASAN
    ASAN_UNPOISON_MEMORY_REGION(memory - ZONE, rounded(size) + 2 * ZONE);
#endif
    free(memory - ZONE);
}

/* ---- fibers ---- */

enum state { READY, WAITING, DONE };

struct copy {
    void       *shared;
    const void *global;
    int         bytes, group;
};

struct fiber {
    unsigned char    *stack;
    dim3              index;
    enum state        state;
    shim_wait         kind;
    void             *argument;
    const char       *file;
    int               line;
    int               group; /* copies begun now belong to it */
    std::vector<copy> copies;
#if SHIM_OWN_SWITCH
    void *sp;
#else
    ucontext_t context;
#endif
    void *fake_stack; /* the sanitizer's */
    void *race;       /* the race detector's */
};

static struct {
    const char                  *what; /* NULL: nothing runs */
    const std::function<void()> *body;
    unsigned char               *shared;
    int64_t                      shared_size;
    int                          threads;
    fiber                       *current; /* NULL: the scheduler */
    enum shim_order              order;
    uint64_t                     state;
#if SHIM_OWN_SWITCH
    void *sp;
#else
    ucontext_t context;
#endif
    const void *bottom; /* of the scheduler's stack */
    size_t      size;
    void       *fake_stack, *race;
} the;

static std::vector<fiber> fibers;

static const char *const waits[] = {"nothing",       "a block barrier",          "a warp barrier", "a shuffle",
                                    "load_matrices", "load_matrices_transposed", "multiply<bf16>", "multiply<f16>"};

void shim_fault(const char *format, ...)
{
    char    text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fflush(stdout);
    fprintf(stderr, "shim: ");
    if (the.what) fprintf(stderr, "kernel %s, block (%u, %u, %u)", the.what, blockIdx.x, blockIdx.y, blockIdx.z);
    if (the.what && the.current) fprintf(stderr, ", thread %u", threadIdx.x);
    fprintf(stderr, "%s%s.\n", the.what ? ": " : "", text);
    fflush(stderr);
    _exit(70);
}

#if !SHIM_ASAN && !SHIM_TSAN
/* On a stack of its own, as a thread's may be what is full. */
static void stopped(int signal)
{
    if (the.what)
        shim_fault("it touched memory that it may not, or 16 bytes that do not begin at a multiple of 16 (signal %d)", signal);
    raise(signal);
}

__attribute__((constructor)) static void catch_signals()
{
    static unsigned char room[65536];
    stack_t              stack  = {};
    struct sigaction     action = {};
    stack.ss_sp = room, stack.ss_size = sizeof room;
    action.sa_handler = stopped, action.sa_flags = SA_ONSTACK | (int)SA_RESETHAND;
    sigaltstack(&stack, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}
#endif

#if SHIM_OWN_SWITCH
extern "C" void shim_switch(void **from, void *to);
asm(".text\n"
    ".p2align 4\n"
    ".globl shim_switch\n"
    ".hidden shim_switch\n"
    ".type shim_switch, @function\n"
    "shim_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size shim_switch, . - shim_switch\n");
#endif

/* To the scheduler and, some time, back. */
static void leave()
{
    fiber *f = the.current;
#if SHIM_ASAN
    __sanitizer_start_switch_fiber(&f->fake_stack, the.bottom, the.size);
#elif SHIM_TSAN
    __tsan_switch_to_fiber(the.race, 0);
#endif
#if SHIM_OWN_SWITCH
    shim_switch(&f->sp, the.sp);
#else
    swapcontext(&f->context, &the.context);
#endif
#if SHIM_ASAN
    __sanitizer_finish_switch_fiber(f->fake_stack, &the.bottom, &the.size);
#endif
}

/* A fiber runs one thread after another. */
static void live()
{
#if SHIM_ASAN
    __sanitizer_finish_switch_fiber(NULL, &the.bottom, &the.size);
#endif
    for (;;) {
        (*the.body)();
        the.current->state = DONE;
        leave();
    }
}

static void enter(fiber *f)
{
    the.current = f;
    threadIdx   = f->index;
    shim_switches++;
#if SHIM_ASAN
    __sanitizer_start_switch_fiber(&the.fake_stack, f->stack, STACK);
#elif SHIM_TSAN
    the.race = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f->race, 0);
#endif
#if SHIM_OWN_SWITCH
    shim_switch(&the.sp, f->sp);
#else
    swapcontext(&the.context, &f->context);
#endif
#if SHIM_ASAN
    __sanitizer_finish_switch_fiber(the.fake_stack, NULL, NULL);
#endif
    the.current = NULL;
}

/* A stack with a page below it that nobody may touch. Tops are not all the same address in the cache. */
static void fiber_init(fiber *f, size_t i)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void  *base = mmap(NULL, page + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || mprotect(base, page, PROT_NONE)) shim_fault("no memory for the stacks of a block's threads");
    f->stack = (unsigned char *)base + page;
#if SHIM_TSAN
    f->race = __tsan_create_fiber(0);
#endif
#if SHIM_OWN_SWITCH
    void **top = (void **)(void *)(f->stack + STACK - i % 16 * 192);
    *--top     = NULL; /* where `live` would return to */
    *--top     = (void *)live;
    for (int r = 0; r < 6; r++) *--top = NULL;
    f->sp = top;
#else
    (void)i;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp   = f->stack;
    f->context.uc_stack.ss_size = STACK;
    makecontext(&f->context, live, 0);
#endif
}

/* ---- orders ---- */

static uint64_t draw()
{
    the.state ^= the.state << 13, the.state ^= the.state >> 7, the.state ^= the.state << 17;
    return the.state >> 11;
}

void shim_set_order(enum shim_order order, uint64_t seed)
{
    the.order = order;
    the.state = (seed + 1) * 0x9e3779b97f4a7c15u;
}

__attribute__((constructor)) static void order_of_environment()
{
    const char *order = getenv("SHIM_ORDER");
    shim_set_order(SHIM_PLAIN, 0);
    if (order && !strcmp(order, "reversed")) shim_set_order(SHIM_REVERSED, 0);
    if (order && !strcmp(order, "random")) shim_set_order(SHIM_RANDOM, 0);
}

static void arrange(std::vector<int64_t> &order)
{
    int64_t n = (int64_t)order.size();
    for (int64_t i = 0; i < n; i++) order[(size_t)i] = the.order == SHIM_REVERSED ? n - 1 - i : i;
    for (int64_t i = n - 1; i > 0 && the.order == SHIM_RANDOM; i--)
        std::swap(order[(size_t)i], order[(size_t)(draw() % (uint64_t)(i + 1))]);
}

/* ---- what a warp does together ---- */

static void do_shuffle(fiber *lane)
{
    for (int i = 0; i < LANES; i++) {
        shim_shuffle *s = (shim_shuffle *)lane[i].argument;
        if ((unsigned)s->mask >= LANES) shim_fault("lane %d shuffles with the mask %d", i, s->mask);
        s->result = ((shim_shuffle *)lane[i ^ s->mask].argument)->value;
    }
}

static void check_shared(const void *p, size_t size, const char *what)
{
    const unsigned char *at = (const unsigned char *)p;
    if (at < the.shared || at + size > the.shared + the.shared_size)
        shim_fault("%s outside of shared memory, at byte %lld of %lld", what, (long long)(at - the.shared),
                   (long long)the.shared_size);
    if ((uintptr_t)p % 16)
        shim_fault("%s at byte %lld of shared memory, which is not a multiple of 16", what, (long long)(at - the.shared));
}

static void do_load(fiber *lane, bool transposed)
{
    uint16_t m[LANES][8]; /* rows of the four matrices */
    for (int i = 0; i < LANES; i++) {
        const void *row = ((shim_load *)lane[i].argument)->row;
        check_shared(row, sizeof m[i], waits[lane[i].kind]);
        memcpy(m[i], row, sizeof m[i]);
    }
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) {
            int      at = l / 4, pair = l % 4 * 2;
            uint32_t low  = transposed ? m[8 * i + pair][at] : m[8 * i + at][pair];
            uint32_t high = transposed ? m[8 * i + pair + 1][at] : m[8 * i + at][pair + 1];
            ((shim_load *)lane[l].argument)->r[i] = low | high << 16;
        }
}

/* Lane 4g + t holds of a: rows g, g + 8 of columns 2t, 2t + 1 and then of columns 2t + 8, 2t + 9; of b: rows 2t, 2t + 1 and 2t + 8,
 * 2t + 9 of column g; of d: columns 2t, 2t + 1 of row g and then of row g + 8. */
template <typename T> static void do_multiply(fiber *lane)
{
    float a[16][16], b[16][8];
    for (int l = 0; l < LANES; l++) {
        const shim_multiply *m = (const shim_multiply *)lane[l].argument;
        int                  g = l / 4, t = l % 4;
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++)
                a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = to_float(T{(uint16_t)(m->a[i] >> (16 * half))});
            for (int i = 0; i < 2; i++) b[2 * t + i * 8 + half][g] = to_float(T{(uint16_t)(m->b[i] >> (16 * half))});
        }
    }
    for (int row = 0; row < 16; row++) {
        float sum[8] = {0};
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) sum[j] += a[row][k] * b[k][j];
        for (int j = 0; j < 8; j++) ((shim_multiply *)lane[row % 8 * 4 + j / 2].argument)->d[row / 8 * 2 + j % 2] += sum[j];
    }
}

static void do_together(fiber *lane)
{
    switch (lane->kind) {
    case SHIM_SHUFFLE: do_shuffle(lane); break;
    case SHIM_LOAD: do_load(lane, false); break;
    case SHIM_LOAD_TRANSPOSED: do_load(lane, true); break;
    case SHIM_MULTIPLY_BF16: do_multiply<bf16>(lane); break;
    case SHIM_MULTIPLY_F16: do_multiply<f16>(lane); break;
    default: break;
    }
}

/* ---- the scheduler ---- */

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* All of `count` threads must be where the first one that waits is. */
static void check_together(fiber *first, int count)
{
    fiber *f = first;
    while (f->state == DONE) f++;
    for (int i = 0; i < count; i++) {
        fiber *g = first + i;
        if (g->state == DONE)
            shim_fault("thread %u has returned while thread %u waits at %s (%s:%d)", g->index.x, f->index.x, waits[f->kind],
                       name_of(f->file), f->line);
        if (g->kind != f->kind || g->line != f->line || (g->file != f->file && strcmp(g->file, f->file)))
            shim_fault("thread %u waits at %s (%s:%d) while thread %u waits at %s (%s:%d)", f->index.x, waits[f->kind],
                       name_of(f->file), f->line, g->index.x, waits[g->kind], name_of(g->file), g->line);
    }
}

/* Runs a warp until it waits for the block or is done; at random, not so far: then true. */
static bool run_warp(fiber *lane)
{
    for (;;) {
        unsigned step = 1, from = 0; /* lane i-th in order: (step i + from) % LANES */
        if (the.order == SHIM_REVERSED) step = LANES - 1, from = LANES - 1;
        if (the.order == SHIM_RANDOM) {
            uint64_t r = draw();
            step = (unsigned)(r & 31) | 1, from = (unsigned)(r >> 5 & 31);
        }
        for (unsigned i = 0; i < LANES; i++) {
            fiber *f = lane + (step * i + from) % LANES;
            if (f->state == READY) enter(f);
        }
        bool together = false;
        for (int i = 0; i < LANES; i++) together |= lane[i].state == WAITING && lane[i].kind != SHIM_BLOCK;
        if (!together) return false;
        check_together(lane, LANES);
        do_together(lane);
        for (int i = 0; i < LANES; i++) lane[i].state = READY;
        if (the.order == SHIM_RANDOM && draw() % 4 == 0) return true;
    }
}

static void run_block(std::vector<int64_t> &warps)
{
    for (int i = 0; i < the.threads; i++) {
        fibers[(size_t)i].state = READY, fibers[(size_t)i].group = 0;
        fibers[(size_t)i].copies.clear();
    }
    for (;;) {
        bool more = false;
        int  done = 0;
        arrange(warps);
        for (int64_t w : warps) more |= run_warp(&fibers[(size_t)w * LANES]);
        if (more) continue;
        for (int i = 0; i < the.threads; i++) done += fibers[(size_t)i].state == DONE;
        if (done == the.threads) return;
        check_together(&fibers[0], the.threads);
        for (int i = 0; i < the.threads; i++) fibers[(size_t)i].state = READY;
    }
}

void shim_run(const char *what, dim3 grid, int threads, int64_t shared, const std::function<void()> &body)
{
    std::vector<int64_t> blocks((size_t)grid.x * grid.y * grid.z), warps((size_t)threads / LANES);

    if (fibers.size() < (size_t)threads) {
        size_t had = fibers.size();
        fibers.reserve(MOST_THREADS); /* they stay where they are */
        fibers.resize((size_t)threads);
        for (size_t i = had; i < fibers.size(); i++) fiber_init(&fibers[i], i), fibers[i].index = dim3((unsigned)i, 0, 0);
    }
    the.what = what, the.body = &body, the.threads = threads, the.shared_size = shared;
    the.shared = shim_guarded_new((size_t)shared);
    if (!the.shared) shim_fault("no memory");
    gridDim = grid, blockDim = dim3((unsigned)threads);
    arrange(blocks);
    for (int64_t b : blocks) {
        blockIdx = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y));
        shim_spoil(the.shared, (size_t)shared);
        run_block(warps);
        shim_guarded_check(the.shared, (size_t)shared, "shared memory");
    }
    shim_guarded_free(the.shared, (size_t)shared, "shared memory");
    the.what = NULL, the.shared = NULL;
    shim_launches++;
}

/* ---- what a thread does ---- */

static fiber *self(const char *what)
{
    if (!the.current) shim_fault("%s outside of a kernel", what);
    return the.current;
}

void shim_meet(shim_wait kind, void *argument, const char *file, int line)
{
    fiber *f    = self(waits[kind]);
    f->state    = WAITING;
    f->kind     = kind;
    f->argument = argument;
    f->file     = file;
    f->line     = line;
    leave();
}

unsigned char *shim_shared()
{
    self("dynamic_shared");
    return the.shared;
}

/* Begun copies have destroyed what was there, and bring nothing yet. */
void shim_copy(void *shared, const void *global, int bytes)
{
    fiber *f = self("copy_async");
    check_shared(shared, 16, "copy_async");
    if (bytes < 0 || bytes > 16) shim_fault("copy_async of %d bytes", bytes);
    if ((uintptr_t)global % 16) shim_fault("copy_async from %p, which is not a multiple of 16", global);
    if (bytes) shim_check_device(global, (size_t)bytes, "copy_async");
    shim_spoil(shared, 16);
    f->copies.push_back({shared, global, bytes, f->group});
}

void shim_copy_commit() { self("copy_commit")->group++; }

void shim_copy_wait(int newest)
{
    fiber *f = self("copy_wait");
    size_t n = 0;
    for (; n < f->copies.size() && f->copies[n].group < f->group - newest; n++) {
        const copy *c = &f->copies[n];
        memset(c->shared, 0, 16);
        memcpy(c->shared, c->global, (size_t)c->bytes);
    }
    f->copies.erase(f->copies.begin(), f->copies.begin() + (std::ptrdiff_t)n);
    for (const copy &c : f->copies) shim_spoil(c.shared, 16); /* these may come any time, so also over those that came */
}
