//! Identify (5.15).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::admin::nature::padded;
use crate::admin::{Answer, Nature, events, log};
use crate::control::Control;
use crate::map::Hits;
use crate::namespace::Namespace;
use crate::shared::Shared;
use crate::transfer::Dma;
use crate::wire::{Sqe, Status, VERSION};
use crate::world::View;

/// Controller or Namespace Structure (figure 244).
const NAMESPACE: u8 = 0x00;
const CONTROLLER: u8 = 0x01;
const ACTIVE_NAMESPACES: u8 = 0x02;
const DESCRIPTORS: u8 = 0x03;

/// Identify Controller (figure 247), as far as we fill it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IdentifyController {
    vid: U16,
    ssvid: U16,
    sn: [u8; 20],
    mn: [u8; 40],
    fr: [u8; 8],
    rab: u8,
    ieee: [u8; 3],
    cmic: u8,
    mdts: u8,
    cntlid: U16,
    ver: U32,
    rtd3r: U32,
    rtd3e: U32,
    oaes: U32,
    ctratt: U32,
    rsvd100: [u8; 11],
    cntrltype: u8,
    rsvd112: [u8; 144],
    oacs: U16,
    acl: u8,
    aerl: u8,
    frmw: u8,
    lpa: u8,
    elpe: u8,
    npss: u8,
    avscc: u8,
    apsta: u8,
    wctemp: U16,
    cctemp: U16,
    rsvd270: [u8; 242],
    sqes: u8,
    cqes: u8,
    maxcmd: U16,
    nn: U32,
    oncs: U16,
    fuses: U16,
    fna: u8,
    vwc: u8,
    awun: U16,
    awupf: U16,
    nvscc: u8,
    nwpc: u8,
    acwu: U16,
    rsvd534: [u8; 2],
    sgls: U32,
    mnan: U32,
    rsvd544: [u8; 224],
    subnqn: [u8; 256],
    rsvd1024: [u8; 1024],
    psd0: [u8; 32],
    rsvd2080: [u8; 2016],
}

const _: () = assert!(size_of::<IdentifyController>() == 4096);

/// Identify Namespace (figure 245), as far as we fill it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct IdentifyNamespace {
    nsze: U64,
    ncap: U64,
    nuse: U64,
    nsfeat: u8,
    nlbaf: u8,
    flbas: u8,
    rsvd27: [u8; 6],
    dlfeat: u8,
    rsvd34: [u8; 34],
    npdg: U16,
    npda: U16,
    rsvd72: [u8; 27],
    nsattr: u8,
    rsvd100: [u8; 20],
    eui64: [u8; 8],
    lbaf0: [u8; 4],
    rsvd132: [u8; 3964],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);

/// A locally administered EUI-64 that stays the same: of the serial number and the namespace.
fn eui64(nature: &Nature, nsid: u32) -> [u8; 8] {
    // FNV-1a.
    let text = nature.serial.bytes().chain(nsid.to_le_bytes());
    let hash = text.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut eui = hash.to_be_bytes();
    eui[0] = eui[0] & 0xfc | 0x02;
    eui
}

impl Control {
    pub(super) fn identify(&mut self, shared: &Shared, view: &View, sqe: &Sqe) -> Result<Answer, Status> {
        let (cns, nsid) = (sqe.dword(10) as u8, sqe.nsid.get());
        let mut page = match cns {
            NAMESPACE => self.identify_namespace(view, nsid)?,
            CONTROLLER => self.identify_controller(),
            ACTIVE_NAMESPACES => active(view, nsid)?,
            DESCRIPTORS => self.descriptors(view, nsid)?,
            _ => return Err(Status::INVALID_FIELD),
        };
        if let Some(faults) = &shared.faults {
            faults.lie(cns, nsid, &mut page);
        }
        Dma { view, hits: &mut Hits::default() }.store_all(sqe, &page)?;
        Ok(Answer::Done(0))
    }

