//! What runs in a cgroup.
use serde::{Deserialize, Serialize};
/// What runs in a cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Path.
    pub cgroup_path: String,
    /// Unit of systemd.
    pub unit: Option<String>,
    /// Container.
    pub container: Option<Container>,
    /// Pod.
    pub pod: Option<Pod>,
}
/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: String,
}
/// A pod of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Which of its containers.
    pub container_name: Option<String>,
}
