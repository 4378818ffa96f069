/* Rule-made text: the same each time, true, and free of held-out operand pairs. The scan knows each phrasing by a
 * pattern; a line with two numbers that no pattern finds fails the test, so no phrasing escapes it. */
#include "tests/test.h"

#include <stdlib.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "puyu/data.h"

#define N     "(\\d+)"
#define WORDS "[^\\d。]*"

/* op: + or -, r: - with the operands exchanged, t: tens and ones, 0: two numbers that nothing is done with. Group 3,
 * where there is one, is a third operand. */
static const struct {
  char op;
  const char *text;
} patterns[] = {
    {'+', N "(?: ?\\+ ?|加上?)" N "(?:(?: ?\\+ ?|加)" N ")?"},
    {'-', N "(?: ?- ?|减去?)" N "(?:(?: ?- ?|减)" N ")?"},
    {'+', N "与" N "的和"},
    {'+', N "和" N "相加"},
    {'+', N " plus " N},
    {'+', "sum of " N " and " N},
    {'+', "Add " N " and " N},
    {'+', "有" N WORDS "，又得到" N},
    {'+', "有" N "本书，又放上" N},
    {'+', "卖出" N "张票，下午卖出" N},
    {'+', "走了" N "步，再走了" N},
    {'+', "has " N " \\w+ and gets " N},
    {'+', "are " N " books on the shelf and " N " more"},
    {'+', "sells " N " tickets in the morning and " N},
    {'+', "walks " N " steps and then " N},
    {'-', N "与" N "的差"},
    {'-', "从" N "里去掉" N},
    {'-', N " minus " N},
    {'-', "difference of " N " and " N},
    {'r', "Take " N " from " N},
    {'-', "有" N WORDS "，送给朋友" N},
    {'-', "有" N "只鸟，飞走了" N},
    {'-', "有" N "个杯子，卖掉" N},
    {'-', "有" N "页，" WORDS "读了" N},
    {'-', "has " N " \\w+ and gives away " N},
    {'-', "are " N " birds in a tree and " N},
    {'-', "has " N " cups and sells " N},
    {'-', "has " N " pages and \\w+ has read " N},
    {'-', "有" N "个\\D*给了\\D*" N "个"},
    {'-', "had " N " \\w+\\.\\D*gave \\w+ " N},
    {'t', "是" N "个十和" N "个一"},
    {'t', "is " N " tens and " N " ones"},
    {0, N "比" N "[大小]"},
    {0, N " is (?:greater|less) than " N},
    {0, "^数数：" N "、" N},
    {0, "^Count: " N ", " N},
    {0, "^数是" N "。再写一遍：" N "。$"},
    {0, "^The number is " N "\\. Once more: " N "\\.$"},
};

typedef struct scan {
  pcre2_code *code[PU_COUNT(patterns)];
  pcre2_match_data *match;
  int found[PU_COUNT(patterns)];
  bool seen[2][100][100]; /* pairs within 100 */
  uint64_t hash;
  int documents, valid;
  double bytes[PU_SYNTH_KINDS];
  int lang[2];
  pu_buf shapes; /* plain lines with their digits as 0 */
} scan;

static void pair_check(scan *s, char op, int a, int b, const char *line) {
  if (op == '-' && a < b) fail_msg("a negative difference: %s", line);
  if (pu_synth_heldout(op, a, b)) fail_msg("held out: %d %c %d in: %s", a, op, b, line);
  if (a < 100 && b < 100) s->seen[op == '-'][a][b] = true;
}

static int group(const PCRE2_SIZE *span, uint32_t i, const char *line) {
  return span[2 * i] == PCRE2_UNSET ? -1 : atoi(line + span[2 * i]);
}

/* Checks every use of pattern p in the line; returns how many there were, and the first result in *result. */
static int pattern_check(scan *s, size_t p, const char *line, size_t len, int *result) {
  int uses = 0;
  for (size_t at = 0; at < len;) {
    int n = pcre2_match(s->code[p], (PCRE2_SPTR)line, len, at, 0, s->match, NULL);
    if (n <= 0) break;
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->match);
    int a = group(span, 1, line), b = group(span, 2, line), c = n > 3 ? group(span, 3, line) : -1;
    char op = patterns[p].op;
    if (op == 'r') {
      int swapped = a;
      a = b;
      b = swapped;
      op = '-';
    }
    if (op == 't') {
      a *= 10;
      op = '+';
    }
    int value = op == '+' ? a + b : a - b;
    if (op) pair_check(s, op, a, b, line);
    if (op && c >= 0) pair_check(s, op, value, c, line);
    if (uses++ == 0) *result = op ? value : -1;
    s->found[p]++;
    at = span[1];
  }
  return uses;
}

