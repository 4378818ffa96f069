/* config.json to hyper-parameters and back. The keys that all families share are here; the rest is the family's. */
#include "src/model/arch.h"
#include "src/model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG = 4 << 20 };

/* ---- the sizes, by table ---- */

/* dflt 0: the key must be there. */
static const struct {
  const char *key;
  size_t offset;
  int64_t max, dflt;
} sizes[] = {
    {"vocab_size", offsetof(pu_hparams, vocab), 1 << 24, 0},
    {"hidden_size", offsetof(pu_hparams, hidden), 1 << 20, 0},
    {"intermediate_size", offsetof(pu_hparams, ffn), 1 << 24, 0},
    {"num_hidden_layers", offsetof(pu_hparams, layers), 4096, 0},
    {"num_attention_heads", offsetof(pu_hparams, heads), 1 << 16, 0},
    {"max_position_embeddings", offsetof(pu_hparams, max_position), (int64_t)1 << 40, 2048},
};

static pu_err read_sizes(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  for (size_t i = 0; i < PU_COUNT(sizes); i++) {
    int64_t *out = (int64_t *)(void *)((char *)hp + sizes[i].offset);
    if (sizes[i].dflt)
      PU_TRY(pu_json_int_or(config, sizes[i].key, 1, sizes[i].max, sizes[i].dflt, out, where, e));
    else
      PU_TRY(pu_json_int(config, sizes[i].key, 1, sizes[i].max, out, where, e));
  }
  PU_TRY(pu_json_int_or(config, "num_key_value_heads", 1, hp->heads, hp->heads, &hp->kv_heads, where, e));
  PU_TRY(pu_json_int_or(config, "head_dim", 1, 1 << 16, 0, &hp->head_dim, where, e));
  if (hp->head_dim) return PU_OK;
  if (hp->hidden % hp->heads)
    return pu_fail(e, PU_ERR_FORMAT, "%s: 'hidden_size' %lld is not a multiple of 'num_attention_heads' %lld", where,
                   (long long)hp->hidden, (long long)hp->heads);
  hp->head_dim = hp->hidden / hp->heads;
  return PU_OK;
}

/* ---- RoPE ---- */

static const struct {
  const char *name;
  pu_rope_kind kind;
} rope_kinds[] = {{"default", PU_ROPE_NONE},
                  {"linear", PU_ROPE_LINEAR},
                  {"dynamic", PU_ROPE_DYNAMIC},
                  {"llama3", PU_ROPE_LLAMA3},
                  {"yarn", PU_ROPE_YARN}};

static pu_err rope_kind(const char *type, const char *where, pu_rope_kind *out, pu_error *e) {
  for (size_t i = 0; i < PU_COUNT(rope_kinds); i++)
    if (strcmp(rope_kinds[i].name, type) == 0) {
      *out = rope_kinds[i].kind;
      return PU_OK;
    }
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 "%s: RoPE scaling '%.40s' is not supported (linear, dynamic, llama3 and yarn are)", where, type);
}

/* Some newer families give each kind of layer its own parameters; one set for all layers is what is read here. */
static pu_err refuse_nested(const json_t *scaling, const char *where, pu_error *e) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)scaling, key, value) {
    if (json_is_object(value))
      return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: RoPE parameters of their own for '%.40s' are not supported", where,
                     key);
  }
  return PU_OK;
}

static pu_err refuse_partial(const json_t *o, const char *where, pu_error *e) {
  double part;
  PU_TRY(pu_json_num_or(o, "partial_rotary_factor", 1.0, &part, where, e));
  if (part != 1.0) return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: a partial_rotary_factor is not supported", where);
  return PU_OK;
}

/* As transformers reads them: a factor that is missing is that of the lengths; mscale counts only beside
 * mscale_all_dim; betas that are missing, null or 0 are the paper's. */
