/* A disk that is full from the n-th change below a folder on, for every library of a process.
 *
 *     FULL_DISK_FOLDER=/folder FULL_DISK_AT=12 FULL_DISK_COUNT=/file LD_PRELOAD=full_disk.so …
 *
 * Changes are files and folders that are made, and bytes that are written, appended, reserved or synced. Their number
 * is written to the file FULL_DISK_COUNT; FULL_DISK_AT=0 only counts. Once a file FULL_DISK_ROOM exists, there is
 * room. Variables are read at each
 * change: a process that was forked from one that has imported its libraries has its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int changes;

static int below(const char *path) {
    const char *folder = getenv("FULL_DISK_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int full(void) {
    const char *at = getenv("FULL_DISK_AT"), *count = getenv("FULL_DISK_COUNT");
    int number = __atomic_add_fetch(&changes, 1, __ATOMIC_SEQ_CST);
    if (count) {
        FILE *file = fopen(count, "w");
        if (file) {
            fprintf(file, "%d", number);
            fclose(file);
        }
    }
    const char *room = getenv("FULL_DISK_ROOM");
    if (at && atoi(at) && number >= atoi(at) && !(room && !access(room, F_OK))) {
        errno = ENOSPC;
        return 1;
    }
    return 0;
}

static int full_path(int folder, const char *path) {
    char whole[8192], place[4096];
    if (path[0] == '/')
        return below(path) && full();
    if (folder == AT_FDCWD) {
        if (!getcwd(place, sizeof place))
            return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, place, sizeof place - 1);
        if (length < 0)
            return 0;
        place[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", place, path);
    return below(whole) && full();
}

static int full_file(int file) {
    char link[64], path[4096];
    int error = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = error;
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path) && full();
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define ON_FILE(result, name, arguments, values, file) \
    result name arguments { return full_file(file) ? -1 : REAL(name) values; }

ON_FILE(ssize_t, write, (int f, const void *b, size_t n), (f, b, n), f)
ON_FILE(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n), f)
ON_FILE(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o), f)
ON_FILE(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o), f)
ON_FILE(ssize_t, sendfile, (int f, int from, off_t *o, size_t n), (f, from, o, n), f)
ON_FILE(ssize_t, sendfile64, (int f, int from, off64_t *o, size_t n), (f, from, o, n), f)
ON_FILE(ssize_t, copy_file_range, (int from, off64_t *a, int f, off64_t *b, size_t n, unsigned g), (from, a, f, b, n, g), f)
ON_FILE(int, fsync, (int f), (f), f)
ON_FILE(int, fdatasync, (int f), (f), f)

int mkdir(const char *path, mode_t mode) { return full_path(AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode); }

static int made(int folder, const char *path, int flags) {
    struct stat found;
    return (flags & O_CREAT) && fstatat(folder, path, &found, 0) && full_path(folder, path);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return made(AT_FDCWD, path, flags) ? -1 : REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return made(AT_FDCWD, path, flags) ? -1 : REAL(open64)(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return made(folder, path, flags) ? -1 : REAL(openat)(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags)
    return made(folder, path, flags) ? -1 : REAL(openat64)(folder, path, flags, mode);
}
