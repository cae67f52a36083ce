//! Policies and places, as documents have them. `names`: what the trusted dataspaces are called, in the order of this server's list.

use std::num::NonZeroU64;

use nvme_policy::{
    Access, BlockSize, Ceiling, Dataspaces, DeviceName, DsMax, Label, PartitionId, PciPlace, Policy, Rate,
    Tag,
};
use nvme_session::factory::{DiskIdentity, Identifiers, Placed, PlacedHolding, PlacedPartition, Subsystem};

use crate::state as handover;

/// A word of a document that says nothing here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` means nothing here")]
pub struct Wording(String);

fn wrong(word: impl ToString) -> Wording {
    Wording(word.to_string())
}

/// How much a second.
pub fn rate(rate: Rate) -> handover::Rate {
    handover::Rate { iops: rate.iops.map(Into::into), bytes: rate.bytes.map(Into::into) }
}

/// The other way.
pub(crate) fn rate_of(rate: handover::Rate) -> Result<Rate, Wording> {
    let number = |n: Option<u64>| n.map(|n| NonZeroU64::new(n).ok_or_else(|| wrong(n))).transpose();
    Ok(Rate { iops: number(rate.iops)?, bytes: number(rate.bytes)? })
}

/// A session's policy.
pub(crate) fn policy(policy: &Policy, names: &[&str]) -> handover::Policy {
    handover::Policy {
        device: policy.device().to_string(),
        read_only: policy.access() == Access::ReadOnly,
        ds_max: policy.ds_max().get(),
        dataspaces: named(policy.dataspaces(), names),
        rate: rate(policy.rate()),
        tag: policy.tag().map(ToString::to_string),
    }
}

/// The other way: dataspaces by their places in this server's list.
pub(crate) fn policy_of(policy: &handover::Policy, names: &[&str]) -> Result<Policy, Wording> {
    let device = DeviceName::parse(&policy.device).map_err(|_| wrong(&policy.device))?;
    let ds_max = DsMax::new(policy.ds_max).ok_or_else(|| wrong(policy.ds_max))?;
    let access = if policy.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let dataspaces = dataspaces_of(policy.dataspaces.as_deref(), names)?;
    let tag = tag_of(policy.tag.as_ref())?;
    Ok(Policy::new(device, ds_max, access).bounded(dataspaces, rate_of(policy.rate)?, tag))
}

fn named(dataspaces: Dataspaces, names: &[&str]) -> Option<Vec<String>> {
    let held = |place: &usize| dataspaces.admits(Some(*place));
    let named = names.iter().enumerate().filter(|(place, _)| held(place)).map(|(_, name)| (*name).to_owned());
    dataspaces.is_bounded().then(|| named.collect())
}

fn dataspaces_of(named: Option<&[String]>, names: &[&str]) -> Result<Dataspaces, Wording> {
    let Some(named) = named else { return Ok(Dataspaces::ALL) };
    named.iter().try_fold(Dataspaces::NONE, |all, name| {
        let place = names.iter().position(|known| known == name);
        place.and_then(|place| all.and(place)).ok_or_else(|| wrong(name))
    })
}

/// What a factory may give at most.
pub(crate) fn ceiling(ceiling: &Ceiling, names: &[&str]) -> handover::Ceiling {
    handover::Ceiling {
        read_only: ceiling.access() == Access::ReadOnly,
        ds_max: ceiling.ds_max().get(),
        dataspaces: named(ceiling.dataspaces(), names),
        rate: rate(ceiling.rate()),
        sessions: ceiling.sessions(),
        factories: ceiling.factories(),
        memory: ceiling.memory().map(Into::into),
        all: rate(ceiling.all()),
    }
}

/// The other way.
pub(crate) fn ceiling_of(ceiling: &handover::Ceiling, names: &[&str]) -> Result<Ceiling, Wording> {
    let access = if ceiling.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let ds_max = DsMax::new(ceiling.ds_max).ok_or_else(|| wrong(ceiling.ds_max))?;
    let dataspaces = dataspaces_of(ceiling.dataspaces.as_deref(), names)?;
    let memory = ceiling.memory.map(|n| NonZeroU64::new(n).ok_or_else(|| wrong(n))).transpose()?;
    let each = Ceiling::SERVER.with_each(access, ds_max, dataspaces, rate_of(ceiling.rate)?);
    Ok(each.with_all(ceiling.sessions, ceiling.factories, memory, rate_of(ceiling.all)?))
}

