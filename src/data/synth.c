/* Rule-made text: which document is of which kind, language and split. */
#include <ctype.h>
#include <string.h>

#include "src/data/synth.h"

const char *const pu_synth_kind_names[PU_SYNTH_KINDS] = {"stories", "arithmetic", "facts"};

/* Bytes of an average document of each kind (measured): weights are shares of bytes, choices are of documents. */
static const double mean_bytes[PU_SYNTH_KINDS] = {460, 310, 175};

enum { STREAM_DOCUMENT = 1, STREAM_VALID = 2, STREAM_QUESTION = 3, MAX_DOCUMENT = 1 << 20 };

pu_synth_options pu_synth_defaults(void) {
  return (pu_synth_options){.bytes = 16 << 20, .weights = {1, 3, 1}, .questions = 250, .valid_fraction = 0.01};
}

void pu_synth_fill(const char *template, const pu_slot *slots, size_t n, pu_buf *out) {
  for (const char *p = template; *p;) {
    const char *end = *p == '{' ? strchr(p, '}') : NULL;
    size_t len = end ? (size_t)(end - p) - 1 : 0, i = 0;
    while (end && i < n && (strlen(slots[i].name) != len || strncasecmp(slots[i].name, p + 1, len) != 0)) i++;
    if (!end || i == n) {
      pu_buf_putc(out, *p++);
      continue;
    }
    size_t at = out->len;
    pu_buf_puts(out, slots[i].value);
    if (isupper((unsigned char)p[1]) && !out->failed) out->data[at] = (char)toupper((unsigned char)out->data[at]);
    p = end + 1;
  }
}

static pu_synth_kind kind_pick(const pu_synth_options *o, pu_rng *r) {
  double share[PU_SYNTH_KINDS], total = 0;
  for (int k = 0; k < PU_SYNTH_KINDS; k++) total += share[k] = o->weights[k] / mean_bytes[k];
  double at = pu_rng_uniform(r) * total;
  int k = 0;
  while (k < PU_SYNTH_KINDS - 1 && (at -= share[k]) >= 0) k++;
  while (k > 0 && o->weights[k] == 0) k--; /* rounding must not choose what was switched off */
  return (pu_synth_kind)k;
}

/* Three quarters of the documents stay within 100 where both ranges are asked for: with less, a small model learns
 * neither range in the time a laptop has. */
static int within_pick(const pu_synth_options *o, pu_rng *r) {
  if (!o->within[1]) return 100;
  if (!o->within[0]) return 1000;
  return pu_rng_below(r, 4) < 3 ? 100 : 1000;
}

static pu_err document_make(const pu_synth_options *o, int64_t number, pu_buf *text, const pu_synth_sink *sink,
                            pu_error *e) {
  pu_rng r;
  pu_rng_seed(&r, pu_random_at(o->seed, STREAM_DOCUMENT, (uint64_t)number));
  char id[64];
  snprintf(id, sizeof id, "synth-%llu-%08lld", (unsigned long long)o->seed, (long long)number);
  pu_synth_kind kind = kind_pick(o, &r);
  int lang = (int)pu_rng_below(&r, PU_LANGS);
  pu_buf_clear(text);
  switch (kind) {
  case PU_SYNTH_STORIES:
    pu_synth_story(&r, lang, text);
    break;
  case PU_SYNTH_ARITHMETIC:
    pu_synth_sums(&r, lang, within_pick(o, &r), text);
    break;
  default:
    pu_synth_facts(&r, lang, o->seed, text);
    break;
  }
  if (text->failed) return pu_fail(e, PU_ERR_NOMEM, "synth: no memory for document %lld", (long long)number);
  double at = (double)(pu_random_at(o->seed, STREAM_VALID, (uint64_t)number) >> 11) * 0x1p-53;
  const pu_synth_document d = {.id = id,
                               .content = pu_str_of(text->data, text->len),
                               .kind = kind,
                               .lang = lang == PU_ZH ? "zh" : "en",
                               .valid = at < o->valid_fraction};
  return sink->document ? sink->document(sink->arg, &d, e) : PU_OK;
}

pu_err pu_synth_tell_sum(char op, int a, int b, int within, int lang,
                         pu_err (*question)(void *arg, const pu_synth_question *q, pu_error *e), void *arg,
                         pu_error *e) {
  pu_buf prompt, ask, reply;
  pu_buf_init(&prompt, 1024);
  pu_buf_init(&ask, 1024);
  pu_buf_init(&reply, 1024);
  int result = op == '+' ? a + b : a - b;
  pu_synth_plain(op, a, b, lang, false, &prompt);
  pu_synth_ask(op, a, b, lang, &ask);
  pu_synth_reply(result, lang, &reply);
  char answer[16];
  snprintf(answer, sizeof answer, "%d", result);
  const pu_synth_question q = {prompt.data, answer, ask.data, reply.data, lang == PU_ZH ? "zh" : "en",
                               within,      op,     a,        b};
  bool failed = prompt.failed || ask.failed || reply.failed;
  pu_err err = failed ? pu_fail(e, PU_ERR_NOMEM, "synth: no memory") : question(arg, &q, e);
  pu_buf_deinit(&prompt);
  pu_buf_deinit(&ask);
  pu_buf_deinit(&reply);
  return err;
}

