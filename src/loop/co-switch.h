/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Execution contexts: a stack and the place where it was left.  Private to
 * loop/; coroutines (loop/co.h) are made of these.
 */
#pragma once
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <ucontext.h>

struct co_ctx {
    jmp_buf env; /* where to go on, once entered */
    bool entered;
    struct co_ctx *caller; /* who switched here last */
    void (*main)(void *arg);
    void *arg;
    void *map; /* the mapping: guard page, then the stack */
    size_t map_len;
    ucontext_t *first; /* how to enter for the first time, then freed */
    /* What sanitizers and valgrind want to know. */
    const void *stack_lo;
    size_t stack_len;
    void *asan_fake;
    void *tsan_fiber;
    unsigned valgrind_id;
};

/* Make a context that will call @main(@arg) on its own stack when it is
 * switched to; @main never returns. False when memory is short. */
bool co_ctx_init(struct co_ctx *c, void (*main)(void *arg), void *arg);
/* Let @c stand for the stack this runs on, so that contexts can return to it.
 * Cheap; @c was zeroed once. */
void co_ctx_init_thread(struct co_ctx *c);
/* @c is not running. */
void co_ctx_done(struct co_ctx *c);

/* Leave @from for @to; returns when somebody switches to @from. @from_idle says
 * that nothing on @from's stack is wanted any more but the frame of its main
 * function, which may only touch @from and the heap afterwards. */
void co_ctx_switch(struct co_ctx *from, struct co_ctx *to, bool from_idle);
/* Tell the sanitizer that the stack of idle @c holds nothing (or may again). */
void co_ctx_poison(struct co_ctx *c, bool poison);
