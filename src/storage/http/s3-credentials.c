/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/s3-credentials.h"

#include <fcntl.h>
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "loop/io.h"
#include "storage/http/http-options.h"

#define FILE_MAX (256u * 1024)

void s3_credentials_clear(struct s3_credentials *c)
{
    g_free(c->key_id);
    g_clear_pointer(&c->key, g_bytes_unref);
    g_clear_pointer(&c->token, g_bytes_unref);
    c->key_id = NULL;
}

static void wipe(void *text)
{
    if (text) {
        explicit_bzero(text, strlen(text));
        g_free(text);
    }
}

/* Takes @text. */
static GBytes *secret_of(char *text)
{
    return g_bytes_new_with_free_func(text, strlen(text), wipe, text);
}

/* --- a file --- */

static CO_FN int credentials_co_read(const char *path, char **ret_text,
                                     GError **err)
{
    struct io_file *f;
    struct iovec v;
    uint64_t size = 0;
    int r = io_co_open(path, O_RDONLY, 0, &f);

    if (r < 0) {
        return err_set_errno(err, -r, "Could not open '%s'", path);
    }
    r = io_co_size(f, &size);
    if (r == 0 && size > FILE_MAX) {
        r = -EFBIG;
    }
    char *text = r == 0 ? g_malloc0(size + 1) : NULL;

    if (text && size > 0) {
        r = io_co_preadv(f, 0, iov_one(&v, text, size));
    }
    io_co_close(f);
    if (r < 0) {
        g_free(text);
        return err_set_errno(err, -r, "Could not read '%s'", path);
    }
    *ret_text = text;
    return 0;
}

static CO_FN int file_co_take(const char *path, const char *profile,
                              struct s3_credentials *c, GError **err)
{
    g_autoptr(GKeyFile) keys = g_key_file_new();
    char *text = NULL, *key, *token;
    int r = credentials_co_read(path, &text, err);

    if (r < 0) {
        return r;
    }
    bool loaded = g_key_file_load_from_data(keys, text, strlen(text),
                                            G_KEY_FILE_NONE, NULL);
    wipe(text);
    if (!loaded) {
        return err_set(err, EINVAL,
                       "'%s' is no file of credentials: [PROFILE] and lines "
                       "NAME = VALUE",
                       path);
    }
    c->key_id = g_key_file_get_string(keys, profile, "aws_access_key_id", NULL);
    key = g_key_file_get_string(keys, profile, "aws_secret_access_key", NULL);
    if (!c->key_id || !key) {
        wipe(key);
        return err_set(err, ENOENT,
                       "'%s' has no aws_access_key_id and "
                       "aws_secret_access_key under [%s]",
                       path, profile);
    }
    c->key = secret_of(key);
    token = g_key_file_get_string(keys, profile, "aws_session_token", NULL);
    c->token = token ? secret_of(token) : NULL;
    return 0;
}

/* The usual place. */
static char *default_file(void)
{
    const char *path = g_getenv("AWS_SHARED_CREDENTIALS_FILE");

    return path ? g_strdup(path)
                : g_build_filename(g_get_home_dir(), ".aws", "credentials",
                                   NULL);
}

/* --- the order of looking --- */

static bool take_from_environment(struct s3_credentials *c)
{
    const char *id = g_getenv("AWS_ACCESS_KEY_ID");
    const char *key = g_getenv("AWS_SECRET_ACCESS_KEY");
    const char *token = g_getenv("AWS_SESSION_TOKEN");

    if (!id || !key) {
        return false;
    }
    c->key_id = g_strdup(id);
    c->key = secret_of(g_strdup(key));
    c->token = token ? secret_of(g_strdup(token)) : NULL;
    return true;
}

static CO_FN int keys_co_look_for(const char *file, const char *profile,
                                  struct s3_credentials *c, GError **err)
{
    const char *named = profile ? profile : g_getenv("AWS_PROFILE");
    g_autofree char *usual = NULL;
    struct stat st;

    if (!file && !profile && take_from_environment(c)) {
        return 0;
    }
    usual = file ? g_strdup(file) : default_file();
    if (!file && !profile && io_co_stat(usual, &st) < 0) {
        err_set(err, ENOENT,
                "There are no credentials for the S3 server: neither options "
                "nor AWS_ACCESS_KEY_ID nor '%s'",
                usual);
        err_hint(err, "key-id=ID,key-secret=ID-OF-SECRET, or anonymous=on for "
                      "what everybody may read.");
        return -ENOENT;
    }
    return file_co_take(usual, named ? named : "default", c, err);
}

int s3_credentials_co_take(struct opts *o, struct graph *g,
                           struct s3_credentials *c, GError **err)
{
    g_autofree char *file = NULL, *profile = NULL;
    bool anonymous = false;
    int r;

    if ((r = opts_take_str(o, "key-id", &c->key_id, err)) < 0 ||
        (r = http_options_take_secret(o, g, "key-secret", &c->key, err)) < 0 ||
        (r = http_options_take_secret(o, g, "session-token-secret", &c->token,
                                      err)) < 0 ||
        (r = opts_take_str(o, "credentials-file", &file, err)) < 0 ||
        (r = opts_take_str(o, "profile", &profile, err)) < 0 ||
        (r = opts_take_bool(o, "anonymous", &anonymous, err)) < 0) {
        return r;
    }
    if (!c->key_id != !c->key || (c->token && !c->key)) {
        return err_set(err, EINVAL,
                       "key-id and key-secret belong together, and "
                       "session-token-secret to them");
    }
    if ((c->key || anonymous) + (file || profile) + (c->key && anonymous) > 1) {
        return err_set(err, EINVAL,
                       "Only one of key-id, credentials-file or profile, and "
                       "anonymous may be given");
    }
    return c->key || anonymous ? 0 : keys_co_look_for(file, profile, c, err);
}
