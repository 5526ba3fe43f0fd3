/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From options and config files to the rules of "blkdebug".
 *
 * A config file is read into the same objects that the options have, so each
 * rule is understood in one place:
 *
 *     # comment
 *     [inject-error]
 *     event = "read_aio"
 *     errno = "5"
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "filter/blkdebug/blkdebug-int.h"
#include "loop/io.h"

#define CONFIG_MAX (64u << 10)
#define SECTOR 512
#define IOTYPES_DEFAULT \
    (1u << BLKDEBUG_READ | 1u << BLKDEBUG_WRITE | \
     1u << BLKDEBUG_WRITE_ZEROES | 1u << BLKDEBUG_DISCARD | \
     1u << BLKDEBUG_FLUSH)

const char *const blkdebug_iotype_names[] = {
    "read", "write", "write-zeroes", "discard", "flush", "block-status", NULL
};

/* --- one rule --- */

static int take_event(struct opts *o, struct blkdebug_rule *rule, GError **err)
{
    int event = 0;
    int r = opts_take_enum(o, "event", debug_event_names, &event, err);

    if (r == 0) {
        r = opts_missing("event", err);
    }
    if (r > 0) {
        rule->event = (enum debug_event)event;
        r = opts_take_int(o, "state", &rule->state, err);
    }
    return MIN(r, 0);
}

static int take_inject(struct opts *o, struct blkdebug_rule *rule, GError **err)
{
    int64_t error = EIO, sector = -1;
    int type, r;

    rule->inject.iotypes = IOTYPES_DEFAULT;
    r = opts_take_enum(o, "iotype", blkdebug_iotype_names, &type, err);
    if (r > 0) {
        rule->inject.iotypes = 1u << type;
    }
    if (r >= 0) {
        r = opts_take_int(o, "errno", &error, err);
    }
    if (r >= 0 && (error < 0 || error > 4095)) {
        r = err_set(err, EINVAL, "Parameter 'errno' is out of range: %" PRId64,
                    error);
    }
    if (r >= 0) {
        r = opts_take_int(o, "sector", &sector, err);
    }
    if (r >= 0 && (sector < -1 || sector > INT64_MAX / SECTOR)) {
        r = err_set(err, EINVAL, "Parameter 'sector' is out of range: %" PRId64,
                    sector);
    }
    if (r >= 0) {
        r = opts_take_bool(o, "once", &rule->inject.once, err);
    }
    if (r >= 0) {
        r = opts_take_bool(o, "immediately", &rule->inject.immediately, err);
    }
    if (r < 0) {
        return r;
    }
    rule->inject.error = (int)error;
    rule->inject.offset = sector < 0 ? -1 : sector * SECTOR;
    return 0;
}

static int take_set_state(struct opts *o, struct blkdebug_rule *rule,
                          GError **err)
{
    int r = opts_take_int(o, "new_state", &rule->new_state, err);

    return r == 0 ? opts_missing("new_state", err) : MIN(r, 0);
}

static const struct rule_kind {
    const char *name;
    enum blkdebug_action action;
    int (*take)(struct opts *o, struct blkdebug_rule *rule, GError **err);
} rule_kinds[] = {
    { "inject-error", BLKDEBUG_INJECT, take_inject },
    { "set-state", BLKDEBUG_SET_STATE, take_set_state },
};

static int rule_add(const struct rule_kind *kind, const json_t *obj,
                    struct blkdebug_rules *rules, GError **err)
{
    struct blkdebug_rule rule = { .action = kind->action };
    struct opts *o;
    int r;

    if (!json_is_object(obj)) {
        return err_set(err, EINVAL,
                       "Invalid parameter type for '%s', "
                       "expected: list of objects",
                       kind->name);
    }
    o = opts_new(obj);
    r = take_event(o, &rule, err);
    if (r == 0) {
        r = kind->take(o, &rule, err);
    }
    if (r == 0) {
        r = opts_finish(o, err);
    }
    if (r == 0) {
        blkdebug_rules_add(rules, &rule);
    }
    opts_free(o);
    return r;
}

int blkdebug_take_rules(struct opts *o, struct blkdebug_rules *rules,
                        GError **err)
{
    int r = 0;

    for (unsigned k = 0; k < G_N_ELEMENTS(rule_kinds) && r == 0; k++) {
        const struct rule_kind *kind = &rule_kinds[k];
        json_t *list = opts_take_any(o, kind->name);

        if (list && !json_is_array(list)) {
            r = rule_add(kind, NULL, rules, err);
        }
        for (size_t i = 0; i < json_array_size(list) && r == 0; i++) {
            r = rule_add(kind, json_array_get(list, i), rules, err);
            if (r < 0) {
                err_prefix(err, "%s rule %zu", kind->name, i);
            }
        }
        json_decref(list);
    }
    return r;
}

/* --- config files --- */

struct config {
    struct blkdebug_rules *rules;
    const struct rule_kind *kind; /* of the section; NULL before the first */
    json_t *section;
};

static int section_end(struct config *c, GError **err)
{
    int r = c->kind ? rule_add(c->kind, c->section, c->rules, err) : 0;

    json_decref(c->section);
    c->section = NULL;
    c->kind = NULL;
    return r;
}

