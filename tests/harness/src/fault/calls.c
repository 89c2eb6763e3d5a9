/* Makes system calls on files fail or take long; see calls.rs. Loaded into the program under test by LD_PRELOAD.
 *
 * PILOTAGE_FAULTS names a file of rules, read again at each call so that a test can change them under a running program:
 *
 *     CALL NUMBER PATH      the call fails with this errno on files whose path contains PATH; `-` is every path
 *     CALL ~MILLIS PATH     the call takes so much longer
 *
 * Each call that meets a rule is noted in FILE.met, so that a test knows that its fault took place. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void note(const char *rules, const char *call, const char *path)
{
    char file[4200], line[4400];
    snprintf(file, sizeof file, "%s.met", rules);
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    long fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        return;
    syscall(SYS_write, (int)fd, line, (size_t)length);
    syscall(SYS_close, (int)fd);
}

/* The errno that this call shall fail with, or 0; waits where the rule says so. errno is kept. */
static int fault(const char *call, const char *path)
{
    int before = errno, result = 0;
    char text[8192], *line, *rest = text, name[32], how[32], part[4096];
    const char *rules = getenv("PILOTAGE_FAULTS");
    if (!rules)
        return 0;
    long fd = syscall(SYS_openat, AT_FDCWD, rules, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) {
        errno = before;
        return 0;
    }
    long length = syscall(SYS_read, (int)fd, text, sizeof text - 1);
    syscall(SYS_close, (int)fd);
    text[length > 0 ? length : 0] = 0;
    while (!result && (line = strsep(&rest, "\n"))) {
        if (sscanf(line, "%31s %31s %4095s", name, how, part) != 3 || strcmp(name, call) != 0)
            continue;
        if (strcmp(part, "-") != 0 && !strstr(path, part))
            continue;
        note(rules, call, path);
        if (how[0] == '~') {
            long millis = atol(how + 1);
            struct timespec time = { millis / 1000, millis % 1000 * 1000000 };
            while (nanosleep(&time, &time) != 0 && errno == EINTR) { }
        } else {
            result = atoi(how);
        }
    }
    errno = before;
    return result;
}

static int fault_fd(const char *call, int fd)
{
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    errno = before;
    path[length > 0 ? length : 0] = 0;
    /* Pipes, sockets and terminals are not files. */
    return path[0] == '/' && strncmp(path, "/dev/", 5) != 0 ? fault(call, path) : 0;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define UNLESS(met) \
    do { \
        int failure = (met); \
        if (failure) { \
            errno = failure; \
            return -1; \
        } \
    } while (0)

int fsync(int fd) { REAL(fsync); UNLESS(fault_fd("fsync", fd)); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); UNLESS(fault_fd("fsync", fd)); return real(fd); }

ssize_t write(int fd, const void *data, size_t size) { REAL(write); UNLESS(fault_fd("write", fd)); return real(fd, data, size); }
ssize_t writev(int fd, const struct iovec *data, int count) { REAL(writev); UNLESS(fault_fd("write", fd)); return real(fd, data, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); UNLESS(fault_fd("write", fd)); return real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); UNLESS(fault_fd("write", fd)); return real(fd, data, size, at); }

int ftruncate(int fd, off_t size) { REAL(ftruncate); UNLESS(fault_fd("ftruncate", fd)); return real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); UNLESS(fault_fd("ftruncate", fd)); return real(fd, size); }

int rename(const char *from, const char *to) { REAL(rename); UNLESS(fault("rename", to)); return real(from, to); }

/* The mode is there only when a file may be made. */
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) { MODE(flags); REAL(open); UNLESS(fault("open", path)); return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); REAL(open64); UNLESS(fault("open", path)); return real(path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags); REAL(openat); UNLESS(fault("open", path)); return real(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags); REAL(openat64); UNLESS(fault("open", path)); return real(at, path, flags, mode); }
