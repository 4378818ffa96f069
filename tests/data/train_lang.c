/* Makes src/data/lang/model.inc: trains the language models.
 *
 *   train_lang FOLDER OUT
 *
 * FOLDER holds a folder for each language of `groups`, and these .txt files, one for each source: a paragraph a line.
 * A model is a multinomial logistic regression on the shares of hashed n-grams, times lang_trust,
 * (src/data/lang/chars.h), trained by AdaGrad on windows drawn from random places, every language as often as any
 * other. It is trained twice: over all keys, which tells the rows that do the most, and then over these alone, whose
 * weights are rounded to LANG_SYMBOLS steps. A tenth of each file is kept back to report accuracy on. One run gives the
 * bytes of any other. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/lang/model.h"

enum {
  MOST_BYTES = 500000, /* of one file: large sources must not stand for a language */
  MOST_FILES = 64,
  ROUND = 1 << 14,
  SHORTEST = 40, /* bytes of a window; Han takes less text for as much */
  LONGEST = 1400
};

/* Romanised or converted text apart, what is written in which script; rows: how many of the keys are kept. The folder
 * `und` holds text in many languages, to be known as none of the others. */
static const struct group {
  lang_script script;
  const char *name;
  size_t n_rows;
  const char *names[LANG_MOST];
} groups[] = {
    {LANG_LATIN, "LANG_LATIN", 5500, {"af", "az", "ca", "cs", "cy", "da", "de", "en", "eo", "es",  "et", "eu", "fi",
                                      "fr", "ga", "gl", "hr", "hu", "id", "is", "it", "la", "lt",  "lv", "nb", "nl",
                                      "nn", "pl", "pt", "ro", "sk", "sl", "sq", "sv", "tr", "und", "vi"}},
    {LANG_CYRILLIC, "LANG_CYRILLIC", 2000, {"be", "bg", "kk", "mk", "mn", "ru", "sr", "uk"}},
    {LANG_ARABIC, "LANG_ARABIC", 1000, {"ar", "fa", "ug", "ur"}},
    {LANG_DEVANAGARI, "LANG_DEVANAGARI", 1000, {"hi", "mr", "ne"}},
    {LANG_HAN, "LANG_HAN", 4500, {"ja", "zh", "zh-Hant"}},
};

typedef struct source {
  pu_buf text;
  double reach; /* where its share of the windows ends, in 0 … 1 */
} source;
typedef struct corpus {
  source files[MOST_FILES];
  size_t n;
} corpus;

/* What one window counts of one script. */
typedef struct window {
  lang_script script;
  uint16_t count[LANG_KEYS];
  uint32_t keys[8 * LONGEST];
  size_t n_keys, n_grams;
  float each; /* what a key adds each time it is counted */
} window;

typedef struct trainer {
  const struct group *g;
  size_t n; /* languages */
  corpus *corpora;
  float (*w)[LANG_MOST], (*seen)[LANG_MOST]; /* [LANG_KEYS] weights, sums of squared gradients */
  float bias[LANG_MOST], bias_seen[LANG_MOST];
  double *weight_of_key; /* [LANG_KEYS] how much a key's row moves logits */
  bool *kept;            /* [LANG_KEYS] */
  pu_rng rng;
  lang_scan scan;
  window win;
} trainer;

static _Noreturn void die(const char *what, const char *path) {
  fprintf(stderr, "train_lang: %s: %s\n", path, what);
  exit(1);
}
static void *need(size_t n, size_t size) {
  void *p = calloc(n, size);
  if (!p) die("no memory", "training");
  return p;
}

static void read_corpus(const char *folder, const char *lang, corpus *c) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, lang);
  struct dirent **entries;
  int n = scandir(path, &entries, NULL, alphasort);
  if (n < 0) die("cannot be read", path);
  double all = 0;
  for (int i = 0; i < n; i++) {
    const char *name = entries[i]->d_name, *dot = strrchr(name, '.');
    if (dot && strcmp(dot, ".txt") == 0 && c->n < MOST_FILES) {
      source *f = &c->files[c->n];
      pu_error e;
      snprintf(path, sizeof path, "%s/%s/%s", folder, lang, name);
      pu_buf_init(&f->text, PU_BUF_MAX);
      if (pu_file_read(path, PU_BUF_MAX, &f->text, &e)) die(e.msg, path);
      f->text.len = PU_MIN(f->text.len, MOST_BYTES);
      if (f->text.len > 10 * SHORTEST) {
        all += sqrt((double)f->text.len);
        f->reach = all;
        c->n++;
      }
    }
    free(entries[i]);
  }
  free(entries);
  if (!c->n) die("holds no text", path);
  for (size_t i = 0; i < c->n; i++) c->files[i].reach /= all;
}

