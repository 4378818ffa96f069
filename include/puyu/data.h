/* data: corpora, from rules or raw documents to token shards.
 *
 * Rule-made data is the first of InternLM2.5's ways to make training data: a seeded generator of bilingual text whose
 * truth is known. Document number i is a pure function of (seed, i).
 *
 * Held-out sums. A tenth of all operand pairs, chosen by a hash with a fixed salt (so the same whatever the seed),
 * never appears in a training document, in any phrasing: not a + b, not b + a, not as a step of a longer calculation.
 * What pu_synth_run gives to `question` is drawn from that tenth only.
 *
 * Threads: pu_synth_run and pu_tokenize_run are calls without shared state. */
#ifndef PUYU_DATA_H
#define PUYU_DATA_H

#include "puyu/shards.h"
#include "puyu/text.h"

/* ---- rule-made text ---------------------------------------------------------------------------------------------- */

typedef enum pu_synth_kind {
  PU_SYNTH_STORIES,    /* short stories from a grammar, with a world whose state stays consistent */
  PU_SYNTH_ARITHMETIC, /* sums and differences, in many phrasings */
  PU_SYNTH_FACTS,      /* simple facts, stated and asked for */
  PU_SYNTH_KINDS
} pu_synth_kind;
extern const char *const pu_synth_kind_names[PU_SYNTH_KINDS];

typedef struct pu_synth_options {
  uint64_t seed;
  int64_t documents; /* how many; 0: until `bytes` of text are made */
  int64_t bytes;
  double weights[PU_SYNTH_KINDS]; /* shares of the text's bytes; all 0: 1, 3, 1 */
  bool within[2];                 /* operands and results in [0, 100), in [0, 1000); both false: both */
  int64_t questions;              /* held-out questions, per range and operation, at most (250) */
  double valid_fraction;          /* documents marked valid, by a hash of their id (0.01) */
} pu_synth_options;
pu_synth_options pu_synth_defaults(void);

typedef struct pu_synth_document {
  const char *id; /* "synth-SEED-00000012" */
  pu_str content;
  pu_synth_kind kind;
  const char *lang; /* "zh" or "en" */
  bool valid;       /* belongs to the validation split */
} pu_synth_document;

/* A question on a held-out pair, or of pu_synth_chat_run a held-out fact, in one of the plain phrasings. The prompt ends
 * where the answer begins; a generated answer is compared with `answer` after spaces before it are dropped. */
typedef struct pu_synth_question {
  const char *prompt; /* "问：37加45等于多少？答：", "Q: What is 37 + 45? A:" */
  const char *answer; /* "82" */
  const char *ask;    /* of a conversation: "37加45等于多少？", "What is 37 + 45?" */
  const char *reply;  /* to that: "答案是82。", "The answer is 82." */
  const char *lang;
  int within; /* 100 or 1000; 0: numbers of up to seven digits, one or the result of four or more; of a fact 0 */
  char op;    /* '+' or '-'; of a fact 0 */
  int a, b;
} pu_synth_question;

/* Appends it as one JSON object, the members as keys, and "kind": "arithmetic" or "facts". */
bool pu_synth_question_json(const pu_synth_question *q, pu_buf *out);

/* Callbacks may be NULL; one that returns an error ends the run with it. Views live until the callback returns. */
typedef struct pu_synth_sink {
  pu_err (*document)(void *arg, const pu_synth_document *d, pu_error *e);
  pu_err (*question)(void *arg, const pu_synth_question *q, pu_error *e);
  void *arg;
} pu_synth_sink;
pu_err pu_synth_run(const pu_synth_options *o, const pu_synth_sink *sink, pu_error *e) PU_MUST_USE;
/* Is (a op b) kept out of training? Both orders of a sum have one answer. */
bool pu_synth_heldout(char op, int a, int b);

/* ---- rule-made conversations ------------------------------------------------------------------------------------- */

/* What a conversation is about. All but PU_TALK_TOOL are without tools. */
typedef enum pu_synth_talk {
  PU_TALK_SUMS,    /* sums and differences within 100 and within 1000, answered at once */
  PU_TALK_FACTS,   /* facts asked for */
  PU_TALK_STORIES, /* a story wanted, or questions on one that is told */
  PU_TALK_SMALL,   /* greetings, who are you */
  PU_TALK_TOOL,    /* with a calculator on offer: called for sums of any size, and left alone for anything else */
  PU_TALKS
} pu_synth_talk;
extern const char *const pu_synth_talk_names[PU_TALKS];

