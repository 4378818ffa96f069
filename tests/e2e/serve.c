/* `puyu serve` as a shell starts it: it says where it listens, answers, and stops when it is told to. */
#include "tests/e2e/program.h"
#include "tests/net/client.h"

#define MODEL PU_FIXTURES "/hf-mini/internlm2-tiny"

typedef struct files {
  char out[64], err[64];
} files;

static files names(void) {
  files f;
  snprintf(f.out, sizeof f.out, "/tmp/puyu-serve-%d.out", (int)getpid());
  snprintf(f.err, sizeof f.err, "/tmp/puyu-serve-%d.err", (int)getpid());
  return f;
}

/* The port, when the program has said it. */
static int wait_for_port(const files *f, pid_t pid) {
  for (int i = 0; i < 2000 && !program_ended(pid); i++, usleep(10000)) {
    pu_buf b;
    pu_buf_init(&b, 1 << 16);
    const char *at = pu_file_read(f->out, 1 << 16, &b, NULL) == PU_OK && b.data ? strstr(b.data, "127.0.0.1:") : NULL;
    int port = at && strchr(at, '\n') ? atoi(at + strlen("127.0.0.1:")) : 0;
    pu_buf_deinit(&b);
    if (port) return port;
  }
  (void)file_says(f->err, "nothing");
  fail_msg("the server does not listen");
  return 0;
}

static void serves_until_it_is_stopped(void **state) {
  (void)state;
  files f = names();
  const char *const words[] = {"serve", MODEL,     "--port", "0",        "--max-batch", "4", "--name",
                               "mine",  "--draft", MODEL,    "--memory", "0.05",        NULL};
  pid_t pid = program_start(words, f.out, f.err);
  int port = wait_for_port(&f, pid);
  answer a = ask_once(port, "GET", "/v1/models", "", NULL);
  assert_int_equal(a.status, 200);
  assert_non_null(strstr(a.body.data, "\"mine\""));
  answer_free(&a);
  client c = client_open(port); /* it has no tokenizer, so that prompts are ids */
  client_ask(&c, "POST", "/v1/completions", "",
             "{\"prompt\":[1,2,3],\"max_tokens\":40,\"ignore_eos\":true,\"stream\":true}");
  assert_true(client_head(&c, &a));
  assert_int_equal(a.status, 200);
  kill(pid, SIGTERM); /* what runs ends as it should */
  assert_true(client_chunks(&c, &a.body));
  assert_non_null(strstr(a.body.data, "\"finish_reason\":\"length\""));
  assert_non_null(strstr(a.body.data, "data: [DONE]\n\n"));
  assert_int_equal(program_wait(pid), 0);
  assert_true(file_says(f.err, "cache of"));
  assert_true(file_says(f.err, "mine: no tokenizer"));
  assert_true(file_says(f.err, "two models"));
  answer_free(&a);
  client_close(&c);
  unlink(f.out);
  unlink(f.err);
}

static void mistakes_are_told(void **state) {
  (void)state;
  files f = names();
  static const struct {
    const char *words[8], *says;
  } rows[] = {{{"serve", MODEL, "--host", "0.0.0.0", "--port=0"}, "--api-key-file"},
              {{"serve", MODEL, "--api-key-file", "/no/such/file", "--port=0"}, "/no/such/file"},
              {{"serve", MODEL, "--tls-cert", "/dev/null", "--port=0"}, "key"},
              {{"serve", MODEL, "--context", "1000000000", "--port=0"}, "--context"},
              {{"serve", MODEL, "--draft", MODEL, "--memory=0.002", "--prefill-chunk=64", "--port=0"},
               "the model and its draft"},
              {{"serve", "/no/such/model", "--port=0"}, "/no/such/model"}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    assert_int_not_equal(program_wait(program_start(rows[i].words, f.out, f.err)), 0);
    assert_true(file_says(f.err, rows[i].says));
  }
  unlink(f.out);
  unlink(f.err);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(serves_until_it_is_stopped), cmocka_unit_test(mistakes_are_told)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
