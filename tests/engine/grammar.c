/* Structured output: what each notation accepts and refuses, masks against the plain matcher, random walks whose texts
 * an independent checker reads. */
#include "puyu/engine.h"
#include "tests/test.h"
#include "tests/text/build.h"

#include <math.h>
#include <stdlib.h>

/* ---- a vocabulary of all bytes and of pieces that lie across every boundary that matters ---- */

static const char *const pieces[] = {
    "{\"",  "\":",    "\": ", "\",",  "\", \"", "\"}", "\"]",   "}}",   "]}",       "},",    "},{",     "[{\"",
    "[]",   "{}",     "null", "true", "false",  "tru", "name",  "age",  "name\":",  "na",    "me",      "\"name",
    "a",    "b",      "ab",   "abc",  "aaaa",   "bbb", "hello", "wor",  "ld",       " ",     "  ",      "\n",
    "\n  ", "\n    ", "12",   "123",  "0.5",    "1e",  "-1",    "-",    "2024",     "-01-",  "T00:",    ":00",
    "书生", "浦语",   "书",   "é",    "日本語", "😀",   "\\n",   "\\u",  "\\\"",     "00",    "e9",      "\\",
    "，",   "x\"",    ")",    "((",   "))",     "+",   "1+2",   "()",   " = ",      ";\n",   "red",     "green",
    "blue", "@",      ".com", "127.", "0.0",    "://", "http",  "next", "\"next\"", "value", "id",      "\": [",
    "],",   "\",\n",  "ééé",  "a\"}", "1,2",    "1]",  ", ",    ",",    "gree",     "n\"",   "\"red\"", "<x>"};

static pu_tokenizer *tokenizer;
static pu_grammar_vocab *vocab;

static int make_vocabulary(void **state) {
  (void)state;
  pu_buf b;
  pu_error e;
  pu_buf_init(&b, 1 << 20);
  spm_begin(&b, true);
  for (size_t i = 0; i < PU_COUNT(pieces); i++) spm_piece(&b, pu_str_c(pieces[i]), -(float)i, NORMAL);
  spm_piece(&b, pu_str_c("\xE2\x96\x81the"), -200, NORMAL);
  spm_piece(&b, pu_str_c("\xE2\x96\x81{"), -201, NORMAL);
  spm_end(&b, (spm_settings){.byte_fallback = true});
  assert_ok(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &tokenizer, &e), &e);
  assert_ok(pu_grammar_vocab_create(tokenizer, &vocab, &e), &e);
  pu_buf_deinit(&b);
  return 0;
}

static int free_vocabulary(void **state) {
  (void)state;
  pu_grammar_vocab_free(vocab);
  pu_tokenizer_free(tokenizer);
  return 0;
}

static pu_grammar *compile(pu_grammar_kind kind, const char *source) {
  pu_grammar *g;
  pu_error e;
  if (pu_grammar_compile(kind, pu_str_c(source), vocab, &g, &e) != PU_OK) fail_msg("%s: %s", source, e.msg);
  return g;
}

static bool fits(const pu_grammar *g, pu_str text) {
  pu_grammar_state *s;
  pu_error e;
  assert_ok(pu_grammar_start(g, &s, &e), &e);
  bool ok = (!text.len || pu_grammar_accept_text(s, text)) && pu_grammar_may_end(s);
  pu_grammar_state_free(s);
  return ok;
}

/* A source, texts that fit and texts that do not; each list ends with NULL. */
typedef struct example {
  pu_grammar_kind kind;
  const char *source;
  const char *good[12], *bad[16];
} example;

static void check_examples(const example *x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    pu_grammar *g = compile(x[i].kind, x[i].source);
    for (int k = 0; x[i].good[k]; k++)
      if (!fits(g, pu_str_c(x[i].good[k]))) fail_msg("%s: should fit: %s", x[i].source, x[i].good[k]);
    for (int k = 0; x[i].bad[k]; k++)
      if (fits(g, pu_str_c(x[i].bad[k]))) fail_msg("%s: should not fit: %s", x[i].source, x[i].bad[k]);
    pu_grammar_free(g);
  }
}

typedef struct refusal {
  pu_grammar_kind kind;
  const char *source, *says;
} refusal;

static void check_refusals(const refusal *x, size_t n) {
  for (size_t i = 0; i < n; i++) {
    pu_grammar *g;
    pu_error e = {0};
    if (pu_grammar_compile(x[i].kind, pu_str_c(x[i].source), vocab, &g, &e) == PU_OK)
      fail_msg("%s: was compiled; it should say '%s'", x[i].source, x[i].says);
    assert_null(g);
    if (!strstr(e.msg, x[i].says)) fail_msg("%s: says '%s', not '%s'", x[i].source, e.msg, x[i].says);
  }
}

#define RE PU_GRAMMAR_REGEX
#define BN PU_GRAMMAR_GBNF
#define JS PU_GRAMMAR_JSON_SCHEMA

