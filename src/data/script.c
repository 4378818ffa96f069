#include "src/data/script.h"

#include "puyu/base.h"

/* Sorted. */
static const struct {
  uint32_t lo, hi;
  pu_script is;
} ranges[] = {
    {0x0080, 0x009F, PU_SCRIPT_SYMBOL},        {0x00A0, 0x00A0, PU_SCRIPT_SPACE},
    {0x00A1, 0x00A9, PU_SCRIPT_SYMBOL},        {0x00AB, 0x00B4, PU_SCRIPT_SYMBOL},
    {0x00B6, 0x00B9, PU_SCRIPT_SYMBOL},        {0x00BB, 0x00BF, PU_SCRIPT_SYMBOL},
    {0x00D7, 0x00D7, PU_SCRIPT_SYMBOL},        {0x00F7, 0x00F7, PU_SCRIPT_SYMBOL},
    {0x0E00, 0x109F, PU_SCRIPT_UNSPACED},      {0x1680, 0x1680, PU_SCRIPT_SPACE},
    {0x1780, 0x17FF, PU_SCRIPT_UNSPACED},      {0x2000, 0x200A, PU_SCRIPT_SPACE},
    {0x200B, 0x200F, PU_SCRIPT_SYMBOL},        {0x2010, 0x2027, PU_SCRIPT_MARK},
    {0x2028, 0x2029, PU_SCRIPT_SPACE},         {0x202A, 0x202E, PU_SCRIPT_SYMBOL},
    {0x202F, 0x202F, PU_SCRIPT_SPACE},         {0x2030, 0x205E, PU_SCRIPT_SYMBOL},
    {0x205F, 0x205F, PU_SCRIPT_SPACE},         {0x2060, 0x2BFF, PU_SCRIPT_SYMBOL},
    {0x3000, 0x3000, PU_SCRIPT_SPACE},         {0x3001, 0x3004, PU_SCRIPT_UNSPACED_MARK},
    {0x3005, 0x3007, PU_SCRIPT_UNSPACED},      {0x3008, 0x303F, PU_SCRIPT_UNSPACED_MARK},
    {0x3040, 0x312F, PU_SCRIPT_UNSPACED},      {0x31A0, 0x31FF, PU_SCRIPT_UNSPACED},
    {0x3200, 0x33FF, PU_SCRIPT_SYMBOL},        {0x3400, 0x4DBF, PU_SCRIPT_UNSPACED},
    {0x4E00, 0x9FFF, PU_SCRIPT_UNSPACED},      {0xE000, 0xF8FF, PU_SCRIPT_SYMBOL},
    {0xF900, 0xFAFF, PU_SCRIPT_UNSPACED},      {0xFE30, 0xFE4F, PU_SCRIPT_UNSPACED_MARK},
    {0xFF01, 0xFF0F, PU_SCRIPT_UNSPACED_MARK}, {0xFF1A, 0xFF20, PU_SCRIPT_UNSPACED_MARK},
    {0xFF3B, 0xFF40, PU_SCRIPT_UNSPACED_MARK}, {0xFF5B, 0xFF65, PU_SCRIPT_UNSPACED_MARK},
    {0xFF66, 0xFF9F, PU_SCRIPT_UNSPACED},      {0xFFE0, 0xFFFF, PU_SCRIPT_SYMBOL},
    {0x1F000, 0x1FAFF, PU_SCRIPT_SYMBOL},      {0x20000, 0x3FFFF, PU_SCRIPT_UNSPACED},
};

pu_script pu_script_find(uint32_t cp) {
  size_t lo = 0, hi = PU_COUNT(ranges);
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (ranges[mid].hi < cp)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo < PU_COUNT(ranges) && cp >= ranges[lo].lo ? ranges[lo].is : PU_SCRIPT_LETTER;
}
