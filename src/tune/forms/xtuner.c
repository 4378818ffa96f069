/* XTuner's: {"conversation": [{"system", "input", "output", "output_with_loss": false}, …]}. */
#include "src/tune/form.h"

static const json_t *list_of(const json_t *o, const pu_chat_columns *c) {
  return json_object_get(o, pu_column(c->messages, "conversation"));
}

static bool fits(const json_t *o, const pu_chat_columns *c) {
  return json_object_get(json_array_get(list_of(o, c), 0), pu_column(c->output, "output")) != NULL;
}

static pu_err add(pu_dialogue *d, const json_t *turn, const pu_chat_columns *c, size_t i, pu_error *e) {
  const char *key = pu_column(c->messages, "conversation"), *answer = pu_column(c->output, "output");
  const json_t *system, *input, *output, *loss = json_object_get(turn, "output_with_loss");
  if (!json_is_object(turn)) return pu_dialogue_fail(d, e, "is no object", "%s[%zu]", key, i);
  PU_TRY(pu_dialogue_text(d, turn, pu_column(c->system, "system"), &system, e));
  PU_TRY(pu_dialogue_text(d, turn, pu_column(c->input, "input"), &input, e));
  PU_TRY(pu_dialogue_text(d, turn, answer, &output, e));
  if (!output) return pu_dialogue_fail(d, e, "is missing", "%s[%zu].%s", key, i, answer);
  PU_TRY(pu_dialogue_say(d, "system", system, false, e));
  PU_TRY(pu_dialogue_say(d, "user", input, false, e));
  return pu_dialogue_say(d, "assistant", output, !json_is_false(loss), e);
}

static pu_err read(const json_t *o, const pu_chat_columns *c, pu_dialogue *out, pu_error *e) {
  const json_t *list = list_of(o, c), *turn;
  size_t i;
  if (!json_is_array(list)) return pu_dialogue_fail(out, e, "is no list", "%s", pu_column(c->messages, "conversation"));
  json_array_foreach(list, i, turn) PU_TRY(add(out, turn, c, i, e));
  return PU_OK;
}

const pu_chat_form pu_chat_form_xtuner = {"xtuner", "XTuner's: conversation of system, input and output", fits, read};
