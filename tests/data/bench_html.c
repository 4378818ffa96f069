/* How well and how fast pages become text: the benchmarks of web extraction, each by its own measure.
 *
 *   bench_html [--each] [--dump DIR] [--half 0|1] ROOT
 *
 * ROOT holds html-zyte-benchmark, html-magic-html and html-readability; what is missing is left out. Measures:
 * - zyte, readability: words (\w+) in runs of four, as multisets; TP, FP and FN of a page divided by their sum; the
 * means of the pages' precision and recall, F1 of these (scrapinghub/article-extraction-benchmark, evaluate.py);
 * - magic: summary-level ROUGE-L (Lin 2004) over sentences; means as above (opendatalab/magic-html, benchmark/). There
 *   jieba cuts Chinese into words; here each character is one, which scores a little higher.
 * Markdown's marks are taken away first, since the truth has none. Each set is cut in two by a hash of the page's name:
 * whoever tunes rules looks at the pages of half 0, and at no more of half 1 than its sums. */
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "src/data/html/html.h"
#include "tests/data/bench_time.h"

/* ---- words ------------------------------------------------------------------------------------------------------- */

static bool word_cp(uint32_t cp) {
  if (cp < 0x80) return (cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') || cp == '_';
  if (cp < 0xAA || (cp >= 0xAB && cp < 0xB2 && cp != 0xAA) || cp == 0xBB || cp == 0xBF || cp == 0xD7 || cp == 0xF7)
    return false;
  if (cp == 0xB4 || (cp >= 0xB6 && cp <= 0xB8)) return false;
  if (cp >= 0x2000 && cp < 0x2070) return false;
  if ((cp >= 0x20A0 && cp < 0x2100) || (cp >= 0x2190 && cp < 0x2460) || (cp >= 0x2500 && cp < 0x2776)) return false;
  if (cp >= 0x3000 && cp < 0x3021 && cp != 0x3005) return false;
  if (cp >= 0xFE00 && cp < 0xFE70) return false;
  if (cp >= 0xFF00 && cp < 0xFFEF)
    return (cp >= 0xFF10 && cp <= 0xFF19) || (cp >= 0xFF21 && cp <= 0xFF3A) || (cp >= 0xFF41 && cp <= 0xFF5A) ||
           cp >= 0xFF66;
  if (cp == 0x60C || cp == 0x61B || cp == 0x61F || cp == 0x66A || cp == 0x6D4) return false;
  return cp < 0x1F000 || cp >= 0x20000;
}

typedef struct tokens {
  uint64_t *v;
  size_t n, cap;
} tokens;

static void push(tokens *t, uint64_t v) {
  if (t->n == t->cap) {
    t->cap = t->cap ? t->cap * 2 : 256;
    t->v = realloc(t->v, t->cap * sizeof *t->v);
    if (!t->v) abort();
  }
  t->v[t->n++] = v;
}

static size_t next_cp(pu_str s, size_t i, uint32_t *cp) {
  size_t n = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), cp);
  if (n) return n;
  *cp = 0xFFFD;
  return 1;
}

static void words(pu_str s, tokens *out) {
  for (size_t i = 0; i < s.len;) {
    uint32_t cp;
    size_t from = i, n = next_cp(s, i, &cp);
    if (!word_cp(cp)) {
      i += n;
      continue;
    }
    while (i < s.len && (n = next_cp(s, i, &cp), word_cp(cp))) i += n;
    push(out, pu_hash64(s.ptr + from, i - from, 0));
  }
}

/* Markdown to what a reader sees. */
static void plain(pu_str s, pu_buf *out) {
  for (size_t i = 0; i < s.len;) {
    const char *nl = memchr(s.ptr + i, '\n', s.len - i);
    size_t to = nl ? (size_t)(nl - s.ptr) : s.len, from = i;
    while (from < to && (s.ptr[from] == ' ' || s.ptr[from] == '>' || s.ptr[from] == '#' || s.ptr[from] == '|')) from++;
    if (from + 1 < to && s.ptr[from] == '-' && s.ptr[from + 1] == ' ') from += 2;
    size_t digits = from;
    while (digits < to && s.ptr[digits] >= '0' && s.ptr[digits] <= '9') digits++;
    if (digits > from && digits + 1 < to && s.ptr[digits] == '.' && s.ptr[digits + 1] == ' ') from = digits + 2;
    bool fence = to - from >= 3 && (memcmp(s.ptr + from, "```", 3) == 0 || memcmp(s.ptr + from, "~~~", 3) == 0);
    bool rule = to - from >= 3 && memcmp(s.ptr + from, "---", 3) == 0;
    for (size_t k = from; k < to && !fence && !rule; k++)
      if (s.ptr[k] != '`' && s.ptr[k] != '|' && s.ptr[k] != '\\') pu_buf_putc(out, s.ptr[k]);
    pu_buf_putc(out, '\n');
    i = to + 1;
  }
}

