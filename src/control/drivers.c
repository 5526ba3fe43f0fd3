/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/drivers.h"

#include <stddef.h>

#include "export/trace.h"
#include "filter/filter.h"
#include "format/format.h"
#include "format/trace.h"
#include "graph/trace.h"
#include "job/trace.h"
#include "storage/storage.h"
#include "storage/trace.h"

const struct node_driver *const node_drivers[] = { &file_driver,
                                                   &host_device_driver,
                                                   &nbd_driver,
                                                   &http_driver,
                                                   &https_driver,
                                                   &s3_driver,
                                                   &rbd_driver,
                                                   &null_co_driver,
                                                   &null_aio_driver,
                                                   &raw_driver,
                                                   &qed_driver,
                                                   &qcow2_driver,
                                                   &cow_driver,
                                                   &blkdebug_driver,
                                                   &cache_driver,
                                                   &commit_top_driver,
                                                   &copy_before_write_driver,
                                                   &copy_on_read_driver,
                                                   &mirror_top_driver,
                                                   &snapshot_access_driver,
                                                   &throttle_driver,
                                                   NULL };

void drivers_register_traces(void)
{
    trace_register_storage();
    trace_register_export();
    trace_register_job();
    trace_register_graph();
    trace_register_format();
}
