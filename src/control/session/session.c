/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection of the control socket.
 *
 * Two coroutines: the reader takes bytes, finds commands, runs them one after
 * the other and queues the answers; the writer sends what is queued.  While a
 * command runs nothing is read, so that a client with many commands waits in
 * its socket and not in our memory.  The queue takes 4 MiB: above that the
 * reader waits and events are dropped, with a marker in their place.
 *
 * A client that has enabled "oob" is read on, because its next command may be
 * one that is to begin at once; turns.h says how many may be under way.
 *
 *   open -> draining (end of input, quit: the queue is still sent) -> ended
 */
#include <string.h>

#include "base/err.h"
#include "base/json-print.h"
#include "control/control-int.h"
#include "control/session/add-fd.h"
#include "control/session/json-stream.h"
#include "control/session/turns.h"
#include "loop/channel.h"
#include "loop/loop.h"

enum { READ_SIZE = 16384, QUEUE_MAX = 4 << 20, LINE_MAX_LEN = 4096 };
/* A client that takes nothing for so long while we want to end is dropped. */
#define DRAIN_STALL_NS 10000000000ull

struct session {
    struct control *c;
    struct channel *ch;
    enum session_mode mode;
    bool negotiated;     /* qmp_capabilities came ... */
    bool oob;            /* ... and enabled exec-oob */
    struct turns turns;  /* with @oob */
    bool draining;       /* no more input will be read */
    bool broken;         /* no more output can be sent */
    unsigned coroutines; /* that are still running */
    unsigned lost;       /* events dropped since the last marker */
    struct json_stream *json_stream;
    GQueue out; /* of char *, each one message */
    size_t out_bytes;
    struct co_queue out_ready, out_room;
};

/* --- output --- */

static void send_text(struct session *s, char *text)
{
    if (s->broken) {
        g_free(text);
        return;
    }
    g_queue_push_tail(&s->out, text);
    s->out_bytes += strlen(text);
    co_queue_wake_all(&s->out_ready);
}

static void send_json(struct session *s, const json_t *msg)
{
    g_autofree char *text = json_print(msg, s->mode == SESSION_QMP_PRETTY);

    send_text(s, g_strconcat(text, "\r\n", NULL));
}

static void send_lost_marker(struct session *s)
{
    gint64 now = g_get_real_time();
    json_t *ev = json_pack("{s:{s:I,s:I},s:s,s:{s:I}}", "timestamp", "seconds",
                           (json_int_t)(now / 1000000), "microseconds",
                           (json_int_t)(now % 1000000), "event",
                           "SLUICE_EVENTS_LOST", "data", "count",
                           (json_int_t)s->lost);

    s->lost = 0;
    send_json(s, ev);
    json_decref(ev);
}

void session_send_event(struct session *s, json_t *event)
{
    if (s->mode == SESSION_HMP || !s->negotiated) {
        return;
    }
    if (s->out_bytes >= QUEUE_MAX) {
        s->lost++;
        return;
    }
    send_json(s, event);
}

static void end_output(struct session *s)
{
    s->broken = true;
    while (!g_queue_is_empty(&s->out)) {
        g_free(g_queue_pop_head(&s->out));
    }
    s->out_bytes = 0;
    co_queue_wake_all(&s->out_room);
}

/* --- end --- */

static void session_unref(struct session *s)
{
    if (--s->coroutines > 0) {
        return;
    }
    g_ptr_array_remove(s->c->sessions, s);
    co_queue_wake_all(&s->c->session_ended);
    end_output(s);
    json_stream_free(s->json_stream);
    channel_free(s->ch);
    g_free(s);
}

void session_shutdown(struct session *s)
{
    s->draining = true;
    channel_shutdown(s->ch);
    co_queue_wake_all(&s->out_ready);
    co_queue_wake_all(&s->out_room);
}

void session_finish(struct session *s)
{
    s->draining = true;
    co_queue_wake_all(&s->out_ready);
}

static CO_FN void session_writer_entry(void *arg)
{
    struct session *s = arg;

    while (!s->broken) {
        g_autofree char *text = g_queue_pop_head(&s->out);
        struct iovec store;
        int r;

        if (!text) {
            if (s->draining) {
                break;
            }
            co_queue_co_wait(&s->out_ready);
            continue;
        }
        r = channel_co_write(s->ch, iov_one(&store, text, strlen(text)),
                             s->draining ? DRAIN_STALL_NS : 0);
        if (r < 0) {
            break;
        }
        s->out_bytes -= strlen(text);
        if (s->out_bytes < QUEUE_MAX / 2) {
            if (s->lost > 0) {
                send_lost_marker(s);
            }
            co_queue_wake_all(&s->out_room);
        }
    }
    end_output(s);
    /* The reader must not wait for more from a client that is not heard. */
    session_shutdown(s);
    session_unref(s);
}

