/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marks that compilers and tools/check-co verify.
 *
 * CO_FN stands on the first declaration of every function that may yield; such
 * a function has _co_ in its name.  Under clang it becomes a thread-safety
 * capability, so that calling one from plain code is a compile error.  A call
 * to a CO_FN is a yield point: what was read before it may be stale after it;
 * the code between two such calls is atomic on its loop.
 *
 * CO_FN_PTR stands on members that point to such functions.  Function types do
 * not carry the mark, so the member itself is guarded instead.
 */
#pragma once

#if defined(__clang__)
#define SLUICE_TSA(x) __attribute__((x))
#else
#define SLUICE_TSA(x)
#endif

typedef int SLUICE_TSA(capability("coroutine")) co_capability_t;
extern co_capability_t co_context;

#define CO_FN SLUICE_TSA(requires_capability(co_context))
#define CO_FN_PTR SLUICE_TSA(guarded_by(co_context))

/* On a plain function that looks whether such a pointer is set, no more. */
#define CO_FN_LOOKS SLUICE_TSA(no_thread_safety_analysis)

#define WARN_UNUSED __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* Run @fn(&variable) when the variable leaves its scope. */
#define CLEANUP(fn) __attribute__((cleanup(fn)))
