#include "src/model/slots.h"

#include <string.h>

/* ---- what a slot is ---- */

/* Dimensions are spelt with one letter each, worked out by dim(). */
static const struct {
  const char *name, *dims;
  bool outer, matrix;
} slots[PU_SLOT_COUNT] = {
    [PU_SLOT_EMBED] = {"embed", "VC", true, false},
    [PU_SLOT_OUT_NORM] = {"out_norm", "C", true, false},
    [PU_SLOT_OUTPUT] = {"output", "VC", true, true},
    [PU_SLOT_ATTN_NORM] = {"attn_norm", "C", false, false},
    [PU_SLOT_QKV] = {"qkv", "AC", false, true},
    [PU_SLOT_QKV_BIAS] = {"qkv_bias", "A", false, false},
    [PU_SLOT_Q_NORM] = {"q_norm", "D", false, false},
    [PU_SLOT_K_NORM] = {"k_norm", "D", false, false},
    [PU_SLOT_WO] = {"wo", "CQ", false, true},
    [PU_SLOT_WO_BIAS] = {"wo_bias", "C", false, false},
    [PU_SLOT_MLP_NORM] = {"mlp_norm", "C", false, false},
    [PU_SLOT_GATE_UP] = {"gate_up", "GC", false, true},
    [PU_SLOT_GATE_UP_BIAS] = {"gate_up_bias", "G", false, false},
    [PU_SLOT_DOWN] = {"down", "CF", false, true},
    [PU_SLOT_DOWN_BIAS] = {"down_bias", "C", false, false},
    [PU_SLOT_ROUTER] = {"router", "EC", false, true},
    [PU_SLOT_EXPERTS_GATE_UP] = {"experts_gate_up", "EGC", false, true},
    [PU_SLOT_EXPERTS_DOWN] = {"experts_down", "ECF", false, true},
};

const char *pu_slot_name(pu_slot slot) {
  return slots[slot].name;
}

bool pu_slot_is_outer(pu_slot slot) {
  return slots[slot].outer;
}

bool pu_slot_is_matrix(pu_slot slot) {
  return slots[slot].matrix;
}

bool pu_slot_is_packable(pu_slot slot) {
  return slots[slot].matrix && slot != PU_SLOT_ROUTER;
}

static int64_t dim(const pu_hparams *hp, char letter) {
  switch (letter) {
  case 'V':
    return hp->vocab;
  case 'C':
    return hp->hidden;
  case 'D':
    return hp->head_dim;
  case 'Q': /* all query heads */
    return hp->heads * hp->head_dim;
  case 'A': /* all of q, k, v */
    return (hp->heads + 2 * hp->kv_heads) * hp->head_dim;
  case 'F':
    return hp->ffn;
  case 'G': /* gate and up */
    return 2 * hp->ffn;
  default: /* 'E' */
    return hp->experts;
  }
}

static bool exists(const pu_hparams *hp, pu_slot slot) {
  switch (slot) {
  case PU_SLOT_OUTPUT:
    return !hp->tied;
  case PU_SLOT_QKV_BIAS:
    return hp->qkv_bias;
  case PU_SLOT_Q_NORM:
  case PU_SLOT_K_NORM:
    return hp->qk_norm;
  case PU_SLOT_WO_BIAS:
    return hp->o_bias;
  case PU_SLOT_GATE_UP:
  case PU_SLOT_DOWN:
    return !hp->experts;
  case PU_SLOT_GATE_UP_BIAS:
  case PU_SLOT_DOWN_BIAS:
    return hp->mlp_bias && !hp->experts;
  case PU_SLOT_ROUTER:
  case PU_SLOT_EXPERTS_GATE_UP:
  case PU_SLOT_EXPERTS_DOWN:
    return hp->experts > 0;
  default:
    return true;
  }
}

int pu_slot_shape(const pu_hparams *hp, pu_slot slot, int64_t *shape) {
  if (!exists(hp, slot)) return 0;
  int n = 0;
  for (const char *d = slots[slot].dims; *d; d++) shape[n++] = dim(hp, *d);
  return n;
}

/* ---- where a file's tensor lies in its slot ---- */

int64_t pu_mapping_runs(const pu_mapping *m) {
  int64_t n = 0;
  for (int s = 0; s < m->n_seq; s++) n += m->seq[s].count * m->seq[s].groups;
  return n;
}

pu_run pu_mapping_run(const pu_mapping *m, int64_t i) {
  int s = 0;
  for (; i >= m->seq[s].count * m->seq[s].groups; s++) i -= m->seq[s].count * m->seq[s].groups;
  int64_t step = i % m->seq[s].count, group = i / m->seq[s].count;
  pu_run r = m->seq[s].first;
  r.file += step * m->seq[s].file_step + group * m->seq[s].file_group;
  r.mem += step * m->seq[s].mem_step + group * m->seq[s].mem_group;
  return r;
}