static void regular_expressions(void **state) {
  (void)state;
  static const example examples[] = {
      {RE, "abc", {"abc"}, {"", "ab", "abcd", "xabc"}},
      {RE, "a|bc|", {"a", "bc", ""}, {"b", "abc"}},
      {RE, "(ab)*c+d?", {"c", "ababccd", "abc"}, {"ab", "abd", "cdd"}},
      {RE, "^a$", {"a"}, {"^a", "aa"}},
      {RE, "^(?:a|b){2,3}$", {"ab", "bbb"}, {"a", "aaaa"}},
      {RE, "x{3}", {"xxx"}, {"xx", "xxxx"}},
      {RE, "x{2,}", {"xx", "xxxxxxxxxx"}, {"x"}},
      {RE, "x{0}y", {"y"}, {"xy"}},
      {RE, "a*?b+?", {"b", "aab"}, {"a"}},
      {RE, "[a-c\\d_-]+", {"ab3_-"}, {"d", ""}},
      {RE, "[^a-c]", {"d", "é", "\n", "😀"}, {"a", "de", "\xC3"}},
      {RE, ".", {"x", "é", "书", "😀"}, {"\n", "\r", "", "xx", "\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80"}},
      {RE, "[\\u4e00-\\u9fff]{2}", {"书生"}, {"书", "ab"}},
      {RE, "\\ud83d\\ude00|\\x41|\\u{1F600}\\.", {"😀", "A", "😀."}, {"😀x"}},
      {RE, "\\w+\\s\\S\\D\\W", {"a_9 xx-"}, {"a  xx-", "a xxx"}},
      {RE, "(?<year>\\d{4})-(?P<m>\\d\\d)", {"2024-01"}, {"2024-1"}},
      {RE, "[\\]\\\\]", {"]", "\\"}, {"["}},
      {RE, "\\{\\}\\t", {"{}\t"}, {"{}"}},
      {RE, "(a*)*", {"", "aaa"}, {"b"}},
      {RE, "(a|aa){0,40}b", {"b", "aaaaaab"}, {"a"}},
      {RE, "[ab]*a[ab]{6}", {"aaaaaaa", "babbbbbb"}, {"bbbbbbb"}},
  };
  check_examples(examples, PU_COUNT(examples));
  static const refusal refusals[] = {
      {RE, "a(b", "not closed"},
      {RE, "a)b", "byte 2"},
      {RE, "[a", "not closed"},
      {RE, "*a", "nothing to repeat"},
      {RE, "a**", "nothing to repeat"},
      {RE, "a{3,2}", "backwards"},
      {RE, "(?=a)b", "looking ahead"},
      {RE, "(a)\\1", "byte 4"},
      {RE, "a\\b", "not supported"},
      {RE, "a^b", "only at the ends"},
      {RE, "[z-a]", "backwards"},
      {RE, "a{", "no repetition"},
      {RE, "\\p{L}", "not supported"},
      {RE, "(?i)a", "not supported"},
      {RE, "a++", "possessive"},
      {RE, "a{1,99999}", "65536"},
      {RE, "[[:alpha:]]", "named"},
      {RE, "\\", "nothing behind"},
      {RE, "[]", "no finite text"},
      {RE, "(x{999}){999}", "too tangled"},
      {RE, "(x{9999}){999}", "too large"},
      {RE, "\\ud800", "no character"},
  };
  check_refusals(refusals, PU_COUNT(refusals));
}

static void gbnf(void **state) {
  (void)state;
  static const char arithmetic[] =
      "# sums\nroot  ::= (expr \"=\" term \"\\n\")+\nexpr  ::= term ([-+*/] term)*\nterm  ::= num | \"(\" expr \")\"\n"
      "num ::= [0-9]+ # digits\n";
  static const example examples[] = {
      {BN, "root ::= \"a\" [b-d]? | \"x\"{2,3}", {"a", "ad", "xx", "xxx"}, {"ae", "x", "xxxx", ""}},
      {BN, arithmetic, {"1+2=3\n", "(1)=2\n3=4\n", "((1+2)*3)=9\n"}, {"1+2=3", "1+=3\n", "(1=2\n", ")1(=2\n"}},
      {BN, "root ::= \"\\x41\\u4e66\\\"\\\\\\n\" .", {"A书\"\\\n!"}, {"A书"}},
      {BN, "root ::= [^\"\\\\\\x00-\\x1f]*", {"", "hé llo]"}, {"a\"", "\n"}},
      {BN, "root ::= (\n  \"a\"\n  | \"b\" # one\n)  \"c\"\n\n", {"ac", "bc"}, {"c"}},
      {BN, "root ::= \"a\" |\n  \"b\"\r\n", {"a", "b"}, {"ab"}},
      {BN, "root ::= x{,2} y\nx ::= \"x\"\ny::=\"y\"", {"y", "xxy"}, {"xxxy"}},
      /* right, left, middle, hidden and mutual recursion */
      {BN, "root ::= \"a\" root | \"b\"", {"b", "aaaab"}, {"a"}},
      {BN, "root ::= root \"a\" | \"b\"", {"b", "baaaa"}, {"a", "ab"}},
      {BN, "root ::= root root | \"a\"", {"a", "aaaaaaa"}, {"", "b"}},
      {BN, "root ::= \"(\" root \")\" | ", {"", "(())"}, {"(()", ")"}},
      {BN, "root ::= opt root \"x\" | \"y\"\nopt ::= \"o\"?", {"y", "yxx", "oyx", "ooyxx"}, {"oy", "x"}},
      {BN,
       "root ::= b \"1\" | \"r\"\nb ::= c \"2\" | \"s\"\nc ::= root \"3\" | \"t\"",
       {"r", "s1", "t21", "r321", "s1321", "r321321"},
       {"t1", "r3", "s", "1"}},
      {BN,
       "root ::= e\ne ::= e \"+\" t | t\nt ::= t \"*\" f | f\nf ::= \"(\" e \")\" | [0-9]",
       {"1", "1+2*3", "(1+2)*3", "((1))+(2)"},
       {"1+", "+1", "()", "(1"}},
      {BN, "root ::= a*\na ::= \"\" | \"x\"", {"", "xxx"}, {"y"}},
      {BN, "root ::= \"\"", {""}, {"x"}},
      {BN, "root ::= dead | \"ok\"\ndead ::= \"x\" dead", {"ok"}, {"x", "xx"}},
  };
  check_examples(examples, PU_COUNT(examples));
  static const refusal refusals[] = {
      {BN, "a ::= \"x\"", "no rule 'root'"},
      {BN, "", "no rule 'root'"},
      {BN, "root ::= b", "grammar:1:10"},
      {BN, "root ::= \"a\n", "not closed"},
      {BN, "root ::= [a", "not closed"},
      {BN, "root ::= (\"a\"", "not closed"},
      {BN, "root ::= \"\\q\"", "unknown escape"},
      {BN, "root = \"a\"", "::="},
      {BN, "root ::= \"a\"\nroot ::= \"b\"", "twice"},
      {BN, "root ::= \"a\" )", "no part of a rule"},
      {BN, "root ::= \"a\" root", "no finite text"},
      {BN, "root ::= root", "no finite text"},
      {BN, "root ::= a\na ::= b\nb ::= a", "no finite text"},
      {BN, "root ::= <think>", "not supported"},
      {BN, "root ::= \"a\"{3,1}", "backwards"},
  };
  check_refusals(refusals, PU_COUNT(refusals));
}

