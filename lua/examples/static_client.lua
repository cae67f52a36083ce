-- A static client: its disk is reserved for it before anybody else is served, and the same socket takes its next
-- connection when the last one ends, so that a virtual machine can be started again.
--
--   nvme-ned -e 'vbus_nvme = "soft:disk.img"' static_client.lua [-- DEV]

local L4 = require "L4"

local device = arg[1] or "soft0:n1";
local nvme_cl1 = L4.default_loader:new_channel();
local nvme_bus = L4.default_loader:new_channel();

local server = L4.default_loader:startv({
  caps = {
    vbus = assert(vbus_nvme, "define vbus_nvme first, for instance by -e 'vbus_nvme = \"soft:disk.img\"'"),
    svr = nvme_bus:svr(),
    cl1 = nvme_cl1:svr(),
  },
  log = { "nvme", "green" },
},
-- Word by word, since a serial number may hold spaces.
"rom/nvme-drv", "--client", "cl1", "--device", device, "--ds-max", "5");

-- Nobody else gets that disk.
local ok, why = pcall(nvme_bus.create, nvme_bus, 0, "device=" .. device);
print(ok and "a second client got the disk!" or "a second client is refused: " .. why.msg);

-- A program that is given the client's side has a connection to the disk, under that name.
if os.getenv("CLIENT") then
  local client = L4.default_loader:start({ caps = { cl1 = nvme_cl1 } }, os.getenv("CLIENT"));
  print("the client ended with " .. client:wait());
  server:kill();
end
