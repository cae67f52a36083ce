//! What is said once all controllers were scanned: what is served, and where.

use nvme_linux::logger::SERVER;

use super::Server;
use crate::seat::Phase;

/// How many disks, and how many sockets, are named.
const NAMED: usize = 8;

impl Server {
    pub(super) fn say_ready(&self) {
        let serials: Vec<&str> =
            self.control.controllers().map(|(_, controller, _)| controller.info().serial.as_str()).collect();
        let disks = self.control.catalogue().devices().map(|(namespace, partitions)| {
            let place = namespace.namespace();
            let serial = serials.get(usize::from(place.controller)).copied().unwrap_or("?");
            let mebibytes = namespace.extent().bytes() >> 20;
            let partitions = match partitions.count() {
                0 => String::new(),
                1 => ", 1 partition".to_owned(),
                many => format!(", {many} partitions"),
            };
            format!("{serial}:n{} ({mebibytes} MiB{partitions})", place.nsid)
        });
        let clients = self.seats.values().filter_map(|seat| {
            let absent = if seat.phase == Phase::Absent { ", absent" } else { "" };
            Some(format!("{} gets {}{absent}", seat.cap.as_ref()?, seat.policy.device()))
        });
        let mut parts = vec![listed(disks.collect(), "no disk")];
        parts.extend(Some(listed(clients.collect(), "")).filter(|part| !part.is_empty()));
        parts.extend(Some(listed(self.sockets.clone(), "")).filter(|part| !part.is_empty()));
        log::info!(target: SERVER, "ready: {}", parts.join("; "));
    }
}

/// In one line that stays short.
fn listed(mut what: Vec<String>, none: &str) -> String {
    if what.is_empty() {
        return none.to_owned();
    }
    let more = what.len().saturating_sub(NAMED);
    what.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    what.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_and_says_how_much_is_left_out() {
        assert_eq!(listed(Vec::new(), "no disk"), "no disk");
        assert_eq!(listed(vec!["a".into(), "b".into()], ""), "a, b");
        let many = listed((0..11).map(|n| n.to_string()).collect(), "");
        assert_eq!(many, "0, 1, 2, 3, 4, 5, 6, 7 and 3 more");
    }
}
