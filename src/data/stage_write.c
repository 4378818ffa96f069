/* Writing stages: a unit's files appear whole or not at all, done.json last; stage.json when all units are there. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>

#include "src/data/reader.h"
#include "src/data/stage.h"

enum {
  LEVEL = 1,
  PENDING = 1 << 17,
  SAMPLES_MAX = 8,
  REASONS_MAX = 32,
  PATIENCE = 600 /* s, for another rank's first sign */
};

#define UPS "../../../../"
enum { UPS_MAX = (sizeof UPS - 1) / 3 };

struct pu_stage_writer {
  pu_arena *arena;
  const char *dir;
  pu_claim *claim;
  const char **units;
  size_t n_units;
  bool docs;
  int rank, ranks;
  json_t *about; /* stage.json without its counts */
};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "stage: no memory");
}

static const char *in_dir(const pu_stage_writer *w, char path[4096], const char *unit, const char *ending) {
  snprintf(path, 4096, "%s/%s%s", w->dir, unit, ending);
  return path;
}

static pu_err write_json(const char *path, const json_t *o, pu_error *e) {
  char *text = json_dumps(o, JSON_INDENT(1) | JSON_SORT_KEYS);
  if (!text) return nomem(e);
  pu_err err = pu_file_write(path, text, strlen(text), e);
  free(text);
  return err;
}

/* ---- one for all ---- */

/* docs and drops of the chain that this stage goes on with, as stage.json has them: a run's folders lie below one,
 * which may be moved as a whole, so they are named from here. */
static char *from_here(pu_arena *a, const char *dir, const char *other) {
  size_t cut = 0, ups = 1;
  for (size_t i = 0; dir[i] && dir[i] == other[i]; i++)
    if (dir[i] == '/') cut = i + 1;
  for (const char *c = dir + cut; *c; c++) ups += *c == '/' && c[1] && c[1] != '/';
  bool beside = cut > 0 || (dir[0] != '/' && other[0] != '/'), odd = strstr(dir + cut, "..") != NULL;
  if (beside && !odd && ups <= UPS_MAX) return pu_arena_printf(a, "%.*s%s", (int)(3 * ups), UPS, other + cut);
  char *full = realpath(other, NULL), *kept = full ? pu_arena_strdup(a, full) : NULL;
  free(full);
  return kept;
}

static pu_err chain(pu_stage_writer *w, const pu_stage_options *o, pu_error *e) {
  json_t *drops = json_array();
  const json_t *earlier = o->before ? json_object_get(pu_stage_about(o->before), "drops") : NULL;
  const char *docs = ".", *before = o->before ? pu_stage_dir(o->before) : NULL;
  if (o->no_docs) docs = "";
  if (o->before && !o->docs && !o->no_docs) {
    const char *theirs = json_string_value(json_object_get(pu_stage_about(o->before), "docs"));
    for (size_t i = 0; i + o->instead < json_array_size(earlier); i++) {
      const char *name = json_string_value(json_array_get(earlier, i));
      char *path = name && strcmp(name, ".") != 0 ? pu_path_join(w->arena, before, name) : (char *)before;
      json_array_append_new(drops, json_string(from_here(w->arena, w->dir, path)));
    }
    char *path = theirs && strcmp(theirs, ".") != 0 ? pu_path_join(w->arena, before, theirs) : (char *)before;
    docs = from_here(w->arena, w->dir, path);
  }
  json_array_append_new(drops, json_string("."));
  if (!docs) return pu_fail(e, PU_ERR_IO, "%s: %s", before, strerror(errno));
  json_object_set_new(w->about, "docs", json_string(docs));
  json_object_set_new(w->about, "drops", drops);
  return PU_OK;
}

