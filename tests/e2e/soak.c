/* Endurance: a server of its own under many clients at once, a tenth of which go away before their answer ends, a tenth
 * of which ask what makes no sense, while others do not read, half close or send ahead. Nothing may be lost: every
 * completed answer is what it is alone, every senseless request is refused with the API's error, memory stays flat, and
 * in the end the cache is empty.
 *
 *   test_e2e_soak [SECONDS [CLIENTS]]   a few seconds where nothing is said; scripts/soak is the long one. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "puyu/net.h"
#include "tests/e2e/program.h"
#include "tests/net/client.h"

#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 }; /* freed memory is kept for a while: resident memory says nothing; leaks are found at exit */
#else
enum { SANITIZED = PU_TSAN };
#endif

enum { QUESTIONS = 28, MOST_CHOICES = 3, MOST_SAMPLES = 20000, MOST_WHY = 5, PATIENCE = 300 /* seconds */ };

typedef struct soak {
  char dir[64], url[100];
  int port;
  pid_t pid;
  double seconds;
  int clients;
  char *alone[QUESTIONS];
  pu_http_client *client;
  uint64_t asked; /* requests begun, of all kinds */
  size_t completed, left, refused, busy, wrong;
  size_t whys;
  double *resident; /* MiB, once a second */
  size_t n_resident;
  atomic_bool over;
  atomic_int odd; /* clients with strange manners that were served */
} soak;

/* ---- questions ---- */

static void put_words(pu_buf *b, int i, int n) {
  static const char *const words[] = {"one", "two", "fox", "dog", "the", "lazy", "ten", "\xE4\xBD\xA0\xE5\xA5\xBD"};
  for (int k = 0; k < n; k++) pu_buf_printf(b, "%s ", words[(size_t)(k * 3 + i + k * k / 7) % PU_COUNT(words)]);
}

#define TOOLS                                                                                                          \
  "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":{\"type\":\"object\","          \
  "\"properties\":{\"days\":{\"type\":\"integer\"}},\"required\":[\"days\"]}}}]"

/* What beside sampling makes a request one of its kind. */
static const char *const kinds[] = {"",
                                    "",
                                    "",
                                    ",\"n\":3",
                                    ",\"logprobs\":true",
                                    ",\"response_format\":{\"type\":\"json_object\"}",
                                    "," TOOLS,
                                    "," TOOLS ",\"tool_choice\":\"required\""};

/* Question i: of a kind, greedy or drawn by a seed, with a prompt from a word to hundreds. */
static bool put_question(pu_buf *b, int i, bool stream) {
  bool chat = i % 4 != 3;
  int words = i % 7 == 6 ? 250 : 1 + i * 5 % 60;
  pu_buf_clear(b);
  pu_buf_puts(b, chat ? "{\"messages\":[{\"role\":\"user\",\"content\":\"" : "{\"prompt\":\"");
  put_words(b, i, words);
  pu_buf_puts(b, chat ? "\"}]" : "\"");
  pu_buf_printf(b, ",\"temperature\":%d,\"seed\":%d,\"max_tokens\":%d,\"stream\":%s%s}", i % 3 != 0, i, 3 + i * 11 % 70,
                stream ? "true" : "false", chat ? kinds[(size_t)i % PU_COUNT(kinds)] : "");
  return chat;
}

/* ---- what makes no sense ---- */

static const char *const senseless[] = {
    "",
    "{",
    "nonsense",
    "[]",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":5}]}",
    "{\"messages\":[]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":-1}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":9223372036854775808}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"temperature\":NaN}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"temperature\":1e300}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_p\":-0.1,\"stream\":true}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"n\":100000}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"guided_regex\":\"(\"}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stop\":{}}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"model\":\"other\"}",
};

/* One in two hundred is large: deep nesting, or megabytes of a prompt. */
static void put_senseless(pu_buf *b, uint64_t dice) {
  pu_buf_clear(b);
  if (dice % 200 == 0) {
    for (int i = 0; i < 1 << 20; i++) pu_buf_putc(b, '[');
  } else if (dice % 200 == 1) {
    pu_buf_puts(b, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 1 << 20; i++) pu_buf_puts(b, "0123456789");
    pu_buf_puts(b, "\"}]}");
  } else {
    pu_buf_puts(b, senseless[dice % PU_COUNT(senseless)]);
  }
}

/* ---- one exchange ---- */