typedef struct pu_synth_chat_options {
  uint64_t seed;     /* conversation number i is a function of (seed, i) */
  int64_t dialogues; /* how many */
  double weights[PU_TALKS]; /* shares of the conversations; all 0: 45, 15, 10, 4, 26 */
  double valid_fraction;    /* marked valid, by a hash of the number (0.01) */
  int64_t questions;        /* held-out ones for each operation, and of facts, at most (250) */
  /* The calculator on offer, as OpenAI's API has it: {"type": "function", "function": {"name": "calculator", …}}, with one
   * argument, `expression`. NULL: one that is built in. */
  const char *tool;
} pu_synth_chat_options;
pu_synth_chat_options pu_synth_chat_defaults(void);

typedef struct pu_synth_dialogue {
  pu_str json; /* {"messages": […], "tools": […]} on one line: tune's form `messages` */
  pu_synth_talk talk;
  const char *lang;
  bool valid;
} pu_synth_dialogue;

typedef struct pu_synth_chat_sink {
  pu_err (*dialogue)(void *arg, const pu_synth_dialogue *d, pu_error *e);
  pu_err (*question)(void *arg, const pu_synth_question *q, pu_error *e);
  void *arg;
} pu_synth_chat_sink;
/* Questions are of sums that are beyond 1000, on held-out pairs, and of facts that no conversation asks for (a
 * fifth of them, always the same; the text of pu_synth_run states and asks all). */
pu_err pu_synth_chat_run(const pu_synth_chat_options *o, const pu_synth_chat_sink *sink, pu_error *e) PU_MUST_USE;

/* ---- raw documents ----------------------------------------------------------------------------------------------- */

typedef enum pu_split { PU_SPLIT_FILE, PU_SPLIT_BLANK, PU_SPLIT_LINE } pu_split;

typedef struct pu_document {
  pu_str id; /* of JSONL; else "PATH:NUMBER" */
  pu_str text;
  pu_str title; /* as a web page, a book, a record says it; empty: unknown */
} pu_document;

/* Reads a corpus document by document, whatever docs/data.md lists as read, by the files' names or first bytes: plain
 * text is cut as `split` says; JSON Lines and tables give the string under `key` (NULL: "content", else "text"); a
 * folder gives its files in the order of their names, with those below it. Texts are valid UTF-8, their lines end with
 * \n, and they are at most 64 MiB; what has none is passed over. A file that is broken, or holds nothing that is read,
 * is an error that names file and place (PU_ERR_FORMAT). */
typedef struct pu_corpus pu_corpus;
pu_err pu_corpus_open(const char *const *paths, size_t n, pu_split split, const char *key, pu_corpus **out,
                      pu_error *e) PU_MUST_USE;
void pu_corpus_close(pu_corpus *c);
/* The next document; *found false at the end. Views live until the next call. */
pu_err pu_corpus_next(pu_corpus *c, pu_document *out, bool *found, pu_error *e) PU_MUST_USE;
/* The error of those to whom all of the files gave no text; it names the first one. */
pu_err pu_corpus_fail_empty(const pu_corpus *c, pu_error *e);
double pu_corpus_bytes(const pu_corpus *c); /* of all files on disk */
double pu_corpus_done(const pu_corpus *c);  /* of them read so far */

/* ---- the pipeline: raw files to clean documents, with a record of every decision -----------------------------------
 */

/* Files that belong together: a name in shares and ids. */
typedef struct pu_source {
  const char *name;
  pu_strs paths;       /* files and folders */
  const char *format;  /* a reader's name; "auto" */
  const char *key;     /* of the text in JSON, the column of a table; NULL: found */
  const char *charset; /* NULL: found */
  int split;           /* pu_split */
  int html;            /* auto, article, forum, all */
  /* In place of those that all sources have, with bounds of their own; without filters, bounds besides the others. */
  pu_strs filters, bounds;
} pu_source;

typedef enum pu_width { PU_WIDTH_KEEP, PU_WIDTH_HALF } pu_width; /* Ａ１ become A1 */
typedef enum pu_han { PU_HAN_KEEP, PU_HAN_SIMPLIFIED, PU_HAN_TRADITIONAL } pu_han;

