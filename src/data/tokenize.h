/* Inside data: what the two ways to shards share. */
#ifndef PUYU_DATA_TOKENIZE_H
#define PUYU_DATA_TOKENIZE_H

#include "puyu/data.h"

pu_err pu_tokenize_check(const pu_tokenize_options *o, pu_error *e) PU_MUST_USE;
/* Does the document belong to the validation split? By a hash of its id, so that all copies go the same way,
 * and a joined one ("ID+3") as its first part. */
bool pu_tokenize_is_valid(double fraction, pu_str id);

#endif
