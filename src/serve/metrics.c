#include "src/serve/internal.h"

/* Upper bounds in seconds: from a small model's token to a long prompt's wait. */
static const double bounds[PU_HISTOGRAM_BUCKETS] = {0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
                                                    0.5,   1,     2,    5,    10,   30,  100};

void pu_metrics_status(pu_metrics *m, int status) {
  pthread_mutex_lock(&m->lock);
  m->responses[PU_MIN(status / 100, PU_STATUS_CLASSES - 1)]++;
  pthread_mutex_unlock(&m->lock);
}

void pu_metrics_observe(pu_metrics *m, pu_histogram *h, double seconds) {
  size_t i = 0;
  while (i < PU_HISTOGRAM_BUCKETS && seconds > bounds[i]) i++;
  pthread_mutex_lock(&m->lock);
  h->counts[i]++;
  h->sum += seconds;
  pthread_mutex_unlock(&m->lock);
}

static void put(pu_buf *b, const char *name, const char *type, const char *help, double value) {
  char number[32];
  pu_format_double(number, value);
  pu_buf_printf(b, "# HELP puyu_%s %s\n# TYPE puyu_%s %s\npuyu_%s %s\n", name, help, name, type, name, number);
}

static void put_histogram(pu_buf *b, const char *name, const char *help, const pu_histogram *h) {
  uint64_t sum = 0;
  pu_buf_printf(b, "# HELP puyu_%s %s\n# TYPE puyu_%s histogram\n", name, help, name);
  for (size_t i = 0; i < PU_HISTOGRAM_BUCKETS; i++) {
    sum += h->counts[i];
    pu_buf_printf(b, "puyu_%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)sum);
  }
  sum += h->counts[PU_HISTOGRAM_BUCKETS];
  pu_buf_printf(b, "puyu_%s_bucket{le=\"+Inf\"} %llu\npuyu_%s_sum %.9g\npuyu_%s_count %llu\n", name,
                (unsigned long long)sum, name, h->sum, name, (unsigned long long)sum);
}

static void put_engine(pu_buf *b, const pu_engine_stats *st) {
  double blocks = PU_MAX(st->kv_blocks, 1);
  put(b, "sessions_running", "gauge", "Sequences the engine computes for.", st->running);
  put(b, "sessions_waiting", "gauge", "Sequences that wait for a place in the batch or the cache.", st->waiting);
  put(b, "kv_blocks", "gauge", "Blocks of the key/value cache.", st->kv_blocks);
  put(b, "kv_blocks_used", "gauge", "Blocks that sequences hold.", st->kv_blocks_used);
  put(b, "kv_blocks_cached", "gauge", "Blocks that only the prefix cache holds.", st->kv_blocks_cached);
  put(b, "kv_usage_ratio", "gauge", "Share of the blocks that sequences hold.", st->kv_blocks_used / blocks);
  put(b, "prefix_tokens_hit_total", "counter", "Prompt tokens found in the prefix cache.",
      (double)st->prefix_tokens_hit);
  put(b, "prefix_tokens_asked_total", "counter", "Prompt tokens looked for there.", (double)st->prefix_tokens_asked);
  put(b, "prefix_tokens_host_total", "counter", "Of those found, tokens that came from host memory.",
      (double)st->prefix_tokens_host);
  put(b, "host_blocks", "gauge", "Blocks of the prefix cache's second tier in host memory.", st->host_blocks);
  put(b, "host_blocks_used", "gauge", "Of these, blocks that hold something.", st->host_blocks_used);
  put(b, "host_blocks_out_total", "counter", "Blocks copied to host memory.", (double)st->host_blocks_out);
  put(b, "host_blocks_in_total", "counter", "Blocks copied back from it.", (double)st->host_blocks_in);
  put(b, "preemptions_total", "counter", "Sequences that gave up their blocks for an older one.",
      (double)st->preemptions);
  put(b, "steps_total", "counter", "Forward passes.", (double)st->steps);
  put(b, "steps_ahead_total", "counter", "Of these, passes that were made ready while the one before ran.",
      (double)st->steps_ahead);
  put(b, "prefill_seconds_total", "counter", "Time of passes with prompt tokens.", st->prefill_seconds);
  put(b, "decode_seconds_total", "counter", "Time of passes without.", st->decode_seconds);
  put(b, "prefill_tokens_total", "counter", "Tokens of passes with prompt tokens.", (double)st->prefill_tokens);
  put(b, "decode_tokens_total", "counter", "Tokens of passes without.", (double)st->decode_tokens);
}

bool pu_metrics_write(pu_metrics *m, pu_buf *b) {
  pthread_mutex_lock(&m->lock);
  put(b, "requests_running", "gauge", "Requests whose answers are being made.", m->running);
  put(b, "requests_waiting", "gauge", "Requests in the queue.", m->waiting);
  put(b, "requests_cancelled_total", "counter", "Requests whose client went away.", (double)m->cancelled);
  put(b, "prompt_tokens_total", "counter", "Tokens of prompts accepted.", (double)m->prompt_tokens);
  put(b, "answer_tokens_total", "counter", "Tokens generated.", (double)m->answer_tokens);
  pu_buf_puts(b, "# HELP puyu_responses_total Responses by class of status.\n# TYPE puyu_responses_total counter\n");
  for (int i = 2; i < PU_STATUS_CLASSES; i++)
    pu_buf_printf(b, "puyu_responses_total{class=\"%dxx\"} %llu\n", i, (unsigned long long)m->responses[i]);
  put_histogram(b, "time_to_first_token_seconds", "From the request to its first token.", &m->first_token);
  put_histogram(b, "time_per_output_token_seconds", "Mean time of an answer's further tokens.", &m->per_token);
  put_histogram(b, "request_seconds", "From the request to its last token.", &m->whole);
  put_engine(b, &m->engine);
  pthread_mutex_unlock(&m->lock);
  return !b->failed;
}
