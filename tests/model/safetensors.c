/* Reading and writing safetensors: what is written reads back; what lies is refused, and the reason is told. */
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>

#include "puyu/model.h"

static char folder[] = "/tmp/puyu-safetensors-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static const char *in_folder(const char *name) {
  static char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

/* ---- bytes that lie ---- */

/* A file of that header and body_bytes zeros; length: what its first 8 bytes claim, -1: the truth. */
static pu_err parse(const char *header, int64_t length, size_t body_bytes, pu_error *e) {
  size_t n = strlen(header), total = 8 + n + body_bytes;
  char *bytes = calloc(1, total);
  uint64_t claimed = length < 0 ? n : (uint64_t)length;
  for (int i = 0; i < 8; i++) bytes[i] = (char)(claimed >> (8 * i));
  memcpy(bytes + 8, header, n);
  pu_safetensors *s;
  *e = (pu_error){0};
  pu_err err = pu_safetensors_parse(pu_str_of(bytes, total), &s, e);
  if (err == PU_OK) assert_true(pu_safetensors_count(s) <= 4);
  if (err != PU_OK) assert_null(s);
  pu_safetensors_close(s);
  free(bytes);
  return err;
}

#define T(name, dtype, shape, from, to)                                                                                \
  "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static void lies_are_refused(void **state) {
  static const struct {
    const char *header;
    int64_t length;
    size_t body;
    pu_err want;
    const char *says;
  } cases[] = {
      {"{}", -1, 0, PU_OK, ""},
      {"{" T("a", "F32", "[2]", 0, 8) "}", -1, 8, PU_OK, ""},
      {"{" T("a", "F32", "[0]", 0, 0) "," T("b", "BF16", "[]", 0, 2) "}", -1, 2, PU_OK, ""},
      {"{\"__metadata__\":{\"format\":\"pt\"}," T("b", "I8", "[3]", 4, 7) "," T("a", "F32", "[1]", 0, 4) "}", -1, 7,
       PU_OK, ""},
      {"{}", 3, 0, PU_ERR_FORMAT, "truncated"},
      {"{}", INT64_MAX, 0, PU_ERR_FORMAT, "limit"},
      {"{}", (int64_t)2 << 30, 0, PU_ERR_FORMAT, "limit"},
      {"{", -1, 0, PU_ERR_FORMAT, "header"},
      {"[]", -1, 0, PU_ERR_FORMAT, "not a JSON object"},
      {"{}", -1, 1, PU_ERR_FORMAT, "belong to none"},
      {"{\"a\":1}", -1, 0, PU_ERR_FORMAT, "no 'dtype'"},
      {"{" T("a", "F32", "[2]", 0, 8) "}", -1, 7, PU_ERR_FORMAT, "truncated"},
      {"{" T("a", "F32", "[2]", 0, 4) "}", -1, 4, PU_ERR_FORMAT, "its shape needs"},
      {"{" T("a", "F32", "[2]", 8, 0) "}", -1, 8, PU_ERR_FORMAT, "not [begin, end]"},
      {"{" T("a", "F32", "[2]", -8, 0) "}", -1, 8, PU_ERR_FORMAT, "not [begin, end]"},
      {"{" T("a", "F32", "[-1]", 0, 8) "}", -1, 8, PU_ERR_FORMAT, "dimension 0"},
      {"{" T("a", "F32", "[1.5]", 0, 8) "}", -1, 8, PU_ERR_FORMAT, "dimension 0"},
      {"{" T("a", "F32", "2", 0, 8) "}", -1, 8, PU_ERR_FORMAT, "not an array"},
      {"{" T("a", "F32", "[1,1,1,1,1]", 0, 4) "}", -1, 4, PU_ERR_UNSUPPORTED, "dimensions"},
      {"{" T("a", "F32", "[4611686018427387904,4]", 0, 8) "}", -1, 8, PU_ERR_FORMAT, "overflows"},
      {"{" T("a", "F32", "[1152921504606846976]", 0, 8) "}", -1, 8, PU_ERR_FORMAT, "overflows"},
      /* Types that only files know: listed, their sizes checked all the same. */
      {"{" T("a", "C64", "[1]", 0, 8) "," T("b", "BOOL", "[3]", 8, 11) "}", -1, 11, PU_OK, ""},
      {"{" T("a", "F8_E4M3", "[2,2]", 0, 4) "," T("b", "F4", "[6]", 4, 7) "}", -1, 7, PU_OK, ""},
      {"{" T("a", "F64", "[2]", 0, 8) "}", -1, 8, PU_ERR_FORMAT, "its shape needs 16"},
      {"{" T("a", "U16", "[2]", 0, 8) "}", -1, 8, PU_ERR_FORMAT, "its shape needs 4"},
      {"{" T("a", "F4", "[3]", 0, 2) "}", -1, 2, PU_ERR_FORMAT, "inside a byte"},
      {"{" T("a", "F7", "[8]", 0, 7) "}", -1, 7, PU_ERR_UNSUPPORTED, "'a' is of type F7"},
      {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 2, 6) "}", -1, 6, PU_ERR_FORMAT, "inside"},
      {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 6, 10) "}", -1, 10, PU_ERR_FORMAT, "gap"},
      {"{" T("a", "F32", "[1]", 4, 8) "}", -1, 8, PU_ERR_FORMAT, "gap"},
      {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 0, 4) "}", -1, 4, PU_ERR_FORMAT, "inside"},
  };
  (void)state;
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_error e;
    pu_err err = parse(cases[i].header, cases[i].length, cases[i].body, &e);
    if (err != cases[i].want || !strstr(e.msg, cases[i].says))
      fail_msg("case %zu, %s: error %d, \"%s\"", i, cases[i].header, (int)err, e.msg);
  }
  pu_safetensors *s;
  pu_error e;
  assert_int_equal(pu_safetensors_parse(pu_str_of("1234567", 7), &s, &e), PU_ERR_FORMAT);
}