static const example schema_examples[] = {
    {JS,
     "{\"type\":\"string\"}",
     {"\"\"", "\"a\\n\\u00e9\\ud83d\\ude00书\""},
     {"\"", "a", "\"\\x\"", "\"\n\"", "\"\\ud800\"", "\"\\ude00\"", "1"}},
    {JS, "{\"type\":\"integer\"}", {"0", "-1", "123"}, {"-0", "01", "1.0", "", "12345678901234567"}},
    {JS, "{\"type\":\"number\"}", {"0", "-1.5", "1e5", "2.5E-3", "-0.0"}, {"1.", ".5", "01", "1e", "+1"}},
    {JS, "{\"type\":\"boolean\"}", {"true", "false"}, {"null", "tru"}},
    {JS, "{\"type\":[\"null\",\"integer\"]}", {"null", "5"}, {"\"\"", "true"}},
    {JS, "true", {"{}", "[1, {\"a\": [null]}]", "\"x\"", "-3"}, {"", "{", "[1,]"}},
    {JS, "{}", {"{}", "[]", "true"}, {"nul"}},
    {JS,
     "{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}",
     {"-12", "-9", "0", "7", "99", "100", "105"},
     {"-13", "106", "-0", "1000", "-20"}},
    {JS, "{\"type\":\"integer\",\"exclusiveMinimum\":0,\"maximum\":10.5}", {"1", "9", "10"}, {"0", "11", "-1"}},
    {JS, "{\"type\":\"integer\",\"minimum\":995}", {"995", "1000", "99999"}, {"994", "5", "-995"}},
    {JS,
     "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
     {"0", "1", "0.5", "1.0", "0.0"},
     {"1.01", "-0.1", "2", "1e1"}},
    {JS,
     "{\"type\":\"number\",\"exclusiveMinimum\":-2,\"exclusiveMaximum\":3}",
     {"-1.99", "0", "2.9", "-1", "-0.5"},
     {"-2", "3", "3.0", "-2.0", "-2.5"}},
    {JS,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}},"
     "\"required\":[\"a\",\"b\"],\"additionalProperties\":false}",
     {"{\"a\":1,\"b\":\"x\"}", "{\"a\": 1, \"b\": \"x\"}", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}"},
     {"{\"b\":\"x\",\"a\":1}", "{\"a\":1}", "{\"a\":1,\"b\":\"x\",}", "{\"a\":1,\"b\":\"x\",\"c\":1}",
      "{  \"a\":1,\"b\":\"x\"}", "{}"}},
    {JS,
     "{\"type\":\"object\",\"properties\":{\"a\":true,\"b\":{\"const\":1},\"c\":{\"const\":2}},\"required\":[\"c\"]}",
     {"{\"c\":2}", "{\"b\":1,\"c\":2}", "{\"a\":[],\"c\":2}", "{\"a\":{},\"b\":1,\"c\":2}"},
     {"{}", "{\"a\":1}", "{,\"c\":2}", "{\"b\":1,\"b\":1,\"c\":2}"}},
    {JS,
     "{\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}}}",
     {"{}", "{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}"},
     {"{\"b\":2,\"a\":1}", "{,}", "{\"a\":1,}"}},
    {JS,
     "{\"type\":\"object\",\"properties\":{\"ab\":{\"const\":1}},\"additionalProperties\":{\"type\":\"null\"}}",
     {"{}", "{\"ab\":1}", "{\"ab\":1,\"x\":null}", "{\"a\":null}", "{\"abc\":null,\"b\":null}", "{\"xa\\n\":null}",
      "{\"\":null}"},
     {"{\"ab\":null}", "{\"x\":1}", "{\"x\":null,\"ab\":1}", "{\"ab\":1,\"ab\":null}", "{\"\\u0061b\":null}"}},
    {JS,
     "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},\"minProperties\":1,\"maxProperties\":2}",
     {"{\"x\":1}", "{\"x\":1,\"y\":2}"},
     {"{}", "{\"x\":1,\"y\":2,\"z\":3}"}},
    {JS,
     "{\"type\":\"object\",\"required\":[\"k\"],\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{\"k\":1}", "{\"k\":1,\"l\":2}"},
     {"{}", "{\"l\":1}"}},
    {JS,
     "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
     {"[1]", "[1, 2]", "[1,2,3]", "[\n1\n]"},
     {"[]", "[1,2,3,4]", "[1,]", "[\"a\"]"}},
    {JS,
     "{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":{\"const\":3},\"minItems\":1}",
     {"[1]", "[1,2]", "[1,2,3,3]"},
     {"[]", "[2]", "[1,3]"}},
    {JS, "{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":false}", {"[]", "[1]", "[1,2]"}, {"[1,2,3]"}},
    {JS,
     "{\"enum\":[\"red\",\"gr\\\"een\",3,null,[1,{\"a\":2.5}]]}",
     {"\"red\"", "\"gr\\\"een\"", "3", "null", "[1,{\"a\":2.5}]", "[1, {\"a\": 2.5}]"},
     {"\"blue\"", "[1]", "red"}},
    {JS, "{\"type\":\"string\",\"enum\":[\"a\",1]}", {"\"a\""}, {"1"}},
    {JS,
     "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":2}]}",
     {"1", "\"ab\"", "\"书\""},
     {"\"abc\"", "null"}},
    {JS, "{\"type\":\"string\",\"minLength\":1,\"maxLength\":3}", {"\"a\"", "\"\\n书\\u0041\""}, {"\"\"", "\"abcd\""}},
    {JS, "{\"type\":\"string\",\"pattern\":\"^[a-c]+$\"}", {"\"abc\""}, {"\"abd\"", "\"\"", "\"xabc\""}},
    {JS, "{\"type\":\"string\",\"pattern\":\"b[\\\"\\\\n]\"}", {"\"ab\\\"c\"", "\"b\\n\""}, {"\"b\"", "\"b\"\""}},
    {JS,
     "{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-28\"", "\"1999-12-31\""},
     {"\"2024-02-30\"", "\"2024-13-01\"", "\"2024-1-1\""}},
    {JS,
     "{\"type\":\"string\",\"format\":\"date-time\"}",
     {"\"2024-02-28T23:59:59Z\"", "\"2024-01-01T00:00:00.5+08:00\""},
     {"\"2024-02-28\"", "\"2024-02-28T24:00:00Z\""}},
    {JS,
     "{\"format\":\"duration\"}",
     {"\"P1D\"", "\"PT5M\"", "\"P1Y2M3DT4H5M6S\"", "\"P3W\""},
     {"\"P\"", "\"P1\"", "\"1D\""}},
    {JS, "{\"format\":\"uuid\"}", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567\""}},
    {JS, "{\"format\":\"email\"}", {"\"a.b@c-d.org\""}, {"\"a@b\"", "\"@c.org\"", "\"a..b@c.org\""}},
    {JS,
     "{\"format\":\"ipv4\"}",
     {"\"127.0.0.1\"", "\"255.255.255.255\""},
     {"\"256.1.1.1\"", "\"1.1.1\"", "\"01.1.1.1\""}},
    {JS,
     "{\"format\":\"ipv6\"}",
     {"\"::1\"", "\"2001:db8::8:800\"", "\"1:2:3:4:5:6:7:8\"", "\"::\""},
     {"\"1:2:3\"", "\"1::2::3\"", "\":1\""}},
    {JS, "{\"format\":\"uri\"}", {"\"https://a.org/b?c=d#e\"", "\"http://x:80\""}, {"\"a.org\"", "\"http://\""}},
    {JS,
     "{\"allOf\":[{\"$ref\":\"#/$defs/"
     "a\"},{\"properties\":{\"y\":{\"type\":\"integer\",\"minimum\":3}},\"required\":[\"y\"]}],"
     "\"$defs\":{\"a\":{\"type\":\"object\",\"properties\":{\"x\":{\"const\":1},\"y\":{\"maximum\":4}},\"required\":["
     "\"x\"]}}}",
     {"{\"x\":1,\"y\":3}", "{\"x\":1,\"y\":4}"},
     {"{\"x\":1}", "{\"x\":1,\"y\":2}", "{\"x\":1,\"y\":5}"}},
    {JS,
     "{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{"
     "\"type\":\"null\"}]}},"
     "\"required\":[\"v\",\"next\"]}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {JS,
     "{\"$ref\":\"#/definitions/t~1r%20ee\",\"definitions\":{\"t/r "
     "ee\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/definitions/t~1r%20ee\"}}}}",
     {"[]", "[[],[[]]]"},
     {"[1]", "[[]"}},
    {JS,
     "{\"properties\":{\"t\":{\"$id\":\"tool\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/n\"},\"b\":{\"$ref\":\"#\"}},"
     "\"$defs\":{\"n\":{\"const\":1}}}},\"$defs\":{\"n\":{\"const\":2}},\"required\":[\"t\"]}",
     {"{\"t\":{\"a\":1}}", "{\"t\":{\"b\":{\"a\":1}}}"},
     {"{\"t\":{\"a\":2}}", "{\"t\":{\"b\":{\"t\":{}}}}"}},
    {JS, "{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", {"null"}, {"1"}},
    {JS,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"anyOf\":[{\"required\":[\"a\"]}]}",
     {"{\"a\":\"\"}"},
     {"{}"}},
    {PU_GRAMMAR_JSON,
     "",
     {"{}", "{\"a\": [1, 2, {\"b\": null}]}", "{\n\t\"a\":\"}\"\n}"},
     {"[]", "1", "{\"a\"}", "{'a':1}", "{} "}},
};

