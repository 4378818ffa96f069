/* Documents of domains on the user's lists: a domain a line, with all that are below it. Forms of other lists are
 * understood: "http://host/path", "*.host", "0.0.0.0 host", "host # why". */
#include <stdlib.h>
#include <string.h>

#include "src/data/filter_kit.h"

enum { LISTED };
#define LIST_MAX ((size_t)1 << 30)
#define HOST_MAX 253u /* RFC 1035 */

static const pu_measure measures[] = {
    [LISTED] = {"listed", -INFINITY, 0, "1 where the URL's domain is on a list of the user's"},
    {0},
};

typedef struct entry {
  uint32_t at, len; /* in the text of the lists; len 0: free */
} entry;

typedef struct domains {
  pu_buf text;
  size_t n, cap;
  entry *table;
} domains;

static char lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* The host of a URL, or of what stands in a list. */
static pu_str host_of(pu_str s) {
  const char *slashes = memmem(s.ptr, s.len, "://", 3);
  if (slashes) s = pu_str_of(slashes + 3, s.len - (size_t)(slashes + 3 - s.ptr));
  for (size_t i = 0; i < s.len; i++)
    if (strchr("/?#", s.ptr[i])) s.len = i;
  const char *at = memrchr(s.ptr, '@', s.len);
  if (at) s = pu_str_of(at + 1, s.len - (size_t)(at + 1 - s.ptr));
  const char *colon = memchr(s.ptr, ':', s.len);
  if (colon) s.len = (size_t)(colon - s.ptr);
  while (s.len > 0 && s.ptr[s.len - 1] == '.') s.len--;
  return s;
}

static pu_str listed_host(pu_str line) {
  static const char *const before[] = {"0.0.0.0", "127.0.0.1"};
  for (size_t i = 0; i < PU_COUNT(before); i++) {
    size_t n = strlen(before[i]);
    if (line.len > n && memcmp(line.ptr, before[i], n) == 0 && (uint8_t)line.ptr[n] <= ' ')
      line.ptr += n, line.len -= n;
  }
  while (line.len > 0 && (uint8_t)*line.ptr <= ' ') line.ptr++, line.len--;
  for (size_t i = 0; i < line.len; i++)
    if ((uint8_t)line.ptr[i] <= ' ') line.len = i;
  pu_str host = host_of(line);
  while (host.len > 0 && (*host.ptr == '*' || *host.ptr == '.')) host.ptr++, host.len--;
  return host;
}

static size_t place(const domains *s, pu_str host) {
  size_t i = pu_hash64(host.ptr, host.len, 0) & (s->cap - 1);
  for (; s->table[i].len; i = (i + 1) & (s->cap - 1))
    if (s->table[i].len == host.len && memcmp(s->text.data + s->table[i].at, host.ptr, host.len) == 0) break;
  return i;
}

static void count_one(void *arg, pu_str line) {
  ((domains *)arg)->n += line.len > 0;
}

static void add_one(void *arg, pu_str line) {
  domains *s = arg;
  pu_str host = listed_host(line);
  if (host.len == 0 || host.len > HOST_MAX) return;
  s->table[place(s, host)] = (entry){(uint32_t)(host.ptr - s->text.data), (uint32_t)host.len};
}

static void close_domains(void *shared) {
  domains *s = shared;
  if (!s) return;
  pu_buf_deinit(&s->text);
  free(s->table);
  free(s);
}

static pu_err fill(domains *s, const pu_filter_options *o, pu_error *e) {
  PU_TRY(pu_kit_lists(&o->domains, &s->text, e));
  pu_kit_list(pu_str_of(s->text.data, s->text.len), count_one, s);
  for (size_t i = 0; i < s->text.len; i++) s->text.data[i] = lower(s->text.data[i]);
  for (s->cap = 16; s->cap < 2 * s->n;) s->cap *= 2;
  if (!(s->table = calloc(s->cap, sizeof *s->table)))
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a list of domains");
  pu_kit_list(pu_str_of(s->text.data, s->text.len), add_one, s);
  return PU_OK;
}

static pu_err open_domains(const pu_filter_options *o, void **shared, pu_error *e) {
  domains *s = calloc(1, sizeof *s);
  *shared = s;
  if (!s) return pu_fail(e, PU_ERR_NOMEM, "no memory for a list of domains");
  pu_buf_init(&s->text, LIST_MAX);
  pu_err err = fill(s, o, e);
  if (err == PU_OK) return PU_OK;
  close_domains(s);
  *shared = NULL;
  return err;
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  (void)e;
  const domains *s = shared;
  char low[HOST_MAX];
  pu_str host = host_of(d->url);
  if (host.len == 0 || host.len > HOST_MAX || s->n == 0) return PU_OK;
  for (size_t i = 0; i < host.len; i++) low[i] = lower(host.ptr[i]);
  host.ptr = low;
  values[LISTED] = 0;
  for (;;) { /* the host, then what it is below */
    if (s->table[place(s, host)].len) values[LISTED] = 1;
    const char *dot = memchr(host.ptr, '.', host.len);
    if (!dot || values[LISTED] == 1) return PU_OK;
    host = pu_str_of(dot + 1, host.len - (size_t)(dot + 1 - host.ptr));
  }
}

const pu_filter pu_filter_domains = {
    .name = "domains",
    .summary = "drops documents of domains on the user's lists",
    .measures = measures,
    .open = open_domains,
    .close = close_domains,
    .apply = apply,
};