static void other_types_go_by_their_names(void **state) {
  static const char header[] = "{" T("f", "F32", "[1]", 0, 4) "," T("mask", "BOOL", "[2,2]", 4, 8) "}";
  char bytes[8 + sizeof header - 1 + 8] = {sizeof header - 1};
  pu_safetensors *s;
  pu_error e;
  (void)state;
  memcpy(bytes + 8, header, sizeof header - 1);
  assert_ok(pu_safetensors_parse(pu_str_of(bytes, sizeof bytes), &s, &e), &e);
  const pu_st_tensor *f = pu_safetensors_find(s, "f"), *mask = pu_safetensors_find(s, "mask");
  assert_true(f->dtype == PU_F32 && mask->dtype == PU_ST_OTHER);
  assert_string_equal(f->type, "F32");
  assert_string_equal(mask->type, "BOOL");
  assert_int_equal(mask->bytes, 4);
  assert_ptr_equal(mask->data, bytes + sizeof bytes - 4);
  pu_safetensors_close(s);
}

/* ---- writing and reading back ---- */

static pu_err counting(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  uint8_t *out = buf;
  size_t *calls = arg;
  (void)e;
  ++*calls;
  for (size_t i = 0; i < len; i++) out[i] = (uint8_t)((offset + i) * 7);
  return PU_OK;
}

static pu_err failing(void *arg, size_t offset, void *buf, size_t len, pu_error *e) {
  (void)arg, (void)buf, (void)len;
  return offset ? pu_fail(e, PU_ERR_IO, "no more") : PU_OK;
}

static void written_reads_back(void **state) {
  (void)state;
  static const float a[] = {1, -2, 3.5f, 0, 1e-30f, 7};
  static const int32_t b[] = {5};
  enum { LONG = 5000001 }; /* more than one piece, and odd */
  size_t calls = 0;
  const pu_st_source tensors[] = {
      {.name = "z \"quoted\"", .dtype = PU_F32, .ndim = 2, .shape = {2, 3}, .data = a},
      {.name = "streamed", .dtype = PU_U8, .ndim = 1, .shape = {LONG}, .read = counting, .arg = &calls},
      {.name = "a", .dtype = PU_I32, .ndim = 0, .data = b},
  };
  static const char *const meta[] = {"format", "pt", "note", "x\n", NULL};
  pu_error e;
  pu_safetensors *s;
  const char *path = in_folder("a.safetensors");
  assert_ok(pu_safetensors_write(path, tensors, PU_COUNT(tensors), meta, &e), &e);
  assert_ok(pu_safetensors_open(path, &s, &e), &e);
  assert_int_equal(pu_safetensors_count(s), 3);
  assert_string_equal(pu_safetensors_at(s, 0)->name, "a"); /* sorted */
  assert_null(pu_safetensors_at(s, 3));
  assert_null(pu_safetensors_find(s, "b"));
  assert_string_equal(pu_safetensors_meta(s, "note"), "x\n");
  assert_null(pu_safetensors_meta(s, "none"));
  const pu_st_tensor *t = pu_safetensors_find(s, "z \"quoted\"");
  assert_int_equal(t->ndim, 2);
  assert_int_equal(t->shape[1], 3);
  assert_memory_equal(t->data, a, sizeof a);
  t = pu_safetensors_find(s, "streamed");
  assert_int_equal(t->bytes, LONG);
  for (size_t i = 0; i < LONG; i++) assert_int_equal(((const uint8_t *)t->data)[i], (uint8_t)(i * 7));
  assert_true(calls > 1);
  pu_safetensors_close(s);
}

