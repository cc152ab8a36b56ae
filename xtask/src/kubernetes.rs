//! `cargo xtask kubernetes`: the manifests of contrib/kubernetes, rendered by kubectl and compared with the schemas of Kubernetes.

use crate::prelude::*;
use crate::{root, venv::Venv, yaml};

/// Folder of the manifests.
const MANIFESTS: &str = "contrib/kubernetes";
/// The manifests that need nothing else, and the variants of them.
pub(crate) const BASE: &str = "base";
const OVERLAYS: &str = "overlays";
/// Versions of Kubernetes: from the first with the field `appArmorProfile` to the newest with a schema.
const VERSIONS: [&str; 8] = ["1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"];
/// Kind that belongs to the Prometheus Operator and has no schema in Kubernetes.
const FOREIGN: &str = "PodMonitor";
/// The capabilities of the agent, as Kubernetes writes them.
const CAPABILITIES: [&str; 4] = ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"];
/// Label by which everything finds the agents.
const NAME_LABEL: &str = "app.kubernetes.io/name";

/// Installs kubectl and the schemas, and checks the manifests and all variants.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    root::install(workspace, "kubernetes")?;
    let programs = Venv::Kubernetes.install(workspace)?;
    let mut variants = vec![BASE.to_owned()];
    for overlay in fs::read_dir(workspace.root.join(MANIFESTS).join(OVERLAYS))? {
        let name = overlay?.file_name().into_string().ok().context("an overlay's name is no text")?;
        variants.push(format!("{OVERLAYS}/{name}"));
    }
    variants.sort_unstable();
    exec::with_scratch("kubernetes", |dir| {
        let mut documents = Vec::new();
        for variant in &variants {
            let rendered = render(workspace, &programs, variant)?;
            check(variant, &rendered).with_context(|| format!("{MANIFESTS}/{variant}"))?;
            documents.extend(rendered);
        }
        let of_kubernetes: Vec<_> = documents.iter().filter(|document| document["kind"] != FOREIGN).collect();
        let file = dir.join("rendered.json");
        // JSON is YAML, too.
        write_all(&file, &of_kubernetes)?;
        for version in VERSIONS {
            validate(&programs, version, &file)?;
            println!("Kubernetes {version}: {} documents of {} variants", of_kubernetes.len(), variants.len());
        }
        // Otherwise a validator that checks nothing would pass.
        let mut broken =
            documents.iter().find(|document| document["kind"] == "DaemonSet").context("no DaemonSet")?.clone();
        broken["spec"]["template"]["spec"]["hostPid"] = true.into();
        write_all(&file, &[&broken])?;
        ensure!(validate(&programs, VERSIONS[0], &file).is_err(), "the validator accepts the unknown field `hostPid`");
        Ok(())
    })
}

/// Returns the documents of a variant.
pub(crate) fn render(workspace: &Workspace, programs: &Path, variant: &str) -> Result<Vec<Value>> {
    let folder = workspace.root.join(MANIFESTS).join(variant);
    let rendered = exec::quiet(Command::new(programs.join("kubectl")).arg("kustomize").arg(&folder))?;
    yaml::documents(&rendered).with_context(|| format!("kubectl rendered no YAML from {}", folder.display()))
}

/// Returns the first document of a kind.
pub(crate) fn of_kind<'d>(documents: &'d [Value], kind: &str) -> Result<&'d Value> {
    documents.iter().find(|document| document["kind"] == kind).with_context(|| format!("there is no {kind}"))
}

fn write_all(file: &Path, documents: &[&Value]) -> Result<()> {
    let texts: Vec<_> = documents.iter().map(ToString::to_string).collect();
    Ok(fs::write(file, texts.join("\n---\n"))?)
}

fn validate(programs: &Path, version: &str, file: &Path) -> Result<()> {
    let mut validator = Command::new(programs.join("kubernetes-validate"));
    exec::quiet(validator.args(["--strict", "--kubernetes-version", version]).arg(file))?;
    Ok(())
}

/// Checks what no schema says.
fn check(variant: &str, documents: &[Value]) -> Result<()> {
    let set = of_kind(documents, "DaemonSet")?;
    let (pod, labels) = (&set["spec"]["template"]["spec"], &set["spec"]["template"]["metadata"]["labels"]);
    let agent = &pod["containers"][0];
    let image = format!("closewait:{}", env!("CARGO_PKG_VERSION"));
    ensure!(agent["image"] == image.as_str(), "the image is {}, and not {image}", agent["image"]);
    let mut capabilities = CAPABILITIES.to_vec();
    if variant.ends_with("enter-namespaces") {
        capabilities.push("SYS_ADMIN");
    }
    let security = &agent["securityContext"];
    ensure!(
        security["capabilities"] == serde_json::json!({ "add": capabilities, "drop": ["ALL"] }),
        "the capabilities are {}",
        security["capabilities"]
    );
    for document in documents {
        let selector = match document["kind"].as_str() {
            Some("DaemonSet" | "PodMonitor") => &document["spec"]["selector"],
            Some("NetworkPolicy") => &document["spec"]["podSelector"],
            Some("ConfigMap" | "Namespace" | "ServiceAccount") => continue,
            other => bail!("nothing checks a document of the kind {other:?}"),
        };
        let wanted = &selector["matchLabels"];
        ensure!(
            wanted[NAME_LABEL] == labels[NAME_LABEL] && wanted.as_object().is_some_and(|wanted| wanted.len() == 1),
            "the {} selects {selector}, and the pods have {labels}",
            document["kind"]
        );
    }
    if let Ok(monitor) = of_kind(documents, FOREIGN) {
        let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
        ensure!(
            endpoint["port"] == agent["ports"][0]["name"] && endpoint["path"] == "/metrics",
            "the {FOREIGN} scrapes {endpoint}"
        );
    }
    Ok(())
}