/* What filters may be told; one struct for all of them. */
typedef struct pu_filter_options {
  pu_strs domains;   /* files: a domain a line; the documents of these domains go */
  pu_strs words;     /* files: a word or phrase a line */
  pu_strs languages; /* kept; empty: all */
  int width, han;    /* pu_width, pu_han: folded by `normalise` */
  bool nfkc, mask;   /* what `normalise` folds; what `mask` finds is replaced, not only counted */
} pu_filter_options;

/* Reads the sources and passes their documents through filters: names of filters and presets, in order, and bounds that
 * differ from the published ones ("gopher_quality.words.min=20"). */
typedef struct pu_clean_options {
  const pu_source *sources;
  size_t n_sources;
  pu_strs filters, bounds;
  pu_filter_options filter;
} pu_clean_options;

/* How a step runs. */
typedef struct pu_data_how {
  pu_pool *pool;   /* NULL: one thread */
  size_t memory;   /* bytes that sorting may take; 0: half of what is free */
  int rank, ranks; /* of several processes over one file system; 0, 1: alone */
  bool force;      /* begin anew where another run began */
  void (*progress)(void *arg, const char *step, double done, double total); /* units of work */
  void *progress_arg;
} pu_data_how;

/* What a step did; the same numbers, and more, are in the stage's stage.json. */
typedef struct pu_data_result {
  uint64_t documents, dropped, bytes, skipped; /* bytes: of text that came in; skipped: broken records */
  uint64_t tokens;                             /* of the shards that pu_data_run made */
} pu_data_result;

pu_err pu_data_counts(const char *dir, pu_data_result *out, pu_error *e) PU_MUST_USE; /* of a stage that is there */
bool pu_data_is_stage(const char *dir);
/* The same of what a user named; a stage that was begun and is not finished is an error, since its files would be taken
 * for raw ones. */
pu_err pu_data_find_stage(const char *dir, bool *is_stage, pu_error *e) PU_MUST_USE;

/* One value that a filter gives a document. NAN: it says nothing of it, and no bound drops it. */
typedef struct pu_measure {
  const char *name; /* "mean_word_length"; its full name is FILTER.NAME */
  double min, max;  /* the published bounds, both allowed; -INFINITY, INFINITY: none */
  const char *help; /* one line: what it counts, and the source */
} pu_measure;
typedef struct pu_filter_preset {
  const char *name, *summary;
  const char *filters; /* "a b c" */
  const char *changes; /* "filter.measure.max=0.5 …"; NULL: none */
} pu_filter_preset;
const pu_filter_preset *pu_filter_presets(void); /* ends with a name of NULL */
/* Filter number i of those there are, by name; false: there is none. Its measures end with a name of NULL. */
bool pu_filter_at(size_t i, const char **name, const char **summary, const pu_measure **measures);

/* Makes stage DIR of `before`, a stage (NULL: of the sources). A run that was killed goes on where it was. */
pu_err pu_clean_run(const char *dir, const char *before, const pu_clean_options *o, const pu_data_how *how,
                    pu_data_result *out, pu_error *e) PU_MUST_USE;
/* Applies other bounds to the values in the sidecars of stage OF, which pu_clean_run made, and makes stage DIR in its
 * place: the same documents, other drops. No text is read; what filters rewrote stays so. */
pu_err pu_clean_apply(const char *dir, const char *of, const pu_strs *bounds, const pu_data_how *how,
                      pu_data_result *out, pu_error *e) PU_MUST_USE;

typedef enum pu_dedup_mode {
  PU_DEDUP_EXACT,
  PU_DEDUP_MINHASH,
  PU_DEDUP_PARAGRAPH,
  PU_DEDUP_LINE,
  PU_DEDUP_SUBSTRING,
  PU_DEDUP_MODES
} pu_dedup_mode;
extern const char *const pu_dedup_mode_names[PU_DEDUP_MODES];

/* Which one of a cluster stays; where several are equal, the first of them. */
typedef enum pu_dedup_keep { PU_KEEP_FIRST, PU_KEEP_NEWEST, PU_KEEP_LONGEST, PU_KEEP_BEST, PU_KEEPS } pu_dedup_keep;
extern const char *const pu_dedup_keep_names[PU_KEEPS];

typedef struct pu_dedup_options {
  int mode, keep;    /* pu_dedup_mode, pu_dedup_keep */
  const char *score; /* for PU_KEEP_BEST: an attribute of the stage; the largest stays */
  double threshold;  /* minhash: (0, 1] */
  int64_t min_bytes; /* paragraph, line, substring; 0: the mode's default */
} pu_dedup_options;
#define PU_DEDUP_MODES_TEXT "exact|minhash|paragraph|line|substring"
#define PU_DEDUP_KEEPS_TEXT "first|newest|longest|best"

