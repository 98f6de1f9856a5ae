//! Limits, in the container's cgroup before its program runs. Only such as need no controller, which the host may not have.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs;

use bed::{Bed, cgroup_of};
use serde_json::json;

#[test]
fn limits_are_set_when_create_ends() {
    let mut bed = Bed::new("limits");
    let id = bed.id();
    bed.config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
    bed.config["linux"]["resources"]["unified"] = json!({"cgroup.max.descendants": "3", "cgroup.max.depth": "2"});
    let created = bed.tare(&["create", &id]);
    assert!(created.status.success(), "{created:?}");
    let value = |name: &str| fs::read_to_string(cgroup_of(&id).join(name)).unwrap();
    assert_eq!((value("cgroup.max.descendants").trim(), value("cgroup.max.depth").trim()), ("3", "2"));
    assert!(bed.tare(&["delete", "--force", &id]).status.success());
}

#[test]
fn a_limit_that_cannot_be_set_is_an_error_that_names_it() {
    let mut bed = Bed::new("limits-refused");
    bed.config["linux"]["resources"]["unified"] = json!({"cgroup.max.depth": "much"});
    for (code, _, stderr) in bed.run() {
        assert_eq!(code, 1);
        assert!(stderr.contains("linux.resources.unified") && stderr.contains("cgroup.max.depth"), "{stderr}");
    }
    assert!(!cgroup_of(&bed.id()).exists(), "the cgroup is left");
}
