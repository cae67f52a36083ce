-- Two tenants, each with a factory that holds one disk. The tenants start virtual machines with it as they like, and pass nothing on that
-- they do not have. One is taken back with all that came of it; the other does not notice. The same script, and that of the tenants, on Linux
--
--   nvme-ned -e 'vbus_nvme = { "soft:a.img,serial=a", "soft:b.img,serial=b" }' tenants.lua [-- DEV DEV [SECONDS]]
--
-- and on L4Re, where it is what ned starts (`moe rom/tenants.lua DEV DEV [SECONDS]`, without `--`, which would be a word there;
-- lua/l4re/modules.list): what differs is in common.lua.

package.path = package.path .. ";rom/?.lua";
local L4 = require "L4"
local home = require "common"

local devices = { blue = arg[1] or "a:n1", green = arg[2] or "b:n1" };
local nvme_bus = L4.default_loader:new_channel();

local server = L4.default_loader:start({
  caps = { vbus = home.controllers(), svr = nvme_bus:svr() },
  log = { "nvme", "green" },
},
"rom/nvme-drv");

-- A tenant: a factory of its disk, for four sessions at a time, and a loader of its own that has nothing else. The right to take the
-- factory back stays here, with this value.
local function tenant(name, other)
  local device = devices[name];
  local factory = nvme_bus:create(L4.Proto.Factory, "device=" .. device, "sessions=4", "name=" .. name);
  local task = home.loader(name, { disks = factory:m("rws") }, "tenant", name, device, devices[other]);
  return { factory = factory, task = task };
end

local blue, green = tenant("blue", "green"), tenant("green", "blue");
L4.sleep(tonumber(arg[3]) or 10);

-- Blue's time is over. Whoever it gave copies to: its factory mints no more, and its machines' disks are gone.
home.take_back(blue.factory);
local ok, why = pcall(blue.factory.create, blue.factory, 0, "device=" .. devices.blue);
print(ok and "blue still mints!" or "blue is taken back: " .. why.msg);

-- The disk can be had by somebody else as soon as the last request of blue's has ended.
local vda = nvme_bus:create(0, "device=" .. devices.blue);
print("its disk is free: " .. tostring(vda:is_valid()));
L4.sleep(2);
print("green goes on: " .. tostring(green.task:state()));

blue.task:kill();
green.task:kill();
server:kill();