/* Makes stage DIR of stage BEFORE, working in DIR/work, which is gone at the end. Drops have the rule "dedup.MODE", the
 * similarity and {"of": the id of the one that stays}; sidecars "dedup.cluster" (that id) and "dedup.similarity", or
 * "dedup.cut" (bytes). exact and minhash drop documents; the others cut out what is not the first occurrence, and drop
 * documents of which nothing is left. */
pu_err pu_dedup_run(const char *dir, const char *before, const pu_dedup_options *o, const pu_data_how *how,
                    pu_data_result *out, pu_error *e) PU_MUST_USE;

/* ---- evaluation sets in training text ---- */

typedef enum pu_contam_mode {
  PU_CONTAM_DOCUMENT, /* documents that touch an item go */
  PU_CONTAM_PASSAGE,  /* the passages that touch one are cut out */
  PU_CONTAM_MODES
} pu_contam_mode;
extern const char *const pu_contam_mode_names[PU_CONTAM_MODES];
#define PU_CONTAM_MODES_TEXT "document|passage"

/* Evaluation sets in their own files: JSON, JSON Lines, CSV, TSV, plain or .gz or .zst, and text with an item a line
 * where it is named itself; of a folder all of the first four, and those below it. Every string of a record is an item,
 * known by file, number of the record (its line, row or place in the list, from 1) and field.
 *
 * Texts are compared folded: case, width, accents, spaces and punctuation do not count; a token is a word, or a
 * character of Chinese, Japanese and what else is written without spaces. An item of `ngram` tokens or more is touched
 * by a text that has at least `share` of its n-grams (Brown et al. 2020, appendix C: n-grams of 13 words), different
 * ones each counted once; a shorter one of at least 8 words, or 10 characters, by a text in which it stands whole
 * between punctuation or ends of lines; with `near`, an item of `ngram` tokens also by a paragraph or line, or a whole
 * text, whose shingles have a Jaccard similarity of `similarity` to its own (as the near matches of Cai et al. 2024).
 *
 * Not everything in an item is its own. A string that stands in most records of a file (of at least 8), or in more than
 * `common` files, is a template, and so is an n-gram that stands in most records of a file, in more than `common`
 * items, or in a template, and one with fewer than 4 different words in it: a row of numbers. A share is of what is
 * left, and an item of which nothing is left is not looked for. */
typedef struct pu_contam_options {
  pu_strs against; /* files and folders */
  int mode;        /* pu_contam_mode */
  int64_t ngram;   /* 5 to 32 */
  double share;    /* [0, 1]; 0: one n-gram is enough */
  bool near;
  double similarity; /* [0.3, 1] */
  int64_t common;    /* at least 1 */
} pu_contam_options;
pu_contam_options pu_contam_defaults(void); /* nothing to be held against */

/* The index. Made by one thread, in some 30 s a GB of sets (with `near` 60); read only from then on, so any number of
 * threads may use it. It takes some 3 bytes a byte of the sets, with `near` 6 (see pu_contam_about); where it would
 * grow beyond `memory` (0: half of what is free) making it is given up. What it is asked for lives as long as it. */
typedef struct pu_contam pu_contam;
pu_err pu_contam_open(const pu_contam_options *o, size_t memory, pu_contam **out, pu_error *e) PU_MUST_USE;
void pu_contam_close(pu_contam *c); /* NULL is fine */
typedef struct pu_contam_about {
  uint64_t files, records, items;
  uint64_t templates, shorter, broken; /* strings that are templates; too short to be looked for; records not read */
  uint64_t ngrams, shared, bytes;      /* looked for; taken out as nobody's own; memory of the index */
} pu_contam_about;
pu_contam_about pu_contam_about_of(const pu_contam *c);
typedef struct pu_contam_item {
  const char *file, *field; /* field: "question", "paragraphs[2].qas[0].question", "3" of a table without names */
  uint64_t number;
} pu_contam_item;
pu_contam_item pu_contam_item_of(const pu_contam *c, uint32_t item); /* below about's items */

