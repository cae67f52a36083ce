//! What is asked of a controller that became ready: what it is, how many queues it grants, what it tells unasked.
//! One question after the other; each answer leads to the next.

use core::time::Duration;

use nvme_platform::{debug, info, warn};

use super::super::event::Failure;
use super::super::info::ControllerInfo;
use super::super::options::Options;
use super::super::pair::CommandCaps;
use super::super::quirks::Quirks;
use super::super::retry::Delays;
use super::super::spec::command::{Completion, admin};
use super::super::spec::identify::{Controller as IdentifyController, ControllerNvm};
use super::super::spec::registers::{CSS_SEVERAL, Capabilities, Version};
use super::admin::{Job, Page};
use super::identify::{self, Common};
use super::namespaces::Rules;

/// SMART critical warnings, and namespace attribute notices (Base 5.27.1.8).
const EVENT_SMART: u32 = 0x1f;
const EVENT_NAMESPACE: u32 = 1 << 8;
/// Most Asynchronous Event Requests that we keep there.
const EVENTS: u16 = 4;
/// The bounds of what a controller says that a shutdown takes.
const SHUTDOWN_MIN: Duration = Duration::from_secs(5);
const SHUTDOWN_MAX: Duration = Duration::from_secs(30);

/// What comes after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The next question.
    Ask(Job),
    /// It cannot be used.
    Fail(Failure),
    /// All is known; its namespaces are next.
    Known,
}

/// What a controller says about itself.
pub(super) struct Setup {
    index: u16,
    options: Options,
    quirks: Quirks,
    info: ControllerInfo,
    caps: CommandCaps,
    /// Whether it may have other command sets than NVM.
    several: bool,
    highest_nsid: u32,
    aborts: usize,
    events: u16,
    namespace_notices: bool,
    doorbell_buffers: bool,
    shutdown_wait: Duration,
    delays: Delays,
    /// How many pairs it granted to whoever left it.
    left: Option<u16>,
}

impl Setup {
    pub(super) fn new(index: u16, options: Options, quirks: Quirks) -> Self {
        Self {
            index,
            options,
            quirks,
            info: ControllerInfo::default(),
            caps: CommandCaps::default(),
            several: false,
            highest_nsid: 0,
            aborts: 1,
            events: 1,
            namespace_notices: false,
            doorbell_buffers: false,
            shutdown_wait: SHUTDOWN_MIN,
            delays: Delays::default(),
            left: None,
        }
    }

    pub(super) fn info(&self) -> &ControllerInfo {
        &self.info
    }

    /// What it needs, as far as is known by now.
    pub(super) fn quirks(&self) -> &Quirks {
        &self.quirks
    }

    /// What commands it takes.
    pub(super) fn caps(&self) -> CommandCaps {
        self.caps
    }

    /// Most Aborts at a time.
    pub(super) fn aborts(&self) -> usize {
        self.aborts
    }

    /// How long it may ask to be left alone before a command is repeated.
    pub(super) fn delays(&self) -> Delays {
        self.delays
    }

    /// How many Asynchronous Event Requests to keep there.
    pub(super) fn events(&self) -> u16 {
        self.events
    }

    /// Whether it takes doorbells in memory.
    pub(super) fn doorbell_buffers(&self) -> bool {
        self.doorbell_buffers
    }

    /// How long a shutdown may take.
    pub(super) fn shutdown_wait(&self) -> Duration {
        self.shutdown_wait
    }

    /// How its namespaces are found, and what holds for them.
    pub(super) fn rules(&self) -> Rules {
        Rules {
            // Since versions 1.1 and 1.3. Where there are several command sets, only the descriptors say which.
            list: self.info.version >= (1, 1, 0) && !self.quirks.first_identify_only,
            descriptors: (self.info.version >= (1, 3, 0) || self.several)
                && !self.quirks.no_descriptors
                && !self.quirks.first_identify_only,
            highest: self.highest_nsid,
            common: Common {
                caps: self.caps,
                volatile_cache: self.info.volatile_cache,
                has_siblings: self.info.has_siblings,
                bogus_identifiers: self.quirks.bogus_identifiers,
            },
        }
    }

    /// The first question. `left`: so many pairs were granted to whoever left it running.
    pub(super) fn begin(&mut self, version: Version, cap: &Capabilities, left: Option<u16>) -> Job {
        self.left = left;
        self.info.version = (version.major(), version.minor(), version.tertiary());
        self.several = cap.css() & CSS_SEVERAL != 0;
        Job::IdentifyController
    }

