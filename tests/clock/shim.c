/* Stands between a program and the wall clock: steps it, or has it stand, when told to.
 *
 * Loaded by LD_PRELOAD. The control file (LIMITER_CLOCK_CONTROL, laid out as struct control and
 * shared with whoever controls) says by how much the clock is off and where it stands. Only the
 * wall clock is touched: the clocks that count from the start of the machine tell the truth. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SECOND_NS = 1000000000 };

struct control {
    int64_t offset_ns; /* is added to the wall clock */
    int64_t stands_ns; /* where it stands, its offset included; 0 for where it is */
};

static const volatile struct control *control;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("LIMITER_CLOCK_CONTROL");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *found = MAP_FAILED;
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (file >= 0) {
        found = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    control = found == MAP_FAILED ? NULL : found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed;
    if (real_gettime == NULL) {
        begin();
    }
    failed = real_gettime(clock, now);
    if (!failed && control != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t stands_ns = control->stands_ns;
        int64_t now_ns = (int64_t)now->tv_sec * SECOND_NS + now->tv_nsec + control->offset_ns;
        now_ns = stands_ns ? stands_ns : now_ns;
        now->tv_sec = now_ns / SECOND_NS;
        now->tv_nsec = now_ns % SECOND_NS;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    (void)zone;
    if (!failed) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return failed;
}

time_t time(time_t *seconds) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) {
        return (time_t)-1;
    }
    if (seconds != NULL) {
        *seconds = exact.tv_sec;
    }
    return exact.tv_sec;
}
