#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/batch.h"
#include "src/cli/cli.h"
#include "src/cli/lines.h"
#include "src/cli/rows.h"
#include "src/cli/safe.h"
#include "src/cli/sample.h"
#include "src/cli/sampling.h"
#include "src/cli/structure.h"

typedef struct options {
  const char *prompt, *prompt_file, *ids, *prompts;
  pu_cli_sampling sampling;
  pu_cli_structure structure;
  pu_cli_model model;
  int output;
  int64_t threads, samples, batch;
  const char *adapter;
  bool chat, ignore_eos;
} options;

enum { OUTPUT_TEXT, OUTPUT_IDS, OUTPUT_JSON, MOST_PROMPT_BYTES = 64 << 20 };

static const pu_option rows[] = {
    PU_ROW(options, prompt, "prompt", STR, .meta = "TEXT", .help = "the text to go on from"),
    PU_ROW(options, prompt_file, "prompt-file", STR, .meta = "FILE", .help = "a file with the text; -: standard input"),
    PU_ROW(options, ids, "ids", STR, .meta = "1,2,3",
           .help = "the tokens to go on from, nothing added; models without a tokenizer know no other way"),
    PU_ROW(options, prompts, "prompts", STR, .meta = "FILE",
           .help = "a file with a text on each line (-: standard input), answered together; prints JSON lines"),
    PU_ROW(options, samples, "n", INT, .dflt = "1", .min = 1, .max = 1024, .meta = "N",
           .help = "with --prompts: answers to each text, drawn with seeds of their own (see --temperature)",
           .letter = 'n'),
    PU_ROW(options, batch, "batch", INT, .dflt = "16", .min = 1, .max = 1024, .meta = "N",
           .help = "with --prompts: answers that are made at a time"),
    PU_ROW(options, chat, "chat", BOOL, .help = "the text is a user's turn of a chat; the answer is generated"),
    PU_ROW(options, output, "output", ENUM, .dflt = "text", .choices = "text|ids|json",
           .help =
               "what is printed of the answer: its text as it comes, its ids on a line, or one object with all of it"),
    PU_SAMPLING_ROWS(options, sampling, "0", "1", "256"),
    PU_STRUCTURE_ROWS(options, structure),
    PU_ROW(options, ignore_eos, "ignore-eos", BOOL, .help = "go on after the model's end-of-text token"),
    PU_CLI_ADAPTER_ROW(options),
    PU_CLI_MODEL_ROWS(options, model),
    PU_ROW_THREADS(options, 64),
    {0},
};

/* "1,2,3", blanks allowed. */
static pu_err parse_ids(const char *text, pu_ids *out, pu_error *e) {
  const char *p = text;
  for (;;) {
    char *end;
    errno = 0;
    long id = strtol(p, &end, 10);
    end += strspn(end, " ");
    if (end == p || errno || id < 0 || id > INT32_MAX || (*end && *end != ','))
      return pu_fail(e, PU_ERR_USAGE, "--ids: '%.40s' is not a list of token ids such as 1,2,3", p);
    if (!pu_ids_push(out, (int32_t)id)) return pu_fail(e, PU_ERR_NOMEM, "no memory for the ids");
    if (!*end) return PU_OK;
    p = end + 1;
  }
}

static pu_err read_stream(FILE *in, pu_buf *out, pu_error *e) {
  char piece[1 << 14];
  for (size_t n; (n = fread(piece, 1, sizeof piece, in)) > 0;)
    if (!pu_buf_append(out, piece, n))
      return pu_fail(e, PU_ERR_NOMEM, "standard input: more than %d bytes", MOST_PROMPT_BYTES);
  return ferror(in) ? pu_fail(e, PU_ERR_IO, "standard input: cannot be read") : PU_OK;
}

static pu_err encode_chat(const pu_engine *en, pu_str text, pu_ids *out, pu_error *e) {
  if (!pu_engine_chat(en))
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "--chat: the model brings no chat template, and its tokenizer has no markers of one; leave it out");
  pu_message m = {.role = "user", .content = text};
  return pu_chat_ids(pu_engine_chat(en), pu_engine_tokenizer(en), &m, 1, true, out, e);
}

static pu_err encode_text(const pu_engine *en, const options *o, pu_str text, pu_ids *out, pu_error *e) {
  if (!pu_engine_tokenizer(en))
    return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer; give the prompt with --ids");
  return o->chat ? encode_chat(en, text, out, e) : pu_cli_encode_prompt(pu_engine_tokenizer(en), text, out, e);
}

