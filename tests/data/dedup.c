/* Folding, signatures, sorting, clusters and passages: hand-made cases, and random ones against plain references. */
#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dedup_texts.h"
#include "src/data/dedup/sort.h"
#include "tests/test.h"

static char *scratch(void) {
  static char dir[64];
  snprintf(dir, sizeof dir, "/tmp/puyu-dedup-XXXXXX");
  assert_non_null(mkdtemp(dir));
  return dir;
}

static void scratch_gone(const char *dir) {
  pu_error e;
  assert_ok(pu_remove_tree(dir, &e), &e);
}

/* ---- folding ------------------------------------------------------------------------------------------------------
 */

static void assert_folds(const char *text, const char *want) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  assert_true(pu_fold_text(pu_str_c(text), &b));
  assert_string_equal(b.data ? b.data : "", want);
  pu_buf_deinit(&b);
}

static void folding(void **state) {
  (void)state;
  assert_folds("", "");
  assert_folds(" ,.!? \n\t", "");
  assert_folds("Hello, World! 42", "hello world 42 ");
  assert_folds("don't", "don t ");
  assert_folds("ＡＢＣ　１２３", "abc 123 "); /* full width */
  assert_folds("Stra\xC3\x9F"
               "e",
               "strasse ");                               /* ß folds to two */
  assert_folds("caf\xC3\xA9 cafe\xCC\x81", "cafe cafe "); /* composed and combining */
  assert_folds("co\xC2\xADop", "coop ");                  /* soft hyphen */
  assert_folds("春眠不觉晓，处处闻啼鸟。", "春 眠 不 觉 晓 处 处 闻 啼 鸟 ");
  assert_folds("用GPU训练3天", "用 gpu 训 练 3 天 ");
  assert_folds("カﾞギ", "カ キ "); /* voice marks go with the accents */
  assert_folds("한국어 단어", "한국어 단어 ");
  assert_folds("ПРИВЕТ мир", "привет мир ");
  assert_folds("a\xFF"
               "b",
               "a b "); /* no UTF-8 */
  assert_folds("\xF0\xA0\x80\x80x", "\xF0\xA0\x80\x80 x ");
}

/* However few tokens are asked for at once, they are the same. */
static void folding_in_pieces(void **state) {
  (void)state;
  const char *text = "The quick 棕色狐狸 jumps-over ﬁve \xFF dogs, 很 lazy．";
  pu_token all[64], some[2];
  pu_folder f = {pu_str_c(text), 0}, g = f;
  size_t n = pu_fold_next(&f, all, 64), seen = 0;
  assert_int_equal(pu_fold_next(&f, all + n, 64 - n), 0);
  for (size_t k; (k = pu_fold_next(&g, some, 2)) > 0;)
    for (size_t i = 0; i < k; i++, seen++) {
      assert_true(seen < n);
      assert_true(some[i].hash == all[seen].hash && some[i].at == all[seen].at && some[i].len == all[seen].len);
    }
  assert_int_equal(seen, n);
}

/* ---- signatures ---------------------------------------------------------------------------------------------------
 */

static void kernels_agree(void **state) {
  (void)state;
  static const char *const sets[] = {"avx2", "avx512"};
  uint32_t a[PU_MINHASHES], b[PU_MINHASHES], x[300];
  pu_rng r;
  pu_rng_seed(&r, 3);
  for (int i = 0; i < PU_MINHASHES; i++) {
    a[i] = (uint32_t)pu_rng_next(&r) | 1;
    b[i] = (uint32_t)pu_rng_next(&r);
  }
  for (size_t i = 0; i < PU_COUNT(x); i++) x[i] = (uint32_t)pu_rng_next(&r);
  for (size_t s = 0; s < PU_COUNT(sets); s++) {
    pu_minhash_fn fast = pu_minhash_kernel(sets[s]);
    for (size_t n = 0; fast && n <= PU_COUNT(x); n += 1 + n / 3) {
      uint32_t want[PU_MINHASHES], got[PU_MINHASHES];
      memset(want, 0xff, sizeof want);
      memset(got, 0xff, sizeof got);
      pu_minhash_ref(want, x, n, a, b);
      fast(got, x, n, a, b);
      assert_memory_equal(want, got, sizeof want);
    }
  }
}