typedef struct exchange {
  soak *s;
  int question; /* -1: it makes no sense */
  bool stream, leaves;
  int leave_after; /* events of a stream */
  double leave_at; /* or then */
  pu_events events;
  pu_buf said[MOST_CHOICES], body;
  bool done, is_open;
  pu_http_call *call;
} exchange;

static void complain(soak *s, const char *what, const exchange *x, int status) {
  s->wrong++;
  if (s->whys++ < MOST_WHY)
    print_message("question %d%s: %s (status %d): %.300s\n", x->question, x->stream ? ", streamed" : "", what, status,
                  x->body.data ? x->body.data : "");
}

static void exchange_init(exchange *x) {
  pu_events_init(&x->events, 1 << 24);
  pu_buf_init(&x->body, 1 << 24);
  for (int i = 0; i < MOST_CHOICES; i++) pu_buf_init(&x->said[i], 1 << 24);
  x->is_open = true;
}

static void exchange_deinit(exchange *x) {
  pu_events_deinit(&x->events);
  pu_buf_deinit(&x->body);
  for (int i = 0; i < MOST_CHOICES; i++) pu_buf_deinit(&x->said[i]);
  x->is_open = false;
}

static void put_string(pu_buf *b, const json_t *v) {
  if (json_is_string(v)) pu_buf_append(b, json_string_value(v), json_string_length(v));
}

/* Text and calls of a choice, whole or a piece. */
static void take_choice(exchange *x, const json_t *choice) {
  const json_t *m = json_object_get(choice, json_object_get(choice, "delta") ? "delta" : "message");
  const json_t *calls = json_object_get(m, "tool_calls");
  size_t i = (size_t)json_integer_value(json_object_get(choice, "index"));
  if (i >= MOST_CHOICES) return;
  put_string(&x->said[i], json_object_get(choice, "text"));
  put_string(&x->said[i], json_object_get(m, "content"));
  for (size_t k = 0; k < json_array_size(calls); k++) {
    const json_t *f = json_object_get(json_array_get(calls, k), "function");
    put_string(&x->said[i], json_object_get(f, "name"));
    put_string(&x->said[i], json_object_get(f, "arguments"));
  }
}

static void take_choices(exchange *x, pu_str data) {
  json_t *v = json_loadb(data.ptr, data.len, JSON_ALLOW_NUL, NULL);
  const json_t *choices = json_object_get(v, "choices");
  for (size_t i = 0; i < json_array_size(choices); i++) take_choice(x, json_array_get(choices, i));
  json_decref(v);
}

static bool on_event(void *arg, pu_str data) {
  exchange *x = arg;
  if (pu_str_eq(data, pu_str_c("[DONE]")))
    x->done = true;
  else
    take_choices(x, data);
  return !(x->leaves && x->stream && --x->leave_after <= 0);
}

static bool on_data(void *arg, int status, pu_str piece) {
  exchange *x = arg;
  if (status == 200 && x->stream) return pu_events_feed(&x->events, piece, on_event, x);
  return pu_buf_append(&x->body, piece.ptr, piece.len);
}

/* All choices as one text, that two answers can be compared by. */
static char *all_said(const exchange *x) {
  pu_buf b;
  pu_buf_init(&b, 1 << 26);
  for (int i = 0; i < MOST_CHOICES; i++) {
    if (x->said[i].len) pu_buf_append(&b, x->said[i].data, x->said[i].len);
    pu_buf_puts(&b, "\n--\n");
  }
  for (size_t i = 0; i < b.len; i++) b.data[i] = b.data[i] ? b.data[i] : '0';
  return b.data;
}

static void check_answer(soak *s, exchange *x, int status) {
  if (!x->stream) take_choices(x, pu_str_of(x->body.data ? x->body.data : "", x->body.len));
  char *said = all_said(x);
  if (x->stream && !x->done)
    complain(s, "the stream broke off", x, status);
  else if (!s->alone[x->question])
    s->alone[x->question] = strdup(said);
  else if (strcmp(said, s->alone[x->question]) != 0)
    complain(s, "not what it is alone", x, status);
  s->completed++;
  free(said);
}

