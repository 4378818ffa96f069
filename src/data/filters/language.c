/* The language of a document, by puyu's own model (lang/lang.h), and which languages are kept. A score of at least 0.65
 * as in FineWeb (Penedo et al. 2024, section 3.3; there by fastText). */
#include <stdlib.h>
#include <string.h>

#include "src/data/filter_kit.h"
#include "src/data/lang/lang.h"

enum { SCORE, SHARE, WANTED };

static const pu_measure measures[] = {
    [SCORE] = {"score", 0.65, INFINITY, "probability of the language that most of the text is in (FineWeb)"},
    [SHARE] = {"share", -INFINITY, INFINITY, "share of the letters that are in it"},
    [WANTED] = {"wanted", 1, INFINITY, "1 where it is one of the languages asked for, 0 where it is another"},
    {0},
};

/* Does asking for `wanted` ask for lang? "zh" asks for "zh-Hant", too. */
static bool is_of(const char *lang, const char *wanted) {
  size_t len = strlen(wanted);
  return strncmp(wanted, lang, len) == 0 && (lang[len] == '\0' || lang[len] == '-');
}

static pu_err check(const char *wanted, pu_error *e) {
  const char *const *known = pu_lang_names();
  for (size_t i = 0; known[i]; i++)
    if (is_of(known[i], wanted)) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "filter.languages: '%s' is no language that is known; they are ISO 639 codes",
                 wanted);
}

/* The names asked for, each with a NUL at its end. */
static pu_err open_languages(const pu_filter_options *o, void **shared, pu_error *e) {
  *shared = NULL;
  for (size_t i = 0; i < o->languages.n; i++) PU_TRY(check(o->languages.v[i], e));
  pu_buf *wanted = calloc(1, sizeof *wanted);
  *shared = wanted;
  if (!wanted) return pu_fail(e, PU_ERR_NOMEM, "no memory for the languages");
  pu_buf_init(wanted, 1 << 20);
  for (size_t i = 0; i < o->languages.n; i++) pu_buf_append(wanted, o->languages.v[i], strlen(o->languages.v[i]) + 1);
  return wanted->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for the languages") : PU_OK;
}

static void close_languages(void *shared) {
  if (shared) pu_buf_deinit(shared);
  free(shared);
}

static bool is_wanted(const pu_buf *wanted, const char *lang) {
  for (size_t at = 0; at < wanted->len; at += strlen(wanted->data + at) + 1)
    if (is_of(lang, wanted->data + at)) return true;
  return false;
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  (void)e;
  const pu_buf *wanted = shared;
  pu_lang_guess guess;
  bool found = pu_lang_find(pu_str_of(d->text.data, d->text.len), &guess, 1) > 0 && strcmp(guess.lang, "und") != 0;
  if (found) {
    values[SCORE] = guess.score;
    values[SHARE] = guess.share;
    d->lang = pu_str_c(guess.lang);
  }
  if (wanted->len > 0) values[WANTED] = found && is_wanted(wanted, guess.lang);
  return PU_OK;
}

const pu_filter pu_filter_language = {
    .name = "language",
    .summary = "finds the language, keeps those asked for",
    .measures = measures,
    .rewrites = true,
    .open = open_languages,
    .close = close_languages,
    .apply = apply,
};
