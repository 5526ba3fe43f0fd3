/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "export/nbd/hub.h"
#include <string.h>
#include "export/export-int.h"

static void place_free(void *arg)
{
    struct nbd_place *p = arg;

    g_free(p->name);
    g_free(p->description);
    g_free(p->authz);
    g_free(p);
}

struct nbd_hub *nbd_hub_new(void)
{
    struct nbd_hub *h = g_new0(struct nbd_hub, 1);

    g_atomic_ref_count_init(&h->refs);
    pthread_mutex_init(&h->lock, NULL);
    h->places = g_ptr_array_new_with_free_func(place_free);
    return h;
}

struct nbd_hub *nbd_hub_ref(struct nbd_hub *h)
{
    g_atomic_ref_count_inc(&h->refs);
    return h;
}

void nbd_hub_unref(struct nbd_hub *h)
{
    if (g_atomic_ref_count_dec(&h->refs)) {
        g_assert(h->places->len == 0);
        g_ptr_array_free(h->places, TRUE);
        pthread_mutex_destroy(&h->lock);
        g_free(h);
    }
}

/* The lock is held. */
static struct nbd_place *place_find(struct nbd_hub *h, struct nbd_text name)
{
    for (guint i = 0; i < h->places->len; i++) {
        struct nbd_place *p = g_ptr_array_index(h->places, i);

        if (nbd_text_equal(name, p->name)) {
            return p;
        }
    }
    return NULL;
}

struct nbd_place *nbd_hub_add(struct nbd_hub *h, const char *name,
                              struct exports *es)
{
    struct nbd_text text = { .s = name, .len = (uint32_t)strlen(name) };
    struct nbd_place *p = NULL;

    pthread_mutex_lock(&h->lock);
    if (!place_find(h, text)) {
        p = g_new0(struct nbd_place, 1);
        p->name = g_strdup(name);
        p->exports = es;
        g_ptr_array_add(h->places, p);
    }
    pthread_mutex_unlock(&h->lock);
    return p;
}

void nbd_hub_describe(struct nbd_hub *h, struct nbd_place *p,
                      const char *description, const char *authz)
{
    pthread_mutex_lock(&h->lock);
    p->description = g_strdup(description);
    p->authz = g_strdup(authz);
    p->listed = true;
    pthread_mutex_unlock(&h->lock);
}

void nbd_hub_hide(struct nbd_hub *h, struct nbd_place *p)
{
    pthread_mutex_lock(&h->lock);
    p->listed = false;
    pthread_mutex_unlock(&h->lock);
}

void nbd_hub_remove(struct nbd_hub *h, struct nbd_place *p)
{
    if (p) {
        pthread_mutex_lock(&h->lock);
        g_ptr_array_remove(h->places, p);
        pthread_mutex_unlock(&h->lock);
    }
}

void nbd_hub_foreach(struct nbd_hub *h,
                     void (*fn)(const struct nbd_place *p, void *arg),
                     void *arg)
{
    pthread_mutex_lock(&h->lock);
    for (guint i = 0; i < h->places->len; i++) {
        fn(g_ptr_array_index(h->places, i), arg);
    }
    pthread_mutex_unlock(&h->lock);
}

struct exports *nbd_hub_find_other(struct nbd_hub *h, struct nbd_text name,
                                   const struct exports *from)
{
    struct exports *es = NULL;
    const struct nbd_place *p;

    pthread_mutex_lock(&h->lock);
    p = place_find(h, name);
    if (p && p->listed && p->exports != from) {
        es = p->exports;
        g_atomic_int_inc(&es->arriving);
    }
    pthread_mutex_unlock(&h->lock);
    return es;
}
