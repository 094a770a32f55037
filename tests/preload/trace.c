// Writes down, in their order, all calls by which the program under test changes the files of one directory, so
// that a test can say what a disk holds that lost power between any two of them.
//
// CACHESRV_TRACE_DIR     the directory: its files and their names are traced, but no "-shm", which is memory
// CACHESRV_TRACE_LOG     the log: records of four numbers, some followed by bytes; see tests/support/trace.rs
// CACHESRV_PRELOAD_CONTROL  number 0 is how many records there are; at record number 1, if that is not 0, the
//                           process kills itself, when the call is done and before the program knows
//
// Each call and its record are one step under a lock that all traced processes share. A sync is two records: what
// was written before the first is on the disk from the second on. After a kill nobody can be traced with this page.
//
// Names are not followed by the calls that change them, some of which go to the kernel directly: the directory is
// listed after each call that may have changed it and before each sync of it, and a listing that differs from the
// one before is a record.

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, LENGTH, NAMES, SYNC_BEGINS, SYNC_ENDS };

#define FILES_MAX 4096
#define LISTING_MAX 8192

// What all traced processes share: the page of numbers. The lock is behind the first three.
struct shared {
    uint64_t records;
    uint64_t last_record;
    uint64_t is_made;
    pthread_mutex_t lock;
};

static struct shared *shared;
static int log_file = -1;
static char directory[4096];
static ino_t directory_inode;
// The inode behind each descriptor that is traced.
static uint64_t inodes[FILES_MAX];

static void fail(const char *what) {
    fprintf(stderr, "trace.c: %s: %s\n", what, strerror(errno));
    abort();
}

// The function of libc that has this name.
#define REAL(name, result, ...)                                                                                        \
    static result (*real)(__VA_ARGS__);                                                                                \
    if (!real && !(real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)))                                             \
        fail(name)

__attribute__((constructor)) static void begin(void) {
    const char *control = getenv("CACHESRV_PRELOAD_CONTROL");
    const char *log = getenv("CACHESRV_TRACE_LOG");
    const char *dir = getenv("CACHESRV_TRACE_DIR");
    struct stat status;
    if (!control || !log || !dir || !realpath(dir, directory) || stat(directory, &status))
        fail("the variables");
    directory_inode = status.st_ino;
    int page = open(control, O_RDWR | O_CLOEXEC);
    log_file = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (page < 0 || log_file < 0 || flock(page, LOCK_EX))
        fail("the page and the log");
    struct shared *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
    if (mapped == MAP_FAILED)
        fail("the page");
    if (!mapped->is_made) {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutex_init(&mapped->lock, &attributes);
        mapped->is_made = 1;
    }
    // The mapping keeps the file open, and its lock.
    flock(page, LOCK_UN);
    close(page);
    // The program refuses variables of its own that it does not know.
    unsetenv("CACHESRV_PRELOAD_CONTROL");
    unsetenv("CACHESRV_TRACE_LOG");
    unsetenv("CACHESRV_TRACE_DIR");
    shared = mapped;
}

static void record(uint64_t kind, uint64_t inode, uint64_t offset, const void *bytes, uint64_t length) {
    uint64_t head[4] = {kind, inode, offset, bytes ? length : 0};
    struct iovec parts[2] = {{head, sizeof head}, {(void *)bytes, bytes ? length : 0}};
    REAL("writev", ssize_t, int, const struct iovec *, int);
    if (real(log_file, parts, 2) != (ssize_t)(sizeof head + parts[1].iov_len))
        fail("write the log");
    if (__atomic_add_fetch(&shared->records, 1, __ATOMIC_SEQ_CST) == shared->last_record)
        kill(getpid(), SIGKILL);
}

static void lock(void) {
    if (pthread_mutex_lock(&shared->lock))
        fail("lock");
}

static void unlock(void) {
    int error = errno;
    pthread_mutex_unlock(&shared->lock);
    errno = error;
}

