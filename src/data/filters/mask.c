/* Personal data and secrets, found and replaced by a readable placeholder: "[EMAIL]", in Chinese text "[邮箱]".
 *
 * Found is what has a form that hardly anything else has. E-mail addresses. Telephone numbers: Chinese mobile and land
 * lines, North American ones, others from a + on. Chinese identity numbers of 18 places (GB 11643-1999: province, date
 * of birth, check digit of ISO 7064 MOD 11-2) and US social security numbers. Bank cards (ISO/IEC 7812: known leading
 * digits and lengths, Luhn's check digit) and IBANs (ISO 13616, modulo 97). Public IPv4 and IPv6 addresses. Keys and
 * tokens by the prefixes that their makers gave them for this purpose (AWS, GitHub, GitLab, Google, Hugging Face,
 * OpenAI, Slack), JSON Web Tokens (RFC 7519) and blocks of private keys (RFC 7468).
 *
 * A number that is part of a longer one, of a decimal fraction or of a word is none of them. Each kind is counted; with
 * filter.mask off nothing is replaced. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/filter_kit.h"

typedef enum kind { EMAIL, PHONE, ID_NUMBER, CARD, ADDRESS, SECRET, KINDS, NONE = -1 } kind;

static const pu_measure measures[] = {
    [EMAIL] = {"emails", -INFINITY, INFINITY, "e-mail addresses"},
    [PHONE] = {"phones", -INFINITY, INFINITY, "telephone numbers"},
    [ID_NUMBER] = {"id_numbers", -INFINITY, INFINITY, "identity numbers (GB 11643), US social security numbers"},
    [CARD] = {"cards", -INFINITY, INFINITY, "numbers of bank cards (Luhn) and IBANs"},
    [ADDRESS] = {"ip_addresses", -INFINITY, INFINITY, "public IP addresses"},
    [SECRET] = {"keys", -INFINITY, INFINITY, "keys, tokens and blocks of private keys"},
    {0},
};

static const char *const placeholders[KINDS][2] = {
    [EMAIL] = {"[EMAIL]", "[邮箱]"},           [PHONE] = {"[PHONE]", "[电话]"},
    [ID_NUMBER] = {"[ID NUMBER]", "[证件号]"}, [CARD] = {"[CARD NUMBER]", "[卡号]"},
    [ADDRESS] = {"[IP ADDRESS]", "[IP地址]"},  [SECRET] = {"[KEY]", "[密钥]"},
};

/* What was found: from begin to end. */
typedef struct finding {
  kind is;
  size_t begin, end;
} finding;

typedef struct scan {
  pu_str s;
  size_t done;    /* what is before it was written or belongs to a finding */
  size_t key_end; /* the next "-----END" as far as it was looked for; SIZE_MAX: there is none */
  size_t run_end; /* of the run of base64url that was last looked at for a token: none begins inside of it */
} scan;

static const finding nothing = {NONE, 0, 0};

/* ---- bytes ---- */

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
  return (uint8_t)((c | 0x20) - 'a') < 26;
}

static bool is_alnum(char c) {
  return is_digit(c) || is_letter(c);
}

/* The byte at i, or a space outside of the text. */
static char at(pu_str s, size_t i) {
  return i < s.len ? s.ptr[i] : ' ';
}

static bool begins(pu_str s, size_t i, const char *with) {
  size_t n = strlen(with);
  return s.len - i >= n && memcmp(s.ptr + i, with, n) == 0;
}

/* ---- e-mail ---- */

static finding find_email(const scan *c, size_t sign) {
  pu_str s = c->s;
  size_t begin = sign, end = sign + 1, dots = 0, label = 0;
  while (begin > c->done && sign - begin < 64 && (is_alnum(s.ptr[begin - 1]) || strchr("._%+-", s.ptr[begin - 1])) &&
         s.ptr[begin - 1])
    begin--;
  while (begin < sign && !is_alnum(s.ptr[begin])) begin++;
  while (end - sign < 254 && (is_alnum(at(s, end)) ||
                              ((at(s, end) == '.' || at(s, end) == '-') && label > 0 && is_alnum(at(s, end + 1))))) {
    bool dot = s.ptr[end] == '.';
    dots += dot;
    label = dot ? 0 : label + 1;
    end++;
  }
  if (begin == sign || dots == 0 || label < 2) return nothing;
  for (size_t k = end - label; k < end; k++)
    if (!is_letter(s.ptr[k]) && s.ptr[k] != '-') return nothing; /* a top-level domain holds no digits */
  return (finding){EMAIL, begin, end};
}

