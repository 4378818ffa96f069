/* config.json of every family, as published and as Hugging Face writes it now, in both directions. */
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/model/arch.h"
#include "src/model/rope.h"

static pu_err parse(const char *text, const pu_arch **arch, pu_hparams *hp, pu_error *e) {
  *e = (pu_error){0};
  return pu_config_parse(pu_str_c(text), "config.json", arch, hp, e);
}

/* What every config needs, with %s for more keys. */
#define SIZES                                                                                                          \
  "\"vocab_size\":100,\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4"
#define LLAMA(more) "{\"model_type\":\"llama\"," SIZES more "}"

static pu_hparams good(const char *text) {
  const pu_arch *arch;
  pu_hparams hp;
  pu_error e;
  assert_ok(parse(text, &arch, &hp, &e), &e);
  return hp;
}

/* ---- refusals ---- */

static void wrong_configs_are_refused(void **state) {
  static const struct {
    const char *text;
    pu_err want;
    const char *says;
  } cases[] = {
      {"", PU_ERR_FORMAT, "config.json:1"},
      {"[]", PU_ERR_FORMAT, "not a JSON object"},
      {"{}", PU_ERR_UNSUPPORTED, "(missing)"},
      {"{\"model_type\":\"gpt5\"}", PU_ERR_UNSUPPORTED, "internlm2"},
      {"{\"model_type\":\"llama\"}", PU_ERR_FORMAT, "'vocab_size' is missing"},
      {LLAMA(",\"head_dim\":\"x\""), PU_ERR_FORMAT, "'head_dim'"},
      {LLAMA(",\"head_dim\":5"), PU_ERR_FORMAT, "even head_dim"},
      {LLAMA(",\"num_key_value_heads\":3"), PU_ERR_FORMAT, "share 3 key/value heads"},
      {LLAMA(",\"num_key_value_heads\":8"), PU_ERR_FORMAT, "outside 1..4"},
      {LLAMA(",\"hidden_act\":\"gelu\""), PU_ERR_UNSUPPORTED, "gelu"},
      {LLAMA(",\"rms_norm_eps\":0"), PU_ERR_FORMAT, "rms_norm_eps"},
      {LLAMA(",\"tie_word_embeddings\":1"), PU_ERR_FORMAT, "'tie_word_embeddings'"},
      {LLAMA(",\"bos_token_id\":100"), PU_ERR_FORMAT, "'bos_token_id' 100 is outside the vocabulary"},
      {LLAMA(",\"eos_token_id\":[2,101]"), PU_ERR_FORMAT, "'eos_token_id' 101 is outside the vocabulary"},
      {LLAMA(",\"eos_token_id\":\"2\""), PU_ERR_FORMAT, "'eos_token_id'"},
      {LLAMA(",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]"), PU_ERR_UNSUPPORTED, "at most 8"},
      {LLAMA(",\"rope_scaling\":[1]"), PU_ERR_FORMAT, "'rope_scaling'"},
      {LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":1,\"beta_slow\":2}"), PU_ERR_FORMAT,
       "beta_slow < beta_fast"},
      {LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":0}"), PU_ERR_FORMAT,
       "attention_factor"},
      {LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":1}"), PU_ERR_FORMAT, "'truncate'"},
      {LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"original_max_position_embeddings\":0}"), PU_ERR_FORMAT,
       "'original_max_position_embeddings'"},
      {LLAMA(",\"rope_parameters\":{\"rope_type\":\"longrope\"}"), PU_ERR_UNSUPPORTED, "'longrope'"},
      {LLAMA(",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}"), PU_ERR_UNSUPPORTED,
       "full_attention"},
      {LLAMA(",\"rope_theta\":-1"), PU_ERR_FORMAT, "RoPE base"},
      {LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}"), PU_ERR_FORMAT, "RoPE factor"},
      {LLAMA(",\"partial_rotary_factor\":0.5"), PU_ERR_UNSUPPORTED, "partial_rotary_factor"},
      {"{\"model_type\":\"llama\",\"vocab_size\":16777216,\"hidden_size\":1048576,\"intermediate_size\":16777216,"
       "\"num_hidden_layers\":4096,\"num_attention_heads\":4}",
       PU_ERR_FORMAT, "are the sizes right"},
      {"{\"model_type\":\"llama\",\"vocab_size\":99999999,\"hidden_size\":64}", PU_ERR_FORMAT, "'vocab_size'"},
      {"{\"model_type\":\"internlm\"," SIZES ",\"rotary\":{\"type\":\"spiral\"}}", PU_ERR_UNSUPPORTED, "spiral"},
      {"{\"model_type\":\"mixtral\"," SIZES ",\"num_local_experts\":2,\"num_experts_per_tok\":3}", PU_ERR_FORMAT,
       "'num_experts_per_tok'"},
      {"{\"model_type\":\"qwen2\"," SIZES ",\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":1}",
       PU_ERR_UNSUPPORTED, "max_window_layers"},
  };
  (void)state;
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    const pu_arch *arch;
    pu_hparams hp;
    pu_error e;
    pu_err err = parse(cases[i].text, &arch, &hp, &e);
    if (err != cases[i].want || !strstr(e.msg, cases[i].says))
      fail_msg("%s: error %d, \"%s\"", cases[i].text, (int)err, e.msg);
  }
}

