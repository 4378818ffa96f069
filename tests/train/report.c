/* The report: what is read, how it is drawn, that nothing of a run's text can become markup. */
#include "puyu/train.h"
#include "src/train/history.h"
#include "tests/test.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

static char dir[64];
static pu_error e;

static void write_in(const char *name, const char *text) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
}

static void test_series(void **arg) {
  (void)arg;
  pu_train_series s = {0}, smooth = {0};
  assert_true(isnan(pu_train_series_last(&s)) && isnan(pu_train_series_median(&s)));
  for (int i = 0; i < 1000; i++) assert_true(pu_train_series_add(&s, i, i % 2 ? 3 : 1));
  assert_true(pu_train_series_add(&s, 1000, NAN)); /* left out */
  assert_int_equal(s.n, 1000);
  assert_true(pu_train_series_smooth(&s, &smooth));
  assert_int_equal(smooth.n, 1000);
  assert_true(smooth.y[0] == 1);
  for (size_t i = 100; i < 1000; i++) assert_true(fabs(smooth.y[i] - 2) < 0.1);
  /* A straight line stays one, where the window is whole: no lag. */
  for (size_t i = 0; i < 1000; i++) s.y[i] = (double)i;
  smooth.n = 0;
  assert_true(pu_train_series_smooth(&s, &smooth));
  for (size_t i = 0; i < 980; i++) assert_true(fabs(smooth.y[i] - (double)i) < 1e-9);
  assert_true(pu_train_series_median(&s) == 500);
  pu_train_series_deinit(&s);
  pu_train_series_deinit(&smooth);
}

static void test_chart(void **arg) {
  (void)arg;
  pu_train_series s = {0}, none = {0};
  pu_buf out;
  pu_buf_init(&out, 1 << 20);
  pu_train_chart c = {.id = "a", .title = "A", .width = 480, .height = 300, .n = 1};
  c.curves[0] = (pu_train_curve){.s = &none, .style = "c0"};
  pu_train_chart_svg(&c, &out);
  assert_int_equal(out.len, 0); /* no points, no chart */
  assert_true(pu_train_series_add(&s, 5, 2));
  c.curves[0].s = &s;
  pu_train_chart_svg(&c, &out); /* one point has no extent to scale by */
  assert_non_null(strstr(out.data, "<svg"));
  assert_null(strstr(out.data, "nan"));
  assert_null(strstr(out.data, "inf"));
  pu_buf_clear(&out);
  for (int i = 0; i < 100000; i++) assert_true(pu_train_series_add(&s, 6 + i, sin(i)));
  pu_train_chart_svg(&c, &out);
  assert_true(out.len < 20000); /* thinned */
  pu_train_series_deinit(&s);
  assert_true(pu_train_series_add(&s, 1e18, 3) && pu_train_series_add(&s, 1e18 + 1024, nextafter(3, 4)));
  pu_buf_clear(&out);
  pu_train_chart_svg(&c, &out); /* steps of the scales that add nothing to its numbers */
  assert_non_null(strstr(out.data, "</svg>"));
  pu_buf_deinit(&out);
  pu_train_series_deinit(&s);
}

static void test_numbers(void **arg) {
  (void)arg;
  static const struct {
    double v;
    const char *text;
  } rows[] = {{0.25, "0.25"},    {1234, "1234"},     {9999.9, "10k"},  {999600, "1M"},
              {2.86e9, "2.86G"}, {2.86e12, "2.86T"}, {9.999e14, "1P"}, {-5e6, "-5M"}};
  char text[32];
  for (size_t i = 0; i < PU_COUNT(rows); i++) assert_string_equal(pu_train_number_text(rows[i].v, text), rows[i].text);
}

