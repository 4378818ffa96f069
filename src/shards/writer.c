/* Writing shards. Tokens stream to NAME.tmp; offsets, ids and mask bits stay in memory until the file is full. Every
 * file keeps its .tmp name until close, when all of them are renamed: a reader sees the whole source or none of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "src/shards/shard.h"

enum { OUT_BYTES = 1 << 20, MAX_FILES = 100000 };
#define DEFAULT_TOKENS ((uint64_t)1 << 28)

/* A file being written: a buffer over a descriptor, with a running hash of the section that goes through it. */
typedef struct sink {
  int fd;
  char *path; /* without .tmp */
  char *tmp;
  uint8_t *buffer; /* [OUT_BYTES] */
  size_t used;
  uint64_t written;
  XXH3_state_t *hash;
} sink;

typedef struct words {
  uint64_t *v;
  size_t n, cap;
} words;

struct pu_shard_writer {
  pu_shard_writer_options o;
  char *dir, *name;
  bool single; /* the path named one file */
  int width;
  uint64_t max_tokens;
  sink out;
  bool is_open;
  uint64_t tokens; /* in the file that is open */
  words offsets, ids;
  pu_buf mask, domains;
  uint16_t domain;
  uint64_t last;   /* where the last document began */
  char **finished; /* [files]: paths without .tmp */
  size_t files;
  bool failed;
};

/* ---- the sink ---------------------------------------------------------------------------------------------------- */

