/* Inside model: what reading and writing safetensors share. */
#ifndef PUYU_MODEL_SAFETENSORS_H
#define PUYU_MODEL_SAFETENSORS_H

#include "puyu/model.h"

enum { PU_ST_MAX_HEADER = 64 << 20 };

const char *pu_st_dtype_name(pu_dtype t); /* "BF16"; NULL: the format has no such type */

#endif
