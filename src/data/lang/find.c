/* Which languages a text is in. It is cut into blocks of some lines. In each, the letters of each script that has much
 * of it are judged: a script of one language tells it, another one's model does. Then all blocks of a script together
 * say what the text is likely in, which helps short and doubtful blocks, and their letters are added up. */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "src/data/lang/lang.h"
#include "src/data/lang/model.h"

enum {
  LOOKED_AT = 64 << 10, /* bytes */
  PIECES = 16,          /* of a longer text */
  BLOCKS = 32,          /* of about equal size, a text's length permitting */
  SHORTEST_BLOCK = 240, /* bytes; shorter paragraphs are looked at with the next one */
  LONGEST_BLOCK = 4,    /* a block without an end of a line, in blocks */
  PARTS = 4 * BLOCKS,
  MOST_NAMES = 128,
  WIDE = 2,        /* a Han character, kana or Hangul counts as this many letters */
  LEAST_WEIGHT = 4 /* letters without which a text is "und" */
};
static const double own_share = 0.25;   /* of a block's letters: a script with less goes with the block's main one */
static const double kana_share = 0.15;  /* of Han and kana: with as much it is Japanese */
static const double least_prior = 0.03; /* what a language that the text as a whole is not in keeps for one block */
static const double least_share = 0.03; /* of a text's letters: less is taken for the first language's */
static const double least_score = 0.5;

/* ---- names --------------------------------------------------------------------------------------------------- */

static const char *const alone[LANG_SCRIPTS] = {
    [LANG_KANA] = "ja",     [LANG_HANGUL] = "ko",   [LANG_GREEK] = "el",     [LANG_HEBREW] = "he",
    [LANG_ARMENIAN] = "hy", [LANG_GEORGIAN] = "ka", [LANG_THAI] = "th",      [LANG_BENGALI] = "bn",
    [LANG_GURMUKHI] = "pa", [LANG_GUJARATI] = "gu", [LANG_ORIYA] = "or",     [LANG_TAMIL] = "ta",
    [LANG_TELUGU] = "te",   [LANG_KANNADA] = "kn",  [LANG_MALAYALAM] = "ml", [LANG_SINHALA] = "si",
    [LANG_LAO] = "lo",      [LANG_TIBETAN] = "bo",  [LANG_MYANMAR] = "my",   [LANG_ETHIOPIC] = "am",
    [LANG_KHMER] = "km"};

static struct {
  const char *v[MOST_NAMES + 1];
  size_t n;
  size_t of[LANG_SCRIPTS][LANG_MOST]; /* a script's languages: places in v */
} names;
static pthread_once_t named = PTHREAD_ONCE_INIT;

static size_t name_at(const char *name) {
  size_t i = 0;
  while (i < names.n && strcmp(names.v[i], name) != 0) i++;
  if (i == names.n && i < MOST_NAMES) names.v[names.n++] = name;
  return PU_MIN(i, (size_t)MOST_NAMES - 1);
}

/* A model may have "und", too: what is in none of its languages. It is the first name and no language's. */
static void make_names(void) {
  name_at("und");
  for (int s = 0; s < LANG_SCRIPTS; s++) {
    if (alone[s]) names.of[s][0] = name_at(alone[s]);
    const lang_model *m = s < LANG_MODELS ? lang_model_of((lang_script)s) : NULL;
    for (size_t l = 0; m && l < m->n_names; l++) names.of[s][l] = name_at(m->names[l]);
  }
}

const char *const *pu_lang_names(void) {
  pthread_once(&named, make_names);
  return names.v + 1;
}

/* ---- blocks -------------------------------------------------------------------------------------------------- */

/* What one script has of one block: how much, and the probabilities of its languages. */
typedef struct part {
  lang_script script;
  double weight;
  float p[LANG_MOST];
} part;

typedef struct finder {
  lang_scan scan;
  size_t n_parts;
  part parts[PARTS];
  /* Of the block that is read: how often each row was met; the rows met, each model's from its first one on. */
  uint16_t count[LANG_ROWS], met[LANG_ROWS + 1];
  size_t n_met[LANG_MODELS], n_grams[LANG_MODELS];
  /* Of all blocks. */
  int64_t sums[LANG_MODELS][LANG_MOST]; /* of rows */
  size_t grams[LANG_MODELS];
  double weights[LANG_SCRIPTS];
} finder;

static void take(void *arg, lang_script s, const uint32_t *keys, size_t n) {
  finder *f = arg;
  const lang_model *m = lang_model_of(s);
  uint16_t *met = f->met + m->first, hit[LANG_BATCH];
  size_t n_met = f->n_met[s], n_hit = 0;
  for (size_t i = 0; i < n; i++) { /* without a branch: whether a key has a row cannot be foreseen */
    hit[n_hit] = m->row_of[keys[i]];
    n_hit += hit[n_hit] != 0;
  }
  for (size_t i = 0; i < n_hit; i++) {
    met[n_met] = hit[i];
    n_met += f->count[hit[i]]++ == 0;
  }
  f->n_met[s] = n_met;
  f->n_grams[s] += n;
}

