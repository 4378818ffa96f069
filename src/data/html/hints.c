/* What the names of an element's class, id and role say. The words are those that site builders use all over the web;
 * none is a site's own. */
#include "src/data/html/extract.h"

#include <string.h>
#include <strings.h>

enum {
  CHROME = HTML_IS_CHROME,
  SOCIAL = HTML_IS_SOCIAL,
  RELATED = HTML_IS_RELATED,
  COMMENT = HTML_IS_COMMENT,
  META = HTML_IS_META,
  BODY = HTML_IS_BODY,
  MAIN = HTML_IS_MAIN,
  POST = HTML_IS_POST,
  PROFILE = HTML_IS_PROFILE,
  NOTICE = HTML_IS_NOTICE
};

/* Sorted. */
static const html_word words[] = {{"ad", RELATED, false},
                                  {"addthis", SOCIAL, false},
                                  {"ads", RELATED, false},
                                  {"adsbygoogle", RELATED, false},
                                  {"adv", RELATED, false},
                                  {"advert", RELATED, true},
                                  {"advertisement", RELATED, false},
                                  {"advertising", RELATED, false},
                                  {"advertorial", RELATED, false},
                                  {"adverts", RELATED, false},
                                  {"alsoin", RELATED, false},
                                  {"alsolike", RELATED, false},
                                  {"alsoread", RELATED, false},
                                  {"answer", POST, false},
                                  {"article", MAIN, false},
                                  {"articlebody", BODY, false},
                                  {"articlecontent", BODY, false},
                                  {"articletext", BODY, false},
                                  {"author", META, false},
                                  {"authorbox", META, false},
                                  {"authors", META, false},
                                  {"avatar", META | PROFILE, false},
                                  {"badge", PROFILE, false},
                                  {"badges", PROFILE, false},
                                  {"banner", RELATED, false},
                                  {"bio", META, false},
                                  {"blog", MAIN, false},
                                  {"blogroll", RELATED, false},
                                  {"bodycopy", BODY, false},
                                  {"bodytext", BODY, false},
                                  {"breadcrumb", CHROME, true},
                                  {"breadcrumbs", CHROME, false},
                                  {"breaking", RELATED, false},
                                  {"byauthor", META, false},
                                  {"byline", META, false},
                                  {"bylines", META, false},
                                  {"caption", META, false},
                                  {"captions", META, false},
                                  {"carousel", RELATED, false},
                                  {"cat", META, false},
                                  {"categories", META, false},
                                  {"category", META, false},
                                  {"ccpa", NOTICE, false},
                                  {"comment", COMMENT | POST, true},
                                  {"commenting", COMMENT, false},
                                  {"commentlist", COMMENT, false},
                                  {"comments", COMMENT, false},
                                  {"complementary", CHROME, false},
                                  {"consent", NOTICE, false},
                                  {"content", MAIN, false},
                                  {"contentbody", BODY, false},
                                  {"contentinfo", CHROME, false},
                                  {"conversations", COMMENT, false},
                                  {"cookie", NOTICE, true},
                                  {"cookiebanner", NOTICE, false},
                                  {"cookiebar", NOTICE, false},
                                  {"cookies", NOTICE, false},
                                  {"copyright", META, false},
                                  {"credit", META, false},
                                  {"credits", META, false},
                                  {"crumb", CHROME, false},
                                  {"crumbs", CHROME, false},
                                  {"cta", RELATED, false},
                                  {"date", META, false},
                                  {"dateline", META, false},
                                  {"disclaimer", META, false},
                                  {"disqus", COMMENT, true},
                                  {"donate", RELATED, false},
                                  {"donation", RELATED, false},
                                  {"drawer", CHROME, false},
                                  {"dropdown", CHROME, true},
                                  {"edited", META, false},
                                  {"editor", META, false},
                                  {"emoji", SOCIAL, false},
                                  {"entry", MAIN, false},
                                  {"entrycontent", BODY, false},
                                  {"entrymeta", META, false},
                                  {"fbcomments", COMMENT, false},
                                  {"figcaption", META, false},
                                  {"flair", PROFILE, false},
                                  {"follow", SOCIAL, false},
                                  {"footer", CHROME, false},
                                  {"galleries", RELATED, false},
                                  {"gallery", RELATED, false},
                                  {"gdpr", NOTICE, false},
                                  {"hamburger", CHROME, false},
                                  {"karma", PROFILE, false},
                                  {"keywords", META, false},
                                  {"kicker", META, false},
                                  {"lang", CHROME, false},
                                  {"languages", CHROME, false},
                                  {"latest", RELATED, false},
                                  {"lightbox", CHROME, false},
                                  {"like", SOCIAL, false},
                                  {"likes", SOCIAL, false},
                                  {"livefyre", COMMENT, false},
                                  {"login", CHROME, false},
                                  {"main", MAIN, false},
                                  {"masthead", CHROME, false},
                                  {"membership", PROFILE, false},
                                  {"menu", CHROME, false},
                                  {"menus", CHROME, false},
                                  {"message", POST, false},
                                  {"meta", META, false},
                                  {"modal", CHROME, false},
                                  {"morefrom", RELATED, false},
                                  {"mostread", RELATED, false},
                                  {"nav", CHROME, false},
                                  {"navbar", CHROME, true},
                                  {"navigation", CHROME, true},
                                  {"news", MAIN, false},
                                  {"newsbody", BODY, false},
                                  {"newscontent", BODY, false},
                                  {"newsletter", RELATED, true},
                                  {"newsletters", RELATED, false},
                                  {"noprint", CHROME, false},
                                  {"notices", RELATED, false},
                                  {"offcanvas", CHROME, false},
                                  {"online", PROFILE, false},
                                  {"outbrain", RELATED, true},
                                  {"overlay", CHROME, false},
                                  {"pagenav", CHROME, false},
                                  {"pager", CHROME, false},
                                  {"pagination", CHROME, true},
                                  {"paging", CHROME, false},
                                  {"paywall", RELATED, false},
                                  {"permalink", META, false},
                                  {"pinterest", SOCIAL, false},
                                  {"popular", RELATED, false},
                                  {"popup", CHROME, false},
                                  {"post", MAIN | POST, false},
                                  {"postbody", BODY, false},
                                  {"postcontent", BODY, false},
                                  {"postdetails", PROFILE, false},
                                  {"posted", META, false},
                                  {"poster", PROFILE, false},
                                  {"postmeta", META, false},
                                  {"postprofile", PROFILE, false},
                                  {"posts", POST, false},
                                  {"print", META, false},
                                  {"profile", PROFILE, false},
                                  {"promo", RELATED, true},
                                  {"promos", RELATED, false},
                                  {"promoted", RELATED, false},
                                  {"promotion", RELATED, false},
                                  {"pubdate", META, false},
                                  {"published", META, false},
                                  {"question", POST, false},
                                  {"rail", CHROME, false},
                                  {"rank", PROFILE, false},
                                  {"rating", SOCIAL, false},
                                  {"ratings", SOCIAL, false},
                                  {"reactions", SOCIAL, false},
                                  {"readalso", RELATED, false},
                                  {"readingtime", META, false},
                                  {"readmore", RELATED, false},
                                  {"readtime", META, false},
                                  {"recirc", RELATED, true},
                                  {"recirculation", RELATED, false},
                                  {"recommend", RELATED, true},
                                  {"recommendation", RELATED, true},
                                  {"recommended", RELATED, false},
                                  {"register", CHROME, false},
                                  {"registration", CHROME, false},
                                  {"related", RELATED, true},
                                  {"replies", COMMENT, false},
                                  {"reply", POST, false},
                                  {"reputation", PROFILE, false},
                                  {"respond", COMMENT, false},
                                  {"search", CHROME, false},
                                  {"searchbox", CHROME, false},
                                  {"searchform", CHROME, false},
                                  {"seealso", RELATED, false},
                                  {"share", SOCIAL, false},
                                  {"sharebar", SOCIAL, true},
                                  {"sharebutton", SOCIAL, true},
                                  {"shares", SOCIAL, false},
                                  {"sharethis", SOCIAL, false},
                                  {"sharetool", SOCIAL, true},
                                  {"sharing", SOCIAL, false},
                                  {"sidebar", CHROME, true},
                                  {"sidebars", CHROME, false},
                                  {"sig", PROFILE, false},
                                  {"signature", PROFILE, false},
                                  {"signatures", PROFILE, false},
                                  {"signin", CHROME, false},
                                  {"signup", CHROME, false},
                                  {"sitemap", CHROME, false},
                                  {"skip", CHROME, false},
                                  {"skiplink", CHROME, false},
                                  {"slider", RELATED, false},
                                  {"slideshow", RELATED, false},
                                  {"slideshows", RELATED, false},
                                  {"social", SOCIAL, true},
                                  {"socialmedia", SOCIAL, true},
                                  {"socials", SOCIAL, false},
                                  {"socialshare", SOCIAL, true},
                                  {"source", META, false},
                                  {"sponsor", RELATED, true},
                                  {"sponsored", RELATED, false},
                                  {"sponsors", RELATED, false},
                                  {"story", MAIN, false},
                                  {"storybody", BODY, false},
                                  {"storycontent", BODY, false},
                                  {"storytext", BODY, false},
                                  {"submenu", CHROME, false},
                                  {"subscri", RELATED, true},
                                  {"subscribe", RELATED, false},
                                  {"subscriber", RELATED, false},
                                  {"subscription", RELATED, false},
                                  {"suggested", RELATED, false},
                                  {"suggestions", RELATED, false},
                                  {"taboola", RELATED, true},
                                  {"tag", META, false},
                                  {"tagcloud", RELATED, false},
                                  {"tagged", META, false},
                                  {"taglist", META, false},
                                  {"tags", META, false},
                                  {"teaser", RELATED, false},
                                  {"teasers", RELATED, false},
                                  {"thread", POST, false},
                                  {"time", META, false},
                                  {"timestamp", META, false},
                                  {"toc", CHROME, false},
                                  {"toolbar", CHROME, false},
                                  {"tooltip", CHROME, false},
                                  {"topbar", CHROME, false},
                                  {"topic", POST, false},
                                  {"trending", RELATED, false},
                                  {"upnext", RELATED, false},
                                  {"userdetails", PROFILE, false},
                                  {"userinfo", PROFILE, false},
                                  {"usertitle", PROFILE, false},
                                  {"views", META, false},
                                  {"vote", SOCIAL, false},
                                  {"votes", SOCIAL, false},
                                  {"whatsapp", SOCIAL, false},
                                  {"widget", RELATED, false},
                                  {"widgets", RELATED, false}};

