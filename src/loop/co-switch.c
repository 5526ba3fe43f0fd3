/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Switching of stacks.
 *
 * A context is entered once through makecontext(3), which is portable but
 * costs system calls for the signal mask; from then on _setjmp and _longjmp
 * carry it, which cost none.  Stacks are mapped without reserve and have a
 * guard page below, so that an overflow faults instead of corrupting.
 *
 * Sanitizers follow the stack pointer: each switch is announced to ASan and
 * TSan, each stack to valgrind.  The fortified longjmp() takes a jump to
 * another stack for an attack, therefore no _FORTIFY_SOURCE in this file.
 */
#undef _FORTIFY_SOURCE
#include "loop/co-switch.h"
#include <glib.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WITH_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

/* Sanitizers make frames several times larger. */
#if defined(WITH_ASAN) || defined(WITH_TSAN)
#define STACK_LEN ((size_t)1 << 20)
#else
#define STACK_LEN ((size_t)256 << 10)
#endif
/* Top of an idle stack where the frames of its main function live. */
#define IDLE_FRAMES ((size_t)16 << 10)

/* First thing on a stack after a switch to it. */
static inline void switch_finish(struct co_ctx *self)
{
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(self->asan_fake, &self->caller->stack_lo,
                                    &self->caller->stack_len);
    self->asan_fake = NULL;
#endif
}

/* Last thing on a stack before a switch from it. */
static inline void switch_begin(struct co_ctx *from, struct co_ctx *to,
                                bool from_idle)
{
    to->caller = from;
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(from_idle ? NULL : &from->asan_fake,
                                   to->stack_lo, to->stack_len);
#endif
#ifdef WITH_TSAN
    __tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
}

/* makecontext() passes ints only: the pointer comes in two halves. */
static void ctx_trampoline(unsigned lo, unsigned hi)
{
    struct co_ctx *c = (struct co_ctx *)((uintptr_t)lo | (uintptr_t)hi << 16
                                                                       << 16);

    switch_finish(c);
    g_clear_pointer(&c->first, g_free);
    c->main(c->arg);
    g_assert_not_reached();
}

bool co_ctx_init(struct co_ctx *c, void (*main)(void *arg), void *arg)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t self = (uintptr_t)c;

    *c = (struct co_ctx) { .main = main, .arg = arg };
    c->map_len = STACK_LEN + page;
    c->map = mmap(NULL, c->map_len, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1,
                  0);
    if (c->map == MAP_FAILED) {
        return false;
    }
    if (mprotect(c->map, page, PROT_NONE) < 0) {
        munmap(c->map, c->map_len);
        return false;
    }
    c->stack_lo = (char *)c->map + page;
    c->stack_len = STACK_LEN;

    c->first = g_new0(ucontext_t, 1);
    getcontext(c->first);
    c->first->uc_stack.ss_sp = (char *)c->map + page;
    c->first->uc_stack.ss_size = STACK_LEN;
    makecontext(c->first, (void (*)(void))(void *)ctx_trampoline, 2,
                (unsigned)self, (unsigned)(self >> 16 >> 16));
#ifdef WITH_TSAN
    c->tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef HAVE_VALGRIND
    c->valgrind_id = VALGRIND_STACK_REGISTER(c->stack_lo,
                                             (char *)c->stack_lo + STACK_LEN);
#endif
    return true;
}

void co_ctx_init_thread(struct co_ctx *c)
{
    c->entered = true;
#ifdef WITH_TSAN
    c->tsan_fiber = __tsan_get_current_fiber();
#endif
}

void co_ctx_done(struct co_ctx *c)
{
#ifdef HAVE_VALGRIND
    VALGRIND_STACK_DEREGISTER(c->valgrind_id);
#endif
#ifdef WITH_TSAN
    __tsan_destroy_fiber(c->tsan_fiber);
#endif
    co_ctx_poison(c, false);
    g_free(c->first);
    munmap(c->map, c->map_len);
}

void co_ctx_switch(struct co_ctx *from, struct co_ctx *to, bool from_idle)
{
    switch_begin(from, to, from_idle);
    if (_setjmp(from->env) == 0) {
        if (to->entered) {
            _longjmp(to->env, 1);
        }
        to->entered = true;
        setcontext(to->first);
        g_assert_not_reached();
    }
    switch_finish(from);
}

void co_ctx_poison(struct co_ctx *c, bool poison)
{
#ifdef WITH_ASAN
    if (poison) {
        ASAN_POISON_MEMORY_REGION(c->stack_lo, c->stack_len - IDLE_FRAMES);
    } else {
        ASAN_UNPOISON_MEMORY_REGION(c->stack_lo, c->stack_len);
    }
#endif
}
