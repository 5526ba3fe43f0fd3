/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process: limits, background, pid file, signals, and the guard that ends
 * it should the orderly end get stuck.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "daemon/daemon.h"
#include "loop/channel.h"
#include "loop/io.h"

/* Longest orderly end: clients and servers that hang are given up long before
 * by those who talk to them. */
#define SHUTDOWN_MAX_S 60

int process_prepare(struct daemon *d, GError **err)
{
    struct rlimit files;
    sigset_t set;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    /* Before any thread is made: they all inherit it. */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (d->signal_fd < 0) {
        return err_set_errno(err, errno, "Could not make a signal descriptor");
    }
    return 0;
}

/* --- background --- */

/* In the parent: exit with what the child reports; 1 if it dies silently. */
static void await_verdict(pid_t child, int fd)
{
    unsigned char verdict = 1;
    ssize_t n;

    do {
        n = read(fd, &verdict, 1);
    } while (n < 0 && errno == EINTR);
    if (n != 1) {
        int status;

        (void)waitpid(child, &status, 0);
        verdict = 1;
    }
    _exit(verdict);
}

int process_daemonize(struct daemon *d, GError **err)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_set_errno(err, errno, "Could not make a pipe");
    }
    pid = fork();
    if (pid < 0) {
        return err_set_errno(err, errno, "Could not fork");
    }
    if (pid > 0) {
        close(fds[1]);
        await_verdict(pid, fds[0]);
    }
    close(fds[0]);
    d->verdict_fd = fds[1];
    (void)setsid();
    return 0;
}

void process_release_parent(struct daemon *d)
{
    unsigned char ok = 0;
    int null;

    if (d->verdict_fd < 0) {
        return;
    }
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        (void)dup2(null, STDIN_FILENO);
        (void)dup2(null, STDOUT_FILENO);
        (void)dup2(null, STDERR_FILENO);
        close(null);
    }
    (void)!write(d->verdict_fd, &ok, 1);
    close(d->verdict_fd);
    d->verdict_fd = -1;
}

/* --- pid file --- */

int pidfile_co_write(struct daemon *d, GError **err)
{
    g_autofree char *text = g_strdup_printf("%ld\n", (long)getpid());
    const char *path = d->set.pidfile;
    struct iovec store;
    struct io_file *f;
    int r;

    if (!path) {
        return 0;
    }
    /* Never through a link that somebody planted. */
    r = io_co_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600, &f);
    if (r < 0) {
        return err_set_errno(err, -r, "cannot create PID file '%s'", path);
    }
    r = io_co_lock(f, 0, 1, IO_LOCK_EXCLUSIVE);
    if (r < 0) {
        io_co_close(f);
        return err_set(err, EBUSY,
                       "cannot lock PID file '%s': another process has it",
                       path);
    }
    r = io_co_truncate(f, 0);
    if (r == 0) {
        r = io_co_pwritev(f, 0, iov_one(&store, text, strlen(text)),
                          IO_TAG_META);
    }
    d->pidfile = f;
    return r < 0 ? err_set_errno(err, -r, "cannot write PID file '%s'", path)
                 : 0;
}

void pidfile_co_remove(struct daemon *d)
{
    if (d->pidfile) {
        (void)io_co_unlink(d->set.pidfile);
        io_co_close(d->pidfile);
        d->pidfile = NULL;
    }
}

/* --- signals --- */

static CO_FN void signals_entry(void *arg)
{
    struct daemon *d = arg;

    while (!d->signals_ended) {
        struct signalfd_siginfo info;
        int r = channel_co_poll_fd(d->signal_fd, POLLIN, 0);

        if (r < 0) {
            break;
        }
        if (read(d->signal_fd, &info, sizeof(info)) == sizeof(info) &&
            !d->signals_ended) {
            control_quit(d->control, "host-signal");
        }
    }
    d->signals_ended = true;
    co_queue_wake_all(&d->wake);
}

void signals_start(struct daemon *d)
{
    co_start(d->loop, signals_entry, d);
}

void signals_co_stop(struct daemon *d)
{
    if (d->signals_ended) {
        return;
    }
    d->signals_ended = true;
    /* It waits for a signal, so it gets one. */
    kill(getpid(), SIGTERM);
    co_queue_co_wait(&d->wake);
}

static void *watch_main(void *arg)
{
    sleep(SHUTDOWN_MAX_S);
    fprintf(stderr,
            "sluiced: the end takes more than %d s; giving up. Images "
            "are consistent, unflushed writes may be lost.\n",
            SHUTDOWN_MAX_S);
    _exit(1);
    return NULL;
}

void process_watch_shutdown(void)
{
    pthread_t t;

    if (pthread_create(&t, NULL, watch_main, NULL) == 0) {
        pthread_detach(t);
    }
}