/* ---- numbers ---- */

enum { GROUPS = 8, DIGITS = 24 };

/* Groups of digits with single separators between them, as far as they are a number's. */
typedef struct number {
  char digits[DIGITS + 1];
  int n; /* digits */
  int groups;
  int len[GROUPS];    /* of each group */
  int sum[GROUPS];    /* digits up to its end */
  size_t end[GROUPS]; /* where it ends in the text */
  char sep[GROUPS];   /* behind it; 0: none */
} number;

static void read_number(pu_str s, size_t i, number *x) {
  *x = (number){0};
  while (x->groups < GROUPS) {
    int from = x->n;
    while (is_digit(at(s, i)) && x->n < DIGITS) x->digits[x->n++] = s.ptr[i++];
    int g = x->groups++;
    x->len[g] = x->n - from;
    x->sum[g] = x->n;
    x->end[g] = i;
    char sep = at(s, i);
    if (is_digit(sep) || !strchr(" -.", sep) || !sep || !is_digit(at(s, i + 1)) || x->n == DIGITS) return;
    x->sep[g] = sep;
    i++;
  }
}

/* May a number end behind group g? */
static bool may_end(pu_str s, const number *x, int g) {
  char next = at(s, x->end[g]);
  return !is_alnum(next) && next != '_' && !((next == '.' || next == '-') && is_digit(at(s, x->end[g] + 1)));
}

/* Do the groups begin with these lengths ("3-4-4"), joined by one of the separators? */
static bool has_groups(const number *x, int first, const char *lengths, const char *seps) {
  int n = (int)strlen(lengths);
  if (x->groups < first + n) return false;
  for (int g = 0; g < n; g++) {
    if (x->len[first + g] != lengths[g] - '0') return false;
    if (g > 0 && (!x->sep[first + g - 1] || !strchr(seps, x->sep[first + g - 1]))) return false;
    if (g > 1 && x->sep[first + g - 1] != x->sep[first]) return false;
  }
  return true;
}

static int two(const char *p) {
  return (p[0] - '0') * 10 + (p[1] - '0');
}

static bool is_date(const char *p) { /* YYYYMMDD */
  static const uint8_t days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  int year = two(p) * 100 + two(p + 2), month = two(p + 4), day = two(p + 6);
  return year >= 1880 && year <= 2099 && month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1];
}

static bool find_id(pu_str s, const number *x, size_t *end) {
  static const uint8_t weights[17] = {7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2};
  int sum = 0, province = two(x->digits);
  bool letter = x->len[0] == 17 && (at(s, x->end[0]) | 0x20) == 'x';
  if (!letter && x->len[0] != 18) return false;
  if (is_alnum(at(s, x->end[0] + letter)) || province < 11 || province > 83 || !is_date(x->digits + 6)) return false;
  for (int k = 0; k < 17; k++) sum += weights[k] * (x->digits[k] - '0');
  char check = "10X98765432"[sum % 11];
  *end = x->end[0] + letter;
  return letter ? check == 'X' : check == x->digits[17];
}

static bool find_social(pu_str s, const number *x, size_t *end) {
  if (!has_groups(x, 0, "324", "-") || !may_end(s, x, 2)) return false;
  int area = two(x->digits) * 10 + x->digits[2] - '0';
  *end = x->end[2];
  return area > 0 && area != 666 && area < 900 && two(x->digits + 3) > 0 && strncmp(x->digits + 5, "0000", 4) != 0;
}

static bool luhn(const char *p, int n) {
  int sum = 0;
  for (int k = 0; k < n; k++) {
    int v = p[n - 1 - k] - '0';
    if (k % 2) v = v > 4 ? 2 * v - 9 : 2 * v;
    sum += v;
  }
  return sum % 10 == 0;
}

