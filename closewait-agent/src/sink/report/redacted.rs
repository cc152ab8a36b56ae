//! Reports with labels in place of addresses and names: no original is left in any format.

use std::{net::Ipv4Addr, sync::Arc};

use super::{
    ReportFormat,
    tests::{page, report, shown},
};
use crate::sink::{
    Form, status,
    status::{Screen, StatusPage},
};
use closewait_engine::{
    model::{Endpoint, IncidentReport, Owner, Task, UnixBackend},
    process::{NextStep, Process},
    snapshot::redact::Redactor,
    stacks::{CodeFrame, CodeLanguage, CodeStack, ProcessStacks},
    testing::process,
    text::Comm,
    time::BootTime,
    unread::{HttpMethod, UnreadRequest, UnreadRequests},
    workload::{Container, Pod, Workload},
};

/// Part of each name that has to be replaced.
const SECRET: &str = "acme";
/// Beginning of each address that has to be replaced.
const NETWORK: [u8; 3] = [10, 20, 30];

fn name(of: &str) -> String {
    format!("{SECRET}-{of}")
}

fn remote(last: u8) -> Endpoint {
    let [first, second, third] = NETWORK;
    Endpoint { address: Ipv4Addr::new(first, second, third, last).into(), port: 40_000 }
}

/// Returns the stack of a thread that waits for a lock in the application.
fn stack(language: CodeLanguage, inner: (&str, &str)) -> CodeStack {
    let frame = |function: &str, path: &str| {
        let (file, object) = if language == CodeLanguage::Native { (None, Some(path)) } else { (Some(path), None) };
        let [file, object] = [file, object].map(|path| path.map(str::to_owned));
        CodeFrame { function: Some(function.to_owned()), file, line: Some(7), object }
    };
    CodeStack {
        language,
        tid: Some(7),
        name: Some(name("worker")),
        state: None,
        lock_owner: None,
        frames: vec![frame(inner.0, inner.1), frame(&name("reserve"), &format!("/srv/{SECRET}/orders.py"))],
        cut: Some(format!("the unwind table of /srv/{SECRET}/lib.so is damaged")),
    }
}

/// Returns a report all of whose names contain [`SECRET`], and all of whose addresses are in [`NETWORK`].
fn secret() -> IncidentReport {
    let comm = Comm::from_name(name("app").as_bytes());
    let task = Task { pid: 7, comm: comm.clone() };
    let pod = Pod {
        uid: name("uid"),
        name: Some(name("pod")),
        namespace: Some(name("shop")),
        container_name: Some(name("api")),
    };
    let workload = |pod: Option<Pod>| Workload {
        cgroup_path: format!("/user.slice/{SECRET}"),
        unit: Some(format!("{SECRET}-orders.service")),
        container: pod.is_none().then(|| Container { id: name("container"), runtime: None }),
        pod,
    };
    let stacks = [
        stack(CodeLanguage::Native, ("pthread_mutex_lock", "/usr/lib/libc.so.6")),
        stack(CodeLanguage::Python, ("wait", &format!("/home/{SECRET}/lib/python3.11/threading.py"))),
    ];
    let mut stacks = ProcessStacks::new(7, BootTime(1), &stacks, vec![format!("/srv/{SECRET} was not read")]);
    stacks.groups.iter_mut().for_each(|group| group.count = 5);
    let mut report = report();
    report.host = Some(name("host"));
    report.unseen = Some(format!("sockets of {SECRET} cannot be seen"));
    for (number, group) in report.groups.iter_mut().enumerate() {
        let pileup = &mut group.pileup;
        if pileup.group.local_port.is_none() {
            pileup.group.remote = Some(remote(9));
        }
        pileup.owners = Some(vec![(task.clone(), 5)]);
        pileup.verdict.text = format!("{SECRET}[7] has hung");
        pileup.verdict.next =
            NextStep::command(format!("ask {SECRET}"), format!("closewait list --peer {}", remote(1)));
        let evidence = &mut pileup.evidence;
        evidence.top_remotes = vec![(remote(1).address, 3), (remote(2).address, 2)];
        for oldest in &mut evidence.oldest {
            oldest.remote = remote(1);
            oldest.owners = Some(vec![Owner { task: task.clone(), fd: 3 }]);
        }
        let pod = (number == 1).then(|| pod.clone());
        evidence.workload = Some(Box::new(workload(pod.clone())));
        evidence.process = Some(Box::new(Process {
            comm: comm.clone(),
            script: Some(name("orders.py")),
            exe: Some(format!("/srv/{SECRET}/orders.py")),
            frozen_by: Some(format!("/sys/fs/cgroup/{SECRET}/cgroup.freeze")),
            unseen: vec![format!("its file is on {SECRET}")],
            // Without one, its name shows.
            workload: (number < 4).then(|| Box::new(workload(pod))),
            ..process("x", 7, Some((5, 10)))
        }));
        evidence.stacks = Some(Arc::new(stacks.clone()));
        let http = UnreadRequest::Http { method: HttpMethod::Get, path: format!("/{SECRET}/checkout") };
        let tls = UnreadRequest::Tls { server_name: Some(name("api.example.com")) };
        evidence.unread = Some(UnreadRequests { requests: vec![(http, 2), (tls, 1)], others: 0 });
        evidence.unix = Some(vec![UnixBackend {
            path: format!("/run/{SECRET}/app.sock"),
            connections: 5,
            queued: 1,
            waiting: 5,
            program: Some(task.clone()),
            processes: 1,
            activity: Some(format!("waits in {SECRET}")),
        }]);
    }
    report.resolved.iter_mut().for_each(|one| one.end.service = Some(name("orders")));
    report
}

