//! Two workers on threads of their own, as in the server: resets and memory changes under load.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nvme_core::server::control::{Config, Event, MemoryChange};
use nvme_core::server::message::{FromWorker, ToWorker};
use nvme_core::server::worker::Worker;
use nvme_mem::heap;
use nvme_platform::Time;
use nvme_soft::NamespaceConfig;

use crate::client::{Client, IN, OK, OUT, SLOTS, pattern, region};
use crate::rig::{Rig, config, medium, soft};

const SIDE: u64 = 1 << 32;

fn serve(messages: &Receiver<ToWorker>, news: &Sender<FromWorker>, start: Instant) {
    // Polls all the time, so nobody has to kick.
    let mut worker = Worker::new(Duration::from_secs(1000));
    loop {
        let now = Time::from_nanos(start.elapsed().as_nanos() as u64 + 1);
        loop {
            match messages.try_recv() {
                Ok(message) => worker.handle(message, now),
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(_) => return,
            }
        }
        if !worker.pass(now, &|| now).worked {
            thread::yield_now();
        }
        while let Some(message) = worker.take_message() {
            if news.send(message).is_err() {
                return;
            }
        }
    }
}

struct Threads {
    rig: Rig,
    to: Vec<Sender<ToWorker>>,
    from: Vec<Receiver<FromWorker>>,
    start: Instant,
}

impl Threads {
    fn step(&mut self) {
        let now = Time::from_nanos(self.start.elapsed().as_nanos() as u64 + 1);
        self.rig.now = now;
        for (worker, from) in self.from.iter().enumerate() {
            while let Ok(message) = from.try_recv() {
                self.rig.control.from_worker(worker, message, now);
            }
        }
        self.rig.control.poll(now);
        while let Some((worker, message)) = self.rig.control.take_message() {
            self.to[worker].send(message).unwrap();
        }
        while let Some(event) = self.rig.control.take_event() {
            self.rig.events.push(event);
        }
        thread::yield_now();
    }

    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Rig) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !so(&mut self.rig) {
            assert!(Instant::now() < end, "{what} never comes");
            self.step();
        }
    }
}

fn client(threads: &mut Threads, device: &str) -> Client {
    let key = threads.rig.create(&[device]).unwrap();
    let mut client = Client::new(key);
    threads.rig.control.set_features(key, crate::client::ALL).unwrap();
    let (claim, file) = region(crate::client::GUEST, crate::client::LEN, key.0);
    let window = client.memory.clone();
    threads.rig.begin_change(&client, &MemoryChange::Add(claim, file), |_| Some(window.clone())).unwrap();
    threads.until("the memory", |rig| take_done(rig, &client));
    threads.rig.start(&mut client).unwrap();
    client
}

fn take_done(rig: &mut Rig, client: &Client) -> bool {
    let at = rig.events.iter().position(|e| matches!(e, Event::Done(key, Ok(())) if *key == client.key));
    at.map(|at| rig.events.remove(at)).is_some()
}

pub(crate) fn run() {
    let mut device = soft("d0");
    device.pause = thread::yield_now;
    device.namespaces.push(NamespaceConfig::new(medium()));
    let rig = Rig::raw(Config { workers: 2, ..config() }, vec![device]);
    let start = Instant::now();
    let mut threads = Threads { rig, to: Vec::new(), from: Vec::new(), start };
    for _ in 0..2 {
        let ((to, messages), (news, from)) = (channel(), channel());
        threads.to.push(to);
        threads.from.push(from);
        thread::spawn(move || serve(&messages, &news, start));
    }
    threads.until("the scan", |rig| rig.control.scanned());
    let mut clients = [client(&mut threads, "device=d0:n1"), client(&mut threads, "device=d0:n2")];
    let side = heap(1 << 20).unwrap();
    for round in 0..30_u64 {
        for (number, client) in clients.iter_mut().enumerate() {
            for slot in 0..SLOTS {
                client.fill(
                    Client::place(slot),
                    &pattern(round << 20 | (number as u64) << 16 | u64::from(slot), 4096),
                );
                client.ask(0, slot, OUT, u64::from(slot) * 8, Client::place(slot), 4096);
            }
        }
        // Few enough to be forgiven: commands are issued again after the first two.
        if round == 9 || round == 19 {
            threads.rig.handles[0].raise_fatal();
        }
        let (claim, file) = region(SIDE, 1 << 20, 1000);
        let change = if round % 2 == 0 {
            MemoryChange::Add(claim, file)
        } else {
            MemoryChange::Remove(SIDE, SIDE, 1 << 20)
        };
        threads.rig.begin_change(&clients[0], &change, |_| Some(side.clone())).unwrap();
        answered(&mut threads, &mut clients);
        threads.until("the change", |rig| take_done(rig, &clients[0]));
        for client in &mut clients {
            for slot in 0..SLOTS {
                assert_eq!(client.status(0, slot), OK, "round {round}");
                client.fill(Client::place(slot), &[0; 4096]);
                client.ask(0, slot, IN, u64::from(slot) * 8, Client::place(slot), 4096);
            }
        }
        answered(&mut threads, &mut clients);
        for (number, client) in clients.iter().enumerate() {
            for slot in 0..SLOTS {
                let want = pattern(round << 20 | (number as u64) << 16 | u64::from(slot), 4096);
                assert!(client.bytes(Client::place(slot), 4096) == want, "round {round}, {slot}");
            }
        }
    }
    let keys = clients.each_ref().map(|c| c.key);
    keys.iter().for_each(|key| threads.rig.control.end(*key));
    threads.until("the end", |rig| rig.control.sessions().count() == 0);
    assert_eq!(threads.rig.knobs[0].reach(), (0, 0));
    assert_eq!(threads.rig.handles[0].statistics().dma_faults, 0);
}

fn answered(threads: &mut Threads, clients: &mut [Client; 2]) {
    let mut left = [SLOTS; 2];
    threads.until("an answer", |_| {
        for (client, left) in clients.iter_mut().zip(&mut left) {
            *left -= client.used(0).len() as u16;
        }
        left == [0, 0]
    });
}