static pu_err read_yarn(const json_t *scaling, const char *where, int64_t max_position, pu_rope_params *r,
                        pu_error *e) {
  double mscale, all_dim, factor = (double)max_position / (double)r->original_max;
  bool truncate;
  PU_TRY(pu_json_num_or(scaling, "factor", factor, &r->factor, where, e));
  PU_TRY(pu_json_num_or(scaling, "beta_fast", 0, &r->beta_fast, where, e));
  PU_TRY(pu_json_num_or(scaling, "beta_slow", 0, &r->beta_slow, where, e));
  if (r->beta_fast == 0) r->beta_fast = 32;
  if (r->beta_slow == 0) r->beta_slow = 1;
  PU_TRY(pu_json_bool_or(scaling, "truncate", true, &truncate, where, e));
  r->exact_range = !truncate;
  PU_TRY(pu_json_num_or(scaling, "mscale", 0, &mscale, where, e));
  PU_TRY(pu_json_num_or(scaling, "mscale_all_dim", 0, &all_dim, where, e));
  double usual = pu_rope_yarn_attention(r->factor, 1);
  if (mscale != 0 && all_dim != 0)
    usual = pu_rope_yarn_attention(r->factor, mscale) / pu_rope_yarn_attention(r->factor, all_dim);
  return pu_json_num_or(scaling, "attention_factor", usual, &r->attention_factor, where, e);
}

static pu_err read_scaling(const json_t *scaling, const char *where, int64_t max_position, pu_rope_params *r,
                           pu_error *e) {
  const char *type;
  PU_TRY(refuse_nested(scaling, where, e));
  PU_TRY(refuse_partial(scaling, where, e));
  PU_TRY(pu_json_str_or(scaling, "type", "default", &type, where, e));
  PU_TRY(pu_json_str_or(scaling, "rope_type", type, &type, where, e));
  PU_TRY(rope_kind(type, where, &r->kind, e));
  PU_TRY(pu_json_num_or(scaling, "factor", 1.0, &r->factor, where, e));
  if (r->kind == PU_ROPE_DYNAMIC || r->kind == PU_ROPE_LLAMA3 || r->kind == PU_ROPE_YARN)
    PU_TRY(pu_json_int_or(scaling, "original_max_position_embeddings", 1, (int64_t)1 << 40, max_position,
                          &r->original_max, where, e));
  if (r->kind == PU_ROPE_YARN) return read_yarn(scaling, where, max_position, r, e);
  if (r->kind != PU_ROPE_LLAMA3) return PU_OK;
  PU_TRY(pu_json_num_or(scaling, "low_freq_factor", 1.0, &r->low_freq, where, e));
  return pu_json_num_or(scaling, "high_freq_factor", 4.0, &r->high_freq, where, e);
}

/* Newer configs hold `rope_parameters` with the base inside; older ones `rope_theta` and, beside it, `rope_scaling`. */
static pu_err read_rope(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  pu_rope_params *r = &hp->rope;
  const json_t *params = json_object_get(config, "rope_parameters");
  bool newer = params && !json_is_null(params);
  if (!newer) params = json_object_get(config, "rope_scaling");
  *r = (pu_rope_params){.factor = 1.0};
  PU_TRY(pu_json_num_or(config, "rope_theta", 10000.0, &r->base, where, e));
  PU_TRY(refuse_partial(config, where, e));
  if (!params || json_is_null(params)) return PU_OK;
  if (!json_is_object(params))
    return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' should be an object", where, newer ? "rope_parameters" : "rope_scaling");
  PU_TRY(pu_json_num_or(params, "rope_theta", r->base, &r->base, where, e));
  return read_scaling(params, where, hp->max_position, r, e);
}

static json_t *number(double v) {
  return v == floor(v) && fabs(v) < 1e15 ? json_integer((json_int_t)v) : json_real(v);
}

static pu_err write_yarn(const pu_rope_params *r, json_t *scaling, pu_error *e) {
  PU_TRY(pu_arch_set(scaling, "beta_fast", json_real(r->beta_fast), e));
  PU_TRY(pu_arch_set(scaling, "beta_slow", json_real(r->beta_slow), e));
  if (r->attention_factor != pu_rope_yarn_attention(r->factor, 1))
    PU_TRY(pu_arch_set(scaling, "attention_factor", json_real(r->attention_factor), e));
  return r->exact_range ? pu_arch_set(scaling, "truncate", json_false(), e) : PU_OK;
}

