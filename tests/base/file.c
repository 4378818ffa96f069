/* Paths, folders, whole files, maps, locks between processes. */
#include "tests/test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/puyu-file-XXXXXX";
static pu_arena *arena;
static pu_error e;

static char *in_dir(const char *name) {
  return pu_path_join(arena, dir, name);
}

static int setup(void **state) {
  (void)state;
  memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
  assert_non_null(mkdtemp(dir));
  assert_ok(pu_arena_create(1 << 24, &arena, &e), &e);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  assert_ok(pu_remove_tree(dir, &e), &e);
  assert_false(pu_path_exists(dir));
  pu_arena_free(arena);
  return 0;
}

static void paths_join(void **state) {
  (void)state;
  assert_string_equal(pu_path_join(arena, "a", "b"), "a/b");
  assert_string_equal(pu_path_join(arena, "a/", "b"), "a/b");
  assert_string_equal(pu_path_join(arena, "a", "/b"), "/b");
  assert_string_equal(pu_path_join(arena, "", "b"), "b");
  assert_true(pu_path_exists(dir) && pu_path_is_dir(dir));
  assert_false(pu_path_exists(in_dir("nothing")));
}

/* What is being written when a stop comes is gone after it, and what was there stays. */
static void a_stop_ends_writers(void **state) {
  (void)state;
  pu_writer *w;
  assert_ok(pu_file_write(in_dir("kept"), "old", 3, &e), &e);
  pu_signals_catch_writing();
  assert_ok(pu_writer_begin(in_dir("kept"), &w, &e), &e);
  assert_ok(pu_writer_put(w, "new", 3, &e), &e);
  assert_int_equal(raise(SIGINT), 0);
  assert_int_equal(pu_writer_put(w, "more", 4, &e), PU_ERR_STOPPED);
  assert_int_equal(pu_writer_end(w, PU_OK, &e), PU_ERR_STOPPED);
  assert_string_equal(e.msg, "stopped; nothing was written");
  assert_false(pu_path_exists(in_dir("kept.tmp")));
  pu_signals_clear();
  pu_buf b;
  pu_buf_init(&b, 100);
  assert_ok(pu_file_read(in_dir("kept"), 100, &b, &e), &e);
  assert_string_equal(b.data, "old");
  pu_buf_deinit(&b);
}

static void folders_are_made_listed_and_removed(void **state) {
  (void)state;
  assert_ok(pu_mkdirs(in_dir("x/y/z"), &e), &e);
  assert_ok(pu_mkdirs(in_dir("x/y/z/"), &e), &e);
  static const char *const names[] = {"x/b", "x/a", "x/a.c", "x/y/z/deep"};
  for (size_t i = 0; i < PU_COUNT(names); i++) assert_ok(pu_file_write(in_dir(names[i]), names[i], 3, &e), &e);
  assert_int_equal(symlink("/", in_dir("x/root")), 0); /* must be removed, not followed */
  char **list;
  size_t n;
  assert_ok(pu_dir_list(arena, in_dir("x"), &list, &n, &e), &e);
  static const char *const want[] = {"a", "a.c", "b", "root", "y"};
  assert_int_equal(n, PU_COUNT(want));
  for (size_t i = 0; i < n; i++) assert_string_equal(list[i], want[i]);

  assert_int_equal(pu_mkdirs(in_dir("x/a/b"), &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "cannot make the folder"));
  assert_int_equal(pu_mkdirs("", &e), PU_ERR_USAGE);
  assert_int_equal(pu_mkdirs("/proc/nothing/x", &e), PU_ERR_IO);
  assert_string_equal(e.msg, "/proc/nothing: cannot make the folder: No such file or directory");
  if (geteuid() != 0) { /* the reason is mkdir's own, not that nothing is there */
    assert_int_equal(chmod(in_dir("x/y"), 0500), 0);
    assert_int_equal(pu_mkdirs(in_dir("x/y/new"), &e), PU_ERR_IO);
    assert_non_null(strstr(e.msg, "Permission denied"));
    assert_int_equal(chmod(in_dir("x/y"), 0700), 0);
  }
  assert_int_equal(pu_dir_list(arena, in_dir("x/a"), &list, &n, &e), PU_ERR_IO);
  assert_ok(pu_remove_tree(in_dir("x"), &e), &e);
  assert_false(pu_path_exists(in_dir("x")));
  assert_true(pu_path_is_dir("/tmp"));
  assert_ok(pu_remove_tree(in_dir("x"), &e), &e);

  pu_arena *small;
  assert_ok(pu_arena_create(8, &small, &e), &e);
  assert_ok(pu_file_write(in_dir("a-name-of-some-length"), "", 0, &e), &e);
  assert_int_equal(pu_dir_list(small, dir, &list, &n, &e), PU_ERR_NOMEM);
  pu_arena_free(small);
}

