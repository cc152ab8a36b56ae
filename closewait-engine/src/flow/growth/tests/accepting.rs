//! Sockets that no program accepts.

use super::*;

#[test]
fn the_report_has_the_time_since_which_no_socket_is_accepted() {
    let mut lives = hang(45_000);
    for life in &mut lives {
        life.socket.accepted = Some(life.enters < 33_000);
    }
    let reports = play(&lives, 45_000);
    let (_at, pileup) = reports.only();
    let since = pileup.onset.unaccepted_since.map(|at| at.0 / MILLI - 1_000_000);
    assert_eq!((since, pileup.onset.first_stuck.0 / MILLI - 1_000_000), (Some(33_000), 30_000));
    assert!(pileup.evidence.unaccepted > 0 && pileup.count > pileup.evidence.unaccepted.into());
    assert_eq!(play(&hang(45_000), 45_000).only().1.onset.unaccepted_since, None, "all of them were accepted");
}

#[test]
fn a_few_accepted_sockets_do_not_stand_for_many_that_are_not() {
    let class = |accepted_until| {
        let mut lives = hang(45_000);
        for life in &mut lives {
            life.socket.accepted = Some(life.enters < accepted_until);
        }
        play(&lives, 45_000).only().1.verdict.class
    };
    assert_eq!((class(30_200), class(45_000)), (Class::NeverAccepted, Class::Unknown));
}