static const refusal schema_refusals[] = {
    {JS, "{", "schema:1"},
    {JS, "{\"not\":{}}", "'not'"},
    {JS, "{\"properties\":{\"x\":{\"type\":\"string\",\"if\":{}}}}", "#/properties/x: 'if'"},
    {JS, "{\"type\":\"array\",\"uniqueItems\":true}", "'uniqueItems'"},
    {JS, "{\"type\":\"integer\",\"multipleOf\":3}", "'multipleOf'"},
    {JS, "{\"type\":\"strnig\"}", "no type"},
    {JS, "{\"$ref\":\"#/$defs/none\"}", "there is no"},
    {JS, "{\"$ref\":\"http://x/y\"}", "inside the schema"},
    {JS, "{\"format\":\"colour\"}", "'colour' is not known"},
    {JS, "{\"pattern\":\"a(?=b)\"}", "looking ahead"},
    {JS, "{\"type\":\"number\",\"minimum\":0.5}", "whole number"},
    {JS, "{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}", "no finite text"},
    {JS, "{\"properties\":{\"n\":{\"$ref\":\"#\"}},\"required\":[\"n\"]}", "no finite text"},
    {JS, "{\"$ref\":\"#\"}", "no finite text"},
    {JS, "false", "no finite text"},
    {JS, "{\"enum\":[]}", "no finite text"},
    {JS, "{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "no finite text"},
    {JS, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "no finite text"},
    {JS, "{\"required\":[\"x\"],\"additionalProperties\":false}", "no finite text"},
    {JS, "{\"enum\":[1],\"minimum\":0}", "'minimum' beside"},
    {JS, "{\"allOf\":[{\"allOf\":[{\"$ref\":\"#\"}]},{\"type\":\"null\"}]}", "circle"},
    {JS, "3", "a schema is an object"},
};

static void json_schemas(void **state) {
  (void)state;
  check_examples(schema_examples, PU_COUNT(schema_examples));
  check_refusals(schema_refusals, PU_COUNT(schema_refusals));
}

/* ---- masks ---- */

static bool bit(const uint64_t *bits, int32_t id) {
  return bits[id / 64] >> (id % 64) & 1;
}

/* Each token alone, byte by byte, by the plain matcher. */
static void check_mask(pu_grammar_state *s, const uint64_t *bits, const char *source) {
  pu_error e;
  for (int32_t id = 0; id < pu_tokenizer_size(tokenizer); id++) {
    pu_grammar_state *copy;
    assert_ok(pu_grammar_state_copy(s, &copy, &e), &e);
    bool want = pu_grammar_accept(copy, id);
    pu_grammar_state_free(copy);
    if (want != bit(bits, id)) {
      pu_str piece = pu_tokenizer_piece(tokenizer, id);
      fail_msg("%s: token %d (%.*s) %s", source, (int)id, (int)piece.len, piece.ptr,
               want ? "is kept out" : "is let in, but does not fit");
    }
  }
}

/* One of the allowed tokens; late: rather one that closes something. -1: none. */
static int32_t choose(const uint64_t *bits, bool late, pu_rng *r) {
  static const char *const closing[] = {"x\"", "\"}", "\"]", "\"", "}}", "}", "]", ")", "\n"};
  int32_t n = pu_tokenizer_size(tokenizer), id = -1;
  for (size_t i = 0; late && i < PU_COUNT(closing); i++) {
    char byte[8];
    snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(uint8_t)closing[i][0]);
    id = pu_tokenizer_find(tokenizer, pu_str_c(closing[i][1] ? closing[i] : byte));
    if (id >= 0 && bit(bits, id)) return id;
  }
  int32_t allowed = 0;
  for (int32_t i = 0; i < n; i++)
    if (bit(bits, i) && pu_rng_below(r, (uint64_t)++allowed) == 0) id = i;
  return allowed ? id : -1;
}

