/* base: what every other module stands on: errors, arenas, growable bytes, hashing, random numbers, files, threads,
 * JSON and YAML with caps, option tables, log and progress.
 *
 * Errors.   Every function that can fail returns pu_err and says why in the caller's pu_error. Nothing here exits or
 *           prints, except pu_log and pu_progress, which write to standard error.
 * Threads.  Unless a comment says otherwise, an object is used by one thread at a time; different objects are
 *           independent.
 * Strings.  `const char *` ends with NUL and is UTF-8; pu_str is a view that may hold any byte and owns nothing. */
#ifndef PUYU_BASE_H
#define PUYU_BASE_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define PU_MUST_USE      __attribute__((warn_unused_result))
#define PU_PRINTF(f, a)  __attribute__((format(printf, f, a)))
#define PU_COUNT(array)  (sizeof(array) / sizeof((array)[0]))
#define PU_MIN(a, b)     ((a) < (b) ? (a) : (b))
#define PU_MAX(a, b)     ((a) > (b) ? (a) : (b))

/* ---- errors ------------------------------------------------------------------------------------------------- */

typedef enum pu_err {
  PU_OK = 0,
  PU_ERR_USAGE,       /* the caller asked for something that makes no sense: exit status 2 */
  PU_ERR_IO,          /* the operating system said no */
  PU_ERR_FORMAT,      /* a file or message is not what it claims to be */
  PU_ERR_NOMEM,       /* memory, or an arena's or buffer's hard maximum, is spent */
  PU_ERR_SHAPE,       /* tensors that do not fit each other */
  PU_ERR_UNSUPPORTED, /* understood, but not something puyu does */
  PU_ERR_STOPPED,     /* SIGINT or SIGTERM, or a callback asked to stop */
  PU_ERR_INTERNAL     /* a broken invariant: a bug in puyu */
} pu_err;

/* Where the message goes: one line, without a newline, naming the file, the place and the mend. */
typedef struct pu_error {
  pu_err code;
  char msg[600];
} pu_error;

/* Writes the message (e may be NULL) and returns code, so that a failure is one line: return pu_fail(e, …). */
pu_err pu_fail(pu_error *e, pu_err code, const char *fmt, ...) PU_PRINTF(3, 4);
/* Puts "prefix: " before the message already in e, for callers that know more about where it happened. */
pu_err pu_fail_in(pu_error *e, pu_err code, const char *prefix_fmt, ...) PU_PRINTF(3, 4);

#define PU_TRY(call)                                                                                                   \
  do {                                                                                                                 \
    pu_err pu_try_ = (call);                                                                                           \
    if (pu_try_ != PU_OK) return pu_try_;                                                                              \
  } while (0)

/* Checked size arithmetic: true when the result does not fit (then *out is untouched). */
static inline bool pu_mul_overflows(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_mul_overflow(a, b, &r)) return true;
  *out = r;
  return false;
}
static inline bool pu_add_overflows(size_t a, size_t b, size_t *out) {
  size_t r;
  if (__builtin_add_overflow(a, b, &r)) return true;
  *out = r;
  return false;
}

/* ---- arenas: a lifetime -------------------------------------------------------------------------------------- */

/* One contiguous reservation of address space, filled from the bottom; memory is touched only when used. Allocation is
 * a pointer bump; everything is given back at once by reset, release or free. Under ASan unused bytes are poisoned. */
typedef struct pu_arena pu_arena;

pu_err pu_arena_create(size_t max_bytes, pu_arena **out, pu_error *e) PU_MUST_USE;
/* Over memory owned by someone else (a device's, say: the arena never reads or writes it). */
pu_err pu_arena_wrap(void *memory, size_t bytes, pu_arena **out, pu_error *e) PU_MUST_USE;
void pu_arena_free(pu_arena *a);                      /* NULL is fine */
void *pu_arena_alloc(pu_arena *a, size_t bytes);      /* 64-byte aligned, not cleared; NULL when the maximum is spent */
void *pu_arena_zalloc(pu_arena *a, size_t bytes);     /* cleared; host memory only */
char *pu_arena_strdup(pu_arena *a, const char *s);    /* NULL when spent */
char *pu_arena_strndup(pu_arena *a, const char *s, size_t len);
char *pu_arena_printf(pu_arena *a, const char *fmt, ...) PU_PRINTF(2, 3);
size_t pu_arena_mark(const pu_arena *a);              /* how much is in use: give it to release */
void pu_arena_release(pu_arena *a, size_t mark);      /* back to that point */
void pu_arena_reset(pu_arena *a);
/* The same from the other end downwards, with marks of its own: for what goes while things at the bottom stay. */
void *pu_arena_alloc_end(pu_arena *a, size_t bytes);
size_t pu_arena_mark_end(const pu_arena *a);
void pu_arena_release_end(pu_arena *a, size_t mark);
bool pu_arena_at_end(const pu_arena *a, const void *p); /* lies p in what is in use at the end? */
size_t pu_arena_peak(const pu_arena *a);              /* the most that was ever in use, both ends together */
size_t pu_arena_max(const pu_arena *a);