    fn identify_controller(&self) -> [u8; 4096] {
        let n = &self.nature;
        let mut id = IdentifyController::new_zeroed();
        id.sn = padded(&n.serial);
        id.mn = padded(&n.model);
        id.fr = padded(&n.firmware);
        id.mdts = n.mdts;
        id.ver = U32::new(VERSION);
        // Namespace Attribute Notices.
        id.oaes = U32::new(1 << 8);
        // I/O controller.
        id.cntrltype = 1;
        id.acl = 3;
        id.aerl = events::REQUESTS_MAX as u8 - 1;
        // One slot, read-only.
        id.frmw = 1 << 1 | 1;
        // Extended data: offsets in Get Log Page.
        id.lpa = 1 << 2;
        id.elpe = log::ERRORS_MAX as u8 - 1;
        id.wctemp = U16::new(343);
        id.cctemp = U16::new(353);
        id.sqes = 0x66;
        id.cqes = 0x44;
        id.nn = U32::new(n.namespaces_max);
        id.oncs = U16::new(u16::from(n.dataset_management) << 2 | u16::from(n.write_zeroes) << 3);
        // Present, and Flush takes all namespaces at once.
        id.vwc = if n.write_cache { 0b111 } else { 0 };
        // SGLs of any alignment.
        id.sgls = U32::new(u32::from(n.sgl));
        let nqn = b"nqn.2014-08.org.nvmexpress:nvme-drv-soft:";
        for (to, from) in id.subnqn.iter_mut().zip(nqn.iter().copied().chain(n.serial.bytes())) {
            *to = from;
        }
        zerocopy::transmute!(id)
    }

    fn identify_namespace(&self, view: &View, nsid: u32) -> Result<[u8; 4096], Status> {
        let mut id = IdentifyNamespace::new_zeroed();
        // Not active: all zeroes.
        if let Some(namespace) = there(view, nsid)? {
            id.nsze = U64::new(namespace.blocks);
            id.ncap = U64::new(namespace.blocks);
            id.nuse = U64::new(namespace.blocks);
            // Write Zeroes may deallocate, and then they read as zeroes.
            let unmaps =
                self.nature.write_zeroes && namespace.storage.as_ref().is_some_and(|s| s.unmaps_to_zeroes());
            id.dlfeat = if unmaps { 0b1001 } else { 0 };
            // OPTPERF, and what is given back together.
            let granularity = namespace.storage.as_ref().map_or(0, |s| s.discard_granularity());
            if let Some(less_one) = (granularity >> namespace.shift).checked_sub(1)
                && let Ok(less_one) = u16::try_from(less_one)
            {
                id.nsfeat = 1 << 4;
                (id.npdg, id.npda) = (U16::new(less_one), U16::new(less_one));
            }
            // Write protected.
            id.nsattr = u8::from(namespace.read_only);
            id.eui64 = eui64(&self.nature, nsid);
            // No metadata; LBADS.
            id.lbaf0 = [0, 0, namespace.shift as u8, 0];
        }
        Ok(zerocopy::transmute!(id))
    }

    /// Namespace Identification Descriptor list (figure 249): type, length, two reserved bytes, identifier.
    fn descriptors(&self, view: &View, nsid: u32) -> Result<[u8; 4096], Status> {
        let namespace = there(view, nsid)?.ok_or(Status::INVALID_NAMESPACE)?;
        let mut page = [0u8; 4096];
        let eui = eui64(&self.nature, nsid);
        let header = |kind: u8, len: u8| [kind, len, 0, 0];
        let mut bytes = header(1, 8).into_iter().chain(eui).collect::<alloc::vec::Vec<u8>>();
        if let Some(uuid) = namespace.uuid {
            bytes.extend(header(3, 16));
            bytes.extend(uuid);
        }
        for (to, from) in page.iter_mut().zip(bytes) {
            *to = from;
        }
        Ok(page)
    }
}

/// A valid namespace identifier's namespace, if it is active.
fn there(view: &View, nsid: u32) -> Result<Option<&Namespace>, Status> {
    if nsid == 0 || nsid as usize > view.namespaces.len() {
        return Err(Status::INVALID_NAMESPACE);
    }
    Ok(view.namespace(nsid))
}

/// Active namespaces above `nsid`, in order.
fn active(view: &View, nsid: u32) -> Result<[u8; 4096], Status> {
    if nsid >= 0xffff_fffe {
        return Err(Status::INVALID_NAMESPACE);
    }
    let mut page = [0u8; 4096];
    let ids = (1u32..).zip(&view.namespaces).filter(|(id, n)| *id > nsid && n.is_some()).map(|(id, _)| id);
    for (to, id) in page.chunks_exact_mut(4).zip(ids) {
        to.copy_from_slice(&id.to_le_bytes());
    }
    Ok(page)
}
