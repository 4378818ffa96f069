/* The template interpreter: each construct, each bound, errors with their lines, where bytes came from; and all
 * published templates of the shared material, byte for byte. The expected texts are what Jinja 3.1 gives. */
#include "puyu/text.h"
#include "tests/test.h"

#include <time.h>

static pu_error err;

static const struct tm noon = {.tm_year = 126, .tm_mday = 2, .tm_hour = 3, .tm_min = 4, .tm_sec = 5, .tm_wday = 5};

static const char variables[] =
    "{\"s\": \" Hi <b> \", \"w\": \"a-b-c\", \"n\": null, \"i\": 7, \"f\": 2.5, \"yes\": true, \"l\": [3, 1, 2], "
    "\"d\": {\"b\": 1, \"A\": [1, {\"x\": \"y\"}], \"items\": 5}, \"h\": \"\\u6c49\\u5b57\\ud83d\\ude42\", \"msgs\": "
    "[{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"yo\"}], \"tree\": [{\"v\": "
    "1, "
    "\"k\": [{\"v\": 2, \"k\": []}, {\"v\": 3, \"k\": []}]}]}";

static pu_err render(const char *source, pu_jinja_input in, pu_buf *text, pu_buf *origin) {
  pu_jinja *t;
  json_t *vars = NULL;
  pu_buf_init(text, 1 << 26);
  if (!in.input) assert_ok(pu_json_parse("variables", pu_str_c(variables), &vars, &err), &err);
  if (!in.input) in.input = vars;
  in.now = &noon;
  pu_err code = pu_jinja_parse("T", pu_str_c(source), &t, &err);
  if (!code) code = pu_jinja_render(t, &in, text, origin, &err);
  pu_jinja_free(t);
  json_decref(vars);
  return code;
}

typedef struct pair {
  const char *source, *want;
} pair;

static void expect_texts(const pair *rows, size_t n) {
  for (size_t i = 0; i < n; i++) {
    pu_buf text;
    pu_err code = render(rows[i].source, (pu_jinja_input){0}, &text, NULL);
    if (code) fail_msg("%s\n%s", rows[i].source, err.msg);
    if (strcmp(text.data ? text.data : "", rows[i].want) != 0)
      fail_msg("%s\ngave [%s]\nwant [%s]", rows[i].source, text.data ? text.data : "", rows[i].want);
    pu_buf_deinit(&text);
  }
}

static void expect_errors(const pair *rows, size_t n, pu_err want) {
  for (size_t i = 0; i < n; i++) {
    pu_buf text;
    pu_err code = render(rows[i].source, (pu_jinja_input){0}, &text, NULL);
    if (code != want) fail_msg("%s\ngave %d, not %d", rows[i].source, (int)code, (int)want);
    if (!strstr(err.msg, rows[i].want)) fail_msg("%s\nsaid [%s]\nwant [%s]", rows[i].source, err.msg, rows[i].want);
    assert_int_equal(text.len, 0);
    pu_buf_deinit(&text);
  }
}

static void white_space(void **state) {
  (void)state;
  static const pair rows[] = {
      {"a\n  {% if 1 %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"},
      {"a\n  {%+ if 1 %}\nb{% endif +%}\nc\n\n", "a\n  b\nc\n"},
      {"a  {%- if 1 -%}  b  {%- endif -%}  c", "abc"},
      {"a {{- 1 -}} b {{ 2 }}\nc", "a1b 2\nc"},
      {"x\n  {# c #}\ny {#- c -#} z", "x\nyz"},
      {"{% raw %} {{ x }}{# y #}{% endraw %}\r\nz", " {{ x }}{# y #}z"},
      {"\xE2\x80\x83{%- if 1 %} a{% endif %}", " a"},
  };
  expect_texts(rows, PU_COUNT(rows));
}

