//! What this server was started with, as the next one gets it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nvme_handover::{Capabilities, Capability, Function, Manager};
use nvme_linux::logger::SERVER;
use nvme_linux::vfio::{Descriptors, Held};
use nvme_platform::Time;

use super::super::Server;
use super::{LINK, Stays, shown};
use crate::devices::Over;
use crate::seat::Source;
use crate::upgrade::Files;

impl Server {
    pub(super) fn hand_capabilities(&self, time: Time) -> Result<(), Stays> {
        let Some(successor) = &self.upgrades.successor else { return Ok(()) };
        let who = shown(successor.peer);
        log::info!(target: SERVER, "upgrade{who}: it is told what this server was started with");
        let shared = self.functions().map(|(word, held)| match held.share() {
            Ok(shared) => Ok((word.to_owned(), shared)),
            Err(why) => Err(Stays::Why(format!("{word}: {why}"))),
        });
        let shared = shared.collect::<Result<Vec<_>, _>>()?;
        let mut files = Files::default();
        let capabilities = self.capabilities_with(&mut files);
        let feed = self.notifier.feed().map(|feed| u64::try_from(feed.as_nanos()).unwrap_or(u64::MAX));
        let keeps = self.keep.is_some();
        let socket = self.notifier.socket();
        let manager = socket.map(|socket| Manager { socket: files.add(socket), feed, keeps });
        let functions = shared.iter().map(|(word, shared)| function(word, shared, &mut files)).collect();
        let document = Capabilities { capabilities, functions, manager };
        Ok(successor.link.send_document(&document, &files, time + LINK)?)
    }

    /// The controllers that are hardware, with their words.
    pub(in super::super) fn functions(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.upgrades.began.controllers.iter().filter_map(|(word, over)| match over {
            Over::Hardware(held) => Some((word.as_str(), &**held)),
            Over::Memory(_) | Over::Image(_) => None,
        })
    }

    /// What this server was started with, but for hardware.
    pub(in super::super) fn capabilities_with<'a>(&'a self, files: &mut Files<'a>) -> Vec<Capability> {
        let mut capabilities = Vec::new();
        for (word, over) in &self.upgrades.began.controllers {
            let Some(file) = over.file() else { continue };
            let word = self.upgrades.began.words.iter().find(|(_, known)| known == word);
            let word = word.map(|(_, word)| word.clone());
            capabilities.push(Capability { name: "vbus".into(), word, file: files.add(file) });
        }
        for (name, file) in self.by_name() {
            let word = self.upgrades.began.words.iter().find(|(known, _)| known == name);
            let word = word.map(|(_, word)| word.clone());
            capabilities.push(Capability { name: name.to_owned(), word, file: files.add(file) });
        }
        capabilities
    }

    /// All that the server has by a name but the controllers.
    fn by_name(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let own = [
            ("svr", &self.svr),
            ("ctl", &self.ctl),
            ("admin", &self.admin),
            ("metrics", &self.metrics),
            ("audit", &self.upgrades.began.audit),
            ("upgrade", &self.upgrades.began.listener),
        ];
        let own = own.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?.as_fd())));
        let clients = self.seats.values().filter_map(|seat| match &seat.source {
            Source::Listener(listener) => Some((seat.cap.as_deref()?, listener.as_fd())),
            Source::Connection => None,
        });
        let factories = self.posts.values();
        let factories =
            factories.filter_map(|post| Some((post.cap.as_deref()?, post.listener.as_ref()?.as_fd())));
        own.chain(clients).chain(factories).chain(self.trusted.files()).collect()
    }
}

fn function<'a>(word: &str, shared: &'a Descriptors, files: &mut Files<'a>) -> Function {
    let Descriptors { container, group, device, interrupts } = shared;
    let mut add = |file: &'a OwnedFd| files.add(file.as_fd());
    Function {
        word: word.to_owned(),
        container: add(container),
        group: add(group),
        device: add(device),
        interrupts: interrupts.mode.to_string(),
        vectors: interrupts.vectors.iter().map(&mut add).collect(),
        request: interrupts.request.as_ref().map(&mut add),
        error: interrupts.error.as_ref().map(&mut add),
    }
}
