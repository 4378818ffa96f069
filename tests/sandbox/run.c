/* Runs: what programs get, what comes back, limits and orders of the caller, threads; and that a wall that cannot be
 * had stops all. Ways out are in escapes.c. */
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#include "tests/sandbox/sandbox.h"

/* ---- programs that behave ---- */

static void test_python(void **state) {
  (void)state;
  python("print(2 + 2)");
  ends_with(PU_SANDBOX_EXIT, 0);
  assert_string_equal(text_of(&r.out), "4\n");
  assert_int_equal(r.err.len, 0);
}

static void test_streams(void **state) {
  (void)state;
  assert_ok(run_words(NULL, "a\nb\n", WORDS("sh", "-c", "cat; echo dropped > /dev/null; echo wrong >&2; exit 3")),
            &err);
  ends_with(PU_SANDBOX_EXIT, 3);
  assert_string_equal(text_of(&r.out), "a\nb\n");
  assert_string_equal(text_of(&r.err), "wrong\n");
  assert_ok(run_words(NULL, NULL, WORDS("cat")), &err); /* no input is its end */
  ends_with(PU_SANDBOX_EXIT, 0);
  assert_int_equal(r.out.len, 0);
  /* by their names, too */
  assert_ok(run_words(NULL, "in", WORDS("sh", "-c", "cat /dev/stdin > /dev/stdout; echo e > /dev/stderr")), &err);
  assert_string_equal(text_of(&r.out), "in");
  assert_string_equal(text_of(&r.err), "e\n");
}

