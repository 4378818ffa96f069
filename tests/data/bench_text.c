/* Makes text of any size out of little, for benchmarks at size:
 *
 *   bench_text MEGABYTES FILE...
 *
 * prints JSON Lines: documents of 1 to 8 KB, each a random stretch of a random file in which every eighth word, or
 * character of Chinese, is another one of that file: so two from the same place are alike, seldom the same. The same
 * lines whatever the machine. */
#include <stdlib.h>

#include "src/data/doc.h"

enum { FILES = 4096, LEAST = 1024, MOST = 8192, EVERY = 8 };

typedef struct text {
  pu_doc d;
  const pu_view *v;
} text;

static pu_err load(const char *path, text *t, pu_error *e) {
  pu_buf b;
  pu_buf_init(&b, PU_DOC_MAX);
  PU_TRY(pu_doc_init(&t->d, e));
  pu_err err = pu_file_read(path, PU_DOC_MAX, &b, e);
  for (size_t i = 0, step; err == PU_OK && i < b.len; i += step) { /* what is no UTF-8 is left out */
    uint32_t cp;
    pu_str rest = pu_str_of(b.data + i, b.len - i);
    size_t len = pu_utf8_next(rest, &cp);
    step = len ? len : 1;
    if (len && cp != '\r' && cp != 0) pu_buf_append(&t->d.text, rest.ptr, len);
  }
  pu_buf_deinit(&b);
  if (err == PU_OK && !(t->v = pu_doc_view(&t->d))) err = pu_fail(e, PU_ERR_NOMEM, "no memory");
  return err;
}

/* The words from one on, with what stands between them. */
static void put(const text *t, pu_rng *r, pu_buf *out) {
  size_t want = LEAST + pu_rng_below(r, MOST - LEAST), n = t->v->n_words, w = pu_rng_below(r, n);
  const char *s = t->d.text.data;
  pu_buf_clear(out);
  for (; w < n && out->len < want; w++) {
    pu_span word = t->v->words[pu_rng_below(r, EVERY) == 0 ? pu_rng_below(r, n) : w], own = t->v->words[w];
    size_t end = own.at + own.len, next = w + 1 < n ? t->v->words[w + 1].at : end;
    pu_buf_append(out, s + word.at, word.len);
    pu_buf_append(out, s + end, next - end);
  }
}

int main(int n, char **args) {
  pu_error e;
  pu_rng r;
  pu_buf doc, line;
  size_t n_texts = 0, wanted = n > 1 ? strtoull(args[1], NULL, 10) * 1000000 : 0, made = 0;
  text *v = calloc(FILES, sizeof *v);
  if (!v || n < 3) return fprintf(stderr, "usage: bench_text MEGABYTES FILE...\n"), 2;
  pu_rng_seed(&r, 1);
  pu_buf_init(&doc, 1 << 20);
  pu_buf_init(&line, 1 << 24);
  for (int i = 2; i < n && n_texts < FILES; i++) {
    if (load(args[i], &v[n_texts], &e) != PU_OK) return fprintf(stderr, "bench_text: %s\n", e.msg), 1;
    if (v[n_texts].v->n_words > 1000)
      n_texts++;
    else
      pu_doc_deinit(&v[n_texts].d);
  }
  for (size_t i = 0; n_texts > 0 && made < wanted; i++) {
    put(&v[pu_rng_below(&r, n_texts)], &r, &doc);
    pu_buf_clear(&line);
    pu_buf_printf(&line, "{\"id\":\"%zu\",\"content\":", i);
    pu_buf_json_str(&line, pu_str_of(doc.data, doc.len));
    pu_buf_puts(&line, "}\n");
    if (line.failed || fwrite(line.data, 1, line.len, stdout) != line.len) return 1;
    made += doc.len;
  }
  for (size_t i = 0; i < n_texts; i++) pu_doc_deinit(&v[i].d);
  pu_buf_deinit(&doc);
  pu_buf_deinit(&line);
  free(v);
  return 0;
}