static pu_err read_file(const pu_cli *cli, const char *path, pu_buf *out, pu_error *e) {
  pu_buf_init(out, MOST_PROMPT_BYTES);
  if (strcmp(path, "-") == 0) return read_stream(cli->in, out, e);
  PU_TRY(pu_file_read(path, MOST_PROMPT_BYTES, out, e));
  (void)pu_cli_warn_bytes(path, 1, pu_str_of(out->data ? out->data : "", out->len));
  return PU_OK;
}

static pu_err read_prompt(const pu_cli *cli, const pu_engine *en, const options *o, pu_ids *out, pu_error *e) {
  if (o->ids) return parse_ids(o->ids, out, e);
  if (o->prompt) return encode_text(en, o, pu_str_c(o->prompt), out, e);
  pu_buf text;
  pu_err err = read_file(cli, o->prompt_file, &text, e);
  if (!err) err = encode_text(en, o, pu_str_of(text.data ? text.data : "", text.len), out, e);
  pu_buf_deinit(&text);
  return err;
}

static bool print_text(void *out, pu_str text) {
  pu_cli_put_text(out, text);
  return fflush(out) == 0;
}

static void print_ids(FILE *out, const int32_t *ids, size_t n, const char *between) {
  for (size_t i = 0; i < n; i++) fprintf(out, "%s%d", i ? between : "", ids[i]);
}

static pu_err print_json(FILE *out, const pu_session *s, const pu_ids *prompt, const pu_engine_stats *st, pu_error *e) {
  size_t n;
  const int32_t *ids = pu_session_answer(s, &n);
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_buf_json_str(&text, pu_session_text(s));
  if (!text.failed) {
    fprintf(out, "{\"prompt_ids\": [");
    print_ids(out, prompt->v, prompt->n, ", ");
    fprintf(out, "], \"ids\": [");
    print_ids(out, ids, n, ", ");
    fprintf(out, "], \"text\": %s, \"finish\": \"%s\"", text.data, pu_cli_finish_name(pu_session_finish(s)));
    fprintf(out, ", \"prefill_tok_per_s\": %.6g, \"decode_tok_per_s\": %.6g}\n",
            (double)st->prefill_tokens / PU_MAX(st->prefill_seconds, 1e-9),
            (double)st->decode_tokens / PU_MAX(st->decode_seconds, 1e-9));
  }
  pu_err err = text.failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for the answer's text") : PU_OK;
  pu_buf_deinit(&text);
  return err;
}

static pu_err print_answer(FILE *out, const options *o, const pu_session *s, const pu_ids *prompt,
                           const pu_engine_stats *st, pu_error *e) {
  if (o->output == OUTPUT_JSON) return print_json(out, s, prompt, st, e);
  size_t n;
  const int32_t *ids = pu_session_answer(s, &n);
  if (o->output == OUTPUT_IDS) print_ids(out, ids, n, " ");
  fputc('\n', out);
  return PU_OK;
}

/* stop_ids: room for the chat template's. */
static pu_sampling sampling_of(const pu_engine *en, const options *o, const pu_grammar *grammar, int32_t stop_ids[8]) {
  pu_sampling how = pu_cli_sampling_get(&o->sampling);
  how.ignore_eos = o->ignore_eos;
  how.grammar = grammar;
  if (o->chat && !o->ids && !o->ignore_eos && pu_engine_chat(en)) {
    how.n_stop_ids = pu_chat_stop_ids(pu_engine_chat(en), pu_engine_tokenizer(en), stop_ids, 8);
    how.stop_ids = stop_ids;
  }
  return how;
}

static pu_err generate(const pu_cli *cli, pu_engine *en, const options *o, const pu_grammar *grammar,
                       const pu_ids *prompt, pu_error *e) {
  pu_session *s;
  int32_t stop_ids[8];
  pu_sampling how = sampling_of(en, o, grammar, stop_ids);
  PU_TRY(pu_cli_open_session(en, &s, e));
  pu_err err = pu_session_append(s, prompt->v, prompt->n, e);
  if (err && o->prompt_file) return pu_fail_in(e, err == PU_ERR_USAGE ? PU_ERR_FORMAT : err, "%s", o->prompt_file);
  PU_TRY(err);
  PU_TRY(pu_session_generate(s, &how, o->output == OUTPUT_TEXT ? print_text : NULL, cli->out, e));
  pu_engine_stats st = pu_engine_get_stats(en);
  pu_log(PU_LOG_DEBUG, "%lld prompt tokens in %.2f s, %lld more in %.2f s", (long long)st.prefill_tokens,
         st.prefill_seconds, (long long)st.decode_tokens, st.decode_seconds);
  return print_answer(cli->out, o, s, prompt, &st, e);
}

