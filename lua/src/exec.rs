//! Starting a program with its capabilities.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use mlua::{AnyUserData, Function, Lua, Table, Value};
use nvme_linux::spawn::{FIRST, Process, Spawn};
use nvme_linux::standard::complain;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::cap::{Cap, Kind, Object};
use crate::channel::{self, Channel, Ends};
use crate::failure::Failure;
use crate::output::{self, Tag};
use crate::rights;
use crate::supervise::{Program, Supervisor};
use crate::words::{self, Rom, is_server};

/// What programs are started with.
pub(crate) struct Loader {
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) rom: Rom,
    /// The threads that copy the programs' output.
    pub(crate) copies: RefCell<Vec<JoinHandle<()>>>,
    /// What is called when a program has ended.
    pub(crate) handlers: RefCell<Vec<(Arc<Program>, Function)>>,
}

impl Loader {
    pub(crate) fn has_handler(&self, program: &Arc<Program>) -> bool {
        self.handlers.borrow().iter().any(|(one, _)| Arc::ptr_eq(one, program))
    }

    /// Calls what waits for the end of this program. Without a status it was killed.
    pub(crate) fn tell(&self, program: &Arc<Program>, status: Option<i32>) {
        let at = self.handlers.borrow().iter().position(|(one, _)| Arc::ptr_eq(one, program));
        let Some(at) = at else { return };
        let (_, handler) = self.handlers.borrow_mut().remove(at);
        if let Err(why) = handler.call::<()>(status) {
            complain(format_args!("lua error: {}", crate::failure::first_lines(&why.to_string())));
        }
    }

    /// Calls what waits for programs that have ended by now; whether there was anything.
    pub(crate) fn tell_all(&self) -> bool {
        let ended = |(program, _): &&(Arc<Program>, Function)| program.ended();
        let ended: Vec<_> =
            self.handlers.borrow().iter().filter(ended).map(|(one, _)| Arc::clone(one)).collect();
        for program in &ended {
            program.collect();
            self.tell(program, program.exit().map(nvme_linux::spawn::Exit::status));
        }
        !ended.is_empty()
    }
}

/// What a script asks to be started.
pub(crate) struct Request {
    /// The capabilities, by name: a name may come several times.
    caps: Vec<(String, Given)>,
    /// The words of the command line, the program first.
    line: Vec<String>,
    /// Variables set, or removed.
    environment: Vec<(String, Option<String>)>,
    output: Output,
    stdin: bool,
}

enum Given {
    Cap(Cap),
    Spec(String),
}

enum Output {
    /// The loader's own.
    Inherited,
    /// Line by line, under a tag.
    Tagged(Vec<String>),
}

/// All that a program is started with, once or again.
pub(crate) struct Start {
    path: PathBuf,
    /// Its argument 0.
    name: String,
    words: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    fds: Vec<(String, OwnedFd)>,
    standard: [Option<OwnedFd>; 3],
}

impl Start {
    /// How many descriptors it is given by name.
    pub(crate) fn descriptors(&self) -> usize {
        self.fds.len()
    }

    /// Starts it, with what is kept for it, and where it says so. It dies with the thread that calls this.
    pub(crate) fn spawn(&self, kept: &[(String, OwnedFd)], notify: Option<&str>) -> std::io::Result<Process> {
        let mut spawn = Spawn::new(&self.path, OsStr::new(&self.name))?;
        for (name, fd) in self.fds.iter().chain(kept) {
            spawn.fd(name, fd.as_fd())?;
        }
        for word in &self.words {
            spawn.arg(OsStr::new(word))?;
        }
        for (name, value) in &self.environment {
            spawn.env(name, value)?;
        }
        if let Some(path) = notify {
            spawn.env(OsStr::new("NOTIFY_SOCKET"), OsStr::new(path))?;
        }
        for (number, file) in (0..).zip(&self.standard) {
            if let Some(file) = file {
                spawn.standard(number, file.as_fd());
            }
        }
        spawn.die_with_parent();
        spawn.start()
    }
}

/// What the server opens itself: names and SPECs.
type Specs<'a> = Vec<(&'a str, &'a str)>;

/// A descriptor for the program.
struct Handed {
    name: String,
    fd: OwnedFd,
}

/// A channel that the program will serve.
struct Serving {
    channel: Rc<Object>,
    ends: Ends,
    name: String,
}

