/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A link of a given round-trip time for benchmarks: what arrives on one socket
 * leaves on the other half that time later.
 *
 *   delay-proxy LISTEN CONNECT RTT_US       (paths of Unix sockets, or ports
 *                                           of 127.0.0.1)
 *
 * It delays and nothing else: any number of requests may be under way, and
 * bytes leave as fast as they came.  A reader thread stamps what it reads, a
 * writer thread sleeps until each piece is due.  A direction holds at most
 * QUEUE_MAX bytes, which bounds memory; at RTT r that limits the link to
 * 2 * QUEUE_MAX / r, far beyond what is measured.  Ends by a signal.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PIECE ((size_t)256 << 10)
#define QUEUE_MAX ((size_t)256 << 20)

struct piece {
    struct piece *next;
    uint64_t due_ns;
    size_t len;
    char bytes[];
};

/* One direction of one connection. */
struct pipe_dir {
    int from, to;
    pthread_mutex_t lock;
    pthread_cond_t change;
    struct piece *head, **tail;
    size_t held;
    bool ended;
};

static uint64_t delay_ns;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
    struct timespec t = {
        .tv_sec = (time_t)(ns / 1000000000),
        .tv_nsec = (long)(ns % 1000000000),
    };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

static struct piece *piece_read(int fd)
{
    struct piece *p = malloc(sizeof(*p) + PIECE), *small;
    ssize_t got;

    if (!p) {
        return NULL;
    }
    got = recv(fd, p->bytes, PIECE, 0);
    if (got <= 0) {
        free(p);
        return NULL;
    }
    p->next = NULL;
    p->len = (size_t)got;
    p->due_ns = now_ns() + delay_ns;
    small = realloc(p, sizeof(*p) + p->len);
    return small ? small : p;
}

static void *reader(void *arg)
{
    struct pipe_dir *d = arg;
    struct piece *p;

    do {
        p = piece_read(d->from);
        pthread_mutex_lock(&d->lock);
        while (d->held > QUEUE_MAX && !d->ended) {
            pthread_cond_wait(&d->change, &d->lock);
        }
        if (p) {
            d->held += p->len;
            *d->tail = p;
            d->tail = &p->next;
        } else {
            d->ended = true;
        }
        pthread_cond_signal(&d->change);
        pthread_mutex_unlock(&d->lock);
    } while (p);
    return NULL;
}

static struct piece *dir_take(struct pipe_dir *d)
{
    struct piece *p;

    pthread_mutex_lock(&d->lock);
    while (!d->head && !d->ended) {
        pthread_cond_wait(&d->change, &d->lock);
    }
    p = d->head;
    if (p) {
        d->head = p->next;
        d->tail = d->head ? d->tail : &d->head;
        d->held -= p->len;
        pthread_cond_signal(&d->change);
    }
    pthread_mutex_unlock(&d->lock);
    return p;
}

static bool send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

        if (n < 0) {
            return false;
        }
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static void *writer(void *arg)
{
    struct pipe_dir *d = arg;
    struct piece *p;
    bool good = true;

    while ((p = dir_take(d))) {
        if (good) {
            sleep_until(p->due_ns);
            good = send_all(d->to, p->bytes, p->len);
        }
        free(p);
    }
    shutdown(d->to, SHUT_WR);
    return NULL;
}

static void start(void *(*run)(void *), void *arg)
{
    pthread_t t;

    if (pthread_create(&t, NULL, run, arg) != 0) {
        fprintf(stderr, "delay-proxy: cannot start a thread\n");
        exit(1);
    }
    pthread_detach(t);
}

static void forward(int from, int to)
{
    struct pipe_dir *d = calloc(1, sizeof(*d));

    if (!d) {
        exit(1);
    }
    d->from = from;
    d->to = to;
    d->tail = &d->head;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->change, NULL);
    start(reader, d);
    start(writer, d);
}

union address {
    struct sockaddr any;
    struct sockaddr_un path;
    struct sockaddr_in port;
};

/* For @where, a path or a port. */
static int make_socket(const char *where, union address *ret,
                       socklen_t *ret_len)
{
    bool is_port = where[0] != '\0' && !where[strspn(where, "0123456789")];
    int on = 1,
        fd = socket(is_port ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memset(ret, 0, sizeof(*ret));
    if (fd < 0 || (!is_port && strlen(where) >= sizeof(ret->path.sun_path))) {
        fprintf(stderr, "delay-proxy: no socket for '%s'\n", where);
        exit(1);
    }
    if (is_port) {
        ret->port.sin_family = AF_INET;
        ret->port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        ret->port.sin_port = htons((in_port_t)strtoul(where, NULL, 10));
        *ret_len = sizeof(ret->port);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    } else {
        ret->path.sun_family = AF_UNIX;
        strcpy(ret->path.sun_path, where);
        *ret_len = sizeof(ret->path);
    }
    return fd;
}

/* What arrives leaves as it came; fails for a Unix socket, which has no other
 * way. */
static void set_no_delay(int fd)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int main(int argc, char **argv)
{
    union address addr;
    socklen_t len;
    int listener;

    if (argc != 4) {
        fprintf(stderr, "usage: delay-proxy LISTEN CONNECT RTT_US\n");
        return 1;
    }
    delay_ns = strtoull(argv[3], NULL, 10) * 1000 / 2;
    listener = make_socket(argv[1], &addr, &len);
    if (bind(listener, &addr.any, len) < 0 || listen(listener, 64) < 0) {
        perror("delay-proxy: listen");
        return 1;
    }
    for (;;) {
        int client = accept(listener, NULL, NULL), server;

        if (client < 0) {
            continue;
        }
        server = make_socket(argv[2], &addr, &len);
        if (connect(server, &addr.any, len) < 0) {
            perror("delay-proxy: connect");
            close(server);
            close(client);
            continue;
        }
        set_no_delay(client);
        set_no_delay(server);
        forward(client, server);
        forward(server, client);
    }
}
