/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/model/chain-map.h"
#include <string.h>

/* Shorter chains are asked image by image. */
#define NODES_MIN 4
#define NODES_MAX 65000
/* Pieces of a page. */
#define PAGE_PIECES 2048
/* Of all maps of a graph: 32 MiB, with pieces of 64 KiB 200 GiB. */
#define PAGES_MAX 1600
#define PIECE_BITS_MIN 12
#define PIECE_BITS_MAX 20

struct chain_page {
    uint64_t number;
    GList link;                 /* in chain_map.order */
    uint16_t skip[PAGE_PIECES]; /* 1 + how many; 0: not known */
    uint64_t host[PAGE_PIECES];
};

/* --- the chain --- */

/* The images from @n on down; the last may be of another kind (a filter, raw),
 * which answers for all that is below it. */
static unsigned chain_count(struct node *n, struct node **ret_nodes,
                            uint32_t *ret_cluster)
{
    unsigned count = 0;

    *ret_cluster = 1u << PIECE_BITS_MAX;
    for (; n; n = n->drv->supports_backing ? node_backing(n) : NULL) {
        if (ret_nodes) {
            ret_nodes[count] = n;
        }
        count++;
        if (n->drv->supports_backing && n->priv->limits.cluster_size) {
            *ret_cluster = MIN(*ret_cluster, n->priv->limits.cluster_size);
        }
    }
    return count;
}

static struct chain_map *chain_map_new(struct node *n)
{
    uint32_t cluster;
    unsigned count = chain_count(n, NULL, &cluster);
    struct chain_map *m;

    if (count < NODES_MIN || count > NODES_MAX) {
        return NULL;
    }
    m = g_new0(struct chain_map, 1);
    m->nodes = g_new(struct node *, count);
    m->count = chain_count(n, m->nodes, &cluster);
    m->files = g_new0(struct node *, count);
    m->piece_bits = MAX((unsigned)g_bit_storage(cluster) - 1, PIECE_BITS_MIN);
    m->refs = 1;
    m->pages = g_hash_table_new(g_int64_hash, g_int64_equal);
    for (unsigned i = 0; i < count; i++) {
        struct node_int *p = m->nodes[i]->priv;

        p->chain_maps = g_slist_prepend(p->chain_maps, m);
        m->files[i] = node_file(m->nodes[i]);
    }
    n->priv->chain_map = m;
    return m;
}

static void page_drop(struct chain_map *m, struct chain_page *p)
{
    g_hash_table_remove(m->pages, &p->number);
    g_queue_unlink(&m->order, &p->link);
    m->nodes[0]->graph->chain_pages--;
    g_free(p);
}

/* Its nodes are there still. */
static void chain_map_end(struct chain_map *m)
{
    while (m->order.head) {
        page_drop(m, m->order.head->data);
    }
    for (unsigned i = 0; i < m->count; i++) {
        struct node_int *p = m->nodes[i]->priv;

        p->chain_maps = g_slist_remove(p->chain_maps, m);
    }
    m->nodes[0]->priv->chain_map = NULL;
    m->dead = true;
    chain_map_unref(m);
}

struct chain_map *chain_map_get(struct node *n)
{
    struct chain_map *m = n->priv->chain_map;

    /* Filters with breakpoints count every image that is asked. */
    if (*n->debuggers) {
        return NULL;
    }
    m = m ? m : chain_map_new(n);
    if (m) {
        m->refs++;
    }
    return m;
}

void chain_map_unref(struct chain_map *m)
{
    if (m && --m->refs == 0) {
        g_hash_table_destroy(m->pages);
        g_free(m->nodes);
        g_free(m->files);
        g_free(m);
    }
}

/* --- what is known --- */

static struct chain_page *page_find(const struct chain_map *m, uint64_t piece)
{
    uint64_t number = piece / PAGE_PIECES;

    return g_hash_table_lookup(m->pages, &number);
}

