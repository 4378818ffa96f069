/* A folder's documents, found by their words. */
#include <unistd.h>

#include "puyu/rag.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/safe.h"

typedef struct options {
  const char *index;
  int64_t k;
  bool json, whole, broken;
} options;

static const pu_option rows[] = {
    PU_ROW(options, k, "hits", INT, .dflt = "5", .min = 1, .max = PU_STORE_K_MAX, .meta = "N", .letter = 'k',
           .help = "how many passages to show"),
    PU_ROW(options, index, "index", STR, .meta = "FILE",
           .help = "where the index is kept; without it, in the cache folder (~/.cache/puyu/search)"),
    PU_ROW(options, whole, "whole", BOOL, .help = "show passages as they are, and not what is around the words found"),
    PU_ROW(options, broken, "broken", BOOL, .help = "list the files that could not be read, or not to their ends"),
    PU_ROW_JSON(options),
    {0},
};

/* ---- the index ---- */

static void show_progress(void *arg, double done, double total) {
  pu_progress **bar = arg;
  if (!*bar) *bar = pu_progress_open("index", "MB", total / 1e6);
  pu_progress_set(*bar, done / 1e6, NULL);
}

static pu_err tell_broken(void *arg, pu_str source, pu_str why, pu_error *e) {
  (void)arg, (void)e;
  pu_log(PU_LOG_WARN, "%.*s: %.*s", (int)source.len, source.ptr, (int)why.len, why.ptr);
  return PU_OK;
}

static pu_err update(pu_rag *r, const options *o, pu_error *e) {
  pu_rag_counts c;
  pu_progress *bar = NULL;
  pu_err err = pu_rag_update(r, show_progress, &bar, &c, e);
  pu_progress_close(bar);
  PU_TRY(err);
  if (c.busy) pu_log(PU_LOG_WARN, "another process is indexing this folder: searched as far as it has come");
  if (c.read + c.removed > 0)
    pu_log(PU_LOG_INFO, "%llu of %llu files read, %llu are gone", (unsigned long long)c.read,
           (unsigned long long)c.files, (unsigned long long)c.removed);
  if (c.broken > 0 && o->broken) return pu_rag_broken(r, tell_broken, NULL, e);
  if (c.broken > 0)
    pu_log(PU_LOG_WARN, "files that are no text, or broken somewhere: %llu; --broken lists them",
           (unsigned long long)c.broken);
  return PU_OK;
}

/* ---- what was found ---- */

static pu_err put_whole(pu_rag *r, FILE *out, const pu_store_hit *h, pu_error *e) {
  pu_buf text;
  bool found;
  pu_buf_init(&text, PU_STORE_TEXT_MAX);
  pu_err err =
      pu_store_get(pu_rag_store(r), h->source, h->id, h->begin, (size_t)(h->end - h->begin), NULL, &text, &found, e);
  if (err == PU_OK) pu_cli_put_safe(out, pu_str_of(text.data ? text.data : "", text.len));
  pu_buf_deinit(&text);
  return err;
}

static pu_err put_hit(pu_rag *r, FILE *out, const pu_store_hit *h, bool whole, bool colour, pu_error *e) {
  fputs(colour ? "\033[36m" : "", out);
  pu_cli_put_safe(out, h->source);
  pu_cli_put_safe(out, h->id);
  fputs(colour ? "\033[0m" : "", out);
  fprintf(out, ", passage %u", h->passage);
  if (h->title.len > 0) fputs(": ", out);
  pu_cli_put_safe(out, h->title);
  fputs(h->all ? "\n" : " (some of the words)\n", out);
  if (whole)
    PU_TRY(put_whole(r, out, h, e));
  else
    fwrite(h->snippet.ptr, 1, h->snippet.len, out); /* has no control characters but our own */
  fputs("\n\n", out);
  return PU_OK;
}

static pu_err put_hits(pu_rag *r, const pu_cli *cli, const options *o, pu_str query, pu_error *e) {
  bool colour = isatty(fileno(cli->out));
  const pu_store_ask ask = {
      .query = query, .k = (size_t)o->k, .open = colour ? "\033[1;33m" : NULL, .close = colour ? "\033[0m" : NULL};
  pu_store_hits hits;
  PU_TRY(pu_store_search(pu_rag_store(r), &ask, &hits, e));
  pu_err err = PU_OK;
  for (size_t i = 0; err == PU_OK && i < hits.n; i++) err = put_hit(r, cli->out, &hits.v[i], o->whole, colour, e);
  if (hits.n == 0) pu_log(PU_LOG_INFO, "nothing found");
  pu_store_hits_deinit(&hits);
  return err;
}

static pu_err put_json(pu_rag *r, const pu_cli *cli, const options *o, pu_str query, pu_error *e) {
  pu_buf json;
  pu_buf_init(&json, (size_t)16 << 20);
  pu_err err = pu_rag_json(r, query, (size_t)o->k, o->whole, &json, e);
  if (err == PU_OK) fprintf(cli->out, "%s\n", json.data);
  pu_buf_deinit(&json);
  return err;
}

/* ---- the command ---- */

static pu_err search(pu_rag *r, const pu_cli *cli, const options *o, pu_str query, pu_error *e) {
  PU_TRY(update(r, o, e));
  return o->json ? put_json(r, cli, o, query, e) : put_hits(r, cli, o, query, e);
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  pu_buf query;
  pu_rag *r;
  PU_TRY(pu_rag_open(args[0], ((const options *)given)->index, &r, e));
  pu_signals_catch();
  pu_buf_init(&query, (size_t)1 << 20);
  for (int i = 1; i < n_args; i++) {
    if (i > 1) pu_buf_putc(&query, ' ');
    pu_buf_puts(&query, args[i]);
  }
  pu_err err = query.failed ? pu_fail(e, PU_ERR_USAGE, "the query is too long")
                            : search(r, cli, given, pu_str_of(query.data, query.len), e);
  pu_buf_deinit(&query);
  pu_rag_close(r);
  return err;
}

const pu_command pu_command_search = {
    .name = "search",
    .summary = "find passages of a folder's documents by their words",
    .usage = "DIR QUERY... [options]",
    .details =
        "Reads whatever `puyu data extract` reads (docs/data.md), once: files that have not changed since are not read "
        "again, those that are gone leave the index. It is a file in the cache folder or where --index says; DIR is "
        "not "
        "written to.\n\n"
        "QUERY is plain words in any order, in quotes or not. Passages with all of them come first, then those with "
        "some. "
        "Case, width and, in Latin script, accents do not count; Chinese, Japanese and Korean are found by any part of "
        "a "
        "word.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 2,
    .max_args = -1,
    .run = run,
};
