/* Inside data: Thrift's compact protocol, as Parquet's metadata is in. Source: Apache Thrift,
 * thrift-compact-protocol.md.
 *
 * What is broken sets `bad`, and everything read after that is 0 or empty; nothing is allocated. */
#ifndef PUYU_DATA_PARQUET_THRIFT_H
#define PUYU_DATA_PARQUET_THRIFT_H

#include "puyu/base.h"

enum { PU_THRIFT_DEPTH = 32 };

typedef enum pu_thrift_type {
  PU_THRIFT_STOP,
  PU_THRIFT_TRUE,
  PU_THRIFT_FALSE,
  PU_THRIFT_I8,
  PU_THRIFT_I16,
  PU_THRIFT_I32,
  PU_THRIFT_I64,
  PU_THRIFT_DOUBLE,
  PU_THRIFT_BINARY,
  PU_THRIFT_LIST,
  PU_THRIFT_SET,
  PU_THRIFT_MAP,
  PU_THRIFT_STRUCT
} pu_thrift_type;

typedef struct pu_thrift {
  const uint8_t *at, *end;
  bool bad;
} pu_thrift;

/* Fields of one struct: `id` is 0 before the first. */
typedef struct pu_thrift_field {
  int32_t id;
  pu_thrift_type type;
} pu_thrift_field;

pu_thrift pu_thrift_of(pu_str bytes);
/* The next field's id and type; false: the struct is over. The field's value is to be read or skipped. */
bool pu_thrift_next(pu_thrift *t, pu_thrift_field *f);
int64_t pu_thrift_int(pu_thrift *t, const pu_thrift_field *f); /* of any size; of another type: skipped, and bad */
bool pu_thrift_bool(const pu_thrift_field *f);
pu_str pu_thrift_binary(pu_thrift *t, const pu_thrift_field *f);
/* A list of structs: how many; of another type: skipped, and bad. At most as many as there are bytes left. */
size_t pu_thrift_structs(pu_thrift *t, const pu_thrift_field *f);
bool pu_thrift_is_struct(pu_thrift *t, const pu_thrift_field *f); /* of another type: skipped, and bad */
void pu_thrift_skip(pu_thrift *t, const pu_thrift_field *f);
uint64_t pu_thrift_varint(pu_thrift *t);

#endif