/* Any bytes, more than a pipe holds, on both at once. */
static void test_bytes(void **state) {
  (void)state;
  const char *argv[] = {"sh", "-c", "tee /dev/stderr", NULL};
  size_t n = 400000;
  char *bytes = malloc(n);
  for (size_t i = 0; i < n; i++) bytes[i] = (char)pu_random_at(1, 2, i);
  pu_sandbox_job job = {.argv = argv, .input = pu_str_of(bytes, n), .limits = pu_sandbox_defaults()};
  pu_sandbox_result_deinit(&r);
  assert_ok(pu_sandbox_run(&job, NULL, &r, &err), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
  assert_int_equal(r.out.len, n);
  assert_memory_equal(r.out.data, bytes, n);
  assert_int_equal(r.err.len, n);
  assert_memory_equal(r.err.data, bytes, n);
  /* Output that is just what is kept is no limit that was passed. */
  job.limits.output = 2 * n;
  pu_sandbox_result_deinit(&r);
  assert_ok(pu_sandbox_run(&job, NULL, &r, &err), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
  job.limits.output = 2 * n - 1;
  pu_sandbox_result_deinit(&r);
  assert_ok(pu_sandbox_run(&job, NULL, &r, &err), &err);
  ends_with(PU_SANDBOX_OUTPUT, 0);
  assert_int_equal(r.out.len + r.err.len, 2 * n - 1);
  free(bytes);
}

static void test_surroundings(void **state) {
  (void)state;
  assert_ok(run_words(NULL, NULL, WORDS("sh", "-c", "pwd; id -u; id -un; hostname; echo ~; env | sort")), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
  assert_string_equal(text_of(&r.out),
                      "/tmp\n1000\nuser\nsandbox\n/tmp\nHOME=/tmp\nLANG=C.UTF-8\nLC_ALL=C.UTF-8\nMALLOC_ARENA_MAX=2\n"
                      "OMP_NUM_THREADS=1\nOPENBLAS_NUM_THREADS=1\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD=/tmp\n"
                      "PYTHONUNBUFFERED=1\nTERM=dumb\nTMPDIR=/tmp\nTZ=UTC\nUSER=user\n");
  assert_ok(run_words(NULL, NULL, WORDS("sh", "-c", "ls -A /tmp /data; ls /")), &err);
  assert_non_null(strstr(text_of(&r.out), "/data:\nattempt\n\n/tmp:\nbin\ndata\ndev\netc\n"));
}

/* When the machine runs out of memory the kernel ends these first. */
static void test_first_to_go(void **state) {
  (void)state;
  assert_ok(run_words(NULL, NULL, WORDS("sh", "-c", "cat /proc/self/oom_score_adj || echo 1000")), &err);
  assert_string_equal(text_of(&r.out), "1000\n");
}

/* What a caller's signals were set to is not what a program finds. */
static void test_signals(void **state) {
  (void)state;
  sigset_t block, before;
  sigfillset(&block);
  sigprocmask(SIG_SETMASK, &block, &before);
  signal(SIGTERM, SIG_IGN);
  pu_err result = run_words(NULL, NULL, WORDS("sh", "-c", "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; kill $$"));
  sigprocmask(SIG_SETMASK, &before, NULL);
  signal(SIGTERM, SIG_DFL);
  assert_ok(result, &err);
  ends_with(PU_SANDBOX_SIGNAL, SIGTERM);
  char *ignored = strstr(r.out.len ? r.out.data : "", "SigIgn:\t");
  if (!ignored) return; /* no /proc inside */
  assert_non_null(strstr(r.out.data, "SigBlk:\t0000000000000000\n"));
  assert_int_equal(strtoull(ignored + 8, NULL, 16) & 0x7fffffff, 0); /* the two above are the C library's own */
}

/* What Python's library does with processes, threads, files and pairs of sockets. */
static void test_python_library(void **state) {
  (void)state;
  python(
      "import asyncio, concurrent.futures, ctypes, decimal, hashlib, json, math, multiprocessing, os, random, re\n"
      "import shutil, signal, sqlite3, subprocess, tempfile, threading, time, unittest\n"
      "print(subprocess.run(['echo', 'sub'], capture_output=True, text=True).stdout.strip())\n"
      "print(subprocess.run('exit 7', shell=True).returncode)\n"
      "with concurrent.futures.ThreadPoolExecutor(4) as p: print(sum(p.map(lambda x: x * x, range(10))))\n"
      "async def f(x):\n"
      "  await asyncio.sleep(0.001)\n"
      "  return x\n"
      "async def g(): return await asyncio.gather(*[f(i) for i in range(3)])\n"
      "print(asyncio.run(g()))\n"
      "async def h():\n"
      "  p = await asyncio.create_subprocess_exec('echo', 'async', stdout=asyncio.subprocess.PIPE)\n"
      "  return (await p.communicate())[0]\n"
      "print(asyncio.run(h()))\n"
      "with tempfile.NamedTemporaryFile('w+') as t: t.write('temp'); t.seek(0); print(t.read())\n"
      "d = sqlite3.connect('/tmp/d'); d.execute('create table t(a)'); d.execute('insert into t values (5)')\n"
      "d.commit(); print(d.execute('select a from t').fetchall())\n"
      "q = multiprocessing.Queue(); p = multiprocessing.Process(target=q.put, args=(9,)); p.start(); print(q.get())\n"
      "p.join(); print(multiprocessing.Pool(2).map(abs, [-1, -2]))\n"
      "try: signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(5)\n"
      "except BaseException as e: print(e)\n");
  ends_with(PU_SANDBOX_SIGNAL, SIGALRM);
  assert_string_equal(text_of(&r.out), "sub\n7\n285\n[0, 1, 2]\nb'async\\n'\ntemp\n[(5,)]\n9\n[1, 2]\n");
}

static void test_python_limits(void **state) {
  (void)state;
  python("x = bytes(1 << 40)");
  ends_with(PU_SANDBOX_EXIT, 1);
  assert_non_null(strstr(text_of(&r.err), "MemoryError"));
  python("def f(): f()\nf()");
  ends_with(PU_SANDBOX_EXIT, 1);
  assert_non_null(strstr(text_of(&r.err), "RecursionError"));
  python("import socket\nsocket.create_connection(('127.0.0.1', 80))");
  ends_with(PU_SANDBOX_EXIT, 1);
}

/* What was printed before a limit is kept. */
static void test_partial_output(void **state) {
  (void)state;
  if (!have_python) skip();
  pu_sandbox_limits l = pu_sandbox_defaults();
  l.seconds = 200;
  l.cpu_seconds = 2;
  assert_ok(run_words(&l, NULL, WORDS("python3", "-c", "print('before')\nwhile True: pass")), &err);
  ends_with(PU_SANDBOX_CPU, 0);
  assert_string_equal(text_of(&r.out), "before\n");
}

/* ---- the job ---- */

static void refused(const pu_sandbox_job *job, pu_err code, const char *says) {
  pu_sandbox_result_deinit(&r);
  assert_int_equal(pu_sandbox_run(job, NULL, &r, &err), code);
  if (!strstr(err.msg, says)) fail_msg("no \"%s\" in: %s", says, err.msg);
  assert_int_equal(r.out.len, 0);
}

static void test_programs(void **state) {
  (void)state;
  const char *argv[3] = {"no-such-program", NULL, NULL};
  pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults(), .read_only = folder};
  refused(&job, PU_ERR_USAGE, "no-such-program cannot be started: No such file");
  argv[0] = "/etc/passwd";
  refused(&job, PU_ERR_USAGE, "/etc/passwd cannot be started: Permission denied");
  argv[0] = PU_ATTEMPT; /* a program of this machine, outside /usr */
  refused(&job, PU_ERR_USAGE, "No such file");
  argv[0] = NULL;
  refused(&job, PU_ERR_USAGE, "no program");
  job.argv = NULL;
  refused(&job, PU_ERR_USAGE, "no program");
  char *much = malloc((1 << 20) + 1);
  memset(much, 'x', 1 << 20);
  much[1 << 20] = 0;
  argv[0] = "echo", argv[1] = much;
  job.argv = argv;
  refused(&job, PU_ERR_USAGE, "1 MiB");
  much[200000] = 0; /* more than the kernel takes for one */
  refused(&job, PU_ERR_USAGE, "too long");
  free(much);
}

static void test_limits_checked(void **state) {
  (void)state;
  const char *argv[] = {"true", NULL};
  const pu_sandbox_job good = {.argv = argv, .limits = pu_sandbox_defaults()};
  pu_sandbox_job bad[] = {good, good, good, good, good, good, good, good, good};
  bad[0].limits.seconds = 0;
  bad[1].limits.seconds = 0.0 / (good.limits.output - (double)(1 << 20)); /* not a number */
  bad[2].limits.cpu_seconds = -1;
  bad[3].limits.memory = 1000;
  bad[4].limits.processes = 0;
  bad[5].limits.processes = 5000;
  bad[6].limits.output = 0;
  bad[7].limits.files = 0;
  bad[8].limits.seconds = 1e9;
  for (size_t i = 0; i < PU_COUNT(bad); i++) refused(&bad[i], PU_ERR_USAGE, "sandbox: ");
  refused(&(pu_sandbox_job){.argv = argv}, PU_ERR_USAGE, "seconds");
  pu_sandbox_job least = good;
  least.limits = (pu_sandbox_limits){60, 0.5, 8 << 20, 1, 1, 1};
  pu_sandbox_result_deinit(&r);
  assert_ok(pu_sandbox_run(&least, NULL, &r, &err), &err);
  ends_with(PU_SANDBOX_EXIT, 0);
}

static void test_folders(void **state) {
  (void)state;
  char path[100], link[100];
  const char *argv[] = {"sh", "-c", "ls -A /data; cat /data/file", NULL};
  pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults(), .read_only = "/"};
  refused(&job, PU_ERR_USAGE, "more than files");
  job.read_only = "/proc/self";
  refused(&job, PU_ERR_USAGE, "more than files");
  job.read_only = "/dev/../dev";
  refused(&job, PU_ERR_USAGE, "more than files");
  job.read_only = "/no/such/folder";
  refused(&job, PU_ERR_USAGE, "No such file");
  job.read_only = "/etc/passwd";
  refused(&job, PU_ERR_USAGE, "Not a directory");
  /* A link to a folder is that folder; without one there is no /data. */
  snprintf(path, sizeof path, "%s/sub", folder);
  snprintf(link, sizeof link, "%s/link", folder);
  assert_int_equal(mkdir(path, 0755), 0);
  assert_int_equal(symlink("sub", link), 0);
  snprintf(path, sizeof path, "%s/sub/file", folder);
  assert_ok(pu_file_write(path, "text", 4, &err), &err);
  assert_int_equal(chmod(path, 0644), 0);
  job.read_only = link;
  pu_sandbox_result_deinit(&r);
  assert_ok(pu_sandbox_run(&job, NULL, &r, &err), &err);
  assert_string_equal(text_of(&r.out), "file\ntext");
  job.read_only = NULL;
  pu_sandbox_result_deinit(&r);
  assert_ok(pu_sandbox_run(&job, NULL, &r, &err), &err);
  assert_int_equal(r.out.len, 0);
  unlink(link);
}

/* A folder of somebody else's that nobody else may enter: a clear line, for root as well. */
static void test_closed_folder(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  char path[100];
  snprintf(path, sizeof path, "%s/closed", folder);
  assert_int_equal(mkdir(path, 0700), 0);
  assert_int_equal(chown(path, 12345, 12345), 0);
  strcat(path, "/in");
  assert_int_equal(mkdir(path, 0755), 0);
  const char *argv[] = {"true", NULL};
  pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults(), .read_only = path};
  refused(&job, PU_ERR_UNSUPPORTED, "Permission denied; root must be able to enter it");
}