/* Random allowed tokens to an end. The text's tokens are counted; every so often the mask is checked. */
static void walk(const pu_grammar *g, const char *source, uint64_t seed, bool check, pu_buf *text) {
  pu_grammar_state *s;
  pu_error e;
  pu_rng r;
  uint64_t bits[64];
  int tokens = 0;
  pu_rng_seed(&r, seed);
  pu_buf_clear(text);
  assert_ok(pu_grammar_start(g, &s, &e), &e);
  int late = (int)pu_rng_below(&r, 60);
  while (!pu_grammar_must_end(s)) {
    if (pu_grammar_may_end(s) && (tokens > late || pu_rng_below(&r, 8) == 0)) break;
    assert_ok(pu_grammar_mask(s, bits, &e), &e);
    if (check && pu_rng_below(&r, 4) == 0) check_mask(s, bits, source);
    int32_t id = choose(bits, tokens > late, &r);
    if (id < 0) fail_msg("%s: nothing may follow '%s'", source, text->data ? text->data : "");
    assert_true(pu_grammar_accept(s, id));
    assert_ok(pu_tokenizer_bytes(tokenizer, id, text, &e), &e);
    if (++tokens > 5000) fail_msg("%s: has no end: %.300s", source, text->data);
  }
  assert_true(pu_grammar_may_end(s));
  pu_grammar_state_free(s);
}

static const char person[] =
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0,"
    "\"maximum\":150},\"id\":{\"type\":\"string\",\"pattern\":\"^[a-f0-9]{4}(-[a-z]+)?$\"},\"colour\":{\"enum\":["
    "\"red\","
    "\"green\",\"blue\"]},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":9},\"maxItems\":4},"
    "\"score\":{\"type\":\"number\",\"minimum\":-1,\"exclusiveMaximum\":2},\"next\":{\"anyOf\":[{\"$ref\":\"#\"},{"
    "\"type\":"
    "\"null\"}]},\"extra\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"}},\"additionalProperties\":"
    "{"
    "\"type\":\"integer\"}}},\"required\":[\"name\",\"age\",\"next\"],\"additionalProperties\":false}";

static void masks_equal_the_plain_matcher(void **state) {
  (void)state;
  static const struct {
    pu_grammar_kind kind;
    const char *source;
  } cases[] = {
      {JS, person},
      {PU_GRAMMAR_JSON, ""},
      {JS, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":40}"},
      {JS, "{\"type\":\"object\",\"properties\":{\"name\":true},\"additionalProperties\":true}"},
      {RE, "(a|ab|abc)*(书|书生)+[^0-9]{2,5}"},
      {RE, "[\\s\\S]*"},
      {RE, "(ab|a){3,30}c?"},
      {RE, "((a|é){1,12},){2,20}"},
      {RE, "(b{4,20}|a{7,9}){3}"},
      {BN, "root ::= e \"=\" [0-9]+\ne ::= e \"+\" t | t\nt ::= \"(\" e \")\" | [0-9]+"},
      {BN, "root ::= root root | \"(\" root \")\" | \"()\""},
      {BN, "root ::= w (ws w)*\nw ::= [a-z]+\nws ::= [ \\n]+ | w2\nw2 ::= \"-\" w2 \"-\" | \"+\""},
      {BN, "root ::= \"(\" root \"a\"? | \"x\""},
      {BN, "root ::= any \"x\\\"\" any\nany ::= .*"},
  };
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_grammar *g = compile(cases[i].kind, cases[i].source);
    for (uint64_t seed = 0; seed < 12; seed++) {
      walk(g, cases[i].source, seed, true, &text);
      if (!fits(g, pu_str_of(text.data ? text.data : "", text.len))) fail_msg("%s: %s", cases[i].source, text.data);
    }
    pu_grammar_free(g);
  }
  pu_buf_deinit(&text);
}

