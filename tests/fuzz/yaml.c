/* Any bytes as YAML into a table with every type; what was accepted is written, and must read back the same. */
#include "puyu/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct item {
  const char *path;
  double weight;
} item;

typedef struct config {
  bool flag;
  int64_t n;
  double x;
  const char *text;
  int choice;
  pu_floats floats;
  pu_strs texts;
  pu_list items;
} config;

static const pu_option item_rows[] = {
    {.key = "path", .type = PU_OPT_STR, .offset = offsetof(item, path)},
    {.key = "w", .type = PU_OPT_FLOAT, .offset = offsetof(item, weight), .dflt = "1"},
    {0},
};

static const pu_option rows[] = {
    {.key = "flag", .type = PU_OPT_BOOL, .offset = offsetof(config, flag), .dflt = "yes"},
    {.key = "a.n", .type = PU_OPT_INT, .offset = offsetof(config, n), .min = -5, .max = 1e18},
    {.key = "a.b.x", .type = PU_OPT_FLOAT, .offset = offsetof(config, x), .min = -INFINITY, .max = INFINITY},
    {.key = "text", .type = PU_OPT_STR, .offset = offsetof(config, text), .dflt = "t"},
    {.key = "a.choice", .type = PU_OPT_ENUM, .offset = offsetof(config, choice), .choices = "one|two"},
    {.key = "floats", .type = PU_OPT_FLOATS, .offset = offsetof(config, floats)},
    {.key = "texts", .type = PU_OPT_STRS, .offset = offsetof(config, texts)},
    {.key = "items",
     .type = PU_OPT_LIST,
     .offset = offsetof(config, items),
     .sub = item_rows,
     .sub_size = sizeof(item)},
    {0},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

/* Reads text; false when it was refused (which says why). */
static bool read_text(pu_arena *a, pu_str text, config *c) {
  pu_error e = {0};
  must(pu_options_default(rows, c, a, &e) == PU_OK);
  pu_err err = pu_options_parse_yaml(rows, c, "fuzz.yaml", text, a, &e);
  must(err == PU_OK || e.msg[0]);
  return err == PU_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_error e;
  pu_arena *a;
  if (pu_arena_create((size_t)32 << 20, &a, &e) != PU_OK) return 0;
  config first, second;
  if (read_text(a, pu_str_of((const char *)data, size), &first)) {
    pu_buf once, twice;
    pu_buf_init(&once, 16 << 20);
    pu_buf_init(&twice, 16 << 20);
    if (pu_options_write_yaml(rows, &first, &once, &e) == PU_OK && once.len < (1 << 20)) {
      must(read_text(a, pu_str_of(once.data, once.len), &second));
      must(pu_options_write_yaml(rows, &second, &twice, &e) == PU_OK);
      must(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    }
    pu_buf_deinit(&once);
    pu_buf_deinit(&twice);
  }
  pu_arena_free(a);
  return 0;
}
