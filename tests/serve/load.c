/* Many clients at once, some of which go away: every answer that is completed is what it is alone; nothing stays
 * behind. */
#include <stdatomic.h>

#include "tests/serve/tiny.h"

enum { QUESTIONS = 12, CLIENTS = 32, ROUNDS = 4 };

typedef struct load {
  tiny *b;
  char *alone[QUESTIONS];
  atomic_int completed, left;
  atomic_int wrong;
} load;

/* Question i: greedy or drawn by a seed, short or long, in its own words. */
static void put_question(pu_buf *b, int i, bool stream) {
  static const char *const words[] = {"one", "two", "fox", "dog", "the", "lazy", "ten"};
  pu_buf_puts(b, "{\"prompt\":\"");
  for (int k = 0; k <= i * 5; k++) pu_buf_printf(b, "%s ", words[(size_t)(k * 3 + i) % PU_COUNT(words)]);
  pu_buf_printf(b, "\",\"temperature\":%d,\"seed\":%d,\"max_tokens\":%d,\"stream\":%s}", i % 2, i, 4 + 7 * (i % 5),
                stream ? "true" : "false");
}

static void ask(client *c, int i, bool stream) {
  pu_buf b;
  pu_buf_init(&b, 1 << 16);
  put_question(&b, i, stream);
  client_ask(c, "POST", "/v1/completions", "", b.data);
  pu_buf_deinit(&b);
}

static char *whole_answer(client *c) {
  json_t *v = tiny_json(client_answer(c), 200);
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  pu_buf_puts(&text, "");
  tiny_put_text(&text, tiny_at(v, "choices/0/text"));
  char *got = strdup(text.data);
  pu_buf_deinit(&text);
  json_decref(v);
  return got;
}

/* events: stop after so many; 0: to the end. NULL: it stopped, or the stream broke off. */
static char *streamed_answer(client *c, int events) {
  answer a;
  pu_buf text, data;
  bool done = false;
  pu_buf_init(&text, 1 << 20);
  pu_buf_init(&data, 1 << 20);
  pu_buf_puts(&text, "");
  client_head(c, &a);
  for (int n = 0; !done && (events == 0 || n < events) && tiny_event(c, &data); n++) {
    done = strcmp(data.data, "[DONE]") == 0;
    json_t *v = done ? NULL : json_loads(data.data, JSON_ALLOW_NUL, NULL);
    if (v) tiny_put_text(&text, tiny_at(v, "choices/0/text"));
    json_decref(v);
  }
  answer_free(&a);
  char *got = done ? strdup(text.data) : NULL;
  pu_buf_deinit(&text);
  pu_buf_deinit(&data);
  return got;
}

typedef struct one {
  load *l;
  int number;
} one;

static void *be_a_client(void *arg) {
  one *me = arg;
  load *l = me->l;
  for (int round = 0; round < ROUNDS; round++) {
    uint64_t dice = pu_random_at(7, (uint64_t)me->number, (uint64_t)round);
    int question = (int)(dice % QUESTIONS);
    bool stream = dice >> 8 & 1, leaves = (dice >> 16) % 4 == 0;
    client c = client_open(l->b->port);
    ask(&c, question, stream);
    char *got = NULL;
    if (leaves && !stream)
      usleep((useconds_t)(dice >> 24) % 30000);
    else
      got = stream ? streamed_answer(&c, leaves ? (int)(dice >> 24) % 3 + 1 : 0) : whole_answer(&c);
    client_close(&c);
    atomic_fetch_add(got ? &l->completed : &l->left, 1);
    if (!leaves && (!got || strcmp(got, l->alone[question]) != 0)) atomic_fetch_add(&l->wrong, 1);
    free(got);
  }
  return NULL;
}

/* What runs and waits falls to nothing. */
static void wait_until_idle(const tiny *b) {
  static const char *const names[] = {"puyu_requests_running", "puyu_requests_waiting", "puyu_sessions_running",
                                      "puyu_sessions_waiting", "puyu_kv_blocks_used"};
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    double value = 1;
    for (int k = 0; k < 1000 && (value = tiny_metric(b, names[i])) != 0; k++) usleep(10000);
    if (value != 0) fail_msg("%s stays at %g", names[i], value);
  }
}

