/* Web pages to Markdown, on pages made by hand: each kind of element, each kind of furniture, what pages say of
 * themselves, and pages meant to hurt. Real pages are measured by bench_html. */
#include "src/data/html/html.h"
#include "src/data/html/dom.h"
#include "src/data/html/entities.h"
#include "tests/test.h"

#include <stdlib.h>

#define LONG_A                                                                                                         \
  "The river had been rising since the morning, and nobody in the village believed any longer that the old bridge, "   \
  "which had stood for three hundred years, would see the evening."
#define LONG_B                                                                                                         \
  "By noon the water stood at the lowest windows of the mill; the miller carried his flour upstairs, sack by sack, "   \
  "and counted what was lost. It was, he said later, less than he had feared."
#define LONG_C                                                                                                         \
  "When the rain stopped at last, the children were the first outside, and they found that the river had left a "      \
  "boat, whole and painted green, in the middle of the market square."

typedef struct fixture {
  pu_arena *arena;
  pu_buf out;
  pu_html_page page;
} fixture;

static int setup(void **state) {
  fixture *f = calloc(1, sizeof *f);
  pu_error e;
  if (!f || pu_arena_create((size_t)512 << 20, &f->arena, &e)) return -1;
  pu_buf_init(&f->out, PU_DOC_MAX);
  *state = f;
  return 0;
}

static int teardown(void **state) {
  fixture *f = *state;
  pu_buf_deinit(&f->out);
  pu_arena_free(f->arena);
  free(f);
  return 0;
}

static const char *read_str(fixture *f, pu_html_mode mode, pu_str html) {
  pu_error e;
  pu_arena_reset(f->arena);
  pu_buf_clear(&f->out);
  assert_ok(pu_html_extract(html, mode, f->arena, &f->out, &f->page, &e), &e);
  return f->out.data ? f->out.data : "";
}

/* All that is shown. */
static void shows(fixture *f, const char *html, const char *want) {
  assert_string_equal(read_str(f, PU_HTML_ALL, pu_str_c(html)), want);
}

/* The text of an article of three paragraphs with `more` after the first. */
static const char *article_with(fixture *f, const char *more) {
  static char html[1 << 16];
  snprintf(html, sizeof html,
           "<html><body><div class=wrap><div class=x><p>" LONG_A "</p>%s<p>" LONG_B "</p><p>" LONG_C
           "</p></div></div></body></html>",
           more);
  return read_str(f, PU_HTML_ARTICLE, pu_str_c(html));
}

static void is_dropped(fixture *f, const char *more) {
  const char *got = article_with(f, more);
  if (strcmp(got, LONG_A "\n\n" LONG_B "\n\n" LONG_C)) fail_msg("%s\nwas read as\n%s", more, got);
}

static void is_kept(fixture *f, const char *more, const char *as) {
  char want[4096];
  const char *got = article_with(f, more);
  snprintf(want, sizeof want, LONG_A "\n\n%s\n\n" LONG_B "\n\n" LONG_C, as);
  if (strcmp(got, want)) fail_msg("%s\nwas read as\n%s\nand not as\n%s", more, got, want);
}

/* ---- elements
 * -------------------------------------------------------------------------------------------------------- */

static void test_text(void **state) {
  fixture *f = *state;
  shows(f, "", "");
  shows(f, "plain", "plain");
  shows(f, "<p>one<p>two", "one\n\ntwo");
  shows(f, "<p> a \n  b\t<b>c</b> d</p>", "a b c d");
  shows(f, "<p>a<b>b</b>c</p>", "abc");
  shows(f, "<div>one<div>two</div>three</div>", "one\n\ntwo\n\nthree");
  shows(f, "<p>line<br>line</p>", "line\nline");
  shows(f, "<p>para<br><br>para</p>", "para\n\npara");
  shows(f, "<p>&lt;b&gt; &amp; &eacute;&#233;&#xe9; &unknown; &copy 5&nbsp;km AT&T</p>",
        "<b> & ééé &unknown; © 5 km AT&T");
  shows(f, "<p>3 < 4 and 5 > 2</p>", "3 < 4 and 5 > 2");
  shows(f, "<p>a<!-- <p>no --> b<!-->c</p>", "a bc");
  shows(f, "<script>if (a<b) x('</p>')</script><style>p{}</style><p>t</p><noscript>n</noscript>", "t");
  shows(f, "<p>soft&shy;hyphen zero\xE2\x80\x8Bwidth</p>", "softhyphen zerowidth");
  shows(f, "<p>\xE4\xB8\xAD\xE6\x96\x87\xE3\x80\x80x</p>", "中文 x");
  shows(f, "<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>", "漢");
  shows(f, "<P CLASS=X>upper</P>", "upper");
  shows(f, "<p title='a > b'>quoted</p>", "quoted");
  shows(f, "<p title=\"never closed>but</p>", "but");
}

