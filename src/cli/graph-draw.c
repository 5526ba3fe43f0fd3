/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each box stands below all that lead to it.  A box whose place is taken goes to
 * the next free one at the right, so that none lies over another.
 */
#include "cli/graph-draw.h"

#include <stdbool.h>
#include <string.h>

#include "base/text.h"

/* Of the picture, in its units. */
#define BOX_WIDTH 200
#define BOX_HEIGHT 56
#define GAP_X 24
#define GAP_Y 48
#define MARGIN 16
/* Of the last characters of a file's name. */
#define FILE_SHOWN 28

struct box {
    json_int_t id;
    char *name, *what; /* "virtio0", "qcow2, read-only" */
    char *file;        /* or NULL */
    bool is_user;      /* a device, an export or a job */
    unsigned row, column;
    bool placed;
};
struct line {
    unsigned from, to; /* indices of boxes */
    char *name;
};
struct drawing {
    GArray *boxes; /* struct box, users first */
    GArray *lines; /* struct line */
};

#define BOX(d, i) (&g_array_index((d)->boxes, struct box, i))
#define LINE(d, i) (&g_array_index((d)->lines, struct line, i))

static const char *text_or_empty(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

/* --- what there is --- */

static const json_t *find_info(const json_t *nodes, const char *name)
{
    const json_t *info;
    size_t i;

    json_array_foreach(nodes, i, info) {
        if (strcmp(text_or_empty(info, "node-name"), name) == 0) {
            return info;
        }
    }
    return NULL;
}

static void box_describe(struct box *b, const json_t *info)
{
    const char *drv = text_or_empty(info, "drv");
    bool ro = json_is_true(json_object_get(info, "ro"));

    b->what = text_printable(*drv ? drv : "node", "");
    if (ro) {
        char *longer = g_strconcat(b->what, ", read-only", NULL);

        g_free(b->what);
        b->what = longer;
    }
    b->file = *text_or_empty(info, "file")
                  ? text_printable(text_or_empty(info, "file"), "")
                  : NULL;
}

static void drawing_add_box(struct drawing *d, const json_t *node,
                            const json_t *nodes)
{
    const char *name = text_or_empty(node, "name");
    struct box *b;

    g_array_set_size(d->boxes, d->boxes->len + 1);
    b = BOX(d, d->boxes->len - 1);
    *b = (struct box) {
        .id = json_integer_value(json_object_get(node, "id")),
        .name = text_printable(name, ""),
        .is_user = strcmp(text_or_empty(node, "type"), "block-backend") == 0,
    };
    if (b->is_user) {
        b->what = g_strdup(*name ? "device" : "an export or a job");
    } else {
        box_describe(b, find_info(nodes, name));
    }
}

static unsigned find_box(const struct drawing *d, const json_t *id)
{
    unsigned i = 0;

    while (i < d->boxes->len && BOX(d, i)->id != json_integer_value(id)) {
        i++;
    }
    return i;
}

static void drawing_add_line(struct drawing *d, const json_t *edge)
{
    struct line l = {
        .from = find_box(d, json_object_get(edge, "parent")),
        .to = find_box(d, json_object_get(edge, "child")),
        .name = text_printable(text_or_empty(edge, "name"), ""),
    };

    if (l.from < d->boxes->len && l.to < d->boxes->len) {
        g_array_append_val(d->lines, l);
    } else {
        g_free(l.name);
    }
}

/* --- where it stands --- */

/* A graph has no circles: after as many rounds as there are boxes nothing
 * moves. */
static void drawing_set_rows(struct drawing *d)
{
    bool moved = true;

    for (unsigned n = 0; moved && n <= d->boxes->len; n++) {
        moved = false;
        for (unsigned i = 0; i < d->lines->len; i++) {
            const struct line *l = LINE(d, i);
            unsigned least = BOX(d, l->from)->row + 1;

            if (BOX(d, l->to)->row < least) {
                BOX(d, l->to)->row = least;
                moved = true;
            }
        }
    }
}

static bool place_is_free(const struct drawing *d, unsigned row,
                          unsigned column)
{
    for (unsigned i = 0; i < d->boxes->len; i++) {
        const struct box *b = BOX(d, i);

        if (b->placed && b->row == row && b->column == column) {
            return false;
        }
    }
    return true;
}

static void drawing_place(struct drawing *d, unsigned i, unsigned column)
{
    struct box *b = BOX(d, i);

    if (b->placed) {
        return;
    }
    while (!place_is_free(d, b->row, column)) {
        column++;
    }
    b->column = column;
    b->placed = true;
    for (unsigned k = 0; k < d->lines->len; k++) {
        if (LINE(d, k)->from == i) {
            drawing_place(d, LINE(d, k)->to, column);
        }
    }
}

static bool is_root(const struct drawing *d, unsigned i)
{
    for (unsigned k = 0; k < d->lines->len; k++) {
        if (LINE(d, k)->to == i) {
            return false;
        }
    }
    return true;
}

struct drawing *drawing_new(const json_t *graph, const json_t *nodes)
{
    const json_t *boxes = json_object_get(graph, "nodes"), *o;
    const json_t *lines = json_object_get(graph, "edges");
    struct drawing *d = g_new0(struct drawing, 1);
    size_t i;

    d->boxes = g_array_new(FALSE, FALSE, sizeof(struct box));
    d->lines = g_array_new(FALSE, FALSE, sizeof(struct line));
    json_array_foreach(boxes, i, o) {
        drawing_add_box(d, o, nodes);
    }
    json_array_foreach(lines, i, o) {
        drawing_add_line(d, o);
    }
    drawing_set_rows(d);
    for (unsigned k = 0; k < d->boxes->len; k++) {
        if (is_root(d, k)) {
            drawing_place(d, k, 0);
        }
    }
    return d;
}

void drawing_free(struct drawing *d)
{
    for (unsigned i = 0; i < d->boxes->len; i++) {
        g_free(BOX(d, i)->name);
        g_free(BOX(d, i)->what);
        g_free(BOX(d, i)->file);
    }
    for (unsigned i = 0; i < d->lines->len; i++) {
        g_free(LINE(d, i)->name);
    }
    g_array_free(d->boxes, TRUE);
    g_array_free(d->lines, TRUE);
    g_free(d);
}

/* --- text --- */

static void text_box(const struct drawing *d, unsigned i, const char *edge,
                     unsigned depth, GHashTable *seen, GString *out)
{
    const struct box *b = BOX(d, i);
    bool first = g_hash_table_add(seen, GUINT_TO_POINTER(i));

    g_string_append_printf(out, "%*s", (int)depth * 2, "");
    if (edge) {
        g_string_append_printf(out, "%s: ", edge);
    }
    g_string_append_printf(out, "%s%s(%s)", b->name, *b->name ? " " : "",
                           b->what);
    if (!first) {
        g_string_append(out, ", see above\n");
        return;
    }
    if (b->file) {
        g_string_append_printf(out, " %s", b->file);
    }
    g_string_append_c(out, '\n');
    for (unsigned k = 0; k < d->lines->len; k++) {
        const struct line *l = LINE(d, k);

        if (l->from == i) {
            text_box(d, l->to, l->name, depth + 1, seen, out);
        }
    }
}

void drawing_text(const struct drawing *d, GString *out)
{
    GHashTable *seen = g_hash_table_new(NULL, NULL);

    for (unsigned i = 0; i < d->boxes->len; i++) {
        if (is_root(d, i)) {
            text_box(d, i, NULL, 0, seen, out);
        }
    }
    g_hash_table_destroy(seen);
}

/* --- the language of Graphviz --- */

static void dot_string(const char *text, GString *out)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') {
            g_string_append_c(out, '\\');
        }
        g_string_append_c(out, *text);
    }
}