/* ---- texts of random walks, read by a checker that knows nothing of grammars ---- */

static bool holds(const json_t *root, const json_t *schema, const json_t *v);

static bool type_holds(const char *type, const json_t *v) {
  static const struct {
    const char *name;
    int a, b;
  } types[] = {{"object", JSON_OBJECT, -1},       {"array", JSON_ARRAY, -1}, {"string", JSON_STRING, -1},
               {"integer", JSON_INTEGER, -1},     {"null", JSON_NULL, -1},   {"number", JSON_INTEGER, JSON_REAL},
               {"boolean", JSON_TRUE, JSON_FALSE}};
  for (size_t i = 0; i < PU_COUNT(types); i++)
    if (!strcmp(types[i].name, type)) return (int)json_typeof(v) == types[i].a || (int)json_typeof(v) == types[i].b;
  fail_msg("type %s", type);
  return false;
}

static bool object_holds(const json_t *root, const json_t *schema, const json_t *v) {
  const json_t *known = json_object_get(schema, "properties"), *more = json_object_get(schema, "additionalProperties");
  const char *key;
  json_t *x;
  for (size_t i = 0; i < json_array_size(json_object_get(schema, "required")); i++)
    if (!json_object_get(v, json_string_value(json_array_get(json_object_get(schema, "required"), i)))) return false;
  json_object_foreach((json_t *)v, key, x) {
    const json_t *s = json_object_get(known, key);
    if (!s) s = more;
    if (json_is_false(s) || (s && !holds(root, s, x))) return false;
  }
  return true;
}

static bool limits_hold(const json_t *schema, const json_t *v) {
  static const struct {
    const char *key;
    int sign;
    bool exclusive;
  } limits[] = {{"minimum", 1, false}, {"maximum", -1, false}, {"exclusiveMaximum", -1, true}};
  for (size_t i = 0; i < PU_COUNT(limits); i++) {
    const json_t *l = json_object_get(schema, limits[i].key);
    double d = limits[i].sign * (json_number_value(v) - json_number_value(l));
    if (l && (d < 0 || (limits[i].exclusive && d == 0))) return false;
  }
  return true;
}

static size_t characters(const char *s) {
  size_t n = 0;
  for (; *s; s++) n += ((uint8_t)*s & 0xC0) != 0x80;
  return n;
}

static bool holds(const json_t *root, const json_t *schema, const json_t *v) {
  const json_t *x = json_object_get(schema, "anyOf"), *all = json_object_get(schema, "enum");
  bool any = !x && !all;
  if (json_object_get(schema, "$ref")) return holds(root, root, v); /* "#" is the only one here */
  for (size_t i = 0; i < json_array_size(x); i++) any |= holds(root, json_array_get(x, i), v);
  for (size_t i = 0; i < json_array_size(all); i++) any |= json_equal(json_array_get(all, i), v);
  const char *type = json_string_value(json_object_get(schema, "type"));
  if (!any || (type && !type_holds(type, v))) return false;
  if (json_is_object(v)) return object_holds(root, schema, v);
  if (json_is_number(v)) return limits_hold(schema, v);
  x = json_object_get(schema, "maxLength");
  if (x && json_is_string(v) && characters(json_string_value(v)) > (size_t)json_integer_value(x)) return false;
  x = json_object_get(schema, "maxItems");
  if (x && json_array_size(v) > (size_t)json_integer_value(x)) return false;
  for (size_t i = 0; i < json_array_size(v); i++)
    if (!holds(root, json_object_get(schema, "items"), json_array_get(v, i))) return false;
  return true;
}

static void walks_make_valid_documents(void **state) {
  (void)state;
  static const char *const sources[] = {
      person,
      "{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":-1234,\"maximum\":98765},\"maxItems\":9}",
      "{\"type\":\"number\",\"minimum\":-3,\"maximum\":12}",
      "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"integer\"},\"na\":{\"type\":\"null\"}},"
      "\"additionalProperties\":{\"type\":\"boolean\"}}"};
  pu_buf text;
  pu_error e;
  pu_buf_init(&text, 1 << 20);
  for (size_t i = 0; i < PU_COUNT(sources); i++) {
    pu_grammar *g = compile(JS, sources[i]);
    json_t *schema, *v;
    assert_ok(pu_json_parse("schema", pu_str_c(sources[i]), &schema, &e), &e);
    for (uint64_t seed = 0; seed < 150; seed++) {
      walk(g, sources[i], seed, false, &text);
      assert_ok(pu_json_parse(text.data, pu_str_of(text.data, text.len), &v, &e), &e);
      if (!holds(schema, schema, v)) fail_msg("%s: %s", sources[i], text.data);
      json_decref(v);
    }
    json_decref(schema);
    pu_grammar_free(g);
  }
  pu_buf_deinit(&text);
}

