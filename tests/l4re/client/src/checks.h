/// \file
/// Single requests, right and wrong, and what the session must make of them.
#pragma once

#include "data.h"
#include "options.h"

#include <l4/re/env>
#include <l4/re/error_helper>
#include <l4/re/util/unique_cap>

#include <cstdio>

/// Counts what was expected and what was not, one line each.
class Checks
{
public:
  Checks(Disk &disk, Options const &o) : _disk(disk), _o(o), _pattern{o.seed ^ 0x5eed} {}

  unsigned failed() const { return _failed; }

  void run(std::string const &test)
  {
    auto const eq = test.find('=');
    std::string const name = test.substr(0, eq), arg = eq == std::string::npos ? "" : test.substr(eq + 1);
    if (name == "id") id(arg);
    else if (name == "flush") expect("flush", _disk.one(L4VIRTIO_BLOCK_T_FLUSH, 0, 0, 0), L4VIRTIO_BLOCK_S_OK);
    else if (name == "readonly") readonly();
    else if (name == "writable") writable();
    else if (name == "ds-max") ds_max(strtoul(arg.c_str(), nullptr, 0));
    else if (name == "untrusted") untrusted();
    else if (name == "discard") discard();
    else if (name == "zeroes") zeroes();
    else if (name == "bounds") bounds();
    else if (name == "address") address();
    else if (name == "odd") odd();
    else if (name == "unknown") expect("unknown request type", _disk.one(77, 0, 0, 512), L4VIRTIO_BLOCK_S_UNSUPP);
    else if (name == "reset") reset();
    else if (name == "rings") rings();
    else if (name == "caps") caps();
    else if (name == "grant") grant();
    else if (name == "taken") taken();
    else if (name == "pages") pages();
    else if (name == "hollow") hollow();
    else if (name == "shield") shield();
    else if (name == "many") many(strtoul(arg.c_str(), nullptr, 0));
    else bad_usage(name.c_str());
  }

private:
  void check(char const *what, bool good, char const *detail = "")
  {
    printf("[%s] check %-44s %s %s\n", _o.name.c_str(), what, good ? "ok" : "FAILED", detail);
    _failed += !good;
  }

  void expect(char const *what, long have, long want)
  {
    char text[48];
    snprintf(text, sizeof(text), "(%ld, expected %ld)", have, want);
    check(what, have == want, text);
  }

  /// Refused, with whatever status an error has.
  void expect_error(char const *what, unsigned char have)
  {
    char text[48];
    snprintf(text, sizeof(text), "(status %#x)", have);
    check(what, have == L4VIRTIO_BLOCK_S_IOERR || have == L4VIRTIO_BLOCK_S_UNSUPP, text);
  }

  unsigned char read(uint64_t sector, size_t size)
  {
    memset(_disk.data(), 0xa5, size);
    return _disk.one(L4VIRTIO_BLOCK_T_IN, sector, 0, size);
  }

  unsigned char write(uint64_t sector, size_t size, unsigned generation)
  {
    _pattern.fill(_disk.data(), size, sector, generation);
    return _disk.one(L4VIRTIO_BLOCK_T_OUT, sector, 0, size);
  }

  void id(std::string const &want)
  {
    char text[21] = {};
    memset(_disk.data(), 0, 20);
    expect("GET_ID", _disk.one(L4VIRTIO_BLOCK_T_GET_ID, 0, 0, 20), L4VIRTIO_BLOCK_S_OK);
    memcpy(text, _disk.data(), 20);
    check("GET_ID's text", want.empty() || want == text, text);
  }

  void writable()
  {
    expect("write", write(_o.first, 4096, 1), L4VIRTIO_BLOCK_S_OK);
    expect("read back", read(_o.first, 4096), L4VIRTIO_BLOCK_S_OK);
    check("data", _pattern.check(_disk.data(), 4096, _o.first, 1, false) < 0);
  }

