/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

extern const struct node_driver tiny_driver;