/* Of a caller that is root: what nobody may not read is not read. */
static void test_root_reads_as_nobody(void **state) {
  (void)state;
  if (geteuid() != 0) skip();
  char path[100];
  snprintf(path, sizeof path, "%s/of-root", folder);
  assert_ok(pu_file_write(path, "SECRET", 6, &err), &err);
  assert_int_equal(chmod(path, 0600), 0);
  assert_ok(run_words(NULL, NULL, WORDS("cat", "/data/of-root")), &err);
  ends_with(PU_SANDBOX_EXIT, 1);
  assert_int_equal(r.out.len, 0);
  unlink(path);
}

static void test_end_text(void **state) {
  (void)state;
  char text[80];
  pu_sandbox_limits l = pu_sandbox_defaults();
  pu_sandbox_result one = {.end = PU_SANDBOX_EXIT, .code = 1};
  assert_string_equal(pu_sandbox_end_text(&one, &l, text), "exit status 1");
  one = (pu_sandbox_result){.end = PU_SANDBOX_SIGNAL, .code = 11};
  assert_string_equal(pu_sandbox_end_text(&one, &l, text), "signal 11 (Segmentation fault)");
  one.end = PU_SANDBOX_TIMEOUT;
  assert_string_equal(pu_sandbox_end_text(&one, &l, text), "stopped after 10 s");
  one.end = PU_SANDBOX_CPU;
  assert_string_equal(pu_sandbox_end_text(&one, &l, text), "stopped after 10 s of processor time");
  one.end = PU_SANDBOX_MEMORY;
  assert_string_equal(pu_sandbox_end_text(&one, &l, text), "stopped with more than 512 MiB in use");
  one.end = PU_SANDBOX_OUTPUT;
  assert_string_equal(pu_sandbox_end_text(&one, &l, text), "stopped after 1.0 MiB of output");
}

