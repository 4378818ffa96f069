/* What a model is: family, sizes, memory, tensors. */
#include <math.h>
#include <string.h>

#include "puyu/model.h"
#include "src/cli/cli.h"

typedef struct options {
  bool tensors;
} options;

static const pu_option rows[] = {
    PU_ROW(options, tensors, "tensors", BOOL, .dflt = "true", .help = "list every tensor"),
    {0},
};

static void line(FILE *out, const char *what, const char *fmt, ...) PU_PRINTF(3, 4);
static void line(FILE *out, const char *what, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fprintf(out, "%-14s ", what);
  vfprintf(out, fmt, ap);
  fputc('\n', out);
  va_end(ap);
}

/* "1.72 GiB" */
static const char *size_text(double bytes, char *dst, size_t size) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < PU_COUNT(units)) bytes /= 1024, unit++;
  snprintf(dst, size, unit ? "%.2f %s" : "%.0f %s", bytes, units[unit]);
  return dst;
}

static void print_rope(FILE *out, const pu_rope_params *r) {
  static const char *const kinds[] = {"", ", linear", ", dynamic NTK", ", llama3"};
  if (r->kind == PU_ROPE_NONE)
    line(out, "RoPE", "base %g", r->base);
  else
    line(out, "RoPE", "base %g%s, factor %g%s", r->base, kinds[r->kind], r->factor,
         r->kind == PU_ROPE_DYNAMIC ? " above the longest trained position" : "");
}

static void print_flags(FILE *out, const pu_hparams *hp) {
  const struct {
    bool on;
    const char *name;
  } flags[] = {{hp->tied, "tied embeddings"},  {hp->qkv_bias, "biases on q, k, v"},
               {hp->o_bias, "bias on wo"},     {hp->mlp_bias, "biases in the MLP"},
               {hp->qk_norm, "norms on q, k"}, {hp->norm_head, "normalised output rows"}};
  char text[200] = "";
  for (size_t i = 0; i < PU_COUNT(flags); i++) {
    size_t at = strlen(text);
    if (flags[i].on) snprintf(text + at, sizeof text - at, "%s%s", at ? ", " : "", flags[i].name);
  }
  if (*text) line(out, "with", "%s", text);
}

static void print_memory(FILE *out, const pu_arch *arch, const pu_hparams *hp) {
  char a[32], b[32], c[32];
  double f32 = (double)pu_model_weight_bytes(arch, hp, &(pu_model_options){.dtype = PU_F32});
  double bf16 = (double)pu_model_weight_bytes(arch, hp, &(pu_model_options){.dtype = PU_BF16});
  double train = (double)pu_model_weight_bytes(arch, hp, &(pu_model_options){.dtype = PU_BF16, .train = true}) +
                 8.0 * (double)pu_hparams_count(hp, false);
  line(out, "weights", "%s in bf16, %s in f32; with optimiser for training in bf16 %s", size_text(bf16, a, sizeof a),
       size_text(f32, b, sizeof b), size_text(train, c, sizeof c));
  pu_model_options q8 = {.dtype = PU_BF16, .tile = true, .quant = PU_QUANT_Q8}, q4 = q8;
  q4.quant = PU_QUANT_Q4;
  line(out, "", "%s with --quant q8, %s with q4", size_text((double)pu_model_weight_bytes(arch, hp, &q8), a, sizeof a),
       size_text((double)pu_model_weight_bytes(arch, hp, &q4), b, sizeof b));
  double cache = 2.0 * 2.0 * (double)(hp->layers * hp->kv_heads * hp->head_dim);
  line(out, "cache", "%s a token in bf16, %s at %lld tokens", size_text(cache, a, sizeof a),
       size_text(cache * (double)hp->max_position, b, sizeof b), (long long)hp->max_position);
}

