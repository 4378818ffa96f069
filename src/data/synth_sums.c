/* Sums and differences. Every phrasing is a row of a table; every pair of operands that is written down, the steps of a
 * worked calculation included, was asked of pu_synth_heldout first.
 *
 * What small models need (Lee et al. 2023, "Teaching arithmetic to small transformers"): digits as single tokens, many
 * different pairs, and some text that shows the digits' own work (columns, carries, ones first). So most documents are
 * runs of plain sums, and one in fourteen is worked out. */
#include "src/data/synth.h"

/* The salt was changed after shares and settings had been chosen by looking at another tenth. */
#define HELDOUT_SALT 0x707579752d32u

bool pu_synth_heldout(char op, int a, int b) {
  if (op == '+' && a > b) {
    int swapped = a;
    a = b;
    b = swapped;
  }
  if (op == '-' && a < b) return false; /* never asked */
  return pu_random_at(HELDOUT_SALT, (uint64_t)(unsigned char)op, (uint64_t)a << 32 | (uint64_t)b) % 10 == 0;
}

typedef struct sum {
  char op;
  int a, b;
} sum;

static sum sum_pick(pu_rng *r, char op, int within) {
  for (;;) {
    int a = (int)pu_rng_below(r, (uint64_t)within), b = (int)pu_rng_below(r, (uint64_t)within);
    if (op == '-' && a < b) continue;
    if (op == '+' && a + b >= within) continue;
    if (!pu_synth_heldout(op, a, b)) return (sum){op, a, b};
  }
}

void pu_synth_pair(pu_rng *r, char op, int within, int *a, int *b) {
  sum s = sum_pick(r, op, within);
  *a = s.a;
  *b = s.b;
}

enum { MOST_DIGITS = 7 };

static int of_digits(pu_rng *r, int digits) {
  int low = 1;
  for (int i = 1; i < digits; i++) low *= 10;
  return low + (int)pu_rng_below(r, (uint64_t)low * 9);
}

void pu_synth_large_pair(pu_rng *r, char op, int *a, int *b) {
  do {
    *a = of_digits(r, 1 + (int)pu_rng_below(r, MOST_DIGITS));
    *b = of_digits(r, 1 + (int)pu_rng_below(r, MOST_DIGITS));
  } while ((op == '-' && *a < *b) || (*a < 1000 && *b < 1000 && *a + (op == '+' ? *b : 0) < 1000));
}

static int result(sum s) {
  return s.op == '+' ? s.a + s.b : s.a - s.b;
}

static void fill(const char *template, sum s, pu_buf *out) {
  char a[16], b[16], c[16];
  snprintf(a, sizeof a, "%d", s.a);
  snprintf(b, sizeof b, "%d", s.b);
  snprintf(c, sizeof c, "%d", result(s));
  const pu_slot slots[] = {{"a", a}, {"b", b}, {"c", c}};
  pu_synth_fill(template, slots, PU_COUNT(slots), out);
}

/* ---- phrasings: [language][0 sum, 1 difference] ------------------------------------------------------------------ */

static const char *const plain[PU_LANGS][2] = {{"{a}加{b}等于多少？", "{a}减{b}等于多少？"},
                                               {"What is {a} + {b}?", "What is {a} - {b}?"}};
static const char *const plain_marks[PU_LANGS][2] = {{"问：", "答："}, {"Q: ", " A:"}};
static const char *const plain_answer[PU_LANGS] = {"{c}。", " {c}."};
static const char *const replies[PU_LANGS] = {"答案是%d。", "The answer is %d."};

static const char *const symbols[PU_LANGS][2] = {{"{a}+{b}={c}", "{a}-{b}={c}"},
                                                 {"{a} + {b} = {c}", "{a} - {b} = {c}"}};

static const char *const other[PU_LANGS][2][4] = {
    {{"{a}加上{b}是{c}。", "{a}与{b}的和是{c}。", "计算：{a}加{b}，得{c}。", "{a}和{b}相加，一共是{c}。"},
     {"{a}减去{b}是{c}。", "{a}与{b}的差是{c}。", "计算：{a}减{b}，得{c}。", "从{a}里去掉{b}，还剩{c}。"}},
    {{"{a} plus {b} is {c}.", "The sum of {a} and {b} is {c}.", "Add {a} and {b} to get {c}.",
      "How much is {a} plus {b}? It is {c}."},
     {"{a} minus {b} is {c}.", "The difference of {a} and {b} is {c}.", "Take {b} from {a} to get {c}.",
      "How much is {a} minus {b}? It is {c}."}}};

