/*
 * A disk that fails. Loaded before the system's library (LD_PRELOAD), it lets calls on the registry's
 * database and log go wrong once XLREG_DISK_AFTER of them have gone well. XLREG_DISK_FAILS says how:
 *
 *   fsync          one fsync or fdatasync fails (EIO) and writes nothing; later ones succeed, as on Linux
 *   write-eio      from then on no write succeeds (EIO)
 *   write-torn     one write leaves half of its bytes, and from then on none succeeds (EIO)
 *   write-enospc   from then on the disk is full (ENOSPC)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

/* Whether fd is the database or its log; not the log's index, which is memory. */
static int ours(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && (!strcmp(name, "/registry.db") || !strcmp(name, "/registry.db-wal"));
}

/* 0 if the call is to go well, 1 if it is the first to fail, 2 if a later one. */
static int turn(int fd, const char *kind)
{
    const char *fails = getenv("XLREG_DISK_FAILS"), *after = getenv("XLREG_DISK_AFTER");
    if (!fails || !after || strncmp(fails, kind, strlen(kind)) || !ours(fd))
        return 0;
    long call = atomic_fetch_add(&calls, 1), first = atol(after);
    return call < first ? 0 : call == first ? 1 : 2;
}

static int fail(int error)
{
    errno = error;
    return -1;
}

static int sync_with(const char *name, int fd)
{
    if (turn(fd, "fsync") == 1)
        return fail(EIO);
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }

static ssize_t pwrite_with(const char *name, int fd, const void *bytes, size_t count, off_t at)
{
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, name);
    int whose = turn(fd, "write");
    if (!whose)
        return real(fd, bytes, count, at);
    const char *fails = getenv("XLREG_DISK_FAILS");
    if (whose == 1 && !strcmp(fails, "write-torn"))
        return real(fd, bytes, count / 2, at);
    return fail(strcmp(fails, "write-enospc") ? EIO : ENOSPC);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    return pwrite_with("pwrite", fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at)
{
    return pwrite_with("pwrite64", fd, bytes, count, at);
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    ssize_t (*real)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    int whose = turn(fd, "write");
    if (!whose)
        return real(fd, bytes, count);
    const char *fails = getenv("XLREG_DISK_FAILS");
    if (whose == 1 && !strcmp(fails, "write-torn"))
        return real(fd, bytes, count / 2);
    return fail(strcmp(fails, "write-enospc") ? EIO : ENOSPC);
}