static void test_headings_lists_quotes(void **state) {
  fixture *f = *state;
  shows(f, "<h1>A</h1><p>t</p><h3>B <i>c</i></h3>", "# A\n\nt\n\n### B c");
  shows(f, "<h2></h2><p>t</p>", "t");
  shows(f, "<ul><li>a<li>b</ul>", "- a\n- b");
  shows(f, "<p>x</p><ol><li>a</li><li>b</li></ol><p>y</p>", "x\n\n1. a\n2. b\n\ny");
  shows(f, "<ol start=7><li>a</li><li>b</li></ol>", "7. a\n8. b");
  shows(f, "<ul><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ul>", "- a\n  - b\n  - c\n- d");
  shows(f, "<ol><li><p>a</p><p>b</p></li><li>c</li></ol>", "1. a\n\n   b\n2. c");
  shows(f, "<blockquote><p>a</p><p>b</p></blockquote><p>c</p>", "> a\n>\n> b\n\nc");
  shows(f, "<blockquote>a<ul><li>b</ul></blockquote>", "> a\n>\n> - b");
  shows(f, "<dl><dt>t<dd>d<dt>u<dd>e</dl>", "t\nd\nu\ne");
  shows(f, "<ul><li><li>b</ul>", "- b");
}

static void test_tables(void **state) {
  fixture *f = *state;
  shows(f, "<table><tr><th>a<th>b<tr><td>1<td>2</table>", "| a | b |\n| --- | --- |\n| 1 | 2 |");
  shows(f,
        "<p>x</p><table><caption>C</caption><tbody><tr><td>a|b</td><td></td></tr><tr><td><p>1</p><p>2</p></td>"
        "<td>3</td></tr></tbody></table>y",
        "x\n\nC\n\n| a\\|b |  |\n| --- | --- |\n| 1 2 | 3 |\n\ny");
  /* One that only lays the page out is no table. */
  shows(f, "<table><tr><td><p>a</p><p>b</p></td></tr></table>", "a\n\nb");
  shows(f, "<table><tr><td>x<table><tr><td>1<td>2<tr><td>3<td>4</table></td></tr></table>",
        "x\n\n| 1 | 2 |\n| --- | --- |\n| 3 | 4 |");
}

static void test_code(void **state) {
  fixture *f = *state;
  shows(f, "<p>call <code>f(x)</code> now</p>", "call `f(x)` now");
  shows(f, "<p>a tick <code>`</code></p>", "a tick `");
  shows(f, "<pre>\nif (x)\n  y &amp;&amp; z;\n</pre>", "```\nif (x)\n  y && z;\n```");
  shows(f, "<pre><code class=\"language-c\">int x;\n\nint y;</code></pre><p>t</p>", "```c\nint x;\n\nint y;\n```\n\nt");
  shows(f, "<pre>a<br>b</pre>", "```\na\nb\n```");
  shows(f, "<pre>```\nx</pre>", "~~~~\n```\nx\n~~~~");
  shows(f, "<pre><span class=lineno>1</span>a</pre>", "```\na\n```");
  shows(f, "<ul><li>do<pre>x\ny</pre></ul>", "- do\n\n  ```\n  x\n  y\n  ```");
  shows(f, "<pre>  </pre>t", "t");
}

static void test_formulas(void **state) {
  fixture *f = *state;
  shows(f,
        "<p>so <math><semantics><mrow><mi>x</mi></mrow><annotation encoding=\"application/x-tex\">x^2 &lt; "
        "3</annotation></semantics></math>.</p>",
        "so $x^2 < 3$.");
  shows(f, "<math alttext=\"{\\displaystyle a+b}\"><mi>a</mi></math>", "$a+b$");
  shows(f, "<math display=block><mfrac><mi>a</mi><msqrt><mn>2</mn></msqrt></mfrac></math>", "$$\\frac{a}{\\sqrt{2}}$$");
  shows(f,
        "<math><msubsup><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></msubsup><msup><mi>α</mi>"
        "<mn>2</mn></msup></math>",
        "$\\sum_{i=1}^{n}\\alpha^{2}$");
  shows(f, "<math><mi>sin</mi><mi>x</mi><mo>≤</mo><mroot><mi>y</mi><mn>3</mn></mroot></math>",
        "$\\sin x\\leq \\sqrt[3]{y}$");
  shows(f,
        "<math><mfenced><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr><mtr><mtd><mn>3</mn></mtd><mtd>"
        "<mn>4</mn></mtd></mtr></mtable></mfenced></math>",
        "$(\\begin{matrix}1 & 2 \\\\ 3 & 4\\end{matrix})$");
  shows(f, "<math><mtext>if</mtext><mi>rank</mi></math>", "$\\text{if}\\mathrm{rank}$");
  /* KaTeX: the MathML is read, what is drawn is not. */
  shows(f,
        "<p>a <span class=katex><span class=katex-mathml><math><semantics><mi>E</mi><annotation "
        "encoding=\"application/x-tex\">E=mc^2</annotation></semantics></math></span><span class=katex-html "
        "aria-hidden=true>E=mc2</span></span> b</p>",
        "a $E=mc^2$ b");
  /* MathJax 2: the script has the source. */
  shows(f,
        "<p>a <span class=MathJax_Preview>?</span><span class=MathJax>drawn</span><script type=\"math/tex\">x<y"
        "</script> b</p>",
        "a $x<y$ b");
  shows(f, "<script type=\"math/tex; mode=display\">x\ny</script>", "$$x y$$");
  shows(f, "<p>as <img class=latex alt=\"\\pi r^2\"> is</p>", "as $\\pi r^2$ is");
  /* In an article too, where what is hidden is dropped: the formula stands hidden beside its picture. */
  const char *got =
      article_with(f, "<p>The area of the circle, as all of them had learnt it at school, was <span><span "
                      "style=\"display:none\"><math alttext=\"\\pi r^2\"></math></span></span>, or so.</p>");
  assert_non_null(strstr(got, "was $\\pi r^2$, or so."));
}

