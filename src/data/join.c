/* Documents joined for long contexts: which come after one another. */
#include <stdlib.h>
#include <string.h>

#include "src/data/dedup/shingle.h"
#include "src/data/mix.h"

const char *const pu_join_names[PU_JOINS] = {"none", "path", "similar"};

enum { ID, SOURCE, STRINGS = 9 };
enum { KEYS = 32, LOOKED_AT = 256 };
#define DOCS_BYTES ((size_t)64 << 30)

typedef struct part {
  pu_str strings[STRINGS], text;
  uint64_t group;
  bool used;
} part;

struct pu_joiner {
  pu_join how;
  uint64_t bytes;
  pu_arena *arena;
  part *v;
  size_t n, cap;
  pu_doc out;
  pu_buf parts; /* of the document being made, as JSON */
  size_t n_parts;
  pu_join_put put;
  void *arg;
};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "join: no memory");
}

/* ---- names ---- */

/* The path in the source: "web/a/b.c:1" is "a/b.c". */
static pu_str path_of(pu_str id, pu_str source) {
  size_t at = id.len > source.len && id.ptr[source.len] == '/' && memcmp(id.ptr, source.ptr, source.len) == 0
                  ? source.len + 1
                  : 0;
  size_t end = id.len;
  while (end > at && id.ptr[end - 1] >= '0' && id.ptr[end - 1] <= '9') end--;
  if (end == at || end == id.len || id.ptr[end - 1] != ':') end = id.len + 1;
  return pu_str_of(id.ptr + at, end - 1 - at);
}

static size_t slash_in(pu_str s, bool last) {
  size_t at = SIZE_MAX;
  for (size_t i = 0; i < s.len && (last || at == SIZE_MAX); i++)
    if (s.ptr[i] == '/') at = i;
  return at;
}

uint64_t pu_join_group(const pu_doc *d) {
  pu_str path = path_of(d->id, d->source), folder = d->repository;
  size_t slash = slash_in(path, false);
  if (folder.len == 0 && slash == SIZE_MAX) return 0;
  if (folder.len == 0) folder = pu_str_of(path.ptr, slash);
  uint64_t h = pu_hash64(folder.ptr, folder.len, pu_hash64(d->source.ptr, d->source.len, 0));
  return h ? h : 1;
}

/* "a/b.test.c": the folder "a", the stem "b". */
static pu_str folder_of(pu_str path) {
  size_t slash = slash_in(path, true);
  return pu_str_of(path.ptr, slash == SIZE_MAX ? 0 : slash);
}

static pu_str stem_of(pu_str path) {
  size_t slash = slash_in(path, true), at = slash == SIZE_MAX ? 0 : slash + 1, end = at;
  while (end < path.len && path.ptr[end] != '.') end++;
  return pu_str_of(path.ptr + at, end - at);
}

/* ---- in ---- */

pu_err pu_joiner_create(pu_join how, uint64_t bytes, pu_joiner **out, pu_error *e) {
  pu_joiner *j = *out = calloc(1, sizeof *j);
  if (!j) return nomem(e);
  j->how = how;
  j->bytes = PU_MIN(bytes ? bytes : 1, (uint64_t)PU_DOC_MAX / 2);
  pu_buf_init(&j->parts, PU_BUF_MAX);
  pu_err err = pu_arena_create(DOCS_BYTES, &j->arena, e);
  if (err == PU_OK) err = pu_doc_init(&j->out, e);
  if (err == PU_OK) return PU_OK;
  pu_joiner_free(j);
  *out = NULL;
  return err;
}

void pu_joiner_free(pu_joiner *j) {
  if (!j) return;
  pu_arena_free(j->arena);
  pu_doc_deinit(&j->out);
  pu_buf_deinit(&j->parts);
  free(j->v);
  free(j);
}

static bool keep(pu_joiner *j, pu_str s, pu_str *out) {
  const char *p = pu_arena_strndup(j->arena, s.ptr ? s.ptr : "", s.len);
  *out = pu_str_of(p, s.len);
  return p != NULL;
}

