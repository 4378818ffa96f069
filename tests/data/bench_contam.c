/* What decontamination finds, and how fast, on FILES (text or JSON Lines):
 *   bench_contam [--share S] [--near] [--plant FILE[:KEY]]… --against PATH… -- FILE…
 * prints the index, the rate on one core, what of the files touches which item, and how many of the items of --plant
 * files (the string or column KEY of their records, else the longest column) are found when they are put into the
 * files' text: as they are, in capitals without punctuation, half of them, with every Nth word another one. Other items
 * that are touched then are told, too: most are the same question in another set. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/contam.h"
#include "src/data/reader.h"
#include "tests/data/bench_time.h"

enum { DOCS_MAX = 400000, SHOWN = 30, PLANT = 4000, TEXT = 3000 };

static void give_up(const pu_error *e) {
  fprintf(stderr, "bench_contam: %s\n", e->msg);
  exit(1);
}
#define must(call)                                                                                                     \
  do {                                                                                                                 \
    if ((call) != PU_OK) give_up(&e);                                                                                  \
  } while (0)

typedef struct texts {
  pu_str *v;
  size_t n, bytes;
} texts;

static void add(texts *t, pu_str s) {
  if (t->n == DOCS_MAX || s.len == 0) return;
  if (!t->v) t->v = calloc(DOCS_MAX, sizeof *t->v);
  char *copy = malloc(s.len);
  if (!t->v || !copy) exit(1);
  memcpy(copy, s.ptr, s.len);
  t->v[t->n++] = pu_str_of(copy, s.len);
  t->bytes += s.len;
}

static texts load(const char *const *paths, size_t n) {
  pu_error e = {0};
  texts t = {0};
  pu_corpus *c;
  must(pu_corpus_open(paths, n, PU_SPLIT_BLANK, NULL, &c, &e));
  for (bool found = true; found;) {
    pu_document d;
    must(pu_corpus_next(c, &d, &found, &e));
    if (found) add(&t, d.text);
  }
  pu_corpus_close(c);
  return t;
}

static void skip(void *arg, const char *path, uint64_t offset, const char *why) {
  (void)arg, (void)path, (void)offset, (void)why;
}

static void load_items(texts *t, const char *arg) {
  pu_error e = {0};
  pu_doc d;
  pu_input *in;
  pu_reading *r;
  char path[4096];
  snprintf(path, sizeof path, "%s", arg);
  char *key = strchr(path, ':');
  if (key) *key++ = '\0';
  const pu_read_options o = {.source = "s", .key = key, .skips = {.skip = skip}};
  must(pu_doc_init(&d, &e));
  must(pu_input_open(path, 0, 0, &o, &in, &e));
  must(pu_reading_open(in, &r, &e));
  for (bool found = true; found && t->n < PLANT;) {
    must(pu_reading_next(r, &d, &found, &e));
    if (found) add(t, pu_str_of(d.text.data, d.text.len));
  }
  pu_reading_close(r);
  pu_doc_deinit(&d);
}

static void rate(const pu_contam *c, const texts *t) {
  pu_error e = {0};
  pu_contam_found f = {0};
  double best = 1e9;
  size_t hits = 0, over = 0, docs = 0;
  for (int i = 0; i < 5; i++) {
    double from = used();
    hits = over = docs = 0;
    for (size_t k = 0; k < t->n; k++) {
      must(pu_contam_check(c, t->v[k], &f, &e));
      hits += f.n;
      over += f.n_over;
      docs += f.n_over > 0;
    }
    best = PU_MIN(best, used() - from);
  }
  printf("text: %.1f MB in %zu pieces, %.1f MB/s; %zu items have an n-gram in it (counted once a piece), %zu are "
         "touched, by %zu pieces\n",
         (double)t->bytes / 1e6, t->n, (double)t->bytes / 1e6 / best, hits, over, docs);
  int shown = 0;
  for (size_t k = 0; k < t->n && shown < SHOWN; k++) {
    must(pu_contam_check(c, t->v[k], &f, &e));
    for (size_t i = 0; i < f.n_over && i < 2 && shown < SHOWN; i++, shown++) {
      pu_contam_item x = pu_contam_item_of(c, f.hits[i].item);
      printf("  %s:%llu %s %s %.3f: %.*s\n", x.file, (unsigned long long)x.number, x.field,
             pu_contam_by_names[f.hits[i].by], f.hits[i].share, (int)PU_MIN(f.hits[i].at.len, 120), f.hits[i].at.ptr);
    }
  }
  pu_contam_found_free(&f);
}

/* ---- planted items ------------------------------------------------------------------------------------------------
 */

typedef enum change { SAME, PLAIN, HALF, EVERY_30, EVERY_20, EVERY_12, CHANGES } change;
static const char *const change_names[] = {"as they are",     "capitals, no punctuation", "first half",
                                           "every 30th word", "every 20th word",          "every 12th word"};

