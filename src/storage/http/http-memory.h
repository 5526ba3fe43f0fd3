/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory of libcurl: what held a secret is wiped before it is given back. */
#pragma once

/* Set up libcurl: before its first use, once. */
void http_memory_init(void);