/* ---- bytes --------------------------------------------------------------------------------------------------- */

typedef struct pu_str {
  const char *ptr;
  size_t len;
} pu_str;

static inline pu_str pu_str_of(const char *ptr, size_t len) {
  return (pu_str){ptr, len};
}
pu_str pu_str_c(const char *s); /* view of a NUL-terminated string */
bool pu_str_eq(pu_str a, pu_str b);
bool pu_str_ends(pu_str s, const char *end);
size_t pu_str_mark(pu_str s); /* bytes of the byte order mark of UTF-8 that it begins with: 3 or 0 */
bool pu_ends_with(const char *s, const char *end);

/* Growable bytes with a hard maximum; data always ends with a NUL that len does not count. A buffer whose append failed
 * stays as it was and remembers: check `failed` once after many appends. */
typedef struct pu_buf {
  char *data;
  size_t len, cap, max;
  bool failed;
} pu_buf;

#define PU_BUF_MAX ((size_t)1 << 32)
void pu_buf_init(pu_buf *b, size_t max); /* allocates nothing yet */
void pu_buf_deinit(pu_buf *b);
void pu_buf_clear(pu_buf *b);            /* keeps the memory */
bool pu_buf_reserve(pu_buf *b, size_t more);
bool pu_buf_append(pu_buf *b, const void *data, size_t len);
bool pu_buf_puts(pu_buf *b, const char *s);
bool pu_buf_putc(pu_buf *b, char c);
bool pu_buf_printf(pu_buf *b, const char *fmt, ...) PU_PRINTF(2, 3);

/* ---- numbers: hashing, random numbers, floats as text ------------------------------------------------------------ */

uint64_t pu_hash64(const void *data, size_t len, uint64_t seed); /* XXH3, 64 bit */

/* A value that depends on nothing but its three arguments (splitmix64 finaliser over them): sample order, initial
 * weights and dropout are functions of place, not of history. */
uint64_t pu_random_at(uint64_t seed, uint64_t stream, uint64_t index);

/* xoshiro256**: a sequence, for samplers and generators. State is plain data and may be saved. */
typedef struct pu_rng {
  uint64_t s[4];
} pu_rng;
void pu_rng_seed(pu_rng *r, uint64_t seed);
uint64_t pu_rng_next(pu_rng *r);
uint64_t pu_rng_below(pu_rng *r, uint64_t n); /* uniform in [0, n), without bias; n > 0 */
double pu_rng_uniform(pu_rng *r);             /* [0, 1), 53 bits */
double pu_rng_normal(pu_rng *r);              /* mean 0, deviation 1 */

/* The shortest text that reads back to the same bits; "null" for NaN and infinities (JSON has none).
 * dst holds at least 32 bytes; returns the length. */
int pu_format_double(char *dst, double v);
int pu_format_float(char *dst, float v);
/* For people, 16 bytes with the NUL; both return dst. 1234567: "1.23M". 3725 seconds: "1:02:05", 65: "1:05". */
const char *pu_short_number(char dst[16], double v);
const char *pu_short_time(char dst[16], double seconds);

double pu_now(void); /* seconds on the monotonic clock */

/* ---- memory ---------------------------------------------------------------------------------------------------- */

/* Anonymous memory of this process now (files that are mapped are the kernel's to drop); 0: unknown. */
size_t pu_memory_used(void);
/* What may still be taken: free memory, or what the control group leaves; 0: unknown. */
size_t pu_memory_free(void);
size_t pu_memory_all(void);                              /* the machine's; 0: unknown */
const char *pu_cpu_name(char *text, size_t room);        /* "AMD EPYC 9654 96-Core Processor", "unknown"; = text */
const char *pu_bytes_text(size_t bytes, char text[24]); /* "1.5 GiB" */

