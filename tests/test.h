/* What every test program includes. */
#ifndef PUYU_TEST_H
#define PUYU_TEST_H

#include "puyu/base.h"

#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

/* ThreadSanitizer makes code some twenty times slower: what runs under it (label `threads`) tries fewer shapes there,
 * on as many threads. */
#ifdef __SANITIZE_THREAD__
enum { PU_TSAN = 1 };
#elif defined(__has_feature)
enum { PU_TSAN = __has_feature(thread_sanitizer) };
#else
enum { PU_TSAN = 0 };
#endif

/* Fails with the message of the error. */
#define assert_ok(call, err)                                                                                           \
  do {                                                                                                                 \
    pu_err assert_ok_ = (call);                                                                                        \
    if (assert_ok_ != PU_OK) fail_msg("%s: error %d: %s", #call, (int)assert_ok_, (err)->msg);                         \
  } while (0)

#endif
