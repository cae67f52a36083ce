-- The module "L4", as scripts see it. What needs the system is in `native`, the argument of this chunk. A native function
-- that fails returns nil, a negative errno and a message; it becomes an error here, since only Lua code can raise a table.
local native = ...
local math_tointeger = math.tointeger

local L4 = {}

-- A failed call raises such a table: `msg` says where and why, `code` is the negative errno. It prints as its `msg`.
local Failure = { __name = "L4.Failure" }
Failure.__tostring = function(self) return self.msg end
Failure.__concat = function(a, b) return tostring(a) .. tostring(b) end

-- An error of the library's own is an object that prints with a trace, and whose `code` cannot be asked for. A mistake in a call is a string in ned.
local where = native.where
for name, f in pairs(native) do
  if type(f) == "function" then
    native[name] = function(...)
      local result = table.pack(pcall(f, ...))
      if result[1] then
        return table.unpack(result, 2, result.n)
      end
      local why = result[2]
      if type(why) == "userdata" then
        why = where() .. tostring(why):match("^[^\n]*"):gsub("^runtime error: ", "")
      end
      error(why, 0)
    end
  end
end

-- Hands on what a native function returned, or raises its failure as one of the script's line: as ned says it, with the reason behind.
local function checked(value, code, text)
  if code == nil then
    return value
  end
  local msg = where() .. "runtime error " .. native.error_text(code) .. " (" .. code .. "): " .. text
  error(setmetatable({ msg = msg, code = code }, Failure), 0)
end

L4.Proto = {
  Ipc_gate = 0,
  Sigma0 = -6, Log = -13, Scheduler = -14, Factory = -15, Vm = -16, Dma_space = -17,
  Irq_sender = -18, Semaphore = -20, Iommu = -22,
  Dataspace = 0x4000, Namespace = 0x4001, Goos = 0x4003, Mem_alloc = 0x4004, Rm = 0x4005,
  Event = 0x4006, Inhibitor = 0x4007,
}
L4.Rights = { w = 1, s = 2, r = 4, d = 8, n = 16, c = 32, ro = 4, rw = 5, rws = 7 }
L4.Mem_alloc_flags = { Continuous = 1, Pinned = 2, Super_pages = 4 }
L4.Ldr_flags = { eager_map = 1, all_segs_cow = 2, pinned_segs = 4 }
L4.Dbg = {
  Info = 1, Warn = 2, Boot = 4, Server = 0x10, Exceptions = 0x20, Cmd_line = 0x40, Loader = 0x80,
  Name_space = 0x400, All = 0xffffffff,
}
L4.Info = {
  arch = native.arch,
  platform = function() return "linux" end,
  mword_bits = native.mword_bits,
  Kip = { str = native.version },
}
L4.Env = native.env
L4.sleep = function(seconds) native.sleep((seconds or 0) * 1000) end
L4.msleep = function(milliseconds) native.sleep(milliseconds or 0) end

-- The methods of a capability.
local Cap = native.methods

function Cap:create(protocol, ...)
  for i = 1, select("#", ...) do
    local number = select(i, ...)
    if type(number) == "number" and not math_tointeger(number) then
      error("bad argument #" .. i + 1 .. " to 'create' (number has no integer representation)", 2)
    end
  end
  return checked(native.create(self, protocol, table.pack(...)))
end

function Cap:svr()
  return native.server_side(self)
end

function Cap:m(rights)
  if rights == nil then
    return native.rights(self)
  end
  return checked(native.with_rights(self, rights))
end
Cap.mode = Cap.m
Cap.rights = Cap.m

function Cap:is_valid()
  return native.is_valid(self)
end

-- A capability has the methods of every type here, so a cast only tells whether the type is one that ned knows methods of.
local classes = {
  [L4.Proto.Factory] = true, ["L4::Factory"] = true,
  [L4.Proto.Namespace] = true, ["L4Re::Namespace"] = true,
  ["L4::Platform_control"] = true, ["L4Re::Debug_obj"] = true,
}

