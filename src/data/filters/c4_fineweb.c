/* C4's rules as FineWeb takes them (Penedo et al. 2024, section 3.5): lines need not end in terminal punctuation, which
 * alone took out some 30 % of all tokens. */
#include "src/data/filter_kit.h"

static const pu_measure measures[] = {
    {"sentences", 5, INFINITY, "sentences in the lines that are kept (C4)"},
    {"curly_brackets", -INFINITY, 0, "curly brackets (C4)"},
    {"lorem_ipsum", -INFINITY, 0, "\"lorem ipsum\" (C4)"},
    {"kept_lines", -INFINITY, INFINITY, "share of lines that are kept"},
    {0},
};

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  return pu_c4_apply(shared, d, values, false, e);
}

const pu_filter pu_filter_c4_fineweb = {
    .name = "c4_fineweb",
    .summary = "C4's rules without the one for the ends of lines",
    .measures = measures,
    .rewrites = true,
    .open = pu_c4_open,
    .close = pu_c4_close,
    .apply = apply,
};
