/* A model's matrices in memory: which exist, their shapes, and where a file's tensor lies in them. */
#ifndef PUYU_MODEL_SLOTS_H
#define PUYU_MODEL_SLOTS_H

#include "puyu/model.h"

const char *pu_slot_name(pu_slot slot); /* "qkv" */
bool pu_slot_is_outer(pu_slot slot);    /* once in the model, not once a layer */
bool pu_slot_is_matrix(pu_slot slot);   /* what weight decay applies to (the embedding aside) */
bool pu_slot_is_packable(pu_slot slot); /* may be kept in few bits: matrices but the experts' router */
/* Dimensions of the slot, 0 where the model has none. The output of a tied model is its embedding: 0. */
int pu_slot_shape(const pu_hparams *hp, pu_slot slot, int64_t *shape);

/* A stretch of elements that is contiguous in the file's tensor and in memory. */
typedef struct pu_run {
  int64_t file, mem, n; /* first element in the file's tensor, in the slot; how many */
} pu_run;

/* How a file's tensor maps onto its slot: sequences of equal steps, in groups of equal steps. What is contiguous has
 * one run; InternLM2's grouped qkv has one sequence for each of q, k and v; heads in pairs have two, and a group a
 * head. */
typedef struct pu_mapping {
  int ndim;
  int64_t shape[PU_MAX_DIMS]; /* of the file's tensor */
  struct {
    pu_run first;
    int64_t count, file_step, mem_step;
    int64_t groups, file_group, mem_group;
  } seq[3];
  int n_seq;
} pu_mapping;
int64_t pu_mapping_runs(const pu_mapping *m);
pu_run pu_mapping_run(const pu_mapping *m, int64_t i);
/* expert: which, where the rule's name has a second %d; -1: the rule covers all experts. */
void pu_mapping_of(const pu_hparams *hp, const pu_tensor_rule *rule, int64_t expert, pu_mapping *out);

/* Does the name have a place for the layer; for the expert? */
int pu_rule_places(const pu_tensor_rule *rule);
/* The rule's tensors of one layer: how many (experts), and each one's name. */
int64_t pu_rule_experts(const pu_hparams *hp, const pu_tensor_rule *rule); /* 1 where it has no place for an expert */
void pu_rule_name(const pu_tensor_rule *rule, int64_t layer, int64_t expert, char *dst, size_t size);

#endif