static double set_similarity(pu_str x, pu_str y) {
  pu_error e;
  pu_buf a, b;
  pu_buf_init(&a, PU_BUF_MAX);
  pu_buf_init(&b, PU_BUF_MAX);
  assert_ok(pu_shingle_set(x, &a, &e), &e);
  assert_ok(pu_shingle_set(y, &b, &e), &e);
  double j = pu_jaccard((const uint32_t *)(void *)a.data, a.len / 4, (const uint32_t *)(void *)b.data, b.len / 4);
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
  return j;
}

/* Planted pairs have the similarity that was planted, and signatures tell it within their error. */
static void estimates(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 7);
  pu_buf a, b;
  pu_buf_init(&a, 1 << 20);
  pu_buf_init(&b, 1 << 20);
  for (int step = 1; step < 10; step++) {
    double bias = 0, square = 0, want = 0;
    enum { TRIES = 40 };
    for (int t = 0; t < TRIES; t++) {
      uint32_t x[PU_MINHASHES], y[PU_MINHASHES];
      pu_buf_clear(&a);
      pu_buf_clear(&b);
      want = put_pair(&r, &a, &b, 600, step / 10.0);
      assert_true(fabs(want - step / 10.0) < 0.02);
      assert_true(fabs(set_similarity(pu_str_of(a.data, a.len), pu_str_of(b.data, b.len)) - want) <
                  0.003); /* 32 bits may collide */
      assert_int_equal(pu_minhash(pu_str_of(a.data, a.len), x), 596);
      pu_minhash(pu_str_of(b.data, b.len), y);
      double off = pu_minhash_similarity(x, y) - want;
      bias += off / TRIES;
      square += off * off / TRIES;
    }
    double deviation = sqrt(want * (1 - want) / PU_MINHASHES);
    assert_true(fabs(bias) < 4 * deviation / sqrt(TRIES));
    assert_true(sqrt(square) < 1.5 * deviation);
  }
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
}

static void short_texts(void **state) {
  (void)state;
  uint32_t x[PU_MINHASHES], y[PU_MINHASHES];
  assert_int_equal(pu_minhash(pu_str_c(" ... "), x), 0);
  assert_int_equal(pu_minhash(pu_str_c("One two"), x), 1);
  assert_int_equal(pu_minhash(pu_str_c("one, TWO!"), y), 1);
  assert_memory_equal(x, y, sizeof x);
  assert_int_equal(pu_minhash(pu_str_c("a b c d e"), x), 1);
  assert_int_equal(pu_minhash(pu_str_c("a b c d e f"), x), 2);
  assert_true(set_similarity(pu_str_c("春眠不觉晓处处闻"), pu_str_c("春眠不觉晓，处处闻。")) == 1);
  assert_true(set_similarity(pu_str_c(""), pu_str_c("")) == 0);
}

static void bands(void **state) {
  (void)state;
  pu_bands b = pu_bands_for(0.7);
  assert_int_equal(b.rows, 5);
  assert_int_equal(b.bands, 25);
  for (int t = 1; t <= 100; t++) {
    b = pu_bands_for(t / 100.0);
    assert_true(b.rows >= 1 && b.bands >= 1 && b.rows * b.bands <= PU_MINHASHES);
    if (t >= 3) assert_true(pu_bands_found(b, t / 100.0) >= 0.95);
  }
}

/* ---- sorting ------------------------------------------------------------------------------------------------------
 */

static int by_pair(const void *x, const void *y) {
  const pu_pair *a = x, *b = y;
  if (a->a != b->a) return a->a < b->a ? -1 : 1;
  return (a->b > b->b) - (a->b < b->b);
}

static void sorts(size_t n, uint64_t mask, int least_runs) {
  pu_error e;
  pu_rng r;
  pu_rng_seed(&r, n ^ mask);
  char *dir = scratch(), prefix[128];
  snprintf(prefix, sizeof prefix, "%s/s", dir);
  pu_pair *want = malloc((n + 1) * sizeof *want);
  pu_sorter *s;
  assert_ok(pu_sorter_create(prefix, 1 << 20, &s, &e), &e);
  for (size_t i = 0; i < n; i++) {
    want[i] = (pu_pair){pu_rng_next(&r) & mask, pu_rng_next(&r) & mask};
    assert_ok(pu_sorter_add(s, want[i].a, want[i].b, &e), &e);
  }
  qsort(want, n, sizeof *want, by_pair);
  for (size_t i = 0; i <= n; i++) {
    pu_pair x;
    bool found;
    assert_ok(pu_sorter_next(s, &x, &found, &e), &e);
    assert_int_equal(found, i < n);
    if (found) assert_true(x.a == want[i].a && x.b == want[i].b);
  }
  assert_true(pu_sorter_runs(s) >= least_runs);
  pu_sorter_free(s);
  free(want);
  assert_int_equal(rmdir(dir), 0); /* no run is left behind */
}

