#include "src/cli/demo/child.h"

#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_REPLY = 1 << 20 };

extern char **environ;

pu_err pu_child_start(const char *const *argv, pu_child *c, pu_error *e) {
  int ends[2];
  if (pipe(ends)) return pu_fail(e, PU_ERR_IO, "%s: cannot make a pipe: %s", argv[0], strerror(errno));
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&files, ends[0]);
  posix_spawn_file_actions_addclose(&files, ends[1]);
  c->out = fdopen(ends[0], "r");
  int failed = !c->out ? errno : posix_spawnp(&c->pid, argv[0], &files, NULL, (char *const *)(uintptr_t)argv, environ);
  posix_spawn_file_actions_destroy(&files);
  close(ends[1]);
  if (!failed) return PU_OK;
  if (c->out)
    fclose(c->out);
  else
    close(ends[0]);
  return pu_fail(e, PU_ERR_IO, "%s: cannot be started: %s", argv[0], strerror(failed));
}

pu_err pu_child_finish(pu_child *c, const char *name, pu_error *e) {
  int status = 0;
  fclose(c->out);
  while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR) {}
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return PU_OK;
  if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped by a signal");
  return pu_fail(e, PU_ERR_INTERNAL, "%s ended with %s %d", name, WIFSIGNALED(status) ? "signal" : "status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

pu_err pu_child_json(const char *const *argv, const char *name, json_t **out, pu_error *e) {
  pu_child c;
  char part[4096];
  pu_buf text;
  pu_buf_init(&text, MOST_REPLY);
  PU_TRY(pu_child_start(argv, &c, e));
  for (size_t n; (n = fread(part, 1, sizeof part, c.out)) > 0;) pu_buf_append(&text, part, n);
  pu_err err = pu_child_finish(&c, name, e);
  if (!err && text.failed) err = pu_fail(e, PU_ERR_FORMAT, "%s: prints more than %d bytes", name, MOST_REPLY);
  if (!err) err = pu_json_parse(name, pu_str_of(text.data ? text.data : "", text.len), out, e);
  pu_buf_deinit(&text);
  return err;
}
