/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The version, as QMP says it. */
#include "control/control-int.h"

json_t *control_version(void)
{
    return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "major", 7, "minor", 2,
                     "micro", 0, "package", "sluice-" SLUICE_VERSION);
}
