/* Any bytes as the body of a refusal: a part of one line, in whatever room there is. */
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const size_t rooms[] = {1, 20, 60, PU_API_WHY};
  static const int statuses[] = {0, 401, 500};
  for (size_t i = 0; i < PU_COUNT(rooms) * PU_COUNT(statuses); i++) {
    size_t room = rooms[i / PU_COUNT(statuses)];
    char *why = malloc(room); /* of its own, so that a byte more is seen */
    if (!why) abort();
    pu_api_error(statuses[i % PU_COUNT(statuses)], pu_str_of((const char *)data, size), why, room);
    if (strlen(why) >= room) abort();
    for (const char *c = why; *c; c++)
      if ((unsigned char)*c < 0x20 || *c == 0x7f) abort();
    free(why);
  }
  return 0;
}