/* Leading digits and lengths of the schemes in use. */
static bool is_card(const char *p, int n) {
  static const struct {
    uint16_t from, to; /* of the first four digits */
    uint8_t least, most;
  } schemes[] = {{2221, 2720, 16, 16}, {3400, 3499, 15, 15}, {3528, 3589, 16, 16}, {3600, 3699, 14, 14},
                 {3700, 3799, 15, 15}, {3800, 3999, 14, 14}, {4000, 4999, 16, 16}, {4000, 4999, 19, 19},
                 {5100, 5599, 16, 16}, {6000, 6999, 16, 19}, {9558, 9559, 16, 19}};
  int first = n >= 4 ? two(p) * 100 + two(p + 2) : 0;
  for (size_t k = 0; k < PU_COUNT(schemes); k++)
    if (first >= schemes[k].from && first <= schemes[k].to && n >= schemes[k].least && n <= schemes[k].most)
      return luhn(p, n);
  return false;
}

static bool find_card(pu_str s, const number *x, size_t *end) {
  static const char *const forms[] = {"44443", "44444", "4444", "465", "464", "685", "613"};
  if (is_card(x->digits, x->len[0]) && may_end(s, x, 0)) return *end = x->end[0], true;
  for (size_t k = 0; k < PU_COUNT(forms); k++) {
    int last = (int)strlen(forms[k]) - 1;
    if (!has_groups(x, 0, forms[k], " -") || !may_end(s, x, last) || !is_card(x->digits, x->sum[last])) continue;
    *end = x->end[last];
    return true;
  }
  return false;
}

/* Addresses of one's own networks, of multicast and of documentation identify nobody. */
static bool is_public(const int *v) {
  if (v[0] == 0 || v[0] == 10 || v[0] == 127 || v[0] >= 224) return false;
  if ((v[0] == 192 && v[1] == 168) || (v[0] == 172 && v[1] >= 16 && v[1] < 32) || (v[0] == 169 && v[1] == 254))
    return false;
  return !(v[0] == 100 && v[1] >= 64 && v[1] < 128);
}

static bool find_ipv4(pu_str s, const number *x, size_t *end) {
  int v[4];
  if (x->groups < 4) return false;
  for (int g = 0; g < 4; g++) {
    const char *p = x->digits + (g ? x->sum[g - 1] : 0);
    if (x->len[g] > 3 || (x->len[g] > 1 && p[0] == '0') || (g < 3 && x->sep[g] != '.')) return false;
    v[g] = 0;
    for (int k = 0; k < x->len[g]; k++) v[g] = 10 * v[g] + p[k] - '0';
    if (v[g] > 255) return false;
  }
  *end = x->end[3];
  return may_end(s, x, 3) && is_public(v);
}

/* ---- telephone numbers ---- */

static bool is_mobile(const char *p) {
  return p[0] == '1' && p[1] >= '3';
}

/* The digits of groups first.. as a number of China: mobile, land line with its area, service. */
static bool is_chinese(const number *x, int first, bool abroad, int *last) {
  const char *p = x->digits + (first ? x->sum[first - 1] : 0);
  if (first >= x->groups) return false;
  *last = first;
  if (x->len[first] == 11 && is_mobile(p)) return true;
  *last = first + 2;
  if ((has_groups(x, first, "344", " -") || has_groups(x, first, "443", " -")) && is_mobile(p)) return true;
  if (has_groups(x, first, "334", "-") && (strncmp(p, "400", 3) == 0 || strncmp(p, "800", 3) == 0)) return true;
  *last = first + 1;
  if (first + 1 >= x->groups || x->len[first + 1] < 7 || x->len[first + 1] > 8) return false;
  bool separated = x->sep[first] == '-' || (x->sep[first] == ' ' && (abroad || p[0] == '0'));
  if (abroad) return separated && x->len[first] >= 2 && x->len[first] <= 3 && p[0] != '0';
  return separated && x->len[first] >= 3 && x->len[first] <= 4 && p[0] == '0' && p[1] != '0';
}

