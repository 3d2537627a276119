/* A disk that fails, for tests: preloaded into a process, it counts the calls that change files whose
 * path contains FAULT_PATH and lets the FAULT_AT-th fail (and the FAULT_COUNT - 1 after it) with
 * FAULT_ERRNO. Before the file FAULT_WHEN is there, if it is set, nothing counts. With FAULT_SHORT, a write that fails has written half of its bytes before. FAULT_MARK
 * names a file that is made when the first call fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static int (*real_open)(const char *, int, ...);

static int fails(const char *path) {
    const char *wanted = getenv("FAULT_PATH");
    if (!wanted || !strstr(path, wanted)) return 0;
    const char *when = getenv("FAULT_WHEN");
    if (when && access(when, F_OK) != 0) return 0;
    long at = number("FAULT_AT", 0);
    long call = atomic_fetch_add(&calls, 1) + 1;
    if (call < at || call >= at + number("FAULT_COUNT", 1)) return 0;
    const char *mark = getenv("FAULT_MARK");
    if (mark && call == at) {
        if (!real_open) real_open = dlsym(RTLD_NEXT, "open");
        int fd = real_open(mark, O_CREAT | O_WRONLY, 0600);
        if (fd >= 0) close(fd);
    }
    errno = (int)number("FAULT_ERRNO", EIO);
    return 1;
}

static int fd_fails(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fails(path);
}

static int is_short(void) { return number("FAULT_SHORT", 0) != 0; }

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    if (!fd_fails(fd)) return real(fd, bytes, size);
    int error = errno;
    if (is_short()) real(fd, bytes, size / 2);
    errno = error;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    REAL(pwrite);
    if (!fd_fails(fd)) return real(fd, bytes, size, at);
    int error = errno;
    if (is_short()) real(fd, bytes, size / 2, at);
    errno = error;
    return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    if (!fd_fails(fd)) return real(fd, bytes, size, at);
    int error = errno;
    if (is_short()) real(fd, bytes, size / 2, at);
    errno = error;
    return -1;
}

int fsync(int fd) {
    REAL(fsync);
    return fd_fails(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return fd_fails(fd) ? -1 : real(fd);
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    return fd_fails(fd) ? -1 : real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return fd_fails(fd) ? -1 : real(fd, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return fails(to) ? -1 : real(from, to);
}

int open(const char *path, int flags, ...) {
    REAL(open);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return (flags & O_CREAT) && fails(path) ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return (flags & O_CREAT) && fails(path) ? -1 : real(path, flags, mode);
}