/* ---- the caller ---- */

static int asked;

static bool stop_at_once(void) {
  return true;
}

static bool stop_later(void) {
  return ++asked > 5;
}

static void test_stop(void **state) {
  (void)state;
  const char *argv[] = {"sleep", "1000", NULL};
  pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults()};
  job.limits.seconds = 600;
  bool (*const stops[])(void) = {stop_at_once, stop_later};
  for (int i = 0; i < 2; i++) {
    pu_sandbox_result_deinit(&r);
    assert_int_equal(pu_sandbox_run(&job, stops[i], &r, &err), PU_ERR_STOPPED);
    assert_true(r.seconds < 300);
  }
  assert_int_equal(asked, 6);
}

typedef struct worker {
  int number, bad;
} worker;

static void *work(void *arg) {
  worker *w = arg;
  for (int i = 0; i < 4 && !w->bad; i++) {
    char number[16];
    snprintf(number, sizeof number, "%d", w->number * 100 + i);
    const char *argv[] = {"sh", "-c", "cat; echo \"$0\" >&2; echo mine > /tmp/mine; ls /tmp; exit 5", number, NULL};
    pu_sandbox_job job = {.argv = argv, .input = pu_str_c(number), .limits = pu_sandbox_defaults()};
    job.limits.seconds = 120;
    pu_sandbox_result got;
    pu_error e = {0};
    if (pu_sandbox_run(&job, NULL, &got, &e) != PU_OK) {
      fprintf(stderr, "%s\n", e.msg);
      w->bad = 1;
    } else {
      char out[64];
      snprintf(out, sizeof out, "%smine\n", number);
      w->bad = got.end != PU_SANDBOX_EXIT || got.code != 5 || strcmp(text_of(&got.out), out) != 0 ||
               strncmp(text_of(&got.err), number, strlen(number)) != 0;
    }
    pu_sandbox_result_deinit(&got);
  }
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  pthread_t threads[3];
  worker workers[3] = {{1, 0}, {2, 0}, {3, 0}};
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 3; i++) assert_int_equal(workers[i].bad, 0);
}