static int number_count(const char *line, int *last) {
  int n = 0;
  for (const char *c = line; *c; c++) {
    if (*c < '0' || *c > '9') continue;
    *last = atoi(c);
    n++;
    while (c[1] >= '0' && c[1] <= '9') c++;
  }
  return n;
}

static void line_check(scan *s, pu_synth_kind kind, const char *line) {
  int last = -1, numbers = number_count(line, &last), uses = 0, first = -1;
  size_t len = strlen(line);
  for (size_t p = 0; p < PU_COUNT(patterns); p++) {
    int result = -1, n = pattern_check(s, p, line, len, &result);
    if (n > 0 && first < 0) first = result;
    uses += n;
  }
  if (numbers >= 2 && uses == 0) fail_msg("no pattern knows: %s", line);
  if (kind != PU_SYNTH_ARITHMETIC) return;
  assert_true(uses > 0);
  if (first != last) fail_msg("wrong answer: %s", line); /* each line ends with the result of what it asks */
  if (strncmp(line, "问", 3) == 0 || strncmp(line, "Q:", 2) == 0) {
    for (const char *c = line; *c; c++)
      if (*c < '0' || *c > '9')
        pu_buf_putc(&s->shapes, *c);
      else if (c == line || c[-1] < '0' || c[-1] > '9')
        pu_buf_putc(&s->shapes, '0');
    pu_buf_putc(&s->shapes, '\n');
    if (s->shapes.len > 1 << 16) s->shapes.len = 1 << 15;
  }
}

static pu_err on_document(void *arg, const pu_synth_document *d, pu_error *e) {
  (void)e;
  scan *s = arg;
  assert_true(pu_utf8_valid(d->content));
  assert_null(memchr(d->content.ptr, '{', d->content.len)); /* a slot that was not filled */
  assert_null(memchr(d->content.ptr, '}', d->content.len));
  s->hash = pu_hash64(d->content.ptr, d->content.len, s->hash ^ pu_hash64(d->id, strlen(d->id), d->valid));
  s->documents++;
  s->valid += d->valid;
  s->bytes[d->kind] += (double)d->content.len;
  s->lang[strcmp(d->lang, "en") == 0]++;
  char text[1 << 14];
  assert_true(d->content.len > 0 && d->content.len < sizeof text);
  memcpy(text, d->content.ptr, d->content.len);
  text[d->content.len] = '\0';
  char *rest = text;
  for (char *line; (line = strsep(&rest, "\n"));) line_check(s, d->kind, line);
  return PU_OK;
}

static scan *scan_run(pu_synth_options o) {
  scan *s = calloc(1, sizeof *s);
  for (size_t p = 0; p < PU_COUNT(patterns); p++) {
    int number;
    PCRE2_SIZE where;
    s->code[p] = pcre2_compile((PCRE2_SPTR)patterns[p].text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_NO_UTF_CHECK,
                               &number, &where, NULL);
    assert_non_null(s->code[p]);
    pcre2_jit_compile(s->code[p], PCRE2_JIT_COMPLETE);
  }
  s->match = pcre2_match_data_create(8, NULL);
  pu_buf_init(&s->shapes, 1 << 20);
  pu_error e;
  const pu_synth_sink sink = {.document = on_document, .arg = s};
  assert_ok(pu_synth_run(&o, &sink, &e), &e);
  return s;
}

static void scan_free(scan *s) {
  for (size_t p = 0; p < PU_COUNT(patterns); p++) pcre2_code_free(s->code[p]);
  pcre2_match_data_free(s->match);
  pu_buf_deinit(&s->shapes);
  free(s);
}

static void test_held_out(void **state) {
  (void)state;
  pu_synth_options o = pu_synth_defaults();
  o.bytes = 4 << 20;
  o.seed = 1234;
  scan *s = scan_run(o);
  for (size_t p = 0; p < PU_COUNT(patterns); p++)
    if (s->found[p] == 0) fail_msg("never made: %s", patterns[p].text);
  double total = s->bytes[0] + s->bytes[1] + s->bytes[2];
  assert_in_range(s->bytes[PU_SYNTH_ARITHMETIC] / total * 100, 50, 70); /* 1 : 3 : 1 */
  assert_in_range(s->bytes[PU_SYNTH_STORIES] / total * 100, 12, 28);
  assert_in_range(s->lang[0] * 100 / s->documents, 45, 55);
  assert_in_range(s->valid * 1000 / s->documents, 7, 13);
  /* What is held out is a tenth, symmetric for sums; what is not is nearly all there. */
  int pairs = 0, held = 0, there = 0;
  for (int a = 0; a < 100; a++)
    for (int b = 0; b < 100; b++) {
      assert_int_equal(pu_synth_heldout('+', a, b), pu_synth_heldout('+', b, a));
      for (int minus = 0; minus < 2; minus++) {
        if (minus ? a < b : a + b >= 100) continue;
        pairs++;
        held += pu_synth_heldout(minus ? '-' : '+', a, b);
        there += s->seen[minus][a][b];
      }
    }
  assert_in_range(held * 1000 / pairs, 80, 120);
  assert_true(there >= (pairs - held) * 95 / 100);
  scan_free(s);
}

