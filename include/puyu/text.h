/* text: tokenizers, chat templates, Unicode.
 *
 * Reads SentencePiece models (tokenizer.model: BPE with byte fallback, Unigram) and Hugging Face tokenizer.json
 * (byte-level BPE). Encoding never looks for special tokens inside text: they enter only through pu_encode_special,
 * which the chat templates use, or with PU_ENCODE_SPECIAL where the caller asks for it. So no user can forge a turn.
 * Threads: a tokenizer does not change after it is loaded; any number of threads may use it, each with its own
 * pu_encoder for speed.
 * Sources: Sennrich et al. 2016 (BPE), Kudo 2018 (Unigram), Kudo & Richardson 2018 (SentencePiece). */
#ifndef PUYU_TEXT_H
#define PUYU_TEXT_H

#include <time.h>

#include "puyu/base.h"

/* ---- ids: growable, with a hard maximum ------------------------------------------------------------------------- */

typedef struct pu_ids {
  int32_t *v;
  size_t n, cap;
  bool failed; /* an append found no memory; what is there stays valid */
} pu_ids;
void pu_ids_deinit(pu_ids *ids);
bool pu_ids_push(pu_ids *ids, int32_t id);

/* ---- tokenizers --------------------------------------------------------------------------------------------------- */

typedef struct pu_tokenizer pu_tokenizer;

/* path: tokenizer.model, tokenizer.json, or a directory that holds one of them (tokenizer.json first), whose
 * tokenizer_config.json and added_tokens then add to it (renamed and special pieces, bos/eos, chat template name).
 * Caps: 64 MiB a file, 2^20 pieces, 64 KiB a piece. */
