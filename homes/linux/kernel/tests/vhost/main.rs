//! vhost-user: the machine, the connection that drives it, and arbitrary input.

mod arbitrary;
mod connection;
mod machine;
mod support;
#[expect(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../../../../../fuzz/src/vhost.rs"]
mod target;
