/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of the simulated machine.  A file is a tree of 4 KiB pages; a page
 * that is not there is a hole.  Trees are shared between copies of an image
 * and pages between copies of a tree, both copied at the first write.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include "sim/sim.h"

#define PAGE 4096u

struct page {
    unsigned refs;
    unsigned char bytes[PAGE];
};

struct ram {
    unsigned refs;
    uint64_t size;
    uint64_t changes; /* how often it was written to */
    GTree *pages;     /* page number -> struct page */
};

struct sim_image {
    GHashTable *names; /* char * -> id (uint64_t *) */
    GHashTable *files; /* id (uint64_t *) -> struct ram */
};

static void page_unref(void *p)
{
    struct page *page = p;

    if (--page->refs == 0) {
        g_free(page);
    }
}

static int page_compare(const void *a, const void *b, void *arg)
{
    size_t na = GPOINTER_TO_SIZE(a), nb = GPOINTER_TO_SIZE(b);

    return na < nb ? -1 : na > nb;
}

static struct ram *ram_new(void)
{
    struct ram *ram = g_new0(struct ram, 1);

    ram->refs = 1;
    ram->pages = g_tree_new_full(page_compare, NULL, NULL, page_unref);
    return ram;
}

static void ram_unref(void *p)
{
    struct ram *ram = p;

    if (--ram->refs == 0) {
        g_tree_destroy(ram->pages);
        g_free(ram);
    }
}

static gboolean ram_copy_page(void *key, void *value, void *arg)
{
    ((struct page *)value)->refs++;
    g_tree_insert(arg, key, value);
    return FALSE;
}

static struct ram *image_ram(const struct sim_image *img, uint64_t id)
{
    struct ram *ram = g_hash_table_lookup(img->files, &id);

    g_assert(ram);
    return ram;
}

/* The same to write to, not shared with another image. */
static struct ram *image_ram_own(struct sim_image *img, uint64_t id)
{
    struct ram *ram = image_ram(img, id), *own;

    if (ram->refs == 1) {
        ram->changes++;
        return ram;
    }
    own = ram_new();
    own->size = ram->size;
    own->changes = ram->changes + 1;
    g_tree_foreach(ram->pages, ram_copy_page, own->pages);
    g_hash_table_replace(img->files, g_memdup2(&id, sizeof(id)), own);
    return own;
}

/* Page @nr to write to, made when it is a hole or shared. */
static struct page *ram_page_own(struct ram *ram, uint64_t nr)
{
    struct page *page = g_tree_lookup(ram->pages, GSIZE_TO_POINTER(nr));
    struct page *own;

    if (page && page->refs == 1) {
        return page;
    }
    own = g_new0(struct page, 1);
    own->refs = 1;
    if (page) {
        memcpy(own->bytes, page->bytes, PAGE);
    }
    g_tree_replace(ram->pages, GSIZE_TO_POINTER(nr), own);
    return own;
}

/* Bytes from @off to the end of its page, at most @len. */
static size_t in_page(uint64_t off, uint64_t len)
{
    return (size_t)MIN(PAGE - off % PAGE, len);
}

/* Make [@off, @off+@len) zero, whole pages holes. Size stays. */
static void ram_zero(struct ram *ram, uint64_t off, uint64_t len)
{
    uint64_t end = off + len;

    while (off < end) {
        GTreeNode *node = g_tree_lower_bound(ram->pages,
                                             GSIZE_TO_POINTER(off / PAGE));
        uint64_t nr, start;
        size_t n;

        if (!node) {
            break;
        }
        nr = GPOINTER_TO_SIZE(g_tree_node_key(node));
        start = MAX(off, nr * PAGE);
        if (start >= end) {
            break;
        }
        n = in_page(start, end - start);
        if (n == PAGE) {
            g_tree_remove(ram->pages, GSIZE_TO_POINTER(nr));
        } else {
            memset(ram_page_own(ram, nr)->bytes + start % PAGE, 0, n);
        }
        off = start + n;
    }
}

struct sim_image *sim_image_new(void)
{
    struct sim_image *img = g_new0(struct sim_image, 1);

    img->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    img->files = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free,
                                       ram_unref);
    return img;
}

struct sim_image *sim_image_copy(const struct sim_image *img)
{
    struct sim_image *copy = sim_image_new();
    GHashTableIter it;
    void *key, *value;

    g_hash_table_iter_init(&it, img->names);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        g_hash_table_insert(copy->names, g_strdup(key),
                            g_memdup2(value, sizeof(uint64_t)));
    }
    g_hash_table_iter_init(&it, img->files);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        ((struct ram *)value)->refs++;
        g_hash_table_insert(copy->files, g_memdup2(key, sizeof(uint64_t)),
                            value);
    }
    return copy;
}

void sim_image_free(struct sim_image *img)
{
    if (img) {
        g_hash_table_destroy(img->names);
        g_hash_table_destroy(img->files);
        g_free(img);
    }
}

uint64_t sim_image_find(const struct sim_image *img, const char *path)
{
    char *full = g_canonicalize_filename(path, "/");
    const uint64_t *id = g_hash_table_lookup(img->names, full);

    g_free(full);
    return id ? *id : 0;
}

