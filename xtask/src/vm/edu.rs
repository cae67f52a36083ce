//! MSI. QEMU's NVMe controller has none; its device `edu` has, and the code that asks VFIO for interrupts is the same for both.

use std::path::PathBuf;
use std::process::Command;

use super::Result;
use super::bed::Bed;

/// The unit tests that want it, and what they show.
const TESTS: [(&str, &str); 2] = [
    ("messages_and_the_pin_interrupt_by_the_same_eventfd", "MSI, and the pin, with edu"),
    (
        "a_function_is_nobody_else_s_until_the_last_descriptor_of_it_is_closed_and_masters_no_bus_then",
        "nobody has a function of which a descriptor is open",
    ),
];
/// The device.
const EDU: &str = "0000:00:07.0";

/// The unit tests of the Linux home, as a program.
pub(super) fn tests() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(crate::root());
    command.args(["test", "--quiet", "-p", "nvme-linux", "--lib", "--no-run", "--message-format=json"]);
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the unit tests of homes/linux/kernel could not be built".into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let path = text.lines().rev().find_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"'));
    Ok(path.ok_or("cargo names no program of tests")?.0.into())
}

impl Bed {
    /// MSI and INTx of that device, by the code that a controller's interrupts come through.
    pub(super) fn edu(&mut self) {
        let place = format!("/sys/bus/pci/devices/{EDU}");
        let bind = format!("echo vfio-pci >{place}/driver_override; echo {EDU} >/sys/bus/pci/drivers_probe");
        self.guest.run(&bind);
        for (name, what) in TESTS {
            let test = format!("vfio::device::tests::{name}");
            self.check(
                what,
                &format!("NVME_DRV_EDU={EDU} linux-tests --ignored --exact {test}"),
                0,
                "1 passed",
            );
        }
    }
}
