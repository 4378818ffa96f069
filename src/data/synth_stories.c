/* Short stories. A story chooses its world first (who, where, what, in which colour) and never changes it, so that what
 * is said later follows from what was said before; a plot is a list of steps, a step a choice of sentences over that
 * world. Half of the stories end with questions whose answers stand in the story. */
#include "src/data/synth.h"

enum { STEPS = 10, CHOICES = 3, QUESTIONS = 3 };

typedef struct plot {
  const char *steps[STEPS][CHOICES]; /* NULL-ended */
  const char *questions[QUESTIONS];
} plot;

/* ---- the world --------------------------------------------------------------------------------------------------- */

static const char *const heroes[PU_LANGS][14] = {
    {"小明", "小红", "丽丽", "乐乐", "小雨", "强强", "妞妞", "阿宝", "冬冬", "小花", "天天", "圆圆", "小虎", "明明"},
    {"Tom", "Anna", "Ben", "Lily", "Sam", "Mia", "Jack", "Rose", "Max", "Lucy", "Leo", "Emma", "Tim", "Nora"}};
static const char *const animals[PU_LANGS][10] = {
    {"小狗", "小猫", "兔子", "小熊", "松鼠", "小鸟", "小马", "小羊", "狐狸", "小鸭"},
    {"dog", "cat", "rabbit", "bear", "squirrel", "bird", "pony", "lamb", "fox", "duck"}};
static const char *const things[PU_LANGS][12] = {
    {"球", "风筝", "帽子", "书包", "雨伞", "铃铛", "玩具车", "手套", "气球", "杯子", "围巾", "盒子"},
    {"ball", "kite", "hat", "bag", "boat", "bell", "toy car", "glove", "drum", "cup", "scarf", "box"}};
static const char *const colours[PU_LANGS][8] = {
    {"红色", "蓝色", "黄色", "绿色", "白色", "黑色", "紫色", "粉色"},
    {"red", "blue", "yellow", "green", "white", "black", "purple", "pink"}};
static const char *const spots[PU_LANGS][10] = {
    {"大树下", "桥边", "草地上", "石头后面", "小河边", "花丛里", "长椅下", "门后面", "山坡上", "井边"},
    {"under a tree", "near the bridge", "in the grass", "behind a stone", "by the river", "among the flowers",
     "under a bench", "behind the door", "on the hill", "beside the well"}};
static const char *const places[PU_LANGS][8] = {
    {"公园", "森林", "村子", "花园", "海边", "田野", "学校", "集市"},
    {"park", "forest", "village", "garden", "beach", "field", "school", "market"}};
static const char *const foods[PU_LANGS][8] = {
    {"苹果", "饼干", "桃子", "面包", "梨", "栗子", "草莓", "包子"},
    {"apples", "cakes", "peaches", "nuts", "pears", "buns", "plums", "eggs"}};
static const char *const weathers[PU_LANGS][6] = {{"晴朗", "温暖", "凉爽", "有风", "安静", "明亮"},
                                                  {"sunny", "warm", "cool", "windy", "quiet", "bright"}};
static const char *const moods[PU_LANGS][5] = {{"聪明", "善良", "勇敢", "活泼", "安静"},
                                               {"clever", "kind", "brave", "lively", "quiet"}};
static const char *const seasons[PU_LANGS][4] = {{"春天", "夏天", "秋天", "冬天"},
                                                 {"spring", "summer", "autumn", "winter"}};
static const char *const flowers[PU_LANGS][6] = {{"玫瑰", "百合", "菊花", "牡丹", "茶花", "兰花"},
                                                 {"rose", "lily", "daisy", "tulip", "poppy", "iris"}};

/* ---- plots ------------------------------------------------------------------------------------------------------- */