static bool is_american(const number *x, int first) {
  const char *p = x->digits + (first ? x->sum[first - 1] : 0);
  return has_groups(x, first, "334", " -.") && p[0] >= '2' && p[3] >= '2';
}

/* A number that begins at a digit. */
static bool find_phone(pu_str s, const number *x, size_t *end) {
  int last = 0, first = 0;
  bool abroad = x->groups > 1 && x->len[0] == 2 && strncmp(x->digits, "86", 2) == 0;
  bool found = is_chinese(x, 0, false, &last);
  if (!found && abroad) found = is_chinese(x, first = 1, true, &last);
  if (!found && is_american(x, 0)) found = true, last = 2;
  if (!found && x->len[0] == 1 && x->digits[0] == '1' && is_american(x, 1)) found = true, last = 3;
  if (!found || !may_end(s, x, last)) return false;
  *end = x->end[last];
  return true;
}

/* "+86 138…", "+44 20 7946 0958": a + and 8 to 15 digits (ITU-T E.164) in groups, brackets around one of them. */
static finding find_plus(const scan *c, size_t i) {
  pu_str s = c->s;
  size_t k = i + 1, digits = 0, last = i;
  if (i > 0 && (is_alnum(s.ptr[i - 1]) || s.ptr[i - 1] == '+')) return nothing;
  if (!is_digit(at(s, k)) || s.ptr[k] == '0') return nothing;
  for (bool open = false; k < s.len && k - i < 32; k++) {
    char ch = s.ptr[k];
    if (is_digit(ch)) {
      last = k;
      if (++digits > 15) return nothing;
      continue;
    }
    bool joins = (ch == ' ' || ch == '-' || ch == '.') && (is_digit(at(s, k + 1)) || at(s, k + 1) == '(');
    if (ch == '(' && !open && is_digit(at(s, k + 1)))
      open = true;
    else if (ch == ')' && open)
      open = false;
    else if (!joins)
      break;
  }
  if (digits < 8 || is_alnum(at(s, last + 1))) return nothing;
  return (finding){PHONE, i, last + 1};
}

/* "(021) 6123-4567" and "(555) 234-5678", in ASCII or full-width brackets. */
static finding find_area(const scan *c, size_t i) {
  pu_str s = c->s;
  number x;
  size_t open = s.ptr[i] == '(' ? 1 : 3, area = 0, k;
  while (area < 5 && is_digit(at(s, i + open + area))) area++;
  if (area < 3 || area > 4) return nothing;
  k = i + open + area;
  if (at(s, k) == ')')
    k++;
  else if (s.len - k >= 3 && memcmp(s.ptr + k, "）", 3) == 0)
    k += 3;
  else
    return nothing;
  if (at(s, k) == ' ') k++;
  read_number(s, k, &x);
  bool chinese = s.ptr[i + open] == '0' && s.ptr[i + open + 1] != '0';
  if (chinese && x.len[0] >= 7 && x.len[0] <= 8 && may_end(s, &x, 0)) return (finding){PHONE, i, x.end[0]};
  bool two_groups = (has_groups(&x, 0, "34", "- .") || (chinese && has_groups(&x, 0, "44", "- "))) && may_end(s, &x, 1);
  if (!two_groups || (!chinese && (area != 3 || s.ptr[i + open] < '2'))) return nothing;
  return (finding){PHONE, i, x.end[1]};
}

static finding find_number(const scan *c, size_t i, size_t *skip) {
  pu_str s = c->s;
  char before = i > 0 ? s.ptr[i - 1] : ' ';
  number x;
  size_t end = 0;
  read_number(s, i, &x);
  *skip = x.end[0] - i;
  while (is_digit(at(s, i + *skip))) ++*skip;
  if (is_alnum(before) || before == '_' || is_digit(at(s, x.end[0]))) return nothing;
  if (before == '.' && i > 1 && is_digit(s.ptr[i - 2])) return nothing;
  if (before == '-' && i > 1 && is_digit(s.ptr[i - 2])) return nothing;
  if (find_id(s, &x, &end)) return (finding){ID_NUMBER, i, end};
  if (find_ipv4(s, &x, &end)) return (finding){ADDRESS, i, end};
  if (find_card(s, &x, &end)) return (finding){CARD, i, end};
  if (find_social(s, &x, &end)) return (finding){ID_NUMBER, i, end};
  if (!strchr("/=&", before) && find_phone(s, &x, &end)) return (finding){PHONE, i, end};
  return nothing;
}

