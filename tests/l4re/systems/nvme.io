-- The virtual bus of the NVMe server: every storage device.
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
