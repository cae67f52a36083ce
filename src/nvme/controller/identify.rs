//! What Identify data may say. Each field that is used is checked here, once, before it becomes a value.

use core::fmt;

use heapless::String;
use nvme_policy::{BlockSize, Extent, Namespace};
use nvme_session::factory::Identifiers;
use nvme_session::operation::Limits;

use super::super::encode::Limited;
use super::super::event::Failure;
use super::super::info::{ControllerInfo, NamespaceInfo, SglSupport};
use super::super::options::Options;
use super::super::pair::CommandCaps;
use super::super::quirks::Quirks;
use super::super::retry::Delays;
use super::super::spec::identify::{self, ONCS_DSM, ONCS_WRITE_ZEROES, nidt};
use super::super::spec::{PAGE, command};
use super::super::transfer::TRANSFER_MAX;

/// Most blocks in a Read, Write or Write Zeroes: NLB has 16 bits.
const NLB_MAX: u32 = 1 << 16;

/// An ASCII field without its padding. What is not printable is a question mark.
pub(super) fn text<const N: usize>(field: &[u8; N]) -> String<N> {
    let padding = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !padding(b)).unwrap_or(N);
    let end = field.iter().rposition(|b| !padding(b)).map_or(start, |last| last + 1);
    let mut out = String::new();
    for byte in field.get(start..end).unwrap_or_default() {
        let c = if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '?' };
        // One byte for each byte of the field: it always fits.
        let _ = out.push(c);
    }
    out
}

/// A text field that a zero byte ends, with nothing behind that.
fn name<const N: usize>(field: &[u8; N]) -> [u8; N] {
    let mut ended = *field;
    let end = field.iter().position(|b| *b == 0).unwrap_or(N);
    ended.iter_mut().skip(end).for_each(|b| *b = 0);
    ended
}

/// What is used of Identify Controller.
pub(super) struct Findings {
    pub(super) info: ControllerInfo,
    pub(super) caps: CommandCaps,
    /// Highest namespace identifier.
    pub(super) namespaces: u32,
    pub(super) aborts: usize,
    pub(super) events: u16,
    pub(super) namespace_notices: bool,
    /// Whether it takes doorbells in memory.
    pub(super) doorbell_buffers: bool,
    /// Time for a shutdown, in microseconds; 0: not said.
    pub(super) shutdown_us: u32,
}

/// Checks Identify Controller.
pub(super) fn controller(
    data: &identify::Controller,
    version: (u16, u8, u8),
    options: &Options,
    quirks: &Quirks,
) -> Result<Findings, Failure> {
    let takes = |sizes: u8, shift: u8| (sizes & 0xf) <= shift && shift <= (sizes >> 4);
    if !takes(data.sqes, command::SQE_SHIFT) || !takes(data.cqes, command::CQE_SHIFT) {
        return Err(Failure::QueueShape);
    }
    // 2: discovery, 3: administrative.
    if matches!(data.cntrltype, 2 | 3) {
        return Err(Failure::NotIo);
    }
    let most = options.transfer_max.clamp(PAGE, TRANSFER_MAX) & !(PAGE - 1);
    let transfer = match data.mdts {
        0 => most,
        // The unit is the smallest page, which bring-up found to be ours.
        mdts => PAGE.checked_shl(mdts.into()).filter(|t| *t >= PAGE && mdts < 20).unwrap_or(most).min(most),
    };
    let sgl = match (options.nosgl, data.sgls.get() & 0b11) {
        (false, 1) => SglSupport::Byte,
        (false, 2) => SglSupport::Dword,
        _ => SglSupport::None,
    };
    let oncs = data.oncs.get();
    let limited = |on: bool, bytes: u64, blocks: u32| {
        if on { Limited { bytes, blocks } } else { Limited::default() }
    };
    let info = ControllerInfo {
        vendor: data.vid.get(),
        serial: text(&data.sn),
        model: text(&data.mn),
        firmware: text(&data.fr),
        subsystem: if quirks.ignore_subsystem { String::new() } else { text(&name(&data.subnqn)) },
        number: data.cntlid.get(),
        has_siblings: data.cmic & identify::CMIC_CONTROLLERS != 0,
        version,
        volatile_cache: data.vwc & 1 != 0,
        transfer_bytes: transfer,
        sgl,
        pairs: 0,
    };
    Ok(Findings {
        info,
        caps: CommandCaps {
            transfer,
            sgl,
            discard: limited(oncs & ONCS_DSM != 0, options.discard_max, u32::MAX),
            zeroes: limited(
                oncs & ONCS_WRITE_ZEROES != 0 && !quirks.no_write_zeroes,
                options.write_zeroes_max,
                NLB_MAX,
            ),
            delays: Delays::of(data),
        },
        namespaces: data.nn.get(),
        aborts: usize::from(data.acl) + 1,
        events: u16::from(data.aerl) + 1,
        namespace_notices: data.oaes.get() & identify::OAES_NAMESPACE != 0,
        doorbell_buffers: data.oacs.get() & identify::OACS_DOORBELL_BUFFERS != 0,
        shutdown_us: data.rtd3e.get(),
    })
}

