/* Inside model: what configurations and GGUF files need of RoPE. */
#ifndef PUYU_MODEL_ROPE_H
#define PUYU_MODEL_ROPE_H

#include "puyu/model.h"

/* By how much llama3 scaling divides frequency i of head_dim / 2. */
double pu_rope_llama3_divisor(const pu_rope_params *r, int64_t head_dim, int64_t i);

/* Cosines and sines f32 [N, D] for the tokens of seqs (see pu_rope), in double precision before rounding. */
void pu_rope_angles(const pu_rope_params *r, int64_t head_dim, const pu_seqs *seqs, const int32_t *rope_len, float *cs);

/* As pu_rope_angles, with what is in `kept`, to which it adds: a step of decoding would else work out hundreds of
 * sines while a device waits. */
void pu_rope_kept_angles(pu_rope_rows *kept, const pu_rope_params *r, int64_t head_dim, const pu_seqs *seqs,
                         const int32_t *rope_len, float *cs);

/* yarn's own factor of cosines and sines for a model stretched by `factor`; mscale 1 but where a config names another.
 */
double pu_rope_yarn_attention(double factor, double mscale);

#endif