static pu_err describe(pu_stage_writer *w, const pu_stage_options *o, pu_error *e) {
  const char *const *names = o->units;
  w->n_units = names ? o->n_units : pu_stage_units(o->before);
  w->units = pu_arena_alloc(w->arena, (w->n_units + 1) * sizeof *w->units);
  json_t *units = json_array();
  w->about = json_object();
  if (!w->units || !units || !w->about) return nomem(e);
  for (size_t i = 0; i < w->n_units; i++) {
    w->units[i] = pu_arena_strdup(w->arena, names ? names[i] : pu_stage_unit(o->before, i));
    if (!w->units[i]) return nomem(e);
    json_array_append_new(units, json_string(w->units[i]));
  }
  json_object_set_new(w->about, "step", json_string(o->step));
  json_object_set(w->about, "options", o->options);
  json_object_set_new(w->about, "units", units);
  if (o->before) json_object_set(w->about, "after", json_object_get(pu_stage_about(o->before), "key"));
  PU_TRY(chain(w, o, e));
  char *text = json_dumps(w->about, JSON_COMPACT | JSON_SORT_KEYS);
  if (!text) return nomem(e);
  char key[32];
  snprintf(key, sizeof key, "%016llx", (unsigned long long)pu_hash64(text, strlen(text), 0));
  free(text);
  return json_object_set_new(w->about, "key", json_string(key)) == 0 ? PU_OK : nomem(e);
}

static bool same_key(const pu_stage_writer *w, const char *path) {
  json_t *begun = NULL;
  pu_error ignored;
  bool same = pu_json_read(path, 1 << 20, &begun, &ignored) == PU_OK &&
              json_equal(json_object_get(begun, "key"), json_object_get(w->about, "key"));
  json_decref(begun);
  return same;
}

static void doze(void) {
  nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
}

/* begun.json says whose units lie in the folder. Rank 0 writes it, the others wait for it. */
static pu_err begin(pu_stage_writer *w, bool force, pu_error *e) {
  char path[4096];
  in_dir(w, path, "begun", ".json");
  for (double until = pu_now() + PATIENCE; w->rank > 0 && !same_key(w, path); doze())
    if (pu_signals_stop() || pu_now() > until)
      return pu_fail(e, PU_ERR_STOPPED, "%s: rank %d waited for rank 0 to begin this step", w->dir, w->rank);
  if (w->rank > 0 || same_key(w, path)) return PU_OK;
  if (pu_path_exists(path)) {
    if (!force)
      return pu_fail(
          e, PU_ERR_USAGE,
          "%s: another run, with other options or input, began here; take another folder, or begin anew with "
          "--force",
          w->dir);
    pu_claim_close(w->claim);
    w->claim = NULL;
    PU_TRY(pu_remove_tree(w->dir, e));
    PU_TRY(pu_claim_open(w->dir, "lock-0", &w->claim, e));
  }
  json_t *o = json_object();
  json_object_set(o, "key", json_object_get(w->about, "key"));
  pu_err err = write_json(path, o, e);
  json_decref(o);
  return err;
}

pu_err pu_stage_create(const char *dir, const pu_stage_options *o, pu_stage_writer **out, pu_error *e) {
  *out = NULL;
  pu_stage_writer *w = calloc(1, sizeof *w);
  if (!w) return nomem(e);
  w->docs = o->docs;
  w->rank = o->rank;
  w->ranks = PU_MAX(o->ranks, 1);
  char lock[32];
  snprintf(lock, sizeof lock, "lock-%d", w->rank);
  pu_err err = pu_arena_create((size_t)1 << 30, &w->arena, e);
  if (err == PU_OK && !(w->dir = pu_arena_strdup(w->arena, dir))) err = nomem(e);
  if (err == PU_OK && o->force && w->ranks > 1)
    err = pu_fail(e, PU_ERR_USAGE, "--force is for one process; with several, take the folder away first");
  if (err == PU_OK) err = pu_claim_open(dir, lock, &w->claim, e);
  if (err == PU_OK) err = describe(w, o, e);
  if (err == PU_OK) err = begin(w, o->force, e);
  if (err == PU_OK)
    *out = w;
  else
    pu_stage_writer_free(w);
  return err;
}

void pu_stage_writer_free(pu_stage_writer *w) {
  if (!w) return;
  pu_claim_close(w->claim);
  json_decref(w->about);
  pu_arena_free(w->arena);
  free(w);
}

size_t pu_stage_writer_units(const pu_stage_writer *w) {
  return w->n_units;
}