static void print_config(FILE *out, const pu_arch *arch, const pu_hparams *hp) {
  line(out, "family", "%s (%s)", arch->name, arch->class_name);
  long long count = pu_hparams_count(hp, false), embedding = hp->vocab * hp->hidden;
  line(out, "parameters", "%lld, of them %lld in the %s", count, embedding,
       hp->tied ? "embedding, which is the output matrix too and counts once" : "input embedding");
  line(out, "vocabulary", "%lld", (long long)hp->vocab);
  line(out, "hidden", "%lld", (long long)hp->hidden);
  line(out, "MLP", "%lld%s", (long long)hp->ffn, hp->experts ? " in each expert" : "");
  if (hp->experts)
    line(out, "experts", "%lld, %lld for each token", (long long)hp->experts, (long long)hp->experts_used);
  line(out, "layers", "%lld", (long long)hp->layers);
  line(out, "heads", "%lld for queries, %lld for keys and values; each is %lld wide", (long long)hp->heads,
       (long long)hp->kv_heads, (long long)hp->head_dim);
  line(out, "positions", "%lld", (long long)hp->max_position);
  if (hp->window) line(out, "window", "%lld", (long long)hp->window);
  print_rope(out, &hp->rope);
  print_flags(out, hp);
  print_memory(out, arch, hp);
}

static void print_files(FILE *out, const pu_safetensors *s) {
  enum { FP8 = PU_ST_OTHER + 1 };
  double bytes[FP8 + 1] = {0}; /* the last but one: of types that are only listed */
  for (size_t i = 0; i < pu_safetensors_count(s); i++) {
    const pu_st_tensor *t = pu_safetensors_at(s, i);
    bytes[strcmp(t->type, "F8_E4M3") == 0 ? FP8 : (int)t->dtype] += (double)t->bytes;
  }
  char text[200] = "", size[32];
  for (int t = 0; t <= FP8; t++) {
    size_t at = strlen(text);
    if (bytes[t] > 0)
      snprintf(text + at, sizeof text - at, ", %s of %s", size_text(bytes[t], size, sizeof size),
               t == FP8           ? "F8_E4M3"
               : t == PU_ST_OTHER ? "types that cannot be loaded"
                                  : pu_dtype_name((pu_dtype)t));
  }
  line(out, "in files", "%zu tensors%s", pu_safetensors_count(s), text);
}

static void print_tensor_head(FILE *out) {
  fprintf(out, "\n%-60s %-7s %s\n", "tensor", "type", "shape");
}

static void print_tensor(FILE *out, const char *name, const char *type, int ndim, const int64_t *shape) {
  fprintf(out, "%-60s %-7s [", name, type);
  for (int d = 0; d < ndim; d++) fprintf(out, "%s%lld", d ? ", " : "", (long long)shape[d]);
  fputs("]\n", out);
}

static void print_tensors(FILE *out, const pu_safetensors *s) {
  print_tensor_head(out);
  for (size_t i = 0; i < pu_safetensors_count(s); i++) {
    const pu_st_tensor *t = pu_safetensors_at(s, i);
    /* What puyu can load goes by puyu's names, the rest by the file's. */
    print_tensor(out, t->name, t->dtype < PU_DTYPE_COUNT ? pu_dtype_name(t->dtype) : t->type, t->ndim, t->shape);
  }
}

/* ---- GGUF ---- */

static void print_text(FILE *out, pu_str text) {
  enum { SHOWN = 60 };
  pu_buf b; /* as JSON: no control character reaches the terminal */
  pu_buf_init(&b, 1 << 16);
  pu_buf_json_str(&b, pu_str_of(text.ptr, PU_MIN(text.len, (size_t)SHOWN)));
  fprintf(out, "%s%s", b.data ? b.data : "", text.len > SHOWN ? "…" : "");
  pu_buf_deinit(&b);
}

static void print_number(FILE *out, const pu_gguf_meta *m, size_t i) {
  char number[32] = "";
  int64_t whole;
  double v;
  if (m->kind == PU_GGUF_BOOL && pu_gguf_int(m, i, &whole))
    snprintf(number, sizeof number, "%s", whole ? "true" : "false");
  else if (pu_gguf_int(m, i, &whole))
    snprintf(number, sizeof number, "%lld", (long long)whole);
  else if (pu_gguf_num(m, i, &v))
    m->kind == PU_GGUF_F32 ? pu_format_float(number, (float)v) : pu_format_double(number, v);
  fputs(number, out);
}

