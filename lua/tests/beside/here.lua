-- Has nvme-ned answer the expressions: nvme-ned -e 'vbus_nvme = "soft:mem:64M,serial=1234"' here.lua -- expressions.lua
local bus = L4.default_loader:new_channel()
local server = L4.default_loader:start({ caps = { vbus = vbus_nvme, svr = bus:svr() } }, "rom/nvme-drv -q")
bus:create(0, "device=1234:n1") -- the scan is over when it answers
collectgarbage()
collectgarbage()
loadfile(arg[1])(bus, server)
