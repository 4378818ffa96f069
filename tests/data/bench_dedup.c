/* Speed and quality of deduplication, on FILES (text or JSON Lines; none: made-up text):
 *   bench_dedup [--signatures] [--pairs N] [FILE…]
 * prints the rate of signatures on one core, the error of the estimate against theory, the detection curve of the
 * bands, precision and recall on planted pairs, and what each mode takes of time and disk on the files; with
 * --signatures the first of these alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dedup_texts.h"
#include "puyu/data.h"
#include "tests/data/bench_time.h"

enum { MAX_DOCS = 2000000 };

typedef struct texts {
  pu_dedup_doc *docs;
  size_t n, bytes;
} texts;

static void give_up(const pu_error *e) {
  fprintf(stderr, "bench_dedup: %s\n", e->msg);
  exit(1);
}
#define must(call)                                                                                                     \
  do {                                                                                                                 \
    if ((call) != PU_OK) give_up(&e);                                                                                  \
  } while (0)

static void add(texts *t, pu_str id, pu_str text) {
  if (t->n == MAX_DOCS) return;
  char *copy = malloc(text.len + id.len + 1);
  if (!copy) exit(1);
  if (text.len > 0) memcpy(copy, text.ptr, text.len);
  if (id.len > 0) memcpy(copy + text.len, id.ptr, id.len);
  t->docs[t->n] = (pu_dedup_doc){.n = t->n, .id = {copy + text.len, id.len}, .text = {copy, text.len}};
  t->n++;
  t->bytes += text.len;
}

static texts load(const char *const *paths, size_t n) {
  pu_error e = {0};
  texts t = {calloc(MAX_DOCS, sizeof *t.docs), 0, 0};
  pu_corpus *c;
  if (!t.docs) exit(1);
  must(pu_corpus_open(paths, n, PU_SPLIT_BLANK, NULL, &c, &e));
  for (;;) {
    pu_document d;
    bool found;
    must(pu_corpus_next(c, &d, &found, &e));
    if (!found) break;
    add(&t, d.id, d.text);
  }
  pu_corpus_close(c);
  return t;
}

static texts make(size_t bytes) {
  texts t = {calloc(MAX_DOCS, sizeof *t.docs), 0, 0};
  pu_rng r;
  pu_rng_seed(&r, 1);
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  while (t.docs && t.bytes < bytes) {
    pu_buf_clear(&b);
    while (b.len < 4096) put_word(&b, pu_rng_below(&r, 50000));
    add(&t, pu_str_c("made"), pu_str_of(b.data, b.len));
  }
  pu_buf_deinit(&b);
  return t;
}

static void signatures(const texts *t) {
  double best = 1e9;
  uint32_t s[PU_MINHASHES], all = 0;
  size_t shingles = 0;
  for (int i = 0; i < 5; i++) {
    double from = used();
    shingles = 0;
    for (size_t k = 0; k < t->n; k++) {
      shingles += pu_minhash(t->docs[k].text, s);
      all ^= s[k % PU_MINHASHES];
    }
    best = PU_MIN(best, used() - from);
  }
  printf("signatures: %.1f MB, %zu documents, %zu shingles: %.1f MB/s, %.1f M shingles/s (%08x)\n",
         (double)t->bytes / 1e6, t->n, shingles, (double)t->bytes / 1e6 / best, (double)shingles / 1e6 / best, all);
}

static void estimates(void) {
  pu_rng r;
  pu_rng_seed(&r, 2);
  pu_buf a, b;
  pu_buf_init(&a, 1 << 20);
  pu_buf_init(&b, 1 << 20);
  printf("estimate: similarity, bias, deviation, deviation of 128 independent hashes\n");
  for (int step = 1; step < 10; step++) {
    enum { TRIES = 1000 };
    double sum = 0, square = 0, want = 0;
    for (int i = 0; i < TRIES; i++) {
      uint32_t x[PU_MINHASHES], y[PU_MINHASHES];
      pu_buf_clear(&a);
      pu_buf_clear(&b);
      want = put_pair(&r, &a, &b, 500, step / 10.0);
      pu_minhash(pu_str_of(a.data, a.len), x);
      pu_minhash(pu_str_of(b.data, b.len), y);
      double off = pu_minhash_similarity(x, y) - want;
      sum += off;
      square += off * off;
    }
    printf("  %.3f %+.4f %.4f %.4f\n", want, sum / TRIES, sqrt(square / TRIES), sqrt(want * (1 - want) / PU_MINHASHES));
  }
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
}

static pu_dedup *find(const texts *t, size_t units, pu_dedup_how o, double *seconds) {
  char dir[] = "/tmp/puyu-bench-XXXXXX";
  pu_error e = {0};
  text_unit *u = calloc(units, sizeof *u);
  if (!u || !mkdtemp(dir)) exit(1);
  for (size_t i = 0; i < units; i++) {
    size_t from = t->n * i / units;
    u[i] = (text_unit){t->docs + from, t->n * (i + 1) / units - from};
  }
  pu_dedup_input in = {units, texts_each, u, 0};
  pu_dedup *d;
  double from = used();
  must(pu_dedup_find(&in, dir, &o, &d, &e));
  *seconds = used() - from;
  must(pu_dedup_clear(d, &e));
  free(u);
  return d;
}

/* Pairs at all similarities; the threshold's band is 0.05 to each side. */
static void planted(size_t pairs, double threshold) {
  pu_rng r;
  pu_rng_seed(&r, 3);
  texts t = {calloc(2 * pairs + 1, sizeof *t.docs), 0, 0};
  double *j = calloc(pairs + 1, sizeof *j), seconds;
  pu_buf a, b;
  pu_buf_init(&a, 1 << 20);
  pu_buf_init(&b, 1 << 20);
  if (!t.docs || !j) exit(1);
  for (size_t i = 0; i < pairs; i++) {
    pu_buf_clear(&a);
    pu_buf_clear(&b);
    j[i] = put_pair(&r, &a, &b, 100 + (int)pu_rng_below(&r, 400), pu_rng_uniform(&r));
    add(&t, pu_str_c("a"), pu_str_of(a.data, a.len));
    add(&t, pu_str_c("b"), pu_str_of(b.data, b.len));
  }
  pu_dedup_how o = {.mode = PU_DEDUP_MINHASH, .threshold = threshold};
  pu_dedup *d = find(&t, 8, o, &seconds);
  size_t above = 0, found = 0, near = 0, near_found = 0, below = 0, wrong = 0, clustered = 0, right = 0;
  for (size_t i = 0; i < pairs; i++) {
    bool yes = pu_dedup_fate_of(d, 2 * i + 1).clustered;
    clustered += yes;
    right += yes && j[i] >= threshold;
    if (j[i] >= threshold + 0.05) {
      above++;
      found += yes;
    } else if (j[i] >= threshold) {
      near++;
      near_found += yes;
    } else if (j[i] < threshold - 0.05) {
      below++;
      wrong += yes;
    }
  }
  printf(
      "planted: %zu pairs, %.1f MB, threshold %.2f: found %.4f of %zu above the band, %.4f of %zu in its upper half, "
      "%.4f of %zu below it; precision %.4f; %.1f s\n",
      pairs, (double)t.bytes / 1e6, threshold, (double)found / (double)above, above, (double)near_found / (double)near,
      near, (double)wrong / (double)below, below, (double)right / (double)clustered, seconds);
  pu_dedup_free(d);
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
}

