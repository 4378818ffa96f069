/* Zip archives: the documents of their members. */
#include "src/data/zip.h"

#include <string.h>

typedef struct zip {
  pu_zip *archive;
  pu_members members;
} zip;

static pu_err zip_open(void *state, pu_input *in, pu_error *e) {
  zip *z = state;
  if (pu_input_depth(in) >= PU_INPUT_DEPTH) {
    pu_input_skip(in, 0, "archives in archives, too many");
    return PU_OK;
  }
  PU_TRY(pu_zip_open(in, &z->archive, e));
  z->members = (pu_members){.begin = pu_zip_next, .read = pu_zip_read, .arg = z->archive};
  return PU_OK;
}

static pu_err zip_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  zip *z = state;
  *found = false;
  return z->archive ? pu_members_next(&z->members, in, out, found, e) : PU_OK;
}

static void zip_close(void *state) {
  zip *z = state;
  pu_members_close(&z->members);
  pu_zip_close(z->archive);
}

static bool zip_looks(pu_str head) {
  static const char epub[] = "mimetypeapplication/epub+zip";
  bool is_epub = head.len >= 30 + sizeof epub - 1 && memcmp(head.ptr + 30, epub, sizeof epub - 1) == 0;
  return pu_zip_looks(head) && !is_epub;
}

const pu_reader pu_reader_zip = {.name = "zip",
                                 .endings = ".zip",
                                 .binary = true,
                                 .archive = true,
                                 .looks = zip_looks,
                                 .state_size = sizeof(zip),
                                 .open = zip_open,
                                 .next = zip_next,
                                 .close = zip_close};