static void literals_and_operators(void **state) {
  (void)state;
  static const pair rows[] = {
      {"{{ 1_000 }} {{ 1.5e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 5.0 }}",
       "1000 1500.0 1e+16 1e-05 0.30000000000000004 5.0"},
      {"{{ 0x1f }} {{ 0b11 + 0o17 }} {{ [[1, 2]].0.1 }} {{ [0].0 ~ 1.5 }}", "31 18 2 01.5"},
      {"{{ 'a\\n\\x41\\u4e2d\\q' 'b' }}", "a\nA\xE4\xB8\xAD\\qb"},
      {"{{ [1, 'it\\'s', none, true, 2.0] }} {{ (1,) }} {{ {'a': 1, 'b': [x]} }}",
       "[1, \"it's\", None, True, 2.0] (1,) {'a': 1, 'b': [Undefined]}"},
      {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }}",
       "3 -4 2 3.5 1024 0.5 4"},
      {"{{ 'ab' * 2 }} {{ [1] + [2] }} {{ 'a' ~ 1 ~ none }} {{ '%s=%d %.2f %%' % ('a', 3, 2.5) }}",
       "abab [1, 2] a1None a=3 2.50 %"},
      {"{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' in 'cat' }} {{ 4 not in l }} {{ 'b' in d }}",
       "True False True True True True"},
      {"{{ n or 'x' }} {{ 0 and 1 }} {{ not s }} {{ 'a' if l else 'b' }} {{ 'a' if n }}|", "x 0 False a |"},
      {"{{ h[1] }} {{ h[::-1] }} {{ h|length }} {{ l[-1] }} {{ l[1:] }} {{ l[::2] }} {{ h[-2:] }} {{ l[9] }}|",
       "\xE5\xAD\x97 \xF0\x9F\x99\x82\xE5\xAD\x97\xE6\xB1\x89 3 2 [1, 2] [3, 2] \xE5\xAD\x97\xF0\x9F\x99\x82 |"},
      {"{{ d.b }} {{ d['items'] }} {{ d.A[1].x }} {{ l.0 }} {{ d.none }}{{ n.x }}|", "1 5 y 3 |"},
      {"{{ '<a>'|safe + '<b>' }} {{ '<a>'|safe ~ '<b>' }}", "<a>&lt;b&gt; <a><b>"},
  };
  expect_texts(rows, PU_COUNT(rows));
}

static void statements(void **state) {
  (void)state;
  static const pair rows[] = {
      {"{% if n %}a{% elif l %}b{% else %}c{% endif %}", "b"},
      {"{% for x in l %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }} {% "
       "endfor %}",
       "1/3TrueFalse2 2/3FalseFalse1 3/3FalseTrue0 "},
      {"{% for x in l if x > 1 %}{{ x }}{{ loop.previtem }};{% else %}none{% endfor %}", "3;23;"},
      {"{% for x in [] %}a{% else %}none{% endfor %}", "none"},
      {"{% for k, v in d.items() %}{{ k }}{% if v == 1 %}{% continue %}{% endif %}={{ v }}{% break %}{% endfor %}",
       "bA=[1, {'x': 'y'}]"},
      {"{% for t in tree recursive %}{{ t.v }}({{ loop(t.k) }}){{ loop.depth }}{% endfor %}", "1(2()23()2)1"},
      {"{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }} {% endfor %}", "aTrue bTrue aTrue "},
      {"{% set x = 1 %}{% for y in l %}{% set x = x + y %}{{ x }} {% endfor %}{{ x }}", "4 2 3 1"},
      {"{% set ns = namespace(x=1) %}{% for y in l %}{% set ns.x = ns.x + y %}{% endfor %}{{ ns.x }}", "7"},
      {"{% set a, b = 1, 2 %}{{ b }}{{ a }}{% set t | upper %}x{{ a }}{% endset %}{{ t }}", "21X1"},
      {"{% macro m(a, b=2) %}{{ a }}-{{ b }};{% endmacro %}{{ m(1) }}{{ m(b=5, a=6) }}{{ m() }}", "1-2;6-5;-2;"},
      {"{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(*[1, 2], **{'k': 3}) }}", "1(2,){'k': 3}"},
      {"{% macro w(t) %}<{{ t }}>{{ caller(1) }}</{{ t }}>{% endmacro %}{% call(x) w('b') %}in{{ x }}{% endcall %}",
       "<b>in1</b>"},
      {"{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}", "1"},
      {"{% filter replace('a', 'b')|upper %}aca{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}{{ a }}", "BCB1"},
      {"{% generation %}said{% endgeneration %}{{ strftime_now('%d %b %Y') }}", "said02 Jan 2026"},
      {"{% for c in range(2, 8, 3) %}{{ c }}{% endfor %}{{ dict(a=1)['a'] }}", "251"},
  };
  expect_texts(rows, PU_COUNT(rows));
}