/* ---- what the keys mean ---- */

static void keys_mean_what_they_say(void **state) {
  (void)state;
  pu_hparams hp = good(LLAMA(""));
  assert_int_equal(hp.head_dim, 16);
  assert_int_equal(hp.kv_heads, 4);
  assert_int_equal(hp.bos, 1);
  assert_int_equal(hp.n_eos, 1);
  assert_true(hp.rope.base == 10000.0 && hp.rope.kind == PU_ROPE_NONE);
  hp = good(LLAMA(",\"head_dim\":null,\"bos_token_id\":null,\"eos_token_id\":[7,9],\"rope_scaling\":null"));
  assert_int_equal(hp.head_dim, 16);
  assert_int_equal(hp.bos, -1);
  assert_int_equal(hp.n_eos, 2);
  assert_int_equal(hp.eos[1], 9);
  assert_int_equal(good(LLAMA(",\"eos_token_id\":null")).n_eos, 0);

  hp = good(LLAMA(",\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}"));
  assert_true(hp.rope.kind == PU_ROPE_LINEAR && hp.rope.base == 5e5 && hp.rope.factor == 2);
  hp = good(LLAMA(",\"rope_theta\":1,\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\",\"factor\":8,"
                  "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64}"));
  assert_true(hp.rope.kind == PU_ROPE_LLAMA3 && hp.rope.base == 5e5 && hp.rope.original_max == 64);
  hp = good("{\"model_type\":\"internlm\"," SIZES
            ",\"max_position_embeddings\":512,\"rotary\":{\"base\":2e4,\"type\":\"dynamic\"}}");
  assert_true(hp.rope.kind == PU_ROPE_DYNAMIC && hp.rope.base == 2e4 && hp.rope.factor == 1);
  assert_int_equal(hp.rope.original_max, 512);
  assert_true(hp.qkv_bias && hp.o_bias && !hp.mlp_bias); /* InternLM's own default */
  hp = good("{\"model_type\":\"internlm3\"," SIZES ",\"qkv_bias\":true,\"bias\":false}");
  assert_true(hp.qkv_bias && !hp.o_bias && !hp.mlp_bias);
  assert_true(good("{\"model_type\":\"internlm2\"," SIZES ",\"norm_head\":true}").norm_head);

  assert_int_equal(good("{\"model_type\":\"mistral\"," SIZES ",\"sliding_window\":16}").window, 16);
  assert_int_equal(good("{\"model_type\":\"mistral\"," SIZES ",\"sliding_window\":null}").window, 0);
#define QWEN2 "{\"model_type\":\"qwen2\"," SIZES ",\"sliding_window\":8"
  assert_int_equal(good(QWEN2 "}").window, 0);
  assert_int_equal(good(QWEN2 ",\"use_sliding_window\":true,\"max_window_layers\":2}").window, 0);
  assert_int_equal(good(QWEN2 ",\"use_sliding_window\":true,\"max_window_layers\":0}").window, 8);
  hp = good("{\"architectures\":[\"Qwen3ForCausalLM\"]," SIZES "}");
  assert_true(hp.qk_norm && !hp.qkv_bias);
}

