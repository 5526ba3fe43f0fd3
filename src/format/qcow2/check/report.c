/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a check tells, counts, reads and writes: for all of its parts. */
#include "format/qcow2/check/check.h"
#include <errno.h>
#include "base/math.h"

static PRINTF_LIKE(3, 0) void qcow2_say(struct qcow2_check *c,
                                        const char *prefix, const char *fmt,
                                        va_list ap)
{
    char *text, *line;

    if (!c->res->report) {
        return;
    }
    text = g_strdup_vprintf(fmt, ap);
    line = g_strconcat(prefix, text, NULL);
    c->res->report(c->res->report_arg, line);
    g_free(text);
    g_free(line);
}

void qcow2_check_report(struct qcow2_check *c, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    qcow2_say(c, "", fmt, ap);
    va_end(ap);
}

bool qcow2_check_bad(struct qcow2_check *c, const char *fmt, ...)
{
    bool fix = c->fix & CHECK_FIX_ERRORS && !c->hold;
    va_list ap;

    va_start(ap, fmt);
    qcow2_say(c, fix ? "Repairing " : "ERROR ", fmt, ap);
    va_end(ap);
    if (fix) {
        c->res->corruptions_fixed++;
        c->changed = true;
    } else {
        c->res->corruptions++;
    }
    return fix;
}

int qcow2_check_spend(struct qcow2_check *c, const char *what, uint64_t bytes)
{
    if (c->budget < bytes) {
        c->res->check_errors++;
        qcow2_check_report(c, "ERROR: the %s are too many to be checked", what);
        return -EFBIG;
    }
    c->budget -= bytes;
    return 0;
}

int qcow2_check_count(struct qcow2_check *c, uint64_t host, uint64_t len)
{
    unsigned bits = c->img->cluster_bits;
    uint64_t first = host >> bits, last;

    if (len == 0) {
        return 0;
    }
    if (!range_inside(host, len, UINT64_C(1) << 56) ||
        (last = (host + len - 1) >> bits) >= c->found_clusters) {
        return -ERANGE;
    }
    return qcow2_counts_add(c->counts, first, last - first + 1);
}

int qcow2_check_count_data(struct qcow2_check *c, uint64_t host, uint64_t len,
                           bool compressed)
{
    int ret = qcow2_check_count(c, host, len);
    uint64_t first = host >> c->img->cluster_bits;

    if (ret == 0 && c->looking && len) {
        ret = qcow2_counts_add(
            compressed ? c->look.compressed : c->look.data, first,
            ((host + len - 1) >> c->img->cluster_bits) - first + 1);
    }
    return ret;
}

int qcow2_co_check_append(struct qcow2_check *c, const void *buf, uint64_t len,
                          uint64_t *ret_host)
{
    uint64_t cluster = qcow2_cluster_size(c->img);
    uint64_t n = round_up(len, cluster) / cluster;
    uint64_t host = c->file_clusters << c->img->cluster_bits;
    struct iovec v;
    int ret = node_co_pwritev(qcow2_file(c->img), host,
                              iov_one(&v, (void *)(uintptr_t)buf, len), 0);

    if (ret == 0) {
        c->changed = true;
        c->file_clusters += n;
        *ret_host = host;
        ret = qcow2_counts_add(c->counts, host >> c->img->cluster_bits, n);
    }
    return ret;
}
