// Preloaded, it takes locks and fsync of folders away, as some file systems do.
// gcc -shared -fPIC -o unsupported.so unsupported.c -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/stat.h>

int flock(int fd, int operation) {
  errno = ENOSYS;
  return -1;
}

static int is_lock(int command) {
  return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK ||
         command == F_OFD_SETLKW;
}

#define FCNTL(name)                                                   \
  int name(int fd, int command, ...) {                                \
    va_list list;                                                     \
    va_start(list, command);                                          \
    void *argument = va_arg(list, void *);                            \
    va_end(list);                                                     \
    if (is_lock(command)) {                                           \
      errno = ENOLCK;                                                 \
      return -1;                                                      \
    }                                                                 \
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, #name);             \
    return real(fd, command, argument);                               \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

int fsync(int fd) {
  struct stat info;
  if (!fstat(fd, &info) && S_ISDIR(info.st_mode)) {
    errno = EINVAL;
    return -1;
  }
  int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
  return real(fd);
}
