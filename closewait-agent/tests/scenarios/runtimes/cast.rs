//! The programs, their situations, and what is true of each.

use std::fs;

use super::TRAFFIC;
use crate::stage::{Clients, Stage, programs, ready};

/// Program of a runtime: the same server in its language.
pub(super) struct Runtime {
    pub(super) name: &'static str,
    /// Source file, in the folder of these programs.
    source: &'static str,
    /// File that is shown with a function.
    shown_file: &'static str,
    /// Text before the name of each function.
    function_prefix: &'static str,
    /// Whether lines of the source are shown.
    has_lines: bool,
    /// Text of the source at the line where a thread waits, for each [`Place`].
    waits_at: fn(Place) -> &'static str,
    /// Program and arguments.
    command: fn() -> Vec<String>,
    /// Limit of descriptors for the last situation.
    descriptors: u32,
    /// Options of `closewait run`, if it has them.
    pub(super) agent_options: &'static [&'static str],
    /// Options of `closewait stacks`.
    pub(super) stacks_options: &'static [&'static str],
    /// Whether stacks are read without a free descriptor in the process.
    pub(super) needs_no_descriptor: bool,
}

/// Place in the program where threads wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The lock of the ledger, in `reserve`.
    Ledger,
    /// The answer of the backend, in `report`.
    Backend,
    /// Work, in a pool of the program's own, in `work`.
    Work,
}

/// Situation of a program.
pub(super) struct Situation {
    pub(super) name: &'static str,
    /// Classes of verdicts that are right. `unknown` is never wrong.
    pub(super) classes: &'static [&'static str],
    /// Place whose line is right; `None` if the threads only wait for work.
    pub(super) place: Option<Place>,
    /// Seconds until the backend answers.
    backend: &'static str,
    /// Requests before those of the clients.
    first: &'static [&'static str],
    clients: &'static [Clients],
    /// Whether the process has a low limit of descriptors.
    pub(super) is_exhausted: bool,
}

/// Clients that give up after a second.
const IMPATIENT: Clients = Clients { port: 8080, path: "/order", count: TRAFFIC / 3, every: 3.0, patience: 1.0 };
/// Clients whose connections the program keeps.
const FORGOTTEN: Clients = Clients { path: "/forget", count: TRAFFIC / 4, every: 4.0, ..IMPATIENT };

/// The situations of each runtime.
pub(super) const SITUATIONS: &[Situation] = &[
    Situation {
        name: "all requests wait for a lock",
        classes: &["hung", "never_accepted"],
        place: Some(Place::Ledger),
        backend: "1",
        first: &["/", "/", "/audit"],
        clients: &[IMPATIENT],
        is_exhausted: false,
    },
    Situation {
        name: "requests wait for a backend that answers after 20 s (healthy)",
        classes: &["transient", "proxy_wait"],
        place: Some(Place::Backend),
        backend: "20",
        first: &["/", "/"],
        clients: &[Clients { path: "/report", ..IMPATIENT }],
        is_exhausted: false,
    },
    Situation {
        name: "the pool is idle, connections are forgotten",
        classes: &["leak"],
        place: None,
        backend: "1",
        first: &["/", "/"],
        clients: &[FORGOTTEN],
        is_exhausted: false,
    },
    Situation {
        name: "connections are forgotten, others are served by a backend that answers after 3 s",
        classes: &["leak"],
        place: Some(Place::Backend),
        backend: "3",
        first: &["/", "/"],
        clients: &[FORGOTTEN, Clients { path: "/report", count: TRAFFIC, every: 1.0, patience: 30.0, ..IMPATIENT }],
        is_exhausted: false,
    },
    Situation {
        name: "all requests wait for a lock, no descriptor is left",
        classes: &["hung", "never_accepted"],
        place: Some(Place::Ledger),
        backend: "1",
        first: &["/", "/", "/audit"],
        clients: &[Clients { count: TRAFFIC * 2, every: 0.5, ..IMPATIENT }],
        is_exhausted: true,
    },
];

pub(super) const GO: Runtime = Runtime {
    name: "Go",
    source: "orders.go",
    shown_file: "orders.go",
    function_prefix: "main.",
    has_lines: true,
    waits_at: |place| match place {
        Place::Ledger => "ledger.Lock()\n\tdefer",
        Place::Backend => "bufio.NewReader(backend)",
        Place::Work => "range jobs",
    },
    command: || vec![built("go-orders")],
    descriptors: 48,
    agent_options: &[],
    stacks_options: &[],
    needs_no_descriptor: true,
};

pub(super) const PYTHON: Runtime = Runtime {
    name: "CPython",
    source: "orders.py",
    shown_file: "orders.py",
    function_prefix: "",
    has_lines: true,
    waits_at: |place| match place {
        Place::Ledger => "with ledger:\n        return",
        Place::Backend => "backend.recv(",
        Place::Work => "pool = ",
    },
    command: || vec!["python3".to_owned(), source("orders.py")],
    descriptors: 48,
    agent_options: &[],
    stacks_options: &[],
    needs_no_descriptor: true,
};

