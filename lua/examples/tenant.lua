-- What a tenant of tenants.lua runs: a loader that has a factory by the name `disks`, and starts a machine with what that gives.

package.path = package.path .. ";rom/?.lua";
local L4 = require "L4"
local vm = require "common"

local name, device, other = table.unpack(arg);
local disks = assert(L4.Env.disks, "this is started by tenants.lua");

-- There is no telling whether what it does not hold exists.
local ok, why = pcall(disks.create, disks, 0, "device=" .. other);
print(ok and "it has somebody else's disk!" or "not its disk: " .. why.msg);

local vda = disks:create(0, "device=" .. device, "name=" .. name .. " vm 1");
local machine = vm.start("vm1", 256 * 1024 * 1024, { vda = vda });
print("vm 1 has its disk");
print("vm 1 ended with " .. tostring(machine:wait()));
