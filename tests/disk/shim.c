/* Stands between a program and its disk: records what it writes, and fails when told to.
 *
 * Loaded by LD_PRELOAD. Looks only at what lies in the folder LIMITER_DISK_ROOT. Every call that
 * changes it or makes it durable is an operation: it is counted in the control file
 * (LIMITER_DISK_CONTROL, laid out as struct control and shared with whoever controls), it fails or
 * ends the program if the control file says so, and if it succeeds it is appended to the log
 * (LIMITER_DISK_LOG) as a struct record, the names and the bytes. The log's order is the order of
 * the calls: a lock is held across each. Without a log or a control file that part is left out. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, SYNC, TRUNCATE, MAKE_FOLDER, RENAME, UNLINK };

struct record {
    uint32_t kind;
    uint32_t durable; /* of a write: on disk when it returns */
    uint64_t offset;  /* of a write; of a truncation the size */
    uint32_t name_size;
    uint32_t other_size; /* of a renaming: the new name */
    uint64_t data_size;
};

struct control {
    int64_t count;     /* operations so far, on what `name` names */
    int64_t from;      /* the first operation that fails; 0 for none */
    int64_t until;     /* the first one after it that does not */
    int64_t error;     /* what they fail with */
    int64_t half;      /* whether half of a write is written before it fails */
    int64_t room;      /* bytes that files may grow to; 0 for any */
    int64_t ending;    /* whether they end the program instead: BEFORE or AFTER they are done */
    char name[64];     /* how the names begin that are looked at; empty for all */
};