/* `count` stretches of `rows` rows from memory row `mem` on, each `mem_step` rows behind the one before. */
static void map_rows(pu_mapping *m, int64_t mem, int64_t rows, int64_t cols, int64_t count, int64_t mem_step) {
  m->n_seq = 1;
  m->seq[0].first = (pu_run){0, mem * cols, rows * cols};
  m->seq[0].count = count;
  m->seq[0].file_step = rows * cols;
  m->seq[0].mem_step = mem_step * cols;
  m->seq[0].groups = 1;
}

/* InternLM2: for each key/value group [heads / kv_heads queries, k, v]. */
static void map_grouped(const pu_hparams *hp, pu_mapping *m, int64_t cols) {
  int64_t head = hp->head_dim * cols, per = hp->heads / hp->kv_heads;
  const pu_run first[3] = {{0, 0, per * head},
                           {per * head, hp->heads * head, head},
                           {(per + 1) * head, (hp->heads + hp->kv_heads) * head, head}};
  m->n_seq = 3;
  for (int i = 0; i < 3; i++) {
    m->seq[i].first = first[i];
    m->seq[i].file_step = (per + 2) * head;
    m->seq[i].mem_step = first[i].n;
    m->seq[i].count = hp->kv_heads;
    m->seq[i].groups = 1;
  }
}

/* In each head the file's even rows are the first half, its odd ones the second. */
static void map_pairs(const pu_hparams *hp, pu_mapping *m, int64_t mem, int64_t rows, int64_t cols) {
  int64_t half = hp->head_dim / 2;
  m->n_seq = 2;
  for (int i = 0; i < 2; i++) {
    m->seq[i].first = (pu_run){i * cols, (mem + i * half) * cols, cols};
    m->seq[i].count = half;
    m->seq[i].file_step = 2 * cols;
    m->seq[i].mem_step = cols;
    m->seq[i].groups = rows / hp->head_dim;
    m->seq[i].file_group = m->seq[i].mem_group = hp->head_dim * cols;
  }
}

/* Rows before the part, and of the part, in one matrix of the slot (one expert's, where there are experts). */
static void part_rows(const pu_hparams *hp, pu_part part, int64_t all, int64_t *before, int64_t *rows) {
  int64_t q = hp->heads * hp->head_dim, kv = hp->kv_heads * hp->head_dim;
  const int64_t table[][2] = {
      [PU_PART_ALL] = {0, all},         [PU_PART_Q] = {0, q},          [PU_PART_K] = {q, kv},
      [PU_PART_V] = {q + kv, kv},       [PU_PART_Q_PAIRS] = {0, q},    [PU_PART_K_PAIRS] = {q, kv},
      [PU_PART_QKV_GROUPED] = {0, all}, [PU_PART_GATE] = {0, hp->ffn}, [PU_PART_UP] = {hp->ffn, hp->ffn},
  };
  *before = table[part][0];
  *rows = table[part][1];
}

void pu_mapping_of(const pu_hparams *hp, const pu_tensor_rule *rule, int64_t expert, pu_mapping *out) {
  int64_t shape[PU_MAX_DIMS];
  int ndim = pu_slot_shape(hp, rule->slot, shape);
  bool one_expert = expert >= 0 && ndim == 3, all_experts = expert < 0 && ndim == 3;
  *out = (pu_mapping){.ndim = one_expert ? 2 : ndim};
  memcpy(out->shape, shape + one_expert, (size_t)out->ndim * sizeof *shape);
  int64_t *rows_of_one = &out->shape[all_experts], cols = 1, before, rows, all = *rows_of_one;
  for (int i = 1 + all_experts; i < out->ndim; i++) cols *= out->shape[i];
  part_rows(hp, rule->part, all, &before, &rows);
  *rows_of_one = rows;
  if (rule->part == PU_PART_QKV_GROUPED)
    map_grouped(hp, out, cols);
  else if (rule->part == PU_PART_Q_PAIRS || rule->part == PU_PART_K_PAIRS)
    map_pairs(hp, out, before, rows, cols);
  else
    map_rows(out, (one_expert ? expert * all : 0) + before, rows, cols, all_experts ? shape[0] : 1, all);
}

/* ---- names ---- */

int pu_rule_places(const pu_tensor_rule *rule) {
  int n = 0;
  for (const char *p = rule->name; (p = strstr(p, "%d")); p += 2) n++;
  return n;
}

int64_t pu_rule_experts(const pu_hparams *hp, const pu_tensor_rule *rule) {
  return pu_rule_places(rule) > 1 ? hp->experts : 1;
}

void pu_rule_name(const pu_tensor_rule *rule, int64_t layer, int64_t expert, char *dst, size_t size) {
  const int64_t values[] = {layer, expert};
  size_t at = 0, place = 0;
  for (const char *p = rule->name; *p && at + 1 < size; p++) {
    if (p[0] == '%' && p[1] == 'd' && place < PU_COUNT(values)) {
      at += (size_t)snprintf(dst + at, size - at, "%lld", (long long)values[place++]);
      p++;
    } else {
      dst[at++] = *p;
    }
  }
  dst[PU_MIN(at, size - 1)] = 0;
}
