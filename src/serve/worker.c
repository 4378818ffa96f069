/* The engine's thread: takes jobs from the queue, opens their sessions, steps, tells the loop's thread what is new. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "src/serve/internal.h"

static void list_init(pu_job_list *l) {
  l->head = NULL;
  l->tail = &l->head;
}

static void list_push(pu_job_list *l, pu_job *j) {
  j->next = NULL;
  *l->tail = j;
  l->tail = &j->next;
}

/* Takes out what *at points to. */
static pu_job *list_take(pu_job_list *l, pu_job **at) {
  pu_job *j = *at;
  *at = j->next;
  if (l->tail == &j->next) l->tail = at;
  return j;
}

/* ---- from the loop's thread ---- */

bool pu_worker_submit(pu_server *sv, pu_job *j) {
  pu_worker *w = &sv->worker;
  if (atomic_fetch_add(&w->queued, 1) >= sv->o.max_queue) {
    atomic_fetch_sub(&w->queued, 1);
    return false;
  }
  pthread_mutex_lock(&w->lock);
  list_push(&w->incoming, j);
  pthread_cond_signal(&w->wake);
  pthread_mutex_unlock(&w->lock);
  return true;
}

void pu_worker_nudge(pu_server *sv) {
  pu_worker *w = &sv->worker;
  pthread_mutex_lock(&w->lock);
  w->nudged = true;
  pthread_cond_signal(&w->wake);
  pthread_mutex_unlock(&w->lock);
}

void pu_worker_give_up(pu_server *sv) {
  pu_worker *w = &sv->worker;
  pthread_mutex_lock(&w->lock);
  w->nudged = w->give_up = true;
  pthread_cond_signal(&w->wake);
  pthread_mutex_unlock(&w->lock);
}

bool pu_worker_alive(pu_server *sv) {
  return pu_now() - (double)atomic_load(&sv->worker.ticked_ms) / 1000 < sv->o.stuck_seconds;
}

/* ---- sessions of a job ---- */

static bool on_text(void *arg, pu_str text) {
  pu_choice *c = arg;
  pthread_mutex_lock(&c->job->lock);
  bool kept = pu_buf_append(&c->text, text.ptr, text.len);
  pthread_mutex_unlock(&c->job->lock);
  return kept && !atomic_load(&c->job->cancelled);
}

static void close_session(pu_worker *w, pu_choice *c) {
  if (!c->s) return;
  pu_session_close(c->s);
  c->s = NULL;
  w->sessions--;
}

static void fail_job(pu_job *j, pu_err err, const pu_error *e) {
  pthread_mutex_lock(&j->lock);
  j->err = err;
  j->why = *e;
  pthread_mutex_unlock(&j->lock);
}

/* The end of a job on this thread. */
static void let_go(pu_server *sv, pu_job *j) {
  for (size_t i = 0; i < j->n_choices; i++) close_session(&sv->worker, &j->choices[i]);
  if (!atomic_load(&j->cancelled)) pu_job_tell(j);
  pu_job_unref(j);
}

/* Answers to one prompt share its work: the first one's session is forked for the others, before any is started. */
static pu_err open_session(pu_server *sv, pu_choice *c, pu_error *e) {
  const pu_job *j = c->job;
  const pu_choice *first = &j->choices[c->prompt * (size_t)j->ask.n];
  bool scores = j->ask.echo && j->ask.how.top_logprobs >= 0;
  if (c != first && !scores)
    PU_TRY(pu_session_fork(first->s, &c->s, e));
  else
    PU_TRY(pu_session_open(sv->en, &c->s, e));
  sv->worker.sessions++;
  if (c != first && !scores) return PU_OK;
  PU_TRY(pu_session_adapter(c->s, j->adapter, e));
  if (scores && !c->told_from) PU_TRY(pu_session_score(c->s, j->ask.how.top_logprobs, e));
  if (scores && c->told_from) PU_TRY(pu_session_score_from(c->s, (int64_t)c->told_from, j->ask.how.top_logprobs, e));
  return pu_session_append(c->s, j->prompts[c->prompt].v, j->prompts[c->prompt].n, e);
}

static pu_err start_choice(pu_choice *c, pu_error *e) {
  pu_sampling how = c->job->ask.how;
  how.seed += (uint64_t)c->index;
  return pu_session_start(c->s, &how, c->job->ask.no_answer ? NULL : on_text, c, e);
}

static void open_job(pu_server *sv, pu_job *j) {
  pu_error e = {0};
  pu_err err = PU_OK;
  for (size_t i = 0; i < j->n_choices && !err; i++) err = open_session(sv, &j->choices[i], &e);
  for (size_t i = 0; i < j->n_choices && !err; i++) err = start_choice(&j->choices[i], &e);
  atomic_fetch_sub(&sv->worker.queued, 1);
  if (!err) {
    list_push(&sv->worker.active, j);
    return;
  }
  fail_job(j, err, &e);
  let_go(sv, j);
}