/* --- QMP --- */

static json_t *error_object(const GError *err)
{
    g_autofree char *msg = err_dup_message(err);
    g_autofree char *desc = g_utf8_make_valid(msg, -1);

    return json_pack("{s:s,s:s}", "class", err_class_name(err_class_of(err)),
                     "desc", desc);
}

static void send_answer(struct session *s, json_t *id, json_t *ret,
                        const GError *err)
{
    json_t *msg = json_object();

    if (!err) {
        json_object_set_new(msg, "return", ret ? ret : json_object());
    }
    if (id) {
        json_object_set(msg, "id", id);
    }
    if (err) {
        json_object_set_new(msg, "error", error_object(err));
    }
    send_json(s, msg);
    json_decref(msg);
}

static void send_greeting(struct session *s)
{
    json_t *msg = json_pack("{s:{s:o,s:[s]}}", "QMP", "version",
                            control_version(), "capabilities", "oob");

    send_json(s, msg);
    json_decref(msg);
}

static int session_negotiate(struct session *s, const json_t *args,
                             GError **err)
{
    const struct schema_command *cmd = schema_find_command("qmp_capabilities");
    int r = schema_check(cmd->args, args, err);

    if (r < 0) {
        return r;
    }
    /* There is but one. */
    s->oob = json_array_size(json_object_get(args, "enable")) > 0;
    s->negotiated = true;
    return 0;
}

/* The member that names the command of @msg; NULL: none does. */
static const char *exec_key(const json_t *msg)
{
    return json_object_get(msg, "execute")    ? "execute"
           : json_object_get(msg, "exec-oob") ? "exec-oob"
                                              : NULL;
}

/* Is it to begin at once? */
static bool is_oob(const struct session *s, const json_t *msg)
{
    return s->oob && g_strcmp0(exec_key(msg), "exec-oob") == 0;
}

static int check_message(const struct session *s, const json_t *msg,
                         GError **err)
{
    static const char *const known[] = { "execute", "arguments", "id",
                                         "exec-oob", NULL };
    const char *exec = exec_key(msg);
    const json_t *arguments = json_object_get(msg, "arguments");
    const char *key;
    json_t *v;

    if (!json_is_object(msg)) {
        return err_set(err, EINVAL, "QMP input must be a JSON object");
    }
    json_object_foreach((json_t *)msg, key, v) {
        if (!g_strv_contains(known, key) ||
            (!s->oob && g_str_equal(key, "exec-oob"))) {
            return err_set(err, EINVAL, "QMP input member '%s' is unexpected",
                           key);
        }
    }
    if (!exec) {
        return err_set(err, EINVAL, "QMP input lacks member 'execute'");
    }
    if (json_object_get(msg, "execute") && json_object_get(msg, "exec-oob")) {
        return err_set(err, EINVAL,
                       "QMP input member 'exec-oob' clashes with 'execute'");
    }
    if (!json_is_string(json_object_get(msg, exec))) {
        return err_set(err, EINVAL, "QMP input member '%s' must be a string",
                       exec);
    }
    if (arguments && !json_is_object(arguments)) {
        return err_set(err, EINVAL,
                       "QMP input member 'arguments' must be an object");
    }
    return 0;
}

/* What belongs to the connection takes its turn. */
static int check_oob(const struct session *s, const json_t *msg,
                     const char *name, GError **err)
{
    const struct schema_command *cmd = schema_find_command(name);

    return is_oob(s, msg) && cmd && cmd->context == SCHEMA_ON_SESSION
               ? err_set(err, EINVAL, "The command %s does not support OOB",
                         name)
               : 0;
}

static CO_FN int qmp_co_dispatch(struct session *s, const json_t *msg,
                                 json_t **ret, GError **err)
{
    const json_t *args = json_object_get(msg, "arguments");
    const char *name;
    bool is_negotiation;
    int r = check_message(s, msg, err);

    if (r < 0) {
        return r;
    }
    name = arg_str(msg, exec_key(msg));
    r = check_oob(s, msg, name, err);
    if (r < 0) {
        return r;
    }
    is_negotiation = g_str_equal(name, "qmp_capabilities");
    if (!s->negotiated && !is_negotiation) {
        return err_set_class(err, ERR_COMMAND_NOT_FOUND, EINVAL,
                             "Expecting capabilities negotiation with "
                             "'qmp_capabilities'");
    }
    if (s->negotiated && is_negotiation) {
        return err_set_class(err, ERR_COMMAND_NOT_FOUND, EINVAL,
                             "Capabilities negotiation is already complete, "
                             "command ignored");
    }
    if (is_negotiation) {
        return session_negotiate(s, args, err);
    }
    if (g_str_equal(name, "add-fd")) {
        return session_add_fd(s->ch, args, ret, err);
    }
    return control_co_execute(s->c, name, args, ret, err);
}