impl Request {
    /// From what the prelude hands over.
    pub(crate) fn new(
        lua: &Lua,
        (caps, line, environment, log, stdin): (Table, Vec<String>, Table, Value, bool),
    ) -> mlua::Result<Request> {
        let mut given = Vec::new();
        for pair in caps.sequence_values::<Table>() {
            let pair = pair?;
            let name: String = pair.raw_get(1)?;
            let value = match pair.raw_get::<Value>(2)? {
                Value::String(spec) => Given::Spec(spec.to_str()?.to_owned()),
                other => Given::Cap(lua.unpack::<AnyUserData>(other)?.borrow::<Cap>()?.clone()),
            };
            given.push((name, value));
        }
        let mut variables = Vec::new();
        for pair in environment.pairs::<String, Value>() {
            let (name, value) = pair?;
            let value = match value {
                Value::Boolean(false) => None,
                other => Some(lua.unpack::<String>(other)?),
            };
            variables.push((name, value));
        }
        variables.sort();
        let output = match log {
            Value::Nil => Output::Inherited,
            Value::Table(words) => {
                Output::Tagged(words.sequence_values::<String>().collect::<Result<_, _>>()?)
            }
            Value::UserData(cap) => match &*cap.borrow::<Cap>()?.object {
                Object::Log(words) => Output::Tagged(words.clone()),
                _ => Output::Inherited,
            },
            other => {
                let text = format!(
                    "log: a table {{ \"tag\", \"colour\" }} is expected, not a {}",
                    other.type_name()
                );
                return Err(mlua::Error::runtime(text));
            }
        };
        Ok(Request { caps: given, line, environment: variables, output, stdin })
    }

    /// Starts it.
    pub(crate) fn start(self, loader: &Loader) -> Result<Arc<Program>, Failure> {
        let program = self.line.first().ok_or_else(|| Failure::new(Errno::INVAL, "no program to start"))?;
        if loader.supervisor.ending() {
            return Err(Failure::new(Errno::CANCELED, "the loader was told to end"));
        }
        let path = loader.rom.resolve(program)?;
        let (handed, serving, specs) = self.capabilities(program)?;

        let failed =
            |error: std::io::Error| Failure::io(format_args!("{program} ({})", path.display()), &error);
        let mut fds: Vec<(String, OwnedFd)> = handed.into_iter().map(|one| (one.name, one.fd)).collect();
        let mut served = Vec::new();
        for Serving { channel, ends: Ends { server, place, kind }, name } in serving {
            fds.push((name, server));
            served.push((channel, place, kind));
        }
        let numbers: Vec<(String, i32)> = fds.iter().map(|(name, _)| name.clone()).zip(FIRST..).collect();
        let mut words = Vec::new();
        for (name, spec) in specs {
            words.extend(["--cap".to_owned(), format!("{name}={spec}")]);
        }
        for word in self.line.iter().skip(1) {
            words.push(words::substitute(word, &numbers, words::base(program))?);
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Failure::io("/dev/null", &errno.into()))?;
        let pipes = self.pipes(program)?;
        let mut standard = [(!self.stdin).then_some(null), None, None];
        let mut copies = Vec::new();
        for (number, (read, write, tag)) in (1..).zip(pipes) {
            if let Some(place) = standard.get_mut(number) {
                *place = Some(write);
            }
            copies.push((read, tag, number == 2));
        }
        let name = program.clone();
        let start = Start { path: path.clone(), name, words, environment: self.environment(), fds, standard };
        let name = words::base(program);
        let running = if is_server(program) {
            crate::keep::start(start, name, &loader.supervisor).map_err(failed)?
        } else {
            loader.supervisor.add(name, start.spawn(&[], None).map_err(failed)?)
        };
        for (read, tag, is_error) in copies {
            let copy = output::copy(read, tag, is_error).map_err(failed)?;
            loader.copies.borrow_mut().push(copy);
        }
        for (channel, place, kind) in served {
            if let Object::Channel(channel) = &*channel {
                channel.borrow_mut().serve(place, kind, &running);
            }
        }
        Ok(running)
    }

    fn pipes(&self, program: &str) -> Result<Vec<(OwnedFd, OwnedFd, Tag)>, Failure> {
        let Output::Tagged(words) = &self.output else { return Ok(Vec::new()) };
        let tag = Tag::new(words, words::base(program));
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let pipe = || pipe().map_err(|errno| Failure::io("a pipe", &errno.into()));
        let ((a, b), (c, d)) = (pipe()?, pipe()?);
        Ok(vec![(a, b, tag.clone()), (c, d, tag)])
    }