/* Missing keys, in both forms. The factors were computed beside: 0.1 m ln(s) + 1. */
static void yarn_keys_mean_what_they_say(void **state) {
  (void)state;
  pu_rope_params r = good(LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":null}")).rope;
  assert_true(r.kind == PU_ROPE_YARN && r.factor == 4 && r.original_max == 2048 && !r.exact_range);
  assert_true(r.beta_fast == 32 && r.beta_slow == 1 && fabs(r.attention_factor - 1.138629436111989) < 1e-15);
  r = good(LLAMA(",\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":150000,\"factor\":32,\"beta_fast\":16,"
                 "\"beta_slow\":2,\"original_max_position_embeddings\":256,\"truncate\":false}"))
          .rope;
  assert_true(r.base == 150000 && r.beta_fast == 16 && r.beta_slow == 2 && r.original_max == 256 && r.exact_range);
  assert_true(fabs(r.attention_factor - 1.3465735902799727) < 1e-15);
  r = good(LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"mscale\":0.707,\"mscale_all_dim\":1}")).rope;
  assert_true(fabs(r.attention_factor - 0.9210423553163399) < 1e-15);
  r = good(LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"mscale\":0.707,\"attention_factor\":1.5}")).rope;
  assert_true(r.attention_factor == 1.5);
  r = good(LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"original_max_position_embeddings\":256}")).rope;
  assert_true(r.factor == 8); /* 2048 / 256 */
}

/* ---- there and back ---- */

static void check_round_trip(const pu_arch *arch, const pu_hparams *hp) {
  char path[] = "/tmp/puyu-config-XXXXXX";
  const pu_arch *again;
  pu_hparams got;
  pu_error e;
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  assert_ok(pu_config_write(path, arch, hp, PU_BF16, &e), &e);
  assert_ok(pu_config_read(path, &again, &got, &e), &e);
  unlink(path);
  assert_ptr_equal(again, arch);
  assert_null(pu_hparams_differ(hp, &got));
}

/* A family may lack what a config asks for, and then must say so. false: it did. */
static bool taken(const pu_arch *arch, const char *more, pu_hparams *hp) {
  char text[1000];
  const pu_arch *found;
  pu_error e;
  snprintf(text, sizeof text, "{\"model_type\":\"%s\"," SIZES "%s}", arch->model_types[0], more);
  pu_err err = parse(text, &found, hp, &e);
  if (err == PU_ERR_UNSUPPORTED && *more) {
    assert_non_null(strstr(e.msg, "config.json: ")); /* where, and what */
    print_message("%s refuses %s: %s\n", arch->name, more, e.msg);
    return false;
  }
  assert_ok(err, &e);
  assert_ptr_equal(found, arch);
  return true;
}

/* What every family reads it writes so that it reads the same again; the plain config, all must take. */
static void every_family_goes_there_and_back(void **state) {
  static const char *const more[] = {
      "",
      ",\"num_key_value_heads\":2,\"head_dim\":32,\"tie_word_embeddings\":true,\"rms_norm_eps\":1.23456789012345678e-6",
      ",\"rope_theta\":1234567.25,\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.5},\"eos_token_id\":[1,5]",
      ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},\"bos_token_id\":null,\"eos_token_id\":null",
      (",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
       "\"original_max_position_embeddings\":64}"),
      ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":3.7,\"original_max_position_embeddings\":99}",
      (",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":99,\"mscale\":0.7,"
       "\"mscale_all_dim\":1.1,\"beta_fast\":20,\"beta_slow\":1.5,\"truncate\":false}"),
      ",\"bias\":true,\"qkv_bias\":true,\"attention_bias\":true,\"mlp_bias\":true",
      ",\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":0",
  };
  (void)state;
  size_t families = 0;
  for (; pu_arch_all[families]; families++)
    for (size_t i = 0; i < PU_COUNT(more); i++) {
      pu_hparams hp;
      if (taken(pu_arch_all[families], more[i], &hp)) check_round_trip(pu_arch_all[families], &hp);
    }
  assert_true(families >= 8);
}

