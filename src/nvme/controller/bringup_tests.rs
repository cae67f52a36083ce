use alloc::boxed::Box;
use alloc::vec;

use nvme_platform::Registers;
use nvme_session::memory::QuietBy;
use nvme_soft::{Config, SoftDevice};

use super::super::super::options::PciId;
use super::*;

fn config() -> Config {
    Config { faults: Some(vec![]), ..Config::default() }
}

fn bringup(options: &Options, delay_after_disable: Duration) -> Bringup {
    Bringup::new(0, options, &Quirks { delay_after_disable, ..Quirks::default() })
}

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

/// Goes on, with time, until others have something to do.
fn turn(machine: &mut Bringup, device: &mut SoftDevice, now: &mut Time) -> Turn {
    for _ in 0..1_000_000 {
        match machine.step(device, 7, *now) {
            Step::On => {}
            Step::Turn(turn) => return turn,
            Step::Wait => *now = machine.next_look().expect("a time to look again").max(*now),
        }
    }
    panic!("nothing comes of {machine:?}");
}

/// Brings it up, without asking it anything.
fn up(machine: &mut Bringup, device: &mut SoftDevice, now: &mut Time) {
    let Turn::Stopped(quiet) = turn(machine, device, now) else { panic!() };
    assert_eq!(quiet.by(), QuietBy::ResetFinished);
    let memory = device.pool().allocate(2).unwrap();
    let at = memory.iova();
    machine.enable(device, (at, Iova(at.0 + 4096)), *now).unwrap();
    assert_eq!(turn(machine, device, now), Turn::Ready);
    assert!(machine.is_setting_up() && machine.listens() && !machine.is_running());
    machine.run();
}

#[test]
fn it_is_stopped_started_and_then_asked() {
    let (mut device, mut now) = (SoftDevice::new(config()).unwrap(), at(1));
    let mut machine = bringup(&Options::default(), Duration::ZERO);
    up(&mut machine, &mut device, &mut now);
    assert_eq!((machine.step(&mut device, 7, now), machine.next_look()), (Step::Wait, None));
    assert!(machine.is_running() && !machine.is_reset());
    assert!(machine.reset(&mut device, now) && !machine.reset(&mut device, now), "one at a time");
    assert!(!machine.listens());
    up(&mut machine, &mut device, &mut now);
    assert!(machine.is_reset());
}

#[test]
fn one_on_a_bus_is_looked_at_though_nothing_happens() {
    let (mut device, mut now) = (SoftDevice::new(config()).unwrap(), at(1));
    let pci = Some(PciId { vendor: 1, device: 1 });
    let options = Options { pci, ..Options::default() };
    let mut machine = bringup(&options, Duration::ZERO);
    up(&mut machine, &mut device, &mut now);
    assert_eq!(machine.step(&mut device, 7, now), Step::Wait);
    assert_eq!(machine.next_look(), Some(now + options.watch_every));
    device.handle().vanish();
    assert_eq!(machine.step(&mut device, 7, now), Step::Turn(Turn::Gone));
}

#[test]
fn a_device_that_hangs_when_it_is_looked_at_too_early_is_left_alone() {
    let (mut device, mut now) = (SoftDevice::new(config()).unwrap(), at(1));
    let delay = Duration::from_millis(2300);
    let mut machine = bringup(&Options::default(), delay);
    up(&mut machine, &mut device, &mut now);
    assert!(machine.reset(&mut device, now));
    let until = now + delay;
    assert_eq!(machine.next_look(), Some(until));
    let early = Time::from_nanos(until.as_nanos() - 1);
    assert_eq!((machine.step(&mut device, 7, early), machine.next_look()), (Step::Wait, Some(until)));
    assert_eq!(machine.step(&mut device, 7, until), Step::On);
}

#[test]
fn a_controller_that_does_not_stop_has_its_function_reset_once() {
    let (mut device, mut now) = (SoftDevice::new(config()).unwrap(), at(1));
    device.handle().faults().unwrap().stick_ready(Some(true));
    let mut machine = bringup(&Options::default(), Duration::ZERO);
    let waited = Duration::from_secs(10);
    let why = Failure::NotStopped(waited);
    assert_eq!(turn(&mut machine, &mut device, &mut now), Turn::Failed { why, quiet: None });
    assert!(now - at(1) >= waited * 2 && now - at(1) < waited * 3);
}

