//! Code that opens the connections of a group.

use super::*;
use crate::{
    model::{ConnectQuestion, InspectionFact},
    process::Process,
    stacks::{CodeFrame, CodeLanguage, CodeStack, ConnectSample, ConnectSamples},
    testing::{owner, process},
};

fn client() -> Socket {
    Socket { role: Some(Role::Client), inode: Some(1234), ..socket() }
}

/// Returns an engine with a stuck socket of process 7, which was read, and the connections that it asks for.
fn with_owner(reads_stacks: bool, socket: &Socket) -> (Engine, Vec<ConnectQuestion>) {
    let mut engine = Engine::new(Config { reads_stacks, ..config(Events::Stuck) }, at(0));
    engine.handle(SocketEvent::Enter { key: KEY, at: at(0), socket: socket.clone() });
    engine.handle_timeout(at(10_000));
    engine.handle(RefreshFact::Present { key: KEY, at: at(10_000), since: None, socket: socket.clone() });
    engine.handle(RefreshEnd::Inspection { at: at(10_000), lingering: true });
    engine.handle(ScanFact::Descriptor { key: KEY, at: Some(at(10_000)), inode: 1234, owner: owner("app", 7, 5) });
    engine.handle(ScanEnd::Descriptors { began: at(10_000), blind: None, saw_listeners: true });
    let process = Box::new(Process { started_ns: Some(1), ..process("app", 7, None) });
    engine.handle(InspectionFact::Process { at: at(10_010), process });
    engine.handle(InspectionEnd::Owners { at: at(10_020), worked: Duration::ZERO });
    let _stuck = outputs(&mut engine);
    let asked = engine.owner_request(at(10_030)).connects_of;
    (engine, asked)
}

fn sample(socket: &Socket) -> InspectionFact {
    let frame = |function: &str| CodeFrame {
        function: Some(function.to_owned()),
        object: Some("/srv/app".to_owned()),
        ..CodeFrame::default()
    };
    let stack = CodeStack {
        language: CodeLanguage::Native,
        tid: Some(7),
        name: None,
        state: None,
        lock_owner: None,
        frames: vec![frame("dial"), frame("main")],
        cut: None,
    };
    let samples = vec![ConnectSample { at: at(11_000), netns: socket.netns, remote: socket.remote, stack }];
    InspectionFact::Connects(Box::new(ConnectSamples { pid: 7, port: socket.remote.port, connects: 3, samples }))
}

#[test]
fn connections_of_an_owner_are_asked_for_and_a_report_names_their_code() {
    let socket = client();
    let (mut engine, asked) = with_owner(true, &socket);
    assert_eq!(asked, [ConnectQuestion { pid: 7, port: socket.remote.port }]);
    engine.handle(sample(&socket));
    let report = engine.report(at(12_000));
    let connects = report.groups[0].pileup.evidence.connects.as_ref().expect("a sample");
    let text = "dial (app) < main (app): 1 of 1 sampled connections";
    assert_eq!((connects.text().as_deref(), connects.connects), (Some(text), 3));
    // The restored engine has it, too.
    let _taken = outputs(&mut engine);
    let restored = engine.checkpoint().expect("a checkpoint").restore().expect("an engine");
    assert_eq!(restored.report(at(12_000)), report);
}

#[test]
fn without_stacks_and_for_servers_nothing_is_asked_for() {
    let (mut engine, asked) = with_owner(false, &client());
    assert!(asked.is_empty());
    engine.handle(sample(&client()));
    assert_eq!(engine.report(at(12_000)).groups[0].pileup.evidence.connects, None, "nothing was asked for");
    let server = Socket { role: Some(Role::Server), ..client() };
    assert!(with_owner(true, &server).1.is_empty());
}
