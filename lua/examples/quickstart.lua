-- The quick start: a server over one disk, a session that may only read one partition, and one that may write another;
-- a client that shows what it can do with them, and what it cannot.
--
--   cargo xtask quickstart [IMAGE]
--
-- runs it with `vbus_nvme` (the disk), `client` (the client's program) and the two partitions as words. The client's
-- memory is a trusted dataspace: with `-d`, the server takes no other.

local L4 = require "L4"

local golden, scratch = arg[1], arg[2];

local nvme_bus = L4.default_loader:new_channel();
local ram = L4.Env.user_factory:create(L4.Proto.Dataspace, 32 * 1024 * 1024);

local server = L4.default_loader:start({
  caps = {
    vbus = vbus_nvme,
    svr = nvme_bus:svr(),
    ram = ram:m("rw"),
  },
  log = { "nvme", "green" },
},
"rom/nvme-drv -d ram");

local status;
do
  local ro <close> = nvme_bus:create(0, "device=" .. golden, "read-only");
  local rw <close> = nvme_bus:create(0, "ds-max=1", "device=" .. scratch);

  -- The client can ask for sessions of its own, too: it gets the client's side of the channel.
  local words = table.pack(table.unpack(client));
  words[#words + 1] = scratch;
  status = L4.default_loader:startv({
    caps = { ro = ro, rw = rw, nvme_bus = nvme_bus, ram = ram:m("rw") },
  },
  table.unpack(words)):wait();
end

server:kill();
if status ~= 0 then
  error("the client ended with " .. tostring(status));
end