pu_err pu_tokenizer_load(const char *path, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
bool pu_tokenizer_in(const char *dir); /* does the directory hold one? */
/* From bytes, for tests and fuzzing: a SentencePiece model, or a tokenizer.json. */
pu_err pu_tokenizer_parse_spm(pu_str bytes, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
pu_err pu_tokenizer_parse_json(pu_str bytes, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
void pu_tokenizer_free(pu_tokenizer *t);
/* Writes the tokenizer's own files (as they were read) into dir, beside a model's weights. */
pu_err pu_tokenizer_save(const pu_tokenizer *t, const char *dir, pu_error *e) PU_MUST_USE;

/* One of the files it was read from ("tokenizer_config.json"), or would be saved as; ptr NULL: there is none. */
pu_str pu_tokenizer_file(const pu_tokenizer *t, const char *name);

/* A tokenizer as lists: how formats that keep a model in one file hold it. All views. */
typedef struct pu_vocab {
  bool byte_level; /* byte-level BPE by merges; else a SentencePiece BPE by scores */
  size_t n;
  const pu_str *pieces;
  const int32_t *types; /* SentencePiece's: 1 ordinary, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; NULL: 1 */
  int32_t bos, eos;     /* -1: none */
  bool adds_bos;
  pu_str chat_template; /* Jinja; empty: none */
  /* byte-level */
  const pu_str *merges; /* "a b", by rank */
  size_t n_merges;
  const char *pre; /* llama.cpp's name for how text is cut into words; NULL: not said, or none of its own */
  pu_str json;     /* tokenizer.json itself, where the format keeps it beside the lists: then it is what counts */
  /* SentencePiece */
  const float *scores;
  bool dummy_prefix, remove_extra_spaces;
  pu_str charsmap; /* the normaliser's table; empty: none */
} pu_vocab;
pu_err pu_tokenizer_from_vocab(const pu_vocab *v, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
/* At least `size` pieces: unused ones fill up, as an embedding has rows for. Lists lie in a, texts in t. */
pu_err pu_tokenizer_to_vocab(const pu_tokenizer *t, size_t size, pu_arena *a, pu_vocab *out, pu_error *e) PU_MUST_USE;

int32_t pu_tokenizer_size(const pu_tokenizer *t);            /* ids are [0, size) */
int32_t pu_tokenizer_bos(const pu_tokenizer *t);             /* -1: none */
int32_t pu_tokenizer_eos(const pu_tokenizer *t);             /* -1: none */
bool pu_tokenizer_adds_bos(const pu_tokenizer *t);           /* the model was trained with one in front */
uint64_t pu_tokenizer_hash(const pu_tokenizer *t);           /* of pieces and merges: do these shards fit this model? */
int32_t pu_tokenizer_find(const pu_tokenizer *t, pu_str piece); /* a special or ordinary piece by its text; -1 */
pu_str pu_tokenizer_piece(const pu_tokenizer *t, int32_t id);   /* as stored ("▁the", "Ġthe"); empty when out of range */
bool pu_tokenizer_is_special(const pu_tokenizer *t, int32_t id);

enum {
  PU_ENCODE_BOS = 1,     /* bos in front, where the tokenizer has one */
  PU_ENCODE_EOS = 2,
  PU_ENCODE_SPECIAL = 4, /* special tokens written in the text become their ids: trusted text only */
  PU_ENCODE_NO_PREFIX = 8 /* a continuation: no dummy prefix even where the model wants one */
};

/* Appends the ids of text, at most 2^30 bytes of any kind: what is not UTF-8 passes as it is in byte-level tokenizers, and
 * is read as U+FFFD, a byte at a time, in SentencePiece ones, as the library does. A failed call appends nothing.
 * User-defined pieces of a SentencePiece model are matched in any text, as the library does; pu_chat_ids keeps those
 * that are markers out of contents. */
pu_err pu_encode(const pu_tokenizer *t, pu_str text, unsigned flags, pu_ids *out, pu_error *e) PU_MUST_USE;

/* The same with memory kept between calls (word cache, work space): what a loop over documents uses. One thread each. */
typedef struct pu_encoder pu_encoder;
pu_err pu_encoder_create(const pu_tokenizer *t, pu_encoder **out, pu_error *e) PU_MUST_USE;
void pu_encoder_free(pu_encoder *enc);
pu_err pu_encoder_encode(pu_encoder *enc, pu_str text, unsigned flags, pu_ids *out, pu_error *e) PU_MUST_USE;

enum { PU_DECODE_SKIP_SPECIAL = 1 }; /* special tokens give no text */
/* Appends the bytes of ids: byte pieces as they are, even where they make no UTF-8. Ids out of range are refused. */
pu_err pu_decode(const pu_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, pu_buf *out, pu_error *e)
    PU_MUST_USE;
/* Appends the bytes that one id stands for inside a text (at its beginning a space may be left out, see pu_decode);
 * a special token has none. */
pu_err pu_tokenizer_bytes(const pu_tokenizer *t, int32_t id, pu_buf *out, pu_error *e) PU_MUST_USE;

/* Streaming: push ids one at a time; text comes out as soon as its UTF-8 is complete, the same bytes in the end as
 * pu_decode's, but invalid bytes come out as U+FFFD. Plain data; make with `pu_decoder d = {.t = tokenizer}`. */
typedef struct pu_decoder {
  const pu_tokenizer *t;
  unsigned flags;
  bool started;
  uint8_t held[8]; /* the beginning of a character not yet complete */
  uint8_t n_held;
} pu_decoder;
pu_err pu_decoder_push(pu_decoder *d, int32_t id, pu_buf *out, pu_error *e) PU_MUST_USE;
bool pu_decoder_finish(pu_decoder *d, pu_buf *out); /* what is held, as U+FFFD; false: no memory */

/* ---- training a byte-level BPE ------------------------------------------------------------------------------------- */

typedef struct pu_bpe_options {
  int32_t vocab_size;        /* special tokens and the 256 bytes included */
  const char *const *special; /* special tokens, first ids; NULL-ended; NULL: puyu's own list (see pu_chat) */
  int64_t min_count;         /* pairs rarer than this are not merged (2) */
  bool split_cjk;            /* unused characters aside, keep runs of Han characters short (at most 4 a piece) */
  void (*progress)(void *arg, double done, double total, const char *phase);
  void *progress_arg;
} pu_bpe_options;

typedef struct pu_bpe_trainer pu_bpe_trainer;
pu_err pu_bpe_trainer_create(const pu_bpe_options *o, pu_bpe_trainer **out, pu_error *e) PU_MUST_USE;
void pu_bpe_trainer_free(pu_bpe_trainer *t);
pu_err pu_bpe_trainer_add(pu_bpe_trainer *t, pu_str document, pu_error *e) PU_MUST_USE; /* counts its words */
/* Learns the merges, on one thread; the same text gives the same file. Appends tokenizer.json (readable by
 * Hugging Face tokenizers) to json. */
pu_err pu_bpe_trainer_finish(pu_bpe_trainer *t, pu_buf *json, pu_error *e) PU_MUST_USE;
/* Finishes into dir: tokenizer.json, and tokenizer_config.json with bos, eos and the chat template. */
pu_err pu_bpe_trainer_save(pu_bpe_trainer *t, const char *dir, pu_error *e) PU_MUST_USE;
int32_t pu_bpe_trainer_size(const pu_bpe_trainer *t); /* what was learned, special tokens included: after finish */

/* ---- Jinja: the part of it that chat templates use ----------------------------------------------------------------- */

/* A template, parsed once and rendered any number of times, by any number of threads. It gives the bytes that Jinja gives
 * with the settings of Hugging Face transformers: trim_blocks and lstrip_blocks, loop controls, the generation tag,
 * raise_exception, strftime_now, and tojson by the rules of Python's json. Not there: import, include, extends, block,
 * and whatever changes a list or a dictionary (transformers' sandbox forbids that too).
 * Caps: a source of 1 MiB, trees 200 deep. */
typedef struct pu_jinja pu_jinja;
/* name begins every error, "name:line: …", parsing or rendering. */
pu_err pu_jinja_parse(const char *name, pu_str source, pu_jinja **out, pu_error *e) PU_MUST_USE;
void pu_jinja_free(pu_jinja *t);

typedef struct pu_jinja_input {
  const json_t *input;   /* variables by name: messages, tools, …: nothing in them may become a special token */
  const json_t *trusted; /* the same for what the model brings: bos_token, eos_token, …; or NULL */
  const struct tm *now;  /* for strftime_now; NULL: the clock */
  size_t max_steps;      /* of work, about a byte or an item each; 0: 2^27 */
  size_t max_output;     /* bytes; 0: 64 MiB */
  size_t max_memory;     /* bytes of values in between; 0: 512 MiB */
  int max_depth;         /* of nested expressions, blocks, calls and values; 0: 400 */
} pu_jinja_input;

/* Appends the text to `text` and, where `origin` is given, a byte for each of its bytes: 1 where it came from `input`,
 * whichever way it went through the template, 0 where the template or `trusted` wrote it.
 * PU_ERR_USAGE: the template called raise_exception, whose message is the error's. PU_ERR_FORMAT: the template cannot
 * do this (an undefined value was used, say). PU_ERR_NOMEM: a bound was reached. A failed call appends nothing. */
pu_err pu_jinja_render(const pu_jinja *t, const pu_jinja_input *in, pu_buf *text, pu_buf *origin, pu_error *e)
    PU_MUST_USE;

/* ---- chat ------------------------------------------------------------------------------------------------------------ */

typedef struct pu_message {
  const char *role; /* "system", "user", "assistant" (others where the template knows them) */
  const char *name; /* or NULL */
  pu_str content;
} pu_message;

/* A template is one of puyu's own, a const table row each: what stands before and after each role's content; or one that
 * a model brings as Jinja. Own names: "internlm", "internlm2" (also InternLM2.5, InternLM3 and puyu's own models),
 * "chatml", "llama3". Templates do not change: any number of threads may use one. */
typedef struct pu_chat_template pu_chat_template;
const pu_chat_template *pu_chat_find(const char *name); /* NULL: unknown */
const char *const *pu_chat_names(void);                 /* NULL-ended */
/* The own template that fits a tokenizer (by its special tokens) and a model type ("internlm2", "llama", …; may be
 * NULL). */
const pu_chat_template *pu_chat_guess(const pu_tokenizer *t, const char *model_type);
/* From a template's source. special: an object of the special tokens it knows by name (bos_token, …), or NULL. */
pu_err pu_chat_parse(const char *name, pu_str source, const json_t *special, pu_chat_template **out, pu_error *e)
    PU_MUST_USE;
/* The template in a model's directory: chat_template.jinja, chat_template.json, or chat_template of
 * tokenizer_config.json. *out NULL: there is none. */
pu_err pu_chat_load(const char *dir, pu_chat_template **out, pu_error *e) PU_MUST_USE;
/* What a model is to be talked to with: its own template, except where puyu's is the one its family was trained with
 * (InternLM's); else what fits its tokenizer; else NULL. path: the model's directory, or its one file, whose template
 * the tokenizer knows; or NULL. Free it either way. */
pu_err pu_chat_open(const char *path, const pu_tokenizer *t, const char *model_type, const pu_chat_template **out,
                    pu_error *e) PU_MUST_USE;
void pu_chat_free(const pu_chat_template *c); /* NULL and puyu's own are fine */
const char *pu_chat_name(const pu_chat_template *c);

/* Renders to text (for people) or straight to ids (for models): markers by id, contents without special tokens.
 * generate: ends with the opening of an assistant's turn. Errors: a marker the tokenizer lacks. */
pu_err pu_chat_text(const pu_chat_template *c, const pu_message *m, size_t n, bool generate, pu_buf *out, pu_error *e)
    PU_MUST_USE;
pu_err pu_chat_ids(const pu_chat_template *c, const pu_tokenizer *t, const pu_message *m, size_t n, bool generate,
                   pu_ids *out, pu_error *e) PU_MUST_USE;

/* The same for a conversation as OpenAI's API has it, tools and all. Everything is borrowed. */
typedef struct pu_chat {
  const json_t *messages;  /* [{"role", "content", "name", "tool_calls", "tool_call_id"}, …]; a content is a string, null,
                              or parts [{"type": "text", "text"}] */
  const json_t *tools;     /* [{"type": "function", "function": {"name", "description", "parameters"}}, …], and for
                              InternLM2 {"type": "code_interpreter"}; or NULL */
  const json_t *documents; /* for templates that know them; or NULL */
  const json_t *options;   /* more variables for a Jinja template, {"enable_thinking": false}; or NULL */
  bool generate;
} pu_chat;
/* Ids of a Jinja template's text: a special token comes from it only where the template wrote each of its bytes, however
 * it cut, joined or quoted what the messages say (see pu_jinja_render). Between special tokens the text is encoded as a
 * whole, so where no message holds a special token's text the ids are those of encoding all of it at once. A Jinja
 * template writes the begin-of-text token itself; none is added. */
pu_err pu_chat_render_text(const pu_chat_template *c, const pu_chat *chat, pu_buf *out, pu_error *e) PU_MUST_USE;
pu_err pu_chat_render_ids(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_ids *out,
                          pu_error *e) PU_MUST_USE;

/* The ids of pu_chat_render_ids (generate does not count: there is none), and for each of them in `answers` whose answer it
 * is part of: the place in messages of what an assistant says (content, calls, the marker that ends the turn), or -1. What a
 * model that answers learns: a token belongs to an answer where no byte of it is of what stands before. Of a Jinja template an
 * answer is what follows the prompt that would have asked for it, up to the token that ends it, or where the conversation up to
 * it ends; each answer is found by rendering the messages before it. */
pu_err pu_chat_render_answers(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_ids *ids,
                              pu_ids *answers, pu_error *e) PU_MUST_USE;

/* Calls in an answer, in the form the template teaches: InternLM2's <|action_start|><|plugin|>, <tool_call>{json}
 * </tool_call>, Llama 3's bare JSON. The answer's text has its special tokens in it, those of pu_chat_call_ids. */
enum {
  PU_CHAT_READ_WHOLE = 1,   /* a call is told when it has ended, if it is well-formed; else it stays content */
  PU_CHAT_READ_ONE_CALL = 2 /* the answer is one call and nothing else, as bare JSON */
};

/* Reads an answer while it is made. Content is told as soon as it can be no part of a call; a call once its marker, its
 * name and the beginning of its arguments are there; then its arguments as they come, in the words of the answer. What
 * breaks off or goes wrong after that cannot be taken back (without PU_CHAT_READ_WHOLE). InternLM2's code is told from its
 * first character on, without the fences around it. White space before the first content after a call, and after the last where there are calls, is none. */
typedef struct pu_chat_piece {
  pu_str content;   /* a piece of content; or ptr NULL, and: */
  size_t call;      /* which call, from 0 */
  const char *name; /* not NULL: this begins a call of that function */
  pu_str arguments; /* a piece of its arguments, or of the code; may be empty */
  bool is_code;     /* of a call of InternLM2's interpreter */
} pu_chat_piece;
typedef struct pu_chat_reader pu_chat_reader;
/* on_piece: what it is given lives as long as the call. The template must outlive the reader. */
pu_err pu_chat_reader_create(const pu_chat_template *c, unsigned flags,
                             void (*on_piece)(void *arg, const pu_chat_piece *p), void *arg, pu_chat_reader **out,
                             pu_error *e) PU_MUST_USE;
pu_err pu_chat_reader_feed(pu_chat_reader *r, pu_str text, pu_error *e) PU_MUST_USE;
pu_err pu_chat_reader_finish(pu_chat_reader *r, pu_error *e) PU_MUST_USE; /* once: what was held back */
void pu_chat_reader_free(pu_chat_reader *r); /* NULL is fine */

/* A whole answer as a message: {"role": "assistant", "content", "tool_calls"}; calls look as OpenAI's do: {"id", "type":
 * "function", "function": {"name", "arguments": "json"}}, InternLM2's code {"id", "type": "code_interpreter",
 * "code_interpreter": {"input"}}. The caller owns *message. */
pu_err pu_chat_answer(const pu_chat_template *c, unsigned flags, pu_str text, json_t **message, pu_error *e)
    PU_MUST_USE;
/* Ids of the special tokens that mark calls: at most max written, returns how many. */
size_t pu_chat_call_ids(const pu_chat_template *c, const pu_tokenizer *t, int32_t *out, size_t max);

/* Ids at which an answer ends (end-of-turn, eos): at most max written, returns how many. */
size_t pu_chat_stop_ids(const pu_chat_template *c, const pu_tokenizer *t, int32_t *out, size_t max);

/* ---- Unicode ------------------------------------------------------------------------------------------------------- */

/* Bytes of the character at s (1..4), or 0 where the bytes are not valid UTF-8. *cp is its code point. */
size_t pu_utf8_next(pu_str s, uint32_t *cp);
/* Appends cp as UTF-8. */
bool pu_utf8_put(pu_buf *b, uint32_t cp);
bool pu_utf8_valid(pu_str s);
/* Columns a terminal uses for s (wide characters count two). */
size_t pu_utf8_width(pu_str s);

#endif
