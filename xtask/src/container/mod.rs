//! `cargo xtask container`: the image and the manifests as a pod, run by runc: exactly the capabilities, mounts, limits and seccomp
//! profile of contrib/kubernetes/base, in the pid namespace of this machine and a network namespace of its own.
//!
//! | file | content |
//! |---|---|
//! | `node` | folders of logs and volumes, and the configurations of the containers |
//! | `runc` | running containers |
//! | `seccomp` | the default profile of container engines |

mod node;
mod runc;
mod seccomp;

use std::{env, ffi::OsString};

use serde_json::json;

use crate::prelude::*;
use crate::{
    dist::{self, Arch},
    kubernetes,
    package::{Release, image},
    root,
    venv::Venv,
};
use node::{NAME, Node, Pod};
use runc::Container;

/// Longest time to wait for a state.
const LIMIT: Duration = Duration::from_secs(60);
/// Address of the agent's pod besides loopback.
const POD_ADDRESS: &str = "10.244.1.7";
/// Sockets in CLOSE_WAIT of the program.
const SOCKETS: usize = 12;
/// The program's listener.
const PORT: u16 = 10_000;
/// A program that holds its sockets.
const PROGRAM: Pod = Pod {
    namespace: "shop",
    name: "orders-7d9c5b8f6-x2x4z",
    uid: "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
    container: "api",
    id: "a3f1c9d2e4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5",
};
/// A program that accepts nothing, and its port.
const DEAF: Pod = Pod {
    namespace: "shop",
    name: "carts-0",
    uid: "00112233445566778899aabbccddeeff",
    container: "api",
    id: "c5b3e1f4a6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6a7",
};
const DEAF_PORT: u16 = 10_001;
const DEAF_PROGRAM: &str = "
import socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=64)
for _ in range(int(sys.argv[2])):
    with socket.create_connection(listener.getsockname()) as client:
        client.send(b'x')
print('ready', flush=True)
sys.stdin.read()
";
const AGENT: Pod = Pod {
    namespace: "closewait",
    name: "closewait-8k2lp",
    uid: "5d6c7b8a-1111-2222-3333-444455556666",
    container: "closewait",
    id: "b4a2d0e3f5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6",
};
/// Sockets that an agent without a limit of memory tracks.
const DEFAULT_MAX_TRACKED: u64 = 1_000_000;
/// Manifests to run, the bits of the capabilities (include/uapi/linux/capability.h, v6.18), and whether the agent sees sockets that
/// are older than it and that no program has accepted.
const VARIANTS: [(&str, &str, bool); 2] =
    [(kubernetes::BASE, "000000c000080004", false), ("overlays/enter-namespaces", "000000c000280004", true)];

/// Builds the static binary, and runs it in its image as a pod.
pub(crate) fn run(workspace: &Workspace, binary: Option<&Path>) -> Result<()> {
    let Some(binary) = binary else {
        root::install(workspace, "container")?;
        root::install(workspace, "kubernetes")?;
        Venv::Kubernetes.install(workspace)?;
        let binary = ["--binary".into(), dist::build(workspace, Arch::of_this_machine()?)?.binary.into()];
        let args: Vec<OsString> = env::args_os().skip(1).chain(binary).collect();
        return root::become_program(&exec::this()?, &args, "running containers");
    };
    exec::with_scratch("container", |dir| {
        let node = Node::new(dir)?;
        let checked = check(workspace, binary, dir, &node);
        runc::remove_cgroups(&node.cgroup_root);
        checked
    })
}

