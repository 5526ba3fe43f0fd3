/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice: images at rest and jobs of a running daemon, one table of
 * subcommands.
 */
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/suggest.h"
#include "cli/cli.h"
#include "cli/commands.h"

#define SOCKET_HELP \
    "  -s, --socket PATH     control socket of the daemon (or SLUICE_SOCKET)\n"
#define HELP_HELP "  -h, --help            print this\n"
#define LIMITS_HELP \
    "      --latency-target T  what guests may feel of it: 5ms, or 2x what they\n" \
    "                        have undisturbed (default), or off\n" \
    "      --floor N         bytes per second that no guest takes away (4M)\n" \
    "      --finish-by TIME  +2h, 18:05 or 2026-11-30T18:05: as fast as that\n" \
    "                        needs\n"
#define JOB_HELP \
    "      --speed N         bytes per second, 0 = as fast as it goes\n" LIMITS_HELP \
    "      --on-error WHAT   report (default), ignore, stop, enospc\n" \
    "      --job-id ID       default: the device's name\n" \
    "      --no-wait         return once it runs\n"
#define OUTPUT_HELP "      --output FORMAT   human (default) or json\n"
#define FORMAT_HELP \
    "  -f FORMAT             format of the image\n" \
    "      --image-opts      FILE is driver=NAME,file.filename=PATH,...\n" \
    "      --object TYPE,id=ID,...\n" \
    "                        make an object that the image needs\n"
#define CACHE_HELP(option, what) \
    "  " option " MODE               cache of " what \
    ": writeback (default), none,\n" \
    "                        writethrough, directsync, unsafe\n"

