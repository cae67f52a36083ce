/* A plugin for QEMU (7.2 or later): counts the instructions that a guest executes between the marks of nvme-client (data.h), which
 * stand at the begin and the end of each run of requests. Nothing is counted while every CPU is idle, whatever the time.
 *
 *   cc -O2 -shared -fPIC -o count.so count.c
 *   qemu-system-x86_64 -plugin ./count.so -d plugin ...
 *
 * Each run is a line: all instructions, and those of them in the kernel (its addresses have the highest bit). An instruction that
 * repeats itself counts once for each repetition.
 *
 * What is declared here of QEMU's plugin interface is the part that is used. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
extern void qemu_plugin_outs(const char *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { NO_REGISTERS = 0, ADD = 0 };

static uint64_t all, kernel, all_then, kernel_then;

static void mark(unsigned cpu, void *end)
{
  (void)cpu;
  if (end)
    {
      char line[120];
      snprintf(line, sizeof(line), "COUNT %" PRIu64 " instructions, %" PRIu64 " in the kernel\n", all - all_then, kernel - kernel_then);
      qemu_plugin_outs(line);
    }
  all_then = all;
  kernel_then = kernel;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
  static unsigned char const nop[] = {0x0f, 0x1f, 0x84, 0x00}, name[] = {0x4e, 0x56, 0x4d};
  (void)id;
  for (size_t at = 0; at < qemu_plugin_tb_n_insns(tb); ++at)
    {
      struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, at);
      qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, &all, 1);
      if (qemu_plugin_insn_vaddr(insn) >> 63)
        qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, &kernel, 1);
      unsigned char const *bytes = qemu_plugin_insn_data(insn);
      if (qemu_plugin_insn_size(insn) == 8 && !memcmp(bytes, nop, 4) && !memcmp(bytes + 5, name, 3))
        qemu_plugin_register_vcpu_insn_exec_cb(insn, mark, NO_REGISTERS, bytes[4] == 2 ? &all : NULL);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, qemu_info_t const *info, int argc, char **argv)
{
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
