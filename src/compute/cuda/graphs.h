/* CUDA graphs: what record and play keep (see compute.h), for the operations that take part.
 *
 * The first times that a key comes all runs as ever: algorithms are chosen, work memory grows, and what comes only now
 * and then is not worth a graph. Then the stream is captured while operations are called. From then on an operation
 * that is called only has its arguments compared with the ones it was captured with (a hash of all calls), and play
 * launches the graph. What the host hands over in each step lies in pinned memory, the inbox, from where kernels of the
 * graph bring it to its places.
 *
 * A graph that cannot be captured or that does not fit the calls is left without anything having run: play then says
 * `again`, and the calls run as ever. */
#ifndef PUYU_CUDA_GRAPHS_H
#define PUYU_CUDA_GRAPHS_H

#include "src/compute/cuda/cuda.h"

/* Between record and play, and not the first time: what is launched is captured, or is not to be launched. */
bool pu_cuda_is_recording(const pu_cuda *d);
bool pu_cuda_is_capturing(const pu_cuda *d);
/* While recording: the host hands over so many bytes for a place of the device, or for any (*to is NULL; it is told
 * then, and the same contents have the same place). False: it will all be asked for again. */
bool pu_cuda_hand_over(pu_cuda *d, void **to, const void *host, size_t bytes);
/* While recording, of a copy or clearing: is it to be launched? */
bool pu_cuda_note(pu_cuda *d, const void *place, size_t bytes);
/* What is being captured would be otherwise the next time (an algorithm is not chosen yet): it must not be kept. */
void pu_cuda_not_settled(pu_cuda *d);
/* Memory is given out, and back. A graph may go on with what it has only while all of that is there; what comes and
 * goes between two steps is in none. */
void pu_cuda_given_out(pu_cuda *d, const void *memory);
void pu_cuda_given_back(pu_cuda *d, const void *memory);
/* An error where something would wait between record and play. */
pu_err pu_cuda_may_wait(const pu_cuda *d, pu_error *e) PU_MUST_USE;

#endif
