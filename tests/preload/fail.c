// Makes operations fail that work: the Nth of a kind, or all from it on, on files of the test's directory (that of
// the control page) and in SQLite's own memory.
//
// The test arms and disarms through the page (tests/nth_failure.rs names the same numbers), so a server need not start
// anew for each fault. What fails is never done, but for a short write, of which a half is. The functions of the
// kernel that rustix calls without libc (statvfs, flock, renameat2) do not come by here.
//
// Only SQLite's memory runs out: a call of malloc or realloc fails where it comes from sqlite3MemMalloc or
// sqlite3MemRealloc, which are looked up in the symbols of the program.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum word {
  ARMED,      // 1: the rest is valid
  KINDS,      // a mask of `enum kind`
  NTH,        // which operation fails, from 1
  MODE,       // 0: that one only, 1: all from it on
  ERROR,      // the errno
  SHORT,      // 1: a write that fails writes a half; what follows in it fails too if MODE is 1, or SHORT is 2
  THREADS,    // a mask of `enum thread`
  COUNT,      // such operations since it was armed
  HIT,        // how many of them failed
  READY,      // 1: the library is loaded, 2: and has found SQLite's memory
  TOTALS = 16 // operations of each kind since the start
};

enum kind { READ, WRITE, SYNC, TRUNCATE, ALLOCATE, OPEN, MAP, UNLINK, MEMORY, STAT };

enum thread { MAIN, CONNECTION, WRITER, CHECKPOINTER, HOUSEKEEPER, OTHER };

#define FILES_MAX 65536

static _Atomic uint64_t *page;
static char root[4096];
static size_t root_length;
static _Atomic bool is_ours[FILES_MAX];
static uintptr_t memory[2][2];
// The next write of this thread fails, too: it is what is left of one that was short.
static __thread bool rest_fails;

extern void *__libc_malloc(size_t);
extern void *__libc_realloc(void *, size_t);

#define REAL(name) ((__typeof__(&name))real_##name)
#define DECLARE(name) static void *real_##name
DECLARE(open);
DECLARE(open64);
DECLARE(close);
DECLARE(read);
DECLARE(write);
DECLARE(pread64);
DECLARE(pwrite64);
DECLARE(fsync);
DECLARE(fdatasync);
DECLARE(ftruncate64);
DECLARE(fallocate64);
DECLARE(posix_fallocate64);
DECLARE(mmap64);
DECLARE(mremap);
DECLARE(unlink);
DECLARE(rename);
DECLARE(fstat);
DECLARE(fstat64);

static void find_memory(void) {
  int file = REAL(open64)("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (file < 0 || REAL(fstat)(file, &status) != 0) return;
  const char *exe = REAL(mmap64)(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  REAL(close)(file);
  if (exe == MAP_FAILED) return;
  const Elf64_Ehdr *head = (const Elf64_Ehdr *)exe;
  const Elf64_Shdr *sections = (const Elf64_Shdr *)(exe + head->e_shoff);
  // The program comes first, and its addresses begin where it was loaded.
  struct link_map *program = NULL;
  void *handle = dlopen(NULL, RTLD_LAZY);
  if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &program) != 0) return;
  for (int i = 0; i < head->e_shnum; i++) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const Elf64_Sym *symbols = (const Elf64_Sym *)(exe + sections[i].sh_offset);
    const char *names = exe + sections[sections[i].sh_link].sh_offset;
    for (size_t at = 0; at < sections[i].sh_size / sizeof *symbols; at++) {
      const char *name = names + symbols[at].st_name;
      int which = !strcmp(name, "sqlite3MemMalloc") ? 0 : !strcmp(name, "sqlite3MemRealloc") ? 1 : -1;
      if (which < 0) continue;
      memory[which][0] = program->l_addr + symbols[at].st_value;
      memory[which][1] = memory[which][0] + symbols[at].st_size;
    }
  }
  munmap((void *)exe, (size_t)status.st_size);
}

