/* Rows of conversations for the loop of `train`. */
#include <stdlib.h>
#include <string.h>

#include "puyu/tune.h"
#include "src/tune/pack.h"

typedef struct feed {
  const pu_train_feed_options *o; /* while it is opened */
  int64_t seq_len;
  uint64_t seed;
  bool valid;
  const char **names; /* [sources] */
  const pu_chat_template *chat;
  pu_ids ids;      /* of all samples, coded (pu_tune_id) */
  uint64_t *begin; /* [n + 1] where each sample's begin */
  uint32_t *len;   /* [n] tokens that it takes of a row: all but the last, which is only predicted */
  size_t n, cap;
  size_t *first; /* [sources + 1] samples of each source */
  pu_tune_plan plan;
  int *source;     /* [rows] */
  uint32_t *order; /* [rows] of the pass that is read */
  uint64_t pass;
  uint64_t learned, dropped, cut;
} feed;

static pu_err no_memory(const feed *f, pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu conversations", f->n);
}

static void feed_close(void *arg) {
  feed *f = arg;
  pu_ids_deinit(&f->ids);
  pu_tune_plan_deinit(&f->plan);
  pu_chat_free(f->chat);
  free(f->begin);
  free(f->len);
  free(f->first);
  free(f->source);
  free(f->order);
  for (size_t i = 0; f->names && f->names[i]; i++) free((char *)(uintptr_t)f->names[i]);
  free(f->names);
  free(f);
}

/* ---- samples ---- */

static bool grow(feed *f) {
  if (f->n < f->cap) return true;
  size_t cap = PU_MAX(2 * f->cap, 1024);
  uint64_t *begin = realloc(f->begin, (cap + 1) * sizeof *begin);
  if (begin) f->begin = begin;
  uint32_t *len = realloc(f->len, cap * sizeof *len);
  if (len) f->len = len;
  if (begin && len) f->cap = cap;
  return begin && len;
}

/* What was appended to ids from `begin` on becomes a sample: without what follows the last id that is learned, since
 * nothing of it is told by what comes after. False: it does not fit, or nothing is left of it. */
static bool fit(feed *f, size_t begin) {
  pu_ids *ids = &f->ids;
  size_t most = begin + (size_t)f->seq_len + 1;
  while (ids->n > begin && ids->v[ids->n - 1] < 0) ids->n--;
  if (ids->n <= most) return true;
  if (f->o->cfg->data.too_long == 0) return false;
  ids->n = most;
  while (ids->n > begin && ids->v[ids->n - 1] < 0) ids->n--;
  f->cut += ids->n > begin;
  return ids->n > begin;
}

static pu_err add(feed *f, const pu_dialogue *d, pu_error *e) {
  size_t begin = f->ids.n;
  PU_TRY(pu_tune_encode(d, f->chat, f->o->tokenizer, &f->ids, e));
  for (size_t i = begin; i < f->ids.n; i++)
    if (pu_tune_id(f->ids.v[i]) >= f->o->vocab)
      return pu_fail(e, PU_ERR_FORMAT, "%s: id %d is outside the model's vocabulary of %lld", d->where,
                     (int)pu_tune_id(f->ids.v[i]), (long long)f->o->vocab);
  if (!fit(f, begin)) {
    f->ids.n = begin;
    f->dropped++;
    return PU_OK;
  }
  if (f->n == UINT32_MAX || !grow(f)) return no_memory(f, e);
  for (size_t i = begin; i < f->ids.n; i++) f->learned += f->ids.v[i] >= 0;
  f->len[f->n] = (uint32_t)(f->ids.n - begin - 1);
  f->begin[f->n++] = begin;
  f->begin[f->n] = f->ids.n;
  return PU_OK;
}

static pu_err read_source(feed *f, const pu_train_source *s, pu_progress *bar, double before, double *bytes,
                          pu_error *e) {
  pu_dialogues *from;
  bool found = true;
  PU_TRY(pu_dialogues_open(s->path, s, &from, e));
  pu_err err = PU_OK;
  *bytes = pu_dialogues_bytes(from);
  while (!err && found) {
    pu_dialogue d;
    err = pu_dialogues_next(from, &d, &found, e);
    if (!err && found) err = add(f, &d, e);
    pu_dialogue_deinit(&d);
    pu_progress_set(bar, before + pu_dialogues_done(from), NULL);
    if (!err && pu_signals_stop()) err = pu_fail(e, PU_ERR_STOPPED, "stopped while conversations were read");
  }
  pu_dialogues_close(from);
  return err;
}

static pu_err read_all(feed *f, pu_error *e) {
  double done = 0, bytes;
  pu_progress *bar = pu_progress_open("conversations", "B", 0);
  pu_err err = PU_OK;
  for (size_t i = 0; !err && i < f->o->n; i++) {
    f->first[i] = f->n;
    err = read_source(f, &f->o->sources[i], bar, done, &bytes, e);
    done += bytes;
    if (!err && f->n == f->first[i])
      err = pu_fail(e, PU_ERR_FORMAT,
                    f->dropped ? "%s: none of its conversations fits into data.seq_len %lld"
                               : "%s: no conversations in it (data.seq_len is %lld)",
                    f->o->sources[i].path, (long long)f->seq_len);
  }
  f->first[f->o->n] = f->n;
  pu_progress_close(bar);
  return err;
}