/* ---- IPv6 ---- */

static bool is_hex(char c) {
  return is_digit(c) || (uint8_t)((c | 0x20) - 'a') < 6;
}

/* Around the first colon of it. */
static finding find_ipv6(const scan *c, size_t colon) {
  pu_str s = c->s;
  size_t begin = colon, end = colon, groups = 0, digits = 0;
  char text[48];
  struct in6_addr a;
  while (begin > c->done && colon - begin < 5 && is_hex(s.ptr[begin - 1])) begin--;
  while (end - begin < 46 && (is_hex(at(s, end)) || at(s, end) == ':')) end++;
  while (end > colon && s.ptr[end - 1] == ':' && !(end >= 2 && s.ptr[end - 2] == ':')) end--; /* a sentence's colon */
  if ((begin > 0 && (is_alnum(s.ptr[begin - 1]) || strchr(":._", s.ptr[begin - 1]))) || is_alnum(at(s, end)))
    return nothing;
  for (size_t k = begin; k < end; k++) {
    groups += s.ptr[k] != ':' && (k == begin || s.ptr[k - 1] == ':');
    digits += is_digit(s.ptr[k]);
  }
  if (groups < 3 || digits == 0 || end - begin >= sizeof text) return nothing; /* "::1" identifies nobody */
  memcpy(text, s.ptr + begin, end - begin);
  text[end - begin] = '\0';
  if (inet_pton(AF_INET6, text, &a) != 1 || IN6_IS_ADDR_LINKLOCAL(&a)) return nothing;
  return (finding){ADDRESS, begin, end};
}

/* ---- keys ---- */

enum { JWT_PART = 8192 };

typedef enum alphabet { UPPER, ALNUM, WORD, URL } alphabet;

static bool in_alphabet(char c, alphabet a) {
  switch (a) {
  case UPPER:
    return is_digit(c) || (c >= 'A' && c <= 'Z');
  case ALNUM:
    return is_alnum(c);
  case WORD:
    return is_alnum(c) || c == '_';
  case URL:
    return is_alnum(c) || c == '_' || c == '-';
  }
  return false;
}

typedef struct prefix {
  const char *text;
  alphabet of;
  uint16_t least, most; /* characters behind the prefix */
} prefix;

static const prefix prefixes[] = {
    {"AKIA", UPPER, 16, 16}, {"ASIA", UPPER, 16, 16}, {"ghp_", ALNUM, 36, 36}, {"gho_", ALNUM, 36, 36},
    {"ghu_", ALNUM, 36, 36}, {"ghs_", ALNUM, 36, 36}, {"ghr_", ALNUM, 36, 76}, {"github_pat_", WORD, 50, 100},
    {"glpat-", URL, 20, 64}, {"AIza", URL, 35, 35},   {"hf_", ALNUM, 30, 48},  {"sk-", URL, 24, 200},
    {"xoxb-", URL, 20, 100}, {"xoxp-", URL, 20, 100}, {"xoxa-", URL, 20, 100}, {"xoxr-", URL, 20, 100},
};

static size_t run_of(pu_str s, size_t i, alphabet a, size_t most) {
  size_t n = 0;
  while (n <= most && i + n < s.len && in_alphabet(s.ptr[i + n], a)) n++;
  return n;
}

/* Names in kebab case begin with sk-, too; keys have letters of both cases and digits. */
static bool is_mixed(const char *p, size_t n) {
  bool digit = false, upper = false, lower = false;
  for (size_t k = 0; k < n; k++) {
    digit |= is_digit(p[k]);
    upper |= p[k] >= 'A' && p[k] <= 'Z';
    lower |= p[k] >= 'a' && p[k] <= 'z';
  }
  return digit && upper && lower;
}

