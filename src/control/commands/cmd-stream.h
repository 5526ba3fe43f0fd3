/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting streams, for those who do not come through a command. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "base/annot.h"

struct control;

/* Start the stream that block-stream's @args describe, without a record in
 * the journal. Data loop. */
CO_FN int stream_co_command(struct control *c, const json_t *args,
                            GError **err);
