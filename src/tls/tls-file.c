/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include "base/err.h"
#include "graph/secret.h"
#include "loop/io.h"
#include "tls/tls-creds-int.h"

/* A system's whole list of authorities has a quarter of that. */
enum { FILE_BYTES_MAX = 1 << 20 };

/* A key that every user of the machine may read is no secret. */
static CO_FN int file_co_check_mode(struct io_file *f, const char *path,
                                    GError **err)
{
    struct stat st;
    int r = io_co_fstat(f, &st);

    if (r < 0) {
        return err_set_errno(err, -r, "Unable to access credentials %s", path);
    }
    if (st.st_mode & 07) {
        err_set(err, EPERM, "Credentials %s can be accessed by all users",
                path);
        err_hint(err, "Take that from them: chmod o= FILE.");
        return -EPERM;
    }
    return 0;
}

int tls_file_co_load(const char *dir, const char *name, unsigned how,
                     GBytes **ret, GError **err)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    struct io_file *f = NULL;
    int r = io_co_open(path, O_RDONLY, 0, &f);

    if (r == -ENOENT && (how & TLS_FILE_OPTIONAL)) {
        *ret = NULL;
        return 0;
    }
    if (r == 0 && (how & TLS_FILE_PRIVATE)) {
        r = file_co_check_mode(f, path, err);
        if (r < 0) {
            io_co_close(f);
            return r;
        }
    }
    if (r == 0) {
        r = secret_co_read(f, FILE_BYTES_MAX, ret);
    }
    io_co_close(f);
    return r < 0
               ? err_set_errno(err, -r, "Unable to access credentials %s", path)
               : 0;
}

gnutls_datum_t tls_file_datum(GBytes *content)
{
    gsize len;
    gconstpointer data = g_bytes_get_data(content, &len);

    return (gnutls_datum_t) { .data = (void *)data, .size = (unsigned)len };
}
