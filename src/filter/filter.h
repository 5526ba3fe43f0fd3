/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The filter drivers. */
#pragma once
struct node_driver;
extern const struct node_driver blkdebug_driver;   /* "blkdebug" */
extern const struct node_driver cache_driver;      /* "cache" */
extern const struct node_driver commit_top_driver; /* "commit_top" */
extern const struct node_driver copy_before_write_driver;
extern const struct node_driver copy_on_read_driver; /* "copy-on-read" */
extern const struct node_driver mirror_top_driver;   /* "mirror_top" */
extern const struct node_driver snapshot_access_driver;
extern const struct node_driver throttle_driver; /* "throttle" */