/* ---- the measures ------------------------------------------------------------------------------------------------ */

typedef struct score {
  double precision, recall;
  bool has_precision, has_recall;
} score;

static int by_value(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static void shingles(pu_str s, tokens *out) {
  tokens t = {0};
  words(s, &t);
  size_t last = t.n >= 4 ? t.n - 4 : 0;
  for (size_t i = 0; i <= last && t.n; i++) push(out, pu_hash64(t.v + i, PU_MIN(t.n - i, (size_t)4) * sizeof *t.v, 1));
  if (out->n) qsort(out->v, out->n, sizeof *out->v, by_value);
  free(t.v);
}

static score shingle_score(pu_str truth, pu_str text) {
  tokens a = {0}, b = {0};
  shingles(truth, &a);
  shingles(text, &b);
  size_t i = 0, k = 0, tp = 0;
  while (i < a.n && k < b.n) {
    if (a.v[i] == b.v[k])
      tp++, i++, k++;
    else if (a.v[i] < b.v[k])
      i++;
    else
      k++;
  }
  score s = {.has_precision = b.n > 0, .has_recall = a.n > 0};
  if (b.n) s.precision = (double)tp / (double)b.n;
  if (a.n) s.recall = (double)tp / (double)a.n;
  free(a.v);
  free(b.v);
  return s;
}

/* Tokens of all sentences, with 0 after each. */
static void sentences(pu_str s, tokens *out) {
  for (size_t i = 0; i < s.len;) {
    uint32_t cp;
    size_t from = i, n = next_cp(s, i, &cp);
    if (cp <= ' ' || cp == 0xA0 || cp == 0x3000) {
      if (cp == '\n' && out->n && out->v[out->n - 1]) push(out, 0);
      i += n;
      continue;
    }
    i += n;
    if (cp < 0x80 && word_cp(cp) && cp != '_') {
      while (i < s.len && (unsigned char)s.ptr[i] < 0x80 && word_cp((uint32_t)s.ptr[i]) && s.ptr[i] != '_') i++;
    }
    push(out, pu_hash64(s.ptr + from, i - from, 0) | 1);
    bool stop = cp == 0x3002 || cp == 0xFF01 || cp == 0xFF1F || cp == 0x2026 || cp == '!' || cp == '?' ||
                (cp == '.' && i < s.len && s.ptr[i] == ' ');
    if (stop) push(out, 0);
  }
  if (out->n && out->v[out->n - 1]) push(out, 0);
}

/* Marks in `hit` which of a's tokens are in a longest common subsequence with b. */
static void lcs(const uint64_t *a, size_t n, const uint64_t *b, size_t m, bool *hit, tokens *table) {
  size_t width = m + 1;
  table->n = 0;
  for (size_t i = 0; i < (n + 1) * width; i++) push(table, 0);
  uint64_t *t = table->v;
  for (size_t i = 1; i <= n; i++)
    for (size_t k = 1; k <= m; k++)
      t[i * width + k] =
          a[i - 1] == b[k - 1] ? t[(i - 1) * width + k - 1] + 1 : PU_MAX(t[(i - 1) * width + k], t[i * width + k - 1]);
  for (size_t i = n, k = m; i && k;) {
    if (a[i - 1] == b[k - 1])
      hit[--i] = true, k--;
    else if (t[(i - 1) * width + k] > t[i * width + k - 1])
      i--;
    else
      k--;
  }
}

static size_t sentence_len(const tokens *t, size_t at) {
  size_t n = 0;
  while (t->v[at + n]) n++;
  return n;
}

/* How many of `token` are in sorted v, less those taken; takes one. */
static bool take(const tokens *sorted, uint8_t *taken, uint64_t token) {
  size_t lo = 0, hi = sorted->n;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (sorted->v[mid] < token)
      lo = mid + 1;
    else
      hi = mid;
  }
  for (; lo < sorted->n && sorted->v[lo] == token; lo++)
    if (!taken[lo]) {
      taken[lo] = 1;
      return true;
    }
  return false;
}

