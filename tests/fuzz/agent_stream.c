/* Any bytes as what a server streams: a message that can be written as JSON, whose calls are checked against a schema.
 */
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"
#include "src/agent/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_text(void *arg, pu_str text) {
  *(size_t *)arg += text.len;
}

static void check_calls(const json_t *message) {
  static const char schema_text[] =
      "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": [\"integer\", \"null\"]}, \"b\": {\"enum\": [\"x\", "
      "1]}, "
      "\"c\": {\"type\": \"array\", \"items\": {\"type\": \"object\", \"required\": [\"d\"]}}}, \"required\": [\"a\"], "
      "\"additionalProperties\": false}";
  static json_t *schema;
  size_t i;
  const json_t *call;
  if (!schema) schema = json_loads(schema_text, 0, NULL);
  json_array_foreach(json_object_get(message, "tool_calls"), i, call) {
    const json_t *text = json_object_get(json_object_get(call, "function"), "arguments");
    json_t *v = json_is_string(text)
                    ? json_loadb(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL, NULL)
                    : NULL;
    char why[100] = "";
    if (v && !agent_fits(schema, v, why, sizeof why) && !*why) abort();
    json_decref(v);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  agent_stream s;
  pu_events ev;
  pu_error e;
  json_t *message;
  size_t heard = 0;
  pu_str text = pu_str_of((const char *)data, size);
  agent_stream_init(&s, on_text, &heard);
  pu_events_init(&ev, 1 << 20);
  (void)pu_events_feed(&ev, text, agent_stream_event, &s);
  if (agent_answer_message(&s.answer, &message, &e) == PU_OK) {
    char *dump = json_dumps(message, JSON_COMPACT);
    if (!dump || heard != s.answer.content.len) abort();
    check_calls(message);
    free(dump);
    json_decref(message);
  }
  pu_events_deinit(&ev);
  agent_stream_deinit(&s);
  return 0;
}
