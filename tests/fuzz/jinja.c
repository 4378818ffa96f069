/* Any bytes as a chat template over a fixed conversation: whatever it does ends within its bounds, gives the same text
 * twice, and marks every byte of what the input says in letters of its own. */
#include <stdlib.h>
#include <string.h>

#include "puyu/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"\\ue000\\ue000\"}, {\"role\": \"user\", \"content\": "
    "\"\\ue000 a\\nb\\ue000 \"}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": "
    "{\"name\": "
    "\"f\", \"arguments\": {\"x\": 1, \"y\": [2.5, true]}}}]}], \"tools\": [{\"type\": \"function\", \"function\": "
    "{\"name\": \"f\", \"description\": \"\\ue000\"}}], \"add_generation_prompt\": true, \"n\": 3, \"none\": null}";

static const char letter[] = "\xEE\x80\x80";

static void must(bool good) {
  if (!good) abort();
}

static pu_err render(const pu_jinja *t, const json_t *vars, pu_buf *text, pu_buf *origin) {
  static const struct tm now = {.tm_year = 126, .tm_mday = 1};
  const pu_jinja_input in = {.input = vars,
                             .now = &now,
                             .max_steps = 1 << 20,
                             .max_output = 1 << 16,
                             .max_memory = 16 << 20,
                             .max_depth = 100};
  pu_error e;
  pu_buf_init(text, 1 << 17);
  pu_buf_init(origin, 1 << 17);
  pu_err err = pu_jinja_render(t, &in, text, origin, &e);
  must(text->len == origin->len && (!err || text->len == 0));
  return err;
}

/* A template may write the letter too, as "\ue000"; then nothing can be said of it. */
static bool writes_letter(const uint8_t *data, size_t size) {
  return memchr(data, '\\', size) || memmem(data, size, "\xEE", 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_error e;
  pu_jinja *t;
  json_t *vars;
  if (pu_jinja_parse("fuzz", pu_str_of((const char *)data, size), &t, &e) != PU_OK) return 0;
  must(pu_json_parse("conversation", pu_str_c(conversation), &vars, &e) == PU_OK);
  pu_buf text[2], origin[2];
  pu_err err = render(t, vars, &text[0], &origin[0]);
  must(render(t, vars, &text[1], &origin[1]) == err && text[0].len == text[1].len);
  if (text[0].len > 0) {
    must(memcmp(text[0].data, text[1].data, text[0].len) == 0);
    must(memcmp(origin[0].data, origin[1].data, text[0].len) == 0);
  }
  for (size_t i = 0; i + 2 < text[0].len && !writes_letter(data, size); i++)
    must(memcmp(text[0].data + i, letter, 3) != 0 || memcmp(origin[0].data + i, "\1\1\1", 3) == 0);
  for (int i = 0; i < 2; i++) {
    pu_buf_deinit(&text[i]);
    pu_buf_deinit(&origin[i]);
  }
  json_decref(vars);
  pu_jinja_free(t);
  return 0;
}
