/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The words by which an image's header should name its backing file. */
#pragma once
#include "base/annot.h"

struct node;

/* What @top's header should say once @base (no filter) is its backing file
 * instead of @bottom's.  A base that was named relative to the folder of
 * @bottom is named relative to the folder of @top, where that leads to the
 * same file; else its file name, absolute where it is a path.  Owned. */
CO_FN char *backing_co_name(const struct node *top, const struct node *bottom,
                            struct node *base);
/* The format to record: "raw" for plain storage, so that it is never probed. */
const char *backing_format(const struct node *base);
/* The path @to as seen from folder @dir, both absolute and without ".."; NULL
 * when they have nothing but the root in common. Owned. */
char *path_relative(const char *dir, const char *to);
