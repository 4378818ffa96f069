/* Inside data: zip archives, by their central directory; stored and deflated members. Not by libarchive, whose decoders
 * of LZMA and PPMd take the memory that a header asks for. Source: PKWARE's APPNOTE.TXT 6.3. */
#ifndef PUYU_DATA_ZIP_H
#define PUYU_DATA_ZIP_H

#include "src/data/reader.h"

typedef struct pu_zip pu_zip;
/* Reads the directory (at most 64 MiB of it). An archive that is no plain file is held in memory, at most 64 MiB. What
 * is no archive is recorded and has no members. */
pu_err pu_zip_open(pu_input *in, pu_zip **out, pu_error *e) PU_MUST_USE;
void pu_zip_close(pu_zip *z);
/* Goes on to the next member that is a file and can be read; its name, in UTF-8, lives until the next call. */
pu_err pu_zip_next(void *zip, char **name, bool *more, pu_error *e) PU_MUST_USE;
/* Goes to the member of that name (in its bytes), where it can be read. In an archive's order this is quick; all
 * searches together end after four million looks. */
pu_err pu_zip_find(pu_zip *z, pu_str name, bool *found, pu_error *e) PU_MUST_USE;
void pu_zip_rewind(pu_zip *z); /* before the first member */
/* Its bytes: a pu_member_read. */
pu_err pu_zip_read(void *zip, void *data, size_t len, size_t *got, pu_error *e) PU_MUST_USE;
bool pu_zip_looks(pu_str head);

#endif