static void filters_tests_methods(void **state) {
  (void)state;
  static const pair rows[] = {
      {"[{{ s|trim }}] {{ s.strip()|upper }} {{ 'o\xC3\x89'|lower }} {{ 'ab cd'|title }} {{ 'aB'|capitalize }}",
       "[Hi <b>] HI <B> o\xC3\xA9 Ab Cd Ab"},
      {"{{ d|tojson }}", "{\"b\": 1, \"A\": [1, {\"x\": \"y\"}], \"items\": 5}"},
      {"{{ d|tojson(indent=1) }}", "{\n \"b\": 1,\n \"A\": [\n  1,\n  {\n   \"x\": \"y\"\n  }\n ],\n \"items\": 5\n}"},
      {"{{ {'b': 1.0, 'a': '\\n\"'}|tojson(separators=(',', ':'), sort_keys=true) }} {{ h|tojson(ensure_ascii=true) }}",
       "{\"a\":\"\\n\\\"\",\"b\":1.0} \"\\u6c49\\u5b57\\ud83d\\ude42\""},
      {"{{ x|default('d') }} {{ ''|default('e', true) }} {{ x|d }}|{{ '4'|int + 1 }} {{ 'q'|int(9) }} {{ '2.5'|float "
       "}}",
       "d e |5 9 2.5"},
      {"{{ l|sort }} {{ l|max }} {{ l|sum }} {{ l|join('+') }} {{ l|reverse|list }} {{ ['b', 'A']|sort }}",
       "[1, 2, 3] 3 6 3+1+2 [2, 1, 3] ['A', 'b']"},
      {"{{ msgs|map(attribute='role')|list }} {{ ['a']|map('upper')|first }} {{ n|map('upper')|list }}",
       "['user', 'assistant'] A []"},
      {"{{ msgs|selectattr('role', 'equalto', 'user')|list|length }}{{ [1, 2, 3]|reject('odd')|list }}", "1[2]"},
      {"{{ d|dictsort }} {{ d|items|list|length }} {{ l|first }} {{ l|last }} {{ [1, 1.0, 2]|unique|list }}",
       "[('A', [1, {'x': 'y'}]), ('b', 1), ('items', 5)] 3 3 2 [1, 2]"},
      {"{{ 'a\\nb\\n'|indent(2) }}|{{ 'a\\nb'|indent('> ', first=true) }}|{{ 'a b c'|truncate(4, false, '.', 0) }}",
       "a\n  b\n|> a\n> b|a."},
      {"{{ l|select('odd') is sequence }} {{ l|select('gt', 9) and 'true' }} {{ 2.5|round }} {{ -3|abs }}",
       "False true 2.0 3"},
      {"{{ n is none }} {{ x is defined }} {{ s is string }} {{ d is mapping }} {{ l is iterable }} {{ 7 is odd }} "
       "{{ i is divisibleby 7 }} {{ yes is true }} {{ i is not number }} {{ 2 is in l }} {{ 1 is sameas true }}",
       "True False True True True True True True False True False"},
      {"{{ w.split('-') }} {{ w.split('-', 1)[1] }} {{ w.rsplit('-', 1)[0] }} {{ ' a  b '.split() }} {{ "
       "w.partition('-') }}",
       "['a', 'b', 'c'] b-c a-b ['a', 'b'] ('a', '-', 'b-c')"},
      {"{{ w.startswith('a-') }} {{ w.endswith(('x', 'c')) }} {{ w.find('c') }} {{ w.replace('-', '') }} {{ "
       "w.count('-') }}",
       "True True 4 abc 2"},
      {"{{ 'xxaxx'.strip('x') }} {{ 'ab'.lstrip('a') }} {{ '-'.join(['a', 'b']) }} {{ '{}{k}'.format(1, k=2) }}",
       "a b a-b 12"},
      {"{{ '12'.isdigit() }} {{ 'a\\nb'.splitlines() }} {{ d.get('z') }} {{ d.get('z', 1) }} {{ d.keys()|list }}",
       "True ['a', 'b'] None 1 ['b', 'A', 'items']"},
  };
  expect_texts(rows, PU_COUNT(rows));
}

