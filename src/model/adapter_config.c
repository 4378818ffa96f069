/* adapter_config.json, as PEFT writes it: which matrices an adapter changes, by how much; and what puyu cannot do. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <math.h>
#include <string.h>

#include "src/model/adapter.h"

/* ---- what it may say ---- */

static bool is_off(const json_t *v) {
  if (json_is_integer(v)) return json_integer_value(v) == 0;
  if (json_is_array(v)) return json_array_size(v) == 0;
  if (json_is_object(v)) return json_object_size(v) == 0;
  return !v || json_is_null(v) || json_is_false(v);
}

/* Each changes what the adapter computes. */
static pu_err check_plain(const json_t *json, const char *where, pu_error *e) {
  static const struct {
    const char *key, *what;
  } kinds[] = {{"use_dora", "DoRA"},
               {"use_qalora", "QALoRA"},
               {"use_bdlora", "block-diagonal LoRA"},
               {"lora_bias", "a bias beside the adapter"},
               {"modules_to_save", "whole modules beside the adapter"},
               {"trainable_token_indices", "changed rows of the embedding"},
               {"target_parameters", "adapters on bare parameters"},
               {"layer_replication", "layers used several times"},
               {"alora_invocation_tokens", "an adapter that begins in the middle of a text"},
               {"arrow_config", "routing among adapters"},
               {"kasa_config", "KaSA"},
               {"monteclora_config", "MonteCLoRA"}};
  for (size_t i = 0; i < PU_COUNT(kinds); i++)
    if (!is_off(json_object_get(json, kinds[i].key)))
      return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: '%s' is set: %s cannot be used here; plain LoRA can", where,
                     kinds[i].key, kinds[i].what);
  return PU_OK;
}

/* These begin by changing the base, so that the adapter belongs to weights that nobody has. */
static pu_err check_start(const json_t *json, const char *where, pu_error *e) {
  static const char *const starts[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
  const char *init = json_string_value(json_object_get(json, "init_lora_weights"));
  for (size_t i = 0; i < PU_COUNT(starts) && init; i++)
    if (strncmp(init, starts[i], strlen(starts[i])) == 0)
      return pu_fail(e, PU_ERR_UNSUPPORTED,
                     "%s: 'init_lora_weights' is '%.40s', which changes the base's weights: convert the adapter to "
                     "plain LoRA with PEFT (path_initial_model_for_weight_conversion)",
                     where, init);
  return PU_OK;
}

static pu_err check_kind(const json_t *json, const char *where, pu_error *e) {
  const char *type, *bias;
  PU_TRY(pu_json_str_or(json, "peft_type", "", &type, where, e));
  PU_TRY(pu_json_str_or(json, "bias", "none", &bias, where, e));
  if (strcmp(type, "LORA") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: 'peft_type' is '%.40s'; adapters of type LORA can be used", where, type);
  if (strcmp(bias, "none") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: 'bias' is '%.40s': trained biases cannot be used; 'none' can", where,
                   bias);
  PU_TRY(check_plain(json, where, e));
  return check_start(json, where, e);
}

/* A list of strings, or, where `text_too`, a string; or nothing. */
static pu_err check_names(const json_t *json, const char *key, bool text_too, const char *where, pu_error *e) {
  const json_t *v = json_object_get(json, key), *item;
  size_t i;
  if (is_off(v) || (text_too && json_is_string(v))) return PU_OK;
  bool good = json_is_array(v) && json_array_size(v) <= PU_ADAPTER_MAX_PATTERNS;
  if (good) json_array_foreach(v, i, item) good = good && json_is_string(item);
  return good ? PU_OK
              : pu_fail(e, PU_ERR_FORMAT, "%s: '%s' should be a list of names%s", where, key,
                        text_too ? " or a regular expression" : "");
}

/* A name, in which a dot is all that an expression would read otherwise. */
static bool is_plain(const char *name) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
  return !name[strspn(name, plain)];
}

static pu_err check_table(const json_t *json, const char *key, bool whole, double most, const char *where,
                          pu_error *e) {
  json_t *v = json_object_get(json, key), *item;
  const char *name;
  int regexes = 0;
  if (is_off(v)) return PU_OK;
  if (!json_is_object(v) || json_object_size(v) > PU_ADAPTER_MAX_PATTERNS)
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' should map names to numbers", where, key);
  json_object_foreach(v, name, item) {
    double x = json_number_value(item);
    if (!json_is_number(item) || !(x > 0 && x <= most) || (whole && !json_is_integer(item)))
      return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' of '%.80s' should be a number above 0 and at most %g", where, key,
                     name, most);
    regexes += !is_plain(name);
  }
  if (regexes <= PU_ADAPTER_MAX_REGEXES) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: '%s' has %d regular expressions; %d can be told", where, key, regexes,
                 PU_ADAPTER_MAX_REGEXES);
}

