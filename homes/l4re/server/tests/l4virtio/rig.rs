//! The server over software controllers and the model of the kernel, taken turn by turn, and what a ned would do.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nvme_core::nvme::Options;
use nvme_l4re::kernel::{Cap, Objects};
use nvme_l4re::model::{Answer, CallId, Model, Said, Task, TaskCap};
use nvme_l4re_server::{
    Controller, Hardware, Interrupt, Level, Output, Server, StartError, Tuning, interrupt_label,
};
use nvme_mem::{Window, heap};
use nvme_platform::Time;
use nvme_policy::command_line::Verbosity;
use nvme_policy::{CommandLine, Dialect};
use nvme_soft::faulty::Faults;
use nvme_soft::{Config as Soft, Interrupts, MemoryMedium, NamespaceConfig, SoftDevice, SoftHandle};

use crate::quiet::{Engine, Quiet};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// How long an I/O command may take here.
pub(crate) const IO: Duration = Duration::from_secs(5);
pub(crate) const DISK: usize = 16 << 20;

pub(crate) const EPERM: i64 = -1;
pub(crate) const EIO: i64 = -5;
pub(crate) const EAGAIN: i64 = -11;
pub(crate) const ENOMEM: i64 = -12;
pub(crate) const EACCES: i64 = -13;
pub(crate) const EBUSY: i64 = -16;
pub(crate) const ENODEV: i64 = -19;
pub(crate) const EINVAL: i64 = -22;
pub(crate) const ERANGE: i64 = -34;
pub(crate) const ENOSYS: i64 = -38;
pub(crate) const EBADPROTO: i64 = -39;
pub(crate) const EMSGTOOSHORT: i64 = -1001;

/// The lines that were printed, and whether that is what `-v` says.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(Level, String)>>>, bool);

impl Output for Log {
    fn line(&mut self, level: Level, line: fmt::Arguments<'_>) {
        self.0.lock().unwrap().push((level, line.to_string()));
    }

    fn prints(&self, level: Level) -> bool {
        self.1 || level <= Level::Plain
    }
}

impl Log {
    /// What a server prints that was told nothing.
    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock().unwrap();
        let printed = lines.iter().filter(|(level, _)| *level <= Level::Plain);
        printed.map(|(_, line)| format!("{line}\n")).collect()
    }

    /// The lines that say what sessions did.
    pub(crate) fn stats(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter_map(|(_, line)| line.strip_prefix("stat ").map(str::to_owned)).collect()
    }
}

pub(crate) struct Rig {
    pub(crate) model: Model,
    pub(crate) server: Server<Model, Log>,
    pub(crate) log: Log,
    pub(crate) handles: Vec<SoftHandle>,
    pub(crate) engine: Engine,
    /// Who started everything, and hands capabilities out.
    pub(crate) ned: Task,
    pub(crate) svr: TaskCap,
    pub(crate) turns: u64,
}

/// Interrupts of a software controller that reach the model's kernel.
pub(crate) struct Wire(pub(crate) Model, pub(crate) Vec<Cap>, pub(crate) Arc<AtomicU64>);

impl Interrupts for Wire {
    fn raise(&self, vector: u16) {
        self.2.fetch_add(1, Ordering::Relaxed);
        if let Some(irq) = self.1.get(usize::from(vector)).or(self.1.last()) {
            self.0.raise(*irq);
        }
    }
}

/// A blank disk.
pub(crate) fn disk() -> Window {
    heap(DISK).unwrap()
}

pub(crate) fn soft(serial: &str, disk: &Window) -> Soft {
    Soft {
        serial: serial.into(),
        namespaces: vec![NamespaceConfig::new(Arc::new(MemoryMedium::over(disk.clone())))],
        faults: Some(Vec::new()),
        ..Soft::default()
    }
}

pub(crate) fn said(protocol: i64, words: &[u64]) -> Said {
    Said { protocol, words: words.to_vec(), cap: None }
}

/// A `create` of a session, as ned says it.
pub(crate) fn create(words: &[&str]) -> Said {
    ask(0, words)
}

/// A `create` of a factory.
pub(crate) fn delegate(words: &[&str]) -> Said {
    ask(-15, words)
}

/// A `create` of some object.
pub(crate) fn ask(object: i64, words: &[&str]) -> Said {
    let mut message = vec![object as u64];
    for word in words {
        let mut bytes = word.as_bytes().to_vec();
        bytes.push(0);
        message.push(2 | (bytes.len() as u64) << 16);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        message.extend(bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())));
    }
    said(-15, &message)
}

/// The number in an answer.
pub(crate) fn label(answer: &Answer) -> i64 {
    match answer {
        Answer::Reply { label, .. } => *label,
        other => panic!("no answer: {other:?}"),
    }
}

/// The capability in an answer, or its error.
fn minted(answer: Answer) -> Result<TaskCap, i64> {
    match answer {
        Answer::Reply { label: 0, words, cap: Some(cap) } if words.is_empty() => Ok(cap),
        Answer::Reply { label, cap: None, .. } if label < 0 => Err(label),
        other => panic!("{other:?}"),
    }
}

impl Rig {
    /// Starts it; `before`: what else ned gives it.
    pub(crate) fn start(
        options: &str,
        devices: Vec<Soft>,
        before: impl FnOnce(&Model, &Task),
    ) -> Result<Self, StartError> {
        let model = Model::new();
        let ned = model.task();
        let svr = ned.channel("svr");
        before(&model, &ned);
        Self::with(model, ned, svr, options, devices)
    }