/* Three parts of base64url, the first two of which are JSON objects: "eyJ". */
static finding find_jwt(scan *c, size_t i) {
  pu_str s = c->s;
  size_t end = i;
  if (i < c->run_end) return nothing;
  for (int part = 0; part < 3; part++) {
    size_t n = run_of(s, end, URL, JWT_PART);
    c->run_end = end + n;
    if (n < 10 || n > JWT_PART || (part < 2 && !begins(s, end, "eyJ"))) return nothing;
    end += n;
    if (part < 2 && at(s, end++) != '.') return nothing;
  }
  return (finding){SECRET, i, end};
}

static finding find_iban(pu_str s, size_t i) {
  size_t k = i, end = i;
  unsigned n = 0, rest = 0, head = 0;
  for (; k < s.len && n < 34; k++) {
    char c = s.ptr[k];
    if (c == ' ' && n % 4 == 0 && n > 0 && in_alphabet(at(s, k + 1), UPPER)) continue;
    if (!in_alphabet(c, UPPER)) break;
    unsigned v = is_digit(c) ? (unsigned)(c - '0') : (unsigned)(c - 'A') + 10;
    if ((n < 2) == is_digit(c) && n < 4) return nothing; /* a country's two letters, then two check digits */
    if (n < 4)
      head = (head * (v < 10 ? 10 : 100) + v) % 97;
    else
      rest = (rest * (v < 10 ? 10 : 100) + v) % 97;
    n++;
    /* The first four come last: two letters and two digits are six places. */
    if (n >= 15 && (rest * (1000000 % 97) + head) % 97 == 1 && !is_alnum(at(s, k + 1))) end = k + 1;
  }
  return end > i ? (finding){CARD, i, end} : nothing;
}

static finding find_key(scan *c, size_t i) {
  pu_str s = c->s;
  if (s.ptr[i] == 'e' && begins(s, i, "eyJ")) return find_jwt(c, i);
  for (size_t p = 0; p < PU_COUNT(prefixes); p++) {
    const prefix *f = &prefixes[p];
    if (s.ptr[i] != f->text[0] || !begins(s, i, f->text)) continue;
    size_t from = i + strlen(f->text), n = run_of(s, from, f->of, f->most);
    if (n < f->least || n > f->most || is_alnum(at(s, from + n))) continue;
    if (strcmp(f->text, "sk-") == 0 && !is_mixed(s.ptr + from, n)) continue;
    return (finding){SECRET, i, from + n};
  }
  if (i + 4 < s.len && in_alphabet(s.ptr[i + 1], UPPER) && is_digit(s.ptr[i + 2]) && is_digit(s.ptr[i + 3]))
    return find_iban(s, i);
  return nothing;
}

/* "-----BEGIN … PRIVATE KEY-----" to its end. */
static finding find_block(scan *c, size_t i) {
  pu_str s = c->s;
  if (!begins(s, i, "-----BEGIN ")) return nothing;
  size_t k = i + 11;
  while (k < s.len && k - i < 64 && ((s.ptr[k] >= 'A' && s.ptr[k] <= 'Z') || s.ptr[k] == ' ')) k++;
  if (!begins(s, k, "-----") || k - i < 22 || memcmp(s.ptr + k - 11, "PRIVATE KEY", 11) != 0) return nothing;
  if (c->key_end < k) { /* looked for once, whatever the number of beginnings */
    const char *end = memmem(s.ptr + k, s.len - k, "-----END ", 9);
    c->key_end = end ? (size_t)(end - s.ptr) : SIZE_MAX;
  }
  if (c->key_end == SIZE_MAX || c->key_end - i > 16384) return nothing;
  size_t end = c->key_end + 9;
  while (end < s.len && s.ptr[end] != '\n' && (end - c->key_end < 64 || (s.ptr[end] & 0xC0) == 0x80)) end++;
  return (finding){SECRET, i, end};
}

/* ---- one document ---- */

enum { SKIP, DIGIT, WORD_START, AT, COLON, PLUS, BRACKET, WIDE, DASH };

