-- Expressions that L4Re's ned and nvme-ned are asked for, one after the other, and what each answers, as `number<TAB>expression<TAB>answer`.
-- answers.tsv has the answers of both. Here a test compares (`cargo test --test loader beside`); ned's are written anew by hand: ned.cfg.
-- `bus` is a factory over one disk of serial number 1234, `server` the program that serves it.
local bus, server = ...
local L4 = require "L4"
local user, loader = L4.Env.user_factory, L4.default_loader
local D = "device=1234:n1"
local env = setmetatable({ L4 = L4, bus = bus, server = server, user = user, loader = loader, D = D }, { __index = _G })
env.ds = user:create(L4.Proto.Dataspace, 8192)

local expressions = {
  -- Lua, and its libraries
  "_VERSION", "type(string)", "type(table)", "type(package)", "type(io)", "type(debug)", "type(debug.traceback)", "type(math)", "type(os)", "type(utf8)", "type(coroutine)",
  -- the module
  "type(require('L4'))", "L4.Rights.w", "L4.Rights.d", "L4.Rights.n", "L4.Rights.c", "L4.Rights.rws", "L4.Proto.Factory", "L4.Proto.Dataspace", "L4.Proto.Irq_muxer",
  "L4.Mem_alloc_flags.Super_pages", "L4.Ldr_flags.pinned_segs", "L4.Dbg.All", "L4.Info.mword_bits()", "type(L4.Info.arch())",
  "L4.Env.nothing", "L4.Env.dma_mgr and 1", "type(L4.Env.log)", "L4.get_cap_class", "L4.exec",
  -- dataspaces
  "user:create(L4.Proto.Dataspace, 8192)", "user:create(L4.Proto.Dataspace, 8192.0)", "user:create(L4.Proto.Dataspace, '8192')", "user:create(L4.Proto.Dataspace, 8192.5)",
  "user:create(L4.Proto.Dataspace, 0)", "user:create(L4.Proto.Dataspace, nil, 8192)", "user:create(L4.Proto.Dataspace, 'x')", "user:create(L4.Proto.Dataspace, {})",
  "user:create(0x1234)", "user:create()", "user:create('x')", "user:create(L4.Proto.Factory, 1 << 20)", "user:create(L4.Proto.Log, 'a', 'g')",
  -- rights
  "ds:m()", "ds:m('rw'):m()", "ds:m('7'):m()", "ds:m(7):m()", "ds:m('rwsd'):m()", "ds:m('nc'):m()", "ds:m(''):m()", "ds:svr():m()", "ds:is_valid()", "ds:nothing()",
  -- casts
  "L4.cast('L4::Factory', user)", "L4.cast('L4::Nonsense', user)", "L4.cast('L4Re::Dataspace', ds)", "L4.cast(L4.Proto.Dataspace, ds)", "L4.cast(L4.Proto.Factory, user)", "L4.cast(nil, user)",
  "L4.cast('L4::Factory', nil)", "L4.cast('L4::Factory', user, 1)",
  -- sessions
  "bus:create(0, D)", "bus:create(5, D)", "bus:create(0, D, 'ds-max=4', 'read-only')", "bus:create(0, D, nil)", "bus:create(0, D, nil, 'read-only')", "bus:create(0, D, {}, 'read-only')", "bus:create(0, D, true)",
  "bus:create(0, D, 'readonly')", "bus:create(0, D, 5)", "bus:create(0, 'device=absent:n1')", "bus:create(0)", "bus:create('x', D)", "bus:svr():create(0, D)", "bus.create(5, 0, D)",
  -- programs
  "loader.new_channel({})", "loader:new_channel()", "loader:start({}, 'rom/nothing')", "loader:start({}, 'rom/nothing'):wait()", "loader:start({}, 'rom/nvme-drv'):wait()", "server:state()", "server:exit_code()", "server:exit_handler(5)",
  "server:exit_handler(print)", "server:exit_handler(print)", "server:kill()", "server:state()", "server:wait()", "server:kill()", "bus:create(0, D)",
}

local function shown(value)
  if type(value) == "userdata" then
    return tostring(value):match("^L4::Cap") and "a capability" or "a program"
  end
  return type(value) == "function" and "a function" or tostring(value)
end

local function answer(text)
  -- No tail call, which would take the line away.
  local f = load("local value = " .. text .. " return value", "=e", "t", env)
  if not f then return "no expression" end
  local ok, value = pcall(f)
  if ok then return shown(value) end
  if type(value) == "table" then
    return "raises " .. tostring(value.code) .. (value.msg:match("^e:1: runtime error %u[%a/ ]+ %(%-%d+%)") and "" or " with another text")
  end
  return "raises a " .. type(value)
end

for number, text in ipairs(expressions) do
  print(number .. "\t" .. text .. "\t" .. answer(text))
  -- What nobody refers to any more is given back: a disk has one writer.
  collectgarbage()
  collectgarbage()
end
print("EXPRESSIONS " .. #expressions)