/* Of an array, its length and its first values. */
static void print_value(FILE *out, const pu_gguf_meta *m) {
  enum { ITEMS = 6 };
  size_t at = 0, n = PU_MIN(m->count, (size_t)ITEMS);
  pu_str text;
  if (m->array) fprintf(out, "%zu: [", m->count);
  for (size_t i = 0; i < n; i++) {
    if (i) fputs(", ", out);
    if (m->kind != PU_GGUF_STR)
      print_number(out, m, i);
    else if (pu_gguf_str(m, &at, &text))
      print_text(out, text);
  }
  fprintf(out, "%s%s\n", n < m->count ? ", …" : "", m->array ? "]" : "");
}

static void print_gguf_files(FILE *out, const pu_gguf *g) {
  char text[300] = "", size[32];
  const pu_gguf_type *seen[16];
  size_t n = 0;
  for (size_t i = 0; i < pu_gguf_count(g); i++) {
    const pu_gguf_type *type = pu_gguf_at(g, i)->type;
    size_t k = 0, at = strlen(text);
    double bytes = 0;
    while (k < n && seen[k] != type) k++;
    if (k < n || n == PU_COUNT(seen)) continue;
    seen[n++] = type;
    for (size_t t = i; t < pu_gguf_count(g); t++)
      if (pu_gguf_at(g, t)->type == type) bytes += (double)pu_gguf_at(g, t)->bytes;
    snprintf(text + at, sizeof text - at, ", %s of %s", size_text(bytes, size, sizeof size), pu_gguf_type_name(type));
  }
  line(out, "in file", "%zu tensors%s", pu_gguf_count(g), text);
}

static pu_err inspect_gguf(const pu_cli *cli, const char *path, bool tensors, pu_error *e) {
  const pu_arch *arch;
  pu_hparams hp;
  pu_gguf *g;
  pu_error why;
  PU_TRY(pu_gguf_open(path, &g, e));
  if (pu_model_describe(path, &arch, &hp, &why) == PU_OK)
    print_config(cli->out, arch, &hp);
  else
    line(cli->out, "family", "none that can be loaded: %s", why.msg);
  print_gguf_files(cli->out, g);
  fprintf(cli->out, "\n%-48s %s\n", "key", "value");
  for (size_t i = 0; i < pu_gguf_meta_count(g); i++) {
    const pu_gguf_meta *m = pu_gguf_meta_at(g, i);
    fprintf(cli->out, "%-48s ", m->key);
    print_value(cli->out, m);
  }
  if (tensors) print_tensor_head(cli->out);
  for (size_t i = 0; tensors && i < pu_gguf_count(g); i++) {
    const pu_gguf_tensor *t = pu_gguf_at(g, i);
    print_tensor(cli->out, t->name, pu_gguf_type_name(t->type), t->ndim, t->shape);
  }
  pu_gguf_close(g);
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  const pu_arch *arch;
  pu_hparams hp;
  (void)n_args;
  if (pu_gguf_is(args[0])) return inspect_gguf(cli, args[0], o->tensors, e);
  bool dir = pu_path_is_dir(args[0]);
  if (dir) {
    PU_TRY(pu_model_describe(args[0], &arch, &hp, e));
    print_config(cli->out, arch, &hp);
  }
  const char *const files[] = {"model.safetensors", "model.safetensors.index.json"};
  bool weights = !dir;
  for (size_t i = 0; dir && i < PU_COUNT(files); i++) {
    const char *path = pu_path_join(cli->arena, args[0], files[i]);
    weights |= path && pu_path_exists(path);
  }
  if (!weights) {
    line(cli->out, "in files", "no weights");
    return PU_OK;
  }
  pu_safetensors *s;
  PU_TRY(pu_safetensors_open(args[0], &s, e));
  print_files(cli->out, s);
  pu_error why;
  if (dir && pu_model_check(args[0], &why) != PU_OK) line(cli->out, "loading", "fails: %s", why.msg);
  if (o->tensors) print_tensors(cli->out, s);
  pu_safetensors_close(s);
  return PU_OK;
}

const pu_command pu_command_inspect = {
    .name = "inspect",
    .summary = "say what a model is: family, sizes, memory, tensors",
    .usage = "MODEL [options]",
    .details = "MODEL is a Hugging Face directory (config.json alone will do), one safetensors file, or a GGUF file, "
               "whose keys are listed too.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
