/* The named characters of HTML: all of HTML 4.01's (section 24), and those of HTML 5 that pages use. Sorted by bytes.
 */
#include "src/data/html/entities.h"

#include <string.h>

/* `bare`: read without its semicolon too (HTML 5, 13.5). */
// clang-format off
static const struct { char name[12]; uint16_t cp; bool bare; } named[] = {
  {"AElig", 198, true}, {"Aacute", 193, true}, {"Abreve", 258, false}, {"Acirc", 194, true}, {"Agrave", 192, true},
  {"Alpha", 913, false}, {"Amacr", 256, false}, {"Aogon", 260, false}, {"Aring", 197, true}, {"Atilde", 195, true},
  {"Auml", 196, true}, {"Beta", 914, false}, {"Cacute", 262, false}, {"Ccaron", 268, false}, {"Ccedil", 199, true},
  {"Chi", 935, false}, {"Dagger", 8225, false}, {"Dcaron", 270, false}, {"Delta", 916, false}, {"ETH", 208, true},
  {"Eacute", 201, true}, {"Ecaron", 282, false}, {"Ecirc", 202, true}, {"Egrave", 200, true}, {"Emacr", 274, false},
  {"Eogon", 280, false}, {"Epsilon", 917, false}, {"Eta", 919, false}, {"Euml", 203, true}, {"Gamma", 915, false},
  {"Gbreve", 286, false}, {"Iacute", 205, true}, {"Icirc", 206, true}, {"Idot", 304, false}, {"Igrave", 204, true},
  {"Imacr", 298, false}, {"Iota", 921, false}, {"Iuml", 207, true}, {"Kappa", 922, false}, {"Lambda", 923, false},
  {"Lstrok", 321, false}, {"Mu", 924, false}, {"Nacute", 323, false}, {"Ncaron", 327, false}, {"NewLine", 10, false},
  {"Ntilde", 209, true}, {"Nu", 925, false}, {"OElig", 338, false}, {"Oacute", 211, true}, {"Ocirc", 212, true},
  {"Odblac", 336, false}, {"Ograve", 210, true}, {"Omacr", 332, false}, {"Omega", 937, false}, {"Omicron", 927, false},
  {"Oslash", 216, true}, {"Otilde", 213, true}, {"Ouml", 214, true}, {"Phi", 934, false}, {"Pi", 928, false},
  {"Prime", 8243, false}, {"Psi", 936, false}, {"Rcaron", 344, false}, {"Rho", 929, false}, {"Sacute", 346, false},
  {"Scaron", 352, false}, {"Scedil", 350, false}, {"Sigma", 931, false}, {"THORN", 222, true}, {"Tab", 9, false},
  {"Tau", 932, false}, {"Tcaron", 356, false}, {"Tcedil", 354, false}, {"Theta", 920, false}, {"Uacute", 218, true},
  {"Ucirc", 219, true}, {"Udblac", 368, false}, {"Ugrave", 217, true}, {"Umacr", 362, false}, {"Upsilon", 933, false},
  {"Uring", 366, false}, {"Uuml", 220, true}, {"Xi", 926, false}, {"Yacute", 221, true}, {"Yuml", 376, false},
  {"Zacute", 377, false}, {"Zcaron", 381, false}, {"Zdot", 379, false}, {"Zeta", 918, false}, {"aacute", 225, true},
  {"abreve", 259, false}, {"acirc", 226, true}, {"acute", 180, true}, {"aelig", 230, true}, {"agrave", 224, true},
  {"alefsym", 8501, false}, {"alpha", 945, false}, {"amacr", 257, false}, {"amp", 38, true}, {"and", 8743, false},
  {"ang", 8736, false}, {"aogon", 261, false}, {"apos", 39, false}, {"approx", 8776, false}, {"aring", 229, true},
  {"ast", 42, false}, {"asymp", 8776, false}, {"atilde", 227, true}, {"auml", 228, true}, {"bdquo", 8222, false},
  {"beta", 946, false}, {"blacksquare", 9642, false}, {"boxh", 9472, false}, {"brvbar", 166, true},
  {"bsol", 92, false}, {"bull", 8226, false}, {"bullet", 8226, false}, {"cacute", 263, false}, {"cap", 8745, false},
  {"caret", 8257, false}, {"ccaron", 269, false}, {"ccedil", 231, true}, {"cdot", 267, false}, {"cedil", 184, true},
  {"cent", 162, true}, {"check", 10003, false}, {"chi", 967, false}, {"circ", 710, false}, {"clubs", 9827, false},
  {"colon", 58, false}, {"comma", 44, false}, {"commat", 64, false}, {"cong", 8773, false}, {"copy", 169, true},
  {"crarr", 8629, false}, {"cross", 10007, false}, {"ctdot", 8943, false}, {"cup", 8746, false}, {"curren", 164, true},
  {"dArr", 8659, false}, {"dagger", 8224, false}, {"darr", 8595, false}, {"dash", 8208, false}, {"dcaron", 271, false},
  {"deg", 176, true}, {"delta", 948, false}, {"diams", 9830, false}, {"div", 247, false}, {"divide", 247, true},
  {"dollar", 36, false}, {"dtri", 9663, false}, {"eacute", 233, true}, {"ecaron", 283, false}, {"ecirc", 234, true},
  {"egrave", 232, true}, {"ell", 8467, false}, {"emacr", 275, false}, {"empty", 8709, false},
  {"emptyset", 8709, false}, {"emsp", 8195, false}, {"ensp", 8194, false}, {"eogon", 281, false},
  {"epsilon", 949, false}, {"equiv", 8801, false}, {"eta", 951, false}, {"eth", 240, true}, {"euml", 235, true},
  {"euro", 8364, false}, {"excl", 33, false}, {"exist", 8707, false}, {"female", 9792, false}, {"fnof", 402, false},
  {"forall", 8704, false}, {"frac12", 189, true}, {"frac13", 8531, false}, {"frac14", 188, true},
  {"frac15", 8533, false}, {"frac18", 8539, false}, {"frac23", 8532, false}, {"frac34", 190, true},
  {"frac38", 8540, false}, {"frac58", 8541, false}, {"frac78", 8542, false}, {"frasl", 8260, false},
  {"gamma", 947, false}, {"gbreve", 287, false}, {"ge", 8805, false}, {"geq", 8805, false}, {"geqslant", 10878, false},
  {"gg", 8811, false}, {"grave", 96, false}, {"gt", 62, true}, {"hArr", 8660, false}, {"half", 189, false},
  {"harr", 8596, false}, {"hbar", 8463, false}, {"hearts", 9829, false}, {"hellip", 8230, false},
  {"horbar", 8213, false}, {"hyphen", 8208, false}, {"iacute", 237, true}, {"icirc", 238, true}, {"iexcl", 161, true},
  {"iff", 8660, false}, {"igrave", 236, true}, {"imacr", 299, false}, {"image", 8465, false}, {"in", 8712, false},
  {"infin", 8734, false}, {"inodot", 305, false}, {"int", 8747, false}, {"iota", 953, false}, {"iquest", 191, true},
  {"isin", 8712, false}, {"iuml", 239, true}, {"kappa", 954, false}, {"lArr", 8656, false}, {"lambda", 955, false},
  {"lang", 9001, false}, {"laquo", 171, true}, {"larr", 8592, false}, {"lbrace", 123, false}, {"lbrack", 91, false},
  {"lceil", 8968, false}, {"lcub", 123, false}, {"ldquo", 8220, false}, {"ldquor", 8222, false}, {"le", 8804, false},
  {"leq", 8804, false}, {"leqslant", 10877, false}, {"lfloor", 8970, false}, {"ll", 8810, false},
  {"lowast", 8727, false}, {"lowbar", 95, false}, {"loz", 9674, false}, {"lpar", 40, false}, {"lrm", 8206, false},
  {"lsaquo", 8249, false}, {"lsqb", 91, false}, {"lsquo", 8216, false}, {"lstrok", 322, false}, {"lt", 60, true},
  {"macr", 175, true}, {"male", 9794, false}, {"mdash", 8212, false}, {"micro", 181, true}, {"middot", 183, true},
  {"minus", 8722, false}, {"mp", 8723, false}, {"mu", 956, false}, {"nabla", 8711, false}, {"nacute", 324, false},
  {"nbsp", 160, true}, {"ncaron", 328, false}, {"ndash", 8211, false}, {"ne", 8800, false}, {"ni", 8715, false},
  {"not", 172, true}, {"notin", 8713, false}, {"nsub", 8836, false}, {"ntilde", 241, true}, {"nu", 957, false},
  {"num", 35, false}, {"oacute", 243, true}, {"ocirc", 244, true}, {"odblac", 337, false}, {"oelig", 339, false},
  {"ograve", 242, true}, {"oline", 8254, false}, {"omacr", 333, false}, {"omega", 969, false}, {"omicron", 959, false},
  {"oplus", 8853, false}, {"or", 8744, false}, {"ordf", 170, true}, {"ordm", 186, true}, {"oslash", 248, true},
  {"otilde", 245, true}, {"otimes", 8855, false}, {"ouml", 246, true}, {"para", 182, true}, {"part", 8706, false},
  {"percnt", 37, false}, {"period", 46, false}, {"permil", 8240, false}, {"perp", 8869, false}, {"phi", 966, false},
  {"phone", 9742, false}, {"pi", 960, false}, {"piv", 982, false}, {"plus", 43, false}, {"plusmn", 177, true},
  {"pm", 177, false}, {"pound", 163, true}, {"prime", 8242, false}, {"prod", 8719, false}, {"prop", 8733, false},
  {"psi", 968, false}, {"quest", 63, false}, {"quot", 34, true}, {"rArr", 8658, false}, {"radic", 8730, false},
  {"rang", 9002, false}, {"raquo", 187, true}, {"rarr", 8594, false}, {"rbrace", 125, false}, {"rbrack", 93, false},
  {"rcaron", 345, false}, {"rceil", 8969, false}, {"rcub", 125, false}, {"rdquo", 8221, false}, {"real", 8476, false},
  {"reg", 174, true}, {"rfloor", 8971, false}, {"rho", 961, false}, {"rlm", 8207, false}, {"rpar", 41, false},
  {"rsaquo", 8250, false}, {"rsqb", 93, false}, {"rsquo", 8217, false}, {"rsquor", 8217, false},
  {"sacute", 347, false}, {"sbquo", 8218, false}, {"scaron", 353, false}, {"scedil", 351, false},
  {"sdot", 8901, false}, {"sect", 167, true}, {"semi", 59, false}, {"setminus", 8726, false}, {"shy", 173, true},
  {"sigma", 963, false}, {"sigmaf", 962, false}, {"sim", 8764, false}, {"simeq", 8771, false}, {"sol", 47, false},
  {"spades", 9824, false}, {"square", 9633, false}, {"star", 9734, false}, {"starf", 9733, false},
  {"sub", 8834, false}, {"sube", 8838, false}, {"sum", 8721, false}, {"sup", 8835, false}, {"sup1", 185, true},
  {"sup2", 178, true}, {"sup3", 179, true}, {"supe", 8839, false}, {"szlig", 223, true}, {"tau", 964, false},
  {"tcaron", 357, false}, {"tcedil", 355, false}, {"there4", 8756, false}, {"theta", 952, false},
  {"thetasym", 977, false}, {"thickapprox", 8776, false}, {"thinsp", 8201, false}, {"thorn", 254, true},
  {"tilde", 732, false}, {"times", 215, true}, {"trade", 8482, false}, {"uArr", 8657, false}, {"uacute", 250, true},
  {"uarr", 8593, false}, {"ucirc", 251, true}, {"udblac", 369, false}, {"ugrave", 249, true}, {"umacr", 363, false},
  {"uml", 168, true}, {"upsih", 978, false}, {"upsilon", 965, false}, {"uring", 367, false}, {"utri", 9653, false},
  {"uuml", 252, true}, {"varnothing", 8709, false}, {"vellip", 8942, false}, {"verbar", 124, false},
  {"vert", 124, false}, {"weierp", 8472, false}, {"xi", 958, false}, {"yacute", 253, true}, {"yen", 165, true},
  {"yuml", 255, true}, {"zacute", 378, false}, {"zcaron", 382, false}, {"zdot", 380, false}, {"zeta", 950, false},
  {"zwj", 8205, false}, {"zwnj", 8204, false},
};
// clang-format on

