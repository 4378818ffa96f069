/* Calls in an answer while it is made: the same pieces' sums wherever the text is cut, told as early as they can be,
 * and for well-formed calls what the whole answer says. */
#include "puyu/text.h"
#include "tests/test.h"

static pu_error err;

/* What was told: content, then each call, as text: "Hm.[0 f]{…}". */
static void hear(void *arg, const pu_chat_piece *p) {
  if (p->content.ptr)
    pu_buf_append(arg, p->content.ptr, p->content.len);
  else if (p->name)
    pu_buf_printf(arg, "[%zu %s%s]", p->call, p->is_code ? "code:" : "", p->name);
  if (p->arguments.len) pu_buf_append(arg, p->arguments.ptr, p->arguments.len);
}

static pu_chat_reader *open_reader(const pu_chat_template *c, unsigned flags, pu_buf *told) {
  pu_chat_reader *r;
  pu_buf_clear(told);
  pu_buf_puts(told, "");
  assert_ok(pu_chat_reader_create(c, flags, hear, told, &r, &err), &err);
  return r;
}

static void feed(pu_chat_reader *r, const char *text, size_t n) {
  char copy[2000]; /* what is given need not live on */
  memcpy(copy, text, n);
  assert_ok(pu_chat_reader_feed(r, pu_str_of(copy, n), &err), &err);
  memset(copy, 'x', n);
}

static void finish(pu_chat_reader *r) {
  assert_ok(pu_chat_reader_finish(r, &err), &err);
  pu_chat_reader_free(r);
}

static pu_chat_template *parse(const char *source) {
  pu_chat_template *c;
  assert_ok(pu_chat_parse("test", pu_str_c(source), NULL, &c, &err), &err);
  return c;
}

#define PLUGIN "<|action_start|><|plugin|>"
#define PYTHON "<|action_start|><|interpreter|>"
#define END    "<|action_end|>"

typedef struct row {
  char form; /* i: InternLM2's, t: <tool_call>, l: Llama 3's, o: one call and nothing else */
  const char *text, *told;
  const char *whole; /* as PU_CHAT_READ_WHOLE tells it, where that is not the same */
} row;