static void test_ranges(void **state) {
  (void)state;
  pu_synth_options o = pu_synth_defaults();
  o.documents = 2000;
  o.within[0] = true;
  o.weights[PU_SYNTH_STORIES] = o.weights[PU_SYNTH_FACTS] = 0;
  scan *s = scan_run(o);
  assert_true(s->bytes[PU_SYNTH_ARITHMETIC] > 0);
  assert_true(s->bytes[PU_SYNTH_STORIES] == 0 && s->bytes[PU_SYNTH_FACTS] == 0);
  scan_free(s);
}

static void test_deterministic(void **state) {
  (void)state;
  pu_synth_options o = pu_synth_defaults();
  o.documents = 500;
  scan *a = scan_run(o), *b = scan_run(o);
  assert_int_equal(a->documents, 500);
  assert_int_equal(a->hash, b->hash);
  o.seed++;
  scan *c = scan_run(o);
  assert_int_not_equal(a->hash, c->hash);
  scan_free(a);
  scan_free(b);
  scan_free(c);
}

typedef struct questions {
  int n[2][2];
  scan *s;
  char previous[256];
} questions;

static pu_err on_question(void *arg, const pu_synth_question *q, pu_error *e) {
  (void)e;
  questions *all = arg;
  assert_true(pu_synth_heldout(q->op, q->a, q->b));
  assert_int_equal(atoi(q->answer), q->op == '+' ? q->a + q->b : q->a - q->b);
  assert_true(q->a < q->within && q->b < q->within && atoi(q->answer) >= 0 && atoi(q->answer) < q->within);
  assert_string_not_equal(q->prompt, all->previous);
  snprintf(all->previous, sizeof all->previous, "%s", q->prompt);
  all->n[q->within == 1000][q->op == '-']++;
  /* Training knows the phrasing: with digits taken for 0 it is in the text. */
  pu_buf shape;
  pu_buf_init(&shape, 1 << 12);
  for (const char *c = q->prompt; *c; c++)
    if (*c < '0' || *c > '9')
      pu_buf_putc(&shape, *c);
    else if (c[-1] < '0' || c[-1] > '9')
      pu_buf_putc(&shape, '0');
  pu_buf_puts(&shape, strcmp(q->lang, "zh") == 0 ? "0。" : " 0.");
  assert_non_null(memmem(all->s->shapes.data, all->s->shapes.len, shape.data, shape.len));
  pu_buf_deinit(&shape);
  return PU_OK;
}

static void test_questions(void **state) {
  (void)state;
  pu_synth_options o = pu_synth_defaults();
  o.documents = 500;
  questions all = {.s = scan_run(o)};
  pu_error e;
  const pu_synth_sink sink = {.question = on_question, .arg = &all};
  assert_ok(pu_synth_run(&o, &sink, &e), &e);
  for (int i = 0; i < 4; i++) assert_int_equal(all.n[i / 2][i % 2], 250);
  scan_free(all.s);
}

static pu_err stop(void *arg, const pu_synth_document *d, pu_error *e) {
  (void)d;
  ++*(int *)arg;
  return pu_fail(e, PU_ERR_STOPPED, "enough");
}

static void test_errors(void **state) {
  (void)state;
  pu_error e;
  int calls = 0;
  pu_synth_options o = pu_synth_defaults();
  const pu_synth_sink sink = {.document = stop, .arg = &calls};
  assert_int_equal(pu_synth_run(&o, &sink, &e), PU_ERR_STOPPED);
  assert_int_equal(calls, 1);
  o.weights[0] = -1;
  assert_int_equal(pu_synth_run(&o, &sink, &e), PU_ERR_USAGE);
  o = pu_synth_defaults();
  o.bytes = 0;
  assert_int_equal(pu_synth_run(&o, &sink, &e), PU_ERR_USAGE);
  assert_int_equal(calls, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_held_out),  cmocka_unit_test(test_ranges), cmocka_unit_test(test_deterministic),
      cmocka_unit_test(test_questions), cmocka_unit_test(test_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