/* ---- the tree
 * -------------------------------------------------------------------------------------------------------- */

static void test_tree(void **state) {
  fixture *f = *state;
  shows(f, "<div><span>a</div>b</span>", "a\n\nb");
  shows(f, "</p></div></b>x", "x");
  shows(f, "<b><p>a</b>b</p>c", "ab\n\nc");
  shows(f, "<table><tr><td>a</div><td>b<tr><td>c<td>d</table>", "| a | b |\n| --- | --- |\n| c | d |");
  shows(f, "<h2>a</h3><p>b", "## a\n\nb");
  shows(f, "<form><div>a</form>b</div>c", "ab\n\nc");
  shows(f, "<select><option>a<option>b</select>c", "c");
  shows(f, "<svg><path d=x /><text>no</text></svg>yes", "yes");
  shows(f, "<title>t</title><body>b</body>c", "bc");
  shows(f, "a</br>b", "a\nb");
  shows(f, "<", "<");
  shows(f, "a<", "a<");
  shows(f, "a</", "a");
  shows(f, "<p", "");
  shows(f, "a<p x='", "a");
  shows(f, "<textarea>x</textarea", "");
  shows(f, "a<![CDATA[x]]>b<?php y ?>c", "abc");
}

static void test_attributes(void **state) {
  (void)state;
  html_node n = {.ptr = " a=1 b = \"two\" c='th ree' DISABLED e= f=/x/", .tag = HTML_DIV_};
  n.len = (uint32_t)strlen(n.ptr);
  assert_true(pu_str_eq(html_attr(&n, "a"), pu_str_c("1")));
  assert_true(pu_str_eq(html_attr(&n, "b"), pu_str_c("two")));
  assert_true(pu_str_eq(html_attr(&n, "c"), pu_str_c("th ree")));
  assert_non_null(html_attr(&n, "disabled").ptr);
  assert_null(html_attr(&n, "x").ptr);
}

static void test_entities(void **state) {
  (void)state;
  static const struct {
    const char *text;
    uint32_t cp;
    size_t len;
  } rows[] = {{"&amp;", '&', 5},
              {"&amp", '&', 4},
              {"&ampx", 0, 0},
              {"&hellip;", 0x2026, 8},
              {"&hellip", 0, 0},
              {"&#65;", 'A', 5},
              {"&#x41;", 'A', 6},
              {"&#65", 'A', 4},
              {"&#0;", 0xFFFD, 4},
              {"&#xD800;", 0xFFFD, 8},
              {"&#99999999999;", 0xFFFD, 14},
              {"&#150;", 0x2013, 6},
              {"&#;", 0, 0},
              {"&#x;", 0, 0},
              {"&", 0, 0},
              {"& ", 0, 0},
              {"&zwnj;", 0x200C, 6},
              {"&AElig;", 0xC6, 7},
              {"&nosuchname;", 0, 0},
              {"&Zeta;", 0x396, 6}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    uint32_t cp = 0;
    size_t n = html_entity(pu_str_c(rows[i].text), &cp);
    if (n != rows[i].len || (n && cp != rows[i].cp)) fail_msg("%s: %zu bytes, %u", rows[i].text, n, cp);
  }
}

static void test_words(void **state) {
  (void)state;
  assert_int_equal(html_tag_find(pu_str_c("P")), HTML_P_);
  assert_int_equal(html_tag_find(pu_str_c("blockquote")), HTML_BLOCKQUOTE_);
  assert_int_equal(html_tag_find(pu_str_c("munderover")), HTML_MUNDEROVER_);
  assert_int_equal(html_tag_find(pu_str_c("munder")), HTML_MUNDER_);
  assert_int_equal(html_tag_find(pu_str_c("m:math")), HTML_MATH_);
  assert_int_equal(html_tag_find(pu_str_c("")), HTML_OTHER);
  assert_int_equal(html_tag_find(pu_str_c("aa")), HTML_OTHER);
  assert_int_equal(html_tag_find(pu_str_c("zzzzzzzzzzzzzzzzzzzzzzzz")), HTML_OTHER);
}