static score rouge_score(pu_str truth, pu_str text) {
  tokens a = {0}, b = {0}, table = {0}, sorted = {0};
  sentences(truth, &a);
  sentences(text, &b);
  size_t m = 0, hits = 0;
  for (size_t i = 0; i < a.n; i++) m += a.v[i] != 0;
  for (size_t i = 0; i < b.n; i++)
    if (b.v[i]) push(&sorted, b.v[i]);
  if (sorted.n) qsort(sorted.v, sorted.n, sizeof *sorted.v, by_value);
  uint8_t *taken = calloc(sorted.n + 1, 1);
  bool *hit = calloc(a.n + 1, sizeof *hit);
  for (size_t i = 0; i < a.n;) {
    size_t n = sentence_len(&a, i);
    for (size_t k = 0; k < b.n;) {
      size_t len = sentence_len(&b, k);
      lcs(a.v + i, n, b.v + k, len, hit + i, &table);
      k += len + 1;
    }
    i += n + 1;
  }
  for (size_t i = 0; i < a.n; i++) hits += hit[i] && take(&sorted, taken, a.v[i]);
  score s = {.has_precision = true, .has_recall = true};
  if (!truth.len && !text.len) s.recall = s.precision = 1; /* as there: the same text */
  if (m && sorted.n) s.recall = (double)hits / (double)m, s.precision = (double)hits / (double)sorted.n;
  free(taken);
  free(hit);
  free(a.v);
  free(b.v);
  free(table.v);
  free(sorted.v);
  return s;
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

typedef struct sum {
  double precision, recall, seconds, bytes;
  int with_precision, with_recall, pages, forums;
} sum;

typedef struct bench {
  bool each;
  int half; /* -1: both */
  const char *dump;
  pu_arena *arena;
  pu_buf html, out, text, truth;
} bench;

static void read_gz(const char *path, pu_buf *out) {
  gzFile f = gzopen(path, "rb"); /* reads plain files too */
  char piece[1 << 15];
  int n;
  pu_buf_clear(out);
  if (!f) return;
  while ((n = gzread(f, piece, sizeof piece)) > 0) pu_buf_append(out, piece, (size_t)n);
  gzclose(f);
}

static void dump(const bench *b, const char *set, const char *name, const char *ending, const pu_buf *text) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s-%.40s.%s", b->dump, set, name, ending);
  FILE *f = fopen(path, "wb");
  if (!f) return;
  fwrite(text->data, 1, text->len, f);
  fclose(f);
}

static void extract(bench *b, pu_html_mode mode, pu_html_page *page) {
  pu_error e;
  pu_arena_reset(b->arena);
  pu_buf_clear(&b->out);
  if (pu_html_extract(pu_str_of(b->html.data, b->html.len), mode, b->arena, &b->out, page, &e))
    fprintf(stderr, "bench_html: %s\n", e.msg);
}

static void page(bench *b, sum sums[2], const char *set, const char *name, pu_html_mode mode, bool rouge) {
  int half = (int)(pu_hash64(name, strlen(name), 0) & 1);
  if (b->half >= 0 && half != b->half) return;
  sum *s = &sums[half];
  double best = 1e9;
  pu_html_page p;
  for (int k = 0; k < 3; k++) {
    double start = used();
    extract(b, mode, &p);
    best = PU_MIN(best, used() - start);
  }
  pu_html_page guessed;
  pu_buf_clear(&b->text);
  plain(pu_str_of(b->out.data, b->out.len), &b->text);
  if (b->dump) {
    dump(b, set, name, "out", &b->out);
    dump(b, set, name, "truth", &b->truth);
  }
  extract(b, PU_HTML_AUTO, &guessed);
  pu_str truth = pu_str_of(b->truth.data, b->truth.len), text = pu_str_of(b->text.data, b->text.len);
  score r = rouge ? rouge_score(truth, text) : shingle_score(truth, text);
  s->pages++;
  s->forums += guessed.forum;
  s->seconds += best;
  s->bytes += (double)b->html.len;
  if (r.has_precision) s->precision += r.precision, s->with_precision++;
  if (r.has_recall) s->recall += r.recall, s->with_recall++;
  if (b->each)
    printf("%s %d %.3f %.3f %.1fms %s %s\n", set, half, r.precision, r.recall, best * 1e3,
           guessed.forum ? "forum" : "-", name);
}