/* @line: "[inject-error]", or with an id: [inject-error "name"]. */
static int section_begin(struct config *c, char *line, GError **err)
{
    char *end = strchr(line, ']');
    int r = section_end(c, err);

    if (r < 0) {
        return r;
    }
    if (!end || *g_strchug(end + 1)) {
        return err_set(err, EINVAL, "no section: '%s'", line);
    }
    line[strcspn(line, "] \t")] = '\0';
    for (unsigned k = 0; k < G_N_ELEMENTS(rule_kinds); k++) {
        if (!strcmp(line + 1, rule_kinds[k].name)) {
            c->kind = &rule_kinds[k];
            c->section = json_object();
            return 0;
        }
    }
    return err_set(err, EINVAL, "There is no option group '%s'", line + 1);
}

/* key = "value" */
static int pair_add(struct config *c, char *line, GError **err)
{
    char *value = strchr(line, '='), *end;

    if (!c->kind) {
        return err_set(err, EINVAL, "no group defined");
    }
    if (!value) {
        return err_set(err, EINVAL, "no 'name = \"value\"': '%s'", line);
    }
    *value++ = '\0';
    g_strchomp(line);
    value = g_strchug(value);
    end = *value == '"' ? strchr(value + 1, '"') : NULL;
    if (!end) {
        return err_set(err, EINVAL, "the value of '%s' is not in quotes", line);
    }
    *end++ = '\0';
    end = g_strchug(end);
    if (*end && *end != '#') {
        return err_set(err, EINVAL, "'%s' follows the value of '%s'", end,
                       line);
    }
    if (json_object_set_new(c->section, line, json_string(value + 1)) < 0) {
        return err_set(err, EINVAL, "not valid UTF-8");
    }
    return 0;
}

static int config_line(struct config *c, char *line, GError **err)
{
    line = g_strstrip(line);
    if (!*line || *line == '#') {
        return 0;
    }
    return *line == '[' ? section_begin(c, line, err) : pair_add(c, line, err);
}

int blkdebug_parse_config(const char *text, const char *name,
                          struct blkdebug_rules *rules, GError **err)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    struct config c = { .rules = rules };
    unsigned i = 0;
    int r = 0;

    for (; lines[i] && r == 0; i++) {
        r = config_line(&c, lines[i], err);
    }
    if (r == 0) {
        r = section_end(&c, err);
    }
    if (r < 0) {
        err_prefix(err, "Blkdebug config file '%s', line %u", name, i);
    }
    json_decref(c.section);
    return r;
}

static CO_FN int config_co_load(const char *path, char *buf, size_t size)
{
    struct io_file *f;
    struct iovec store;
    uint64_t len;
    int r = io_co_open(path, O_RDONLY | O_NONBLOCK, 0, &f);

    if (r < 0) {
        return r;
    }
    r = io_co_size(f, &len);
    if (r == 0 && len >= size) {
        r = -EFBIG;
    }
    if (r == 0 && len > 0) {
        r = io_co_preadv(f, 0, iov_one(&store, buf, len));
    }
    io_co_close(f);
    return r;
}

int blkdebug_co_read_config(const char *path, struct blkdebug_rules *rules,
                            GError **err)
{
    g_autofree char *buf = g_malloc0(CONFIG_MAX + 1);
    int r = config_co_load(path, buf, CONFIG_MAX);

    if (r < 0) {
        return err_set_errno(err, -r,
                             "Could not read blkdebug config file '%s'", path);
    }
    return blkdebug_parse_config(buf, path, rules, err);
}

/* --- the rest --- */

int blkdebug_take_perms(struct opts *o, const char *name, unsigned *ret_perms,
                        GError **err)
{
    static const char *const names[] = { "consistent-read", "write",
                                         "write-unchanged", "resize", NULL };
    json_t *list = opts_take_any(o, name);
    int r = 0;

    *ret_perms = 0;
    if (list && !json_is_array(list)) {
        r = err_set(err, EINVAL,
                    "Invalid parameter type for '%s', "
                    "expected: list",
                    name);
    }
    for (size_t i = 0; i < json_array_size(list) && r >= 0; i++) {
        json_t *obj = json_pack("{s:O}", name, json_array_get(list, i));
        struct opts *one = opts_new(obj);
        int bit = 0;

        r = opts_take_enum(one, name, names, &bit, err);
        *ret_perms |= r > 0 ? 1u << bit : 0;
        opts_free(one);
        json_decref(obj);
    }
    json_decref(list);
    return MIN(r, 0);
}

int blkdebug_parse_name(const char *name, char **ret_config, char **ret_path,
                        GError **err)
{
    const char *conf = name + strlen("blkdebug:");
    const char *colon = strchr(conf, ':');

    if (!g_str_has_prefix(name, "blkdebug:") || !colon || !colon[1]) {
        return err_set(err, EINVAL,
                       "'%s' is not of the form "
                       "blkdebug:[CONFIG]:IMAGE",
                       name);
    }
    *ret_config = colon > conf ? g_strndup(conf, (gsize)(colon - conf)) : NULL;
    *ret_path = g_strdup(colon + 1);
    return 0;
}
