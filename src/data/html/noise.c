/* Short lines that are the page's and not the text's: buttons, "read more", counters, by-lines, copyright. The phrases are
 * those of many sites and programs, in the languages that most pages are in. */
#include <string.h>

#include "src/data/html/extract.h"

/* What a whole line says, lower-cased, without signs at its ends. Sorted by length is not needed: the list is short. */
static const char *const whole[] = {
    "ad", "ads", "advert", "adverts", "advertisement", "advertisements", "advertising", "anzeige", "publicité", "publicidad",
    "pubblicità", "реклама", "广告", "廣告", "広告", "sponsored", "promoted", "article continues below advertisement",
    "story continues below", "story continues below advertisement", "article continues below", "continue reading",
    "continue reading the main story", "read more", "read full article", "show more", "see more", "load more", "view more",
    "learn more", "more", "close", "caption", "share", "share this", "share this article", "share this story",
    "share this post", "share on facebook", "share on twitter", "tweet", "email", "print", "facebook", "twitter", "linkedin",
    "whatsapp", "pinterest", "reddit", "instagram", "copy link", "save", "like this", "loading", "comment", "comments",
    "leave a comment", "post a comment", "add a comment", "no comments", "view comments", "show comments", "reply", "report",
    "quote", "permalink", "edit", "delete", "flag", "upvote", "downvote", "related", "related articles", "related stories",
    "related posts", "related content", "recommended", "recommended for you", "more from", "most popular", "most read",
    "trending", "you may also like", "you might also like", "read next", "up next", "see also this", "sign up", "sign in",
    "log in", "subscribe", "subscribe now", "follow us", "newsletter", "play", "pause", "replay", "watch", "next", "previous",
    "prev", "back to top", "back", "top", "menu", "search", "home", "getty images", "file photo", "photo", "photos", "video",
    "this slideshow requires javascript", "click to enlarge", "view gallery", "view slideshow", "slideshow", "advertise",
    "分享", "分享到", "收藏", "点赞", "評論", "评论", "打印", "关闭", "關閉", "返回顶部", "更多", "查看更多", "阅读更多",
    "相关阅读", "相关推荐", "相关文章", "相关新闻", "推荐阅读", "延伸阅读", "热门推荐", "举报", "回复", "引用", "楼主",
    "沙发", "板凳", "地板", "只看该作者", "倒序浏览", "阅读模式", "扫描二维码以在移动设备观看", "シェア", "関連記事",
    "スポンサーリンク", "続きを読む", "teilen", "partager", "compartir", "condividi", "поделиться"};

/* How a line begins, and how many bytes it may have at most to be one of these. */
static const struct {
  const char *begin;
  unsigned most;
} begins[] = {{"上一篇", 200},     {"下一篇", 200},      {"责任编辑", 120},     {"責任編輯", 120},      {"编辑：", 60},
              {"来源：", 120},     {"作者：", 120},      {"发布时间", 120},     {"发布日期", 120},      {"点击：", 60},
              {"浏览：", 60},      {"阅读：", 60},       {"查看:", 80},         {"版权所有", 200},      {"免责声明", 60},
              {"分享到", 60},      {"本帖最后由", 120},  {"发表于", 120},       {"关注我们", 80},       {"扫一扫", 80},
              {"share this", 60},  {"tags:", 200},       {"filed under", 200},  {"posted in", 160},     {"posted by", 120},
              {"posted on", 120},  {"published:", 80},   {"published on", 80},  {"last updated", 80},   {"last modified", 80},
              {"updated:", 80},    {"follow us", 120},   {"sign up for", 160},  {"subscribe to", 160},  {"read more:", 200},
              {"read also:", 200}, {"also read:", 200},  {"see also:", 200},    {"related:", 200},      {"copyright ©", 200},
              {"© ", 160},         {"get the latest", 160}, {"click here to", 100}, {"photo credit", 120}, {"image credit", 120},
              {"photo by", 100},   {"photograph by", 100}, {"image source", 100}, {"report post", 60},   {"asked ", 60},
              {"answered ", 60},   {"edited ", 60},      {"viewed ", 40},       {"joined:", 60},        {"posts:", 60},
              {"this topic has", 160}, {"you must be logged in", 160}, {"please log in", 100}, {"about the author", 60},
              {"originally published", 120}, {"all rights reserved", 160}, {"minutes read", 30}, {"читайте также", 200}};

static bool sign(unsigned char c) {
  return c < 0x80 && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9');
}

bool html_noise(pu_str line) {
  char low[256];
  while (line.len && sign((unsigned char)line.ptr[line.len - 1]) && line.ptr[line.len - 1] != ':') line.len--;
  while (line.len && sign((unsigned char)line.ptr[0])) line = pu_str_of(line.ptr + 1, line.len - 1);
  if (line.len >= sizeof low) return false;
  for (size_t i = 0; i < line.len; i++)
    low[i] = line.ptr[i] >= 'A' && line.ptr[i] <= 'Z' ? (char)(line.ptr[i] | 0x20) : line.ptr[i];
  size_t n = line.len;
  for (size_t k = 0; k < PU_COUNT(begins); k++) {
    size_t len = strlen(begins[k].begin);
    if (n >= len && n <= begins[k].most && memcmp(low, begins[k].begin, len) == 0) return true;
  }
  while (n && low[n - 1] == ':') n--;
  for (size_t k = 0; k < PU_COUNT(whole); k++)
    if (strlen(whole[k]) == n && memcmp(low, whole[k], n) == 0) return true;
  return false;
}
