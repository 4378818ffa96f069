/* How well and how fast a folder's passages are found: bench_search DIR [QUESTIONS.jsonl]
 *
 * Indexes DIR into a file beside it that is removed again, then asks
 * - sentences of its texts, chosen by a hash: right is a passage that has the sentence, white space
 *   aside;
 * - four pieces of each (words; of Chinese two characters), in another order;
 * - questions, {"query": …, "id": "FILE#ID"} a line: right is that document.
 * Prints the share of queries whose first hit, and of whose first five one, is right, and times, of this
 * process alone. No test. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "puyu/data.h"
#include "puyu/rag.h"
#include "tests/data/bench_time.h"

enum { QUERIES = 1000, LEAST = 30, MOST = 240, PIECES = 4 };

typedef struct sample {
  char *text;
  size_t len;
  uint64_t key; /* the smallest of all sentences' are taken */
} sample;

typedef struct tally {
  size_t n, first, five;
  double seconds, worst;
} tally;

static void fatal(const pu_error *e) {
  fprintf(stderr, "bench_search: %s\n", e->msg);
  exit(1);
}

/* ---- sentences
 * -------------------------------------------------------------------------------------------------------- */

static size_t sentence(pu_str s) {
  for (size_t i = 0; i < s.len; i++) {
    if (s.ptr[i] == '\n') return i + 1;
    if (i > 0 && s.ptr[i] == ' ' && strchr(".!?", s.ptr[i - 1])) return i + 1;
    if (i >= 2 && (memcmp(s.ptr + i - 2, "。", 3) == 0 || memcmp(s.ptr + i - 2, "？", 3) == 0)) return i + 1;
  }
  return s.len;
}

static void samples_add(sample *v, size_t *n, pu_str s) {
  while (s.len > 0 && (uint8_t)s.ptr[s.len - 1] <= ' ') s.len--;
  while (s.len > 0 && (uint8_t)s.ptr[0] <= ' ') s.ptr++, s.len--;
  if (s.len < LEAST || s.len > MOST) return;
  uint64_t key = pu_hash64(s.ptr, s.len, 7);
  size_t at = *n;
  for (size_t i = 0; i < *n; i++)
    if (v[i].key == key) return; /* the same sentence */
  if (*n == QUERIES) {
    at = 0;
    for (size_t i = 1; i < *n; i++)
      if (v[i].key > v[at].key) at = i;
    if (v[at].key < key) return;
    free(v[at].text);
  } else {
    ++*n;
  }
  v[at] = (sample){strndup(s.ptr, s.len), s.len, key};
}

static size_t samples_take(const char *dir, sample *v) {
  pu_corpus *c;
  pu_document d;
  pu_error e;
  size_t n = 0;
  bool found = true;
  if (pu_corpus_open(&dir, 1, PU_SPLIT_FILE, NULL, &c, &e) != PU_OK) fatal(&e);
  while (found) {
    if (pu_corpus_next(c, &d, &found, &e) != PU_OK) fatal(&e);
    for (size_t at = 0; found && at < d.text.len;) {
      size_t len = sentence(pu_str_of(d.text.ptr + at, d.text.len - at));
      samples_add(v, &n, pu_str_of(d.text.ptr + at, len));
      at += len;
    }
  }
  pu_corpus_close(c);
  return n;
}

/* Words, or where there are hardly any, pairs of characters: some of them, not in their order. */
static void pieces(const sample *s, pu_buf *out) {
  size_t at[MOST], len[MOST], n = 0;
  bool wide = (uint8_t)s->text[s->len / 2] >= 0x80 || (uint8_t)s->text[s->len / 3] >= 0x80;
  for (size_t i = 0; i < s->len;) {
    size_t from = i;
    if (wide) {
      for (int k = 0; k < 2 && i < s->len && (uint8_t)s->text[i] >= 0xE4; k++) i += 3;
    } else {
      while (i < s->len && s->text[i] != ' ') i++;
    }
    if (i <= s->len && i - from >= (wide ? 6 : 4)) at[n] = from, len[n++] = i - from;
    if (i == from) i++;
  }
  pu_buf_clear(out);
  for (size_t k = 0; k < PIECES && n > 0; k++) {
    size_t i = (size_t)(pu_random_at(s->key, 1, k) % n);
    pu_buf_append(out, s->text + at[i], len[i]);
    pu_buf_putc(out, ' ');
  }
}

/* ---- asking
 * ----------------------------------------------------------------------------------------------------------- */

/* Texts wrap their lines in many ways. */
static size_t squeeze(char *p, size_t n) {
  size_t kept = 0;
  for (size_t i = 0; i < n; i++)
    if ((uint8_t)p[i] > ' ') p[kept++] = p[i];
  return kept;
}