/// What a factory holds.
pub(crate) fn holding(holding: &PlacedHolding) -> handover::Holding {
    handover::Holding {
        name: holding.name.to_string(),
        read_only: holding.access == Access::ReadOnly,
        device: holding.at.as_ref().map(placed),
    }
}

/// The other way.
pub(crate) fn holding_of(holding: &handover::Holding) -> Result<PlacedHolding, Wording> {
    Ok(PlacedHolding {
        name: DeviceName::parse(&holding.name).map_err(|_| wrong(&holding.name))?,
        access: if holding.read_only { Access::ReadOnly } else { Access::ReadWrite },
        at: holding.device.as_ref().map(placed_of).transpose()?,
    })
}

/// What listings call something.
pub(crate) fn tag_of(tag: Option<&String>) -> Result<Option<Tag>, Wording> {
    tag.map(|tag| Tag::new(tag).ok_or_else(|| wrong(tag))).transpose()
}

/// Where a device is.
pub(crate) fn placed(placed: &Placed) -> handover::Device {
    let DiskIdentity { subsystem, controller, shared, nsid, unique } = placed.disk_identity.clone();
    handover::Device {
        serial: placed.serial.clone(),
        place: placed.place.map(|place| place.to_string()),
        identity: handover::Identity {
            subsystem: subsystem.name,
            serial: subsystem.serial,
            model: subsystem.model,
            controller,
            shared,
            nsid,
            nguid: unique.nguid,
            eui64: unique.eui64,
            uuid: unique.uuid,
        },
        nsid: placed.nsid,
        block_size: placed.block_size.bytes(),
        first: placed.first,
        blocks: placed.blocks,
        partition: placed.partition.as_ref().map(|part| handover::Partition {
            number: part.number,
            id: part.id.to_string(),
            label: part.label.as_str().to_owned(),
            id_taken: part.id_taken,
            label_taken: part.label_taken,
        }),
    }
}

/// The other way.
pub(crate) fn placed_of(device: &handover::Device) -> Result<Placed, Wording> {
    let place = device.place.as_ref().map(|text| PciPlace::parse(text).ok_or_else(|| wrong(text)));
    let partition = device.partition.as_ref().map(|part| {
        Ok(PlacedPartition {
            number: part.number,
            id: PartitionId::parse(&part.id).ok_or_else(|| wrong(&part.id))?,
            label: Label::new(&part.label).map_err(|_| wrong(&part.label))?,
            id_taken: part.id_taken,
            label_taken: part.label_taken,
        })
    });
    let identity = device.identity.clone();
    Ok(Placed {
        serial: device.serial.clone(),
        place: place.transpose()?,
        disk_identity: DiskIdentity {
            subsystem: Subsystem { name: identity.subsystem, serial: identity.serial, model: identity.model },
            controller: identity.controller,
            shared: identity.shared,
            nsid: identity.nsid,
            unique: Identifiers { nguid: identity.nguid, eui64: identity.eui64, uuid: identity.uuid },
        },
        nsid: device.nsid,
        block_size: BlockSize::from_bytes(device.block_size).ok_or_else(|| wrong(device.block_size))?,
        first: device.first,
        blocks: device.blocks,
        partition: partition.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_factory_may_give_goes_on_and_is_no_more() {
        let rate = |iops, bytes| Rate { iops: NonZeroU64::new(iops), bytes: NonZeroU64::new(bytes) };
        for access in [Access::ReadOnly, Access::ReadWrite] {
            // The next server has its dataspaces in another order.
            let of = |place| {
                let each = (DsMax::new(3).unwrap(), Dataspaces::NONE.and(place).unwrap(), rate(7, 0));
                Ceiling::SERVER.with_each(access, each.0, each.1, each.2).with_all(
                    Some(5),
                    2,
                    NonZeroU64::new(4096),
                    rate(0, 9),
                )
            };
            let named = ceiling(&of(1), &["a", "b"]);
            assert_eq!(ceiling_of(&named, &["b", "a"]), Ok(of(0)));
            assert!(ceiling_of(&named, &["a"]).is_err(), "it is not known there");
        }
    }
}
