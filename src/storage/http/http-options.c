/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/http-options.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/options.h"
#include "graph/secret.h"
#include "tls/tls-creds.h"

#define NS_PER_S UINT64_C(1000000000)
/* What arrives within 50 ms from a fast server is then under way. */
#define CONNECTIONS_DEFAULT 32
#define REDIRECTS_MAX 5
#define TIMEOUT_DEFAULT_S 5
#define TIMEOUT_MAX_S 10000
#define RECONNECT_DELAY_DEFAULT_S 10
#define HANG_TIMEOUT_DEFAULT_S 10
#define DELAY_MAX_S (24 * 3600)
#define READAHEAD_DEFAULT (256u * 1024)
#define READAHEAD_MAX (16u * 1024 * 1024)
#define SECTOR 512u

const char *const https_option_names[] = {
    "sslverify",
    "ca-secret",
    "tls-creds",
    "url",
    "filename",
    "readahead",
    "timeout",
    "username",
    "password-secret",
    "proxy-username",
    "proxy-password-secret",
    "cookie",
    "cookie-secret",
    "bearer-token-secret",
    "connections",
    "reconnect-delay",
    "open-timeout",
    "hang-timeout",
    "on-base-hang",
    "unpinned",
    NULL,
};

/* --- names and secrets --- */

void http_names_init(struct http_names *names)
{
    *names = (struct http_names) { 0 };
}

static void file_clear(struct http_file *f)
{
    if (f->path) {
        close(f->fd);
        g_clear_pointer(&f->path, g_free);
    }
}

void http_names_clear(struct http_names *names)
{
    g_free(names->username);
    g_free(names->proxy_username);
    g_clear_pointer(&names->password, g_bytes_unref);
    g_clear_pointer(&names->cookie, g_bytes_unref);
    g_clear_pointer(&names->bearer, g_bytes_unref);
    g_clear_pointer(&names->proxy_password, g_bytes_unref);
    file_clear(&names->ca);
    file_clear(&names->crl);
    file_clear(&names->cert);
    file_clear(&names->key);
    http_names_init(names);
}

void http_names_lend(const struct http_names *names, struct http_identity *id)
{
    id->username = names->username;
    id->password = names->password;
    id->cookie = names->cookie;
    id->bearer = names->bearer;
    id->proxy_username = names->proxy_username;
    id->proxy_password = names->proxy_password;
    id->ca_file = names->ca.path;
    id->crl_file = names->crl.path;
    id->cert_file = names->cert.path;
    id->key_file = names->key.path;
}

/* Text with a line end in it would be more than one header. */
static int check_line(const char *what, const void *data, size_t len,
                      GError **err)
{
    const uint8_t *b = data;

    for (size_t i = 0; i < len; i++) {
        if ((b[i] < 0x20 && b[i] != '\t') || b[i] == 0x7f) {
            err_set(err, EINVAL, "%s holds control characters", what);
            err_hint(err, "A file that holds a secret must not end with a "
                          "newline.");
            return -EINVAL;
        }
    }
    return 0;
}

int http_options_take_secret(struct opts *o, struct graph *g, const char *name,
                             GBytes **ret, GError **err)
{
    g_autofree char *id = NULL, *what = NULL;
    gsize len;
    int r = opts_take_str(o, name, &id, err);

    if (r <= 0) {
        return r;
    }
    r = secret_get(g, id, ret, err);
    if (r < 0) {
        return r;
    }
    const void *data = g_bytes_get_data(*ret, &len);

    what = g_strdup_printf("Secret '%s' (%s)", id, name);
    return check_line(what, data, len, err);
}

static int take_cookie(struct opts *o, struct graph *g,
                       struct http_names *names, GError **err)
{
    char *cookie = NULL;
    int r = http_options_take_secret(o, g, "cookie-secret", &names->cookie,
                                     err);

    if (r >= 0) {
        r = opts_take_str(o, "cookie", &cookie, err);
    }
    if (r > 0 && names->cookie) {
        g_free(cookie);
        return err_set(err, EINVAL,
                       "curl driver cannot handle both cookie and cookie "
                       "secret");
    }
    if (cookie) {
        size_t len = strlen(cookie);

        names->cookie = g_bytes_new_take(cookie, len);
        r = check_line("Option 'cookie'", cookie, len, err);
    }
    return MIN(r, 0);
}

int http_options_take_proxy(struct opts *o, struct graph *g,
                            struct http_names *names, GError **err)
{
    int r = opts_take_str(o, "proxy-username", &names->proxy_username, err);