static bool has(pu_rag *r, const pu_store_hit *h, pu_str want) {
  pu_buf text;
  pu_error e;
  bool found;
  pu_buf_init(&text, PU_STORE_TEXT_MAX);
  if (pu_store_get(pu_rag_store(r), h->source, h->id, h->begin, (size_t)(h->end - h->begin), NULL, &text, &found, &e))
    fatal(&e);
  char *wanted = strndup(want.ptr, want.len);
  size_t n = squeeze(wanted, want.len);
  bool is = text.len > 0 && memmem(text.data, squeeze(text.data, text.len), wanted, n) != NULL;
  free(wanted);
  pu_buf_deinit(&text);
  return is;
}

static bool is_document(const pu_store_hit *h, pu_str want) {
  return want.len == h->source.len + h->id.len && memcmp(want.ptr, h->source.ptr, h->source.len) == 0 &&
         memcmp(want.ptr + h->source.len, h->id.ptr, h->id.len) == 0;
}

static void ask(pu_rag *r, pu_str query, pu_str want, bool document, tally *t) {
  const pu_store_ask a = {.query = query, .k = 5, .open = "[", .close = "]"};
  pu_store_hits hits;
  pu_error e;
  double from = used();
  if (pu_store_search(pu_rag_store(r), &a, &hits, &e) != PU_OK) fatal(&e);
  double took = used() - from;
  t->seconds += took;
  t->worst = PU_MAX(t->worst, took);
  t->n++;
  for (size_t i = 0; i < hits.n; i++) {
    if (!(document ? is_document(&hits.v[i], want) : has(r, &hits.v[i], want))) continue;
    t->first += i == 0;
    t->five++;
    break;
  }
  pu_store_hits_deinit(&hits);
}

static void show(const char *what, const tally *t) {
  double n = (double)PU_MAX(t->n, (size_t)1);
  printf("%-10s %5zu queries: right first %5.1f %%, in five %5.1f %%; %.2f ms each, %.0f ms the slowest\n", what, t->n,
         100 * (double)t->first / n, 100 * (double)t->five / n, 1e3 * t->seconds / n, 1e3 * t->worst);
}

static void questions(pu_rag *r, const char *path) {
  tally t = {0};
  char *line = NULL;
  size_t cap = 0;
  FILE *f = fopen(path, "re");
  pu_error e;
  for (ssize_t n; f && (n = getline(&line, &cap, f)) > 0;) {
    json_t *o;
    const char *query, *id;
    if (pu_json_parse(path, pu_str_of(line, (size_t)n), &o, &e) || pu_json_str_or(o, "query", "", &query, path, &e) ||
        pu_json_str_or(o, "id", "", &id, path, &e))
      fatal(&e);
    ask(r, pu_str_c(query), pu_str_c(id), true, &t);
    json_decref(o);
  }
  free(line);
  if (f) fclose(f);
  show("questions", &t);
}

int main(int argc, char **argv) {
  static sample v[QUERIES];
  pu_rag *r;
  pu_rag_counts c;
  pu_store_counts s;
  pu_error e;
  pu_buf some;
  char index[4096];
  if (argc < 2) return fprintf(stderr, "bench_search DIR [QUESTIONS.jsonl]\n"), 2;
  snprintf(index, sizeof index, "%s.bench-index", argv[1]);
  (void)unlink(index);
  double from = used();
  if (pu_rag_open(argv[1], index, &r, &e) != PU_OK || pu_rag_update(r, NULL, NULL, &c, &e) != PU_OK) fatal(&e);
  double took = used() - from;
  from = used();
  if (pu_rag_update(r, NULL, NULL, &c, &e) != PU_OK) fatal(&e);
  double again = used() - from;
  if (pu_store_count(pu_rag_store(r), &s, &e) != PU_OK) fatal(&e);
  size_t n = samples_take(argv[1], v);
  double bytes = 0;
  struct stat st;
  if (stat(index, &st) == 0) bytes = (double)st.st_size;
  printf("%llu files, %llu documents, %llu passages; indexed in %.2f s, looked at again in %.3f s; index %.1f MiB\n",
         (unsigned long long)s.sources, (unsigned long long)s.documents, (unsigned long long)s.passages, took, again,
         bytes / 0x1p20);
  tally whole = {0}, parts = {0};
  pu_buf_init(&some, 1 << 16);
  for (size_t i = 0; i < n; i++) {
    pu_str text = pu_str_of(v[i].text, v[i].len);
    ask(r, text, text, false, &whole);
    pieces(&v[i], &some);
    ask(r, pu_str_of(some.data ? some.data : "", some.len), text, false, &parts);
    free(v[i].text);
  }
  show("sentences", &whole);
  show("pieces", &parts);
  if (argc > 2) questions(r, argv[2]);
  pu_buf_deinit(&some);
  pu_rag_close(r);
  (void)unlink(index);
  return 0;
}