pu_err pu_joiner_add(pu_joiner *j, const pu_doc *d, pu_error *e) {
  const pu_str strings[STRINGS] = {d->id,     d->source, d->repository, d->url, d->title,
                                   d->author, d->time,   d->lang,       d->type};
  if (j->n == j->cap) {
    size_t cap = PU_MAX((size_t)256, 2 * j->cap);
    part *grown = realloc(j->v, cap * sizeof *grown);
    if (!grown) return nomem(e);
    j->v = grown;
    j->cap = cap;
  }
  part *p = &j->v[j->n];
  *p = (part){.group = pu_join_group(d)};
  for (int i = 0; i < STRINGS; i++)
    if (!keep(j, strings[i], &p->strings[i])) return nomem(e);
  if (!keep(j, pu_str_of(d->text.data, d->text.len), &p->text)) return nomem(e);
  j->n++;
  return PU_OK;
}

/* ---- out ---- */

static pu_err flush(pu_joiner *j, pu_error *e) {
  if (j->n_parts == 0) return PU_OK;
  char more[24];
  snprintf(more, sizeof more, "+%zu", j->n_parts - 1);
  pu_buf_puts(&j->parts, "]");
  pu_buf_putc(&j->parts, '\0');
  pu_buf *id = &j->out.spare;
  pu_buf_clear(id);
  pu_buf_append(id, j->out.id.ptr, j->out.id.len);
  if (j->n_parts > 1) pu_buf_puts(id, more);
  if (j->parts.failed || j->out.text.failed || id->failed) return nomem(e);
  j->out.id = pu_str_of(id->data, id->len);
  pu_err err = j->put(j->arg, &j->out, j->n_parts > 1 ? j->parts.data : NULL, e);
  j->n_parts = 0;
  return err;
}

static void begin(pu_joiner *j, const part *p) {
  pu_doc *d = &j->out;
  pu_str *const strings[STRINGS] = {&d->id,     &d->source, &d->repository, &d->url, &d->title,
                                    &d->author, &d->time,   &d->lang,       &d->type};
  pu_doc_clear(d);
  for (int i = 0; i < STRINGS; i++) *strings[i] = p->strings[i];
  pu_buf_clear(&j->parts);
  pu_buf_putc(&j->parts, '[');
}

/* A blank line is between parts. */
static pu_err take(pu_joiner *j, part *p, pu_error *e) {
  pu_buf *text = &j->out.text;
  if (j->n_parts > 0 && text->len + p->text.len > PU_DOC_MAX - 2) PU_TRY(flush(j, e));
  if (j->n_parts == 0)
    begin(j, p);
  else
    pu_buf_puts(text, text->len > 0 && text->data[text->len - 1] == '\n' ? "\n" : "\n\n");
  pu_buf_puts(&j->parts, j->n_parts > 0 ? ", {\"id\": " : "{\"id\": ");
  pu_buf_json_str(&j->parts, p->strings[ID]);
  pu_buf_printf(&j->parts, ", \"at\": %zu, \"bytes\": %zu}", text->len, p->text.len);
  pu_buf_append(text, p->text.ptr, p->text.len);
  p->used = true;
  j->n_parts++;
  return text->len >= j->bytes ? flush(j, e) : PU_OK;
}

/* ---- by path ---- */

