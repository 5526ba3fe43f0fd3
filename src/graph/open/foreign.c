/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disk image formats that this program only recognizes: the magic bytes of
 * formats that QEMU and others write and that have no driver here.
 *
 * Such a file is not the disk of a guest.  Whoever takes it for raw copies the
 * container with its tables and gets a disk that no guest can use.
 *
 * Most formats begin with their magic.  Two are known by their last bytes: a
 * VHD of fixed size, which is the disk as it is and a footer behind it, and
 * Apple's UDIF (dmg).  Guests write the last bytes of their raw disks, too, so
 * there the whole trailer has to fit: a VHD footer has a checksum.
 */

#include "graph/foreign.h"
#include <glib.h>
#include <string.h>
#include "base/endian.h"

#define TRAILER 512
#define VHD_COOKIE "conectix"
#define VHD_SIZE_AT 48
#define VHD_TYPE_AT 60
#define VHD_SUM_AT 64
#define VHD_FIXED 2
/* The first versions of the program that made them wrote one byte less. */
#define VHD_FOOTER_MIN 511

struct magic {
    const char *title, *driver;
    size_t offset;
    const char *bytes;
    size_t len;
};
#define MAGIC(title, driver, offset, bytes) \
    { \
        title, driver, offset, bytes, sizeof(bytes) - 1 \
    }

static const struct magic magics[] = {
    MAGIC("VMDK", "vmdk", 0, "KDMV"),
    MAGIC("VMDK", "vmdk", 0, "COWD"),
    MAGIC("VMDK (SESparse)", "vmdk", 0, "\xbe\xba\xfe\xca\0\0\0\0"),
    MAGIC("VMDK", "vmdk", 0, "# Disk DescriptorFile"),
    MAGIC("VDI", "vdi", 0x40, "\x7f\x10\xda\xbe"),
    MAGIC("VHD", "vpc", 0, VHD_COOKIE),
    MAGIC("VHDX", "vhdx", 0, "vhdxfile"),
    /* Version 2 and later is for the qcow2 driver, which is asked first. */
    MAGIC("qcow (version 1)", "qcow", 0, "QFI\xfb"),
    MAGIC("Parallels", "parallels", 0, "WithoutFreeSpace"),
    MAGIC("Parallels", "parallels", 0, "WithouFreSpacExt"),
    MAGIC("LUKS", "luks", 0, "LUKS\xba\xbe"),
    MAGIC("Bochs", "bochs", 0, "Bochs Virtual HD Image"),
    MAGIC("cloop", "cloop", 0, "#!/bin/sh\n#V2.0 Format\n"),
};

static bool line_has_version(const char *line, size_t len)
{
    const char word[] = "version=";
    size_t n = sizeof(word) - 1;

    return len > n && memcmp(line, word, n) == 0 && g_ascii_isdigit(line[n]);
}

/* A VMDK descriptor is text: comments, and the first line that is none says
 * which version it has. */
static bool is_vmdk_text(const char *text, size_t len)
{
    size_t at = 0;

    while (at < len) {
        const char *line = text + at, *end = memchr(line, '\n', len - at);

        if (!end) {
            return line_has_version(line, len - at);
        }
        at += (size_t)(end - line) + 1;
        while (line < end && g_ascii_isspace(*line)) {
            line++;
        }
        if (line < end && *line != '#') {
            return line_has_version(line, (size_t)(end - line));
        }
    }
    return false;
}

static bool head_find(const uint8_t *head, size_t len, struct foreign *ret)
{
    for (size_t i = 0; i < G_N_ELEMENTS(magics); i++) {
        const struct magic *m = &magics[i];

        if (m->offset + m->len <= len &&
            memcmp(head + m->offset, m->bytes, m->len) == 0) {
            *ret = (struct foreign) { m->title, m->driver, 0 };
            return true;
        }
    }
    if (is_vmdk_text((const char *)head, len)) {
        *ret = (struct foreign) { "VMDK", "vmdk", 0 };
        return true;
    }
    return false;
}

/* A whole VHD footer; the byte that may be missing is zero. */
static bool is_vhd_footer(const uint8_t footer[TRAILER])
{
    uint32_t sum = 0;

    if (memcmp(footer, VHD_COOKIE, strlen(VHD_COOKIE)) != 0) {
        return false;
    }
    for (unsigned i = 0; i < TRAILER; i++) {
        sum += i / 4 == VHD_SUM_AT / 4 ? 0 : footer[i];
    }
    return get_be32(footer + VHD_SUM_AT) == ~sum;
}

static bool is_udif_trailer(const uint8_t trailer[TRAILER])
{
    return memcmp(trailer, "koly", 4) == 0 && get_be32(trailer + 4) == 4 &&
           get_be32(trailer + 8) == TRAILER;
}

/* @trailer begins at offset @at of the file. */
static bool trailer_find(const uint8_t trailer[TRAILER], uint64_t at,
                         struct foreign *ret)
{
    if (is_udif_trailer(trailer)) {
        *ret = (struct foreign) { "Apple disk image (dmg)", "dmg", 0 };
        return true;
    }
    if (is_vhd_footer(trailer)) {
        uint64_t size = get_be64(trailer + VHD_SIZE_AT);
        bool fixed = get_be32(trailer + VHD_TYPE_AT) == VHD_FIXED;

        *ret = (struct foreign) { fixed ? "fixed VHD" : "VHD", "vpc",
                                  fixed && size <= at ? size : 0 };
        return true;
    }
    return false;
}

/* Storage may be longer than what it holds, by less than a sector. */
static bool tail_find(const uint8_t *tail, size_t len, uint64_t file_size,
                      struct foreign *ret)
{
    size_t first = len > 2 * TRAILER - 1 ? len - (2 * TRAILER - 1) : 0;

    for (size_t at = first; at + VHD_FOOTER_MIN <= len; at++) {
        uint8_t trailer[TRAILER] = { 0 };

        if (tail[at] == 'k' || tail[at] == VHD_COOKIE[0]) {
            memcpy(trailer, tail + at, MIN(len - at, sizeof(trailer)));
            if (trailer_find(trailer, file_size - len + at, ret)) {
                return true;
            }
        }
    }
    return false;
}

bool foreign_find(const uint8_t *head, size_t head_len, const uint8_t *tail,
                  size_t tail_len, uint64_t file_size, struct foreign *ret)
{
    return head_find(head, head_len, ret) ||
           tail_find(tail, tail_len, file_size, ret);
}
