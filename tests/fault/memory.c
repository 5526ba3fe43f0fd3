/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that runs out: the allocations that the product makes for what disks
 * and users size (g_try_malloc() and its kin) are counted, and some of them
 * fail.  The linker leads them here (--wrap).
 */
#include "fault.h"

void *__real_g_try_malloc(gsize n);
void *__real_g_try_malloc0(gsize n);
void *__real_g_try_malloc_n(gsize n, gsize size);
void *__real_g_try_malloc0_n(gsize n, gsize size);
void *__wrap_g_try_malloc(gsize n);
void *__wrap_g_try_malloc0(gsize n);
void *__wrap_g_try_malloc_n(gsize n, gsize size);
void *__wrap_g_try_malloc0_n(gsize n, gsize size);

static uint64_t count, first_bad, last_bad;

void memory_inject(unsigned nth, bool sticky)
{
    first_bad = nth ? count + nth : 0;
    last_bad = sticky ? UINT64_MAX : first_bad;
}

uint64_t memory_count(void)
{
    return count;
}

static bool runs_out(void)
{
    count++;
    return first_bad && count >= first_bad && count <= last_bad;
}

void *__wrap_g_try_malloc(gsize n)
{
    return runs_out() ? NULL : __real_g_try_malloc(n);
}

void *__wrap_g_try_malloc0(gsize n)
{
    return runs_out() ? NULL : __real_g_try_malloc0(n);
}

void *__wrap_g_try_malloc_n(gsize n, gsize size)
{
    return runs_out() ? NULL : __real_g_try_malloc_n(n, size);
}

void *__wrap_g_try_malloc0_n(gsize n, gsize size)
{
    return runs_out() ? NULL : __real_g_try_malloc0_n(n, size);
}