static int compare(pu_str a, pu_str b) {
  int c = memcmp(a.ptr, b.ptr, PU_MIN(a.len, b.len));
  return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int by_id(const void *a, const void *b) {
  const part *x = *(part *const *)a, *y = *(part *const *)b;
  int c = compare(x->strings[ID], y->strings[ID]);
  return c ? c : (x > y) - (x < y);
}

static pu_str part_path(const part *p) {
  return path_of(p->strings[ID], p->strings[SOURCE]);
}

/* A file of a repository by its stem. */
typedef struct named {
  pu_str stem;
  size_t file;
} named;

static int by_stem(const void *a, const void *b) {
  const named *x = a, *y = b;
  int c = compare(x->stem, y->stem);
  return c ? c : (x->file > y->file) - (x->file < y->file);
}

typedef struct repository {
  pu_joiner *j;
  part **files; /* by path */
  named *names; /* by stem */
  size_t n;
  size_t *stack; /* [n + 1]: files that wait for those that they import */
  size_t *at;    /* [n]: how far a file's text was looked through */
  bool *begun;   /* [n] */
} repository;

static bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/* Does the line name what the file builds on, in one of the usual languages? */
static bool imports(pu_str line) {
  static const char *const begins[] = {"import ", "from ",   "#include", "# include", "use ",    "mod ",    "pub mod ",
                                       "using ",  "require", "load ",    "source ",   "@import", "\\input", "export "};
  static const char *const holds[] = {"require(", "import(", " from '", " from \""};
  for (size_t i = 0; i < PU_COUNT(begins); i++) {
    size_t len = strlen(begins[i]);
    if (line.len >= len && memcmp(line.ptr, begins[i], len) == 0) return true;
  }
  for (size_t i = 0; i < PU_COUNT(holds); i++)
    if (memmem(line.ptr, line.len, holds[i], strlen(holds[i]))) return true;
  return false;
}

/* The file of that stem, of those that have not begun: in the importing file's folder, or, where that has none at all,
 * anywhere. SIZE_MAX: none. */
static size_t file_named(const repository *r, size_t by, pu_str stem) {
  size_t lo = 0, hi = r->n, found = SIZE_MAX;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (compare(r->names[mid].stem, stem) < 0)
      lo = mid + 1;
    else
      hi = mid;
  }
  pu_str folder = folder_of(part_path(r->files[by]));
  bool beside = false;
  for (size_t i = lo; i < r->n && pu_str_eq(r->names[i].stem, stem); i++) {
    size_t f = r->names[i].file;
    bool near = f != by && pu_str_eq(folder_of(part_path(r->files[f])), folder);
    if (near && !r->begun[f]) return f;
    beside |= near;
    if (found == SIZE_MAX && !r->begun[f]) found = f;
  }
  return beside ? SIZE_MAX : found;
}

/* The next file that file f imports and that has not begun; SIZE_MAX: no more. Goes through its text once. */
static size_t next_import(const repository *r, size_t f) {
  pu_str text = r->files[f]->text;
  size_t i = r->at[f];
  while (i < text.len) {
    const char *end = memchr(text.ptr + i, '\n', text.len - i);
    size_t stop = end ? (size_t)(end - text.ptr) : text.len;
    while (i < stop && (text.ptr[i] == ' ' || text.ptr[i] == '\t')) i++;
    pu_str line = pu_str_of(text.ptr + i, PU_MIN(stop - i, (size_t)512));
    bool any = imports(line);
    for (size_t w = 0, len; any && w < line.len; w += len + 1) {
      for (len = 0; w + len < line.len && is_word(line.ptr[w + len]);) len++;
      size_t found = len > 0 ? file_named(r, f, pu_str_of(line.ptr + w, len)) : SIZE_MAX;
      if (found != SIZE_MAX) return found; /* the line is looked at again: there may be more of them */
    }
    r->at[f] = i = stop + 1;
  }
  return SIZE_MAX;
}

/* Depth first, so that what a file imports comes before it; a circle begins with the file whose path is first. */
static pu_err walk(repository *r, pu_error *e) {
  for (size_t first = 0; first < r->n; first++) {
    size_t depth = 0;
    if (r->begun[first]) continue;
    r->begun[first] = true;
    r->stack[depth++] = first;
    while (depth > 0) {
      size_t next = next_import(r, r->stack[depth - 1]);
      if (next != SIZE_MAX) {
        r->begun[next] = true;
        r->stack[depth++] = next;
        continue;
      }
      PU_TRY(take(r->j, r->files[r->stack[--depth]], e));
    }
  }
  return PU_OK;
}

static pu_err join_repository(pu_joiner *j, size_t begin, size_t end, pu_error *e) {
  size_t n = end - begin, mark = pu_arena_mark(j->arena);
  repository r = {.j = j, .n = n};
  r.files = pu_arena_alloc(j->arena, n * sizeof *r.files);
  r.names = pu_arena_alloc(j->arena, n * sizeof *r.names);
  r.stack = pu_arena_alloc(j->arena, (n + 1) * sizeof *r.stack);
  r.at = pu_arena_zalloc(j->arena, n * sizeof *r.at);
  r.begun = pu_arena_zalloc(j->arena, n * sizeof *r.begun);
  if (!r.files || !r.names || !r.stack || !r.at || !r.begun) return nomem(e);
  for (size_t i = 0; i < n; i++) r.files[i] = &j->v[begin + i];
  qsort(r.files, n, sizeof *r.files, by_id);
  for (size_t i = 0; i < n; i++) r.names[i] = (named){stem_of(part_path(r.files[i])), i};
  qsort(r.names, n, sizeof *r.names, by_stem);
  pu_err err = walk(&r, e);
  if (err == PU_OK) err = flush(j, e); /* repositories are not joined */
  pu_arena_release(j->arena, mark);
  return err;
}