static void families_say_what_they_cannot(void **state) {
  (void)state;
  /* Biases on q, k, v but not on the output: Llama has one key for all four. */
  pu_hparams hp = good("{\"model_type\":\"qwen2\"," SIZES "}");
  pu_error e;
  assert_int_equal(pu_config_write("/nonexistent/config.json", pu_arch_find("llama"), &hp, PU_F32, &e),
                   PU_ERR_UNSUPPORTED);
  assert_non_null(strstr(e.msg, "has biases on q, k, v and nowhere else, which the family llama has no place for"));
  static const struct {
    const char *text, *family, *says;
  } cases[] = {
      {LLAMA(""), "qwen3", "M has no norms of q and k, and the family qwen3 needs them"},
      {LLAMA(""), "qwen2", "M has no biases, and the family qwen2 needs them on q, k, v"},
      {LLAMA(""), "mixtral", "M has no experts, and the family mixtral needs them"},
      {"{\"model_type\":\"qwen3\"," SIZES "}", "llama",
       "M has norms of q and k, which the family llama has no place for"},
      {"{\"model_type\":\"mixtral\"," SIZES "}", "mistral", "M has experts, which the family mistral has no place for"},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    hp = good(cases[i].text);
    assert_int_equal(pu_config_check("M", pu_arch_find(cases[i].family), &hp, &e), PU_ERR_UNSUPPORTED);
    assert_string_equal(e.msg, cases[i].says);
  }
  hp = good(LLAMA(""));
  assert_ok(pu_config_check("M", pu_arch_find("internlm2"), &hp, &e), &e);
}

/* ---- published models, named shapes ---- */

static const pu_hparams *shape(const char *name) {
  const pu_shape *s = pu_shape_find(name);
  if (!s) fail_msg("no shape %s", name);
  assert_non_null(pu_arch_find(s->arch));
  return &s->hp;
}

static void shapes_have_their_sizes(void **state) {
  (void)state;
  pu_error e;
  for (size_t i = 0; pu_shape_at(i); i++) {
    assert_ok(pu_hparams_check(&pu_shape_at(i)->hp, pu_shape_at(i)->name, &e), &e);
    check_round_trip(pu_arch_find(pu_shape_at(i)->arch), &pu_shape_at(i)->hp);
  }
  /* The published parameter counts; InternLM 7B's, which is given as 7.32 B, worked out by hand. */
  assert_int_equal(pu_hparams_count(shape("internlm2-1.8b"), false), 1889110016);
  assert_int_equal(pu_hparams_count(shape("internlm2-7b"), false), 7737708544);
  assert_int_equal(pu_hparams_count(shape("internlm2-20b"), false), 19861149696);
  assert_int_equal(pu_hparams_count(shape("internlm-7b"), false), 7321948160);
  assert_in_range(pu_hparams_count(shape("puyu-2m"), true) - 4096 * 192, 1900000, 2100000);
  assert_in_range(pu_hparams_count(shape("puyu-25m"), true) - 16384 * 512, 24000000, 26000000);
  assert_in_range(pu_hparams_count(shape("puyu-120m"), true) - 32768 * 768, 114000000, 126000000);
  assert_null(pu_shape_find("puyu-1t"));
}

static void flops_are_counted(void **state) {
  (void)state;
  /* One layer, by hand: qkv (2 + 2) 8 x 16, wo 16 x 16, MLP 3 x 32 x 16, two norms, the last norm, output 10 x 16. */
  pu_hparams hp = {.vocab = 10, .hidden = 16, .ffn = 32, .layers = 1, .heads = 2, .kv_heads = 1, .head_dim = 8};
  double dense = 32 * 16 + 256 + 1536 + 32 + 16 + 160;
  assert_int_equal(pu_hparams_count(&hp, true), (int64_t)dense);
  assert_int_equal(pu_hparams_count(&hp, false), (int64_t)dense + 160);
  assert_true(pu_hparams_train_flops(&hp, 100) == 6 * dense + 6.0 * 100 * 16);
  hp.experts = 4, hp.experts_used = 2;
  double used = dense + 1536 + 4 * 16; /* one more MLP, the router */
  assert_true(pu_hparams_train_flops(&hp, 100) == 6 * used + 6.0 * 100 * 16);
}

