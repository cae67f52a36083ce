//! What the core has, as documents say it; and a core that goes on with what one of them says.
//!
//! Descriptors, peers and whatever else is the home's it adds itself. `names`: what the trusted dataspaces are called, in the order of this
//! server's list.

use nvme_core::server::control::{self, Adopted, Control, SessionError};
use nvme_core::server::message::SessionKey;
use nvme_policy::{Extent, Namespace};
use nvme_session::factory::{AdoptedFactory, CreateError, FactoryId, FactoryView};

use crate::state::{Counters, Drained, Factory, Session};
use crate::words::{
    Wording, ceiling, ceiling_of, holding, holding_of, placed, placed_of, policy, policy_of, rate, rate_of,
    tag_of,
};

/// Why a core does not go on with something.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// A word means nothing here.
    #[error(transparent)]
    Word(#[from] Wording),
    /// Its factory is not here.
    #[error("there is no factory {0}")]
    Factory(u64),
    /// It cannot be minted again, or made again.
    #[error("{0}")]
    Create(CreateError),
    /// What its driver acknowledged is not offered here.
    #[error("{0}")]
    Session(SessionError),
    /// What that queue of it did is no count here.
    #[error("what queue {0} did is written otherwise")]
    Counts(u16),
}

/// A session, without anything of the home's. `None`: there is none, or its device is gone.
pub fn session(control: &Control, key: SessionKey, names: &[&str]) -> Option<Session> {
    let session = control.session(key).filter(|session| !session.is_lost())?;
    let minted = session.minted();
    Some(Session {
        number: minted.session().number(),
        client: None,
        factory: minted.factory().number(),
        device: placed(&control.catalogue().placed(minted.session())?),
        policy: policy(minted.policy(), names),
        rate: rate(session.rate()),
        owner: None,
        since: 0,
        cookies: Vec::new(),
        lifetime: None,
        listener: None,
        waiting: Vec::new(),
        counters: session
            .counted_by_queue()
            .map(|(queue, counted)| Counters { queue, words: counted.words() })
            .collect(),
        barred: false,
        write_back: session.write_back(),
        connection: None,
    })
}

/// Goes on with a session: its place, its policy, its bounds, what its driver acknowledged, what it did so far.
pub fn adopt_session(
    control: &mut Control,
    session: &Session,
    names: &[&str],
) -> Result<SessionKey, NotTaken> {
    let policy = policy_of(&session.policy, names)?;
    let adopted = Adopted {
        number: session.number,
        policy: &policy,
        factory: factory_of(control, session.factory)?,
        at: &placed_of(&session.device)?,
        is_static: session.client.is_some(),
        rate: rate_of(session.rate)?,
    };
    let key = control.adopt(&adopted).map_err(NotTaken::Create)?;
    let features = session.connection.as_ref().map_or(0, |connection| connection.features);
    control.adopt_features(key, features, session.write_back).map_err(NotTaken::Session)?;
    for Counters { queue, words } in &session.counters {
        if !control.adopt_counts(key, *queue, words) {
            return Err(NotTaken::Counts(*queue));
        }
    }
    Ok(key)
}

/// A factory, without anything of the home's.
pub fn factory(control: &Control, factory: FactoryView<'_>, names: &[&str]) -> Factory {
    Factory {
        number: factory.id().number(),
        parent: factory.parent().number(),
        capability: None,
        ceiling: ceiling(factory.ceiling(), names),
        tag: factory.tag().map(ToString::to_string),
        holdings: control.catalogue().holdings(factory.id()).iter().map(holding).collect(),
        lifetime: None,
        listener: None,
        connection: None,
        cookies: Vec::new(),
    }
}

/// Goes on with a factory: what it holds, and what it may give.
pub fn adopt_factory(
    control: &mut Control,
    factory: &Factory,
    names: &[&str],
) -> Result<FactoryId, NotTaken> {
    let adopted = AdoptedFactory {
        number: factory.number,
        parent: factory_of(control, factory.parent)?,
        ceiling: ceiling_of(&factory.ceiling, names)?,
        tag: tag_of(factory.tag.as_ref())?,
        holdings: factory.holdings.iter().map(holding_of).collect::<Result<_, _>>()?,
    };
    control.catalogue_mut().adopt_factory(adopted).map_err(NotTaken::Create)
}

fn factory_of(control: &Control, number: u64) -> Result<FactoryId, NotTaken> {
    control.catalogue().factory_numbered(number).ok_or(NotTaken::Factory(number))
}

/// What is drained.
pub fn drained(control: &Control) -> Vec<Drained> {
    let serial = |at: u16| {
        let found = control.controllers().nth(usize::from(at));
        Some(
            found.map_or_else(String::new, |(_, controller, _)| controller.info().serial.as_str().to_owned()),
        )
    };
    let each = control.drained().iter().map(|drained| match drained {
        control::Drained::All => Drained { serial: None, blocks: None },
        control::Drained::Controller(at) => Drained { serial: serial(*at), blocks: None },
        control::Drained::Blocks(extent) => {
            let place = extent.namespace();
            let blocks = Some((place.nsid, extent.first(), extent.blocks()));
            Drained { serial: serial(place.controller), blocks }
        }
    });
    each.collect()
}

/// What is drained, in this core's terms. `None`: it is not here, or there are two of that number. `awaited`: which controller will be of
/// that serial number that does not say yet what it is; all of it stays drained.
pub fn drained_of(
    control: &Control,
    drained: &Drained,
    awaited: impl Fn(&str) -> Option<u16>,
) -> Option<control::Drained> {
    let Some(serial) = &drained.serial else { return Some(control::Drained::All) };
    let serials = control.controllers().map(|(_, controller, _)| controller.info().serial.as_str());
    let mut found = (0..).zip(serials).filter(|(_, known)| known == serial).map(|(at, _)| at);
    let (Some(at), None) = (found.next(), found.next()) else {
        return awaited(serial).map(control::Drained::Controller);
    };
    let Some((nsid, first, blocks)) = drained.blocks else { return Some(control::Drained::Controller(at)) };
    let place = Namespace { controller: at, nsid };
    let mut devices = control.catalogue().devices();
    let whole: Extent =
        devices.find_map(|(entry, _)| (entry.namespace() == place).then(|| *entry.extent()))?;
    whole.part(first, blocks).map(control::Drained::Blocks)
}
