/* How often the language of texts is found, and how fast.
 *
 *   bench_lang FOLDER
 *
 * FOLDER/SOURCE/LANG.txt: a document a line. For a language that no model knows "und" is right. */
#include <string.h>

#include "src/data/lang/lang.h"
#include "tests/data/bench_time.h"

typedef struct line {
  size_t docs, right;
  double bytes, seconds;
  struct {
    const char *lang;
    size_t n;
  } wrong[64];
  size_t n_wrong;
} line;

static void count_wrong(line *l, const char *lang) {
  size_t i = 0;
  while (i < l->n_wrong && strcmp(l->wrong[i].lang, lang) != 0) i++;
  if (i == PU_COUNT(l->wrong)) return;
  if (i == l->n_wrong) l->wrong[l->n_wrong++].lang = lang;
  l->wrong[i].n++;
}

static void read_docs(const pu_buf *text, const char *truth, line *l, bool show) {
  const char *at = text->data, *end = text->data + text->len;
  while (at < end) {
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t n = (size_t)((stop ? stop : end) - at);
    pu_lang_guess g;
    pu_lang_find(pu_str_of(at, n), &g, 1);
    l->docs++;
    if (strcmp(g.lang, truth) == 0) {
      l->right++;
    } else {
      count_wrong(l, g.lang);
      if (show) printf("    %s %.2f: %.*s\n", g.lang, g.score, (int)n, at);
    }
    at += n + 1;
  }
}

static bool known(const char *lang) {
  for (const char *const *n = pu_lang_names(); *n; n++)
    if (strcmp(*n, lang) == 0) return true;
  return false;
}

static void print_line(const char *source, const char *lang, const line *l) {
  printf("%-12s %-8s %6zu %8.2f %%  ", source, lang, l->docs, 100.0 * (double)l->right / (double)PU_MAX(l->docs, 1));
  for (size_t i = 0; i < l->n_wrong; i++) printf(" %s %zu", l->wrong[i].lang, l->wrong[i].n);
  printf("\n");
}

/* The best of ten runs over the whole file, cut into documents of 64 KiB. */
static double speed(const pu_buf *text) {
  double best = 0;
  for (int run = 0; run < 10; run++) {
    double begin = used();
    for (size_t at = 0; at < text->len; at += 64 << 10) {
      pu_lang_guess g[4];
      pu_lang_find(pu_str_of(text->data + at, PU_MIN((size_t)64 << 10, text->len - at)), g, 4);
    }
    best = PU_MAX(best, (double)text->len / (used() - begin) / 1e6);
  }
  return best;
}

static pu_err run(const char *folder, const char *show, pu_error *e) {
  pu_arena *a;
  pu_buf text;
  char **sources, **files;
  size_t n_sources, n_files;
  line all[2] = {{0}}; /* languages that are not known, and that are */
  pu_buf_init(&text, (size_t)1 << 30);
  PU_TRY(pu_arena_create((size_t)1 << 24, &a, e));
  PU_TRY(pu_dir_list(a, folder, &sources, &n_sources, e));
  for (size_t s = 0; s < n_sources; s++) {
    const char *dir = pu_path_join(a, folder, sources[s]);
    PU_TRY(pu_dir_list(a, dir, &files, &n_files, e));
    for (size_t i = 0; i < n_files; i++) {
      line l = {0};
      PU_TRY(pu_file_read(pu_path_join(a, dir, files[i]), (size_t)1 << 30, &text, e));
      files[i][strcspn(files[i], ".")] = 0;
      bool is_known = known(files[i]);
      read_docs(&text, is_known ? files[i] : "und", &l, show && strcmp(show, files[i]) == 0);
      print_line(sources[s], files[i], &l);
      if (text.len > (1 << 19)) printf("%-12s %-8s %8.1f MB/s\n", sources[s], files[i], speed(&text));
      all[is_known].docs += l.docs;
      all[is_known].right += l.right;
    }
  }
  print_line("all", "unknown", &all[0]);
  print_line("all", "known", &all[1]);
  pu_buf_deinit(&text);
  pu_arena_free(a);
  return PU_OK;
}

int main(int argc, char **argv) {
  pu_error e;
  if (argc != 2 && argc != 3) {
    fprintf(stderr, "usage: bench_lang FOLDER [LANG whose mistakes are shown]\n");
    return 2;
  }
  if (run(argv[1], argc > 2 ? argv[2] : NULL, &e) == PU_OK) return 0;
  fprintf(stderr, "bench_lang: %s\n", e.msg);
  return 1;
}