static void published_configs_read(void **state) {
  (void)state;
  static const struct {
    const char *name, *arch, *shape;
  } models[] = {{"internlm2_5-7b-chat", "internlm2", "internlm2-7b"},
                {"internlm2-chat-1_8b", "internlm2", "internlm2-1.8b"},
                {"internlm3-8b-instruct", "internlm3", "internlm3-8b"},
                {"stories260K", "llama", NULL}};
  if (!pu_path_is_dir(PU_SHARED "/models")) {
    print_message("skipped: there is no " PU_SHARED "/models\n");
    return;
  }
  for (size_t i = 0; i < PU_COUNT(models); i++) {
    char path[500];
    const pu_arch *arch;
    pu_hparams hp;
    pu_error e;
    snprintf(path, sizeof path, PU_SHARED "/models/%s/config.json", models[i].name);
    assert_ok(pu_config_read(path, &arch, &hp, &e), &e);
    assert_string_equal(arch->name, models[i].arch);
    if (models[i].shape) {
      const char *differs = pu_hparams_differ(&hp, shape(models[i].shape));
      if (differs) fail_msg("%s: not the shape %s: %s", path, models[i].shape, differs);
    }
  }
}

/* ---- RoPE ---- */

static void angles_follow_the_scaling(void **state) {
  (void)state;
  enum { D = 8, N = 6 };
  const int32_t cu[] = {0, 4, 6}, positions[] = {0, 1, 2, 3, 0, 1};
  pu_seqs seqs = {.n = 2, .tokens = N, .max_len = 4, .cu = cu, .positions = positions};
  float cs[N * D], other[N * D];
  pu_rope_params r = {.base = 100, .factor = 1};
  pu_rope_angles(&r, D, &seqs, NULL, cs);
  for (int t = 0; t < N; t++)
    for (int i = 0; i < D / 2; i++) {
      double angle = positions[t] * pow(100, -2.0 * i / D);
      assert_true(fabs((double)cs[t * D + i] - cos(angle)) < 1e-7);
      assert_true(fabs((double)cs[t * D + D / 2 + i] - sin(angle)) < 1e-7);
    }
  /* Dynamic: only a sequence longer than the limit changes, and rope_len decides what counts as its length. */
  r = (pu_rope_params){.kind = PU_ROPE_DYNAMIC, .base = 100, .factor = 2, .original_max = 3};
  pu_rope_angles(&r, D, &seqs, NULL, other);
  assert_memory_equal(cs + 4 * D, other + 4 * D, 2 * D * sizeof *cs);
  double base = 100 * pow(2.0 * 4 / 3 - 1, D / (D - 2.0));
  assert_true(fabs((double)other[3 * D + 1] - cos(3 * pow(base, -2.0 / D))) < 1e-6);
  const int32_t len[] = {3, 4};
  pu_rope_angles(&r, D, &seqs, len, other);
  assert_memory_equal(cs, other, 4 * D * sizeof *cs);
  assert_true(fabs((double)other[5 * D + 1] - cos(pow(base, -2.0 / D))) < 1e-6);
  /* Linear: positions are divided. */
  r = (pu_rope_params){.kind = PU_ROPE_LINEAR, .base = 100, .factor = 2};
  pu_rope_angles(&r, D, &seqs, NULL, other);
  assert_memory_equal(cs + D, other + 2 * D, D * sizeof *cs);
}