static void errors(void **state) {
  (void)state;
  static const pair rows[] = {
      {"a\nb\n{{ x.y }}", "T:3: 'x' is undefined"},
      {"{{ d.x.y }}", "T:1: 'dict object' has no attribute 'x'"},
      {"{{ x() }}", "'x' is undefined"},
      {"{{ x + 1 }}", "'x' is undefined"},
      {"{{ x < 1 }}", "'x' is undefined"},
      {"{{ 'a' + 1 }}", "unsupported operand type(s) for +: 'str' and 'int'"},
      {"{{ n|length }}", "object of type 'NoneType' has no len()"},
      {"{{ x|tojson }}", "Undefined is not JSON serializable"},
      {"{{ 1|nothing }}", "no filter named 'nothing'"},
      {"{{ 1 is nothing }}", "no test named 'nothing'"},
      {"{{ s|trim(chars=1, foo=2) }}", "foo"},
      {"{{ l.append(1) }}", "must not change a list"},
      {"{% set d.x = 1 %}", "non-namespace"},
      {"{% for a, b in [(1, 2, 3)] %}{% endfor %}", "too many values"},
      {"{% for a in 5 %}{% endfor %}", "'int' object is not iterable"},
      {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "macro 'm' takes not more than 1"},
      {"{{ 9223372036854775807 + 1 }}", "too large"},
      {"{{ -9223372036854775807 // 0 }}", "division by zero"},
      {"\n{% nothing %}", "T:2: no chat template has the tag 'nothing'"},
      {"{% if 1 %}", "endif"},
      {"{{ 1 + }}", "unexpected '}}'"},
      {"{{ 'a }}", "a string is not closed"},
      {"{{ 1", "not closed with }}"},
      {"{# a", "not closed with #}"},
      {"{% raw %}", "endraw"},
      {"{{ (1] }}", "closing bracket"},
      {"{{ 0b12 }}", "no number: '0b12'"},
      {"{% break %}", "inside a loop"},
      {"{% set 1 = 2 %}", "cannot be assigned"},
      {"\xFF", "not UTF-8"},
  };
  expect_errors(rows, PU_COUNT(rows), PU_ERR_FORMAT);
  static const pair raised[] = {{"\n{{ raise_exception('no ' ~ i) }}", "T:2: no 7"}};
  expect_errors(raised, PU_COUNT(raised), PU_ERR_USAGE);
}

/* Whatever a template does, it ends within its bounds. */
static void bounds(void **state) {
  (void)state;
  static const struct {
    const char *source;
    pu_jinja_input in;
    const char *want;
  } rows[] = {
      {"{% for i in range(100000) %}{% for k in range(100000) %}{% endfor %}{% endfor %}",
       {.max_steps = 100000},
       "steps"},
      {"{{ 'a' * 1000000000 }}", {.max_steps = 1 << 20}, "steps"},
      {"{{ 'abcdefgh' * 1000000 }}", {.max_memory = 1 << 20}, "memory"},
      {"{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
       {.max_memory = 1 << 22},
       "memory"},
      {"{% for i in range(1000) %}0123456789{% endfor %}", {.max_output = 5000}, "too long"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {0}, "deep"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
       {0},
       "deep"},
  };
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    pu_buf text;
    pu_err code = render(rows[i].source, rows[i].in, &text, NULL);
    if (code != PU_ERR_NOMEM || !strstr(err.msg, rows[i].want))
      fail_msg("%s\n%d %s", rows[i].source, (int)code, err.msg);
    pu_buf_deinit(&text);
  }
  pu_buf deep;
  pu_jinja *t;
  static const char *const nests[] = {"(", "[", "not ", "-", "{% if 1 %}", "{{ 1 if "};
  for (size_t i = 0; i < PU_COUNT(nests); i++) {
    pu_buf_init(&deep, 1 << 22);
    if (*nests[i] != '{') pu_buf_puts(&deep, "{{ ");
    for (int k = 0; k < 5000; k++) pu_buf_puts(&deep, nests[i]);
    assert_int_equal(pu_jinja_parse("deep", pu_str_of(deep.data, deep.len), &t, &err), PU_ERR_FORMAT);
    pu_buf_deinit(&deep);
  }
  pu_buf_init(&deep, 1 << 22); /* a long chain is no deep tree to the parser, but one to the interpreter */
  pu_buf_puts(&deep, "{{ 1");
  for (int k = 0; k < 5000; k++) pu_buf_puts(&deep, " + 1");
  pu_buf_puts(&deep, " }}");
  pu_buf text;
  assert_int_equal(render(deep.data, (pu_jinja_input){0}, &text, NULL), PU_ERR_NOMEM);
  pu_buf_deinit(&deep);
  pu_buf_deinit(&text);
}

