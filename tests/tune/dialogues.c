/* Conversations in files: every form into one, and what is wrong with a file. */
#include "puyu/tune.h"
#include "tests/test.h"

#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

static pu_error err;
static char dir[] = "/tmp/puyu-dialogues-XXXXXX";

static int make_dir(void **state) {
  (void)state;
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, &err) == PU_OK ? 0 : -1;
}

/* One conversation as JSON without spaces: {"messages", "tools", "learn"}. */
static char *as_text(const pu_dialogue *d) {
  json_t *o = json_pack("{s:O, s:O, s:O*}", "messages", d->messages, "learn", d->learn, "tools", d->tools);
  char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
  assert_non_null(text);
  json_decref(o);
  return text;
}

static void check(const char *file, const pu_train_source *how, const char *form, size_t n, const char *const *want) {
  static const pu_train_source plain;
  pu_dialogues *d;
  pu_dialogue one;
  bool found;
  assert_ok(pu_dialogues_parse("f.jsonl", pu_str_c(file), how ? how : &plain, &d, &err), &err);
  for (size_t i = 0; i <= n; i++) {
    assert_ok(pu_dialogues_next(d, &one, &found, &err), &err);
    assert_int_equal(found, i < n);
    if (!found) break;
    char *text = as_text(&one);
    assert_string_equal(text, want[i]);
    free(text);
    pu_dialogue_deinit(&one);
  }
  assert_string_equal(pu_dialogues_form(d), form);
  pu_dialogues_close(d);
}

#define U(text) "{\"content\":\"" text "\",\"role\":\"user\"}"
#define A(text) "{\"content\":\"" text "\",\"role\":\"assistant\"}"
#define S(text) "{\"content\":\"" text "\",\"role\":\"system\"}"

static void test_messages(void **state) {
  (void)state;
  check("{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n\n"
        "  {\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\", "
        "\"loss\": false}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"1\"}]}], "
        "\"tools\": \"[{\\\"name\\\": \\\"f\\\"}]\"}\r\n",
        NULL, "messages", 2,
        (const char *const[]){"{\"learn\":[true,true],\"messages\":[" U("q") "," A("a") "]}",
                              "{\"learn\":[true,false,true],\"messages\":[" U("q") "," A(
                                  "a") ",{\"content\":null,\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\"}]}],"
                                       "\"tools\":[{\"function\":{\"name\":\"f\"},\"type\":\"function\"}]}"});
  const pu_train_source renamed = {.columns = {.messages = "talk", .role = "who", .content = "what"}};
  check("[{\"talk\": [{\"who\": \"user\", \"what\": \"q\"},\n {\"who\": \"assistant\", \"what\": \"]}\\\"\"}]}\n]\n",
        &renamed, "messages", 1,
        (const char *const[]){"{\"learn\":[true,true],\"messages\":[" U("q") "," A("]}\\\"") "]}"});
}

static void test_alpaca(void **state) {
  (void)state;
  check(
      "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}\n"
      "{\"instruction\": \"i\", \"input\": \"x\", \"output\": \"o\", \"system\": \"s\", \"history\": [[\"q\", \"a\"]]}",
      NULL, "alpaca", 2,
      (const char *const[]){"{\"learn\":[false,true],\"messages\":[" U("i") "," A("o") "]}",
                            "{\"learn\":[false,false,true,false,true],\"messages\":[" S("s") "," U("q") "," A(
                                "a") "," U("i\\nx") "," A("o") "]}"});
  const pu_train_source renamed = {.columns = {.instruction = "question", .output = "answer"}};
  check("{\"question\": \"q\", \"answer\": \"a\"}", &renamed, "alpaca", 1,
        (const char *const[]){"{\"learn\":[false,true],\"messages\":[" U("q") "," A("a") "]}"});
}

