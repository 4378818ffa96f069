/* Inside data: readers, which make documents out of files. A reader is one file in readers/ that defines one pu_reader.
 *
 * What is broken is skipped, counted and recorded with file and offset (pu_input_skip), and reading goes on behind it;
 * a reader returns an error only where nothing more can be read (the operating system said no, memory is spent). Work
 * and memory are bounded by the bytes read: a document has at most PU_DOC_MAX bytes of text, and what comes out of
 * compression and archives, all levels of a file together, is at most PU_INPUT_RATIO times the file's size or
 * PU_INPUT_LEAST, whichever is more; the rest is skipped. */
#ifndef PUYU_DATA_READER_H
#define PUYU_DATA_READER_H

#include "src/data/doc.h"

enum { PU_INPUT_DEPTH = 4, PU_INPUT_RATIO = 200 }; /* archives in archives */
#define PU_INPUT_LEAST ((uint64_t)64 << 20)

/* What was skipped: told once for each. */
typedef struct pu_skips {
  void (*skip)(void *arg, const char *path, uint64_t offset, const char *why);
  void *arg;
  /* Whole parts of archives, of a kind that is not read; NULL: skip is told. */
  void (*pass)(void *arg, const char *path, uint64_t offset, const char *why);
} pu_skips;

typedef struct pu_read_options {
  const char *source;     /* the documents' source; ids without one of their own are "SOURCE/NAME:NUMBER", numbers
                             "SOURCE/NAME#ID" */
  const char *name;       /* of a file in errors; NULL: its path */
  const char *id;         /* NAME of a file in ids; NULL: as in errors */
  const char *repository; /* of the file; NULL: unknown */
  const char *format;     /* a reader's name; NULL or "auto": by the file's name, else by its first bytes */
  const char *key;        /* of the text in JSON, the column in CSV and Parquet; NULL: "content", else "text" */
  const char *charset;    /* NULL: found out */
  pu_split split;         /* what a document is in plain text */
  int html;               /* pu_html_mode */
  bool own;               /* puyu wrote it: whatever comes out of its compression may, and its lines may be as long as
                             a document's are in JSON */
  pu_skips skips;
} pu_read_options;

/* Bytes of a file, of a range of a file, or of a member of an archive, after decompression (.gz, .zst, by magic,
 * several members or frames one after the other). Buffered. */
typedef struct pu_input pu_input;
/* What o points to is borrowed and lives as long as the input. */
/* [begin, end) of the file as it lies on disk; end 0: to its end. A range of a plain file of lines begins with the
 * first line that begins in it and ends with the last that does, whatever bytes that line needs. */
pu_err pu_input_open(const char *path, uint64_t begin, uint64_t end, const pu_read_options *o, pu_input **out,
                     pu_error *e) PU_MUST_USE;
void pu_input_close(pu_input *in);
const char *pu_input_name(const pu_input *in); /* path or NAME, then the members' names: "a.zip/b.html" */
bool pu_input_packed(const pu_input *in);      /* is it compressed? Known once a byte was asked for */
uint64_t pu_input_at(const pu_input *in);      /* bytes given out so far: where errors are */
uint64_t pu_input_raw(const pu_input *in);     /* bytes of the file on disk taken so far: progress */
const pu_read_options *pu_input_options(const pu_input *in);
/* Looks at the next bytes, at least `want` (at most PU_INPUT_PEEK) where there are as many; they stay. */
#define PU_INPUT_PEEK (PU_DOC_MAX + ((size_t)1 << 20))
pu_err pu_input_peek(pu_input *in, size_t want, pu_str *out, pu_error *e) PU_MUST_USE;
void pu_input_take(pu_input *in, size_t n); /* n of those that peek showed are done with */
/* Up to len bytes; *got 0: the end. */
pu_err pu_input_read(pu_input *in, void *data, size_t len, size_t *got, pu_error *e) PU_MUST_USE;
/* The next line without its end (\n or \r\n), in a buffer that lives until the next call; *found false: the end. A line
 * of more than PU_DOC_MAX (of own files PU_OWN_LINE_MAX) is skipped and recorded. Each counts as one of the number
 * below. */
#define PU_OWN_LINE_MAX (7 * PU_DOC_MAX) /* JSON writes six bytes for some, and there are title, id, … */
pu_err pu_input_line(pu_input *in, pu_str *line, bool *found, pu_error *e) PU_MUST_USE;
/* The rest, at most max bytes (up to PU_DOC_MAX), in the input's buffer until the next call; more: *cut is set and the
 * rest is passed over. */
pu_err pu_input_rest(pu_input *in, size_t max, pu_str *out, bool *cut, pu_error *e) PU_MUST_USE;
void pu_input_skip(pu_input *in, uint64_t offset, const char *why); /* broken, or too much */
void pu_input_pass(pu_input *in, uint64_t offset, const char *why); /* whole, and of no kind that is read */
/* Which line, item, record or member it is at, from 1: what stands in ids. */
uint64_t pu_input_number(const pu_input *in);
void pu_input_set_number(pu_input *in, uint64_t number);
/* For readers of text, before anything is taken: finds out the charset (by the options, marks and the first bytes) and
 * makes all that follows UTF-8, without a mark. Where the first bytes are ASCII, the charset stays open, and each
 * document's own bytes say it (pu_read_text). */
pu_err pu_input_as_text(pu_input *in, pu_error *e) PU_MUST_USE;
/* For readers of archives: may the input be read from another place? Only a plain file as it lies on disk. */
bool pu_input_seekable(const pu_input *in, uint64_t *size);
void pu_input_seek(pu_input *in, uint64_t offset);
/* For readers that unpack by themselves: counts n bytes; returns how many of them the ratio allows. */
size_t pu_input_unpacked(pu_input *in, size_t n);
bool pu_input_full(const pu_input *in); /* nothing more may come out of it: told already */