static unsigned piece_skip(const struct chain_map *m, uint64_t piece)
{
    const struct chain_page *p = page_find(m, piece);

    return p ? p->skip[piece % PAGE_PIECES] : 0;
}

int chain_map_find(const struct chain_map *m, uint64_t off, uint64_t len,
                   uint64_t *ret_len)
{
    uint64_t piece = off >> m->piece_bits;
    unsigned skip = m->dead ? 0 : piece_skip(m, piece);

    if (!skip) {
        return -1;
    }
    do {
        piece++;
        *ret_len = MIN(len, (piece << m->piece_bits) - off);
    } while (*ret_len < len && piece_skip(m, piece) == skip);
    return (int)skip - 1;
}

bool chain_map_find_host(const struct chain_map *m, uint64_t off, uint64_t *len,
                         uint64_t *ret_host)
{
    const uint64_t size = UINT64_C(1) << m->piece_bits;
    uint64_t piece = off >> m->piece_bits, known;
    const struct chain_page *p = page_find(m, piece);
    unsigned at = (unsigned)(piece % PAGE_PIECES);

    if (m->dead || !p || !p->skip[at] || p->host[at] == CHAIN_MAP_NO_HOST) {
        return false;
    }
    *ret_host = p->host[at] + off % size;
    known = size - off % size;
    while (known < *len && at + 1 < PAGE_PIECES &&
           p->skip[at + 1] == p->skip[at] &&
           p->host[at + 1] == p->host[at] + size) {
        known += size;
        at++;
    }
    *len = MIN(*len, known);
    return true;
}

static struct chain_page *page_new(struct chain_map *m, uint64_t piece)
{
    struct graph *g = m->nodes[0]->graph;
    struct chain_page *p;

    if (g->chain_pages >= PAGES_MAX) {
        if (!m->order.head) {
            return NULL;
        }
        page_drop(m, m->order.head->data);
    }
    p = g_new0(struct chain_page, 1);
    p->number = piece / PAGE_PIECES;
    p->link.data = p;
    g_queue_push_tail_link(&m->order, &p->link);
    g_hash_table_insert(m->pages, &p->number, p);
    g->chain_pages++;
    return p;
}

void chain_map_learn(struct chain_map *m, uint64_t off, unsigned skip,
                     uint64_t host, uint64_t version)
{
    uint64_t piece = off >> m->piece_bits;
    struct chain_page *p;

    if (m->dead || m->version != version) {
        return;
    }
    p = page_find(m, piece);
    p = p ? p : page_new(m, piece);
    if (p) {
        p->skip[piece % PAGE_PIECES] = (uint16_t)(skip + 1);
        p->host[piece % PAGE_PIECES] = host;
    }
}

/* --- what is not any more --- */

static void chain_map_forget(struct chain_map *m, uint64_t off, uint64_t end)
{
    uint64_t piece = off >> m->piece_bits;
    uint64_t last = (end - 1) >> m->piece_bits;

    m->version++;
    while (piece <= last) {
        struct chain_page *p = page_find(m, piece);

        if (!p) {
            piece = round_down(piece, PAGE_PIECES) + PAGE_PIECES;
        } else if (piece % PAGE_PIECES == 0 && last - piece >= PAGE_PIECES) {
            page_drop(m, p);
            piece += PAGE_PIECES;
        } else {
            p->skip[piece++ % PAGE_PIECES] = 0;
        }
    }
}

void chain_maps_forget(struct node *n, uint64_t off, uint64_t len)
{
    /* The driver may have allocated the rest of a cluster, too. */
    uint64_t cluster = MAX(n->priv->limits.cluster_size, 1);

    for (GSList *l = len ? n->priv->chain_maps : NULL; l; l = l->next) {
        chain_map_forget(l->data, round_down(off, cluster),
                         round_up(off + len, cluster));
    }
}

void chain_maps_drop(struct node *n)
{
    while (n->priv->chain_maps) {
        chain_map_end(n->priv->chain_maps->data);
    }
}