static void row(const char *set, const char *half, const sum *s) {
  if (!s->pages) return;
  double p = s->precision / PU_MAX(s->with_precision, 1), r = s->recall / PU_MAX(s->with_recall, 1);
  printf("%-15s %-6s %6d %10.3f %8.3f %8.3f %9.0f %7.1f %7d\n", set, half, s->pages, p, r,
         p + r > 0 ? 2 * p * r / (p + r) : 0, s->pages / s->seconds, s->bytes / s->seconds / 1e6, s->forums);
}

static void report(const char *set, const sum s[2]) {
  sum both = s[0];
  both.precision += s[1].precision, both.recall += s[1].recall, both.seconds += s[1].seconds, both.bytes += s[1].bytes;
  both.with_precision += s[1].with_precision, both.with_recall += s[1].with_recall, both.pages += s[1].pages;
  both.forums += s[1].forums;
  row(set, "both", &both);
  row(set, "0", &s[0]);
  row(set, "1", &s[1]);
}

static void json_set(bench *b, const char *root, const char *set, const char *table, const char *folder,
                     const char *ending, const char *key, pu_html_mode mode, bool rouge) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", root, table);
  json_t *all = json_load_file(path, 0, NULL), *entry;
  sum sums[2] = {{0}};
  const char *name;
  json_object_foreach(all, name, entry) {
    snprintf(path, sizeof path, "%s/%s/%s%s", root, folder, name, ending);
    read_gz(path, &b->html);
    if (!b->html.len) continue;
    pu_buf_clear(&b->truth);
    pu_buf_puts(&b->truth, json_string_value(json_object_get(entry, key)));
    page(b, sums, set, name, mode, rouge);
  }
  json_decref(all);
  report(set, sums);
}

static void readability_set(bench *b, const char *root) {
  char path[4096];
  snprintf(path, sizeof path, "%s/html-readability", root);
  struct dirent **entries;
  int n = scandir(path, &entries, NULL, alphasort);
  sum sums[2] = {{0}};
  for (int i = 0; i < n; i++) {
    const char *name = entries[i]->d_name;
    pu_html_page p;
    snprintf(path, sizeof path, "%s/html-readability/%s/expected.html", root, name);
    read_gz(path, &b->html);
    if (b->html.len) {
      extract(b, PU_HTML_ALL, &p);
      pu_buf_clear(&b->truth);
      plain(pu_str_of(b->out.data, b->out.len), &b->truth);
      snprintf(path, sizeof path, "%s/html-readability/%s/source.html", root, name);
      read_gz(path, &b->html);
      page(b, sums, "readability", name, PU_HTML_ARTICLE, false);
    }
    free(entries[i]);
  }
  if (n >= 0) free(entries);
  report("readability", sums);
}

int main(int argc, char **argv) {
  bench b = {.half = -1};
  const char *root = NULL;
  pu_error e;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--each") == 0)
      b.each = true;
    else if (strcmp(argv[i], "--dump") == 0 && i + 1 < argc)
      b.dump = argv[++i];
    else if (strcmp(argv[i], "--half") == 0 && i + 1 < argc)
      b.half = atoi(argv[++i]);
    else
      root = argv[i];
  }
  if (!root) {
    fprintf(stderr, "usage: bench_html [--each] [--dump DIR] [--half 0|1] ROOT\n");
    return 2;
  }
  if (pu_arena_create((size_t)1 << 30, &b.arena, &e)) return 1;
  pu_buf_init(&b.html, PU_DOC_MAX);
  pu_buf_init(&b.out, PU_DOC_MAX);
  pu_buf_init(&b.text, PU_DOC_MAX);
  pu_buf_init(&b.truth, PU_DOC_MAX);
  printf("%-15s %-6s %6s %10s %8s %8s %9s %7s %7s\n", "set", "half", "pages", "precision", "recall", "F1", "pages/s",
         "MB/s", "forums");
  json_set(&b, root, "zyte", "html-zyte-benchmark/ground-truth.json", "html-zyte-benchmark/html", ".html.gz",
           "articleBody", PU_HTML_ARTICLE, false);
  json_set(&b, root, "magic-article", "html-magic-html/article/base.json", "html-magic-html/article/htmls", ".html",
           "content", PU_HTML_ARTICLE, true);
  json_set(&b, root, "magic-forum", "html-magic-html/forum/base.json", "html-magic-html/forum/htmls", ".html",
           "content", PU_HTML_FORUM, true);
  readability_set(&b, root);
  pu_buf_deinit(&b.html);
  pu_buf_deinit(&b.out);
  pu_buf_deinit(&b.text);
  pu_buf_deinit(&b.truth);
  pu_arena_free(b.arena);
  return 0;
}