/// Narrows what commands may do by the limits of the NVM command set.
pub(super) fn controller_nvm(data: &identify::ControllerNvm, caps: &mut CommandCaps) {
    if let Some(bytes) =
        u64::from(PAGE).checked_shl(data.wzsl.into()).filter(|_| data.wzsl != 0 && data.wzsl < 40)
    {
        caps.zeroes.bytes = caps.zeroes.bytes.min(bytes);
    }
    for limit in [u64::from(data.dmrsl.get()), data.dmsl.get()] {
        if limit != 0 {
            caps.discard.blocks = caps.discard.blocks.min(u32::try_from(limit).unwrap_or(u32::MAX));
        }
    }
}

/// Why a namespace is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotServed {
    /// It is not active.
    Inactive,
    /// It is of another command set than NVM: zoned, key-value.
    CommandSet(u8),
    /// The format index is not one of its formats.
    Format(u8),
    /// Its blocks have metadata.
    Metadata(u16),
    /// Its blocks are protected end to end.
    Protected(u8),
    /// Neither 512 nor 4096 bytes (the exponent).
    BlockSize(u8),
    /// Its size cannot be counted in bytes.
    Size(u64),
    /// Fewer bytes than a block can be transferred.
    Transfer,
}

impl fmt::Display for NotServed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inactive => f.write_str("not active"),
            Self::CommandSet(csi) => write!(f, "it is of command set {csi}; 0 (NVM) is served"),
            Self::Format(i) => write!(f, "its LBA format {i} does not exist"),
            Self::Metadata(bytes) => {
                write!(f, "its blocks have {bytes} bytes of metadata; format it without (nvme format --lbaf)")
            }
            Self::Protected(kind) => write!(f, "it is formatted with end-to-end protection of type {kind}"),
            Self::BlockSize(shift) => {
                write!(f, "blocks of 2^{shift} bytes; 512 and 4096 are served")
            }
            Self::Size(blocks) => {
                write!(f, "its size of {blocks} blocks is too large to be counted in bytes")
            }
            Self::Transfer => f.write_str("the controller cannot transfer one of its blocks at once"),
        }
    }
}

/// What the list of descriptors says of a namespace (Base 5.17.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Described {
    /// NVM where it does not say.
    pub(super) command_set: u8,
    pub(super) unique: Identifiers,
}

impl Described {
    /// Reads the list. The first descriptor of a kind counts; one whose length is not that of its kind is none.
    pub(super) fn of(list: &[u8; PAGE as usize]) -> Self {
        let (mut set, mut nguid, mut eui64, mut uuid) = (None, None, None, None);
        let mut rest = list.as_slice();
        // Each turn takes a header at least.
        while let [kind, len, _, _, tail @ ..] = rest
            && *len != 0
            && let Some((value, behind)) = tail.split_at_checked(usize::from(*len))
        {
            match *kind {
                nidt::EUI64 => keep(&mut eui64, value),
                nidt::NGUID => keep(&mut nguid, value),
                nidt::UUID => keep(&mut uuid, value),
                nidt::COMMAND_SET => keep(&mut set, value),
                _ => {}
            }
            rest = behind;
        }
        let [command_set] = set.unwrap_or_default();
        let unique = Identifiers {
            nguid: nguid.unwrap_or_default(),
            eui64: eui64.unwrap_or_default(),
            uuid: uuid.unwrap_or_default(),
        };
        Self { command_set, unique }
    }
}

