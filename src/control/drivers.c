/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/drivers.h"

#include <stddef.h>

#include "filter/filter.h"
#include "format/format.h"
#include "storage/storage.h"

const struct node_driver *const node_drivers[] = {
    &file_driver,
    &host_device_driver,
    &nbd_driver,
    &null_co_driver,
    &null_aio_driver,
    &raw_driver,
    &qed_driver,
    &copy_on_read_driver,
    &throttle_driver,
    NULL
};