const char *pu_stage_writer_unit(const pu_stage_writer *w, size_t unit) {
  return w->units[unit];
}

bool pu_stage_unit_done(const pu_stage_writer *w, size_t unit) {
  char path[4096];
  return pu_path_exists(in_dir(w, path, w->units[unit], ".done.json"));
}

/* ---- a unit ---- */

/* A file of lines, compressed. */
typedef struct zst {
  pu_writer *out;
  ZSTD_CStream *z;
  pu_buf pending, packed;
} zst;

struct pu_unit_writer {
  const pu_stage_writer *w;
  size_t unit;
  zst docs, attrs, drops, skips;
  uint64_t n_docs, n_seen, n_drops, n_skips, bytes;
  json_t *done, *rules, *reasons; /* reasons: {"WHY": records} of what was skipped */
};

static pu_err zst_open(zst *z, const char *path, pu_error *e) {
  pu_buf_init(&z->pending, PU_BUF_MAX);
  pu_buf_init(&z->packed, PU_BUF_MAX);
  z->z = ZSTD_createCStream();
  if (!z->z || ZSTD_isError(ZSTD_CCtx_setParameter(z->z, ZSTD_c_compressionLevel, LEVEL)) ||
      ZSTD_isError(ZSTD_CCtx_setParameter(z->z, ZSTD_c_checksumFlag, 1)))
    return nomem(e);
  return pu_writer_begin(path, &z->out, e);
}

static pu_err zst_flush(zst *z, bool end, pu_error *e) {
  if (z->pending.failed || !pu_buf_reserve(&z->packed, ZSTD_CStreamOutSize())) return nomem(e);
  ZSTD_inBuffer in = {z->pending.data, z->pending.len, 0};
  for (size_t left = 1; in.pos < in.size || (end && left > 0);) {
    ZSTD_outBuffer out = {z->packed.data, z->packed.cap, 0};
    left = ZSTD_compressStream2(z->z, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left)) return pu_fail(e, PU_ERR_NOMEM, "zstd: %s", ZSTD_getErrorName(left));
    PU_TRY(pu_writer_put(z->out, out.dst, out.pos, e));
  }
  pu_buf_clear(&z->pending);
  return PU_OK;
}

static pu_err zst_line(zst *z, pu_error *e) {
  pu_buf_putc(&z->pending, '\n');
  return z->pending.len < PENDING && !z->pending.failed ? PU_OK : zst_flush(z, false, e);
}

static pu_err zst_end(zst *z, pu_err err, pu_error *e) {
  if (z->out && err == PU_OK) err = zst_flush(z, true, e);
  if (z->out) err = pu_writer_end(z->out, err, e);
  ZSTD_freeCStream(z->z);
  pu_buf_deinit(&z->pending);
  pu_buf_deinit(&z->packed);
  *z = (zst){0};
  return err;
}

pu_err pu_unit_create(pu_stage_writer *w, size_t unit, pu_unit_writer **out, pu_error *e) {
  *out = NULL;
  pu_unit_writer *u = calloc(1, sizeof *u);
  if (!u) return nomem(e);
  u->w = w;
  u->unit = unit;
  u->done = json_object();
  u->rules = json_object();
  u->reasons = json_object();
  char path[4096];
  pu_err err = u->done && u->rules && u->reasons ? PU_OK : nomem(e);
  if (err == PU_OK && w->docs) err = zst_open(&u->docs, in_dir(w, path, w->units[unit], ".docs.jsonl.zst"), e);
  if (err == PU_OK) err = zst_open(&u->attrs, in_dir(w, path, w->units[unit], ".attrs.jsonl.zst"), e);
  if (err == PU_OK) err = zst_open(&u->drops, in_dir(w, path, w->units[unit], ".drops.jsonl.zst"), e);
  if (err == PU_OK) err = zst_open(&u->skips, in_dir(w, path, w->units[unit], ".skips.jsonl.zst"), e);
  if (err != PU_OK) return pu_unit_end(u, err, e);
  *out = u;
  return PU_OK;
}

