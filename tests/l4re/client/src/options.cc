#include "options.h"
#include "disk.h"

#include <getopt.h>

#include <cstdio>
#include <cstdlib>

namespace {

char const *const usage =
  "nvme-client [options]\n"
  "  --cap NAME            the session's capability (disk)\n"
  "  --name NAME           a name for the log\n"
  "  --mode MODE           write-verify: writes the area, then reads it in random order\n"
  "                        mixed: random reads and writes, each read checked against the last write\n"
  "                        randread: random reads of an area that write-verify left (or that is not checked)\n"
  "                        none: only the tests\n"
  "  --requests N --depth D --size BYTES --runs R --timeout SECONDS\n"
  "  --segments S          descriptors per request;  --grain BYTES  each a multiple of this;  --align BYTES  start there\n"
  "  --first SECTOR --span SECTORS   the area on the disk\n"
  "  --seed N --verify all|head|none\n"
  "  --external-queue      allocates the queue memory itself, sized for queues of 256;  --queue-ds CAP  takes it from CAP\n"
  "  --die N               exits after N completions with requests in flight\n"
  "  --test NAME[=ARG]     repeatable: id[=TEXT] flush readonly writable ds-max=N untrusted discard zeroes bounds address\n"
  "                        odd unknown caps shield; last: reset rings\n"
  "  --factory CAP         a factory;  --ask CODE:WORD,WORD  asks it for a session (the first is the disk then)\n"
  "                        --ask-factory CODE:WORD,WORD  for a factory: both repeatable\n"
  "  --revoke CAP          deletes it, and looks whether each  --sees CAP  goes and each  --keeps CAP  stays\n";

} // namespace

void bad_usage(char const *what)
{
  printf("CLIENT FAIL usage: %s\n%s", what, usage);
  exit(2);
}

Options parse(int argc, char **argv)
{
  Options o;
  enum { Cap, Name, Mode, Requests, Depth, Size, Segments, Grain, Align, Runs, Die, Timeout, Seed, First, Span, Verify,
         External, Queue_ds, Test, Factory, Ask, Ask_factory, Revoke, Sees, Keeps };
  static option const known[] = {
    {"cap", 1, 0, Cap}, {"name", 1, 0, Name}, {"mode", 1, 0, Mode}, {"requests", 1, 0, Requests}, {"depth", 1, 0, Depth},
    {"size", 1, 0, Size}, {"segments", 1, 0, Segments}, {"grain", 1, 0, Grain}, {"align", 1, 0, Align},
    {"runs", 1, 0, Runs}, {"die", 1, 0, Die}, {"timeout", 1, 0, Timeout}, {"seed", 1, 0, Seed}, {"first", 1, 0, First},
    {"span", 1, 0, Span}, {"verify", 1, 0, Verify}, {"external-queue", 0, 0, External}, {"queue-ds", 1, 0, Queue_ds},
    {"test", 1, 0, Test}, {"factory", 1, 0, Factory}, {"ask", 1, 0, Ask}, {"ask-factory", 1, 0, Ask_factory},
    {"revoke", 1, 0, Revoke}, {"sees", 1, 0, Sees}, {"keeps", 1, 0, Keeps}, {0, 0, 0, 0}};
  for (int c; (c = getopt_long(argc, argv, "", known, nullptr)) != -1;)
    {
      std::string const arg = optarg ? optarg : "";
      uint64_t const n = strtoull(arg.c_str(), nullptr, 0);
      switch (c)
        {
        case Cap: o.cap = arg; break;
        case Name: o.name = arg; break;
        case Mode: o.mode = arg; break;
        case Requests: o.requests = n; break;
        case Depth: o.depth = n; break;
        case Size: o.size = n; break;
        case Segments: o.segments = n; break;
        case Grain: o.grain = n; break;
        case Align: o.align = n; break;
        case Runs: o.runs = n; break;
        case Die: o.die = n; break;
        case Timeout: o.timeout = n; break;
        case Seed: o.seed = n; break;
        case First: o.first = n; break;
        case Span: o.span = n; break;
        case Verify:
          o.verify = arg == "all" ? Options::All : arg == "head" ? Options::Head : Options::None;
          break;
        case External: o.external_queue = true; break;
        case Queue_ds: o.queue_cap = arg; break;
        case Test: o.tests.push_back(arg); break;
        case Factory: o.factory = arg; break;
        case Ask: o.asks.push_back(arg); break;
        case Ask_factory: o.factory_asks.push_back(arg); break;
        case Revoke: o.revoke = arg; break;
        case Sees: o.sees.push_back(arg); break;
        case Keeps: o.keeps.push_back(arg); break;
        default: bad_usage("unknown option");
        }
    }
  if (optind < argc)
    bad_usage(argv[optind]);
  if (!o.depth || !o.segments || !o.grain || !o.size || o.size % Disk::Sector)
    bad_usage("a number out of range");
  return o;
}
