use super::*;

/// The writes of a `linux.resources` in JSON, as `file=value`.
fn plan(json: &str) -> Result<Vec<String>> {
    let resources = serde_json::from_str(json).unwrap();
    Ok(writes(&resources)?.iter().map(|w| format!("{}={}", w.file, w.value)).collect())
}

fn check(table: &[(&str, &[&str])]) {
    for (json, want) in table {
        assert_eq!(plan(json).unwrap(), *want, "{json}");
    }
}

#[test]
fn nothing_asked_writes_nothing() {
    check(&[
        ("{}", &[]),
        // What Docker sends without any limit.
        (
            r#"{"memory": {}, "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""}, "blockIO": {"weight": 0}}"#,
            &[],
        ),
        (
            r#"{"memory": {"limit": 0, "swap": 0, "reservation": 0, "disableOOMKiller": false}, "hugepageLimits": [], "unified": {}}"#,
            &[],
        ),
        (
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0}], "throttleReadBpsDevice": []}, "rdma": {"mlx5_0": {}}}"#,
            &[],
        ),
    ]);
}

#[test]
fn memory() {
    check(&[
        (r#"{"memory": {"limit": 1048576}}"#, &["memory.max=1048576"]),
        (r#"{"memory": {"limit": -1}}"#, &["memory.swap.max=max", "memory.max=max"]),
        (r#"{"memory": {"limit": 100, "swap": 300}}"#, &["memory.swap.max=200", "memory.max=100"]),
        (r#"{"memory": {"limit": 100, "swap": 100}}"#, &["memory.swap.max=0", "memory.max=100"]),
        (r#"{"memory": {"limit": 100, "swap": -1}}"#, &["memory.swap.max=max", "memory.max=100"]),
        (r#"{"memory": {"limit": -1, "swap": 50}}"#, &["memory.swap.max=50", "memory.max=max"]),
        (r#"{"memory": {"swap": -1}}"#, &["memory.swap.max=max"]),
        (r#"{"memory": {"reservation": 7}}"#, &["memory.low=7"]),
        (r#"{"memory": {"reservation": -1, "limit": 9}}"#, &["memory.max=9", "memory.low=max"]),
    ]);
}

#[test]
fn memory_refused() {
    for (json, field, words) in [
        (r#"{"memory": {"swap": 100}}"#, SWAP, "unable to set swap limit without memory limit"),
        (r#"{"memory": {"limit": 200, "swap": 100}}"#, SWAP, "should be >= memory limit"),
        (r#"{"memory": {"limit": -2}}"#, MEMORY, "invalid limit"),
        (r#"{"memory": {"reservation": -5}}"#, "linux.resources.memory.reservation", "invalid limit"),
    ] {
        let error = plan(json).unwrap_err();
        assert_eq!(error.origin.as_ref().unwrap().field, field);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn memory_in_use() {
    let resources = r#"{"memory": {"limit": 100, "swap": 300, "checkBeforeUpdate": true}}"#;
    let writes = writes(&serde_json::from_str(resources).unwrap()).unwrap();
    // runc compares memory+swap with what memory is in use as well.
    assert_eq!(writes.iter().map(|w| w.unless_used).collect::<Vec<_>>(), [Some(300), Some(100)]);
    let resources = r#"{"memory": {"limit": -1, "checkBeforeUpdate": true}}"#;
    let writes = super::writes(&serde_json::from_str(resources).unwrap()).unwrap();
    assert!(writes.iter().all(|w| w.unless_used.is_none()));
}

#[test]
fn swap_none_or_unlimited_needs_no_file() {
    for (json, want) in [
        (r#"{"memory": {"limit": 100, "swap": 100}}"#, Otherwise::Skip),
        (r#"{"memory": {"limit": 100, "swap": -1}}"#, Otherwise::Skip),
        (r#"{"memory": {"limit": 100, "swap": 101}}"#, Otherwise::Fail),
    ] {
        let writes = writes(&serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!(writes[0].otherwise, want);
    }
}

#[test]
fn cpu() {
    check(&[
        (r#"{"cpu": {"quota": 50000}}"#, &["cpu.max=50000 100000"]),
        (r#"{"cpu": {"quota": 50000, "period": 20000}}"#, &["cpu.max=50000 20000"]),
        (r#"{"cpu": {"period": 20000}}"#, &["cpu.max=max 20000"]),
        (r#"{"cpu": {"quota": -1}}"#, &["cpu.max=max 100000"]),
        (r#"{"cpu": {"quota": 50000, "burst": 10}}"#, &["cpu.max.burst=10", "cpu.max=50000 100000"]),
        (r#"{"cpu": {"burst": 0}}"#, &["cpu.max.burst=0"]),
        (r#"{"cpu": {"idle": 1, "shares": 1024}}"#, &["cpu.idle=1"]),
        (r#"{"cpu": {"idle": 0, "shares": 1024}}"#, &["cpu.idle=0", "cpu.weight=100"]),
        (r#"{"cpu": {"cpus": "0-1", "mems": "0"}}"#, &["cpuset.cpus=0-1", "cpuset.mems=0"]),
    ]);
}

#[test]
fn shares_to_weight() {
    for (shares, want) in [
        (0, None),
        (1, Some(1)),
        (2, Some(1)),
        (3, Some(2)),
        (512, Some(59)),
        (1024, Some(100)),
        (2048, Some(174)),
        (262_143, Some(10_000)),
        (262_144, Some(10_000)),
        (u64::MAX, Some(10_000)),
    ] {
        let want: Vec<_> = want.iter().map(|w| format!("cpu.weight={w}")).collect();
        assert_eq!(plan(&format!(r#"{{"cpu": {{"shares": {shares}}}}}"#)).unwrap(), want, "{shares}");
    }
    let weights: Vec<u64> = (2..262_144)
        .map(|shares| {
            let mut cpu = LinuxCpu::default();
            cpu.set_shares(Some(shares));
            weight(&cpu)
        })
        .collect();
    assert!(weights.is_sorted(), "more shares give no less weight");
    assert!(weights.iter().all(|w| (1..=10_000).contains(w)));
}

#[test]
fn pids() {
    check(&[
        (r#"{"pids": {"limit": 32}}"#, &["pids.max=32"]),
        (r#"{"pids": {"limit": 0}}"#, &["pids.max=1"]),
        (r#"{"pids": {"limit": -1}}"#, &["pids.max=max"]),
    ]);
}

#[test]
fn io() {
    check(&[
        (r#"{"blockIO": {"weight": 500}}"#, &["io.bfq.weight=500"]),
        (r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}"#, &["io.bfq.weight=8:0 10"]),
        (
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 2}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}}"#,
            &["io.max=8:0 rbps=1", "io.max=8:16 wbps=2", "io.max=8:0 riops=3", "io.max=8:0 wiops=max"],
        ),
    ]);
    for (weight, want) in [(10, "1"), (100, "910"), (500, "4950"), (1000, "10000")] {
        let json = format!(r#"{{"blockIO": {{"weight": {weight}}}}}"#);
        let writes = writes(&serde_json::from_str(&json).unwrap()).unwrap();
        assert_eq!(writes[0].otherwise, Otherwise::Use { file: "io.weight", value: want.into() });
    }
    for json in [
        r#"{"blockIO": {"weight": 9}}"#,
        r#"{"blockIO": {"weight": 1001}}"#,
        r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}"#,
    ] {
        assert!(plan(json).unwrap_err().origin.unwrap().field.starts_with("linux.resources.blockIO."));
    }
}

#[test]
fn hugetlb_and_rdma() {
    check(&[
        (r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}"#, &["hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0"]),
        (
            r#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 0}}}"#,
            &["rdma.max=mlx4_0 hca_object=0", "rdma.max=mlx5_1 hca_handle=3 hca_object=10000"],
        ),
    ]);
    for json in [
        r#"{"hugepageLimits": [{"pageSize": "../x", "limit": 0}]}"#,
        r#"{"hugepageLimits": [{"pageSize": "", "limit": 0}]}"#,
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}"#,
        r#"{"rdma": {"a b": {"hcaHandles": 3}}}"#,
    ] {
        assert!(plan(json).is_err(), "{json}");
    }
}

#[test]
fn unified_is_last_and_as_it_is() {
    check(&[(
        r#"{"unified": {"memory.oom.group": "1", "memory.high": "max", "cgroup.max.depth": "3"}, "memory": {"limit": 5}}"#,
        &["memory.max=5", "cgroup.max.depth=3", "memory.high=max", "memory.oom.group=1"],
    )]);
    for name in ["a/b.c", "../cgroup.procs", "..", ".x", "memory", ""] {
        let error = plan(&format!(r#"{{"unified": {{"{name}": "1"}}}}"#)).unwrap_err();
        assert!(error.to_string().starts_with("linux.resources.unified["), "{error}");
    }
}

#[test]
fn whole_order() {
    let all = r#"{"unified": {"cpu.weight": "5"}, "rdma": {"m": {"hcaHandles": 1}}, "cpu": {"shares": 1024, "cpus": "0"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "blockIO": {"weight": 100}, "memory": {"limit": 1}, "pids": {"limit": 1}}"#;
    let writes = writes(&serde_json::from_str(all).unwrap()).unwrap();
    let controllers: Vec<_> = writes.iter().map(|w| &*w.controller).collect();
    assert_eq!(controllers, ["pids", "memory", "io", "cpu", "cpuset", "hugetlb", "hugetlb", "rdma", "cpu"]);
    let fields: Vec<_> = writes.iter().map(|w| w.origin.to_string()).collect();
    assert_eq!(fields[0], "linux.resources.pids.limit");
    assert_eq!(fields[5], "linux.resources.hugepageLimits[0]");
    assert_eq!(fields[8], "linux.resources.unified[cpu.weight]");
}

#[test]
fn ignored_on_v2() {
    let ignored = |json: &str| {
        let fields = ignored(&serde_json::from_str(json).unwrap()).into_iter();
        fields.map(|e| e.origin.unwrap().field["linux.resources.".len()..].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ignored("{}"), [""; 0]);
    assert_eq!(ignored(r#"{"memory": {"disableOOMKiller": false, "useHierarchy": true, "kernel": 0}}"#), [""; 0]);
    assert_eq!(
        ignored(
            r#"{"memory": {"kernel": 1, "kernelTCP": 1, "swappiness": 0, "disableOOMKiller": true, "useHierarchy": false},
            "cpu": {"realtimeRuntime": 1, "realtimePeriod": 1, "idle": 1, "shares": 2},
            "blockIO": {"leafWeight": 10, "weightDevice": [{"major": 1, "minor": 1, "leafWeight": 10}]},
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]}}"#
        ),
        [
            "memory.kernel",
            "memory.kernelTCP",
            "memory.swappiness",
            "memory.disableOOMKiller",
            "memory.useHierarchy",
            "cpu.realtimeRuntime",
            "cpu.realtimePeriod",
            "cpu.shares",
            "blockIO.leafWeight",
            "blockIO.weightDevice",
            "network.classID",
            "network.priorities",
        ]
    );
}