/* ---- furniture
 * ------------------------------------------------------------------------------------------------------- */

static void test_dropped(void **state) {
  fixture *f = *state;
  static const char *const rows[] = {
      "<nav><a href=/>Home</a> <a href=/x>News of the day</a></nav>",
      "<aside><p>Our other stories are just as good, and you will like them very much.</p></aside>",
      "<footer><p>Written by hand, printed by machine, and sold by the dozen.</p></footer>",
      "<div class=\"share-bar\"><a href=x>Facebook</a> <a href=y>Twitter</a></div>",
      "<div class=socialShare>Tell your friends, and tell them soon.</div>",
      "<div id=cookie-notice><p>We use cookies, as everyone does; press the button.</p></div>",
      "<div class=related-posts><h3>Read these</h3><p>The mill of the next village is older.</p></div>",
      "<section id=comments><p>I do not believe a word of this, and neither does my neighbour.</p></section>",
      "<div class=\"ad-slot\">Buy three, pay for two, today only.</div>",
      "<div class=newsletter-signup><p>Get our letter each week, for nothing.</p></div>",
      "<ul class=breadcrumbs><li>Home<li>News</ul>",
      "<div class=byline>By A. Writer</div>",
      "<div class=post-meta>May 4, 2019, 3 min</div>",
      "<figure><img src=x><figcaption>The bridge in better times.</figcaption></figure>",
      "<ul><li><a href=1>The mill is sold</a><li><a href=2>The bridge is sold</a><li><a href=3>All is sold</a></ul>",
      "<div><a href=1>The mill</a> | <a href=2>The bridge</a> | <a href=3>The river</a></div>",
      "<p>Read more</p>",
      "<div>Advertisement</div>",
      "<p>Share this article:</p>",
      "<p>相关阅读</p>",
      "<p><a href=x>More about the mill and its miller</a></p>",
      "<div style=\"display:none\">You should not see this, and yet it is in the page.</div>",
      "<div hidden>You should not see this, and yet it is in the page.</div>",
      "<div aria-hidden=true>You should not see this, and yet it is in the page.</div>",
      "<div class='box hidden'>You should not see this, and yet it is in the page.</div>",
      "<div class=sr-only>You should hear this, and yet it is in the page.</div>",
      "<form><label>Your name</label><input><button>Send it to us</button></form>",
      "<div role=navigation>Here, there, and everywhere else, too.</div>",
      "<iframe>no</iframe><object><p>no</p></object><video>no</video><canvas>no</canvas>"};
  for (size_t i = 0; i < PU_COUNT(rows); i++) is_dropped(f, rows[i]);
}

static void test_kept(void **state) {
  fixture *f = *state;
  is_kept(f, "<h2>The afternoon</h2>", "## The afternoon");
  is_kept(f, "<ul><li>flour, two sacks</li><li>a lamp</li></ul>", "- flour, two sacks\n- a lamp");
  is_kept(f, "<p>A <a href=x>link</a> in a line of text is text.</p>", "A link in a line of text is text.");
  is_kept(f, "<blockquote>No.</blockquote>", "> No.");
  is_kept(f, "<figure><table><tr><td>a<td>b<tr><td>1<td>2</table></figure>", "| a | b |\n| --- | --- |\n| 1 | 2 |");
  /* What an element may do, and how it looks, is not what it is. */
  is_kept(f, "<div class='has-sidebar'><p>The miller, too.</p></div>", "The miller, too.");
  is_kept(f, "<div class='enableAdSlots'><p>The miller, too.</p></div>", "The miller, too.");
  is_kept(f, "<div class='md:w-[var(--rail)]'><p>The miller, too.</p></div>", "The miller, too.");
  is_kept(f, "<div class='hidden md:block'><p>The miller, too.</p></div>", "The miller, too.");
  is_kept(f, "<pre class=share>x</pre>", "```\nx\n```");
  is_kept(f, "<div class=social-embed><blockquote class=tweet><p>The bridge is gone, friends.</p></blockquote></div>",
          "> The bridge is gone, friends.");
}