static void find(void) {
#define FIND(name) real_##name = dlsym(RTLD_NEXT, #name)
  FIND(open);
  FIND(open64);
  FIND(close);
  FIND(read);
  FIND(write);
  FIND(pread64);
  FIND(pwrite64);
  FIND(fsync);
  FIND(fdatasync);
  FIND(ftruncate64);
  FIND(fallocate64);
  FIND(posix_fallocate64);
  FIND(mmap64);
  FIND(mremap);
  FIND(unlink);
  FIND(rename);
  FIND(fstat);
  FIND(fstat64);
}

__attribute__((constructor)) static void start(void) {
  find();
  const char *control = getenv("CACHESRV_PRELOAD_CONTROL");
  if (!control) return;
  snprintf(root, sizeof root, "%s", control);
  int file = REAL(open64)(control, O_RDWR | O_CLOEXEC);
  // cachesrv refuses variables that it does not know.
  unsetenv("CACHESRV_PRELOAD_CONTROL");
  char *end = strrchr(root, '/');
  if (!end) return;
  *end = 0;
  root_length = strlen(root);
  if (file < 0) return;
  void *mapped = REAL(mmap64)(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  REAL(close)(file);
  if (mapped == MAP_FAILED) return;
  find_memory();
  page = mapped;
  page[READY] = memory[0][0] && memory[1][0] ? 2 : 1;
}

static int thread_kind(void) {
  static __thread int known = -1;
  if (known >= 0) return known;
  char name[16] = "";
  prctl(PR_GET_NAME, name);
  if (getpid() == gettid()) return known = MAIN;
  if (!strncmp(name, "conn-", 5)) return known = CONNECTION;
  if (!strcmp(name, "writer")) return known = WRITER;
  if (!strcmp(name, "checkpointer")) return known = CHECKPOINTER;
  if (!strcmp(name, "housekeeper")) return known = HOUSEKEEPER;
  // A thread has its name soon after its start, and not before.
  return OTHER;
}

// Whether the operation at hand is the one, or one of those, that fail.
static bool fails(enum kind kind) {
  if (!page) return false;
  atomic_fetch_add(&page[TOTALS + kind], 1);
  if (!page[ARMED] || !(page[KINDS] >> kind & 1) || !(page[THREADS] >> thread_kind() & 1)) return false;
  uint64_t count = atomic_fetch_add(&page[COUNT], 1) + 1;
  if (page[MODE] ? count < page[NTH] : count != page[NTH]) return false;
  atomic_fetch_add(&page[HIT], 1);
  errno = (int)page[ERROR];
  return true;
}

static bool is_in_root(const char *path) {
  if (!root_length || !path) return false;
  if (path[0] == '/') return !strncmp(path, root, root_length) && path[root_length] == '/';
  char here[4096];
  return getcwd(here, sizeof here) && !strncmp(here, root, root_length);
}

// The directory itself is one of its files: it is opened to be synced.
static bool is_ours_by_name(const char *path) { return is_in_root(path) || (path && !strcmp(path, root)); }

static bool is_file(int file) { return file >= 0 && file < FILES_MAX && is_ours[file]; }

static int note(int file, bool ours) {
  if (file >= 0 && file < FILES_MAX) is_ours[file] = ours;
  return file;
}

#define OPEN_AS(name)                                                   \
  int name(const char *path, int flags, ...) {                          \
    mode_t mode = 0;                                                    \
    if (flags & (O_CREAT | O_TMPFILE)) {                                \
      va_list rest;                                                     \
      va_start(rest, flags);                                            \
      mode = va_arg(rest, mode_t);                                      \
      va_end(rest);                                                     \
    }                                                                   \
    if (!real_##name) find();                                           \
    bool ours = is_ours_by_name(path);                                  \
    if (ours && fails(OPEN)) return -1;                                 \
    return note(REAL(name)(path, flags, mode), ours);                   \
  }
OPEN_AS(open)
OPEN_AS(open64)

int close(int file) {
  if (!real_close) find();
  note(file, false);
  return REAL(close)(file);
}

ssize_t read(int file, void *into, size_t count) {
  if (is_file(file) && fails(READ)) return -1;
  return REAL(read)(file, into, count);
}

ssize_t pread64(int file, void *into, size_t count, off64_t at) {
  if (is_file(file) && fails(READ)) return -1;
  return REAL(pread64)(file, into, count, at);
}

// How much of a write is done: all, a half, or nothing, which is an error.
static size_t written(int file, size_t count) {
  if (!is_file(file)) return count;
  bool is_rest = rest_fails;
  rest_fails = false;
  if (is_rest) {
    errno = (int)page[ERROR];
    return 0;
  }
  if (!fails(WRITE)) return count;
  if (!page[SHORT] || (page[MODE] && page[HIT] > 1)) return 0;
  // One byte has no half.
  if (count < 2) return page[SHORT] == 1 ? count : 0;
  rest_fails = page[SHORT] == 2;
  return count / 2;
}

ssize_t write(int file, const void *from, size_t count) {
  size_t some = count ? written(file, count) : 0;
  return count && !some ? -1 : REAL(write)(file, from, some);
}

ssize_t pwrite64(int file, const void *from, size_t count, off64_t at) {
  size_t some = count ? written(file, count) : 0;
  return count && !some ? -1 : REAL(pwrite64)(file, from, some, at);
}

int fsync(int file) { return is_file(file) && fails(SYNC) ? -1 : REAL(fsync)(file); }

int fdatasync(int file) { return is_file(file) && fails(SYNC) ? -1 : REAL(fdatasync)(file); }

int ftruncate64(int file, off64_t length) {
  return is_file(file) && fails(TRUNCATE) ? -1 : REAL(ftruncate64)(file, length);
}

int fallocate64(int file, int mode, off64_t at, off64_t length) {
  return is_file(file) && fails(ALLOCATE) ? -1 : REAL(fallocate64)(file, mode, at, length);
}

int posix_fallocate64(int file, off64_t at, off64_t length) {
  return is_file(file) && fails(ALLOCATE) ? errno : REAL(posix_fallocate64)(file, at, length);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t at) {
  if (is_file(file) && fails(MAP)) return MAP_FAILED;
  if (!real_mmap64) find();
  return REAL(mmap64)(address, length, protection, flags, file, at);
}

// Used for mapped files only; what it enlarges has no descriptor.
void *mremap(void *address, size_t old_length, size_t new_length, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  void *there = flags & MREMAP_FIXED ? va_arg(rest, void *) : NULL;
  va_end(rest);
  if (fails(MAP)) return MAP_FAILED;
  return REAL(mremap)(address, old_length, new_length, flags, there);
}

int unlink(const char *path) {
  if (!real_unlink) find();
  return is_in_root(path) && fails(UNLINK) ? -1 : REAL(unlink)(path);
}

int rename(const char *from, const char *to) {
  if (!real_rename) find();
  return is_in_root(from) && fails(UNLINK) ? -1 : REAL(rename)(from, to);
}

int fstat(int file, struct stat *status) {
  if (!real_fstat) find();
  return is_file(file) && fails(STAT) ? -1 : REAL(fstat)(file, status);
}

int fstat64(int file, struct stat64 *status) {
  if (!real_fstat64) find();
  return is_file(file) && fails(STAT) ? -1 : REAL(fstat64)(file, status);
}

static bool is_sqlite(void *caller) {
  uintptr_t at = (uintptr_t)caller;
  for (int which = 0; which < 2; which++)
    if (at > memory[which][0] && at <= memory[which][1]) return true;
  return false;
}

void *malloc(size_t size) {
  if (is_sqlite(__builtin_return_address(0)) && fails(MEMORY)) return NULL;
  return __libc_malloc(size);
}

void *realloc(void *old, size_t size) {
  if (is_sqlite(__builtin_return_address(0)) && fails(MEMORY)) return NULL;
  return __libc_realloc(old, size);
}