static void test_sharegpt(void **state) {
  (void)state;
  check("{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"function_call\", \"value\": "
        "\"{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {}}\"}, {\"from\": \"observation\", \"value\": \"2\"}, "
        "{\"from\": \"gpt\", \"value\": \"a\"}], \"system\": \"s\", \"tools\": \"\"}",
        NULL, "sharegpt", 1,
        (const char *const[]){"{\"learn\":[false,true,true,true,true],\"messages\":[" S("s") "," U(
            "q") ",{\"content\":null,\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":{},"
                 "\"name\":\"f\"},\"type\":\"function\"}]},{\"content\":\"2\",\"role\":\"tool\"}," A("a") "]}"});
}

static void test_xtuner(void **state) {
  (void)state;
  check("[{\"conversation\": [{\"system\": \"s\", \"input\": \"q\", \"output\": \"a\"}, {\"input\": \"r\", \"output\": "
        "\"b\", \"output_with_loss\": false}]}, {\"conversation\": [{\"input\": \"\", \"output\": \"text\"}]}]",
        NULL, "xtuner", 2,
        (const char *const[]){"{\"learn\":[false,false,true,false,false],\"messages\":[" S("s") "," U("q") "," A(
                                  "a") "," U("r") "," A("b") "]}",
                              "{\"learn\":[true],\"messages\":[" A("text") "]}"});
}

/* ---- what is wrong ---- */

static void refuses(const char *file, const char *form, const char *what) {
  const pu_train_source how = {.form = form};
  pu_dialogues *d;
  pu_dialogue one;
  bool found = true;
  pu_err got = pu_dialogues_parse("f.jsonl", pu_str_c(file), &how, &d, &err);
  while (!got && found) {
    got = pu_dialogues_next(d, &one, &found, &err);
    pu_dialogue_deinit(&one);
  }
  if (!got) fail_msg("taken: %s", file);
  if (!strstr(err.msg, what)) fail_msg("no \"%s\" in: %s", what, err.msg);
  pu_dialogues_close(d);
}

static void test_refusals(void **state) {
  (void)state;
  refuses("{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\n{\"messages\": [{\"role\": 1}]}", NULL,
          "f.jsonl:2: 'messages[0].role' is no text");
  refuses("{\"messages\": [{\"role\": \"user\", \"content\": 3}]}", NULL, "'messages[0].content' is neither");
  refuses("{\"messages\": [{\"role\": \"user\"}]}", NULL, "'messages[0].content' is missing");
  refuses("{\"messages\": [{\"role\": \"a\", \"content\": \"\", \"loss\": 1}]}", NULL, "'messages[0].loss'");
  refuses("{\"messages\": [{\"role\": \"a\", \"content\": \"\", \"tool_calls\": {}}]}", NULL, "tool_calls' is no list");
  refuses("{\"messages\": [{\"role\": \"a\", \"content\": \"\"}, 4]}", NULL, "'messages[1]' is no object");
  refuses("{\"messages\": []}", "messages", "no messages in it");
  refuses("{\"messages\": 3}", "messages", "'messages' is no list");
  refuses("{\"messages\": [{\"role\": \"a\", \"content\": \"\"}], \"tools\": \"{\"}", NULL, "'tools' is no list");
  refuses("{\"messages\": [{\"role\": \"a\", \"content\": \"\"}], \"tools\": [1]}", NULL, "'tools[0]' is no object");
  refuses("{\"prompt\": \"\", \"chosen\": 1}", NULL, "f.jsonl:1: this is none of the forms alpaca, messages");
  refuses("{\"prompt\": \"\", \"chosen\": 1}", NULL, "its keys are prompt chosen");
  refuses("", "alpacca", "f.jsonl: there is no form 'alpacca'; known: alpaca");
  refuses("{\"instruction\": \"i\", \"output\": 4}", NULL, "'output' is no text");
  refuses("{\"instruction\": \"i\"}", "alpaca", "'output' is missing");
  refuses("{\"output\": \"i\"}", "alpaca", "'instruction' is missing");
  refuses("{\"instruction\": \"i\", \"output\": \"o\", \"history\": [[\"q\"]]}", NULL, "'history[0]' is no pair");
  refuses("{\"conversations\": [{\"from\": \"dog\", \"value\": \"\"}]}", NULL, "'conversations[0].from' is no speaker");
  refuses("{\"conversations\": [{\"from\": \"gpt\"}]}", NULL, "'conversations[0].value' is no text");
  refuses("{\"conversations\": [{\"from\": \"function_call\", \"value\": \"f()\"}]}", NULL, "is no call");
  refuses("{\"conversation\": [{\"output\": null}]}", "xtuner", "'conversation[0].output' is missing");
  refuses("\n\nhello", NULL, "f.jsonl:3: no JSON object");
  refuses("{\"messages\": [\n]}", NULL, "f.jsonl:1");
  refuses("[{\"messages\": []},", "messages", "f.jsonl:1: no messages in it");
  refuses("[{\"a\": [1, 2}", NULL, "f.jsonl:1");
  refuses("[\n{\"instruction\": \"\", \"input\": \"q\", \"output\": \"o\"}\n\n", NULL,
          "f.jsonl:4: the array does not end");
  refuses("[{\"instruction\": \"q\", \"output\": \"o\"} {}]", NULL, "a comma is missing");
  refuses("[{\"instruction\": \"q\", \"output\": \"o\"}]\nx", NULL, "f.jsonl:2: something follows the array");
}