    if (r >= 0) {
        r = http_options_take_secret(o, g, "proxy-password-secret",
                                     &names->proxy_password, err);
    }
    return MIN(r, 0);
}

int http_options_take_names(struct opts *o, struct graph *g,
                            struct http_names *names, GError **err)
{
    int r;

    if ((r = opts_take_str(o, "username", &names->username, err)) < 0 ||
        (r = http_options_take_secret(o, g, "password-secret", &names->password,
                                      err)) < 0 ||
        (r = http_options_take_secret(o, g, "bearer-token-secret",
                                      &names->bearer, err)) < 0 ||
        (r = http_options_take_proxy(o, g, names, err)) < 0 ||
        (r = take_cookie(o, g, names, err)) < 0) {
        return r;
    }
    return names->bearer && (names->username || names->password)
               ? err_set(err, EINVAL,
                         "bearer-token-secret cannot be used together with "
                         "username and password-secret")
               : 0;
}

/* libcurl with GnuTLS reads certificates and keys from files alone. */
static int file_put(struct http_file *f, GBytes *pem, GError **err)
{
    gsize len;
    const char *data = g_bytes_get_data(pem, &len);
    int fd = memfd_create("pem", MFD_CLOEXEC);

    if (fd < 0) {
        return err_set_errno(err, errno, "Could not keep the certificates");
    }
    f->fd = fd;
    f->path = g_strdup_printf("/proc/self/fd/%d", fd);
    while (len > 0) {
        ssize_t n = write(fd, data, len);

        if (n <= 0) {
            return err_set_errno(err, errno, "Could not keep the certificates");
        }
        data += n;
        len -= (gsize)n;
    }
    return 0;
}

static int put_authorities(struct http_names *names, GBytes *pem, GError **err)
{
    gsize len;
    const char *data = g_bytes_get_data(pem, &len);

    if (!memmem(data, len, "-----BEGIN CERTIFICATE-----", 27)) {
        return err_set(err, EINVAL,
                       "The secret of 'ca-secret' holds no certificate (PEM)");
    }
    return file_put(&names->ca, pem, err);
}

static int put_creds(struct http_names *names, const struct tls_creds *tc,
                     GError **err)
{
    const struct tls_pem *pem = tls_creds_pem(tc);
    int r = file_put(&names->ca, pem->ca, err);

    if (r == 0 && pem->crl) {
        r = file_put(&names->crl, pem->crl, err);
    }
    if (r == 0 && pem->cert) {
        r = file_put(&names->cert, pem->cert, err);
    }
    return r == 0 && pem->key ? file_put(&names->key, pem->key, err) : r;
}

/* Credentials that name who is trusted, and who we are. */
static int take_creds(struct opts *o, struct graph *g, struct http_names *names,
                      bool *ret_verify, GError **err)
{
    g_autofree char *id = NULL;
    struct tls_creds *tc;
    int r = opts_take_str(o, "tls-creds", &id, err);

    if (r <= 0) {
        return r;
    }
    if (names->ca.path) {
        return err_set(
            err, EINVAL,
            "'ca-secret' and 'tls-creds' may not be used at the same "
            "time");
    }
    r = tls_creds_get(g, id, false, &tc, err);
    if (r < 0) {
        return r;
    }
    if (!tls_creds_are_x509(tc)) {
        r = err_set(err, EINVAL,
                    "'tls-creds' of a web server needs a tls-creds-x509");
    } else {
        *ret_verify = *ret_verify && tls_creds_want_hostname(tc);
        r = put_creds(names, tc, err);
    }
    tls_creds_unref(tc);
    return r;
}

int http_options_take_tls(struct opts *o, struct graph *g,
                          struct http_names *names, bool *ret_verify,
                          GError **err)
{
    g_autofree char *id = NULL;
    g_autoptr(GBytes) pem = NULL;
    int r = opts_take_bool(o, "sslverify", ret_verify, err);

    if (r >= 0) {
        r = opts_take_str(o, "ca-secret", &id, err);
    }
    if (r > 0) {
        r = secret_get(g, id, &pem, err);
        if (r == 0) {
            r = put_authorities(names, pem, err);
        }
    }
    return r < 0 ? r : take_creds(o, g, names, ret_verify, err);
}

/* --- the address --- */

int http_options_take_url(struct opts *o, const char *scheme,
                          struct http_url *ret, GError **err)
{
    g_autofree char *url = NULL, *filename = NULL, *shown = NULL;
    g_autoptr(GError) why = NULL;
    int r = opts_take_str(o, "url", &url, err);