static pu_err check_layers(const json_t *json, const char *where, pu_error *e) {
  const json_t *v = json_object_get(json, "layers_to_transform"), *pattern = json_object_get(json, "layers_pattern");
  const json_t *item;
  size_t i;
  bool good = is_off(v) || json_is_integer(v) || json_is_array(v);
  json_array_foreach(v, i, item) good = good && json_is_integer(item);
  if (!good) return pu_fail(e, PU_ERR_FORMAT, "%s: 'layers_to_transform' should be a list of layers", where);
  if (json_array_size(pattern) == 1) pattern = json_array_get(pattern, 0);
  if (is_off(pattern) || (json_is_string(pattern) && strcmp(json_string_value(pattern), "layers") == 0)) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: 'layers_pattern' should be 'layers', as the layers are called here",
                 where);
}

static pu_err read_all(pu_adapter_config *c, pu_error *e) {
  const double most_alpha = 1e6;
  const char *where = c->where;
  const json_t *json = c->json;
  if (!json_is_object(json)) return pu_fail(e, PU_ERR_FORMAT, "%s: not an object", where);
  PU_TRY(check_kind(json, where, e));
  PU_TRY(pu_json_int_or(json, "r", 1, PU_LORA_MAX_RANK, 8, &c->rank, where, e)); /* PEFT's own defaults */
  PU_TRY(pu_json_num_or(json, "lora_alpha", 8, &c->alpha, where, e));
  PU_TRY(pu_json_bool_or(json, "use_rslora", false, &c->rslora, where, e));
  if (!(c->alpha > 0 && c->alpha <= most_alpha))
    return pu_fail(e, PU_ERR_FORMAT, "%s: 'lora_alpha' is %g, outside 0..%g", where, c->alpha, most_alpha);
  PU_TRY(check_names(json, "target_modules", true, where, e));
  PU_TRY(check_names(json, "exclude_modules", true, where, e));
  PU_TRY(check_table(json, "rank_pattern", true, PU_LORA_MAX_RANK, where, e));
  PU_TRY(check_table(json, "alpha_pattern", false, most_alpha, where, e));
  PU_TRY(check_layers(json, where, e));
  if (is_off(json_object_get(json, "target_modules")))
    return pu_fail(e, PU_ERR_FORMAT, "%s: 'target_modules' is missing: it names the matrices that are adapted", where);
  /* `fan_in_fan_out` is about bases that keep their matrices the other way round (GPT-2's): none here does, and for
   * such PEFT itself takes it as false. */
  bool ignored;
  return pu_json_bool_or(json, "fan_in_fan_out", false, &ignored, where, e);
}

pu_err pu_adapter_config_read(json_t *json, const char *where, pu_adapter_config *out, pu_error *e) {
  *out = (pu_adapter_config){.json = json, .where = where};
  pu_err err = read_all(out, e);
  if (err) pu_adapter_config_deinit(out);
  return err;
}

pu_err pu_adapter_config_open(const char *dir, pu_arena *a, pu_adapter_config *out, pu_error *e) {
  json_t *json;
  const char *path = pu_path_join(a, dir, PU_ADAPTER_CONFIG);
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dir);
  if (!pu_path_exists(path))
    return pu_fail(e, PU_ERR_IO, "%s: no adapter: it should be a PEFT directory with " PU_ADAPTER_CONFIG, dir);
  PU_TRY(pu_json_read(path, PU_ADAPTER_MAX_CONFIG, &json, e));
  return pu_adapter_config_read(json, path, out, e);
}

void pu_adapter_config_deinit(pu_adapter_config *c) {
  json_decref(c->json);
  c->json = NULL;
}

/* ---- which modules ---- */

/* Steps that a match may take: far more than any name needs, and nothing to wait for. */
enum { MATCH_LIMIT = 100000 };

static pu_err match_code(const pcre2_code *code, const char *module, const char *where, bool *out, pu_error *e) {
  pcre2_match_data *md = pcre2_match_data_create_from_pattern(code, NULL);
  pcre2_match_context *mc = pcre2_match_context_create(NULL);
  int rc = PCRE2_ERROR_NOMEMORY;
  if (md && mc) {
    pcre2_set_match_limit(mc, MATCH_LIMIT);
    rc = pcre2_match(code, (PCRE2_SPTR)module, strlen(module), 0, 0, md, mc);
  }
  pcre2_match_data_free(md);
  pcre2_match_context_free(mc);
  *out = rc >= 0;
  if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s: a regular expression takes too long to match '%s'", where, module);
}

