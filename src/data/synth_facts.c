/* Simple facts, stated and asked for. Tables of two-column facts, sequences, and people who were made up: what is true
 * of person k is a function of (seed, k), so all documents of one corpus agree. */
#include <string.h>

#include "src/data/synth.h"

typedef struct fact {
  const char *key, *value;
} fact;

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static const fact capitals[][PU_LANGS] = {{{"中国", "北京"}, {"China", "Beijing"}},
                                          {{"日本", "东京"}, {"Japan", "Tokyo"}},
                                          {{"韩国", "首尔"}, {"South Korea", "Seoul"}},
                                          {{"法国", "巴黎"}, {"France", "Paris"}},
                                          {{"英国", "伦敦"}, {"the United Kingdom", "London"}},
                                          {{"德国", "柏林"}, {"Germany", "Berlin"}},
                                          {{"意大利", "罗马"}, {"Italy", "Rome"}},
                                          {{"西班牙", "马德里"}, {"Spain", "Madrid"}},
                                          {{"葡萄牙", "里斯本"}, {"Portugal", "Lisbon"}},
                                          {{"俄罗斯", "莫斯科"}, {"Russia", "Moscow"}},
                                          {{"美国", "华盛顿"}, {"the United States", "Washington"}},
                                          {{"加拿大", "渥太华"}, {"Canada", "Ottawa"}},
                                          {{"墨西哥", "墨西哥城"}, {"Mexico", "Mexico City"}},
                                          {{"古巴", "哈瓦那"}, {"Cuba", "Havana"}},
                                          {{"阿根廷", "布宜诺斯艾利斯"}, {"Argentina", "Buenos Aires"}},
                                          {{"秘鲁", "利马"}, {"Peru", "Lima"}},
                                          {{"埃及", "开罗"}, {"Egypt", "Cairo"}},
                                          {{"肯尼亚", "内罗毕"}, {"Kenya", "Nairobi"}},
                                          {{"印度", "新德里"}, {"India", "New Delhi"}},
                                          {{"泰国", "曼谷"}, {"Thailand", "Bangkok"}},
                                          {{"越南", "河内"}, {"Vietnam", "Hanoi"}},
                                          {{"希腊", "雅典"}, {"Greece", "Athens"}},
                                          {{"瑞典", "斯德哥尔摩"}, {"Sweden", "Stockholm"}},
                                          {{"挪威", "奥斯陆"}, {"Norway", "Oslo"}},
                                          {{"芬兰", "赫尔辛基"}, {"Finland", "Helsinki"}},
                                          {{"波兰", "华沙"}, {"Poland", "Warsaw"}},
                                          {{"奥地利", "维也纳"}, {"Austria", "Vienna"}},
                                          {{"匈牙利", "布达佩斯"}, {"Hungary", "Budapest"}},
                                          {{"澳大利亚", "堪培拉"}, {"Australia", "Canberra"}},
                                          {{"蒙古", "乌兰巴托"}, {"Mongolia", "Ulaanbaatar"}}};

static const fact colours[][PU_LANGS] = {{{"天空", "蓝色"}, {"the sky", "blue"}},
                                         {{"草", "绿色"}, {"grass", "green"}},
                                         {{"雪", "白色"}, {"snow", "white"}},
                                         {{"煤", "黑色"}, {"coal", "black"}},
                                         {{"血", "红色"}, {"blood", "red"}},
                                         {{"香蕉", "黄色"}, {"a ripe banana", "yellow"}},
                                         {{"胡萝卜", "橙色"}, {"a carrot", "orange"}},
                                         {{"牛奶", "白色"}, {"milk", "white"}},
                                         {{"乌鸦", "黑色"}, {"a crow", "black"}},
                                         {{"柠檬", "黄色"}, {"a lemon", "yellow"}},
                                         {{"茄子", "紫色"}, {"an eggplant", "purple"}},
                                         {{"番茄", "红色"}, {"a tomato", "red"}}};

static const fact sounds[][PU_LANGS] = {{{"狗", "汪汪"}, {"dog", "woof"}},
                                        {{"猫", "喵喵"}, {"cat", "meow"}},
                                        {{"牛", "哞哞"}, {"cow", "moo"}},
                                        {{"羊", "咩咩"}, {"sheep", "baa"}},
                                        {{"鸭子", "嘎嘎"}, {"duck", "quack"}},
                                        {{"青蛙", "呱呱"}, {"frog", "croak"}},
                                        {{"公鸡", "喔喔"}, {"rooster", "cock-a-doodle-doo"}},
                                        {{"蜜蜂", "嗡嗡"}, {"bee", "buzz"}},
                                        {{"小鸡", "叽叽"}, {"chick", "cheep"}}};

