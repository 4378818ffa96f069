/* Completion for bash, from the commands' tables. */
#include "src/cli/cli.h"

#include <string.h>

/* One pattern of a case: "data synth" matches its two words, "train" its first. */
static void put_case(FILE *out, const pu_command *c) {
  fprintf(out, strchr(c->name, ' ') ? "    '%s') " : "    '%s '*) ", c->name);
}

static void put_flags(FILE *out, const pu_command *c) {
  put_case(out, c);
  fprintf(out, "flags='--help --quiet --verbose");
  for (const pu_option *row = c->options; row && row->key; row++)
    if (row->type != PU_OPT_GROUP && row->type != PU_OPT_LIST)
      fprintf(out, " %s%s", pu_cli_dashes(row)[2] ? "--no-" : "--", row->key);
  fprintf(out, "' ;;\n");
}

static void put_choices(FILE *out, const pu_command *c) {
  for (const pu_option *row = c->options; row && row->key; row++) {
    if (row->type != PU_OPT_ENUM) continue;
    fprintf(out, strchr(c->name, ' ') ? "    '%s --%s') " : "    '%s '*' --%s') ", c->name, row->key);
    fprintf(out, "words='");
    for (const char *p = row->choices; *p; p++) fputc(*p == '|' ? ' ' : *p, out);
    fprintf(out, "' ;;\n");
  }
}

/* First words, each once: pu_command_all is sorted, so equal ones are neighbours. */
static void put_first_words(FILE *out) {
  const char *last = "";
  for (size_t i = 0; pu_command_all[i]; i++) {
    const char *name = pu_command_all[i]->name;
    size_t n = strcspn(name, " ");
    if (strlen(last) == n && memcmp(last, name, n) == 0) continue;
    if (strcspn(last, " ") == n && memcmp(last, name, n) == 0) continue;
    fprintf(out, " %.*s", (int)n, name);
    last = name;
  }
}

static void put_second_words(FILE *out) {
  fprintf(out, "      man|help) words+='");
  put_first_words(out);
  fprintf(out, "' ;;\n");
  for (size_t i = 0; pu_command_all[i]; i++) {
    const char *name = pu_command_all[i]->name, *space = strchr(name, ' ');
    if (space) fprintf(out, "      %.*s) words+=' %s' ;;&\n", (int)(space - name), name, space + 1);
  }
}

static pu_err run(const pu_cli *cli, const void *options, int n_args, const char **args, pu_error *e) {
  (void)options, (void)n_args;
  if (strcmp(args[0], "bash") != 0) return pu_fail(e, PU_ERR_USAGE, "'%s': only bash is known", args[0]);
  FILE *out = cli->out;
  fprintf(out, "_puyu() {\n"
               "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words='' flags=''\n"
               "  local command=\"${COMP_WORDS[1]} ${COMP_WORDS[2]}\"\n"
               "  case \"$command\" in\n");
  for (size_t i = 0; pu_command_all[i]; i++) put_flags(out, pu_command_all[i]);
  fprintf(out, "  esac\n"
               "  case \"$command $prev\" in\n");
  for (size_t i = 0; pu_command_all[i]; i++) put_choices(out, pu_command_all[i]);
  fprintf(out, "  esac\n"
               "  if [ \"$COMP_CWORD\" = 1 ]; then words='--help --version");
  put_first_words(out);
  fprintf(out, "'\n"
               "  elif [ \"$COMP_CWORD\" = 2 ] && [ \"${cur#-}\" = \"$cur\" ]; then\n"
               "    case \"${COMP_WORDS[1]}\" in\n");
  put_second_words(out);
  fprintf(out, "    esac\n"
               "  fi\n"
               "  if [ -z \"$words\" ] && [ \"${cur#-}\" != \"$cur\" ]; then words=$flags; fi\n"
               "  COMPREPLY=()\n"
               "  if [ -n \"$words\" ]; then mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\"); fi\n"
               "}\n"
               "complete -o default -F _puyu puyu\n");
  return PU_OK;
}

const pu_command pu_command_completion = {
    .name = "completion",
    .summary = "print the completion script of a shell",
    .usage = "bash",
    .details = "    source <(puyu completion bash)\n",
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