/* The whole of module fits `before` and then the expression. */
static pu_err match_regex(const char *before, const char *regex, const char *module, const char *where, bool *out,
                          pu_error *e) {
  pu_buf b;
  int number;
  PCRE2_SIZE at;
  *out = false;
  if (strlen(regex) > PU_ADAPTER_MAX_PATTERN)
    return pu_fail(e, PU_ERR_FORMAT, "%s: a regular expression of more than %d bytes", where, PU_ADAPTER_MAX_PATTERN);
  pu_buf_init(&b, 2 * PU_ADAPTER_MAX_PATTERN);
  pu_buf_printf(&b, "%s(?:%s)", before, regex);
  if (b.failed) {
    pu_buf_deinit(&b);
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a regular expression", where);
  }
  pcre2_code *code = pcre2_compile((PCRE2_SPTR)b.data, b.len,
                                   PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C, &number, &at, NULL);
  pu_buf_deinit(&b);
  if (!code) {
    char why[120];
    pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%.120s' is no regular expression: %s", where, regex, why);
  }
  pu_err err = match_code(code, module, where, out, e);
  pcre2_code_free(code);
  return err;
}

/* name is module, or its end from behind a dot on. `any`: a dot in name stands for any character. */
static bool ends_in(const char *module, const char *name, bool any) {
  size_t n = strlen(module), k = strlen(name);
  if (k > n || (k < n && module[n - k - 1] != '.')) return false;
  for (size_t i = 0; i < k; i++)
    if (name[i] != module[n - k + i] && !(any && name[i] == '.')) return false;
  return true;
}

/* Keys of rank_pattern and alpha_pattern are regular expressions that a name may end in. Nearly all are plain names,
 * and there may be one for each matrix. */
static pu_err match_key(const char *key, const char *module, const char *where, bool *out, pu_error *e) {
  if (!is_plain(key)) return match_regex("(?:.*\\.)?", key, module, where, out, e);
  *out = ends_in(module, key, true);
  return PU_OK;
}

/* As PEFT has it: a text is a regular expression for the whole name, a list holds names or their ends. */
static pu_err names_it(const json_t *v, const char *module, const char *where, bool *out, pu_error *e) {
  const json_t *item;
  size_t i;
  *out = false;
  if (json_is_string(v)) {
    if (strcmp(json_string_value(v), "all-linear") != 0)
      return match_regex("", json_string_value(v), module, where, out, e);
    *out = true;
    return PU_OK;
  }
  json_array_foreach(v, i, item) *out = *out || ends_in(module, json_string_value(item), false);
  return PU_OK;
}

static bool layer_is_chosen(const json_t *v, int layer) {
  const json_t *item;
  size_t i;
  if (json_is_integer(v)) return json_integer_value(v) == layer;
  if (is_off(v)) return true;
  json_array_foreach(v, i, item) if (json_integer_value(item) == layer) return true;
  return false;
}

/* The first key that fits gives the value. */
static pu_err look_up(const pu_adapter_config *c, const char *table, const char *module, double *value, pu_error *e) {
  json_t *v = json_object_get(c->json, table), *item;
  const char *key;
  bool fits = false;
  json_object_foreach(v, key, item) {
    PU_TRY(match_key(key, module, c->where, &fits, e));
    if (!fits) continue;
    *value = json_number_value(item);
    return PU_OK;
  }
  return PU_OK;
}

pu_err pu_adapter_config_match(const pu_adapter_config *c, const char *module, int layer, pu_adapter_match *out,
                               pu_error *e) {
  bool excluded;
  double rank = (double)c->rank, alpha = c->alpha;
  *out = (pu_adapter_match){0};
  PU_TRY(names_it(json_object_get(c->json, "target_modules"), module, c->where, &out->targeted, e));
  PU_TRY(names_it(json_object_get(c->json, "exclude_modules"), module, c->where, &excluded, e));
  out->targeted &= !excluded && layer_is_chosen(json_object_get(c->json, "layers_to_transform"), layer);
  if (!out->targeted) return PU_OK;
  PU_TRY(look_up(c, "rank_pattern", module, &rank, e));
  PU_TRY(look_up(c, "alpha_pattern", module, &alpha, e));
  out->rank = (int64_t)rank;
  out->scale = alpha / (c->rslora ? sqrt(rank) : rank);
  return PU_OK;
}
