/* What the names of an element's class, id and role say. The words are those that site builders use all over the web;
 * none is a site's own. */
#include "src/data/html/extract.h"

#include <string.h>
#include <strings.h>

/* A word of class names, what it says, and whether words that begin with it say the same. */
typedef struct hint {
  uint16_t says;
  bool begins;
} hint;

enum {
  CHROME = HTML_IS_CHROME,
  SOCIAL = HTML_IS_SOCIAL,
  RELATED = HTML_IS_RELATED,
  COMMENT = HTML_IS_COMMENT,
  META = HTML_IS_META,
  BODY = HTML_IS_BODY,
  MAIN = HTML_IS_MAIN,
  POST = HTML_IS_POST,
  PROFILE = HTML_IS_PROFILE
};

/* X("word", says, begins), sorted. */
#define HINTS(X)                                                                                                       \
  X("ad", RELATED, false) X("addthis", SOCIAL, false) X("ads", RELATED, false)                                         \
  X("adsbygoogle", RELATED, false) X("adv", RELATED, false) X("advert", RELATED, true)                                 \
  X("advertisement", RELATED, false) X("advertising", RELATED, false) X("advertorial", RELATED, false)                 \
  X("adverts", RELATED, false) X("alsoin", RELATED, false) X("alsolike", RELATED, false)                               \
  X("alsoread", RELATED, false) X("answer", POST, false) X("article", MAIN, false)                                     \
  X("articlebody", BODY, false) X("articlecontent", BODY, false) X("articletext", BODY, false)                         \
  X("author", META, false) X("authorbox", META, false) X("authors", META, false)                                       \
  X("avatar", META | PROFILE, false) X("badge", PROFILE, false) X("badges", PROFILE, false)                            \
  X("banner", RELATED, false) X("bio", META, false) X("blog", MAIN, false) X("blogroll", RELATED, false)               \
  X("bodycopy", BODY, false) X("bodytext", BODY, false) X("breadcrumb", CHROME, true)                                  \
  X("breadcrumbs", CHROME, false) X("breaking", RELATED, false) X("byauthor", META, false)                             \
  X("byline", META, false) X("bylines", META, false) X("caption", META, false) X("captions", META, false)              \
  X("carousel", RELATED, false) X("cat", META, false) X("categories", META, false)                                     \
  X("category", META, false) X("comment", COMMENT | POST, true) X("commenting", COMMENT, false)                        \
  X("commentlist", COMMENT, false) X("comments", COMMENT, false) X("complementary", CHROME, false)                     \
  X("consent", CHROME, false) X("content", MAIN, false) X("contentbody", BODY, false)                                  \
  X("contentinfo", CHROME, false) X("conversations", COMMENT, false) X("cookie", CHROME, true)                         \
  X("cookies", CHROME, false) X("copyright", META, false) X("credit", META, false) X("credits", META, false)           \
  X("crumb", CHROME, false) X("crumbs", CHROME, false) X("cta", RELATED, false) X("date", META, false)                 \
  X("dateline", META, false) X("disclaimer", META, false) X("disqus", COMMENT, true)                                   \
  X("donate", RELATED, false) X("donation", RELATED, false) X("drawer", CHROME, false)                                 \
  X("dropdown", CHROME, true) X("edited", META, false) X("editor", META, false) X("emoji", SOCIAL, false)              \
  X("entry", MAIN, false) X("entrycontent", BODY, false) X("entrymeta", META, false)                                   \
  X("fbcomments", COMMENT, false) X("figcaption", META, false) X("flair", PROFILE, false)                              \
  X("follow", SOCIAL, false) X("footer", CHROME, false) X("galleries", RELATED, false)                                 \
  X("gallery", RELATED, false) X("gdpr", CHROME, false) X("hamburger", CHROME, false)                                  \
  X("karma", PROFILE, false) X("keywords", META, false) X("kicker", META, false) X("lang", CHROME, false)              \
  X("languages", CHROME, false) X("latest", RELATED, false) X("lightbox", CHROME, false)                               \
  X("like", SOCIAL, false) X("likes", SOCIAL, false) X("livefyre", COMMENT, false) X("login", CHROME, false)           \
  X("main", MAIN, false) X("masthead", CHROME, false) X("membership", PROFILE, false)                                  \
  X("menu", CHROME, false) X("menus", CHROME, false) X("message", POST, false) X("meta", META, false)                  \
  X("modal", CHROME, false) X("morefrom", RELATED, false) X("mostread", RELATED, false)                                \
  X("nav", CHROME, false) X("navbar", CHROME, true) X("navigation", CHROME, true) X("news", MAIN, false)               \
  X("newsbody", BODY, false) X("newscontent", BODY, false) X("newsletter", RELATED, true)                              \
  X("newsletters", RELATED, false) X("noprint", CHROME, false) X("offcanvas", CHROME, false)                           \
  X("online", PROFILE, false) X("outbrain", RELATED, true) X("overlay", CHROME, false)                                 \
  X("pagenav", CHROME, false) X("pager", CHROME, false) X("pagination", CHROME, true)                                  \
  X("paging", CHROME, false) X("paywall", RELATED, false) X("permalink", META, false)                                  \
  X("pinterest", SOCIAL, false) X("popular", RELATED, false) X("popup", CHROME, false)                                 \
  X("post", MAIN | POST, false) X("postbody", BODY, false) X("postcontent", BODY, false)                               \
  X("postdetails", PROFILE, false) X("posted", META, false) X("poster", PROFILE, false)                                \
  X("postmeta", META, false) X("postprofile", PROFILE, false) X("posts", POST, false)                                  \
  X("print", META, false) X("profile", PROFILE, false) X("promo", RELATED, true) X("promos", RELATED, false)           \
  X("promoted", RELATED, false) X("promotion", RELATED, false) X("pubdate", META, false)                               \
  X("published", META, false) X("question", POST, false) X("rail", CHROME, false) X("rank", PROFILE, false)            \
  X("rating", SOCIAL, false) X("ratings", SOCIAL, false) X("reactions", SOCIAL, false)                                 \
  X("readalso", RELATED, false) X("readingtime", META, false) X("readmore", RELATED, false)                            \
  X("readtime", META, false) X("recirc", RELATED, true) X("recirculation", RELATED, false)                             \
  X("recommend", RELATED, true) X("recommendation", RELATED, true) X("recommended", RELATED, false)                    \
  X("register", CHROME, false) X("registration", CHROME, false) X("related", RELATED, true)                            \
  X("replies", COMMENT, false) X("reply", POST, false) X("reputation", PROFILE, false)                                 \
  X("respond", COMMENT, false) X("rtxtc", BODY, false) X("search", CHROME, false)                                      \
  X("searchbox", CHROME, false) X("searchform", CHROME, false) X("seealso", RELATED, false)                            \
  X("share", SOCIAL, false) X("sharebar", SOCIAL, true) X("sharebutton", SOCIAL, true)                                 \
  X("shares", SOCIAL, false) X("sharethis", SOCIAL, false) X("sharetool", SOCIAL, true)                                \
  X("sharing", SOCIAL, false) X("sidebar", CHROME, true) X("sidebars", CHROME, false)                                  \
  X("sig", PROFILE, false) X("signature", PROFILE, false) X("signatures", PROFILE, false)                              \
  X("signin", CHROME, false) X("signup", CHROME, false) X("sitemap", CHROME, false) X("skip", CHROME, false)           \
  X("skiplink", CHROME, false) X("slider", RELATED, false) X("slideshow", RELATED, false)                              \
  X("slideshows", RELATED, false) X("social", SOCIAL, true) X("socialmedia", SOCIAL, true)                             \
  X("socials", SOCIAL, false) X("socialshare", SOCIAL, true) X("source", META, false)                                  \
  X("sponsor", RELATED, true) X("sponsored", RELATED, false) X("sponsors", RELATED, false)                             \
  X("story", MAIN, false) X("storybody", BODY, false) X("storycontent", BODY, false)                                   \
  X("storytext", BODY, false) X("submenu", CHROME, false) X("subscri", RELATED, true)                                  \
  X("subscribe", RELATED, false) X("subscriber", RELATED, false) X("subscription", RELATED, false)                     \
  X("suggested", RELATED, false) X("suggestions", RELATED, false) X("taboola", RELATED, true)                          \
  X("tag", META, false) X("tagcloud", RELATED, false) X("tagged", META, false) X("taglist", META, false)               \
  X("tags", META, false) X("teaser", RELATED, false) X("teasers", RELATED, false) X("thread", POST, false)             \
  X("time", META, false) X("timestamp", META, false) X("toc", CHROME, false) X("toolbar", CHROME, false)               \
  X("tooltip", CHROME, false) X("topbar", CHROME, false) X("topic", POST, false)                                       \
  X("trending", RELATED, false) X("upnext", RELATED, false) X("userdetails", PROFILE, false)                           \
  X("userinfo", PROFILE, false) X("usertitle", PROFILE, false) X("views", META, false)                                 \
  X("vote", SOCIAL, false) X("votes", SOCIAL, false) X("whatsapp", SOCIAL, false)                                      \
  X("widget", RELATED, false) X("widgets", RELATED, false)