static void put_member(pu_buf *b, const char *key, pu_str value) {
  if (value.len == 0) return;
  pu_buf_printf(b, ", \"%s\": ", key);
  pu_buf_json_str(b, value);
}

pu_err pu_unit_doc(pu_unit_writer *u, const pu_doc *d, uint64_t *n, pu_error *e) {
  pu_buf *b = &u->docs.pending;
  pu_buf_puts(b, "{\"id\": ");
  pu_buf_json_str(b, d->id);
  pu_buf_puts(b, ", \"content\": ");
  pu_buf_json_str(b, pu_str_of(d->text.data, d->text.len));
  put_member(b, "source", d->source);
  put_member(b, "repository", d->repository);
  put_member(b, "type", d->type);
  put_member(b, "lang", d->lang);
  put_member(b, "url", d->url);
  put_member(b, "title", d->title);
  put_member(b, "author", d->author);
  put_member(b, "time", d->time);
  pu_buf_putc(b, '}');
  u->bytes += d->text.len;
  *n = u->n_docs++;
  return zst_line(&u->docs, e);
}

pu_err pu_unit_attrs_begin(pu_unit_writer *u, uint64_t n, pu_str id, pu_error *e) {
  pu_buf *b = &u->attrs.pending;
  pu_buf_printf(b, "{\"n\": %llu, \"id\": ", (unsigned long long)n);
  u->n_seen++;
  return pu_buf_json_str(b, id) ? PU_OK : nomem(e);
}

pu_err pu_unit_attr(pu_unit_writer *u, const char *prefix, const char *name, double value, pu_error *e) {
  pu_buf *b = &u->attrs.pending;
  char text[32];
  if (isnan(value)) return PU_OK;
  pu_format_float(text, (float)value);
  return pu_buf_printf(b, ", \"%s.%s\": %s", prefix, name, text) ? PU_OK : nomem(e);
}

pu_err pu_unit_attr_str(pu_unit_writer *u, const char *name, pu_str value, pu_error *e) {
  put_member(&u->attrs.pending, name, value);
  return u->attrs.pending.failed ? nomem(e) : PU_OK;
}

pu_err pu_unit_attr_json(pu_unit_writer *u, const char *name, const char *json, pu_error *e) {
  return pu_buf_printf(&u->attrs.pending, ", \"%s\": ", name) && pu_buf_puts(&u->attrs.pending, json) ? PU_OK
                                                                                                      : nomem(e);
}

pu_err pu_unit_attrs_end(pu_unit_writer *u, pu_error *e) {
  pu_buf_putc(&u->attrs.pending, '}');
  return zst_line(&u->attrs, e);
}

static void put_number(pu_buf *b, const char *key, double value) {
  char text[32];
  if (!isfinite(value)) return;
  pu_format_float(text, (float)value);
  pu_buf_printf(b, ", \"%s\": %s", key, text);
}

pu_err pu_unit_drop(pu_unit_writer *u, uint64_t n, pu_str id, const char *rule, double value, double min, double max,
                    const char *more, pu_error *e) {
  pu_buf *b = &u->drops.pending;
  pu_buf_printf(b, "{\"n\": %llu, \"id\": ", (unsigned long long)n);
  pu_buf_json_str(b, id);
  put_member(b, "rule", pu_str_c(rule));
  put_number(b, "value", value);
  put_number(b, "min", min);
  put_number(b, "max", max);
  if (more) pu_buf_puts(b, more);
  pu_buf_putc(b, '}');
  u->n_drops++;
  json_int_t before = json_integer_value(json_object_get(u->rules, rule));
  if (json_object_set_new(u->rules, rule, json_integer(before + 1)) != 0) return nomem(e);
  return zst_line(&u->drops, e);
}

