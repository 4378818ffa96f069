/* Which requests a load consists of. */
#include <math.h>
#include <string.h>

#include "src/cli/load.h"

enum { MOST_INPUT = 1024, MOST_BOTH = 2048, FEWEST = 4, BYTES_A_TOKEN = 4 };
static const size_t MOST_TRACE = (size_t)1 << 30;

static pu_err no_memory(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory for the prompts: ask for fewer --requests");
}

/* ---- lengths ---- */

static int64_t draw_uniform(pu_rng *rng, int64_t min, int64_t max) {
  return min + (int64_t)pu_rng_below(rng, (uint64_t)(max - min) + 1);
}

/* Log-normal with that mean, at least 4. */
static int64_t draw_log_normal(pu_rng *rng, double mean, double sigma) {
  double x = exp(log(mean) - sigma * sigma / 2 + sigma * pu_rng_normal(rng));
  return (int64_t)PU_MIN(PU_MAX(round(x), FEWEST), 1e6);
}

void pu_load_draw_lengths(const pu_load_lengths *o, uint64_t seed, uint64_t index, int64_t *input, int64_t *output) {
  pu_rng rng;
  pu_rng_seed(&rng, pu_random_at(seed, 1, index));
  int64_t most = o->most > 0 ? o->most : INT32_MAX;
  if (!o->input_max || !o->output_max) most = PU_MIN(most, MOST_BOTH);
  *input = o->input_max ? draw_uniform(&rng, o->input_min, o->input_max) : draw_log_normal(&rng, 161, 1.2);
  *output = o->output_max ? draw_uniform(&rng, o->output_min, o->output_max) : draw_log_normal(&rng, 338, 0.9);
  if (!o->input_max) *input = PU_MIN(*input, MOST_INPUT);
  *input = PU_MAX(PU_MIN(*input, most - FEWEST), 1);
  *output = PU_MAX(PU_MIN(*output, most - *input), 1);
}

/* ---- words ---- */

/* Pronounceable words of a prime number of kinds: none of them means anything, and prompts hardly ever begin alike. */
static void put_word(pu_buf *b, uint64_t dice) {
  static const char consonants[] = "bdfgklmnprstvz", vowels[] = "aeiou";
  if (b->len) pu_buf_putc(b, ' ');
  for (int i = 0; i <= (int)(dice >> 60) % 3; i++) {
    pu_buf_putc(b, consonants[(dice >> (i * 10)) % (sizeof consonants - 1)]);
    pu_buf_putc(b, vowels[(dice >> (i * 10 + 5)) % (sizeof vowels - 1)]);
  }
}

/* Cut to n tokens, as the tokenizer counts them. */
static pu_err cut_to(const pu_tokenizer *t, int64_t n, pu_buf *text, pu_error *e) {
  pu_ids ids = {0};
  pu_err err = pu_encode(t, pu_str_of(text->data, text->len), 0, &ids, e);
  pu_buf_clear(text);
  if (!err) err = pu_decode(t, ids.v, PU_MIN(ids.n, (size_t)n), 0, text, e);
  pu_ids_deinit(&ids);
  return err;
}

static pu_err keep(pu_arena *a, pu_str text, pu_str *out, pu_error *e) {
  char *copy = pu_arena_strndup(a, text.ptr, text.len);
  *out = pu_str_of(copy, text.len);
  return copy ? PU_OK : no_memory(e);
}

pu_err pu_load_random(size_t n, const pu_load_lengths *o, uint64_t seed, const pu_tokenizer *t, pu_arena *a,
                      pu_load_plan *out, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  *out = (pu_load_plan){.v = pu_arena_zalloc(a, n * sizeof *out->v)};
  pu_err err = out->v ? PU_OK : no_memory(e);
  for (size_t i = 0; i < n && !err; i++) {
    pu_load_request *r = &out->v[out->n++];
    pu_load_draw_lengths(o, seed, i, &r->input, &r->output);
    pu_buf_clear(&text);
    for (int64_t k = 0; k < r->input; k++) put_word(&text, pu_random_at(seed, i + 2, (uint64_t)k));
    if (text.failed) err = no_memory(e);
    if (!err && t) err = cut_to(t, r->input, &text, e);
    if (!err) err = keep(a, pu_str_of(text.data, text.len), &r->prompt, e);
  }
  pu_buf_deinit(&text);
  return err;
}

/* ---- traces ---- */

