/* Tokenizers in GGUF files: what comes out gives the ids that went in, by the lists alone too. */
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>

#include "puyu/engine.h"
#include "tests/text/build.h"

static char folder[] = "/tmp/puyu-tokenizer-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static const char *in_folder(const char *name) {
  static char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

/* ---- tokenizers of our own ---- */

static const char *const texts[] = {"",
                                    " ",
                                    "Once upon a time",
                                    "  two  spaces\n\n\tand 1234567 digits, it's I'LL",
                                    "\xE4\xB8\xAD\xE6\x96\x87 caf\xC3\xA9",
                                    "abab abba <|im_end|> <s> [U0]",
                                    "\xFF\xFE not UTF-8"};

static pu_tokenizer *spm(bool charsmap) {
  static const char *const pieces[] = {"a",    "b",  "ab", "\xE2\x96\x81", "\xE2\x96\x81\x61", "bc",
                                       "abab", "im", "e",  "\xE2\x96\x81t"};
  pu_buf b;
  pu_error e;
  pu_tokenizer *t;
  pu_buf_init(&b, 1 << 16);
  spm_begin(&b, true);
  spm_piece(&b, pu_str_c("[U0]"), 0, USER);
  spm_piece(&b, pu_str_c("x"), -3, UNUSED);
  for (size_t i = 0; i < PU_COUNT(pieces); i++) spm_piece(&b, pu_str_c(pieces[i]), -(float)i, NORMAL);
  spm_end(&b, (spm_settings){.byte_fallback = true, .dummy_prefix = !charsmap, .remove_extra = charsmap});
  assert_ok(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &t, &e), &e);
  pu_buf_deinit(&b);
  return t;
}

