# cmake -DIN=FILE -DOUT=FILE.c -DNAME=name -P bytes.cmake: a file as an array of a C file, `name`, and its length, `name_len`.
file(READ ${IN} hex HEX)
file(SIZE ${IN} size)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUT} "/* Made by cmake/bytes.cmake: do not edit. */
extern const unsigned char ${NAME}[];
extern const unsigned long ${NAME}_len;
const unsigned char ${NAME}[] = {${bytes}};
const unsigned long ${NAME}_len = ${size};
")
