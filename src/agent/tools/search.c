/* Passages of a folder's documents, by their words. */
#include "puyu/rag.h"
#include "src/agent/tool.h"

enum { HITS = 5, MOST_TEXT = 1 << 16 };

static pu_err search_open(const pu_agent_setup *o, void **state, pu_error *e) {
  pu_rag *r;
  pu_rag_counts counts;
  if (!o->docs) return pu_fail(e, PU_ERR_USAGE, "which folder is it to look in? Give --docs");
  PU_TRY(pu_rag_open(o->docs, NULL, &r, e));
  pu_err err = pu_rag_update(r, o->progress, o->progress_arg, &counts, e);
  if (err)
    pu_rag_close(r);
  else
    *state = r;
  return err;
}

static void search_close(void *state) {
  pu_rag_close(state);
}

static pu_err put_hit(pu_store *s, size_t number, const pu_store_hit *h, pu_buf *out, pu_error *e) {
  bool found;
  pu_buf text;
  pu_buf_init(&text, MOST_TEXT);
  pu_err err = pu_store_get(s, h->source, h->id, h->begin, (size_t)PU_MIN(h->end - h->begin, (uint64_t)MOST_TEXT - 1),
                            NULL, &text, &found, e);
  if (!err) {
    pu_buf_printf(out, "%s[%zu] %.*s%.*s", number > 1 ? "\n\n" : "", number, (int)h->source.len, h->source.ptr,
                  (int)h->id.len, h->id.ptr);
    if (h->title.len) pu_buf_printf(out, " (%.*s)", (int)PU_MIN(h->title.len, (size_t)200), h->title.ptr);
    pu_buf_printf(out, ", passage %u:\n", h->passage);
    pu_buf_append(out, text.data ? text.data : "", text.len);
    if (out->failed) err = pu_fail(e, PU_ERR_NOMEM, "no memory for what was found");
  }
  pu_buf_deinit(&text);
  return err;
}

static pu_err search_call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  const json_t *query = json_object_get(arguments, "query");
  const pu_store_ask ask = {.query = pu_str_of(json_string_value(query), json_string_length(query)), .k = HITS};
  pu_store *s = pu_rag_store(state);
  pu_store_hits hits;
  (void)stop;
  PU_TRY(pu_store_search(s, &ask, &hits, e));
  pu_err err = PU_OK;
  for (size_t i = 0; !err && i < hits.n; i++) err = put_hit(s, i + 1, &hits.v[i], out, e);
  if (hits.n == 0) pu_buf_puts(out, "Nothing was found. Other words may help.");
  pu_store_hits_deinit(&hits);
  return err;
}

const pu_tool pu_tool_search = {
    .is = {.name = "search",
           .about =
               "Searches the user's documents for words, and gives the passages that fit best with the names of their "
               "files.",
           .parameters =
               "{\"type\": \"object\", \"properties\": {\"query\": {\"type\": \"string\", \"description\": \"a few "
               "words that the passage has to hold\"}}, \"required\": [\"query\"]}"},
    .open = search_open,
    .call = search_call,
    .close = search_close,
};
