/// \file
/// A tenant, who has a factory and mints through it; and whoever takes a factory back.
#pragma once

#include "options.h"

#include <l4/l4virtio/l4virtio>
#include <l4/re/env>
#include <l4/re/error_helper>
#include <l4/re/util/unique_cap>
#include <l4/sys/factory>
#include <l4/sys/meta>
#include <l4/util/util.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

class Tenant
{
public:
  explicit Tenant(Options const &o) : _o(o) {}

  unsigned failed() const { return _failed; }
  /// The first session that was granted.
  L4::Cap<L4virtio::Device> session() const { return _session; }

  /// Asks for everything that the command line says, and holds what it gets.
  void mint()
  {
    for (auto const &ask : _o.asks)
      one(ask, 0);
    for (auto const &ask : _o.factory_asks)
      one(ask, L4_PROTO_FACTORY);
  }

  /// Deletes a capability's object, if it has the right; then whatever is to be gone is gone soon, and whatever is not is still there.
  void revoke()
  {
    if (_o.revoke.empty())
      return;
    auto const task = L4Re::Env::env()->task();
    auto const cap = find(_o.revoke);
    L4Re::chksys(task->unmap(cap.fpage(L4_CAP_FPAGE_RWSD), L4_FP_DELETE_OBJ), "Delete");
    for (auto const &name : _o.sees)
      {
        auto const other = find(name);
        unsigned ms = 0;
        for (; task->cap_valid(other).label() > 0 && ms < 3000; ms += 10)
          l4_sleep(10);
        check(name.c_str(), "is gone", ms < 3000);
      }
    l4_sleep(200);
    for (auto const &name : _o.keeps)
      check(name.c_str(), "is still there", task->cap_valid(find(name)).label() > 0);
  }

private:
  static L4::Cap<void> find(std::string const &name)
  { return L4Re::chkcap(L4Re::Env::env()->get_cap<void>(name.c_str()), name.c_str()); }

  void check(char const *what, char const *how, bool good)
  {
    printf("[%s] check %-44s %s %s\n", _o.name.c_str(), what, how, good ? "ok" : "FAILED");
    _failed += !good;
  }

  /// `CODE:WORD,WORD`: asks, and compares the answer.
  void one(std::string const &ask, long object)
  {
    auto const colon = ask.find(':');
    if (colon == std::string::npos)
      bad_usage(ask.c_str());
    long const want = strtol(ask.c_str(), nullptr, 10);
    auto cap = L4Re::chkcap(L4Re::Util::make_unique_cap<L4::Kobject>());
    auto const factory = L4::cap_cast<L4::Factory>(find(_o.factory));
    auto s = factory->create(cap.get(), object);
    for (size_t at = colon + 1; at <= ask.size();)
      {
        auto const comma = std::min(ask.find(',', at), ask.size());
        s << ask.substr(at, comma - at).c_str();
        at = comma + 1;
      }
    long const code = l4_error(static_cast<l4_msgtag_t>(s));
    char text[40];
    snprintf(text, sizeof(text), "(%ld, expected %ld)", code, want);
    check(ask.c_str(), text, code == want);
    if (code < 0)
      return;
    // A factory must not be taken for a session, nor the other way round.
    auto const meta = L4::cap_cast<L4::Meta>(cap.get());
    check("Meta", object ? "says that it is a factory" : "says that it is a session",
          meta->supports(L4_PROTO_FACTORY).label() == (object ? 1 : 0) && meta->supports(0).label() == (object ? 0 : 1));
    if (!object && !_session.is_valid())
      _session = L4::cap_cast<L4virtio::Device>(cap.get());
    _held.push_back(std::move(cap));
  }

  Options const &_o;
  unsigned _failed = 0;
  L4::Cap<L4virtio::Device> _session;
  std::vector<L4Re::Util::Unique_cap<L4::Kobject>> _held;
};