/* ---- files --------------------------------------------------------------------------------------------------- */

bool pu_path_exists(const char *path);
bool pu_path_is_dir(const char *path);
char *pu_path_join(pu_arena *a, const char *dir, const char *name); /* NULL when the arena is spent */
pu_err pu_mkdirs(const char *path, pu_error *e) PU_MUST_USE;        /* parents too; existing is fine */
pu_err pu_remove_tree(const char *path, pu_error *e) PU_MUST_USE;   /* a missing path is fine */
/* Names in a folder, sorted by bytes, without . and .. */
pu_err pu_dir_list(pu_arena *a, const char *path, char ***names, size_t *n, pu_error *e) PU_MUST_USE;

/* The whole file, refused above max bytes. out is an initialised buffer; what it held is dropped. */
pu_err pu_file_read(const char *path, size_t max, pu_buf *out, pu_error *e) PU_MUST_USE;
/* Writes path.tmp, fsyncs, renames over path, fsyncs the folder: the old file or the new, never half of one. */
pu_err pu_file_write(const char *path, const void *data, size_t len, pu_error *e) PU_MUST_USE;
/* The same in pieces, for what is too large to be held. end takes over the writer: with PU_OK the file gets its name,
 * with any other err (which it gives back) nothing is left behind. */
typedef struct pu_writer pu_writer;
pu_err pu_writer_begin(const char *path, pu_writer **out, pu_error *e) PU_MUST_USE;
pu_err pu_writer_put(pu_writer *w, const void *data, size_t len, pu_error *e) PU_MUST_USE;
pu_err pu_writer_end(pu_writer *w, pu_err err, pu_error *e) PU_MUST_USE;
pu_err pu_fsync_dir(const char *dir, pu_error *e) PU_MUST_USE;

/* A file mapped read-only. A file of no bytes maps to data NULL, len 0. */
typedef struct pu_map {
  const uint8_t *data;
  size_t len;
} pu_map;
pu_err pu_map_open(const char *path, pu_map *out, pu_error *e) PU_MUST_USE;
void pu_map_close(pu_map *m);

/* A folder that one process at a time works in, made where it is missing: held by an advisory lock (flock) on the file
 * `lock` in it, until close or exit. PU_ERR_IO names the process that holds it. Close (NULL is fine) takes away again
 * what open made, folders above too, where nothing else was put into the folder: work that never began leaves no trace. */
typedef struct pu_claim pu_claim;
pu_err pu_claim_open(const char *dir, const char *lock, pu_claim **out, pu_error *e) PU_MUST_USE;
void pu_claim_close(pu_claim *c);

/* ---- threads ------------------------------------------------------------------------------------------------- */

/* A fixed set of threads that run one loop at a time. The caller is worker 0 and works too. */
typedef struct pu_pool pu_pool;
/* Handles items [begin, end); worker is in [0, pu_pool_size). */
typedef void (*pu_pool_fn)(void *arg, int64_t begin, int64_t end, int worker);

int pu_cpu_count(void); /* processors this process may use: its affinity, and its container's share of time */
pu_err pu_pool_create(int threads, pu_pool **out, pu_error *e) PU_MUST_USE; /* 0: pu_cpu_count() */
void pu_pool_free(pu_pool *p);
int pu_pool_size(const pu_pool *p);
/* Splits [0, n) into chunks of `grain` items that idle workers take in turn; returns when all are done. Which worker
 * takes which chunk varies; the chunks do not, so results that depend on the chunk alone are reproducible.
 * Runs inline where n <= grain or the pool has one thread (NULL: the caller alone). Workers spin briefly before they sleep, so that the many
 * short loops of a forward pass do not pay a wake-up each. Not reentrant: fn must not call pu_pool_run on p. */
void pu_pool_run(pu_pool *p, int64_t n, int64_t grain, pu_pool_fn fn, void *arg);

/* Set by SIGINT/SIGTERM once pu_signals_catch was called; a second signal ends the process. */
void pu_signals_catch(void);
bool pu_signals_stop(void);
/* pu_signals_catch, and a stop ends writers with PU_ERR_STOPPED, too: for commands whose files are worth nothing unless
 * they are whole (training is none of them: after a stop it writes its last checkpoint). */