/* First come, first served. A job with more answers than there may be sessions runs when it is alone. */
static void admit(pu_server *sv) {
  pu_worker *w = &sv->worker;
  while (w->waiting.head) {
    size_t wants = w->waiting.head->n_choices;
    if (w->sessions > 0 && (size_t)w->sessions + wants > (size_t)sv->o.max_sessions) return;
    open_job(sv, list_take(&w->waiting, &w->waiting.head));
  }
}

static void drop_cancelled(pu_server *sv, pu_job_list *l, bool queued) {
  for (pu_job **at = &l->head; *at;) {
    if (!atomic_load(&(*at)->cancelled)) {
      at = &(*at)->next;
      continue;
    }
    pu_job *j = list_take(l, at);
    if (queued) atomic_fetch_sub(&sv->worker.queued, 1);
    let_go(sv, j);
  }
}

/* ---- after a step ---- */

static void count_tokens(pu_server *sv, pu_choice *c, int64_t now_has, double now) {
  pu_job *j = c->job;
  int64_t more = now_has - c->tokens;
  if (more <= 0) return;
  if (j->first_at == 0) {
    j->first_at = now;
    pu_metrics_observe(&sv->metrics, &sv->metrics.first_token, now - j->arrived_at);
  }
  c->last_at = now;
  pthread_mutex_lock(&sv->metrics.lock);
  sv->metrics.answer_tokens += (uint64_t)more;
  pthread_mutex_unlock(&sv->metrics.lock);
}

/* Under the job's lock. */
static void take_notes(pu_choice *c, const pu_token_info *info, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) {
    pu_note note = {.id = info[i].id, .logprob = info[i].logprob, .n_top = PU_MIN(info[i].n_top, PU_NOTE_TOP)};
    for (int k = 0; k < note.n_top; k++) {
      note.top_ids[k] = info[i].top_ids[k];
      note.top[k] = info[i].top_logprobs[k];
    }
    pu_buf_append(&c->notes, &note, sizeof note);
  }
}

/* Tokens that nothing is told of. */
static void take_untold(pu_choice *c, const pu_ids *prompt) {
  for (size_t i = 0; i < c->told_from; i++) {
    pu_note note = {.id = prompt->v[i], .logprob = NAN};
    pu_buf_append(&c->notes, &note, sizeof note);
  }
}

/* The prompt's first, if they were asked for: they are whole when the first token of the answer is there. */
static void take_all_notes(pu_choice *c, bool no_answer) {
  size_t n_prompt = 0, n = 0;
  const pu_token_info *of_prompt = pu_session_prompt(c->s, &n_prompt);
  const pu_token_info *of_answer = no_answer ? NULL : pu_session_tokens(c->s, &n);
  if (n_prompt && !c->noted_prompt) take_untold(c, &c->job->prompts[c->prompt]);
  if (of_prompt) take_notes(c, of_prompt, c->noted_prompt, n_prompt);
  if (of_prompt) c->noted_prompt = n_prompt;
  if (of_answer) take_notes(c, of_answer, c->noted, n);
  if (of_answer) c->noted = n;
}

static void end_choice(pu_server *sv, pu_choice *c, double now) {
  pu_job *j = c->job;
  if (c->tokens > 1)
    pu_metrics_observe(&sv->metrics, &sv->metrics.per_token, (c->last_at - j->first_at) / (double)(c->tokens - 1));
  pu_metrics_observe(&sv->metrics, &sv->metrics.whole, now - j->arrived_at);
  close_session(&sv->worker, c);
}

/* True: all its answers are done. */
static bool look_after(pu_server *sv, pu_job *j, double now) {
  bool news = false, all = true;
  for (size_t i = 0; i < j->n_choices; i++) {
    pu_choice *c = &j->choices[i];
    if (!c->s) continue;
    size_t n;
    (void)pu_session_answer(c->s, &n);
    pu_finish finish = pu_session_finish(c->s);
    bool grew = (int64_t)n > c->tokens;
    count_tokens(sv, c, (int64_t)n, now);
    pthread_mutex_lock(&j->lock);
    if (j->ask.how.top_logprobs >= 0) take_all_notes(c, j->ask.no_answer);
    c->tokens = j->ask.no_answer ? 0 : (int64_t)n;
    c->finish = finish;
    c->done = finish != PU_FINISH_NONE;
    pthread_mutex_unlock(&j->lock);
    news |= grew || finish;
    all &= finish != PU_FINISH_NONE;
    if (finish) end_choice(sv, c, now);
  }
  if (news && j->ask.stream && !all) pu_job_tell(j);
  return all;
}

