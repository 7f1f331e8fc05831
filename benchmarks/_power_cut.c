/* Notes every change below the folder $EVOQ_WATCH, in order, in the file $EVOQ_LOG: preload it into a process.

   A record is a line "kind id offset length name-length" and then name and data as bytes. What was never synced can then
   be dropped from the record, as a power cut would drop it. Memory maps are not seen: SQLite maps only its index of the
   log (-shm), which no reader trusts after a cut. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long ids[FILES];
static long next_id = 1;
static int log_file = -1;

static int watched(const char *path) {
    const char *folder = getenv("EVOQ_WATCH");
    size_t n = folder ? strlen(folder) : 0;
    return path && n && !strncmp(path, folder, n) && (path[n] == '/' || !path[n]);
}

static void put(const void *data, size_t n) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = REAL(write);
    for (const char *p = data; n;) {
        ssize_t done = real(log_file, p, n);
        if (done <= 0) abort();
        p += done, n -= done;
    }
}

static void note(char kind, long id, long offset, const char *name, const void *data, long n) {
    char line[128];
    if (log_file < 0) {
        static int (*real)(const char *, int, ...);
        real = REAL(open);
        log_file = fcntl(real(getenv("EVOQ_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600), F_DUPFD_CLOEXEC, 1000);
    }
    size_t named = name ? strlen(name) : 0;
    put(line, sprintf(line, "%c %ld %ld %ld %zu\n", kind, id, offset, data ? n : 0, named));
    if (named) put(name, named);
    if (data) put(data, n);
}

#define NOTED(condition, ...)                  \
    if (condition) {                           \
        pthread_mutex_lock(&lock);             \
        note(__VA_ARGS__);                     \
        pthread_mutex_unlock(&lock);           \
    }

static int opened(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= FILES) return fd;
    pthread_mutex_lock(&lock);
    ids[fd] = watched(path) ? next_id++ : 0;
    if (ids[fd]) note('O', ids[fd], flags & (O_CREAT | O_TRUNC) ? flags & O_TRUNC ? 2 : 1 : 0, path, 0, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name)                                                                                    \
    int name(const char *path, int flags, ...) {                                                     \
        va_list rest;                                                                                 \
        va_start(rest, flags);                                                                        \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                       \
        va_end(rest);                                                                                 \
        return opened(REAL(name)(path, flags, mode), path, flags);                                    \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                                                  \
    int name(int at, const char *path, int flags, ...) {                                             \
        va_list rest;                                                                                 \
        va_start(rest, flags);                                                                        \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                       \
        va_end(rest);                                                                                 \
        return opened(REAL(name)(at, path, flags, mode), path, flags);                                \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (fd >= 0 && fd < FILES) ids[fd] = 0;
    return REAL(close)(fd);
}

#define KNOWN(fd) ((fd) >= 0 && (fd) < FILES && ids[fd])

ssize_t write(int fd, const void *data, size_t n) {
    ssize_t done = REAL(write)(fd, data, n);
    NOTED(done > 0 && KNOWN(fd), 'W', ids[fd], lseek(fd, 0, SEEK_CUR) - done, 0, data, done)
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) {
    ssize_t done = REAL(pwrite)(fd, data, n, offset);
    NOTED(done > 0 && KNOWN(fd), 'W', ids[fd], offset, 0, data, done)
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) {
    ssize_t done = REAL(pwrite64)(fd, data, n, offset);
    NOTED(done > 0 && KNOWN(fd), 'W', ids[fd], offset, 0, data, done)
    return done;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (KNOWN(fd)) abort(); /* nothing of ours writes so; better to know */
    return REAL(writev)(fd, parts, count);
}
int ftruncate(int fd, off_t n) {
    int failed = REAL(ftruncate)(fd, n);
    NOTED(!failed && KNOWN(fd), 'T', ids[fd], n, 0, 0, 0)
    return failed;
}
int ftruncate64(int fd, off64_t n) {
    int failed = REAL(ftruncate64)(fd, n);
    NOTED(!failed && KNOWN(fd), 'T', ids[fd], n, 0, 0, 0)
    return failed;
}
int fsync(int fd) {
    int failed = REAL(fsync)(fd);
    NOTED(!failed && KNOWN(fd), 'S', ids[fd], 0, 0, 0, 0)
    return failed;
}
int fdatasync(int fd) {
    int failed = REAL(fdatasync)(fd);
    NOTED(!failed && KNOWN(fd), 'S', ids[fd], 0, 0, 0, 0)
    return failed;
}
int rename(const char *old, const char *new) {
    int failed = REAL(rename)(old, new);
    NOTED(!failed && watched(new), 'R', 0, 0, old, new, strlen(new))
    return failed;
}
int unlink(const char *path) {
    int failed = REAL(unlink)(path);
    NOTED(!failed && watched(path), 'U', 0, 0, path, 0, 0)
    return failed;
}
int mkdir(const char *path, mode_t mode) {
    int failed = REAL(mkdir)(path, mode);
    NOTED(!failed && watched(path), 'M', 0, 0, path, 0, 0)
    return failed;
}