/* The whole page around an article. */
static void test_page(void **state) {
  fixture *f = *state;
  const char *html =
      "<html><head><title>T</title></head><body class='has-sidebar'>"
      "<header><a href=/>The Paper</a></header><div class=menu><ul><li><a href=a>A</a></ul></div>"
      "<div id=content-with-sidebar><div class=teaser><p>Another story altogether, about a mill.</p></div>"
      "<article><h1>The flood</h1><div class='article-body'><p>" LONG_A "</p><p>" LONG_B "</p><p>" LONG_C
      "</p><h3>More stories</h3><ul><li><a href=b>Mill sold</a></ul></div></article>"
      "<div class=sidebar><p>" LONG_B "</p></div></div>"
      "<div class=footer-wrap><p>Copyright, all rights reserved, and so on.</p></div></body></html>";
  assert_string_equal(read_str(f, PU_HTML_ARTICLE, pu_str_c(html)), LONG_A "\n\n" LONG_B "\n\n" LONG_C);
  /* Names can mislead: what holds all the text is kept whatever it is called. */
  assert_string_equal(
      read_str(f, PU_HTML_ARTICLE,
               pu_str_c("<div class=sidebar><p>" LONG_A "</p><p>" LONG_B "</p></div><div><p>x</p></div>")),
      LONG_A "\n\n" LONG_B);
  /* A link that is never closed does not make the page one link. */
  assert_string_equal(
      read_str(f, PU_HTML_ARTICLE,
               pu_str_c("<div><a href=x><p>top</p></a><p>" LONG_A "</p><a name=y><p>" LONG_B "</p></div>")),
      LONG_A "\n\n" LONG_B);
  assert_string_equal(read_str(f, PU_HTML_ARTICLE, pu_str_c("<div><a href=x>one</a> <a href=y>two</a></div>")), "");
}

/* Teasers are dropped beside a text, and are the text where there is none. */
static void test_teasers(void **state) {
  fixture *f = *state;
#define TEASER                                                                                                         \
  "<li><h3><a href=x>The mill is sold</a></h3><p>A few lines on the mill, its miller, and who bought it.</p></li>"
  is_dropped(f, "<ul>" TEASER TEASER TEASER TEASER "</ul>");
  read_str(f, PU_HTML_ARTICLE, pu_str_c("<body><ul>" TEASER TEASER TEASER "</ul></body>"));
  assert_non_null(strstr(f->out.data, "A few lines on the mill"));
  /* Two are no row of them. */
  const char *got = article_with(f, "<div>" TEASER TEASER "</div>");
  assert_non_null(strstr(got, "A few lines on the mill"));
#undef TEASER
}

/* A cookie notice that is longer than the text goes all the same. */
static void test_notice(void **state) {
  fixture *f = *state;
  const char *html =
      "<body><div id=main><p>" LONG_A "</p></div><div id=consent-sdk><p>" LONG_B "</p><p>" LONG_C "</p></div></body>";
  assert_string_equal(read_str(f, PU_HTML_ARTICLE, pu_str_c(html)), LONG_A);
}

#define FORUM_PAGE                                                                                                     \
  "<html><body class='forum viewtopic'><div class=nav><a href=/>Board</a></div><div class=topic>"                      \
  "<div class=post><div class=userinfo>ann<br>Posts: 12</div><div class='post-body'><p>" LONG_A "</p></div></div>"     \
  "<div class='post reply'><div class=userinfo>bob</div><div class='post-body'><p>" LONG_B                             \
  "</p></div><div class=signature>Bob was here.</div></div></div></body></html>"

static void test_forum(void **state) {
  fixture *f = *state;
  assert_string_equal(read_str(f, PU_HTML_FORUM, pu_str_c(FORUM_PAGE)), LONG_A "\n\n" LONG_B);
  assert_true(f->page.forum);
  assert_string_equal(read_str(f, PU_HTML_AUTO, pu_str_c(FORUM_PAGE)), LONG_A "\n\n" LONG_B);
  assert_true(f->page.forum);
  read_str(f, PU_HTML_AUTO, pu_str_c("<body><article><p>" LONG_A "</p></article></body>"));
  assert_false(f->page.forum);
  /* Comments belong to a forum's text, and to no article's. */
  const char *html =
      "<div><div class=question><p>" LONG_A "</p></div><div class=comments><p>" LONG_B "</p></div></div>";
  assert_string_equal(read_str(f, PU_HTML_FORUM, pu_str_c(html)), LONG_A "\n\n" LONG_B);
  assert_string_equal(read_str(f, PU_HTML_ARTICLE, pu_str_c(html)), LONG_A);
}

/* The post that opens a thread is part of it, however much longer the answers are; buttons below each are not; a
 * contribution is one whatever else it is called. */
