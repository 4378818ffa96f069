#include "src/data/parquet/meta.h"

#include <string.h>

typedef struct element {
  int type, repetition;
  int64_t children;
  pu_str name;
} element;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "parquet: no memory");
}

/* ---- schema ------------------------------------------------------------------------------------------------------ */

static element element_read(pu_thrift *t) {
  element out = {.type = -1};
  for (pu_thrift_field f = {0}; pu_thrift_next(t, &f);) {
    switch (f.id) {
    case 1:
      out.type = (int)pu_thrift_int(t, &f);
      break;
    case 3:
      out.repetition = (int)pu_thrift_int(t, &f);
      break;
    case 4:
      out.name = pu_thrift_binary(t, &f);
      break;
    case 5:
      out.children = pu_thrift_int(t, &f);
      break;
    default:
      pu_thrift_skip(t, &f);
    }
  }
  return out;
}

/* A group whose fields are being read. */
typedef struct group {
  int64_t left;
  pu_parquet_leaf all; /* what its fields have from it */
} group;

static pu_err field_add(pu_parquet_meta *m, const element *el, group *stack, int *depth, pu_error *e) {
  group *in = &stack[*depth - 1];
  pu_parquet_leaf leaf = in->all;
  in->left--;
  leaf.max_def += el->repetition != 0;
  leaf.repeated |= el->repetition == 2;
  leaf.type = el->type;
  leaf.path = pu_arena_printf(m->arena, "%s%s%.*s", in->all.path, in->all.path[0] ? "." : "",
                              (int)PU_MIN(el->name.len, (size_t)1000), el->name.ptr);
  if (!leaf.path) return nomem(e);
  if (el->children > 0)
    stack[(*depth)++] = (group){el->children, leaf};
  else
    m->leaves[m->n_leaves++] = leaf;
  return PU_OK;
}

static pu_err schema_read(pu_thrift *t, size_t n, pu_parquet_meta *m, pu_error *e) {
  group stack[PU_PARQUET_NESTED] = {{.all = {.path = ""}}};
  int depth = 1;
  m->n_leaves = 0;
  m->leaves = pu_arena_zalloc(m->arena, PU_PARQUET_LEAVES * sizeof *m->leaves);
  if (!m->leaves) return nomem(e);
  for (size_t i = 0; i < n && !t->bad; i++) {
    element el = element_read(t);
    if (i == 0) { /* the root */
      stack[0].left = el.children;
      continue;
    }
    while (depth > 0 && stack[depth - 1].left <= 0) depth--;
    t->bad |= depth == 0 || depth == PU_PARQUET_NESTED || m->n_leaves == PU_PARQUET_LEAVES;
    if (!t->bad) PU_TRY(field_add(m, &el, stack, &depth, e));
  }
  return PU_OK;
}

/* ---- row groups -------------------------------------------------------------------------------------------------- */

/* Of what is no number below zero; such is 0. */
static uint64_t size_read(pu_thrift *t, const pu_thrift_field *f) {
  int64_t n = pu_thrift_int(t, f);
  return n < 0 ? 0 : (uint64_t)n;
}

static pu_parquet_chunk chunk_meta_read(pu_thrift *t, uint64_t *unpacked) {
  pu_parquet_chunk out = {0};
  uint64_t data = 0, dictionary = 0;
  for (pu_thrift_field f = {0}; pu_thrift_next(t, &f);) {
    switch (f.id) {
    case 4:
      out.codec = (int)pu_thrift_int(t, &f);
      break;
    case 5:
      out.values = size_read(t, &f);
      break;
    case 6:
      *unpacked = size_read(t, &f);
      break;
    case 7:
      out.len = size_read(t, &f);
      break;
    case 9:
      data = size_read(t, &f);
      break;
    case 11:
      dictionary = size_read(t, &f);
      break;
    default:
      pu_thrift_skip(t, &f);
    }
  }
  out.at = dictionary > 0 && dictionary < data ? dictionary : data; /* some writers say 0 for none */
  return out;
}

static void column_read(pu_thrift *t, pu_parquet_chunk *out, uint64_t *unpacked) {
  bool elsewhere = false;
  for (pu_thrift_field f = {0}; pu_thrift_next(t, &f);) {
    if (f.id == 3 && pu_thrift_is_struct(t, &f)) {
      *out = chunk_meta_read(t, unpacked);
      continue;
    }
    elsewhere |= f.id == 1 && f.type == PU_THRIFT_BINARY; /* a path: the values are in another file */
    pu_thrift_skip(t, &f);
  }
  if (elsewhere) out->values = 0;
}

static void columns_read(pu_thrift *t, size_t n, pu_parquet_meta *m) {
  pu_parquet_chunk *row = m->chunks + m->n_groups * m->n_leaves;
  for (size_t i = 0; i < n && !t->bad; i++) {
    pu_parquet_chunk chunk = {0};
    uint64_t unpacked = 0;
    column_read(t, &chunk, &unpacked);
    if (t->bad || i >= m->n_leaves) continue;
    row[i] = chunk;
    m->leaves[i].bytes += PU_MIN(unpacked, (uint64_t)1 << 50);
  }
}

static pu_err groups_read(pu_thrift *t, size_t n, pu_parquet_meta *m, pu_error *e) {
  m->n_groups = 0;
  /* What is told of a chunk takes 16 bytes at least. */
  size_t most = m->n_leaves > 0 ? (size_t)(t->end - t->at) / (16 * m->n_leaves) + 1 : 0;
  n = PU_MIN(n, most);
  m->chunks = pu_arena_zalloc(m->arena, (n * m->n_leaves + 1) * sizeof *m->chunks);
  if (!m->chunks) return nomem(e);
  for (; m->n_groups < n && !t->bad; m->n_groups++)
    for (pu_thrift_field f = {0}; pu_thrift_next(t, &f);) {
      if (f.id == 1)
        columns_read(t, pu_thrift_structs(t, &f), m);
      else
        pu_thrift_skip(t, &f);
    }
  return PU_OK;
}

/* The schema stands before the row groups, which need it; both once. */
pu_err pu_parquet_meta_read(pu_str footer, pu_arena *a, pu_parquet_meta *out, const char **why, pu_error *e) {
  pu_thrift t = pu_thrift_of(footer);
  *out = (pu_parquet_meta){.arena = a};
  for (pu_thrift_field f = {0}; pu_thrift_next(&t, &f);) {
    if (f.id == 2 && !out->leaves)
      PU_TRY(schema_read(&t, pu_thrift_structs(&t, &f), out, e));
    else if (f.id == 4 && out->leaves && !out->chunks)
      PU_TRY(groups_read(&t, pu_thrift_structs(&t, &f), out, e));
    else
      pu_thrift_skip(&t, &f);
  }
  *why = t.bad ? "a footer that is broken" : !out->chunks ? "a footer without schema and row groups" : NULL;
  return PU_OK;
}
