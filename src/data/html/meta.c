/* What a page says of itself: title, author, time, language, address. Its <meta> and <link> elements first, then
 * JSON-LD (schema.org), then microdata and what stands in the page. */
#include <ctype.h>
#include <string.h>

#include "src/data/html/entities.h"
#include "src/data/html/extract.h"

enum {
  FIELD_MAX = 4096,     /* bytes of a field; longer ones are cut at a character */
  JSON_LD_MAX = 1 << 18 /* bytes of JSON-LD that are read of a page */
};

typedef struct finder {
  const html_dom *d;
  pu_arena *a;
  pu_html_page *page;
  pu_buf text;
  size_t json_left;
  pu_str h1, head_title;
} finder;

/* The text in `text`, in the arena; empty where it is spent. */
static pu_str keep(finder *f) {
  size_t n = PU_MIN(f->text.len, (size_t)FIELD_MAX);
  while (n < f->text.len && n && ((unsigned char)f->text.data[n] & 0xC0) == 0x80) n--;
  char *s = n ? pu_arena_strndup(f->a, f->text.data, n) : NULL;
  return s ? pu_str_of(s, n) : (pu_str){0};
}

static pu_str of_node(finder *f, uint32_t i) {
  pu_buf_clear(&f->text);
  html_text(f->d, i, &f->text);
  return keep(f);
}

/* A value as it stands in an attribute (references in it) or in JSON (none), spaces around it taken away. */
static pu_str of_value(finder *f, pu_str s, bool references) {
  while (s.len && html_space(s.ptr[0])) s = pu_str_of(s.ptr + 1, s.len - 1);
  while (s.len && html_space(s.ptr[s.len - 1])) s.len--;
  if (s.len > 4 * FIELD_MAX) s.len = 4 * FIELD_MAX;
  while (s.len && ((unsigned char)s.ptr[s.len - 1] & 0xC0) == 0x80 && !pu_utf8_valid(s)) s.len--;
  pu_buf_clear(&f->text);
  if (references)
    html_decode(&f->text, s);
  else
    pu_buf_append(&f->text, s.ptr, s.len);
  for (size_t i = 0; i < f->text.len; i++)
    if ((unsigned char)f->text.data[i] < ' ') f->text.data[i] = ' ';
  return pu_utf8_valid(pu_str_of(f->text.data, f->text.len)) ? keep(f) : (pu_str){0};
}

static bool is_url(pu_str s) {
  return s.len > 8 && (memcmp(s.ptr, "http://", 7) == 0 || memcmp(s.ptr, "https://", 8) == 0);
}

static void put(pu_str *field, pu_str value) {
  if (!field->len) *field = value;
}

/* ---- times ------------------------------------------------------------------------------------------------------- */

static bool digits(pu_str s, size_t at, size_t n) {
  if (at + n > s.len) return false;
  for (size_t i = at; i < at + n; i++)
    if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
  return true;
}

static int number(pu_str s, size_t at, size_t n) {
  int v = 0;
  for (size_t i = at; i < at + n; i++) v = v * 10 + (s.ptr[i] - '0');
  return v;
}

/* The length of a clock's time at `at` ("T10:30:00+02:00", " 10:30"), or 0. */
static size_t clock_len(pu_str s, size_t at) {
  if (at >= s.len || (s.ptr[at] != 'T' && s.ptr[at] != ' ') || !digits(s, at + 1, 2) || at + 3 >= s.len ||
      s.ptr[at + 3] != ':' || !digits(s, at + 4, 2))
    return 0;
  size_t n = 6;
  if (at + n < s.len && s.ptr[at + n] == ':' && digits(s, at + n + 1, 2)) n += 3;
  if (at + n < s.len && s.ptr[at + n] == '.')
    for (n++; digits(s, at + n, 1);) n++;
  if (at + n < s.len && s.ptr[at + n] == 'Z') return n + 1;
  if (at + n < s.len && (s.ptr[at + n] == '+' || s.ptr[at + n] == '-') && digits(s, at + n + 1, 2)) {
    size_t z = at + n + 3;
    if (z < s.len && s.ptr[z] == ':') z++;
    if (digits(s, z, 2)) return z + 2 - at;
  }
  return n;
}

