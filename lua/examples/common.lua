-- What the examples with virtual machines share: a QEMU whose memory the server can be given; and what scripts for both homes need of
-- this one (lua/l4re/common.lua has the same names).

local L4 = require "L4"

local vm = {}

-- Starts a QEMU with these disks: capabilities by name. `memory` is a dataspace to use as the guest's memory, or a number
-- of bytes. `more` is a list of further words. QEMU is $QEMU; $QEMU_ARGS are further words for each.
function vm.start(name, memory, disks, more)
  local caps = {};
  local words = { os.getenv("QEMU") or "qemu-system-x86_64", "-name", name, "-nodefaults", "-nographic" };
  local function add(...)
    for _, word in ipairs({ ... }) do
      words[#words + 1] = word;
    end
  end

  -- The guest's memory must be shared with the server, or it could not read and write there.
  if type(memory) == "number" then
    add("-object", "memory-backend-memfd,id=mem,share=on,size=" .. memory);
    add("-m", ("%dM"):format(memory // (1024 * 1024)));
  else
    -- The same file as the server's: opened anew, by the number of the descriptor that this QEMU inherits.
    caps.ram = memory.dataspace:m("rw");
    add("-object", "memory-backend-file,id=mem,share=on,mem-path=/proc/self/fd/{ram},size=" .. memory.size);
    add("-m", ("%dM"):format(memory.size // (1024 * 1024)));
  end
  add("-machine", "q35,memory-backend=mem");

  local names = {};
  for disk in pairs(disks) do
    names[#names + 1] = disk;
  end
  table.sort(names);
  for _, disk in ipairs(names) do
    caps[disk] = disks[disk];
    add("-chardev", ("socket,id=%s,fd={%s}"):format(disk, disk));
    add("-device", ("vhost-user-blk-pci,chardev=%s"):format(disk));
  end
  add(table.unpack(more or {}));
  for word in (os.getenv("QEMU_ARGS") or ""):gmatch("%S+") do
    add(word);
  end
  return L4.default_loader:startv({ caps = caps, log = { name } }, table.unpack(words));
end

-- The controllers of the server.
function vm.controllers()
  return assert(vbus_nvme, "define vbus_nvme first, for example as \"soft:disk.img,serial=a\"");
end

-- Starts a loader with these capabilities and nothing else, for a script beside this one and its words.
function vm.loader(name, caps, script, ...)
  local file = assert(package.searchpath(script, package.path));
  return L4.default_loader:startv({ caps = caps, log = { name } }, "rom/nvme-ned", file, "--", ...);
end

-- Takes a factory back, with all that came of it: the right to do so is the value's own, whoever has copies.
function vm.take_back(factory)
  local over <close> = factory;
end

return vm
