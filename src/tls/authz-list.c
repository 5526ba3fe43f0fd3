/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>
#include "base/err.h"
#include "base/options.h"
#include "tls/authz-int.h"

enum { RULES_MAX = 65536 };

static const char *const policies[] = { "deny", "allow", NULL };
static const char *const formats[] = { "exact", "glob", NULL };

static void rule_clear(void *p)
{
    g_free(((struct authz_rule *)p)->match);
}

void authz_list_clear(struct authz_list *l)
{
    g_clear_pointer(&l->rules, g_array_unref);
}

static int rule_take(const json_t *props, struct authz_rule *ret, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(props);
    int policy = 0, format = 0, r;

    if ((r = opts_take_str(o, "match", &ret->match, err)) == 0) {
        return opts_missing("match", err);
    }
    if (r > 0 &&
        (r = opts_take_enum(o, "policy", policies, &policy, err)) == 0) {
        return opts_missing("policy", err);
    }
    if (r < 0 || (r = opts_take_enum(o, "format", formats, &format, err)) < 0 ||
        (r = opts_finish(o, err)) < 0) {
        return r;
    }
    ret->allow = policy == 1;
    ret->glob = format == 1;
    return 0;
}

static int rules_take(const json_t *list, GArray *rules, GError **err)
{
    const json_t *item;
    size_t i;

    if (!json_is_array(list) || json_array_size(list) > RULES_MAX) {
        return err_set(err, EINVAL,
                       "Parameter 'rules' expects a list of at most %d rules",
                       RULES_MAX);
    }
    json_array_foreach(list, i, item) {
        struct authz_rule rule = { 0 };
        int r = json_is_object(item)
                    ? rule_take(item, &rule, err)
                    : err_set(err, EINVAL, "a rule is not an object");

        g_array_append_val(rules, rule);
        if (r < 0) {
            err_prefix(err, "rules.%zu", i);
            return r;
        }
    }
    return 0;
}

void authz_list_init(struct authz_list *l)
{
    *l = (struct authz_list) {
        .rules = g_array_new(FALSE, FALSE, sizeof(struct authz_rule)),
    };
    g_array_set_clear_func(l->rules, rule_clear);
}

int authz_list_take(struct opts *o, struct authz_list *ret, GError **err)
{
    struct authz_list l;
    json_t *rules = opts_take_any(o, "rules");
    int policy = 0;
    int r = opts_take_enum(o, "policy", policies, &policy, err);

    authz_list_init(&l);
    l.allow = policy == 1;
    if (r >= 0 && rules) {
        r = rules_take(rules, l.rules, err);
    }
    json_decref(rules);
    if (r < 0) {
        authz_list_clear(&l);
        return r;
    }
    *ret = l;
    return 0;
}

bool authz_list_allows(const struct authz_list *l, const char *identity)
{
    for (guint i = 0; i < l->rules->len; i++) {
        const struct authz_rule *rule = &g_array_index(l->rules,
                                                       struct authz_rule, i);

        if (rule->glob ? g_pattern_match_simple(rule->match, identity)
                       : strcmp(rule->match, identity) == 0) {
            return rule->allow;
        }
    }
    return l->allow;
}