static unsigned word_hints(pu_str word) {
  int i = html_word_find(words, PU_COUNT(words), html_key_of(word));
  /* The word itself, or one that it begins with, which stands a few rows before it at most. */
  for (int k = 0; k < 3 && i >= 0; k++, i--) {
    size_t n = strlen(words[i].text);
    if (n > word.len || strncasecmp(words[i].text, word.ptr, n) != 0) continue;
    if (n == word.len || words[i].begins) return words[i].kind;
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

/* What an element has or may do ("has-sidebar", "enableAdSlots"), not what it is. */
static bool option(pu_str word) {
  static const char *const begins[] = {"has",     "no",   "not",  "with",  "without", "enable",
                                       "disable", "show", "hide", "allow", "filter",  "use"};
  for (size_t k = 0; k < PU_COUNT(begins); k++)
    if (html_same(word, begins[k])) return true;
  return false;
}

/* "lg:w-[var(--rail)]" names a look. */
static bool names_look(pu_str name) {
  return memchr(name.ptr, ':', name.len) || memchr(name.ptr, '(', name.len) || memchr(name.ptr, '[', name.len);
}

/* Of one class or id: its words are parted by signs, digits and capitals. */
static unsigned name_hints(pu_str name) {
  unsigned found = 0;
  pu_str before = {0};
  if (!name.len || names_look(name)) return 0;
  for (size_t i = 0; i < name.len;) {
    if (!lower(name.ptr[i]) && !upper(name.ptr[i])) {
      i++;
      continue;
    }
    size_t from = i++;
    while (i < name.len && (lower(name.ptr[i]) || (upper(name.ptr[i]) && !lower(name.ptr[i - 1])))) i++;
    pu_str word = pu_str_of(name.ptr + from, i - from);
    if (!before.len && i < name.len && option(word)) return 0;
    found |= word_hints(word);
    if (before.len && body_pair(before, word)) found |= HTML_IS_BODY;
    before = word;
  }
  return found;
}

/* What style sheets hide, or show to a screen reader only. */
static bool hiding_class(pu_str name) {
  static const char *const names[] = {"hidden",          "hide",           "is-hidden",         "d-none", "sr-only",
                                      "visually-hidden", "visuallyhidden", "screen-reader-text"};
  for (size_t k = 0; k < PU_COUNT(names); k++)
    if (html_same(name, names[k])) return true;
  return false;
}

static unsigned class_hints(pu_str value) {
  unsigned found = 0;
  bool looks = value.len && memchr(value.ptr, ':', value.len); /* "hidden md:block" is shown on some screens */
  /* Names of tools that style by a hundred classes say nothing after the first few. */
  for (size_t i = 0, names = 0; i < value.len && names < 24; names++) {
    while (i < value.len && html_space(value.ptr[i])) i++;
    size_t from = i;
    while (i < value.len && !html_space(value.ptr[i])) i++;
    pu_str name = pu_str_of(value.ptr + from, i - from);
    found |= name_hints(name);
    if (!looks && hiding_class(name)) found |= HTML_IS_HIDDEN;
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
      if (html_same(name, "class"))
        found |= class_hints(value);
      else if (html_same(name, "style") && style_hides(value))
        found |= HTML_IS_HIDDEN;
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
    default:
      break;
    }
  }
  return found;
}
