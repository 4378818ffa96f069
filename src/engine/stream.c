/* The text of an answer while it is made. Text is certain when no stop string can begin in it any more: the longest
 * suffix that begins some stop string is held back. */
#include <string.h>

#include "src/engine/internal.h"

void pu_stream_init(pu_stream *s, const pu_tokenizer *t, bool continues) {
  *s = (pu_stream){.decoder = {.t = t, .started = continues}};
  pu_buf_init(&s->text, PU_BUF_MAX);
}

void pu_stream_deinit(pu_stream *s) {
  pu_buf_deinit(&s->text);
}

/* Cuts the text before the stop string that is complete first (of several that end together: the longest), so that the
 * cut is the same however the text is divided into tokens. No stop string ends before `from`. */
static void look_for_stop(pu_stream *s, const pu_sampling *how, size_t from) {
  size_t cut = s->text.len, first_end = SIZE_MAX;
  for (size_t i = 0; i < how->n_stop; i++) {
    size_t len = strlen(how->stop[i]);
    if (!len || len > s->text.len) continue;
    size_t start = from > len - 1 ? from - (len - 1) : 0;
    const char *at = memmem(s->text.data + start, s->text.len - start, how->stop[i], len);
    if (!at) continue;
    size_t begin = (size_t)(at - s->text.data), end = begin + len;
    if (end > first_end || (end == first_end && begin > cut)) continue;
    first_end = end;
    cut = begin;
  }
  if (first_end == SIZE_MAX) return;
  s->stopped = true;
  s->text.len = cut;
  s->text.data[cut] = 0;
}

static unsigned decode_flags(const pu_sampling *how, int32_t id) {
  for (size_t i = 0; i < how->n_spoken_ids; i++)
    if (how->spoken_ids[i] == id) return 0;
  return PU_DECODE_SKIP_SPECIAL;
}

pu_err pu_stream_push(pu_stream *s, int32_t id, const pu_sampling *how, pu_error *e) {
  if (!s->decoder.t || s->stopped) return PU_OK;
  size_t from = s->text.len;
  s->decoder.flags = decode_flags(how, id);
  PU_TRY(pu_decoder_push(&s->decoder, id, &s->text, e));
  if (s->text.len > from) look_for_stop(s, how, from);
  return PU_OK;
}

pu_err pu_stream_finish(pu_stream *s, const pu_sampling *how, pu_error *e) {
  if (!s->decoder.t || s->stopped) return PU_OK;
  size_t from = s->text.len;
  if (!pu_decoder_finish(&s->decoder, &s->text)) return pu_fail(e, PU_ERR_NOMEM, "no memory for the answer's text");
  if (s->text.len > from) look_for_stop(s, how, from);
  return PU_OK;
}

/* Bytes at the end of text that could be the beginning of `stop`. */
static size_t could_begin(const pu_buf *text, const char *stop) {
  size_t most = strlen(stop);
  if (!most) return 0;
  for (size_t n = PU_MIN(most - 1, text->len); n > 0; n--)
    if (memcmp(text->data + text->len - n, stop, n) == 0) return n;
  return 0;
}

bool pu_stream_tell(pu_stream *s, const pu_sampling *how, bool all, pu_on_text on_text, void *arg) {
  size_t held = 0;
  for (size_t i = 0; !all && i < how->n_stop; i++) held = PU_MAX(held, could_begin(&s->text, how->stop[i]));
  size_t certain = s->text.len - held;
  if (certain <= s->told) return true;
  pu_str news = pu_str_of(s->text.data + s->told, certain - s->told);
  s->told = certain;
  return !on_text || on_text(arg, news);
}
