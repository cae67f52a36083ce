//! `cargo xtask units`: the units of systemd/, started by a real systemd, in a container over an overlay of this machine.
//!
//! [`root`] makes the container's files and boots it; here is what is checked in it. It needs root, and the packages
//! systemd-container and dbus; what is missing is said by name, and is a failure where `NVME_DRV_REQUIRE_VM` is set.

pub(crate) mod root;

use std::error::Error;
use std::time::Instant;

use root::Root;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is said to do, how it must end, and what it must print. All in one shell, in this order.
pub(crate) type Check = (&'static str, &'static str, i32, &'static str);

/// Words that checks begin with.
const PRELUDE: &str = r#"
conf() { echo "NVME_DRV_ARGS=$*" >/etc/nvme-drv/nvme-drv.conf; }
main_pid() { systemctl show -p MainPID --value nvme-drv; }
# For a few seconds.
until_good() { for i in $(seq 50); do "$@" && return 0; sleep 0.1; done; return 1; }
# Whether the disk is there: the scan is over.
shown() { timeout 10 nvme-ctl ls | grep device=1234:n1; }
sockets() { systemctl is-active nvme-drv-svr.socket nvme-drv-ctl.socket; }
# As a machine that connects again.
knock() { perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Peer => shift)' $1; }
scraped() { timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/9559 && printf "GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" >&3 && cat <&3'; }
vm1() { systemctl is-active --quiet nvme-session@vm1.service && [ -e /run/nvme-session/vm1.sock ]; }
ended() { [ "$(main_pid)" = 0 ] && [ "$(systemctl show -p Job --value nvme-drv-svr.socket)" = "" ] && ! [ -e /run/nvme-drv/svr ]; }
# Whether the server is another process than that one.
other() { [ $(main_pid) != 0 ] && [ $(main_pid) != $1 ]; }
# Four sessions that write numbers and read them back; what they saw.
load() {
    [ $1 = begin ] || { touch /tmp/enough; wait $verifies; s=$?; cat /tmp/verified; rm /tmp/enough; return $s; }
    blkverify /run/nvme-drv/svr device=m0:n1 device=m1:n1 device=m2:n1 device=m3:n1 --until /tmp/enough >/tmp/verified 2>&1 & verifies=$!
    sleep 2
}
# What there is of a server that was stopped.
off() { for u in nvme-drv nvme-session@vm1; do echo $u.service $(systemctl is-active $u.service); done; echo "[$(ls /run/nvme-drv)]"; }
"#;

const CHECKS: &[Check] = &[
    ("the user is made", "systemd-sysusers && id -un nvme-drv", 0, "nvme-drv"),
    (
        "sockets are there before the server is",
        "chown -R nvme-drv: /var/lib/nvme-drv
         conf -v --cap vbus=soft:/var/lib/nvme-drv/disk.img,serial=1234
         systemctl start nvme-drv-svr.socket nvme-drv-ctl.socket; stat -c '%n %A %U:%G' /run/nvme-drv/*
         ! systemctl is-active --quiet nvme-drv.service",
        0,
        "/run/nvme-drv/svr srw-rw---- root:nvme-drv",
    ),
    ("who connects starts it", "nvme-ctl ls && until_good shown", 0, "device=1234:n1"),
    ("it is ready, and says so", "until_good systemctl is-active nvme-drv.service", 0, "active"),
    (
        "it is an ordinary user under a filter",
        "id -u nvme-drv; grep -E '^(Uid|Seccomp|NoNewPrivs|CapBnd)' /proc/$(main_pid)/status",
        0,
        "Seccomp:\t2",
    ),
    (
        "nothing of its own sandbox is denied by the unit's",
        "journalctl -u nvme-drv -o cat | grep 'seccomp on' | grep -v DENIED",
        0,
        "seccomp on, no capabilities",
    ),
    ("a session is had and used", "blkcheck /run/nvme-drv/svr device=1234:n1 --mib 4", 0, "ok 1234:n1"),
    (
        "a restart keeps the sockets",
        "before=$(stat -c %i /run/nvme-drv/svr); systemctl restart nvme-drv.service
         until_good shown && [ $before = $(stat -c %i /run/nvme-drv/svr) ]",
        0,
        "device=1234:n1",
    ),
    (
        "SIGHUP, SIGUSR1 and SIGUSR2 do nothing",
        "pid=$(main_pid); for s in HUP USR1 USR2; do systemctl kill -s $s nvme-drv.service; done; sleep 0.3
         [ $pid = $(main_pid) ] && until_good shown",
        0,
        "device=1234:n1",
    ),
    (
        "kill -9 is followed by another server",
        "pid=$(main_pid); kill -9 $pid; until_good shown && [ $pid != $(main_pid) ] && sockets",
        0,
        "active\nactive",
    ),
    (
        "and a session by descriptor goes on in it",
        "nvme-ctl run vda=1234:n1,read-only -- sleep 60 & held=$!
         session() { nvme-ctl ls | grep -q ' ro '; }; gone() { ! session; }
         next() { [ $(main_pid) != 0 ] && [ $(main_pid) != $pid ] && session; }
         until_good session; pid=$(main_pid); kill -9 $pid
         until_good next && kill -0 $held && kill $held && until_good gone && journalctl -u nvme-drv -o cat | grep -o '1 of 1 sessions go on'",
        0,
        "1 of 1 sessions go on",
    ),
    (
        "its watchdog, with less time, lets a server go on that goes round",
        "mkdir -p /etc/systemd/system/nvme-drv.service.d
         printf '[Service]\\nWatchdogSec=2\\nTimeoutAbortSec=1\\n' >/etc/systemd/system/nvme-drv.service.d/watchdog.conf
         systemctl daemon-reload; systemctl restart nvme-drv.service; until_good shown; pid=$(main_pid); sleep 6
         [ $pid = $(main_pid) ] && systemctl is-active nvme-drv.service",
        0,
        "active",
    ),
    (
        "and ends one that does not, which is started again",
        "pid=$(main_pid); kill -STOP $pid
         for i in $(seq 150); do now=$(main_pid); [ $now != 0 ] && [ $now != $pid ] && break; sleep 0.1; done
         until_good shown && [ $pid != $(main_pid) ] && journalctl -u nvme-drv -o cat | grep -i 'watchdog timeout'; s=$?
         rm -r /etc/systemd/system/nvme-drv.service.d; systemctl daemon-reload; systemctl restart nvme-drv.service
         [ $s = 0 ] && until_good shown && systemctl show -p WatchdogUSec --value nvme-drv.service",
        0,
        "3min",
    ),
    (
        "a session that lasts listens, by its unit",
        "mkdir -p /etc/nvme-drv/sessions; echo NVME_SESSION_WORDS=device=1234:n1 read-only >/etc/nvme-drv/sessions/vm1.conf
         echo NVME_SESSION_RIGHTS=mode=0660,user=nobody,group=kvm >>/etc/nvme-drv/sessions/vm1.conf
         systemctl start nvme-session@vm1.service && stat -c '%A %U:%G' /run/nvme-session/vm1.sock",
        0,
        "srw-rw---- nobody:kvm",
    ),
    (
        "and is minted anew by the next server",
        "systemctl restart nvme-drv.service
         again() { systemctl is-active --quiet nvme-session@vm1.service && nvme-ctl ls | grep -qw ro; }
         for i in $(seq 80); do again && break; sleep 0.1; done
         again && stat -c '%A %U:%G' /run/nvme-session/vm1.sock; s=$?; systemctl stop nvme-session@vm1.service
         [ $s = 0 ] && ! [ -e /run/nvme-session/vm1.sock ]",
        0,
        "srw-rw---- nobody:kvm",
    ),
    (
        "a static client has a socket of systemd's, and one of the server's beside svr",
        "conf -v --cap vbus=soft:/var/lib/nvme-drv/disk.img,serial=1234 --client cl1 --device 1234:n1 --readonly \
           --client cl2 --device 1234:n1 --readonly --cap cl2=unix:/run/nvme-drv/cl2.sock
         systemctl stop nvme-drv.service; systemctl start nvme-drv-client@cl1.socket
         systemctl start nvme-drv.service && until_good shown && stat -c '%n %A %U:%G' /run/nvme-drv/* && sockets",
        0,
        "/run/nvme-drv/cl1.sock srw-rw---- root:kvm\n/run/nvme-drv/cl2.sock srw------- nvme-drv:nvme-drv",
    ),
    (
        "a tenant's factory has a socket of systemd's, by its name",
        "conf -v --cap vbus=soft:/var/lib/nvme-drv/disk.img,serial=1234 --factory blue --device 1234:n1 --sessions 2
         systemctl stop nvme-drv.service nvme-drv-client@cl1.socket; systemctl start nvme-drv-tenant@blue.socket
         systemctl start nvme-drv.service && until_good shown && stat -c '%n %A %U:%G' /run/nvme-drv/blue.factory
         nvme-ctl --factory /run/nvme-drv/blue.factory ls",
        0,
        "/run/nvme-drv/blue.factory srw-rw---- root:nvme-drv\nfactory 1 \"blue\": read-write, ds-max 2, sessions 2, factories 0",
    ),
    (
        "what it holds is had there",
        "blkcheck /run/nvme-drv/blue.factory device=1234:n1 --mib 4",
        0,
        "ok 1234:n1",
    ),
    (
        "and nothing else",
        "nvme-ctl --factory /run/nvme-drv/blue.factory run d=nobody:n1,read-only -- true; echo other $?",
        0,
        "device: not held by this factory\nother 3",
    ),
    (
        "it listens over a restart, and who has no right to its socket has nothing",
        "before=$(stat -c %i /run/nvme-drv/blue.factory); systemctl restart nvme-drv.service; until_good shown
         [ $before = $(stat -c %i /run/nvme-drv/blue.factory) ] && nvme-ctl --factory /run/nvme-drv/blue.factory ls
         ! setpriv --reuid=nobody --clear-groups nvme-ctl --factory /run/nvme-drv/blue.factory ls",
        0,
        "\"blue\": read-write",
    ),
    (
        "a wrong option is status 2, which is not tried again",
        "systemctl stop nvme-drv.service nvme-drv-tenant@blue.socket; conf --frobnicate
         systemctl start nvme-drv.service; sleep 2
         systemctl show -p ExecMainStatus -p NRestarts -p ActiveState nvme-drv.service",
        0,
        "NRestarts=0\nExecMainStatus=2\nActiveState=failed",
    ),
    (
        "callers are refused meanwhile, and take no socket down",
        "for i in $(seq 40); do timeout 10 nvme-ctl ls >/dev/null 2>&1; s=$?; [ $s = 124 ] && echo hangs; [ $s = 0 ] && echo served; done; sockets",
        0,
        "active\nactive",
    ),
    (
        "a missing vbus is said",
        "conf -v; nvme-ctl ls; sleep 0.5; journalctl -u nvme-drv -o cat -n 20 | grep vbus
         systemctl show -p ExecMainStatus --value nvme-drv.service; sockets",
        0,
        "capability `vbus` is missing",
    ),
    (
        "the right options serve by the same sockets",
        "conf -v --cap vbus=soft:/var/lib/nvme-drv/disk.img,serial=1234; until_good shown",
        0,
        "device=1234:n1",
    ),
    (
        "a reload without the capability upgrade is refused, and the server goes on",
        "pid=$(main_pid); systemctl reload nvme-drv.service; [ $? != 0 ] && [ $pid = $(main_pid) ] && until_good shown",
        0,
        "device=1234:n1",
    ),
    (
        "with it, the next program has the session by descriptor, the sockets and the unit",
        "conf -v --cap vbus=soft:/var/lib/nvme-drv/disk.img,serial=1234 --cap upgrade=unix:/run/nvme-drv/upgrade
         systemctl restart nvme-drv.service; until_good shown; pid=$(main_pid)
         nvme-ctl run vda=1234:n1,read-only -- sleep 60 & held=$!
         session() { nvme-ctl ls | grep -q ' ro '; }; until_good session
         systemctl reload nvme-drv.service; s=$?; sleep 0.5; new=$(main_pid)
         [ $s = 0 ] && [ $new != $pid ] && [ $new != 0 ] && ! kill -0 $pid 2>/dev/null && session && sockets && kill $held &&
         systemctl is-active nvme-drv.service && journalctl -u nvme-drv -o cat | grep 'took over from pid'",
        0,
        "took over from pid",
    ),
    (
        "sessions under load that is verified go on through kills, with RestartSec=100ms",
        "disks=$(for n in 0 1 2 3; do echo --cap vbus=soft:mem:4M,serial=m$n; done)
         conf -v $disks --cap upgrade=unix:/run/nvme-drv/upgrade
         mkdir -p /etc/systemd/system/nvme-drv.service.d
         printf '[Service]\\nRestartSec=100ms\\n' >/etc/systemd/system/nvme-drv.service.d/soon.conf
         systemctl daemon-reload; systemctl restart nvme-drv.service
         until_good [ -S /run/nvme-drv/upgrade ]; load begin
         for kill in 1 2 3 4 5; do pid=$(main_pid); kill -9 $pid; until_good other $pid || break; sleep 1; done
         load end && journalctl -u nvme-drv -o cat | grep '4 of 4 sessions go on' | wc -l",
        0,
        "requests verified",
    ),
    (
        "and through reloads",
        "load begin; s=0
         for reload in 1 2 3 4 5; do pid=$(main_pid); systemctl reload nvme-drv.service || s=1; until_good other $pid || s=1; sleep 1; done
         load end && rm -r /etc/systemd/system/nvme-drv.service.d && systemctl daemon-reload && [ $s = 0 ]",
        0,
        "requests verified",
    ),
    (
        "the metrics are had at their socket, by a server that has no network of its own",
        "conf -v --cap vbus=soft:/var/lib/nvme-drv/disk.img,serial=1234 --client cl1 --device 1234:n1 --readonly
         systemctl enable nvme-drv-client@cl1.socket nvme-drv-metrics.socket nvme-session@vm1.service 2>/dev/null
         systemctl start nvme-drv-client@cl1.socket nvme-drv-metrics.socket nvme-session@vm1.service
         rm -f /run/nvme-drv/cl2.sock /run/nvme-drv/upgrade
         systemctl restart nvme-drv.service; until_good shown; until_good vm1; scraped",
        0,
        "nvme_drv_worker_busy_seconds_total{worker=\"0\"}",
    ),
    (
        "stopped, it is not started by whoever connects again and again, before, meanwhile and after",
        "(while ! [ -e /tmp/enough ]; do knock /run/nvme-drv/cl1.sock; knock /run/nvme-session/vm1.sock; scraped; nvme-ctl ls; done) >/dev/null 2>&1 & knocker=$!
         sleep 1; systemctl stop nvme-drv.service; sleep 3; off",
        0,
        "nvme-drv.service inactive\nnvme-session@vm1.service inactive\n[]",
    ),
    (
        "asked to, it starts, with all its sockets and sessions, and machines have their disks again",
        "systemctl start nvme-drv.service; until_good shown; until_good vm1; sockets; touch /tmp/enough; wait $knocker
         rm /tmp/enough; scraped; stat -c %n /run/nvme-drv/* && knock /run/nvme-drv/cl1.sock && knock /run/nvme-session/vm1.sock",
        0,
        "/run/nvme-drv/cl1.sock\n/run/nvme-drv/ctl\n/run/nvme-drv/svr\n",
    ),
    (
        "one that was told to drain and to end stays away likewise",
        "kill -TERM $(main_pid); until_good ended; for i in $(seq 20); do knock /run/nvme-drv/cl1.sock; nvme-ctl ls; done >/dev/null 2>&1; off",
        0,
        "nvme-drv.service inactive\nnvme-session@vm1.service inactive\n[]",
    ),
    (
        "and starts when its socket is asked for, and somebody connects",
        "systemctl start nvme-drv-svr.socket nvme-drv-ctl.socket; until_good shown && systemctl is-active nvme-drv.service",
        0,
        "active",
    ),
    (
        "where it failed, one word ends its sockets, too",
        "conf --frobnicate; systemctl restart nvme-drv.service; sockets; systemctl start nvme-drv-stopped.target
         for i in $(seq 10); do nvme-ctl ls; done >/dev/null 2>&1; echo tried $(systemctl show -p ExecMainStatus --value nvme-drv.service); off",
        0,
        "active\nactive\ntried 2\nnvme-drv.service failed\nnvme-session@vm1.service inactive\n[]",
    ),
];

/// Boots the container, and says what was found.
pub(crate) fn units(_: &[String]) -> Result<()> {
    if let Some(want) = root::wants() {
        return cannot("the units under a real systemd", &format!("for want of {want}"));
    }
    let mut root = match Root::new() {
        Ok(root) => root,
        Err(why) => return cannot("the units under a real systemd", &format!("for {why}")),
    };
    root.install()?;
    check(&mut root, PRELUDE, CHECKS, "the units do not do what they should")
}

/// Runs checks in a container, and says what was found; `wrong` if one of them failed.
pub(crate) fn check(root: &mut Root, prelude: &str, checks: &[Check], wrong: &str) -> Result<()> {
    let begin = Instant::now();
    let answers = root.run(prelude, checks.iter().map(|(_, command, ..)| *command))?;
    if answers.is_empty() {
        return cannot(
            "what needs a container",
            &format!("for systemd-nspawn does not boot a container:\n{}", root.console()),
        );
    }
    let mut failed = 0;
    for ((what, _, status, text), (got, said)) in checks.iter().zip(&answers) {
        let good = got == status && said.contains(text);
        println!("{} {what}", if good { "ok    " } else { "FAILED" });
        for figure in said.lines().filter(|line| good && line.contains("the longest took")) {
            println!("       {figure}");
        }
        if !good {
            println!("       status {got}, not {status}; wanted {text:?} in:\n{said}");
            failed += 1;
        }
    }
    println!("{failed} failed, in {:.1} s", begin.elapsed().as_secs_f64());
    if answers.len() < checks.len() {
        println!("{}", root.console());
        return Err(format!("the container ended after {} of {} checks", answers.len(), checks.len()).into());
    }
    if failed == 0 { Ok(()) } else { Err(wrong.into()) }
}

/// Nothing can be checked here, which is a failure where it must be.
pub(crate) fn cannot(what: &str, why: &str) -> Result<()> {
    let line = format!("{what}, {why}");
    if std::env::var_os("NVME_DRV_REQUIRE_VM").is_some() {
        return Err(line.into());
    }
    println!("skipped: {line}");
    Ok(())
}