static const char *const problems[PU_LANGS][2][4] = {
    {{"{name}有{a}{thing}，又得到{b}{thing}。现在一共有多少？答：{c}。",
      "书架上有{a}本书，又放上{b}本书。现在有几本？答：{c}。",
      "上午卖出{a}张票，下午卖出{b}张票。共卖出几张？答：{c}。",
      "{name}先走了{a}步，再走了{b}步。一共走了几步？答：{c}。"},
     {"{name}有{a}{thing}，送给朋友{b}{thing}。还剩多少？答：{c}。",
      "树上有{a}只鸟，飞走了{b}只鸟。还有几只？答：{c}。", "商店有{a}个杯子，卖掉{b}个杯子。还有几个？答：{c}。",
      "一本书有{a}页，{name}读了{b}页。还有几页没读？答：{c}。"}},
    {{"{name} has {a} {thing} and gets {b} more. How many now? A: {c}.",
      "There are {a} books on the shelf and {b} more are put there. How many now? A: {c}.",
      "A shop sells {a} tickets in the morning and {b} in the evening. How many in all? A: {c}.",
      "{name} walks {a} steps and then {b} steps. How many steps in all? A: {c}."},
     {"{name} has {a} {thing} and gives away {b}. How many are left? A: {c}.",
      "There are {a} birds in a tree and {b} fly away. How many are left? A: {c}.",
      "A shop has {a} cups and sells {b}. How many are left? A: {c}.",
      "A book has {a} pages and {name} has read {b}. How many are left? A: {c}."}}};
static const char *const names[PU_LANGS][8] = {{"小明", "小红", "小华", "丽丽", "强强", "小雨", "乐乐", "妞妞"},
                                               {"Tom", "Anna", "Ben", "Lily", "Sam", "Mia", "Jack", "Rose"}};
static const char *const things[PU_LANGS][6] = {{"个苹果", "支铅笔", "颗糖", "张卡片", "块石头", "朵花"},
                                                {"apples", "pencils", "sweets", "cards", "stones", "flowers"}};

void pu_synth_ask(char op, int a, int b, int lang, pu_buf *out) {
  fill(plain[lang][op == '-'], (sum){op, a, b}, out);
}

void pu_synth_reply(int value, int lang, pu_buf *out) {
  pu_buf_printf(out, replies[lang], value);
}

void pu_synth_plain(char op, int a, int b, int lang, bool answer, pu_buf *out) {
  const sum s = {op, a, b};
  pu_buf_puts(out, plain_marks[lang][0]);
  fill(plain[lang][op == '-'], s, out);
  pu_buf_puts(out, plain_marks[lang][1]);
  if (answer) fill(plain_answer[lang], s, out);
}

/* ---- worked out, digit by digit ---------------------------------------------------------------------------------- */

/* One column: x and y are its digits, in what was carried or borrowed. */
typedef struct column {
  int x, y, in;
} column;

static int columns_of(sum s, column *c) {
  int n = 0, in = 0;
  for (int a = s.a, b = s.b; a > 0 || b > 0 || in > 0 || n == 0; a /= 10, b /= 10, n++) {
    c[n] = (column){a % 10, b % 10, in};
    in = s.op == '+' ? (a % 10 + b % 10 + in) / 10 : a % 10 - b % 10 - in < 0;
  }
  return n;
}

/* May every step be written down? A column is (x op y) op in, or, with a borrow, (x + 10 - in) - y. */
static bool columns_allowed(sum s, const column *c, int n) {
  for (int i = 0; i < n; i++) {
    column k = c[i];
    if (s.op == '+') {
      if (pu_synth_heldout('+', k.x, k.y) || (k.in && pu_synth_heldout('+', k.x + k.y, k.in))) return false;
      continue;
    }
    int top = k.x - k.in < k.y ? k.x + 10 : k.x;
    if ((k.in && pu_synth_heldout('-', top, k.in)) || pu_synth_heldout('-', top - k.in, k.y)) return false;
  }
  return true;
}

static const char *const places[PU_LANGS][4] = {{"个位", "十位", "百位", "千位"},
                                                {"ones", "tens", "hundreds", "thousands"}};

static void column_write(char op, column k, const char *place, int lang, pu_buf *out) {
  bool zh = lang == PU_ZH;
  if (op == '+') {
    int total = k.x + k.y + k.in;
    pu_buf_printf(out, zh ? "%s：%d加%d" : " %s: %d + %d", place, k.x, k.y);
    if (k.in) pu_buf_printf(out, zh ? "加%d" : " + %d", k.in);
    pu_buf_printf(out, zh ? "得%d，写%d" : " = %d, write %d", total, total % 10);
    pu_buf_puts(out, total < 10 ? (zh ? "。" : ".") : (zh ? "进1。" : " carry 1."));
    return;
  }
  bool borrow = k.x - k.in < k.y;
  int top = borrow ? k.x + 10 : k.x;
  pu_buf_printf(out, zh ? "%s：" : " %s: ", place);
  if (borrow) pu_buf_puts(out, zh ? "借1，" : "borrow 1, ");
  pu_buf_printf(out, zh ? "%d减" : "%d - ", top);
  if (k.in) pu_buf_printf(out, zh ? "%d减" : "%d - ", k.in);
  pu_buf_printf(out, zh ? "%d得%d。" : "%d = %d.", k.y, top - k.in - k.y);
}