    /// `again`: it was used before, and has to be the same.
    pub(super) fn identified(&mut self, completion: &Completion, page: &Page, again: bool) -> Next {
        if !completion.status.ok() {
            return failed(admin::IDENTIFY, completion);
        }
        let page = page.read::<IdentifyController>();
        self.quirks = self.quirks.and_of_model(page.vid.get(), &identify::text(&page.mn));
        let found = match identify::controller(&page, self.info.version, &self.options, &self.quirks) {
            Ok(found) => found,
            Err(why) => return Next::Fail(why),
        };
        let same = self.info.serial == found.info.serial && self.info.model == found.info.model;
        if again && !same {
            return Next::Fail(Failure::Another);
        }
        info!("controller {}: Serial Number: {}", self.index, found.info.serial);
        info!("controller {}: Model Number: {}", self.index, found.info.model);
        info!("controller {}: Firmware Revision: {}", self.index, found.info.firmware);
        info!("controller {}: Number of Namespaces: {}", self.index, found.namespaces);
        if found.info.serial.is_empty() {
            warn!(
                "controller {}: its serial number is empty; its namespaces have no name by number",
                self.index
            );
        }
        self.info = found.info;
        self.caps = found.caps;
        self.highest_nsid = found.namespaces;
        self.events = found.events.min(EVENTS);
        self.namespace_notices = found.namespace_notices;
        self.doorbell_buffers = found.doorbell_buffers;
        self.shutdown_wait =
            Duration::from_micros(found.shutdown_us.into()).clamp(SHUTDOWN_MIN, SHUTDOWN_MAX);
        self.aborts = found.aborts;
        self.delays = found.caps.delays;
        if (self.info.version >= (2, 0, 0) || self.several) && !self.quirks.first_identify_only {
            Next::Ask(Job::IdentifyNvm)
        } else {
            self.say_what_is_heeded()
        }
    }

    pub(super) fn identified_nvm(&mut self, completion: &Completion, page: &Page) -> Next {
        if completion.status.ok() {
            identify::controller_nvm(&page.read::<ControllerNvm>(), &mut self.caps);
        }
        self.say_what_is_heeded()
    }

    /// A controller asks for a delay only of a host that said that it heeds that.
    fn say_what_is_heeded(&mut self) -> Next {
        if self.delays.any() { Next::Ask(Job::HostBehavior) } else { self.ask_for_queues() }
    }

    pub(super) fn behavior_set(&mut self, completion: &Completion) -> Next {
        if !completion.status.ok() {
            debug!("controller {}: it takes no Host Behavior Support", self.index);
        }
        self.ask_for_queues()
    }

    fn ask_for_queues(&mut self) -> Next {
        let most = if self.quirks.one_at_a_time { 1 } else { self.options.pairs_max.max(1) };
        if let Some(left) = self.left {
            return self.queues_known(left.min(most));
        }
        Next::Ask(Job::NumberOfQueues { pairs: most })
    }

    pub(super) fn queues_granted(&mut self, asked: u16, completion: &Completion) -> Next {
        if !completion.status.ok() {
            return failed(admin::SET_FEATURES, completion);
        }
        // Less one, submission queues in the low half (Base 5.27.1.5). It may grant more than was asked for.
        let granted = (completion.dw0 & 0xffff).min(completion.dw0 >> 16).saturating_add(1);
        let granted = u16::try_from(granted).unwrap_or(u16::MAX).min(asked);
        self.queues_known(granted)
    }

    fn queues_known(&mut self, granted: u16) -> Next {
        if granted == 0 {
            return Next::Fail(Failure::NoQueues);
        }
        debug!("controller {}: {} queue pairs", self.index, granted);
        self.info.pairs = granted;
        if self.info.volatile_cache { Next::Ask(Job::WriteCacheOn) } else { self.ask_for_events() }
    }

    pub(super) fn write_cache_set(&self, completion: &Completion) -> Next {
        if !completion.status.ok() {
            // It stays as it is; flushes are sent all the same.
            warn!("controller {}: its write cache could not be turned on", self.index);
        }
        self.ask_for_events()
    }

    fn ask_for_events(&self) -> Next {
        let notices = if self.namespace_notices { EVENT_NAMESPACE } else { 0 };
        Next::Ask(Job::EventConfiguration { bits: EVENT_SMART | notices })
    }

