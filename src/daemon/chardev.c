/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Character devices, as far as monitors need them: a socket that listens, a
 * socket that connects, standard input and output.
 *
 * stdio may be a terminal, a pipe or a file, none of which a channel can read,
 * so two threads pump between it and a socket pair.
 */
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/keyval.h"
#include "base/options.h"
#include "daemon/daemon.h"
#include "loop/channel.h"

enum { CONNECTIONS_MAX = 16, LISTEN_TRIES = 20, LISTEN_PAUSE_NS = 50000000 };

struct chardev {
    struct daemon *d;
    char *id, *path, *host, *port;
    char *mode_word, *owner, *group; /* of the socket, as they were given */
    bool is_stdio, is_null, server, wait;
    bool used;     /* a monitor has it */
    bool starting; /* a command is making it */
    enum session_mode mode;
    struct listener *listener;
    bool connected; /* once at least, for wait=on */
    int pump_fd;    /* our end of the socket pair */
    pthread_t pump_out;
    struct channel *idle; /* a connection that no monitor serves, or NULL */
};

static void chardev_free(void *p)
{
    struct chardev *ch = p;

    listener_free(ch->listener);
    channel_free(ch->idle);
    g_free(ch->id);
    g_free(ch->path);
    g_free(ch->host);
    g_free(ch->port);
    g_free(ch->mode_word);
    g_free(ch->owner);
    g_free(ch->group);
    g_free(ch);
}

/* --- options --- */

/* Who may connect to it. */
static int take_access(struct opts *o, struct chardev *ch, GError **err)
{
    int r = opts_take_str(o, "mode", &ch->mode_word, err);

    if (r >= 0) {
        r = opts_take_str(o, "owner", &ch->owner, err);
    }
    if (r >= 0) {
        r = opts_take_str(o, "group", &ch->group, err);
    }
    if (r >= 0 && (ch->mode_word || ch->owner || ch->group) &&
        (!ch->path || !ch->server)) {
        r = err_set(err, EINVAL,
                    "mode=, owner= and group= are for a path= with server=on");
    }
    return r;
}

static int take_socket(struct opts *o, struct chardev *ch, GError **err)
{
    bool ignored;
    int r = opts_take_str(o, "path", &ch->path, err);

    if (r >= 0) {
        r = opts_take_str(o, "host", &ch->host, err);
    }
    if (r >= 0) {
        r = opts_take_str(o, "port", &ch->port, err);
    }
    if (r >= 0) {
        r = opts_take_bool(o, "server", &ch->server, err);
    }
    ch->wait = ch->server;
    if (r >= 0) {
        r = opts_take_bool(o, "wait", &ch->wait, err);
    }
    if (r >= 0) {
        r = opts_take_bool(o, "nodelay", &ignored, err);
    }
    if (r >= 0 && !ch->path == !(ch->host && ch->port)) {
        r = err_set(err, EINVAL, "needs either path= or host= and port=");
    }
    return r < 0 ? r : take_access(o, ch, err);
}

static int chardev_fill(struct chardev *ch, struct opts *o, GError **err)
{
    static const char *const backends[] = { "socket", "stdio", "null", NULL };
    int backend = 0;
    int r = opts_take_enum(o, "backend", backends, &backend, err);

    if (r == 0) {
        r = opts_missing("backend", err);
    }
    if (r >= 0) {
        r = opts_take_str(o, "id", &ch->id, err);
    }
    if (r == 0) {
        r = opts_missing("id", err);
    }
    if (r < 0) {
        return r;
    }
    ch->is_stdio = backend == 1;
    ch->is_null = backend == 2;
    if (ch->is_null) {
        return opts_finish(o, err);
    }
    if (ch->is_stdio) {
        bool ignored;

        r = opts_take_bool(o, "signal", &ignored, err);
    } else {
        r = take_socket(o, ch, err);
    }
    return r < 0 ? r : opts_finish(o, err);
}

/* Not in the table yet. */
static int chardev_make(struct daemon *d, const json_t *options,
                        struct chardev **ret, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(options);
    struct chardev *ch = g_new0(struct chardev, 1);
    int r;

    ch->d = d;
    ch->pump_fd = -1;
    r = chardev_fill(ch, o, err);
    if (r == 0 && g_hash_table_contains(d->chardevs, ch->id)) {
        r = err_set(err, EEXIST, "Chardev with id '%s' already exists", ch->id);
    }
    if (r < 0) {
        chardev_free(ch);
        return r;
    }
    *ret = ch;
    return 0;
}

int chardev_add(struct daemon *d, const char *arg, GError **err)
{
    struct chardev *ch;
    json_t *options;
    int r = keyval_parse(arg, "backend", &options, err);

    if (r < 0) {
        return r;
    }
    r = chardev_make(d, options, &ch, err);
    json_decref(options);
    if (r == 0) {
        g_hash_table_insert(d->chardevs, ch->id, ch);
    }
    return r;
}

/* --- stdio --- */

static bool write_all(int fd, const char *buf, ssize_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, buf, (size_t)len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        buf += n;
        len -= n;
    }
    return true;
}

