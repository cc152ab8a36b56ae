use super::*;
use crate::testing::{socket, socket_on_port};

const STUCK_AFTER: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

fn services() -> Services {
    Services::new(at(0), STUCK_AFTER, None)
}

/// A connected one.
fn towards(port: usize) -> Socket {
    let remote = Endpoint { port: u16::try_from(port).unwrap(), ..socket().remote };
    Socket { role: None, remote, ..socket() }
}

/// These are there.
fn count(services: &mut Services, seconds: u64, sockets: &[Socket]) {
    let since = Since::Exact(at(1));
    assert_eq!(services.handle_timeout(at(seconds), sockets.iter().map(|socket| (socket, since))), []);
}

fn enter(services: &mut Services, seconds: u64) {
    services.entered(&socket(), at(seconds));
}

fn close(services: &mut Services, entered: u64, left: u64) {
    let dwell = Dwell::Exact(Duration::from_secs(left - entered));
    services.left(&socket(), at(left), Some(at(entered)), Some(dwell), How::Closed);
}

#[test]
fn of_a_server_that_hangs_all_since_the_onset_are_still_there() {
    let mut services = services();
    for second in 0..100 {
        enter(&mut services, second);
        if second < 50 {
            close(&mut services, second, second + 1);
        }
    }
    let flow = services.flow(Service::of(&socket()), Some(at(50)), at(100)).unwrap();
    assert_eq!((flow.entered, flow.closed, flow.last_closed), (100, 50, Some(at(50))));
    assert_eq!(flow.longest_closed, Some(Duration::from_secs(1)));
    assert_eq!(flow.stuck_permille_since_onset(), Some(1000));
    let share = flow.stuck_permille().unwrap();
    assert!((400..500).contains(&share), "{share}");
}

#[test]
fn the_young_do_not_count_as_stuck() {
    let mut services = services();
    for second in 90..100 {
        enter(&mut services, second);
    }
    let flow = services.flow(Service::of(&socket()), Some(at(90)), at(100)).unwrap();
    assert_eq!((flow.old_entered, flow.stuck_permille()), (0, None));
}

#[test]
fn a_long_stay_does_not_count_for_ever() {
    let mut services = services();
    enter(&mut services, 1);
    close(&mut services, 1, 9);
    let mut longest = Vec::new();
    for window in 1..=2 * SPAN as u64 {
        enter(&mut services, window * 10 - 1);
        count(&mut services, window * 10, &[]);
        longest.push(services.flow(Service::of(&socket()), None, at(window * 10)).unwrap().longest_closed);
    }
    assert!(longest[..2 * SPAN - 1].iter().all(|longest| *longest == Some(Duration::from_secs(8))));
    assert_eq!(longest[2 * SPAN - 1], None);
}

#[test]
fn a_trend_needs_three_windows() {
    let of = |counts: &[u64]| trend(&counts.iter().copied().collect());
    assert_eq!(of(&[1, 5, 9]), None);
    assert_eq!(of(&[1, 5, 9, 14]), Some(Trend::Growing));
    assert_eq!(of(&[100, 104, 99, 101]), Some(Trend::Level));
    assert_eq!(of(&[1, 1, 2, 2]), Some(Trend::Level));
    assert_eq!(of(&[90, 50, 20, 3]), Some(Trend::Falling));
    assert_eq!(of(&[3, 50, 20, 90]), Some(Trend::Uneven));
}

#[test]
fn windows_end_only_while_there_is_something_to_count() {
    let mut services = services();
    assert_eq!(services.poll_timeout(), None);
    enter(&mut services, 1);
    assert_eq!(services.poll_timeout(), Some(at(2)));
    for window in 1..=4 {
        count(&mut services, window * 10, &[socket()]);
    }
    assert_eq!(services.flow(Service::of(&socket()), None, at(41)).unwrap().trend, Some(Trend::Level));
}

#[test]
fn what_is_quiet_is_forgotten_and_what_is_too_much_is_not_kept() {
    let mut services = services();
    enter(&mut services, 1);
    close(&mut services, 1, 2);
    count(&mut services, 700, &[]);
    assert_eq!(services.flow(Service::of(&socket()), None, at(700)), None);
    for port in 0..LIMIT + 10 {
        services.entered(&towards(port), at(701));
    }
    // And the rest.
    assert_eq!((services.services.len(), services.ungrouped()), (REMOTES + 1, (LIMIT - REMOTES + 10) as u64));
    for port in 0..LIMIT {
        services.entered(&socket_on_port(u16::try_from(port + 1000).unwrap()), at(702));
    }
    assert_eq!((services.services.len(), services.ungrouped()), (LIMIT, LIMIT as u64 + 11));
}

#[test]
fn a_crowd_that_has_gone_gives_way_the_longest_quiet_first_and_those_with_sockets_stay() {
    let mut services = services();
    let ends = |count: usize| (0..count).map(towards);
    for (number, socket) in ends(REMOTES).enumerate() {
        let entered = at(1 + number as u64 % 8);
        services.entered(&socket, entered);
        // The first one stays.
        if number > 0 {
            services.left(&socket, entered, Some(entered), None, How::Closed);
        }
    }
    count(&mut services, 10, &[towards(0)]);
    assert_eq!(services.services.len(), KEPT);
    assert!(services.services.contains_key(&Service::of(&towards(0))), "it has a socket");
    assert!(!services.services.contains_key(&Service::of(&towards(8))), "quiet since second 1");
    assert!(services.services.contains_key(&Service::of(&towards(7))), "quiet since second 8");
    services.entered(&towards(9999), at(11));
    assert_eq!((services.services.len(), services.ungrouped()), (KEPT + 1, 0));
}

#[test]
fn a_service_never_has_more_than_its_cohorts() {
    let mut services = services();
    for second in 0..2000 {
        enter(&mut services, second);
    }
    let counted = services.services.values().next().unwrap();
    assert_eq!((counted.cohorts.len(), counted.cohorts.capacity()), (COHORTS, COHORTS));
    assert_eq!(size_of::<Cohort>(), 16);
}

#[test]
fn what_is_found_out_later_does_not_count_a_socket_twice() {
    let mut services = Services::new(at(0), STUCK_AFTER, Some(32_768..=60_999));
    // As the classic tracepoint tells of it, and as a walk does.
    let named = Socket { role: Some(Role::Server), netns: Some(7), ..socket_on_port(8080) };
    let told = Socket { role: None, netns: None, ..named.clone() };
    for second in 0..20 {
        services.entered(&told, at(second));
        if second > 0 {
            let dwell = Some(Dwell::Exact(Duration::from_secs(1)));
            services.left(&told, at(second), Some(at(second - 1)), dwell, How::Closed);
        }
    }
    count(&mut services, 20, std::slice::from_ref(&named));
    let service = services.of(&named);
    assert_eq!((service, services.services.len()), (Service::Port(None, 8080), 1));
    let flow = services.flow(service, None, at(20)).unwrap();
    assert_eq!((flow.entered, flow.closed, services.services[&service].counted.present), (20, 19, 1));
    // A connecting side is known by its port.
    let client = Socket { local: Endpoint { port: 40_000, ..told.local }, ..told };
    assert!(services.of(&client).is_remote());
}