enum { SUMMED = INT16_MAX / LANG_SYMBOLS }; /* rows that add up to no more than 16 bits */

static void spill(int64_t *sums, int16_t *few) {
  for (size_t l = 0; l < LANG_MOST; l++) sums[l] += few[l];
  memset(few, 0, LANG_MOST * sizeof *few);
}

static void add_rows(const finder *f, const lang_model *m, size_t n_met, int64_t *sums) {
  int16_t few[LANG_MOST] = {0};
  int room = SUMMED;
  for (size_t i = 0; i < n_met; i++) {
    uint16_t row = f->met[m->first + i];
    for (int left = f->count[row]; left > 0;) {
      if (room == 0) {
        spill(sums, few);
        room = SUMMED;
      }
      int16_t times = (int16_t)PU_MIN(left, room);
      for (size_t l = 0; l < LANG_MOST; l++) few[l] = (int16_t)(few[l] + times * m->rows[row][l]);
      left -= times;
      room -= times;
    }
  }
  spill(sums, few);
}

static void judge(finder *f, part *p) {
  int s = p->script;
  memset(p->p, 0, sizeof p->p);
  if (s >= LANG_MODELS) {
    p->p[0] = 1;
    return;
  }
  const lang_model *m = lang_model_of(p->script);
  int64_t sums[LANG_MOST] = {0};
  double out[LANG_MOST];
  add_rows(f, m, f->n_met[s], sums);
  for (size_t l = 0; l < LANG_MOST; l++) f->sums[s][l] += sums[l];
  f->grams[s] += f->n_grams[s];
  lang_probabilities(m, sums, PU_MAX(f->n_grams[s], 1), out);
  for (size_t l = 0; l < m->n_names; l++) p->p[l] = (float)out[l];
}

static void clear_block(finder *f) {
  for (int s = 0; s < LANG_MODELS; s++) {
    const uint16_t *met = f->met + lang_model_of((lang_script)s)->first;
    for (size_t i = 0; i < f->n_met[s]; i++) f->count[met[i]] = 0;
    f->n_met[s] = f->n_grams[s] = 0;
  }
  memset(f->scan.letters, 0, sizeof f->scan.letters);
}

/* What is read before it is written; the rest is most of the object. */
static void begin(finder *f) {
  f->scan = (lang_scan){.take = take, .arg = f};
  f->n_parts = 0;
  memset(f->count, 0, sizeof f->count);
  memset(f->n_met, 0, sizeof f->n_met);
  memset(f->n_grams, 0, sizeof f->n_grams);
  memset(f->sums, 0, sizeof f->sums);
  memset(f->grams, 0, sizeof f->grams);
  memset(f->weights, 0, sizeof f->weights);
}

/* Letters as they count. Han and kana are one: Japanese with enough kana, else of Han's model. */
static double weigh(const size_t *letters, double *w) {
  double all = 0;
  for (int s = LANG_NONE + 1; s < LANG_SKIP; s++) {
    bool wide = s == LANG_HAN || s == LANG_KANA || s == LANG_HANGUL;
    all += w[s] = (double)letters[s] * (wide ? WIDE : 1);
  }
  double both = w[LANG_HAN] + w[LANG_KANA];
  bool japanese = both > 0 && w[LANG_KANA] >= kana_share * both;
  w[LANG_KANA] = japanese ? both : 0;
  w[LANG_HAN] = japanese ? 0 : both;
  return all;
}

static void add_part(finder *f, lang_script s, double weight) {
  if (f->n_parts == PARTS || weight <= 0) return;
  part *p = &f->parts[f->n_parts++];
  p->script = s;
  p->weight = weight;
  f->weights[s] += weight;
  judge(f, p);
}

/* The two scripts with the most of a block, the second one only if it has its share. */
static void close_block(finder *f) {
  double w[LANG_SCRIPTS] = {0}, all = weigh(f->scan.letters, w);
  int first = LANG_NONE, second = LANG_NONE;
  for (int s = LANG_NONE + 1; s < LANG_SKIP; s++) {
    if (w[s] > w[first]) {
      second = first;
      first = s;
    } else if (w[s] > w[second]) {
      second = s;
    }
  }
  double own = w[second] >= own_share * all ? w[second] : 0;
  add_part(f, (lang_script)first, all - own);
  if (own > 0) add_part(f, (lang_script)second, own);
  clear_block(f);
}

