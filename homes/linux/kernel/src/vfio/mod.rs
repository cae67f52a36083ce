//! NVMe controllers by VFIO: group and type 1 IOMMU.
//!
//! ```text
//! VfioDevice::open   sysfs: group, driver, neighbours       (group)
//!                    container, IOMMU, bus addresses        (space, ranges, info)
//!                    function reset, BAR 0                  (device, bar)
//!                    interrupts, all at once                (interrupts, handle)
//! ```
//!
//! Bus mastering is off until the driver has seen the controller stopped, so nothing of an earlier life does DMA into what is
//! mapped. When the process ends, however it does, the kernel resets the function and takes its mappings away.
//!
//! [`Held`]: a function goes from one server to the next, which has it [beside](VfioDevice::beside) the other for a while.
//!
//! [`bind`] and [`unbind`] give a function to vfio-pci and back. [`ioctls`] is what the sandbox must let through afterwards.

mod bar;
mod binding;
mod device;
mod error;
mod group;
mod handle;
mod held;
mod info;
mod interrupts;
mod ioctl;
mod ranges;
mod space;

pub use binding::{BindError, bind, unbind};
pub use device::{Opened, VfioDevice};
pub use error::VfioError;
pub use held::{Descriptors, Held};
pub use interrupts::{Given, Interrupts, Mode, VfioOptions};
pub use ioctl::serving as ioctls;
