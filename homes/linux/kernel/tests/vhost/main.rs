//! vhost-user: the machine, the connection that drives it, and arbitrary input.

mod arbitrary;
mod connection;
mod machine;
mod support;
