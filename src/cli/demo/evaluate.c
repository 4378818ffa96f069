/* The same questions after each step that changes the model, and through HTTP: tasks of `puyu eval`, as files that it
 * can be given again. */
#include <string.h>

#include "src/cli/demo/demo.h"

enum { MOST_LINE = 1 << 20 };

const char *const pu_demo_model_names[PU_DEMO_MODELS] = {"pretrained", "fine-tuned", "4-bit", "served"};

/* ---- tasks ---- */

typedef struct task {
  const char *name, *about, *file;
  bool chat, of_rules; /* of_rules: of the text made by rules, so not asked where the model read another one */
  const char *body;    /* the rest of the YAML */
} task;

#define FIRST_NUMBER                                                                                                   \
  "prompt: \"{{ prompt }}\"\nanswer: \"{{ answer }}\"\nextract: ['^\\s*(-?[0-9]+)']\ncompare: number\n"                \
  "stop: [\"\\n\"]\nmax_tokens: 12\n"
#define LAST_NUMBER                                                                                                    \
  "prompt: \"{{ ask }}\"\nanswer: \"{{ answer }}\"\nextract: [number]\ncompare: number\nstop: [\"\\n\"]\n"             \
  "max_tokens: 24\n"
#define WHOLE(ask, answer)                                                                                             \
  "prompt: \"{{ " ask " }}\"\nanswer: \"{{ " answer " }}\"\nextract: [text]\ncompare: exact\nstop: [\"\\n\"]\n"        \
  "max_tokens: 24\n"

static const task tasks[] = {
    {"sums-100", "sums within 100, as text that goes on", "sums-100.jsonl", false, true, FIRST_NUMBER},
    {"sums-1000", "sums within 1000, as text that goes on", "sums-1000.jsonl", false, true, FIRST_NUMBER},
    {"facts", "facts, as text that goes on", "facts.jsonl", false, true, WHOLE("prompt", "answer")},
    {"chat-sums-100", "sums within 100, in a chat", "sums-100.jsonl", true, false, LAST_NUMBER},
    {"chat-sums-1000", "sums within 1000, in a chat", "sums-1000.jsonl", true, false, LAST_NUMBER},
    {"chat-facts", "facts no chat had asked for, in a chat", "facts.jsonl", true, true, WHOLE("ask", "reply")},
    {"chat-sums-large", "sums beyond 1000, in a chat, no tool", "sums-large.jsonl", true, false, LAST_NUMBER},
    {"text", "perplexity of text kept out, a token", "text.txt", false, true, "kind: perplexity\nwindow: 256\n"},
};
_Static_assert(PU_COUNT(tasks) == PU_DEMO_TASKS, "a row of scores for each task");

static bool is_asked(const pu_demo *d, const task *t) {
  return !(t->of_rules && d->o->text);
}

/* ---- questions ---- */

enum { SUMS_100, SUMS_1000, SUMS_LARGE, FACTS, TEXT, FILES };
static const char *const names[FILES] = {"sums-100.jsonl", "sums-1000.jsonl", "sums-large.jsonl", "facts.jsonl",
                                         "text.txt"};

struct pu_demo_questions {
  const char *dir;
  FILE *file[FILES];
  pu_buf line;
};

static pu_err write_tasks(const pu_demo *d, pu_error *e) {
  for (size_t i = 0; i < PU_COUNT(tasks); i++) {
    const task *t = &tasks[i];
    const char *path = pu_arena_printf(d->a, "%s/%s.yaml", d->questions, t->name);
    const char *text =
        pu_arena_printf(d->a, "# puyu eval --model MODEL%s --data %s --tasks %s\nabout: %s\n%stest: %s\n%s",
                        t->chat ? " --chat" : "", d->questions, path ? path : "", t->about,
                        strncmp(t->body, "kind", 4) == 0 ? "" : "kind: generate\n", t->file, t->body);
    if (!path || !text) return pu_fail(e, PU_ERR_NOMEM, "no memory for the tasks");
    if (is_asked(d, t)) PU_TRY(pu_file_write(path, text, strlen(text), e));
  }
  return PU_OK;
}