/* "竖式：37加45。个位：7加5得12，写2进1。十位：3加4加1得8，写8。答：82。" */
static void worked(pu_rng *r, sum s, int lang, int within, pu_buf *out) {
  column c[8];
  int n = columns_of(s, c);
  while (!columns_allowed(s, c, n)) {
    s = sum_pick(r, s.op, within);
    n = columns_of(s, c);
  }
  bool zh = lang == PU_ZH;
  fill(zh            ? (s.op == '+' ? "竖式：{a}加{b}。" : "竖式：{a}减{b}。")
       : s.op == '+' ? "Work out {a} + {b}."
                     : "Work out {a} - {b}.",
       s, out);
  for (int i = 0; i < n; i++) column_write(s.op, c[i], places[lang][PU_MIN(i, 3)], lang, out);
  fill(zh ? "答：{c}。" : " A: {c}.", s, out);
}

/* Ones first: the order in which the digits can be known. "37加45，从个位写起：2、8。答：82。" */
static void reversed(sum s, int lang, pu_buf *out) {
  bool zh = lang == PU_ZH;
  fill(zh            ? (s.op == '+' ? "{a}加{b}，从个位写起：" : "{a}减{b}，从个位写起：")
       : s.op == '+' ? "{a} + {b}, ones first: "
                     : "{a} - {b}, ones first: ",
       s, out);
  int rest = result(s);
  do {
    pu_buf_printf(out, "%d%s", rest % 10, rest < 10 ? "" : zh ? "、" : ", ");
    rest /= 10;
  } while (rest > 0);
  fill(zh ? "。答：{c}。" : ". A: {c}.", s, out);
}

/* ---- documents --------------------------------------------------------------------------------------------------- */

typedef enum form { PLAIN, SYMBOLS, OTHER, WORKED, REVERSED, PROBLEM } form;

/* Out of 100 documents. A small model learns carrying from many sums in few phrasings. Measured on held-out sums within
 * 100, two million parameters, six million tokens of text: 56 plain documents in 100 gave 63 % right answers, 100 gave
 * 97 %, and 40 of bare symbols beside 30 plain ones 40 %. So the other phrasings are there, but rare. */
static const struct {
  form form;
  int share, least, most; /* sums a document */
} forms[] = {{PLAIN, 80, 6, 14}, {SYMBOLS, 4, 8, 20}, {OTHER, 6, 4, 10},
             {WORKED, 4, 2, 4},  {REVERSED, 3, 4, 8}, {PROBLEM, 3, 2, 5}};

static void sum_write(pu_rng *r, form f, int lang, int within, pu_buf *out) {
  sum s = sum_pick(r, pu_rng_below(r, 2) ? '+' : '-', within);
  bool minus = s.op == '-';
  switch (f) {
  case PLAIN:
    pu_synth_plain(s.op, s.a, s.b, lang, true, out);
    break;
  case SYMBOLS:
    fill(symbols[lang][minus], s, out);
    break;
  case OTHER:
    fill(PU_PICK(r, other[lang][minus]), s, out);
    break;
  case WORKED:
    worked(r, s, lang, within, out);
    break;
  case REVERSED:
    reversed(s, lang, out);
    break;
  case PROBLEM: {
    char a[16], b[16], c[16];
    snprintf(a, sizeof a, "%d", s.a);
    snprintf(b, sizeof b, "%d", s.b);
    snprintf(c, sizeof c, "%d", result(s));
    const pu_slot slots[] = {
        {"a", a}, {"b", b}, {"c", c}, {"name", PU_PICK(r, names[lang])}, {"thing", PU_PICK(r, things[lang])}};
    pu_synth_fill(PU_PICK(r, problems[lang][minus]), slots, PU_COUNT(slots), out);
    break;
  }
  }
}

void pu_synth_sums(pu_rng *r, int lang, int within, pu_buf *out) {
  int at = (int)pu_rng_below(r, 100);
  size_t f = 0;
  while (f + 1 < PU_COUNT(forms) && (at -= forms[f].share) >= 0) f++;
  int n = forms[f].least + (int)pu_rng_below(r, (uint64_t)(forms[f].most - forms[f].least + 1));
  for (int i = 0; i < n; i++) {
    if (i > 0) pu_buf_putc(out, '\n');
    sum_write(r, forms[f].form, lang, within, out);
  }
}