/* Run and answer what was read: @msg, or @bad where it was no JSON. */
static CO_FN void qmp_co_run(void *arg, const json_t *msg, const GError *bad)
{
    struct session *s = arg;
    g_autoptr(GError) err = bad ? g_error_copy(bad) : NULL;
    json_t *ret = NULL;

    if (s->draining) {
        return;
    }
    if (!err) {
        qmp_co_dispatch(s, msg, &ret, &err);
    }
    send_answer(s, json_object_get(msg, "id"), ret, err);
    while (s->out_bytes >= QUEUE_MAX && !s->broken && !s->draining) {
        co_queue_co_wait(&s->out_room);
    }
}

static CO_FN void qmp_co_input(struct session *s, const char *buf, size_t len)
{
    json_stream_feed(s->json_stream, buf, len);
    while (!s->draining) {
        GError *err = NULL;
        json_t *msg = NULL;
        int r = json_stream_next(s->json_stream, &msg, &err);

        if (r == 0) {
            break;
        }
        if (s->oob) {
            turns_co_add(&s->turns, msg, err, is_oob(s, msg));
        } else {
            qmp_co_run(s, msg, err);
            json_decref(msg);
            g_clear_error(&err);
        }
    }
}

/* --- HMP --- */

static void send_prompt(struct session *s)
{
    send_text(s, g_strdup("(sluice) "));
}

static CO_FN void hmp_co_line(struct session *s, char *line)
{
    g_autoptr(GString) out = g_string_new(NULL);
    g_auto(GStrv) lines = NULL;
    g_autofree char *text = NULL;

    if (!g_utf8_validate(line, -1, NULL)) {
        g_string_assign(out, "Error: the line is not UTF-8\n");
    } else {
        hmp_co_execute(s->c, line, out);
    }
    lines = g_strsplit(out->str, "\n", -1);
    text = g_strjoinv("\r\n", lines);
    if (*text) {
        send_text(s, g_steal_pointer(&text));
    }
    send_prompt(s);
}

/* @pending holds the beginning of a line. */
static CO_FN void hmp_co_input(struct session *s, GString *pending,
                               const char *buf, size_t len)
{
    char *nl;

    g_string_append_len(pending, buf, (gssize)len);
    while (!s->draining && (nl = memchr(pending->str, '\n', pending->len))) {
        g_autofree char *line = g_strndup(pending->str,
                                          (gsize)(nl - pending->str));

        g_string_erase(pending, 0, nl - pending->str + 1);
        hmp_co_line(s, g_strstrip(line));
    }
    if (pending->len > LINE_MAX_LEN) {
        g_string_truncate(pending, 0);
        send_text(s, g_strdup("Error: the line is too long\r\n"));
    }
}

/* --- input --- */

static CO_FN void session_co_greet(struct session *s)
{
    if (s->mode == SESSION_HMP) {
        send_text(s, g_strdup("sluice " SLUICE_VERSION " monitor - type "
                              "'help' for more information\r\n"));
        send_prompt(s);
    } else {
        send_greeting(s);
    }
}

static CO_FN void reader_entry(void *arg)
{
    struct session *s = arg;
    g_autofree char *buf = g_malloc(READ_SIZE);
    g_autoptr(GString) pending = g_string_new(NULL);

    while (!s->c->ready && !s->draining) {
        co_queue_co_wait(&s->c->ready_waiters);
    }
    session_co_greet(s);
    while (!s->draining) {
        ssize_t n = channel_co_read(s->ch, buf, READ_SIZE, 0);

        if (n <= 0) {
            break;
        }
        if (s->mode == SESSION_HMP) {
            hmp_co_input(s, pending, buf, (size_t)n);
        } else {
            qmp_co_input(s, buf, (size_t)n);
        }
    }
    turns_co_wait(&s->turns);
    session_finish(s);
    session_unref(s);
}

void control_add_session(struct control *c, struct channel *ch,
                         enum session_mode mode)
{
    struct session *s = g_new0(struct session, 1);

    s->c = c;
    s->ch = ch;
    s->mode = mode;
    s->json_stream = json_stream_new(&json_stream_default_limits);
    g_queue_init(&s->out);
    s->turns = (struct turns) { c->loop, qmp_co_run, s };
    s->coroutines = 2;
    if (mode != SESSION_HMP) {
        channel_accept_fds(ch);
    }
    g_ptr_array_add(c->sessions, s);
    co_start(c->loop, reader_entry, s);
    co_start(c->loop, session_writer_entry, s);
}
