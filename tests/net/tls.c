/* TLS: a certificate made on the spot, a client that checks it, an answer, a stream, a client that leaves. */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdatomic.h>

#include "puyu/net.h"
#include "tests/net/client.h"

static char cert_path[64], key_path[64];

static void make_certificate(void) {
  EVP_PKEY *key = EVP_EC_gen("P-256");
  X509 *x = X509_new();
  assert_true(key && x);
  ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
  X509_gmtime_adj(X509_getm_notBefore(x), -60);
  X509_gmtime_adj(X509_getm_notAfter(x), 3600);
  X509_set_pubkey(x, key);
  X509_NAME *name = X509_get_subject_name(x);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
  X509_set_issuer_name(x, name);
  assert_true(X509_sign(x, key, EVP_sha256()) > 0);
  snprintf(cert_path, sizeof cert_path, "/tmp/puyu-test-%d.cert", (int)getpid());
  snprintf(key_path, sizeof key_path, "/tmp/puyu-test-%d.key", (int)getpid());
  FILE *f = fopen(cert_path, "w");
  assert_true(f && PEM_write_X509(f, x));
  fclose(f);
  f = fopen(key_path, "w");
  assert_true(f && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL));
  fclose(f);
  X509_free(x);
  EVP_PKEY_free(key);
}

typedef struct bench {
  pu_http_server *s;
  pthread_t thread;
  atomic_int gone;
} bench;

static void on_gone(void *arg) {
  bench *b = arg;
  atomic_fetch_add(&b->gone, 1);
}

static void handler(void *arg, pu_http_request *r) {
  pu_http_on_gone(r, on_gone, arg);
  if (strcmp(pu_http_path(r), "/echo") == 0) {
    pu_http_reply(r, 200, "text/plain", pu_http_body(r));
    return;
  }
  pu_http_begin(r, 200, "text/event-stream");
  (void)pu_http_write(r, pu_str_c("data: x\n\n"));
}

static void *run(void *arg) {
  bench *b = arg;
  pu_error e;
  return pu_http_run(b->s, &e) ? b : NULL;
}

static void drain(void *arg) {
  pu_http_drain(((bench *)arg)->s, 0.2);
}

static SSL *connect_tls(SSL_CTX *ctx, client *c, int port) {
  *c = client_open(port);
  SSL *ssl = SSL_new(ctx);
  SSL_set_fd(ssl, c->fd);
  assert_int_equal(SSL_connect(ssl), 1);
  assert_int_equal(SSL_get_verify_result(ssl), X509_V_OK);
  return ssl;
}

static void ask(SSL *ssl, const char *path, size_t body) {
  pu_buf b;
  pu_buf_init(&b, 1 << 24);
  pu_buf_printf(&b, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", path, body);
  for (size_t i = 0; i < body; i++) pu_buf_putc(&b, 'x');
  assert_int_equal(SSL_write(ssl, b.data, (int)b.len), b.len);
  pu_buf_deinit(&b);
}

/* Reads until `bytes` bytes of a body came. */
static void expect(SSL *ssl, size_t bytes) {
  static char got[1 << 20];
  size_t n = 0;
  const char *body = NULL;
  do {
    int more = SSL_read(ssl, got + n, (int)(sizeof got - 1 - n));
    assert_true(more > 0);
    n += (size_t)more;
    got[n] = 0;
    body = strstr(got, "\r\n\r\n");
  } while (!body || n - (size_t)(body + 4 - got) < bytes);
  assert_int_equal(n - (size_t)(body + 4 - got), bytes);
  assert_memory_equal(got, "HTTP/1.1 200", 12);
}

static void speaks_tls(void **state) {
  (void)state;
  bench b = {0};
  pu_error e;
  make_certificate();
  pu_http_options o = {.tls_cert = cert_path, .tls_key = key_path, .handler = handler, .arg = &b};
  assert_ok(pu_http_open(&o, &b.s, &e), &e);
  assert_memory_equal(pu_http_url(b.s), "https://", 8);
  pthread_create(&b.thread, NULL, run, &b);
  SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
  assert_int_equal(SSL_CTX_load_verify_locations(ctx, cert_path, NULL), 1);
  client c;
  SSL *ssl = connect_tls(ctx, &c, pu_http_port(b.s));
  ask(ssl, "/echo", 5);
  expect(ssl, 5);
  ask(ssl, "/echo", 300000); /* on the same connection */
  expect(ssl, 300000);
  SSL_free(ssl);
  client_close(&c);
  ssl = connect_tls(ctx, &c, pu_http_port(b.s));
  ask(ssl, "/stream", 0);
  char piece[256];
  assert_true(SSL_read(ssl, piece, sizeof piece) > 0);
  SSL_free(ssl);
  client_close(&c);
  for (int i = 0; i < 1000 && !atomic_load(&b.gone); i++) usleep(10000);
  assert_int_equal(atomic_load(&b.gone), 1);
  c = client_open(pu_http_port(b.s)); /* one that does not speak it */
  client_puts(&c, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
  while (client_fill(&c)) {}
  client_close(&c);
  void *failed;
  pu_http_post(b.s, drain, &b);
  pthread_join(b.thread, &failed);
  assert_null(failed);
  pu_http_free(b.s);
  SSL_CTX_free(ctx);
  pu_http_options wrong = {.tls_cert = cert_path, .tls_key = cert_path, .handler = handler};
  assert_int_equal(pu_http_open(&wrong, &b.s, &e), PU_ERR_FORMAT);
  wrong.tls_key = "/nowhere.pem";
  assert_int_equal(pu_http_open(&wrong, &b.s, &e), PU_ERR_IO);
  assert_string_equal(e.msg, "/nowhere.pem: cannot open: No such file or directory");
  wrong.tls_key = NULL;
  assert_int_equal(pu_http_open(&wrong, &b.s, &e), PU_ERR_USAGE);
  unlink(cert_path);
  unlink(key_path);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(speaks_tls)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