static void sorting(void **state) {
  (void)state;
  sorts(0, UINT64_MAX, 0);
  sorts(1, UINT64_MAX, 0);
  sorts(1000, UINT64_MAX, 0);
  sorts(1000, 3, 0);
  sorts(1 << 16, UINT64_MAX, 0);
  sorts(300000, UINT64_MAX, 4);
  sorts(300000, 0xff00000000000001u, 4);
  if (!PU_TSAN) sorts(34 << 16, UINT64_MAX, 35); /* more runs than are merged at once */
}

/* ---- finding, in memory -------------------------------------------------------------------------------------------
 */

enum { UNITS = 3 };

/* Texts dealt to units in turn blocks: places are their numbers. */
typedef struct corpus {
  pu_dedup_doc docs[600];
  size_t n;
  text_unit units[UNITS];
} corpus;

static void put_doc(corpus *c, pu_str text, const char *time, double score) {
  char id[32];
  assert_true(c->n < PU_COUNT(c->docs));
  snprintf(id, sizeof id, "doc-%zu", c->n);
  char *copy = malloc(text.len + 1);
  memcpy(copy, text.ptr, text.len);
  pu_str own = pu_str_of(copy, text.len);
  c->docs[c->n] =
      (pu_dedup_doc){.n = c->n, .id = pu_str_c(strdup(id)), .text = own, .time = pu_str_c(time), .score = score};
  c->n++;
}

static void corpus_free(corpus *c) {
  for (size_t i = 0; i < c->n; i++) {
    free((char *)c->docs[i].id.ptr);
    free((char *)c->docs[i].text.ptr);
  }
  c->n = 0;
}

static pu_dedup_input corpus_input(corpus *c) {
  for (size_t u = 0; u < UNITS; u++) {
    size_t from = c->n * u / UNITS, to = c->n * (u + 1) / UNITS;
    c->units[u] = (text_unit){c->docs + from, to - from};
  }
  return (pu_dedup_input){UNITS, texts_each, c->units, 0};
}

static pu_dedup *find(corpus *c, const char *dir, const pu_dedup_how *o) {
  pu_error e;
  pu_dedup *d;
  pu_dedup_input in = corpus_input(c);
  assert_ok(pu_dedup_find(&in, dir, o, &d, &e), &e);
  assert_int_equal(pu_dedup_place(d, UNITS), c->n);
  return d;
}

static void assert_kept(const pu_dedup *d, uint64_t place, int64_t kept) {
  pu_dedup_fate f = pu_dedup_fate_of(d, place);
  assert_int_equal(f.clustered, kept >= 0);
  if (kept < 0) return;
  char id[32];
  snprintf(id, sizeof id, "doc-%lld", (long long)kept);
  assert_int_equal(f.kept, kept);
  assert_true(pu_str_eq(f.kept_id, pu_str_c(id)));
}

static void exact_ones(void **state) {
  (void)state;
  static const char *const texts[] = {"a", "b", "a", "", "a ", "b", "", "c"};
  static const int64_t kept[] = {0, 1, 0, 3, -1, 1, 3, -1};
  corpus c = {.n = 0};
  for (size_t i = 0; i < PU_COUNT(texts); i++) put_doc(&c, pu_str_c(texts[i]), "", 0);
  char *dir = scratch();
  pu_dedup *d = find(&c, dir, &(pu_dedup_how){.mode = PU_DEDUP_EXACT});
  for (size_t i = 0; i < c.n; i++) assert_kept(d, i, kept[i]);
  pu_dedup_free(d);
  scratch_gone(dir);
  corpus_free(&c);
}