static void check_refusal(soak *s, exchange *x, int status) {
  json_t *v = json_loadb(x->body.data ? x->body.data : "", x->body.len, 0, NULL);
  const char *type = json_string_value(json_object_get(json_object_get(v, "error"), "type"));
  if (status < 400 || status >= 500 || !type || strcmp(type, "invalid_request_error") != 0)
    complain(s, "not refused", x, status);
  s->refused++;
  json_decref(v);
}

static void on_end(void *arg, int status, pu_err err, const char *why) {
  exchange *x = arg;
  soak *s = x->s;
  if (err == PU_ERR_STOPPED)
    s->left++;
  else if (err)
    complain(s, why, x, status);
  else if (status == 429)
    s->busy++;
  else if (x->question < 0)
    check_refusal(s, x, status);
  else if (status == 200)
    check_answer(s, x, status);
  else
    complain(s, "no answer", x, status);
  exchange_deinit(x);
}

static void start(soak *s, exchange *x, pu_buf *body) {
  pu_error e;
  uint64_t dice = pu_random_at(9, s->asked, 1);
  bool chat = true;
  char url[200];
  if (x->question < 0)
    put_senseless(body, dice >> 8);
  else
    chat = put_question(body, x->question, x->stream);
  exchange_init(x);
  snprintf(url, sizeof url, "%s/v1/%s", s->url, chat ? "chat/completions" : "completions");
  const pu_http_ask ask = {.url = url,
                           .body = pu_str_of(body->data ? body->data : "", body->len),
                           .seconds = PATIENCE,
                           .on_data = on_data,
                           .on_end = on_end,
                           .arg = x};
  assert_ok(pu_http_client_start(s->client, &ask, &x->call, &e), &e);
  s->asked++;
}

/* What this client asks next: in a tenth each something senseless, and something whose answer it will not wait for. */
static void choose(soak *s, exchange *x) {
  uint64_t dice = pu_random_at(8, s->asked, 0);
  *x = (exchange){.s = s, .question = (int)(dice % QUESTIONS), .stream = dice >> 8 & 1};
  if ((dice >> 16) % 10 == 0) x->question = -1;
  x->leaves = x->question >= 0 && (dice >> 24) % 10 == 0;
  x->leave_after = (int)((dice >> 32) % 12) + 1;
  x->leave_at = pu_now() + (double)((dice >> 40) % 1000) / 2000;
}

/* ---- strange manners, on sockets of their own ---- */

/* Answers wait behind those of all the others. */
static client open_client(const soak *s, int rcvbuf) {
  client c = client_open_with(s->port, rcvbuf);
  struct timeval patience = {.tv_sec = PATIENCE};
  setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return c;
}

static void ask_raw(client *c, const soak *s, int question, bool stream) {
  pu_buf body;
  (void)s;
  pu_buf_init(&body, 1 << 20);
  bool chat = put_question(&body, question, stream);
  client_ask(c, "POST", chat ? "/v1/chat/completions" : "/v1/completions", "", body.data);
  pu_buf_deinit(&body);
}

/* Three requests at once, whose answers come in their order. */
static bool sends_ahead(soak *s) {
  client c = open_client(s, 0);
  bool good = true;
  for (int i = 0; i < 3; i++) ask_raw(&c, s, i * 2, false);
  for (int i = 0; i < 3 && good; i++) {
    answer a = client_answer(&c);
    exchange x = {.s = s, .question = i * 2};
    exchange_init(&x);
    take_choices(&x, pu_str_of(a.body.data ? a.body.data : "", a.body.len));
    char *said = all_said(&x);
    good = a.status == 429 || (a.status == 200 && strcmp(said, s->alone[i * 2]) == 0);
    free(said);
    exchange_deinit(&x);
    answer_free(&a);
  }
  client_close(&c);
  return good;
}

static bool half_closes(soak *s) {
  client c = open_client(s, 0);
  ask_raw(&c, s, 4, true);
  shutdown(c.fd, SHUT_WR);
  answer a = client_answer(&c);
  bool good = a.whole && (a.status == 429 || (a.status == 200 && strstr(a.body.data, "data: [DONE]")));
  answer_free(&a);
  client_close(&c);
  return good;
}

static bool does_not_read(soak *s) {
  client c = open_client(s, 2048);
  ask_raw(&c, s, 6, true);
  usleep(300000);
  client_close(&c);
  return true;
}

static bool sends_garbage(soak *s) {
  client c = open_client(s, 0);
  client_puts(&c, "\x16\x03\x01 this is no HTTP\r\n\r\n");
  answer a = client_answer(&c);
  bool good = a.status == 400;
  answer_free(&a);
  client_close(&c);
  return good;
}