/* Numbers, and what a message quotes, would make a reason of its own of each record. */
static pu_err add_reason(pu_unit_writer *u, const char *why, pu_error *e) {
  char text[160];
  size_t n = 0;
  const char *near = strstr(why, " near ");
  for (const char *c = why; *c && c != near && n < sizeof text - 4;) {
    bool number = isdigit((unsigned char)*c);
    text[n++] = number ? 'N' : *c;
    for (c++; number && isdigit((unsigned char)*c);) c++;
  }
  n = pu_utf8_prefix(pu_str_of(text, n));
  if (json_object_size(u->reasons) >= REASONS_MAX && !json_object_getn(u->reasons, text, n))
    n = (size_t)snprintf(text, sizeof text, "other reasons");
  json_int_t before = json_integer_value(json_object_getn(u->reasons, text, n));
  return json_object_setn_new(u->reasons, text, n, json_integer(before + 1)) == 0 ? PU_OK : nomem(e);
}

pu_err pu_unit_skip(pu_unit_writer *u, const char *file, uint64_t offset, const char *why, pu_error *e) {
  pu_buf *b = &u->skips.pending;
  pu_buf_puts(b, "{\"file\": ");
  pu_buf_json_str(b, pu_str_c(file));
  pu_buf_printf(b, ", \"offset\": %llu", (unsigned long long)offset);
  put_member(b, "why", pu_str_c(why));
  pu_buf_putc(b, '}');
  u->n_skips++;
  PU_TRY(add_reason(u, why, e));
  return zst_line(&u->skips, e);
}

pu_err pu_unit_count(pu_unit_writer *u, const char *key, json_t *value, pu_error *e) {
  return value && json_object_set_new(u->done, key, value) == 0 ? PU_OK : nomem(e);
}

static pu_err done_write(pu_unit_writer *u, pu_error *e) {
  char path[4096];
  json_object_set_new(u->done, "documents", json_integer((json_int_t)u->n_seen));
  json_object_set_new(u->done, "dropped", json_integer((json_int_t)u->n_drops));
  json_object_set_new(u->done, "skipped", json_integer((json_int_t)u->n_skips));
  if (u->w->docs) json_object_set_new(u->done, "bytes", json_integer((json_int_t)u->bytes));
  json_object_set(u->done, "rules", u->rules);
  if (u->n_skips > 0) json_object_set(u->done, "reasons", u->reasons);
  return write_json(in_dir(u->w, path, u->w->units[u->unit], ".done.json"), u->done, e);
}

pu_err pu_unit_end(pu_unit_writer *u, pu_err err, pu_error *e) {
  if (!u) return err;
  err = zst_end(&u->docs, err, e);
  err = zst_end(&u->attrs, err, e);
  err = zst_end(&u->drops, err, e);
  err = zst_end(&u->skips, err, e);
  if (err == PU_OK) err = done_write(u, e);
  json_decref(u->done);
  json_decref(u->rules);
  json_decref(u->reasons);
  free(u);
  return err;
}

/* ---- all units ---- */

/* Adds b to a: numbers are added, objects member by member, lists of numbers place by place; of other lists the first
 * items are kept. */
static void merge(json_t *a, const json_t *b) {
  const char *key;
  const json_t *v;
  json_object_foreach((json_t *)b, key, v) {
    json_t *old = json_object_get(a, key);
    if (!old)
      json_object_set_new(a, key, json_deep_copy(v));
    else if (json_is_object(old))
      merge(old, v);
    else if (json_is_integer(old) && json_is_integer(v))
      json_integer_set(old, json_integer_value(old) + json_integer_value(v));
    else if (json_is_number(old))
      json_object_set_new(a, key, json_real(json_number_value(old) + json_number_value(v)));
    else if (json_is_array(old) && json_is_integer(json_array_get(old, 0)))
      for (size_t i = 0; i < PU_MIN(json_array_size(old), json_array_size(v)); i++)
        json_integer_set(json_array_get(old, i),
                         json_integer_value(json_array_get(old, i)) + json_integer_value(json_array_get(v, i)));
    else if (json_is_array(old))
      for (size_t i = 0; i < json_array_size(v) && json_array_size(old) < SAMPLES_MAX; i++)
        json_array_append_new(old, json_deep_copy(json_array_get(v, i)));
  }
}

static bool another_failed(const pu_stage_writer *w) {
  char path[4096], name[32];
  for (int r = 0; r < w->ranks; r++) {
    snprintf(name, sizeof name, "failed-%d", r);
    if (r != w->rank && pu_path_exists(in_dir(w, path, name, ""))) return true;
  }
  return false;
}