enum { FILES_MAX = 4096 };
enum { BEFORE = 1, AFTER };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_size;
static int log_file = -1;
static struct control *control;
/* By descriptor: the name inside the root, NULL for files elsewhere; whether writes are durable. */
static char *names[FILES_MAX];
static int durables[FILES_MAX];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("LIMITER_DISK_ROOT");
    const char *log_path = getenv("LIMITER_DISK_LOG");
    const char *control_path = getenv("LIMITER_DISK_CONTROL");
    if (folder == NULL || realpath(folder, root) == NULL) {
        return;
    }
    root_size = strlen(root);
    if (log_path != NULL) {
        log_file = REAL(open)(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    if (control_path != NULL) {
        int file = REAL(open)(control_path, O_RDWR | O_CLOEXEC);
        void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        control = found == MAP_FAILED ? NULL : found;
        REAL(close)(file);
    }
}

/* The name inside the root, NULL if it lies elsewhere. The tests give absolute paths. */
static const char *inside(const char *path) {
    if (root_size == 0 || strncmp(path, root, root_size) != 0) {
        return NULL;
    }
    if (path[root_size] == 0) {
        return "";
    }
    return path[root_size] == '/' ? path + root_size + 1 : NULL;
}

static const char *name_of(int file) {
    return file >= 0 && file < FILES_MAX ? names[file] : NULL;
}

/* As kill -9 does, at this very instruction. */
static void end_program(void) {
    kill(getpid(), SIGKILL);
    pause();
}

/* Whether the operation just counted, on `name`, is one that the control file means. */
static int is_meant(const char *name) {
    return control != NULL && control->from && control->count >= control->from &&
           control->count < control->until &&
           strncmp(name, control->name, strnlen(control->name, sizeof control->name)) == 0;
}

/* Counts an operation on a file or folder; whether it has to fail, with errno set. Of a write half
 * may have to be written before. */
static int fails(const char *name, int is_write) {
    if (control == NULL ||
        strncmp(name, control->name, strnlen(control->name, sizeof control->name)) != 0) {
        return 0;
    }
    control->count += 1;
    if (!is_meant(name) || control->ending == AFTER) {
        return 0;
    }
    if (control->ending == BEFORE && !(control->half && is_write)) {
        end_program();
    }
    errno = (int)control->error;
    return 1;
}

/* The operation that was counted last is done. */
static void done(const char *name) {
    if (control != NULL && control->ending == AFTER && is_meant(name)) {
        end_program();
    }
}

/* Whether a file has no room to grow to so many bytes, with errno set. */
static int full(int file, uint64_t size) {
    struct stat found;
    if (control == NULL || control->room == 0 || size <= (uint64_t)control->room) {
        return 0;
    }
    if (fstat(file, &found) == 0 && size <= (uint64_t)found.st_size) {
        return 0;
    }
    errno = ENOSPC;
    return 1;
}

static void record(uint32_t kind, uint32_t durable, uint64_t offset, const char *name,
                   const char *other, const struct iovec *data, int count) {
    struct record head = {.kind = kind, .durable = durable, .offset = offset};
    struct iovec parts[3 + IOV_MAX];
    int place;
    if (log_file < 0) {
        return;
    }
    head.name_size = (uint32_t)strlen(name);
    head.other_size = (uint32_t)strlen(other);
    parts[0] = (struct iovec){&head, sizeof head};
    parts[1] = (struct iovec){(void *)name, head.name_size};
    parts[2] = (struct iovec){(void *)other, head.other_size};
    for (place = 0; place < count; place++) {
        head.data_size += data[place].iov_len;
        parts[3 + place] = data[place];
    }
    if (REAL(writev)(log_file, parts, 3 + count) < 0) {
        abort(); /* A recording with a hole proves nothing. */
    }
}

static int opened(int file, const char *path, int flags, int is_new) {
    const char *name = inside(path);
    if (file < 0 || name == NULL) {
        return file;
    }
    if (file >= FILES_MAX) {
        abort();
    }
    free(names[file]);
    names[file] = strdup(name);
    durables[file] = (flags & O_DSYNC) != 0;
    if (is_new) {
        record(CREATE, 0, 0, name, "", NULL, 0);
    }
    if (flags & O_TRUNC) {
        record(TRUNCATE, 0, 0, name, "", NULL, 0);
    }
    return file;
}

static int open_real(int folder, const char *path, int flags, mode_t mode) {
    int file, is_new;
    if (inside(path) == NULL) {
        return REAL(openat)(folder, path, flags, mode);
    }
    pthread_mutex_lock(&lock);
    is_new = (flags & O_CREAT) && access(path, F_OK) != 0;
    file = is_new && fails(inside(path), 0) ? -1 : REAL(openat)(folder, path, flags, mode);
    opened(file, path, flags, is_new);
    if (is_new) {
        done(inside(path));
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        va_list rest;                                               \
        mode_t mode;                                                \
        va_start(rest, flags);                                      \
        mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0;        \
        va_end(rest);                                               \
        return open_real(AT_FDCWD, path, flags, mode);              \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name)                                               \
    int name(int folder, const char *path, int flags, ...) {        \
        va_list rest;                                               \
        mode_t mode;                                                \
        va_start(rest, flags);                                      \
        mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0;        \
        va_end(rest);                                               \
        return open_real(folder, path, flags, mode);                \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

int close(int file) {
    if (name_of(file) != NULL) {
        pthread_mutex_lock(&lock);
        free(names[file]);
        names[file] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return REAL(close)(file);
}

/* Writes at an offset, or where the file stands if that is -1. */
static ssize_t put(int file, const struct iovec *data, int count, off_t offset) {
    const char *name;
    off_t at;
    size_t size = 0;
    ssize_t written;
    int place, failed;
    for (place = 0; place < count; place++) {
        size += data[place].iov_len;
    }
    pthread_mutex_lock(&lock);
    name = name_of(file);
    at = offset >= 0 ? offset : lseek(file, 0, SEEK_CUR);
    failed = fails(name, 1) || full(file, (uint64_t)at + size);
    if (failed && control->half) {
        struct iovec half = {data[0].iov_base, data[0].iov_len / 2};
        int error = errno;
        if (pwritev(file, &half, 1, at) > 0) {
            record(WRITE, (uint32_t)durables[file], (uint64_t)at, name, "", &half, 1);
        }
        if (control->ending) {
            end_program();
        }
        errno = error;
    }
    written = failed ? -1 : REAL(pwritev)(file, data, count, at);
    if (written >= 0) {
        if ((size_t)written != size) {
            abort(); /* The real disk is full: nothing is proven. */
        }
        if (offset < 0) {
            lseek(file, at + written, SEEK_SET);
        }
        record(WRITE, (uint32_t)durables[file], (uint64_t)at, name, "", data, count);
        done(name);
    }
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t write(int file, const void *data, size_t size) {
    struct iovec part = {(void *)data, size};
    return name_of(file) ? put(file, &part, 1, -1) : REAL(write)(file, data, size);
}

ssize_t writev(int file, const struct iovec *data, int count) {
    return name_of(file) ? put(file, data, count, -1) : REAL(writev)(file, data, count);
}

#define PWRITE(name)                                                                     \
    ssize_t name(int file, const void *data, size_t size, off_t offset) {                \
        struct iovec part = {(void *)data, size};                                        \
        return name_of(file) ? put(file, &part, 1, offset)                               \
                             : REAL(name)(file, data, size, offset);                     \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

static int sync_with(int (*sync_real)(int), int file) {
    int result;
    if (name_of(file) == NULL) {
        return sync_real(file);
    }
    pthread_mutex_lock(&lock);
    result = fails(names[file], 0) ? -1 : sync_real(file);
    if (result == 0) {
        record(SYNC, 0, 0, names[file], "", NULL, 0);
        done(names[file]);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int file) {
    return sync_with(REAL(fsync), file);
}

int fdatasync(int file) {
    return sync_with(REAL(fdatasync), file);
}

#define TRUNCATE_FILE(name)                                                      \
    int name(int file, off_t size) {                                             \
        int result;                                                              \
        if (name_of(file) == NULL) {                                             \
            return REAL(name)(file, size);                                       \
        }                                                                        \
        pthread_mutex_lock(&lock);                                               \
        result = fails(names[file], 0) || full(file, (uint64_t)size)             \
                     ? -1 : REAL(name)(file, size);                              \
        if (result == 0) {                                                       \
            record(TRUNCATE, 0, (uint64_t)size, names[file], "", NULL, 0);       \
            done(names[file]);                                                   \
        }                                                                        \
        pthread_mutex_unlock(&lock);                                             \
        return result;                                                           \
    }
TRUNCATE_FILE(ftruncate)
TRUNCATE_FILE(ftruncate64)

/* An operation on names: `kind` of `path`, and of `other` if it is a renaming. */
#define ON_NAMES(kind, path, other, call)                             \
    do {                                                              \
        int result;                                                   \
        if (inside(path) == NULL) {                                   \
            return call;                                              \
        }                                                             \
        pthread_mutex_lock(&lock);                                    \
        result = fails(inside(path), 0) ? -1 : call;                  \
        if (result == 0) {                                            \
            record(kind, 0, 0, inside(path), other, NULL, 0);         \
            done(inside(path));                                       \
        }                                                             \
        pthread_mutex_unlock(&lock);                                  \
        return result;                                                \
    } while (0)

int mkdir(const char *path, mode_t mode) {
    ON_NAMES(MAKE_FOLDER, path, "", REAL(mkdir)(path, mode));
}

int unlink(const char *path) {
    ON_NAMES(UNLINK, path, "", REAL(unlink)(path));
}

int rename(const char *path, const char *target) {
    ON_NAMES(RENAME, path, inside(target), REAL(rename)(path, target));
}