static pu_err join_paths(pu_joiner *j, pu_error *e) {
  for (size_t i = 0, end; i < j->n; i = end) {
    for (end = i + 1; end < j->n && j->v[i].group && j->v[end].group == j->v[i].group;) end++;
    PU_TRY(join_repository(j, i, end, e));
  }
  return PU_OK;
}

/* ---- by what they are about ---- */

/* A word that a document is known by, and how many have it. */
typedef struct key {
  uint64_t word;
  uint32_t doc, seen;
} key;

enum { COUNTERS = 1 << 22 };

typedef struct likeness {
  pu_joiner *j;
  uint8_t *seen; /* [COUNTERS]: documents with a word, up to 255 */
  key *keys;     /* by word, then document */
  size_t n_keys;
  uint32_t *of;     /* [n][KEYS]: where a document's keys are in `keys` */
  uint8_t *n_of;    /* [n] */
  uint16_t *shared; /* [n]: keys shared with the present document; 0 between steps */
} likeness;

typedef struct words {
  uint64_t *v;
  size_t n, cap;
} words;

static int by_number(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* The words of a document, each once. Sources are not mixed: each has words of its own. */
static pu_err read_words(const part *p, words *w, pu_error *e) {
  pu_folder f = {.text = p->text};
  pu_token tokens[256];
  uint64_t source = pu_hash64(p->strings[SOURCE].ptr, p->strings[SOURCE].len, 0);
  w->n = 0;
  for (size_t n; (n = pu_fold_next(&f, tokens, PU_COUNT(tokens))) > 0;) {
    if (w->n + n > w->cap) {
      size_t cap = PU_MAX((size_t)4096, 2 * (w->n + n));
      uint64_t *grown = realloc(w->v, cap * sizeof *grown);
      if (!grown) return nomem(e);
      w->v = grown;
      w->cap = cap;
    }
    for (size_t i = 0; i < n; i++) w->v[w->n++] = tokens[i].hash ^ source;
  }
  if (w->n > 1) qsort(w->v, w->n, sizeof *w->v, by_number);
  size_t kept = 0;
  for (size_t i = 0; i < w->n; i++)
    if (i == 0 || w->v[i] != w->v[i - 1]) w->v[kept++] = w->v[i];
  w->n = kept;
  return PU_OK;
}

static int rarest_first(const void *a, const void *b) {
  const key *x = a, *y = b;
  if (x->seen != y->seen) return x->seen < y->seen ? -1 : 1;
  return (x->word > y->word) - (x->word < y->word);
}

static int by_word(const void *a, const void *b) {
  const key *x = a, *y = b;
  if (x->word != y->word) return x->word < y->word ? -1 : 1;
  return (x->doc > y->doc) - (x->doc < y->doc);
}

/* Of the words that at least one other document has, the rarest. */
static pu_err choose_keys(likeness *l, uint32_t doc, words *w, key **room, size_t *cap, pu_error *e) {
  size_t n = 0;
  if (w->n > *cap) {
    key *grown = realloc(*room, w->n * sizeof *grown);
    if (!grown) return nomem(e);
    *room = grown;
    *cap = w->n;
  }
  for (size_t i = 0; i < w->n; i++) {
    uint8_t seen = l->seen[w->v[i] % COUNTERS];
    if (seen > 1 && seen < 255) (*room)[n++] = (key){w->v[i], doc, seen};
  }
  if (n > 1) qsort(*room, n, sizeof **room, rarest_first);
  n = PU_MIN(n, (size_t)KEYS);
  if (n > 0) memcpy(l->keys + l->n_keys, *room, n * sizeof **room);
  l->n_keys += n;
  return PU_OK;
}

static pu_err find_keys(likeness *l, pu_error *e) {
  words w = {0};
  key *room = NULL;
  size_t cap = 0;
  pu_err err = PU_OK;
  for (size_t i = 0; err == PU_OK && i < l->j->n; i++) {
    err = read_words(&l->j->v[i], &w, e);
    for (size_t k = 0; err == PU_OK && k < w.n; k++) {
      uint8_t *seen = &l->seen[w.v[k] % COUNTERS];
      *seen = (uint8_t)(*seen + (*seen < 255));
    }
  }
  for (size_t i = 0; err == PU_OK && i < l->j->n; i++) {
    err = read_words(&l->j->v[i], &w, e);
    if (err == PU_OK) err = choose_keys(l, (uint32_t)i, &w, &room, &cap, e);
  }
  free(w.v);
  free(room);
  if (err != PU_OK || l->n_keys == 0) return err;
  qsort(l->keys, l->n_keys, sizeof *l->keys, by_word);
  for (size_t k = 0; k < l->n_keys; k++) {
    uint32_t d = l->keys[k].doc;
    l->of[d * (size_t)KEYS + l->n_of[d]++] = (uint32_t)k;
  }
  return PU_OK;
}

/* Calls for each other document of a key: those next to it in order, LOOKED_AT at most. */
static void around(const likeness *l, uint32_t at, size_t *begin, size_t *end) {
  *begin = *end = at;
  while (*begin > 0 && l->keys[*begin - 1].word == l->keys[at].word && at - *begin < LOOKED_AT / 2) --*begin;
  while (*end < l->n_keys && l->keys[*end].word == l->keys[at].word && *end - at < LOOKED_AT / 2) ++*end;
}

/* The document that shares most keys with doc, of those that are left; SIZE_MAX: none shares any. */
static size_t most_like(likeness *l, size_t doc) {
  size_t best = SIZE_MAX, begin, end;
  for (int i = 0; i < l->n_of[doc]; i++) {
    around(l, l->of[doc * KEYS + (size_t)i], &begin, &end);
    for (size_t k = begin; k < end; k++) {
      size_t d = l->keys[k].doc;
      if (l->j->v[d].used) continue;
      uint16_t n = ++l->shared[d];
      if (best == SIZE_MAX || n > l->shared[best] || (n == l->shared[best] && d < best)) best = d;
    }
  }
  for (int i = 0; i < l->n_of[doc]; i++) {
    around(l, l->of[doc * KEYS + (size_t)i], &begin, &end);
    for (size_t k = begin; k < end; k++) l->shared[l->keys[k].doc] = 0;
  }
  return best;
}

/* Where nothing is like it, the next of its source goes on. */
static pu_err chain(likeness *l, pu_error *e) {
  pu_joiner *j = l->j;
  for (size_t first = 0; first < j->n; first++) {
    size_t at = j->v[first].used ? SIZE_MAX : first;
    if (at != SIZE_MAX && j->n_parts > 0 && !pu_str_eq(j->out.source, j->v[at].strings[SOURCE])) PU_TRY(flush(j, e));
    while (at != SIZE_MAX) {
      PU_TRY(take(j, &j->v[at], e));
      at = j->n_parts > 0 ? most_like(l, at) : SIZE_MAX;
    }
  }
  return flush(j, e);
}

static pu_err join_similar(pu_joiner *j, pu_error *e) {
  size_t n = j->n + 1;
  likeness l = {.j = j};
  l.seen = pu_arena_zalloc(j->arena, COUNTERS);
  l.keys = pu_arena_alloc(j->arena, n * KEYS * sizeof *l.keys);
  l.of = pu_arena_alloc(j->arena, n * KEYS * sizeof *l.of);
  l.n_of = pu_arena_zalloc(j->arena, n);
  l.shared = pu_arena_zalloc(j->arena, n * sizeof *l.shared);
  if (!l.seen || !l.keys || !l.of || !l.n_of || !l.shared) return nomem(e);
  PU_TRY(find_keys(&l, e));
  return chain(&l, e);
}

pu_err pu_joiner_write(pu_joiner *j, pu_join_put put, void *arg, pu_error *e) {
  j->put = put;
  j->arg = arg;
  return j->how == PU_JOIN_PATH ? join_paths(j, e) : join_similar(j, e);
}
