//! Who has what, in one look.

use nvme_client::{Client, Options};

use crate::server::{Bench, wait_until};
use crate::{inventory, nvme_ctl, run, text};

#[test]
fn ls_joins_what_is_known_of_a_session_in_100_columns_and_the_server_says_what_it_serves_where() {
    let bench = Bench::new();
    let (ctl, tenant) = (bench.socket("ctl"), bench.socket("tenant"));
    let words = [&ctl, "--factory", "tenant", "--device", "partlabel:attack", &tenant];
    let server = bench.serve(&words);
    server.says("ready: SN 1:2:n1 (6 MiB, 4 partitions)");
    for name in ["svr", "ctl", "tenant"] {
        server.says(&format!("{name} at {}", bench.path(name).display()));
    }
    let (path, tenant) = (bench.path("listen"), bench.path("tenant"));
    let name = "a name as long as it may be, 36 long";
    let mut holder = nvme_ctl(&bench, &["--factory", tenant.to_str().unwrap(), "create", "read-only"])
        .args(["device=partlabel:attack", &format!("name={name}"), "--listen", path.to_str().unwrap()])
        .spawn()
        .unwrap();
    wait_until("the socket", || path.exists());
    let mut client = Client::connect(&path, &Options::default()).unwrap();
    client.read(0, &mut [0; 4096]).unwrap();
    let listed = text(&run(&bench, &["ls"]).stdout);
    assert!(listed.lines().all(|line| line.chars().count() <= 100), "{listed}");
    let (_, sessions) = listed.split_once("\nsessions: ").unwrap();
    let pid = std::process::id();
    // By its canonical name, whatever it was asked for by; who is connected, not who asked for it.
    for word in [
        "SN 1:2:n1:2",
        " ro ",
        &format!("process {pid} of user"),
        "?)",
        &format!("\"{name}\""),
        "of factory 1",
        &format!("at {}", path.display()),
    ] {
        assert!(sessions.contains(word), "no {word} in {listed}");
    }
    let known = inventory(&bench).sessions.remove(0);
    assert_eq!((known.device.as_str(), known.factory, known.name.as_deref()), ("SN 1:2:n1:2", 1, Some(name)));
    assert_eq!(known.path.as_deref(), path.to_str());
    assert_eq!(known.peer.map(|peer| peer.pid), Some(pid as i32));
    holder.kill().unwrap();
    holder.wait().unwrap();
}
