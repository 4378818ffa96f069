/* Adapters beside the weights: which there are, what they take, and their rows of a step. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

/* ---- the list ---- */

static pu_err twice(const char *dir, const char *name, pu_error *e) {
  return pu_fail(e, PU_ERR_USAGE, "%s: there is an adapter '%s' already: take another name", dir, name);
}

pu_err pu_adapters_measure(const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype, const pu_engine_options *o,
                           size_t *out, pu_error *e) {
  *out = 0;
  for (int i = 0; i < o->n_adapters; i++) {
    size_t bytes;
    for (int k = 0; k < i; k++)
      if (strcmp(o->adapters[k].name, o->adapters[i].name) == 0)
        return twice(o->adapters[i].dir, o->adapters[i].name, e);
    PU_TRY(pu_adapter_measure(o->adapters[i].dir, arch, hp, dtype, &bytes, e));
    *out += bytes;
  }
  return PU_OK;
}

static pu_beside **find(pu_engine *en, const char *name) {
  pu_beside **at = &en->adapters;
  while (*at && strcmp((*at)->name, name) != 0) at = &(*at)->next;
  return at;
}

static void free_one(pu_beside *b) {
  pu_adapter_free(b->a);
  free(b->name);
  free(b);
}

static pu_err load_one(pu_engine *en, const char *name, const char *dir, pu_error *e) {
  pu_beside **at = find(en, name);
  if (!*name || strlen(name) > PU_MOST_ADAPTER_NAME)
    return pu_fail(e, PU_ERR_USAGE, "%s: an adapter's name has 1 to %d bytes", dir, PU_MOST_ADAPTER_NAME);
  if (*at) return twice(dir, name, e);
  pu_beside *b = calloc(1, sizeof *b);
  if (b) b->name = strdup(name);
  pu_err err = b && b->name ? pu_adapter_load(dir, en->m, false, &b->a, e)
                            : pu_fail(e, PU_ERR_NOMEM, "no memory for an adapter");
  if (err) {
    if (b) free_one(b);
    return err;
  }
  b->serial = ++en->last_serial;
  *at = b;
  return PU_OK;
}

pu_err pu_adapters_load(pu_engine *en, const pu_engine_options *o, pu_error *e) {
  for (int i = 0; i < o->n_adapters; i++) PU_TRY(load_one(en, o->adapters[i].name, o->adapters[i].dir, e));
  return PU_OK;
}

void pu_adapters_free(pu_engine *en) {
  for (pu_beside *b = en->adapters, *next; b; b = next) {
    next = b->next;
    free_one(b);
  }
  en->adapters = NULL;
}

pu_err pu_engine_add_adapter(pu_engine *en, const char *name, const char *dir, pu_error *e) {
  size_t bytes;
  char need[24], have[24];
  PU_TRY(pu_adapter_measure(dir, en->m->arch, &en->m->hp, en->m->dtype, &bytes, e));
  if (bytes > en->spare)
    return pu_fail(
        e, PU_ERR_NOMEM,
        "%s: the adapter takes %s, and %s of the engine's memory are left: give it more, or name the adapter "
        "when the engine is opened",
        dir, pu_bytes_text(bytes, need), pu_bytes_text(en->spare, have));
  PU_TRY(load_one(en, name, dir, e));
  en->spare -= bytes;
  en->plan.weights += bytes;
  return PU_OK;
}

pu_err pu_engine_remove_adapter(pu_engine *en, const char *name, pu_error *e) {
  pu_beside **at = find(en, name), *b = *at;
  int users = 0;
  if (!b) return pu_fail(e, PU_ERR_USAGE, "the engine has no adapter '%.128s'", name);
  for (const pu_session *s = en->first; s; s = s->next) users += s->adapter == b;
  if (users)
    return pu_fail(e, PU_ERR_USAGE, "%d sessions go by the adapter '%s': close them before it is removed", users, name);
  size_t bytes = pu_adapter_bytes(b->a);
  en->spare += bytes;
  en->plan.weights -= bytes;
  *at = b->next;
  free_one(b);
  return PU_OK;
}

const char *pu_engine_adapter_at(const pu_engine *en, size_t i) {
  const pu_beside *b = en->adapters;
  for (; b && i > 0; i--) b = b->next;
  return b ? b->name : NULL;
}

/* ---- in a step ---- */

/* Sorted by counting; those without an adapter first. */
pu_err pu_adapters_group(pu_engine *en, int32_t n, pu_error *e) {
  if (!en->adapters) return PU_OK;
  pu_share *sorted = pu_arena_alloc(en->host, (size_t)n * sizeof *sorted);
  if (!sorted) return pu_fail(e, PU_ERR_NOMEM, "no memory for a step of %d sessions", n);
  int32_t at = 0, first = 0;
  for (pu_beside *b = en->adapters; b; b = b->next) b->shares = 0;
  for (int32_t i = 0; i < n; i++) {
    pu_beside *b = en->shares[i].s->adapter;
    (*(b ? &b->shares : &at))++;
  }
  for (pu_beside *b = en->adapters; b; b = b->next) {
    int32_t count = b->shares;
    b->shares = at; /* now: where the next one goes */
    at += count;
  }
  for (int32_t i = 0; i < n; i++) {
    pu_beside *b = en->shares[i].s->adapter;
    sorted[(*(b ? &b->shares : &first))++] = en->shares[i];
  }
  memcpy(en->shares, sorted, (size_t)n * sizeof *sorted);
  return PU_OK;
}

int pu_adapters_rows(const pu_engine *en, int32_t n, const int32_t *cu, pu_adapter_rows *rows) {
  int count = 0;
  for (int32_t i = 0; i < n; i++) {
    const pu_beside *b = en->shares[i].s->adapter;
    if (!b) continue;
    if (count == 0 || rows[count - 1].adapter != b->a) rows[count++] = (pu_adapter_rows){.adapter = b->a, .row = cu[i]};
    rows[count - 1].rows = cu[i + 1] - rows[count - 1].row;
  }
  return count;
}