fn check(workspace: &Workspace, binary: &Path, dir: &Path, node: &Node) -> Result<()> {
    let bundle = unpack(workspace, binary, dir)?;
    let image =
        serde_json::from_str(&fs::read_to_string(bundle.join("config.json"))?).context("umoci wrote no JSON")?;
    for pod in [&PROGRAM, &DEAF, &AGENT] {
        node.add(pod)?;
    }
    let (port, sockets) = (DEAF_PORT.to_string(), SOCKETS.to_string());
    let command = ["/usr/bin/python3", "-c", DEAF_PROGRAM, &port, &sockets];
    // Older than all agents.
    let _deaf = start(node, &image, dir, &DEAF, &command)?;
    for (variant, capabilities, sees_older) in VARIANTS {
        println!("-- {variant}");
        let documents = kubernetes::render(workspace, &Venv::Kubernetes.programs(workspace), variant)?;
        let config = node.agent(&image, &documents, &AGENT)?;
        let mut agent = Container::start("closewait-xtask-agent", &bundle, &config)?;
        let checked = check_agent(&mut agent, &documents, capabilities)
            .and_then(|address| check_older(&mut agent, sees_older).map(|()| address))
            .and_then(|address| check_names(&mut agent, &image, dir, node, &address));
        if checked.is_err() {
            println!("{}{}", agent.log(), fs::read_to_string(&agent.output).unwrap_or_default());
        }
        checked?;
        let took = agent.end()?;
        println!("ended after SIGTERM in {:.1} s", took.as_secs_f64());
    }
    Ok(())
}

/// Starts the container of a program, and waits until it has its sockets.
fn start(node: &Node, image: &Value, dir: &Path, pod: &Pod, command: &[&str]) -> Result<Container> {
    let bundle = dir.join(pod.name);
    fs::create_dir_all(&bundle)?;
    let config = node.program(image, &bundle, pod, command)?;
    let mut program = Container::start(&format!("closewait-xtask-{}", pod.name), &bundle, &config)?;
    wait_for(&mut program, "the program", |program| {
        Ok(fs::read_to_string(&program.output)?.contains("ready").then_some(()))
    })?;
    Ok(program)
}

/// Builds the image and unpacks it with other programs: skopeo and umoci.
fn unpack(workspace: &Workspace, binary: &Path, dir: &Path) -> Result<PathBuf> {
    let release = Release::of(workspace)?;
    let (file, layout, bundle) = (dir.join(release.image_file_name()), dir.join("oci"), dir.join("agent"));
    let digest = image::build(workspace, &[(Arch::of_this_machine()?, binary.to_owned())], &release, &file)?;
    let mut skopeo = Command::new(exec::find("skopeo")?);
    skopeo.args(["copy", "--quiet"]).arg(format!("oci-archive:{}:{}", file.display(), release.image_name()));
    exec::quiet(skopeo.arg(format!("oci:{}:image", layout.display())))?;
    let mut umoci = Command::new(exec::find("umoci")?);
    exec::quiet(umoci.args(["unpack", "--image"]).arg(format!("{}:image", layout.display())).arg(&bundle))?;
    println!("unpacked the image {digest}, {} bytes", fs::metadata(&file)?.len());
    Ok(bundle)
}

/// Checks the agent alone, and returns its address.
fn check_agent(agent: &mut Container, documents: &[Value], capabilities: &str) -> Result<String> {
    let pod_address = format!("{POD_ADDRESS}/32");
    exec::quiet(agent.inside("ip")?.args(["address", "add", &pod_address, "dev", "lo"]))?;
    let set = kubernetes::of_kind(documents, "DaemonSet")?;
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let address = format!("{POD_ADDRESS}:{}", container["ports"][0]["containerPort"]);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().context("a probe without a path")?;
        wait_for(agent, probe, |agent| Ok((agent.get(&address, path)? == "ok\n").then_some(())))?;
    }
    println!("answered the probes at {address}");

    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let wanted = [("CapPrm:", capabilities), ("CapBnd:", capabilities), ("NoNewPrivs:", "1"), ("Seccomp:", "2")];
    for (name, wanted) in wanted {
        ensure!(field(name) == wanted, "{name} is {}, and not {wanted}", field(name));
    }
    println!("runs with the capabilities {capabilities}, no_new_privs and seccomp");

    let doctor = agent.exec(&["closewait", "doctor"])?;
    ensure!(doctor.contains("`closewait run` works here, with tp_btf."), "{doctor}");
    println!("doctor: `closewait run` works here");

    let start = fs::read_to_string(&agent.output)?;
    let start: Value =
        start.lines().next().and_then(|line| serde_json::from_str(line).ok()).context("no first event")?;
    ensure!(start["event"] == "start" && start["host"] == NAME, "the first event is {start}");
    let tracked = start["limits"]["max_tracked"].as_u64().context("no limit of tracked sockets")?;
    ensure!(
        tracked < DEFAULT_MAX_TRACKED,
        "the agent does not see its limit of memory: it tracks up to {tracked} sockets"
    );
    println!("started on {NAME}; tracks up to {tracked} sockets under its limit of memory");
    Ok(address)
}

