/* Every option of a training run, once: its YAML key, type, range, default and help. --help, the man page and the
 * resolved config.yaml come from these rows. */
#include "puyu/train.h"

/* A key is the name of its member. */
#define ROW(member, kind, ...)    PU_ROW(pu_train_config, member, #member, kind, __VA_ARGS__)
#define SOURCE(member, kind, ...) PU_ROW(pu_train_source, member, #member, kind, __VA_ARGS__)

static const pu_option source_options[] = {
    SOURCE(type, ENUM, .dflt = "shards", .choices = "shards|text|jsonl|ids|chat",
           .help = "what the path holds; with task sft always conversations"),
    SOURCE(path, STR, .meta = "PATH", .required = true, .help = "a file or a folder"),
    SOURCE(key, STR, .meta = "NAME",
           .help = "jsonl: the key of the text (content, or text); ids: of the tensor (input_ids)"),
    SOURCE(weight, FLOAT, .dflt = "0", .max = 1e9, .meta = "W",
           .help = "share of the samples, relative to the other sources; none given: by tokens"),
    SOURCE(form, STR, .meta = "NAME",
           .help = "chat: messages, alpaca, sharegpt or xtuner; none: by the keys of the first line"),
    SOURCE(columns.messages, STR, .meta = "KEY",
           .help = "chat: what the file calls the list of turns (messages, conversations, conversation)"),
    SOURCE(columns.role, STR, .meta = "KEY", .help = "chat: who speaks (role, from)"),
    SOURCE(columns.content, STR, .meta = "KEY", .help = "chat: what is said (content, value)"),
    SOURCE(columns.tools, STR, .meta = "KEY", .help = "chat: the tools (tools)"),
    SOURCE(columns.system, STR, .meta = "KEY", .help = "chat: the system's text (system)"),
    SOURCE(columns.instruction, STR, .meta = "KEY", .help = "chat: what is asked (instruction)"),
    SOURCE(columns.input, STR, .meta = "KEY", .help = "chat: what it is asked of (input)"),
    SOURCE(columns.output, STR, .meta = "KEY", .help = "chat: the answer (output)"),
    SOURCE(columns.history, STR, .meta = "KEY", .help = "chat: pairs that came before (history)"),
    {0},
};

