/* Tar archives (POSIX ustar and pax, GNU long names): the documents of their members. A broken header is passed over,
 * up to the next one that is whole. */
#include <stdlib.h>
#include <string.h>

#include "src/data/reader.h"

enum { BLOCK = 512, MARK = 257, LOOK = 64 << 10, NAME_MAX_LEN = 1 << 16 };

typedef struct tar {
  pu_input *in;
  pu_members members;
  uint64_t left, padding; /* of the member's bytes */
  pu_buf long_name;       /* of the next member; empty: its header says it */
  uint64_t long_size;     /* UINT64_MAX: its header says it */
  char *name;
  bool opened, told_broken;
} tar;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "tar: no memory");
}

/* Octal digits between spaces, or, with the first bit set, a big-endian number. */
static uint64_t number(const char *p, size_t n) {
  uint64_t v = 0;
  size_t i = 0;
  if ((uint8_t)p[0] & 0x80) {
    for (i = n - 8; i < n; i++) v = v << 8 | (uint8_t)p[i];
    return v >> 62 ? 0 : v;
  }
  while (i < n && p[i] == ' ') i++;
  for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) v = v << 3 | (uint64_t)(p[i] - '0');
  return v;
}

static bool is_header(pu_str s) {
  if (s.len < BLOCK) return false;
  uint64_t told = number(s.ptr + 148, 8), sum = 8 * ' ';
  if (told <= sum) return false;
  for (size_t i = 0; i < BLOCK; i++) sum += i >= 148 && i < 156 ? 0 : (uint8_t)s.ptr[i];
  return told == sum;
}

static bool is_zeros(pu_str s) {
  for (size_t i = 0; i < s.len; i++)
    if (s.ptr[i] != 0) return false;
  return true;
}

static pu_err pass(pu_input *in, uint64_t n, pu_error *e) {
  while (n > 0) {
    pu_str s;
    PU_TRY(pu_input_peek(in, 1, &s, e));
    if (s.len == 0) return PU_OK;
    size_t step = (size_t)PU_MIN((uint64_t)s.len, n);
    pu_input_take(in, step);
    n -= step;
  }
  return PU_OK;
}

/* Behind a broken header: on to where the next one's mark stands, which need not be at a block's beginning. */
static pu_err search(tar *t, pu_error *e) {
  pu_str s;
  PU_TRY(pu_input_peek(t->in, LOOK, &s, e));
  const char *mark = s.len > MARK + 1 ? memmem(s.ptr + MARK + 1, s.len - MARK - 1, "ustar", 5) : NULL;
  pu_input_take(t->in, mark ? (size_t)(mark - s.ptr) - MARK : s.len - PU_MIN(s.len - 1, (size_t)BLOCK));
  return PU_OK;
}

/* The next header, past zeros and what is broken; *more false: the end. */
static pu_err header_next(tar *t, pu_str *out, bool *more, pu_error *e) {
  for (;;) {
    PU_TRY(pu_input_peek(t->in, BLOCK, out, e));
    out->len = PU_MIN(out->len, (size_t)BLOCK);
    *more = is_header(*out);
    if (*more) {
      t->told_broken = false;
      return PU_OK;
    }
    bool zeros = is_zeros(*out), last = out->len < BLOCK;
    if (!zeros && !t->told_broken) {
      pu_input_skip(t->in, pu_input_at(t->in), "no header of a tar archive");
      t->told_broken = true;
    }
    if (zeros || last)
      pu_input_take(t->in, out->len);
    else
      PU_TRY(search(t, e));
    if (last) return PU_OK;
  }
}

/* "LEN KEY=VALUE\n" records. */
static void pax_read(tar *t, pu_str s) {
  while (s.len > 0) {
    size_t len = 0, i = 0;
    for (; i < s.len && i < 8 && s.ptr[i] >= '0' && s.ptr[i] <= '9'; i++) len = len * 10 + (size_t)(s.ptr[i] - '0');
    if (i == s.len || s.ptr[i] != ' ' || len <= i + 1 || len > s.len) return;
    pu_str record = pu_str_of(s.ptr + i + 1, len - i - 1);
    if (record.ptr[record.len - 1] == '\n') record.len--;
    if (record.len > 5 && memcmp(record.ptr, "path=", 5) == 0) {
      pu_buf_clear(&t->long_name);
      pu_buf_append(&t->long_name, record.ptr + 5, record.len - 5);
    }
    if (record.len > 5 && memcmp(record.ptr, "size=", 5) == 0) {
      t->long_size = 0;
      for (i = 5; i < record.len && i < 22 && record.ptr[i] >= '0' && record.ptr[i] <= '9'; i++)
        t->long_size = t->long_size * 10 + (uint64_t)(record.ptr[i] - '0');
    }
    s = pu_str_of(s.ptr + len, s.len - len);
  }
}

