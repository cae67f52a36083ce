-- Common parts of the test systems: io, an nvme-drv, clients. Used with dofile("rom/sys.lua").
local L4 = require("L4");
local loader = L4.default_loader;
local sys = {};

-- Starts io with rom/nvme.io; returns the bus of the NVMe server.
function sys.io(file)
  sys.vbus = loader:new_channel();
  loader:start({
    caps = {
      sigma0 = L4.cast(L4.Proto.Factory, L4.Env.sigma0):create(L4.Proto.Sigma0);
      icu    = L4.Env.icu;
      iommu  = L4.Env.iommu;
      dma_mgr = L4.Env.dma_mgr; -- nil where associating is still the Dma_space's own
      nvme   = sys.vbus:svr();
    },
    log = { "io", "r" },
  }, "rom/io " .. (file or "rom/nvme.io"));
  return sys.vbus;
end

-- Starts the server; `caps` are further ones. Returns the factory's client side, and the program.
function sys.server(options, caps)
  local svr = loader:new_channel();
  local all = { vbus = sys.vbus, svr = svr:svr() };
  for k, v in pairs(caps or {}) do all[k] = v; end
  local task = loader:start({ caps = all, log = { "nvme", "g" } }, "rom/nvme-drv " .. (options or ""));
  return svr, task;
end

-- Runs a client to its end; returns its exit status.
function sys.client(session, options, caps)
  local all = { disk = session };
  for k, v in pairs(caps or {}) do all[k] = v; end
  return loader:start({ caps = all, log = { "client", "c" } }, "rom/nvme-client " .. options):wait();
end

-- Starts a client in the background.
function sys.client_bg(session, options, caps)
  local all = { disk = session };
  for k, v in pairs(caps or {}) do all[k] = v; end
  return loader:start({ caps = all, log = { "client", "y" } }, "rom/nvme-client " .. options);
end

-- A session, or nil and the error that create raised.
function sys.try(factory, ...)
  local ok, r = pcall(function (...) return factory:create(0, ...) end, ...);
  if ok then return r; end
  return nil, r;
end

-- Memory for DMA must be contiguous and pinned: without the flags, requests into it fail.
function sys.dataspace(size)
  return L4.Env.user_factory:create(L4.Proto.Dataspace, size, L4.Mem_alloc_flags.Continuous | L4.Mem_alloc_flags.Pinned, 12);
end

function sys.done(text)
  print("SYSTEM DONE " .. (text or ""));
end

sys.p1 = "device=88E59675-4DC8-469A-98E4-B7B021DC7FBE"; -- label golden, 64 MiB
sys.p2 = "device=7C2C40FA-7B47-4345-BED0-2F0E351C443A"; -- label scratch, 64 MiB
sys.p3 = "device=AF569322-BCA3-4ED4-9884-F8D8D3279422"; -- label data
return sys;