const pu_option pu_train_options[] = {
    ROW(task, ENUM, .dflt = "pretrain", .choices = "pretrain|sft",
        .help = "pretrain: on every token of texts; sft: on the answers of conversations"),
    ROW(run, STR, .meta = "DIR", .required = true,
        .help = "directory of the run: metrics, checkpoints; starting again resumes there"),

    {.key = "model", .type = PU_OPT_GROUP, .help = "Model (a directory, or a named shape with random weights)"},
    ROW(model.path, STR, .meta = "DIR", .help = "a Hugging Face directory to start from"),
    ROW(model.shape, STR, .meta = "NAME", .help = "a named shape, its weights random"),
    ROW(model.tokenizer, STR, .meta = "DIR", .help = "its tokenizer; gives a shape its vocabulary"),
    ROW(model.seed, INT, .dflt = "1", .max = 1e15, .meta = "N", .help = "seed of the random weights"),

    {.key = "data", .type = PU_OPT_GROUP, .help = "Data"},
    ROW(data.seq_len, INT, .dflt = "1024", .min = 2, .max = 1 << 20, .meta = "N", .help = "tokens of a sequence"),
    ROW(data.cross_document, BOOL, .dflt = "false",
        .help = "attention and positions run on across document boundaries"),
    ROW(data.sources, LIST, .sub = source_options, .sub_size = sizeof(pu_train_source),
        .help = "where the tokens come from"),
    ROW(data.chat_template, STR, .meta = "NAME",
        .help = "sft: internlm, internlm2, chatml or llama3; none: the model's own"),
    ROW(data.too_long, ENUM, .dflt = "drop", .choices = "drop|cut",
        .help = "sft: what becomes of a conversation longer than seq_len"),
    ROW(data.pack, BOOL, .dflt = "true", .help = "sft: put several conversations into a sequence"),

    {.key = "train", .type = PU_OPT_GROUP, .help = "Training"},
    ROW(train.steps, INT, .dflt = "1000", .min = 1, .max = 1e9, .meta = "N",
        .help = "optimiser steps of the whole run"),
    ROW(train.epochs, FLOAT, .dflt = "0", .max = 1e6, .meta = "X",
        .help = "sft: above 0, so many passes over the data, whatever train.steps says"),
    ROW(train.minutes, FLOAT, .dflt = "0", .max = 1e6, .meta = "M",
        .help = "above 0: as many steps as fit in M minutes; train.steps is then only the first guess"),
    ROW(train.global_batch, INT, .dflt = "0", .max = 1 << 20, .meta = "N",
        .help = "sequences of a step; 0: 64, or the rows of an ids source"),
    ROW(train.micro_batch, INT, .dflt = "0", .max = 1 << 20, .meta = "N",
        .help = "sequences computed at once; 0: at most 8"),
    ROW(train.ramp_start, INT, .dflt = "0", .max = 1 << 20, .meta = "N",
        .help = "sequences of the first step, where the batch grows; 0: no ramp"),
    ROW(train.ramp_steps, INT, .dflt = "0", .max = 1e9, .meta = "N",
        .help = "steps over which the batch grows to global_batch"),
    ROW(train.precision, ENUM, .dflt = "bf16", .choices = "bf16|f32", .help = "compute type"),
    ROW(train.linear, ENUM, .dflt = "bf16", .choices = "bf16|fp8",
        .help = "what attention's matrices and dense MLPs multiply in, where bf16 is computed with; fp8: E4M3, "
                "gradients E5M2, on GPUs that have it"),
    ROW(train.weights, ENUM, .dflt = "f32", .choices = "f32|bf16",
        .help =
            "what is trained, where bf16 is computed with: f32 values, of which the upper halves are computed with; "
            "or those themselves, rounded stochastically: 2 bytes a parameter less"),
    ROW(train.grads, ENUM, .dflt = "f32", .choices = "f32|bf16",
        .help =
            "type of the gradients of matrices, where bf16 is computed with; bf16: half as many bytes, for steps of "
            "one micro-batch"),
    ROW(train.seed, INT, .dflt = "1", .max = 1e15, .meta = "N", .help = "seed of the order of samples"),
    ROW(train.grad_clip, FLOAT, .dflt = "1.0", .max = 1e9, .meta = "X",
        .help = "global norm above which gradients are scaled down; 0: never"),
    ROW(train.recompute, ENUM, .dflt = "none", .choices = PU_RECOMPUTE_CHOICES, .also = "false=none|true=all",
        .help =
            "what a block computes again in backward, to need less memory: gates: SwiGLU's output; some: what takes "
            "no products; all: everything but its input"),
    ROW(train.deterministic, BOOL, .dflt = "true",
        .help = "the same losses to the bit in each run; false: on a GPU attention's gradient is summed in any order, "
                "which is faster"),
    ROW(train.max_skips, INT, .dflt = "10", .min = 1, .max = 1e6, .meta = "N",
        .help = "stop after this many skipped steps in a row"),
    ROW(train.spike, FLOAT, .dflt = "10", .max = 1e9, .meta = "X",
        .help = "skip a step whose gradient norm is above X times its running mean; 0: only NaN and infinity"),
    ROW(train.threads, INT, .dflt = "0", .max = 64, .meta = "N", .help = "threads; 0: all processors"),
    ROW(train.device, STR, .dflt = "auto", .meta = "NAME",
        .help =
            "where to compute: cpu, or a plug-in such as cuda; auto: what the variable PUYU_DEVICE names, else a GPU "
            "where there is one, else the processor"),
    ROW(train.force, BOOL, .dflt = "false",
        .help = "start even where the memory plan does not fit the memory there is"),

    {.key = "optim", .type = PU_OPT_GROUP, .help = "Optimiser (AdamW)"},
    ROW(optim.lr, FLOAT, .dflt = "1e-3", .max = 1e3, .meta = "X", .help = "the schedule's highest learning rate"),
    ROW(optim.betas, FLOATS, .dflt = "0.9,0.95", .meta = "B1,B2",
        .help = "decay of the running means of gradient and squared gradient"),
    ROW(optim.eps, FLOAT, .dflt = "1e-8", .max = 1, .meta = "X", .help = "added to the root of the second moment"),
    ROW(optim.weight_decay, FLOAT, .dflt = "0.1", .max = 1e3, .meta = "X",
        .help = "decoupled decay, times the learning rate"),
    ROW(optim.state, ENUM, .dflt = "f32", .choices = "f32|bf16",
        .help = "type of both running means; bf16: rounded stochastically, 4 bytes a parameter less"),
    ROW(optim.decay_all, BOOL, .dflt = "false", .help = "decay norms, biases and embeddings too"),

    {.key = "schedule", .type = PU_OPT_GROUP, .help = "Learning rate over the run"},
    ROW(schedule.type, ENUM, .dflt = "cosine", .choices = "constant|linear|cosine|wsd",
        .help = "what follows the warm-up"),
    ROW(schedule.warmup, INT, .dflt = "0", .max = 1e9, .meta = "N", .help = "steps of linear warm-up from zero"),
    ROW(schedule.decay, INT, .dflt = "0", .max = 1e9, .meta = "N",
        .help = "wsd: steps of the decay at the end; 0: a tenth of all"),
    ROW(schedule.min_lr, FLOAT, .dflt = "0", .max = 1e3, .meta = "X", .help = "the learning rate of the last step"),

    {.key = "checkpoint", .type = PU_OPT_GROUP, .help = "Checkpoints"},
    ROW(checkpoint.every, INT, .dflt = "500", .max = 1e9, .meta = "N",
        .help = "steps between checkpoints; 0: only at the end and on a signal"),
    ROW(checkpoint.keep, INT, .dflt = "3", .min = 1, .max = 1e6, .meta = "N", .help = "how many of the newest to keep"),

    {.key = "validate", .type = PU_OPT_GROUP, .help = "Validation loss"},
    ROW(validate.every, INT, .dflt = "100", .max = 1e9, .meta = "N",
        .help = "steps between validations; 0: only after the last step"),
    ROW(validate.batches, INT, .dflt = "20", .min = 1, .max = 1e6, .meta = "N",
        .help = "micro-batches a validation reads, always the same"),
    ROW(validate.path, STR, .meta = "PATH",
        .help = "shards, .txt or .jsonl, with sft conversations as data.sources has them; none: no validation"),

    {.key = "sample", .type = PU_OPT_GROUP, .help = "Sample generations"},
    ROW(sample.every, INT, .dflt = "0", .max = 1e9, .meta = "N", .help = "steps between generations; 0: none"),
    ROW(sample.prompts, STRS, .meta = "TEXT", .help = "what to continue"),
    ROW(sample.max_tokens, INT, .dflt = "64", .min = 1, .max = 1 << 20, .meta = "N", .help = "tokens of a generation"),
    ROW(sample.temperature, FLOAT, .dflt = "0", .max = 100, .meta = "X", .help = "0: the likeliest token each time"),

    {.key = "lora", .type = PU_OPT_GROUP, .help = "Adapter (LoRA): trained instead of the model, which stays as it is"},
    ROW(lora.rank, INT, .dflt = "0", .max = PU_LORA_MAX_RANK, .meta = "R",
        .help = "rank of a new adapter; 0: the model itself is trained"),
    ROW(lora.alpha, FLOAT, .dflt = "16", .max = 1e6, .meta = "X", .help = "what it adds is scaled by alpha / rank"),
    ROW(lora.rslora, BOOL, .dflt = "false", .help = "scale by alpha / sqrt(rank)"),
    ROW(lora.targets, STRS, .meta = "NAME",
        .help = "matrices by the ends of their names (q_proj, wqkv); none: all of attention and MLP"),
    ROW(lora.path, STR, .meta = "DIR", .help = "an adapter to go on with (a PEFT directory), instead of a new one"),
    ROW(lora.base, ENUM, .dflt = "plain", .choices = "plain|nf4",
        .help = "how the model's matrices are kept meanwhile; nf4: in 4 bits (QLoRA)"),

    {.key = "log", .type = PU_OPT_GROUP, .help = "Progress"},
    ROW(log.every, INT, .dflt = "0", .max = 1e9, .meta = "N",
        .help = "steps between plain progress lines; 0: one every few seconds"),
    {0},
};
