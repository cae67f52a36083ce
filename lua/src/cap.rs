//! Capabilities as Lua values.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use mlua::{Lua, MetaMethod, Table, UserData, UserDataMethods, Value};
use nvme_linux::factory::{Client, Delegated, Refusal};
use rustix::io::Errno;

use crate::channel::Channel;
use crate::failure::Failure;
use crate::memory::Allocator;
use crate::rights;

/// Where the table of a capability's methods is kept.
pub(crate) const METHODS: &str = "nvme-ned methods";

/// L4's numbers of the protocols that something here can be created by.
mod protocol {
    pub(super) const IPC_GATE: i64 = 0;
    pub(super) const LOG: i64 = -13;
    pub(super) const FACTORY: i64 = -15;
    pub(super) const DATASPACE: i64 = 0x4000;
}

/// A reference to an object, with the rights that are handed on with it.
#[derive(Clone)]
pub(crate) struct Cap {
    pub(crate) object: Rc<Object>,
    pub(crate) rights: u32,
    /// The side of a channel on which requests arrive.
    pub(crate) server: bool,
}

/// What a capability refers to.
pub(crate) enum Object {
    /// The kernel's factory: makes channels.
    Kernel,
    /// A memory allocator: makes dataspaces, logs and parts of itself.
    Memory(Allocator),
    /// A channel.
    Channel(RefCell<Channel>),
    /// An open descriptor, until it is closed.
    Open(RefCell<Option<OwnedFd>>, Kind),
    /// A factory that a server made, until it is given back.
    Factory(RefCell<Option<Delegated>>),
    /// Where output goes, with its tag and colour.
    Log(Vec<String>),
    /// Something that L4Re's programs expect in `L4.Env`, and that Linux gives to every program anyhow.
    Ambient(&'static str),
}

/// What a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A session capability.
    Session,
    /// A memory file.
    Dataspace,
    /// What the loader itself inherited, by name.
    Inherited,
}

impl Cap {
    pub(crate) fn new(object: Object, rights: u32) -> Cap {
        Cap { object: Rc::new(object), rights, server: false }
    }

    fn type_name(&self) -> &'static str {
        match &*self.object {
            Object::Kernel | Object::Memory(_) | Object::Factory(_) => "L4::Factory",
            Object::Channel(_) => "L4::Ipc_gate",
            Object::Open(_, Kind::Session) => "L4virtio::Device",
            Object::Open(_, Kind::Dataspace) => "L4Re::Dataspace",
            Object::Open(_, Kind::Inherited) => "void",
            Object::Log(_) => "L4Re::Log",
            Object::Ambient(_) => "void",
        }
    }

    fn number(&self) -> Option<i32> {
        match &*self.object {
            Object::Open(fd, _) => fd.borrow().as_ref().map(AsRawFd::as_raw_fd),
            Object::Factory(made) => {
                made.borrow().as_ref().and_then(Delegated::connection).map(|fd| fd.as_raw_fd())
            }
            _ => None,
        }
    }

    /// Whether there is still something behind it.
    pub(crate) fn is_valid(&self) -> bool {
        match &*self.object {
            Object::Open(fd, _) => fd.borrow().is_some(),
            Object::Factory(made) => made.borrow().is_some(),
            _ => true,
        }
    }

    /// The same object with other rights.
    pub(crate) fn with_rights(&self, lua: &Lua, rights: &Value) -> Result<Cap, Failure> {
        let rights = match rights {
            // A word that is a number is one, as in ned.
            Value::String(word) if lua.coerce_integer(rights.clone()).ok().flatten().is_none() => {
                rights::of_word(&word.to_string_lossy())
            }
            number => lua
                .coerce_integer(number.clone())
                .ok()
                .flatten()
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| Failure::new(Errno::INVAL, "rights are a word such as \"rw\" or a number"))?,
        };
        Ok(Cap { rights, ..self.clone() })
    }

    /// Asks the object to make another one.
    pub(crate) fn create(&self, lua: &Lua, protocol: i64, arguments: &Table) -> Result<Cap, Failure> {
        let words = words(lua, arguments)?;
        match &*self.object {
            Object::Kernel if protocol == protocol::IPC_GATE => {
                Ok(Cap::new(Object::Channel(RefCell::default()), rights::R))
            }
            Object::Memory(allocator) => self.allocate(allocator, protocol, &words),
            Object::Channel(_) if self.server => {
                let text = "this is the server's side of the channel: call create on the channel itself";
                Err(Failure::new(Errno::PERM, text))
            }
            Object::Channel(channel) => {
                let channel = channel.borrow();
                let socket = channel.connect()?;
                if !channel.is_factory() {
                    let text = "a static client's channel makes no sessions: it is one. Hand it to a program";
                    return Err(Failure::new(Errno::NOSYS, text));
                }
                mint(socket, protocol, &words).map_err(|mut failure| {
                    if failure.code == -Errno::CONNRESET.raw_os_error() {
                        failure.text = format!("the server did not answer: {}", channel.server_state());
                    }
                    failure
                })
            }
            Object::Open(fd, Kind::Inherited) => {
                let socket = fd.borrow().as_ref().map(AsFd::as_fd).map(rustix::io::dup);
                let closed = || Failure::new(Errno::BADF, "the capability is closed");
                let socket = socket.ok_or_else(closed)?.map_err(|errno| Failure::io("dup", &errno.into()))?;
                mint(socket, protocol, &words)
            }
            Object::Factory(made) => {
                let made = made.borrow();
                let closed = || Failure::new(Errno::BADF, "the factory was given back");
                let socket = made.as_ref().and_then(Delegated::connection).map(rustix::io::dup);
                mint(
                    socket.ok_or_else(closed)?.map_err(|errno| Failure::io("dup", &errno.into()))?,
                    protocol,
                    &words,
                )
            }
            _ => Err(unsupported(self.type_name(), protocol)),
        }
    }

    /// Gives back what it stands for, whoever else has a reference to it here.
    fn close(&self) {
        match &*self.object {
            Object::Open(fd, _) => drop(fd.borrow_mut().take()),
            Object::Factory(made) => drop(made.borrow_mut().take()),
            _ => (),
        }
    }

    fn allocate(&self, allocator: &Allocator, protocol: i64, words: &[String]) -> Result<Cap, Failure> {
        let size = || {
            let word = words.first().map_or("", String::as_str);
            let bad = || Failure::new(Errno::INVAL, format!("`{word}` is not a number of bytes"));
            word.parse::<u64>().map_err(|_| bad())
        };
        match protocol {
            protocol::DATASPACE => {
                let file = allocator.dataspace(size()?)?;
                let object = Object::Open(RefCell::new(Some(file)), Kind::Dataspace);
                Ok(Cap::new(object, rights::R | rights::W))
            }
            protocol::FACTORY => Ok(Cap::new(Object::Memory(allocator.part(size()?)?), rights::R)),
            protocol::LOG => Ok(Cap::new(Object::Log(words.to_vec()), rights::R)),
            protocol::IPC_GATE => Ok(Cap::new(Object::Channel(RefCell::default()), rights::R)),
            other => Err(unsupported(self.type_name(), other)),
        }
    }
}