static int64_t count_tokens(const pu_tokenizer *t, const json_t *text) {
  size_t bytes = json_string_length(text);
  pu_ids ids = {0};
  int64_t n = (int64_t)(bytes / BYTES_A_TOKEN);
  if (t && pu_encode(t, pu_str_of(json_string_value(text), bytes), 0, &ids, NULL) == PU_OK) n = (int64_t)ids.n;
  pu_ids_deinit(&ids);
  return n;
}

/* False: it is passed over. */
static bool read_conversation(const json_t *one, const pu_tokenizer *t, const json_t **prompt, pu_load_request *r) {
  const json_t *turns = json_object_get(one, "conversations");
  const json_t *answer = json_object_get(json_array_get(turns, 1), "value");
  *prompt = json_object_get(json_array_get(turns, 0), "value");
  if (!json_is_string(*prompt) || !json_is_string(answer)) return false;
  if (json_string_length(*prompt) > (size_t)MOST_INPUT * 64) return false; /* no need to count these */
  r->input = count_tokens(t, *prompt);
  r->output = count_tokens(t, answer);
  return r->input >= FEWEST && r->output >= FEWEST && r->input <= MOST_INPUT && r->input + r->output <= MOST_BOTH;
}

static pu_err add(pu_load_plan *plan, const pu_load_request *r, const json_t *prompt, pu_arena *a, pu_error *e) {
  pu_load_request *to = &plan->v[plan->n++];
  *to = *r;
  return keep(a, pu_str_of(json_string_value(prompt), json_string_length(prompt)), &to->prompt, e);
}

static pu_err read_share_gpt(const char *path, size_t n, uint64_t seed, const pu_tokenizer *t, pu_arena *a,
                             pu_load_plan *out, pu_error *e) {
  json_t *all;
  PU_TRY(pu_json_read(path, MOST_TRACE, &all, e));
  pu_err err = PU_OK;
  pu_rng rng;
  pu_rng_seed(&rng, seed);
  for (size_t left = json_array_size(all); left > 0 && out->n < n && !err; left--) { /* Fisher and Yates */
    size_t pick = (size_t)pu_rng_below(&rng, left);
    json_t *one = json_incref(json_array_get(all, pick));
    json_array_set(all, pick, json_array_get(all, left - 1));
    const json_t *prompt;
    pu_load_request r;
    if (read_conversation(one, t, &prompt, &r)) err = add(out, &r, prompt, a, e);
    json_decref(one);
  }
  json_decref(all);
  return err;
}

static pu_err read_line(const char *path, size_t number, pu_str line, const pu_tokenizer *t, pu_arena *a,
                        pu_load_plan *out, pu_error *e) {
  char where[300];
  json_t *v;
  pu_load_request r;
  snprintf(where, sizeof where, "%s:%zu", path, number);
  PU_TRY(pu_json_parse(where, line, &v, e));
  const json_t *prompt = json_object_get(v, "prompt");
  pu_err err = json_is_string(prompt)
                   ? pu_json_int(v, "output_len", 1, INT32_MAX, &r.output, where, e)
                   : pu_fail(e, PU_ERR_FORMAT, "%s: must be {\"prompt\": \"…\", \"output_len\": N}", where);
  if (!err) {
    r.input = count_tokens(t, prompt);
    err = add(out, &r, prompt, a, e);
  }
  json_decref(v);
  return err;
}

static pu_err read_lines(const char *path, const pu_buf *text, size_t n, const pu_tokenizer *t, pu_arena *a,
                         pu_load_plan *out, pu_error *e) {
  const char *at = text->data, *end = text->data + text->len;
  for (size_t number = 1; at < end && out->n < n; number++) {
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    pu_str line = pu_str_of(at, (size_t)((stop ? stop : end) - at));
    if (strspn(at, " \t\r") < line.len) PU_TRY(read_line(path, number, line, t, a, out, e));
    at += line.len + 1;
  }
  return PU_OK;
}

pu_err pu_load_trace(const char *path, size_t n, uint64_t seed, const pu_tokenizer *t, pu_arena *a, pu_load_plan *out,
                     pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, MOST_TRACE + 1);
  *out = (pu_load_plan){.v = pu_arena_zalloc(a, n * sizeof *out->v)};
  pu_err err = out->v ? pu_file_read(path, MOST_TRACE, &text, e) : no_memory(e);
  if (!err && text.len && text.data[strspn(text.data, " \t\r\n")] == '[')
    err = read_share_gpt(path, n, seed, t, a, out, e);
  else if (!err)
    err = read_lines(path, &text, n, t, a, out, e);
  if (!err && out->n == 0) err = pu_fail(e, PU_ERR_FORMAT, "%s: holds no request that could be asked", path);
  pu_buf_deinit(&text);
  return err;
}
