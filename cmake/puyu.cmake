# The helpers that modules are built with.

# puyu_module(NAME USES lower modules… LIBS outside libraries…)
# A static library puyu_NAME of every .c below src/NAME. Files under an isa/ folder are compiled for the instruction
# set their name ends with (_avx2, _avx512, _amx); everything else is compiled for the plain x86-64 baseline, so that
# the program starts anywhere and chooses at run time.
function(puyu_module name)
  cmake_parse_arguments(M "" "" "USES;LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.c)
  list(FILTER sources EXCLUDE REGEX "/src/${name}/program/") # puyu_program makes that
  if(NOT sources) # a module whose first file has not come yet
    set(sources ${CMAKE_BINARY_DIR}/generated/${name}_empty.c)
    file(CONFIGURE OUTPUT ${sources} CONTENT "typedef int pu_nothing_here;\n")
  endif()
  add_library(puyu_${name} STATIC ${sources})
  target_include_directories(puyu_${name} PUBLIC ${CMAKE_SOURCE_DIR}/include PRIVATE ${CMAKE_SOURCE_DIR})
  foreach(used ${M_USES})
    target_link_libraries(puyu_${name} PUBLIC puyu_${used})
  endforeach()
  target_link_libraries(puyu_${name} PUBLIC ${M_LIBS})
  set(avx2 -mavx2 -mfma -mf16c -mbmi2 -ffp-contract=fast)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16)
  set(amx ${avx512} -mamx-tile -mamx-bf16 -mamx-int8)
  foreach(source ${sources})
    foreach(isa avx2 avx512 amx)
      if(source MATCHES "/isa/.*_${isa}\\.c$")
        set(options ${${isa}})
        if(PUYU_FUZZ) # kernels parse nothing, and take clang as long as all the rest to instrument
          list(APPEND options -fno-sanitize=all)
        endif()
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${options}")
      endif()
    endforeach()
  endforeach()
endfunction()

# puyu_program(MODULE): the .c files of src/MODULE/program, a program of its own that the module runs from memory. It is
# plain C without sanitizers, whatever puyu is built with, and its bytes become the array MODULE_program.
function(puyu_program module)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${module}/program/*.c)
  add_executable(puyu_${module}_program ${sources})
  target_include_directories(puyu_${module}_program PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(puyu_${module}_program PRIVATE -Os -g0 -fno-sanitize=all)
  target_link_options(puyu_${module}_program PRIVATE -s -fno-sanitize=all)
  target_link_libraries(puyu_${module}_program PRIVATE m)
  set(out ${CMAKE_BINARY_DIR}/generated/${module}_program.c)
  add_custom_command(OUTPUT ${out} DEPENDS puyu_${module}_program ${CMAKE_SOURCE_DIR}/cmake/bytes.cmake VERBATIM
                     COMMAND ${CMAKE_COMMAND} -DIN=$<TARGET_FILE:puyu_${module}_program> -DOUT=${out}
                             -DNAME=${module}_program -P ${CMAKE_SOURCE_DIR}/cmake/bytes.cmake)
  target_sources(puyu_${module} PRIVATE ${out})
endfunction()

# puyu_interface(MODULE files…): pu_interface, a digest of these files, which say how what goes between a plug-in and the
# program lies in memory: both were compiled with the same, if they fit.
function(puyu_interface module)
  set(all "")
  foreach(file ${ARGN})
    set(path ${CMAKE_SOURCE_DIR}/${file})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
    file(SHA256 ${path} one)
    string(APPEND all ${one})
  endforeach()
  string(SHA256 all "${all}")
  set(out ${CMAKE_BINARY_DIR}/generated/pu_interface.c)
  file(CONFIGURE OUTPUT ${out} CONTENT
"/* Made by puyu_interface: do not edit. */
#include \"puyu/compute.h\"
const char pu_interface[] = \"${all}\";
" @ONLY)
  target_sources(puyu_${module} PRIVATE ${out})
endfunction()

# puyu_cuda_plugin(): libpuyu-cuda.so beside the program, every .cu below src/compute/cuda.
function(puyu_cuda_plugin)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/compute/cuda/*.cu)
  add_library(puyu_cuda MODULE ${sources})
  set_target_properties(puyu_cuda PROPERTIES OUTPUT_NAME puyu-cuda LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
                        CUDA_STANDARD 17 CUDA_VISIBILITY_PRESET hidden)
  target_include_directories(puyu_cuda PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(puyu_cuda PRIVATE -Wl,-z,defs puyu_compute CUDA::cudart_static CUDA::cublasLt ${CMAKE_DL_LIBS})
  # cuDNN is looked for when it is first wanted: only its headers are needed here.
  find_path(CUDNN_INCLUDE cudnn_graph.h PATHS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
  target_include_directories(puyu_cuda PRIVATE ${CUDNN_INCLUDE})
endfunction()

# puyu_descriptors(MODULE FOLDER TYPE HEADER)
# Every FOLDER/NAME.c defines `const TYPE TYPE_NAME`; this makes the table `const TYPE *const TYPE_all[]`, ended by
# NULL and sorted by name. A new file is all it takes to add one. TYPE_names becomes the names in that order, "a|b|c".
function(puyu_descriptors module folder type header)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.c)
  set(externs "")
  set(rows "")
  foreach(file ${files})
    get_filename_component(stem ${file} NAME_WE)
    string(APPEND externs "extern const ${type} ${type}_${stem};\n")
    string(APPEND rows "    &${type}_${stem},\n")
  endforeach()
  set(out ${CMAKE_BINARY_DIR}/generated/${type}_all.c)
  file(CONFIGURE OUTPUT ${out} CONTENT
"/* Made by puyu_descriptors from ${folder}: do not edit. */
#include \"${header}\"
${externs}extern const ${type} *const ${type}_all[];
const ${type} *const ${type}_all[] = {
${rows}    0};
" @ONLY)
  target_sources(puyu_${module} PRIVATE ${out})
  set(names ${files})
  list(TRANSFORM names REPLACE "^.*/(.*)\\.c$" "\\1")
  list(JOIN names "|" names)
  set(${type}_names "${names}" PARENT_SCOPE)
