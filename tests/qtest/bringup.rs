use nvme_drv::nvme::{Options, SglSupport};
use nvme_policy::BlockSize;

use crate::machine::Shape;
use crate::need::needs_qemu;
use crate::rig::Rig;

#[test]
fn a_controller_of_somebody_elses_comes_up_with_both_namespaces() {
    needs_qemu!();
    let rig = Rig::new(&Shape::default(), Options::default());
    let found: Vec<_> = rig.controller.namespaces().iter().map(|n| (n.namespace().nsid, n.blocks())).collect();
    assert_eq!(found, [(1, 16384), (2, 2048)]);
    assert_eq!((rig.namespace(1).block_size(), rig.namespace(2).block_size()), (BlockSize::B512, BlockSize::B4096));
    let info = rig.controller.info();
    println!("{info:?}");
    assert_eq!((info.serial.as_str(), info.model.as_str()), ("qtest 0", "QEMU NVMe Ctrl"));
    assert_eq!((info.transfer_bytes, info.volatile_cache, info.pairs), (512 << 10, true, 64));
    assert_eq!(info.sgl, SglSupport::Byte);
    rig.clean();
}