static const fact young[][PU_LANGS] = {
    {{"狗", "小狗"}, {"dog", "puppy"}},       {{"猫", "小猫"}, {"cat", "kitten"}},
    {{"牛", "小牛"}, {"cow", "calf"}},        {{"羊", "羊羔"}, {"sheep", "lamb"}},
    {{"马", "马驹"}, {"horse", "foal"}},      {{"鸡", "小鸡"}, {"hen", "chick"}},
    {{"鸭子", "小鸭"}, {"duck", "duckling"}}, {{"青蛙", "蝌蚪"}, {"frog", "tadpole"}},
    {{"熊", "熊崽"}, {"bear", "cub"}},        {{"鹅", "小鹅"}, {"goose", "gosling"}}};

static const fact opposites[][PU_LANGS] = {
    {{"大", "小"}, {"big", "small"}}, {{"高", "低"}, {"high", "low"}},    {{"长", "短"}, {"long", "short"}},
    {{"快", "慢"}, {"fast", "slow"}}, {{"热", "冷"}, {"hot", "cold"}},    {{"新", "旧"}, {"new", "old"}},
    {{"多", "少"}, {"many", "few"}},  {{"好", "坏"}, {"good", "bad"}},    {{"黑", "白"}, {"black", "white"}},
    {{"上", "下"}, {"up", "down"}},   {{"左", "右"}, {"left", "right"}},  {{"前", "后"}, {"front", "back"}},
    {{"远", "近"}, {"far", "near"}},  {{"开", "关"}, {"open", "closed"}}, {{"轻", "重"}, {"light", "heavy"}},
    {{"软", "硬"}, {"soft", "hard"}}, {{"早", "晚"}, {"early", "late"}},  {{"强", "弱"}, {"strong", "weak"}},
    {{"干", "湿"}, {"dry", "wet"}},   {{"胖", "瘦"}, {"fat", "thin"}}};

static const fact legs[][PU_LANGS] = {{{"狗", "四"}, {"dog", "four"}},   {{"鸟", "两"}, {"bird", "two"}},
                                      {{"蚂蚁", "六"}, {"ant", "six"}},  {{"蜘蛛", "八"}, {"spider", "eight"}},
                                      {{"马", "四"}, {"horse", "four"}}, {{"鸡", "两"}, {"hen", "two"}},
                                      {{"蜜蜂", "六"}, {"bee", "six"}},  {{"牛", "四"}, {"cow", "four"}}};

/* A table and its phrasings: one states, one asks. */
typedef struct topic {
  const fact (*rows)[PU_LANGS];
  size_t n;
  const char *says[PU_LANGS], *asks[PU_LANGS];
} topic;

/* Each has at least eight rows, the most one document states, and at most 64. */
static const topic topics[] = {{capitals,
                                PU_COUNT(capitals),
                                {"{k}的首都是{v}。", "The capital of {k} is {v}."},
                                {"问：{k}的首都是哪里？答：{v}。", "Q: What is the capital of {k}? A: {v}."}},
                               {colours,
                                PU_COUNT(colours),
                                {"{k}是{v}的。", "The colour of {k} is {v}."},
                                {"问：{k}是什么颜色的？答：{v}。", "Q: What colour is {k}? A: {v}."}},
                               {sounds,
                                PU_COUNT(sounds),
                                {"{k}的叫声是{v}。", "A {k} says {v}."},
                                {"问：{k}怎么叫？答：{v}。", "Q: What does a {k} say? A: {v}."}},
                               {young,
                                PU_COUNT(young),
                                {"{k}的孩子叫{v}。", "A young {k} is called a {v}."},
                                {"问：{k}的孩子叫什么？答：{v}。", "Q: What is a young {k} called? A: a {v}."}},
                               {opposites,
                                PU_COUNT(opposites),
                                {"“{k}”的反义词是“{v}”。", "The opposite of {k} is {v}."},
                                {"问：“{k}”的反义词是什么？答：“{v}”。", "Q: What is the opposite of {k}? A: {v}."}},
                               {legs,
                                PU_COUNT(legs),
                                {"一只{k}有{v}条腿。", "A {k} has {v} legs."},
                                {"问：一只{k}有几条腿？答：{v}条。", "Q: How many legs does a {k} have? A: {v}."}}};

size_t pu_synth_fact_count(void) {
  size_t n = 0;
  for (size_t i = 0; i < PU_COUNT(topics); i++) n += topics[i].n;
  return n;
}

void pu_synth_fact(size_t number, int lang, pu_buf *says, pu_buf *asks) {
  const topic *t = topics;
  while (number >= t->n) number -= t++->n;
  const pu_slot slots[] = {{"k", t->rows[number][lang].key}, {"v", t->rows[number][lang].value}};
  pu_synth_fill(t->says[lang], slots, PU_COUNT(slots), says);
  pu_synth_fill(t->asks[lang], slots, PU_COUNT(slots), asks);
}