static const plot plots_zh[] = {
    {.steps = {{"从前有一个{mood}的孩子，名叫{hero}。", "{hero}是一个{mood}的孩子，住在{place}旁边。",
                "{place}旁边住着一个{mood}的孩子，叫{hero}。"},
               {"{hero}有一个{colour}的{thing}，非常喜欢它。", "{hero}最喜欢的东西是一个{colour}的{thing}。"},
               {"一个{weather}的早晨，{hero}带着{thing}去{place}玩。",
                "有一天，天气{weather}，{hero}拿着{thing}到{place}去。"},
               {"玩着玩着，{thing}不见了。", "可是，{hero}一不小心，把{thing}弄丢了。"},
               {"{hero}找了很久也没找到，难过得哭了。", "{hero}到处找，都没有找到，心里很难过。"},
               {"{friend}看见了，问：“你怎么了？”", "这时{animal}{friend}走过来，问：“{hero}，你为什么难过？”"},
               {"“我的{colour}的{thing}丢了。”{hero}说。", "{hero}说：“我找不到{colour}的{thing}了。”"},
               {"他们一起找，在{spot}找到了{thing}。", "{friend}帮{hero}找，最后在{spot}看见了那个{thing}。"},
               {"“谢谢你，{friend}！”{hero}高兴地说。", "{hero}笑了，说：“谢谢你，{friend}。你真是我的好朋友。”"},
               {"从那以后，{hero}和{friend}成了好朋友。", "天黑了，他们一起回家了。"}},
     .questions = {"问：{hero}丢了什么？答：{colour}的{thing}。", "问：谁帮助了{hero}？答：{friend}。",
                   "问：{thing}在哪里找到的？答：{spot}。"}},
    {.steps = {{"{animal}{friend}住在{place}里。", "{place}里住着{animal}{friend}。"},
               {"{season}的一天，{hero}来到{place}。", "{season}到了，{hero}到{place}去玩。"},
               {"{hero}有{n}个{food}。", "{hero}的篮子里有{n}个{food}。"},
               {"{friend}很饿，它说：“我一天没吃东西了。”", "{friend}肚子饿了，坐在{spot}不说话。"},
               {"{hero}想了想，说：“我们一起吃吧。”", "{hero}很{mood}，说：“我的{food}分给你。”"},
               {"{hero}给了{friend}{k}个{food}，自己还剩{m}个。"},
               {"{friend}吃得很高兴。", "{friend}一边吃一边笑。"},
               {"为了感谢{hero}，{friend}送给{hero}一个{colour}的{thing}。",
                "{friend}拿出一个{colour}的{thing}，送给了{hero}。"},
               {"{hero}高高兴兴地带着{thing}回家了。", "{hero}很喜欢这个{thing}。"}},
     .questions = {"问：谁饿了？答：{friend}。", "问：{hero}还剩几个{food}？答：{m}个。",
                   "问：{friend}送给{hero}什么？答：{colour}的{thing}。"}},
    {.steps = {{"{season}来了，{hero}想种一棵花。", "{hero}很喜欢花，{season}里想自己种一棵。"},
               {"{friend}给了{hero}一粒种子，说：“把它种在{spot}吧。”"},
               {"{hero}把种子种在{spot}。", "于是，{hero}在{spot}挖了一个小坑，把种子放进去。"},
               {"每天早晨，{hero}都给它浇水。", "{hero}天天来浇水，从不忘记。"},
               {"第一天，什么也没有。", "过了几天，还是什么也没有。"},
               {"{friend}说：“不要急，再等一等。”", "{hero}有点着急，{friend}说：“好花要慢慢长。”"},
               {"后来，地里长出了一片小小的绿叶。", "一个{weather}的早晨，种子发芽了。"},
               {"最后，它开出了一朵{colour}的{flower}。", "不久，一朵{colour}的{flower}开了。"},
               {"{hero}请{friend}一起来看花。", "大家都说：“多美的{flower}啊！”"}},
     .questions = {"问：种子种在哪里？答：{spot}。", "问：最后开了什么花？答：{colour}的{flower}。",
                   "问：谁给了{hero}种子？答：{friend}。"}},
    {.steps = {{"{hero}和{friend}是好朋友。{friend}是一只{animal}。", "{hero}有一个好朋友，是{animal}{friend}。"},
               {"一个{weather}的下午，他们到{place}去。", "有一天，他们约好去{place}玩。"},
               {"忽然，天空变黑，下起了大雨。", "走到半路，下雨了。"},
               {"{hero}没有带伞，{friend}也没有。", "他们都没有带伞，衣服湿了。"},
               {"{friend}说：“快，{spot}可以躲雨！”", "“我们去{spot}吧！”{hero}说。"},
               {"他们在{spot}等着，一起唱歌。", "他们坐在{spot}，给对方讲故事。"},
               {"雨停了，天上出现了彩虹。", "过了一会儿，太阳出来了，天边有一道彩虹。"},
               {"{hero}说：“下雨也很有意思。”", "“今天真开心！”{friend}说。"}},
     .questions = {"问：他们去了哪里？答：{place}。", "问：他们在哪里躲雨？答：{spot}。",
                   "问：{friend}是什么动物？答：{animal}。"}},
};

