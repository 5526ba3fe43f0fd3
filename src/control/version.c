/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The version, as QMP says it. */
#include "control/control-int.h"

json_t *control_version(void)
{
    return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", 0, "minor", 2,
                     "major", 7, "package", "sluice-" SLUICE_VERSION);
}