function L4.cast(to, cap)
  if type(to) ~= "number" and type(to) ~= "string" then
    return nil
  end
  if type(cap) == "function" then
    cap = cap()
  end
  if not native.is_cap(cap) then
    local hint = cap == nil and "; what of L4.Env belongs to io (sigma0, icu, iommu) is not here" or ""
    error("L4.cast: a capability is expected, not a " .. type(cap) .. hint, 2)
  end
  return classes[to] and cap or nil
end

-- The methods of a started program.
local Task = native.task_methods
for _, name in ipairs { "state", "exit_code", "wait", "kill", "pid", "exit_handler" } do
  local method = native["task_" .. name]
  Task[name] = function(...)
    return method(...)
  end
end

-- The `caps` table as a list of { name, value }, by name; a list of values repeats its name.
local function listed(caps)
  local names = {}
  for name in pairs(caps) do
    if type(name) ~= "string" then
      error("caps: every key must be a name, not " .. tostring(name), 4)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  local list = {}
  local function add(name, value, depth)
    for _ = 1, 16 do
      if type(value) ~= "function" then
        break
      end
      value = value(caps)
    end
    if type(value) == "table" and depth == 0 then
      local count = 0
      for _ in pairs(value) do
        count = count + 1
      end
      if count ~= #value then
        error("caps: `" .. name .. "` is a name space, which is L4Re's; here a table must be a list of capabilities", 5)
      end
      for _, one in ipairs(value) do
        add(name, one, 1)
      end
    elseif native.is_cap(value) or type(value) == "string" then
      list[#list + 1] = { name, value }
    elseif value ~= nil then
      error("caps: `" .. name .. "` is a " .. type(value) .. ", neither a capability nor a SPEC", 5)
    end
  end
  for _, name in ipairs(names) do
    add(name, caps[name], 0)
  end
  return list
end

-- Starts a program: the words of its command line, the last of which may be the table of environment variables. Its callers
-- put its result in parentheses: a tail call would take the frame that `error` counts.
local function exec(options, ...)
  local words, environment = table.pack(...), nil
  if type(words[words.n]) == "table" then
    environment = words[words.n]
    words.n = words.n - 1
  end
  local line = {}
  for i = 1, words.n do
    local word = words[i]
    if type(word) == "string" or type(word) == "number" then
      line[#line + 1] = tostring(word)
    elseif word ~= nil then
      error("argument " .. i .. " of the program is a " .. type(word), 3)
    end
  end
  local caps = options.caps or {}
  if type(caps) ~= "table" then
    error("caps: a table is expected", 3)
  end
  local log = options.log
  if type(log) == "function" then
    log = log(options)
  end
  return checked(native.exec(listed(caps), line, environment or {}, log, options.stdin == true))
end

local function check(object, class)
  if type(object) ~= "table" or getmetatable(object) ~= class then
    error("method called with incompatible object", 3)
  end
end

local Loader = {}
Loader.__index = Loader
L4.Loader = Loader

function Loader.new(loader)
  loader = loader or {}
  loader.factory = loader.factory or L4.Env.factory
  loader.mem = loader.mem or L4.Env.user_factory
  return setmetatable(loader, Loader)
end

function Loader:new_channel()
  check(self, Loader)
  return checked(native.create(self.factory, L4.Proto.Ipc_gate, { n = 0 }))
end

function Loader.split_args(line, environment)
  local words = {}
  for word in line:gmatch("%S+") do
    words[#words + 1] = word
  end
  words[#words + 1] = environment
  return table.unpack(words)
end

function Loader:startv(options, ...)
  check(self, Loader)
  return (exec(options or {}, ...))
end

function Loader:start(options, line, environment)
  check(self, Loader)
  return (exec(options or {}, Loader.split_args(line, environment)))
end

-- A set of options to start programs with, over and over.
local App_env = {}
App_env.__index = App_env
L4.App_env = App_env

function App_env.new(options)
  return setmetatable(options or {}, App_env)
end

function App_env:start(...)
  check(self, App_env)
  return (exec(self, ...))
end

L4.default_loader = Loader.new({ factory = L4.Env.factory, mem = L4.Env.user_factory })

return L4