static pu_tokenizer *bpe(void) {
  static const char *const special[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>", NULL};
  pu_bpe_trainer *trainer;
  pu_tokenizer *t;
  pu_error e;
  assert_ok(
      pu_bpe_trainer_create(&(pu_bpe_options){.vocab_size = 320, .special = special, .min_count = 1}, &trainer, &e),
      &e);
  for (size_t i = 0; i < PU_COUNT(texts); i++)
    assert_ok(pu_bpe_trainer_add(trainer, pu_str_c(i == 6 ? "the time and the digits" : texts[i]), &e), &e);
  assert_ok(pu_bpe_trainer_save(trainer, in_folder("bpe"), &e), &e);
  pu_bpe_trainer_free(trainer);
  assert_ok(pu_tokenizer_load(in_folder("bpe"), &t, &e), &e);
  return t;
}

/* ---- there and back ---- */

/* A file of keys alone. */
static void write_keys(pu_gguf_keys *k) {
  assert_false(k->bytes.failed);
  FILE *f = fopen(in_folder("t.gguf"), "wb");
  uint64_t head[3] = {3ull << 32 | 0x46554747, 0, k->n}; /* "GGUF", version 3; no tensors */
  assert_true(fwrite(head, 1, 24, f) == 24 && fwrite(k->bytes.data, 1, k->bytes.len, f) == k->bytes.len);
  fclose(f);
  pu_gguf_keys_deinit(k);
}

/* lists: without tokenizer.json inside, as llama.cpp's converter writes files. */
static pu_tokenizer *through_gguf(const pu_tokenizer *t, bool lists) {
  pu_gguf_keys k;
  pu_tokenizer *again;
  pu_error e;
  pu_gguf_keys_init(&k);
  assert_ok(pu_engine_put_tokenizer(&k, t, t ? pu_tokenizer_size(t) + 3 : 10, &e), &e);
  if (t && pu_tokenizer_bos(t) >= 0) pu_gguf_put_u32(&k, "tokenizer.ggml.bos_token_id", (uint32_t)pu_tokenizer_bos(t));
  if (t && pu_tokenizer_eos(t) >= 0) pu_gguf_put_u32(&k, "tokenizer.ggml.eos_token_id", (uint32_t)pu_tokenizer_eos(t));
  char *json = lists ? memmem(k.bytes.data, k.bytes.len, "tokenizer.huggingface.json", 26) : NULL;
  if (json) json[0] = 'T'; /* another key */
  write_keys(&k);
  assert_ok(pu_engine_load_tokenizer(in_folder("t.gguf"), &again, &e), &e);
  return again;
}

static void same_ids(const char *what, const pu_tokenizer *a, const pu_tokenizer *b, pu_str text, unsigned flags) {
  pu_ids x = {0}, y = {0};
  pu_error e;
  assert_ok(pu_encode(a, text, flags, &x, &e), &e);
  assert_ok(pu_encode(b, text, flags, &y, &e), &e);
  if (x.n != y.n || (x.n && memcmp(x.v, y.v, x.n * sizeof *x.v) != 0))
    fail_msg("%s: \"%.*s\" gives other ids (%zu, %zu)", what, (int)PU_MIN(text.len, 60), text.ptr, x.n, y.n);
  pu_ids_deinit(&x);
  pu_ids_deinit(&y);
}

static void same_tokenizers(const char *what, const pu_tokenizer *a, const pu_tokenizer *b) {
  assert_non_null(b);
  assert_int_equal(pu_tokenizer_bos(a), pu_tokenizer_bos(b));
  assert_int_equal(pu_tokenizer_eos(a), pu_tokenizer_eos(b));
  assert_int_equal(pu_tokenizer_adds_bos(a), pu_tokenizer_adds_bos(b));
  for (int32_t i = 0; i < pu_tokenizer_size(a); i++) {
    if (!pu_str_eq(pu_tokenizer_piece(a, i), pu_tokenizer_piece(b, i))) fail_msg("%s: piece %d is another", what, i);
    if (pu_tokenizer_is_special(a, i) != pu_tokenizer_is_special(b, i)) fail_msg("%s: piece %d", what, i);
  }
  for (size_t i = 0; i < PU_COUNT(texts); i++)
    for (unsigned flags = 0; flags <= PU_ENCODE_SPECIAL; flags += PU_ENCODE_SPECIAL)
      same_ids(what, a, b, pu_str_c(texts[i]), flags);
}

static void own_tokenizers_come_out_as_they_went_in(void **state) {
  (void)state;
  pu_tokenizer *const all[] = {spm(false), spm(true), bpe()};
  /* Characters not composed stay so, though the list's name for this way to cut words, Qwen's, composes them. */
  pu_tokenizer *whole = through_gguf(all[2], false);
  same_ids("not composed", all[2], whole, pu_str_c("cafe\xCC\x81"), 0);
  pu_tokenizer_free(whole);
  for (size_t i = 0; i < PU_COUNT(all) * 2; i++) {
    char what[40];
    snprintf(what, sizeof what, "tokenizer %zu%s", i / 2, i % 2 ? ", by lists" : "");
    pu_tokenizer *again = through_gguf(all[i / 2], i % 2);
    same_tokenizers(what, all[i / 2], again);
    /* And out of the file into a folder. */
    pu_error e;
    pu_tokenizer *third;
    assert_ok(pu_remove_tree(in_folder("saved"), &e), &e);
    assert_ok(pu_tokenizer_save(again, in_folder("saved"), &e), &e);
    assert_ok(pu_engine_load_tokenizer(in_folder("saved"), &third, &e), &e);
    same_tokenizers(what, again, third);
    pu_tokenizer_free(third);
    pu_tokenizer_free(again);
  }
  for (size_t i = 0; i < PU_COUNT(all); i++) pu_tokenizer_free(all[i]);
}

static void the_chat_template_stays(void **state) {
  (void)state;
  pu_tokenizer *t = bpe(), *again = through_gguf(t, true);
  pu_str config = pu_tokenizer_file(again, "tokenizer_config.json");
  json_t *o = json_loadb(config.ptr, config.len, 0, NULL), *was;
  pu_error e;
  assert_ok(pu_json_read(in_folder("bpe/tokenizer_config.json"), 1 << 20, &was, &e), &e);
  assert_non_null(json_string_value(json_object_get(o, "chat_template")));
  assert_string_equal(json_string_value(json_object_get(o, "chat_template")),
                      json_string_value(json_object_get(was, "chat_template")));
  json_decref(o);
  json_decref(was);
  pu_tokenizer_free(again);
  pu_tokenizer_free(t);
}

/* And chats go by it, though there is no folder to look into. */
static void one_file_brings_its_template(void **state) {
  (void)state;
  pu_error e;
  pu_bpe_options o = {.vocab_size = 300, .special = (const char *const[]){"<s>", "</s>", NULL}, .min_count = 2};
  pu_bpe_trainer *trainer;
  pu_tokenizer *t;
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &e), &e);
  assert_ok(pu_bpe_trainer_add(trainer, pu_str_c("some text and some more text"), &e), &e);
  assert_ok(pu_bpe_trainer_save(trainer, in_folder("brings"), &e), &e);
  pu_bpe_trainer_free(trainer);
  static const char config[] =
      "{\"bos_token\": \"<s>\", \"chat_template\": \"{{ bos_token }}[{{ messages[0].content }}]\"}";
  assert_ok(pu_file_write(in_folder("brings/tokenizer_config.json"), config, sizeof config - 1, &e), &e);
  assert_ok(pu_tokenizer_load(in_folder("brings"), &t, &e), &e);
  pu_tokenizer *again = through_gguf(t, false);
  const pu_chat_template *c;
  assert_ok(pu_chat_open(in_folder("t.gguf"), again, "llama", &c, &e), &e);
  assert_non_null(c);
  pu_buf text;
  pu_buf_init(&text, 1 << 10);
  pu_message m = {.role = "user", .content = pu_str_c("hi")};
  assert_ok(pu_chat_text(c, &m, 1, true, &text, &e), &e);
  assert_true(pu_str_eq(pu_str_of(text.data, text.len), pu_str_c("<s>[hi]")));
  pu_buf_deinit(&text);
  pu_chat_free(c);
  pu_tokenizer_free(again);
  pu_tokenizer_free(t);
}

