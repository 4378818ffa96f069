/* The order of samples: a pure function, a permutation each pass, weights, boundaries. */
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>

#include "puyu/shards.h"

static char dir[64];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-mix-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, NULL) == PU_OK ? 0 : -1;
}

/* A source whose token at place i is first + i, in documents of the given length (the last may be shorter). */
static pu_shards *source_make(const char *name, int32_t first, int tokens, int document) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s.pub", dir, name);
  pu_error e;
  pu_shard_writer *w;
  const pu_shard_writer_options o = {.vocab_size = 1 << 20};
  assert_ok(pu_shard_writer_open(path, &o, &w, &e), &e);
  int32_t *ids = malloc((size_t)tokens * sizeof *ids);
  for (int i = 0; i < tokens; i++) ids[i] = first + i;
  for (int i = 0; i < tokens; i += document)
    assert_ok(pu_shard_writer_add(w, ids + i, (size_t)PU_MIN(document, tokens - i), NULL, 0, &e), &e);
  free(ids);
  assert_ok(pu_shard_writer_close(w, &e), &e);
  pu_shards *s;
  assert_ok(pu_shards_open(path, true, &s, &e), &e);
  return s;
}

enum { LEN = 16 };
typedef struct memory {
  int32_t ids[LEN], targets[LEN], starts[LEN];
} memory;

static pu_sample read_at(const pu_mix *m, uint64_t i, bool cross, memory *to) {
  memset(to, 0x55, sizeof *to);
  pu_sample s = {.ids = to->ids, .targets = to->targets, .starts = to->starts};
  pu_mix_read(m, i, cross, &s);
  return s;
}

/* In each pass every token but the first is a target exactly once, whatever the remainder of the last window. */
static void test_coverage(void **state) {
  (void)state;
  static const int sizes[] = {2, 3, 15, 16, 17, 18, 33, 34, 100, 1009};
  for (size_t k = 0; k < PU_COUNT(sizes); k++) {
    int n = sizes[k];
    pu_error e;
    pu_mix *m;
    pu_shards *s = source_make("cover", 1000, n, n);
    const pu_mix_source one = {s, 0};
    assert_ok(pu_mix_create(&one, 1, LEN, 5, &m, &e), &e);
    uint64_t windows = pu_mix_epoch_samples(m, 0);
    assert_int_equal(windows, (n - 1 + LEN - 1) / LEN);
    int orders_differ = 0;
    int32_t first_order[128];
    for (uint64_t pass = 0; pass < 3; pass++) {
      int *seen = calloc((size_t)n, sizeof *seen);
      for (uint64_t i = 0; i < windows; i++) {
        memory to;
        pu_sample x = read_at(m, pass * windows + i, false, &to);
        assert_int_equal(x.source, 0);
        assert_int_equal(x.n_starts, 1);
        assert_int_equal(x.starts[0], 0);
        if (pass == 0) first_order[i] = x.ids[0];
        orders_differ += pass > 0 && first_order[i] != x.ids[0];
        for (int p = 0; p < LEN; p++) {
          if (x.targets[p] < 0) continue;
          assert_int_equal(x.targets[p], x.ids[p] + 1); /* the next token */
          seen[x.targets[p] - 1000]++;
        }
      }
      assert_int_equal(seen[0], 0);
      for (int i = 1; i < n; i++) assert_int_equal(seen[i], 1);
      free(seen);
    }
    if (n == 1009) assert_true(orders_differ > 60); /* of 2 x 64: a new order each pass */
    pu_mix_free(m);
    pu_shards_close(s);
  }
}

static void test_pure(void **state) {
  (void)state;
  pu_error e;
  pu_shards *a = source_make("a", 1000, 700, 40), *b = source_make("b", 5000, 300, 25);
  const pu_mix_source two[] = {{a, 2}, {b, 1}};
  pu_mix *m, *again, *other;
  assert_ok(pu_mix_create(two, 2, LEN, 9, &m, &e), &e);
  assert_ok(pu_mix_create(two, 2, LEN, 9, &again, &e), &e);
  assert_ok(pu_mix_create(two, 2, LEN, 10, &other, &e), &e);
  int differ = 0;
  for (int k = 0; k < 400; k++) {
    uint64_t i = (uint64_t)(399 - k) * 977; /* backwards, far past many passes */
    memory x, y, z;
    read_at(m, i, false, &x);
    read_at(again, i, false, &y);
    read_at(other, i, false, &z);
    assert_memory_equal(x.ids, y.ids, sizeof x.ids);
    assert_memory_equal(x.targets, y.targets, sizeof x.targets);
    differ += memcmp(x.ids, z.ids, sizeof x.ids) != 0;
  }
  assert_true(differ > 350);
  pu_mix_free(m);
  pu_mix_free(again);
  pu_mix_free(other);
  pu_shards_close(a);
  pu_shards_close(b);
}

static void count_sources(const pu_mix *m, uint64_t n, int *count) {
  for (uint64_t i = 0; i < n; i++) {
    memory to;
    count[read_at(m, i, true, &to).source]++;
  }
}