static void test_thread(void **state) {
  fixture *f = *state;
#define BUTTONS "<div>Give thanks</div>"
  assert_string_equal(
      read_str(f, PU_HTML_FORUM,
               pu_str_c("<body><div class=page><div class=box><div class='post-body'><p>Who knows how high the river "
                        "is, and when it will fall?</p>" BUTTONS "</div></div><div class=list><div><div><p>" LONG_A
                        "</p>" BUTTONS "</div><div><p>" LONG_B "</p></div><div class='comment promoted'><p>" LONG_C
                        "</p>" BUTTONS "</div></div></div></div></body>")),
      "Who knows how high the river is, and when it will fall?\n\n" LONG_A "\n\n" LONG_B "\n\n" LONG_C);
#undef BUTTONS
  /* No running text at all: the whole page, not its first box. */
  const char *got =
      read_str(f, PU_HTML_FORUM,
               pu_str_c("<body><div><div>Nothing works</div></div><div><div class=post>Have you tried the "
                        "new one</div><div class=post>Not yet</div><div class=post>It broke down for me "
                        "too</div><div class=post>Works now and thank you all</div><div class=post>How did you do "
                        "it</div><div class=post>By waiting</div></div></body>"));
  assert_non_null(strstr(got, "Nothing works"));
  assert_non_null(strstr(got, "Works now"));
}

/* A body that is a small part of its <article> was cut into several. */
static void test_parts(void **state) {
  fixture *f = *state;
  const char *html =
      "<body><article><section class='entry-text'><p>" LONG_A
      "</p></section><section><h2>The mill, its miller, his flour, and how it was saved</h2></section>"
      "<section><h2>What the children found in the market square, whole and painted green</h2></section>"
      "<section><h2>And what the oldest man of the village had to say of it that evening</h2>"
      "<h2>Before the second flood, which was worse, as the second ones often are in these parts of the country</h2>"
      "<p>Nothing.</p></section></article></body>";
  assert_non_null(strstr(read_str(f, PU_HTML_ARTICLE, pu_str_c(html)), "Nothing."));
}

/* A title is not said twice, nor is a part of it. */
static void test_title(void **state) {
  fixture *f = *state;
#define TITLED(title, heading)                                                                                         \
  "<head><title>" title "</title></head><body><article><h1>" heading "</h1><p>" LONG_A "</p></article></body>"
  assert_string_equal(read_str(f, PU_HTML_ARTICLE, pu_str_c(TITLED("The flood", "The flood"))), LONG_A);
  assert_string_equal(
      read_str(f, PU_HTML_ARTICLE, pu_str_c(TITLED("The river rises again in spring", "The river rises again"))),
      LONG_A);
  assert_string_equal(read_str(f, PU_HTML_ARTICLE, pu_str_c(TITLED("The flood of the year", "Water"))),
                      "# Water\n\n" LONG_A);
#undef TITLED
}

/* ---- what a page says of itself
 * ---------------------------------------------------------------------------------------- */

static void says(fixture *f, const char *html, const char *title, const char *author, const char *time,
                 const char *lang, const char *url) {
  read_str(f, PU_HTML_AUTO, pu_str_c(html));
  const char *want[] = {title, author, time, lang, url};
  pu_str got[] = {f->page.title, f->page.author, f->page.time, f->page.lang, f->page.url};
  for (size_t k = 0; k < PU_COUNT(want); k++)
    if (!pu_str_eq(got[k], pu_str_c(want[k])))
      fail_msg("%s\nfield %zu is '%.*s', not '%s'", html, k, (int)got[k].len, got[k].len ? got[k].ptr : "", want[k]);
}

static void test_metadata(void **state) {
  fixture *f = *state;
  says(f, "", "", "", "", "", "");
  says(f, "<html lang=en_US><title>The flood | The Paper</title>", "The flood", "", "", "en-US", "");
  says(f, "<title>A - B</title>", "A - B", "", "", "", "");
  says(f, "<h1>Only &amp; <b>this</b></h1>", "Only & this", "", "", "", "");
  says(f,
       "<meta property='og:title' content='T &quot;q&quot;'><meta name=author content='A. W.'>"
       "<meta property=article:published_time content='2019-04-03T10:20:30+02:00'><meta property=og:locale "
       "content=de_DE>"
       "<link rel=canonical href='https://example.org/x?a=1&amp;b=2'>",
       "T \"q\"", "A. W.", "2019-04-03T10:20:30+02:00", "de-DE", "https://example.org/x?a=1&b=2");
  says(f,
       "<script type=\"application/ld+json\">{\"@graph\": [{\"@type\": \"WebSite\", \"headline\": \"no\"}, {\"@type\": "
       "\"NewsArticle\", \"headline\": \"Yes\", \"datePublished\": \"2020-1-2\", \"author\": [{\"name\": "
       "\"B\"}]}]}</script>",
       "Yes", "B", "2020-01-02", "", "");
  says(f, "<script type=\"application/ld+json\">{broken</script><title>T</title>", "T", "", "", "", "");
  says(f, "<div><time datetime='2018-07-01'>then</time><span itemprop=author>C</span></div>", "", "C", "2018-07-01", "",
       "");
  says(f, "<div class=date>发布于2021年3月5日 10:00</div>", "", "", "2021-03-05", "", "");
  says(f, "<meta name=author content='https://example.org/a'><p class=byline>By D. E.</p>", "", "D. E.", "", "", "");
  says(f, "<meta name=date content='99999'><meta name=pubdate content='2020-13-01'>", "", "", "", "", "");
  says(f, "<html lang='zh-Hant'>", "", "", "", "zh-Hant", "");
  says(f, "<html lang='{{ x }}'>", "", "", "", "", "");
}