/* ---- rows ---- */

/* Source i's samples; the rows that they take know it. */
static pu_err plan_source(feed *f, size_t i, uint32_t *order, pu_error *e) {
  size_t n = f->first[i + 1] - f->first[i], rows = f->plan.rows;
  if (f->valid)
    for (size_t k = 0; k < n; k++) order[k] = (uint32_t)(f->first[i] + k);
  else
    pu_tune_shuffle(order, n, (uint32_t)f->first[i], f->seed, i + 1);
  PU_TRY(pu_tune_plan_add(&f->plan, order, n, f->len, f->seq_len, !f->o->cfg->data.pack, e));
  int *source = realloc(f->source, f->plan.rows * sizeof *source);
  if (!source) return no_memory(f, e);
  f->source = source;
  while (rows < f->plan.rows) f->source[rows++] = (int)i;
  return PU_OK;
}

static pu_err plan_rows(feed *f, pu_error *e) {
  uint32_t *order = malloc(f->n * sizeof *order);
  pu_err err = order ? PU_OK : no_memory(f, e);
  for (size_t i = 0; !err && i < f->o->n; i++) err = plan_source(f, i, order, e);
  free(order);
  if (err) return err;
  f->order = malloc(f->plan.rows * sizeof *f->order);
  if (!f->order) return no_memory(f, e);
  f->pass = UINT64_MAX;
  return PU_OK;
}

static void begin_pass(feed *f, uint64_t pass) {
  if (f->pass == pass) return;
  f->pass = pass;
  if (f->valid)
    for (size_t i = 0; i < f->plan.rows; i++) f->order[i] = (uint32_t)i;
  else
    pu_tune_shuffle(f->order, f->plan.rows, 0, pu_random_at(f->seed, 0, 1), pass);
}

static void put_sample(const feed *f, uint32_t sample, pu_train_row *out) {
  const int32_t *ids = f->ids.v + f->begin[sample];
  int64_t n = f->len[sample], at = out->n;
  out->starts[out->n_starts++] = (int32_t)at;
  for (int64_t i = 0; i < n; i++) {
    out->ids[at + i] = pu_tune_id(ids[i]);
    out->targets[at + i] = ids[i + 1] >= 0 ? ids[i + 1] : -1;
  }
  out->n += n;
}

static void feed_read(void *arg, uint64_t index, pu_train_row *out) {
  feed *f = arg;
  begin_pass(f, index / f->plan.rows);
  uint32_t row = f->order[index % f->plan.rows];
  out->n = 0;
  out->n_starts = 0;
  out->source = f->source[row];
  for (uint64_t i = f->plan.begin[row]; i < f->plan.begin[row + 1]; i++) put_sample(f, f->plan.samples[i], out);
}

/* ---- opening ---- */

static void tell(const feed *f, uint64_t tokens) {
  char all[16], learned[16], odd[120] = "";
  if (f->dropped || f->cut)
    snprintf(odd, sizeof odd, "; longer than a sequence: %llu left out, %llu cut", (unsigned long long)f->dropped,
             (unsigned long long)f->cut);
  pu_log(f->dropped || f->cut ? PU_LOG_WARN : PU_LOG_INFO,
         "%s%zu conversations, %s tokens, of which %s are learned (template %s); %zu sequences, %.0f %% full%s",
         f->valid ? "validation: " : "", f->n, pu_short_number(all, (double)tokens),
         pu_short_number(learned, (double)f->learned), pu_chat_name(f->chat), f->plan.rows,
         100 * (double)tokens / ((double)f->plan.rows * (double)f->seq_len), odd);
}

static pu_err open_all(feed *f, pu_train_feed *out, pu_error *e) {
  const pu_train_feed_options *o = f->o;
  uint64_t tokens = 0;
  f->names = calloc(o->n + 1, sizeof *f->names);
  f->first = calloc(o->n + 1, sizeof *f->first);
  if (!f->names || !f->first) return no_memory(f, e);
  for (size_t i = 0; i < o->n; i++)
    if (!(f->names[i] = strdup(o->sources[i].path))) return no_memory(f, e);
  PU_TRY(pu_tune_template(o->cfg, o->model, o->tokenizer, o->arch->name, &f->chat, e));
  PU_TRY(read_all(f, e));
  PU_TRY(plan_rows(f, e));
  for (size_t i = 0; i < f->n; i++) tokens += f->len[i];
  tell(f, tokens);
  *out = (pu_train_feed){.arg = f,
                         .rows = f->plan.rows,
                         .tokens = tokens,
                         .n = o->n,
                         .names = f->names,
                         .read = feed_read,
                         .close = feed_close};
  return PU_OK;
}

pu_err pu_tune_feed(void *arg, const pu_train_feed_options *o, pu_train_feed *out, pu_error *e) {
  (void)arg;
  *out = (pu_train_feed){0};
  feed *f = calloc(1, sizeof *f);
  if (!f) return pu_fail(e, PU_ERR_NOMEM, "no memory for conversations");
  *f = (feed){.o = o, .seq_len = o->cfg->data.seq_len, .seed = (uint64_t)o->cfg->train.seed, .valid = o->valid};
  pu_err err = open_all(f, out, e);
  if (err)
    feed_close(f);
  else
    f->o = NULL;
  return err;
}
