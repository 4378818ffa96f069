/* Inside data: what a pass counts for the report, unit by unit; sums of units do not depend on who made them. */
#ifndef PUYU_DATA_CLEAN_H
#define PUYU_DATA_CLEAN_H

#include "src/data/filter.h"
#include "src/data/stage.h"

enum { PU_BINS = 32 };
/* The bin of a value: linear in [0, 1] where the measure is a share, else two bins to a doubling. */
bool pu_measure_is_share(const pu_measure *m);
int pu_measure_bin(const pu_measure *m, double value);
double pu_measure_bin_start(const pu_measure *m, int bin);

typedef struct pu_clean_counts pu_clean_counts;
pu_err pu_clean_counts_create(const pu_filter_set *set, pu_clean_counts **out, pu_error *e) PU_MUST_USE;
void pu_clean_counts_free(pu_clean_counts *c);
void pu_clean_counts_values(pu_clean_counts *c, size_t filter, const double *values);
/* d: its source, language, type and length; how it ended: rule NULL: it stays. */
pu_err pu_clean_counts_doc(pu_clean_counts *c, const pu_doc *d, const char *rule, double value,
                           pu_error *e) PU_MUST_USE;
pu_err pu_clean_counts_put(const pu_clean_counts *c, pu_unit_writer *u, pu_error *e) PU_MUST_USE;

#endif