static void take(void *arg, lang_script s, const uint32_t *keys, size_t n) {
  window *w = arg;
  if (s != w->script) return;
  for (size_t i = 0; i < n; i++)
    if (w->count[keys[i]]++ == 0) w->keys[w->n_keys++] = keys[i];
  w->n_grams += n;
}

/* The pieces [10 i, 10 i + 9) of each file, in tenths of 1/16, are trained on, the last of ten is kept back. */
static bool kept_back(size_t at, size_t len) {
  return at * 160 / len % 10 == 9;
}

/* Text of language l from a random place of a random file, from a word's beginning. */
static pu_str draw(trainer *t, size_t l, bool back) {
  corpus *c = &t->corpora[l];
  double where = pu_rng_uniform(&t->rng);
  size_t i = 0;
  while (i + 1 < c->n && c->files[i].reach <= where) i++;
  pu_str s = pu_str_of(c->files[i].text.data, c->files[i].text.len);
  size_t at;
  do at = (size_t)pu_rng_below(&t->rng, s.len - SHORTEST);
  while (kept_back(at, s.len) != back);
  double longer = pu_rng_uniform(&t->rng) * log((double)LONGEST / SHORTEST);
  size_t end = PU_MIN(s.len, at + (size_t)(SHORTEST * exp(longer)));
  while (!back && end > at + SHORTEST && kept_back(end - 1, s.len)) end -= PU_MIN(end - at - SHORTEST, 16);
  while (at > 0 && at < end && (s.ptr[at] & 0xC0) == 0x80) at++;
  if (t->g->script != LANG_HAN)
    while (at < end && s.ptr[at] != ' ' && s.ptr[at] != '\n') at++;
  while (end > at && end < s.len && (s.ptr[end] & 0xC0) == 0x80) end--;
  return pu_str_of(s.ptr + at, end - at);
}

static bool draw_window(trainer *t, size_t l, bool back) {
  window *w = &t->win;
  for (size_t i = 0; i < w->n_keys; i++) w->count[w->keys[i]] = 0;
  w->n_keys = w->n_grams = 0;
  lang_scan_text(&t->scan, draw(t, l, back));
  lang_scan_end(&t->scan);
  w->each = (float)(lang_trust(w->n_grams) / (double)PU_MAX(w->n_grams, 1));
  return w->n_grams >= 8;
}

static void logits(const trainer *t, float *out) {
  memcpy(out, t->bias, sizeof t->bias);
  for (size_t i = 0; i < t->win.n_keys; i++) {
    uint32_t key = t->win.keys[i];
    if (!t->kept[key]) continue;
    float x = t->win.each * (float)t->win.count[key];
    for (size_t l = 0; l < LANG_MOST; l++) out[l] += x * t->w[key][l];
  }
}

static size_t softmax(float *v, size_t n) {
  size_t best = 0;
  float all = 0;
  for (size_t l = 1; l < n; l++)
    if (v[l] > v[best]) best = l;
  float top = v[best];
  for (size_t l = 0; l < n; l++) all += v[l] = expf(v[l] - top);
  for (size_t l = 0; l < n; l++) v[l] /= all;
  return best;
}

/* One step. Weights are some hundred times as large as for features of about 1: the rate makes up for it. */
static void step(trainer *t, size_t truth, float rate) {
  float g[LANG_MOST] = {0};
  logits(t, g);
  softmax(g, t->n);
  g[truth] -= 1;
  for (size_t l = t->n; l < LANG_MOST; l++) g[l] = 0;
  for (size_t l = 0; l < t->n; l++) {
    t->bias_seen[l] += g[l] * g[l];
    t->bias[l] -= 0.02f * rate * g[l] / sqrtf(t->bias_seen[l] + 1e-6f);
  }
  for (size_t i = 0; i < t->win.n_keys; i++) {
    uint32_t key = t->win.keys[i];
    if (!t->kept[key]) continue;
    float x = t->win.each * (float)t->win.count[key], *w = t->w[key], *seen = t->seen[key];
    for (size_t l = 0; l < LANG_MOST; l++) {
      float d = g[l] * x + 1e-8f * w[l];
      seen[l] += d * d;
      w[l] -= rate * d / sqrtf(seen[l] + 1e-8f);
    }
  }
}

