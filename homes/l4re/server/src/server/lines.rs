//! What there is, for the operator: each controller, namespace and partition once, when it is found.

use alloc::collections::BTreeSet;

use nvme_core::nvme::SglSupport;
use nvme_core::server::control::{Control, ControllerState};
use nvme_policy::{Namespace, PartitionId};

use crate::Output;
use crate::output::{Level, Lines};

/// What was said already.
#[derive(Default)]
pub(super) struct Seen {
    controllers: BTreeSet<usize>,
    namespaces: BTreeSet<(u16, u32)>,
}

impl Seen {
    /// Says what there is that was not said yet.
    pub(super) fn tell<O: Output>(&mut self, control: &Control, lines: &mut Lines<O>) {
        let mut say = |line: core::fmt::Arguments<'_>| lines.say(Level::Plain, line);
        for (index, (_, controller, state)) in control.controllers().enumerate() {
            let there = !matches!(state, ControllerState::Starting | ControllerState::Lost);
            if !there || !self.controllers.insert(index) {
                continue;
            }
            let info = controller.info();
            say(format_args!("Serial Number: {}", info.serial));
            say(format_args!("Model Number: {}", info.model));
            say(format_args!("Firmware Revision: {}", info.firmware));
            say(format_args!("Maximum Transfer Size: {} KiB", info.transfer_bytes >> 10));
            let sgl = if info.sgl == SglSupport::None { "no" } else { "yes" };
            say(format_args!("SGL Support: {sgl}"));
            say(format_args!("Number of Namespaces: {}", controller.namespaces().len()));
        }
        for (namespace, partitions) in control.catalogue().devices() {
            let Namespace { controller, nsid } = namespace.namespace();
            if !self.namespaces.insert((controller, nsid)) {
                continue;
            }
            let extent = namespace.extent();
            let serial = namespace.serial();
            let (blocks, block) = (extent.blocks(), extent.block_size().bytes());
            say(format_args!("{serial}:n{nsid}: {blocks} blocks of {block} bytes"));
            for partition in partitions {
                let (first, count) = (partition.extent.first(), partition.extent.blocks());
                let kib = (count.saturating_mul(block)) >> 10;
                let (mib, rest) = (kib >> 10, ((kib & 1023) * 10) >> 10);
                let (number, label) = (partition.number, partition.label.as_str());
                let last = first + count.saturating_sub(1);
                say(format_args!("{number:3}: {first:10} {last:10}  {mib:5}.{rest}MiB [{label}]"));
                match partition.id {
                    PartitionId::Gpt(uuid) => say(format_args!("   : [{:X}]", uuid.hyphenated())),
                    PartitionId::Mbr { disk, number } => say(format_args!("   : [{disk:08X}-{number:02X}]")),
                }
            }
        }
    }
}