fn keep<const N: usize>(found: &mut Option<[u8; N]>, value: &[u8]) {
    *found = found.or_else(|| value.try_into().ok());
}

/// What holds for all namespaces of a controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    pub(super) caps: CommandCaps,
    pub(super) volatile_cache: bool,
    /// Whether there may be other controllers in its subsystem.
    pub(super) has_siblings: bool,
    /// Whether it is known to say garbage for identifiers.
    pub(super) bogus_identifiers: bool,
}

/// Checks Identify Namespace.
pub(super) fn namespace(
    data: &identify::Namespace,
    namespace: Namespace,
    common: &Common,
    described: &Identifiers,
) -> Result<NamespaceInfo, NotServed> {
    let Common { caps, volatile_cache, has_siblings, bogus_identifiers } = common;
    let blocks = data.nsze.get();
    if blocks == 0 {
        return Err(NotServed::Inactive);
    }
    // Bits 6:5 count only when there are more than 16 formats (NVM 4.1.5.1, FLBAS).
    let low = data.flbas & 0xf;
    let index = if data.nlbaf > 15 { (data.flbas >> 5 & 0b11) << 4 | low } else { low };
    let format = data.lbaf.get(usize::from(index)).filter(|_| index <= data.nlbaf);
    let format = format.ok_or(NotServed::Format(index))?;
    if format.ms.get() != 0 {
        return Err(NotServed::Metadata(format.ms.get()));
    }
    if data.dps & 0b111 != 0 {
        return Err(NotServed::Protected(data.dps & 0b111));
    }
    let size = match format.lbads {
        9 => BlockSize::B512,
        12 => BlockSize::B4096,
        other => return Err(NotServed::BlockSize(other)),
    };
    #[expect(clippy::disallowed_methods, reason = "the controller was asked how large the namespace is")]
    let extent = Extent::whole(namespace, blocks, size).ok_or(NotServed::Size(blocks))?;
    let transfer_blocks = caps.transfer >> size.shift();
    if transfer_blocks == 0 {
        return Err(NotServed::Transfer);
    }
    let limits = Limits {
        transfer_blocks: transfer_blocks.min(NLB_MAX),
        discard_blocks: caps.discard.in_blocks(size.shift()),
        discard_granularity: if data.nsfeat & identify::NSFEAT_OPTPERF == 0 {
            0
        } else {
            u32::from(data.npdg.get()) + 1
        },
        write_zeroes_blocks: caps.zeroes.in_blocks(size.shift()),
        volatile_cache: *volatile_cache,
        // Write Zeroes may deallocate, and what is deallocated reads as zeroes.
        unmaps_to_zeroes: data.dlfeat & 0b1111 == 0b1001,
    };
    let read_only = data.nsattr & 1 != 0;
    // A namespace may be shared by controllers that there cannot be: some say so of each.
    let shared = *has_siblings && data.nmic & identify::NMIC_SHARED != 0;
    let unique = if *bogus_identifiers { Identifiers::default() } else { unique(data, described) };
    Ok(NamespaceInfo { extent, limits, read_only, shared, unique })
}

/// Both places have to say the same; where one says nothing, the other counts.
fn unique(data: &identify::Namespace, described: &Identifiers) -> Identifiers {
    fn either<const N: usize>(here: [u8; N], there: [u8; N]) -> [u8; N] {
        if here == [0; N] { there } else { here }
    }
    Identifiers {
        nguid: either(data.nguid, described.nguid),
        eui64: either(data.eui64, described.eui64),
        uuid: described.uuid,
    }
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