static void train(trainer *t, size_t steps, float rate) {
  memset(t->w, 0, LANG_KEYS * sizeof *t->w);
  memset(t->seen, 0, LANG_KEYS * sizeof *t->seen);
  memset(t->bias, 0, sizeof t->bias);
  memset(t->bias_seen, 0, sizeof t->bias_seen);
  for (size_t i = 0; i < steps; i++) {
    size_t l = (size_t)pu_rng_below(&t->rng, t->n);
    if (draw_window(t, l, false)) step(t, l, rate * (1 - 0.9f * (float)i / (float)steps));
    if (i % 50000 == 0) fprintf(stderr, "\r%s %zu of %zu  ", t->g->name, i, steps);
  }
}

/* How far each key moves the logits apart, over windows as they come. */
static void weigh_keys(trainer *t, size_t windows) {
  memset(t->weight_of_key, 0, LANG_KEYS * sizeof *t->weight_of_key);
  for (size_t i = 0; i < windows; i++) {
    if (!draw_window(t, (size_t)pu_rng_below(&t->rng, t->n), false)) continue;
    for (size_t k = 0; k < t->win.n_keys; k++) {
      uint32_t key = t->win.keys[k];
      double x = (double)t->win.each * (double)t->win.count[key], mean = 0, spread = 0;
      for (size_t l = 0; l < t->n; l++) mean += (double)t->w[key][l] / (double)t->n;
      for (size_t l = 0; l < t->n; l++) spread += pow((double)t->w[key][l] - mean, 2);
      t->weight_of_key[key] += x * x * spread;
    }
  }
}

static const double *sorted_by;
static int by_weight(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  double d = sorted_by[y] - sorted_by[x];
  return d > 0 ? 1 : d < 0 ? -1 : (x > y) - (x < y);
}

static size_t keep_best(trainer *t, uint32_t *keys) {
  for (uint32_t i = 0; i < LANG_KEYS; i++) keys[i] = i;
  sorted_by = t->weight_of_key;
  qsort(keys, LANG_KEYS, sizeof *keys, by_weight);
  memset(t->kept, 0, LANG_KEYS * sizeof *t->kept);
  size_t n = 0;
  while (n < t->g->n_rows && t->weight_of_key[keys[n]] > 0) t->kept[keys[n++]] = true;
  return n;
}

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* Rounds the kept weights to steps of the scale that is returned. The few largest are cut off: finer steps for the
 * others are worth more. */
static float round_weights(trainer *t, const uint32_t *keys, size_t n_rows) {
  float *sizes = need(n_rows * t->n, sizeof *sizes);
  size_t n = 0;
  for (size_t r = 0; r < n_rows; r++)
    for (size_t l = 0; l < t->n; l++) sizes[n++] = fabsf(t->w[keys[r]][l]);
  qsort(sizes, n, sizeof *sizes, by_size);
  int most = LANG_SYMBOLS - 1 - LANG_ZERO;
  float scale = sizes[n - 1 - n / 2000] / (float)most;
  for (size_t r = 0; r < n_rows; r++)
    for (size_t l = 0; l < t->n; l++) {
      float v = roundf(t->w[keys[r]][l] / scale);
      t->w[keys[r]][l] = scale * fmaxf((float)-most, fminf((float)most, v));
    }
  free(sizes);
  return scale;
}

static double accuracy(trainer *t, size_t windows) {
  size_t right = 0, all = 0;
  for (size_t i = 0; i < windows; i++) {
    float v[LANG_MOST];
    size_t l = i % t->n;
    if (!draw_window(t, l, true)) continue;
    logits(t, v);
    right += softmax(v, t->n) == l;
    all++;
  }
  return (double)right / (double)PU_MAX(all, 1);
}