static const plot plots_en[] = {
    {.steps = {{"Once there was a {mood} child named {hero}.", "{hero} was a {mood} child who lived near the {place}.",
                "Near the {place} lived a {mood} child called {hero}."},
               {"{hero} had a {colour} {thing} and loved it very much.",
                "The thing {hero} liked best was a {colour} {thing}."},
               {"One {weather} morning {hero} took the {thing} to the {place}.",
                "One day it was {weather}, and {hero} went to the {place} with the {thing}."},
               {"But while {hero} was playing, the {thing} was lost.", "Then the {thing} was gone."},
               {"{hero} looked for a long time and began to cry.",
                "{hero} looked here and there, but could not find it."},
               {"{friend} the {animal} came and asked, \"What is wrong?\"",
                "A {animal} named {friend} saw this. \"Why are you sad, {hero}?\" asked {friend}."},
               {"\"I lost my {colour} {thing},\" said {hero}.", "{hero} said, \"I cannot find my {colour} {thing}.\""},
               {"They looked together and found it {spot}.", "{friend} helped, and there it was, {spot}!"},
               {"\"Thank you, {friend}!\" said {hero}.", "{hero} smiled. \"You are a good friend, {friend}.\""},
               {"After that day they were friends.", "When it grew dark, they went home together."}},
     .questions = {"Q: What did {hero} lose? A: The {colour} {thing}.", "Q: Who helped {hero}? A: {friend}.",
                   "Q: Where was the {thing}? A: {spot}."}},
    {.steps = {{"{friend} the {animal} lived in the {place}.", "In the {place} there lived a {animal} named {friend}."},
               {"One day in {season}, {hero} came to the {place}.", "It was {season}, and {hero} went to the {place}."},
               {"{hero} had {n} {food}.", "In a basket {hero} had {n} {food}."},
               {"{friend} was hungry. \"I have not eaten today,\" it said.",
                "{friend} sat {spot} and was very hungry."},
               {"{hero} thought for a while. \"Let us eat together.\"",
                "{hero} was {mood} and said, \"Take some of my {food}.\""},
               {"{hero} gave {friend} {k} {food} and had {m} left."},
               {"{friend} ate and was happy.", "{friend} ate and laughed."},
               {"To say thank you, {friend} gave {hero} a {colour} {thing}.",
                "Then {friend} gave {hero} a {colour} {thing}."},
               {"{hero} took the {thing} home with a smile.", "{hero} liked the {thing} very much."}},
     .questions = {"Q: Who was hungry? A: {friend}.", "Q: How many {food} did {hero} have left? A: {m}.",
                   "Q: What did {friend} give {hero}? A: A {colour} {thing}."}},
    {.steps = {{"In {season} {hero} wanted to grow a flower.",
                "{hero} loved flowers and wanted to grow one in {season}."},
               {"{friend} gave {hero} a seed and said, \"Plant it {spot}.\""},
               {"{hero} planted the seed {spot}.", "So {hero} dug a small hole {spot} and put the seed in."},
               {"Every morning {hero} gave it water.", "{hero} came with water each day and never forgot."},
               {"On the first day there was nothing.", "For some days nothing came up."},
               {"\"Do not hurry,\" said {friend}. \"Wait a little.\"",
                "{hero} wanted to give up, but {friend} said, \"Wait.\""},
               {"Then a small green leaf came out.", "One {weather} morning there was a green leaf."},
               {"At last it became a {colour} {flower}.", "Soon a {colour} {flower} opened."},
               {"{hero} asked {friend} to come and see it.", "\"What a fine {flower}!\" everyone said."}},
     .questions = {"Q: Where was the seed planted? A: {spot}.", "Q: What flower was it? A: A {colour} {flower}.",
                   "Q: Who gave {hero} the seed? A: {friend}."}},
    {.steps = {{"{hero} and {friend} were good friends. {friend} was a {animal}.",
                "{hero} had a good friend, a {animal} named {friend}."},
               {"One {weather} afternoon they went to the {place}.", "One day they went to play in the {place}."},
               {"All at once the sky was dark and it rained.", "On the way it began to rain."},
               {"{hero} had no umbrella, and {friend} had none.", "Soon they were both wet."},
               {"\"Come {spot}!\" said {friend}. \"It is dry there.\"", "\"Let us wait {spot},\" said {hero}."},
               {"They waited {spot} and sang songs.", "They sat {spot} and told each other stories."},
               {"Then the rain stopped and there was a rainbow.",
                "After a while the sun came out, and they saw a rainbow."},
               {"\"Rain can be fun,\" said {hero}.", "\"What a good day!\" said {friend}."}},
     .questions = {"Q: Where did they go? A: The {place}.", "Q: Where did they wait? A: {spot}.",
                   "Q: What animal was {friend}? A: A {animal}."}},
};