    /// The loader's own variables and the script's, without what tells the loader about its own parent.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        const OURS: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE"];
        let set_here = |name: &OsString| self.environment.iter().any(|(other, _)| *name == **other);
        let inherited = std::env::vars_os()
            .filter(|(name, _)| !set_here(name) && !OURS.iter().any(|ours| *name == **ours));
        let own =
            self.environment.iter().filter_map(|(name, value)| Some((name.into(), value.as_ref()?.into())));
        inherited.chain(own).collect()
    }

    /// Opens, connects and makes what the capabilities stand for.
    fn capabilities(&self, program: &str) -> Result<(Vec<Handed>, Vec<Serving>, Specs<'_>), Failure> {
        let factories = words::named_by("--factory", &self.line);
        let clients = words::named_by("--client", &self.line);
        let (mut handed, mut serving, mut specs) = (Vec::new(), Vec::<Serving>::new(), Vec::new());
        for (name, given) in &self.caps {
            let named = |mut failure: Failure| {
                failure.text = format!("capability `{name}` for {}: {}", words::base(program), failure.text);
                failure
            };
            match given {
                Given::Spec(spec) if is_server(program) => specs.push((name.as_str(), spec.as_str())),
                Given::Spec(spec) => {
                    handed.push(Handed { name: name.clone(), fd: open(spec).map_err(named)? });
                }
                // Every program finds the file system by itself.
                Given::Cap(cap) if matches!(*cap.object, Object::Ambient("rom")) => (),
                Given::Cap(cap) => match &*cap.object {
                    Object::Channel(channel) if cap.server => {
                        let twice = serving.iter().any(|other| Rc::ptr_eq(&other.channel, &cap.object));
                        if twice {
                            let text =
                                "the channel has another name among these caps: it can be served under one";
                            return Err(named(Failure::new(Errno::INVAL, text)));
                        }
                        channel.borrow().may_be_served().map_err(named)?;
                        let svr = name == "svr" && !clients.contains(&name.as_str());
                        let factory = svr || factories.contains(&name.as_str());
                        let ends = channel::make(factory).map_err(named)?;
                        serving.push(Serving { channel: Rc::clone(&cap.object), ends, name: name.clone() });
                    }
                    _ => handed.push(Handed { name: name.clone(), fd: hand_over(cap).map_err(named)? }),
                },
            }
        }
        Ok((handed, serving, specs))
    }
}

/// The descriptor that a program is given for a capability.
fn hand_over(cap: &Cap) -> Result<OwnedFd, Failure> {
    let channel = |channel: &RefCell<Channel>| channel.borrow().connect();
    match &*cap.object {
        Object::Channel(one) => channel(one),
        Object::Open(fd, kind) => {
            let fd = fd.borrow();
            let fd = fd.as_ref().ok_or_else(|| Failure::new(Errno::BADF, "it is closed"))?;
            let copy = if *kind == Kind::Dataspace && cap.rights & rights::W == 0 {
                crate::memory::read_only(fd.as_fd())
            } else {
                rustix::io::fcntl_dupfd_cloexec(fd, 3)
            };
            copy.map_err(|errno| Failure::io("a copy of its descriptor", &errno.into()))
        }
        // Its lifetime stays here: whoever is given the factory can mint, and not keep it.
        Object::Factory(made) => {
            let made = made.borrow();
            let factory = made.as_ref().and_then(|made| made.connection());
            let factory = factory.ok_or_else(|| Failure::new(Errno::BADF, "it was given back"))?;
            let copy = rustix::io::fcntl_dupfd_cloexec(factory, 3);
            copy.map_err(|errno| Failure::io("a copy of its descriptor", &errno.into()))
        }
        Object::Kernel | Object::Memory(_) | Object::Log(_) | Object::Ambient(_) => {
            Err(Failure::new(Errno::NOSYS, "it stands for nothing that a Linux program could be handed"))
        }
    }
}

/// Opens a SPEC for a program that does not understand SPECs itself.
fn open(spec: &str) -> Result<OwnedFd, Failure> {
    let path = spec.strip_prefix("file:").filter(|path| !path.is_empty()).ok_or_else(|| {
        let text = format!("`{spec}`: only nvme-drv understands this SPEC; other programs take `file:PATH`");
        Failure::new(Errno::INVAL, text)
    })?;
    let open = |access| rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty());
    // What may only be read is handed out for reading.
    let file = match open(OFlags::RDWR) {
        Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) => open(OFlags::RDONLY),
        other => other,
    };
    file.map_err(|errno| Failure::io(format_args!("`{path}`"), &errno.into()))
}