void sim_image_create(struct sim_image *img, uint64_t id)
{
    g_assert(id && !sim_image_has(img, id));
    g_hash_table_insert(img->files, g_memdup2(&id, sizeof(id)), ram_new());
}

bool sim_image_has(const struct sim_image *img, uint64_t id)
{
    return g_hash_table_contains(img->files, &id);
}

void sim_image_link(struct sim_image *img, const char *path, uint64_t id)
{
    char *full = g_canonicalize_filename(path, "/");

    if (id) {
        g_hash_table_replace(img->names, full, g_memdup2(&id, sizeof(id)));
    } else {
        g_hash_table_remove(img->names, full);
        g_free(full);
    }
}

bool sim_image_has_name(const struct sim_image *img, uint64_t id)
{
    GHashTableIter it;
    void *value;

    g_hash_table_iter_init(&it, img->names);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        if (*(uint64_t *)value == id) {
            return true;
        }
    }
    return false;
}

void sim_image_remove(struct sim_image *img, uint64_t id)
{
    g_assert(!sim_image_has_name(img, id));
    g_hash_table_remove(img->files, &id);
}

uint64_t sim_image_last_id(const struct sim_image *img)
{
    GHashTableIter it;
    void *key;
    uint64_t last = 0;

    g_hash_table_iter_init(&it, img->files);
    while (g_hash_table_iter_next(&it, &key, NULL)) {
        last = MAX(last, *(uint64_t *)key);
    }
    return last;
}

static int sim_image_compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* In order of name, so that it does not depend on the hash. */
void sim_image_foreach(const struct sim_image *img,
                       void (*fn)(const char *path, uint64_t id, void *arg),
                       void *arg)
{
    unsigned n;
    void **names = g_hash_table_get_keys_as_array(img->names, &n);

    qsort(names, n, sizeof(*names), sim_image_compare_names);
    for (unsigned i = 0; i < n; i++) {
        fn(names[i], *(uint64_t *)g_hash_table_lookup(img->names, names[i]),
           arg);
    }
    g_free(names);
}

uint64_t sim_image_size(const struct sim_image *img, uint64_t id)
{
    return image_ram(img, id)->size;
}

uint64_t sim_image_changes(const struct sim_image *img, uint64_t id)
{
    return image_ram(img, id)->changes;
}

void sim_image_read(const struct sim_image *img, uint64_t id, uint64_t off,
                    void *buf, size_t len)
{
    struct ram *ram = image_ram(img, id);
    unsigned char *out = buf;

    while (len) {
        size_t n = in_page(off, len);
        struct page *page = g_tree_lookup(ram->pages,
                                          GSIZE_TO_POINTER(off / PAGE));

        if (page) {
            memcpy(out, page->bytes + off % PAGE, n);
        } else {
            memset(out, 0, n);
        }
        out += n;
        off += n;
        len -= n;
    }
}

void sim_image_write(struct sim_image *img, uint64_t id, uint64_t off,
                     const void *buf, size_t len)
{
    struct ram *ram = image_ram_own(img, id);
    const unsigned char *in = buf;

    if (len) {
        ram->size = MAX(ram->size, off + len);
    }
    while (len) {
        size_t n = in_page(off, len);

        memcpy(ram_page_own(ram, off / PAGE)->bytes + off % PAGE, in, n);
        in += n;
        off += n;
        len -= n;
    }
}

void sim_image_truncate(struct sim_image *img, uint64_t id, uint64_t size)
{
    struct ram *ram = image_ram_own(img, id);

    if (size < ram->size) {
        /* To the end of the last page: bytes past the end stay zero. */
        uint64_t end = (ram->size + PAGE - 1) / PAGE * PAGE;

        ram_zero(ram, size, end - size);
    }
    ram->size = size;
}

int sim_image_fallocate(struct sim_image *img, uint64_t id, int mode,
                        uint64_t off, uint64_t len)
{
    bool keep = mode & FALLOC_FL_KEEP_SIZE;
    int what = mode & ~FALLOC_FL_KEEP_SIZE;
    struct ram *ram;

    if (what != 0 && what != FALLOC_FL_ZERO_RANGE &&
        !(what == FALLOC_FL_PUNCH_HOLE && keep)) {
        return -ENOTSUP;
    }
    ram = image_ram_own(img, id);
    if (what) {
        ram_zero(ram, off, len);
    }
    if (!keep) {
        ram->size = MAX(ram->size, off + len);
    }
    return 0;
}

int sim_image_extent(const struct sim_image *img, uint64_t id, uint64_t off,
                     bool *ret_data, uint64_t *ret_end)
{
    struct ram *ram = image_ram(img, id);
    uint64_t nr = off / PAGE;
    GTreeNode *node;

    if (off >= ram->size) {
        return -ENXIO;
    }
    node = g_tree_lower_bound(ram->pages, GSIZE_TO_POINTER(nr));
    *ret_data = node && GPOINTER_TO_SIZE(g_tree_node_key(node)) == nr;
    if (*ret_data) {
        while (node && GPOINTER_TO_SIZE(g_tree_node_key(node)) == nr) {
            node = g_tree_node_next(node);
            nr++;
        }
        *ret_end = MIN(nr * PAGE, ram->size);
    } else {
        *ret_end = node ? GPOINTER_TO_SIZE(g_tree_node_key(node)) * PAGE
                        : ram->size;
    }
    return 0;
}
