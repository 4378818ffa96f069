#include "src/text/chat_scan.h"

#include <string.h>

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A byte of a string, with its quotes. True: it was the last. */
static bool string_ends(call_scan *s, char c) {
  bool ends = c == '"' && !s->escaped;
  s->escaped = c == '\\' && !s->escaped;
  return ends;
}

static bool nest_ends(call_scan *s, char c) {
  if (s->in_string) {
    s->in_string = !string_ends(s, c);
    return false;
  }
  s->in_string = c == '"';
  if (c == '{' || c == '[') s->depth++;
  if (c == '}' || c == ']') s->depth--;
  return s->depth == 0;
}

/* The first of each counts; InternLM2 calls arguments parameters. */
static void key_ends(call_scan *s, const char *text) {
  pu_str key = pu_str_of(text + s->begin, s->at - s->begin);
  bool arguments = pu_str_eq(key, pu_str_c("\"arguments\"")) || pu_str_eq(key, pu_str_c("\"parameters\""));
  s->part = PART_OTHER;
  if (!s->has_name && pu_str_eq(key, pu_str_c("\"name\""))) s->part = PART_NAME;
  if (!s->arguments_begin && arguments) s->part = PART_ARGUMENTS;
  s->state = CALL_COLON;
}

static void value_begins(call_scan *s, char c) {
  s->begin = s->at - 1;
  s->depth = 1;
  s->in_string = s->escaped = false;
  s->state = c == '"' ? CALL_IN_STRING : c == '{' || c == '[' ? CALL_IN_NEST : CALL_IN_WORD;
  bool wrong_name = s->part == PART_NAME && c != '"',
       wrong_arguments = s->part == PART_ARGUMENTS && c != '{' && c != '"';
  if (wrong_name || wrong_arguments || strchr(",:}]", c)) s->state = CALL_BAD;
  if (s->part != PART_ARGUMENTS || s->state == CALL_BAD) return;
  s->arguments_begin = s->begin;
  s->is_text = c == '"';
  s->has_arguments = c == '{';
}

static void value_ends(call_scan *s) {
  if (s->part == PART_NAME) {
    s->has_name = true;
    s->name_begin = s->begin;
    s->name_end = s->at;
  } else if (s->part == PART_ARGUMENTS) {
    s->has_arguments = true;
    s->arguments_end = s->at;
  }
  s->state = CALL_AFTER;
}

static void between(call_scan *s, char c) {
  switch (s->state) {
  case CALL_BEGIN:
    s->state = c == '{' ? CALL_KEY : CALL_BAD;
    break;
  case CALL_KEY:
    s->begin = s->at - 1;
    s->escaped = false;
    s->state = c == '"' ? CALL_IN_KEY : c == '}' ? CALL_CLOSED : CALL_BAD;
    break;
  case CALL_COLON:
    s->state = c == ':' ? CALL_VALUE : CALL_BAD;
    break;
  case CALL_VALUE:
    value_begins(s, c);
    break;
  case CALL_AFTER:
    s->state = c == ',' ? CALL_KEY : c == '}' ? CALL_CLOSED : CALL_BAD;
    break;
  default:
    s->state = CALL_BAD; /* something after the end */
  }
}

static void take(call_scan *s, const char *text, char c) {
  switch (s->state) {
  case CALL_IN_KEY:
    if (string_ends(s, c)) key_ends(s, text);
    break;
  case CALL_IN_STRING:
    if (string_ends(s, c)) value_ends(s);
    break;
  case CALL_IN_NEST:
    if (nest_ends(s, c)) value_ends(s);
    break;
  case CALL_IN_WORD:
    if (c == ',' || c == '}' || is_space(c)) s->state = CALL_AFTER;
    if (!is_space(c) && s->state == CALL_AFTER) between(s, c);
    break;
  default:
    if (!is_space(c)) between(s, c);
  }
}

void call_scan_feed(call_scan *s, const char *text, size_t end) {
  while (s->at < end && s->state != CALL_BAD) {
    char c = text[s->at++];
    take(s, text, c);
  }
}
