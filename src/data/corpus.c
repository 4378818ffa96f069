/* Reading a corpus: files, plain or compressed, cut into documents. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "puyu/data.h"

enum { CHUNK = 1 << 18, MAX_DEPTH = 16, LOOK = 64 << 10 };
#define MAX_DOCUMENT ((size_t)64 << 20)

typedef struct corpus_file {
  char *path;
  double bytes;
} corpus_file;

/* Bytes of one file after decompression. zlib passes what is not gzip through, so it reads plain files too. */
typedef struct stream {
  gzFile gz;
  FILE *zst;
  ZSTD_DStream *decoder;
  uint8_t *in; /* [CHUNK] compressed */
  ZSTD_inBuffer held;
  bool frame_open; /* a frame has begun and not ended */
} stream;

struct pu_corpus {
  pu_arena *arena;
  corpus_file *files;
  size_t n, cap, at; /* at: the file that is open, or the next one */
  bool is_open, ended;
  bool jsonl;
  stream in;
  pu_buf raw; /* read, not yet given out: [begin, len) */
  size_t begin;
  pu_buf id;
  uint64_t number; /* of the last line or document given out of this file */
  pu_split split;
  const char *key;
  json_t *json;  /* of the last document, or the array that is a whole file */
  bool is_array; /* the file is one JSON array of documents */
  double total, finished;
};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "corpus: no memory");
}

/* ---- which files ------------------------------------------------------------------------------------------------- */

static bool has_ending(const char *path, const char *ending) {
  size_t n = strlen(path), m = strlen(ending);
  return n >= m && memcmp(path + n - m, ending, m) == 0;
}

static pu_err files_add(pu_corpus *c, const char *path, int depth, pu_error *e) {
  struct stat st;
  if (stat(path, &st) != 0) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  if (S_ISDIR(st.st_mode)) {
    if (depth == MAX_DEPTH) return pu_fail(e, PU_ERR_USAGE, "%s: folders nested deeper than %d", path, MAX_DEPTH);
    char **names;
    size_t n;
    PU_TRY(pu_dir_list(c->arena, path, &names, &n, e));
    for (size_t i = 0; i < n; i++) {
      char *below = pu_path_join(c->arena, path, names[i]);
      if (!below) return nomem(e);
      if (names[i][0] != '.') PU_TRY(files_add(c, below, depth + 1, e));
    }
    return PU_OK;
  }
  if (c->n == c->cap) {
    size_t cap = c->cap ? c->cap * 2 : 64;
    corpus_file *grown = realloc(c->files, cap * sizeof *grown);
    if (!grown) return nomem(e);
    c->files = grown;
    c->cap = cap;
  }
  char *copy = pu_arena_strdup(c->arena, path);
  if (!copy) return nomem(e);
  c->files[c->n++] = (corpus_file){copy, (double)st.st_size};
  c->total += (double)st.st_size;
  return PU_OK;
}

pu_err pu_corpus_open(const char *const *paths, size_t n, pu_split split, const char *key, pu_corpus **out,
                      pu_error *e) {
  *out = NULL;
  pu_corpus *c = calloc(1, sizeof *c);
  if (!c) return nomem(e);
  c->split = split;
  pu_buf_init(&c->raw, MAX_DOCUMENT + 2 * CHUNK);
  pu_buf_init(&c->id, (size_t)1 << 20);
  pu_err err = pu_arena_create((size_t)256 << 20, &c->arena, e);
  if (err == PU_OK && key && !(c->key = pu_arena_strdup(c->arena, key))) err = nomem(e);
  for (size_t i = 0; err == PU_OK && i < n; i++) err = files_add(c, paths[i], 0, e);
  if (err == PU_OK && c->n == 0)
    err = n == 0 ? pu_fail(e, PU_ERR_USAGE, "corpus: no files were given")
                 : pu_fail(e, PU_ERR_USAGE,
                           "%s: no file in this folder; text (.txt) or JSON Lines (.jsonl, .json) belong there, plain "
                           "or with .gz or .zst",
                           paths[0]);
  if (err != PU_OK) {
    pu_corpus_close(c);
    return err;
  }
  *out = c;
  return PU_OK;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static void stream_close(stream *s) {
  if (s->gz) gzclose(s->gz);
  if (s->zst) fclose(s->zst);
  ZSTD_freeDStream(s->decoder);
  free(s->in);
  *s = (stream){0};
}

static pu_err stream_open(stream *s, const char *path, pu_error *e) {
  *s = (stream){0};
  errno = 0;
  if (!has_ending(path, ".zst")) {
    s->gz = gzopen(path, "rb");
    if (!s->gz) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno ? errno : ENOMEM));
    gzbuffer(s->gz, CHUNK);
    return PU_OK;
  }
  s->zst = fopen(path, "rbe");
  if (!s->zst) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  s->decoder = ZSTD_createDStream();
  s->in = malloc(CHUNK);
  if (s->decoder && s->in) return PU_OK;
  stream_close(s);
  return nomem(e);
}

