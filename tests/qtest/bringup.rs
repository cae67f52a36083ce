use nvme_core::nvme::{Options, SglSupport};
use nvme_policy::BlockSize;
use nvme_session::operation::Outcome;

use crate::machine::{Disk, Shape};
use crate::need::needs_qemu;
use crate::rig::Rig;

#[test]
fn a_controller_of_somebody_elses_comes_up_with_both_namespaces() {
    needs_qemu!();
    let rig = Rig::new(&Shape::default(), Options::default());
    let found: Vec<_> =
        rig.controller.namespaces().iter().map(|n| (n.namespace().nsid, n.blocks())).collect();
    assert_eq!(found, [(1, 16384), (2, 2048)]);
    assert_eq!(
        (rig.namespace(1).block_size(), rig.namespace(2).block_size()),
        (BlockSize::B512, BlockSize::B4096)
    );
    let info = rig.controller.info();
    println!("{info:?}");
    assert_eq!((info.serial.as_str(), info.model.as_str()), ("qtest 0", "QEMU NVMe Ctrl"));
    assert_eq!((info.transfer_bytes, info.volatile_cache, info.pairs), (512 << 10, true, 64));
    assert_eq!(info.sgl, SglSupport::Byte);
    rig.clean();
}

#[test]
fn namespaces_of_a_kind_that_is_not_served_are_left_out_and_the_others_work() {
    needs_qemu!();
    let odd = |more| Disk { more, ..Disk::new(512) };
    let zoned = ",zoned=on,zoned.zone_size=1M";
    let disks = vec![odd(",ms=8"), odd(",ms=8,pi=1"), Disk::new(1024), odd(zoned), Disk::new(4096)];
    let mut rig = Rig::new(&Shape { disks, ..Shape::default() }, Options::default());
    let served: Vec<_> = rig.controller.namespaces().iter().map(|n| n.namespace().nsid).collect();
    assert_eq!(served, [5]);
    let mut pair = rig.pair(8);
    let flush = rig.flush(5);
    assert_eq!(rig.run(&mut pair, flush).1, Outcome::Done);
    rig.clean();
}