  void readonly()
  {
    check("RO is offered", _disk.features(0) & (1U << L4VIRTIO_BLOCK_F_RO));
    expect("read", read(_o.first, 4096), L4VIRTIO_BLOCK_S_OK);
    std::vector<unsigned char> const before(_disk.data(), _disk.data() + 4096);
    expect("write is refused", write(_o.first, 4096, 7), L4VIRTIO_BLOCK_S_IOERR);
    range("write zeroes is refused", L4VIRTIO_BLOCK_T_WRITE_ZEROES, _o.first, 8, true);
    range("discard is refused", L4VIRTIO_BLOCK_T_DISCARD, _o.first, 8, true);
    expect("flush is accepted", _disk.one(L4VIRTIO_BLOCK_T_FLUSH, 0, 0, 0), L4VIRTIO_BLOCK_S_OK);
    expect("read again", read(_o.first, 4096), L4VIRTIO_BLOCK_S_OK);
    check("nothing has changed", !memcmp(before.data(), _disk.data(), 4096));
  }

  void range(char const *what, unsigned type, uint64_t sector, unsigned sectors, bool refused, unsigned flags = 0)
  {
    l4virtio_block_discard_t r = {sector, sectors, flags};
    memcpy(_disk.data(), &r, sizeof(r));
    unsigned char const s = _disk.one(type, 0, 0, sizeof(r));
    if (refused)
      expect_error(what, s);
    else
      expect(what, s, L4VIRTIO_BLOCK_S_OK);
  }

  void discard()
  {
    bool const offered = _disk.features(0) & (1U << L4VIRTIO_BLOCK_F_DISCARD);
    printf("[%s] discard is %soffered\n", _o.name.c_str(), offered ? "" : "not ");
    expect("write before", write(_o.first, 8192, 2), L4VIRTIO_BLOCK_S_OK);
    range(offered ? "discard" : "discard is refused", L4VIRTIO_BLOCK_T_DISCARD, _o.first, 8, !offered);
    expect("read after", read(_o.first + 8, 4096), L4VIRTIO_BLOCK_S_OK);
    check("the neighbour is untouched", _pattern.check(_disk.data(), 4096, _o.first + 8, 2, false) < 0);
    if (offered)
      range("discard beyond the end is refused", L4VIRTIO_BLOCK_T_DISCARD, _disk.device_config().capacity - 4, 8, true);
  }

  void zeroes()
  {
    expect("write before", write(_o.first, 8192, 3), L4VIRTIO_BLOCK_S_OK);
    range("write zeroes", L4VIRTIO_BLOCK_T_WRITE_ZEROES, _o.first, 8, false);
    expect("read after", read(_o.first, 8192), L4VIRTIO_BLOCK_S_OK);
    bool zero = true;
    for (unsigned i = 0; i < 4096; ++i)
      zero &= !_disk.data()[i];
    check("all are zero", zero);
    check("the neighbour is untouched", _pattern.check(_disk.data(4096), 4096, _o.first + 8, 3, false) < 0);
    range("write zeroes beyond the end is refused", L4VIRTIO_BLOCK_T_WRITE_ZEROES, _disk.device_config().capacity - 4, 8,
          true);
  }

