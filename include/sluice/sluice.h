/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libsluice: talk to a running sluiced over its control socket.
 *
 * Plain C, blocking, no threads.  A connection is used by one thread at a
 * time.  Strings that a call returns are freed with sluice_free().  Functions
 * return 0 or a negative errno unless stated; where @ret_error is given it
 * receives a message for people, on failure only, and may be NULL.
 */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sluice_conn;

/* Connect to the Unix socket of a monitor and negotiate. */
int sluice_connect(const char *socket_path, struct sluice_conn **ret_conn,
                   char **ret_error);
/* NULL is fine. */
void sluice_disconnect(struct sluice_conn *conn);
void sluice_free(void *string);

/* Run one command. @arguments: a JSON object as text, or NULL.  *@ret_json
 * (may be NULL) receives the value of "return".  -EREMOTEIO when the daemon
 * refused: its text is in *@ret_error.  Events that arrive meanwhile are kept
 * for sluice_wait_event(). */
int sluice_execute(struct sluice_conn *conn, const char *command,
                   const char *arguments, char **ret_json, char **ret_error);

/* The next event, as JSON text.  1; 0 when none came within @timeout_ms
 * (negative: wait for ever); -errno when the connection is gone. */
int sluice_wait_event(struct sluice_conn *conn, int timeout_ms,
                      char **ret_json);

/* The descriptor to poll for reading before sluice_wait_event(). */
int sluice_fd(const struct sluice_conn *conn);

/* --- block pull: populate a device from its backing chain --- */

struct sluice_block_pull_info {
    int64_t cur; /* bytes of virtual disk done */
    int64_t end; /* bytes in all; cur == end once nothing is left */
};
enum sluice_block_pull_result {
    SLUICE_BLOCK_PULL_COMPLETED = 0,
    SLUICE_BLOCK_PULL_FAILED = 1,
    SLUICE_BLOCK_PULL_CANCELLED = 2
};

/* Pull one increment; @ret_info (may be NULL) is where the device now stands.
 * Call until cur == end. */
int sluice_block_pull(struct sluice_conn *conn, const char *device,
                      struct sluice_block_pull_info *ret_info,
                      char **ret_error);
/* Start pulling everything in the background. */
int sluice_block_pull_all(struct sluice_conn *conn, const char *device,
                          char **ret_error);
/* Progress of the background pull. 1; 0 when none runs on @device. */
int sluice_get_block_pull_info(struct sluice_conn *conn, const char *device,
                               struct sluice_block_pull_info *ret_info,
                               char **ret_error);
int sluice_block_pull_abort(struct sluice_conn *conn, const char *device,
                            char **ret_error);
/* Wait for the end of a pull of @device, incremental or background. 1 with
 * *@ret_result (and *@ret_error when it failed); 0 after @timeout_ms. */
int sluice_wait_block_pull(struct sluice_conn *conn, const char *device,
                           int timeout_ms,
                           enum sluice_block_pull_result *ret_result,
                           char **ret_error);

#ifdef __cplusplus
}
#endif