/* Descriptors, and processes that nobody waited for. */
static void test_nothing_is_leaked(void **state) {
  (void)state;
  int before = dup(0);
  close(before);
  for (int i = 0; i < 3; i++) assert_ok(run_words(NULL, NULL, WORDS("/data/attempt", "daemon")), &err);
  const char *argv[] = {"no-such-program", NULL};
  refused(&(pu_sandbox_job){.argv = argv, .limits = pu_sandbox_defaults()}, PU_ERR_USAGE, "cannot be started");
  int after = dup(0);
  close(after);
  assert_int_equal(before, after);
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
}

/* A process of its own that does this and ends with its answer. */
static int in_child(int (*fn)(const void *), const void *arg) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) _exit(fn(arg));
  int status = -1;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* For at most half a minute: until as many processes carry the mark. */
static bool wait_for(int processes) {
  for (int i = 0; i < 3000; i++, usleep(10000))
    if ((left() > 0) == (processes > 0)) return true;
  return false;
}

/* The caller is killed, and can do nothing more about it. */
static void test_caller_dies(void **state) {
  (void)state;
  const char *argv[] = {"/data/attempt", "sleep", mark, NULL};
  snprintf(mark, sizeof mark, "puyu-mark-%d-orphan", (int)getpid());
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults(), .read_only = folder};
    job.limits.seconds = 1000;
    _exit(pu_sandbox_run(&job, NULL, &r, &err) != PU_OK);
  }
  bool began = wait_for(1);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  assert_true(began);
  assert_true(wait_for(0));
}

/* The parent of a process, by /proc; 0: it is gone. */
static int parent_of(int of) {
  char path[64], text[512] = "";
  int state = 0, parent = 0;
  snprintf(path, sizeof path, "/proc/%d/stat", of);
  FILE *f = fopen(path, "r");
  size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
  if (f) fclose(f);
  text[n] = 0;
  const char *p = strrchr(text, ')');
  if (!p || sscanf(p + 1, " %c %d", (char *)&state, &parent) != 2) return 0;
  return parent;
}

/* Kills the process that watches, which is the child of this one, as soon as the program runs. */
static void *kill_watcher(void *arg) {
  (void)arg;
  if (!wait_for(1)) return NULL;
  DIR *d = opendir("/proc");
  for (struct dirent *e; (e = readdir(d));)
    if (isdigit((unsigned char)*e->d_name) && parent_of(atoi(e->d_name)) == getpid()) kill(atoi(e->d_name), SIGKILL);
  closedir(d);
  return NULL;
}