/* Nesting has an end, and an answer that came near to it can still be closed. */
static void depth_has_a_limit(void **state) {
  (void)state;
  static const char *const sources[] = {"root ::= \"(\" root \")\" | \"a\" root \"b\" | \"x\"",
                                        "root ::= \"(\" \"(\" root \")\" \")\" | \"x\"",
                                        "root ::= p | \"x\"\np ::= \"(\" q \")\"\nq ::= \"[\" root \"]\" | root"};
  pu_error e;
  uint64_t bits[64];
  for (size_t i = 0; i < PU_COUNT(sources); i++) {
    pu_grammar *g = compile(BN, sources[i]);
    pu_grammar_state *s;
    assert_ok(pu_grammar_start(g, &s, &e), &e);
    int depth = 0;
    while (pu_grammar_accept_text(s, pu_str_c(i == 2 && depth % 2 ? "[" : "("))) depth++;
    assert_in_range(depth, 300, 2100);
    assert_ok(pu_grammar_mask(s, bits, &e), &e);
    check_mask(s, bits, sources[i]);
    int closed = 0;
    assert_true(pu_grammar_accept_text(s, pu_str_c("x")));
    while (pu_grammar_accept_text(s, pu_str_c(")")) || pu_grammar_accept_text(s, pu_str_c("]"))) closed++;
    assert_int_equal(closed, depth);
    assert_true(pu_grammar_must_end(s) && pu_grammar_may_end(s));
    pu_grammar_state_free(s);
    pu_grammar_free(g);
  }
}

/* Very many ways lead through the same frames: each is gone once. */
static void ambiguity_is_bearable(void **state) {
  (void)state;
  static const char *const sources[] = {"root ::= \"(\" root \"a\"? | \"x\"",
                                        "root ::= \"(\" root (\"a\" | \"aa\" | \"aaa\")? | \"x\"",
                                        "root ::= root root root | root root | \"a\" | \"(\" | \"x\""};
  for (size_t i = 0; i < PU_COUNT(sources); i++) {
    pu_grammar *g = compile(BN, sources[i]);
    pu_grammar_state *s;
    pu_error e;
    uint64_t bits[64];
    assert_ok(pu_grammar_start(g, &s, &e), &e);
    for (int k = 0; k < 100; k++) assert_true(pu_grammar_accept_text(s, pu_str_c("(")));
    assert_true(pu_grammar_accept_text(s, pu_str_c("x")));
    assert_ok(pu_grammar_mask(s, bits, &e), &e);
    check_mask(s, bits, sources[i]);
    pu_grammar_state_free(s);
    pu_grammar_free(g);
  }
}

/* The ways to read some texts grow with each byte: at some point that is said, and told apart from what does not fit.
 */
static void giving_up_is_said(void **state) {
  (void)state;
  pu_grammar *g = compile(BN, "root ::= (expr \"=\" expr \"\\n\")+\nexpr ::= expr [-+] num | num\n"
                              "num ::= (expr \"=\" expr [^x] .)?");
  pu_grammar_state *s;
  pu_error e;
  int taken = 0;
  assert_ok(pu_grammar_start(g, &s, &e), &e);
  assert_false(pu_grammar_accept_text(s, pu_str_c("x")));
  assert_false(pu_grammar_gave_up(s));
  while (taken < 1000 && pu_grammar_accept_text(s, pu_str_c("="))) taken++;
  assert_in_range(taken, 2, 999);
  assert_true(pu_grammar_gave_up(s));
  pu_grammar_state_free(s);
  pu_grammar_free(g);
}

/* Copies go their own ways; what does not fit changes nothing. */
static void states_are_copied(void **state) {
  (void)state;
  pu_grammar *g = compile(BN, "root ::= \"a\" root \"b\" | \"c\"");
  pu_grammar_state *s, *t;
  pu_error e;
  assert_ok(pu_grammar_start(g, &s, &e), &e);
  assert_true(pu_grammar_accept_text(s, pu_str_c("aaa")));
  assert_ok(pu_grammar_state_copy(s, &t, &e), &e);
  assert_true(pu_grammar_accept_text(s, pu_str_c("cbbb")));
  assert_true(pu_grammar_must_end(s));
  assert_false(pu_grammar_accept_text(t, pu_str_c("acbbbbb")));
  assert_false(pu_grammar_may_end(t));
  assert_true(pu_grammar_accept_text(t, pu_str_c("acbbbb")));
  assert_true(pu_grammar_must_end(t));
  assert_false(pu_grammar_accept(t, -1));
  assert_false(pu_grammar_accept(t, 1 << 20));
  assert_false(pu_grammar_accept(t, pu_tokenizer_eos(tokenizer)));
  pu_grammar_state_free(s);
  pu_grammar_state_free(t);
  pu_grammar_free(g);
}

/* ---- answers ---- */

enum { MODEL_VOCAB = 512, CONTEXT = 256 };

static pu_engine *random_model(pu_backend **be, pu_model **m, int guess) {
  const pu_hparams hp = {.vocab = MODEL_VOCAB,
                         .hidden = 32,
                         .ffn = 64,
                         .layers = 1,
                         .heads = 2,
                         .kv_heads = 1,
                         .head_dim = 16,
                         .max_position = CONTEXT,
                         .norm_eps = 1e-5,
                         .bos = 1,
                         .eos = {2},
                         .n_eos = 1,
                         .rope = {.base = 1e4, .factor = 1}};
  pu_engine *en;
  pu_error e;
  pu_model_options o = {.dtype = PU_F32};
  assert_ok(pu_backend_open("cpu", 1, be, &e), &e);
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 3, *be, &o, m, &e), &e);
  assert_ok(pu_engine_over(*m, tokenizer, &(pu_engine_options){.guess = guess}, &en, &e), &e);
  return en;
}

