#include "src/data/parquet/thrift.h"

pu_thrift pu_thrift_of(pu_str bytes) {
  const uint8_t *p = (const uint8_t *)bytes.ptr;
  return (pu_thrift){p, p + bytes.len, false};
}

static uint64_t broken(pu_thrift *t) {
  t->bad = true;
  t->at = t->end;
  return 0;
}

uint64_t pu_thrift_varint(pu_thrift *t) {
  uint64_t v = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (t->at == t->end) break;
    uint8_t b = *t->at++;
    v |= (uint64_t)(b & 127) << shift;
    if (b < 128) return v;
  }
  return broken(t);
}

static int64_t zigzag(pu_thrift *t) {
  uint64_t v = pu_thrift_varint(t);
  return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

static void bytes_skip(pu_thrift *t, uint64_t n) {
  if (n > (uint64_t)(t->end - t->at))
    broken(t);
  else
    t->at += n;
}

bool pu_thrift_next(pu_thrift *t, pu_thrift_field *f) {
  if (t->at == t->end) {
    broken(t);
    return false;
  }
  uint8_t b = *t->at++;
  if ((b & 15) == PU_THRIFT_STOP) return false;
  if ((b & 15) > PU_THRIFT_STRUCT) {
    broken(t);
    return false;
  }
  f->type = (pu_thrift_type)(b & 15);
  int64_t id = b >> 4 ? (int64_t)f->id + (b >> 4) : zigzag(t);
  if (id < 0 || id > INT16_MAX) broken(t);
  f->id = t->bad ? 0 : (int32_t)id;
  return !t->bad;
}

/* Type and number of a list's elements. */
static uint64_t list_begin(pu_thrift *t, pu_thrift_type *of) {
  *of = PU_THRIFT_STOP;
  if (t->at == t->end) return broken(t);
  uint8_t b = *t->at++;
  *of = (pu_thrift_type)(b & 15);
  uint64_t n = b >> 4 == 15 ? pu_thrift_varint(t) : b >> 4;
  return n > (uint64_t)(t->end - t->at) ? broken(t) : n; /* each element has a byte at least */
}

/* `depth` is how deep structs and lists stand in each other. in_list: a truth value there has a byte of its own. */
static void skip(pu_thrift *t, pu_thrift_type type, bool in_list, int depth);

static void skip_list(pu_thrift *t, int depth) {
  pu_thrift_type of;
  for (uint64_t n = list_begin(t, &of); n > 0 && !t->bad; n--) skip(t, of, true, depth);
}

static void skip_map(pu_thrift *t, int depth) {
  uint64_t n = pu_thrift_varint(t);
  if (n == 0) return;
  if (t->at == t->end || n > (uint64_t)(t->end - t->at)) {
    broken(t);
    return;
  }
  uint8_t types = *t->at++;
  for (; n > 0 && !t->bad; n--) {
    skip(t, (pu_thrift_type)(types >> 4), true, depth);
    skip(t, (pu_thrift_type)(types & 15), true, depth);
  }
}

static void skip(pu_thrift *t, pu_thrift_type type, bool in_list, int depth) {
  if (depth == PU_THRIFT_DEPTH) {
    broken(t);
    return;
  }
  pu_thrift_field f = {0};
  switch (type) {
  case PU_THRIFT_TRUE:
  case PU_THRIFT_FALSE:
    if (in_list) bytes_skip(t, 1);
    break;
  case PU_THRIFT_I8:
    bytes_skip(t, 1);
    break;
  case PU_THRIFT_I16:
  case PU_THRIFT_I32:
  case PU_THRIFT_I64:
    pu_thrift_varint(t);
    break;
  case PU_THRIFT_DOUBLE:
    bytes_skip(t, 8);
    break;
  case PU_THRIFT_BINARY:
    bytes_skip(t, pu_thrift_varint(t));
    break;
  case PU_THRIFT_LIST:
  case PU_THRIFT_SET:
    skip_list(t, depth + 1);
    break;
  case PU_THRIFT_MAP:
    skip_map(t, depth + 1);
    break;
  case PU_THRIFT_STRUCT:
    while (pu_thrift_next(t, &f)) skip(t, f.type, false, depth + 1);
    break;
  default:
    broken(t);
  }
}

void pu_thrift_skip(pu_thrift *t, const pu_thrift_field *f) {
  skip(t, f->type, false, 0);
}

int64_t pu_thrift_int(pu_thrift *t, const pu_thrift_field *f) {
  if (f->type >= PU_THRIFT_I16 && f->type <= PU_THRIFT_I64) return zigzag(t);
  if (f->type != PU_THRIFT_I8 || t->at == t->end) return (int64_t)broken(t);
  return (int8_t)*t->at++;
}

bool pu_thrift_bool(const pu_thrift_field *f) {
  return f->type == PU_THRIFT_TRUE;
}

pu_str pu_thrift_binary(pu_thrift *t, const pu_thrift_field *f) {
  uint64_t n = f->type == PU_THRIFT_BINARY ? pu_thrift_varint(t) : broken(t);
  const char *p = (const char *)t->at;
  bytes_skip(t, n);
  return t->bad ? pu_str_c("") : pu_str_of(p, (size_t)n);
}

size_t pu_thrift_structs(pu_thrift *t, const pu_thrift_field *f) {
  pu_thrift_type of;
  if (f->type != PU_THRIFT_LIST) return (size_t)broken(t);
  uint64_t n = list_begin(t, &of);
  return (size_t)(n > 0 && of != PU_THRIFT_STRUCT ? broken(t) : n);
}

bool pu_thrift_is_struct(pu_thrift *t, const pu_thrift_field *f) {
  if (f->type != PU_THRIFT_STRUCT) broken(t);
  return !t->bad;
}
