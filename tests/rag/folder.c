/* A folder and its index: what is read, what is not read again, what leaves. */
#include "tests/test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "puyu/rag.h"

static char dir[64], cache[96];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-rag-XXXXXX");
  if (!mkdtemp(dir)) return -1;
  snprintf(cache, sizeof cache, "%s/cache", dir);
  return setenv("XDG_CACHE_HOME", cache, 1);
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, NULL) == PU_OK ? 0 : -1;
}

static const char *at(const char *name) {
  static char path[8][300];
  static int next;
  char *p = path[next++ % 8];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

/* Writes a file whose time is `when`. */
static void put_at(const char *name, const char *text, long when) {
  pu_error e;
  char folder[300];
  const char *path = at(name);
  snprintf(folder, sizeof folder, "%s", path);
  *strrchr(folder, '/') = 0;
  assert_ok(pu_mkdirs(folder, &e), &e);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
  const struct timespec times[2] = {{when, 0}, {when, 0}};
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void put(const char *name, const char *text) {
  put_at(name, text, 1000);
}

static pu_rag *open_rag(const char *folder, const char *index) {
  pu_rag *r;
  pu_error e;
  assert_ok(pu_rag_open(at(folder), index, &r, &e), &e);
  return r;
}

static pu_rag_counts update(pu_rag *r) {
  pu_rag_counts c;
  pu_error e;
  assert_ok(pu_rag_update(r, NULL, NULL, &c, &e), &e);
  assert_false(c.busy);
  return c;
}

/* The files of the hits, in their order, joined by '|'. */
static const char *found(pu_rag *r, const char *query) {
  static char line[1 << 14];
  pu_error e;
  pu_store_hits hits;
  const pu_store_ask ask = {.query = pu_str_c(query), .k = 10};
  assert_ok(pu_store_search(pu_rag_store(r), &ask, &hits, &e), &e);
  size_t n = 0;
  line[0] = 0;
  for (size_t i = 0; i < hits.n; i++)
    n += (size_t)snprintf(line + n, sizeof line - n, "%s%s%s", i ? "|" : "", hits.v[i].source.ptr, hits.v[i].id.ptr);
  pu_store_hits_deinit(&hits);
  return line;
}

/* ---- files
 * ----------------------------------------------------------------------------------------------------------- */

static void test_formats(void **state) {
  (void)state;
  put("formats/a.txt", "A heading about owls\n\nOwls hunt at night.\n");
  put("formats/sub/b.md", "# 指南\n\n机器学习的入门。\n");
  put("formats/c.html",
      "<html><head><title>Badgers</title></head><body><p>A page on sett diggers, which live below the "
      "ground and come out when it is dark, to look for worms.</p></body></html>");
  put("formats/d.jsonl", "{\"text\": \"first otter\"}\n{\"id\": \"r7\", \"text\": \"second otter\"}\n"
                         "{\"id\": \"r7\", \"text\": \"third otter\"}\n");
  put("formats/e.csv", "text,n\nlynx one,1\nlynx two,2\n");
  put("formats/.hidden", "owls");
  put("formats/.git/x.txt", "owls");
  put("formats/pixels.png", "\x89PNG\r\n\x1A\n owls");
  put("outside.txt", "owls outside");
  assert_int_equal(symlink("../outside.txt", at("formats/link.txt")), 0);
  assert_int_equal(symlink(".", at("formats/loop")), 0);
  assert_int_equal(mkfifo(at("formats/pipe"), 0600), 0);
  pu_rag *r = open_rag("formats", NULL);
  pu_rag_counts c = update(r);
  assert_int_equal(c.files, 6);
  assert_int_equal(c.read, 6);
  assert_int_equal(c.broken, 1); /* the picture */
  assert_int_equal(c.documents, 8);
  assert_string_equal(found(r, "owls"), "a.txt");
  assert_string_equal(found(r, "heading"), "a.txt");
  assert_string_equal(found(r, "学习"), "sub/b.md");
  assert_string_equal(found(r, "badgers"), "c.html"); /* the title */
  assert_string_equal(found(r, "first"), "d.jsonl");
  assert_string_equal(found(r, "second"), "d.jsonl#r7");
  assert_string_equal(found(r, "third"), "d.jsonl#r7~3"); /* no record takes another one's place */
  const char *lynx = found(r, "lynx");
  assert_non_null(strstr(lynx, "e.csv:"));
  pu_rag_close(r);
}

static void test_changes(void **state) {
  (void)state;
  put("changes/a.txt", "alpha text");
  put("changes/b.txt", "beta text");
  put("changes/c.txt", "gamma text");
  pu_rag *r = open_rag("changes", NULL);
  assert_int_equal(update(r).read, 3);
  assert_int_equal(update(r).read, 0); /* nothing changed */
  /* What was read once is not looked at: other bytes of the same size and time stay unseen, */
  put("changes/a.txt", "omega text");
  assert_int_equal(update(r).read, 0);
  assert_string_equal(found(r, "alpha"), "a.txt");
  put_at("changes/a.txt", "omega text", 2000); /* another time or size does not */
  put("changes/b.txt", "beta text, longer");
  pu_rag_counts c = update(r);
  assert_int_equal(c.read, 2);
  assert_string_equal(found(r, "alpha"), "");
  assert_string_equal(found(r, "omega"), "a.txt");
  assert_string_equal(found(r, "longer"), "b.txt");
  assert_int_equal(unlink(at("changes/c.txt")), 0);
  put("changes/d/new.txt", "delta text");
  pu_rag_close(r);
  r = open_rag("changes", NULL); /* as another run finds it */
  c = update(r);
  assert_int_equal(c.read, 1);
  assert_int_equal(c.removed, 1);
  assert_int_equal(c.files, 3);
  assert_string_equal(found(r, "gamma"), "");
  assert_string_equal(found(r, "delta"), "d/new.txt");
  assert_ok(pu_remove_tree(at("changes/d"), NULL), (pu_error *)NULL);
  assert_int_equal(update(r).removed, 1);
  pu_rag_close(r);
}

static pu_err tell(void *arg, pu_str source, pu_str why, pu_error *e) {
  pu_buf *b = arg;
  (void)e;
  pu_buf_printf(b, "[%.*s: %.*s]", (int)source.len, source.ptr, (int)why.len, why.ptr);
  return PU_OK;
}

/* What is broken is said, what comes before the place is found, and nothing is read again before it changes. */
static void test_broken(void **state) {
  (void)state;
  put("broken/a.jsonl", "{\"text\": \"good walrus\"}\n{\"text\": broken\n");
  put("broken/b.txt.gz", "not gzip at all");
  put("broken/c.txt", "fine seal");
  put("broken/empty.txt", "");
  pu_rag *r = open_rag("broken", NULL);
  pu_rag_counts c = update(r);
  pu_error e;
  pu_buf said;
  pu_buf_init(&said, 1 << 16);
  assert_int_equal(c.broken, 2);
  assert_string_equal(found(r, "walrus"), "a.jsonl");
  assert_string_equal(found(r, "seal"), "c.txt");
  assert_ok(pu_rag_broken(r, tell, &said, &e), &e);
  assert_non_null(strstr(said.data, "[a.jsonl: "));
  assert_non_null(strstr(said.data, "[b.txt.gz: "));
  assert_null(strstr(said.data, dir)); /* paths of this machine say nothing here */
  c = update(r);
  assert_int_equal(c.read, 0);
  assert_int_equal(c.broken, 2);
  put_at("broken/a.jsonl", "{\"text\": \"good walrus\"}\n", 3000);
  assert_int_equal(update(r).broken, 1);
  pu_buf_deinit(&said);
  pu_rag_close(r);
}

/* ---- the index's file
 * -------------------------------------------------------------------------------------------------- */

static void test_index_file(void **state) {
  (void)state;
  pu_rag *r;
  pu_error e;
  struct stat st;
  put("one/a.txt", "some text");
  put("two/a.txt", "other text");
  r = open_rag("one", NULL);
  (void)update(r);
  assert_memory_equal(pu_rag_index(r), cache, strlen(cache));
  assert_int_equal(stat(at("cache/puyu/search"), &st), 0);
  assert_int_equal(st.st_mode & 0777, 0700);
  pu_rag_close(r);
  /* A file of the user's choice, in the folder itself: it is not among the documents. */
  r = open_rag("one", at("one/index.db"));
  pu_rag_counts c = update(r);
  assert_int_equal(c.files, 1);
  assert_int_equal(c.broken, 0);
  pu_rag_close(r);
  r = open_rag("one", at("one/index.db"));
  c = update(r);
  assert_int_equal(c.read, 0);
  assert_int_equal(c.files, 1);
  pu_rag_close(r);
  assert_int_equal(pu_rag_open(at("two"), at("one/index.db"), &r, &e), PU_ERR_USAGE); /* another folder's */
  assert_non_null(strstr(e.msg, "another folder"));
  assert_int_equal(pu_rag_open(at("one"), at("one/a.txt"), &r, &e), PU_ERR_FORMAT); /* no index: left alone */
  assert_int_equal(stat(at("one/a.txt"), &st), 0);
  assert_int_equal(st.st_size, strlen("some text"));
  assert_int_equal(pu_rag_open(at("missing"), NULL, &r, &e), PU_ERR_IO);
  assert_int_equal(pu_rag_open(at("one/a.txt"), NULL, &r, &e), PU_ERR_USAGE);
  pu_rag_close(NULL);
}

/* A damaged file in the cache is made again; one that the user named is theirs. */
static void test_damaged_cache(void **state) {
  (void)state;
  pu_rag *r;
  pu_error e;
  char index[300];
  put("damaged/a.txt", "some heron");
  r = open_rag("damaged", NULL);
  (void)update(r);
  snprintf(index, sizeof index, "%s", pu_rag_index(r));
  pu_rag_close(r);
  assert_ok(pu_file_write(index, "no database, but a text that is long enough to be none of the short ones", 70, &e),
            &e);
  pu_log_set_level(PU_LOG_ERROR);
  r = open_rag("damaged", NULL);
  pu_log_set_level(PU_LOG_INFO);
  assert_int_equal(update(r).read, 1);
  assert_string_equal(found(r, "heron"), "a.txt");
  pu_rag_close(r);
}

static void test_no_home(void **state) {
  (void)state;
  pu_rag *r;
  pu_error e;
  char home[300];
  const char *was = getenv("HOME");
  snprintf(home, sizeof home, "%s", was ? was : "/");
  put("home/a.txt", "x");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  assert_int_equal(pu_rag_open(at("home"), NULL, &r, &e), PU_ERR_USAGE);
  setenv("HOME", at("somebody"), 1);
  setenv("XDG_CACHE_HOME", "relative", 1); /* to be ignored */
  assert_ok(pu_rag_open(at("home"), NULL, &r, &e), &e);
  assert_non_null(strstr(pu_rag_index(r), "/somebody/.cache/puyu/search/"));
  pu_rag_close(r);
  setenv("HOME", home, 1);
  setenv("XDG_CACHE_HOME", cache, 1);
}

/* ---- the answer
 * -------------------------------------------------------------------------------------------------------- */

static void test_json(void **state) {
  (void)state;
  put("json/a \"b\".txt", "A title of its own\n\nThe \"kiwi\" is a bird.\n");
  pu_rag *r = open_rag("json", NULL);
  pu_error e;
  pu_buf out;
  json_t *o;
  pu_buf_init(&out, 1 << 20);
  (void)update(r);
  for (int whole = 0; whole < 2; whole++) {
    pu_buf_clear(&out);
    assert_ok(pu_rag_json(r, pu_str_c("kiwi \xFF"), 5, whole, &out, &e), &e);
    assert_ok(pu_json_parse("answer", pu_str_of(out.data, out.len), &o, &e), &e);
    assert_int_equal(json_integer_value(json_object_get(o, "files")), 1);
    json_t *hits = json_object_get(o, "hits"), *h = json_array_get(hits, 0);
    assert_int_equal(json_array_size(hits), 1);
    assert_string_equal(json_string_value(json_object_get(h, "file")), "a \"b\".txt");
    assert_string_equal(json_string_value(json_object_get(h, "title")), "A title of its own");
    assert_int_equal(json_integer_value(json_object_get(h, "passage")), 1);
    assert_true(json_is_true(json_object_get(h, "all")));
    assert_string_equal(json_string_value(json_object_get(h, "text")),
                        whole ? "A title of its own\n\nThe \"kiwi\" is a bird.\n"
                              : "A title of its own The \"**kiwi**\" is a bird.");
    json_decref(o);
  }
  pu_buf_deinit(&out);
  pu_rag_close(r);
}

/* Two processes index one folder at once: each file is there once, and both find it. */
static void test_processes(void **state) {
  (void)state;
  pid_t pids[2];
  char name[32];
  for (int i = 0; i < 200; i++) {
    snprintf(name, sizeof name, "many/%d.txt", i);
    put(name, "one of many documents");
  }
  fflush(NULL);
  for (int i = 0; i < 2; i++) {
    pids[i] = fork();
    assert_true(pids[i] >= 0);
    if (pids[i] > 0) continue;
    pu_rag *r;
    pu_rag_counts c;
    pu_error e;
    if (pu_rag_open(at("many"), NULL, &r, &e) != PU_OK) _exit(1);
    if (pu_rag_update(r, NULL, NULL, &c, &e) != PU_OK || c.busy) _exit(2);
    pu_rag_close(r);
    _exit(c.files == 200 ? 0 : 3);
  }
  for (int i = 0; i < 2; i++) {
    int status;
    assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
  }
  pu_rag *r = open_rag("many", NULL);
  pu_store_counts c;
  pu_error e;
  assert_int_equal(update(r).read, 0);
  assert_ok(pu_store_count(pu_rag_store(r), &c, &e), &e);
  assert_int_equal(c.documents, 200);
  assert_int_equal(c.passages, 200);
  pu_rag_close(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_formats),    cmocka_unit_test(test_changes),       cmocka_unit_test(test_broken),
      cmocka_unit_test(test_index_file), cmocka_unit_test(test_damaged_cache), cmocka_unit_test(test_no_home),
      cmocka_unit_test(test_json),       cmocka_unit_test(test_processes),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