static void *be_strange(void *arg) {
  soak *s = arg;
  static bool (*const manners[])(soak *) = {sends_ahead, half_closes, does_not_read, sends_garbage};
  for (size_t i = 0; !atomic_load(&s->over); i++) {
    if (!manners[i % PU_COUNT(manners)](s)) return s;
    atomic_fetch_add(&s->odd, 1);
  }
  return NULL;
}

/* ---- the server ---- */

static void run_program(const char *const *words) {
  assert_int_equal(program_wait(program_start(words, "/dev/null", "/dev/null")), 0);
}

static void start_server(soak *s) {
  char model[100], text[100], out[100], err[100], most[20];
  pu_buf b;
  pu_error e;
  snprintf(s->dir, sizeof s->dir, "/tmp/puyu-soak-%d", (int)getpid());
  snprintf(model, sizeof model, "%s/model", s->dir);
  snprintf(text, sizeof text, "%s/text.txt", s->dir);
  snprintf(out, sizeof out, "%s/out", s->dir);
  snprintf(err, sizeof err, "%s/err", s->dir);
  snprintf(most, sizeof most, "%d", s->clients * 4);
  assert_ok(pu_mkdirs(s->dir, &e), &e);
  pu_buf_init(&b, 1 << 20);
  for (int i = 0; i < 50; i++) put_words(&b, i, 60);
  assert_ok(pu_file_write(text, b.data, b.len, &e), &e);
  run_program((const char *[]){"init", "--shape", "puyu-2m", "--vocab-size", "384", "--out", model, NULL});
  run_program((const char *[]){"tokenizer", "train", "--vocab-size", "384", "--out", model, text, NULL});
  s->pid = program_start((const char *[]){"serve", model, "--port", "0", "--max-batch", "32", "--context", "1024",
                                          "--memory", "0.07", "--queue", most, NULL},
                         out, err);
  for (int i = 0; i < 3000 && !s->port && !program_ended(s->pid); i++, usleep(10000)) {
    const char *at = pu_file_read(out, 1 << 16, &b, NULL) == PU_OK && b.data ? strstr(b.data, "127.0.0.1:") : NULL;
    if (at && strchr(at, '\n')) s->port = atoi(at + strlen("127.0.0.1:"));
  }
  if (!s->port) (void)file_says(err, "nothing");
  assert_int_not_equal(s->port, 0);
  snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", s->port);
  pu_buf_deinit(&b);
}

/* MiB of the server's own memory; 0: unknown. */
static double resident(const soak *s) {
  char path[64], line[256];
  long kib = 0;
  snprintf(path, sizeof path, "/proc/%d/status", (int)s->pid);
  FILE *f = fopen(path, "r");
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "RssAnon: %ld", &kib) == 1) break;
  if (f) fclose(f);
  return (double)kib / 1024;
}

static double metric(const soak *s, const char *name) {
  answer a = ask_once(s->port, "GET", "/metrics", "", NULL);
  char wanted[100];
  snprintf(wanted, sizeof wanted, "\n%s ", name);
  const char *at = a.body.data ? strstr(a.body.data, wanted) : NULL;
  double value = at ? atof(at + strlen(wanted)) : NAN;
  answer_free(&a);
  return value;
}

static void wait_until_idle(const soak *s) {
  static const char *const names[] = {"puyu_requests_running", "puyu_requests_waiting", "puyu_sessions_running",
                                      "puyu_sessions_waiting", "puyu_kv_blocks_used"};
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    double value = 1;
    for (int k = 0; k < 1000 && (value = metric(s, names[i])) != 0; k++) usleep(10000);
    if (value != 0) fail_msg("%s stays at %g", names[i], value);
  }
}

/* ---- the run ---- */

static void ask_alone(soak *s, pu_buf *body) {
  pu_error e;
  for (int i = 0; i < QUESTIONS; i++) {
    exchange x = {.s = s, .question = i};
    start(s, &x, body);
    while (pu_http_client_running(s->client) > 0) assert_ok(pu_http_client_wait(s->client, 0.1, &e), &e);
  }
}

static void leave_when_it_is_time(exchange *x, double now) {
  if (x->is_open && x->leaves && !x->stream && now >= x->leave_at) pu_http_client_drop(x->call);
}