pu_err pu_demo_questions_open(const pu_demo *d, pu_demo_questions **out, pu_error *e) {
  pu_demo_questions *q = pu_arena_zalloc(d->a, sizeof *q);
  if (!q) return pu_fail(e, PU_ERR_NOMEM, "no memory for the questions");
  q->dir = d->questions;
  pu_buf_init(&q->line, MOST_LINE);
  *out = q;
  PU_TRY(pu_remove_tree(d->questions, e));
  PU_TRY(pu_mkdirs(d->questions, e));
  PU_TRY(write_tasks(d, e));
  for (int i = 0; i < FILES; i++) {
    const char *path = pu_path_join(d->a, d->questions, names[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
    if (!(q->file[i] = fopen(path, "wbe"))) return pu_fail(e, PU_ERR_IO, "%s: %m", path);
  }
  return PU_OK;
}

static pu_err put(pu_demo_questions *q, int file, pu_error *e) {
  if (q->line.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a question");
  if (fwrite(q->line.data, 1, q->line.len, q->file[file]) == q->line.len) return PU_OK;
  return pu_fail(e, PU_ERR_IO, "%s/%s: %m", q->dir, names[file]);
}

pu_err pu_demo_questions_add(pu_demo_questions *q, const pu_synth_question *question, pu_error *e) {
  int file = !question->op              ? FACTS
             : question->within == 100  ? SUMS_100
             : question->within == 1000 ? SUMS_1000
                                        : SUMS_LARGE;
  pu_buf_clear(&q->line);
  pu_synth_question_json(question, &q->line);
  pu_buf_putc(&q->line, '\n');
  return put(q, file, e);
}

pu_err pu_demo_questions_text(pu_demo_questions *q, pu_str text, pu_error *e) {
  pu_buf_clear(&q->line);
  pu_buf_append(&q->line, text.ptr, text.len);
  pu_buf_puts(&q->line, "\n\n");
  return put(q, TEXT, e);
}

pu_err pu_demo_questions_close(pu_demo_questions *q, pu_err err, pu_error *e) {
  for (int i = 0; q && i < FILES; i++)
    if (q->file[i] && fclose(q->file[i]) && !err) err = pu_fail(e, PU_ERR_IO, "%s/%s: %m", q->dir, names[i]);
  if (q) pu_buf_deinit(&q->line);
  return err;
}

/* ---- asking ---- */

/* The two ways to ask: as text, and as a user's turn. */
static pu_err open_models(const pu_demo *d, pu_demo_model which, pu_engine *en, const char *where,
                          pu_eval_model *out[2], pu_error *e) {
  const char *identity = NULL, *name = pu_demo_model_names[which];
  if (en) PU_TRY(pu_eval_identity(where, NULL, "the demo", d->a, &identity, e));
  for (int chat = 0; chat < 2; chat++) {
    const pu_eval_local local = {.engine = en, .name = name, .identity = identity, .batch = 64, .chat = chat};
    const pu_eval_remote remote = {.url = where, .name = name, .concurrency = 8, .seconds = 60, .chat = chat};
    PU_TRY(en ? pu_eval_local_open(&local, &out[chat], e) : pu_eval_remote_open(&remote, &out[chat], e));
  }
  return PU_OK;
}

static double shown(const pu_eval_result *r) {
  return r->kind == PU_EVAL_PERPLEXITY ? r->token_perplexity : 100 * r->micro.value;
}

static pu_err ask(pu_demo *d, const task *t, pu_eval_model *m, pu_eval_result *r, pu_error *e) {
  const char *log = pu_path_join(d->a, d->questions, "log"),
             *yaml = pu_arena_printf(d->a, "%s/%s.yaml", d->questions, t->name);
  const pu_eval_options o = {.data = d->questions, .out = log, .shots = -1, .rule = -1};
  pu_eval_task *opened;
  if (!log || !yaml) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  PU_TRY(pu_eval_task_open(yaml, d->a, &opened, e));
  PU_TRY(pu_eval_run(opened, m, &o, r, e));
  pu_log(PU_LOG_INFO, "  %-38s %.*f%s", t->about, r->kind == PU_EVAL_PERPLEXITY ? 3 : 1, shown(r),
         r->kind == PU_EVAL_PERPLEXITY ? "" : " %");
  return PU_OK;
}

pu_err pu_demo_evaluate(pu_demo *d, pu_demo_model which, pu_engine *en, const char *where, pu_error *e) {
  pu_eval_model *models[2] = {0};
  pu_err err = open_models(d, which, en, where, models, e);
  for (size_t i = 0; i < PU_COUNT(tasks) && !err; i++)
    if (is_asked(d, &tasks[i])) err = ask(d, &tasks[i], models[tasks[i].chat], &d->scores[i][which], e);
  pu_eval_model_close(models[0]);
  pu_eval_model_close(models[1]);
  return err;
}

/* ---- the scores ---- */

/* "98.2", or a perplexity with more digits; "–" where it was not asked. */
static const char *score_text(const pu_eval_result *r, char text[24]) {
  if (!r->n)
    snprintf(text, 24, "–");
  else
    snprintf(text, 24, r->kind == PU_EVAL_PERPLEXITY ? "%.3f" : "%.1f %%", shown(r));
  return text;
}

void pu_demo_scores(const pu_demo *d, pu_demo_table *t) {
  char text[24];
  fprintf(t->out, "  %-40s", "");
  pu_buf_puts(&t->html, "<table class=scores>\n<tr><th></th>");
  for (int k = 0; k < PU_DEMO_MODELS; k++) {
    fprintf(t->out, "%12s", pu_demo_model_names[k]);
    pu_buf_printf(&t->html, "<th>%s</th>", pu_demo_model_names[k]);
  }
  fprintf(t->out, "\n");
  pu_buf_puts(&t->html, "<th>questions</th></tr>\n");
  for (size_t i = 0; i < PU_COUNT(tasks); i++) {
    const pu_eval_result *r = d->scores[i];
    if (!is_asked(d, &tasks[i])) continue;
    fprintf(t->out, "  %-40s", tasks[i].about);
    pu_buf_printf(&t->html, "<tr><th>%s</th>", tasks[i].about);
    for (int k = 0; k < PU_DEMO_MODELS; k++) {
      fprintf(t->out, "%12s", score_text(&r[k], text));
      pu_buf_printf(&t->html, "<td>%s</td>", text);
    }
    fprintf(t->out, "\n");
    pu_buf_printf(&t->html, "<td>%lld</td></tr>\n", (long long)r[0].n);
  }
  pu_buf_puts(&t->html, "</table>\n");
}
