/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The format drivers. */
#pragma once
struct node_driver;
extern const struct node_driver raw_driver;
extern const struct node_driver qed_driver;
extern const struct node_driver qcow2_driver;
extern const struct node_driver cow_driver;