/* The lines of the help are laid out by hand. */
/* clang-format off */
static const struct subcommand subcommands[] = {
    { "", NULL, "Images at rest", NULL },
    { "create", cmd_create,
      "[-q] [-f FORMAT] [-b BACKING [-F FORMAT]] [-u] [-o OPTIONS]\n"
      "       [--object DEFINITION] FILE [SIZE]",
      "Make an image.\n\n"
      "  -f FORMAT             format of the new image (default raw)\n"
      "  -b FILE               backing file: reads of what the image lacks\n"
      "                        go there\n"
      "  -F FORMAT             format of the backing file; always say it\n"
      "  -u                    do not open the backing file\n"
      "  -o OPTIONS            name=value,... ; -o help lists them\n"
      "      --object TYPE,id=ID,...\n"
      "                        make an object that the image needs\n"
      "  -q                    print nothing but errors\n"
      HELP_HELP },
    { "commit", cmd_commit,
      "[-f FORMAT] [-t CACHE] [-b BASE] [-r RATE] [-d] [-p] [-q]\n"
      "       [--image-opts] [--object DEFINITION] FILE\n"
      "       sluice commit {--live | -s PATH} [OPTIONS] [-b BASE] DEVICE",
      "Merge an image down into its backing file, then empty it; or merge images\n"
      "of a disk that is in use (--live) into one below them.\n\n"
      FORMAT_HELP
      "  -b FILE               merge into this image of the chain, not into the\n"
      "                        next one; implies -d. Of a disk in use: default\n"
      "                        is the lowest\n"
      "  -d                    do not empty the image\n"
      "  -r RATE               bytes per second at most\n"
      CACHE_HELP("-t", "the image")
      "  -p                    show progress\n"
      "  -q                    print nothing but errors\n"
      "      --live            the disk of a running daemon\n"
      "      --top FILE        its highest image that is merged; default: the\n"
      "                        one that guests write to, which they leave\n"
      SOCKET_HELP JOB_HELP OUTPUT_HELP HELP_HELP },
    { "info", cmd_info,
      "[-f FORMAT] [--output FORMAT] [--backing-chain] [--image-opts]\n"
      "       [--object DEFINITION] [-U] FILE",
      "Describe an image.\n\n" FORMAT_HELP
      "      --backing-chain   describe every image below it, too\n"
      "  -U, --force-share     look even while somebody writes to it\n"
      OUTPUT_HELP HELP_HELP },
    { "convert", cmd_convert,
      "[OPTIONS] FILE [FILE2 ...] TARGET",
      "Copy an image, or several one behind another, into one of another "
      "format.\n\n"
      "  -f FORMAT             format of the sources (default: by their "
      "magic)\n"
      "  -O FORMAT             format of the target (default raw)\n"
      "  -o OPTIONS            of the target: name=value,... ; -o help lists\n"
      "  -B FILE               backing file of the target: what the source's\n"
      "                        own backing file holds is not copied\n"
      "  -F FORMAT             format of the target's backing file\n"
      "  -n                    the target exists: write into it\n"
      "      --target-is-zero  with -n: it reads as zeroes\n"
      "  -S SIZE               leave out zeroes from so many bytes on (4k);\n"
      "                        0: write everything\n"
      "  -c                    compress\n"
      "  -C                    let the file system copy, where it can\n"
      "  -m N                  at most N requests in parallel (1..16)\n"
      "  -W                    write in any order\n"
      "  -r RATE               at most so many bytes per second\n"
      "  -t, -T MODE           cache mode of target and sources\n"
      "  -U, --force-share     read even while somebody writes\n"
      "  -l SNAPSHOT           copy this internal snapshot\n"
      "      --bitmaps         copy the source's bitmaps too\n"
      "      --skip-broken-bitmaps  leave out those that a crash left open\n"
      "      --salvage         zeroes for what cannot be read\n"
      "      --image-opts      sources are driver=NAME,file.filename=PATH,...\n"
      "      --object TYPE,id=ID,...\n"
      "                        make an object that an image needs\n"
      "      --target-image-opts  the target is given like that (with -n)\n"
      "  -p                    show progress\n"
      "  -q                    print nothing but errors\n"
      HELP_HELP },
    { "dd", cmd_dd,
      "[-f FORMAT] [-O FORMAT] [bs=SIZE] [count=N] [skip=N]\n"
      "       [--image-opts] [--object DEFINITION] [-U] if=FILE of=FILE",
      "Copy part of an image into a new one.\n\n" FORMAT_HELP
      "  -O FORMAT             format of the new image (default raw)\n"
      "  -U, --force-share     read even while somebody writes\n"
      "  if=FILE, of=FILE      from, to\n"
      "  bs=SIZE               size of a block (default 512)\n"
      "  count=N, skip=N       copy so many blocks, after so many\n"
      HELP_HELP },
    { "compare", cmd_compare,
      "[-f FORMAT] [-F FORMAT] [-T MODE] [-p] [-q] [-s] [--image-opts]\n"
      "       [--object DEFINITION] [-U] FILE1 FILE2",
      "Do two images read the same?\n"
      "Exit status: 0 yes, 1 no (or a usage error), 2 an image cannot be "
      "opened,\n3 its map cannot be read, 4 its data cannot be read.\n\n"
      FORMAT_HELP
      "  -F FORMAT             format of the second image\n"
      CACHE_HELP("-T", "both")
      "  -s                    sizes and what is allocated must be equal too\n"
      "  -p                    show progress\n"
      "  -q                    print nothing but errors\n"
      "  -U, --force-share     read even while somebody writes\n"
      HELP_HELP },
    { "measure", cmd_measure,
      "[--output FORMAT] [-O FORMAT] [-o OPTIONS]\n"
      "       {--size N | [-f FORMAT] [-l SNAPSHOT] [--image-opts]\n"
      "       [--object DEFINITION] [-U] FILE}",
      "How much space does a new image need, for a disk of a size or for a "
      "copy of FILE?\n\n" FORMAT_HELP
      "  -O FORMAT             format of the new image (default raw)\n"
      "  -o OPTIONS            options of the new image, as for create\n"
      "      --size N          size of the disk\n"
      "  -l SNAPSHOT           measure this internal snapshot\n"
      "  -U, --force-share     look even while somebody writes to it\n"
      OUTPUT_HELP HELP_HELP },
    { "check", cmd_check,
      "[-q] [-f FORMAT] [--output FORMAT] [-r leaks|all] [-T CACHE]\n"
      "       [--image-opts] [--object DEFINITION] [-U] FILE",
      "Check an image's metadata; repair it with -r.\n"
      "Exit status: 0 good, 1 the check failed, 2 corrupt, 3 leaked clusters,\n"
      "63 the format cannot be checked.\n\n" FORMAT_HELP
      "  -r leaks|all          repair\n"
      CACHE_HELP("-T", "the image")
      "  -U, --force-share     look even while somebody writes to it\n"
      "  -q                    print nothing but errors\n"
      OUTPUT_HELP HELP_HELP },
    { "map", cmd_map,
      "[-f FORMAT] [--output FORMAT] [-s OFFSET] [-l LENGTH]\n"
      "       [--image-opts] [--object DEFINITION] [-U] FILE",
      "Show which file of the chain holds each part of the disk.\n\n"
      FORMAT_HELP
      "  -s, --start-offset N  begin here\n"
      "  -l, --max-length N    end after so many bytes\n"
      "  -U, --force-share     look even while somebody writes to it\n"
      OUTPUT_HELP HELP_HELP },
    { "rebase", cmd_rebase,
      "[-f FORMAT] [-t CACHE] [-T CACHE] [-p] [-q] [-u] [-U]\n"
      "       [--image-opts] [--object DEFINITION] [-b BACKING -F FORMAT] FILE",
      "Give an image another backing file. What a guest sees stays the same:\n"
      "where the old and the new backing file differ, the old content is\n"
      "copied into the image first.\n\n" FORMAT_HELP
      "  -b FILE               the new backing file; \"\" for none\n"
      "  -F FORMAT             its format\n"
      "  -u                    only rewrite the header: the new backing file\n"
      "                        has the same content under another name\n"
      CACHE_HELP("-t", "the image")
      CACHE_HELP("-T", "the new backing file")
      "  -U, --force-share     open the new backing file even while somebody\n"
      "                        writes to it\n"
      "  -p                    show progress\n"
      "  -q                    print nothing but errors\n"
      HELP_HELP },
    { "resize", cmd_resize,
      "[-q] [-f FORMAT] [--shrink] [--preallocation MODE] [--image-opts] [--object DEFINITION]\n"
      "       FILE [+|-]SIZE",
      "Change the size of the virtual disk.\n\n" FORMAT_HELP
      "      --shrink          allow to cut data off\n"
      "      --preallocation MODE\n"
      "                        give what is added its place in the file: off\n"
      "                        (default), metadata, falloc, full\n"
      "  -q                    print nothing but errors\n"
      HELP_HELP },
    { "snapshot", cmd_snapshot,
      "[-f FORMAT] [--image-opts] [--object DEFINITION] [-q] [-U]\n"
      "       [-l | -a NAME | -c NAME | -d NAME] FILE\n"
      "       sluice snapshot {--live | -s PATH} [-f FORMAT] [-n]\n"
      "       [-l | -c NAME | -d NAME | --overlay FILE] DEVICE",
      "List, make, apply or delete snapshots inside an image, or of a disk that is\n"
      "in use (--live).\n\n"
      FORMAT_HELP
      "  -l                    list them (default)\n"
      "  -c NAME               make one\n"
      "  -a NAME               go back to one, given by name or id\n"
      "  -d NAME               delete one\n"
      "  -q                    accepted\n"
      "  -U, --force-share     look even while somebody writes to it\n"
      "      --live            the disk of a running daemon\n"
      "      --overlay FILE    what it holds now stays in its image; guests go on\n"
      "                        in a new one above it (of format qcow2, or -f)\n"
      "  -n                    the overlay exists\n"
      SOCKET_HELP HELP_HELP },
    { "bitmap", cmd_bitmap,
      "[-f FORMAT] [--image-opts] [--object DEFINITION]\n"
      "       [-b FILE [-F FORMAT]] [-g SIZE] ACTION... FILE BITMAP",
      "Change a dirty bitmap inside an image. Actions, in order:\n\n"
      "      --add             make it\n"
      "      --remove          remove it\n"
      "      --clear           forget what it recorded\n"
      "      --enable          let it record\n"
      "      --disable         stop it recording\n"
      "      --merge NAME      add what bitmap NAME recorded\n\n"
      FORMAT_HELP
      "  -g, --granularity N   bytes a bit stands for, with --add\n"
      "  -b, --source-file F   take NAME of --merge from this image\n"
      "  -F, --source-format FORMAT\n"
      "                        its format\n"
      HELP_HELP },
    { "amend", cmd_amend,
      "[-f FORMAT] [-t CACHE] [-p] [-q] [--force] [--image-opts]\n"
      "       [--object DEFINITION] -o OPTIONS FILE",
      "Change what kind of image it is. What a guest sees stays the same.\n\n"
      FORMAT_HELP
      "  -o OPTIONS            name=value,... ; -o help lists them\n"
      "      --force           accepted\n"
      CACHE_HELP("-t", "the image")
      "  -p                    show progress\n"
      "  -q                    print nothing but errors\n"
      HELP_HELP },
    { "bench", cmd_bench,
      "[-c COUNT] [-d DEPTH] [-f FORMAT] [--flush-interval N] [-i AIO]\n"
      "       [-n] [--no-drain] [-o OFFSET] [--pattern BYTE] [-q] [-s SIZE]\n"
      "       [-S STEP] [-t CACHE] [-w] [-U] [--image-opts]\n"
      "       [--object DEFINITION] FILE",
      "Read or write an image in requests of one size; tell how long that "
      "took.\n\n" FORMAT_HELP
      "  -c COUNT              so many requests (75000)\n"
      "  -d DEPTH              so many at a time (64)\n"
      "  -s SIZE               of a request (4096 bytes)\n"
      "  -S STEP               from one to the next (default: SIZE)\n"
      "  -o OFFSET             of the first one\n"
      "  -w                    write; what the image holds there is lost\n"
      "      --pattern BYTE    what to write (0)\n"
      "      --flush-interval N  flush after so many writes, when they are over\n"
      "      --no-drain        flush while writes are under way\n"
      "  -i AIO, -n            threads, io_uring or native (the same); -n: native\n"
      CACHE_HELP("-t", "the image")
      "  -U, --force-share     read even while somebody writes\n"
      "  -q                    print nothing but errors\n"
      HELP_HELP },
    { "", NULL, "Images in use", NULL },
    { "serve", cmd_serve,
      "[OPTIONS] IMAGE",
      "Serve an image over NBD until interrupted.\n\n"
      "  -f, --format FORMAT   its format; taken from the endings .qcow2, .qed,\n"
      "                        .cow, .raw, never from the image\n"
      "      --stream          populate the image from its base meanwhile,\n"
      "                        then let go of the base\n"
      LIMITS_HELP
      "      --copy-on-read    keep what guests read\n"
      "  -r, --read-only       refuse writes\n"
      "      --name NAME       name of device and export (default disk0)\n"
      "  -k, --socket PATH     serve on a Unix socket\n"
      "      --socket-mode MODE, --socket-owner USER, --socket-group GROUP\n"
      "                        who may connect to it (default: mode 0600; with\n"
      "                        a group 0660)\n"
      "      --port PORT       serve on a TCP port of this machine's loopback\n"
      "                        (default 10809)\n"
      "      --control PATH    make a control socket, for the job commands\n"
      "      --cache MODE      writeback (default), none, writethrough,\n"
      "                        directsync, unsafe\n"
      "      --io-engine NAME  auto (default), io_uring, threads\n"
      "  -d, --daemonize       go to the background once it serves\n"
      "      --pidfile FILE    write the process id there\n"
      "      --dry-run         print the daemon's command line instead\n"
      HELP_HELP },
    { "add", cmd_add,
      "[OPTIONS] DEVICE IMAGE",
      "Open an image in a running daemon and serve it; print its address.\n\n"
      SOCKET_HELP
      "  -f, --format FORMAT   its format; taken from the endings .qcow2, .qed,\n"
      "                        .cow, .raw, never from the image\n"
      "      --stream          fill the image from its base meanwhile, then\n"
      "                        let go of the base\n"
      "      --copy-on-read    keep what guests read\n"
      "  -r, --read-only       refuse writes\n"
      "      --cache MODE      writeback (default), none, unsafe\n"
      "      --nbd-socket PATH  start the NBD server there, if none runs\n"
      HELP_HELP },
    { "migrate", cmd_migrate,
      "[OPTIONS] --to SOCKET --target FILE DEVICE",
      "Move a disk from a running daemon to that of another host. The same "
      "command\ntakes up a migration that was cut off.\n\n"
      "  -s, --socket PATH     control socket of the daemon that has the disk\n"
      "      --to PATH         control socket of the daemon that gets it\n"
      "      --target FILE     what the disk becomes there\n"
      "  -f, --format FORMAT   its format (qcow2)\n"
      "      --precopy         copy first, move the guest then; else the guest\n"
      "                        starts there at once, and the data follows\n"
      "      --address HOST[:PORT]  how the one daemon reaches the NBD server of\n"
      "                        the other, where that does not tell it\n"
      "      --stop-command CMD, --start-command CMD\n"
      "                        stop the guest here, start it there\n"
      "      --force           cut off a guest that is still connected here\n"
      "      --on-link-loss P  what waits for the other host while it cannot be\n"
      "                        reached: wait (default), error, error:SECONDS\n"
      "      --tls-creds ID    object of the daemon that connects\n"
      "      --tls-hostname NAME  name in the other's certificate\n"
      "      --speed N         bytes per second at most\n"
      LIMITS_HELP HELP_HELP },
    { "remove", cmd_remove,
      "[-s PATH] [-f] DEVICE",
      "Take a device that was added from a running daemon; its image is closed.\n\n"
      SOCKET_HELP
      "  -f, --force           cut its clients off\n"
      HELP_HELP },
    { "switch", cmd_switch,
      "[-s PATH] [-f FORMAT] DEVICE IMAGE",
      "Let guests of a running daemon go on in an overlay of their image.\n\n"
      SOCKET_HELP
      "  -f, --format FORMAT   of the overlay; default: by its magic\n"
      HELP_HELP },
    { "graph", cmd_graph,
      "[-s PATH] [--output text|dot|svg]",
      "Draw the images of a running daemon and who uses them.\n\n"
      SOCKET_HELP
      "      --output text|dot|svg\n"
      "                        lines (default), the language of Graphviz, or a\n"
      "                        picture\n"
      HELP_HELP },
    { "", NULL, "Jobs of a running daemon", NULL },
    { "pull", cmd_pull,
      "[OPTIONS] DEVICE",
      "Populate a device of a running daemon from its base, showing progress.\n"
      "Exit status: 0 complete, 1 failed, 3 cancelled, 130 interrupted: the job\n"
      "goes on in the daemon.\n\n" SOCKET_HELP
      "  -b, --base FILE       keep this image below; copy what is above it\n"
      "      --backing-file F  name to record for the base\n"
      JOB_HELP OUTPUT_HELP HELP_HELP },
    { "copy", cmd_copy,
      "[OPTIONS] DEVICE TARGET",
      "Copy a disk of a running daemon to another image while guests use it; then\n"
      "they go on there. Exit status: as of pull.\n\n" SOCKET_HELP
      "  -f, --format FORMAT   of the target; default: that of the disk\n"
      "  -n                    the target exists: write into it\n"
      "      --sync full|top|none\n"
      "                        all of the disk (default); what its top image\n"
      "                        holds, over the same base; what is written from\n"
      "                        now on, over the disk as it is\n"
      "      --copy-mode background|write-blocking\n"
      "                        when changes by guests reach the target; default:\n"
      "                        background while that leads to an end\n"
      "      --keep            guests stay where they are; the target is a copy\n"
      "                        of the disk as it is in the end\n"
      JOB_HELP OUTPUT_HELP HELP_HELP },
    { "backup", cmd_backup,
      "[OPTIONS] DEVICE TARGET",
      "Copy a disk of a running daemon as it is now, while guests go on.\n"
      "Exit status: as of pull.\n\n" SOCKET_HELP
      "  -f, --format FORMAT   of the target; default: that of the disk\n"
      "  -n                    the target exists: write into it\n"
      "  -c                    compress\n"
      "      --sync full|top|none|incremental|bitmap\n"
      "                        all of the disk (default); what its top image\n"
      "                        holds; what guests are about to change; what a\n"
      "                        bitmap marks\n"
      "      --bitmap NAME     dirty bitmap of the disk; alone: incremental\n"
      "      --cbw-timeout N   let no write of a guest wait longer than so many\n"
      "                        seconds; rather the backup fails\n"
      JOB_HELP OUTPUT_HELP HELP_HELP },
    { "jobs", cmd_jobs, "[-s PATH] [--all] [--output FORMAT]",
      "List the jobs of a running daemon.\n\n"
      SOCKET_HELP
      "      --all             tell how the last ones ended, too\n"
      OUTPUT_HELP HELP_HELP },
    { "job", cmd_job,
      "[-s PATH] pause|resume|complete|finalize|dismiss ID...\n"
      "       sluice job [-s PATH] [-f] [--no-wait] cancel ID...\n"
      "       sluice job [-s PATH] [--output FORMAT] wait ID...\n"
      "       sluice job [-s PATH] speed ID BYTES-PER-SECOND\n"
      "       sluice job [-s PATH] [--latency-target T] [--floor N] [--finish-by TIME]"
      "\n                  limits ID...",
      "Act on jobs of a running daemon; wait for their end.\n"
      "Exit status: 0 done, or all complete; 1 failed; of wait also 3 cancelled,\n"
      "130 interrupted.\n\n" SOCKET_HELP
      LIMITS_HELP
      "  -f, --force           cancel even while paused\n"
      "      --no-wait         do not wait for the end of what is cancelled\n"
      OUTPUT_HELP HELP_HELP },
    { "monitor", cmd_monitor, "[-s PATH] [-e] [--output FORMAT]",
      "Type commands of the human monitor (or JSON commands) and see events.\n"
      "'help' lists them; TAB completes; 'quit' ends the monitor and leaves the\n"
      "daemon alone, 'quit --daemon' ends both.\n"
      "\n" SOCKET_HELP
      "  -e, --events          only print events\n"
      OUTPUT_HELP HELP_HELP },
    { NULL, NULL, NULL, NULL }
};
/* clang-format on */

