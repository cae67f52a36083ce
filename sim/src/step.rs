//! The steps that a world can take. A run is a list of them, whoever chose them; each prints as the Rust that it is.

use crate::driver::Kind;

/// What a client's machine wants done about its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Connects and brings the device up.
    Connect,
    /// Registers a region.
    Add(u8),
    /// Takes a region back.
    Remove(u8),
    /// Sends the whole memory table: these regions (bits).
    Table(u8),
    /// Stops a queue.
    Stop(u8),
    /// Starts a queue.
    Start(u8),
    /// Disables a queue, and enables it again.
    Disable(u8),
    /// Resets the device.
    Reset,
    /// Sets the cache mode.
    WriteBack(bool),
    /// Starts another session on its connection.
    Owner,
    /// Is gone.
    Vanish,
    /// Its connection ends, and its machine goes on: it connects again with what it keeps of what is in flight.
    Reconnect,
}

/// What an operator does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Mints a seat's session.
    Create(u8),
    /// Ends it.
    End(u8),
    /// Makes a factory, of what is chosen by number, at one that there is.
    Delegate(u8, u8),
    /// Mints a seat's session at a factory.
    CreateAt(u8, u8),
    /// Takes a factory back.
    EndFactory(u8),
    /// Bounds a seat's session, by a rate of the list.
    Limit(u8, u8),
    /// Drains: everything, a controller, or what a seat's session has.
    Drain(u8),
    /// Goes on with it.
    Resume(u8),
    /// Starts the next server, which takes over; or refuses to at the end.
    Upgrade(u8),
    /// The server is killed, and another is started.
    Kill,
    /// Somebody misspells a word of a seat's, by number.
    Misspell(u8, u8),
}

/// What goes wrong with a device or a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoil {
    /// A rule for commands to come: controller, what, and how much of it.
    Rule(u8, u8, u8),
    /// All rules are over.
    Heal(u8),
    /// A completion that belongs to nothing that is in flight.
    Forge(u8, u8),
    /// Controller Fatal Status.
    Fatal(u8),
    /// An internal error that it tells of.
    Internal(u8),
    /// The bus reports an error.
    BusError(u8),
    /// Power is lost and comes back.
    Power(u8),
    /// It is pulled out.
    Vanish(u8),
    /// The operator takes it away.
    Remove(u8),
    /// A namespace of a disk by number is of so many eighths of its size.
    Resize(u8, u8),
    /// So many more mappings are possible; 255: as many as there may be.
    Maps(u8, u8),
    /// It cannot be seen to be cut off any more.
    Unprovable(u8),
    /// It is another after its next reset, which it has at once.
    Another(u8),
    /// A disk's storage hangs.
    Freeze(u8),
    /// So many requests to a disk's storage fail, for a reason by number.
    Fail(u8, u8, u8),
    /// Memory of a seat's client vanishes: a region.
    Gone(u8, u8),
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Everything that can be done now is done.
    Settle,
    /// A client says all that it has to say, and is answered.
    Chat(u8),
    /// Control is polled.
    Control,
    /// A worker makes a pass.
    Worker(u8),
    /// A worker takes all messages of control's, and makes passes until it sleeps.
    Turn(u8),
    /// Control takes all messages of workers', and is polled until it has nothing to do.
    Poll,
    /// A worker takes a message of control's.
    Deliver(u8),
    /// Control takes a message of a worker's.
    Hear(u8),
    /// A controller that runs apart carries out so many commands.
    Engine(u8, u8),
    /// A controller that runs apart answers one command of one of its I/O queues.
    Answer(u8, u8),
    /// A disk's storage answers one of its requests.
    Storage(u8, u8),
    /// Time goes by: so many nanoseconds at most, or until somebody wants something.
    Time(u64),
    /// A driver makes a request available.
    Ask {
        /// Whose.
        seat: u8,
        /// On which queue.
        queue: u8,
        /// What.
        kind: Kind,
        /// Where, in sectors.
        sector: u16,
        /// How many.
        sectors: u8,
        /// How it is laid out.
        layout: u32,
    },
    /// A driver tells the device of what is available, if it wants to know.
    Kick(u8, u8),
    /// A driver takes what was used.
    Reap(u8, u8),
    /// A client sends its next message, or takes the answer to the last.
    Talk(u8),
    /// A client's machine wants something.
    Want(u8, Wish),
    /// An operator does something.
    Operate(Operation),
    /// Something goes wrong.
    Spoil(Spoil),
    /// A hostile driver writes into its rings and tables.
    Scribble {
        /// Whose.
        seat: u8,
        /// Where.
        at: u16,
        /// What.
        value: u32,
    },
    /// A hostile driver lies in wait: what is in its rings, tables or headers becomes something else as soon as the server has read it.
    Change {
        /// Whose.
        seat: u8,
        /// Where.
        at: u16,
        /// What.
        value: u32,
    },
    /// A hostile client sends a message of its own making.
    Say {
        /// Whose.
        seat: u8,
        /// Which.
        kind: u8,
        /// With what in it.
        value: u64,
    },
}
