//! A server over hardware that is killed in mid-I/O, where what its sessions need is kept: the next one takes them up.

use super::ADDRESS;
use super::bed::Bed;

/// How often it is killed under one job, unless `NVME_DRV_KILLS` says so.
const KILLS: usize = 3;
/// With more than this a server dies ten times within a minute, and is not started again, unless it is let live for longer.
const IN_A_ROW: usize = 9;
/// The most that a request may take over a kill, in microseconds.
const PAUSE: u64 = 5_000_000;

/// A server that `nvme-ned` keeps everything for, and starts again.
pub(super) fn kept_server(words: &str) -> String {
    let caps = format!("caps = {{ vbus = \"pci:{ADDRESS}\", svr = \"unix:/tmp/svr\" }}");
    let script = format!("require(\"L4\").default_loader:start({{ {caps} }}, \"rom/nvme-drv -v {words}\")");
    format!("nvme-ned --rom /opt/bin -e '{script}'")
}

impl Bed {
    /// Its client sees a pause, and no error. No server has the controller before the dead one's last descriptor of it is closed.
    pub(super) fn kept(&mut self) {
        self.bound();
        self.start(&kept_server(""));
        self.attach("device=1234:n1");
        let kills = std::env::var("NVME_DRV_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
        let lives: u32 = if kills > IN_A_ROW { 7 } else { 1 };
        // For each what it lives, and what it takes to come back.
        self.start_fio("16m", 2 + kills as u32 * (lives + 4));
        let group = format!("$(readlink /sys/bus/pci/devices/{ADDRESS}/iommu_group | sed 's,.*/,,')");
        for kill in 1..=kills {
            if kill == kills {
                // Somebody else has its group as soon as nobody has, as if the dead one's descriptors were still open.
                let hold = format!(
                    "(for i in $(seq 3000); do sleep 1 3<>/dev/vfio/{group} && break; done) 2>/dev/null &"
                );
                self.guest.run(&hold);
            }
            self.guest.run("kill -9 $(pidof nvme-drv)");
            let told = format!(
                "for i in $(seq 300); do [ $(grep -c '1 of 1 sessions go on' /tmp/log) = {kill} ] && break; sleep 0.1; done; \
                 grep '1 of 1 sessions go on' /tmp/log | tail -1; [ $(grep -c '1 of 1 sessions go on' /tmp/log) = {kill} ]; S=$?; \
                 sleep {lives}; (exit $S)"
            );
            if !self.check("killed in mid-I/O, its session goes on", &told, 0, "1 of 1 sessions go on") {
                println!("{}", self.guest.run("tail -n 40 /tmp/log; ps"));
                break;
            }
        }
        let waited = "grep 'it is waited for' /tmp/log";
        self.check("as long as somebody has the group nothing is touched", waited, 0, "has IOMMU group");
        self.fio_ends();
        let longest: u64 = self.longest();
        let found = format!("{} ms", longest / 1000);
        self.note((1..PAUSE).contains(&longest), "the longest request of it", &found);
        self.stop("killed and taken up, stop");
        let log = "! grep -E 'error|panick|not gone on' /tmp/log";
        self.check("killed and taken up, no errors", log, 0, "");
    }

    /// The longest request of the last job, in microseconds.
    pub(super) fn longest(&mut self) -> u64 {
        // The 15th and the 56th word of the line are the longest read's and write's.
        let text = self.guest.run("cut -d';' -f15,56 /tmp/fio | tail -1");
        text.trim().split(';').filter_map(|word| word.parse().ok()).max().unwrap_or(0)
    }
}