/* llama.cpp's own files of some models have no piece of type 2. */
static void the_unknown_piece_may_be_named_by_id(void **state) {
  (void)state;
  pu_tokenizer *t = spm(false), *again;
  pu_gguf_keys k;
  pu_error e;
  pu_gguf_keys_init(&k);
  assert_ok(pu_engine_put_tokenizer(&k, t, pu_tokenizer_size(t), &e), &e);
  pu_gguf_put_u32(&k, "tokenizer.ggml.bos_token_id", 1);
  pu_gguf_put_u32(&k, "tokenizer.ggml.eos_token_id", 2);
  pu_gguf_put_u32(&k, "tokenizer.ggml.unknown_token_id", 0);
  char *types = memmem(k.bytes.data, k.bytes.len, "tokenizer.ggml.token_type", 25);
  assert_int_equal(types[25 + 4 + 4 + 8], 2);
  types[25 + 4 + 4 + 8] = 1;
  write_keys(&k);
  assert_ok(pu_engine_load_tokenizer(in_folder("t.gguf"), &again, &e), &e);
  same_tokenizers("without an unknown piece", t, again);
  pu_tokenizer_free(again);
  pu_tokenizer_free(t);
}

static void there_may_be_none(void **state) {
  (void)state;
  pu_tokenizer *t;
  pu_error e;
  assert_null(through_gguf(NULL, false));
  assert_ok(pu_mkdirs(in_folder("empty"), &e), &e);
  assert_ok(pu_engine_load_tokenizer(in_folder("empty"), &t, &e), &e);
  assert_null(t);
}

