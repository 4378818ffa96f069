/* Inside data: what an archived answer of a web server holds. */
#ifndef PUYU_DATA_WEB_ANSWER_H
#define PUYU_DATA_WEB_ANSWER_H

#include "src/data/reader.h"

typedef struct pu_web_answer {
  int status;
  pu_str type, charset; /* of Content-Type; empty: none was said */
  pu_str coding;        /* Content-Encoding */
  bool chunked;
  pu_str body; /* as it was sent */
} pu_web_answer;

/* Reads status and headers; false: it is no HTTP answer. Views into the bytes. */
bool pu_web_answer_read(pu_str bytes, pu_web_answer *out);
/* The value of a header in lines "Name: value", without the spaces around it; empty: none. */
pu_str pu_web_header(pu_str lines, const char *name);
/* "text/html; charset=x": both halves. */
void pu_web_type(pu_str value, pu_str *type, pu_str *charset);
/* The body with chunks joined and gzip or deflate undone, in one of the two buffers or where it was; at most
 * PU_DOC_MAX. What breaks off gives what there is; *why: what is wrong with it, or NULL. */
pu_err pu_web_answer_body(pu_input *in, const pu_web_answer *a, pu_buf *joined, pu_buf *unpacked, pu_str *out,
                          const char **why, pu_error *e) PU_MUST_USE;

#endif
