//! The options of one client or one factory: those that stand behind its `--client` or `--factory`.
//!
//! A `--ds` may come before the `--register-ds` of its dataspace. So names are numbered as they come, and become places in the list of
//! trusted ones at the end.

use super::error::{OptionError, Problem};
use super::option::Name;
use super::{
    CAP_NAME_MAX, CLIENTS_MAX, CommandLine, Dialect, FACTORIES_MAX, FACTORY_DEVICES_MAX, StaticClient,
    StaticFactory, TRUSTED_MAX,
};
use crate::ceiling::Ceiling;
use crate::limits::Dataspaces;
use crate::words::{Draft, Trusted};

/// What the options are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Client,
    Factory,
}

impl Of {
    fn option(self) -> Name {
        match self {
            Self::Client => Name::Client,
            Self::Factory => Name::Factory,
        }
    }
}

/// A client or a factory whose options may come, and what it got so far.
pub(super) struct Scope<'a> {
    of: Of,
    cap: &'a str,
    draft: Draft,
}

/// What was read so far.
pub(super) struct Read<'a> {
    pub(super) line: CommandLine<'a>,
    /// The client or the factory whose options may come.
    pub(super) scope: Option<Scope<'a>>,
    /// What `--ds` named, in the order in which it was first said.
    named: heapless::Vec<&'a str, TRUSTED_MAX>,
    pub(super) dialect: Dialect,
}

