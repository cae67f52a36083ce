//! What the operator asks: `nvme-ctl end`, `limit`, `rescan`, `resume`, `verbose`, and `audit --rotate`.

use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::Failure;
use crate::server::{self, Place};

/// Sends one request, and prints its answer.
pub(crate) fn ask<'a>(
    place: &Place,
    what: &'a str,
    about: impl IntoIterator<Item = &'a str>,
) -> Result<(), Failure> {
    println!("{}", request(place, what, about)?);
    Ok(())
}

/// Sends one request; its answer.
pub(crate) fn request<'a>(
    place: &Place,
    what: &'a str,
    about: impl IntoIterator<Item = &'a str>,
) -> Result<String, Failure> {
    let mut admin = server::factory(place)?;
    let words = std::iter::once(what).chain(about);
    admin.ask(words).map_err(|refusal| Failure::refused(what, &refusal))
}

/// Has the audit trail go on in a file, which is made.
pub(crate) fn rotate(place: &Place, path: &Path) -> Result<(), Failure> {
    let mut admin = server::factory(place)?;
    let shown = path.display();
    // One that is there is another trail, or something that nobody should append to.
    let new = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path);
    let file = new.map_err(|error| Failure::wrong(format!("{shown}: {error}")))?;
    // What the last record calls it: where it is, whoever reads that.
    let name = fs::canonicalize(path).map_or_else(|_| shown.to_string(), |path| path.display().to_string());
    let answer = admin.ask_with(["rotate", &name], Some(file.as_fd()));
    match answer {
        Ok(answer) => {
            println!("{answer}");
            Ok(())
        }
        Err(refusal) => {
            // Refused at once it is nobody's; an old file whose storage hangs is left for it later.
            if refusal.errno != rustix::io::Errno::IO.raw_os_error() {
                let _ = fs::remove_file(path);
            }
            Err(Failure::refused("rotate", &refusal))
        }
    }
}