/* In the older way, which every reader knows. InternLM2's own reader wants `type` and exactly these two keys. */
static pu_err write_rope(const pu_hparams *hp, json_t *config, pu_error *e) {
  const pu_rope_params *r = &hp->rope;
  PU_TRY(pu_arch_set(config, "rope_theta", number(r->base), e));
  if (r->kind == PU_ROPE_NONE) return pu_arch_set(config, "rope_scaling", json_null(), e);
  json_t *scaling = json_object();
  PU_TRY(pu_arch_set(config, "rope_scaling", scaling, e));
  const bool newer = r->kind == PU_ROPE_LLAMA3 || r->kind == PU_ROPE_YARN;
  const char *key = newer ? "rope_type" : "type";
  for (size_t i = 0; i < PU_COUNT(rope_kinds); i++)
    if (rope_kinds[i].kind == r->kind) PU_TRY(pu_arch_set(scaling, key, json_string(rope_kinds[i].name), e));
  PU_TRY(pu_arch_set(scaling, "factor", json_real(r->factor), e));
  if (r->original_max && (newer || r->original_max != hp->max_position))
    PU_TRY(pu_arch_set(scaling, "original_max_position_embeddings", json_integer(r->original_max), e));
  if (r->kind == PU_ROPE_YARN) return write_yarn(r, scaling, e);
  if (r->kind != PU_ROPE_LLAMA3) return PU_OK;
  PU_TRY(pu_arch_set(scaling, "low_freq_factor", json_real(r->low_freq), e));
  return pu_arch_set(scaling, "high_freq_factor", json_real(r->high_freq), e);
}

/* ---- special ids ---- */

static pu_err check_id(const pu_hparams *hp, const char *key, int64_t id, const char *where, pu_error *e) {
  if (id < hp->vocab) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' %lld is outside the vocabulary: 'vocab_size' is %lld", where, key,
                 (long long)id, (long long)hp->vocab);
}

/* `eos_token_id`: an id, a list of them, or null. 1 and 2 are what the families' own readers take for a missing key:
 * they are no claim of the file, so a vocabulary without them is no fault of it. */
static pu_err read_special(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  const json_t *bos = json_object_get(config, "bos_token_id"), *eos = json_object_get(config, "eos_token_id");
  int64_t id = -1;
  if (bos)
    PU_TRY(pu_json_int_or(config, "bos_token_id", -1, INT32_MAX, -1, &id, where, e));
  else
    id = hp->vocab > 1 ? 1 : -1;
  PU_TRY(check_id(hp, "bos_token_id", id, where, e));
  hp->bos = (int32_t)id;
  hp->eos[0] = 2;
  hp->n_eos = !eos && hp->vocab > 2;
  if (!eos || json_is_null(eos)) return PU_OK;
  size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
  if (n > PU_COUNT(hp->eos))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: 'eos_token_id' lists %zu ids; at most %zu are read", where, n,
                   PU_COUNT(hp->eos));
  for (size_t i = 0; i < n; i++) {
    const json_t *v = json_is_array(eos) ? json_array_get(eos, i) : eos;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
      return pu_fail(e, PU_ERR_FORMAT, "%s: 'eos_token_id' should be an id or a list of ids", where);
    PU_TRY(check_id(hp, "eos_token_id", json_integer_value(v), where, e));
    hp->eos[i] = (int32_t)json_integer_value(v);
  }
  hp->n_eos = (int)n;
  return PU_OK;
}

static pu_err write_special(const pu_hparams *hp, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "bos_token_id", hp->bos >= 0 ? json_integer(hp->bos) : json_null(), e));
  if (hp->n_eos == 0) return pu_arch_set(config, "eos_token_id", json_null(), e);
  if (hp->n_eos == 1) return pu_arch_set(config, "eos_token_id", json_integer(hp->eos[0]), e);
  json_t *list = json_array();
  for (int i = 0; i < hp->n_eos; i++) json_array_append_new(list, json_integer(hp->eos[i]));
  return pu_arch_set(config, "eos_token_id", list, e);
}

/* ---- reading ---- */

static pu_err unknown_family(const char *type, const char *where, pu_error *e) {
  char known[300] = "";
  for (size_t i = 0; pu_arch_all[i]; i++) {
    size_t at = strlen(known);
    snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", pu_arch_all[i]->name);
  }
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: model_type '%.40s' is not one of the families puyu has (%s)", where, type,
                 known);
}

/* By model_type; by the class name where a config has none. */
static pu_err find_family(const json_t *config, const char *where, const pu_arch **arch, pu_error *e) {
  const char *type, *class_name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
  PU_TRY(pu_json_str_or(config, "model_type", "", &type, where, e));
  *arch = pu_arch_find(type);
  for (size_t i = 0; !*type && class_name && pu_arch_all[i]; i++)
    if (strcmp(pu_arch_all[i]->class_name, class_name) == 0) *arch = pu_arch_all[i];
  return *arch ? PU_OK : unknown_family(*type ? type : class_name ? class_name : "(missing)", where, e);
}

