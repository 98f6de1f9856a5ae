//! What `linux.resources` asks for, as values for files of the container's cgroup. Pure: nothing is read or written here.
//!
//! The order is runc's: pids, memory, io, cpu, cpuset, hugetlb, rdma, and `unified` last, so that it has the last word.
//! An absent, empty or zero field writes nothing (Docker always sends the sections, often empty), except where zero is a
//! limit of its own: `pids.limit` (runtime-spec 1.3), `hugepageLimits[].limit`, and `cpu.burst` and `cpu.idle`.

use std::borrow::Cow;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxRdma, LinuxResources, LinuxThrottleDevice,
};

use crate::error::{Error, Origin, Result};

#[cfg(test)]
mod tests;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The file, in the container's cgroup: `memory.max`.
    pub file: Cow<'static, str>,
    /// What is written. Each line is a write of its own.
    pub value: String,
    /// The controller that has the file: `memory`; `cgroup` for files that every cgroup has.
    pub controller: Cow<'static, str>,
    /// The field that asked for it: `linux.resources.memory.limit`.
    pub origin: Origin,
    /// What is done when it cannot be written.
    pub otherwise: Otherwise,
    /// `checkBeforeUpdate`: nothing is written at all when so many bytes of memory are in use already.
    pub unless_used: Option<u64>,
}

/// What is done when a value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Otherwise {
    /// It is an error.
    Fail,
    /// Nothing, when the file is missing: what it asks for is so without it.
    Skip,
    /// When the file is missing, this one is written.
    Use {
        /// The other file.
        file: &'static str,
        /// Its value.
        value: String,
    },
    /// When the kernel refuses the value (EINVAL), it is tried again after the next one, which it is compared with.
    Later,
}

/// The values that `linux.resources` asks for, in the order in which they are written. Devices are not among them.
///
/// # Errors
/// A value has no meaning: swap below memory, a negative limit, a file name with a slash.
pub fn writes(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut out = Vec::new();
    if let Some(pids) = resources.pids() {
        out.push(pids_max(pids));
    }
    if let Some(memory) = resources.memory() {
        memory_limits(memory, &mut out)?;
    }
    if let Some(io) = resources.block_io() {
        io_limits(io, &mut out)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_limits(cpu, &mut out);
        cpuset(cpu, &mut out);
    }
    for (i, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        hugetlb(i, limit, &mut out)?;
    }
    for (name, limit) in sorted(resources.rdma()) {
        rdma(name, limit, &mut out)?;
    }
    for (file, value) in sorted(resources.unified()) {
        out.push(unified(file, value)?);
    }
    Ok(out)
}

/// What `linux.resources` asks for and cgroup v2 does not have: to be logged, not to fail for, as runc does.
pub fn ignored(resources: &LinuxResources) -> Vec<Error> {
    let mut out = Vec::new();
    let mut ignore = |set: bool, field: &str, why: &'static str| {
        if set {
            out.push(Error::new(format!("ignored: {why}")).field(format!("linux.resources.{field}")));
        }
    };
    if let Some(memory) = resources.memory() {
        #[allow(deprecated)] // Deprecated in the specification, but still sent.
        let kernel = memory.kernel();
        ignore(kernel.unwrap_or(0) != 0, "memory.kernel", "the kernel has no limit for kernel memory any more");
        ignore(
            memory.kernel_tcp().unwrap_or(0) != 0,
            "memory.kernelTCP",
            "cgroup v2 has no limit for TCP buffers alone",
        );
        ignore(memory.swappiness().is_some(), "memory.swappiness", "cgroup v2 has no swappiness per cgroup");
        let oom = memory.disable_oom_killer().unwrap_or(false);
        ignore(
            oom,
            "memory.disableOOMKiller",
            "cgroup v2 cannot disable the OOM killer; memory.high throttles instead",
        );
        let flat = memory.use_hierarchy() == Some(false);
        ignore(flat, "memory.useHierarchy", "cgroup v2 is always hierarchical");
    }
    if let Some(cpu) = resources.cpu() {
        const REALTIME: &str = "cgroup v2 has no bandwidth for real-time processes";
        ignore(cpu.realtime_runtime().unwrap_or(0) != 0, "cpu.realtimeRuntime", REALTIME);
        ignore(cpu.realtime_period().unwrap_or(0) != 0, "cpu.realtimePeriod", REALTIME);
        ignore(is_idle(cpu) && weight(cpu) != 0, "cpu.shares", "an idle cgroup (cpu.idle) has no weight");
    }
    if let Some(io) = resources.block_io() {
        const LEAF: &str = "cgroup v2 has processes in leaves only, so it has no weight for them";
        ignore(io.leaf_weight().unwrap_or(0) != 0, "blockIO.leafWeight", LEAF);
        let devices = io.weight_device().iter().flatten();
        let leaf = devices.clone().any(|d| d.leaf_weight().unwrap_or(0) != 0);
        ignore(leaf, "blockIO.weightDevice", LEAF);
    }
    if let Some(network) = resources.network() {
        ignore(network.class_id().unwrap_or(0) != 0, "network.classID", "cgroup v2 has no net_cls controller");
        let priorities = network.priorities().iter().flatten().count();
        ignore(priorities != 0, "network.priorities", "cgroup v2 has no net_prio controller");
    }
    out
}

