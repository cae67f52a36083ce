//! What `list` answers at a factory: what it holds, and what was minted through it.

use core::num::NonZeroU64;

use nvme_core::server::control::Control;
use nvme_linux::factory::{ListedDevice, ListedFactory, ListedSession, Listing};
use nvme_linux::memory::Trusted;
use nvme_policy::{Access, Ceiling, Dataspaces};
use nvme_session::factory::{FactoryId, FactoryView};

pub(super) fn listing(control: &Control, id: FactoryId, trusted: &Trusted) -> Listing {
    let catalogue = control.catalogue();
    let below = |at: FactoryId| catalogue.is_below(at, id);
    let factories = catalogue.factories().filter(|f| f.id() != id && below(f.id()));
    let sessions = control.sessions().filter(|(_, s)| !s.is_static() && below(s.minted().factory()));
    Listing {
        factory: match catalogue.factory(id) {
            Some(view) => factory(&view, trusted),
            None => server(control),
        },
        sessions: sessions
            .map(|(key, session)| {
                let (minted, policy) = (session.minted(), session.minted().policy());
                ListedSession {
                    session: key.0,
                    factory: minted.factory().number(),
                    name: policy.tag().map(ToString::to_string),
                    device: minted.device().to_owned(),
                    read_only: policy.access() == Access::ReadOnly,
                    ds_max: policy.ds_max().get(),
                    dataspaces: names(policy.dataspaces(), trusted),
                    iops: session.rate().iops.map(NonZeroU64::get),
                    bytes: session.rate().bytes.map(NonZeroU64::get),
                    memory: session.registry().bytes(),
                }
            })
            .collect(),
        factories: factories.map(|view| factory(&view, trusted)).collect(),
    }
}

/// The server's own: it holds whatever there is.
fn server(control: &Control) -> ListedFactory {
    let catalogue = control.catalogue();
    let devices = catalogue.devices().map(|(namespace, _)| ListedDevice {
        device: namespace.identity().to_string(),
        present: true,
        read_only: namespace.read_only(),
        size: Some(namespace.extent().bytes()),
    });
    ListedFactory { devices: devices.collect(), ..of(&Ceiling::SERVER) }
}

fn factory(view: &FactoryView<'_>, trusted: &Trusted) -> ListedFactory {
    ListedFactory {
        factory: view.id().number(),
        parent: Some(view.parent().number()),
        name: view.tag().map(ToString::to_string),
        ended: view.is_ended(),
        devices: view
            .devices()
            .map(|held| ListedDevice {
                device: held.name,
                present: held.extent.is_some(),
                read_only: held.access == Access::ReadOnly,
                size: held.extent.map(|e| e.bytes()),
            })
            .collect(),
        dataspaces: names(view.ceiling().dataspaces(), trusted),
        ..of(view.ceiling())
    }
}

fn of(ceiling: &Ceiling) -> ListedFactory {
    let number = |n: Option<NonZeroU64>| n.map(NonZeroU64::get);
    ListedFactory {
        factory: FactoryId::SERVER.number(),
        parent: None,
        name: None,
        ended: false,
        devices: Vec::new(),
        read_only: ceiling.access() == Access::ReadOnly,
        ds_max: ceiling.ds_max().get(),
        dataspaces: None,
        sessions_max: ceiling.sessions(),
        // The server's own has no bound but that of all.
        factories_max: Some(ceiling.factories()).filter(|n| *n < u64::MAX),
        mem_max: number(ceiling.memory()),
        iops: number(ceiling.rate().iops),
        bytes: number(ceiling.rate().bytes),
        iops_all: number(ceiling.all().iops),
        bytes_all: number(ceiling.all().bytes),
    }
}

/// The names of the trusted dataspaces that it is bounded to.
fn names(dataspaces: Dataspaces, trusted: &Trusted) -> Option<Vec<String>> {
    let held = |place: &usize| dataspaces.admits(Some(*place));
    let named =
        || trusted.names().enumerate().filter(|(place, _)| held(place)).map(|(_, name)| name.to_owned());
    dataspaces.is_bounded().then(|| named().collect())
}
