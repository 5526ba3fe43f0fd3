/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A control connection: one line of JSON per message.  Events may come at any
 * time, also between a command and its answer; they are queued.
 */
#include "lib/conn.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "sluice/sluice.h"

/* No answer of the daemon is near this; a peer that sends more is not one. */
#define MAX_LINE (64u << 20)

struct sluice_conn {
    int fd;
    char *buf; /* bytes received and not yet taken */
    size_t used, size;
    json_t *events; /* array, oldest first */
};

int conn_error(char **ret_error, int errnum, const char *fmt, ...)
{
    va_list ap;

    if (ret_error) {
        va_start(ap, fmt);
        if (vasprintf(ret_error, fmt, ap) < 0) {
            *ret_error = NULL;
        }
        va_end(ap);
    }
    return -errnum;
}

int64_t conn_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Wait until @deadline (ms; negative: for ever). 1 readable, 0 timeout. */
static int wait_readable(struct sluice_conn *c, int64_t deadline)
{
    struct pollfd p = { .fd = c->fd, .events = POLLIN };

    for (;;) {
        int64_t left = deadline < 0 ? -1 : deadline - conn_now_ms();
        if (deadline >= 0 && left < 0) {
            left = 0;
        }
        int n = poll(&p, 1, (int)left);
        if (n >= 0) {
            return n;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

/* Read what is there. 0, or -errno; -ECONNRESET at the end of the stream. */
static int fill(struct sluice_conn *c)
{
    if (c->size - c->used < 4096) {
        size_t size = c->size ? c->size * 2 : 65536;
        char *buf = size <= 2 * MAX_LINE ? realloc(c->buf, size) : NULL;
        if (!buf) {
            return -EMSGSIZE;
        }
        c->buf = buf;
        c->size = size;
    }
    ssize_t n = recv(c->fd, c->buf + c->used, c->size - c->used, 0);
    if (n < 0) {
        return errno == EINTR ? 0 : -errno;
    }
    if (n == 0) {
        return -ECONNRESET;
    }
    c->used += (size_t)n;
    return 0;
}

/* Take one line's JSON. 1; 0 when no whole line is there; -EBADMSG. */
static int take_message(struct sluice_conn *c, json_t **ret_msg)
{
    char *nl = c->used ? memchr(c->buf, '\n', c->used) : NULL;

    if (!nl) {
        return 0;
    }
    size_t len = (size_t)(nl - c->buf) + 1;
    *ret_msg = json_loadb(c->buf, len, 0, NULL);
    memmove(c->buf, c->buf + len, c->used - len);
    c->used -= len;
    if (!json_is_object(*ret_msg)) {
        json_decref(*ret_msg);
        return -EBADMSG;
    }
    return 1;
}

/* The next message of any kind. 1; 0 on time-out; -errno. */
static int next_message(struct sluice_conn *c, int64_t deadline,
                        json_t **ret_msg)
{
    for (;;) {
        int r = take_message(c, ret_msg);
        if (r != 0) {
            return r;
        }
        r = wait_readable(c, deadline);
        if (r <= 0) {
            return r;
        }
        r = fill(c);
        if (r < 0) {
            return r;
        }
    }
}

static int send_all(struct sluice_conn *c, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int send_command(struct sluice_conn *c, const char *command,
                        json_t *arguments)
{
    json_t *msg = json_pack("{s:s}", "execute", command);

    if (arguments) {
        json_object_set_new(msg, "arguments", arguments);
    }
    char *text = json_dumps(msg, JSON_COMPACT);
    json_decref(msg);
    if (!text) {
        return -ENOMEM;
    }
    int r = send_all(c, text, strlen(text));
    if (r == 0) {
        r = send_all(c, "\n", 1);
    }
    free(text);
    return r;
}

int conn_execute(struct sluice_conn *conn, const char *command,
                 json_t *arguments, json_t **ret_value, char **ret_error)
{
    int r = send_command(conn, command, arguments);
    json_t *msg = NULL;

    while (r == 0) {
        r = next_message(conn, -1, &msg);
        if (r < 0) {
            break;
        }
        if (json_object_get(msg, "event")) {
            json_array_append_new(conn->events, msg);
            r = 0;
        }
    }
    if (r < 0) {
        return conn_error(ret_error, -r, "'%s': the daemon went away: %s",
                          command, strerror(-r));
    }
    json_t *error = json_object_get(msg, "error");
    if (error) {
        r = conn_error(ret_error, EREMOTEIO, "%s",
                       json_string_value(json_object_get(error, "desc")));
    } else {
        r = 0;
        if (ret_value) {
            *ret_value = json_incref(json_object_get(msg, "return"));
        }
    }
    json_decref(msg);
    return r;
}

int conn_wait_event(struct sluice_conn *conn, int timeout_ms,
                    json_t **ret_event)
{
    int64_t deadline = timeout_ms < 0 ? -1 : conn_now_ms() + timeout_ms;

    if (json_array_size(conn->events) > 0) {
        *ret_event = json_incref(json_array_get(conn->events, 0));
        json_array_remove(conn->events, 0);
        return 1;
    }
    for (;;) {
        json_t *msg;
        int r = next_message(conn, deadline, &msg);
        if (r <= 0) {
            return r;
        }
        if (json_object_get(msg, "event")) {
            *ret_event = msg;
            return 1;
        }
        json_decref(msg); /* an answer nobody waits for */
    }
}

static int dial(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    size_t len = strlen(path);

    if (len >= sizeof(addr.sun_path)) {
        return -ENAMETOOLONG;
    }
    memcpy(addr.sun_path, path, len + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

/* Greeting, then qmp_capabilities. */
static int conn_negotiate(struct sluice_conn *c, const char *path,
                          char **ret_error)
{
    json_t *greeting;
    int r = next_message(c, conn_now_ms() + 10000, &greeting);

    if (r <= 0) {
        return conn_error(ret_error, r ? -r : ETIMEDOUT,
                          "no greeting on '%s': is it a control socket?", path);
    }
    bool known = json_object_get(greeting, "QMP") != NULL;
    json_decref(greeting);
    if (!known) {
        return conn_error(ret_error, EPROTO, "'%s' does not speak QMP", path);
    }
    return conn_execute(c, "qmp_capabilities", NULL, NULL, ret_error);
}

int sluice_connect(const char *socket_path, struct sluice_conn **ret_conn,
                   char **ret_error)
{
    int fd = dial(socket_path);

    if (fd < 0) {
        return conn_error(ret_error, -fd, "cannot connect to '%s': %s",
                          socket_path, strerror(-fd));
    }
    struct sluice_conn *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return conn_error(ret_error, ENOMEM, "out of memory");
    }
    c->fd = fd;
    c->events = json_array();
    int r = conn_negotiate(c, socket_path, ret_error);
    if (r < 0) {
        sluice_disconnect(c);
        return r;
    }
    *ret_conn = c;
    return 0;
}

void sluice_disconnect(struct sluice_conn *conn)
{
    if (conn) {
        close(conn->fd);
        json_decref(conn->events);
        free(conn->buf);
        free(conn);
    }
}

void sluice_free(void *string)
{
    free(string);
}

int sluice_fd(const struct sluice_conn *conn)
{
    return conn->fd;
}

int sluice_execute(struct sluice_conn *conn, const char *command,
                   const char *arguments, char **ret_json, char **ret_error)
{
    json_t *args = NULL, *value = NULL;
    json_error_t where;

    if (arguments) {
        args = json_loads(arguments, 0, &where);
        if (!json_is_object(args)) {
            json_decref(args);
            return conn_error(ret_error, EINVAL,
                              "arguments of '%s' are no JSON object", command);
        }
    }
    int r = conn_execute(conn, command, args, &value, ret_error);
    if (r == 0 && ret_json) {
        *ret_json = json_dumps(value, JSON_ENCODE_ANY);
    }
    json_decref(value);
    return r;
}

int sluice_wait_event(struct sluice_conn *conn, int timeout_ms, char **ret_json)
{
    json_t *event;
    int r = conn_wait_event(conn, timeout_ms, &event);

    if (r > 0) {
        *ret_json = json_dumps(event, 0);
        json_decref(event);
    }
    return r;
}