    if (r >= 0) {
        r = opts_take_str(o, "filename", &filename, err);
    }
    if (r < 0) {
        return r;
    }
    if (url && filename) {
        return err_set(err, EINVAL,
                       "'url' and 'filename' may not be used at the same time");
    }
    url = url ? url : g_steal_pointer(&filename);
    if (!url) {
        return opts_missing("url", err);
    }
    shown = http_url_public(url);
    r = http_url_parse(url, ret, &why);
    if (r < 0) {
        err_set(err, -r, "Invalid address '%s': %s", shown, why->message);
        err_hint(err, "Names and passwords have options of their own: "
                      "username, password-secret.");
        return r;
    }
    return ret->tls == g_str_equal(scheme, "https")
               ? 0
               : err_set(err, EINVAL,
                         "%s curl driver cannot handle the URL '%s' (does not "
                         "start with '%s://')",
                         scheme, shown, scheme);
}

/* --- the client --- */

/* @name in seconds, @min to @max; @seconds is the default. */
static int take_seconds(struct opts *o, const char *name, int64_t seconds,
                        int64_t min, int64_t max, uint64_t *ret_ns,
                        GError **err)
{
    int r = opts_take_int(o, name, &seconds, err);

    if (r >= 0 && (seconds < min || seconds > max)) {
        r = err_set(err, EINVAL, "Parameter '%s' expects %d to %d seconds",
                    name, (int)min, (int)max);
    }
    *ret_ns = (uint64_t)seconds * NS_PER_S;
    return MIN(r, 0);
}

static int take_hang(struct opts *o, struct http_client_options *co,
                     GError **err)
{
    static const char *const policies[] = { "wait", "error", NULL };
    int policy = 0;
    int r = opts_take_enum(o, "on-base-hang", policies, &policy, err);

    co->fail_on_hang = policy == 1;
    return r < 0 ? r
                 : take_seconds(o, "hang-timeout", HANG_TIMEOUT_DEFAULT_S, 0,
                                DELAY_MAX_S, &co->hang_timeout_ns, err);
}

static int take_connections(struct opts *o, struct http_client_options *co,
                            GError **err)
{
    int64_t connections = CONNECTIONS_DEFAULT;
    int r = opts_take_int(o, "connections", &connections, err);

    if (r >= 0 && (connections < 1 || connections > HTTP_CONNECTIONS_MAX)) {
        r = err_set(err, EINVAL, "Parameter 'connections' expects 1 to %d",
                    HTTP_CONNECTIONS_MAX);
    }
    co->connections = (unsigned)connections;
    co->redirects = REDIRECTS_MAX;
    return MIN(r, 0);
}

static int take_readahead(struct opts *o, uint64_t *ret, GError **err)
{
    int r;

    *ret = READAHEAD_DEFAULT;
    r = opts_take_size(o, "readahead", ret, err);
    if (r >= 0 && *ret % SECTOR) {
        return err_set(err, EINVAL,
                       "HTTP_READAHEAD_SIZE %" G_GUINT64_FORMAT
                       " is not a multiple of 512",
                       *ret);
    }
    if (r >= 0 && *ret > READAHEAD_MAX) {
        return err_set(err, EINVAL, "Parameter 'readahead' expects at most %u",
                       READAHEAD_MAX);
    }
    return MIN(r, 0);
}

int http_options_take_client(struct opts *o, struct http_client_options *co,
                             uint64_t *ret_readahead, GError **err)
{
    int r;

    if ((r = take_readahead(o, ret_readahead, err)) < 0 ||
        (r = take_seconds(o, "timeout", TIMEOUT_DEFAULT_S, 1, TIMEOUT_MAX_S,
                          &co->stall_ns, err)) < 0 ||
        (r = take_seconds(o, "reconnect-delay", RECONNECT_DELAY_DEFAULT_S, 0,
                          DELAY_MAX_S, &co->reconnect_delay_ns, err)) < 0 ||
        (r = take_seconds(o, "open-timeout", 0, 0, DELAY_MAX_S,
                          &co->open_timeout_ns, err)) < 0 ||
        (r = take_hang(o, co, err)) < 0 ||
        (r = take_connections(o, co, err)) < 0 ||
        (r = opts_take_bool(o, "unpinned", &co->unpinned, err)) < 0) {
        return r;
    }
    return 0;
}
