/* Inside data: the files of sources, cut into units of work. */
#ifndef PUYU_DATA_SOURCES_H
#define PUYU_DATA_SOURCES_H

#include "src/data/reader.h"

/* Files of at most this many bytes together, or a range of one that is larger, make a unit. */
#define PU_UNIT_BYTES ((uint64_t)64 << 20)
enum { PU_UNIT_FILES = 4096 };

typedef struct pu_source_file {
  const char *path;
  const char *name;       /* in ids: below the folder that all paths of the source are in */
  const char *repository; /* in ids, where it is not the first folder of the name; NULL: it is, or there is none */
  uint64_t bytes;
  const char *why; /* it cannot be read: its unit records that, and reads the others; NULL: it can */
} pu_source_file;

typedef struct pu_source_unit {
  const char *name; /* "SOURCE-00012" */
  size_t source;
  size_t file, n_files; /* of the source's files */
  uint64_t begin, end;  /* of the one file; both 0: all of it */
  uint64_t bytes;
} pu_source_unit;

typedef struct pu_source_units {
  pu_arena *arena;
  pu_source_file **files; /* [sources] */
  size_t *n_files;        /* [sources] */
  pu_source_unit *v;
  size_t n, cap;
} pu_source_units;

/* Every file of every source, in the order of their names below each path. Names are relative to the source's folder:
 * to the one that it names, or, where it names files or several paths, to the last one that all of them are in; so no
 * two files share a name, and no name says where a corpus lies. A repository is a folder that holds .git, else the
 * first one below a path. What stands in a folder and cannot be read (a link that leads nowhere or back, no permission)
 * is one of the files, with the reason; what a path names has to be there. */
pu_err pu_source_units_make(const pu_source *sources, size_t n, pu_source_units *out, pu_error *e) PU_MUST_USE;
void pu_source_units_deinit(pu_source_units *u); /* of all zeros: fine */
/* The read options of a source. */
pu_read_options pu_source_read(const pu_source *s, pu_skips skips);

#endif
