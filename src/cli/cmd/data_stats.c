/* What a stage or shards hold, in numbers. */
#include <stdlib.h>
#include <string.h>

#include "puyu/data.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

enum { ROWS = 12 };

typedef struct options {
  bool json;
} options;

static const pu_option rows[] = {
    PU_ROW_JSON(options),
    {0},
};

/* ---- a stage: the sums of its stage.json ---- */

static long long number(const json_t *o, const char *key) {
  return json_integer_value(json_object_get(o, key));
}

typedef struct named {
  const char *name;
  json_int_t v[2];
} named;

static int most_first(const void *a, const void *b) {
  const named *x = a, *y = b;
  if (x->v[0] != y->v[0]) return x->v[0] < y->v[0] ? 1 : -1;
  return strcmp(x->name, y->name);
}

/* The largest rows of {"NAME": n} or {"NAME": [documents, bytes, documents left, bytes left]}. */
static pu_err print_rows(FILE *out, const char *title, const char *what, const json_t *all, pu_error *e) {
  size_t n = 0;
  const char *name;
  const json_t *v;
  named *list = calloc(json_object_size(all) + 1, sizeof *list);
  if (!list) return pu_fail(e, PU_ERR_NOMEM, "stats: no memory");
  json_object_foreach((json_t *)all, name, v) {
    bool pair = json_is_array(v);
    list[n++] = (named){
        name,
        {json_integer_value(pair ? json_array_get(v, 2) : v), pair ? json_integer_value(json_array_get(v, 3)) : -1}};
  }
  if (n > 1) qsort(list, n, sizeof *list, most_first);
  for (size_t i = 0; i < PU_MIN(n, (size_t)ROWS); i++) {
    char size[32] = "";
    if (list[i].v[1] >= 0) pu_bytes_text((size_t)list[i].v[1], size);
    fprintf(out, "  %-9s %-28s %12lld %s  %s\n", i ? "" : title, list[i].name, (long long)list[i].v[0], what, size);
  }
  if (n > ROWS) fprintf(out, "  %-9s and %zu more\n", "", n - ROWS);
  free(list);
  return PU_OK;
}

static pu_err print_stage(const pu_cli *cli, const char *dir, bool json, pu_error *e) {
  const char *path = pu_path_join(cli->arena, dir, "stage.json");
  json_t *about = NULL;
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "stats: no memory");
  PU_TRY(pu_json_read(path, (size_t)256 << 20, &about, e));
  const json_t *c = json_object_get(about, "counts"), *shares = json_object_get(c, "shares");
  const char *step = json_string_value(json_object_get(about, "step"));
  pu_err err = PU_OK;
  if (json) {
    json_dumpf(c, cli->out, JSON_COMPACT | JSON_SORT_KEYS);
    fputc('\n', cli->out);
  } else {
    long long in = number(c, "documents"), dropped = number(c, "dropped");
    fprintf(cli->out, "%s: %s, %lld documents, %lld dropped, %lld left\n", dir, step ? step : "", in, dropped,
            in - dropped);
    if (number(c, "tokens"))
      fprintf(cli->out, "  tokens    %lld, of them for validation %lld\n", number(c, "tokens"),
              number(c, "valid_tokens"));
    err = print_rows(cli->out, "sources", "documents", json_object_get(shares, "source"), e);
    if (err == PU_OK) err = print_rows(cli->out, "languages", "documents", json_object_get(shares, "lang"), e);
    if (err == PU_OK) err = print_rows(cli->out, "kinds", "documents", json_object_get(shares, "type"), e);
    if (err == PU_OK) err = print_rows(cli->out, "dropped", "documents", json_object_get(c, "rules"), e);
    if (err == PU_OK) err = print_rows(cli->out, "skipped", "records", json_object_get(c, "reasons"), e);
  }
  json_decref(about);
  return err;
}

/* ---- shards ---- */

static int by_number(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

enum { DOMAINS = 65536 };

typedef struct tally {
  uint64_t *lengths;            /* [documents], sorted */
  uint64_t *tokens, *documents; /* [DOMAINS] */
} tally;

static pu_err count(const pu_shards *s, tally *t, pu_error *e) {
  uint64_t n = pu_shards_documents(s);
  t->lengths = calloc(n + 1, sizeof *t->lengths);
  t->tokens = calloc(DOMAINS, sizeof *t->tokens);
  t->documents = calloc(DOMAINS, sizeof *t->documents);
  if (!t->lengths || !t->tokens || !t->documents) return pu_fail(e, PU_ERR_NOMEM, "stats: no memory");
  for (uint64_t i = 0; i < n; i++) {
    uint64_t end = i + 1 < n ? pu_shards_document_start(s, i + 1) : pu_shards_tokens(s);
    t->lengths[i] = end - pu_shards_document_start(s, i);
    int32_t domain = pu_shards_domain(s, i);
    if (domain < 0) continue;
    t->tokens[domain] += t->lengths[i];
    t->documents[domain]++;
  }
  if (n > 1) qsort(t->lengths, n, sizeof *t->lengths, by_number);
  return PU_OK;
}

static void print_domains(FILE *out, const tally *t, bool json) {
  const char *comma = "";
  if (json) fprintf(out, ", \"domains\": {");
  for (int d = 0; d < DOMAINS; d++) {
    unsigned long long tokens = t->tokens[d], documents = t->documents[d];
    if (!documents) continue;
    fprintf(out,
            json ? "%s\"%d\": {\"tokens\": %llu, \"documents\": %llu}"
                 : "%s  domain %-6d %llu tokens, %llu documents\n",
            comma, d, tokens, documents);
    if (json) comma = ", ";
  }
  if (json) fputc('}', out);
}

static void print_tally(FILE *out, const char *path, const pu_shards *s, const tally *t, bool json) {
  uint64_t n = pu_shards_documents(s), least = n ? t->lengths[0] : 0, most = n ? t->lengths[n - 1] : 0,
           middle = n ? t->lengths[n / 2] : 0;
  unsigned long long tokens = pu_shards_tokens(s);
  fprintf(out,
          json ? "{\"tokens\": %llu, \"documents\": %llu, \"shortest\": %llu, \"median\": %llu, \"longest\": %llu"
               : "%llu tokens in %llu documents, of %llu to %llu to %llu tokens (least, median, most)",
          tokens, (unsigned long long)n, (unsigned long long)least, (unsigned long long)middle,
          (unsigned long long)most);
  if (!json) fprintf(out, ": %s\n", path);
  print_domains(out, t, json);
  if (json) fputs("}\n", out);
}

static pu_err print_shards(const pu_cli *cli, const char *path, bool json, pu_error *e) {
  pu_shards *s;
  tally t = {0};
  PU_TRY(pu_shards_open(path, false, &s, e));
  pu_err err = count(s, &t, e);
  if (err == PU_OK) print_tally(cli->out, path, s, &t, json);
  free(t.lengths);
  free(t.tokens);
  free(t.documents);
  pu_shards_close(s);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  for (int i = 0; i < n_args; i++) {
    bool is_stage;
    PU_TRY(pu_data_find_stage(args[i], &is_stage, e));
    PU_TRY(is_stage ? print_stage(cli, args[i], in->json, e) : print_shards(cli, args[i], in->json, e));
  }
  return PU_OK;
}

const pu_command pu_command_data_stats = {
    .name = "data stats",
    .summary = "what stages and token shards hold, in numbers",
    .usage = "STAGE|SHARDS... [options]",
    .details = "Of a stage: documents in, dropped and left, by source, language, kind and rule, and why records were "
               "skipped. Of shards (a file or a "
               "folder of them): tokens, documents, their lengths, domains.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