pub(super) const C: Runtime = Runtime {
    name: "C",
    source: "orders.c",
    shown_file: "c-orders",
    function_prefix: "",
    has_lines: false,
    waits_at: |_place| "",
    command: || vec![built("c-orders")],
    descriptors: 48,
    agent_options: &[],
    stacks_options: &[],
    needs_no_descriptor: true,
};

pub(super) const JAVA: Runtime = Runtime {
    name: "Java",
    source: "Orders.java",
    shown_file: "Orders.java",
    function_prefix: "Orders.",
    has_lines: true,
    waits_at: |place| match place {
        // HotSpot names the instruction behind the one that enters the monitor, as `jstack` shows.
        Place::Ledger => "orders++",
        Place::Backend => "getInputStream().read();",
        Place::Work => "workers.execute(",
    },
    command: || {
        let classes = ready().join("java-stacks").into_os_string().into_string().expect("a path in UTF-8");
        ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m", "-cp", &classes, "Orders"]
            .map(str::to_owned)
            .into()
    },
    descriptors: 64,
    agent_options: &["--stacks-jvm"],
    stacks_options: &["--jvm"],
    // It has to answer.
    needs_no_descriptor: false,
};

pub(super) const RUBY: Runtime = Runtime {
    name: "Ruby",
    source: "orders.rb",
    shown_file: "orders.rb",
    function_prefix: "",
    has_lines: true,
    waits_at: |place| match place {
        Place::Ledger => "LEDGER.lock\n  LEDGER.unlock",
        Place::Backend => "backend.readpartial(",
        Place::Work => "serve(JOBS.pop)",
    },
    command: || vec!["ruby".to_owned(), source("orders.rb")],
    descriptors: 48,
    agent_options: &[],
    stacks_options: &[],
    needs_no_descriptor: true,
};

/// Its requests are tasks of one thread.
pub(super) const ASYNCIO: Runtime = Runtime {
    name: "CPython, asyncio",
    source: "tasks.py",
    shown_file: "tasks.py",
    function_prefix: "",
    has_lines: true,
    waits_at: |place| match place {
        Place::Ledger => "async with ledger:\n        return",
        Place::Backend => "reader.read(4096)\n    writer",
        Place::Work => "serve_forever()",
    },
    command: || vec!["python3".to_owned(), source("tasks.py")],
    descriptors: 48,
    agent_options: &[],
    stacks_options: &[],
    needs_no_descriptor: true,
};

fn built(program: &str) -> String {
    ready().join("bin").join(program).into_os_string().into_string().expect("a path in UTF-8")
}

fn source(program: &str) -> String {
    programs().join("stacks").join(program).into_os_string().into_string().expect("a path in UTF-8")
}

impl Runtime {
    /// Starts the programs and the clients of a situation.
    pub(super) fn stage(&self, situation: &Situation) -> Stage {
        let number = SITUATIONS.iter().position(|one| one.name == situation.name).unwrap_or(0) + 1;
        let mut stage = Stage::lasting(&format!("stacks-{}-{number}", self.name), TRAFFIC + 60);
        let program = (self.command)();
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        let limit = format!("--nofile={0}:{0}", if situation.is_exhausted { self.descriptors } else { 1024 });
        stage.start("prlimit", &[&[&*limit], &program[..]].concat());
        stage.python_with(&source("backend.py"), &[situation.backend]);
        stage.listens(8080);
        stage.listens(8081);
        for path in situation.first {
            drop(stage.answered(8080, path));
        }
        for clients in situation.clients {
            stage.clients(clients);
        }
        stage
    }

    /// Returns the line that is right for a place, as it is shown: `main.reserve (orders.go:31)`.
    pub(super) fn line(&self, place: Place) -> String {
        let function = match place {
            Place::Ledger => "reserve",
            Place::Backend => "report",
            Place::Work => "work",
        };
        let text = fs::read_to_string(programs().join("stacks").join(self.source)).expect("the program");
        let (before, _) = text.split_once((self.waits_at)(place)).expect("the line");
        let line = if self.has_lines { format!(":{}", before.matches('\n').count() + 1) } else { String::new() };
        format!("{}{function} ({}{line})", self.function_prefix, self.shown_file)
    }

    /// Whether a process has used up its descriptors in the last situation. One may be free for a moment, after an attempt to accept.
    pub(super) fn is_full(&self, open: usize) -> bool {
        open + 1 >= usize::try_from(self.descriptors).expect("a small number")
    }

    /// Whether the line of a situation has to be shown.
    pub(super) fn is_known(&self, situation: &Situation) -> bool {
        situation.place.is_some() && (self.needs_no_descriptor || !situation.is_exhausted)
    }
}