static void files_are_read_up_to_a_limit(void **state) {
  (void)state;
  const char *path = in_dir("f");
  assert_ok(pu_file_write(path, "12345678", 8, &e), &e);
  pu_buf b;
  pu_buf_init(&b, 8);
  assert_ok(pu_file_read(path, 8, &b, &e), &e);
  assert_string_equal(b.data, "12345678");
  assert_ok(pu_file_read(path, 100, &b, &e), &e); /* what it held is dropped */
  assert_int_equal(b.len, 8);
  assert_int_equal(pu_file_read(path, 7, &b, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, ": 8 bytes, larger than the limit of 7"));
  assert_int_equal(pu_file_read(dir, 7, &b, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "is a folder"));
  assert_int_equal(pu_file_read(in_dir("none"), 7, &b, &e), PU_ERR_IO);
  assert_int_equal(pu_file_read("/dev/zero", 8, &b, &e), PU_ERR_FORMAT); /* no size to be known beforehand */
  assert_ok(pu_file_read("/dev/null", 8, &b, &e), &e);
  assert_int_equal(b.len, 0);
  pu_buf_deinit(&b);
  pu_buf_init(&b, 4);
  assert_int_equal(pu_file_read(path, 8, &b, &e), PU_ERR_NOMEM);
  pu_buf_deinit(&b);
}

static void files_are_written_whole(void **state) {
  (void)state;
  const char *path = in_dir("f");
  assert_ok(pu_file_write(path, "first", 5, &e), &e);
  assert_ok(pu_file_write(path, "second!", 7, &e), &e);
  assert_false(pu_path_exists(in_dir("f.tmp")));
  struct stat before, after;
  assert_int_equal(stat("/dev/null", &before), 0);
  assert_ok(pu_file_write("/dev/null", "x", 1, &e), &e); /* written into, not replaced */
  assert_int_equal(stat("/dev/null", &after), 0);
  assert_true(S_ISCHR(after.st_mode) && before.st_ino == after.st_ino);
  assert_int_equal(pu_file_write("/dev/full", "x", 1, &e), PU_ERR_IO);
  assert_string_equal(e.msg,
                      "/dev/full: cannot write: No space left on device: make room there, or write to another disk");
  /* The temporary name is taken by a folder: the old file stays. */
  assert_ok(pu_mkdirs(in_dir("f.tmp"), &e), &e);
  assert_int_equal(pu_file_write(path, "third", 5, &e), PU_ERR_IO);
  assert_null(strstr(e.msg, ".tmp")); /* a name that the user never gave */
  pu_map m;
  assert_ok(pu_map_open(path, &m, &e), &e);
  assert_int_equal(m.len, 7);
  assert_memory_equal(m.data, "second!", 7);
  pu_map_close(&m);
  assert_null(m.data);
  assert_int_equal(pu_file_write(in_dir("no/such/folder"), "x", 1, &e), PU_ERR_IO);
  assert_int_equal(pu_fsync_dir(in_dir("none"), &e), PU_ERR_IO);
  assert_ok(pu_remove_tree(in_dir("f.tmp"), &e), &e);
  assert_ok(pu_file_write(path, "", 0, &e), &e);
  assert_ok(pu_map_open(path, &m, &e), &e);
  assert_true(m.data == NULL && m.len == 0);
  pu_map_close(&m);
  assert_int_equal(pu_map_open(dir, &m, &e), PU_ERR_IO);
  assert_int_equal(pu_map_open(in_dir("none"), &m, &e), PU_ERR_IO);
}

