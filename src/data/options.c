/* The keys of a run's YAML file. */
#include "puyu/data.h"

const pu_option pu_source_options[] = {
    PU_ROW(pu_source, name, "name", STR, .required = true, .help = "names its documents in shares, weights and ids"),
    PU_ROW(pu_source, paths, "paths", STRS, .required = true, .help = "files and folders"),
    PU_ROW(pu_source, format, "format", STR, .dflt = "auto",
           .help = "how to read the files: a reader's name; auto: by each file's name and first bytes"),
    PU_ROW(pu_source, key, "key", STR, .help = "where the text stands in JSON objects, or the column of a table"),
    PU_ROW(pu_source, charset, "charset", STR, .help = "what the bytes of its text are in; found out unless given"),
    PU_ROW(pu_source, split, "split", ENUM, .dflt = "file", .choices = "file|blank|line",
           .help = "what a document is in plain text: the file, the lines up to a blank one, or each line"),
    PU_ROW(pu_source, html, "html", ENUM, .dflt = "auto", .choices = "auto|article|forum|all",
           .help = "what is taken of web pages: the main text, the posts, or all that is shown"),
    PU_ROW(pu_source, weight, "weight", FLOAT, .dflt = "0", .max = 1e9,
           .help = "share of the mixture, relative; 0 for all: by size"),
    {0},
};

const pu_option pu_data_options[] = {
    PU_ROW(pu_data_config, out, "out", STR, .required = true, .help = "folder for stages, shards and the report"),
    PU_ROW(pu_data_config, sources, "sources", LIST, .sub = pu_source_options, .sub_size = sizeof(pu_source),
           .required = true, .help = "where the text comes from"),
    PU_ROW(pu_data_config, filters, "filters", STRS,
           .help = "filters and presets, in this order; `puyu data filter --list` shows them"),
    PU_ROW(pu_data_config, bounds, "bounds", STRS,
           .help = "bounds that differ from the published ones: gopher_quality.words.min=20"),
    PU_ROW(pu_data_config, filter.domains, "filter.domains", STRS, .help = "files of domains whose documents go"),
    PU_ROW(pu_data_config, filter.words, "filter.words", STRS, .help = "files of words and phrases to count"),
    PU_ROW(pu_data_config, filter.languages, "filter.languages", STRS, .help = "languages that stay; none given: all"),
    PU_ROW(pu_data_config, filter.width, "filter.width", ENUM, .dflt = "keep", .choices = "keep|half",
           .help = "full-width letters and digits: as they are, or folded"),
    PU_ROW(pu_data_config, filter.han, "filter.han", ENUM, .dflt = "keep", .choices = "keep|simplified|traditional",
           .help = "Chinese characters: as they are, or folded to one script"),
    PU_ROW(pu_data_config, filter.nfkc, "filter.nfkc", BOOL, .dflt = "true",
           .help = "compose characters (NFKC where nothing is lost)"),
    PU_ROW(pu_data_config, filter.mask, "filter.mask", BOOL, .dflt = "true",
           .help = "replace personal data that `mask` finds; else it is only counted"),
    {0},
};