/// Checks which sockets of the program that accepts nothing the agent lists.
fn check_older(agent: &mut Container, sees_older: bool) -> Result<()> {
    let expected = if sees_older { SOCKETS } else { 0 };
    // The scan at the start has ended: the agent answers only then.
    wait_for(agent, "older sockets", |agent| {
        let rows = list(agent, DEAF_PORT)?;
        let named = rows.iter().filter(|row| is_of(row, &DEAF) && row["socket"]["accepted"] == false).count();
        ensure!(named == expected && rows.len() == expected, "{named} of {} rows are right", rows.len());
        Ok(Some(()))
    })?;
    println!("listed {expected} of {SOCKETS} sockets that are older and not accepted");
    Ok(())
}

/// Checks the names of the pod of a program.
fn check_names(agent: &mut Container, image: &Value, dir: &Path, node: &Node, address: &str) -> Result<()> {
    let (port, sockets) = (PORT.to_string(), SOCKETS.to_string());
    let crowd = ["--number", "1", "--close-wait", &sockets, "--other", "0", "--ports", "1", "--first-port", &port];
    let _program = start(node, image, dir, &PROGRAM, &[&["/app/orders", "crowd"][..], &crowd].concat())?;
    wait_for(agent, "the names of the pod", |agent| {
        let rows = list(agent, PORT)?;
        let named = rows.iter().filter(|row| is_of(row, &PROGRAM) && row["owners"][0]["comm"] == "orders").count();
        ensure!(named == SOCKETS && rows.len() == SOCKETS, "{named} of {} rows have the names", rows.len());
        Ok(Some(()))
    })?;
    println!("listed {SOCKETS} sockets of orders in {}/{}/{}", PROGRAM.namespace, PROGRAM.name, PROGRAM.container);
    let expected = format!("{}/{}/{}", PROGRAM.namespace, PROGRAM.name, PROGRAM.container);
    let series =
        format!("closewait_stuck_sockets{{service=\"{expected}\",role=\"server\",port=\"{PORT}\"}} {SOCKETS}\n");
    wait_for(agent, "the metric of the stuck sockets", |agent| {
        Ok(agent.get(address, "/metrics")?.contains(&series).then_some(()))
    })?;
    println!("exported {}", series.trim_end());
    Ok(())
}

/// Returns the rows of `list` for a port, from the agent in the container.
fn list(agent: &Container, port: u16) -> Result<Vec<Value>> {
    let listed = agent.exec(&["closewait", "list", "--output", "json", "--port", &port.to_string()])?;
    let rows = listed.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    rows.context("`list` printed no JSON; this is a bug")
}

/// Whether a row names this pod and its container.
fn is_of(row: &Value, pod: &Pod) -> bool {
    let names = json!({ "container": pod.container, "name": pod.name, "namespace": pod.namespace, "uid": pod.uid });
    row["socket"]["pod"] == names && row["socket"]["container"] == pod.id
}

/// Asks until there is an answer.
fn wait_for<T>(
    container: &mut Container,
    what: &str,
    mut ask: impl FnMut(&Container) -> Result<Option<T>>,
) -> Result<T> {
    let deadline = exec::now() + LIMIT;
    loop {
        container.check()?;
        let answer = ask(container);
        if let Ok(Some(answer)) = answer {
            return Ok(answer);
        }
        if exec::now() > deadline {
            answer?;
            bail!("{what}: not within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(200));
    }
}