static void who_stays(void **state) {
  (void)state;
  static const int64_t kept[PU_KEEPS] = {0, 2, 3, 1};
  const char *base = "one two three four five six seven eight nine ten eleven twelve";
  corpus c = {.n = 0};
  put_doc(&c, pu_str_c(base), "2019", NAN);
  put_doc(&c, pu_str_c("One two three four five six seven eight nine ten eleven twelve"), "2020-01-01T00:00:00", 0.9);
  put_doc(&c, pu_str_c("one two three four five six seven eight nine ten eleven twelve."), "2020-01-02", 0.2);
  put_doc(&c, pu_str_c("one two three four five six seven eight nine ten eleven, twelve!"), "", 0.9);
  for (int k = 0; k < PU_KEEPS; k++) {
    char *dir = scratch();
    pu_dedup_how o = {.mode = PU_DEDUP_MINHASH, .threshold = 0.7, .keep = (pu_dedup_keep)k, .score = "q.s"};
    pu_dedup *d = find(&c, dir, &o);
    for (size_t i = 0; i < c.n; i++) assert_kept(d, i, kept[k]);
    assert_true(pu_dedup_fate_of(d, 2).similarity == 1);
    pu_dedup_free(d);
    scratch_gone(dir);
  }
  corpus_free(&c);
}

/* Pairs planted above and below the threshold: nearly all of those above are found, none of those below. */
static void planted(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 11);
  corpus c = {.n = 0};
  double j[300];
  pu_buf a, b;
  pu_buf_init(&a, 1 << 20);
  pu_buf_init(&b, 1 << 20);
  for (size_t i = 0; i < 300; i++) {
    pu_buf_clear(&a);
    pu_buf_clear(&b);
    j[i] = put_pair(&r, &a, &b, 100 + (int)pu_rng_below(&r, 200),
                    i % 2 ? 0.75 + 0.01 * (double)(i % 20) : 0.02 * (double)(i % 33));
    put_doc(&c, pu_str_of(a.data, a.len), "", 0);
    put_doc(&c, pu_str_of(b.data, b.len), "", 0);
  }
  char *dir = scratch();
  pu_dedup *d = find(&c, dir, &(pu_dedup_how){.mode = PU_DEDUP_MINHASH, .threshold = 0.7});
  int above = 0, found = 0;
  for (size_t i = 0; i < 300; i++) {
    bool together = pu_dedup_fate_of(d, 2 * i + 1).clustered;
    above += j[i] >= 0.7;
    if (j[i] >= 0.7)
      found += together;
    else
      assert_false(together);
    if (together) {
      assert_int_equal(pu_dedup_fate_of(d, 2 * i + 1).kept, 2 * i);
      assert_true(fabs(pu_dedup_fate_of(d, 2 * i + 1).similarity - j[i]) < 1e-9);
    }
  }
  assert_true(above > 100 && found >= 0.97 * above);
  pu_dedup_free(d);
  scratch_gone(dir);
  corpus_free(&c);
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
}

static void assert_rewritten(const pu_dedup *d, const corpus *c, uint64_t place, const char *want) {
  pu_error e;
  pu_buf out;
  uint64_t cut;
  pu_buf_init(&out, PU_BUF_MAX);
  assert_ok(pu_dedup_rewrite(d, place, c->docs[place].text, &out, &cut, &e), &e);
  assert_string_equal(out.data ? out.data : "", want);
  assert_int_equal(cut, c->docs[place].text.len - out.len);
  pu_buf_deinit(&out);
}

static void paragraphs_and_lines(void **state) {
  (void)state;
  corpus c = {.n = 0};
  put_doc(&c, pu_str_c("Alpha one\nAlpha two\n\nShared paragraph\nof two lines\n\nOmega\n"), "", 0);
  put_doc(&c, pu_str_c("Beta\n\n  Shared paragraph\nof two lines  \n\n\nGamma\n\nBeta\n"), "", 0);
  put_doc(&c, pu_str_c("Alpha two\nShared paragraph\n"), "", 0);
  char *dir = scratch();
  pu_dedup *d = find(&c, dir, &(pu_dedup_how){.mode = PU_DEDUP_PARAGRAPH, .min_bytes = 1});
  assert_rewritten(d, &c, 0, "Alpha one\nAlpha two\n\nShared paragraph\nof two lines\n\nOmega\n");
  assert_rewritten(d, &c, 1, "Beta\n\nGamma\n\n");
  assert_rewritten(d, &c, 2, "Alpha two\nShared paragraph\n");
  pu_dedup_free(d);
  scratch_gone(dir);
  dir = scratch();
  d = find(&c, dir, &(pu_dedup_how){.mode = PU_DEDUP_LINE, .min_bytes = 6});
  assert_rewritten(d, &c, 1, "Beta\n\nGamma\n\nBeta\n");
  assert_rewritten(d, &c, 2, "");
  pu_dedup_free(d);
  scratch_gone(dir);
  corpus_free(&c);
}

