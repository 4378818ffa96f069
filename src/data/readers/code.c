/* Source code, by its name: a file a document. */
#include "src/data/reader.h"

static pu_err code_open(void *state, pu_input *in, pu_error *e) {
  (void)state;
  return pu_input_as_text(in, e);
}

static pu_err code_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  (void)state;
  out->type = pu_str_c("code");
  return pu_read_rest(in, out, found, e);
}

const pu_reader pu_reader_code = {
    .name = "code",
    .endings =
        ".c .h .cc .cpp .cxx .hh .hpp .cu .cuh .m .mm .cs .java .kt .kts .scala .groovy .clj .go .rs .swift .zig "
        ".d .nim .py .pyi .pyx .rb .pl .pm .php .js .mjs .cjs .ts .tsx .jsx .vue .svelte .lua .r .jl .hs .lhs "
        ".ml .mli .fs .fsx .elm .ex .exs .erl .hrl .lisp .cl .el .scm .rkt .sh .bash .zsh .fish .ps1 .bat .sql "
        ".v .sv .vhd .vhdl .f .f90 .f95 .for .pas .ada .adb .ads .asm .s .mk .gradle .tcl .proto .thrift "
        ".cmake makefile dockerfile cmakelists.txt .graphql .sol .dart .vb .cob .cbl .awk .sed .vim .nix .tf .hcl "
        ".glsl .hlsl .wgsl .yml .yaml .toml .ini",
    .open = code_open,
    .next = code_next};
