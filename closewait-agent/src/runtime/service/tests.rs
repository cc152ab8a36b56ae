use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use super::*;
use closewait_engine::model::Certainty;

/// Socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// Creates a manager, and a service that it has started.
    fn new(name: &str, watchdog: Option<Duration>) -> (Self, AgentService) {
        let name = format!("closewait-service-{}-{name}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = ServiceManager::connect_to(format!("@{name}").as_ref(), watchdog).unwrap();
        (Self(socket), AgentService { manager: Some(manager), ..AgentService::default() })
    }

    /// Receives all messages.
    fn received(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let next = || self.0.recv(&mut bytes).ok().map(|length| String::from_utf8(bytes[..length].to_vec()).unwrap());
        std::iter::from_fn(next).collect()
    }
}

fn at(millis: u64) -> BootTime {
    BootTime(millis * 1_000_000)
}

fn counts(groups: u32, sockets: u64) -> (StuckCounts, u64) {
    (StuckCounts { groups, incidents: 1, exhausted: 0, sockets }, sockets + 1)
}

fn reloaded() -> anyhow::Result<Reloaded> {
    let filter = HookFilter { stuck_classes: Vec::new(), min_certainty: Certainty::Low };
    Ok(Reloaded { filter, every: Duration::from_secs(7), lines: Vec::new() })
}

#[test]
fn a_loop_that_goes_round_sends_signs_of_life_and_a_changed_status_every_ten_seconds() {
    let (manager, mut service) = Manager::new("life", Some(Duration::from_secs(2)));
    service.started(at(0));
    assert_eq!(manager.received(), ["READY=1\n"]);
    assert_eq!(service.deadline(at(0)), Some(at(0)));
    service.alive(at(0), || counts(1, 3));
    let status = "STATUS=1 group, 1 incident: 3 of 4 sockets in CLOSE_WAIT stuck\n";
    assert_eq!(manager.received(), ["WATCHDOG=1\n", status]);
    assert_eq!(service.deadline(at(0)), Some(at(1000)), "half the time of the watchdog");
    service.alive(at(999), || unreachable!("a count takes time"));
    assert!(manager.received().is_empty());
    for second in 1..10 {
        service.alive(at(second * 1000), || unreachable!("a count takes time"));
    }
    assert_eq!(manager.received().len(), 9);
    service.alive(at(10_000), || counts(1, 3));
    assert_eq!(manager.received(), ["WATCHDOG=1\n"], "the status is the same");
    service.alive(at(20_000), || counts(2, 3));
    assert!(manager.received()[1].starts_with("STATUS=2 groups, 1 incident: "));
    service.stopping();
    assert_eq!(manager.received(), ["STOPPING=1\nSTATUS=stopping\n"]);
    assert_eq!(service.deadline(at(20_000)), None);
}

#[test]
fn a_manager_without_a_watchdog_gets_no_signs_of_life() {
    let (manager, mut service) = Manager::new("none", None);
    service.started(at(0));
    service.alive(at(0), || counts(0, 0));
    service.alive(at(60_000), || counts(0, 0));
    assert_eq!(manager.received().len(), 2);
    let mut alone = AgentService::default();
    alone.started(at(0));
    alone.alive(at(0), || unreachable!("nobody reads it"));
    assert_eq!(alone.deadline(at(0)), None);
}

#[test]
fn a_manager_that_is_slow_gets_the_changes_of_state_later_and_in_order() {
    let (manager, mut service) = Manager::new("slow", Some(Duration::from_secs(2)));
    let filled = (0..100_000).take_while(|_| service.try_send("X=1\n")).count();
    service.started(at(0));
    service.alive(at(0), || counts(1, 1));
    service.stopping();
    assert_eq!(service.deadline(at(0)), Some(at(0) + RETRY_INTERVAL));
    let received = manager.received();
    assert!(received.len() == filled && received.iter().all(|one| one == "X=1\n"), "{received:?}");
    service.alive(at(100), || counts(1, 1));
    assert_eq!(manager.received(), ["READY=1\n", "STOPPING=1\nSTATUS=stopping\n"]);
    drop(manager);
    service.change(&[NotifyState::Ready]);
    assert!(service.has_failed && service.waiting.is_empty(), "a manager that is gone is not waited for");
}

#[tokio::test]
async fn a_reload_is_announced_and_ends_with_the_old_or_the_new_settings() {
    let (manager, mut service) = Manager::new("reload", None);
    let (go, gate) = mpsc::channel::<bool>();
    let (gate, calls) = (std::sync::Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    service.read_again = Some(Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let good = gate.lock().unwrap().recv()?;
        if good { reloaded() } else { anyhow::bail!("unknown key") }
    }));
    service.begin();
    // Another one while the files are read.
    service.begin();
    assert!(service.again);
    let messages = manager.received();
    let usec = messages[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
    assert!(messages.len() == 1 && usec.parse::<u64>().unwrap() > 0, "{messages:?}");
    go.send(false).unwrap();
    let ServiceEvent::Read(read) = service.event().await else { panic!("no signal has come") };
    assert!(service.ended(read).is_none());
    assert_eq!(manager.received(), ["READY=1\n"]);
    service.begin();
    go.send(true).unwrap();
    let ServiceEvent::Read(read) = service.event().await else { panic!("no signal has come") };
    assert_eq!(service.ended(read).unwrap().every, Duration::from_secs(7));
    assert_eq!((manager.received().len(), calls.load(Ordering::SeqCst)), (2, 2));
}

#[test]
fn the_status_has_numbers_only() {
    let counts = StuckCounts { groups: 2, incidents: 2, exhausted: 1, sockets: 5 };
    assert_eq!(status(counts, 9), "2 groups, 2 incidents, 1 at a limit: 5 of 9 sockets in CLOSE_WAIT stuck");
    assert_eq!(status(StuckCounts::default(), 0), "0 groups, 0 incidents: 0 of 0 sockets in CLOSE_WAIT stuck");
}