static void look_after_all(pu_server *sv) {
  pu_worker *w = &sv->worker;
  double now = pu_now();
  for (pu_job **at = &w->active.head; *at;) {
    if (look_after(sv, *at, now))
      let_go(sv, list_take(&w->active, at));
    else
      at = &(*at)->next;
  }
}

static void fail_active(pu_server *sv, pu_err err, const pu_error *e) {
  pu_worker *w = &sv->worker;
  while (w->active.head) {
    pu_job *j = list_take(&w->active, &w->active.head);
    fail_job(j, err, e);
    let_go(sv, j);
  }
}

/* The engine could not step. All its sessions are in doubt, so their requests fail; the next ones may do better. */
static void fail_all(pu_server *sv, pu_err err, const pu_error *e) {
  pu_log(PU_LOG_ERROR, "the engine: %s", e->msg);
  fail_active(sv, err, e);
}

/* The time that answers had to end is over. */
static void give_up(pu_server *sv) {
  pu_worker *w = &sv->worker;
  pu_error e;
  pu_err err = pu_fail(&e, PU_ERR_STOPPED, "the server is stopping");
  while (w->waiting.head) {
    pu_job *j = list_take(&w->waiting, &w->waiting.head);
    atomic_fetch_sub(&w->queued, 1);
    fail_job(j, err, &e);
    let_go(sv, j);
  }
  fail_active(sv, err, &e);
}

static void publish(pu_server *sv) {
  pu_worker *w = &sv->worker;
  int running = 0;
  for (const pu_job *j = w->active.head; j; j = j->next) running++;
  pthread_mutex_lock(&sv->metrics.lock);
  sv->metrics.running = running;
  sv->metrics.waiting = atomic_load(&w->queued);
  sv->metrics.engine = pu_engine_get_stats(sv->en);
  pthread_mutex_unlock(&sv->metrics.lock);
  atomic_store(&w->ticked_ms, (int64_t)(pu_now() * 1000));
}

/* Moves what came to the waiting. Sleeps while there is nothing to do, a second at most, so that the watchdog sees it
 * breathe. False: stop. */
static bool take_incoming(pu_worker *w, bool *gives_up) {
  bool busy = w->active.head || w->waiting.head;
  pthread_mutex_lock(&w->lock);
  if (!busy && !w->incoming.head && !w->stop && !w->nudged) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_cond_timedwait(&w->wake, &w->lock, &until);
  }
  w->nudged = false;
  while (w->incoming.head) list_push(&w->waiting, list_take(&w->incoming, &w->incoming.head));
  bool stop = w->stop;
  *gives_up = w->give_up;
  pthread_mutex_unlock(&w->lock);
  return !stop;
}

static void *worker_main(void *arg) {
  pu_server *sv = arg;
  pu_worker *w = &sv->worker;
  bool gives_up;
  while (take_incoming(w, &gives_up)) {
    drop_cancelled(sv, &w->waiting, true);
    drop_cancelled(sv, &w->active, false);
    if (gives_up) give_up(sv);
    admit(sv);
    if (w->active.head) {
      pu_error e = {0};
      bool more;
      pu_err err = pu_engine_step(sv->en, &more, &e);
      if (err)
        fail_all(sv, err, &e);
      else
        look_after_all(sv);
    }
    publish(sv);
  }
  give_up(sv);
  publish(sv);
  return NULL;
}

void pu_worker_init(pu_server *sv) {
  pu_worker *w = &sv->worker;
  list_init(&w->incoming);
  list_init(&w->waiting);
  list_init(&w->active);
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->wake, &attr);
  pthread_condattr_destroy(&attr);
}

void pu_worker_deinit(pu_server *sv) {
  pthread_mutex_destroy(&sv->worker.lock);
  pthread_cond_destroy(&sv->worker.wake);
}

pu_err pu_worker_start(pu_server *sv, pu_error *e) {
  pu_worker *w = &sv->worker;
  atomic_store(&w->ticked_ms, (int64_t)(pu_now() * 1000));
  int bad = pthread_create(&w->thread, NULL, worker_main, sv);
  if (bad) return pu_fail(e, PU_ERR_IO, "no thread for the engine: %s", strerror(bad));
  w->started = true;
  return PU_OK;
}

void pu_worker_stop(pu_server *sv) {
  pu_worker *w = &sv->worker;
  if (!w->started) return;
  pthread_mutex_lock(&w->lock);
  w->stop = true;
  pthread_cond_signal(&w->wake);
  pthread_mutex_unlock(&w->lock);
  pthread_join(w->thread, NULL);
  w->started = false;
}