static void answers_are_as_alone(void **state) {
  (void)state;
  static tiny b;
  static load l;
  tiny_open(&b, (pu_server_options){.max_queue = CLIENTS * ROUNDS}); /* who left counts until the next step */
  l.b = &b;
  for (int i = 0; i < QUESTIONS; i++) {
    client c = client_open(b.port);
    ask(&c, i, false);
    l.alone[i] = whole_answer(&c);
    client_close(&c);
  }
  pthread_t threads[CLIENTS];
  one clients[CLIENTS];
  for (int i = 0; i < CLIENTS; i++) {
    clients[i] = (one){&l, i};
    pthread_create(&threads[i], NULL, be_a_client, &clients[i]);
  }
  for (int i = 0; i < CLIENTS; i++) pthread_join(threads[i], NULL);
  assert_int_equal(atomic_load(&l.wrong), 0);
  assert_true(atomic_load(&l.completed) > CLIENTS);
  assert_true(atomic_load(&l.left) > 0);
  wait_until_idle(&b);
  tiny_close(&b);
  for (int i = 0; i < QUESTIONS; i++) free(l.alone[i]);
}

#define ENDLESS "{\"prompt\":\"one\",\"temperature\":1,\"max_tokens\":250,\"ignore_eos\":true,\"n\":8,\"stream\":true}"

/* One that holds all the sessions, one that waits: a third is told to come back, also while the second goes away. */
static void a_full_queue_says_so(void **state) {
  (void)state;
  tiny b;
  tiny_open(&b, (pu_server_options){.max_queue = 1});
  client first = client_open(b.port), second = client_open(b.port);
  answer a;
  pu_buf data;
  pu_buf_init(&data, 1 << 20);
  client_ask(&first, "POST", "/v1/completions", "", ENDLESS);
  assert_true(client_head(&first, &a));
  answer_free(&a);
  assert_true(tiny_event(&first, &data)); /* it runs */
  client_ask(&second, "POST", "/v1/completions", "", ENDLESS);
  assert_true(client_head(&second, &a));
  answer_free(&a);
  a = ask_once(b.port, "POST", "/v1/completions", "", ENDLESS);
  if (a.status == 429) { /* else the first has already ended: a fast machine */
    assert_non_null(strstr(a.head.data, "Retry-After: 1\r\n"));
    assert_non_null(strstr(a.body.data, "\"rate_limit_error\""));
  } else {
    assert_int_equal(a.status, 200);
  }
  answer_free(&a);
  client_close(&first);
  client_close(&second);
  wait_until_idle(&b);
  pu_buf_deinit(&data);
  tiny_close(&b);
}

/* Stopped in the middle: answers that did not end in time end with an error that says why; no thread hangs. */
static void a_stop_ends_it_all(void **state) {
  (void)state;
  tiny b;
  tiny_open(&b, (pu_server_options){.drain_seconds = 0.05});
  client c[3];
  for (size_t i = 0; i < PU_COUNT(c); i++) {
    c[i] = client_open(b.port);
    client_ask(&c[i], "POST", "/v1/completions", "", ENDLESS);
    answer a;
    assert_true(client_head(&c[i], &a));
    answer_free(&a);
  }
  double asked = tiny_metric(&b, "puyu_prompt_tokens_total");
  client whole = client_open(b.port);
  client_ask(&whole, "POST", "/v1/completions", "",
             "{\"prompt\":\"one\",\"max_tokens\":1000,\"n\":8,\"ignore_eos\":true}");
  while (tiny_metric(&b, "puyu_prompt_tokens_total") == asked) usleep(1000); /* until it is taken in */
  tiny_close(&b);
  for (size_t i = 0; i < PU_COUNT(c); i++) {
    pu_buf said;
    pu_buf_init(&said, 64 << 20);
    assert_true(client_chunks(&c[i], &said));
    if (!strstr(said.data, "data: [DONE]")) assert_non_null(strstr(said.data, "the server is stopping"));
    pu_buf_deinit(&said);
    client_close(&c[i]);
  }
  answer a = client_answer(&whole);
  assert_true(a.status == 503 || a.status == 200);
  answer_free(&a);
  client_close(&whole);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(answers_are_as_alone), cmocka_unit_test(a_full_queue_says_so),
                                     cmocka_unit_test(a_stop_ends_it_all)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