endfunction()

# puyu_web(MODULE): the chat page, every file of web/ and the libraries it uses from the distribution's packages, as a
# table in the program (cmake/embed.c). The names are what the page asks for below /web/.
function(puyu_web module)
  file(GLOB own CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/web/*.html ${CMAKE_SOURCE_DIR}/web/*.css
       ${CMAKE_SOURCE_DIR}/web/*.js ${CMAKE_SOURCE_DIR}/web/*.svg)
  set(js /usr/share/javascript)
  set(libraries marked.js=${js}/marked/marked.umd.min.js purify.js=/usr/share/nodejs/dompurify/dist/purify.min.js
      highlight.js=${js}/highlight.js/highlight.min.js katex.js=${js}/katex/katex.min.js
      katex.css=${js}/katex/katex.min.css)
  file(GLOB fonts ${js}/katex/fonts/*.woff2)
  set(rows ${libraries})
  foreach(file ${own})
    get_filename_component(name ${file} NAME)
    list(APPEND rows ${name}=${file})
  endforeach()
  foreach(file ${fonts})
    get_filename_component(name ${file} NAME)
    list(APPEND rows fonts/${name}=${file})
  endforeach()
  set(paths ${rows})
  list(TRANSFORM paths REPLACE "^[^=]*=" "")
  foreach(path ${paths})
    if(NOT EXISTS ${path})
      message(FATAL_ERROR "${path}, which the chat page needs, is missing: scripts/install-deps installs it")
    endif()
  endforeach()
  if(NOT fonts)
    message(FATAL_ERROR "KaTeX's fonts, which the chat page needs, are missing: scripts/install-deps installs them")
  endif()
  add_executable(puyu_embed ${CMAKE_SOURCE_DIR}/cmake/embed.c)
  target_link_libraries(puyu_embed PRIVATE PkgConfig::ZLIB PkgConfig::XXHASH)
  set(out ${CMAKE_BINARY_DIR}/generated/pu_web_files.c)
  add_custom_command(OUTPUT ${out} COMMAND puyu_embed ${out} ${rows} DEPENDS puyu_embed ${paths} VERBATIM
                     COMMENT "Putting the chat page into ${out}")
  target_sources(puyu_${module} PRIVATE ${out})
endfunction()

# puyu_texts(MODULE FOLDER ENDING TYPE HEADER)
# Every FOLDER/NAME.ENDING as a row {NAME, its bytes, how many} of the table `const TYPE TYPEs[]`, ended by a row of zeros
# and sorted by name.
function(puyu_texts module folder ending type header)
  file(GLOB files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.${ending})
  set(rows "")
  foreach(file ${files})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
    get_filename_component(stem ${file} NAME_WE)
    file(READ ${file} hex HEX)
    file(SIZE ${file} size)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "\\\\x\\1" escaped "${hex}")
    string(APPEND rows "    {\"${stem}\", \"${escaped}\", ${size}},\n")
  endforeach()
  set(out ${CMAKE_BINARY_DIR}/generated/${type}s.c)
  file(CONFIGURE OUTPUT ${out} CONTENT
"/* Made by puyu_texts from ${folder}: do not edit. */
#include \"${header}\"
const ${type} ${type}s[] = {
${rows}    {0}};
" @ONLY)
  target_sources(puyu_${module} PRIVATE ${out})
endfunction()

# puyu_test(NAME USES modules…): tests/DIR/NAME.c is one cmocka program.
function(puyu_test path)
  cmake_parse_arguments(T "" "" "USES;LABELS" ${ARGN})
  string(REPLACE "/" "_" name ${path})
  add_executable(test_${name} ${path}.c)
  target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR})
  foreach(used ${T_USES})
    target_link_libraries(test_${name} PRIVATE puyu_${used})
  endforeach()
  target_link_libraries(test_${name} PRIVATE PkgConfig::CMOCKA)
  target_compile_definitions(test_${name} PRIVATE PU_FIXTURES="${CMAKE_SOURCE_DIR}/tests/fixtures"
                             PU_SHARED="${CMAKE_SOURCE_DIR}/../shared" PU_PROGRAM="${CMAKE_BINARY_DIR}/puyu")
  if(path MATCHES "^(cli|e2e)/")
    add_dependencies(test_${name} puyu) # they run the program
  endif()
  if(threads IN_LIST T_LABELS) # what TSan is for is built without the rest
    if(NOT TARGET threads)
      add_custom_target(threads)
    endif()
    add_dependencies(threads test_${name})
  endif()
  add_test(NAME ${name} COMMAND test_${name})
  # The same figures on every machine: what runs on a device says so.
  set(limit 300)
  if(PUYU_SANITIZE)
    set(limit 600)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}" TIMEOUT ${limit} ENVIRONMENT PUYU_DEVICE=cpu)
endfunction()