/* ---- where bytes came from ---- */

static void origins(void **state) {
  (void)state;
  static const struct {
    const char *source, *marks; /* as many characters as bytes; 1: from the input */
  } rows[] = {
      {"<{{ w }}>", "0111110"},
      {"{{ '<' ~ w[1:3] ~ '>' }}", "0110"},
      {"{{ w|upper }}{{ w|replace('-', '+') }}", "1111110101"},
      {"{{ w.split('-')|join('::') }}", "1001001"},
      {"{{ [w, 'x']|tojson }}", "00111110000000"},
      {"{{ '%s!' % w }}{{ '{}!'.format(w) }}", "111110111110"},
      {"{{ [w] }}", "001111100"},
      {"{% macro m(a) %}({{ a|trim }}){% endmacro %}{{ m(w) }}", "0111110"},
      {"{% set x %}[{{ w }}]{% endset %}{{ x[0] }}{{ x[1:] }}", "0111110"},
      {"{% for c in w %}{{ c }}.{% endfor %}", "1010101010"},
      {"{% filter indent(1, true) %}{{ w }}{% endfilter %}", "011111"},
      {"{{ w ~ i ~ d.b }}{{ yes }}", "11111000000"},
      {"{% for k in d %}{{ k }};{% endfor %}", "1010111110"},
      {"{{ msgs|map(attribute='role')|join(',') }}", "11110111111111"},
      {"{{ '<a>'|e }}{{ s|e }}", "000000000"
                                 "111100001"
                                 "00001"},
  };
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    pu_buf text, origin;
    pu_buf_init(&origin, 1 << 20);
    pu_err code = render(rows[i].source, (pu_jinja_input){0}, &text, &origin);
    if (code) fail_msg("%s\n%s", rows[i].source, err.msg);
    assert_int_equal(origin.len, text.len);
    for (size_t k = 0; k < origin.len; k++) origin.data[k] = (char)('0' + origin.data[k]);
    if (strcmp(origin.data, rows[i].marks) != 0)
      fail_msg("%s\n%s\n%s, not\n%s", rows[i].source, text.data, origin.data, rows[i].marks);
    pu_buf_deinit(&origin);
    pu_buf_deinit(&text);
  }
}

static void trusted_variables(void **state) {
  (void)state;
  json_t *special = json_pack("{s:s}", "bos_token", "<s>"), *vars = json_pack("{s:s}", "x", "<s>");
  pu_buf text, origin;
  pu_buf_init(&origin, 1 << 20);
  assert_ok(render("{{ bos_token }}{{ x }}", (pu_jinja_input){.input = vars, .trusted = special}, &text, &origin),
            &err);
  assert_string_equal(text.data, "<s><s>");
  assert_memory_equal(origin.data, "\0\0\0\1\1\1", 6);
  pu_buf_deinit(&origin);
  pu_buf_deinit(&text);
  json_decref(special);
  json_decref(vars);
}

/* ---- the published templates ---- */

static bool read_template(pu_arena *a, const char *name, pu_jinja **t) {
  pu_buf source;
  pu_buf_init(&source, 1 << 20);
  char *path = pu_arena_printf(a, "%s/templates/%s", PU_SHARED, name);
  assert_ok(pu_file_read(path, 1 << 20, &source, &err), &err);
  assert_ok(pu_jinja_parse(name, pu_str_of(source.data, source.len), t, &err), &err);
  pu_buf_deinit(&source);
  return true;
}

