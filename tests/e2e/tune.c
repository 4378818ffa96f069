/* From conversations to a model and an adapter that answer, as docs/finetune.md has it: the examples, on a small scale.
 */
#include "tests/shell.h"

static char folder[] = "/tmp/puyu-tune-XXXXXX";

#define EXAMPLES PU_FIXTURES "/../../examples"
#define RUN                                                                                                            \
  "train.steps=%d train.threads=2 train.global_batch=4 train.micro_batch=4 model.path=base sample.every=3 "            \
  "validate.batches=2 schedule.warmup=1"

static void run(const char *line) {
  if (shell("%s", line) != 0) fail_msg("%s: %s", line, out);
}

static int make_base(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  run("for i in 1 2 3 4; do echo 'What is 1 + 2? It is 3. 4 + 5 = 9.'; done > text.txt && "
      "awk 'BEGIN { for (i = 0; i < 100; i++) { a = int(i / 10); b = i % 10; f = i % 10 ? \"sums.jsonl\" : "
      "\"sums-valid.jsonl\"; printf \"{\\\"instruction\\\": \\\"What is %d + %d?\\\", \\\"output\\\": "
      "\\\"%d\\\"}\\n\", a, "
      "b, a + b > f } }' && puyu tokenizer train --vocab-size 300 --out base text.txt && "
      "puyu init --shape puyu-2m --vocab-size 300 --out base");
  return 0;
}

static int remove_base(void **state) {
  (void)state;
  pu_error e;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static void test_show(void **state) {
  (void)state;
  run("puyu data show sums.jsonl --model base -n 2 --skip 1");
  says("sums.jsonl:3: form alpaca, template internlm2");
  says("<|im_start|>assistant↵\n⟦2<|im_end|>⟧");
  run("puyu data show sums.jsonl --model base --colour always");
  says("\033[32m");
  assert_int_equal(shell("puyu data show sums.jsonl --model base --column dog=cat"), 2);
  assert_int_equal(shell("puyu data show text.txt --model base"), 1);
  says("text.txt:1: no JSON object");
}

static void test_full(void **state) {
  (void)state;
  assert_int_equal(shell("puyu train " EXAMPLES "/sft.yaml " RUN, 6), 0);
  says("conversations");
  says("step 6: What is 3 + 4?");
  run("puyu generate runs/sums/step-000006 --prompt 'What is 3 + 4?' --max-tokens 4");
  run("puyu report runs/sums --out r.html && grep -c '<svg' r.html && grep 'task: sft' r.html");
}

static void test_adapter(void **state) {
  (void)state;
  assert_int_equal(shell("puyu train " EXAMPLES "/lora.yaml " RUN, 4), 0);
  says("the model stays as it is");
  assert_int_equal(shell("puyu train " EXAMPLES "/lora.yaml " RUN, 6), 0);
  says("resuming after step 4");
  run("puyu generate base --adapter runs/sums-lora/step-000006 --prompt 'What is' --max-tokens 4 > beside.txt && "
      "puyu merge base runs/sums-lora/step-000006 merged && "
      "puyu generate merged --prompt 'What is' --max-tokens 4 > merged.txt && cmp beside.txt merged.txt");
  assert_int_equal(shell("puyu train " EXAMPLES "/lora.yaml " RUN " run=runs/q lora.base=nf4", 3), 0);
  run("puyu generate base --adapter runs/q/step-000003 --prompt 'What is' --max-tokens 4 && test ! -e "
      "runs/q/sample.tmp");
  assert_int_equal(shell("puyu train " EXAMPLES "/lora.yaml " RUN " lora.rank=4", 9), 2);
  says("was begun with another");
}

static void test_tool(void **state) {
  (void)state;
  run("puyu data synth --out corpus --documents 20 --dialogues 120 --valid-fraction 0.2 --questions 2");
  says("conversations for training: corpus-chat/train.jsonl");
  run("wc -l <corpus-heldout.jsonl");
  assert_string_equal(out, "14\n"); /* two ranges and what is beyond, two operations, two each; and two facts */
  run("puyu data show corpus-chat/train.jsonl --model base -n 20 | grep -c 'action_start'");
  run("puyu train " EXAMPLES "/chat.yaml train.steps=2 train.threads=2 model.path=base data.seq_len=1024 "
      "train.global_batch=2 train.micro_batch=2 schedule.warmup=1 validate.batches=1");
  run("puyu agent runs/chat/step-000002 'What is 58657 + 77?' --max-tokens 4 --max-steps 1 --threads 2");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_show),
      cmocka_unit_test(test_full),
      cmocka_unit_test(test_adapter),
      cmocka_unit_test(test_tool),
  };
  return cmocka_run_group_tests(tests, make_base, remove_base);
}
