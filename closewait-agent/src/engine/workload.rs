//! What runs in a cgroup.
use serde::{Deserialize, Serialize};
/// What runs in a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Path.
    pub cgroup_path: String,
}