static pu_err zst_read(stream *s, const char *path, void *data, size_t len, size_t *got, pu_error *e) {
  ZSTD_outBuffer out = {data, len, 0};
  while (out.pos == 0) {
    if (s->held.pos == s->held.size) {
      s->held = (ZSTD_inBuffer){s->in, fread(s->in, 1, CHUNK, s->zst), 0};
      if (ferror(s->zst)) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
      if (s->held.size == 0) break;
    }
    size_t left = ZSTD_decompressStream(s->decoder, &out, &s->held);
    if (ZSTD_getErrorCode(left) == ZSTD_error_prefix_unknown)
      return pu_fail(e, PU_ERR_FORMAT, "%s: not zstd data, though its name ends with .zst: rename it", path);
    if (ZSTD_isError(left)) return pu_fail(e, PU_ERR_FORMAT, "%s: zstd: %s", path, ZSTD_getErrorName(left));
    s->frame_open = left != 0;
  }
  if (out.pos == 0 && s->frame_open) return pu_fail(e, PU_ERR_FORMAT, "%s: the zstd data is cut short", path);
  *got = out.pos;
  return PU_OK;
}

static pu_err stream_read(stream *s, const char *path, void *data, size_t len, size_t *got, pu_error *e) {
  if (s->zst) return zst_read(s, path, data, len, got, e);
  int n = gzread(s->gz, data, (unsigned)len), code;
  const char *why = gzerror(s->gz, &code);
  if (n < 0 || (code != Z_OK && code != Z_STREAM_END))
    return pu_fail(e, code == Z_ERRNO ? PU_ERR_IO : PU_ERR_FORMAT, "%s: %s", path,
                   code == Z_ERRNO ? strerror(errno) : why);
  *got = (size_t)n;
  return PU_OK;
}

static double stream_offset(const stream *s) {
  if (s->zst) return (double)ftell(s->zst);
  return s->gz ? (double)gzoffset(s->gz) : 0;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Reads one more chunk behind what is there. At the end of the file `ended` is set. */
static pu_err raw_fill(pu_corpus *c, pu_error *e) {
  if (c->begin > 0) {
    memmove(c->raw.data, c->raw.data + c->begin, c->raw.len - c->begin);
    c->raw.len -= c->begin;
    c->begin = 0;
  }
  if (!pu_buf_reserve(&c->raw, CHUNK)) return nomem(e);
  size_t got = 0;
  PU_TRY(stream_read(&c->in, c->files[c->at].path, c->raw.data + c->raw.len, CHUNK, &got, e));
  c->raw.len += got;
  c->ended = got == 0;
  return PU_OK;
}

/* The next line without its end; *len counts the end too. *found false at the end of the file. */
static pu_err line_next(pu_corpus *c, size_t from, size_t *len, size_t *text_len, bool *found, pu_error *e) {
  for (size_t looked = from;;) {
    char *base = c->raw.data + c->begin;
    size_t there = c->raw.len - c->begin;
    char *end = there > looked ? memchr(base + looked, '\n', there - looked) : NULL;
    if (end || (c->ended && there > from)) {
      *text_len = end ? (size_t)(end - base) - from : there - from;
      *len = *text_len + (end != NULL);
      *found = true;
      return PU_OK;
    }
    *found = false;
    if (c->ended) return PU_OK;
    looked = there;
    if (there - from > MAX_DOCUMENT)
      return pu_fail(e, PU_ERR_FORMAT, "%s: line %llu is longer than 64 MiB", c->files[c->at].path,
                     (unsigned long long)c->number + 1);
    PU_TRY(raw_fill(c, e));
  }
}

static bool is_blank(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!strchr(" \t\r", s[i]) || s[i] == '\0') return false;
  return true;
}

/* Takes len bytes out of the front; the document is the first text_len of them. */
static pu_str raw_take(pu_corpus *c, size_t len, size_t text_len) {
  pu_str s = pu_str_of(c->raw.data + c->begin, text_len);
  c->begin += len;
  return s;
}

/* The whole file; more than 64 MiB of it goes on as another document at the beginning of a line. */
static pu_err next_whole(pu_corpus *c, pu_str *out, bool *found, pu_error *e) {
  while (!c->ended && c->raw.len - c->begin < MAX_DOCUMENT) PU_TRY(raw_fill(c, e));
  size_t len = PU_MIN(c->raw.len - c->begin, MAX_DOCUMENT);
  if (!c->ended || len < c->raw.len - c->begin) {
    const char *end = memrchr(c->raw.data + c->begin, '\n', len);
    if (end) len = (size_t)(end - c->raw.data) + 1 - c->begin;
  }
  *found = len > 0;
  *out = raw_take(c, len, len);
  return PU_OK;
}

