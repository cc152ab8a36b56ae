//! Texts of `/proc`, mounts, cgroups and the folders of pods: any process can choose most of them.
#![no_main]

use closewait::host;
use closewait_engine::{
    text::{harmless, harmless_path, still_harmless},
    workload::Workload,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    host::fuzz(bytes);
    let path = harmless_path(bytes);
    let workload = Workload::parse(&path);
    assert_eq!(workload, Workload::parse(&workload.cgroup_path), "what was read is read the same again");
    let line = serde_json::to_string(&workload).expect("a workload can be recorded");
    assert_eq!(serde_json::from_str::<Workload>(&line).expect("and read again"), workload);
    let text = harmless(bytes);
    assert_eq!(still_harmless(text.clone()), text);
    assert!(!text.chars().any(char::is_control) && !workload.cgroup_path.chars().any(char::is_control));
});