#[test]
fn one_that_is_given_up_says_why_after_it_stopped() {
    let (mut device, mut now) = (SoftDevice::new(config()).unwrap(), at(1));
    let mut machine = bringup(&Options::default(), Duration::ZERO);
    up(&mut machine, &mut device, &mut now);
    machine.stop(&mut device, Failure::NoQueues, now);
    let Turn::Failed { why: Failure::NoQueues, quiet: Some(_) } = turn(&mut machine, &mut device, &mut now)
    else {
        panic!("it was seen to stop");
    };
}

#[test]
fn only_a_running_controller_gets_stuck_and_once() {
    let (mut device, mut now) = (SoftDevice::new(config()).unwrap(), at(1));
    let mut machine = bringup(&Options::default(), Duration::ZERO);
    assert!(!machine.stick());
    up(&mut machine, &mut device, &mut now);
    machine.disturb();
    assert!(machine.stick() && !machine.stick());
    assert!(machine.reset(&mut device, now));
    assert_eq!(machine.next_look(), Some(now + BUS_REST), "the host may reset the link meanwhile");
}

#[test]
fn a_shutdown_ends_in_time() {
    let (mut device, mut now) = (SoftDevice::new(config()).unwrap(), at(1));
    let mut machine = bringup(&Options::default(), Duration::ZERO);
    up(&mut machine, &mut device, &mut now);
    machine.set_shutdown_wait(Duration::from_secs(9));
    assert_eq!(machine.shut_down(&mut device, now), Shutdown::Begun);
    assert_eq!(machine.shut_down(&mut device, now), Shutdown::Already);
    assert_eq!(turn(&mut machine, &mut device, &mut now), Turn::ShutDown { clean: true });
    machine.die(None);
    assert_eq!(machine.shut_down(&mut device, now), Shutdown::Idle);
    assert_eq!(machine.step(&mut device, 7, now), Step::Wait);
}

#[test]
fn one_whose_entries_are_longer_is_not_touched() {
    let mut device = SoftDevice::new(config()).unwrap();
    let quirks = Quirks { long_entries: true, ..Quirks::default() };
    let mut machine = Bringup::new(0, &Options::default(), &quirks);
    let step = machine.step(&mut device, 7, at(1));
    assert!(matches!(step, Step::Turn(Turn::Failed { why: Failure::QueueShape, quiet: Some(_) })));
}

/// A register file that says nothing but CAP.
struct OnlyCap(Capabilities, SoftDevice);

impl Registers for OnlyCap {
    fn read32(&self, offset: u32) -> u32 {
        let bits = self.0.into_bits();
        [bits as u32, (bits >> 32) as u32].get(offset as usize / 4).copied().unwrap_or(0)
    }
    fn write32(&mut self, _: u32, _: u32) {}
}

impl Device for OnlyCap {
    fn registers(&mut self) -> &mut dyn Registers {
        self
    }
    fn dma(&mut self) -> &mut dyn nvme_platform::DmaSpace {
        self.1.dma()
    }
    fn pool(&mut self) -> &mut dyn nvme_platform::DmaPool {
        self.1.pool()
    }
    fn bus(&mut self) -> &mut dyn nvme_platform::Bus {
        self.1.bus()
    }
    fn doorbells(
        &mut self,
        queue: u16,
        stride: u32,
    ) -> Result<Box<dyn nvme_platform::QueueDoorbells>, DeviceError> {
        self.1.doorbells(queue, stride)
    }
}

#[test]
fn queues_without_entries_are_refused_but_of_those_that_are_known_to_have_them() {
    let cap = Capabilities::new().with_css(1);
    for (unsaid_mqes, mqes) in [(None, 0), (Some(63), 63)] {
        let mut device = OnlyCap(cap, SoftDevice::new(config()).unwrap());
        let quirks = Quirks { unsaid_mqes, ..Quirks::default() };
        let mut machine = Bringup::new(0, &Options::default(), &quirks);
        let step = machine.step(&mut device, 7, at(1));
        assert_eq!(step == Step::On, unsaid_mqes.is_some(), "{step:?}");
        assert_eq!(machine.mqes(), mqes);
    }
}