/* Different rows in a random order. */
static void topic_write(pu_rng *r, int lang, pu_buf *out) {
  const topic *t = &PU_PICK(r, topics);
  size_t order[64], n = 3 + pu_rng_below(r, 6);
  bool asks = pu_rng_below(r, 2);
  for (size_t i = 0; i < t->n; i++) order[i] = i;
  for (size_t i = 0; i < n; i++) {
    size_t j = i + pu_rng_below(r, t->n - i), row = order[j];
    order[j] = order[i];
    const pu_slot slots[] = {{"k", t->rows[row][lang].key}, {"v", t->rows[row][lang].value}};
    if (i > 0) pu_buf_putc(out, '\n');
    pu_synth_fill(asks ? t->asks[lang] : t->says[lang], slots, PU_COUNT(slots), out);
  }
}

/* ---- sequences: days, months, numbers ---------------------------------------------------------------------------- */

static const char *const days[PU_LANGS][7] = {
    {"星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"},
    {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}};
static const char *const months[PU_LANGS][12] = {
    {"一月", "二月", "三月", "四月", "五月", "六月", "七月", "八月", "九月", "十月", "十一月", "十二月"},
    {"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
     "December"}};

static void calendar_write(pu_rng *r, int lang, pu_buf *out) {
  static const char *const says[PU_LANGS] = {"{k}的后一个是{v}。", "After {k} comes {v}."};
  static const char *const asks[PU_LANGS] = {"问：{k}的后一个是什么？答：{v}。", "Q: What comes after {k}? A: {v}."};
  bool of_days = pu_rng_below(r, 2), asking = pu_rng_below(r, 2);
  const char *const *names = of_days ? days[lang] : months[lang];
  size_t n = of_days ? 7 : 12;
  for (int i = 0, lines = 3 + (int)pu_rng_below(r, 4); i < lines; i++) {
    size_t at = pu_rng_below(r, n);
    const pu_slot slots[] = {{"k", names[at]}, {"v", names[(at + 1) % n]}};
    if (i > 0) pu_buf_putc(out, '\n');
    pu_synth_fill(asking ? asks[lang] : says[lang], slots, PU_COUNT(slots), out);
  }
}

static void counting_write(pu_rng *r, int lang, pu_buf *out) {
  int step = PU_PICK(r, ((const int[]){1, 1, 2, 5, 10})), n = 6 + (int)pu_rng_below(r, 10);
  int at = (int)pu_rng_below(r, 90) / step * step;
  pu_buf_puts(out, lang == PU_ZH ? "数数：" : "Count: ");
  for (int i = 0; i < n; i++, at += step)
    pu_buf_printf(out, "%d%s", at, i + 1 == n ? (lang == PU_ZH ? "。" : ".") : lang == PU_ZH ? "、" : ", ");
}

/* "37是3个十和7个一。" is 30 + 7 in other words, so held-out pairs are passed over here too. */
static void tens_write(pu_rng *r, int lang, pu_buf *out) {
  for (int i = 0, n = 3 + (int)pu_rng_below(r, 5); i < n;) {
    int tens = (int)pu_rng_below(r, 10), ones = (int)pu_rng_below(r, 10);
    if (pu_synth_heldout('+', tens * 10, ones)) continue;
    if (i++ > 0) pu_buf_putc(out, '\n');
    pu_buf_printf(out, lang == PU_ZH ? "%d是%d个十和%d个一。" : "%d is %d tens and %d ones.", tens * 10 + ones, tens,
                  ones);
  }
}

static void compare_write(pu_rng *r, int lang, pu_buf *out) {
  for (int i = 0, n = 3 + (int)pu_rng_below(r, 5); i < n;) {
    int a = (int)pu_rng_below(r, 100), b = (int)pu_rng_below(r, 100);
    if (a == b) continue;
    if (i++ > 0) pu_buf_putc(out, '\n');
    const char *way = lang == PU_ZH ? (a > b ? "大" : "小") : a > b ? "greater" : "less";
    pu_buf_printf(out, lang == PU_ZH ? "%1$d比%2$d%3$s。" : "%1$d is %3$s than %2$d.", a, b, way);
  }
}

/* Numbers of any length written once more: what a call of a calculator wants, and learned slowly later on by a model
 * that has only seen numbers made of others. */
