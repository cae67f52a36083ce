-- Several virtual machines read one golden image, each with a scratch disk of its own. Readers share; a writer is alone.
--
--   nvme-ned -e 'vbus_nvme = { "soft:golden.img,serial=golden", "soft:scratch.img,serial=scratch" }' \
--     golden_image.lua [-- MACHINES]
--
-- The scratch disk has a partition for each machine; a machine's number is its partition's.

local L4 = require "L4"
local vm = require "common"

local machines = tonumber(arg[1]) or 2;
local nvme_bus = L4.default_loader:new_channel();

local server = L4.default_loader:start({
  caps = {
    vbus = assert(vbus_nvme, "define vbus_nvme first: two disks, with the serial numbers golden and scratch"),
    svr = nvme_bus:svr(),
  },
  log = { "nvme", "green" },
},
"rom/nvme-drv");

local running = {};
for number = 1, machines do
  local vda <close> = nvme_bus:create(0, "device=golden:n1", "read-only");
  local vdb <close> = nvme_bus:create(0, "device=scratch:n1:" .. number);
  running[number] = vm.start("vm" .. number, 512 * 1024 * 1024, { vda = vda, vdb = vdb });
end

for number, machine in ipairs(running) do
  print(("machine %d ended with %d"):format(number, machine:wait()));
end
server:kill();