void drawing_dot(const struct drawing *d, GString *out)
{
    g_string_append(out, "digraph block {\n");
    for (unsigned i = 0; i < d->boxes->len; i++) {
        const struct box *b = BOX(d, i);

        g_string_append_printf(out, "  n%u [shape=%s label=\"", i,
                               b->is_user ? "ellipse" : "box");
        dot_string(b->name, out);
        g_string_append(out, "\\n");
        dot_string(b->what, out);
        if (b->file) {
            g_string_append(out, "\\n");
            dot_string(b->file, out);
        }
        g_string_append(out, "\"];\n");
    }
    for (unsigned i = 0; i < d->lines->len; i++) {
        const struct line *l = LINE(d, i);

        g_string_append_printf(out, "  n%u -> n%u [label=\"", l->from, l->to);
        dot_string(l->name, out);
        g_string_append(out, "\"];\n");
    }
    g_string_append(out, "}\n");
}

/* --- SVG --- */

static unsigned box_x(const struct box *b)
{
    return MARGIN + b->column * (BOX_WIDTH + GAP_X);
}

static unsigned box_y(const struct box *b)
{
    return MARGIN + b->row * (BOX_HEIGHT + GAP_Y);
}

/* A line of text in a box; of a name that is too long the end is shown. */
static void svg_text(unsigned x, unsigned y, const char *text, bool strong,
                     GString *out)
{
    glong len = g_utf8_strlen(text, -1);
    bool cut = len > FILE_SHOWN;
    g_autofree char *shown = g_markup_escape_text(
        cut ? g_utf8_offset_to_pointer(text, len - FILE_SHOWN + 1) : text, -1);

    g_string_append_printf(out, "<text x=\"%u\" y=\"%u\"%s>%s%s</text>\n", x, y,
                           strong ? " font-weight=\"bold\"" : "",
                           cut ? "\xe2\x80\xa6" : "", shown);
}

