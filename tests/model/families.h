/* The small checkpoints under tests/fixtures/hf-mini, at least one of every family: what all tests of families go
 * through. What is in such a folder is said in src/model/README.md. */
#ifndef PUYU_TEST_FAMILIES_H
#define PUYU_TEST_FAMILIES_H

static const char *const families[] = {"internlm1-tiny", "internlm2-d128", "internlm2-dynamic-ntk",
                                       "internlm2-tiny", "internlm3-tiny", "llama3-tiny",
                                       "mixtral-tiny",   "qwen2-tiny",     "qwen3-tiny"};

#endif