static const html_word words[] = {
#define HINT_WORD(word, says, begins) {word, 0},
    HINTS(HINT_WORD)
#undef HINT_WORD
};
static const hint hints[] = {
#define HINT_SAYS(word, says, begins) {says, begins},
    HINTS(HINT_SAYS)
#undef HINT_SAYS
};

static unsigned word_hints(pu_str word) {
  int i = html_word_find(words, PU_COUNT(words), html_key_of(word));
  /* The word itself, or one that it begins with, which stands a few rows before it at most. */
  for (int k = 0; k < 3 && i >= 0; k++, i--) {
    size_t n = strlen(words[i].text);
    if (n > word.len || strncasecmp(words[i].text, word.ptr, n) != 0) continue;
    if (n == word.len || hints[i].begins) return hints[i].says;
  }
  return 0;
}

static bool lower(char c) {
  return c >= 'a' && c <= 'z';
}
static bool upper(char c) {
  return c >= 'A' && c <= 'Z';
}

/* "post-body" and "articleText" say more than their words: a kind of text and its body. */
static bool body_pair(pu_str first, pu_str second) {
  static const char *const kinds[] = {"article", "post", "entry", "story", "news", "blog", "page", "main", "body"};
  static const char *const parts[] = {"body", "content", "text", "copy", "contents", "detail", "txt"};
  bool kind = false, part = false;
  for (size_t k = 0; k < PU_COUNT(kinds) && !kind; k++) kind = html_same(first, kinds[k]);
  for (size_t k = 0; k < PU_COUNT(parts) && kind && !part; k++) part = html_same(second, parts[k]);
  return part && !html_same(first, "body") ? true : part && html_same(second, "text");
}