static pu_err sink_flush(sink *s, pu_error *e) {
  for (size_t at = 0; at < s->used;) {
    ssize_t n = write(s->fd, s->buffer + at, s->used - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      return pu_fail(e, PU_ERR_IO, "%s: write: %s (nothing is left behind)", s->path, strerror(n < 0 ? errno : ENOSPC));
    at += (size_t)n;
  }
  s->used = 0;
  return PU_OK;
}

static pu_err sink_put(sink *s, const void *data, size_t len, pu_error *e) {
  const uint8_t *from = data;
  XXH3_64bits_update(s->hash, data, len);
  s->written += len;
  while (len > 0) {
    size_t part = PU_MIN(len, OUT_BYTES - s->used);
    memcpy(s->buffer + s->used, from, part);
    s->used += part;
    from += part;
    len -= part;
    if (s->used == OUT_BYTES) PU_TRY(sink_flush(s, e));
  }
  return PU_OK;
}

static pu_err sink_open(sink *s, const char *path, pu_error *e) {
  s->path = strdup(path);
  s->used = 0;
  s->written = 0;
  if (!s->path || asprintf(&s->tmp, "%s.tmp", path) < 0) {
    s->tmp = NULL;
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path);
  }
  s->fd = open(s->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (s->fd < 0) return pu_fail(e, PU_ERR_IO, "%s: %s", s->path, strerror(errno));
  XXH3_64bits_reset(s->hash);
  return PU_OK;
}

/* Leaves path for the caller. */
static void sink_drop(sink *s) {
  if (s->fd >= 0) close(s->fd);
  s->fd = -1;
  free(s->tmp);
  s->tmp = NULL;
}

static pu_err sink_sync(sink *s, pu_error *e) {
  PU_TRY(sink_flush(s, e));
  if (fsync(s->fd) != 0) return pu_fail(e, PU_ERR_IO, "%s: fsync: %s", s->path, strerror(errno));
  int fd = s->fd;
  s->fd = -1;
  if (close(fd) != 0) return pu_fail(e, PU_ERR_IO, "%s: close: %s", s->path, strerror(errno));
  return PU_OK;
}

/* ---- .pub -------------------------------------------------------------------------------------------------------- */

static bool words_push(words *w, uint64_t v) {
  if (w->n == w->cap) {
    size_t cap = w->cap ? w->cap * 2 : 1024;
    uint64_t *grown = realloc(w->v, cap * sizeof *grown);
    if (!grown) return false;
    w->v = grown;
    w->cap = cap;
  }
  w->v[w->n++] = v;
  return true;
}

/* Pads to 8 bytes, gives the section's hash and starts the next one's. */
static pu_err section_end(sink *s, uint64_t *hash, pu_error *e) {
  static const uint8_t zeros[8];
  PU_TRY(sink_put(s, zeros, (size_t)(-s->written & 7), e));
  *hash = XXH3_64bits_digest(s->hash);
  XXH3_64bits_reset(s->hash);
  return PU_OK;
}

static pu_err pub_begin(pu_shard_writer *w, pu_error *e) {
  static const uint8_t room[sizeof(pu_pub_header)]; /* the header is written last, when its counts are known */
  PU_TRY(sink_put(&w->out, room, sizeof room, e));
  XXH3_64bits_reset(w->out.hash);
  return PU_OK;
}

static pu_err pub_finish(pu_shard_writer *w, pu_error *e) {
  sink *s = &w->out;
  uint64_t hashes[PU_PUB_SECTIONS];
  int sections = 0;
  uint64_t documents = w->offsets.n;
  PU_TRY(section_end(s, &hashes[sections++], e));
  if (!words_push(&w->offsets, w->tokens)) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", s->path);
  PU_TRY(sink_put(s, w->offsets.v, w->offsets.n * sizeof(uint64_t), e));
  PU_TRY(section_end(s, &hashes[sections++], e));
  PU_TRY(sink_put(s, w->ids.v, w->ids.n * sizeof(uint64_t), e));
  PU_TRY(section_end(s, &hashes[sections++], e));
  if (w->o.mask) {
    PU_TRY(sink_put(s, w->mask.data, w->mask.len, e));
    PU_TRY(section_end(s, &hashes[sections++], e));
  }
  if (w->o.domains) {
    PU_TRY(sink_put(s, w->domains.data, w->domains.len, e));
    PU_TRY(section_end(s, &hashes[sections++], e));
  }
  PU_TRY(sink_put(s, hashes, (size_t)sections * sizeof hashes[0], e));
  PU_TRY(sink_flush(s, e));
  pu_pub_header h = {.version = PU_PUB_VERSION,
                     .width = (uint32_t)w->width,
                     .tokens = w->tokens,
                     .documents = documents,
                     .tokenizer = w->o.tokenizer_hash,
                     .flags = (w->o.mask ? PU_PUB_MASK : 0) | (w->o.domains ? PU_PUB_DOMAIN : 0)};
  memcpy(h.magic, PU_PUB_MAGIC, sizeof h.magic);
  h.hash = pu_hash64(&h, offsetof(pu_pub_header, hash), 0);
  if (pwrite(s->fd, &h, sizeof h, 0) != (ssize_t)sizeof h)
    return pu_fail(e, PU_ERR_IO, "%s: write: %s", s->path, strerror(errno));
  return PU_OK;
}

static bool mask_put(pu_shard_writer *w, const uint8_t *mask, size_t n) {
  size_t need = (w->tokens + n + 7) / 8;
  while (w->mask.len < need)
    if (!pu_buf_putc(&w->mask, 0)) return false;
  for (size_t i = 0; i < n; i++)
    if (!mask || mask[i]) w->mask.data[(w->tokens + i) / 8] |= (char)(1u << ((w->tokens + i) % 8));
  return true;
}

static pu_err pub_document(pu_shard_writer *w, const int32_t *ids, size_t n, const uint8_t *mask, uint64_t id_hash,
                           pu_error *e) {
  if (!words_push(&w->offsets, w->tokens) || !words_push(&w->ids, id_hash) || (w->o.mask && !mask_put(w, mask, n)) ||
      (w->o.domains && !pu_buf_append(&w->domains, &w->domain, sizeof w->domain)))
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the index", w->out.path);
  if (w->width == 4) return sink_put(&w->out, ids, n * sizeof *ids, e);
  uint16_t narrow[1024];
  for (size_t i = 0; i < n;) {
    size_t part = PU_MIN(n - i, PU_COUNT(narrow));
    for (size_t j = 0; j < part; j++) narrow[j] = (uint16_t)ids[i + j];
    PU_TRY(sink_put(&w->out, narrow, part * sizeof narrow[0], e));
    i += part;
  }
  return PU_OK;
}

/* ---- InternEvo --------------------------------------------------------------------------------------------------- */

/* The offsets hold (byte offset, tokens) pairs here, as the .meta file wants them. */
static pu_err bin_document(pu_shard_writer *w, const int32_t *ids, size_t n, const uint8_t *mask, pu_error *e) {
  if (!words_push(&w->offsets, w->out.written) || !words_push(&w->offsets, n))
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the index", w->out.path);
  PU_TRY(sink_put(&w->out, "{\"tokens\": [", 12, e));
  for (size_t i = 0; i < n; i++) {
    char text[24];
    /* Zero has no negative: id 0 is always predicted in this format. */
    int32_t v = w->o.mask && mask && !mask[i] ? -ids[i] : ids[i];
    int len = snprintf(text, sizeof text, i ? ", %d" : "%d", v);
    PU_TRY(sink_put(&w->out, text, (size_t)len, e));
  }
  return sink_put(&w->out, "]}\n", 3, e);
}

/* Errors name the file without .tmp. */
static pu_err meta_write(const char *path, const pu_buf *meta, pu_error *e) {
  pu_err err = pu_file_write(path, meta->data, meta->len, e);
  size_t n = strlen(path);
  if (err == PU_OK || !e || strncmp(e->msg, path, n) != 0) return err;
  const pu_error inner = *e;
  return pu_fail(e, err, "%.*s%s", (int)(n - strlen(".tmp")), path, inner.msg + n);
}

static pu_err bin_finish(pu_shard_writer *w, pu_error *e) {
  pu_buf meta;
  pu_buf_init(&meta, PU_BUF_MAX);
  char *path = NULL;
  pu_err err = PU_OK;
  if (!pu_internevo_meta((const int64_t *)w->offsets.v, w->offsets.n / 2, &meta) ||
      asprintf(&path, "%s.meta.tmp", w->out.path) < 0) {
    path = NULL;
    err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the index", w->out.path);
  }
  if (err == PU_OK) err = meta_write(path, &meta, e);
  free(path);
  pu_buf_deinit(&meta);
  return err;
}

/* ---- files of a source ------------------------------------------------------------------------------------------- */

static pu_err file_begin(pu_shard_writer *w, pu_error *e) {
  if (w->files >= MAX_FILES) return pu_fail(e, PU_ERR_USAGE, "%s: more than %d shards", w->dir, MAX_FILES);
  char *path;
  const char *ending = w->o.internevo ? "bin" : "pub";
  int len =
      w->single ? asprintf(&path, "%s", w->dir) : asprintf(&path, "%s/%s-%05zu.%s", w->dir, w->name, w->files, ending);
  if (len < 0) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", w->dir);
  char **grown = realloc(w->finished, (w->files + 1) * sizeof *grown);
  pu_err err = grown ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory", w->dir);
  if (grown) w->finished = grown;
  if (err == PU_OK) err = sink_open(&w->out, path, e);
  free(path);
  if (w->out.path && grown) w->finished[w->files++] = w->out.path;
  if (err != PU_OK) return err;
  w->is_open = true;
  w->tokens = 0;
  w->offsets.n = w->ids.n = 0;
  pu_buf_clear(&w->mask);
  pu_buf_clear(&w->domains);
  return w->o.internevo ? PU_OK : pub_begin(w, e);
}

static pu_err file_finish(pu_shard_writer *w, pu_error *e) {
  PU_TRY(w->o.internevo ? bin_finish(w, e) : pub_finish(w, e));
  PU_TRY(sink_sync(&w->out, e));
  sink_drop(&w->out);
  w->is_open = false;
  return PU_OK;
}

pu_err pu_shard_writer_open(const char *dir, const pu_shard_writer_options *o, pu_shard_writer **out, pu_error *e) {
  *out = NULL;
  if (o->vocab_size <= 0) return pu_fail(e, PU_ERR_USAGE, "%s: a shard writer needs the vocabulary's size", dir);
  bool single = pu_ends_with(dir, o->internevo ? ".bin" : ".pub");
  if (!single) PU_TRY(pu_mkdirs(dir, e));
  pu_shard_writer *w = calloc(1, sizeof *w);
  if (!w) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", dir);
  w->o = *o;
  w->single = single;
  w->width = o->vocab_size <= 65536 ? 2 : 4;
  w->max_tokens = o->max_tokens ? o->max_tokens : DEFAULT_TOKENS;
  w->dir = strdup(dir);
  w->name = strdup(o->name ? o->name : "shard");
  w->out.fd = -1;
  w->out.buffer = malloc(OUT_BYTES);
  w->out.hash = XXH3_createState();
  pu_buf_init(&w->mask, PU_BUF_MAX);
  pu_buf_init(&w->domains, PU_BUF_MAX);
  pu_err err = PU_OK;
  if (!w->dir || !w->name || !w->out.buffer || !w->out.hash) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory", dir);
  if (err == PU_OK) err = file_begin(w, e);
  if (err != PU_OK) {
    pu_shard_writer_abort(w);
    return err;
  }
  *out = w;
  return PU_OK;
}

static pu_err check_ids(const pu_shard_writer *w, const int32_t *ids, size_t n, pu_error *e) {
  for (size_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= w->o.vocab_size)
      return pu_fail(e, PU_ERR_USAGE, "%s: token id %d is outside the vocabulary of %d", w->dir, ids[i],
                     w->o.vocab_size);
  return PU_OK;
}

static pu_err add(pu_shard_writer *w, const int32_t *ids, size_t n, const uint8_t *mask, uint64_t id_hash,
                  pu_error *e) {
  PU_TRY(check_ids(w, ids, n, e));
  if (!w->single && w->tokens > 0 && w->tokens + n > w->max_tokens) {
    PU_TRY(file_finish(w, e));
    PU_TRY(file_begin(w, e));
  }
  PU_TRY(w->o.internevo ? bin_document(w, ids, n, mask, e) : pub_document(w, ids, n, mask, id_hash, e));
  w->last = w->tokens;
  w->tokens += n;
  return PU_OK;
}

pu_err pu_shard_writer_add(pu_shard_writer *w, const int32_t *ids, size_t n, const uint8_t *mask, uint64_t id_hash,
                           pu_error *e) {
  if (w->failed) return pu_fail(e, PU_ERR_IO, "%s: writing failed before; nothing more is taken", w->dir);
  if (n == 0) return PU_OK; /* a document without tokens leaves no trace */
  pu_err err = add(w, ids, n, mask, id_hash, e);
  w->failed = err != PU_OK;
  return err;
}

void pu_shard_writer_domain(pu_shard_writer *w, uint16_t domain) {
  w->domain = domain;
}

void pu_shard_writer_place(const pu_shard_writer *w, size_t *file, uint64_t *token) {
  *file = w->files - 1;
  *token = w->last;
}

static void writer_free(pu_shard_writer *w) {
  sink_drop(&w->out);
  for (size_t i = 0; i < w->files; i++) free(w->finished[i]);
  free(w->finished);
  free(w->out.buffer);
  XXH3_freeState(w->out.hash);
  free(w->offsets.v);
  free(w->ids.v);
  pu_buf_deinit(&w->mask);
  pu_buf_deinit(&w->domains);
  free(w->dir);
  free(w->name);
  free(w);
}

static const char *const parts[] = {"", ".meta"};

void pu_shard_writer_abort(pu_shard_writer *w) {
  if (!w) return;
  char tmp[4200];
  for (size_t i = 0; i < w->files; i++)
    for (size_t p = 0; p < PU_COUNT(parts); p++)
      if ((size_t)snprintf(tmp, sizeof tmp, "%s%s.tmp", w->finished[i], parts[p]) < sizeof tmp) unlink(tmp);
  writer_free(w);
}

/* Shards left by an earlier run under the same name, longer or in the other format, would silently join this one. */
static void remove_older(const pu_shard_writer *w, const char *ending, size_t from) {
  char path[4200];
  for (bool any = true; any; from++) {
    any = false;
    for (size_t p = 0; p < PU_COUNT(parts); p++) {
      snprintf(path, sizeof path, "%s/%s-%05zu.%s%s", w->dir, w->name, from, ending, parts[p]);
      any |= unlink(path) == 0;
    }
  }
}

static pu_err publish(const pu_shard_writer *w, pu_error *e) {
  char tmp[4300], path[4200];
  for (size_t i = 0; i < w->files; i++) {
    for (size_t p = w->o.internevo ? 2 : 1; p-- > 0;) { /* the index first: a .bin without one is an error */
      snprintf(path, sizeof path, "%s%s", w->finished[i], parts[p]);
      snprintf(tmp, sizeof tmp, "%s.tmp", path);
      if (rename(tmp, path) != 0) return pu_fail(e, PU_ERR_IO, "%s: rename: %s", path, strerror(errno));
    }
  }
  if (w->single) return PU_OK;
  remove_older(w, w->o.internevo ? "bin" : "pub", w->files);
  remove_older(w, w->o.internevo ? "pub" : "bin", 0);
  return pu_fsync_dir(w->dir, e);
}

pu_err pu_shard_writer_close(pu_shard_writer *w, pu_error *e) {
  pu_err err = w->failed ? pu_fail(e, PU_ERR_IO, "%s: writing failed before; no shard was made", w->dir) : PU_OK;
  if (err == PU_OK && w->is_open) err = file_finish(w, e);
  if (err == PU_OK) err = publish(w, e);
  if (err == PU_OK)
    writer_free(w);
  else
    pu_shard_writer_abort(w);
  return err;
}