static void test_page(void **arg) {
  (void)arg;
  assert_int_equal(pu_report_write(dir, NULL, NULL, &e), PU_ERR_IO);
  write_in("metrics.jsonl", "");
  assert_ok(pu_report_write(dir, NULL, NULL, &e), &e); /* a run that has just begun */
  write_in("metrics.jsonl",
           "{\"step\":1,\"loss\":3.5,\"lr\":0.1,\"mfu\":0.25,\"tokens\":64,\"seconds\":2}\n{\"step\":1,\"valid_loss\":"
           "3.25}\n{\"step\":2,\"loss\":null,\"skipped\":\"NaN\",\"tokens\":128,\"seconds\":2}\n{\"st");
  write_in("samples.jsonl", "{\"step\":1,\"prompt\":\"<script>\",\"text\":\"</div>\"}\n");
  write_in("config.yaml", "run: <b>\n");
  pu_train_history h;
  assert_ok(pu_train_history_read(dir, &h, &e), &e);
  assert_int_equal(h.steps, 2);
  assert_int_equal(h.tokens, 128);
  assert_int_equal(h.skipped, 1);
  assert_true(h.mfu.n == 1 && h.mfu.y[0] == 25); /* per cent, as the report shows it */
  assert_true(h.loss.n == 1 && h.valid.n == 1 && h.seconds == 4);
  pu_train_history_close(&h);
  assert_ok(pu_report_write(dir, NULL, "<p>extra</p>", &e), &e);
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/report.html", dir);
  pu_buf page;
  pu_buf_init(&page, 1 << 20);
  assert_ok(pu_file_read(path, 1 << 20, &page, &e), &e);
  assert_non_null(strstr(page.data, "<p>extra</p>"));
  assert_non_null(strstr(page.data, "each step"));
  assert_null(strstr(page.data, "</i>smoothed")); /* of one step there is nothing to smooth */
  assert_non_null(strstr(page.data, "<b>25 %</b><span>MFU, median"));
  assert_non_null(strstr(page.data, "MFU, %"));
  assert_non_null(strstr(page.data, "&lt;script&gt;"));
  assert_null(strstr(page.data, "<script"));
  assert_null(strstr(page.data, "http")); /* nothing from outside */
  pu_buf_deinit(&page);
  write_in("metrics.jsonl", "{\"step\":1}\nnonsense\n{\"step\":2}\n");
  assert_int_equal(pu_report_write(dir, NULL, NULL, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "metrics.jsonl:2: not JSON"));
  write_in("metrics.jsonl", "{\"step\":1}\n{\"step\":2,\"lo\n"); /* torn, and ended by an editor */
  assert_ok(pu_report_write(dir, NULL, NULL, &e), &e);
}

/* Two runs on one page: no name twice. */
static void test_curves(void **arg) {
  (void)arg;
  pu_buf page;
  pu_buf_init(&page, 1 << 20);
  assert_int_equal(pu_report_curves(dir, "a", &page, &e), PU_ERR_IO);
  write_in("metrics.jsonl", "{\"step\":1,\"loss\":3.5,\"tok_per_s\":10}\n{\"step\":2,\"loss\":2.5,\"tok_per_s\":12}\n");
  assert_ok(pu_report_curves(dir, "a", &page, &e), &e);
  assert_ok(pu_report_curves(dir, "b", &page, &e), &e);
  static const char *const ids[] = {"id=a-loss>", "id=a-speed>", "id=b-loss>", "id=b-speed>"};
  for (size_t i = 0; i < PU_COUNT(ids); i++) {
    const char *at = strstr(page.data, ids[i]);
    assert_non_null(at);
    assert_null(strstr(at + 1, ids[i]));
  }
  pu_buf_deinit(&page);
}

static int setup(void **arg) {
  (void)arg;
  strcpy(dir, "/tmp/puyu-test-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **arg) {
  (void)arg;
  return pu_remove_tree(dir, &e) == PU_OK ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_series), cmocka_unit_test(test_chart),
                                     cmocka_unit_test(test_numbers),
                                     cmocka_unit_test_setup_teardown(test_page, setup, teardown),
                                     cmocka_unit_test_setup_teardown(test_curves, setup, teardown)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
