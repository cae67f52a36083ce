-- What scripts for both homes need of L4Re (lua/examples/common.lua has the same names for Linux).

local L4 = require "L4"

local home = {}

-- The controllers of the server: io's bus with all storage.
function home.controllers()
  local bus = L4.default_loader:new_channel();
  L4.default_loader:start({
    caps = {
      sigma0 = L4.cast(L4.Proto.Factory, L4.Env.sigma0):create(L4.Proto.Sigma0);
      icu = L4.Env.icu;
      iommu = L4.Env.iommu;
      dma_mgr = L4.Env.dma_mgr;  -- since June 2026; before that there is none, and it is nil
      nvme = bus:svr();
    },
    log = { "io", "r" },
  }, "rom/io rom/nvme.io");
  return bus;
end

-- Starts a uvmm with this much memory and one disk. rom/vmlinuz and rom/initrd.gz are yours; the device tree is uvmm's, in which the disk is the
-- capability qdrv.
function home.start(name, memory, disks)
  local _, disk = next(disks);
  -- Contiguous, so that controllers reach it without an IOMMU.
  local flags = L4.Mem_alloc_flags.Continuous | L4.Mem_alloc_flags.Pinned | L4.Mem_alloc_flags.Super_pages;
  local ram = L4.Env.user_factory:create(L4.Proto.Dataspace, memory, flags, 21):m("rw");
  return L4.default_loader:startv({ caps = { ram = ram, qdrv = disk }, log = { name, "y" } },
    "rom/uvmm", "-drom/virt-pc.dtb", "-krom/vmlinuz", "-rrom/initrd.gz", "-cconsole=ttyS0 panic=1");
end

-- Starts a ned with these capabilities and nothing else but memory, for a script in rom and its words.
function home.loader(name, caps, script, ...)
  return L4.default_loader:startv({ caps = caps, log = { name, "c" } }, "rom/ned", "rom/" .. script .. ".lua", ...);
end

-- Takes a factory back, with all that came of it: a program that has the right D deletes it, whoever has copies.
function home.take_back(factory)
  local status = L4.default_loader:start({ caps = { factory = factory:m("rwsd") }, log = { "back", "w" } },
    "rom/nvme-take-back factory"):wait();
  assert(status == 0, "it was not taken back");
end

return home