  void bounds()
  {
    uint64_t const end = _disk.device_config().capacity;
    expect("read of the last sector", read(end - 1, 512), L4VIRTIO_BLOCK_S_OK);
    expect_error("read across the end", read(end - 1, 1024));
    expect_error("read at the end", read(end, 512));
    expect_error("read far beyond", read(end + (1ULL << 40), 512));
    expect_error("read that wraps around", read(~0ULL, 1024));
    if (!(_disk.features(0) & (1U << L4VIRTIO_BLOCK_F_RO)))
      expect_error("write across the end", write(end - 1, 1024, 4));
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  void address()
  {
    expect_error("read to an address never registered", _disk.one_at(L4VIRTIO_BLOCK_T_IN, _o.first, 0x7fff00000000, 512));
    expect_error("read to address 0", _disk.one_at(L4VIRTIO_BLOCK_T_IN, _o.first, 0, 512));
    expect_error("read that wraps around the address space", _disk.one_at(L4VIRTIO_BLOCK_T_IN, _o.first, ~0ULL - 255, 512));
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  void odd()
  {
    expect_error("read of 100 bytes", read(_o.first, 100));
    expect_error("read of no bytes", _disk.one(L4VIRTIO_BLOCK_T_IN, _o.first, 0, 0));
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  int register_one(size_t size)
  {
    auto ds = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
    L4Re::chksys(L4Re::Env::env()->mem_alloc()->alloc(size, ds.get(), L4Re::Mem_alloc::Continuous | L4Re::Mem_alloc::Pinned));
    l4_uint64_t at;
    int const r = _disk.register_ds(ds.get(), 0, size, &at);
    _spare.push_back(std::move(ds)); // the session may hold on to it: keep it until we end
    return r;
  }

  /// The queue's dataspace is the first, so `max - 1` more are allowed.
  void ds_max(unsigned max)
  {
    unsigned n = 1;
    int r = 0;
    while (n <= max + 8 && (r = register_one(L4_PAGESIZE)) >= 0)
      ++n;
    expect("dataspaces registered", n, max);
    expect("one more is refused", r, -L4_ENOMEM);
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  void untrusted()
  {
    expect("a dataspace that is not trusted is refused", register_one(L4_PAGESIZE), -L4_EINVAL);
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  /// Not a dataspace at all, no capability, regions that cannot be.
  void caps()
  {
    auto s = _disk.session();
    auto bad = L4::cap_reinterpret_cast<L4Re::Dataspace>(L4Re::Env::env()->log());
    check("the log registered as a dataspace is refused", s->register_ds(L4::Ipc::make_cap_rw(bad), 1ULL << 40, 0, 4096) < 0);
    auto none = L4::Cap<L4Re::Dataspace>();
    check("no capability is refused", s->register_ds(L4::Ipc::make_cap_rw(none), 1ULL << 40, 0, 4096) < 0);
    auto ds = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
    L4Re::chksys(L4Re::Env::env()->mem_alloc()->alloc(4096, ds.get(), L4Re::Mem_alloc::Continuous | L4Re::Mem_alloc::Pinned));
    check("a region beyond the dataspace is refused", s->register_ds(L4::Ipc::make_cap_rw(ds.get()), 1ULL << 40, 0, 1 << 20) < 0);
    check("a region that wraps around is refused",
          s->register_ds(L4::Ipc::make_cap_rw(ds.get()), ~0ULL - 4095, 0, 8192) < 0);
    check("a bad queue index is refused", s->config_queue(99) < 0);
    check("an absent notification index is refused",
          s->device_notification_irq(99, L4Re::chkcap(L4Re::Util::make_unique_cap<L4::Irq>()).get()) < 0);
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  /// Reset, and the same queue set up again without registering any memory: what a guest's driver does at a reboot.
  void reset()
  {
    expect("works before", read(0, 512), L4VIRTIO_BLOCK_S_OK);
    check("set up again", _disk.restart());
    expect("works after a reset", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  /// Broken rings: each must end in an error or in "needs reset", and a reset must heal it.
  void rings()
  {
    check("set up again", _disk.restart());
    using D = Disk::Wire_desc;
    l4_uint32_t const h = sizeof(l4virtio_block_header_t);
    uint64_t const data = _disk.dev(0).get();

    auto broken = [&](char const *what, std::initializer_list<D> chain, unsigned head) {
      bool const ended = _disk.raw_chain(chain, head, 3000);
      unsigned char const s = _disk.take_raw_status();
      char text[64];
      snprintf(text, sizeof(text), "(%s, status %#x, device %#x)", ended ? "ended" : "not ended", s, _disk.dev_status());
      check(what, s != L4VIRTIO_BLOCK_S_OK && (ended || _disk.fail_state()), text);
      check("a reset heals it", _disk.restart());
      expect("works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
    };
    auto header = [&] { return _disk.raw_header(L4VIRTIO_BLOCK_T_IN, _o.first); };
    broken("a chain without end", {D{header(), h, 1, 1}, D{data, 512, 3, 2}, D{data, 512, 3, 1}}, 0);
    broken("a next beyond the table", {D{header(), h, 1, 0x7fff}}, 0);
    broken("a head without data or status", {D{header(), h, 0, 0}}, 0);
    broken("a short header", {D{header(), 8, 1, 1}, D{data, 512, 3, 2}, D{_disk.raw_status(), 1, 2, 0}}, 0);
    broken("an indirect table within another",
           {D{data, 16, 4, 0}, D{data, 512, 3, 2}, D{_disk.raw_status(), 1, 2, 0}}, 0);
    broken("empty descriptors in a circle", {D{header(), h, 1, 1}, D{data, 0, 3, 2}, D{data, 0, 3, 1}}, 0);
  }

  /// Makes the server hold the session's own capability, as its interrupt: it would be in use for ever. To be the last test.
  void grant()
  {
    auto *utcb = l4_utcb();
    auto *mr = l4_utcb_mr_u(utcb);
    mr->mr[0] = 0; // bind
    mr->mr[1] = 0;
    mr->mr[2] = L4_ITEM_MAP | L4_MAP_ITEM_GRANT;
    mr->mr[3] = _disk.session().fpage(L4_CAP_FPAGE_RWSD).raw;
    auto const tag = l4_ipc_call(_disk.session().cap(), utcb, l4_msgtag(L4_PROTO_IRQ, 2, 1, 0), L4_IPC_NEVER);
    check("the session as its own interrupt is refused", l4_ipc_error(tag, utcb) || l4_msgtag_label(tag) < 0);
  }

  /// Deletes what it registered, and goes on asking for data there.
  void taken()
  {
    size_t const size = 64 << 10;
    for (unsigned round = 0; round < 3; ++round)
      {
        auto ds = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
        L4Re::chksys(L4Re::Env::env()->mem_alloc()->alloc(size, ds.get(), L4Re::Mem_alloc::Continuous | L4Re::Mem_alloc::Pinned));
        l4_uint64_t at;
        expect("register", _disk.register_ds(ds.get(), 0, size, &at), 0);
        expect("read there", _disk.one_at(L4VIRTIO_BLOCK_T_IN, _o.first, at, 4096), L4VIRTIO_BLOCK_S_OK);
        check("delete the memory", !l4_error(L4Re::Env::env()->task()->delete_obj(ds.get())));
        l4_ipc_sleep(l4_timeout(L4_IPC_TIMEOUT_NEVER, l4_timeout_from_us(5000)));
        // Without an IOMMU this would write to what may be somebody else's memory by now.
        expect_error("a read there is refused", _disk.one_at(L4VIRTIO_BLOCK_T_IN, _o.first, at, 4096));
        expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
      }
  }

  /// Registers one dataspace in as many places as it may, which is not to cost others anything, and keeps it so for some seconds.
  void many(unsigned seconds)
  {
    auto ds = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
    L4Re::chksys(L4Re::Env::env()->mem_alloc()->alloc(4096, ds.get(), L4Re::Mem_alloc::Continuous | L4Re::Mem_alloc::Pinned));
    auto s = _disk.session();
    int r = 0, n = 0;
    while (n < 600 && (r = s->register_ds(L4::Ipc::make_cap_rw(ds.get()), (1ULL << 40) + (n << 16), 0, 4096)) >= 0)
      ++n;
    // The queue's memory is in one region.
    expect("regions registered", n, 511);
    expect("one more is refused", r, -L4_ENOMEM);
    l4_ipc_sleep(l4_timeout(L4_IPC_TIMEOUT_NEVER, l4_timeout_from_us(seconds * 1000000)));
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  /// Gives the pages of what it registered back, and takes care that nobody gets them again: a status byte is to be written there.
  void pages()
  {
    size_t const size = 64 << 10;
    auto ds = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
    auto ma = L4Re::Env::env()->mem_alloc();
    L4Re::chksys(ma->alloc(size, ds.get(), 0));
    check("set up again", _disk.restart());
    uint64_t const at = 1ULL << 40;
    int const r = _disk.session()->register_ds(L4::Ipc::make_cap_rw(ds.get()), at, 0, size);
    if (r < 0)
      {
        expect("memory in pieces is refused where there is no IOMMU", r, -L4_EINVAL);
        return;
      }
    using D = Disk::Wire_desc;
    l4_uint32_t const h = sizeof(l4virtio_block_header_t);
    uint64_t const data = _disk.dev(0).get();
    auto ask = [&] {
      return _disk.raw_chain({D{_disk.raw_header(L4VIRTIO_BLOCK_T_IN, _o.first), h, 1, 1}, D{data, 512, 3, 2},
                              D{at + 0x2000, 1, 2, 0}}, 0, 3000);
    };
    check("a status byte there", ask());
    std::vector<L4Re::Util::Unique_cap<L4Re::Dataspace>> hoard;
    hoard.reserve(2000);
    // Single pages come of this one.
    auto crumbs = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
    L4Re::chksys(ma->alloc(size, crumbs.get(), 0));
    L4Re::chksys(ds->clear(0, size));
    for (size_t piece = 1 << 20; piece >= L4_PAGESIZE; piece >>= 1)
      while (hoard.size() < 2000)
        {
          auto more = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
          if (ma->alloc(piece, more.get(), L4Re::Mem_alloc::Continuous) < 0)
            break;
          hoard.push_back(std::move(more));
        }
    size_t at_crumb = 0;
    while (at_crumb < size && crumbs->allocate(at_crumb, L4_PAGESIZE) >= 0)
      at_crumb += L4_PAGESIZE;
    ask();
    // That it ended may be told before that the queue is broken.
    check("a status byte where no page can be", _disk.await_failure(3000));
    hoard.clear();
    crumbs.reset();
    check("a reset heals it", _disk.restart());
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  /// Registers memory whose pages cannot be had, since its maker's quota is smaller. Since June 2026 attaching says nothing of that.
  void hollow()
  {
    size_t const size = 1 << 20;
    auto const env = L4Re::Env::env();
    auto purse = L4Re::chkcap(L4Re::Util::make_unique_cap<L4::Factory>());
    L4Re::chksys(l4_error(env->user_factory()->create(purse.get()) << l4_mword_t{256 << 10}), "Make a quota");
    auto ds = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
    L4Re::chksys(L4::cap_reinterpret_cast<L4Re::Mem_alloc>(purse.get())->alloc(size, ds.get(), 0), "Allocate beyond it");
    long const r = _disk.session()->register_ds(L4::Ipc::make_cap_rw(ds.get()), 1ULL << 41, 0, size);
    char text[40];
    snprintf(text, sizeof(text), "(%ld)", r);
    check("memory without pages is refused", r < 0, text);
    expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
  }

  /// Memory that its capability lets nobody write. Since June 2026 L4Re maps it for DMA all the same: what keeps a disk from being read into it is
  /// the session's own look at the right to write.
  void shield()
  {
    size_t const size = L4_PAGESIZE;
    uint64_t const at = 1ULL << 42;
    auto ds = L4Re::chkcap(L4Re::Util::make_unique_cap<L4Re::Dataspace>());
    L4Re::chksys(L4Re::Env::env()->mem_alloc()->alloc(size, ds.get(), L4Re::Mem_alloc::Continuous | L4Re::Mem_alloc::Pinned));
    L4Re::Rm::Unique_region<unsigned char *> view;
    L4Re::chksys(L4Re::Env::env()->rm()->attach(&view, size, L4Re::Rm::F::Search_addr | L4Re::Rm::F::RW, L4::Ipc::make_cap_rw(ds.get())));
    expect("other data on the disk", write(_o.first, size, 8), L4VIRTIO_BLOCK_S_OK);
    _pattern.fill(view.get(), size, _o.first, 9);
    std::vector<unsigned char> const before(view.get(), view.get() + size);

    int const r = _disk.session()->register_ds(L4::Ipc::make_cap(ds.get(), L4_CAP_FPAGE_RO), at, 0, size);
    if (r < 0)
      {
        // L4Re of before maps it for no device.
        expect("memory that may not be written is refused", r, -L4_EINVAL);
        expect("still works", read(0, 512), L4VIRTIO_BLOCK_S_OK);
        return;
      }
    expect_error("a read into it is refused", _disk.one_at(L4VIRTIO_BLOCK_T_IN, _o.first, at, size));
    check("nothing of it has changed", !memcmp(before.data(), view.get(), size));
    expect("it is written to the disk", _disk.one_at(L4VIRTIO_BLOCK_T_OUT, _o.first, at, size), L4VIRTIO_BLOCK_S_OK);
    expect("read back", read(_o.first, size), L4VIRTIO_BLOCK_S_OK);
    check("data", _pattern.check(_disk.data(), size, _o.first, 9, false) < 0);
  }

  Disk &_disk;
  Options const &_o;
  Pattern _pattern;
  std::vector<L4Re::Util::Unique_cap<L4Re::Dataspace>> _spare;
  unsigned _failed = 0;
};
