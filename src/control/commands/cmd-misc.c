/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands on the daemon itself; they run on the control loop. */
#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"

CO_FN int cmd_co_query_version(struct control *c, const json_t *args,
                               json_t **ret, GError **err)
{
    *ret = control_version();
    return 0;
}

CO_FN int cmd_co_query_commands(struct control *c, const json_t *args,
                                json_t **ret, GError **err)
{
    *ret = json_array();
    for (const struct schema_command *cmd = schema_commands; cmd->name; cmd++) {
        json_array_append_new(*ret, json_pack("{s:s}", "name", cmd->name));
    }
    return 0;
}

CO_FN int cmd_co_query_qmp_schema(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    *ret = json_loads(schema_introspection, 0, NULL);
    g_assert(*ret);
    return 0;
}

CO_FN int cmd_co_query_status(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    *ret = json_pack("{s:s,s:b,s:b}", "status",
                     c->quitting ? "shutdown" : "running", "singlestep", 0,
                     "running", 1);
    return 0;
}

CO_FN int cmd_co_human_monitor_command(struct control *c, const json_t *args,
                                       json_t **ret, GError **err)
{
    g_autoptr(GString) out = g_string_new(NULL);

    hmp_co_execute(c, arg_str(args, "command-line"), out);
    *ret = json_string(out->str);
    return 0;
}

CO_FN int cmd_co_quit(struct control *c, const json_t *args, json_t **ret,
                      GError **err)
{
    control_quit(c, "host-qmp-quit");
    return 0;
}
