/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stream parser follows just enough of JSON to know where a value ends: the
 * brackets that are open and whether it stands in a string.  Everything else
 * is left to the JSON parser, which sees each value whole, with its single
 * quotes rewritten.
 */
#include "control/session/json-stream.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"

const struct json_stream_limits json_stream_default_limits = {
    .max_bytes = 1 << 20,
    .max_depth = 32,
    .max_keys = 1024,
};

enum verdict { FINE, TOO_LONG, TOO_DEEP, TOO_MANY_KEYS, MISMATCH };

struct json_stream {
    struct json_stream_limits limits;
    GString *in; /* fed, not yet looked at from @pos on */
    size_t pos;
    GString *value;    /* the value so far */
    uint64_t brackets; /* bit per open bracket, 1 = "{"; up to max_depth */
    uint64_t depth;
    unsigned keys;
    char quote;   /* in a string that began with this; 0: not */
    bool escaped; /* the last character was a backslash */
    bool scalar;  /* in a number or word outside all brackets */
    enum verdict verdict;
};

struct json_stream *json_stream_new(const struct json_stream_limits *limits)
{
    struct json_stream *s = g_new0(struct json_stream, 1);

    s->limits = *limits;
    g_assert(limits->max_depth <= 64);
    s->in = g_string_new(NULL);
    s->value = g_string_new(NULL);
    return s;
}

void json_stream_free(struct json_stream *s)
{
    if (s) {
        g_string_free(s->in, TRUE);
        g_string_free(s->value, TRUE);
        g_free(s);
    }
}

void json_stream_feed(struct json_stream *s, const char *data, size_t len)
{
    g_string_erase(s->in, 0, (gssize)s->pos);
    s->pos = 0;
    g_string_append_len(s->in, data, (gssize)len);
}

static void stream_fail(struct json_stream *s, enum verdict v)
{
    if (s->verdict == FINE) {
        s->verdict = v;
        g_string_truncate(s->value, 0);
    }
}

static void store(struct json_stream *s, char c)
{
    if (s->verdict != FINE) {
        return;
    }
    if (s->value->len >= s->limits.max_bytes) {
        stream_fail(s, TOO_LONG);
        return;
    }
    g_string_append_c(s->value, c);
}

/* A character inside a string; single quotes become double ones. */
static void step_string(struct json_stream *s, char c)
{
    if (s->escaped) {
        s->escaped = false;
        if (c != '\'') {
            store(s, '\\');
        }
        store(s, c);
    } else if (c == '\\') {
        s->escaped = true;
    } else if (c == s->quote) {
        s->quote = 0;
        store(s, '"');
    } else {
        if (c == '"') {
            store(s, '\\');
        }
        store(s, c);
    }
}

static void open_bracket(struct json_stream *s, char c)
{
    if (s->depth >= s->limits.max_depth) {
        stream_fail(s, TOO_DEEP);
    } else {
        uint64_t bit = 1ull << s->depth;

        s->brackets = (s->brackets & ~bit) | (c == '{' ? bit : 0);
    }
    s->depth++;
}

static void close_bracket(struct json_stream *s, char c)
{
    s->depth--;
    if (s->depth < s->limits.max_depth &&
        ((s->brackets >> s->depth) & 1) != (c == '}')) {
        stream_fail(s, MISMATCH);
        s->depth = 0;
    }
}

/* A character outside of strings, inside or beginning a value. */
static void step_plain(struct json_stream *s, char c)
{
    switch (c) {
    case '"':
    case '\'':
        s->quote = c;
        c = '"';
        break;
    case '{':
    case '[': open_bracket(s, c); break;
    case '}':
    case ']':
        if (s->depth == 0) {
            stream_fail(s, MISMATCH);
            return;
        }
        close_bracket(s, c);
        break;
    case ':':
        if (++s->keys > s->limits.max_keys) {
            stream_fail(s, TOO_MANY_KEYS);
        }
        break;
    default: s->scalar = s->depth == 0; break;
    }
    store(s, c);
}

static bool ends_scalar(char c)
{
    return strchr(" \t\r\n{}[]\"'", c) != NULL && c != 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Look at one character. True when a value (or what should have been one) is
 * complete. A character that only ends a word is not consumed. */
static bool step(struct json_stream *s, char c, bool *ret_consumed)
{
    *ret_consumed = true;
    if (s->quote) {
        step_string(s, c);
    } else if (s->scalar) {
        if (ends_scalar(c)) {
            *ret_consumed = false;
            return true;
        }
        store(s, c);
        return false;
    } else if (s->depth == 0 && is_space(c)) {
        return false;
    } else {
        step_plain(s, c);
    }
    return !s->quote && s->depth == 0 && !s->scalar;
}

static int text_finish(struct json_stream *s, json_t **ret, GError **err)
{
    const struct json_stream_limits *l = &s->limits;
    json_error_t je;

    switch (s->verdict) {
    case TOO_LONG:
        return err_set(err, EINVAL,
                       "JSON parse error, command is longer than %zu bytes",
                       l->max_bytes);
    case TOO_DEEP:
        return err_set(err, EINVAL,
                       "JSON parse error, nesting is deeper than %u",
                       l->max_depth);
    case TOO_MANY_KEYS:
        return err_set(err, EINVAL, "JSON parse error, more than %u members",
                       l->max_keys);
    case MISMATCH:
        return err_set(err, EINVAL, "JSON parse error, expecting value");
    case FINE: break;
    }
    *ret = json_loadb(s->value->str, s->value->len,
                      JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &je);
    if (*ret) {
        return 1;
    }
    if (s->scalar) {
        g_autofree char *word = g_utf8_make_valid(
            s->value->str, (gssize)MIN(s->value->len, 40));

        return err_set(err, EINVAL, "JSON parse error, invalid keyword '%s'",
                       word);
    }
    return err_set(err, EINVAL, "JSON parse error, %s", je.text);
}

static void reset(struct json_stream *s)
{
    g_string_truncate(s->value, 0);
    s->depth = 0;
    s->keys = 0;
    s->scalar = false;
    s->verdict = FINE;
}

int json_stream_next(struct json_stream *s, json_t **ret_value, GError **err)
{
    while (s->pos < s->in->len) {
        bool consumed;
        bool done = step(s, s->in->str[s->pos], &consumed);

        s->pos += consumed;
        if (done) {
            int r = text_finish(s, ret_value, err);

            reset(s);
            return r;
        }
    }
    return 0;
}
