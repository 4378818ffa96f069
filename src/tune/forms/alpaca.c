/* Alpaca's: {"instruction", "input", "output", "system", "history": [["question", "answer"], …]}. The input follows the
 * instruction on a line of its own. */
#include "src/tune/form.h"

static bool fits(const json_t *o, const pu_chat_columns *c) {
  return json_object_get(o, pu_column(c->instruction, "instruction")) &&
         json_object_get(o, pu_column(c->output, "output"));
}

static pu_err add_history(pu_dialogue *d, const json_t *o, const char *key, pu_error *e) {
  const json_t *list = json_object_get(o, key), *pair;
  size_t i;
  if (!list || json_is_null(list)) return PU_OK;
  if (!json_is_array(list)) return pu_dialogue_fail(d, e, "is no list", "%s", key);
  json_array_foreach(list, i, pair) {
    const json_t *question = json_array_get(pair, 0), *answer = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_string(question) || !json_is_string(answer))
      return pu_dialogue_fail(d, e, "is no pair of texts", "%s[%zu]", key, i);
    PU_TRY(pu_dialogue_say(d, "user", question, false, e));
    PU_TRY(pu_dialogue_say(d, "assistant", answer, true, e));
  }
  return PU_OK;
}

static pu_err ask(pu_dialogue *d, const json_t *instruction, const json_t *input, pu_error *e) {
  size_t n = json_string_length(instruction), m = json_string_length(input);
  pu_buf text;
  pu_buf_init(&text, n + m + 2);
  pu_buf_append(&text, n ? json_string_value(instruction) : "", n);
  if (n && m) pu_buf_putc(&text, '\n');
  pu_buf_append(&text, m ? json_string_value(input) : "", m);
  json_t *asked = text.failed ? NULL : json_stringn(text.len ? text.data : "", text.len);
  pu_err err = asked ? pu_dialogue_say(d, "user", asked, false, e)
                     : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its question", d->where);
  json_decref(asked);
  pu_buf_deinit(&text);
  return err;
}

static pu_err read(const json_t *o, const pu_chat_columns *c, pu_dialogue *out, pu_error *e) {
  const char *question = pu_column(c->instruction, "instruction"), *answer = pu_column(c->output, "output");
  const json_t *system, *instruction, *input, *output;
  PU_TRY(pu_dialogue_text(out, o, pu_column(c->system, "system"), &system, e));
  PU_TRY(pu_dialogue_text(out, o, question, &instruction, e));
  PU_TRY(pu_dialogue_text(out, o, pu_column(c->input, "input"), &input, e));
  PU_TRY(pu_dialogue_text(out, o, answer, &output, e));
  if (!instruction && !input) return pu_dialogue_fail(out, e, "is missing", "%s", question);
  if (!output) return pu_dialogue_fail(out, e, "is missing", "%s", answer);
  PU_TRY(pu_dialogue_say(out, "system", system, false, e));
  PU_TRY(add_history(out, o, pu_column(c->history, "history"), e));
  PU_TRY(ask(out, instruction, input, e));
  return pu_dialogue_say(out, "assistant", output, true, e);
}

const pu_chat_form pu_chat_form_alpaca = {"alpaca", "Alpaca's: instruction, input, output, history", fits, read};
