/* What was found, as JSON. */
#include "src/rag/internal.h"

static void put_key(pu_buf *out, const char *key, pu_str value) {
  pu_buf_printf(out, ", \"%s\": ", key);
  pu_buf_json_str(out, value);
}

static pu_err put_text(pu_rag *r, const pu_store_hit *h, bool whole, pu_buf *out, pu_error *e) {
  pu_buf text;
  bool found;
  if (!whole) {
    put_key(out, "text", h->snippet);
    return PU_OK;
  }
  pu_buf_init(&text, PU_STORE_TEXT_MAX);
  pu_err err = pu_store_get(r->store, h->source, h->id, h->begin, (size_t)(h->end - h->begin), NULL, &text, &found, e);
  if (err == PU_OK) put_key(out, "text", pu_str_of(text.data ? text.data : "", text.len));
  pu_buf_deinit(&text);
  return err;
}

static pu_err put_hit(pu_rag *r, const pu_store_hit *h, bool whole, pu_buf *out, pu_error *e) {
  char score[32];
  pu_buf name;
  pu_buf_init(&name, 4 * PU_STORE_NAME_MAX);
  pu_buf_append(&name, h->source.ptr, h->source.len);
  pu_buf_append(&name, h->id.ptr, h->id.len);
  pu_buf_puts(out, "{\"file\": ");
  pu_buf_json_str(out, pu_str_of(name.data ? name.data : "", name.len));
  pu_buf_deinit(&name);
  put_key(out, "title", h->title);
  pu_format_float(score, (float)h->score);
  pu_buf_printf(out, ", \"passage\": %u, \"begin\": %llu, \"end\": %llu, \"score\": %s, \"all\": %s", h->passage,
                (unsigned long long)h->begin, (unsigned long long)h->end, score, h->all ? "true" : "false");
  PU_TRY(put_text(r, h, whole, out, e));
  pu_buf_putc(out, '}');
  return PU_OK;
}

static pu_err put_hits(pu_rag *r, pu_str query, const pu_store_hits *hits, bool whole, pu_buf *out, pu_error *e) {
  pu_store_counts counts;
  PU_TRY(pu_store_count(r->store, &counts, e));
  pu_buf_puts(out, "{\"query\": ");
  pu_buf_json_str(out, query);
  pu_buf_printf(out, ", \"files\": %llu, \"hits\": [", (unsigned long long)counts.sources);
  for (size_t i = 0; i < hits->n; i++) {
    if (i > 0) pu_buf_puts(out, ", ");
    PU_TRY(put_hit(r, &hits->v[i], whole, out, e));
  }
  pu_buf_puts(out, "]}");
  return out->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for an answer of %zu bytes", out->len) : PU_OK;
}

pu_err pu_rag_json(pu_rag *r, pu_str query, size_t k, bool whole, pu_buf *out, pu_error *e) {
  const pu_store_ask ask = {.query = query, .k = k, .open = "**", .close = "**"};
  pu_store_hits hits;
  PU_TRY(pu_store_search(r->store, &ask, &hits, e));
  pu_err err = put_hits(r, query, &hits, whole, out, e);
  pu_store_hits_deinit(&hits);
  return err;
}