static void pump(int from, int to)
{
    char buf[16384];
    ssize_t n;

    do {
        n = read(from, buf, sizeof(buf));
    } while ((n < 0 && errno == EINTR) || (n > 0 && write_all(to, buf, n)));
}

static void *pump_in_main(void *arg)
{
    int fd = GPOINTER_TO_INT(arg);

    pump(STDIN_FILENO, fd);
    shutdown(fd, SHUT_WR);
    return NULL;
}

static void *pump_out_main(void *arg)
{
    int fd = GPOINTER_TO_INT(arg);

    pump(fd, STDOUT_FILENO);
    return NULL;
}

static int stdio_start(struct chardev *ch, struct channel **ret, GError **err)
{
    pthread_t in;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        return err_set_errno(err, errno, "Could not make a socket pair");
    }
    ch->pump_fd = fds[1];
    if (pthread_create(&in, NULL, pump_in_main, GINT_TO_POINTER(fds[1])) ||
        pthread_create(&ch->pump_out, NULL, pump_out_main,
                       GINT_TO_POINTER(fds[1]))) {
        return err_set(err, EAGAIN, "Could not start a thread");
    }
    pthread_detach(in);
    *ret = channel_new_fd(ch->d->loop, fds[0]);
    return 0;
}

/* --- monitors --- */

static void on_accept(struct channel *c, void *arg)
{
    struct chardev *ch = arg;

    if (!ch->used) {
        /* Nobody reads it; whoever comes next is sent away. */
        if (ch->idle) {
            channel_free(c);
        } else {
            ch->idle = c;
            ch->connected = true;
        }
        return;
    }
    if (control_session_count(ch->d->control) >= CONNECTIONS_MAX) {
        channel_free(c);
        return;
    }
    control_add_session(ch->d->control, c, ch->mode);
    ch->connected = true;
    co_queue_wake_all(&ch->d->wake);
}

/* The kernel takes down the sockets of a killed process some time after its
 * death: one that still answers gets a while to go. */
static CO_FN int chardev_co_listen(struct chardev *ch, GError **err)
{
    struct sock_access access;
    struct sock_addr addr = { ch->path, ch->host, ch->port, &access };
    int parsed = sock_access_co_parse(ch->mode_word, ch->owner, ch->group,
                                      &access, err);

    if (parsed < 0) {
        return parsed;
    }
    for (unsigned tries = 0;; tries++) {
        g_autoptr(GError) first = NULL;
        int r = listener_new(ch->d->loop, &addr, on_accept, ch, &ch->listener,
                             &first);

        if (r != -EADDRINUSE || tries == LISTEN_TRIES) {
            if (r < 0) {
                g_propagate_error(err, g_steal_pointer(&first));
            }
            return r;
        }
        co_sleep(LISTEN_PAUSE_NS);
    }
}

static CO_FN int chardev_co_open(struct chardev *ch, GError **err)
{
    struct sock_addr addr = { ch->path, ch->host, ch->port };
    struct daemon *d = ch->d;
    struct channel *c = NULL;
    int r;

    if (ch->is_stdio) {
        r = stdio_start(ch, &c, err);
    } else if (ch->server) {
        r = chardev_co_listen(ch, err);
    } else {
        r = channel_co_connect(&addr, &c, err);
    }
    if (r < 0) {
        return r;
    }
    if (c) {
        control_add_session(d->control, c, ch->mode);
    }
    while (ch->server && ch->wait && !ch->connected && !d->quit) {
        co_queue_co_wait(&d->wake);
    }
    return 0;
}

static int monitor_take(struct opts *o, char **id, enum session_mode *mode,
                        GError **err)
{
    static const char *const modes[] = { "control", "readline", NULL };
    g_autofree char *unused = NULL;
    bool pretty = false;
    int m = 0, r = opts_take_str(o, "chardev", id, err);

    if (r == 0) {
        r = opts_missing("chardev", err);
    }
    if (r >= 0) {
        r = opts_take_enum(o, "mode", modes, &m, err);
    }
    if (r >= 0) {
        r = opts_take_bool(o, "pretty", &pretty, err);
    }
    if (r >= 0) {
        r = opts_take_str(o, "id", &unused, err);
    }
    *mode = m == 1 ? SESSION_HMP : pretty ? SESSION_QMP_PRETTY : SESSION_QMP;
    return r < 0 ? r : opts_finish(o, err);
}

int monitor_co_add(struct daemon *d, const char *arg, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = NULL;
    g_autofree char *id = NULL;
    enum session_mode mode;
    struct chardev *ch;
    json_t *options;
    int r = keyval_parse(arg, "chardev", &options, err);

    if (r < 0) {
        return r;
    }
    o = opts_new(options);
    json_decref(options);
    r = monitor_take(o, &id, &mode, err);
    if (r < 0) {
        return r;
    }
    ch = g_hash_table_lookup(d->chardevs, id);
    if (!ch) {
        err_set(err, ENOENT, "chardev \"%s\" not found", id);
        err_hint(err,
                 "It is made before: --chardev socket,id=%s,path=PATH,"
                 "server=on,wait=off --monitor %s",
                 id, id);
        return -ENOENT;
    }
    if (ch->used) {
        return err_set(err, EBUSY, "Chardev '%s' is busy", id);
    }
    if (ch->is_null) {
        return err_set(err, EINVAL, "Chardev '%s' leads nowhere", id);
    }
    ch->used = true;
    ch->mode = mode;
    return chardev_co_open(ch, err);
}

