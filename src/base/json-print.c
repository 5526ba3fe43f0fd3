/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON as QEMU prints it; see json-print.h. */
#include "base/json-print.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* --- the order of members --- */

struct member {
    const char *key;
    unsigned bucket;
    size_t position; /* in the object */
};

/* The bucket of QEMU's dictionaries (512 of them) that holds @key. */
static unsigned bucket_of(const char *key)
{
    uint32_t h = (uint32_t)strlen(key) * 0x238f13afu;

    for (unsigned i = 0; key[i]; i++) {
        h += (uint32_t)(unsigned char)key[i] << (i * 5 % 24);
    }
    return (h * 1103515243u + 12345u) % 512;
}

/* A bucket gives what was put into it last first. */
static int member_compare(const void *a, const void *b)
{
    const struct member *x = a, *y = b;

    if (x->bucket != y->bucket) {
        return x->bucket < y->bucket ? -1 : 1;
    }
    return x->position > y->position ? -1 : 1;
}

GPtrArray *json_print_order(const json_t *object)
{
    size_t n = json_object_size(object), i = 0;
    g_autofree struct member *members = g_new(struct member, n);
    GPtrArray *keys = g_ptr_array_sized_new((guint)n);
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value) {
        members[i] = (struct member) { key, bucket_of(key), i };
        i++;
    }
    if (n > 1) { /* there is no array of none */
        qsort(members, n, sizeof(*members), member_compare);
    }
    for (i = 0; i < n; i++) {
        g_ptr_array_add(keys, (char *)members[i].key);
    }
    return keys;
}

/* --- values --- */

struct printer {
    GString *out;
    unsigned depth;
    bool pretty;
};

static void print_value(struct printer *p, const json_t *v);

static void print_escaped(GString *out, gunichar c)
{
    static const char named[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *found = c < 0x80 ? strchr(named, (int)c) : NULL;

    if (found) {
        g_string_append_printf(out, "\\%c", letters[found - named]);
    } else if (c > 0xffff) {
        g_string_append_printf(out, "\\u%04X\\u%04X",
                               0xd800 + ((c - 0x10000) >> 10),
                               0xdc00 + ((c - 0x10000) & 0x3ff));
    } else if (c < 0x20 || c >= 0x7f) {
        g_string_append_printf(out, "\\u%04X", c);
    } else {
        g_string_append_c(out, (char)c);
    }
}

static void print_string(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    g_string_append_c(out, '"');
    for (const char *c = valid; *c; c = g_utf8_next_char(c)) {
        print_escaped(out, g_utf8_get_char(c));
    }
    g_string_append_c(out, '"');
}

/* After '{', '[' or ',', and before '}' or ']'. */
static void print_break(struct printer *p, const char *otherwise)
{
    if (p->pretty) {
        g_string_append_printf(p->out, "\n%*s", (int)(p->depth * 4), "");
    } else {
        g_string_append(p->out, otherwise);
    }
}

static void print_object(struct printer *p, const json_t *v)
{
    g_autoptr(GPtrArray) keys = json_print_order(v);

    g_string_append_c(p->out, '{');
    p->depth++;
    for (guint i = 0; i < keys->len; i++) {
        g_string_append(p->out, i ? "," : "");
        print_break(p, i ? " " : "");
        print_string(p->out, keys->pdata[i]);
        g_string_append(p->out, ": ");
        print_value(p, json_object_get(v, keys->pdata[i]));
    }
    p->depth--;
    print_break(p, "");
    g_string_append_c(p->out, '}');
}

static void print_array(struct printer *p, const json_t *v)
{
    const json_t *element;
    size_t i;

    g_string_append_c(p->out, '[');
    p->depth++;
    json_array_foreach(v, i, element) {
        g_string_append(p->out, i ? "," : "");
        print_break(p, i ? " " : "");
        print_value(p, element);
    }
    p->depth--;
    print_break(p, "");
    g_string_append_c(p->out, ']');
}

static void print_value(struct printer *p, const json_t *v)
{
    if (json_is_object(v)) {
        print_object(p, v);
    } else if (json_is_array(v)) {
        print_array(p, v);
    } else if (json_is_string(v)) {
        print_string(p->out, json_string_value(v));
    } else {
        char *text = json_dumps(v, JSON_ENCODE_ANY);

        g_string_append(p->out, text);
        free(text);
    }
}

char *json_print(const json_t *value, bool pretty)
{
    struct printer p = { .out = g_string_new(NULL), .pretty = pretty };

    print_value(&p, value);
    return g_string_free(p.out, FALSE);
}
