/* The chat model in 4 bits, by `puyu quantize`: calibrated on the corpus, measured on a part of it that was kept out.
 */
#include "src/cli/demo/child.h"
#include "src/cli/demo/demo.h"

enum { LEAST_TOKENS = 4096 }; /* of a text to calibrate on, and to hold a part of out */

static pu_err quantise(pu_demo *d, pu_error *e) {
  const char *threads = pu_arena_printf(d->a, "%lld", (long long)d->o->threads), *name = "puyu quantize";
  bool calibrates = d->tokens.tokens >= LEAST_TOKENS;
  const char *argv[] = {PU_CHILD_PUYU,
                        "quantize",
                        d->tuned.checkpoint,
                        d->quantised,
                        "--method",
                        calibrates ? "awq" : "rtn",
                        "--bits",
                        "4",
                        "--group",
                        "64",
                        "--threads",
                        threads,
                        "--json",
                        "--force",
                        calibrates ? "--calib" : NULL,
                        d->corpus,
                        "--calib-tokens",
                        "16384",
                        NULL};
  json_t *report;
  pu_demo_quantised *q = &d->quantising;
  if (!threads) return pu_fail(e, PU_ERR_NOMEM, "no memory for a command");
  PU_TRY(pu_child_json(argv, name, &report, e));
  pu_err err = pu_json_int(report, "bytes_before", 0, INT64_MAX, &q->bytes_before, name, e);
  if (!err) err = pu_json_int(report, "bytes_after", 0, INT64_MAX, &q->bytes_after, name, e);
  if (!err) err = pu_json_num_or(report, "perplexity_before", 0, &q->perplexity_before, name, e);
  if (!err) err = pu_json_num_or(report, "perplexity_after", 0, &q->perplexity_after, name, e);
  json_decref(report);
  return err;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  const pu_demo_quantised *q = &d->quantising;
  char before[24], after[24];
  pu_demo_row(t, "matrices in 4 bits", "%s, before: %s", pu_bytes_text((size_t)q->bytes_after, after),
              pu_bytes_text((size_t)q->bytes_before, before));
  if (q->perplexity_after > 0)
    pu_demo_row(t, "perplexity in 4 bits", "%.4f, before: %.4f (%+.2f %%)", q->perplexity_after, q->perplexity_before,
                100 * (q->perplexity_after / q->perplexity_before - 1));
}

const pu_demo_stage pu_demo_quantise = {
    "quantising it to 4 bits",
    "4 bits, and serving",
    "The matrices of the chat model in 4 bits instead of 32, with scales that are fitted "
    "to the text (AWQ); then a server, asked with curl.",
    quantise,
    tell,
    NULL};