static pu_err await(const pu_stage_writer *w, const char *path, pu_error *e) {
  for (; !pu_path_exists(path); doze()) {
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; what is done stays, the same command goes on");
    if (another_failed(w)) return pu_fail(e, PU_ERR_STOPPED, "%s: another process failed", w->dir);
  }
  return PU_OK;
}

pu_err pu_stage_end(pu_stage_writer *w, pu_error *e) {
  char path[4096];
  json_t *counts = json_object();
  pu_err err = counts ? PU_OK : nomem(e);
  for (size_t i = 0; err == PU_OK && i < w->n_units; i++) {
    json_t *done = NULL;
    err = await(w, in_dir(w, path, w->units[i], ".done.json"), e);
    if (err == PU_OK && w->rank == 0) err = pu_json_read(path, 64 << 20, &done, e);
    if (done) merge(counts, done);
    json_decref(done);
  }
  in_dir(w, path, "stage", ".json");
  if (err == PU_OK && w->rank > 0) err = await(w, path, e);
  if (err == PU_OK && w->rank == 0) {
    json_object_set(w->about, "counts", counts);
    err = write_json(path, w->about, e);
  }
  json_decref(counts);
  return err;
}

typedef struct running {
  pu_stage_writer *w;
  pu_unit_fn fn;
  void *arg;
  const size_t *todo;
  size_t first_failed;
  pu_error error;
  size_t n_done;
  pthread_mutex_t lock;
  void (*progress)(void *arg, double done);
  void *progress_arg;
} running;

static void run_units(void *arg, int64_t begin, int64_t end, int worker) {
  running *r = arg;
  for (int64_t i = begin; i < end; i++) {
    pu_error e = {0};
    size_t unit = r->todo[i];
    pthread_mutex_lock(&r->lock);
    bool skip = unit > r->first_failed;
    pthread_mutex_unlock(&r->lock);
    if (skip) continue;
    pu_err err = pu_signals_stop()
                     ? pu_fail(&e, PU_ERR_STOPPED, "stopped; what is done stays, the same command goes on")
                     : r->fn(r->arg, unit, worker, &e);
    pthread_mutex_lock(&r->lock);
    if (err != PU_OK && unit < r->first_failed) {
      r->first_failed = unit;
      r->error = e;
      r->error.code = err;
    }
    r->n_done += err == PU_OK;
    if (r->progress) r->progress(r->progress_arg, (double)r->n_done);
    pthread_mutex_unlock(&r->lock);
  }
}

pu_err pu_stage_run(pu_stage_writer *w, pu_pool *pool, pu_unit_fn fn, void *arg,
                    void (*progress)(void *arg, double done), void *progress_arg, pu_error *e) {
  char path[4096], name[32];
  snprintf(name, sizeof name, "failed-%d", w->rank);
  in_dir(w, path, name, "");
  PU_TRY(pu_remove_tree(path, e));
  size_t *todo = malloc((w->n_units + 1) * sizeof *todo), n = 0;
  if (!todo) return nomem(e);
  for (size_t i = (size_t)w->rank; i < w->n_units; i += (size_t)w->ranks)
    if (!pu_stage_unit_done(w, i)) todo[n++] = i;
  running r = {.w = w,
               .fn = fn,
               .arg = arg,
               .todo = todo,
               .first_failed = SIZE_MAX,
               .n_done = w->n_units - n,
               .lock = PTHREAD_MUTEX_INITIALIZER,
               .progress = progress,
               .progress_arg = progress_arg};
  if (pool)
    pu_pool_run(pool, (int64_t)n, 1, run_units, &r);
  else
    run_units(&r, 0, (int64_t)n, 0);
  free(todo);
  if (r.first_failed == SIZE_MAX) return PU_OK;
  if (w->ranks > 1 && pu_file_write(path, "", 0, e) != PU_OK) return e ? e->code : PU_ERR_IO;
  if (e) *e = r.error;
  return r.error.code;
}
