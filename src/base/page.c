/* The frame of a report: one HTML file without scripts or outside resources, light and dark, wide and narrow. */
#include "puyu/base.h"

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fbfaf8;--card:#fff;--ink:#1f2328;--dim:#6a737d;--line:#e4e2dd;"
    "--c0:#2563c9;--c1:#d4650f;--c2:#1a8a5b;--c3:#9046b8;--c4:#b3842a;--c5:#c2355d;--c6:#3a8fa8;--c7:#6b7280}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14161a;--card:#1c1f25;--ink:#e6e7ea;--dim:#969ca6;--line:#30343c;"
    "--c0:#7aa9f7;--c1:#f2a25c;--c2:#62c795;--c3:#c896e6;--c4:#dcba6a;--c5:#f08aa5;--c6:#7fcbe0;--c7:#a7adb8}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans CJK SC','PingFang SC',sans-serif}\n"
    "main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}h1{font-size:1.6rem;margin:0;overflow-wrap:anywhere}"
    "h2{font-size:1.1rem;margin:36px 0 12px}.sub{color:var(--dim);margin:4px 0 22px}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,220px),1fr));gap:10px}"
    ".tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:11px 14px}"
    ".tile b{display:block;white-space:nowrap;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}"
    ".tile span{color:var(--dim);font-size:.82rem}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:14px;margin-top:14px}"
    "figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 12px 6px}"
    "figcaption{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline;padding:0 4px 6px;font-size:.9rem}"
    "figcaption span{color:var(--dim);font-size:.82rem}figcaption i{display:inline-block;width:14px;height:3px;"
    "border-radius:2px;margin-right:6px;vertical-align:middle;background:currentColor}\n"
    "svg{display:block;width:100%;height:auto}svg "
    "text{fill:var(--dim);font-size:13px;font-variant-numeric:tabular-nums}"
    ".grid{stroke:var(--line);fill:none}polyline{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}"
    ".faint{opacity:.45;stroke-width:1}.dot{fill:currentColor}\n"
    ".c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}"
    ".c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}"
    ".wide{grid-column:1/-1}#loss-narrow{display:none}\n"
    "@media(max-width:640px){#loss{display:none}#loss-narrow{display:block}main{padding:20px 12px 40px}}\n"
    ".sample{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px;margin:8px 0;"
    "white-space:pre-wrap;overflow-wrap:anywhere}.sample small{color:var(--dim);display:block}.sample "
    "b{font-weight:600}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:5px 10px 5px 0;vertical-align:top;"
    "border-bottom:1px solid var(--line);overflow-wrap:anywhere}"
    "th{color:var(--dim);font-weight:400;white-space:nowrap}\n"
    "@media(max-width:640px){td,th{padding:4px 6px 4px 0;white-space:normal}th{width:45%}}\n"
    "pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px;overflow:auto;"
    "font-size:.85rem}summary{cursor:pointer;color:var(--dim);margin:10px 0}footer{color:var(--dim);font-size:.82rem;"
    "margin-top:40px}\n"
    ".bars{display:flex;align-items:flex-end;gap:1px;height:72px}.bars i{flex:1;background:var(--c0);min-height:1px}"
    ".bars i.out{background:var(--c5)}.share{display:block;height:10px;border-radius:3px;background:var(--c0)}\n";

void pu_page_begin(pu_buf *b, pu_str title) {
  pu_buf_puts(b, "<!doctype html><html lang=en><meta charset=utf-8>"
                 "<meta name=viewport content=\"width=device-width,initial-scale=1\"><title>");
  pu_buf_html(b, title);
  pu_buf_printf(b, " · puyu</title>\n<style>%s</style>\n<main><h1>", style);
  pu_buf_html(b, title);
  pu_buf_puts(b, "</h1>\n");
}

void pu_page_tile(pu_buf *b, const char *value, const char *label) {
  pu_buf_printf(b, "<div class=tile><b>%s</b><span>%s</span></div>", value, label);
}

void pu_page_end(pu_buf *b, const char *command) {
  pu_buf_printf(b, "<footer>Made by %s.</footer></main></html>\n", command);
}
