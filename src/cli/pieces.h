/* Texts of a corpus as pieces of so many tokens: what calibration runs on, and what is held out to measure by. */
#ifndef PUYU_PIECES_H
#define PUYU_PIECES_H

#include "puyu/data.h"
#include "puyu/engine.h"

typedef struct pu_pieces {
  pu_ids ids; /* of all */
  pu_ids_view *v;
  size_t n, cap;
} pu_pieces;

/* Documents as puyu data tokenize reads them (text files whole), each begun with bos where the model was trained so,
 * and cut into pieces of `length` tokens; what is left of a document is a piece too, if it is not very short. At most
 * `most` tokens, from the beginning. */
pu_err pu_pieces_read(const char *path, const char *key, const pu_tokenizer *t, int64_t length, int64_t most,
                      pu_pieces *out, pu_error *e) PU_MUST_USE;
void pu_pieces_deinit(pu_pieces *p); /* of all zeros: fine */

#endif