/* ---- files ---- */

static const char line[] = "{\"instruction\": \"q\", \"output\": \"o\"}\n";

static void put(const char *name, const void *data, size_t n) {
  char path[100];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  assert_ok(pu_file_write(path, data, n, &err), &err);
}

static size_t count(const char *name) {
  static const pu_train_source how;
  char path[100];
  pu_dialogues *d;
  pu_dialogue one;
  bool found = true;
  size_t n = 0;
  snprintf(path, sizeof path, "%s/%s", dir, name);
  assert_ok(pu_dialogues_open(path, &how, &d, &err), &err);
  for (;; n++) {
    assert_ok(pu_dialogues_next(d, &one, &found, &err), &err);
    if (!found) break;
    pu_dialogue_deinit(&one);
  }
  assert_true(pu_dialogues_done(d) > 0 && pu_dialogues_done(d) - pu_dialogues_bytes(d) < 1e-9);
  pu_dialogues_close(d);
  return n;
}

static size_t gzip(void *to, size_t room) {
  z_stream z = {0};
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  z.next_in = (Bytef *)(uintptr_t)line;
  z.avail_in = sizeof line - 1;
  z.next_out = to;
  z.avail_out = (uInt)room;
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  size_t n = room - z.avail_out;
  deflateEnd(&z);
  return n;
}

static void test_files(void **state) {
  (void)state;
  char packed[2000];
  size_t n = gzip(packed, 1000);
  put("a.jsonl", line, sizeof line - 1);
  put("notes.txt", "no", 2);
  memcpy(packed + n, packed, n); /* two members */
  put("b.jsonl.gz", packed, 2 * n);
  size_t m = ZSTD_compress(packed + 2 * n, 1000, line, sizeof line - 1, 3);
  put("c.jsonl.zst", packed + 2 * n, m);
  put("d.json", "[]", 2);
  assert_int_equal(count("a.jsonl"), 1);
  assert_int_equal(count("b.jsonl.gz"), 2);
  assert_int_equal(count("c.jsonl.zst"), 1);
  assert_int_equal(count("d.json"), 0);
  assert_int_equal(count("."), 4);
  static const pu_train_source how;
  static const struct {
    const char *name;
    size_t keep;
  } broken[] = {{"x.jsonl.gz", 20}, {"x.jsonl.zst", 15}};
  for (size_t i = 0; i < 2; i++) {
    char path[100];
    pu_dialogues *d;
    pu_dialogue one;
    bool found;
    put(broken[i].name, i ? packed + 2 * n : packed, broken[i].keep);
    snprintf(path, sizeof path, "%s/%s", dir, broken[i].name);
    assert_ok(pu_dialogues_open(path, &how, &d, &err), &err);
    assert_int_equal(pu_dialogues_next(d, &one, &found, &err), PU_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "broken"));
    pu_dialogues_close(d);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_messages), cmocka_unit_test(test_alpaca),   cmocka_unit_test(test_sharegpt),
      cmocka_unit_test(test_xtuner),   cmocka_unit_test(test_refusals), cmocka_unit_test(test_files),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