/// Returns the report in each format, and the page and object of `status`.
fn all_formats(report: &IncidentReport) -> Vec<String> {
    let screen = Screen { width: 200, height: None, color: false };
    let page = page(report, &[]);
    let formats = [ReportFormat::Text(screen), ReportFormat::Markdown, ReportFormat::Html, ReportFormat::Json];
    let reports = formats.map(|format| shown(&page, format));
    let page = StatusPage { report, anchor: page.anchor, is_root: true, notes: &[], socket: None };
    let status = [Form::Text, Form::Json].map(|form| {
        let mut to = Vec::new();
        status::render(&page, form, screen, &mut to).unwrap();
        String::from_utf8(to).unwrap()
    });
    reports.into_iter().chain(status).collect()
}

#[test]
fn nothing_original_is_left_in_any_format() {
    let mut report = secret();
    let network = format!("{}.{}.{}.", NETWORK[0], NETWORK[1], NETWORK[2]);
    for text in all_formats(&report) {
        assert!(text.contains(SECRET) && text.contains(&network), "the test has no secrets: {text}");
    }
    Redactor::default().report(&mut report);
    for text in all_formats(&report) {
        assert!(!text.to_lowercase().contains(SECRET), "{text}");
        assert!(!text.contains(&network), "{text}");
        assert!(text.contains("hung") || text.contains("HUNG"), "verdicts stay: {text}");
        assert!(text.contains("container-1"), "{text}");
    }
    let json = all_formats(&report).swap_remove(3);
    for kept in ["25140", "pthread_mutex_lock", "libc.so.6", "threading.py", "2001:db8::1", "function-1"] {
        assert!(json.contains(kept), "{kept}: {json}");
    }
}

#[test]
fn the_same_thing_has_the_same_label() {
    let mut redactor = Redactor::default();
    let mut label = |kind, text: &str| {
        let mut text = text.to_owned();
        redactor.name(kind, &mut text);
        text
    };
    let labels = [label("file", "a"), label("file", "b"), label("function", "a"), label("file", "a")];
    assert_eq!(labels, ["file-1", "file-2", "function-1", "file-1"]);
    let mut addresses = ["10.0.0.1", "::1", "0.0.0.0", "10.0.0.1"].map(|text| text.parse().unwrap());
    addresses.iter_mut().for_each(|address| redactor.address(address));
    assert_eq!(addresses.map(|address| address.to_string()), ["2001:db8::1", "2001:db8::2", "0.0.0.0", "2001:db8::1"]);
}
