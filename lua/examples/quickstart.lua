-- Starts the server over one disk, and asks it for a session that may only read.
--
--   truncate -s 64M disk.img
--   nvme-ned -e 'vbus_nvme = "soft:disk.img"' quickstart.lua [-- DEV]
--
-- DEV is what `nvme-ctl ls` shows; without it, the first namespace of the first software controller. Runs on L4Re as
-- well, where `vbus_nvme` is a capability that `io` gave.

local L4 = require "L4"

local nvme_bus = L4.default_loader:new_channel();

L4.default_loader:start({
  caps = {
    vbus = assert(vbus_nvme, "define vbus_nvme first, for instance by -e 'vbus_nvme = \"soft:disk.img\"'"),
    svr = nvme_bus:svr(),
  },
  log = { "nvme", "green" },
},
"rom/nvme-drv");

-- Waits until the server has scanned its devices. A refusal is a table: `msg`, and `code`, a negative errno.
local ok, vda = pcall(nvme_bus.create, nvme_bus, 0, "ds-max=5", "device=" .. (arg[1] or "soft0:n1"), "read-only");
if not ok then
  print("refused: " .. vda.msg);
  error(vda);
end

print("a session: " .. tostring(vda));