static int is_index(const char *name) {
    size_t length = strlen(name);
    return length > 4 && !strcmp(name + length - 4, "-shm");
}

// Takes down the names of the directory. Under the lock.
static void list(void) {
    char listing[LISTING_MAX];
    size_t length = 0;
    DIR *all = opendir(directory);
    if (!all)
        fail("list the directory");
    for (struct dirent *entry; (entry = readdir(all));) {
        if (entry->d_name[0] == '.' || is_index(entry->d_name))
            continue;
        int printed = snprintf(listing + length, sizeof listing - length, "%lu %s\n", entry->d_ino, entry->d_name);
        if (printed < 0 || (length += printed) >= sizeof listing)
            fail("too many names");
    }
    closedir(all);
    record(NAMES, directory_inode, 0, listing, length);
}

// Remembers a descriptor whose file is traced.
static int opened(int file, int flags) {
    char link[64], path[4096];
    struct stat status;
    if (!shared || file < 0 || file >= FILES_MAX)
        return file;
    int error = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t prefix = strlen(directory);
    if (length > 0) {
        path[length] = 0;
        int is_below = !strncmp(path, directory, prefix) && path[prefix] == '/' && !strchr(path + prefix + 1, '/');
        if (!strcmp(path, directory) || (is_below && !is_index(path))) {
            if (fstat(file, &status))
                fail("stat");
            inodes[file] = status.st_ino;
            if (flags & O_CREAT)
                list();
            if (flags & O_TRUNC)
                record(LENGTH, status.st_ino, 0, NULL, 0);
        }
    }
    errno = error;
    return file;
}

static uint64_t inode_of(int file) {
    return shared && file >= 0 && file < FILES_MAX ? inodes[file] : 0;
}

#define OPENS(name, parameters, arguments, ...)                                                                        \
    int name parameters {                                                                                              \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                                         \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            mode = va_arg(rest, mode_t);                                                                               \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        REAL(#name, int, __VA_ARGS__);                                                                                 \
        int is_change = shared && flags & (O_CREAT | O_TRUNC);                                                         \
        if (is_change)                                                                                                 \
            lock();                                                                                                    \
        int file = opened(real arguments, flags);                                                                      \
        if (is_change)                                                                                                 \
            unlock();                                                                                                  \
        return file;                                                                                                   \
    }

OPENS(open, (const char *path, int flags, ...), (path, flags, mode), const char *, int, ...)
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode), const char *, int, ...)
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), int, const char *, int, ...)
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), int, const char *, int, ...)

int close(int file) {
    REAL("close", int, int);
    if (file >= 0 && file < FILES_MAX)
        inodes[file] = 0;
    return real(file);
}

// A descriptor that is copied is traced like the first.
static int copied(int file, int copy) {
    if (copy >= 0 && copy < FILES_MAX)
        inodes[copy] = inode_of(file);
    return copy;
}