static const row rows[] = {
    {'i', "", "", NULL},
    {'i', " plain <|text|> < \n", " plain <|text|> < \n", NULL},
    {'i', PLUGIN "\n{\"name\": \"f\", \"parameters\": {\"a\": [1, {\"b\": \"}\\\"\"}]}}" END,
     "[0 f]{\"a\": [1, {\"b\": \"}\\\"\"}]}", NULL},
    {'i',
     "Let me see. \n" PLUGIN "{\"name\":\"f\",\"parameters\":{}}" END "\n " PLUGIN
     "{\"name\":\"g\",\"parameters\":{\"x\":null}}" END "\n",
     "Let me see.[0 f]{}[1 g]{\"x\":null}", NULL},
    {'i', PLUGIN "{\"name\":\"f\",\"parameters\":{}}" END " and so on ", "[0 f]{}and so on", NULL},
    {'i', "a " PLUGIN "{\"name\":\"f\",\"parameters\":{}}" END " b", "a[0 f]{}  b", NULL},
    {'i', PYTHON "\n```python\nprint(1)\n```\n" END "ok", "[0 code:code_interpreter]print(1)ok", NULL},
    {'i', PYTHON "print(1)", "[0 code:code_interpreter]print(1)", NULL},
    {'i', PYTHON " \n" END, "[0 code:code_interpreter]", NULL},
    {'i', PYTHON "\n```\n" END "x", "[0 code:code_interpreter]x", NULL},
    {'i', PYTHON "\n```\n```" END "x", "[0 code:code_interpreter]x", NULL},
    {'i', PYTHON "```py\na\n\n b  \n\n``` \n" END, "[0 code:code_interpreter]a\n\n b  \n", NULL},
    {'i', PYTHON "```py\na `b` ``\n```` c```" END, "[0 code:code_interpreter]a `b` ``\n```` c", NULL},
    {'i', PYTHON "```py\na\n````" END, "[0 code:code_interpreter]a\n`", NULL},
    {'i', PYTHON "```py\na\n``" END, "[0 code:code_interpreter]a\n``", NULL},
    {'i', PYTHON "```py\na\n``` \n b", "[0 code:code_interpreter]a\n``` \n b", NULL},
    {'i', PYTHON "```py\na = \"", "[0 code:code_interpreter]a = \"", NULL}, /* broke off */
    {'i', PYTHON "```py a```" END, "[0 code:code_interpreter]```py a```", NULL},
    {'i', PYTHON "``a```\n" END, "[0 code:code_interpreter]``a```", NULL},
    {'i', PYTHON "a <|action" END PYTHON "b" END, "[0 code:code_interpreter]a <|action[1 code:code_interpreter]b",
     NULL},
    {'i', PLUGIN "{\"parameters\": {\"a\": 1}, \"name\": \"f\"}" END, "[0 f]{\"a\": 1}", NULL},
    {'i', PLUGIN "{\"id\": {\"name\": 1}, \"name\": \"f\", \"x\": -1.5e3 , \"arguments\": {\"a\": 1}, \"y\": true}" END,
     "[0 f]{\"a\": 1}", NULL},
    {'i', PLUGIN "{\"name\": \"f\", \"parameters\": \"{\\\"a\\\": 1}\"}" END, "[0 f]{\"a\": 1}", NULL},
    {'i', PLUGIN "{\"name\": \"\\u00e9\", \"parameters\": {}}", "[0 \xC3\xA9]{}",
     NULL}, /* no end: it is one all the same */
    /* No calls. */
    {'i', PLUGIN "no JSON" END, PLUGIN "no JSON" END, NULL},
    {'i', PLUGIN "{\"name\": \"f\"}" END, PLUGIN "{\"name\": \"f\"}" END, NULL},
    {'i', PLUGIN "{\"name\": 1, \"parameters\": {}}" END, PLUGIN "{\"name\": 1, \"parameters\": {}}" END, NULL},
    {'i', PLUGIN "{\"name\": \"f\", \"parameters\": 5}", PLUGIN "{\"name\": \"f\", \"parameters\": 5}", NULL},
    {'i', PLUGIN "{\"name\": \"f\", \"parameters\": \"[1]\"}", PLUGIN "{\"name\": \"f\", \"parameters\": \"[1]\"}",
     NULL},
    {'i', PLUGIN "{\"name\": \"f\", \"param", PLUGIN "{\"name\": \"f\", \"param", NULL},
    {'i', PLUGIN PLUGIN "{\"name\":\"f\",\"parameters\":{}}" END, PLUGIN "[0 f]{}", NULL},
    {'i', "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
     "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>", NULL},
    /* What broke off after its name was certain. */
    {'i', "a " PLUGIN "{\"name\":\"f\",\"parameters\":{\"a\": \"b", "a[0 f]{\"a\": \"b",
     "a " PLUGIN "{\"name\":\"f\",\"parameters\":{\"a\": \"b"},
    {'i', PLUGIN "{\"name\":\"f\",\"parameters\":{\"a\": " END "b", "[0 f]{\"a\": b",
     PLUGIN "{\"name\":\"f\",\"parameters\":{\"a\": " END "b"},
    {'t',
     "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.0}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", "
     "\"arguments\": {}}\n</tool_call>",
     "[0 f]{\"a\": 1.0}[1 g]{}", NULL},
    {'t', "<tool_call>oops</tool_call><tool_call>{\"name\":\"f\",\"arguments\":{\"<\":\"</tool\"}}</tool_call>",
     "<tool_call>oops</tool_call>[0 f]{\"<\":\"</tool\"}", NULL},
    {'l', " {\"name\": \"f\", \"parameters\": {\"a\": 2}}", "[0 f]{\"a\": 2}", NULL},
    {'l', "{\"a\": {\"b\": 2}} is no call", "{\"a\": {\"b\": 2}} is no call", NULL},
    {'l', "text {\"name\": \"f\", \"parameters\": {}}", "text {\"name\": \"f\", \"parameters\": {}}", NULL},
    {'l', "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "[0 f]{}", NULL},
    {'o', "{\"name\": \"f\", \"arguments\": {\"a\": 2}}", "[0 f]{\"a\": 2}", NULL},
    {'o', "{\"name\": \"f\", \"argum", "{\"name\": \"f\", \"argum", NULL},
    {'o', PLUGIN, PLUGIN, NULL},
};

static const pu_chat_template *form_of(char form, const pu_chat_template *tags) {
  return form == 't' ? tags : pu_chat_find(form == 'l' ? "llama3" : "internlm2");
}

static void expect(const row *w, const pu_buf *told, const char *wanted, size_t a, size_t b) {
  if (strcmp(told->data, wanted) != 0)
    fail_msg("%s\ncut at %zu and %zu says %s\nnot %s", w->text, a, b, told->data, wanted);
}

static void every_cut_says_the_same(void **state) {
  (void)state;
  pu_chat_template *tags = parse("{# answers with <tool_call> #}");
  pu_buf told;
  pu_buf_init(&told, 1 << 20);
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    const row *w = &rows[i];
    const pu_chat_template *c = form_of(w->form, tags);
    size_t len = strlen(w->text);
    for (int whole = 0; whole < 2; whole++) {
      unsigned flags = (w->form == 'o' ? PU_CHAT_READ_ONE_CALL : 0) | (whole ? PU_CHAT_READ_WHOLE : 0);
      const char *wanted = whole && w->whole ? w->whole : w->told;
      for (size_t a = 0; a <= len; a++) {
        for (size_t b = a; b <= len; b += len > 80 ? 3 : 1) { /* of long ones, every third */
          pu_chat_reader *r = open_reader(c, flags, &told);
          feed(r, w->text, a);
          feed(r, w->text + a, b - a);
          feed(r, w->text + b, len - b);
          finish(r);
          expect(w, &told, wanted, a, b);
        }
      }
      pu_chat_reader *r = open_reader(c, flags, &told);
      for (size_t k = 0; k < len; k++) feed(r, w->text + k, 1);
      finish(r);
      expect(w, &told, wanted, 1, 1);
    }
  }
  pu_buf_deinit(&told);
  pu_chat_free(tags);
}

