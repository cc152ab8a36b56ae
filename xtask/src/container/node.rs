//! What a node has: folders of logs as the kubelet and containerd lay them out, and the configurations of its containers.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;

use super::{runc::bind, seccomp};
use crate::{kubernetes, prelude::*};

/// Name of the node.
pub(super) const NAME: &str = "node-1.example";

/// Shorter than the default, so that the task need not wait for it: the only setting that the manifests do not have.
const STUCK_AFTER: &str = "2s";

/// Pod with one container that counts here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod {
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
    pub(super) uid: &'static str,
    pub(super) container: &'static str,
    /// Id of the container, 64 digits.
    pub(super) id: &'static str,
}

/// Folders of a node.
pub(super) struct Node {
    logs: PathBuf,
    volumes: PathBuf,
    /// Cgroup of the kubelet (`--cgroup-root`), so that nothing on this machine has the same.
    pub(super) cgroup_root: String,
}

impl Node {
    /// Makes the folders in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let (logs, volumes) = (dir.join("log"), dir.join("volumes"));
        for folder in [&logs, &volumes] {
            fs::create_dir(folder)?;
        }
        let cgroup_root = format!("/closewait-xtask-{}", std::process::id());
        Ok(Self { logs, volumes, cgroup_root })
    }

    /// Lays out the logs of a pod, with another container and an init container beside the one that counts.
    pub(super) fn add(&self, pod: &Pod) -> Result<()> {
        let Pod { namespace, name, uid, container, id } = pod;
        let others = [("init-db", format!("0{}", &id[1..])), ("sidecar", format!("1{}", &id[1..]))];
        let mut containers = vec![(*container, (*id).to_owned())];
        containers.extend(others);
        fs::create_dir_all(self.logs.join("containers"))?;
        for (container, id) in containers {
            let log = format!("pods/{namespace}_{name}_{uid}/{container}/0.log");
            let path = self.logs.join(&log);
            fs::create_dir_all(path.parent().context("a path without a folder")?)?;
            fs::write(&path, "")?;
            let link = self.logs.join(format!("containers/{name}_{namespace}_{container}-{id}.log"));
            symlink(format!("/var/log/{log}"), link).context("making a link to a log failed")?;
        }
        Ok(())
    }

    /// Cgroup of the pod's container, as the driver `cgroupfs` names it.
    fn cgroup(&self, pod: &Pod) -> String {
        format!("{}/kubepods/burstable/pod{}/{}", self.cgroup_root, pod.uid, pod.id)
    }

    /// Makes the configuration of the agent's container from that of its image and from the manifests, as the kubelet and
    /// containerd do.
    pub(super) fn agent(&self, image: &Value, documents: &[Value], pod: &Pod) -> Result<Value> {
        let set = kubernetes::of_kind(documents, "DaemonSet")?;
        let spec = &set["spec"]["template"]["spec"];
        let agent = &spec["containers"][0];
        ensure!(
            spec["hostPID"] == true && spec["hostNetwork"] == false,
            "another choice of namespaces than this task makes"
        );
        ensure!(
            agent["securityContext"]["readOnlyRootFilesystem"] == true
                && agent["securityContext"]["allowPrivilegeEscalation"] == false
                && agent["securityContext"]["privileged"] == false,
            "another security context than this task makes"
        );
        let add = agent["securityContext"]["capabilities"]["add"].as_array().context("no capabilities are added")?;
        let capabilities: Vec<String> = add.iter().filter_map(|name| Some(format!("CAP_{}", name.as_str()?))).collect();
        let mut config = self.common(image, pod);
        let process = &mut config["process"];
        let entrypoint = process["args"][0].clone();
        let args = agent["args"].as_array().context("no arguments")?;
        process["args"] = [&[entrypoint][..], args].concat().into();
        for variable in agent["env"].as_array().into_iter().flatten() {
            ensure!(variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName", "another variable: {variable}");
            let text = format!("{}={NAME}", variable["name"].as_str().context("a variable without a name")?);
            process["env"].as_array_mut().context("no environment")?.push(text.into());
        }
        let environment = process["env"].as_array_mut().context("no environment")?;
        environment.push(format!("CLOSEWAIT_STUCK_AFTER={STUCK_AFTER}").into());
        // Neither inheritable nor ambient: user 0 gets the permitted ones as they are.
        process["capabilities"] =
            json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities });
        process["noNewPrivileges"] = true.into();
        match spec["securityContext"]["seccompProfile"]["type"].as_str() {
            Some("RuntimeDefault") => config["linux"]["seccomp"] = seccomp::runtime_default(&capabilities)?,
            other => bail!("another seccomp profile than this task makes: {other:?}"),
        }
        let memory = agent["resources"]["limits"]["memory"].as_str().and_then(|limit| limit.strip_suffix("Mi"));
        let memory: u64 = memory.context("no limit of memory in Mi")?.parse().context("the limit is no number")?;
        config["linux"]["resources"]["memory"] = json!({ "limit": memory << 20 });
        let mounts = config["mounts"].as_array_mut().context("no mounts")?;
        for mount in agent["volumeMounts"].as_array().into_iter().flatten() {
            let target = mount["mountPath"].as_str().context("a mount without a path")?;
            mounts.retain(|of_image| of_image["destination"] != target);
            mounts.push(self.mount(documents, spec, mount, target)?);
        }
        Ok(config)
    }

    /// Makes a volume as the kubelet does, and returns its mount.
    fn mount(&self, documents: &[Value], spec: &Value, mount: &Value, target: &str) -> Result<Value> {
        let is_read_only = mount["readOnly"] == true;
        let volumes = spec["volumes"].as_array().context("no volumes")?;
        let volume =
            volumes.iter().find(|volume| volume["name"] == mount["name"]).context("a mount without a volume")?;
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            let source = match path.strip_prefix("/var/log/") {
                Some(folder) => self.logs.join(folder),
                None => path.into(),
            };
            return Ok(bind(&source, target, is_read_only));
        }
        if volume["emptyDir"]["medium"] == "Memory" {
            // Any user may write to it.
            let options = ["nosuid", "nodev", "mode=0777", "size=1m"];
            return Ok(json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options }));
        }
        ensure!(volume["configMap"].is_object(), "another volume than this task makes: {volume}");
        let data = &kubernetes::of_kind(documents, "ConfigMap")?["data"];
        // The folder of the volume is writable for everybody; a file is a link to the current version.
        let folder = self.volumes.join("config");
        exec::remove_dir(&folder)?;
        fs::create_dir_all(folder.join("..2026_01_01"))?;
        fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
        symlink("..2026_01_01", folder.join("..data")).context("making a link failed")?;
        for (name, text) in data.as_object().context("an empty ConfigMap")? {
            fs::write(folder.join("..2026_01_01").join(name), text.as_str().context("a file that is no text")?)?;
            symlink(Path::new("..data").join(name), folder.join(name)).context("making a link failed")?;
        }
        let file = mount["subPath"].as_str().map_or_else(|| folder.clone(), |file| folder.join(file));
        Ok(bind(&fs::canonicalize(file)?, target, is_read_only))
    }

    /// Makes the configuration of the container of a program, which sees programs and libraries of this machine.
    pub(super) fn program(&self, image: &Value, bundle: &Path, pod: &Pod, command: &[&str]) -> Result<Value> {
        let mut config = self.common(image, pod);
        fs::create_dir_all(bundle.join("rootfs"))?;
        config["process"]["args"] = command.into();
        config["process"]["capabilities"] = json!({});
        let namespaces = config["linux"]["namespaces"].as_array_mut().context("no namespaces")?;
        namespaces.push(json!({ "type": "pid" }));
        let mounts = config["mounts"].as_array_mut().context("no mounts")?;
        for folder in ["/usr", "/lib", "/lib64"] {
            if Path::new(folder).exists() {
                mounts.push(bind(&fs::canonicalize(folder)?, folder, true));
            }
        }
        mounts.push(bind(&exec::this()?, "/app/orders", true));
        Ok(config)
    }

    /// What all containers of pods have.
    fn common(&self, image: &Value, pod: &Pod) -> Value {
        let mut config = image.clone();
        config["process"]["terminal"] = false.into();
        config["hostname"] = pod.name.into();
        config["root"]["readonly"] = true.into();
        let namespaces = ["mount", "uts", "ipc", "network", "cgroup"].map(|kind| json!({ "type": kind }));
        config["linux"]["namespaces"] = namespaces.to_vec().into();
        config["linux"]["cgroupsPath"] = self.cgroup(pod).into();
        config
    }
}