static void check_case(const pu_jinja *t, const char *name, const char *key, const json_t *c) {
  const json_t *want = json_object_get(c, "text"), *raised = json_object_get(c, "raised");
  pu_buf text;
  pu_buf_init(&text, 1 << 26);
  const pu_jinja_input in = {.input = json_object_get(c, "input"), .now = &noon};
  pu_err code = pu_jinja_render(t, &in, &text, NULL, &err);
  if (want) {
    if (code) fail_msg("%s: %s: %s", name, key, err.msg);
    pu_str got = pu_str_of(text.data, text.len), as = pu_str_of(json_string_value(want), json_string_length(want));
    if (!pu_str_eq(got, as)) fail_msg("%s: %s: gave\n%s\nwant\n%s", name, key, text.data, as.ptr);
  } else if (raised) {
    assert_int_equal(code, PU_ERR_USAGE);
    assert_non_null(strstr(err.msg, json_string_value(raised)));
  } else {
    assert_non_null(json_object_get(c, "error"));
    if (code != PU_ERR_FORMAT) fail_msg("%s: %s: rendered, where Jinja fails", name, key);
  }
  pu_buf_deinit(&text);
}

/* Puts a letter that no template has into everything that is said. */
static void brand(json_t *v) {
  size_t i;
  const char *key;
  json_t *item;
  json_array_foreach(v, i, item) brand(item);
  json_object_foreach(v, key, item) {
    bool said = strcmp(key, "content") == 0 || strcmp(key, "description") == 0;
    if (json_is_string(item) && said) {
      json_t *text = json_sprintf("\xEE\x80\x80%s\xEE\x80\x80", json_string_value(item));
      assert_int_equal(json_object_set_new(v, key, text), 0);
    } else {
      brand(item);
    }
  }
}

/* However a template turns what was said: where it is written, it is marked. Counts the letters seen. */
static size_t check_brand(const pu_jinja *t, const char *name, json_t *vars) {
  pu_buf text, origin;
  size_t seen = 0;
  brand(vars);
  pu_buf_init(&text, 1 << 26);
  pu_buf_init(&origin, 1 << 26);
  const pu_jinja_input in = {.input = vars, .now = &noon};
  if (pu_jinja_render(t, &in, &text, &origin, &err) == PU_OK) {
    for (size_t i = 0; i + 2 < text.len; i++) {
      if (memcmp(text.data + i, "\xEE\x80\x80", 3) != 0) continue;
      seen++;
      if (memcmp(origin.data + i, "\1\1\1", 3) != 0) fail_msg("%s: what was said is taken for the template's", name);
    }
  }
  pu_buf_deinit(&text);
  pu_buf_deinit(&origin);
  return seen;
}

static void published_templates(void **state) {
  (void)state;
  pu_arena *a;
  char **names;
  size_t n, cases = 0, seen = 0;
  if (!pu_path_is_dir(PU_SHARED "/templates")) {
    print_message("skipped: there is no %s/templates\n", PU_SHARED);
    skip();
  }
  assert_ok(pu_arena_create(1 << 24, &a, &err), &err);
  assert_ok(pu_dir_list(a, PU_SHARED "/templates", &names, &n, &err), &err);
  for (size_t i = 0; i < n; i++) {
    size_t len = strlen(names[i]);
    if (len < 6 || strcmp(names[i] + len - 6, ".jinja") != 0) continue;
    pu_jinja *t;
    json_t *file, *c;
    const char *key;
    read_template(a, names[i], &t);
    char *path = pu_arena_printf(a, "%s/templates/%.*s.json", PU_SHARED, (int)len - 6, names[i]);
    assert_ok(pu_json_read(path, 1 << 24, &file, &err), &err);
    json_object_foreach(file, key, c) {
      check_case(t, names[i], key, c);
      seen += check_brand(t, names[i], json_object_get(c, "input"));
      cases++;
    }
    json_decref(file);
    pu_jinja_free(t);
  }
  assert_true(cases >= 300);
  assert_true(seen >= 1000);
  pu_arena_free(a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(white_space),
      cmocka_unit_test(literals_and_operators),
      cmocka_unit_test(statements),
      cmocka_unit_test(filters_tests_methods),
      cmocka_unit_test(errors),
      cmocka_unit_test(bounds),
      cmocka_unit_test(origins),
      cmocka_unit_test(trusted_variables),
      cmocka_unit_test(published_templates),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