void pu_signals_catch_writing(void);
bool pu_signals_stop_writing(void);
void pu_signals_clear(void); /* forget the signal: chat's Ctrl-C stops an answer, not the program */

/* ---- JSON ---------------------------------------------------------------------------------------------------- */

/* Parses a file or bytes of at most max; nesting is limited by jansson (2048). Errors name path, line and column.
 * The caller owns *out: json_decref. Strings may hold NUL: use json_string_length. */
pu_err pu_json_read(const char *path, size_t max, json_t **out, pu_error *e) PU_MUST_USE;
pu_err pu_json_parse(const char *what, pu_str text, json_t **out, pu_error *e) PU_MUST_USE;

/* Typed access to a key of an object. `where` names the object in errors ("config.json"). The _or forms give the
 * default when the key is missing or null; a wrong type is always PU_ERR_FORMAT. */
pu_err pu_json_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *out, const char *where,
                   pu_error *e) PU_MUST_USE;
pu_err pu_json_int_or(const json_t *o, const char *key, int64_t min, int64_t max, int64_t dflt, int64_t *out,
                      const char *where, pu_error *e) PU_MUST_USE;
pu_err pu_json_num_or(const json_t *o, const char *key, double dflt, double *out, const char *where, pu_error *e)
    PU_MUST_USE;
pu_err pu_json_bool_or(const json_t *o, const char *key, bool dflt, bool *out, const char *where, pu_error *e)
    PU_MUST_USE;
/* The string lives as long as the object. */
pu_err pu_json_str_or(const json_t *o, const char *key, const char *dflt, const char **out, const char *where,
                      pu_error *e) PU_MUST_USE;

/* Appends s as a JSON string with its quotes; invalid UTF-8 becomes U+FFFD. */
bool pu_buf_json_str(pu_buf *b, pu_str s);
/* Appends text as HTML: the five special characters as entities; invalid UTF-8 and control characters as U+FFFD. */
bool pu_buf_html(pu_buf *b, pu_str text);
/* The frame of a report, one HTML file without scripts or outside resources: its head, style sheet (classes tiles, charts,
 * sample, sub, bars, …: src/base/page.c) and heading; a figure in a <div class=tiles>, both texts already HTML; its end. */
void pu_page_begin(pu_buf *b, pu_str title);
void pu_page_tile(pu_buf *b, const char *value, const char *label);
void pu_page_end(pu_buf *b, const char *command);

/* ---- options: one table describes each option once ---------------------------------------------------------------- */

typedef enum pu_option_type {
  PU_OPT_BOOL,   /* bool */
  PU_OPT_INT,    /* int64_t, in [min, max] */
  PU_OPT_FLOAT,  /* double, in [min, max] */
  PU_OPT_STR,    /* const char *, copied to the arena; NULL when absent without a default */
  PU_OPT_ENUM,   /* int: index into choices, "a|b|c" */
  PU_OPT_FLOATS, /* pu_floats: [a, b] in YAML, a,b on the command line */
  PU_OPT_STRS,   /* pu_strs: a list; on the command line the flag repeats */
  PU_OPT_LIST,   /* pu_list: a YAML list of mappings, each read by `sub` into sub_size bytes; no flag */
  PU_OPT_GROUP   /* a heading, `help` where it has one: starts a section in --help; no value */
} pu_option_type;

typedef struct pu_floats {
  double *v;
  size_t n;
} pu_floats;
typedef struct pu_strs {
  const char **v;
  size_t n;
} pu_strs;
typedef struct pu_list {
  void *items; /* n structs of the table's sub_size */
  size_t n;
} pu_list;

/* A row: where the value goes, what it may be, and how it is called in YAML and on the command line. A table ends with
 * a row whose key is NULL. The same rows make --help, the man page, completion, YAML checking and key=value. */
typedef struct pu_option {
  const char *key;     /* "optim.lr": dotted YAML key; also --optim.lr. For commands: "max-tokens" = --max-tokens */
  pu_option_type type;
  size_t offset;       /* offsetof into the caller's struct */
  const char *dflt;    /* text, parsed like input; NULL: zero, false or NULL */
  double min, max;     /* both 0: no bound; max below min: no maximum; max INFINITY: .inf is a value too */
  const char *choices; /* PU_OPT_ENUM */
  const char *also;    /* PU_OPT_ENUM: words that were choices once, "old=a|older=b"; read, not named anywhere */
  const char *meta;    /* what stands for the value in --help: "N", "FILE" */
  const char *help;    /* one line */
  const struct pu_option *sub;
  size_t sub_size;
  char letter;         /* -n; 0 for none */
  bool required;       /* a text or list that is absent, or a number that is 0 where 0 is out of range, is missing */
} pu_option;