/* --- the commands on them --- */

/* "unix:PATH,server=on". Owned. */
static char *chardev_filename(const struct chardev *ch)
{
    const char *server = ch->server ? ",server=on" : "";
    const char *before = ch->connected ? "" : "disconnected:";

    if (ch->is_stdio || ch->is_null) {
        return g_strdup(ch->is_stdio ? "stdio" : "null");
    }
    return ch->path ? g_strdup_printf("%sunix:%s%s", before, ch->path, server)
                    : g_strdup_printf("%stcp:%s:%s%s", before, ch->host,
                                      ch->port, server);
}

static json_t *chardevs_list(void *arg)
{
    struct daemon *d = arg;
    json_t *list = json_array();
    GHashTableIter it;
    void *p;

    g_hash_table_iter_init(&it, d->chardevs);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        const struct chardev *ch = p;
        g_autofree char *filename = chardev_filename(ch);

        json_array_append_new(list,
                              json_pack("{s:b,s:s,s:s}", "frontend-open",
                                        ch->used || ch->starting, "filename",
                                        filename, "label", ch->id));
    }
    return list;
}

/* The options of --chardev that say what @backend says. */
static json_t *backend_options(const char *id, const json_t *backend)
{
    const json_t *data = json_object_get(backend, "data");
    const json_t *addr = json_object_get(data, "addr");
    json_t *options = json_pack("{s:s,s:O}", "id", id, "backend",
                                json_object_get(backend, "type"));
    static const char *const from_address[] = { "path", "host",  "port",
                                                "mode", "owner", "group" };

    if (!addr) {
        return options;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(from_address); i++) {
        json_t *v = json_object_get(json_object_get(addr, "data"),
                                    from_address[i]);

        if (v) {
            json_object_set(options, from_address[i], v);
        }
    }
    json_object_set_new(
        options, "server",
        json_boolean(!json_is_false(json_object_get(data, "server"))));
    json_object_set_new(options, "wait", json_false());
    return options;
}

static CO_FN int chardev_co_start(struct chardev *ch, GError **err)
{
    struct sock_addr addr = { ch->path, ch->host, ch->port };
    int r;

    if (ch->is_null) {
        return 0;
    }
    if (ch->is_stdio) {
        return err_set(err, ENOTSUP, "stdio is for the command line");
    }
    r = ch->server ? chardev_co_listen(ch, err)
                   : channel_co_connect(&addr, &ch->idle, err);
    ch->connected = ch->idle != NULL;
    return r;
}

static CO_FN int chardevs_co_add(void *arg, const char *id,
                                 const json_t *backend, GError **err)
{
    struct daemon *d = arg;
    json_t *options;
    struct chardev *ch;
    int r;

    if (d->quit) {
        return err_set(err, ESHUTDOWN, "The daemon is shutting down");
    }
    options = backend_options(id, backend);
    r = chardev_make(d, options, &ch, err);
    json_decref(options);
    if (r < 0) {
        return r;
    }
    g_hash_table_insert(d->chardevs, ch->id, ch);
    ch->starting = true;
    r = chardev_co_start(ch, err);
    ch->starting = false;
    if (r < 0) {
        g_hash_table_remove(d->chardevs, ch->id);
        chardev_free(ch);
    }
    return r;
}

static void chardevs_remove(void *arg, const char *id)
{
    struct daemon *d = arg;
    struct chardev *ch = g_hash_table_lookup(d->chardevs, id);

    g_hash_table_remove(d->chardevs, id);
    chardev_free(ch);
}

const struct chardev_ops chardevs_ops = {
    .list = chardevs_list,
    .co_add = chardevs_co_add,
    .remove = chardevs_remove,
};

/* --- end --- */

void chardevs_stop(struct daemon *d)
{
    GHashTableIter it;
    void *p;

    g_hash_table_iter_init(&it, d->chardevs);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        struct chardev *ch = p;

        listener_free(ch->listener);
        ch->listener = NULL;
        channel_free(ch->idle);
        ch->idle = NULL;
    }
}

void chardevs_free(struct daemon *d)
{
    GHashTableIter it;
    struct timespec until;
    void *p;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    g_hash_table_iter_init(&it, d->chardevs);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        struct chardev *ch = p;

        if (ch->pump_fd >= 0) {
            /* The session is gone; what it sent is still in the pair. */
            (void)pthread_timedjoin_np(ch->pump_out, NULL, &until);
        }
    }
    g_hash_table_iter_init(&it, d->chardevs);
    while (g_hash_table_iter_next(&it, NULL, &p)) {
        chardev_free(p);
    }
    g_hash_table_destroy(d->chardevs);
}
