/* GGUF from outside: convert there and back, inspect, generate. */
#include "tests/shell.h"

#include <stdlib.h>
#include <unistd.h>

#include "puyu/text.h"

#define MINI PU_FIXTURES "/hf-mini"

static char folder[] = "/tmp/puyu-cli-gguf-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  shell_folder = folder;
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

static void does(int status) {
  if (status != 0) fail_msg("exit %d: %s", status, out);
}

/* A model with a tokenizer that fits it: 96 pieces, no more than <s>, </s>, letters and digits. */
static void model_with_tokenizer(const char *dir) {
  pu_buf b;
  pu_error e;
  char path[400];
  does(puyu("convert " MINI "/llama3-tiny %s", dir));
  pu_buf_init(&b, 1 << 16);
  pu_buf_puts(&b, "{\"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\", \"special\": true}, "
                  "{\"id\": 1, \"content\": \"<s>\", \"special\": true}, "
                  "{\"id\": 2, \"content\": \"</s>\", \"special\": true}], "
                  "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, "
                  "\"model\": {\"type\": \"BPE\", \"vocab\": {\"\\u0120\": 3");
  for (char c = '!'; c < '!' + 60; c++)
    if (c != '"' && c != '\\') pu_buf_printf(&b, ", \"%c\": %d", c, 4 + c - '!');
  pu_buf_puts(&b, ", \"12\": 95}, \"merges\": [\"1 2\"]}}");
  snprintf(path, sizeof path, "%s/tokenizer.json", in_folder(dir));
  assert_ok(pu_file_write(path, b.data, b.len, &e), &e);
  pu_buf_deinit(&b);
}

static void generated(const char *model, char *dst, size_t size) {
  does(puyu("generate %s --prompt 'A 12 B' --max-tokens 20 --ignore-eos --dtype f32 --output ids", model));
  snprintf(dst, size, "%s", out);
}

static void models_go_there_and_back(void **state) {
  char want[500], got[500];
  (void)state;
  model_with_tokenizer("dir");
  generated("dir", want, sizeof want);
  does(puyu("convert dir one.gguf"));
  generated("one.gguf", got, sizeof got);
  assert_string_equal(got, want);
  does(puyu("convert one.gguf back"));
  generated("back", got, sizeof got);
  assert_string_equal(got, want);
  does(puyu("convert one.gguf two.gguf --dtype f32"));
  generated("two.gguf", got, sizeof got);
  assert_string_equal(got, want);
  pu_error e;
  assert_ok(pu_file_write(in_folder("text"), "A 12 B\n", 7, &e), &e);
  does(puyu("tokenizer encode --model dir text"));
  snprintf(want, sizeof want, "%s", out);
  does(puyu("tokenizer encode --model one.gguf text"));
  assert_string_equal(out, want);
  does(puyu("convert dir small.gguf --dtype q8_0"));
  does(puyu("generate small.gguf --prompt 'A 12 B' --max-tokens 2"));
}

static void inspect_lists_keys_and_tensors(void **state) {
  (void)state;
  does(puyu("inspect one.gguf"));
  says("llama (LlamaForCausalLM)");
  says("llama3, factor 8");
  says("in file        22 tensors");
  says("general.architecture                             \"llama\"");
  says("tokenizer.ggml.pre                               \"gpt-2\"");
  says("tokenizer.ggml.tokens                            96: [\"<unk>\"");
  says("blk.0.attn_k.weight                                          f32     [16, 32]");
  does(puyu("inspect --no-tensors small.gguf"));
  says(" of q8_0");
  assert_null(strstr(out, "blk.0.attn_k"));
}

static void mistakes_are_told(void **state) {
  static const struct {
    const char *args;
    int status;
    const char *says;
  } cases[] = {
      {"convert dir one.gguf", 2, "one.gguf: there is a model already: take another name, or --force"},
      {"convert one.gguf one.gguf --force", 2, "one.gguf: SRC and DST are the same file"},
      {"convert dir q --dtype q4_0", 2, "--dtype q4_0: only GGUF files hold such blocks: name DST with .gguf"},
      {"convert small.gguf back.gguf", 2, "small.gguf: its weights are quantised: say with --dtype"},
      {"convert nowhere.gguf x", 1, "nowhere.gguf: cannot open"},
      {"convert dir no/such/folder.gguf", 1, "no/such/folder.gguf: cannot create"},
      {"inspect dir/tokenizer.json.gguf", 1, "dir/tokenizer.json.gguf: cannot open"},
      {"generate one.gguf.cut --ids 1", 1, "one.gguf.cut: ends inside its header, at byte 2000"},
  };
  (void)state;
  pu_buf b;
  pu_error e;
  pu_buf_init(&b, 1 << 24);
  assert_ok(pu_file_read(in_folder("one.gguf"), 1 << 24, &b, &e), &e);
  assert_ok(pu_file_write(in_folder("one.gguf.cut"), b.data, 2000, &e), &e);
  pu_buf_deinit(&b);
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    int status = puyu("%s", cases[i].args);
    says(cases[i].says);
    assert_int_equal(status, cases[i].status);
  }
  assert_false(pu_path_exists(in_folder("q")));
  assert_false(pu_path_exists(in_folder("x")));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(models_go_there_and_back),
                                     cmocka_unit_test(inspect_lists_keys_and_tensors),
                                     cmocka_unit_test(mistakes_are_told)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
