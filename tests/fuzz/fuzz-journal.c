/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The job journal that a daemon finds at its start: the input is the file.
 * Oracle: it is refused with words, or the daemon runs, starts what it can, and
 * leaves a journal that the next daemon can read.
 */
#include "control-rig.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    control_rig_restart(data, len);
    return 0;
}
