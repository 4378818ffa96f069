/* A load on a server that speaks OpenAI's API, and what it bears: which requests are asked (load_plan.c), asking them
 * and taking the times (load.c). Any server will do, so that others are measured by the same client. */
#ifndef PUYU_LOAD_H
#define PUYU_LOAD_H

#include "puyu/text.h"

/* ---- what is asked ---- */

typedef struct pu_load_request {
  pu_str prompt;
  int64_t input, output; /* tokens of the prompt (about, where no tokenizer counts them) and wanted of the answer */
} pu_load_request;

typedef struct pu_load_plan {
  pu_load_request *v; /* in an arena, as are the prompts */
  size_t n;
} pu_load_plan;

typedef struct pu_load_lengths {
  int64_t input_min, input_max;   /* uniform; max 0: as in ShareGPT */
  int64_t output_min, output_max; /* likewise */
  int64_t most;                   /* tokens of prompt and answer together: the model's context; 0: unknown */
} pu_load_lengths;

/* Lengths of one request, a function of seed and index. As in ShareGPT: log-normal with the means that Kwon et al. 2023
 * (fig. 11) give, 161 and 338 tokens, and deviations of the logarithm of 1.2 and 0.9, which are ours; prompts are cut
 * to 1024 tokens, prompt and answer to 2048, and all to `most`. */
void pu_load_draw_lengths(const pu_load_lengths *o, uint64_t seed, uint64_t index, int64_t *input, int64_t *output);

/* n requests of words drawn by the seed. t counts their tokens; NULL: each word is one. */
pu_err pu_load_random(size_t n, const pu_load_lengths *o, uint64_t seed, const pu_tokenizer *t, pu_arena *a,
                      pu_load_plan *out, pu_error *e) PU_MUST_USE;
/* At most n requests of a file: ShareGPT's JSON (the first two turns of a conversation; shuffled by the seed; those of
 * fewer than 4 tokens, of more than 1024 in the prompt or 2048 in all are passed over, as vLLM's and LMDeploy's clients
 * do), or JSON Lines of {"prompt", "output_len"}, taken as they stand. Without t four bytes are a token. */
pu_err pu_load_trace(const char *path, size_t n, uint64_t seed, const pu_tokenizer *t, pu_arena *a, pu_load_plan *out,
                     pu_error *e) PU_MUST_USE;

/* ---- asking it ---- */

typedef struct pu_load_options {
  const char *url;       /* "http://127.0.0.1:23333", with or without /v1 */
  const char *unix_path; /* NULL: by the address */
  const char *ca_file;   /* certificates to trust with https; NULL: the system's */
  const char *api_key;   /* NULL: none */
  const char *model;     /* NULL: the first that the server names */
  bool chat;             /* /v1/chat/completions, else /v1/completions */
  bool ignore_eos;       /* answers have the wanted length; servers that do not know the key end where they like */
  int64_t concurrency;   /* requests under way; 0: any number */
  double rate;           /* requests a second, the time between them exponential; INFINITY: as soon as they may */
  double seconds;        /* a request may take; 0: any time */
  uint64_t seed;
  void (*progress)(void *arg, size_t done, size_t failed);
  void *progress_arg;
} pu_load_options;

/* Times in seconds. */
typedef struct pu_load_times {
  double *v; /* sorted */
  size_t n;
} pu_load_times;
double pu_load_mean(const pu_load_times *t);                 /* NAN: there are none */
double pu_load_percentile(const pu_load_times *t, double p); /* p in 0..1, between neighbours; NAN likewise */

enum { PU_LOAD_REASONS = 8 };
typedef struct pu_load_reason {
  char text[200];
  size_t n;
} pu_load_reason;

typedef struct pu_load_result {
  double seconds;                          /* from the first request to the last answer */
  size_t completed, failed, unfinished;    /* unfinished: it was stopped */
  size_t short_answers;                    /* completed with fewer tokens than were asked for */
  int64_t input_tokens, output_tokens;     /* of the completed, as the server counts them, where it does */
  bool counted;                            /* it did, for all; else a chunk of text counts as a token */
  pu_load_times first;                     /* time to the first token of each answer (TTFT) */
  pu_load_times each;                      /* mean time of the others (TPOT) */
  pu_load_times gap;                       /* between each two chunks of text (ITL) */
  pu_load_times whole;                     /* to the end */
  pu_load_reason reasons[PU_LOAD_REASONS]; /* of failures; the last for all others */
  size_t n_reasons;
} pu_load_result;

/* The server's model and its context; *context 0: it does not say. */
pu_err pu_load_model(const pu_load_options *o, pu_arena *a, const char **model, int64_t *context,
                     pu_error *e) PU_MUST_USE;
/* Asks it all. SIGINT ends it early, if it is caught (pu_signals_catch): what there is stays in out. */
pu_err pu_load_run(const pu_load_options *o, const pu_load_plan *plan, pu_load_result *out, pu_error *e) PU_MUST_USE;
void pu_load_result_deinit(pu_load_result *r);

#endif