/* n of something, k given away, m left: a difference like any other, so never a held-out one. */
static void share_pick(pu_rng *r, int *n, int *k) {
  do {
    *n = 4 + (int)pu_rng_below(r, 9);
    *k = 2 + (int)pu_rng_below(r, (uint64_t)(*n - 3)); /* two or more of each, so that plurals are right */
  } while (pu_synth_heldout('-', *n, *k));
}

static const char *choice(pu_rng *r, const char *const *choices) {
  int n = 0;
  while (n < CHOICES && choices[n]) n++;
  return n > 0 ? choices[pu_rng_below(r, (uint64_t)n)] : NULL;
}

const char *pu_synth_story(pu_rng *r, int lang, pu_buf *out) {
  int n, k;
  share_pick(r, &n, &k);
  char n_text[16], k_text[16], m_text[16];
  snprintf(n_text, sizeof n_text, "%d", n);
  snprintf(k_text, sizeof k_text, "%d", k);
  snprintf(m_text, sizeof m_text, "%d", n - k);
  size_t hero = pu_rng_below(r, PU_COUNT(heroes[0])), apart = 1 + pu_rng_below(r, PU_COUNT(heroes[0]) - 1);
  const pu_slot world[] = {
      {"hero", heroes[lang][hero]},
      {"friend", heroes[lang][(hero + apart) % PU_COUNT(heroes[0])]},
      {"animal", PU_PICK(r, animals[lang])},
      {"thing", PU_PICK(r, things[lang])},
      {"colour", PU_PICK(r, colours[lang])},
      {"spot", PU_PICK(r, spots[lang])},
      {"place", PU_PICK(r, places[lang])},
      {"food", PU_PICK(r, foods[lang])},
      {"weather", PU_PICK(r, weathers[lang])},
      {"mood", PU_PICK(r, moods[lang])},
      {"season", PU_PICK(r, seasons[lang])},
      {"flower", PU_PICK(r, flowers[lang])},
      {"n", n_text},
      {"k", k_text},
      {"m", m_text},
  };
  size_t number = pu_rng_below(r, PU_COUNT(plots_en));
  const plot *p = lang == PU_ZH ? &plots_zh[number] : &plots_en[number];
  for (int i = 0; i < STEPS; i++) {
    const char *sentence = choice(r, p->steps[i]);
    if (!sentence) break;
    if (i > 0 && lang == PU_EN) pu_buf_putc(out, ' ');
    pu_synth_fill(sentence, world, PU_COUNT(world), out);
  }
  for (int i = 0, asks = (int)pu_rng_below(r, 2); asks && i < QUESTIONS; i++) {
    pu_buf_putc(out, '\n');
    pu_synth_fill(p->questions[i], world, PU_COUNT(world), out);
  }
  return heroes[lang][hero];
}
_Static_assert(PU_COUNT(plots_en) == PU_COUNT(plots_zh), "each plot in both languages");