static void test_charset(void **state) {
  fixture *f = *state;
  static const struct {
    const char *html, *want;
  } rows[] = {{"<meta charset=utf-8>", "utf-8"},
              {"<META CHARSET='GBK' />", "GBK"},
              {"<meta http-equiv=Content-Type content=\"text/html; charset=windows-1251\">", "windows-1251"},
              {"<meta name=x><meta charset = \"big5\">", "big5"},
              {"<p charset=x>", NULL},
              {"<meta charset=", NULL},
              {"<meta", NULL},
              {"", NULL}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    const char *got = pu_html_charset(pu_str_c(rows[i].html), f->arena);
    if (!rows[i].want)
      assert_null(got);
    else
      assert_string_equal(got, rows[i].want);
  }
  char far[2048];
  memset(far, ' ', sizeof far);
  memcpy(far + 1500, "<meta charset=utf-8>", 20);
  assert_null(pu_html_charset(pu_str_of(far, sizeof far), f->arena));
}

/* ---- pages meant to hurt
 * --------------------------------------------------------------------------------------------- */

/* `piece` n times around "deep", in each mode. */
static void survives(fixture *f, const char *piece, size_t n, const char *close) {
  pu_buf html;
  pu_buf_init(&html, PU_DOC_MAX);
  for (size_t i = 0; i < n; i++) pu_buf_puts(&html, piece);
  pu_buf_puts(&html, "deep");
  for (size_t i = 0; i < n && close; i++) pu_buf_puts(&html, close);
  assert_false(html.failed);
  for (int mode = PU_HTML_AUTO; mode <= PU_HTML_ALL; mode++)
    read_str(f, (pu_html_mode)mode, pu_str_of(html.data, html.len));
  assert_true(f->out.len < 8 * html.len + 1000); /* marks of nested lists and quotes */
  pu_buf_deinit(&html);
}

static void test_hostile(void **state) {
  fixture *f = *state;
  static const struct {
    const char *piece, *close;
  } rows[] = {{"<div>", "</div>"},
              {"<b>", NULL},
              {"<b><p>", "</b>"},
              {"<table><tr><td>", NULL},
              {"<ul><li>", NULL},
              {"<blockquote>", NULL},
              {"<a href=x>", "</a>"},
              {"<math><mfrac>", NULL},
              {"<p title='", NULL},
              {"<p title=\"'>", NULL},
              {"<!--", NULL},
              {"<script>", NULL},
              {"</p>", NULL},
              {"<", NULL},
              {"&", NULL},
              {"&#x", NULL},
              {"<x y=1 ", NULL},
              {"<pre>", NULL},
              {"<code>", NULL},
              {"<h1>", NULL},
              {"<svg><title>", NULL},
              {"<form><div>", "</form>"},
              {"<ol><li>x", NULL},
              {"<p class=share>", NULL},
              {"<table><caption>", NULL},
              {"<select><option>", NULL}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) survives(f, rows[i].piece, 100000, rows[i].close);
  /* What is too deep is still read. */
  shows(f, "<div>", "");
  pu_buf html;
  pu_buf_init(&html, PU_DOC_MAX);
  for (int i = 0; i < 100000; i++) pu_buf_puts(&html, "<div>");
  pu_buf_puts(&html, "<p>deep</p>");
  assert_string_equal(read_str(f, PU_HTML_ALL, pu_str_of(html.data, html.len)), "deep");
  /* One tag of many attributes. */
  pu_buf_clear(&html);
  pu_buf_puts(&html, "<p ");
  for (int i = 0; i < 200000; i++) pu_buf_printf(&html, "a%d='%d' ", i, i);
  pu_buf_puts(&html, ">wide</p>");
  assert_string_equal(read_str(f, PU_HTML_ALL, pu_str_of(html.data, html.len)), "wide");
  pu_buf_deinit(&html);
}

static void test_limits(void **state) {
  fixture *f = *state;
  pu_error e;
  pu_buf small;
  pu_html_page page;
  /* Too large a page, too small an arena or buffer: an error that leaves all as it was. */
  char *huge = calloc(1, PU_DOC_MAX + 1);
  assert_non_null(huge);
  assert_int_equal(pu_html_extract(pu_str_of(huge, PU_DOC_MAX + 1), PU_HTML_AUTO, f->arena, &f->out, &page, &e),
                   PU_ERR_FORMAT);
  free(huge);
  pu_buf_init(&small, 64);
  pu_buf_puts(&small, "before");
  size_t mark = pu_arena_mark(f->arena);
  assert_int_equal(pu_html_extract(pu_str_c("<p>" LONG_A "</p>"), PU_HTML_ALL, f->arena, &small, &page, &e),
                   PU_ERR_NOMEM);
  assert_string_equal(small.data, "before");
  assert_false(small.failed);
  assert_int_equal(pu_arena_mark(f->arena), mark);
  pu_buf_deinit(&small);
  pu_arena *tiny;
  assert_ok(pu_arena_create(4096, &tiny, &e), &e);
  pu_buf html;
  pu_buf_init(&html, PU_DOC_MAX);
  for (int i = 0; i < 10000; i++) pu_buf_puts(&html, "<p>x");
  assert_int_equal(pu_html_extract(pu_str_of(html.data, html.len), PU_HTML_ALL, tiny, &f->out, &page, &e),
                   PU_ERR_NOMEM);
  pu_buf_deinit(&html);
  pu_arena_free(tiny);
}