static void test_weights(void **state) {
  (void)state;
  pu_error e;
  pu_shards *a = source_make("a", 1000, 900, 40), *b = source_make("b", 5000, 300, 25);
  pu_mix *m;
  const pu_mix_source weighted[] = {{a, 1}, {b, 3}, {a, 1e-9}};
  assert_ok(pu_mix_create(weighted, 3, LEN, 3, &m, &e), &e);
  int count[3] = {0};
  count_sources(m, 65536, count);
  assert_int_equal(count[0], 16384); /* exact in each block */
  assert_int_equal(count[1], 49151);
  assert_int_equal(count[2], 1);
  memset(count, 0, sizeof count);
  count_sources(m, 1000, count);
  assert_in_range(count[1], 690, 810); /* and well mixed inside it */
  pu_mix_free(m);
  const pu_mix_source by_tokens[] = {{a, 0}, {b, 0}};
  assert_ok(pu_mix_create(by_tokens, 2, LEN, 3, &m, &e), &e);
  memset(count, 0, sizeof count);
  count_sources(m, 65536, count);
  assert_int_equal(count[0], 49152);
  pu_mix_free(m);
  static const double wrong[][2] = {{1, 0}, {-1, 1}, {1, 0.0 / 0.0}, {1, 1.0 / 0.0}};
  for (size_t i = 0; i < PU_COUNT(wrong); i++) {
    const pu_mix_source bad[] = {{a, wrong[i][0]}, {b, wrong[i][1]}};
    assert_int_equal(pu_mix_create(bad, 2, LEN, 3, &m, &e), PU_ERR_USAGE);
    assert_null(m);
  }
  pu_shards_close(a);
  pu_shards_close(b);
}

/* Each window of every source exactly once a pass, also when two sources are mixed. */
static void test_mixed_passes(void **state) {
  (void)state;
  pu_error e;
  pu_shards *a = source_make("a", 1000, 1 + LEN * 50, 40), *b = source_make("b", 5000, 1 + LEN * 7, 25);
  const pu_mix_source two[] = {{a, 1}, {b, 1}};
  pu_mix *m;
  assert_ok(pu_mix_create(two, 2, LEN, 8, &m, &e), &e);
  int seen[2][50] = {{0}}, taken[2] = {0};
  static const int windows[] = {50, 7}, first[] = {1000, 5000};
  for (uint64_t i = 0; i < 5000; i++) {
    memory to;
    pu_sample x = read_at(m, i, true, &to);
    seen[x.source][(x.ids[0] - first[x.source]) / LEN]++;
    if (++taken[x.source] % windows[x.source] == 0)
      for (int w = 0; w < windows[x.source]; w++)
        assert_int_equal(seen[x.source][w], taken[x.source] / windows[x.source]);
  }
  assert_true(taken[0] > 2000 && taken[1] > 2000);
  pu_mix_free(m);
  pu_shards_close(a);
  pu_shards_close(b);
}

static void test_boundaries(void **state) {
  (void)state;
  pu_error e;
  pu_shards *s = source_make("docs", 1000, 333, 7);
  const pu_mix_source one = {s, 1};
  pu_mix *m;
  assert_ok(pu_mix_create(&one, 1, LEN, 8, &m, &e), &e);
  int inside = 0;
  for (uint64_t i = 0; i < pu_mix_epoch_samples(m, 0); i++) {
    memory to, crossing;
    pu_sample x = read_at(m, i, false, &to), y = read_at(m, i, true, &crossing);
    assert_memory_equal(to.ids, crossing.ids, sizeof to.ids);
    assert_int_equal(y.n_starts, 1);
    int next = 0;
    for (int p = 0; p < LEN; p++) {
      bool begins = p == 0 || (x.ids[p] - 1000) % 7 == 0;
      if (begins) assert_int_equal(x.starts[next++], p);
      bool last = (x.ids[p] + 1 - 1000) % 7 == 0;
      assert_int_equal(x.targets[p], last ? -1 : y.targets[p]);
      inside += p > 0 && begins;
    }
    assert_int_equal(x.n_starts, next);
  }
  assert_true(inside > 30);
  pu_mix_free(m);
  pu_shards_close(s);
}

/* The loss mask reaches the targets, and short sources are padded. */
static void test_mask_and_padding(void **state) {
  (void)state;
  char path[256];
  snprintf(path, sizeof path, "%s/masked.pub", dir);
  pu_error e;
  pu_shard_writer *w;
  const pu_shard_writer_options o = {.vocab_size = 100, .mask = true};
  const int32_t ids[] = {10, 11, 12, 13, 14};
  const uint8_t mask[] = {0, 0, 1, 0, 1};
  assert_ok(pu_shard_writer_open(path, &o, &w, &e), &e);
  assert_ok(pu_shard_writer_add(w, ids, 5, mask, 0, &e), &e);
  assert_ok(pu_shard_writer_close(w, &e), &e);
  pu_shards *s;
  assert_ok(pu_shards_open(path, true, &s, &e), &e);
  const pu_mix_source one = {s, 1};
  pu_mix *m;
  assert_ok(pu_mix_create(&one, 1, LEN, 8, &m, &e), &e);
  memory to;
  pu_sample x = read_at(m, 3, false, &to);
  static const int32_t want_ids[LEN] = {10, 11, 12, 13}, want_targets[5] = {-1, 12, -1, 14, -1};
  assert_memory_equal(x.ids, want_ids, sizeof want_ids);
  assert_memory_equal(x.targets, want_targets, sizeof want_targets);
  for (int p = 4; p < LEN; p++) assert_int_equal(x.targets[p], -1);
  pu_mix_free(m);
  pu_shards_close(s);
  /* One token predicts nothing. */
  s = source_make("single", 5, 1, 1);
  const pu_mix_source single = {s, 1};
  assert_int_equal(pu_mix_create(&single, 1, LEN, 8, &m, &e), PU_ERR_USAGE);
  pu_shards_close(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_coverage),     cmocka_unit_test(test_pure),       cmocka_unit_test(test_weights),
      cmocka_unit_test(test_mixed_passes), cmocka_unit_test(test_boundaries), cmocka_unit_test(test_mask_and_padding),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
