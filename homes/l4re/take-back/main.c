/* nvme-take-back CAP...: deletes the factories (or sessions) that it was started with under these names, and with them all that came of them. It needs
 * the right D to each: whoever made a factory has it. ned has no word for that.
 *
 * Its status is 0 when all of them are gone. A program in C, since all it does is system calls that L4Re has as inline functions. */
#include <l4/re/c/util/cap_alloc.h>
#include <l4/re/env.h>
#include <l4/sys/task.h>

#include <stdio.h>

static int is_valid(l4_cap_idx_t cap)
{
  return l4_msgtag_label(l4_task_cap_valid(L4RE_THIS_TASK_CAP, cap)) > 0;
}

/* Deletes an object, or says why not. */
static char const *delete(char const *name)
{
  l4_cap_idx_t const cap = l4re_env_get_cap(name), copy = l4re_util_cap_alloc();
  if (l4_is_invalid_cap(cap) || l4_is_invalid_cap(copy))
    return "no such capability; give it in the caps";
  if (!is_valid(cap))
    return NULL; /* Somebody else did it. */
  /* Without D the unmap takes one's own capability and nothing else: then a copy is still there. */
  l4_fpage_t const ours = l4_obj_fpage(cap, 0, L4_CAP_FPAGE_RWS);
  if (l4_error(l4_task_map(L4RE_THIS_TASK_CAP, L4RE_THIS_TASK_CAP, ours, l4_map_obj_control(copy, L4_MAP_ITEM_MAP))) < 0)
    return "there is no room for a copy";
  l4_task_unmap(L4RE_THIS_TASK_CAP, l4_obj_fpage(cap, 0, L4_CAP_FPAGE_RWSD), L4_FP_DELETE_OBJ);
  if (is_valid(copy))
    return "it is still there; give it with the right D, as :m(\"rwsd\")";
  return NULL;
}

int main(int argc, char const *const *argv)
{
  int failed = argc < 2;
  if (failed)
    printf("usage: nvme-take-back CAP...\n");
  for (int at = 1; at < argc; ++at)
    {
      char const *const why = delete(argv[at]);
      printf("%s: %s\n", argv[at], why ? why : "taken back");
      failed |= why != NULL;
    }
  return failed;
}
