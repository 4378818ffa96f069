/* Inside data: what kind a character is, as far as words go: one table for documents' views and for filters. */
#ifndef PUYU_DATA_SCRIPT_H
#define PUYU_DATA_SCRIPT_H

#include <stdint.h>

typedef enum pu_script {
  PU_SCRIPT_LETTER, /* of a script that puts spaces between words, or a digit; all that the table does not have */
  PU_SCRIPT_SPACE,
  PU_SCRIPT_MARK,         /* typography of such scripts: “ — … */
  PU_SCRIPT_SYMBOL,       /* × ☺ €, private use, controls */
  PU_SCRIPT_UNSPACED,     /* of a script that is written without spaces: Han, kana, Thai, … */
  PU_SCRIPT_UNSPACED_MARK /* 。 ， 「 */
} pu_script;

pu_script pu_script_find(uint32_t cp);
/* Of a character that is not ASCII. */
static inline pu_script pu_script_of(uint32_t cp) {
  if (cp == 0xFF0C || cp == 0x3001 || cp == 0x3002) return PU_SCRIPT_UNSPACED_MARK; /* most of what comes here */
  return pu_script_find(cp);
}

#endif