/* PU_ROW(options, max_tokens, "max-tokens", INT, .max = 4096, .meta = "N", .help = "…") is the row of that member. */
#define PU_ROW(holder, member, name, kind, ...)                                                                        \
  { .key = (name), .type = PU_OPT_##kind, .offset = offsetof(holder, member), __VA_ARGS__ }

/* Fills out with the defaults. */
pu_err pu_options_default(const pu_option *table, void *out, pu_arena *a, pu_error *e) PU_MUST_USE;
/* Sets one value from text; `where` ("--optim.lr", "train.yaml:12") begins any error. Unknown keys name the nearest
 * known one. A list given as YAML, "[a, b]" or "[{path: x}]", replaces what was there; any other text is appended to
 * a PU_OPT_STRS. */
pu_err pu_options_set(const pu_option *table, void *out, const char *key, const char *value, const char *where,
                      pu_arena *a, pu_error *e) PU_MUST_USE;
/* The same with a value that is never taken for YAML: what stands after a flag, such as --stop "[END]". */
pu_err pu_options_set_text(const pu_option *table, void *out, const char *key, const char *value, const char *where,
                           pu_arena *a, pu_error *e) PU_MUST_USE;
/* Reads YAML (nested mappings become dotted keys). Anchors' expansion, depth (32) and size (1 MiB) are limited; errors
 * name file and line. */
pu_err pu_options_read_yaml(const pu_option *table, void *out, const char *path, pu_arena *a, pu_error *e) PU_MUST_USE;
pu_err pu_options_parse_yaml(const pu_option *table, void *out, const char *name, pu_str text, pu_arena *a, pu_error *e)
    PU_MUST_USE;
/* Writes the values back as YAML that reads to the same values (the run's resolved configuration). */
pu_err pu_options_write_yaml(const pu_option *table, const void *in, pu_buf *out, pu_error *e) PU_MUST_USE;
/* After defaults, file and overrides: are the required ones set? */
pu_err pu_options_check(const pu_option *table, const void *in, const char *where, pu_error *e) PU_MUST_USE;
/* The known key nearest to `key` by edit distance, or NULL when none is near. */
const char *pu_options_nearest(const pu_option *table, const char *key);
/* Insertions, deletions, changes and swaps of neighbours from a to b; SIZE_MAX for texts of 64 bytes or more. */
size_t pu_edit_distance(const char *a, const char *b);

/* ---- log and progress ---------------------------------------------------------------------------------------- */

typedef enum pu_log_level { PU_LOG_DEBUG, PU_LOG_INFO, PU_LOG_WARN, PU_LOG_ERROR } pu_log_level;
void pu_log_set_level(pu_log_level level);
/* One line on standard error; a live progress line is cleared first and drawn again after. Any thread. */
void pu_log(pu_log_level level, const char *fmt, ...) PU_PRINTF(2, 3);
/* What a model made of a prompt, on one line: LABEL PROMPT│TEXT. Line ends are shown as ↵, control characters as spaces;
 * more than 200 bytes of the text are cut at a character. */
void pu_log_sample(const char *label, const char *prompt, pu_str text);

/* A live line on a terminal (redrawn at most ten times a second), a plain line every ten seconds elsewhere, nothing
 * before the first two seconds have passed and at all where the log says warnings only. total 0: unknown. A unit of "%"
 * is a share of the whole and no amount. */
typedef struct pu_progress pu_progress;
pu_progress *pu_progress_open(const char *label, const char *unit, double total); /* never NULL-unsafe: NULL is quiet */
void pu_progress_set(pu_progress *p, double done, const char *note);              /* note: "loss 2.31" or NULL */
void pu_progress_close(pu_progress *p);
/* Draws `line` as the live line itself, for loops that have more to say than a bar (training). NULL clears it. Nothing
 * where standard error is no terminal: such a loop logs its own plain lines. */
void pu_live_line(const char *line);
bool pu_is_terminal(void); /* standard error is one */

#endif