impl Write {
    fn new(file: impl Into<Cow<'static, str>>, value: impl ToString, field: impl Into<Cow<'static, str>>) -> Self {
        let file = file.into();
        let controller = match &file {
            Cow::Borrowed(name) => Cow::Borrowed(controller(name)),
            Cow::Owned(name) => Cow::Owned(controller(name).to_owned()),
        };
        let origin = Origin::field(field);
        Write { file, value: value.to_string(), controller, origin, otherwise: Otherwise::Fail, unless_used: None }
    }

    fn otherwise(self, otherwise: Otherwise) -> Self {
        Write { otherwise, ..self }
    }
}

/// The part of a file's name before the first dot.
fn controller(file: &str) -> &str {
    file.split_once('.').map_or(file, |(controller, _)| controller)
}

fn pids_max(pids: &LinuxPids) -> Write {
    let value = match pids.limit() {
        // A cgroup cannot hold fewer than the container's init, and systemd takes no TasksMax of 0: so runc writes 1.
        0 => "1".to_owned(),
        n if n < 0 => "max".to_owned(),
        n => n.to_string(),
    };
    Write::new("pids.max", value, "linux.resources.pids.limit")
}

const MEMORY: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";

fn memory_limits(memory: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    let limit = bytes(memory.limit(), MEMORY)?;
    let total = bytes(memory.swap(), SWAP)?;
    let check = memory.check_before_update().unwrap_or(false);
    let unless_used = |limit: i64| u64::try_from(limit).ok().filter(|&limit| check && limit > 0);

    // Swap first, as runc has it: memory.max below what is in use swaps out, for which there must be room.
    if let Some(swap) = swap_max(limit, total)? {
        // Without swap accounting (CONFIG_SWAP, swapaccount=0) there is no file, and "none" and "no limit" need none.
        let otherwise = if swap == "0" || swap == "max" { Otherwise::Skip } else { Otherwise::Fail };
        let field = if total == 0 { MEMORY } else { SWAP };
        let write = Write::new("memory.swap.max", swap, field).otherwise(otherwise);
        out.push(Write { unless_used: unless_used(total), ..write });
    }
    if limit != 0 {
        let write = Write::new("memory.max", max(limit), MEMORY);
        out.push(Write { unless_used: unless_used(limit), ..write });
    }
    const RESERVATION: &str = "linux.resources.memory.reservation";
    let reservation = bytes(memory.reservation(), RESERVATION)?;
    if reservation != 0 {
        out.push(Write::new("memory.low", max(reservation), RESERVATION));
    }
    Ok(())
}

/// memory.swap.max is for swap alone, `memory.swap` for memory and swap together.
fn swap_max(limit: i64, total: i64) -> Result<Option<String>> {
    match (limit, total) {
        // cgroup v1 had no limit on swap either, when memory had none.
        (-1, 0) => Ok(Some("max".into())),
        (_, 0) => Ok(None),
        (-1, _) | (_, -1) => Ok(Some(max(total))),
        (0, _) => Err(Error::new("unable to set swap limit without memory limit")
            .field(SWAP)
            .hint("swap is memory and swap together: set linux.resources.memory.limit too")),
        _ if total < limit => Err(Error::new(format!("memory+swap limit {total} should be >= memory limit {limit}"))
            .field(SWAP)
            .hint("swap is memory and swap together; for no swap set it to the memory limit")),
        _ => Ok(Some((total - limit).to_string())),
    }
}