/* Text is appended after a blank line, and the same page gives the same text again. */
static void test_append(void **state) {
  fixture *f = *state;
  pu_error e;
  pu_buf_clear(&f->out);
  pu_buf_puts(&f->out, "first");
  assert_ok(pu_html_extract(pu_str_c("<p>second"), PU_HTML_ALL, f->arena, &f->out, &f->page, &e), &e);
  assert_string_equal(f->out.data, "first\n\nsecond");
  assert_ok(pu_html_extract(pu_str_c("<p> "), PU_HTML_ALL, f->arena, &f->out, &f->page, &e), &e);
  assert_string_equal(f->out.data, "first\n\nsecond");
}

/* Random soups of tags: no failure, UTF-8, the same twice. */
static void test_soup(void **state) {
  fixture *f = *state;
  static const char *const bits[] = {"<p>",           "</p>",     "<div class=share>",
                                     "</div>",        "<table>",  "<tr>",
                                     "<td>",          "</table>", "<li>",
                                     "<ul>",          "</ul>",    "<a href=x>",
                                     "</a>",          "word ",    "中文。",
                                     "<pre>",         "</pre>",   "<br>",
                                     "<h2>",          "</h2>",    "<blockquote>",
                                     "</blockquote>", "<math>",   "<mi>x</mi>",
                                     "</math>",       "&amp;",    "<code>",
                                     "</code>",       "|",        "\n",
                                     LONG_A,          "<!--",     "-->",
                                     "<span>",        "</span>",  "<ol>"};
  pu_rng r;
  pu_rng_seed(&r, 7);
  pu_buf html, first;
  pu_buf_init(&html, PU_DOC_MAX);
  pu_buf_init(&first, PU_DOC_MAX);
  for (int k = 0; k < 600; k++) {
    pu_buf_clear(&html);
    for (uint64_t i = 0, n = pu_rng_below(&r, 120); i < n; i++)
      pu_buf_puts(&html, bits[pu_rng_below(&r, PU_COUNT(bits))]);
    pu_str page = pu_str_of(html.data ? html.data : "", html.len);
    pu_html_mode mode = (pu_html_mode)pu_rng_below(&r, 4);
    read_str(f, mode, page);
    assert_true(pu_utf8_valid(pu_str_of(f->out.data ? f->out.data : "", f->out.len)));
    pu_buf_clear(&first);
    pu_buf_append(&first, f->out.data ? f->out.data : "", f->out.len);
    read_str(f, mode, page);
    assert_int_equal(first.len, f->out.len);
    if (first.len) assert_memory_equal(first.data, f->out.data, first.len);
  }
  pu_buf_deinit(&html);
  pu_buf_deinit(&first);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_text, setup, teardown),
      cmocka_unit_test_setup_teardown(test_headings_lists_quotes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_tables, setup, teardown),
      cmocka_unit_test_setup_teardown(test_code, setup, teardown),
      cmocka_unit_test_setup_teardown(test_formulas, setup, teardown),
      cmocka_unit_test_setup_teardown(test_tree, setup, teardown),
      cmocka_unit_test(test_attributes),
      cmocka_unit_test(test_entities),
      cmocka_unit_test(test_words),
      cmocka_unit_test_setup_teardown(test_dropped, setup, teardown),
      cmocka_unit_test_setup_teardown(test_kept, setup, teardown),
      cmocka_unit_test_setup_teardown(test_page, setup, teardown),
      cmocka_unit_test_setup_teardown(test_teasers, setup, teardown),
      cmocka_unit_test_setup_teardown(test_notice, setup, teardown),
      cmocka_unit_test_setup_teardown(test_forum, setup, teardown),
      cmocka_unit_test_setup_teardown(test_thread, setup, teardown),
      cmocka_unit_test_setup_teardown(test_parts, setup, teardown),
      cmocka_unit_test_setup_teardown(test_title, setup, teardown),
      cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
      cmocka_unit_test_setup_teardown(test_charset, setup, teardown),
      cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
      cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
      cmocka_unit_test_setup_teardown(test_append, setup, teardown),
      cmocka_unit_test_setup_teardown(test_soup, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
