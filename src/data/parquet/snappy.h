/* Inside data: Snappy's raw format. Source: github.com/google/snappy, format_description.txt. */
#ifndef PUYU_DATA_PARQUET_SNAPPY_H
#define PUYU_DATA_PARQUET_SNAPPY_H

#include "puyu/base.h"

/* Unpacks into out[len]; false: broken, or not of that length. */
bool pu_snappy_unpack(pu_str packed, char *out, size_t len);

#endif
