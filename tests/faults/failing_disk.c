/* Preloaded: the call that DISK_FAULT="CALL ERRNO PART" names fails with that error on every path that holds PART. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(const char *call, const char *path) {
    const char *fault = getenv("DISK_FAULT");
    char name[16], part[PATH_MAX];
    int number;
    if (!fault || !path || sscanf(fault, "%15s %d %4095[^\n]", name, &number, part) != 3) return 0;
    if (strcmp(name, call) || !strstr(path, part)) return 0;
    errno = number;
    return 1;
}

static int fails_on(const char *call, int file) {
    char link[64], path[PATH_MAX];
    if (!getenv("DISK_FAULT")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t count) {
    return fails_on("write", file) ? -1 : REAL(write)(file, bytes, count);
}
int fsync(int file) { return fails_on("fsync", file) ? -1 : REAL(fsync)(file); }
int rename(const char *from, const char *to) { return fails("rename", from) ? -1 : REAL(rename)(from, to); }

#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...) {                            \
        va_list more;                                                       \
        va_start(more, flags);                                              \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;           \
        va_end(more);                                                       \
        if (flags & O_CREAT && fails("open", path)) return -1;              \
        return REAL(name)(path, flags, mode);                               \
    }
OPEN(open)
OPEN(open64)