/* ---- lists that lie ---- */

static void wrong_lists_are_refused(void **state) {
  static const pu_str pieces[] = {{"a", 1}, {"b", 1}, {"ab", 2}}, merges[] = {{"a b", 3}}, bad[] = {{"a c", 3}};
  const struct {
    pu_vocab v;
    const char *says;
  } cases[] = {
      {{.byte_level = true, .bos = -1, .eos = -1}, "0 pieces"},
      {{.byte_level = true, .n = 3, .pieces = pieces, .bos = 3, .eos = -1}, "outside the vocabulary"},
      {{.byte_level = true, .n = 3, .pieces = pieces, .bos = -1, .eos = -1, .pre = "nonsense"},
       "'nonsense' is not one"},
      {{.byte_level = true, .n = 3, .pieces = pieces, .bos = -1, .eos = -1, .merges = bad, .n_merges = 1}, "merges[0]"},
      {{.n = 3, .pieces = pieces, .bos = -1, .eos = -1}, "no piece is the unknown one"},
      {{.n = 3, .pieces = pieces, .types = (int32_t[]){1, 9, 1}, .bos = -1, .eos = -1}, "unknown type 9"},
  };
  (void)state;
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_tokenizer *t;
    pu_error e;
    assert_int_not_equal(pu_tokenizer_from_vocab(&cases[i].v, &t, &e), PU_OK);
    assert_null(t);
    if (!strstr(e.msg, cases[i].says)) fail_msg("\"%s\" does not say \"%s\"", e.msg, cases[i].says);
  }
  pu_tokenizer *t;
  pu_error e;
  const pu_vocab good = {
      .byte_level = true, .n = 3, .pieces = pieces, .bos = -1, .eos = 2, .merges = merges, .n_merges = 1};
  assert_ok(pu_tokenizer_from_vocab(&good, &t, &e), &e);
  assert_int_equal(pu_tokenizer_eos(t), 2);
  pu_tokenizer_free(t);
}

/* ---- real ones, where they are at hand ---- */

static void read_text(pu_buf *text) {
  pu_error e;
  pu_buf_init(text, 1 << 20);
  assert_ok(pu_file_read(PU_FIXTURES "/../engine/tokenizer.c", 1 << 20, text, &e),
            &e); /* code, punctuation, digits, spaces */
}

static void real_tokenizers_come_out_as_they_went_in(void **state) {
  static const char *const names[] = {"tokenizers/bpe-gpt2", "tokenizers/bpe-llama3", "tokenizers/bpe-qwen2",
                                      "tokenizers/internlm", "tokenizers/internlm2",  "models/stories260K"};
  (void)state;
  size_t there = 0;
  pu_buf text;
  read_text(&text);
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    char path[300];
    pu_error e;
    pu_tokenizer *t;
    snprintf(path, sizeof path, PU_SHARED "/%s", names[i]);
    if (!pu_path_exists(path)) continue;
    there++;
    assert_ok(pu_tokenizer_load(path, &t, &e), &e);
    pu_tokenizer *again = through_gguf(t, true);
    same_ids(names[i], t, again, pu_str_of(text.data, text.len), 0);
    same_tokenizers(names[i], t, again);
    pu_tokenizer_free(again);
    pu_tokenizer_free(t);
  }
  pu_buf_deinit(&text);
  if (!there) print_message("no tokenizers under " PU_SHARED ": skipped\n");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(own_tokenizers_come_out_as_they_went_in),
      cmocka_unit_test(the_chat_template_stays),
      cmocka_unit_test(one_file_brings_its_template),
      cmocka_unit_test(the_unknown_piece_may_be_named_by_id),
      cmocka_unit_test(there_may_be_none),
      cmocka_unit_test(wrong_lists_are_refused),
      cmocka_unit_test(real_tokenizers_come_out_as_they_went_in),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
