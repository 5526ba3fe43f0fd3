/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How jobs ended: kept for a while after a job has left the list, so that who
 * asks too late gets an answer, too.  And the I/O error that ended a job or
 * keeps it stopped: of which node, which file, at which offset of the disk.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct job;
struct job_fault;
struct job_results;
struct node;

/* Remember an I/O error of @j, at @offset of its disk, in place of an earlier
 * one. @n: the node that has the data there; what it is called is copied. */
void job_set_fault(struct job *j, const struct node *n, uint64_t offset,
                   bool is_read, int errnum);
/* NULL is fine. */
void job_fault_free(struct job_fault *f);

struct job_results *job_results_new(void);
/* NULL is fine. */
void job_results_free(struct job_results *rs);
/* @j has ended. The oldest result is forgotten when there are many. */
void job_results_add(struct job_results *rs, const struct job *j);
/* The list that query-job-results shows, oldest first; caller owns. */
json_t *job_results_describe(const struct job_results *rs);
/* The same of a job that an I/O error has stopped and that is still there;
 * NULL of any other. Caller owns. */
json_t *job_describe_stopped(const struct job *j);