/* Kept ones are those that are worked out, to the bit; dynamic scaling keeps what it does not change. */
static void kept_angles_are_the_same(void **state) {
  (void)state;
  enum { D = 8, N = 900 };
  const int32_t cu[] = {0, 4, 604, 900};
  int32_t positions[N];
  for (int32_t s = 0; s < 3; s++)
    for (int32_t t = cu[s]; t < cu[s + 1]; t++) positions[t] = t - cu[s] + (s == 2 ? 700 : 0);
  const pu_seqs seqs = {.n = 3, .tokens = N, .max_len = 600, .cu = cu, .positions = positions};
  const int32_t near[] = {4, 600, 996}, far[] = {4, 600, 1001};
  const int32_t *const lens[] = {NULL, near, far};
  const pu_rope_kind kinds[] = {PU_ROPE_NONE, PU_ROPE_LINEAR, PU_ROPE_DYNAMIC};
  for (size_t k = 0; k < PU_COUNT(kinds); k++) {
    const pu_rope_params r = {.kind = kinds[k], .base = 1e4, .factor = 2, .original_max = 1000};
    pu_rope_rows kept = {0};
    for (size_t i = 0; i < PU_COUNT(lens); i++) {
      static float plain[N * D], other[N * D];
      pu_rope_angles(&r, D, &seqs, lens[i], plain);
      pu_rope_kept_angles(&kept, &r, D, &seqs, lens[i], other);
      assert_memory_equal(plain, other, sizeof plain);
      assert_int_equal(kept.n, 1024); /* the second sequence's and the third's fit what is kept */
    }
    free(kept.v);
  }
}

/* Frequencies computed beside, in Python, from the paper's formula: Qwen2.5's long contexts, and gpt-oss's, whose range
 * is not cut to whole numbers. */
static void yarn_has_the_papers_frequencies(void **state) {
  (void)state;
  static const struct {
    pu_rope_params r;
    int64_t dim;
    struct {
      int i;
      double frequency;
    } want[8];
  } cases[] = {{{.kind = PU_ROPE_YARN,
                 .base = 1e6,
                 .factor = 4,
                 .original_max = 32768,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .attention_factor = 1.138629436111989},
                128,
                {{0, 1},
                 {20, 0.01333521432163324},
                 {23, 0.006978305848598663},
                 {24, 0.005375321490790102},
                 {30, 0.0010643609812470017},
                 {39, 6.490394320837028e-05},
                 {40, 4.445698525097307e-05},
                 {63, 3.102344401879299e-07}}},
               {{.kind = PU_ROPE_YARN,
                 .base = 150000,
                 .factor = 32,
                 .original_max = 4096,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .attention_factor = 1.3465735902799727,
                 .exact_range = true},
                64,
                {{0, 1},
                 {8, 0.050813274815461475},
                 {9, 0.03170569618466377},
                 {13, 0.0038603593171920685},
                 {17, 0.00012931870124506317},
                 {18, 3.8308812373753384e-05},
                 {31, 3.0235114281192144e-07},
                 {31, 3.0235114281192144e-07}}}};
  for (size_t k = 0; k < PU_COUNT(cases); k++) {
    const int32_t cu[] = {0, 2}, positions[] = {1, 130000};
    const pu_seqs seqs = {.n = 1, .tokens = 2, .max_len = 2, .cu = cu, .positions = positions};
    const int64_t D = cases[k].dim;
    const double a = cases[k].r.attention_factor;
    float cs[2 * 128];
    pu_rope_angles(&cases[k].r, D, &seqs, NULL, cs);
    for (size_t w = 0; w < PU_COUNT(cases[k].want); w++)
      for (int t = 0; t < 2; t++) {
        const double angle = positions[t] * cases[k].want[w].frequency;
        assert_float_equal(cs[t * D + cases[k].want[w].i], a * cos(angle), 2e-7);
        assert_float_equal(cs[t * D + D / 2 + cases[k].want[w].i], a * sin(angle), 2e-7);
      }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wrong_configs_are_refused),        cmocka_unit_test(keys_mean_what_they_say),
      cmocka_unit_test(every_family_goes_there_and_back), cmocka_unit_test(families_say_what_they_cannot),
      cmocka_unit_test(shapes_have_their_sizes),          cmocka_unit_test(flops_are_counted),
      cmocka_unit_test(published_configs_read),           cmocka_unit_test(angles_follow_the_scaling),
      cmocka_unit_test(kept_angles_are_the_same),         cmocka_unit_test(yarn_keys_mean_what_they_say),
      cmocka_unit_test(yarn_has_the_papers_frequencies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
