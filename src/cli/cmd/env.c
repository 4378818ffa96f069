/* What puyu found on this machine: processor, memory, devices, and itself. */
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/compute.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

typedef struct options {
  bool json;
} options;

static const pu_option rows[] = {PU_ROW_JSON(options), {0}};

static void add_str(json_t *to, const char *key, const char *value) {
  json_object_set_new(to, key, json_string(value));
}

static json_t *about_puyu(void) {
  json_t *o = json_object();
  add_str(o, "version", PU_VERSION);
#ifdef __clang__
  add_str(o, "compiler", __VERSION__);
#else
  add_str(o, "compiler", "GCC " __VERSION__);
#endif
#ifdef __OPTIMIZE__
  add_str(o, "build", "optimised");
#else
  add_str(o, "build", "for debugging");
#endif
  return o;
}

static json_t *about_processor(void) {
  char name[128];
  json_t *o = json_object(), *sets = json_array();
  add_str(o, "name", pu_cpu_name(name, sizeof name));
  json_object_set_new(o, "processors", json_integer(pu_cpu_count()));
  for (int isa = PU_ISA_REF + 1; isa <= (int)pu_isa_best(); isa++)
    json_array_append_new(sets, json_string(pu_isa_name((pu_isa)isa)));
  json_object_set_new(o, "instruction_sets", sets);
  json_object_set_new(o, "memory_bytes", json_integer((json_int_t)pu_memory_all()));
  json_object_set_new(o, "memory_free_bytes", json_integer((json_int_t)pu_memory_free()));
  return o;
}

/* "key: value" lines, as a plug-in tells them. */
static void add_facts(json_t *to, const pu_buf *lines) {
  const char *at = lines->data, *end = at + lines->len;
  while (at < end) {
    const char *stop = memchr(at, '\n', (size_t)(end - at)), *colon;
    if (!stop) stop = end;
    colon = memchr(at, ':', (size_t)(stop - at));
    if (colon && colon + 2 <= stop)
      json_object_setn_new(to, at, (size_t)(colon - at), json_stringn(colon + 2, (size_t)(stop - colon - 2)));
    at = stop + 1;
  }
}

static json_t *about_device(const char *name) {
  json_t *o = json_object();
  pu_backend *be;
  pu_error e;
  size_t left, all;
  pu_buf lines;
  add_str(o, "name", name);
  if (pu_backend_open(name, 1, &be, &e) != PU_OK) {
    add_str(o, "error", e.msg);
    return o;
  }
  if (be->describe) add_str(o, "is", be->describe(be));
  if (be->memory && be->memory(be, &left, &all, &e) == PU_OK) {
    json_object_set_new(o, "memory_bytes", json_integer((json_int_t)all));
    json_object_set_new(o, "memory_free_bytes", json_integer((json_int_t)left));
  }
  pu_buf_init(&lines, 1 << 16);
  if (be->facts && be->facts(be, &lines, &e) != PU_OK) add_str(o, "error", e.msg);
  if (lines.len) add_facts(o, &lines);
  pu_buf_deinit(&lines);
  be->close(be);
  return o;
}

static json_t *about_devices(bool *cuda) {
  json_t *list = json_array();
  char names[8][PU_DEVICE_NAME];
  size_t n = pu_backend_list(names, PU_COUNT(names));
  bool built = false;
  *cuda = false;
  for (size_t i = 0; i < n; i++) {
    json_t *o = about_device(names[i]);
    if (strcmp(names[i], "cuda") == 0) {
      built = true;
      *cuda = !json_object_get(o, "error");
    }
    json_array_append_new(list, o);
  }
  if (!built) { /* why not, or it lies elsewhere */
    json_t *o = about_device("cuda");
    *cuda = !json_object_get(o, "error");
    json_array_append_new(list, o);
  }
  return list;
}

/* The device that `auto` is; *usable: else why says why the one that PUYU_DEVICE names is not. */
static const char *auto_device(bool cuda, bool *usable, pu_error *why) {
  const char *wanted = getenv("PUYU_DEVICE");
  pu_backend *be;
  *usable = true;
  if (!wanted || !*wanted || strcmp(wanted, "auto") == 0) return cuda ? "cuda" : "cpu";
  *usable = pu_backend_open("auto", 1, &be, why) == PU_OK;
  if (*usable) be->close(be);
  return wanted;
}

/* ---- for people ---- */

static void print_value(FILE *out, const char *key, const json_t *v) {
  char size[24];
  size_t i;
  json_t *x;
  fprintf(out, "  %-20s ", key);
  if (json_is_string(v)) {
    fputs(json_string_value(v), out);
  } else if (json_is_integer(v) && pu_ends_with(key, "_bytes")) {
    fputs(pu_bytes_text((size_t)json_integer_value(v), size), out);
  } else if (json_is_integer(v)) {
    fprintf(out, "%lld", (long long)json_integer_value(v));
  } else {
    json_array_foreach(v, i, x) fprintf(out, "%s%s", i ? " " : "", json_string_value(x));
  }
  fputc('\n', out);
}

static void print_object(FILE *out, const char *title, json_t *o) {
  const char *key;
  json_t *v;
  fprintf(out, "%s\n", title);
  json_object_foreach(o, key, v) print_value(out, key, v);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const options *o = opts;
  bool cuda, usable;
  pu_error why;
  json_t *devices = about_devices(&cuda);
  const char *auto_is = auto_device(cuda, &usable, &why);
  json_t *all = json_pack("{s:o,s:o,s:o,s:s}", "puyu", about_puyu(), "processor", about_processor(), "devices", devices,
                          "auto", auto_is);
  if (!all) return pu_fail(e, PU_ERR_NOMEM, "no memory for what there is to say");
  if (!usable) add_str(all, "auto_error", why.msg);
  if (o->json) {
    json_dumpf(all, cli->out, JSON_COMPACT);
    fputc('\n', cli->out);
  } else {
    size_t i;
    json_t *d;
    print_object(cli->out, "puyu", json_object_get(all, "puyu"));
    print_object(cli->out, "processor", json_object_get(all, "processor"));
    json_array_foreach(devices, i, d) print_object(cli->out, "device", d);
    fprintf(cli->out, "--device auto is %s%s%s\n", auto_is,
            usable ? "" : ", which cannot be used: ", usable ? "" : why.msg);
  }
  json_decref(all);
  return PU_OK;
}

const pu_command pu_command_env = {
    .name = "env",
    .summary = "print what was found here: processor, memory, devices, libraries",
    .usage = "[--json]",
    .details = "Devices are the plug-ins beside the program, each opened to ask what it is: driver, memory, libraries "
               "and their versions, links to others of its kind.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
