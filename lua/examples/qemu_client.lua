-- A virtual machine with one disk of the server. Both end together.
--
--   nvme-ned -e 'vbus_nvme = "soft:disk.img"' qemu_client.lua [-- DEV]
--
-- $QEMU is the program, and $QEMU_ARGS are further words for it: a kernel, a console.

local L4 = require "L4"
local vm = require "common"

local nvme_bus = L4.default_loader:new_channel();

local server = L4.default_loader:start({
  caps = {
    vbus = assert(vbus_nvme, "define vbus_nvme first, for instance by -e 'vbus_nvme = \"soft:disk.img\"'"),
    svr = nvme_bus:svr(),
  },
  log = { "nvme", "green" },
},
"rom/nvme-drv");

local status;
do
  -- <close>: the loader's own reference goes at the end of the block, so that the session ends with the machine.
  local vda <close> = nvme_bus:create(0, "device=" .. (arg[1] or "soft0:n1"));
  status = vm.start("vm", 1024 * 1024 * 1024, { vda = vda }):wait();
end

print("the virtual machine ended with " .. status);
server:kill();
