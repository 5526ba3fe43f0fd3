/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A line between two network namespaces: packets arrive late, no faster than
 * the line allows, and what does not fit into the queue before it is lost.  TCP
 * at both ends is that of the kernel.
 *
 *   far-link DEVICE NAMESPACE DELAY_US RATE QUEUE
 *
 * Makes a TUN device called DEVICE in its own namespace and one in NAMESPACE (a
 * path), and says "ready".  DELAY_US: each way.  RATE: bytes/s each way, QUEUE:
 * bytes.  Ends by a signal, or when standard input does.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PACKET_MAX 65536
#define NS_PER_S UINT64_C(1000000000)

struct packet {
    struct packet *next;
    uint64_t due_ns;
    size_t len;
    char bytes[];
};

struct direction {
    int from, to;
    struct packet *head, **tail;
    uint64_t busy_ns; /* the line is until then */
};

static uint64_t delay_ns, rate, queue_ns;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static int tun_open(const char *name)
{
    struct ifreq r = { .ifr_flags = IFF_TUN | IFF_NO_PI };
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    strncpy(r.ifr_name, name, sizeof(r.ifr_name) - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0) {
        perror("far-link: /dev/net/tun");
        exit(1);
    }
    return fd;
}

/* Take what has come; it leaves when the line is free, and arrives later. */
static void take(struct direction *d)
{
    char buf[PACKET_MAX];

    for (;;) {
        ssize_t len = read(d->from, buf, sizeof(buf));
        uint64_t now = now_ns();
        struct packet *p;

        if (len <= 0) {
            return;
        }
        if (d->busy_ns > now + queue_ns) {
            continue;
        }
        d->busy_ns = (d->busy_ns > now ? d->busy_ns : now) +
                     (uint64_t)len * NS_PER_S / rate;
        p = malloc(sizeof(*p) + (size_t)len);
        if (!p) {
            continue;
        }
        *p = (struct packet) { .due_ns = d->busy_ns + delay_ns,
                               .len = (size_t)len };
        memcpy(p->bytes, buf, (size_t)len);
        *d->tail = p;
        d->tail = &p->next;
    }
}

/* Deliver what is due. A device that is not up yet takes nothing. */
static void deliver(struct direction *d)
{
    while (d->head && d->head->due_ns <= now_ns()) {
        struct packet *p = d->head;

        if (write(d->to, p->bytes, p->len) < 0 && errno != EIO &&
            errno != EAGAIN) {
            perror("far-link");
            exit(1);
        }
        d->head = p->next;
        if (!d->head) {
            d->tail = &d->head;
        }
        free(p);
    }
}

static void wait_for(struct direction d[2])
{
    struct pollfd fds[] = { { .fd = d[0].from, .events = POLLIN },
                            { .fd = d[1].from, .events = POLLIN },
                            { .fd = STDIN_FILENO, .events = POLLIN } };
    uint64_t due = UINT64_MAX, now = now_ns();
    struct timespec t;

    for (unsigned i = 0; i < 2; i++) {
        if (d[i].head && d[i].head->due_ns < due) {
            due = d[i].head->due_ns;
        }
    }
    due = due > now ? due - now : 0;
    t = (struct timespec) { .tv_sec = (time_t)(due / NS_PER_S % 3600),
                            .tv_nsec = (long)(due % NS_PER_S) };
    if (ppoll(fds, 3, &t, NULL) > 0 && fds[2].revents) {
        exit(0);
    }
}

int main(int argc, char **argv)
{
    struct direction d[2] = { { 0 }, { 0 } };
    int here, there, ns;

    if (argc != 6) {
        fprintf(stderr, "far-link DEVICE NAMESPACE DELAY_US RATE QUEUE\n");
        return 2;
    }
    delay_ns = strtoull(argv[3], NULL, 10) * 1000;
    rate = strtoull(argv[4], NULL, 10);
    queue_ns = strtoull(argv[5], NULL, 10) * NS_PER_S / rate;
    here = tun_open(argv[1]);
    ns = open(argv[2], O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET) < 0) {
        perror(argv[2]);
        return 1;
    }
    there = tun_open(argv[1]);
    d[0] = (struct direction) { .from = here, .to = there };
    d[1] = (struct direction) { .from = there, .to = here };
    d[0].tail = &d[0].head;
    d[1].tail = &d[1].head;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        wait_for(d);
        take(&d[0]);
        take(&d[1]);
        deliver(&d[0]);
        deliver(&d[1]);
    }
}
