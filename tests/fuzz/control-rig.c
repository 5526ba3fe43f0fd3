/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control-rig.h"
#include <jansson.h>
#include <string.h>
#include "control/control.h"
#include "fuzz.h"
#include "loop/co.h"
#include "loop/loop.h"

enum { SIZE = 1 << 20 };
#define STATE "/d/state"
/* Long enough for jobs to begin, or to end. */
#define SLEEP_NS UINT64_C(500000000)

struct rig {
    void (*fn)(struct control *c, void *arg); /* NULL: only the journal */
    void *arg;
    const void *journal;
    size_t journal_len;
};

static void on_quit(void *arg)
{
}

/* The image is the same every time: made once by hand, 64 bytes and a name. */
static void put_files(void)
{
    static const uint8_t head[] = {
        'Q', 'E', 'D', 0, 0,   16,  0,   0,   1,        0,   0,   0,   1, 0,
        0,   0, /* 4 KiB, 1, 1 */
        5,   0,   0,   0, 0,   0,   0,   0,   [40] = 0, 16,  0,   0,   0, 0,
        0,   0,   0,   0, 16,  0,   0,   0,   0,        0,   64,  0,   0, 0,
        8,   0,   0,   0, 'b', 'a', 's', 'e', '.',      'r', 'a', 'w',
    };
    char data[8192];

    memset(data, 'b', sizeof(data));
    fuzz_put_file("/d/top.qed", head, sizeof(head), 8192);
    fuzz_put_file("/d/base.raw", data, sizeof(data), SIZE);
}

static CO_FN void must_co(struct control *c, const char *command,
                          const char *args)
{
    json_t *a = json_loads(args, 0, NULL), *ret = NULL;
    g_autoptr(GError) err = NULL;

    control_co_execute(c, command, a, &ret, &err);
    g_assert_no_error(err);
    json_decref(a);
    json_decref(ret);
}

/* False when the journal is refused. */
static CO_FN bool rig_co_once(struct rig *r)
{
    struct control_params p = {
        .loop = loop_current(),
        .data = loop_current(),
        .quit = on_quit,
        .state_dir = r->journal ? STATE : NULL,
        .resume_jobs = true,
    };
    json_t *drive = json_pack("{s:s,s:s,s:s}", "id", "v", "file", "/d/top.qed",
                              "format", "qed");
    struct control *c = control_new(&p);
    g_autoptr(GError) err = NULL;
    int ret = control_co_start(c, &err);

    g_assert_true((ret < 0) == (err != NULL));
    if (ret < 0) {
        g_assert_true(r->journal != NULL);
        json_decref(drive);
        control_co_stop(c);
        control_free(c);
        return false;
    }
    control_co_add_drive(c, drive, &err);
    g_assert_no_error(err);
    must_co(c, "blockdev-add",
            "{\"driver\":\"null-co\",\"node-name\":\"n\","
            "\"size\":1048576}");
    json_decref(drive);
    control_co_ready(c);
    if (r->fn) {
        r->fn(c, r->arg);
    } else {
        co_sleep(SLEEP_NS);
    }
    control_co_stop(c);
    control_free(c);
    return true;
}

static CO_FN void rig_entry(void *arg)
{
    struct rig *r = arg;

    put_files();
    if (r->journal) {
        fuzz_put_file(STATE "/jobs.json", r->journal, r->journal_len, 0);
    }
    if (rig_co_once(r) && r->journal) {
        g_assert_true(rig_co_once(r));
    }
}

void control_rig_run(void (*fn)(struct control *c, void *arg), void *arg)
{
    struct rig r = { fn, arg };

    fuzz_run(rig_entry, &r);
}

void control_rig_restart(const void *journal, size_t len)
{
    struct rig r = { .journal = journal, .journal_len = len };

    fuzz_run(rig_entry, &r);
}
