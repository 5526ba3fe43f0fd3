/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A folder for the files of a test program: made when the first path is asked
 * for, removed with all its files at exit. */
#pragma once

/* The path of a file in it.  Valid until the next call. */
const char *scratch(const char *name);
/* The same, owned by the caller. */
char *scratch_path(const char *name);