/* What a member that is no file says of the next one. */
static pu_err extra_read(tar *t, char type, uint64_t size, pu_error *e) {
  uint64_t all = (size + BLOCK - 1) / BLOCK * BLOCK;
  if ((type == 'x' || type == 'L') && size <= NAME_MAX_LEN) {
    pu_str s;
    PU_TRY(pu_input_peek(t->in, (size_t)size, &s, e));
    s.len = PU_MIN(s.len, (size_t)size);
    if (type == 'x') {
      pax_read(t, s);
    } else {
      pu_buf_clear(&t->long_name);
      pu_buf_append(&t->long_name, s.ptr, strnlen(s.ptr, s.len));
    }
  }
  return pass(t->in, all, e);
}

static pu_err name_set(tar *t, pu_str header, pu_error *e) {
  pu_buf raw, text;
  pu_buf_init(&raw, 2 * NAME_MAX_LEN);
  pu_buf_init(&text, 8 * NAME_MAX_LEN);
  bool ustar = memcmp(header.ptr + MARK, "ustar\0", 6) == 0;
  if (t->long_name.len > 0) {
    pu_buf_append(&raw, t->long_name.data, t->long_name.len);
  } else {
    size_t prefix = ustar ? strnlen(header.ptr + 345, 155) : 0;
    pu_buf_append(&raw, header.ptr + 345, prefix);
    if (prefix > 0) pu_buf_putc(&raw, '/');
    pu_buf_append(&raw, header.ptr, strnlen(header.ptr, 100));
  }
  pu_str s = pu_str_of(raw.data ? raw.data : "", raw.len);
  while (s.len >= 2 && memcmp(s.ptr, "./", 2) == 0) s = pu_str_of(s.ptr + 2, s.len - 2);
  pu_err err = pu_charset_convert(s, pu_charset_find(s, NULL), &text, NULL, e);
  for (size_t i = 0; i < text.len; i++)
    if ((uint8_t)text.data[i] < ' ') text.data[i] = ' ';
  free(t->name);
  t->name = err == PU_OK ? strdup(text.data ? text.data : "") : NULL;
  pu_buf_deinit(&raw);
  pu_buf_deinit(&text);
  return err != PU_OK || t->name ? err : nomem(e);
}

static pu_err member_begin(void *arg, char **name, bool *more, pu_error *e) {
  tar *t = arg;
  for (;;) {
    pu_str h;
    PU_TRY(pass(t->in, t->left + t->padding, e));
    t->left = t->padding = 0;
    PU_TRY(header_next(t, &h, more, e));
    if (!*more) return PU_OK;
    char type = h.ptr[156];
    uint64_t size = number(h.ptr + 124, 12);
    bool is_file = type == '0' || type == '\0' || type == '7';
    if (is_file) PU_TRY(name_set(t, h, e));
    pu_input_take(t->in, BLOCK);
    if (!is_file) {
      /* Links, folders and devices have no bytes, whatever their size says. */
      if (type < '1' || type > '6') PU_TRY(extra_read(t, type, size, e));
      continue;
    }
    if (t->long_size != UINT64_MAX) size = t->long_size;
    t->long_size = UINT64_MAX;
    pu_buf_clear(&t->long_name);
    t->left = PU_MIN(size, (uint64_t)INT64_MAX);
    t->padding = (BLOCK - t->left % BLOCK) % BLOCK;
    if (pu_member_ignored(t->name)) continue;
    *name = t->name;
    return PU_OK;
  }
}

static pu_err member_read(void *arg, void *data, size_t len, size_t *got, pu_error *e) {
  tar *t = arg;
  *got = 0;
  if (t->left == 0) return PU_OK;
  PU_TRY(pu_input_read(t->in, data, (size_t)PU_MIN((uint64_t)len, t->left), got, e));
  t->left -= *got;
  if (*got > 0) return PU_OK;
  pu_input_skip(t->in, pu_input_at(t->in), "a tar archive that is cut short");
  t->left = t->padding = 0;
  return PU_OK;
}

static pu_err tar_open(void *state, pu_input *in, pu_error *e) {
  (void)e;
  tar *t = state;
  t->in = in;
  t->long_size = UINT64_MAX;
  pu_buf_init(&t->long_name, NAME_MAX_LEN);
  t->members = (pu_members){.begin = member_begin, .read = member_read, .arg = t};
  t->opened = pu_input_depth(in) < PU_INPUT_DEPTH;
  if (!t->opened) pu_input_skip(in, 0, "archives in archives, too many");
  return PU_OK;
}

static pu_err tar_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  tar *t = state;
  *found = false;
  return t->opened ? pu_members_next(&t->members, in, out, found, e) : PU_OK;
}

static void tar_close(void *state) {
  tar *t = state;
  pu_members_close(&t->members);
  pu_buf_deinit(&t->long_name);
  free(t->name);
}

static bool tar_looks(pu_str head) {
  return head.len >= BLOCK && memcmp(head.ptr + MARK, "ustar", 5) == 0 && is_header(head);
}

const pu_reader pu_reader_tar = {.name = "tar",
                                 .endings = ".tar .tgz",
                                 .binary = true,
                                 .archive = true,
                                 .looks = tar_looks,
                                 .state_size = sizeof(tar),
                                 .open = tar_open,
                                 .next = tar_next,
                                 .close = tar_close};