int fcntl64(int file, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    REAL("fcntl64", int, int, int, ...);
    int result = real(file, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(file, result) : result;
}

int fcntl(int file, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    REAL("fcntl", int, int, int, ...);
    int result = real(file, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(file, result) : result;
}

static ssize_t wrote(int file, const void *bytes, ssize_t written, int64_t offset) {
    if (written > 0)
        record(WRITE, inode_of(file), offset, bytes, written);
    return written;
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) {
    REAL("pwrite64", ssize_t, int, const void *, size_t, off64_t);
    if (!inode_of(file))
        return real(file, bytes, length, offset);
    lock();
    ssize_t written = wrote(file, bytes, real(file, bytes, length, offset), offset);
    unlock();
    return written;
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) {
    return pwrite64(file, bytes, length, offset);
}

ssize_t write(int file, const void *bytes, size_t length) {
    REAL("write", ssize_t, int, const void *, size_t);
    if (!inode_of(file))
        return real(file, bytes, length);
    lock();
    int64_t offset = lseek(file, 0, SEEK_CUR);
    ssize_t written = wrote(file, bytes, real(file, bytes, length), offset);
    unlock();
    return written;
}

// What nobody does to a traced file is not modelled: should somebody begin to, the test must learn it.
#define NOT_TRACED(file, name)                                                                                         \
    if (inode_of(file))                                                                                                \
    fail(name " of a traced file")

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL("writev", ssize_t, int, const struct iovec *, int);
    NOT_TRACED(file, "writev");
    return real(file, parts, count);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset) {
    REAL("pwritev", ssize_t, int, const struct iovec *, int, off_t);
    NOT_TRACED(file, "pwritev");
    return real(file, parts, count, offset);
}

ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset) {
    REAL("pwritev64", ssize_t, int, const struct iovec *, int, off64_t);
    NOT_TRACED(file, "pwritev64");
    return real(file, parts, count, offset);
}

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t length, unsigned flags) {
    REAL("copy_file_range", ssize_t, int, off64_t *, int, off64_t *, size_t, unsigned);
    NOT_TRACED(to, "copy_file_range");
    return real(from, from_offset, to, to_offset, length, flags);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t offset) {
    REAL("mmap64", void *, void *, size_t, int, int, int, off64_t);
    if (protection & PROT_WRITE && flags & MAP_SHARED && !(flags & MAP_ANONYMOUS))
        NOT_TRACED(file, "a writable mapping");
    return real(address, length, protection, flags, file, offset);
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    return mmap64(address, length, protection, flags, file, offset);
}

int fallocate64(int file, int mode, off64_t offset, off64_t length) {
    REAL("fallocate64", int, int, int, off64_t, off64_t);
    NOT_TRACED(file, "fallocate");
    return real(file, mode, offset, length);
}

int posix_fallocate64(int file, off64_t offset, off64_t length) {
    REAL("posix_fallocate64", int, int, off64_t, off64_t);
    NOT_TRACED(file, "posix_fallocate");
    return real(file, offset, length);
}

int ftruncate64(int file, off64_t length) {
    REAL("ftruncate64", int, int, off64_t);
    if (!inode_of(file))
        return real(file, length);
    lock();
    int failed = real(file, length);
    if (!failed)
        record(LENGTH, inode_of(file), length, NULL, 0);
    unlock();
    return failed;
}

int ftruncate(int file, off_t length) {
    return ftruncate64(file, length);
}

static int synced(int file, int (*real)(int)) {
    uint64_t inode = inode_of(file);
    if (!inode)
        return real(file);
    lock();
    if (inode == directory_inode)
        list();
    uint64_t number = shared->records;
    record(SYNC_BEGINS, inode, number, NULL, 0);
    unlock();
    // Others write meanwhile.
    int failed = real(file);
    lock();
    if (!failed)
        record(SYNC_ENDS, inode, number, NULL, 0);
    unlock();
    return failed;
}

int fsync(int file) {
    REAL("fsync", int, int);
    return synced(file, real);
}

int fdatasync(int file) {
    REAL("fdatasync", int, int);
    return synced(file, real);
}

#define RENAMES(name, parameters, arguments, ...)                                                                      \
    int name parameters {                                                                                              \
        REAL(#name, int, __VA_ARGS__);                                                                                 \
        if (!shared)                                                                                                   \
            return real arguments;                                                                                     \
        lock();                                                                                                        \
        int failed = real arguments;                                                                                   \
        int error = errno;                                                                                             \
        list();                                                                                                        \
        errno = error;                                                                                                 \
        unlock();                                                                                                      \
        return failed;                                                                                                 \
    }

RENAMES(rename, (const char *from, const char *to), (from, to), const char *, const char *)
RENAMES(renameat, (int at, const char *from, int into, const char *to), (at, from, into, to), int, const char *, int,
        const char *)
RENAMES(link, (const char *from, const char *to), (from, to), const char *, const char *)
RENAMES(unlink, (const char *path), (path), const char *)
RENAMES(unlinkat, (int at, const char *path, int flags), (at, path, flags), int, const char *, int)
