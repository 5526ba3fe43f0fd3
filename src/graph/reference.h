/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image's header may be given as the name of its backing file, and what
 * names a node there.  Every job and command that writes such a name asks here,
 * before it begins.
 *
 * A name must lead back to the same bytes.  The file name does where a node is
 * all of a file, opened as the format that is recorded beside it, over the
 * backing file that its own header names.  Else it takes options, which a
 * "json:" name has, in QEMU's way.
 */
#pragma once
#include <glib.h>
#include "base/annot.h"

struct node;

/* What @top's header has to say so that what is opened in place of @base is the
 * same, filters aside.  A base that the header of @bottom (@top, or an image of
 * its chain) names relative to its folder is named relative to the folder of
 * @top, where that leads to the same file; else paths are absolute.
 * *@ret_name: owned.  *@ret_fmt: to be recorded beside it; static.
 * -EINVAL, -ESTALE, -ELOOP and others with why there is no such name. */
CO_FN int reference_co_make(struct node *top, struct node *bottom,
                            struct node *base, char **ret_name,
                            const char **ret_fmt, GError **err);

/* May the header of @image be given @name, as a person asks for?  @image: the
 * image, or the storage that it is to stand on.  @fmt: beside it, or NULL.
 * What it names need not be there; but what would be refused whenever the image
 * is opened is refused here: -EINVAL and the like; -ELOOP for the image itself
 * and for those above it.
 * @base: what the name shall stand for, or NULL where it is not known: a name
 * of its file that leaves out what makes it what it is is refused, too. */
CO_FN int reference_co_check(struct node *image, const char *name,
                             const char *fmt, struct node *base, GError **err);

/* The format to record for @base (no filter): "raw" for plain storage, so that
 * it is never probed. */
const char *reference_format(const struct node *base);

/* reference-path.c: the name of @base relative to the folder of @top as above,
 * owned; NULL: it was not named so, or no relative name can be trusted. */
CO_FN char *reference_co_relative(struct node *top, struct node *bottom,
                                  struct node *base);
/* The path @to as seen from folder @dir, both absolute and without ".."; NULL
 * when they have nothing but the root in common. Owned. */
char *path_relative(const char *dir, const char *to);