    pub(crate) fn with(
        model: Model,
        ned: Task,
        svr: TaskCap,
        options: &str,
        devices: Vec<Soft>,
    ) -> Result<Self, StartError> {
        let words: Vec<&str> = options.split_whitespace().collect();
        let line = CommandLine::parse(words.iter().copied(), Dialect::COMMON).unwrap();
        let mut hardware = Hardware::default();
        let (mut handles, engine) = (Vec::new(), Engine::default());
        for (at, mut soft) in devices.into_iter().enumerate() {
            // Vector 0 is the control role's, the other the worker's, if there is one.
            soft.vectors = soft.vectors.min(2);
            let mut irqs = Vec::new();
            for vector in 0..soft.vectors {
                irqs.push(model.clone().irq(interrupt_label(hardware.interrupts.len())).unwrap());
                hardware.interrupts.push(Interrupt { admin: vector == 0, unmask: None });
            }
            soft.interrupts = Some(Box::new(Wire(model.clone(), irqs, Arc::default())));
            let device = SoftDevice::new(soft).unwrap();
            handles.push(device.handle());
            let name = format!("controller {at}");
            hardware.controllers.push(Controller {
                name,
                device: Box::new(Quiet(device, engine.clone())),
                pci: None,
            });
        }
        let tuning = Tuning { nvme: Options { io_timeout: IO, ..Options::default() }, ..Tuning::default() };
        let log = Log(Arc::default(), line.verbosity >= Verbosity::Info);
        let server = Server::new(model.clone(), log.clone(), &line, hardware, &tuning)?;
        Ok(Self { model, server, log, handles, engine, ned, svr, turns: 0 })
    }

    /// A server with one controller, `soft0`, over a blank disk.
    pub(crate) fn one() -> (Self, Window) {
        let disk = disk();
        let rig = Self::start("", vec![soft("soft0", &disk)], |_, _| {}).unwrap();
        (rig, disk)
    }

    pub(crate) fn faults(&self) -> &Faults {
        self.handles[0].faults().unwrap()
    }

    pub(crate) fn turn(&mut self) {
        for handle in &self.handles {
            handle.advance(self.model.time());
        }
        // A command that was just issued is executed meanwhile, as is what is due.
        self.engine.run(self.model.time());
        self.server.turn();
        self.turns += 1;
    }

    /// Takes turns until the server sleeps; answers until when.
    pub(crate) fn settle(&mut self) -> Option<Time> {
        for _ in 0..2_000_000 {
            self.turn();
            if let Some(until) = self.model.asleep() {
                return until;
            }
        }
        panic!("there is always something to do");
    }

    /// Goes on, with time, until something is so.
    pub(crate) fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = self.model.time() + Duration::from_secs(600);
        loop {
            let next = self.settle();
            if so(self) {
                return;
            }
            let now = self.model.time();
            let most = now + SECOND;
            let due = self.engine.run(now);
            // What the engine said something of is heard at once.
            let heard = self.model.asleep().is_none().then_some(now);
            let next = next.into_iter().chain(due).chain(heard).fold(most, Ord::min);
            let next = next.max(now + Duration::from_micros(1));
            self.model.advance(next - now);
            assert!(now < end, "{what} never comes\n{}", self.log.text());
        }
    }

    /// Goes on for some time.
    pub(crate) fn pass_time(&mut self, time: Duration) {
        let end = self.model.time() + time;
        self.until("an end", |rig| rig.model.time() >= end);
    }

    /// Waits for the answer to a call.
    pub(crate) fn answer(&mut self, task: &Task, call: CallId) -> Answer {
        let mut found = None;
        self.until("an answer", |_| {
            found = task.answer(call);
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn call(&mut self, task: &Task, cap: TaskCap, said: Said) -> Answer {
        let call = task.call(cap, said);
        self.answer(task, call)
    }

    /// The answer to a call of which nothing is wanted but whether it went well.
    pub(crate) fn code(&mut self, task: &Task, cap: TaskCap, said: Said) -> i64 {
        label(&self.call(task, cap, said))
    }

    /// ned creates a session and keeps it.
    pub(crate) fn create(&mut self, words: &[&str]) -> Result<TaskCap, i64> {
        let call = self.ned.call(self.svr, create(words));
        let mut found = None;
        self.until("a session", |rig| {
            found = rig.ned.answer(call);
            found.is_some()
        });
        minted(found.unwrap())
    }

    /// A task asks a factory for a session.
    pub(crate) fn create_at(
        &mut self,
        task: &Task,
        factory: TaskCap,
        words: &[&str],
    ) -> Result<TaskCap, i64> {
        minted(self.call(task, factory, create(words)))
    }

    /// A task asks a factory for a factory.
    pub(crate) fn delegate_at(
        &mut self,
        task: &Task,
        factory: TaskCap,
        words: &[&str],
    ) -> Result<TaskCap, i64> {
        minted(self.call(task, factory, delegate(words)))
    }

    /// ned creates a session for a new task, and keeps nothing of it.
    pub(crate) fn client(&mut self, words: &[&str]) -> (Task, TaskCap) {
        let session = self.create(words).unwrap();
        let task = self.model.task();
        let given = self.ned.give(session, &task);
        self.ned.release(session);
        (task, given)
    }
}
