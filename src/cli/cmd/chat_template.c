/* What a model reads when it is talked to: for those who wonder why a template misbehaves. */
#include <string.h>

#include "puyu/model.h"
#include "puyu/text.h"
#include "src/cli/cli.h"

#define CONVERSATION_MAX ((size_t)64 << 20)

typedef struct options {
  bool ids, prompt;
} options;

static const pu_option rows[] = {
    {.key = "ids",
     .type = PU_OPT_BOOL,
     .offset = offsetof(options, ids),
     .help = "print the tokens: what stands for each on a line of its own, after its id"},
    {.key = "prompt",
     .type = PU_OPT_BOOL,
     .offset = offsetof(options, prompt),
     .dflt = "true",
     .help = "end with the opening of the assistant's turn"},
    {0},
};

static pu_err read_conversation(const pu_cli *cli, const char *path, json_t **out, pu_error *e) {
  if (path) return pu_json_read(path, CONVERSATION_MAX, out, e);
  json_error_t why;
  *out = json_loadf(cli->in, 0, &why);
  if (*out) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "standard input:%d:%d: %s", why.line, why.column, why.text);
}

/* A list of messages, or an object with them and more; what is none of a chat's own keys is the template's. */
static pu_chat as_chat(json_t *file, bool prompt, json_t **rest) {
  static const char *const own[] = {"messages", "tools", "documents"};
  *rest = NULL;
  if (!json_is_object(file)) return (pu_chat){.messages = file, .generate = prompt};
  *rest = json_copy(file);
  for (size_t i = 0; i < PU_COUNT(own); i++) json_object_del(*rest, own[i]);
  return (pu_chat){.messages = json_object_get(file, "messages"),
                   .tools = json_object_get(file, "tools"),
                   .documents = json_object_get(file, "documents"),
                   .options = *rest,
                   .generate = prompt && !json_is_false(json_object_get(file, "add_generation_prompt"))};
}

static pu_err print_ids(FILE *out, const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_error *e) {
  pu_ids ids = {0};
  pu_err err = pu_chat_render_ids(c, t, chat, &ids, e);
  for (size_t i = 0; i < ids.n && !err && !ferror(out); i++) {
    pu_str piece = pu_tokenizer_piece(t, ids.v[i]);
    pu_buf shown;
    pu_buf_init(&shown, PU_BUF_MAX);
    if (pu_buf_json_str(&shown, piece)) fprintf(out, "%6d %s\n", ids.v[i], shown.data);
    pu_buf_deinit(&shown);
  }
  pu_ids_deinit(&ids);
  return err;
}

static pu_err print_text(FILE *out, const pu_chat_template *c, const pu_chat *chat, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = pu_chat_render_text(c, chat, &text, e);
  if (!err && text.len > 0) fwrite(text.data, 1, text.len, out);
  pu_buf_deinit(&text);
  return err;
}

static pu_err print(const pu_cli *cli, const options *o, const pu_chat_template *c, const pu_tokenizer *t,
                    const char *path, pu_error *e) {
  json_t *file, *rest;
  PU_TRY(read_conversation(cli, path, &file, e));
  const pu_chat chat = as_chat(file, o->prompt, &rest);
  pu_err err = o->ids ? print_ids(cli->out, c, t, &chat, e) : print_text(cli->out, c, &chat, e);
  json_decref(rest);
  json_decref(file);
  return err;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const char *config = pu_path_join(cli->arena, args[0], "config.json");
  const pu_arch *arch = NULL;
  const pu_chat_template *c = NULL;
  pu_hparams hp;
  pu_tokenizer *t;
  if (config && pu_path_exists(config)) PU_TRY(pu_config_read(config, &arch, &hp, e));
  PU_TRY(pu_tokenizer_load(args[0], &t, e));
  pu_err err = pu_chat_open(args[0], t, arch ? arch->name : NULL, &c, e);
  if (!err && !c)
    err = pu_fail(e, PU_ERR_UNSUPPORTED,
                  "%s: no chat_template, and the tokenizer has the markers of none of puyu's own", args[0]);
  if (!err) err = print(cli, opts, c, t, n_args > 1 ? args[1] : NULL, e);
  pu_chat_free(c);
  pu_tokenizer_free(t);
  return err;
}

const pu_command pu_command_chat_template = {
    .name = "chat-template",
    .summary = "Show a conversation as a model reads it",
    .usage = "MODEL [FILE.json] [options]",
    .details =
        "Renders a conversation through the model's chat template and prints the text, not a byte more. MODEL is a "
        "directory with a tokenizer; weights are not needed. FILE.json (or standard input) holds OpenAI's messages, "
        "[{\"role\": \"user\", \"content\": \"…\"}], or an object {\"messages\": […], \"tools\": […], \"documents\": "
        "[…]}, whose other keys (\"enable_thinking\": false) are variables for the template.\n\n"
        "InternLM models are rendered by puyu's own template, others by their chat_template.jinja, chat_template.json "
        "or the chat_template of tokenizer_config.json; without one, by what fits the tokenizer's special tokens.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 2,
    .run = run,
};
