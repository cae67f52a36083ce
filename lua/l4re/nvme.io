-- vi:ft=lua
-- The virtual bus of nvme-drv: all storage controllers of the machine. It takes the NVMe ones, and leaves the others alone.
-- num_msis: two for each controller are plenty; with fewer, controllers share or use their pins.
local hw = Io.system_bus()

Io.add_vbusses
{
  nvme = Io.Vi.System_bus
  {
    Property = { num_msis = 16 };
    PCI0 = Io.Vi.PCI_bus
    {
      storage = wrap(hw:match("PCI/storage"));
    };
  };
}