static pu_err next_line(pu_corpus *c, pu_str *out, bool *found, pu_error *e) {
  for (;;) {
    size_t len, text_len;
    PU_TRY(line_next(c, 0, &len, &text_len, found, e));
    if (!*found) return PU_OK;
    *out = raw_take(c, len, text_len);
    c->number++;
    if (!is_blank(out->ptr, out->len)) break;
  }
  if (out->ptr[out->len - 1] == '\r') out->len--;
  return PU_OK;
}

/* Lines up to the next blank one. */
static pu_err next_paragraph(pu_corpus *c, pu_str *out, bool *found, pu_error *e) {
  size_t total = 0, end = 0;
  for (;;) {
    size_t len, text_len;
    bool more;
    PU_TRY(line_next(c, total, &len, &text_len, &more, e));
    if (!more) break;
    bool blank = is_blank(c->raw.data + c->begin + total, text_len);
    if (blank && end == 0) { /* before the first line */
      c->begin += total + len;
      total = 0;
      continue;
    }
    if (!blank) end = total + text_len;
    total += len;
    if (blank) break;
    if (total > MAX_DOCUMENT) break; /* cut here, at the end of a line */
  }
  *found = end > 0;
  *out = raw_take(c, total, end);
  c->number++;
  return PU_OK;
}

static pu_err place_set(pu_corpus *c, pu_error *e) {
  pu_buf_clear(&c->id);
  bool ok = pu_buf_printf(&c->id, "%s:%llu", c->files[c->at].path, (unsigned long long)c->number);
  return ok ? PU_OK : nomem(e);
}

static pu_err next_text(pu_corpus *c, pu_document *out, bool *found, pu_error *e) {
  switch (c->split) {
  case PU_SPLIT_LINE:
    PU_TRY(next_line(c, &out->text, found, e));
    break;
  case PU_SPLIT_BLANK:
    PU_TRY(next_paragraph(c, &out->text, found, e));
    break;
  default:
    PU_TRY(next_whole(c, &out->text, found, e));
    c->number++;
    break;
  }
  PU_TRY(place_set(c, e));
  out->id = pu_str_of(c->id.data, c->id.len);
  return PU_OK;
}

/* ---- JSON Lines -------------------------------------------------------------------------------------------------- */

/* The text and the id of one object; c->id holds the place. */
static pu_err json_document(const pu_corpus *c, const json_t *object, pu_document *out, pu_error *e) {
  const json_t *text = c->key ? json_object_get(object, c->key) : json_object_get(object, "content");
  if (!text && !c->key) text = json_object_get(object, "text");
  if (!json_is_string(text))
    return pu_fail(e, PU_ERR_FORMAT, "%s: no string under \"%s\"; name the key with --key", c->id.data,
                   c->key ? c->key : "content\" or \"text");
  out->text = pu_str_of(json_string_value(text), json_string_length(text));
  const json_t *id = json_object_get(object, "id");
  out->id =
      json_is_string(id) ? pu_str_of(json_string_value(id), json_string_length(id)) : pu_str_of(c->id.data, c->id.len);
  return PU_OK;
}

/* c->id holds file and line; the parser, which saw one line only, says ":1:COLUMN: why". */
static pu_err line_error(const pu_corpus *c, pu_err err, pu_error *e) {
  if (!e) return err;
  const pu_error inner = *e;
  return pu_fail(e, err, "%s%s", c->id.data, inner.msg + (strncmp(inner.msg, ":1:", 3) == 0 ? 2 : 0));
}

static pu_err next_json(pu_corpus *c, pu_document *out, bool *found, pu_error *e) {
  if (c->is_array) {
    *found = c->number < json_array_size(c->json);
    if (!*found) return PU_OK;
    const json_t *object = json_array_get(c->json, c->number++);
    PU_TRY(place_set(c, e));
    return json_document(c, object, out, e);
  }
  pu_str line;
  PU_TRY(next_line(c, &line, found, e));
  if (!*found) return PU_OK;
  PU_TRY(place_set(c, e));
  json_decref(c->json);
  c->json = NULL;
  pu_err err = pu_json_parse("", line, &c->json, e);
  if (err != PU_OK) return line_error(c, err, e);
  return json_document(c, c->json, out, e);
}