static pu_session *answer(pu_engine *en, const pu_grammar *g, uint64_t seed, int64_t max_tokens, bool ignore_eos) {
  pu_session *s;
  pu_error e;
  pu_sampling how = pu_sampling_default();
  how.temperature = 1.5;
  how.seed = seed;
  how.grammar = g;
  how.max_tokens = max_tokens;
  how.ignore_eos = ignore_eos;
  assert_ok(pu_session_open(en, &s, &e), &e);
  assert_ok(pu_session_append(s, (int32_t[]){1, 50, 70}, 3, &e), &e);
  assert_ok(pu_session_start(s, &how, NULL, NULL, &e), &e);
  return s;
}

static const struct {
  pu_grammar_kind kind;
  const char *source;
} forms[] = {{JS, "{\"type\":\"object\",\"properties\":{\"colour\":{\"enum\":[\"red\",\"blue\"]},\"age\":{\"type\":"
                  "\"integer\",\"minimum\":7,\"maximum\":120}},\"required\":[\"colour\",\"age\"]}"},
             {RE, "[a-z]{3,9}(书生|!)"},
             {BN, "root ::= \" the\" (\" \" [a-c]){2,4} \".\""}};
enum { FORMS = 3, ANSWERS = 24 };

/* Answers in one batch, each to its own form; their texts, which are checked, go into `all`. */
static void answer_all(int guess, pu_buf *all) {
  pu_backend *be;
  pu_model *m;
  pu_error e;
  pu_engine *en = random_model(&be, &m, guess);
  pu_grammar *g[FORMS];
  pu_session *s[ANSWERS];
  for (int i = 0; i < FORMS; i++)
    assert_ok(pu_engine_grammar(en, forms[i].kind, pu_str_c(forms[i].source), &g[i], &e), &e);
  for (int i = 0; i < ANSWERS; i++) s[i] = answer(en, g[i % FORMS], (uint64_t)i, 0, i % 2);
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
  for (int i = 0; i < ANSWERS; i++) {
    pu_str text = pu_session_text(s[i]);
    assert_int_equal(pu_session_finish(s[i]), PU_FINISH_STOP);
    if (!fits(g[i % FORMS], text)) fail_msg("%s: %.*s", forms[i % FORMS].source, (int)text.len, text.ptr);
    pu_buf_append(all, text.ptr, text.len);
    pu_session_close(s[i]);
  }
  for (int i = 0; i < FORMS; i++) pu_grammar_free(g[i]);
  pu_engine_free(en);
  pu_model_free(m);
  be->close(be);
}

/* A random model says nothing but what the grammars of its sessions allow, and guessing ahead changes nothing. */
static void answers_fit(void **state) {
  (void)state;
  pu_buf plain, guessed;
  pu_buf_init(&plain, 1 << 20);
  pu_buf_init(&guessed, 1 << 20);
  answer_all(0, &plain);
  answer_all(5, &guessed);
  assert_string_equal(plain.data, guessed.data);
  pu_buf_deinit(&plain);
  pu_buf_deinit(&guessed);
}

/* Where the text may end but need not, the model's own ending ends it; without endings only a limit does. */
static void answers_end(void **state) {
  (void)state;
  pu_backend *be;
  pu_model *m;
  pu_error e;
  pu_grammar *g;
  size_t n;
  pu_engine *en = random_model(&be, &m, 0);
  assert_ok(pu_engine_grammar(en, RE, pu_str_c("(ab)*"), &g, &e), &e);
  int stopped = 0;
  for (uint64_t seed = 0; seed < 20; seed++) {
    pu_session *s = answer(en, g, seed, 30, false);
    while (pu_session_finish(s) == PU_FINISH_NONE) assert_ok(pu_engine_step(en, &(bool){0}, &e), &e);
    stopped += pu_session_finish(s) == PU_FINISH_STOP;
    if (pu_session_finish(s) == PU_FINISH_STOP) assert_true(fits(g, pu_session_text(s)));
    pu_session_close(s);
  }
  assert_in_range(stopped, 1, 20);
  pu_session *s = answer(en, g, 1, 30, true);
  while (pu_session_finish(s) == PU_FINISH_NONE) assert_ok(pu_engine_step(en, &(bool){0}, &e), &e);
  assert_int_equal(pu_session_finish(s), PU_FINISH_LENGTH);
  pu_session_answer(s, &n);
  assert_int_equal(n, 30);
  /* another tokenizer's grammar */
  pu_tokenizer *small;
  pu_grammar_vocab *v;
  pu_grammar *other;
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  spm_begin(&b, true);
  spm_end(&b, (spm_settings){.byte_fallback = true});
  assert_ok(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &small, &e), &e);
  assert_ok(pu_grammar_vocab_create(small, &v, &e), &e);
  assert_ok(pu_grammar_compile(RE, pu_str_c("a"), v, &other, &e), &e);
  pu_sampling how = pu_sampling_default();
  how.grammar = other;
  assert_int_equal(pu_session_start(s, &how, NULL, NULL, &e), PU_ERR_USAGE);
  pu_session_close(s);
  pu_grammar_free(other);
  pu_grammar_vocab_free(v);
  pu_tokenizer_free(small);
  pu_buf_deinit(&b);
  pu_grammar_free(g);
  pu_engine_free(en);
  pu_model_free(m);
  be->close(be);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(regular_expressions),
                                     cmocka_unit_test(gbnf),
                                     cmocka_unit_test(json_schemas),
                                     cmocka_unit_test(masks_equal_the_plain_matcher),
                                     cmocka_unit_test(walks_make_valid_documents),
                                     cmocka_unit_test(depth_has_a_limit),
                                     cmocka_unit_test(ambiguity_is_bearable),
                                     cmocka_unit_test(giving_up_is_said),
                                     cmocka_unit_test(states_are_copied),
                                     cmocka_unit_test(answers_fit),
                                     cmocka_unit_test(answers_end)};
  return cmocka_run_group_tests(tests, make_vocabulary, free_vocabulary);
}
