/* The files of the chat page, which are in the program. */
#ifndef PUYU_SERVE_WEB_H
#define PUYU_SERVE_WEB_H

#include "puyu/serve.h"

typedef struct pu_web_file {
  const char *name; /* "app.js", "fonts/KaTeX_Main-Regular.woff2" */
  const char *type;
  const char *etag; /* with its quotes */
  const char *data;
  size_t len, raw_len; /* bytes of data; bytes of the file */
  bool gzip;           /* data is the file as gzip makes it */
} pu_web_file;

extern const pu_web_file pu_web_files[]; /* made by cmake/embed.c from web/ and the libraries; a name of NULL ends it */

/* Answers r with the file of that name, or status 404. */
void pu_web_reply(pu_server *sv, pu_http_request *r, const char *name);

#endif
