/* Shard files: what is written is read back; what lies is refused. */
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>

#include "puyu/shards.h"

enum { DOCUMENTS = 300 };

typedef struct corpus {
  int32_t ids[DOCUMENTS][64];
  uint8_t mask[DOCUMENTS][64];
  size_t len[DOCUMENTS];
  uint64_t tokens;
} corpus;

static char dir[64];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-shards-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, NULL) == PU_OK ? 0 : -1;
}

static const char *at(const char *name) {
  static char path[4][256];
  static int next;
  char *p = path[next++ % 4];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

static void corpus_make(corpus *c, int32_t vocab) {
  memset(c, 0, sizeof *c);
  pu_rng r;
  pu_rng_seed(&r, 11);
  for (int d = 0; d < DOCUMENTS; d++) {
    c->len[d] = 1 + pu_rng_below(&r, 64);
    c->tokens += c->len[d];
    for (size_t i = 0; i < c->len[d]; i++) {
      c->ids[d][i] = 1 + (int32_t)pu_rng_below(&r, (uint64_t)vocab - 1);
      c->mask[d][i] = pu_rng_below(&r, 4) > 0;
    }
  }
}

static void corpus_write(const corpus *c, const char *where, const pu_shard_writer_options *o) {
  pu_error e;
  pu_shard_writer *w;
  assert_ok(pu_shard_writer_open(where, o, &w, &e), &e);
  for (int d = 0; d < DOCUMENTS; d++) {
    pu_shard_writer_domain(w, (uint16_t)(d * 7));
    assert_ok(pu_shard_writer_add(w, c->ids[d], c->len[d], o->mask ? c->mask[d] : NULL, (uint64_t)d, &e), &e);
    assert_ok(pu_shard_writer_add(w, NULL, 0, NULL, 77, &e), &e); /* leaves no trace */
  }
  assert_ok(pu_shard_writer_close(w, &e), &e);
}

static void corpus_compare(const corpus *c, const char *where, bool masked, bool hashed) {
  pu_error e;
  pu_shards *s;
  assert_ok(pu_shards_open(where, true, &s, &e), &e);
  assert_int_equal(pu_shards_documents(s), DOCUMENTS);
  assert_int_equal(pu_shards_tokens(s), c->tokens);
  if (hashed) assert_int_equal(pu_shards_tokenizer(s), 0x1234567890abcdefu);
  uint64_t start = 0;
  int32_t most = 0;
  for (int d = 0; d < DOCUMENTS; d++) {
    int32_t ids[64];
    uint8_t mask[64];
    assert_int_equal(pu_shards_document_start(s, (uint64_t)d), start);
    assert_int_equal(pu_shards_find(s, start), d);
    assert_int_equal(pu_shards_find(s, start + c->len[d] - 1), d);
    pu_shards_read(s, start, (int64_t)c->len[d], ids, mask);
    assert_memory_equal(ids, c->ids[d], c->len[d] * sizeof ids[0]);
    for (size_t i = 0; i < c->len[d]; i++) {
      assert_int_equal(mask[i], masked ? c->mask[d][i] : 1);
      most = PU_MAX(most, ids[i]);
    }
    start += c->len[d];
  }
  assert_int_equal(pu_shards_document_start(s, DOCUMENTS), c->tokens);
  assert_int_equal(pu_shards_max_id(s), most);
  /* One read across every file and document; past the end nothing is predicted. */
  int32_t *all = malloc((c->tokens + 4) * sizeof *all);
  uint8_t *mask = malloc(c->tokens + 4);
  memset(mask, 9, c->tokens + 4);
  pu_shards_read(s, 0, (int64_t)c->tokens + 4, all, mask);
  for (int d = 0; d < DOCUMENTS; d++)
    assert_memory_equal(all + pu_shards_document_start(s, (uint64_t)d), c->ids[d], c->len[d] * sizeof *all);
  for (int i = 0; i < 4; i++) assert_int_equal(mask[c->tokens + (uint64_t)i], 0);
  free(all);
  free(mask);
  pu_shards_close(s);
}

static void test_round_trip(void **state) {
  (void)state;
  corpus *c = malloc(sizeof *c);
  static const struct {
    const char *where;
    pu_shard_writer_options o;
  } cases[] = {
      {"narrow", {.vocab_size = 65536, .tokenizer_hash = 0x1234567890abcdef}},
      {"wide", {.vocab_size = 65537, .tokenizer_hash = 0x1234567890abcdef}},
      {"mask", {.vocab_size = 1000, .tokenizer_hash = 0x1234567890abcdef, .mask = true}},
      {"many", {.vocab_size = 1000, .tokenizer_hash = 0x1234567890abcdef, .mask = true, .max_tokens = 500}},
      {"one.pub", {.vocab_size = 1000, .tokenizer_hash = 0x1234567890abcdef, .max_tokens = 500}},
      {"evo", {.vocab_size = 1000, .internevo = true, .mask = true, .max_tokens = 3000}},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    corpus_make(c, cases[i].o.vocab_size);
    corpus_write(c, at(cases[i].where), &cases[i].o);
    corpus_compare(c, at(cases[i].where), cases[i].o.mask, !cases[i].o.internevo);
  }
  assert_true(pu_path_exists(at("many/shard-00010.pub")));
  assert_true(pu_path_exists(at("evo/shard-00002.bin.meta")));
  /* A shorter run under the same name leaves nothing of the longer one. */
  corpus_make(c, 1000);
  const pu_shard_writer_options o = {.vocab_size = 1000, .tokenizer_hash = 0x1234567890abcdef};
  corpus_write(c, at("many"), &o);
  corpus_compare(c, at("many"), false, true);
  /* Nor does one in the other format. */
  const pu_shard_writer_options bin = {.vocab_size = 1000, .internevo = true, .mask = true};
  corpus_write(c, at("many"), &bin);
  corpus_compare(c, at("many"), true, false);
  free(c);
}

static void test_all_or_nothing(void **state) {
  (void)state;
  pu_error e;
  pu_shard_writer *w;
  const pu_shard_writer_options o = {.vocab_size = 100, .max_tokens = 4};
  const int32_t ids[] = {1, 2, 3, 99}, wrong[] = {1, 100};
  assert_ok(pu_shard_writer_open(at("abort"), &o, &w, &e), &e);
  for (uint64_t i = 0; i < 3; i++) assert_ok(pu_shard_writer_add(w, ids, 4, NULL, i, &e), &e);
  assert_false(pu_path_exists(at("abort/shard-00000.pub")));
  pu_shard_writer_abort(w);
  pu_arena *a;
  char **names;
  size_t n;
  assert_ok(pu_arena_create(1 << 20, &a, &e), &e);
  assert_ok(pu_dir_list(a, at("abort"), &names, &n, &e), &e);
  assert_int_equal(n, 0);
  /* After an id outside the vocabulary, close makes nothing either. */
  assert_ok(pu_shard_writer_open(at("abort"), &o, &w, &e), &e);
  assert_int_equal(pu_shard_writer_add(w, wrong, 2, NULL, 0, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "100"));
  assert_int_not_equal(pu_shard_writer_close(w, &e), PU_OK);
  assert_ok(pu_dir_list(a, at("abort"), &names, &n, &e), &e);
  assert_int_equal(n, 0);
  pu_arena_free(a);
}

/* A full disk: /dev/full takes no byte, so the writer must fail and say so. */
static void test_disk_full(void **state) {
  (void)state;
  pu_error e;
  pu_shard_writer *w;
  if (symlink("/dev/full", at("full.pub.tmp")) != 0) skip();
  const pu_shard_writer_options o = {.vocab_size = 100};
  assert_ok(pu_shard_writer_open(at("full.pub"), &o, &w, &e), &e);
  const int32_t ids[] = {1, 2, 3};
  assert_ok(pu_shard_writer_add(w, ids, 3, NULL, 0, &e), &e);
  assert_int_equal(pu_shard_writer_close(w, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "full.pub: write: No space left"));
  assert_false(pu_path_exists(at("full.pub")));
  /* The index of the other format fails in its own file; neither error shows a name that the user never gave. */
  if (symlink("/dev/full", at("full.bin.meta.tmp")) != 0) skip();
  const pu_shard_writer_options bin = {.vocab_size = 100, .internevo = true};
  assert_ok(pu_shard_writer_open(at("full.bin"), &bin, &w, &e), &e);
  assert_ok(pu_shard_writer_add(w, ids, 3, NULL, 0, &e), &e);
  assert_int_equal(pu_shard_writer_close(w, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "full.bin.meta: cannot write: No space left"));
}

static pu_buf small_shard(void) {
  pu_error e;
  pu_shard_writer *w;
  const pu_shard_writer_options o = {.vocab_size = 100, .tokenizer_hash = 5, .mask = true};
  const int32_t ids[] = {10, 20, 30, 40, 50};
  const uint8_t mask[] = {0, 1, 1, 0, 1};
  assert_ok(pu_shard_writer_open(at("small.pub"), &o, &w, &e), &e);
  for (uint64_t i = 0; i < 3; i++) assert_ok(pu_shard_writer_add(w, ids, 5, mask, i, &e), &e);
  assert_ok(pu_shard_writer_close(w, &e), &e);
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  assert_ok(pu_file_read(at("small.pub"), 1 << 20, &b, &e), &e);
  return b;
}

static void refuse(const char *bytes, size_t len) {
  pu_error e;
  pu_shards *s = (pu_shards *)&e;
  e.msg[0] = '\0';
  assert_int_not_equal(pu_shards_parse(pu_str_of(bytes, len), &s, &e), PU_OK);
  assert_null(s);
  assert_true(e.msg[0] != '\0');
}

/* The same through a file, with every checksum compared. */
static void refuse_file(const char *bytes, size_t len) {
  FILE *f = fopen(at("bad.pub"), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(bytes, 1, len, f), len);
  assert_int_equal(fclose(f), 0);
  pu_error e;
  pu_shards *s;
  assert_int_not_equal(pu_shards_open(at("bad.pub"), true, &s, &e), PU_OK);
  assert_null(s);
  assert_non_null(strstr(e.msg, "bad.pub"));
}

static void rehash(char *bytes) {
  uint64_t h = pu_hash64(bytes, 56, 0);
  memcpy(bytes + 56, &h, 8);
}

static void test_corruption(void **state) {
  (void)state;
  pu_error e;
  pu_shards *s;
  pu_buf b = small_shard();
  assert_ok(pu_shards_parse(pu_str_of(b.data, b.len), &s, &e), &e);
  pu_shards_close(s);
  char *copy = malloc(b.len + 64);
  /* Any flipped bit anywhere: header by its hash, sections by theirs. The tokenizer's hash is the header's too. */
  for (size_t i = 0; i < b.len; i++) {
    memcpy(copy, b.data, b.len);
    copy[i] = (char)(copy[i] ^ (1 << (i % 8)));
    refuse_file(copy, b.len);
  }
  for (size_t len = 0; len < b.len; len++) refuse(b.data, len); /* truncated */
  memcpy(copy, b.data, b.len);
  memset(copy + b.len, 0, 64);
  refuse(copy, b.len + 8); /* too long */
  /* A header that lies with a right checksum. */
  static const uint64_t lies[] = {
      0, 1, 2, 14, 16, 1000, UINT32_MAX, UINT64_MAX / 2, UINT64_MAX / 8, UINT64_MAX - 1, UINT64_MAX};
  static const struct {
    size_t at, size;
  } fields[] = {{8, 4}, {12, 4}, {16, 8}, {24, 8}, {40, 4}, {44, 4}, {48, 4}, {52, 4}};
  for (size_t f = 0; f < PU_COUNT(fields); f++)
    for (size_t i = 0; i < PU_COUNT(lies); i++) {
      memcpy(copy, b.data, b.len);
      memcpy(copy + fields[f].at, &lies[i], fields[f].size);
      if (memcmp(copy, b.data, b.len) == 0) continue;
      if (fields[f].at == 40 && lies[i] == 2) continue; /* domains in place of a mask of the same size: lawful */
      rehash(copy);
      refuse(copy, b.len);
    }
  /* Documents that overlap or do not cover the tokens, with sections that hash right. */
  const size_t tokens_size = 32, offsets = 64 + tokens_size, offsets_size = 32, footer = b.len - 4 * 8;
  for (int document = 0; document < 4; document++)
    for (size_t i = 0; i < PU_COUNT(lies); i++) {
      memcpy(copy, b.data, b.len);
      memcpy(copy + offsets + 8 * (size_t)document, &lies[i], 8);
      if (memcmp(copy, b.data, b.len) == 0) continue;
      uint64_t h = pu_hash64(copy + offsets, offsets_size, 0);
      memcpy(copy + footer + 8, &h, 8);
      if (document == 1 && lies[i] > 0 && lies[i] < 10) continue; /* another division, but a lawful one */
      if (document == 2 && lies[i] > 5 && lies[i] < 15) continue;
      refuse(copy, b.len);
    }
  free(copy);
  pu_buf_deinit(&b);
}

static void put_file(const char *name, const char *text, size_t len) {
  pu_error e;
  assert_ok(pu_file_write(at(name), text, len, &e), &e);
}

/* Pairs as InternEvo's own tool writes them: int32 from numpy, and documents by hand. */
static void test_internevo(void **state) {
  (void)state;
  pu_error e;
  pu_shards *s;
  static const char bin[] = "{\"tokens\": [7, -8, 9]}\n{\"tokens\":[1]}\n";
  char meta[128 + 16];
  memset(meta, ' ', sizeof meta);
  memcpy(meta, "\x93NUMPY\x01\x00\x76\x00", 10);
  static const char head[] = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2), }";
  memcpy(meta + 10, head, strlen(head));
  meta[127] = '\n';
  int32_t rows[4] = {0, 3, 23, 1};
  memcpy(meta + 128, rows, sizeof rows);
  put_file("a.bin", bin, strlen(bin));
  put_file("a.bin.meta", meta, sizeof meta);
  assert_ok(pu_shards_open(at("a.bin"), true, &s, &e), &e);
  int32_t ids[4];
  uint8_t mask[4];
  pu_shards_read(s, 0, 4, ids, mask);
  const int32_t want[] = {7, 8, 9, 1};
  const uint8_t want_mask[] = {1, 0, 1, 1};
  assert_memory_equal(ids, want, sizeof want);
  assert_memory_equal(mask, want_mask, sizeof want_mask);
  assert_int_equal(pu_shards_document_start(s, 1), 3);
  pu_shards_close(s);
  /* Rows that point outside, at something else, or lie about the length. */
  static const int32_t lies[][4] = {{0, 3, 24, 1}, {0, 4, 23, 1},   {0, 2, 23, 1},         {-1, 3, 23, 1},
                                    {0, 0, 23, 1}, {0, 3, 4000, 1}, {0, INT32_MAX, 23, 1}, {0, -3, 23, 1}};
  for (size_t i = 0; i < PU_COUNT(lies); i++) {
    memcpy(meta + 128, lies[i], sizeof lies[i]);
    put_file("a.bin.meta", meta, sizeof meta);
    assert_int_equal(pu_shards_open(at("a.bin"), true, &s, &e), PU_ERR_FORMAT);
    assert_null(s);
  }
  memcpy(meta + 128, rows, sizeof rows);
  for (size_t len = 0; len < sizeof meta; len++) {
    put_file("a.bin.meta", meta, len);
    assert_int_equal(pu_shards_open(at("a.bin"), true, &s, &e), PU_ERR_FORMAT);
  }
}

