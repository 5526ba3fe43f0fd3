/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The export drivers. */
#include "export/export-int.h"
#include "export/nbd/nbd-int.h"

const struct export_driver *const export_drivers[] = {
    &nbd_export_driver,
    NULL,
};
