//! What status codes are called, and counted as (Base 2.0, 4.2.3; NVM command set 1.0, 3.1.2).

use nvme_session::queue::Fault;

use super::command::Status;

impl Status {
    /// Its name in the specification. Those of no name are called by what they are about.
    pub fn name(self) -> &'static str {
        let [code, kind] = self.code().to_le_bytes();
        match kind {
            0 => generic(code),
            1 => specific(code),
            2 => media(code),
            3 => path(code),
            7 => "Vendor Specific",
            _ => "Reserved",
        }
    }
}

impl Status {
    /// What it is counted as: each of the specification's is of one of few kinds.
    pub fn fault(self) -> Fault {
        match self.code() {
            Self::INVALID_OPCODE => Fault::Unsupported,
            Self::DATA_TRANSFER => Fault::Transfer,
            Self::CAPACITY_EXCEEDED => Fault::NoSpace,
            Self::WRITE_FAULT => Fault::WriteFault,
            // Compare Failure and checks of protection information (media 82h to 85h, 88h).
            0x282..=0x285 | 0x288 => Fault::Integrity,
            // What nobody wrote cannot be read, where the drive is told to say so (87h).
            Self::READ_ERROR | 0x287 => Fault::ReadError,
            0x006 => Fault::Internal,
            0x005 | 0x007..=0x00a | 0x01b => Fault::Aborted,
            0x080 => Fault::OutOfRange,
            // Operation Denied, Write Protected, Lockdown, Reservation Conflict; a range for reading only; Access Denied.
            0x015 | 0x020 | 0x023 | 0x083 | 0x182 | 0x286 => Fault::Protected,
            // Sanitize (1Ch: it failed, and nothing is served until it has not), Interrupted, Transport, Media, Namespace, Format.
            0x01c | 0x01d | 0x021 | 0x022 | 0x024 | 0x082 | 0x084 => Fault::NotReady,
            // Fields, namespaces and formats, SGLs and PRPs, sizes; and what is conflicting in one command.
            0x002 | 0x003 | 0x00b..=0x014 | 0x016 | 0x018..=0x01a | 0x01e | 0x01f | 0x085 => Fault::Invalid,
            0x100..=0x1bf => Fault::Invalid,
            0x300..=0x3bf => Fault::NotReady,
            _ => Fault::Other,
        }
    }
}

fn generic(code: u8) -> &'static str {
    match code {
        0x00 => "Successful Completion",
        0x01 => "Invalid Command Opcode",
        0x02 => "Invalid Field in Command",
        0x03 => "Command ID Conflict",
        0x04 => "Data Transfer Error",
        0x05 => "Commands Aborted due to Power Loss Notification",
        0x06 => "Internal Error",
        0x07 => "Command Abort Requested",
        0x08 => "Command Aborted due to SQ Deletion",
        0x09 => "Command Aborted due to Failed Fused Command",
        0x0a => "Command Aborted due to Missing Fused Command",
        0x0b => "Invalid Namespace or Format",
        0x0c => "Command Sequence Error",
        0x0d => "Invalid SGL Segment Descriptor",
        0x0e => "Invalid Number of SGL Descriptors",
        0x0f => "Data SGL Length Invalid",
        0x10 => "Metadata SGL Length Invalid",
        0x11 => "SGL Descriptor Type Invalid",
        0x12 => "Invalid Use of Controller Memory Buffer",
        0x13 => "PRP Offset Invalid",
        0x14 => "Atomic Write Unit Exceeded",
        0x15 => "Operation Denied",
        0x16 => "SGL Offset Invalid",
        0x18 => "Host Identifier Inconsistent Format",
        0x19 => "Keep Alive Timer Expired",
        0x1a => "Keep Alive Timeout Invalid",
        0x1b => "Command Aborted due to Preempt and Abort",
        0x1c => "Sanitize Failed",
        0x1d => "Sanitize In Progress",
        0x1e => "SGL Data Block Granularity Invalid",
        0x1f => "Command Not Supported for Queue in CMB",
        0x20 => "Namespace is Write Protected",
        0x21 => "Command Interrupted",
        0x22 => "Transient Transport Error",
        0x23 => "Command Prohibited by Command and Feature Lockdown",
        0x24 => "Admin Command Media Not Ready",
        0x80 => "LBA Out of Range",
        0x81 => "Capacity Exceeded",
        0x82 => "Namespace Not Ready",
        0x83 => "Reservation Conflict",
        0x84 => "Format In Progress",
        0x85 => "Invalid Value Size",
        0xc0.. => "Vendor Specific",
        _ => "Generic, Reserved",
    }
}

