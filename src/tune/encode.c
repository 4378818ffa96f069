/* A conversation as ids, and which of them are learned. */
#include <string.h>

#include "puyu/tune.h"

pu_err pu_tune_template(const pu_train_config *cfg, const char *model, const pu_tokenizer *t, const char *type,
                        const pu_chat_template **out, pu_error *e) {
  const char *name = cfg->data.chat_template;
  *out = NULL;
  if (!t)
    return pu_fail(e, PU_ERR_USAGE, "conversations need a tokenizer, and the model has none: set model.tokenizer");
  if (!name) PU_TRY(pu_chat_open(model, t, type, out, e));
  if (!name && !*out)
    return pu_fail(e, PU_ERR_USAGE,
                   "the model brings no chat template, and its tokenizer has the markers of none that puyu knows: set "
                   "data.chat_template");
  if (name && !(*out = pu_chat_find(name)))
    return pu_fail(e, PU_ERR_USAGE,
                   "data.chat_template: there is no '%.40s'; known: internlm, internlm2, chatml, llama3", name);
  return PU_OK;
}

static pu_err code(const pu_dialogue *d, const pu_ids *ids, const pu_ids *answers, pu_ids *out, pu_error *e) {
  size_t learned = 0;
  for (size_t i = 0; i < ids->n; i++) {
    int32_t whose = answers->v[i];
    bool learn = whose >= 0 && i > 0 && json_is_true(json_array_get(d->learn, (size_t)whose));
    learned += learn;
    if (!pu_ids_push(out, learn ? ids->v[i] : ~ids->v[i]))
      return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its %zu tokens", d->where, ids->n);
  }
  if (learned > 0) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT,
                 "%s: nothing in it is to be learned: no assistant says anything, or every answer has loss: false",
                 d->where);
}

pu_err pu_tune_encode(const pu_dialogue *d, const pu_chat_template *c, const pu_tokenizer *t, pu_ids *out,
                      pu_error *e) {
  const pu_chat chat = {.messages = d->messages, .tools = d->tools};
  pu_ids ids = {0}, answers = {0};
  size_t before = out->n;
  pu_err err = pu_chat_render_answers(c, t, &chat, &ids, &answers, e);
  if (err)
    pu_fail_in(e, err, "%s", d->where);
  else
    err = code(d, &ids, &answers, out, e);
  if (err) out->n = before;
  pu_ids_deinit(&ids);
  pu_ids_deinit(&answers);
  return err;
}