/* Of one class or id: its words are parted by signs, digits and capitals. */
static unsigned name_hints(pu_str name) {
  unsigned found = 0;
  pu_str before = {0};
  for (size_t i = 0; i < name.len;) {
    if (!lower(name.ptr[i]) && !upper(name.ptr[i])) {
      i++;
      continue;
    }
    size_t from = i++;
    while (i < name.len && (lower(name.ptr[i]) || (upper(name.ptr[i]) && !lower(name.ptr[i - 1])))) i++;
    pu_str word = pu_str_of(name.ptr + from, i - from);
    found |= word_hints(word);
    if (before.len && body_pair(before, word)) found |= HTML_IS_BODY;
    before = word;
  }
  return found;
}

static unsigned class_hints(pu_str value) {
  unsigned found = 0;
  /* Names of tools that style by a hundred classes say nothing after the first few. */
  for (size_t i = 0, names = 0; i < value.len && names < 24; names++) {
    while (i < value.len && html_space(value.ptr[i])) i++;
    size_t from = i;
    while (i < value.len && !html_space(value.ptr[i])) i++;
    found |= name_hints(pu_str_of(value.ptr + from, i - from));
  }
  return found;
}

static unsigned role_hints(pu_str role) {
  static const struct {
    const char *role;
    unsigned says;
  } roles[] = {{"navigation", CHROME}, {"complementary", CHROME}, {"contentinfo", CHROME}, {"search", CHROME},
               {"dialog", CHROME},     {"banner", CHROME},        {"menu", CHROME},        {"main", MAIN},
               {"article", MAIN},      {"toolbar", CHROME},       {"menubar", CHROME},     {"alertdialog", CHROME}};
  for (size_t k = 0; k < PU_COUNT(roles); k++)
    if (html_same(role, roles[k].role)) return roles[k].says;
  return 0;
}

static bool style_hides(pu_str style) {
  static const char *const ways[] = {"display:none", "display: none", "visibility:hidden", "visibility: hidden"};
  for (size_t k = 0; k < PU_COUNT(ways); k++)
    if (style.len && memmem(style.ptr, style.len, ways[k], strlen(ways[k]))) return true;
  return false;
}

unsigned html_hints(const html_node *n) {
  unsigned found = 0;
  pu_str name, value, attrs = pu_str_of(n->ptr, n->len);
  if (n->tag == HTML_TEXT || n->tag == HTML_HTML_ || n->tag == HTML_BODY_) return 0;
  for (size_t at = 0; html_attr_next(attrs, &at, &name, &value);) {
    switch (name.len) {
    case 2:
      if (html_same(name, "id")) found |= name_hints(value);
      break;
    case 4:
      if (html_same(name, "role")) found |= role_hints(value);
      break;
    case 5:
      if (html_same(name, "class")) found |= class_hints(value);
      else if (html_same(name, "style") && style_hides(value)) found |= HTML_IS_HIDDEN;
      break;
    case 6:
      if (html_same(name, "hidden") && !html_same(value, "false")) found |= HTML_IS_HIDDEN;
      break;
    case 8:
      if (html_same(name, "itemprop") && (html_same(value, "articleBody") || html_same(value, "text")))
        found |= HTML_IS_BODY;
      break;
    case 11:
      if (html_same(name, "aria-hidden") && html_same(value, "true")) found |= HTML_IS_HIDDEN;
      break;
    default: break;
    }
  }
  return found;
}
