/// \file
/// Time, randomness, and data that knows its place on the disk.
#pragma once

#include "disk.h"

#include <cstdint>
#include <cstring>

/// The time stamp counter: the only clock that loses nothing under emulation.
inline uint64_t now()
{
  l4_uint32_t lo, hi;
  asm volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
  return uint64_t{hi} << 32 | lo;
}

/// Does nothing, in a form that an instruction-counting QEMU plugin recognises (begin and end of a measured run).
inline void mark_begin() { asm volatile(".byte 0x0f, 0x1f, 0x84, 0x00, 0x01, 0x4e, 0x56, 0x4d" ::: "memory"); }
inline void mark_end() { asm volatile(".byte 0x0f, 0x1f, 0x84, 0x00, 0x02, 0x4e, 0x56, 0x4d" ::: "memory"); }

inline uint64_t mix(uint64_t x)
{
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

struct Random
{
  uint64_t state;
  uint64_t below(uint64_t n) { return mix(state += 0x9e3779b97f4a7c15ULL) % n; }
};

/// Fills sectors with words that depend on sector, position, seed and the number of the write.
struct Pattern
{
  enum : uint64_t { Step = 0x9e3779b97f4a7c15ULL };
  uint64_t seed;

  uint64_t start(uint64_t sector, unsigned generation) const
  { return mix(mix(seed + sector) ^ (uint64_t{generation} << 32)); }

  // memcpy, because --align makes odd addresses.
  void fill(unsigned char *p, size_t size, uint64_t sector, unsigned generation) const
  {
    for (; size; size -= Disk::Sector, ++sector)
      {
        uint64_t word = start(sector, generation);
        for (unsigned i = 0; i < Disk::Sector / 8; ++i, p += 8, word += Step)
          memcpy(p, &word, 8);
      }
  }

  /// The first sector that differs, or -1. `head` compares only each sector's first word.
  long check(unsigned char const *p, size_t size, uint64_t sector, unsigned generation, bool head) const
  {
    for (long n = 0; size; size -= Disk::Sector, ++sector, ++n)
      {
        uint64_t word = start(sector, generation), bad = 0;
        for (unsigned i = 0; i < (head ? 1 : Disk::Sector / 8); ++i, word += Step)
          {
            uint64_t have;
            memcpy(&have, p + 8 * i, 8);
            bad |= have ^ word;
          }
        if (bad)
          return n;
        p += Disk::Sector;
      }
    return -1;
  }
};
