/// \file
/// What the command line says.
#pragma once

#include <cstdint>

#include <string>
#include <vector>

struct Options
{
  std::string name = "client";      ///< tells several clients apart in the log
  std::string cap = "disk";         ///< the session
  std::string queue_cap;            ///< a dataspace for queues and data, from the environment
  bool external_queue = false;      ///< one of our own for them, sized for queues of 256
  std::string mode = "write-verify";
  unsigned requests = 1000, depth = 1, size = 4096, segments = 1, grain = 512, align = 0, runs = 1, die = 0;
  unsigned timeout = 60;            ///< seconds without any completion after which a run has failed
  uint64_t seed = 1, first = 0, span = 0;
  enum Verify { None, Head, All } verify = All;
  std::vector<std::string> tests;
  std::string factory = "factory";  ///< what a tenant mints through
  std::vector<std::string> asks, factory_asks; ///< `CODE:WORD,WORD`: for a session, for a factory, and the answer
  std::string revoke;               ///< a capability to delete
  std::vector<std::string> sees, keeps; ///< capabilities that are gone then, that are there still
};

/// Reads the command line; an explanation and an exit on anything unknown.
Options parse(int argc, char **argv);

/// Says what is wrong with the command line, and ends.
[[noreturn]] void bad_usage(char const *what);
