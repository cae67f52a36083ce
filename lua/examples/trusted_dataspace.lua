-- A trusted dataspace: memory that the loader makes and seals, given to the server by name and to one virtual machine.
-- With `-d`, no client can register any other memory: whoever else gets hold of a session capability can do nothing
-- with it.
--
--   nvme-ned -e 'vbus_nvme = "soft:disk.img"' trusted_dataspace.lua [-- DEV]

local L4 = require "L4"
local vm = require "common"

local size = 512 * 1024 * 1024;
local ram = L4.Env.user_factory:create(L4.Proto.Dataspace, size);
local nvme_bus = L4.default_loader:new_channel();

local server = L4.default_loader:start({
  caps = {
    vbus = assert(vbus_nvme, "define vbus_nvme first, for instance by -e 'vbus_nvme = \"soft:disk.img\"'"),
    svr = nvme_bus:svr(),
    ram = ram:m("rw"),
  },
  log = { "nvme", "green" },
},
"rom/nvme-drv -d ram");

local status;
do
  local vda <close> = nvme_bus:create(0, "ds-max=1", "device=" .. (arg[1] or "soft0:n1"));
  status = vm.start("vm", { dataspace = ram, size = size }, { vda = vda }):wait();
end

print("the virtual machine ended with " .. status);
server:kill();
