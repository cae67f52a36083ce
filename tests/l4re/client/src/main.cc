/**
 * \file
 * A client for virtio block sessions on L4Re: load with verified data, and checks of what a session must refuse.
 *
 * The last line is `CLIENT PASS …` or `CLIENT FAIL …`; the exit status says the same. `options.cc` has the usage.
 */
#include "checks.h"
#include "load.h"
#include "tenant.h"

#include <l4/re/util/cap_alloc>
#include <l4/re/util/env_ns>
#include <l4/sys/kip.h>

#include <algorithm>

namespace {

int run(Options o)
{
  auto *env = L4Re::Env::env();
  Tenant tenant(o);
  tenant.mint();
  tenant.revoke();
  if (o.mode == "none" && o.tests.empty())
    {
      printf("[%s] CLIENT %s %u failed\n", o.name.c_str(), tenant.failed() ? "FAIL" : "PASS", tenant.failed());
      return tenant.failed() ? 1 : 0;
    }
  auto session = tenant.session();
  if (!session.is_valid())
    session = L4Re::chkcap(env->get_cap<L4virtio::Device>(o.cap.c_str()), "Find the session");

  size_t const stride = l4_round_page(o.size + o.align);
  size_t const payload = std::max<size_t>(o.depth * stride, 64 << 10);

  L4::Cap<L4Re::Dataspace> queue_ds;
  L4Re::Util::Unique_cap<L4Re::Dataspace> own;
  if (!o.queue_cap.empty())
    queue_ds = L4Re::chkcap(env->get_cap<L4Re::Dataspace>(o.queue_cap.c_str()), "Find the queue dataspace");
  else if (o.external_queue)
    {
      own = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
      L4Re::chksys(env->mem_alloc()->alloc(Disk::memory_for(256, payload), own.get(),
                                           L4Re::Mem_alloc::Continuous | L4Re::Mem_alloc::Pinned),
                   "Allocate the queue dataspace");
      queue_ds = own.get();
    }

  Disk disk;
  disk.open(session, payload, queue_ds);
  if (disk.fail_state())
    L4Re::chksys(-L4_EIO, "Finish the handshake");

  auto const &c = disk.device_config();
  printf("[%s] connected: %" PRIu64 " sectors, queue %u, seg_max %u, size_max %u, features %08x %08x\n", o.name.c_str(),
         static_cast<uint64_t>(c.capacity), disk.queue_size(), c.seg_max, c.size_max, disk.features(1), disk.features(0));

  if (!o.span || o.first + o.span > c.capacity)
    o.span = c.capacity - o.first;
  if ((disk.features(0) & (1U << L4VIRTIO_BLOCK_F_SEG_MAX)) && o.segments > c.seg_max)
    {
      printf("[%s] at most %u segments per request are allowed, using that many\n", o.name.c_str(), c.seg_max);
      o.segments = c.seg_max;
    }
  if ((disk.features(0) & (1U << L4VIRTIO_BLOCK_F_SIZE_MAX)) && c.size_max && o.size / o.segments > c.size_max)
    o.segments = (o.size + c.size_max - 1) / c.size_max;
  if (o.depth * (o.segments + 2) > disk.queue_size())
    bad_usage("depth × (segments + 2) exceeds the queue");

  unsigned failed = tenant.failed();
  if (!o.tests.empty())
    {
      Checks checks(disk, o);
      for (auto const &t : o.tests)
        checks.run(t);
      failed += checks.failed();
    }

  l4_umword_t const khz = l4re_kip()->frequency_cpu;
  uint64_t total = 0, verified = 0;
  auto report = [&](char const *what, Result const &r) {
    double const s = khz ? r.ticks / (khz * 1000.0) : 0;
    printf("[%s] %-12s size %u depth %u segments %u: %" PRIu64 " requests, %.0f IOPS, %" PRIu64 " ticks each, "
           "%" PRIu64 " errors, %" PRIu64 " wrong, %" PRIu64 " KiB verified%s\n",
           o.name.c_str(), what, o.size, o.depth, o.segments, r.done, s > 0 ? r.done / s : 0.0,
           r.done ? r.ticks / r.done : 0, r.errors, r.wrong, r.verified >> 10, r.stuck ? ", STUCK" : "");
    failed += !r.good();
    total += r.done;
    verified += r.verified;
  };

  if (o.mode == "write-verify")
    {
      uint64_t const pieces = o.requests / 2;
      uint64_t const sectors = o.size / Disk::Sector;
      if (pieces && pieces * sectors < o.span) // read only what has been written
        o.span = std::max<uint64_t>(pieces, o.depth + 1) * sectors;
    }
  if (o.span / (o.size / Disk::Sector) <= o.depth)
    bad_usage("the area is too small for the depth");

  Load load(disk, o, stride);
  if (o.mode == "randread" && o.verify != Options::None)
    load.assume_written();
  for (unsigned r = 0; r < o.runs && !failed; ++r)
    if (o.mode == "write-verify")
      {
        report("write", load.run(Load::Write_in_order, o.requests - o.requests / 2, o.die));
        if (disk.one(L4VIRTIO_BLOCK_T_FLUSH, 0, 0, 0) != L4VIRTIO_BLOCK_S_OK)
          ++failed;
        report("verify", load.run(Load::Read, o.requests / 2));
      }
    else if (o.mode == "randread")
      report("randread", load.run(Load::Read, o.requests, o.die));
    else if (o.mode == "mixed")
      report("mixed", load.run(Load::Mixed, o.requests, o.die));
    else if (o.mode != "none")
      bad_usage(o.mode.c_str());

  if (disk.fail_state())
    {
      printf("[%s] the device is in a fail state, status %#x\n", o.name.c_str(), disk.dev_status());
      ++failed;
    }
  printf("[%s] CLIENT %s %" PRIu64 " requests, %" PRIu64 " KiB verified, %u failed\n", o.name.c_str(),
         failed ? "FAIL" : "PASS", total, verified >> 10, failed);
  return failed ? 1 : 0;
}

} // namespace

int main(int argc, char **argv)
{
  Options const o = parse(argc, argv);
  try
    {
      return run(o);
    }
  catch (L4::Runtime_error const &e)
    {
      printf("[%s] CLIENT FAIL %s: %s (%ld)\n", o.name.c_str(), e.extra_str(), e.str(), e.err_no());
      return 1;
    }
}