static int main_print_usage(void)
{
    printf("usage: sluice COMMAND [OPTIONS]\n");
    for (const struct subcommand *s = subcommands; s->name; s++) {
        const char *end = s->run ? strpbrk(s->help, ".;:?") : NULL;

        if (end) {
            printf("  %-9s %.*s\n", s->name, (int)(end - s->help), s->help);
        } else {
            printf("\n%s:\n", s->synopsis);
        }
    }
    printf("\n'sluice COMMAND --help' explains one.\n"
           "sluiced(8) is the daemon, sluice(1) the manual of this program.\n");
    return 0;
}

static int unknown_command(const char *word)
{
    const char *names[G_N_ELEMENTS(subcommands)];
    const char *near;
    unsigned n = 0;

    for (const struct subcommand *s = subcommands; s->name; s++) {
        if (s->run) {
            names[n++] = s->name;
        }
    }
    names[n] = NULL;
    if (cli_is_qemu_img()) {
        return cli_usage_error(NULL, "Command not found: %s", word);
    }
    near = suggest_word(word, names);
    if (near) {
        return cli_usage_error(
            NULL, "'%s' is not a command; did you mean '%s'?", word, near);
    }
    g_autofree char *list = g_strjoinv(", ", (char **)names);
    return cli_usage_error(NULL, "'%s' is not a command; commands are %s", word,
                           list);
}