/* Where the block that begins at `at` ends: after a line, or a word if the line is long, or a character. */
static size_t block_end(pu_str text, size_t at, size_t size) {
  if (text.len - at <= size) return text.len;
  size_t longest = PU_MIN(text.len - at, size * LONGEST_BLOCK);
  const char *line = memchr(text.ptr + at + size, '\n', longest - size);
  if (line) return (size_t)(line - text.ptr) + 1;
  if (longest == text.len - at) return text.len;
  const char *space = memrchr(text.ptr + at + size, ' ', longest - size);
  if (space) return (size_t)(space - text.ptr) + 1;
  size_t end = at + longest;
  for (int i = 0; i < 3 && (text.ptr[end] & 0xC0) == 0x80; i++) end--;
  return end;
}

static void read_piece(finder *f, pu_str text, size_t size) {
  size_t at = 0;
  while (at < text.len) {
    size_t end = block_end(text, at, size);
    lang_scan_text(&f->scan, pu_str_of(text.ptr + at, end - at));
    lang_scan_end(&f->scan);
    close_block(f);
    at = end;
  }
}

static void read_text(finder *f, pu_str text) {
  size_t size = PU_MAX((size_t)SHORTEST_BLOCK, PU_MIN(text.len, (size_t)LOOKED_AT) / BLOCKS);
  if (text.len <= LOOKED_AT) {
    read_piece(f, text, size);
    return;
  }
  for (size_t i = 0; i < PIECES; i++) {
    size_t at = (text.len - LOOKED_AT / PIECES) / (PIECES - 1) * i;
    pu_str piece = pu_str_of(text.ptr + at, LOOKED_AT / PIECES);
    while (piece.len && (*piece.ptr & 0xC0) == 0x80) piece = pu_str_of(piece.ptr + 1, piece.len - 1);
    read_piece(f, piece, size);
  }
}

/* ---- the whole text ------------------------------------------------------------------------------------------ */

/* What the text as a whole says of the languages of a script. Han characters alone, as headings have them, are taken
 * for Japanese in a text that is otherwise. */
static void priors(const finder *f, lang_script s, double *prior) {
  const lang_model *m = lang_model_of(s);
  lang_probabilities(m, f->sums[s], PU_MAX(f->grams[s], 1), prior);
  for (size_t l = 0; s == LANG_HAN && l < m->n_names; l++)
    if (f->weights[LANG_KANA] > f->weights[LANG_HAN]) prior[l] = strcmp(m->names[l], "ja") == 0;
  for (size_t l = 0; l < m->n_names; l++) prior[l] = PU_MAX(prior[l], least_prior);
}

typedef struct shares {
  double weight[MOST_NAMES], sure[MOST_NAMES], all; /* by language: letters; letters times their probability */
} shares;

static void add_shares(const finder *f, shares *out) {
  double prior[LANG_MODELS][LANG_MOST];
  for (int s = LANG_NONE + 1; s < LANG_MODELS; s++) priors(f, (lang_script)s, prior[s]);
  for (size_t i = 0; i < f->n_parts; i++) {
    const part *p = &f->parts[i];
    double v[LANG_MOST] = {1}, all = 0;
    size_t n = p->script < LANG_MODELS ? lang_model_of(p->script)->n_names : 1;
    for (size_t l = 0; l < n; l++) all += v[l] = (double)p->p[l] * (n > 1 ? prior[p->script][l] : 1);
    for (size_t l = 0; l < n; l++) {
      double share = v[l] / all;
      out->weight[names.of[p->script][l]] += p->weight * share;
      out->sure[names.of[p->script][l]] += p->weight * share * share;
    }
    out->all += p->weight;
  }
}

static size_t rank(const shares *s, pu_lang_guess *out, size_t max) {
  size_t n = 0;
  double left = 1;
  bool done[MOST_NAMES] = {false};
  while (n < max) {
    size_t best = names.n;
    for (size_t i = 0; i < names.n; i++)
      if (!done[i] && s->weight[i] > 0 && (best == names.n || s->weight[i] > s->weight[best])) best = i;
    if (best == names.n || (n && s->weight[best] < least_share * s->all)) break;
    done[best] = true;
    out[n++] = (pu_lang_guess){names.v[best], s->weight[best] / s->all, s->sure[best] / s->weight[best]};
    left -= out[n - 1].share;
  }
  if (n) out[0].share += PU_MAX(left, 0);
  return n;
}

size_t pu_lang_find(pu_str text, pu_lang_guess *out, size_t max) {
  if (max == 0) return 0;
  pthread_once(&named, make_names);
  finder f;
  begin(&f);
  read_text(&f, text);
  shares s = {.all = 0};
  add_shares(&f, &s);
  size_t n = s.all < LEAST_WEIGHT ? 0 : rank(&s, out, max);
  if (n && out[0].score >= least_score) return n;
  out[0] = (pu_lang_guess){"und", 1, n ? out[0].score : 0};
  return 1;
}