static const uint8_t signs[256] = {
    ['0'] = DIGIT,      ['1'] = DIGIT,      ['2'] = DIGIT,      ['3'] = DIGIT,      ['4'] = DIGIT,
    ['5'] = DIGIT,      ['6'] = DIGIT,      ['7'] = DIGIT,      ['8'] = DIGIT,      ['9'] = DIGIT,
    ['@'] = AT,         [':'] = COLON,      ['+'] = PLUS,       ['('] = BRACKET,    [0xEF] = WIDE,
    ['-'] = DASH,       ['g'] = WORD_START, ['h'] = WORD_START, ['s'] = WORD_START, ['x'] = WORD_START,
    ['e'] = WORD_START, ['A'] = WORD_START, ['B'] = WORD_START, ['C'] = WORD_START, ['D'] = WORD_START,
    ['E'] = WORD_START, ['F'] = WORD_START, ['G'] = WORD_START, ['H'] = WORD_START, ['I'] = WORD_START,
    ['J'] = WORD_START, ['K'] = WORD_START, ['L'] = WORD_START, ['M'] = WORD_START, ['N'] = WORD_START,
    ['O'] = WORD_START, ['P'] = WORD_START, ['Q'] = WORD_START, ['R'] = WORD_START, ['S'] = WORD_START,
    ['T'] = WORD_START, ['U'] = WORD_START, ['V'] = WORD_START, ['W'] = WORD_START, ['X'] = WORD_START,
    ['Y'] = WORD_START, ['Z'] = WORD_START,
};

/* What there is at i; *skip: bytes to go on by where there is nothing. */
static finding look(scan *c, size_t i, size_t *skip) {
  pu_str s = c->s;
  *skip = 1;
  switch (signs[(uint8_t)s.ptr[i]]) {
  case DIGIT:
    return find_number(c, i, skip);
  case AT:
    return find_email(c, i);
  case COLON:
    return i + 1 < s.len && (is_hex(s.ptr[i + 1]) || s.ptr[i + 1] == ':') ? find_ipv6(c, i) : nothing;
  case PLUS:
    return find_plus(c, i);
  case BRACKET:
    return is_digit(at(s, i + 1)) ? find_area(c, i) : nothing;
  case WIDE:
    return begins(s, i, "（") && is_digit(at(s, i + 3)) ? find_area(c, i) : nothing;
  case DASH:
    return at(s, i + 1) == '-' ? find_block(c, i) : nothing;
  case WORD_START:
    return i == 0 || !(is_alnum(s.ptr[i - 1]) || s.ptr[i - 1] == '_') ? find_key(c, i) : nothing;
  default:
    return nothing;
  }
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  const pu_view *v = pu_doc_view(d);
  scan c = {.s = pu_str_of(d->text.data, d->text.len)};
  size_t total = 0, skip;
  if (!v) return pu_kit_no_memory("mask", e);
  pu_buf_clear(&d->spare);
  for (int k = 0; k < KINDS; k++) values[k] = 0;
  for (size_t i = 0; i < c.s.len;) {
    while (i < c.s.len && signs[(uint8_t)c.s.ptr[i]] == SKIP) i++;
    if (i == c.s.len) break;
    finding f = look(&c, i, &skip);
    if (f.is == NONE) {
      i += skip;
      continue;
    }
    values[f.is]++;
    total++;
    pu_buf_append(&d->spare, c.s.ptr + c.done, f.begin - c.done);
    pu_buf_puts(&d->spare, placeholders[f.is][v->unspaced]);
    i = c.done = f.end;
  }
  pu_buf_append(&d->spare, c.s.ptr + c.done, c.s.len - c.done);
  if (total > 0 && *(const bool *)shared) return pu_kit_rewritten(d, "mask", e);
  pu_buf_clear(&d->spare);
  return PU_OK;
}

static pu_err open_mask(const pu_filter_options *o, void **shared, pu_error *e) {
  bool *replace = malloc(sizeof *replace);
  *shared = replace;
  if (!replace) return pu_fail(e, PU_ERR_NOMEM, "mask: no memory");
  *replace = o->mask;
  return PU_OK;
}

const pu_filter pu_filter_mask = {
    .name = "mask",
    .summary = "finds personal data and keys, puts placeholders in their place",
    .measures = measures,
    .rewrites = true,
    .open = open_mask,
    .close = free,
    .apply = apply,
};