static void test_watcher_dies(void **state) {
  (void)state;
  pthread_t thread;
  const char *argv[] = {"/data/attempt", "sleep", mark, NULL};
  pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults(), .read_only = folder};
  job.limits.seconds = 120;
  snprintf(mark, sizeof mark, "puyu-mark-%d-watched", (int)getpid());
  pu_sandbox_result_deinit(&r);
  assert_int_equal(pthread_create(&thread, NULL, kill_watcher, NULL), 0);
  pu_err result = pu_sandbox_run(&job, NULL, &r, &err);
  pthread_join(thread, NULL);
  assert_int_equal(result, PU_ERR_IO);
  assert_non_null(strstr(err.msg, "was killed"));
  assert_true(wait_for(0));
}

/* ---- fails closed ---- */

typedef struct lack {
  const char *call; /* is answered with */
  int error;        /* this, */
  int arg;          /* where the bits `value` of this argument are set, unless it is -1 */
  uint64_t value;
  const char *says;
} lack;

/* 0: nothing ran, and the message names the step. */
static int without(const void *arg) {
  const lack *l = arg;
  scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
  struct scmp_arg_cmp is = SCMP_CMP64((unsigned)PU_MAX(l->arg, 0), SCMP_CMP_MASKED_EQ, l->value, l->value);
  int nr = seccomp_syscall_resolve_name(l->call);
  if (!f || seccomp_rule_add_array(f, SCMP_ACT_ERRNO((unsigned)l->error), nr, l->arg >= 0, &is) != 0 ||
      seccomp_load(f) != 0)
    return 2;
  seccomp_release(f);
  pu_err result = run_words(NULL, NULL, WORDS("/data/attempt", "environment"));
  bool good = result == PU_ERR_UNSUPPORTED && strstr(err.msg, "nothing was run") && strstr(err.msg, l->says);
  good = good && r.out.len == 0 && r.err.len == 0 && pu_sandbox_check(&err) == PU_ERR_UNSUPPORTED;
  if (!good) fprintf(stderr, "%s: error %d: %s\n", l->call, (int)result, err.msg);
  pu_sandbox_result_deinit(&r);
  return good ? 0 : 1;
}

static void test_each_wall(void **state) {
  (void)state;
  static const lack lacks[] = {
      {"clone", EPERM, 0, CLONE_NEWUSER, "namespaces failed: Operation not permitted; user namespaces must be"},
      {"clone", EPERM, 0, CLONE_NEWNET, "namespaces"},
      {"clone", ENOSPC, 0, CLONE_NEWUSER, "max_user_namespaces"},
      {"mount", EPERM, -1, 0, "view of / failed: Operation not permitted; user namespaces must be"},
      {"mount", EACCES, -1, 0, "view of / failed: Permission denied; user namespaces must be"},
      {"open_tree", EPERM, -1, 0, "view of /usr"},
      {"mount_setattr", EPERM, -1, 0, "view of /usr"},
      {"setresuid", EPERM, -1, 0, "unprivileged user"},
      {"sethostname", EPERM, -1, 0, "the host name"},
      {"move_mount", EPERM, -1, 0, "new root at"},
      {"pivot_root", EPERM, -1, 0, "old root"},
      {"umount2", EPERM, -1, 0, "old root"},
      {"prlimit64", EPERM, -1, 0, "limits"},
      {"capset", EPERM, -1, 0, "capabilities"},
      {"prctl", EPERM, 0, PR_SET_NO_NEW_PRIVS, "capabilities"},
      {"seccomp", EPERM, 0, 1, "filtering"}};
  for (size_t i = 0; i < PU_COUNT(lacks); i++) assert_int_equal(in_child(without, &lacks[i]), 0);
}

/* Maps of a user namespace of the child's own: then it may do as it likes with what is in it, and is no root. */
static bool own_namespaces(int flags) {
  char line[64];
  unsigned uid = geteuid(), gid = getegid();
  if (unshare(CLONE_NEWUSER | flags) != 0) return false;
  snprintf(line, sizeof line, "1000 %u 1", uid);
  bool ok = pu_path_exists("/proc/self/uid_map");
  const char *const files[] = {"/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map"};
  for (int i = 0; i < 3 && ok; i++) {
    if (i == 2) snprintf(line, sizeof line, "1000 %u 1", gid);
    int fd = open(files[i], O_WRONLY | O_CLOEXEC);
    const char *text = i == 0 ? "deny" : line;
    ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) close(fd);
  }
  return ok;
}