static pu_err read_act(const json_t *config, const char *where, pu_error *e) {
  const char *act;
  PU_TRY(pu_json_str_or(config, "hidden_act", "silu", &act, where, e));
  if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: hidden_act '%.40s' is not supported (silu is)", where, act);
  return PU_OK;
}

static pu_err read_all(const json_t *config, const char *where, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  if (!json_is_object(config)) return pu_fail(e, PU_ERR_FORMAT, "%s: not a JSON object", where);
  PU_TRY(find_family(config, where, arch, e));
  PU_TRY(read_sizes(config, where, hp, e));
  PU_TRY(read_act(config, where, e));
  PU_TRY(pu_json_num_or(config, "rms_norm_eps", 1e-6, &hp->norm_eps, where, e));
  PU_TRY(pu_json_bool_or(config, "tie_word_embeddings", false, &hp->tied, where, e));
  PU_TRY(read_special(config, where, hp, e));
  PU_TRY(read_rope(config, where, hp, e));
  if ((*arch)->read_config) PU_TRY((*arch)->read_config(config, where, hp, e));
  return pu_hparams_check(hp, where, e);
}

pu_err pu_config_parse(pu_str text, const char *where, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  json_t *config;
  *arch = NULL;
  *hp = (pu_hparams){0};
  if (text.len > MAX_CONFIG) return pu_fail(e, PU_ERR_FORMAT, "%s: larger than %d bytes", where, MAX_CONFIG);
  PU_TRY(pu_json_parse(where, text, &config, e));
  pu_err err = read_all(config, where, arch, hp, e);
  json_decref(config);
  return err;
}

pu_err pu_config_read(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, MAX_CONFIG + 1);
  pu_err err = pu_file_read(path, MAX_CONFIG, &text, e);
  if (err == PU_OK) err = pu_config_parse(pu_str_of(text.data, text.len), path, arch, hp, e);
  pu_buf_deinit(&text);
  return err;
}

/* ---- the text ---- */

static const char *torch_name(pu_dtype t) {
  return t == PU_BF16 ? "bfloat16" : t == PU_F16 ? "float16" : "float32";
}

static pu_err write_all(const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "architectures", json_pack("[s]", arch->class_name), e));
  PU_TRY(pu_arch_set(config, "model_type", json_string(arch->model_types[0]), e));
  for (size_t i = 0; i < PU_COUNT(sizes); i++) {
    const int64_t *v = (const int64_t *)(const void *)((const char *)hp + sizes[i].offset);
    PU_TRY(pu_arch_set(config, sizes[i].key, json_integer(*v), e));
  }
  PU_TRY(pu_arch_set(config, "num_key_value_heads", json_integer(hp->kv_heads), e));
  if (hp->head_dim * hp->heads != hp->hidden || strcmp(arch->name, "internlm3") == 0)
    PU_TRY(pu_arch_set(config, "head_dim", json_integer(hp->head_dim), e));
  PU_TRY(pu_arch_set(config, "hidden_act", json_string("silu"), e));
  PU_TRY(pu_arch_set(config, "rms_norm_eps", json_real(hp->norm_eps), e));
  PU_TRY(pu_arch_set(config, "tie_word_embeddings", json_boolean(hp->tied), e));
  PU_TRY(pu_arch_set(config, "torch_dtype", json_string(torch_name(dtype)), e));
  PU_TRY(write_special(hp, config, e));
  PU_TRY(write_rope(hp, config, e));
  return arch->write_config ? arch->write_config(hp, config, e) : PU_OK;
}

/* ---- does a family have what the model has? ---- */

/* Parts that a family has always or never: its tensors tell. */
static const struct {
  pu_slot slot;
  size_t offset;
  enum { PART_BOOL, PART_COUNT } type;
  const char *name;
} parts[] = {{PU_SLOT_Q_NORM, offsetof(pu_hparams, qk_norm), PART_BOOL, "norms of q and k"},
             {PU_SLOT_ROUTER, offsetof(pu_hparams, experts), PART_COUNT, "experts"}};

