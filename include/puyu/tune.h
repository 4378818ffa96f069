/* tune: conversations, and what a model learns from them.
 *
 * Files of conversations in several forms are read into one: OpenAI's list of messages. It is rendered and encoded by the
 * functions that serve it (pu_chat_…), so that a model is trained on the ids it will be asked with, and learns those that an
 * assistant says: content, calls, and the marker that ends the turn. Samples are packed into rows for the loop of `train`,
 * which takes them through pu_train_hooks.feed; that loop also trains adapters.
 *
 * Threads: one at a time on an object. */
#ifndef PUYU_TUNE_H
#define PUYU_TUNE_H

#include "puyu/train.h"

/* ---- conversations in files ---------------------------------------------------------------------------------------- */

/* The names of the forms, "alpaca|messages|…", sorted; and what each is, NULL past the last. */
typedef struct pu_dialogue_form {
  const char *name, *summary;
} pu_dialogue_form;
bool pu_dialogue_form_at(size_t i, pu_dialogue_form *out);

/* One conversation. Its own: deinit. */
typedef struct pu_dialogue {
  json_t *messages; /* [{"role", "content", "tool_calls", …}], as pu_chat takes them */
  json_t *tools;    /* [{"type": "function", "function": …}], or NULL */
  json_t *learn;    /* [true, false, …]: of each message, whether it may be learned */
  char where[560];  /* "FILE:LINE", for errors */
} pu_dialogue;
void pu_dialogue_deinit(pu_dialogue *d);

/* A file, or all of a folder that are named .json or .jsonl (also .gz, .zst) in the order of their names: JSON Lines, or one
 * JSON array of objects. Plain files are mapped; compressed ones are unpacked into memory, 4 GiB at most. An object has at most
 * 64 MiB. how: its form (NULL: found by the first object of each file) and columns; lives as long. */
typedef struct pu_dialogues pu_dialogues;
pu_err pu_dialogues_open(const char *path, const pu_train_source *how, pu_dialogues **out, pu_error *e) PU_MUST_USE;
/* One file's bytes, which outlive it. */
pu_err pu_dialogues_parse(const char *name, pu_str bytes, const pu_train_source *how, pu_dialogues **out,
                          pu_error *e) PU_MUST_USE;
void pu_dialogues_close(pu_dialogues *d);
/* *found false: that was all. Errors name the file, the line where the object begins, and the field. */
pu_err pu_dialogues_next(pu_dialogues *d, pu_dialogue *out, bool *found, pu_error *e) PU_MUST_USE;
const char *pu_dialogues_form(const pu_dialogues *d); /* of the file that is read; NULL: not known yet */
double pu_dialogues_bytes(const pu_dialogues *d);     /* of all files, as they lie on the disk */
double pu_dialogues_done(const pu_dialogues *d);      /* of them, those of the files that are read, about */

/* ---- what is learned of them --------------------------------------------------------------------------------------- */

/* The template that a run's conversations go by: the configured one, else the model's (see pu_chat_open for model and type).
 * Free it (pu_chat_free). */
pu_err pu_tune_template(const pu_train_config *cfg, const char *model, const pu_tokenizer *t, const char *type,
                        const pu_chat_template **out, pu_error *e) PU_MUST_USE;

/* A conversation as a sample. An id that is not learned is kept as its complement (~id, below 0). */
static inline int32_t pu_tune_id(int32_t coded) {
  return coded < 0 ? ~coded : coded;
}
/* Appends all of its ids, coded so. PU_ERR_FORMAT where nothing of it is learned. */
pu_err pu_tune_encode(const pu_dialogue *d, const pu_chat_template *c, const pu_tokenizer *t, pu_ids *out,
                      pu_error *e) PU_MUST_USE;

/* pu_train_hooks.feed of PU_TASK_SFT; arg does not count. A row holds samples of one source, without what follows the last
 * id that is learned, put together so that little of seq_len stays empty (the fullest row that still has room, of some dozens
 * that are open); with data.pack off it holds one. Samples and rows come in an order that train.seed gives, another one for
 * the rows each pass; for validation in that of the files. All samples are held in memory, 4 bytes a token. */
pu_err pu_tune_feed(void *arg, const pu_train_feed_options *o, pu_train_feed *out, pu_error *e) PU_MUST_USE;

#endif
