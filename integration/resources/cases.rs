//! The table of the resources: field × value → what is in which file.

use serde_json::{Value, json};

use crate::machine::Runtime::{Crun, Runc};
use crate::machine::{Driver, Runtime, disk, has};

pub struct Case {
    pub name: &'static str,
    pub resources: Value,
    /// The files that differ from those of a container without limits, `file=value, …`; or `refused: ` and words of the
    /// error.
    pub want: String,
    /// The same by the systemd driver, where it is not the same.
    pub want_systemd: Option<&'static str>,
}

/// A difference that is meant to be.
pub struct Justified {
    pub case: &'static str,
    pub with: Runtime,
    pub drivers: &'static [Driver],
    pub theirs: &'static str,
    pub why: &'static str,
}

const M: i64 = 1 << 20;

const BOTH: &[Driver] = &[Driver::Fs, Driver::Systemd];
const SYSTEMD: &[Driver] = &[Driver::Systemd];

const fn other(
    case: &'static str,
    with: Runtime,
    drivers: &'static [Driver],
    theirs: &'static str,
    why: &'static str,
) -> Justified {
    Justified { case, with, drivers, theirs, why }
}

const ZERO: &str = "zero and empty are absent, as in runc: engines send them";
const OLD: &str = "what cgroup v2 does not have is logged, as in runc";
const PIDS: &str = "runtime-spec 1.3: 0 is a limit; runc writes 1 since 1.4";
const TASKS: &str = "systemd's default (TasksMax) holds for who asks for nothing, as in runc; crun takes it away";
const RATE: &str = "on cgroup v1 a rate of 0 took the limit away; io.max refuses it";

pub const JUSTIFIED: &[Justified] = &[
    other("nothing", Crun, SYSTEMD, "pids.max=max", TASKS),
    other("empty sections", Crun, BOTH, "refused", ZERO),
    other("memory.limit 0", Crun, BOTH, "refused", ZERO),
    other("memory.limit -2", Crun, BOTH, "", "it is a mistake, as in runc; crun takes it for -1"),
    other("memory.swap 0", Crun, BOTH, "memory.max=67108864, memory.swap.max=0", ZERO),
    other("memory of cgroup v1", Crun, BOTH, "refused", OLD),
    other("cpu.period max", Crun, BOTH, "", "the kernel refuses it, and we say so, as runc does"),
    other(
        "cpu.quota 33333",
        Runc,
        SYSTEMD,
        "cpu.max=34000 100000",
        "systemd knows no finer quota than 10 ms; the file does",
    ),
    other(
        "cpu.quota 999",
        Runc,
        SYSTEMD,
        "cpu.max=1000 100000",
        "systemd rounds it up to what the kernel takes; we say what is wrong",
    ),
    other(
        "cpu.idle 1 and shares",
        Runc,
        BOTH,
        "refused",
        "an idle cgroup has no weight, so it is logged, as in runc 1.4",
    ),
    other("cpu.cpus empty", Crun, BOTH, "refused", ZERO),
    other("pids.limit 0", Runc, BOTH, "", PIDS),
    other("pids.limit 0", Crun, BOTH, "", PIDS),
    other("blockIO.weight 0", Crun, SYSTEMD, "refused", ZERO),
    other(
        "blockIO.weightDevice",
        Runc,
        BOTH,
        "",
        "a limit that cannot be set is an error; runc forgets it without BFQ",
    ),
    other("blockIO.leafWeight", Crun, BOTH, "refused", OLD),
    other("throttleReadBps 0", Runc, BOTH, "refused", RATE),
    other("throttleReadBps 0", Crun, BOTH, "refused", RATE),
];