static void repeat_write(pu_rng *r, int lang, pu_buf *out) {
  static const char *const says[PU_LANGS][2] = {
      {"把{a}加{b}写成算式：{a}+{b}。", "把{a}减{b}写成算式：{a}-{b}。"},
      {"Write {a} plus {b} with a sign: {a}+{b}.", "Write {a} minus {b} with a sign: {a}-{b}."}};
  static const char *const again[PU_LANGS] = {"数是{a}。再写一遍：{a}。", "The number is {a}. Once more: {a}."};
  for (int i = 0, n = 3 + (int)pu_rng_below(r, 4); i < n;) {
    bool minus = pu_rng_below(r, 2);
    char a_text[16], b_text[16];
    int a, b;
    pu_synth_large_pair(r, minus ? '-' : '+', &a, &b);
    if (pu_synth_heldout(minus ? '-' : '+', a, b)) continue;
    snprintf(a_text, sizeof a_text, "%d", a);
    snprintf(b_text, sizeof b_text, "%d", b);
    const pu_slot slots[] = {{"a", a_text}, {"b", b_text}};
    if (i++ > 0) pu_buf_putc(out, '\n');
    pu_synth_fill(pu_rng_below(r, 3) ? says[lang][minus] : again[lang], slots, PU_COUNT(slots), out);
  }
}

/* ---- people who were made up ------------------------------------------------------------------------------------- */

enum { PEOPLE = 400 };
static const char *const surnames[PU_LANGS][10] = {
    {"王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴"},
    {"Hill", "Stone", "Wood", "Field", "Brook", "Lake", "Marsh", "Reed", "Ford", "Dale"}};
static const char *const given[PU_LANGS][10] = {
    {"安", "华", "敏", "静", "伟", "芳", "磊", "洋", "杰", "婷"},
    {"Alan", "Betty", "Carl", "Diana", "Eric", "Fiona", "George", "Helen", "Ivan", "Julia"}};
static const char *const jobs[PU_LANGS][8] = {
    {"医生", "老师", "厨师", "司机", "画家", "农民", "木匠", "护士"},
    {"doctor", "teacher", "cook", "driver", "painter", "farmer", "baker", "nurse"}};
static const char *const towns[PU_LANGS][8] = {
    {"青山镇", "白河镇", "石桥镇", "柳林镇", "东湖镇", "南岭镇", "云溪镇", "金沙镇"},
    {"Greenhill", "Whitewater", "Stonebridge", "Willowby", "Eastlake", "Southridge", "Cloudford", "Goldsand"}};
static const char *const pets[PU_LANGS][6] = {{"狗", "猫", "兔子", "金鱼", "鹦鹉", "乌龟"},
                                              {"dog", "cat", "rabbit", "goldfish", "parrot", "turtle"}};

static void person_write(pu_rng *r, int lang, uint64_t seed, pu_buf *out) {
  static const char *const says[PU_LANGS] = {"{p}是一位{j}，住在{t}，养了一只{a}。",
                                             "{p} is a {j} who lives in {t} and has a {a}."};
  static const char *const asks[3][PU_LANGS] = {{"问：{p}是做什么的？答：{j}。", "Q: What is {p}'s job? A: {j}."},
                                                {"问：{p}住在哪里？答：{t}。", "Q: Where does {p} live? A: {t}."},
                                                {"问：{p}养了什么？答：{a}。", "Q: What pet does {p} have? A: a {a}."}};
  uint64_t k = pu_rng_below(r, PEOPLE);
  pu_rng life;
  pu_rng_seed(&life, pu_random_at(seed, 17, k * PU_LANGS + (uint64_t)lang));
  /* The name spells k, so no two people share one. */
  char name[64];
  const char *last = surnames[lang][k % 10], *first = given[lang][k / 10 % 10],
             *middle = given[lang][(k / 100 + 3) % 10];
  snprintf(name, sizeof name, lang == PU_ZH ? "%1$s%2$s%3$s" : "%2$s %3$s %1$s", last, middle, first);
  const pu_slot slots[] = {{"p", name},
                           {"j", PU_PICK(&life, jobs[lang])},
                           {"t", PU_PICK(&life, towns[lang])},
                           {"a", PU_PICK(&life, pets[lang])}};
  pu_synth_fill(says[lang], slots, PU_COUNT(slots), out);
  for (int i = 0; i < 3; i++) {
    pu_buf_putc(out, '\n');
    pu_synth_fill(asks[i][lang], slots, PU_COUNT(slots), out);
  }
}

void pu_synth_facts(pu_rng *r, int lang, uint64_t seed, pu_buf *out) {
  switch (pu_rng_below(r, 14)) {
  case 0:
    counting_write(r, lang, out);
    break;
  case 1:
    tens_write(r, lang, out);
    break;
  case 2:
    compare_write(r, lang, out);
    break;
  case 3:
    calendar_write(r, lang, out);
    break;
  case 4:
  case 5:
    person_write(r, lang, seed, out);
    break;
  case 6:
  case 7:
  case 8:
  case 9:
    repeat_write(r, lang, out);
    break;
  default:
    topic_write(r, lang, out);
    break;
  }
}