static void half_a_file_is_none(void **state) {
  (void)state;
  pu_buf b;
  pu_buf_init(&b, 64);
  assert_ok(pu_file_write(in_dir("f"), "old", 3, &e), &e);
  pu_writer *w;
  assert_ok(pu_writer_begin(in_dir("f"), &w, &e), &e);
  assert_ok(pu_writer_put(w, "half", 4, &e), &e);
  assert_int_equal(pu_writer_end(w, PU_ERR_FORMAT, &e), PU_ERR_FORMAT);
  assert_false(pu_path_exists(in_dir("f.tmp")));
  assert_ok(pu_file_read(in_dir("f"), 64, &b, &e), &e);
  assert_string_equal(b.data, "old");
  pu_buf_deinit(&b);
}

static void a_relative_path_has_a_folder_too(void **state) {
  (void)state;
  int here = open(".", O_RDONLY | O_DIRECTORY);
  assert_int_equal(chdir(dir), 0);
  assert_ok(pu_file_write("plain", "x", 1, &e), &e);
  assert_true(pu_path_exists(in_dir("plain")));
  assert_int_equal(fchdir(here), 0);
  close(here);
}

/* A child holds the lock until the pipe closes. */
static void locks_hold_between_processes(void **state) {
  (void)state;
  const char *path = in_dir("claimed");
  int ready[2], done[2];
  assert_int_equal(pipe(ready), 0);
  assert_int_equal(pipe(done), 0);
  pid_t child = fork();
  if (child == 0) {
    pu_claim *own;
    char c = pu_claim_open(path, "lock", &own, &e) == PU_OK ? 'y' : 'n';
    close(done[1]);
    if (write(ready[1], &c, 1) != 1 || read(done[0], &c, 1) != 0) _exit(1);
    _exit(0);
  }
  char c = 0;
  assert_int_equal(read(ready[0], &c, 1), 1);
  assert_int_equal(c, 'y');
  pu_claim *claim, *second;
  assert_int_equal(pu_claim_open(path, "lock", &claim, &e), PU_ERR_IO);
  assert_null(claim);
  char want[256];
  snprintf(want, sizeof want, "%s/lock: locked by process %d: wait for it, or end it", path, (int)child);
  assert_string_equal(e.msg, want);
  close(done[0]);
  close(done[1]);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  assert_ok(pu_claim_open(path, "lock", &claim, &e), &e);                /* freed by exit */
  assert_int_equal(pu_claim_open(path, "lock", &second, &e), PU_ERR_IO); /* within one process too */
  pu_claim_close(claim);
  assert_true(pu_path_exists(in_dir("claimed/lock"))); /* the child made it */
  assert_ok(pu_file_write(in_dir("plain"), "x", 1, &e), &e);
  assert_int_equal(pu_claim_open(in_dir("plain"), "lock", &claim, &e), PU_ERR_IO);
  close(ready[0]);
  close(ready[1]);
}

/* Work that never began takes away what was made for it, and nothing else. */
static void claims_leave_no_trace(void **state) {
  (void)state;
  pu_claim *c;
  assert_ok(pu_mkdirs(in_dir("above"), &e), &e);
  assert_ok(pu_claim_open(in_dir("above/a/b//"), "lock", &c, &e), &e);
  assert_true(pu_path_exists(in_dir("above/a/b/lock")));
  pu_claim_close(c);
  assert_true(pu_path_is_dir(in_dir("above")));
  assert_false(pu_path_exists(in_dir("above/a")));
  assert_ok(pu_claim_open(in_dir("above"), "lock", &c, &e), &e);
  pu_claim_close(c);
  assert_true(pu_path_is_dir(in_dir("above")));
  assert_false(pu_path_exists(in_dir("above/lock")));
  assert_ok(pu_claim_open(in_dir("above/a/b"), "lock", &c, &e), &e);
  assert_ok(pu_file_write(in_dir("above/a/b/work"), "x", 1, &e), &e);
  pu_claim_close(c);
  assert_true(pu_path_exists(in_dir("above/a/b/lock")) && pu_path_exists(in_dir("above/a/b/work")));
  pu_claim_close(NULL);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(paths_join),
      T(a_stop_ends_writers),
      T(folders_are_made_listed_and_removed),
      T(files_are_read_up_to_a_limit),
      T(files_are_written_whole),
      T(half_a_file_is_none),
      T(a_relative_path_has_a_folder_too),
      T(locks_hold_between_processes),
      T(claims_leave_no_trace),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