/* Byte by byte: after which byte is it told first? */
static void nothing_waits_longer_than_it_must(void **state) {
  (void)state;
  static const struct {
    const char *text, *told; /* all of it is told when the last byte of text was read */
  } steps[] = {{"Hello", "Hello"},
               {"Hello <", "Hello"},
               {"Hello <|a", "Hello"},
               {"Hello <|ab", "Hello <|ab"},
               {"Hello " PLUGIN "x", "Hello " PLUGIN "x"},
               {"Hello " PLUGIN "\n{\"name\": \"f\", \"parameters\": ", "Hello"},
               {"Hello " PLUGIN "\n{\"name\": \"f\", \"parameters\": {", "Hello[0 f]{"},
               {"Hello " PLUGIN "\n{\"name\": \"f\", \"parameters\": {\"town\": \"Par", "Hello[0 f]{\"town\": \"Par"},
               {"Hello " PLUGIN "\n{\"name\": \"f\", \"parameters\": {\"a\": \"<|act", "Hello[0 f]{\"a\": \""},
               {"Hello " PLUGIN "\n{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "Hello[0 f]{\"a\": 1}"},
               {PYTHON "\n``", ""},
               {PYTHON "\n```python", ""},
               {PYTHON "\n```python\n", "[0 code:code_interpreter]"},
               {PYTHON "\n```python\nprint(", "[0 code:code_interpreter]print("},
               {PYTHON "\n```python\nf(x) \n", "[0 code:code_interpreter]f(x)"},
               {PYTHON "\n```python\nf(x) \n``", "[0 code:code_interpreter]f(x) "},
               {PYTHON "\n```python\nf(x) \n``y", "[0 code:code_interpreter]f(x) \n``y"},
               {PYTHON "\nprint(", "[0 code:code_interpreter]print("}};
  pu_buf told;
  pu_buf_init(&told, 1 << 16);
  for (size_t i = 0; i < PU_COUNT(steps); i++) {
    pu_chat_reader *r = open_reader(pu_chat_find("internlm2"), 0, &told);
    for (const char *p = steps[i].text; *p; p++) feed(r, p, 1);
    assert_string_equal(told.data, steps[i].told);
    finish(r);
  }
  pu_chat_reader *r = open_reader(pu_chat_find("internlm"), 0, &told); /* knows of no calls */
  feed(r, "<tool_call>", 11);
  assert_string_equal(told.data, "<tool_call>");
  finish(r);
  pu_buf_deinit(&told);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_cut_says_the_same),
                                     cmocka_unit_test(nothing_waits_longer_than_it_must)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