static void failed_write_leaves_the_old(void **state) {
  (void)state;
  static const float old[] = {42};
  pu_st_source t = {.name = "t", .dtype = PU_F32, .ndim = 1, .shape = {1}, .data = old};
  pu_error e;
  pu_safetensors *s;
  const char *path = in_folder("b.safetensors");
  assert_ok(pu_safetensors_write(path, &t, 1, NULL, &e), &e);
  pu_st_source bad = {.name = "t", .dtype = PU_F32, .ndim = 1, .shape = {3 << 20}, .read = failing};
  assert_int_equal(pu_safetensors_write(path, &bad, 1, NULL, &e), PU_ERR_IO);
  assert_string_equal(e.msg, "no more");
  assert_ok(pu_safetensors_open(path, &s, &e), &e);
  assert_memory_equal(pu_safetensors_find(s, "t")->data, old, sizeof old);
  pu_safetensors_close(s);
  assert_false(pu_path_exists(in_folder("b.safetensors.tmp")));
  assert_int_equal(pu_safetensors_write(in_folder("none/x.safetensors"), &t, 1, NULL, &e), PU_ERR_IO);
}

/* ---- shards ---- */

static void write_text(const char *name, const char *text) {
  pu_error e;
  assert_ok(pu_file_write(in_folder(name), text, strlen(text), &e), &e);
}

static void write_one(const char *name, const char *tensor) {
  static const float v[] = {1};
  pu_error e;
  pu_st_source t = {.name = tensor, .dtype = PU_F32, .ndim = 1, .shape = {1}, .data = v};
  assert_ok(pu_safetensors_write(in_folder(name), &t, 1, NULL, &e), &e);
}

#define INDEX "shards/model.safetensors.index.json"

static void expect_index(const char *text, pu_err want, const char *says) {
  pu_safetensors *s;
  pu_error e = {0};
  write_text(INDEX, text);
  pu_err err = pu_safetensors_open(in_folder("shards"), &s, &e);
  if (err != want || !strstr(e.msg, says)) fail_msg("%s: error %d, \"%s\"", text, (int)err, e.msg);
  if (!err) assert_int_equal(pu_safetensors_count(s), 2);
  pu_safetensors_close(s);
}

static void indexes_are_checked(void **state) {
  (void)state;
  pu_error e;
  pu_safetensors *s;
  assert_ok(pu_mkdirs(in_folder("shards"), &e), &e);
  assert_int_equal(pu_safetensors_open(in_folder("shards"), &s, &e), PU_ERR_IO);
  write_one("shards/1.safetensors", "a");
  write_one("shards/2.safetensors", "b");
  expect_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}", PU_OK, "");
  expect_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"3.safetensors\"}}", PU_ERR_FORMAT,
               "3.safetensors: this shard");
  expect_index("{\"weight_map\":{\"a\":\"2.safetensors\"}}", PU_ERR_FORMAT, "'a' is not in shard");
  expect_index("{\"weight_map\":{\"a\":\"../shards/1.safetensors\"}}", PU_ERR_FORMAT, "not the name of a file");
  expect_index("{\"weight_map\":{\"a\":7}}", PU_ERR_FORMAT, "not the name of a file");
  expect_index("{\"weight_map\":[]}", PU_ERR_FORMAT, "'weight_map' is missing");
  expect_index("[", PU_ERR_FORMAT, INDEX);
  write_one("shards/2.safetensors", "a");
  expect_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}", PU_ERR_FORMAT, "twice");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lies_are_refused),    cmocka_unit_test(other_types_go_by_their_names),
      cmocka_unit_test(written_reads_back),  cmocka_unit_test(failed_write_leaves_the_old),
      cmocka_unit_test(indexes_are_checked),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
