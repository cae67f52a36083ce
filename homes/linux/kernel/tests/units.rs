//! The systemd units, as systemd reads them.

use std::path::{Path, PathBuf};
use std::process::Command;

const UNITS: [&str; 8] = [
    "nvme-drv.service",
    "nvme-drv-svr.socket",
    "nvme-drv-ctl.socket",
    "nvme-drv-metrics.socket",
    "nvme-drv-client@.socket",
    "nvme-drv-tenant@.socket",
    "nvme-session@.service",
    "nvme-drv-stopped.target",
];

fn unit(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../systemd").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn value<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The complaints about the units in `folder`.
fn verify(folder: &Path) -> Option<String> {
    // A template is checked by an instance.
    let units = UNITS.map(|name| folder.join(name.replace('@', "@vm1")));
    let output = Command::new("systemd-analyze")
        .args(["--man=no", "verify"])
        .args(units)
        .env("SYSTEMD_LOG_LEVEL", "warning")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { text } else { format!("{}: {text}", output.status) })
}

fn copy_to(folder: &Path, change: impl Fn(String) -> String) {
    for name in UNITS {
        // The program is not installed where the test runs.
        let text = unit(name)
            .replace("ExecStart=/usr/bin/nvme-drv", "ExecStart=/bin/true")
            .replace("ExecStart=/usr/bin/nvme-ctl", "ExecStart=/bin/true")
            .replace("ExecReload=/usr/bin/nvme-ctl", "ExecReload=/bin/true");
        std::fs::write(folder.join(name), change(text)).unwrap();
    }
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let folder = tempfile::tempdir().unwrap();
    copy_to(folder.path(), |text| text);
    let Some(said) = verify(folder.path()) else {
        eprintln!("skipped: there is no systemd-analyze: apt-get install systemd");
        return;
    };
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("nvme-")).collect();
    assert!(ours.is_empty(), "{said}");
    // The same check sees a mistake.
    copy_to(folder.path(), |text| {
        text.replace("ProtectHome=", "ProtectHouse=").replace("ListenStream=", "Listen=")
    });
    let said = verify(folder.path()).unwrap();
    assert!(said.contains("ProtectHouse"), "{said}");
}

#[test]
fn the_sockets_have_the_names_and_types_of_the_capabilities() {
    let (svr, ctl) = (unit("nvme-drv-svr.socket"), unit("nvme-drv-ctl.socket"));
    assert_eq!(value(&svr, "ListenSequentialPacket"), ["/run/nvme-drv/svr"]);
    assert_eq!(value(&svr, "FileDescriptorName"), ["svr"]);
    assert_eq!(value(&ctl, "ListenStream"), ["/run/nvme-drv/ctl"]);
    assert_eq!(value(&ctl, "FileDescriptorName"), ["ctl"]);
    for socket in [&svr, &ctl] {
        assert_eq!(value(socket, "SocketMode"), ["0660"], "whoever connects can ask for any disk");
        assert_eq!(value(socket, "Service"), ["nvme-drv.service"]);
        assert!(!socket.contains("Accept=yes"));
    }
}

#[test]
fn the_service_keeps_nothing_that_it_does_not_need() {
    let service = unit("nvme-drv.service");
    for (key, wanted) in [
        ("Type", "notify"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("ProtectSystem", "strict"),
        ("PrivateNetwork", "yes"),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("MemoryDenyWriteExecute", "yes"),
        ("DevicePolicy", "closed"),
        ("LimitCORE", "0"),
        ("User", "nvme-drv"),
    ] {
        assert_eq!(value(&service, key), [wanted], "{key}");
    }
    assert_eq!(value(&service, "Sockets"), ["nvme-drv-svr.socket nvme-drv-ctl.socket"]);
    let stop: u32 = value(&service, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop > 30, "the server drains for 30 s");
    let watchdog: u32 = value(&service, "WatchdogSec")[0].parse().unwrap();
    assert!((60..=180).contains(&watchdog), "no page fault and no storage that is slow takes so long");
    let descriptors: u32 = value(&service, "LimitNOFILE")[0].parse().unwrap();
    assert!(descriptors >= 256 * 3 * 256, "256 sessions with 256 queues of three eventfds");
    let kept: u32 = value(&service, "FileDescriptorStoreMax")[0].parse().unwrap();
    assert!(kept >= 2 * 256 + 2 * 64 + 3, "256 sessions, 64 factories, and the server's own");
    assert_eq!(value(&service, "NotifyAccess"), ["main"], "only the server says what is kept");
}

#[test]
fn what_fails_again_and_again_takes_no_socket_down() {
    let service = unit("nvme-drv.service");
    assert_eq!(value(&service, "Restart"), ["on-failure"]);
    assert_eq!(value(&service, "RestartPreventExitStatus"), ["2"], "what is asked for and wrong stays wrong");
    assert_eq!(value(&service, "StartLimitIntervalSec"), ["0"]);
    assert!(value(&service, "RestartSec")[0].parse::<u32>().unwrap() >= 1);
    for socket in UNITS.iter().filter(|name| name.ends_with(".socket")) {
        let socket = unit(socket);
        assert_eq!(value(&socket, "FlushPending"), ["yes"], "whoever waits would start it again and again");
        assert_eq!(value(&socket, "TriggerLimitIntervalSec"), ["0"]);
    }
}

#[test]
fn a_server_that_was_stopped_leaves_no_socket_that_would_start_it() {
    // What systemd makes of this is run by `cargo xtask units`.
    let (service, stopped) = (unit("nvme-drv.service"), unit("nvme-drv-stopped.target"));
    assert_eq!(value(&service, "OnSuccess"), ["nvme-drv-stopped.target"]);
    assert_eq!(value(&service, "OnSuccessJobMode"), ["fail"], "a restart would end with its sockets");
    let conflicts: Vec<&str> = value(&stopped, "Conflicts")[0].split(' ').collect();
    for name in UNITS.iter().filter(|name| name.ends_with(".socket")) {
        let with_svr = value(&unit(name), "PartOf") == ["nvme-drv-svr.socket"];
        assert!(conflicts.contains(name) || with_svr, "{name}");
    }
}

#[test]
fn the_server_can_make_sockets_where_systemd_has_its_own_and_they_stay_when_it_stops() {
    let service = unit("nvme-drv.service");
    assert_eq!(value(&service, "RuntimeDirectory"), ["nvme-drv"]);
    assert_eq!(value(&service, "RuntimeDirectoryPreserve"), ["yes"]);
    for name in ["svr", "ctl"] {
        let socket = unit(&format!("nvme-drv-{name}.socket"));
        assert!(socket.contains(&format!("=/run/nvme-drv/{name}\n")));
    }
}

#[test]
fn the_service_may_put_its_own_sandbox_on_under_systemd_252() {
    // What its @system-service lacks. A set that it does not know, as @sandbox, would let nothing through.
    let service = unit("nvme-drv.service");
    let allowed: Vec<&str> =
        value(&service, "SystemCallFilter").into_iter().filter(|words| !words.starts_with('~')).collect();
    let words: Vec<&str> = allowed.iter().flat_map(|words| words.split(' ')).collect();
    for call in ["seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        assert!(words.contains(&call), "{call}: {words:?}");
    }
    assert_eq!(words.iter().filter(|word| word.starts_with('@')).collect::<Vec<_>>(), [&"@system-service"]);
}