/// A number of bytes; 0 is absent and -1 no limit.
fn bytes(value: Option<i64>, field: &'static str) -> Result<i64> {
    match value.unwrap_or(0) {
        n if n < -1 => Err(Error::new(format!("invalid limit: {n} bytes")).field(field).hint("-1 means no limit")),
        n => Ok(n),
    }
}

/// A number, or `max` for -1.
fn max(value: i64) -> String {
    if value == -1 { "max".into() } else { value.to_string() }
}

fn cpu_limits(cpu: &LinuxCpu, out: &mut Vec<Write>) {
    if let Some(idle) = cpu.idle() {
        let otherwise = if idle == 0 { Otherwise::Skip } else { Otherwise::Fail };
        out.push(Write::new("cpu.idle", idle, "linux.resources.cpu.idle").otherwise(otherwise));
    }
    // The kernel refuses a weight for an idle cgroup (EINVAL).
    if weight(cpu) != 0 && !is_idle(cpu) {
        out.push(Write::new("cpu.weight", weight(cpu), "linux.resources.cpu.shares"));
    }
    // The kernel refuses a burst above the quota and a quota below the burst. Burst first is right when both go down,
    // quota first when both go up.
    if let Some(burst) = cpu.burst() {
        let otherwise = if burst == 0 { Otherwise::Skip } else { Otherwise::Later };
        out.push(Write::new("cpu.max.burst", burst, "linux.resources.cpu.burst").otherwise(otherwise));
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let field = if quota != 0 { "linux.resources.cpu.quota" } else { "linux.resources.cpu.period" };
        let quota = if quota > 0 { quota.to_string() } else { "max".into() };
        // 100 ms is the kernel's default (cgroup-v2.rst, cpu.max).
        let period = if period == 0 { 100_000 } else { period };
        out.push(Write::new("cpu.max", format!("{quota} {period}"), field));
    }
}

fn is_idle(cpu: &LinuxCpu) -> bool {
    cpu.idle().unwrap_or(0) != 0
}

/// cpu.weight for `cpu.shares`, or 0 where it is absent.
///
/// Shares are 2 to 2^18 with a default of 2^10, weights 1 to 10^4 with a default of 10^2. The curve is the quadratic
/// one, in the logarithms, that meets all three: runc 1.3.2 and crun 1.23 have it (opencontainers/cgroups #20). The older
/// straight line gave 39 for the default, so that a container got less than half of what its neighbours did.
fn weight(cpu: &LinuxCpu) -> u64 {
    match cpu.shares().unwrap_or(0) {
        0 => 0,
        1..=2 => 1,
        shares if shares >= 1 << 18 => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn cpuset(cpu: &LinuxCpu, out: &mut Vec<Write>) {
    for (file, value, field) in [
        ("cpuset.cpus", cpu.cpus(), "linux.resources.cpu.cpus"),
        ("cpuset.mems", cpu.mems(), "linux.resources.cpu.mems"),
    ] {
        if let Some(list) = value.as_deref().filter(|list| !list.is_empty()) {
            out.push(Write::new(file, list, field));
        }
    }
}

fn io_limits(io: &LinuxBlockIo, out: &mut Vec<Write>) -> Result<()> {
    // The BFQ scheduler has its own file, with the range of cgroup v1; without it there is io.weight.
    if let Some(weight) = io.weight().filter(|&w| w != 0) {
        let field = "linux.resources.blockIO.weight";
        let other = io_weight(weight, field)?.to_string();
        let otherwise = Otherwise::Use { file: "io.weight", value: other };
        out.push(Write::new("io.bfq.weight", weight, field).otherwise(otherwise));
    }
    for (i, device) in io.weight_device().iter().flatten().enumerate() {
        let Some(weight) = device.weight().filter(|&w| w != 0) else { continue };
        let field = format!("linux.resources.blockIO.weightDevice[{i}]");
        let node = node(device.major(), device.minor(), &field)?;
        let other = format!("{node} {}", io_weight(weight, &field)?);
        let otherwise = Otherwise::Use { file: "io.weight", value: other };
        out.push(Write::new("io.bfq.weight", format!("{node} {weight}"), field).otherwise(otherwise));
    }
    throttle(io.throttle_read_bps_device(), "rbps", "throttleReadBpsDevice", out)?;
    throttle(io.throttle_write_bps_device(), "wbps", "throttleWriteBpsDevice", out)?;
    throttle(io.throttle_read_iops_device(), "riops", "throttleReadIOPSDevice", out)?;
    throttle(io.throttle_write_iops_device(), "wiops", "throttleWriteIOPSDevice", out)
}

/// io.weight (1 to 10000) for a weight of cgroup v1 (10 to 1000), linearly, as runc has it.
fn io_weight(weight: u16, field: &str) -> Result<u64> {
    match u64::from(weight) {
        weight @ 10..=1000 => Ok(1 + (weight - 10) * 9999 / 990),
        _ => Err(Error::new(format!("invalid weight {weight}"))
            .field(field.to_owned())
            .hint("it is between 10 and 1000")),
    }
}

fn throttle(list: &Option<Vec<LinuxThrottleDevice>>, key: &str, name: &str, out: &mut Vec<Write>) -> Result<()> {
    for (i, device) in list.iter().flatten().enumerate() {
        let field = format!("linux.resources.blockIO.{name}[{i}]");
        let node = node(device.major(), device.minor(), &field)?;
        // On cgroup v1 a rate of 0 took the limit away; io.max refuses it (ERANGE).
        let rate = if device.rate() == 0 { "max".into() } else { device.rate().to_string() };
        out.push(Write::new("io.max", format!("{node} {key}={rate}"), field));
    }
    Ok(())
}

/// A device as io.max and io.weight name it: `8:0`.
fn node(major: i64, minor: i64, field: &str) -> Result<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(Error::new(format!("invalid device number {major}:{minor}")).field(field.to_owned())),
    }
}