static int main_run(int argc, char **argv)
{
    setlocale(LC_ALL, "C.UTF-8");
    opterr = 0; /* cli_bad_option() says it */
    if (argc < 2) {
        return cli_usage_error(NULL, cli_is_qemu_img() ? "Not enough arguments"
                                                       : "expecting a command");
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        return main_print_usage();
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("sluice version %s\n", SLUICE_VERSION);
        return 0;
    }
    for (const struct subcommand *s = subcommands; s->name; s++) {
        if (s->run && strcmp(argv[1], s->name) == 0) {
            return cli_run(s, argc - 1, argv + 1);
        }
    }
    return unknown_command(argv[1]);
}

/* What was printed must have arrived: who reads it back (>file) would take a
 * part for all.  compare says by 1 that images differ. */
static int main_check_output(int argc, char **argv, int status)
{
    int r = cli_flush();

    if (r == 0) {
        return status;
    }
    cli_error("Could not write to standard output: %s", g_strerror(-r));
    if (status != 0) {
        return status;
    }
    return argc > 1 && strcmp(argv[1], "compare") == 0 ? 2 : 1;
}

int main(int argc, char **argv)
{
    if (argc > 0) {
        cli_set_program(argv[0]);
    }
    return main_check_output(argc, argv, main_run(argc, argv));
}
