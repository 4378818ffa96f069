/* Files of conversations, one conversation after the other. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/tune/bytes.h"
#include "src/tune/form.h"

#define UNPACKED_MAX PU_BUF_MAX

struct pu_dialogues {
  pu_arena *a;
  const pu_train_source *how;
  const char **files;
  size_t n, at; /* at: the next one */
  double bytes, done;
  bool open;
  pu_tune_bytes file;
  pu_tune_objects objects;
  const pu_chat_form *form; /* of the file; NULL: not known yet */
};

static pu_err no_memory(const char *path, pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to read it", path);
}

/* ---- which files ---- */

static bool wanted(const char *name) {
  static const char *const ends[] = {".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst"};
  for (size_t i = 0; i < PU_COUNT(ends); i++)
    if (pu_ends_with(name, ends[i])) return true;
  return false;
}

static pu_err add_file(pu_dialogues *d, const char *path, pu_error *e) {
  struct stat st;
  if (stat(path, &st) != 0) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  if (!(d->files[d->n++] = pu_arena_strdup(d->a, path))) return no_memory(path, e);
  d->bytes += (double)st.st_size;
  return PU_OK;
}

static pu_err find_files(pu_dialogues *d, const char *path, pu_error *e) {
  char **names = NULL;
  size_t n = 1;
  bool folder = pu_path_is_dir(path);
  if (folder) PU_TRY(pu_dir_list(d->a, path, &names, &n, e));
  d->files = pu_arena_alloc(d->a, (n + 1) * sizeof *d->files);
  if (!d->files) return no_memory(path, e);
  if (!folder) return add_file(d, path, e);
  for (size_t i = 0; i < n; i++) {
    const char *below = pu_path_join(d->a, path, names[i]);
    if (!below) return no_memory(path, e);
    if (wanted(names[i]) && !pu_path_is_dir(below)) PU_TRY(add_file(d, below, e));
  }
  if (d->n > 0) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: no .json or .jsonl (.gz, .zst) in this folder", path);
}

/* ---- forms ---- */

static void list_forms(pu_buf *b) {
  for (size_t i = 0; pu_chat_form_all[i]; i++) pu_buf_printf(b, "%s%s", i ? ", " : "", pu_chat_form_all[i]->name);
}

static pu_err no_form(const char *where, const char *name, const json_t *o, pu_error *e) {
  pu_buf b;
  const char *key;
  json_t *v;
  pu_buf_init(&b, 1000);
  if (name)
    pu_buf_printf(&b, "there is no form '%.40s'; known: ", name);
  else
    pu_buf_puts(&b, "this is none of the forms ");
  list_forms(&b);
  if (!name) pu_buf_puts(&b, "; its keys are");
  json_object_foreach((json_t *)(uintptr_t)o, key, v) {
    if (!name && b.len < 300) pu_buf_printf(&b, " %.40s", key);
  }
  if (!name) pu_buf_puts(&b, ": say what they hold with the source's `form` and `columns`");
  pu_err err = pu_fail(e, name ? PU_ERR_USAGE : PU_ERR_FORMAT, "%s: %s", where, b.data ? b.data : "");
  pu_buf_deinit(&b);
  return err;
}

static const pu_chat_form *named(const char *name) {
  for (size_t i = 0; pu_chat_form_all[i]; i++)
    if (strcmp(pu_chat_form_all[i]->name, name) == 0) return pu_chat_form_all[i];
  return NULL;
}

static pu_err choose_form(pu_dialogues *d, const char *where, const json_t *o, pu_error *e) {
  for (size_t i = 0; !d->form && pu_chat_form_all[i]; i++)
    if (pu_chat_form_all[i]->fits(o, &d->how->columns)) d->form = pu_chat_form_all[i];
  return d->form ? PU_OK : no_form(where, NULL, o, e);
}

/* ---- opening ---- */

static pu_err create(const pu_train_source *how, const char *name, pu_dialogues **out, pu_error *e) {
  *out = NULL;
  if (how->form && !named(how->form)) return no_form(name, how->form, NULL, e);
  pu_dialogues *d = calloc(1, sizeof *d);
  if (!d) return no_memory(name, e);
  d->how = how;
  d->form = how->form ? named(how->form) : NULL;
  pu_err err = pu_arena_create((size_t)64 << 20, &d->a, e);
  if (err)
    free(d);
  else
    *out = d;
  return err;
}

pu_err pu_dialogues_open(const char *path, const pu_train_source *how, pu_dialogues **out, pu_error *e) {
  pu_dialogues *d;
  *out = NULL;
  PU_TRY(create(how, path, &d, e));
  pu_err err = find_files(d, path, e);
  if (err)
    pu_dialogues_close(d);
  else
    *out = d;
  return err;
}

pu_err pu_dialogues_parse(const char *name, pu_str bytes, const pu_train_source *how, pu_dialogues **out, pu_error *e) {
  PU_TRY(create(how, name, out, e));
  (*out)->open = true;
  (*out)->objects = (pu_tune_objects){.name = name, .text = bytes};
  return PU_OK;
}

static void close_file(pu_dialogues *d) {
  d->done += (double)d->file.map.len;
  pu_tune_bytes_close(&d->file);
  d->open = false;
}

void pu_dialogues_close(pu_dialogues *d) {
  if (!d) return;
  close_file(d);
  pu_arena_free(d->a);
  free(d);
}

const char *pu_dialogues_form(const pu_dialogues *d) {
  return d->form ? d->form->name : NULL;
}

double pu_dialogues_bytes(const pu_dialogues *d) {
  return d->bytes;
}

double pu_dialogues_done(const pu_dialogues *d) {
  double share = d->objects.text.len ? (double)d->objects.at / (double)d->objects.text.len : 0;
  return d->done + (d->open ? share * (double)d->file.map.len : 0);
}

/* ---- reading ---- */

static pu_err open_file(pu_dialogues *d, pu_error *e) {
  const char *path = d->files[d->at++];
  d->open = true;
  PU_TRY(pu_tune_bytes_open(path, UNPACKED_MAX, &d->file, e));
  d->objects = (pu_tune_objects){.name = path, .text = d->file.text};
  d->form = d->how->form ? named(d->how->form) : NULL;
  return PU_OK;
}

static pu_err read_object(pu_dialogues *d, pu_str text, pu_dialogue *out, pu_error *e) {
  json_t *o;
  PU_TRY(pu_json_parse(out->where, text, &o, e));
  out->messages = json_array();
  out->learn = json_array();
  pu_err err = out->messages && out->learn ? choose_form(d, out->where, o, e) : no_memory(out->where, e);
  if (!err) err = d->form->read(o, &d->how->columns, out, e);
  json_decref(o);
  if (!err && json_array_size(out->messages) == 0) err = pu_fail(e, PU_ERR_FORMAT, "%s: no messages in it", out->where);
  if (err) pu_dialogue_deinit(out);
  return err;
}

pu_err pu_dialogues_next(pu_dialogues *d, pu_dialogue *out, bool *found, pu_error *e) {
  *found = false;
  *out = (pu_dialogue){0};
  for (;;) {
    pu_str object = {0};
    uint64_t line = 0;
    if (!d->open && d->at == d->n) return PU_OK;
    if (!d->open) PU_TRY(open_file(d, e));
    PU_TRY(pu_tune_objects_next(&d->objects, &object, &line, e));
    if (object.ptr) {
      snprintf(out->where, sizeof out->where, "%.520s:%llu", d->objects.name, (unsigned long long)line);
      PU_TRY(read_object(d, object, out, e));
      *found = true;
      return PU_OK;
    }
    close_file(d);
  }
}
