/* Runs while puyu is built: writes a C file that holds files, for the server to hand out.
 *
 *   puyu_embed OUT NAME=PATH …
 *
 * The table `pu_web_files` (src/serve/web.h) has a row for each NAME: type by its ending, a hash of its bytes, and the
 * bytes themselves, compressed where that makes them smaller. The same files give the same output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zlib.h>

enum { MOST = 16 << 20 };

static const struct {
  const char *ending, *type;
} types[] = {{".html", "text/html; charset=utf-8"},
             {".css", "text/css; charset=utf-8"},
             {".js", "text/javascript; charset=utf-8"},
             {".svg", "image/svg+xml"},
             {".woff2", "font/woff2"}};

static _Noreturn void die(const char *what, const char *path) {
  fprintf(stderr, "puyu_embed: %s: %s\n", path, what);
  exit(1);
}

static const char *type_of(const char *name) {
  const char *dot = strrchr(name, '.');
  for (size_t i = 0; dot && i < sizeof types / sizeof *types; i++)
    if (strcmp(dot, types[i].ending) == 0) return types[i].type;
  die("its ending is not in the table of types in cmake/embed.c", name);
}

static size_t read_file(const char *path, unsigned char *to) {
  FILE *f = fopen(path, "rb");
  if (!f) die("cannot be read; scripts/install-deps installs what is missing", path);
  size_t n = fread(to, 1, MOST, f);
  if (ferror(f) || n == MOST) die("cannot be read, or is larger than 16 MiB", path);
  fclose(f);
  return n;
}

/* As gzip does, without a name or a time. Returns 0 where it would not be smaller. */
static size_t compress_into(const unsigned char *from, size_t n, unsigned char *to) {
  z_stream z = {.next_in = (unsigned char *)from, .avail_in = (uInt)n, .next_out = to, .avail_out = MOST};
  if (deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY) != Z_OK) return 0;
  int end = deflate(&z, Z_FINISH);
  size_t made = z.total_out;
  deflateEnd(&z);
  return end == Z_STREAM_END && made < n ? made : 0;
}

/* As strings, which compilers read much faster than lists of numbers. */
static void put_bytes(FILE *out, const unsigned char *p, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (i % 32 == 0) fputs(i ? "\"\n    \"" : "\n    \"", out);
    fprintf(out, "\\%03o", p[i]);
  }
  fputs(n ? "\"" : " \"\"", out);
}

static void put_file(FILE *out, const char *name, const char *path, unsigned char *raw, unsigned char *packed) {
  size_t n = read_file(path, raw), m = compress_into(raw, n, packed);
  unsigned long long hash = XXH3_64bits(raw, n);
  fprintf(out,
          "  {.name = \"%s\", .type = \"%s\", .etag = \"\\\"%016llx\\\"\", .raw_len = %zu, .len = %zu, .gzip = %d,",
          name, type_of(name), hash, n, m ? m : n, m != 0);
  fputs("\n   .data =", out);
  put_bytes(out, m ? packed : raw, m ? m : n);
  fputs("},\n", out);
}

int main(int argc, char **argv) {
  if (argc < 2) die("usage: puyu_embed OUT NAME=PATH …", "arguments");
  FILE *out = fopen(argv[1], "w");
  unsigned char *raw = malloc(MOST), *packed = malloc(MOST);
  if (!out || !raw || !packed) die("cannot be written", argv[1]);
  fputs(
      "/* Made by puyu_embed: do not edit. */\n#include \"src/serve/web.h\"\n\nconst pu_web_file pu_web_files[] = {\n",
      out);
  for (int i = 2; i < argc; i++) {
    char *equals = strchr(argv[i], '=');
    if (!equals) die("is not NAME=PATH", argv[i]);
    *equals = 0;
    put_file(out, argv[i], equals + 1, raw, packed);
  }
  fputs("  {0}};\n", out);
  free(raw);
  free(packed);
  if (fclose(out)) die("cannot be written", argv[1]);
  return 0;
}
