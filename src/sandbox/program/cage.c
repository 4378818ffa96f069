/* Privileges, limits and system calls of everything inside. Each is set for good: nothing inside can take one back. */
#include "src/sandbox/program/box.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <math.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From here on files are reached as the new user. Capabilities over the new namespaces stay: they are dropped once the
 * root is built. */
void box_become_user(const box *b) {
  if (b->plan.privileged && setgroups(0, NULL) != 0) box_fail(BOX_STEP_USER, "");
  if (setresgid(BOX_INSIDE, BOX_INSIDE, BOX_INSIDE) != 0 || setresuid(BOX_INSIDE, BOX_INSIDE, BOX_INSIDE) != 0)
    box_fail(BOX_STEP_USER, "");
}

static void limit(int which, uint64_t soft, uint64_t hard) {
  struct rlimit r = {soft, hard};
  if (setrlimit(which, &r) != 0) box_fail(BOX_STEP_LIMITS, "");
}

/* A limit of ours never raises one that is lower already. */
static void lower(int which, uint64_t to) {
  struct rlimit r;
  if (getrlimit(which, &r) != 0) box_fail(BOX_STEP_LIMITS, "");
  if (r.rlim_max < to) to = r.rlim_max;
  limit(which, to, to);
}

void box_set_limits(const box *b) {
  uint64_t cpu = (uint64_t)ceil(b->plan.cpu_seconds);
  limit(RLIMIT_CPU, cpu, cpu + 1); /* a signal that can be told from others, then the end */
  lower(RLIMIT_AS, b->plan.memory);
  lower(RLIMIT_NPROC, (uint64_t)b->plan.processes + 1); /* counted in this user namespace: this process is one */
  lower(RLIMIT_FSIZE, b->plan.files);
  lower(RLIMIT_STACK, 8 << 20);
  lower(RLIMIT_NOFILE, 128);
  lower(RLIMIT_SIGPENDING, 256);
  lower(RLIMIT_CORE, 1); /* 0 means no file, but a program of the machine's may still be handed the dump; 1: neither */
  lower(RLIMIT_MEMLOCK, 0);
  lower(RLIMIT_MSGQUEUE, 0);
  lower(RLIMIT_NICE, 0);
  lower(RLIMIT_RTPRIO, 0);
}

/* No capability, no way to one, and no look into this process for the ones it starts. */
void box_drop_privileges(void) {
  unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |
                       SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
  if (prctl(PR_SET_SECUREBITS, bits) != 0) box_fail(BOX_STEP_DROP, "");
  for (int cap = 0; cap < 64; cap++)
    if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EINVAL)
      box_fail(BOX_STEP_DROP, ""); /* EINVAL: past the last */
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[2] = {0};
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 || syscall(SYS_capset, &header, none) != 0 ||
      prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
    box_fail(BOX_STEP_DROP, "");
}

void box_set_filter(const box *b) {
  struct sock_fprog program = {.len = (unsigned short)b->plan.filters, .filter = b->filter};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) box_fail(BOX_STEP_FILTER, "");
}