typedef struct pu_reader {
  const char *name;    /* "warc": what a source's format says */
  const char *endings; /* ".warc .arc": of file names, without .gz and .zst; lower case */
  /* Is a document a line in a file that begins so (up to 64 KiB)? Then it may be read in ranges. NULL: never. */
  bool (*lines)(const pu_read_options *o, pu_str head);
  bool binary;                /* its files need not be text, also where they do not look like it */
  bool archive;               /* has members, which are read by readers of their own */
  bool (*looks)(pu_str head); /* do the first bytes (up to 64 KiB) look like it? NULL: only by name */
  size_t state_size;          /* zeroed before open */
  pu_err (*open)(void *state, pu_input *in, pu_error *e); /* NULL: nothing to open */
  /* The next document into a cleared `out`. What has no text is passed over. */
  pu_err (*next)(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e);
  void (*close)(void *state); /* NULL: nothing to free. Called once after open, failed or not */
} pu_reader;
extern const pu_reader *const pu_reader_all[];

/* The reader of the input, by its options, its name, or its first bytes; text where nothing else fits; NULL: it is
 * known to hold nothing to read (an image, a program) and is to be passed over and recorded. */
pu_err pu_reader_find(pu_input *in, const pu_reader **out, pu_error *e) PU_MUST_USE;

/* May the file be read in ranges, of which each gives its own documents? */
pu_err pu_file_in_ranges(const char *path, const pu_read_options *o, bool *out, pu_error *e) PU_MUST_USE;

/* Documents of one input by whatever reader it takes. */
typedef struct pu_reading pu_reading;
pu_err pu_reading_open(pu_input *in, pu_reading **out,
                       pu_error *e) PU_MUST_USE; /* takes over the input, also when it fails */
pu_err pu_reading_next(pu_reading *r, pu_doc *out, bool *found, pu_error *e) PU_MUST_USE;
void pu_reading_close(pu_reading *r);

/* For readers of archives: a member, read through `read` (up to len bytes; *got 0: its end), as an input of its own
 * below `parent`. */
typedef pu_err (*pu_member_read)(void *arg, void *data, size_t len, size_t *got, pu_error *e);
pu_err pu_input_member(pu_input *parent, const char *name, pu_member_read read, void *arg, pu_input **out,
                       pu_error *e) PU_MUST_USE;
int pu_input_depth(const pu_input *in); /* 0: a file; below PU_INPUT_DEPTH it may have members */
/* All documents of all members, each by the reader that it wants. begin goes on to the next member that is to be read
 * and gives its name; *more false: there is none. */
typedef struct pu_members {
  pu_err (*begin)(void *arg, char **name, bool *more, pu_error *e);
  pu_member_read read;
  void *arg;
  pu_reading *now; /* NULL: between members */
} pu_members;
pu_err pu_members_next(pu_members *m, pu_input *in, pu_doc *out, bool *found, pu_error *e) PU_MUST_USE;
void pu_members_close(pu_members *m);
/* Is the member one that nobody means (a folder, hidden, or what a system leaves in archives)? */
bool pu_member_ignored(const char *name);

/* For readers that have a whole text in memory: put it into the document. Set source and, where it is empty, the id.
 * charset: what a header says; NULL: nothing. */
pu_err pu_doc_place(pu_input *in, pu_doc *out, pu_error *e) PU_MUST_USE; /* source and id alone */
pu_err pu_read_text(pu_input *in, pu_doc *out, pu_str bytes, const char *charset, pu_error *e) PU_MUST_USE;
/* The rest of the input as the text of one document; more than PU_DOC_MAX is skipped. */
pu_err pu_read_rest(pu_input *in, pu_doc *out, bool *found, pu_error *e) PU_MUST_USE;
/* Appends UTF-8 with lines that end with \n; what is none becomes U+FFFD. */
pu_err pu_text_append(pu_str bytes, pu_buf *out, pu_error *e) PU_MUST_USE;
pu_err pu_read_html(pu_input *in, pu_doc *out, pu_str bytes, const char *charset, pu_error *e) PU_MUST_USE;

/* ---- charsets (charset.c) ---- */

/* "UTF-8", "UTF-16LE", "UTF-16BE", "GB18030", "Big5", "Shift_JIS", "EUC-JP", "EUC-KR", "windows-1251", "windows-1252":
 * what the bytes are in, by their marks, validity and letters' frequencies. hint: what a header or a <meta> says, or
 * NULL: taken where it fits the bytes. */
const char *pu_charset_find(pu_str bytes, const char *hint);
/* The name above of what a label means ("gb2312": "GB18030"), also of charsets that are only taken by hint; NULL: none
 * that is known. */
const char *pu_charset_known(const char *label);
bool pu_charset_ascii(pu_str bytes);
/* Appends bytes as UTF-8; what is none becomes U+FFFD, counted in *bad (may be NULL). */
pu_err pu_charset_convert(pu_str bytes, const char *charset, pu_buf *out, size_t *bad, pu_error *e) PU_MUST_USE;
/* The same in pieces: takes *len of the bytes, gives *made bytes (cap is at least 8). last: no more will come, so an
 * unfinished character is none. */
typedef struct pu_recoder pu_recoder;
pu_err pu_recoder_open(const char *charset, pu_recoder **out, pu_error *e) PU_MUST_USE;
void pu_recoder_run(pu_recoder *r, const char *bytes, size_t *len, bool last, char *out, size_t cap, size_t *made);
void pu_recoder_close(pu_recoder *r);
/* How many of the bytes are UTF-8, from the first on. */
size_t pu_utf8_prefix(pu_str bytes);

#endif