/* An administrator allows no namespaces: the count is what is too low. */
static int without_count(const void *arg) {
  (void)arg;
  if (!own_namespaces(0)) return 2;
  int fd = open("/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "0", 1) != 1) return 2;
  close(fd);
  pu_err result = run_words(NULL, NULL, WORDS("/data/attempt", "environment"));
  bool good = result == PU_ERR_UNSUPPORTED && strstr(err.msg, "max_user_namespaces") && r.out.len == 0;
  if (!good) fprintf(stderr, "error %d: %s\n", (int)result, err.msg);
  pu_sandbox_result_deinit(&r);
  return good ? 0 : 1;
}

/* A container that hides a part of /proc: programs inside have none, and all else holds. */
static int masked_proc(const void *arg) {
  (void)arg;
  if (!own_namespaces(CLONE_NEWNS)) return 2;
  if (mount("tmpfs", "/proc/sys", "tmpfs", 0, NULL) != 0) return 2;
  const char *code = "ls -A /proc; echo $(( 6 * 7 ))";
  pu_err result = run_words(NULL, NULL, WORDS("sh", "-c", code));
  bool good = result == PU_OK && strcmp(text_of(&r.out), "42\n") == 0;
  if (!good) fprintf(stderr, "error %d: %s%s\n", (int)result, err.msg, text_of(&r.out));
  pu_sandbox_result_deinit(&r);
  return good ? 0 : 1;
}

/* The root of a container as the folder: its /proc would tell of every process. */
static int proc_in_folder(const void *arg) {
  (void)arg;
  char path[64];
  snprintf(path, sizeof path, "%s/a proc", folder);
  if (!own_namespaces(CLONE_NEWNS)) return 2;
  if (mount("/proc", path, NULL, MS_BIND | MS_REC, NULL) != 0) return 2;
  pu_err result = run_words(NULL, NULL, WORDS("true"));
  bool good = result == PU_ERR_USAGE && strstr(err.msg, "/a proc is mounted (proc)");
  const char *argv[] = {"true", NULL};
  const pu_sandbox_job of_it = {.argv = argv, .limits = pu_sandbox_defaults(), .read_only = path};
  pu_sandbox_result_deinit(&r);
  good = good && pu_sandbox_run(&of_it, NULL, &r, &err) == PU_ERR_USAGE;
  if (!good) fprintf(stderr, "error %d: %s\n", (int)result, err.msg);
  pu_sandbox_result_deinit(&r);
  return good ? 0 : 1;
}

static void test_containers(void **state) {
  (void)state;
  char path[64];
  snprintf(path, sizeof path, "%s/a proc", folder);
  assert_int_equal(mkdir(path, 0755), 0);
  int count = in_child(without_count, NULL), masked = in_child(masked_proc, NULL);
  int shown = in_child(proc_in_folder, NULL);
  rmdir(path);
  if (count == 2 || masked == 2 || shown == 2) skip(); /* this machine has nothing nested */
  assert_int_equal(shown, 0);
  assert_int_equal(count, 0);
  assert_int_equal(masked, 0);
}

#define TEST(name) cmocka_unit_test(test_##name)

static int all(void) {
  const struct CMUnitTest tests[] = {TEST(python),         TEST(streams),
                                     TEST(bytes),          TEST(surroundings),
                                     TEST(first_to_go),    TEST(signals),
                                     TEST(python_library), TEST(python_limits),
                                     TEST(partial_output), TEST(programs),
                                     TEST(limits_checked), TEST(folders),
                                     TEST(closed_folder),  TEST(root_reads_as_nobody),
                                     TEST(end_text),       TEST(stop),
                                     TEST(threads),        TEST(nothing_is_leaked),
                                     TEST(caller_dies),    TEST(watcher_dies),
                                     TEST(each_wall),      TEST(containers)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

int main(int argc, char **argv) {
  return sandbox_main(argc, argv, all);
}
