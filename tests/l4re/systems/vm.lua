-- See vm.cfg; returns a function.
local L4 = require("L4");
local sys = dofile("rom/sys.lua");
local loader = L4.default_loader;
return function (trusted)
sys.io();
local ram = L4.Env.user_factory:create(L4.Proto.Dataspace, 256 << 20,
              L4.Mem_alloc_flags.Continuous | L4.Mem_alloc_flags.Pinned | L4.Mem_alloc_flags.Super_pages, 21):m("rw");
local nvme;
if trusted then nvme = sys.server("-v --register-ds ram", { ram = ram }); else nvme = sys.server("-v"); end
local disk = nvme:create(0, "ds-max=5", sys.p3);
local rc;
local n = 0;
repeat
  n = n + 1;
  rc = loader:startv({ caps = { ram = ram, qdrv = disk }, log = { "vm", "y" } },
    "rom/uvmm", "-v", "-drom/virt-pc.dtb", "-krom/vmlinuz", "-rrom/initrd.gz",
    "-cconsole=ttyS0 earlyprintk=ttyS0 nokaslr mitigations=off random.trust_cpu=on panic=1"):wait();
  print("uvmm ended with", rc);
until rc ~= 0x66 or n > 3;
sys.done("exit " .. tostring(rc));
end