typedef enum pu_contam_by { PU_CONTAM_NGRAM, PU_CONTAM_WHOLE, PU_CONTAM_NEAR } pu_contam_by;
extern const char *const pu_contam_by_names[]; /* "ngram", "whole", "near" */
typedef struct pu_contam_hit {
  uint32_t item;
  pu_contam_by by;
  bool over;    /* at or above the bound: the text touches the item; else it has some n-grams of it */
  double share; /* of the item's n-grams; 1 of a whole one; near: the similarity */
  pu_str at;    /* in the text: the first n-gram, the item, the paragraph */
} pu_contam_hit;
/* What a text has of the items: the caller's, one a thread, zeroed at first and used again for the next text. */
typedef struct pu_contam_found {
  const pu_contam_hit *hits; /* one an item: those that are over first, then by share and item */
  size_t n, n_over;
  pu_buf store[7]; /* work space: bounded by the text, and a bit for each n-gram of the index */
} pu_contam_found;
void pu_contam_found_free(pu_contam_found *f); /* its work space; of all zeros: fine */
/* Holds a text of at most 64 MiB against the index. Any bytes. Hits live until the next call and as long as text and
 * index. Some 80 MB/s a core, with `near` a quarter of that. */
pu_err pu_contam_check(const pu_contam *c, pu_str text, pu_contam_found *f, pu_error *e) PU_MUST_USE;
/* The text that was checked without what touches an item, appended to out: the paragraph (of at most 2,000 bytes; of
 * longer ones the sentences). */
pu_err pu_contam_cut(const pu_contam_found *f, pu_str text, pu_buf *out, pu_error *e) PU_MUST_USE;

/* Makes stage DIR of stage BEFORE. Drops have the rule "contam", the share, its bound and {"of": "FILE:NUMBER",
 * "field", "by", "ngram"}, of the item touched most; in passage mode the text is cut, and a document of which nothing
 * is left is dropped. Sidecars: "contam.share" (the largest), "contam.items" (how many are touched), "contam.cut"
 * (bytes) and "contam.touched", a list of up to 64: {"file", "number", "field", "share", "by", "over", "ngram"}. DIR
 * has these once more, an item a line with document, in contam.jsonl. */
pu_err pu_contam_run(const char *dir, const char *before, const pu_contam *c, const pu_data_how *how,
                     pu_data_result *out, pu_error *e) PU_MUST_USE;

/* ---- records of evaluation sets ---- */

/* Every record of a file, as a JSON object that lives as long as the call, and its number: of its line, row or place in
 * the list, from 1. JSON Lines; JSON, a list or an object with one in it; CSV and TSV, whose cells are strings by the
 * names in the first row or, where `columns` (may be NULL) has some, by these, without such a row; of any other file so
 * many lines a record as there are columns, or all of it as "text". Plain, .gz or .zst. What is broken is an error that
 * says where. Caps: 64 MiB a line or row, and of JSON the file. */
pu_err pu_records_each(const char *path, const pu_strs *columns,
                       pu_err (*each)(void *arg, uint64_t number, const json_t *record, pu_error *e), void *arg,
                       pu_error *e) PU_MUST_USE;

/* Documents joined into longer ones. */
typedef enum pu_join {
  PU_JOIN_NONE,
  PU_JOIN_PATH,    /* the files of one repository, each after those that it imports */
  PU_JOIN_SIMILAR, /* each after the one it is most like */
  PU_JOINS
} pu_join;
extern const char *const pu_join_names[PU_JOINS];
#define PU_JOINS_TEXT "none|path|similar"

typedef struct pu_mix_options {
  const char *name;   /* of this mixture, in a run: "4k" */
  pu_strs weights;    /* "SOURCE=NUMBER": shares of the text that comes out; a source without one does not come. None at
                         all: size to the power of 1 / temperature */
  double temperature; /* 1: as large as it is; more: small sources count more */
  double cap;         /* a source comes at most so often; 0: no bound */
  int64_t bytes;      /* of text in all, about; 0: as much as there is of the sources that come */
  int64_t min_bytes;  /* shorter documents do not come: for stages of long contexts */
  int64_t seed;
  int join;              /* pu_join */
  int64_t join_bytes;    /* how long a joined document becomes, about */
  double valid_fraction; /* join: of the shards to come. Documents for validation are joined among themselves, so that
                            none is on both sides */
} pu_mix_options;

/* Makes stage DIR of stage BEFORE: documents of its sources by weight, whole passes and a share of one more, in random
 * order. Memory does not grow with the corpus; the disk holds the text once more, compressed, while it runs. */