/* ---- many prompts ---- */

typedef struct encoding {
  const pu_engine *en;
  const options *o;
} encoding;

static pu_err encode_line(void *arg, pu_str prompt, pu_ids *out, pu_error *e) {
  const encoding *c = arg;
  return encode_text(c->en, c->o, prompt, out, e);
}

static pu_err generate_all(const pu_cli *cli, pu_engine *en, const options *o, const pu_grammar *grammar, pu_error *e) {
  int32_t stop_ids[8];
  encoding c = {en, o};
  pu_buf text;
  pu_cli_batch b = {.name = o->prompts,
                    .samples = o->samples,
                    .window = 2 * (int)o->batch, /* so that those that end early are followed at once */
                    .how = sampling_of(en, o, grammar, stop_ids),
                    .encode = encode_line,
                    .arg = &c};
  pu_err err = read_file(cli, o->prompts, &text, e);
  b.text = pu_str_of(text.data ? text.data : "", text.len);
  if (!err) err = pu_cli_batch_run(&b, en, cli->out, e);
  pu_buf_deinit(&text);
  return err;
}

static pu_err generate_one(const pu_cli *cli, pu_engine *en, const options *o, const pu_grammar *grammar, pu_error *e) {
  pu_ids prompt = {0};
  pu_err err = read_prompt(cli, en, o, &prompt, e);
  if (!err && o->output == OUTPUT_TEXT && !pu_engine_tokenizer(en))
    err = pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer; ask for --output ids");
  if (!err) err = generate(cli, en, o, grammar, &prompt, e);
  pu_ids_deinit(&prompt);
  return err;
}

static pu_err check(const options *o, pu_error *e) {
  if (!!o->prompt + !!o->prompt_file + !!o->ids + !!o->prompts != 1)
    return pu_fail(
        e, PU_ERR_USAGE,
        "give the prompt in one way: --prompt TEXT, --prompt-file FILE, --ids 1,2,3, or many with --prompts FILE");
  if (o->samples > 1 && !o->prompts)
    return pu_fail(e, PU_ERR_USAGE, "-n: several answers are made with --prompts FILE");
  if (o->samples > 1 && o->sampling.temperature == 0)
    pu_log(PU_LOG_WARN, "-n %lld: at temperature 0 all answers to a text are the same; --temperature 0.8 varies them",
           (long long)o->samples);
  if (o->ids && o->chat) return pu_fail(e, PU_ERR_USAGE, "--chat needs text; --ids are taken as they are");
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *o = opts;
  PU_TRY(check(o, e));
  pu_engine *en;
  pu_cli_engine_options eo = {
      .model = o->model, .threads = o->threads, .batch = o->prompts ? o->batch : 1, .adapter = o->adapter};
  PU_TRY(pu_cli_open_engine(args[0], &eo, &en, e));
  pu_grammar *grammar;
  pu_err err = pu_cli_structure_compile(&o->structure, en, &grammar, e);
  if (!err) err = o->prompts ? generate_all(cli, en, o, grammar, e) : generate_one(cli, en, o, grammar, e);
  pu_grammar_free(grammar);
  pu_engine_free(en);
  return err;
}

const pu_command pu_command_generate = {
    .name = "generate",
    .summary = "continue a text, or answer one question",
    .usage = "MODEL (--prompt TEXT | --prompt-file FILE | --ids 1,2,3 | --prompts FILE) [options]",
    .details =
        "MODEL is a Hugging Face directory. Prints what follows the prompt, not the prompt itself: its text as it is "
        "made; with --output ids its token ids on one line; with --output json one object with prompt_ids, ids, "
        "text, finish (stop or length), prefill_tok_per_s and decode_tok_per_s.\n\n"
        "With --prompts, every line of FILE that is not empty is a prompt. They are answered together, --batch answers "
        "at a time, and printed in their order, an object a line: line, sample (0 to N - 1), text, ids, finish.\n\n"
        "With --json-schema, --regex or --grammar the answer fits what they say, unless --max-tokens cuts it off; "
        "docs/structured.md says what they may contain.\n\n"
        "A text gets the begin-of-text token in front where the tokenizer says so.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