/* A file that begins with a bracket is one array of documents; it is read whole. */
static pu_err array_begin(pu_corpus *c, pu_error *e) {
  size_t at = c->begin;
  while (at < c->raw.len && strchr(" \t\r\n", c->raw.data[at]) && c->raw.data[at] != '\0') at++;
  c->is_array = at < c->raw.len && c->raw.data[at] == '[';
  if (!c->is_array) return PU_OK;
  while (!c->ended && c->raw.len < MAX_DOCUMENT) PU_TRY(raw_fill(c, e));
  if (!c->ended)
    return pu_fail(e, PU_ERR_FORMAT, "%s: a JSON array of more than 64 MiB; write JSON Lines instead",
                   c->files[c->at].path);
  json_decref(c->json);
  c->json = NULL;
  return pu_json_parse(c->files[c->at].path, pu_str_of(c->raw.data + c->begin, c->raw.len - c->begin), &c->json, e);
}

/* ---- one after the other ----------------------------------------------------------------------------------------- */

static bool is_jsonl(const char *path) {
  static const char *const endings[] = {".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst"};
  for (size_t i = 0; i < PU_COUNT(endings); i++)
    if (has_ending(path, endings[i])) return true;
  return false;
}

static void file_end(pu_corpus *c) {
  stream_close(&c->in);
  c->is_open = false;
  c->finished += c->files[c->at].bytes;
  c->at++;
}

/* An image or a program would become a corpus of noise, and nobody would see it. */
static pu_err text_check(const pu_corpus *c, pu_error *e) {
  const uint8_t *p = (const uint8_t *)c->raw.data + c->begin;
  size_t n = PU_MIN(c->raw.len - c->begin, (size_t)LOOK), bad = 0;
  const char *path = c->files[c->at].path;
  if (n > 0 && memchr(p, 0, n))
    return pu_fail(e, PU_ERR_FORMAT, "%s: not text: there is a zero byte in it (UTF-16 must become UTF-8 first)", path);
  for (size_t i = 0; i < n;) {
    uint32_t cp;
    size_t len = pu_utf8_next(pu_str_of((const char *)p + i, n - i), &cp);
    bad += len == 0 && n - i >= 4; /* the last character may be cut */
    i += PU_MAX(len, 1);
  }
  if (bad <= n / 10) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s: not text in UTF-8: %zu of its first %zu bytes are none; convert it (iconv)",
                 path, bad, n);
}

/* zlib passes through what is not gzip. */
static pu_err gzip_check(const pu_corpus *c, pu_error *e) {
  const char *path = c->files[c->at].path;
  if (!c->in.gz || !has_ending(path, ".gz") || !gzdirect(c->in.gz)) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s: not gzip data, though its name ends with .gz: rename it", path);
}

static pu_err file_begin(pu_corpus *c, pu_error *e) {
  PU_TRY(stream_open(&c->in, c->files[c->at].path, e));
  c->is_open = true;
  c->ended = false;
  c->jsonl = is_jsonl(c->files[c->at].path);
  c->number = 0;
  pu_buf_clear(&c->raw);
  c->begin = 0;
  c->is_array = false;
  while (!c->ended && c->raw.len < LOOK) PU_TRY(raw_fill(c, e));
  PU_TRY(gzip_check(c, e));
  if (c->raw.len >= 3 && memcmp(c->raw.data, "\xEF\xBB\xBF", 3) == 0) c->begin = 3; /* a byte order mark is no text */
  return c->jsonl ? array_begin(c, e) : text_check(c, e);
}

pu_err pu_corpus_next(pu_corpus *c, pu_document *out, bool *found, pu_error *e) {
  *found = false;
  while (c->at < c->n) {
    if (!c->is_open) PU_TRY(file_begin(c, e));
    PU_TRY(c->jsonl ? next_json(c, out, found, e) : next_text(c, out, found, e));
    if (*found) return PU_OK;
    file_end(c);
  }
  return PU_OK;
}

pu_err pu_corpus_fail_empty(const pu_corpus *c, pu_error *e) {
  if (c->n == 1) return pu_fail(e, PU_ERR_FORMAT, "%s: no text in it", c->files[0].path);
  return pu_fail(e, PU_ERR_FORMAT, "%s and %zu more: no text in them", c->files[0].path, c->n - 1);
}

void pu_corpus_close(pu_corpus *c) {
  if (!c) return;
  stream_close(&c->in);
  json_decref(c->json);
  pu_buf_deinit(&c->raw);
  pu_buf_deinit(&c->id);
  free(c->files);
  pu_arena_free(c->arena);
  free(c);
}

double pu_corpus_bytes(const pu_corpus *c) {
  return c->total;
}

double pu_corpus_done(const pu_corpus *c) {
  return c->finished + (c->is_open ? stream_offset(&c->in) : 0);
}