static void write_rows(FILE *out, const trainer *t, const uint32_t *keys, size_t n_rows, float scale) {
  size_t width = LANG_KEY_CHARS + t->n, a_line = PU_MAX(1, 114 / width);
  fputs("       .rows =", out);
  for (size_t r = 0; r < n_rows; r++) {
    fputs(r % a_line ? "" : r ? "\"\n\"" : "\n\"", out);
    for (int shift = 12; shift >= 0; shift -= 6) fputc(lang_symbol((int)(keys[r] >> shift & 63)), out);
    for (size_t l = 0; l < t->n; l++) fputc(lang_symbol((int)lroundf(t->w[keys[r]][l] / scale) + LANG_ZERO), out);
  }
  fputs("\"", out);
}

static void write_group(FILE *out, const trainer *t, const uint32_t *keys, size_t n_rows, float scale) {
  fprintf(out, "    [%s] =\n      {.names = (const char *const[]){", t->g->name);
  for (size_t l = 0; l < t->n; l++) fprintf(out, "\"%s\", ", t->g->names[l]);
  fprintf(out, "NULL},\n       .n_rows = %zu,\n       .scale = %.9gf,\n       .bias = {", n_rows, (double)scale);
  for (size_t l = 0; l < t->n; l++) fprintf(out, "%s%.4ff", l ? ", " : "", (double)t->bias[l]);
  fputs("},\n", out);
  write_rows(out, t, keys, n_rows, scale);
  fputs("},\n", out);
}

static size_t train_group(trainer *t, const struct group *g, const char *folder, FILE *out) {
  t->g = g;
  t->win.script = g->script;
  while (t->n < LANG_MOST && g->names[t->n]) t->n++;
  t->corpora = need(t->n, sizeof *t->corpora);
  for (size_t l = 0; l < t->n; l++) read_corpus(folder, g->names[l], &t->corpora[l]);
  memset(t->kept, true, LANG_KEYS * sizeof *t->kept);
  size_t steps = 12000 * t->n + 60000;
  train(t, steps, 2);
  double all_keys = accuracy(t, ROUND);
  weigh_keys(t, 2000 * t->n + 20000);
  uint32_t *keys = need(LANG_KEYS, sizeof *keys);
  size_t n_rows = keep_best(t, keys);
  train(t, 2 * steps, 2);
  double kept = accuracy(t, ROUND);
  float scale = round_weights(t, keys, n_rows);
  fprintf(stderr, "\r%s: %zu rows; kept back windows right: %.4f with all keys, %.4f with these, %.4f rounded\n",
          g->name, n_rows, all_keys, kept, accuracy(t, ROUND));
  write_group(out, t, keys, n_rows, scale);
  for (size_t l = 0; l < t->n; l++)
    for (size_t i = 0; i < t->corpora[l].n; i++) pu_buf_deinit(&t->corpora[l].files[i].text);
  free(t->corpora);
  free(keys);
  t->n = 0;
  return n_rows;
}

int main(int argc, char **argv) {
  if (argc != 3) die("usage: train_lang FOLDER OUT", "arguments");
  FILE *out = fopen(argv[2], "w");
  if (!out) die("cannot be written", argv[2]);
  trainer *t = need(1, sizeof *t);
  t->w = need(LANG_KEYS, sizeof *t->w);
  t->seen = need(LANG_KEYS, sizeof *t->seen);
  t->weight_of_key = need(LANG_KEYS, sizeof *t->weight_of_key);
  t->kept = need(LANG_KEYS, sizeof *t->kept);
  t->scan.take = take;
  t->scan.arg = &t->win;
  pu_rng_seed(&t->rng, 1);
  fputs("/* Made by tests/data/train_lang.c, which tells how: do not edit. Sources: src/data/lang/README.md. */\n"
        "static const lang_packed packed[LANG_MODELS] = {\n",
        out);
  size_t rows = 0;
  for (size_t i = 0; i < PU_COUNT(groups); i++) rows += train_group(t, &groups[i], argv[1], out);
  fprintf(out, "};\nenum { LANG_ALL_ROWS = %zu };\n", rows);
  free(t->w);
  free(t->seen);
  free(t->weight_of_key);
  free(t->kept);
  free(t);
  if (fclose(out)) die("cannot be written", argv[2]);
  return 0;
}
