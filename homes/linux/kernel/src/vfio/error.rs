//! Why a PCI function cannot be had. Each says what to do.

use rustix::io::Errno;

/// See the [module](super).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VfioError {
    /// No such function.
    #[error("there is no PCI function {0}")]
    NotThere(String),
    /// Another kind of device.
    #[error("{0} is not an NVMe controller (class {1})")]
    NotNvme(String, String),
    /// Another driver has it, or none.
    #[error("{address} is not bound to vfio-pci ({}); bind it: nvme-ctl bind {address}", .driver.as_deref().map_or("no driver".into(), |d| format!("driver {d}")))]
    NotBound {
        /// The function.
        address: String,
        /// The driver that has it.
        driver: Option<String>,
    },
    /// Without an IOMMU nothing would keep the device from all memory.
    #[error(
        "no IOMMU translates for {0}; turn it on in the firmware and on the kernel's command line (intel_iommu=on, amd_iommu=on)"
    )]
    NoIommu(String),
    /// The device could write messages that interrupt anybody.
    #[error(
        "the IOMMU does no interrupt remapping; turn it on in the firmware, and take intremap=off off the kernel's command line"
    )]
    NoInterruptRemapping,
    /// Others in its group can do DMA.
    #[error("IOMMU group {group} is not viable: {} in it; bind all of them to vfio-pci, or to no driver", .others.join(", "))]
    NotViable {
        /// The group.
        group: u32,
        /// Its functions with drivers of the host: `ADDRESS (driver NAME)`.
        others: Vec<String>,
    },
    /// Only one can have a group.
    #[error("IOMMU group {0} is in use, by another program or another vbus of this one")]
    InUse(u32),
    /// A device node that may not be opened.
    #[error("no permission to open {0}; run as root, or give the user that file")]
    Permission(String),
    /// A device node that is not there.
    #[error("{0} is not there; load the module vfio-pci")]
    NoNode(String),
    /// A kernel without what is needed.
    #[error("this kernel's VFIO has no {0}")]
    Lacks(&'static str),
    /// A controller that cannot be used this way.
    #[error("{0}: {1}")]
    Device(String, &'static str),
    /// Another server hands something over that does not fit.
    #[error("what the server before hands over does not fit: {0}")]
    Handed(&'static str),
    /// The process may lock too little memory.
    #[error(
        "RLIMIT_MEMLOCK is too small: {need} bytes are needed for the queues of the controllers, and clients' memory comes on top; it is {limit}"
    )]
    LockLimit {
        /// What all controllers so far need of their own.
        need: u64,
        /// What there is.
        limit: u64,
    },
    /// Something else failed.
    #[error("{0}: {1}")]
    System(&'static str, Errno),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_do() {
        let address = "0000:01:00.0".to_owned();
        let bound = VfioError::NotBound { address: address.clone(), driver: Some("nvme".into()) };
        assert_eq!(
            bound.to_string(),
            "0000:01:00.0 is not bound to vfio-pci (driver nvme); bind it: nvme-ctl bind 0000:01:00.0"
        );
        let none = VfioError::NotBound { address, driver: None };
        assert!(none.to_string().contains("(no driver)"));
        let others = vec!["0000:01:00.1 (driver snd)".into(), "0000:01:00.2 (driver xhci_hcd)".into()];
        let text = VfioError::NotViable { group: 7, others }.to_string();
        assert!(text.starts_with(
            "IOMMU group 7 is not viable: 0000:01:00.1 (driver snd), 0000:01:00.2 (driver xhci_hcd) in it"
        ));
    }
}