static bool alnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static int compare(pu_str name, const char *entry) {
  int c = strncmp(name.ptr, entry, name.len);
  return c ? c : -(int)(entry[name.len] != 0);
}

/* Index in `named`, or -1. */
static int find(pu_str name) {
  if (name.len >= sizeof named[0].name) return -1;
  size_t lo = 0, hi = PU_COUNT(named);
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    int c = compare(name, named[mid].name);
    if (c == 0) return (int)mid;
    if (c < 0)
      hi = mid;
    else
      lo = mid + 1;
  }
  return -1;
}

static uint32_t character(uint32_t n) {
  static const uint16_t windows[32] = {0x20AC, 0x81,   0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021,
                                       0x2C6,  0x2030, 0x160,  0x2039, 0x152,  0x8D,   0x17D,  0x8F,
                                       0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                       0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0x9D,   0x17E,  0x178};
  if (n >= 128 && n < 160) n = windows[n - 128];
  if (n == 0 || n > 0x10FFFF || (n >= 0xD800 && n < 0xE000)) return 0xFFFD;
  if (n < 0x20 || (n >= 0x7F && n < 0xA0)) return ' ';
  return n;
}

static size_t numeric(pu_str s, uint32_t *cp) {
  bool hex = s.len > 2 && (s.ptr[2] == 'x' || s.ptr[2] == 'X');
  size_t i = hex ? 3 : 2, first = i;
  uint32_t n = 0;
  for (; i < s.len; i++) {
    char c = s.ptr[i];
    uint32_t digit = c >= '0' && c <= '9'          ? (uint32_t)(c - '0')
                     : hex && c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                     : hex && c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                   : 16;
    if (digit == 16) break;
    n = PU_MIN(n * (hex ? 16 : 10) + digit, 0x110000u);
  }
  if (i == first) return 0;
  *cp = character(n);
  return i < s.len && s.ptr[i] == ';' ? i + 1 : i;
}

size_t html_entity(pu_str s, uint32_t *cp) {
  if (s.len > 1 && s.ptr[1] == '#') return numeric(s, cp);
  size_t n = 1;
  while (n < s.len && n < sizeof named[0].name && alnum(s.ptr[n])) n++;
  if (n == 1) return 0;
  bool closed = n < s.len && s.ptr[n] == ';';
  int i = find(pu_str_of(s.ptr + 1, n - 1));
  if (i < 0 || (!closed && !named[i].bare)) return 0;
  *cp = named[i].cp;
  return n + closed;
}

void html_decode(pu_buf *b, pu_str s) {
  size_t i = 0;
  while (i < s.len) {
    const char *amp = memchr(s.ptr + i, '&', s.len - i);
    size_t to = amp ? (size_t)(amp - s.ptr) : s.len;
    pu_buf_append(b, s.ptr + i, to - i);
    if (!amp) return;
    uint32_t cp;
    size_t n = html_entity(pu_str_of(amp, s.len - to), &cp);
    if (n)
      pu_utf8_put(b, cp);
    else
      pu_buf_putc(b, '&');
    i = to + (n ? n : 1);
  }
}
