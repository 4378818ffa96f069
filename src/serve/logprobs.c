/* Log-probabilities as the API writes them: objects for chat, parallel arrays for completions. */
#include <math.h>

#include "src/serve/internal.h"

/* The bytes of one token as they stand in the middle of a text: a tokenizer may drop the space at the beginning of one.
 */
static pu_str token_bytes(const pu_tokenizer *t, int32_t id, pu_buf *scratch) {
  const int32_t twice[] = {id, id};
  pu_buf_clear(scratch);
  if (pu_decode(t, twice, 1, 0, scratch, NULL)) return pu_str_c("");
  size_t first = scratch->len;
  if (pu_decode(t, twice, 2, 0, scratch, NULL)) return pu_str_c("");
  size_t len = scratch->len - first - first; /* of the second of the two */
  return pu_str_of(scratch->data + first + first, len);
}

static void put_number(pu_buf *b, float v) {
  char text[32];
  pu_format_float(text, v); /* "null" for the first token, of which nothing tells */
  pu_buf_puts(b, text);
}

static void put_token(pu_buf *b, pu_str bytes, float logprob) {
  pu_buf_puts(b, "{\"token\":");
  pu_buf_json_str(b, bytes);
  pu_buf_puts(b, ",\"logprob\":");
  put_number(b, logprob);
  pu_buf_puts(b, ",\"bytes\":[");
  for (size_t i = 0; i < bytes.len; i++) pu_buf_printf(b, "%s%d", i ? "," : "", (unsigned char)bytes.ptr[i]);
  pu_buf_putc(b, ']');
}

void pu_put_chat_logprobs(pu_buf *b, const pu_tokenizer *t, const pu_note *notes, size_t n, pu_text_place *at) {
  (void)at;
  pu_buf scratch;
  pu_buf_init(&scratch, 1 << 20);
  pu_buf_puts(b, "{\"content\":[");
  for (size_t i = 0; i < n; i++) {
    if (i) pu_buf_putc(b, ',');
    put_token(b, token_bytes(t, notes[i].id, &scratch), notes[i].logprob);
    pu_buf_puts(b, ",\"top_logprobs\":[");
    for (int k = 0; k < notes[i].n_top; k++) {
      if (k) pu_buf_putc(b, ',');
      put_token(b, token_bytes(t, notes[i].top_ids[k], &scratch), notes[i].top[k]);
      pu_buf_putc(b, '}');
    }
    pu_buf_puts(b, "]}");
  }
  pu_buf_puts(b, "],\"refusal\":null}");
  pu_buf_deinit(&scratch);
}

/* Tokens that look alike (bytes that are no UTF-8) would be one key: the likelier one, which comes first, stays. */
static void put_top(pu_buf *b, const pu_tokenizer *t, const pu_note *note, pu_buf *scratch) {
  json_t *seen = json_object();
  bool first = true;
  if (isnan(note->logprob)) {
    pu_buf_puts(b, "null");
    json_decref(seen);
    return;
  }
  pu_buf_putc(b, '{');
  for (int k = 0; k < note->n_top; k++) {
    pu_buf key;
    pu_buf_init(&key, 1 << 20);
    pu_buf_json_str(&key, token_bytes(t, note->top_ids[k], scratch));
    if (key.data && !json_object_get(seen, key.data)) {
      json_object_set_new(seen, key.data, json_true());
      pu_buf_printf(b, "%s%s:", first ? "" : ",", key.data);
      put_number(b, note->top[k]);
      first = false;
    }
    pu_buf_deinit(&key);
  }
  pu_buf_putc(b, '}');
  json_decref(seen);
}

size_t pu_characters(pu_str s) {
  size_t n = 0;
  for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xC0) != 0x80;
  return n;
}

/* From the end, since before a text there may be more than it: a token that begins every prompt, a space that the
 * tokenizer puts there. */
size_t pu_first_of_last(const pu_tokenizer *t, const pu_ids *prompt, int64_t wanted) {
  size_t from = prompt->n;
  pu_buf scratch;
  pu_buf_init(&scratch, 1 << 20);
  do {
    wanted -= (int64_t)pu_characters(token_bytes(t, prompt->v[--from], &scratch));
  } while (wanted > 0 && from > 1);
  pu_buf_deinit(&scratch);
  return PU_MAX(from, (size_t)1);
}

/* As the text was decoded: special tokens are not in it, nor the space before a first word that some tokenizers add. */
static void go_on(pu_text_place *at, int32_t id, pu_buf *scratch) {
  at->decoder.flags = at->shown ? 0 : PU_DECODE_SKIP_SPECIAL;
  at->shown -= at->shown > 0;
  pu_buf_clear(scratch);
  if (pu_decoder_push(&at->decoder, id, scratch, NULL) == PU_OK)
    at->characters += pu_characters(pu_str_of(scratch->data, scratch->len));
}

void pu_put_text_logprobs(pu_buf *b, const pu_tokenizer *t, const pu_note *notes, size_t n, pu_text_place *at) {
  pu_buf scratch, offsets;
  pu_buf_init(&scratch, 1 << 20);
  pu_buf_init(&offsets, PU_BUF_MAX);
  pu_buf_puts(b, "{\"tokens\":[");
  for (size_t i = 0; i < n; i++) {
    if (i) pu_buf_putc(b, ',');
    pu_buf_json_str(b, token_bytes(t, notes[i].id, &scratch));
    pu_buf_printf(&offsets, "%s%zu", i ? "," : "", at->characters);
    go_on(at, notes[i].id, &scratch);
  }
  pu_buf_puts(b, "],\"token_logprobs\":[");
  for (size_t i = 0; i < n; i++) {
    if (i) pu_buf_putc(b, ',');
    put_number(b, notes[i].logprob);
  }
  pu_buf_puts(b, "],\"top_logprobs\":[");
  for (size_t i = 0; i < n; i++) {
    if (i) pu_buf_putc(b, ',');
    put_top(b, t, &notes[i], &scratch);
  }
  pu_buf_printf(b, "],\"text_offset\":[%s]}", offsets.data ? offsets.data : "");
  pu_buf_deinit(&offsets);
  pu_buf_deinit(&scratch);
}