fn unsupported(what: &str, protocol: i64) -> Failure {
    Failure::new(Errno::NODEV, format!("this {what} creates no objects of protocol {protocol}"))
}

/// The arguments of `create` as words. A nil, which a conditional argument leaves behind, may stand at the end; before anything else it is refused: ned
/// would drop what follows without a word, `read-only` too.
fn words(lua: &Lua, arguments: &Table) -> Result<Vec<String>, Failure> {
    let bad = |text: String| Failure::new(Errno::INVAL, text);
    let count: i64 = arguments.raw_get("n").map_err(|error| bad(error.to_string()))?;
    let (mut words, mut nil) = (Vec::new(), None);
    for index in 1..=count {
        let value: Value = arguments.raw_get(index).map_err(|error| bad(error.to_string()))?;
        if let (Some(nil), false) = (nil, value.is_nil()) {
            let text =
                format!("argument {nil} is nil, and ned would drop it and all that follow: leave it out");
            return Err(bad(text));
        }
        match value {
            Value::Nil => nil = nil.or(Some(index)),
            Value::Number(number) if number.fract() == 0.0 && number.abs() < 2_f64.powi(53) => {
                words.push(format!("{number:.0}"));
            }
            Value::String(_) | Value::Integer(_) | Value::Number(_) => {
                let text = lua.coerce_string(value).ok().flatten();
                let text = text.and_then(|text| text.to_str().ok().map(|text| text.to_owned()));
                let text = text.filter(|text| !text.contains('\0'));
                words.push(text.ok_or_else(|| bad(format!("argument {index} is not UTF-8 without NULs")))?);
            }
            other => {
                let kind = other.type_name();
                return Err(bad(format!("argument {index} is a {kind}: create takes strings and numbers")));
            }
        }
    }
    Ok(words)
}

/// Asks a server's factory for a session, or for a factory that holds a part of what this one does.
fn mint(socket: OwnedFd, protocol: i64, words: &[String]) -> Result<Cap, Failure> {
    let mut client = Client::from_fd(socket);
    let refused = |refusal: Refusal| Failure { code: -refusal.errno, text: refusal.to_string() };
    // The number of the object means nothing to a server on L4Re, but for one that asks for a factory.
    if protocol == protocol::FACTORY {
        let made = client.delegate(words, None).map_err(refused)?;
        let rights = rights::R | rights::W | rights::S | rights::D;
        return Ok(Cap::new(Object::Factory(RefCell::new(Some(made))), rights));
    }
    let mut request = String::from("create\x000");
    for word in words {
        request.push('\0');
        request.push_str(word);
    }
    let (session, _) = client.call(request.as_bytes(), &[]).map_err(refused)?;
    Ok(Cap::new(Object::Open(RefCell::new(Some(session)), Kind::Session), rights::R | rights::W))
}

impl UserData for Cap {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::Index, |lua, _, key: Value| {
            let methods: Table = lua.named_registry_value(METHODS)?;
            methods.get::<Value>(key)
        });
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            let side = if this.server { " server" } else { "" };
            let number = this.number().map_or(String::new(), |number| format!(" fd={number}"));
            Ok(match (&*this.object, this.is_valid()) {
                (Object::Ambient(name), _) => format!("L4::Cap<void>[{name}]"),
                (_, true) => format!("L4::Cap<{}>[r={:#x}{side}{number}]", this.type_name(), this.rights),
                (_, false) => format!("L4::Cap<{}>::Invalid", this.type_name()),
            })
        });
        methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (mlua::AnyUserData, mlua::AnyUserData)| {
            let (Ok(a), Ok(b)) = (a.borrow::<Cap>(), b.borrow::<Cap>()) else { return Ok(false) };
            Ok(Rc::ptr_eq(&a.object, &b.object) && a.server == b.server)
        });
        // `local vda <close> = …` gives a session, or a factory, back at the end of its block.
        methods.add_meta_method(MetaMethod::Close, |_, this, _: mlua::MultiValue| {
            this.close();
            Ok(())
        });
    }
}