fn hugetlb(i: usize, limit: &LinuxHugepageLimit, out: &mut Vec<Write>) -> Result<()> {
    let field = format!("linux.resources.hugepageLimits[{i}]");
    let size = limit.page_size();
    if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let error = Error::new(format!("invalid page size {size:?}"));
        return Err(error.field(field).hint("it is like 64KB, 2MB or 1GB"));
    }
    let Ok(bytes) = u64::try_from(limit.limit()) else {
        return Err(Error::new(format!("invalid limit: {} bytes", limit.limit())).field(field));
    };
    // The second one counts pages when they are mapped and not only when they are touched, so that a process gets ENOMEM
    // and not SIGBUS.
    out.push(Write::new(format!("hugetlb.{size}.max"), bytes, field.clone()));
    out.push(Write::new(format!("hugetlb.{size}.rsvd.max"), bytes, field).otherwise(Otherwise::Skip));
    Ok(())
}

fn rdma(device: &str, limit: &LinuxRdma, out: &mut Vec<Write>) -> Result<()> {
    let field = format!("linux.resources.rdma[{device}]");
    if device.is_empty() || device.contains(char::is_whitespace) {
        return Err(Error::new("invalid name of an RDMA device").field(field));
    }
    let mut value = device.to_owned();
    for (key, count) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
        if let Some(count) = count {
            value += &format!(" {key}={count}");
        }
    }
    if value != device {
        out.push(Write::new("rdma.max", value, field));
    }
    Ok(())
}

fn unified(file: &str, value: &str) -> Result<Write> {
    let field = format!("linux.resources.unified[{file}]");
    if file.contains('/') {
        return Err(Error::new(format!("unified resource {file:?} must be a file name (no slashes)")).field(field));
    }
    if controller(file).is_empty() || controller(file) == file {
        let error = Error::new(format!("unified resource {file:?} must be in the form CONTROLLER.PARAMETER"));
        return Err(error.field(field));
    }
    Ok(Write::new(file.to_owned(), value, field))
}

/// The entries of a map by name, so that a plan is the same each time.
fn sorted<T>(map: &Option<std::collections::HashMap<String, T>>) -> Vec<(&str, &T)> {
    let mut entries: Vec<_> = map.iter().flatten().map(|(name, value)| (name.as_str(), value)).collect();
    entries.sort_by_key(|(name, _)| *name);
    entries
}