pu_err pu_mix_documents(const char *dir, const char *before, const pu_mix_options *o, const pu_data_how *how,
                        pu_data_result *out, pu_error *e) PU_MUST_USE;

/* How text becomes shards. */
typedef struct pu_tokenize_options {
  const pu_tokenizer *tokenizer;
  pu_pool *pool;         /* NULL: one thread. The files are the same whatever the threads */
  double valid_fraction; /* of documents, by a hash of their id (without a "+3" at its end, by which joined documents
                            have that of their first), into DIR/valid; the rest into DIR/train. 0: all in DIR */
  bool bos, eos;         /* around each document, where the tokenizer has them */
  bool internevo;
  uint64_t max_tokens; /* a shard; 0: the writer's default */
  void (*progress)(void *arg, double done, double total);
  void *progress_arg;
} pu_tokenize_options;

typedef struct pu_tokenize_result {
  uint64_t documents, tokens, bytes; /* training split and validation split together */
  uint64_t valid_documents, valid_tokens;
} pu_tokenize_result;
/* Makes shards of the mixture at once: the same files as pu_tokenize_stage of what pu_mix_documents makes, for the
 * split that t says, but the mixed text is written nowhere, so stage DIR has no documents to be read. */
pu_err pu_mix_shards(const char *dir, const char *before, const pu_mix_options *o, const pu_tokenize_options *t,
                     const pu_data_how *how, pu_tokenize_result *out, pu_error *e) PU_MUST_USE;

/* A whole run, as YAML describes it (examples/wanjuan.yaml): stages OUT/1-clean, …, shards and OUT/report.html. */
typedef struct pu_data_config {
  const char *out;
  pu_list sources; /* of pu_source */
  pu_strs filters, bounds;
  pu_filter_options filter;
  pu_strs dedup; /* modes, one stage each, in this order */
  pu_dedup_options dedup_by;
  pu_contam_options contam; /* without files to be held against there is no such stage */
  pu_list mixes;            /* of pu_mix_options; none: all that is left, in its order */
  const char *tokenizer;    /* folder or file; NULL: no shards are made */
  double valid_fraction;
  int64_t shard_tokens;
  bool bos, eos, internevo; /* see pu_tokenize_options */
} pu_data_config;
extern const pu_option pu_data_options[];
extern const pu_option pu_source_options[]; /* one item of `sources` */
extern const pu_option pu_mix_rows[];       /* one item of `mix` */
pu_err pu_data_run(const pu_data_config *cfg, const pu_data_how *how, pu_data_result *out, pu_error *e) PU_MUST_USE;

/* The documents of a stage that are still in (dropped NULL), or those that a rule (a name, or the beginning of one; ""
 * all) dropped in it: `each` is called for up to n of them, spread over the whole by seed (n 0: all, in order). */
typedef struct pu_kept {
  pu_str id, text, source, lang, url, title;
  const char *rule; /* NULL: it is in */
  double value;
} pu_kept;
pu_err pu_data_each(const char *stage, const char *dropped, int64_t n, uint64_t seed,
                    pu_err (*each)(void *arg, const pu_kept *d, pu_error *e), void *arg, pu_error *e) PU_MUST_USE;
/* One self-contained HTML page on stages, the earliest first: the funnel, what each rule dropped with samples,
 * histograms of every measure, shares of sources, languages and kinds. At least one stage. */
pu_err pu_data_report(const char *title, const char *const *stages, size_t n, const char *path,
                      pu_error *e) PU_MUST_USE;

/* ---- text to shards ---------------------------------------------------------------------------------------------- */

pu_err pu_tokenize_run(pu_corpus *corpus, const char *dir, const pu_tokenize_options *o, pu_tokenize_result *out,
                       pu_error *e) PU_MUST_USE;
/* Makes stage DIR of the documents of stage BEFORE: UNIT-00000.pub and so on, in DIR/train and DIR/valid or all in DIR.
 * Joined documents are refused for another validation fraction than they were joined for. Domain k is the k-th name of
 * "domains" in stage.json: a source. The sidecar says of each document where its tokens
 * are: {"span": {"file", "token": its first in the file, "tokens", "bytes": of its text}}. o->pool and o->progress are
 * not looked at. */
pu_err pu_tokenize_stage(const char *dir, const char *before, const pu_tokenize_options *o, const pu_data_how *how,
                         pu_tokenize_result *out, pu_error *e) PU_MUST_USE;

#endif