static void go_on(soak *s, exchange *all, pu_buf *body) {
  pu_error e;
  double begin = pu_now(), end = begin + s->seconds, next = begin + 1;
  while (pu_now() < end || pu_http_client_running(s->client) > 0) {
    double now = pu_now();
    for (int i = 0; i < s->clients; i++) {
      leave_when_it_is_time(&all[i], now);
      if (all[i].is_open || now >= end) continue;
      choose(s, &all[i]);
      start(s, &all[i], body);
    }
    assert_ok(pu_http_client_wait(s->client, 0.05, &e), &e);
    if (program_ended(s->pid)) fail_msg("the server ended");
    if (now < next || s->n_resident == MOST_SAMPLES) continue;
    s->resident[s->n_resident++] = resident(s);
    next = now + 1;
  }
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Of the samples of part i of `parts`; large bodies make it jump for a moment, which the median does not see. */
static double median(const soak *s, size_t i, size_t parts) {
  size_t n = s->n_resident / parts;
  double part[MOST_SAMPLES];
  memcpy(part, s->resident + i * n, n * sizeof *part);
  qsort(part, n, sizeof *part, by_size);
  return part[n / 2];
}

/* The first tenths are the warm-up: the prefix cache fills, the allocator finds its size. */
static void check_memory(const soak *s) {
  enum { PARTS = 10, WARM = 3 };
  if (s->n_resident < PARTS) return;
  double early = 0;
  printf("memory    ");
  for (size_t i = 0; i < PARTS; i++) {
    printf(" %.1f", median(s, i, PARTS));
    if (i <= WARM) early = PU_MAX(early, median(s, i, PARTS));
  }
  printf(" MiB, medians of tenths of the time\n");
  if (SANITIZED || s->seconds < 60) return; /* too short to have warmed up */
  double late = PU_MIN(median(s, PARTS - 2, PARTS), median(s, PARTS - 1, PARTS));
  if (late > early * 1.03 + 1) fail_msg("the server's memory grew from %.1f to %.1f MiB", early, late);
}

static double seconds_wanted = 3;
static int clients_wanted = 32;

static void nothing_is_lost(void **state) {
  (void)state;
  static soak s;
  pu_error e;
  pu_buf body;
  pthread_t stranger;
  void *strange;
  s.seconds = seconds_wanted;
  s.clients = clients_wanted;
  s.resident = calloc(MOST_SAMPLES, sizeof *s.resident);
  exchange *all = calloc((size_t)s.clients, sizeof *all);
  pu_buf_init(&body, 1 << 25);
  start_server(&s);
  assert_ok(pu_http_client_open(&s.client, &e), &e);
  ask_alone(&s, &body);
  assert_int_equal(s.completed, QUESTIONS);
  pthread_create(&stranger, NULL, be_strange, &s);
  go_on(&s, all, &body);
  atomic_store(&s.over, true);
  pthread_join(stranger, &strange);
  wait_until_idle(&s);
  printf("requests   %zu completed, %zu left early, %zu senseless ones refused, %zu told to come back, %d strange\n",
         s.completed, s.left, s.refused, s.busy, atomic_load(&s.odd));
  printf("wrong      %zu\n", s.wrong);
  printf("cache      %g blocks in use of %g; %g sequences gave up theirs for a while\n",
         metric(&s, "puyu_kv_blocks_used"), metric(&s, "puyu_kv_blocks"), metric(&s, "puyu_preemptions_total"));
  check_memory(&s);
  assert_null(strange);
  assert_int_equal(s.wrong, 0);
  if (s.asked > 400) assert_true(s.left > 0 && s.refused > 0); /* fewer prove nothing */
  pu_http_client_free(s.client);
  kill(s.pid, SIGTERM);
  assert_int_equal(program_wait(s.pid), 0);
  assert_ok(pu_remove_tree(s.dir, &e), &e);
  for (int i = 0; i < QUESTIONS; i++) free(s.alone[i]);
  free(s.resident);
  free(all);
  pu_buf_deinit(&body);
}

int main(int argc, char **argv) {
  struct rlimit files = {4096, 4096};
  (void)setrlimit(RLIMIT_NOFILE, &files);
  if (argc > 1) seconds_wanted = atof(argv[1]);
  if (argc > 2) clients_wanted = PU_MAX(atoi(argv[2]), 1);
  const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_lost)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
