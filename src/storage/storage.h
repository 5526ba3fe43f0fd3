/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The leaf drivers, for the table in control/drivers.c. */
#pragma once
struct node_driver;
extern const struct node_driver file_driver;        /* "file" */
extern const struct node_driver host_device_driver; /* "host_device" */
extern const struct node_driver nbd_driver;         /* "nbd" */
extern const struct node_driver http_driver;        /* "http" */
extern const struct node_driver https_driver;       /* "https" */
extern const struct node_driver s3_driver;          /* "s3" */
extern const struct node_driver rbd_driver;         /* "rbd" */
extern const struct node_driver null_co_driver;     /* "null-co" */
extern const struct node_driver null_aio_driver;    /* "null-aio" */