    pub(super) fn events_configured(&self, completion: &Completion) -> Next {
        if !completion.status.ok() {
            debug!("controller {}: asynchronous events could not be configured", self.index);
        }
        Next::Known
    }
}

/// An answer that set-up cannot go on without.
fn failed(opcode: u8, completion: &Completion) -> Next {
    Next::Fail(Failure::Admin { opcode, status: completion.status.0 })
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use alloc::vec;
    use alloc::vec::Vec;

    use super::super::super::spec::command::Status;
    use super::super::super::spec::identify::ONCS_DSM;
    use super::*;

    fn setup() -> Setup {
        Setup::new(0, Options::default(), Quirks::default())
    }

    fn ended(dw0: u32, status: u16) -> Completion {
        Completion { dw0, sqhd: 0, sqid: 0, cid: 0, status: Status(status) }
    }

    fn page(edit: impl Fn(&mut IdentifyController)) -> Page {
        let mut data = IdentifyController::new_zeroed();
        (data.sqes, data.cqes, data.sn) = (0x66, 0x44, *b"one                 ");
        edit(&mut data);
        Page::of(data.as_bytes())
    }

    #[test]
    fn each_answer_leads_to_the_next_question() {
        let mut setup = setup();
        let cap = Capabilities::new().with_css(1);
        assert_eq!(setup.begin(Version::from_bits(0x0002_0000), &cap, None), Job::IdentifyController);
        let data = page(|data| (data.vwc, data.oncs) = (1, ONCS_DSM.into()));
        assert_eq!(setup.identified(&ended(0, 0), &data, false), Next::Ask(Job::IdentifyNvm));
        let most = Options::default().pairs_max;
        let queues = Next::Ask(Job::NumberOfQueues { pairs: most });
        assert_eq!(setup.identified_nvm(&ended(0, Status::INVALID_FIELD), &Page::of(&[])), queues);
        assert_eq!(setup.queues_granted(most, &ended(7 << 16 | 3, 0)), Next::Ask(Job::WriteCacheOn));
        assert_eq!(setup.info().pairs, 4, "as many as there are of both");
        let events = Next::Ask(Job::EventConfiguration { bits: EVENT_SMART });
        assert_eq!(setup.write_cache_set(&ended(0, 1)), events);
        assert_eq!(setup.events_configured(&ended(0, 1)), Next::Known);
        let rules = setup.rules();
        assert!(rules.list && rules.descriptors && rules.common.volatile_cache);
    }

    #[test]
    fn what_was_left_running_is_not_asked_again_for_queues() {
        let mut setup = setup();
        setup.begin(Version::from_bits(0x0001_0400), &Capabilities::new(), Some(3));
        let data = page(|_| ());
        assert!(matches!(
            setup.identified(&ended(0, 0), &data, false),
            Next::Ask(Job::EventConfiguration { .. })
        ));
        assert_eq!(setup.info().pairs, 3);
        setup.begin(Version::from_bits(0x0001_0400), &Capabilities::new(), None);
        assert!(matches!(
            setup.identified(&ended(0, 0), &data, false),
            Next::Ask(Job::NumberOfQueues { .. })
        ));
    }

    #[test]
    fn a_controller_of_version_1_4_is_not_asked_about_its_command_set() {
        let mut setup = setup();
        let several = Capabilities::new().with_css(1 | CSS_SEVERAL);
        for (cap, asks) in [(Capabilities::new().with_css(1), false), (several, true)] {
            setup.begin(Version::from_bits(0x0001_0400), &cap, None);
            let next = setup.identified(&ended(0, 0), &page(|_| ()), false);
            assert_eq!(next == Next::Ask(Job::IdentifyNvm), asks);
        }
    }

    #[test]
    fn a_controller_that_may_ask_for_delays_is_told_that_they_are_heeded() {
        let mut setup = setup();
        setup.begin(Version::from_bits(0x0001_0400), &Capabilities::new(), None);
        let data = page(|data| data.crdt[1] = 5.into());
        assert_eq!(setup.identified(&ended(0, 0), &data, false), Next::Ask(Job::HostBehavior));
        assert!(setup.delays().any() && setup.caps().delays == setup.delays());
        for status in [0, 2] {
            assert!(matches!(setup.behavior_set(&ended(0, status)), Next::Ask(Job::NumberOfQueues { .. })));
        }
    }

    #[test]
    fn another_controller_after_a_reset_is_not_used() {
        let mut setup = setup();
        setup.begin(Version::from_bits(0x0001_0400), &Capabilities::new(), None);
        assert!(matches!(setup.identified(&ended(0, 0), &page(|_| ()), false), Next::Ask(_)));
        assert!(matches!(setup.identified(&ended(0, 0), &page(|_| ()), true), Next::Ask(_)));
        let other = page(|data| data.mn[0] = b'x');
        assert_eq!(setup.identified(&ended(0, 0), &other, true), Next::Fail(Failure::Another));
    }

    /// What set-up asks of a controller of version 2.0 with these quirks, and how its namespaces are found.
    fn asked(quirks: Quirks) -> (Vec<Job>, Rules) {
        let mut setup = Setup::new(0, Options::default(), quirks);
        let cap = Capabilities::new().with_css(1);
        let mut asked = vec![setup.begin(Version::from_bits(0x0002_0000), &cap, None)];
        loop {
            let next = match asked.last() {
                Some(Job::IdentifyController) => setup.identified(&ended(0, 0), &page(|_| ()), false),
                Some(Job::IdentifyNvm) => setup.identified_nvm(&ended(0, 0), &Page::of(&[])),
                Some(Job::NumberOfQueues { pairs }) => setup.queues_granted(*pairs, &ended(0x3f_003f, 0)),
                Some(Job::EventConfiguration { .. }) => setup.events_configured(&ended(0, 0)),
                other => panic!("{other:?}"),
            };
            match next {
                Next::Ask(job) => asked.push(job),
                Next::Known => return (asked, setup.rules()),
                Next::Fail(why) => panic!("{why}"),
            }
        }
    }

    #[test]
    fn a_controller_is_not_asked_for_what_it_does_not_bear() {
        let (plain, rules) = asked(Quirks::default());
        assert!(plain.contains(&Job::IdentifyNvm) && rules.list && rules.descriptors);
        assert!(!rules.common.bogus_identifiers);
        let (first, rules) = asked(Quirks { first_identify_only: true, ..Quirks::default() });
        assert!(!first.contains(&Job::IdentifyNvm) && !rules.list && !rules.descriptors);
        let (_, rules) = asked(Quirks { no_descriptors: true, ..Quirks::default() });
        assert!(rules.list && !rules.descriptors);
        let (_, rules) = asked(Quirks { bogus_identifiers: true, ..Quirks::default() });
        assert!(rules.common.bogus_identifiers);
        let (one, _) = asked(Quirks { one_at_a_time: true, ..Quirks::default() });
        assert!(one.contains(&Job::NumberOfQueues { pairs: 1 }));
    }

    #[test]
    fn a_subsystem_that_many_drives_name_is_not_believed() {
        let named = page(|data| data.subnqn[..3].copy_from_slice(b"nqn"));
        for ignore_subsystem in [false, true] {
            let quirks = Quirks { ignore_subsystem, ..Quirks::default() };
            let mut setup = Setup::new(0, Options::default(), quirks);
            setup.begin(Version::from_bits(0x0001_0400), &Capabilities::new(), None);
            assert!(matches!(setup.identified(&ended(0, 0), &named, false), Next::Ask(_)));
            assert_eq!(setup.info().subsystem, if ignore_subsystem { "" } else { "nqn" });
        }
        // The drive whose device number is another's is known by its model, which it says.
        let x5 = page(|data| {
            data.subnqn[..3].copy_from_slice(b"nqn");
            data.vid = 0x144d.into();
            data.mn = *b"Samsung Portable SSD X5                 ";
        });
        let mut setup = setup();
        setup.begin(Version::from_bits(0x0001_0400), &Capabilities::new(), None);
        assert!(matches!(setup.identified(&ended(0, 0), &x5, false), Next::Ask(_)));
        assert_eq!(
            (setup.info().subsystem.as_str(), setup.quirks().delay_after_disable.is_zero()),
            ("", false)
        );
    }

    #[test]
    fn what_it_cannot_do_without_fails() {
        let mut setup = setup();
        let next = setup.identified(&ended(0, 2), &page(|_| ()), false);
        assert_eq!(next, Next::Fail(Failure::Admin { opcode: admin::IDENTIFY, status: 2 }));
        let next = setup.queues_granted(8, &ended(0, 2));
        assert_eq!(next, Next::Fail(Failure::Admin { opcode: admin::SET_FEATURES, status: 2 }));
        assert_eq!(setup.queues_granted(0, &ended(0, 0)), Next::Fail(Failure::NoQueues));
    }
}
