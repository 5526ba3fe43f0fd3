/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check.  Maps cannot contradict one another: any bits are a legal state,
 * so what can be wrong is the header and the files' belonging together.
 *
 * A slot that is not valid is what a torn write leaves; the repair writes it
 * anew.  A data file that is another one by its inode is taken for ours by the
 * repair: whoever asks for it knows that the files were copied together.
 */
#include <inttypes.h>
#include "base/err.h"
#include "base/math.h"
#include "format/cow/overlay.h"
#include "graph/image.h"

static void cow_report(struct check_result *res, const char *line)
{
    if (res->report) {
        res->report(res->report_arg, line);
    }
}

static CO_FN int header_co_bind(struct overlay *o)
{
    struct cow_header h;
    struct stat st;
    int ret = node_co_stat(cow_data(o), &st);

    group_co_lock(o->group);
    h = o->hdr;
    if (ret == 0 && S_ISREG(st.st_mode)) {
        h.known |= COW_KNOWS_DATA;
        h.data_inode = st.st_ino;
    }
    ret = cow_co_header_write(o, &h);
    group_unlock(o->group);
    return ret;
}

/* W7 of the data file. What cannot be put right: a file that is too short. */
static CO_FN int check_co_data(struct overlay *o, unsigned fix,
                               struct check_result *res, GError **err)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *text = NULL;
    bool is_short = cow_data(o)->size < o->hdr.size;
    int ret;

    if (cow_co_data_check(o, &why) == 0) {
        return 0;
    }
    text = err_dup_message(why);
    cow_report(res, text);
    res->corruptions++;
    if (is_short || !(fix & CHECK_FIX_ERRORS) || !o->group) {
        return 0;
    }
    ret = header_co_bind(o);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not write the overlay's header");
    }
    res->corruptions--;
    res->corruptions_fixed++;
    return 0;
}

static CO_FN int check_co_slots(struct overlay *o, unsigned fix, GError **err)
{
    int ret = 0;

    if (o->torn && fix && o->group) {
        group_co_lock(o->group);
        ret = cow_co_header_write(o, &o->hdr);
        group_unlock(o->group);
    }
    return ret == 0 ? 0
                    : err_set_errno(err, -ret,
                                    "Could not write the overlay's header");
}

static CO_FN int check_co_count(struct overlay *o, struct check_result *res,
                                GError **err)
{
    uint64_t off = 0, size = o->node->size, len = 0;

    res->total_clusters = (size + cow_cluster(o) - 1) >> o->cluster_bits;
    while (off < size) {
        bool here = false;
        int ret = cow_co_lookup(o, off, size - off, &here, &len);

        if (ret < 0) {
            res->check_errors++;
            return err_set_errno(err, -ret,
                                 "Could not read the overlay's "
                                 "map");
        }
        if (here) {
            res->allocated_clusters += (len + cow_cluster(o) - 1) >>
                                       o->cluster_bits;
        }
        off += len;
    }
    return 0;
}

int cow_co_check(struct node *n, unsigned fix, struct check_result *res,
                 GError **err)
{
    struct overlay *o = cow_of(n);
    int ret = check_co_data(o, fix, res, err);

    if (ret == 0) {
        ret = check_co_slots(o, fix, err);
    }
    if (ret == 0) {
        ret = check_co_count(o, res, err);
    }
    res->image_end_offset = cow_file(o)->size;
    return ret;
}
