-- Random reads. kind "count": of anything, unchecked (for null-co and instruction counts); "iops": of an area that was
-- written before, with each sector's first word checked. Each client gets a session of its own.
local sys = dofile("rom/sys.lua");
return function (options, device, kind)
  sys.io();
  local nvme = sys.server(options);
  local n = { [4096] = 4000, [65536] = 2000 };
  local function run(...)
    local s = nvme:create(0, "ds-max=4", device);
    sys.client(s, string.format(...));
    s = nil; collectgarbage(); collectgarbage();
  end
  for _, size in ipairs { 4096, 65536 } do
    if kind == "count" then
      for _, qd in ipairs { 32, 1 } do
        run("--name count-%d-qd%d --mode randread --verify none --size %d --depth %d --requests %d --runs 3", size, qd, size, qd, n[size]);
      end
    else
      run("--name prep-%d --size %d --depth 8 --requests %d", size, size, 2 * (32 << 20) // size);
      for _, qd in ipairs { 1, 4, 32 } do
        run("--name iops-%d-qd%d --mode randread --verify head --span 65536 --size %d --depth %d --requests %d --runs 9",
            size, qd, size, qd, n[size]);
      end
    end
  end
  sys.done();
end
