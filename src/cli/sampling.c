#include "src/cli/sampling.h"

pu_sampling pu_cli_sampling_get(const pu_cli_sampling *o) {
  pu_sampling s = pu_sampling_default();
  s.temperature = o->temperature;
  s.top_k = o->top_k;
  s.top_p = o->top_p;
  s.min_p = o->min_p;
  s.typical_p = o->typical_p;
  s.min_tokens = o->min_tokens;
  s.repetition_penalty = o->repetition;
  s.presence_penalty = o->presence;
  s.frequency_penalty = o->frequency;
  s.seed = (uint64_t)o->seed;
  s.max_tokens = o->max_tokens;
  s.stop = o->stop.v;
  s.n_stop = o->stop.n;
  return s;
}