/* What substring must cut, found plainly: bytes of a passage that stood anywhere before. */
static void plain_marks(const corpus *c, size_t place, size_t passage, bool *marks) {
  pu_str t = c->docs[place].text;
  for (size_t at = 0; at + passage <= t.len; at++) {
    bool before = false;
    for (size_t p = 0; p <= place && !before; p++) {
      pu_str s = c->docs[p].text;
      size_t end = p < place ? s.len : at + passage - 1;
      before = end >= passage && memmem(s.ptr, end, t.ptr + at, passage) != NULL;
    }
    for (size_t i = 0; before && i < passage; i++) marks[at + i] = true;
  }
}

/* Punctuation only, so that no word is kept whole at a border and what is cut is exactly what is marked. */
static void passages(void **state) {
  (void)state;
  enum { PASSAGE = 48, DOCS = 24 };
  pu_rng r;
  pu_rng_seed(&r, 5);
  corpus c = {.n = 0};
  char text[2000];
  for (int i = 0; i < DOCS; i++) {
    size_t n = 0, len = pu_rng_below(&r, 700);
    while (n < len) {
      if (c.n > 0 && pu_rng_below(&r, 3) == 0) { /* from an earlier one */
        pu_str s = c.docs[pu_rng_below(&r, c.n)].text;
        size_t want = 30 + pu_rng_below(&r, 200), k = PU_MIN(s.len, want);
        size_t at = s.len > k ? pu_rng_below(&r, s.len - k) : 0;
        if (s.len) memcpy(text + n, s.ptr + at, k);
        n += k;
      } else if (pu_rng_below(&r, 8) == 0) { /* all the same */
        size_t k = pu_rng_below(&r, 150);
        memset(text + n, '-', k);
        n += k;
      } else {
        for (size_t k = 20 + pu_rng_below(&r, 60); k-- > 0;) text[n++] = ".,;:!?+-*/"[pu_rng_below(&r, 10)];
      }
    }
    put_doc(&c, pu_str_of(text, n), "", 0);
  }
  char *dir = scratch();
  pu_error e;
  pu_dedup *d = find(&c, dir, &(pu_dedup_how){.mode = PU_DEDUP_SUBSTRING, .min_bytes = PASSAGE});
  uint64_t all = 0;
  for (size_t i = 0; i < c.n; i++) {
    bool marks[2000] = {false};
    char want[2001];
    size_t n = 0;
    plain_marks(&c, i, PASSAGE, marks);
    for (size_t k = 0; k < c.docs[i].text.len; k++)
      if (!marks[k]) want[n++] = c.docs[i].text.ptr[k];
    all += c.docs[i].text.len - n;
    want[n] = 0;
    assert_rewritten(d, &c, i, want);
  }
  assert_true(all > 1000);
  pu_dedup_free(d);
  scratch_gone(dir);
  corpus_free(&c);
  (void)e;
}

/* Words and characters that occur again only in part stay whole. */
static void passage_borders(void **state) {
  (void)state;
  corpus c = {.n = 0};
  put_doc(&c, pu_str_c("the thundering of the great river was heard for many miles around it"), "", 0);
  put_doc(&c, pu_str_c("x blundering of the great river was heard for many milestones"), "", 0);
  put_doc(&c, pu_str_c("知者乐水仁者乐山知者动仁者静知者乐仁者寿也"), "", 0);
  put_doc(&c, pu_str_c("和者乐水仁者乐山知者动仁者静知者乐仁者寿之"), "", 0);
  char *dir = scratch();
  pu_dedup *d = find(&c, dir, &(pu_dedup_how){.mode = PU_DEDUP_SUBSTRING, .min_bytes = 40});
  assert_rewritten(d, &c, 1, "x blunderingmilestones");
  assert_rewritten(d, &c, 3, "和之");
  pu_dedup_free(d);
  scratch_gone(dir);
  corpus_free(&c);
}

/* ---- ranks and threads ---------------------------------------------------------------------------------------------
 */

/* Everything that was found, as one number. */
static uint64_t digest(const pu_dedup *d, const corpus *c, pu_dedup_mode mode) {
  pu_error e;
  uint64_t h = 0;
  pu_buf out;
  pu_buf_init(&out, PU_BUF_MAX);
  for (size_t i = 0; i < c->n; i++) {
    pu_buf_clear(&out);
    uint64_t cut;
    if (pu_dedup_cuts(mode)) {
      assert_ok(pu_dedup_rewrite(d, i, c->docs[i].text, &out, &cut, &e), &e);
      h = pu_hash64(out.data, out.len, h);
    } else {
      pu_dedup_fate f = pu_dedup_fate_of(d, i);
      h = pu_hash64(&f.kept, sizeof f.kept, h ^ f.clustered);
    }
  }
  pu_buf_deinit(&out);
  return h;
}