bool pu_synth_question_json(const pu_synth_question *q, pu_buf *out) {
  const struct {
    const char *key, *value;
  } texts[] = {{"prompt", q->prompt}, {"answer", q->answer}, {"ask", q->ask}, {"reply", q->reply}, {"lang", q->lang}};
  for (size_t i = 0; i < PU_COUNT(texts); i++) {
    pu_buf_printf(out, "%s\"%s\": ", i ? ", " : "{", texts[i].key);
    pu_buf_json_str(out, pu_str_c(texts[i].value));
  }
  if (!q->op) return pu_buf_puts(out, ", \"kind\": \"facts\"}");
  return pu_buf_printf(out, ", \"kind\": \"arithmetic\", \"within\": %d, \"op\": \"%c\", \"a\": %d, \"b\": %d}",
                       q->within, q->op, q->a, q->b);
}

/* Held-out pairs of one range and operation, in an order that depends on nothing, half of them in each language. */
static pu_err questions_make(const pu_synth_options *o, char op, int within, const pu_synth_sink *sink, pu_error *e) {
  pu_rng r;
  pu_rng_seed(&r, pu_random_at(0, STREAM_QUESTION, (uint64_t)within * 256 + (unsigned char)op));
  uint8_t seen[1000 * 1000 / 8] = {0};
  int64_t most = (int64_t)within * within / 2 / 20; /* about a tenth is held out; take at most half of it */
  for (int64_t n = 0; n < PU_MIN(o->questions, most);) {
    int a = (int)pu_rng_below(&r, (uint64_t)within), b = (int)pu_rng_below(&r, (uint64_t)within);
    if (op == '+' ? a + b >= within : a < b) continue;
    size_t bit = (size_t)a * 1000 + (size_t)b;
    if (!pu_synth_heldout(op, a, b) || (seen[bit / 8] >> (bit % 8) & 1)) continue;
    seen[bit / 8] |= (uint8_t)(1u << (bit % 8));
    PU_TRY(pu_synth_tell_sum(op, a, b, within, n % 2 ? PU_EN : PU_ZH, sink->question, sink->arg, e));
    n++;
  }
  return PU_OK;
}

static pu_err options_check(pu_synth_options *o, pu_error *e) {
  double total = 0;
  for (int k = 0; k < PU_SYNTH_KINDS; k++) {
    if (!(o->weights[k] >= 0) || o->weights[k] > 1e9)
      return pu_fail(e, PU_ERR_USAGE, "synth: the weight of %s must be 0 or more", pu_synth_kind_names[k]);
    total += o->weights[k];
  }
  if (total == 0) memcpy(o->weights, pu_synth_defaults().weights, sizeof o->weights);
  if (o->documents < 0 || o->bytes < 0 || (o->documents == 0 && o->bytes == 0))
    return pu_fail(e, PU_ERR_USAGE, "synth: say how many documents or bytes to make");
  if (!(o->valid_fraction >= 0 && o->valid_fraction < 1))
    return pu_fail(e, PU_ERR_USAGE, "synth: valid_fraction must be in [0, 1)");
  if (!o->within[0] && !o->within[1]) o->within[0] = o->within[1] = true;
  return PU_OK;
}

static pu_err documents_run(const pu_synth_options *o, const pu_synth_sink *sink, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, MAX_DOCUMENT);
  int64_t bytes = 0;
  pu_err err = PU_OK;
  for (int64_t i = 0; err == PU_OK && (o->documents ? i < o->documents : bytes < o->bytes); i++) {
    err = document_make(o, i, &text, sink, e);
    bytes += (int64_t)text.len;
  }
  pu_buf_deinit(&text);
  return err;
}

pu_err pu_synth_run(const pu_synth_options *options, const pu_synth_sink *sink, pu_error *e) {
  pu_synth_options o = *options;
  PU_TRY(options_check(&o, e));
  if (sink->document) PU_TRY(documents_run(&o, sink, e));
  static const int ranges[2] = {100, 1000};
  for (int i = 0; sink->question && i < 2; i++) {
    if (!o.within[i]) continue;
    PU_TRY(questions_make(&o, '+', ranges[i], sink, e));
    PU_TRY(questions_make(&o, '-', ranges[i], sink, e));
  }
  return PU_OK;
}