static bool has_tensor(const pu_arch *arch, pu_slot slot) {
  for (const pu_tensor_rule *r = arch->tensors; r->name; r++)
    if (r->slot == slot) return true;
  return false;
}

static pu_err check_parts(const char *where, const pu_arch *arch, const pu_hparams *hp, pu_error *e) {
  for (size_t i = 0; i < PU_COUNT(parts); i++) {
    const void *at = (const char *)hp + parts[i].offset;
    bool has = parts[i].type == PART_BOOL ? *(const bool *)at : *(const int64_t *)at > 0;
    bool needs = has_tensor(arch, parts[i].slot);
    if (has && !needs)
      return pu_fail(e, PU_ERR_UNSUPPORTED, "%s has %s, which the family %s has no place for", where, parts[i].name,
                     arch->name);
    if (!has && needs)
      return pu_fail(e, PU_ERR_UNSUPPORTED, "%s has no %s, and the family %s needs them", where, parts[i].name,
                     arch->name);
  }
  return PU_OK;
}

/* "q, k, v and wo"; empty: no biases. */
static void bias_text(const pu_hparams *hp, char *dst, size_t size) {
  const char *const names[] = {hp->qkv_bias ? "q, k, v" : "", hp->o_bias ? "wo" : "", hp->mlp_bias ? "the MLP" : ""};
  *dst = 0;
  for (size_t i = 0, at = 0; i < PU_COUNT(names); i++)
    if (*names[i]) at += (size_t)snprintf(dst + at, size - at, "%s%s", at ? " and " : "", names[i]);
}

static pu_err refuse_biases(const char *where, const pu_arch *arch, const pu_hparams *hp, const pu_hparams *got,
                            pu_error *e) {
  char has[60], needs[60];
  bias_text(hp, has, sizeof has);
  bias_text(got, needs, sizeof needs);
  if (!*has)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s has no biases, and the family %s needs them on %s", where, arch->name,
                   needs);
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s has biases on %s and nowhere else, which the family %s has no place for",
                 where, has, arch->name);
}

/* What was written must read back to the same model: that is how a family that lacks a feature says so. */
static pu_err check_text(const char *text, const char *where, const pu_arch *arch, const pu_hparams *hp, pu_error *e) {
  const pu_arch *again;
  pu_hparams got;
  PU_TRY(pu_config_parse(pu_str_c(text), where, &again, &got, e));
  const char *differs = again == arch ? pu_hparams_differ(hp, &got) : "family";
  if (!differs) return PU_OK;
  if (strstr(differs, "_bias")) return refuse_biases(where, arch, hp, &got, e);
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: the family %s cannot have this model's '%s'", where, arch->name, differs);
}

/* ---- writing ---- */

/* *text: malloc'ed. */
static pu_err make_text(const char *where, const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype,
                        json_t *quantisation, char **text, pu_error *e) {
  *text = NULL;
  PU_TRY(check_parts(where, arch, hp, e));
  json_t *config = json_object();
  pu_err err = write_all(arch, hp, dtype, config, e);
  if (err == PU_OK && quantisation) err = pu_arch_set(config, "quantization_config", json_incref(quantisation), e);
  /* 15 digits keep 1e-05 readable; 17 keep every double. */
  for (int digits = 15; err == PU_OK && digits <= 17; digits += 2) {
    free(*text);
    *text = json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
    if (!*text) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its configuration", where);
    if (err == PU_OK && check_text(*text, where, arch, hp, NULL) == PU_OK) break;
  }
  if (err == PU_OK) err = check_text(*text, where, arch, hp, e);
  json_decref(config);
  return err;
}

pu_err pu_config_check(const char *where, const pu_arch *arch, const pu_hparams *hp, pu_error *e) {
  char *text;
  pu_err err = make_text(where, arch, hp, PU_F32, NULL, &text, e);
  free(text);
  return err;
}

pu_err pu_config_write(const char *path, const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype, pu_error *e) {
  return pu_config_write_with(path, arch, hp, dtype, NULL, e);
}

pu_err pu_config_write_with(const char *path, const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype,
                            json_t *quantisation, pu_error *e) {
  char *text;
  pu_err err = make_text(path, arch, hp, dtype, quantisation, &text, e);
  if (err == PU_OK) err = pu_file_write(path, text, strlen(text), e);
  free(text);
  return err;
}
