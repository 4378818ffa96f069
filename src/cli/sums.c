#include "src/cli/sums.h"
#include "src/cli/sample.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_QUESTIONS = 1 << 20, ANSWER_TOKENS = 8, BATCH = 64 };

pu_err pu_sum_list_add(void *arg, const pu_synth_question *q, pu_error *e) {
  pu_sum_list *list = arg;
  if (list->n == list->cap) {
    size_t cap = list->cap ? 2 * list->cap : 256;
    pu_sum_question *v = cap <= MAX_QUESTIONS ? realloc(list->v, cap * sizeof *v) : NULL;
    if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for more than %zu questions", list->n);
    list->v = v;
    list->cap = cap;
  }
  pu_sum_question *to = &list->v[list->n];
  *to = (pu_sum_question){.prompt = pu_arena_strdup(list->arena, q->prompt),
                          .answer = pu_arena_strdup(list->arena, q->answer),
                          .within = q->within};
  if (!to->prompt || !to->answer) return pu_fail(e, PU_ERR_NOMEM, "no memory for the questions");
  list->n++;
  return PU_OK;
}

void pu_sum_list_deinit(pu_sum_list *list) {
  free(list->v);
  list->v = NULL;
  list->n = list->cap = 0;
}

static pu_err begin(pu_engine *en, const pu_sum_question *q, pu_session **out, pu_error *e) {
  pu_sampling how = pu_sampling_default();
  how.max_tokens = ANSWER_TOKENS;
  pu_ids ids = {0};
  pu_err err = pu_session_open(en, out, e);
  if (!err) err = pu_cli_encode_prompt(pu_engine_tokenizer(en), pu_str_c(q->prompt), &ids, e);
  if (!err) err = pu_session_append(*out, ids.v, ids.n, e);
  if (!err) err = pu_session_start(*out, &how, NULL, NULL, e);
  pu_ids_deinit(&ids);
  return err;
}

/* The number at the start of an answer, after spaces. */
static void keep_number(pu_sum_question *q, pu_str answer) {
  size_t i = 0, n = 0;
  while (i < answer.len && isspace((unsigned char)answer.ptr[i])) i++;
  if (i < answer.len && answer.ptr[i] == '-') q->got[n++] = answer.ptr[i++];
  while (i < answer.len && isdigit((unsigned char)answer.ptr[i]) && n + 1 < sizeof q->got)
    q->got[n++] = answer.ptr[i++];
  q->got[n] = 0;
}

static pu_err ask_batch(pu_engine *en, pu_sum_question *q, size_t n, pu_error *e) {
  pu_session *sessions[BATCH] = {0};
  pu_err err = PU_OK;
  for (size_t i = 0; i < n && !err; i++) err = begin(en, &q[i], &sessions[i], e);
  for (bool more = true; more && !err;) err = pu_engine_step(en, &more, e);
  for (size_t i = 0; i < n; i++) {
    if (!err) keep_number(&q[i], pu_session_text(sessions[i]));
    pu_session_close(sessions[i]);
  }
  return err;
}

pu_err pu_sums_ask(pu_engine *en, pu_sum_list *list, pu_error *e) {
  pu_progress *bar = pu_progress_open("held-out sums", "questions", (double)list->n);
  pu_err err = PU_OK;
  for (size_t at = 0; at < list->n && !err; at += BATCH) {
    if (pu_signals_stop()) err = pu_fail(e, PU_ERR_STOPPED, "stopped by a signal");
    if (!err) err = ask_batch(en, list->v + at, PU_MIN((size_t)BATCH, list->n - at), e);
    pu_progress_set(bar, (double)PU_MIN(at + BATCH, list->n), NULL);
  }
  pu_progress_close(bar);
  return err;
}

pu_sum_score pu_sums_score(const pu_sum_list *list, int within) {
  pu_sum_score s = {0};
  for (size_t i = 0; i < list->n; i++) {
    if (list->v[i].within != within) continue;
    s.asked++;
    s.right += strcmp(list->v[i].got, list->v[i].answer) == 0;
  }
  return s;
}