impl<'a> Read<'a> {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { line: CommandLine::default(), scope: None, named: heapless::Vec::new(), dialect }
    }

    /// An option of the open scope, with its value.
    pub(super) fn scoped(&mut self, name: Name, value: &'a str) -> Result<(), OptionError> {
        let Some(Scope { of, draft, .. }) = &mut self.scope else {
            let of_factory =
                matches!(name, Name::Sessions | Name::Factories | Name::IopsAll | Name::BytesAll);
            let problem = if of_factory { Problem::NoFactory } else { Problem::NoClient };
            return Err(OptionError::of(name.as_str(), problem));
        };
        let wrong = |problem| OptionError::at(name.as_str(), value.as_bytes(), problem);
        let said = match (name, *of) {
            (Name::Device, Of::Client) => draft.device(value),
            (Name::Device, Of::Factory) => draft.further_device(value),
            (Name::DsMax, _) => draft.ds_max(value),
            (Name::Iops, _) => draft.iops(value),
            (Name::Bytes, _) => draft.bytes(value),
            (Name::Ds, _) => {
                if !self.named.contains(&value) {
                    self.named.push(value).map_err(|_full| wrong(Problem::TooMany(TRUSTED_MAX)))?;
                }
                draft.dataspace(value, &Trusted { names: &self.named, held: Dataspaces::ALL })
            }
            (Name::Sessions, Of::Factory) => draft.sessions(value),
            (Name::Factories, Of::Factory) => draft.factories(value),
            (Name::IopsAll, Of::Factory) => draft.iops_all(value),
            (Name::BytesAll, Of::Factory) => draft.bytes_all(value),
            _ => return Err(OptionError::of(name.as_str(), Problem::NoFactory)),
        };
        said.map_err(|why| wrong(Problem::Client(why)))
    }

    /// `--readonly` of the open scope.
    pub(super) fn scope_reads(&mut self) -> Result<(), OptionError> {
        let of = |problem| OptionError::of(Name::Readonly.as_str(), problem);
        let Some(scope) = &mut self.scope else { return Err(of(Problem::NoClient)) };
        scope.draft.read_only().map_err(|why| of(Problem::Client(why)))
    }

    /// Ends the scope before it, and starts another.
    pub(super) fn open_scope(&mut self, of: Of, cap: &'a str) -> Result<(), OptionError> {
        self.close_scope()?;
        self.new_name(of, cap)
            .map_err(|problem| OptionError::at(of.option().as_str(), cap.as_bytes(), problem))?;
        self.scope = Some(Scope { of, cap, draft: Draft::default() });
        Ok(())
    }

    fn new_name(&self, of: Of, cap: &str) -> Result<(), Problem> {
        cap_name(cap)?;
        if matches!(cap, "vbus" | "svr") || self.dialect.reserved.contains(&cap) {
            return Err(Problem::Reserved);
        }
        match self.use_of(cap) {
            Some(same) if same == of => Err(Problem::Repeated),
            Some(_) => Err(Problem::TwoUses),
            None if self.line.trusted.contains(&cap) => Err(Problem::TwoUses),
            None => Ok(()),
        }
    }

    /// What has that name, if it is a client or a factory.
    fn use_of(&self, cap: &str) -> Option<Of> {
        let clients = self.line.clients.iter().map(|client| (client.cap, Of::Client));
        let factories = self.line.factories.iter().map(|factory| (factory.cap, Of::Factory));
        let open = self.scope.as_ref().map(|scope| (scope.cap, scope.of));
        clients.chain(factories).chain(open).find(|(name, _)| *name == cap).map(|(_, of)| of)
    }

    /// Ends the open scope, if there is one: by now it must have a device.
    pub(super) fn close_scope(&mut self) -> Result<(), OptionError> {
        let Some(Scope { of, cap, draft }) = self.scope.take() else { return Ok(()) };
        let wrong = |problem| OptionError::at(of.option().as_str(), cap.as_bytes(), problem);
        match of {
            Of::Client => {
                let asked = draft.session().map_err(|why| wrong(Problem::Client(why)))?;
                let admitted = Ceiling::SERVER.admit(&asked);
                let policy = admitted.map_err(|refusal| wrong(Problem::Client(refusal.why)))?;
                let client = StaticClient { cap, policy };
                self.line.clients.push(client).map_err(|_full| wrong(Problem::TooMany(CLIENTS_MAX)))
            }
            Of::Factory => {
                // Listings call it as its capability is called, if that fits.
                let (devices, terms) =
                    draft.tagged(cap).factory().map_err(|why| wrong(Problem::Client(why)))?.into_parts();
                let factory = StaticFactory { cap, devices: devices.len(), terms };
                self.line.factories.push(factory).map_err(|_full| wrong(Problem::TooMany(FACTORIES_MAX)))?;
                self.line
                    .factory_devices
                    .extend_from_slice(&devices)
                    .map_err(|_full| wrong(Problem::TooManyDevices(FACTORY_DEVICES_MAX)))
            }
        }
    }

    /// Names a trusted dataspace; once or more often is the same.
    pub(super) fn trust(&mut self, cap: &'a str) -> Result<(), Problem> {
        cap_name(cap)?;
        if self.use_of(cap).is_some() {
            return Err(Problem::TwoUses);
        }
        if self.line.trusted.contains(&cap) {
            return Ok(());
        }
        self.line.trusted.push(cap).map_err(|_full| Problem::TooMany(TRUSTED_MAX))
    }

    /// Puts the places of the trusted dataspaces where names were; each that `--ds` says must be one of them.
    pub(super) fn place_dataspaces(&mut self) -> Result<(), OptionError> {
        let trusted = &self.line.trusted;
        if let Some(name) = self.named.iter().find(|name| !trusted.contains(name)) {
            return Err(OptionError::at(Name::Ds.as_str(), name.as_bytes(), Problem::NotTrusted));
        }
        let place = |numbered: usize| {
            let name = self.named.get(numbered)?;
            trusted.iter().position(|known| known == name)
        };
        for client in &mut self.line.clients {
            client.policy.dataspaces = client.policy.dataspaces.moved(place);
        }
        for factory in &mut self.line.factories {
            factory.terms.dataspaces.known = factory.terms.dataspaces.known.moved(place);
        }
        Ok(())
    }
}

/// A capability's name: printable ASCII, without what separates it from others (`=` in `--cap`, `:` in `LISTEN_FDNAMES`).
pub(super) fn cap_name(name: &str) -> Result<(), Problem> {
    let fit = name.bytes().all(|b| b.is_ascii_graphic() && b != b'=' && b != b':');
    if fit && !name.is_empty() && name.len() <= CAP_NAME_MAX { Ok(()) } else { Err(Problem::CapName) }
}

#[cfg(test)]
mod tests;