pub fn cases() -> Vec<Case> {
    let mut list: Vec<Case> = Vec::new();
    let mut add =
        |name, resources, want: &str| list.push(Case { name, resources, want: want.into(), want_systemd: None });
    let cpuset = if has("cpuset") { None } else { Some("refused: cpuset") };
    let hugetlb = if has("hugetlb") { None } else { Some("refused: hugetlb") };

    add("nothing", json!({}), "");
    add(
        "empty sections",
        json!({"memory": {}, "cpu": {}, "blockIO": {}, "network": {}, "hugepageLimits": [], "unified": {}}),
        "",
    );

    add("memory.limit 0", json!({"memory": {"limit": 0}}), "");
    add("memory.limit -1", json!({"memory": {"limit": -1}}), "");
    add("memory.limit -2", json!({"memory": {"limit": -2}}), "refused: memory.limit");
    add("memory.limit 64M", json!({"memory": {"limit": 64 * M}}), "memory.max=67108864");
    add("memory.limit max", json!({"memory": {"limit": i64::MAX}}), "");
    add("memory.swap 0", json!({"memory": {"limit": 64 * M, "swap": 0}}), "memory.max=67108864");
    add("memory.swap -1", json!({"memory": {"limit": 64 * M, "swap": -1}}), "memory.max=67108864");
    add(
        "memory.swap 96M",
        json!({"memory": {"limit": 64 * M, "swap": 96 * M}}),
        "memory.max=67108864, memory.swap.max=33554432",
    );
    add(
        "memory.swap = limit",
        json!({"memory": {"limit": 64 * M, "swap": 64 * M}}),
        "memory.max=67108864, memory.swap.max=0",
    );
    add("memory.swap < limit", json!({"memory": {"limit": 64 * M, "swap": 32 * M}}), "refused: memory.swap");
    add(
        "memory.swap max",
        json!({"memory": {"limit": 64 * M, "swap": i64::MAX}}),
        "memory.max=67108864, memory.swap.max=9223372036787662848",
    );
    add("memory.swap alone", json!({"memory": {"swap": 64 * M}}), "refused: memory.swap");
    add("memory.swap alone -1", json!({"memory": {"swap": -1}}), "");
    add("memory.limit -1 swap 64M", json!({"memory": {"limit": -1, "swap": 64 * M}}), "memory.swap.max=67108864");
    add("memory.reservation 0", json!({"memory": {"reservation": 0}}), "");
    add("memory.reservation -1", json!({"memory": {"reservation": -1}}), "memory.low=max");
    add("memory.reservation 32M", json!({"memory": {"reservation": 32 * M}}), "memory.low=33554432");
    add("memory.reservation max", json!({"memory": {"reservation": i64::MAX}}), "memory.low=max");
    add(
        "memory.checkBeforeUpdate",
        json!({"memory": {"limit": 64 * M, "checkBeforeUpdate": true}}),
        "memory.max=67108864",
    );
    // The process may use more before we look, or be killed for it after.
    add(
        "memory.checkBeforeUpdate too low",
        json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}),
        "refused: rejecting memory limit | memory limit is too low to start the container",
    );
    add(
        "memory of cgroup v1",
        json!({"memory": {"swappiness": 60, "disableOOMKiller": true, "kernel": 64 * M, "kernelTCP": 64 * M, "useHierarchy": false}}),
        "",
    );

    add("cpu.shares 0", json!({"cpu": {"shares": 0}}), "");
    add("cpu.shares 1", json!({"cpu": {"shares": 1}}), "cpu.weight=1");
    add("cpu.shares 2", json!({"cpu": {"shares": 2}}), "cpu.weight=1");
    add("cpu.shares 512", json!({"cpu": {"shares": 512}}), "cpu.weight=59");
    add("cpu.shares 1024", json!({"cpu": {"shares": 1024}}), "");
    add("cpu.shares 262144", json!({"cpu": {"shares": 262144}}), "cpu.weight=10000");
    add("cpu.shares max", json!({"cpu": {"shares": u64::MAX}}), "cpu.weight=10000");
    add("cpu.quota 0", json!({"cpu": {"quota": 0}}), "");
    add("cpu.quota -1", json!({"cpu": {"quota": -1}}), "");
    add("cpu.quota 50000", json!({"cpu": {"quota": 50000}}), "cpu.max=50000 100000");
    add("cpu.quota 33333", json!({"cpu": {"quota": 33333}}), "cpu.max=33333 100000");
    add("cpu.quota 1000", json!({"cpu": {"quota": 1000}}), "cpu.max=1000 100000");
    add("cpu.quota 999", json!({"cpu": {"quota": 999}}), "refused: cpu.quota");
    add("cpu.quota max", json!({"cpu": {"quota": i64::MAX}}), "refused: cpu.quota");
    add("cpu.period 0", json!({"cpu": {"period": 0}}), "");
    add("cpu.period 50000", json!({"cpu": {"period": 50000}}), "cpu.max=max 50000");
    add("cpu.period 999", json!({"cpu": {"period": 999}}), "refused: cpu.period");
    add("cpu.period max", json!({"cpu": {"period": u64::MAX}}), "refused: cpu.period");
    add("cpu.quota and period", json!({"cpu": {"quota": 20000, "period": 50000}}), "cpu.max=20000 50000");
    add("cpu.quota -1 and period", json!({"cpu": {"quota": -1, "period": 50000}}), "cpu.max=max 50000");
    add("cpu.burst 0", json!({"cpu": {"quota": 50000, "burst": 0}}), "cpu.max=50000 100000");
    add(
        "cpu.burst 20000",
        json!({"cpu": {"quota": 50000, "burst": 20000}}),
        "cpu.max=50000 100000, cpu.max.burst=20000",
    );
    add("cpu.burst > quota", json!({"cpu": {"quota": 50000, "burst": 60000}}), "refused: cpu.quota");
    add("cpu.burst alone", json!({"cpu": {"burst": 20000}}), "cpu.max.burst=20000");
    add("cpu.burst max", json!({"cpu": {"quota": 50000, "burst": u64::MAX}}), "refused: cpu.burst");
    add("cpu.idle 0", json!({"cpu": {"idle": 0}}), "");
    add("cpu.idle 1", json!({"cpu": {"idle": 1}}), "cpu.idle=1, cpu.weight=1");
    add("cpu.idle 2", json!({"cpu": {"idle": 2}}), "refused: cpu.idle");
    add("cpu.idle 1 and shares", json!({"cpu": {"idle": 1, "shares": 512}}), "cpu.idle=1, cpu.weight=1");
    add("cpu real-time", json!({"cpu": {"realtimeRuntime": 0, "realtimePeriod": 0}}), "");
    add("cpu.cpus empty", json!({"cpu": {"cpus": "", "mems": ""}}), "");
    add("cpu.cpus 0", json!({"cpu": {"cpus": "0"}}), cpuset.unwrap_or("cpuset.cpus=0"));
    add("cpu.cpus 99", json!({"cpu": {"cpus": "9999999"}}), cpuset.unwrap_or("refused: cpu.cpus"));
    add("cpu.mems 0", json!({"cpu": {"mems": "0"}}), cpuset.unwrap_or("cpuset.mems=0"));

    add("pids.limit 0", json!({"pids": {"limit": 0}}), "pids.max=1");
    add("pids.limit -1", json!({"pids": {"limit": -1}}), "");
    add("pids.limit 17", json!({"pids": {"limit": 17}}), "pids.max=17");
    add("pids.limit max", json!({"pids": {"limit": i64::MAX}}), "refused: pids.limit");

    let (_, node) = disk();
    let (major, minor) =
        node.split_once(':').map(|(a, b)| (a.parse::<u32>().unwrap(), b.parse::<u32>().unwrap())).unwrap();
    let device = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let throttled = |limits: &str| format!("io.max={node} {limits}");
    add("blockIO.weight 0", json!({"blockIO": {"weight": 0}}), "");
    add("blockIO.weight 500", json!({"blockIO": {"weight": 500}}), "refused: blockIO.weight");
    add("blockIO.weight 5", json!({"blockIO": {"weight": 5}}), "refused: blockIO.weight");
    add(
        "blockIO.weightDevice",
        json!({"blockIO": {"weightDevice": [{"major": major, "minor": minor, "weight": 500}]}}),
        "refused: blockIO.weightDevice[0]",
    );
    add("blockIO.leafWeight", json!({"blockIO": {"leafWeight": 500}}), "");
    add("throttleReadBps 0", json!({"blockIO": {"throttleReadBpsDevice": device(0)}}), "");
    add(
        "throttleReadBps 1M",
        json!({"blockIO": {"throttleReadBpsDevice": device(1 << 20)}}),
        &throttled("rbps=1048576 wbps=max riops=max wiops=max"),
    );
    add("throttleReadBps max", json!({"blockIO": {"throttleReadBpsDevice": device(u64::MAX)}}), "");
    add(
        "all four throttles",
        json!({"blockIO": {"throttleReadBpsDevice": device(1 << 20), "throttleWriteBpsDevice": device(1 << 21),
            "throttleReadIOPSDevice": device(30), "throttleWriteIOPSDevice": device(40)}}),
        &throttled("rbps=1048576 wbps=2097152 riops=30 wiops=40"),
    );
    add(
        "no such disk",
        json!({"blockIO": {"throttleReadBpsDevice": [{"major": 250, "minor": 77, "rate": 1}]}}),
        "refused: throttleReadBpsDevice[0]",
    );

    let huge = |limit: u64| json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]});
    let all = "hugetlb.2MB.max=0, hugetlb.2MB.rsvd.max=0";
    add("hugepageLimits 0", huge(0), hugetlb.unwrap_or(all));
    add("hugepageLimits 4M", huge(4 << 20), hugetlb.unwrap_or("hugetlb.2MB.max=4194304, hugetlb.2MB.rsvd.max=4194304"));
    add("hugepageLimits max", huge(u64::MAX), hugetlb.unwrap_or(""));
    add(
        "hugepageLimits size",
        json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 4096}]}),
        "refused: hugepageLimits[0]",
    );

    add("unified memory.high", json!({"unified": {"memory.high": "33554432"}}), "memory.high=33554432");
    add("unified memory.oom.group", json!({"unified": {"memory.oom.group": "1"}}), "memory.oom.group=1");
    add("unified memory.swap.max", json!({"unified": {"memory.swap.max": "0"}}), "memory.swap.max=0");
    add("unified memory.min", json!({"unified": {"memory.min": "1048576"}}), "memory.min=1048576");
    add("unified cpu.weight", json!({"unified": {"cpu.weight": "777"}}), "cpu.weight=777");
    add("unified cpu.max", json!({"unified": {"cpu.max": "30000 60000"}}), "cpu.max=30000 60000");
    add("unified has the last word", json!({"pids": {"limit": 17}, "unified": {"pids.max": "23"}}), "pids.max=23");
    add("unified pids.max max", json!({"pids": {"limit": 17}, "unified": {"pids.max": "max"}}), "");
    add(
        "unified io.max",
        json!({"unified": {"io.max": format!("{node} riops=50")}}),
        &throttled("rbps=max wbps=max riops=50 wiops=max"),
    );
    add(
        "unified, two devices' lines",
        json!({"unified": {"io.max": format!("{node} riops=50\n{node} wiops=60")}}),
        &throttled("rbps=max wbps=max riops=50 wiops=60"),
    );
    add("unified bad value", json!({"unified": {"memory.high": "lots"}}), "refused: unified[memory.high]");
    add("unified no such file", json!({"unified": {"memory.nothing": "1"}}), "refused: unified[memory.nothing]");
    add("unified no such controller", json!({"unified": {"nothing.max": "1"}}), "refused: nothing");
    add("unified slash", json!({"unified": {"a/b.c": "1"}}), "refused: unified");
    for (name, want) in [
        // More than the default that systemd gives a unit.
        ("pids.limit -1", "pids.max=max"),
        ("unified pids.max max", "pids.max=max"),
        // systemd sets the quota first.
        ("cpu.burst > quota", "refused: cpu.burst"),
    ] {
        list.iter_mut().filter(|case| case.name == name).for_each(|case| case.want_systemd = Some(want));
    }
    list
}
