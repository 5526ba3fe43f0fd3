/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Streams whose base, or header, fails. */
#include "stream-env.h"

static CO_FN void report_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co(TOP_FLAKY);
    flaky.fail_from = 3 * MIB + 600 * KIB;
    flaky.fail_to = flaky.fail_from + 1;
    flaky.errnum = EIO;
    stream_co((struct stream_params) { .node = top });
    expect("created running BLOCK_JOB_ERROR aborting BLOCK_JOB_COMPLETED "
           "concluded null");
    g_assert_cmpstr(json_string_value(json_object_get(last_end, "error")), ==,
                    "Input/output error");
    g_assert_cmpint(end_int("offset"), ==, 3 * MIB + 512 * KIB);
    g_assert_nonnull(node_backing(top));
    flaky.errnum = 0;
    node_co_unref(top);
    reopen_co_check("mid.qed");
}

static CO_FN void ignore_co_test(void)
{
    struct node *top;
    uint8_t head[512];
    struct iovec v;

    make_co_chain();
    top = open_co(TOP_FLAKY);
    flaky.fail_from = 3 * MIB;
    flaky.fail_to = 3 * MIB + 1;
    flaky.errnum = EIO;
    stream_co(
        (struct stream_params) { .node = top, .on_error = ON_ERROR_IGNORE });
    expect("created running BLOCK_JOB_ERROR aborting BLOCK_JOB_COMPLETED "
           "concluded null");
    g_assert_cmpint(end_int("offset"), ==, SIZE);
    g_assert_nonnull(json_object_get(last_end, "error"));
    g_assert_nonnull(node_backing(top));
    /* Everything else is here now. */
    must(node_co_preadv(top, SIZE - 512, iov_one(&v, head, 512), 0), NULL);
    flaky.fail_from = 0;
    flaky.fail_to = SIZE;
    must(node_co_preadv(top, SIZE - 512, iov_one(&v, head, 512), 0), NULL);
    g_assert_cmpint(node_co_preadv(top, 3 * MIB, iov_one(&v, head, 512), 0), ==,
                    -EIO);
    flaky.fail_to = 0;
    node_co_unref(top);
    reopen_co_check("mid.qed");
}

static CO_FN void stop_co_test(void)
{
    struct node *top;
    struct job *j;

    make_co_chain();
    top = open_co(TOP_FLAKY);
    flaky.fail_from = 2 * MIB;
    flaky.fail_to = 2 * MIB + 1;
    flaky.errnum = ENOSPC;
    j = start_co(
        (struct stream_params) { .node = top, .on_error = ON_ERROR_ENOSPC });
    until_co_state(j, JOB_PAUSED);
    g_assert_cmpint(j->io_status, ==, IO_STATUS_NOSPACE);
    g_assert_cmpuint(j->offset, ==, 2 * MIB);
    flaky.fail_to = 0;
    must(job_user_resume(j, NULL), NULL);
    job_co_wait_concluded(j);
    expect("created running BLOCK_JOB_ERROR paused running waiting pending "
           "BLOCK_JOB_COMPLETED concluded null");
    node_co_unref(top);
    reopen_co_check(NULL);
}

static CO_FN void header_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co("{'driver':'stuck','node-name':'top','file':{'driver':'file'"
                  ",'filename':'DIR/top.qed'}}");
    header_stuck = true;
    stream_co((struct stream_params) { .node = top });
    header_stuck = false;
    expect("created running waiting pending aborting BLOCK_JOB_COMPLETED "
           "concluded null");
    g_assert_cmpstr(json_string_value(json_object_get(last_end, "error")), ==,
                    "the header is stuck");
    g_assert_nonnull(node_backing(top));
    check_co(top, "after the failure");
    stream_co((struct stream_params) { .node = top });
    expect(GOOD);
    node_co_unref(top);
    reopen_co_check(NULL);
}

/* What was a hole when the copying ended is data when the chain is dropped. */
static CO_FN void moody_co_test(void)
{
    struct node *top;
    struct job *j;
    GError *err = NULL;

    make_base();
    make_co_qed("top.qed", "base.raw", "raw");
    top = open_co("{'driver':'qed','node-name':'top','file':{'driver':'file',"
                  "'filename':'DIR/top.qed'},'backing':{'driver':'moody',"
                  "'file':{'driver':'file','filename':'DIR/base.raw'}}}");
    moody_hole = true;
    j = start_co(
        (struct stream_params) { .node = top, .job.auto_dismiss = true });
    until_co_state(j, JOB_PENDING);
    moody_hole = false;
    must(job_user_finalize(j, &err), err);
    job_co_wait_concluded(j);
    expect("created running waiting pending BLOCK_JOB_PENDING "
           "BLOCK_JOB_COMPLETED concluded null");
    check_co(top, "after");
    node_co_unref(top);
    remove_file("base.raw");
    reopen_co_check(NULL);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        struct world w;
    } tests[] = {
        { "/job/stream/report", { report_co_test } },
        { "/job/stream/ignore", { ignore_co_test } },
        { "/job/stream/stop", { stop_co_test } },
        { "/job/stream/header-fails", { header_co_test } },
        { "/job/stream/hole-becomes-data", { moody_co_test } },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add_data_func(tests[i].name, &tests[i].w, stream_test_run);
    }
    return g_test_run();
}