/* One or two digits at *at, moved behind them; -1: none. */
static int small_number(pu_str s, size_t *at) {
  size_t n = digits(s, *at, 2) ? 2 : 1;
  if (!digits(s, *at, n)) return -1;
  int v = number(s, *at, n);
  *at += n;
  return v;
}

/* What parts year, month and day at `at`: its length; 0: nothing that does. */
static size_t parting(pu_str s, size_t at, const char *han) {
  if (at >= s.len) return 0;
  if (at + 3 <= s.len && memcmp(s.ptr + at, han, 3) == 0) return 3;
  return strchr("-/.", s.ptr[at]) && s.ptr[at] ? 1 : 0;
}

typedef struct date {
  int year, month, day;
  size_t end;   /* where it ends */
  bool clocked; /* a clock's time may follow */
} date;

/* Is there a date of four digits' year at `at`? */
static bool date_at(pu_str s, size_t at, date *out) {
  out->year = number(s, at, 4);
  at += 4;
  bool packed = digits(s, at, 4) && !digits(s, at + 4, 1);
  size_t sign = packed ? 0 : parting(s, at, "年");
  if (!packed && !sign) return false;
  out->clocked = sign == 1;
  at += sign;
  out->month = small_number(s, &at);
  size_t second = packed || out->month < 0 ? 0 : parting(s, at, "月");
  if (second != sign) return false;
  at += second;
  out->day = small_number(s, &at);
  out->end = at;
  return out->year >= 1970 && out->year <= 2100 && out->month >= 1 && out->month <= 12 && out->day >= 1 &&
         out->day <= 31;
}

