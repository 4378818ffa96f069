#include "src/cli/structure.h"

enum { MOST_SOURCE_BYTES = 1 << 20 };

static pu_err compile_file(const char *path, pu_grammar_kind kind, pu_engine *en, pu_grammar **out, pu_error *e) {
  pu_buf source;
  pu_buf_init(&source, MOST_SOURCE_BYTES + 1);
  pu_err err = pu_file_read(path, MOST_SOURCE_BYTES, &source, e);
  if (!err) {
    err = pu_engine_grammar(en, kind, pu_str_of(source.data ? source.data : "", source.len), out, e);
    if (err) err = pu_fail_in(e, err, "%s", path);
  }
  pu_buf_deinit(&source);
  return err;
}

pu_err pu_cli_structure_compile(const pu_cli_structure *o, pu_engine *en, pu_grammar **out, pu_error *e) {
  *out = NULL;
  if (!!o->json_schema + !!o->regex + !!o->grammar > 1)
    return pu_fail(e, PU_ERR_USAGE, "give one of --json-schema, --regex and --grammar");
  if (o->json_schema) return compile_file(o->json_schema, PU_GRAMMAR_JSON_SCHEMA, en, out, e);
  if (o->grammar) return compile_file(o->grammar, PU_GRAMMAR_GBNF, en, out, e);
  if (!o->regex) return PU_OK;
  pu_err err = pu_engine_grammar(en, PU_GRAMMAR_REGEX, pu_str_c(o->regex), out, e);
  return err == PU_ERR_FORMAT ? pu_fail_in(e, PU_ERR_USAGE, "--regex") : err; /* it stands on the command line */
}