static void test_folder(void **state) {
  (void)state;
  pu_error e;
  pu_shards *s;
  assert_ok(pu_mkdirs(at("empty"), &e), &e);
  assert_int_equal(pu_shards_open(at("empty"), true, &s, &e), PU_ERR_IO);
  assert_int_equal(pu_shards_open(at("nothing"), true, &s, &e), PU_ERR_IO);
  /* Shards of two tokenizers are no one source. */
  const int32_t ids[] = {1, 2};
  for (uint64_t t = 1; t <= 2; t++) {
    const pu_shard_writer_options o = {.vocab_size = 100, .tokenizer_hash = t, .name = t == 1 ? "a" : "b"};
    pu_shard_writer *w;
    assert_ok(pu_shard_writer_open(at("two"), &o, &w, &e), &e);
    assert_ok(pu_shard_writer_add(w, ids, 2, NULL, t, &e), &e);
    assert_ok(pu_shard_writer_close(w, &e), &e);
  }
  assert_int_equal(pu_shards_open(at("two"), true, &s, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "tokenizer"));
}

static void test_domains(void **state) {
  (void)state;
  pu_error e;
  pu_shards *s;
  corpus c;
  corpus_make(&c, 500);
  for (int mask = 0; mask < 2; mask++) {
    const pu_shard_writer_options o = {.vocab_size = 500,
                                       .tokenizer_hash = 0x1234567890abcdefu,
                                       .mask = mask,
                                       .domains = true,
                                       .max_tokens = 300,
                                       .name = mask ? "masked" : "plain"};
    corpus_write(&c, at(o.name), &o);
    corpus_compare(&c, at(o.name), mask, true);
    assert_ok(pu_shards_open(at(o.name), true, &s, &e), &e);
    for (uint64_t d = 0; d < DOCUMENTS; d++) {
      assert_int_equal(pu_shards_domain(s, d), d * 7);
      assert_int_equal(pu_shards_document_id(s, d), d);
    }
    assert_int_equal(pu_shards_domain(s, DOCUMENTS), -1);
    pu_shards_close(s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip), cmocka_unit_test(test_all_or_nothing), cmocka_unit_test(test_disk_full),
      cmocka_unit_test(test_corruption), cmocka_unit_test(test_internevo),      cmocka_unit_test(test_folder),
      cmocka_unit_test(test_domains),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
