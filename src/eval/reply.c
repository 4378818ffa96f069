/* What servers answer, out of its JSON. Any bytes may come. */
#include <string.h>

#include "src/eval/internal.h"

static int64_t characters(pu_str s) {
  int64_t n = 0;
  for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xC0) != 0x80;
  return n;
}

/* The first of n tokens that the last `wanted` characters lie in. */
static size_t first_of_last(const json_t *lp, size_t n, int64_t wanted) {
  const json_t *offsets = json_object_get(lp, "text_offset"),
               *last = json_array_get(json_object_get(lp, "tokens"), n - 1);
  pu_str s = json_is_string(last) ? pu_str_of(json_string_value(last), json_string_length(last)) : (pu_str){0};
  double begin = json_number_value(json_array_get(offsets, n - 1)) + (double)characters(s) - (double)wanted;
  size_t from = n - 1;
  while (from > 1 && json_number_value(json_array_get(offsets, from)) > begin) from--;
  return from;
}

/* The tokens of one prompt; those of the option are at its end, and all that is needed unless the whole is. */
static bool take_told(const json_t *choice, bool with_one, const pu_str *option, bool whole, eval_told *out) {
  const json_t *lp = json_object_get(choice, "logprobs"), *values = json_object_get(lp, "token_logprobs");
  const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
  size_t n = json_array_size(values);
  if (with_one && n && (!finish || strcmp(finish, "stop") != 0)) n--; /* the one that was made */
  if (n == 0 || json_array_size(json_object_get(lp, "text_offset")) < n ||
      json_array_size(json_object_get(lp, "tokens")) < n)
    return false;
  size_t from = option ? PU_MAX(first_of_last(lp, n, characters(*option)), (size_t)1) : 1;
  *out = (eval_told){.tokens = (int64_t)n - (int64_t)PU_MIN(from, n), .whole_tokens = (int64_t)n};
  for (size_t i = whole ? 1 : from; i < n; i++) {
    const json_t *v = json_array_get(values, i);
    if (!json_is_number(v)) return false;
    double nats = -json_number_value(v);
    out->whole_nats += nats;
    if (i >= from) out->nats += nats;
  }
  return true;
}

pu_err eval_reply_told(const char *who, pu_str body, bool with_one, eval_ask *ask, pu_error *e) {
  json_t *v;
  PU_TRY(pu_json_parse(who, body, &v, e));
  const json_t *choices = json_object_get(v, "choices");
  size_t n = PU_MAX(ask->n_options, (size_t)1), there = 0;
  uint64_t seen = 0; /* n is at most 26 */
  for (size_t i = 0; i < json_array_size(choices); i++) {
    const json_t *c = json_array_get(choices, i);
    json_int_t at = json_integer_value(json_object_get(c, "index"));
    if (at < 0 || (size_t)at >= n || seen >> at & 1) break;
    if (!take_told(c, with_one, ask->n_options ? &ask->options[at] : NULL, ask->whole, &ask->told[at])) break;
    seen |= (uint64_t)1 << at;
    there++;
  }
  json_decref(v);
  if (there == n) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 "%s: gives no log-probabilities of a prompt (echo with logprobs), which this task needs: ask another "
                 "server, or the model in process (--model)",
                 who);
}

pu_err eval_reply_answer(const char *who, pu_str body, bool chat, eval_ask *ask, pu_error *e) {
  json_t *v;
  PU_TRY(pu_json_parse(who, body, &v, e));
  const json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
  const json_t *text =
      chat ? json_object_get(json_object_get(choice, "message"), "content") : json_object_get(choice, "text");
  const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
  pu_err err = PU_OK;
  ask->cut = finish && strcmp(finish, "length") == 0;
  if (!json_is_string(text) && !json_is_null(text))
    err = pu_fail(e, PU_ERR_FORMAT, "%s: an answer without a text", who);
  else if (json_string_length(text) && !pu_buf_append(&ask->text, json_string_value(text), json_string_length(text)))
    err = pu_fail(e, PU_ERR_NOMEM, "no memory for an answer");
  json_decref(v);
  return err;
}
