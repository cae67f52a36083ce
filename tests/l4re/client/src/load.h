/// \file
/// Many requests in flight, their data verified.
#pragma once

#include "data.h"
#include "options.h"

#include <unistd.h>

#include <cinttypes>
#include <cstdio>

struct Result
{
  uint64_t done = 0, errors = 0, wrong = 0, verified = 0, ticks = 0;
  bool stuck = false;
  bool good() const { return !errors && !wrong && !stuck; }
};

/// Keeps `depth` requests in flight over an area that is divided into pieces of the request's size.
class Load final : Disk::Waiter
{
public:
  Load(Disk &disk, Options const &o, size_t stride)
  : _disk(disk), _o(o), _stride(stride), _sectors(o.size / Disk::Sector), _pieces(o.span / _sectors),
    _random{o.seed}, _pattern{o.seed}, _generation(_pieces), _busy(_pieces),
    _slots(o.depth)
  {}

  /// Every piece holds the first write, as a client before us left it.
  void assume_written() { _generation.assign(_pieces, 1); }

  enum Kind { Write_in_order, Read, Mixed };

  Result run(Kind kind, unsigned requests, unsigned die = 0)
  {
    _result = Result();
    _kind = kind;
    _left = requests;
    _in_flight = 0;
    uint64_t const begin = now();
    mark_begin();
    for (unsigned slot = 0; slot < _o.depth && _left; ++slot)
      next(slot);
    while (_in_flight)
      {
        if (!_disk.work(_o.timeout * 1000))
          {
            _result.stuck = true;
            break;
          }
        if (die && _result.done >= die)
          {
            printf("[%s] CLIENT DIES on purpose after %" PRIu64 " with %u in flight\n", _o.name.c_str(), _result.done,
                   _in_flight);
            fflush(stdout);
            _exit(0);
          }
      }
    mark_end();
    _result.ticks = now() - begin;
    return _result;
  }

private:
  void next(unsigned slot)
  {
    uint64_t piece;
    do
      piece = _kind == Write_in_order ? _order++ % _pieces : _random.below(_pieces);
    while (_busy[piece]);

    bool const write = _kind == Write_in_order
                       || (_kind == Mixed && (!_generation[piece] || _random.below(2)));
    size_t const at = slot * _stride + _o.align;
    uint64_t const sector = _o.first + piece * _sectors;

    if (write)
      _pattern.fill(_disk.data(at), _o.size, sector, ++_generation[piece]);
    else if (_o.verify != Options::None) // so that a read that transfers nothing is noticed
      for (size_t i = 0; i < _o.size; i += Disk::Sector)
        memset(_disk.data(at + i), 0xa5, _o.verify == Options::All ? unsigned{Disk::Sector} : 8);

    _busy[piece] = true;
    ++_in_flight;
    --_left;
    _slots[slot] = {piece, write};
    if (!_disk.submit(*this, slot, write ? L4VIRTIO_BLOCK_T_OUT : L4VIRTIO_BLOCK_T_IN, sector, at, _o.size, _o.segments,
                      _o.grain))
      {
        printf("[%s] no room in the queue\n", _o.name.c_str());
        ++_result.errors;
        --_in_flight;
      }
  }

  void ended(unsigned slot, unsigned char status) override
  {
    auto const [piece, write] = _slots[slot];
    uint64_t const sector = _o.first + piece * _sectors;
    _busy[piece] = false;
    --_in_flight;
    ++_result.done;
    if (status != L4VIRTIO_BLOCK_S_OK)
      {
        if (_result.errors++ < 5)
          printf("[%s] %s of sector %" PRIu64 ": status %#x\n", _o.name.c_str(), write ? "write" : "read", sector, status);
      }
    else if (!write && _o.verify != Options::None && _generation[piece])
      {
        long const bad = _pattern.check(_disk.data(slot * _stride + _o.align), _o.size, sector, _generation[piece],
                                        _o.verify == Options::Head);
        if (bad < 0)
          _result.verified += _o.size;
        else if (_result.wrong++ < 5)
          printf("[%s] wrong data in sector %" PRIu64 " (request at %" PRIu64 ")\n", _o.name.c_str(), sector + bad, sector);
      }
    if (_left)
      next(slot);
  }

  Disk &_disk;
  Options const &_o;
  size_t _stride;
  uint64_t _sectors, _pieces, _order = 0;
  Random _random;
  Pattern _pattern;
  std::vector<unsigned> _generation;
  std::vector<bool> _busy;
  struct Slot
  {
    uint64_t piece;
    bool write;
  };
  std::vector<Slot> _slots;
  Kind _kind = Read;
  unsigned _left = 0, _in_flight = 0;
  Result _result;
};