/* The first date of the shape 2019-04-03, 2019/4/3, 2019.04.03, 20190403 or 2019年4月3日, as ISO 8601. */
static pu_str iso_time(finder *f, pu_str s) {
  for (size_t i = 0; i + 8 <= s.len; i++) {
    date d;
    if (!digits(s, i, 4) || (i && digits(s, i - 1, 1)) || !date_at(s, i, &d)) continue;
    size_t clock = d.clocked ? clock_len(s, d.end) : 0;
    char *text =
        pu_arena_printf(f->a, "%04d-%02d-%02d%.*s", d.year, d.month, d.day, (int)clock, clock ? s.ptr + d.end : "");
    if (!text) return (pu_str){0};
    if (clock) text[10] = 'T';
    return pu_str_c(text);
  }
  return (pu_str){0};
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

static bool any_of(pu_str s, const char *const *names) {
  for (; *names; names++)
    if (html_same(s, *names)) return true;
  return false;
}

static void of_meta(finder *f, const html_node *n) {
  static const char *const titles[] = {"og:title", "twitter:title", "dc.title", "citation_title", "headline", NULL};
  static const char *const authors[] = {"author",         "article:author",  "dc.creator",      "byl",
                                        "parsely-author", "sailthru.author", "citation_author", NULL};
  static const char *const times[] = {"article:published_time",
                                      "datepublished",
                                      "date",
                                      "pubdate",
                                      "publishdate",
                                      "dc.date",
                                      "dc.date.issued",
                                      "parsely-pub-date",
                                      "sailthru.date",
                                      "citation_publication_date",
                                      "og:published_time",
                                      "publish_date",
                                      "article.published",
                                      "weibo:article:create_at",
                                      "apub:time",
                                      NULL};
  pu_str name = html_attr(n, "property"), content = html_attr(n, "content");
  if (!name.len) name = html_attr(n, "name");
  if (!name.len) name = html_attr(n, "itemprop");
  if (!name.len) name = html_attr(n, "http-equiv");
  if (!name.len || !content.len) return;
  if (any_of(name, titles))
    put(&f->page->title, of_value(f, content, true));
  else if (any_of(name, authors) && !is_url(content))
    put(&f->page->author, of_value(f, content, true));
  else if (any_of(name, times))
    put(&f->page->time, iso_time(f, content));
  else if (html_same(name, "og:url"))
    put(&f->page->url, of_value(f, content, true));
  else if (html_same(name, "og:locale") || html_same(name, "content-language"))
    put(&f->page->lang, of_value(f, content, true));
}

/* ---- JSON-LD ----------------------------------------------------------------------------------------------------- */

static pu_str json_text(finder *f, const json_t *v) {
  if (!json_is_string(v)) return (pu_str){0};
  return of_value(f, pu_str_of(json_string_value(v), json_string_length(v)), true);
}

static pu_str json_name(finder *f, const json_t *v) {
  if (json_is_array(v)) v = json_array_get(v, 0);
  return json_text(f, json_is_object(v) ? json_object_get(v, "name") : v);
}

static bool says_article(const json_t *type) {
  if (json_is_array(type)) type = json_array_get(type, 0);
  const char *s = json_string_value(type);
  return s && (strstr(s, "Article") || strstr(s, "Posting") || strstr(s, "Report") || strstr(s, "Question"));
}

static void of_object(finder *f, const json_t *o) {
  if (!json_is_object(o) || !says_article(json_object_get(o, "@type"))) return;
  const json_t *day = json_object_get(o, "datePublished");
  put(&f->page->title, json_text(f, json_object_get(o, "headline")));
  pu_str author = json_name(f, json_object_get(o, "author"));
  if (!is_url(author)) put(&f->page->author, author);
  if (json_is_string(day)) put(&f->page->time, iso_time(f, pu_str_of(json_string_value(day), json_string_length(day))));
}

static void of_json(finder *f, uint32_t script) {
  const html_node *n = &f->d->nodes[script];
  if (n->end != script + 2) return;
  pu_str text = pu_str_of(f->d->nodes[script + 1].ptr, f->d->nodes[script + 1].len);
  if (text.len > f->json_left) return;
  f->json_left -= text.len;
  json_t *all = json_loadb(text.ptr, text.len, JSON_ALLOW_NUL, NULL), *item;
  const json_t *list = json_is_object(all) ? json_object_get(all, "@graph") : all;
  size_t k;
  of_object(f, all);
  json_array_foreach(list, k, item) of_object(f, item);
  json_decref(all);
}

/* ---- the page ---------------------------------------------------------------------------------------------------- */

/* A page's <title> without the site's name behind or before the last sign that parts them, where enough is left. */
static pu_str without_site(pu_str s) {
  static const char *const parts[] = {" | ", " - ", " – ", " — ", " :: ", " » ", "_", "｜"};
  for (size_t k = 0; k < PU_COUNT(parts); k++) {
    size_t n = strlen(parts[k]);
    for (size_t i = s.len > n ? s.len - n : 0; i > 0; i--) {
      if (memcmp(s.ptr + i, parts[k], n) != 0) continue;
      if (i * 3 >= s.len) return pu_str_of(s.ptr, i);
      break;
    }
  }
  return s;
}

static bool word_in(pu_str value, const char *word) {
  return value.len && memmem(value.ptr, value.len, word, strlen(word)) != NULL;
}

static void of_element(finder *f, uint32_t i) {
  const html_node *n = &f->d->nodes[i];
  pu_html_page *p = f->page;
  switch ((html_tag)n->tag) {
  case HTML_HTML_:
    put(&p->lang, of_value(f, html_attr(n, "lang"), true));
    return;
  case HTML_META_:
    of_meta(f, n);
    return;
  case HTML_LINK_:
    if (html_same(html_attr(n, "rel"), "canonical")) put(&p->url, of_value(f, html_attr(n, "href"), true));
    return;
  case HTML_TITLE_:
    if (!f->head_title.len && f->d->nodes[n->parent].tag != HTML_SVG_) f->head_title = of_node(f, i);
    return;
  case HTML_SCRIPT_:
    if (html_same(html_attr(n, "type"), "application/ld+json")) of_json(f, i);
    return;
  case HTML_H1_:
    if (!f->h1.len) f->h1 = of_node(f, i);
    return;
  case HTML_TIME_:
    if (!p->time.len) put(&p->time, iso_time(f, html_attr(n, "datetime")));
    break;
  default:
    break;
  }
  if (html_is(n, HTML_GONE) || (p->author.len && p->time.len)) return;
  pu_str prop = html_attr(n, "itemprop"), rel = html_attr(n, "rel"), content = html_attr(n, "content");
  if (!p->author.len && (html_same(prop, "author") || html_same(rel, "author")) && n->end - i < 64) {
    pu_str name = of_node(f, i);
    if (name.len && name.len < 120) put(&p->author, name);
  }
  if (!p->time.len && html_same(prop, "datePublished")) {
    put(&p->time, iso_time(f, content.len ? content : html_attr(n, "datetime")));
    if (!p->time.len && n->end - i < 16) put(&p->time, iso_time(f, of_node(f, i)));
  }
}

/* A short line about the text that holds a date or begins with "By": the last resort. */
static void of_lines(finder *f) {
  const html_dom *d = f->d;
  unsigned tries = 0;
  for (uint32_t i = 1; i < d->n && tries < 64 && !(f->page->time.len && f->page->author.len); i++) {
    const html_node *n = &d->nodes[i];
    if (n->tag == HTML_TEXT || n->end - i > 16 || html_is(n, HTML_GONE)) continue;
    pu_str c = html_attr(n, "class");
    if (!(word_in(c, "date") || word_in(c, "time") || word_in(c, "byline") || word_in(c, "author") ||
          word_in(c, "info") || word_in(c, "source")))
      continue;
    tries++;
    pu_str line = of_node(f, i);
    if (line.len > 200) continue;
    put(&f->page->time, iso_time(f, line));
    if (line.len > 3 && line.len < 80 && (memcmp(line.ptr, "By ", 3) == 0 || memcmp(line.ptr, "by ", 3) == 0))
      put(&f->page->author, pu_str_of(line.ptr + 3, line.len - 3));
  }
}

/* "en_US" and "EN-us" as "en-US"; what is no such code is left out. */
static pu_str language(finder *f, pu_str s) {
  size_t n = 0;
  while (n < s.len && isalpha((unsigned char)s.ptr[n])) n++;
  if (n < 2 || n > 3 || (n < s.len && s.ptr[n] != '-' && s.ptr[n] != '_')) return (pu_str){0};
  size_t all = n;
  while (all < s.len && all < 16 && (isalnum((unsigned char)s.ptr[all]) || s.ptr[all] == '-' || s.ptr[all] == '_'))
    all++;
  char *out = pu_arena_strndup(f->a, s.ptr, all);
  if (!out) return (pu_str){0};
  for (size_t i = 0; i < all; i++) out[i] = out[i] == '_' ? '-' : i < n ? (char)tolower((unsigned char)out[i]) : out[i];
  return pu_str_of(out, all);
}

void html_metadata(const html_dom *d, pu_arena *a, pu_html_page *page) {
  finder f = {.d = d, .a = a, .page = page, .json_left = JSON_LD_MAX};
  pu_buf_init(&f.text, PU_DOC_MAX);
  for (uint32_t i = 1; i < d->n; i++)
    if (d->nodes[i].tag != HTML_TEXT) of_element(&f, i);
  if (!page->time.len || !page->author.len) of_lines(&f);
  bool same = f.h1.len && f.head_title.len && memmem(f.head_title.ptr, f.head_title.len, f.h1.ptr, f.h1.len);
  put(&page->title, same || !f.head_title.len ? f.h1 : without_site(f.head_title));
  page->lang = language(&f, page->lang);
  pu_buf_deinit(&f.text);
}
