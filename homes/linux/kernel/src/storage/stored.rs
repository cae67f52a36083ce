//! An image as the software controller has it: which engine a request goes to.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme_soft::{Begun, Failure, Job, Request, Resident, Storage};

use super::durable::{Flush, Joined};
use super::engine::Engine;
use super::helpers::Helpers;
use super::image::{Image, ImageOptions, OpenError};
use super::station;
use super::task::Task;
use super::window::Mapped;
use crate::events::Doorbell;

/// Helper threads of an image that has no ring.
const THREADS: usize = 16;
/// Of one that has: for what control itself reads and flushes.
const HELPERS: usize = 2;
/// Orders that helpers take.
const ORDERS: usize = 256;

/// An image, and what reaches it.
pub struct Stored {
    image: Arc<Image>,
    /// Where it is mapped, if that is how it is reached.
    window: Option<Mapped>,
    helpers: Arc<Helpers>,
    bell: Arc<Doorbell>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stored").field(&self.image).finish()
    }
}

impl Stored {
    /// Opens an image that was opened with at least these rights. `index`: the how manieth it is of those that rings know.
    /// `rings`: whether there can be rings, or why not.
    pub fn open(
        file: OwnedFd,
        options: ImageOptions,
        index: usize,
        rings: &Result<(), String>,
    ) -> Result<Arc<Self>, OpenError> {
        let image = Arc::new(Image::open(file, options, index, rings)?);
        let window = match image.engine() {
            Engine::Window => {
                let mapped = Mapped::new(image.file(), image.size(), !image.read_only(), image.may_grow())
                    .map_err(OpenError::Window)?;
                image.reaches(mapped.reach());
                Some(mapped)
            }
            Engine::Auto | Engine::Uring | Engine::Threads => None,
        };
        image.say();
        let (helpers, bell) = (Helpers::new(ORDERS), Arc::new(Doorbell::new()?));
        Ok(Arc::new(Self { image, window, helpers, bell }))
    }

    /// What is served.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Starts its helper threads: after the process has given up what threads would inherit.
    pub fn start(&self) -> std::io::Result<()> {
        let threads = if self.image.engine() == Engine::Threads { THREADS } else { HELPERS };
        self.helpers.start("storage", threads)
    }

    /// Has a helper ask how large it is by now; `bell` is rung when [`Question::take_answer`](super::Question::take_answer) has news.
    pub fn ask(&self, bell: &Arc<Doorbell>) {
        self.helpers.ask(&self.image, bell);
    }

    /// Hands a request to a helper.
    fn help(&self, request: Request) -> Begun {
        let bell = station::bell().unwrap_or_else(|| Arc::clone(&self.bell));
        match self.hand(request, &bell) {
            Begun::Full(request) => {
                self.image.room().wait(&bell);
                // Whoever made room before that has woken nobody.
                self.hand(request, &bell)
            }
            begun => begun,
        }
    }

    fn hand(&self, request: Request, bell: &Arc<Doorbell>) -> Begun {
        if !self.helpers.has_room() {
            return Begun::Full(request);
        }
        let task = if request.job() == Job::Flush {
            match self.image.join(Flush { request, bell: Arc::clone(bell) }) {
                Joined::Call => Task::sync(&self.image),
                Joined::Waits => return Begun::UnderWay,
                Joined::Lost(request) => return Begun::Ended(request, Err(Failure::Lost)),
            }
        } else {
            match Task::new(&self.image, request, Vec::new()) {
                Ok(task) => task,
                Err(request) => return Begun::Full(request),
            }
        };
        self.helpers.put(task, Arc::clone(bell));
        Begun::UnderWay
    }
}

impl Storage for Stored {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn begin(&self, request: Request) -> Begun {
        let end = match request.job() {
            Job::Read { offset, len }
            | Job::Write { offset, len }
            | Job::Discard { offset, len }
            | Job::Zero { offset, len, .. } => offset.saturating_add(len),
            Job::Flush => 0,
        };
        // It may have shrunk since the controller was told its size.
        if end > self.image.size() {
            return Begun::Ended(request, Err(Failure::Gone));
        }
        let discard = matches!(request.job(), Job::Discard { .. });
        let begun = match (&self.window, self.image.engine()) {
            (Some(window), _) => window.begin(&self.image, request),
            (None, Engine::Uring) if !(discard && self.image.is_device()) => {
                station::begin(&self.image, request)
            }
            (None, _) => Err(request),
        };
        begun.unwrap_or_else(|request| self.help(request))
    }

    fn copies_in_begin(&self) -> bool {
        self.window.is_some()
    }

    fn resident(&self) -> Option<Resident> {
        self.window.as_ref().map(Mapped::resident)
    }

    fn discard_granularity(&self) -> u64 {
        self.image.discard_granularity()
    }

    fn unmaps_to_zeroes(&self) -> bool {
        true
    }
}