fn specific(code: u8) -> &'static str {
    match code {
        0x00 => "Completion Queue Invalid",
        0x01 => "Invalid Queue Identifier",
        0x02 => "Invalid Queue Size",
        0x03 => "Abort Command Limit Exceeded",
        0x05 => "Asynchronous Event Request Limit Exceeded",
        0x06 => "Invalid Firmware Slot",
        0x08 => "Invalid Interrupt Vector",
        0x09 => "Invalid Log Page",
        0x0a => "Invalid Format",
        0x0c => "Invalid Queue Deletion",
        0x0d => "Feature Identifier Not Saveable",
        0x0e => "Feature Not Changeable",
        0x0f => "Feature Not Namespace Specific",
        0x80 => "Conflicting Attributes",
        0x81 => "Invalid Protection Information",
        0x82 => "Attempted Write to Read Only Range",
        0x83 => "Command Size Limit Exceeded",
        0xc0.. => "Vendor Specific",
        _ => "Command Specific",
    }
}

fn media(code: u8) -> &'static str {
    match code {
        0x80 => "Write Fault",
        0x81 => "Unrecovered Read Error",
        0x82 => "End-to-end Guard Check Error",
        0x83 => "End-to-end Application Tag Check Error",
        0x84 => "End-to-end Reference Tag Check Error",
        0x85 => "Compare Failure",
        0x86 => "Access Denied",
        0x87 => "Deallocated or Unwritten Logical Block",
        0x88 => "End-to-end Storage Tag Check Error",
        0xc0.. => "Vendor Specific",
        _ => "Media, Reserved",
    }
}

fn path(code: u8) -> &'static str {
    match code {
        0x00 => "Internal Path Error",
        0x01 => "Asymmetric Access Persistent Loss",
        0x02 => "Asymmetric Access Inaccessible",
        0x03 => "Asymmetric Access Transition",
        0x60 => "Controller Pathing Error",
        0x70 => "Host Pathing Error",
        0x71 => "Command Aborted By Host",
        0xc0.. => "Vendor Specific",
        _ => "Path Related, Reserved",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_counted_as_one_kind_and_what_only_vendors_know_as_other() {
        for (status, fault) in [
            (Status::READ_ERROR | 1 << 14, Fault::ReadError),
            (Status::WRITE_FAULT, Fault::WriteFault),
            (0x282, Fault::Integrity),
            (Status::CAPACITY_EXCEEDED, Fault::NoSpace),
            (0x080, Fault::OutOfRange),
            (0x020, Fault::Protected),
            (0x286, Fault::Protected),
            (Status::DATA_TRANSFER, Fault::Transfer),
            (Status::ABORTED, Fault::Aborted),
            (Status::NAMESPACE_NOT_READY | 3 << 11, Fault::NotReady),
            (Status::ACCESS_LOST, Fault::NotReady),
            (Status::INVALID_OPCODE, Fault::Unsupported),
            (Status::INVALID_FIELD, Fault::Invalid),
            (0x006, Fault::Internal),
            (0x0c0, Fault::Other),
            (0x7ff, Fault::Other),
        ] {
            assert_eq!(Status(status).fault(), fault, "{status:#x}");
        }
        // What has a name in the specification is not `Other`.
        for code in 1..0x800_u16 {
            let name = Status(code).name();
            let unknown = name.contains("Reserved") || name.contains("Vendor") || name == "Command Specific";
            let other = Status(code).fault() == Fault::Other;
            assert!(unknown || !other, "{code:#x} {name}");
        }
    }

    #[test]
    fn each_status_has_a_name_whatever_its_other_bits_are() {
        for (status, name) in [
            (Status::SUCCESS, "Successful Completion"),
            (Status::READ_ERROR, "Unrecovered Read Error"),
            (Status::WRITE_FAULT | 1 << 14, "Write Fault"),
            (Status::CAPACITY_EXCEEDED, "Capacity Exceeded"),
            (Status::INVALID_QUEUE, "Invalid Queue Identifier"),
            (Status::ACCESS_LOST | 3 << 11, "Asymmetric Access Persistent Loss"),
            (0x7ff, "Vendor Specific"),
            (0x2ff, "Vendor Specific"),
            (0x599, "Reserved"),
        ] {
            assert_eq!(Status(status).name(), name, "{status:#x}");
        }
        assert!((0..0x800).all(|status| !Status(status).name().is_empty()));
    }
}
