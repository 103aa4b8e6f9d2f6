/* A wall clock at another rate and offset, for redis-server: LD_PRELOAD this.
 *
 * COORDKIT_CLOCK names a file with two numbers, "<rate> <offset in microseconds>", read once when the program starts.
 * CLOCK_REALTIME, gettimeofday and time then show  start + (now - start) * rate + offset.  Monotonic clocks are left
 * alone. Raw system calls, because the C library's own functions are what is replaced here.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static double rate = 1.0;
static long long offset, start;

static long long real_nanoseconds(clockid_t clock) {
  struct timespec t;
  syscall(SYS_clock_gettime, clock, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

__attribute__((constructor)) static void read_settings(void) {
  const char *path = getenv("COORDKIT_CLOCK");
  FILE *file = path ? fopen(path, "r") : NULL;
  start = real_nanoseconds(CLOCK_REALTIME);
  if (file && fscanf(file, "%lf %lld", &rate, &offset) != 2) abort();
  if (file) fclose(file);
}

static long long shown_nanoseconds(clockid_t clock) {
  long long now = real_nanoseconds(clock);
  return start + (long long)((now - start) * rate) + offset * 1000;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
  if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return (int)syscall(SYS_clock_gettime, clock, t);
  long long now = shown_nanoseconds(clock);
  t->tv_sec = now / 1000000000LL;
  t->tv_nsec = now % 1000000000LL;
  return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  (void)zone;
  long long now = shown_nanoseconds(CLOCK_REALTIME);
  t->tv_sec = now / 1000000000LL;
  t->tv_usec = now % 1000000000LL / 1000;
  return 0;
}

time_t time(time_t *t) {
  time_t now = (time_t)(shown_nanoseconds(CLOCK_REALTIME) / 1000000000LL);
  if (t) *t = now;
  return now;
}