static void svg_box(const struct box *b, GString *out)
{
    unsigned x = box_x(b), y = box_y(b);
    g_autofree char *full = g_markup_escape_text(b->file ? b->file : b->name,
                                                 -1);

    g_string_append_printf(out,
                           "<g><title>%s</title><rect x=\"%u\" y=\"%u\" "
                           "width=\"%d\" height=\"%d\" rx=\"%d\" "
                           "fill=\"%s\" stroke=\"black\"/>\n",
                           full, x, y, BOX_WIDTH, BOX_HEIGHT,
                           b->is_user ? BOX_HEIGHT / 2 : 4,
                           b->is_user ? "#eef" : "white");
    svg_text(x + 12, y + 18, b->name, true, out);
    svg_text(x + 12, y + 34, b->what, false, out);
    if (b->file) {
        svg_text(x + 12, y + 50, b->file, false, out);
    }
    g_string_append(out, "</g>\n");
}

static void svg_line(const struct drawing *d, const struct line *l,
                     GString *out)
{
    const struct box *from = BOX(d, l->from), *to = BOX(d, l->to);
    unsigned x1 = box_x(from) + BOX_WIDTH / 2, y1 = box_y(from) + BOX_HEIGHT;
    unsigned x2 = box_x(to) + BOX_WIDTH / 2, y2 = box_y(to);
    g_autofree char *name = g_markup_escape_text(l->name, -1);

    g_string_append_printf(out,
                           "<line x1=\"%u\" y1=\"%u\" x2=\"%u\" y2=\"%u\" "
                           "stroke=\"black\" marker-end=\"url(#tip)\"/>\n",
                           x1, y1, x2, y2);
    g_string_append_printf(out,
                           "<text x=\"%u\" y=\"%u\" fill=\"#555\">%s</text>\n",
                           (x1 + x2) / 2 + 4, (y1 + y2) / 2 + 4, name);
}

static void svg_head(const struct drawing *d, GString *out)
{
    unsigned width = 2 * MARGIN, height = 2 * MARGIN;

    for (unsigned i = 0; i < d->boxes->len; i++) {
        width = MAX(width, box_x(BOX(d, i)) + BOX_WIDTH + MARGIN);
        height = MAX(height, box_y(BOX(d, i)) + BOX_HEIGHT + MARGIN);
    }
    g_string_append_printf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" "
        "height=\"%u\" viewBox=\"0 0 %u %u\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n",
        width, height, width, height);
    g_string_append(out, "<defs><marker id=\"tip\" viewBox=\"0 0 10 10\" "
                         "refX=\"10\" refY=\"5\" markerWidth=\"8\" "
                         "markerHeight=\"8\" orient=\"auto\">"
                         "<path d=\"M0 0 L10 5 L0 10 z\"/></marker></defs>\n");
}

void drawing_svg(const struct drawing *d, GString *out)
{
    svg_head(d, out);
    for (unsigned i = 0; i < d->lines->len; i++) {
        svg_line(d, LINE(d, i), out);
    }
    for (unsigned i = 0; i < d->boxes->len; i++) {
        svg_box(BOX(d, i), out);
    }
    g_string_append(out, "</svg>\n");
}
