/* Code that a model wrote, in the sandbox. Each call is a process of its own; so that it is as in a notebook, what was
 * run before in the conversation is run again first, with its output thrown away. */
#include <stdlib.h>

#include "puyu/sandbox.h"
#include "src/agent/tool.h"

enum { MOST_CELLS = 200, MOST_CELL_BYTES = 1 << 20 };

/* Reads a JSON list of cells, the last of which is new: its output is shown, and the value of its last expression. Of a
 * traceback only the cell's own frames are shown. */
static const char driver[] =
    "import ast, json, linecache, os, sys, traceback\n"
    "cells = json.load(sys.stdin)\n"
    "space = {'__name__': '__main__'}\n"
    "def run(code, shows):\n"
    "    linecache.cache['<code>'] = (len(code), None, code.splitlines(True), '<code>')\n"
    "    tree = ast.parse(code, '<code>')\n"
    "    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None\n"
    "    exec(compile(tree, '<code>', 'exec'), space)\n"
    "    if last is None: return\n"
    "    value = eval(compile(ast.Expression(last.value), '<code>', 'eval'), space)\n"
    "    if shows and value is not None: print(repr(value))\n"
    "kept = os.dup(1), os.dup(2)\n"
    "nothing = os.open('/dev/null', os.O_WRONLY)\n"
    "os.dup2(nothing, 1), os.dup2(nothing, 2)\n"
    "for code in cells[:-1]:\n"
    "    try: run(code, False)\n"
    "    except BaseException: pass\n"
    "sys.stdout.flush(), sys.stderr.flush()\n"
    "os.dup2(kept[0], 1), os.dup2(kept[1], 2), os.close(kept[0]), os.close(kept[1]), os.close(nothing)\n"
    "try: run(cells[-1], True)\n"
    "except SystemExit: raise\n"
    "except BaseException as e:\n"
    "    sys.stdout.flush()\n"
    "    tb = e.__traceback__\n"
    "    while tb and tb.tb_frame.f_code.co_filename != '<code>': tb = tb.tb_next\n"
    "    traceback.print_exception(type(e), e, tb)\n"
    "    sys.exit(1)\n";

typedef struct python {
  const char *docs;
  json_t *cells;
  size_t bytes; /* of them */
} python;

static pu_err run_cells(const python *p, const json_t *cells, bool (*stop)(void), pu_sandbox_result *r, pu_error *e) {
  static const char *const argv[] = {"python3", "-I", "-c", driver, NULL};
  char *text = json_dumps(cells, JSON_COMPACT);
  if (!text) return pu_fail(e, PU_ERR_NOMEM, "no memory for the code");
  const pu_sandbox_job job = {
      .argv = argv, .input = pu_str_c(text), .limits = pu_sandbox_defaults(), .read_only = p->docs};
  pu_err err = pu_sandbox_run(&job, stop, r, e);
  free(text);
  return err;
}

/* Is there Python, and can it be fenced in? Asked with nothing to run, so that it is said at once if not. */
static pu_err try_it(const python *p, pu_error *e) {
  pu_sandbox_result r = {0};
  pu_sandbox_limits limits = pu_sandbox_defaults();
  char text[80];
  json_t *nothing = json_pack("[s]", "");
  PU_TRY(pu_sandbox_check(e));
  pu_err err = nothing ? run_cells(p, nothing, NULL, &r, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for the code");
  if (!err && (r.end != PU_SANDBOX_EXIT || r.code != 0))
    err = pu_fail(e, PU_ERR_UNSUPPORTED, "python3 cannot be run: %s: %.200s", pu_sandbox_end_text(&r, &limits, text),
                  r.err.data ? r.err.data : "");
  json_decref(nothing);
  pu_sandbox_result_deinit(&r);
  return err;
}

static void python_close(void *state) {
  python *p = state;
  json_decref(p->cells);
  free(p);
}

static pu_err python_open(const pu_agent_setup *o, void **state, pu_error *e) {
  python *p = calloc(1, sizeof *p);
  if (!p) return pu_fail(e, PU_ERR_NOMEM, "no memory for a tool");
  *p = (python){.docs = o->docs, .cells = json_array()};
  pu_err err = p->cells ? try_it(p, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for a tool");
  if (err)
    python_close(p);
  else
    *state = p;
  return err;
}

static void python_reset(void *state) {
  python *p = state;
  json_array_clear(p->cells);
  p->bytes = 0;
}

static pu_err put_result(const pu_sandbox_result *r, pu_buf *out, pu_error *e) {
  const pu_sandbox_limits limits = pu_sandbox_defaults();
  char text[80];
  if (r->out.len) pu_buf_append(out, r->out.data, r->out.len);
  if (r->err.len) pu_buf_append(out, r->err.data, r->err.len);
  while (out->len && out->data[out->len - 1] == '\n') out->data[--out->len] = 0;
  if (r->end != PU_SANDBOX_EXIT || r->code != 0)
    return pu_fail(e, PU_ERR_USAGE, "%s", pu_sandbox_end_text(r, &limits, text));
  if (out->len == 0) pu_buf_puts(out, "(no output)");
  return PU_OK;
}

static pu_err python_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  python *p = state;
  json_t *code = json_object_get(arguments, "code");
  pu_sandbox_result r = {0};
  bool keeps = json_array_size(p->cells) < MOST_CELLS && p->bytes + json_string_length(code) <= MOST_CELL_BYTES;
  if (!keeps) return pu_fail(e, PU_ERR_USAGE, "the conversation has run too much code; it can run no more");
  if (json_array_append(p->cells, code) != 0) return pu_fail(e, PU_ERR_NOMEM, "no memory for the code");
  pu_err err = run_cells(p, p->cells, stop, &r, e);
  if (err || r.end != PU_SANDBOX_EXIT) /* it would pass the limit again */
    json_array_remove(p->cells, json_array_size(p->cells) - 1);
  else
    p->bytes += json_string_length(code);
  if (!err) err = put_result(&r, out, e);
  pu_sandbox_result_deinit(&r);
  return err;
}

const pu_tool pu_tool_python = {
    .is = {.name = "python",
           .about =
               "Runs Python 3 code in a sandbox, and gives what it prints and the value of its last line. What earlier "
               "code of the conversation defined is there. No network; 10 seconds, 512 MiB. Where there are documents "
               "they are in /data.",
           .parameters =
               "{\"type\": \"object\", \"properties\": {\"code\": {\"type\": \"string\", \"description\": \"Python "
               "code of any number of lines\"}}, \"required\": [\"code\"]}",
           .is_code = true},
    .open = python_open,
    .call = python_call,
    .reset = python_reset,
    .close = python_close,
};