static void modes(const texts *t) {
  for (int m = 0; m < PU_DEDUP_MODES; m++) {
    pu_dedup_how o = {.mode = (pu_dedup_mode)m, .threshold = 0.7};
    double seconds;
    pu_error e = {0};
    pu_dedup *d = find(t, 8, o, &seconds);
    pu_dedup_stats s = pu_dedup_stats_of(d);
    uint64_t gone = 0, bytes = 0;
    pu_buf out;
    pu_buf_init(&out, PU_BUF_MAX);
    for (size_t i = 0; i < t->n; i++) {
      uint64_t cut = 0;
      pu_buf_clear(&out);
      if (pu_dedup_cuts(o.mode)) {
        must(pu_dedup_rewrite(d, i, t->docs[i].text, &out, &cut, &e));
      } else {
        pu_dedup_fate f = pu_dedup_fate_of(d, i);
        if (f.clustered && f.kept != i) cut = t->docs[i].text.len;
      }
      gone += cut > 0;
      bytes += cut;
    }
    pu_buf_deinit(&out);
    printf("%s: %.2f s, %.1f MB/s; %llu documents with %.3f MB to go; %llu pairs; disk %.1f bytes a document, %.3f a "
           "byte of text\n",
           pu_dedup_mode_names[m], seconds, (double)t->bytes / 1e6 / seconds, (unsigned long long)gone,
           (double)bytes / 1e6, (unsigned long long)s.pairs, (double)s.disk / (double)t->n,
           (double)s.disk / (double)t->bytes);
    pu_dedup_free(d);
  }
}

int main(int argc, char **argv) {
  size_t pairs = 20000;
  int at = 1;
  bool alone = at < argc && strcmp(argv[at], "--signatures") == 0;
  at += alone;
  if (at + 1 < argc && strcmp(argv[at], "--pairs") == 0) {
    pairs = strtoull(argv[at + 1], NULL, 10);
    at += 2;
  }
  texts t = at < argc ? load((const char *const *)argv + at, (size_t)(argc - at)) : make((size_t)64 << 20);
  signatures(&t);
  if (alone) return 0;
  estimates();
  for (int i = 5; i < 10; i++) {
    pu_bands b = pu_bands_for(i / 10.0);
    printf("bands for %.1f: %d of %d rows; found at 0, 0.1 ... 1:", i / 10.0, b.bands, b.rows);
    for (int k = 0; k <= 10; k++) printf(" %.3f", pu_bands_found(b, k / 10.0));
    printf("\n");
  }
  planted(pairs, 0.7);
  modes(&t);
  return 0;
}