/* Every Nth token is another word. */
static void put_changed(pu_buf *b, pu_str s, int every) {
  pu_folder f = {s, 0};
  pu_token t[256];
  size_t at = 0, count = 0;
  for (size_t n; (n = pu_fold_next(&f, t, PU_COUNT(t))) > 0;)
    for (size_t i = 0; i < n; i++) {
      if (++count % (size_t)every != (size_t)every / 2) continue;
      pu_buf_append(b, s.ptr + at, t[i].at - at);
      pu_buf_puts(b, "換");
      at = t[i].at + t[i].len;
    }
  pu_buf_append(b, s.ptr + at, s.len - at);
}

static void put_item(pu_buf *b, pu_str s, change how) {
  static const int every[CHANGES] = {[EVERY_30] = 30, [EVERY_20] = 20, [EVERY_12] = 12};
  if (every[how]) {
    put_changed(b, s, every[how]);
    return;
  }
  size_t len = how == HALF ? s.len / 2 : s.len;
  for (size_t i = 0; i < len; i++) {
    char ch = s.ptr[i];
    if (how == PLAIN) ch = ispunct((uint8_t)ch) ? ' ' : (char)toupper((uint8_t)ch);
    pu_buf_putc(b, ch);
  }
}

static void plant(const pu_contam *c, const texts *items, const texts *t) {
  pu_error e = {0};
  pu_contam_found f = {0};
  pu_buf b;
  pu_buf_init(&b, 1 << 24);
  for (int how = 0; how < CHANGES; how++) {
    size_t found = 0, looked = 0, before = 0, others = 0;
    for (size_t i = 0; i < items->n; i++) {
      pu_str text = t->v[i * 7919 % t->n], planted = items->v[i];
      size_t half = PU_MIN(text.len, (size_t)TEXT);
      while (half > 0 && half < text.len && text.ptr[half] != ' ' && text.ptr[half] != '\n') half--;
      must(pu_contam_check(c, planted, &f, &e)); /* templates and short ones are not looked for */
      if (f.n_over == 0) continue;
      uint32_t want = f.hits[0].item;
      pu_buf_clear(&b);
      pu_buf_append(&b, text.ptr, half);
      must(pu_contam_check(c, pu_str_of(b.data ? b.data : "", b.len), &f, &e));
      size_t clean = f.n_over;
      before += clean > 0;
      pu_buf_puts(&b, "\n\n");
      put_item(&b, planted, (change)how);
      pu_buf_puts(&b, "\n\n");
      pu_buf_append(&b, text.ptr + half, PU_MIN(text.len - half, (size_t)TEXT));
      must(pu_contam_check(c, pu_str_of(b.data, b.len), &f, &e));
      bool yes = false;
      for (size_t k = 0; k < f.n_over; k++) yes |= f.hits[k].item == want;
      found += yes;
      others += PU_MAX(f.n_over, clean + yes) - clean - yes;
      looked++;
    }
    printf("planted, %-25s %.4f of %zu found, and %zu others (of %zu strings; %zu texts touched some item before)\n",
           change_names[how], (double)found / (double)PU_MAX(looked, (size_t)1), looked, others, items->n, before);
  }
  pu_buf_deinit(&b);
  pu_contam_found_free(&f);
}

int main(int argc, char **argv) {
  pu_error e = {0};
  pu_contam_options o = pu_contam_defaults();
  const char **against = calloc((size_t)argc, sizeof *against);
  texts items = {0};
  int at = 1;
  for (; at < argc && strcmp(argv[at], "--") != 0; at++) {
    if (strcmp(argv[at], "--near") == 0)
      o.near = true;
    else if (strcmp(argv[at], "--against") == 0)
      continue;
    else if (strcmp(argv[at], "--share") == 0 && at + 1 < argc)
      o.share = strtod(argv[++at], NULL);
    else if (strcmp(argv[at], "--plant") == 0 && at + 1 < argc)
      load_items(&items, argv[++at]);
    else
      against[o.against.n++] = argv[at];
  }
  o.against.v = against;
  if (at + 1 >= argc) return 2;
  pu_contam *c;
  double from = used();
  must(pu_contam_open(&o, 0, &c, &e));
  double seconds = used() - from;
  pu_contam_about a = pu_contam_about_of(c);
  printf("index: %llu files, %llu records, %llu items, %llu templates, %llu too short, %llu broken, %llu n-grams (%llu "
         "nobody's), %.1f "
         "MB, %.2f s\n",
         (unsigned long long)a.files, (unsigned long long)a.records, (unsigned long long)a.items,
         (unsigned long long)a.templates, (unsigned long long)a.shorter, (unsigned long long)a.broken,
         (unsigned long long)a.ngrams, (unsigned long long)a.shared, (double)a.bytes / 1e6, seconds);
  texts t = load((const char *const *)argv + at + 1, (size_t)(argc - at - 1));
  rate(c, &t);
  if (items.n > 0) plant(c, &items, &t);
  pu_contam_close(c);
  return 0;
}