static uint64_t run_ranks(corpus *c, pu_dedup_how o, int ranks, int threads) {
  char *dir = scratch();
  pu_error e;
  o.ranks = ranks;
  for (int r = 1; r < ranks; r++) {
    if (fork() > 0) continue;
    o.rank = r;
    pu_dedup_free(find(c, dir, &o));
    _exit(0);
  }
  o.rank = 0;
  if (threads > 1) assert_ok(pu_pool_create(threads, &o.pool, &e), &e);
  pu_dedup *d = find(c, dir, &o);
  uint64_t h = digest(d, c, o.mode);
  pu_dedup_free(d);
  /* Found again from the files alone. */
  d = find(c, dir, &o);
  assert_int_equal(digest(d, c, o.mode), h);
  pu_dedup_free(d);
  for (int r = 1; r < ranks; r++) {
    int status;
    assert_true(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  pu_pool_free(o.pool);
  scratch_gone(dir);
  return h;
}

static void ranks_and_threads(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 23);
  corpus c = {.n = 0};
  pu_buf a, b;
  pu_buf_init(&a, 1 << 20);
  pu_buf_init(&b, 1 << 20);
  for (int i = 0; i < 60; i++) {
    pu_buf_clear(&a);
    pu_buf_clear(&b);
    put_pair(&r, &a, &b, 80, 0.5 + 0.01 * i);
    put_doc(&c, pu_str_of(a.data, a.len), "", 0);
    put_doc(&c, pu_str_of(b.data, b.len), "", 0);
    if (i % 4 == 0) put_doc(&c, pu_str_of(b.data, b.len), "", 0);
  }
  for (int m = 0; m < PU_DEDUP_MODES; m++) {
    pu_dedup_how o = {.mode = (pu_dedup_mode)m, .threshold = 0.7, .keep = PU_KEEP_LONGEST};
    uint64_t want = run_ranks(&c, o, 1, 1);
    assert_int_equal(run_ranks(&c, o, 1, 4), want);
    if (PU_TSAN) continue; /* it does not follow processes */
    assert_int_equal(run_ranks(&c, o, 2, 1), want);
    assert_int_equal(run_ranks(&c, o, 4, 1), want);
  }
  corpus_free(&c);
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
}

static void refusals(void **state) {
  (void)state;
  pu_error e;
  assert_int_equal(pu_dedup_check(&(pu_dedup_how){.mode = PU_DEDUP_MINHASH}, &e), PU_ERR_USAGE);
  assert_int_equal(pu_dedup_check(&(pu_dedup_how){.mode = PU_DEDUP_MINHASH, .threshold = 1.5}, &e), PU_ERR_USAGE);
  assert_int_equal(pu_dedup_check(&(pu_dedup_how){.mode = PU_DEDUP_SUBSTRING, .min_bytes = 8}, &e), PU_ERR_USAGE);
  assert_int_equal(pu_dedup_check(&(pu_dedup_how){.mode = PU_DEDUP_LINE, .min_bytes = -1}, &e), PU_ERR_USAGE);
  assert_int_equal(pu_dedup_check(&(pu_dedup_how){.keep = PU_KEEP_BEST}, &e), PU_ERR_USAGE);
  assert_int_equal(pu_dedup_check(&(pu_dedup_how){.rank = 2, .ranks = 2}, &e), PU_ERR_USAGE);
  assert_int_equal(pu_dedup_check(&(pu_dedup_how){.mode = PU_DEDUP_EXACT}, &e), PU_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(folding),           cmocka_unit_test(folding_in_pieces),
      cmocka_unit_test(kernels_agree),     cmocka_unit_test(estimates),
      cmocka_unit_test(short_texts),       cmocka_unit_test(bands),
      cmocka_unit_test(sorting),           cmocka_unit_test(exact_ones),
      cmocka_unit_test(who_stays),         cmocka_unit_test(planted),
      cmocka_unit_test(passages),          cmocka_unit_test(passage_borders),
      cmocka_unit_test(refusals),          cmocka_unit_test(paragraphs_and_lines),
      cmocka_unit_test(ranks_and_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
